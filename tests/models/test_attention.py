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

B, H, L, K = 2, 3, 128, 16
SEED = jnp.array([17, -4], jnp.int32)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(B, L, H * K)), jnp.float32) for _ in range(4)]


def kept(rate):
    """Which weights dropout keeps, bool[B, H, L, L]."""
    found = [attention.kept(*SEED, number, L, rate) for number in range(B * H)]
    return jnp.stack(found).reshape(B, H, L, L)


def written_out(query, key, value, mask, rate):
    query, key, value = (x.reshape(B, L, H, K).swapaxes(1, 2) for x in (query, key, value))
    scores = jnp.einsum("bhqk,bhtk->bhqt", query, key) * K**-0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    if rate:
        weights = jnp.where(kept(rate), weights / (1 - rate), 0)
    return jnp.einsum("bhqt,bhtk->bqhk", weights, value).reshape(B, L, H * K)


@pytest.mark.parametrize("rate", (0.0, 0.1))
@pytest.mark.parametrize("masked", (False, True))
def test_values_and_gradients_are_those_of_the_formula(arrays, rate, masked):
    query, key, value, error = arrays
    mask = jnp.asarray(np.arange(L) < np.array([[L], [70]])) if masked else None

    def of(function):
        found, gradients = jax.vjp(function, query, key, value)
        return found, *gradients(error)

    ours = of(lambda q, k, v: attention.attend(q, k, v, mask, H, SEED, rate))
    expected = of(lambda q, k, v: written_out(q, k, v, mask, rate))
    for x, y in zip(ours, expected):
        np.testing.assert_allclose(x, y, atol=2e-5)


def test_dropout_has_its_rate_and_heads_and_seeds_are_independent():
    draws = [attention.kept(*seeds, number, 256, 0.1) for seeds in ((1, 2), (1, 3), (2, 2)) for number in (0, 1)]
    flat = np.array([np.ravel(x) for x in draws], float)
    halves = flat.reshape(2 * len(flat), -1)  # of one hash
    assert np.abs(flat.mean(axis=1) - 0.9).max() < 4 * np.sqrt(0.09 / flat.shape[1])
    between = np.corrcoef(halves)[np.triu_indices(len(halves), 1)]
    assert np.abs(between).max() < 4 / np.sqrt(halves.shape[1])


def test_a_mesh_changes_nothing(arrays):
    query, key, value, _ = (jnp.concatenate([x, x + 1])[..., : 2 * K] for x in arrays)
    expected = attention.attend(query, key, value, None, 2, SEED, 0.1)
    mesh = make_mesh(data=2, fsdp=2, tensor=2, devices=jax.devices()[:8])
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        found = jax.jit(lambda *x: attention.attend(*x, None, 2, SEED, 0.1))(query, key, value)
    np.testing.assert_allclose(found, expected, atol=1e-6)


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
