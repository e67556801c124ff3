"""How fast models are on a user's texts: in turns, each at its best number of rows, with random weights.

Rows are composed as `Predictor` composes those of a long file, and each length that occurs is timed. Tokenisation,
which is the same for all models, is not in the figures.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mux_jax.data.encoding import Encoded
from mux_jax.errors import InputError
from mux_jax.inference.batch_runner import BatchRunner, compile_logits
from mux_jax.inference.timing import interleave
from mux_jax.models import flops
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh, rows_multiple, split_batch
from mux_jax.parallel.params import abstract_params
from mux_jax.progress import progress

_TEXTS = 16_384  # among which rows are composed, as in a long file; fewer texts are repeated
# Of a batch; more tokens than these keep all cores busy, too, and more rows of long texts only take longer.
_ROWS = {"cpu": (8, 16, 32, 64, 128), "accelerator": (32, 64, 128, 256, 512)}
_TOKENS = {"cpu": 4_096, "accelerator": 65_536}
# Tries of a number of rows, the seconds of each, and those of a model in a turn.
_TRIES, _SEARCH_SECONDS, _PASS_SECONDS = 4, 0.15, 1.0


@dataclasses.dataclass(frozen=True)
class Throughput:
    """How fast a model is.

    Attributes:
      texts_per_second: the median over the turns.
      rows: those of a batch, the best number.
      factor: over the first model of the same turns; the median of the ratios within a turn.
    """

    texts_per_second: float
    rows: int
    factor: float


class Speeds:
    """Measures models on some texts, on all devices.

    A model is compiled when it is first met, for a few numbers of rows and for each length: this takes most of the
    time. It is kept, but for the sizes that `find_size` turns down.
    """

    def __init__(
        self,
        encoded: Encoded,
        lengths: tuple[int, ...],
        pad_id: int,
        muxed_lengths: tuple[int, ...] = (),
        seed: int = 0,
    ):
        """Args:
          encoded: the texts, none longer than the last of `lengths`.
          lengths: those that rows may have, ascending.
          pad_id: what fills rows.
          muxed_lengths: those of rows of several texts, if they are others.
          seed: of the draw of texts, where there are very many.

        Raises:
          InputError: no texts.
        """
        if not encoded.ids:
            raise InputError("there are no texts to measure the speed on")
        self._sample = _Sample(encoded, lengths, pad_id, muxed_lengths or lengths, seed)
        self._timed: dict[ModelConfig, _TimedModel] = {}

    def measure(
        self, models: Mapping[str, ModelConfig], dtypes: Sequence[str], repeats: int = 5
    ) -> dict[str, dict[str, Throughput]]:
        """How fast models are, by dtype and name; those of a dtype take turns.

        Args:
          models: with heads for labels or embeddings; factors are over the first.
          dtypes: of matrix products.
          repeats: turns.
        """
        found = {}
        for dtype in dtypes:
            with progress(f"measuring speed in {dtype}") as report:
                timed = {}
                for i, (name, config) in enumerate(models.items()):
                    report(i / len(models) / 2, f"compiling {name}")
                    timed[name] = self._prepare(config, dtype)

                def show(done: float, note: str) -> None:
                    report(0.5 + done / 2, note)  # noqa: B023  # called before the next dtype

                found[dtype] = _take_turns(timed, repeats, show)
        return found

    def find_size(
        self, full: ModelConfig, family: Sequence[ModelConfig], speedup: float, dtype: str, repeats: int = 3
    ) -> tuple[ModelConfig, float]:
        """The largest model of a family that is `speedup` times as fast as `full`, and its measured factor.

        Some are measured, in turns with `full`: first the one that FLOPs speak for, then those that FLOPs and the
        last factor speak for. If none is, this returns the fastest that was measured.

        Args:
          family: from the largest to the smallest, all with heads as in `measure`.
          dtype: of matrix products, in both.
          repeats: turns for each.
        """
        length = self._sample.main_length
        by_flops = [_flops_per_text(full, length) / _flops_per_text(config, length) for config in family]
        with progress(f"looking for {speedup:g} times the speed in {dtype}") as report:

            def measured(i: int, known: float) -> float:
                report(known, f"compiling size {i + 1} of {len(family)}")
                timed = {"full": self._prepare(full, dtype), "candidate": self._prepare(family[i], dtype)}
                return _take_turns(timed, repeats)["candidate"].factor

            found, factor = search(measured, by_flops, speedup)
        for i, config in enumerate(family):
            if i != found and config != full:
                self._timed.pop(dataclasses.replace(config, dtype=dtype), None)  # their weights are not needed any more
        return family[found], factor

    def forget(self) -> None:
        """Lets go of the models that were measured."""
        self._timed.clear()

    def _prepare(self, config: ModelConfig, dtype: str) -> "_TimedModel":
        config = dataclasses.replace(config, dtype=dtype)
        if config not in self._timed:
            self._timed[config] = _TimedModel(config, self._sample)
        return self._timed[config]


def search(factor: Callable[[int, float], float], expected: Sequence[float], speedup: float) -> tuple[int, float]:
    """The first of a family, from slow to fast, whose factor is `speedup` or more, and that factor; else the fastest
    that was measured.

    Args:
      factor: measures one, given its index and the fraction of the family that is known to be too slow or not.
      expected: the factor of each but for a constant, which is learned from what is measured.
    """
    found: dict[int, float] = {}
    slow, enough, scale = -1, len(expected), 1.0  # the last that is too slow, the first that is not
    while enough - slow > 1:
        likely = (i for i, x in enumerate(expected) if scale * x >= speedup)
        i = min(max(next(likely, len(expected)), slow + 1), enough - 1)
        found[i] = factor(i, 1 - (enough - slow - 1) / len(expected))
        scale = found[i] / expected[i]
        if found[i] >= speedup:
            enough = i
        else:
            slow = i
    best = enough if enough in found else max(found, key=found.__getitem__)
    return best, found[best]


def best_rows(choices: Iterable[int], rate: Callable[[int], float]) -> int:
    """The number of rows with the highest rate; they take turns, and of each the best try counts."""
    rates = dict.fromkeys(choices, 0.0)
    for _ in range(_TRIES):
        for rows in rates:
            rates[rows] = max(rates[rows], rate(rows))
    return max(rates, key=rates.__getitem__)


def rows_to_try(mesh: Mesh, length: int) -> list[int]:
    """Numbers of rows, ascending, among which the best one is for rows of that length."""
    kind, multiple = "cpu" if mesh.devices.flat[0].platform == "cpu" else "accelerator", rows_multiple(mesh)
    few = [rows for rows in _ROWS[kind] if rows * length <= _TOKENS[kind]] or _ROWS[kind][:1]
    return sorted({-(-rows // multiple) * multiple for rows in few})


def _random_params(model: MuxModel, mesh: Mesh) -> Any:
    """Parameters that are good for timing alone; to compile their proper initialisation takes longer than to time."""
    rng = np.random.default_rng(0)

    def draw(x: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(np.asarray(rng.normal(0, 0.02, x.shape), x.dtype), x.sharding)

    return jax.tree.map(draw, abstract_params(model, mesh))


class _Sample:
    """The texts that rows are composed of.

    Attributes:
      texts: `_TEXTS` of them, with all of their windows.
      main: the windows of the length that most tokens are in.
      main_length: that length.
      lengths, pad_id, muxed_lengths: as in `Speeds`.
    """

    def __init__(
        self, encoded: Encoded, lengths: tuple[int, ...], pad_id: int, muxed_lengths: tuple[int, ...], seed: int
    ):
        ends = np.cumsum(encoded.windows)
        drawn = np.resize(np.random.default_rng(seed).permutation(len(ends)), _TEXTS)
        windows = itertools.chain.from_iterable(range(ends[i] - encoded.windows[i], ends[i]) for i in drawn)
        self.lengths, self.pad_id, self.muxed_lengths = lengths, pad_id, muxed_lengths
        self.texts = take(encoded, windows)
        bucket = np.searchsorted(lengths, [len(x) for x in self.texts.ids])
        main = int(np.argmax(np.bincount(bucket, minlength=len(lengths)) * lengths))
        self.main, self.main_length = take(self.texts, np.flatnonzero(bucket == main)), lengths[main]


def take(encoded: Encoded, windows: Iterable[int]) -> Encoded:
    """Some windows, without what is not needed to run them."""
    windows = list(windows)
    types = encoded.types and [encoded.types[i] for i in windows]
    return Encoded([encoded.ids[i] for i in windows], None, 0, [1] * len(windows), types)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """The batches of one length: one of them, and how many there are."""

    arrays: list[np.ndarray]
    count: int


class _TimedModel:
    """A model with random weights, compiled for the best number of rows.

    Attributes:
      rows: of a batch.
    """

    def __init__(self, config: ModelConfig, sample: _Sample):
        self._mesh, self._sample, self._model = make_mesh(), sample, MuxModel(config)
        self._logits = compile_logits(self._model, self._mesh, sample.pad_id)
        # Several CPU devices that run several programs at once may wait for each other for ever.
        self._in_turn = self._mesh.devices.size > 1 and self._mesh.devices.flat[0].platform == "cpu"
        self._params = split_layers(_random_params(self._model, self._mesh), config.compute_dtype)
        self._tried: dict[int, tuple[list[np.ndarray], int]] = {}
        self.rows = best_rows(rows_to_try(self._mesh, sample.main_length), self._rate)
        batches = self._compose(sample.texts, self.rows)
        part = _PASS_SECONDS / sum(b.count * self._once(b.arrays) for b in batches)
        self._passes = [(b, max(1, round(b.count * min(1, part)))) for b in batches]

    def seconds(self) -> float:
        """Seconds that all texts of the sample take, by some of the batches of each length."""
        return sum(b.count * self._time(b.arrays, times) for b, times in self._passes)

    def _compose(self, encoded: Encoded, rows: int) -> list[_Batches]:
        """The batches of each length."""
        lengths = self._sample.muxed_lengths if self._model.config.width > 1 else self._sample.lengths
        runner = BatchRunner(self._model, self._mesh, rows, lengths, self._sample.pad_id)
        found: dict[int, list[list[np.ndarray]]] = {}
        for slots, arrays in runner.batches(encoded, np.random.default_rng(0)):
            found.setdefault(slots.length, []).append(arrays)
        return [_Batches(batches[0], len(batches)) for batches in found.values()]

    def _rate(self, rows: int) -> float:
        """Texts a second in rows of the main length."""
        if rows not in self._tried:
            (batches,) = self._compose(self._sample.main, rows)
            self._tried[rows] = batches.arrays, max(1, round(_SEARCH_SECONDS / self._once(batches.arrays)))
        arrays, times = self._tried[rows]
        B, N, _ = arrays[0].shape
        return B * N / self._time(arrays, times)

    def _once(self, arrays: list[np.ndarray]) -> float:
        """About the seconds of one batch, compiled before."""
        self._logits.compile_for(self._params, *split_batch(arrays, self._mesh))
        return self._time(arrays, 1)

    def _time(self, arrays: list[np.ndarray], times: int) -> float:
        """Seconds of one batch, which is run so many times."""
        start = time.perf_counter()
        for _ in range(times):
            logits: Any = self._logits(self._params, *split_batch(arrays, self._mesh))
            if self._in_turn:
                logits.block_until_ready()
        logits.block_until_ready()
        return (time.perf_counter() - start) / times


def _take_turns(
    models: Mapping[str, _TimedModel], repeats: int, report: Callable[[float, str], None] | None = None
) -> dict[str, Throughput]:
    taken = interleave({name: model.seconds for name, model in models.items()}, repeats, report)
    first = next(iter(taken.values()))
    return {
        name: Throughput(_TEXTS / float(np.median(taken[name])), model.rows, float(np.median(first / taken[name])))
        for name, model in models.items()
    }


def _flops_per_text(config: ModelConfig, length: int) -> float:
    return flops.classification(config, length) / config.width
