"""Files of examples, read as a stream of records: txt, TSV, CSV, JSONL, Parquet, CoNLL, CoNLL-U.

A record knows where it came from. A line that cannot be read is a record with an `error`, so that
the reader of the stream decides whether it stops or goes on.
"""

import csv
import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from types import ModuleType
from typing import Any, BinaryIO, TextIO

from etils import epath

from mux_jax.data import conll
from mux_jax.data.encoding import Text
from mux_jax.data.lines import decoded, find_fault, objects
from mux_jax.errors import InputError

TABLES = {".tsv": "\t", ".csv": ","}  # and their delimiters, unless others are given
_EMPTY: tuple[list[str], ...] = ([], [""])  # rows that are empty lines, no records
_LONGEST_ROW = 10_000_000  # characters of a row of a CSV: so far a quote that is never closed is looked for
SUFFIXES = (".txt", *TABLES, ".jsonl", ".parquet", ".conll", ".conllu")


@dataclasses.dataclass(frozen=True)
class Record:
    """A record of a file.

    Attributes:
      where: "FILE:LINE".
      fields: by column.
      error: why it cannot be read; what could be is in the fields.
    """

    where: str
    fields: dict[str, Any]
    error: str = ""


def read(
    path: epath.Path,
    columns: tuple[str, ...] = (),
    words: bool = False,
    on_progress: Callable[[float], None] | None = None,
    *,
    delimiter: str = "",
    labels: Collection[str] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    used: Collection[str] | None = None,
) -> Iterator[Record]:
    """The records of a file, by the end of its name.

    `.txt` has a column `text`; `.conll` (a word a line, its tag last) and `.conllu` (tags from UPOS)
    have `words` and `tags`. TSV is read as GLUE writes it, without quotes.

    Args:
      columns: the names of the columns of a TSV or CSV without a header line.
      words: whether `.txt` is CoNLL, as CoNLL-2003 is named.
      on_progress: called with the fraction of the file that is read.
      delimiter: of a TSV or CSV, if it is not a tab or a comma.
      labels: with `words`, of a model that predicts tags: `.txt` may then have a sentence a line, too (see `conll`).
      on_note: called with what a person should know, such as how many comments were left out.
      used: the columns whose text must be text, if not all.

    Raises:
      InputError: a name that ends otherwise; a file that is not there, empty, UTF-16, or has two columns of one name.
    """
    _require_file(path, delimiter)
    size, raw = path.stat().length, path.open("rb")
    if path.suffix == ".parquet":
        records = _parquet(path, raw)
    else:
        records = (_checked(r, used) for r in _lines(path, raw, columns, words, delimiter, labels, on_note))
    with raw:
        for record in records:
            if on_progress:
                on_progress(raw.tell() / size)
            yield record


def _require_file(path: epath.Path, delimiter: str = "") -> None:
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
    if delimiter and path.suffix not in TABLES:
        raise InputError(f"{path} has no delimiter {delimiter!r}; files in {', '.join(TABLES)} have")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.stat().length == 0:
        raise InputError(f"{path}: empty file")


def parse_delimiter(given: str, name: str) -> str:
    """A delimiter as a person gives it, a character or the word tab; empty if none is given.

    Raises:
      InputError: it cannot be one; `name` is how the person knows it.
    """
    delimiter = "\t" if given == "tab" else given
    if len(delimiter) > 1 or delimiter in ('"', "\n", "\r"):
        raise InputError(f"{name}={given!r} cannot be a delimiter; give one character, such as ';', or the word tab")
    return delimiter


def column_names(path: epath.Path, columns: tuple[str, ...] = (), delimiter: str = "") -> list[str]:
    """The columns that a file has: by its header line or its schema, or as its first good record says."""
    if path.suffix == ".parquet":
        _require_file(path)
        with path.open("rb") as raw:
            return _parquet_names(path, raw)
    if path.suffix in TABLES and not columns:
        _require_file(path)
        with path.open("rb") as raw, decoded(path, raw) as stream:
            rows = ((number, row) for number, row in _rows(path, stream, delimiter=delimiter) if row not in _EMPTY)
            number, header = next(rows, (1, []))
        if isinstance(header, csv.Error):
            raise InputError(f"{path}:{number}: {header}")
        return header
    good = next((record for record in read(path, columns, delimiter=delimiter, used=()) if not record.error), None)
    return list(good.fields) if good else []


def find_columns(
    path: epath.Path, *candidates: tuple[str, ...], header: tuple[str, ...] = (), hint: str = "", delimiter: str = ""
) -> tuple[str, ...]:
    """The first of `candidates` whose columns a file has; `header` are those of one without a header line.

    Raises:
      InputError: a file that has none of them, naming a column of the first that is missing and those that it has; one
        with two columns of one name, or in which nothing can be read.
    """
    there = column_names(path, header, delimiter)
    if path.suffix in TABLES:
        check_names(path, there)
    for columns in candidates:
        if all(name in there for name in columns):
            return columns
    if not there and (bad := next(read(path, header, delimiter=delimiter), None)):  # as all records are
        raise InputError(f"{bad.where}: {bad.error}")
    missing = next(name for name in candidates[0] if name not in there)
    if len(there) == 1 and path.suffix in TABLES and (other := next((d for d in "\t;|," if d in there[0]), "")):
        shown = "tab" if other == "\t" else repr(other)
        hint = f"; if the delimiter is {shown}: --delimiter={shown}, or data.delimiter of a task{hint}"
    raise InputError(f"{path}: no column {missing!r}; there are: {quoted(there)}{hint}")


