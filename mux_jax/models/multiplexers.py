"""Multiplexers: N embedded instances become one sequence, [B, N, L, E] -> [B, L, E].

Each is a module called as `multiplexer(embedded_BNLE, mask_BNL)`. A new one is a class here and
a line in `MULTIPLEXERS`.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from mux_jax.models.layers import TransformerLayer, multiply, partitioned, transformer_layer


def gaussian_keys(norm: float) -> nn.initializers.Initializer:
    """Rows of independent Gaussian directions, each scaled to `norm`."""

    def init(rng: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        keys = jax.random.normal(rng, shape, dtype)
        return norm * keys / jnp.linalg.norm(keys, axis=-1, keepdims=True)

    return init


def binary_keys(epsilon: float) -> nn.initializers.Initializer:
    """Row i is 1 on the i-th of N chunks of the E dimensions and 0 elsewhere.

    Chunks have E // N dimensions, the last one the rest too. `epsilon` widens each by epsilon/2 of
    that on the sides where it has a neighbour, in whole dimensions as the released code counts them.
    """

    def init(_: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        N, E = shape
        size = E // N
        start, end = jnp.arange(N) * size, jnp.arange(1, N + 1) * size
        start = start.at[1:].set(jnp.floor(start[1:] - epsilon / 2 * size).astype(int))
        end = end.at[:-1].set(jnp.floor(end[:-1] + epsilon / 2 * size).astype(int)).at[-1].set(E)
        dimensions = jnp.arange(E)
        return ((start[:, None] <= dimensions) & (dimensions < end[:, None])).astype(dtype)

    return init


def orthogonal_keys(rng: jax.Array, shape: tuple[int, int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """N random orthogonal E x E matrices, Haar-distributed."""
    return jax.random.orthogonal(rng, shape[-1], shape[:1], dtype)


def low_rank_keys(rng: jax.Array, shape: tuple[int, int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """G_i = U Z_i^T: H and U random rotations, Z_i being H on its i-th E // N columns and 0 elsewhere."""
    N, E, _ = shape
    H, U = jax.random.orthogonal(rng, E, (2,), dtype)
    H, U = (matrix.at[:, 0].multiply(jnp.sign(jnp.linalg.det(matrix))) for matrix in (H, U))
    blocks_NE = jnp.arange(E) // (E // N) == jnp.arange(N)[:, None]
    return jnp.einsum("fc,nc,ec->nfe", U, blocks_NE.astype(dtype), H)


class Multiplexer(nn.Module):
    """What all multiplexers share: the configuration and fixed or learned keys."""

    config: "ModelConfig"  # noqa: F821
    deterministic: bool = True

    def keys(self, init: nn.initializers.Initializer, shape: tuple[int, ...]) -> jax.Array:
        """The keys v_i: saved with the model; trained only if `learn_keys` is set."""
        keys = self.param("keys", partitioned(init, *(None,) * len(shape)), shape)
        return keys if self.config.learn_keys else jax.lax.stop_gradient(keys)


class Hadamard(Multiplexer):
    """mean_i x_i * v_i, v_i a vector of the instance: Gaussian or binary keys."""

    @nn.compact
    def __call__(self, embedded_BNLE: jax.Array, mask_BNL: jax.Array | None) -> jax.Array:
        _, N, _, E = embedded_BNLE.shape
        keys_NE = self.keys(self.init_keys(), (N, E)).astype(embedded_BNLE.dtype)
        return (embedded_BNLE * keys_NE[:, None]).mean(axis=1)  # an einsum would transpose the instances on CPU


class Gaussian(Hadamard):
    """v_i is a Gaussian vector of norm `key_norm` (DataMUX, sec. 3)."""

    def init_keys(self) -> nn.initializers.Initializer:
        return gaussian_keys(self.config.key_norm)


class Binary(Hadamard):
    """v_i selects the i-th chunk of the dimensions: the instances share the embedding out."""

    def init_keys(self) -> nn.initializers.Initializer:
        return binary_keys(self.config.binary_epsilon)


class Orthogonal(Multiplexer):
    """sum_i Q_i x_i / sqrt(N), Q_i a random orthogonal matrix (DataMUX, sec. 3)."""

    init_keys = staticmethod(orthogonal_keys)

    @nn.compact
    def __call__(self, embedded_BNLE: jax.Array, mask_BNL: jax.Array | None) -> jax.Array:
        B, N, L, E = embedded_BNLE.shape
        keys_NEE = self.keys(self.init_keys, (N, E, E)).astype(embedded_BNLE.dtype)
        # One product over instances and dimensions: fast in bfloat16 on CPU, which an einsum is not.
        x_TD = embedded_BNLE.swapaxes(1, 2).reshape(B * L, N * E)
        kernel_DE = keys_NEE.swapaxes(1, 2).reshape(N * E, E)
        mixed_TE = multiply(x_TD, kernel_DE) if x_TD.dtype == jnp.bfloat16 else x_TD @ kernel_DE
        return mixed_TE.reshape(B, L, E) / math.sqrt(N)


class LowRankOrthogonal(Orthogonal):
    """The same with matrices of rank E // N whose images do not overlap."""

    init_keys = staticmethod(low_rank_keys)


class Contextual(Multiplexer):
    """The contextual multiplexer (MUX-PLMs, sec. 3.2): attention before and across instances.

    Its layers are as wide as the embeddings, which in the paper are as wide as the encoder. In
    sequence classification, as released, an instance that is padding at a position is not seen there.
    """

    @nn.compact
    def __call__(self, embedded_BNLE: jax.Array, mask_BNL: jax.Array | None) -> jax.Array:
        _, N, _, E = embedded_BNLE.shape
        layer = transformer_layer(self.config, self.deterministic)
        keys_NE = self.keys(gaussian_keys(self.config.key_norm), (N, E)).astype(embedded_BNLE.dtype)

        within = TransformerLayer(**layer, name="within_instance")(embedded_BNLE, mask_BNL)
        keyed_BNLE = (within + embedded_BNLE) * keys_NE[:, None]
        keyed_BLNE = keyed_BNLE.swapaxes(1, 2)
        masked = self.config.head == "sequence" and mask_BNL is not None
        mask_BLN = mask_BNL.swapaxes(1, 2) if masked else None
        across = TransformerLayer(**layer, name="across_instances")(keyed_BLNE, mask_BLN)
        return (across + keyed_BLNE).mean(axis=2)


MULTIPLEXERS = {
    "gaussian": Gaussian,
    "binary": Binary,
    "orthogonal": Orthogonal,
    "low_rank_orthogonal": LowRankOrthogonal,
    "contextual": Contextual,
}
