"""Draws score against throughput of the measured models: docs/results/frontier.csv to docs/images/frontier.png.

python experiments/frontier.py
"""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parents[1] / "docs"
FULL = "finetuned"
# Of each line: marker, colour, what its label counts, and where the label stands, in points from the marker.
LINES = {
    "fewer layers": ("s", "tab:orange", "{layers} layers", (4, 8)),
    "side by side": ("o", "tab:blue", "N = {N}", (-4, -17)),
    "primed and pre-trained": ("^", "tab:gray", "N = {N}", (8, 3)),
}
# Where a label would stand on another line.
MOVED = {
    ("SST-2", "2 layers"): (-16, -19),
    ("SST-2", "side by side", "N = 5"): (2, 9),
    ("UD EWT", "2 layers"): (-30, -18),
    ("UD EWT", "side by side", "N = 5"): (2, 9),
}


def main() -> None:
    with open(DOCS / "results" / "frontier.csv", encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = plt.subplots(1, len(tasks), figsize=(11, 4.6), layout="constrained")
    for axis, task in zip(axes, tasks):
        draw(axis, task, [row for row in rows if row["task"] == task])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    target = DOCS / "images" / "frontier.png"
    figure.savefig(target, dpi=120)
    print(target)


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
