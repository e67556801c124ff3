"""How a model that was made does beside the full one, on texts that neither was made with."""

from typing import Any

import numpy as np

from mux_jax.compression import company, deferring
from mux_jax.compression.judging import agreement, agreement_interval, changed, loss_interval
from mux_jax.compression.model_answers import ModelAnswers
from mux_jax.compression.texts import Texts
from mux_jax.data import metrics
from mux_jax.inference.deferral import Deferral
from mux_jax.progress import progress

_COMPOSITIONS = 5  # draws of which texts share rows


def outcome(
    full: ModelAnswers, made: ModelAnswers, deferral: Deferral | None, texts: Texts, seed: int
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Scores, agreement and what depends on row-mates.

    Returns:
      `full`, `made`: figures of `metrics.compute`, None without labels; `agreement`, `lost`, `row_mates` and
      `deferral`, as `report` has them; `full_agreement`: what `report` has as the full model's. And which of the texts
      to judge by are deferred, bool [texts].
    """
    task, labels = texts.task, full.config.labels
    compositions = _COMPOSITIONS if made.config.width > 1 else 1
    gold = [example.label for example in texts.labelled]
    labelled: list[Any] = [example.text for example in texts.labelled]
    with progress("judging") as report:
        own, full_agreed = full.answers(texts.judge, [seed]), None
        wanted = own
        if texts.answers:
            wanted = full.named(list(texts.answers["judge"]))
            full_agreed = {"value": agreement(task.kind, own, wanted)}
        report(0.4, "")
        answers = [made.answers(texts.judge, [seed, i]) for i in range(compositions)]
        agreed = agreement_interval(task.kind, answers[0], wanted, seed)
        spread = [agreement(task.kind, found, wanted) for found in answers]
        agreed["value"] = float(np.mean(spread))
        scores: dict[str, Any] = {"full": None, "made": None, "lost": None}
        full_labelled: list[Any] = []
        if gold:
            report(0.6, "")
            full_labelled = full.answers(labelled, [seed])
            found = [made.answers(labelled, [seed, i]) for i in range(compositions)]
            figures = [metrics.compute(task.kind, task.metric, gold, x, labels) for x in found]
            scores["full"] = metrics.compute(task.kind, task.metric, gold, full_labelled, labels)
            scores["made"] = {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}
            scores["lost"] = loss_interval(task.kind, task.metric, gold, full_labelled, found[0], labels, seed)
            scores["lost"]["value"] = scores["full"][task.metric] - scores["made"][task.metric]
            spread = [f[task.metric] for f in figures]
        together, deferred = None, None
        if deferral:
            report(0.8, "")
            together, deferred = deferring.judge(full, made, deferral, texts, seed, own, full_labelled)
    mates: dict[str, Any] | None = None
    if compositions > 1:
        mates = {"compositions": compositions, "score_std": float(np.std(spread))}
        if task.kind == "embedding":
            mates |= company.row_mates(made, answers, texts.judge)
            mates["ensembles"] = company.ensembles(made, texts, seed, wanted)
        else:
            mates["changed"] = changed(task.kind, answers) if task.kind != "regression" else None
    judged = {"agreement": agreed, "full_agreement": full_agreed, "row_mates": mates, "deferral": together}
    return scores | judged, deferred
