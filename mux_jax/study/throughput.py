"""How fast the models of a study are: forward passes, in turns, against width 1 of their backbone."""

import json

from etils import epath

from mux_jax.benchmark import cases, measure
from mux_jax.pretrained import find
from mux_jax.study.plan import Model
from mux_jax.training.checkpoints import write_atomically
from mux_jax.training.mesh import make_mesh

_TASK, _ROWS, _LENGTH, _REPEATS = "sst2", 32, 64, 10


def measure_models(models: list[Model], path: epath.Path) -> None:
    """Measures the models that are done with their width 1, unless `path` has them all, and writes it there.

    Those of a backbone take turns. The file is a list of objects as `launch/benchmark.py --json`
    writes it, named BACKBONE/VARIANT/WIDTH.
    """
    rows = read(path)
    for backbone in dict.fromkeys(model.backbone for model in models):
        done = [m for m in models if m.backbone == backbone and _TASK in m.tasks and m.tasks[_TASK].result.exists()]
        group = [model for model in done if baseline(model, done)]
        if all(name(model) in rows for model in group):
            continue
        mesh = make_mesh()
        made = []
        for model in group:
            config = find(str(model.tasks[_TASK].workdir)).config
            base = name(baseline(model, group))
            made.append(cases.forward(name(model), "sequence", config, _ROWS, _LENGTH, mesh, base))
        dtype = find(str(group[0].tasks[_TASK].workdir)).config.compute_dtype
        rows |= {row["name"]: row for row in measure.measure(made, dtype, _REPEATS)}
        write_atomically(path, json.dumps(list(rows.values()), indent=2) + "\n")


def read(path: epath.Path) -> dict[str, dict]:
    """The objects in `path` by name; none if there is no such file."""
    return {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}


def name(model: Model) -> str:
    return f"{model.backbone}/{model.variant}/{model.width}"


def baseline(model: Model, models: list[Model]) -> Model | None:
    """Width 1 that a model is compared with, if it is among `models`."""
    found = (
        other for other in models if (other.backbone, other.variant, other.width) == (model.backbone, model.base, 1)
    )
    return next(found, None)
