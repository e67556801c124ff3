"""Dropout whose random numbers cost little: a hash of an element's place and two seeds.

JAX's own generators spend about a hundred operations on a number, and XLA computes them anew in each pass that reads
a mask. The hash, MurmurHash3's finaliser applied twice, takes sixteen; it fuses into whatever reads it, and a kernel
can compute it, too (`attention`). What is drawn does not depend on the mesh.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dropout(nn.Module):
    """Sets elements to 0 with probability `rate`, and divides the others by 1 - rate (of the stream `dropout`)."""

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.deterministic or not self.rate:
            return x
        seeds = draw_seeds(self.make_rng("dropout"))
        return dropped(x, kept(seeds[0], seeds[1], places(x.shape), self.rate), self.rate)


def draw_seeds(rng: jax.Array) -> jax.Array:
    """int32[2]."""
    return jax.lax.bitcast_convert_type(jax.random.bits(rng, (2,)), jnp.int32)


def places(shape: tuple[int, ...]) -> jax.Array:
    """The number of each element of an array, int32; from 2^32 elements on they come again."""
    number = jnp.zeros(shape, jnp.int32)
    for axis, size in enumerate(shape):
        number = number * size + jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    return number


def kept(seed: jax.Array, other_seed: jax.Array, place: jax.Array, rate: float) -> jax.Array:
    """Which elements are kept, by their places int32[...]: bool[...], each with probability 1 - rate."""
    return jax.lax.shift_right_logical(hashed(seed, other_seed, place), 8) >= round(rate * 2**24)


def hashed(seed: jax.Array, other_seed: jax.Array, place: jax.Array) -> jax.Array:
    """Random bits, int32, of places int32[...]."""
    return mixed(mixed(place ^ seed) ^ other_seed)


def dropped(x: jax.Array, kept: jax.Array, rate: float) -> jax.Array:
    """x where it is kept, over 1 - rate; 0 elsewhere."""
    return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype))


def mixed(x: jax.Array) -> jax.Array:
    """MurmurHash3's finaliser, on int32; each bit of x changes half of the bits of what is returned."""
    for shift, factor in ((16, -0x7A143595), (13, -0x3D4D51CB)):  # 0x85EBCA6B, 0xC2B2AE35
        x = (x ^ jax.lax.shift_right_logical(x, shift)) * factor
    return x ^ jax.lax.shift_right_logical(x, 16)
