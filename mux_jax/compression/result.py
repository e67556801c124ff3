"""What `report.json` holds, put together: see `report`."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import jax

from mux_jax.checkpoints.source import ModelSource
from mux_jax.compression.learning import count_parameters, texts_of_a_step
from mux_jax.compression.plan import Candidate, Plan
from mux_jax.compression.request import Request
from mux_jax.compression.shape import reduced
from mux_jax.compression.speed import Throughput
from mux_jax.compression.texts import Texts
from mux_jax.compression.trials import Trial
from mux_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What learned for the rest of the time: a candidate, with its learning rate and steps; and the model made."""

    candidate: Candidate
    rate: float
    steps: int
    made: ModelSource


def result(
    request: Request,
    found: ModelSource,
    texts: Texts,
    plan: Plan,
    trials: list[Trial],
    chosen: Chosen,
    speeds: Mapping[str, Mapping[str, Throughput]],
    judged: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The report's figures.

    Args:
      found: the full model.
      speeds: of `full` and `made`, by dtype.
      judged: what `outcome` gives.
      seconds: spent.
    """
    full, candidate = found.config, chosen.candidate
    throughput: dict[str, dict[str, Any]] = {
        name: {
            dtype: {"texts_per_second": of[name].texts_per_second, "rows": of[name].rows}
            for dtype, of in speeds.items()
        }
        for name in ("full", "made")
    }
    best = {name: max(x["texts_per_second"] for x in of.values()) for name, of in throughput.items()}
    shown = trials or [Trial(candidate, chosen.rate, 0, math.nan, math.nan, 0.0, 0.0)]
    nearest = {trial.candidate.name: trial for trial in sorted(shown, key=lambda trial: -trial.loss)}
    device = jax.devices()[0]
    return {
        "model": found.address,
        "machine": f"{len(jax.devices())} x {device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}",
        "task": {"kind": texts.task.kind, "metric": texts.task.metric, "labels": list(full.labels)},
        "texts": {"read": texts.read, "labelled": len(texts.labelled), "pool": plan.pool}
        | {name: len(getattr(texts, name)) for name in ("learn", "choose", "calibrate", "judge")},
        "speedup": request.speedup or None,
        "learned_from": request.answers,
        "tried": [_tried(full, nearest[c.name]) for c in plan.candidates if c.name in nearest],
        "trials": [_tried(full, trial) for trial in trials],
        "chosen": candidate.name,
        "full": {"name": "full", "parameters": count_parameters(full), "score": judged["full"]}
        | _sizes(full)
        | {"throughput": throughput["full"], "agreement": judged.get("full_agreement")},
        "made": {"name": candidate.name, "parameters": candidate.parameters, "score": judged["made"]}
        | _sizes(chosen.made.config)
        | {name: judged[name] for name in ("agreement", "lost")}
        | {"throughput": throughput["made"], "path": str(chosen.made.folder), "learning_rate": chosen.rate}
        | {"steps": chosen.steps, "texts_seen": chosen.steps * texts_of_a_step(candidate.shape.width)},
        "factors": {dtype: of["made"].factor for dtype, of in speeds.items()} | {"best": best["made"] / best["full"]},
        "row_mates": judged["row_mates"],
        "deferral": judged["deferral"],
        "int8": judged["int8"],
        "seconds": dict(seconds),
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
        "texts_seen": trial.steps * texts_of_a_step(candidate.shape.width),
        "learning_rate": trial.rate,
        "agreement": trial.agreement,
        "loss": trial.loss,
        "score": None,
    }
