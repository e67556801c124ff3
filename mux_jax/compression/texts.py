"""The texts that a model is compressed with: of files, of a task's folder, or with the answers of another model."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mux_jax.compression.answers import Answers
from mux_jax.compression.text_parts import Parts, text_key
from mux_jax.data import examples, formats
from mux_jax.data.encoding import Text, split_words
from mux_jax.data.examples import Example
from mux_jax.data.metrics import OF_KIND
from mux_jax.data.sections import TaskSection
from mux_jax.data.task_data import check_labels
from mux_jax.data.tasks import Task, describe, get_task, judged_by
from mux_jax.errors import InputError
from mux_jax.inference.evaluation import check_head
from mux_jax.inference.files import check_input
from mux_jax.models.config import ModelConfig
from mux_jax.paths import absolute, find_files
from mux_jax.progress import progress, say

_SHARES = {"judge": 0.10, "calibrate": 0.10, "choose": 0.05, "learn": 0.75}  # of the distinct texts
_TRAIN_SHARES = {"calibrate": 0.10, "choose": 0.05, "learn": 0.85}  # of those that a task trains on
_LEAST, _LEAST_TRAIN = 1_000, 500  # distinct texts: of files; that a task trains on


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts that a model is compressed with, in parts that share no text.

    The texts of a part are distinct, and in the order of their hashes. If there are more than it takes, it has those
    with the smallest, which are a uniform sample.

    Attributes:
      task: what the model does: kind, metric and text columns.
      learn: what the cheaper model learns from.
      choose: what its best state is chosen by.
      calibrate: what thresholds are set on.
      judge: what the outcome is measured on.
      labelled: examples with their labels; empty if there are none.
      answers: float32[texts, C], the logits of another model by the name of the part; empty: the model itself answers.
      read: how many records were read, those with labels not included; of a task, examples.
    """

    task: Task
    learn: list[Text]
    choose: list[Text]
    calibrate: list[Text]
    judge: list[Text]
    labelled: list[Example]
    answers: dict[str, np.ndarray]
    read: int


def read_texts(
    patterns: Sequence[str],
    config: ModelConfig,
    columns: tuple[str, ...],
    wanted: tuple[str, ...] = (),
    delimiter: str = "",
    labelled: str = "",
    metric: str = "",
) -> Texts:
    """The texts of files, in any format that `launch/predict.py` reads; what was read is printed.

    For an embedding model two columns are two texts.

    Args:
      patterns: files or globs; a file that several match is read once.
      config: of a model that is fine-tuned.
      columns: those of its texts in files.
      wanted: the columns to read in their place.
      delimiter: of TSV and CSV, if it is not a tab or a comma.
      labelled: a file of examples with labels, in a column `label`, or `tags` beside words; of an embedding model of
        pairs as STS-B has them, in `sentence1` and `sentence2`, with how alike they are in `score`. Its texts are in no
        part.
      metric: what the model is judged by; empty: the default of its kind of task.

    Raises:
      InputError: a glob without a file; a bad record, by file and line; a label that the model does not have; too few
        distinct texts.
    """
    files = list(dict.fromkeys(absolute(file) for file in find_files(patterns)))
    sources = [_open(file, config, columns, wanted, delimiter) for file in files]
    task = _task(config, wanted or columns, metric)
    found: list[Example] = []
    if config.head == "embedding":
        if labelled:
            found = examples.read_file(judged_by(task), absolute(labelled), delimiter)
        without = {text_key(text) for example in found for text in example.text}
    else:
        beside = [_open(absolute(labelled), config, columns, wanted, delimiter)] if labelled else []
        _check_alike([*sources, *beside])
        for source in beside:
            found = examples.read_file(dataclasses.replace(task, text=source.columns), source.file, source.delimiter)
            check_labels(task, found, config.labels, "those of the model")
        without = {text_key(example.text) for example in found}
    parts = Parts(_SHARES, without)
    read = _read(sources, config, parts)
    left_out = f", {parts.left_out:,} of them in {labelled}" if parts.left_out else ""
    parts.check(_LEAST, f"--texts: {read:,} records{left_out}")
    say(f"{len(files):,} file{'s'[: len(files) != 1]}, {read:,} records{left_out}; {parts.describe()}")
    return Texts(task, **parts.texts(), labelled=found, answers={}, read=read)


def read_answers(
    path: str,
    config: ModelConfig,
    columns: tuple[str, ...],
    wanted: tuple[str, ...] = (),
    delimiter: str = "",
    metric: str = "",
) -> Texts:
    """The texts of a file that has the answers of another model beside them; see `Answers`. What was read is printed.

    Of texts that differ in case or blanks alone one counts, with its answer; of one text with two answers, the first.

    Args:
      path: a TSV, CSV, JSONL or Parquet file.
      config: as of `read_texts`, and `columns`, `wanted`, `delimiter` and `metric` too.

    Raises:
      InputError: a model that tags words; an answer that is none, by file and line; else as `read_texts`.
    """
    answers = Answers(absolute(path), config, delimiter)
    source = _open(answers.file, config, columns, wanted, delimiter)
    parts = Parts(_SHARES)
    read = _read([source], config, parts, answers.logits, answers.columns)
    parts.check(_LEAST, f"--answers={path}: {read:,} records")
    say(f"{path}: {read:,} records with answers; {parts.describe()}")
    logits = parts.answers(len(config.labels))
    return Texts(_task(config, source.columns, metric), **parts.texts(), labelled=[], answers=logits, read=read)


