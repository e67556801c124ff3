"""Heads: demultiplexed states become logits, in float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

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
            return nn.Dropout(self.dropout, deterministic=self.deterministic)(x)

        x = drop(states)
        if self.activation:
            x = drop(ACTIVATIONS[self.activation](dense(x.shape[-1], ("embed", "mlp"), self.dtype, "dense")(x)))
        return dense(self.num_classes, ("mlp", None), "float32", "output")(x)
