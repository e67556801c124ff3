"""Configurations: what the files in `configs/` share, and the checks before any work.

A configuration is an `ml_collections.ConfigDict`. `pretraining` makes one; a config file changes
what is special to its family; the command line changes single fields (`--config.rows=64`).
"""

import dataclasses
import math
from typing import Any

import ml_collections

from mux_jax.data.rows import ROW_LENGTHS, lengths_up_to
from mux_jax.data.tasks import get_task
from mux_jax.errors import InputError
from mux_jax.metrics import OF_KIND
from mux_jax.models.config import SIZES, ModelConfig
from mux_jax.objectives import objectives
from mux_jax.progress import say

# The fields of a model that the embeddings and encoder it starts from decide.
_BACKBONE_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "embedding_size",
    "max_position_embeddings",
    "layer_norm_eps",
)
# Those that a multiplexed model keeps when it is fine-tuned, and what an ordinary one gets.
_MULTIPLEXING_FIELDS = dict(width=1, multiplexer="gaussian", demultiplexer="rsa", num_demux_layers=3, key_norm=1.0)


def parse_arguments(argument: str | None, **defaults: Any) -> dict[str, Any]:
    """Parses what follows the colon of `--config=FILE:size=base,width=5`.

    Each name must be one of `defaults`; its default's type is the type it is read as.

    Raises:
      InputError: an unknown name, or a value of another type.
    """
    values = dict(defaults)
    for item in filter(None, (argument or "").split(",")):
        name, equals, text = item.partition("=")
        if name not in defaults or not equals:
            allowed = ", ".join(f"{k}={v}" for k, v in defaults.items())
            raise InputError(f"config argument {item!r} is unknown; there are (with defaults): {allowed}")
        try:
            values[name] = type(defaults[name])(text)
        except ValueError as e:
            raise InputError(f"config argument {item!r}: {name} is of type {type(defaults[name]).__name__}") from e
    return values


def pretraining(architecture: str, size: str, width: int, **model: Any) -> ml_collections.ConfigDict:
    """The configuration of a pre-training run: priming, then pre-training, as the paper has it.

    The size `tiny` runs in minutes on two cores; the others take the released hyperparameters.
    """
    sizes = SIZES[architecture]
    if size not in sizes:
        raise InputError(f"size={size!r} does not exist; there are: {', '.join(sizes)}")
    tiny = size == "tiny"
    config = ml_collections.ConfigDict()
    config.name = f"mux_{architecture}_{size}_n{width}"
    config.seed = 0
    # Muxed rows of a step, over all devices; a row holds `width` sequences.
    config.rows = 16 if tiny else 128
    config.accumulate = 1  # parts that a step's rows are taken in, to save memory
    # The stages to run, in this order, by the names of their sections below. Width 1 has nothing
    # to separate and is not primed.
    config.stages = ("priming", "pretraining") if width > 1 else ("pretraining",)
    config.init = ""  # a run, a Hugging Face folder or an id of its hub to start from

    config.model = dict(
        architecture=architecture,
        width=width,
        **sizes[size],
        max_position_embeddings=64 if tiny else 512,
        multiplexer="gaussian",
        demultiplexer="rsa",
        num_demux_layers=2,
        key_norm=1.0,
        learn_keys=False,
        binary_epsilon=0.0,
        prefix_token_id=680,
        generator="uniform",
        generator_scale=0.25,
        # A short run never sees a sequence twice; dropout would only slow it down.
        hidden_dropout=0.0 if tiny else 0.1,
        attention_dropout=0.0 if tiny else 0.1,
        layer_norm_eps=1e-12,
        dtype="auto",  # matrix products: bfloat16 on TPU and GPU, float32 on CPU (bfloat16 is faster where it has AMX)
        scan_layers=sizes[size]["num_hidden_layers"] > 4,  # a loop compiles sooner; without one a step is faster
        remat=False,
    )
    config.model.update(model)

    config.data = dict(
        source="pydocs",  # pydocs, files, tfds or mixture
        files="",  # globs, separated by commas: books/*.txt.gz,news.jsonl
        tfds_name="",
        tfds_split="train",
        tfds_dir="",  # default: ~/tensorflow_datasets
        text_field="text",  # field of .jsonl, column of .parquet, feature of TFDS
        # What source=mixture draws from: sections of the fields above, each with a weight.
        mixture=dict(
            wikipedia=_source(0.8, source="tfds", tfds_name="wikipedia/20230601.en"),
            books=_source(0.2, source="files", files="books/*.txt"),
        ),
        tokenizer="",  # vocab.txt or tokenizer.json; empty: train one on the source
        vocab_size=4096 if tiny else 30522,  # of a trained tokenizer
        sequence_length=64 if tiny else 512,
        heldout_fraction=0.02 if tiny else 0.005,
        cache_dir="",  # default: ~/.cache/mux_jax, or MUX_JAX_CACHE
        workers=-1,  # processes that load data; -1: 4 on hosts of 16 cores and more, else none
    )

    config.priming = dict(
        objective="retrieval",
        steps=450 if tiny else 20_000,
        learning_rate=2e-3 if tiny else 1e-4,
        warmup_steps=50 if tiny else 2_000,
    )
    config.pretraining = dict(
        objective="mlm",
        steps=2200 if tiny else 980_000,
        learning_rate=1.5e-3 if tiny else 1e-4,
        warmup_steps=50 if tiny else 10_000,
    )
    for stage in (config.priming, config.pretraining):
        stage.mask_fraction = 0.15  # of the tokens are predicted
        stage.replace_fraction = 0.85  # of those are replaced, in replaced-token detection
        stage.task_coefficient = 0.9
        stage.retrieval_coefficient = 0.1
        stage.detection_weight = 50.0

    config.optimizer = dict(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=1.0)
    config.mesh = dict(data=-1, fsdp=1, tensor=1)  # -1: the devices that the others leave
    config.log_every = 20 if tiny else 100
    config.eval = dict(every=200 if tiny else 10_000, batches=16)
    config.checkpoint = dict(every=200 if tiny else 5_000, keep=2)
    return config


