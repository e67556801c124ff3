"""Embeddings: texts that belong together are near each other, or all are where a teacher puts them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mux_jax.data.tokenizer import SpecialTokens
from mux_jax.models.model import MuxModel
from mux_jax.objectives.retrieval import with_retrieval
from mux_jax.objectives.stages import FinetuneStage

_TEMPERATURE = 0.05  # that divides cosines


def embedding(
    model: MuxModel,
    params: Any,
    batch: dict[str, jax.Array],
    rng: jax.Array,
    *,
    stage: FinetuneStage,
    special: SpecialTokens,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Texts that belong together are near each other; or embeddings are those of a teacher.

    The batch holds `tokens` int32[B, N, L], padded, and:

    `columns` int32[B, N]: 0 of an anchor, 1 of what is near it, 2 of what is not, -1 of what does not count; and
    numbers of texts, int32[B, N]: `texts` of its own, `anchors` and `positives` of those in columns 0 and 1 of its
    example. The loss is multiple negatives ranking (arXiv 1705.00652), over all rows of the batch:

      pair_loss = mean_a -log(sum_j near_aj p_aj)    p_aj = softmax_j(cos(x_a, x_j) / 0.05)

    a runs over the anchors, j over what is none, but for the anchor's own text. Near is what is so in any example of
    the batch with this anchor. Or, beside it, `teacher` float32[B, N, E], embeddings y:

      teacher_loss    = mean_i |x_i - y_i|^2 / (2 mean_j |y_j|^2)    which is 1 - cos(x_i, y_i) at length 1
      similarity_loss = mean_i KL(softmax_j(cos(y_i, y_j) / 0.05) || softmax_j(cos(x_i, x_j) / 0.05))

    where j runs over the other texts. `distillation_coefficient` is the part of these two in the sum of all. With a
    `retrieval_coefficient` the retrieval of all tokens that are no padding is an auxiliary loss.
    """
    tokens, config = batch["tokens"], model.config
    rngs = jax.random.split(rng)
    bound = model.bind({"params": params}, rngs={"dropout": rngs[0]})
    real = tokens != special.pad
    retrieves = config.width > 1 and stage.retrieval_coefficient
    hidden_BLD = bound.encode(tokens, real, None if retrieves else config.states_read)
    found_TE = bound.embed(hidden_BLD, real).reshape(-1, config.dimensions)
    outputs: dict[str, jax.Array] = {}
    if "columns" in batch:
        numbers = (batch[name].ravel() for name in ("columns", "texts", "anchors", "positives"))
        outputs["pair_loss"] = pair_distance(found_TE, *numbers)
    if "teacher" in batch:
        wanted_TE = batch["teacher"].reshape(found_TE.shape)
        tokens_TL = tokens.reshape(len(found_TE), -1)
        same_TT = (tokens_TL[:, None] == tokens_TL[None]).all(-1)
        outputs["teacher_loss"] = distance(found_TE, wanted_TE).mean()
        outputs["similarity_loss"] = similarity_distance(found_TE, wanted_TE, same_TT)
    zero, part = jnp.zeros(()), stage.distillation_coefficient if "teacher" in batch else 0.0
    taught = outputs.get("teacher_loss", zero) + outputs.get("similarity_loss", zero)
    outputs["task_loss"] = (1 - part) * outputs.get("pair_loss", zero) + part * taught
    return with_retrieval(bound, outputs["task_loss"], hidden_BLD, tokens, rngs[1], stage, outputs, real), outputs


def pair_distance(
    found_TE: jax.Array, columns_T: jax.Array, texts_T: jax.Array, anchors_T: jax.Array, positives_T: jax.Array
) -> jax.Array:
    """The mean over anchors of how little of its probability goes to what is near, in nats; see `embedding`."""
    others_T, own_T = columns_T >= 1, columns_T == 0
    near_TT = positives_T[:, None] == texts_T[None]
    near_TT |= (anchors_T[:, None] == anchors_T[None]) & (columns_T == 1)[None]
    near_TT &= others_T[None]
    asked_TT = near_TT | others_T[None] & (texts_T[:, None] != texts_T[None])
    logits_TT = _cosines(found_TE) / _TEMPERATURE
    apart_T = jax.nn.logsumexp(logits_TT, axis=-1, where=asked_TT) - jax.nn.logsumexp(logits_TT, axis=-1, where=near_TT)
    return jnp.where(own_T, apart_T, 0.0).sum() / own_T.sum()


def distance(found_TE: jax.Array, wanted_TE: jax.Array) -> jax.Array:
    """|x - y|^2 of each text over twice the mean |y|^2: float32 [T]."""
    return jnp.square(found_TE - wanted_TE).sum(-1) / jnp.maximum(2 * jnp.square(wanted_TE).sum(-1).mean(), 1e-12)


def similarity_distance(found_TE: jax.Array, wanted_TE: jax.Array, same_TT: jax.Array) -> jax.Array:
    """The mean KL divergence of what is near each text, among the others, from what it is by `wanted_TE`, in nats.

    same_TT: which texts are the same.
    """
    cosines = (jnp.where(same_TT, -2.0, _cosines(x)) for x in (found_TE, wanted_TE))  # far below any
    ours_TT, theirs_TT = (jax.nn.log_softmax(x / _TEMPERATURE) for x in cosines)
    return optax.losses.kl_divergence_with_log_targets(ours_TT, theirs_TT).mean()


def _cosines(x_TE: jax.Array) -> jax.Array:
    """Of each text with each: [T, T]."""
    x_TE = x_TE * jax.lax.rsqrt(jnp.maximum(jnp.square(x_TE).sum(-1, keepdims=True), 1e-24))
    return jnp.matmul(x_TE, x_TE.T, precision="highest")
