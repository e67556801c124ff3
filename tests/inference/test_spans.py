"""Words with tags become spans of the text, as token-classification pipelines of Hugging Face have them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mux_jax
from mux_jax.errors import InputError
from mux_jax.inference.spans import find_spans
from tests.conftest import WORDS
from tests.tasks import write_model

ROOT = Path(__file__).parents[2]
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("m") / "model", width=1, head="token", labels=LABELS))


def logits(*tags, probability=0.5):
    """float [W, C] of words with these tags; NaN for None."""
    rest = np.log((1 - probability) / (len(LABELS) - 1))
    rows = [[np.log(probability) if tag == label else rest for label in LABELS] for tag in tags]
    return np.array([[np.nan] * len(LABELS) if tag is None else row for tag, row in zip(tags, rows)])


def places(text, *tags):
    return [(span["label"], span["text"]) for span in find_spans(text, logits(*tags), LABELS)]


def test_tags_are_grouped_to_spans():
    assert places("Ada  Lovelace\tin London", "B-PER", "I-PER", "O", "B-LOC") == [
        ("PER", "Ada  Lovelace"),
        ("LOC", "London"),
    ]
    assert places("a b c", "B-PER", "B-PER", "I-PER") == [("PER", "a"), ("PER", "b c")]
    assert places("a b c", "I-PER", "I-LOC", "I-LOC") == [("PER", "a"), ("LOC", "b c")]
    assert places("a b c", "I-PER", "O", "I-PER") == [("PER", "a"), ("PER", "c")]
    assert places("a \u00a0 c d", "B-PER", None, "I-PER", None) == [("PER", "a \u00a0 c")]
    assert places("a", "O") == []


def test_a_span_has_its_place_and_the_mean_probability():
    given = np.concatenate([logits("O"), logits("B-LOC", probability=0.75), logits("I-LOC", probability=0.5)])
    for text in (" in New\tYork ", ["in", "New", "York"]):
        (span,) = find_spans(text, given, LABELS)
        there = text if isinstance(text, str) else " ".join(text)
        assert there[span["start"] : span["end"]] == span["text"]
        assert span.pop("score") == pytest.approx(0.625)
    assert span == {"label": "LOC", "start": 3, "end": 11, "text": "New York"}


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return ["  ".join(rng.choice(WORDS, rng.integers(1, 20))) for _ in range(30)]


def test_the_predictor_and_the_command_have_the_same_spans(model, texts, tmp_path):
    found = mux_jax.Predictor(model, rows=8).predict(texts, spans=True)
    for text, row in zip(texts, found):
        assert list(row) == ["words", "tags", "spans"]
        assert all(span["text"] == text[span["start"] : span["end"]] for span in row["spans"])
    assert sum(len(row["spans"]) for row in found) > 10
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"words": text}) + "\n" for text in texts))
    command = [sys.executable, "launch/predict.py", "--model", model, "--texts", tmp_path / "in.jsonl", "--spans"]
    command += ["--dtype", "float32"]
    for name in ("out.jsonl", "out.tsv"):
        done = subprocess.run([*command, "--output", tmp_path / name], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    header, *rows = (line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines())
    assert header == ["words", "tags", "spans", "error"]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, line, expected in zip(rows, lines, found, strict=True):
        for spans in (json.loads(row[2]), line["spans"]):
            assert [span | {"score": 0} for span in spans] == [span | {"score": 0} for span in expected["spans"]]


def test_a_model_without_tags_has_no_spans(tmp_path):
    folder = str(write_model(tmp_path / "m", head="sequence", labels=("a", "b")))
    with pytest.raises(InputError, match="spans are of models that tag words; this one has a label for a text"):
        mux_jax.Predictor(folder).predict(["time"], spans=True)
    (tmp_path / "in.txt").write_text("time\n")
    command = [sys.executable, "launch/predict.py", "--model", folder, "--texts", tmp_path / "in.txt", "--spans"]
    command += ["--output", tmp_path / "out.jsonl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "spans are of models that tag words" in done.stderr
    assert "checking" not in done.stdout and "Traceback" not in done.stderr


@pytest.mark.extra
def test_spans_in_parquet(model, texts, tmp_path):
    import pyarrow.parquet

    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"words": text.split()}) + "\n" for text in texts))
    command = [sys.executable, "launch/predict.py", "--model", model, "--texts", tmp_path / "in.jsonl", "--spans"]
    command += ["--output", tmp_path / "out.parquet", "--dtype", "float32"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    expected = mux_jax.Predictor(model).predict([text.split() for text in texts], spans=True)
    assert [[s["text"] for s in row["spans"]] for row in found] == [[s["text"] for s in r["spans"]] for r in expected]


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_spans_are_those_of_transformers_where_each_word_is_a_token(model, texts):
    import transformers

    tagger = transformers.pipeline("token-classification", model=model, aggregation_strategy="simple", device="cpu")
    for text, row in zip(texts, mux_jax.Predictor(model, rows=8).predict(texts, spans=True)):
        theirs = [(span["entity_group"], span["start"], span["end"]) for span in tagger(text)]
        assert [(span["label"], span["start"], span["end"]) for span in row["spans"]] == theirs
        scores = [span["score"] for span in tagger(text)]
        assert [span["score"] for span in row["spans"]] == pytest.approx(scores, abs=1e-4)
