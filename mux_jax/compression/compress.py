"""A cheaper model out of one that is fine-tuned, by the means that is best for its texts and this machine.

In this order; each step is kept in the folder, and a command that was stopped goes on where it was:

1. The texts are read, and parted: to learn from, to choose by, to calibrate, to judge by (`texts`).
2. Of each means (`shape`) the largest model that is as fast as asked for is found by measuring (`speed`, `plan`).
3. The full model answers the texts to learn from, once (`pool`).
4. Each candidate is made by least squares (`reduction`), and learns for a short time (`learning`). The one that is
   nearest to the full model on the texts to choose by stays. Learning rates are tried in the same way.
5. It learns for the rest of the time.
6. It is judged, timed beside the full model, and reported on (`judging`, `speed`, `report`).
"""

import dataclasses
import json
import math
import os
import time
from typing import Any

import jax
from etils import epath

from mux_jax.checkpoints.convert import save_model
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.compression import learning, pool
from mux_jax.compression.learning import Lessons
from mux_jax.compression.outcome import outcome
from mux_jax.compression.plan import RATES, TEXTS_A_STEP, Candidate, Plan, step_seconds
from mux_jax.compression.pool import Pool
from mux_jax.compression.reduction import reduce_model
from mux_jax.compression.report import summary, write_report
from mux_jax.compression.request import LOCK, Request
from mux_jax.compression.shape import MEANS, Shape, family, reduced
from mux_jax.compression.speed import Speeds, reaches
from mux_jax.compression.texts import Texts
from mux_jax.data.encoding import Encoder
from mux_jax.data.sections import TaskSection
from mux_jax.data.tokenizer import ModelTokenizer
from mux_jax.errors import InputError
from mux_jax.files import write_atomically
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.parallel import hosts
from mux_jax.parallel.mesh import make_mesh
from mux_jax.paths import absolute
from mux_jax.progress import progress, say

_FIT_TOKENS = 24_000  # that least squares are fitted on


