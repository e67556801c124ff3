"""Orbax checkpoints that survive a kill at any moment and tell when they are damaged.

A checkpoint is a folder named by its step with `params`, `optimizer` and `run` (JSON: where the
run stood, and its configuration). The step is its place in the data too, whose order is a function
of the seed. With them goes `digests.json`; a checkpoint whose files do not agree with it is named and
skipped. (Orbax notices a truncated file, by an exception in the midst of restoring, and not a changed
one.)
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from mux_jax.errors import InputError, TrainingError
from mux_jax.parallel import hosts
from mux_jax.progress import say

FORMAT = 1  # of checkpoints; docs/checkpoints.md says what is promised
DIGESTS = "digests.json"
_ITEMS = ("params", "optimizer", "run")


class Checkpoints:
    """The checkpoints of a run: asynchronous, the last `keep` kept. Without `keep`, to read only.

    A step set as `best` is kept too. What a reader may rely on:

    - A folder that is named by its step and holds `digests.json` is whole: Orbax writes under another name,
      `_write_digests` adds the digests when all items are there, and only then is the folder renamed.
    - One save is under way at most; the next one waits for it. If it fails, the next call of `save`, `check`,
      `wait` or `close` raises `TrainingError`, which names the last good checkpoint.
    - Older checkpoints are removed only after a newer one is whole.
    """

    def __init__(self, folder: epath.Path, keep: int | None = None):
        self._folder, self.keep = folder, keep
        self.best: int | None = None
        self._saving: int | None = None  # the step saved last
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self if keep else None,
            create=keep is not None,
            cleanup_tmp_directories=keep is not None,  # of saves that were killed
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
        )
        self._manager = ocp.CheckpointManager(folder, options=options)

    def save(self, step: int, params: Any, opt_state: Any | None, run: dict[str, Any]) -> None:
        """Starts to save; the arrays are copied before it returns, the files are written after.

        Raises:
          TrainingError: there is no room for it, or the save before has failed.
        """
        self.wait()
        self._saving = step
        items = dict(params=ocp.args.StandardSave(params))
        if opt_state is not None:
            items["optimizer"] = ocp.args.StandardSave(opt_state)
        run = {"format": FORMAT} | run
        with self._or_last_good():
            if hosts.is_first():
                _require_room(self._folder, sum(x.nbytes for x in jax.tree.leaves((params, opt_state))))
            self._manager.save(step, args=ocp.args.Composite(**items, run=ocp.args.JsonSave(run)))

    @contextlib.contextmanager
    def _or_last_good(self) -> Iterator[None]:
        """Turns what a save raises, now or later on its thread, to one line that names the last good checkpoint."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as e:
            reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
            found = re.search(
                "No space left on device|Disk quota exceeded|Read-only file system|Permission denied", reason
            )
            before = f"last good checkpoint: {self.newest}; the same command continues from there"
            if not self._whole():
                before = "there is no checkpoint before it"
            raise TrainingError(
                f"step {self._saving} could not be saved in {self._folder}: {found[0] if found else reason}; {before}"
            ) from e

    def check(self) -> None:
        """Raises `TrainingError` if the save under way has failed."""
        with self._or_last_good():
            self._manager.check_for_errors()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax asks which of the checkpoints, the oldest first, to keep."""
        assert self.keep is not None  # else Orbax does not ask
        last = len(checkpoints) - self.keep
        return [i >= last or checkpoint.step == self.best for i, checkpoint in enumerate(checkpoints)]

    def latest(self, set_damaged_aside: bool = False) -> tuple[int, dict[str, Any]] | None:
        """The step and `run` of the newest whole checkpoint; None if there are none at all.

        Damaged ones are named and, so that their steps can be saved again, renamed if asked for.

        Raises:
          TrainingError: there are checkpoints, and all are damaged.
          InputError: a checkpoint of a format that is not known here.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        whole = hosts.gather(self._newest_whole(steps, set_damaged_aside) if hosts.is_first() else None)[0]
        if set_damaged_aside:
            self._manager.reload()
        if whole is not None:
            run = self._manager.restore(whole, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
            check_format(run.get("format"), self._folder / str(whole))
            return whole, run
        if steps:
            raise TrainingError(f"all checkpoints in {self._folder} are damaged; start again in another workdir")
        return None

    def _newest_whole(self, steps: list[int], set_damaged_aside: bool) -> int | None:
        for step in steps:
            folder = self._folder / str(step)
            damage = damaged(folder)
            if damage is None:
                return step
            say(f"checkpoint {folder} is damaged ({damage}); trying the one before it")
            if set_damaged_aside and step != steps[-1]:
                folder.rename(self._folder / f"damaged-{step}-{time.time_ns()}")
        return None

    def best_or(self, newest: int | None, best: dict[str, Any] | None) -> int | None:
        """The step of `best` if there is one, and whole; else `newest`, and why is printed."""
        if not best:
            return newest
        folder = self._folder / str(best["step"])
        damage = hosts.gather(damaged(folder) if hosts.is_first() else None)[0]
        if damage:
            say(f"checkpoint {folder}, the best, is damaged ({damage}); the newest is used")
        return newest if damage else best["step"]

    def restore_params(self, step: int, abstract: Any) -> Any:
        """The parameters, with the shapes and shardings of `abstract`, whatever mesh wrote them.

        Raises:
          InputError: there are other ones.
        """
        return self._restore(step, "params", abstract)

    def restore_optimizer(self, step: int, abstract: Any) -> Any:
        """The optimiser's state; see `restore_params`."""
        return self._restore(step, "optimizer", abstract)

    def _restore(self, step: int, item: str, abstract: Any) -> Any:
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)}))
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(
                f"{self._folder / str(step) / item}: not what this version of mux_jax has for this model: {e}"
            ) from e
        return found[item]

    def wait(self) -> None:
        """Returns when everything saved is on disk."""
        with self._or_last_good():
            self._manager.wait_until_finished()

    @property
    def newest(self) -> str:
        """The newest whole checkpoint's folder, for messages."""
        steps = self._whole()
        return str(self._folder / str(max(steps))) if steps else "none yet"

    def _whole(self) -> list[int]:
        """The steps of the checkpoints that were written to their end."""
        return [int(p.name) for p in self._folder.iterdir() if p.name.isdigit() and (p / DIGESTS).exists()]

    def close(self) -> None:
        with self._or_last_good():
            self._manager.close()

    def _write_digests(self) -> None:
        """Runs on Orbax's thread when the items are written, before the checkpoint gets its final name."""
        if not hosts.is_first():
            return
        for folder in self._folder.iterdir():
            if folder.name.split(".")[0].isdigit() and not (folder / DIGESTS).exists():
                _require_whole(folder)
                hosts.write_text(folder / DIGESTS, json.dumps(dict(_digests(folder))))


