"""Nearest neighbours are those that a plain search over all pairs finds."""

import numpy as np
import pytest

from mux_jax.data import neighbours


def by_pairs(x_TE, count):
    """The nearest other texts of each, one pair after the other, in float64."""
    lengths = [sum(value**2 for value in x) ** 0.5 for x in x_TE]
    found = []
    for i, x in enumerate(x_TE):
        others = [j for j in range(len(x_TE)) if j != i]
        others.sort(key=lambda j: -sum(a * b for a, b in zip(x, x_TE[j])) / lengths[i] / lengths[j])
        found.append(set(others[:count]))
    return found


@pytest.mark.parametrize("texts, block", [(40, 7), (40, 1024), (12, 5), (11, 5)])
def test_nearest_neighbours_are_found_block_by_block(texts, block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    x_TE = np.random.default_rng(0).normal(size=(texts, 6)) * np.linspace(0.1, 9, texts)[:, None]
    found = neighbours.nearest(x_TE)
    assert found.shape == (texts, 10)
    assert [set(row) for row in found.tolist()] == by_pairs(x_TE.tolist(), 10)


def test_what_two_models_have_in_common_is_counted():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(2, 30, 5))
    expected = [len(x & y) for x, y in zip(by_pairs(ours.tolist(), 10), by_pairs(theirs.tolist(), 10))]
    assert neighbours.common_neighbours(ours, theirs).tolist() == expected
    turned = ours @ np.linalg.qr(rng.normal(size=(5, 5)))[0] * 7  # turned and longer: the same neighbours
    assert (neighbours.common_neighbours(ours, turned) == 10).all()


@pytest.mark.parametrize("texts", [1, 2, 5])
def test_of_few_texts_all_others_are_neighbours(texts):
    found = neighbours.nearest(np.random.default_rng(2).normal(size=(texts, 3)))
    assert [set(row) for row in found.tolist()] == [set(range(texts)) - {i} for i in range(texts)]
