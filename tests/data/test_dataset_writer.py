"""Text files prepared by Beam are read back as data.source=tfds: every document, once."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mux_jax import configuration
from mux_jax.data.dataset_writer import write_dataset
from mux_jax.data.sources import TextFiles, open_sources
from mux_jax.errors import InputError

pytestmark = pytest.mark.extra  # Apache Beam

ROOT = Path(__file__).parents[2]


@pytest.fixture
def texts(tmp_path):
    """Files of every kind, with a document that two of them share; a name with a comma and brackets."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a, [1].txt").write_text("\n\n".join(f"document {i}\nits second line é" for i in range(30)))
    (folder / "b.txt").write_text("document 0\nits second line é\n\nanother\n")
    with gzip.open(folder / "c.jsonl.gz", "wt") as f:
        f.writelines(json.dumps({"text": f"record {i}"}) + "\n" for i in range(20))
    return str(folder / "*")


def read(source):
    return sorted(text for text, _ in source.documents())


def read_prepared(folder, name):
    data = configuration.pretraining("bert", "tiny", 2).data
    data.update(source="tfds", tfds_name=name, tfds_dir=str(folder))
    [(_, source)] = open_sources(data)
    return read(source)


@pytest.mark.parametrize("shards", [None, 3, 200])
def test_no_document_is_lost_or_doubled(texts, tmp_path, shards):
    source = TextFiles(texts, "text")
    info = write_dataset(source, "books", str(tmp_path / "out"), shards)
    assert read_prepared(tmp_path / "out", "books") == read(source)
    assert info.splits["train"].num_examples == 52
    assert len(list((tmp_path / "out" / "books" / "1.0.0").glob("*.array_record-*"))) == info.splits["train"].num_shards


def test_the_order_is_the_same_each_time_and_not_that_of_the_files(texts, tmp_path):
    source = TextFiles(texts, "text")
    for name in ("one", "two"):
        write_dataset(source, "books", str(tmp_path / name))
    one, two = (
        (tmp_path / name / "books" / "1.0.0" / "books-train.array_record-00000-of-00001").read_bytes()
        for name in ("one", "two")
    )
    assert one == two and one.index(b"record 3") < one.index(b"document 29")


def test_the_command_says_how_to_read_what_it_wrote(texts, tmp_path):
    command = [sys.executable, str(ROOT / "launch" / "write_dataset.py"), "--texts", texts, "--name", "books"]
    command += ["--output", str(tmp_path / "out"), "--", "--runner=DirectRunner"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"{tmp_path}/out/books/1.0.0: 52 documents" in run.stdout
    assert (
        f"--config.data.source=tfds --config.data.tfds_name=books --config.data.tfds_dir={tmp_path}/out" in run.stdout
    )
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.splitlines()[-1].startswith("error: ") and "exists" in again.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(name="my-books"), "name 'my-books': .* lower-case"),
        (dict(name="../books"), "name '../books'"),
        (dict(shards=0), "shards=0 must be at least 1"),
        (dict(beam_options=["--runner=Nothing"]), "Beam options: .*Nothing"),
    ],
)
def test_bad_input_is_refused_before_work(texts, tmp_path, changes, message):
    arguments = dict(source=TextFiles(texts, "text"), name="books", output=str(tmp_path / "out")) | changes
    with pytest.raises(InputError, match=message):
        write_dataset(**arguments)
    assert not (tmp_path / "out").exists()


def test_a_bad_file_is_named_with_the_line_and_leaves_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"body": "not"}\n')
    with pytest.raises(InputError, match=r"^/.*a.jsonl:2: no text in field 'text' \(text_field\)$"):
        write_dataset(TextFiles(str(tmp_path / "a.jsonl"), "text"), "books", str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*/*"))


def test_without_beam_the_extra_is_named(texts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"pip install 'mux_jax\[beam\]'"):
        write_dataset(TextFiles(texts, "text"), "books", str(tmp_path / "out"))
