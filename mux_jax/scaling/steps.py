"""The steps that are compiled: those of the real run, with the shapes of their arguments and their FLOPs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mux_jax.configuration import PretrainConfig, stages
from mux_jax.data.tokenizer import BERT_TOKENS
from mux_jax.inference.batch_runner import compile_logits
from mux_jax.models import flops
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.objectives import objectives
from mux_jax.parallel.mesh import batch_sharding, make_mesh
from mux_jax.parallel.params import abstract_params
from mux_jax.training.optimizer import make_optimizer
from mux_jax.training.step import abstract_state, make_train_step


def training(config: PretrainConfig, mesh: Mesh) -> tuple[Any, tuple[Any, ...], int]:
    """The step of the last stage, its arguments' shapes, and its FLOPs."""
    stage = stages(config)[-1][1]
    model_config = config.model_config(config.data.vocab_size, BERT_TOKENS.cls)
    model, optimizer = MuxModel(model_config, deterministic=False), make_optimizer(stage, config.optimizer)
    objective = objectives.make(stage, BERT_TOKENS)
    step = make_train_step(objective, model, optimizer, mesh, config.seed, config.grad_accumulation_steps)
    length = config.data.sequence_length
    batch = {"tokens": _tokens(config, mesh)}
    forward = flops.pretraining(model_config, stage.objective, length, config.pretraining.mask_fraction)
    return step, (abstract_state(model, optimizer, mesh), batch), 3 * config.rows * forward


def inference(config: PretrainConfig, mesh: Mesh) -> tuple[Any, tuple[Any, ...], int]:
    model_config = config.model_config(config.data.vocab_size, BERT_TOKENS.cls)
    model_config = dataclasses.replace(model_config, head="sequence", labels=("0", "1"))
    model = MuxModel(model_config)
    params = _split_layers(abstract_params(model, mesh), model_config.compute_dtype)
    count = config.rows * flops.classification(model_config, config.data.sequence_length)
    return compile_logits(model, mesh, BERT_TOKENS.pad), (params, _tokens(config, mesh)), count


def _split_layers(params: Any, dtype: str) -> Any:
    """What `split_layers` gives for arrays of these shapes; the axis of the layers is never split."""
    shapes = jax.eval_shape(functools.partial(split_layers, dtype=dtype), params)

    def place(path: tuple, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        keys = [key.key for key in path]
        layered = keys[0] == "encoder"
        if layered:
            keys[1] = "layers"
        sharding = functools.reduce(lambda tree, key: tree[key], keys, params).sharding
        spec = PartitionSpec(*tuple(sharding.spec)[int(layered) :])
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(sharding.mesh, spec))

    return jax.tree_util.tree_map_with_path(place, shapes)


def count_flops(build: Callable, config: PretrainConfig) -> float:
    """FLOPs of a step as XLA counts them, on one device and without loops, whose insides it counts once."""
    plain = dataclasses.replace(config.model, scan_layers=False, remat=False, attention="plain")  # a kernel is a loop
    config = dataclasses.replace(config, grad_accumulation_steps=1, model=plain)
    function, arguments, _ = build(config, make_mesh(devices=jax.devices()[:1]))
    return function.lower(*arguments).cost_analysis()["flops"]


def _tokens(config: PretrainConfig, mesh: Mesh) -> jax.ShapeDtypeStruct:
    shape = (config.rows, config.model.width, config.data.sequence_length)
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))
