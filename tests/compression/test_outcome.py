"""The outcome of a compression: agreement with what was learned from, of the full model too if that is a file."""

from types import SimpleNamespace

import numpy as np
import pytest

from mux_jax.compression import outcome as module
from mux_jax.compression.texts import Texts
from mux_jax.data.tasks import Task
from tests.conftest import small_model

LABELS = ("fruit", "stone")
TEXTS = [f"text {i}" for i in range(10)]
FULL, MADE, OTHER = "fffffsssss", "ffffffssss", "sfffffssss"  # the first letters of answers


def found(monkeypatch, answers):
    """The outcome for answers that are made up."""
    config = small_model(width=1, head="sequence", labels=LABELS)
    letters = {"full": FULL, "made": MADE}
    named = {label[0]: label for label in LABELS}
    monkeypatch.setattr(
        module, "_Answers", lambda source, *_: lambda texts, seed: [named[x] for x in letters[source.name]]
    )
    full, made = (SimpleNamespace(name=name, config=config) for name in letters)
    task = Task("sequence", "accuracy", ("text",))
    texts = Texts(task, TEXTS, TEXTS, TEXTS, TEXTS, labelled=[], answers=answers, read=10)
    return module.outcome(full, None, made, None, texts, None, 0, 0)


def test_agreement_is_with_the_full_model(monkeypatch):
    got = found(monkeypatch, {})
    assert got["agreement"]["value"] == pytest.approx(0.9) and got["full_agreement"] is None


def test_agreement_of_both_is_with_the_answers_in_a_file(monkeypatch):
    logits_TC = np.array([[x == "f", x == "s"] for x in OTHER], np.float32)
    got = found(monkeypatch, {"judge": logits_TC})
    assert got["agreement"]["value"] == pytest.approx(0.9)
    assert got["full_agreement"] == {"value": pytest.approx(0.8)}
