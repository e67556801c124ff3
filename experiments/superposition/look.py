"""What a multiplexed model does with mixing: without it, how far it moved, and what neighbours do to an answer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.superposition.hard import open_places
from mux_jax.checkpoints.source import ModelSource
from mux_jax.compression.model_answers import ModelAnswers
from mux_jax.data import metrics
from mux_jax.data.rows import pad
from mux_jax.inference.batch_runner import compile_logits
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel

_TEXTS, _TRIES = 200, 64  # texts whose neighbours are chosen to change their label, and choices tried of each


class Look:
    """A model that learned, what it started from, and the texts to judge by.

    `work` is the compression that made it, with its texts, encoder and the full model.
    """

    def __init__(self, made: ModelSource, start: Any, params: Any, work: Any):
        self.made, self.start, self.params, self.work = made, start, params, work
        self.texts, self.kind = work.texts, work.texts.task.kind

    def result(self) -> dict[str, Any]:
        """All figures."""
        open_ = open_places(self.start)
        shut = jax.tree.map(jnp.multiply, self.params, open_)
        found = {"score": self._score(self.params), "score_without_mixing": self._score(shut)}
        return found | {"moved": self._moved(open_)} | (self._neighbours() if self.kind == "sequence" else {})

    def _score(self, params: Any) -> float:
        """The mean over five compositions, on the labelled texts."""
        answers = ModelAnswers(self.made, params, self.work.encoder, self.work.pad_id, self.work.dtype)
        gold = [example.label for example in self.texts.labelled]
        texts, task = [example.text for example in self.texts.labelled], self.texts.task
        scores = [
            metrics.compute(
                task.kind, task.metric, gold, answers.named(answers.logits(texts, [0, i])), self.made.config.labels
            )
            for i in range(5)
        ]
        return float(np.mean([score[task.metric] for score in scores]))

    def _moved(self, open_: Any) -> dict[str, float]:
        """The size of what training changed in the encoder's kernels: within a text's weights, and between texts."""
        within = between = 0.0
        leaves = zip(*(jax.tree.leaves(x["encoder"]) for x in (self.start, self.params, open_)))
        for before, after, place in leaves:
            change = np.square(np.asarray(after) - np.asarray(before))
            within, between = within + float((change * place).sum()), between + float((change * (1 - place)).sum())
        return {"within": within**0.5, "between": between**0.5}

    def _neighbours(self) -> dict[str, Any]:
        """Scores of texts alone in a row, with copies, with random texts, and with those that change most answers.

        Alone means beside texts without words. Of each of some texts that are right beside random texts it is tried
        whether some draw of neighbours among the judged texts changes the label.
        """
        config, lengths = self.made.config, self.made.bucket_lengths()
        examples = self.texts.labelled[:_TEXTS]
        gold = np.array([config.labels.index(example.label) for example in examples])
        ids = self.work.encoder([e.text for e in self.texts.labelled]).ids
        empty = len(ids)
        ids = [*ids, self.work.encoder([""]).ids[0]]
        run = compile_logits(MuxModel(config), self.work.mesh, self.work.pad_id)
        params, N, rng = split_layers(self.params), config.width, np.random.default_rng(0)

        T = len(examples)
        own_T, slot_T = np.arange(T), rng.integers(N, size=T)  # each text keeps its slot

        def answers(chosen_TN: np.ndarray) -> np.ndarray:
            """The label of the text in one slot of each row."""
            longest = max(len(ids[i]) for i in chosen_TN.ravel())
            length = next(n for n in lengths if n >= longest)
            tokens = pad(ids, chosen_TN.ravel(), length, N, self.work.pad_id)
            logits: Any = run(params, tokens)
            return np.asarray(logits).argmax(-1)[own_T, slot_T]

        def among(neighbours_TN: np.ndarray) -> np.ndarray:
            chosen = neighbours_TN.copy()
            chosen[own_T, slot_T] = own_T
            return answers(chosen)

        alone, copies = among(np.full((T, N), empty)), among(np.repeat(own_T[:, None], N, axis=1))
        drawn = [among(rng.integers(empty, size=(T, N))) for _ in range(_TRIES)]
        right = drawn[0] == gold
        flipped = np.any([x != drawn[0] for x in drawn[1:]], axis=0)
        return {
            "texts": T,
            "right_alone": float(np.mean(alone == gold)),
            "right_with_copies": float(np.mean(copies == gold)),
            "right_with_random": float(np.mean([np.mean(x == gold) for x in drawn])),
            "tries": _TRIES,
            "changed_by_some_neighbours": float(np.mean(flipped)),
            "right_ones_made_wrong": float(np.mean(flipped[right])),
        }
