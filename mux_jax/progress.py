"""Progress that a person watches: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class _Console(Console):
    """A console that falls silent when nobody reads it any more; rich's would end the process, unsaved."""

    @property
    def is_terminal(self) -> bool:
        """Whether somebody watches; not what FORCE_COLOR says, which notebooks set."""
        return self.file.isatty()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# What is printed is what there is, in a notebook too.
console = _Console(markup=False, emoji=False, highlight=False, force_jupyter=False)

_QUIET_SECONDS = 20  # between two lines where there is no terminal


def say(text: str) -> None:
    """Prints a line as it is."""
    console.print(text, soft_wrap=True)


def print_error(error: object) -> None:
    """Prints one line on stderr."""
    sys.stdout.flush()
    print("error:", " ".join(map(str.strip, str(error).splitlines())), file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(task: str, begun: float = 0.0) -> Iterator[Callable[[float, str], None]]:
    """Yields `report(fraction done, note)`; shows the task, the note and the time left.

    `begun` is the fraction that was done before, by another process.
    """
    start = last = time.monotonic()

    cell = _line_of_cell()
    if console.is_terminal and not cell:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn())
        note = TextColumn("{task.fields[note]}", markup=False)
        with Progress(*columns, note, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
            handle = bar.add_task(task, total=1.0, note="")

            def update(done: float, note: str = "") -> None:
                bar.update(handle, completed=done, note=note)

            update(begun)
            yield update
        return

    show, pause = (cell, 0.5) if cell else (say, _QUIET_SECONDS)

    def report(done: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= pause:
            last = now
            left = (now - start) * (1 - done) / max(done - begun, 1e-9)
            show(f"{task}: {done:.0%}  {note}  {_minutes(left)} left")

    yield report
    show(f"{task}: done in {_minutes(time.monotonic() - start)}")


def _line_of_cell() -> Callable[[str], None] | None:
    """In a notebook what shows a line, each time in place of the last one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
