"""Models by their id on the Hugging Face hub.

What its local cache holds is used as it is, without network; only a tokenizer that is not in it is looked for.
"""

import contextlib
import dataclasses
import re

import huggingface_hub
from etils import epath
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from mux_jax.checkpoints import sentence_transformers, tensor_files
from mux_jax.checkpoints.huggingface_config import CONFIG
from mux_jax.checkpoints.tensor_files import WEIGHTS
from mux_jax.data.tokenizer import OLD_FILES, has_tokenizer
from mux_jax.errors import InputError
from mux_jax.progress import say

# The vocabulary of all released MUX-PLMs and their baselines, whose repositories hold none.
RELEASED_VOCABULARY = "google-bert/bert-base-uncased"
_RELEASED = re.compile(r"mux(bert|electra)_\w+|(bert_(small|base|large)|electra_base)_1")

_TOKENIZER = (
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.txt",
)


@dataclasses.dataclass(frozen=True)
class HubModel:
    """A model on the hub.

    Attributes:
      name: its id, NAME or OWNER/NAME.
      revision: a commit, branch or tag; None: the one that is in the cache, or else the newest.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


_VOCABULARY_MODEL = HubModel(RELEASED_VOCABULARY)


def parse(path: str) -> HubModel | None:
    """The model that NAME or OWNER/NAME means, either with @REVISION after it; None if it is rather a folder.

    That is a path whose first part is a folder here, or `runs`. Written as hf://OWNER/NAME it is always a model.
    """
    name = path.removeprefix("hf://")
    found = re.fullmatch(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(\w[\w./-]*))?", name)
    owner, slash, _ = path.partition("/")
    if not found or name == path and slash and (owner == "runs" or epath.Path(owner).exists()):
        return None
    return HubModel(found[1], found[2])


def is_released(name: str) -> bool:
    """Whether an id, or a folder by its path, is called like a released MUX-PLM or a baseline of them."""
    return any(_RELEASED.fullmatch(part) for part in re.split("/|--", name))  # the cache puts -- for /


def fetch(model: HubModel) -> epath.Path:
    """The folder of a model, called as its commit: its configuration, weights, and tokenizer if it has one.

    What was taken, and from where, is printed.

    Raises:
      InputError: no such model, or no network and nothing of it in the cache.
    """
    cached = _cached(model)
    if cached and (cached / CONFIG).exists() and _has_weights(cached):
        say(f"{HubModel(model.name, cached.name)}: from the cache of the Hugging Face hub, {cached}")
        if not has_tokenizer(cached) and not is_released(model.name):
            with contextlib.suppress(InputError):  # whoever needs a tokenizer says that there is none
                _download_tokenizer(HubModel(model.name, cached.name))
        return cached
    folder = _download(model, CONFIG)
    exact = HubModel(model.name, folder.name) if folder else model  # all files of one commit
    if folder is None or not any(_download(exact, name) for name in WEIGHTS):  # the first is enough
        raise InputError(f"{model.name}: on the Hugging Face hub, but without {CONFIG} or {' or '.join(WEIGHTS)}")
    weights = tensor_files.find(folder)
    shards = tensor_files.shards(weights) if weights else []
    for shard in shards:
        _download(exact, shard.name)
    _download_tokenizer(exact)
    if _download(exact, "modules.json"):
        for name in sentence_transformers.other_files(folder):
            _download(exact, name)
    say(f"{exact}: fetched from the Hugging Face hub to {folder}")
    return folder


def fetch_released_vocabulary() -> epath.Path:
    """The folder with the vocabulary of all released MUX-PLMs.

    Raises:
      InputError: it cannot be had.
    """
    cached = _cached(_VOCABULARY_MODEL)
    if cached and has_tokenizer(cached):
        return cached
    folders = [_download(_VOCABULARY_MODEL, name) for name in _TOKENIZER]
    return folders[-1]


def _download_tokenizer(model: HubModel) -> None:
    """Downloads the files of a tokenizer that a model has; older kinds of files only where there are no newer ones."""
    found = [_download(model, name) for name in _TOKENIZER]
    folder = next(filter(None, found), None)
    if folder is None or not has_tokenizer(folder):
        for name in OLD_FILES:
            _download(model, name)


def _has_weights(folder: epath.Path) -> bool:
    """Whether a folder has weights, all shards of them."""
    weights = tensor_files.find(folder)
    return weights is not None and all(shard.exists() for shard in tensor_files.shards(weights))


def _cached(model: HubModel) -> epath.Path | None:
    """The folder that the cache has for a model, whatever is in it."""
    try:
        return epath.Path(huggingface_hub.snapshot_download(model.name, revision=model.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _download(model: HubModel, file: str) -> epath.Path | None:
    """Downloads a file and returns its folder; None if the model has no such file."""
    huggingface_hub.utils.logging.set_verbosity_error()
    try:
        return epath.Path(huggingface_hub.hf_hub_download(model.name, file, revision=model.revision)).parent
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as e:
        if isinstance(e, EntryNotFoundError) and not isinstance(e, LocalEntryNotFoundError):
            return None
        reason = " ".join(str(e).split())
        raise InputError(f"{model}: no such folder, and not found on the Hugging Face hub: {reason}") from e
