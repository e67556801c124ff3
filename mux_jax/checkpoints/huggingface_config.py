"""`config.json` of Hugging Face folders: read, and written under the released names."""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from mux_jax.checkpoints import tensor_files
from mux_jax.checkpoints.runs import FORMAT, check_format
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.errors import InputError
from mux_jax.files import check_fetched
from mux_jax.models.config import ModelConfig
from mux_jax.models.demultiplexers import DEMULTIPLEXERS
from mux_jax.models.families import FAMILIES, Family
from mux_jax.models.multiplexers import MULTIPLEXERS
from mux_jax.models.variant import Variant
from mux_jax.progress import say

CONFIG = "config.json"
_MUXED = "Muxed"

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
# A part of the name of a tensor, and how the class ends that has it; the first that is found counts.
_CLASS_OF_TENSOR = {
    "qa_outputs.": "ForQuestionAnswering",
    "cls.predictions.": "ForMaskedLM",
    "lm_head.": "ForMaskedLM",
    "decoder.bias": "ForMaskedLM",
    "vocab_transform.": "ForMaskedLM",
    "cls.seq_relationship.": "ForNextSentencePrediction",
    "discriminator_predictions.": "ForPreTraining",
    "generator_predictions.": "ForMaskedLM",
    "sequence_summary.": "ForMultipleChoice",
    "pre_classifier.": "ForSequenceClassification",
    "classifier.out_proj.": "ForSequenceClassification",
    "classifier.": "ForTokenClassification",  # or of sequences, if there is a pooler
}
# What is no head: embeddings, encoder, multiplexer, demultiplexer, token retrieval.
BODY = re.compile(
    r"embeddings|encoder\.|transformer\.|layers\.|final_norm\.|instance_embedding|muxing_|demux_|demultiplexer\.|"
    r"retrieval_head\."
)
_HEADLESS = re.compile(rf"({BODY.pattern}|pooler\.)")
_KNOWN = (
    f"{', '.join(cls.class_prefix for cls in FAMILIES.values())}, each with Model, ForMaskedLM, "
    "ForSequenceClassification or ForTokenClassification after it, and Muxed before it where it is multiplexed; "
    "BertForPreTraining, ElectraForPreTraining"
)
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
    classes = _get(file, theirs, "architectures", list, [])
    name = str((classes and classes[0]) or _guess_class(folder, theirs))
    architecture = _family(name, theirs)
    if not architecture:
        code = "; code of its own, which `auto_map` names, is never run" if "auto_map" in theirs else ""
        raise InputError(f"{file}: architectures={name!r} is not known here{code}; there are: {_KNOWN}")
    family = FAMILIES[architecture]
    try:
        theirs = dict(family.as_today(theirs))
    except InputError as e:
        raise InputError(f"{file}: {e}") from e
    for field, only in family.only.items():
        if theirs.get(field, only) != only:
            raise InputError(f"{file}: {field}={theirs[field]!r} is not supported, only {only!r}")
    width = _get(file, theirs, "num_instances", int, 1)
    fields = _shape(file, theirs, family) | {"width": width}
    if width > 1:
        fields.pop("tie_word_embeddings", None)  # as the released ones of the family are
        fields |= _variant(file, theirs, "muxing_variant", "multiplexer", MULTIPLEXERS)
        fields |= _variant(file, theirs, "demuxing_variant", "demultiplexer", DEMULTIPLEXERS)
    head, problem = family.classes.get(name.removeprefix(_MUXED).removeprefix(family.class_prefix), ""), ""
    found = {tensor.removeprefix(family.tensor_prefix) for tensor in _tensor_names(folder)}
    if not head:
        problem = f"{name} has a head that is not known here"
    elif head != "none" and (folder / "modules.json").exists() and all(map(_HEADLESS.match, found)):
        problem, needs_head = f"a model of sentence-transformers; no tensor of the head of {name} is there", False
    elif (head, width) == ("mlm", 1) and fields["embedding_size"] != fields["hidden_size"]:
        problem = _TWO_SIZES.format(**fields)
    elif head in ("sequence", "token"):
        classes, problem = _classes(file, theirs, head)
        fields |= {} if problem else classes
    if problem and needs_head:
        raise InputError(f"{file}: {problem}; --config.init_from takes its encoder, without the head")
    if problem:
        say(f"{file}: {problem}; taken without its head")
        head = "none"
    if "pooler" in family.options() and not name.startswith(_MUXED):
        fields["pooler"] = family.pooler_classifies and head == "sequence" or "pooler.dense.weight" in found

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
    """The family of a class, or else of `model_type`, of which there are many classes; empty if it is none of ours."""
    name = name.removeprefix(_MUXED)
    by_class = (key for key, cls in FAMILIES.items() if name.removeprefix(cls.class_prefix) in cls.classes)
    by_name = (key for key, cls in FAMILIES.items() if name.startswith(cls.class_prefix))
    family = next(by_class, "") or str(theirs.get("model_type") or next(by_name, ""))
    return family if family in FAMILIES else ""


