"""Models written: runs as Hugging Face folders and the other way round, and models that are no run."""

import dataclasses
import json
from typing import Any

import jax
from etils import epath

from mux_jax import locks
from mux_jax.checkpoints import huggingface, huggingface_config, sentence_transformers
from mux_jax.checkpoints.card import model_card
from mux_jax.checkpoints.runs import Checkpoints, checkpoint_folder
from mux_jax.checkpoints.source import open_model
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.data.tokenizer import ModelTokenizer, load_tokenizer, save_tokenizer
from mux_jax.errors import InputError
from mux_jax.files import whole_or_absent, write_atomically
from mux_jax.models.config import ModelConfig
from mux_jax.parallel.mesh import make_mesh
from mux_jax.paths import absolute
from mux_jax.progress import say


def convert(model: str, output: str, tokenizer: str = "", overwrite: bool = False) -> str:
    """Writes a run's newest checkpoint as a Hugging Face folder, or the other way round.

    Args:
      model: a run's folder, a Hugging Face folder, or an id of the hub.
      output: the folder to make.
      tokenizer: the vocabulary to put in it; default: the model's own.
      overwrite: whether `output` may exist; it is replaced once the new one is whole, and only if it was written
        by `convert` or `compress`. A README.md in it stays.

    Returns:
      One line about what was written.

    Raises:
      InputError: a model that cannot be read or converted, an `output` that exists and may not be replaced.
    """
    target = absolute(output)
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; --overwrite replaces it")
    found = open_model(model)
    check_target(target, overwrite, found.folder)
    to_native = found.step is None
    if not to_native:
        huggingface_config.check(found.config, found.folder)
    vocabulary = load_tokenizer(tokenizer) if tokenizer else found.find_tokenizer()
    if vocabulary is None:
        say(f"{found.folder} has no tokenizer, and {target} gets none; --tokenizer=FILE adds one")
    else:
        found.check_size(vocabulary)
    params = found.params(make_mesh(devices=jax.devices()[:1]))
    size = sum(x.size for x in jax.tree.leaves(params))
    others = None if to_native else {_CARD: model_card(target.name, found, size)}
    return save_model(target, found.config, params, vocabulary, found.address, overwrite, found.task, to_native, others)


def save_model(
    target: epath.Path,
    config: ModelConfig,
    params: Any,
    vocabulary: ModelTokenizer | None,
    source: str,
    overwrite: bool,
    task: TaskInfo | None,
    to_native: bool = True,
    others: dict[str, str] | None = None,
) -> str:
    """Writes a model that is no run of its own, as a checkpoint of mux_jax or a Hugging Face folder.

    Args:
      task: of a fine-tuned model.
      others: other files to put there, by name.

    Returns:
      One line about what was written.

    Raises:
      InputError: `target` may not be replaced, or is being written by another process.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with locks.hold(target.parent / f".{target.name}.lock", str(target)) as lock:
        check_target(target, overwrite)
        card, others = target / _CARD, dict(others or {})
        if card.exists():  # somebody may have filled it in
            say(f"{card} stays as it is")
            others[_CARD] = card.read_text(encoding="utf-8")
        with whole_or_absent(target) as folder:
            folder.mkdir()
            if to_native:
                model = config.to_flat()
                checkpoints = Checkpoints(checkpoint_folder(folder), keep=1)
                run = {"stage": "converted", "model": model, "task": task and task.to_json()}
                checkpoints.save(0, params, None, run)
                checkpoints.close()
                described = {"source": source, "model": model}
                write_atomically(folder / "config.json", json.dumps(described, indent=2) + "\n")
            else:
                pad = vocabulary.special.pad if vocabulary else 0
                huggingface.write(folder, config, params, task, pad)
                if config.head == "embedding" and config.width > 1:
                    say(f"{target}: several texts a row, which sentence-transformers does not read; mux_jax does")
                elif config.head == "embedding":
                    sentence_transformers.write(
                        folder, config, params, task or TaskInfo((config.max_length,), ("text",))
                    )
            if vocabulary is not None:
                types = vocabulary.token_types and config.takes_token_types
                vocabulary = dataclasses.replace(vocabulary, token_types=types)
                save_tokenizer(vocabulary, folder, for_transformers=not to_native)
            for name, text in others.items():
                write_atomically(folder / name, text)
            lock.check()
    kind = "a checkpoint of mux_jax" if to_native else "a Hugging Face folder"
    size = sum(x.size for x in jax.tree.leaves(params))
    return f"{target}: {kind}, {config.architecture} of width {config.width}, {size:,} parameters"


def check_target(target: epath.Path, overwrite: bool, model: epath.Path | None = None) -> None:
    """Raises `InputError` unless a folder is absent, or may be replaced and was written by `save_model`.

    model: the folder of what is converted. It is not replaced, nor a folder that it lies in.
    """
    if model and (target == model or target in model.parents):
        raise InputError(f"{target} holds the model to read, {model}; choose another folder")
    if not target.exists():
        return
    if not overwrite:
        raise InputError(f"{target} exists; --overwrite replaces it")
    others = (
        [str(target)]
        if not target.is_dir()
        else sorted(p.name for p in target.iterdir() if p.name not in _WRITTEN and not sentence_transformers.is_part(p))
    )
    if others or not _is_ours(target):
        shown = f"; there is {', '.join(others[:3])}" if others else ""
        raise InputError(
            f"{target} was not written by convert.py or compress.py{shown}; --overwrite replaces only what was. Remove "
            "it, or choose another folder"
        )


_CARD = "README.md"
# All that `save_model` writes.
_WRITTEN = {
    _CARD, "checkpoints", "config.json", "model.safetensors", "result.json",
    "tokenizer.json", "tokenizer_config.json", "vocab.txt",
}  # fmt: skip


def _is_ours(folder: epath.Path) -> bool:
    """Whether a folder is empty, or its `config.json` is one that `save_model` writes; that of a run is not."""
    if not any(folder.iterdir()):
        return True
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return described.keys() == {"source", "model"} or "mux_jax" in described
