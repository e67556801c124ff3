"""`export`: a program of another runtime answers as the model does; what it cannot be is one line."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import mux_jax
from mux_jax.errors import InputError, TrainingError
from mux_jax.inference import export as module
from mux_jax.inference import runtimes
from mux_jax.inference.export import export
from tests.tasks import LABELS, finetuning, sentences, write_model, write_sentences

ROOT = Path(__file__).parents[2]
SEQUENCE = dict(head="sequence", labels=LABELS)
TAGS = dict(head="token", labels=("a", "b", "c"))
TEXTS = sentences(70)  # not a multiple of anything


@pytest.fixture(scope="module", autouse=True)
def one_device_for_all():
    """A program runs on one device: batches have as many rows then, and texts share rows with the same others."""
    with pytest.MonkeyPatch.context() as patch:
        one = jax.local_devices()[:1]
        patch.setattr(jax, "devices", lambda *backend: one)
        patch.setattr(jax, "local_devices", lambda: one)
        yield


def same(model, exported, texts=TEXTS, atol=1e-5):
    ours, theirs = (mux_jax.Predictor(str(path), rows=4).logits(texts) for path in (model, exported))
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, atol=atol)


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("m") / "double", sharpen=True, **SEQUENCE)


@pytest.fixture(scope="module")
def program(double, tmp_path_factory):
    folder = tmp_path_factory.mktemp("x") / "program"
    export(str(double), str(folder), "stablehlo")
    return folder


def test_a_program_answers_as_the_model_for_any_number_of_texts(double, program, capsys):
    same(double, program)
    same(double, program, TEXTS[:1])
    assert not {"checkpoints", "model.safetensors"} & {path.name for path in program.iterdir()}
    about = json.loads((program / "export.json").read_text())
    assert about["source"] == str(double) and about["difference"] < 1e-5 and about["inputs"] == ["tokens"]
    assert about["model"]["labels"] == list(LABELS)


def test_the_command_and_what_takes_its_folder(double, tmp_path):
    command = [sys.executable, "launch/export.py", f"--model={double}", f"--workdir={tmp_path}/x"]
    command += ["--format=stablehlo", "--lengths=8,24"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"float32, width 2; its outputs differ .* by at most \d\.\de-\d\d, .* agree in 100.0%", done.stdout
    )
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and "exists; name another folder" in again.stderr
    data = write_sentences(tmp_path / "data")
    scores = [
        mux_jax.evaluate(
            finetuning(data, "", **{"data.bucket_lengths": "8,24"}),
            str(model),
            str(tmp_path / f"e{i}"),
            given=["data.bucket_lengths"],
        )
        for i, model in enumerate((double, tmp_path / "x"))
    ]
    assert scores[0]["score"] == scores[1]["score"] and scores[1]["dtype"] == "float32"


def test_a_program_that_is_not_the_model_is_not_written(double, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "open_program", lambda *_: lambda tokens: np.zeros((*tokens.shape[:2], 2), np.float32))
    with pytest.raises(TrainingError, match="is not the model: logits differ by up to .*; nothing is written"):
        export(str(double), str(tmp_path / "x"), "stablehlo")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("int8, value", [(False, np.nan), (True, np.nan), (True, np.inf)])
def test_a_program_whose_logits_are_no_numbers_is_not_written(double, tmp_path, monkeypatch, int8, value):
    broken = lambda tokens: np.full((*tokens.shape[:2], 2), value, np.float32)  # noqa: E731
    monkeypatch.setattr(module, "open_program", lambda *_: broken)
    monkeypatch.setattr(module, "_write", lambda *_: None)
    monkeypatch.setattr(module, "require", lambda *_: None)
    with pytest.raises(TrainingError, match="is not the model"):
        export(str(double), str(tmp_path / "x"), "onnx", int8=int8)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(format="tflite"), "--format=tflite does not exist; there are: onnx, openvino, stablehlo"),
        (dict(format="stablehlo", int8=True), "--int8 is for --format=onnx and openvino"),
        (dict(format="openvino", int8=True), "--int8 needs --calibrate=FILE"),
        (dict(format="stablehlo", lengths=[8, 4000]), "--lengths=8,4000 must be from 3 to 40"),
        (dict(format="stablehlo", calibrate="no.txt"), "no.txt"),
        (dict(format="onnx"), "--format=onnx needs jax2onnx and onnxruntime: pip install 'mux_jax\\[export\\]'"),
    ],
)
def test_what_cannot_be_is_said_before_work(double, tmp_path, arguments, message, monkeypatch):
    monkeypatch.setattr(runtimes, "installed", lambda name: name == "flatbuffers")
    with pytest.raises(InputError, match=message):
        export(str(double), str(tmp_path / "x"), **arguments)


def test_a_model_without_labels_is_not_exported(tmp_path):
    model = write_model(tmp_path / "m", head="mlm")
    with pytest.raises(InputError, match="has the head 'mlm'; name a model that is fine-tuned"):
        export(str(model), str(tmp_path / "x"), "stablehlo")


def test_an_export_is_for_predictions_alone(double, program, tmp_path):
    said = f"is an export, for predict and evaluate alone; its model is {double}"
    data = write_sentences(tmp_path / "data")
    for use in (
        lambda: mux_jax.load_pretrained(str(program)),
        lambda: mux_jax.compress(str(program), str(tmp_path / "c"), layers=1),
        lambda: mux_jax.train(finetuning(data, program), str(tmp_path / "t")),
    ):
        with pytest.raises(InputError, match=said):
            use()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    with pytest.raises(InputError, match="its products are of float32; leave out dtype=bfloat16"):
        mux_jax.Predictor(str(program), dtype="bfloat16")
    with pytest.raises(InputError, match="was made for single texts, not for pairs|takes no token types"):
        single = write_model(tmp_path / "single", width=1, **SEQUENCE)
        export(str(single), str(tmp_path / "x"), "stablehlo")
        mux_jax.Predictor(str(tmp_path / "x")).predict([("time", "river")])


def test_a_broken_export_is_one_line(program, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(program, broken)
    (broken / "model.stablehlo").write_bytes(b"no program")
    with pytest.raises(InputError, match="model.stablehlo: JAX does not read it"):
        mux_jax.Predictor(str(broken))
    (broken / "model.stablehlo").unlink()
    with pytest.raises(InputError, match="model.stablehlo is missing; run launch/export.py again"):
        mux_jax.Predictor(str(broken))
    (broken / "export.json").write_text('{"format": "onnx"}')
    with pytest.raises(InputError, match="export.json is not what launch/export.py writes"):
        mux_jax.Predictor(str(broken))


FAMILIES = {
    name: dict(architecture=name, width=1, **head)
    for name, head in zip(
        ("bert", "distilbert", "roberta", "mpnet", "electra", "modernbert"), (TAGS, SEQUENCE, TAGS, SEQUENCE) * 2
    )
}
MULTIPLEXED = {
    "contextual": dict(multiplexer="contextual", **TAGS),
    "binary": dict(multiplexer="binary", **SEQUENCE),
    "orthogonal": dict(multiplexer="orthogonal", **SEQUENCE),
    "low_rank": dict(multiplexer="low_rank_orthogonal", width=4, **TAGS),
    "electra_2": dict(architecture="electra", **SEQUENCE),
    "prefix": dict(demultiplexer="prefix", prefix_token_id=100, cls_token_id=2, **SEQUENCE),
    "prefix_tags": dict(demultiplexer="prefix", prefix_token_id=100, cls_token_id=2, **TAGS),
    "regression": dict(head="sequence", labels=("score",)),
    "several": dict(head="sequence", labels=LABELS, multi_label=True),
}


@pytest.mark.extra
@pytest.mark.parametrize("name", [*FAMILIES, *MULTIPLEXED])
def test_all_families_heads_and_ways_to_share_a_row_run_in_onnx_runtime(name, tmp_path):
    model = write_model(tmp_path / "model", **(FAMILIES | MULTIPLEXED)[name])
    assert export(str(model), str(tmp_path / "x"), "onnx")["difference"] < 1e-5
    same(model, tmp_path / "x")


@pytest.mark.extra
@pytest.mark.parametrize("name", ["mpnet", "contextual", "prefix_tags"])
def test_openvino_answers_as_the_model(name, tmp_path):
    model = write_model(tmp_path / "model", **(FAMILIES | MULTIPLEXED)[name])
    assert export(str(model), str(tmp_path / "x"), "openvino")["difference"] < 1e-5
    same(model, tmp_path / "x")


@pytest.mark.extra
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_answers_nearly_as_the_model(format, double, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(sentences(300, seed=1)))
    found = export(str(double), str(tmp_path / "x"), format, int8=True, calibrate=str(tmp_path / "texts.txt"))
    assert 1e-4 < found["difference"] < 3 and found["agreement"] > 0.95
    ours, theirs = (mux_jax.Predictor(str(path)).predict(TEXTS) for path in (double, tmp_path / "x"))
    assert np.mean([x["label"] == y["label"] for x, y in zip(ours, theirs)]) > 0.95


def test_an_export_may_be_either_model_of_a_deferral(double, program, tmp_path):
    cheaper, given = tmp_path / "cheaper", sentences(200, seed=3)
    shutil.copytree(program, cheaper)
    for model, full in ((cheaper, double), (write_model(tmp_path / "m", **SEQUENCE), program)):
        mux_jax.fit_deferral(str(model), str(full), given, aim=0.3)
        found = mux_jax.Predictor(str(model), defer="auto").predict(TEXTS, keep_model=True)
        assert {x["answered_by"] for x in found} == {str(model), str(full)}


@pytest.mark.extra
@pytest.mark.parametrize("int8", [False, True])
def test_a_folder_that_does_not_say_its_task_may_be_of_pairs(tmp_path, int8):
    model = write_model(tmp_path / "model", width=1, **SEQUENCE)
    lines = "".join(f"{a}\t{b}\n" for a, b in zip(TEXTS, TEXTS[::-1]))
    (tmp_path / "pairs.tsv").write_text(f"first\tsecond\n{lines}")
    given = dict(int8=int8, calibrate=str(tmp_path / "pairs.tsv"), text_columns="first,second")
    export(str(model), str(tmp_path / "x"), "openvino", **given)
    assert json.loads((tmp_path / "x" / "export.json").read_text())["inputs"] == ["tokens", "token_types"]
    same(model, tmp_path / "x", list(zip(TEXTS, TEXTS[::-1])), atol=0.05 if int8 else 1e-5)


@pytest.mark.extra
def test_a_pair_has_its_token_types(tmp_path):
    rows = "".join(f"{a}\t{b}\t{LABELS[i % 2]}\n" for i, (a, b) in enumerate(zip(TEXTS, TEXTS[::-1])))
    (tmp_path / "data").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "data" / f"{split}.tsv").write_text("first\tsecond\tlabel\n" + rows)
    start = write_model(tmp_path / "model", width=1, **SEQUENCE)
    config = finetuning(tmp_path / "data", start, **{"data.text_columns": "first,second"})
    mux_jax.train(config, str(tmp_path / "run"))
    export(str(tmp_path / "run"), str(tmp_path / "x"), "onnx")
    assert json.loads((tmp_path / "x" / "export.json").read_text())["inputs"] == ["tokens", "token_types"]
    same(tmp_path / "run", tmp_path / "x", list(zip(TEXTS, TEXTS[::-1])))
    same(tmp_path / "run", tmp_path / "x", TEXTS)


@pytest.mark.extra
def test_the_lines_of_the_document_run_without_this_project(double, tmp_path, monkeypatch, capsys):
    export(str(double), str(tmp_path / "DIR"), "onnx")
    (lines,) = re.findall(r"```python\n(import json.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(lines, {})
    labels = ast.literal_eval(capsys.readouterr().out)
    assert len(labels) == 4 and set(labels) <= set(LABELS)
