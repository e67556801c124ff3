"""Attention in one kernel, here in the interpreter, against the formula written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mux_jax.models import attention
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import RULES, make_mesh
from tests.conftest import init, small_model

B, L = 2, 128
SEED = jnp.array([17, -4], jnp.int32)


def make_arrays(heads, size, rows=B):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(rows, L, heads * size)), jnp.float32) for _ in range(4)]


def written_out(query, key, value, mask, heads, rate):
    query, key, value = (x.reshape(B, L, heads, -1).swapaxes(1, 2) for x in (query, key, value))
    scores = jnp.einsum("bhqk,bhtk->bhqt", query, key) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    if rate:
        kept = jnp.stack([attention.kept(*SEED, jnp.int32(number), L, rate) for number in range(B * heads)])
        weights = jnp.where(kept.reshape(weights.shape), weights / (1 - rate), 0)
    return jnp.einsum("bhqt,bhtk->bqhk", weights, value).reshape(B, L, -1)


@pytest.mark.parametrize("rate", (0.0, 0.1))
@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("heads, size", ((3, 16), (4, 64)))  # in one program, and in two
def test_values_and_gradients_are_those_of_the_formula(heads, size, rate, masked):
    query, key, value, error = make_arrays(heads, size)
    mask = jnp.asarray(np.arange(L) < np.array([[L], [70]])) if masked else None

    def of(function):
        found, gradients = jax.vjp(function, query, key, value)
        return found, *gradients(error)

    ours = of(lambda q, k, v: attention.attend(q, k, v, mask, heads, SEED, rate))
    expected = of(lambda q, k, v: written_out(q, k, v, mask, heads, rate))
    for x, y in zip(ours, expected):
        np.testing.assert_allclose(x, y, atol=2e-5)


def test_bfloat16_is_as_near_as_its_rounding():
    arrays = [x.astype(jnp.bfloat16) for x in make_arrays(2, 64)]
    found = attention.attend(*arrays[:3], None, 2)
    exact = written_out(*(x.astype(jnp.float32) for x in arrays[:3]), None, 2, 0.0)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.02)


def test_dropout_has_its_rate_and_heads_and_seeds_are_independent():
    seeds = ((1, 2), (1, 3), (2, 2))
    draws = [attention.kept(*x, jnp.int32(number), 256, 0.1) for x in seeds for number in (0, 1, 32768)]
    flat = np.array([np.ravel(x) for x in draws], float)
    halves = flat.reshape(2 * len(flat), -1)  # of one hash
    assert np.abs(flat.mean(axis=1) - 0.9).max() < 4 * np.sqrt(0.09 / flat.shape[1])
    between = np.corrcoef(halves)[np.triu_indices(len(halves), 1)]
    assert np.abs(between).max() < 4.5 / np.sqrt(halves.shape[1])


@pytest.mark.parametrize("heads", (2, 4))
def test_a_mesh_changes_nothing(heads):
    query, key, value, error = make_arrays(heads, 16, rows=4)

    def of(query, key, value, error):
        found, gradients = jax.vjp(lambda *x: attention.attend(*x, None, heads, SEED, 0.1), query, key, value)
        return found, *gradients(error)

    expected = of(query, key, value, error)
    mesh = make_mesh(data=2, fsdp=2, tensor=2, devices=jax.devices()[:8])
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        assert attention.takes(L, heads, 16) and not attention.takes(L, 3, 16)
        found = jax.jit(of)(query, key, value, error)
    for x, y in zip(found, expected):
        np.testing.assert_allclose(x, y, atol=2e-6)


@pytest.mark.parametrize("remat", (False, True))
def test_a_training_step_drops_out_alike_in_both_passes_and_anew_in_each_layer(remat):
    """The gradient by finite differences: of other masks in the backward pass it would be another."""
    fields = dict(attention="fused", attention_dropout=0.3, remat=remat, max_position_embeddings=130, width=1)
    model, params = init(small_model(**fields))
    model = MuxModel(model.config, deterministic=False)
    tokens = jnp.asarray(np.random.default_rng(0).integers(5, 64, (1, 1, 128)), jnp.int32)

    @jax.jit
    def loss(scale, rng):
        layers = params["encoder"]["layers"]
        value = layers["attention"]["value"] | {"kernel": layers["attention"]["value"]["kernel"] * scale}
        changed = params | {"encoder": {"layers": layers | {"attention": layers["attention"] | {"value": value}}}}
        return jnp.square(model.apply({"params": changed}, tokens, rngs={"dropout": rng})).mean()

    for seed in range(2):
        rng = jax.random.key(seed)
        slope = (loss(1.01, rng) - loss(0.99, rng)) / 0.02
        assert float(jax.grad(loss)(1.0, rng)) == pytest.approx(float(slope), rel=0.02)
    assert float(loss(1.0, jax.random.key(0))) != float(loss(1.0, jax.random.key(1)))


@pytest.mark.parametrize("width", (1, 2))
def test_a_model_computes_the_same_with_the_kernel(width):
    config = small_model(width=width, max_position_embeddings=130)
    model, params = init(config)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(5, config.vocab_size, (2, width, 128)), jnp.int32)
    mask = jnp.asarray(np.arange(128) < rng.integers(50, 128, (2, width, 1)))
    fused = MuxModel(dataclasses.replace(model.config, attention="fused"))
    ours = fused.apply({"params": params}, tokens, mask)
    np.testing.assert_allclose(ours, model.apply({"params": params}, tokens, mask), atol=2e-5)
    assert "pallas" in str(jax.make_jaxpr(lambda p: fused.apply({"params": p}, tokens, mask))(params))
    short = jax.make_jaxpr(lambda p: fused.apply({"params": p}, tokens[..., :96], mask[..., :96]))(params)
    assert "pallas" not in str(short)
