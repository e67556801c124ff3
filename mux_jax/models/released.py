"""Where the tensors of a released checkpoint lie in our parameters.

PyTorch stores the matrix of a linear layer as [out, in], Flax as [in, out]. The released code
gives the demultiplexer's first layer one matrix for [key ; state], where we have two; it gives the
encoder's layers one tensor each, where we stack them.
"""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a released checkpoint.

    Attributes:
      name: its released name.
      paths: where it is in our tree; of two, the first has the upper rows of the matrix and the second the lower.
      layer: the index along our leading axis, for the encoder's stacked layers.
      transposed: whether theirs is the transpose of ours.
    """

    name: str
    paths: tuple[str, ...]
    layer: int | None = None
    transposed: bool = False


def linear(name: str, ours: str, layer: int | None = None, bias: bool = True) -> Iterator[Tensor]:
    """A linear layer."""
    yield Tensor(f"{name}.weight", (f"{ours}/kernel",), layer, transposed=True)
    if bias:
        yield Tensor(f"{name}.bias", (f"{ours}/bias",), layer)


def keyed_linear(name: str, keys: str, states: str) -> Iterator[Tensor]:
    """A linear layer on [key ; state]."""
    yield Tensor(f"{name}.weight", (f"{keys}/kernel", f"{states}/kernel"), transposed=True)
    yield Tensor(f"{name}.bias", (f"{states}/bias",))


def norm(name: str, ours: str, layer: int | None = None, bias: bool = True) -> Iterator[Tensor]:
    """A LayerNorm."""
    yield Tensor(f"{name}.weight", (f"{ours}/scale",), layer)
    if bias:
        yield Tensor(f"{name}.bias", (f"{ours}/bias",), layer)


def transformer_layer(name: str, ours: str, layer: int | None = None) -> Iterator[Tensor]:
    """A Transformer layer under BERT's names."""
    for part in ("query", "key", "value"):
        yield from linear(f"{name}.attention.self.{part}", f"{ours}/attention/{part}", layer)
    yield from linear(f"{name}.attention.output.dense", f"{ours}/attention/output", layer)
    yield from norm(f"{name}.attention.output.LayerNorm", f"{ours}/attention_norm", layer)
    yield from linear(f"{name}.intermediate.dense", f"{ours}/intermediate", layer)
    yield from linear(f"{name}.output.dense", f"{ours}/output", layer)
    yield from norm(f"{name}.output.LayerNorm", f"{ours}/output_norm", layer)
