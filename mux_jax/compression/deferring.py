"""A made model that leaves to the full one what it is not sure of: fitted on the texts to calibrate, then judged."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mux_jax.compression.judging import agreement_interval, loss_interval
from mux_jax.compression.model_answers import ModelAnswers
from mux_jax.compression.speed import take
from mux_jax.compression.texts import Texts
from mux_jax.data import metrics
from mux_jax.data.encoding import Encoded
from mux_jax.inference.deferral import Aim, Deferral, agreement_after, passes
from mux_jax.inference.timing import interleave
from mux_jax.progress import progress, say

AUTO = Aim("agreement", 0.99)  # what is deferred if nothing else is asked for
_SECONDS, _FEWEST, _MOST, _TURNS = 15.0, 256, 4_096, 3  # of a turn of the full model, its texts, and turns
_CURVE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)


def fit(full: ModelAnswers, made: ModelAnswers, texts: Texts, aim: Aim, seed: int) -> Deferral | None:
    """When the made model is to ask the full one, by their answers to the texts to calibrate.

    None if that is not wanted; or not known, which is printed.
    """
    if aim.kind == "off":
        return None
    if passes(made.config) == 0:
        say("a number of a model with one text a row does not say how sure it is: nothing is left to the full model")
        return None
    with progress("fitting when to ask the full model") as report:
        logits, sure = made.sure_logits(texts.calibrate, seed)
        report(0.1, f"answers of the full model to {len(texts.calibrate):,} texts")
        wanted = full.logits(texts.calibrate, [seed])
    return Deferral.fit(logits, sure, wanted, made.config, full.address).aimed(aim)


def judge(
    full: ModelAnswers,
    made: ModelAnswers,
    deferral: Deferral,
    texts: Texts,
    seed: int,
    full_answers: list[Any],
    full_labelled: list[Any],
) -> tuple[dict[str, Any], np.ndarray]:
    """How both do together on the judged texts.

    Args:
      full_answers, full_labelled: the full model's answers, by name, to the texts to judge by and to the labelled ones.

    Returns:
      What `report` has as `deferral`, without speed; and bool [texts], which of those to judge by are deferred.
    """
    task = texts.task
    logits, sure = made.sure_logits(texts.judge, seed, deferral.temperature)
    answers = made.named(logits)
    after = agreement_after(task.kind, answers, full_answers)
    gold = [example.label for example in texts.labelled]
    labelled, sure_labelled = made.sure_logits([e.text for e in texts.labelled], seed, deferral.temperature)
    named = made.named(labelled)

    def scored(limit: float) -> list[Any]:
        return [y if x < limit else z for x, y, z in zip(sure_labelled, full_labelled, named)]

    curve = []
    for share in sorted({*_CURVE, deferral.share}):
        limit = deferral.threshold(share)
        score = metrics.compute(task.kind, task.metric, gold, scored(limit), full.config.labels) if gold else None
        deferred = float(np.mean(sure < limit))
        curve.append({"share": share, "deferred": deferred, "agreement": after(sure < limit), "score": score})
    limit = deferral.threshold(deferral.share)
    together = [y if x < limit else z for x, y, z in zip(sure, full_answers, answers)]
    lost = None
    if gold:
        lost = loss_interval(task.kind, task.metric, gold, full_labelled, scored(limit), full.config.labels, seed)
    found = {
        "share": deferral.share,
        "temperature": deferral.temperature,
        "passes": passes(made.config),
        "deferred": float(np.mean(sure < limit)),
        "agreement": agreement_interval(task.kind, together, full_answers, seed),
        "lost": lost,
        "curve": curve,
    }
    return found, sure < limit


def draw(texts: int, rate: float) -> np.ndarray:
    """int [n]: which of so many texts a turn of timing takes; some repeatedly if there are few.

    rate: about the full model's texts a second.
    """
    count = int(np.clip(rate * _SECONDS, _FEWEST, _MOST))
    return np.resize(np.random.default_rng(0).permutation(texts), count)


def measure(
    full: Callable[[Encoded], Any], made: Callable[[Encoded], Any], encoded: Encoded, unsure: np.ndarray, rate: float
) -> float:
    """The measured speed of a model that leaves some texts to the full one, over the full one's.

    Args:
      full, made: run a model on texts.
      encoded: the texts; some are repeated if there are few.
      unsure: bool [texts], those that are left.
      rate: about the full model's texts a second.
    """
    drawn = draw(len(unsure), rate)
    texts, left = take(encoded, drawn), take(encoded, drawn[unsure[drawn]])

    def together() -> None:
        made(texts)
        full(left)

    with progress("measuring speed with deferral") as report:
        taken = interleave({"full": lambda: full(texts) and None, "together": together}, _TURNS, report)
    return float(np.median(taken["full"] / taken["together"]))
