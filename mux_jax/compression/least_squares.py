"""The least squares of a warm start: each layer of an instance's share is fitted to the ordinary model's."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.layers import SelfAttention, TransformerLayer, broadcast_to_rank, gelu, transformer_layer
from mux_jax.models.model import MuxModel

_RIDGE = 1e-3  # of the mean variance of the inputs
_OPEN, _SHUT = 2.0, -6.0  # added to what a GELU is to pass and to stop
_SIGNAL = 0.5  # root mean square of what it passes

Params = dict[str, Any]


def fit(
    config: ModelConfig,
    ordinary: Params,
    fresh: Params,
    tokens_SL: np.ndarray,
    report: Callable[[float, str], None],
) -> tuple[Params, Params]:
    """Fits the multiplexed model.

    Args:
      config: of the multiplexed model.
      ordinary: the parameters of the ordinary one.
      fresh: initial parameters of the multiplexed one; what is not fitted stays as it is there.
      tokens_SL: int32[S, L], whole rows of N sequences each.
      report: see `progress`.

    Returns:
      The multiplexed model's parameters; kernel [D // N, D] and bias of the linear map from an instance's
      part of the last states to the ordinary model's.
    """
    config = dataclasses.replace(config, dtype="float32")
    N, D = config.width, config.hidden_size
    layers, fresh_layers = (list(split_layers(params)["encoder"].values()) for params in (ordinary, fresh))
    model = MuxModel(config)

    def embed(params: Params, tokens_BNL: np.ndarray, mix: bool) -> jax.Array:
        def embedded(bound: MuxModel) -> jax.Array:
            embedded_BNLE = bound.embeddings(jnp.asarray(tokens_BNL))
            return bound.embeddings.add_positions(bound.multiplexer(embedded_BNLE, None)) if mix else embedded_BNLE

        return jax.jit(lambda params: model.apply({"params": params}, method=embedded))(params)

    # What the ordinary model computes, in the directions that carry most of its states' variance.
    tokens_BNL = tokens_SL.reshape(-1, N, tokens_SL.shape[-1])
    unfitted = fresh | {"embeddings": ordinary["embeddings"]}
    embedded_SLD = embed(unfitted, tokens_BNL, mix=False).reshape(*tokens_SL.shape, D)
    covariance, state = np.zeros((D, D)), embedded_SLD
    for i, layer in enumerate(layers):
        report(0.3 * i / len(layers), "directions")
        attended, state = _sublayers(config, layer, state)
        for x in (attended, state):
            moment = jax.device_get(_moments(x, x)[1][0])
            covariance += moment / moment.trace()
    directions_Dd = np.linalg.eigh(covariance)[1][:, ::-1][:, : D // N].astype(np.float32)

    @jax.jit
    def target(state_SLD: jax.Array) -> jax.Array:
        return (state_SLD - state_SLD.mean((0, 1), keepdims=True)) @ directions_Dd

    keys_NEE = _keys(directions_Dd, N, ordinary["embeddings"]["norm"]["scale"])
    params = unfitted | {"multiplexer": {"keys": keys_NEE}}
    mixed_BLD, state = embed(params, tokens_BNL, mix=True), embedded_SLD
    fitted = []
    for i, (layer, new) in enumerate(zip(layers, fresh_layers)):
        report(0.3 + 0.7 * i / len(layers), f"layer {i + 1} of {len(layers)}")
        attended, following = _sublayers(config, layer, state)
        new = new | _fit_attention(config, layer, new, state, target(attended), parts(mixed_BLD, N))
        parts_SLd = parts(_sublayers(config, new, mixed_BLD)[0], N)
        new = new | _fit_feed_forward(layer, new, attended, target(following), parts_SLd)
        mixed_BLD = _sublayers(config, new, mixed_BLD)[1]
        state = following
        fitted.append(new)
    params["encoder"] = {"layers": jax.tree.map(lambda *x: np.stack(x), *fitted)}
    return params, _Regression(parts(mixed_BLD, N), state).solve()


def fit_demultiplexer(config: ModelConfig, fresh: Params, mixed_BLD: jax.Array, state_SLD: jax.Array) -> Params:
    """RSA that reads the ordinary model's states from the states of rows.

    The instance's key opens the GELU of the first layer for its own dimensions, in the range where that is
    nearly linear, and shuts it for the others. What is then missing is fitted: the second layer by ridge
    regression, its LayerNorm, which takes out the size and the offset that its GELU is given, by dimension.

    Args:
      config: of the multiplexed model, whose demultiplexer is `rsa`.
      fresh: initial parameters of its demultiplexer.
      mixed_BLD: the multiplexed model's last states.
      state_SLD: the ordinary model's last states.
    """
    N, D = config.width, config.hidden_size
    rsa = config.demultiplexer_module()

    @jax.jit
    def demultiplexed(params: Params) -> jax.Array:
        found: Any = rsa.apply({"params": params}, mixed_BLD, jnp.arange(N)[None, :, None])
        return found.reshape(state_SLD.shape)

    def norm(scale: Any, bias: Any) -> Params:
        return {"output_norm": {"scale": scale + np.zeros(D, np.float32), "bias": bias + np.zeros(D, np.float32)}}

    gate_ND = np.where(np.arange(D) // (D // N) == np.arange(N)[:, None], _OPEN, _SHUT)
    params = fresh | {
        "dense_keys": {"kernel": np.linalg.pinv(fresh["keys"]) @ gate_ND},
        "layers_0": {"kernel": _SIGNAL / _size(parts(mixed_BLD, N)) * np.eye(D), "bias": np.zeros(D)},
    }
    passed_SLD = demultiplexed(params | norm(0, 0))
    missing_SLD = state_SLD - passed_SLD
    output = _Regression(passed_SLD, missing_SLD).solve()
    gain = _SIGNAL / _size(linear(output, passed_SLD))
    params["output"] = {"kernel": gain * output["kernel"], "bias": gain * output["bias"] + 2 * _OPEN}
    found_SLD = demultiplexed(params | norm(1, 0)) - passed_SLD
    found_D, missing_D = found_SLD.mean((0, 1)), missing_SLD.mean((0, 1))
    products_SLD = (found_SLD - found_D[None, None]) * (missing_SLD - missing_D[None, None])
    scale_D = products_SLD.mean((0, 1)) / found_SLD.var((0, 1))
    return params | norm(scale_D, missing_D - scale_D * found_D)


def _size(x: jax.Array) -> float:
    return float(jnp.sqrt((x**2).mean()))


@jax.jit
def linear(params: Params, x: jax.Array) -> jax.Array:
    kernel, bias = (jnp.asarray(params[name]) for name in ("kernel", "bias"))
    return x @ kernel + broadcast_to_rank(bias, x.ndim)


@functools.partial(jax.jit, static_argnames="N")
def parts(mixed_BLD: jax.Array, N: int) -> jax.Array:
    """Each instance's part of the states of rows: [B, L, D] -> [B * N, L, D // N]."""
    B, L, D = mixed_BLD.shape
    return mixed_BLD[..., : D // N * N].reshape(B, L, N, -1).swapaxes(1, 2).reshape(B * N, L, -1)


@functools.partial(jax.jit, static_argnames="config")
def _sublayers(config: ModelConfig, layer: Params, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The states after attention, and after the layer."""
    following, captured = TransformerLayer(**transformer_layer(config, deterministic=True)).apply(
        {"params": layer},
        state,
        None,
        capture_intermediates=lambda module, _: module.name == "attention_norm",
        mutable=["intermediates"],
    )
    return captured["intermediates"]["attention_norm"]["__call__"][0], following


@functools.partial(jax.jit, static_argnames="config")
def _attention(config: ModelConfig, params: Params, state: jax.Array) -> jax.Array:
    found: Any = SelfAttention(config.num_attention_heads, 0.0, "float32", True).apply({"params": params}, state, None)
    return found


class _Regression:
    """Ridge regression of y [..., O] on x [..., I], or on some of its I inputs."""

    def __init__(self, x: jax.Array, y: jax.Array):
        self._means, moments = jax.device_get(_moments(x, y))
        self.covariance, self.correlation = (moment.astype(np.float64) for moment in moments)
        self._ridge = _RIDGE * self.covariance.diagonal().mean()

    def solve(self, inputs: Sequence[int] | np.ndarray | slice = slice(None)) -> Params:
        """The kernel [I, O] and bias [O] of the best linear map."""
        kernel = self._solve(inputs).astype(np.float32)
        return {"kernel": kernel, "bias": self._means[1] - self._means[0][inputs] @ kernel}

    def explained(self, inputs: Sequence[int] | np.ndarray) -> float:
        """The variance of y, summed over outputs and examples, that these inputs explain."""
        return float((self._solve(inputs) * self.correlation[inputs]).sum())

    def _solve(self, inputs: Sequence[int] | np.ndarray | slice) -> np.ndarray:
        covariance = self.covariance[inputs][:, inputs]
        return scipy.linalg.solve(
            covariance + self._ridge * np.eye(len(covariance)), self.correlation[inputs], assume_a="pos"
        )


@jax.jit
def _moments(x: jax.Array, y: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The means of x [..., I] and of y [..., O]; x'x and x'y about them, sums over all examples."""
    x, y = (z.reshape(-1, z.shape[-1]) for z in (x, y))
    means = x.mean(0), y.mean(0)
    x, y = x - means[0][None], y - means[1][None]
    return means, (x.T @ x, x.T @ y)


def _tile(part: Params, fresh: Params, N: int) -> Params:
    """A linear map for each of N instances, side by side; what is left over keeps its fresh weights.

    What an instance gives goes nowhere else, so kernel rows that are left over are 0 for the instances.
    """
    kernel, columns = np.array(fresh["kernel"]), N * part["kernel"].shape[1]
    kernel[:, :columns] = 0
    kernel[: N * len(part["kernel"]), :columns] = np.kron(np.eye(N), part["kernel"])
    bias = np.array(fresh["bias"])
    bias[:columns] = np.tile(part["bias"], N)
    return {"kernel": kernel, "bias": bias}


def _tiled_norm(target_SLd: jax.Array, fresh: Params) -> Params:
    """A LayerNorm that gives the target's size, the same in all dimensions."""
    size = jnp.sqrt((target_SLd**2).mean())
    return {"scale": np.full_like(fresh["scale"], size), "bias": np.zeros_like(fresh["bias"])}


def _keys(directions_Dd: np.ndarray, N: int, scale_E: np.ndarray) -> np.ndarray:
    """The multiplexer's matrices [N, E, E]: each puts the same directions into its instance's dimensions.

    The LayerNorm that follows multiplies dimensions by `scale_E`, which is taken out before, where it is not near 0.
    """
    D, d = directions_Dd.shape
    scale_E = np.asarray(scale_E)
    scale_E = np.copysign(np.maximum(np.abs(scale_E), 0.3 * np.abs(scale_E).mean()), scale_E)
    keys_NEE = np.zeros((N, D, D), np.float32)
    for i in range(N):
        keys_NEE[i, i * d : (i + 1) * d] = directions_Dd.T
    return keys_NEE / scale_E[:, None]


def _fit_attention(
    config: ModelConfig, layer: Params, new: Params, state_SLD: jax.Array, target_SLd: jax.Array, parts_SLd: jax.Array
) -> Params:
    """The attention of an instance: H // N of the ordinary heads, those that explain most together."""
    N, D, H = config.width, config.hidden_size, config.num_attention_heads
    names, attention = ("query", "key", "value"), layer["attention"]
    projected = jnp.concatenate([linear(attention[name], state_SLD) for name in names], axis=-1)
    fits = _Regression(parts_SLd, projected).solve()
    fits = {name: {k: v[..., i * D : (i + 1) * D] for k, v in fits.items()} for i, name in enumerate(names)}

    # All heads on an instance's part: padded to D inputs, and not yet projected to the output.
    padded = {n: p | {"kernel": np.pad(p["kernel"], ((0, D - parts_SLd.shape[-1]), (0, 0)))} for n, p in fits.items()}
    identity = {"kernel": np.eye(D, dtype=np.float32), "bias": np.zeros(D, np.float32)}
    state = jnp.pad(parts_SLd, ((0, 0), (0, 0), (0, D - parts_SLd.shape[-1])))
    regression = _Regression(_attention(config, padded | {"output": identity}, state), target_SLd - parts_SLd)

    dimensions = np.arange(D).reshape(H, -1)
    chosen: list[int] = []
    for _ in range(H // N):
        left = [head for head in range(H) if head not in chosen]
        chosen.append(max(left, key=lambda head: regression.explained(dimensions[[*chosen, head]].ravel())))
    used = dimensions[chosen].ravel()
    tiled = {name: _tile({k: v[..., used] for k, v in fits[name].items()}, new["attention"][name], N) for name in names}
    tiled["output"] = _tile(regression.solve(used), new["attention"]["output"], N)
    return {"attention": tiled, "attention_norm": _tiled_norm(target_SLd, new["attention_norm"])}


def _fit_feed_forward(
    layer: Params, new: Params, state_SLD: jax.Array, target_SLd: jax.Array, parts_SLd: jax.Array
) -> Params:
    """The feed-forward layer of an instance: F // N of the neurons, the least used left out in three rounds."""
    F = len(layer["intermediate"]["bias"])
    N = state_SLD.shape[-1] // parts_SLd.shape[-1]
    first = _Regression(parts_SLd, linear(layer["intermediate"], state_SLD)).solve()
    regression = _Regression(gelu(linear(first, parts_SLd)), target_SLd - parts_SLd)
    used, variance = np.arange(F), regression.covariance.diagonal()
    for left in np.linspace(F, F // N, 4)[1:].astype(int):
        weight = (regression.solve(used)["kernel"] ** 2).sum(1) * variance[used]
        used = np.sort(used[np.argsort(-weight)[:left]])
    return {
        "intermediate": _tile({k: v[..., used] for k, v in first.items()}, new["intermediate"], N),
        "output": _tile(regression.solve(used), new["output"], N),
        "output_norm": _tiled_norm(target_SLd, new["output_norm"]),
    }
