"""The report says what a cheaper model costs and brings, and whether to take it."""

import json
import re

import numpy as np
import pytest
from etils import epath

from mux_jax.compression import frontier, report
from mux_jax.compression.verdict import METRICS, sentences
from tests.compression.results import result

KINDS = [
    ("sequence", "accuracy", "label to 95.0 % of the texts (95 % interval 94.0 to 95.9 %)", "89.1 %"),
    ("multi_label", "micro_f1", "exactly the full model's labels to 95.0 % of the texts", "70.4 %"),
    ("token", "span_f1", "tag to 95.0 % of the words", "82.3 %"),
    (
        "regression",
        "pearson_spearman",
        "correlate with the full model's at 0.950 (95 % interval 0.940 to 0.959)",
        "0.872",
    ),
    ("embedding", "spearman", "finds 95.0 % of the full model's ten nearest neighbours", "0.858"),
]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kind, metric, agreement, score", KINDS)
def test_a_report_of_each_kind_has_its_figures(tmp_path, capsys, kind, metric, agreement, score, labelled):
    found = result(kind, metric, labelled)
    report.write_report(found, epath.Path(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert agreement in text
    assert (score in text) == labelled and ("The texts have no labels" in text) != labelled
    assert "5.4 times as fast in float32, 4.9 times in bfloat16, 5.1 times" in text and "You asked for 5 times" in text
    assert "over 2,000 judged" in text and "depends on its own text alone." in text
    assert "| hidden 192, trial | 6 | 192 | 1 | 6,100,000 | 3.1 |" in text
    assert "| full | bfloat16 | 32 | 345.6 | 1.0 |" in text and "| hidden 128 | bfloat16 | 32 | 1,762.6 | 4.9 |" in text
    assert "| the rest | 2.0 |" in text
    assert "--model='runs/my model' --texts=FILE" in text and "mux-jax convert" in text
    assert not re.search(r"\bNone\b|\bnan\b", text)
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG") and not capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.json", "frontier.png"}


def test_no_percent_is_said_of_correlations():
    for text in sentences(result("regression", "pearson_spearman")).values():
        assert "%" not in text.replace("95 % interval", "") and "points" not in text
    assert "costs 0.009 of correlation" in sentences(result("regression", "pearson_spearman"))["Cost"]


@pytest.mark.parametrize("kind, metric", [case[:2] for case in KINDS])
def test_a_multiplexed_model_depends_on_its_row_mates(tmp_path, kind, metric):
    found = result(kind, metric, chosen="5 texts a row")
    report.write_report(found, epath.Path(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert "row-mates, the 4 other texts in its row: over 5 compositions" in text and "own text alone" not in text
    assert ("3.1 % of the judged texts changed their answer" in text) == (kind not in ("regression", "embedding"))
    several = "the cosine of a text with itself is 0.981, of one text in a hundred below 0.912; of a text alone" in text
    assert (several and "| 5 | 1.0 | 97.0 % | 0.861 |" in text) == (kind == "embedding")
    assert f"the standard deviation of {METRICS[metric]} is " in text
    assert (" is 0.004" if kind in ("regression", "embedding") else " is 0.4 points.") in text
    assert "launch/convert.py" not in text and not re.search(r"\bNone\b|\bnan\b", text)


def test_row_mates_change_the_correlation_of_numbers_without_labels():
    found = result("regression", "pearson_spearman", labelled=False, chosen="5 texts a row")
    assert sentences(found)["Row-mates"].endswith(
        "over 5 compositions the standard deviation of Pearson's correlation is 0.004."
    )


def test_two_texts_in_a_row_are_each_other_s_only_mate():
    found = result("sequence", "accuracy", chosen="5 texts a row")
    found["made"]["width"] = 2
    assert "its row-mate, the other text in its row: over 5" in sentences(found)["Row-mates"]


def advice(low: float, high: float, agreed: float = 0.95, labelled: bool = True, **others) -> str:
    found = result("sequence", "accuracy", labelled, agreed=agreed) | others
    if labelled:
        found["made"]["lost"] = {"value": (low + high) / 2, "low": low, "high": high}
    return sentences(found)["Advice"]


def test_advice_follows_from_the_interval_of_the_loss():
    assert advice(0.0, 0.019) == "We would take it: it costs less than 2 points of accuracy, by the interval."
    assert advice(0.01, 0.03) == (
        "We would take it only where this is acceptable: it may cost more than 2 points of accuracy. hidden 192 was "
        "nearer to the full model in its trial, at 3.1 times the speed. Ask for less (`--speedup=2.5`), judge it on "
        "more labelled texts, which narrows the interval, or keep the full model."
    )
    certain = advice(0.03, 0.05, speedup=2.0)
    assert certain.startswith("We would not take it: it costs more than 2 points") and "labelled texts" not in certain
    assert certain.endswith("Keep the full model.") and "--speedup" not in certain  # 1.0 would be no gain


def test_advice_follows_from_agreement_where_there_are_no_labels():
    assert advice(0, 0, 0.91, labelled=False).startswith("We would take it: it answers nine in ten or more")
    assert advice(0, 0, 0.89, labelled=False).startswith("We would not take it: it answers more than one text in ten")
    assert advice(0.0, 0.01, 0.89).startswith("We would take it only where this is acceptable")


def test_a_model_that_is_no_faster_is_not_advised():
    factors = {"float32": 1.0, "best": 1.0}
    assert advice(0.0, 0.01, factors=factors) == "Keep the full model: this one is no faster."


def test_less_speed_than_asked_for_is_said():
    found = result("sequence", "accuracy") | {"factors": {"float32": 3.04, "best": 3.04}}
    assert sentences(found)["Speed"] == (
        "It is 3.0 times as fast in float32, measured in turns on this machine: 2 x cpu, 2 cores, jax 0.10.2. You "
        "asked for more: 5 times."
    )
    assert "asked" not in sentences(found | {"speedup": None})["Speed"]


def test_a_gain_is_called_one():
    found = result("sequence", "accuracy")
    found["made"]["lost"] = {"value": -0.004, "low": -0.012, "high": 0.0042}
    assert "(hidden 128) gains 0.4 points of accuracy" in sentences(found)["Cost"]
    assert "interval of the loss: -1.2 to 0.4 points" in sentences(found)["Cost"]


def test_a_trial_that_failed_leaves_gaps_and_valid_json(tmp_path, capsys):
    found = result("sequence", "accuracy", chosen="1 layer")
    found["tried"][0] |= {"loss": float("nan"), "agreement": np.float32("nan")}
    report.write_report(found, epath.Path(tmp_path))
    assert "| 1.9 | – | – | 0.0003 |" in (tmp_path / "report.md").read_text() and not capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["tried"][0]["agreement"] is None


def test_a_summary_ends_with_where_to_go():
    found = result("sequence", "accuracy")
    lines = report.summary(found, epath.Path("runs/cheaper")).splitlines()
    assert lines[:5] == [f"{name}: {text}" for name, text in sentences(found).items()]
    assert lines[5:] == [
        "report: runs/cheaper/report.md",
        "next: mux-jax predict --model='runs/my model' --texts=FILE --output=predictions.jsonl",
    ]


def test_the_picture_has_trials_hollow_and_the_trained_model_filled(monkeypatch):
    figures = []
    monkeypatch.setattr(frontier, "save_figure", lambda figure, path: figures.append(figure))
    found = result("sequence", "accuracy")
    found["tried"][1]["score"] = {"accuracy": 0.893}
    for wanted in (found, result("sequence", "accuracy", labelled=False), found | {"speedup": None}):
        frontier.plot_frontier(wanted, epath.Path("frontier.png"))
    assert [len(figure.axes) for figure in figures] == [2, 1, 2]
    score, agreement = ({line.get_label(): line for line in axis.lines} for axis in figures[0].axes)
    assert score["hidden 192, trial"].get_xydata() == pytest.approx(np.array([[345.6 * 3.1, 89.3]]))
    assert np.isnan(score["hidden 128, trial"].get_ydata())
    assert agreement["hidden 128, trial"].get_xydata() == pytest.approx(np.array([[345.6 * 5.5, 93.0]]))
    assert agreement["hidden 128, trial"].get_markerfacecolor() == "none"
    assert agreement["hidden 128, trained"].get_xydata() == pytest.approx(np.array([[1762.6, 95.0]]))
    assert agreement["hidden 128, trained"].get_markerfacecolor() != "none"
    assert any(list(line.get_ydata()) == pytest.approx([94.01, 95.93]) for line in figures[0].axes[1].lines)
    assert agreement["full model"].get_xydata() == pytest.approx(np.array([[345.6, 100.0]]))
    assert list(agreement["asked for: 5 times"].get_xdata()) == [345.6 * 5] * 2
    assert "asked for: 5 times" not in [line.get_label() for line in figures[2].axes[0].lines]


def test_what_the_full_model_adds_is_said_and_drawn(tmp_path, monkeypatch):
    figures = []
    found = result("sequence", "accuracy", deferral=True)
    report.write_report(found, epath.Path(tmp_path))
    said = (
        "With the full model, which answers the 12.0 % of the texts of which it is least sure, it is 3.1 times as fast "
        "as the full model alone, measured in float32 (computed from the shares 3.3 times), and gives the full model's "
        "label to 98.1 % of the texts (95 % interval 97.5 to 98.7 %); it costs 0.4 points of accuracy (-0.1 to 0.9 "
        "points)."
    )
    text = (tmp_path / "report.md").read_text()
    assert said in text and "| 10.0 % | 12.0 % | 3.3 | 98.1 % | 89.5 % |" in text
    assert f"Deferral: {said}" in report.summary(found, epath.Path(tmp_path)).splitlines()
    monkeypatch.setattr(frontier, "save_figure", lambda figure, path: figures.append(figure))
    frontier.plot_frontier(found, epath.Path("frontier.png"))
    score, agreement = ({line.get_label(): line for line in axis.lines} for axis in figures[0].axes)
    speeds = [1762.6, 1 / (1 / 1762.6 + 0.12 / 345.6), 1 / (1 / 1762.6 + 1 / 345.6)]
    for axis, heights in ((score, [89.1, 89.5, 89.9]), (agreement, [95.0, 98.1, 100.0])):
        assert axis["with deferral"].get_xydata() == pytest.approx(np.array(list(zip(speeds, heights))))


def test_of_several_trials_of_one_means_the_nearest_counts(tmp_path, monkeypatch):
    found = result("sequence", "accuracy")
    nearest, others = found["tried"][2], found["tried"]
    worse = [nearest | {"loss": loss, "agreement": 0.5, "learning_rate": 0.7} for loss in (0.9, float("nan"))]
    found["tried"] = [worse[1], *others, worse[0]]
    report.write_report(found, epath.Path(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert text.count("| hidden 128, trial |") == 1 and "| 93.0 % | 0.123 | 0.0003 |" in text
    figures = []
    monkeypatch.setattr(frontier, "save_figure", lambda figure, path: figures.append(figure))
    frontier.plot_frontier(found, epath.Path("frontier.png"))
    shown = [line.get_label() for line in figures[0].axes[1].lines]
    assert shown.count("hidden 128, trial") == shown.count("hidden 128, trained") == 1
    found["made"]["lost"] = {"value": 0.02, "low": 0.01, "high": 0.03}
    assert "hidden 192 was nearer to the full model" in sentences(found)["Advice"]  # and hidden 256 no faster than that


@pytest.mark.parametrize(
    "kind, metric, agreement",
    [
        (
            "sequence",
            "accuracy",
            "gives the answer in votes.csv to 95.0 % of the texts (95 % interval 94.0 to 95.9 %; ",
        ),
        ("multi_label", "micro_f1", "gives the answer in votes.csv to 95.0 % of the texts (95 % interval 94.0 to"),
        ("regression", "pearson_spearman", "gives numbers that correlate with those in votes.csv at 0.950 (95 % inte"),
    ],
)
def test_answers_in_a_file_are_not_called_the_full_model_s(tmp_path, monkeypatch, kind, metric, agreement):
    found = result(kind, metric, labelled=False, learned_from="data/votes.csv")
    report.write_report(found, epath.Path(tmp_path))
    text = (tmp_path / "report.md").read_text()
    own = "0.931" if kind == "regression" else "93.1 %"
    assert agreement in text and f"; the full model: {own})" in text and "whether those answers are right" in text
    assert "Agreement is with the answers in `data/votes.csv`;" in text and f"| 1.0 | {own} |" in text
    assert "learning: the answers in votes.csv to these taught the others" in text
    assert "| trials | 10.0 |" in text and "| the rest | 4.0 |" in text
    assert "the full model's" not in text and "full model is right" not in text
    figures = []
    monkeypatch.setattr(frontier, "save_figure", lambda figure, path: figures.append(figure))
    frontier.plot_frontier(found, epath.Path("frontier.png"))
    (axis,) = figures[0].axes
    mark = next(line for line in axis.lines if line.get_label() == "full model")
    assert list(mark.get_ydata()) == pytest.approx([0.931 if kind == "regression" else 93.1])
    assert "with the given answers" in axis.get_ylabel()


def test_advice_compares_with_the_answers_in_a_file():
    def advised(agreed, of_full):
        found = result("sequence", "accuracy", False, agreed=agreed, learned_from="votes.csv")
        found["full"]["agreement"] = {"value": of_full}
        return sentences(found)["Advice"]

    assert advised(0.91, 0.95) == (
        "We would take it: it answers nine in ten or more of the judged texts as votes.csv does."
    )
    bad = advised(0.88, 0.89)
    assert bad.startswith("We would not take it: it answers more than one text in ten otherwise than votes.csv. ")
    assert "hidden 192 was nearer to votes.csv in its trial" in bad
    assert advised(0.89, 0.88) == "We would take it: it agrees with votes.csv no less than the full model does."


@pytest.mark.parametrize(
    "kind, labelled, certain",
    [
        ("sequence", 2000, "over 2,000 judged texts. One"),
        ("sequence", 0, "over 2,000 judged texts. One"),
        ("sequence", 500, "over 2,000 judged texts, and over 500 labelled ones for the score. One"),
        ("sequence", 2100, "over 2,000 judged texts, and over 2,100 labelled ones for the score. One"),
        ("token", 500, "over 2,000 judged sentences, and over 500 labelled ones for the score. One"),
    ],
)
def test_texts_with_labels_are_counted_apart(kind, labelled, certain, tmp_path):
    found = result(kind, "accuracy", bool(labelled))
    found["texts"]["labelled"] = labelled
    assert certain in sentences(found)["How sure"]
    report.write_report(found, epath.Path(tmp_path))
    shown = f"| labelled | {labelled:,} | the scores" in (tmp_path / "report.md").read_text()
    assert shown == ("labelled" in certain)


@pytest.mark.parametrize("kind, metric", [case[:2] for case in KINDS])
def test_the_report_says_what_was_counted_and_what_was_not(kind, metric, tmp_path):
    report.write_report(result(kind, metric), epath.Path(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert ("a trial counts every word piece, that of the trained model each word once" in text) == (kind == "token")
    assert (
        "| learn | 16,000 | learning: the full model's answers to these taught the others; 9,000 were learned " in text
    )
    purpose = "calibrating int8, if that is asked for" if kind == "embedding" else "setting when to ask the full model"
    assert f"| calibrate | 1,000 | {purpose} |" in text
    assert ("loss is the mean squared distance of embeddings, halved" in text) == (kind == "embedding")


def test_a_report_that_was_read_again_says_the_same(tmp_path):
    """Also of a shape that was asked for, which had no trial."""
    found = result("sequence", "accuracy", labelled=False, agreed=0.8)
    hidden_128 = found["tried"][2]
    for tried in ([], found["tried"][:2]):
        found["tried"] = [*tried, hidden_128 | {"loss": float("nan"), "agreement": float("nan")}]
        report.write_report(found, epath.Path(tmp_path))
        again = json.loads((tmp_path / "report.json").read_text())
        assert again["tried"][-1]["agreement"] is None
        assert sentences(again) == sentences(found) and "We would not take it" in sentences(found)["Advice"]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kind, metric", [case[:2] for case in KINDS])
def test_both_models_in_int8_stand_beside_the_full_one(tmp_path, kind, metric, labelled):
    report.write_report(result(kind, metric, labelled, int8=True), epath.Path(tmp_path))
    text = (tmp_path / "report.md").read_text()
    agreed = ("0.995 (0.991 to 0.999)", "0.948") if kind == "regression" else ("99.5 % (99.1 to 99.9 %)", "94.8 %")
    assert f"| full | 2.1 | {agreed[0]} |" in text and f"| hidden 128 | 9.9 | {agreed[1]} " in text
    assert "in turns with the full model in float32" in text and ("| lost |" in text) == labelled
