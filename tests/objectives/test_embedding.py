"""The loss of embeddings is the formula in its docstring, and 0 where they are the teacher's."""

import jax
import numpy as np
import pytest

from mux_jax.objectives import objectives
from mux_jax.objectives.embedding import distance, pair_distance, similarity_distance
from mux_jax.objectives.stages import FinetuneStage
from tests.conftest import SPECIAL, apply, draw_tokens, init, small_model

STAGE = FinetuneStage(objective="embedding", distillation_coefficient=1.0)


def by_loops(x_TE, y_TE):
    """Both parts of the loss, in float64."""
    size = np.mean([y @ y for y in y_TE])
    first = np.mean([(x - y) @ (x - y) / (2 * size) for x, y in zip(x_TE, y_TE)])

    def shares(z_TE, i):
        z_TE = [z / np.sqrt(z @ z) for z in z_TE]
        each = {j: np.exp(z_TE[i] @ z_TE[j] / 0.05) for j in range(len(z_TE)) if j != i}
        return {j: value / sum(each.values()) for j, value in each.items()}

    apart = []
    for i in range(len(x_TE)):
        p, q = shares(y_TE, i), shares(x_TE, i)
        apart.append(sum(p[j] * np.log(p[j] / q[j]) for j in p))
    return first, np.mean(apart)


def test_both_parts_are_the_formula():
    x_TE, y_TE = np.random.default_rng(0).normal(size=(2, 7, 5)) + 1
    first, second = by_loops(x_TE, y_TE)
    assert float(distance(x_TE, y_TE).mean()) == pytest.approx(first, rel=1e-5)
    assert float(similarity_distance(x_TE, y_TE)) == pytest.approx(second, rel=1e-4)


def test_the_loss_of_pairs_is_the_formula():
    """Anchors 0 and 1, what is near them, a negative of anchor 0 that is a text near anchor 1, and one that is not."""
    x_TE = np.random.default_rng(3).normal(size=(7, 5))
    columns, labels = np.array([0, 0, 1, 1, 2, 2, -1]), np.array([8, 9, 8, 9, 9, 4, 8])
    unit = x_TE / np.linalg.norm(x_TE, axis=-1, keepdims=True)
    losses = []
    for anchor, near in ((0, [2]), (1, [3, 4])):
        weight = {j: np.exp(unit[anchor] @ unit[j] / 0.05) for j in range(2, 6)}
        losses.append(-np.log(sum(weight[j] for j in near) / sum(weight.values())))
    assert float(pair_distance(x_TE, columns, labels)) == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("width", [1, 2])
def test_a_model_that_is_its_teacher_has_no_loss(width, pooling):
    config = small_model(head="embedding", width=width, pooling=pooling, projections=((6, "tanh", True),))
    model, params = init(config)
    tokens = np.array(draw_tokens(config, rows=4))
    tokens[1, 0, 5:] = SPECIAL.pad
    objective = jax.jit(objectives.make(STAGE, SPECIAL), static_argnums=0)
    batch = {"tokens": tokens, "teacher": apply(model, params, tokens, tokens != SPECIAL.pad)}
    loss, outputs = objective(model, params, batch, jax.random.key(0))
    assert abs(float(loss)) < 1e-5 and {"teacher_loss", "similarity_loss"} <= outputs.keys()
    other = batch | {"teacher": np.random.default_rng(1).normal(size=batch["teacher"].shape)}
    loss, outputs = objective(model, params, other, jax.random.key(0))
    found_TE = np.array(batch["teacher"], float).reshape(-1, 6)
    first, second = by_loops(found_TE, other["teacher"].reshape(-1, 6))
    assert float(loss) == pytest.approx(first + second, rel=1e-4)


def test_the_order_of_texts_does_not_matter():
    config = small_model(head="embedding", width=1)
    model, params = init(config)
    batch = {"tokens": draw_tokens(config, rows=4), "teacher": np.random.default_rng(2).normal(size=(4, 1, 32))}
    objective = jax.jit(objectives.make(STAGE, SPECIAL), static_argnums=0)
    turned = jax.tree.map(lambda x: x[np.array([2, 0, 3, 1])], batch)
    before, after = (float(objective(model, params, given, jax.random.key(0))[0]) for given in (batch, turned))
    assert after == pytest.approx(before, rel=1e-5)