def _guess_class(folder: epath.Path, theirs: Mapping[str, Any]) -> str:
    """The class of an ordinary model whose configuration does not name it, from the names of its tensors."""
    names = _tensor_names(folder)

    def has(part: str) -> bool:
        return any(part in name for name in names)

    by_prefix = (key for key, cls in FAMILIES.items() if any(name.startswith(cls.tensor_prefix) for name in names))
    like_bert = "electra" if has("embeddings_project.") else "bert" if has("token_type_embeddings.") else ""
    family = theirs.get("model_type") or next(by_prefix, like_bert)
    head = next((head for part, head in _CLASS_OF_TENSOR.items() if has(part)), "Model")
    known = family in FAMILIES and "num_instances" not in theirs and (has("word_embeddings.") or has("tok_embeddings."))
    if not known or head not in ("Model", "ForMaskedLM") and has("head.norm."):  # ModernBERT's heads are all alike
        raise InputError(f"{folder / CONFIG}: architectures is missing; put the model's class there: {_KNOWN}")
    if head == "ForTokenClassification" and has("pooler.") and FAMILIES[family].pooler_classifies:
        head = "ForSequenceClassification"
    name = FAMILIES[family].class_prefix + head
    say(f"{folder / CONFIG}: architectures is missing; taken to be {name}, by the names of the tensors")
    return name


def _tensor_names(folder: epath.Path) -> list[str]:
    file = tensor_files.find(folder)
    return tensor_files.names(file) if file else []


def _shape(file: epath.Path, theirs: Mapping[str, Any], family: type[Family]) -> dict[str, Any]:
    """Our fields of sizes and numbers. Those that are missing are printed, with the values they have then."""
    types: dict[str, Any] = {
        field.name: field.type for cls in (ModelConfig, family) for field in dataclasses.fields(cls)
    }
    fields = {ours: _get(file, theirs, field, types[ours], default) for ours, (field, default) in family.fields.items()}
    options = family.options()
    missing = [
        f"{field}={default}"
        for ours, (field, default) in family.fields.items()
        if field not in theirs and ours not in options
    ]
    if missing:
        say(f"{file}: not in it, and so as in transformers: {', '.join(missing)}")
    return {"embedding_size": fields["hidden_size"]} | fields


def _classes(file: epath.Path, theirs: Mapping[str, Any], head: str) -> tuple[dict[str, Any], str]:
    """Our fields of the classes of a head; what keeps it from being read, or nothing."""
    unnamed = {str(i): f"LABEL_{i}" for i in range(_get(file, theirs, "num_labels", int, 2))}
    labels = _get(file, theirs, "id2label", dict, unnamed)
    keys = [str(i) for i in range(len(labels))]
    if labels.keys() != set(keys):
        return {}, f"id2label has the keys {', '.join(labels)}; they must be 0, 1, 2, ..."
    if len(set(map(str, labels.values()))) < len(labels):
        return {}, "id2label has two classes of one name"
    kind = theirs.get("problem_type") if head == "sequence" else None
    if kind == "regression" and len(keys) > 1:
        return {}, f"problem_type={kind} has {len(keys)} labels; only one is supported"
    multi_label = kind == "multi_label_classification" and len(keys) > 1
    return {"labels": tuple(str(labels[key]) for key in keys), "multi_label": multi_label}, ""


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
    if (config.head, config.width) == ("mlm", 1) and config.embedding_size != config.hidden_size:
        raise InputError(f"{where}: {_TWO_SIZES.format(**config.to_flat())}")
    if _head(config) not in config.family.classes.values():
        raise InputError(f"{where}: {config.architecture} has no class with the head {config.head!r}")


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


def _head(config: ModelConfig) -> str:
    """The head that the class of `transformers` has: that of embeddings is in modules of its own."""
    return "none" if config.head == "embedding" else config.head


def class_name(config: ModelConfig) -> str:
    """The released class of a model."""
    family = config.family
    # Theirs has a pooler before the classes of an ordinary BERT; only the multiplexed class has none.
    no_pooler = family.pooler_classifies and config.head == "sequence" and not family.pooler
    end = next(end for end, head in family.classes.items() if head == _head(config))
    return (_MUXED if config.width > 1 or no_pooler else "") + family.class_prefix + end


def to_json(config: ModelConfig, task: TaskInfo | None, pad_token_id: int) -> dict[str, Any]:
    """The configuration as theirs; what they have no field for goes under `mux_jax`.

    `task`: of a fine-tuned model.
    """
    family, ours = config.family, config.to_flat()
    result = {"architectures": [class_name(config)], "model_type": config.architecture, "pad_token_id": pad_token_id}
    known = [name for name in family.fields if config.width == 1 or name != "tie_word_embeddings"]
    result |= {**family.only} | {family.fields[name][0]: ours.pop(name) for name in known}
    if "embedding_size" not in family.fields:
        del ours["embedding_size"]
    if config.labels:
        result["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
        result["label2id"] = {label: i for i, label in enumerate(config.labels)}
    if config.multi_label:
        result["problem_type"] = "multi_label_classification"
    if config.width > 1:
        result |= {"num_instances": ours.pop("width")} | _RELEASED_DEFAULTS
        for kind, field, table in (
            ("multiplexer", "muxing_variant", MULTIPLEXERS),
            ("demultiplexer", "demuxing_variant", DEMULTIPLEXERS),
        ):
            cls = table[ours.pop(kind)]
            result[field] = cls.released_name
            result |= {theirs: ours.pop(name) for name, theirs in cls.released_options.items()}
    for name in ("architecture", "head", "labels", "multi_label", "pooling", "projections", "normalize"):
        del ours[name]
    ours |= {"format": FORMAT} | ({"task": task.to_json()} if task else {})
    return result | {"mux_jax": ours}
