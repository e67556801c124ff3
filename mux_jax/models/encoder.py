"""The Transformer encoder: a stack of post-LayerNorm layers with stacked parameters."""

import operator
from typing import TYPE_CHECKING, Any

import jax
from flax import linen as nn

from mux_jax.models.layers import RelativeBias, TransformerLayer, transformer_layer

if TYPE_CHECKING:
    from mux_jax.models.config import ModelConfig


class Encoder(nn.Module):
    """`num_hidden_layers` Transformer layers under `nn.scan`.

    Their parameters have a leading axis `layers` whether the stack is scanned (a loop on the
    device: short compilation) or unrolled (no loop: faster on CPU), so checkpoints fit both. For
    inference `split_layers` takes them apart.

    Attributes:
      config: the model that it is a part of.
      deterministic: whether dropout is off.
      split: whether each layer has arrays of its own, as `split_layers` gives them.
    """

    config: "ModelConfig"
    deterministic: bool
    split: bool = False

    @nn.compact
    def __call__(self, hidden_BLD: jax.Array, mask_BL: jax.Array | None, num_positions: int | None = None) -> jax.Array:
        """The last states of the first `num_positions` positions, [B, num_positions, D], or of all.

        hidden [B, L, D]; mask bool[B, L] or None to let every position be seen.
        """
        config, bias_HLL = self.config, None
        if config.family.relative_bias:
            bias_HLL = RelativeBias(config.num_attention_heads, name="relative_bias")(hidden_BLD.shape[1])
        if self.split:
            hidden, last = hidden_BLD, config.num_hidden_layers - 1
            for i in range(config.num_hidden_layers):
                layer = TransformerLayer(**transformer_layer(config, self.deterministic), name=f"layers_{i}")
                hidden = layer(hidden, mask_BL, num_positions if i == last else None, bias_HLL)
            return hidden
        layers = stack(_Layer, config)(**transformer_layer(config, self.deterministic), name="layers")
        return layers(hidden_BLD, mask_BL, bias_HLL)[0][:, :num_positions]


def stack(layer: type[nn.Module], config: "ModelConfig", in_axes: Any = nn.broadcast) -> Any:
    """A module of `num_hidden_layers` of a layer, called as (hidden, *arguments) -> (hidden, output of each).

    Args:
      layer: called in the same way.
      in_axes: which of its arguments have a leading axis of layers, as `nn.scan` has it.
    """
    scanned: Any = layer
    if config.remat:
        scanned = nn.remat(scanned, prevent_cse=not config.scan_layers)
    return nn.scan(
        scanned,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=config.num_hidden_layers,
        unroll=1 if config.scan_layers else config.num_hidden_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def split_layers(params: Any, dtype: str = "float32") -> Any:
    """The parameters of a `MuxModel` with `split_layers`: each layer has arrays of its own.

    No weight is then cut out of a larger array at each pass, and the last layer is computed only
    where it is read. The arrays stay split over devices as they were.

    dtype: that the layers multiply in. Their matrices are kept in it, which gives the same products without a
      conversion at each pass.
    """
    encoder = dict(params["encoder"])
    layers = encoder.pop("layers")
    count = len(jax.tree.leaves(layers)[0])
    # By index: to iterate over an array brings it to one device, and fails if another host has some of it.
    split = {f"layers_{i}": jax.tree.map(operator.itemgetter(i), layers) for i in range(count)}
    if dtype != "float32":
        split = jax.tree.map(lambda x: x.astype(dtype) if x.ndim == 2 else x, split)
    return params | {"encoder": encoder | split}


class _Layer(TransformerLayer):
    """A layer in the form that `nn.scan` asks for: carry in, (carry, output) out."""

    def __call__(  # type: ignore[override]  # it is what scan asks for
        self, hidden: jax.Array, mask: jax.Array | None, bias_HLL: jax.Array | None
    ) -> tuple[jax.Array, None]:
        return super().__call__(hidden, mask, bias_HLL=bias_HLL), None
