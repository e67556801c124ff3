"""`config.json` of Hugging Face folders: read, and written under the released names."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from mux_jax.checkpoints import tensor_files
from mux_jax.checkpoints.runs import FORMAT, check_format
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.errors import InputError
from mux_jax.files import check_fetched
from mux_jax.models.config import ModelConfig
from mux_jax.models.families import FAMILIES
from mux_jax.models.demultiplexers import DEMULTIPLEXERS
from mux_jax.models.multiplexers import MULTIPLEXERS
from mux_jax.models.variant import Variant
from mux_jax.progress import say

CONFIG = "config.json"

# Our name of a field of the model; theirs, and its value in the BertConfig of `transformers` where it is missing.
_FIELDS = {
    "vocab_size": ("vocab_size", 30522),
    "hidden_size": ("hidden_size", 768),
    "num_hidden_layers": ("num_hidden_layers", 12),
    "num_attention_heads": ("num_attention_heads", 12),
    "intermediate_size": ("intermediate_size", 3072),
    "max_position_embeddings": ("max_position_embeddings", 512),
    "hidden_dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
}
# What is another in its ElectraConfig.
_ELECTRA_DEFAULTS = {"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
DEFAULTS: dict[str, dict[str, Any]] = {
    "bert": dict(_FIELDS.values()),
    "electra": dict(_FIELDS.values()) | _ELECTRA_DEFAULTS,
}
# Fields that may have one value only, which is their default.
_ONLY = {"hidden_act": "gelu", "position_embedding_type": "absolute", "type_vocab_size": 2, "is_decoder": False}
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
# A part of the name of a tensor, and how the class ends that has it; the first that is found counts.
_CLASS_OF_TENSOR = {
    "qa_outputs.": "ForQuestionAnswering",
    "cls.predictions.": "ForMaskedLM",
    "cls.seq_relationship.": "ForNextSentencePrediction",
    "discriminator_predictions.": "ForPreTraining",
    "generator_predictions.": "ForMaskedLM",
    "sequence_summary.": "ForMultipleChoice",
    "classifier.out_proj.": "ForSequenceClassification",
    "classifier.": "ForTokenClassification",  # or of sequences, if there is a pooler
}
_KNOWN = ", ".join(f"{muxed}{name}" for muxed in ("", "Muxed") for name in _CLASSES)
_TWO_SIZES = (
    "the head of ElectraForMaskedLM goes from hidden_size={hidden_size} to embedding_size={embedding_size}; only equal "
    "sizes can be converted"
)


def read_config(folder: epath.Path, needs_head: bool = True) -> ModelConfig:
    """The model that a folder's `config.json` describes; what has to be guessed is printed.

    Args:
      needs_head: whether a head that models here do not have is an error; else it is left out, and that is printed.

    Raises:
      InputError: not JSON, a field of the wrong type, or a model or variant that is not known here, with those that
        are.
    """
    file = folder / CONFIG
    theirs = _read(file)
    names = _get(file, theirs, "architectures", list, [])
    name = str((names and names[0]) or _guess_class(folder, theirs))
    architecture, head = _CLASSES.get(name.removeprefix("Muxed"), (_family(name, theirs), ""))
    if architecture not in FAMILIES:
        raise InputError(f"{file}: architectures={name!r} is not known here; there are: {_KNOWN}")
    for field, only in _ONLY.items():
        if theirs.get(field, only) != only:
            raise InputError(f"{file}: {field}={theirs[field]!r} is not supported, only {only!r}")
    width = _get(file, theirs, "num_instances", int, 1)
    fields = _shape(file, theirs, architecture) | {"width": width}
    if width > 1:
        fields |= _variant(file, theirs, "muxing_variant", "multiplexer", MULTIPLEXERS)
        fields |= _variant(file, theirs, "demuxing_variant", "demultiplexer", DEMULTIPLEXERS)

    problem = "" if head else f"{name} has a head that is not known here"
    if name == "BertForSequenceClassification" and width == 1:
        problem = f"{name} classifies by a pooler, which models here do not have"
    elif (architecture, head, width) == ("electra", "mlm", 1) and fields["embedding_size"] != fields["hidden_size"]:
        problem = _TWO_SIZES.format(**fields)
    elif head in ("sequence", "token"):
        fields["labels"] = _labels(file, theirs)
        if not fields["labels"]:
            problem = f"id2label has the keys {', '.join(theirs.get('id2label', {}))}; they must be 0, 1, 2, ..."
    if problem and needs_head:
        raise InputError(f"{file}: {problem}; --config.init_from takes its encoder, without the head")
    if problem:
        say(f"{file}: {problem}; taken without its head")
        head = "none"

    rest = _get(file, theirs, "mux_jax", dict, {})
    if rest:
        check_format(rest.get("format"), file)
        rest = {name: value for name, value in rest.items() if name not in ("format", "task")}
    try:
        return ModelConfig.from_flat(dict(architecture=architecture, head=head) | fields | rest)
    except InputError as e:
        raise InputError(f"{file}: {e}") from e


def _read(file: epath.Path) -> dict[str, Any]:
    """The fields that have a value: null is as good as missing."""
    check_fetched(file)
    try:
        theirs = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise InputError(f"{file}: not a model's configuration: {e}") from e
    if not isinstance(theirs, dict):
        raise InputError(f"{file}: not a model's configuration: no object")
    return {name: value for name, value in theirs.items() if value is not None}


def _get(file: epath.Path, theirs: Mapping[str, Any], field: str, kind: type, default: Any) -> Any:
    """The value of a field, as a `kind`."""
    value = theirs.get(field, default)
    if isinstance(value, int) and kind in (float, bool):
        value = kind(value)
    if not isinstance(value, kind):
        raise InputError(f"{file}: {field} is {value!r}; it must be of type {kind.__name__}")
    return value


def _family(name: str, theirs: Mapping[str, Any]) -> str:
    """bert or electra, or whatever else a model that `name` is the class of says that it is."""
    named = (family for family in FAMILIES if name.removeprefix("Muxed").lower().startswith(family))
    return str(theirs.get("model_type") or next(named, ""))


def _guess_class(folder: epath.Path, theirs: Mapping[str, Any]) -> str:
    """The class of an ordinary model whose configuration does not name it, from the names of its tensors."""
    weights = tensor_files.find(folder)
    names = tensor_files.read_tensors(weights) if weights else {}

    def has(part: str) -> bool:
        return any(part in name for name in names)

    family = theirs.get("model_type") or ("electra" if has("electra.") or has("embeddings_project.") else "bert")
    if family not in FAMILIES or "num_instances" in theirs or not has("embeddings.word_embeddings."):
        raise InputError(f"{folder / CONFIG}: architectures is missing; put the model's class there, one of: {_KNOWN}")
    head = next((head for part, head in _CLASS_OF_TENSOR.items() if has(part)), "Model")
    if head == "ForTokenClassification" and has("pooler."):
        head = "ForSequenceClassification"
    name = family.title() + head
    say(f"{folder / CONFIG}: architectures is missing; taken to be {name}, by the names of the tensors")
    return name


def _shape(file: epath.Path, theirs: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Our fields of sizes and numbers. Those that are missing are printed, with the values they have then."""
    names = {ours: field for ours, (field, _) in _FIELDS.items()}
    if architecture == "electra":
        names["embedding_size"] = "embedding_size"
    types: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(ModelConfig)}
    defaults = DEFAULTS[architecture]
    fields = {ours: _get(file, theirs, field, types[ours], defaults[field]) for ours, field in names.items()}
    missing = [f"{field}={defaults[field]}" for field in names.values() if field not in theirs]
    if missing:
        say(f"{file}: not in it, and so as in transformers: {', '.join(missing)}")
    return {"embedding_size": fields["hidden_size"]} | fields


