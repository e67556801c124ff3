"""The embedding layer, which a MUX-PLM passes through twice."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import linen as nn

from mux_jax.models.dropout import Dropout
from mux_jax.models.layers import INIT, broadcast_to_rank, by_copy, copy_for_rows, layer_norm, partitioned, shard_rows

if TYPE_CHECKING:
    from mux_jax.models.config import ModelConfig


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, as far as the family has them, LayerNorm, dropout.

    Attributes:
      config: the model that it is a part of.
      deterministic: whether dropout is off.
    """

    config: "ModelConfig"
    deterministic: bool

    def setup(self) -> None:
        config, family = self.config, self.config.family

        def table(name: str, rows: int, axis: str | None) -> jax.Array:
            return self.param(name, partitioned(INIT, axis, "embed"), (rows, config.embedding_size))

        # Whole vectors before the lookup, or what is looked up is split along them, not by row.
        self.word_SVE = copy_for_rows(table("word", config.vocab_size, "vocab"), "vocab")
        self.position = table("position", config.max_position_embeddings, None) if family.position_table else None
        self.token_type = table("token_type", family.type_vocab_size, None) if family.type_vocab_size else None
        self.norm = layer_norm(config.layer_norm_eps, config.compute_dtype, use_bias=family.biases)
        self.drop = Dropout(config.hidden_dropout, self.deterministic)

    def __call__(self, tokens: jax.Array, token_types: jax.Array | None = None) -> jax.Array:
        """Embeds tokens int32[..., L], with types of the same shape or all of type 0, as [..., L, E]."""
        found = by_copy(lambda word_VE, tokens_T: word_VE[tokens_T], self.word_SVE, shard_rows(tokens).ravel())
        return self.add_positions(found.reshape(*tokens.shape, -1), token_types)

    def add_positions(self, embedded: jax.Array, token_types: jax.Array | None = None) -> jax.Array:
        """Adds positions and types to [..., L, E] and normalises: what follows the word lookup.

        The muxed sequence goes through it a second time, as precomputed input (method, step 3).
        """
        L, start, x = embedded.shape[-2], self.config.family.position_offset, shard_rows(embedded)
        if self.position is not None:
            x += broadcast_to_rank(jax.lax.slice_in_dim(self.position, start, start + L), x.ndim)
        if token_types is not None:
            assert self.token_type is not None  # `MuxModel.encode` has seen to it
            chosen = jax.nn.one_hot(token_types, len(self.token_type))  # a lookup's gradient would be a slow scatter
            x += jnp.dot(chosen, self.token_type, precision="highest")
        elif self.token_type is not None:
            x += broadcast_to_rank(self.token_type[0], x.ndim)
        return self.drop(self.norm(x))
