"""The training of a run: its stages one after the other, resumable at every step."""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from mux_jax.checkpoints.runs import Checkpoints, checkpoint_folder
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.checkpoints.transfer import transfer_params
from mux_jax.configuration import FinetuneConfig, RunConfig, flatten, resolve, stages, to_json
from mux_jax.data.loader import iterate
from mux_jax.data.tokenizer import SpecialTokens
from mux_jax.errors import InputError, TrainingError
from mux_jax.locks import Lock
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.objectives import objectives
from mux_jax.objectives.objectives import Objective
from mux_jax.objectives.stages import Stage
from mux_jax.parallel import hosts
from mux_jax.parallel.mesh import check_rows, local_rows, make_mesh, to_device
from mux_jax.parallel.params import abstract_params, init_params
from mux_jax.paths import absolute, is_storage_error
from mux_jax.progress import progress, say
from mux_jax.training.distillation import Teacher
from mux_jax.training.finetune_data import FinetuneData, load_finetune_data
from mux_jax.training.meter import Meter, peak_memory_bytes
from mux_jax.training.metric_writer import MetricWriter
from mux_jax.training.optimizer import learning_rate, make_optimizer
from mux_jax.training.pretrain_data import load_pretrain_data
from mux_jax.training.step import TrainState, init_state, make_train_step
from mux_jax.training.stop_signal import StopSignal
from mux_jax.training.summary import plot_curves, print_summary
from mux_jax.training.workdir import describe_workdir, open_workdir


class RunData(Protocol):
    """What a run learns from and is judged by."""

    @property
    def special(self) -> SpecialTokens:
        """The special tokens' ids."""

    def model_config(self, init: ModelSource | None) -> ModelConfig:
        """The model to train."""

    def batches(self, mine: np.ndarray) -> Any:
        """The rows `mine` of each batch, by step."""

    def evaluator(self, model: MuxModel, mesh: Mesh) -> Callable[[Objective, Any], dict[str, Any]]:
        """(objective, params) -> held-out figures; of these `score`, if there is one, says which step is best."""

    def finish(
        self, model: MuxModel, mesh: Mesh, params: Any, workdir: epath.Path
    ) -> tuple[dict[str, Any], Callable[[], None]]:
        """What `result.json` says of the run's end; and what draws pictures, when it is saved."""


