"""Batches of pairs and triples hold each example once an epoch, its texts under their columns."""

from types import SimpleNamespace

import numpy as np
import pytest

from mux_jax.data.examples import Example
from mux_jax.data.pair_batches import PairBatches

LENGTHS = (8, 16)


def data(columns, examples=10):
    """Texts are numbers, whose ids are the number, so many times; some pairs have a text in common."""
    rng = np.random.default_rng(0)
    texts = [[str(10 * i + 100 * c) for c in range(columns)] for i in range(1, examples + 1)]
    texts[3][1] = texts[5][1]
    ids = [np.full(rng.integers(1, 17), int(text)) for example in texts for text in example]
    split = SimpleNamespace(
        examples=[Example(tuple(text), None, "") for text in texts], encoded=SimpleNamespace(ids=ids)
    )
    task = SimpleNamespace(text=("a", "b", "c")[:columns])
    return SimpleNamespace(task=task, splits={"train": split}, special=SimpleNamespace(pad=0)), texts


def batches(columns, rows=4, width=2, mine=None, **options):
    given, texts = data(columns, **options)
    mine = np.arange(rows) if mine is None else mine
    return PairBatches(given, rows=rows, width=width, lengths=LENGTHS, seed=0, mine=mine), texts


@pytest.mark.parametrize("columns, width", [(2, 1), (2, 2), (3, 2), (3, 4)])
def test_an_epoch_holds_each_example_once(columns, width):
    found, texts = batches(columns, rows=8 // width, width=width)
    met = []
    for step in range(found.per_epoch):
        batch = found[step]
        B, N, L = batch["tokens"].shape
        assert (B * N, N) == (8, width) and L in LENGTHS
        first, column = batch["tokens"][..., 0].ravel(), batch["columns"].ravel()
        own, anchor, positive = (batch[name].ravel() for name in ("texts", "anchors", "positives"))
        anchors = np.flatnonzero(column == 0)
        for slot in anchors:
            example = next(x for x in texts if x[0] == str(first[slot]))
            assert own[slot] == anchor[slot]
            assert example[1] in first[(column == 1) & (own == positive[slot])].astype(str)
            for c in range(1, columns):
                assert example[c] in first[(column == c) & (anchor == own[slot])].astype(str)
        met += [str(x) for x in first[anchors]]
        each = 8 // columns  # examples, of which some may only fill the batch: their anchors do not count
        assert [(column == c).sum() for c in range(1, columns)] == [each] * (columns - 1)
        assert (column == -1).sum() == 8 - columns * each + each - len(anchors)
    assert sorted(met) == sorted(x[0] for x in texts)


def test_a_text_has_one_number_wherever_it_stands():
    found, texts = batches(2, rows=20, width=1)
    batch = found[0]
    first, own = batch["tokens"][..., 0].ravel(), batch["texts"].ravel()
    assert len(set(zip(first.tolist(), own.tolist()))) == len(set(first.tolist())) == len(set(own.tolist())) == 19


def test_hosts_have_their_rows_of_one_batch():
    whole, _ = batches(3)
    parts = [batches(3, mine=np.array(rows))[0][1] for rows in ([0, 1], [2, 3])]
    for name, x in whole[1].items():
        np.testing.assert_array_equal(x, np.concatenate([part[name] for part in parts]))


def test_a_step_is_the_same_whatever_came_before():
    one, _ = batches(2)
    other, _ = batches(2)
    other[5]
    np.testing.assert_array_equal(one[2]["tokens"], other[2]["tokens"])
