"""What a reduced model learns from: a pool of texts with the answers of the model that it comes from."""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from mux_jax.data.encoding import Encoded, Encoder, Text
from mux_jax.data.rows import Slots, compose, pad
from mux_jax.data.task_batches import join
from mux_jax.files import whole_or_absent
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.progress import progress

_COVERED = 0.9  # of the texts that are not cut where least squares are fitted
LONGER = 1.75  # the mean length of own and joined texts over that of own ones
_PARTED_AT = (0.2, 0.4, 0.6, 0.8, 0.95)
_SHARD = 8_192  # texts whose answers are kept in one file
# What the objective takes for a text without a label, by kind.
_NO_LABEL = {"sequence": -1, "multi_label": -1, "regression": np.nan, "token": -1, "embedding": -1}


@dataclasses.dataclass(frozen=True)
class Pool:
    """Texts with answers.

    Attributes:
      encoded: the texts as tokens, with a place for each token where labels are of tokens.
      answers: logits of each text: float32 [C], or [L, C] of tokens; or its embedding.
      own: how many are texts as they came; joined ones follow.
    """

    encoded: Encoded
    answers: list[np.ndarray]
    own: int


def encode(texts: list[Text], encoder: Encoder, of_tokens: bool) -> Encoded:
    """The texts as tokens.

    Args:
      of_tokens: whether answers are wanted of each token.
    """
    found = encoder(texts)
    places = [np.arange(len(x)) for x in found.ids] if of_tokens else None
    return dataclasses.replace(found, places=places)


def first(encoded: Encoded, count: int) -> Encoded:
    """The first texts."""
    return _slice(encoded, slice(count))


def with_joined(encoded: Encoded, size: int, limit: int, seed: int) -> Encoded:
    """The texts, and joined ones until there are `size`: those to come may be longer.

    Args:
      limit: tokens of the longest.
    """
    rng = np.random.default_rng(seed)
    ids = [*encoded.ids, *join(encoded.ids, max(0, size - len(encoded.ids)), limit, rng)]
    places = [np.arange(len(x)) for x in ids] if encoded.places is not None else None
    return Encoded(ids, places, encoded.truncated, [1] * len(ids))


