"""Where every tensor of a released checkpoint lies in our parameters: the one table, read both ways.

PyTorch stores the matrix of a linear layer as [out, in], Flax as [in, out]. The released code
gives the demultiplexer's first layer one matrix for [key ; state], where we have two; it gives the
encoder's layers one tensor each, where we stack them; and it stores what several modules share
under the name of each.
"""

import dataclasses
from collections.abc import Iterator

from mux_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor: its released name, and where it is in our tree.

    paths: where; of two, the first has the upper rows of the matrix and the second the lower;
    layer: the index along our leading axis, for the encoder's stacked layers;
    transposed: whether theirs is the transpose of ours.
    """

    name: str
    paths: tuple[str, ...]
    layer: int | None = None
    transposed: bool = False


def tensors(config: ModelConfig) -> Iterator[Tensor]:
    """All tensors of the released form of a model; shared ones under each of their names."""
    # A bare `BertModel` or `ElectraModel` stores its names without the model's.
    bare = config.head == "none" and config.width == 1
    yield from _backbone(config, "" if bare else f"{config.architecture}.")
    yield from _multiplexing(config) if config.width > 1 else _vocabulary_head(config)
    if config.head == "rtd":
        yield from _linear("discriminator_predictions.dense", "detection_head/dense")
        yield from _linear("discriminator_predictions.dense_prediction", "detection_head/prediction")
        if config.generator == "learned":
            for tensor in tensors(config.generator_config):
                paths = tuple(f"generator/{path}" for path in tensor.paths)
                yield dataclasses.replace(tensor, name=f"generator.{tensor.name}", paths=paths)
    elif config.head == "sequence" and config.architecture == "electra":
        yield from _linear("classifier.dense", "classifier/dense")
        yield from _linear("classifier.out_proj", "classifier/output")
    elif config.labels:
        yield from _linear("classifier", "classifier/output")


def _backbone(config: ModelConfig, prefix: str) -> Iterator[Tensor]:
    for table in ("word", "position", "token_type"):
        yield Tensor(f"{prefix}embeddings.{table}_embeddings.weight", (f"embeddings/{table}",))
    yield from _norm(f"{prefix}embeddings.LayerNorm", "embeddings/norm")
    if config.embedding_size != config.hidden_size:
        yield from _linear(f"{prefix}embeddings_project", "embeddings_project")
    for layer in range(config.num_hidden_layers):
        yield from _layer(f"{prefix}encoder.layer.{layer}", "encoder/layers", layer)


def _multiplexing(config: ModelConfig) -> Iterator[Tensor]:
    yield Tensor("instance_embedding", ("multiplexer/keys",))
    if config.multiplexer == "contextual":
        yield from _layer("muxing_attention", "multiplexer/within_instance")
        yield from _layer("muxing_attention_2", "multiplexer/across_instances")
    if config.demultiplexer == "rsa":
        for owner in ("", "demultiplexer.", "retrieval_head."):
            yield from _shared_stack(config, f"{owner}demux_module")
        yield from _linear("demultiplexer.pre_decoder", "demultiplexer/output")
        yield from _norm("demultiplexer.pre_decoder_layer_norm", "demultiplexer/output_norm")
        yield from _linear("retrieval_head.pre_decoder", "demultiplexer/retrieval_output")
        yield from _norm("retrieval_head.pre_decoder_layer_norm", "demultiplexer/retrieval_norm")
    else:
        yield from _keyed_linear("demultiplexer.dense", "demultiplexer/dense_keys", "demultiplexer/layer")
        yield from _norm("demultiplexer.layer_norm", "demultiplexer/output_norm")
        retrieval = ("demultiplexer/retrieval_dense_keys", "demultiplexer/retrieval_layer")
        yield from _keyed_linear("retrieval_head.dense", *retrieval)
        yield from _norm("retrieval_head.layer_norm", "demultiplexer/retrieval_norm")
    yield from _decoder(config, "retrieval_head.decoder", "retrieval_head.bias")


def _shared_stack(config: ModelConfig, name: str) -> Iterator[Tensor]:
    """The layers that RSA's demultiplexer and retrieval head share."""
    yield Tensor(f"{name}.demux_instance_embedding", ("demultiplexer/keys",))
    yield from _keyed_linear(f"{name}.dense_1", "demultiplexer/dense_keys", "demultiplexer/layers_0")
    for i in range(1, config.num_demux_layers):
        yield from _linear(f"{name}.dense_{i + 1}", f"demultiplexer/layers_{i}")
    for i in range(config.num_demux_layers):
        yield from _norm(f"{name}.layer_norm_{i + 1}", f"demultiplexer/norms_{i}")


def _vocabulary_head(config: ModelConfig) -> Iterator[Tensor]:
    """The masked-LM head of an ordinary BERT or ELECTRA."""
    if config.head != "mlm":
        return
    if config.architecture == "bert":
        yield from _linear("cls.predictions.transform.dense", "demultiplexer/retrieval_output")
        yield from _norm("cls.predictions.transform.LayerNorm", "demultiplexer/retrieval_norm")
        yield from _decoder(config, "cls.predictions.decoder", "cls.predictions.bias")
    else:
        yield from _linear("generator_predictions.dense", "demultiplexer/retrieval_output")
        yield from _norm("generator_predictions.LayerNorm", "demultiplexer/retrieval_norm")
        yield from _decoder(config, "generator_lm_head", "generator_lm_head.bias")


def _decoder(config: ModelConfig, name: str, bias: str) -> Iterator[Tensor]:
    """The vocabulary's matrix, BERT's word embeddings or ELECTRA's own, and its bias under both names."""
    matrix = "embeddings/word" if config.architecture == "bert" else "vocabulary_head/kernel"
    yield Tensor(f"{name}.weight", (matrix,))
    for shared in dict.fromkeys((bias, f"{name}.bias")):
        yield Tensor(shared, ("vocabulary_head/bias",))


def _layer(name: str, ours: str, layer: int | None = None) -> Iterator[Tensor]:
    """A Transformer layer."""
    for part in ("query", "key", "value"):
        yield from _linear(f"{name}.attention.self.{part}", f"{ours}/attention/{part}", layer)
    yield from _linear(f"{name}.attention.output.dense", f"{ours}/attention/output", layer)
    yield from _norm(f"{name}.attention.output.LayerNorm", f"{ours}/attention_norm", layer)
    yield from _linear(f"{name}.intermediate.dense", f"{ours}/intermediate", layer)
    yield from _linear(f"{name}.output.dense", f"{ours}/output", layer)
    yield from _norm(f"{name}.output.LayerNorm", f"{ours}/output_norm", layer)


def _linear(name: str, ours: str, layer: int | None = None) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (f"{ours}/kernel",), layer, transposed=True)
    yield Tensor(f"{name}.bias", (f"{ours}/bias",), layer)


def _keyed_linear(name: str, keys: str, states: str) -> Iterator[Tensor]:
    """A linear layer on [key ; state]."""
    yield Tensor(f"{name}.weight", (f"{keys}/kernel", f"{states}/kernel"), transposed=True)
    yield Tensor(f"{name}.bias", (f"{states}/bias",))


def _norm(name: str, ours: str, layer: int | None = None) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (f"{ours}/scale",), layer)
    yield Tensor(f"{name}.bias", (f"{ours}/bias",), layer)
