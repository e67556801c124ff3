"""On Ray Data, on a real local Ray."""

import pytest

import mux_jax
from tests.tasks import LABELS, sentences, write_embedder, write_model

pytestmark = [
    pytest.mark.extra,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def predicted(ray, rows, **options):
    from mux_jax.bulk.ray import MuxPredictor

    found = ray.data.from_items(rows).map_batches(
        MuxPredictor, fn_constructor_kwargs=options, batch_size=8, concurrency=1
    )
    return sorted(found.take_all(), key=lambda row: row["id"])


def test_labels_are_columns_behind_those_of_the_batch(ray, tmp_path):
    model = str(write_model(tmp_path / "m", sharpen=True, head="sequence", labels=LABELS))
    texts = sentences(20)
    rows = [{"id": i, "body": text} for i, text in enumerate(texts)]
    found = predicted(ray, rows, path=model, columns="body", alone=True, dtype="float32")
    expected = mux_jax.Predictor(model, alone=True, dtype="float32").predict(texts)
    assert [(row["id"], row["body"], row["label"]) for row in found] == [
        (i, text, answer["label"]) for i, (text, answer) in enumerate(zip(texts, expected))
    ]
    for row, answer in zip(found, expected):
        probabilities = {label: row[f"probability_{label}"] for label in LABELS}
        assert probabilities == pytest.approx(answer["probabilities"], abs=1e-5)


def test_tags_and_embeddings_are_columns(ray, tmp_path):
    tagger = str(write_model(tmp_path / "t", head="token", labels=("a", "b"), width=1))
    rows = [{"id": 0, "text": "time river"}, {"id": 1, "text": "stone"}]
    found = predicted(ray, rows, path=tagger, columns="text", dtype="float32")
    expected = mux_jax.Predictor(tagger, dtype="float32").predict([row["text"] for row in rows])
    assert [(list(row["words"]), list(row["tags"])) for row in found] == [(x["words"], x["tags"]) for x in expected]
    embedder = str(write_embedder(tmp_path / "e"))
    found = predicted(ray, rows, path=embedder, dtype="float32")
    expected = mux_jax.Predictor(embedder, dtype="float32").embed([row["text"] for row in rows])
    for row, embedding in zip(found, expected):
        assert row["embedding"].tolist() == pytest.approx(embedding.tolist(), abs=1e-5)


def test_a_column_of_the_name_of_a_prediction_is_refused(tmp_path):
    import numpy as np

    from mux_jax.bulk.ray import MuxPredictor
    from mux_jax.errors import InputError

    model = str(write_model(tmp_path / "m", head="sequence", labels=LABELS))
    batch = {"text": np.array(["time"]), "label": np.array([1])}
    with pytest.raises(InputError, match="the batch has a column 'label', as predictions have; rename it"):
        MuxPredictor(model)(batch)
    with pytest.raises(InputError, match="no column 'text'; there are: 'label'"):
        MuxPredictor(model)({"label": np.array([1])})
