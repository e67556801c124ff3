"""A fine-tuned model made a program of another runtime: ONNX, OpenVINO or StableHLO; in int8, if that is wanted."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from mux_jax import locks
from mux_jax.checkpoints.card import model_card
from mux_jax.checkpoints.exports import PROGRAMS, Export
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.data import formats
from mux_jax.data.encoding import Encoder, split_words
from mux_jax.data.tokenizer import ModelTokenizer, save_tokenizer
from mux_jax.errors import InputError, TrainingError
from mux_jax.files import whole_or_absent
from mux_jax.inference import programs
from mux_jax.inference.batch_runner import BatchRunner, labels_from_logits
from mux_jax.inference.deferral import agreement_after
from mux_jax.inference.files import check_input
from mux_jax.inference.runtimes import open_program, require
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh
from mux_jax.paths import absolute
from mux_jax.progress import progress, say

_ROWS, _BATCHES = 16, 32  # of texts to calibrate on, at most
_CLOSE = 1e-3  # what logits in float32 may differ by, over the largest or 1
_MOST_BYTES = 2**31 - 2**24  # of a program in one file


def export(
    model: str,
    workdir: str,
    format: str,
    int8: bool = False,
    calibrate: str = "",
    text_columns: str = "",
    lengths: Sequence[int] = (),
    tokenizer: str = "",
) -> dict[str, Any]:
    """Writes a model's program, with its tokenizer and labels, to a folder that `Predictor` takes.

    The program runs rows of any number and length. Its logits are compared with the model's before the folder appears.

    Args:
      model: a fine-tuned run, a Hugging Face folder, an id of the hub, of any width.
      workdir: the folder to make.
      format: a name in `PROGRAMS`.
      int8: whether matrix products are of 8 bits. Their scales are those of each batch in ONNX, and fitted on the texts
        to calibrate on in OpenVINO.
      calibrate: a file of texts, without labels, in any format that `launch/predict.py` reads; its first few hundred
        are read, and compared by, too.
      text_columns: of that file, separated by a comma; empty: those of the model, or `text`.
      lengths: those that rows may have; none: the model's.
      tokenizer: of a model that has none.

    Returns:
      `difference`, the largest of the logits; `agreement`, the share of answers that are the model's, of numbers the
      correlation, of embeddings the mean cosine; `program`, its path.

    Raises:
      InputError: a model without a head for labels, a format or a file that does not exist, packages that are not
        installed, a folder that exists.
      TrainingError: a program in float32 whose logits are not the model's.
    """
    if format not in PROGRAMS:
        raise InputError(f"--format={format} does not exist; there are: {', '.join(PROGRAMS)}")
    if int8 and format == "stablehlo":
        raise InputError("--int8 is for --format=onnx and openvino; XLA's products of int8 are no faster")
    if int8 and format == "openvino" and not calibrate:
        raise InputError("--int8 needs --calibrate=FILE: texts like those to come, without labels")
    require(f"--format={format}" + " --int8" * int8, *programs.needs(format, int8))
    target = absolute(workdir)
    if "://" in str(target):
        raise InputError(f"--workdir={target} must be a folder of this machine: other libraries write to it")
    if target.exists():
        raise InputError(f"--workdir={target} exists; name another folder")
    found = open_model(model)
    if found.config.head not in ("sequence", "token", "embedding"):
        raise InputError(f"--model={model} has the head {found.config.head!r}; name a model that is fine-tuned")
    columns = tuple(name for name in text_columns.split(",") if name)
    vocabulary, task = (
        found.tokenizer(tokenizer),
        TaskInfo(_lengths(found, lengths), columns or found.text_columns(), found.prompts()),
    )
    if calibrate:
        texts = _read(calibrate, task.text_columns, columns, found.config)
    else:
        texts = _invented(vocabulary, task, found.config)
    about, agreement = write_export(found, target, format, int8, texts, vocabulary, task, card=True)
    program = target / PROGRAMS[format]
    compared = f"its answers to {len(texts):,} texts agree in {agreement:.1%}"
    if about.model.head == "embedding":
        compared = f"the mean cosine of {len(texts):,} embeddings with its own is {agreement:.5f}"
    elif about.model.task_kind == "regression":
        compared = f"its answers to {len(texts):,} texts correlate by {agreement:.3f}"
    say(
        f"{program}: {about.precision}, width {about.model.width}; its outputs differ from the model's by at most "
        f"{about.difference:.1e}, {compared}"
    )
    return {"difference": about.difference, "agreement": agreement, "program": str(program)}


def write_export(
    found: ModelSource,
    target: epath.Path,
    format: str,
    int8: bool,
    texts: list[Any],
    vocabulary: ModelTokenizer,
    task: TaskInfo,
    card: bool,
) -> tuple[Export, float]:
    """Writes an export to the folder `target`, which does not exist.

    Args:
      texts: to calibrate on and to compare by.
      vocabulary, task: what goes with it.
      card: whether it gets a model card.

    Returns:
      What `export.json` says, and the share of answers to the texts that are the model's.

    Raises:
      TrainingError: as `export`.
    """
    # On CPU, where products of float32 are what they say.
    params = found.params(make_mesh(devices=jax.devices("cpu")[:1]))
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    if size > _MOST_BYTES and (format == "stablehlo" or format == "onnx" and int8):
        raise InputError(f"{found.folder} has {size / 1e9:.1f} GB of weights; a program of over 2 GB is for OpenVINO")
    encoder = Encoder(vocabulary, task.bucket_lengths[-1])
    dtype = found.config.dtype if format == "openvino" else "float32"  # OpenVINO chooses when it runs
    pairs = len(task.text_columns) == 2 or isinstance(texts[0], tuple)
    typed = pairs and found.config.takes_token_types and vocabulary.token_types
    about = Export(
        format=format,
        precision="int8" if int8 else "float32",
        inputs=("tokens", "token_types") if typed else ("tokens",),
        pad_token_id=vocabulary.special.pad,
        source=found.address,
        difference=0.0,
        model=dataclasses.replace(found.config, dtype=dtype),
        task=task,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with locks.hold(target.parent / f".{target.name}.lock", str(target)), whole_or_absent(target) as folder:
        folder.mkdir()
        with progress(f"export to {format}"):
            batches = list(_batches(about, encoder, texts))
            _write(about, split_layers(params), batches, folder / PROGRAMS[format])
        save_tokenizer(vocabulary, folder, for_transformers=True)
        about, agreement = _compared(about, split_layers(params), folder, encoder, texts)
        about.save(folder)
        if card:
            text = model_card(target.name, found, sum(x.size for x in jax.tree.leaves(params)), about)
            (folder / "README.md").write_text(text, encoding="utf-8")
    return about, agreement


def _lengths(found: ModelSource, given: Sequence[int]) -> tuple[int, ...]:
    """The lengths that rows of the export may have."""
    most = found.config.max_length - found.config.prefix_length
    if any(not 2 < length <= most for length in given):
        raise InputError(f"--lengths={','.join(map(str, given))} must be from 3 to {most}")
    return tuple(sorted(set(given))) or found.bucket_lengths()


def most_texts(config: ModelConfig) -> int:
    """How many texts a model is calibrated on and compared by."""
    return _ROWS * _BATCHES * config.width


def _read(file: str, columns: tuple[str, ...], wanted: tuple[str, ...], config: ModelConfig) -> list[Any]:
    """The first texts of a file."""
    source, names = check_input(file, columns, wanted)
    words = config.head == "token"
    if len(names) > (most := 1 if words else 2):
        raise InputError(
            f"--text_columns={','.join(names)}: at most {most} {'column' if words else 'columns'} of texts"
        )
    records = formats.read(source, words=words, labels=config.labels, used=names)
    if words and source.suffix == ".txt":
        names = ("words",)
    first = itertools.islice(records, most_texts(config))
    texts = [formats.to_text(record, names, words) for record in first]
    if not texts:
        raise InputError(f"--calibrate={file} has no texts")
    return [split_words(x) if words and isinstance(x, str) else x for x in texts]


def _invented(vocabulary: ModelTokenizer, task: TaskInfo, config: ModelConfig) -> list[Any]:
    """Texts of random words of the vocabulary, to compare by where there are no others."""
    rng = np.random.default_rng(0)
    known = [word for word in sorted(vocabulary.backend.get_vocab()) if word.isalpha()]
    texts = [[str(word) for word in rng.choice(known, n)] for n in rng.integers(1, 40, 2 * _ROWS * config.width)]
    if config.head == "token":
        return texts
    joined = [" ".join(words) for words in texts]
    return list(zip(joined, joined[::-1])) if len(task.text_columns) == 2 else joined


def _batches(about: Export, encoder: Encoder, texts: list[Any]) -> Iterator[list[np.ndarray]]:
    """What the program takes, by rows as predictions compose them."""
    lengths, pad_id = about.task.bucket_lengths, about.pad_token_id
    runner = BatchRunner(MuxModel(about.model), None, _ROWS, lengths, pad_id, lambda *_: np.zeros(0))
    ids = encoder(texts)
    for _, arrays in itertools.islice(runner.batches(ids, np.random.default_rng(0)), _BATCHES):
        yield arrays + [np.zeros_like(arrays[0])] * (len(about.inputs) - len(arrays))


def _write(about: Export, params: Any, batches: list[list[np.ndarray]], file: epath.Path) -> None:
    """Writes the program."""
    given = _exact(about), params, about.pad_token_id, about.inputs
    if about.format == "stablehlo":
        file.write_bytes(programs.to_stablehlo(*given))
    else:
        programs.write(about.format, programs.to_onnx(*given), about.precision == "int8", batches, file)


def _compared(
    about: Export, params: Any, folder: epath.Path, encoder: Encoder, texts: list[Any]
) -> tuple[Export, float]:
    """With the difference from the model, and the share of answers that are the model's, of numbers the correlation."""
    lengths, pad_id, model = about.task.bucket_lengths, about.pad_token_id, _exact(about)
    encoded, rng = encoder(texts), np.random.default_rng
    mesh = make_mesh(devices=jax.devices("cpu")[:1])
    expected = BatchRunner(model, mesh, _ROWS, lengths, pad_id)(params, encoded, rng(0))
    program = open_program(about, folder, "float32")
    made = BatchRunner(model, None, _ROWS, lengths, pad_id, program)(None, encoded, rng(0))
    # A word without a place has no logits in both; whatever else is no number is a difference.
    each = [np.where(np.isnan(x), 0, np.abs(x - y)).max(initial=0) for x, y in zip(expected, made)]
    difference = float(np.max(each))
    largest = max(float(np.nan_to_num(np.abs(x)).max(initial=1)) for x in expected)
    if not difference < (_CLOSE * largest if about.precision == "float32" else np.inf):
        raise TrainingError(
            f"the {about.format} program is not the model: logits differ by up to {difference:.1e}; nothing is written"
        )
    if model.config.head == "embedding":
        cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(expected, made)]
        return dataclasses.replace(about, difference=difference), float(np.mean(cosines))
    ours, theirs = (labels_from_logits(x, model.config, 0.5) for x in (expected, made))
    agreement = agreement_after(model.config.task_kind, ours, theirs)(np.zeros(len(ours), bool))
    return dataclasses.replace(about, difference=difference), agreement


def _exact(about: Export) -> MuxModel:
    """The model with products of float32, whatever those of predictions are, for a CPU."""
    return MuxModel(dataclasses.replace(about.model, dtype="float32", attention="plain"))
