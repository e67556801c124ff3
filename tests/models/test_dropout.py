"""Dropout by a hash: its rate, its independence, and what it leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mux_jax.models.dropout import Dropout, draw_seeds, kept, places


def draw(seeds, shape=(256, 256), rate=0.1):
    return np.asarray(kept(*jnp.array(seeds, jnp.int32), places(shape), rate), float)


@pytest.mark.parametrize("rate", (0.01, 0.1, 0.5))
def test_the_rate_is_kept(rate):
    for seeds in ((0, 0), (1, 2), (-5, 2**31 - 1)):
        spread = np.sqrt(rate * (1 - rate) / 2**20)
        assert abs(draw(seeds, (1024, 1024), rate).mean() - (1 - rate)) < 4 * spread


def test_seeds_rows_columns_and_neighbours_are_independent():
    images = np.array([draw(seeds) for seeds in ((1, 2), (1, 3), (2, 2), (2, 1), (0, 0))]) - 0.9
    between = np.corrcoef(images.reshape(len(images), -1))[np.triu_indices(len(images), 1)]
    assert np.abs(between).max() < 4 / 256
    for image in images:
        for shift in (1, 2, 64, 128):
            for moved in (np.roll(image, shift, 0), np.roll(image, shift, 1)):
                assert abs((image * moved).mean()) < 5 * 0.09 / 256
        for means in (image.mean(axis=0), image.mean(axis=1)):
            assert 0.7 < means.std() / np.sqrt(0.09 / 256) < 1.3


def test_seeds_that_follow_each_other_give_no_shifted_copies():
    seeds = [np.asarray(draw_seeds(jax.random.key(i))) for i in range(2)]
    first, second = (draw(x, (2**16,)) - 0.9 for x in seeds)
    correlations = np.fft.ifft(np.fft.fft(first) * np.conj(np.fft.fft(second))).real / (2**16 * 0.09)
    assert np.abs(correlations).max() < 7 / 256


def test_what_is_left_has_the_same_mean_and_gradients_go_where_values_went():
    module, x = Dropout(0.25, False), jnp.ones((64, 64), jnp.bfloat16)

    def apply(x):
        return module.apply({}, x, rngs={"dropout": jax.random.key(0)})

    found, gradient = apply(x), jax.grad(lambda x: apply(x).astype(jnp.float32).sum())(x)
    assert set(np.unique(np.asarray(found, np.float32))) == {0.0, np.float32(jnp.bfloat16(1 / 0.75))}
    assert found.dtype == jnp.bfloat16 and abs(float(found.mean()) - 1) < 0.03
    np.testing.assert_array_equal(found, gradient)
    assert Dropout(0.25, True).apply({}, x) is x


def test_places_number_the_elements():
    np.testing.assert_array_equal(places((2, 3, 4)), np.arange(24).reshape(2, 3, 4))
