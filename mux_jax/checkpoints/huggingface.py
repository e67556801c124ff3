"""Hugging Face folders: `config.json` with `model.safetensors` or `pytorch_model.bin`.

The released MUX-PLMs and ordinary BERT and ELECTRA models come so. `names.tensors` says where each
tensor belongs; here are the files, the configuration, and every check.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from mux_jax.checkpoints.hub import CONFIG, WEIGHTS
from mux_jax.checkpoints.names import tensors
from mux_jax.checkpoints.runs import FORMAT, check_format
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.demultiplexers import DEMULTIPLEXERS
from mux_jax.models.model import MuxModel
from mux_jax.models.multiplexers import MULTIPLEXERS
from mux_jax.models.released import Tensor
from mux_jax.models.variant import Variant
from mux_jax.progress import say

# Our name of a field of the model, theirs.
_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
}
# What the released classes ask for, of options that a variant may not have.
_RELEASED_DEFAULTS = {
    "num_hidden_demux_layers": 2,
    "gaussian_hadamard_norm": 1.0,
    "binary_hadamard_epsilon": 0.0,
    "learn_muxing": False,
    "retrieval_percentage": 1.0,
    "retrieval_loss_coeff": 0.1,
    "task_loss_coeff": 0.9,
}
# The class of a model, without "Muxed", and what it is here.
_CLASSES = {
    "BertModel": ("bert", "none"),
    "BertForMaskedLM": ("bert", "mlm"),
    "BertForPreTraining": ("bert", "mlm"),
    "BertForSequenceClassification": ("bert", "sequence"),
    "BertForTokenClassification": ("bert", "token"),
    "ElectraModel": ("electra", "none"),
    "ElectraForMaskedLM": ("electra", "mlm"),
    "ElectraForPreTraining": ("electra", "rtd"),
    "ElectraForSequenceClassification": ("electra", "sequence"),
    "ElectraForTokenClassification": ("electra", "token"),
}
# The types that the tensors of a safetensors file may have, as it calls them.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
}
# What nothing here reads: BERT's pooler and next-sentence head, and a buffer of 0, 1, 2, ...
_UNREAD = re.compile(r"(bert\.)?pooler\.|cls\.seq_relationship\.|.*embeddings\.position_ids$")


def is_folder(folder: epath.Path) -> bool:
    """Whether this is a Hugging Face folder."""
    return (folder / CONFIG).exists() and any((folder / name).exists() for name in WEIGHTS)


def read_config(folder: epath.Path) -> ModelConfig:
    """The model that a folder's `config.json` describes.

    Raises:
      InputError: not JSON, a field missing or of the wrong type, or a model or variant that is
        not known here, with those that are.
    """
    file = folder / CONFIG
    try:
        theirs = json.loads(file.read_text())
        name = (theirs.get("architectures") or [""])[0]
    except (ValueError, AttributeError) as e:
        raise InputError(f"{file}: not a model's configuration: {e}") from e

    def get(field: str, kind: type, default: Any = None) -> Any:
        value = theirs.get(field, default)
        if isinstance(value, int) and kind in (float, bool):
            value = kind(value)
        if not isinstance(value, kind):
            found = f"is {value!r}" if field in theirs else "is missing"
            raise InputError(f"{file}: {field} {found}; it must be of type {kind.__name__}")
        return value

    def variant(field: str, table: Mapping[str, type[Variant]]) -> str:
        """Our name of a multiplexer or demultiplexer; its options go to `fields`."""
        known = {cls.released_name: ours for ours, cls in table.items() if cls.released_name}
        if theirs.get(field) not in known:
            raise InputError(f"{file}: {field}={theirs.get(field)!r} is not known here; there are: {', '.join(known)}")
        cls = table[known[theirs[field]]]
        for name, option in cls.options().items():
            if name in cls.released_options:
                fields[name] = get(cls.released_options[name], type(option.default), option.default)
        return known[theirs[field]]

    if name.removeprefix("Muxed") not in _CLASSES:
        known = ", ".join(f"{muxed}{name}" for muxed in ("", "Muxed") for name in _CLASSES)
        raise InputError(f"{file}: architectures={name!r} is not known here; there are: {known}")
    architecture, head = _CLASSES[name.removeprefix("Muxed")]
    for field, only in {"hidden_act": "gelu", "position_embedding_type": "absolute", "type_vocab_size": 2}.items():
        if theirs.get(field, only) != only:
            raise InputError(f"{file}: {field}={theirs[field]!r} is not supported, only {only!r}")

    types: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(ModelConfig)}
    fields = {ours: get(field, types[ours]) for ours, field in _FIELDS.items()}
    fields["embedding_size"] = get("embedding_size", int) if architecture == "electra" else fields["hidden_size"]
    if head in ("sequence", "token"):
        names = get("id2label", dict, {"0": "LABEL_0", "1": "LABEL_1"})
        keys = [str(i) for i in range(len(names))]
        if names.keys() != set(keys):
            raise InputError(f"{file}: id2label has the keys {', '.join(names)}; they must be 0, 1, 2, ...")
        fields["labels"] = tuple(str(names[key]) for key in keys)
    fields["width"] = get("num_instances", int, 1)
    if fields["width"] > 1:
        fields["multiplexer"] = variant("muxing_variant", MULTIPLEXERS)
        fields["demultiplexer"] = variant("demuxing_variant", DEMULTIPLEXERS)
    elif name == "BertForSequenceClassification":
        raise InputError(f"{file}: {name} classifies by a pooler, which models here do not have; retrain its head")
    rest = get("mux_jax", dict, {})
    if rest:
        check_format(rest.get("format"), file)
        rest = {name: value for name, value in rest.items() if name not in ("format", "task")}
    try:
        config = ModelConfig.from_flat(dict(architecture=architecture, head=head) | fields | rest)
    except InputError as e:
        raise InputError(f"{file}: {e}") from e
    check(config, file)
    return config


def _is_electra_lm(config: ModelConfig) -> bool:
    """Whether the model's class is `ElectraForMaskedLM`."""
    return (config.architecture, config.head, config.width) == ("electra", "mlm", 1)


