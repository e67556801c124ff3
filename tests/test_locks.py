"""One process at a time: by the operating system's locks on a disk, by leases elsewhere."""

import errno
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


def hurry(monkeypatch):
    for name, seconds in (("_SETTLE", 0.0), ("_POLL", 0.001), ("_RENEWED", 0.005)):
        monkeypatch.setattr(locks, f"{name}_SECONDS", seconds)


@pytest.fixture(params=["disk", "disk without locks", "Windows", "object store"])
def file(request, tmp_path, monkeypatch):
    hurry(monkeypatch)
    if request.param == "disk without locks":

        def refuse(*_):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(locks.fcntl, "flock", refuse)
    if request.param == "Windows":
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
    hurry(monkeypatch)
    return epath.Path(tmp_path / "lease")


def others(seconds_ago, token="a"):
    """A lease of another process, renewed so long ago."""
    return json.dumps({"host": "other", "process": 7, "lease": token, "renewed": time.time() - seconds_ago})


def test_a_lease_of_a_holder_that_lives_says_when_it_is_void(lease, monkeypatch, capsys):
    lease.write_text(others(240))
    monkeypatch.setattr(time, "sleep", lambda _: lease.write_text(others(0)))  # it is renewed
    with pytest.raises(InputError, match="process 7 on other; if that has died, its lease is void in (300|299) s"):
        with locks.hold(lease, "x"):
            pass
    assert "waiting to see whether it still is" in capsys.readouterr().out


def test_a_lease_of_a_holder_that_has_died_is_waited_for_and_taken_over(lease):
    lease.write_text(others(299.8))
    with locks.hold(lease, "x") as lock:
        lock.check()
        assert json.loads(lease.read_text())["process"] == os.getpid()


def test_a_lease_that_is_just_being_written_is_not_void(lease):
    lease.write_text("")
    assert locks.acquire(lease) is None


def test_a_lease_is_renewed(lease):
    with locks.hold(lease, "x"):
        before = json.loads(lease.read_text())["renewed"]
        deadline = time.monotonic() + 20
        while locks._read(lease).get("renewed", before) == before:
            assert time.monotonic() < deadline


def test_a_holder_that_has_lost_its_lease_stops_and_leaves_the_others_alone(lease):
    lock, theirs = locks.acquire(lease), others(0, "b")
    write_atomically(lease, theirs)
    deadline = time.monotonic() + 20
    with pytest.raises(TrainingError, match="no longer holds the lock .process 7 on other"):
        while time.monotonic() < deadline:
            lock.check()
    lock.release()
    assert lease.read_text() == theirs


def test_a_store_that_answers_twice_does_not_lock_its_own_process_out(lease):
    lease.write_text(locks._description("mine"))
    assert locks._make(lease, "mine") and not locks._make(lease, "other")


def test_a_release_that_fails_hides_no_other_error(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    file = epath.Path(tmp_path / "lock")
    with pytest.raises(TrainingError, match="last good checkpoint"), locks.hold(file, "x"):
        monkeypatch.setattr(type(file), "unlink", fail)
        raise TrainingError("last good checkpoint")
    monkeypatch.undo()
    assert locks.acquire(file) is not None  # the lock is free, though its file is there


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


def test_a_folder_of_an_object_store_is_put_back_if_its_renaming_fails(bucket, monkeypatch):
    target, rename = bucket / "model", type(bucket).rename
    for name in ("x", "y"):
        (target / name).write_text("old")

    def fail_halfway(path, other):
        if not path.name.endswith(".partial"):
            return rename(path, other)
        (other / "x").write_text("new")
        raise OSError("503")

    with pytest.raises(OSError, match="503"), whole_or_absent(target) as folder:
        for name in ("x", "y"):
            (folder / name).write_text("new")
        monkeypatch.setattr(type(bucket), "rename", fail_halfway)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"x": "old", "y": "old"}
    assert [path.name for path in bucket.iterdir()] == ["model"]
