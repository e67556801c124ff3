"""Predictions of a fine-tuned model for any number of texts."""

import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import jax
import numpy as np

from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.data.encoding import Encoder, Text, find_problem, split_words
from mux_jax.data.neighbours import unit
from mux_jax.errors import InputError
from mux_jax.inference.answers import check_embedding, predictions
from mux_jax.inference.batch_runner import BatchRunner, join_windows
from mux_jax.inference.deferral import (
    Deferral,
    check_labels,
    confidence,
    find_deferral,
    open_full,
    parse_aim,
    sure_logits,
)
from mux_jax.inference.loaded_model import LoadedModel, check, load
from mux_jax.inference.spans import require_tags
from mux_jax.models.encoder import split_layers


class Predictor:
    """A fine-tuned model, on all devices of this host.

        predictor = mux_jax.Predictor("runs/finetuned_sst2")
        predictor.predict(["A fine film.", "Dull."])

    Of an embedding model `embed` gives the embeddings. Texts of similar length share rows, drawn from `seed`; a
    prediction of a multiplexed model depends a little on which do.

    Threads may share a predictor. `close`, or a `with` block, lets go of its memory. Processes may not share it: JAX
    does not survive a fork, and `predict` says so instead of hanging. Give them the path, or the predictor itself: it
    pickles to its path and options, and is loaded anew:

        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(2, context, initializer=load, initargs=(path,)) as pool: ...

    Attributes:
      config: the model's.
      text_columns: the columns of the texts in the files that the model was fine-tuned on.
      prompts: of an embedding model: what may be put before texts, by name; "" is put there if none is named.
      truncated: texts that were cut at the limit, over all calls.
      deferred: texts that the full model was asked for, over all calls.
      models: the addresses of the model and of those that it asks, one after the other.
      encode, runner, params: what makes tokens of texts, runs the model on them, and its parameters.
      full: what answers texts that are deferred; None: none are.
    """

    def __init__(
        self,
        model: str | LoadedModel,
        *,
        rows: int = 32,
        ensemble: int = 1,
        alone: bool = False,
        seed: int = 0,
        stride: int = 0,
        threshold: float = 0.5,
        defer: str | float = "off",
        dtype: str = "auto",
    ):
        """Args:
          model: a fine-tuned run's folder, a Hugging Face folder, an id of its hub, or a model in memory.
          rows: multiplexed rows of a batch.
          ensemble: slots that each text is put in, from 1 to the width N; their logits are averaged.
          alone: whether each text has a row of its own, in all N slots: answers do not depend on other texts then, and
            N times the rows are run.
          seed: of the draws of which texts share a row.
          stride: tokens that the windows share in which a text over the limit is predicted on; with 0 it is cut. Logits
            are averaged over windows; a word has those of the window in which it stands farthest from the edges.
          threshold: of a model with several labels a text: the probability from which on a text has a label.
          defer: which texts the full model of a cheaper one answers: "off": none; "auto": what was chosen when the
            cheaper one was made; a share: about so many, those that it is least sure of; "agreement=0.99": as few as
            gave this agreement. A full model that is a cheaper one itself defers as "auto" does (see `deferral`).
            Thresholds were fitted without ensembles and windows, at a threshold of 0.5.
          dtype: of matrix products, float32 or bfloat16; auto: the model's own if its training was given one, else
            bfloat16, but float32 on CPUs without products of bfloat16. A model in memory has its own.

        Raises:
          InputError: no such model, or one without a classification head; a stride not smaller than the limit; a
            threshold not between 0 and 1, or of a model with one label a text; a model that does not say when to ask
            which other one, or one with other labels.
        """
        options: dict[str, Any] = dict(rows=rows, ensemble=ensemble, alone=alone, seed=seed, stride=stride)
        options |= dict(threshold=threshold, defer=defer, dtype=dtype)
        aim = parse_aim(defer)
        self._made_by = options
        self._path, self._process, self._lock = None, os.getpid(), threading.Lock()
        deferral: Deferral | None = None
        if isinstance(model, str):
            found = open_model(model, takes_export=True)
            check(found.config, rows, ensemble, alone, threshold, f"{found.folder}: ")
            deferral = find_deferral(found) if aim.kind != "off" else None
            self._path, loaded = found.address, load(found, dtype)  # found again from any folder
        elif aim.kind != "off":
            raise InputError(f"defer={defer}: a model in memory does not say which to ask; give the path of one")
        else:
            loaded = model
        self.config, self.text_columns, self.truncated = loaded.model.config, loaded.text_columns, 0
        self.prompts = loaded.prompts
        check(self.config, rows, ensemble, alone, threshold)
        lengths, pad_id = loaded.bucket_lengths, loaded.tokenizer.special.pad
        mesh = None if loaded.program else jax.tree.leaves(loaded.params)[0].sharding.mesh
        self.encode = Encoder(loaded.tokenizer, lengths[-1])
        self._encode_windows = Encoder(loaded.tokenizer, lengths[-1], stride) if stride else None
        self.runner = BatchRunner(loaded.model, mesh, rows, lengths, pad_id, loaded.program)
        self.params = loaded.params and split_layers(loaded.params, self.config.compute_dtype)
        self._ensemble, self._alone, self.seed, self._threshold = ensemble, alone, seed, threshold
        self.deferred, self._closed = 0, False
        self.models: tuple[str, ...] = (self._path or "",)
        self.full: Predictor | None = None
        if deferral:
            if alone and self.config.task_kind == "regression":
                raise InputError(f"defer={defer}: a number is unsure where its row-mates change it; alone has none")
            self.full = full_predictor(deferral, found, rows, seed, stride, dtype, alone)
            self._places = check_labels(self.config, self.full.config, deferral.full)
            self._share, self._temperature = deferral.share_for(aim), deferral.temperature
            self._limit = deferral.threshold(self._share)
            self.models += self.full.models

    def close(self) -> None:
        """Lets go of the model's memory; it predicts no more."""
        self.params, self._closed = None, True
        if self.full:
            self.full.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle keeps: the path, with the commit of a model of the hub, and the options."""
        if self._path is None:
            raise TypeError("a Predictor of a model in memory cannot be pickled; save it, and make one of its path")
        return functools.partial(Predictor, **self._made_by), (self._path,)

    def predict(
        self,
        texts: Iterable[Text],
        report: Callable[[float], None] | None = None,
        spans: bool = False,
        keep_model: bool = False,
    ) -> list[dict[str, Any]]:
        """Predictions in the order of the texts.

        Args:
          texts: strings; pairs of them as tuples, for a task on pairs; for token classification
            strings, split at spaces (not at no-break spaces), or lists of words.
          report: called with the fraction that is done.
          spans: whether token classification gives `spans`, too (see `find_spans`).
          keep_model: whether each prediction says in `answered_by` which of `models` gave it.

        Returns:
          For each text `label` and `probabilities` by label; where a text may have several labels, `labels`, those
          whose probability reaches the threshold; `score` of a regression; for token classification `words` and `tags`,
          None for words beyond the length limit.

        Raises:
          InputError: a text, a dictionary or a set instead of a list; something that is no text, by its index; a
            process that was forked.
        """
        if spans:
            require_tags(self.config)
        if self.config.head == "embedding":
            raise InputError("this model gives embeddings, and nothing to predict: embed(texts)")
        texts = self.checked(texts)
        logits, by = self._answer(texts, report)
        found = predictions(texts, logits, self.config, self._threshold, spans)
        return [f | {"answered_by": self.models[i]} for f, i in zip(found, by)] if keep_model else found

    def embed(
        self,
        texts: Iterable[str],
        prompt: str | None = None,
        dimensions: int | None = None,
        report: Callable[[float], None] | None = None,
    ) -> np.ndarray:
        """Embeddings in the order of the texts, float32 [texts, E].

        Args:
          texts: strings. One over the limit is cut, and counted in `truncated`.
          prompt: the name of one of `prompts`, whose text is put before each; None: the model's default, if it has one.
          dimensions: only so many first ones, made of length 1 again (Matryoshka; arXiv 2205.13147); None: all.
          report: called with the fraction that is done.

        Raises:
          InputError: a model of another kind, no such prompt, more dimensions than there are; as `predict`.
        """
        self.check_embedding(prompt, dimensions)
        before = self.prompts.get(prompt or "", "")
        found = self._own([f"{before}{text}" for text in self.checked(texts)], 0, report)
        embeddings = np.stack(found) if found else np.zeros((0, self.config.dimensions), np.float32)
        # The mean over slots is shorter than what it is of.
        return unit(embeddings[:, :dimensions]) if dimensions or self.config.normalize else embeddings

    def check_embedding(self, prompt: str | None, dimensions: int | None) -> None:
        """Raises what `embed` raises for its options."""
        check_embedding(self.config, self.prompts, prompt, dimensions)
        if self._encode_windows:
            raise InputError("stride is for predictions; a text over the limit is cut to be embedded")

    def logits(self, texts: Iterable[Text], report: Callable[[float], None] | None = None) -> list[np.ndarray]:
        """The logits that `predict` decides by, float32 [C] of each text; of tags [words, C], NaN for words beyond the
        limit. Arguments and errors are those of `predict`."""
        return self._answer(self.checked(texts), report)[0]

    def checked(self, texts: Iterable[Text]) -> list[Text]:
        """The texts as a list, if `predict` takes them; else it raises what `predict` raises."""
        if os.getpid() != self._process:
            raise InputError(
                "this process was forked from the one that made the Predictor, and JAX does not work in it; make the "
                'Predictor in the worker, and start workers by multiprocessing.get_context("spawn")'
            )
        if self._closed:
            raise InputError("this Predictor is closed; make another")
        one_dimension = isinstance(texts, Iterable) and getattr(texts, "ndim", 1) == 1  # a DataFrame has its columns
        if not one_dimension or isinstance(texts, str | bytes | bytearray | Mapping | set | frozenset):
            raise InputError(f"predict takes a list of texts, not {type(texts).__name__}; for one text predict([text])")
        texts = list(texts)
        for i, text in enumerate(texts):
            problem = self.problem(text)
            if problem:
                raise InputError(f"texts[{i}]: {problem}")
        return texts

    def problem(self, text: Any) -> str:
        """What keeps a text from being predicted on, or nothing."""
        if found := find_problem(text, self.config.head):
            return found
        if self._encode_windows and isinstance(text, tuple) and self.encode([text]).truncated:
            return "a pair over the limit on the length; with a stride only single texts may be"
        return ""

    def _answer(self, texts: list[Any], report: Callable[[float], None] | None) -> tuple[list[np.ndarray], np.ndarray]:
        """The logits of each text, and the place in `models` of the one that gave them."""
        by = np.zeros(len(texts), int)
        if self.full is None:
            return self._own(texts, 0, report), by
        first = 1 / (1 + self._share)  # of the progress, whatever the models' speeds

        def show(start: float, end: float) -> Callable[[float], None]:
            return lambda fraction: report(start + fraction * (end - start)) if report else None

        logits, sure = self.sure_logits(texts, self._temperature, show(0, first))
        unsure = np.flatnonzero(sure < self._limit)
        with self._lock:
            self.deferred += len(unsure)
        found, asked = self.full._answer([texts[i] for i in unsure], show(first, 1))
        for i, full, model in zip(unsure, found, asked):
            logits[i], by[i] = self.merged(logits[i], full), model + 1
        return logits, by

    def unsure(self, logits: list[np.ndarray]) -> np.ndarray:
        """Which texts the full model is to answer, by this one's logits of them: int [texts deferred].

        Not for numbers, which are unsure where two compositions differ.
        """
        return np.flatnonzero(confidence(logits, self.config, self._temperature, self._threshold) < self._limit)

    def merged(self, own: np.ndarray, full: np.ndarray) -> np.ndarray:
        """The logits of a text that the full model was asked for; this one's of words that it has none of."""
        full = full[..., self._places]
        return np.where(np.isnan(full), own, full)

    def sure_logits(
        self, texts: list[Any], temperature: float = 1.0, report: Callable[[float], None] | None = None
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """This model's logits, whatever it defers, and how sure it is of each text: see `deferral`.

        Args:
          texts: that `checked` has passed.
        """
        copies = self.config.task_kind != "regression"  # the mean of a number's copies would seem sure

        def run(composition: int) -> list[np.ndarray]:
            return self._own(texts, composition, report, copies)

        return sure_logits(run, self.config, temperature, self._threshold)

    def _own(
        self, texts: list[Any], composition: int, report: Callable[[float], None] | None, copies: bool = True
    ) -> list[np.ndarray]:
        """The logits of this model, in a composition; see `BatchRunner` for `copies`."""
        found: list[Any] = [None] * len(texts)
        # Pairs and texts are encoded apart; both may be in one call.
        kinds = [isinstance(text, tuple) for text in texts]
        for pairs in sorted(set(kinds)):
            places = [i for i, kind in enumerate(kinds) if kind == pairs]
            part = [split_words(x) if self._words and isinstance(x, str) else x for x in (texts[i] for i in places)]
            encode = self._encode_windows if self._encode_windows and not pairs else self.encode
            encoded = encode(part)
            if not composition:
                with self._lock:
                    self.truncated += encoded.truncated
            rng = np.random.default_rng([self.seed, composition] if composition else self.seed)
            logits = self.runner(self.params, encoded, rng, self._ensemble, report, copies, self._alone)
            for i, x in zip(places, join_windows(logits, encoded.windows, self._words)):
                found[i] = x
        return found

    @property
    def _words(self) -> bool:
        return self.config.head == "token"


def full_predictor(
    deferral: Deferral,
    found: ModelSource,
    rows: int,
    seed: int = 0,
    stride: int = 0,
    dtype: str = "auto",
    alone: bool = False,
) -> Predictor:
    """The model that `found` defers to, which itself defers to another if it has one.

    Raises:
      InputError: it is not there, or has other labels.
    """
    full = open_full(deferral, found.folder)
    check_labels(found.config, full.config, deferral.full)
    defer = "auto" if Deferral.load(full.folder) else "off"
    return Predictor(deferral.full, rows=rows, alone=alone, seed=seed, stride=stride, defer=defer, dtype=dtype)
