"""How a model that was made does beside the full one, on texts that neither was made with."""

from typing import Any

import jax
import numpy as np

from mux_jax.checkpoints.source import ModelSource
from mux_jax.compression.judging import agreement, agreement_interval, changed, loss_interval
from mux_jax.compression.texts import Texts
from mux_jax.data import metrics
from mux_jax.data.encoding import Encoder, Text
from mux_jax.inference.batch_runner import BatchRunner, labels_from_logits
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.progress import progress

_COMPOSITIONS = 5  # draws of which texts share rows
_ROWS, _THRESHOLD = 32, 0.5


def outcome(
    full: ModelSource,
    full_params: Any,
    made: ModelSource,
    made_params: Any,
    texts: Texts,
    encoder: Encoder,
    pad_id: int,
    seed: int,
) -> dict[str, Any]:
    """Scores, agreement and what depends on row-mates.

    Returns:
      `full`, `made`: figures of `metrics.compute`, None without labels; `agreement`, `lost` and `row_mates`, as
      `report` has them; `full_agreement`: what `report` has as the full model's.
    """
    task, labels = texts.task, full.config.labels
    compositions = _COMPOSITIONS if made.config.width > 1 else 1
    gold = [example.label for example in texts.labelled]
    labelled: list[Text] = [example.text for example in texts.labelled]
    with progress("judging") as report:
        theirs = _Answers(full, full_params, encoder, pad_id)
        ours = _Answers(made, made_params, encoder, pad_id)
        wanted, full_agreed = theirs(texts.judge, [seed]), None
        if texts.answers:
            own, wanted = wanted, labels_from_logits(list(texts.answers["judge"]), full.config, _THRESHOLD)
            full_agreed = {"value": agreement(task.kind, own, wanted)}
        report(0.4, "")
        answers = [ours(texts.judge, [seed, i]) for i in range(compositions)]
        agreed = agreement_interval(task.kind, answers[0], wanted, seed)
        spread = [agreement(task.kind, found, wanted) for found in answers]
        agreed["value"] = float(np.mean(spread))
        scores: dict[str, Any] = {"full": None, "made": None, "lost": None}
        if gold:
            report(0.6, "")
            full_answers = theirs(labelled, [seed])
            found = [ours(labelled, [seed, i]) for i in range(compositions)]
            figures = [metrics.compute(task.kind, task.metric, gold, x, labels) for x in found]
            scores["full"] = metrics.compute(task.kind, task.metric, gold, full_answers, labels)
            scores["made"] = {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}
            scores["lost"] = loss_interval(task.kind, task.metric, gold, full_answers, found[0], labels, seed)
            scores["lost"]["value"] = scores["full"][task.metric] - scores["made"][task.metric]
            spread = [f[task.metric] for f in figures]
    mates = None
    if compositions > 1:
        of_texts = task.kind != "regression"
        share = changed(task.kind, answers) if of_texts else None
        mates = {"changed": share, "compositions": compositions, "score_std": float(np.std(spread))}
    return scores | {"agreement": agreed, "full_agreement": full_agreed, "row_mates": mates}


class _Answers:
    """A model's answers to texts, by name."""

    def __init__(self, found: ModelSource, params: Any, encoder: Encoder, pad_id: int):
        mesh = jax.tree.leaves(params)[0].sharding.mesh
        self._runner = BatchRunner(MuxModel(found.config), mesh, _ROWS, found.bucket_lengths(), pad_id)
        self._params, self._encoder, self._config = split_layers(params), encoder, found.config

    def __call__(self, texts: list[Text], seed: list[int]) -> list[Any]:
        logits = self._runner(self._params, self._encoder(texts), np.random.default_rng(seed))
        return labels_from_logits(logits, self._config, _THRESHOLD)
