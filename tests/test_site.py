"""The site builds without a warning, and has every page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mux_jax

ROOT = Path(__file__).parents[1]


@pytest.mark.extra
def test_the_site_builds_and_is_whole(tmp_path):
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    pages = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.html")}
    written = {str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")}
    assert written <= pages
    reference = (tmp_path / "site" / "api.html").read_text()
    promised = set(mux_jax.__all__) - {"MULTIPLEXERS", "DEMULTIPLEXERS"}  # tables, named in the text
    assert promised <= set(re.findall(r'id="mux_jax\.(?:[\w.]+\.)?(\w+)"', reference))
    assert (tmp_path / "site" / "search" / "search_index.js").exists()
