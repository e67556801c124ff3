"""Timing in turns: what slows the machine for a while slows all that is compared."""

import time
from collections.abc import Callable, Mapping

import numpy as np


def interleave(
    runs: Mapping[str, Callable[[], float | None]], repeats: int, report: Callable[[float, str], None] | None = None
) -> dict[str, np.ndarray]:
    """Seconds of each, A B C A B C, after one call of each that is not counted.

    Args:
      runs: each is done when it returns; it may return seconds, which then count instead of those that it took.
      report: see `progress`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats + 1):
        for j, (name, run) in enumerate(runs.items()):
            start = time.perf_counter()
            taken = run() or time.perf_counter() - start
            if i:
                seconds[name].append(taken)
            if report:
                report((i * len(runs) + j + 1) / ((repeats + 1) * len(runs)), name)
    return {name: np.array(taken) for name, taken in seconds.items()}
