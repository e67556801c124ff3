"""What an embedding of a multiplexed model owes to the texts of its row, and what several slots a text bring."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mux_jax.compression.judging import agreement
from mux_jax.compression.model_answers import ModelAnswers
from mux_jax.compression.texts import Texts
from mux_jax.data import metrics
from mux_jax.data.encoding import Text
from mux_jax.data.neighbours import unit

_ALONE = 200  # texts that are embedded one by one
_RARE = 0.01


def row_mates(made: ModelAnswers, compositions: Sequence[Sequence[np.ndarray]], texts: list[Text]) -> dict[str, float]:
    """How alike the embeddings of a text are.

    Args:
      compositions: the texts' embeddings in several draws of which share rows.

    Returns:
      `cosine`: of a text with itself in the first two compositions, the mean; `rare`: which one text in a hundred is
      below; `alone`: the mean of one in a row of its own copies, as single queries come, with the first composition.
    """
    first_TE, second_TE = (unit(np.array(x)) for x in compositions[:2])
    cosines = (first_TE * second_TE).sum(-1)
    alone_TE = unit(np.array(made.alone(texts[:_ALONE])))
    alone = (alone_TE * first_TE[: len(alone_TE)]).sum(-1)
    return {"cosine": float(cosines.mean()), "rare": float(np.quantile(cosines, _RARE)), "alone": float(alone.mean())}


def ensembles(made: ModelAnswers, texts: Texts, seed: int, wanted: list[Any]) -> list[dict[str, Any]]:
    """Of each text in several slots, whose embeddings are averaged: `slots`, `agreement`, `score` or None.

    wanted: the full model's answers to the texts to judge by.
    """
    task, found = texts.task, []
    gold, labelled = [e.label for e in texts.labelled], [e.text for e in texts.labelled]
    for slots in sorted({2, made.config.width}):
        agreed = agreement(task.kind, made.answers(texts.judge, [seed, 0], slots), wanted)
        answers = made.answers(labelled, [seed, 0], slots)
        score = metrics.compute(task.kind, task.metric, gold, answers, ()) if gold else None
        found.append({"slots": slots, "agreement": agreed, "score": score})
    return found
