"""Logits of any number of encoded texts: rows are composed, run, and taken apart again."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import scipy.special
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mux_jax.data.encoding import Encoded
from mux_jax.data.rows import Slots, compose, pad
from mux_jax.inference.runtimes import Program
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.parallel.compiled import CompiledByShape
from mux_jax.parallel.mesh import rows_multiple, split_batch

_LONG = 512  # tokens of a row
_AHEAD = 4  # batches that the device works on while results are fetched


def cpu_options(dtype: str) -> dict[str, Any]:
    """What compiles a forward pass with products of `dtype` to the fastest program on CPU.

    Eigen's products of float32 are faster than YNNPACK's, XLA's default, which alone has them for
    bfloat16; so is a maximum (of the softmax) that need not pass NaN on.
    """
    eigen = {"xla_cpu_experimental_ynn_fusion_type": ""} if dtype == "float32" else {}
    return eigen | {"xla_cpu_enable_fast_min_max": True}


def forward(model: MuxModel, pad_id: int) -> Callable[..., jax.Array]:
    """(params of `split_layers`, tokens int32[B, N, L], and their types or None) -> float32 [B, N, C] or [B, N, L, C].

    A token is masked by being `pad_id`. B and L may be symbols.
    """
    model = model.clone(deterministic=True, split_layers=True)
    prefix = model.config.prefix_length if model.config.head == "token" else 0

    def logits(params: Any, tokens_BNL: jax.Array, token_types_BNL: jax.Array | None = None) -> jax.Array:
        found: Any = model.apply({"params": params}, tokens_BNL, tokens_BNL != pad_id, token_types_BNL)
        return found[:, :, prefix:] if prefix else found

    return logits


def compile_logits(model: MuxModel, mesh: Mesh, pad_id: int, sharding: NamedSharding | None = None) -> CompiledByShape:
    """(params of `split_layers`, tokens int32[B, N, L], and their types) -> float32 [B, N, C] or [B, N, L, C].

    Types int32[B, N, L] are for models that take them; without, all are 0. N may be a multiple of the model's width.
    The logits lie on every device, or by `sharding`.
    """
    run = forward(model, pad_id)

    def logits(params: Any, tokens_BNL: jax.Array, token_types_BNL: jax.Array | None = None) -> jax.Array:
        B, N, L = tokens_BNL.shape
        rows = tokens_BNL.reshape(-1, model.config.width, L)
        types = None if token_types_BNL is None else token_types_BNL.reshape(rows.shape)
        found = run(params, rows, types)
        return found.reshape(B, N, *found.shape[2:])

    on_cpu = mesh.devices.flat[0].platform == "cpu"
    options = cpu_options(model.config.compute_dtype) if on_cpu else {}
    sharding = sharding or NamedSharding(mesh, PartitionSpec())
    return CompiledByShape(logits, mesh, out_shardings=sharding, compiler_options=options)


class BatchRunner:
    """A model with the head `sequence`, `token` or `embedding`, compiled for rows of a few lengths.

    Attributes:
      config: the model's.
      lengths: those that rows may have, ascending.
      pad_id: the padding token.
    """

    def __init__(
        self,
        model: MuxModel,
        mesh: Mesh | None,
        rows: int,
        lengths: tuple[int, ...],
        pad_id: int,
        program: Program | None = None,
    ):
        """Args:
        mesh: None with a program.
        rows: those of a batch, made a multiple of the devices.
        lengths: those that rows may have, ascending.
        program: of another runtime, which runs in place of the model; parameters are then of no account.
        """
        self._multiple = multiple = rows_multiple(mesh) if mesh else 1
        self.config, self._mesh, self.lengths, self.pad_id = model.config, mesh, lengths, pad_id
        self._rows = -(-rows // multiple) * multiple
        self.logits: Callable[..., Any]
        if mesh:
            self.logits = compile_logits(model, mesh, pad_id)
        elif program:
            self.logits = lambda _, *arrays: program(*arrays)

    def __call__(
        self,
        params: Any,
        encoded: Encoded,
        rng: np.random.Generator,
        ensemble: int = 1,
        report: Callable[[float], None] | None = None,
        copies: bool = True,
        alone: bool = False,
    ) -> list[np.ndarray]:
        """float32 [C] of each window, [E] of embeddings; of tags [words, C], NaN for words without a place.

        `params` are those that `split_layers` gives. Each window (`Encoded`) is in `ensemble` slots, drawn at random,
        and its logits are averaged over them; and over its `copies` in slots of a row that are left over. `alone` it is
        in all slots of a row.
        """
        count = len(encoded.ids)
        if not count:
            return []
        sums: list[Any] = [0.0] * count
        times, done = np.zeros(count, int), 0
        slots_of_each = self.config.width if alone else ensemble
        copies = copies and self.config.width > 1  # a row of one text gives the same again
        for slots, logits in self._run(params, self.batches(encoded, rng, ensemble, alone)):
            real, width = int(slots.real.sum()), self.config.width
            used = slots.examples[: -(-real // width) * width if copies else real]  # real ones come first
            for slot, example in enumerate(used % count):
                found = logits[slot]
                if encoded.places is not None:
                    places = encoded.places[example]
                    found = np.where(places[:, None] < 0, np.nan, found[places])
                sums[example] = sums[example] + found
                times[example] += 1
            done += int(slots.real.sum())
            if report:
                report(done / (count * slots_of_each))
        return [total / n for total, n in zip(sums, times.tolist())]

    def batches(
        self, encoded: Encoded, rng: np.random.Generator, ensemble: int = 1, alone: bool = False
    ) -> Iterator[tuple[Slots, list[np.ndarray]]]:
        """Batches in which each window is in `ensemble` slots, or `alone` in all of a row, with what `logits` takes:
        tokens int32[B, N, L], and their types where there are others than 0. They have all rows, or as few as it takes
        where texts are few.

        A slot's example is a window's number plus a multiple of the number of windows.
        """
        ids, width = encoded.ids, self.config.width
        sizes, texts = np.array([len(x) for x in ids] * ensemble), self._rows * (1 if alone else width)
        few = 2 * len(sizes) <= texts  # of a file the last batch alone would be: not worth compiling for
        for batch in compose(sizes, self.lengths, texts, rng):
            if alone:
                batch = batch.repeated(width)
            # Slots that are left over hold copies, not the other examples that `compose` puts there.
            batch = dataclasses.replace(batch, examples=np.resize(batch.examples[batch.real], len(batch.examples)))
            for slots in batch.split(self._rows_of(batch.length) * width):
                if not slots.real[0]:
                    break  # copies alone
                if few:
                    slots = self._with_few_rows(slots)
                examples = slots.examples % len(ids)
                arrays = [pad(ids, examples, slots.length, width, self.pad_id)]
                if encoded.types is not None and self.config.takes_token_types:
                    arrays.append(pad(encoded.types, examples, slots.length, width, 0))
                yield slots, arrays

    def counts(self, length: int) -> tuple[int, ...]:
        """The numbers of rows that batches of a length have: 1, 2, 4, ... times the devices, and the most."""
        most = self._rows_of(length)
        powers = (self._multiple << i for i in range(most.bit_length()))
        return (*(count for count in powers if count < most), most)

    def _rows_of(self, length: int) -> int:
        """Rows to run at once: long ones fewer, so that there are no more tokens than in rows of `_LONG`."""
        rows = self._rows
        while rows * length > self._rows * _LONG and rows % (2 * self._multiple) == 0:
            rows //= 2
        return rows

    def _with_few_rows(self, slots: Slots) -> Slots:
        """The first rows, which have all real slots."""
        width = self.config.width
        rows = next(count for count in self.counts(slots.length) if count * width >= slots.real.sum())
        return next(slots.split(min(rows * width, len(slots.examples))))

    def run(self, params: Any, arrays: list[np.ndarray]) -> np.ndarray:
        """The logits of one batch, as `batches` gives it: float32 [slots, ...]."""
        given = split_batch(arrays, self._mesh) if self._mesh else arrays
        found = np.asarray(jax.device_get(self.logits(params, *given)), np.float32)
        return found.reshape(-1, *found.shape[2:])

    def _run(
        self, params: Any, batches: Iterator[tuple[Slots, list[np.ndarray]]]
    ) -> Iterator[tuple[Slots, np.ndarray]]:
        """The logits of each batch, [slots, ...], a few batches being under way."""
        waiting: collections.deque[tuple[Slots, jax.Array]] = collections.deque()
        for slots, arrays in batches:
            given = split_batch(arrays, self._mesh) if self._mesh else arrays
            waiting.append((slots, self.logits(params, *given)))
            if len(waiting) > _AHEAD:
                yield self._fetch(*waiting.popleft())
        while waiting:
            yield self._fetch(*waiting.popleft())

    @staticmethod
    def _fetch(slots: Slots, logits: jax.Array) -> tuple[Slots, np.ndarray]:
        found = np.asarray(jax.device_get(logits), np.float32)
        return slots, found.reshape(-1, *found.shape[2:])


def join_windows(logits: list[np.ndarray], windows: list[int], words: bool) -> list[np.ndarray]:
    """Logits of windows, so many to a text, as those of texts: of the words of all, or else their mean."""
    starts = itertools.accumulate(windows, initial=0)
    groups = [logits[start : start + count] for start, count in zip(starts, windows)]
    return [np.concatenate(group) if words else np.mean(group, axis=0) for group in groups]


def labels_from_logits(logits: list[np.ndarray], config: ModelConfig, threshold: float) -> list[Any]:
    """Labels by name; numbers of a model with one label; lists of tags, None for words without logits.

    Of a model with several labels a text lists of those whose probability is the `threshold` or more. Embeddings are
    what they are.
    """
    labels = config.labels
    if config.head == "embedding":
        return logits
    if config.head == "token":
        return [
            [None if missing else labels[best] for missing, best in zip(np.isnan(x[:, 0]), _argmax(x))] for x in logits
        ]
    if len(labels) == 1:
        return [float(x[0]) for x in logits]
    if config.multi_label:
        reached = probabilities(logits, config) >= threshold
        return [[label for label, enough in zip(labels, row) if enough] for row in reached]
    return [labels[int(x.argmax())] for x in logits]


def probabilities(logits: list[np.ndarray], config: ModelConfig) -> np.ndarray:
    """The probabilities of the labels, float64 [texts, C], by the logits [C] of each text.

    Those of a text sum to 1, unless it may have several labels.
    """
    logits_TC = np.array(logits, float)
    return scipy.special.expit(logits_TC) if config.multi_label else scipy.special.softmax(logits_TC, axis=-1)


def _argmax(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), -np.inf, x).argmax(-1)
