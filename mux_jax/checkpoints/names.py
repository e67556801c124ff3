"""Where every tensor of a released checkpoint lies in our parameters: the one table, read both ways.

Families, multiplexers and demultiplexers name their own tensors; what several modules share is stored
under the name of each.
"""

import dataclasses
from collections.abc import Iterator

from mux_jax.models.config import ModelConfig
from mux_jax.models.released import Tensor, linear, norm


def tensors(config: ModelConfig) -> Iterator[Tensor]:
    """All tensors of the released form of a model; shared ones under each of their names."""
    yield from config.family.backbone_tensors(config, "" if is_bare(config) else config.family.tensor_prefix)
    yield from _multiplexing(config) if config.width > 1 else _vocabulary_head(config)
    if config.head == "rtd":
        yield from linear("discriminator_predictions.dense", "detection_head/dense")
        yield from linear("discriminator_predictions.dense_prediction", "detection_head/prediction")
        if config.generator == "learned":
            for tensor in tensors(config.generator_config):
                paths = tuple(f"generator/{path}" for path in tensor.paths)
                yield dataclasses.replace(tensor, name=f"generator.{tensor.name}", paths=paths)
    if config.labels:
        yield from config.family.classifier_tensors(config)


def is_bare(config: ModelConfig) -> bool:
    """Whether this is a bare `BertModel`, say, which stores its names without the model's."""
    return config.head in ("none", "embedding") and config.width == 1


def _multiplexing(config: ModelConfig) -> Iterator[Tensor]:
    yield from config.multiplexer_module().released_tensors()
    yield from config.demultiplexer_module().released_tensors()
    yield from _decoder(config, "retrieval_head.decoder", "retrieval_head.bias")


def _vocabulary_head(config: ModelConfig) -> Iterator[Tensor]:
    """The masked-LM head of an ordinary model."""
    if config.head == "mlm":
        names, biases = config.family.vocabulary_names, config.family.biases
        yield from linear(names.dense, "demultiplexer/retrieval_output", bias=biases)
        yield from norm(names.norm, "demultiplexer/retrieval_norm", bias=biases)
        yield from _decoder(config, names.decoder, names.bias)


def _decoder(config: ModelConfig, name: str, bias: str) -> Iterator[Tensor]:
    """The vocabulary's matrix, the word embeddings or its own, and its bias under both names."""
    matrix = "embeddings/word" if config.family.tie_word_embeddings else "vocabulary_head/kernel"
    yield Tensor(f"{name}.weight", (matrix,))
    for shared in dict.fromkeys((bias, f"{name}.bias")):
        yield Tensor(shared, ("vocabulary_head/bias",))
