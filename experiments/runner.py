"""Makes the runs of a study, one after the other; what is done is not done again."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from etils import epath

from experiments.plan import Model, Run
from mux_jax.errors import InputError, TrainingError
from mux_jax.files import write_atomically
from mux_jax.interrupts import SIGNALS
from mux_jax.progress import say


def run_all(models: list[Model], programs: Path, log: epath.Path) -> None:
    """Runs what is not done; `log`, one object a line, gets command, commit and seconds of each.

    Args:
      models: what `plan.models` gives.
      programs: the folder of the programs, `launch/`.

    Raises:
      InputError: as `check`.
      TrainingError: a run that failed, with its command.
      SystemExit: a signal came, or a run was stopped; it has saved, and the same command continues.
    """
    runs = check(models, log)
    left = [run for run in runs if not run.result.exists()]
    say(f"{len(runs)} runs, {len(runs) - len(left)} of them done")
    for i, run in enumerate(left):
        say(f"[{len(runs) - len(left) + i + 1}/{len(runs)}] {run.command}")
        row = {"result": str(run.result), "command": run.command, "commit": _commit(programs), "seconds": 0.0}
        _append(log, row | {"anew": not run.result.parent.exists()})  # now: nobody may be here when it ends
        start = time.monotonic()
        try:
            _call(run, programs)
        finally:
            _append(log, row | {"anew": False, "seconds": round(time.monotonic() - start, 1)})


def check(models: list[Model], log: epath.Path) -> list[Run]:
    """The runs of the models, each once, in an order in which each comes after what it starts from.

    Raises:
      InputError: a run was made by another command, or from something that was made anew since.
    """
    runs = list({run.result: run for model in models for run in model.runs}.values())
    made = read_log(log)
    for i, run in enumerate(runs):
        if not run.result.exists():
            continue
        row = made.get(str(run.result), {"command": ""})
        if row["command"] != run.command:
            raise InputError(
                f"{run.workdir} was made by another command than {run.command}; remove it, or change workdir"
            )
        folders = {flag.partition("=")[2] for flag in run.flags} | {str(run.workdir)}
        for other in (other for other in runs[:i] if str(other.workdir) in folders):
            if not other.result.exists() or made[str(other.result)]["line"] > row["line"]:
                raise InputError(
                    f"{run.workdir} was made from {other.workdir} before that was made anew; remove it too"
                )
    return runs


def _call(run: Run, programs: Path) -> None:
    command = [sys.executable, str(programs / f"{run.program}.py"), *run.flags, f"--workdir={run.workdir}"]
    process, stopped = subprocess.Popen(command, cwd=programs.parent), 0

    def stop(number: int, _: Any) -> None:
        nonlocal stopped
        stopped = number
        if number == signal.SIGTERM:
            process.terminate()  # the others a terminal sends to both

    before = {number: signal.signal(number, stop) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped or (status == 0 and not run.result.exists()):
        say("stopped; the same command continues")
        raise SystemExit(130 if stopped == signal.SIGINT else 0)  # as the programs
    if status:
        raise TrainingError(f"exit status {status} of {run.command}")


def _commit(programs: Path) -> str:
    """The commit of the code, with `+` if files differ from it; empty where there is no repository."""
    git = ["git", "-C", str(programs.parent)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _append(log: epath.Path, row: dict[str, Any]) -> None:
    lines = log.read_text(encoding="utf-8") if log.exists() else ""
    write_atomically(log, lines + json.dumps(row) + "\n")


def read_log(log: epath.Path) -> dict[str, dict[str, Any]]:
    """What made each result: `command`, `commit` and `line` of its last process, `seconds` of all of them."""
    found: dict[str, dict[str, Any]] = {}
    for line, text in enumerate(log.read_text(encoding="utf-8").splitlines() if log.exists() else ()):
        row = json.loads(text) | {"line": line}
        if "result" not in row:
            raise InputError(f"{log}:{line + 1}: written by an earlier version of the study; change workdir")
        before = found.get(row["result"])
        if before and before["command"] == row["command"] and not row["anew"]:
            row["seconds"] += before["seconds"]
        found[row["result"]] = row
    return found
