"""GLUE's submissions: the benchmark's names of files and labels, and the table that it wants."""

from collections.abc import Sequence
from typing import Any

from mux_jax.data.examples import Example
from mux_jax.errors import InputError

# The files of a task's submission, one for each of its test sets.
FILES = {
    "cola": ("CoLA.tsv",),
    "sst2": ("SST-2.tsv",),
    "mrpc": ("MRPC.tsv",),
    "stsb": ("STS-B.tsv",),
    "qqp": ("QQP.tsv",),
    "mnli": ("MNLI-m.tsv", "MNLI-mm.tsv"),
    "qnli": ("QNLI.tsv",),
    "rte": ("RTE.tsv",),
    "wnli": ("WNLI.tsv",),
}
_PAIRS = {"entailment": "entailment", "not_entailment": "not_entailment"}
# The benchmark's label for each that a model may have: those of GLUE's files, and those of TFDS.
_LABELS = {
    "cola": {"0": "0", "1": "1", "unacceptable": "0", "acceptable": "1"},
    "sst2": {"0": "0", "1": "1", "negative": "0", "positive": "1"},
    "mrpc": {"0": "0", "1": "1", "not_equivalent": "0", "equivalent": "1"},
    "qqp": {"0": "0", "1": "1", "not_duplicate": "0", "duplicate": "1"},
    "mnli": {"contradiction": "contradiction", "entailment": "entailment", "neutral": "neutral"},
    "qnli": _PAIRS,
    "rte": _PAIRS,
    "wnli": {"0": "0", "1": "1", "not_entailment": "0", "entailment": "1"},
}


def check(task: str, labels: tuple[str, ...]) -> None:
    """Raises `InputError` if a task is none of GLUE's, or a model has labels that the benchmark does not know."""
    if task not in FILES:
        raise InputError(f"--submission: task={task} is none of GLUE's; they are: {', '.join(FILES)}")
    for label in labels if task in _LABELS else ():
        if label not in _LABELS[task]:
            raise InputError(f"--submission: the model's label {label!r} is none of {', '.join(_LABELS[task])}")


def table(task: str, examples: Sequence[Example], predicted: Sequence[Any]) -> str:
    """The text of a file: a line for each example, by the benchmark's index; scores of STS-B are from 0 to 5."""
    lines = ["index\tprediction\n"]
    for i, (example, label) in enumerate(zip(examples, predicted, strict=True)):
        name = f"{min(max(label, 0.0), 5.0):.3f}" if task == "stsb" else _LABELS[task][label]
        lines.append(f"{i if example.index is None else example.index}\t{name}\n")
    return "".join(lines)
