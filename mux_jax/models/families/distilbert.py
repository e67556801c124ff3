"""DistilBERT (arXiv 1910.01108)."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mux_jax.models.families.family import Family, VocabularyNames
from mux_jax.models.released import Tensor, linear, norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilBert(Family):
    """DistilBERT: BERT's layers under names of their own; no token types."""

    class_prefix: ClassVar[str] = "DistilBert"
    tensor_prefix: ClassVar[str] = "distilbert."
    # Values where a field is missing are those of DistilBertConfig.
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "vocab_size": ("vocab_size", 30522),
        "hidden_size": ("dim", 768),
        "num_hidden_layers": ("n_layers", 6),
        "num_attention_heads": ("n_heads", 12),
        "intermediate_size": ("hidden_dim", 3072),
        "max_position_embeddings": ("max_position_embeddings", 512),
        "hidden_dropout": ("dropout", 0.1),
        "attention_dropout": ("attention_dropout", 0.1),
        "tie_word_embeddings": ("tie_word_embeddings", True),
    }
    only: ClassVar[Mapping[str, Any]] = {"activation": "gelu"}
    vocabulary_names: ClassVar[VocabularyNames] = VocabularyNames(
        "vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"
    )
    classifier_names: ClassVar[tuple[str, str]] = ("pre_classifier", "classifier")

    hidden_activation: ClassVar[str] = "relu"

    def layer_tensors(self, prefix: str, layer: int) -> Iterator[Tensor]:
        theirs, ours = f"{prefix}transformer.layer.{layer}", "encoder/layers"
        for part, name in {"query": "q", "key": "k", "value": "v", "output": "out"}.items():
            yield from linear(f"{theirs}.attention.{name}_lin", f"{ours}/attention/{part}", layer)
        yield from norm(f"{theirs}.sa_layer_norm", f"{ours}/attention_norm", layer)
        yield from linear(f"{theirs}.ffn.lin1", f"{ours}/intermediate", layer)
        yield from linear(f"{theirs}.ffn.lin2", f"{ours}/output", layer)
        yield from norm(f"{theirs}.output_layer_norm", f"{ours}/output_norm", layer)
