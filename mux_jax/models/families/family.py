"""What a family of encoders says of itself: its options, its parts, its form at Hugging Face."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from flax import linen as nn

from mux_jax.fields import described
from mux_jax.models.encoder import Encoder
from mux_jax.models.heads import ClassificationHead
from mux_jax.models.layers import transformer_layer_flops
from mux_jax.models.released import Tensor, linear, norm, transformer_layer

if TYPE_CHECKING:
    from mux_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class VocabularyNames:
    """What the tensors of a masked-LM head are called: two modules, a decoder, and the decoder's bias."""

    dense: str
    norm: str
    decoder: str
    bias: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """The base of families: BERT's layers, and what may differ.

    A subclass declares its own options as fields made with `described`. They stand in `config.model`
    beside the other fields, and are saved with the model. Names of theirs are those of `transformers`.

    Attributes:
      tie_word_embeddings: an option of all families.
      type_vocab_size: rows of the table of token types; 0: there is none.
      pooler: whether there is a pooler, dense and tanh on the first state, in models without a head or, with
        `pooler_classifies`, with one for sequences.
      classifier_pooling: what classes of sequences are read from: `cls`, or `mean` of all states.

      class_prefix: how the names of its classes begin.
      classes: how they end, and which head that is here; of two with one head, the first is written.
      tensor_prefix: how the names of tensors begin, but for those of heads and of a bare model.
      fields: our name of a field or option; theirs in `config.json`, and its value where it is missing.
      only: fields that may have one value alone, which they have where they are missing.
      vocabulary_names: of the masked-LM head.
      classifier_names: of the head for sequences: of its hidden layer, and of its last one.

      position_offset: rows of the table of positions before that of a text's first token.
      position_table: whether there is one.
      relative_bias: whether attention has a bias by distance, which all layers share.
      biases: whether linear layers and LayerNorms have any.
      embeddings_projected: whether embeddings may be of another size than states.
      hidden_activation: of the hidden layer before classes of sequences; empty: there is none.
      hidden_for_tokens: whether classes of tokens have that hidden layer, too.
      retrieval_skips: whether RSA has skips in retrieval and reads all its layers there, as released.
      not_multiplexed: what a multiplexed model would need; empty if there can be one.
    """

    tie_word_embeddings: bool = described(True, "whether the vocabulary's decoder is the table of word embeddings")
    type_vocab_size: int = 0
    pooler: bool = False
    classifier_pooling: str = "cls"

    class_prefix: ClassVar[str]
    classes: ClassVar[Mapping[str, str]] = {
        "Model": "none",
        "ForMaskedLM": "mlm",
        "ForSequenceClassification": "sequence",
        "ForTokenClassification": "token",
    }
    tensor_prefix: ClassVar[str]
    fields: ClassVar[Mapping[str, tuple[str, Any]]]
    only: ClassVar[Mapping[str, Any]] = {}
    vocabulary_names: ClassVar[VocabularyNames]
    classifier_names: ClassVar[tuple[str, str]]

    position_table: ClassVar[bool] = True
    relative_bias: ClassVar[bool] = False
    biases: ClassVar[bool] = True
    embeddings_projected: ClassVar[bool] = False
    hidden_activation: ClassVar[str] = ""
    hidden_for_tokens: ClassVar[bool] = False
    pooler_classifies: ClassVar[bool] = False
    retrieval_skips: ClassVar[bool] = False
    not_multiplexed: ClassVar[str] = ""

    @classmethod
    def options(cls) -> dict[str, dataclasses.Field]:
        """The options of the family, by name."""
        return {field.name: field for field in dataclasses.fields(cls) if "meaning" in field.metadata}

    @property
    def position_offset(self) -> int:
        return 0

    def encodes_like(self, other: "Family") -> bool:
        """Whether embeddings and encoder of the other family do what this one's do, as BERT's and ELECTRA's."""
        parts = ("type_vocab_size", "position_offset", "position_table", "relative_bias", "biases")
        return all(getattr(self, part) == getattr(other, part) for part in parts)

    def encoder(self, config: "ModelConfig", deterministic: bool, split: bool) -> nn.Module:
        """The encoder; its arguments are those of `Encoder`."""
        return Encoder(config, deterministic, split)

    def layer_flops(self, config: "ModelConfig", queries: int, keys: int) -> int:
        """FLOPs of the matrix products of a layer, in which `queries` states see `keys` states."""
        return transformer_layer_flops(config.hidden_size, config.intermediate_size, queries, keys)

    def classifier(self, config: "ModelConfig", deterministic: bool) -> nn.Module:
        """The head that makes states [..., D] logits of classes [..., C]."""
        return ClassificationHead(
            num_classes=len(config.labels),
            activation=self.hidden_activation if config.head == "sequence" else "",
            dropout=config.hidden_dropout,
            dtype=config.compute_dtype,
            deterministic=deterministic,
        )

    @staticmethod
    def as_today(theirs: Mapping[str, Any]) -> Mapping[str, Any]:
        """A `config.json`, of whichever version of `transformers`, with the fields that `fields` and `only` name."""
        return theirs

    def backbone_tensors(self, config: "ModelConfig", prefix: str) -> Iterator[Tensor]:
        """The tensors of embeddings and encoder, whose names begin with `prefix`."""
        for table in ("word", "position", "token_type") if self.type_vocab_size else ("word", "position"):
            yield Tensor(f"{prefix}embeddings.{table}_embeddings.weight", (f"embeddings/{table}",))
        yield from norm(f"{prefix}embeddings.LayerNorm", "embeddings/norm")
        if config.embedding_size != config.hidden_size:
            yield from linear(f"{prefix}embeddings_project", "embeddings_project")
        for layer in range(config.num_hidden_layers):
            yield from self.layer_tensors(prefix, layer)
        if config.has_pooler:
            yield from linear(f"{prefix}pooler.dense", "pooler")

    def layer_tensors(self, prefix: str, layer: int) -> Iterator[Tensor]:
        """The tensors of one layer: BERT's, unless the family names them otherwise."""
        yield from transformer_layer(f"{prefix}encoder.layer.{layer}", "encoder/layers", layer)

    def classifier_tensors(self, config: "ModelConfig") -> Iterator[Tensor]:
        """The tensors of a head for classes."""
        hidden, output = self.classifier_names if config.head == "sequence" else ("", "classifier")
        if hidden:
            yield from linear(hidden, "classifier/dense")
        yield from linear(output, "classifier/output")
