"""The configuration of a fine-tuning run."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import ml_collections
from ml_collections import config_dict

from mux_jax.configuration.conversion import to_config_dict
from mux_jax.configuration.sections import CheckpointSection, EvalSection, MeshSection, OptimizerSection
from mux_jax.data.rows import lengths_up_to
from mux_jax.data.sections import TaskSection
from mux_jax.data.tasks import get_task
from mux_jax.errors import InputError
from mux_jax.fields import described
from mux_jax.models.config import ATTENTIONS, DTYPES, ModelConfig
from mux_jax.models.demultiplexers import DEMULTIPLEXERS
from mux_jax.models.multiplexers import MULTIPLEXERS
from mux_jax.objectives.stages import FinetuneStage


@dataclasses.dataclass(kw_only=True)
class FinetuneModelSettings:
    """What fine-tuning may change of the model that it starts from.

    Attributes:
      options: of the multiplexer and demultiplexer, by name; those that are absent are as in `init_from`.
    """

    width: int = described(0, "N; 0: as in init_from, and 1 of an ordinary model", at_least=0)
    multiplexer: str = described("", "empty: as in init_from, and gaussian of an ordinary model")
    demultiplexer: str = described("", "empty: as in init_from, and rsa of an ordinary model")
    hidden_dropout: float = described(0.1, "dropout of states", at_least=0, below=1)
    attention_dropout: float = described(0.1, "dropout of attention weights", at_least=0, below=1)
    dtype: str = described(
        "auto", "of products in training; auto: bfloat16 on TPU and GPU, float32 on CPU", one_of=DTYPES
    )
    attention: str = described(
        "auto",
        "fused: in one kernel, for rows of 128, 256, 384 or 512 positions, others are plain; auto: fused on TPU",
        one_of=ATTENTIONS,
    )
    scan_layers: bool = described(True, "whether layers run in a loop, which compiles sooner and runs slower on CPU")
    remat: bool = described(False, "whether layers are recomputed in the backward pass, to save memory")
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_flat(cls, fields: Mapping[str, Any]) -> Self:
        """Makes one of a flat mapping, in which options stand among the other fields; None is absent."""
        known = {field.name for field in dataclasses.fields(cls)} - {"options"}
        options = {name: value for name, value in fields.items() if name not in known and value is not None}
        return cls(options=options, **{k: v for k, v in fields.items() if k in known})

    def to_flat(self) -> dict[str, Any]:
        """The inverse of `from_flat`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | fields.pop("options")


def _eval() -> EvalSection:
    return EvalSection(every=-1)


def _checkpoint() -> CheckpointSection:
    return CheckpointSection(every=-1, keep=1)


@dataclasses.dataclass(kw_only=True)
class FinetuneConfig:
    """A fine-tuning run: one stage, judged by the task's metric. -1 in `every` is a tenth of the steps."""

    name: str = described("finetuned_docstrings", "of the run's folder: runs/NAME")
    seed: int = described(0, "of everything that is drawn", at_least=0, below=2**32)
    rows: int = described(32, "muxed rows of a step, over all devices; a row holds N texts", at_least=1)
    grad_accumulation_steps: int = described(1, "parts that a step's rows are taken in, to save memory", at_least=1)
    stages: tuple[str, ...] = described(("finetuning",), "sections to run: this one")
    init_from: str = described("", "a run, a Hugging Face folder or an id of its hub to start from")
    teacher: str = described("", "an ordinary model of the same kind to learn from (distillation)")
    model: FinetuneModelSettings = described(FinetuneModelSettings, "what changes of the model")
    data: TaskSection = described(TaskSection, "the task")
    finetuning: FinetuneStage = described(FinetuneStage, "the stage")
    num_compositions: int = described(5, "draws of which texts share rows, that the final score is over", at_least=1)
    ensemble: int = described(1, "slots that each text is put in when it is evaluated, up to N", at_least=1)
    threshold: float = described(
        0.5, "of data.kind=multi_label: the probability from which on a text has a label", above=0, below=1
    )
    patience: int = described(0, "evaluations without a better score that end the run; 0: none do", at_least=0)
    optimizer: OptimizerSection = described(OptimizerSection, "the optimiser")
    mesh: MeshSection = described(MeshSection, "devices")
    log_every: int = described(20, "steps between lines of metrics", at_least=1)
    eval: EvalSection = described(_eval, "evaluation on the dev set")
    checkpoint: CheckpointSection = described(_checkpoint, "checkpoints")

    def bucket_lengths(self) -> tuple[int, ...]:
        """The lengths that rows may have, ascending; the last is `data.sequence_length`."""
        given = self.data.bucket_lengths
        try:
            lengths = [int(n) for n in str(given).split(",")]
        except ValueError as e:
            raise InputError(f"data.bucket_lengths={given!r} must be numbers, separated by commas") from e
        return lengths_up_to(self.data.sequence_length, lengths)

    def class_weights(self) -> list[float]:
        """The numbers in `finetuning.class_weights`; none if it is empty or balanced."""
        given = self.finetuning.class_weights
        if given in ("", "balanced"):
            return []
        try:
            weights = [float(x) for x in given.split(",")]
        except ValueError:
            weights = []
        if not any(weights) or not all(0 <= x < math.inf for x in weights):
            raise InputError(
                f"finetuning.class_weights={given!r} must be balanced, or numbers of at least 0, separated by commas, "
                "not all of them 0"
            )
        return weights

    def task_model(self, init: ModelConfig, labels: tuple[str, ...]) -> ModelConfig:
        """The model to fine-tune: `init` with the head of the task."""
        kind = get_task(self.data).kind
        name = kind if kind in ("token", "embedding") else "sequence"
        head = dict(head=name, labels=labels, multi_label=kind == "multi_label")
        head |= dict(labels=()) if kind == "embedding" else dict(projections=())
        kept, width = init.to_flat(), self.model.width
        if (init.multiplexer, init.demultiplexer) != (self.model.multiplexer, self.model.demultiplexer):
            kept = {name: value for name, value in kept.items() if name not in dict(init.options)}
        kept |= init.family_options(width)
        if width == 1 and init.family.pooler_classifies and init.head != "sequence":
            kept["pooler"] = True  # so that others can serve it
        return ModelConfig.from_flat(kept | self.model.to_flat() | head | dict(generator="uniform"))


def finetuning(task: str, data: str, width: int) -> ml_collections.ConfigDict:
    """The configuration of a fine-tuning run, to be changed by a file in `configs/` and the command line."""
    config = FinetuneConfig(name=f"finetuned_{task}")
    config.data.task, config.data.folder, config.model.width = task, data, width
    known = get_task(config.data) if task != "custom" else None
    config.finetuning.steps = known.steps if known else 2_000
    if known and known.builtin:
        config.finetuning.learning_rate = 5e-4
    result = to_config_dict(config)
    for table in (MULTIPLEXERS, DEMULTIPLEXERS):
        for cls in table.values():
            for name, field in cls.options().items():
                result.model[name] = config_dict.placeholder(type(field.default))
    return result
