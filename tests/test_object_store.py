"""What runs do in gs://, with the real gcsfs, TensorStore and Orbax, on a server that keeps objects in memory."""

import json
import subprocess
import sys

import fsspec
import jax
import numpy as np
import pytest
from etils import epath

from mux_jax.checkpoints.runs import Checkpoints, checkpoint_folder
from mux_jax.files import write_atomically

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
