"""Many files: each record exactly once, whatever happens; whole outputs are left as they are."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from mux_jax.bulk import folder as folders
from mux_jax.bulk import shards
from mux_jax.bulk.folder import in_this_process, plan, predict_files
from mux_jax.bulk.worker import Worker
from mux_jax.errors import InputError
from mux_jax.inference.records import Reading
from tests.tasks import LABELS, sentences, write_model

ROOT = Path(__file__).parents[2]
FILES = {"a.jsonl": 5, "2024/b.jsonl": 40, "2024/c.jsonl": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("m") / "double", sharpen=True, head="sequence", labels=LABELS))


def write_files(root, files=FILES):
    for seed, (name, count) in enumerate(files.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"id": f"{name}:{i}", "text": text}) for i, text in enumerate(sentences(count, seed))]
        (root / name).write_text("\n".join(lines))


def predict(model, texts, output, keep=("id",), overwrite=False, suffix="", max_errors=0.0, columns=(), **options):
    worker = Worker.of(model, rows=4, dtype="float32", **options)
    reading = Reading(columns=columns, keep=keep, max_errors=max_errors)
    job = plan(worker, str(texts), str(output), reading, suffix, overwrite, same_machine=True)
    predict_files(job, in_this_process)
    return job


def outputs(root):
    """The bytes of each output, by its name."""
    paths = [path for path in Path(root).rglob("*") if path.is_file() and not path.relative_to(root).parts[0][0] == "_"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def command(model, texts, output, *arguments):
    options = ["--model", model, "--texts", texts, "--output", output, "--keep=id", "--dtype=float32", *arguments]
    return [sys.executable, "launch/predict.py", *map(str, options)]


def test_outputs_keep_their_path_and_every_record_is_there_once(model, tmp_path, one_device):
    write_files(tmp_path / "in")
    predict(model, tmp_path / "in" / "**" / "*.jsonl", tmp_path / "out")
    found = outputs(tmp_path / "out")
    assert found.keys() == FILES.keys()
    for name, count in FILES.items():
        rows = [json.loads(line) for line in found[name].splitlines()]
        assert [row["id"] for row in rows] == [f"{name}:{i}" for i in range(count)]
        assert all(row["label"] in LABELS and row["error"] is None for row in rows)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.jsonl", "2024", "_manifests", "_errors"}


def test_what_is_written_depends_on_the_file_alone(model, tmp_path, monkeypatch, one_device):
    write_files(tmp_path / "in")
    predict(model, tmp_path / "in" / "**" / "*.jsonl", tmp_path / "together")
    monkeypatch.setattr(folders, "_AT_ONCE", 1)
    for name in FILES:
        predict(model, tmp_path / "in" / name, tmp_path / "alone" / Path(name).parent)
    assert outputs(tmp_path / "together") == {
        name: content for name, content in outputs(tmp_path / "alone").items() if "_manifests" not in name
    }


def test_whole_outputs_are_left_and_others_are_made(model, tmp_path, one_device):
    write_files(tmp_path / "in")
    texts, output = tmp_path / "in" / "**" / "*.jsonl", tmp_path / "out"
    predict(model, texts, output)
    first, times = outputs(output), {name: (output / name).stat().st_mtime_ns for name in FILES}
    (output / "a.jsonl").unlink()
    (output / "2024" / "b.jsonl").write_text("cut sho")  # as a disk that is full may leave it
    job = predict(model, texts, output)
    assert {shard.name for shard, _ in job.todo} == {"a.jsonl", "2024/b.jsonl"} and len(job.done) == 1
    assert outputs(output) == first
    assert (output / "2024" / "c.jsonl").stat().st_mtime_ns == times["2024/c.jsonl"]


def test_outputs_that_are_made_of_something_else_are_refused_or_replaced(model, tmp_path, one_device):
    write_files(tmp_path / "in", {"a.jsonl": 4})
    texts, output = tmp_path / "in" / "*.jsonl", tmp_path / "out"
    predict(model, texts, output)
    with pytest.raises(InputError, match=r"a.jsonl was made with options.ensemble None, not 2; --overwrite replaces"):
        predict(model, texts, output, ensemble=2)
    with pytest.raises(InputError, match=r"a.jsonl was made with options.keep \['id'\], not \[\]"):
        predict(model, texts, output, keep=())
    other = write_model(tmp_path / "other", head="sequence", labels=LABELS, num_hidden_layers=1)
    with pytest.raises(InputError, match="a.jsonl was made with model"):
        predict(str(other), texts, output)
    before = outputs(output)
    predict(model, texts, output, ensemble=2, overwrite=True)
    assert outputs(output) != before
    assert not predict(model, texts, output, ensemble=2, overwrite=True).todo
    (tmp_path / "in" / "a.jsonl").write_text('{"id": 1, "text": "time"}\n')
    with pytest.raises(InputError, match="a.jsonl was made with input.size"):
        predict(model, texts, output, ensemble=2)
    (output / "_manifests" / "a.jsonl.json").unlink()
    with pytest.raises(InputError, match="a.jsonl has no manifest in _manifests; --overwrite replaces it"):
        predict(model, texts, output, ensemble=2)


def test_bad_records_are_kept_apart_and_other_files_are_done(model, tmp_path, one_device):
    write_files(tmp_path / "in", {"a.jsonl": 4, "b.jsonl": 4, "c.jsonl": 4})
    bad = tmp_path / "in" / "b.jsonl"
    bad.write_text('{"id": 1, "text": "time"}\n{"id": 2, "text": 7}\nno JSON\n')
    texts, output = tmp_path / "in" / "*.jsonl", tmp_path / "out"
    with pytest.raises(InputError, match=r"b.jsonl:2: no text in column 'text', but 7"):
        predict(model, texts, output)
    assert outputs(output).keys() == {"a.jsonl", "c.jsonl"}

    def errors():
        lines = (output / "_errors" / "b.jsonl.jsonl").read_text().splitlines()
        return [(Path(x["where"]).name, x["error"], x["record"]) for x in map(json.loads, lines)]

    assert errors() == [("b.jsonl:2", "no text in column 'text', but 7", {"id": 2, "text": 7})]
    assert [shard.name for shard, _ in predict(model, texts, output, max_errors=0.7).todo] == ["b.jsonl"]
    assert [where for where, _, _ in errors()] == ["b.jsonl:2", "b.jsonl:3"]
    rows = [json.loads(line) for line in outputs(output)["b.jsonl"].splitlines()]
    assert [row["error"] is None for row in rows] == [True, False, False]


@pytest.mark.parametrize(
    "change, message",
    (
        (lambda root: None, "no file matches"),
        (lambda root: write_files(root, {"a.jsonl": 1, "a.txt": 1}), "would both be written to .*a.jsonl"),
        (lambda root: write_files(root, {"out/a.jsonl": 1}), "lies in the folder to write to"),
        (
            lambda root: [
                (root / "a.jsonl").write_text('{"id": 1, "text": "x"}\n'),
                (root / "b.jsonl").write_text('{"id": 1, "body": "x"}\n'),
            ],
            "b.jsonl: no column 'text'; there are: 'id', 'body'",
        ),
    ),
)
def test_what_cannot_be_is_said_before_work(model, tmp_path, change, message, one_device):
    (tmp_path / "in").mkdir()
    change(tmp_path / "in")
    with pytest.raises(InputError, match=message):
        predict(model, tmp_path / "in" / "**" / "*", tmp_path / "in" / "out")
    assert not (tmp_path / "in" / "out" / "_manifests").exists()


def test_a_folder_in_a_store(model, tmp_path, bucket, one_device):
    write_files(tmp_path / "in")
    predict(model, tmp_path / "in" / "**" / "*.jsonl", tmp_path / "out")
    for name in FILES:
        (bucket / "in" / name).write_text((tmp_path / "in" / name).read_text())
    predict(model, f"{bucket}/in/**/*.jsonl", f"{bucket}/out")
    assert {name: (bucket / "out" / name).read_bytes() for name in FILES} == outputs(tmp_path / "out")
    assert not predict(model, f"{bucket}/in/**/*.jsonl", f"{bucket}/out").todo


def test_two_files_of_one_output_by_two_globs_are_one(model, tmp_path):
    write_files(tmp_path / "in")
    found = shards.find_shards(f"{tmp_path}/in/*.jsonl,{tmp_path}/in/a.jsonl", str(tmp_path / "out"), ".tsv")
    assert [(Path(s.source).name, s.name) for s in found] == [("a.jsonl", "a.tsv")]
    assert found[0].output == epath.Path(tmp_path / "out" / "a.tsv")


def test_a_process_that_is_killed_loses_nothing(model, tmp_path):
    """SIGKILL at a moment in which some outputs are whole and others are not."""
    count = 30
    write_files(tmp_path / "in", {f"{i}.jsonl": 600 for i in range(count)})
    whole = tmp_path / "whole"
    texts = tmp_path / "in" / "*.jsonl"
    run = command(model, texts, tmp_path / "out", "--rows=2")
    done = subprocess.run(command(model, texts, whole, "--rows=2"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and f"{count} files, 18,000 rows, 0 errors" in done.stdout, done.stdout + done.stderr
    process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not (tmp_path / "out" / "3.jsonl").exists() and process.poll() is None:
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {
        name: (tmp_path / "out" / name).stat().st_mtime_ns for name in outputs(tmp_path / "out") if name[0] != "."
    }
    assert 0 < len(before) < count
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and f"{len(before)} files are whole; {count - len(before)} to do" in done.stdout, done
    assert outputs(tmp_path / "out") == outputs(whole)
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in before.items())
    assert not (tmp_path / "out" / "_partial").exists()


def test_files_need_a_folder_and_a_folder_takes_a_format(model, tmp_path):
    write_files(tmp_path / "in", {"a.jsonl": 3, "b.jsonl": 2})
    for output, more, message in (
        ("out.jsonl", (), "matches 2 files; --output=DIR takes them, with no suffix"),
        ("out.jsonl", ("--format=tsv",), "--format and Beam's options are for a folder"),
    ):
        run = command(model, tmp_path / "in" / "*.jsonl", tmp_path / output, *more)
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "out").exists()
    run = command(model, tmp_path / "in" / "*.jsonl", tmp_path / "out", "--format=tsv")
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {name: len(content.splitlines()) for name, content in outputs(tmp_path / "out").items()} == {
        "a.tsv": 4,
        "b.tsv": 3,
    }
