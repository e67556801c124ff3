"""Configurations: what the files in `configs/` share, and the checks before any work.

A configuration is an `ml_collections.ConfigDict`. `pretraining` makes one; a config file changes
what is special to its family; the command line changes single fields (`--config.rows=64`).
"""

import dataclasses
from typing import Any

import ml_collections

from mux_jax.errors import InputError
from mux_jax.models.config import SIZES, ModelConfig
from mux_jax.objectives import objectives


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
        dtype="auto",  # matrix products: bfloat16 on TPU and GPU, float32 on CPU
        scan_layers=not tiny,
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
    """Checks what can be checked before any file is read or device used.

    Raises:
      InputError: naming the field and what is allowed.
    """
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
    if config.seed < 0:
        raise InputError(f"seed={config.seed} must not be negative")
    if config.data.workers < -1:
        raise InputError(
            f"data.workers={config.data.workers} must be at least 0, or -1 for a number that fits the host"
        )
    at_least_1 = {
        "rows": config.rows,
        "accumulate": config.accumulate,
        "log_every": config.log_every,
        "eval.every": config.eval.every,
        "eval.batches": config.eval.batches,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep": config.checkpoint.keep,
    }
    for name, stage in stages(config):
        objectives.check(stage, model)
        at_least_1[f"{name}.steps"] = stage.steps
        if not 0 <= stage.warmup_steps <= stage.steps:
            raise InputError(f"{name}.warmup_steps={stage.warmup_steps} must be from 0 to {name}.steps={stage.steps}")
        if not stage.learning_rate > 0:
            raise InputError(f"{name}.learning_rate={stage.learning_rate} must be positive")
        for field in ("mask_fraction", "replace_fraction"):
            if not 0 < stage[field] <= 1:
                raise InputError(f"{name}.{field}={stage[field]} must be in (0, 1]")
    for field, value in at_least_1.items():
        if value < 1:
            raise InputError(f"{field}={value} must be at least 1")
