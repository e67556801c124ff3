"""A model's answers to texts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mux_jax.checkpoints.source import ModelSource
from mux_jax.data.encoding import Encoder, Text
from mux_jax.data.neighbours import cosines
from mux_jax.inference.batch_runner import BatchRunner, labels_from_logits
from mux_jax.inference.deferral import sure_logits
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel

_ROWS, _THRESHOLD = 32, 0.5


def answers(config: ModelConfig, run: Callable[[list[Any]], list[np.ndarray]], texts: list[Any]) -> list[Any]:
    """Answers by name to texts; of an embedding model embeddings, and to pairs of texts the cosine of each.

    run: gives the logits of texts.
    """
    if config.head != "embedding" or not texts or isinstance(texts[0], str):
        return labels_from_logits(run(texts), config, _THRESHOLD)
    return cosines(run([text for pair in texts for text in pair]))


class ModelAnswers:
    """What a model says of texts: logits or embeddings, and answers by name.

    Attributes:
      config: the model's.
      address: where it is.
    """

    def __init__(self, found: ModelSource, params: Any, encoder: Encoder, pad_id: int, dtype: str):
        """dtype: of matrix products."""
        mesh = jax.tree.leaves(params)[0].sharding.mesh
        self.config, self.address = dataclasses.replace(found.config, dtype=dtype), found.address
        self._runner, self._single = (
            BatchRunner(MuxModel(self.config), mesh, rows, found.bucket_lengths(), pad_id) for rows in (_ROWS, 1)
        )
        self._params, self._encoder = split_layers(params, dtype), encoder

    def logits(self, texts: list[Text], seed: list[int], slots: int = 1) -> list[np.ndarray]:
        """float32 [C] of each text, [words, C] of tags, [E] of embeddings, in the composition of a seed.

        slots: that each text is in; logits are their mean.
        """
        encoded, rng = self._encoder(texts), np.random.default_rng(seed)
        return self._runner(self._params, encoded, rng, slots, copies=False)

    def alone(self, texts: list[Text]) -> list[np.ndarray]:
        """Logits of each text in a row of its own copies."""
        rng = np.random.default_rng(0)
        return [self._single(self._params, self._encoder([text]), rng)[0] for text in texts]

    def answers(self, texts: list[Any], seed: list[int], slots: int = 1) -> list[Any]:
        """Answers by name, see `answers`, in the composition of a seed."""
        return answers(self.config, lambda texts: self.logits(texts, seed, slots), texts)

    def sure_logits(
        self, texts: list[Text], seed: int, temperature: float = 1.0
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Logits, and how sure the model is of each text: see `deferral`."""
        return sure_logits(lambda composition: self.logits(texts, [seed, composition]), self.config, temperature)

    def named(self, logits: list[np.ndarray]) -> list[Any]:
        """Answers by name."""
        return labels_from_logits(logits, self.config, _THRESHOLD)
