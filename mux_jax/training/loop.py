"""The training of a run: its stages one after the other, resumable at every step."""

import dataclasses
import functools
import json
import math
import signal
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from mux_jax import configuration
from mux_jax.data.loader import iterate
from mux_jax.errors import InputError, TrainingError
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.objectives import objectives
from mux_jax.progress import progress, say
from mux_jax.training import data as run_data
from mux_jax.training import logbook as logs
from mux_jax.training import mesh as meshes
from mux_jax.training.checkpoints import Checkpoints, checkpoint_folder, open_for_reading, write_atomically
from mux_jax.training.evaluation import evaluate, unigram_entropy
from mux_jax.training.optimizer import learning_rate, make_optimizer
from mux_jax.training.step import (
    TrainState,
    abstract_params,
    init_params,
    init_state,
    make_eval_step,
    make_train_step,
    to_device,
)
from mux_jax.training.workdir import describe_workdir, open_workdir, to_dict


def train(config: Any, workdir: str) -> dict[str, Any]:
    """Runs the stages of `config` in `workdir`, or goes on where a run was stopped.

    Returns:
      What `result.json` holds: the held-out figures of each stage's end, and what the run cost.

    Raises:
      InputError: a configuration or data that cannot be trained on, before any work.
      TrainingError: a loss that is not finite.
      SystemExit(0): SIGTERM came; everything is saved.
    """
    configuration.check(config)
    mesh = meshes.make_mesh(**config.mesh)
    meshes.check_rows(mesh, config.rows, config.accumulate)
    workdir = open_workdir(workdir, config)
    return _Run(config, workdir, mesh).train()