def task_texts(data: TaskSection, config: ModelConfig) -> Texts:
    """The texts of a task, as fine-tuning reads them; what was read is printed.

    Those of the first dev split, whose examples are `labelled`, judge. The others are those trained on and not in it.

    Raises:
      InputError: a model without a head or labels for the task; bad data, by file and line; too few distinct texts.
    """
    check_head("--model", config, data)
    task = get_task(data)
    found = examples.read(task, data, ("train", task.dev[0]))
    train, dev = found["train"], found[task.dev[0]]
    for split in (train, dev):
        check_labels(task, split, config.labels, "those of the model")
    judge = Parts({"judge": 1.0})
    for example in dev:
        judge.add(example.text)
    parts = Parts(_TRAIN_SHARES, {text_key(example.text) for example in dev})
    for example in train:
        parts.add(example.text)
    if parts.left_out:
        say(f"{data.task}: {parts.left_out:,} training examples left out, whose texts are in {task.dev[0]}, too")
    parts.check(_LEAST_TRAIN, f"task={data.task}: {len(train):,} training examples")
    say(
        f"{data.task}: {len(train):,} training and {len(dev):,} {task.dev[0]} examples from {describe(data)}; "
        f"{parts.describe()}; {judge.describe()}"
    )
    texts = parts.texts() | judge.texts()
    return Texts(task, **texts, labelled=dev, answers={}, read=len(train) + len(dev))


def with_prompts(texts: Texts, prompts: Mapping[str, str]) -> Texts:
    """The texts as an embedding model reads them: after its prompts in turn, labelled ones after the default.

    Args:
      prompts: see `TaskInfo`.
    """
    default = prompts.get("", "")
    befores = list(dict.fromkeys([default, *prompts.values()]))
    parts: dict[str, Any] = {
        name: [f"{before}{text}" for before, text in zip(itertools.cycle(befores), getattr(texts, name))]
        for name in _SHARES
    }
    labelled = [dataclasses.replace(e, text=tuple(default + text for text in e.text)) for e in texts.labelled]
    return dataclasses.replace(texts, **parts, labelled=labelled)


def _task(config: ModelConfig, columns: tuple[str, ...], metric: str) -> Task:
    """What a model does."""
    kind = config.task_kind
    return Task(kind, metric or next(iter(OF_KIND[kind])), columns, "tags" if kind == "token" else "label")


@dataclasses.dataclass(frozen=True)
class _Source:
    """A file, and how to read it."""

    file: epath.Path
    columns: tuple[str, ...]
    delimiter: str


def _open(
    file: epath.Path, config: ModelConfig, columns: tuple[str, ...], wanted: tuple[str, ...], delimiter: str
) -> _Source:
    words = config.head == "token"
    if len(wanted) > (1 if words else 2):
        most = "a list of words is in one" if words else "a pair of texts is in two"
        raise InputError(f"--text_columns={','.join(wanted)}: {len(wanted)} columns; {most}")
    delimiter = delimiter if file.suffix in formats.TABLES else ""
    file, columns = check_input(str(file), columns, wanted, delimiter)
    return _Source(file, ("words",) if words and file.suffix == ".txt" else columns, delimiter)


def _check_alike(sources: Sequence[_Source]) -> None:
    """Raises `InputError` if there are pairs in some files and single texts in others."""
    for source in sources:
        if len(source.columns) != len(sources[0].columns):
            pair, single = sorted((source, sources[0]), key=lambda source: -len(source.columns))
            raise InputError(
                f"{pair.file} has pairs of texts, in {formats.quoted(pair.columns)}, and {single.file} has single "
                f"ones, in {formats.quoted(single.columns)}; all must be of one kind"
            )


def _read(
    sources: Sequence[_Source],
    config: ModelConfig,
    parts: Parts,
    answer: Callable[[formats.Record], np.ndarray] | None = None,
    answer_columns: tuple[str, ...] = (),
) -> int:
    """Adds the texts of files to `parts`; the number of their records."""
    words, count = config.head == "token", 0
    with progress("reading texts") as report:
        for i, source in enumerate(sources):

            def show(fraction: float) -> None:
                report((i + fraction) / len(sources), f"{count:,} records")  # noqa: B023  # called before the next file

            records = formats.read(
                source.file,
                words=words,
                on_progress=show,
                delimiter=source.delimiter,
                labels=config.labels,
                on_note=say,
                used=(*source.columns, *answer_columns),
            )
            for record in records:
                count += 1
                text = formats.to_text(record, source.columns, words)
                if config.head == "embedding":
                    for piece in [text] if isinstance(text, str) else text:
                        parts.add(piece)
                    continue
                if words:
                    text = split_words(text) if isinstance(text, str) else text
                    if not text:
                        raise InputError(f"{record.where}: a sentence of zero words")
                parts.add(text, answer(record) if answer else None)
    return count
