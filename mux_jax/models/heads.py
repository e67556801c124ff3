"""Heads: demultiplexed states become logits, in float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from mux_jax.models.dropout import Dropout
from mux_jax.models.layers import INIT, copy_for_rows, dense, gelu, partitioned, product


class VocabularyHead(nn.Module):
    """The decoder to the vocabulary, for retrieval and masked LM: kernel [S, V, D] and bias [V].

    A tied kernel is the table of word embeddings, given by the caller.
    S: see `copy_for_rows`.
    """

    vocab_size: int
    hidden_size: int

    @nn.compact
    def __call__(self, word_SVE: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        bias = self.param("bias", partitioned(nn.initializers.zeros, "vocab"), (self.vocab_size,))
        if word_SVE is None:
            shape = (self.vocab_size, self.hidden_size)
            word_SVE = copy_for_rows(self.param("kernel", partitioned(INIT, "vocab", "embed"), shape), "vocab")
        return word_SVE, bias


def decode(states_TD: jax.Array, kernel_VD: jax.Array, bias_V: jax.Array) -> jax.Array:
    """Logits of states: float32 [T, V]."""
    return product(states_TD, kernel_VD.astype(states_TD.dtype), 1, 1, "float32") + bias_V[None]


class DetectionHead(nn.Module):
    """ELECTRA's discriminator head, the logit of having been replaced: [..., D] -> [...]."""

    dtype: str

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        x = gelu(dense(states.shape[-1], ("embed", "mlp"), self.dtype, "dense")(states))
        logits = dense(1, ("mlp", None), "float32", "prediction")(x)
        return logits.squeeze(-1)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"gelu": gelu, "relu": nn.relu, "tanh": jnp.tanh}


# Of a projection of an embedding, by name.
PROJECTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"": lambda x: x} | ACTIVATIONS


class EmbeddingHead(nn.Module):
    """An embedding of each instance: its tokens' states pooled, projected, made of length 1, in float32.

    States [B, N, L, D], mask bool[#B, N, L] or None -> [B, N, E] (Sentence-BERT, arXiv 1908.10084, sec. 3).

      mean              sum_j h_j / L        of its own L tokens, special ones included
      mean_sqrt_length  sum_j h_j / sqrt(L)
      max               max_j h_j
      cls               h_0
    """

    pooling: str
    projections: tuple[tuple[int, str, bool], ...]
    normalize: bool

    @nn.compact
    def __call__(self, states_BNLD: jax.Array, mask_BNL: jax.Array | None) -> jax.Array:
        x = pool(self.pooling, states_BNLD.astype(jnp.float32), mask_BNL)
        for i, (size, activation, bias) in enumerate(self.projections):
            x = dense(size, ("embed", None), "float32", f"projection_{i}", use_bias=bias)(x)
            x = PROJECTIONS[activation](x)
        if not self.normalize:
            return x
        return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def pool(pooling: str, states_BNLD: jax.Array, mask_BNL: jax.Array | None) -> jax.Array:
    """One state of those of an instance's own tokens, [B, N, D], in a way that `EmbeddingHead` lists."""
    if pooling == "cls":
        return states_BNLD[:, :, 0]
    own = jnp.ones(states_BNLD.shape[:-1], bool) if mask_BNL is None else mask_BNL
    own_BNLD = own[..., None]
    if pooling == "max":
        return jnp.where(own_BNLD, states_BNLD, -1e9).max(axis=2)
    count_BND = own_BNLD.sum(axis=2).astype(jnp.float32)
    count_BND = jnp.sqrt(count_BND) if pooling == "mean_sqrt_length" else count_BND
    return jnp.where(own_BNLD, states_BNLD, 0).sum(axis=2) / jnp.maximum(count_BND, 1e-9)


class ClassificationHead(nn.Module):
    """Logits of classes: [..., D] -> [..., C]. There is a hidden layer if it has an `activation`."""

    num_classes: int
    activation: str
    dropout: float
    dtype: str
    deterministic: bool

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        def drop(x: jax.Array) -> jax.Array:
            return Dropout(self.dropout, self.deterministic)(x)

        x = drop(states)
        if self.activation:
            x = drop(ACTIVATIONS[self.activation](dense(x.shape[-1], ("embed", "mlp"), self.dtype, "dense")(x)))
        return dense(self.num_classes, ("mlp", None), "float32", "output")(x)
