"""Spans of words with tags of one name, as token-classification pipelines of Hugging Face group them (`simple`)."""

import itertools
import re
from typing import Any

import numpy as np
import scipy.special

from mux_jax.data.encoding import WORD
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig


def require_tags(config: ModelConfig) -> None:
    """Raises `InputError` if a model does not tag words."""
    if config.head != "token":
        raise InputError("spans are of models that tag words; this one has a label for a text")


def find_spans(text: str | list[str], logits_WC: np.ndarray, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """The spans of a text: `label`, `start`, `end` and `text`, and the mean of the probabilities of the words' tags.

    A tag `B-` begins a span, and so does one with another name than the word before has; `O` is in none. Words without
    logits are passed over. The places are those in the text, or in the words with single spaces between them.
    """
    if isinstance(text, str):
        places = [match.span() for match in re.finditer(WORD, text)]
    else:
        starts = itertools.accumulate((len(word) + 1 for word in text), initial=0)
        places = [(start, start + len(word)) for start, word in zip(starts, text)]
        text = " ".join(text)
    spans: list[dict[str, Any]] = []
    last = "O"
    for (start, end), probabilities_C in zip(places, scipy.special.softmax(logits_WC.astype(float), axis=-1)):
        if np.isnan(probabilities_C[0]):
            continue
        tag, score = labels[probabilities_C.argmax()], float(probabilities_C.max())
        name = tag[2:] if tag.startswith(("B-", "I-")) else tag
        if name != "O" and (name != last or tag.startswith("B-")):
            spans.append({"label": name, "start": start, "end": end, "text": "", "score": [score]})
        elif name != "O":
            spans[-1]["end"] = end
            spans[-1]["score"].append(score)
        last = name
    for span in spans:
        span |= {"text": text[span["start"] : span["end"]], "score": float(np.mean(span["score"]))}
    return spans
