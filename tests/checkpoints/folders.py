"""Hugging Face folders of small models, written, read and damaged by tests."""

import json

import jax
import numpy as np
import safetensors.numpy
from etils import epath

from mux_jax.checkpoints import huggingface, huggingface_config
from tests.conftest import init, small_model


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def load(folder):
    config = huggingface_config.read_config(folder)
    return config, huggingface.read_params(folder, config)


def tensors_of(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def change_tensors(folder, change):
    found = tensors_of(folder)
    change(found)
    safetensors.numpy.save_file(found, folder / "model.safetensors")


def change_config(folder, **fields):
    """Sets fields; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def ordinary(folder, **changes):
    """The folder of an ordinary model, its configuration and parameters; nothing in it is of this project."""
    model, params = init(small_model(width=1, **changes), seed=7)
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    huggingface.write(folder, model.config, params)
    change_config(folder, mux_jax=None)
    return folder, model.config, params


def shard(folder, parts=3):
    """Puts the tensors of a folder into files of some each, and an index; returns the files."""
    found = sorted(tensors_of(folder).items())
    (folder / "model.safetensors").unlink()
    names = [f"model-{i + 1:05}-of-{parts:05}.safetensors" for i in range(parts)]
    for i, name in enumerate(names):
        safetensors.numpy.save_file(dict(found[i::parts]), folder / name)
    weight_map = {name: names[i % parts] for i, (name, _) in enumerate(found)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [folder / name for name in names]
