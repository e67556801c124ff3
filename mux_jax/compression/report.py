"""The report on a cheaper model: what it costs, what it brings, whether to take it.

A result is a dictionary, which `report.json` holds as it is (NaN as null):

  model: the address of the full model, as it was given.
  machine: what speed was measured on, in words.
  task: kind and metric (`metrics.OF_KIND`), and the names of the labels.
  texts: numbers of texts: read in all; learn, choose, calibrate, judge: of each part; labelled: those with true labels,
    which scores are of, 0 if none: of a task the examples that `judge` was made of, else texts in no part; pool: how
    many were learned from, joined ones included. A part may be missing.
  learned_from: a file with the answers of another model, or "", also if missing: the full model's were learned from.
    Agreement is with these answers.
  speedup: the factor that was asked for, or None.
  tried: a list of the means tried, the best trial of each, one dictionary each:
    name, layers, hidden, heads, intermediate, width, share: what it is; parameters: their number.
    factor: its measured throughput over the full model's, in the same precision.
    steps, texts_seen, learning_rate: of its trial; agreement, loss: after it, on the part to choose by.
    score: the figures of `metrics.compute` there, or None.
  trials: all trials, in their order, as `tried`: of one means there are several, at several learning rates.
  chosen: the name of one of them.
  full: name, layers, hidden, heads, intermediate, width, parameters, and
    throughput: for each precision texts_per_second and rows, the batch's; score: the figures on the part to judge by,
    or None without labels; agreement: its own with the answers of `learned_from`, there, as value; else None.
  made: the same of the model made, whose name is `chosen`, and
    path: its folder; agreement: with what it learned from; lost: the full model's score minus its own in the task's
    metric, or None without labels, both value, low, high (`judging.py`); texts_seen, steps, learning_rate: of its
    training.
  factors: made over full, in each precision that both were measured in; best: each in its fastest one.
  row_mates: None for width 1; else changed: the share of judged texts whose answer is not the same in all compositions,
    or None for a regression; compositions: how many; score_std: the standard deviation of the score over them, of the
    agreement without labels. Of embeddings in place of changed: cosine, rare, alone, ensembles: see `company`.
  deferral: how the model made does if the full one answers what it is not sure of, or None, also if missing:
    share: of the texts, that `defer="auto"` takes, by the texts to calibrate; deferred: what share of the judged ones
    it was; temperature: see `deferral`; passes: how often the made model reads a text for it.
    agreement, lost: as in `made`, of both together, with the full model.
    dtype, factor, formula: the precision in which both together were timed, how many times as fast as the full model
    they were, and 1 / (passes / factor of the model made + deferred).
    curve: the same for other shares: share, deferred, agreement, and score: figures of `metrics.compute` or None.
  int8: both models as programs of OpenVINO in int8, or None, also if missing: dtype: of the full model that they are
    compared with; full, made: factor, over it; agreement, with it, and lost as in `made`; score; path.
  seconds: answers, of the full model to the texts; trials; learning; total.
"""

import json
import math
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from mux_jax.compression.frontier import plot_frontier
from mux_jax.compression.verdict import (
    METRICS,
    agreement_metric,
    best_trials,
    deferral_sentence,
    full_agreement,
    points,
    sentences,
    show,
    source,
)
from mux_jax.files import write_atomically

_PARTS = {
    "learn": "learning: {} to these taught the others{}",
    "choose": "choosing among the means, after a short trial of each",
    "calibrate": "setting when to ask the full model",
    "judge": "the figures above; nothing was learned from these or chosen by them",
}
_SECONDS = {"answers": "the full model's answers", "trials": "trials", "learning": "training of the one chosen"}
_PIECES = "Agreement of a trial counts every word piece, that of the trained model each word once."

_DEFER = (
    "`--defer=auto` of `launch/predict.py` and `launch/evaluate.py` does this, `--defer=X` takes another share. Shares "
    "are of the texts to calibrate, what was deferred is of the judged texts. Speeds here are computed: "
    "1 / (1 / speed alone + share deferred); longer texts than others take more."
)

_SLOTS = (
    "The embeddings of a text in several slots are averaged: `--ensemble` of `launch/predict.py`. Speeds are computed."
)

_INT8 = (
    "Both models as programs of OpenVINO with products of 8 bits, measured in turns with the full model in {dtype}. "
    "`--model=DIR/int8/made` of `launch/predict.py` runs the cheaper one."
)


