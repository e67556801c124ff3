"""Multiplexed language models (MUX-PLMs) in JAX: N inputs, one forward pass.

The public API:

  load_pretrained(path) -> (model, params)   a run, a Hugging Face folder or an id of the hub
  Predictor(path)                            predictions for any number of texts
  get_config(text)                           the configuration that `--config=TEXT` gives
  train(config, workdir)                     pre-training and fine-tuning
  evaluate(config, model, workdir)           scores of a fine-tuned model on a task
  compress(model, workdir, ...)              a cheaper model out of a fine-tuned one
  export(model, workdir, format)             its program for ONNX Runtime, OpenVINO or XLA
  fit_deferral(model, full, texts)           which texts a cheaper model leaves to a fuller one
  analyze(models, source, ...)               what happens inside multiplexed models
  Multiplexer, Demultiplexer                 base classes of your own; `MULTIPLEXERS` and `DEMULTIPLEXERS`
                                             are the tables that name them, `described` makes their options
  InputError                                 bad input: what was wrong, where, what is allowed

Everything else may change from one version to the next.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mux_jax.version import VERSION

if TYPE_CHECKING:
    from mux_jax.analysis.analyze import analyze
    from mux_jax.checkpoints.source import load_pretrained
    from mux_jax.compression.compress import compress
    from mux_jax.configuration.named import get_config
    from mux_jax.errors import InputError
    from mux_jax.fields import described
    from mux_jax.inference.calibration import fit_deferral
    from mux_jax.inference.evaluation import evaluate
    from mux_jax.inference.export import export
    from mux_jax.inference.predictor import Predictor
    from mux_jax.models.demultiplexers import DEMULTIPLEXERS, Demultiplexer
    from mux_jax.models.multiplexers import MULTIPLEXERS, Multiplexer
    from mux_jax.training.loop import train

__version__ = VERSION

# Where each name is defined. It is imported when it is asked for: JAX is slow to import.
_PUBLIC = {
    "DEMULTIPLEXERS": "models.demultiplexers",
    "Demultiplexer": "models.demultiplexers",
    "InputError": "errors",
    "MULTIPLEXERS": "models.multiplexers",
    "Multiplexer": "models.multiplexers",
    "Predictor": "inference.predictor",
    "analyze": "analysis.analyze",
    "compress": "compression.compress",
    "described": "fields",
    "evaluate": "inference.evaluation",
    "export": "inference.export",
    "fit_deferral": "inference.calibration",
    "get_config": "configuration.named",
    "load_pretrained": "checkpoints.source",
    "train": "training.loop",
}

__all__ = [
    "DEMULTIPLEXERS",
    "Demultiplexer",
    "InputError",
    "MULTIPLEXERS",
    "Multiplexer",
    "Predictor",
    "analyze",
    "compress",
    "described",
    "evaluate",
    "export",
    "fit_deferral",
    "get_config",
    "load_pretrained",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"mux_jax.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
