"""Scores against values worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from mux_jax.data.metrics import compute

BINARY = ("0", "1")


@pytest.mark.parametrize(
    ("metric", "gold", "predicted", "expected"),
    [
        ("accuracy", list("110"), list("111"), {"accuracy": 2 / 3}),
        # 2 true positives, 1 false, 1 missed: precision and recall 2/3.
        ("f1", list("11001"), list("10101"), {"f1": 2 / 3, "accuracy": 3 / 5}),
        # (2 * 2 - 1 * 1) / sqrt(3 * 3 * 3 * 3)
        ("matthews", list("111000"), list("110001"), {"matthews": 1 / 3, "accuracy": 4 / 6}),
        # Of class 0: 1 of 1 found, 1 of 2 right: F1 2/3; of class 1: 1 of 2 found, 1 of 1 right: 2/3.
        ("macro_f1", list("011"), list("001"), {"macro_f1": 2 / 3}),
        ("macro_f1", list("00"), list("00"), {"macro_f1": 1.0}),  # no 1 is there, and none is predicted
        # Deviations (-1.5, -.5, .5, 1.5) and (-3, -2, -1, 6): 14 / sqrt(5 * 50); the ranks agree.
        (
            "pearson_spearman",
            [1.0, 2.0, 3.0, 4.0],
            [1.0, 2.0, 3.0, 10.0],
            {"pearson": 0.8854377, "spearman": 1.0, "pearson_spearman": 0.9427189},
        ),
        ("pearson_spearman", [1.0, 2.0], [3.0, 3.0], {"pearson_spearman": 0.0}),
        # One of two spans found, none wrong: precision 1, recall 1/2.
        (
            "span_f1",
            [["B-PER", "I-PER", "O", "B-LOC"]],
            [["B-PER", "I-PER", "O", "O"]],
            {"span_f1": 2 / 3, "precision": 1.0, "recall": 0.5},
        ),
        # BILOU, spans counted by hand: PER 0-2, LOC 3, LOC 4 and ORG 5-6; all but one of the LOC are found, and a wrong
        # PER at 8: precision 3/4, recall 3/4. Two U- or L- next to each other are two spans.
        (
            "span_f1",
            [["B-PER", "I-PER", "L-PER", "U-LOC", "U-LOC", "B-ORG", "L-ORG", "O", "O"]],
            [["B-PER", "I-PER", "L-PER", "U-LOC", "O", "B-ORG", "L-ORG", "O", "U-PER"]],
            {"span_f1": 3 / 4, "precision": 3 / 4, "recall": 3 / 4},
        ),
        # One span of two words in place of two spans of a word: nothing is found.
        ("span_f1", [["U-LOC", "U-LOC"]], [["B-LOC", "L-LOC"]], {"span_f1": 0.0}),
        # BIOES: PER 0-1 and LOC 2; IOE with adjacent spans: 0-1 and 2-3; BMES: 0-2 and 3; without types: 0-1, 2, 4.
        (
            "span_f1",
            [["B-PER", "E-PER", "S-LOC"]],
            [["B-PER", "E-PER", "S-PER"]],
            {"span_f1": 1 / 2, "precision": 1 / 2},
        ),
        ("span_f1", [["I-X", "E-X", "I-X", "E-X"]], [["I-X", "E-X", "O", "O"]], {"precision": 1.0, "recall": 1 / 2}),
        ("span_f1", [["B", "M", "E", "S"]], [["B", "M", "E", "O"]], {"precision": 1.0, "recall": 1 / 2}),
        (
            "span_f1",
            [["B", "I", "B", "O", "B"]],
            [["B", "I", "B", "O", None]],
            {"precision": 1.0, "recall": 2 / 3, "span_f1": 4 / 5},
        ),
        # Half a span is none: a wrong one and a missed one.
        ("span_f1", [["B-PER", "I-PER"]], [["B-PER", None]], {"span_f1": 0.0}),
        # A word without a prediction is an error.
        ("accuracy", [["X", "Y"], ["X"]], [["X", None], ["X"]], {"accuracy": 2 / 3}),
    ],
)
def test_scores_worked_out_by_hand(metric, gold, predicted, expected):
    kind = "token" if isinstance(gold[0], list) else "regression" if metric == "pearson_spearman" else "sequence"
    found = compute(kind, metric, gold, predicted, BINARY)
    assert next(iter(found)) == metric
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_f1_is_of_the_positive_class_however_it_is_called():
    gold, predicted = ["duplicate", "not_duplicate"], ["duplicate", "duplicate"]
    assert compute("sequence", "f1", gold, predicted, ("duplicate", "not_duplicate"))["f1"] == pytest.approx(2 / 3)
    assert compute("sequence", "f1", list("ab"), list("bb"), ("a", "b"))["f1"] == pytest.approx(2 / 3)


def test_several_labels_a_text_are_scored_label_by_label():
    # Of a: 1 found and right, 1 missed: F1 2/3. Of b: 1 right, 1 wrong: 2/3. Of c, which nobody has: 0. In all 2 right,
    # 1 wrong, 1 missed: 4/6. The second and the third of four texts are without an error.
    gold, predicted = [["a"], ["b"], [], ["a"]], [[], ["b"], [], ["b", "a"]]
    expected = {"micro_f1": 2 / 3, "macro_f1": 4 / 9, "subset_accuracy": 1 / 2}
    for metric in ("micro_f1", "macro_f1"):
        found = compute("multi_label", metric, gold, predicted, ("a", "b", "c"))
        assert next(iter(found)) == metric and found == pytest.approx(expected)
    assert compute("multi_label", "micro_f1", [[]], [[]], BINARY)["micro_f1"] == 0.0  # as scikit-learn has it

    rng = np.random.default_rng(0)
    names = tuple("abcdef")
    ours, theirs = rng.integers(0, 2, (2, 50, 6))
    sets = [[[names[i] for i in np.flatnonzero(row)] for row in rows] for rows in (ours, theirs)]
    found = compute("multi_label", "micro_f1", *sets, names)
    expected = {f"{name}_f1": f1_score(ours, theirs, average=name) for name in ("micro", "macro")}
    assert found == pytest.approx(expected | {"subset_accuracy": accuracy_score(ours, theirs)})
