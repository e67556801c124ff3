"""What a model with the paper's keys is before it learns: encoder and classifier of the full one, the rest fresh."""

import dataclasses
from typing import Any

import jax
from etils import epath

import mux_jax
from experiments.superposition.means import Means
from mux_jax import configuration
from mux_jax.checkpoints.convert import save_model
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.data.tokenizer import ModelTokenizer
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh
from mux_jax.parallel.params import init_params

PRIMING_STEPS, PRIMING_RATE = 600, 2e-4


def gaussian_start(
    found: ModelSource, means: Means, tokenizer: ModelTokenizer, folder: epath.Path, corpus: str, seed: int
) -> None:
    """Writes the full model with Gaussian keys and a fresh demultiplexer to `folder`; primed, if `means` says so.

    Args:
      corpus: text files, a glob, to prime on.
    """
    config = dataclasses.replace(found.config, width=means.width, multiplexer="gaussian", demultiplexer="rsa")
    mesh = make_mesh()
    own, params = found.params(mesh), init_params(MuxModel(config), mesh, seed)
    params = params | {name: own[name] for name in ("embeddings", "encoder", "classifier", "pooler") if name in own}
    save_model(folder, config, jax.device_get(params), tokenizer, found.address, False, found.task)
    if means.primed:
        workdir, length = folder.parent / f"{folder.name}_primed", min(64, config.max_length - config.prefix_length)
        primed = _primed(folder, workdir, means.width, length, corpus, seed)
        names = ("embeddings", "encoder", "multiplexer", "demultiplexer")
        params = params | {name: primed[name] for name in names if name in params}
        folder.rmtree()
        save_model(folder, config, jax.device_get(params), tokenizer, found.address, False, found.task)


def _primed(start: epath.Path, workdir: epath.Path, width: int, length: int, corpus: str, seed: int) -> Any:
    """Parameters after learning to retrieve the tokens of a corpus."""
    config = configuration.pretraining("bert", "tiny", width)
    config.init_from, config.stages, config.seed = str(start), ("priming",), seed
    config.data.source, config.data.files, config.data.sequence_length = "files", corpus, length
    config.priming.steps, config.priming.learning_rate = PRIMING_STEPS, PRIMING_RATE
    config.model.scan_layers = False
    mux_jax.train(config, str(workdir))
    return open_model(str(workdir)).params(make_mesh())
