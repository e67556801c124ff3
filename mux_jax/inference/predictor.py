"""Predictions of a fine-tuned model for any number of texts, from Python or from file to file."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.special
from tokenizers import Tokenizer

from mux_jax.data.encoding import Encoder, Text
from mux_jax.data.rows import lengths_up_to
from mux_jax.data.tokenizer import special_tokens
from mux_jax.errors import InputError
from mux_jax.inference.classifier import Classifier, decide
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.pretrained import Pretrained, find
from mux_jax.progress import say
from mux_jax.training.mesh import make_mesh


class Predictor:
    """A fine-tuned model, on all devices of this host.

        predictor = mux_jax.Predictor("runs/finetuned_sst2")
        predictor.predict(["A fine film.", "Dull."])

    Texts of like length share rows, drawn from `seed`; a prediction depends a little on which do.
    """

    def __init__(self, path: str, *, rows: int = 32, ensemble: int = 1, seed: int = 0):
        """Args:
          path: a fine-tuned run's folder, a Hugging Face folder, or an id of its hub.
          rows: multiplexed rows of a batch.
          ensemble: slots that each text is put in, from 1 to the width; their logits are averaged.

        Raises:
          InputError: no such model, or one without a classification head.
        """
        found = find(path)
        _check(found.config, rows, ensemble, f"{found.folder}: ")
        mesh = make_mesh(devices=jax.local_devices())
        tokenizer, lengths = found.tokenizer(), row_lengths(found)
        self._start(MuxModel(found.config), found.params(mesh), tokenizer, lengths, rows, ensemble, seed)
        self.text_columns = _text_columns(found)
        self._from_elsewhere = found.task is None and found.config.width == 1

    @classmethod
    def from_model(
        cls,
        model: MuxModel,
        params: Any,
        tokenizer: Tokenizer,
        lengths: tuple[int, ...],
        *,
        rows: int = 32,
        ensemble: int = 1,
        seed: int = 0,
    ) -> "Predictor":
        """A predictor of a model that is in memory.

        Args:
          params: as `mux_jax.load_pretrained` gives them; the predictor runs on the mesh they lie on.
          lengths: those that rows may have, ascending.

        Raises:
          InputError: a model without a classification head.
        """
        _check(model.config, rows, ensemble)
        predictor = cls.__new__(cls)
        predictor._start(model, params, tokenizer, lengths, rows, ensemble, seed)
        predictor.text_columns = ("words",) if model.config.head == "token" else ("text",)
        return predictor

    def _start(
        self,
        model: MuxModel,
        params: Any,
        tokenizer: Tokenizer,
        lengths: tuple[int, ...],
        rows: int,
        ensemble: int,
        seed: int,
    ) -> None:
        self.config = model.config
        self._encode = Encoder(tokenizer, lengths[-1])
        mesh = jax.tree.leaves(params)[0].sharding.mesh
        self._classify = Classifier(model, mesh, rows, lengths, special_tokens(tokenizer).pad)
        self._params = split_layers(params)
        self._ensemble, self._seed = ensemble, seed
        self._from_elsewhere = False
        self.truncated = 0  # texts that were longer than the limit, over all calls

    def predict(self, texts: Sequence[Text], report: Callable[[float], None] | None = None) -> list[dict[str, Any]]:
        """Predictions in the order of the texts.

        Args:
          texts: strings; pairs of them as tuples, for a task on pairs; for token classification
            strings, split at spaces, or lists of words.
          report: called with the fraction that is done.

        Returns:
          For each text `label` and `probabilities` by label; `score` of a regression; for token
          classification `words` and `tags`, None for words beyond the length limit.

        Raises:
          InputError: a text instead of several, or something that is no text, by its index.
        """
        if isinstance(texts, str):
            raise InputError("predict takes a list of texts; for one text predict([text])")
        texts = list(texts)
        if self.config.head == "token":
            texts = [text.split() if isinstance(text, str) else text for text in texts]
        for i, text in enumerate(texts):
            problem = self.problem(text)
            if problem:
                raise InputError(f"texts[{i}]: {problem}")
        # Pairs and texts are encoded apart; both may be in one call.
        kinds = [isinstance(text, tuple) for text in texts]
        if self._from_elsewhere and any(kinds):
            say("pairs: token types are 0 for both texts; a model fine-tuned with 1 for the second is worse so")
            self._from_elsewhere = False
        predictions: list[Any] = [None] * len(texts)
        for kind in sorted(set(kinds)):
            places = [i for i, k in enumerate(kinds) if k == kind]
            found = self._predict([texts[i] for i in places], report)
            for i, prediction in zip(places, found):
                predictions[i] = prediction
        return predictions

    def problem(self, text: Any) -> str:
        """What keeps a text from being predicted on, or nothing."""
        if self.config.head == "token":
            if not isinstance(text, list) or not all(isinstance(word, str) for word in text):
                return f"{type(text).__name__} is not a text or a list of words"
            return "" if text else "a sentence of zero words"
        if isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, str) for part in text):
            return ""
        return "" if isinstance(text, str) else f"{type(text).__name__} is not a text or a pair of texts"

    def _predict(self, texts: list[Text], report: Callable[[float], None] | None) -> list[dict[str, Any]]:
        encoded = self._encode(texts)
        self.truncated += encoded.truncated
        rng = np.random.default_rng(self._seed)
        logits = self._classify(self._params, encoded, rng, self._ensemble, report)
        labels = self.config.labels
        decisions = decide(logits, labels, self.config.head == "token")
        if self.config.head == "token":
            return [{"words": words, "tags": tags} for words, tags in zip(texts, decisions)]
        if len(labels) == 1:
            return [{"score": score} for score in decisions]
        probabilities = scipy.special.softmax(np.array(logits, float), axis=-1).tolist()
        return [{"label": label, "probabilities": dict(zip(labels, p))} for label, p in zip(decisions, probabilities)]


def _check(config: ModelConfig, rows: int, ensemble: int, where: str = "") -> None:
    if config.head not in ("sequence", "token"):
        raise InputError(
            f"{where}the model has the head {config.head!r}; one for `sequence` or `token` classification is "
            "needed, from launch/finetune.py"
        )
    if not 1 <= ensemble <= config.width:
        raise InputError(f"ensemble={ensemble} must be from 1 to the model's width {config.width}")
    if rows < 1:
        raise InputError(f"rows={rows} must be at least 1")


def row_lengths(found: Pretrained) -> tuple[int, ...]:
    """The lengths of rows that a model was fine-tuned with, ascending.

    A multiplexed model from elsewhere gets rows of 128, to which the released ones are padded, and that
    is printed; an ordinary one is masked and does not see padding.
    """
    if found.task:
        return tuple(found.task["lengths"])
    room = found.config.max_position_embeddings - found.config.prefix_length
    if found.config.width > 1:
        length = min(128, room)
        say(f"{found.folder} does not say how long its rows were; taken to be {length} tokens, as in released models")
        return (length,)
    return lengths_up_to(room)


def _text_columns(found: Pretrained) -> tuple[str, ...]:
    """The columns of the texts in the files that the model was fine-tuned on."""
    if found.task:
        return tuple(found.task["text_columns"])
    return ("words",) if found.config.head == "token" else ("text",)


def batched(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
