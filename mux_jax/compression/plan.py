"""How the time that a compression may take is spent."""

import dataclasses
from typing import Any, Self

from mux_jax.compression.shape import Shape
from mux_jax.progress import say

TEXTS_A_STEP = 64
RATE, OTHER_RATES = 3e-4, (2.0, 0.5)  # tried with all candidates; times that, with the one that stays
MOST_TEXTS = 131_072  # to learn from, joined ones included
_ANSWERS, _TRIALS = 0.2, 0.2  # parts of the time
_MOST_TRIAL_STEPS, _LEAST_STEPS = 2_000, 20
_MOST_EPOCHS = 20
# What a step of training takes beside a forward pass of its texts, in units of that; the optimiser, for a parameter.
_BACKWARD, _PARAMETER_SECONDS = 3.5, 6e-9


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A shape to try.

    Attributes:
      name: what differs from the full model.
      shape: of the model.
      factor: its speed over the full model's, as measured.
      parameters: their number.
    """

    name: str
    shape: Shape
    factor: float
    parameters: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is tried, how fast it is, how long each step of the work may take.

    Attributes:
      candidates: what to try.
      texts_per_second: of the full model, on the texts to learn from.
      pool: how many of these there are, joined ones included.
      trial_steps: steps of a trial; 0: there is nothing to choose.
      seconds: for answers, trials and learning.
    """

    candidates: tuple[Candidate, ...]
    texts_per_second: float
    pool: int
    trial_steps: int
    seconds: float

    @classmethod
    def make(
        cls,
        candidates: tuple[Candidate, ...],
        texts_per_second: float,
        minutes: float,
        rates: int,
        most: int = MOST_TEXTS,
        answered: bool = False,
    ) -> Self:
        """Shares out `minutes`.

        Args:
          rates: how many learning rates are to be tried.
          most: how many texts to learn from there can be.
          answered: whether the answers are there, or their time does not count.
        """
        seconds = 60 * minutes
        pool = most if answered else min(most, max(TEXTS_A_STEP, int(_ANSWERS * seconds * texts_per_second)))
        steps = 0
        if len(candidates) + rates > 2:
            each = [step_seconds(c, texts_per_second) for c in candidates]
            total = sum(each) + (rates - 1) * sum(each) / len(each)
            steps = max(_LEAST_STEPS, min(_MOST_TRIAL_STEPS, int(_TRIALS * seconds / total)))
        return cls(candidates, texts_per_second, pool, steps, seconds)

    def own(self, count: int, joins: bool) -> int:
        """How many of `count` texts are learned from as they are; of a pool with joined ones at most half."""
        return min(count, self.pool // 2 if joins else self.pool)

    def steps(self, seconds: float, each: float) -> int:
        """How many steps of learning fit in some seconds: no fewer than a trial had, no more than bring anything."""
        most = _MOST_EPOCHS * self.pool // TEXTS_A_STEP
        return max(_LEAST_STEPS, self.trial_steps, min(int(seconds / each), most))

    def show(self, rates: int, answered: bool) -> None:
        """Prints what is going to be done, and how long it will take; arguments are those of `make`."""
        answers = 0.0 if answered else self.pool / self.texts_per_second
        each = [step_seconds(c, self.texts_per_second) for c in self.candidates]
        trials = self.trial_steps * (sum(each) + (rates - 1) * sum(each) / len(each))
        left = max(0.0, self.seconds - answers - trials)
        most = max(each) * _MOST_EPOCHS * self.pool / TEXTS_A_STEP
        for candidate in self.candidates:
            say(f"to try: {candidate.name}: {candidate.factor:.1f} times as fast, {candidate.parameters:,} parameters")
        runs = f"{len(self.candidates) + rates - 1} trials of {self.trial_steps:,} steps" if self.trial_steps else ""
        parts = ["" if answered else f"answers of the full model to {self.pool:,} texts {_minutes(answers)}"]
        parts.append(f"{runs} {_minutes(trials)}" if runs else "")
        parts.append(f"learning {_minutes(min(left, most))}")
        say(f"about {_minutes(answers + trials + min(left, most))}: {', '.join(filter(None, parts))}")

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plan: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        candidates = tuple(Candidate(**c | {"shape": Shape(**c["shape"])}) for c in plan["candidates"])
        return cls(**plan | {"candidates": candidates})


def step_seconds(candidate: Candidate, texts_per_second: float) -> float:
    """About the seconds of a step of training, by how fast the full model reads."""
    forward = TEXTS_A_STEP / (texts_per_second * candidate.factor)
    return (1 + _BACKWARD) * forward + _PARAMETER_SECONDS * candidate.parameters


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"
