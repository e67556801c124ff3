"""How fast a run goes, and what it holds."""

import contextlib
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np


class Meter:
    """The metrics of the steps since the last flush, and how fast they went.

    Pauses, ended by `restart`, do not count.

    Attributes:
      total: (instance-tokens, seconds) over all flushes.
    """

    def __init__(self, total: tuple[int, float]):
        self.total = total
        self._tokens = 0
        self._pending: list[dict[str, jax.Array]] = []
        self._values: list[dict[str, float]] = []
        self._since = time.monotonic()

    def restart(self) -> None:
        self._since = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time of what happens within."""
        before = time.monotonic()
        yield
        self._since += time.monotonic() - before

    def add(self, metrics: dict[str, jax.Array], tokens: int) -> None:
        """Takes a step's metrics and how many tokens it had, without waiting for the device to finish it."""
        self._pending.append(metrics)
        self._tokens += tokens

    def flush(self) -> dict[str, float]:
        """Waits for the steps; the means of their metrics, and `instance_tokens_per_second`."""
        self._values, self._pending = jax.device_get(self._pending), []
        seconds = max(time.monotonic() - self._since, 1e-9)  # some clocks stand still for milliseconds
        tokens, self._tokens = self._tokens, 0
        self.total = (self.total[0] + tokens, self.total[1] + seconds)
        self.restart()
        means = {name: float(np.mean([v[name] for v in self._values])) for name in self._values[0]}
        return means | {"instance_tokens_per_second": tokens / seconds}

    def first_bad_step(self, step: int) -> int:
        """Of the steps flushed last, ending with `step`, the first with a metric that is not finite."""
        finite = [all(np.isfinite(x) for x in v.values()) for v in self._values]
        return step - len(finite) + 1 + finite.index(False)


def peak_memory_bytes() -> int:
    """The accelerators' peak where they report one (the fullest device), else the process's; 0 where none is known."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if peaks:
        return max(peaks)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
