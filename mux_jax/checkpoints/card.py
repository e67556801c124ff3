"""Model cards: the README.md of a folder that leaves the project, as the Hugging Face hub shows it."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from mux_jax.checkpoints.exports import Export
from mux_jax.checkpoints.source import ModelSource
from mux_jax.models.config import ModelConfig

_PIPELINES = {
    "sequence": "text-classification",
    "token": "token-classification",
    "embedding": "sentence-similarity",
    "mlm": "fill-mask",
}
_DOES = {
    "sequence": "labels texts",
    "token": "tags words",
    "embedding": "embeds texts",
    "mlm": "names hidden tokens",
    "rtd": "finds replaced tokens",
    "none": "gives states of tokens",
}
_ALONE = "A row holds one text. An answer depends on its own text alone."
_SHARED = (
    "A row holds N = {width} texts. They are embedded, mixed to one sequence (`{multiplexer}`), encoded once and "
    "separated again (`{demultiplexer}`). Texts of like length share a row, drawn by a seed; slots that are left over "
    "hold copies of the row's own texts, and the answers of copies are averaged."
)
_LIMITS_SHARED = """\
- An answer depends a little on the other texts of its row. With the same texts and seed it is the same.
- Texts of different people influence each other's answers where they share a row; `Predictor(DIR, alone=True)` and the
  server's `--mix=request` keep them apart.
- The gain in speed comes with full rows, of very many texts."""


def model_card(name: str, found: ModelSource, size: int, export: Export | None = None) -> str:
    """The card of a model that is written to a folder: Markdown, with what the hub reads in front.

    What is known of data, scores and speed comes from the files of the model's run. The licence is left to fill in.

    Args:
      name: of the folder.
      found: the model as it was before.
      size: its number of parameters.
      export: what is written, if it is a program of another runtime.
    """
    config, run = found.config, found.run or {}
    result, report = (_read(found.folder / file) for file in ("result.json", "report.json"))
    task = run.get("data", {}).get("task", "")
    base = _public(report.get("model") or run.get("init_from") or ("" if found.run else found.address))
    layers = f"{config.num_hidden_layers} layers of {config.hidden_size} dimensions"
    head = "regression" if config.task_kind == "regression" else config.head
    does = "scores texts with a number" if head == "regression" else _DOES[config.head]
    program = export and f"{export.format}, products of {export.precision}; logits within {export.difference:.1e}"
    facts = {
        "program": program or "",
        "width": f"N = {config.width}" + (" texts a row" if config.width > 1 else ": an ordinary encoder"),
        "made from": f"`{base}`" if base else "",
        "data": f"`{task}`" if task else str(run.get("data", {}).get("source", "")),
        "labels": ", ".join(map(str, config.labels[:20])) + ("" if len(config.labels) <= 20 else ", ..."),
        "lengths of rows, in tokens": ", ".join(map(str, found.task.bucket_lengths)) if found.task else "",
    }
    front = ["license:  # fill in", "library_name: mux_jax", "tags: [data-multiplexing, mux_jax]"]
    front += [f"pipeline_tag: {_PIPELINES[config.head]}"] * (config.head in _PIPELINES)
    front += [f"base_model: {base}"] * (base.count("/") == 1)
    shared = dict(width=config.width, multiplexer=config.multiplexer, demultiplexer=config.demultiplexer)
    blocks = [
        "---\n" + "\n".join(front) + "\n---",
        f"# {name}",
        f"It {does}: {config.architecture}, {layers}, {size:,} parameters.",
        _table(("", ""), [(key, value) for key, value in facts.items() if value]),
        "## Scores",
        ("Of the model that the program was made of.\n\n" if export else "") + _scores(result, report),
        "## Speed",
        _speed(report),
        "## How a row is composed",
        _SHARED.format(**shared) if config.width > 1 else _ALONE,
        "## Limits",
        "- Texts that are longer than the longest row are cut.\n- It was judged on the data above alone.\n"
        + (_LIMITS_SHARED if config.width > 1 else ""),
        "## Use",
        f"```python\nimport mux_jax\n\n{_use(config)}\n```",
        "## Licence",
        "Fill in: it follows from the licences of the base model and of the data.",
    ]
    return "\n\n".join(block.rstrip() for block in blocks) + "\n"


def _use(config: ModelConfig) -> str:
    """Python that reads the folder."""
    if config.head in ("mlm", "rtd", "none"):
        return 'model, params = mux_jax.load_pretrained("FOLDER")'
    calls = {
        "sequence": 'predict(["A text."])',
        "token": 'predict([["New", "York"]])',
        "embedding": 'embed(["A text."])',
    }
    return f'mux_jax.Predictor("FOLDER").{calls[config.head]}'


def _scores(result: dict[str, Any], report: dict[str, Any]) -> str:
    """A table of the scores that the run's files have."""
    rows: list[tuple[str, ...]] = []
    for split, metrics in result.get("splits", {}).items():
        for metric, found in metrics.items():
            rows.append((split, metric, f"{found['mean']:.4f}", f"{found['std']:.4f}", str(len(found["runs"]))))
    if rows:
        return _table(("split", "metric", "mean", "standard deviation", "compositions of rows"), rows)
    made, full = report.get("made", {}), report.get("full", {})
    for metric, value in (made.get("score") or {}).items():
        rows.append((metric, f"{value:.4f}", f"{full['score'][metric]:.4f}"))
    if agreement := made.get("agreement"):
        spread = f"{agreement['value']:.4f} ({agreement['low']:.4f} to {agreement['high']:.4f})"
        rows.append(("agreement with the full model, 95 % interval", spread, ""))
    if rows:
        return _table(("on held-out texts", "this model", "full model"), rows)
    return "None are kept with it."


def _speed(report: dict[str, Any]) -> str:
    """What compression measured."""
    if "factors" not in report:
        return "Not measured with this model: `launch/benchmark.py inference --model=MODEL` does it."
    rows = []
    for dtype, found in report["made"]["throughput"].items():
        rate, factor = f"{found['texts_per_second']:,.0f}", f"{report['factors'][dtype]:.1f}"
        rows.append((dtype, rate, factor))
    heading = ("precision", "texts a second", "times as fast as the full model")
    return f"Measured in turns with the full model on {report['machine']}.\n\n" + _table(heading, rows)


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _public(address: str) -> str:
    """An address without the folders of this machine."""
    address = address.removeprefix("hf://").partition("@")[0]
    return address if address.count("/") == 1 and not address.startswith(("/", "runs/")) else address.rpartition("/")[2]


def _read(file: epath.Path) -> dict[str, Any]:
    """What a file of a run holds; nothing if it is not there."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
