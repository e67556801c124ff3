"""Models by path: runs of this project, Hugging Face folders, ids of the hub, exports."""

import dataclasses
import functools
import hashlib
import re
from typing import Any

import jax
from etils import epath

from mux_jax.checkpoints import exports, hub, huggingface, huggingface_config, sentence_transformers, tensor_files
from mux_jax.checkpoints.exports import Export
from mux_jax.checkpoints.hub import HubModel
from mux_jax.checkpoints.runs import DIGESTS, Checkpoints, checkpoint_folder
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.configuration import FinetuneConfig, from_mapping
from mux_jax.data.rows import lengths_up_to
from mux_jax.data.tasks import get_task
from mux_jax.data.tokenizer import ModelTokenizer, has_tokenizer, load_tokenizer
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.families.roberta import Roberta
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh
from mux_jax.parallel.params import abstract_params
from mux_jax.paths import absolute
from mux_jax.progress import say

# Of TensorFlow, Flax and so on, and what stands beside a model or is a part of one.
_OTHER_WEIGHTS = re.compile(r"\.(h5|msgpack|ckpt|pth?|onnx|gguf)\b|model.*\.(bin|safetensors)$")

# Beside a model: for people, hidden, or of its training.
_NO_MODEL = re.compile(r"^\.|\.(md|png|pt|pth)$|^(trainer_state\.json|training_args\.bin)$")


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model in a folder.

    Attributes:
      folder: a run's, a Hugging Face folder, or an export's.
      config: shape and parts.
      step: of a run's best checkpoint if it was judged by a task, else of its newest whole one; None for
        others.
      run: the run's configuration, as JSON holds it; None for others.
      task: of a fine-tuned model; None for others.
      hub: of a model of the hub: which, with its commit; None for others.
      export: of a program of another runtime; None for others.
    """

    folder: epath.Path
    config: ModelConfig
    step: int | None
    run: dict[str, Any] | None
    task: TaskInfo | None
    hub: HubModel | None = None
    export: Export | None = None

    @property
    def address(self) -> str:
        """The path that finds it again, from any folder."""
        return f"hf://{self.hub}" if self.hub else str(self.folder)

    def params(self, mesh: jax.sharding.Mesh, with_head: bool = True) -> Any:
        """The parameters, float32, as they lie on `mesh`.

        with_head: False of a Hugging Face folder leaves its head out, whatever is the matter with it.

        Raises:
          InputError: weights that do not fit the configuration.
        """
        assert not self.export, "an export has no weights to give"
        config = self.config if with_head or self.step is not None else self.config.without_head
        abstract = abstract_params(MuxModel(config), mesh)
        if self.step is None:
            params = huggingface.read_params(self.folder, config)
            if config.projections:
                params |= {"embedding_head": sentence_transformers.read_projections(self.folder, config)}
            return jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), params, abstract)
        checkpoints = Checkpoints(checkpoint_folder(self.folder))
        params = checkpoints.restore_params(self.step, abstract)
        checkpoints.close()
        return params

    def tokenizer(self, given: str = "") -> ModelTokenizer:
        """The tokenizer, or the one in the file `given` if there is none.

        Raises:
          InputError: none at all, `given` differs from the model's, or has more tokens than the model.
        """
        other = load_tokenizer(given) if given else None
        own = self.find_tokenizer()
        if own and other and own.backend.get_vocab() != other.backend.get_vocab():
            raise InputError(f"the tokenizer {given} has another vocabulary than {self.folder}")
        tokenizer = own or other
        if tokenizer is None:
            raise InputError(
                f"{self.folder} has no tokenizer; put its tokenizer.json or vocab.txt there, or name it: "
                "--tokenizer=FILE in converting and compressing, --config.data.tokenizer=FILE in training and "
                "evaluation"
            )
        self.check_size(tokenizer)
        family, pad = self.config.family, tokenizer.special.pad
        if isinstance(family, Roberta) and family.pad_token_id != pad:
            say(
                f"{self.folder}: pad_token_id is {family.pad_token_id} in config.json and {pad} by the tokenizer; the "
                "first says where positions begin, the second what fills rows"
            )
        return tokenizer

    def has_token_types(self) -> bool:
        """Whether the texts of a pair have token types of their own in this model."""
        return self.config.takes_token_types and self.tokenizer().token_types

    def check_size(self, tokenizer: ModelTokenizer) -> None:
        """Raises `InputError` if a tokenizer has more tokens than the model embeddings."""
        size, limit = tokenizer.num_ids, self.config.vocab_size
        if size > limit:
            raise InputError(
                f"the tokenizer has {size} tokens, the model's vocabulary {limit}; the last one, "
                f"{tokenizer.backend.id_to_token(size - 1)!r}, has no embedding"
            )

    def bucket_lengths(self) -> tuple[int, ...]:
        """The lengths of rows that the model was fine-tuned with, ascending.

        A multiplexed model from elsewhere gets rows of 128, to which the released ones are padded, and that
        is printed; an ordinary one is masked and does not see padding.
        """
        if self.task:
            return self.task.bucket_lengths
        room = self.config.max_length - self.config.prefix_length
        if self.config.width > 1:
            length = min(128, room)
            say(
                f"{self.folder} does not say how long its rows were; taken to be {length} tokens, as in released models"
            )
            return (length,)
        return lengths_up_to(room)

    def text_columns(self) -> tuple[str, ...]:
        """The columns of the texts in the files that the model was fine-tuned on."""
        if self.task:
            return self.task.text_columns
        return ("words",) if self.config.head == "token" else ("text",)

    def prompts(self) -> dict[str, str]:
        """Of an embedding model, what is put before texts, by name; "": what is if none is named."""
        return dict(self.task.prompts) if self.task else {}

    def digest(self) -> str:
        """Of what decides its answers: shape, weights, tokenizer, lengths. It is the same wherever the folder lies."""
        if self.step is None:  # those of sentence-transformers are in folders such as 1_Pooling
            found = (path for depth in ("*", "[0-9]_*/*") for path in self.folder.glob(depth))
            paths = [path for path in found if path.is_file() and not _NO_MODEL.search(path.name)]
        else:  # of a run the weights have digests
            step = checkpoint_folder(self.folder) / str(self.step)
            named = ("tokenizer*.json", "vocab*", "deferral.json")
            paths = [step / DIGESTS, *(path for name in named for path in self.folder.glob(name))]
        digest = hashlib.blake2b(repr((self.config, self.task)).encode(), digest_size=16)
        for path in sorted(paths):
            with path.open("rb") as f:
                of_file = hashlib.file_digest(f, "blake2b").hexdigest()  # type: ignore[arg-type]
            digest.update(f"{path.relative_to(self.folder)} {of_file}\n".encode())
        return digest.hexdigest()

    def find_tokenizer(self) -> ModelTokenizer | None:
        """The model's own tokenizer; None if there is none. Released models come without: theirs is BERT's."""
        return self._own_tokenizer

    @functools.cached_property
    def _own_tokenizer(self) -> ModelTokenizer | None:
        if has_tokenizer(self.folder):
            tokenizer = load_tokenizer(str(self.folder))
            if self.step is not None and not (self.folder / "tokenizer_config.json").exists():
                return dataclasses.replace(tokenizer, token_types=False)  # of an older version, which knew none
            return tokenizer
        released = self.config.width > 1 or hub.is_released(str(self.folder))
        if self.config.vocab_size != 30522 or not released:
            return None
        try:
            tokenizer = load_tokenizer(str(hub.fetch_released_vocabulary()))
        except InputError as e:
            say(f"{self.folder} has no tokenizer, and the released models' is not at hand: {e}")
            return None
        say(f"{self.folder} has no tokenizer; taken to be the released models', {hub.RELEASED_VOCABULARY}")
        return tokenizer


def open_model(path: str, needs_head: bool = True, takes_export: bool = False) -> ModelSource:
    """Finds the model in a run's folder, in a Hugging Face folder, or of an id on the hub: OWNER/NAME[@REVISION].

    A path whose first part is a folder here, or `runs`, is not looked for on the hub; hf://OWNER/NAME always is.

    Args:
      needs_head: whether a head that models here do not have is an error; else it is left out, and that is printed.
      takes_export: whether it may be an export, which predicts and has no weights to give.

    Raises:
      InputError: there is none, or it is not one that is known here.
    """
    named, model = path.startswith("hf://"), hub.parse(path)
    if named and not model:
        raise InputError(f"{path}: an id of the hub is hf://OWNER/NAME, with @REVISION after it or without")
    folder = absolute(path.removeprefix("hf://"))
    if not named and folder.exists():
        model = None
    if model:
        folder = absolute(hub.fetch(model))
        model = HubModel(model.name, folder.name)
    if checkpoint_folder(folder).exists():
        checkpoints = Checkpoints(checkpoint_folder(folder))
        found = checkpoints.latest()
        if found is None:
            raise InputError(f"{folder}: the run has saved no checkpoint yet")
        newest, run = found
        step = checkpoints.best_or(newest, run.get("best"))
        checkpoints.close()
        try:
            config = ModelConfig.from_flat(run["model"])
        except InputError as e:
            raise InputError(f"{folder}: {e}") from e
        task = TaskInfo.from_json(run["task"]) if run.get("task") else _task_of_run(run.get("config"), folder)
        return ModelSource(folder, config, step, run.get("config"), task, model)
    if (folder / exports.FILE).exists():
        export = Export.load(folder)
        if not takes_export:
            raise InputError(f"{folder} is an export, for predict and evaluate alone; its model is {export.source}")
        return ModelSource(folder, export.model, None, None, export.task, model, export)
    if huggingface.is_folder(folder):
        config = huggingface_config.read_config(folder, needs_head)
        task = huggingface_config.read_task(folder)
        if sentence_transformers.is_folder(folder) and config.head == "none":
            config = sentence_transformers.read_config(folder, config)
            task = task or sentence_transformers.read_task(folder, config)
        return ModelSource(folder, config, None, None, task, model)
    raise InputError(
        f"{folder}: no model there: neither a run (`checkpoints`) nor a Hugging Face folder "
        "(`config.json` with `model.safetensors` or `pytorch_model.bin`)"
        + _other_weights(folder)
        + _where_else(folder)
        + (f"; hf://{path} is the model of that name on the hub" if hub.parse(f"hf://{path}") else "")
    )


def _where_else(folder: epath.Path) -> str:
    """The folder to give instead of one that is a model's file, or has a model's folder in it."""
    if folder.is_file():
        return f"; give its folder, {folder.parent}"
    inside = [path.name for path in folder.iterdir() if huggingface.is_folder(path)] if folder.is_dir() else []
    return f"; give {folder / inside[0]}" if len(inside) == 1 else ""


def _other_weights(folder: epath.Path) -> str:
    """What is to be said of the weights in a folder that is no model."""
    if weights := tensor_files.find(folder):
        return f"; {weights.name} is there, but no config.json"
    others = (
        sorted(path.name for path in folder.iterdir() if _OTHER_WEIGHTS.search(path.name)) if folder.is_dir() else []
    )
    return f"; {', '.join(others)} there is not read: save the model with `transformers`" if others else ""


def _task_of_run(run: dict[str, Any] | None, folder: epath.Path) -> TaskInfo | None:
    """What a run's configuration says of its task; None if it was pre-trained."""
    if not run or "task" not in run["data"]:
        return None
    config = from_mapping(FinetuneConfig, run)
    task, prompts = get_task(config.data), sentence_transformers.read_prompts(folder)
    several = task.kind == "embedding" and len(task.text) > 1  # each a text of its own
    columns = ("text",) if several else task.text
    return TaskInfo(config.bucket_lengths(), columns, prompts)


def load_pretrained(path: str) -> tuple[MuxModel, Any]:
    """Loads a model: of a run, of the paper, or an ordinary encoder of a family in `FAMILIES`.

    Args:
      path: the folder of a run (its newest whole checkpoint is loaded, of fine-tuning the best), a
        Hugging Face folder (`config.json` with `model.safetensors` or `pytorch_model.bin`), or an id of the
        Hugging Face hub, such as "princeton-nlp/muxbert_base_gaussian_hadamard_index_pos_2", with @REVISION after it
        if it shall always be the same one.

    Returns:
      (model, params): `model.apply({"params": params}, tokens, mask)` gives logits, as described
      at `mux_jax.models.model.MuxModel`; `model.config` describes the model. Parameters are float32.

    Raises:
      InputError: there is no model, it is none that is known here, or its weights do not fit its
        configuration.
    """
    found = open_model(path)
    return MuxModel(found.config), found.params(make_mesh(devices=jax.devices()[:1]))
