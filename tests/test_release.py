"""What is released: one version, a wheel that works where the repository is not."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import mux_jax

ROOT = Path(__file__).parents[1]


def test_there_is_one_version():
    version = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert mux_jax.__version__.removesuffix(".dev0") == version == newest


def test_notebooks_and_site_name_the_project_where_it_is():
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    name = address.removeprefix("https://github.com/")
    assert f"repo_url: {address}\n" in (ROOT / "mkdocs.yml").read_text()
    for path in [*ROOT.glob("notebooks/*.ipynb"), ROOT / "README.md", ROOT / "docs" / "index.md"]:
        text = path.read_text()
        found = set(re.findall(r"github(?:\.com)?/([\w-]+/mux_jax)\b", text))
        assert found == {name}, path
        if path.suffix == ".ipynb":
            assert f"https://colab.research.google.com/github/{name}/blob/main/notebooks/{path.name}" in text


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with the wheel, and outside of it all that it depends on; its `mux-jax`."""
    folder = tmp_path_factory.mktemp("release")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "fresh", with_pip=False)
    (packages,) = (folder / "fresh").glob("lib/python*/site-packages")
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(shared) + "\n")  # after its own
    install = [sys.executable, "-m", "pip", "--python", str(folder / "fresh" / "bin" / "python"), "install"]
    subprocess.run(
        [*install, "--no-deps", "--no-index", "--ignore-installed", str(wheel)], check=True, capture_output=True
    )
    return folder


def run(installed, *command):
    """A command of the fresh environment, in an empty folder."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS")
    }
    command = [str(installed / "fresh" / "bin" / command[0]), *command[1:]]
    return subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True)


@pytest.mark.extra
def test_the_wheel_runs_the_main_job_outside_the_repository(installed):
    where = run(installed, "python", "-c", "import mux_jax; print(mux_jax.__file__)")
    assert where.stdout.startswith(str(installed)), where
    few = [
        "--config.rows=2",
        *(f"--config.{stage}.{field}=2" for stage in ("priming", "pretraining") for field in ("steps", "warmup_steps")),
    ]
    done = run(installed, "mux-jax", "pretrain", "--config=configs/mux_electra.py", *few)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (installed / "runs" / "mux_electra_tiny_n2" / "result.json").exists()
    assert "rtd_roc_auc" in done.stdout


@pytest.mark.extra
def test_every_program_of_the_repository_is_in_the_wheel(installed):
    listed = run(installed, "mux-jax", "--help").stdout
    programs = sorted(path.stem for path in (ROOT / "launch").glob("*.py"))
    assert re.findall(r"^  (\w+)", listed, re.M) == programs
    for name in ("predict", "compress"):  # by argparse
        shown = run(installed, "mux-jax", name, "--help")
        assert shown.returncode == 0 and shown.stdout.startswith(f"usage: mux-jax {name}"), shown
    assert run(installed, "mux-jax", "--version").stdout == f"mux_jax {mux_jax.__version__}\n"
    wrong = run(installed, "mux-jax", "pretrane")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: no program 'pretrane'; there are: analyze,")


@pytest.mark.extra
def test_the_wheel_holds_no_tests_and_nothing_of_a_run(installed):
    (wheel,) = (installed / "dist").glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"mux_jax", f"mux_jax-{mux_jax.__version__}.dist-info"}


@pytest.mark.extra
def test_an_image_is_given_all_that_the_package_is_built_of(tmp_path):
    allowed = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.M)
    for names in re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.M):
        for name in names.split():
            assert name in allowed
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tmp_path / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    subprocess.run([*build, str(tmp_path)], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert {"mux_jax/launch/serve.py", "mux_jax/configs/mux_bert.py"} < set(zipfile.ZipFile(wheel).namelist())
