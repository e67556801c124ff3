"""Embeddings as a teacher gives them: the vectors themselves, and which texts of a batch are near each other."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mux_jax.data.tokenizer import SpecialTokens
from mux_jax.models.model import MuxModel
from mux_jax.objectives.retrieval import with_retrieval
from mux_jax.objectives.stages import FinetuneStage

_TEMPERATURE = 0.05  # that divides cosines
_SIMILARITIES = 1.0  # weight of the second part of the loss


def embedding(
    model: MuxModel,
    params: Any,
    batch: dict[str, jax.Array],
    rng: jax.Array,
    *,
    stage: FinetuneStage,
    special: SpecialTokens,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """How far embeddings are from a teacher's, and how far their similarities within the batch.

      mean_i |x_i - y_i|^2 / (2 mean_j |y_j|^2)  +  mean_i KL(p_i || q_i)

      p_ij = softmax_j(cos(y_i, y_j) / 0.05)    q_ij = softmax_j(cos(x_i, x_j) / 0.05)

    x are the model's, y the teacher's; j runs over the other texts of the batch. Of embeddings of length 1 the first
    part is 1 - cos(x_i, y_i). The batch holds `tokens` int32[B, N, L], padded, and `teacher` float32
    [B, N, E]. With a `retrieval_coefficient` the retrieval of all tokens that are no padding is an auxiliary loss.
    """
    tokens = batch["tokens"]
    rngs = jax.random.split(rng)
    bound = model.bind({"params": params}, rngs={"dropout": rngs[0]})
    real = tokens != special.pad
    hidden_BLD = bound.encode(tokens, real, model.config.states_read)
    found_TE = bound.embed(hidden_BLD, real).reshape(-1, model.config.dimensions)
    wanted_TE = batch["teacher"].reshape(found_TE.shape)
    outputs = {"teacher_loss": distance(found_TE, wanted_TE).mean()}
    outputs["similarity_loss"] = similarity_distance(found_TE, wanted_TE)
    outputs["task_loss"] = outputs["teacher_loss"] + _SIMILARITIES * outputs["similarity_loss"]
    return with_retrieval(bound, outputs["task_loss"], hidden_BLD, tokens, rngs[1], stage, outputs, real), outputs


def distance(found_TE: jax.Array, wanted_TE: jax.Array) -> jax.Array:
    """|x - y|^2 of each text over twice the mean |y|^2: float32 [T]."""
    return jnp.square(found_TE - wanted_TE).sum(-1) / jnp.maximum(2 * jnp.square(wanted_TE).sum(-1).mean(), 1e-12)


def similarity_distance(found_TE: jax.Array, wanted_TE: jax.Array) -> jax.Array:
    """The mean KL divergence of what is near each text, among the others, from what it is by `wanted_TE`, in nats."""
    ours_TT, theirs_TT = (jax.nn.log_softmax(_cosines_of_others(x) / _TEMPERATURE) for x in (found_TE, wanted_TE))
    return optax.losses.kl_divergence_with_log_targets(ours_TT, theirs_TT).mean()


def _cosines_of_others(x_TE: jax.Array) -> jax.Array:
    """[T, T]; far below any cosine of a text with itself."""
    x_TE = x_TE / jnp.maximum(jnp.linalg.norm(x_TE, axis=-1, keepdims=True), 1e-12)
    return jnp.where(jnp.eye(len(x_TE), dtype=bool), -2.0, x_TE @ x_TE.T)
