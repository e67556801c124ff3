"""Scores of predictions, by scikit-learn, scipy and seqeval."""

import re
from collections.abc import Sequence

import numpy as np

from mux_jax.data.neighbours import NEIGHBOURS, common_neighbours

# Of two classes, the one that F1 is of.
_POSITIVE = ("1", "equivalent", "duplicate")
# What span F1 is of: BIO, IOE, BIOES, BILOU and BMES, with types of spans or without.
SPAN_TAG = re.compile("O|[BIESLUM](-.*)?", re.DOTALL)
_SEQEVAL = {"L": "E", "U": "S", "M": "I"}  # which knows B, I, O, E and S and takes two U- in a row for one span


def compute(kind: str, metric: str, gold: Sequence, predicted: Sequence, labels: Sequence[str]) -> dict[str, float]:
    """The figures of a task of some kind that is judged by `metric`; that one comes first.

    Args:
      gold: labels by name, numbers, or lists: of tags, or of the labels of a text.
      predicted: the same; None in a list of tags for a word without a prediction, which is an error.
      labels: the names of the classes.
    """
    return OF_KIND[kind][metric](gold, predicted, labels)


def _accuracy(gold: Sequence, predicted: Sequence, labels: Sequence[str]) -> dict[str, float]:
    gold, predicted = _flat(gold), _flat(predicted)
    return {"accuracy": float(np.mean([g == p for g, p in zip(gold, predicted, strict=True)]))}


def _f1(gold: Sequence, predicted: Sequence, labels: Sequence[str]) -> dict[str, float]:
    from sklearn.metrics import f1_score

    positive = next((label for label in labels if label in _POSITIVE), labels[-1])
    hits, found = [g == positive for g in _flat(gold)], [p == positive for p in _flat(predicted)]
    return {"f1": float(f1_score(hits, found, zero_division=0))} | _accuracy(gold, predicted, labels)


def _macro_f1(gold: Sequence, predicted: Sequence, labels: Sequence[str]) -> dict[str, float]:
    from sklearn.metrics import f1_score

    gold, predicted = _flat(gold), ["" if p is None else p for p in _flat(predicted)]
    met = sorted({*gold, *predicted} - {""})  # a class that is neither there nor predicted has no F1
    score = f1_score(gold, predicted, labels=met, average="macro", zero_division=0)
    return {"macro_f1": float(score)} | _accuracy(gold, predicted, labels)


def _matthews(gold: Sequence, predicted: Sequence, labels: Sequence[str]) -> dict[str, float]:
    from sklearn.metrics import matthews_corrcoef

    return {"matthews": float(matthews_corrcoef(gold, predicted))} | _accuracy(gold, predicted, labels)


def _pearson_spearman(gold: Sequence, predicted: Sequence, labels: Sequence[str]) -> dict[str, float]:
    """The mean of both, as GLUE has it; 0 for constant predictions, which have no correlation."""
    from scipy.stats import pearsonr, spearmanr

    if np.ptp(predicted) == 0 or np.ptp(gold) == 0:
        return {"pearson_spearman": 0.0, "pearson": 0.0, "spearman": 0.0}
    pearson, spearman = float(pearsonr(gold, predicted)[0]), float(spearmanr(gold, predicted)[0])
    return {"pearson_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}


def _spearman(gold: Sequence, predicted: Sequence, labels: Sequence[str]) -> dict[str, float]:
    """Of the cosines of pairs of texts; 0 if they are constant."""
    from scipy.stats import spearmanr

    constant = np.ptp(predicted) == 0 or np.ptp(gold) == 0
    return {"spearman": 0.0 if constant else float(spearmanr(gold, predicted)[0])}


def _span_f1(gold: Sequence, predicted: Sequence, labels: Sequence[str]) -> dict[str, float]:
    """F1 of whole spans, as `conlleval` counts them; a word without a prediction is outside of all."""
    import seqeval.metrics as seqeval

    gold, predicted = ([_seqeval_tags(tags) for tags in sentences] for sentences in (gold, predicted))
    score, precision, recall = (
        float(f(gold, predicted, zero_division=0))
        for f in (seqeval.f1_score, seqeval.precision_score, seqeval.recall_score)
    )
    return {"span_f1": score, "precision": precision, "recall": recall}


def equal_counts(kind: str, ours: Sequence, theirs: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Of each text its equal predictions, and all of them: 1, or as many as it has words; int [texts] each.

    Of texts with several labels the sets must be equal. Of embeddings it is the nearest neighbours among all the texts.
    """
    if kind == "embedding":
        common = common_neighbours(np.array(ours), np.array(theirs))
        return common, np.full(len(common), min(NEIGHBOURS, len(common) - 1))
    if kind == "token":
        equal = [sum(x == y for x, y in zip(*pair)) for pair in zip(ours, theirs)]
        return np.array(equal, int), np.array([len(tags) for tags in ours], int)
    same = [set(x) == set(y) if kind == "multi_label" else x == y for x, y in zip(ours, theirs)]
    return np.array(same, int), np.ones(len(same), int)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's, 0 if either is constant."""
    return 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else float(np.corrcoef(x, y)[0, 1])


def span_counts(gold: Sequence, predicted: Sequence) -> np.ndarray:
    """Of each sentence its spans: those found, those that are there, those predicted; int [sentences, 3].

    Summed over sentences they give span F1: twice those found, over the sum of the others.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    counts = []
    for sentence in zip(gold, predicted, strict=True):
        there, ours = (set(get_entities(_seqeval_tags(tags))) if tags else set() for tags in sentence)
        counts.append((len(there & ours), len(there), len(ours)))
    return np.array(counts, int)


def _seqeval_tags(tags: Sequence[str | None]) -> list[str]:
    return ["O" if tag is None else _SEQEVAL.get(tag[0], tag[0]) + tag[1:] for tag in tags]


def _micro_f1_of_sets(gold: Sequence, predicted: Sequence, labels: Sequence[str]) -> dict[str, float]:
    """F1 over all labels of all texts; beside it the mean F1 of labels, and the part of texts without an error."""
    from sklearn.metrics import f1_score

    ours, wanted = (  # int [texts, C]: whether a text has a label
        np.array([[label in found for label in labels] for found in sets], int) for sets in (predicted, gold)
    )
    micro, macro = (f1_score(wanted, ours, average=name, zero_division=0) for name in ("micro", "macro"))
    exact = (ours == wanted).all(axis=1).mean()
    return {"micro_f1": float(micro), "macro_f1": float(macro), "subset_accuracy": float(exact)}


def _macro_f1_of_sets(gold: Sequence, predicted: Sequence, labels: Sequence[str]) -> dict[str, float]:
    figures = _micro_f1_of_sets(gold, predicted, labels)
    return {"macro_f1": figures["macro_f1"]} | figures


def _flat(values: Sequence) -> list:
    return [x for v in values for x in v] if values and isinstance(values[0], list) else list(values)


# The kinds of tasks, and what each can be judged by, its default first.
OF_KIND = {
    "sequence": {"accuracy": _accuracy, "f1": _f1, "macro_f1": _macro_f1, "matthews": _matthews},
    "multi_label": {"micro_f1": _micro_f1_of_sets, "macro_f1": _macro_f1_of_sets},
    "regression": {"pearson_spearman": _pearson_spearman},
    "embedding": {"spearman": _spearman},
    "token": {"accuracy": _accuracy, "f1": _f1, "macro_f1": _macro_f1, "span_f1": _span_f1},
}
# Figures from -1 to 1. The others are shares, from 0 to 1.
CORRELATIONS = ("matthews", "pearson_spearman", "pearson", "spearman")
