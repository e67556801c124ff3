"""How near a made model is to the full one: agreement, the loss in the task's metric, and how sure both are.

Predictions are those of `BatchRunner` by name: labels, sets of labels, numbers, or lists of tags (None for a word
without one), one for each text.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from mux_jax.data import metrics
from mux_jax.errors import InputError

_DRAWS = 1000
_DRAWS_OF_SLOW = 200  # of a metric that is computed anew for each draw
_SHARE = 0.95

# (numbers of texts, int [draw]) -> a figure of these texts
Statistic = Callable[[np.ndarray], float]


def agreement(kind: str, ours: Sequence, theirs: Sequence) -> float:
    """The share of equal predictions; of a regression Pearson's correlation, 0 if either is constant.

    Of texts with several labels the sets must be equal. Of tags it is the share of words, None being equal to None.

    Args:
      kind: of the task: a name in `metrics.OF_KIND`.

    Raises:
      InputError: no texts, or not the same ones.
    """
    return _agreement(kind, ours, theirs)(np.arange(len(ours)))


def agreement_interval(kind: str, ours: Sequence, theirs: Sequence, seed: int = 0) -> dict[str, float]:
    """`agreement` as `value`, with `low` and `high` of its 95 % interval over texts."""
    return _with_interval(_agreement(kind, ours, theirs), len(ours), seed, _DRAWS)


def loss_interval(
    kind: str, metric: str, gold: Sequence, full: Sequence, made: Sequence, labels: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """The score of `full` minus that of `made` on the same texts: `value`, and `low` and `high` of its 95 % interval.

    Each draw scores both models on the same texts. With the same seed and number of texts, `agreement_interval`
    draws these too.

    Args:
      kind, metric, labels: of the task, as for `metrics.compute`.
      gold: the true labels.

    Raises:
      InputError: no texts, or not the same ones.
    """
    for predicted in (full, made):
        _check(kind, gold, predicted)
    if metric in ("accuracy", "span_f1"):
        better, worse = (_ratio(*_counts(kind, metric, gold, predicted)) for predicted in (full, made))
        return _with_interval(lambda texts: better(texts) - worse(texts), len(gold), seed, _DRAWS)

    def score(predicted: Sequence, texts: np.ndarray) -> float:
        drawn = [gold[i] for i in texts], [predicted[i] for i in texts]
        return metrics.compute(kind, metric, *drawn, labels)[metric]

    return _with_interval(lambda texts: score(full, texts) - score(made, texts), len(gold), seed, _DRAWS_OF_SLOW)


def interval(statistic: Statistic, count: int, seed: int = 0, draws: int = _DRAWS) -> tuple[float, float]:
    """The 95 % percentile interval of a figure, by drawing as many of `count` texts, with replacement, many times.

    Args:
      statistic: (numbers of texts, int [count]) -> the figure of these texts.
    """
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings(action="ignore"):  # of a draw that lacks a class
        found = [statistic(rng.integers(count, size=count)) for _ in range(draws)]
    low, high = np.quantile(found, [(1 - _SHARE) / 2, (1 + _SHARE) / 2])
    return float(low), float(high)


def changed(kind: str, compositions: Sequence[Sequence]) -> float:
    """The share of texts whose answer is not the same in all compositions; of tags, any word's.

    Args:
      kind: of the task. Of a regression hardly a number is the same twice: use the score's spread.
      compositions: the predictions on the same texts, of each composition.
    """
    first, *others = compositions
    same = np.ones(len(first), bool)
    for other in others:
        _check(kind, first, other)
        equal, words = metrics.equal_counts(kind, first, other)
        same &= equal == words
    return float(1 - same.mean())


def _with_interval(statistic: Statistic, count: int, seed: int, draws: int) -> dict[str, float]:
    low, high = interval(statistic, count, seed, draws)
    return {"value": float(statistic(np.arange(count))), "low": low, "high": high}


def _agreement(kind: str, ours: Sequence, theirs: Sequence) -> Statistic:
    _check(kind, ours, theirs)
    if kind != "regression":
        return _ratio(*metrics.equal_counts(kind, ours, theirs))
    x, y = np.array(ours, float), np.array(theirs, float)
    return lambda texts: metrics.correlation(x[texts], y[texts])


def _counts(kind: str, metric: str, gold: Sequence, predicted: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Of each text, parts of a metric that is the ratio of their sums."""
    if metric == "accuracy":
        return metrics.equal_counts(kind, gold, predicted)
    found, there, ours = metrics.span_counts(gold, predicted).T
    return 2 * found, there + ours


def _ratio(parts: np.ndarray, wholes: np.ndarray) -> Statistic:
    return lambda texts: parts[texts].sum() / max(1, wholes[texts].sum())


def _check(kind: str, ours: Sequence, theirs: Sequence) -> None:
    if not len(ours):
        raise InputError("no texts to judge by: at least one is needed")
    if len(ours) != len(theirs):
        raise InputError(f"predictions on {len(ours)} and on {len(theirs)} texts: must be of the same texts")
    if kind == "token":
        for i, (x, y) in enumerate(zip(ours, theirs)):
            if len(x) != len(y):
                raise InputError(f"text {i + 1} has {len(x)} tags and {len(y)}: must be of the same words")
