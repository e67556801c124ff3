"""Fine-tuning: a task's examples in multiplexed rows, and its scores."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh
from tokenizers import Tokenizer

from mux_jax import configuration, metrics
from mux_jax.data.encoding import Encoded, Encoder
from mux_jax.data.rows import Slots, compose, pad
from mux_jax.data.tasks import Example, Task, describe, get_task, read, read_unlabelled
from mux_jax.data.tokenizer import SpecialTokens, special_tokens
from mux_jax.errors import InputError
from mux_jax.inference.classifier import Classifier, decide
from mux_jax.inference.predictor import row_lengths
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.objectives.objectives import Objective
from mux_jax.paths import absolute
from mux_jax.pretrained import Pretrained, find
from mux_jax.progress import progress, say
from mux_jax.training import distillation, hosts
from mux_jax.training.checkpoints import checkpoint_folder, write_atomically
from mux_jax.training.logbook import print_score
from mux_jax.training.mesh import make_mesh
from mux_jax.training.plots import plot_confusion, plot_scores
from mux_jax.training.workdir import known_data

# Of a slot that only fills, or of a text that only the teacher labels.
_NO_LABEL = {"sequence": -1, "regression": np.nan, "token": np.empty(0, np.int32)}


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples with their encoded texts."""

    examples: list[Example]
    encoded: Encoded


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """A task, ready to train and evaluate. `labels` are the model's: of regression, its one name."""

    task: Task
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    splits: dict[str, Split]
    teacher: Pretrained | None = None  # of `config.teacher`
    unlabelled: Sequence[np.ndarray] = ()  # ids of the texts of `config.data.unlabelled`
    classifiers: dict[ModelConfig, Classifier] = dataclasses.field(default_factory=dict)  # compiled once

    @property
    def special(self) -> SpecialTokens:
        return special_tokens(self.tokenizer)

    def digest(self) -> str:
        """Of all texts and labels."""
        splits = {name: [(e.text, e.label) for e in split.examples] for name, split in self.splits.items()}
        return _digest(repr(splits))

    def model_config(self, config: Any, init: Pretrained) -> ModelConfig:
        """The model to fine-tune."""
        model = configuration.task_model(config, init.config, self.labels)
        return model if init.config.width > 1 else dataclasses.replace(model, cls_token_id=self.special.cls)

    def batches(self, config: Any, mine: np.ndarray) -> "TaskBatches":
        """The rows `mine` of each batch, by step."""
        return TaskBatches(self, config, mine)

    def evaluator(self, config: Any, model: MuxModel, mesh: Mesh) -> Callable[[Objective, Any], dict[str, Any]]:
        """(objective, params) -> the scores on the first split to evaluate on, in one composition."""
        classify = self._classifier(config, model, mesh)

        def score(_: Objective, params: Any) -> dict[str, Any]:
            split = self.splits[self.task.dev[0]]
            rng = np.random.default_rng(config.seed)
            logits = classify(split_layers(params), split.encoded, rng, config.ensemble)
            figures = self._figures(split, logits)
            return {"score": next(iter(figures.values()))} | figures

        return score

    def finish(self, config: Any, model: MuxModel, mesh: Mesh, params: Any, workdir: epath.Path) -> dict[str, Any]:
        """The scores over compositions, for `result.json`; draws the confusion matrix."""
        classify, params = self._classifier(config, model, mesh), split_layers(params)
        results = {}
        with progress("evaluation") as report:
            compositions = config.compositions if model.config.width > 1 else 1  # of width 1 all are one
            runs = [(name, i) for name in self.task.dev for i in range(compositions)]
            found: dict[str, list[dict[str, float]]] = {}
            for done, (name, i) in enumerate(runs):
                split = self.splits[name]
                rng = np.random.default_rng([config.seed, i])
                logits = classify(params, split.encoded, rng, config.ensemble)
                found.setdefault(name, []).append(self._figures(split, logits))
                if i == 0 and name == self.task.dev[0] and self.task.kind != "regression":
                    gold, predicted = self._labels(split, logits)
                    plot_confusion(gold, predicted, self.labels, workdir / "confusion.png")
                report((done + 1) / len(runs), f"composition {i + 1} of {name}")
        for name, figures in found.items():
            results[name] = {metric: spread([f[metric] for f in figures]) for metric in figures[0]}
        first = self.splits[self.task.dev[0]]
        main = results[self.task.dev[0]]
        return {
            "task": config.data.task,
            "metric": next(iter(main)),
            "examples": len(first.examples),
            "width": model.config.width,
            "ensemble": config.ensemble,
            "effective_width": model.config.width / config.ensemble,
            "score": next(iter(main.values())),
            "splits": results,
            "truncated": {name: self.splits[name].encoded.truncated for name in self.task.dev},
        }

    def _classifier(self, config: Any, model: MuxModel, mesh: Mesh) -> Classifier:
        if model.config not in self.classifiers:
            lengths = configuration.row_lengths(config)
            self.classifiers[model.config] = Classifier(model, mesh, config.rows, lengths, self.special.pad)
        return self.classifiers[model.config]

    def _figures(self, split: Split, logits: list[np.ndarray]) -> dict[str, float]:
        predicted = decide(logits, self.labels, self.task.kind == "token")
        return metrics.compute(self.task.metric, [e.label for e in split.examples], predicted, self.labels)

    def _labels(self, split: Split, logits: list[np.ndarray]) -> tuple[list, list]:
        """All labels and predictions, those of words one after the other."""
        gold, predicted = [e.label for e in split.examples], decide(logits, self.labels, self.task.kind == "token")
        if self.task.kind == "token":
            pairs = [(g, p) for gs, ps in zip(gold, predicted) for g, p in zip(gs, ps) if p is not None]
            gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
        return gold, predicted


