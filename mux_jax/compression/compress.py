"""A cheaper model out of one that is fine-tuned, by the means that is best for its texts and this machine.

In this order; each step is kept in the folder, and a command that was stopped goes on where it was:

1. The texts are read, and parted: to learn from, to choose by, to calibrate, to judge by (`texts`).
2. Of each means (`shape`) the largest model that is as fast as asked for is found (`candidates`) by measuring
   (`speed`), and the time is shared out (`plan`).
3. The full model answers the texts to learn from, once (`pool`).
4. Each candidate is made by least squares (`reduction`), and learns for a short time (`learning`). The one that is
   nearest to the full model on the texts to choose by stays. Learning rates are tried in the same way (`trials`).
5. It learns for the rest of the time.
6. When it asks the full model is fitted (`deferring`).
7. It is judged, timed beside the full model, and reported on (`outcome`, `speed`, `result`, `report`); both also in
   int8, if that is asked for (`quantising`).
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from mux_jax.checkpoints.convert import save_model
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.compression import deferring, learning, pool, quantising
from mux_jax.compression.candidates import find_shapes
from mux_jax.compression.learning import Lessons
from mux_jax.compression.model_answers import ModelAnswers
from mux_jax.compression.outcome import outcome
from mux_jax.compression.plan import MOST_TEXTS, OTHER_RATES, Candidate, Plan
from mux_jax.compression.pool import Pool
from mux_jax.compression.quantising import Quantised, check_int8
from mux_jax.compression.reduction import reduce_model
from mux_jax.compression.report import summary, write_report
from mux_jax.compression.request import LOCK, Request, check_folder
from mux_jax.compression.result import Chosen, result
from mux_jax.compression.shape import reduced
from mux_jax.compression.speed import Speeds, Throughput
from mux_jax.compression.texts import Texts
from mux_jax.compression.trials import choose, trials
from mux_jax.data.encoding import Encoded, Encoder
from mux_jax.data.sections import TaskSection
from mux_jax.data.tokenizer import ModelTokenizer
from mux_jax.files import write_atomically
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.inference.deferral import Deferral
from mux_jax.inference.loaded_model import in_dtype
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
    request, folder = Request(model=model, **options), absolute(workdir)
    check_folder(folder)
    if request.int8:
        check_int8(folder)
    found = open_model(model)
    request.check(found)
    tokenizer = found.tokenizer(request.tokenizer)
    section = request.section(found)
    texts = request.read(found, section)
    folder.mkdir(parents=True, exist_ok=True)
    with hosts.hold(folder / LOCK, f"workdir {folder}"):
        request.keep(folder)
        report = folder / "report.json"
        if report.exists():
            done: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        else:
            done = Compression(request, found, tokenizer, section, texts, folder).run()
            write_report(done, folder)
    say(summary(done, folder))
    return done


class Compression:
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
        self.own, self.judged = self.encode(texts.learn), self.encoder(texts.judge)
        self.few_lengths = pool.few_lengths(self.own, self.lengths)
        self.mesh = make_mesh()
        self.params = found.params(self.mesh)
        self.dtype = in_dtype(self.full, request.dtype).dtype  # of answers and speeds; training has its own
        request.check_same(folder, pool.digest_params(self.params))
        self.speeds = Speeds(self.judged, self.lengths, self.pad_id, self.few_lengths)

    def run(self) -> dict[str, Any]:
        """All steps; returns what `report.json` holds."""
        began = time.monotonic()
        plan = self.plan()
        lessons, answering = self.lessons(plan)
        tried = trials(self, plan, lessons)
        spent = {"answers": answering, "trials": sum(trial.seconds for trial in tried)}
        candidate, rate, steps = choose(self, plan, tried, plan.seconds - sum(spent.values()))
        spent["learning"] = self.learn(self.folder, candidate, rate, steps, lessons)["wall_seconds"]
        made = open_model(str(self.folder))
        params = made.params(self.mesh)
        theirs, ours = (
            ModelAnswers(source, weights, self.encoder, self.pad_id, self.dtype)
            for source, weights in ((self.found, self.params), (made, params))
        )
        deferral = self.deferral(theirs, ours)
        speeds = self.speeds.measure({"full": self.full, "made": made.config}, ["float32", "bfloat16"])
        judged, deferred = outcome(theirs, ours, deferral, self.texts, self.request.seed)
        if deferred is not None:
            judged["deferral"] |= self.together(made.config, params, speeds, deferred)
        judged["int8"] = self.in_int8(theirs, made, speeds) if self.request.int8 else None
        spent["total"] = max(time.monotonic() - began, sum(spent.values()))
        chosen = Chosen(candidate, rate, steps, made)
        return result(self.request, self.found, self.texts, plan, tried, chosen, speeds, judged, spent)

    def deferral(self, full: ModelAnswers, made: ModelAnswers) -> Deferral | None:
        """When the made model asks the full one, kept with it; embeddings do not say how sure they are."""
        if self.full.head == "embedding":
            return None
        found = deferring.fit(full, made, self.texts, self.request.aim, self.request.seed)
        if found and self.request.standalone:
            copy = self.folder / "full"
            if not copy.exists():
                save_model(copy, self.full, self.params, self.tokenizer, self.found.address, False, self.found.task)
            found = dataclasses.replace(found, full=copy.name)
        if found:
            found.save(self.folder)
        return found

    def in_int8(
        self, full: ModelAnswers, made: ModelSource, speeds: Mapping[str, Mapping[str, Throughput]]
    ) -> dict[str, Any]:
        """Both models in int8, judged and timed beside the full one."""
        of, sources = speeds[self.dtype], {"full": self.found, "made": made}
        models = {
            name: Quantised(source, self.folder / "int8" / name, self.texts, self.tokenizer, of[name].rows, self.dtype)
            for name, source in sources.items()
        }
        run = self.runner(self.full, self.params, of["full"].rows)
        factors = quantising.measure(run, models, self.judged, of["full"].texts_per_second)
        judged = quantising.judge(full, models, self.texts, self.request.seed)
        return {"dtype": self.dtype} | {name: judged[name] | {"factor": factors[name]} for name in models}

    def runner(self, config: ModelConfig, params: Any, rows: int, times: int = 1) -> Callable[[Encoded], Any]:
        """What runs a model on texts, so many times."""
        lengths = self.few_lengths if config.width > 1 else self.lengths
        model, params = MuxModel(dataclasses.replace(config, dtype=self.dtype)), split_layers(params, self.dtype)
        run = BatchRunner(model, self.mesh, rows, lengths, self.pad_id)
        return lambda texts: [run(params, texts, np.random.default_rng(i)) for i in range(times)]

    def together(
        self, config: ModelConfig, params: Any, speeds: Mapping[str, Mapping[str, Throughput]], deferred: np.ndarray
    ) -> dict[str, Any]:
        """How much faster the made model is than the full one, with what it leaves to it, measured and computed."""
        of, passes = speeds[self.dtype], deferring.passes(config)
        full = self.runner(self.full, self.params, of["full"].rows)
        made = self.runner(config, params, of["made"].rows, passes)
        factor = deferring.measure(full, made, self.judged, deferred, of["full"].texts_per_second)
        formula = 1 / (passes / of["made"].factor + float(deferred.mean()))
        return {"dtype": self.dtype, "factor": factor, "formula": formula}

    def encode(self, texts: list[Any]) -> Encoded:
        """Texts as tokens, with places for answers, of each token where the model tags words."""
        return pool.encode(texts, self.encoder, self.full.head == "token")

    @property
    def joins(self) -> bool:
        """Whether texts are joined to longer ones: not pairs, and none that only another model has answered.

        An embedding is of a text as it is: of these, joined ones only make up for few.
        """
        embeds = self.full.head == "embedding" and len(self.texts.learn) >= MOST_TEXTS // 2
        return not (embeds or self.texts.answers or isinstance(self.texts.learn[0], tuple))

    def plan(self) -> Plan:
        """What to try, and how fast it is, as was measured once."""
        file = self.folder / "plan.json"
        if file.exists():
            return Plan.from_json(json.loads(file.read_text(encoding="utf-8")))
        request, dtype = self.request, self.dtype
        shapes = find_shapes(request, self.full, self.speeds, dtype)
        models = {name: reduced(self.full, shape) for name, shape in shapes.items()}
        speeds = self.speeds.measure({"full": self.full} | models, [dtype])[dtype]
        self.speeds.forget()
        candidates = tuple(
            Candidate(name, shapes[name], speeds[name].factor, learning.count_parameters(config))
            for name, config in models.items()
        )
        rates, answered = 1 if request.learning_rate else 1 + len(OTHER_RATES), bool(self.texts.answers)
        timeless = bool(request.steps and request.learning_rate)
        most = MOST_TEXTS if self.joins else min(MOST_TEXTS, len(self.own.ids))
        # Texts to learn from have other lengths than those to judge by.
        judged, own = (pool.mean_length(encoded, self.lengths) for encoded in (self.judged, self.own))
        rate = speeds["full"].texts_per_second * judged / own
        rate /= pool.LONGER if self.joins else 1
        plan = Plan.make(candidates, rate, request.minutes, rates, most, answered or timeless)
        write_atomically(file, json.dumps(plan.to_json(), indent=2) + "\n")
        plan.show(rates, answered)
        return plan

    def lessons(self, plan: Plan) -> tuple[Lessons, float]:
        """The texts to learn from and to choose by, with answers, and the seconds that it took to get these."""
        given, seconds = self.texts.answers, 0.0
        own = pool.first(self.own, plan.own(len(self.own.ids), self.joins))
        learn = pool.with_joined(own, plan.pool, self.lengths[-1], self.request.seed) if self.joins else own
        encoded = {"learn": learn, "choose": self.encode(self.texts.choose)}
        if given:
            answers = {name: list(given[name][: len(x.ids)]) for name, x in encoded.items()}
        else:
            model = MuxModel(dataclasses.replace(self.full, dtype=self.dtype))
            runner, params = (
                BatchRunner(model, self.mesh, 32, self.lengths, self.pad_id),
                split_layers(self.params, self.dtype),
            )
            answers, seconds = pool.answer(runner, params, encoded, self.folder / "answers")
        choose = Pool(encoded["choose"], answers["choose"], len(self.texts.choose))
        learned = Pool(learn, answers["learn"], len(own.ids))
        return Lessons(self.tokenizer, learned, choose, self.few_lengths, self.found.prompts()), seconds

    def start(self, candidate: Candidate, lessons: Lessons) -> epath.Path:
        """The folder of the candidate as least squares make it."""
        folder = self.folder / "starts" / candidate.name.replace(", ", "_").replace(" ", "_")
        if folder.exists():
            return folder
        seed, width = self.request.seed, candidate.shape.width
        tokens = pool.sample(lessons.learn.encoded, self.lengths, width, _FIT_TOKENS, self.pad_id, seed)
        host = jax.device_get(self.params)
        with progress(f"least squares: {candidate.name}") as report:
            config, params = reduce_model(self.full, host, candidate.shape, *tokens, self.pad_id, seed, report)
        params = jax.tree.map(jax.numpy.asarray, params)
        save_model(folder, config, params, self.tokenizer, self.found.address, False, self.found.task)
        return folder

    def learn(
        self,
        folder: epath.Path,
        candidate: Candidate,
        rate: float,
        steps: int,
        lessons: Lessons,
        is_trial: bool = False,
    ) -> dict[str, Any]:
        """Lets a candidate learn in `folder`; what its `result.json` holds."""
        config = learning.configuration(
            str(self.start(candidate, lessons)),
            self.found.address,
            self.section,
            lessons,
            width=candidate.shape.width,
            steps=steps,
            rate=rate,
            seed=self.request.seed,
            is_trial=is_trial,
        )
        return learning.learn(config, folder, lessons)
