"""Signals that end a program: what is half-written is taken back first.

A signal handler that raises does so in the midst of anything, of a destructor or of an extension that is being
loaded, where exceptions are lost or turned into others. So nothing is raised: the handler itself takes back
what is registered here, prints one line and ends the process.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])  # not on Windows

_undo: list[Callable[[], None]] = []


@contextlib.contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """`undo` is called if a signal ends the process within."""
    _undo.append(undo)
    try:
        yield
    finally:
        _undo.remove(undo)


def end_at_signals(line: str = "", statuses: Mapping[int, int] | None = None) -> None:
    """Ctrl-C, SIGTERM and SIGHUP end the process, unless it was started to ignore them, as by nohup.

    Args:
      line: what to print, if it is no error; default: one that names the signal, on stderr.
      statuses: exit statuses by signal; default: 128 and its number.
    """

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once
        for undo in reversed(_undo):
            with contextlib.suppress(Exception):  # the process ends in any case
                undo()
        for child in multiprocessing.active_children():
            child.terminate()
        if sys.stdout.isatty():
            os.write(1, b"\x1b[?25h")  # the cursor, which a progress bar hides
        text = line or f"error: stopped by {signal.Signals(number).name}"
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(1 if line else 2, f"{text}\n".encode())
        os._exit((statuses or {}).get(number, 128 + number))

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def leave_to_parent(*_: int) -> None:
    """Called in a worker process: what a terminal sends to all is for its parent, with which it ends."""
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)

    def end_with(parent: Any) -> None:
        parent.join()
        os._exit(1)

    if parent := multiprocessing.parent_process():
        threading.Thread(target=end_with, args=(parent,), daemon=True).start()
