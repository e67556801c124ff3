"""The embedded English corpus: the documentation that a Python installation carries.

Docstrings of the standard library and of the installed packages, and `pydoc_data.topics`. Files
are parsed with `ast`; nothing of theirs is imported or executed.
"""

import ast
import functools
import hashlib
import multiprocessing
import os
import site
import sysconfig
import unicodedata
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from mux_jax.interrupts import leave_to_parent

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SKIPPED_FOLDERS = {"test", "tests", "idlelib", "__pycache__"}
_SHORTEST = 40  # characters; shorter docstrings are rarely sentences


def normalise(text: str) -> str:
    """Unicode NFC, one space between words, one line a paragraph."""
    paragraphs = unicodedata.normalize("NFC", text).split("\n\n")
    return "\n".join(line for p in paragraphs if (line := " ".join(p.split())))


def docstrings(path: str) -> list[str]:
    """The normalised docstrings of one Python file, in order; of `topics.py`, its topics."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the files' own invalid escapes and the like
            tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return []  # templates, other languages' dialects, deliberately broken samples
    if path.endswith(os.path.join("pydoc_data", "topics.py")):
        found = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    else:
        found = [ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, _DOCUMENTED)]
    texts = (normalise(text.encode("utf-8", "ignore").decode()) for text in found)
    return [text for text in texts if len(text) >= _SHORTEST]


class PythonDocs:
    """A source of documents (see `sources`): a document is what one file documents."""

    name = "pydocs"

    def __init__(self) -> None:
        self._documents: list[str] | None = None  # once they were read

    @functools.cached_property
    def _files(self) -> list[tuple[str, int, int]]:
        """(path, size, time of change) of every Python file of the installation, in a stable order."""
        paths = sysconfig.get_paths()
        own = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []  # of `pip install --user`
        files = {}
        for root in (paths["stdlib"], paths["purelib"], paths["platlib"], *own):
            for folder, folders, names in os.walk(root):
                folders[:] = sorted(
                    f for f in folders
                    if f not in _SKIPPED_FOLDERS and not (root == paths["stdlib"] and f == "site-packages")
                )  # fmt: skip
                for name in names:
                    path = os.path.join(folder, name)
                    if name.endswith(".py") and os.path.isfile(path):
                        found = os.stat(path)
                        files[path] = found.st_size, found.st_mtime_ns
        return sorted((path, *found) for path, found in files.items())

    def fingerprint(self) -> str:
        return hashlib.blake2b(repr(self._files).encode(), digest_size=16).hexdigest()

    def documents(self) -> Iterator[tuple[str, float]]:
        if self._documents is None:
            yield from self._read()
        else:
            yield from ((text, (i + 1) / len(self._documents)) for i, text in enumerate(self._documents))

    def _read(self) -> Iterator[tuple[str, float]]:
        """Parses the files on all cores; drops docstrings that were seen before."""
        kept, seen = [], set()
        paths = [path for path, *_ in self._files]
        # Not forked: the caller may have started threads (JAX does).
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(mp_context=context, initializer=leave_to_parent)
        try:
            for i, texts in enumerate(pool.map(docstrings, paths, chunksize=64)):
                new = []
                for text in texts:
                    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                    if digest not in seen:
                        seen.add(digest)
                        new.append(text)
                if new:
                    kept.append("\n".join(new))
                    yield kept[-1], (i + 1) / len(paths)
        finally:
            pool.shutdown(cancel_futures=True)
        self._documents = kept
