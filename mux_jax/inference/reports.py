"""What people are shown of scores: a line, a confusion matrix, scores against the width."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from mux_jax.plots import drawing, pyplot, save_figure
from mux_jax.progress import say


def print_score(result: dict[str, Any]) -> None:
    """Prints the score of a task, over compositions, in one line."""
    score, width = result["score"], f"width {result['width']}"
    if result["ensemble"] > 1:
        width += f", ensembles of {result['ensemble']}: effective width {result['effective_width']:g}"
    spread = f" ± {score['std']:.4f} ({score['min']:.4f} to {score['max']:.4f}) over {len(score['runs'])} compositions"
    say(
        f"{result['task']}, {result['examples']:,} examples, {width}: {result['metric']} {score['mean']:.4f}"
        + (spread if len(score["runs"]) > 1 else "")
    )
    if "full" in result:
        figures = next(iter(result["splits"].values()))
        share, agreement = figures["deferred"]["mean"], figures["agreement"]["mean"]
        say(f"  {share:.1%} of the examples deferred to {result['full']}, agreement with it {agreement:.4f}")


def plot_confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str], path: epath.Path) -> None:
    """Draws the confusion matrix, a row for each true label, by share of that label; if it cannot, says why."""
    with drawing(path):
        _plot_confusion(gold, predicted, labels, path)


def _plot_confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str], path: epath.Path) -> None:
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
    save_figure(figure, path)


def plot_scores(results: list[dict[str, Any]], path: epath.Path) -> None:
    """Draws scores against the width, and against the instances that a row answers: width over ensemble size.

    If it cannot, it says why.
    """
    with drawing(path):
        _plot_scores(results, path)


def _plot_scores(results: list[dict[str, Any]], path: epath.Path) -> None:
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
    save_figure(figure, path)
