"""Which candidate learns for the rest of the time: all learn for a short time, and the nearest one stays."""

import dataclasses
import json
from typing import TYPE_CHECKING

from mux_jax.compression import learning
from mux_jax.compression.learning import Lessons
from mux_jax.compression.plan import RATES, Candidate, Plan, step_seconds
from mux_jax.files import write_atomically
from mux_jax.progress import say

if TYPE_CHECKING:
    from mux_jax.compression.compress import Compression


@dataclasses.dataclass(frozen=True)
class Trial:
    """What came of learning for a short time.

    Attributes:
      candidate: what learned.
      rate: the learning rate.
      steps: how many.
      loss: the distance from the answers to be learned, on the texts to choose by.
      agreement: the share of equal answers there.
      step_seconds: the time of a step.
      seconds: the time that it took.
    """

    candidate: Candidate
    rate: float
    steps: int
    loss: float
    agreement: float
    step_seconds: float
    seconds: float


def trials(work: "Compression", plan: Plan, lessons: Lessons) -> list[Trial]:
    """Short runs: of all candidates at one learning rate, then of the nearest one at others; none of one alone."""
    given = work.request.learning_rate
    first, *others = (given,) if given else RATES
    if not plan.trial_steps:
        return []
    found = [_trial(work, plan, candidate, first, lessons) for candidate in plan.candidates]
    best = min(found, key=lambda trial: trial.loss)
    return found + [_trial(work, plan, best.candidate, rate, lessons) for rate in others]


def _trial(work: "Compression", plan: Plan, candidate: Candidate, rate: float, lessons: Lessons) -> Trial:
    """One of them, or what is kept of it."""
    folder = work.folder / "trials" / f"{work.start(candidate, lessons).name}_{rate:g}"
    say(f"trial of {candidate.name}, learning rate {rate:g}")
    found = work.learn(folder, candidate, rate, plan.trial_steps, lessons, is_trial=True)
    figures, width = found["stages"]["finetuning"], candidate.shape.width
    tokens = lessons.tokens_per_step(learning.rows_of_a_step(width, work.mesh), width)
    say(f"  {figures['agreement']:.1%} of the answers, loss {figures['teacher_loss']:.4f}")
    return Trial(
        candidate,
        rate,
        plan.trial_steps,
        loss=figures["teacher_loss"],
        agreement=figures["agreement"],
        step_seconds=tokens / found["instance_tokens_per_second"],
        seconds=found["wall_seconds"],
    )


def choose(work: "Compression", plan: Plan, tried: list[Trial], seconds: float) -> tuple[Candidate, float, int]:
    """What learns for the rest of the time, at which rate, for how many steps: once chosen, it is kept."""
    file = work.folder / "chosen.json"
    names = {candidate.name: candidate for candidate in plan.candidates}
    if not file.exists():
        if tried:
            best = min(tried, key=lambda trial: trial.loss)
            name, rate, each = best.candidate.name, best.rate, best.step_seconds
            say(f"nearest to the full model after {best.steps:,} steps: {name}, learning rate {rate:g}")
        else:
            name, rate = plan.candidates[0].name, work.request.learning_rate or RATES[0]
            each = step_seconds(plan.candidates[0], plan.texts_per_second)
        steps = work.request.steps or plan.steps(seconds, each)
        write_atomically(file, json.dumps({"name": name, "learning_rate": rate, "steps": steps}, indent=2) + "\n")
    kept = json.loads(file.read_text(encoding="utf-8"))
    return names[kept["name"]], kept["learning_rate"], kept["steps"]
