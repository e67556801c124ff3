"""What a new model takes from another: parameters by name and shape."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mux_jax.checkpoints.source import ModelSource
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.progress import say

# What an ordinary model gives to a multiplexed one.
_BACKBONE = ("embeddings", "embeddings_project", "encoder")


def transfer_params(init: ModelSource, config: ModelConfig, params: Any) -> Any:
    """`params`, fresh ones of the model `config`, with what `init` gives in their place.

    An ordinary model gives a multiplexed one its embeddings and encoder; otherwise all that has the
    same name and shape is taken, a multiplexer or demultiplexer only by its like, and classes only by
    the same head with the same labels. A head that is not taken is not looked at. A new decoder
    with weights of its own, ELECTRA's, starts as the embeddings, which are BERT's decoder. What is
    taken and what is new is printed.

    Raises:
      InputError: nothing fits.
    """
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    same_head = all(getattr(init.config, part) == getattr(config, part) for part in ("head", "labels", "multi_label"))
    beyond_backbone = init.config.width > 1 or config.width == 1
    embeds = same_head and config.head == "embedding"  # whose dense layers are of any width
    found = init.params(mesh, with_head=same_head and (beyond_backbone or embeds))
    taken: list[str] = []
    new: list[str] = []

    def gives(part: str) -> bool:
        if part in ("multiplexer", "demultiplexer"):
            return getattr(init.config, part) == getattr(config, part) and init.config.width == config.width
        if part in ("classifier", "embedding_head"):
            return same_head
        return part in _BACKBONE or beyond_backbone

    def take(path: Any, ours: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        value = functools.reduce(lambda tree, name: tree.get(name, {}), names, found)
        fits = gives(names[0]) and isinstance(value, jax.Array) and value.shape == ours.shape
        (taken if fits else new).append("/".join(names))
        return value if fits else ours

    params = jax.tree_util.tree_map_with_path(take, params)
    if not taken:
        raise InputError(f"init_from={init.folder}: no parameter fits this model")
    at = "" if init.step is None else f" at step {init.step}"
    say(f"init_from: {len(taken)} arrays from {init.folder}{at}: {_parts(taken, new)}")
    if new:
        say(f"init_from: {len(new)} new: {_parts(new, taken)}")
    words, head = params["embeddings"]["word"], params.get("vocabulary_head", {})
    if "vocabulary_head/kernel" in new and head["kernel"].shape == words.shape:
        kernel = jax.device_put(jnp.copy(words), head["kernel"].sharding)  # not the same buffer: both are donated
        params = params | {"vocabulary_head": head | {"kernel": kernel}}
        say("init_from: vocabulary_head/kernel starts as the embeddings")
    left = {"/".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(found)} - set(taken)
    if left:
        say(f"init_from: not taken: {_parts(sorted(left), taken)}")
    return params


def _parts(paths: list[str], others: list[str]) -> str:
    """The modules of parameters: whole parts of the model, or deeper where `others` has some of the same."""
    mixed = {path.split("/")[0] for path in others}
    return ", ".join(dict.fromkeys(path if (top := path.split("/")[0]) in mixed else top for path in paths))