class _Run:
    """A run between its stages. Nothing here outlives the process but through `checkpoints`."""

    def __init__(self, config: Any, workdir: epath.Path, mesh: jax.sharding.Mesh):
        self.config, self.workdir, self.mesh = config, workdir, mesh
        self.stop = _StopSignal()
        self.data = run_data.prepare(config, workdir)
        describe_workdir(workdir, config)
        self.model_config = configuration.model_config(config, self.data.tokenizer.get_vocab_size())
        self.model = MuxModel(self.model_config, deterministic=False)
        self.stages = configuration.stages(config)
        self.heldout = [to_device(tokens, mesh) for tokens in run_data.heldout_batches(self.data, config)]
        self.checkpoints = Checkpoints(checkpoint_folder(workdir), config.checkpoint.keep)
        # Where the run stands, saved with every checkpoint.
        self.results: dict[str, dict[str, Any]] = {}
        self.seconds = {"wall": 0.0, "training": 0.0}
        self.instance_tokens = 0

    def train(self) -> dict[str, Any]:
        self.clock = time.monotonic()
        state, step = self.resume(), 0
        params = state.params if state else self.first_params()
        self.parameters = sum(x.size for x in jax.tree.leaves(params))
        self.log = logs.Logbook(self.workdir, int(state.step) if state else 0)
        with self.stop:
            for name, stage in self.stages:
                end = step + stage.steps
                if name not in self.results:
                    if state is None:
                        state = init_state(params, make_optimizer(stage, self.config.optimizer), step, self.mesh)
                    params = self.run_stage(name, stage, state, end)
                state, step = None, end
        self.checkpoints.close()
        return self.finish()

    def resume(self) -> TrainState | None:
        """The state of the newest whole checkpoint, with the optimiser of the stage it is in."""
        found = self.checkpoints.latest()
        if found is None:
            return None
        step, run = found
        self.results, self.seconds = run["results"], run["seconds"]
        self.instance_tokens = run["instance_tokens"]
        if ModelConfig(**run["model"]) != self.model_config:
            raise InputError(f"{self.checkpoints.newest} holds another model: {run['model']}")
        params = self.checkpoints.restore_params(step, abstract_params(self.model, self.mesh))
        optimizer = make_optimizer(self.config[run["stage"]], self.config.optimizer)
        fresh = init_state(params, optimizer, step, self.mesh)
        say(f"continuing at step {step} (stage {run['stage']})")
        return fresh.replace(opt_state=self.checkpoints.restore_optimizer(step, fresh.opt_state))

    def first_params(self) -> Any:
        """Fresh parameters, or as far as they fit those of the run that `init` names."""
        params = init_params(self.model, self.mesh, self.config.seed)
        return params if not self.config.init else params_from_run(self.config.init, self.model_config, params)

    def run_stage(self, name: str, stage: Any, state: TrainState, end: int) -> Any:
        """Trains from `state.step` to step `end`, evaluates, saves; returns the parameters."""
        config, mesh, step = self.config, self.mesh, int(state.step)
        start = end - stage.steps
        objective = objectives.make(stage, self.data.special)
        batches = iterate(run_data.train_batches(self.data, config), step, config.data.workers)
        tokens = to_device(next(batches), mesh) if step < end else self.heldout[0]
        optimizer = make_optimizer(stage, config.optimizer)
        compile_step = make_train_step(objective, self.model, optimizer, mesh, config.seed, config.accumulate)
        train_step = compile_step(state, tokens)
        eval_step = make_eval_step(objective, self.model, mesh)(state.params, tokens, jax.random.key(0))
        schedule = learning_rate(stage)
        pending: list[dict[str, jax.Array]] = []  # metrics of the steps since the last flush
        rate = 0.0
        window = time.monotonic()

        def flush() -> dict[str, float]:
            """Waits for the pending steps and returns their means; stops the run if one is not finite."""
            nonlocal window, rate
            values = jax.device_get(pending)
            first = step - len(values) + 1
            pending.clear()
            for i, metrics in enumerate(values):
                bad = [k for k, v in metrics.items() if not math.isfinite(v)]
                if bad:
                    self.checkpoints.wait()
                    raise TrainingError(
                        f"{name}: {', '.join(bad)} is not finite at step {first + i}; "
                        f"last good checkpoint: {self.checkpoints.newest}"
                    )
            seconds, window = time.monotonic() - window, time.monotonic()
            count = len(values) * tokens.size
            rate = count / seconds
            self.seconds["training"] += seconds
            self.instance_tokens += count
            return {k: float(np.mean([m[k] for m in values])) for k in values[0]}

        def checkpoint() -> None:
            wall = self.seconds["wall"] + time.monotonic() - self.clock
            self.checkpoints.save(step, state.params, state.opt_state, self.describe(name, step, wall))

        with progress(name) as report:
            while step < end:
                state, metrics = train_step(state, tokens)
                pending.append(metrics)
                step += 1
                if step < end:
                    tokens = to_device(next(batches), mesh)
                last, stopping = step == end, self.stop.requested
                evaluating = last or step % config.eval.every == 0
                saving = not last and (stopping or step % config.checkpoint.every == 0)
                if evaluating or saving or step % config.log_every == 0:
                    means = flush()
                    values = means | {
                        "learning_rate": float(schedule(step - 1 - start)),
                        "instance_tokens_per_second": rate,
                    }
                    self.log.write(step, name, values)
                    report(
                        (step - start) / stage.steps,
                        f"step {step} loss {means['loss']:.3f} {rate:,.0f} instance-tokens/s",
                    )
                if saving:
                    checkpoint()
                if stopping and not last:
                    self.stop_here(step)
                if evaluating:
                    figures = self.evaluate(eval_step, state.params)
                    self.log.write(step, name, {f"heldout_{k}": v for k, v in figures.items()})
                    self.print_evaluation(name, step, figures)
                    window = time.monotonic()
        self.results[name] = figures
        checkpoint()
        if self.stop.requested:
            self.stop_here(step)
        return state.params

    def evaluate(self, eval_step: Any, params: Any) -> dict[str, Any]:
        figures = evaluate(eval_step, params, self.heldout)
        if "mlm_loss" in figures:
            tokens = np.stack([jax.device_get(batch) for batch in self.heldout])
            figures["unigram_entropy"] = unigram_entropy(tokens, dataclasses.astuple(self.data.special))
        return figures

    def print_evaluation(self, stage: str, step: int, figures: dict[str, Any]) -> None:
        shown = (f"{k} {v:.4f}" for k, v in figures.items() if isinstance(v, float) and k != "unigram_entropy")
        say(f"{stage} step {step}, held out: {', '.join(shown)}")

    def describe(self, stage: str, step: int, wall: float) -> dict[str, Any]:
        """The `run` of a checkpoint: all that the arrays do not say."""
        return {
            "stage": stage,
            "next_batch": step,  # Grain's order is a function of the seed and this
            "results": self.results,
            "seconds": self.seconds | {"wall": wall},
            "instance_tokens": self.instance_tokens,
            "model": dataclasses.asdict(self.model_config),
            "config": to_dict(self.config),
        }

    def stop_here(self, step: int) -> None:
        self.checkpoints.wait()
        self.checkpoints.close()
        self.log.close()
        say(f"stopped at step {step}, saved in {self.checkpoints.newest}; the same command continues")
        raise SystemExit(0)

    def finish(self) -> dict[str, Any]:
        """Writes and prints what the run came to."""
        self.seconds["wall"] += time.monotonic() - self.clock
        result = {
            "stages": {name: self.results[name] for name, _ in self.stages},
            "wall_seconds": self.seconds["wall"],
            "peak_memory_bytes": logs.peak_memory_bytes(),
            "instance_tokens_per_second": self.instance_tokens / max(self.seconds["training"], 1e-9),
            "parameters": self.parameters,
        }
        self.log.close()
        write_atomically(self.workdir / "result.json", json.dumps(result, indent=2) + "\n")
        logs.plot_curves(self.log.rows, self.workdir / "curves.png")
        logs.print_summary(result, self.workdir)
        return result


