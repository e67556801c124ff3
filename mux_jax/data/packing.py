"""Tokenise once: a source becomes arrays of packed token ids on disk, found again by fingerprint.

A cache is a folder with `train.bin`, `heldout.bin` (token ids, row after row) and `meta.json`.
It is built under another name and renamed when whole, so what has the final name is whole. Processes that
want the same one take turns: the first builds it, and the others find it.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from mux_jax import locks
from mux_jax.data.tokenizer import ModelTokenizer, load_tokenizer
from mux_jax.data.vocabulary import train_tokenizer
from mux_jax.errors import InputError
from mux_jax.interrupts import undone
from mux_jax.progress import progress, say

SPLITS = ("train", "heldout")
_CHUNK = 4_000_000  # characters tokenised at a time, on all cores
_TOKENIZER_SAMPLE = 100_000_000  # characters of a source that a vocabulary is trained on
_POLL_SECONDS = 0.5
_FORMAT = 2  # raise it when the same text packs to other ids


class PackedTokens:
    """The sequences of one split of a cache: `packed[i]` is int32[L], CLS first, no padding."""

    def __init__(self, folder: Path, split: str):
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self._path = folder / f"{split}.bin"
        self._dtype, self._shape = meta["dtype"], (meta[split], meta["sequence_length"])
        self._rows: np.ndarray | None = None
        size = self._shape[0] * self._shape[1] * np.dtype(self._dtype).itemsize
        if not self._path.exists() or self._path.stat().st_size != size:
            raise InputError(f"{self._path} is damaged; remove {folder} and start again")

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        if self._rows is None:
            self._rows = np.memmap(self._path, self._dtype, "r", shape=self._shape)
        return self._rows[index].astype(np.int32)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None}  # a worker process maps the file itself


def cache_folder(given: str = "") -> Path:
    """The folder of the caches, made if need be: `given`, or MUX_JAX_CACHE, or ~/.cache/mux_jax.

    Raises:
      InputError: it is no folder of this machine, or nothing can be written there.
    """
    given = given or os.environ.get("MUX_JAX_CACHE") or "~/.cache/mux_jax"
    if "://" in given:
        raise InputError(f"data.cache_dir={given} must be a folder of this machine, from which rows are read at random")
    cache_dir = Path(given).expanduser()
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache_dir).close()
    except OSError as e:
        raise InputError(f"cannot write to {cache_dir} (data.cache_dir): {e.strerror}") from e
    return cache_dir


def cached_tokenizer(sources: list[tuple[float, Any]], vocab_size: int, cache_dir: Path) -> ModelTokenizer:
    """The WordPiece vocabulary trained on these sources, from the cache if it was trained before."""
    parts = [(weight, source.name, source.fingerprint()) for weight, source in sources]
    path = cache_dir / f"tokenizer-{_digest(_FORMAT, parts, vocab_size)}.json"
    if not path.exists():
        with _building(path) as temporary:
            if temporary:
                with progress(f"training a vocabulary of {vocab_size:,}") as report:
                    tokenizer = train_tokenizer(_sample(sources, report), vocab_size)
                temporary.write_text(tokenizer.backend.to_str(), encoding="utf-8")
    return load_tokenizer(str(path))


def cached_tokens(source: Any, tokenizer: ModelTokenizer, length: int, heldout: float, cache_dir: Path) -> Path:
    """Packs a source into sequences of `length` ids, or finds that it was; returns the folder.

    Documents are joined by SEP and cut into sequences that start with CLS. A document goes to the
    held-out split by a hash of its text: the fraction `heldout` of them, the same ones each time.
    """
    digest = _digest(_FORMAT, source.name, source.fingerprint(), tokenizer.backend.to_str(), length, heldout)
    folder = cache_dir / f"tokens-{digest}"
    if not folder.exists():
        with _building(folder) as temporary:
            if temporary:
                temporary.mkdir()
                _pack(source, tokenizer, length, heldout, temporary)
    with contextlib.suppress(PermissionError):  # another user's
        os.utime(folder)  # the time of its last use, which `--cache=show` shows
    return folder


def content_digest(folder: Path) -> str:
    """The same for the same packed text, wherever it was read from and when; of an older cache, its name."""
    return json.loads((folder / "meta.json").read_text(encoding="utf-8")).get("digest", folder.name)


def _pack(source: Any, tokenizer: ModelTokenizer, length: int, heldout: float, folder: Path) -> None:
    special = tokenizer.special
    dtype = "uint16" if tokenizer.num_ids <= 2**16 else "uint32"
    written, content = dict.fromkeys(SPLITS, 0), hashlib.blake2b(digest_size=10)
    left = {split: np.empty(0, dtype) for split in SPLITS}  # tokens that do not fill a sequence yet
    with contextlib.ExitStack() as stack, progress(f"tokenising {source.name}") as report:
        files = {split: stack.enter_context(open(folder / f"{split}.bin", "wb")) for split in SPLITS}
        for texts, done in _chunks(source):
            ids = {split: [left[split]] for split in SPLITS}
            for text, encoding in zip(texts, tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)):
                digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
                split = "heldout" if int.from_bytes(digest) < heldout * 2**64 else "train"
                ids[split].append(np.array(encoding.ids + [special.sep], dtype))
            for split in SPLITS:
                stream = np.concatenate(ids[split])
                rows = len(stream) // (length - 1)
                body, left[split] = np.split(stream, [rows * (length - 1)])
                packed = cut(body, length, special.cls).tobytes()
                files[split].write(packed)
                content.update(packed)
                written[split] += rows
            report(done, f"{sum(written.values()) * length / 1e6:.1f} M tokens")
    for split, rows in written.items():
        if not rows:
            raise InputError(
                f"{source.name}: too little text: no {split} sequence of {length} tokens, with {heldout:.2%} of the "
                "documents held out; give more text or shorter sequences"
            )
    meta = {"source": source.name, "sequence_length": length, "dtype": dtype, "digest": content.hexdigest(), **written}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def cut(ids: np.ndarray, length: int, cls: int) -> np.ndarray:
    """Sequences of `length` ids, [rows, L]: CLS, then the next `length` - 1 of `ids`, which fill them all."""
    body = ids.reshape(-1, length - 1)
    return np.concatenate([np.full_like(body[:, :1], cls), body], axis=1)


def _chunks(source: Any) -> Iterator[tuple[list[str], float]]:
    """Documents in lists of about `_CHUNK` characters, so that memory stays bounded."""
    texts, size, done = [], 0, 0.0
    for text, done in source.documents():
        texts.append(text)
        size += len(text)
        if size >= _CHUNK:
            yield texts, done
            texts, size = [], 0
    if texts:
        yield texts, done


def _sample(sources: list[tuple[float, Any]], report: Any) -> Iterator[str]:
    """The beginning of each source, as much of it as its weight says."""
    for weight, source in sources:
        left = weight * _TOKENIZER_SAMPLE
        for text, done in source.documents():
            yield text
            report(done, source.name)
            left -= len(text)
            if left <= 0:
                break


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=10).hexdigest()


@contextlib.contextmanager
def _building(path: Path) -> Iterator[Path | None]:
    """Yields a temporary name for `path`, renamed to it at the end and removed on any failure.

    Waits while another process builds it, and yields None if it is there then.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_turn(path))
        if path.exists():
            yield None
            return
        host = re.sub(r"\W", "_", socket.gethostname())
        for stale in path.parent.glob(f"{path.name}.building-{host}-*"):
            _remove(stale)  # of a process of this host that was killed: no living one has the lock
        temporary = path.with_name(f"{path.name}.building-{host}-{os.getpid()}")
        stack.enter_context(undone(lambda: _remove(temporary)))
        try:
            yield temporary
            temporary.rename(path)
        except OSError as e:
            if e.errno in (errno.ENOTEMPTY, errno.EEXIST) and path.exists():
                return  # by another host, where locks do not reach
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(
                    f"no space left in {path.parent} (data.cache_dir); the partial cache was removed"
                ) from e
            raise
        finally:
            _remove(temporary)


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Holds the lock of `path`, once others have released it."""
    file, told = epath.Path(path.with_name(f"{path.name}.lock")), False
    while (lock := locks.acquire(file)) is None:
        if not told:
            say(f"{path.name} is being made by {locks.holder(file)}; waiting")
            told = True
        time.sleep(_POLL_SECONDS)
    with undone(lock.release):
        try:
            yield
        finally:
            lock.release()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
