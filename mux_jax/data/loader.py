"""Loading by Grain: packed sequences become shuffled batches of multiplexed rows."""

import os
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from absl import flags


class Batches:
    """`batches[step]["tokens"]` is int32[rows on this host, N, L], a function of (seed, step) alone.

    The order is one order over all hosts, of which each takes its rows: a run may go on with
    another number of hosts and neither skip nor repeat.
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
        datasets = [grain.MapDataset.source(sequences).seed(seed).shuffle().repeat() for _, sequences in packed]
        weights = [weight for weight, _ in packed]
        self._sequences = datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, weights)
        self._rows, self._width = rows, width
        self._mine = np.arange(rows) if mine is None else mine

    def __len__(self) -> int:
        return len(self._sequences) // (self._rows * self._width)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        first = (int(step) * self._rows + self._mine[:, None]) * self._width
        tokens = np.stack([self._sequences[i] for i in (first + np.arange(self._width)).ravel()])
        return {"tokens": tokens.reshape(len(self._mine), self._width, -1)}


def iterate(batches: Any, start: int, workers: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches, random access by step, from step `start` on, read ahead by threads, or by worker processes.

    `workers` of -1 means 4 processes on hosts of 16 cores and more, and none on smaller ones. The
    batches are the same ones.
    """
    if workers == -1:
        workers = 4 if (os.cpu_count() or 1) >= 16 else 0
    dataset = grain.MapDataset.source(batches)[start:]
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    if workers:
        if not flags.FLAGS.is_parsed():  # in a notebook; Grain's workers read absl flags
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)
