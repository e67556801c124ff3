"""The description of a model: one frozen dataclass, checked when it is made."""

import dataclasses
import math

import jax

from mux_jax.errors import InputError
from mux_jax.models.demultiplexers import DEMULTIPLEXERS
from mux_jax.models.multiplexers import MULTIPLEXERS

ARCHITECTURES = ("bert", "electra")
HEADS = ("mlm", "rtd", "sequence", "token", "none")
GENERATORS = ("uniform", "learned")
DTYPES = ("auto", "float32", "bfloat16")


def _size(layers: int, hidden: int, intermediate: int, heads: int, embedding: int = 0) -> dict:
    return dict(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        embedding_size=embedding or hidden,
    )


# The paper's sizes; `tiny` is ours, for a laptop and for tests.
SIZES = {
    "bert": {
        "tiny": _size(2, 128, 512, 4),
        "small": _size(4, 512, 2048, 8),
        "base": _size(12, 768, 3072, 12),
        "large": _size(24, 1024, 4096, 16),
    },
    "electra": {
        "tiny": _size(2, 128, 512, 4),
        "small": _size(12, 256, 1024, 4, embedding=128),
        "base": _size(12, 768, 3072, 12),
        "large": _size(24, 1024, 4096, 16),
    },
}


def _one_of(field: str, value: object, allowed: object) -> None:
    if value not in allowed:
        raise InputError(f"model.{field}={value!r} does not exist; there are: {', '.join(allowed)}")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A MUX-PLM's shape and parts. Names follow Hugging Face where it has one for the thing.

    `width` is N, the number of instances mixed into a row; width 1 is the plain BERT or ELECTRA.
    `labels` are the names of the classes of the heads `sequence` and `token`; one alone stands for
    regression. `binary_epsilon` is how far the binary multiplexer's chunks overlap. The prefix
    demultiplexer puts `prefix_token_id` as filler, the tokens below it as the instances' own, and
    `cls_token_id`, in front of each instance.

    Raises:
      InputError: a value that no model can have, naming the field and what is allowed.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    embedding_size: int
    max_position_embeddings: int
    head: str = "mlm"
    width: int = 2
    multiplexer: str = "gaussian"
    demultiplexer: str = "rsa"
    num_demux_layers: int = 2
    key_norm: float = 1.0
    learn_keys: bool = False
    binary_epsilon: float = 0.0
    cls_token_id: int = 101
    prefix_token_id: int = 680
    labels: tuple[str, ...] = ()
    generator: str = "uniform"
    generator_scale: float = 0.25
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    dtype: str = "auto"
    scan_layers: bool = True
    remat: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON has lists
        _one_of("architecture", self.architecture, ARCHITECTURES)
        _one_of("head", self.head, HEADS)
        _one_of("multiplexer", self.multiplexer, MULTIPLEXERS)
        _one_of("demultiplexer", self.demultiplexer, DEMULTIPLEXERS)
        _one_of("generator", self.generator, GENERATORS)
        _one_of("dtype", self.dtype, DTYPES)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and not field.name.endswith("_id") and value < 1:
                raise InputError(f"model.{field.name}={value} must be at least 1")
            if field.name.endswith("dropout") and not 0 <= value < 1:
                raise InputError(f"model.{field.name}={value} must be in [0, 1)")
            if field.name in ("key_norm", "layer_norm_eps") and not 0 < value < math.inf:
                raise InputError(f"model.{field.name}={value} must be positive and finite")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"model.hidden_size={self.hidden_size} must be a multiple of "
                f"model.num_attention_heads={self.num_attention_heads}"
            )
        if self.embedding_size != self.hidden_size:
            if self.architecture == "bert":
                raise InputError(
                    f"model.embedding_size={self.embedding_size} must equal "
                    f"model.hidden_size={self.hidden_size} in a BERT"
                )
            if self.multiplexer == "contextual" and self.embedding_size % self.num_attention_heads:
                raise InputError(
                    f"model.multiplexer='contextual' needs model.embedding_size={self.embedding_size} to be a "
                    f"multiple of model.num_attention_heads={self.num_attention_heads}"
                )
        if self.num_demux_layers < 2:
            raise InputError(f"model.num_demux_layers={self.num_demux_layers} must be at least 2")
        if (self.head in ("sequence", "token")) != bool(self.labels):
            raise InputError(f"model.labels={self.labels} do not fit model.head={self.head!r}")
        if not 0 <= self.binary_epsilon <= 1:
            raise InputError(f"model.binary_epsilon={self.binary_epsilon} must be in [0, 1]")
        if self.multiplexer in ("binary", "low_rank_orthogonal") and self.embedding_size < self.width:
            raise InputError(
                f"model.width={self.width} must be at most model.embedding_size={self.embedding_size}: "
                f"model.multiplexer={self.multiplexer!r} gives each instance a part of it"
            )
        if self.prefix_length and not self.width < self.prefix_token_id < self.vocab_size:
            raise InputError(
                f"model.prefix_token_id={self.prefix_token_id} must be from {self.width + 1} to {self.vocab_size - 1}: "
                f"below it are the tokens of {self.width} instances, and the vocabulary ends there"
            )
        if self.head_size * self.generator_heads < 1 or not 0 < self.generator_scale <= 1:
            raise InputError(f"model.generator_scale={self.generator_scale} must be in (0, 1]")

    @property
    def prefix_length(self) -> int:
        """The positions that the demultiplexer puts in front of each instance: N + 1 for `prefix`, or 0."""
        return self.width + 1 if self.demultiplexer == "prefix" and self.width > 1 else 0

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def generator_heads(self) -> int:
        return max(1, round(self.num_attention_heads * self.generator_scale))

    @property
    def compute_dtype(self) -> str:
        """The dtype of matrix products: bfloat16 on TPU and GPU, float32 on CPU, unless set."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"

    @property
    def generator_config(self) -> "ModelConfig":
        """The learned generator: the same depth and width, `generator_scale` of the heads."""
        hidden = self.head_size * self.generator_heads
        return dataclasses.replace(
            self,
            head="mlm",
            generator="uniform",
            num_attention_heads=self.generator_heads,
            hidden_size=hidden,
            embedding_size=hidden,
            intermediate_size=self.intermediate_size * self.generator_heads // self.num_attention_heads,
        )
