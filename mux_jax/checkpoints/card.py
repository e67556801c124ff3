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
    "hold copies of other texts of the batch, and the outputs of copies are averaged."
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
    # What files of these names hold in folders of others is not known.
    result, report = (_read(found.folder / name) if found.run else {} for name in ("result.json", "report.json"))
    base, hub = _base(run.get("teacher") or run.get("init_from") or ("" if found.run else found.address))
    does = "scores texts with a number" if config.task_kind == "regression" else _DOES[config.head]
    layers = f"{config.num_hidden_layers} layers, hidden size {config.hidden_size}"
    kind = export and f"{export.format}, products of {export.precision}; its outputs differed from the model's by "
    facts = {
        "program": f"{kind}{export.difference:.1e} at most, when it was made" if export else "",
        "width": f"N = {config.width}" + (" texts a row" if config.width > 1 else ": an ordinary encoder"),
        "made from": f"`{base}`" if base else "",
        "data": _data(run.get("data", {})),
        "labels": ", ".join(map(str, config.labels[:20])) + ("" if len(config.labels) <= 20 else ", ..."),
        "lengths of rows, in tokens": ", ".join(map(str, found.task.bucket_lengths)) if found.task else "",
    }
    scores = _scores(result, report)
    limits = ["- Texts that are longer than the longest row are cut."]
    limits += ["- It was judged on the data above alone."] * bool(scores)
    shared = dict(width=config.width, multiplexer=config.multiplexer, demultiplexer=config.demultiplexer)
    blocks = [
        "---\n" + "\n".join(_front(config, base if hub else "", export)) + "\n---",
        f"# {name}",
        f"A model of the family `{config.architecture}` that {does}: {layers}, {size:,} parameters.",
        _table(("", ""), [(key, value) for key, value in facts.items() if value]),
        "## Scores",
        ("Of the model that the program was made of.\n\n" if export and scores else "")
        + (scores or "None are kept with the model."),
        "## Speed",
        _speed(report),
        "## How a row is composed",
        _SHARED.format(**shared) if config.width > 1 else _ALONE,
        "## Limits",
        "\n".join([*limits, *[_LIMITS_SHARED] * (config.width > 1)]),
        "## Use",
        f"```python\nimport mux_jax\n\n{_use(config)}\n```",
        "## Licence",
        "Fill in: it follows from the licences of the base model and of the data.",
    ]
    return "\n\n".join(blocks) + "\n"


def _front(config: ModelConfig, base: str, export: Export | None) -> list[str]:
    """What the hub reads; an ordinary model is one of the library that its folder is for."""
    ours = export or config.width > 1
    library = "mux_jax" if ours else "sentence-transformers" if config.head == "embedding" else "transformers"
    lines = ["license:  # fill in", f"library_name: {library}"]
    lines += ["tags: [data-multiplexing]"] * (config.width > 1)
    if config.head in _PIPELINES:
        lines.append(f"pipeline_tag: {_PIPELINES[config.head]}")
    return lines + [f"base_model: {base}"] * bool(base)


def _use(config: ModelConfig) -> str:
    """Python that reads the folder."""
    calls = {
        "sequence": 'predict(["A text."])',
        "token": 'predict([["New", "York"]])',
        "embedding": 'embed(["A text."])',
    }
    if config.head not in calls:
        return 'model, params = mux_jax.load_pretrained("FOLDER")'
    return f'mux_jax.Predictor("FOLDER").{calls[config.head]}'


def _data(section: dict[str, Any]) -> str:
    """What a run learned from."""
    if section.get("task") == "custom":
        return "the owner's texts"
    return f"`{section['task']}`" if section.get("task") else str(section.get("source", ""))


def _scores(result: dict[str, Any], report: dict[str, Any]) -> str:
    """A table of the scores that the run's files have."""
    rows = []
    for split, metrics in result.get("splits", {}).items():
        for metric, found in metrics.items():
            several = len(found["runs"]) > 1
            rows.append((split, metric, _number(found["mean"]), _number(found["std"]) if several else ""))
    if rows:
        return _table(("split", "metric", "mean", "standard deviation over compositions of rows"), rows)
    made, full = report.get("made", {}), report.get("full", {})
    given = "the answers that it learned from" if report.get("learned_from") else "the full model"
    compared = []
    for metric, value in (made.get("score") or {}).items():
        compared.append((metric, _number(value), _number((full.get("score") or {}).get(metric))))
    for name, label in (("lost", "lost against the full model"), ("agreement", f"agreement with {given}")):
        if found := made.get(name):
            value, low, high = (_number(found[end]) for end in ("value", "low", "high"))
            compared.append((f"{label}, 95 % interval", f"{value} ({low} to {high})", ""))
    return _table(("on held-out texts", "this model", "full model"), compared) if compared else ""


def _speed(report: dict[str, Any]) -> str:
    """What compression measured."""
    if "factors" not in report:
        return "Not measured with this model: `mux-jax benchmark inference --model=MODEL` does it."
    rows = []
    for dtype, found in report["made"]["throughput"].items():
        rows.append((dtype, f"{found['texts_per_second']:,.0f}", _number(report["factors"][dtype], 1)))
    heading = ("precision", "texts a second", "times as fast as the full model")
    return f"Measured in turns with the full model on {report['machine']}.\n\n" + _table(heading, rows)


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: float | None, decimals: int = 4) -> str:
    """A figure; of one that is none a dash."""
    return "–" if value is None else f"{value:.{decimals}f}"


def _base(address: str) -> tuple[str, bool]:
    """The id of a model of the hub, and that it is one; of others the name of the folder alone."""
    if address.startswith("hf://"):
        return address.removeprefix("hf://").partition("@")[0], True
    return epath.Path(address).name, False


def _read(file: epath.Path) -> dict[str, Any]:
    """What a file of a run holds; nothing if it is not there."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
