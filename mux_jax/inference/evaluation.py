"""Evaluation of a fine-tuned model on a task: `launch/evaluate.py`, and the end of fine-tuning."""

import dataclasses
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import ml_collections
from etils import epath
from jax.sharding import Mesh

from mux_jax.checkpoints.runs import checkpoint_folder
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.configuration import FinetuneConfig, resolve
from mux_jax.data.labels import shown
from mux_jax.data.task_data import TaskData, load_task
from mux_jax.data.tasks import get_task
from mux_jax.errors import InputError
from mux_jax.inference import glue
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.inference.deferral import Deferral, check_labels, find_deferral, parse_aim
from mux_jax.inference.loaded_model import in_dtype, open_export
from mux_jax.inference.predictor import Predictor, full_predictor
from mux_jax.inference.reports import plot_confusion, plot_scores, print_score
from mux_jax.inference.scoring import Deferred, Scorer
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.parallel import hosts
from mux_jax.parallel.mesh import make_mesh
from mux_jax.paths import absolute
from mux_jax.progress import progress, say


def final_scores(
    scorer: Scorer, config: FinetuneConfig, params: Any, folder: epath.Path
) -> tuple[dict[str, Any], Callable[[], None]]:
    """The scores over compositions, for `result.json`; and what draws the confusion matrix, when they are saved.

    params: those that `split_layers` gives.
    """
    with progress("evaluation") as report:
        result, labelled = scorer.score_compositions(params, config.num_compositions, report)

    def draw() -> None:
        if scorer.data.task.kind in ("sequence", "token") and hosts.is_first():
            plot_confusion(*labelled, scorer.data.labels, folder / "confusion.png")

    return {"task": config.data.task} | result, draw


def evaluate(
    config: ml_collections.ConfigDict,
    model: str,
    workdir: str = "",
    compare: Sequence[str] = (),
    given: Collection[str] = (),
    split: str = "dev",
    texts: str = "",
    defer: str | float = "off",
) -> dict[str, Any]:
    """Scores a fine-tuned model and writes `result.json` and pictures.

    Rows have the lengths that `Predictor` gives them, and products its dtype.

    Args:
      config: of fine-tuning, as `configs/finetune.py` makes it.
      model: a run, a Hugging Face folder or an id of the hub.
      workdir: the folder to write to; default: `evaluation_ensemble_K` in the model's run, with the name of what it is
        scored on before `ensemble` if that is not the dev set.
      compare: folders with other results, to draw scores against width and ensemble size.
      given: the fields that were set by hand, of which `data.bucket_lengths`, `data.sequence_length` and
        `model.dtype` then count instead of the model's.
      split: `dev` or `test`, a file so called in `data.folder`, or a split of TensorFlow Datasets.
      texts: a labelled file in the task's format to score on in its place.
      defer: which examples the model's full model answers, as `Predictor` takes it; figures have the share `deferred`
        and the `agreement` with the full model, too.

    Returns:
      What `result.json` holds.

    Raises:
      InputError: a model without a head for the task, bad data or no labels, or a `workdir` with another run.
    """
    if texts and split != "dev":
        raise InputError(f"give --texts={texts} or --split={split}, not both")
    found, resolved = _open(config, model, given)
    others = [_read_result(path) for path in compare]
    if not workdir and found.step is None:
        raise InputError(
            f"--workdir=DIR is needed, the folder for the result: {found.folder} is no run of this project"
        )
    deferral = find_deferral(found) if parse_aim(defer).kind != "off" else None
    scored = "" if (split, texts) == ("dev", "") else f"{absolute(texts).stem if texts else split}_"
    folder = absolute(workdir) if workdir else found.folder / f"evaluation_{scored}ensemble_{resolved.ensemble}"
    if deferral and not workdir:
        folder = folder.parent / f"{folder.name}_defer_{str(defer).replace('=', '_')}"
    if checkpoint_folder(folder).exists():
        raise InputError(f"--workdir={workdir} holds a run, whose results stay; name a folder for this result")
    mesh = make_mesh(**dataclasses.asdict(resolved.mesh))
    vocabulary, prompt = found.tokenizer(resolved.data.tokenizer), found.prompts().get("", "")
    data = load_task(resolved.data, vocabulary, found.config.labels, split, texts, prompt=prompt)
    scorer, params = _scorer(found, resolved, data, mesh, given)
    if deferral:
        full = full_predictor(deferral, found, resolved.rows, dtype=_dtype(resolved, given))
        scorer = dataclasses.replace(scorer, deferred=_deferred(found, full, deferral, data, defer))
    folder.mkdir(parents=True, exist_ok=True)
    with hosts.hold(folder / ".lock", str(folder)) as lock:
        scores, draw_confusion = final_scores(scorer, resolved, params, folder)
        int8 = found.export and found.export.precision == "int8"
        result = scores | {"model": found.address, "dtype": "int8" if int8 else scorer.runner.config.dtype}
        if deferral:
            result |= {"defer": defer, "full": deferral.full}
        if lock:
            lock.check()
        hosts.write_text(folder / "result.json", json.dumps(result, indent=2) + "\n")
        draw_confusion()
        plot_scores([*others, result], folder / "scores.png")
    print_score(result)
    for name in ("result.json", "scores.png", "confusion.png"):
        if (folder / name).exists():
            say(f"  {folder / name}")
    return result


