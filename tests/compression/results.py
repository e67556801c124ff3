"""Made-up results, as `report.py` describes them."""

from typing import Any

SIZES = {"layers": 6, "hidden": 384, "heads": 12, "intermediate": 1536, "width": 1, "share": 1.0}
TRIED = [
    ("hidden 256", {"hidden": 256}, 10_900_000, 1.9, 0.961),
    ("hidden 192", {"hidden": 192}, 6_100_000, 3.1, 0.955),
    ("hidden 128", {"hidden": 128}, 3_400_000, 5.5, 0.93),
    ("1 layer", {"layers": 1}, 13_700_000, 5.2, 0.91),
    ("5 texts a row", {"width": 5}, 23_000_000, 5.0, 0.89),
]
# Of each metric: the score of the full model and of the one made, and their difference with its interval.
SCORES = {
    "accuracy": (0.899, 0.891, {"value": 0.008, "low": -0.002, "high": 0.0184}),
    "micro_f1": (0.712, 0.704, {"value": 0.008, "low": -0.002, "high": 0.0184}),
    "span_f1": (0.865, 0.823, {"value": 0.042, "low": 0.031, "high": 0.053}),
    "spearman": (0.867, 0.858, {"value": 0.009, "low": 0.002, "high": 0.0161}),
    "pearson_spearman": (0.881, 0.872, {"value": 0.009, "low": 0.002, "high": 0.0161}),
}


def result(
    kind: str,
    metric: str,
    labelled: bool = True,
    chosen: str = "hidden 128",
    agreed: float = 0.95,
    learned_from: str = "",
    deferral: bool = False,
    int8: bool = False,
) -> Any:
    """A model that is 5.1 times as fast as the full one, with 5 times asked for."""
    tried = [
        SIZES
        | sizes
        | {"name": name, "parameters": parameters, "factor": factor, "agreement": agreement}
        | {"steps": 300, "texts_seen": 9600, "learning_rate": 3e-4, "loss": 0.1234, "score": None}
        for name, sizes, parameters, factor, agreement in TRIED
    ]
    full, made, lost = SCORES[metric]
    which = next(one for one in tried if one["name"] == chosen)
    return {
        "model": "runs/teacher",
        "machine": "2 x cpu, 2 cores, jax 0.10.2",
        "task": {"kind": kind, "metric": metric, "labels": ["0", "1"]},
        "texts": {"read": 20_000, "learn": 16_000, "choose": 1000, "calibrate": 1000, "judge": 2000, "pool": 9000}
        | {"labelled": 2000 if labelled else 0},
        "speedup": 5.0,
        "learned_from": learned_from,
        "tried": tried,
        "trials": [*tried, which | {"learning_rate": 1e-3, "loss": 0.2345}],
        "chosen": chosen,
        "full": SIZES
        | {"name": "full", "parameters": 22_700_000, "score": {metric: full} if labelled else None}
        | {"throughput": {"float32": _speed(301.2), "bfloat16": _speed(345.6)}}
        | {"agreement": {"value": 0.931} if learned_from else None},
        "made": {key: which[key] for key in (*SIZES, "name", "parameters", "learning_rate")}
        | {"throughput": {"float32": _speed(1626.5), "bfloat16": _speed(1762.6)}, "steps": 6000, "texts_seen": 192_000}
        | {"score": {metric: made} if labelled else None, "lost": lost if labelled else None, "path": "runs/my model"}
        | {"agreement": {"value": agreed, "low": agreed - 0.0099, "high": agreed + 0.0093}},
        "factors": {"float32": 5.4, "bfloat16": 4.9, "best": 5.1},
        "row_mates": _row_mates(kind, metric, labelled) if which["width"] > 1 else None,
        "deferral": _deferral(metric, made, full, lost) if deferral else None,
        "int8": _int8(metric, made, full, lost, labelled) if int8 else None,
        "seconds": {"answers": 120.0, "trials": 600.0, "learning": 1800.0, "total": 2640.0},
    }


def _row_mates(kind: str, metric: str, labelled: bool) -> dict[str, Any]:
    found = {"compositions": 5, "score_std": 0.004}
    if kind != "embedding":
        return found | {"changed": None if kind == "regression" else 0.031}
    several = [{"slots": n, "agreement": 0.97, "score": {metric: 0.861} if labelled else None} for n in (2, 5)]
    return found | {"cosine": 0.981, "rare": 0.912, "alone": 0.973, "ensembles": several}


def _speed(texts_per_second: float) -> dict[str, float]:
    return {"texts_per_second": texts_per_second, "rows": 32}


def _deferral(metric: str, made: float, full: float, lost: Any) -> dict[str, Any]:
    """Asked of a tenth of the texts the full model makes up for half of what is lost."""
    points = [(0.0, 0.0, 0.95, made), (0.1, 0.12, 0.981, (made + full) / 2), (1.0, 1.0, 1.0, full)]
    curve = [
        {"share": share, "deferred": deferred, "agreement": agreed, "score": {metric: score}}
        for share, deferred, agreed, score in points
    ]
    found = {
        "share": 0.1,
        "deferred": 0.12,
        "temperature": 1.0,
        "passes": 1,
        "dtype": "float32",
        "factor": 3.1,
        "formula": 3.28,
    }
    half = {name: value / 2 for name, value in lost.items()}
    return found | {"agreement": {"value": 0.981, "low": 0.975, "high": 0.987}, "lost": half, "curve": curve}


def _int8(metric: str, made: float, full: float, lost: Any, labelled: bool) -> dict[str, Any]:
    """The full model twice as fast at nearly no loss, the other one ten times."""

    def model(name: str, factor: float, agreed: float, score: float) -> dict[str, Any]:
        found = {"factor": factor, "agreement": {"value": agreed, "low": agreed - 0.004, "high": agreed + 0.004}}
        scores = {"score": {metric: score}, "lost": lost} if labelled else {"score": None, "lost": None}
        return found | scores | {"path": f"runs/my model/int8/{name}"}

    return {"dtype": "float32", "full": model("full", 2.1, 0.995, full), "made": model("made", 9.9, 0.948, made)}