class TaskBatches:
    """`batches[step]` has this host's rows of the batch of a step, a function of (seed, step) alone.

    An epoch holds every example once, drawn anew each time, the batches of all lengths mixed. With a
    teacher, which needs no labels, there are as many texts without: drawn from the unlabelled ones, or
    made by joining examples, since dev texts may be longer than those to train on, and each joined one is new.
    """

    def __init__(self, data: Finetuning, config: Any, mine: np.ndarray):
        self._split, self._kind, self._pad = data.splits["train"], data.task.kind, data.special.pad
        self._seed, self._lengths, self._width = config.seed, configuration.row_lengths(config), config.model.width
        self._slots = config.rows * config.model.width
        self._mine = (mine[:, None] * self._width + np.arange(self._width)).ravel()
        self._ids = self._split.encoded.ids
        numbers = {label: i for i, label in enumerate(data.labels)}
        self._labels = [self._encode(i, example, numbers) for i, example in enumerate(self._split.examples)]
        self._unlabelled = data.unlabelled
        joined = config.teacher and not isinstance(self._split.examples[0].text, tuple)  # pairs are not
        self._new = min(len(self._unlabelled), len(self._ids)) or (len(self._ids) if joined else 0)  # in an epoch
        self._labels += [_NO_LABEL[self._kind]] * self._new
        self._epoch = functools.lru_cache(maxsize=2)(self._compose)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_epoch"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._epoch = functools.lru_cache(maxsize=2)(self._compose)

    @property
    def per_epoch(self) -> int:
        return -(-(len(self._ids) + self._new) // self._slots)

    def __len__(self) -> int:
        return 2**31  # as long as anybody trains

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, position = divmod(int(step), self.per_epoch)
        ids, batches = self._epoch(epoch)
        slots = batches[position]
        examples, real = slots.examples[self._mine], slots.real[self._mine]
        tokens = pad(ids, examples, slots.length, self._width, self._pad)
        if self._kind == "token":
            labels = pad(self._labels, examples, slots.length, self._width, -1)
            labels = np.where(real.reshape(-1, self._width, 1), labels, -1)
        else:
            labels = np.array([self._labels[e] if r else _NO_LABEL[self._kind] for e, r in zip(examples, real)])
            labels = labels.reshape(-1, self._width).astype(np.float32 if self._kind == "regression" else np.int32)
        return {"tokens": tokens, "labels": labels}

    def _compose(self, epoch: int) -> tuple[list[np.ndarray], list[Slots]]:
        """The ids of an epoch's texts, and its batches."""
        rng = np.random.default_rng([self._seed, epoch])
        ids = self._ids
        if self._unlabelled:
            drawn = rng.choice(len(self._unlabelled), self._new, replace=False)
            ids = [*ids, *(self._unlabelled[i] for i in drawn)]
        elif self._new:
            ids = [*ids, *_join(ids, self._lengths[-1], rng)]
        batches = list(compose(np.array([len(x) for x in ids]), self._lengths, self._slots, rng))
        return ids, [batches[i] for i in rng.permutation(len(batches))]

    def _encode(self, index: int, example: Example, numbers: dict[str, int]) -> Any:
        """The label as the objective wants it; of words at their first pieces."""
        if self._kind == "regression":
            return example.label
        if self._kind == "sequence":
            return numbers[example.label]
        labels = np.full(len(self._ids[index]), -1, np.int32)
        for place, tag in zip(self._split.encoded.places[index], example.label):
            if place >= 0:
                labels[place] = numbers[tag]
        return labels


def _join(ids: list[np.ndarray], limit: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """As many texts as there are, each two or three of them, [CLS] and [SEP] at the ends alone."""
    for count, drawn in zip(rng.integers(2, 4, len(ids)), rng.integers(len(ids), size=(len(ids), 3))):
        body = np.concatenate([ids[i][1:-1] for i in drawn[:count]])[: limit - 2]
        first = ids[drawn[0]]
        yield np.concatenate([first[:1], body, first[-1:]])


def prepare(config: Any, workdir: epath.Path, init: Pretrained) -> Finetuning:
    """Reads and encodes the examples; labels are those of the training data.

    Raises:
      InputError: bad data, by file and line; examples that have changed since the run began; no tokenizer; a
        teacher of something else.
    """
    data = load(config, init.tokenizer(config.data.tokenizer))
    if config.teacher:
        data = dataclasses.replace(data, teacher=find(config.teacher))
        model = data.model_config(config, init)
        distillation.check(data.teacher, model, data.tokenizer, config.data.sequence_length)
    digests = {"the examples": data.digest(), "the vocabulary": _digest(data.tokenizer.to_str())}
    if config.data.unlabelled:
        texts = read_unlabelled(data.task, config.data.unlabelled)
        found = Encoder(data.tokenizer, config.data.sequence_length)(texts)
        data = dataclasses.replace(data, unlabelled=found.ids)
        digests["the unlabelled texts"] = _digest(repr(texts))
        say(f"unlabelled: {len(texts):,} texts, {found.truncated:,} of them cut, from {config.data.unlabelled}")
    known = known_data(workdir)
    for name, digest in digests.items():
        if known and known[name] != digest:
            raise InputError(f"{name} of {config.data.task} changed since the run in {workdir} began; take another")
    hosts.agree(digests)
    write_atomically(workdir / "tokenizer.json", data.tokenizer.to_str())
    write_atomically(workdir / "data.json", json.dumps(digests))
    return data


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def load(config: Any, tokenizer: Tokenizer, labels: tuple[str, ...] = ()) -> Finetuning:
    """The task with a tokenizer. `labels`: those of a model to evaluate, for which nothing else is read."""
    task = get_task(config.data)
    examples = read(task, config.data, task.dev if labels else ("train", *task.dev))
    labels = labels or _labels(task, examples["train"])
    for found in examples.values():
        _check_labels(task, found, labels)
    if task.metric == "span_f1":
        _check_spans(labels)
    encode = Encoder(tokenizer, config.data.sequence_length)
    splits = {name: Split(found, encode([e.text for e in found])) for name, found in examples.items()}
    counts = ", ".join(f"{len(split.examples):,} {name}" for name, split in splits.items())
    say(f"{config.data.task}: {counts} examples from {describe(config.data)}; {len(labels)} labels")
    for name, split in splits.items():
        if split.encoded.truncated:
            say(f"{name}: {split.encoded.truncated:,} texts are longer than {config.data.sequence_length} tokens; cut")
    return Finetuning(task, tokenizer, labels, splits)


def _labels(task: Task, examples: list[Example]) -> tuple[str, ...]:
    if task.kind == "regression":
        return (task.label,)
    labels = {tag for e in examples for tag in e.label} if task.kind == "token" else {e.label for e in examples}
    if len(labels) < 2:
        raise InputError(f"the training data has the label {', '.join(labels)} and no other; two are the least")
    return tuple(sorted(labels))


def _check_spans(labels: tuple[str, ...]) -> None:
    """Refuses tags that do not say where spans begin, of which F1 is 0 whatever is predicted."""
    strange = [label for label in labels if label != "O" and label[:2] not in ("B-", "I-", "E-", "S-")]
    if strange:
        raise InputError(
            f"data.metric=span_f1 is of tags such as B-PER, I-PER and O; the labels are {', '.join(labels)}; "
            "name them so, or take accuracy or macro_f1"
        )


def _check_labels(task: Task, examples: list[Example], labels: tuple[str, ...]) -> None:
    if task.kind == "regression":
        return
    known, names = set(labels), ", ".join(labels)
    if labels == tuple(f"LABEL_{i}" for i in range(len(labels))):
        names += "; put their names in `id2label` of the model's config.json"
    for example in examples:
        for label in example.label if task.kind == "token" else (example.label,):
            if label not in known:
                raise InputError(f"{example.where}: label {label!r} is not among those trained on: {names}")


def spread(runs: list[float]) -> dict[str, Any]:
    """Mean, standard deviation, minimum and maximum of the scores of several compositions."""
    return {
        "mean": float(np.mean(runs)),
        "std": float(np.std(runs)),
        "min": float(np.min(runs)),
        "max": float(np.max(runs)),
        "runs": runs,
    }


def evaluate(config: Any, workdir: str, compare: Sequence[str] = (), given: Collection[str] = ()) -> dict[str, Any]:
    """Scores a fine-tuned model and writes `result.json` and pictures.

    The model is that of `config.init`, or without it the run in `workdir`, and the result then goes
    to a folder in it. Rows have the lengths that `Predictor` gives them, and the model has its own dtype.

    Args:
      compare: folders with other results, to draw scores against width and ensemble size.
      given: the fields that were set by hand, of which `data.lengths`, `data.sequence_length` and
        `model.dtype` then count instead of the model's.

    Raises:
      InputError: a model without a head for the task, bad data, or a `workdir` with another run.
    """
    folder = absolute(workdir)
    found = find(config.init or workdir)
    task = get_task(config.data)
    if found.config.head != ("token" if task.kind == "token" else "sequence"):
        raise InputError(
            f"{found.folder}: its head is {found.config.head!r}; task={config.data.task} is a {task.kind} task"
        )
    if (len(found.config.labels) == 1) != (task.kind == "regression"):
        raise InputError(f"{found.folder}: its labels are {', '.join(found.config.labels)}; the task is {task.kind}")
    others = [_read_result(path) for path in compare]
    if found.task or "data.lengths" not in given:  # else nothing is to be guessed
        lengths = row_lengths(found)
        if "data.lengths" not in given:
            config.data.lengths = ",".join(map(str, lengths))
        if "data.sequence_length" not in given:
            config.data.sequence_length = lengths[-1]
    config.init = str(found.folder)
    configuration.resolve(config, found.config)
    dtype = config.model.dtype if "model.dtype" in given else found.config.dtype
    configuration.check(config)
    if folder == found.folder:
        folder = folder / f"evaluation_ensemble_{config.ensemble}"
    elif checkpoint_folder(folder).exists():
        raise InputError(f"--workdir={workdir} holds another run, whose results stay; name a folder for this result")
    folder.mkdir(parents=True, exist_ok=True)

    mesh = make_mesh(**config.mesh)
    data = load(config, found.tokenizer(config.data.tokenizer), found.config.labels)
    model = MuxModel(dataclasses.replace(found.config, dtype=dtype))
    result = data.finish(config, model, mesh, found.params(mesh), folder)
    result["model"] = str(found.folder)
    write_atomically(folder / "result.json", json.dumps(result, indent=2) + "\n")
    plot_scores([*others, result], folder / "scores.png")
    print_score(result)
    for name in ("result.json", "scores.png", "confusion.png"):
        if (folder / name).exists():
            say(f"  {folder / name}")
    return result


def _read_result(path: str) -> dict[str, Any]:
    file = epath.Path(path).expanduser() / "result.json"
    if not file.exists():
        raise InputError(f"--compare: no file {file}")
    result = json.loads(file.read_text())
    if "score" not in result:
        raise InputError(f"--compare: {file} has no score on a task")
    return result
