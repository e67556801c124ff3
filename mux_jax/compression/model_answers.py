"""A model's answers to texts."""

import dataclasses
from typing import Any

import jax
import numpy as np

from mux_jax.checkpoints.source import ModelSource
from mux_jax.data.encoding import Encoder, Text
from mux_jax.inference.batch_runner import BatchRunner, labels_from_logits
from mux_jax.inference.deferral import sure_logits
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel

_ROWS, _THRESHOLD = 32, 0.5


class ModelAnswers:
    """What a model says of texts: logits, and answers by name.

    Attributes:
      config: the model's.
      address: where it is.
    """

    def __init__(self, found: ModelSource, params: Any, encoder: Encoder, pad_id: int, dtype: str):
        """dtype: of matrix products."""
        mesh = jax.tree.leaves(params)[0].sharding.mesh
        self.config, self.address = dataclasses.replace(found.config, dtype=dtype), found.address
        self._runner = BatchRunner(MuxModel(self.config), mesh, _ROWS, found.bucket_lengths(), pad_id)
        self._params, self._encoder = split_layers(params, dtype), encoder

    def logits(self, texts: list[Text], seed: list[int]) -> list[np.ndarray]:
        """float32 [C] of each text, [words, C] of tags, in the composition of a seed."""
        return self._runner(self._params, self._encoder(texts), np.random.default_rng(seed), copies=False)

    def sure_logits(
        self, texts: list[Text], seed: int, temperature: float = 1.0
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Logits, and how sure the model is of each text: see `deferral`."""
        return sure_logits(lambda composition: self.logits(texts, [seed, composition]), self.config, temperature)

    def named(self, logits: list[np.ndarray]) -> list[Any]:
        """Answers by name."""
        return labels_from_logits(logits, self.config, _THRESHOLD)
