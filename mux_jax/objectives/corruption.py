"""Which tokens a pre-training objective predicts, and what stands in their place.

The number of predicted positions is static, P = round(fraction · L): arrays keep their shapes,
and logits are computed for P positions, not for L.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mux_jax.data.tokenizer import SpecialTokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chosen:
    """Predicted positions: `positions` int32[B, N, P], the `labels` int32[B, N, P] that stood
    there, and `weights` float32[B, N, P], 0 where a row had fewer than P tokens to choose."""

    positions: jax.Array
    labels: jax.Array
    weights: jax.Array


def real_tokens(tokens_BNL: jax.Array, special: SpecialTokens) -> jax.Array:
    """bool[B, N, L]: True where there is no padding."""
    return tokens_BNL != special.pad


def choose(rng: jax.Array, tokens_BNL: jax.Array, special: SpecialTokens, fraction: float) -> Chosen:
    """Draws the predicted positions uniformly among the tokens that are not special."""
    P = max(1, round(fraction * tokens_BNL.shape[-1]))
    ordinary = ~jnp.isin(tokens_BNL, jnp.array(special.ids))
    scores = jnp.where(ordinary, jax.random.uniform(rng, tokens_BNL.shape), -1.0)
    positions = jnp.argsort(-scores, axis=-1)[..., :P]  # top_k gathers the rows of all devices
    best = jnp.take_along_axis(scores, positions, axis=-1)
    labels = jnp.take_along_axis(tokens_BNL, positions, axis=-1)
    return Chosen(positions, labels, (best >= 0).astype(jnp.float32))


def put_tokens(tokens_BNL: jax.Array, chosen: Chosen, values_BNP: jax.Array) -> jax.Array:
    """The tokens with `values` at the chosen positions; where the weight is 0 nothing changes."""
    values = jnp.where(chosen.weights > 0, values_BNP, chosen.labels)
    put = jax.vmap(jax.vmap(lambda tokens_L, positions_P, values_P: tokens_L.at[positions_P].set(values_P)))
    return put(tokens_BNL, chosen.positions, values)


def random_tokens(rng: jax.Array, shape: tuple[int, ...], vocab_size: int) -> jax.Array:
    return jax.random.randint(rng, shape, 0, vocab_size, jnp.int32)


def mask_tokens(
    rng: jax.Array, tokens_BNL: jax.Array, chosen: Chosen, special: SpecialTokens, vocab_size: int
) -> jax.Array:
    """BERT's corruption: of the chosen tokens 80 % MASK, 10 % random, 10 % unchanged."""
    assert special.mask is not None  # `load_pretrain_data` has seen to it
    kind_rng, token_rng = jax.random.split(rng)
    kind = jax.random.uniform(kind_rng, chosen.labels.shape)
    random = random_tokens(token_rng, chosen.labels.shape, vocab_size)
    values = jnp.where(kind < 0.8, special.mask, jnp.where(kind < 0.9, random, chosen.labels))
    return put_tokens(tokens_BNL, chosen, values)
