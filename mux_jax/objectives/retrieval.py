"""Token retrieval, the priming objective: name the token of a drawn instance at each position."""

import jax
import jax.numpy as jnp

from mux_jax.models.model import MuxModel
from mux_jax.objectives.cross_entropy import vocabulary_cross_entropy
from mux_jax.objectives.stages import FinetuneStage, PretrainStage


def draw_instances(rng: jax.Array, tokens_BNL: jax.Array) -> jax.Array:
    """The instance that is asked for at each position, uniform int32[B, L]."""
    B, N, L = tokens_BNL.shape
    return jax.random.randint(rng, (B, L), 0, N)


def retrieval_loss(
    bound: MuxModel,
    hidden_BLD: jax.Array,
    tokens_BNL: jax.Array,
    instance_BL: jax.Array,
    counted_BNL: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Retrieval on encoded rows, by a bound model; [B, L, V] logits and no more.

    As in the released code, the tokens are those that were multiplexed, corrupted ones included,
    and every position counts but those of a prefix; or those that `counted` says.

    Returns:
      The mean cross-entropy in nats, and outputs `retrieval_instance` int32[B, L] and
      `retrieval_correct` bool[B, L].
    """
    states_BLD = bound.vocabulary_states(hidden_BLD, instance_BL[:, None], bound.after_prefix(hidden_BLD))[:, 0]
    labels_BL = jnp.take_along_axis(tokens_BNL, instance_BL[:, None], axis=1)[:, 0]
    weights_BL = jnp.ones(labels_BL.shape)
    if counted_BNL is not None:
        weights_BL = jnp.take_along_axis(counted_BNL, instance_BL[:, None], axis=1)[:, 0].astype(jnp.float32)
    weights_BL /= jnp.maximum(weights_BL.sum(), 1)
    loss, predicted_BL = vocabulary_cross_entropy(states_BLD, *bound.decoder(), labels_BL, weights_BL)
    return loss, {
        "retrieval_instance": instance_BL,
        "retrieval_correct": predicted_BL == labels_BL,
    }


def with_retrieval(
    bound: MuxModel,
    task_loss: jax.Array,
    hidden_BLD: jax.Array,
    tokens_BNL: jax.Array,
    rng: jax.Array,
    stage: PretrainStage | FinetuneStage,
    outputs: dict[str, jax.Array],
    counted_BNL: jax.Array | None = None,
) -> jax.Array:
    """The task's loss with retrieval as auxiliary; width 1 has nothing to retrieve."""
    if bound.config.width == 1 or not stage.retrieval_coefficient:
        return task_loss
    instance_BL = draw_instances(rng, tokens_BNL)
    # One after the other: the logits of the task are gone before those of retrieval are made.
    task_loss, hidden_BLD = jax.lax.optimization_barrier((task_loss, hidden_BLD))
    loss, retrieved = retrieval_loss(bound, hidden_BLD, tokens_BNL, instance_BL, counted_BNL)
    outputs |= retrieved | {"retrieval_loss": loss}
    return stage.task_coefficient * task_loss + stage.retrieval_coefficient * loss
