"""Stages: what a run does one after the other, each with an objective, steps and a learning rate."""

import dataclasses
import math

from mux_jax.fields import described


@dataclasses.dataclass(kw_only=True)
class Stage:
    """A stage of a run. The optimiser starts anew in each."""

    objective: str = described("mlm", "what is learned: a name in OBJECTIVES")
    steps: int = described(980_000, "steps of the stage", at_least=1)
    learning_rate: float = described(1e-4, "the highest, at the end of the warm-up", above=0, below=math.inf)
    warmup_steps: int = described(10_000, "steps of linear warm-up; linear decay to 0 follows", at_least=0)


@dataclasses.dataclass(kw_only=True)
class PretrainStage(Stage):
    """Masked LM or replaced-token detection, with token retrieval as an auxiliary loss."""

    task_coefficient: float = described(0.9, "weight of the task's loss beside retrieval", at_least=0, below=math.inf)
    retrieval_coefficient: float = described(0.1, "weight of auxiliary token retrieval", at_least=0, below=math.inf)
    mask_fraction: float = described(0.15, "tokens that are predicted", above=0, at_most=1)
    replace_fraction: float = described(0.85, "of those, tokens that are replaced, for detection", above=0, at_most=1)
    detection_weight: float = described(50.0, "weight of the detection loss", at_least=0, below=math.inf)


@dataclasses.dataclass(kw_only=True)
class FinetuneStage(Stage):
    """Classification, regression or embeddings, with a teacher or without."""

    objective: str = described("classification", "what is learned: a name in OBJECTIVES")
    steps: int = described(10_000, "steps of the stage", at_least=1)
    learning_rate: float = described(5e-5, "the highest, at the end of the warm-up", above=0, below=math.inf)
    warmup_steps: int = described(-1, "steps of linear warm-up; -1: a tenth of the steps", at_least=-1)
    class_weights: str = described(
        "", "of the labels' loss: a number a label, separated by commas in the order printed, or balanced; empty: all 1"
    )
    task_coefficient: float = described(0.9, "weight of the task's loss beside retrieval", at_least=0, below=math.inf)
    retrieval_coefficient: float = described(0.0, "weight of auxiliary token retrieval", at_least=0, below=math.inf)
    distillation_coefficient: float = described(
        0.9, "part of the teacher's loss, if there is one; the labels' loss is the rest", at_least=0, at_most=1
    )
    temperature: float = described(2.0, "what divides the logits in the teacher's loss; not of embeddings", above=0)
