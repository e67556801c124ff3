"""docs/configuration.md, made from the descriptions of the fields.

python -m mux_jax.configuration.reference > docs/configuration.md
"""

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any

from mux_jax.configuration.finetune import FinetuneConfig
from mux_jax.configuration.pretrain import PretrainConfig
from mux_jax.models.demultiplexers import DEMULTIPLEXERS
from mux_jax.models.families import FAMILIES
from mux_jax.models.multiplexers import MULTIPLEXERS

_HEAD = """# Configuration

Every field of `configs/*.py`, changed by `--config.FIELD=VALUE`. This page is made from the code by
`python -m mux_jax.configuration.reference > docs/configuration.md`.

- Defaults of pre-training are for `size=base`; `size=tiny` is shorter and smaller, and reads the documentation
  of the Python installation. `python launch/pretrain.py --config=FILE` writes what it
  resolved to `config.json` in the run.
- A field without a default depends on `size`.
- The options of the chosen multiplexer and demultiplexer stand in `config.model` too. In fine-tuning they are as in
  `config.init_from` unless given.
- The options of the architecture come from `config.init_from`; without one they have their defaults.
"""


def main() -> None:
    """Prints the page."""
    print(_HEAD)
    print("## Pre-training: configs/mux_bert.py, configs/mux_electra.py\n")
    print("\n".join(_table(PretrainConfig)))
    print("\n## Fine-tuning: configs/finetune.py\n")
    print("\n".join(_table(FinetuneConfig)))
    for title, table in (("architecture", FAMILIES), ("multiplexer", MULTIPLEXERS), ("demultiplexer", DEMULTIPLEXERS)):
        print(f"\n## Options of each {title}\n")
        print(f"| {title} | option | default | allowed | meaning |\n|---|---|---|---|---|")
        for name, cls in table.items():
            for option, field in cls.options().items():
                print(_row(f"`{name}` | `model.{option}`", field, ""))


def _table(config: type) -> Iterator[str]:
    yield "| field | type | default | allowed | meaning |\n|---|---|---|---|---|"
    yield from _rows(config, "")


def _rows(section: type, prefix: str, made: Any = None) -> Iterator[str]:
    """A row for each field of a section, sections within it included; `made` has its defaults."""
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        kind = hints[field.name]
        if "meaning" not in field.metadata and not dataclasses.is_dataclass(kind):
            continue
        if made is not None:
            default = getattr(made, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = field.default
        if dataclasses.is_dataclass(kind):
            known = default if dataclasses.is_dataclass(default) else None
            yield from _rows(typing.cast(type, kind), f"{prefix}{field.name}.", known)
        elif typing.get_origin(kind) is dict:
            part = typing.get_args(kind)[1]
            yield _row(f"`{prefix}{field.name}` | sections", field, ", ".join(default))
            yield from _rows(part, f"{prefix}{field.name}.NAME.")
        else:
            several = {tuple: "list of str", types.UnionType: "str or list of str"}
            name = several.get(typing.get_origin(kind)) or kind.__name__
            yield _row(f"`{prefix}{field.name}` | {name}", field, default)


def _row(start: str, field: dataclasses.Field, default: Any) -> str:
    value = default if default != "" else field.default
    shown = "" if value is dataclasses.MISSING else f"`{','.join(value) if isinstance(value, tuple) else value}`"
    allowed = (
        str(field.metadata["allowed"]).replace("''", "empty").replace("'", "`") if "allowed" in field.metadata else ""
    )
    return f"| {start} | {'' if shown == '``' else shown} | {allowed} | {field.metadata['meaning']} |"


if __name__ == "__main__":
    main()
