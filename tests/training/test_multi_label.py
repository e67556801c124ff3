"""A model of several labels a text learns, is scored, and says of each text which labels it has."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import mux_jax
from mux_jax import configuration
from mux_jax.checkpoints.source import open_model
from mux_jax.errors import InputError
from mux_jax.inference import files
from mux_jax.inference.records import Reading
from mux_jax.models.config import ModelConfig
from mux_jax.training import loop
from mux_jax.training.finetune_data import load_finetune_data
from mux_jax.training.workdir import open_workdir
from tests.conftest import WORDS, small_model
from tests.tasks import finetuning as task_config
from tests.tasks import sentences, write_model, write_sentences

ROOT = Path(__file__).parents[2]
NAMES = tuple(WORDS[:3])  # a text has the labels whose words are in it


def write_flags(folder, train=200, dev=30):
    """Files with a column of 0 and 1 for each of NAMES."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", train, 0), ("dev", dev, 1)):
        rows = [",".join([s, *(str(int(name in s.split())) for name in NAMES)]) for s in sentences(count, seed)]
        (folder / f"{split}.csv").write_text("\n".join([",".join(["text", *NAMES]), *rows]) + "\n")
    return folder


def flag_config(data, model, **fields):
    return task_config(data, model, "multi_label", **{"data.label_column": ",".join(NAMES)} | fields)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    # Of a classifier without a pooler, which a fresh one would take longer to learn through.
    return write_model(tmp_path_factory.mktemp("model") / "plain", width=1, head="sequence", labels=("x", "y"))


