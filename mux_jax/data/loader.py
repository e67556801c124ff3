"""Loading by Grain: packed sequences become shuffled batches of multiplexed rows."""

import os
from typing import Any

import grain
import numpy as np
from absl import flags

from mux_jax.interrupts import leave_to_parent


class Batches:
    """`batches[step]["tokens"]` is int32[rows on this host, N, L], a function of (seed, step) alone.

    The order is one order over all hosts, of which each takes its rows: a run may go on with
    another number of hosts and neither skip nor repeat. Which sequences share a row, and in which of
    its slots, depends on neither their source, document nor order.
    """

    def __init__(
        self,
        packed: list[tuple[float, Any]],
        *,
        rows: int,
        width: int,
        seed: int,
        mine: np.ndarray | None = None,
    ):
        """packed: (weight, sequences) of each source; rows: those of the global batch, `mine` of this host, or all."""
        self._sources = [
            grain.MapDataset.source(sequences).seed(seed + i).shuffle().repeat()
            for i, (_, sequences) in enumerate(packed)
        ]
        self._mixture = _Mixture([weight for weight, _ in packed], seed)
        self._rows, self._width = rows, width
        self._mine = np.arange(rows) if mine is None else mine

    def __len__(self) -> int:
        return 2**31  # as long as anybody trains

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        first = (int(step) * self._rows + self._mine[:, None]) * self._width
        drawn = map(self._mixture.__getitem__, (first + np.arange(self._width)).ravel().tolist())
        tokens = np.stack([self._sources[source][i] for source, i in drawn])
        return {"tokens": tokens.reshape(len(self._mine), self._width, -1)}


class _Mixture:
    """`mixture[slot]` is the source of a slot, drawn at random, and which of its sequences comes there.

    Slots are numbered over rows and steps. Of every `_WINDOW` slots each source has its share, in an order drawn
    for that window; its sequences come one after the other, so that none comes again before all have come.
    """

    _WINDOW = 2**16  # so large that the slots of a row are all but independent

    def __init__(self, weights: list[float], seed: int):
        shares = np.array(weights) / sum(weights)
        self._rest = int(shares.argmax())  # the source that gets what rounding leaves
        self._shares, self._seed = shares, seed
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None  # the window last asked for

    def __getitem__(self, slot: int) -> tuple[int, int]:
        if len(self._shares) == 1:
            return 0, slot
        window, place = divmod(slot, self._WINDOW)
        drawn = self._drawn  # threads share it: it is replaced, never changed
        if drawn is None or drawn[0] != window:
            self._drawn = drawn = (window, *self._draw(window))
        _, sources, numbers = drawn
        return int(sources[place]), int(numbers[place])

    def _draw(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        before, after = self._counts(window), self._counts(window + 1)
        sources = np.repeat(np.arange(len(before)), after - before)
        sources = np.random.default_rng([self._seed, window]).permutation(sources)
        numbers = np.empty_like(sources)
        for source, first in enumerate(before):
            numbers[sources == source] = np.arange(first, after[source])
        return sources, numbers

    def _counts(self, windows: int) -> np.ndarray:
        """How many sequences of each source the first `windows` windows have."""
        counts = np.floor(self._shares * windows * self._WINDOW).astype(np.int64)
        counts[self._rest] += windows * self._WINDOW - counts.sum()
        return counts


def iterate(batches: Any, start: int, workers: int) -> grain.DatasetIterator:
    """Yields the batches, random access by step, from step `start` on, read ahead by threads, or by worker processes.

    `workers` of -1 means 4 processes on hosts of 16 cores and more, and none on smaller ones. The
    batches are the same ones. `close` ends the workers.
    """
    if workers == -1:
        workers = 4 if (os.cpu_count() or 1) >= 16 else 0
    dataset = grain.MapDataset.source(batches)[start:]
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    if workers:
        if not flags.FLAGS.is_parsed():  # in a notebook; Grain's workers read absl flags
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), leave_to_parent)
    return iter(dataset)
