"""Files of predictions: columns carried from the input, the prediction's own, last `error`; or embeddings."""

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from mux_jax.data import formats
from mux_jax.data.encoding import split_words
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig

OUTPUTS = (".jsonl", ".tsv", ".parquet", ".npy")
_COLUMNS = ("label", "labels", "probabilities", "score", "words", "tags", "spans", "embedding", "answered_by", "error")
Row = dict[str, Any]


def is_written(name: str) -> bool:
    """Whether predictions may have a column of this name."""
    return name in _COLUMNS or name.startswith("probability_")


def are_predictions(names: Sequence[str]) -> bool:
    """Whether columns are those of a file written here. Behind carried ones `error` is the last of several."""
    carried = next((i for i, name in enumerate(names) if is_written(name)), len(names))
    own = names[carried:]
    return bool(own) and all(map(is_written, own)) and (not carried or len(own) > 1 and own[-1] == "error")


def check_form(path: epath.Path, config: ModelConfig, keep: Sequence[str] = ()) -> None:
    """Raises `InputError` if a file cannot hold what a model gives: embeddings or labels, and columns to keep.

    A table would hold commas both in labels and between the several labels of a text.
    """
    if path.suffix == ".npy" and "://" in str(path):
        raise InputError(f"{path}: an array is written in place, on a disk; in a store write .parquet or .jsonl")
    if path.suffix == ".npy" and (config.head != "embedding" or keep):
        what = f"--keep={','.join(keep)}" if config.head == "embedding" else "predictions"
        raise InputError(f"{path} holds embeddings alone, and no {what}; write .jsonl or .parquet")
    if path.suffix == ".tsv" and config.head == "embedding":
        raise InputError(f"{path} is no place for embeddings; write .npy, .parquet or .jsonl")
    label = next((label for label in config.labels if "," in label), None)
    if label is not None and config.multi_label and path.suffix == ".tsv":
        raise InputError(f"{path}: commas stand between labels, and the label {label!r} holds one; write .jsonl")


def kind(value: Any) -> str:
    """What a carried value is in Parquet: `null`, `bool`, `int64`, `float64`, or else `string`."""
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return "string"
    return {type(None): "null", bool: "bool", int: "int64", float: "float64"}.get(type(value), "string")


@contextlib.contextmanager
def open_writer(
    path: epath.Path,
    config: ModelConfig,
    kinds: dict[str, set[str]],
    spans: bool,
    answered_by: bool = False,
    shape: tuple[int, int] = (0, 0),
) -> Iterator[Callable[[list[Row]], None]]:
    """Yields a function that appends rows to a file, by the end of its name.

    Args:
      kinds: by the name of each carried column, which come first in rows, the kinds of its values.
      spans, answered_by: whether rows have them.
      shape: of embeddings: how many, and their dimensions.
    """
    flat_columns = [*kinds, *flat_names(config, spans, answered_by), "error"]
    if path.suffix == ".npy":
        writer = _npy(path, shape)
    elif path.suffix == ".parquet":
        writer = _parquet(path, flat_columns, kinds)
    elif path.suffix == ".tsv":
        writer = _tsv(path, flat_columns, kinds)
    else:
        columns = [*kinds, *_names(config, spans, answered_by), "error"]
        writer = _jsonl(path, dict.fromkeys(columns) if kinds else {})
    with writer as write:
        yield write


def _names(config: ModelConfig, spans: bool, answered_by: bool) -> list[str]:
    """The columns of a prediction, as `Predictor.predict` names them."""
    if config.head == "token":
        names = ["words", "tags", "spans"] if spans else ["words", "tags"]
    elif config.head == "embedding":
        names = ["embedding"]
    else:
        names = ["score"] if len(config.labels) == 1 else ["labels" if config.multi_label else "label", "probabilities"]
    return names + ["answered_by"] * answered_by


def flat_names(config: ModelConfig, spans: bool, answered_by: bool) -> list[str]:
    """The columns of a prediction in a table: those of probabilities last."""
    names = _names(config, spans, answered_by)
    probabilities = [f"probability_{label}" for label in config.labels] if "probabilities" in names else []
    return [name for name in names if name != "probabilities"] + probabilities


