"""What runs do in gs://, with the real gcsfs, TensorStore and Orbax, on a server that keeps objects in memory."""

import json
import subprocess
import sys
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest
from etils import epath

from mux_jax import load_pretrained, locks
from mux_jax.checkpoints.convert import convert
from mux_jax.checkpoints.runs import Checkpoints, checkpoint_folder
from mux_jax.errors import InputError
from mux_jax.files import write_atomically
from mux_jax.training.loop import train
from tests.bulk.test_folder import FILES, command, write_files
from tests.tasks import LABELS, sentences, write_model

ROOT = Path(__file__).parents[1]
pytest_plugins = "tests.object_store"
pytestmark = pytest.mark.extra


def test_files_are_written_renamed_and_found(object_store):
    run = epath.Path(object_store) / "run"
    run.mkdir(parents=True, exist_ok=True)
    (run / "a" / "b.txt").write_text("one")
    (run / "a" / "c" / "d.txt").write_text("two")
    write_atomically(run / "result.json", "{}")
    write_atomically(run / "result.json", "[]")
    (run / "a").rename(run / "e")

    assert sorted(path.name for path in run.iterdir()) == ["e", "result.json"]
    assert (run / "result.json").read_text() == "[]"
    assert not (run / "a").exists() and (run / "e").is_dir()
    found = fsspec.filesystem("gcs").glob(f"{object_store}/**/*.txt")
    assert [name.partition("/run/")[2] for name in found] == ["e/b.txt", "e/c/d.txt"]


def test_a_file_is_created_only_if_it_is_absent(object_store):
    files, path = fsspec.filesystem("gcs"), f"{object_store}/lock"

    files.pipe_file(path, b"first", mode="create")

    with pytest.raises(FileExistsError):
        files.pipe_file(path, b"second", mode="create")
    with pytest.raises(FileExistsError), files.open(path, "xb") as f:
        f.write(b"third")
    assert files.cat_file(path) == b"first"


def test_another_process_sees_the_same_objects(object_store):
    program = "import sys; from etils import epath; epath.Path(sys.argv[1]).write_text('from there')"

    subprocess.run([sys.executable, "-c", program, f"{object_store}/note"], check=True)

    assert epath.Path(f"{object_store}/note").read_text() == "from there"


def test_checkpoints_are_saved_and_restored(object_store):
    params = {"kernel": jax.numpy.arange(12.0).reshape(3, 4), "bias": jax.numpy.ones(4)}
    folder = checkpoint_folder(epath.Path(object_store) / "run")
    saved = Checkpoints(folder, keep=2)
    for step in (1, 2, 3):
        saved.save(step, params, {"count": jax.numpy.int32(step)}, {"step": step})
    saved.wait()
    saved.close()

    found = Checkpoints(folder)
    step, run = found.latest()
    restored = found.restore_params(step, jax.tree.map(jax.numpy.zeros_like, params))
    found.close()

    assert step == run["step"] == 3
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["2", "3"]
    jax.tree.map(np.testing.assert_array_equal, restored, params)
    assert json.loads((folder / "3" / "digests.json").read_text())


def test_a_run_lives_in_a_bucket(object_store, run_config, tmp_path):
    bucket = epath.Path(object_store)
    (bucket / "text" / "deep" / "a.txt").write_text(epath.Path(run_config.data.files).read_text())
    run_config.data.files = f"{bucket}/text/**/*.txt"
    workdir = f"{bucket}/run"
    run_config.stages = ("priming",)
    train(run_config, workdir)
    with locks.hold(epath.Path(workdir) / ".lock", "x"), pytest.raises(InputError, match="is being written by another"):
        train(run_config, workdir)
    run_config.stages = ("priming", "pretraining")
    result = train(run_config, workdir)

    assert json.loads((bucket / "run" / "result.json").read_text()) == result
    rows = [json.loads(line) for line in (bucket / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [4, 8, 10, 12, 16, 20]
    found = {path.name for path in (bucket / "run").iterdir()}
    assert found == {
        "checkpoints",
        "config.json",
        "curves.png",
        "data.json",
        "metrics.jsonl",
        "result.json",
        "tensorboard",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert len(list((bucket / "run" / "tensorboard").iterdir())) == 2
    exported = f"{bucket}/exported"
    assert convert(workdir, exported).startswith(f"{exported}: a Hugging Face folder")
    convert(workdir, exported, overwrite=True)
    local = convert(exported, str(tmp_path / "local"))
    assert "a checkpoint of mux_jax" in local
    for path in (workdir, exported):
        jax.tree.map(
            np.testing.assert_array_equal, load_pretrained(path)[1], load_pretrained(str(tmp_path / "local"))[1]
        )
    left = {path.name for path in bucket.iterdir()}
    assert left == {"text", "run", "exported"}


def test_predictions_go_from_bucket_to_bucket(object_store, tmp_path):
    model = write_model(tmp_path / "model", head="sequence", labels=LABELS)
    (epath.Path(object_store) / "in.csv").write_text("text\n" + "\n".join(sentences(9)))
    command = [sys.executable, "launch/predict.py", "--model", str(model), "--texts", f"{object_store}/in.csv"]
    done = subprocess.run(
        [*command, "--output", f"{object_store}/deep/out.jsonl"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{object_store}/deep/out.jsonl: 9 rows, 0 errors")
    assert len((epath.Path(object_store) / "deep" / "out.jsonl").read_text().splitlines()) == 9
    assert [path.name for path in (epath.Path(object_store) / "deep").iterdir()] == ["out.jsonl"]
    again = subprocess.run(
        [*command, "--output", f"{object_store}/deep/out.jsonl"], cwd=ROOT, capture_output=True, text=True
    )
    assert again.returncode == 2 and "exists; --overwrite replaces it" in again.stderr


def test_a_folder_of_predictions(object_store, tmp_path):
    model = write_model(tmp_path / "m", sharpen=True, head="sequence", labels=LABELS)
    write_files(tmp_path / "in")
    for name in FILES:
        epath.Path(f"{object_store}/in/{name}").write_text((tmp_path / "in" / name).read_text())
    for texts, output in ((tmp_path / "in", tmp_path / "out"), (f"{object_store}/in", f"{object_store}/out")):
        run = command(model, f"{texts}/**/*.jsonl", output)
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "3 files, 48 rows, 0 errors" in done.stdout, done.stdout + done.stderr
    for name in FILES:
        assert epath.Path(f"{object_store}/out/{name}").read_bytes() == (tmp_path / "out" / name).read_bytes()
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "3 files are whole; 0 to do" in done.stdout, done.stdout + done.stderr
    names = fsspec.filesystem("gcs").find(f"{object_store}/out")
    assert not [name for name in names if "partial" in name or name.endswith(".lock")]
