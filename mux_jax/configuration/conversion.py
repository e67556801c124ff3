"""Typed configurations and `ml_collections.ConfigDict`: what a person edits becomes what the code reads."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import ml_collections

from mux_jax.errors import InputError

T = TypeVar("T")


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
    """A typed configuration as a `ConfigDict`, whose fields `--config.FIELD=VALUE` changes."""
    return ml_collections.ConfigDict({name: _plain(value) for name, value in _items(config)})


def to_json(config: Any) -> dict[str, Any]:
    """A typed configuration as JSON holds it: sections as objects, tuples as lists."""
    return json.loads(json.dumps({name: _plain(value) for name, value in _items(config)}))


def _items(config: Any) -> list[tuple[str, Any]]:
    if hasattr(config, "to_flat"):
        return list(config.to_flat().items())
    return [(field.name, getattr(config, field.name)) for field in dataclasses.fields(config)]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {name: _plain(part) for name, part in _items(value)}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value


def from_mapping(cls: type[T], given: Mapping[str, Any], prefix: str = "") -> T:
    """A typed configuration of a `ConfigDict` or of JSON; fields that are absent have their defaults.

    Raises:
      InputError: a field that does not exist, or of another type.
    """
    hints, from_flat = typing.get_type_hints(cls), getattr(cls, "from_flat", None)
    values = {}
    for name, value in given.items():
        if name in hints:
            values[name] = _typed(hints[name], value, prefix + name)
        elif from_flat:  # options, which the class checks
            values[name] = value
        else:
            raise InputError(f"the configuration has no field {prefix}{name}; there are: {', '.join(hints)}")
    return from_flat(values) if from_flat else cls(**values)


def _typed(kind: Any, value: Any, name: str) -> Any:
    """`value` as a field of this type holds it."""
    if dataclasses.is_dataclass(kind):
        return from_mapping(typing.cast(type, kind), value, f"{name}.")
    if typing.get_origin(kind) is dict:
        part = typing.get_args(kind)[1]
        return {key: _typed(part, item, f"{name}.{key}") for key, item in value.items()}
    if typing.get_origin(kind) is tuple:
        return (value,) if isinstance(value, str) else tuple(value)
    if isinstance(kind, types.UnionType):  # a text or several
        several = isinstance(value, (list, tuple))
        if not all(isinstance(text, str) for text in (value if several else [value])):
            raise InputError(f"{name}={value!r} must be of type str or list of str")
        return tuple(value) if several else value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{name}={value!r} must be of type {kind.__name__}")
    return value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
