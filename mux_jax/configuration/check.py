"""Checks before any file of data is read or device used."""

import dataclasses
from typing import Any

from mux_jax.configuration.finetune import FinetuneConfig
from mux_jax.configuration.pretrain import PretrainConfig
from mux_jax.data.formats import parse_delimiter
from mux_jax.data.labels import parse_names
from mux_jax.data.metrics import OF_KIND
from mux_jax.data.sections import TaskSection
from mux_jax.data.tasks import check_place, get_task
from mux_jax.errors import InputError
from mux_jax.fields import check_fields
from mux_jax.models.config import ModelSettings
from mux_jax.objectives import objectives
from mux_jax.objectives.stages import FinetuneStage, Stage


def stages(config: PretrainConfig | FinetuneConfig) -> list[tuple[str, Any]]:
    """The stages to run, (name, section), in order.

    Raises:
      InputError: a name that is no stage, the same one twice, or none at all.
    """
    names = [name.strip() for entry in config.stages for name in str(entry).split(",")]
    sections = [f.name for f in dataclasses.fields(config) if isinstance(getattr(config, f.name), Stage)]
    for name in names:
        if name not in sections:
            raise InputError(f"stages={name!r} does not exist; there are: {', '.join(sections)}")
    if len(set(names)) < len(names) or not names:
        raise InputError(f"stages={','.join(names)!r} must name each stage once, and at least one")
    return [(name, getattr(config, name)) for name in names]


def check(config: PretrainConfig | FinetuneConfig) -> None:
    """Checks a resolved configuration.

    Raises:
      InputError: naming the field and what is allowed.
    """
    _check_sections(config)
    if isinstance(config, FinetuneConfig):
        _check_task(config)
    else:
        _check_pretraining(config)
    for name, stage in stages(config):
        objectives.check(stage, config.model.width)
        if not 0 <= stage.warmup_steps <= stage.steps:
            raise InputError(f"{name}.warmup_steps={stage.warmup_steps} must be from 0 to {name}.steps={stage.steps}")


def _check_sections(section: Any, prefix: str = "") -> None:
    """Checks every field of a configuration against its description."""
    check_fields(section, prefix)
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        parts = value.items() if isinstance(value, dict) and field.name != "options" else [("", value)]
        for key, part in parts:
            # The model is checked whole, by ModelConfig.
            if dataclasses.is_dataclass(part) and not isinstance(part, ModelSettings):
                _check_sections(part, f"{prefix}{field.name}." + (f"{key}." if key else ""))


def _check_pretraining(config: PretrainConfig) -> None:
    for name, stage in stages(config):
        if stage.objective in ("classification", "embedding"):
            raise InputError(f"{name}.objective={stage.objective!r} is for fine-tuning: configs/finetune.py")
    model = config.model_config(vocab_size=config.data.vocab_size)
    length = config.data.sequence_length
    if length - model.prefix_length < 8:
        prefix = f": the prefix takes {model.prefix_length}" if model.prefix_length else ""
        raise InputError(f"data.sequence_length={length} must be at least {8 + model.prefix_length}{prefix}")
    if length > model.max_length:
        raise InputError(
            f"data.sequence_length={length} is longer than the {model.max_length} positions that the model has"
        )


def _check_pairs(config: FinetuneConfig, columns: int) -> None:
    texts, stage = config.rows * config.model.width, config.finetuning
    if texts // columns < 2:
        raise InputError(
            f"rows={config.rows} of {config.model.width} texts hold {texts // columns} examples of {columns} texts; a "
            "batch needs two or more"
        )
    for field, value, default in (
        ("data.label_column", config.data.label_column, TaskSection.label_column),
        ("finetuning.temperature", stage.temperature, FinetuneStage.temperature),
    ):
        if value != default:
            raise InputError(f"{field}={value} is not for embeddings; leave it out")
    if config.grad_accumulation_steps > 1:
        raise InputError(
            f"grad_accumulation_steps={config.grad_accumulation_steps}: texts are told from all others of their batch, "
            "which cannot be taken in parts"
        )
    if config.data.unlabelled:
        raise InputError(
            f"data.unlabelled={config.data.unlabelled}: launch/compress.py teaches embeddings by such texts"
        )


def _check_task(config: FinetuneConfig) -> None:
    task = get_task(config.data)
    check_place(config.data)
    if task.metric not in OF_KIND[task.kind]:
        raise InputError(f"data.metric={task.metric!r}: a task of kind {task.kind} has {', '.join(OF_KIND[task.kind])}")
    parse_delimiter(config.data.delimiter, "data.delimiter")
    if parse_names(config.data.labels) and task.kind in ("regression", "embedding"):
        raise InputError(f"data.labels={config.data.labels!r}: a task of kind {task.kind} has no labels")
    wanted = "embedding" if task.kind == "embedding" else "classification"
    if config.finetuning.objective != wanted:
        raise InputError(
            f"finetuning.objective={config.finetuning.objective!r} must be {wanted!r} for kind={task.kind}"
        )
    if task.kind == "embedding":
        _check_pairs(config, len(task.text))
    config.bucket_lengths()
    config.class_weights()
    if config.finetuning.class_weights and task.kind in ("regression", "embedding"):
        raise InputError(
            f"finetuning.class_weights={config.finetuning.class_weights!r}: a task of kind {task.kind} has no classes"
        )
    if task.kind == "multi_label" and config.finetuning.class_weights:
        raise InputError(
            f"finetuning.class_weights={config.finetuning.class_weights!r}: a multi_label task has none; "
            "each of its labels is a yes or no of its own"
        )
    if task.kind != "multi_label" and config.threshold != 0.5:
        raise InputError(f"threshold={config.threshold}: a {task.kind} task has none, only multi_label")
    if not 1 <= config.ensemble <= config.model.width:
        raise InputError(f"ensemble={config.ensemble} must be from 1 to model.width={config.model.width}")
    if config.data.unlabelled and not config.teacher:
        raise InputError(f"data.unlabelled={config.data.unlabelled} needs a teacher: --config.teacher=RUN")
