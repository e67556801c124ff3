"""One process at a time: by the operating system's locks on a disk, by leases elsewhere."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from mux_jax import locks
from mux_jax.errors import InputError, TrainingError
from mux_jax.files import whole_or_absent, write_atomically


@pytest.fixture(params=["disk", "disk without locks", "object store"])
def file(request, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_SETTLE_SECONDS", 0.0)
    if request.param == "disk without locks":
        monkeypatch.setattr(locks, "fcntl", None)
    if request.param == "object store":
        return request.getfixturevalue("bucket") / "run" / ".lock"
    return epath.Path(tmp_path / ".lock")


def test_a_second_holder_is_told_who_has_it(file):
    with locks.hold(file, "workdir run") as lock:
        with pytest.raises(
            InputError, match=f"workdir run is being written by another process: process {os.getpid()} on"
        ):
            with locks.hold(file, "workdir run"):
                pass
        lock.check()
    assert not file.exists()
    with locks.hold(file, "workdir run"):
        pass


def test_it_is_free_after_an_error(file):
    with pytest.raises(ValueError), locks.hold(file, "x"):
        raise ValueError
    assert not file.exists()


def test_a_holder_that_was_killed_does_not_keep_it(tmp_path):
    script = "import time; from etils import epath; from mux_jax import locks\n"
    script += f"lock = locks.acquire(epath.Path({str(tmp_path / 'lock')!r})); print(lock is not None, flush=True)\n"
    script += "time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    with pytest.raises(InputError, match=f"process {process.pid} on"), locks.hold(epath.Path(tmp_path / "lock"), "x"):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with locks.hold(epath.Path(tmp_path / "lock"), "x"):
        pass


def test_a_holder_whose_file_was_removed_stops_and_leaves_the_next_one_alone(tmp_path):
    file = epath.Path(tmp_path / "lock")
    first = locks.acquire(file)
    file.unlink()
    second = locks.acquire(file)
    with pytest.raises(TrainingError, match="no longer holds the lock"):
        first.check()
    first.release()
    second.check()
    second.release()
    assert not file.exists()


@pytest.fixture
def lease(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "_SETTLE_SECONDS", 0.0)
    return epath.Path(tmp_path / "lease")


def test_a_lease_says_when_it_is_void_and_is_then_taken_over(lease):
    lease.write_text(json.dumps({"host": "other", "process": 7, "lease": "a", "renewed": time.time() - 240}))
    with pytest.raises(InputError, match="process 7 on other; if that has died, its lease is void in (60|59) s"):
        with locks.hold(lease, "x"):
            pass
    lease.write_text(json.dumps({"host": "other", "process": 7, "lease": "a", "renewed": time.time() - 301}))
    with locks.hold(lease, "x") as lock:
        lock.check()
        assert json.loads(lease.read_text())["process"] == os.getpid()


def test_a_lease_that_is_just_being_written_is_not_void(lease):
    lease.write_text("")
    assert locks.acquire(lease) is None


def test_a_lease_is_renewed(lease, monkeypatch):
    monkeypatch.setattr(locks, "_RENEWED_SECONDS", 0.01)
    with locks.hold(lease, "x"):
        before = json.loads(lease.read_text())["renewed"]
        deadline = time.monotonic() + 20
        while locks._read(lease).get("renewed", before) == before:
            assert time.monotonic() < deadline


def test_a_holder_that_has_lost_its_lease_stops_and_leaves_the_others_alone(lease, monkeypatch):
    monkeypatch.setattr(locks, "_RENEWED_SECONDS", 0.01)
    others = json.dumps({"host": "other", "process": 7, "lease": "b", "renewed": time.time()})
    lock = locks.acquire(lease)
    write_atomically(lease, others)
    deadline = time.monotonic() + 20
    with pytest.raises(TrainingError, match="no longer holds the lock .process 7 on other"):
        while time.monotonic() < deadline:
            lock.check()
    lock.release()
    assert lease.read_text() == others


def test_a_holder_that_could_not_renew_in_time_stops(lease, monkeypatch):
    monkeypatch.setattr(locks, "_VOID_SECONDS", 0.0)
    with locks.hold(lease, "x") as lock, pytest.raises(TrainingError, match="no longer holds"):
        lock.check()


def append_numbers(file, out):
    for _ in range(20):
        while (lock := locks.acquire(epath.Path(file))) is None:
            time.sleep(0.001)
        with open(out, "r+") as f:  # lost updates, if two do it at once
            count = int(f.read() or 0)
            f.seek(0)
            f.write(str(count + 1))
        lock.release()


def test_many_processes_take_turns(tmp_path):
    out = tmp_path / "count"
    out.write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=append_numbers, args=(str(tmp_path / "lock"), str(out))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert out.read_text() == "60" and not (tmp_path / "lock").exists()


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path):
    target = epath.Path(tmp_path / "model.v1")
    for content in ("old", "new"):
        with whole_or_absent(target) as folder:
            assert not folder.exists() and (content == "old" or (target / "a").read_text() == "old")
            folder.mkdir()
            (folder / "a").write_text(content)
    with pytest.raises(ValueError), whole_or_absent(target) as folder:
        folder.mkdir()
        raise ValueError
    assert (target / "a").read_text() == "new" and [p.name for p in target.parent.iterdir()] == ["model.v1"]


def test_a_partial_file_that_was_there_stays(tmp_path):
    (tmp_path / "out.partial.jsonl").write_text("theirs")
    write_atomically(epath.Path(tmp_path / "out.jsonl"), "ours")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"out.partial.jsonl": "theirs", "out.jsonl": "ours"}
