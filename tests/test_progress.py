"""What a run prints, to a reader that may leave."""

import os
import subprocess
import sys


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
