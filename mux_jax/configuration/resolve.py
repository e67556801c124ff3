"""From what a person wrote to what a run does: fields that follow from others and from the model it starts from."""

import dataclasses

import ml_collections

from mux_jax.configuration.check import check
from mux_jax.configuration.conversion import from_mapping
from mux_jax.configuration.finetune import FinetuneConfig
from mux_jax.configuration.pretrain import PretrainConfig
from mux_jax.data.tasks import get_task
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.families import FAMILIES
from mux_jax.progress import say

RunConfig = PretrainConfig | FinetuneConfig

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
# What an ordinary model is multiplexed with when it is fine-tuned; the paper fine-tunes with three layers.
_ORDINARY = dict(width=1, multiplexer="gaussian", demultiplexer="rsa")
_ORDINARY_OPTIONS = dict(num_demux_layers=3)


def is_finetuning(config: ml_collections.ConfigDict | RunConfig) -> bool:
    """Whether this is the configuration of fine-tuning, not of pre-training."""
    return isinstance(config, FinetuneConfig) or (not isinstance(config, PretrainConfig) and "task" in config.data)


def read(config: ml_collections.ConfigDict) -> RunConfig:
    """A configuration with types, as it was written.

    Raises:
      InputError: a field that does not exist, or of another type.
    """
    return from_mapping(FinetuneConfig, config) if is_finetuning(config) else from_mapping(PretrainConfig, config)


def resolve(config: ml_collections.ConfigDict, init: ModelConfig | None = None) -> RunConfig:
    """What a run does: the fields that were written and those that follow, checked.

    Sizes and limits that the model changes are printed.

    Args:
      init: the model that the run starts from.

    Raises:
      InputError: a field that does not exist or has a wrong value, multiplexing that `init` does not have, or no
        model to fine-tune.
    """
    found = read(config)
    if isinstance(found, FinetuneConfig):
        if init is None:
            raise InputError(
                "fine-tuning starts from a model: --config.init_from=RUN, a Hugging Face folder or a hub id"
            )
        _resolve_finetuning(found, init)
    elif init is not None:
        _take_backbone(found, init)
    check(found)
    return found


def _resolve_finetuning(config: FinetuneConfig, init: ModelConfig) -> None:
    muxed = init.width > 1
    for name, default in _ORDINARY.items():
        given, known = getattr(config.model, name), getattr(init, name) if muxed else default
        if muxed and given not in ("", 0, known):
            raise InputError(f"model.{name}={given}, but init_from={config.init_from} has {name} {known}")
        setattr(config.model, name, given or known)
    kept = dict(init.options) if muxed else init.family_options(config.model.width)
    for name, value in config.model.options.items():
        # Its layers may be more or fewer: the paper pre-trains with two and fine-tunes with three.
        if muxed and value != kept.get(name, value) and name != "num_demux_layers":
            raise InputError(f"model.{name}={value}, but init_from={config.init_from} has {name} {kept[name]}")
    if not muxed and config.model.demultiplexer == "rsa":
        config.model.options = _ORDINARY_OPTIONS | config.model.options
    if get_task(config.data).kind == "embedding" and config.finetuning.objective == "classification":
        config.finetuning.objective = "embedding"
    tenth = max(1, config.finetuning.steps // 10)
    for section, name in ((config.finetuning, "warmup_steps"), (config.eval, "every"), (config.checkpoint, "every")):
        if getattr(section, name) == -1:
            setattr(section, name, tenth)
    room = init.max_length - config.task_model(init, ("", "")).prefix_length
    if config.data.sequence_length > room:
        say(f"data.sequence_length={room}: the model has no positions for {config.data.sequence_length}")
        config.data.sequence_length = room


def _take_backbone(config: PretrainConfig, init: ModelConfig) -> None:
    fields = {name: getattr(init, name) for name in _BACKBONE_FIELDS}
    options = dict(config.model.options)
    family = FAMILIES[config.model.architecture]
    own = {name: options.pop(name) for name in family.options() if name in options}
    if family(**own).encodes_like(init.family):
        fields |= own
    else:
        fields |= {"architecture": init.architecture} | init.family_options(config.model.width)
    config.model = dataclasses.replace(config.model, options=tuple(options.items()))
    if init.width > 1 and init.demultiplexer == config.model.demultiplexer:
        depth = dict(init.options).get("num_demux_layers")
        fields |= {"num_demux_layers": depth} if depth else {}  # all of them are one function
    before = config.model.to_flat()
    changed = [f"{name}={value}" for name, value in fields.items() if before.get(name) != value]
    config.model = type(config.model).from_flat(before | fields)
    if changed:
        say(f"init_from: model sizes as in {config.init_from}: {', '.join(changed)}")
