"""What parts of a model compute, by their parameters: embeddings, the two halves of a layer, attention."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mux_jax.compression.regression import Params
from mux_jax.models.config import ModelConfig
from mux_jax.models.layers import RelativeBias, TransformerLayer, transformer_layer
from mux_jax.models.model import MuxModel


def embed(config: ModelConfig, params: Params, tokens_SL: np.ndarray, types_SL: np.ndarray | None) -> jax.Array:
    """What the encoder of a model is given, [B, L, D]: of texts int32[S, L], as many as the width in a row.

    types_SL: their token types, which count at width 1; None: all are 0.
    """
    N, L = config.width, tokens_SL.shape[1]
    tokens_BNL = jnp.asarray(tokens_SL.reshape(-1, N, L))
    types_BNL = None if types_SL is None or N > 1 else jnp.asarray(types_SL[:, None])

    def embedded(bound: MuxModel) -> jax.Array:
        x = bound.embeddings(tokens_BNL, types_BNL)
        x = bound.embeddings.add_positions(bound.multiplexer(x, None)) if N > 1 else x[:, 0]
        return bound.embeddings_project(x) if config.embedding_size != config.hidden_size else x

    names = ("embeddings", "embeddings_project", "multiplexer")
    given = {name: params[name] for name in names if name in params}
    found: Any = jax.jit(lambda params: MuxModel(config).apply({"params": params}, method=embedded))(given)
    return found


def relative_bias(config: ModelConfig, encoder: Params, length: int) -> jax.Array | None:
    """The bias of attention by head, query and key, of a family that has one."""
    if not config.family.relative_bias:
        return None
    found: Any = RelativeBias(config.num_attention_heads).apply({"params": encoder["relative_bias"]}, length)
    return found


@functools.partial(jax.jit, static_argnames="config")
def sublayers(
    config: ModelConfig, layer: Params, state: jax.Array, mask: jax.Array | None, bias_HLL: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The states after attention and its LayerNorm, and after the layer; both [..., L, D]."""
    following, captured = TransformerLayer(**transformer_layer(config, deterministic=True)).apply(
        {"params": layer},
        state,
        mask,
        bias_HLL=bias_HLL,
        capture_intermediates=lambda module, _: module.name == "attention_norm",
        mutable=["intermediates"],
    )
    return captured["intermediates"]["attention_norm"]["__call__"][0], following


@functools.partial(jax.jit, static_argnames="H")
def attend(
    query_SLD: jax.Array, key_SLD: jax.Array, value_SLD: jax.Array, H: int, mask_SL: jax.Array, bias_HLL: jax.Array
) -> jax.Array:
    """What all heads read, side by side, [S, L, D]: attention as in `SelfAttention`, without its projections."""
    S, L, D = query_SLD.shape
    query, key, value = (x.reshape(S, L, H, -1).swapaxes(1, 2) for x in (query_SLD, key_SLD, value_SLD))
    scores = jnp.einsum("shqk,shtk->shqt", query * (D // H) ** -0.5, key)
    if bias_HLL is not None:
        scores += bias_HLL[None]
    scores = jnp.where(mask_SL[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    return jnp.einsum("shqt,shtk->shqk", jax.nn.softmax(scores), value).swapaxes(1, 2).reshape(S, L, D)
