"""What the server counts, for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mux_jax.serving.engine import Engine
from mux_jax.serving.waiting import Batch

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Figures:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: Any = {"registry": self.registry, "namespace": "mux_jax"}
        self.requests = Counter("requests", "requests answered", ["path", "status"], **made)
        self.seconds = Histogram("request_seconds", "from the first byte to the answer", buckets=_SECONDS, **made)
        self.texts = Counter("texts", "texts answered, by model and its width", ["model", "width"], **made)
        self.cut = Counter("texts_cut", "texts over the limit on the length", **made)
        self.deferred = Counter("texts_deferred", "texts that the full model was asked for", **made)
        self.waiting = Gauge("queue_texts", "texts that wait", ["model"], **made)
        self.wait = Histogram("queue_seconds", "that calls waited for their batch", buckets=_SECONDS, **made)
        self.compute = Histogram("batch_seconds", "that a batch took", buckets=_SECONDS, **made)
        self.rows = Histogram("batch_rows", "rows of a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **made)
        self.fill = Histogram("batch_fill", "texts over slots", buckets=[x / 10 for x in range(1, 11)], **made)

    def watch(self, engine: Engine) -> None:
        """Shows what waits for an engine."""
        self.waiting.labels(engine.name).set_function(lambda: engine.waiting)

    def on_batch(self, engine: Engine, batch: Batch, seconds: float) -> None:
        """Counts a batch."""
        width, real = engine.predictor.config.width, len({slot for row in batch.rows for slot in row})
        self.texts.labels(engine.name, width).inc(real)
        self.compute.observe(seconds)
        self.rows.observe(len(batch.rows))
        self.fill.observe(real / batch.copies.size)
        for waited in batch.waited:
            self.wait.observe(waited)
