"""Predictions from file to file, in bounded memory: a row of output for each record of input."""

import contextlib
import csv
import functools
import io
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from mux_jax import locks
from mux_jax.data import formats
from mux_jax.data.encoding import split_words
from mux_jax.errors import InputError
from mux_jax.files import whole_or_absent
from mux_jax.inference.predictor import Predictor
from mux_jax.paths import absolute
from mux_jax.progress import progress, say

OUTPUTS = (".jsonl", ".tsv", ".parquet")
_WINDOW, _WINDOW_CHARACTERS = 16_384, 32_000_000  # records, and characters, held at once, among which rows are composed
_COLUMNS = {"label", "probabilities", "score", "words", "tags", "error"}  # of what is written here
_SHOWN_ERRORS = 5


def check_output(path: str, texts: str, overwrite: bool) -> epath.Path:
    """The path to write.

    Raises:
      InputError: a name with an unknown end, or that needs what is not installed; no such folder; a file that exists
        and is not to be replaced, is what is read, or was not written here.
    """
    output = absolute(path)
    if output.suffix not in OUTPUTS:
        raise InputError(f"{output}: the name must end in {', '.join(OUTPUTS)}")
    if output == absolute(texts):
        raise InputError(f"{output} is the file to read; choose another output")
    if output.exists() and not overwrite:
        raise InputError(f"{output} exists; --overwrite replaces it")
    if "://" not in str(output) and not output.parent.is_dir():  # object stores have no folders
        raise InputError(f"{output.parent}: no such folder")
    if output.suffix == ".parquet":
        formats.import_pyarrow(output)
    if output.exists():
        found = {} if output.is_dir() else set(formats.column_names(output)) if output.stat().length else _COLUMNS
        if not found or not all(name in _COLUMNS or name.startswith("probability_") for name in found):
            raise InputError(
                f"{output} holds no predictions; --overwrite replaces only what predictions were written to"
            )
    return output


def check_input(
    path: str, columns: tuple[str, ...], wanted: tuple[str, ...], delimiter: str = ""
) -> tuple[epath.Path, tuple[str, ...]]:
    """The file to read and the columns of its texts: those `wanted`, or else those of the model, or `text`.

    Raises:
      InputError: no such file, an empty one, or one without these columns, with those that it has.
    """
    source = absolute(path)
    candidates = [wanted] if wanted else [columns, ("text",)]
    hint = "; --text_columns names the columns of the text"
    return source, formats.find_columns(source, *candidates, hint=hint, delimiter=delimiter)


def predict_file(
    predictor: Predictor,
    source: epath.Path,
    columns: tuple[str, ...],
    output: epath.Path,
    max_errors: float = 0.0,
    overwrite: bool = False,
    delimiter: str = "",
) -> dict[str, int]:
    """Writes a prediction for each record of `source`, in its order; the file appears when it is whole.

    All records are read twice: they are checked before the first one is predicted on.

    Args:
      delimiter: of a TSV or CSV, if it is not a tab or a comma.
      max_errors: the part of the records that may be bad. Each of them becomes a row with `error` and nothing else.
      overwrite: whether `output` may exist.

    Returns:
      The numbers of `rows` and `errors`.

    Raises:
      InputError: more bad records, by file and line; `output` is being written by another process.
    """
    with locks.hold(output.parent / f".{output.name}.lock", str(output)) as lock:
        if output.exists() and not overwrite:  # by now
            raise InputError(f"{output} exists; --overwrite replaces it")
        words = predictor.config.head == "token"
        if words and source.suffix == ".txt":
            columns = ("words",)
        read = functools.partial(
            formats.read, source, words=words, delimiter=delimiter, labels=predictor.config.labels, used=columns
        )
        counts = _check_records(predictor, source, read, columns, max_errors)
        done, start = 0, time.monotonic()
        records = read()
        with whole_or_absent(output) as partial:
            with progress("predicting") as report, _writer(partial, predictor) as write:
                for window in _windows(records):

                    def show(fraction: float) -> None:
                        rows = done + round(fraction * len(window))  # noqa: B023  # called before the next window
                        rate = rows / (time.monotonic() - start)
                        report(rows / counts["rows"], f"{rows:,} rows, {rate:,.0f} rows/s")

                    write(_predict(predictor, window, columns, show))
                    done += len(window)
            if done != counts["rows"]:
                raise InputError(f"{source} changed while it was read: {counts['rows']:,} records, then {done:,}")
            lock.check()
    return counts


