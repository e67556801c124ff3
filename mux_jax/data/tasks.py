"""Tasks to fine-tune on: what they are called, what is learned, and where their texts and labels are.

A task is an entry of `TASKS`, or described in a configuration. `examples.read` gives its examples.
"""

import dataclasses
from typing import Any

from mux_jax.data.metrics import OF_KIND
from mux_jax.data.sections import TaskSection
from mux_jax.errors import InputError
from mux_jax.paths import absolute


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned and judged, and where its examples are.

    Attributes:
      kind: a name in `metrics.OF_KIND`.
      metric: what the task is judged by: one of that kind.
      text: the column of the text, or the columns of both texts of a pair.
      label: the column of the label; of `multi_label` of all the labels of a text.
      label_columns: in its place, of `multi_label`: a column of 0 and 1 for each label, called as the label.
      header: the columns of files without a header line.
      dev: the splits to evaluate on, of which the first counts.
      tfds: the data set of TensorFlow Datasets.
      tfds_text: its features of the text, where they are not called as in `text`.
      tfds_label: its feature of the label.
      tfds_dev: its split for `dev`.
      steps: of training, as released.
      builtin: the function of `builtin` that makes the examples; empty for files and TFDS.
      broken: whether the file, as it is distributed, has broken lines, which are left out.
    """

    kind: str
    metric: str
    text: tuple[str, ...] = ("sentence",)
    label: str = "label"
    header: tuple[str, ...] = ()
    dev: tuple[str, ...] = ("dev",)
    tfds: str = ""
    tfds_text: tuple[str, ...] = ()
    tfds_label: str = "label"
    tfds_dev: str = "validation"
    steps: int = 10_000
    builtin: str = ""
    broken: bool = False
    label_columns: tuple[str, ...] = ()


_PAIR = ("sentence1", "sentence2")
_WORDS: dict[str, Any] = dict(kind="token", text=("words",), label="tags", tfds_text=("tokens",), tfds_dev="dev")

TASKS = {
    "cola": Task("sequence", "matthews", header=("source", "label", "star", "sentence"), tfds="glue/cola"),
    "sst2": Task("sequence", "accuracy", tfds="glue/sst2", steps=20_000),
    "mrpc": Task("sequence", "f1", ("#1 String", "#2 String"), "Quality", tfds="glue/mrpc", tfds_text=_PAIR),
    "stsb": Task("regression", "pearson_spearman", _PAIR, "score", tfds="glue/stsb"),
    "qqp": Task(
        "sequence", "f1", ("question1", "question2"), "is_duplicate", tfds="glue/qqp", steps=100_000, broken=True
    ),
    "mnli": Task(
        "sequence",
        "accuracy",
        _PAIR,
        "gold_label",
        dev=("dev_matched", "dev_mismatched"),
        tfds="glue/mnli",
        tfds_text=("premise", "hypothesis"),
        steps=100_000,
    ),
    "qnli": Task("sequence", "accuracy", ("question", "sentence"), tfds="glue/qnli", steps=20_000),
    "rte": Task("sequence", "accuracy", _PAIR, tfds="glue/rte", steps=2_000),
    "wnli": Task("sequence", "accuracy", _PAIR, tfds="glue/wnli", steps=2_000),
    "ner": Task(**_WORDS, metric="span_f1", tfds="conll2003", tfds_label="ner", steps=20_000),
    "pos": Task(**_WORDS, metric="accuracy", tfds="universal_dependencies/en_ewt", tfds_label="upos", steps=20_000),
    "docstrings": Task("sequence", "accuracy", ("text",), steps=600, builtin="docstrings"),
    "code": Task("token", "accuracy", ("words",), "tags", steps=600, builtin="code_lines"),
}


def get_task(data: TaskSection) -> Task:
    """The task that a configuration's section `data` names; `custom` ones are described there.

    Raises:
      InputError: a task or kind that does not exist, or too many columns.
    """
    if data.task != "custom":
        if data.task not in TASKS:
            raise InputError(f"task={data.task!r} does not exist; there are: {', '.join(TASKS)}, custom")
        return TASKS[data.task]
    if data.kind not in OF_KIND:
        raise InputError(f"data.kind={data.kind!r} does not exist; there are: {', '.join(OF_KIND)}")
    if not data.folder:
        raise InputError("task=custom needs data=FOLDER, with files train and dev")
    metric = data.metric or next(iter(OF_KIND[data.kind]))
    text, label = data.text_columns, data.label_column
    if data.kind == "token":  # whose columns are called otherwise, unless they are named
        text, label = ("words" if text == "text" else text), ("tags" if label == "label" else label)
    if data.kind == "embedding" and text == "text":
        text = "anchor,positive"
    columns = tuple(text.split(","))  # as they are written: a name may begin with a blank
    most = {"token": 1, "embedding": 3}.get(data.kind, 2)
    if len(columns) > most:
        raise InputError(f"data.text_columns={text!r}: a task of kind {data.kind} has at most {most}")
    return Task(data.kind, metric, columns, label, label_columns=_label_columns(data))


def judged_by(task: Task) -> Task:
    """How the splits to evaluate on are read: of embeddings pairs with numbers, as STS-B has them."""
    return TASKS["stsb"] if task.kind == "embedding" else task


def check_place(data: TaskSection) -> None:
    """Raises `InputError` if a task that has no files of its own is given a folder or a delimiter for them."""
    if get_task(data).builtin and (data.folder or data.delimiter and not data.unlabelled):
        given = f"the folder {data.folder}" if data.folder else f"the delimiter {data.delimiter!r}"
        raise InputError(f"task={data.task} is made of the Python installation; {given} does not go with it")


def _label_columns(data: TaskSection) -> tuple[str, ...]:
    """The columns of 0 and 1 of a task with several labels a text; none if one column has all of them."""
    columns = tuple(data.label_column.split(","))
    if data.kind != "multi_label" or len(columns) == 1:
        return ()
    if not all(columns) or len(set(columns)) < len(columns):
        raise InputError(f"data.label_column={data.label_column!r} must name each column once, a comma between two")
    if data.labels:
        raise InputError(f"data.labels={data.labels!r}: the labels are the columns {data.label_column!r}")
    return columns


def describe(data: TaskSection) -> str:
    """Where the examples of a configuration's section `data` come from."""
    task = get_task(data)
    if task.builtin:
        return "the Python installation"
    return str(absolute(data.folder)) if data.folder else f"TFDS {task.tfds}"
