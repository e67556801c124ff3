"""Hidden layers with fewer units: of feed-forward layers, and of heads."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mux_jax.compression.regression import Params, Regression, linear
from mux_jax.models.config import ModelConfig
from mux_jax.models.heads import ACTIVATIONS


def fit_units(
    parts: jax.Array, units: jax.Array, activation: Callable[[jax.Array], jax.Array], target: jax.Array, count: int
) -> tuple[Params, Params]:
    """Two linear maps with an activation between: units of a hidden layer, the least used left out in three rounds.

    What unit f alone adds to the outputs is |W_f|^2 sum (activation(z_f) - mean)^2. A round leaves out a third of those
    that must go, the least first, and fits W again, so that the others take over. Three is a plain choice: one and
    six do about as well.

    Args:
      parts: what is read, an example a row, as in the next two.
      units: what the first map is to give before the activation.
      target: what the second one is to give.
      count: of the units that stay.
    """
    first = Regression(parts, units).solve()
    regression = Regression(activation(linear(first, parts)), target)
    F = units.shape[-1]
    used, variance = np.arange(F), regression.covariance.diagonal()
    for left in np.linspace(F, count, 4)[1:].astype(int) if count < F else ():
        weight = (regression.solve(used)["kernel"] ** 2).sum(1) * variance[used]
        used = np.sort(used[np.argsort(-weight)[:left]])
    return {k: v[..., used] for k, v in first.items()}, regression.solve(used)


def fit_head(config: ModelConfig, params: Params, count: int, found: jax.Array, states: jax.Array) -> Params:
    """The head of a model with fewer dimensions, which gives about the full model's logits or embeddings.

    Args:
      config: of the full model.
      params: its parameters.
      count: of the units that a hidden layer of the head has.
      found: what the head is to read, an example a row: the states of tokens, or the first or pooled ones of texts.
      states: what the full model's reads.
    """
    if config.head == "embedding":  # whose first projection is to as many dimensions as the full model's states have
        theirs = params.get("embedding_head", {})
        later = {f"projection_{i + 1}": theirs[f"projection_{i}"] for i in range(len(theirs))}
        return {"embedding_head": {"projection_0": Regression(found, states).solve()} | later}
    classifier = params["classifier"]
    if not (config.has_pooler or "dense" in classifier):
        return {"classifier": {"output": Regression(found, linear(classifier["output"], states)).solve()}}
    hidden = params["pooler"] if config.has_pooler else classifier["dense"]
    activation = jnp.tanh if config.has_pooler else ACTIVATIONS[config.family.hidden_activation]
    units = linear(hidden, states)
    first, second = fit_units(found, units, activation, linear(classifier["output"], activation(units)), count)
    if config.has_pooler:
        return {"pooler": first, "classifier": {"output": second}}
    return {"classifier": {"dense": first, "output": second}}
