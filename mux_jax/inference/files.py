"""Predictions from file to file, in bounded memory: a row of output for each record of input."""

import contextlib
import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from mux_jax.data import formats
from mux_jax.data.tasks import to_text
from mux_jax.errors import InputError
from mux_jax.inference.predictor import Predictor, batched
from mux_jax.paths import absolute
from mux_jax.progress import progress

OUTPUTS = (".jsonl", ".tsv", ".parquet")
_WINDOW = 16_384  # records held at once, among which rows are composed


def check_output(path: str, overwrite: bool) -> epath.Path:
    """The path to write; `InputError` if it exists, its name has an unknown end, or it needs what is not installed."""
    output = absolute(path)
    if output.suffix not in OUTPUTS:
        raise InputError(f"{output}: the name must end in {', '.join(OUTPUTS)}")
    if output.exists() and not overwrite:
        raise InputError(f"{output} exists; --overwrite replaces it")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder")
    if output.suffix == ".parquet":
        formats.import_pyarrow(output)
    return output


def check_input(path: str, columns: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[epath.Path, tuple[str, ...]]:
    """The file to read and the columns of its texts: those `wanted`, or else those of the model, or `text`.

    Raises:
      InputError: no such file, an empty one, or one without these columns, with those that it has.
    """
    source = absolute(path)
    candidates = [wanted] if wanted else [columns, ("text",)]
    return source, formats.find_columns(source, *candidates, hint="; --text_columns names the columns of the text")


def predict_file(
    predictor: Predictor, source: epath.Path, columns: tuple[str, ...], output: epath.Path, skip_errors: bool
) -> dict[str, int]:
    """Writes a prediction for each record of `source`, in its order; the file appears when it is whole.

    Args:
      skip_errors: whether a bad record becomes a row with `error` and nothing else, or ends the run.

    Returns:
      The numbers of `rows` and `errors`.

    Raises:
      InputError: a bad record, by file and line.
    """
    partial = output.parent / f"{output.stem}.partial{output.suffix}"
    counts, start = {"rows": 0, "errors": 0}, time.monotonic()
    position, before = [0.0], 0.0  # in the file, now and before this window
    window: list[formats.Record] = []
    records = formats.read(source, on_progress=lambda fraction: position.__setitem__(0, fraction))
    try:
        with progress("predicting") as report, _writer(partial, predictor) as write:

            def show(fraction: float) -> None:
                rows = counts["rows"] + round(fraction * len(window))
                rate = rows / (time.monotonic() - start)
                report(before + (position[0] - before) * fraction, f"{rows:,} rows, {rate:,.0f} rows/s")

            for window in batched(records, _WINDOW):
                write(_predict(predictor, window, columns, skip_errors, counts, show))
                before = position[0]
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(output)
    return counts


def _predict(
    predictor: Predictor,
    records: list[formats.Record],
    columns: tuple[str, ...],
    skip: bool,
    counts: dict[str, int],
    show: Callable[[float], None],
) -> list[dict[str, Any]]:
    """Predictions or errors, in the order of the records."""
    rows: list[dict[str, Any]] = [{} for _ in records]
    texts: list[Any] = []
    places: list[int] = []
    for i, record in enumerate(records):
        text, error = None, ""
        try:
            text = to_text(record, columns, words=predictor.config.head == "token")
        except InputError as e:
            error = str(e).removeprefix(f"{record.where}: ")
        if not error and predictor.config.head == "token" and isinstance(text, str):
            text = text.split()
        error = error or predictor.problem(text)
        if error and not skip:
            raise InputError(f"{record.where}: {error}")
        if error:
            rows[i] = {"error": f"{record.where}: {error}"}
            counts["errors"] += 1
        else:
            texts.append(text)
            places.append(i)
    for i, prediction in zip(places, predictor.predict(texts, show)):
        rows[i] = prediction
    counts["rows"] += len(records)
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
    """A value in a TSV: words with spaces between them, nothing for None, `_` for a tag that is missing."""
    if isinstance(value, list):
        value = " ".join("_" if v is None else "_".join(v.split()) for v in value)
    return "" if value is None else " ".join(str(value).split())