def write_report(result: dict[str, Any], folder: epath.Path) -> None:
    """Writes `report.json`, `report.md` and `frontier.png` to a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_frontier(result, folder / "frontier.png")
    write_atomically(folder / "report.md", _markdown(result))
    # The last one: what is there is not made again.
    write_atomically(folder / "report.json", json.dumps(_plain(result), indent=2, ensure_ascii=False) + "\n")


def summary(result: dict[str, Any], folder: epath.Path) -> str:
    """What a command prints at its end: the sentences of the report, where it is, and what to run next."""
    lines = [f"{name}: {text}" for name, text in sentences(result).items()]
    if result.get("deferral"):
        lines.append(f"Deferral: {deferral_sentence(result)}")
    return "\n".join([*lines, f"report: {folder / 'report.md'}", *(f"next: {line}" for line in _next(result)[:1])])


def _markdown(result: dict[str, Any]) -> str:
    blocks = [
        f"# {result['made']['name']}: a cheaper `{result['model']}`",
        "\n".join(f"- **{name}.** {text}" for name, text in sentences(result).items()),
        "![Score and agreement against measured throughput](frontier.png)",
        "Hollow marks are trials, on the texts to choose by. The filled one is the trained model, on the texts to "
        "judge by; its bar is the 95 % interval.",
        "## Models",
        f"Agreement is with {_taught_by(result)}; loss is {_loss(result)}, the less the better."
        + (f" {_PIECES}" if result["task"]["kind"] == "token" else ""),
        _models(result),
    ]
    if result["full"]["score"]:
        blocks += ["## Scores", _scores(result)]
    if (result["row_mates"] or {}).get("ensembles"):
        blocks += ["## Texts in several slots", _SLOTS, _ensembles(result)]
    if result.get("deferral"):
        blocks += ["## With the full model behind it", f"{deferral_sentence(result)} {_DEFER}", _deferral(result)]
    if result.get("int8"):
        blocks += ["## In int8", _INT8.format(dtype=result["int8"]["dtype"]), _int8(result)]
    blocks += ["## Throughput", f"Measured in turns on {result['machine']}.", _throughput(result)]
    blocks += ["## Texts", f"{result['texts']['read']:,} were read.", _texts(result)]
    blocks += ["## Time", _time(result)]
    blocks += ["## Next", "```\n" + "\n".join(_next(result)) + "\n```"]
    return "\n\n".join(blocks) + "\n"


def _loss(result: dict[str, Any]) -> str:
    embeds = result["task"]["kind"] == "embedding"
    return "the mean squared distance of embeddings, halved" if embeds else "what was learned by"


def _taught_by(result: dict[str, Any]) -> str:
    """What agreement is with, by its whole path if it is a file."""
    return f"the answers in `{result['learned_from']}`" if result.get("learned_from") else "the full model"


def _models(result: dict[str, Any]) -> str:
    agreement = agreement_metric(result["task"]["kind"])
    made = result["made"]
    columns = ("layers", "hidden", "width", "parameters", "times as fast", METRICS[agreement], "loss", "learning rate")

    def row(name: str, model: dict[str, Any], factor: float, agreed: float | None) -> list[str]:
        sizes = [_number(model.get(key)) for key in ("layers", "hidden", "width")]
        learned = [_short(model.get("loss")), _short(model.get("learning_rate")), _number(model.get("texts_seen"))]
        return [name, *sizes, _number(model["parameters"]), _number(factor, 1), show(agreed, agreement), *learned]

    rows = [row(result["full"]["name"], result["full"], 1.0, full_agreement(result))]
    for tried in best_trials(result):
        rows.append(row(f"{tried['name']}, trial", tried, tried["factor"], tried["agreement"]))
    rows.append(row(f"**{made['name']}, trained**", made, result["factors"]["best"], made["agreement"]["value"]))
    return _table(["model", *columns, "texts seen"], rows)


def _scores(result: dict[str, Any]) -> str:
    full, made = result["full"]["score"], result["made"]["score"]
    rows = [
        [
            METRICS.get(name, name),
            show(full[name], name),
            show(made[name], name),
            points(full[name] - made[name], name, False),
        ]
        for name in full
    ]
    return _table(["", "full", result["made"]["name"], "lost"], rows)


def _ensembles(result: dict[str, Any]) -> str:
    metric, made = result["task"]["metric"], result["made"]
    alone = {"slots": 1, "agreement": made["agreement"]["value"], "score": made["score"]}
    rows = []
    for found in (alone, *result["row_mates"]["ensembles"]):
        speed = _number(result["factors"]["best"] / found["slots"], 1)
        score = [show(found["score"][metric], metric)] if found["score"] else []
        rows.append([str(found["slots"]), speed, show(found["agreement"], "neighbours"), *score])
    scores = [METRICS[metric]] if made["score"] else []
    return _table(["slots", "times as fast", METRICS["neighbours"], *scores], rows)


def _deferral(result: dict[str, Any]) -> str:
    found, metric = result["deferral"], result["task"]["metric"]
    agreement = agreement_metric(result["task"]["kind"])
    rows = []
    for point in found["curve"]:
        shares = [show(point[name], "agreement") for name in ("share", "deferred")]
        score = [show(point["score"][metric], metric)] if point["score"] else []
        speed = 1 / (found["passes"] / result["factors"][found["dtype"]] + point["deferred"])
        rows.append([*shares, _number(speed, 1), show(point["agreement"], agreement), *score])
    scores = [METRICS[metric]] if result["full"]["score"] else []
    header = ["share", "deferred", f"times as fast in {found['dtype']}", METRICS[agreement], *scores]
    return _table(header, rows)


def _int8(result: dict[str, Any]) -> str:
    found, metric = result["int8"], result["task"]["metric"]
    agreement, rows = agreement_metric(result["task"]["kind"]), []
    for name in ("full", "made"):
        figures = found[name]
        agreed, score, lost = figures["agreement"], figures["score"], figures["lost"]
        ends = f"{show(agreed['low'], agreement, False)} to {show(agreed['high'], agreement)}"
        row = [result[name]["name"], _number(figures["factor"], 1), f"{show(agreed['value'], agreement)} ({ends})"]
        if score:
            interval = f"{points(lost['low'], metric, False)} to {points(lost['high'], metric)}"
            row += [show(score[metric], metric), f"{points(lost['value'], metric, False)} ({interval})"]
        rows.append(row)
    scores = [METRICS[metric], "lost"] if result["full"]["score"] else []
    return _table(["model", "times as fast", METRICS[agreement], *scores], rows)


def _throughput(result: dict[str, Any]) -> str:
    rows = []
    for model in (result["full"], result["made"]):
        for precision, measured in model["throughput"].items():
            factor = 1.0 if model is result["full"] else result["factors"].get(precision)
            speed = [_number(measured["texts_per_second"], 1), _number(factor, 1)]
            rows.append([model["name"], precision, _number(measured["rows"]), *speed])
    return _table(["model", "precision", "rows of a batch", "texts a second", "times as fast"], rows)


def _texts(result: dict[str, Any]) -> str:
    counts = result["texts"]
    taught_by = f"the answers in {source(result)}" if result.get("learned_from") else "the full model's answers"
    pool = f"; {counts['pool']:,} were learned from, joined ones included" if counts.get("pool") else ""
    purposes = dict(_PARTS)
    if result["task"]["kind"] == "embedding":
        purposes["calibrate"] = "calibrating int8, if that is asked for"
    rows = [
        [name, _number(counts[name]), purpose.format(taught_by, pool)]
        for name, purpose in purposes.items()
        if counts.get(name)
    ]
    if counts["labelled"] not in (0, counts.get("judge")):
        rows.append(["labelled", _number(counts["labelled"]), "the scores, and how much is lost"])
    return _table(["part", "texts", "for"], rows)


def _time(result: dict[str, Any]) -> str:
    seconds = result["seconds"]
    given = bool(result.get("learned_from"))
    spent = {text: seconds[name] for name, text in _SECONDS.items() if not (given and name == "answers")}
    rest = seconds["total"] - sum(spent.values())
    return _table(
        ["", "minutes"],
        [[name, _number(x / 60, 1)] for name, x in (spent | {"the rest": rest, "in all": seconds["total"]}).items()],
    )


def _next(result: dict[str, Any]) -> list[str]:
    """Commands: predict; and convert for others, who have ordinary models alone."""
    folder, embeds = shlex.quote(result["made"]["path"]), result["task"]["kind"] == "embedding"
    output, others = ("embeddings.npy", "sentence-transformers") if embeds else ("predictions.jsonl", "transformers")
    lines = [f"mux-jax predict --model={folder} --texts=FILE --output={output}"]
    if result["made"]["width"] == 1:
        lines.append(f"mux-jax convert --model={folder} --output=FOLDER  # for {others}")
    return lines


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None, decimals: int = 0) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:,.{decimals}f}"


def _short(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3g}"


def _plain(value: Any) -> Any:
    """The same in types of JSON; NaN, which JSON does not have, as None."""
    if isinstance(value, dict):
        return {str(key): _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
