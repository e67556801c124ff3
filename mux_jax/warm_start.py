"""A multiplexed model out of an ordinary BERT: by least squares, then by gradient steps to the same end.

An encoder that has never seen mixtures does not read them, and unlearns what it knows while it is
taught to. Here the N instances of a row share it out instead: each gets an N-th of the dimensions,
of the heads and of the neurons, and one layer after the other is fitted, by ridge regression on
text, to compute in that part what the ordinary model computes. All instances get the same fit, side
by side in block-diagonal matrices; what is between the blocks is zero, and training's to fill.
Distillation, which hardly learns from the BERT's own weights, goes on from there.

The method is ours; fitting layer by layer is known from pruning. The model that comes out is one of
the paper's: multiplexer `low_rank_orthogonal`, demultiplexer `rsa`, with these weights.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg

from mux_jax.data.packing import PackedTokens, cache_folder, cached_tokens
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.layers import SelfAttention, gelu, layer_norm
from mux_jax.models.model import MuxModel
from mux_jax.paths import absolute
from mux_jax.pretrained import check_absent, find, save_model
from mux_jax.progress import progress, say
from mux_jax.training.checkpoints import write_atomically
from mux_jax.training.mesh import make_mesh
from mux_jax.training.step import init_params

_RIDGE = 1e-3  # of the mean variance of the inputs
_HELDOUT_FRACTION, _HELDOUT_SEQUENCES = 0.02, 128  # of the documents, and of these, that the result is judged on
_ROWS, _LEARNING_RATE = 16, 5e-4  # of refinement
_OPEN, _SHUT = 2.0, -6.0  # added to what a GELU is to pass and to stop
_SIGNAL = 0.5  # root mean square of what it passes

Params = dict[str, Any]


def make(
    init: str,
    width: int,
    source: Any,
    sequences: int,
    length: int,
    steps: int,
    dtype: str,
    seed: int,
    workdir: str,
    overwrite: bool,
) -> float:
    """Makes a multiplexed model of the ordinary one `init`, and writes it to the folder `workdir`.

    Args:
      init: a run, a Hugging Face folder or an id of the hub.
      width: instances of a row.
      source: of `data.sources`; the text that the fits are made on. It is tokenised once, as for
        pre-training, and kept in the same cache.
      sequences: how many sequences of it, drawn at random, made a multiple of `width`.
      length: their tokens.
      steps: of `refine`.
      dtype: of its matrix products, as in `ModelConfig`.
      seed: of the draw, and of what is not fitted: the retrieval head, and what is left over where
        the width does not divide the dimensions, heads or neurons.
      workdir: a folder to fine-tune or to pre-train from.
      overwrite: whether it may exist.

    Returns:
      The part of the variance of the ordinary model's last states that is read from mixtures, by
      linear regression, on held-out text.

    Raises:
      InputError: no such model, one that cannot be shared out, too little text, `workdir` exists.
    """
    found = find(init)
    config = multiplexed(found.config, width)
    if not 2 <= length <= config.max_position_embeddings:
        raise InputError(f"--length={length} must be from 2 to {config.max_position_embeddings}, the model's positions")
    if sequences < 1:
        raise InputError(f"--sequences={sequences} must be at least 1")
    if steps < 0:
        raise InputError(f"--steps={steps} must be at least 0")
    target = absolute(workdir)
    check_absent(target, overwrite)
    tokenizer = found.tokenizer()
    cache = cached_tokens(source, tokenizer, length, _HELDOUT_FRACTION, cache_folder())
    train, heldout = (PackedTokens(cache, split) for split in ("train", "heldout"))
    tokens_SL, heldout_SL = _draw(train, sequences, width, seed), _draw(heldout, _HELDOUT_SEQUENCES, width, seed)

    mesh = make_mesh(devices=jax.devices()[:1])
    ordinary = jax.device_get(found.params(mesh))
    fresh = jax.device_get(init_params(MuxModel(config), mesh, seed))
    with jax.default_matmul_precision("highest"), progress("least squares") as report:
        params, readout = fit(config, ordinary, fresh, tokens_SL, report)
    if steps:
        with progress("refinement") as report:
            params, readout = refine(config, ordinary, params, readout, train, steps, dtype, seed, report)
    with jax.default_matmul_precision("highest"):
        parts, state = _encode(dataclasses.replace(config, dtype="float32"), ordinary, params, heldout_SL)
        error = state - _linear(readout, parts)
        explained = 1 - float((error**2).mean() / state.var((0, 1)).mean())
        params |= {"demultiplexer": _demultiplexer(fresh["demultiplexer"], readout, parts, state)}
    say(f"{explained:.0%} of the variance of the last states of {init} is read from mixtures of {width}")
    say(
        save_model(
            target, config, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params), tokenizer, init, overwrite
        )
    )
    write_atomically(target / "result.json", json.dumps({"explained": explained}) + "\n")
    return explained


def _draw(packed: PackedTokens, count: int, width: int, seed: int) -> np.ndarray:
    """int32[S, L]: `count` sequences, fewer if there are fewer, in whole rows."""
    count = min(-(-count // width), len(packed) // width) * width
    if not count:
        raise InputError(f"the text has {len(packed)} sequences in a split; a row of width {width} needs {width}")
    return np.stack([packed[i] for i in np.random.default_rng(seed).permutation(len(packed))[:count]])


def multiplexed(config: ModelConfig, width: int) -> ModelConfig:
    """The configuration of the multiplexed model.

    Raises:
      InputError: the model is multiplexed already, has embeddings of another size, or too few heads.
    """
    if config.width > 1:
        raise InputError(f"--init has width {config.width}; it must be an ordinary model")
    if config.embedding_size != config.hidden_size:
        raise InputError(
            f"--init has embeddings of {config.embedding_size} and states of {config.hidden_size} dimensions; "
            "they must be of one size"
        )
    if not 2 <= width <= config.num_attention_heads:
        raise InputError(
            f"--width={width} must be from 2 to {config.num_attention_heads}, the heads of --init: "
            "each instance gets at least one"
        )
    changes = dict(multiplexer="low_rank_orthogonal", demultiplexer="rsa", num_demux_layers=2)
    head = "rtd" if config.architecture == "electra" else "mlm"
    return dataclasses.replace(config, width=width, head=head, labels=(), generator="uniform", **changes)


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
    N, D = config.width, config.hidden_size
    layers, fresh_layers = (list(split_layers(params)["encoder"].values()) for params in (ordinary, fresh))
    model = MuxModel(dataclasses.replace(config, dtype="float32"))

    def embed(params: Params, tokens_BNL: np.ndarray, mix: bool) -> jax.Array:
        def embedded(bound: MuxModel) -> jax.Array:
            embedded_BNLE = bound.embeddings(tokens_BNL)
            return bound.embeddings.place(bound.multiplexer(embedded_BNLE, None)) if mix else embedded_BNLE

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
        return (state_SLD - state_SLD.mean((0, 1))) @ directions_Dd

    keys_NEE = _keys(directions_Dd, N, ordinary["embeddings"]["norm"]["scale"])
    params = unfitted | {"multiplexer": {"keys": keys_NEE}}
    mixed_BLD, state = embed(params, tokens_BNL, mix=True), embedded_SLD
    fitted = []
    for i, (layer, new) in enumerate(zip(layers, fresh_layers)):
        report(0.3 + 0.7 * i / len(layers), f"layer {i + 1} of {len(layers)}")
        attended, following = _sublayers(config, layer, state)
        new = new | _fit_attention(config, layer, new, state, target(attended), _parts(mixed_BLD, N))
        mixed_BLD = _attention_sublayer(config, new, mixed_BLD)
        new = new | _fit_feed_forward(layer, new, attended, target(following), _parts(mixed_BLD, N))
        mixed_BLD = _feed_forward_sublayer(config, new, mixed_BLD)
        state = following
        fitted.append(new)
    params["encoder"] = {"layers": jax.tree.map(lambda *x: np.stack(x), *fitted)}
    return params, _Regression(_parts(mixed_BLD, N), state).solve()


def refine(
    config: ModelConfig,
    ordinary: Params,
    params: Params,
    readout: Params,
    packed: PackedTokens,
    steps: int,
    dtype: str,
    seed: int,
    report: Callable[[float, str], None],
) -> tuple[Params, Params]:
    """Goes on with gradient steps: encoder and readout learn to give the ordinary model's last states.

    The loss is the squared error over the variance of the states, on `_ROWS` rows of `packed` at a time.
    `params`, `readout` and what is returned are those of `fit`.
    """
    config = dataclasses.replace(config, dtype=dtype, scan_layers=False)
    schedule = optax.warmup_cosine_decay_schedule(0.0, _LEARNING_RATE, max(1, steps // 20), max(2, steps))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(trained: Params, fixed: Params, ordinary: Params, tokens_SL: jax.Array) -> jax.Array:
        parts, state = _encode(config, ordinary, fixed | {"encoder": trained["encoder"]}, tokens_SL)
        return ((_linear(trained["readout"], parts) - state) ** 2).mean() / state.var((0, 1)).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        trained: Params, moments: Any, fixed: Params, ordinary: Params, tokens_SL: jax.Array
    ) -> tuple[Params, Any, jax.Array]:
        found, gradient = jax.value_and_grad(loss)(trained, fixed, ordinary, tokens_SL)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(trained, updates), moments, found

    fixed, ordinary = jax.device_put(({k: v for k, v in params.items() if k != "encoder"}, ordinary))
    trained = jax.device_put({"encoder": params["encoder"], "readout": readout})
    moments, rng = optimizer.init(trained), np.random.default_rng(seed)
    for i in range(steps):
        tokens_SL = np.stack([packed[j] for j in rng.integers(len(packed), size=_ROWS * config.width)])
        trained, moments, found = step(trained, moments, fixed, ordinary, tokens_SL)
        report((i + 1) / steps, f"step {i + 1}, {1 - float(found):.0%} of the variance")
    trained = jax.device_get(trained)
    return params | {"encoder": trained["encoder"]}, trained["readout"]


def _encode(config: ModelConfig, ordinary: Params, params: Params, tokens_SL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each sequence's part of the multiplexed model's last states, [S, L, D // N]; the ordinary ones, [S, L, D]."""

    def encode(width: int, params: Params) -> jax.Array:
        model = MuxModel(dataclasses.replace(config, width=width))
        tokens_BNL = tokens_SL.reshape(-1, width, tokens_SL.shape[-1])
        return model.apply({"params": params}, tokens_BNL, method="encode").astype(jnp.float32)

    return _parts(encode(config.width, params), config.width), encode(1, ordinary)


