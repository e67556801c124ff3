"""Pretrained models by path: runs of this project, Hugging Face folders, ids of the hub."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict
from tokenizers import Tokenizer

from mux_jax import configuration
from mux_jax.data.tasks import get_task
from mux_jax.data.tokenizer import has_tokenizer, load_tokenizer, save_tokenizer
from mux_jax.errors import InputError
from mux_jax.interop import hub, huggingface
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.paths import absolute
from mux_jax.progress import say
from mux_jax.training.checkpoints import Checkpoints, checkpoint_folder, write_atomically
from mux_jax.training.mesh import make_mesh
from mux_jax.training.step import abstract_params

# What an ordinary BERT or ELECTRA gives to a multiplexed model.
_BACKBONE = ("embeddings", "embeddings_project", "encoder")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model in a folder.

    `step` is that of a run's best checkpoint if it was judged by a task, else of its newest whole one,
    and `run` the run's configuration; both are None for Hugging Face's. `task` is what a fine-tuned
    model keeps of its run when it is converted: the `lengths` of its rows, ascending, and the
    `text_columns` of its files; None for others.
    """

    folder: epath.Path
    config: ModelConfig
    step: int | None
    run: dict[str, Any] | None
    task: dict[str, Any] | None

    def params(self, mesh: jax.sharding.Mesh) -> Any:
        """The parameters, float32, as they lie on `mesh`.

        Raises:
          InputError: weights that do not fit the configuration.
        """
        abstract = abstract_params(MuxModel(self.config), mesh)
        if self.step is None:
            params = huggingface.read_params(self.folder, self.config)
            return jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), params, abstract)
        checkpoints = Checkpoints(checkpoint_folder(self.folder))
        params = checkpoints.restore_params(self.step, abstract)
        checkpoints.close()
        return params

    def tokenizer(self, given: str = "") -> Tokenizer:
        """The tokenizer, or the one in the file `given` if there is none.

        Raises:
          InputError: none at all, `given` differs from the model's, or has more tokens than the model.
        """
        other = load_tokenizer(given) if given else None
        own = self.find_tokenizer()
        if own and other and own.get_vocab() != other.get_vocab():
            raise InputError(f"data.tokenizer={given} has another vocabulary than {self.folder}")
        tokenizer = own or other
        if tokenizer is None:
            raise InputError(
                f"{self.folder} has no tokenizer; put its vocab.txt there, or name it: --config.data.tokenizer=FILE in "
                "training and evaluation, --tokenizer=FILE in converting"
            )
        self.check_size(tokenizer)
        return tokenizer

    def check_size(self, tokenizer: Tokenizer) -> None:
        """Refuses a tokenizer with more tokens than the model has embeddings."""
        size, limit = tokenizer.get_vocab_size(), self.config.vocab_size
        if size > limit:
            raise InputError(f"the tokenizer has {size} tokens, the model's vocabulary {limit}")

    def find_tokenizer(self) -> Tokenizer | None:
        """The model's own tokenizer; None if there is none. Released models come without: theirs is BERT's."""
        if has_tokenizer(self.folder):
            return load_tokenizer(str(self.folder))
        released = self.config.width > 1 or hub.is_released(str(self.folder))
        if self.config.vocab_size != 30522 or not released:
            return None
        try:
            tokenizer = load_tokenizer(str(hub.fetch_released_vocabulary()))
        except InputError as e:
            say(f"{self.folder} has no tokenizer, and that of released models is not at hand: {e}")
            return None
        say(f"{self.folder} has no tokenizer; taken to be that of released models, {hub.RELEASED_VOCABULARY}")
        return tokenizer


def find(path: str) -> Pretrained:
    """The model in a run's folder, in a Hugging Face folder, or of an id on the hub.

    Raises:
      InputError: there is none, or it is not one that is known here.
    """
    folder = epath.Path(path).expanduser()
    if not folder.exists() and hub.is_id(path):
        folder = hub.fetch(path)
    folder = absolute(folder)
    if checkpoint_folder(folder).exists():
        checkpoints = Checkpoints(checkpoint_folder(folder))
        found = checkpoints.latest()
        if found is None:
            raise InputError(f"{folder}: the run has saved no checkpoint yet")
        newest, run = found
        step = checkpoints.best_or(newest, run.get("best"))
        checkpoints.close()
        task = run.get("task") or _task(run.get("config"))
        return Pretrained(folder, ModelConfig(**run["model"]), step, run.get("config"), task)
    if huggingface.is_folder(folder):
        return Pretrained(folder, huggingface.read_config(folder), None, None, huggingface.read_task(folder))
    raise InputError(
        f"{folder}: no model there: neither a run (`checkpoints`) nor a Hugging Face folder "
        "(`config.json` with `model.safetensors` or `pytorch_model.bin`)"
    )


def _task(run: dict[str, Any] | None) -> dict[str, Any] | None:
    """`Pretrained.task` of a run's configuration."""
    if not run or "task" not in run["data"]:
        return None
    config = ConfigDict(run)
    return {"lengths": configuration.row_lengths(config), "text_columns": get_task(config.data).text}


