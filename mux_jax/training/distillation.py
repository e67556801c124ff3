"""Distillation: a multiplexed model learns what an ordinary one, fine-tuned on the same task, says.

The loss, on the task's logits, is by Hinton et al. (arXiv 1503.02531); `objectives/classification.py` has it.
"""

import jax
from jax.sharding import Mesh

from mux_jax.checkpoints.source import ModelSource
from mux_jax.data.labels import shown
from mux_jax.data.tokenizer import ModelTokenizer
from mux_jax.errors import InputError
from mux_jax.inference.batch_runner import compile_logits
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import batch_sharding
from mux_jax.progress import say


class Teacher:
    """`teacher(batch)` adds `teacher`: logits for every text, float32 [B, N, C], [B, N, L, C] of tokens; embeddings."""

    def __init__(self, found: ModelSource, mesh: Mesh, pad_id: int):
        self._takes_types = found.has_token_types()
        self._params = split_layers(found.params(mesh), found.config.compute_dtype)
        self._logits = compile_logits(MuxModel(found.config), mesh, pad_id, batch_sharding(mesh))
        at = "" if found.step is None else f" at step {found.step}"
        say(f"teacher: {found.folder}{at}")

    def compile_for(self, batch: dict[str, jax.Array]) -> None:
        """Compiles for rows of this length, if that was not done before."""
        self._logits.compile_for(self._params, *self._inputs(batch))

    def __call__(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return batch | {"teacher": self._logits(self._params, *self._inputs(batch))}

    def _inputs(self, batch: dict[str, jax.Array]) -> list[jax.Array]:
        names = ("tokens", "token_types") if self._takes_types else ("tokens",)
        return [batch[name] for name in names if name in batch]


def check(found: ModelSource, model: ModelConfig, tokenizer: ModelTokenizer, sequence_length: int) -> None:
    """Raises `InputError` if a teacher cannot teach `model`."""
    teacher, problem = found.config, ""
    if teacher.width > 1:
        problem = f"its width is {teacher.width}; it must be an ordinary model, of width 1"
    elif teacher.head != model.head:
        problem = f"its head is {teacher.head!r}; the task's is {model.head!r}"
    elif teacher.multi_label != model.multi_label:
        several, one = ("it gives", "the task has") if teacher.multi_label else ("the task has", "it gives")
        problem = f"{several} several labels a text or none; {one} one"
    elif teacher.labels != model.labels:
        problem = f"its labels are {shown(teacher.labels)}; the task's are {shown(model.labels)}"
        if set(teacher.labels) == set(model.labels):
            problem += f"; give their order: data.labels={','.join(teacher.labels)}"
    elif model.head == "embedding" and teacher.dimensions != model.dimensions:
        problem = f"its embeddings have {teacher.dimensions} dimensions, the model's {model.dimensions}"
    elif teacher.max_length < sequence_length:
        problem = f"it has {teacher.max_length} positions for data.sequence_length={sequence_length}"
    elif found.tokenizer().backend.get_vocab() != tokenizer.backend.get_vocab():
        problem = "it has another vocabulary than init_from"
    if problem:
        raise InputError(f"teacher={found.folder}: {problem}")