def finetuning(task: str, data: str, width: int) -> ml_collections.ConfigDict:
    """The configuration of a fine-tuning run: one stage, judged by the task's metric."""
    config = ml_collections.ConfigDict()
    config.name = f"finetuned_{task}"
    config.seed = 0
    config.rows = 32  # muxed rows of a step, over all devices
    config.accumulate = 1
    config.stages = ("finetuning",)
    config.init = ""  # a run, a Hugging Face folder or an id of its hub to start from
    config.teacher = ""  # an ordinary model fine-tuned on the task, to learn from (distillation)

    # Zero and empty: as in `init`; where that is an ordinary model, width 1, gaussian, rsa, 3, 1.0. A multiplexed
    # one may get other num_demux_layers: the paper pre-trains with 2 and fine-tunes with 3.
    config.model = dict(
        width=width,
        multiplexer="",
        demultiplexer="",
        num_demux_layers=0,
        key_norm=0.0,
        hidden_dropout=0.1,
        attention_dropout=0.1,
        dtype="auto",
        scan_layers=True,
        remat=False,
    )
    config.data = dict(
        task=task,
        folder=data,  # with files train and dev; empty: TensorFlow Datasets
        tfds_dir="",
        unlabelled="",  # a file of texts that the teacher alone labels; empty: training texts joined at random
        # Of task=custom:
        kind="sequence",  # sequence, regression or token
        text_columns="text",  # one, or two of a pair: premise,hypothesis
        label_column="label",
        metric="",  # default: accuracy, or pearson_spearman for regression
        tokenizer="",  # vocab.txt or tokenizer.json, if init has none
        sequence_length=128,  # the longest; longer texts are cut
        lengths=",".join(map(str, ROW_LENGTHS)),  # of rows: the smallest that holds a row's texts
        workers=0,
    )
    known = get_task(config.data) if task != "custom" else None
    config.finetuning = dict(
        objective="classification",
        steps=known.steps if known else 2_000,
        learning_rate=5e-4 if known and known.embedded else 5e-5,
        warmup_steps=-1,  # -1: a tenth of the steps
        task_coefficient=0.9,
        retrieval_coefficient=0.0,  # above 0: token retrieval is an auxiliary loss
        # With a teacher: the part of its loss, the labels' has the rest, and what divides the logits in it.
        distillation_coefficient=0.9,
        temperature=2.0,
    )
    config.compositions = 5  # draws of which examples share rows, that the final score is over
    config.ensemble = 1  # slots that each example is put in when it is evaluated
    config.patience = 0  # evaluations without a better score that end the run; 0: none do
    config.optimizer = dict(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=1.0)
    config.mesh = dict(data=-1, fsdp=1, tensor=1)
    config.log_every = 20
    config.eval = dict(every=-1)  # -1: a tenth of the steps
    config.checkpoint = dict(every=-1, keep=1)
    return config


