"""The examples of a task: from files in the format in which it is distributed, from TensorFlow Datasets, or from the
Python installation.
"""

import dataclasses
import math
from typing import Any

from etils import epath

from mux_jax.data import builtin, formats
from mux_jax.data.encoding import Text
from mux_jax.data.labels import NO_AGREEMENT, is_inference, is_one, name_of, parse_names, to_label, to_labels
from mux_jax.data.sections import TaskSection
from mux_jax.data.sources import open_tfds
from mux_jax.data.tasks import Task, judged_by
from mux_jax.errors import InputError
from mux_jax.paths import absolute
from mux_jax.progress import say

# A file of a split may be called so.
_STEMS = {"train": ("train",), "dev": ("dev", "valid", "validation", "testa"), "test": ("test", "testb")}
_TEXT_SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
_MAX_BROKEN = 0.01  # of the lines of a file that is known to have broken ones
_NO_SCORE = "; without labels there is no score: --submission=DIR (GLUE) or launch/predict.py writes predictions"
_WORD_SUFFIXES = (".conllu", ".conll", ".txt", ".jsonl", ".parquet")


@dataclasses.dataclass(frozen=True)
class Example:
    """A text with its label.

    Attributes:
      text: a text, a pair of texts or the words of a sentence; of embeddings, texts that belong together.
      label: the name of its class, a number, or a list: of tags, or of the labels that it has; None where there are no
        labels.
      where: file and line.
      index: the benchmark's number of an example without a label, if it is there.
    """

    text: Text
    label: Any
    where: str
    index: Any = None


def read(task: Task, data: TaskSection, splits: tuple[str, ...], labelled: bool = True) -> dict[str, list[Example]]:
    """The examples of some splits, `train` and those of `task.dev`; without labels unless they are `labelled`.

    Raises:
      InputError: what is not there, empty, lacks a column or cannot be read, by file and line.
    """
    if task.builtin:
        found = getattr(builtin, task.builtin)()
        if missing := [split for split in splits if split not in found]:
            raise InputError(f"task={data.task} has no split {missing[0]!r}; there are: {', '.join(found)}")
        return {split: [Example(*example) for example in found[split]] for split in splits}
    if data.folder:
        folder = absolute(data.folder)
        if not folder.is_dir():
            raise InputError(f"data={data.folder}: no such folder")
        names = parse_names(data.labels)

        def read_split(split: str) -> list[Example]:
            file = _find(folder, task, split)
            if task.kind == "embedding" and split == "train":  # texts that belong together are all that it has
                if len(task.text) < 2:
                    raise InputError(
                        f"data.text_columns={task.text[0]!r}: embeddings learn from pairs or triples, in two or three "
                        "columns"
                    )
                return read_file(task, file, data.delimiter, labelled=False)
            return read_file(judged_by(task), file, data.delimiter, names, labelled)

        return {split: read_split(split) for split in splits}
    return _from_tfds(task, data, splits, labelled)


def _find(folder: epath.Path, task: Task, split: str) -> epath.Path:
    suffixes = _WORD_SUFFIXES if task.kind == "token" else _TEXT_SUFFIXES
    names = [stem + suffix for stem in _STEMS.get(split, (split,)) for suffix in suffixes]
    found = next((folder / name for name in names if (folder / name).exists()), None)
    if found is None:
        raise InputError(f"{folder}: no file for the split {split!r}; it may be called {', '.join(names)}")
    return found


def read_file(
    task: Task, path: epath.Path, delimiter: str, names: tuple[str, ...] = (), labelled: bool = True
) -> list[Example]:
    """The examples of a file in the task's format; see `read`. `names` are those of labels that are numbers."""
    header = task.header if path.suffix == ".tsv" else ()
    if header and set(task.text) <= set(formats.column_names(path)):
        header = ()  # GLUE's CoLA has a header line in its test set alone
    words, label_columns = task.kind == "token", task.label_columns or (task.label,)
    delimiter = _delimiter_of(path, delimiter)
    if not words:
        columns = (*task.text, *label_columns) if labelled else task.text
        hint = _NO_SCORE if path.stem.startswith("test") else ""
        formats.find_columns(path, columns, header=header, hint=hint, delimiter=delimiter)
    examples: list[Example] = []
    broken: list[str] = []
    used = (*task.text, *(label_columns if labelled else ("index", "id")))
    for record in formats.read(path, header, words=words, delimiter=delimiter, on_note=say, used=used):
        if record.error and task.broken and labelled:
            broken.append(record.where)
        elif record.error:
            raise InputError(f"{record.where}: {record.error}")
        else:
            examples.append(to_example(task, record, names, labelled))
    if len(broken) > _MAX_BROKEN * (len(examples) + len(broken)):
        raise InputError(f"{path}: {len(broken):,} broken lines, the first is {broken[0]}; more than {_MAX_BROKEN:.0%}")
    if broken:
        say(f"{path}: {len(broken)} broken lines left out, the first is {broken[0]}")
    if not examples:
        raise InputError(f"{path}: no examples in the file")
    return _agreed(task, examples, str(path)) if labelled else examples


def _agreed(task: Task, examples: list[Example], place: str) -> list[Example]:
    """Without the pairs of an inference task on which annotators did not agree, as the authors of SNLI advise."""
    if task.kind != "sequence" or not is_inference({e.label for e in examples} - {NO_AGREEMENT}):
        return examples
    agreed = [example for example in examples if example.label != NO_AGREEMENT]
    if len(agreed) < len(examples):
        say(f"{place}: {len(examples) - len(agreed):,} examples left out, on whose label annotators did not agree")
    return agreed


