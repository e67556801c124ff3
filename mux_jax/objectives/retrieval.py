"""Token retrieval, the priming objective: name the token of a drawn instance at each position."""

import jax
import jax.numpy as jnp
import optax

from mux_jax.models.model import MuxModel


def retrieval_loss(
    bound: MuxModel, hidden_BLD: jax.Array, tokens_BNL: jax.Array, rng: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Retrieval on encoded rows, by a bound model; [B, L, V] logits and no more.

    As in the released code, the tokens are those that were multiplexed, corrupted ones included,
    and every position counts.

    Returns:
      The mean cross-entropy in nats, and outputs `retrieval_instance` int32[B, L] and
      `retrieval_correct` bool[B, L].
    """
    B, N, L = tokens_BNL.shape
    instance_BL = jax.random.randint(rng, (B, L), 0, N)
    logits_BLV = bound.vocabulary_logits(hidden_BLD, instance_BL[:, None])[:, 0]
    labels_BL = jnp.take_along_axis(tokens_BNL, instance_BL[:, None], axis=1)[:, 0]
    losses_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, labels_BL)
    outputs = {
        "retrieval_instance": instance_BL,
        "retrieval_correct": logits_BLV.argmax(-1) == labels_BL,
    }
    return losses_BL.mean(), outputs
