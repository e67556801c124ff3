"""Notebooks run from the first cell to the last on tiny settings, and are committed with their outputs."""

import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.extra
ROOT = Path(__file__).parents[1]
SAYS = {  # that must be among the outputs
    "multiplexing_explained": ("held-out figures of", "rows give the label"),
    "compress_your_encoder": ("report.md", "two texts a row"),
    "pretrain_on_tpu": ("a chip holds", "exit status 0", "continuing at step"),
}
TINY = {
    "multiplexing_explained": "priming_steps, pretraining_steps, finetuning_steps = 60, 50, 40",
    "compress_your_encoder": "pretraining_steps, finetuning_steps, minutes, by = 50, 40, 0.2, 'layers'",
    "pretrain_on_tpu": 'size, width, rows, steps, topology = "tiny", 2, 8, 50, "v5e:2x2"',
}


def read(name):
    import nbformat

    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def execute(book, folder):
    """Runs all cells in a folder, with the project and the programs of this environment."""
    import nbclient

    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = {name: x for name, x in os.environ.items() if name not in ("MPLBACKEND", "XLA_FLAGS")} | own
    client = nbclient.NotebookClient(
        book, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)


@pytest.mark.parametrize("name", TINY)
def test_a_notebook_runs(name, tmp_path):
    import nbformat

    book = read(name)
    (settings,) = (i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", ()))
    book.cells.insert(settings + 1, nbformat.v4.new_code_cell(TINY[name]))
    execute(book, tmp_path)
    text = json.dumps([cell.get("outputs", []) for cell in book.cells])
    assert "error:" not in text and "Traceback" not in text
    assert all(said in text for said in SAYS[name]), text


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path):
    book = read(path.stem)
    assert path.stem in TINY
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert pictures and path.stat().st_size < 1_000_000
    assert not any(str(folder) in path.read_text() for folder in (ROOT, Path.home(), Path(sys.prefix)))


if __name__ == "__main__":  # python -m tests.test_notebooks NAME: runs it in an empty /content, as Colab does
    import nbformat

    content = Path("/content")
    content.mkdir(exist_ok=True)
    for name in sys.argv[1:]:
        book = read(name)
        execute(book, content)
        nbformat.write(book, ROOT / "notebooks" / f"{name}.ipynb")
