"""A soak test: tiny runs of the programs, each disturbed once, run again, and compared with one left alone.

    python tests/soak/soak.py --workdir DIR [--runs 100] [--minutes 60] [--seed 0] [--only RUN]

README.md beside this file says what is disturbed, what is checked, and how to read DIR/log.jsonl.
"""

import argparse
import collections
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from cases import CASES, KINDS, records
from run import Failure, Run, Skipped

DISTURBANCES = ("SIGKILL", "SIGTERM", "SIGINT", "full disk", "second process", "truncated input")
PAGE = 4096  # bytes that a tmpfs gives out at a time


def interrupt(run: Run, rng: random.Random, number: signal.Signals) -> None:
    """Sends a signal at some moment of the usual length of the command."""
    moment = rng.uniform(0, run.reference["usual"])
    run.when = f"after {moment:.1f} s"
    process = run.start()
    process.ends_in(moment)
    process.send(number)
    run.finish(process, number)


def fill_disk(run: Run, rng: random.Random) -> None:
    """Leaves less space than the command needs, and makes room afterwards."""
    disk = os.statvfs(run.disk)
    free = PAGE * rng.randrange(run.reference["bytes"] // PAGE)
    run.when = f"with {free // 1024} KiB left"
    run.mount(max(PAGE, (disk.f_blocks - disk.f_bfree) * disk.f_frsize + free), "remount")
    process = run.start()
    if run.finish(process) and "space" not in process.printed()[1]:
        raise Failure(f"{process.name} does not say that there is no space")
    run.mount(2**28, "remount")


def start_second(run: Run, rng: random.Random) -> None:
    """Starts the command twice. Both may end well, but not both do all the work of training."""
    delay = rng.choice([0.0, rng.uniform(0, 1.2 * run.reference["usual"])])
    run.when = f"after {delay:.1f} s"
    first = run.start()
    first.ends_in(delay)
    second = run.start()
    statuses = [run.finish(process) for process in (first, second)]
    if all(statuses):
        raise Failure("both processes ended with an error")
    for process, other in ((first, second), (second, first)):
        if process.returncode and not re.search(rf"\b{other.pid}\b|exists; --overwrite", process.printed()[1]):
            raise Failure(f"{process.name} does not say that process {other.pid} holds the output")
    if run.trains and not any(statuses) and "continuing" not in first.printed()[0] + second.printed()[0]:
        raise Failure("both processes trained from the start")


def truncate(run: Run, rng: random.Random) -> None:
    """Cuts a file that the command reads. It says so, or does what whole records give. Mends all afterwards."""
    choices = [file for file in run.case.files if not file.endswith(".txt")]  # a cut line of .txt is a line
    choice = rng.choice(choices + ["model"] * bool(run.case.model) + ["newest", "all"] * run.trains)
    text, folders, ends = choice in run.case.files, [run.folder / choice], [0]
    if choice in ("newest", "all"):
        run.write_output()
        folders = run.checkpoints()[-1:] if choice == "newest" else run.checkpoints()
    elif text:
        lines = records(folders[0])
        ends = list(itertools.accumulate(map(len, lines), initial=0))
    for folder in folders:
        file = rng.choice(sorted(p for p in (folder, *folder.rglob("*")) if p.is_file() and p.stat().st_size))
        cut = rng.choice(ends[:-1]) if text and rng.random() < 0.3 else rng.randrange(file.stat().st_size)
        os.truncate(file, cut)
    run.when = f"{file.relative_to(run.folder)} cut to {cut} bytes"
    process = run.start()
    status, said = run.finish(process), "".join(process.printed())
    if status and choice == "newest":
        raise Failure(f"{process.name} does not go back to the checkpoint before")
    if status and file.name not in said and "checkpoints" not in said and not (text and cut in ends):
        raise Failure(f"{process.name} does not name it")
    difference = "" if status else run.difference()
    if difference and not text and "damaged" not in said:
        raise Failure(f"another result ({difference}), and nothing says why")
    if not status and text:
        whole = max(count for count, end in enumerate(ends) if end - 1 <= cut)
        with closing(Run(run.folder / "whole_records", run.workdir, run.name, run.reference)) as other:
            (other.folder / choice).write_text("".join(lines[:whole]))
            if other.finish(other.start()) or other.result() != run.result():
                raise Failure(f"the result is not that of its {whole} whole lines")
    if difference or choice == "all":
        shutil.rmtree(run.disk)
        run.disk.mkdir()
    run.write_inputs()


def attempt(folder: Path, workdir: Path, number: int, seed: int, references: dict[str, Any]) -> dict[str, Any]:
    """Run `number`, which with the seed says what happens; returns its entry in the log."""
    cells = list(itertools.product(KINDS, DISTURBANCES))
    random.Random(f"{seed} {number // len(cells)}").shuffle(cells)  # all of them, then all of them again
    (kind, disturbance), rng = cells[number % len(cells)], random.Random(f"{seed} run {number}")
    name = rng.choice([name for name, case in CASES.items() if case.kind == kind])
    begun, verdict, why = time.monotonic(), "failed", ""
    with closing(Run(folder, workdir, name, references[name])) as run:
        try:
            if disturbance == "full disk":
                run.mount(2**28)
            earlier = disturbance != "truncated input" and rng.random() < 0.5
            if earlier:
                run.write_output()
            if earlier and run.trains:  # as if it had been stopped before the last checkpoint
                (run.output / "result.json").unlink()
                shutil.rmtree(run.checkpoints()[-1])
            if disturbance.startswith("SIG"):
                interrupt(run, rng, signal.Signals[disturbance])
            else:
                disturb = {"full disk": fill_disk, "second process": start_second, "truncated input": truncate}
                disturb[disturbance](run, rng)
            if disturbance != "truncated input":
                run.check_whole(earlier)
            last = run.start()
            if run.finish(last):
                raise Failure(f"{last.name}, undisturbed: {last.printed()[1].strip()}")
            if run.difference():
                raise Failure(f"the result differs from the reference's: {run.difference()}")
            verdict = "passed"
        except Skipped as e:
            verdict, why = "skipped", str(e)
        except Failure as e:
            why = str(e)
        except (OSError, ValueError) as e:  # files that are missing, or are no JSON
            why = f"{type(e).__name__}: {e}"
        statuses = [process.poll() for process in run.processes if process.name != "load_pretrained"]
    entry = {"run": number, "kind": kind, "case": name, "disturbance": disturbance, "when": run.when}
    seconds = round(time.monotonic() - begun, 1)
    return entry | {"statuses": statuses, "seconds": seconds, "verdict": verdict, "why": why}


def make_reference(workdir: Path, name: str) -> dict[str, Any]:
    """Runs a case twice, undisturbed: first it compiles, then it takes its usual time."""
    begun, results = time.monotonic(), []
    for _ in range(2):
        with closing(Run(workdir / "references" / name, workdir, name, {"usual": 60.0})) as run:
            start = time.monotonic()
            if run.finish(run.start()):
                raise Failure(f"exit status not 0; see {run.folder}")
            usual = round(time.monotonic() - start, 1)
            results.append(run.result())
    if results[0] != results[1]:
        raise Failure(f"two results differ: {results}")
    size = sum(-(-path.stat().st_size // PAGE) * PAGE for path in run.disk.rglob("*") if path.is_file())
    entry = {"reference": name, "result": results[1], "usual": usual, "bytes": size}
    return entry | {"seconds": round(time.monotonic() - begun, 1)}


def print_table(runs: list[dict[str, Any]]) -> None:
    """Passed/failed by kind and disturbance, then why runs failed."""
    counts = collections.Counter((e["kind"], e["disturbance"], e["verdict"]) for e in runs)
    print(f"\n{'passed/failed':14}" + "".join(f"{name:>17}" for name in DISTURBANCES))
    for kind in KINDS:
        cells = (f"{counts[kind, name, 'passed']}/{counts[kind, name, 'failed']}" for name in DISTURBANCES)
        print(f"{kind:14}" + "".join(f"{cell:>17}" for cell in cells))
    for e in runs:
        if e["why"]:
            print(f"run {e['run']}, {e['case']}, {e['disturbance']} {e['when']}: {e['why']}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Tiny runs of the programs, each disturbed once and run again.")
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="of the log and of runs that failed")
    parser.add_argument("--runs", type=int, default=100, help="(100)")
    parser.add_argument("--minutes", type=float, default=60, help="of all sessions; no run starts later (60)")
    parser.add_argument("--seed", type=int, default=0, help="with the number of a run says what happens in it (0)")
    parser.add_argument("--only", type=int, metavar="RUN", help="do this run, keep its folder, log nothing")
    arguments = parser.parse_args()
    workdir = arguments.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    log = workdir / "log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def add(entry: dict[str, Any]) -> None:
        entries.append(entry)
        with log.open("a") as f:
            f.write(json.dumps(entry) + "\n")

    for name in CASES:
        if not any(e.get("reference") == name for e in entries):
            print(f"reference: {name}", flush=True)
            try:
                add(make_reference(workdir, name))
            except Failure as e:
                print(f"error: {name}, undisturbed: {e}", file=sys.stderr)
                return 1
    references = {e["reference"]: e for e in entries if "reference" in e}
    if arguments.only is not None:
        entry = attempt(workdir / f"only_{arguments.only}", workdir, arguments.only, arguments.seed, references)
        print(json.dumps(entry, indent=2))
        return int(entry["verdict"] == "failed")
    for number in range(arguments.runs):
        if any(e.get("run") == number for e in entries):
            continue
        if sum(e["seconds"] for e in entries) >= 60 * arguments.minutes:
            print(f"{arguments.minutes:g} minutes are over: run {number} and those after it are left out")
            break
        folder = workdir / f"run_{number}"
        entry = attempt(folder, workdir, number, arguments.seed, references)
        add(entry)
        if entry["verdict"] != "failed":
            shutil.rmtree(folder)
        if entry["why"] or number % 10 == 9:
            what = f"{entry['case']}, {entry['disturbance']} {entry['when']}: {entry['verdict']}"
            print(f"run {number} of {arguments.runs}: {what}. {entry['why']}", flush=True)
    runs = [e for e in entries if "run" in e]
    print_table(runs)
    return int(any(e["verdict"] == "failed" for e in runs))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues")
