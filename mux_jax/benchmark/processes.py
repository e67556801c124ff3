"""Cases in processes of their own: threads of others then do not spin while ours work.

The process says when it is ready, reads a line for each turn, and answers with the seconds that it took.
"""

import atexit
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


def start(module: str, kind: str, settings: dict[str, Any]) -> Callable[[], float]:
    """A function that lets `module`, which ends in `serve`, run `kind` once, and returns the seconds."""
    command = [sys.executable, "-W", "ignore", "-m", module, kind, json.dumps(settings)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    assert process.stdin and process.stdout
    reader, writer = process.stdout, process.stdin

    def answer() -> str:
        for line in reader:
            if line.startswith(_MARK):  # other lines are what libraries print
                return line.removeprefix(_MARK)
        raise RuntimeError(f"the process of {module} {kind} ended with status {process.wait()}")

    def run() -> float:
        writer.write("\n")
        writer.flush()
        return float(answer())

    answer()
    return run


_MARK = "mux_jax: "


def serve(run: Callable[[], Any]) -> None:
    """Runs and times `run` at each line, in the process that `start` has started."""
    run()  # what is compiled at the first call
    print(f"{_MARK}ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        run()
        print(f"{_MARK}{time.perf_counter() - begin}", flush=True)
