"""What a multiplexer or demultiplexer says of itself: its options, its checks, its released form."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from flax import linen as nn

from mux_jax.models.released import Tensor

if TYPE_CHECKING:
    from mux_jax.models.config import ModelConfig


class Variant(nn.Module):
    """The base of multiplexers and demultiplexers.

    A subclass declares its own options as attributes made with `mux_jax.described`. They stand in
    `config.model` of a run beside the other fields, and are saved with the model. Everything else
    that the project must know of the variant is a method that the subclass may define.

    Attributes:
      config: the model that it is a part of.
      deterministic: whether dropout is off.
      released_name: what released configurations call it; empty if they do not know it, and the
        model cannot be exported as a Hugging Face folder.
      released_options: the field of released configurations for each option that has one.
    """

    config: "ModelConfig"
    deterministic: bool = True

    released_name: ClassVar[str] = ""
    released_options: ClassVar[dict[str, str]] = {}

    @classmethod
    def options(cls) -> dict[str, dataclasses.Field]:
        """The options that the class declares, by name."""
        return {field.name: field for field in dataclasses.fields(cls) if "meaning" in field.metadata}

    def check(self) -> None:
        """Raises `InputError` if the model in `config` cannot have this variant."""

    def released_tensors(self) -> Iterator[Tensor]:
        """Its tensors in a released checkpoint; paths are those in the parameters of `MuxModel`."""
        return iter(())
