"""The cross-entropy over the vocabulary, by far the largest arrays of pre-training."""

from typing import Any

import jax
import jax.numpy as jnp

from mux_jax.models.heads import decode
from mux_jax.models.layers import by_copy, product


def vocabulary_cross_entropy(
    states: jax.Array, kernel_SVD: jax.Array, bias_V: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """sum(weights * cross-entropy), in nats, of the logits of some states, and the logits.

    Where a gradient is asked for, it is computed along with the loss: the logits of one head are
    then gone before those of the next are made, at the cost of no FLOP. No gradient flows through
    the logits or to the weights.

    Args:
      states: [B, ..., D]; their dtype is that of the matrix products.
      kernel_SVD, bias_V: the decoder; S divides B.
      labels: int[...]; weights: float32[...].

    Returns:
      float32 [] and [..., V].
    """
    # In two axes throughout: in more, XLA computes the errors below once for each of their uses.
    states_TD = states.reshape(-1, states.shape[-1])
    losses, logits_TV = by_copy(
        lambda kernel_VD, *rows: _cross_entropy(kernel_VD, bias_V, *rows),
        kernel_SVD,
        states_TD,
        labels.ravel(),
        weights.ravel(),
    )
    return losses.sum(), logits_TV.reshape(*labels.shape, -1)


@jax.custom_vjp
def _cross_entropy(
    kernel_VD: jax.Array, bias_V: jax.Array, states_TD: jax.Array, labels_T: jax.Array, weights_T: jax.Array
) -> tuple[jax.Array, jax.Array]:
    logits_TV = decode(states_TD, kernel_VD, bias_V)
    return _loss(logits_TV, labels_T, weights_T)[0], logits_TV


def _loss(logits_TV: jax.Array, labels_T: jax.Array, weights_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of the losses, and log sum exp [T]."""
    lse_T = jax.nn.logsumexp(logits_TV, axis=-1)
    found_T = jnp.take_along_axis(logits_TV, labels_T[:, None], axis=-1)[:, 0]
    return ((lse_T - found_T) * weights_T).sum(), lse_T


def _forward(kernel_VD: jax.Array, bias_V: jax.Array, states_TD: jax.Array, labels_T: jax.Array, weights_T: jax.Array):
    logits_TV = decode(states_TD, kernel_VD, bias_V)
    loss, lse_T = _loss(logits_TV, labels_T, weights_T)
    is_label_TV = jnp.arange(len(bias_V))[None] == labels_T[:, None]
    errors_TV = weights_T[:, None] * (jnp.exp(logits_TV - lse_T[:, None]) - is_label_TV)
    errors_TV = errors_TV.astype(states_TD.dtype)
    gradients = (
        jnp.einsum("td,tv->dv", states_TD, errors_TV, preferred_element_type=jnp.float32).T,
        # The sum over T as a product: XLA's CPU reduction over a leading axis is slower by far.
        jnp.matmul(jnp.ones(len(errors_TV), errors_TV.dtype), errors_TV, preferred_element_type=jnp.float32),
        product(errors_TV, kernel_VD.astype(states_TD.dtype), 1, 0),
    )
    return (loss, logits_TV), gradients


def _backward(gradients: tuple[jax.Array, ...], cotangents: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    return *(cotangents[0].astype(g.dtype) * g for g in gradients), None, None


_cross_entropy.defvjp(_forward, _backward)
