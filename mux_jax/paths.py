"""Paths as users write them."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import fsspec
from etils import epath

from mux_jax.errors import InputError

# What another process writes to an object store is seen at once, and a file that it has written anew is read whole.
for _protocol in ("gs", "gcs", "s3", "az", "abfs"):
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)


def is_storage_error(error: Exception) -> bool:
    """Whether a disk or an object store has failed; the clients of the latter have errors of their own."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "google")


class LiteralPath(type(epath.Path("."))):  # type: ignore[misc]
    """A path whose own [, ], * and ? are no patterns, for Orbax and others that look for files below it.

    etils globs under the path as it stands. In a folder called `[work]` Orbax finds none of what it has written, and
    says nothing.
    """

    def glob(self, pattern: str) -> Iterator[Self]:
        for found in epath.Path(glob.escape(os.fspath(self))).glob(pattern):
            yield type(self)(found)


def absolute(path: str | epath.Path) -> epath.Path:
    """`~` and what is relative made absolute; gs://... is (and etils would take it for a local folder)."""
    found = LiteralPath(path).expanduser()
    return found if "://" in str(path) else found.resolve()


def packaged(folder: str) -> Path:
    """The folder `configs` or `launch`: of the package where it was installed from a wheel, else beside it."""
    package = Path(__file__).parent
    return package / folder if (package / folder).is_dir() else package.parent / folder


def find_files(patterns: str | Sequence[str]) -> list[epath.Path]:
    """The files that globs match, sorted by glob; ** matches any number of folders.

    Args:
      patterns: globs: a list, or a text with commas between them. What is the name of a file, whatever is in it, means
        that file; so does the whole text.

    Raises:
      InputError: a glob without a file.
    """
    files = []
    for pattern in split_patterns(patterns):
        found = _file(pattern) or _glob(pattern)
        if not found:
            raise InputError(f"no file matches {pattern!r}")
        files += found
    return files


def split_patterns(patterns: str | Sequence[str]) -> list[str]:
    """The globs that `find_files` is given, one by one."""
    if not isinstance(patterns, str):
        return list(patterns)
    return [patterns] if _file(patterns) else [pattern.strip(" ") for pattern in patterns.split(",")]


def is_file(pattern: str) -> bool:
    """Whether what `find_files` is given is the name of a file, and no glob."""
    return bool(_file(pattern))


def fixed_part(pattern: str) -> str:
    """The folder below which a glob matches: of `in/2024-*/a.txt` it is `in`. Of the name of a file its folder."""
    parts = pattern.split("/")
    first = len(parts) - 1
    if not _file(pattern):
        first = next((i for i, part in enumerate(parts[:-1]) if re.search(r"[*?[]", part)), first)
    return "/".join(parts[:first]) or ("/" if pattern.startswith("/") else ".")


def file_version(path: str | epath.Path) -> dict[str, str | int]:
    """What tells a file from what it was or will be: its `size` in bytes, and its `version`.

    That is the generation in Google's store, the ETag in others, on a disk the time when it was written.
    """
    system, name = fsspec.core.url_to_fs(os.fspath(path))
    info = system.info(name)
    version = next((info[key] for key in ("generation", "ETag", "etag", "mtime") if info.get(key) is not None), "")
    return {"size": int(info["size"]), "version": str(version)}


def _file(name: str) -> list[epath.Path]:
    """The file of this name, in which no character has a meaning; none if there is none."""
    if re.match(r"\w+://", name):
        system, path = fsspec.core.url_to_fs(name)
        return [epath.Path(name)] if system.isfile(path) else []
    name = os.path.expanduser(name)
    return [epath.Path(name)] if os.path.isfile(name) else []


def _glob(pattern: str) -> list[epath.Path]:
    """The files that match, sorted."""
    if "://" not in pattern:
        found = glob.glob(os.path.expanduser(pattern), recursive=True)
        return [epath.Path(path) for path in sorted(found) if not os.path.isdir(path)]
    system, path = fsspec.core.url_to_fs(pattern)
    entries = system.glob(path, detail=True)
    return [epath.Path(system.unstrip_protocol(p)) for p in sorted(entries) if entries[p]["type"] == "file"]
