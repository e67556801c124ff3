"""Batches of texts that belong together: anchors, what is near each, and what is not."""

import functools
from typing import Any

import numpy as np

from mux_jax.data.rows import Slots, compose, pad
from mux_jax.data.task_data import TaskData


class PairBatches:
    """`batches[step]` has this host's rows of the batch of a step, a function of (seed, step) alone.

    An epoch holds every example once, drawn anew each time. The slots of a batch hold first its anchors, then what is
    near each, then what is not, if examples have that; those that are left over, copies that do not count.
    """

    def __init__(self, data: TaskData, *, rows: int, width: int, lengths: tuple[int, ...], seed: int, mine: np.ndarray):
        """Args:
        rows: those of the global batch, of which this host has `mine`.
        width: N.
        lengths: those that rows may have, ascending.
        """
        split = data.splits["train"]
        self._ids, self._columns = split.encoded.ids, len(data.task.text)
        self._sizes = np.array([len(x) for x in self._ids]).reshape(-1, self._columns).max(axis=1)
        texts = [text for example in split.examples for text in example.text]
        numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        self._texts = np.array([numbers[text] for text in texts]).reshape(-1, self._columns)
        self._pad, self._seed, self._lengths, self._width = data.special.pad, seed, lengths, width
        self._examples = rows * width // self._columns
        self._mine = (mine[:, None] * width + np.arange(width)).ravel()
        self._epoch = functools.lru_cache(maxsize=2)(self._compose)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_epoch"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._epoch = functools.lru_cache(maxsize=2)(self._compose)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._sizes) // self._examples)

    def __len__(self) -> int:
        return 2**31  # as long as anybody trains

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """What the objective `embedding` takes."""
        epoch, position = divmod(int(step), self.per_epoch)
        slots = self._epoch(epoch)[position]
        columns = np.repeat(np.arange(self._columns), len(slots.examples))
        examples, real = np.tile(slots.examples, self._columns), np.tile(slots.real, self._columns)
        mine = self._mine % len(columns)  # slots that are left over hold copies, which do not count
        columns, examples, real = columns[mine], examples[mine], real[mine]
        ids = examples * self._columns + columns
        # Of an example that only fills the batch the others are good to tell anchors from.
        counts = (self._mine < self._columns * len(slots.examples)) & (real | (columns > 0))
        numbers = {
            "columns": np.where(counts, columns, -1),
            "texts": self._texts[examples, columns],
            "anchors": self._texts[examples, 0],
            "positives": self._texts[examples, 1],
        }
        batch = {name: x.reshape(-1, self._width).astype(np.int32) for name, x in numbers.items()}
        return batch | {"tokens": pad(self._ids, ids, slots.length, self._width, self._pad)}

    def _compose(self, epoch: int) -> list[Slots]:
        rng = np.random.default_rng([self._seed, epoch])
        batches = list(compose(self._sizes, self._lengths, self._examples, rng))
        return [batches[i] for i in rng.permutation(len(batches))]
