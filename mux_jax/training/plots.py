"""Pictures of what a run has found."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from mux_jax.training import hosts


def plot_confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str], path: epath.Path) -> None:
    """The confusion matrix, a row for each true label, by share of that label."""
    from sklearn.metrics import confusion_matrix

    plt = pyplot()
    shares = confusion_matrix(gold, predicted, labels=list(labels), normalize="true")
    size = min(14.0, 3 + 0.45 * len(labels))
    figure, axis = plt.subplots(figsize=(size, size), layout="constrained")
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(labels)), labels, rotation=90)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    for (i, j), share in np.ndenumerate(shares):
        if share >= 0.005 and len(labels) <= 30:
            axis.text(j, i, f"{share:.2f}", ha="center", va="center", fontsize=7, color="w" if share > 0.5 else "k")
    save(figure, path)


def plot_scores(results: list[dict[str, Any]], path: epath.Path) -> None:
    """Scores against the width, and against the instances that a row answers: width over ensemble size."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for axis, key, label in ((axes[0], "width", "width"), (axes[1], "effective_width", "width / ensemble size")):
        for ensemble in sorted({r["ensemble"] for r in results}):
            group = sorted((r for r in results if r["ensemble"] == ensemble), key=lambda r: r[key])
            means, stds = ([r["score"][name] for r in group] for name in ("mean", "std"))
            axis.errorbar([r[key] for r in group], means, stds, marker="o", capsize=3, label=f"ensemble of {ensemble}")
        axis.set_xlabel(label)
    axes[0].set_ylabel(f"{results[0]['task']}: {results[0]['metric']}")
    axes[0].legend(fontsize=8)
    save(figure, path)


def pyplot() -> Any:
    """Matplotlib, drawing to files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(figure: Any, path: epath.Path) -> None:
    """Writes a figure under another name, then renames it; of several hosts the first does."""
    if not hosts.is_first():
        return
    temporary = path.parent / f"{path.stem}.partial.png"
    with temporary.open("wb") as f:
        figure.savefig(f, dpi=120)
    temporary.replace(path)
    pyplot().close(figure)
