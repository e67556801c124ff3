"""ModernBERT's layers (arXiv 2412.13663): LayerNorm before each sublayer, rotary positions, local windows, GeGLU."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mux_jax.models.dropout import Dropout
from mux_jax.models.encoder import stack
from mux_jax.models.layers import broadcast_to_rank, dense, gelu, layer_norm, shard_rows

if TYPE_CHECKING:
    from mux_jax.models.config import ModelConfig
    from mux_jax.models.families.modernbert import ModernBert


class ModernBertEncoder(nn.Module):
    """The layers, whose parameters are stacked as those of `Encoder` are, and a LayerNorm after the last.

    Attributes:
      config: the model that it is a part of.
      family: the model's family, with its options.
      deterministic: whether dropout is off.
      split: whether each layer has arrays of its own, as `split_layers` gives them.
    """

    config: "ModelConfig"
    family: "ModernBert"
    deterministic: bool
    split: bool = False

    @nn.compact
    def __call__(self, hidden_BLD: jax.Array, mask_BL: jax.Array | None, num_positions: int | None = None) -> jax.Array:
        """The last states of the first `num_positions` positions, [B, num_positions, D], or of all.

        hidden [B, L, D]; mask bool[B, L] or None to let every position be seen.
        """
        config, count = self.config, self.config.num_hidden_layers
        parts = (config, self.family, self.deterministic)
        final_norm = layer_norm(config.layer_norm_eps, config.compute_dtype, "final_norm", use_bias=False)
        if self.split:
            hidden = hidden_BLD
            for i in range(count):
                layer = ModernBertLayer(*parts, name=f"layers_{i}")
                hidden = layer(hidden, mask_BL, i, num_positions if i == count - 1 else None)
            return final_norm(hidden)
        layers = stack(_Layer, config, in_axes=(nn.broadcast, 0))(*parts, name="layers")
        return final_norm(layers(hidden_BLD, mask_BL, jnp.arange(count))[0][:, :num_positions])


class ModernBertLayer(nn.Module):
    """A layer on [B, L, D]; of its first positions, or of all.

    h = h + attention(LN(h));  h = h + (GELU(x W_input) * x W_gate) W_output with x = LN(h)

    The first layer reads embeddings, which are normalised, and has no LayerNorm before its attention. Its place
    in the stack of parameters is not read.
    """

    config: "ModelConfig"
    family: "ModernBert"
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        hidden: jax.Array,
        mask_BL: jax.Array | None,
        number: jax.Array | int,
        num_positions: int | None = None,
    ) -> jax.Array:
        """The states of the first `num_positions` positions; `number` is that of the layer, from 0."""
        config, family = self.config, self.family

        def norm(x: jax.Array, name: str) -> jax.Array:
            return layer_norm(config.layer_norm_eps, config.compute_dtype, name, use_bias=False)(x)

        def project(x: jax.Array, features: int, axes: tuple[str, str], name: str) -> jax.Array:
            return dense(features, axes, config.compute_dtype, name, use_bias=False)(x)

        x = jnp.where(number == 0, hidden, norm(hidden, "attention_norm"))
        attention = ModernBertAttention(config, family, self.deterministic, name="attention")
        is_local = number % family.global_attn_every_n_layers != 0
        hidden = hidden[:, :num_positions] + attention(x, mask_BL, is_local, num_positions)
        x = project(norm(hidden, "mlp_norm"), 2 * config.intermediate_size, ("embed", "mlp"), "intermediate")
        x, gate = jnp.split(x, 2, axis=-1)
        x = Dropout(config.hidden_dropout, self.deterministic)(gelu(x) * gate)
        return shard_rows(hidden + project(x, config.hidden_size, ("mlp", "embed"), "output"))


class _Layer(ModernBertLayer):
    """A layer in the form that `nn.scan` asks for: carry in, (carry, output) out."""

    def __call__(  # type: ignore[override]  # it is what scan asks for
        self, hidden: jax.Array, mask_BL: jax.Array | None, number: jax.Array
    ) -> tuple[jax.Array, None]:
        return super().__call__(hidden, mask_BL, number), None


class ModernBertAttention(nn.Module):
    """Multi-head self-attention with rotary positions, of which a local layer sees a window.

    Queries, keys and values come from one matrix, at all positions: where few queries are read, only those are
    compared with keys.
    """

    config: "ModelConfig"
    family: "ModernBert"
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        mask_BL: jax.Array | None,
        is_local: jax.Array | bool,
        num_positions: int | None = None,
    ) -> jax.Array:
        """What the first `num_positions` positions see, [B, num_positions, D], or all of them.

        x [B, L, D]; mask bool[B, L], True where a key may be seen, or None; `is_local`: of the layer, a number that
        the program may not know, so that one program serves all layers.
        """
        config, family, dtype = self.config, self.family, self.config.compute_dtype
        (B, L, D), H, K = x_BLD.shape, config.num_attention_heads, config.head_size

        def drop(x: jax.Array) -> jax.Array:
            return Dropout(config.attention_dropout, self.deterministic)(x)

        qkv = dense(3 * D, ("embed", "heads"), dtype, "qkv", use_bias=False)(x_BLD)
        # Heads before positions: batched products over trailing axes are the fast ones on CPU.
        query, key, value = qkv.reshape(B, L, 3, H, K).transpose(2, 0, 3, 1, 4)
        local_K, global_K = (rotary_frequencies(x, K) for x in (family.local_rope_theta, family.global_rope_theta))
        angles_LK = rotary_angles(L, jnp.where(is_local, local_K, global_K))
        query, key = rotate(query, angles_LK)[:, :, :num_positions], rotate(key, angles_LK)
        scores = jnp.einsum("bhqk,bhtk->bhqt", query * K**-0.5, key, preferred_element_type=jnp.float32)

        place_QL, place_LL = (jax.lax.broadcasted_iota(jnp.int32, (num_positions or L, L), axis) for axis in (0, 1))
        distance_QL = jnp.abs(place_QL - place_LL)
        seen = ((distance_QL <= family.local_attention // 2) | jnp.logical_not(is_local))[None, None]
        if mask_BL is not None:
            seen &= mask_BL[:, None, None]
        # The lowest number, not -inf: a query of padding may see no key at all.
        scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
        weights = drop(jax.nn.softmax(scores, axis=-1).astype(dtype))
        mixed = jnp.einsum("bhqt,bhtk->bqhk", weights, value)
        return drop(dense(D, ("heads", "embed"), dtype, "output", use_bias=False)(mixed.reshape(B, -1, D)))


def rotary_frequencies(base: float, head_size: int) -> np.ndarray:
    """float32[K / 2]: what a pair of dimensions turns by from one position to the next, 1 to nearly 1 / base."""
    return (base ** -(np.arange(0, head_size, 2) / head_size)).astype(np.float32)


def rotary_angles(length: int, frequencies: jax.Array) -> jax.Array:
    """float32[L, K / 2]: what a pair of dimensions is turned by at each position."""
    place_LF = jax.lax.broadcasted_iota(jnp.float32, (length, frequencies.shape[0]), 0)
    return place_LF * frequencies[None]


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """[..., L, K] with each pair of dimensions, i and i + K / 2, turned (RoFormer, arXiv 2104.09864, sec. 3.2.2).

    The product of a query and a key then depends on how far apart they are, not on where. Computed in float32.
    """
    angles = broadcast_to_rank(angles, x.ndim)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


class ModernBertHead(nn.Module):
    """Logits of classes: [..., D] -> [..., C] float32.

    logits = LN(GELU(x W)) W_output + b
    """

    config: "ModelConfig"
    deterministic: bool

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        config, dtype = self.config, self.config.compute_dtype
        x = gelu(dense(config.hidden_size, ("embed", "mlp"), dtype, "dense", use_bias=False)(states))
        x = layer_norm(config.layer_norm_eps, dtype, "norm", use_bias=False)(x)
        x = Dropout(config.hidden_dropout, self.deterministic)(x)
        return dense(len(config.labels), ("mlp", None), "float32", "output")(x)
