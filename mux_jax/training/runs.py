"""Other runs' models: read from their folders, to use or to start from."""

import functools
from typing import Any

import jax
from etils import epath

from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.progress import say
from mux_jax.training.checkpoints import Checkpoints, checkpoint_folder
from mux_jax.training.step import abstract_params


def check_run(path: str) -> epath.Path:
    """The folder of a run; `InputError` if it is not one."""
    workdir = epath.Path(path).expanduser().resolve()
    if not checkpoint_folder(workdir).exists():
        raise InputError(f"{workdir}: not the folder of a run (no `checkpoints` in it)")
    return workdir


def read_run(path: str, mesh: jax.sharding.Mesh) -> tuple[MuxModel, Any, int]:
    """The model, parameters and step of the newest whole checkpoint of the run in `path`.

    Raises:
      InputError: there is no such run, or it has saved nothing.
    """
    workdir = check_run(path)
    checkpoints = Checkpoints(checkpoint_folder(workdir))
    found = checkpoints.latest()
    if found is None:
        raise InputError(f"{workdir}: the run has saved no checkpoint yet")
    step, run = found
    model = MuxModel(ModelConfig(**run["model"]))
    params = checkpoints.restore_params(step, abstract_params(model, mesh))
    checkpoints.close()
    return model, params, step


def params_from_run(path: str, params: Any) -> Any:
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
