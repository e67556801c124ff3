"""Files of examples, read as a stream of records: txt, TSV, CSV, JSONL, Parquet, CoNLL, CoNLL-U.

A record knows where it came from. A line that cannot be read is a record with an `error`, so that
the reader of the stream decides whether it stops or goes on.
"""

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, BinaryIO, TextIO

from etils import epath

from mux_jax.errors import InputError

_TABLES = (".tsv", ".csv")
_LONGEST_ROW = 10_000_000  # characters of a row of a CSV: so far a quote that is never closed is looked for
SUFFIXES = (".txt", *_TABLES, ".jsonl", ".parquet", ".conll", ".conllu")


@dataclasses.dataclass(frozen=True)
class Record:
    """A record of a file.

    Attributes:
      where: "FILE:LINE".
      fields: by column.
      error: why it cannot be read; there are no fields then.
    """

    where: str
    fields: dict[str, Any]
    error: str = ""


def read(
    path: epath.Path,
    columns: tuple[str, ...] = (),
    words: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> Iterator[Record]:
    """The records of a file, by the end of its name.

    `.txt` has a column `text`; `.conll` (a word a line, its tag last) and `.conllu` (tags from UPOS)
    have `words` and `tags`. TSV is read as GLUE writes it, without quotes.

    Args:
      columns: the names of the columns of a TSV or CSV without a header line.
      words: whether `.txt` is CoNLL, as CoNLL-2003 is named.
      on_progress: called with the fraction of the file that is read.

    Raises:
      InputError: a name that ends otherwise, a file that is not there, or empty.
    """
    _require_file(path)
    size, raw = path.stat().length, path.open("rb")
    records = _parquet(path, raw) if path.suffix == ".parquet" else _lines(path, raw, columns, words)
    with raw:
        for record in records:
            if on_progress:
                on_progress(raw.tell() / size)
            yield record


def _require_file(path: epath.Path) -> None:
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.stat().length == 0:
        raise InputError(f"{path}: empty file")


def _text(raw: BinaryIO) -> TextIO:
    """Bytes as text; those that are not UTF-8 become lone surrogates, which `_checked` finds."""
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _lines(path: epath.Path, raw: BinaryIO, columns: tuple[str, ...], words: bool) -> Iterator[Record]:
    with _text(raw) as stream:
        if path.suffix in (".conll", ".conllu") or words and path.suffix == ".txt":
            records = _sentences(path, stream)
        elif path.suffix in _TABLES:
            records = _table(path, stream, columns)
        elif path.suffix == ".jsonl":
            records = _json_lines(path, stream)
        else:
            lines = enumerate((line.rstrip("\r\n") for line in stream), start=1)
            records = (Record(f"{path}:{number}", {"text": line}) for number, line in lines)
        yield from map(_checked, records)


def column_names(path: epath.Path, columns: tuple[str, ...] = ()) -> list[str]:
    """The columns that a file has: by its header line, or as its first good record says."""
    if path.suffix in _TABLES and not columns:
        _require_file(path)
        with _text(path.open("rb")) as stream:
            rows = (row for _, row in _rows(path, stream) if isinstance(row, csv.Error) or row not in ([], [""]))
            header = next(rows, [])  # none in a file of a byte-order mark alone
        if isinstance(header, csv.Error):
            raise InputError(f"{path}:1: {header}")
        return header
    good = next((record for record in read(path, columns) if not record.error), None)
    return list(good.fields) if good else []


def find_columns(
    path: epath.Path, *candidates: tuple[str, ...], header: tuple[str, ...] = (), hint: str = ""
) -> tuple[str, ...]:
    """The first of `candidates` whose columns a file has; `header` are those of one without a header line.

    Raises:
      InputError: a file that has none of them, naming a column of the first that is missing and those that it has.
    """
    there = column_names(path, header)
    for columns in candidates:
        if all(name in there for name in columns):
            return columns
    missing = next(name for name in candidates[0] if name not in there)
    raise InputError(f"{path}: no column {missing!r}; there are: {', '.join(there) or 'none'}{hint}")


def _checked(record: Record) -> Record:
    """The record; or an error if it holds bytes that were not UTF-8."""
    for value in record.fields.values():
        text = "".join(map(str, value)) if isinstance(value, list) else value
        if isinstance(text, str) and not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            return Record(record.where, {}, "not UTF-8")
    return record


def _table(path: epath.Path, stream: TextIO, columns: tuple[str, ...]) -> Iterator[Record]:
    header = list(columns)
    for number, row in _rows(path, stream, len(header)):
        where = f"{path}:{number}"
        if isinstance(row, csv.Error):
            yield Record(where, {}, str(row))
        elif not header:
            header = row
        elif len(row) == len(header):
            yield Record(where, dict(zip(header, row)))
        elif row and row != [""]:  # an empty line is no record
            yield Record(where, {}, f"{len(row)} columns, not {len(header)}: {', '.join(header)}")


def _rows(path: epath.Path, stream: TextIO, width: int = 0) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """The rows of a table, or what is wrong with one, each with the line where it begins.

    A quote that is never closed takes no more than its own line with it: a row of several lines that has an error, is
    too long, or has not as many columns as the table (`width`, or those of the first row), ends as an error, and
    reading goes on at the line after the one where it began.
    """
    if path.suffix == ".tsv":
        for number, line in enumerate(stream, start=1):
            yield number, line.rstrip("\r\n").split("\t")
        return
    csv.field_size_limit(_LONGEST_ROW)  # whole documents may be in a field
    again: list[str] = []  # lines to read again, the last one first
    number = 1
    while True:
        lines: list[str] = []  # of this row
        reader = csv.reader(_taken(again, stream, lines), strict=True)
        row: list[str] | csv.Error
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            row = e
        if isinstance(row, list) and len(lines) > 1 and width and len(row) != width:
            row = csv.Error(f"a quote that ends in line {number + len(lines) - 1}; {len(row)} columns, not {width}")
        if isinstance(row, csv.Error) and len(lines) > 1:
            again += reversed(lines[1:])
            del lines[1:]
            row = csv.Error(f"an open quote: {row}")
        yield number, row
        if isinstance(row, list):
            width = width or len(row)
        number += len(lines)


def _taken(again: list[str], stream: TextIO, lines: list[str]) -> Iterator[str]:
    """The next lines, those of `again` first, until a row is too long. They are put into `lines`, too."""
    size = 0
    while line := again.pop() if again else stream.readline():
        lines.append(line)
        size += len(line)
        if size > _LONGEST_ROW:
            raise csv.Error(f"longer than {_LONGEST_ROW:,} characters")
        yield line


def _json_lines(path: epath.Path, stream: TextIO) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as e:
            yield Record(f"{path}:{number}", {}, f"not JSON: {e}")
            continue
        if isinstance(record, dict):
            yield Record(f"{path}:{number}", record)
        else:
            yield Record(f"{path}:{number}", {}, "not a JSON object")


def import_pyarrow(path: Any) -> ModuleType:
    """`pyarrow`, with `pyarrow.parquet`; `InputError` with the name of the file that needs it if it is not there."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise InputError(f"{path}: Parquet needs pyarrow: pip install 'mux_jax[parquet]'") from e
    return pyarrow


def _parquet(path: epath.Path, raw: BinaryIO) -> Iterator[Record]:
    pyarrow = import_pyarrow(path)
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(raw).iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                number += 1
                yield Record(f"{path}:{number}", fields)
    except pyarrow.ArrowException as e:
        raise InputError(f"{path}: cannot be read: {e}") from e


def _sentences(path: epath.Path, stream: TextIO) -> Iterator[Record]:
    """Sentences of CoNLL files, which lines without a word separate."""
    words: list[str] = []
    tags: list[str] = []
    error, first = "", 0
    for number, line in enumerate(itertools.chain(stream, [""]), start=1):
        fields = line.split("\t") if "\t" in line.strip() else line.split()
        fields = [field.strip() for field in fields]
        if not line.strip() or fields[0] == "-DOCSTART-":
            if words or error:
                yield Record(f"{path}:{first}", {} if error else {"words": words, "tags": tags}, error)
            words, tags, error = [], [], ""
            continue
        if path.suffix == ".conllu":
            if line.startswith("#") or not fields[0].isdigit():
                continue  # comments, words in several parts, empty nodes
            columns, (word, label) = 10, (1, 3)
        else:
            columns, (word, label) = 2, (0, -1)
        first = first if words else number
        if len(fields) < columns or not fields[word] or not fields[label]:
            error = error or f"line {number} has no word and tag in {len(fields)} columns; {columns} or more are needed"
        else:
            words.append(fields[word])
            tags.append(fields[label])