def check(config: ModelConfig, where: epath.Path) -> None:
    """Raises `InputError` if a model has no form as a Hugging Face folder."""
    for kind, table in (("multiplexer", MULTIPLEXERS), ("demultiplexer", DEMULTIPLEXERS)):
        name = getattr(config, kind)
        if config.width > 1 and not table[name].released_name:
            known = ", ".join(ours for ours, cls in table.items() if cls.released_name)
            raise InputError(f"{where}: {kind}={name} has no released form; only {known} can be converted")
    if _is_electra_lm(config) and config.embedding_size != config.hidden_size:
        raise InputError(
            f"{where}: the head of ElectraForMaskedLM goes from hidden_size={config.hidden_size} to "
            f"embedding_size={config.embedding_size}; only equal sizes can be converted"
        )


def read_task(folder: epath.Path) -> TaskInfo | None:
    """What `write` was given as `task`, out of a `config.json` that `read_config` reads.

    Raises:
      InputError: something else in its place.
    """
    file = folder / CONFIG
    task = json.loads(file.read_text()).get("mux_jax", {}).get("task")
    try:
        return TaskInfo.from_json(task) if task else None
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{file}: mux_jax.task={task!r} must have lists, `bucket_lengths` and `text_columns`") from e


def read_params(folder: epath.Path, config: ModelConfig) -> Any:
    """The parameters of a folder's model as float32 NumPy arrays.

    Raises:
      InputError: a file that cannot be read; tensors that are missing, left over, of another shape,
        or not equal where the model shares them.
    """
    file = next(folder / name for name in WEIGHTS if (folder / name).exists())
    found = _read_tensors(file)
    unread = [name for name in found if _UNREAD.match(name)]
    found = {name: found[name] for name in found if name not in unread}
    if config.head == "none" and config.width == 1:
        found = {name.removeprefix(f"{config.architecture}."): value for name, value in found.items()}
    words = "electra.embeddings.word_embeddings.weight"
    if _is_electra_lm(config) and words in found:
        found.setdefault("generator_lm_head.weight", found[words])  # one tensor in theirs, unless they say otherwise
    halves = [name for name, value in found.items() if value.dtype != np.float32]
    if halves:
        say(f"{file}: {len(halves)} of {len(found)} tensors are {found[halves[0]].dtype}; read as float32")

    shapes = parameter_shapes(config)
    params = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    read: dict[tuple, str] = {}  # what has been filled, and by which tensor
    names = list(tensors(config))
    for tensor in names:
        if tensor.name not in found:
            continue
        views = _views(tensor, params)
        value = found[tensor.name]
        expected = _value(tensor, views).shape
        if value.shape != expected:
            raise InputError(
                f"{file}: {tensor.name} has the shape {list(value.shape)}, the model of config.json {list(expected)}"
            )
        value = value.astype(np.float32).T if tensor.transposed else value.astype(np.float32)
        key = (tensor.paths, tensor.layer)
        parts = np.split(value, len(views))
        if key in read and not all(np.array_equal(view, part) for view, part in zip(views, parts)):
            raise InputError(f"{file}: {read[key]} and {tensor.name} differ; in this model they are one parameter")
        read[key] = tensor.name
        for view, part in zip(views, parts):
            view[...] = part

    missing = [t.name for t in names if (t.paths, t.layer) not in read]
    left_over = sorted(found.keys() - {t.name for t in names})
    if missing or left_over:
        kinds = {"missing": missing, "left over": left_over}
        listed = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds.items() if names)
        raise InputError(f"{file}: not the tensors of the model of config.json; {listed}")
    unread = [name for name in unread if not name.endswith("position_ids")]
    if unread:
        say(f"{file}: not used: {', '.join(unread)}")
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
    bare = config.head == "none" and config.width == 1
    positions = np.arange(config.max_position_embeddings)[None]
    values["embeddings.position_ids" if bare else f"{config.architecture}.embeddings.position_ids"] = positions
    (folder / CONFIG).write_text(json.dumps(_to_json(config, task, pad_token_id), indent=2) + "\n")
    (folder / WEIGHTS[0]).write_bytes(safetensors.numpy.save(values, metadata={"format": "pt"}))


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a model, by path."""
    tokens = jax.ShapeDtypeStruct((1, config.width, 1), np.int32)
    shapes = jax.eval_shape(lambda t: MuxModel(config).init(jax.random.key(0), t, method="init_all"), tokens)
    return {path: x.shape for path, x in flatten_dict(nn.meta.unbox(shapes)["params"], sep="/").items()}


def _views(tensor: Tensor, params: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The parts of our arrays that a tensor is."""
    return [params[path] if tensor.layer is None else params[path][tensor.layer] for path in tensor.paths]


