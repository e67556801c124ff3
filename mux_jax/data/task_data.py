"""A task's examples with a tokenizer: read, checked and encoded."""

import dataclasses
import hashlib
from collections.abc import Iterator

from mux_jax.data.encoding import Encoded, Encoder, say_if_words_are_joined
from mux_jax.data.examples import Example, read, read_file
from mux_jax.data.labels import alike, parse_names, shown
from mux_jax.data.metrics import SPAN_TAG
from mux_jax.data.sections import TaskSection
from mux_jax.data.tasks import Task, describe, get_task, judged_by
from mux_jax.data.tokenizer import ModelTokenizer, SpecialTokens
from mux_jax.errors import InputError
from mux_jax.paths import absolute
from mux_jax.progress import say


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples with their encoded texts; of embeddings each text of an example by itself, one after the other."""

    examples: list[Example]
    encoded: Encoded


@dataclasses.dataclass(frozen=True)
class TaskData:
    """A task with a tokenizer.

    Attributes:
      task: what is learned and judged.
      tokenizer: what encoded the texts.
      labels: the classes by name; of a regression, its one name.
      splits: `train` and the names in `task.dev`, or the latter alone.
    """

    task: Task
    tokenizer: ModelTokenizer
    labels: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def special(self) -> SpecialTokens:
        """The special tokens' ids."""
        return self.tokenizer.special

    def digest(self) -> str:
        """The same for the same texts and labels."""
        splits = {name: [(e.text, e.label) for e in split.examples] for name, split in self.splits.items()}
        return text_digest(repr(splits))


def text_digest(text: str) -> str:
    """A digest of a text, 16 characters."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def load_task(
    data: TaskSection,
    tokenizer: ModelTokenizer,
    labels: tuple[str, ...] | None = None,
    split: str = "dev",
    texts: str = "",
    labelled: bool = True,
    prompt: str = "",
) -> TaskData:
    """Reads a task's examples; what was read is printed.

    Args:
      labels: of a model to evaluate, for which no training data are read. None: those in `data.labels`, or else of the
        training data.
      split: `dev` or `test`: the splits to evaluate on, which the result's `task.dev` names.
      texts: a file to evaluate on in their place.
      labelled: whether the examples to evaluate on have labels; those of GLUE's test sets have none.
      prompt: what an embedding model puts before texts; those to train on are as they come.

    Raises:
      InputError: bad data, by file and line; a label that is not among these.
    """
    task, names = get_task(data), parse_names(data.labels)
    if texts:
        file = absolute(texts)
        task = dataclasses.replace(task, dev=(file.name,))
        examples = {file.name: read_file(judged_by(task), file, data.delimiter, names)}
    else:
        task = dataclasses.replace(task, dev=tuple(name.replace("dev", split) for name in task.dev))
        examples = read(task, data, task.dev if labels is not None else ("train", *task.dev), labelled)
    among = "data.labels" if names and labels is None else "those trained on"
    labels = _training_labels(task, examples["train"], names) if labels is None else labels
    for part in examples.values() if labelled else ():
        check_labels(task, part, labels, among)
    if task.metric == "span_f1":
        _check_spans(labels)
    if task.kind == "token":
        say_if_words_are_joined(tokenizer)
    encode = Encoder(tokenizer, data.sequence_length)
    apart = task.kind == "embedding"  # whose texts are each encoded
    before = {name: "" if name == "train" else prompt for name in examples}
    splits = {
        name: Split(part, encode([before[name] + x for e in part for x in e.text] if apart else [e.text for e in part]))
        for name, part in examples.items()
    }
    counts = ", ".join(f"{len(part):,} {name}" for name, part in examples.items())
    known = "" if apart else f"; {len(labels)} labels: {shown(labels)}"
    say(f"{data.task}: {counts} examples from {texts or describe(data)}{known}")
    for name, found in splits.items():
        if found.encoded.truncated:
            say(f"{name}: {found.encoded.truncated:,} texts are longer than {data.sequence_length} tokens; cut")
    return TaskData(task, tokenizer, labels, splits)


def _labels_of(task: Task, example: Example) -> list[str]:
    return example.label if task.kind in ("token", "multi_label") else [example.label]


def _training_labels(task: Task, examples: list[Example], names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes, which are `names` if there are any; what may be wrong with them is printed."""
    if task.kind == "embedding":
        return ()
    if task.kind == "regression":
        return (task.label,)
    found = sorted({label for example in examples for label in _labels_of(task, example)})
    labels = names or task.label_columns or tuple(found)
    if len(labels) < 2:
        raise InputError(f"the training data has the label {shown(labels)} and no other; two are the least")
    if missing := [label for label in labels if label not in found]:
        say(f"data.label{'s' if names else '_column'}: no example to train on has {shown(missing)}")
    if task.kind == "multi_label" and all(len(example.label) == 1 for example in examples):
        say("every example to train on has exactly one label; data.kind=sequence is for tasks in which that is so")
    if similar := alike(labels):
        say(f"labels that differ by blanks, case or a final .0 alone are classes of their own: {shown(similar)}")
    if found == ["-1", "0", "1", "2"]:  # as SNLI is exported
        say("label -1 is a class; if it says that annotators did not agree, name the others in data.labels")
    return labels


def _check_spans(labels: tuple[str, ...]) -> None:
    """Raises `InputError` if tags do not say where spans begin: F1 is then 0 whatever is predicted."""
    strange = next((label for label in labels if not SPAN_TAG.fullmatch(label)), None)
    if strange is not None:
        raise InputError(
            "data.metric=span_f1 is of tags such as B-PER, I-PER and O (or E-, S-, L-, U-, M-; or B, I ... alone), "
            f"not {strange!r}; the labels are {shown(labels)}; name them so, or take accuracy or macro_f1"
        )


def check_labels(task: Task, examples: list[Example], labels: tuple[str, ...], among: str = "those trained on") -> None:
    """Raises `InputError`, with file and line, if an example has a label that is not in `labels`.

    So it does if the columns of 0 and 1 of a task are not these labels. `among` is what messages call them.
    """
    if task.kind in ("regression", "embedding"):
        return
    if task.label_columns and set(task.label_columns) != set(labels):
        columns = ",".join(task.label_columns)
        raise InputError(f"data.label_column={columns!r} must name the labels of the model: {shown(labels)}")
    known, hint = set(labels), ""
    if labels == tuple(f"LABEL_{i}" for i in range(len(labels))):
        hint = "; put their names in `id2label` of the model's config.json"
    elif among == "those trained on":
        hint = "; data.labels names all classes in order, also those that are numbers in files"
    for example in examples:
        for label in _labels_of(task, example):
            if label not in known:
                raise InputError(f"{example.where}: label {label!r} is not among {among}: {shown(labels)}{hint}")


class TaskTexts:
    """The training texts of a task as a source of text (see `sources`); words have spaces between them, so do pairs.

    Raises:
      InputError: as `read`.
    """

    def __init__(self, data: TaskSection):
        self.name = data.task
        examples = read(get_task(data), data, ("train",))["train"]
        self._texts = [e.text if isinstance(e.text, str) else " ".join(e.text) for e in examples]

    def fingerprint(self) -> str:
        return hashlib.blake2b(repr(self._texts).encode(), digest_size=16).hexdigest()

    def documents(self) -> Iterator[tuple[str, float]]:
        yield from ((text, (i + 1) / len(self._texts)) for i, text in enumerate(self._texts))
