"""A model's thread: it takes batches out of what waits, and answers the calls in them."""

import concurrent.futures
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np

from mux_jax.data.encoding import Encoded
from mux_jax.data.rows import pad
from mux_jax.errors import InputError
from mux_jax.inference.predictor import Predictor
from mux_jax.serving.waiting import Batch, Call, Waiting

Report = Callable[[float, str], None]
Rows = list[tuple[tuple[int, ...], int]]  # the texts of each, and its length


class Engine:
    """A model that answers calls from any thread.

    Attributes:
      name: what answers say of it.
      predictor: the model.
    """

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        max_wait: float,
        on_batch: Callable[["Engine", Batch, float], None],
        on_failure: Callable[[Exception], None],
    ):
        """Args:
        max_wait: see `Waiting`.
        on_batch: is told of each batch, and the seconds that it took.
        on_failure: is told what kept the model from running; it answers nothing after that.
        """
        self.name, self.predictor = name, predictor
        runner = predictor.runner
        self._counts = {length: runner.counts(length) for length in runner.lengths}
        self._waiting = Waiting(self._counts, runner.config.width, max_wait)
        self._wake, self._closing = threading.Condition(), False
        self._on_batch, self._on_failure = on_batch, on_failure
        self._thread = threading.Thread(target=self._work, name=f"engine {name}", daemon=True)

    @property
    def waiting(self) -> int:
        """Texts that wait."""
        with self._wake:
            return self._waiting.texts

    @property
    def capacity(self) -> int:
        """Texts of a full batch of short rows."""
        return max(counts[-1] for counts in self._counts.values()) * self.predictor.config.width

    def start(self, report: Report) -> None:
        """Compiles all shapes, and begins to answer."""
        runner, params = self.predictor.runner, self.predictor.params
        shapes = [(count, length) for length, counts in self._counts.items() for count in counts]
        for i, (count, length) in enumerate(shapes):
            report(i / len(shapes), f"{self.name}: {count} rows of {length}")
            for arrays in self._inputs(count, length):
                runner.run(params, arrays)
        self._thread.start()

    def prepare(self, texts: list[Any], alone: bool) -> tuple[Encoded, Rows | None]:
        """The tokens of texts of one kind; and if they are to share rows with no others, the rows of `Predictor`."""
        encoded = self.predictor.encode(texts)
        return encoded, list(self._rows(encoded)) if alone else None

    def submit(
        self, encoded: Encoded, rows: Rows | None, client: Hashable, group: Hashable
    ) -> concurrent.futures.Future[list[np.ndarray]]:
        """The logits of each text, as `Predictor` has them, when they are known; whoever cancels it frees its slots.

        Args:
          encoded, rows: as `prepare` gives them.
          client: whose turn it is; see `waiting`.
          group: of the texts that may share a row.
        """
        call = Call(encoded, client, group, time.monotonic())
        with self._wake:
            if self._closing:
                raise RuntimeError("the engine is closed")
            self._waiting.add(call, rows)
            self._wake.notify()
        return call.future

    def close(self) -> None:
        """Answers what waits, and ends."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _inputs(self, count: int, length: int) -> list[list[np.ndarray]]:
        """What batches of a shape are made of: tokens, and of a model for pairs also with token types."""
        config = self.predictor.config
        tokens = np.ones((count, config.width, length), np.int32)
        pairs = config.takes_token_types and (len(self.predictor.text_columns) == 2 or len(config.labels) == 1)
        return [[tokens]] + [[tokens, np.zeros_like(tokens)]] * pairs

    def _rows(self, encoded: Encoded) -> Iterator[tuple[tuple[int, ...], int]]:
        """The rows that `Predictor` composes of some texts: the texts of each, and its length."""
        width = self.predictor.config.width
        for slots, _ in self.predictor.runner.batches(encoded, np.random.default_rng(self.predictor.seed)):
            texts, real = (x.reshape(-1, width) for x in (slots.examples, slots.real))
            yield from ((tuple(row.tolist()), slots.length) for row in texts[real.any(axis=1)])

    def _work(self) -> None:
        while batch := self._next():
            try:
                begun = time.monotonic()
                slots, logits = self._run(batch)
                self._on_batch(self, batch, time.monotonic() - begun)  # counted before anybody has an answer
                copies = batch.copies.ravel()
                for i in (*np.flatnonzero(copies), *np.flatnonzero(~copies)):  # the last slot of a call answers it
                    call, text = slots[i]
                    call.take(text, logits[i], bool(copies[i]))
            except InputError as e:  # of a program that takes no pairs
                for call in {call for row in batch.rows for call, _ in row}:
                    call.fail(e)
            except Exception as e:  # of the device: nothing more can be answered
                with self._wake:
                    self._closing = True
                    calls = self._waiting.drain() | {call for row in batch.rows for call, _ in row}
                for call in calls:
                    call.fail(e)
                self._on_failure(e)
                return

    def _next(self) -> Batch | None:
        """The next batch, when it is to leave; None when all is answered and the engine closes."""
        with self._wake:
            while True:
                batch, seconds = self._waiting.next_batch(time.monotonic(), self._closing)
                if batch or self._closing and not self._waiting.texts:
                    return batch
                self._wake.wait(None if seconds == float("inf") else seconds)

    def _run(self, batch: Batch) -> tuple[list[tuple[Call, int]], np.ndarray]:
        """The slots of a batch, and the logits of each."""
        runner, width = self.predictor.runner, self.predictor.config.width
        count = next(count for count in self._counts[batch.length] if count >= len(batch.rows))
        slots = [slot for row in batch.rows for slot in row]
        filled = np.resize(np.arange(len(slots)), count * width)
        ids = [call.encoded.ids[text] for call, text in slots]
        arrays = [pad(ids, filled, batch.length, width, runner.pad_id)]
        if runner.config.takes_token_types and any(call.encoded.types for call, _ in slots):
            given = [(call.encoded.types, call.encoded.ids, text) for call, text in slots]
            types = [known[text] if known else np.zeros_like(tokens[text]) for known, tokens, text in given]
            arrays.append(pad(types, filled, batch.length, width, 0))
        return slots, runner.run(self.predictor.params, arrays)