def _require_room(folder: epath.Path, size: int) -> None:
    """Raises OSError if a disk is read-only or has no room for `size` bytes; Orbax would say so in pages."""
    if "://" in str(folder):
        return
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"0" * 4096)
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _require_whole(folder: epath.Path) -> None:
    """Raises OSError if what Orbax has written lacks the table of its arrays, without which none can be read."""
    for item in ("params", "optimizer"):
        # Written under another name than the final one.
        for path in (p for p in folder.iterdir() if p.name.split(".")[0] == item):
            if not (path / "manifest.ocdbt").exists():
                raise OSError(f"{path} has no manifest.ocdbt: its arrays were not written to their end")


def damaged(folder: epath.Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    if not (folder / DIGESTS).exists():
        return f"{DIGESTS} is missing"
    try:
        expected = dict(json.loads((folder / DIGESTS).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return f"{DIGESTS} does not list digests"
    found = dict(_digests(folder))
    for name, digest in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} is not what was written"
    return None


def _digests(folder: epath.Path) -> Iterator[tuple[str, str]]:
    """(name, digest) of every file of the items; a digest is of the bytes where the disk is local.

    Object stores keep checksums of their own, and reading back from them is slow: sizes there.
    """
    local = "://" not in str(folder)
    for path in (file for item in _ITEMS for file in _files(folder / item)):
        name = str(path.relative_to(folder))
        if local:
            with open(path, "rb") as f:
                yield name, hashlib.file_digest(f, "blake2b").hexdigest()[:32]
        else:
            yield name, str(path.stat().length)


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir() if folder.exists() else ()):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def check_format(found: int | None, where: epath.Path) -> None:
    """Raises `InputError` unless a checkpoint is of the format that is read here."""
    if found != FORMAT:
        says = "no format number" if found is None else f"format {found}"
        raise InputError(f"{where}: written by another version of mux_jax ({says}; this version reads {FORMAT})")


def checkpoint_folder(workdir: epath.Path) -> epath.Path:
    """Where a run keeps its checkpoints."""
    return workdir / "checkpoints"
