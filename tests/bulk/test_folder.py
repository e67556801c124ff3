"""Many files: each record exactly once, whatever happens; whole outputs are left as they are."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from mux_jax import files
from mux_jax.bulk import folder as folders
from mux_jax.bulk import shards
from mux_jax.bulk.folder import in_this_process, plan, predict_files
from mux_jax.bulk.worker import Worker
from mux_jax.checkpoints.source import ModelSource
from mux_jax.errors import InputError
from mux_jax.inference import records
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
    monkeypatch.setattr(folders, "AT_ONCE", 1)
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
    (output / "2024" / "b.jsonl").unlink()
    (output / "_manifests" / "2024" / "b.jsonl.json").unlink()
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
    predict(model, texts, output, ensemble=2, overwrite=True)
    (output / "a.jsonl").write_text('{"id": 1, "text": "by hand", "label": "a"}\n')
    with pytest.raises(InputError, match="a.jsonl is not what its manifest in _manifests says; --overwrite replaces"):
        predict(model, texts, output, ensemble=2)
    with pytest.raises(InputError, match="a.jsonl holds no predictions; --overwrite replaces only what"):
        predict(model, texts, output, ensemble=2, overwrite=True)


@pytest.mark.parametrize("seam", ("write", "replace"))
@pytest.mark.parametrize("overwrite", (False, True))
def test_an_end_between_manifest_and_output_loses_nothing(model, tmp_path, monkeypatch, seam, overwrite, one_device):
    write_files(tmp_path / "in", {"a.jsonl": 4})
    texts, output = tmp_path / "in" / "*.jsonl", tmp_path / "out"
    if overwrite:
        predict(model, texts, output, ensemble=2)
    with monkeypatch.context() as patch:

        def end(*_):
            raise OSError("the power is gone")

        if seam == "write":
            patch.setattr(shards.Manifest, "write", end)
        else:
            patch.setattr(files, "_rename", end)
        with pytest.raises(OSError, match="the power is gone"):
            predict(model, texts, output, overwrite=overwrite)
    predict(model, texts, output, overwrite=overwrite)
    predict(model, texts, tmp_path / "other")
    assert outputs(output) == outputs(tmp_path / "other")


def test_a_worker_leaves_what_another_has_written(model, tmp_path, one_device):
    write_files(tmp_path / "in", {"a.jsonl": 4})
    worker, reading = Worker.of(model), Reading(columns=())
    job = plan(worker, f"{tmp_path}/in/*.jsonl", str(tmp_path / "out"), reading, "", False, same_machine=True)
    (shard, read) = job.todo[0]
    made = job.common | {"input": read}
    first = shards.predict_shard(worker, shard, job.reading, made)
    time = shard.output.stat().mtime
    assert shards.predict_shard(worker, shard, job.reading, made) == first and shard.output.stat().mtime == time
    with pytest.raises(InputError, match="no file matches"):
        predict(model, tmp_path / "out" / "*.jsonl", tmp_path / "out")


def test_a_file_that_changes_while_it_is_read_has_no_output(model, tmp_path, monkeypatch, one_device):
    write_files(tmp_path / "in", {"a.jsonl": 4})
    write = shards.write_predictions

    def change(*arguments):
        write(*arguments)
        write_files(tmp_path / "in", {"a.jsonl": 5})

    monkeypatch.setattr(shards, "write_predictions", change)
    with pytest.raises(InputError, match="a.jsonl changed while it was read"):
        predict(model, tmp_path / "in" / "*.jsonl", tmp_path / "out")
    assert not outputs(tmp_path / "out")


def test_windows_are_of_one_file_and_memory_is_bounded_by_them(model, tmp_path, monkeypatch, one_device):
    monkeypatch.setattr(records, "_WINDOW", 7)
    write_files(tmp_path / "in")
    predict(model, tmp_path / "in" / "**" / "*.jsonl", tmp_path / "out")
    predictor = Worker.of(model, rows=4, dtype="float32").predictor
    texts = [json.loads(line)["text"] for line in (tmp_path / "in" / "2024" / "b.jsonl").read_text().splitlines()]
    expected = [x for i in range(0, len(texts), 7) for x in predictor.predict(texts[i : i + 7])]
    found = [json.loads(line) for line in outputs(tmp_path / "out")["2024/b.jsonl"].splitlines()]
    assert [row["probabilities"] for row in found] == [row["probabilities"] for row in expected]


@pytest.mark.extra
def test_parquet_without_rows_and_parquet_that_is_corrupt_in_its_middle(model, tmp_path, one_device):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "in").mkdir()
    schema = pyarrow.schema([("id", pyarrow.int64()), ("text", pyarrow.string())])
    texts = sentences(5000)
    for name, rows in (("empty", []), ("good", texts[:5]), ("bad", texts)):
        table = pyarrow.table({"id": range(len(rows)), "text": pyarrow.array(rows, pyarrow.string())}, schema)
        pyarrow.parquet.write_table(table, tmp_path / "in" / f"{name}.parquet", row_group_size=1000)
    damaged = bytearray((tmp_path / "in" / "bad.parquet").read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 2000] = bytes(2000)
    (tmp_path / "in" / "bad.parquet").write_bytes(damaged)
    with pytest.raises(InputError, match=r"bad.parquet:\d+: cannot be read from there on"):
        predict(model, tmp_path / "in" / "*.parquet", tmp_path / "out")
    rows = {path.name: pyarrow.parquet.read_metadata(path).num_rows for path in (tmp_path / "out").glob("*.parquet")}
    assert rows == {"empty.parquet": 0, "good.parquet": 5}


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

    assert errors() == [
        ("b.jsonl:2", "no text in column 'text', but 7", {"id": 2, "text": 7}),
        ("b.jsonl:3", errors()[1][1], errors()[1][2]),
    ]
    assert [shard.name for shard, _ in predict(model, texts, output, max_errors=0.7).todo] == ["b.jsonl"]
    assert [where for where, _, _ in errors()] == ["b.jsonl:2", "b.jsonl:3"]
    rows = [json.loads(line) for line in outputs(output)["b.jsonl"].splitlines()]
    assert [row["error"] is None for row in rows] == [True, False, False]


@pytest.mark.parametrize(
    "change, message",
    (
        (lambda root: None, "no file matches"),
        (lambda root: write_files(root, {"a.jsonl": 1, "a.txt": 1}), "would both be written to .*a.jsonl"),
        (lambda root: write_files(root, {"out/a.jsonl": 1}), "no file matches .* but those in .*out, the folder to"),
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


def test_files_with_their_texts_in_other_columns_are_refused(model, tmp_path, monkeypatch, one_device):
    monkeypatch.setattr(ModelSource, "text_columns", lambda self: ("sentence",))
    (tmp_path / "a.jsonl").write_text('{"id": 1, "sentence": "time"}\n')
    (tmp_path / "b.jsonl").write_text('{"id": 1, "text": "time"}\n')
    with pytest.raises(InputError, match="b.jsonl has its text in text, .*a.jsonl in sentence; --text_columns names"):
        predict(model, tmp_path / "*.jsonl", tmp_path / "out")
    assert not (tmp_path / "out" / "_manifests").exists()


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


@pytest.mark.extra  # for its time
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
        ("out.jsonl", (), "matches 2 files; give a folder for them: --output=DIR"),
        ("out.jsonl", ("--format=tsv",), "--format and Beam's options are for a folder"),
        ("out", (tmp_path / "in" / "b.jsonl",), "b.jsonl: quote the globs, as in --texts='in/*.parquet'"),
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
