"""FLOPs by formula: of the matrix products of a forward pass, two for each multiply-add.

Everything else (norms, GELU, softmax, lookups) is linear in the activations and left out, as is
usual. A step of training takes three times the forward pass. All counts are of one row.
"""

from mux_jax.models.config import ModelConfig


def classification(config: ModelConfig, length: int) -> int:
    """A forward pass of the heads `sequence`, `token` and `embedding` over instances of `length` tokens."""
    sequence = config.head == "sequence"
    row = length + config.prefix_length
    states = config.states_read or row
    N, D, C = config.width, config.hidden_size, len(config.labels)
    read = 1 if sequence else row  # in each instance
    head = N * read * 2 * D * C
    if config.head == "embedding":
        sizes = [D, *(size for size, _, _ in config.projections)]
        head = N * sum(2 * a * b for a, b in zip(sizes, sizes[1:]))
        return encoder(config, row, states) + config.demultiplexer_module().flops(states, N * states) + head
    hidden = bool(config.family.hidden_activation) and (sequence or config.family.hidden_for_tokens)
    head += N * read * (hidden + config.has_pooler) * 2 * D * D
    return encoder(config, row, states) + config.demultiplexer_module().flops(read, N * read) + head


def pretraining(config: ModelConfig, objective: str, length: int, mask_fraction: float) -> int:
    """A forward pass of `retrieval`, `mlm` or `rtd`, auxiliary retrieval included, over rows of `length` positions."""
    tokens = length - config.prefix_length
    learned = config.head == "rtd" and config.generator == "learned"
    retrieved = vocabulary(config, tokens, tokens) if config.width > 1 else 0
    if objective == "retrieval":
        generator = pretraining(config.generator_config, objective, length, mask_fraction) if learned else 0
        return encoder(config, length) + retrieved + generator
    if objective == "mlm":
        predicted = config.width * max(1, round(mask_fraction * tokens))
        return encoder(config, length) + vocabulary(config, predicted, predicted) + retrieved
    states, D = config.width * length, config.hidden_size
    detection = config.demultiplexer_module().flops(length, states) + states * 2 * D * (D + 1)
    generator = pretraining(config.generator_config, "mlm", length, mask_fraction) if learned else 0
    return encoder(config, length) + detection + retrieved + generator


def encoder(config: ModelConfig, row: int, states: int | None = None) -> int:
    """Multiplexer and encoder over `row` positions; of the last layer only `states` are read, or all."""
    D, E = config.hidden_size, config.embedding_size
    multiplexer = config.multiplexer_module().flops(row) if config.width > 1 else 0
    projection = 2 * row * E * D if E != D else 0
    layers = (config.num_hidden_layers - 1) * config.family.layer_flops(config, row, row)
    return multiplexer + projection + layers + config.family.layer_flops(config, states or row, row)


def vocabulary(config: ModelConfig, shared: int, separated: int) -> int:
    """The vocabulary's logits at `separated` states out of `shared` ones of the row."""
    decoder = 2 * config.hidden_size * config.vocab_size * separated
    return config.demultiplexer_module().retrieval_flops(shared, separated) + decoder
