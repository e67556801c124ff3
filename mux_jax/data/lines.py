"""Lines of text files: UTF-8, with or without a byte-order mark.

A line ends with a line feed and the carriage returns before it, as the specifications of JSON Lines, CoNLL-U, TSV and
CSV have it. A carriage return elsewhere ends no line: it is a character of the text.
"""

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TextIO

from etils import epath

from mux_jax.errors import InputError

_HEAD = 65_536  # bytes that tell what a file is not


def buffered(path: epath.Path, raw: Any) -> io.BufferedReader:
    """The bytes of an open file, to be read as lines.

    Raises:
      InputError: UTF-16, or lines that end with carriage returns alone.
    """
    stream = io.BufferedReader(raw, _HEAD)
    head = stream.peek()
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head[:4]:
        raise InputError(f"{path}: UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 FILE")
    if b"\r" in head.rstrip(b"\r") and b"\n" not in head:
        raise InputError(f"{path}: carriage returns and no line feed, which ends a line; convert it: tr '\\r' '\\n'")
    return stream


def decoded(path: epath.Path, raw: BinaryIO) -> TextIO:
    """A file's text; bytes that are not UTF-8 become what `find_fault` finds. Raises `InputError` as `buffered`."""
    return io.TextIOWrapper(buffered(path, raw), encoding="utf-8-sig", errors="surrogateescape", newline="\n")


def find_fault(value: Any) -> str:
    """What is wrong with a text, or a value of JSON, that holds lone surrogates; nothing if it holds none."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
    if not isinstance(text, str):
        return ""
    found = "" if text.isascii() else next((c for c in text if "\ud800" <= c <= "\udfff"), "")
    if "\udc80" <= found <= "\udcff":  # made of a byte
        return "not UTF-8; convert the file, as by: iconv -f CP1252 -t UTF-8 FILE"
    return found and "half of a surrogate pair"


def objects(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any], str]]:
    """The objects of lines of JSON with the numbers of the lines; of one that is none, what it is instead."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                fields, error = _parse(line), ""
            except ValueError as e:
                fields, error = {}, str(e)
            yield number, fields, error


def _parse(line: str) -> dict[str, Any]:
    if line.lstrip()[:1] == "[":
        raise ValueError("not JSON lines but a JSON array; write each object on a line: jq -c '.[]' FILE")
    try:
        record = json.loads(line, object_pairs_hook=_unique)
    except (json.JSONDecodeError, RecursionError) as e:
        raise ValueError(f"not JSON: {e}") from e
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name in found if [name for name, _ in pairs].count(name) > 1)
        raise ValueError(f"two fields are called {twice!r}")
    return found
