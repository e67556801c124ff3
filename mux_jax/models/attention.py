"""Attention in one kernel on TPU: scores, softmax and dropout of a head never leave the chip's fast memory.

Written out in XLA, the scores of a layer are float32 [B, H, L, L], moved through the chip's memory several times, and
the random numbers of their dropout are computed anew wherever they are read. Here a program of the kernel holds a row's
head at a time. The backward kernel computes scores and dropout again, so that nothing but query, key and value is kept.

Dropout is drawn by a hash of the place (row, head, query, key) and two seeds: it is the same in both kernels, on any
mesh, and in the interpreter. The hash is MurmurHash3's finaliser, twice.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

_LANES, _LONGEST = 128, 512  # of the positions that the kernel takes: a multiple, and the most
_SCORES = _LONGEST * _LONGEST  # of a program: heads of short rows share one
_PROGRAM_BYTES = 64 * 2**20


def takes(length: int) -> bool:
    """Whether the kernel takes rows of a length."""
    return length % _LANES == 0 and length <= _LONGEST


def attend(
    query_BHLK: jax.Array,
    key_BHLK: jax.Array,
    value_BHLK: jax.Array,
    mask_BL: jax.Array | None,
    seed: jax.Array,
    rate: float,
) -> jax.Array:
    """softmax(query key^T + mask), dropped out, times value: [B, H, L, K], in the dtype of `value`.

    On other devices than TPUs the kernel is interpreted, which is slow. Rows and heads are split as the mesh in force
    splits them.

    Args:
      query_BHLK: scaled already.
      mask_BL: True where a key may be seen; None: everywhere.
      seed: int32[2].
      rate: of dropout; 0: none.
    """
    B, H, L, _ = query_BHLK.shape
    shown_BL = jnp.ones((B, L), bool) if mask_BL is None else mask_BL
    bias_B1L = jnp.where(shown_BL, 0.0, jnp.finfo(jnp.float32).min)[:, None]
    mesh = jax.sharding.get_abstract_mesh()
    rows, heads = nn.logical_to_mesh_axes(("rows", "heads")) or (None, None)
    if mesh.empty or rows is None:
        return _attend(query_BHLK, key_BHLK, value_BHLK, bias_B1L, jnp.append(seed, jnp.array([0, 0, H])), rate)
    if heads and H % mesh.shape[heads]:
        heads = None

    def of_shard(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array, seed: jax.Array) -> jax.Array:
        first_row = jax.lax.axis_index(rows) * len(query)
        first_head = jax.lax.axis_index(heads) * query.shape[1] if heads else 0
        place = jnp.stack([*seed, first_row, first_head, H]).astype(jnp.int32)
        return _attend(query, key, value, bias, place, rate)

    split = PartitionSpec(rows, heads, None, None)
    specs = (split, split, split, PartitionSpec(rows, None, None), PartitionSpec())
    mapped = jax.shard_map(of_shard, in_specs=specs, out_specs=split, check_vma=False)
    return mapped(query_BHLK, key_BHLK, value_BHLK, bias_B1L, seed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array, place: jax.Array, rate: float
) -> jax.Array:
    """place: int32[5]: two seeds, the first row and head of this device, and all heads."""
    return _call(_forward, (query, key, value), bias, place, rate, 1)[0]


def _attend_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array, place: jax.Array, rate: float
) -> Any:
    return _attend(query, key, value, bias, place, rate), (query, key, value, bias, place)


def _attend_backward(rate: float, saved: Any, error: jax.Array) -> Any:
    query, key, value, bias, place = saved
    errors = _call(_backward, (query, key, value, error), bias, place, rate, 3)
    return *errors, jnp.zeros_like(bias), np.zeros(place.shape, jax.dtypes.float0)


_attend.defvjp(_attend_forward, _attend_backward)


def _call(
    kernel: Any, arrays_BHLK: tuple[jax.Array, ...], bias_B1L: jax.Array, place: jax.Array, rate: float, results: int
) -> Any:
    """Runs a kernel on all rows and heads."""
    B, H, L, K = arrays_BHLK[0].shape
    heads = next(n for n in range(min(H, max(1, _SCORES // L**2)), 0, -1) if H % n == 0)
    block = pl.BlockSpec((1, heads, L, K), lambda b, h: (b, h, 0, 0))

    def call(interpret: bool) -> Any:
        return pl.pallas_call(
            functools.partial(kernel, rate),
            grid=(B, H // heads),
            in_specs=[
                pl.BlockSpec(memory_space=pltpu.SMEM),
                pl.BlockSpec((1, 1, L), lambda b, h: (b, 0, 0)),
                *[block] * len(arrays_BHLK),
            ],
            out_specs=[block] * results,
            out_shape=[jax.ShapeDtypeStruct((B, H, L, K), arrays_BHLK[0].dtype)] * results,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=_PROGRAM_BYTES
            ),
            cost_estimate=pl.CostEstimate(
                flops=B * H * 2 * L * L * K * (2 if results == 1 else 5),
                bytes_accessed=sum(x.nbytes for x in arrays_BHLK) + results * arrays_BHLK[0].nbytes,
                transcendentals=B * H * L * L,
            ),
            interpret=interpret,
        )

    arguments = (place, bias_B1L, *arrays_BHLK)
    return jax.lax.platform_dependent(*arguments, tpu=call(False), default=call(True))


def _forward(rate: float, place: Any, bias: Any, query: Any, key: Any, value: Any, mixed: Any) -> None:
    for head in range(query.shape[1]):
        weights_LL, kept_LL = _weights(rate, place, bias, query, key, head)
        dropped_LL = _dropped(weights_LL, kept_LL, rate).astype(value.dtype)
        mixed[0, head] = _product(dropped_LL, value[0, head], 1, 0).astype(mixed.dtype)


def _backward(
    rate: float,
    place: Any,
    bias: Any,
    query: Any,
    key: Any,
    value: Any,
    error: Any,
    of_query: Any,
    of_key: Any,
    of_value: Any,
) -> None:
    for head in range(query.shape[1]):
        weights_LL, kept_LL = _weights(rate, place, bias, query, key, head)
        dtype = query.dtype
        dropped_LL = _dropped(weights_LL, kept_LL, rate).astype(dtype)
        of_value[0, head] = _product(dropped_LL, error[0, head], 0, 0).astype(dtype)
        of_weights_LL = _dropped(_product(error[0, head], value[0, head], 1, 1), kept_LL, rate)
        mean_L1 = (of_weights_LL * weights_LL).sum(axis=-1, keepdims=True)
        of_scores_LL = (weights_LL * (of_weights_LL - mean_L1)).astype(dtype)
        of_query[0, head] = _product(of_scores_LL, key[0, head], 1, 0).astype(dtype)
        of_key[0, head] = _product(of_scores_LL, query[0, head], 0, 0).astype(dtype)


def _weights(rate: float, place: Any, bias: Any, query: Any, key: Any, head: int) -> tuple[jax.Array, jax.Array | None]:
    """The weights of a head, float32 [L, L], before dropout, and which are kept; None: all."""
    scores_LL = _product(query[0, head], key[0, head], 1, 1) + bias[0]
    powers_LL = jnp.exp(scores_LL - scores_LL.max(axis=-1, keepdims=True))
    weights_LL = powers_LL / powers_LL.sum(axis=-1, keepdims=True)
    if not rate:
        return weights_LL, None
    row = place[2] + pl.program_id(0)
    of_heads = place[3] + pl.program_id(1) * query.shape[1] + head
    return weights_LL, kept(place[0], place[1], row * place[4] + of_heads, scores_LL.shape, rate)


def kept(seed: Any, other_seed: Any, number: Any, shape: tuple[int, int], rate: float) -> jax.Array:
    """bool[L, L]: which weights dropout keeps, each with probability 1 - rate, of the matrix with a `number`."""
    L, T = shape
    query_LL, key_LL = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    x = (number * L + query_LL) * T + key_LL
    x = _mixed_bits(_mixed_bits(x ^ seed) ^ other_seed)
    return jax.lax.shift_right_logical(x, 8) >= round(rate * 2**24)


def _mixed_bits(x: jax.Array) -> jax.Array:
    for shift, factor in ((16, -0x7A143595), (13, -0x3D4D51CB)):
        x = (x ^ jax.lax.shift_right_logical(x, shift)) * factor
    return x ^ jax.lax.shift_right_logical(x, 16)


def _dropped(x: jax.Array, kept: jax.Array | None, rate: float) -> jax.Array:
    return x if kept is None else jnp.where(kept, x / (1 - rate), 0.0)


def _product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    return jax.lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)
