"""Folders of sentence-transformers: an encoder, and modules that make an embedding of its states.

`modules.json` lists them: a Transformer, Pooling, Dense layers, Normalize. Read, and written as that library reads it.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from mux_jax.checkpoints import tensor_files
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.data.rows import lengths_up_to
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.heads import PROJECTIONS

_MODULES = "modules.json"
_PROMPTS = "config_sentence_transformers.json"
_SETTINGS = ("sentence_bert_config.json", _PROMPTS)
_POOLINGS = {"cls": "cls", "mean": "mean", "max": "max", "mean_sqrt_len_tokens": "mean_sqrt_length"}
_ACTIVATIONS = {"torch.nn.modules.linear.Identity": "", "torch.nn.modules.activation.Tanh": "tanh"} | {
    f"torch.nn.modules.activation.{theirs}": ours for theirs, ours in (("GELU", "gelu"), ("ReLU", "relu"))
}
assert set(_ACTIVATIONS.values()) == set(PROJECTIONS)


def is_folder(folder: epath.Path) -> bool:
    """Whether a Hugging Face folder is of sentence-transformers."""
    return (folder / _MODULES).exists()


def other_files(folder: epath.Path) -> list[str]:
    """The names of the files beside the encoder that the modules in a folder may have."""
    inside = ("config.json", *tensor_files.WEIGHTS)
    paths = [path for _, path in _modules(folder) if path]
    return [*_SETTINGS, *(f"{path}/{name}" for path in paths for name in inside)]


def is_part(path: epath.Path) -> bool:
    """Whether `write` writes a file or folder of this name."""
    return path.name in (_MODULES, *_SETTINGS) or bool(re.fullmatch(r"\d_(Pooling|Dense|Normalize)", path.name))


def read_config(folder: epath.Path, config: ModelConfig) -> ModelConfig:
    """The model `config`, without a head, with the head `embedding` that the modules describe.

    Raises:
      InputError: a module that is not known here, or one of another form or in another place, by its name.
    """
    fields: dict[str, Any] = {"pooling": "", "projections": [], "normalize": False}
    for name, path in _modules(folder):
        file = folder / path / "config.json"
        if name == "Pooling" and not fields["pooling"]:
            fields["pooling"] = _pooling(file)
        elif name == "Dense" and fields["pooling"] and not fields["normalize"]:
            fields["projections"].append(_dense(file))
        elif name == "Normalize" and fields["pooling"]:
            fields["normalize"] = True
        elif name not in ("Transformer", "Dropout") or fields["pooling"] and name == "Transformer":
            raise InputError(
                f"{folder / _MODULES}: the module {name} is not known here, or not in this place; there are, in this "
                "order: Transformer, Pooling, Dense, Normalize"
            )
    if not fields["pooling"]:
        raise InputError(f"{folder / _MODULES}: no Pooling, which makes one embedding of the states")
    settings = _settings(folder)
    if settings.get("do_lower_case"):
        raise InputError(
            f"{folder}/sentence_bert_config.json: do_lower_case=true is not supported; a tokenizer that lowers letters "
            "itself does the same"
        )
    return dataclasses.replace(config.without_head, head="embedding", **fields)


def read_task(folder: epath.Path, config: ModelConfig) -> TaskInfo:
    """The limit on lengths, and prompts."""
    given = _settings(folder).get("max_seq_length") or _json(folder / "tokenizer_config.json").get("model_max_length")
    limit = min(int(given or config.max_length), config.max_length)
    return TaskInfo(lengths_up_to(limit), ("text",), read_prompts(folder))


def read_prompts(folder: epath.Path) -> dict[str, str]:
    """What is put before texts, by name; "" is what is if none is named. There is none without a file of them."""
    theirs = _json(folder / _PROMPTS)
    prompts = {str(name): str(text) for name, text in (theirs.get("prompts") or {}).items()}
    if default := theirs.get("default_prompt_name"):
        if default not in prompts:
            raise InputError(f"{folder}: default_prompt_name={default!r}; the prompts are: {', '.join(prompts)}")
        prompts[""] = prompts[default]
    return prompts


def prompt_files(given: Mapping[str, str]) -> dict[str, str]:
    """The file that `read_prompts` reads, its text by its name; none without prompts."""
    prompts = {name: text for name, text in given.items() if name}
    default = next((name for name, text in prompts.items() if text == given.get("")), None)
    return {_PROMPTS: _text({"prompts": prompts, "default_prompt_name": default})} if prompts else {}


def read_projections(folder: epath.Path, config: ModelConfig) -> dict[str, Any]:
    """The parameters of the head.

    Raises:
      InputError: weights that are missing or of another shape.
    """
    found: dict[str, Any] = {}
    paths = [folder / path for name, path in _modules(folder) if name == "Dense"]
    size = config.hidden_size
    for i, (path, (out, _, bias)) in enumerate(zip(paths, config.projections, strict=True)):
        file = tensor_files.find(path)
        if file is None:
            raise InputError(f"{path}: no weights of a Dense layer there")
        tensors = {name: stored.read().astype(np.float32) for name, stored in tensor_files.read_tensors(file).items()}
        shapes = {"linear.weight": (out, size)} | ({"linear.bias": (out,)} if bias else {})
        if {name: x.shape for name, x in tensors.items()} != shapes:
            raise InputError(f"{file}: must have {shapes}, and has { {name: x.shape for name, x in tensors.items()} }")
        found[f"projection_{i}"] = {"kernel": tensors["linear.weight"].T}
        if bias:
            found[f"projection_{i}"]["bias"] = tensors["linear.bias"]
        size = out
    return found


def write(folder: epath.Path, config: ModelConfig, params: Any, task: TaskInfo) -> None:
    """Writes all but the encoder, which is there, as sentence-transformers reads it."""
    names = {ours: theirs for theirs, ours in _POOLINGS.items()}
    listed = [("Transformer", ""), ("Pooling", "1_Pooling")]
    _write(folder / "1_Pooling", {"word_embedding_dimension": config.hidden_size} | _flags(names[config.pooling]))
    activations, size = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}, config.hidden_size
    for i, (out, activation, bias) in enumerate(config.projections):
        path = f"{len(listed)}_Dense"
        listed.append(("Dense", path))
        layer = params["embedding_head"][f"projection_{i}"]
        fields = {
            "in_features": size,
            "out_features": out,
            "bias": bias,
            "activation_function": activations[activation],
        }
        _write(folder / path, fields)
        tensors = {"linear.weight": np.ascontiguousarray(np.asarray(layer["kernel"]).T)}
        tensors |= {"linear.bias": np.asarray(layer["bias"])} if bias else {}
        (folder / path / "model.safetensors").write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))
        size = out
    if config.normalize:
        listed.append(("Normalize", f"{len(listed)}_Normalize"))
        (folder / listed[-1][1]).mkdir()
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(listed)
    ]
    _dump(folder / _MODULES, modules)
    _dump(folder / "sentence_bert_config.json", {"max_seq_length": task.bucket_lengths[-1], "do_lower_case": False})
    for name, text in ({_PROMPTS: _text({})} | prompt_files(task.prompts)).items():
        (folder / name).write_text(text, encoding="utf-8")


def _modules(folder: epath.Path) -> list[tuple[str, str]]:
    """The name of each module's class, without its package, and its folder."""
    found = _json(folder / _MODULES, list)
    try:
        return [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in found]
    except (KeyError, TypeError) as e:
        raise InputError(f"{folder / _MODULES}: each module must have `type` and `path`") from e