def load_pretrained(path: str) -> tuple[MuxModel, Any]:
    """See `mux_jax.load_pretrained`."""
    found = find(path)
    return MuxModel(found.config), found.params(make_mesh(devices=jax.devices()[:1]))


def start_from(init: Pretrained, config: ModelConfig, params: Any) -> Any:
    """`params`, fresh ones of the model `config`, with what `init` gives in their place.

    An ordinary model gives a multiplexed one its embeddings and encoder; otherwise all that has the
    same name and shape is taken, and a multiplexer or demultiplexer only by its like. A new decoder
    with weights of its own, ELECTRA's, starts as the embeddings, which are BERT's decoder. What is
    taken and what is new is printed.

    Raises:
      InputError: nothing fits.
    """
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    found = init.params(mesh)
    taken, new = [], []

    def gives(part: str) -> bool:
        if part in ("multiplexer", "demultiplexer"):
            return getattr(init.config, part) == getattr(config, part) and init.config.width == config.width
        if part == "classifier":
            return init.config.labels == config.labels
        return part in _BACKBONE or init.config.width > 1 or config.width == 1

    def take(path: Any, ours: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        value = functools.reduce(lambda tree, name: tree.get(name, {}), names, found)
        fits = gives(names[0]) and isinstance(value, jax.Array) and value.shape == ours.shape
        (taken if fits else new).append("/".join(names))
        return value if fits else ours

    params = jax.tree_util.tree_map_with_path(take, params)
    if not taken:
        raise InputError(f"init={init.folder}: no parameter fits this model")
    at = "" if init.step is None else f" at step {init.step}"
    say(f"init: {len(taken)} arrays from {init.folder}{at}: {_parts(taken, new)}")
    if new:
        say(f"init: {len(new)} new: {_parts(new, taken)}")
    words, head = params["embeddings"]["word"], params.get("vocabulary_head", {})
    if "vocabulary_head/kernel" in new and head["kernel"].shape == words.shape:
        kernel = jax.device_put(jnp.copy(words), head["kernel"].sharding)  # not the same buffer: both are donated
        params = params | {"vocabulary_head": head | {"kernel": kernel}}
        say("init: vocabulary_head/kernel starts as the embeddings")
    left = {"/".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(found)} - set(taken)
    if left:
        say(f"init: not taken: {_parts(sorted(left), taken)}")
    return params


def _parts(paths: list[str], others: list[str]) -> str:
    """The modules of parameters: whole parts of the model, or deeper where `others` has some of the same."""
    mixed = {path.split("/")[0] for path in others}
    return ", ".join(dict.fromkeys(path if (top := path.split("/")[0]) in mixed else top for path in paths))


def convert(source: str, destination: str, tokenizer: str = "", overwrite: bool = False) -> str:
    """Writes a run's newest checkpoint as a Hugging Face folder, or the other way round.

    Args:
      source: a run's folder, a Hugging Face folder, or an id of the hub.
      destination: the folder to make.
      tokenizer: the vocabulary to put in it; default: the source's own.
      overwrite: whether `destination` may exist.

    Returns:
      One line about what was written.

    Raises:
      InputError: a source that cannot be read or converted, a destination that exists.
    """
    target = absolute(destination)
    check_absent(target, overwrite)
    found = find(source)
    to_native = found.step is None
    if not to_native:
        huggingface.check(found.config, found.folder)
    vocabulary = load_tokenizer(tokenizer) if tokenizer else found.find_tokenizer()
    if vocabulary is None:
        say(f"{found.folder} has no tokenizer, and {target} gets none; --tokenizer=FILE adds one")
    else:
        found.check_size(vocabulary)
    params = found.params(make_mesh(devices=jax.devices()[:1]))

    return save_model(target, found.config, params, vocabulary, source, overwrite, found.task, to_native)


def save_model(
    target: epath.Path,
    config: ModelConfig,
    params: Any,
    vocabulary: Tokenizer | None,
    source: str,
    overwrite: bool,
    task: dict[str, Any] | None,
    to_native: bool = True,
) -> str:
    """Writes a model that is no run of its own, as a checkpoint of mux_jax or a Hugging Face folder.

    Args:
      task: as in `Pretrained`.

    Returns:
      One line about what was written.
    """
    check_absent(target, overwrite)
    partial = target.parent / f"{target.name}.partial"
    if partial.exists():
        partial.rmtree()
    partial.mkdir(parents=True)
    if to_native:
        model = dataclasses.asdict(config)
        checkpoints = Checkpoints(checkpoint_folder(partial), keep=1)
        checkpoints.save(0, params, None, {"stage": "converted", "model": model, "task": task})
        checkpoints.close()
        write_atomically(partial / "config.json", json.dumps({"source": source, "model": model}, indent=2) + "\n")
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
    """Refuses to write over a folder unless told to."""
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; --overwrite replaces it")
