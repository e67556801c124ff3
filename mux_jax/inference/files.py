"""Predictions from file to file: both checked first, then a row of output for each record of input."""

import time

from etils import epath

from mux_jax import locks
from mux_jax.data import formats
from mux_jax.errors import InputError
from mux_jax.files import whole_or_absent
from mux_jax.inference.predictor import Predictor
from mux_jax.inference.records import Reading, check_records, write_predictions
from mux_jax.inference.writer import OUTPUTS, are_predictions, check_form, is_written
from mux_jax.paths import absolute
from mux_jax.progress import progress, say

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
        empty = not output.is_dir() and not output.stat().length
        if output.is_dir() or not empty and not is_ours(output):
            raise InputError(
                f"{output} holds no predictions; --overwrite replaces only what predictions were written to"
            )
    return output


def is_ours(output: epath.Path) -> bool:
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
    predictor: Predictor, source: epath.Path, reading: Reading, output: epath.Path, overwrite: bool = False
) -> dict[str, int]:
    """Writes a prediction or an embedding for each record of `source`, in order; the file appears when it is whole.

    Progress, the first bad records and a summary are printed.

    Args:
      overwrite: whether `output` may exist.

    Returns:
      The numbers of `rows` and `errors`.

    Raises:
      InputError: more bad records than may be, by file and line; `output` is being written by another process; what
        the model cannot give, or the file not hold.
    """
    reading.wanted.check(predictor.config, predictor.prompts)
    check_form(output, predictor.config, reading.keep)
    shown = 0

    def show_bad(record: formats.Record, error: str) -> None:
        nonlocal shown
        shown += 1
        if shown <= _SHOWN_ERRORS and reading.max_errors:  # or it is raised
            say(f"{record.where}: {error}")

    with locks.hold(output.parent / f".{output.name}.lock", str(output)) as lock:
        if output.exists() and not overwrite:  # by now
            raise InputError(f"{output} exists; --overwrite replaces it")
        with progress("checking") as report:

            def show(fraction: float, rows: int) -> None:
                report(fraction, f"{rows:,} rows")

            checked = check_records(predictor, source, reading, show, say, show_bad)
        start = time.monotonic()
        with whole_or_absent(output) as partial:
            with progress("predicting") as report:

                def show_rows(rows: int) -> None:
                    report(rows / checked.rows, f"{rows:,} rows, {rows / (time.monotonic() - start):,.0f} rows/s")

                write_predictions(predictor, source, reading, checked, partial, show_rows)
            lock.check()
    say(f"{output}: {checked.rows:,} rows, {checked.errors:,} errors, {predictor.truncated:,} texts cut")
    if len(predictor.models) > 1:
        share = predictor.deferred / max(1, checked.rows - checked.errors)
        say(f"{predictor.deferred:,} texts, {share:.1%}, went to {predictor.models[1]}")
    return {"rows": checked.rows, "errors": checked.errors}
