"""How near a made model is to the full one, and how sure that is."""

import numpy as np
import pytest

from mux_jax.compression import judging
from mux_jax.data import metrics
from mux_jax.errors import InputError


@pytest.mark.parametrize(
    "kind, ours, theirs, expected",
    [
        ("sequence", ["a", "b", "a", "a"], ["a", "b", "b", "a"], 0.75),
        ("multi_label", [["x", "y"], [], ["x"], ["y"]], [["y", "x"], [], ["x", "y"], []], 0.5),
        ("token", [["O", None], ["B", "I", None]], [["O", None], ["B", "O", "I"]], 0.6),
        ("regression", [1.0, 2.0, 4.0], [1.0, 3.0, 2.0], (3 / 28) ** 0.5),
        ("regression", [1.0, 2.0], [3.0, 3.0], 0.0),
        ("embedding", np.eye(12), 2 * np.eye(12), 1.0),
    ],
)
def test_agreement_is_of_labels_sets_words_or_a_correlation(kind, ours, theirs, expected):
    assert judging.agreement(kind, ours, theirs) == pytest.approx(expected)


def test_words_count_and_not_sentences():
    ours, theirs = [["A"], ["A", "A", "A"]], [["B"], ["A", "A", "A"]]
    assert judging.agreement("token", ours, theirs) == 0.75


@pytest.mark.parametrize(
    "kind, ours, theirs, words",
    [
        ("sequence", [], [], "no texts"),
        ("sequence", ["a"], ["a", "b"], "1 and on 2 texts"),
        ("token", [["O"], ["O"]], [["O"], ["O", "O"]], "text 2 has 1 tags and 2"),
    ],
)
def test_other_texts_are_an_error(kind, ours, theirs, words):
    with pytest.raises(InputError, match=words):
        judging.agreement(kind, ours, theirs)
    with pytest.raises(InputError, match=words):
        judging.loss_interval(kind, "accuracy", ours, ours, theirs, ["a", "b"])


def test_an_interval_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(size=400)
    low, high = judging.interval(lambda texts: values[texts].mean(), 400, draws=4000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    for seed in range(200):
        equal = rng.random(200) < 0.8
        low, high = judging.interval(lambda texts, equal=equal: equal[texts].mean(), 200, seed, draws=200)
        covered += low <= 0.8 <= high
    assert 180 <= covered < 200


def test_an_interval_follows_from_the_seed():
    ours, theirs = list("abab" * 500), list("abba" * 500)
    first = judging.agreement_interval("sequence", ours, theirs, seed=3)
    assert first == judging.agreement_interval("sequence", ours, theirs, seed=3)
    assert first != judging.agreement_interval("sequence", ours, theirs, seed=4)
    assert first["low"] < first["value"] == 0.5 < first["high"]


def test_what_is_lost_is_the_difference_of_the_scores():
    gold = list("aaaabbbb")
    full, made = list("aaaabbba"), list("aabbbbba")  # 7 and 5 of 8
    lost = judging.loss_interval("sequence", "accuracy", gold, full, made, ["a", "b"])
    assert lost["value"] == 0.25 and lost["low"] == 0.0 < lost["high"] <= 0.75


def test_both_models_are_scored_on_the_same_draw():
    gold = list("ab" * 50)
    wrong = ["b" if i % 3 else label for i, label in enumerate(gold)]
    for metric in ("accuracy", "macro_f1"):
        lost = judging.loss_interval("sequence", metric, gold, wrong, wrong, ["a", "b"])
        assert lost == {"value": 0.0, "low": 0.0, "high": 0.0}


CASES = [
    ("sequence", "accuracy", list("aabbaa"), list("aabbab"), list("ababab")),
    ("sequence", "f1", list("aabbaa"), list("aabbab"), list("ababab")),
    ("sequence", "matthews", list("aabbaa"), list("aabbab"), list("ababab")),
    ("multi_label", "micro_f1", [["a"], ["a", "b"], [], ["b"]], [["a"], ["a"], [], ["b"]], [["a"], [], ["a"], ["b"]]),
    ("regression", "pearson_spearman", [1.0, 2.0, 3.0, 5.0], [1.0, 2.0, 3.5, 4.0], [1.0, 3.0, 2.0, 2.5]),
    (
        "token",
        "span_f1",
        [["B-P", "I-P", "O"], ["B-L"], ["S-P", "O"], ["O"], []],
        [["B-P", "I-P", None], ["B-P"], ["S-P", "O"], ["O"], []],
        [["B-P", "O", "B-L"], ["B-L"], ["O", "O"], ["B-L"], []],
    ),
]


@pytest.mark.parametrize("kind, metric, gold, full, made", CASES, ids=[case[1] for case in CASES])
def test_the_loss_is_of_the_metric_of_the_task(kind, metric, gold, full, made):
    scores = [metrics.compute(kind, metric, gold, x, ["a", "b"])[metric] for x in (full, made)]
    lost = judging.loss_interval(kind, metric, gold, full, made, ["a", "b"])
    assert lost["value"] == pytest.approx(scores[0] - scores[1]) and lost["value"] > 0
    assert lost["low"] <= lost["value"] <= lost["high"] and lost["low"] < lost["high"]


def test_an_answer_that_is_another_in_one_composition_has_changed():
    assert judging.changed("sequence", [list("abcd"), list("abcc"), list("aacd")]) == 0.5
    assert judging.changed("token", [[["O", "B"], ["O"]], [["O", "O"], ["O"]]]) == 0.5
    assert judging.changed("multi_label", [[["x", "y"]], [["y", "x"]]]) == 0.0
