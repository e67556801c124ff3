"""The cross-entropy over the vocabulary, by far the largest arrays of pre-training."""

import jax
import jax.numpy as jnp

from mux_jax.models.heads import decode


@jax.custom_vjp
def vocabulary_cross_entropy(
    states: jax.Array, kernel_VD: jax.Array, bias_V: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """sum(weights * cross-entropy), in nats, of the logits of some states, and the logits.

    Where a gradient is asked for, it is computed along with the loss: one array of [..., V] is then
    alive at a time, and no second head's beside it, at the cost of no FLOP. No gradient flows through
    the logits or to the weights.

    Args:
      states: [..., D]; their dtype is that of the matrix products.
      kernel_VD, bias_V: the decoder.
      labels: int[...]; weights: float32[...].

    Returns:
      float32 [] and [..., V].
    """
    logits = decode(states, kernel_VD, bias_V)
    return _loss(logits, labels, weights)[0], logits


def _loss(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The weighted sum, and log sum exp [..., 1]."""
    lse = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    found = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    return ((lse - found)[..., 0] * weights).sum(), lse


def _forward(states: jax.Array, kernel_VD: jax.Array, bias_V: jax.Array, labels: jax.Array, weights: jax.Array):
    logits = decode(states, kernel_VD, bias_V)
    loss, lse = _loss(logits, labels, weights)
    label = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) == labels[..., None]
    errors = weights[..., None] * (jnp.exp(logits - lse) - label)
    low = errors.astype(states.dtype)
    gradients = (
        jnp.einsum("...v,vd->...d", low, kernel_VD.astype(states.dtype)),
        jnp.einsum("...v,...d->vd", low, states, preferred_element_type=jnp.float32),
        errors.sum(range(errors.ndim - 1)),
    )
    return (loss, logits), gradients


def _backward(gradients: tuple[jax.Array, ...], cotangents: tuple[jax.Array, jax.Array]):
    return *(cotangents[0].astype(g.dtype) * g for g in gradients), None, None


vocabulary_cross_entropy.defvjp(_forward, _backward)
