"""What a run leaves for people: metrics.jsonl, TensorBoard events, curves.png, result.json."""

import contextlib
import json
import logging
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from rich.table import Table

from mux_jax.metrics import METRICS
from mux_jax.progress import console, say
from mux_jax.training import hosts
from mux_jax.training.checkpoints import write_atomically
from mux_jax.training.plots import pyplot, save

# Held-out figures that result.json gives for a stage, and the summary prints.
FIGURES = (
    "loss",
    "retrieval_accuracy",
    "retrieval_accuracy_per_slot",
    "mlm_loss",
    "mlm_accuracy",
    "unigram_entropy",
    "rtd_loss",
    "rtd_roc_auc",
    "rtd_f1",
    *METRICS,
)


class Logbook:
    """Appends metrics, one object a line with the key `step`; held-out ones begin with `heldout_`.

    Of several hosts the first writes.
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
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def close(self) -> None:
        if self._board:
            self._board.close()


class Meter:
    """The metrics of the steps since the last flush, and how fast they went.

    `total` is (instance-tokens, seconds) over all flushes; pauses, ended by `restart`, do not count.
    """

    def __init__(self, total: tuple[int, float]):
        self.total = total
        self._tokens = 0
        self._pending: list[dict[str, jax.Array]] = []
        self._values: list[dict[str, float]] = []
        self.restart()

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
        seconds, tokens, self._tokens = time.monotonic() - self._since, self._tokens, 0
        self.total = (self.total[0] + tokens, self.total[1] + seconds)
        self.restart()
        means = {name: float(np.mean([v[name] for v in self._values])) for name in self._values[0]}
        return means | {"instance_tokens_per_second": tokens / seconds}

    def first_bad_step(self, step: int) -> int:
        """Of the steps flushed last, ending with `step`, the first with a metric that is not finite."""
        finite = [all(np.isfinite(x) for x in v.values()) for v in self._values]
        return step - len(finite) + 1 + finite.index(False)


def read_metrics(path: epath.Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; one cut off by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def peak_memory_bytes() -> int:
    """The accelerators' peak where they report one (the fullest device), else the process's."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    unit = 1 if sys.platform == "darwin" else 1024
    return max(peaks) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def plot_curves(rows: list[dict[str, Any]], path: epath.Path) -> None:
    """Losses and held-out accuracies against the step, stages shaded apart."""
    plt = pyplot()

    def series(name: str) -> tuple[list[int], list[float]]:
        points = [(row["step"], row[name]) for row in rows if name in row]
        return [p[0] for p in points], [p[1] for p in points]

    names = sorted({name for row in rows for name in row})
    losses = [n for n in names if n.removeprefix("heldout_") in ("retrieval_loss", "mlm_loss", "rtd_loss", "task_loss")]
    scores = [n for n in names if n.startswith("heldout_") and n.endswith(("accuracy", "auc", "f1", "score"))]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, group, label in ((axes[0], losses, "loss (nats)"), (axes[1], scores, "held-out score")):
        for name in group:
            heldout = name.startswith("heldout_")
            axis.plot(
                *series(name), label=name, marker="o" if heldout else "", markersize=3, alpha=1 if heldout else 0.6
            )
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        for stage in dict.fromkeys(row["stage"] for row in rows):
            first = min(row["step"] for row in rows if row["stage"] == stage)
            axis.axvline(first, color="0.8", zorder=0)
            axis.annotate(stage, (first, 0.99), xycoords=("data", "axes fraction"), fontsize=8, color="0.5", va="top")
        if group:
            axis.legend(fontsize=8)
    save(figure, path)


def print_summary(result: dict[str, Any], workdir: epath.Path) -> None:
    """One table of the final held-out figures, and where everything is."""
    table = Table(title=f"held-out figures of {workdir}")
    table.add_column("figure")
    for stage in result["stages"]:
        table.add_column(stage, justify="right")
    for name in FIGURES:
        if any(name in figures for figures in result["stages"].values()):
            table.add_row(name, *(_shown(figures.get(name)) for figures in result["stages"].values()))
    console.print(table)
    if "score" in result:
        print_score(result)
    say(
        f"{result['parameters']:,} parameters; {result['instance_tokens_per_second']:,.0f} instance-tokens/s; "
        f"{result['wall_seconds']:.0f} s; peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB"
    )
    for name in ("result.json", "metrics.jsonl", "curves.png", "confusion.png", "tensorboard", "checkpoints"):
        if (workdir / name).exists():
            say(f"  {workdir / name}")


def print_score(result: dict[str, Any]) -> None:
    """The score of a task, over compositions, in one line."""
    score, width = result["score"], f"width {result['width']}"
    if result["ensemble"] > 1:
        width += f", ensembles of {result['ensemble']}: effective width {result['effective_width']:g}"
    spread = f" ± {score['std']:.4f} ({score['min']:.4f} to {score['max']:.4f}) over {len(score['runs'])} compositions"
    say(
        f"{result['task']}, {result['examples']:,} examples, {width}: {result['metric']} {score['mean']:.4f}"
        + (spread if len(score["runs"]) > 1 else "")
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{v:.3f}" for v in value)
    return "" if value is None else f"{value:.4f}"
