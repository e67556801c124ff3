"""Files of tensors as PyTorch's models have them: safetensors or pickles, whole or in shards.

Of a safetensors file on a disk each tensor is read when it is asked for: a large model is never in memory twice.
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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
_LARGEST_HEADER = 100_000_000  # bytes; the safetensors library takes no larger one


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
      shape: its shape.
      dtype: one of float64, float32, float16, bfloat16, int64, int32.
      read: gives the array, which is not to be written to; `InputError` if the file has been cut meanwhile.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


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
    return [file.parent / name for name in sorted(set(_index(file).values()))]


def names(file: epath.Path) -> list[str]:
    """The names of the tensors of a file or an index, as `read_tensors` has them, without reading the tensors.

    They are in the index, or in the header of a safetensors file: whether the rest is whole and fits, `read_tensors`
    finds out. A pickle is read whole.

    Raises:
      InputError: a file that cannot be read.
    """
    if file.suffix == ".json":
        theirs: Iterable[str] = _index(file)
    else:
        check_fetched(file)
        theirs = _header(file)[0] if file.suffix == ".safetensors" else _read_pickle(file)
    return sorted({_name(name) for name in theirs})


def read_tensors(file: epath.Path) -> dict[str, StoredTensor]:
    """All tensors of a file or of the shards of an index, under the names that `transformers` gives them today.

    Of a safetensors file on a disk only the header is read here, and each tensor by its `read`. What is in an object
    store, and pickles, are read whole; a tensor that is dropped leaves the memory.

    Raises:
      InputError: a file that is missing or cannot be read, or two tensors of one name.
    """
    result: dict[str, StoredTensor] = {}
    for shard in shards(file):
        if not shard.exists():
            raise InputError(f"{file}: there is no {shard.name} beside it; fetch or copy it too")
        check_fetched(shard)
        if shard.suffix != ".safetensors":
            found = _read_pickle(shard)
        elif "://" in str(shard):
            found = _download_safetensors(shard)
        else:
            found = _map_safetensors(shard)
        for theirs, value in found.items():
            name = _name(theirs)
            if name in result:
                raise InputError(f"{shard}: {theirs} and another tensor are both {name}; keep the one that counts")
            result[name] = value
    return result


def _name(theirs: str) -> str:
    """What `transformers` calls a tensor today."""
    name = _WRAPPERS.sub("", theirs)
    # BERT's oldest files call LayerNorm's weight gamma and its bias beta.
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _index(file: epath.Path) -> dict[str, str]:
    """The shard of each tensor, by name."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(found.values()))
        if not files or not all(re.fullmatch(r"[\w.-]+\.(safetensors|bin)", name) for name in files):
            raise ValueError(f"weight_map names {files}")
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{file}: not an index of the shards beside it: {e!r}") from e
    return found


def _header(file: epath.Path) -> tuple[dict[str, Any], int]:
    """The header of a `model.safetensors`, which is JSON after its length in 8 bytes, and where the data begin."""
    with file.open("rb") as f, _named_if_damaged(file):
        length = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(min(length, _LARGEST_HEADER)))
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
    header.pop("__metadata__", None)
    return header, 8 + length


def _map_safetensors(file: epath.Path) -> dict[str, StoredTensor]:
    """The tensors of a `model.safetensors` on a disk. One that is read is mapped into memory while it is used.

    The library maps whole files: what has been read then takes memory until the last tensor is dropped.
    """
    with _named_if_damaged(file), safetensors.safe_open(os.fspath(file), "np"):
        pass  # the header is right, and the file as long as it says
    header, start = _header(file)

    def read(dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
        with _named_if_damaged(file):
            return np.asarray(np.memmap(file, dtype, "r", offset, shape))

    result = {}
    for name, tensor in header.items():
        _check_type(file, name, tensor["dtype"], _DTYPES)
        shape, dtype = tuple(tensor["shape"]), np.dtype(_DTYPES[tensor["dtype"]])
        offset = start + tensor["data_offsets"][0]
        result[name] = StoredTensor(shape, dtype, functools.partial(read, dtype, shape, offset))
    return result


def _download_safetensors(file: epath.Path) -> dict[str, StoredTensor]:
    """The tensors of a `model.safetensors` in an object store; the NumPy reader of bytes knows no bfloat16."""
    with _named_if_damaged(file):
        views = safetensors.deserialize(file.read_bytes())
    for name, view in views:
        _check_type(file, name, view["dtype"], _DTYPES)
    return _in_memory({n: np.frombuffer(v["data"], _DTYPES[v["dtype"]]).reshape(v["shape"]) for n, v in views})


@contextlib.contextmanager
def _named_if_damaged(file: epath.Path) -> Iterator[None]:
    try:
        yield
    except (safetensors.SafetensorError, ValueError) as e:
        raise InputError(f"{file}: truncated, or not a safetensors file: {e}") from e


def _in_memory(values: dict[str, np.ndarray]) -> dict[str, StoredTensor]:
    return {name: StoredTensor(v.shape, v.dtype, functools.partial(np.asarray, v)) for name, v in values.items()}


def _read_pickle(file: epath.Path) -> dict[str, StoredTensor]:
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

    def to_numpy(value: Any) -> np.ndarray:
        value = value.detach()
        # PyTorch does not give bfloat16 to NumPy, but the same bytes under another name.
        return value.view(torch.int16).numpy().view(jnp.bfloat16) if value.dtype == torch.bfloat16 else value.numpy()

    return _in_memory({name: to_numpy(value) for name, value in state.items()})


def _check_type(file: epath.Path, name: str, found: str, known: Iterable[str]) -> None:
    if found not in known:
        raise InputError(f"{file}: {name} is of type {found}; save the model with one of these: {', '.join(known)}")
