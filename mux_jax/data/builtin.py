"""Tasks that need no download: real labels, taken from the Python installation.

Files are parsed, never executed. What there is depends on the installed versions; the split is by a
hash of the text.
"""

import builtins
import hashlib
import importlib.util
import io
import keyword
import os
import sysconfig
import tokenize
from collections.abc import Iterator

from mux_jax.data.pydocs import docstrings as read_docstrings

# Installed with mux_jax, so always there.
_PACKAGES = ("jax", "flax", "numpy", "scipy", "sklearn", "matplotlib", "optax", "orbax")
_FILES = 120  # of each package
_DOCSTRINGS = 600  # of each package
_LINES = 6_000
_KINDS = {
    tokenize.NUMBER: "number",
    tokenize.STRING: "string",
    tokenize.OP: "operator",
    tokenize.COMMENT: "comment",
}

Splits = dict[str, list[tuple]]


def docstrings() -> Splits:
    """Sequence classification: which package is a docstring from? (text, package, file)"""
    splits: Splits = {"train": [], "dev": []}
    seen: set[str] = set()
    for package in _PACKAGES:
        count = 0
        for path in [path for root in _folders(package) for path in _python_files(root)][:_FILES]:
            for text in read_docstrings(path):
                if text not in seen and count < _DOCSTRINGS:
                    seen.add(text)
                    count += 1
                    splits[_split(text)].append((text, package, path))
    return splits


def _folders(package: str) -> list[str]:
    """Where a package is installed, for all users, for this one or beside this project."""
    found = importlib.util.find_spec(package)
    return sorted(found.submodule_search_locations or ()) if found else []


def code_lines() -> Splits:
    """Token classification: what is each token of a line of code? (tokens, kinds, file:line)"""
    splits: Splits = {"train": [], "dev": []}
    seen: set[str] = set()
    for path in _python_files(sysconfig.get_paths()["stdlib"]):
        for words, kinds, line in _lines(path):
            text = " ".join(words)
            if text not in seen:
                seen.add(text)
                splits[_split(text)].append((words, kinds, f"{path}:{line}"))
        if len(seen) >= _LINES:
            break
    return splits


def _lines(path: str) -> Iterator[tuple[list[str], list[str], int]]:
    """The lines of 3 to 30 tokens, none of them long, with what each token is."""
    words: list[str] = []
    kinds: list[str] = []
    with open(path, "rb") as f:
        text = f.read()
    try:
        for token in tokenize.tokenize(io.BytesIO(text).readline):
            if token.type in (tokenize.NEWLINE, tokenize.NL):
                if 3 <= len(words) <= 30 and all(len(word) <= 30 and "\n" not in word for word in words):
                    yield words, kinds, token.start[0]
                words, kinds = [], []
            elif token.type == tokenize.NAME:
                known = "keyword" if keyword.iskeyword(token.string) else "name"
                words.append(token.string)
                kinds.append("builtin" if hasattr(builtins, token.string) and known == "name" else known)
            elif token.type in _KINDS:
                words.append(token.string)
                kinds.append(_KINDS[token.type])
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError):
        return  # samples that are broken on purpose


def _python_files(root: str) -> list[str]:
    """The Python files under a folder, tests and installed packages aside, in an order that mixes them."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in ("test", "tests", "site-packages", "idlelib", "__pycache__")]
        found += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    return sorted(found, key=lambda path: _digest(os.path.relpath(path, root)))


def _split(text: str) -> str:
    return "dev" if _digest(text)[-1] < 26 else "train"  # a tenth; packing holds texts out by the first byte


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
