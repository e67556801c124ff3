"""Predictions of a fine-tuned model for any number of texts."""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from mux_jax.checkpoints.source import open_model
from mux_jax.data.encoding import Encoder, Text, say_if_words_are_joined, split_words
from mux_jax.data.tokenizer import ModelTokenizer
from mux_jax.errors import InputError
from mux_jax.inference.batch_runner import BatchRunner, join_windows, labels_from_logits, probabilities
from mux_jax.inference.spans import find_spans, require_tags
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A fine-tuned model in memory.

    Attributes:
      model: with a head for `sequence` or `token` classification.
      params: as `mux_jax.load_pretrained` gives them; predictions run on the mesh they lie on.
      tokenizer: the model's.
      bucket_lengths: the lengths that rows may have, ascending.
      text_columns: the columns of the texts in files.
    """

    model: MuxModel
    params: Any
    tokenizer: ModelTokenizer
    bucket_lengths: tuple[int, ...]
    text_columns: tuple[str, ...] = ("text",)


def _load(path: str, rows: int, ensemble: int, threshold: float) -> tuple[str, LoadedModel]:
    """The model at `path`, on all devices of this host, and how to find it again from any folder."""
    found = open_model(path)
    _check(found.config, rows, ensemble, threshold, f"{found.folder}: ")
    tokenizer, lengths = found.tokenizer(), found.bucket_lengths()
    if found.config.head == "token":
        say_if_words_are_joined(tokenizer)
    params = found.params(make_mesh(devices=jax.local_devices()))
    loaded = LoadedModel(MuxModel(found.config), params, tokenizer, lengths, found.text_columns())
    return found.address, loaded


class Predictor:
    """A fine-tuned model, on all devices of this host.

        predictor = mux_jax.Predictor("runs/finetuned_sst2")
        predictor.predict(["A fine film.", "Dull."])

    Texts of similar length share rows, drawn from `seed`; a prediction depends a little on which do.

    Threads may share a predictor. Processes may not: JAX does not survive a fork, and `predict` says so instead of
    hanging. Give them the path, or the predictor itself, which pickles to its path and options and is loaded anew:

        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(2, context, initializer=load, initargs=(path,)) as pool: ...

    Attributes:
      config: the model's.
      text_columns: the columns of the texts in the files that the model was fine-tuned on.
      truncated: texts that were cut at the limit, over all calls.
    """

    def __init__(
        self,
        model: str | LoadedModel,
        *,
        rows: int = 32,
        ensemble: int = 1,
        seed: int = 0,
        stride: int = 0,
        threshold: float = 0.5,
    ):
        """Args:
          model: a fine-tuned run's folder, a Hugging Face folder, an id of its hub, or a model in memory.
          rows: multiplexed rows of a batch.
          ensemble: slots that each text is put in, from 1 to the width N; their logits are averaged.
          seed: of the draws of which texts share a row.
          stride: tokens that the windows share in which a text over the limit is predicted on; with 0 it is cut. Logits
            are averaged over windows; a word has those of the window in which it stands farthest from the edges.
          threshold: of a model with several labels a text: the probability from which on a text has a label.

        Raises:
          InputError: no such model, or one without a classification head; a stride not smaller than the limit; a
            threshold not between 0 and 1, or of a model with one label a text.
        """
        options = dict(rows=rows, ensemble=ensemble, seed=seed, stride=stride, threshold=threshold)
        self._made_by: dict[str, Any] = options
        self._path, self._process, self._lock = None, os.getpid(), threading.Lock()
        if isinstance(model, str):
            self._path, loaded = _load(model, rows, ensemble, threshold)
        else:
            loaded = model
        self.config, self.text_columns, self.truncated = loaded.model.config, loaded.text_columns, 0
        _check(self.config, rows, ensemble, threshold)
        lengths, pad_id = loaded.bucket_lengths, loaded.tokenizer.special.pad
        mesh = jax.tree.leaves(loaded.params)[0].sharding.mesh
        self._encode = Encoder(loaded.tokenizer, lengths[-1])
        self._encode_windows = Encoder(loaded.tokenizer, lengths[-1], stride) if stride else None
        self._runner = BatchRunner(loaded.model, mesh, rows, lengths, pad_id)
        self._params = split_layers(loaded.params)
        self._ensemble, self._seed, self._threshold = ensemble, seed, threshold

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle keeps: the path, with the commit of a model of the hub, and the options."""
        if self._path is None:
            raise TypeError("a Predictor of a model in memory cannot be pickled; save it, and make one of its path")
        return functools.partial(Predictor, **self._made_by), (self._path,)

    def predict(
        self, texts: Iterable[Text], report: Callable[[float], None] | None = None, spans: bool = False
    ) -> list[dict[str, Any]]:
        """Predictions in the order of the texts.

        Args:
          texts: strings; pairs of them as tuples, for a task on pairs; for token classification
            strings, split at spaces (not at no-break spaces), or lists of words.
          report: called with the fraction that is done.
          spans: whether token classification gives `spans`, too (see `find_spans`).

        Returns:
          For each text `label` and `probabilities` by label; where a text may have several labels, `labels`, those
          whose probability reaches the threshold; `score` of a regression; for token classification `words` and `tags`,
          None for words beyond the length limit.

        Raises:
          InputError: a text, a dictionary or a set instead of a list; something that is no text, by its index; a
            process that was forked.
        """
        if os.getpid() != self._process:
            raise InputError(
                "this process was forked from the one that made the Predictor, and JAX does not work in it; make the "
                'Predictor in the worker, and start workers by multiprocessing.get_context("spawn")'
            )
        one_dimension = isinstance(texts, Iterable) and getattr(texts, "ndim", 1) == 1  # a DataFrame has its columns
        if not one_dimension or isinstance(texts, str | bytes | bytearray | Mapping | set | frozenset):
            raise InputError(f"predict takes a list of texts, not {type(texts).__name__}; for one text predict([text])")
        if spans:
            require_tags(self.config)
        texts = list(texts)
        for i, text in enumerate(texts):
            problem = self.problem(text)
            if problem:
                raise InputError(f"texts[{i}]: {problem}")
        # Pairs and texts are encoded apart; both may be in one call.
        kinds = [isinstance(text, tuple) for text in texts]
        predictions: list[Any] = [None] * len(texts)
        for kind in sorted(set(kinds)):
            places = [i for i, k in enumerate(kinds) if k == kind]
            found = self._predict([texts[i] for i in places], report, spans)
            for i, prediction in zip(places, found):
                predictions[i] = prediction
        return predictions

    def problem(self, text: Any) -> str:
        """What keeps a text from being predicted on, or nothing."""
        if self.config.head == "token":
            text = split_words(text) if isinstance(text, str) else text
            if not isinstance(text, list) or not all(isinstance(word, str) for word in text):
                return f"{type(text).__name__} is not a text or a list of words"
            if not text:
                return "a sentence of zero words"
        elif isinstance(text, tuple):
            if len(text) != 2 or not all(isinstance(part, str) for part in text):
                return "tuple is not a text or a pair of texts"
        elif not isinstance(text, str):
            return f"{type(text).__name__} is not a text or a pair of texts"
        try:
            "".join(text).encode()
        except UnicodeEncodeError:
            return "half of a surrogate pair, which is no character"
        if self._encode_windows and isinstance(text, tuple) and self._encode([text]).truncated:
            return "a pair over the limit on the length; with a stride only single texts may be"
        return ""

    def _predict(self, given: list[Any], report: Callable[[float], None] | None, spans: bool) -> list[dict[str, Any]]:
        labels, words = self.config.labels, self.config.head == "token"
        texts = [split_words(text) if words and isinstance(text, str) else text for text in given]
        pairs = isinstance(texts[0], tuple)
        encoded = self._encode(texts) if pairs or not self._encode_windows else self._encode_windows(texts)
        with self._lock:
            self.truncated += encoded.truncated
        rng = np.random.default_rng(self._seed)
        logits = self._runner(self._params, encoded, rng, self._ensemble, report)
        logits = join_windows(logits, encoded.windows, words)
        decisions = labels_from_logits(logits, self.config, self._threshold)
        if words:
            found = [{"words": text, "tags": tags} for text, tags in zip(texts, decisions)]
            if spans:
                found = [f | {"spans": find_spans(text, x, labels)} for f, text, x in zip(found, given, logits)]
            return found
        if len(labels) == 1:
            return [{"score": score} for score in decisions]
        name = "labels" if self.config.multi_label else "label"
        shares = probabilities(logits, self.config).tolist()
        return [{name: found, "probabilities": dict(zip(labels, p))} for found, p in zip(decisions, shares)]


def _check(config: ModelConfig, rows: int, ensemble: int, threshold: float, where: str = "") -> None:
    if config.head not in ("sequence", "token"):
        raise InputError(
            f"{where}the model has the head {config.head!r}; one for `sequence` or `token` classification is "
            "needed, from launch/finetune.py"
        )
    if not 1 <= ensemble <= config.width:
        raise InputError(f"ensemble={ensemble} must be from 1 to the model's width {config.width}")
    if rows < 1:
        raise InputError(f"rows={rows} must be at least 1")
    if not 0 < threshold < 1:
        raise InputError(f"threshold={threshold} must be between 0 and 1")
    if threshold != 0.5 and not config.multi_label:
        raise InputError(f"{where}threshold={threshold} is of models with several labels a text; this one has none")