def _delimiter_of(path: epath.Path, given: str) -> str:
    """The delimiter of a table, as `data.delimiter` has it; none of other files."""
    return formats.parse_delimiter(given, "data.delimiter") if path.suffix in formats.TABLES else ""


def to_example(task: Task, record: formats.Record, names: tuple[str, ...] = (), labelled: bool = True) -> Example:
    """The example that a record is; `names` are those of labels that are numbers."""
    text = formats.to_text(record, task.text, words=task.kind == "token")
    if not labelled:
        return Example(text, None, record.where, record.fields.get("index", record.fields.get("id")))  # of QQP, id
    label: Any = record.fields.get(task.label)
    if task.kind == "regression":
        try:
            number = math.nan if isinstance(label, bool) else float(label)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"{record.where}: {task.label}={label!r} is not a number")
        label = number
    elif task.kind == "sequence":
        label = _label(label, names, record.where, task.label)
    elif task.kind == "multi_label":
        label = _labels(task, record, names)
    else:
        if isinstance(text, list) and label is None:
            raise InputError(f"{record.where}: words, and no tags in column {task.label!r}")
        if not isinstance(text, list) or not isinstance(label, list):
            raise InputError(f"{record.where}: columns {task.text[0]!r} and {task.label!r} must hold words and tags")
        if not text or len(text) != len(label):
            counts = "a sentence of zero words" if not text else f"{len(text)} words and {len(label)} tags"
            raise InputError(f"{record.where}: {counts}")
        label = [_label(tag, names, f"{record.where}, word {i}", task.label) for i, tag in enumerate(label, start=1)]
    return Example(text, label, record.where)


def _labels(task: Task, record: formats.Record, names: tuple[str, ...]) -> list[str]:
    column = task.label
    try:
        if not task.label_columns:
            return to_labels(record.fields.get(column), names)
        found: list[str] = []
        for column in task.label_columns:
            if is_one(record.fields.get(column)):
                found.append(column)
        return found
    except ValueError as e:
        raise InputError(f"{record.where}: {e} in column {column!r}") from e


def _label(value: Any, names: tuple[str, ...], where: str, column: str) -> str:
    try:
        return to_label(value, names)
    except ValueError as e:
        raise InputError(f"{where}: {e} in column {column!r}") from e


def read_unlabelled(task: Task, path: str, labels: tuple[str, ...] = (), delimiter: str = "") -> list[Text]:
    """The texts of a file, in the columns of the task, or `text` if it has one; words have spaces between them.

    Raises:
      InputError: a file that lacks the columns, cannot be read, by file and line, or has no text.
    """
    file, words = absolute(path), task.kind == "token"
    delimiter = _delimiter_of(file, delimiter)
    candidates = [task.text, ("text",)] if len(task.text) == 1 else [task.text]
    columns = formats.find_columns(file, *candidates, delimiter=delimiter)
    if words and file.suffix == ".txt":
        columns = ("words",)
    records = formats.read(file, words=words, delimiter=delimiter, labels=labels, on_note=say, used=columns)
    texts = [formats.to_text(record, columns, words) for record in records]
    texts = [" ".join(text) if isinstance(text, list) else text for text in texts if text]
    if not texts:
        raise InputError(f"{file}: no text in the file")
    return texts


def _from_tfds(task: Task, data: TaskSection, splits: tuple[str, ...], labelled: bool) -> dict[str, list[Example]]:
    """Examples of a prepared data set, read without TensorFlow."""
    in_tfds = {"train": "train", "dev": task.tfds_dev}
    in_tfds |= {"dev_matched": "validation_matched", "dev_mismatched": "validation_mismatched"}
    in_tfds |= {split: split for split in splits if split not in in_tfds}
    names = task.tfds_text or task.text
    examples: dict[str, list[Example]] = {}
    for split in splits:
        builder = open_tfds(task.tfds, in_tfds[split], (*names, task.tfds_label), data.tfds_dir)
        label = builder.info.features[task.tfds_label]
        classes = getattr(getattr(label, "feature", label), "names", None)
        records = builder.as_data_source(in_tfds[split])
        examples[split] = []
        for i in range(len(records)):
            record = records[i]
            texts, value = [_decoded(record[name]) for name in names], _decoded(record[task.tfds_label])
            where = f"{task.tfds}:{in_tfds[split]}:{i}"
            try:
                if not labelled:
                    value = None
                elif task.kind == "regression":
                    if value == -1:
                        raise ValueError("no label")
                    value = float(value)
                elif task.kind in ("token", "multi_label"):
                    value = [name_of(v, classes) if classes else to_label(v) for v in value]
                else:
                    value = name_of(value, classes) if classes else to_label(value)
            except ValueError as e:
                hint = _NO_SCORE if value == -1 else ""
                raise InputError(f"{where}: {e} in feature {task.tfds_label!r}{hint}") from e
            index = None if labelled else _decoded(record.get("idx"))
            examples[split].append(Example(texts[0] if len(texts) == 1 else tuple(texts), value, where, index))
        if labelled:
            examples[split] = _agreed(task, examples[split], f"{task.tfds}:{in_tfds[split]}")
    return examples


def _decoded(value: Any) -> Any:
    """TFDS's bytes as text, its arrays as lists, its numbers as Python's."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_decoded(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value
