"""The cases of `launch/benchmark.py`: forward passes and training steps of randomly initialised models."""

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mux_jax import configuration
from mux_jax.benchmark import other_runtimes
from mux_jax.benchmark.measure import Case, memory, random_tokens
from mux_jax.benchmark.torch_baseline import torch_baseline
from mux_jax.data.encoding import Encoder
from mux_jax.data.rows import lengths_up_to
from mux_jax.data.tokenizer import BERT_TOKENS
from mux_jax.data.vocabulary import train_tokenizer
from mux_jax.inference.batch_runner import BatchRunner, compile_logits
from mux_jax.inference.loaded_model import LoadedModel
from mux_jax.inference.predictor import Predictor
from mux_jax.models import flops
from mux_jax.models.config import ModelConfig
from mux_jax.models.demultiplexers import DEMULTIPLEXERS
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.objectives import objectives
from mux_jax.parallel.compiled import CompiledByShape
from mux_jax.parallel.mesh import check_rows, make_mesh, split_batch
from mux_jax.parallel.params import init_params
from mux_jax.training.optimizer import make_optimizer
from mux_jax.training.step import init_state, make_train_step

VOCABULARY, _LABELS = 30522, ("0", "1")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line says.

    Attributes:
      size: a name in SIZES.
      model: the shape of that size, or of another model.
      length: tokens of an instance.
      rows: muxed rows of a batch.
      widths: of the models.
      layers: of further models of width 1.
      multiplexers: of the models.
      tasks: heads, or stages of pre-training.
      dtype: of matrix products.
      runtimes: names in `RUNTIMES`, for inference in these, too.
    """

    size: str
    model: ModelConfig
    length: int
    rows: int
    widths: tuple[int, ...]
    layers: tuple[int, ...]
    multiplexers: tuple[str, ...]
    tasks: tuple[str, ...]
    dtype: str
    runtimes: tuple[str, ...] = ()


def inference(settings: Settings) -> Iterator[Case]:
    """Forward passes as `Predictor` makes them, width 1 of other depths, and BERT of `transformers` where it is
    installed."""
    mesh = make_mesh()
    check_rows(mesh, settings.rows)
    for task in settings.tasks:
        baseline = _name(task, "", 1)
        for multiplexer, width in _models(settings):
            config = _classifier_config(settings, task, multiplexer, width)
            yield forward(_name(task, multiplexer, width), task, config, settings.rows, settings.length, mesh, baseline)
        for layers in settings.layers:
            config = dataclasses.replace(_classifier_config(settings, task, "", 1), num_hidden_layers=layers)
            name = f"{baseline} layers={layers}"
            yield forward(name, task, config, settings.rows, settings.length, mesh, baseline)
    for task in settings.tasks:  # at the end: its threads spin on for a while, which slows what comes next
        run = torch_baseline("inference", dataclasses.asdict(settings) | {"task": task})
        if run:
            yield Case(f"{task} PyTorch", task, "", 1, run, settings.rows, baseline=_name(task, "", 1))
        for runtime in settings.runtimes:
            yield from _in_runtime(settings, task, runtime)


def _in_runtime(settings: Settings, task: str, runtime: str) -> Iterator[Case]:
    """Our models and the ordinary BERT in another runtime."""
    rows, length, baseline = settings.rows, settings.length, _name(task, "", 1)
    for multiplexer, width in _models(settings):
        config, name = _classifier_config(settings, task, multiplexer, width), _name(task, multiplexer, width)
        run = other_runtimes.ours(runtime, config, rows, length)
        yield Case(f"{name} {runtime}", task, multiplexer, width, run, rows * width, baseline=baseline)
    config = _classifier_config(settings, task, "", 1)
    if peer := other_runtimes.peer(runtime, config, rows, length):
        yield Case(f"{task} transformers {runtime}", task, "", 1, peer, rows, baseline=baseline)


def training(settings: Settings) -> Iterator[Case]:
    """Training steps of MUX-BERT, optimiser included: priming, and masked LM with auxiliary retrieval."""
    mesh = make_mesh()
    check_rows(mesh, settings.rows)
    for task in settings.tasks:
        for multiplexer, width in _models(settings):
            if (task, width) != ("priming", 1):
                yield _step(settings, mesh, task, multiplexer, width)
    run = torch_baseline("training", dataclasses.asdict(settings)) if "mlm" in settings.tasks else None
    if run:
        yield Case("mlm PyTorch", "mlm", "", 1, run, settings.rows, baseline=_name("mlm", "", 1))


def end_to_end(settings: Settings, texts: list[str]) -> Iterator[Case]:
    """`Predictor` on texts, tokenisation included; the same rows of tokens by the model alone; the pipeline of
    `transformers`. The vocabulary is trained on the texts."""
    mesh = make_mesh()
    tokenizer = train_tokenizer(texts, VOCABULARY)
    lengths = lengths_up_to(settings.length)
    for multiplexer, width in _models(settings):
        model = MuxModel(_classifier_config(settings, "sequence", multiplexer, width))
        params = init_params(model, mesh, seed=0)
        predictor = Predictor(LoadedModel(model, params, tokenizer, lengths), rows=settings.rows)
        runner = BatchRunner(model, mesh, settings.rows, lengths, tokenizer.special.pad)
        encoded = Encoder(tokenizer, settings.length)(texts)
        batches = [split_batch(x, mesh) for _, x in runner.batches(encoded, np.random.default_rng(0))]
        params = split_layers(params, settings.dtype)

        def predict(predictor: Predictor = predictor) -> None:
            predictor.predict(texts)

        def alone(runner: BatchRunner = runner, params: Any = params, batches: list = batches) -> None:
            jax.block_until_ready([runner.logits(params, *arrays) for arrays in batches])

        for name, run in (("Predictor", predict), ("model alone", alone)):
            case = _name(name, multiplexer, width)
            yield Case(case, "sequence", multiplexer, width, run, len(texts), baseline=_name(name, "", 1))
    with tempfile.TemporaryDirectory() as folder:
        files = {"tokenizer": f"{folder}/tokenizer.json", "texts": f"{folder}/texts.json"}
        tokenizer.backend.save(files["tokenizer"])
        Path(files["texts"]).write_text(json.dumps(texts), encoding="utf-8")
        pipeline = torch_baseline("pipeline", dataclasses.asdict(settings) | {"task": "sequence"} | files)
        if pipeline:
            yield Case("PyTorch pipeline", "sequence", "", 1, pipeline, len(texts), baseline=_name("Predictor", "", 1))


def _classifier_config(settings: Settings, task: str, multiplexer: str, width: int) -> ModelConfig:
    """A model for two classes of sequences or tokens."""
    kept = settings.model.family.options() | DEMULTIPLEXERS[settings.model.demultiplexer].options()
    options = tuple((name, value) for name, value in settings.model.options if name in kept)
    return dataclasses.replace(
        settings.model,
        head=task,
        labels=_LABELS,
        multi_label=False,
        width=width,
        multiplexer=multiplexer or "gaussian",
        options=options,
        dtype=settings.dtype,
    )


def _models(settings: Settings) -> Iterator[tuple[str, int]]:
    """Multiplexers and widths; width 1, which has no multiplexer, once."""
    if 1 in settings.widths:
        yield "", 1
    for multiplexer in settings.multiplexers:
        yield from ((multiplexer, width) for width in settings.widths if width > 1)


def _name(task: str, multiplexer: str, width: int) -> str:
    return " ".join(filter(None, (task, multiplexer, f"N={width}")))


def forward(
    name: str, task: str, config: ModelConfig, rows: int, length: int, mesh: Mesh, baseline: str | None
) -> Case:
    """Forward passes of a classifier, randomly initialised, as `Predictor` makes them."""
    model = MuxModel(config)
    params = split_layers(init_params(model, mesh, seed=0), config.compute_dtype)
    tokens = split_batch(random_tokens((rows, config.width, length), config.vocab_size), mesh)
    logits = compile_logits(model, mesh, BERT_TOKENS.pad)

    def run() -> None:
        logits(params, tokens).block_until_ready()

    multiplexer = config.multiplexer if config.width > 1 else ""
    case = Case(name, task, multiplexer, config.width, run, rows * config.width, baseline=baseline)
    count = rows * flops.classification(config, length)
    return dataclasses.replace(case, flops=count, **_compile(logits, params, tokens))


def _step(settings: Settings, mesh: Mesh, task: str, multiplexer: str, width: int) -> Case:
    written = configuration.pretraining(
        "bert",
        settings.size,
        width,
        multiplexer or "gaussian",
        dtype=settings.dtype,
        max_position_embeddings=512,
    )
    run_config = configuration.read(written)
    assert isinstance(run_config, configuration.PretrainConfig)
    stage = run_config.priming if task == "priming" else run_config.pretraining
    config = run_config.model_config(VOCABULARY)
    model, optimizer = MuxModel(config), make_optimizer(stage, run_config.optimizer)
    step = make_train_step(
        objectives.make(stage, BERT_TOKENS), model, optimizer, mesh, seed=0, grad_accumulation_steps=1
    )
    state = init_state(init_params(model, mesh, seed=0), optimizer, 0, mesh)
    batch = split_batch({"tokens": random_tokens((settings.rows, width, settings.length), VOCABULARY)}, mesh)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    case = Case(_name(task, multiplexer, width), task, multiplexer, width, run, settings.rows * width)
    forward = flops.pretraining(config, stage.objective, settings.length, run_config.pretraining.mask_fraction)
    count = 3 * settings.rows * forward
    return dataclasses.replace(case, flops=count, baseline=_name("mlm", "", 1), **_compile(step, state, batch))


def _compile(function: CompiledByShape, *args: Any) -> dict[str, Any]:
    """Compiles; what a case says of it."""
    start = time.perf_counter()
    compiled = function.compile_for(*args)
    return {"compile_seconds": time.perf_counter() - start, "peak_memory_bytes": memory(compiled)}
