"""SIGTERM, the signal of a preempted or cancelled job."""

import signal

from mux_jax.progress import say


class StopSignal:
    """SIGTERM asks a running stage to stop after its step, and ends the process before the first."""

    def __init__(self) -> None:
        self.requested = False
        self._before = signal.signal(signal.SIGTERM, lambda *_: self._leave())

    def _leave(self) -> None:
        say("stopped before training; nothing is lost")
        raise SystemExit(0)

    def __enter__(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "requested", True))

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
