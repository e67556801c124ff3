"""Multiplexed language models (MUX-PLMs) in JAX: N inputs, one forward pass."""

from typing import Any

__version__ = "0.1.0"


def load_pretrained(path: str) -> tuple[Any, Any]:
    """Loads a model: of a run, of the paper, or an ordinary BERT or ELECTRA.

    Args:
      path: the folder of a run (its newest whole checkpoint is loaded), a Hugging Face folder
        (`config.json` with `model.safetensors` or `pytorch_model.bin`), or an id of the Hugging
        Face hub, such as "princeton-nlp/muxbert_base_gaussian_hadamard_index_pos_2".

    Returns:
      (model, params): `model.apply({"params": params}, tokens, mask)` gives logits, as described
      at `mux_jax.models.model.MuxModel`; `model.config` describes the model. Parameters are float32.

    Raises:
      InputError: there is no model, it is none that is known here, or its weights do not fit its
        configuration.
    """
    from mux_jax import pretrained

    return pretrained.load_pretrained(path)


def __getattr__(name: str) -> Any:
    """`mux_jax.Predictor`, imported when it is asked for: JAX is slow to import."""
    if name == "Predictor":
        from mux_jax.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
