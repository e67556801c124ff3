"""Which candidate learns for the rest of the time: all learn for a short time, and the nearest one stays."""

import dataclasses
import json
import math
from typing import TYPE_CHECKING

from mux_jax.checkpoints.source import open_model
from mux_jax.compression import learning
from mux_jax.compression.learning import Lessons
from mux_jax.compression.plan import OTHER_RATES, RATE, Candidate, Plan, step_seconds
from mux_jax.files import write_atomically
from mux_jax.progress import say

if TYPE_CHECKING:
    from mux_jax.compression.compress import Compression

_LOW_RATE = 5e-5  # at which a model that learns nothing is given up


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
    """Short runs: of all candidates at one learning rate, then of the nearest one at others; none of one alone.

    A large model, or a deep and narrow one, may forget at that rate what least squares gave it: it gets lower ones.
    """
    given = work.request.learning_rate
    if not plan.trial_steps:
        return []
    found = []
    for candidate in plan.candidates:
        found.append(_trial(work, plan, candidate, given or RATE, lessons))
        start = math.inf if given else _start_loss(work, candidate, lessons)
        while found[-1].loss >= start and found[-1].rate > _LOW_RATE:
            say(f"  no better than before it learned (loss {start:.4f}): again at a quarter of the learning rate")
            found.append(_trial(work, plan, candidate, found[-1].rate / 4, lessons))
    best = min(found, key=lambda trial: trial.loss)
    others = () if given else OTHER_RATES
    return found + [_trial(work, plan, best.candidate, best.rate * factor, lessons) for factor in others]


def _start_loss(work: "Compression", candidate: Candidate, lessons: Lessons) -> float:
    """The distance from the answers, on the texts to choose by, of a candidate that has not learned."""
    found = open_model(str(work.start(candidate, lessons)))
    (logits,) = work.runner(found.config, found.params(work.mesh), 32)(lessons.choose.encoded)
    return learning.distance(found.config, logits, lessons.choose.answers)


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
            name, rate = plan.candidates[0].name, work.request.learning_rate or RATE
            each = step_seconds(plan.candidates[0], plan.texts_per_second)
        steps = work.request.steps or plan.steps(seconds, each)
        write_atomically(file, json.dumps({"name": name, "learning_rate": rate, "steps": steps}, indent=2) + "\n")
    kept = json.loads(file.read_text(encoding="utf-8"))
    return names[kept["name"]], kept["learning_rate"], kept["steps"]
