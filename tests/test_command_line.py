"""Bad input from the command line: one line on stderr, exit status 2, no traceback, no work done."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mux_jax import configuration
from mux_jax.data.tokenizer import load_tokenizer
from mux_jax.data.vocabulary import train_tokenizer
from mux_jax.errors import InputError

ROOT = Path(__file__).parents[1]


def pretrain(*arguments, cwd=ROOT, devices=1):
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, str(ROOT / "launch" / "pretrain.py"), *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)


def assert_refused(run, message):
    assert run.returncode == 2, run.stdout + run.stderr
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1, run.stderr
    assert message in run.stderr and "Traceback" not in run.stderr, run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=FILE is needed"),
        (["--config=configs/nothing.py"], "configs/nothing.py"),
        (["--config=README.md"], "README.md"),
        (["--config=configs/mux_bert.py:sizes=tiny"], "there are (with defaults): size=tiny, width=2"),
        (["--config=configs/mux_bert.py:size=huge"], "there are: tiny, small, base, large"),
        (["--config=configs/mux_bert.py:width=two"], "width is of type int"),
        (["--config=configs/mux_bert.py", "--config.rowz=8"], "no such field"),
        (["--config=configs/mux_bert.py", "--config.model.wid=8"], "wid"),
        (["--config=configs/mux_bert.py", "--config.rows=many"], "many"),
        (["--config=configs/mux_bert.py", "--nonsense"], "nonsense"),
        (["--config=configs/mux_bert.py", "nonsense"], "nonsense"),
    ],
)
def test_flags_that_cannot_be_parsed(arguments, message):
    assert_refused(pretrain(*arguments), message)


def test_a_bad_batch_and_a_bad_workdir(tmp_path):
    config = f"--config={ROOT}/configs/mux_bert.py"
    assert_refused(pretrain(config, "--config.rows=6", cwd=tmp_path, devices=4), "rows=6 must be a multiple of 4")
    (tmp_path / "file").write_text("")
    assert_refused(pretrain(config, "--workdir=file/run", cwd=tmp_path), "cannot be written")
    bad_glob = pretrain(config, "--config.data.source=files", "--config.data.files=*.txt", cwd=tmp_path)
    assert_refused(bad_glob, "no file matches '*.txt'")
    assert not list(tmp_path.glob("runs/*/config.json"))  # the next try may be another configuration


def test_files_are_a_list_in_a_configuration_file_and_a_text_on_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from mux_jax import configuration\n"
        "def get_config():\n"
        "    config = configuration.pretraining('bert', 'tiny', 2)\n"
        "    config.data.update(source='files', files=['a,b.txt', '[c.txt'])\n"
        "    return config\n",
        encoding="utf-8",
    )
    assert_refused(pretrain("--config=mine.py", cwd=tmp_path), "no file matches 'a,b.txt'")
    given = pretrain("--config=mine.py", "--config.data.files", "c d.txt,e.txt", cwd=tmp_path)
    assert_refused(given, "no file matches 'c d.txt'")


def test_the_cache_is_shown_and_cleared_without_a_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("MUX_JAX_CACHE", str(tmp_path))
    (tmp_path / "tokenizer-0123.json").write_text("{}")
    run = pretrain("--cache=show")
    assert run.returncode == 0 and "tokenizer-0123.json" in run.stdout, run.stderr
    run = pretrain("--cache=clear")
    assert run.returncode == 0 and "MB removed" in run.stdout and not list(tmp_path.iterdir()), run.stderr
    assert_refused(pretrain("--cache=empty"), "empty")


def test_nothing_needs_what_windows_lacks():
    script = "import sys; sys.modules.update(fcntl=None, resource=None); import signal; del signal.SIGHUP\n"
    script += "import mux_jax; from mux_jax import interrupts, locks; from mux_jax.training import loop, meter\n"
    script += "print(locks.fcntl, meter.peak_memory_bytes(), len(interrupts.SIGNALS))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "None 0 2\n", run.stderr


@pytest.mark.extra  # for its time
def test_files_are_read_and_written_in_utf_8_whatever_the_locale(tmp_path):
    """In such a locale Python reads and writes another encoding where none is named."""
    text = "straße größe naïve café ☃ " * 4
    (tmp_path / "text.txt").write_text("\n\n".join(text + str(i) for i in range(400)), encoding="utf-8")
    small = [
        "hidden_size=16",
        "embedding_size=16",
        "intermediate_size=32",
        "num_attention_heads=2",
        "num_hidden_layers=1",
    ]
    flags = [f"--config.model.{field}" for field in small]
    flags += ["--config.data.source=files", f"--config.data.files={tmp_path}/text.txt", "--config.data.vocab_size=300"]
    flags += ["--config.data.sequence_length=16", "--config.data.heldout_fraction=0.2", "--config.rows=4"]
    flags += ["--config.priming.steps=1", "--config.priming.warmup_steps=0", "--config.stages=priming"]
    flags += [f"--config.data.cache_dir={tmp_path}/cache", f"--workdir={tmp_path}/run", "--config.eval.batches=1"]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "XLA_FLAGS": ""}
    for _ in range(2):  # the second time the vocabulary comes from its file
        command = [sys.executable, ROOT / "launch" / "pretrain.py", f"--config={ROOT}/configs/mux_bert.py", *flags]
        run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
        assert run.returncode == 0, run.stdout + run.stderr
        shutil.rmtree(tmp_path / "run" / "checkpoints")
        (tmp_path / "run" / "config.json").unlink()
    vocabulary = load_tokenizer(str(tmp_path / "run" / "tokenizer.json")).backend
    assert vocabulary.decode(vocabulary.encode("straße café ☃").ids) == "straße cafe ☃"
    expected = train_tokenizer([text + str(i) for i in range(400)], 300).backend
    assert vocabulary.get_vocab() == expected.get_vocab()


def test_help_is_help():
    run = pretrain("--help")
    assert "launch/pretrain.py --config=configs/mux_electra.py" in run.stdout and "--workdir" in run.stdout
    assert "Traceback" not in run.stderr


def bert(**changes):
    config = configuration.pretraining("bert", "tiny", changes.pop("width", 2))
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "model.width=0 must be at least 1"),
        ({"model.multiplexer": "magic"}, "there are: gaussian, binary"),
        ({"model.num_attention_heads": 3}, "must be a multiple"),
        ({"pretraining.objective": "clm"}, "there are: retrieval, mlm, rtd"),
        ({"pretraining.objective": "retrieval", "width": 1}, "width 1 has nothing to separate"),
        ({"data.sequence_length": 65}, "longer than the 64 positions that the model has"),
        ({"data.sequence_length": 4}, "at least 8"),
        ({"stages": ("primming",)}, "there are: priming, pretraining"),
        ({"stages": ("priming", "priming")}, "each stage once"),
        ({"priming.warmup_steps": 10**6}, "warmup_steps=1000000 must be from 0 to"),
        ({"priming.steps": 0, "priming.warmup_steps": 0}, "priming.steps=0 must be at least 1"),
        ({"pretraining.learning_rate": 0.0}, "must be positive"),
        ({"pretraining.mask_fraction": 1.5}, "must be in"),
        ({"data.heldout_fraction": 0.0}, "must be in"),
        ({"pretraining.learning_rate": float("inf")}, "learning_rate=inf must be positive and finite"),
        ({"pretraining.task_coefficient": -0.1}, "pretraining.task_coefficient=-0.1 must be at least 0 and finite"),
        (
            {"pretraining.retrieval_coefficient": -1.0},
            "pretraining.retrieval_coefficient=-1.0 must be at least 0 and finite",
        ),
        (
            {"pretraining.detection_weight": float("nan")},
            "pretraining.detection_weight=nan must be at least 0 and finite",
        ),
        ({"optimizer.clip_norm": 0.0}, "optimizer.clip_norm=0.0 must be positive"),
        ({"optimizer.b1": 1.0}, r"optimizer.b1=1.0 must be in \[0, 1\)"),
        ({"optimizer.b2": -0.1}, r"optimizer.b2=-0.1 must be in \[0, 1\)"),
        ({"optimizer.weight_decay": -0.01}, r"optimizer.weight_decay=-0.01 must be at least 0 and finite"),
        ({"model.key_norm": 0.0}, "model.key_norm=0.0 must be positive"),
        ({"model.layer_norm_eps": 0.0}, "model.layer_norm_eps=0.0 must be positive"),
        ({"seed": -1}, "seed=-1 must be in"),
        ({"seed": 2**32}, r"seed=4294967296 must be in \[0, 4294967296\)"),
        ({"stages": (1,)}, "stages='1' does not exist"),
        ({"rows": 0}, "rows=0 must be at least 1"),
    ],
)
def test_impossible_values_are_refused_by_field(changes, message):
    with pytest.raises(InputError, match=message):
        configuration.resolve(bert(**changes), None)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
@pytest.mark.parametrize("architecture", ["bert", "electra"])
def test_every_size_is_a_valid_configuration(architecture, size):
    for width in (1, 2, 5, 10, 7):
        config = configuration.pretraining(architecture, size, width)
        configuration.resolve(config, None)
        assert config.stages == (("priming", "pretraining") if width > 1 else ("pretraining",))


def test_stages_may_be_given_as_one_word_list():
    config = bert(stages=("pretraining,priming",))
    assert [name for name, _ in configuration.stages(configuration.read(config))] == ["pretraining", "priming"]


def test_ci_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    [command] = [line for line in (ROOT / "README.md").read_text().splitlines() if line.endswith("python -m pytest")]
    assert f"grep -m 1 -x '{command}' README.md" in script
