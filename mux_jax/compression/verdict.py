"""What a result (`report.py`) says to a person, in five sentences: cost, speed, advice, how sure, row-mates."""

import math
import posixpath
from typing import Any

from mux_jax.data.metrics import CORRELATIONS

METRICS = {
    "agreement": "agreement",
    "neighbours": "nearest neighbours in common",
    "accuracy": "accuracy",
    "f1": "F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "span_f1": "span F1",
    "subset_accuracy": "texts without an error",
    "matthews": "Matthews correlation",
    "pearson_spearman": "correlation",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
}
_MOST_LOST = 0.02  # of the score: what we would give up
_LEAST_AGREEMENT, _LEAST_NEIGHBOURS = 0.9, 0.7
_SLOWEST = 1.5  # times as fast: less is not worth a model of its own
# What agreement below and above the least means, with the full model or a file of answers.
_DIFFERS = {
    "sequence": "answers more than one text in ten otherwise than {}",
    "multi_label": "answers more than one text in ten otherwise than {}",
    "token": "tags more than one word in ten otherwise than {}",
    "regression": "correlates with {} at less than 0.9",
    "embedding": "finds fewer than seven in ten of {}'s nearest neighbours",
}
_SAME = {
    "sequence": "answers nine in ten or more of the judged texts as {} does",
    "multi_label": "answers nine in ten or more of the judged texts as {} does",
    "token": "tags nine in ten or more of the judged words as {} does",
    "regression": "correlates with {} at 0.9 or more",
    "embedding": "finds seven in ten or more of {}'s nearest neighbours",
}
_AGREES = {
    "sequence": "gives the full model's label to {} of the texts",
    "multi_label": "gives exactly the full model's labels to {} of the texts",
    "token": "gives the full model's tag to {} of the words",
    "regression": "gives numbers that correlate with the full model's at {}",
    "embedding": "finds {} of the full model's ten nearest neighbours of a text",
}


def sentences(result: dict[str, Any]) -> dict[str, str]:
    """The five, each under a word: Cost, Speed, Advice, How sure, Row-mates."""
    return {
        "Cost": _cost(result),
        "Speed": _speed(result),
        "Advice": _advice(result),
        "How sure": _certainty(result),
        "Row-mates": _row_mates(result),
    }


def deferral_sentence(result: dict[str, Any]) -> str:
    """What asking the full model brings."""
    found, kind, metric = result["deferral"], result["task"]["kind"], result["task"]["metric"]
    agreed, lost = found["agreement"], found["lost"]
    agreement = agreement_metric(kind)
    ends = f"95 % interval {show(agreed['low'], agreement, False)} to {show(agreed['high'], agreement)}"
    share, value = show(found["deferred"], "agreement"), show(agreed["value"], agreement)
    text = (
        f"With the full model, which answers the {share} of the texts of which it is least sure, it is "
        f"{found['factor']:.1f} times as fast as the full model alone, measured in {found['dtype']} (computed from the "
        f"shares {found['formula']:.1f} times), and {_AGREES[kind].format(value)} ({ends})"
    )
    if lost:
        much = f"{'gains' if lost['value'] < 0 else 'costs'} {points(abs(lost['value']), metric)} of {METRICS[metric]}"
        text += f"; it {much} ({points(lost['low'], metric, False)} to {points(lost['high'], metric)})"
    return f"{text}."


def show(value: float | None, metric: str, unit: bool = True) -> str:
    """A figure for people: percent with one decimal; a correlation with three."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if metric in CORRELATIONS else f"{100 * value:.1f}" + unit * " %"


def points(value: float, metric: str, unit: bool = True) -> str:
    """A difference for people: points with one decimal; of correlations three decimals."""
    return f"{value:z.3f}" if metric in CORRELATIONS else f"{100 * value:z.1f}" + unit * " points"


def agreement_metric(kind: str) -> str:
    """What agreement is for a kind of task, as a key of `METRICS`."""
    return {"regression": "pearson", "embedding": "neighbours"}.get(kind, "agreement")


def source(result: dict[str, Any]) -> str:
    """What was learned from and is agreed with: the full model, or the name of a file with answers."""
    return posixpath.basename(result.get("learned_from", "")) or "the full model"


def full_agreement(result: dict[str, Any]) -> float | None:
    """The full model's own agreement with the answers in a file; None if it is what was learned from."""
    agreed = result["full"].get("agreement")
    return agreed["value"] if agreed else None