def _pooling(file: epath.Path) -> str:
    theirs = _needed(file)
    flags = [
        name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for name, on in theirs.items()
        if name.startswith("pooling_mode_") and on
    ]
    old = {"mean_sqrt_len": "mean_sqrt_len_tokens"}
    mode = theirs.get("pooling_mode") or [old.get(name, name) for name in flags] or ["mean"]
    (name, *more) = [mode] if isinstance(mode, str) else mode
    if more or name not in _POOLINGS:
        raise InputError(f"{file}: pooling by {mode} is not known here; there are: {', '.join(_POOLINGS)}, one of them")
    if not theirs.get("include_prompt", True):
        raise InputError(f"{file}: include_prompt=false, a mean without the prompt's tokens, is not known here")
    return _POOLINGS[name]


def _flags(pooling: str) -> dict[str, bool]:
    """As all versions of the library read it."""
    keys = {
        "cls": "cls_token",
        "mean": "mean_tokens",
        "max": "max_tokens",
        "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    }
    return {f"pooling_mode_{key}": name == pooling for name, key in keys.items()}


def _dense(file: epath.Path) -> tuple[int, str, bool]:
    theirs = _needed(file)
    activation = theirs.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS:
        raise InputError(f"{file}: activation_function={activation} is not known here: {', '.join(_ACTIVATIONS)}")
    if not isinstance(theirs.get("out_features"), int):
        raise InputError(f"{file}: out_features={theirs.get('out_features')!r} must be a number")
    return theirs["out_features"], _ACTIVATIONS[activation], bool(theirs.get("bias", True))


def _settings(folder: epath.Path) -> dict[str, Any]:
    """The Transformer module's own."""
    return _json(folder / "sentence_bert_config.json")


def _json(file: epath.Path, kind: type = dict) -> Any:
    """What a file holds; nothing if it is not there."""
    if not file.exists():
        return kind()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise InputError(f"{file}: not JSON: {e}") from e
    if not isinstance(found, kind):
        raise InputError(f"{file}: must be {'a list' if kind is list else 'an object'}")
    return found


def _needed(file: epath.Path) -> dict[str, Any]:
    if not file.exists():
        raise InputError(f"{file} is missing, which says how an embedding is made")
    return dict(_json(file))


def _write(folder: epath.Path, config: dict[str, Any]) -> None:
    folder.mkdir()
    _dump(folder / "config.json", config)


def _dump(file: epath.Path, value: Any) -> None:
    file.write_text(_text(value), encoding="utf-8")


def _text(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
