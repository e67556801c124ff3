"""Scores against values worked out by hand."""

import pytest

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
        # Half a span is none: a wrong one and a missed one.
        ("span_f1", [["B-PER", "I-PER"]], [["B-PER", None]], {"span_f1": 0.0}),
        # A word without a prediction is an error.
        ("accuracy", [["X", "Y"], ["X"]], [["X", None], ["X"]], {"accuracy": 2 / 3}),
    ],
)
def test_scores_worked_out_by_hand(metric, gold, predicted, expected):
    found = compute(metric, gold, predicted, BINARY)
    assert next(iter(found)) == metric
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_f1_is_of_the_positive_class_however_it_is_called():
    gold, predicted = ["duplicate", "not_duplicate"], ["duplicate", "duplicate"]
    assert compute("f1", gold, predicted, ("duplicate", "not_duplicate"))["f1"] == pytest.approx(2 / 3)
    assert compute("f1", list("ab"), list("bb"), ("a", "b"))["f1"] == pytest.approx(2 / 3)