def train(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
    """Runs the stages of `config` in `workdir`, or goes on where a run was stopped.

    Returns:
      What `result.json` holds: the held-out figures of each stage's end, and what the run cost.

    Raises:
      InputError: a configuration or data that cannot be trained on, before any work.
      TrainingError: a loss that is not finite, a disk that is full; the last good checkpoint is named.
      SystemExit: SIGTERM or SIGHUP came while a stage ran (status 0), or Ctrl-C (130); everything is saved.
    """
    clock = time.monotonic()
    config = config.copy_and_resolve_references()
    init = open_model(config.init_from, needs_head=False) if config.init_from else None
    if init and init.hub:
        config.init_from = init.address  # with its commit
    teacher = open_model(config.teacher) if config.get("teacher") else None
    if teacher and teacher.hub:
        config.teacher = teacher.address
    resolved = resolve(config, init.config if init else None)

    def load(folder: epath.Path) -> RunData:
        if isinstance(resolved, FinetuneConfig):
            return load_finetune_data(resolved, folder, init, teacher)
        return load_pretrain_data(resolved, folder, init)

    result = run(resolved, workdir, init, load, clock)
    print_summary(result, absolute(workdir))
    return result


def run(
    config: RunConfig, workdir: str, init: ModelSource | None, load: Callable[[epath.Path], RunData], clock: float
) -> dict[str, Any]:
    """Runs a configuration that is resolved, on the data that `load` makes in the run's folder; see `train`."""
    mesh = make_mesh(**dataclasses.asdict(config.mesh))
    check_rows(mesh, config.rows, config.grad_accumulation_steps)
    hosts.agree(hosts.versions() | flatten(to_json(config)) | {"workdir": workdir})
    folder = open_workdir(workdir, config)
    with hosts.hold(folder / ".lock", f"workdir {folder}") as lock:
        trainer = Trainer(config, folder, init, load(folder), mesh, lock, clock)
        describe_workdir(folder, config)
        try:
            return trainer.train()
        except Exception as e:
            if not is_storage_error(e):
                raise
            raise TrainingError(
                f"{e}; last good checkpoint: {trainer.checkpoints.newest}; the same command continues"
            ) from e
        finally:
            trainer.log.close()


class Trainer:
    """A run in this process. What outlives the process is in `checkpoints`, by `describe`."""

    def __init__(
        self,
        config: RunConfig,
        workdir: epath.Path,
        init: ModelSource | None,
        data: RunData,
        mesh: Mesh,
        lock: Lock | None,
        clock: float,
    ):
        """lock: of the workdir, where this host holds it; clock: when the process began."""
        self.config, self.workdir, self.data = config, workdir, data
        self.mesh, self.lock, self.clock = mesh, lock, clock
        self.stop = StopSignal()
        self.checkpoints = Checkpoints(checkpoint_folder(workdir), config.checkpoint.keep)

        # What another process of this run has done. Its model stays, whatever a later version would make.
        step, run = self.checkpoints.latest(set_damaged_aside=True) or (0, {})
        model = data.model_config(init)
        if run:
            begun = ModelConfig.from_flat(run["model"])
            of_machine = {name: getattr(model, name) for name in ("scan_layers", "remat", "attention")}
            model = dataclasses.replace(begun, **of_machine)
        self.model = MuxModel(model, deterministic=False)
        self.evaluate = data.evaluator(self.model, mesh)
        teacher = data.teacher if isinstance(data, FinetuneData) else None
        self.teacher = Teacher(teacher, mesh, data.special.pad) if teacher else None
        self.results: dict[str, dict[str, Any]] = run.get(
            "results", {}
        )  # held-out figures of the stages that have ended
        self.best: dict[str, Any] | None = run.get("best")  # of a task: score and step of the best evaluation
        self.checkpoints.best = self.best["step"] if self.best else None
        self.wall_before: float = run.get("wall_seconds", 0.0)
        self.params, self.state = self.resume(step, run) if run else (self.begin(init), None)
        self.log = MetricWriter(workdir, step)
        self.meter = Meter(tuple(run.get("metered", (0, 0.0))))
        self.saved = time.monotonic()  # when a checkpoint was saved last

    def begin(self, init: ModelSource | None) -> Any:
        """Parameters to start from."""
        params = init_params(self.model, self.mesh, self.config.seed)
        return transfer_params(init, self.model.config, params) if init else params

    def resume(self, step: int, run: dict[str, Any]) -> tuple[Any, TrainState | None]:
        """Parameters to go on from and, if a stage was left in its midst, its whole state."""
        names = [name for name, _ in stages(self.config)]
        begun = list(dict.fromkeys([*self.results, run["stage"]]))
        if names[: len(begun)] != begun:
            raise InputError(f"stages={','.join(names)}: the run in {self.workdir} began with {','.join(begun)}")
        say(f"continuing at step {step} (stage {run['stage']})")
        params = self.checkpoints.restore_params(step, abstract_params(self.model, self.mesh))
        if run["stage"] in self.results:
            return params, None
        optimizer = make_optimizer(getattr(self.config, run["stage"]), self.config.optimizer)
        fresh = init_state(params, optimizer, step, self.mesh)
        return params, dataclasses.replace(fresh, opt_state=self.checkpoints.restore_optimizer(step, fresh.opt_state))

    def train(self) -> dict[str, Any]:
        """Runs what is left of the stages; returns what `result.json` holds."""
        with self.stop:
            end = 0
            for name, stage in stages(self.config):
                start, end = end, end + stage.steps
                if name not in self.results:
                    optimizer = make_optimizer(stage, self.config.optimizer)
                    state = self.state or init_state(self.params, optimizer, start, self.mesh)
                    self.params, self.state = self.run_stage(name, stage, optimizer, state, start, end), None
            self.checkpoints.wait()
            if self.stop.requested(end + 1):
                self.leave()
        result = self.result(self.params)
        self.checkpoints.close()
        self.log.flush()
        if hosts.is_first():
            plot_curves(self.log.rows, self.workdir / "curves.png")
        return result

    def run_stage(
        self, name: str, stage: Stage, optimizer: optax.GradientTransformation, state: TrainState, start: int, end: int
    ) -> Any:
        """Trains from `state.step` to step `end`, evaluates, saves; returns the parameters.

        A run that goes on from the checkpoint of step s does what an uninterrupted one does after s. For that,
        what belongs to s happens before s is saved, in this order:

        1. Its metrics are written. A run that goes on drops the lines of later steps, and no others.
        2. It is evaluated, if it is its turn. The score decides what is `best` and whether patience is at an end.
        3. If the stage ends with it, `results` gets the figures, by which a run that goes on knows that it has ended.
        4. It is saved: `describe` puts `best` and `results` into the checkpoint.
        5. The process ends, if it was asked to. What asks (a signal, the clock) changes when to save, nothing else.
        """
        config, mesh, step = self.config, self.mesh, int(state.step)
        objective, rate = objectives.make(stage, self.data.special), learning_rate(stage)
        mine = local_rows(mesh, config.rows)
        batches = iterate(self.data.batches(mine), step, config.data.workers)

        def load() -> dict[str, jax.Array]:
            batch = to_device(next(batches), mesh, config.rows)
            if not self.teacher:
                return batch
            with self.meter.paused():
                self.teacher.compile_for(batch)
            return self.teacher(batch)

        batch = load()
        train_step = make_train_step(
            objective, self.model, optimizer, mesh, config.seed, config.grad_accumulation_steps
        )
        train_step.compile_for(state, batch)

        self.meter.restart()
        with contextlib.closing(batches), progress(name, begun=(step - start) / stage.steps) as report:
            last = False
            while not last:
                with self.meter.paused():  # while rows of another length are compiled for
                    train_step.compile_for(state, batch)
                state, metrics = train_step(state, batch)
                self.meter.add(metrics, batch["tokens"].size)
                batch = load()  # while the device works
                step += 1
                self.checkpoints.check()
                if self.lock:
                    self.lock.check()
                last, stopping = step == end, self.stop.requested(step)
                evaluating = last or step % config.eval.every == 0
                saving = stopping or step % config.checkpoint.every == 0
                if evaluating or saving or step % config.log_every == 0:
                    means = self.meter.flush()
                    self.check_finite(name, step, means)
                    self.log.write(step, name, means | {"learning_rate": float(rate(step - 1 - start))})
                    speed = f"{means['instance_tokens_per_second']:,.0f} instance-tokens/s"
                    report((step - start) / stage.steps, f"step {step} loss {means['loss']:.3f} {speed}")
                    saving = saving or self.overdue()
                if evaluating:
                    figures = self.evaluate(objective, state.params)
                    self.log.write(step, name, {f"heldout_{k}": v for k, v in figures.items()})
                    improved = self.compare(step, figures)
                    last = last or self.out_of_patience()
                    saving = saving or improved or last
                if last:
                    self.results[name] = figures
                if saving:
                    self.log.flush()
                    self.checkpoints.save(step, state.params, state.opt_state, self.describe(name, step))
                    self.saved = time.monotonic()
                if stopping:
                    self.leave()
                if evaluating or saving:
                    self.meter.restart()
        return state.params

    def compare(self, step: int, figures: dict[str, Any]) -> bool:
        """Whether the score is the best so far, which is then remembered; runs without a score have none."""
        if "score" not in figures:
            return False
        if self.best is not None and not figures["score"] > self.best["score"]:
            self.best = self.best | {"waited": self.best["waited"] + 1}
            return False
        self.best = {"step": step, "score": figures["score"], "waited": 0}
        self.checkpoints.best = step
        return True

    def out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations have brought nothing better; 0 is patience without end."""
        patience = self.config.patience if isinstance(self.config, FinetuneConfig) else 0
        return bool(patience and self.best and self.best["waited"] >= patience)

    def overdue(self) -> bool:
        """Whether the last checkpoint is `checkpoint.minutes` old, by the first host's clock. All hosts ask at once."""
        return hosts.gather(time.monotonic() - self.saved >= 60 * self.config.checkpoint.minutes)[0]

    def check_finite(self, stage: str, step: int, means: dict[str, float]) -> None:
        """Stops the run before anything that is not finite is saved."""
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            self.checkpoints.wait()
            raise TrainingError(
                f"{stage}: {', '.join(bad)} not finite at step {self.meter.first_bad_step(step)}; "
                f"last good checkpoint: {self.checkpoints.newest}"
            )

    @property
    def wall_seconds(self) -> float:
        return self.wall_before + time.monotonic() - self.clock

    def describe(self, stage: str, step: int) -> dict[str, Any]:
        """The `run` of a checkpoint: all that the arrays do not say."""
        return {
            "stage": stage,
            "results": self.results,
            "wall_seconds": self.wall_seconds,
            "metered": self.meter.total,
            "best": self.best,
            "model": self.model.config.to_flat(),
            "config": to_json(self.config),
        }

    def leave(self) -> None:
        """Ends the process, as a signal has asked; everything is saved."""
        self.checkpoints.close()
        saved = self.checkpoints.newest
        say(f"stopped at step {epath.Path(saved).name}, saved in {saved}; the same command continues")
        raise SystemExit(self.stop.exit_status)

    def result(self, params: Any) -> dict[str, Any]:
        """Writes `result.json`; finds it written if the run had ended before."""
        path = self.workdir / "result.json"
        written = hosts.gather(json.loads(path.read_text(encoding="utf-8")) if path.exists() else None)[0]
        if written and written.get("stages") == self.results:
            return written
        tokens, seconds = self.meter.total
        best = self.checkpoints.best_or(None, self.best)
        if best is not None:
            params = self.checkpoints.restore_params(best, abstract_params(self.model, self.mesh))
        result, draw = self.data.finish(self.model, self.mesh, params, self.workdir)
        result |= {
            "stages": self.results,
            "wall_seconds": self.wall_seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "instance_tokens_per_second": tokens / seconds,
            "parameters": sum(x.size for x in jax.tree.leaves(params)),
        }
        hosts.write_text(path, json.dumps(result, indent=2) + "\n")
        draw()
        return result
