"""The train state and the one jitted step."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mux_jax.models.model import MuxModel
from mux_jax.objectives.objectives import Objective
from mux_jax.parallel.compiled import CompiledByShape
from mux_jax.parallel.params import abstract_params

Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """What a step changes.

    Attributes:
      step: int32[], steps since the start of the run, over all stages.
      params: the model's parameters, float32.
      opt_state: the optimiser's state.
    """

    step: Any
    params: Any
    opt_state: Any


def init_state(params: Any, optimizer: optax.GradientTransformation, step: int, mesh: Mesh) -> TrainState:
    """A state with a fresh optimiser, whose moments lie where their parameters do."""
    opt_state = jax.jit(optimizer.init, out_shardings=_like_params(optimizer, params, mesh))(params)
    counter = jax.device_put(jnp.asarray(step, jnp.int32), NamedSharding(mesh, PartitionSpec()))
    return TrainState(counter, params, opt_state)


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
    grad_accumulation_steps: int,
) -> CompiledByShape:
    """The step: (state, batch) -> (state, scalars to log).

    The state is donated. What is drawn depends on (seed, step) alone.
    """

    def loss_fn(params: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, outputs = objective(model, params, batch, rng)
        return loss, {"loss": loss} | {k: v for k, v in outputs.items() if v.ndim == 0}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        gradients_of = jax.grad(loss_fn, has_aux=True)
        if grad_accumulation_steps == 1:
            gradients, metrics = gradients_of(state.params, batch, rng)
        else:
            gradients, metrics = _accumulate(gradients_of, state.params, batch, rng, grad_accumulation_steps)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            metrics["gradient_norm"] = optax.tree.norm(gradients)
        return TrainState(state.step + 1, params, opt_state), metrics

    # Left to itself, XLA may give the new state back split in another way than the old one came.
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(model, optimizer, mesh))
    return CompiledByShape(step, mesh, donate_argnums=0, out_shardings=(shardings, shardings.step))


def make_eval_step(objective: Objective, model: MuxModel, mesh: Mesh) -> CompiledByShape:
    """The evaluation: (params, batch, rng) -> the objective's outputs. Dropout is off."""

    def step(params: Any, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        loss, outputs = objective(model.clone(deterministic=True), params, batch, rng)
        return outputs | {"loss": loss}

    return CompiledByShape(step, mesh, out_shardings=NamedSharding(mesh, PartitionSpec()))


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
