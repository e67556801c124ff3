"""The benchmark's rows, from the command line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mux_jax.benchmark import cases, command, embedding, other_runtimes, serving
from mux_jax.benchmark.measure import Case, measure
from mux_jax.benchmark.torch_baseline import torch_baseline
from mux_jax.checkpoints.source import open_model
from mux_jax.errors import InputError
from mux_jax.models import flops
from tests.tasks import sentences, write_embedder, write_lines, write_model

ARGUMENTS = dict(size="tiny", length=16, rows=8, dtype="float32", repeats=1, texts=None, model=None, json_file=None)
ASKED = ("instances_per_second", "factor", "flop_factor", "fraction_of_limit", "peak_memory_bytes")


@pytest.fixture(autouse=True)
def no_torch_baseline(monkeypatch):
    monkeypatch.setattr(cases, "torch_baseline", lambda kind, settings: None)


def run(kind, tmp_path, **arguments):
    file = tmp_path / "rows.json"
    options = (
        dict(widths="1,2", layers="", multiplexer="gaussian", task="")
        | ARGUMENTS
        | dict(json_file=str(file))
        | arguments
    )
    command.run(kind, **options)
    return json.loads(file.read_text())


@pytest.mark.extra
def test_inference_has_a_row_for_each_task_multiplexer_and_width(tmp_path, one_device):
    rows = run("inference", tmp_path, multiplexer="gaussian,contextual", task="sequence,token")
    labels = [(row["task"], row["multiplexer"], row["width"]) for row in rows]
    models = [("", 1), ("gaussian", 2), ("contextual", 2)]
    assert labels == [(task, *model) for task in ("sequence", "token") for model in models]
    assert all(row[name] > 0 for row in rows for name in ASKED)
    assert rows[0]["factor"] == rows[0]["flop_factor"] == 1
    assert rows[3]["flop_factor"] == 1 and 1.8 < rows[1]["flop_factor"] < 2 and rows[2]["flop_factor"] < 1.3


def test_the_shape_of_a_pretrained_model(tmp_path, one_device):
    model = Path(__file__).parents[1] / "fixtures/bert_mlm_n1"
    known = dataclasses.replace(open_model(str(model)).config, head="sequence", labels=("0", "1"))
    work = [flops.classification(dataclasses.replace(known, width=width), 16) for width in (1, 2)]
    rows = run("inference", tmp_path, model=str(model))
    np.testing.assert_allclose(rows[1]["flop_factor"], 2 * work[0] / work[1])


@pytest.mark.extra  # for its time
def test_fewer_layers_stand_beside_width_1(tmp_path, one_device):
    rows = run("inference", tmp_path, widths="1", layers="1", task="sequence,token")
    assert [row["name"] for row in rows] == [
        f"{t} N=1{more}" for t in ("sequence", "token") for more in ("", " layers=1")
    ]
    assert rows[1]["flop_factor"] > 2 > rows[3]["flop_factor"] > 1.9  # one of two layers, for one position and for all


@pytest.mark.extra
def test_training_has_priming_and_masked_lm(tmp_path, one_device):
    rows = run("train", tmp_path)
    assert [row["name"] for row in rows] == ["priming gaussian N=2", "mlm N=1", "mlm gaussian N=2"]
    assert all(row[name] > 0 for row in rows for name in ASKED)


def test_end_to_end_on_texts(tmp_path, one_device):
    texts = tmp_path / "texts.txt"
    texts.write_text("a river in winter\nstone and light\nthe garden\n" * 9)
    rows = run("inference", tmp_path, texts=str(texts))
    names = ["Predictor N=1", "model alone N=1", "Predictor gaussian N=2", "model alone gaussian N=2"]
    assert [row["name"] for row in rows] == names
    assert [row["factor"] is not None for row in rows] == [True] * 4


def test_factors_are_medians_of_the_ratios_within_a_turn():
    # The first turn is not counted; the machine slows down in the third.
    times = {"one": iter([9, 1, 4, 1]), "two": iter([9, 2, 8, 2])}
    pair = [
        Case("one", "t", "", 1, lambda: next(times["one"]), 10, 100, "one"),
        Case("two", "t", "gaussian", 4, lambda: next(times["two"]), 40, 100, "one"),
    ]
    rows = measure(pair, "float32", 3)
    assert [row["factor"] for row in rows] == [1, 2] and rows[1]["flop_factor"] == 4
    assert rows[1]["instances_per_second"] == 20 and rows[1]["instances_per_second_min"] == 5


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        ("inference", dict(task="priming"), "--task=priming does not exist; there are: sequence, token"),
        ("train", dict(multiplexer="none"), "--multiplexer=none does not exist; there are: gaussian, "),
        ("train", dict(widths="1,0"), "--widths=1,0 must be numbers from 1 on"),
        ("train", dict(length=1000), "--length=1000 must be from 1 to 512"),
        ("inference", dict(repeats=0), "--repeats=0 must be at least 1"),
        ("train", dict(texts="a.txt"), "--texts is for inference with --task=sequence"),
        ("train", dict(json_file="/no/rows.json"), "--json=/no/rows.json: no such folder"),
        ("train", dict(widths=""), "--widths= names no width"),
        ("inference", dict(layers="3,0"), "--layers=3,0 must be numbers from 1 on"),
        ("train", dict(layers="1"), "--layers is for inference without --texts"),
        ("inference", dict(texts="/no/file.txt"), "/no/file.txt"),
        ("inference", dict(model="/no/model"), "/no/model: no model there"),
        ("train", dict(model="/no/model"), "--model is for inference"),
        ("embed", dict(), "--model=A,B: name the models that embed"),
        ("serving", dict(), "serving needs --model=DIR and --texts=FILE"),
    ],
)
def test_bad_arguments_are_named(kind, arguments, message, tmp_path):
    with pytest.raises(InputError) as error:
        run(kind, tmp_path, **arguments)
    assert message in str(error.value)


def test_the_command_prints_its_flags():
    script = Path(__file__).parents[2] / "launch/benchmark.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--multiplexer" in done.stdout


@pytest.mark.extra
def test_other_runtimes_take_turns_with_ours(tmp_path, one_device):
    rows = run("inference", tmp_path, widths="2", runtimes="xla_bfloat16,onnx_int8,openvino_int8")
    assert [row["name"] for row in rows] == ["sequence gaussian N=2"] + [
        f"{name} {runtime}"
        for runtime in ("xla_bfloat16", "onnx_int8", "openvino_int8")
        for name in ("sequence gaussian N=2", "sequence transformers")
    ]
    assert all(row["instances_per_second"] > 0 for row in rows)


@pytest.mark.extra
def test_models_that_embed_stand_beside_sentence_transformers(tmp_path, one_device, monkeypatch):
    monkeypatch.setattr(embedding, "torch_baseline", torch_baseline)
    model = str(write_embedder(tmp_path / "model"))
    file = write_lines(tmp_path / "texts.txt", sentences(50))
    rows = run("embed", tmp_path, model=f"{model},{model}", texts=str(file))
    assert [row["name"] for row in rows] == [model, model, "sentence-transformers"]
    assert rows[2]["factor"] == 1 and all(row["instances_per_second"] > 0 for row in rows)


@pytest.mark.extra
def test_a_server_under_load_stands_beside_the_predictor_and_pytorch(tmp_path, one_device, monkeypatch, capfd):
    for name, value in (
        ("_SECONDS", 1.0),
        ("_LATENCY_SECONDS", 0.5),
        ("_CLIENTS", 4),
        ("_ACCEPTED", 8),
        ("_ROUGH", 50),
    ):
        monkeypatch.setattr(serving, name, value)
    model = write_model(tmp_path / "model", head="sequence", labels=("a", "b"))
    file = write_lines(tmp_path / "texts.txt", sentences(50))
    found = run("serving", tmp_path, model=str(model), texts=str(file), rows=2)
    for name in ("saturated", "single", "PyTorch"):
        assert found[name]["texts_per_second"] > 0 and set(found[name]["statuses"]) == {"200"}
    assert sum(found["rough"].values()) == 50 and not {"good wrong", "good none", "slow wrong"} & found["rough"].keys()
    assert {"200", "429"} == set(found["overload"]["statuses"])  # four times as many clients as there may be
    assert "one client, one text at a time: p50" in capfd.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(runtimes="tflite"), "--runtimes=tflite does not exist; there are: xla_float32, xla_bfloat16, onnx, "),
        (dict(runtimes="onnx"), "--runtimes=onnx needs jax2onnx and onnxruntime: pip install"),
        (dict(runtimes="onnx", texts="texts.txt"), "--runtimes is for inference without --texts"),
    ],
)
def test_runtimes_that_cannot_be_are_said_before_work(tmp_path, arguments, message, monkeypatch):
    monkeypatch.setattr(other_runtimes.runtimes, "installed", lambda package: False)
    with pytest.raises(InputError, match=message):
        run("inference", tmp_path, **arguments)