def _windows(records: Iterable[formats.Record]) -> Iterator[list[formats.Record]]:
    """The records in lists of bounded size, whatever their number and length."""
    window: list[formats.Record] = []
    characters = 0
    for record in records:
        window.append(record)
        characters += sum(len(str(value)) for value in record.fields.values())
        if len(window) == _WINDOW or characters >= _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _check_records(
    predictor: Predictor,
    source: epath.Path,
    read: Callable[..., Iterator[formats.Record]],
    columns: tuple[str, ...],
    max_errors: float,
) -> dict[str, int]:
    """Reads all records; the numbers of `rows` and `errors`. The first bad ones are printed."""
    counts = {"rows": 0, "errors": 0}
    with progress("checking") as report:

        def show(fraction: float) -> None:
            report(fraction, f"{counts['rows']:,} rows")

        for record in read(on_progress=show, on_note=say):
            counts["rows"] += 1
            _, error = _text(predictor, record, columns)
            if error and not max_errors:
                raise InputError(f"{record.where}: {error}")
            if error:
                counts["errors"] += 1
                if counts["errors"] <= _SHOWN_ERRORS:
                    say(f"{record.where}: {error}")
    part = counts["errors"] / max(1, counts["rows"])
    if part > max_errors:
        raise InputError(
            f"{source}: {counts['errors']:,} of {counts['rows']:,} records are bad, {part:.1%}; "
            f"--max_errors={max_errors} allows {max_errors:.1%}. Nothing was written"
        )
    return counts


def _text(predictor: Predictor, record: formats.Record, columns: tuple[str, ...]) -> tuple[Any, str]:
    """The text of a record, or why there is none."""
    words = predictor.config.head == "token"
    try:
        text: Any = formats.to_text(record, columns, words=words)
    except InputError as e:
        return None, str(e).removeprefix(f"{record.where}: ")
    if words and isinstance(text, str):
        text = split_words(text)
    return text, predictor.problem(text)


def _predict(
    predictor: Predictor, records: list[formats.Record], columns: tuple[str, ...], show: Callable[[float], None]
) -> list[dict[str, Any]]:
    """Predictions or errors, in the order of the records."""
    rows: list[dict[str, Any]] = [{} for _ in records]
    texts: list[Any] = []
    places: list[int] = []
    for i, record in enumerate(records):
        text, error = _text(predictor, record, columns)
        if error:
            rows[i] = {"error": f"{record.where}: {error}"}
        else:
            texts.append(text)
            places.append(i)
    for i, prediction in zip(places, predictor.predict(texts, show)):
        rows[i] = prediction
    return rows


@contextlib.contextmanager
def _writer(path: epath.Path, predictor: Predictor) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Yields a function that appends rows to a file, by the end of its name."""
    labels, words = predictor.config.labels, predictor.config.head == "token"
    if words:
        names = ["words", "tags", "error"]
    elif len(labels) == 1:
        names = ["score", "error"]
    else:
        names = ["label", *(f"probability_{label}" for label in labels), "error"]

    def flat(row: dict[str, Any]) -> dict[str, Any]:
        row = dict(row)
        for label, probability in row.pop("probabilities", {}).items():
            row[f"probability_{label}"] = probability
        return row

    if path.suffix == ".parquet":
        pyarrow = formats.import_pyarrow(path)
        kinds = {"label": pyarrow.string(), "error": pyarrow.string()}
        kinds |= dict.fromkeys(("words", "tags"), pyarrow.list_(pyarrow.string()))
        schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in names])
        with path.open("wb") as f, pyarrow.parquet.ParquetWriter(f, schema) as table:
            yield lambda rows: table.write_table(pyarrow.Table.from_pylist([flat(row) for row in rows], schema))
        return
    with path.open("wb") as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as f:
        if path.suffix == ".jsonl":
            yield lambda rows: f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        # Read back as it is written, without quotes: tabs and ends of lines in a value become spaces.
        table = csv.writer(f, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        table.writerow([_cell(name) for name in names])

        def write(rows: list[dict[str, Any]]) -> None:
            for row in map(flat, rows):
                table.writerow([_cell(row.get(name)) for name in names])

        yield write


def _cell(value: Any) -> str:
    """A value in a TSV: words with spaces between them, `_` for one that is missing or blank; nothing for None."""
    if isinstance(value, list):
        value = " ".join("_".join(split_words(word or "")) or "_" for word in value)
    return "" if value is None else re.sub(r"[\t\r\n]+", " ", str(value))