def read_run(path: str, mesh: jax.sharding.Mesh) -> tuple[MuxModel, Any, int]:
    """The model, parameters and step of the newest whole checkpoint of the run in `path`.

    Raises:
      InputError: no such run, or it has saved nothing.
    """
    checkpoints, step, run = open_for_reading(path)
    model = MuxModel(ModelConfig(**run["model"]))
    params = checkpoints.restore_params(step, abstract_params(model, mesh))
    checkpoints.close()
    return model, params, step


def params_from_run(path: str, config: ModelConfig, params: Any) -> Any:
    """`params` with every array that the run in `path` has under the same name and shape.

    What is taken and what stays new is printed.

    Raises:
      InputError: no such run, or nothing in it fits.
    """
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    _, found, step = read_run(path, mesh)
    taken, new = [], []

    def take(path: Any, ours: jax.Array) -> jax.Array:
        value = functools.reduce(lambda tree, key: tree.get(key.key, {}), path, found)
        fits = isinstance(value, jax.Array) and value.shape == ours.shape
        (taken if fits else new).append("/".join(key.key for key in path))
        return jax.device_put(value, ours.sharding) if fits else ours

    params = jax.tree_util.tree_map_with_path(take, params)
    if not taken:
        raise InputError(f"init={path}: no parameter fits this model")
    say(f"init: {len(taken)} arrays from {path} at step {step}")
    if new:
        say(f"init: {len(new)} new: {', '.join(new)}")
    return params


class _StopSignal:
    """SIGTERM asks for a stop after the current step; before the first, it ends the process."""

    def __init__(self) -> None:
        self.requested = False
        self._before = signal.signal(signal.SIGTERM, lambda *_: self._leave())

    def _leave(self) -> None:
        say("stopped before training; nothing is lost")
        raise SystemExit(0)

    def __enter__(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "requested", True))

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
