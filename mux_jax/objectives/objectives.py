"""The objectives: pure functions (model, params, batch, rng) -> (loss, outputs).

`batch["tokens"]` is int32[B, N, L]; classification has labels as well. The loss is a float32 scalar
in nats. Of the outputs, scalars are losses to log; arrays are what `training/heldout.py`
computes its figures from. `make` gives the function that a stage's configuration describes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mux_jax.data.tokenizer import SpecialTokens
from mux_jax.errors import InputError
from mux_jax.models.model import MuxModel, truncate_for_prefix
from mux_jax.objectives import corruption
from mux_jax.objectives.classification import classification
from mux_jax.objectives.cross_entropy import most_probable, vocabulary_cross_entropy
from mux_jax.objectives.embedding import embedding
from mux_jax.objectives.retrieval import draw_instances, retrieval_loss, with_retrieval
from mux_jax.objectives.stages import PretrainStage, Stage

Outputs = dict[str, jax.Array]
Decide = Callable[[jax.Array], jax.Array]
Objective = Callable[[MuxModel, Any, dict[str, jax.Array], jax.Array], tuple[jax.Array, Outputs]]


def retrieval(
    model: MuxModel, params: Any, batch: dict[str, jax.Array], rng: jax.Array, *, stage: Stage, special: SpecialTokens
) -> tuple[jax.Array, Outputs]:
    """Priming: recover the input tokens. A learned generator is primed along with its model."""
    tokens = truncate_for_prefix(model.config, batch["tokens"])
    rngs = jax.random.split(rng, 3)
    bound = model.bind({"params": params}, rngs={"dropout": rngs[0]})
    mask = corruption.real_tokens(tokens, special)
    loss, outputs = retrieval_loss(bound, bound.encode(tokens, mask), tokens, draw_instances(rngs[1], tokens))
    outputs["retrieval_loss"] = loss
    if has_generator(model):
        generator = bound.generator
        hidden_BLD = generator.encode(tokens, mask)
        generator_loss, _ = retrieval_loss(generator, hidden_BLD, tokens, draw_instances(rngs[2], tokens))
        outputs["generator_retrieval_loss"] = generator_loss
        loss += generator_loss
    return loss, outputs


def masked_lm(
    model: MuxModel,
    params: Any,
    batch: dict[str, jax.Array],
    rng: jax.Array,
    *,
    stage: PretrainStage,
    special: SpecialTokens,
) -> tuple[jax.Array, Outputs]:
    """MUX-BERT: task_coefficient · masked LM + retrieval_coefficient · retrieval."""
    rngs = jax.random.split(rng, 4)
    bound = model.bind({"params": params}, rngs={"dropout": rngs[0]})
    original = truncate_for_prefix(model.config, batch["tokens"])
    chosen = corruption.choose(rngs[1], original, special, stage.mask_fraction)
    tokens = corruption.mask_tokens(rngs[2], original, chosen, special, model.config.vocab_size)
    real = corruption.real_tokens(original, special)
    loss, outputs, _ = _masked_lm(bound, tokens, real, chosen, rngs[3], stage)
    return loss, outputs


def replaced_token_detection(
    model: MuxModel,
    params: Any,
    batch: dict[str, jax.Array],
    rng: jax.Array,
    *,
    stage: PretrainStage,
    special: SpecialTokens,
) -> tuple[jax.Array, Outputs]:
    """MUX-ELECTRA: which tokens were replaced?

    detection_weight · (task_coefficient · detection + retrieval_coefficient · retrieval), plus the
    loss of `masked_lm` for a learned generator. `replace_fraction` of the chosen tokens, 85 %, are
    replaced: by random ones, or masked for the learned generator and sampled from its prediction.
    """
    original = truncate_for_prefix(model.config, batch["tokens"])
    rngs = jax.random.split(rng, 6)
    bound = model.bind({"params": params}, rngs={"dropout": rngs[0]})
    chosen = corruption.choose(rngs[1], original, special, stage.mask_fraction)
    replaced = jax.random.uniform(rngs[2], chosen.labels.shape) < stage.replace_fraction
    real = corruption.real_tokens(original, special)

    loss: jax.Array | float = 0.0
    outputs: Outputs = {}
    if has_generator(model):
        assert special.mask is not None  # `load_pretrain_data` has seen to it
        masked = corruption.put_tokens(original, chosen, jnp.where(replaced, special.mask, chosen.labels))
        # A sample is an integer: no gradient flows through it.
        sample = functools.partial(jax.random.categorical, rngs[4])
        loss, generated, samples = _masked_lm(bound.generator, masked, real, chosen, rngs[3], stage, sample)
        outputs |= {f"generator_{name}": value for name, value in generated.items() if value.ndim == 0}
    else:
        samples = corruption.random_tokens(rngs[4], chosen.labels.shape, model.config.vocab_size)
    tokens = corruption.put_tokens(original, chosen, jnp.where(replaced, samples, chosen.labels))

    hidden_BLD = bound.encode(tokens, real)
    outputs["rtd_loss"], detected = detection_loss(bound, hidden_BLD, tokens != original, real)
    outputs |= detected
    task = with_retrieval(bound, outputs["rtd_loss"], hidden_BLD, tokens, rngs[5], stage, outputs)
    return loss + stage.detection_weight * task, outputs


def has_generator(model: MuxModel) -> bool:
    return model.config.head == "rtd" and model.config.generator == "learned"


def masked_lm_loss(
    bound: MuxModel, hidden_BLD: jax.Array, chosen: corruption.Chosen, decide: Decide = most_probable
) -> tuple[jax.Array, jax.Array]:
    """The mean cross-entropy of the chosen tokens on encoded rows, and the tokens [B, N, P] decided on.

    `decide`: see `vocabulary_cross_entropy`.
    """
    positions = bound.config.prefix_length + chosen.positions
    states_BNPD = bound.vocabulary_states(hidden_BLD, bound.all_instances, positions)
    weights = chosen.weights / jnp.maximum(chosen.weights.sum(), 1)
    return vocabulary_cross_entropy(states_BNPD, *bound.decoder(), chosen.labels, weights, decide)


def detection_loss(
    bound: MuxModel, hidden_BLD: jax.Array, labels_BNL: jax.Array, real_BNL: jax.Array
) -> tuple[jax.Array, Outputs]:
    """The mean binary cross-entropy over real tokens on encoded rows, and what the figures need."""
    logits_BNL = bound.detection_logits(hidden_BLD)[..., bound.config.prefix_length :]
    losses_BNL = optax.sigmoid_binary_cross_entropy(logits_BNL, labels_BNL.astype(jnp.float32))
    outputs = {"rtd_logits": logits_BNL, "rtd_labels": labels_BNL, "rtd_real": real_BNL}
    return (losses_BNL * real_BNL).sum() / real_BNL.sum(), outputs


def _masked_lm(
    bound: MuxModel,
    tokens: jax.Array,
    real: jax.Array,
    chosen: corruption.Chosen,
    rng: jax.Array,
    stage: PretrainStage,
    decide: Decide = most_probable,
) -> tuple[jax.Array, Outputs, jax.Array]:
    """Loss and outputs of predicting the chosen tokens, and the tokens [B, N, P] decided on."""
    hidden_BLD = bound.encode(tokens, real)
    mlm_loss, decided = masked_lm_loss(bound, hidden_BLD, chosen, decide)
    outputs = {"mlm_loss": mlm_loss, "mlm_correct": decided == chosen.labels, "mlm_weights": chosen.weights}
    loss = with_retrieval(bound, outputs["mlm_loss"], hidden_BLD, tokens, rng, stage, outputs)
    return loss, outputs, decided


OBJECTIVES: dict[str, Callable[..., tuple[jax.Array, Outputs]]] = {
    "retrieval": retrieval,
    "mlm": masked_lm,
    "rtd": replaced_token_detection,
    "classification": classification,
    "embedding": embedding,
}


def check(stage: Stage, width: int) -> None:
    """Raises `InputError` if a stage's objective does not exist or does not fit the width."""
    if stage.objective not in OBJECTIVES:
        raise InputError(f"objective={stage.objective!r} does not exist; there are: {', '.join(OBJECTIVES)}")
    if stage.objective == "retrieval" and width == 1:
        raise InputError("objective='retrieval' needs model.width of at least 2: width 1 has nothing to separate")


def make(stage: Stage, special: SpecialTokens) -> Objective:
    """The objective that a stage of the configuration describes."""
    return functools.partial(OBJECTIVES[stage.objective], stage=stage, special=special)
