"""RSA that reads the ordinary model's states from the states of rows, in which each text has a frame."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mux_jax.compression.frames import Frames
from mux_jax.compression.regression import Params, Regression, linear
from mux_jax.models.config import ModelConfig

# What is added to a signal x to open a GELU or to shut it, and the root mean square of x. All are plain choices.
# - GELU(2 + x) is within 0.009 of a line for |x| < 0.5, within 0.026 for |x| < 1, and turns back at x = -2.75. If x is
#   normal, a line leaves 0.05 % of the variance at a root mean square of 0.5, 0.7 % at 1, 6 % at 2.
# - |GELU(-6 + x)| < 2e-6 for |x| < 1. Any _SHUT from -4 down does as well.
# - A larger signal, or less opening, gets bent: states have long tails. The opposite gets lost in bfloat16, whose
#   steps are 1/64 from 2 to 4.
_OPEN, _SHUT = 2.0, -6.0
_SIGNAL = 0.25
_RIDGE = 1e-3  # more would ruin the fit: the signal is small beside the step from shut to open


def fit_demultiplexer(
    config: ModelConfig,
    frames: Frames,
    fresh: Params,
    mixed_BLD: jax.Array,
    state_TD: jax.Array,
    real_T: np.ndarray,
) -> Params:
    """RSA that reads the ordinary model's states from the states of rows.

      x = GELU(c h + g_i);  state ~ x + LN(GELU(x W + b))     h [D] is the row's state, i the text

    Every path from h passes a GELU, so the fit stays where GELU is nearly a line.

    1. Key k_i opens the GELU for the text's dimensions: g_i is _OPEN there and _SHUT elsewhere. RSA computes
       it as k_i W_k, so W_k = pinv(keys) g, which is exact: N random keys are independent. c = _SIGNAL / rms(frame).
    2. What is still missing, m = state - x, is regressed on x: m ~ x W0 + b0. A multiple of that goes through an
       open GELU: W = a W0, b = a b0 + 2 _OPEN, a = _SIGNAL / rms(x W0 + b0). Without the 2 it does as well.
    3. At each position, LayerNorm removes the mean and the size over dimensions. That undoes 2 _OPEN and a, but m
       loses its own too. The scale s and bias t, [D], restore them on average: from y, the result for scale 1 and
       bias 0, they are the least-squares line to m, s = cov(y, m) / var(y), t = mean m - s mean y. Left at 1 and
       0, the states would have the wrong size, and the offset of x: t is about -1.94 / N.

    Unlike the encoder's, what W reads differs from frame to frame: m contains -x, which is elsewhere for each text.

    Args:
      config: of the multiplexed model, whose demultiplexer is `rsa` with two layers; its dtype is float32.
      frames: the texts' dimensions of its states.
      fresh: initial parameters of its demultiplexer; keys and what retrieval alone reads stay as they are there.
      mixed_BLD: the multiplexed model's last states.
      state_TD: the ordinary model's last states at the tokens of all texts.
      real_T: where these are among the B N L places of texts.
    """
    N, D = config.width, config.hidden_size
    rsa = config.demultiplexer_module()

    @jax.jit
    def demultiplexed(params: Params) -> jax.Array:
        found: Any = rsa.apply({"params": params}, mixed_BLD, jnp.arange(N)[None, :, None])
        return found.reshape(-1, D)[real_T]

    def norm(scale: Any, bias: Any) -> Params:
        return {"output_norm": {"scale": scale + np.zeros(D, np.float32), "bias": bias + np.zeros(D, np.float32)}}

    gate_ND = np.where(frames.holds_ND, _OPEN, _SHUT)
    params = fresh | {
        "dense_keys": {"kernel": np.linalg.pinv(fresh["keys"]) @ gate_ND},
        "layers_0": {"kernel": _SIGNAL / _size(frames.of(mixed_BLD)[real_T]) * np.eye(D), "bias": np.zeros(D)},
    }
    passed_TD = demultiplexed(params | norm(0, 0))  # x, as the rest is 0
    missing_TD = state_TD - passed_TD
    output = Regression(passed_TD, missing_TD, _RIDGE).solve()
    gain = _SIGNAL / _size(linear(output, passed_TD))
    params["output"] = {"kernel": gain * output["kernel"], "bias": gain * output["bias"] + 2 * _OPEN}
    return params | norm(*line(demultiplexed(params | norm(1, 0)) - passed_TD, missing_TD))


def line(x_TD: jax.Array, y_TD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scale and bias [D] of the line from x to y, by least squares in each dimension; 0 where x is constant."""
    x_D, y_D = x_TD.mean(0), y_TD.mean(0)
    covariance_D = ((x_TD - x_D[None]) * (y_TD - y_D[None])).mean(0)
    scale_D = covariance_D / jnp.maximum(x_TD.var(0), 1e-12)
    return scale_D, y_D - scale_D * x_D


def _size(x: jax.Array) -> float:
    """The root mean square over all axes."""
    return float(jnp.sqrt((x**2).mean()))
