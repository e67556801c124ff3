"""The objectives equal brute force, and never make an array of [B, N, L, V]."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mux_jax.objectives import corruption, objectives
from mux_jax.objectives.stages import PretrainStage
from tests.conftest import SPECIAL, apply, draw_tokens, init, small_model


def stage(objective, **changes):
    return PretrainStage(objective=objective, **dict(mask_fraction=0.25) | changes)


def run(config, objective, tokens, seed=0, **changes):
    model, params = init(config)
    loss = objectives.make(stage(objective, **changes), SPECIAL)
    step = jax.jit(lambda params, tokens, rng: loss(model, params, {"tokens": tokens}, rng))
    return (model, params, *step(params, tokens, jax.random.key(seed)))


def test_chosen_positions_are_distinct_ordinary_tokens():
    tokens = draw_tokens(small_model(), rows=20).at[:, :, 5:7].set(SPECIAL.sep)
    chosen = corruption.choose(jax.random.key(0), tokens, SPECIAL, 0.25)
    assert chosen.positions.shape == (20, 2, 3)
    assert not np.isin(chosen.positions, [0, 5, 6]).any()
    assert all(len(set(p)) == 3 for p in np.asarray(chosen.positions).reshape(-1, 3).tolist())
    np.testing.assert_array_equal(chosen.labels, jnp.take_along_axis(tokens, chosen.positions, -1))
    assert (chosen.weights == 1).all()


def test_rows_with_too_few_tokens_get_weight_0_and_are_not_changed():
    tokens = jnp.full((1, 1, 12), SPECIAL.pad).at[0, 0, :2].set(jnp.array([SPECIAL.cls, 9]))
    chosen = corruption.choose(jax.random.key(0), tokens, SPECIAL, 0.25)
    assert chosen.weights.sum() == 1
    placed = corruption.put_tokens(tokens, chosen, jnp.full((1, 1, 3), 7))
    np.testing.assert_array_equal(placed, tokens.at[0, 0, 1].set(7))


def test_masking_is_80_10_10():
    tokens = draw_tokens(small_model(vocab_size=5000), rows=400, length=64)
    chosen = corruption.choose(jax.random.key(0), tokens, SPECIAL, 0.15)
    masked = corruption.mask_tokens(jax.random.key(1), tokens, chosen, SPECIAL, 5000)
    now = jnp.take_along_axis(masked, chosen.positions, -1)
    assert abs((now == SPECIAL.mask).mean() - 0.8) < 0.02
    assert abs((now == chosen.labels).mean() - 0.1) < 0.02
    assert (masked != tokens).sum() == (now != chosen.labels).sum()  # nothing else has changed


def cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.asarray(labels)[..., None], -1)[..., 0]


@pytest.mark.parametrize("architecture", ["bert", "electra"])
def test_retrieval_equals_brute_force(architecture):
    config = small_model(architecture=architecture, width=3)
    tokens = draw_tokens(config)
    model, params, loss, outputs = run(config, "retrieval", tokens)
    everything = apply(model, params, tokens)
    losses = cross_entropy(everything, tokens)
    picked = np.take_along_axis(losses, np.asarray(outputs["retrieval_instance"])[:, None], axis=1)
    np.testing.assert_allclose(loss, picked.mean(), rtol=1e-5)
    assert set(np.unique(outputs["retrieval_instance"])) == {0, 1, 2}


def test_masked_lm_equals_brute_force():
    config = small_model(width=2)
    tokens = draw_tokens(config)
    model, params, loss, outputs = run(config, "mlm", tokens, seed=5)
    rngs = jax.random.split(jax.random.key(5), 4)
    chosen = corruption.choose(rngs[1], tokens, SPECIAL, 0.25)
    masked = corruption.mask_tokens(rngs[2], tokens, chosen, SPECIAL, config.vocab_size)
    losses = cross_entropy(apply(model, params, masked), tokens)
    expected = np.take_along_axis(losses, np.asarray(chosen.positions), -1).mean()
    np.testing.assert_allclose(outputs["mlm_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, 0.9 * outputs["mlm_loss"] + 0.1 * outputs["retrieval_loss"], rtol=1e-6)


def test_a_random_token_that_is_padding_hides_nothing(monkeypatch):
    monkeypatch.setattr(corruption, "random_tokens", lambda rng, shape, vocab_size: jnp.full(shape, SPECIAL.pad))
    config = small_model(width=1)
    tokens, (model, params) = draw_tokens(config, rows=8), init(config)
    params = jax.tree.map(lambda x: 10 * x, params)  # fresh ones hardly attend
    objective = objectives.make(stage("mlm"), SPECIAL)
    loss, _ = jax.jit(lambda params: objective(model, params, {"tokens": tokens}, jax.random.key(5)))(params)
    rngs = jax.random.split(jax.random.key(5), 4)
    chosen = corruption.choose(rngs[1], tokens, SPECIAL, 0.25)
    masked = corruption.mask_tokens(rngs[2], tokens, chosen, SPECIAL, config.vocab_size)
    assert (masked == SPECIAL.pad).any()
    losses = cross_entropy(apply(model, params, masked), tokens)  # without a mask
    np.testing.assert_allclose(loss, np.take_along_axis(losses, np.asarray(chosen.positions), -1).mean(), rtol=1e-5)


def test_a_prefix_takes_the_place_of_the_last_tokens_and_labels_shift_with_it():
    config = small_model(width=2, demultiplexer="prefix", prefix_token_id=60, cls_token_id=SPECIAL.cls)
    tokens = draw_tokens(config)
    kept = tokens[..., :9]  # the prefix has 3 tokens
    model, params, loss, outputs = run(config, "mlm", tokens, seed=5)
    rngs = jax.random.split(jax.random.key(5), 4)
    chosen = corruption.choose(rngs[1], kept, SPECIAL, 0.25)
    masked = corruption.mask_tokens(rngs[2], kept, chosen, SPECIAL, config.vocab_size)
    logits = apply(model, params, jnp.pad(masked, ((0, 0), (0, 0), (0, 3))))[:, :, 3:]  # after the prefix
    losses = np.take_along_axis(cross_entropy(logits, kept), np.asarray(chosen.positions), -1)
    np.testing.assert_allclose(outputs["mlm_loss"], losses.mean(), rtol=1e-5)
    instance = np.asarray(outputs["retrieval_instance"])
    assert instance.shape == (3, 9)
    losses = np.take_along_axis(cross_entropy(logits, masked), instance[:, None], axis=1)
    np.testing.assert_allclose(outputs["retrieval_loss"], losses.mean(), rtol=1e-5)


def test_detection_labels_what_was_replaced_and_weighs_the_loss():
    config = small_model(architecture="electra", head="rtd")
    tokens = draw_tokens(config, rows=50)
    _, _, loss, outputs = run(config, "rtd", tokens)
    replaced = float(outputs["rtd_labels"].mean())
    assert abs(replaced - 0.25 * 0.85) < 0.03
    assert not outputs["rtd_labels"][:, :, 0].any()
    logits, labels = np.asarray(outputs["rtd_logits"], np.float64), np.asarray(outputs["rtd_labels"])
    expected = np.log1p(np.exp(np.where(labels, -logits, logits))).mean()
    np.testing.assert_allclose(outputs["rtd_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, 50 * (0.9 * outputs["rtd_loss"] + 0.1 * outputs["retrieval_loss"]), rtol=1e-5)


def test_padding_does_not_count_in_detection():
    config = small_model(architecture="electra", head="rtd")
    tokens = draw_tokens(config).at[:, :, 9:].set(SPECIAL.pad)
    _, _, _, outputs = run(config, "rtd", tokens)
    real = np.asarray(outputs["rtd_real"])
    assert not real[:, :, 9:].any() and real[:, :, :9].all()
    assert not outputs["rtd_labels"][:, :, 9:].any()
    losses = optax.sigmoid_binary_cross_entropy(outputs["rtd_logits"], outputs["rtd_labels"].astype(float))
    np.testing.assert_allclose(outputs["rtd_loss"], losses[real].mean(), rtol=1e-5)


@pytest.mark.extra  # for its time
def test_a_learned_generator_learns_from_its_own_loss_alone():
    config = small_model(architecture="electra", head="rtd", generator="learned")
    model, params = init(config)
    tokens = draw_tokens(config)

    def gradients(**changes):
        objective = objectives.make(stage("rtd", **changes), SPECIAL)
        return jax.jit(jax.grad(lambda p: objective(model, p, {"tokens": tokens}, jax.random.key(0))[0]))(params)

    full, undetected = gradients(), gradients(detection_weight=0.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), full["generator"], undetected["generator"])
    assert optax.tree.norm(full["generator"]["encoder"]) > 0
    assert optax.tree.norm(undetected["encoder"]) == 0 < optax.tree.norm(full["encoder"])


def test_width_1_has_no_retrieval_loss():
    config = small_model(width=1)
    _, _, loss, outputs = run(config, "mlm", draw_tokens(config))
    assert loss == outputs["mlm_loss"] and "retrieval_loss" not in outputs


@pytest.mark.parametrize("objective", ["retrieval", "mlm", "rtd"])
@pytest.mark.parametrize("generator", ["uniform", "learned"])
def test_no_array_holds_logits_of_every_token_of_every_instance(objective, generator):
    config = small_model(architecture="electra", head="rtd", width=3, generator=generator, vocab_size=500)
    model, params = init(config)
    loss = objectives.make(stage(objective), SPECIAL)

    def step(params, tokens, rng):
        return jax.grad(lambda p: loss(model, p, {"tokens": tokens}, rng)[0])(params)

    jaxpr = jax.make_jaxpr(step)(params, draw_tokens(config), jax.random.key(0))
    assert max(sizes(jaxpr.jaxpr)) < 3 * 3 * 12 * config.vocab_size


def sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                if hasattr(item, "jaxpr"):
                    yield from sizes(item.jaxpr)
                elif hasattr(item, "eqns"):
                    yield from sizes(item)