def quoted(names: Sequence[str]) -> str:
    """Names of columns as a message shows them: the blanks in them are seen."""
    return ", ".join(map(repr, names)) or "none"


def check_names(where: object, names: Sequence[str]) -> None:
    """Raises `InputError` if two columns have one name; without a name, as those that Excel adds, there may be many.

    So it does if a name is not UTF-8.
    """
    if fault := find_fault("".join(names)):
        raise InputError(f"{where}: {fault}")
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{where}: two columns are called {twice!r}")


def to_text(record: Record, columns: tuple[str, ...], words: bool) -> Text:
    """The text in the columns of a record, or the texts; with `words` the list of words that may be there.

    Raises:
      InputError: a line that cannot be read, a value that is no text.
    """
    if record.error:
        raise InputError(f"{record.where}: {record.error}")
    values: list[Any] = []
    for name in columns:
        value = record.fields.get(name)
        for part in value if words and isinstance(value, list) else [value]:
            if not isinstance(part, str):
                raise InputError(f"{record.where}: no text in column {name!r}, but {part!r}")
        values.append(value)
    return values[0] if len(values) == 1 else tuple(values)


def _checked(record: Record, used: Collection[str] | None) -> Record:
    """The record, with an error and without the values that are no text, if columns that are `used` have such."""
    checked = record.fields if used is None else [name for name in used if name in record.fields]
    faults = {name: fault for name in checked if (fault := find_fault(record.fields[name]))}
    if not faults:
        return record
    fields = {name: value for name, value in record.fields.items() if name not in faults}
    return Record(record.where, fields, next(iter(faults.values())))


def _lines(
    path: epath.Path,
    raw: BinaryIO,
    columns: tuple[str, ...],
    words: bool,
    delimiter: str,
    labels: Collection[str] | None,
    on_note: Callable[[str], None],
) -> Iterator[Record]:
    with decoded(path, raw) as stream:
        if path.suffix in TABLES:
            yield from _table(path, stream, columns, delimiter)
            return
        if path.suffix == ".jsonl":
            found = objects(stream)
        elif path.suffix == ".conllu":
            found = conll.universal_sentences(stream)
        elif path.suffix == ".conll" or words:
            labels = labels if path.suffix == ".txt" else None
            found = conll.sentences(stream, labels, lambda text: on_note(f"{path}: {text}"))
        else:
            found = ((number, {"text": line.rstrip("\r\n")}, "") for number, line in enumerate(stream, start=1))
        for number, fields, error in found:
            yield Record(f"{path}:{number}", fields, error)


def _table(path: epath.Path, stream: TextIO, columns: tuple[str, ...], delimiter: str) -> Iterator[Record]:
    header = list(columns)
    for number, row in _rows(path, stream, len(header), delimiter):
        where = f"{path}:{number}"
        if isinstance(row, csv.Error):
            yield Record(where, {}, str(row))
        elif not header:
            header = [] if row in _EMPTY else row
            check_names(where, header)
        elif len(row) == len(header):
            yield Record(where, dict(zip(header, row)))
        elif row not in _EMPTY:
            yield Record(where, {}, f"{len(row)} columns, not {len(header)}: {quoted(header)}")


def _rows(
    path: epath.Path, stream: TextIO, width: int = 0, delimiter: str = ""
) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """The rows of a table, or what is wrong with one, each with the line where it begins.

    A quote that is never closed takes no more than its own line with it: a row of several lines that has an error, is
    too long, or has not as many columns as the table (`width`, or those of the first row), ends as an error, and
    reading goes on at the line after the one where it began.
    """
    delimiter = delimiter or TABLES[path.suffix]
    if path.suffix == ".tsv":
        for number, line in enumerate(stream, start=1):
            yield number, line.rstrip("\r\n").split(delimiter)
        return
    csv.field_size_limit(_LONGEST_ROW)  # whole documents may be in a field
    again: list[str] = []  # lines to read again, the last one first
    number = 1
    while True:
        lines: list[str] = []  # of this row
        reader = csv.reader(_taken(again, stream, lines), delimiter=delimiter, strict=True)
        row: list[str] | csv.Error
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            row = csv.Error("a carriage return outside of quotes") if "new-line" in str(e) else e
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


def import_pyarrow(path: Any) -> ModuleType:
    """`pyarrow`, with `pyarrow.parquet`; `InputError` with the name of the file that needs it if it is not there."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise InputError(f"{path}: Parquet needs pyarrow: pip install 'mux_jax[parquet]'") from e
    return pyarrow


def _parquet_names(path: epath.Path, raw: BinaryIO) -> list[str]:
    pyarrow = import_pyarrow(path)
    try:
        return pyarrow.parquet.read_schema(raw).names
    except pyarrow.ArrowException as e:
        raise InputError(f"{path}: cannot be read: {e}") from e


def _parquet(path: epath.Path, raw: BinaryIO) -> Iterator[Record]:
    pyarrow = import_pyarrow(path)
    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(raw)
        check_names(path, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                number += 1
                yield Record(f"{path}:{number}", fields)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise  # of the disk, not of what is on it
        raise InputError(f"{path}:{number + 1}: cannot be read from there on: {e}") from e
