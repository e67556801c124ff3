"""ModernBERT (arXiv 2412.13663)."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from flax import linen as nn

from mux_jax.errors import InputError
from mux_jax.fields import described
from mux_jax.models.families.family import Family, VocabularyNames
from mux_jax.models.modernbert import ModernBertEncoder, ModernBertHead
from mux_jax.models.released import Tensor, linear, norm

if TYPE_CHECKING:
    from mux_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModernBert(Family):
    """ModernBERT: layers of its own (`models/modernbert.py`), of which every few see whole texts, the others a window.

    `hidden_dropout` is their `mlp_dropout`. It serves embeddings and classes as well, where theirs may have others.
    """

    classifier_pooling: str = described(
        "cls", "which states classes of sequences are read from: the first, or the mean of all", one_of=("cls", "mean")
    )
    local_attention: int = described(128, "positions a local layer sees, half of them on each side", at_least=1)
    global_attn_every_n_layers: int = described(3, "layers from one that sees all positions to the next", at_least=1)
    global_rope_theta: float = described(
        160_000.0, "base of the rotary positions of layers that see all positions", above=0, below=math.inf
    )
    local_rope_theta: float = described(10_000.0, "the same of local layers", above=0, below=math.inf)

    class_prefix: ClassVar[str] = "ModernBert"
    tensor_prefix: ClassVar[str] = "model."
    # Values where a field is missing are those of ModernBertConfig; names, where they changed, those of transformers 4,
    # which 5 reads, too.
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "vocab_size": ("vocab_size", 50368),
        "hidden_size": ("hidden_size", 768),
        "num_hidden_layers": ("num_hidden_layers", 22),
        "num_attention_heads": ("num_attention_heads", 12),
        "intermediate_size": ("intermediate_size", 1152),
        "max_position_embeddings": ("max_position_embeddings", 8192),
        "hidden_dropout": ("mlp_dropout", 0.0),
        "attention_dropout": ("attention_dropout", 0.0),
        "layer_norm_eps": ("norm_eps", 1e-5),
        "tie_word_embeddings": ("tie_word_embeddings", True),
        "classifier_pooling": ("classifier_pooling", "cls"),
        "local_attention": ("local_attention", 128),
        "global_attn_every_n_layers": ("global_attn_every_n_layers", 3),
        "global_rope_theta": ("global_rope_theta", 160_000.0),
        "local_rope_theta": ("local_rope_theta", 10_000.0),
    }
    only: ClassVar[Mapping[str, Any]] = {
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "classifier_bias": False,
        "decoder_bias": True,
    }
    vocabulary_names: ClassVar[VocabularyNames] = VocabularyNames("head.dense", "head.norm", "decoder", "decoder.bias")
    classifier_names: ClassVar[tuple[str, str]] = ("head.dense", "classifier")

    position_table: ClassVar[bool] = False
    biases: ClassVar[bool] = False
    hidden_activation: ClassVar[str] = "gelu"
    hidden_for_tokens: ClassVar[bool] = True
    not_multiplexed: ClassVar[str] = (
        "exists at width 1 only; mixed instances would need a LayerNorm of their own, which its first layer lacks, "
        "and rotary positions in the layers of the multiplexer"
    )

    def encoder(self, config: "ModelConfig", deterministic: bool, split: bool) -> nn.Module:
        return ModernBertEncoder(config, self, deterministic, split)

    def layer_flops(self, config: "ModelConfig", queries: int, keys: int) -> int:
        """As of other families; a local layer's scores are computed for all keys, and then hidden."""
        D, F = config.hidden_size, config.intermediate_size
        projections = 2 * D * D * (3 * keys + queries)
        attention = 2 * 2 * queries * keys * D
        return projections + attention + 2 * queries * 3 * D * F

    def classifier(self, config: "ModelConfig", deterministic: bool) -> nn.Module:
        return ModernBertHead(config, deterministic)

    @staticmethod
    def as_today(theirs: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the fields of transformers 4, of which 5 made `layer_types` and `rope_parameters`.

        Raises:
          InputError: layers in another order than one global and some local ones in turn, or scaled positions.
        """
        result = dict(theirs)
        types = theirs.get("layer_types")
        if types and not isinstance(types, list):
            raise InputError(f"layer_types is {types!r}; it must be a list")
        if types:
            every = types.index("full_attention", 1) if "full_attention" in types[1:] else len(types)
            if types != ["sliding_attention" if i % every else "full_attention" for i in range(len(types))]:
                raise InputError(f"layer_types={types} is not supported, only one full_attention every few layers")
            result["global_attn_every_n_layers"] = every
        for kind, ours in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
            parameters, scaled = (theirs.get(field) or {} for field in ("rope_parameters", "rope_scaling"))
            rope = parameters.get(kind) or {} if isinstance(parameters, dict) else None
            if not isinstance(rope, dict) or not isinstance(scaled, dict):
                raise InputError(f"rope_parameters={parameters!r} and rope_scaling={scaled!r} must be objects")
            for scaling in (rope, scaled):
                rope_type = scaling.get("rope_type", scaling.get("type", "default"))
                if rope_type != "default":
                    raise InputError(f"rope_type={rope_type!r} is not supported, only 'default'")
            if "rope_theta" in rope:
                result[ours] = rope["rope_theta"]
        return result

    def backbone_tensors(self, config: "ModelConfig", prefix: str) -> Iterator[Tensor]:
        yield Tensor(f"{prefix}embeddings.tok_embeddings.weight", ("embeddings/word",))
        yield from norm(f"{prefix}embeddings.norm", "embeddings/norm", bias=False)
        for layer in range(config.num_hidden_layers):
            yield from self.layer_tensors(prefix, layer)
        yield from norm(f"{prefix}final_norm", "encoder/final_norm", bias=False)

    def layer_tensors(self, prefix: str, layer: int) -> Iterator[Tensor]:
        theirs, ours = f"{prefix}layers.{layer}", "encoder/layers"
        if layer > 0:  # the first has none, and a row of ours that is not read
            yield from norm(f"{theirs}.attn_norm", f"{ours}/attention_norm", layer, bias=False)
        yield from linear(f"{theirs}.attn.Wqkv", f"{ours}/attention/qkv", layer, bias=False)
        yield from linear(f"{theirs}.attn.Wo", f"{ours}/attention/output", layer, bias=False)
        yield from norm(f"{theirs}.mlp_norm", f"{ours}/mlp_norm", layer, bias=False)
        yield from linear(f"{theirs}.mlp.Wi", f"{ours}/intermediate", layer, bias=False)
        yield from linear(f"{theirs}.mlp.Wo", f"{ours}/output", layer, bias=False)

    def classifier_tensors(self, config: "ModelConfig") -> Iterator[Tensor]:
        yield from linear("head.dense", "classifier/dense", bias=False)
        yield from norm("head.norm", "classifier/norm", bias=False)
        yield from linear("classifier", "classifier/output")
