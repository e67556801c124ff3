"""`launch/finetune.py` as a user types it: a new head on a fine-tuned model, and class weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mux_jax
from tests.tasks import write_model, write_sentences

ROOT = Path(__file__).parents[2]


@pytest.mark.extra
@pytest.mark.parametrize("head, labels", [("sequence", ("x", "y", "z")), ("token", ("fruit", "stone"))])
def test_any_fine_tuned_model_starts_another_task_with_a_new_head_and_class_weights(tmp_path, head, labels):
    data, model = write_sentences(tmp_path / "data"), write_model(tmp_path / "model", head=head, labels=labels)
    flags = [f"--config=configs/finetune.py:task=custom,data={data}", f"--config.init_from={model}"]
    flags += ["--config.finetuning.class_weights=balanced", "--config.finetuning.steps=2", "--config.rows=4"]
    flags += ["--config.data.sequence_length=16", "--config.num_compositions=2", f"--workdir={tmp_path}/run"]
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "launch/finetune.py", *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "labels and their weights: fruit " in done.stdout and "classifier" in done.stdout  # new, which is printed
    assert mux_jax.load_pretrained(str(tmp_path / "run"))[0].config.labels == ("fruit", "stone")