def compress(model: str, workdir: str, **options: Any) -> dict[str, Any]:
    """Makes a cheaper model of `model` in the folder `workdir`, or goes on with what is there.

    Args:
      model: an ordinary model, of width 1, that is fine-tuned: a run, a Hugging Face folder, an id of the hub.
      workdir: a run's folder, as `train` makes it, with the report.
      options: the fields of `Request`: `speedup=5.0, texts=("reviews/*.jsonl",)`.

    Returns:
      What `report.json` holds: see `report`.

    Raises:
      InputError: a model, texts or a shape that cannot be used, a speed that is out of reach, a folder with something
        else; before any training.
      SystemExit: as `train`; the same call goes on.
    """
    began = time.monotonic()
    request = Request(model=model, **options)
    found = open_model(model)
    request.check(found)
    tokenizer = found.tokenizer(request.tokenizer)
    section = request.section(found)
    texts = request.read(found, section)
    folder = absolute(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    with hosts.hold(folder / LOCK, f"workdir {folder}"):
        request.keep(folder)
        return _Compression(request, found, tokenizer, section, texts, folder).run(began)


@dataclasses.dataclass(frozen=True)
class Trial:
    """What came of learning for a short time.

    Attributes:
      candidate: what learned.
      rate: the learning rate.
      steps: how many.
      loss: the distance from the full model's answers on the texts to choose by.
      agreement: the share of equal answers there.
      step_seconds: the time of a step.
    """

    candidate: Candidate
    rate: float
    steps: int
    loss: float
    agreement: float
    step_seconds: float


class _Compression:
    """The steps of one compression, in the folder `folder`."""

    def __init__(
        self,
        request: Request,
        found: ModelSource,
        tokenizer: ModelTokenizer,
        section: TaskSection,
        texts: Texts,
        folder: epath.Path,
    ):
        self.request, self.found, self.full, self.tokenizer = request, found, found.config, tokenizer
        self.section, self.texts, self.folder = section, texts, folder
        self.lengths, self.pad_id = found.bucket_lengths(), tokenizer.special.pad
        self.encoder = Encoder(tokenizer, self.lengths[-1])
        self.mesh = make_mesh()
        self.params = found.params(self.mesh)
        self.judged = self.encoder(texts.judge)
        self.speeds = Speeds(self.judged, self.lengths, self.pad_id)

    def run(self, began: float) -> dict[str, Any]:
        """All steps; returns the report."""
        plan = self.plan()
        seconds, clock = {}, time.monotonic()
        lessons = self.lessons(plan)
        seconds["answers"] = time.monotonic() - clock
        trials = self.trials(plan, lessons)
        seconds["trials"] = time.monotonic() - clock - seconds["answers"]
        candidate, rate, steps = self.chosen(plan, trials, plan.seconds - (time.monotonic() - clock))
        learned = self.learn(self.folder, candidate, rate, steps, lessons)
        seconds["learning"] = learned["wall_seconds"]
        seconds["total"] = time.monotonic() - began
        result = self.result(plan, trials, candidate, rate, steps) | {"seconds": seconds}
        write_report(result, self.folder)
        say(summary(result, self.folder))
        return result

    def plan(self) -> Plan:
        """What to try, and how fast it is, as was measured once."""
        file = self.folder / "plan.json"
        if file.exists():
            return Plan.from_json(json.loads(file.read_text(encoding="utf-8")))
        shapes = self.shapes()
        models = {name: reduced(self.full, shape) for name, shape in shapes.items()}
        dtype = self.full.compute_dtype
        speeds = self.speeds.measure({"full": self.full} | models, [dtype])[dtype]
        candidates = tuple(
            Candidate(name, shapes[name], speeds[name].factor, learning.count_parameters(config))
            for name, config in models.items()
        )
        rates = 1 if self.request.learning_rate else len(RATES)
        answered, learn = bool(self.texts.answers), self.texts.learn
        joined = not answered and not isinstance(learn[0], tuple)  # texts are, pairs are not
        most = {} if joined else {"most": len(learn)}
        plan = Plan.make(candidates, speeds["full"].texts_per_second, self.request.minutes, rates, answered, **most)
        write_atomically(file, json.dumps(plan.to_json(), indent=2) + "\n")
        plan.show(rates)
        return plan

    def shapes(self) -> dict[str, Shape]:
        """The candidates by name: the shape asked for, or the largest of each means that is as fast as asked for.

        Raises:
          InputError: none is, with the fastest.
        """
        shape, wanted = self.request.shape(self.full), self.request.speedup
        if shape:
            return {shape.name(self.full): shape}
        found, fastest = {}, 1.0
        for means in MEANS if self.request.by == "auto" else (self.request.by,):
            sizes = family(self.full, means)
            if not sizes:
                continue
            configs = [reduced(self.full, shape) for shape in sizes]
            config, factor = self.speeds.find_size(self.full, configs, wanted, self.full.compute_dtype)
            shape, fastest = sizes[configs.index(config)], max(fastest, factor)
            enough = reaches(factor, wanted)
            say(f"{shape.name(self.full)}: {factor:.1f} times as fast" + ("" if enough else "; left out"))
            if enough:
                found[shape.name(self.full)] = shape
        if not found:
            raise InputError(f"--speedup={wanted:g} is out of reach: {fastest:.1f} is the most that was measured")
        return found

    def lessons(self, plan: Plan) -> Lessons:
        """The texts to learn from and to choose by, with the full model's answers."""
        of_tokens, length = self.full.head == "token", self.lengths[-1]
        texts, given = self.texts, self.texts.answers
        learn, choose = texts.learn[: plan.pool], texts.choose
        size = 0 if given else plan.pool
        encoded = {
            "learn": pool.encode(learn, self.encoder, length, of_tokens, size, self.request.seed),
            "choose": pool.encode(choose, self.encoder, length, of_tokens),
        }
        if given:
            pools = {name: Pool(x, list(given[name][: len(x.ids)])) for name, x in encoded.items()}
        else:
            runner = BatchRunner(MuxModel(self.full), self.mesh, 32, self.lengths, self.pad_id)
            params = split_layers(self.params)
            pools = {
                name: Pool(
                    x, pool.answer(runner, params, x, self.folder / "answers", f"answers of {self.found.folder}")
                )
                for name, x in encoded.items()
            }
        lengths = pool.few_lengths(encoded["learn"], self.lengths)
        return Lessons(self.tokenizer, pools["learn"], pools["choose"], lengths)

    def start(self, candidate: Candidate, lessons: Lessons) -> epath.Path:
        """The folder of the candidate as least squares make it."""
        folder = self.folder / "starts" / candidate.name.replace(", ", "_").replace(" ", "_")
        if folder.exists():
            return folder
        width = candidate.shape.width
        tokens_SL = pool.sample(lessons.learn.encoded, self.lengths, width, _FIT_TOKENS, self.pad_id, self.request.seed)
        with progress(f"least squares: {candidate.name}") as report:
            config, params = reduce_model(
                self.full,
                jax.device_get(self.params),
                candidate.shape,
                tokens_SL,
                self.pad_id,
                self.request.seed,
                report,
            )
        params = jax.tree.map(jax.numpy.asarray, params)
        save_model(folder, config, params, self.tokenizer, self.found.address, False, self.found.task)
        return folder

    def learn(
        self, folder: epath.Path, candidate: Candidate, rate: float, steps: int, lessons: Lessons
    ) -> dict[str, Any]:
        """Lets a candidate learn in `folder`; what its `result.json` holds."""
        width, seed = candidate.shape.width, self.request.seed
        start = str(self.start(candidate, lessons))
        config = learning.configuration(start, self.found.address, self.section, lessons, width, steps, rate, seed)
        return learning.learn(config, folder, lessons)

    def trials(self, plan: Plan, lessons: Lessons) -> list[Trial]:
        """Short runs: of all candidates at one learning rate, then of the nearest one at others; none of one alone."""
        given = self.request.learning_rate
        first, *others = (given,) if given else RATES
        if not plan.trial_steps:
            return []
        found = [self.trial(plan, candidate, first, lessons) for candidate in plan.candidates]
        best = min(found, key=lambda trial: trial.loss)
        return found + [self.trial(plan, best.candidate, rate, lessons) for rate in others]

    def trial(self, plan: Plan, candidate: Candidate, rate: float, lessons: Lessons) -> Trial:
        """One of them, or what is kept of it."""
        folder = self.folder / "trials" / f"{self.start(candidate, lessons).name}_{rate:g}"
        say(f"trial of {candidate.name}, learning rate {rate:g}")
        result = self.learn(folder, candidate, rate, plan.trial_steps, lessons)
        figures = result["stages"]["finetuning"]
        width = candidate.shape.width
        tokens = lessons.tokens_per_step(learning.rows_of_a_step(width, self.mesh), width)
        per_step = tokens / result["instance_tokens_per_second"]
        say(f"  {figures['agreement']:.1%} of the answers, loss {figures['teacher_loss']:.4f}")
        return Trial(candidate, rate, plan.trial_steps, figures["teacher_loss"], figures["agreement"], per_step)

    def chosen(self, plan: Plan, trials: list[Trial], seconds: float) -> tuple[Candidate, float, int]:
        """What learns for the rest of the time, at which rate, for how many steps: once chosen, it is kept."""
        file = self.folder / "chosen.json"
        names = {candidate.name: candidate for candidate in plan.candidates}
        if not file.exists():
            if trials:
                best = min(trials, key=lambda trial: trial.loss)
                name, rate, each = best.candidate.name, best.rate, best.step_seconds
                say(f"nearest to the full model after {best.steps:,} steps: {name}, learning rate {rate:g}")
            else:
                name, rate = plan.candidates[0].name, self.request.learning_rate or RATES[0]
                each = step_seconds(plan.candidates[0], plan.texts_per_second)
            steps = self.request.steps or plan.steps(seconds, each)
            write_atomically(file, json.dumps({"name": name, "learning_rate": rate, "steps": steps}, indent=2) + "\n")
        kept = json.loads(file.read_text(encoding="utf-8"))
        return names[kept["name"]], kept["learning_rate"], kept["steps"]

    def result(self, plan: Plan, trials: list[Trial], candidate: Candidate, rate: float, steps: int) -> dict[str, Any]:
        """What `report.json` holds, but for the time that it took."""
        request, texts, full = self.request, self.texts, self.full
        made = open_model(str(self.folder))
        speeds = self.speeds.measure({"full": full, "made": made.config}, ["float32", "bfloat16"])
        throughput = {
            name: {
                dtype: {"texts_per_second": found[name].texts_per_second, "rows": found[name].rows}
                for dtype, found in speeds.items()
            }
            for name in ("full", "made")
        }
        best = {name: max(x["texts_per_second"] for x in found.values()) for name, found in throughput.items()}
        judged = outcome(
            self.found, self.params, made, made.params(self.mesh), texts, self.encoder, self.pad_id, request.seed
        )
        device = jax.devices()[0]
        shown = [Trial(candidate, rate, 0, math.nan, math.nan, 0.0)] if not trials else trials
        return {
            "model": self.found.address,
            "machine": f"{len(jax.devices())} x {device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}",
            "task": {"kind": texts.task.kind, "metric": texts.task.metric, "labels": list(full.labels)},
            "texts": {"read": texts.read, "labelled": len(texts.labelled)}
            | {name: len(getattr(texts, name)) for name in ("learn", "choose", "calibrate", "judge")},
            "speedup": request.speedup or None,
            "tried": [_tried(full, trial) for trial in shown],
            "chosen": candidate.name,
            "full": {"name": "full", "parameters": learning.count_parameters(full), "score": judged["full"]}
            | _sizes(full)
            | {"throughput": throughput["full"]},
            "made": {"name": candidate.name, "parameters": candidate.parameters, "score": judged["made"]}
            | _sizes(made.config)
            | {name: judged[name] for name in ("agreement", "lost")}
            | {"throughput": throughput["made"], "path": str(self.folder)}
            | {"steps": steps, "texts_seen": steps * TEXTS_A_STEP, "learning_rate": rate},
            "factors": {dtype: found["made"].factor for dtype, found in speeds.items()}
            | {"best": best["made"] / best["full"]},
            "row_mates": judged["row_mates"],
        }


def _sizes(config: ModelConfig) -> dict[str, Any]:
    return {
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "heads": config.num_attention_heads,
        "intermediate": config.intermediate_size,
        "width": config.width,
    }


def _tried(full: ModelConfig, trial: Trial) -> dict[str, Any]:
    candidate = trial.candidate
    return {
        "name": candidate.name,
        **_sizes(reduced(full, candidate.shape)),
        "share": candidate.shape.share,
        "parameters": candidate.parameters,
        "factor": candidate.factor,
        "steps": trial.steps,
        "texts_seen": trial.steps * TEXTS_A_STEP,
        "learning_rate": trial.rate,
        "agreement": trial.agreement,
        "loss": trial.loss,
        "score": None,
    }
