"""What a run shows people at its end: curves.png and a table."""

from typing import Any

from etils import epath
from rich.table import Table

from mux_jax.data.metrics import OF_KIND
from mux_jax.inference.reports import print_score
from mux_jax.plots import drawing, pyplot, save_figure
from mux_jax.progress import console, say

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
    *dict.fromkeys(metric for metrics in OF_KIND.values() for metric in metrics),
)


def plot_curves(rows: list[dict[str, Any]], path: epath.Path) -> None:
    """Draws losses and held-out accuracies against the step, a line where each stage begins. If it cannot, says why."""
    with drawing(path):
        _plot_curves(rows, path)


def _plot_curves(rows: list[dict[str, Any]], path: epath.Path) -> None:
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
    save_figure(figure, path)


def print_summary(result: dict[str, Any], workdir: epath.Path) -> None:
    """Prints one table of the final held-out figures, and where everything is."""
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


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{v:.3f}" for v in value)
    return "" if value is None else f"{value:.4f}"
