"""Files and folders that are whole or absent."""

import contextlib
import os
import secrets
from collections.abc import Iterator

import fsspec
from etils import epath

from mux_jax.errors import InputError
from mux_jax.interrupts import undone


@contextlib.contextmanager
def whole_or_absent(path: epath.Path, folder: epath.Path | None = None) -> Iterator[epath.Path]:
    """Yields another name, free and of the same suffix, whose file or folder gets the name `path` at the end.

    Until then nothing that has the name is touched; then it is replaced. On any failure what was written is removed.

    Args:
      folder: where the other name is, on the same disk; default: the folder of `path`.
    """
    temporary = (folder or path.parent) / f"{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.partial{path.suffix}"
    before = path.parent / f"{temporary.name}.replaced"

    renaming = False

    def undo() -> None:
        if renaming:
            remove(path)  # in an object store half of it, perhaps
        if before.exists() and not path.exists():
            before.rename(path)
        remove(temporary)

    with undone(undo):
        try:
            yield temporary
            if temporary.is_dir():
                if path.exists():
                    path.rename(before)  # a folder is not renamed over another one
                renaming = True
                temporary.rename(path)
                renaming = False
            else:
                _rename(temporary, path)
        except BaseException:
            undo()
            raise
    remove(before)


def _rename(file: epath.Path, path: epath.Path) -> None:
    """A file gets the name `path`, in place of what has it. In an object store folders need not be there for that."""
    if "://" not in str(path):
        file.replace(path)
        return
    system, source = fsspec.core.url_to_fs(str(file))
    system.mv(source, fsspec.core.url_to_fs(str(path))[1])


def write_atomically(path: epath.Path, text: str, folder: epath.Path | None = None) -> None:
    """Writes a file, whole or not at all: a reader sees the old file or the new one. `folder`: as above."""
    with whole_or_absent(path, folder) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove(path: epath.Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        path.rmtree(missing_ok=True)
    else:
        path.unlink(missing_ok=True)


def check_fetched(file: epath.Path) -> None:
    """Raises `InputError` if a file is a pointer of Git LFS, which a clone without it has in the file's place."""
    pointer = b"version https://git-lfs.github.com/spec/"
    with file.open("rb") as f:
        if f.read(len(pointer)) == pointer:
            raise InputError(f"{file}: only a pointer of Git LFS; `git lfs pull` in its folder fetches the file")
