"""The table of the study, out of the small results in a folder: `python -m experiments.superposition.table RESULTS`."""

import json
import sys
from pathlib import Path
from typing import Any

HEADER = (
    "means",
    "seed",
    "learning rate",
    "texts seen",
    "score",
    "lost (95 % interval)",
    "agreement",
    "without mixing",
    "alone",
    "with copies",
    "with random texts",
    "changed by some neighbours",
)

_INSIDE = (
    "score_without_mixing",
    "right_alone",
    "right_with_copies",
    "right_with_random",
    "changed_by_some_neighbours",
)


def row(result: dict[str, Any]) -> list[str]:
    """A line of the table."""
    judged, inside = result["judged"], result["inside"] or {}
    metric = next(iter(judged["made"]))
    lost, agreed = judged["lost"], judged["agreement"]["value"]
    interval = f"{100 * lost['value']:.1f} ({100 * lost['low']:.1f} to {100 * lost['high']:.1f})"
    shares = [f"{100 * inside[name]:.1f}" if name in inside else "" for name in _INSIDE]
    score = f"{100 * judged['made'][metric]:.1f}"
    rate, seen = f"{result['learning_rate']:g}", f"{result['texts_seen']:,}"
    return [result["means"], str(result["seed"]), rate, seen, score, interval, f"{100 * agreed:.1f}", *shares]


def main() -> None:
    results = [json.loads(file.read_text()) for file in sorted(Path(sys.argv[1]).glob("*.json"))]
    for line in (HEADER, ["---"] * len(HEADER), *map(row, results)):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