def _labels(file: epath.Path, theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes; none if their numbers are not 0, 1, 2, ..."""
    unnamed = {str(i): f"LABEL_{i}" for i in range(_get(file, theirs, "num_labels", int, 2))}
    labels = _get(file, theirs, "id2label", dict, unnamed)
    keys = [str(i) for i in range(len(labels))]
    return tuple(str(labels[key]) for key in keys) if labels.keys() == set(keys) else ()


def _variant(
    file: epath.Path, theirs: Mapping[str, Any], field: str, kind: str, table: Mapping[str, type[Variant]]
) -> dict[str, Any]:
    """Our name of a multiplexer or demultiplexer, as `kind`, and its options."""
    known = {cls.released_name: ours for ours, cls in table.items() if cls.released_name}
    if theirs.get(field) not in known:
        raise InputError(f"{file}: {field}={theirs.get(field)!r} is not known here; there are: {', '.join(known)}")
    cls = table[known[theirs[field]]]
    options = {
        name: _get(file, theirs, cls.released_options[name], type(option.default), option.default)
        for name, option in cls.options().items()
        if name in cls.released_options
    }
    return {kind: known[theirs[field]]} | options


def check(config: ModelConfig, where: epath.Path) -> None:
    """Raises `InputError` if a model has no form as a Hugging Face folder."""
    for kind, table in (("multiplexer", MULTIPLEXERS), ("demultiplexer", DEMULTIPLEXERS)):
        name = getattr(config, kind)
        if config.width > 1 and not table[name].released_name:
            known = ", ".join(ours for ours, cls in table.items() if cls.released_name)
            raise InputError(f"{where}: {kind}={name} has no released form; only {known} can be converted")
    if is_electra_lm(config) and config.embedding_size != config.hidden_size:
        raise InputError(f"{where}: {_TWO_SIZES.format(**config.to_flat())}")


def is_electra_lm(config: ModelConfig) -> bool:
    """Whether the model's class is `ElectraForMaskedLM`."""
    return (config.architecture, config.head, config.width) == ("electra", "mlm", 1)


def read_task(folder: epath.Path) -> TaskInfo | None:
    """What `to_json` was given as `task`, out of a `config.json` that `read_config` reads.

    Raises:
      InputError: something else in its place.
    """
    file = folder / CONFIG
    task = _read(file).get("mux_jax", {}).get("task")
    try:
        return TaskInfo.from_json(task) if task else None
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{file}: mux_jax.task={task!r} must have lists, `bucket_lengths` and `text_columns`") from e


def class_name(config: ModelConfig) -> str:
    """The released class of a model."""
    # Theirs has a pooler before the classes of an ordinary BERT; only the multiplexed class has none.
    muxed = "Muxed" if config.width > 1 or (config.architecture, config.head) == ("bert", "sequence") else ""
    return muxed + {value: name for name, value in reversed(_CLASSES.items())}[config.architecture, config.head]


def to_json(config: ModelConfig, task: TaskInfo | None, pad_token_id: int) -> dict[str, Any]:
    """The configuration as theirs; what they have no field for goes under `mux_jax`.

    `task`: of a fine-tuned model.
    """
    result = {
        "architectures": [class_name(config)],
        "model_type": config.architecture,
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "pad_token_id": pad_token_id,
    }
    ours = config.to_flat()
    result |= {field: ours.pop(name) for name, (field, _) in _FIELDS.items()}
    embedding_size = ours.pop("embedding_size")
    if config.architecture == "electra":
        result["embedding_size"] = embedding_size
    if is_electra_lm(config):
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
