"""Which examples share a row: examples become slots of multiplexed rows of a few lengths.

A row is as long as the smallest of the given lengths that holds its examples. Every example is in
exactly one slot; slots that are left over are filled with other examples, and marked.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

# A third to a half longer each, so that little of a row is padding, and few lengths are compiled.
BUCKET_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


_LONGER = (768, 1024, 1536, 2048, 3072, 4096, 6144)  # of models that take so much


def lengths_up_to(limit: int, lengths: Iterable[int] = BUCKET_LENGTHS + _LONGER) -> tuple[int, ...]:
    """The lengths that rows of at most `limit` tokens may have, ascending; the last is `limit`."""
    return (*sorted({n for n in lengths if 0 < n < limit}), limit)


@dataclasses.dataclass(frozen=True)
class Slots:
    """One batch.

    Attributes:
      examples: int[slots], the example in each slot.
      real: bool[slots], False where an example only fills a slot.
      length: positions of its rows.
    """

    examples: np.ndarray
    real: np.ndarray
    length: int

    def split(self, slots: int) -> Iterator["Slots"]:
        """The same slots in batches of `slots` each, which divides their number."""
        for start in range(0, len(self.examples), slots):
            part = slice(start, start + slots)
            yield Slots(self.examples[part], self.real[part], self.length)

    def repeated(self, times: int) -> "Slots":
        """So many slots in place of each."""
        return Slots(np.repeat(self.examples, times), np.repeat(self.real, times), self.length)


def compose(sizes: np.ndarray, lengths: tuple[int, ...], slots: int, rng: np.random.Generator) -> Iterator[Slots]:
    """Batches of `slots` slots that hold each example once, drawn at random among examples of similar length.

    There are ceil(examples / slots) of them.

    Args:
      sizes: int[examples], the tokens of each example, at most the last of `lengths`.
      lengths: the lengths that rows may have, ascending.
    """
    order = rng.permutation(len(sizes))
    bucket = np.searchsorted(lengths, sizes[order])
    waiting = np.empty(0, order.dtype)
    for i, length in enumerate(lengths):
        # Those that are left of shorter ones go anywhere among these, not into a row of their own.
        waiting = rng.permutation(np.concatenate([waiting, order[bucket == i]]))
        whole = len(waiting) // slots * slots
        for batch in waiting[:whole].reshape(-1, slots):
            yield Slots(batch, np.ones(slots, bool), length)
        waiting = waiting[whole:]  # too few of this length go with the next
    if len(waiting):
        longest = sizes[waiting].max()
        fill = rng.choice(order[sizes[order] <= longest], slots - len(waiting))
        real = np.arange(slots) < len(waiting)
        yield Slots(np.concatenate([waiting, fill]), real, lengths[int(np.searchsorted(lengths, longest))])


def pad(ids: list[np.ndarray], examples: np.ndarray, length: int, width: int, value: int) -> np.ndarray:
    """The ids of some examples as int32[rows, width, length], `value` after their ends."""
    padded = np.full((len(examples), length), value, np.int32)
    for row, example in zip(padded, examples):
        row[: len(ids[example])] = ids[example]
    return padded.reshape(-1, width, length)