@functools.partial(jax.jit, static_argnames="config")
def _attention_sublayer(config: ModelConfig, layer: Params, state: jax.Array) -> jax.Array:
    return _norm(config, layer["attention_norm"], state + _attention(config, layer["attention"], state))


@functools.partial(jax.jit, static_argnames="config")
def _feed_forward_sublayer(config: ModelConfig, layer: Params, state: jax.Array) -> jax.Array:
    inner = gelu(_linear(layer["intermediate"], state))
    return _norm(config, layer["output_norm"], state + _linear(layer["output"], inner))


def _sublayers(config: ModelConfig, layer: Params, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The states after attention, and after the layer."""
    attended = _attention_sublayer(config, layer, state)
    return attended, _feed_forward_sublayer(config, layer, attended)


@functools.partial(jax.jit, static_argnames="config")
def _attention(config: ModelConfig, params: Params, state: jax.Array) -> jax.Array:
    return SelfAttention(config.num_attention_heads, 0.0, "float32", True).apply({"params": params}, state, None)


def _norm(config: ModelConfig, params: Params, state: jax.Array) -> jax.Array:
    return layer_norm(config.layer_norm_eps, "float32").apply({"params": params}, state)


@jax.jit
def _linear(params: Params, x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params["bias"]


class _Regression:
    """Ridge regression of y [..., O] on x [..., I], or on some of its I inputs."""

    def __init__(self, x: jax.Array, y: jax.Array):
        self._means, moments = jax.device_get(_moments(x, y))
        self.covariance, self.correlation = (moment.astype(np.float64) for moment in moments)
        self._ridge = _RIDGE * self.covariance.diagonal().mean()

    def solve(self, inputs: Sequence[int] | slice = slice(None)) -> Params:
        """The kernel [I, O] and bias [O] of the best linear map."""
        kernel = self._solve(inputs).astype(np.float32)
        return {"kernel": kernel, "bias": self._means[1] - self._means[0][inputs] @ kernel}

    def explained(self, inputs: Sequence[int]) -> float:
        """The variance of y, summed over outputs and examples, that these inputs explain."""
        return float((self._solve(inputs) * self.correlation[inputs]).sum())

    def _solve(self, inputs: Sequence[int] | slice) -> np.ndarray:
        covariance = self.covariance[inputs][:, inputs]
        return scipy.linalg.solve(
            covariance + self._ridge * np.eye(len(covariance)), self.correlation[inputs], assume_a="pos"
        )


@jax.jit
def _moments(x: jax.Array, y: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The means of x [..., I] and of y [..., O]; x'x and x'y about them, sums over all examples."""
    x, y = (z.reshape(-1, z.shape[-1]) for z in (x, y))
    means = x.mean(0), y.mean(0)
    x, y = x - means[0], y - means[1]
    return means, (x.T @ x, x.T @ y)


@functools.partial(jax.jit, static_argnames="N")
def _parts(mixed_BLD: jax.Array, N: int) -> jax.Array:
    """Each instance's part of the states of rows: [B, L, D] -> [B * N, L, D // N]."""
    B, L, D = mixed_BLD.shape
    return mixed_BLD[..., : D // N * N].reshape(B, L, N, -1).swapaxes(1, 2).reshape(B * N, L, -1)


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
    projected = jnp.concatenate([_linear(attention[name], state_SLD) for name in names], axis=-1)
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
    first = _Regression(parts_SLd, _linear(layer["intermediate"], state_SLD)).solve()
    regression = _Regression(gelu(_linear(first, parts_SLd)), target_SLd - parts_SLd)
    used, variance = np.arange(F), regression.covariance.diagonal()
    for left in np.linspace(F, F // N, 4)[1:].astype(int):
        weight = (regression.solve(used)["kernel"] ** 2).sum(1) * variance[used]
        used = np.sort(used[np.argsort(-weight)[:left]])
    return {
        "intermediate": _tile({k: v[..., used] for k, v in first.items()}, new["intermediate"], N),
        "output": _tile(regression.solve(used), new["output"], N),
        "output_norm": _tiled_norm(target_SLd, new["output_norm"]),
    }


def _demultiplexer(fresh: Params, readout: Params, parts_SLd: jax.Array, state_SLD: jax.Array) -> Params:
    """RSA that passes an instance's part and reads the ordinary model's state from it.

    The instance's key opens the GELU for its own dimensions, in the range where that is nearly linear, and
    shuts it for the others. The second layer's LayerNorm takes out the size and the offset that are added there.
    """
    N, D = fresh["keys"].shape
    d = parts_SLd.shape[-1]
    gain, read_gain = (_SIGNAL / float(jnp.sqrt((x**2).mean())) for x in (parts_SLd, state_SLD))
    gate_ND = np.where(np.arange(D) // d == np.arange(N)[:, None], _OPEN, _SHUT)
    kernel = np.zeros((D, D), np.float32)
    kernel[: N * d] = np.tile(readout["kernel"], (N, 1)) * read_gain / gain
    return fresh | {
        "dense_keys": {"kernel": np.linalg.pinv(fresh["keys"]) @ gate_ND},
        "layers_0": {"kernel": gain * np.eye(D), "bias": np.zeros(D)},
        "output": {"kernel": kernel, "bias": readout["bias"] * read_gain + _OPEN - _OPEN * kernel[:d].sum(0)},
    }
