"""Models by their id on the Hugging Face hub, from its local cache where there is no network."""

import re

import huggingface_hub
from etils import epath
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from mux_jax.errors import InputError

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZER = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")
# The vocabulary of all released MUX-PLMs, whose repositories hold none.
RELEASED_VOCABULARY = "google-bert/bert-base-uncased"


def is_id(name: str) -> bool:
    """Whether this can be the id of a model on the hub: NAME or OWNER/NAME."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None


def fetch(model_id: str) -> epath.Path:
    """The folder of a model: its configuration, weights, and tokenizer if it has one.

    Raises:
      InputError: no such model, or no network and nothing of it in the cache.
    """
    folder = _download(model_id, "config.json")
    weights = (_find(model_id, name) for name in _WEIGHTS)
    if not any(weights):  # stops at the first there is
        raise InputError(f"{model_id} on the Hugging Face hub has no {' and no '.join(_WEIGHTS)}")
    fetch_tokenizer(model_id)
    return folder


def fetch_tokenizer(model_id: str) -> epath.Path | None:
    """The folder with a model's tokenizer, or None."""
    found = [folder for name in _TOKENIZER if (folder := _find(model_id, name))]
    return found[0] if found else None


def _find(model_id: str, file: str) -> epath.Path | None:
    try:
        return _download(model_id, file)
    except InputError as e:
        if isinstance(e.__cause__, EntryNotFoundError):
            return None
        raise


def _download(model_id: str, file: str) -> epath.Path:
    """Downloads a file, or finds it in the cache; returns its folder."""
    try:
        return epath.Path(huggingface_hub.hf_hub_download(model_id, file)).parent
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as e:
        reason = " ".join(str(e).split())
        raise InputError(f"{model_id}: no such folder, and {file} not found on the Hugging Face hub: {reason}") from e
