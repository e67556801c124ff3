"""Predictions from file to file, in bounded memory: a row of output for each record of input."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from mux_jax import locks
from mux_jax.data import formats
from mux_jax.errors import InputError
from mux_jax.files import whole_or_absent
from mux_jax.inference.predictor import Predictor
from mux_jax.inference.spans import require_tags
from mux_jax.inference.writer import OUTPUTS, are_predictions, check_form, is_written, kind, open_writer
from mux_jax.paths import absolute
from mux_jax.progress import progress, say

_WINDOW, _WINDOW_CHARACTERS = 16_384, 32_000_000  # records, and characters, held at once, among which rows are composed
_SHOWN_ERRORS = 5
_Ask = Callable[[list[Any], Callable[[float], None]], list[dict[str, Any]]]


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
        empty = not output.is_dir() and not output.stat().length
        if output.is_dir() or not empty and not _is_ours(output):
            raise InputError(
                f"{output} holds no predictions; --overwrite replaces only what predictions were written to"
            )
    return output


def _is_ours(output: epath.Path) -> bool:
    """Whether a file holds predictions, or an array."""
    if output.suffix == ".npy":
        with output.open("rb") as f:
            return f.read(6) == b"\x93NUMPY"
    return are_predictions(formats.column_names(output))


def check_input(
    path: str, columns: tuple[str, ...], wanted: tuple[str, ...], delimiter: str = "", keep: tuple[str, ...] = ()
) -> tuple[epath.Path, tuple[str, ...]]:
    """The file to read and the columns of its texts: those `wanted`, or else those of the model, or `text`.

    Raises:
      InputError: no such file, an empty one, or one without these columns and those to `keep`, with those that it has;
        a column to keep that has the name of one of predictions.
    """
    source = absolute(path)
    if taken := next((name for name in keep if is_written(name)), ""):
        raise InputError(f"--keep={taken}: a column of predictions has this name; rename the one of the file")
    formats.find_columns(source, keep, hint="; --keep names columns of the file", delimiter=delimiter)
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
    keep: tuple[str, ...] = (),
    spans: bool = False,
    keep_model: bool = False,
    prompt: str | None = None,
    dimensions: int | None = None,
) -> dict[str, int]:
    """Writes a prediction or an embedding for each record of `source`, in order; the file appears when it is whole.

    All records are read twice: they are checked before the first one is predicted on. A summary is printed.

    Args:
      delimiter: of a TSV or CSV, if it is not a tab or a comma.
      max_errors: the part of the records that may be bad. Each becomes a row with `error`, without a prediction.
      overwrite: whether `output` may exist.
      keep: columns that come first in each row, as they are in the record. Rows have all columns then.
      spans: whether there is a column of them.
      keep_model: whether there is a column of which model answered.
      prompt, dimensions: of embeddings, see `Predictor.embed`.

    Returns:
      The numbers of `rows` and `errors`.

    Raises:
      InputError: more bad records, by file and line; `output` is being written by another process; spans
        of a model without, columns to keep of a file of words, labels that a table cannot hold.
    """
    if spans:
        require_tags(predictor.config)
    check_form(output, predictor.config, keep)
    ask: _Ask = functools.partial(predictor.predict, spans=spans, keep_model=keep_model)
    if predictor.config.head == "embedding" or prompt or dimensions:
        predictor.check_embedding(prompt, dimensions)

        def ask(texts: list[Any], report: Callable[[float], None]) -> list[dict[str, Any]]:
            return [{"embedding": x} for x in predictor.embed(texts, prompt, dimensions, report)]

    with locks.hold(output.parent / f".{output.name}.lock", str(output)) as lock:
        if output.exists() and not overwrite:  # by now
            raise InputError(f"{output} exists; --overwrite replaces it")
        words = predictor.config.head == "token"
        if words and source.suffix == ".txt":
            columns = ("words",)
            if keep:
                raise InputError(f"--keep={','.join(keep)}: {source} has words and nothing to keep")
        read = functools.partial(
            formats.read,
            source,
            words=words,
            delimiter=delimiter,
            labels=predictor.config.labels,
            used=(*columns, *keep),
        )
        kinds: dict[str, set[str]] = {name: set() for name in keep}
        counts = _check_records(predictor, source, read, columns, max_errors, kinds)
        shape = counts["rows"], dimensions or predictor.config.dimensions
        done, start = 0, time.monotonic()
        records = read()
        with whole_or_absent(output) as partial:
            with (
                progress("predicting") as report,
                open_writer(partial, predictor.config, kinds, spans, keep_model, shape) as write,
            ):
                for window in _windows(records):

                    def show(fraction: float) -> None:
                        rows = done + round(fraction * len(window))  # noqa: B023  # called before the next window
                        rate = rows / (time.monotonic() - start)
                        report(rows / counts["rows"], f"{rows:,} rows, {rate:,.0f} rows/s")

                    found = _predict(predictor, window, columns, show, ask)
                    write([{n: r.fields.get(n) for n in keep} | row for r, row in zip(window, found)])
                    done += len(window)
            if done != counts["rows"]:
                raise InputError(f"{source} changed while it was read: {counts['rows']:,} records, then {done:,}")
            lock.check()
    say(f"{output}: {counts['rows']:,} rows, {counts['errors']:,} errors, {predictor.truncated:,} texts cut")
    if len(predictor.models) > 1:
        share = predictor.deferred / max(1, counts["rows"] - counts["errors"])
        say(f"{predictor.deferred:,} texts, {share:.1%}, went to {predictor.models[1]}")
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
    kinds: dict[str, set[str]],
) -> dict[str, int]:
    """Reads all records; the numbers of `rows` and `errors`. The first bad ones are printed.

    The kinds of the values of columns are put into `kinds`.
    """
    counts = {"rows": 0, "errors": 0}
    with progress("checking") as report:

        def show(fraction: float) -> None:
            report(fraction, f"{counts['rows']:,} rows")

        for record in read(on_progress=show, on_note=say):
            counts["rows"] += 1
            for name, found in kinds.items():
                found.add(kind(record.fields.get(name)))
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
    return text, predictor.problem(text)


def _predict(
    predictor: Predictor,
    records: list[formats.Record],
    columns: tuple[str, ...],
    show: Callable[[float], None],
    ask: _Ask,
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
    for i, prediction in zip(places, ask(texts, show)):
        rows[i] = prediction
    return rows
