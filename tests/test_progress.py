"""What a run prints, to a reader that may leave."""

import os
import subprocess
import sys
import types

from mux_jax import progress


def test_a_run_outlives_whoever_reads_its_output(tmp_path):
    script = (
        "import pathlib, sys; from mux_jax.progress import say;"
        "say('a line'); say('another'); pathlib.Path(sys.argv[1]).write_text('saved')"
    )
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "end")], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert process.returncode == 0 and process.stderr == b""
    assert (tmp_path / "end").read_text() == "saved"


def test_in_a_notebook_a_line_is_shown_in_place_of_the_last_one(monkeypatch, capsys):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace(kernel=None)
    display = types.ModuleType("IPython.display")
    display.display = lambda *_, **__: Handle()
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in notebooks
    monkeypatch.setattr(progress.time, "monotonic", iter(range(100)).__next__)
    with progress.progress("a task") as report:
        report(0.25, "one")
        report(0.5, "two")
    assert shown == ["a task: 25%  one  0:03 left", "a task: 50%  two  0:02 left", "a task: done in 0:03"]
    assert not capsys.readouterr().out
