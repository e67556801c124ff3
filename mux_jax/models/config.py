"""The description of a model: frozen dataclasses whose fields say what they mean."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Self

import jax

from mux_jax.errors import InputError
from mux_jax.fields import check_fields, check_value, described, required
from mux_jax.models.demultiplexers import DEMULTIPLEXERS, Demultiplexer, Identity
from mux_jax.models.families import FAMILIES, Family
from mux_jax.models.multiplexers import MULTIPLEXERS, Multiplexer

HEADS = ("mlm", "rtd", "sequence", "token", "embedding", "none")
POOLINGS = ("mean", "cls", "max", "mean_sqrt_length")
GENERATORS = ("uniform", "learned")
DTYPES = ("auto", "float32", "bfloat16")
ATTENTIONS = ("auto", "plain", "fused")


def _size(layers: int, hidden: int, intermediate: int, heads: int, embedding: int = 0) -> dict[str, Any]:
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

Options = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What a configuration says of a model. Names follow Hugging Face where it has one for the thing.

    Attributes:
      options: values of the options that the family, the multiplexer and the demultiplexer declare, by name.
        They stand among the other fields in a configuration and in JSON (`from_flat`, `to_flat`).
    """

    architecture: str = described("bert", "the family of the encoder", one_of=FAMILIES)
    width: int = described(2, "N, how many instances share a row; 1 is the ordinary encoder", at_least=1)
    hidden_size: int = required("D, dimensions of a state", at_least=1)
    num_hidden_layers: int = required("layers of the encoder", at_least=1)
    num_attention_heads: int = required("H, heads of each layer; they divide the hidden size", at_least=1)
    intermediate_size: int = required("F, neurons of a layer's feed-forward part", at_least=1)
    embedding_size: int = required("E, dimensions of an embedding; the hidden size, but in an ELECTRA", at_least=1)
    max_position_embeddings: int = required("rows of the table of positions: see `max_length`", at_least=1)
    multiplexer: str = described("gaussian", "how N instances become one sequence: a name in MULTIPLEXERS")
    demultiplexer: str = described("rsa", "how N instances are separated again: a name in DEMULTIPLEXERS")
    options: Options = ()
    generator: str = described("uniform", "what replaces tokens in replaced-token detection", one_of=GENERATORS)
    generator_scale: float = described(0.25, "heads of a learned generator over the model's", above=0, at_most=1)
    hidden_dropout: float = described(0.1, "dropout of states", at_least=0, below=1)
    attention_dropout: float = described(0.1, "dropout of attention weights", at_least=0, below=1)
    layer_norm_eps: float = described(1e-12, "epsilon of LayerNorm", above=0, below=math.inf)
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

    @classmethod
    def from_flat(cls, fields: Mapping[str, Any]) -> Self:
        """Makes one of a flat mapping, in which options stand among the other fields."""
        known = {field.name for field in dataclasses.fields(cls)} - {"options"}
        options = {name: value for name, value in fields.items() if name not in known}
        return cls(options=tuple(options.items()), **{k: v for k, v in fields.items() if k in known})

    def to_flat(self) -> dict[str, Any]:
        """The inverse of `from_flat`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | dict(fields.pop("options"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelSettings):
    """A MUX-PLM's shape and parts: its settings, and what follows from data and task.

    Raises:
      InputError: a value that no model can have, naming the field and what is allowed.
    """

    vocab_size: int = required("V, tokens of the vocabulary", at_least=1)
    cls_token_id: int = described(101, "the token that begins every instance")
    head: str = described("mlm", "what the model returns: see MuxModel", one_of=HEADS)
    labels: tuple[str, ...] = described(
        tuple[str, ...](), "classes of sequence and token heads; one alone: a regression"
    )
    multi_label: bool = described(False, "whether a text may have several of the labels, or none")

    pooling: str = described("mean", "of the head embedding: how the states of tokens become one", one_of=POOLINGS)
    projections: tuple[tuple[int, str, bool], ...] = described(
        tuple[tuple[int, str, bool], ...](), "of an embedding: layers after pooling: size, activation, bias"
    )
    normalize: bool = described(True, "whether embeddings have length 1")

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON has lists
        object.__setattr__(self, "projections", tuple(map(tuple, self.projections)))
        for kind, table in (("multiplexer", MULTIPLEXERS), ("demultiplexer", DEMULTIPLEXERS)):
            name = getattr(self, kind)
            if name not in table:
                raise InputError(
                    f"model.{kind}={name!r} is not known; there are: {', '.join(table)}; import the file that defines "
                    f"a class of your own first"
                )
        object.__setattr__(self, "options", self._all_options())
        check_fields(self, "model.")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"model.hidden_size={self.hidden_size} must be a multiple of "
                f"model.num_attention_heads={self.num_attention_heads}"
            )
        if self.embedding_size != self.hidden_size and not self.family.embeddings_projected:
            raise InputError(
                f"model.embedding_size={self.embedding_size} must equal model.hidden_size={self.hidden_size} in "
                f"{self.architecture}"
            )
        decodes = self.width > 1 or self.head == "mlm"
        if decodes and self.family.tie_word_embeddings and self.embedding_size != self.hidden_size:
            raise InputError(
                f"model.tie_word_embeddings needs model.embedding_size={self.embedding_size} to be "
                f"model.hidden_size={self.hidden_size}"
            )
        if (self.head in ("sequence", "token")) != bool(self.labels):
            raise InputError(f"model.labels={self.labels} do not fit model.head={self.head!r}")
        if self.multi_label and (self.head != "sequence" or len(self.labels) < 2):
            raise InputError(
                f"model.multi_label=True needs model.head='sequence', not {self.head!r}, and two labels or more, "
                f"not {len(self.labels)}"
            )
        if self.projections and self.head != "embedding":
            raise InputError(f"model.projections={self.projections} need model.head='embedding', not {self.head!r}")
        if self.width > 1:
            if self.family.not_multiplexed:
                raise InputError(f"model.width={self.width}: {self.architecture} {self.family.not_multiplexed}")
            self.multiplexer_module().check()
            self.demultiplexer_module().check()

    def _all_options(self) -> Options:
        """Every option of the three classes, with its default where none is given."""
        given, found = dict(self.options), {}
        if self.architecture not in FAMILIES:
            raise InputError(
                f"model.architecture={self.architecture!r} does not exist; there are: {', '.join(FAMILIES)}"
            )
        family, multiplexer = FAMILIES[self.architecture], MULTIPLEXERS[self.multiplexer]
        for cls in (family, multiplexer, DEMULTIPLEXERS[self.demultiplexer]):
            for name, field in cls.options().items():
                found[name] = given.pop(name, field.default)
                check_value(field, found[name], f"model.{name}")
        if given:
            raise InputError(
                f"model has no field {', '.join(sorted(given))}; architecture={self.architecture}, "
                f"multiplexer={self.multiplexer} and demultiplexer={self.demultiplexer} have the options: "
                f"{', '.join(found)}"
            )
        return tuple(found.items())

    def multiplexer_module(self, deterministic: bool = True) -> Multiplexer:
        """The multiplexer, of a width above 1, bound to no other module."""
        cls, options = MULTIPLEXERS[self.multiplexer], dict(self.options)
        return cls(self, deterministic, parent=None, **{name: options[name] for name in cls.options()})

    def demultiplexer_module(self, deterministic: bool = True) -> Demultiplexer:
        """The demultiplexer; at width 1 there is nothing to separate."""
        cls, options = DEMULTIPLEXERS[self.demultiplexer] if self.width > 1 else Identity, dict(self.options)
        return cls(self, deterministic, parent=None, **{name: options[name] for name in cls.options()})

    @functools.cached_property
    def prefix_length(self) -> int:
        """The positions that the demultiplexer puts in front of each instance."""
        return self.demultiplexer_module().prefix_length

    @functools.cached_property
    def family(self) -> Family:
        """The family of the encoder, with its options."""
        cls, options = FAMILIES[self.architecture], dict(self.options)
        return cls(**{name: options[name] for name in cls.options()})

    def family_options(self, width: int) -> dict[str, Any]:
        """The options of the family in a model of `width` that starts from this one.

        A multiplexed model has a decoder as the released ones of the family have it, and no pooler.
        """
        options = self.family.options()
        kept = {name: getattr(self.family, name) for name in options}
        if width > 1 and self.width == 1:
            kept |= {name: options[name].default for name in ("tie_word_embeddings", "pooler") if name in options}
        return kept

    @property
    def max_length(self) -> int:
        """The longest row, prefix included."""
        return self.max_position_embeddings - self.family.position_offset

    @property
    def takes_token_types(self) -> bool:
        """Whether tokens may have a type other than 0; multiplexed ones have not, as released."""
        return self.width == 1 and self.family.type_vocab_size > 1

    @property
    def has_pooler(self) -> bool:
        """Whether the model has a pooler: with a head that does not read it, it would only lie there."""
        classifies = self.head == "sequence" and self.family.pooler_classifies
        return self.family.pooler and (self.head == "none" or classifies)

    @property
    def states_read(self) -> int | None:
        """How many of a row's first states the head reads; None: all."""
        if self.head == "embedding":
            return self.prefix_length + 1 if self.pooling == "cls" else None
        first = self.head == "sequence" and self.family.classifier_pooling == "cls"
        return max(1, self.prefix_length) if first else None

    @property
    def dimensions(self) -> int:
        """Those of an embedding."""
        return self.projections[-1][0] if self.projections else self.hidden_size

    @property
    def task_kind(self) -> str:
        """What a fine-tuned model does: `sequence`, `multi_label`, `regression`, `token` or `embedding`."""
        if self.head in ("token", "embedding"):
            return self.head
        if self.multi_label:
            return "multi_label"
        return "regression" if len(self.labels) == 1 else "sequence"

    @property
    def head_size(self) -> int:
        """K, dimensions of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def compute_dtype(self) -> str:
        """The dtype of matrix products in training: bfloat16 on TPU and GPU, float32 on CPU, unless set.

        Predictions have one of their own: see `inference.loaded_model.in_dtype`.
        """
        if self.dtype != "auto":
            return self.dtype
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"

    @property
    def fused_attention(self) -> bool:
        """Whether attention is computed in one kernel where it can be."""
        return self.attention == "fused" or self.attention == "auto" and jax.default_backend() == "tpu"

    @property
    def without_head(self) -> "ModelConfig":
        """The same model without a head."""
        return dataclasses.replace(self, head="none", labels=(), multi_label=False, generator="uniform", projections=())

    @property
    def generator_config(self) -> "ModelConfig":
        """The learned generator: the same depth and width, `generator_scale` of the heads."""
        heads = max(1, round(self.num_attention_heads * self.generator_scale))
        return dataclasses.replace(
            self,
            head="mlm",
            generator="uniform",
            num_attention_heads=heads,
            hidden_size=self.head_size * heads,
            embedding_size=self.head_size * heads,
            intermediate_size=self.intermediate_size * heads // self.num_attention_heads,
        )
