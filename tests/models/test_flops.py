"""The formulas against what XLA counts in the program itself, before it optimises."""

import jax
import jax.numpy as jnp
import pytest

from mux_jax.models import flops
from mux_jax.models.model import MuxModel
from mux_jax.objectives import objectives
from mux_jax.objectives.stages import PretrainStage
from tests.conftest import SPECIAL, small_model

# So wide that the matrix products, which the formulas count, are nearly all that there is.
WIDE = dict(
    hidden_size=512,
    embedding_size=512,
    intermediate_size=2048,
    num_attention_heads=4,
    vocab_size=3000,
    max_position_embeddings=64,
    num_hidden_layers=3,
    scan_layers=False,
)
ROWS, LENGTH = 8, 32


def counted(function, config, **fields) -> float:
    """FLOPs of a row, as XLA counts them in the unoptimised program."""
    model = MuxModel(config, **fields)
    tokens = jax.ShapeDtypeStruct((ROWS, config.width, LENGTH), jnp.int32)
    params = jax.eval_shape(lambda t: model.init(jax.random.key(0), t, method="init_all")["params"], tokens)
    lowered = jax.jit(lambda params, tokens: function(model, params, tokens)).lower(params, tokens)
    return lowered.cost_analysis()["flops"] / ROWS


@pytest.mark.parametrize("multiplexer", ["gaussian", "contextual", "orthogonal"])
@pytest.mark.parametrize("demultiplexer", ["rsa", "prefix"])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_classification_as_inference_computes_it(head, width, demultiplexer, multiplexer):
    config = small_model(
        **WIDE,
        width=width,
        head=head,
        labels=("a", "b"),
        multiplexer=multiplexer,
        demultiplexer=demultiplexer,
        **(dict(prefix_token_id=100) if demultiplexer == "prefix" else dict(num_demux_layers=3)),
    )
    found = counted(lambda model, params, tokens: model.apply({"params": params}, tokens), config, split_layers=True)
    assert flops.classification(config, LENGTH) == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize("architecture", ["bert", "electra"])
@pytest.mark.parametrize("objective", ["retrieval", "mlm", "rtd"])
@pytest.mark.parametrize("width", [1, 4])
def test_pretraining_and_its_gradient(width, objective, architecture):
    if (width, objective) == (1, "retrieval"):
        return
    head = "mlm" if objective == "mlm" else "rtd"
    config = small_model(**WIDE, width=width, head=head, architecture=architecture, generator="learned")
    loss = objectives.make(PretrainStage(objective=objective), SPECIAL)
    forward = flops.pretraining(config, objective, LENGTH, 0.15)

    def value(model, params, tokens):
        return loss(model, params, {"tokens": tokens}, jax.random.key(1))[0]

    def gradient(model, params, tokens):
        return jax.grad(value, argnums=1)(model, params, tokens)

    assert forward == pytest.approx(counted(value, config), rel=0.05)
    assert 3 * forward == pytest.approx(counted(gradient, config), rel=0.05)
