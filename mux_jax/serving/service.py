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
_CHARACTERS = 64  # of a text, for each token of the limit; what comes after cannot be among the tokens
_ENOUGH, _FEW = 2.0, 0.5  # batches that wait: from here on the cheaper model answers, from here on the full one again


class TooLarge(InputError):
    """A text, or a number of texts, over a limit."""


class NotFinite(Exception):
    """A model gave what is no number."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """What is known of the texts of a request.

    Attributes:
      logits: of each, as `Predictor` has them.
      models: the name of the one that gave each.
      tokens: of all texts together.
    """

    logits: list[np.ndarray]
    models: list[str]
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
            self._chain.append(engine(full.models[0], full))
        self._by_load = engine(*by_load) if by_load else None
        self._crowded = False

    @property
    def engines(self) -> list[Engine]:
        return [*self._chain, *([self._by_load] if self._by_load else [])]

    def start(self, report: Report) -> None:
        """Compiles everything."""
        for engine in self.engines:
            engine.start(report)
        self.ready = True

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
        engine = self._chosen()
        group, alone = self.group(client, with_keys)
        if engine is self._by_load:
            logits, tokens = await self._ask(engine, texts, client, group, alone, truncate)
            return Answers(logits, [engine.name] * len(texts), tokens)
        logits, tokens = await self._ask(engine, texts, client, group, alone, truncate)
        names, places, found = [engine.name] * len(texts), np.arange(len(texts)), logits
        for cheap, full in itertools.pairwise(self._chain):
            places = places[cheap.predictor.unsure(found)]
            if not len(places):
                break
            self.figures.deferred.inc(len(places))
            found, more = await self._ask(full, [texts[i] for i in places], client, group, alone, truncate)
            tokens += more
            for i, theirs in zip(places, found):
                logits[i], names[i] = cheap.predictor.merged(logits[i], theirs), full.name
        return Answers(logits, names, tokens)

    def _chosen(self) -> Engine:
        """The full model while few texts wait, where there is one for that; it stays until very many do."""
        if self._by_load is None:
            return self.engine
        waiting = (self._by_load.waiting + self.engine.waiting) / self._by_load.capacity
        self._crowded = waiting > (_FEW if self._crowded else _ENOUGH)
        return self.engine if self._crowded else self._by_load

    async def _ask(
        self, engine: Engine, texts: list[Any], client: str, group: Hashable, alone: bool, truncate: bool
    ) -> tuple[list[np.ndarray], int]:
        """The logits of texts by one model, and the number of their tokens."""
        loop, logits, tokens = asyncio.get_running_loop(), [np.empty(0)] * len(texts), 0
        kinds = [isinstance(text, tuple) for text in texts]  # pairs are encoded apart
        limit = engine.predictor.runner.lengths[-1]
        calls = []
        for kind in sorted(set(kinds)):
            places = [i for i, pair in enumerate(kinds) if pair == kind]
            part = [texts[i] for i in places]
            if (longest := max(map(_size, part))) > _CHARACTERS * limit:
                if not truncate:
                    raise TooLarge(f"a text of {longest:,} characters is over the limit of {limit} tokens")
                part = [_cut(text, _CHARACTERS * limit) for text in part]
            if engine.predictor.config.head == "token":
                part = [split_words(text) if isinstance(text, str) else text for text in part]
            encoded = await loop.run_in_executor(self._pool, engine.predictor.encode, part)
            if encoded.truncated:
                if not truncate:
                    raise TooLarge(f"{encoded.truncated} of the texts are over the limit of {limit} tokens")
                self.figures.cut.inc(encoded.truncated)
            tokens += sum(map(len, encoded.ids))
            calls.append((places, engine.submit(encoded, client, (group, kind), alone)))
        try:
            for places, future in calls:
                answered: asyncio.Future[list[np.ndarray]] = asyncio.wrap_future(future)
                for i, found in zip(places, await answered):
                    logits[i] = found
        finally:
            for _, future in calls:
                future.cancel()  # of a client that went away; those that are done stay so
        tags = engine.predictor.config.head == "token"  # NaN: a word beyond the limit
        if not all(np.isfinite(x).all() or tags and not np.isinf(x).any() for x in logits):
            raise NotFinite(f"{engine.name} gave logits that are no numbers")
        return logits, tokens


def _size(text: Any) -> int:
    """Characters of a text, a pair or words."""
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _cut(text: Any, characters: int) -> Any:
    """What of a text can be among its tokens."""
    return text[:characters] if isinstance(text, str) else type(text)(part[:characters] for part in text)
