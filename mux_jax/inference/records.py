"""The records of a file become rows of predictions: checked, read in windows, answered, written in their order."""

import collections
import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from mux_jax.data import formats
from mux_jax.data.formats import Record
from mux_jax.errors import InputError
from mux_jax.inference.answers import check_embedding
from mux_jax.inference.predictor import Predictor
from mux_jax.inference.spans import require_tags
from mux_jax.inference.writer import check_form, kind, open_writer
from mux_jax.models.config import ModelConfig

# Records, and characters, held at once, among which rows are composed: of each file by itself, so that its predictions
# do not depend on other files. The last batch of a window has empty slots: of 16,384 texts one in 103 of 160 slots.
_WINDOW, _WINDOW_CHARACTERS = 16_384, 32_000_000
_AHEAD = 2  # windows under way: one is tokenised while the device works on the other
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a model: the keywords of `Predictor.predict`, or those of `Predictor.embed`."""

    spans: bool = False
    keep_model: bool = False
    prompt: str | None = None
    dimensions: int | None = None

    def check(self, config: ModelConfig, prompts: Mapping[str, str]) -> None:
        """Raises `InputError` if a model cannot give it."""
        if self.spans:
            require_tags(config)
        if self._embeds(config):
            check_embedding(config, prompts, self.prompt, self.dimensions)

    def of(self, predictor: Predictor, texts: list[Any], report: Callable[[float], None] | None = None) -> list[Row]:
        """The columns of the prediction of each text; `embedding` is an array."""
        if self._embeds(predictor.config):
            found = predictor.embed(texts, self.prompt, self.dimensions, report)
            return [{"embedding": embedding} for embedding in found]
        return predictor.predict(texts, report, self.spans, self.keep_model)

    def _embeds(self, config: ModelConfig) -> bool:
        return bool(config.head == "embedding" or self.prompt or self.dimensions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How the records of a file are read, and what is written of each.

    Attributes:
      columns: of the text, or of the texts.
      delimiter: of a TSV or CSV, if it is not a tab or a comma.
      keep: columns that come first in each row, as they are in the record. Rows have all columns then.
      max_errors: the part of a file's records that may be bad. Each becomes a row with `error`, without a prediction.
      wanted: of the model.
    """

    columns: tuple[str, ...]
    delimiter: str = ""
    keep: tuple[str, ...] = ()
    max_errors: float = 0.0
    wanted: Wanted = Wanted()


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the records of a file are.

    Attributes:
      rows: how many.
      errors: of them, bad ones.
      kinds: of the values of each column to keep.
    """

    rows: int
    errors: int
    kinds: dict[str, set[str]]


def check_records(
    predictor: Predictor,
    source: epath.Path,
    reading: Reading,
    on_progress: Callable[[float, int], None] = lambda fraction, rows: None,
    on_note: Callable[[str], None] = lambda note: None,
    on_bad: Callable[[Record, str], None] = lambda record, error: None,
) -> Checked:
    """Reads all records of a file, before the first one is predicted on.

    Args:
      on_progress: is told what fraction of the file is checked, and how many rows that is.
      on_note: is told what a person should know of how the file was read.
      on_bad: is given each bad record, and what is wrong with it.

    Raises:
      InputError: more bad records than may be, by file and line; columns to keep of a file of words.
    """
    read, columns = _reader(predictor, source, reading)
    kinds: dict[str, set[str]] = {name: set() for name in reading.keep}
    rows, errors, first = 0, 0, ""

    def show(fraction: float) -> None:
        on_progress(fraction, rows)

    for record in read(on_progress=show, on_note=on_note):
        rows += 1
        for name, found in kinds.items():
            found.add(kind(record.fields.get(name)))
        _, error = _text(predictor, record, columns)
        if error:
            errors += 1
            on_bad(record, error)
            first = first or f"{record.where}: {error}"
    if errors and not reading.max_errors:
        more = f"; it is the first of {errors:,} bad records of {rows:,}" if errors > 1 else ""
        raise InputError(f"{first}{more}")
    if errors > reading.max_errors * rows:
        raise InputError(
            f"{source}: {errors:,} of {rows:,} records are bad, {errors / rows:.1%}; "
            f"--max_errors={reading.max_errors} allows {reading.max_errors:.1%}. Nothing was written"
        )
    return Checked(rows, errors, kinds)


def write_predictions(
    predictor: Predictor,
    source: epath.Path,
    reading: Reading,
    checked: Checked,
    output: epath.Path,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> None:
    """Writes a prediction or an embedding for each record of a file, in order, in bounded memory.

    Args:
      checked: what `check_records` gave.
      on_rows: is told how many rows are predicted.

    Raises:
      InputError: the file has changed; what the model cannot give, or `output` not hold.
    """
    reading.wanted.check(predictor.config, predictor.prompts)
    check_form(output, predictor.config, reading.keep)
    read, columns = _reader(predictor, source, reading)
    under_way: dict[int, float] = {}  # rows of windows
    done = 0

    def answer(numbered: tuple[int, list[Record]]) -> list[Row]:
        number, window = numbered

        def show(fraction: float) -> None:
            under_way[number] = fraction * len(window)
            on_rows(done + round(sum(list(under_way.values()))))

        return _answer(predictor, window, columns, reading.wanted, show)

    shape = checked.rows, reading.wanted.dimensions or predictor.config.dimensions
    options = reading.wanted.spans, reading.wanted.keep_model
    with open_writer(output, predictor.config, checked.kinds, *options, shape) as write:
        for (number, window), found in _ahead(answer, enumerate(_windows(read()))):
            write([{name: r.fields.get(name) for name in reading.keep} | row for r, row in zip(window, found)])
            under_way.pop(number, None)
            done += len(window)
            on_rows(done)
    if done != checked.rows:
        raise InputError(f"{source} changed while it was read: {checked.rows:,} records, then {done:,}")


def _reader(
    predictor: Predictor, source: epath.Path, reading: Reading
) -> tuple[Callable[..., Iterator[Record]], tuple[str, ...]]:
    """What reads a file's records for a model, and the columns of their texts."""
    words, columns = predictor.config.head == "token", reading.columns
    if words and source.suffix == ".txt":
        columns = ("words",)
        if reading.keep:
            raise InputError(f"--keep={','.join(reading.keep)}: {source} has words and nothing to keep")
    options: dict[str, Any] = dict(delimiter=reading.delimiter, labels=predictor.config.labels)
    return functools.partial(formats.read, source, words=words, used=(*columns, *reading.keep), **options), columns


