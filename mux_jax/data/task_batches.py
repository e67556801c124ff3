"""Batches of a task: examples, and texts that the teacher alone labels, in multiplexed rows."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from mux_jax.data.encoding import Encoded
from mux_jax.data.examples import Example
from mux_jax.data.rows import Slots, compose, pad
from mux_jax.data.task_data import TaskData

# Of a slot that only fills, or of a text that only the teacher labels.
_NO_LABEL = {"sequence": -1, "regression": np.nan, "token": np.empty(0, np.int32)}


class TaskBatches:
    """`batches[step]` has this host's rows of the batch of a step, a function of (seed, step) alone.

    An epoch holds every example once, drawn anew each time, the batches of all lengths mixed. With a
    teacher, which needs no labels, there are as many texts without: drawn from the unlabelled ones, or
    made by joining examples, since dev texts may be longer than those to train on, and each joined one is new.
    """

    def __init__(
        self,
        data: TaskData,
        *,
        rows: int,
        width: int,
        lengths: tuple[int, ...],
        seed: int,
        mine: np.ndarray,
        taught: bool = False,
        unlabelled: Encoded | None = None,
        class_weights: np.ndarray | None = None,
    ):
        """Args:
        rows: those of the global batch, of which this host has `mine`.
        width: N.
        lengths: those that rows may have, ascending.
        taught: whether there is a teacher.
        unlabelled: texts that it alone labels.
        class_weights: float32, one a class, which batches then have by label as `weights`.
        """
        self._split, self._kind, self._pad = data.splits["train"], data.task.kind, data.special.pad
        self._seed, self._lengths, self._width, self._slots = seed, lengths, width, rows * width
        self._mine = (mine[:, None] * width + np.arange(width)).ravel()
        self._ids, self._types = self._split.encoded.ids, self._split.encoded.types
        numbers = {label: i for i, label in enumerate(data.labels)}
        self._labels = [self._encode(i, example, numbers) for i, example in enumerate(self._split.examples)]
        self._no_label = np.full(len(numbers), -1) if self._kind == "multi_label" else _NO_LABEL[self._kind]
        self._unlabelled, self._class_weights = unlabelled, class_weights
        joined = taught and not isinstance(self._split.examples[0].text, tuple)  # pairs are not
        given = len(unlabelled.ids) if unlabelled else 0
        self._new = min(given, len(self._ids)) or (len(self._ids) if joined else 0)  # in an epoch
        self._labels += [self._no_label] * self._new
        self._epoch = functools.lru_cache(maxsize=2)(self._compose)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_epoch"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._epoch = functools.lru_cache(maxsize=2)(self._compose)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-(len(self._ids) + self._new) // self._slots)

    def __len__(self) -> int:
        return 2**31  # as long as anybody trains

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, position = divmod(int(step), self.per_epoch)
        ids, types, batches = self._epoch(epoch)
        slots = batches[position]
        examples, real = slots.examples[self._mine], slots.real[self._mine]
        tokens = pad(ids, examples, slots.length, self._width, self._pad)
        if self._kind == "token":
            labels = pad(self._labels, examples, slots.length, self._width, -1)
            labels = np.where(real.reshape(-1, self._width, 1), labels, -1)
        else:
            labels = np.array([self._labels[e] if r else self._no_label for e, r in zip(examples, real)])
            labels = labels.reshape(-1, self._width, *labels.shape[1:])
            labels = labels.astype(np.float32 if self._kind == "regression" else np.int32)
        batch = {"tokens": tokens, "labels": labels}
        if types is not None:
            batch["token_types"] = pad(types, examples, slots.length, self._width, 0)
        if self._class_weights is not None:
            batch["weights"] = self._class_weights[labels]  # -1 has some weight, which the objective leaves out
        return batch

    def _compose(self, epoch: int) -> tuple[list[np.ndarray], list[np.ndarray] | None, list[Slots]]:
        """The ids of an epoch's texts, their token types, and its batches."""
        rng = np.random.default_rng([self._seed, epoch])
        ids, types = self._ids, self._types
        if self._unlabelled and self._unlabelled.ids:
            drawn = rng.choice(len(self._unlabelled.ids), self._new, replace=False)
            ids = [*ids, *(self._unlabelled.ids[i] for i in drawn)]
            if types is not None and self._unlabelled.types is not None:
                types = [*types, *(self._unlabelled.types[i] for i in drawn)]
        elif self._new:
            ids = [*ids, *join(ids, len(ids), self._lengths[-1], rng)]
        batches = list(compose(np.array([len(x) for x in ids]), self._lengths, self._slots, rng))
        return ids, types, [batches[i] for i in rng.permutation(len(batches))]

    def _encode(self, index: int, example: Example, numbers: dict[str, int]) -> Any:
        """The label as the objective wants it; of words at their first pieces."""
        if self._kind == "regression":
            return example.label
        if self._kind == "sequence":
            return numbers[example.label]
        if self._kind == "multi_label":
            return np.array([label in example.label for label in numbers], int)
        places = self._split.encoded.places
        assert places is not None  # texts are lists of words
        labels = np.full(len(self._ids[index]), -1, np.int32)
        for place, tag in zip(places[index], example.label):
            if place >= 0:
                labels[place] = numbers[tag]
        return labels


def join(ids: list[np.ndarray], count: int, limit: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """New texts, each two or three of those that there are, [CLS] and [SEP] at the ends alone, of at most `limit`."""
    for parts, drawn in zip(rng.integers(2, 4, count), rng.integers(len(ids), size=(count, 3))):
        body = np.concatenate([ids[i][1:-1] for i in drawn[:parts]])[: limit - 2]
        first = ids[drawn[0]]
        yield np.concatenate([first[:1], body, first[-1:]])
