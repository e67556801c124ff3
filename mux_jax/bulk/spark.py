"""Spark: a pandas UDF."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from pyspark.sql.functions import pandas_udf
from pyspark.sql.types import ArrayType, DataType, DoubleType, FloatType, LongType, StringType, StructField, StructType

from mux_jax.bulk.worker import Worker
from mux_jax.checkpoints.source import open_model
from mux_jax.inference.writer import flat, flat_names

_SPAN = (("label", StringType()), ("start", LongType()), ("end", LongType()), ("text", StringType()))
_TYPES: dict[str, DataType] = {
    "label": StringType(),
    "labels": ArrayType(StringType()),
    "words": ArrayType(StringType()),
    "tags": ArrayType(StringType()),
    "spans": ArrayType(StructType([StructField(*field) for field in (*_SPAN, ("score", DoubleType()))])),
    "embedding": ArrayType(FloatType()),
    "answered_by": StringType(),
}


def predict_udf(path: str, **options: Any) -> Any:
    """A UDF of a column of texts, or of two of a pair, that gives a struct of a prediction's columns.

        predict = mux_jax.bulk.spark.predict_udf("gs://bucket/models/sst2")
        df.withColumn("found", predict("text")).select("*", "found.*")

    The columns are `label` and `probability_LABEL` of each; or `labels`; `score`; `words` and `tags`; `embedding`. Each
    Python worker loads the model once. Texts of one Arrow batch (`spark.sql.execution.arrow.maxRecordsPerBatch`) share
    rows; `alone=True` keeps each to itself.

    Args:
      path: of a model, or its id on the hub; executors read it from there.
      options: of `Predictor`, `Predictor.predict` and `Predictor.embed`.

    Raises:
      InputError: an option that is none, no such model.
    """
    worker = Worker.of(path, **options)
    config = open_model(worker.model, takes_export=True).config
    names = flat_names(config, worker.wanted.spans, worker.wanted.keep_model)
    columns = StructType([StructField(name, _TYPES.get(name, DoubleType())) for name in names])

    def predict(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            rows = worker.predict(_texts(batch))
            yield pd.DataFrame([flat(row) for row in rows], columns=names)

    make: Any = pandas_udf  # whose overloads know no union of columns
    return make(predict, returnType=columns)


def _texts(batch: pd.Series | Sequence[pd.Series]) -> list[Any]:
    """The texts of a batch of one column, or the pairs of one of two."""
    if isinstance(batch, pd.Series):
        return [x if isinstance(x, str) else list(x) for x in batch]
    return list(zip(*batch))