def _ahead(do: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Each item with what `do` gives for it, in order; a few are under way in threads."""
    waiting: collections.deque[tuple[Any, concurrent.futures.Future[Any]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(_AHEAD) as pool:
        for item in items:
            waiting.append((item, pool.submit(do, item)))
            if len(waiting) == _AHEAD:
                first, found = waiting.popleft()
                yield first, found.result()
        for item, found in waiting:
            yield item, found.result()


def _windows(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in lists of bounded size, whatever their number and length."""
    window: list[Record] = []
    characters = 0
    for record in records:
        window.append(record)
        characters += sum(len(str(value)) for value in record.fields.values())
        if len(window) == _WINDOW or characters >= _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _text(predictor: Predictor, record: Record, columns: tuple[str, ...]) -> tuple[Any, str]:
    """The text of a record, or why there is none."""
    words = predictor.config.head == "token"
    try:
        text: Any = formats.to_text(record, columns, words=words)
    except InputError as e:
        return None, str(e).removeprefix(f"{record.where}: ")
    return text, predictor.problem(text)


def _answer(
    predictor: Predictor,
    records: list[Record],
    columns: tuple[str, ...],
    wanted: Wanted,
    show: Callable[[float], None],
) -> list[Row]:
    """Predictions or errors, in the order of the records."""
    rows: list[Row] = [{} for _ in records]
    texts: list[Any] = []
    places: list[int] = []
    for i, record in enumerate(records):
        text, error = _text(predictor, record, columns)
        if error:
            rows[i] = {"error": f"{record.where}: {error}"}
        else:
            texts.append(text)
            places.append(i)
    for i, prediction in zip(places, wanted.of(predictor, texts, show)):
        rows[i] = prediction
    return rows
