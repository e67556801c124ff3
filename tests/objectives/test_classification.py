"""The loss of fine-tuning equals brute force, and leaves out what has no label."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mux_jax.objectives import objectives
from mux_jax.objectives.stages import FinetuneStage
from tests.conftest import SPECIAL, draw_tokens, init, small_model


def run_objective(config, tokens, labels, retrieval=0.0):
    model, params = init(config)
    stage = FinetuneStage(retrieval_coefficient=retrieval)
    objective = objectives.make(stage, SPECIAL)
    batch = {"tokens": tokens, "labels": labels}
    return model, params, *objective(model, params, batch, jax.random.key(0))


def test_sequence_loss_leaves_out_slots_without_a_label():
    config = small_model(head="sequence", labels=("a", "b", "c"))
    tokens = draw_tokens(config)
    labels = jnp.array([[0, 2], [1, -1], [2, 2]])
    model, params, loss, _ = run_objective(config, tokens, labels)
    logits = model.apply({"params": params}, tokens)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    np.testing.assert_allclose(loss, losses[labels >= 0].mean(), rtol=1e-5)
    _, _, both, outputs = run_objective(config, tokens, labels, retrieval=0.1)
    np.testing.assert_allclose(both, 0.9 * outputs["task_loss"] + 0.1 * outputs["retrieval_loss"], rtol=1e-6)


def test_auxiliary_retrieval_leaves_out_padding():
    config = small_model(head="sequence", labels=("a", "b"))
    tokens = draw_tokens(config).at[:, :, 6:].set(SPECIAL.pad)
    _, _, _, outputs = run_objective(config, tokens, jnp.zeros((3, 2), int), retrieval=0.1)
    model, params = init(config)
    bound = model.bind({"params": params})
    instance = outputs["retrieval_instance"]
    logits = bound.vocabulary_logits(bound.encode(tokens, tokens != SPECIAL.pad), instance[:, None])[:, 0]
    labels = jnp.take_along_axis(tokens, instance[:, None], axis=1)[:, 0]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(outputs["retrieval_loss"], losses[:, :6].mean(), rtol=1e-5)


def test_token_loss_with_a_prefix_and_regression():
    config = small_model(head="token", labels=("a", "b"), demultiplexer="prefix", prefix_token_id=60)
    tokens = draw_tokens(config)
    labels = jnp.full(tokens.shape, -1).at[:, :, 3].set(1)
    model, params, loss, _ = run_objective(config, tokens, labels)
    logits = model.apply({"params": params}, tokens)[:, :, 3 + 3]  # after the prefix
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.ones((3, 2), int)).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    config = small_model(head="sequence", labels=("score",))
    numbers = jnp.array([[0.5, 2.0], [1.0, jnp.nan], [4.0, 3.0]])
    model, params, loss, _ = run_objective(config, tokens, numbers)
    logits = model.apply({"params": params}, tokens)[..., 0]
    np.testing.assert_allclose(loss, jnp.nanmean((logits - numbers) ** 2), rtol=1e-5)


def test_each_of_several_labels_is_a_yes_or_no_of_its_own():
    config = small_model(head="sequence", labels=("a", "b", "c"), multi_label=True)
    labels = np.array([[[1, 0, 1], [0, 0, 0]], [[1, 1, 1], [-1, -1, -1]], [[0, 1, 0], [0, 0, 1]]])
    tokens = draw_tokens(config)
    model, params, loss, _ = run_objective(config, tokens, jnp.array(labels))
    shares = 1 / (1 + np.exp(-np.asarray(model.apply({"params": params}, tokens))))
    losses = -labels * np.log(shares) - (1 - labels) * np.log(1 - shares)
    np.testing.assert_allclose(loss, losses[labels[..., 0] >= 0].mean(), rtol=1e-5)
    _, _, nothing, _ = run_objective(config, tokens, jnp.full(labels.shape, -1))
    assert nothing == 0.0


@pytest.mark.extra
def test_the_loss_of_several_labels_equals_pytorchs():
    import torch

    config = small_model(head="sequence", labels=("a", "b", "c"), multi_label=True)
    labels = np.array([[[1, 0, 1], [0, 0, 0]], [[1, 1, 1], [0, 1, 0]], [[0, 1, 0], [0, 0, 1]]])
    model, params, loss, _ = run_objective(config, draw_tokens(config), jnp.array(labels))
    logits = np.array(model.apply({"params": params}, draw_tokens(config)))
    expected = torch.nn.BCEWithLogitsLoss()(torch.tensor(logits), torch.tensor(labels, dtype=torch.float32))
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)


def weighted(labels, weights=(0.5, 2.0, 0.0)):
    """The objective with class weights: (loss, logits)."""
    config = small_model(head="sequence", labels=("a", "b", "c"))
    tokens = draw_tokens(config)
    model, params = init(config)
    batch = {"tokens": tokens, "labels": labels, "weights": jnp.array(weights)[labels]}
    loss, _ = objectives.make(FinetuneStage(), SPECIAL)(model, params, batch, jax.random.key(0))
    return loss, np.asarray(model.apply({"params": params}, tokens))


def test_class_weights_make_a_weighted_mean():
    labels = jnp.array([[0, 2], [1, -1], [1, 0]])
    loss, logits = weighted(labels)
    total = 0.0
    for (row, slot), weight in {(0, 0): 0.5, (1, 0): 2.0, (2, 0): 2.0, (2, 1): 0.5}.items():
        x = logits[row, slot]
        total += weight * (np.log(np.exp(x).sum()) - x[labels[row, slot]])
    np.testing.assert_allclose(loss, total / 5.0, rtol=1e-5)
    assert weighted(jnp.full((3, 2), 2))[0] == 0.0  # all have the weight 0


@pytest.mark.extra
def test_class_weights_equal_pytorchs():
    import torch

    labels = jnp.array([[0, 2], [1, -1], [1, 0]])
    loss, logits = weighted(labels)
    theirs = torch.nn.CrossEntropyLoss(torch.tensor([0.5, 2.0, 0.0]), ignore_index=-1)
    expected = theirs(torch.tensor(logits.reshape(6, 3)), torch.tensor(np.array(labels).reshape(6)).long())
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
