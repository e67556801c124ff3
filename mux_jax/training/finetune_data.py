"""The data of fine-tuning: a task's examples, its teacher, its scores."""

import collections
import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from mux_jax.checkpoints import sentence_transformers
from mux_jax.checkpoints.source import ModelSource
from mux_jax.configuration import FinetuneConfig
from mux_jax.data.encoding import Encoded, Encoder
from mux_jax.data.examples import read_unlabelled
from mux_jax.data.pair_batches import PairBatches
from mux_jax.data.task_batches import TaskBatches
from mux_jax.data.task_data import TaskData, load_task, text_digest
from mux_jax.data.tokenizer import ModelTokenizer, SpecialTokens, tokenizer_files
from mux_jax.errors import InputError
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.inference.evaluation import final_scores
from mux_jax.inference.scoring import Scorer
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.objectives.objectives import Objective
from mux_jax.parallel import hosts
from mux_jax.progress import say
from mux_jax.training import distillation
from mux_jax.training.workdir import known_data


@dataclasses.dataclass(frozen=True)
class FinetuneData:
    """A task to train on and to be judged by.

    Attributes:
      config: of the run.
      examples: the task's, with the tokenizer.
      teacher: the model in `config.teacher`.
      unlabelled: the texts in `config.data.unlabelled`.
      class_weights: float32, one a label; None: all are 1.
      runners: what runs a model on texts, so that each is compiled once.
    """

    config: FinetuneConfig
    examples: TaskData
    teacher: ModelSource | None = None
    unlabelled: Encoded | None = None
    class_weights: np.ndarray | None = None
    runners: dict[ModelConfig, BatchRunner] = dataclasses.field(default_factory=dict)

    @property
    def special(self) -> SpecialTokens:
        """The special tokens' ids."""
        return self.examples.special

    def model_config(self, init: ModelSource | None) -> ModelConfig:
        """The model to fine-tune."""
        assert init is not None
        model = self.config.task_model(init.config, self.examples.labels)
        return model if init.config.width > 1 else dataclasses.replace(model, cls_token_id=self.special.cls)

    def batches(self, mine: np.ndarray) -> TaskBatches | PairBatches:
        """The rows `mine` of each batch, by step."""
        config = self.config
        shape: dict[str, Any] = dict(
            rows=config.rows, width=config.model.width, lengths=config.bucket_lengths(), seed=config.seed
        )
        if self.examples.task.kind == "embedding":
            return PairBatches(self.examples, **shape, mine=mine)
        return TaskBatches(
            self.examples,
            **shape,
            mine=mine,
            taught=self.teacher is not None,
            unlabelled=self.unlabelled,
            class_weights=self.class_weights,
        )

    def evaluator(self, model: MuxModel, mesh: Mesh) -> Callable[[Objective, Any], dict[str, Any]]:
        """(objective, params) -> the scores on the first split to evaluate on, in one composition."""
        scorer = self._scorer(model, mesh)
        return lambda _, params: scorer.score(split_layers(params))

    def finish(
        self, model: MuxModel, mesh: Mesh, params: Any, workdir: epath.Path
    ) -> tuple[dict[str, Any], Callable[[], None]]:
        """The scores over compositions, for `result.json`; and what draws the confusion matrix, when they are saved."""
        return final_scores(self._scorer(model, mesh), self.config, split_layers(params), workdir)

    def _scorer(self, model: MuxModel, mesh: Mesh) -> Scorer:
        if model.config not in self.runners:
            lengths = self.config.bucket_lengths()
            self.runners[model.config] = BatchRunner(model, mesh, self.config.rows, lengths, self.special.pad)
        config, runner = self.config, self.runners[model.config]
        return Scorer(self.examples, runner, config.ensemble, config.seed, config.threshold)


def load_finetune_data(
    config: FinetuneConfig, workdir: epath.Path, init: ModelSource | None, teacher: ModelSource | None
) -> FinetuneData:
    """Reads and encodes the examples; labels come from the training data.

    Raises:
      InputError: bad data, by file and line; examples that have changed since the run began; no tokenizer; a
        teacher of something else.
    """
    assert init is not None  # `resolve` has seen to it
    known = known_data(workdir)
    tokenizer = _tokenizer(config, init, teacher)
    if known and not (workdir / "tokenizer_config.json").exists():  # of an older version, whose types were all 0
        tokenizer = dataclasses.replace(tokenizer, token_types=False)
    examples = load_task(config.data, tokenizer, prompt=init.prompts().get("", ""))
    data = FinetuneData(config, examples, class_weights=_class_weights(config, examples))
    if teacher:
        data = dataclasses.replace(data, teacher=teacher)
        distillation.check(teacher, data.model_config(init), tokenizer, config.data.sequence_length)
    digests = {"the examples": data.examples.digest(), "the vocabulary": text_digest(tokenizer.backend.to_str())}
    if config.data.unlabelled:
        task, labels = data.examples.task, data.examples.labels
        texts = read_unlabelled(task, config.data.unlabelled, labels, config.data.delimiter)
        found = Encoder(tokenizer, config.data.sequence_length)(texts)
        data = dataclasses.replace(data, unlabelled=found)
        digests["the unlabelled texts"] = text_digest(repr(texts))
        say(f"unlabelled: {len(texts):,} texts, {found.truncated:,} of them cut, from {config.data.unlabelled}")
    for name, digest in digests.items():
        if known and known[name] != digest:
            raise InputError(f"{name} of {config.data.task} changed since the run in {workdir} began; take another")
    hosts.agree(digests)
    files = tokenizer_files(tokenizer)
    if examples.task.kind == "embedding":
        files |= sentence_transformers.prompt_files(init.prompts())
    for name, text in files.items():
        hosts.write_text(workdir / name, text)
    hosts.write_text(workdir / "data.json", json.dumps(digests))
    return data


def _tokenizer(config: FinetuneConfig, init: ModelSource, teacher: ModelSource | None) -> ModelTokenizer:
    """That of the model to start from; it makes token types for a model of width 1, or for a teacher with them."""
    tokenizer = init.tokenizer(config.data.tokenizer)
    wanted = config.model.width == 1 and tokenizer.token_types or teacher is not None and teacher.has_token_types()
    return dataclasses.replace(tokenizer, token_types=wanted)


def _class_weights(config: FinetuneConfig, data: TaskData) -> np.ndarray | None:
    """The weights of the labels, which are printed; balanced ones as scikit-learn has them.

    Raises:
      InputError: not as many as labels.
    """
    given, labels = config.finetuning.class_weights, data.labels
    if not given:
        if labels and data.task.kind != "regression":
            say(f"labels: {', '.join(labels)}")
        return None
    weights = config.class_weights()
    if given == "balanced":
        words = data.task.kind == "token"
        found = [e.label for e in data.splits["train"].examples]
        counts = collections.Counter(itertools.chain(*found) if words else found)
        weights = [counts.total() / (len(labels) * counts[label]) for label in labels]
    if len(weights) != len(labels):
        raise InputError(
            f"finetuning.class_weights={given!r} has {len(weights)} numbers, not {len(labels)}: "
            f"the labels are {', '.join(labels)}"
        )
    say(f"labels and their weights: {', '.join(f'{label} {w:.4g}' for label, w in zip(labels, weights))}")
    return np.array(weights, np.float32)
