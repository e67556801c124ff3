"""Multiplexers: N embedded instances become one sequence, [B, N, L, E] -> [B, L, E].

Each is a module called as `multiplexer(embedded_BNLE, mask_BNL)`. A new one is a class here and
a line in `MULTIPLEXERS`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mux_jax.models.layers import TransformerLayer, partitioned, transformer_layer


def gaussian_keys(norm: float) -> nn.initializers.Initializer:
    """Rows of independent Gaussian directions, each scaled to `norm`."""

    def init(rng: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        keys = jax.random.normal(rng, shape, dtype)
        return norm * keys / jnp.linalg.norm(keys, axis=-1, keepdims=True)

    return init


class Multiplexer(nn.Module):
    """What all multiplexers share: the configuration and fixed or learned keys."""

    config: "ModelConfig"  # noqa: F821
    deterministic: bool = True

    def keys(self, init: nn.initializers.Initializer, shape: tuple[int, ...]) -> jax.Array:
        """The keys v_i: saved with the model; trained only if `learn_keys` is set."""
        keys = self.param("keys", partitioned(init, *(None,) * len(shape)), shape)
        return keys if self.config.learn_keys else jax.lax.stop_gradient(keys)


class Gaussian(Multiplexer):
    """mean_i x_i * v_i with v_i a fixed Gaussian vector of norm `key_norm` (DataMUX, sec. 3)."""

    @nn.compact
    def __call__(self, embedded_BNLE: jax.Array, mask_BNL: jax.Array | None) -> jax.Array:
        _, N, _, E = embedded_BNLE.shape
        keys_NE = self.keys(gaussian_keys(self.config.key_norm), (N, E)).astype(embedded_BNLE.dtype)
        return jnp.einsum("bnle,ne->ble", embedded_BNLE, keys_NE) / N


class Contextual(Multiplexer):
    """The contextual multiplexer (MUX-PLMs, sec. 3.2): attention before and across instances.

    Its layers are as wide as the embeddings, which in the paper are as wide as the encoder.
    """

    @nn.compact
    def __call__(self, embedded_BNLE: jax.Array, mask_BNL: jax.Array | None) -> jax.Array:
        _, N, _, E = embedded_BNLE.shape
        layer = transformer_layer(self.config, self.deterministic)
        keys_NE = self.keys(gaussian_keys(self.config.key_norm), (N, E)).astype(embedded_BNLE.dtype)

        within = TransformerLayer(**layer, name="within_instance")(embedded_BNLE, mask_BNL)
        keyed_BNLE = (within + embedded_BNLE) * keys_NE[:, None]
        keyed_BLNE = keyed_BNLE.swapaxes(1, 2)
        across = TransformerLayer(**layer, name="across_instances")(keyed_BLNE, None)
        return (across + keyed_BLNE).mean(axis=2)


MULTIPLEXERS = {"gaussian": Gaussian, "contextual": Contextual}