def flat(row: Row) -> Row:
    """A prediction as a row of a table: a column for each probability."""
    row = dict(row)
    for label, probability in row.pop("probabilities", {}).items():
        row[f"probability_{label}"] = probability
    return row


@contextlib.contextmanager
def _npy(path: epath.Path, shape: tuple[int, int]) -> Iterator[Callable[[list[Row]], None]]:
    """float32 [texts, E], written in place, in bounded memory; NaN where a record is bad."""
    if not shape[0]:  # nothing to map
        np.save(path, np.zeros(shape, np.float32))
        yield lambda rows: None
        return
    array = np.lib.format.open_memmap(os.fspath(path), "w+", np.float32, shape)
    done = 0

    def write(rows: list[Row]) -> None:
        nonlocal done
        for row in rows:
            array[done] = row.get("embedding", np.nan)
            done += 1

    yield write
    array.flush()


@contextlib.contextmanager
def _jsonl(path: epath.Path, empty: Row) -> Iterator[Callable[[list[Row]], None]]:
    def line(row: Row) -> str:
        if "embedding" in row:
            row = row | {"embedding": [round(x, 8) for x in row["embedding"].tolist()]}
        return json.dumps(empty | row, ensure_ascii=False, default=str) + "\n"

    with path.open("wb") as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as f:
        yield lambda rows: f.writelines(map(line, rows))


@contextlib.contextmanager
def _tsv(path: epath.Path, names: list[str], kinds: dict[str, set[str]]) -> Iterator[Callable[[list[Row]], None]]:
    with path.open("wb") as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as f:
        # Read back as it is written, without quotes: tabs and ends of lines in a value become spaces.
        table = csv.writer(f, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        table.writerow([_cell(name) for name in names])
        as_text = {*kinds, "spans"}

        def write(rows: list[Row]) -> None:
            for row in map(flat, rows):
                if "labels" in row:
                    row["labels"] = ",".join(row["labels"])
                table.writerow([_cell(_as_text(row.get(n)) if n in as_text else row.get(n)) for n in names])

        yield write


@contextlib.contextmanager
def _parquet(path: epath.Path, names: list[str], kinds: dict[str, set[str]]) -> Iterator[Callable[[list[Row]], None]]:
    pyarrow = formats.import_pyarrow(path)
    string = pyarrow.string()
    types = {"label": string, "answered_by": string, "error": string} | dict.fromkeys(
        ("labels", "words", "tags"), pyarrow.list_(string)
    )
    places = {"label": string, "start": pyarrow.int64(), "end": pyarrow.int64(), "text": string}
    types["embedding"] = pyarrow.list_(pyarrow.float32())
    types["spans"] = pyarrow.list_(pyarrow.struct(places | {"score": pyarrow.float64()}))
    for name, found in kinds.items():
        known = found - {"null"}
        types[name] = pyarrow.type_for_alias(known.pop()) if len(known) == 1 else string
    texts = [name for name in kinds if types[name] == string]
    schema = pyarrow.schema([(name, types.get(name, pyarrow.float64())) for name in names])
    with path.open("wb") as f, pyarrow.parquet.ParquetWriter(f, schema) as table:

        def write(rows: list[Row]) -> None:
            found = [flat(row) | {name: _as_text(row[name]) for name in texts} for row in rows]
            table.write_table(pyarrow.Table.from_pylist(found, schema))

        yield write


def _as_text(value: Any) -> str | None:
    """A carried value as text: what is of JSON as JSON, such as `true` and `[1, 2]`."""
    if value is None or isinstance(value, str):
        return value
    of_json = isinstance(value, bool | int | float | list | dict)
    return json.dumps(value, ensure_ascii=False, default=str) if of_json else str(value)


def _cell(value: Any) -> str:
    """A value in a TSV: words with spaces between them, `_` for one that is missing or blank; nothing for None."""
    if isinstance(value, list):
        value = " ".join("_".join(split_words(word or "")) or "_" for word in value)
    return "" if value is None else re.sub(r"[\t\r\n]+", " ", str(value))
