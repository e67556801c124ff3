"""The metrics of a run: metrics.jsonl and TensorBoard events."""

import json
import logging
from typing import Any

from etils import epath

from mux_jax.parallel import hosts


class MetricWriter:
    """Appends metrics, one object a line with the key `step`; held-out ones begin with `heldout_`.

    Of several hosts the first writes.

    Attributes:
      rows: what has been written, an object each.
    """

    def __init__(self, workdir: epath.Path, step: int):
        """Continues a run at `step`: lines of later steps, whose work was lost, are dropped."""
        from tensorboardX import SummaryWriter

        self._path = workdir / "metrics.jsonl"
        self.rows = [row for row in read_metrics(self._path) if row["step"] <= step]
        self._write_all()
        logging.getLogger("tensorboardX").setLevel(logging.ERROR)
        self._board = None
        if hosts.is_first():
            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, stage: str, values: dict[str, Any]) -> None:
        row = {"step": step, "stage": stage} | values
        self.rows.append(row)
        if not self._board:
            return
        if "://" in str(self._path):  # nothing is appended to an object
            self._write_all()
        else:
            with self._path.open("a") as f:
                f.write(json.dumps(row) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)

    def _write_all(self) -> None:
        hosts.write_text(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def close(self) -> None:
        if self._board:
            self._board.close()


def read_metrics(path: epath.Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; one cut off by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