def write_submission(config: ml_collections.ConfigDict, model: str, folder: str, given: Collection[str] = ()) -> None:
    """Writes what a model predicts on the test set of a task of GLUE, as the benchmark takes it.

    Args:
      folder: for the files, which have the benchmark's names; those of other tasks may be there.
      config: as `evaluate` takes it, and `model` and `given` too.

    Raises:
      InputError: as `evaluate`; a task or labels that the benchmark does not have.
    """
    name = config.data.task
    glue.check(name, ())
    found, resolved = _open(config, model, given)
    glue.check(name, found.config.labels)
    mesh = make_mesh(**dataclasses.asdict(resolved.mesh))
    tokenizer = found.tokenizer(resolved.data.tokenizer)
    data = load_task(resolved.data, tokenizer, found.config.labels, "test", labelled=False)
    scorer, params = _scorer(found, resolved, data, mesh, given)
    absolute(folder).mkdir(parents=True, exist_ok=True)
    for split, file in zip(data.task.dev, glue.FILES[name], strict=True):
        text = glue.table(name, data.splits[split].examples, scorer.predict(params, split))
        hosts.write_text(absolute(folder) / file, text)
        say(f"  {absolute(folder) / file}")


def _open(config: ml_collections.ConfigDict, model: str, given: Collection[str]) -> tuple[ModelSource, FinetuneConfig]:
    """The model, and the configuration that it is evaluated with."""
    found = open_model(model, takes_export=True)
    check_head(str(found.folder), found.config, config.data)
    config = config.copy_and_resolve_references()
    if found.task or "data.bucket_lengths" not in given:  # else nothing is to be guessed
        lengths = found.bucket_lengths()
        if "data.bucket_lengths" not in given:
            config.data.bucket_lengths = ",".join(map(str, lengths))
        if "data.sequence_length" not in given:
            config.data.sequence_length = lengths[-1]
    config.init_from = str(found.folder)
    resolved = resolve(config, found.config)
    assert isinstance(resolved, FinetuneConfig)
    return found, resolved


def _scorer(
    found: ModelSource, resolved: FinetuneConfig, data: TaskData, mesh: Mesh, given: Collection[str]
) -> tuple[Scorer, Any]:
    """What scores the model, and its parameters."""
    rest = resolved.rows, resolved.bucket_lengths(), data.special.pad
    if found.export:
        config, program = open_export(found, _dtype(resolved, given))
        runner, params = BatchRunner(MuxModel(config), None, *rest, program), None
    else:
        model = MuxModel(in_dtype(found.config, _dtype(resolved, given)))
        runner, params = BatchRunner(model, mesh, *rest), split_layers(found.params(mesh), model.config.compute_dtype)
    return Scorer(data, runner, resolved.ensemble, resolved.seed, resolved.threshold), params


def _dtype(resolved: FinetuneConfig, given: Collection[str]) -> str:
    """The dtype of predictions that was asked for."""
    return resolved.model.dtype if "model.dtype" in given else "auto"


def _deferred(found: ModelSource, full: Predictor, deferral: Deferral, data: TaskData, defer: str | float) -> Deferred:
    """The answers of the full model to all examples, and when they count."""
    places = check_labels(found.config, full.config, deferral.full)
    logits = {}
    with progress("answers of the full model") as report:
        for name in data.task.dev:
            texts = [example.text for example in data.splits[name].examples]
            logits[name] = [x[..., places] for x in full.logits(texts, lambda fraction: report(fraction, name))]  # noqa: B023
    share = deferral.share_for(parse_aim(defer))
    return Deferred(deferral.threshold(share), deferral.temperature, logits)


def check_head(model: str, config: ModelConfig, data: Any) -> None:
    """Raises `InputError` if a model, which messages call `model`, has no head for the task of a section `data`."""
    task = get_task(data)
    if config.head != (task.kind if task.kind in ("token", "embedding") else "sequence"):
        raise InputError(f"{model}: its head is {config.head!r}; task={data.task} is a {task.kind} task")
    if task.kind == "embedding":
        return
    if config.multi_label != (task.kind == "multi_label"):
        gives = "several labels a text or none" if config.multi_label else "one label a text"
        raise InputError(f"{model} gives {gives}; task={data.task} is a {task.kind} task")
    if (len(config.labels) == 1) != (task.kind == "regression"):
        raise InputError(f"{model}: its labels are {shown(config.labels)}; the task is {task.kind}")


def _read_result(path: str) -> dict[str, Any]:
    file = absolute(path) / "result.json"
    if not file.exists():
        raise InputError(f"--compare: no file {file}")
    result = json.loads(file.read_text(encoding="utf-8"))
    if "score" not in result:
        raise InputError(f"--compare: {file} has no score on a task")
    return result
