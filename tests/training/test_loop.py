"""A run trains, leaves what it should, and goes on exactly where it was stopped, however it was."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from mux_jax import load_pretrained, locks
from mux_jax.checkpoints.convert import convert
from mux_jax.checkpoints.runs import Checkpoints, damaged
from mux_jax.configuration import read
from mux_jax.errors import InputError, TrainingError
from mux_jax.parallel import hosts
from mux_jax.training.loop import train
from mux_jax.training.pretrain_data import load_pretrain_data
from mux_jax.training.stop_signal import StopSignal
from tests.conftest import small_run, use_one_device, write_text

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, its configuration and its result; copy it to change it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        config = small_run("bert", write_text(folder), folder)
        return folder / "run", config, train(config, str(folder / "run"))


@pytest.fixture
def copy(finished, tmp_path, one_device):
    return shutil.copytree(finished[0], tmp_path / "run"), finished[1]


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def params_of(workdir):
    return jax.device_get(load_pretrained(str(workdir))[1])


def assert_identical(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), a, b)


def test_a_run_leaves_what_the_readme_says(finished):
    workdir, _, result = finished
    assert result == json.loads((workdir / "result.json").read_text())
    assert set(result["stages"]) == {"priming", "pretraining"}
    assert {"loss", "retrieval_accuracy", "retrieval_accuracy_per_slot"} <= set(result["stages"]["priming"])
    assert {"mlm_loss", "mlm_accuracy", "unigram_entropy"} <= set(result["stages"]["pretraining"])
    for name in ("wall_seconds", "peak_memory_bytes", "instance_tokens_per_second", "parameters"):
        assert result[name] > 0
    steps = [row["step"] for row in metrics(workdir) if "loss" in row]
    assert steps == [4, 8, 10, 12, 16, 20]
    assert any("heldout_mlm_loss" in row for row in metrics(workdir))
    config = json.loads((workdir / "config.json").read_text())
    assert config["rows"] == 8 and config["model"]["width"] == 2
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").iterdir()) and (workdir / "tokenizer.json").exists()
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["12", "16", "20"]
    model, params = load_pretrained(str(workdir))
    assert model.config.width == 2
    assert model.apply({"params": params}, np.zeros((1, 2, 16), int)).shape == (1, 2, 16, model.config.vocab_size)


@pytest.mark.extra
def test_electra_with_a_learned_generator(text_file, tmp_path, one_device):
    config = small_run("electra", text_file, tmp_path, generator="learned")
    config.grad_accumulation_steps = 1
    result = train(config, str(tmp_path / "run"))
    assert {"rtd_roc_auc", "rtd_f1", "generator_mlm_loss"} <= set(result["stages"]["pretraining"])
    assert "generator_retrieval_loss" in result["stages"]["priming"]


@pytest.mark.extra  # for its time
def test_a_run_in_a_folder_with_brackets_and_stars_keeps_its_checkpoints(run_config, tmp_path, capsys):
    workdir = tmp_path / "[work] *?" / "run[1]"
    train(run_config, str(workdir))
    printed = capsys.readouterr().out
    assert f"  {workdir}/result.json" in printed and "[work]" in printed.partition("┏")[0]
    found = load_pretrained(str(workdir))[1]
    convert(str(workdir), str(tmp_path / "[work] *?" / "exported[a]"))
    assert_identical(found, load_pretrained(str(tmp_path / "[work] *?" / "exported[a]"))[1])
    native = tmp_path / "[native]"
    convert(str(tmp_path / "[work] *?" / "exported[a]"), str(native))
    assert_identical(found, load_pretrained(str(native))[1])


def test_arrays_that_were_not_written_to_their_end_are_no_success(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path / "[work]")  # under which Orbax finds nothing, as etils reads brackets as a pattern
    checkpoints = Checkpoints(folder, keep=1)
    arrays = {"a": jax.numpy.zeros(4)}
    checkpoints.save(1, arrays, arrays, {})
    with pytest.raises(
        TrainingError, match="step 1 could not be saved .* no manifest.ocdbt: its arrays were not written"
    ):
        checkpoints.wait()


def test_a_finished_run_does_nothing_more(copy, finished, capsys):
    workdir, config = copy
    before = (workdir / "metrics.jsonl").read_text()
    assert train(config, str(workdir)) == finished[2] == json.loads((workdir / "result.json").read_text())
    assert (workdir / "metrics.jsonl").read_text() == before
    assert "held-out figures" in capsys.readouterr().out


def command(config, workdir, changes=""):
    """The run of `config` as a process of its own, on one device; `changes` are code."""
    script = (
        "import json, sys, time; from ml_collections import ConfigDict; from mux_jax.training import loop;"
        "config = ConfigDict(json.loads(sys.argv[1])); config.stages = tuple(config.stages);"
        f"{changes} loop.train(config, sys.argv[2])"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", script, config.to_json_best_effort(), str(workdir)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(process, workdir, step):
    while process.poll() is None:
        if (workdir / "metrics.jsonl").exists() and any(row["step"] >= step for row in whole_rows(workdir)):
            return
        time.sleep(0.02)
    raise AssertionError(f"the run ended too early: {process.stdout.read()}")


def whole_rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.extra  # for its time
def test_killed_and_continued_equals_uninterrupted(run_config, tmp_path):
    run_config.priming.steps = run_config.pretraining.steps = 16
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    output, _ = (process := command(run_config, undisturbed)).communicate()
    assert process.returncode == 0, output
    for step in (8, 20):  # within priming, then within pre-training
        process = command(run_config, killed)
        wait_for_step(process, killed, step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    output, _ = (process := command(run_config, killed)).communicate()
    assert process.returncode == 0, output
    assert "continuing at step" in output
    assert_identical(params_of(undisturbed), params_of(killed))
    figures = [json.loads((d / "result.json").read_text())["stages"] for d in (undisturbed, killed)]
    assert figures[0] == figures[1]
    kept = [[{k: v for k, v in r.items() if "per_second" not in k} for r in metrics(d)] for d in (undisturbed, killed)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    "sent, status", [pytest.param("SIGTERM", 0, marks=pytest.mark.extra), ("SIGINT", 130), ("SIGHUP", 0)]
)
def test_a_signal_saves_and_ends(run_config, tmp_path, sent, status):
    run_config.priming.steps = 100_000
    run_config.checkpoint.every = 100_000
    process = command(run_config, tmp_path / "run")
    wait_for_step(process, tmp_path / "run", 4)
    process.send_signal(getattr(signal, sent))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert "stopped at step" in output and "Traceback" not in output
    [saved] = (tmp_path / "run" / "checkpoints").iterdir()
    assert f"stopped at step {saved.name}" in output and damaged(saved) is None
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_second_ctrl_c_ends_at_once(run_config, tmp_path):
    run_config.priming.steps = 100_000
    changes = "from mux_jax.interrupts import end_at_signals; end_at_signals();"
    process = command(run_config, tmp_path / "run", changes + "loop.Checkpoints.save = lambda *_: time.sleep(60);")
    wait_for_step(process, tmp_path / "run", 4)
    process.send_signal(signal.SIGINT)
    assert (
        "stopping after this step" in process.stdout.readline() + process.stdout.readline() + process.stdout.readline()
    )
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "error: stopped by SIGINT" in output and "Traceback" not in output


def test_a_signal_in_the_last_evaluation_ends_before_the_scores(run_config, tmp_path, monkeypatch, one_device):
    def evaluate(self, model, mesh):
        def figures(*_):
            signal.raise_signal(signal.SIGTERM)
            return {"loss": 1.0}

        return figures

    run_config.stages, run_config.eval.every = ("priming",), 1_000
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="0"):
        patch.setattr("mux_jax.training.pretrain_data.PretrainData.evaluator", evaluate)
        train(run_config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "result.json").exists()
    assert train(run_config, str(tmp_path / "run"))["stages"] == {"priming": {"loss": 1.0}}


def test_a_signal_that_is_ignored_from_the_start_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopSignal()
    with stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.requested(1)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested(2) and stop.exit_status == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGHUP, before)


def test_a_second_process_is_told_who_trains_there(copy, finished):
    workdir, config = copy
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with locks.hold(epath.Path(workdir / ".lock"), "x"):
        with pytest.raises(InputError, match=f"workdir .*run is being written by .* process {os.getpid()} on"):
            train(config, str(workdir))
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.extra  # for its time
def test_a_run_saves_by_the_clock_too(run_config, tmp_path):
    run_config.priming.steps = run_config.pretraining.steps = 6
    run_config.log_every, run_config.checkpoint.keep = 2, 20
    run_config.checkpoint.every, run_config.checkpoint.minutes = 1_000, 1e-9
    train(run_config, str(tmp_path / "run"))
    saved = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == [2, 4, 6, 8, 10, 12]


@pytest.mark.extra  # for its time
def test_a_full_disk_is_one_line_with_the_last_good_checkpoint_and_nothing_is_lost(
    finished, run_config, tmp_path, monkeypatch
):
    workdir, usage = tmp_path / "run", shutil.disk_usage
    steps = []

    def free(folder):
        steps.append(len(steps))
        return usage(folder)._replace(free=0 if len(steps) == 3 else 10**9)

    monkeypatch.setattr(shutil, "disk_usage", free)
    message = f"step 10 could not be saved in {workdir}/checkpoints: No space left on device; "
    with pytest.raises(
        TrainingError, match=f"{message}last good checkpoint: {workdir}/checkpoints/8; the same command"
    ):
        train(run_config, str(workdir))
    train(run_config, str(workdir))
    assert_identical(params_of(workdir), params_of(finished[0]))


def test_a_save_that_fails_later_is_told_at_the_next_step(tmp_path, monkeypatch):
    checkpoints = Checkpoints(epath.Path(tmp_path), keep=3)
    arrays = {"a": jax.numpy.zeros(4)}
    checkpoints.save(1, arrays, arrays, {})
    checkpoints.wait()

    def fail():
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("mux_jax.checkpoints.runs._digests", lambda _: fail())
    checkpoints.save(2, arrays, arrays, {})
    with pytest.raises(TrainingError, match=f"step 2 could not be saved .* quota exceeded; last good .*{tmp_path}/1;"):
        checkpoints.wait()


def test_metrics_that_cannot_be_written_are_one_line(copy, monkeypatch):
    workdir, config = copy
    config = config.copy_and_resolve_references()
    config.stages = ("priming", "pretraining")
    shutil.rmtree(workdir / "checkpoints" / "20")
    shutil.rmtree(workdir / "checkpoints" / "16")

    def fail(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "metrics.jsonl")

    monkeypatch.setattr("mux_jax.training.metric_writer.MetricWriter.write", fail)
    with pytest.raises(TrainingError, match="Read-only file system: 'metrics.jsonl'; last good checkpoint: .*/12; the"):
        train(config, str(workdir))


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(copy, capsys):
    workdir, config = copy
    whole = params_of(workdir)
    damage(workdir / "checkpoints" / "20", "flip")
    (workdir / "result.json").unlink()
    train(config, str(workdir))
    output = capsys.readouterr().out
    assert "checkpoints/20 is damaged" in output and "continuing at step 16" in output
    assert_identical(params_of(workdir), whole)


def damage(checkpoint, kind):
    largest = max((p for p in checkpoint.glob("**/*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = largest.read_bytes()
    half = len(content) // 2
    if kind == "delete":
        largest.unlink()
    else:
        rest = bytes([content[half] ^ 1]) + content[half + 1 :] if kind == "flip" else b""
        largest.write_bytes(content[:half] + rest)


@pytest.mark.parametrize("kind", ["truncate", "flip", "delete"])
def test_damage_is_named_and_skipped(tmp_path, capsys, kind):
    checkpoints = Checkpoints(epath.Path(tmp_path), keep=3)
    for step in (1, 2):
        arrays = {"a": jax.random.normal(jax.random.key(step), (1000,))}
        checkpoints.save(step, arrays, arrays, {"stage": f"at {step}"})
    checkpoints.wait()
    assert checkpoints.latest() == (2, {"format": 1, "stage": "at 2"})
    damage(tmp_path / "2", kind)
    assert checkpoints.latest() == (1, {"format": 1, "stage": "at 1"})
    assert f"{tmp_path}/2 is damaged" in capsys.readouterr().out
    assert [checkpoints.best_or(3, best) for best in (None, {"step": 1}, {"step": 2})] == [3, 1, 3]
    assert f"{tmp_path}/2, the best, is damaged" in capsys.readouterr().out
    checkpoints.latest(set_damaged_aside=True)
    checkpoints.save(2, arrays, arrays, {"stage": "again"})
    checkpoints.wait()
    assert checkpoints.latest() == (2, {"format": 1, "stage": "again"})
    damage(tmp_path / "1", kind)
    damage(tmp_path / "2", kind)
    with pytest.raises(TrainingError, match="all checkpoints in .* are damaged"):
        checkpoints.latest()


def test_saved_arrays_are_those_of_the_step_though_the_state_is_donated(tmp_path):
    """The next step overwrites the buffers while the files are still being written."""
    checkpoints = Checkpoints(epath.Path(tmp_path), keep=3)
    values = {"a": jax.numpy.arange(4_000_000.0)}
    overwrite = jax.jit(lambda t: jax.tree.map(lambda x: x * 0 - 1, t), donate_argnums=0)
    checkpoints.save(1, values, {"n": jax.numpy.zeros(())}, {"stage": "x"})
    overwrite(values)
    checkpoints.wait()
    restored = checkpoints.restore_params(1, {"a": jax.ShapeDtypeStruct((4_000_000,), "float32")})
    np.testing.assert_array_equal(restored["a"], np.arange(4_000_000.0))


def test_another_configuration_is_refused_in_the_same_workdir(copy):
    workdir, config = copy
    other = config.copy_and_resolve_references()
    other.model.width, other.seed = 3, 1
    with pytest.raises(InputError, match="model.width: 2 there, 3 now; seed: 0 there, 1 now"):
        train(other, str(workdir))


def test_a_loss_that_is_not_finite_stops_with_step_and_checkpoint(run_config, tmp_path):
    run_config.pretraining.learning_rate = 1e30
    run_config.optimizer.clip_norm = 1e30
    with pytest.raises(TrainingError, match=r"pretraining: .*loss.* not finite at step 1[234].*checkpoints/1[02]"):
        train(run_config, str(tmp_path / "run"))
    assert_finite = jax.tree.map(lambda x: np.isfinite(x).all(), params_of(tmp_path / "run"))
    assert all(jax.tree.leaves(assert_finite))


@pytest.mark.extra  # for its time
def test_a_stage_may_be_added_to_a_finished_run_and_none_put_before_it(finished, tmp_path, one_device):
    _, config, both = finished
    config = config.copy_and_resolve_references()
    config.stages = ("priming",)
    train(config, str(tmp_path / "run"))
    config.stages = ("pretraining", "priming")
    with pytest.raises(InputError, match="began with priming"):
        train(config, str(tmp_path / "run"))
    config.stages = ("priming", "pretraining")
    assert train(config, str(tmp_path / "run"))["stages"] == both["stages"]
    assert_identical(params_of(tmp_path / "run"), params_of(finished[0]))


def test_held_out_text_may_be_less_than_a_batch(run_config, tmp_path):
    run_config.data.heldout_fraction = 0.02
    run_config.stages = ("priming",)
    run_config.priming.update(steps=2, warmup_steps=1)
    run_config.rows = 32
    assert train(run_config, str(tmp_path / "run"))["stages"]["priming"]["loss"] > 0
    run_config.model.width = 500
    with pytest.raises(InputError, match="raise data.heldout_fraction"):
        train(run_config, str(tmp_path / "other"))


def test_evaluation_takes_no_more_rows_at_a_time_than_a_step(run_config, tmp_path):
    config, found = read(run_config), {}
    data = load_pretrain_data(config, epath.Path(tmp_path), None)
    for config.grad_accumulation_steps in (1, 4):
        batches = [batch["tokens"] for batch in data.heldout_batches(multiple=2)]
        assert {len(tokens) for tokens in batches} == {config.rows // config.grad_accumulation_steps}
        found[config.grad_accumulation_steps] = np.concatenate(batches)
    np.testing.assert_array_equal(found[1], found[4])  # of the same text


def test_pretraining_needs_a_mask_token(run_config, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"]))
    run_config.data.tokenizer = str(tmp_path / "vocab.txt")
    with pytest.raises(InputError, match="pre-training needs a mask token, and the tokenizer has none"):
        load_pretrain_data(read(run_config), epath.Path(tmp_path), None)


@pytest.mark.extra  # for its time
def test_init_takes_what_fits_from_another_run(finished, text_file, tmp_path, capsys, one_device):
    config = small_run("electra", text_file, tmp_path)
    config.stages = ("pretraining",)
    config.init_from = str(finished[0])
    config.pretraining.update(steps=1, warmup_steps=1)  # a first step of rate 0
    train(config, str(tmp_path / "run"))
    assert_identical(params_of(tmp_path / "run")["encoder"], params_of(finished[0])["encoder"])
    output = capsys.readouterr().out
    assert "arrays from" in output and "new: detection_head" in output
    config.init_from = str(tmp_path / "nothing")
    with pytest.raises(InputError, match="no model there"):
        train(config, str(tmp_path / "other"))


def test_a_run_goes_on_after_its_text_has_changed_if_the_cache_is_there(run_config, text_file, tmp_path, monkeypatch):
    run_config.stages = ("priming",)
    train(run_config, str(tmp_path / "run"))
    text_file.write_text(text_file.read_text() + "\n\nmore text\n")
    train(run_config, str(tmp_path / "run"))
    with monkeypatch.context() as patch, pytest.raises(InputError, match="has changed since the run"):
        patch.setattr(hosts, "gather", lambda value: [value is not True and value])  # another host has no cache
        train(run_config, str(tmp_path / "run"))
    remove_cache(tmp_path)
    with pytest.raises(InputError, match="has changed since the run"):
        train(run_config, str(tmp_path / "run"))


def test_a_run_goes_on_with_a_copy_of_its_text(run_config, text_file, tmp_path):
    run_config.stages = ("priming",)
    train(run_config, str(tmp_path / "run"))
    os.utime(text_file, (1, 1))  # as on a new machine, to which the text was copied again
    remove_cache(tmp_path)
    train(run_config, str(tmp_path / "run"))
    ((_, name, _),) = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [path.name for path in (tmp_path / "cache").glob("tokens-*")] == [name]  # found at once the next time


def remove_cache(tmp_path):
    for cache in (tmp_path / "cache").glob("tokens-*"):
        shutil.rmtree(cache)
