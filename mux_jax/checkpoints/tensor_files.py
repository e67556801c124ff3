"""Files of tensors as PyTorch's models have them: safetensors or pickles, whole or in shards."""

import json
import re
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath

from mux_jax.errors import InputError
from mux_jax.files import check_fetched

# In the order of preference. An index names the shards that the tensors are in.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# The types that the tensors of a safetensors file may have, as it calls them.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
}
# What DataParallel, torch.compile and classes around a model put before its names.
_WRAPPERS = re.compile(r"^((module|model|auto_model|_orig_mod)\.)+")
_SAFE_TORCH = "2.6"  # since when `weights_only` keeps its promise


def find(folder: epath.Path) -> epath.Path | None:
    """The file of a folder's weights, or the index of its shards; None if it has neither."""
    return next((folder / name for name in WEIGHTS if (folder / name).exists()), None)


def shards(file: epath.Path) -> list[epath.Path]:
    """The files that an index names; of a file that is no index, itself.

    Raises:
      InputError: not an index.
    """
    if file.suffix != ".json":
        return [file]
    try:
        names = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or not all(re.fullmatch(r"[\w.-]+\.(safetensors|bin)", name) for name in names):
            raise ValueError(f"weight_map names {names}")
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{file}: not an index of the shards beside it: {e!r}") from e
    return [file.parent / name for name in names]


def read_tensors(file: epath.Path) -> dict[str, np.ndarray]:
    """All tensors of a file or of the shards of an index, under the names that `transformers` gives them today.

    Raises:
      InputError: a file that is missing or cannot be read, or two tensors of one name.
    """
    result: dict[str, np.ndarray] = {}
    for shard in shards(file):
        if not shard.exists():
            raise InputError(f"{file}: there is no {shard.name} beside it; fetch or copy it too")
        check_fetched(shard)
        found = _read_safetensors(shard) if shard.suffix == ".safetensors" else _read_pickle(shard)
        for theirs, value in found.items():
            name = _WRAPPERS.sub("", theirs)
            # BERT's oldest files call LayerNorm's weight gamma and its bias beta.
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            if name in result:
                raise InputError(f"{shard}: {theirs} and another tensor are both {name}; keep the one that counts")
            result[name] = value
    return result


def names(file: epath.Path) -> list[str]:
    return list(read_tensors(file))


def _read_safetensors(file: epath.Path) -> dict[str, np.ndarray]:
    """The tensors of a `model.safetensors`; the NumPy reader that comes with it knows no bfloat16."""
    try:
        views = safetensors.deserialize(file.read_bytes())
    except (safetensors.SafetensorError, ValueError) as e:
        raise InputError(f"{file}: truncated, or not a safetensors file: {e}") from e
    for name, view in views:
        _check_type(file, name, view["dtype"], _DTYPES)
    return {name: np.frombuffer(v["data"], _DTYPES[v["dtype"]]).reshape(v["shape"]) for name, v in views}


def _read_pickle(file: epath.Path) -> dict[str, np.ndarray]:
    """The tensors of a `pytorch_model.bin`, read by PyTorch with nothing but tensors allowed in it."""
    try:
        import torch
    except ImportError as e:
        raise InputError(f"{file}: PyTorch is needed to read it: pip install 'torch>={_SAFE_TORCH}'") from e
    import pickle

    if tuple(map(int, torch.__version__.split(".")[:2])) < tuple(map(int, _SAFE_TORCH.split("."))):
        raise InputError(
            f"{file}: PyTorch {torch.__version__} can be made to run what such a file holds (CVE-2025-32434); "
            f"{_SAFE_TORCH} or newer reads it safely: pip install 'torch>={_SAFE_TORCH}'"
        )

    try:
        with file.open("rb") as f:
            state = torch.load(f, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        reason = str(e).partition("\n")[0] or type(e).__name__
        raise InputError(f"{file}: truncated, or not a file of tensors alone: {reason}") from e
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{file}: not a dictionary of tensors")
    for name, value in state.items():
        _check_type(file, name, str(value.dtype).removeprefix("torch."), [np.dtype(t).name for t in _DTYPES.values()])
    tensors = {name: value.detach() for name, value in state.items()}
    return {name: (v.float() if v.dtype == torch.bfloat16 else v).numpy() for name, v in tensors.items()}


def _check_type(file: epath.Path, name: str, found: str, known: Iterable[str]) -> None:
    if found not in known:
        raise InputError(f"{file}: {name} is of type {found}; save the model with one of these: {', '.join(known)}")
