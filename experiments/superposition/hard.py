"""Texts of a row kept apart: weights that are zero at the start stay zero, and LayerNorms are by text.

A row is then N narrow models with weights of their own, computed as one. This is the control of side by side: what
that model gains over this one it gains by reading other texts' dimensions.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mux_jax.compression.frames import Frames
from mux_jax.models import layers
from mux_jax.training import loop
from mux_jax.training.optimizer import make_optimizer


def open_places(params: Any) -> Any:
    """1 where a kernel of the encoder is not zero, and for all that is no such kernel."""

    def place(path: Any, x: Any) -> Any:
        names = [key.key for key in path]
        return (x != 0).astype(jnp.float32) if names[0] == "encoder" and names[-1] == "kernel" else jnp.ones_like(x)

    return jax.tree_util.tree_map_with_path(place, params)


def keep_zeros() -> optax.GradientTransformation:
    """Weights of the encoder's kernels that are zero when it begins stay zero."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(jnp.multiply, updates, state), state

    return optax.GradientTransformation(open_places, update)


class NormByText(nn.Module):
    """LayerNorm over the dimensions of each text of a row, and over those that are left over."""

    frames: Frames
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        D = self.frames.dimensions
        scale = self.param("scale", layers.partitioned(nn.initializers.ones, "norm"), (D,))
        bias = self.param("bias", layers.partitioned(nn.initializers.zeros, "norm"), (D,))
        held_ND = self.frames.holds_ND
        group_GD = np.concatenate([held_ND, ~held_ND.any(0)[None]]).astype(np.float32)
        group_GD = group_GD[group_GD.any(1)]
        mean_DG = (group_GD / group_GD.sum(1, keepdims=True)).T
        y = x.astype(jnp.float32)
        y = y - (y @ mean_DG) @ group_GD
        variance = ((y * y) @ mean_DG) @ group_GD
        return (y * jax.lax.rsqrt(variance + self.epsilon) * scale[None, None] + bias[None, None]).astype(self.dtype)


@contextlib.contextmanager
def apart(frames: Frames | None) -> Iterator[None]:
    """Within it, texts of a row whose frames these are are kept apart; nothing changes for None."""
    if frames is None:
        yield
        return

    def norm(eps: float, dtype: str, name: str | None = None, use_bias: bool = True) -> nn.Module:
        return NormByText(frames, eps, dtype, name=name)

    def optimizer(*args: Any) -> optax.GradientTransformation:
        return optax.chain(make_optimizer(*args), keep_zeros())

    # `layers.layer_norm` is that of the encoder's layers alone: other modules have a name of their own for it.
    with mock.patch.object(layers, "layer_norm", norm), mock.patch.object(loop, "make_optimizer", optimizer):
        yield