def _value(tensor: Tensor, views: list[np.ndarray]) -> np.ndarray:
    """A tensor in its released form."""
    value = views[0] if len(views) == 1 else np.concatenate(views)
    return value.T if tensor.transposed else value


def _read_tensors(file: epath.Path) -> dict[str, np.ndarray]:
    """All tensors of a file. BERT's oldest files call LayerNorm's weight gamma and its bias beta."""
    if file.suffix == ".safetensors":
        found = _read_safetensors(file)
    else:
        found = _read_pickle(file)
    old = re.compile(r"LayerNorm\.(gamma|beta)$")
    new = {"gamma": "LayerNorm.weight", "beta": "LayerNorm.bias"}
    return {old.sub(lambda match: new[match[1]], name): value for name, value in found.items()}


def _read_safetensors(file: epath.Path) -> dict[str, np.ndarray]:
    """The tensors of a `model.safetensors`; the NumPy reader that comes with it knows no bfloat16."""
    try:
        views = safetensors.deserialize(file.read_bytes())
    except (safetensors.SafetensorError, ValueError) as e:
        raise InputError(f"{file}: truncated, or not a safetensors file: {e}") from e
    for name, view in views:
        if view["dtype"] not in _DTYPES:
            raise InputError(f"{file}: {name} is of type {view['dtype']}; it must be one of {', '.join(_DTYPES)}")
    return {name: np.frombuffer(v["data"], _DTYPES[v["dtype"]]).reshape(v["shape"]) for name, v in views}


_SAFE_TORCH = "2.6"  # since when `weights_only` keeps its promise


def _read_pickle(file: epath.Path) -> dict[str, np.ndarray]:
    """The tensors of a `pytorch_model.bin`, read by PyTorch with nothing but tensors allowed in it."""
    try:
        import torch
    except ImportError as e:
        raise InputError(f"{file}: PyTorch is needed to read it: pip install 'torch>={_SAFE_TORCH}'") from e
    import pickle

    if tuple(map(int, torch.__version__.split(".")[:2])) < tuple(map(int, _SAFE_TORCH.split("."))):
        raise InputError(
            f"{file}: PyTorch {torch.__version__} can be made to run what such a file holds (CVE-2025-32434); "
            f"{_SAFE_TORCH} or newer reads it safely: pip install 'torch>={_SAFE_TORCH}'"
        )

    try:
        with file.open("rb") as f:
            state = torch.load(f, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        reason = str(e).partition("\n")[0] or type(e).__name__
        raise InputError(f"{file}: truncated, or not a file of tensors alone: {reason}") from e
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{file}: not a dictionary of tensors")
    return {name: (value.float() if value.dtype == torch.bfloat16 else value).numpy() for name, value in state.items()}


def _to_json(config: ModelConfig, task: TaskInfo | None, pad_token_id: int) -> dict[str, Any]:
    """The configuration as theirs; what they have no field for goes under `mux_jax`."""
    # Theirs has a pooler before the classes of an ordinary BERT; only the multiplexed class has none.
    muxed = "Muxed" if config.width > 1 or (config.architecture, config.head) == ("bert", "sequence") else ""
    classes = {value: name for name, value in reversed(_CLASSES.items())}
    result = {
        "architectures": [muxed + classes[config.architecture, config.head]],
        "model_type": config.architecture,
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "pad_token_id": pad_token_id,
    }
    ours = config.to_flat()
    result |= {field: ours.pop(name) for name, field in _FIELDS.items()}
    embedding_size = ours.pop("embedding_size")
    if config.architecture == "electra":
        result["embedding_size"] = embedding_size
    if _is_electra_lm(config):
        result["tie_word_embeddings"] = False  # the decoder has weights of its own
    if config.labels:
        result["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
        result["label2id"] = {label: i for i, label in enumerate(config.labels)}
    if config.width > 1:
        result |= {"num_instances": ours.pop("width")} | _RELEASED_DEFAULTS
        for kind, field, table in (
            ("multiplexer", "muxing_variant", MULTIPLEXERS),
            ("demultiplexer", "demuxing_variant", DEMULTIPLEXERS),
        ):
            cls = table[ours.pop(kind)]
            result[field] = cls.released_name
            result |= {theirs: ours.pop(name) for name, theirs in cls.released_options.items()}
    for name in ("architecture", "head", "labels"):
        del ours[name]
    ours |= {"format": FORMAT} | ({"task": task.to_json()} if task else {})
    return result | {"mux_jax": ours}
