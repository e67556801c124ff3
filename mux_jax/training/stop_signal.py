"""The signals that stop a run: SIGTERM of a preempted or cancelled job, SIGINT of Ctrl-C, SIGHUP of a lost terminal."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from mux_jax.interrupts import SIGNALS
from mux_jax.progress import say


class StopSignal:
    """While a stage runs, a signal asks it to stop after its step and to save. Before and after, it does what it did.

    A second Ctrl-C ends at once. A signal that the process was started to ignore, as by nohup, stays ignored.
    Of several hosts one may get it alone. JAX's own handler of SIGTERM then spreads it, and all stop after the
    same step, soon after; before the first step too.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._alone = jax.process_count() == 1
        self._before: dict[int, Any] = {}

    def requested(self, step: int) -> bool:
        """Whether to stop now; asked after every step."""
        return self._received is not None if self._alone else multihost_utils.reached_preemption_sync_point(step)

    @property
    def exit_status(self) -> int:
        """0, or that of a program that Ctrl-C has ended, so that a shell does not go on to the next."""
        return 128 + signal.SIGINT if self._received == signal.SIGINT else 0

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        first, self._received = self._received is None, self._received or number
        if not self._alone:
            os.kill(os.getpid(), signal.SIGTERM)
        elif first:
            say("stopping after this step; Ctrl-C ends at once, unsaved")

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # no other thread may handle signals
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN and (self._alone or number != signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
