"""A run in a bucket: nothing but arrays goes past etils, whose gs:// is kept in memory here."""

import json

import pytest
from etils import epath

from mux_jax.training import loop
from mux_jax.training.loop import train


@pytest.mark.extra
def test_a_run_with_its_text_in_a_bucket_is_left_and_continued_there(run_config, bucket, tmp_path, monkeypatch):
    # Orbax writes arrays to gs:// by TensorStore, which wants the real one.
    monkeypatch.setattr(loop, "checkpoint_folder", lambda workdir: epath.Path(tmp_path / "checkpoints"))
    (bucket / "text").mkdir()
    (bucket / "text" / "a.txt").write_text(epath.Path(run_config.data.files).read_text())
    run_config.data.files = "gs://bucket/text/*.txt"
    workdir = bucket / "run"

    run_config.stages = ("priming",)
    train(run_config, str(workdir))
    run_config.stages = ("priming", "pretraining")
    result = train(run_config, str(workdir))

    assert json.loads((workdir / "result.json").read_text()) == result
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [4, 8, 10, 12, 16, 20]
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {"config.json", "data.json", "tokenizer.json"} <= {path.name for path in workdir.iterdir()}
