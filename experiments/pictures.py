"""Draws the pictures of the documentation from measured figures: docs/results/*.csv to docs/images/*.png.

python experiments/pictures.py
"""

import csv
from pathlib import Path

import matplotlib.pyplot as plt
from etils import epath

from mux_jax.plots import COLOURS, drawing, save_figure

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLUE, ORANGE, GREEN, *_, GREY = COLOURS
FULL = "finetuned"
# Of each line: marker, colour, what its label counts, and where the label stands, in points from the marker.
LINES = {
    "fewer layers": ("s", ORANGE, "{layers} layers", (4, 8)),
    "side by side": ("o", BLUE, "N = {N}", (-4, -17)),
    "primed and pre-trained": ("^", GREY, "N = {N}", (8, 3)),
}
# Where a label would stand on another line.
MOVED = {
    ("SST-2", "2 layers"): (-16, -19),
    ("SST-2", "side by side", "N = 5"): (2, 9),
    ("UD EWT", "2 layers"): (-30, -18),
    ("UD EWT", "side by side", "N = 5"): (2, 9),
}
RUNTIMES = {"PyTorch": ("X", GREY), "XLA": ("o", BLUE), "ONNX Runtime": ("s", ORANGE), "OpenVINO": ("D", GREEN)}
PRECISIONS = {"float32": "-", "bfloat16": "--", "int8": ":"}


def main() -> None:
    for name, picture in (("frontier", draw_frontier), ("runtimes", draw_runtimes)):
        target = DOCS / "images" / f"{name}.png"
        with open(DOCS / "results" / f"{name}.csv", encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f))
        with drawing(epath.Path(target)):
            save_figure(picture(rows), epath.Path(target))
            print(target)


def draw_frontier(rows: list[dict[str, str]]) -> plt.Figure:
    """Score against throughput, a panel for each task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = plt.subplots(1, len(tasks), figsize=(11, 4.6), layout="constrained")
    for axis, task in zip(axes, tasks):
        draw(axis, task, [row for row in rows if row["task"] == task])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def draw_runtimes(rows: list[dict[str, str]]) -> plt.Figure:
    """Throughput against N, a line for each runtime and precision; the ordinary BERT as hollow marks."""
    figure, axis = plt.subplots(figsize=(8.4, 4.4), layout="constrained")
    for place, (runtime, (marker, color)) in enumerate(RUNTIMES.items()):
        for precision, line in PRECISIONS.items():
            of = [row for row in rows if (row["runtime"], row["precision"]) == (runtime, precision)]
            points = [(int(row["N"]), float(row["factor"])) for row in of if row["model"] == "ours"]
            if points:
                axis.plot(*zip(*points), line, marker=marker, color=color, label=f"{runtime}, {precision}")
            for row in of:
                if row["model"] != "ours":
                    axis.plot(0.72 + 0.06 * place, float(row["factor"]), marker, color=color, markerfacecolor="white")
    axis.plot(
        [], [], "o", color="0.3", markerfacecolor="white", label="hollow: BERT of transformers,\nin PyTorch as crosses"
    )
    axis.set(xscale="log", yscale="log", xlabel="N, texts a row", ylabel="instances/s over XLA's N = 1 in float32")
    axis.set_xticks([1, 2, 5, 10], [1, 2, 5, 10], minor=False)
    axis.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def draw(axis: plt.Axes, task: str, rows: list[dict[str, str]]) -> None:
    """One task: a line through the scores of seed 0 for each way to be faster; other seeds as small dots."""
    first = [row for row in rows if row["seed"] == "0"]
    full = next(row for row in first if row["model"] == FULL)
    for name, (marker, color, label, offset) in LINES.items():
        points = [row for row in first if row["model"] == name]
        axis.plot(*columns([full, *points]), color=color, zorder=1)
        axis.plot(*columns(points), marker, color=color, markersize=8, label=name)
        for row in points:
            text = label.format(**row).replace("1 layers", "1 layer")
            moved = MOVED.get((task, text), MOVED.get((task, name, text), offset))
            where = float(row["throughput"]), float(row["score"])
            axis.annotate(text, where, moved, textcoords="offset points", color=color, fontsize=10)
    axis.plot(*columns([full]), "D", color="black", markersize=8, label="the whole model, 6 layers, N = 1")
    others = columns([row for row in rows if row["seed"] != "0"])
    axis.plot(*others, "o", color="black", markerfacecolor="white", markersize=4, label="other seeds", zorder=3)
    axis.set(title=task, xlabel="measured throughput over the whole model", ylabel="accuracy, points", xlim=(0.6, 6.8))
    axis.grid(alpha=0.3)
    axis.margins(y=0.12)


def columns(rows: list[dict[str, str]]) -> tuple[list[float], list[float]]:
    return [float(row["throughput"]) for row in rows], [float(row["score"]) for row in rows]


if __name__ == "__main__":
    main()
