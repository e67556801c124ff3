"""In Spark, in local mode; Spark needs Java."""

import os
import sys

import pytest

import mux_jax
from tests.tasks import LABELS, sentences, write_embedder, write_model

pytestmark = [
    pytest.mark.extra,
    pytest.mark.filterwarnings("ignore"),  # Spark's own
]


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", False).getOrCreate()
    yield session
    session.stop()


def test_labels_are_columns(spark, tmp_path):
    from mux_jax.bulk.spark import predict_udf

    model = str(write_model(tmp_path / "m", sharpen=True, head="sequence", labels=LABELS))
    texts = sentences(20)
    frame = spark.createDataFrame([(i, text) for i, text in enumerate(texts)], ["id", "text"])
    predict = predict_udf(model, alone=True, dtype="float32")
    found = frame.withColumn("found", predict("text")).select("id", "found.*").orderBy("id").collect()
    expected = mux_jax.Predictor(model, alone=True, dtype="float32").predict(texts)
    assert found[0].asDict().keys() == {"id", "label", *(f"probability_{label}" for label in LABELS)}
    for row, answer in zip(found, expected):
        assert row["label"] == answer["label"]
        probabilities = {label: row[f"probability_{label}"] for label in LABELS}
        assert probabilities == pytest.approx(answer["probabilities"], abs=1e-5)


def test_tags_pairs_and_embeddings_are_columns(spark, tmp_path):
    from mux_jax.bulk.spark import predict_udf

    frame = spark.createDataFrame([(0, "time river", "stone"), (1, "stone", "time")], ["id", "text", "other"])

    def found(path, *columns, **options):
        predict = predict_udf(path, dtype="float32", **options)
        rows = frame.withColumn("found", predict(*columns)).select("id", "found.*").orderBy("id").collect()
        return [row.asDict(recursive=True) for row in rows]

    tagger = str(write_model(tmp_path / "t", head="token", labels=("B-a", "O"), width=1))
    expected = mux_jax.Predictor(tagger, dtype="float32").predict(["time river", "stone"], spans=True)
    for row, answer in zip(found(tagger, "text", spans=True), expected):
        assert (row["words"], row["tags"]) == (answer["words"], answer["tags"])
        assert [span["label"] for span in row["spans"]] == [span["label"] for span in answer["spans"]]
    pairs = str(write_model(tmp_path / "p", head="sequence", labels=LABELS, width=1))
    expected = mux_jax.Predictor(pairs, dtype="float32").predict([("time river", "stone"), ("stone", "time")])
    assert [row["label"] for row in found(pairs, "text", "other")] == [answer["label"] for answer in expected]
    frame = spark.createDataFrame([(0, None, "stone"), (1, "stone", "time")], ["id", "text", "other"])
    assert [row["label"] for row in found(pairs, "text", "other")] == [None, expected[1]["label"]]
    assert [row["tags"] for row in found(tagger, "text")][0] is None
    frame = spark.createDataFrame([(0, "time river", ""), (1, "stone", "")], ["id", "text", "other"])
    embedder = str(write_embedder(tmp_path / "e"))
    expected = mux_jax.Predictor(embedder, dtype="float32").embed(["time river", "stone"], dimensions=4)
    for row, embedding in zip(found(embedder, "text", dimensions=4), expected):
        assert row["embedding"] == pytest.approx(embedding.tolist(), abs=1e-5)
