"""What the command writes beside labels: columns carried along."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mux_jax.inference import writer
from tests.tasks import LABELS, write_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("m") / "double", head="sequence", labels=LABELS)


def predict(model, source, output, *arguments):
    command = [sys.executable, "launch/predict.py", "--model", model, "--texts", source, "--output", output, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.extra  # for its time
def test_columns_are_carried_along_those_of_bad_records_too(model, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        '{"id": 1, "text": "time", "more": {"a": [true]}}',
        '{"id": "zwei", "text": 7, "more": 0.5}',
        "no JSON",
        '{"text": "river", "id": 4, "more": "\\ud83d"}',
        '{"text": "river", "label": "stone"}',
    ]
    source.write_text("\n".join(lines))
    done = predict(model, source, output, "--keep=more,id", "--on_error=skip", "--max_errors=1")
    assert done.returncode == 0, done.stderr
    found = rows(output)
    carried = [(row["more"], row["id"]) for row in found]
    assert carried == [({"a": [True]}, 1), (0.5, "zwei"), (None, None), (None, 4), (None, None)]
    assert all(list(row) == ["more", "id", "label", "probabilities", "error"] for row in found)
    assert [row["error"] is None for row in found] == [True, False, False, False, True]
    assert set(found[0]["probabilities"]) == set(LABELS) and "half of a surrogate pair" in found[3]["error"]
    source.write_text("\n".join(reversed(lines[:4])))
    for keep in ("--keep=id", "--keep=text", "--keep="):  # known as predictions each time
        done = predict(model, source, output, keep, "--on_error=skip", "--max_errors=1", "--overwrite")
        assert done.returncode == 0, done.stderr


def test_columns_that_cannot_be_carried_are_refused_before_work(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"id": 1, "text": "time", "label": 3, "probability_x": 1}\n')
    for keep, message in (
        ("url", "no column 'url'; there are: 'id', 'text', 'label', 'probability_x'; --keep names columns"),
        ("id,label", "--keep=label: a column of predictions has this name"),
        ("probability_x", "--keep=probability_x: a column of predictions has this name"),
    ):
        done = predict("runs/none", tmp_path / "in.jsonl", tmp_path / "out.jsonl", f"--keep={keep}")
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_of_words_has_nothing_to_carry(tmp_path):
    folder = write_model(tmp_path / "m", head="token", labels=("a", "b"))
    (tmp_path / "in.txt").write_text("time river\nstone\n")
    done = predict(folder, tmp_path / "in.txt", tmp_path / "out.jsonl", "--keep=text")
    assert done.returncode == 2 and "in.txt has words and nothing to keep" in done.stderr, done.stderr
    assert "checking" not in done.stdout


def test_columns_are_text_in_tables(model, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"id": "a\\tb", "n": [1, "\u00e9"], "text": "time"}\n{"id": true, "text": ""}\n'
    )
    done = predict(model, tmp_path / "in.jsonl", tmp_path / "out.tsv", "--keep=id,n")
    assert done.returncode == 0, done.stderr
    header, *found = (line.split("\t") for line in (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines())
    assert header == ["id", "n", "label", *(f"probability_{label}" for label in LABELS), "error"]
    assert [row[:2] for row in found] == [["a b", '[1, "\u00e9"]'], ["true", ""]]
    done = predict(model, tmp_path / "in.jsonl", tmp_path / "out.tsv", "--overwrite")
    assert done.returncode == 0, done.stderr


@pytest.mark.extra
def test_columns_have_types_in_parquet_or_are_strings(model, tmp_path):
    import pyarrow.parquet

    lines = [{"n": 1, "x": 0.5, "mixed": 1, "big": 2**70, "text": ""}, {"n": None, "x": 1.5, "mixed": "a", "text": ""}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for arguments in (["--keep=n,x,mixed,big"], ["--keep=n,x,mixed,big", "--overwrite"]):
        done = predict(model, tmp_path / "in.jsonl", tmp_path / "out.parquet", *arguments)
        assert done.returncode == 0, done.stderr
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names[:5] == ["n", "x", "mixed", "big", "label"]
    assert table.select(["n", "x", "mixed", "big"]).to_pylist() == [
        {"n": 1, "x": 0.5, "mixed": "1", "big": str(2**70)},
        {"n": None, "x": 1.5, "mixed": "a", "big": None},
    ]


def test_training_data_is_not_taken_for_predictions():
    for names in (
        ["words", "tags"],
        ["error"],
        ["id", "score", "error"],
        ["label", "probability_a"],
        ["labels", "error"],
    ):
        assert writer.are_predictions(names), names
    for names in (
        [],
        ["id"],
        ["id", "text", "label"],
        ["id", "words", "tags"],
        ["id", "error"],
        ["label", "x"],
        ["text", "labels"],
    ):
        assert not writer.are_predictions(names), names
