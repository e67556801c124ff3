"""Answers to the texts of requests: texts become tokens, a model is chosen, and what it is unsure of is asked again."""

import asyncio
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from mux_jax.data.encoding import split_words
from mux_jax.errors import InputError
from mux_jax.inference.predictor import Predictor
from mux_jax.serving.engine import Engine, Report
from mux_jax.serving.figures import Figures

MIXES = ("all", "client", "request")
_ENOUGH, _FEW = 2.0, 0.5  # batches that wait: from here on the cheaper model answers, from here on the full one again


def name_of(model: str) -> str:
    """What answers say of a model: the last part of its path."""
    return model.rstrip("/").rpartition("/")[2]


class TooLarge(InputError):
    """A text, or a number of texts, over a limit."""


class NotFinite(Exception):
    """A model gave what is no number."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """What is known of the texts of a request.

    Attributes:
      logits: of each, as `Predictor` has them.
      engines: which gave each.
      tokens: of all texts together.
    """

    logits: list[np.ndarray]
    engines: list[Engine]
    tokens: int


class Service:
    """One or two models, and what asks them.

    Attributes:
      predictor: the model that is served.
      max_texts: of a request.
      ready: whether all is compiled.
      failure: what keeps it from answering; None if nothing does.
    """

    def __init__(
        self,
        predictor: Predictor,
        name: str,
        *,
        figures: Figures,
        mix: str,
        max_wait: float,
        max_texts: int,
        by_load: tuple[str, Predictor] | None = None,
    ):
        """Args:
        mix: a name in `MIXES`: whose texts may share a row.
        by_load: the name of a full model with the same labels, and it: it answers while few texts wait.
        """
        self.predictor, self.mix, self.max_texts, self.figures = predictor, mix, max_texts, figures
        self.ready = False
        self.failure: Exception | None = None
        self.on_failure: Callable[[], Any] = lambda: None  # is called when there is one
        self._numbers = itertools.count()
        self._pool = concurrent.futures.ThreadPoolExecutor(2, "tokenizer")

        def engine(name: str, predictor: Predictor) -> Engine:
            made = Engine(name, predictor, max_wait, figures.on_batch, self._fail)
            figures.watch(made)
            return made

        self.engine = engine(name, predictor)
        self._chain = [self.engine]  # each defers to the next
        while full := self._chain[-1].predictor.full:
            self._chain.append(engine(name_of(full.models[0]), full))
        known = [e for e in self._chain if by_load and e.predictor is by_load[1]]
        self._by_load = known[0] if known else engine(*by_load) if by_load else None
        self._crowded = False

    @property
    def engines(self) -> list[Engine]:
        others = [self._by_load] if self._by_load and self._by_load not in self._chain else []
        return [*self._chain, *others]

    def start(self, report: Report) -> None:
        """Compiles everything; what keeps it from that is a `failure`."""
        try:
            for engine in self.engines:
                engine.start(report)
            self.ready = True
        except Exception as e:  # of the device, whatever it is
            self._fail(e)

    def close(self) -> None:
        """Answers what was accepted, and ends."""
        for engine in self.engines:
            engine.close()
        self._pool.shutdown()

    def _fail(self, error: Exception) -> None:
        self.failure, self.ready = error, False
        self.on_failure()

    def group(self, client: str, with_keys: bool) -> tuple[Hashable, bool]:
        """The texts that those of a new request may share rows with, and whether these are none but its own."""
        if self.mix == "all":
            return "all", False
        if self.mix == "client" and with_keys:
            return ("client", client), False
        return ("request", next(self._numbers)), True

    def check(self, texts: Sequence[Any]) -> None:
        """Raises `InputError` for texts that the model cannot take, and `TooLarge` for too many."""
        if len(texts) > self.max_texts:
            raise TooLarge(f"{len(texts)} texts are more than the {self.max_texts} of a request")
        for i, text in enumerate(texts):
            if problem := self.predictor.problem(text):
                raise InputError(f"text {i}: {problem}")

    async def answer(self, texts: list[Any], client: str, with_keys: bool, truncate: bool) -> Answers:
        """The answers to texts that `check` has passed.

        Raises:
          TooLarge: a text over the limit on the length, unless it may be cut.
          NotFinite: of a model.
        """
        group, alone = self.group(client, with_keys)

        async def ask(engine: Engine, texts: list[Any]) -> Answers:
            return await self._ask(engine, texts, client, group, alone, truncate)

        async def chained(place: int, texts: list[Any]) -> Answers:
            """By a model of the chain and those after it, in the order of that one's labels."""
            engine = self._chain[place]
            found = await ask(engine, texts)
            if place + 1 == len(self._chain):
                return found
            unsure = engine.predictor.unsure(found.logits)
            if not len(unsure):
                return found
            self.figures.deferred.inc(len(unsure))
            theirs = await chained(place + 1, [texts[i] for i in unsure])
            for i, logits, other in zip(unsure, theirs.logits, theirs.engines):
                found.logits[i], found.engines[i] = engine.predictor.merged(found.logits[i], logits), other
            return dataclasses.replace(found, tokens=found.tokens + theirs.tokens)

        chosen = self._chosen()
        return await (chained(0, texts) if chosen is self.engine else ask(chosen, texts))

    def _chosen(self) -> Engine:
        """The full model while few texts wait, where there is one for that; it stays until very many do."""
        if self._by_load is None:
            return self.engine
        waiting = (self._by_load.waiting + self.engine.waiting) / self._by_load.capacity
        self._crowded = waiting > (_FEW if self._crowded else _ENOUGH)
        return self.engine if self._crowded else self._by_load

    async def _ask(
        self, engine: Engine, texts: list[Any], client: str, group: Hashable, alone: bool, truncate: bool
    ) -> Answers:
        """The answers of one model."""
        loop, limit = asyncio.get_running_loop(), engine.predictor.runner.lengths[-1]
        tags = engine.predictor.config.head == "token"
        pairs = [isinstance(text, tuple) for text in texts]  # they are encoded apart
        prepared = []
        for kind in sorted(set(pairs)):
            places = [i for i, pair in enumerate(pairs) if pair == kind]
            part = [split_words(x) if tags and isinstance(x, str) else x for x in (texts[i] for i in places)]
            encoded, rows = await loop.run_in_executor(self._pool, engine.prepare, part, alone)
            if encoded.truncated:
                if not truncate:
                    raise TooLarge(f"{encoded.truncated} of the texts are over the limit of {limit} tokens")
                self.figures.cut.inc(encoded.truncated)
            prepared.append((places, encoded, rows))
        logits = [np.empty(0)] * len(texts)
        futures = [
            engine.submit(encoded, rows, client, (group, kind)) for kind, (_, encoded, rows) in enumerate(prepared)
        ]
        try:
            for (places, encoded, _), future in zip(prepared, futures):
                answered: asyncio.Future[list[np.ndarray]] = asyncio.wrap_future(future)
                for i, x, words in zip(places, await answered, encoded.places or itertools.repeat(None)):
                    known = x if words is None else x[words >= 0]  # words beyond the limit have no logits
                    if not np.isfinite(known).all():
                        raise NotFinite(f"{engine.name} gave logits that are no numbers")
                    logits[i] = x
        finally:
            for future in futures:
                future.cancel()  # of a client that went away; those that are done stay so
        tokens = sum(len(ids) for _, encoded, _ in prepared for ids in encoded.ids)
        return Answers(logits, [engine] * len(texts), tokens)
