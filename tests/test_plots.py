"""Pictures show labels as they are, and end no run."""

import matplotlib.pyplot
import pytest
from etils import epath

from mux_jax.inference.reports import plot_confusion, plot_scores
from mux_jax.plots import drawing, pyplot


@pytest.mark.parametrize("labels", [("$", "$$"), ("$100^$200", r"\frac{1}{"), ("a_b^c", "中文"), ("[b]x[/b]", "%")])
def test_labels_are_drawn_as_they_are(tmp_path, labels, capsys):
    plot_confusion([labels[0], labels[1]], [labels[0], labels[0]], labels, epath.Path(tmp_path / "confusion.png"))
    result = {"task": labels[0], "metric": labels[1], "width": 2, "effective_width": 2, "ensemble": 1}
    plot_scores([result | {"score": {"mean": 0.5, "std": 0.0}}], epath.Path(tmp_path / "scores.png"))
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.png", "scores.png"} and not capsys.readouterr().out


def test_a_label_with_dollars_is_no_formula(tmp_path):
    with drawing(epath.Path(tmp_path / "x.png")):
        figure, axis = pyplot().subplots()
        axis.set_xlabel("$x^2$")
        figure.canvas.draw()
    assert not axis.xaxis.label.get_parse_math()
    matplotlib.pyplot.close(figure)


def test_a_picture_that_cannot_be_drawn_is_told_and_ends_nothing(tmp_path, capsys):
    with drawing(epath.Path(tmp_path / "x.png")):
        raise ValueError("no such font")
    assert capsys.readouterr().out == f"{tmp_path}/x.png: not drawn: ValueError: no such font\n"


def test_settings_of_a_notebook_stay_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib.backends.backend_svg")
    matplotlib.pyplot.switch_backend("svg")
    before = dict(matplotlib.rcParams)
    plot_confusion(["a", "b"], ["a", "a"], ("a", "b"), epath.Path(tmp_path / "confusion.png"))
    assert (
        (tmp_path / "confusion.png").exists()
        and matplotlib.get_backend() == "svg"
        and dict(matplotlib.rcParams) == before
    )
    matplotlib.pyplot.switch_backend("agg")
