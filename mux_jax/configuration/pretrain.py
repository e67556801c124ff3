"""The configuration of a pre-training run."""

import dataclasses
from typing import Any

import ml_collections
from ml_collections import config_dict

from mux_jax.configuration.conversion import to_config_dict
from mux_jax.configuration.sections import CheckpointSection, HeldoutSection, MeshSection, OptimizerSection
from mux_jax.data.sections import TextSection
from mux_jax.errors import InputError
from mux_jax.fields import TEXT_OR_LIST, described
from mux_jax.models.config import SIZES, ModelConfig, ModelSettings
from mux_jax.models.demultiplexers import DEMULTIPLEXERS
from mux_jax.models.families import FAMILIES
from mux_jax.models.multiplexers import MULTIPLEXERS
from mux_jax.objectives.stages import PretrainStage, Stage


def _priming() -> Stage:
    return Stage(objective="retrieval", steps=20_000, warmup_steps=2_000)


@dataclasses.dataclass(kw_only=True)
class PretrainConfig:
    """A pre-training run: priming, then pre-training, as the paper has it."""

    name: str = described("pretrain", "of the run's folder: runs/NAME")
    seed: int = described(0, "of everything that is drawn", at_least=0, below=2**32)
    rows: int = described(128, "muxed rows of a step, over all devices; a row holds N sequences", at_least=1)
    grad_accumulation_steps: int = described(1, "parts that a step's rows are taken in, to save memory", at_least=1)
    stages: tuple[str, ...] = described(
        ("priming", "pretraining"), "sections to run, in this order; width 1 is not primed"
    )
    init_from: str = described("", "a run, a Hugging Face folder or an id of its hub to start from")
    model: ModelSettings
    data: TextSection = described(TextSection, "text")
    priming: Stage = described(_priming, "the stage that teaches to tell the instances apart")
    pretraining: PretrainStage = described(PretrainStage, "the stage that teaches language")
    optimizer: OptimizerSection = described(OptimizerSection, "the optimiser")
    mesh: MeshSection = described(MeshSection, "devices")
    log_every: int = described(100, "steps between lines of metrics", at_least=1)
    eval: HeldoutSection = described(HeldoutSection, "evaluation on held-out text")
    checkpoint: CheckpointSection = described(CheckpointSection, "checkpoints")

    def model_config(self, vocab_size: int, cls_token_id: int = 0) -> ModelConfig:
        """The model for a vocabulary of `vocab_size` tokens with this CLS.

        It gets the detection head if its pre-training, run now or later, needs it.
        """
        head = "rtd" if self.pretraining.objective == "rtd" else "mlm"
        return ModelConfig.from_flat(
            self.model.to_flat() | dict(head=head, vocab_size=vocab_size, cls_token_id=cls_token_id)
        )


def pretraining(
    architecture: str, size: str, width: int, multiplexer: str = "gaussian", demultiplexer: str = "rsa", **model: Any
) -> ml_collections.ConfigDict:
    """The configuration of a pre-training run, to be changed by a file in `configs/` and the command line.

    The size `tiny` runs in minutes on two cores; the others take the released hyperparameters.
    """
    sizes = SIZES.get(architecture, SIZES["bert"])
    if size not in sizes:
        raise InputError(f"size={size!r} does not exist; there are: {', '.join(sizes)}")
    tables = (("multiplexer", multiplexer, MULTIPLEXERS), ("demultiplexer", demultiplexer, DEMULTIPLEXERS))
    for kind, name, table in tables:
        if name not in table:
            raise InputError(f"{kind}={name!r} is not known; there are: {', '.join(table)}")
    tiny = size == "tiny"
    settings = dict(
        architecture=architecture,
        width=width,
        **sizes[size],
        max_position_embeddings=(64 if tiny else 512) + FAMILIES[architecture]().position_offset,
        multiplexer=multiplexer,
        demultiplexer=demultiplexer,
        # A short run never sees a sequence twice; dropout would only slow it down.
        hidden_dropout=0.0 if tiny else 0.1,
        attention_dropout=0.0 if tiny else 0.1,
        scan_layers=sizes[size]["num_hidden_layers"] > 4,  # a loop compiles sooner; without one a step is faster
    )
    options = {k: f.default for _, name, table in tables for k, f in table[name].options().items()}
    config = PretrainConfig(
        name=f"mux_{architecture}_{size}_n{width}",
        stages=("priming", "pretraining") if width > 1 else ("pretraining",),
        model=ModelSettings.from_flat(settings | options | model),
    )
    if tiny:
        config.rows, config.log_every = 16, 20
        config.data.source = "pydocs"
        config.data.vocab_size, config.data.sequence_length, config.data.heldout_fraction = 4096, 64, 0.02
        config.priming = dataclasses.replace(config.priming, steps=450, learning_rate=2e-3, warmup_steps=50)
        config.pretraining = PretrainStage(steps=2200, learning_rate=1.5e-3, warmup_steps=50)
        config.eval.every = config.checkpoint.every = 200
    result = to_config_dict(config)
    with result.ignore_type():
        for section in (result.data, *result.data.mixture.values()):
            section.files = config_dict.FieldReference(section.files, TEXT_OR_LIST)
    return result
