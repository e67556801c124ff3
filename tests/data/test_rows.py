"""Each example gets exactly one slot, whatever their number, and rows are no longer than need be."""

import numpy as np
import pytest

from mux_jax.data.rows import compose, lengths_up_to, pad


@pytest.mark.parametrize("count", [1, 5, 6, 7, 100])
@pytest.mark.parametrize("slots", [1, 6, 10])
def test_every_example_is_in_one_real_slot(count, slots):
    sizes = np.random.default_rng(count).integers(2, 33, count)
    batches = list(compose(sizes, (8, 16, 32), slots, np.random.default_rng(0)))
    assert len(batches) == -(-count // slots)
    assert sorted(np.concatenate([b.examples[b.real] for b in batches]).tolist()) == list(range(count))
    for batch in batches:
        assert len(batch.examples) == slots and batch.length in (8, 16, 32)
        assert sizes[batch.examples].max() <= batch.length


def test_like_lengths_share_rows():
    sizes = np.array([4] * 60 + [30] * 60)
    batches = list(compose(sizes, (8, 32), 6, np.random.default_rng(0)))
    assert [b.length for b in batches] == [8] * 10 + [32] * 10


def test_texts_left_of_a_shorter_length_do_not_share_rows_with_each_other():
    sizes, together = np.array([4] * 4 + [30] * 96), 0
    for seed in range(200):
        for batch in compose(sizes, (8, 32), 10, np.random.default_rng(seed)):
            together += int((sizes[batch.examples.reshape(-1, 2)] == 4).all(1).sum())
    assert together < 200 * 0.25  # by chance 0.06 a composition; in their order 2


def test_a_composition_is_a_function_of_its_seed():
    def examples(seed):
        return np.concatenate([b.examples for b in compose(np.full(50, 5), (8,), 4, np.random.default_rng(seed))])

    np.testing.assert_array_equal(examples(1), examples(1))
    assert (examples(1) != examples(2)).any()


def test_padding_follows_each_text():
    tokens = pad([np.array([1, 2]), np.array([3])], np.array([1, 0]), length=3, width=2, value=9)
    assert tokens.tolist() == [[[3, 9, 9], [1, 2, 9]]]


@pytest.mark.parametrize("limit", [40, 512, 8192])
def test_a_row_is_at_most_half_as_long_again_as_its_text(limit):
    lengths = lengths_up_to(limit)
    assert lengths[-1] == limit and list(lengths) == sorted(set(lengths))
    assert all(longer <= 1.5 * shorter for shorter, longer in zip(lengths, lengths[1:]))
