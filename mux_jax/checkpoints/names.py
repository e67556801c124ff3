"""Where every tensor of a released checkpoint lies in our parameters: the one table, read both ways.

Multiplexers and demultiplexers name their own tensors; what several modules share is stored under
the name of each.
"""

import dataclasses
from collections.abc import Iterator

from mux_jax.models.config import ModelConfig
from mux_jax.models.released import Tensor, linear, norm, transformer_layer


def tensors(config: ModelConfig) -> Iterator[Tensor]:
    """All tensors of the released form of a model; shared ones under each of their names."""
    # A bare `BertModel` or `ElectraModel` stores its names without the model's.
    bare = config.head == "none" and config.width == 1
    yield from _backbone(config, "" if bare else f"{config.architecture}.")
    yield from _multiplexing(config) if config.width > 1 else _vocabulary_head(config)
    if config.head == "rtd":
        yield from linear("discriminator_predictions.dense", "detection_head/dense")
        yield from linear("discriminator_predictions.dense_prediction", "detection_head/prediction")
        if config.generator == "learned":
            for tensor in tensors(config.generator_config):
                paths = tuple(f"generator/{path}" for path in tensor.paths)
                yield dataclasses.replace(tensor, name=f"generator.{tensor.name}", paths=paths)
    elif config.head == "sequence" and config.architecture == "electra":
        yield from linear("classifier.dense", "classifier/dense")
        yield from linear("classifier.out_proj", "classifier/output")
    elif config.labels:
        yield from linear("classifier", "classifier/output")


def _backbone(config: ModelConfig, prefix: str) -> Iterator[Tensor]:
    for table in ("word", "position", "token_type"):
        yield Tensor(f"{prefix}embeddings.{table}_embeddings.weight", (f"embeddings/{table}",))
    yield from norm(f"{prefix}embeddings.LayerNorm", "embeddings/norm")
    if config.embedding_size != config.hidden_size:
        yield from linear(f"{prefix}embeddings_project", "embeddings_project")
    for layer in range(config.num_hidden_layers):
        yield from transformer_layer(f"{prefix}encoder.layer.{layer}", "encoder/layers", layer)


def _multiplexing(config: ModelConfig) -> Iterator[Tensor]:
    yield from config.multiplexer_module().released_tensors()
    yield from config.demultiplexer_module().released_tensors()
    yield from _decoder(config, "retrieval_head.decoder", "retrieval_head.bias")


def _vocabulary_head(config: ModelConfig) -> Iterator[Tensor]:
    """The masked-LM head of an ordinary BERT or ELECTRA."""
    if config.head != "mlm":
        return
    if config.architecture == "bert":
        yield from linear("cls.predictions.transform.dense", "demultiplexer/retrieval_output")
        yield from norm("cls.predictions.transform.LayerNorm", "demultiplexer/retrieval_norm")
        yield from _decoder(config, "cls.predictions.decoder", "cls.predictions.bias")
    else:
        yield from linear("generator_predictions.dense", "demultiplexer/retrieval_output")
        yield from norm("generator_predictions.LayerNorm", "demultiplexer/retrieval_norm")
        yield from _decoder(config, "generator_lm_head", "generator_lm_head.bias")


def _decoder(config: ModelConfig, name: str, bias: str) -> Iterator[Tensor]:
    """The vocabulary's matrix, BERT's word embeddings or ELECTRA's own, and its bias under both names."""
    matrix = "embeddings/word" if config.architecture == "bert" else "vocabulary_head/kernel"
    yield Tensor(f"{name}.weight", (matrix,))
    for shared in dict.fromkeys((bias, f"{name}.bias")):
        yield Tensor(shared, ("vocabulary_head/bias",))
