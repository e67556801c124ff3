"""BERT's embedding layer, which a MUX-PLM passes through twice."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mux_jax.models.layers import INIT, broadcast_to_rank, by_copy, copy_for_rows, layer_norm, partitioned, shard_rows


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, LayerNorm, dropout.

    Attributes:
      dtype: of the result.
      deterministic: whether dropout is off; the others are named as in `ModelConfig`.
    """

    vocab_size: int
    embedding_size: int
    max_position_embeddings: int
    dropout: float
    layer_norm_eps: float
    dtype: str
    deterministic: bool

    def setup(self) -> None:
        def table(name: str, rows: int, axis: str | None) -> jax.Array:
            return self.param(name, partitioned(INIT, axis, "embed"), (rows, self.embedding_size))

        # Whole vectors before the lookup, or what is looked up is split along them, not by row.
        self.word_SVE = copy_for_rows(table("word", self.vocab_size, "vocab"), "vocab")
        self.position = table("position", self.max_position_embeddings, None)
        self.token_type = table("token_type", 2, None)
        self.norm = layer_norm(self.layer_norm_eps, self.dtype)
        self.drop = nn.Dropout(self.dropout, deterministic=self.deterministic)

    def __call__(self, tokens: jax.Array, token_types: jax.Array | None = None) -> jax.Array:
        """Embeds tokens int32[..., L] of types int32[..., L] as [..., L, E]; without types all are of type 0."""
        found = by_copy(lambda word_VE, tokens_T: word_VE[tokens_T], self.word_SVE, shard_rows(tokens).ravel())
        return self.add_positions(found.reshape(*tokens.shape, -1), token_types)

    def add_positions(self, embedded: jax.Array, token_types: jax.Array | None = None) -> jax.Array:
        """Adds positions to [..., L, E] and normalises: what follows the word lookup.

        The muxed sequence goes through it a second time, as precomputed input (method, step 3).
        """
        L = embedded.shape[-2]
        added_LE = self.position[:L] + self.token_type[:1]
        added = broadcast_to_rank(added_LE, embedded.ndim)
        if token_types is not None:
            # A choice between rows: its gradient is a sum, where a lookup's would be a slow scatter.
            other_LE = broadcast_to_rank(self.position[:L] + self.token_type[1:2], embedded.ndim)
            added = jnp.where(token_types[..., None] == 1, other_LE, added)
        return self.drop(self.norm(shard_rows(embedded) + added))
