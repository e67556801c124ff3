"""Texts, pairs and word lists become token ids, and words are found again in them."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from mux_jax.data.tokenizer import ModelTokenizer
from mux_jax.errors import InputError
from mux_jax.progress import say

WORD = r"[^ \t\r\n]+"  # what spaces, tabs and ends of lines separate; no-break spaces do not
Text = str | tuple[str, ...] | list[str]  # a text, a pair of texts (or what belongs together), or a sentence's words


def split_words(text: str) -> list[str]:
    """The words of a text."""
    return re.findall(WORD, text)


def find_problem(text: Any, head: str) -> str:
    """What keeps a text from being encoded for a model with this head, or nothing."""
    if head == "token":
        text = split_words(text) if isinstance(text, str) else text
        if not isinstance(text, list) or not all(isinstance(word, str) for word in text):
            return f"{type(text).__name__} is not a text or a list of words"
        if not text:
            return "a sentence of zero words"
    elif head == "embedding":
        if not isinstance(text, str):
            return f"{type(text).__name__} is not a text"
    elif isinstance(text, tuple):
        if len(text) != 2 or not all(isinstance(part, str) for part in text):
            return "tuple is not a text or a pair of texts"
    elif not isinstance(text, str):
        return f"{type(text).__name__} is not a text or a pair of texts"
    try:
        "".join(text).encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair, which is no character"
    return ""


def say_if_words_are_joined(tokenizer: ModelTokenizer) -> None:
    """Prints a line if the words of a list get other ids than in a text."""
    if not tokenizer.marks_words:
        say(
            "words of a list get no space before them, as in `transformers`; to change that, set add_prefix_space: in "
            "tokenizer_config.json for RobertaTokenizer, BartTokenizer and LongformerTokenizer, in tokenizer.json for "
            "other classes"
        )


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Texts as token ids. A text has one window, or several that overlap if it is long and there is a stride.

    Attributes:
      ids: int32[L] of each window, CLS first.
      places: int32[words] of each window: where the first piece of each word is, -1 for a word that
        the limit cut off or that has no piece; None for texts and pairs. A word belongs to one window.
      truncated: how many texts were cut at the limit.
      windows: how many each text has; they follow each other.
      types: int32[L] of each window, the token types: 1 for the second text of a pair; None: all are 0.
    """

    ids: list[np.ndarray]
    places: list[np.ndarray] | None
    truncated: int
    windows: list[int]
    types: list[np.ndarray] | None = None


class Encoder:
    """A tokenizer with a limit on the length, the ends [CLS] and [SEP] included. Pairs give up the longer first.

    With a `stride` texts over the limit have several windows, of which each shares that many tokens with the next.
    """

    def __init__(self, tokenizer: ModelTokenizer, length: int, stride: int = 0):
        room = length - tokenizer.backend.num_special_tokens_to_add(is_pair=False)
        if not 0 <= stride < max(1, room):
            raise InputError(f"stride={stride} must be from 0 to {room - 1}: a window has room for {room} tokens")
        self._stride = stride
        self._token_types = tokenizer.token_types
        self._backend = Tokenizer.from_str(tokenizer.backend.to_str())
        self._backend.no_padding()
        self._backend.enable_truncation(length, stride=stride, strategy="longest_first")

    def __call__(self, texts: Sequence[Text]) -> Encoded:
        """Encodes on all cores; all texts of a call are of one kind. Pairs have no stride."""
        words = bool(texts) and isinstance(texts[0], list)
        encode = self._backend.encode_batch if words else self._backend.encode_batch_fast
        found = encode(list(texts), is_pretokenized=words)
        windows = [[encoding, *(encoding.overflowing if self._stride else [])] for encoding in found]
        ids = [np.array(window.ids, np.int32) for group in windows for window in group]
        places = [p for group, text in zip(windows, texts) for p in _places(group, len(text))] if words else None
        truncated = 0 if self._stride else sum(bool(encoding.overflowing) for encoding in found)
        types = None
        if self._token_types and texts and isinstance(texts[0], tuple):
            types = [np.array(window.type_ids, np.int32) for group in windows for window in group]
            types = types if any(x.any() for x in types) else None
        return Encoded(ids, places, truncated, [len(group) for group in windows], types)


def _places(windows: list[Encoding], words: int) -> list[np.ndarray]:
    """int32[words] of each window: the places of the words that stand farther from its edges than in other windows.

    A word without a place belongs to the window of the word before it, so that windows have words in their order.
    """
    window_W, place_W, room_W = np.zeros(words, int), np.full(words, -1, np.int32), np.full(words, -1)
    for i, window in enumerate(windows):
        found_W = _first_pieces(window.word_ids, words)
        found_room_W = np.where(found_W < 0, -1, np.minimum(found_W, len(window.ids) - 1 - found_W))
        farther_W = found_room_W > room_W
        window_W[farther_W], place_W[farther_W], room_W[farther_W] = i, found_W[farther_W], found_room_W[farther_W]
    window_W = np.maximum.accumulate(window_W)
    return [place_W[window_W == i] for i in range(len(windows))]


def _first_pieces(word_ids: list[int | None], words: int) -> np.ndarray:
    places = np.full(words, -1, np.int32)
    for place, word in reversed(list(enumerate(word_ids))):
        if word is not None:
            places[word] = place
    return places
