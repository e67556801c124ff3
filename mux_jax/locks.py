"""Locks: what one process writes, a run's folder or an output, no other writes at the same time.

On a disk the operating system keeps the lock, and drops it when the process ends, however it ends. Where
there is no such lock (object stores, some mounted file systems, Windows) there is a lease: a file that says
which process on which host holds it, made only if there is none, renewed each minute, and void five minutes after it
was renewed last.
"""

import contextlib
import errno
import json
import math
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import fsspec
from etils import epath

from mux_jax.errors import InputError, TrainingError
from mux_jax.interrupts import undone
from mux_jax.progress import say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_RENEWED_SECONDS, _VOID_SECONDS = 60.0, 300.0
_POLL_SECONDS, _JOIN_SECONDS = 5.0, 5.0
_SETTLE_SECONDS = 2.0  # in which others that take over a void lease at the same time have done so


class Lock:
    """A lock that this process holds, until `release`."""

    def __init__(self, file: epath.Path, descriptor: int | None, token: str):
        """descriptor: of the file that the operating system has locked; None: `token` marks a lease."""
        self._file, self._descriptor, self._token = file, descriptor, token
        self._renewed, self._ended = time.monotonic(), threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True, name="lease")
        if descriptor is None:
            self._keeper.start()

    def check(self) -> None:
        """Call it before writing.

        Raises:
          TrainingError: the lock is lost: its file was removed, or a lease could not be renewed in time or was taken.
        """
        if self._descriptor is None:
            lost = time.monotonic() - self._renewed > _VOID_SECONDS
        else:
            lost = not _is_file(self._descriptor, os.fspath(self._file))
        if lost:
            raise TrainingError(f"{self._file}: this process no longer holds the lock ({holder(self._file)}); it stops")

    def release(self) -> None:
        """Lets others have it. A disk or network that fails just then leaves the file, and hides no other error."""
        self._ended.set()
        with contextlib.suppress(Exception):
            if self._descriptor is None:
                self._keeper.join(_JOIN_SECONDS)  # or it may write the file again
                if _read(self._file).get("lease") == self._token:
                    self._file.unlink(missing_ok=True)
            elif _is_file(self._descriptor, os.fspath(self._file)):
                self._file.unlink()
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _keep(self) -> None:
        while not self._ended.wait(_RENEWED_SECONDS):
            with contextlib.suppress(Exception):  # of a network, by its many names; `check` sees if none goes through
                if _read(self._file).get("lease") != self._token:
                    self._renewed = -math.inf  # taken by another: lost at once
                    return
                self._renew()
                self._renewed = time.monotonic()

    def _renew(self) -> None:
        """Writes the lease anew, whole at once, as object stores do by themselves."""
        if "://" in str(self._file):
            self._file.write_text(_description(self._token), encoding="utf-8")
        else:
            new = self._file.parent / f"{self._file.name}.{self._token}"
            new.write_text(_description(self._token), encoding="utf-8")
            new.replace(self._file)


@contextlib.contextmanager
def hold(file: epath.Path, what: str) -> Iterator[Lock]:
    """Holds the lock that `file` is for, which is there while it is held.

    Whether the holder of a lease lives shows when it renews it, within a minute; if it does not, it is waited for
    until it is void.

    Raises:
      InputError: another process holds it, and which; `what` says what it is for.
    """
    lock, before = acquire(file), _read(file)
    if lock is None and "lease" in before:
        say(f"{what} was being written by {holder(file)}; waiting to see whether it still is")
    while lock is None and "lease" in before and _read(file).get("renewed", 0.0) == before.get("renewed"):
        time.sleep(_POLL_SECONDS)
        lock = acquire(file)
    if lock is None:
        raise InputError(f"{what} is being written by another process: {holder(file)}")
    with undone(lock.release):
        try:
            yield lock
        finally:
            lock.release()


def acquire(file: epath.Path) -> Lock | None:
    """Takes the lock; None if another process has it."""
    token = secrets.token_hex(8)
    if not _can_lock(file.parent):
        return Lock(file, None, token) if _lease(file, token) else None
    try:
        return Lock(file, _lock(os.fspath(file)), token)
    except BlockingIOError:
        return None


def _lock(file: str) -> int:
    """The descriptor of the file, locked; BlockingIOError if another process has it."""
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            descriptor = os.open(file, os.O_RDONLY)  # another user's, which can be locked all the same
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one before may have removed the file after it was opened here.
            if _is_file(descriptor, file):
                with contextlib.suppress(OSError):  # another user's
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, _description().encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_file(descriptor: int, file: str) -> bool:
    """Whether an open file still has this name."""
    try:
        found = os.fstat(descriptor)  # without a name it has no links, whatever a network's cache says
        return found.st_nlink > 0 and os.path.samestat(found, os.stat(file))
    except FileNotFoundError:
        return False


def _can_lock(folder: epath.Path) -> bool:
    """Whether files in a folder can be locked; found out on one of their own."""
    if fcntl is None or "://" in str(folder):
        return False
    with tempfile.TemporaryFile(dir=folder) as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                return False
            raise
    return True


def _lease(file: epath.Path, token: str) -> bool:
    """Makes the file if there is none, or if what it says is void."""
    if _make(file, token):
        return True
    if _void_in(file) > 0:
        return False
    file.unlink(missing_ok=True)
    if not _make(file, token):
        return False
    time.sleep(_SETTLE_SECONDS)  # another that found it void may remove this one too
    return _read(file).get("lease") == token


def _make(file: epath.Path, token: str) -> bool:
    """Makes the file; False if it is there, and not from here: a network may ask twice."""
    try:
        if "://" in str(file):
            system, path = fsspec.core.url_to_fs(str(file))
            system.pipe_file(path, _description(token).encode(), mode="create")
        else:
            with open(file, "x", encoding="utf-8") as f:
                f.write(_description(token))
    except FileExistsError:
        return _read(file).get("lease") == token
    return True


def _description(token: str = "") -> str:
    """What the file holds: who has the lock, and of a lease when it was renewed."""
    found: dict[str, Any] = {"host": socket.gethostname(), "process": os.getpid()}
    return json.dumps(found | ({"lease": token, "renewed": time.time()} if token else {}))


def _read(file: epath.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # gone, or just being made
        return {}


def holder(file: epath.Path) -> str:
    """Who holds it, in words."""
    found = _read(file)
    who = f"process {found.get('process', '?')} on {found.get('host', 'an unknown host')}"
    return f"{who}; if that has died, its lease is void in {_void_in(file):.0f} s" if found.get("lease") else who


def _void_in(file: epath.Path) -> float:
    """Seconds until a lease is void, if it is not renewed."""
    with contextlib.suppress(FileNotFoundError):
        renewed = _read(file).get("renewed") or file.stat().mtime  # of one that is just being written
        return renewed + _VOID_SECONDS - time.time()
    return 0.0
