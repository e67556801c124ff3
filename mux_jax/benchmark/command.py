"""What `launch/benchmark.py` does: its arguments checked, its cases measured."""

import dataclasses
import os
from typing import Any

import jax

from mux_jax.benchmark import embedding, other_runtimes, serving
from mux_jax.benchmark.cases import VOCABULARY, Settings, end_to_end, inference, training
from mux_jax.benchmark.measure import measure, save, show
from mux_jax.checkpoints.source import open_model
from mux_jax.data import formats
from mux_jax.errors import InputError
from mux_jax.inference.files import check_input
from mux_jax.inference.loaded_model import in_dtype
from mux_jax.models.config import SIZES, ModelConfig
from mux_jax.models.multiplexers import MULTIPLEXERS
from mux_jax.paths import absolute
from mux_jax.progress import say


def run(
    kind: str,
    widths: str,
    layers: str,
    multiplexer: str,
    task: str,
    texts: str | None,
    json_file: str | None,
    model: str | None,
    runtimes: str = "",
    **options: Any,
) -> None:
    """Runs the benchmark: arguments are those of `launch/benchmark.py`, by their names.

    Raises:
      InputError: an argument that is out of range, by its name.
    """
    if json_file and not absolute(json_file).parent.is_dir():
        raise InputError(f"--json={json_file}: no such folder")
    if options["repeats"] < 1:
        raise InputError(f"--repeats={options['repeats']} must be at least 1")
    if kind in ("embed", "serving") and (runtimes or layers or task):
        raise InputError(f"--runtimes, --layers and --task are not for {kind}")
    if kind == "embed":
        _embed(_split(model or ""), texts, json_file, options["rows"], options["dtype"], options["repeats"])
        return
    if kind == "serving":
        if not (model and texts):
            raise InputError("serving needs --model=DIR and --texts=FILE")
        serving.run(model, _texts(texts), options["rows"] or 32, options["dtype"], json_file)
        return
    known = ("sequence", "token") if kind == "inference" else ("priming", "mlm")
    tasks = _split(task) or known[: 1 if kind == "inference" else 2]
    multiplexers = _split(multiplexer) or ("gaussian",)
    for flag, names, allowed in (("task", tasks, known), ("multiplexer", multiplexers, tuple(MULTIPLEXERS))):
        for name in names:
            if name not in allowed:
                raise InputError(f"--{flag}={name} does not exist; there are: {', '.join(allowed)}")
    numbers: dict[str, Any] = {"widths": widths, "layers": layers}
    for flag, value in numbers.items():
        if not all(number.isdigit() and int(number) for number in _split(value)):
            raise InputError(f"--{flag}={value} must be numbers from 1 on, separated by commas")
        numbers[flag] = tuple(int(number) for number in _split(value))
    if not numbers["widths"]:
        raise InputError(f"--widths={widths} names no width")
    on_cpu = jax.default_backend() == "cpu"
    options["rows"] = options["rows"] or (8 if on_cpu else 256)
    repeats = options.pop("repeats")
    if model and kind == "train":
        raise InputError("--model is for inference")
    shape = _shape(options["size"], model)
    if kind == "inference" or options["dtype"] != "auto":
        options["dtype"] = in_dtype(shape, options["dtype"]).dtype
    else:
        options["dtype"] = shape.compute_dtype
    for name, value, most in (
        ("rows", options["rows"], None),
        ("length", options["length"], shape.max_length),
        ("repeats", repeats, None),
    ):
        if value < 1 or (most and value > most):
            raise InputError(f"--{name}={value} must be {f'from 1 to {most}' if most else 'at least 1'}")
    if layers and (kind != "inference" or texts):
        raise InputError("--layers is for inference without --texts")
    if runtimes and (kind != "inference" or texts):
        raise InputError("--runtimes is for inference without --texts")
    other_runtimes.check(_split(runtimes))
    options["runtimes"] = _split(runtimes)
    if texts and (kind, tasks) != ("inference", ("sequence",)):
        raise InputError("--texts is for inference with --task=sequence")
    settings = Settings(model=shape, multiplexers=multiplexers, tasks=tasks, **numbers, **options)
    say(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}")
    if texts:
        found = _texts(texts)
        cases, what = end_to_end(settings, found), f"{len(found):,} texts of {texts}"
    else:
        cases = inference(settings) if kind == "inference" else training(settings)
        what = f"length {settings.length}"
    rows = measure(list(cases), settings.dtype, repeats)
    show(f"{kind}: {model or settings.size}, {what}, {settings.rows} rows, {settings.dtype}", rows)
    if json_file:
        save(rows, json_file)


def _embed(
    models: tuple[str, ...], file: str | None, json_file: str | None, rows: int, dtype: str, repeats: int
) -> None:
    """The same of embeddings: real models on the texts of a file."""
    first = embedding.check(models)[0]
    if not file:
        raise InputError("embed needs --texts=FILE")
    texts = _texts(file)
    cases = list(embedding.embedding(models, texts, rows or 32, dtype))
    chosen = in_dtype(first.config, dtype).dtype
    table = measure(cases, chosen, repeats)
    show(f"embed: {len(texts):,} texts of {file}, {rows or 32} rows, ours in {chosen}", table)
    if json_file:
        save(table, json_file)


def _texts(file: str) -> list[Any]:
    """Those of the column `text`."""
    source, columns = check_input(file, (), ("text",))
    return [formats.to_text(r, columns, words=False) for r in formats.read(source, used=columns)]


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _shape(size: str, model: str | None) -> ModelConfig:
    """A BERT of a size by name, with the demultiplexer of fine-tuning, or a model's own shape."""
    if model:
        return dataclasses.replace(open_model(model, takes_export=True).config, vocab_size=VOCABULARY)
    options = (("num_demux_layers", 3),)
    return ModelConfig(vocab_size=VOCABULARY, max_position_embeddings=512, options=options, **SIZES["bert"][size])
