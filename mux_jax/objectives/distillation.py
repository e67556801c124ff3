"""Distillation: a multiplexed model learns to give the states that an ordinary model gives.

Not in the paper. Where a good model of width 1 is at hand, its states say more of every token than
masked LM does of a few, and no logits over the vocabulary are computed.
"""

import jax
import jax.numpy as jnp

from mux_jax.models.model import MuxModel


def state_loss(bound: MuxModel, hidden_BLD: jax.Array, teacher_BNLD: jax.Array) -> jax.Array:
    """The squared error of the demultiplexed states over the variance of the teacher's.

    0 is the teacher itself, 1 a model that gives its mean state everywhere.
    """
    states_BNLD = bound.demultiplexer(hidden_BLD, bound.all_instances, bound.after_prefix(hidden_BLD))
    variance = jnp.square(teacher_BNLD - teacher_BNLD.mean(axis=(0, 1, 2))).mean()
    return jnp.square(states_BNLD.astype(jnp.float32) - teacher_BNLD).mean() / variance
