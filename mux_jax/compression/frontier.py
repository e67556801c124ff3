"""A picture of what was tried: score and agreement against measured throughput."""

import math
from typing import Any

from etils import epath

from mux_jax.compression.verdict import METRICS, agreement_metric, best_trials, full_agreement
from mux_jax.data.metrics import CORRELATIONS
from mux_jax.plots import drawing, pyplot, save_figure

_MARKERS = "osD^vPX<>"


def plot_frontier(result: dict[str, Any], path: epath.Path) -> None:
    """Draws a result (`report.py`): hollow marks are trials, the filled one is the model made, the star the full one.

    Those tried stand at the full model's best throughput times their measured factor. The full model's agreement with
    itself is 1; with the answers in a file it was measured. If it cannot draw, it says why.
    """
    with drawing(path):
        _plot_frontier(result, path)


def _plot_frontier(result: dict[str, Any], path: epath.Path) -> None:
    plt = pyplot()
    metric, agreement = result["task"]["metric"], agreement_metric(result["task"]["kind"])
    panels = [(metric, METRICS[metric])] if result["full"]["score"] else []
    wanted = "the given answers" if result.get("learned_from") else "the full model"
    panels.append((agreement, f"{METRICS[agreement]} with {wanted}"))
    figure, axes = plt.subplots(1, len(panels), figsize=(7.5, 4.2), layout="constrained", squeeze=False)
    for axis, (figure_name, label) in zip(axes[0], panels):
        _draw(axis, result, figure_name, agreement)
        axis.set_ylabel(label if figure_name in CORRELATIONS else f"{label}, %")
    handles, names = axes[0][-1].get_legend_handles_labels()
    columns = 3 if max(map(len, names)) <= 26 else 2
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw(axis: Any, result: dict[str, Any], figure: str, agreement: str) -> None:
    """One panel: a figure, of the metric or the agreement, against throughput."""
    full, made = result["full"], result["made"]
    base, scale = best_throughput(full), 1 if figure in CORRELATIONS else 100

    def height(value: float | None) -> float:
        return math.nan if value is None else value * scale

    speeds = [base, best_throughput(made)]
    of_agreement = figure == agreement
    own = full_agreement(result) if result.get("learned_from") else 1.0
    axis.plot(base, height(own if of_agreement else full["score"][figure]), "k*", markersize=13, label="full model")
    for i, tried in enumerate(best_trials(result)):
        color, marker = f"C{i}", _MARKERS[i % len(_MARKERS)]
        speeds.append(base * tried["factor"])
        y = height(tried["agreement"] if of_agreement else (tried["score"] or {}).get(figure))
        axis.plot(
            speeds[-1], y, marker, color=color, markerfacecolor="none", markersize=8, label=f"{tried['name']}, trial"
        )
        if tried["name"] == result["chosen"]:
            found = result.get("deferral")
            if found and not (of_agreement and result.get("learned_from")):  # its agreement is with the full model
                _draw_deferral(axis, result, found, "" if of_agreement else figure, color, scale)
            y = height(made["agreement"]["value"] if of_agreement else made["score"][figure])
            axis.plot(speeds[1], y, marker, color=color, markersize=9, label=f"{made['name']}, trained", zorder=3)
            if of_agreement:
                ends = [height(made["agreement"][end]) for end in ("low", "high")]
                axis.plot([speeds[1]] * 2, ends, color=color, linewidth=1.5)
    for name in ("full", "made") if result.get("int8") and not (of_agreement and result.get("learned_from")) else ():
        found, of = result["int8"][name], full["throughput"][result["int8"]["dtype"]]
        speeds.append(of["texts_per_second"] * found["factor"])
        y = height(found["agreement"]["value"] if of_agreement else found["score"][figure])
        mark, label = "k*" if name == "full" else "kX", f"{result[name]['name']}, int8"
        axis.plot(speeds[-1], y, mark, markerfacecolor="none", label=label)
    if result["speedup"]:
        speeds.append(base * result["speedup"])
        axis.axvline(speeds[-1], color="0.5", linewidth=0.8, label=f"asked for: {result['speedup']:g} times")
    _scale(axis, min(speeds), max(speeds))


def _draw_deferral(
    axis: Any, result: dict[str, Any], found: dict[str, Any], figure: str, color: str, scale: int
) -> None:
    """The line from the model made to the full one as more texts are deferred, in a figure of the metric, or if it has
    no name in agreement; speeds are computed."""
    made, full = (best_throughput(result[name]) for name in ("made", "full"))
    speeds = [1 / (found["passes"] / made + point["deferred"] / full) for point in found["curve"]]
    heights = [
        point["agreement"] if not figure else (point["score"] or {}).get(figure, math.nan) for point in found["curve"]
    ]
    axis.plot(speeds, [scale * y for y in heights], "--", color=color, linewidth=1, label="with deferral")


def best_throughput(model: dict[str, Any]) -> float:
    """Texts a second in the model's fastest precision."""
    return max(x["texts_per_second"] for x in model["throughput"].values())


def _scale(axis: Any, low: float, high: float) -> None:
    """A logarithmic axis with plain numbers, few enough to stand side by side."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_xscale("log")
    axis.set_xlim(low / 1.3, high * 1.3)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 2.5 else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("texts a second (log scale)")
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.margins(y=0.12)
    axis.grid(alpha=0.3)
