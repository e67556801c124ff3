"""Scores on files by name, and GLUE's submissions, which need no labels."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

import mux_jax
from mux_jax import configuration
from mux_jax.errors import InputError
from mux_jax.inference.evaluation import write_submission
from mux_jax.inference.glue import FILES
from tests.tasks import LABELS, write_model, write_sentences
from tests.tasks import finetuning as task_config
from tests.tfds_folder import write_prepared

ROOT = Path(__file__).parents[2]
# The header lines of test files as GLUE distributes them; a row has an index and texts.
HEADERS = {
    "cola": "index\tsentence",
    "sst2": "index\tsentence",
    "mrpc": "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "stsb": "index\tgenre\tfilename\tsentence1\tsentence2",
    "qqp": "id\tquestion1\tquestion2",
    "mnli": "index\tpromptID\tpairID\tsentence1\tsentence2",
    "qnli": "index\tquestion\tsentence",
    "rte": "index\tsentence1\tsentence2",
    "wnli": "index\tsentence1\tsentence2",
}
CLASSES = {
    "mnli": ("contradiction", "entailment", "neutral"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
    "stsb": ("score",),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """labels -> a model with them."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def model(labels=LABELS):
        if labels not in made:
            made[labels] = write_model(folder / str(len(made)), head="sequence", labels=labels)
        return str(made[labels])

    return model


def glue(task, data, **fields):
    config = configuration.finetuning(task, str(data), 0)
    config.rows = 4
    config.update_from_flattened_dict(fields)
    return config


def test_a_test_set_and_a_file_are_scored_by_name(models, tmp_path, one_device):
    data = write_sentences(tmp_path / "data")
    shutil.copy(data / "train.tsv", data / "test.tsv")
    (tmp_path / "more").mkdir()
    shutil.copy(data / "dev.tsv", tmp_path / "more" / "odd [1].tsv")

    def score(name, **where):
        return mux_jax.evaluate(task_config(data, ""), models(), str(tmp_path / name), **where)

    dev, test = score("a"), score("b", split="test")
    file = score("c", texts=str(tmp_path / "more" / "odd [1].tsv"))
    assert (dev["examples"], test["examples"], file["examples"]) == (13, 40, 13)
    assert (list(test["splits"]), list(file["splits"])) == (["test"], ["odd [1].tsv"])
    assert file["score"] == dev["score"]
    with pytest.raises(InputError, match="give --texts=x.tsv or --split=test, not both"):
        score("d", split="test", texts="x.tsv")
    with pytest.raises(InputError, match="no file for the split 'test'; it may be called test.tsv, test.csv"):
        (data / "test.tsv").unlink()
        score("d", split="test")
    (data / "test.tsv").write_text("index\ttext\n0\ttime\n")
    with pytest.raises(InputError, match="no column 'label'; .*without labels there is no score: --submission=DIR"):
        score("d", split="test")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("task", FILES)
def test_a_submission_has_the_benchmarks_files_labels_and_indices(task, models, tmp_path, one_device, capsys):
    columns = HEADERS[task].split("\t")
    rows = "".join("\t".join([str(i), *[f"time {i} river"] * (len(columns) - 1)]) + "\n" for i in (7, 3, 5))
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for split in ("test_matched", "test_mismatched") if task == "mnli" else ("test",):
        (data / f"{split}.tsv").write_text(f"{HEADERS[task]}\n{rows}")
    write_submission(glue(task, data), models(CLASSES.get(task, ("0", "1"))), str(out))
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES[task])
    shown = capsys.readouterr().out
    for name in FILES[task]:
        assert f"{out / name}\n" in shown
        header, *lines = (out / name).read_text().splitlines()
        indices, predictions = zip(*(line.split("\t") for line in lines))
        assert header == "index\tprediction"
        assert indices == ("7", "3", "5")
        if task == "stsb":
            assert all(0 <= float(p) <= 5 and len(p) == 5 for p in predictions)
        else:
            assert set(predictions) <= set(CLASSES.get(task, ("0", "1")))


