"""RoBERTa (arXiv 1907.11692) and the models of its form: XLM-RoBERTa, CamemBERT."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from mux_jax.fields import described
from mux_jax.models.families.bert import FIELDS, ONLY, POOLER, TYPES
from mux_jax.models.families.family import Family, VocabularyNames


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roberta(Family):
    """RoBERTa: positions begin after the padding token's number; tokens have one type."""

    type_vocab_size: int = described(1, TYPES, at_least=1)
    pooler: bool = described(False, POOLER)
    pad_token_id: int = described(1, "the padding token, after whose number positions begin", at_least=0)

    class_prefix: ClassVar[str] = "Roberta"
    tensor_prefix: ClassVar[str] = "roberta."
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = {
        **FIELDS,
        "vocab_size": ("vocab_size", 50265),
        "pad_token_id": ("pad_token_id", 1),
    }
    only: ClassVar[Mapping[str, Any]] = ONLY
    vocabulary_names: ClassVar[VocabularyNames] = VocabularyNames(
        "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"
    )
    classifier_names: ClassVar[tuple[str, str]] = ("classifier.dense", "classifier.out_proj")

    hidden_activation: ClassVar[str] = "tanh"

    @property
    def position_offset(self) -> int:
        return self.pad_token_id + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class XlmRoberta(Roberta):
    """XLM-RoBERTa (arXiv 1911.02116)."""

    class_prefix: ClassVar[str] = "XLMRoberta"
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = {**Roberta.fields, "vocab_size": ("vocab_size", 30522)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camembert(Roberta):
    """CamemBERT (arXiv 1911.03894)."""

    class_prefix: ClassVar[str] = "Camembert"
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = {**Roberta.fields, "vocab_size": ("vocab_size", 30522)}
