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
    assert float(similarity_distance(x_TE, y_TE, np.eye(7, dtype=bool))) == pytest.approx(second, rel=1e-4)


def test_the_loss_of_pairs_is_the_formula():
    """Texts by number; 10 is an anchor twice, with two texts near it, and stands as a text near 11, too."""
    examples = [(10, 20, 30), (11, 10, 31), (10, 21, 32), (12, 22, 33)]
    x = {n: v for n, v in zip((10, 11, 12, 20, 21, 22, 30, 31, 32, 33), np.random.default_rng(3).normal(size=(10, 5)))}
    columns = np.repeat([0, 1, 2], 4)
    texts = np.array([example[c] for c in range(3) for example in examples])
    anchors, positives = (np.tile([example[c] for example in examples], 3) for c in (0, 1))
    columns = np.append(columns, -1)  # a copy of the last anchor, that does not count
    texts, anchors, positives = np.append(texts, 12), np.append(anchors, 12), np.append(positives, 22)
    losses = []
    for anchor, near in ((10, {20, 21}), (11, {10}), (10, {20, 21}), (12, {22})):
        weight = 0.0, 0.0
        for text in texts[4:12]:
            cosine = x[anchor] @ x[text] / np.linalg.norm(x[anchor]) / np.linalg.norm(x[text])
            if text in near:
                weight = weight[0] + np.exp(cosine / 0.05), weight[1]
            elif text != anchor:
                weight = weight[0], weight[1] + np.exp(cosine / 0.05)
        losses.append(-np.log(weight[0] / sum(weight)))
    x_TE = np.array([x[text] for text in texts])
    given = columns, texts, anchors, positives
    assert float(pair_distance(x_TE, *given)) == pytest.approx(np.mean(losses), rel=1e-4)
    gradient = jax.grad(lambda x: pair_distance(x, *given))(x_TE)
    assert np.isfinite(gradient).all() and not gradient[-1].any()


def test_pairs_and_a_teacher_have_their_parts_of_the_loss():
    config = small_model(head="embedding", width=1)
    model, params = init(config)
    tokens = draw_tokens(config, rows=4)
    numbers = {"columns": [0, 0, 1, 1], "texts": [0, 1, 2, 3], "anchors": [0, 1, 0, 1], "positives": [2, 3, 2, 3]}
    batch = {name: np.array(x, np.int32)[:, None] for name, x in numbers.items()} | {"tokens": tokens}
    batch["teacher"] = np.random.default_rng(2).normal(size=(4, 1, 32))
    for part in (0.0, 0.25):
        stage = FinetuneStage(objective="embedding", distillation_coefficient=part)
        loss, found = objectives.make(stage, SPECIAL)(model, params, batch, jax.random.key(0))
        taught = found["teacher_loss"] + found["similarity_loss"]
        assert float(loss) == pytest.approx(float((1 - part) * found["pair_loss"] + part * taught), rel=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_retrieval_beside_it_is_of_all_positions(pooling):
    """The same as of a classifier with the same parameters."""
    stage = FinetuneStage(objective="embedding", distillation_coefficient=1.0, retrieval_coefficient=0.1)
    losses = []
    for head in (dict(head="embedding", pooling=pooling), dict(head="sequence", labels=("a", "b"))):
        config = small_model(width=2, **head)
        model, params = init(config)
        tokens = draw_tokens(config, rows=4)
        batch = {"tokens": tokens, "labels": np.zeros((4, 2), np.int32)}
        if head["head"] == "embedding":
            batch["teacher"] = np.random.default_rng(2).normal(size=(4, 2, 32))
            shared = {name: params[name] for name in ("embeddings", "encoder", "multiplexer", "demultiplexer")}
        else:
            stage = FinetuneStage(retrieval_coefficient=0.1)
            params = params | shared
        found = objectives.make(stage, SPECIAL)(model, params, batch, jax.random.key(0))[1]
        losses.append(float(found["retrieval_loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_zero_embedding_has_a_finite_gradient():
    x_TE, y_TE = np.zeros((3, 4)), np.random.default_rng(0).normal(size=(3, 4))
    x_TE[1] = 1
    gradient = jax.grad(lambda x: similarity_distance(x, y_TE, np.eye(3, dtype=bool)))(x_TE)
    assert np.isfinite(gradient).all()


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
