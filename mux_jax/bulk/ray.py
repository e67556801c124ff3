"""Ray Data: a class for `map_batches`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mux_jax.bulk.worker import Worker
from mux_jax.errors import InputError
from mux_jax.inference.writer import flat


class MuxPredictor:
    """A model for Ray's actors, a copy in each.

        ds = ray.data.read_parquet("s3://bucket/in")
        ds.map_batches(
            mux_jax.bulk.ray.MuxPredictor,
            fn_constructor_kwargs={"path": "s3://bucket/models/sst2", "columns": "text"},
            batch_size=4096,
            concurrency=8,
        )

    A batch comes back with the columns of predictions behind its own: `label` and `probability_LABEL` of each; or
    `labels`; `score`; `words` and `tags`; `embedding`. Texts of a batch share rows, so batches of some thousands are
    best; `alone=True` keeps each to itself.
    """

    def __init__(self, path: str, columns: Sequence[str] | str = (), **options: Any):
        """Args:
          path: of a model, or its id on the hub.
          columns: of the text, or of the texts of a pair; default: those of the model's task, or `text`.
          options: of `Predictor`, `Predictor.predict` and `Predictor.embed`.

        Raises:
          InputError: an option that is none, no such model.
        """
        self._worker = Worker.of(path, columns, **options)
        _ = self._worker.predictor

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns, and behind them those of predictions.

        Raises:
          InputError: a text that is none, by its index; no such column, or one that has the name of one of predictions.
        """
        columns = self._worker.columns_of(batch)
        values = [[x.tolist() if isinstance(x, np.ndarray) else x for x in batch[name]] for name in columns]
        texts = values[0] if len(values) == 1 else list(zip(*values))
        rows = [flat(row) for row in self._worker.predict(texts)]
        found = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
        if taken := next((name for name in found if name in batch), ""):
            raise InputError(f"the batch has a column {taken!r}, as predictions have; rename it")
        return batch | {name: _array(values) for name, values in found.items()}


def _array(values: list[Any]) -> np.ndarray:
    """Values as Ray takes a column: numbers and embeddings as arrays, the rest as objects."""
    if isinstance(values[0], float | np.ndarray):
        return np.array(values)
    found = np.empty(len(values), object)
    found[:] = values
    return found
