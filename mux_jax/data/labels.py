"""Labels: what of a file can be one, and what it is called."""

from collections.abc import Collection, Sequence
from typing import Any

from mux_jax.data.formats import quoted
from mux_jax.errors import InputError

NO_AGREEMENT = "-"  # of annotators of a pair, as SNLI has it
_INFERENCE = {"entailment", "neutral", "contradiction"}
_MOST_SHOWN = 20
_ZERO_OR_ONE = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


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


def to_labels(value: Any, names: Sequence[str] = ()) -> list[str]:
    """The labels of a text, several or none: of a list, or of a text with commas between them and blanks around them.

    Args:
      names: as of `to_label`.

    Raises:
      ValueError: there are none such; the message says what there is.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        raise ValueError(f"{value!r} is a list as text; write names with commas between them, without brackets,")
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")] if value.strip() else []
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list of labels, and no text with commas between them,")
    labels = [to_label(label, names) for label in value]
    for label in labels:
        if "," in label:
            raise ValueError(f"label {label!r} holds a comma, which stands between labels in tables,")
        if labels.count(label) > 1:
            hint = "; for a 0 or 1 a label, name a column for each" if set(labels) <= {"0", "1"} else ""
            raise ValueError(f"label {label!r} twice{hint}")
    return labels


def is_one(value: Any) -> bool:
    """Whether a value of a file is 1, true or 1.0, and not 0, false or 0.0; texts may say so, too.

    Raises:
      ValueError: it is something else.
    """
    found = _ZERO_OR_ONE.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"{value!r} is not 0 or 1, nor false or true,")
    return found


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
