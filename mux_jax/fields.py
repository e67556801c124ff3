"""Described fields: a dataclass field with its default, its meaning and the values it may have.

Configurations, models and the options of multiplexers are made of them. The checks, the error
messages and docs/configuration.md all come from these descriptions.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from mux_jax.errors import InputError

TEXT_OR_LIST = (str, tuple, list)  # of a field that is a text on the command line, and in a file may be several


@dataclasses.dataclass(frozen=True)
class Allowed:
    """The values that a field may have: names, or numbers in an interval.

    Attributes:
      one_of: the names; empty for numbers.
      at_least: the least number, itself allowed.
      above: a number below all that are allowed.
      at_most: the largest number, itself allowed.
      below: a number above all that are allowed.
    """

    one_of: tuple[str, ...] = ()
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float | None = None

    def __contains__(self, value: Any) -> bool:
        if self.one_of:
            return value in self.one_of
        if self == Allowed():
            return True
        inside = self.at_least <= value <= self.at_most and (self.below is None or value < self.below)
        return inside and (self.above == -math.inf or value > self.above)

    def __str__(self) -> str:
        if self.one_of:
            return ", ".join(map(repr, self.one_of))
        low, high = max(self.at_least, self.above), self.at_most if self.below is None else self.below
        if high == math.inf and low > -math.inf:
            finite = " and finite" if self.below == math.inf else ""
            return (
                ("positive" if low == 0 else f"above {low}") + finite
                if low == self.above
                else f"at least {low}{finite}"
            )
        if low > -math.inf:
            return f"in {'(' if low == self.above else '['}{low}, {high}{']' if self.below is None else ')'}"
        return ""


def described(default: Any, meaning: str, *, one_of: Iterable[str] = (), **bounds: float) -> Any:
    """A dataclass field.

    Args:
      default: its default; of a section or a list, the function that makes it.
      meaning: one line.
      one_of: the names that are allowed.
      **bounds: `at_least`, `above`, `at_most`, `below`, for numbers.
    """
    metadata = {"meaning": meaning, "allowed": Allowed(tuple(one_of), **bounds)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(meaning: str, *, one_of: Iterable[str] = (), **bounds: float) -> Any:
    """A dataclass field without a default; it takes the arguments of `described`."""
    return dataclasses.field(metadata={"meaning": meaning, "allowed": Allowed(tuple(one_of), **bounds)})


def check_value(field: dataclasses.Field, value: Any, name: str) -> None:
    """Raises `InputError` if a field may not have this value; `name` is how the user knows the field."""
    allowed = field.metadata.get("allowed", Allowed())
    if value in allowed:
        return
    if allowed.one_of:
        raise InputError(f"{name}={value!r} does not exist; there are: {', '.join(allowed.one_of)}")
    raise InputError(f"{name}={value} must be {allowed}")


def check_fields(described_object: Any, prefix: str = "") -> None:
    """Raises `InputError`, naming the field, unless all fields of a dataclass have values that they may have."""
    for field in dataclasses.fields(described_object):
        check_value(field, getattr(described_object, field.name), prefix + field.name)
