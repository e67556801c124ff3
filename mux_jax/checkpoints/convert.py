"""Models written: runs as Hugging Face folders and the other way round, and models that are no run."""

import json
from typing import Any

import jax
from etils import epath
from tokenizers import Tokenizer

from mux_jax.checkpoints import huggingface
from mux_jax.checkpoints.runs import Checkpoints, checkpoint_folder
from mux_jax.checkpoints.source import open_model
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.data.tokenizer import load_tokenizer, save_tokenizer
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.parallel import hosts
from mux_jax.parallel.mesh import make_mesh
from mux_jax.paths import absolute
from mux_jax.progress import say


def convert(model: str, output: str, tokenizer: str = "", overwrite: bool = False) -> str:
    """Writes a run's newest checkpoint as a Hugging Face folder, or the other way round.

    Args:
      model: a run's folder, a Hugging Face folder, or an id of the hub.
      output: the folder to make.
      tokenizer: the vocabulary to put in it; default: the model's own.
      overwrite: whether `output` may exist.

    Returns:
      One line about what was written.

    Raises:
      InputError: a model that cannot be read or converted, an `output` that exists.
    """
    target = absolute(output)
    check_absent(target, overwrite)
    found = open_model(model)
    to_native = found.step is None
    if not to_native:
        huggingface.check(found.config, found.folder)
    vocabulary = load_tokenizer(tokenizer) if tokenizer else found.find_tokenizer()
    if vocabulary is None:
        say(f"{found.folder} has no tokenizer, and {target} gets none; --tokenizer=FILE adds one")
    else:
        found.check_size(vocabulary)
    params = found.params(make_mesh(devices=jax.devices()[:1]))
    return save_model(target, found.config, params, vocabulary, model, overwrite, found.task, to_native)


def save_model(
    target: epath.Path,
    config: ModelConfig,
    params: Any,
    vocabulary: Tokenizer | None,
    source: str,
    overwrite: bool,
    task: TaskInfo | None,
    to_native: bool = True,
) -> str:
    """Writes a model that is no run of its own, as a checkpoint of mux_jax or a Hugging Face folder.

    Args:
      task: of a fine-tuned model.

    Returns:
      One line about what was written.
    """
    check_absent(target, overwrite)
    partial = target.parent / f"{target.name}.partial"
    if partial.exists():
        partial.rmtree()
    partial.mkdir(parents=True)
    if to_native:
        model = config.to_flat()
        checkpoints = Checkpoints(checkpoint_folder(partial), keep=1)
        checkpoints.save(0, params, None, {"stage": "converted", "model": model, "task": task and task.to_json()})
        checkpoints.close()
        hosts.write_text(partial / "config.json", json.dumps({"source": source, "model": model}, indent=2) + "\n")
    else:
        huggingface.write(partial, config, params, task)
    if vocabulary is not None:
        # What was fine-tuned here has seen token types of 0 alone.
        save_tokenizer(vocabulary, partial, for_transformers=not to_native, token_types=task is None)
    if target.exists():
        target.rmtree()
    partial.rename(target)
    kind = "a checkpoint of mux_jax" if to_native else "a Hugging Face folder"
    size = sum(x.size for x in jax.tree.leaves(params))
    return f"{target}: {kind}, {config.architecture} of width {config.width}, {size:,} parameters"


def check_absent(target: epath.Path, overwrite: bool) -> None:
    """Raises `InputError` if a folder exists and may not be replaced."""
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; --overwrite replaces it")
