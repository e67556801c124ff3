"""Layers that every part of a model is made of, with their logical axis names.

The names ("embed", "mlp", "heads", ...) say what an axis is; `parallel/mesh.py` holds the one
table that maps them to the axes of a device mesh.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec

from mux_jax.models import attention
from mux_jax.models.dropout import Dropout, draw_seeds

if TYPE_CHECKING:
    from mux_jax.models.config import ModelConfig

INIT = nn.initializers.normal(0.02)
_BUCKETS, _FARTHEST = 32, 128  # of distances, as MPNet has them


def partitioned(init: nn.initializers.Initializer, *axes: str | None) -> nn.initializers.Initializer:
    """An initializer whose parameter carries the logical names of its axes."""
    return nn.with_logical_partitioning(init, axes)


def dense(
    features: int, axes: tuple[str | None, str | None], dtype: str, name: str | None = None, use_bias: bool = True
) -> nn.Module:
    """A BERT-initialised linear layer, [..., D] -> [..., F] in `dtype`; `axes` names the input and the output axis."""
    if dtype == "bfloat16":
        return Dense(features, axes, use_bias, name=name)
    kernel_init, bias_init = partitioned(INIT, *axes), partitioned(nn.initializers.zeros, axes[1])
    return nn.Dense(features, use_bias, dtype, kernel_init=kernel_init, bias_init=bias_init, name=name)


class Dense(nn.Module):
    """What `nn.Dense` is, in bfloat16, with products and gradients that are fast there."""

    features: int
    axes: tuple[str | None, str | None]
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", partitioned(INIT, *self.axes), (x.shape[-1], self.features))
        x = x.astype(jnp.bfloat16)
        y = multiply(x.reshape(-1, x.shape[-1]), kernel.astype(x.dtype)).reshape(*x.shape[:-1], -1)
        if not self.use_bias:
            return y
        bias = self.param("bias", partitioned(nn.initializers.zeros, self.axes[1]), (self.features,))
        return add_bias(y, bias.astype(x.dtype))


@jax.custom_vjp
def add_bias(x: jax.Array, bias_F: jax.Array) -> jax.Array:
    """x + bias, of [..., F]."""
    return x + broadcast_to_rank(bias_F, x.ndim)


def _add_bias_backward(_: None, error: jax.Array) -> tuple[jax.Array, jax.Array]:
    def as_product(error_TF: jax.Array) -> jax.Array:
        # On TPU a sum over the leading axis takes several times as long as reading it; of fewer rows than 8 XLA would
        # make one of the product.
        ones = jnp.ones((8, len(error_TF)), error_TF.dtype)
        return jnp.dot(ones, error_TF, preferred_element_type=jnp.float32)[0]

    def as_sum(error_TF: jax.Array) -> jax.Array:
        return error_TF.sum(axis=0, dtype=jnp.float32)

    error_TF = error.reshape(-1, error.shape[-1])
    total_F = jax.lax.platform_dependent(error_TF, tpu=as_product, default=as_sum)
    return error, total_F.astype(error.dtype)


add_bias.defvjp(lambda x, bias_F: (add_bias(x, bias_F), None), _add_bias_backward)


@jax.custom_vjp
def multiply(x_TD: jax.Array, kernel_DF: jax.Array) -> jax.Array:
    """x @ kernel in their dtype, and its gradient, all by `product`."""
    return product(x_TD, kernel_DF, 1, 0)


def _multiply_forward(x_TD: jax.Array, kernel_DF: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return multiply(x_TD, kernel_DF), (x_TD, kernel_DF)


def _multiply_backward(saved: tuple[jax.Array, jax.Array], error_TF: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_TD, kernel_DF = saved
    return product(error_TF, kernel_DF, 1, 1), product(x_TD, error_TF, 0, 0)


multiply.defvjp(_multiply_forward, _multiply_backward)


def product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int, dtype: str | None = None) -> jax.Array:
    """The product of two matrices over an axis of each, in their dtype or another.

    XLA's CPU backend (0.10) has bfloat16 products, several times as fast as float32 where the CPU
    has AMX, for float32 results and a first matrix that is not transposed; others it computes in
    float32. The transposed matrix loses a row here because XLA would otherwise take the transposition
    into the product.
    """

    def plain(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=dtype)

    def on_cpu(a: jax.Array, b: jax.Array) -> jax.Array:
        if a_axis == 0:
            a = jnp.pad(a, ((0, 0), (0, 1))).T[:-1]
        found = jax.lax.dot_general(a, b, (((1,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)
        return found.astype(dtype or a.dtype)

    return jax.lax.platform_dependent(a, b, cpu=on_cpu, default=plain)


def layer_norm(eps: float, dtype: str, name: str | None = None, use_bias: bool = True) -> nn.LayerNorm:
    """LayerNorm over the last axis; statistics in float32, result in `dtype`."""
    return nn.LayerNorm(
        epsilon=eps,
        dtype=dtype,
        use_bias=use_bias,
        scale_init=partitioned(nn.initializers.ones, "norm"),
        bias_init=partitioned(nn.initializers.zeros, "norm"),
        name=name,
    )


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """The exact (erf) GELU, as BERT has it, computed in float32: in bfloat16 1 + erf is off by a third at -3.

    For the gradient it keeps its slope and nothing else. Written with erf, not by `jax.nn.gelu`,
    whose erfc form doubles the time of a layer's gradient on CPU.
    """
    return _gelu_and_slope(x)[0]


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y, slope = _gelu_and_slope(*primals)
    return y, slope * tangents[0]


def _gelu_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x·Φ(x) and its derivative Φ(x) + x·φ(x), of x's dtype; Φ and φ are of the standard normal distribution."""
    y = x.astype(jnp.float32)
    cumulative = 0.5 * (1.0 + jax.lax.erf(y * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * y * y) / math.sqrt(2 * math.pi)
    return (y * cumulative).astype(x.dtype), (cumulative + y * density).astype(x.dtype)


def broadcast_to_rank(x: jax.Array, rank: int) -> jax.Array:
    """x with leading axes of size 1, so that it has `rank` axes."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)


def shard_rows(x: jax.Array) -> jax.Array:
    """Keeps an activation split over the data axes of the mesh, by its leading axis and no other.

    Without it the compiler may carry the split of a parameter into activations and their gradients.
    """
    return nn.with_logical_constraint(x, ("rows",) + (None,) * (x.ndim - 1))


def copy_for_rows(table: jax.Array, axis: str | None) -> jax.Array:
    """A copy of the table [V, E] for each of the S parts that rows are split into: [S, V, E].

    Why: an embedding table is read in several places (words, the decoder of two losses). Split by rows, each
    place gives a gradient [V, E] for each device's rows, and XLA sums every one of them over devices, hundreds of
    megabytes each time. Here each place adds to the gradient of its own device's copy, and as the gradient of a
    broadcast is a sum, the copies are summed over devices once.

    S is not an argument. It is the product of the mesh axes that `rows` maps to, of the mesh in force (`jax.set_mesh`)
    by the axis rules in force (`nn.logical_axis_rules`); 1 without them. `CompiledByShape` sets both. A device
    holds its own copy and no other, split along V where `axis` says so.

    What is made here is read by `by_copy` alone, under the same mesh, with rows that are split as `shard_rows` splits.
    """
    mesh, names = jax.sharding.get_abstract_mesh(), (nn.logical_to_mesh_axes(("rows",)) or (None,))[0] or ()
    parts = math.prod(mesh.shape.get(name, 1) for name in names)
    copies = jnp.broadcast_to(table, (parts, *table.shape))
    return nn.with_logical_constraint(copies, ("rows", axis, None))


def by_copy(function: Callable, table_SVE: jax.Array, *arrays_T: jax.Array) -> Any:
    """`function(table_VE, *arrays_T)`, of each device's rows by its own copy of `copy_for_rows`.

    The leading axis T of the arrays is rows, or rows and more (rows first), and S divides it: it is cut into S equal
    parts in order, as the mesh splits it. `function` sees one part, [T / S, ...], and the parts of what it returns,
    which must be arrays with that leading axis or numbers, are put together again: [T, ...], or [S] of numbers (a
    number where S is 1).
    """
    S = len(table_SVE)
    if S == 1:  # XLA's CPU backend shares out a leading axis among cores, and one of 1 to a single core
        return function(table_SVE[0], *arrays_T)
    if any(len(x) % S for x in arrays_T):
        raise ValueError(f"{[len(x) for x in arrays_T]} rows do not split into the {S} parts of the mesh")
    names = (nn.logical_to_mesh_axes(("rows",)) or ((),))[0]

    def of_part(table_1VE: jax.Array, *arrays_T: jax.Array) -> Any:
        found = function(table_1VE[0], *arrays_T)
        return jax.tree.map(lambda x: x if x.ndim else x[None], found)

    split = PartitionSpec(names)
    mapped = jax.shard_map(
        of_part,
        in_specs=(split,) * (1 + len(arrays_T)),
        out_specs=split,
        axis_names=set(names),
        check_vma=False,
    )
    return mapped(table_SVE, *arrays_T)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the last but one axis of [..., L, D]."""

    num_heads: int
    dropout: float
    dtype: str
    deterministic: bool
    fused: bool = False

    @nn.compact
    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array | None,
        num_positions: int | None = None,
        bias_HLL: jax.Array | None = None,
    ) -> jax.Array:
        """What the first `num_positions` positions see, [..., num_positions, D], or all of them.

        hidden [..., L, D]; mask bool[..., L], True where a key may be seen, or None; bias_HLL float32, by head,
        query and key, is added to the scores.
        """
        D, H = hidden.shape[-1], self.num_heads
        K = D // H

        def project(name: str, x: jax.Array) -> jax.Array:
            return dense(D, ("embed", "heads"), self.dtype, name)(x)

        def output(mixed: jax.Array) -> jax.Array:
            return dense(D, ("heads", "embed"), self.dtype, "output")(mixed)

        read = hidden[..., :num_positions, :]
        projected = project("query", read), project("key", hidden), project("value", hidden)
        whole = num_positions is None and bias_HLL is None and hidden.ndim == 3
        if self.fused and whole and attention.takes(hidden.shape[-2], H, K):
            dropped = self.dropout and not self.deterministic
            seeds = draw_seeds(self.make_rng("dropout")) if dropped else None
            return output(attention.attend(*projected, mask, H, seeds, self.dropout if dropped else 0.0))
        # Heads before positions: batched products over trailing axes are the fast ones on CPU.
        query, key, value = (x.reshape(*x.shape[:-1], H, K).swapaxes(-3, -2) for x in projected)
        scores = jnp.einsum("...hqk,...htk->...hqt", query * K**-0.5, key, preferred_element_type=jnp.float32)
        if bias_HLL is not None:
            scores += broadcast_to_rank(bias_HLL[:, :num_positions], scores.ndim)
        if mask is not None:
            scores = jnp.where(mask[..., None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        weights = Dropout(self.dropout, self.deterministic)(weights)
        mixed = jnp.einsum("...hqt,...htk->...hqk", weights, value).swapaxes(-3, -2)
        return output(mixed.reshape(read.shape))


class RelativeBias(nn.Module):
    """MPNet's bias of attention, a number for each head and bucket of distances; as in T5 (arXiv 1910.10683, sec. 2.1).

    Half of the buckets are for keys after the query. Of each half, the first half holds one distance each, the rest
    ever more, up to `_FARTHEST` and all beyond.
    """

    num_heads: int

    @nn.compact
    def __call__(self, length: int) -> jax.Array:
        """float32 [H, L, L], by head, query and key."""
        table = self.param("table", partitioned(INIT, None, None), (_BUCKETS, self.num_heads))
        query_LL, key_LL = (jax.lax.broadcasted_iota(jnp.int32, (length, length), axis) for axis in (0, 1))
        after_LL = jnp.clip(key_LL - query_LL, -_FARTHEST, _FARTHEST)
        bias_AH = table[self.buckets(np.arange(-_FARTHEST, _FARTHEST + 1))]
        return bias_AH[after_LL + _FARTHEST].transpose(2, 0, 1)

    @staticmethod
    def buckets(after: np.ndarray) -> np.ndarray:
        """int[...]: the bucket of keys that are so many positions `after` the query."""
        half, exact = _BUCKETS // 2, _BUCKETS // 4
        distance = np.abs(after)
        logarithm = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / math.log(_FARTHEST / exact)
        far = np.minimum(exact + (logarithm * (half - exact)).astype(int), half - 1)
        return half * (after > 0) + np.where(distance < exact, distance, far)


class TransformerLayer(nn.Module):
    """A post-LayerNorm Transformer layer, BERT's, on [..., L, D]; of its first positions, or of all."""

    num_heads: int
    intermediate_size: int
    hidden_dropout: float
    attention_dropout: float
    layer_norm_eps: float
    dtype: str
    deterministic: bool
    fused_attention: bool = False

    @nn.compact
    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array | None,
        num_positions: int | None = None,
        bias_HLL: jax.Array | None = None,
    ) -> jax.Array:
        def drop(x: jax.Array) -> jax.Array:
            return Dropout(self.hidden_dropout, self.deterministic)(x)

        def norm(x: jax.Array, name: str) -> jax.Array:
            return layer_norm(self.layer_norm_eps, self.dtype, name)(x)

        see = SelfAttention(
            self.num_heads,
            self.attention_dropout,
            self.dtype,
            self.deterministic,
            self.fused_attention,
            name="attention",
        )
        attended = see(hidden, mask, num_positions, bias_HLL)
        hidden = norm(hidden[..., :num_positions, :] + drop(attended), "attention_norm")
        x = gelu(dense(self.intermediate_size, ("embed", "mlp"), self.dtype, "intermediate")(hidden))
        x = dense(hidden.shape[-1], ("mlp", "embed"), self.dtype, "output")(x)
        return shard_rows(norm(hidden + drop(x), "output_norm"))


def transformer_layer(config: "ModelConfig", deterministic: bool) -> dict[str, Any]:
    """The arguments of a `TransformerLayer` of the size that a `ModelConfig` gives."""
    return dict(
        num_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        hidden_dropout=config.hidden_dropout,
        attention_dropout=config.attention_dropout,
        layer_norm_eps=config.layer_norm_eps,
        dtype=config.compute_dtype,
        deterministic=deterministic,
        fused_attention=config.fused_attention,
    )


def transformer_layer_flops(hidden: int, intermediate: int, queries: int, keys: int) -> int:
    """FLOPs of a layer's matrix products: `queries` states see `keys` states."""
    projections = 2 * hidden * hidden * 2 * (queries + keys)
    attention = 2 * 2 * queries * keys * hidden
    return projections + attention + 2 * 2 * queries * hidden * intermediate
