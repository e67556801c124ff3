"""The cross-entropy with its own gradient against the plain one."""

import jax
import numpy as np
import optax
import pytest

from mux_jax.models.heads import decode
from mux_jax.objectives.cross_entropy import vocabulary_cross_entropy


def arrays(dtype):
    keys = jax.random.split(jax.random.key(0), 5)
    states = jax.random.normal(keys[0], (2, 3, 5, 8)).astype(dtype)
    kernel, bias = jax.random.normal(keys[1], (1, 50, 8)), jax.random.normal(keys[2], (50,))
    return states, kernel, bias, jax.random.randint(keys[3], (2, 3, 5), 0, 50), jax.random.uniform(keys[4], (2, 3, 5))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_loss_and_gradients_are_those_of_the_plain_loss(dtype, tolerance):
    states, kernel, bias, labels, weights = arrays(dtype)

    def plain(states, kernel, bias, weights):
        logits = decode(states.reshape(-1, 8), kernel[0], bias)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels.ravel())
        return 3 * (losses * weights.ravel()).sum()

    def ours(states, kernel, bias, weights):
        return 3 * vocabulary_cross_entropy(states, kernel, bias, labels, weights)[0]

    expected, found = (jax.value_and_grad(f, (0, 1, 2, 3))(states, kernel, bias, weights) for f in (plain, ours))
    for e, f in zip(jax.tree.leaves(expected), jax.tree.leaves(found)):
        assert e.dtype == f.dtype
        np.testing.assert_allclose(np.float32(f), np.float32(e), rtol=tolerance, atol=tolerance * float(abs(e).max()))


def test_without_a_gradient_nothing_of_it_is_computed():
    text = jax.jit(vocabulary_cross_entropy).lower(*arrays("float32")).as_text()
    assert text.count("dot_general") == 1


def test_logits_that_would_train_nothing_do_not_leave():
    states, kernel, bias, labels, weights = arrays("float32")

    def entropy(logits):
        return -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1)

    with pytest.raises(TypeError, match="logits of vocabulary_cross_entropy have no gradient.*vocabulary_logits"):
        vocabulary_cross_entropy(states, kernel, bias, labels, weights, entropy)
    _, decided = vocabulary_cross_entropy(
        states, kernel, bias, labels, weights, lambda x: (x.argmax(-1), x[..., 0] > 0)
    )
    assert [x.shape for x in decided] == [labels.shape] * 2
