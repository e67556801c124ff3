"""What a study has found: a table, its pictures, and the command and time of every run."""

import json
import os
from pathlib import Path
from typing import Any

from etils import epath

from experiments import throughput
from experiments.plan import TASKS, Model, Run
from experiments.runner import read_log
from mux_jax.files import write_atomically
from mux_jax.plots import drawing, pyplot, save_figure
from mux_jax.progress import say


def write(models: list[Model], workdir: epath.Path) -> None:
    """Writes `results.json`, `results.md` and a picture for each task of the runs that are done."""
    rows = collect(models, workdir)
    write_atomically(workdir / "results.json", json.dumps(rows, indent=2) + "\n")
    write_atomically(workdir / "results.md", f"{_table(rows)}\n{_commands(models, workdir)}")
    written = ["results.json", "results.md"]
    for task in TASKS:
        if any(task in row["tasks"] and row["factors"][task] for row in rows):
            with drawing(workdir / f"{task}.png"):
                _plot(rows, task, workdir / f"{task}.png")
            written.append(f"{task}.png")
    for name in written:
        say(f"  {workdir / name}")


def collect(models: list[Model], workdir: epath.Path) -> list[dict[str, Any]]:
    """An object for each model that a task has been scored with.

    Returns:
      `backbone`, `variant`, `width`, `base`; `factors`, the measured throughput over width 1, by task;
      `retrieval`, the accuracy on held-out text after priming, by slot; `pretraining`, the figures at its
      end; `tasks` and `ensembles`, the scores with `drop`, the points lost against width 1; `seconds` of
      its runs.
    """
    speed = throughput.read(workdir / "throughput.json")
    log = read_log(workdir / "runs.jsonl")
    rows = []
    for model in models:
        base = throughput.baseline(model, models)
        tasks, ensembles = _scores(model.tasks, base), _scores(model.ensembles, base)
        if not tasks:
            continue
        factors = {
            task: speed.get(throughput.name(model, timed), {}).get("factor")
            for timed, tasks in throughput.TIMED.items()
            for task in tasks
        }
        stages = _result(model.pretrained)["stages"] if model.pretrained else {}
        primed = _result(model.primed)["stages"] if model.primed else {}
        rows.append(
            {
                "backbone": model.backbone,
                "variant": model.variant,
                "width": model.width,
                "base": model.base,
                "factors": factors,
                "retrieval": primed.get("priming", {}).get("retrieval_accuracy_per_slot"),
                "pretraining": stages.get("pretraining"),
                "tasks": tasks,
                "ensembles": ensembles,
                "seconds": sum(log[str(run.result)]["seconds"] for run in model.runs if run.result.exists()),
            }
        )
    return rows


def _scores(runs: dict[str, Run], base: Model | None) -> dict[str, dict[str, Any]]:
    found = {}
    for task, run in runs.items():
        if run.result.exists():
            score = _result(run)["score"]
            first = base.tasks.get(task) if base else None
            known = first and first.result.exists()
            drop = 100 * (_result(first)["score"]["mean"] - score["mean"]) if known else None
            found[task] = score | {"drop": drop}
    return found


def _result(run: Run) -> dict[str, Any]:
    return json.loads(run.result.read_text(encoding="utf-8")) if run.result.exists() else {"stages": {}}


def _table(rows: list[dict[str, Any]]) -> str:
    """Markdown: scores in points, mean ± standard deviation over compositions (the best), and the drop."""
    head = [
        "backbone",
        "model",
        "N",
        "ensemble",
        *(f"throughput, {TASKS[task][1]}" for task in throughput.TIMED),
        *(title for _, title in TASKS.values()),
        "retrieval",
        "minutes",
    ]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        for ensemble in (False, True):
            scores = row["ensembles"] if ensemble else row["tasks"]
            if not scores:
                continue
            width = row["width"]
            factors = [row["factors"][task] for task in throughput.TIMED]
            lines.append(
                [
                    row["backbone"],
                    row["variant"],
                    str(width),
                    str(width) if ensemble else "",
                    *(f"{factor / (width if ensemble else 1):.2f}" if factor else "" for factor in factors),
                    *(_score(scores.get(task), width) for task in TASKS),
                    f"{min(row['retrieval']):.3f}" if row["retrieval"] and not ensemble else "",
                    "" if ensemble else f"{row['seconds'] / 60:.0f}",
                ]
            )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _score(score: dict[str, Any] | None, width: int) -> str:
    if score is None:
        return ""
    mean, std, best = (100 * score[key] for key in ("mean", "std", "max"))
    if width == 1:
        return f"{mean:.1f}"
    drop = "" if score["drop"] is None else f", {round(-score['drop'], 1) + 0.0:+.1f}"
    return f"{mean:.1f} ± {std:.1f} ({best:.1f}){drop}"


def _commands(models: list[Model], workdir: epath.Path) -> str:
    """Markdown: the command of each run that is done, its time and the commit."""
    log, here = read_log(workdir / "runs.jsonl"), f"{Path.cwd()}{os.sep}"
    done = dict.fromkeys(str(run.result) for model in models for run in model.runs if run.result.exists())
    rows = [log[result] for result in done]
    lines = [f"{row['command'].replace(here, '')}  # {row['seconds'] / 60:.1f} min, {row['commit']}\n" for row in rows]
    return f"```\n{''.join(lines)}```\n"


def _plot(rows: list[dict[str, Any]], task: str, path: epath.Path) -> None:
    """The score against the throughput over width 1, a curve from there for each backbone and variant."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
    scored = [row for row in rows if task in row["tasks"] and row["factors"][task]]
    for name in dict.fromkeys((row["backbone"], row["variant"], row["base"]) for row in scored if row["width"] > 1):
        backbone, variant, base = name
        curve = [(backbone, base, 1), *((backbone, variant, row["width"]) for row in scored)]
        group = [row for row in scored if (row["backbone"], row["variant"], row["width"]) in curve]
        points = sorted((row["width"], row["factors"][task], row["tasks"][task]) for row in group)
        widths, factors, scores = zip(*points)
        means, stds = ([100 * score[key] for score in scores] for key in ("mean", "std"))
        line = axis.errorbar(factors, means, stds, capsize=3, label=f"{backbone} {variant}")[0]
        disc = dict(boxstyle="circle", facecolor=line.get_color(), edgecolor="none")
        for factor, width, mean in zip(factors, widths, means):
            axis.text(factor, mean, str(width), bbox=disc, color="white", fontsize=7, ha="center", va="center")
    axis.set_xlabel("throughput over width 1")
    axis.set_ylabel(f"{TASKS[task][1]}, points")
    axis.margins(0.08)
    figure.legend(loc="outside right upper", fontsize=8, title="in the discs: N")
    save_figure(figure, path)
