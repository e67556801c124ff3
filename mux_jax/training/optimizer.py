"""AdamW with linear warm-up and decay and global-norm clipping, by optax."""

from typing import Any

import jax
import optax

from mux_jax.configuration.sections import OptimizerSection
from mux_jax.objectives.stages import Stage


def learning_rate(stage: Stage) -> optax.Schedule:
    """Linear warm-up from 0 to `learning_rate`, then linear decay to 0 at the stage's end."""
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, stage.learning_rate, stage.warmup_steps),
            optax.linear_schedule(stage.learning_rate, 0.0, stage.steps - stage.warmup_steps),
        ],
        [stage.warmup_steps],
    )


def decayed(params: Any) -> Any:
    """True for the parameters that decay: all but biases, LayerNorm and keys."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale", "keys"), params)


def make_optimizer(stage: Stage, optimizer: OptimizerSection) -> optax.GradientTransformation:
    """The optimiser of a stage; each stage starts it anew.

    The encoder's layers are stacked: a method that treats each array on its own sees all layers as one.
    """
    return optax.chain(
        optax.clip_by_global_norm(optimizer.clip_norm),
        optax.adamw(
            learning_rate(stage),
            b1=optimizer.b1,
            b2=optimizer.b2,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            mask=decayed,
        ),
    )
