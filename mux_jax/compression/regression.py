"""Ridge regression on the states of many positions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from mux_jax.models.layers import broadcast_to_rank

# The ridge r over the mean diagonal of X'X: neither the inputs' scale nor the number of examples matters. With 0,
# solves may fail where an input is constant or examples are few. 0.1 is a plain choice: 1e-3 and 1e-2 do about as well.
RIDGE = 0.1

Params = dict[str, Any]


class Regression:
    """Ridge regression of y [..., O] on x [..., I], or on some of its I inputs.

      W = (X'X + r I)^-1 X'Y;  b = mean y - mean x W;  r = ridge tr(X'X) / I

    X and Y are x and y about their means, one example a row, so b is not shrunk. `covariance` is X'X and
    `correlation` X'Y, float64 sums over examples. r comes from all I inputs, even where only some are used.
    """

    def __init__(self, x: jax.Array, y: jax.Array, ridge: float = RIDGE):
        self._means, moments = jax.device_get(moments_about_means(x, y))
        self.covariance, self.correlation = (moment.astype(np.float64) for moment in moments)
        self._ridge = ridge * self.covariance.diagonal().mean()

    def solve(self, inputs: Sequence[int] | np.ndarray | slice = slice(None)) -> Params:
        """The kernel W [I, O] and bias b [O], where I counts the inputs that are used."""
        kernel = self._solve(inputs).astype(np.float32)
        return {"kernel": kernel, "bias": self._means[1] - self._means[0][inputs] @ kernel}

    def explained(self, inputs: Sequence[int] | np.ndarray) -> float:
        """tr(W'X'Y) = |Y|^2 - |Y - X W|^2 - r |W|^2, over all examples and outputs. It never falls with more inputs."""
        return float((self._solve(inputs) * self.correlation[inputs]).sum())

    def _solve(self, inputs: Sequence[int] | np.ndarray | slice) -> np.ndarray:
        # float64: the condition number is up to 1 + I / ridge, and float32 has 7 digits.
        covariance = self.covariance[inputs][:, inputs]
        return scipy.linalg.solve(
            covariance + self._ridge * np.eye(len(covariance)), self.correlation[inputs], assume_a="pos"
        )


@jax.jit
def moments_about_means(x: jax.Array, y: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The means of x [..., I] and of y [..., O]; x'x and x'y about them, sums over all examples."""
    x, y = (z.reshape(-1, z.shape[-1]) for z in (x, y))
    means = x.mean(0), y.mean(0)
    x, y = x - means[0][None], y - means[1][None]
    return means, (x.T @ x, x.T @ y)


@jax.jit
def linear(params: Params, x: jax.Array) -> jax.Array:
    """x @ kernel + bias, [..., I] -> [..., O]."""
    kernel, bias = (jnp.asarray(params[name]) for name in ("kernel", "bias"))
    return x @ kernel + broadcast_to_rank(bias, x.ndim)
