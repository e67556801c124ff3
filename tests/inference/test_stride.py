"""Texts over the limit are predicted on in windows that overlap."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special

import mux_jax
from mux_jax.errors import InputError
from tests.conftest import WORDS
from tests.tasks import LABELS, write_model

ROOT = Path(__file__).parents[2]
ROOM, STRIDE = 38, 10  # of 40 tokens, two of them the ends
LONG = [str(word) for word in np.random.default_rng(0).choice(WORDS, 80)]  # a token each
STARTS = (0, 28, 56)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("m") / "sequence", width=1, head="sequence", labels=LABELS))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("m") / "words", width=1, head="token", labels=("a", "b", "c")))


def test_logits_of_a_text_are_the_mean_over_its_windows(sequence):
    windows = [" ".join(LONG[start : start + ROOM]) for start in STARTS]
    cut = mux_jax.Predictor(sequence, rows=8)
    logits = np.log([list(p["probabilities"].values()) for p in cut.predict(windows)])
    predictor = mux_jax.Predictor(sequence, rows=8, stride=STRIDE)
    found, short = predictor.predict([" ".join(LONG), "time"])
    expected = scipy.special.softmax(logits.mean(0))
    np.testing.assert_allclose(list(found["probabilities"].values()), expected, atol=1e-5)
    assert short["probabilities"] == pytest.approx(cut.predict(["time"])[0]["probabilities"], abs=1e-5)
    assert (predictor.truncated, cut.truncated) == (0, 0)
    cut.predict([" ".join(LONG)])
    assert cut.truncated == 1


def test_a_word_has_the_tag_of_the_window_in_which_it_is_farthest_from_the_edges(words):
    windows = [LONG[start : start + ROOM] for start in STARTS]
    tags = [p["tags"] for p in mux_jax.Predictor(words, rows=8).predict(windows)]
    # Words 28 to 37 are in the first two windows, 56 to 65 in the last two; in the middle of each the window changes.
    expected = tags[0][:33] + tags[1][5:33] + tags[2][5:]
    assert mux_jax.Predictor(words, rows=8, stride=STRIDE).predict([LONG])[0]["tags"] == expected


def test_pairs_and_strides_that_do_not_go_are_refused(sequence):
    predictor = mux_jax.Predictor(sequence, rows=8, stride=STRIDE)
    assert len(predictor.predict([("time", "river"), " ".join(LONG)])) == 2
    with pytest.raises(InputError, match=r"texts\[1\]: a pair over the limit on the length; with a stride only single"):
        predictor.predict(["time", ("time", " ".join(LONG))])
    for stride in (ROOM, -1):
        with pytest.raises(InputError, match=f"stride={stride} must be from 0 to 37: a window has room for 38 tokens"):
            mux_jax.Predictor(sequence, stride=stride)


def test_the_command_has_windows(words, tmp_path):
    (tmp_path / "in.txt").write_text(" ".join(LONG) + "\n")
    command = [sys.executable, "launch/predict.py", "--model", words, "--texts", tmp_path / "in.txt", "--output"]

    def call(output, stride):
        return subprocess.run(
            [*command, tmp_path / output, f"--stride={stride}"], cwd=ROOT, capture_output=True, text=True
        )

    done = call("out.tsv", STRIDE)
    assert done.returncode == 0 and "0 texts cut" in done.stdout, done.stderr
    tags = (tmp_path / "out.tsv").read_text().splitlines()[1].split("\t")[1]
    assert len(tags.split(" ")) == 80 and "_" not in tags
    done = call("no.tsv", ROOM)
    assert done.returncode == 2 and "stride=38 must be from 0 to 37" in done.stderr and "Traceback" not in done.stderr
