"""The order of the data is a function of the seed and the step, over all hosts and epochs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from mux_jax.data.loader import Batches, _Mixture, iterate


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


def chi_squared(table):
    """The p-value of a contingency table's independence."""
    return scipy.stats.chi2_contingency(table).pvalue


@pytest.mark.parametrize(
    "weights, width, rows", [([0.8, 0.2], 5, 4), ([0.5, 0.5], 2, 8), ([0.5, 0.5], 2, 1), ([0.6, 0.3, 0.1], 10, 3)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_sources_are_independent_of_slots_and_of_the_other_slots_of_their_row(weights, width, rows, seed):
    packed = [(weight, Rows(3000, first=10_000 * i)) for i, weight in enumerate(weights)]
    mixed = batches(packed=packed, width=width, rows=rows, seed=seed)
    sources = np.concatenate([mixed[i]["tokens"][..., 0] // 10_000 for i in range(12_000 // (rows * width))])
    kinds = np.arange(len(weights))
    assert np.abs((sources[..., None] == kinds).mean((0, 1)) - weights).max() < 0.02
    assert chi_squared([[(column == kind).sum() for kind in kinds] for column in sources.T]) > 1e-3
    first, second = sources[:, 0], sources[:, 1]
    assert chi_squared([[((first == a) & (second == b)).sum() for b in kinds] for a in kinds]) > 1e-3
    assert chi_squared([[((first[1:] == a) & (second[:-1] == b)).sum() for b in kinds] for a in kinds]) > 1e-3


def test_neighbours_in_the_text_are_independent_of_rows_and_slots():
    found = np.concatenate(
        [batches(packed=[(1.0, Rows(4000))], width=2, rows=4)[i]["tokens"][..., 0] for i in range(500)]
    )
    assert abs(scipy.stats.spearmanr(found[:, 0], found[:, 1]).statistic) < 0.06
    assert abs(found[:, 0].mean() - found[:, 1].mean()) < 100


def test_windows_of_a_mixture_go_on_where_the_last_one_ended(monkeypatch):
    monkeypatch.setattr(_Mixture, "_WINDOW", 10)
    mixture = _Mixture([0.55, 0.25, 0.2], seed=0)
    drawn = [mixture[slot] for slot in range(1000)]
    for source, share in enumerate([0.55, 0.25, 0.2]):
        numbers = [number for s, number in drawn if s == source]
        assert numbers == list(range(int(1000 * share)))
    assert [mixture[slot] for slot in (995, 3)] == [drawn[995], drawn[3]]


@pytest.mark.extra  # for its time
def test_workers_end_with_their_process(tmp_path):
    script = "import multiprocessing, signal, time; from tests.data.test_loader import *\n"
    script += "if __name__ == '__main__':\n    iterator = iterate(batches(), 0, 2); next(iterator)\n"
    script += "    print(*(p.pid for p in multiprocessing.active_children()), flush=True); time.sleep(60)"
    (tmp_path / "main.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, tmp_path / "main.py"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGINT)  # as a terminal does
        process.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_mixture_draws_by_weight():
    mixed = batches(packed=[(0.75, Rows(1000)), (0.25, Rows(1000, first=1000))])
    values = np.concatenate([mixed[i]["tokens"][..., 0].ravel() for i in range(80)])
    assert abs((values < 1000).mean() - 0.75) < 0.01
    assert len(set(values.tolist())) == len(values)  # no source repeats before its epoch ends
