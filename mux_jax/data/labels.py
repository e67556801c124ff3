"""Labels: what of a file can be one, and what it is called."""

from collections.abc import Collection, Sequence
from typing import Any

from mux_jax.data.formats import quoted
from mux_jax.errors import InputError

NO_AGREEMENT = "-"  # of annotators of a pair, as SNLI has it
_INFERENCE = {"entailment", "neutral", "contradiction"}
_MOST_SHOWN = 20


def to_label(value: Any, names: Sequence[str] = ()) -> str:
    """The label that a value of a file is.

    Texts are labels as they are written, booleans and whole numbers by their text: 1, 1.0 and "1" are one label.

    Args:
      names: of the labels in order, if they are known; numbers, unless names are numbers themselves, count from 0.

    Raises:
      ValueError: it is none; the message says what it is.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value != value or isinstance(value, str) and not value.strip():
        raise ValueError("no label")
    if not isinstance(value, str | int):
        raise ValueError(f"label {value!r} is not a text, a whole number or a boolean")
    text = str(value)
    return name_of(int(text), names) if names and _is_number(text) and not any(map(_is_number, names)) else text


def name_of(number: int, names: Sequence[str]) -> str:
    """The name of a label that is a number; `NO_AGREEMENT` of -1 in an inference task.

    Raises:
      ValueError: there is no such number.
    """
    if number == -1 and is_inference(names):
        return NO_AGREEMENT
    if not 0 <= number < len(names):
        raise ValueError(f"label {number} has no name, as 0 to {len(names) - 1} have,")
    return names[number]


def is_inference(labels: Collection[str]) -> bool:
    """Whether all labels are those of natural language inference, and there are any."""
    return bool(labels) and {label.lower() for label in labels} <= _INFERENCE


def parse_names(given: str) -> tuple[str, ...]:
    """The names in `data.labels`; none if it is empty.

    Raises:
      InputError: they cannot be the classes of a task.
    """
    names = tuple(given.split(",")) if given else ()
    if len(names) == 1 or not all(name.strip() for name in names):
        raise InputError(f"data.labels={given!r} must be two names or more, separated by commas, such as O,B-PER,I-PER")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"data.labels has {twice!r} twice; each is a class of its own")
    return names


def alike(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that another one differs from by blanks, case or a final `.0` alone."""
    keys = ["".join(label.split()).casefold().removesuffix(".0") for label in labels]
    return tuple(label for label, key in zip(labels, keys) if keys.count(key) > 1)


def shown(labels: Sequence[str]) -> str:
    """Labels as a message shows them: quoted, the first ones of many."""
    more = len(labels) - _MOST_SHOWN
    return quoted(labels[:_MOST_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
