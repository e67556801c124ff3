"""The order of the data is a function of the seed and the step, over all hosts and epochs."""

import numpy as np
import pytest

from mux_jax.data.loader import Batches, iterate


class Rows:
    def __init__(self, count, first=0):
        self.count, self.first = count, first

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return np.full(4, self.first + int(i), np.int32)


def batches(**changes):
    fields = dict(packed=[(1.0, Rows(24))], rows=4, width=3, seed=0) | changes
    return Batches(fields.pop("packed"), **fields)


def test_a_batch_is_rows_of_instances():
    tokens = batches()[0]["tokens"]
    assert tokens.shape == (4, 3, 4) and tokens.dtype == np.int32


def test_an_epoch_sees_each_sequence_once_and_the_next_in_another_order():
    order = np.stack([batches()[i]["tokens"][..., 0].ravel() for i in range(4)]).reshape(2, 24)
    assert sorted(order[0]) == sorted(order[1]) == list(range(24))
    assert order[0].tolist() != order[1].tolist() != sorted(order[1])


def test_the_seed_changes_the_order():
    a, b, other = (batches(seed=seed)[0]["tokens"] for seed in (0, 0, 1))
    assert (a == b).all() and (a != other).any()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_see_what_one_host_sees(hosts):
    for step in range(5):
        parts = [batches(mine=mine)[step]["tokens"] for mine in np.split(np.arange(4), hosts)]
        np.testing.assert_array_equal(np.concatenate(parts), batches()[step]["tokens"])


@pytest.mark.parametrize("workers", [0, 2])
def test_iteration_starts_at_any_step(workers):
    iterator = iterate(batches(), 3, workers)
    for step in range(3, 9):
        np.testing.assert_array_equal(next(iterator)["tokens"], batches()[step]["tokens"])


def test_a_mixture_draws_by_weight():
    mixed = batches(packed=[(0.75, Rows(1000)), (0.25, Rows(1000, first=1000))])
    values = np.concatenate([mixed[i]["tokens"][..., 0].ravel() for i in range(80)])
    assert abs((values < 1000).mean() - 0.75) < 0.01
    assert len(set(values.tolist())) == len(values)  # no source repeats before its epoch ends
