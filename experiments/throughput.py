"""How fast the models of a study are: forward passes, in turns, against width 1 of their backbone."""

import itertools
import json

from etils import epath

from experiments.plan import Model
from mux_jax.benchmark import cases, measure
from mux_jax.checkpoints.source import open_model
from mux_jax.files import write_atomically
from mux_jax.parallel.mesh import make_mesh

# The tasks whose models are timed, and those whose models are as fast: they have the same head.
TIMED = {"sst2": ("sst2", "cola"), "pos": ("pos", "ner")}
_ROWS, _LENGTH, _REPEATS = 32, 64, 10


def measure_models(models: list[Model], path: epath.Path) -> None:
    """Measures the models that are done with their width 1, unless `path` has them all, and writes it there.

    Those of a backbone and a task take turns. The file is a list of objects as `launch/benchmark.py
    --json` writes it, named as `name` does.
    """
    rows = read(path)
    for backbone, task in itertools.product(dict.fromkeys(m.backbone for m in models), TIMED):
        done = [m for m in models if m.backbone == backbone and task in m.tasks and m.tasks[task].result.exists()]
        group = [model for model in done if baseline(model, done)]
        if all(name(model, task) in rows for model in group):
            continue
        mesh = make_mesh()
        made = []
        for model in group:
            config = open_model(str(model.tasks[task].workdir)).config
            base = name(baseline(model, group), task)
            made.append(cases.forward(name(model, task), config.head, config, _ROWS, _LENGTH, mesh, base))
        dtype = open_model(str(group[0].tasks[task].workdir)).config.compute_dtype
        rows |= {row["name"]: row for row in measure.measure(made, dtype, _REPEATS)}
        write_atomically(path, json.dumps(list(rows.values()), indent=2) + "\n")


def read(path: epath.Path) -> dict[str, dict]:
    """The objects in `path` by name; none if there is no such file."""
    return {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))} if path.exists() else {}


def name(model: Model, task: str) -> str:
    """Of the measurement of `task`, a timed one."""
    return f"{model.backbone}/{model.variant}/{model.width}/{task}"


def baseline(model: Model, models: list[Model]) -> Model | None:
    """Width 1 that a model is compared with, if it is among `models`."""
    found = (
        other for other in models if (other.backbone, other.variant, other.width) == (model.backbone, model.base, 1)
    )
    return next(found, None)
