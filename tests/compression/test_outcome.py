"""The outcome of a compression: agreement with what was learned from, of the full model too if that is a file."""

from types import SimpleNamespace

import numpy as np
import pytest

from mux_jax.compression import outcome as module
from mux_jax.compression.texts import Texts
from mux_jax.data.tasks import Task
from mux_jax.inference.batch_runner import labels_from_logits
from tests.conftest import small_model

LABELS = ("fruit", "stone")
TEXTS = [f"text {i}" for i in range(10)]
FULL, MADE, OTHER = "fffffsssss", "ffffffssss", "sfffffssss"  # the first letters of answers


def found(answers):
    """The outcome for answers that are made up."""
    config = small_model(width=1, head="sequence", labels=LABELS)

    def answers_of(letters):
        return SimpleNamespace(
            config=config,
            logits=lambda texts, seed: [np.array([x == "f", x == "s"], np.float32) for x in letters],
            answers=lambda texts, seed: labels_from_logits(
                [np.array([x == "f", x == "s"], np.float32) for x in letters], config, 0.5
            ),
            named=lambda logits: labels_from_logits(logits, config, 0.5),
        )

    task = Task("sequence", "accuracy", ("text",))
    texts = Texts(task, TEXTS, TEXTS, TEXTS, TEXTS, labelled=[], answers=answers, read=10)
    return module.outcome(answers_of(FULL), answers_of(MADE), None, texts, 0)[0]


def test_agreement_is_with_the_full_model():
    got = found({})
    assert got["agreement"]["value"] == pytest.approx(0.9) and got["full_agreement"] is None


def test_agreement_of_both_is_with_the_answers_in_a_file():
    logits_TC = np.array([[x == "f", x == "s"] for x in OTHER], np.float32)
    got = found({"judge": logits_TC})
    assert got["agreement"]["value"] == pytest.approx(0.9)
    assert got["full_agreement"] == {"value": pytest.approx(0.8)}