def sample(
    encoded: Encoded, lengths: tuple[int, ...], width: int, tokens: int, pad_id: int, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Some texts of about so many tokens in all, similar lengths side by side, in whole rows of `width`.

    Returns:
      Tokens int32[S, L], where L is the smallest of `lengths` that holds most texts, and longer ones are cut; and their
      types, None if all are 0.
    """
    sizes = np.array([len(x) for x in encoded.ids])
    length = next(n for n in lengths if n >= np.quantile(sizes, _COVERED))
    drawn = np.random.default_rng(seed).permutation(len(sizes))
    enough = int(np.searchsorted(np.cumsum(np.minimum(sizes[drawn], length)), tokens)) + 1
    drawn = drawn[: max(width, min(enough, len(drawn)) // width * width)]
    drawn = drawn[np.argsort(sizes[drawn], kind="stable")]

    def padded(arrays: list[np.ndarray], value: int) -> np.ndarray:
        return pad([arrays[i][:length] for i in drawn], np.arange(len(drawn)), length, 1, value)[:, 0]

    return padded(encoded.ids, pad_id), padded(encoded.types, 0) if encoded.types is not None else None


def mean_length(encoded: Encoded, lengths: tuple[int, ...]) -> float:
    """The mean length of the rows of some texts."""
    return float(np.array(lengths)[np.searchsorted(lengths, [len(x) for x in encoded.ids])].mean())


def few_lengths(encoded: Encoded, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Of `lengths` those that part the texts in about equal numbers, and the last; each is compiled in training."""
    sizes = [len(x) for x in encoded.ids]
    wanted = np.searchsorted(lengths, np.quantile(sizes, _PARTED_AT))
    return tuple(sorted({*(lengths[i] for i in wanted), lengths[-1]}))


def answer(
    runner: BatchRunner, params: Any, parts: Mapping[str, Encoded], folder: epath.Path
) -> tuple[dict[str, list[np.ndarray]], float]:
    """The logits of each text, by part: float32 [C], or [L, C] of tokens; and the seconds that they took.

    Args:
      runner: of the model that answers.
      params: its parameters, as `split_layers` gives them.
      parts: texts, by the name of their part.
      folder: where answers are kept, some thousand texts a file; those are not computed again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    total, done, seconds = sum(len(encoded.ids) for encoded in parts.values()), 0, 0.0
    with progress("answers of the full model") as report:

        def show(fraction: float, size: int) -> None:
            count = done + round(fraction * size)
            report(count / total, f"{count:,} of {total:,} texts")

        for name, encoded in parts.items():
            for start in range(0, len(encoded.ids), _SHARD):
                part = _slice(encoded, slice(start, start + _SHARD))
                logits, took = _answer(runner, params, part, folder, functools.partial(show, size=len(part.ids)))
                found[name] += logits
                done, seconds = done + len(part.ids), seconds + took
    return found, seconds


def _answer(
    runner: BatchRunner, params: Any, part: Encoded, folder: epath.Path, show: Callable[[float], None]
) -> tuple[list[np.ndarray], float]:
    """The answers of some texts, and the seconds that they took, now or before."""
    file = folder / f"{_digest(part)}.npz"
    if not file.exists():
        start = time.monotonic()
        logits = runner(params, part, np.random.default_rng(0), report=show)
        joined = np.concatenate(logits) if part.places is not None else np.stack(logits)
        with whole_or_absent(file) as partial, partial.open("wb") as out:
            np.savez(out, logits=joined, seconds=time.monotonic() - start)
    with file.open("rb") as kept, np.load(kept, allow_pickle=False) as arrays:
        joined, seconds = arrays["logits"], float(arrays["seconds"])
    if part.places is None:
        return list(joined), seconds
    return np.split(joined, np.cumsum([len(x) for x in part.ids])[:-1]), seconds


def _slice(encoded: Encoded, part: slice) -> Encoded:
    places, types = (x[part] if x is not None else None for x in (encoded.places, encoded.types))
    return Encoded(encoded.ids[part], places, 0, encoded.windows[part], types)


def _digest(encoded: Encoded) -> str:
    """The same for the same texts."""
    digest = hashlib.blake2b(digest_size=12)
    for x in (*encoded.ids, *(encoded.types or ())):
        digest.update(x.tobytes() + b"|")
    return digest.hexdigest()


def digest_params(params: Any) -> str:
    """The same for the same parameters."""
    digest = hashlib.blake2b(digest_size=12)
    for x in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(x).data)
    return digest.hexdigest()


class PoolBatches:
    """`batches[step]` has this host's rows of the batch of a step, a function of (seed, step) alone.

    An epoch holds every text that came as it is, and at most as many joined ones, drawn anew each time, the batches of
    all lengths mixed.
    """

    def __init__(
        self,
        pool: Pool,
        kind: str,
        *,
        rows: int,
        width: int,
        lengths: tuple[int, ...],
        seed: int,
        mine: np.ndarray,
        pad_id: int,
    ):
        """Args:
        kind: of the task, a name in `metrics.OF_KIND`.
        rows: those of the global batch, of which this host has `mine`.
        width: N.
        lengths: those that rows may have, ascending.
        """
        self._pool, self._kind, self._pad, self._width = pool, kind, pad_id, width
        self._sizes = np.array([len(x) for x in pool.encoded.ids])
        self._joined = min(pool.own, len(self._sizes) - pool.own)  # in an epoch
        self._lengths, self._slots, self._seed = lengths, rows * width, seed
        self._mine = (mine[:, None] * width + np.arange(width)).ravel()
        self._epoch = functools.lru_cache(maxsize=2)(self._compose)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-(self._pool.own + self._joined) // self._slots)

    def __len__(self) -> int:
        return 2**31  # as long as anybody trains

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, position = divmod(int(step), self.per_epoch)
        slots = self._epoch(epoch)[position]
        texts, shape = slots.examples[self._mine], (-1, self._width)
        tokens = pad(self._pool.encoded.ids, texts, slots.length, self._width, self._pad)
        found = [self._pool.answers[i] for i in texts]
        if self._kind == "token":
            answers = np.zeros((len(texts), slots.length, found[0].shape[-1]), np.float32)
            for row, logits in zip(answers, found):
                row[: len(logits)] = logits
            labels = tokens.shape
        else:
            answers = np.stack(found)
            labels = (*tokens.shape[:2], answers.shape[-1]) if self._kind == "multi_label" else tokens.shape[:2]
        dtype = np.float32 if self._kind == "regression" else np.int32
        batch = {"tokens": tokens, "labels": np.full(labels, _NO_LABEL[self._kind], dtype)}
        batch["teacher"] = answers.reshape(*shape, *answers.shape[1:])
        if self._pool.encoded.types is not None:
            batch["token_types"] = pad(self._pool.encoded.types, texts, slots.length, self._width, 0)
        return batch

    def _compose(self, epoch: int) -> list[Slots]:
        rng, own = np.random.default_rng([self._seed, epoch]), self._pool.own
        texts = np.append(np.arange(own), own + rng.permutation(len(self._sizes) - own)[: self._joined])
        found = list(compose(self._sizes[texts], self._lengths, self._slots, rng))
        batches = [dataclasses.replace(slots, examples=texts[slots.examples]) for slots in found]
        return [batches[i] for i in rng.permutation(len(batches))]
