"""Attention in one kernel on TPU: scores, softmax and dropout of a head never leave the chip's fast memory.

Written out in XLA, the scores of a layer are float32 [B, H, L, L], moved through the chip's memory several times, and
the random numbers of their dropout are computed anew wherever they are read. Here a program of the kernel holds the
heads of a row that fill the chip's lanes. The backward kernel computes scores and dropout again, so that nothing but
query, key and value is kept.

Dropout is by the place (row, head, query, key), as in `dropout`: the same in both kernels, on any mesh, and in the
interpreter.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from mux_jax.models import dropout

_LANES, _LONGEST = 128, 512  # positions of rows that the kernel takes: a multiple, and the most
_PROGRAM_BYTES = 16 * 2**20  # all that a v4 has


def takes(length: int, heads: int, head_size: int) -> bool:
    """Whether the kernel takes rows of a length, and heads of a size, split as the mesh in force splits them."""
    devices = _devices_of_heads()
    own = heads // devices if heads % devices == 0 else 0
    return length % _LANES == 0 and length <= _LONGEST and bool(_heads_of_program(own, head_size))


def _devices_of_heads() -> int:
    """How many devices heads are split over."""
    mesh, axes = jax.sharding.get_abstract_mesh(), nn.logical_to_mesh_axes(("heads",))
    return mesh.shape.get(axes[0], 1) if axes and axes[0] else 1


def _heads_of_program(heads: int, head_size: int) -> int:
    """How many heads a program has, so that they fill the lanes; 0 if they do not."""
    if heads * head_size <= _LANES:
        return heads  # 0, too
    count = max(1, _LANES // head_size)
    return count if heads % count == 0 and count * head_size % _LANES == 0 else 0


def attend(
    query_BLD: jax.Array,
    key_BLD: jax.Array,
    value_BLD: jax.Array,
    mask_BL: jax.Array | None,
    heads: int,
    seeds: jax.Array | None = None,
    rate: float = 0.0,
) -> jax.Array:
    """softmax(query key^T / sqrt(K) + mask), dropped out, times value, of each head: [B, L, D], D being heads x K.

    On other devices than TPUs the kernel is interpreted, which is slow. Rows and heads are split as the mesh in force
    splits them: a program that runs on several TPUs must have one in force (`jax.set_mesh`).

    Args:
      mask_BL: True where a key may be seen; None: everywhere.
      seeds: int32[2], of dropout.
      rate: of dropout; 0: none.
    """
    B, L, D = query_BLD.shape
    K = D // heads
    shown_BL = jnp.ones((B, L), bool) if mask_BL is None else mask_BL
    bias_B1L = jnp.where(shown_BL, 0.0, jnp.finfo(jnp.float32).min)[:, None]
    seeds = jnp.zeros(2, jnp.int32) if seeds is None else seeds
    mesh = jax.sharding.get_abstract_mesh()
    rows, tensor = (None, None) if mesh.empty else nn.logical_to_mesh_axes(("rows", "heads")) or (None, None)

    def of_shard(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array, seeds: jax.Array) -> jax.Array:
        own = query.shape[-1] // K
        first_row = jax.lax.axis_index(rows) * len(query) if rows else 0
        first_head = jax.lax.axis_index(tensor) * own if tensor else 0
        place = jnp.stack([*seeds, first_row, first_head, heads]).astype(jnp.int32)
        return _attend(query, key, value, bias, place, own, rate)

    if rows is None:
        tensor = None
        return of_shard(query_BLD, key_BLD, value_BLD, bias_B1L, seeds)
    split = PartitionSpec(rows, None, tensor)
    specs = (split, split, split, PartitionSpec(rows, None, None), PartitionSpec())
    mapped = jax.shard_map(of_shard, in_specs=specs, out_specs=split, check_vma=False)
    return mapped(query_BLD, key_BLD, value_BLD, bias_B1L, seeds)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array, place: jax.Array, heads: int, rate: float
) -> jax.Array:
    """place: int32[5]: two seeds, the first row and head of this device, and the heads of all devices."""
    return _call(_forward, (query, key, value), bias, place, heads, rate, 1)[0]


def _attend_forward(*arguments: Any) -> tuple[jax.Array, Any]:
    return _attend(*arguments), arguments[:5]


def _attend_backward(heads: int, rate: float, saved: Any, error: jax.Array) -> Any:
    query, key, value, bias, place = saved
    errors = _call(_backward, (query, key, value, error), bias, place, heads, rate, 3)
    return *errors, jnp.zeros_like(bias), np.zeros(place.shape, jax.dtypes.float0)


_attend.defvjp(_attend_forward, _attend_backward)


def _call(
    kernel: Any,
    arrays_BLD: tuple[jax.Array, ...],
    bias_B1L: jax.Array,
    place: jax.Array,
    heads: int,
    rate: float,
    results: int,
) -> Any:
    """Runs a kernel on all rows and heads."""
    B, L, D = arrays_BLD[0].shape
    K, count = D // heads, _heads_of_program(heads, D // heads)
    block = pl.BlockSpec((1, L, count * K), lambda b, h: (b, 0, h))

    def call(interpret: bool) -> Any:
        return pl.pallas_call(
            functools.partial(kernel, K, rate),
            grid=(B, heads // count),
            in_specs=[
                pl.BlockSpec(memory_space=pltpu.SMEM),
                pl.BlockSpec((1, 1, L), lambda b, h: (b, 0, 0)),
                *[block] * len(arrays_BLD),
            ],
            out_specs=[block] * results,
            out_shape=[jax.ShapeDtypeStruct((B, L, D), arrays_BLD[0].dtype)] * results,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=_PROGRAM_BYTES
            ),
            cost_estimate=pl.CostEstimate(
                flops=2 * B * L * L * D * (2 if results == 1 else 5),
                bytes_accessed=sum(x.nbytes for x in arrays_BLD) + results * arrays_BLD[0].nbytes,
                transcendentals=B * heads * L * L,
            ),
            interpret=interpret,
        )

    arguments = (place, bias_B1L, *arrays_BLD)
    return jax.lax.platform_dependent(*arguments, tpu=call(False), default=call(True))


def _forward(size: int, rate: float, place: Any, bias: Any, query: Any, key: Any, value: Any, mixed: Any) -> None:
    for head, of in _heads(size, query):
        powers_LL, sum_L1, kept_LL = _powers(size, rate, place, bias, query, key, head, of)
        mixed_LK = _product(_kept(powers_LL, kept_LL), value[0, :, of], 1, 0)
        mixed[0, :, of] = (mixed_LK / (sum_L1 * (1 - rate))).astype(mixed.dtype)


def _backward(
    size: int, rate: float, place: Any, bias: Any, query: Any, key: Any, value: Any, error: Any, *gradients: Any
) -> None:
    """Of weights W = softmax(S), S = Q K^T / sqrt(size) + bias, and mixed = M(W) V, M being dropout: V's gradient is
    M(W)^T error; W's is E = M(error V^T); S' = W (E - the sum of E W over keys), of which Q's and K's follow."""
    of_query, of_key, of_value = gradients
    for head, of in _heads(size, query):
        powers_LL, sum_L1, kept_LL = _powers(size, rate, place, bias, query, key, head, of)
        weights_LL, error_LK = powers_LL / sum_L1, error[0, :, of]
        scaled_LK = (error_LK.astype(jnp.float32) / (1 - rate)).astype(error.dtype)
        of_value[0, :, of] = _product(_kept(weights_LL, kept_LL), scaled_LK, 0, 0).astype(of_value.dtype)
        of_weights_LL = _kept(_product(scaled_LK, value[0, :, of], 1, 1), kept_LL)
        mean_L1 = (of_weights_LL * weights_LL).sum(axis=-1, keepdims=True)
        of_scores_LL = weights_LL * (of_weights_LL - mean_L1)
        of_query[0, :, of] = (_product(of_scores_LL, key[0, :, of], 1, 0) * size**-0.5).astype(of_query.dtype)
        of_key[0, :, of] = (_product(of_scores_LL, query[0, :, of], 0, 0) * size**-0.5).astype(of_key.dtype)


def _heads(size: int, query: Any) -> Iterator[tuple[int, slice]]:
    """The heads of a program, and their lanes."""
    for head in range(query.shape[-1] // size):
        yield head, slice(head * size, (head + 1) * size)


def _powers(
    size: int, rate: float, place: Any, bias: Any, query: Any, key: Any, head: int, of: slice
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """What the weights of a head are in proportion to, float32 [L, L]; its sum over keys [L, 1]; which are kept."""
    query_LK = (query[0, :, of] * size**-0.5).astype(query.dtype)
    scores_LL = _product(query_LK, key[0, :, of], 1, 1) + bias[0]
    powers_LL = jnp.exp(scores_LL - scores_LL.max(axis=-1, keepdims=True))
    sum_L1 = powers_LL.sum(axis=-1, keepdims=True)
    if not rate:
        return powers_LL, sum_L1, None
    row = place[2] + pl.program_id(0)
    number = row * place[4] + place[3] + pl.program_id(1) * (query.shape[-1] // size) + head
    return powers_LL, sum_L1, kept(place[0], place[1], number, len(powers_LL), rate)


def kept(seed: Any, other_seed: Any, number: Any, length: int, rate: float) -> jax.Array:
    """bool[L, L]: which weights dropout keeps, of the head with a `number` among those of all rows.

    A hash is for two weights, of 16 bits each: rates are multiples of 1 / 65,536. Each head has a seed of its own.
    """
    bits = dropout.hashed(seed ^ dropout.mixed(number), other_seed, dropout.places((length // 2, length)))
    least = round(rate * 2**16)
    first, second = bits & 0xFFFF, jax.lax.shift_right_logical(bits, 16)
    return jnp.concatenate([first, second]) >= least


def _kept(x: jax.Array, kept: jax.Array | None) -> jax.Array:
    return x if kept is None else jnp.where(kept, x, 0.0)


def _product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """float32, of a in the dtype of b."""
    dimensions = (((a_axis,), (b_axis,)), ((), ()))
    precision = jax.lax.Precision.HIGHEST if b.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(a.astype(b.dtype), b, dimensions, precision, preferred_element_type=jnp.float32)
