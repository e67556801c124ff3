"""A model as engines want it: small to send, loaded once a process, from records to records."""

import dataclasses
import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from mux_jax.checkpoints.source import open_model
from mux_jax.data.formats import quoted
from mux_jax.errors import InputError
from mux_jax.inference.predictor import Predictor
from mux_jax.inference.records import Wanted

_loading = threading.Lock()
_WANTED = tuple(field.name for field in dataclasses.fields(Wanted))
OPTIONS = ("rows", "ensemble", "alone", "seed", "stride", "threshold", "defer", "dtype", *_WANTED)


@dataclasses.dataclass(frozen=True)
class Worker:
    """A model that pickles to its path and options, and is loaded where it is first used, once a process.

        worker = Worker("runs/finetuned_sst2")
        worker([{"id": 1, "text": "A fine film."}])  # [{"id": 1, "text": ..., "label": ..., "probabilities": {...}}]

    Texts of one call share rows, so give it some thousands at once.

    Attributes:
      model: the path of a model, or its id on the hub; the workers read it from there.
      columns: of the text, or of the texts of a pair; default: those of the model's task, or `text`.
      wanted: of the model.
      options: those of `Predictor`, as pairs of name and value.
    """

    model: str
    columns: tuple[str, ...] = ()
    wanted: Wanted = Wanted()
    options: tuple[tuple[str, Any], ...] = ()

    @staticmethod
    def of(model: str, columns: Sequence[str] | str = (), **options: Any) -> "Worker":
        """A worker with the keywords of `Predictor`, of `Predictor.predict` and of `Predictor.embed`.

        Raises:
          InputError: another keyword, no such model.
        """
        if unknown := next((name for name in options if name not in OPTIONS), ""):
            raise InputError(f"{unknown} is no option; there are: {', '.join(OPTIONS)}")
        wanted = {name: options.pop(name) for name in _WANTED if name in options}
        names = (columns,) if isinstance(columns, str) else tuple(columns)
        address = open_model(model, takes_export=True).address  # from any folder; of the hub with the commit
        return Worker(address, names, Wanted(**wanted), tuple(sorted(options.items())))

    @property
    def predictor(self) -> Predictor:
        """The model, which this process keeps.

        Raises:
          InputError: what `Predictor` raises, or what of `wanted` the model cannot give.
        """
        with _loading:
            return _loaded(self)

    def load(self) -> Predictor:
        """The model anew; errors as above."""
        predictor = Predictor(self.model, **dict(self.options))
        self.wanted.check(predictor.config, predictor.prompts)
        return predictor

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The records, in order, each with the columns of its prediction behind its own.

        Raises:
          InputError: a record without a text in the columns, by its index.
        """
        columns = self.columns_of(records[0]) if records else ()
        texts: list[Any] = []
        for i, record in enumerate(records):
            if missing := next((name for name in columns if name not in record), ""):
                raise InputError(f"records[{i}]: no column {missing!r}; there are: {quoted(list(record))}")
            values = [record[name] for name in columns]
            texts.append(values[0] if len(values) == 1 else tuple(values))
        rows = self.predict(texts)
        if taken := next((name for record, row in zip(records, rows) for name in row if name in record), ""):
            raise InputError(f"records have a column {taken!r}, as predictions have; rename it")
        return [{**record, **row} for record, row in zip(records, rows)]

    def predict(self, texts: Sequence[Any]) -> list[dict[str, Any]]:
        """The columns of the prediction of each text, in order.

        Raises:
          InputError: what `Predictor.predict` raises.
        """
        return self.wanted.of(self.predictor, list(texts))

    def columns_of(self, there: Mapping[str, Any]) -> tuple[str, ...]:
        """Those of the text among the columns that there are.

        Raises:
          InputError: they are not there.
        """
        own = self.predictor.text_columns
        columns = self.columns or (own if all(name in there for name in own) else ("text",))
        if missing := next((name for name in columns if name not in there), ""):
            raise InputError(f"no column {missing!r}; there are: {quoted(list(there))}")
        return columns


@functools.lru_cache(maxsize=4)  # of those used last
def _loaded(worker: Worker) -> Predictor:
    return worker.load()
