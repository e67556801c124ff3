"""FLOPs by formula: those of the matrix products of a forward pass, two for each multiply-add.

Everything else (norms, GELU, softmax, lookups) is linear in the activations and left out, as is
usual. A step of training takes three times the forward pass. All counts are of one row.
"""

from mux_jax.models.config import ModelConfig


def classification(config: ModelConfig, length: int) -> int:
    """A forward pass of the heads `sequence` and `token` over instances of `length` tokens."""
    sequence = config.head == "sequence"
    row = length + config.prefix_length
    states = max(1, config.prefix_length) if sequence else row  # that are read
    N, D, C = config.width, config.hidden_size, len(config.labels)
    read = 1 if sequence else row  # in each instance
    head = N * read * 2 * D * C
    if sequence and config.architecture == "electra":
        head += N * 2 * D * D
    return encoder(config, row, states) + demultiplexer(config, read, N * read) + head


def pretraining(config: ModelConfig, objective: str, length: int, mask_fraction: float) -> int:
    """A forward pass of `retrieval`, `mlm` or `rtd`, auxiliary retrieval included, over rows of `length` positions."""
    tokens = length - config.prefix_length
    learned = config.head == "rtd" and config.generator == "learned"
    retrieved = retrieval_head(config, tokens, tokens) if config.width > 1 else 0
    if objective == "retrieval":
        generator = pretraining(config.generator_config, objective, length, mask_fraction) if learned else 0
        return encoder(config, length) + retrieved + generator
    if objective == "mlm":
        predicted = config.width * max(1, round(mask_fraction * tokens))
        return encoder(config, length) + retrieval_head(config, predicted, predicted) + retrieved
    states, D = config.width * length, config.hidden_size
    detection = demultiplexer(config, length, states) + states * 2 * D * (D + 1)
    generator = pretraining(config.generator_config, "mlm", length, mask_fraction) if learned else 0
    return encoder(config, length) + detection + retrieved + generator


def encoder(config: ModelConfig, row: int, states: int | None = None) -> int:
    """Multiplexer and encoder over `row` positions; of the last layer only `states` are read, or all."""
    D, E = config.hidden_size, config.embedding_size
    layer = _layer(D, config.intermediate_size, row, row)
    last = _layer(D, config.intermediate_size, states or row, row)
    return (
        _multiplexer(config, row) + (2 * row * E * D if E != D else 0) + (config.num_hidden_layers - 1) * layer + last
    )


def demultiplexer(config: ModelConfig, shared: int, separated: int) -> int:
    """`separated` states out of `shared` ones of the row, for task heads: keys are computed once a batch."""
    if config.width == 1:
        return 0
    square = 2 * config.hidden_size**2
    if config.demultiplexer == "prefix":
        return square * (shared + config.width)
    return square * (shared + separated * (config.num_demux_layers - 1))


def retrieval_head(config: ModelConfig, shared: int, separated: int) -> int:
    """The vocabulary's logits at `separated` states out of `shared` ones of the row."""
    D = config.hidden_size
    if config.width == 1:
        hidden = separated
    elif config.demultiplexer == "prefix":
        hidden = shared + config.width
    else:
        depth = config.num_demux_layers if config.architecture == "electra" else 2
        hidden = shared + separated * depth
    return 2 * D * D * hidden + 2 * D * config.vocab_size * separated


def _layer(hidden: int, intermediate: int, queries: int, keys: int) -> int:
    projections = 2 * hidden * hidden * 2 * (queries + keys)
    attention = 2 * 2 * queries * keys * hidden
    return projections + attention + 2 * 2 * queries * hidden * intermediate


def _multiplexer(config: ModelConfig, row: int) -> int:
    N, E, F = config.width, config.embedding_size, config.intermediate_size
    if N == 1:
        return 0
    if config.multiplexer == "contextual":
        return N * _layer(E, F, row, row) + row * _layer(E, F, N, N)
    return 2 * N * row * E * E if "orthogonal" in config.multiplexer else 0