def test_a_submission_predicts_as_the_model_does_and_in_the_benchmarks_names(tmp_path, one_device):
    model = write_model(tmp_path / "m", width=1, head="sequence", labels=("negative", "positive"))
    texts = ["time river", "stone light garden", "engine", "doctor doctor"]
    (tmp_path / "test.tsv").write_text("index\tsentence\n" + "".join(f"{i}\t{t}\n" for i, t in enumerate(texts)))
    write_submission(glue("sst2", tmp_path), str(model), str(tmp_path / "out"))
    number = {"negative": "0", "positive": "1"}
    labels = [number[p["label"]] for p in mux_jax.Predictor(str(model), rows=4).predict(texts)]
    expected = "".join(f"{i}\t{label}\n" for i, label in enumerate(labels))
    assert (tmp_path / "out" / "SST-2.tsv").read_text() == "index\tprediction\n" + expected


def test_tfds_has_test_sets_too_whose_label_of_minus_one_is_none(models, tmp_path, one_device):
    records = [{"sentence": "time", "label": -1, "idx": 4}, {"sentence": "river", "label": -1, "idx": 2}]
    label = tfds.features.ClassLabel(names=["negative", "positive"])
    features = {"sentence": tfds.features.Text(), "label": label, "idx": np.int32}
    write_prepared(tmp_path / "glue" / "sst2" / "2.0.0", features, {"test": records})
    config = glue("sst2", "", **{"data.tfds_dir": str(tmp_path)})
    model = models(("negative", "positive"))
    write_submission(config, model, str(tmp_path / "out"))
    lines = (tmp_path / "out" / "SST-2.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["index", "4", "2"]
    with pytest.raises(
        InputError, match="glue/sst2:test:0: label -1 has no name, .*; without labels there is no score"
    ):
        mux_jax.evaluate(config, model, str(tmp_path / "scores"), split="test")


@pytest.mark.extra  # for its time
def test_submissions_that_the_benchmark_does_not_take_are_refused(models, tmp_path, one_device):
    for config, labels, message in (
        (task_config(tmp_path, ""), LABELS, "task=custom is none of GLUE's; they are: cola, sst2, mrpc"),
        (glue("sst2", tmp_path), LABELS, "the model's label 'fruit' is none of 0, 1, negative, positive"),
        (glue("sst2", tmp_path), ("0", "1"), "no file for the split 'test'"),
    ):
        with pytest.raises(InputError, match=message):
            write_submission(config, models(labels), str(tmp_path / "out"))
    (tmp_path / "test.tsv").write_text("id\tquestion1\tquestion2\n0\ta\tb\n1\tbroken\n")
    with pytest.raises(InputError, match="test.tsv:3: 2 columns, not 3"):  # left out, the others would be misnumbered
        write_submission(glue("qqp", tmp_path), models(("0", "1")), str(tmp_path / "out"))
    with pytest.raises(InputError, match="task=docstrings has no split 'test'; there are: train, dev"):
        mux_jax.evaluate(glue("docstrings", ""), models(), str(tmp_path / "scores"), split="test")
    assert not (tmp_path / "out").exists() and not (tmp_path / "scores").exists()


@pytest.mark.extra  # for its time
def test_the_program_scores_a_test_set_and_writes_a_submission(models, tmp_path):
    (tmp_path / "test.tsv").write_text("sentence\tlabel\ntime\t0\nriver\t1\n")
    config = f"--config=configs/finetune.py:task=sst2,data={tmp_path}"

    def run(*flags):
        command = [sys.executable, "launch/evaluate.py", config, f"--model={models(('0', '1'))}", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = run("--split=test", f"--workdir={tmp_path / 'scores'}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "scores" / "result.json").read_text())["examples"] == 2
    assert run(f"--submission={tmp_path / 'out'}").returncode == 0
    assert (tmp_path / "out" / "SST-2.tsv").read_text().count("\n") == 3
    refused = run(f"--submission={tmp_path / 'out'}", "--texts=x.tsv")
    assert refused.returncode == 2 and "leave out --texts, --workdir, --compare and --defer" in refused.stderr
