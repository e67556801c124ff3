"""Carries out the runs of a study, one after the other; what is done is not done again."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from etils import epath

from mux_jax.errors import InputError, TrainingError
from mux_jax.progress import say
from mux_jax.study.plan import Model, Run
from mux_jax.training.checkpoints import write_atomically


def carry_out(models: list[Model], programs: Path, log: epath.Path) -> None:
    """Runs what is not done; `log`, one object a line, gets command, commit and seconds of each.

    Args:
      models: those of `plan.models`.
      programs: the folder of the programs, `launch/`.

    Raises:
      InputError: a run's folder has the result of another command.
      TrainingError: a run that failed, with its command.
      SystemExit(0): SIGTERM came, or a run was stopped; it has saved, and the same command continues.
    """
    runs = {run.result: run for model in models for run in model.runs}
    left = [run for result, run in runs.items() if not result.exists()]
    made = read_log(log)
    for run in runs.values():
        if run.result.exists() and run.command not in made:
            raise InputError(
                f"{run.workdir} was made by another command than {run.command}; remove it, or change workdir"
            )
    say(f"{len(runs)} runs, {len(runs) - len(left)} of them done")
    for i, run in enumerate(left):
        say(f"[{len(runs) - len(left) + i + 1}/{len(runs)}] {run.command}")
        start, commit = time.monotonic(), _commit(programs)
        try:
            _call(run, programs)
        finally:
            taken = {"command": run.command, "commit": commit, "seconds": round(time.monotonic() - start, 1)}
            lines = log.read_text() if log.exists() else ""
            write_atomically(log, lines + json.dumps(taken) + "\n")


def _call(run: Run, programs: Path) -> None:
    command = [sys.executable, str(programs / f"{run.program}.py"), *run.flags, f"--workdir={run.workdir}"]
    process, stopped = subprocess.Popen(command, cwd=programs.parent), False

    def stop(*_: Any) -> None:
        nonlocal stopped
        stopped = True
        process.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if stopped or (status == 0 and not run.result.exists()):
        say("stopped; the same command continues")
        raise SystemExit(0)
    if status:
        raise TrainingError(f"exit status {status} of {run.command}")


def _commit(programs: Path) -> str:
    """The commit of the code, with `+` if files differ from it; empty where there is no repository."""
    git = ["git", "-C", str(programs.parent)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def read_log(log: epath.Path) -> dict[str, dict[str, Any]]:
    """`seconds` that each command has taken, all its processes together, and the last one's `commit`."""
    found: dict[str, dict[str, Any]] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        row = json.loads(line)
        row["seconds"] += found.get(row["command"], {"seconds": 0.0})["seconds"]
        found[row["command"]] = row
    return found
