"""`compress`: a cheaper model and its report out of a fine-tuned one; stopped, it goes on; bad input is one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import mux_jax
from mux_jax.checkpoints.convert import convert
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.compression import compress as module
from mux_jax.compression import texts
from mux_jax.compression.plan import RATES
from mux_jax.compression.request import Request, check_folder
from mux_jax.compression.speed import Speeds, Throughput
from mux_jax.data.tasks import get_task
from mux_jax.errors import InputError
from mux_jax.paths import absolute
from mux_jax.training import loop
from mux_jax.training.stop_signal import StopSignal
from tests.checkpoints.folders import assert_identical
from tests.conftest import small_model, use_one_device
from tests.tasks import LABELS, finetuning, sentences, write_model, write_sentences, write_words

ROOT = Path(__file__).parents[2]
SHORT = dict(minutes=0.05, learning_rate=1e-3)
NARROW = SHORT | dict(hidden=16)


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    """One device, few texts, and no measuring of speed: a model is as fast as it has few parameters."""

    def measure(self, models, dtypes, repeats=5):
        counts = {name: module.learning.count_parameters(config) for name, config in models.items()}
        first = next(iter(counts.values()))
        return {
            dtype: {name: Throughput(2000 * first / count, 8, first / count) for name, count in counts.items()}
            for dtype in dtypes
        }

    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        patch.setenv("MUX_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(Speeds, "measure", measure)
        patch.setattr(Speeds, "deferring", lambda self, full, made, unsure: 1 / (0.2 + unsure.mean()))
        patch.setattr(texts, "_LEAST", 300)
        patch.setattr(texts, "_LEAST_TRAIN", 300)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("compress")


def fine_tune(folder, write, kind):
    """An ordinary model that does the task."""
    data = write(folder / "data", train=600, dev=80)
    model = write_model(folder / "start", width=1)
    fields = {"data.bucket_lengths": "24", "rows": 16, "finetuning.steps": 80, "finetuning.learning_rate": 3e-3}
    config = finetuning(data, model, kind, **fields)
    config.eval.every = config.checkpoint.every = config.log_every = 80
    loop.train(config, str(folder / "run"))
    return folder / "run"


@pytest.fixture(scope="module")
def teacher(root):
    return fine_tune(root / "teacher", write_sentences, "sequence")


@pytest.fixture(scope="module")
def made(root, teacher):
    mux_jax.compress(str(teacher), str(root / "made"), **NARROW)
    return root / "made"


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def params_of(folder):
    return mux_jax.load_pretrained(str(folder))[1]


def test_the_folder_holds_a_model_its_report_and_where_it_comes_from(made, teacher):
    found, full = open_model(str(made)), open_model(str(teacher))
    assert (found.config.hidden_size, found.config.num_attention_heads, found.config.width) == (16, 4, 1)
    assert (found.config.labels, found.bucket_lengths()) == (full.config.labels, full.bucket_lengths())
    described = json.loads((made / "config.json").read_text())
    assert described["teacher"] == str(teacher) and described["data"]["folder"].endswith("teacher/data")
    report = report_of(made)
    assert report["model"] == str(teacher) and report["chosen"] == report["made"]["name"] == "hidden 16"
    assert report["texts"]["judge"] == report["texts"]["labelled"] - _duplicates(teacher)
    assert report["made"]["parameters"] == sum(x.size for x in jax.tree.leaves(params_of(made)))
    assert report["factors"]["best"] > 1 and report["row_mates"] is None and report["speedup"] is None
    assert report["made"]["steps"] == json.loads((made / "chosen.json").read_text())["steps"] >= 20
    assert (made / "report.md").read_text().startswith(f"# hidden 16: a cheaper `{teacher}`")
    assert (made / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert not (made / ".compress.lock").exists()


def _duplicates(teacher):
    """Dev sentences that another one is like."""
    lines = (teacher.parent / "data" / "dev.tsv").read_text().splitlines()[1:]
    return len(lines) - len({line.split("\t")[0] for line in lines})


def test_it_learned_to_answer_as_the_full_model(made, teacher):
    report = report_of(made)
    assert report["full"]["score"]["accuracy"] > 0.85
    assert report["made"]["agreement"]["value"] > 0.85
    given = sentences(200, seed=5)
    ours, theirs = (mux_jax.Predictor(str(path)).predict(given) for path in (made, teacher))
    assert set(ours[0]["probabilities"]) == set(LABELS)
    assert np.mean([x["label"] == y["label"] for x, y in zip(ours, theirs)]) > 0.85


def test_other_programs_take_the_folder(made, teacher, root):
    config = finetuning(teacher.parent / "data", "", "sequence")
    score = mux_jax.evaluate(config, str(made), str(root / "score"))["score"]["mean"]
    assert score == pytest.approx(report_of(made)["made"]["score"]["accuracy"])
    convert(str(made), str(root / "converted"))
    given = sentences(20, seed=6)
    ours, theirs = (mux_jax.Predictor(str(path)).predict(given) for path in (made, root / "converted"))
    for x, y in zip(ours, theirs):
        assert x["probabilities"] == pytest.approx(y["probabilities"], abs=1e-5)


def test_what_it_is_not_sure_of_goes_to_the_full_model(made, teacher):
    report, kept = report_of(made), json.loads((made / "deferral.json").read_text())
    found, curve = report["deferral"], report["deferral"]["curve"]
    assert kept["full"] == str(teacher) and kept["share"] == found["share"]
    assert kept["texts"] == report["texts"]["calibrate"] and kept["agreement"][round(100 * kept["share"])] >= 0.99
    assert (curve[0]["share"], curve[0]["deferred"], curve[0]["score"]) == (0, 0, report["made"]["score"])
    assert curve[0]["agreement"] == pytest.approx(report["made"]["agreement"]["value"])
    assert (curve[-1]["share"], curve[-1]["deferred"], curve[-1]["agreement"]) == (1, 1, 1)
    assert curve[-1]["score"] == report["full"]["score"]
    assert [x["deferred"] for x in curve] == sorted(x["deferred"] for x in curve)
    given = sentences(100, seed=7)
    own, theirs = (mux_jax.Predictor(str(path)).predict(given) for path in (made, teacher))
    both = mux_jax.Predictor(str(made), defer=0.3).predict(given, keep_model=True)
    asked = [x["answered_by"] == str(teacher) for x in both]
    assert 0 < sum(asked) < 100
    assert [x["label"] for x in both] == [(y if z else x)["label"] for x, y, z in zip(own, theirs, asked)]


@pytest.mark.extra
def test_a_folder_that_stands_alone_holds_the_full_model(made, teacher, tmp_path):
    moved = tmp_path / "moved"
    mux_jax.compress(str(teacher), str(tmp_path / "alone"), standalone=True, defer="0.5", **NARROW)
    shutil.move(tmp_path / "alone", moved)
    predictor, given = mux_jax.Predictor(str(moved), defer="auto"), sentences(100, seed=7)
    assert predictor.models[1] == str(moved / "full")
    assert json.loads((moved / "deferral.json").read_text())["share"] == 0.5
    theirs = mux_jax.Predictor(str(teacher)).predict(given)
    for x, y in zip(predictor.predict(given, keep_model=True), theirs):
        if x.pop("answered_by") == predictor.models[1]:
            assert x["probabilities"] == pytest.approx(y["probabilities"], abs=1e-6)
    assert 0 < predictor.deferred < 100


def test_the_same_call_again_finds_all_done(made, teacher, monkeypatch, capsys):
    def runs(*args, **kwargs):
        raise AssertionError("was computed")

    before, params = report_of(made), params_of(made)
    monkeypatch.setattr(module, "reduce_model", runs)
    monkeypatch.setattr(module.pool, "BatchRunner", runs)
    monkeypatch.setattr(loop.Trainer, "run_stage", runs)
    found = mux_jax.compress(str(teacher), str(made), **NARROW)
    assert found["made"]["steps"] == before["made"]["steps"]
    assert {k: v for k, v in report_of(made).items() if k != "seconds"} == {
        k: v for k, v in before.items() if k != "seconds"
    }
    assert_identical(params_of(made), params)
    assert capsys.readouterr().out.count("which " + str(teacher) + " was fine-tuned on") == 1


@pytest.mark.extra
def test_stopped_in_the_middle_it_goes_on_to_the_same_model(made, teacher, tmp_path, monkeypatch):
    again = tmp_path / "again"
    again.mkdir()
    for name in ("request.json", "plan.json", "chosen.json"):
        shutil.copy(made / name, again / name)  # how many steps it takes is a matter of the clock
    shutil.copytree(made / "starts", again / "starts")
    assert not StopSignal().requested(10)
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "requested", lambda self, step: step >= 10)
        with pytest.raises(SystemExit):
            mux_jax.compress(str(teacher), str(again), **NARROW)
    assert open_model(str(again)).step == 10 and not (again / "report.json").exists()
    mux_jax.compress(str(teacher), str(again), **NARROW)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), params_of(again), params_of(made))
    for name in ("agreement", "score", "lost"):
        assert report_of(again)["made"][name] == report_of(made)["made"][name]


def test_other_flags_are_refused_with_what_changed(made, teacher):
    with pytest.raises(InputError, match=r"other flags \(hidden: 16 there, 12 now; seed: 0 there, 1 now\); name anoth"):
        mux_jax.compress(str(teacher), str(made), **NARROW | dict(hidden=12, seed=1))


def test_a_folder_of_something_else_is_left_as_it_is(teacher, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="is not empty, and was not written by compress.py; name another"):
        mux_jax.compress(str(teacher), str(tmp_path), **NARROW)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def slow(monkeypatch, factor):
    """No size is more than so many times as fast."""
    monkeypatch.setattr(Speeds, "find_size", lambda self, full, configs, wanted, dtype: (configs[-1], factor))


def test_a_speed_that_is_out_of_reach_is_refused_with_what_was_reached(teacher, tmp_path, monkeypatch, capsys):
    slow(monkeypatch, 2.5)
    with pytest.raises(InputError, match="--speedup=9 is out of reach: 2.5 is the most that was measured"):
        mux_jax.compress(str(teacher), str(tmp_path / "out"), speedup=9.0, **SHORT)
    said = capsys.readouterr().out
    assert "1 layer: 2.5 times as fast; left out" in said and "hidden 4: 2.5 times as fast; left out" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["request.json"]

    class Reached(Exception):
        pass

    def answers(*args):
        raise Reached

    monkeypatch.setattr(module._Compression, "lessons", answers)
    with pytest.raises(Reached):  # the folder may be used for a speed that can be had
        mux_jax.compress(str(teacher), str(tmp_path / "out"), speedup=2.0, **SHORT)
    with pytest.raises(InputError, match="speedup: 2.0 there, 9.0 now"):
        mux_jax.compress(str(teacher), str(tmp_path / "out"), speedup=9.0, **SHORT)


@pytest.mark.parametrize("by, names", [("layers", ["1 layer"]), ("auto", ["1 layer", "hidden 4", "1 layer, hidden 4"])])
def test_the_nearest_candidate_learns_at_the_best_rate(by, names, teacher, tmp_path, monkeypatch):
    """What it takes for its trial and its rate is kept; the trials' figures are made up."""

    def find_size(self, full, configs, wanted, dtype):
        return configs[-1], 1.0 if configs[-1].width > 1 else 5.0

    first_rate, *rates = RATES
    losses = {("1 layer", first_rate): 0.3, ("hidden 4", first_rate): 0.2, ("1 layer, hidden 4", first_rate): 0.4}
    losses |= {("hidden 4", rate): 0.25 for rate in rates} | {("1 layer", rate): 0.5 for rate in rates}
    losses["1 layer", rates[-1]] = 0.1
    tried = []

    class Chosen(Exception):
        pass

    def learn(self, folder, candidate, rate, steps, lessons, is_trial=False):
        assert is_trial == (folder != self.folder)
        if folder == self.folder:
            raise Chosen(candidate.name, rate, steps)
        tried.append((candidate.name, rate))
        figures = {"agreement": 0.9, "teacher_loss": losses[tried[-1]]}
        return {"stages": {"finetuning": figures}, "instance_tokens_per_second": 64 * 24 / 0.01, "wall_seconds": 1.0}

    monkeypatch.setattr(Speeds, "find_size", find_size)
    monkeypatch.setattr(module._Compression, "learn", learn)
    monkeypatch.setattr(module._Compression, "start", lambda self, c, _: self.folder / "starts" / c.name)
    monkeypatch.setattr(
        module._Compression, "lessons", lambda *_: (SimpleNamespace(tokens_per_step=lambda *_: 64 * 24), 0.5)
    )
    given = dict(speedup=4.0, by=by, minutes=0.2)
    expected = ("1 layer", rates[-1]) if by == "layers" else ("hidden 4", first_rate)
    for _ in range(2):
        with pytest.raises(Chosen) as chosen:
            mux_jax.compress(str(teacher), str(tmp_path / "out"), **given)
        assert chosen.value.args[:2] == expected
        assert 20 <= chosen.value.args[2] <= 0.2 * 60 / 0.01
        losses[expected] = 9.0  # once chosen it stays
    first, last = tried[: len(names)], tried[len(names) : len(names) + len(rates)]
    assert first == [(name, first_rate) for name in names]
    assert last == [(expected[0], rate) for rate in rates]


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "give --speedup=S, how many times as fast it shall be, or its shape by --layers, --hidden and --width$"),
        (dict(speedup=2.0, hidden=16), "give --speedup=S, .*, or its shape .*, not both$"),
        (dict(speedup=1.0), "--speedup=1 must be above 1"),
        (dict(speedup=-2.0), "--speedup=-2 must be above 1"),
        (dict(speedup=float("inf")), "--speedup=inf must be above 1"),
        (dict(speedup=float("nan")), "--speedup=nan must be above 1"),
        (dict(speedup=2.0, by="magic"), "--by=magic does not exist; there are: auto, layers, hidden, both, width"),
        (dict(layers=-1), "--layers=-1 must be at least 1"),
        (dict(hidden=-8), "--hidden=-8 must be at least 1"),
        (dict(width=-2), "--width=-2 must be at least 1"),
        (dict(hidden=16, minutes=0.0), "--minutes=0 must be above 0"),
        (dict(hidden=16, minutes=-1.0), "--minutes=-1 must be above 0"),
        (dict(hidden=16, minutes=float("nan")), "--minutes=nan must be above 0"),
        (dict(hidden=16, learning_rate=-1e-3), "--learning_rate=-0.001 must be above 0"),
        (dict(hidden=16, defer="some"), "defer=some must be off, auto, a share from 0 to 1"),
        (dict(hidden=16, defer="off", standalone=True), "--standalone copies the model that is deferred to"),
        (dict(hidden=16, seed=-1), "--seed=-1 must be from 0 to 4294967295"),
        (dict(hidden=16, seed=2**32), "--seed=4294967296 must be from 0"),
        (dict(hidden=16, texts=("a",), answers="b"), "give one of --texts, --answers and --task with --data"),
        (dict(hidden=16, texts=("a",), task="sst2"), "give one of --texts, --answers and --task"),
        (dict(hidden=16, answers="a", data="b"), "give one of --texts, --answers and --task"),
        (dict(hidden=16, labelled="a"), "--labelled goes with --texts: a task has labels, and --answers stand for"),
        (dict(hidden=16, answers="b", labelled="a"), "--labelled goes with --texts"),
        (dict(speedup=2.0, share=1.5), "--share=1.5 goes with --width"),
        (dict(width=2, by="width"), "--by=width goes with --speedup; a shape says by itself what becomes smaller"),
        (dict(hidden=16, text_columns="a"), "--text_columns=a goes with --texts and --answers; a task has its own"),
        (dict(hidden=16, text_columns="a", task="sst2", data="b"), "--text_columns=a goes with --texts and --answers"),
        (dict(hidden=16, delimiter=";"), "--delimiter=; goes with --texts, --answers and --task; a run has its own"),
        (dict(hidden=16, delimiter=";", data="b"), "--delimiter=; goes with --texts, --answers and --task"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(InputError, match=message) as e:
        Request(model="model", **given)
    assert "\n" not in str(e.value)


@pytest.fixture(scope="module")
def models(root):
    """Models of random weights by name."""
    heads = {
        "plain": dict(width=1, head="sequence", labels=LABELS),
        "tagger": dict(width=1, head="token", labels=("long", "short")),
        "two": dict(head="sequence", labels=LABELS),
        "headless": dict(width=1),
        "projected": dict(width=1, architecture="electra", embedding_size=16, head="sequence", labels=LABELS),
        "modern": dict(width=1, architecture="modernbert", head="sequence", labels=LABELS),
        "shallow": dict(width=1, num_hidden_layers=1, head="sequence", labels=LABELS),
    }
    made = {}

    def get(name):
        if name not in made:
            made[name] = str(write_model(root / "models" / name, **heads[name]))
        return made[name]

    return get


@pytest.mark.parametrize(
    "model, given, message",
    [
        ("two", dict(width=2), "two has width 2; it must be an ordinary model, of width 1"),
        pytest.param("headless", dict(hidden=16), "headless has no head for labels of texts or words; name a model"),
        ("plain", dict(hidden=17), "--hidden=17 must be a multiple of 4"),
        ("plain", dict(layers=3), "--layers=3 must be from 1 to 2"),
        ("plain", dict(width=9), "--width=9 must be from 1 to 8, the heads"),
        ("plain", dict(width=2, share=3.0), "--share=3 must be from 1 to 2"),
        ("plain", dict(hidden=16, share=1.5), "--share=1.5 must be from 1 to 1"),
        pytest.param("projected", dict(width=2), "embeddings of 16 and states of 32", marks=pytest.mark.extra),
        pytest.param("modern", dict(hidden=16), "modernbert can be made cheaper by --layers", marks=pytest.mark.extra),
        (
            "plain",
            dict(width=1),
            "--layers=2 --hidden=32 --width=1 is --model as it is; give fewer layers or dimensions",
        ),
        ("plain", dict(layers=2), "--layers=2 --hidden=32 --width=1 is --model as it is"),
        ("plain", dict(hidden=32, width=1), "--layers=2 --hidden=32 --width=1 is --model as it is"),
        ("shallow", dict(speedup=2.0, by="layers", texts=("none",)), "--by=layers: --model has one layer; nothing sma"),
        ("shallow", dict(speedup=2.0, by="both", texts=("none",)), "--by=both: --model has one layer; nothing smaller"),
        ("plain", dict(hidden=16), "where are the texts to learn from? --texts=FILE, which needs no labels, or --task"),
        ("plain", dict(hidden=16, texts=("few.txt",)), "--texts: 9 records; . distinct texts, .* at least 300 are"),
        ("plain", dict(hidden=16, texts=("none/*.txt",)), "none/"),
        ("plain", dict(hidden=16, answers="few.tsv"), "few.tsv: 1 records; 1 distinct texts, .* at least 300 are"),
        ("tagger", dict(hidden=16, answers="few.tsv"), "--model tags words; answers are of models that classify"),
        ("plain", dict(hidden=16, task="sst3", data="."), "sst3"),
        ("no such/model", dict(hidden=16), "no model there"),
    ],
)
def test_what_cannot_be_compressed_is_refused_before_anything_is_written(
    model, given, message, models, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "few.txt", sentences(9))
    write_lines(tmp_path / "few.tsv", ["text\tprobability_fruit\tprobability_stone", "a\t0.25\t0.75"])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as e:
        mux_jax.compress(model if "/" in model else models(model), str(tmp_path / "out"), **given)
    assert "\n" not in str(e.value)
    assert sorted(tmp_path.iterdir()) == before


SMALL = dict(width=1, head="sequence", labels=LABELS)


@pytest.mark.parametrize(
    "fields, by, message",
    [
        (dict(architecture="electra", embedding_size=16), "width", "--by=width: .* embeddings of 16 and states of 32 "),
        (dict(architecture="electra", embedding_size=16), "hidden", ""),
        (dict(architecture="electra", embedding_size=16), "auto", ""),
        (dict(architecture="modernbert"), "hidden", "--by=hidden: modernbert can be made cheaper by --layers alone"),
        (dict(architecture="modernbert"), "both", "--by=both: modernbert can be made cheaper by --layers alone"),
        (dict(architecture="modernbert"), "width", "--by=width: modernbert can be made cheaper by --layers alone"),
        (dict(architecture="modernbert"), "layers", ""),
        (dict(architecture="modernbert"), "auto", ""),
        (
            dict(architecture="modernbert", num_hidden_layers=1),
            "auto",
            "--speedup: nothing is faster: --model has one layer; nothing smaller exists; modernbert can be made cheap",
        ),
        (dict(num_attention_heads=1), "hidden", "--by=hidden: --model has one head; nothing smaller exists"),
        (dict(num_attention_heads=1), "width", "--by=width: --model has one head; nothing smaller exists"),
        (dict(num_attention_heads=1), "auto", ""),
        (dict(num_hidden_layers=1), "auto", ""),
    ],
)
def test_means_that_a_model_does_not_have_are_refused_with_the_reason(fields, by, message):
    found = SimpleNamespace(config=small_model(**SMALL | fields), folder="model")
    request = Request(model="model", speedup=2.0, by=by)
    if not message:
        request.check(found)
        return
    with pytest.raises(InputError, match=message):
        request.check(found)


def test_a_folder_that_cannot_be_made_is_refused_and_not_made(tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("all of it")
    for name in ("thesis.txt", "thesis.txt/deep/er"):
        with pytest.raises(InputError, match=f"--workdir=.*{name}: .*thesis.txt is no folder; name another$"):
            check_folder(absolute(str(tmp_path / name)))
    for name in (".", "new", "deep/er"):
        check_folder(absolute(str(tmp_path / name)))
    check_folder(absolute("gs://bucket/new"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=f"--workdir={tmp_path}/deep/er: no permission to write to {tmp_path}; name"):
        check_folder(absolute(str(tmp_path / "deep" / "er")))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "kind, labels, data, metric",
    [
        ("token", ("O", "B-PER"), dict(task="ner"), "span_f1"),
        ("token", ("O", "B-PER"), dict(task="custom", kind="token", folder="data", metric="macro_f1"), "macro_f1"),
        ("sequence", LABELS, dict(task="cola"), "matthews"),
        ("sequence", LABELS, dict(task="custom", folder="data"), "accuracy"),
        ("sequence", LABELS, None, "accuracy"),
    ],
)
def test_a_run_is_judged_by_the_metric_of_its_own_task(kind, labels, data, metric, tmp_path):
    """Whatever the texts are; `None`: of no run."""
    config = small_model(width=1, head=kind, labels=labels)
    found = ModelSource(absolute("model"), config, None, {"data": data} if data else None, None)
    file = write_lines(tmp_path / "texts.txt", [f"text {i}" for i in range(400)])
    request = Request(model="model", hidden=16, texts=(str(file),))
    section = request.section(found)
    assert request.read(found, section).task.metric == metric
    assert get_task(section).metric == metric  # of the made model, whose run it is
    if kind == "sequence":
        rows = ["\t".join(["text", *labels]), *(f"text {i}\t1\t0" for i in range(400))]
        request = Request(model="model", hidden=16, answers=str(write_lines(tmp_path / "answers.tsv", rows)))
        assert request.read(found, request.section(found)).task.metric == metric


def test_one_file_of_texts_needs_no_tuple():
    one, several = (Request(model="model", hidden=16, texts=given) for given in ("a.txt", ("a.txt",)))
    assert one == several


def test_texts_of_a_task_of_a_run_may_be_in_another_folder(teacher):
    found = open_model(str(teacher))
    own = Request(model=str(teacher), hidden=16).section(found)
    assert own.folder.endswith("teacher/data") and own.task == "custom"
    other = Request(model=str(teacher), hidden=16, data="elsewhere").section(found)
    assert other.folder == "elsewhere" and other.bucket_lengths == own.bucket_lengths
    found.run["data"]["workers"] = 4
    assert Request(model=str(teacher), hidden=16).section(found).workers == 0  # texts are in memory


@pytest.mark.extra
@pytest.mark.parametrize("width", [1, 2])
def test_texts_without_labels_are_enough(width, teacher, tmp_path):
    file = write_lines(tmp_path / "texts.txt", sentences(900, seed=7))
    shape = dict(layers=1) if width == 1 else dict(width=2, share=1.5)
    report = mux_jax.compress(str(teacher), str(tmp_path / "out"), texts=(str(file),), **SHORT | shape)
    assert report["made"]["lost"] is None and report["full"]["score"] is None
    assert report["texts"]["labelled"] == 0 and report["texts"]["read"] == 900
    assert report["made"]["agreement"]["value"] > (0.8 if width == 1 else 0.6)
    assert (report["row_mates"] is None) == (width == 1)
    assert mux_jax.Predictor(str(tmp_path / "out")).predict(["time river"])[0]["label"] in LABELS
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["data"]["folder"] == str(file) and config["model"]["width"] == width


@pytest.mark.extra
def test_some_texts_with_labels_are_scored_on(teacher, tmp_path):
    file = write_lines(tmp_path / "texts.txt", sentences(900, seed=7))
    labelled = teacher.parent / "data" / "dev.tsv"
    given = dict(texts=(str(file),), labelled=str(labelled))
    report = mux_jax.compress(str(teacher), str(tmp_path / "out"), **NARROW | given)
    assert report["texts"]["labelled"] == 80 and report["full"]["score"]["accuracy"] > 0.85
    assert report["made"]["lost"]["low"] <= report["made"]["lost"]["value"] <= report["made"]["lost"]["high"]


@pytest.mark.extra
def test_the_answers_of_another_model_are_learned_in_place_of_the_models_own(teacher, tmp_path):
    """Another model that says the opposite."""
    given = list(dict.fromkeys(sentences(900, seed=7)))
    found = mux_jax.Predictor(str(teacher)).predict(given)
    rows = [
        f"{text}\t{x['probabilities'][LABELS[1]]:.6f}\t{x['probabilities'][LABELS[0]]:.6f}"
        for text, x in zip(given, found)
    ]
    header = "\t".join(["text", *(f"probability_{label}" for label in LABELS)])
    file = write_lines(tmp_path / "answers.tsv", [header, *rows])
    options = dict(answers=str(file), layers=1, minutes=0.5, learning_rate=3e-3)
    report = mux_jax.compress(str(teacher), str(tmp_path / "out"), **options)
    assert report["made"]["agreement"]["value"] > 0.8 and not (tmp_path / "out" / "answers").exists()
    assert report["made"]["steps"] <= 20 * report["texts"]["learn"] / 64
    held = sentences(200, seed=8)
    ours, theirs = (mux_jax.Predictor(str(path)).predict(held) for path in (tmp_path / "out", teacher))
    assert np.mean([x["label"] != y["label"] for x, y in zip(ours, theirs)]) > 0.8


@pytest.mark.extra
@pytest.mark.parametrize("width", [1, 2])
def test_a_model_that_tags_words(width, root, tmp_path):
    run = root / "tagger" / "run"
    if not run.exists():
        fine_tune(root / "tagger", write_words, "token")
    shape = dict(hidden=16) if width == 1 else dict(width=2)
    report = mux_jax.compress(str(run), str(tmp_path / "out"), **SHORT | shape)
    assert report["task"]["kind"] == "token" and report["full"]["score"]["accuracy"] > 0.9
    assert report["made"]["agreement"]["value"] > (0.85 if width == 1 else 0.6)
    words = [["time", "mountain"], ["silver"]]
    assert [len(x["tags"]) for x in mux_jax.Predictor(str(tmp_path / "out")).predict(words)] == [2, 1]
    config = finetuning(root / "tagger" / "data", "", "token")
    score = mux_jax.evaluate(config, str(tmp_path / "out"), str(tmp_path / "score"))["score"]["mean"]
    assert score == pytest.approx(report["made"]["score"]["accuracy"], abs=0 if width == 1 else 0.1)


@pytest.mark.extra
def test_pairs_with_token_types(root, tmp_path):
    model = write_model(tmp_path / "model", width=1, head="sequence", labels=LABELS)
    pairs = list(zip(sentences(900, seed=1), sentences(900, seed=2)))
    file = write_lines(tmp_path / "pairs.jsonl", [json.dumps({"a": x, "b": y}) for x, y in pairs])
    options = dict(texts=(str(file),), text_columns="a,b", **NARROW)
    report = mux_jax.compress(str(model), str(tmp_path / "out"), **options)
    assert report["made"]["steps"] <= 20 * report["texts"]["learn"] / 64
    assert open_model(str(tmp_path / "out")).text_columns() == ("a", "b")
    mux_jax.Predictor(str(tmp_path / "out")).predict([("time", "river")])


@pytest.mark.extra
def test_the_command_measures_tries_and_trains(teacher, tmp_path):
    file = write_lines(tmp_path / "texts.txt", [f"{text} number {i}" for i, text in enumerate(sentences(1200))])
    command = [sys.executable, "launch/compress.py", f"--model={teacher}", f"--workdir={tmp_path}/out"]
    command += [f"--texts={file}", "--speedup=1.2", "--by=layers", "--minutes=0.1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_backend_optimization_level=0"}  # one device
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "to try: 1 layer: " in done.stdout and "report: " in done.stdout and "Advice: " in done.stdout
    report = report_of(tmp_path / "out")
    assert report["chosen"] == "1 layer" and report["factors"]["float32"] > 0
    assert len(report["tried"]) == 1 and len(report["trials"]) == len(RATES)
    other = subprocess.run([*command, "--seed=1"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert other.returncode == 2 and "seed: 0 there, 1 now" in other.stderr and "Traceback" not in other.stderr
