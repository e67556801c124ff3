"""MPNet (arXiv 2004.09297)."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mux_jax.fields import described
from mux_jax.models.families.bert import FIELDS, POOLER
from mux_jax.models.families.family import Family, VocabularyNames
from mux_jax.models.released import Tensor, linear, norm

if TYPE_CHECKING:
    from mux_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class MPNet(Family):
    """MPNet: attention has a bias by distance, which all layers share; positions begin at 2; no token types."""

    pooler: bool = described(False, POOLER)

    class_prefix: ClassVar[str] = "MPNet"
    tensor_prefix: ClassVar[str] = "mpnet."
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = {
        **{name: field for name, field in FIELDS.items() if name != "type_vocab_size"},
        "vocab_size": ("vocab_size", 30527),
    }
    # `transformers` looks up 32 buckets whatever the size of the table is.
    only: ClassVar[Mapping[str, Any]] = {"hidden_act": "gelu", "relative_attention_num_buckets": 32}
    vocabulary_names: ClassVar[VocabularyNames] = VocabularyNames(
        "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"
    )
    classifier_names: ClassVar[tuple[str, str]] = ("classifier.dense", "classifier.out_proj")

    relative_bias: ClassVar[bool] = True
    hidden_activation: ClassVar[str] = "tanh"

    @property
    def position_offset(self) -> int:
        return 2  # after the padding token's number, which `transformers` takes to be 1

    def backbone_tensors(self, config: "ModelConfig", prefix: str) -> Iterator[Tensor]:
        yield from super().backbone_tensors(config, prefix)
        yield Tensor(f"{prefix}encoder.relative_attention_bias.weight", ("encoder/relative_bias/table",))

    def layer_tensors(self, prefix: str, layer: int) -> Iterator[Tensor]:
        theirs, ours = f"{prefix}encoder.layer.{layer}", "encoder/layers"
        for part, name in {"query": "q", "key": "k", "value": "v", "output": "o"}.items():
            yield from linear(f"{theirs}.attention.attn.{name}", f"{ours}/attention/{part}", layer)
        yield from norm(f"{theirs}.attention.LayerNorm", f"{ours}/attention_norm", layer)
        yield from linear(f"{theirs}.intermediate.dense", f"{ours}/intermediate", layer)
        yield from linear(f"{theirs}.output.dense", f"{ours}/output", layer)
        yield from norm(f"{theirs}.output.LayerNorm", f"{ours}/output_norm", layer)
