"""The ordinary model that a multiplexed one is distilled from."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
from tokenizers import Tokenizer

from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.pretrained import find
from mux_jax.training.mesh import batch_sharding
from mux_jax.training.step import Compiled


class Teacher:
    """A model of width 1 that gives its last states for every instance of a batch."""

    def __init__(self, path: str, student: ModelConfig, tokenizer: Tokenizer, mesh: Mesh):
        """path: a run, a Hugging Face folder or an id of the hub.

        Raises:
          InputError: a model that cannot teach the student.
        """
        found = find(path)
        for field, ours in (("width", 1), ("hidden_size", student.hidden_size)):
            theirs = getattr(found.config, field)
            if theirs != ours:
                raise InputError(f"teacher={path} has {field}={theirs}; it must be {ours}")
        if found.tokenizer().get_vocab() != tokenizer.get_vocab():
            raise InputError(f"teacher={path} has another vocabulary than the model to train")
        model = MuxModel(dataclasses.replace(found.config, head="none", labels=(), dtype=student.dtype))
        self._params = found.params(mesh)

        def states(params: Any, tokens_BNL: jax.Array) -> jax.Array:
            B, N, L = tokens_BNL.shape
            states_X1LD = model.apply({"params": params}, tokens_BNL.reshape(B * N, 1, L))
            return states_X1LD.reshape(B, N, L, -1)

        self._states = Compiled(states, mesh, out_shardings=batch_sharding(mesh))

    def __call__(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The batch with `states`, float32 [B, N, L, D]; its sequences are packed, without padding."""
        return batch | {"states": self._states(self._params, batch["tokens"])}
