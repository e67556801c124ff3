"""The worker that engines send: small, loaded once, from records to records in order."""

import pickle

import numpy as np
import pytest

import mux_jax
from mux_jax.bulk.worker import Worker
from mux_jax.errors import InputError
from tests.tasks import LABELS, sentences, write_embedder, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("m") / "double", sharpen=True, head="sequence", labels=LABELS))


def test_records_come_back_in_order_with_predictions(model, one_device):
    records = [{"id": i, "text": text} for i, text in enumerate(sentences(9))]
    worker = pickle.loads(pickle.dumps(Worker.of(model, rows=2, dtype="float32")))
    found = worker(records)
    assert [(row["id"], row["text"]) for row in found] == [(r["id"], r["text"]) for r in records]
    expected = mux_jax.Predictor(model, rows=2, dtype="float32").predict([r["text"] for r in records])
    assert [{k: v for k, v in row.items() if k not in ("id", "text")} for row in found] == expected


def test_copies_of_a_worker_share_one_model(model, one_device):
    worker = Worker.of(model, rows=2)
    assert pickle.loads(pickle.dumps(worker)).predictor is worker.predictor
    assert len(pickle.dumps(worker)) < 1000
    assert Worker.of(model, rows=4).predictor is not worker.predictor


def test_embeddings_and_bad_input(model, tmp_path, one_device):
    worker = Worker.of(str(write_embedder(tmp_path / "e")), dimensions=4)
    assert worker([{"text": "time"}])[0]["embedding"].shape == (4,)
    assert Worker.of(model)([]) == []
    for records, message in (
        ([{"body": "time"}], "no column 'text'; there are: 'body'"),
        ([{"text": "time"}, {}], r"records\[1\]: no column 'text'; there are: none"),
        ([{"text": "time", "label": 1}], "records have a column 'label', as predictions have; rename it"),
        ([{"text": 3}], r"texts\[0\]: int is not a text"),
    ):
        with pytest.raises(InputError, match=message):
            Worker.of(model)(records)
    with pytest.raises(InputError, match="row is no option; there are: rows, "):
        Worker.of(model, row=3)
    with pytest.raises(InputError, match="this model gives no embeddings"):
        Worker.of(model, dimensions=4).predict(["time"])


def test_a_text_that_is_alone_does_not_depend_on_others(model, one_device):
    texts = sentences(11)
    predictor = mux_jax.Predictor(model, rows=2, alone=True, dtype="float32")
    alone = predictor.logits(texts)
    one_by_one = [predictor.logits([text])[0] for text in texts]
    np.testing.assert_allclose(alone, one_by_one, atol=1e-5)
    assert not np.allclose(mux_jax.Predictor(model, rows=2, dtype="float32").logits(texts), alone, atol=1e-3)
    with pytest.raises(InputError, match="ensemble=2 and alone"):
        mux_jax.Predictor(model, ensemble=2, alone=True)
