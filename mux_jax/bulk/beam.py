"""Apache Beam: `launch/predict.py` on any of its runners, and a handler for `RunInference`."""

import concurrent.futures
import dataclasses
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from mux_jax import pipelines
from mux_jax.bulk.folder import AT_ONCE, LOOKING, Job
from mux_jax.bulk.shards import Manifest, Shard, predict_shard, whole
from mux_jax.bulk.worker import OPTIONS, Worker
from mux_jax.errors import InputError, TrainingError
from mux_jax.inference.records import Reading

_NAMESPACE = "mux_jax"
_room = threading.Semaphore(AT_ONCE)
_counting, _cut = threading.Lock(), dict[Worker, int]()
_BATCH = 1024  # texts of a batch at least, so that rows are full and of few lengths


def on_runner(job: Job, check: Callable[[], None], options: Any) -> list[Manifest]:
    """Predicts on the files of a job by Beam's runner, whole files, two at a time in each of its processes.

    The counters `files`, `rows`, `errors` and `cut` (texts) are Beam's metrics, in the namespace `mux_jax`.

    Args:
      check: is of no account: workers elsewhere do not hold the lock, and may write a file twice, alike.
      options: Beam's `PipelineOptions`.

    Raises:
      TrainingError: files that have no output at the end.
    """
    with pipelines.input_errors(), beam.Pipeline(options=options) as pipeline:
        files = pipeline | "Files" >> beam.Create(list(job.todo)) | "Spread" >> beam.Reshuffle()
        step = _PredictFile(job.worker, job.reading, job.common)
        files | "Predict" >> beam.ParDo(step)  # noqa: B018  # a step of the pipeline

    def find(shard: Shard, read: dict[str, Any]) -> Manifest | None:
        made, manifest = job.common | {"input": read}, Manifest.read(shard)
        failed = manifest and manifest.failure and manifest.made_of == made
        return manifest if failed else whole(shard, made, "", overwrite=True)

    with concurrent.futures.ThreadPoolExecutor(LOOKING) as pool:  # a runner elsewhere gives nothing back
        found = list(pool.map(find, *zip(*job.todo)))
    if None in found:
        raise TrainingError(f"{found.count(None):,} files have no output, by the runner; the same command goes on")
    return [manifest for manifest in found if manifest]


class _PredictFile(beam.DoFn):
    """Predicts on a file. Bad input of one file is in its manifest and ends nothing."""

    def __init__(self, worker: Worker, reading: Reading, common: dict[str, Any]):
        self._worker, self._reading, self._common = worker, reading, common

    def setup(self) -> None:
        _ = self._worker.predictor  # loaded once a process

    def process(self, element: tuple[Shard, dict[str, Any]]) -> Iterator[None]:
        shard, read = element
        with _room:
            manifest = predict_shard(self._worker, shard, self._reading, self._common | {"input": read})
        counts = {"files": 1, "rows": manifest.rows, "errors": manifest.errors, "cut": _newly_cut(self._worker)}
        for name, count in counts.items():
            Metrics.counter(_NAMESPACE, name).inc(count)
        yield from ()


def _newly_cut(worker: Worker) -> int:
    """Texts cut in this process since the last call."""
    with _counting:
        before, _cut[worker] = _cut.get(worker, 0), worker.predictor.truncated
        return _cut[worker] - before


class _Model:
    """A model in memory. Other processes of the machine may call its methods, through a proxy that has no more."""

    def __init__(self, worker: Worker):
        self._wanted, self._predictor = worker.wanted, worker.load()

    def predict(self, texts: Sequence[Any]) -> list[Any]:
        rows = self._wanted.of(self._predictor, list(texts))
        return [row["embedding"] if "embedding" in row else row for row in rows]


class MuxModelHandler(ModelHandler[Any, PredictionResult, _Model]):
    """A model for `RunInference`.

        predictions = texts | RunInference(MuxModelHandler("gs://bucket/models/sst2", dtype="bfloat16"))

    Elements are what `Predictor.predict` takes: strings, pairs of them, words; the `inference` of each
    `PredictionResult` is the dictionary that it gives, or the embedding. Texts of a batch share rows, in the order in
    which the runner brings them: `alone=True` keeps each to itself. `KeyedModelHandler`, `with_exception_handling` and
    so on work as with any handler.
    """

    def __init__(self, model: str, **keywords: Any):
        """Args:
          model: the path of a model, or its id on the hub; workers read it from there.
          keywords: of `Predictor`, `Predictor.predict` and `Predictor.embed`; and those of Beam's `ModelHandler`, such
            as `max_batch_size`, `max_batch_duration_secs`, `large_model` (whether the processes of a machine share one
            model), `batch_length_fn`, `batch_bucket_boundaries`. Batches have 1,024 texts at least if nothing else is
            said: small ones leave slots of rows empty.

        Raises:
          InputError: a keyword that is none, no such model.
        """
        options = {name: keywords.pop(name) for name in OPTIONS if name in keywords}
        known = [*inspect.signature(ModelHandler.__init__).parameters][1:-1] + ["env_vars"]
        if unknown := next((name for name in keywords if name not in known), ""):
            raise InputError(f"{unknown} is no option; there are: {', '.join([*OPTIONS, *known])}")
        most = keywords.setdefault("max_batch_size", max(16 * _BATCH, keywords.get("min_batch_size", 0)))
        keywords.setdefault("min_batch_size", min(_BATCH, most))
        super().__init__(**keywords)
        self._worker = Worker.of(model, **options)

    def load_model(self) -> _Model:
        return _Model(self._worker)

    def run_inference(
        self, batch: Sequence[Any], model: _Model, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        """A result for each text of a batch, in order."""
        return [PredictionResult(x, y, self._worker.model) for x, y in zip(batch, model.predict(batch))]

    def update_model_path(self, model_path: str | None = None) -> None:
        if model_path:
            self._worker = dataclasses.replace(self._worker, model=model_path)

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        return sum(len("".join(np.ravel(text)).encode()) for text in batch)

    def get_metrics_namespace(self) -> str:
        return _NAMESPACE
