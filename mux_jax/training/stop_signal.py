"""SIGTERM, the signal of a preempted or cancelled job."""

import signal

import jax
from jax.experimental import multihost_utils

from mux_jax.progress import say


class StopSignal:
    """SIGTERM asks a running stage to stop after its step, and ends the process before the first.

    Of several hosts one may get it alone. JAX's own handler then spreads it, and all stop after the
    same step, soon after; before the first step too.
    """

    def __init__(self) -> None:
        self._requested = False
        self._alone = jax.process_count() == 1
        self._before = signal.signal(signal.SIGTERM, lambda *_: self._leave()) if self._alone else None

    def requested(self, step: int) -> bool:
        """Whether to stop now; asked after every step."""
        return self._requested if self._alone else multihost_utils.reached_preemption_sync_point(step)

    def _leave(self) -> None:
        say("stopped before training; nothing is lost")
        raise SystemExit(0)

    def __enter__(self) -> None:
        if self._alone:
            signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_requested", True))

    def __exit__(self, *exception: object) -> None:
        if self._alone:
            signal.signal(signal.SIGTERM, self._before)
