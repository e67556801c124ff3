"""Arguments of a configuration file: what follows the colon of `--config=FILE:size=base,width=5`."""

from typing import Any

from mux_jax.errors import InputError


def parse_arguments(argument: str | None, **defaults: Any) -> dict[str, Any]:
    """Parses `size=base,width=5`.

    Each name must be one of `defaults`; its default's type is the type it is read as.

    Raises:
      InputError: an unknown name, or a value of another type.
    """
    values = dict(defaults)
    for item in filter(None, (argument or "").split(",")):
        name, equals, text = item.partition("=")
        if name not in defaults or not equals:
            allowed = ", ".join(f"{k}={v}" for k, v in defaults.items())
            raise InputError(f"config argument {item!r} is unknown; there are (with defaults): {allowed}")
        try:
            values[name] = type(defaults[name])(text)
        except ValueError as e:
            raise InputError(f"config argument {item!r}: {name} is of type {type(defaults[name]).__name__}") from e
    return values
