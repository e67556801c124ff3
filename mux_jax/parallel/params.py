"""Parameters on a mesh: described, made in place."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import param_shardings


def abstract_params(model: MuxModel, mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of the model's parameters, without making them."""
    boxed = jax.eval_shape(lambda: _init(model, jax.random.key(0)))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        nn.meta.unbox(boxed),
        param_shardings(mesh, boxed),
    )


def init_params(model: MuxModel, mesh: Mesh, seed: int) -> Any:
    """Fresh parameters, made in place on their devices; the same for every mesh."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_params(model, mesh))
    init = jax.jit(lambda rng: nn.meta.unbox(_init(model, rng)), out_shardings=shardings)
    return init(jax.random.key(seed))


def _init(model: MuxModel, rng: jax.Array) -> Any:
    tokens = jnp.zeros((1, model.config.width, 1), jnp.int32)
    return model.clone(deterministic=True).init(rng, tokens, method="init_all")["params"]
