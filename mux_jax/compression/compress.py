"""A multiplexed model out of an ordinary encoder: by least squares, then by gradient steps to the same end.

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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mux_jax.checkpoints.convert import check_target, save_model
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.compression.least_squares import fit, fit_demultiplexer, parts
from mux_jax.compression.regression import Params, linear
from mux_jax.configuration import FinetuneConfig, from_mapping
from mux_jax.data.packing import PackedTokens, cache_folder, cached_tokens
from mux_jax.data.pydocs import PythonDocs
from mux_jax.data.task_data import TaskTexts
from mux_jax.data.tasks import describe
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh
from mux_jax.parallel.params import init_params
from mux_jax.paths import absolute
from mux_jax.progress import progress, say

_HELDOUT_FRACTION, _HELDOUT_SEQUENCES = 0.02, 128  # of the documents, and of these, that the result is judged on
_ROWS, _LEARNING_RATE = 16, 5e-4  # of refinement


def compress(
    model: str,
    width: int,
    source: Any | None,
    sequences: int,
    length: int,
    steps: int,
    dtype: str,
    seed: int,
    workdir: str,
    overwrite: bool,
) -> float:
    """Makes a multiplexed model of the ordinary one `model`, and writes it to the folder `workdir`.

    Args:
      model: a run, a Hugging Face folder or an id of the hub.
      width: instances of a row.
      source: of `data.sources`; the text that the fits are made on. It is tokenised once, as for
        pre-training, and kept in the same cache. None: the training texts of the task that `model` was
        fine-tuned on, and for other models the documentation of the Python installation.
      sequences: how many sequences of it, drawn at random, made a multiple of `width`.
      length: their tokens.
      steps: of `refine`.
      dtype: of its matrix products, as in `ModelConfig`.
      seed: of the draw, and of what is not fitted: the retrieval head, and what is left over where
        the width does not divide the dimensions, heads or neurons.
      workdir: a folder to fine-tune or to pre-train from.
      overwrite: whether it may exist, as in `convert`.

    Returns:
      The part of the variance of the ordinary model's last states that the demultiplexed ones have, on
      held-out text.

    Raises:
      InputError: no such model, one that cannot be shared out, too little text, `workdir` exists.
    """
    found = open_model(model)
    config = multiplexed(found.config, width)
    if not 2 <= length <= config.max_length:
        raise InputError(f"--length={length} must be from 2 to {config.max_length}, the model's positions")
    if sequences < 1:
        raise InputError(f"--sequences={sequences} must be at least 1")
    for name, value in (("steps", steps), ("seed", seed)):
        if value < 0:
            raise InputError(f"--{name}={value} must be at least 0")
    target = absolute(workdir)
    check_target(target, overwrite, found.folder)
    tokenizer = found.tokenizer()
    source = source or _own_text(found)
    cache = cached_tokens(source, tokenizer, length, _HELDOUT_FRACTION, cache_folder())
    train, heldout = (PackedTokens(cache, split) for split in ("train", "heldout"))
    tokens_SL, heldout_SL = _draw(train, sequences, width, seed), _draw(heldout, _HELDOUT_SEQUENCES, width, seed)
    say(f"fitted on {len(tokens_SL):,} of {len(train):,} sequences of {length} tokens")

    mesh = make_mesh(devices=jax.devices()[:1])
    ordinary = jax.device_get(found.params(mesh))
    fresh = jax.device_get(init_params(MuxModel(config), mesh, seed))
    with jax.default_matmul_precision("highest"), progress("least squares") as report:
        params, readout = fit(config, ordinary, fresh, tokens_SL, report)
    if steps:
        with progress("refinement") as report:
            params = refine(config, ordinary, params, readout, train, steps, dtype, seed, report)
    with jax.default_matmul_precision("highest"):
        exact = dataclasses.replace(config, dtype="float32")
        mixed_BLD, state_SLD = _encode(exact, ordinary, params, tokens_SL)
        params |= {"demultiplexer": fit_demultiplexer(exact, fresh["demultiplexer"], mixed_BLD, state_SLD)}
        explained = _explained(exact, ordinary, params, heldout_SL)
    if config.labels:
        params |= {name: ordinary[name] for name in ("pooler", "classifier") if name in ordinary}
    say(f"{explained:.0%} of the variance of the last states of {model} is read from mixtures of {width}")
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    result = {"result.json": json.dumps({"explained": explained}) + "\n"}
    # Rows as it had: it does the task.
    say(save_model(target, config, params, tokenizer, found.address, overwrite, found.task, others=result))
    return explained


def _own_text(found: ModelSource) -> Any:
    """The text that a model knows best: its task's."""
    if found.run and "task" in found.run["data"]:
        data = from_mapping(FinetuneConfig, found.run).data
        say(f"text: the training examples of {data.task}, from {describe(data)}")
        try:
            return TaskTexts(data)
        except InputError as e:
            raise InputError(f"{e}; --texts names other text") from e
    say("text: the documentation of the Python installation")
    return PythonDocs()


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
        raise InputError(f"--model has width {config.width}; it must be an ordinary model")
    if config.embedding_size != config.hidden_size:
        raise InputError(
            f"--model has embeddings of {config.embedding_size} and states of {config.hidden_size} dimensions; "
            "they must be of one size"
        )
    if not 2 <= width <= config.num_attention_heads:
        raise InputError(
            f"--width={width} must be from 2 to {config.num_attention_heads}, the heads of --model: "
            "each instance gets at least one"
        )
    changes = dict(multiplexer="low_rank_orthogonal", demultiplexer="rsa", num_demux_layers=2)
    head = config.head if config.labels else "rtd" if "rtd" in config.family.classes.values() else "mlm"
    kept = {name: value for name, value in config.to_flat().items() if name not in dict(config.options)}
    kept |= config.family_options(width)
    if config.labels and config.has_pooler:
        kept["pooler"] = True  # which its classes are read from
    return ModelConfig.from_flat(kept | changes | dict(width=width, head=head, generator="uniform"))


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
) -> Params:
    """Goes on with gradient steps: encoder and readout learn to give the ordinary model's last states.

    The loss is the squared error over the variance of the states, on `_ROWS` rows of `packed` at a time.
    `params`, which are returned, and `readout` are what `fit` gives.
    """
    config = dataclasses.replace(config, dtype=dtype, scan_layers=False)
    schedule = optax.warmup_cosine_decay_schedule(0.0, _LEARNING_RATE, max(1, steps // 20), max(2, steps))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(trained: Params, fixed: Params, ordinary: Params, tokens_SL: jax.Array) -> jax.Array:
        mixed_BLD, state_SLD = _encode(config, ordinary, fixed | {"encoder": trained["encoder"]}, tokens_SL)
        found_SLD = linear(trained["readout"], parts(mixed_BLD, config.width))
        return ((found_SLD - state_SLD) ** 2).mean() / state_SLD.var((0, 1)).mean()

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
    return params | {"encoder": jax.device_get(trained["encoder"])}


def _explained(config: ModelConfig, ordinary: Params, params: Params, tokens_SL: np.ndarray) -> float:
    """The part of the variance of the ordinary model's last states that the demultiplexed ones have."""
    mixed_BLD, state_SLD = _encode(config, ordinary, params, tokens_SL)
    found_BNLD: Any = MuxModel(config).apply({"params": params}, mixed_BLD, method="demultiplex")
    found_SLD = found_BNLD.reshape(state_SLD.shape)
    return 1 - float(((state_SLD - found_SLD) ** 2).mean() / state_SLD.var((0, 1)).mean())


def _encode(config: ModelConfig, ordinary: Params, params: Params, tokens_SL: Any) -> tuple[jax.Array, jax.Array]:
    """The multiplexed model's last states, of rows [S / N, L, D]; the ordinary ones, of sequences [S, L, D]."""

    def encode(width: int, params: Params) -> jax.Array:
        model = MuxModel(dataclasses.replace(config, width=width))
        tokens_BNL = tokens_SL.reshape(-1, width, tokens_SL.shape[-1])
        hidden_BLD: Any = model.apply({"params": params}, tokens_BNL, method="encode")
        return hidden_BLD.astype(jnp.float32)

    return encode(config.width, params), encode(1, ordinary)
