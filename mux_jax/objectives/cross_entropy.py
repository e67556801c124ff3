"""The cross-entropy over the vocabulary, by far the largest arrays of pre-training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mux_jax.models.heads import decode
from mux_jax.models.layers import by_copy, product


def most_probable(logits: jax.Array) -> jax.Array:
    """The token with the largest logit, int32[...] of float32[..., V]."""
    return logits.argmax(-1)


def vocabulary_cross_entropy(
    states: jax.Array,
    kernel_SVD: jax.Array,
    bias_V: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    decide: Callable[[jax.Array], Any] = most_probable,
) -> tuple[jax.Array, Any]:
    """sum(weights * cross-entropy), in nats, of the logits of some states, and what `decide` makes of the logits.

    Where a gradient is asked for, it is computed along with the loss: the logits of one head are then gone
    before those of the next are made, at the cost of no FLOP. So the logits have no gradient, and they do not
    leave: a loss made of them would train nothing. What leaves are decisions: integers and booleans.
    For another loss on the vocabulary take `MuxModel.vocabulary_logits`.

    Args:
      states: [B, ..., D]; their dtype is that of the matrix products.
      kernel_SVD, bias_V: the decoder; see `layers.copy_for_rows` for S.
      labels: int[...]; weights: float32[...].
      decide: of logits float32 [..., V]; default: the most probable token.

    Returns:
      float32 []; what `decide` gives.

    Raises:
      TypeError: `decide` gives other than integers and booleans.
    """
    # In two axes throughout: in more, XLA computes the errors below once for each of their uses.
    states_TD = states.reshape(-1, states.shape[-1])
    with jax.named_scope("vocabulary"):
        losses, logits_TV = by_copy(
            lambda kernel_VD, *rows: _cross_entropy(kernel_VD, bias_V, *rows),
            kernel_SVD,
            states_TD,
            labels.ravel(),
            weights.ravel(),
        )
        decisions = decide(logits_TV.reshape(*labels.shape, -1))
    for found in jax.tree.leaves(decisions):
        if jnp.issubdtype(found.dtype, jnp.inexact):
            raise TypeError(
                f"decide gives {found.dtype}; the logits of vocabulary_cross_entropy have no gradient, and only "
                "integers and booleans may be made of them. For another loss take MuxModel.vocabulary_logits"
            )
    return losses.sum(), decisions


@jax.custom_vjp
def _cross_entropy(
    kernel_VD: jax.Array, bias_V: jax.Array, states_TD: jax.Array, labels_T: jax.Array, weights_T: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of the losses, and the logits [T, V], of one copy's rows."""
    logits_TV = decode(states_TD, kernel_VD, bias_V)
    return (_losses(logits_TV, labels_T)[0] * weights_T).sum(), logits_TV


def _losses(logits_TV: jax.Array, labels_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The losses [T], log sum exp minus the label's logit; and log sum exp [T]."""
    lse_T = jax.nn.logsumexp(logits_TV, axis=-1)
    return lse_T - jnp.take_along_axis(logits_TV, labels_T[:, None], axis=-1)[:, 0], lse_T


def _forward(kernel_VD: jax.Array, bias_V: jax.Array, states_TD: jax.Array, labels_T: jax.Array, weights_T: jax.Array):
    """What `_cross_entropy` returns, and the gradients of its first value, which `_backward` only scales.

    With errors E = weights (softmax(logits) - one hot(label)), [T, V]: E' states for the kernel, E's sum over T
    for the bias, E kernel for the states; the losses for the weights.
    """
    logits_TV = decode(states_TD, kernel_VD, bias_V)
    losses_T, lse_T = _losses(logits_TV, labels_T)
    is_label_TV = jnp.arange(len(bias_V))[None] == labels_T[:, None]
    errors_TV = weights_T[:, None] * (jnp.exp(logits_TV - lse_T[:, None]) - is_label_TV)
    errors_TV = errors_TV.astype(states_TD.dtype)
    # The sum over T as a part of the kernel's product: XLA's reductions over a leading axis are slow, and read all
    # logits once more.
    with_one_TE = jnp.pad(states_TD, ((0, 0), (0, 1)), constant_values=1)
    both_EV = jnp.einsum("te,tv->ev", with_one_TE, errors_TV, preferred_element_type=jnp.float32)
    gradients = (
        both_EV[:-1].T,
        both_EV[-1],
        product(errors_TV, kernel_VD.astype(states_TD.dtype), 1, 0),
        losses_T,
    )
    return ((losses_T * weights_T).sum(), logits_TV), gradients


def _backward(gradients: tuple[jax.Array, ...], cotangents: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    kernel, bias, states, weights = (cotangents[0].astype(g.dtype) * g for g in gradients)
    return kernel, bias, states, None, weights


_cross_entropy.defvjp(_forward, _backward)
