"""BERT (arXiv 1810.04805), and ELECTRA (arXiv 2003.10555), which are what the paper multiplexes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from mux_jax.fields import described
from mux_jax.models.families.family import Family, VocabularyNames

POOLER = "whether a pooler, dense and tanh on the first state, comes with a model"
TYPES = "rows of the table of token types"

# Values where a field is missing are those of BertConfig.
FIELDS: Mapping[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", 30522),
    "hidden_size": ("hidden_size", 768),
    "num_hidden_layers": ("num_hidden_layers", 12),
    "num_attention_heads": ("num_attention_heads", 12),
    "intermediate_size": ("intermediate_size", 3072),
    "max_position_embeddings": ("max_position_embeddings", 512),
    "hidden_dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
    "tie_word_embeddings": ("tie_word_embeddings", True),
    "type_vocab_size": ("type_vocab_size", 2),
}
ONLY = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bert(Family):
    """BERT. Its classes of sequences are read from a pooler; the released multiplexed ones have none."""

    type_vocab_size: int = described(2, TYPES, at_least=1)
    pooler: bool = described(False, POOLER)

    class_prefix: ClassVar[str] = "Bert"
    classes: ClassVar[Mapping[str, str]] = {**Family.classes, "ForPreTraining": "mlm"}
    tensor_prefix: ClassVar[str] = "bert."
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = FIELDS
    only: ClassVar[Mapping[str, Any]] = ONLY
    vocabulary_names: ClassVar[VocabularyNames] = VocabularyNames(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.predictions.bias",
    )
    classifier_names: ClassVar[tuple[str, str]] = ("", "classifier")

    pooler_classifies: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Electra(Family):
    """ELECTRA: embeddings of their own size, a decoder of its own, a head that tells replaced tokens."""

    tie_word_embeddings: bool = described(False, "whether the vocabulary's decoder is the table of word embeddings")
    type_vocab_size: int = described(2, TYPES, at_least=1)

    class_prefix: ClassVar[str] = "Electra"
    classes: ClassVar[Mapping[str, str]] = {**Family.classes, "ForPreTraining": "rtd"}
    tensor_prefix: ClassVar[str] = "electra."
    # Values where a field is missing are those of ElectraConfig. Multiplexed models do not tie the decoder.
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = {
        **FIELDS,
        "embedding_size": ("embedding_size", 128),
        "hidden_size": ("hidden_size", 256),
        "num_attention_heads": ("num_attention_heads", 4),
        "intermediate_size": ("intermediate_size", 1024),
    }
    only: ClassVar[Mapping[str, Any]] = ONLY
    vocabulary_names: ClassVar[VocabularyNames] = VocabularyNames(
        "generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head", "generator_lm_head.bias"
    )
    classifier_names: ClassVar[tuple[str, str]] = ("classifier.dense", "classifier.out_proj")

    embeddings_projected: ClassVar[bool] = True
    hidden_activation: ClassVar[str] = "gelu"
    retrieval_skips: ClassVar[bool] = True
