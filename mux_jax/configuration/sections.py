"""Sections that the configurations of pre-training and of fine-tuning share."""

import dataclasses

from mux_jax.fields import described


@dataclasses.dataclass(kw_only=True)
class OptimizerSection:
    """The optimiser, which `training/optimizer.py` makes of it."""

    b1: float = described(0.9, "decay of the mean of gradients", at_least=0, below=1)
    b2: float = described(0.999, "decay of the mean of squared gradients", at_least=0, below=1)
    eps: float = described(1e-8, "added to the root of the latter", at_least=0)
    weight_decay: float = described(0.01, "of all but biases, LayerNorm and keys", at_least=0, below=float("inf"))
    clip_norm: float = described(1.0, "the largest global norm of a gradient", above=0)


@dataclasses.dataclass(kw_only=True)
class MeshSection:
    """How devices share the work; their product is the number of devices."""

    data: int = described(-1, "devices that rows are split over; -1: those that the others leave")
    fsdp: int = described(1, "devices that rows, parameters and optimiser are split over")
    tensor: int = described(1, "devices that matrix products are split over")


@dataclasses.dataclass(kw_only=True)
class EvalSection:
    """Evaluation while training."""

    every: int = described(10_000, "steps between evaluations; -1 in fine-tuning: a tenth of the steps", at_least=1)


@dataclasses.dataclass(kw_only=True)
class HeldoutSection(EvalSection):
    """Evaluation on held-out text while training."""

    batches: int = described(16, "batches of held-out rows", at_least=1)


@dataclasses.dataclass(kw_only=True)
class CheckpointSection:
    """Checkpoints of a run."""

    every: int = described(5_000, "steps between checkpoints; -1 in fine-tuning: a tenth of the steps", at_least=1)
    minutes: float = described(
        15.0, "minutes between checkpoints, if that is sooner; at steps that are logged", above=0
    )
    keep: int = described(2, "how many of the last are kept", at_least=1)
