"""What a reduced model learns from: a pool of texts with the answers of the model that it comes from."""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
from etils import epath

from mux_jax.data.encoding import Encoded, Encoder, Text
from mux_jax.data.rows import Slots, compose, pad
from mux_jax.data.task_batches import join
from mux_jax.files import whole_or_absent
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.progress import progress

_COVERED = 0.9  # of the texts that are not cut where least squares are fitted
_PARTED_AT = (0.2, 0.4, 0.6, 0.8, 0.95)
_SHARD = 8_192  # texts whose answers are kept in one file
# What the objective takes for a text without a label, by kind.
_NO_LABEL = {"sequence": -1, "multi_label": -1, "regression": np.nan, "token": -1}


@dataclasses.dataclass(frozen=True)
class Pool:
    """Texts with answers.

    Attributes:
      encoded: the texts as tokens, with a place for each token where labels are of tokens.
      answers: logits of each text: float32 [C], or [L, C] of tokens.
    """

    encoded: Encoded
    answers: list[np.ndarray]


def encode(texts: list[Text], encoder: Encoder, length: int, of_tokens: bool, size: int = 0, seed: int = 0) -> Encoded:
    """The texts as tokens, and joined ones until there are `size`: those to come may be longer. Pairs are not joined.

    Args:
      length: that the encoder cuts texts at.
      of_tokens: whether answers are wanted of each token.
    """
    found, ids, types = encoder(texts), [], None
    ids = list(found.ids)
    if size > len(ids) and not isinstance(texts[0], tuple):
        ids += join(found.ids, size - len(ids), length, np.random.default_rng(seed))
    else:
        types = found.types
    places = [np.arange(len(x)) for x in ids] if of_tokens else None
    return Encoded(ids, places, found.truncated, [1] * len(ids), types)


def sample(encoded: Encoded, lengths: tuple[int, ...], width: int, tokens: int, pad_id: int, seed: int) -> np.ndarray:
    """int32[S, L]: some texts of about so many tokens in all, similar lengths side by side, in whole rows of `width`.

    L is the smallest of `lengths` that holds most texts; longer ones are cut.
    """
    sizes = np.array([len(x) for x in encoded.ids])
    length = next(n for n in lengths if n >= np.quantile(sizes, _COVERED))
    drawn = np.random.default_rng(seed).permutation(len(sizes))
    enough = int(np.searchsorted(np.cumsum(np.minimum(sizes[drawn], length)), tokens)) + 1
    drawn = drawn[: max(width, min(enough, len(drawn)) // width * width)]
    ids = [encoded.ids[i][:length] for i in sorted(drawn, key=lambda i: sizes[i])]
    return pad(ids, np.arange(len(ids)), length, 1, pad_id)[:, 0]


def few_lengths(encoded: Encoded, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Of `lengths` those that texts are parted at in about equal numbers, and the last; each is compiled in training."""
    sizes = [len(x) for x in encoded.ids]
    wanted = np.searchsorted(lengths, np.quantile(sizes, _PARTED_AT))
    return tuple(sorted({*(lengths[i] for i in wanted), lengths[-1]}))


def answer(runner: BatchRunner, params: Any, encoded: Encoded, folder: epath.Path, name: str) -> list[np.ndarray]:
    """The logits of each text: float32 [C], or [L, C] of tokens; those in `folder` are not computed again.

    Args:
      runner: of the model that answers.
      params: its parameters, as `split_layers` gives them.
      encoded: the texts.
      folder: where answers are kept, some thousand texts a file, which appears when it is whole.
      name: what is shown of the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[np.ndarray] = []
    count = len(encoded.ids)
    with progress(name) as report:
        for start in range(0, count, _SHARD):
            part = _slice(encoded, slice(start, start + _SHARD))
            file = folder / f"{_digest(part)}.npy"
            if not file.exists():

                def show(fraction: float, start: int = start, size: int = len(part.ids)) -> None:
                    report((start + fraction * size) / count, f"{start + round(fraction * size):,} texts")

                logits = runner(params, part, np.random.default_rng(0), report=show)
                with whole_or_absent(file) as partial, partial.open("wb") as out:
                    np.save(out, np.concatenate(logits) if encoded.places is not None else np.stack(logits))
            with file.open("rb") as kept:
                array = np.load(kept, allow_pickle=False)
            if encoded.places is None:
                found += list(array)
            else:
                found += np.split(array, np.cumsum([len(x) for x in part.ids])[:-1])
    return found


def _slice(encoded: Encoded, part: slice) -> Encoded:
    places, types = (x[part] if x is not None else None for x in (encoded.places, encoded.types))
    return Encoded(encoded.ids[part], places, 0, encoded.windows[part], types)


def _digest(encoded: Encoded) -> str:
    """The same for the same texts."""
    digest = hashlib.blake2b(digest_size=12)
    for x in (*encoded.ids, *(encoded.types or ())):
        digest.update(x.tobytes() + b"|")
    return digest.hexdigest()


class PoolBatches:
    """`batches[step]` has this host's rows of the batch of a step, a function of (seed, step) alone.

    An epoch holds every text once, drawn anew each time, the batches of all lengths mixed.
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
        self._lengths, self._slots, self._seed = lengths, rows * width, seed
        self._mine = (mine[:, None] * width + np.arange(width)).ravel()
        self._epoch = functools.lru_cache(maxsize=2)(self._compose)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._sizes) // self._slots)

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
        rng = np.random.default_rng([self._seed, epoch])
        batches = list(compose(self._sizes, self._lengths, self._slots, rng))
        return [batches[i] for i in rng.permutation(len(batches))]
