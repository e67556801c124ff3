"""Class weights: where they come from, what a run does with them, and which are refused."""

import jax
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

import mux_jax
from mux_jax import configuration
from mux_jax.checkpoints.source import open_model
from mux_jax.errors import InputError
from mux_jax.training import loop
from mux_jax.training.finetune_data import load_finetune_data
from mux_jax.training.workdir import open_workdir
from tests.tasks import finetuning as task_config
from tests.tasks import write_model, write_sentences, write_words


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "m")


def load(data, model, workdir, kind="sequence", **fields):
    config = task_config(data, model, kind, **{f"finetuning.{name}": value for name, value in fields.items()})
    found = open_model(str(model))
    resolved = configuration.resolve(config, found.config)
    return load_finetune_data(resolved, open_workdir(str(workdir), resolved), found, None)


@pytest.mark.parametrize(("kind", "write"), [("sequence", write_sentences), ("token", write_words)])
def test_balanced_weights_are_scikit_learns_and_go_with_the_labels(kind, write, model, tmp_path, capsys):
    data = load(write(tmp_path / "data"), model, tmp_path / "run", kind, class_weights="balanced")
    labels = [e.label for e in data.examples.splits["train"].examples]
    labels = np.array(sum(labels, []) if kind == "token" else labels)
    expected = compute_class_weight("balanced", classes=np.array(data.examples.labels), y=labels)
    np.testing.assert_allclose(data.class_weights, expected, rtol=1e-6)
    shown = ", ".join(f"{label} {w:.4g}" for label, w in zip(data.examples.labels, expected))
    assert f"labels and their weights: {shown}" in capsys.readouterr().out
    batch = data.batches(np.arange(4))[0]
    known = batch["labels"] >= 0
    np.testing.assert_array_equal(batch["weights"][known], data.class_weights[batch["labels"][known]])


def test_weights_are_in_the_order_of_the_labels_that_is_printed(model, tmp_path, capsys):
    folder = write_sentences(tmp_path / "data")
    assert load(folder, model, tmp_path / "a").class_weights is None
    assert "labels: fruit, stone\n" in capsys.readouterr().out
    assert load(folder, model, tmp_path / "b", class_weights="1,2.5").class_weights.tolist() == [1.0, 2.5]
    assert "labels and their weights: fruit 1, stone 2.5\n" in capsys.readouterr().out


@pytest.mark.extra  # for its time
def test_a_run_with_weights_learns_something_else_and_continues_to_the_same(model, tmp_path, monkeypatch, one_device):
    folder, check = write_sentences(tmp_path / "data"), loop.Trainer.check_finite

    def interrupt(self, stage, step, means):
        check(self, stage, step, means)
        if step == 6:
            self.checkpoints.wait()
            raise KeyboardInterrupt

    def run(name, weights="balanced"):
        config = task_config(folder, model, **{"finetuning.class_weights": weights})
        return loop.train(config, str(tmp_path / name))["score"]

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "check_finite", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    assert run("stopped") == run("whole")
    run("one", "0,1")  # all else is left out
    stopped, whole, one = (mux_jax.load_pretrained(str(tmp_path / n))[1] for n in ("stopped", "whole", "one"))
    jax.tree.map(np.testing.assert_array_equal, stopped, whole)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), whole, one)))
    assert {p["label"] for p in mux_jax.Predictor(str(tmp_path / "one"), rows=8).predict(["time", "engine"])} == {
        "stone"
    }


@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        ("1,2,3", "sequence", "class_weights='1,2,3' has 3 numbers, not 2: the labels are fruit, stone"),
        ("1,x", "sequence", "class_weights='1,x' must be balanced, or numbers of at least 0"),
        ("1,-1", "sequence", "class_weights='1,-1' must be balanced"),
        ("0,0", "sequence", "class_weights='0,0' must be .* not all of them 0"),
        ("1,inf", "sequence", "class_weights='1,inf' must be balanced"),
        ("balanced", "regression", "class_weights='balanced': a task of kind regression has no"),
        ("1", "regression", "class_weights='1': a task of kind regression has no"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_training(weights, kind, message, model, tmp_path, one_device):
    config = task_config(write_sentences(tmp_path / "data"), model, kind, **{"finetuning.class_weights": weights})
    with pytest.raises(InputError, match=message):
        loop.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
