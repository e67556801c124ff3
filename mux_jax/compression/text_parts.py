"""Distinct texts in parts that share none, in bounded memory.

Each text belongs to a part by a hash of its normal form, in which case and blanks do not count. So two forms of one
text are never in two parts, and neither the order of the files nor that of their records changes anything.
"""

import hashlib
import json
from collections.abc import Collection, Mapping

import numpy as np

from mux_jax.data.encoding import Text
from mux_jax.errors import InputError

MOST = {"learn": 200_000, "choose": 2_000, "calibrate": 10_000, "judge": 10_000}  # distinct texts of each part


def text_key(text: Text) -> bytes:
    """A hash of a text, 16 bytes; one for all texts that differ in case or blanks alone."""
    pieces = [text] if isinstance(text, str) else text
    normal = json.dumps([" ".join(piece.casefold().split()) for piece in pieces])
    return hashlib.blake2b(normal.encode(), digest_size=16).digest()


class Parts:
    """Texts by part, in memory for twice as many as the parts take.

    Args:
      shares: of the distinct texts, by the name of the part.
      without: the hashes of texts that are in no part.

    Attributes:
      left_out: how many such were given.
    """

    def __init__(self, shares: Mapping[str, float], without: Collection[bytes] = ()):
        self._shares, self._without, self.left_out = shares, without, 0
        self._samples = {name: _Sample(MOST[name]) for name in shares}

    def add(self, text: Text, answer: np.ndarray | None = None) -> None:
        """Takes a text, and the logits of another model, into the part that it belongs to."""
        key = text_key(text)
        if key in self._without:
            self.left_out += 1
        else:
            self._samples[self._part(key)].add(key, text, answer)

    def _part(self, key: bytes) -> str:
        place = int.from_bytes(key[:8], "big") / 2**64
        for name, share in self._shares.items():
            place -= share
            if place < 0:
                return name
        return name  # the shares sum to 1, but for rounding

    def check(self, least: int, given: str) -> None:
        """Raises `InputError` if there are fewer than `least` distinct texts in what was `given`."""
        count = sum(len(sample.texts()) for sample in self._samples.values())
        if count < least:
            raise InputError(f"{given}; {count:,} distinct texts, case and blanks aside; at least {least:,} are needed")

    def describe(self) -> str:
        """How many texts there are, and in which part."""
        counts = {name: len(sample.texts()) for name, sample in self._samples.items()}
        over = "over " if any(sample.sampled for sample in self._samples.values()) else ""
        sizes = ", ".join(f"{count:,} to {name}" for name, count in counts.items())
        return f"{over}{sum(counts.values()):,} distinct texts, of them {sizes}"

    def texts(self) -> dict[str, list[Text]]:
        """The texts by part."""
        return {name: [text for text, _ in sample.texts()] for name, sample in self._samples.items()}

    def answers(self, classes: int) -> dict[str, np.ndarray]:
        """The logits of the texts by part, float32[texts, classes], if all were added with them."""
        answers = {name: [answer for _, answer in sample.texts()] for name, sample in self._samples.items()}
        return {name: np.array(part, np.float32).reshape(-1, classes) for name, part in answers.items()}


class _Sample:
    """The texts with the smallest hashes, `most` of them, each once.

    Of texts with one hash the first in the order of characters counts; of equal ones, the first added.
    """

    def __init__(self, most: int):
        self._most, self._found, self._largest = most, dict[bytes, tuple[Text, np.ndarray | None]](), b"\xff" * 16
        self.sampled = False  # whether some were dropped

    def add(self, key: bytes, text: Text, answer: np.ndarray | None) -> None:
        """Takes a text if its hash is small enough."""
        if key > self._largest:
            return
        known = self._found.get(key)
        if known is None or list(text) < list(known[0]):
            self._found[key] = (text, answer)
        if len(self._found) > 2 * self._most:
            self._drop()

    def _drop(self) -> None:
        keys = sorted(self._found)
        if len(keys) > self._most:
            self.sampled, self._largest = True, keys[self._most - 1]
        self._found = {key: self._found[key] for key in keys[: self._most]}

    def texts(self) -> list[tuple[Text, np.ndarray | None]]:
        """The texts in the order of their hashes, each with its answer."""
        self._drop()
        return list(self._found.values())
