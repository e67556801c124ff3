"""Models by their id on the Hugging Face hub.

What its local cache holds is used as it is, without network; only a tokenizer that is not in it is looked for.
"""

import contextlib
import re

import huggingface_hub
from etils import epath
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from mux_jax.data.tokenizer import has_tokenizer
from mux_jax.errors import InputError

# The vocabulary of all released MUX-PLMs and their baselines, whose repositories hold none.
RELEASED_VOCABULARY = "google-bert/bert-base-uncased"
_RELEASED = re.compile(r"mux(bert|electra)_\w+|(bert_(small|base|large)|electra_base)_1")

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json", "vocab.txt")


def is_id(name: str) -> bool:
    """Whether this can be the id of a model on the hub: NAME or OWNER/NAME."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None


def is_released(name: str) -> bool:
    """Whether an id, or a folder by its path, is called like a released MUX-PLM or a baseline of them."""
    return any(_RELEASED.fullmatch(part) for part in re.split("/|--", name))  # the cache puts -- for /


def fetch(model_id: str) -> epath.Path:
    """The folder of a model: its configuration, weights, and tokenizer if it has one.

    Raises:
      InputError: no such model, or no network and nothing of it in the cache.
    """
    cached = _cached(model_id)
    if cached and (cached / CONFIG).exists() and any((cached / name).exists() for name in WEIGHTS):
        if not has_tokenizer(cached) and not is_released(model_id):
            with contextlib.suppress(InputError):  # whoever needs a tokenizer says that there is none
                for name in _TOKENIZER:
                    _download(model_id, name, cached.name)
        return cached
    folder = _download(model_id, CONFIG)
    if folder is None or not any(_download(model_id, name) for name in WEIGHTS):  # the first is enough
        raise InputError(f"{model_id}: on the Hugging Face hub, but without {CONFIG} or {' or '.join(WEIGHTS)}")
    for name in _TOKENIZER:
        _download(model_id, name)
    return folder


def fetch_released_vocabulary() -> epath.Path:
    """The folder with the vocabulary of all released MUX-PLMs.

    Raises:
      InputError: it cannot be had.
    """
    cached = _cached(RELEASED_VOCABULARY)
    if cached and has_tokenizer(cached):
        return cached
    folders = [_download(RELEASED_VOCABULARY, name) for name in _TOKENIZER]
    return folders[-1]


def _cached(model_id: str) -> epath.Path | None:
    """The folder that the cache has for a model, whatever is in it."""
    try:
        return epath.Path(huggingface_hub.snapshot_download(model_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _download(model_id: str, file: str, revision: str | None = None) -> epath.Path | None:
    """Downloads a file and returns its folder; None if the model has no such file."""
    huggingface_hub.utils.logging.set_verbosity_error()
    try:
        return epath.Path(huggingface_hub.hf_hub_download(model_id, file, revision=revision)).parent
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as e:
        if isinstance(e, EntryNotFoundError) and not isinstance(e, LocalEntryNotFoundError):
            return None
        reason = " ".join(str(e).split())
        raise InputError(f"{model_id}: no such folder, and not found on the Hugging Face hub: {reason}") from e
