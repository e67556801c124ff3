"""The folder of a run: made, checked against what it holds, described by `config.json`."""

import json
from typing import Any

import jax
from etils import epath

from mux_jax.configuration import RunConfig, flatten, to_json
from mux_jax.errors import InputError
from mux_jax.parallel import hosts
from mux_jax.paths import absolute
from mux_jax.progress import say

# What a run may change when it goes on, whole sections end in a dot; anything else would make it another run.
_FREE = (
    "name",
    "stages",
    "log_every",
    "eval.",
    "checkpoint.",
    "mesh.",
    "data.cache_dir",
    "data.workers",
    "model.scan_layers",
    "model.remat",
    "model.attention",
    "threshold",
)


def open_workdir(path: str, config: RunConfig) -> epath.Path:
    """Makes or reopens the folder of a run.

    Raises:
      InputError: it cannot be written, is not the same folder on all hosts, or holds a run that this
        configuration would not continue.
    """
    workdir = absolute(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable-{jax.process_index()}"
        probe.write_text("")
        probe.unlink()
    except OSError as e:
        raise InputError(f"workdir {workdir} cannot be written: {e.strerror}") from e
    hosts.check_shared(workdir)
    described = workdir / "config.json"
    if described.exists():
        try:
            before, now = flatten(json.loads(described.read_text(encoding="utf-8"))), flatten(to_json(config))
        except (ValueError, AttributeError) as e:
            raise InputError(f"{described} is not the configuration of a run: {e}") from e
        # A field that is newer than the run, and empty, changes nothing.
        changed = [k for k in sorted(before.keys() | now.keys()) if not _same(k, before.get(k, ""), now.get(k, ""))]
        changed = [k for k in changed if k in before or not _is_free(k)]
        refused = [k for k in changed if not _is_free(k)]
        shown = {k: f"{k}: {before.get(k)} there, {now.get(k)} now" for k in changed}
        if refused:
            raise InputError(
                f"workdir {workdir} holds a run with another configuration ({'; '.join(shown[k] for k in refused)}); "
                "give another --workdir, or the same configuration to continue"
            )
        for field in changed:
            say(f"changed since this run was started: {shown[field]}")
    return workdir


def _is_free(field: str) -> bool:
    return any(field == name or name.endswith(".") and field.startswith(name) for name in _FREE)


def _same(field: str, before: Any, now: Any) -> bool:
    """Whether a field has not changed; a model of the hub may have been written without its commit."""
    return before == now or (
        field in ("init_from", "teacher")
        and bool(before)
        and str(now) == f"hf://{before}@{str(now).rpartition('@')[2]}"
    )


def describe_workdir(workdir: epath.Path, config: RunConfig) -> None:
    """Writes `config.json`: from then on the folder holds this run."""
    hosts.write_text(workdir / "config.json", json.dumps(to_json(config), indent=2) + "\n")


def known_data(workdir: epath.Path) -> Any:
    """What `data.json` says about the data that the run in `workdir` began with; None if none has begun."""
    file = workdir / "data.json"
    # config.json is written last: without it, what is here is of a start that failed.
    begun = (workdir / "config.json").exists() and file.exists()
    return hosts.gather(json.loads(file.read_text(encoding="utf-8")) if begun else None)[0]