def is_finetuning(config: ml_collections.ConfigDict) -> bool:
    return "task" in config.data


def resolve(config: ml_collections.ConfigDict, init: ModelConfig | None) -> None:
    """Puts what follows from other fields, and from the model that a run starts from, into a configuration.

    Sizes and limits that the model changes are printed.

    Raises:
      InputError: multiplexing that is not that of the model to fine-tune, or no model to start from.
    """
    if is_finetuning(config):
        if init is None:
            raise InputError("fine-tuning starts from a model: --config.init=RUN, a Hugging Face folder or a hub id")
        for name, default in _MULTIPLEXING_FIELDS.items():
            given, known = config.model[name], getattr(init, name) if init.width > 1 else default
            if init.width > 1 and given not in ("", 0, known) and name != "num_demux_layers":
                raise InputError(f"model.{name}={given}, but init={config.init} has {name} {known}")
            config.model[name] = given or known
        tenth = max(1, config.finetuning.steps // 10)
        for section, name in (
            (config.finetuning, "warmup_steps"),
            (config.eval, "every"),
            (config.checkpoint, "every"),
        ):
            section[name] = tenth if section[name] == -1 else section[name]
        room = init.max_position_embeddings - task_model(config, init, ("", "")).prefix_length
        if config.data.sequence_length > room:
            say(f"data.sequence_length={room}: the model has no positions for {config.data.sequence_length}")
            config.data.sequence_length = room
    elif init is not None:
        fields = {name: getattr(init, name) for name in _BACKBONE_FIELDS}
        if init.width > 1 and init.demultiplexer == config.model.demultiplexer:
            fields["num_demux_layers"] = init.num_demux_layers  # all of them are one function
        changed = [f"{name}={value}" for name, value in fields.items() if config.model[name] != value]
        config.model.update(fields)
        if changed:
            say(f"init: model sizes as in {config.init}: {', '.join(changed)}")


def row_lengths(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """The lengths that rows of a task may have, ascending; the last is `data.sequence_length`."""
    try:
        lengths = [int(n) for n in str(config.data.lengths).split(",")]
    except ValueError as e:
        raise InputError(f"data.lengths={config.data.lengths!r} must be numbers, separated by commas") from e
    return lengths_up_to(config.data.sequence_length, lengths)


def task_model(config: ml_collections.ConfigDict, init: ModelConfig, labels: tuple[str, ...]) -> ModelConfig:
    """The model to fine-tune: that of `init` with the head of the task."""
    head = "token" if get_task(config.data).kind == "token" else "sequence"
    return dataclasses.replace(init, head=head, labels=labels, generator="uniform", **config.model)


def _source(weight: float, **fields: Any) -> dict[str, Any]:
    """A component of a mixture."""
    empty = dict(source="files", files="", tfds_name="", tfds_split="train", tfds_dir="", text_field="text")
    return dict(weight=weight) | empty | fields


def stages(config: ml_collections.ConfigDict) -> list[tuple[str, ml_collections.ConfigDict]]:
    """The stages to run, (name, section), in order."""
    names = [name.strip() for entry in config.stages for name in str(entry).split(",")]
    sections = [k for k, v in config.items() if isinstance(v, ml_collections.ConfigDict) and "objective" in v]
    for name in names:
        if name not in sections:
            raise InputError(f"stages={name!r} does not exist; there are: {', '.join(sections)}")
    if len(set(names)) < len(names) or not names:
        raise InputError(f"stages={','.join(names)!r} must name each stage once, and at least one")
    return [(name, config[name]) for name in names]


def model_config(config: ml_collections.ConfigDict, vocab_size: int, cls_token_id: int = 0) -> ModelConfig:
    """The model that a configuration describes, for a vocabulary of `vocab_size` tokens with that CLS.

    It gets the detection head if any of the sections of stages (run now or not) needs it.
    """
    objectives = {v.objective for v in config.values() if isinstance(v, ml_collections.ConfigDict) and "objective" in v}
    head = "rtd" if "rtd" in objectives else "mlm"
    unknown = set(config.model) - {field.name for field in dataclasses.fields(ModelConfig)}
    if unknown:
        raise InputError(f"model has no field {', '.join(sorted(unknown))}")
    return ModelConfig(head=head, vocab_size=vocab_size, cls_token_id=cls_token_id, **config.model)


def check(config: ml_collections.ConfigDict) -> None:
    """Checks what can be checked before any file of data is read or device used.

    Raises:
      InputError: naming the field and what is allowed.
    """
    at_least_1 = {
        "rows": config.rows,
        "accumulate": config.accumulate,
        "log_every": config.log_every,
        "eval.every": config.eval.every,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep": config.checkpoint.keep,
    }
    at_least_0 = {  # each with what it must be below
        "seed": (config.seed, 2**32),
        "optimizer.b1": (config.optimizer.b1, 1),
        "optimizer.b2": (config.optimizer.b2, 1),
        "optimizer.weight_decay": (config.optimizer.weight_decay, math.inf),
    }
    if is_finetuning(config):
        at_least_1 |= _check_task(config)
        width = config.model.width
    else:
        model = _check_pretraining(config)
        at_least_1["eval.batches"] = config.eval.batches
        width = model.width
    if not config.optimizer.clip_norm > 0:
        raise InputError(f"optimizer.clip_norm={config.optimizer.clip_norm} must be positive")
    if config.data.workers < -1:
        raise InputError(
            f"data.workers={config.data.workers} must be at least 0, or -1 for a number that fits the host"
        )
    for name, stage in stages(config):
        objectives.check(stage, width)
        at_least_1[f"{name}.steps"] = stage.steps
        if not 0 <= stage.warmup_steps <= stage.steps:
            raise InputError(f"{name}.warmup_steps={stage.warmup_steps} must be from 0 to {name}.steps={stage.steps}")
        if not 0 < stage.learning_rate < math.inf:
            raise InputError(f"{name}.learning_rate={stage.learning_rate} must be positive and finite")
        for field in ("mask_fraction", "replace_fraction"):
            if field in stage and not 0 < stage[field] <= 1:
                raise InputError(f"{name}.{field}={stage[field]} must be in (0, 1]")
        for field in ("task_coefficient", "retrieval_coefficient", "detection_weight"):
            if field in stage:
                at_least_0[f"{name}.{field}"] = (stage[field], math.inf)
    for field, value in at_least_1.items():
        if value < 1:
            raise InputError(f"{field}={value} must be at least 1")
    for field, (value, end) in at_least_0.items():
        if not 0 <= value < end:
            raise InputError(f"{field}={value} must be in [0, {end})")


def _check_pretraining(config: ml_collections.ConfigDict) -> ModelConfig:
    model = model_config(config, vocab_size=config.data.vocab_size)
    length = config.data.sequence_length
    if length - model.prefix_length < 8:
        prefix = f": the prefix takes {model.prefix_length}" if model.prefix_length else ""
        raise InputError(f"data.sequence_length={length} must be at least {8 + model.prefix_length}{prefix}")
    if length > model.max_position_embeddings:
        raise InputError(
            f"data.sequence_length={length} is longer than "
            f"model.max_position_embeddings={model.max_position_embeddings}"
        )
    if not 0 < config.data.heldout_fraction < 1:
        raise InputError(f"data.heldout_fraction={config.data.heldout_fraction} must be in (0, 1)")
    if config.data.vocab_size < 100:
        raise InputError(f"data.vocab_size={config.data.vocab_size} must be at least 100")
    return model


def _check_task(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Checks what only tasks have; returns what must be at least 1."""
    task = get_task(config.data)
    if task.metric not in OF_KIND[task.kind]:
        raise InputError(f"data.metric={task.metric!r}: a {task.kind} task has {', '.join(OF_KIND[task.kind])}")
    if config.data.sequence_length < 8:
        raise InputError(f"data.sequence_length={config.data.sequence_length} must be at least 8")
    row_lengths(config)
    if not 1 <= config.ensemble <= config.model.width:
        raise InputError(f"ensemble={config.ensemble} must be from 1 to model.width={config.model.width}")
    if config.patience < 0:
        raise InputError(f"patience={config.patience} must not be negative")
    if config.data.unlabelled and not config.teacher:
        raise InputError(f"data.unlabelled={config.data.unlabelled} needs a teacher: --config.teacher=RUN")
    stage = config.finetuning
    if not 0 <= stage.distillation_coefficient <= 1:
        raise InputError(f"finetuning.distillation_coefficient={stage.distillation_coefficient} must be from 0 to 1")
    if not stage.temperature > 0:
        raise InputError(f"finetuning.temperature={stage.temperature} must be positive")
    return {"compositions": config.compositions}
