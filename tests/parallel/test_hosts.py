"""Two processes with two devices each are one job: they train, stop and continue like one process with four."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mux_jax import load_pretrained
from mux_jax.training.loop import train
from tests.conftest import small_run, write_text
from tests.tasks import finetuning, write_model, write_sentences

ROOT = Path(__file__).parents[2]

# What launch/pretrain.py does, with a configuration as JSON.
PROGRAM = """
import json, sys
from ml_collections import ConfigDict
from mux_jax import command_line
from mux_jax.parallel import hosts
from mux_jax.training import loop

def main():
    config = ConfigDict(json.loads(sys.argv[1]))
    config.stages = tuple(config.stages)
    hosts.connect(sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    with hosts.all_or_none():
        loop.train(config, sys.argv[2])

command_line.guard(main)
"""


def start(configs, folders):
    """The processes of a job, two devices each, with the workdir `run` in a folder."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, config.to_json_best_effort(), "run"]
            + [f"localhost:{port}", str(len(configs)), str(i)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, (config, folder) in enumerate(zip(configs, folders))
    ]


_GLOO = (
    r"\[Gloo\].*\n*|^(\d| is connected to | peer ranks\. | ?Expected number of connected peer ranks is : |Rank )+\n+"
)


def finish(processes, timeout=150):
    """(exit status, what it printed but for Gloo's lines) of each.

    Gloo's threads write a line in pieces, its end too: lines may share one, or be cut in two.
    """
    printed = [process.communicate(timeout=timeout)[0] for process in processes]
    return [(process.returncode, re.sub(_GLOO, "", text, flags=re.M)) for process, text in zip(processes, printed)]


def rows(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps_logged(workdir):
    return [row["step"] for row in rows(workdir)]


def wait_for_step(processes, workdir, step):
    while not any(s >= step for s in steps_logged(workdir)):
        assert all(p.poll() is None for p in processes), finish(processes)
        time.sleep(0.05)


def params_of(workdir):
    return jax.device_get(load_pretrained(str(workdir))[1])


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process with four devices, and its configuration."""
    folder = tmp_path_factory.mktemp("alone")
    config = small_run("bert", write_text(folder), folder)
    with pytest.MonkeyPatch.context() as patch:
        four = jax.devices()[:4]
        patch.setattr(jax, "devices", lambda *backend: four)
        train(config.copy_and_resolve_references(), str(folder / "run"))
    return config, folder / "run"


@pytest.mark.extra
def test_two_processes_stop_together_and_train_to_the_parameters_of_one(alone, tmp_path):
    config, workdir = alone
    job = start([config] * 2, [tmp_path] * 2)
    wait_for_step(job, tmp_path / "run", 8)
    job[1].send_signal(signal.SIGTERM)
    found = finish(job)
    assert [status for status, _ in found] == [0, 0], found
    assert "2 hosts, 4 devices" in found[0][1] and "stopped at step" in found[0][1]
    assert "stopped at step" not in found[1][1]

    first, second = finish(start([config] * 2, [tmp_path] * 2))
    assert first[0] == second[0] == 0, (first, second)
    assert "continuing at step" in first[1] and "held-out figures" in first[1]
    assert second[1] == ""
    assert_close(params_of(tmp_path / "run"), params_of(workdir))
    ours, theirs = (json.loads((run / "result.json").read_text())["stages"] for run in (tmp_path / "run", workdir))
    assert ours["pretraining"]["mlm_loss"] == pytest.approx(theirs["pretraining"]["mlm_loss"], rel=1e-4)
    assert ours["pretraining"]["unigram_entropy"] == theirs["pretraining"]["unigram_entropy"]


@pytest.mark.extra
def test_two_processes_fine_tune_a_split_model_as_one_does(tmp_path, monkeypatch):
    config = finetuning(write_sentences(tmp_path / "data"), write_model(tmp_path / "model"), **{"mesh.fsdp": 2})
    config.finetuning.steps = 2
    first, second = finish(start([config] * 2, [tmp_path] * 2))
    assert first[0] == second[0] == 0, (first, second)
    four = jax.devices()[:4]
    monkeypatch.setattr(jax, "devices", lambda *backend: four)
    result = train(config, str(tmp_path / "alone"))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["score"] == result["score"]
    assert_close(params_of(tmp_path / "run"), params_of(tmp_path / "alone"))


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.extra
def test_a_lost_host_stops_the_other_and_all_continue(lost, alone, tmp_path):
    config, workdir = alone
    job = start([config] * 2, [tmp_path] * 2)
    wait_for_step(job, tmp_path / "run", 8)
    job[lost].send_signal(signal.SIGKILL)
    status, printed = finish(job, timeout=90)[1 - lost]
    assert status not in (0, -signal.SIGKILL)
    # Where the first host is lost, which keeps the list of the others, JAX itself ends them.
    assert ("The same command on all hosts continues" if lost else "another task died") in printed
    if lost:
        found = finish(start([config] * 2, [tmp_path] * 2))
        assert found[0][0] == 0 and "continuing at step" in found[0][1], found
        assert_close(params_of(tmp_path / "run"), params_of(workdir))


def test_hosts_that_differ_are_refused_by_the_field(alone, tmp_path):
    config, _ = alone
    other = config.copy_and_resolve_references()
    other.rows = 16
    for status, printed in finish(start([config, other], [tmp_path] * 2)):
        assert status == 2 and "rows: 8 on host 0, 16 on host 1" in printed


def test_a_workdir_that_one_host_does_not_see_is_refused(alone, tmp_path):
    config, _ = alone
    disks = [tmp_path / "disk 0", tmp_path / "disk 1"]
    for disk in disks:
        disk.mkdir()
    for status, printed in finish(start([config] * 2, disks)):
        assert status == 2 and "is not seen by host 1" in printed


@pytest.mark.extra  # for its time
@pytest.mark.parametrize("devices, mesh", [(1, {}), (2, {"fsdp": 2}), (8, {"fsdp": 2, "tensor": 2})], ids=str)
def test_a_run_continues_on_other_devices_and_another_mesh(devices, mesh, alone, tmp_path, monkeypatch, capsys):
    config, workdir = alone
    run = shutil.copytree(workdir, tmp_path / "run")
    (run / "result.json").unlink()
    for later in ("16", "20"):
        shutil.rmtree(run / "checkpoints" / later)
    found = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda *backend: found)
    config = config.copy_and_resolve_references()
    config.mesh.update(mesh)
    train(config, str(run))
    assert "continuing at step 12" in capsys.readouterr().out
    assert_close(params_of(run), params_of(workdir))  # which they would not be, had it seen other examples
    theirs, ours = ([row for row in rows(folder) if "loss" in row] for folder in (workdir, run))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for one, other in zip(ours, theirs):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
