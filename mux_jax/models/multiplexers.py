"""Multiplexers: N embedded instances become one sequence, [B, N, L, E] -> [B, L, E].

A new one is a class with a line in `MULTIPLEXERS`, here or in a file of yours:

    class Sum(mux_jax.Multiplexer):
        def __call__(self, embedded_BNLE, mask_BNL):
            return embedded_BNLE.sum(axis=1)

    mux_jax.MULTIPLEXERS["sum"] = Sum
"""

import math
from collections.abc import Callable, Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mux_jax.errors import InputError
from mux_jax.fields import described
from mux_jax.models import released
from mux_jax.models.layers import (
    TransformerLayer,
    multiply,
    partitioned,
    transformer_layer,
    transformer_layer_flops,
)
from mux_jax.models.variant import Variant


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
        dimensions = jnp.arange(E)[None]
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
    blocks_NE = (jnp.arange(E) // (E // N))[None] == jnp.arange(N)[:, None]
    return jnp.einsum("fc,nc,ec->nfe", U, blocks_NE.astype(dtype), H)


class Multiplexer(Variant):
    """The base of multiplexers, called as `multiplexer(embedded_BNLE, mask_BNL) -> mixed_BLE`.

    embedded_BNLE is float [B, N, L, E], the embeddings of each instance; mask_BNL bool [B, N, L],
    True on real tokens, or None where nothing is padding.

    Attributes:
      learn_keys: whether the keys are trained.
    """

    learn_keys: bool = described(False, "whether the multiplexer's keys are trained")

    released_options: ClassVar[dict[str, str]] = {"learn_keys": "learn_muxing"}

    def keys(self, init: Callable[..., jax.Array], shape: tuple[int, ...]) -> jax.Array:
        """The keys v_i, saved with the model; trained only if `learn_keys` is set."""
        keys = jnp.asarray(self.param("keys", partitioned(init, *(None,) * len(shape)), shape))
        return keys if self.learn_keys else jax.lax.stop_gradient(keys)

    def flops(self, length: int) -> int:
        """FLOPs of the matrix products for a row of `length` positions; two for each multiply-add."""
        return 0

    def released_tensors(self) -> Iterator[released.Tensor]:
        yield released.Tensor("instance_embedding", ("multiplexer/keys",))

    def check_parts(self) -> None:
        """Raises `InputError` if there are more instances than embedding dimensions to share out."""
        if self.config.embedding_size < self.config.width:
            raise InputError(
                f"model.width={self.config.width} must be at most model.embedding_size={self.config.embedding_size}: "
                f"model.multiplexer={self.config.multiplexer!r} gives each instance a part of it"
            )


def mix_by_vectors(embedded_BNLE: jax.Array, keys_NE: jax.Array) -> jax.Array:
    """(1/N) sum_i x_i * v_i, [B, L, E]."""
    # An einsum would transpose the instances on CPU.
    return (embedded_BNLE * keys_NE.astype(embedded_BNLE.dtype)[None, :, None]).mean(axis=1)


class Gaussian(Multiplexer):
    """mixed = (1/N) sum_i x_i * v_i; v_i is a fixed Gaussian vector of norm `key_norm` (DataMUX, sec. 3).

    Attributes:
      key_norm: the length of each v_i.
    """

    key_norm: float = described(1.0, "the length of each instance's Gaussian key", above=0, below=math.inf)

    released_name: ClassVar[str] = "gaussian_hadamard"
    released_options: ClassVar[dict[str, str]] = Multiplexer.released_options | {"key_norm": "gaussian_hadamard_norm"}

    @nn.compact
    def __call__(
        self, embedded_BNLE: Float[Array, "B N L E"], mask_BNL: Bool[Array, "#B N L"] | None
    ) -> Float[Array, "B L E"]:
        _, N, _, E = embedded_BNLE.shape
        return mix_by_vectors(embedded_BNLE, self.keys(gaussian_keys(self.key_norm), (N, E)))


class Binary(Multiplexer):
    """mixed = (1/N) sum_i x_i * v_i; v_i is 1 on the i-th of N chunks of the dimensions and 0 elsewhere.

    Attributes:
      binary_epsilon: how far the chunks overlap, as a part of their size.
    """

    binary_epsilon: float = described(0.0, "how far the chunks of the dimensions overlap", at_least=0, at_most=1)

    released_name: ClassVar[str] = "binary_hadamard"
    released_options: ClassVar[dict[str, str]] = Multiplexer.released_options | {
        "binary_epsilon": "binary_hadamard_epsilon"
    }

    def check(self) -> None:
        self.check_parts()

    @nn.compact
    def __call__(
        self, embedded_BNLE: Float[Array, "B N L E"], mask_BNL: Bool[Array, "#B N L"] | None
    ) -> Float[Array, "B L E"]:
        _, N, _, E = embedded_BNLE.shape
        return mix_by_vectors(embedded_BNLE, self.keys(binary_keys(self.binary_epsilon), (N, E)))


def mix_by_matrices(embedded_BNLE: jax.Array, keys_NEE: jax.Array) -> jax.Array:
    """(1/sqrt(N)) sum_i Q_i x_i, [B, L, E]."""
    B, N, L, E = embedded_BNLE.shape
    # One product over instances and dimensions: fast in bfloat16 on CPU, which an einsum is not.
    x_TD = embedded_BNLE.swapaxes(1, 2).reshape(B * L, N * E)
    kernel_DE = keys_NEE.astype(embedded_BNLE.dtype).swapaxes(1, 2).reshape(N * E, E)
    mixed_TE = multiply(x_TD, kernel_DE) if x_TD.dtype == jnp.bfloat16 else x_TD @ kernel_DE
    return mixed_TE.reshape(B, L, E) / math.sqrt(N)


class Orthogonal(Multiplexer):
    """mixed = (1/sqrt(N)) sum_i Q_i x_i; Q_i is a fixed random orthogonal E x E matrix (DataMUX, sec. 3)."""

    released_name: ClassVar[str] = "random_ortho"

    @nn.compact
    def __call__(
        self, embedded_BNLE: Float[Array, "B N L E"], mask_BNL: Bool[Array, "#B N L"] | None
    ) -> Float[Array, "B L E"]:
        _, N, _, E = embedded_BNLE.shape
        return mix_by_matrices(embedded_BNLE, self.keys(orthogonal_keys, (N, E, E)))

    def flops(self, length: int) -> int:
        return 2 * self.config.width * length * self.config.embedding_size**2


class LowRankOrthogonal(Multiplexer):
    """mixed = (1/sqrt(N)) sum_i G_i x_i; G_i = U Z_i^T has rank E // N, and no two G_i share an image.

    U and H are random rotations; Z_i is H on its i-th E // N columns and 0 elsewhere.
    """

    released_name: ClassVar[str] = "random_ortho_low_rank"

    def check(self) -> None:
        self.check_parts()

    @nn.compact
    def __call__(
        self, embedded_BNLE: Float[Array, "B N L E"], mask_BNL: Bool[Array, "#B N L"] | None
    ) -> Float[Array, "B L E"]:
        _, N, _, E = embedded_BNLE.shape
        return mix_by_matrices(embedded_BNLE, self.keys(low_rank_keys, (N, E, E)))

    def flops(self, length: int) -> int:
        return 2 * self.config.width * length * self.config.embedding_size**2


class Contextual(Multiplexer):
    """Attention within each instance, keys, attention across the instances, mean (MUX-PLMs, sec. 3.2).

    g_i = (TRANS_ctx(x_i) + x_i) * v_i;  mixed = (1/N) sum_i (TRANS_inst(g)_i + g_i)

    TRANS_ctx sees the L positions of one instance, TRANS_inst the N instances at one position; v_i
    are Gaussian keys. Both layers are as wide as the embeddings, which in the paper are as wide as
    the encoder. In sequence classification, as released, an instance that is padding at a position is
    not seen there.

    Attributes:
      key_norm: the length of each v_i.
    """

    key_norm: float = described(1.0, "the length of each instance's Gaussian key", above=0, below=math.inf)

    released_name: ClassVar[str] = "gaussian_attention_v2"
    released_options: ClassVar[dict[str, str]] = Gaussian.released_options

    def check(self) -> None:
        if self.config.embedding_size % self.config.num_attention_heads:
            raise InputError(
                f"model.multiplexer='contextual' needs model.embedding_size={self.config.embedding_size} to be a "
                f"multiple of model.num_attention_heads={self.config.num_attention_heads}"
            )

    @nn.compact
    def __call__(
        self, embedded_BNLE: Float[Array, "B N L E"], mask_BNL: Bool[Array, "#B N L"] | None
    ) -> Float[Array, "B L E"]:
        _, N, _, E = embedded_BNLE.shape
        layer = transformer_layer(self.config, self.deterministic)
        keys_NE = self.keys(gaussian_keys(self.key_norm), (N, E)).astype(embedded_BNLE.dtype)

        within = TransformerLayer(**layer, name="within_instance")(embedded_BNLE, mask_BNL)
        keyed_BNLE = (within + embedded_BNLE) * keys_NE[None, :, None]
        keyed_BLNE = keyed_BNLE.swapaxes(1, 2)
        seen = mask_BNL if self.config.head in ("sequence", "embedding") else None
        mask_BLN = None if seen is None else seen.swapaxes(1, 2)
        across = TransformerLayer(**layer, name="across_instances")(keyed_BLNE, mask_BLN)
        return (across + keyed_BLNE).mean(axis=2)

    def flops(self, length: int) -> int:
        N, E, F = self.config.width, self.config.embedding_size, self.config.intermediate_size
        return N * transformer_layer_flops(E, F, length, length) + length * transformer_layer_flops(E, F, N, N)

    def released_tensors(self) -> Iterator[released.Tensor]:
        yield from super().released_tensors()
        yield from released.transformer_layer("muxing_attention", "multiplexer/within_instance")
        yield from released.transformer_layer("muxing_attention_2", "multiplexer/across_instances")


MULTIPLEXERS: dict[str, type[Multiplexer]] = {
    "gaussian": Gaussian,
    "binary": Binary,
    "orthogonal": Orthogonal,
    "low_rank_orthogonal": LowRankOrthogonal,
    "contextual": Contextual,
}
