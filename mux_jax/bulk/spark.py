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
    rows; `alone=True` keeps each to itself. A null has null columns.

    Args:
      path: of a model, or its id on the hub; executors read it from there.
      options: of `Predictor`, `Predictor.predict` and `Predictor.embed`.

    Raises:
      InputError: an option that is none, no such model.
    """
    worker = Worker.of(path, **options)
    found = open_model(worker.model, takes_export=True)
    worker.wanted.check(found.config, found.prompts())
    config = found.config
    names = flat_names(config, worker.wanted.spans, worker.wanted.keep_model)
    columns = StructType([StructField(name, _TYPES.get(name, DoubleType())) for name in names])

    def predict(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            texts = _texts(batch)
            there = [text is not None for text in texts]
            found = iter(worker.predict([text for text in texts if text is not None]))
            rows = [flat(next(found)) if known else dict.fromkeys(names) for known in there]
            yield pd.DataFrame(
                rows, columns=names, dtype=object
            )  # or texts with nulls are Arrow's, which Spark refuses

    make: Any = pandas_udf  # whose overloads know no union of columns
    return make(predict, returnType=columns)


def _texts(batch: pd.Series | Sequence[pd.Series]) -> list[Any]:
    """The texts of a batch of one column, or the pairs of one of two; None for a null."""
    if not isinstance(batch, pd.Series):
        return [None if any(map(_is_null, pair)) else pair for pair in zip(*batch)]
    return [None if _is_null(x) else x if isinstance(x, str) else list(x) for x in batch]


def _is_null(value: Any) -> bool:
    return value is None or isinstance(value, float)  # NaN
