"""Several hosts: they find each other, check that they agree, and stop together.

Each process drives its own devices and runs the same program. What is printed, plotted and written
as text comes from the first; arrays are written by all, through Orbax.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import secrets
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from mux_jax import locks
from mux_jax.errors import InputError, TrainingError
from mux_jax.files import write_atomically
from mux_jax.locks import Lock
from mux_jax.progress import console, print_error, say

_HEARTBEAT_SECONDS = 60  # a host that is not heard of for so long is given up


def connect(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the hosts of a job, before JAX is used. Does nothing for a process on its own.

    Cloud TPU, GKE, Slurm and Open MPI say by themselves who takes part; elsewhere all three arguments do.

    Raises:
      InputError: some arguments without the others.
      TrainingError: hosts that were not found in time.
    """
    given = [coordinator, num_processes, process_id]
    if any(x is not None for x in given) and None in given:
        raise InputError("--coordinator=HOST:PORT, --num_processes and --process_id go together")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    except ValueError as e:
        if coordinator is None and "coordinator_address" in str(e):
            return  # no cluster around this process
        raise InputError(f"--coordinator={coordinator}, --process_id={process_id}: {e}") from e
    except RuntimeError as e:
        raise TrainingError(f"the other hosts were not found: {e}") from e
    console.quiet = not is_first()
    if jax.process_count() > 1:
        say(f"{jax.process_count()} hosts, {jax.device_count()} devices")


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Ends this process where a job of several hosts cannot go on, without waiting for the others.

    They notice, as this one does when it has lost another: their exchange with it fails, or nothing
    is heard of it for a minute.
    """
    try:
        yield
    except Exception as e:
        if jax.process_count() == 1:
            raise
        if isinstance(e, InputError | TrainingError | OSError):
            print_error(e)
        else:
            traceback.print_exc()
            print_error(
                f"host {jax.process_index()} of {jax.process_count()} cannot go on; if another one has stopped, that "
                "is why. The same command on all hosts continues from the last checkpoint"
            )
        os._exit(2 if isinstance(e, InputError) else 1)


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """A value of every host, as JSON holds it, in the order of the hosts; all hosts wait for each other here."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data)))
    rows = multihost_utils.process_allgather(np.pad(data, (0, sizes.max() - len(data))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes)]


def agree(values: dict[str, Any]) -> None:
    """Raises `InputError` if hosts differ.

    Raises:
      InputError: on every host, naming the values that differ.
    """
    first, *others = gather(values)
    for host, other in enumerate(others, start=1):
        differ = [name for name in sorted(first.keys() | other.keys()) if first.get(name) != other.get(name)]
        if differ:
            shown = "; ".join(
                f"{name}: {first.get(name)} on host 0, {other.get(name)} on host {host}" for name in differ
            )
            raise InputError(f"the hosts of a job must be alike, and are not: {shown}")


def versions() -> dict[str, str]:
    """What decides how this host computes: a digest of our code, and the libraries' versions."""
    code = hashlib.blake2b(digest_size=8)
    folder = Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        code.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    libraries = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {"the code of mux_jax": code.hexdigest()} | {f"version of {k}": v for k, v in libraries.items()}


def write_text(path: epath.Path, text: str) -> None:
    """Writes a file, whole or not at all; of several hosts the first writes."""
    if is_first():
        write_atomically(path, text)


@contextlib.contextmanager
def hold(file: epath.Path, what: str) -> Iterator[Lock | None]:
    """`locks.hold` for a job: the first host holds the lock, and has it; the others are told if it could not.

    Raises:
      InputError: on every host, if another process holds it.
    """
    with contextlib.ExitStack() as stack:
        lock, problem = None, ""
        if is_first():
            try:
                lock = stack.enter_context(locks.hold(file, what))
            except InputError as e:
                problem = str(e)
        problem = gather(problem)[0]
        if problem:
            raise InputError(problem)
        yield lock


def check_shared(folder: epath.Path) -> None:
    """Raises `InputError` on every host if a folder is not the same one on all."""
    if jax.process_count() == 1:
        return
    name = f".hosts-{gather(secrets.token_hex(8))[0]}"
    if is_first():
        (folder / name).write_text("")
    gather(None)
    seen = gather((folder / name).exists())
    if is_first():
        (folder / name).unlink()
    missing = [str(host) for host, there in enumerate(seen) if not there]
    if missing:
        raise InputError(
            f"workdir {folder}: what host 0 writes there is not seen by host {', '.join(missing)}; "
            "give a disk that all hosts share, or gs://..."
        )