def best_trials(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The means that were tried, each once: of several trials of one the trial with the lowest loss."""

    def loss(tried: dict[str, Any]) -> float:
        return _or(tried["loss"], math.inf)

    best: dict[str, dict[str, Any]] = {}
    for tried in result["tried"]:
        name = tried["name"]
        if name not in best or loss(tried) < loss(best[name]):
            best[name] = tried
    return list(best.values())


def _or(value: float | None, missing: float) -> float:
    """A figure; `missing` if there is none: NaN, which `report.json` has as null."""
    return missing if value is None or math.isnan(value) else value


def _cost(result: dict[str, Any]) -> str:
    full, made, metric = result["full"], result["made"], result["task"]["metric"]
    lost, name = made["lost"], f"The cheaper model ({made['name']})"
    if not lost:
        open_question = "which of the two is right where they differ"
        if result.get("learned_from"):
            open_question = "whether those answers are right"
        return (
            f"{name} {_agreement(result)}. The texts have no labels, so this is its score; it does not say "
            f"{open_question}."
        )
    much = f"{'gains' if lost['value'] < 0 else 'costs'} {points(abs(lost['value']), metric)} of {METRICS[metric]}"
    scores = f"{show(made['score'][metric], metric)} where the full model has {show(full['score'][metric], metric)}"
    ends = f"{points(lost['low'], metric, False)} to {points(lost['high'], metric)}"
    return f"{name} {much}: {scores} (95 % interval of the loss: {ends}). It {_agreement(result)}."


def _agreement(result: dict[str, Any]) -> str:
    agreed, kind = result["made"]["agreement"], result["task"]["kind"]
    metric = agreement_metric(kind)
    ends = f"95 % interval {show(agreed['low'], metric, False)} to {show(agreed['high'], metric)}"
    value = show(agreed["value"], metric)
    if not result.get("learned_from"):
        return f"{_AGREES[kind].format(value)} ({ends})"
    file = source(result)
    how = f"gives the answer in {file} to {value} of the {'words' if kind == 'token' else 'texts'}"
    if kind == "regression":
        how = f"gives numbers that correlate with those in {file} at {value}"
    return f"{how} ({ends}; the full model: {show(full_agreement(result), metric)})"


def _speed(result: dict[str, Any]) -> str:
    factors = dict(result["factors"])
    best, wanted = factors.pop("best"), result["speedup"]
    (first, factor), *others = factors.items()
    parts = [f"It is {factor:.1f} times as fast in {first}", *(f"{x:.1f} times in {name}" for name, x in others)]
    if others:
        parts.append(f"{best:.1f} times with each model in its fastest precision")
    text = f"{', '.join(parts)}, measured in turns on this machine: {result['machine']}."
    if not wanted:
        return text
    reached = best >= 0.95 * wanted
    return f"{text} You asked for {'' if reached else 'more: '}{wanted:g} times."


def _advice(result: dict[str, Any]) -> str:
    lost, kind, metric = result["made"]["lost"], result["task"]["kind"], result["task"]["metric"]
    agreed, of_full = result["made"]["agreement"]["value"], full_agreement(result)
    if result["factors"]["best"] < 1.05:
        return "Keep the full model: this one is no faster."
    much = f"{_MOST_LOST:g}" if metric in CORRELATIONS else f"{100 * _MOST_LOST:g} points"
    most = f"{much} of {METRICS[metric]}"
    bad, doubts = [], []
    if lost and lost["low"] > _MOST_LOST:
        bad.append(f"costs more than {most}")
    elif lost and lost["high"] > _MOST_LOST:
        doubts.append(f"may cost more than {most}")
    as_good = of_full is not None and agreed >= of_full
    least = _LEAST_NEIGHBOURS if kind == "embedding" else _LEAST_AGREEMENT
    if agreed < least and not as_good:
        # labels say whether the other answers are worse
        (doubts if lost else bad).append(_DIFFERS[kind].format(source(result)))
    if bad:
        return f"We would not take it: it {' and '.join(bad + doubts)}. {_alternatives(result)}"
    if doubts:
        return f"We would take it only where this is acceptable: it {' and '.join(doubts)}. {_alternatives(result)}"
    good = f"costs less than {most}, by the interval" if lost else _SAME[kind].format(source(result))
    if agreed < least and not lost:
        good = f"agrees with {source(result)} no less than the full model does"
    return f"We would take it: it {good}."


def _alternatives(result: dict[str, Any]) -> str:
    """What else to do: another one tried, less speed, more labelled texts, the full model."""
    trials = {tried["name"]: tried for tried in best_trials(result)}
    chosen, text = trials[result["chosen"]], ""
    least = _or(chosen["agreement"], math.inf)
    nearer = [t for t in trials.values() if _or(t["agreement"], -1.0) > least and t["factor"] >= _SLOWEST]
    if nearer:
        other = max(nearer, key=lambda tried: tried["factor"])
        text = (
            f"{other['name']} was nearer to {source(result)} in its trial, at {other['factor']:.1f} times the speed. "
        )
    less = round((result["speedup"] or result["factors"]["best"]) / 2, 1)
    choices = [f"ask for less (`--speedup={less:g}`)"] if less >= _SLOWEST else []
    lost = result["made"]["lost"]
    if lost and lost["low"] <= _MOST_LOST < lost["high"]:
        choices.append("judge it on more labelled texts, which narrows the interval,")
    choices.append("keep the full model")
    choices[0] = choices[0][0].upper() + choices[0][1:]
    return text + (", ".join(choices[:-1]) + " or " if choices[1:] else "") + choices[-1] + "."


def _certainty(result: dict[str, Any]) -> str:
    count, labelled = result["texts"]["judge"], result["texts"]["labelled"]
    kind = result["task"]["kind"]
    ones = "labelled pairs" if kind == "embedding" else "labelled ones"
    some = "" if labelled in (0, count) else f", and over {labelled:,} {ones} for the score"
    unit = "sentences" if kind == "token" else "texts"
    return (
        f"The intervals are of a paired bootstrap over {count:,} judged {unit}{some}. One training seed was run; what "
        "another would change is not in them."
    )


def _row_mates(result: dict[str, Any]) -> str:
    found, word = result["row_mates"], "embedding" if result["task"]["kind"] == "embedding" else "answer"
    if not found:
        return f"An {word} depends on its own text alone."
    metric = result["task"]["metric"] if result["made"]["lost"] else agreement_metric(result["task"]["kind"])
    parts = []
    if found.get("changed") is not None:
        parts.append(f"{show(found['changed'], 'agreement')} of the judged texts changed their answer")
    if found["score_std"] is not None:
        parts.append(f"the standard deviation of {METRICS[metric]} is {points(found['score_std'], metric)}")
    others = result["made"]["width"] - 1
    mates = "row-mate, the other text" if others == 1 else f"row-mates, the {others} other texts"
    text = f"An {word} depends on its {mates} in its row"
    if "cosine" in found:
        parts.append(
            f"the cosine of a text with itself is {found['cosine']:.3f}, of one text in a hundred below "
            f"{found['rare']:.3f}; of a text alone in its row with one in company it is {found['alone']:.3f}"
        )
    return f"{text}: over {found['compositions']} compositions {', and '.join(parts)}." if parts else f"{text}."
