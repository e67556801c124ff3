"""Logits as clients of text-embeddings-inference and of Hugging Face's pipelines know them."""

import re
from typing import Any

import numpy as np

from mux_jax.data.encoding import WORD
from mux_jax.inference.batch_runner import labels_from_logits, probabilities
from mux_jax.inference.spans import find_spans
from mux_jax.models.config import ModelConfig


def labels(config: ModelConfig, logits: np.ndarray, raw: bool) -> list[dict[str, Any]]:
    """Labels with their probabilities, or logits if they are wanted `raw`; the best first."""
    single = len(config.labels) == 1
    scores = logits if raw or single else probabilities([logits], config)[0]
    pairs = [{"label": label, "score": float(score)} for label, score in zip(config.labels, scores)]
    return sorted(pairs, key=lambda pair: -pair["score"])


def tags(config: ModelConfig, text: str, logits: np.ndarray, spans: bool) -> list[dict[str, Any]]:
    """Words or spans with their tags, scores and places in the text, as in Hugging Face's pipeline."""
    if spans:
        found_spans = find_spans(text, logits, config.labels)
        places = {"start", "end", "score"}
        return [
            {"entity_group": span["label"], "word": span["text"]} | {name: span[name] for name in places}
            for span in found_spans
        ]
    (named,) = labels_from_logits([logits], config, 0.5)
    words = enumerate(zip(named, probabilities(list(logits), config), re.finditer(WORD, text)), start=1)
    return [
        {"entity": tag, "score": float(p.max()), "index": i, "word": word[0], "start": word.start(), "end": word.end()}
        for i, (tag, p, word) in words
        if tag is not None  # beyond the limit
    ]


def relevance(logits: list[np.ndarray], raw: bool) -> np.ndarray:
    """One number a pair: the model's own, or the log-odds of the second of two labels; as a probability, unless raw."""
    x = np.array(logits, float)
    scores = x[:, 0] if x.shape[1] == 1 else x[:, 1] - x[:, 0]
    return scores if raw else 1 / (1 + np.exp(-scores))
