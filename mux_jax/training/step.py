"""The train state and the one jitted step."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mux_jax.models.model import MuxModel
from mux_jax.objectives.objectives import Objective
from mux_jax.training.mesh import RULES, batch_sharding, param_shardings

Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """What a step changes. `step` counts from the start of the run, over all stages."""

    step: jax.Array
    params: Any
    opt_state: Any


def abstract_params(model: MuxModel, mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of the model's parameters, without making them."""
    boxed = jax.eval_shape(functools.partial(_init, model), jax.random.key(0))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        nn.meta.unbox(boxed),
        param_shardings(mesh, boxed),
    )


def init_params(model: MuxModel, mesh: Mesh, seed: int) -> Any:
    """Fresh parameters, made in place on their devices; the same for every mesh."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_params(model, mesh))
    init = jax.jit(lambda rng: nn.meta.unbox(_init(model, rng)), out_shardings=shardings)
    return init(jax.random.key(seed))


def _init(model: MuxModel, rng: jax.Array) -> Any:
    tokens = jnp.zeros((1, model.config.width, 1), jnp.int32)
    return model.clone(deterministic=True).init(rng, tokens, method="init_all")["params"]


def init_state(params: Any, optimizer: optax.GradientTransformation, step: int, mesh: Mesh) -> TrainState:
    """A state with a fresh optimiser, whose moments lie where their parameters do."""
    opt_state = jax.jit(optimizer.init, out_shardings=_like_params(optimizer, params, mesh))(params)
    step = jax.device_put(jnp.asarray(step, jnp.int32), NamedSharding(mesh, PartitionSpec()))
    return TrainState(step, params, opt_state)


def _like_params(optimizer: optax.GradientTransformation, params: Any, mesh: Mesh) -> Any:
    """Shardings of the optimiser's state: a moment has its parameter's, a counter none."""
    return optax.tree.map_params(
        optimizer,
        lambda _, p: p.sharding,
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=lambda _: NamedSharding(mesh, PartitionSpec()),
    )


def abstract_state(model: MuxModel, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a state, without making it."""
    params = abstract_params(model, mesh)
    opt_state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(optimizer.init, params),
        _like_params(optimizer, params, mesh),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    return TrainState(step, params, opt_state)


def make_train_step(
    objective: Objective,
    model: MuxModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    accumulate: int,
) -> "Compiled":
    """The step: (state, batch) -> (state, scalars to log).

    The state is donated. What is drawn depends on (seed, step) alone.
    """

    def loss_fn(params: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, outputs = objective(model, params, batch, rng)
        return loss, {"loss": loss} | {k: v for k, v in outputs.items() if v.ndim == 0}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        gradients_of = jax.grad(loss_fn, has_aux=True)
        if accumulate == 1:
            gradients, metrics = gradients_of(state.params, batch, rng)
        else:
            gradients, metrics = _accumulate(gradients_of, state.params, batch, rng, accumulate)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return TrainState(state.step + 1, params, opt_state), metrics

    # Left to itself, XLA may give the new state back split in another way than the old one came.
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(model, optimizer, mesh))
    return Compiled(step, mesh, donate_argnums=0, out_shardings=(shardings, shardings.step))


def make_eval_step(objective: Objective, model: MuxModel, mesh: Mesh) -> "Compiled":
    """The evaluation: (params, batch, rng) -> the objective's outputs. Dropout is off."""

    def step(params: Any, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        loss, outputs = objective(model.clone(deterministic=True), params, batch, rng)
        return outputs | {"loss": loss}

    return Compiled(step, mesh, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _accumulate(gradients_of: Callable, params: Any, batch: Batch, rng: jax.Array, parts: int) -> Any:
    """Mean gradients and metrics over `parts` slices of the rows, one slice in memory at a time."""
    # Every parts-th row, so that each slice has its share of every device's rows.
    slices = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        index, batch = part
        new = gradients_of(params, batch, jax.random.fold_in(rng, index))
        return jax.tree.map(jnp.add, total, new), None

    shapes = jax.eval_shape(gradients_of, params, jax.tree.map(lambda x: x[0], slices), rng)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), slices))
    return jax.tree.map(lambda x: x / parts, total)


class Compiled:
    """A function jitted with the mesh and the axis rules in force, compiled for each shape it meets."""

    def __init__(self, function: Callable, mesh: Mesh, **jit_options: Any):
        self._jitted, self._mesh = jax.jit(function, **jit_options), mesh
        self._compiled: dict[Any, Callable] = {}

    def prepare(self, *args: Any) -> jax.stages.Compiled:
        """Compiles for arguments like these, if that was not done before."""
        key = self._key(args)
        if key not in self._compiled:
            self._compiled[key] = self.lower(*args).compile()
        return self._compiled[key]

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """The program for arguments like these, not compiled yet."""
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(RULES):
            return self._jitted.lower(*args)

    def __call__(self, *args: Any) -> Any:
        return self.prepare(*args)(*args)

    @staticmethod
    def _key(args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shapes of all but the first argument: parameters and states keep theirs."""
        return tuple((x.shape, x.dtype) for x in jax.tree.leaves(args[1:]))


def to_device(batch: Any, mesh: Mesh, rows: int) -> Any:
    """This host's rows, those of `local_rows`, as its part of a global batch of `rows`."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:])),
        batch,
    )


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """A batch that every host has whole, split over the devices."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda part: x[part]), batch)
