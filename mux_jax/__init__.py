"""Multiplexed language models (MUX-PLMs) in JAX: N inputs, one forward pass."""

from typing import Any

__version__ = "0.1.0"


def load_pretrained(path: str) -> tuple[Any, Any]:
    """Loads the newest whole checkpoint of a run.

    Args:
      path: the folder of a run (its workdir).

    Returns:
      (model, params): `model.apply({"params": params}, tokens, mask)` gives logits, as described
      at `mux_jax.models.model.MuxModel`; `model.config` describes the model.

    Raises:
      InputError: the folder holds no checkpoint.
    """
    import jax

    from mux_jax.training.mesh import make_mesh
    from mux_jax.training.runs import read_run

    model, params, _ = read_run(path, make_mesh(devices=jax.devices()[:1]))
    return model, params
