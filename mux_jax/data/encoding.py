"""Texts, pairs and word lists become token ids, and words are found again in them."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

Text = str | tuple[str, str] | list[str]  # a text, a pair of texts, or the words of a sentence


def split_words(text: str) -> list[str]:
    """The words of a text, which spaces, tabs and ends of lines separate; no-break spaces do not."""
    return re.findall(r"[^ \t\r\n]+", text)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Texts as token ids.

    Attributes:
      ids: int32[L] of each text, CLS first.
      places: int32[words] of each sentence: where the first piece of each word is, -1 for a word that
        the limit cut off or that has no piece; None for texts and pairs.
      truncated: how many texts were longer than the limit.
    """

    ids: list[np.ndarray]
    places: list[np.ndarray] | None
    truncated: int


class Encoder:
    """A tokenizer with a limit on the length, the ends [CLS] and [SEP] included. Pairs give up the longer first."""

    def __init__(self, tokenizer: Tokenizer, length: int):
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length, strategy="longest_first")

    def __call__(self, texts: Sequence[Text]) -> Encoded:
        """Encodes on all cores; all texts of a call are of one kind."""
        words = bool(texts) and isinstance(texts[0], list)
        encode = self._tokenizer.encode_batch if words else self._tokenizer.encode_batch_fast
        found = encode(list(texts), is_pretokenized=words)
        ids = [np.array(encoding.ids, np.int32) for encoding in found]
        places = [_first_pieces(e.word_ids, len(text)) for e, text in zip(found, texts)] if words else None
        return Encoded(ids, places, sum(bool(encoding.overflowing) for encoding in found))


def _first_pieces(word_ids: list[int | None], words: int) -> np.ndarray:
    places = np.full(words, -1, np.int32)
    for place, word in reversed(list(enumerate(word_ids))):
        if word is not None:
            places[word] = place
    return places
