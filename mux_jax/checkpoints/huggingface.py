"""Hugging Face folders: `config.json` with weights, of the released MUX-PLMs and of ordinary encoders.

`names.tensors` says where each tensor belongs; here tensors become parameters and the other way round.
"""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from mux_jax.checkpoints import tensor_files
from mux_jax.checkpoints.huggingface_config import BODY, CONFIG, class_name, to_json
from mux_jax.checkpoints.names import tensors
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.models.released import Tensor
from mux_jax.progress import say

# What is left where no head reads it: poolers, BERT's next-sentence head, buffers of 0, 1, 2, ... and of zeros.
_UNREAD = re.compile(r"pooler\.|cls\.seq_relationship\.|.*embeddings\.(position|token_type)_ids$")


def is_folder(folder: epath.Path) -> bool:
    """Whether this is a Hugging Face folder."""
    return (folder / CONFIG).exists() and tensor_files.find(folder) is not None


def read_params(folder: epath.Path, config: ModelConfig) -> Any:
    """The parameters of a folder's model as float32 NumPy arrays; without a head where `config.head` is none.

    Raises:
      InputError: a file that cannot be read; tensors that are missing, left over, of another shape,
        or not equal where the model shares them.
    """
    file = tensor_files.find(folder)
    assert file is not None  # `is_folder` has seen to it
    prefix = config.family.tensor_prefix  # a bare `BertModel` stores its names without it
    names = [dataclasses.replace(tensor, name=tensor.name.removeprefix(prefix)) for tensor in tensors(config)]
    known = {tensor.name for tensor in names}
    found = {name.removeprefix(prefix): value for name, value in tensor_files.read_tensors(file).items()}
    unread = [
        n
        for n in found
        if n not in known and (_UNREAD.match(n) or config.head in ("none", "embedding") and not BODY.match(n))
    ]
    found = {name: value for name, value in found.items() if name not in unread}
    names_of, tied = config.family.vocabulary_names, config.family.tie_word_embeddings
    if not tied and f"{names_of.decoder}.bias" in found and names_of.bias != f"{names_of.decoder}.bias":
        found.pop(names_of.bias, None)  # which `transformers` reads no more once it is another parameter
    halves = [name for name, value in found.items() if value.dtype != np.float32]
    if halves:
        say(f"{file}: {len(halves)} of {len(found)} tensors are {found[halves[0]].dtype}; read as float32")

    shapes = parameter_shapes(config)
    params = {path: _aligned_empty(shape) for path, shape in shapes.items()}
    for path, array in params.items():
        if path.endswith("/scale"):
            array.fill(1.0)  # ModernBERT's first layer has no LayerNorm, only its place among the others
    read: dict[tuple, str] = {}  # what has been filled, and by which tensor
    for tensor in names:
        if tensor.name not in found:
            continue
        views = _views(tensor, params)
        stored = found.pop(tensor.name)
        expected = _value(tensor, views).shape
        if stored.shape != expected:
            raise InputError(
                f"{file}: {tensor.name} has the shape {list(stored.shape)}, the model of config.json {list(expected)}"
            )
        value = stored.read().astype(np.float32, copy=False)
        value = value.T if tensor.transposed else value
        key = (tensor.paths, tensor.layer)
        parts = np.split(value, len(views))
        if key in read and not all(np.array_equal(view, part) for view, part in zip(views, parts)):
            hint = ", unless config.json has tie_word_embeddings=false" if tied and config.width == 1 else ""
            raise InputError(
                f"{file}: {read[key]} and {tensor.name} differ; in this model they are one parameter{hint}"
            )
        read[key] = tensor.name
        for view, part in zip(views, parts):
            view[...] = part

    missing = [t.name for t in names if (t.paths, t.layer) not in read]
    left_over = sorted(found)
    if missing or left_over:
        kinds = {"missing": missing, "left over": left_over}
        listed = "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names)
        hint = ""
        if not any(map(BODY.match, missing + left_over)):
            hint = f'; "architectures": ["{class_name(config.without_head)}"] there reads it without a head'
        raise InputError(f"{file}: not the tensors of the model of config.json; {listed}{hint}")
    unread = [name for name in unread if not name.endswith("_ids")]
    if unread:
        say(f"{file}: not used: {_listed(sorted(unread))}")
    return unflatten_dict(params, sep="/")


def write(
    folder: epath.Path, config: ModelConfig, params: Any, task: TaskInfo | None = None, pad_token_id: int = 0
) -> None:
    """Writes `config.json` and `model.safetensors`, under the released names, into a folder that exists.

    `task`: of a fine-tuned model. `pad_token_id`: of its tokenizer; `transformers` does not train its embedding.
    """
    flat = {path: np.asarray(value) for path, value in flatten_dict(params, sep="/").items()}
    values = {}
    for tensor in tensors(config):
        values[tensor.name] = np.ascontiguousarray(_value(tensor, _views(tensor, flat)))
    if config.width > 1:
        positions = np.arange(config.max_position_embeddings)[None]
        values[f"{config.family.tensor_prefix}embeddings.position_ids"] = positions  # which the released code reads
    (folder / CONFIG).write_text(json.dumps(to_json(config, task, pad_token_id), indent=2) + "\n", encoding="utf-8")
    (folder / tensor_files.WEIGHTS[0]).write_bytes(safetensors.numpy.save(values, metadata={"format": "pt"}))


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a model, by path."""
    tokens = jax.ShapeDtypeStruct((1, config.width, 1), np.int32)
    shapes = jax.eval_shape(lambda t: MuxModel(config).init(jax.random.key(0), t, method="init_all"), tokens)
    return {path: x.shape for path, x in flatten_dict(nn.meta.unbox(shapes)["params"], sep="/").items()}


def _aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
    """Float32, at an address that is a multiple of 64: JAX on CPU takes such an array as it is, without a copy."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(np.float32).reshape(shape)


def _views(tensor: Tensor, params: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The parts of our arrays that a tensor is."""
    return [params[path] if tensor.layer is None else params[path][tensor.layer] for path in tensor.paths]


def _value(tensor: Tensor, views: list[np.ndarray]) -> np.ndarray:
    """A tensor in its released form."""
    value = views[0] if len(views) == 1 else np.concatenate(views)
    return value.T if tensor.transposed else value


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
