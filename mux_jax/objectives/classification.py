"""Fine-tuning: classes of sequences or tokens, or numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mux_jax.data.tokenizer import SpecialTokens
from mux_jax.models.model import MuxModel
from mux_jax.objectives.retrieval import with_retrieval
from mux_jax.objectives.stages import FinetuneStage


def classification(
    model: MuxModel,
    params: Any,
    batch: dict[str, jax.Array],
    rng: jax.Array,
    *,
    stage: FinetuneStage,
    special: SpecialTokens,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of the labels, in nats, or squared error of a model with one label.

    The batch holds `tokens` int32[B, N, L], padded, and `labels`: int32[B, N] of sequences, float32
    for regression, or int32[B, N, L] of tokens; -1 where there is none, NaN for regression. Where a text
    may have several labels, they are int32[B, N, C]: 1 of those that it has, 0 of the others, and all -1
    where they are not known. The loss is then the mean binary cross-entropy over texts and labels, as in
    PyTorch's `BCEWithLogitsLoss`. `token_types` int32[B, N, L], if it holds them, tell the texts of pairs
    apart, where the model takes them. If it holds `weights`, one a label, their loss is the sum of
    weighted losses over the sum of weights, as in PyTorch's `CrossEntropyLoss(weight)`. If it holds
    a `teacher`'s logits, these are learned from too, by every text or every token that is no padding,
    all alike. With a `retrieval_coefficient` the retrieval of all tokens that are no padding is an
    auxiliary loss.
    """
    tokens, labels = batch["tokens"], batch["labels"]
    rngs = jax.random.split(rng)
    bound = model.bind({"params": params}, rngs={"dropout": rngs[0]})
    real = tokens != special.pad
    token_types = batch.get("token_types") if model.config.takes_token_types else None
    hidden_BLD = bound.encode(tokens, real, token_types_BNL=token_types)
    logits = bound.class_logits(hidden_BLD, real)
    if model.config.head == "token":
        logits = logits[:, :, model.config.prefix_length :]
    if len(model.config.labels) == 1:
        known = ~jnp.isnan(labels)
        losses = (logits[..., 0] - jnp.where(known, labels, 0.0)) ** 2
    elif model.config.multi_label:
        known = labels >= 0
        losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    else:
        known = labels >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    outputs = {"task_loss": _mean(losses, known * batch["weights"] if "weights" in batch else known)}
    if "teacher" in batch:
        part = stage.distillation_coefficient
        taught = real if model.config.head == "token" else jnp.ones_like(known)
        outputs["label_loss"] = outputs["task_loss"]
        apart = distance(logits, batch["teacher"], stage.temperature, model.config.multi_label)
        outputs["teacher_loss"] = _mean(apart, taught)
        outputs["task_loss"] = (1 - part) * outputs["label_loss"] + part * outputs["teacher_loss"]
    loss = with_retrieval(bound, outputs["task_loss"], hidden_BLD, tokens, rngs[1], stage, outputs, real)
    return loss, outputs


def _mean(losses: jax.Array, weights: jax.Array) -> jax.Array:
    total = weights.sum()
    return jnp.where(weights > 0, weights * losses, 0.0).sum() / jnp.where(total > 0, total, 1)


def distance(logits: jax.Array, teacher: jax.Array, temperature: float, multi_label: bool) -> jax.Array:
    """How far logits [..., C] are from the teacher's: KL divergence times temperature²; of numbers, squared error.

    [...], or with `multi_label` [..., C]: of each label by itself, to have it or not.
    """
    if logits.shape[-1] == 1:
        return (logits[..., 0] - teacher[..., 0]) ** 2
    if multi_label:  # sigmoid(x) is the first of softmax([x, 0])
        logits, teacher = (jnp.stack([x, jnp.zeros_like(x)], axis=-1) for x in (logits, teacher))
    ours, wanted = (jax.nn.log_softmax(x / temperature) for x in (logits, teacher))
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(ours, wanted)
