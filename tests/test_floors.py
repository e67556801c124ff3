"""The house: what may import what, and what is installed with the core."""

import subprocess
import sys
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]

# What the core does not install, made impossible to import.
WITHOUT_TRAINING = """
import sys
names = "grain tensorflow_datasets tensorboardX sklearn seqeval matplotlib pytest pyarrow torch"
sys.modules |= dict.fromkeys(names.split())
"""


def python(code, *arguments):
    return subprocess.run([sys.executable, "-c", WITHOUT_TRAINING + code, *arguments], capture_output=True, text=True)


def test_every_file_imports_from_its_own_floor_and_below(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports() == 0


def test_data_needs_no_jax():
    code = "sys.modules['jax'] = sys.modules['flax'] = None\nimport mux_jax.data.task_batches, mux_jax.data.sources"
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_prediction_needs_the_core_alone(tmp_path):
    from tests.tasks import LABELS, write_model

    model = write_model(tmp_path / "model", head="sequence", labels=LABELS)
    (tmp_path / "texts.txt").write_text("time river\nstone\n")
    program = repr(str(ROOT / "launch" / "predict.py"))
    run = f"import runpy; sys.argv = ['predict.py', *sys.argv[1:]]; runpy.run_path({program}, run_name='__main__')"
    done = python(
        run,
        f"--model={model}",
        f"--texts={tmp_path}/texts.txt",
        f"--output={tmp_path}/out.tsv",
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.tsv").read_text().splitlines()) == 3


def test_training_says_which_extra_it_needs():
    code = (
        "import importlib.util; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'grain' else found(name, *a)\n"
        "import runpy; sys.argv = ['pretrain.py', '--config=configs/mux_bert.py']\n"
        f"sys.modules.pop('sklearn'); sys.modules.pop('matplotlib'); sys.modules.pop('tensorboardX')\n"
        f"runpy.run_path({str(ROOT / 'launch' / 'pretrain.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRAINING + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "training needs grain: pip install 'mux_jax[train]'" in done.stderr, done.stderr