@pytest.fixture(scope="module")
def finished(plain, tmp_path_factory):
    """A finished run: (workdir, result, data)."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        one = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *backend: one)
        config = flag_config(write_flags(folder / "data"), plain, rows=16, **{"data.bucket_lengths": "24"})
        config.finetuning.update(steps=150, learning_rate=5e-3)
        config.eval.every = config.checkpoint.every = 75
        return folder / "run", loop.train(config, str(folder / "run")), folder / "data"


def test_a_run_learns_which_labels_texts_have(finished):
    workdir, result, _ = finished
    assert result["metric"] == "micro_f1" and result["score"]["mean"] > 0.95
    assert set(result["splits"]["dev"]) == {"micro_f1", "macro_f1", "subset_accuracy"}
    assert not (workdir / "confusion.png").exists()
    config = mux_jax.load_pretrained(str(workdir))[0].config
    assert (config.head, config.labels, config.multi_label) == ("sequence", NAMES, True)


def test_predictions_are_the_labels_that_reach_the_threshold(finished, one_device):
    texts = [f"{NAMES[0]} {WORDS[5]} {NAMES[2]}", WORDS[7]]
    found = mux_jax.Predictor(str(finished[0]), rows=4).predict(texts)
    assert [prediction["labels"] for prediction in found] == [[NAMES[0], NAMES[2]], []]
    probabilities = found[0]["probabilities"]
    assert tuple(probabilities) == NAMES and sum(probabilities.values()) > 1.5
    least = min(probabilities.values())
    every = mux_jax.Predictor(str(finished[0]), rows=4, threshold=least).predict(texts[:1])[0]
    assert every["labels"] == list(NAMES)
    few = mux_jax.Predictor(str(finished[0]), rows=4, threshold=max(probabilities.values()) + 1e-6).predict(texts[:1])[
        0
    ]
    assert few["labels"] == [] and few["probabilities"] == probabilities


def test_scores_have_a_threshold_too_and_test_sets_need_labels(finished, tmp_path, one_device):
    workdir, result, data = finished
    config = flag_config(data, "")
    assert mux_jax.evaluate(config.copy_and_resolve_references(), str(workdir))["score"] == result["score"]
    config.data.metric, config.threshold = "macro_f1", 0.9999
    found = mux_jax.evaluate(config, str(workdir), str(tmp_path / "scores"), texts=str(data / "train.csv"))
    assert found["metric"] == "macro_f1" and found["score"]["mean"] < 0.5
    (data / "test.csv").write_text("text\ntime\n")
    with pytest.raises(InputError, match=f"test.csv: no column '{NAMES[0]}'; .*without labels there is no score"):
        mux_jax.evaluate(config, str(workdir), str(tmp_path / "test"), split="test")


def test_a_run_from_before_there_were_thresholds_goes_on(finished, tmp_path):
    described = json.loads((finished[0] / "config.json").read_text())
    resolved = configuration.from_mapping(configuration.FinetuneConfig, described)
    del described["threshold"]
    (tmp_path / "config.json").write_text(json.dumps(described))
    open_workdir(str(tmp_path), resolved)


@pytest.mark.parametrize("end", ["jsonl", "tsv"])
def test_files_have_all_labels_of_a_text(end, finished, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        f'{{"text": "{NAMES[0]} {NAMES[1]}"}}\n{{"text": 3}}\n{{"text": "{WORDS[7]}"}}\n'
    )
    output = tmp_path / f"out.{end}"
    command = [sys.executable, "launch/predict.py", "--model", finished[0], "--texts", tmp_path / "in.jsonl"]
    command += ["--output", output, "--on_error=skip", "--max_errors=0.5", "--threshold=0.6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if end == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert [row.get("labels") for row in rows] == [[NAMES[0], NAMES[1]], None, []]
        assert set(rows[2]) == {"labels", "probabilities"}
    else:
        header, *rows = (line.split("\t") for line in output.read_text().splitlines())
        assert header == ["labels", *(f"probability_{name}" for name in NAMES), "error"]
        assert [row[0] for row in rows] == [f"{NAMES[0]},{NAMES[1]}", "", ""] and "no text" in rows[1][-1]
    files.check_output(str(output), "in.jsonl", overwrite=True)  # known as predictions


def test_a_table_does_not_hold_labels_with_commas(tmp_path, one_device):
    model = write_model(tmp_path / "m", head="sequence", labels=("a, b", "c"), multi_label=True)
    predictor = mux_jax.Predictor(str(model), rows=4)
    (tmp_path / "in.txt").write_text("time\n")
    source, columns = files.check_input(str(tmp_path / "in.txt"), ("text",), ())
    for end in ("jsonl", "tsv"):
        output = files.check_output(str(tmp_path / f"out.{end}"), "", False)
        if end == "tsv":
            with pytest.raises(
                InputError, match="out.tsv: commas stand between labels, and the label 'a, b' holds one"
            ):
                files.predict_file(predictor, source, Reading(columns=columns), output)
        else:
            assert files.predict_file(predictor, source, Reading(columns=columns), output)["rows"] == 1


def test_an_ensemble_averages_logits(tmp_path, one_device):
    model = write_model(tmp_path / "m", head="sequence", labels=("a", "b"), multi_label=True)
    found = mux_jax.Predictor(str(model), rows=1, ensemble=2).predict(["time river"])[0]
    model, params = mux_jax.load_pretrained(str(model))
    ids = open_model(str(tmp_path / "m")).tokenizer().backend.encode("time river").ids
    tokens = np.zeros((1, 2, 40), int)  # the length that its rows are taken to have
    tokens[0, :, : len(ids)] = ids
    logits = np.asarray(model.apply({"params": params}, tokens, tokens != 0), float)[0].mean(axis=0)
    np.testing.assert_allclose(list(found["probabilities"].values()), 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_texts_of_the_teacher_and_slots_that_only_fill_have_no_labels(finished, plain, tmp_path):
    workdir, _, data = finished
    config = flag_config(data, plain, teacher=str(workdir), **{"model.width": 2})
    init = open_model(str(plain))
    resolved = configuration.resolve(config, init.config)
    loaded = load_finetune_data(resolved, open_workdir(str(tmp_path / "run"), resolved), init, open_model(str(workdir)))
    batches = loaded.batches(np.arange(resolved.rows))
    seen, unknown = [], 0
    for step in range(batches.per_epoch):
        labels = batches[step]["labels"]
        assert labels.shape == (4, 2, 3) and labels.dtype == np.int32
        rows = labels.reshape(-1, 3)
        known = (rows >= 0).all(axis=1)
        assert (rows[~known] == -1).all()
        seen += rows[known].tolist()
        unknown += (~known).sum()
    labels = [e.label for e in loaded.examples.splits["train"].examples]
    assert sorted(seen) == sorted([int(name in label) for name in NAMES] for label in labels)
    assert unknown >= 200  # as many joined texts as examples


@pytest.mark.extra  # for its time
def test_a_multiplexed_model_is_distilled(finished, plain, tmp_path, one_device):
    workdir, _, data = finished
    config = flag_config(data, plain, teacher=str(workdir), **{"model.width": 2})
    assert loop.train(config, str(tmp_path / "run"))["width"] == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["teacher_loss"] >= 0 for row in rows if "teacher_loss" in row)


def test_what_several_labels_do_not_have_is_refused(finished, plain, tmp_path, one_device):
    workdir, _, data = finished
    single = write_model(tmp_path / "single", width=1, head="sequence", labels=NAMES)
    for fields, message in (
        ({"finetuning.class_weights": "balanced"}, "class_weights='balanced': a multi_label task has none"),
        ({"data.metric": "accuracy"}, "data.metric='accuracy': a task of kind multi_label has micro_f1, macro_f1"),
        ({"threshold": 1.0}, r"threshold=1.0 must be in \(0, 1\)"),
        ({"teacher": str(single)}, "the task has several labels a text or none; it gives one"),
    ):
        with pytest.raises(InputError, match=message):
            loop.train(flag_config(data, plain, **fields), str(tmp_path / "run"))
    other = write_sentences(tmp_path / "other")
    with pytest.raises(InputError, match="threshold=0.3: a sequence task has none, only multi_label"):
        loop.train(task_config(other, plain, threshold=0.3), str(tmp_path / "run"))
    with pytest.raises(InputError, match="gives one label a text; task=custom is a multi_label task"):
        mux_jax.evaluate(flag_config(data, ""), str(single), str(tmp_path / "scores"))
    with pytest.raises(InputError, match="gives several labels a text or none; task=custom is a sequence task"):
        mux_jax.evaluate(task_config(other, ""), str(workdir))
    with pytest.raises(InputError, match="threshold=0 must be between 0 and 1"):
        mux_jax.Predictor(str(workdir), threshold=0)
    with pytest.raises(InputError, match="single: threshold=0.3 is of models with several labels a text"):
        mux_jax.Predictor(str(single), threshold=0.3)


def test_only_two_labels_or_more_of_a_text_can_be_several():
    for changes in (dict(head="sequence", labels=("a",)), dict(head="token", labels=("a", "b")), dict(head="mlm")):
        with pytest.raises(InputError, match="multi_label=True needs model.head='sequence'"):
            small_model(**changes, multi_label=True)
    config = small_model(head="sequence", labels=("a", "b"), multi_label=True)
    assert ModelConfig.from_flat(json.loads(json.dumps(config.to_flat()))) == config
    assert not config.without_head.multi_label
