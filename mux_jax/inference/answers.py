"""What `Predictor.predict` gives for a text: its label, labels, number or tags, out of logits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mux_jax.data.encoding import split_words
from mux_jax.errors import InputError
from mux_jax.inference.batch_runner import labels_from_logits, probabilities
from mux_jax.inference.spans import find_spans
from mux_jax.models.config import ModelConfig


def check_embedding(
    config: ModelConfig, prompts: Mapping[str, str], prompt: str | None, dimensions: int | None
) -> None:
    """Raises `InputError` if a model gives no embeddings, or not with this prompt or so many dimensions."""
    if config.head != "embedding":
        raise InputError("this model gives no embeddings; predict(texts) gives what it does")
    if prompt and prompt not in prompts:
        known = ", ".join(filter(None, prompts)) or "none"
        raise InputError(f"prompt={prompt} does not exist; the model's prompts are: {known}")
    if dimensions is not None and not 1 <= dimensions <= config.dimensions:
        raise InputError(f"dimensions={dimensions} must be from 1 to {config.dimensions}, those of the model")


def predictions(
    texts: list[Any], logits: list[np.ndarray], config: ModelConfig, threshold: float, spans: bool
) -> list[dict[str, Any]]:
    """A dictionary for each text, as `Predictor.predict` describes it.

    Args:
      texts: that it has checked.
      threshold: see `labels_from_logits`.
      spans: whether words with tags get spans, too.
    """
    if not texts:
        return []
    labels, decisions = config.labels, labels_from_logits(logits, config, threshold)
    if config.head == "token":
        words = [split_words(text) if isinstance(text, str) else text for text in texts]
        found = [{"words": text, "tags": tags} for text, tags in zip(words, decisions)]
        if spans:
            found = [f | {"spans": find_spans(text, x, labels)} for f, text, x in zip(found, texts, logits)]
        return found
    if len(labels) == 1:
        return [{"score": score} for score in decisions]
    name = "labels" if config.multi_label else "label"
    shares = probabilities(logits, config).tolist()
    return [{name: found, "probabilities": dict(zip(labels, p))} for found, p in zip(decisions, shares)]
