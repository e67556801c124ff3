"""The metrics of a run: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from etils import epath

from mux_jax.parallel import hosts


class MetricWriter:
    """Appends metrics, one object a line with the key `step`; held-out ones begin with `heldout_`.

    Of several hosts the first writes. Nothing is appended to an object of a store: there files are uploaded
    whole, at each `flush`.

    Attributes:
      rows: what has been written, an object each.
    """

    def __init__(self, workdir: epath.Path, step: int):
        """Continues a run at `step`: lines of later steps, whose work was lost, are dropped."""
        self._path = workdir / "metrics.jsonl"
        self._remote = "://" in str(self._path)
        self.rows = [row for row in read_metrics(self._path) if row["step"] <= step]
        self._write_all()
        self._events = _Events(workdir / "tensorboard", step + 1) if hosts.is_first() else None

    def write(self, step: int, stage: str, values: dict[str, Any]) -> None:
        row = {"step": step, "stage": stage} | values
        self.rows.append(row)
        if not self._events:
            return
        if not self._remote:
            with self._path.open("a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._events.write(name, value, step)

    def flush(self) -> None:
        """What was written is in the workdir when this returns. Called before each checkpoint, which it belongs to."""
        if self._remote:
            self._write_all()
        if self._events:
            self._events.flush()

    def close(self) -> None:
        """Frees what it holds; what was not flushed may be lost."""
        if self._events:
            self._events.close()

    def _write_all(self) -> None:
        hosts.write_text(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))


class _Events:
    """A file of TensorBoard events, written by the thread that calls.

    tensorboardX's `SummaryWriter` writes from a thread of its own. When a full disk has ended that thread, it waits
    for it for ever. And it writes to object stores by their own clients only.
    """

    def __init__(self, folder: epath.Path, step: int):
        """step: the first one; what other files of the folder have of it and of later ones does not count."""
        from tensorboardX.event_file_writer import EventsWriter  # slow to import
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._event = Event
        self._remote = folder if "://" in str(folder) else None
        self._copied = tempfile.TemporaryDirectory() if self._remote else None
        local = Path(self._copied.name if self._copied else folder)
        self._writer = EventsWriter(str(local / "events"), f".{os.getpid()}.{step}")
        self._writer.write_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def write(self, name: str, value: float, step: int) -> None:
        from tensorboardX.summary import scalar

        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=scalar(name, value)))

    def flush(self) -> None:
        self._writer.flush()
        if self._remote and self._copied:
            for file in Path(self._copied.name).iterdir():
                (self._remote / file.name).write_bytes(file.read_bytes())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk, which was told before
            self._writer.close()
        if self._copied:
            self._copied.cleanup()


def read_metrics(path: epath.Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; one cut off by a kill is left out."""
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]
