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
from mux_jax.checkpoints.source import open_model
from mux_jax.compression import compress as module
from mux_jax.compression import deferring, quantising, texts
from mux_jax.compression.plan import OTHER_RATES, RATE
from mux_jax.compression.speed import Speeds, Throughput
from mux_jax.errors import InputError
from mux_jax.training import loop
from mux_jax.training.stop_signal import StopSignal
from tests.checkpoints.folders import assert_identical
from tests.conftest import use_one_device
from tests.tasks import LABELS, finetuning, sentences, write_lines, write_model, write_sentences, write_words

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
        patch.setattr(deferring, "measure", lambda full, made, encoded, unsure, rate: 1 / (0.2 + unsure.mean()))
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


def test_a_model_that_has_changed_is_refused(made, teacher, tmp_path):
    shutil.copytree(made, tmp_path / "made")
    (tmp_path / "made" / "report.json").unlink()
    (tmp_path / "made" / "model.json").write_text('{"digest": "of another"}')
    with pytest.raises(InputError, match="has changed since --workdir=.*made was begun; name another folder"):
        mux_jax.compress(str(teacher), str(tmp_path / "made"), **NARROW)


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
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "request.json"]

    class Reached(Exception):
        pass

    def answers(*args):
        raise Reached

    monkeypatch.setattr(module.Compression, "lessons", answers)
    with pytest.raises(Reached):  # the folder may be used for a speed that can be had
        mux_jax.compress(str(teacher), str(tmp_path / "out"), speedup=2.0, **SHORT)
    with pytest.raises(InputError, match="speedup: 2.0 there, 9.0 now"):
        mux_jax.compress(str(teacher), str(tmp_path / "out"), speedup=9.0, **SHORT)


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("by, names", [("layers", ["1 layer"]), ("auto", ["1 layer", "hidden 4", "1 layer, hidden 4"])])
def test_the_nearest_candidate_learns_at_the_best_rate(by, names, forgets, teacher, tmp_path, monkeypatch):
    """What it takes for its trial and its rate is kept; the trials' figures are made up.

    forgets: whether the nearest one is worse than before it learned at the first rate.
    """

    def find_size(self, full, configs, wanted, dtype):
        return configs[-1], 1.0 if configs[-1].width > 1 else 5.0

    nearest, own = "1 layer" if by == "layers" else "hidden 4", RATE / 4 if forgets else RATE
    rates = [own * factor for factor in OTHER_RATES]
    losses = {(name, RATE * factor): 0.5 for name in names for factor in (*OTHER_RATES, 1.0)}
    losses |= {(nearest, RATE): 2.0} | {(nearest, own): 0.2}
    losses |= {(nearest, rate): 0.25 for rate in rates}
    expected = (nearest, own)
    if by == "layers":
        expected = (nearest, rates[-1])
        losses[expected] = 0.1
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
    monkeypatch.setattr(module.Compression, "learn", learn)
    monkeypatch.setattr(module.Compression, "start", lambda self, c, _: self.folder / "starts" / c.name)
    monkeypatch.setattr(
        module.Compression, "lessons", lambda *_: (SimpleNamespace(tokens_per_step=lambda *_: 64 * 24), 0.5)
    )
    monkeypatch.setattr("mux_jax.compression.trials._start_loss", lambda *_: 1.0)
    given = dict(speedup=4.0, by=by, minutes=0.2)
    for _ in range(2):
        with pytest.raises(Chosen) as chosen:
            mux_jax.compress(str(teacher), str(tmp_path / "out"), **given)
        assert chosen.value.args[:2] == expected
        assert 20 <= chosen.value.args[2] <= 0.2 * 60 / 0.01
        losses[expected] = 0.9  # once chosen it stays
    first = [pair for name in names for pair in [(name, RATE)] + [(name, own)] * (forgets and name == nearest)]
    assert tried[: len(first) + len(rates)] == first + [(nearest, rate) for rate in rates]


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
    assert len(report["tried"]) == 1 and len(report["trials"]) >= 1 + len(OTHER_RATES)
    other = subprocess.run([*command, "--seed=1"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert other.returncode == 2 and "seed: 0 there, 1 now" in other.stderr and "Traceback" not in other.stderr


@pytest.mark.extra
@pytest.mark.parametrize("width", [0, 2])
def test_both_models_are_there_in_int8(teacher, tmp_path, width):
    shape = dict(width=width) if width else dict(hidden=16)
    found = mux_jax.compress(str(teacher), str(tmp_path / "made"), **SHORT | shape, int8=True)["int8"]
    for name in ("full", "made"):
        assert found[name]["factor"] > 0 and found[name]["agreement"]["value"] > 0.8 < found[name]["score"]["accuracy"]
        assert mux_jax.Predictor(found[name]["path"]).predict(["time"])[0]["label"] in LABELS
    assert found["full"]["agreement"]["value"] > 0.95 and found["full"]["lost"]["value"] < 0.05


def test_int8_needs_its_packages_before_work(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(quantising, "needs", lambda format, int8: ("no_such_package",))
    with pytest.raises(InputError, match="--int8 needs no_such_package: pip install 'mux_jax.export.'"):
        mux_jax.compress(str(teacher), str(tmp_path / "made"), hidden=16, int8=True)
    assert not (tmp_path / "made").exists()
