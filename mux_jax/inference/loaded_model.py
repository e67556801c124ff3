"""A fine-tuned model in memory, and what is asked of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from mux_jax import cpu
from mux_jax.checkpoints.source import ModelSource
from mux_jax.data.encoding import say_if_words_are_joined
from mux_jax.data.tokenizer import ModelTokenizer
from mux_jax.errors import InputError
from mux_jax.inference.runtimes import Program, open_program
from mux_jax.models.config import DTYPES, ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh
from mux_jax.progress import say

_BFLOAT16 = "matrix products in bfloat16, which this CPU has; dtype float32 turns it off"


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A fine-tuned model in memory.

    Attributes:
      model: with a head for `sequence` or `token` classification.
      params: as `mux_jax.load_pretrained` gives them; predictions run on the mesh they lie on. None of an export.
      tokenizer: the model's.
      bucket_lengths: the lengths that rows may have, ascending.
      text_columns: the columns of the texts in files.
      prompts: of an embedding model, by name; see `TaskInfo`.
      program: of an export, which runs in place of the model; None of others.
    """

    model: MuxModel
    params: Any
    tokenizer: ModelTokenizer
    bucket_lengths: tuple[int, ...]
    text_columns: tuple[str, ...] = ("text",)
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    program: Program | None = None


def in_dtype(config: ModelConfig, dtype: str = "auto") -> ModelConfig:
    """The model with products in the dtype that predictions take.

    `auto` is what the model was given in training; if that is `auto`, too, bfloat16, and float32 on CPUs without
    products of bfloat16. On other CPUs it is printed.

    Raises:
      InputError: another dtype.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype} does not exist; there are: {', '.join(DTYPES)}")
    config = dataclasses.replace(config, attention="auto")  # what training took on another machine is of no account
    if "auto" == dtype == config.dtype and jax.default_backend() == "cpu" and cpu.has_bfloat16():
        say(_BFLOAT16)
        return dataclasses.replace(config, dtype="bfloat16")
    chosen = config.compute_dtype if dtype == "auto" else dtype
    return dataclasses.replace(config, dtype=chosen)


def open_export(found: ModelSource, dtype: str = "auto") -> tuple[ModelConfig, Program]:
    """The model of an export with the dtype of products that are not in int8, and its program.

    OpenVINO takes bfloat16 where the CPU has it, unless `dtype` says otherwise; other programs are as they were made.

    Raises:
      InputError: a dtype that the program cannot take, or what `open_program` raises.
    """
    export = found.export
    assert export
    if export.format != "openvino":
        if dtype not in ("auto", "float32"):
            raise InputError(f"{found.folder}: its products are of {export.precision}; leave out dtype={dtype}")
        chosen = "float32"
    else:
        of_cpu = "bfloat16" if cpu.has_bfloat16() else "float32"
        chosen = of_cpu if dtype == "auto" else dtype
        if (dtype, chosen, export.precision) == ("auto", "bfloat16", "float32"):
            say(_BFLOAT16)
    return dataclasses.replace(found.config, dtype=chosen), open_program(export, found.folder, chosen)


def load(found: ModelSource, dtype: str = "auto") -> LoadedModel:
    """A model on all devices of this host, its products in a dtype: see `in_dtype`. The program of an export."""
    config, program = open_export(found, dtype) if found.export else (in_dtype(found.config, dtype), None)
    tokenizer, lengths = found.tokenizer(), found.bucket_lengths()
    if found.config.head == "token":
        say_if_words_are_joined(tokenizer)
    params = None if program else found.params(make_mesh(devices=jax.local_devices()))
    return LoadedModel(MuxModel(config), params, tokenizer, lengths, found.text_columns(), found.prompts(), program)


def check(config: ModelConfig, rows: int, ensemble: int, alone: bool, threshold: float, where: str = "") -> None:
    """Raises `InputError` if a model cannot predict, or not with these options of `Predictor`."""
    if config.head not in ("sequence", "token", "embedding"):
        raise InputError(
            f"{where}the model has the head {config.head!r}; one for `sequence` or `token` classification is "
            "needed, from launch/finetune.py, or one of embeddings, from sentence-transformers"
        )
    if not 1 <= ensemble <= config.width:
        raise InputError(f"ensemble={ensemble} must be from 1 to the model's width {config.width}")
    if alone and ensemble > 1:
        raise InputError(f"ensemble={ensemble} and alone: a text that is alone has all slots of its row")
    if rows < 1:
        raise InputError(f"rows={rows} must be at least 1")
    if not 0 < threshold < 1:
        raise InputError(f"threshold={threshold} must be between 0 and 1")
    if threshold != 0.5 and not config.multi_label:
        raise InputError(f"{where}threshold={threshold} is of models with several labels a text; this one has none")
