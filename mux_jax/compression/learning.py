"""A reduced model learns the answers of the model that it comes from: a run like those of fine-tuning."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from mux_jax.checkpoints import sentence_transformers
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.compression.judging import agreement
from mux_jax.compression.plan import TEXTS_A_STEP
from mux_jax.compression.pool import Pool, PoolBatches
from mux_jax.configuration import FinetuneConfig, resolve, to_config_dict
from mux_jax.configuration.finetune import FinetuneModelSettings
from mux_jax.configuration.sections import CheckpointSection, EvalSection
from mux_jax.data.sections import TaskSection
from mux_jax.data.tasks import get_task
from mux_jax.data.tokenizer import ModelTokenizer, SpecialTokens, tokenizer_files
from mux_jax.inference.batch_runner import BatchRunner, labels_from_logits
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.objectives import classification, embedding
from mux_jax.objectives.objectives import Objective
from mux_jax.objectives.stages import FinetuneStage
from mux_jax.parallel import hosts
from mux_jax.parallel.mesh import make_mesh, rows_multiple
from mux_jax.parallel.params import abstract_params
from mux_jax.training import loop

_TEMPERATURE = 2.0


@dataclasses.dataclass(frozen=True)
class Lessons:
    """What a reduced model learns from and is chosen by.

    Attributes:
      tokenizer: what encoded the texts.
      learn: the texts to learn from.
      choose: the texts that it is chosen by.
      lengths: that rows may have, ascending.
      prompts: of an embedding model, which texts have before them.
    """

    tokenizer: ModelTokenizer
    learn: Pool
    choose: Pool
    lengths: tuple[int, ...]
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def tokens_per_step(self, rows: int, width: int) -> float:
        """The mean number of places in the rows of a step."""
        sizes = [len(x) for x in self.learn.encoded.ids]
        length_S = np.array(self.lengths)[np.searchsorted(self.lengths, sizes)]
        own, joined = length_S[: self.learn.own], length_S[self.learn.own :]
        counts = len(own), min(len(own), len(joined))  # in an epoch
        mean = np.average([own.mean(), joined.mean() if len(joined) else 0], weights=counts)
        return rows * width * float(mean)


@dataclasses.dataclass(frozen=True)
class _Data:
    """Lessons as the data of a run (`loop.RunData`)."""

    config: FinetuneConfig
    lessons: Lessons

    @property
    def special(self) -> SpecialTokens:
        return self.lessons.tokenizer.special

    def model_config(self, init: ModelSource | None) -> ModelConfig:
        assert init is not None
        return self.config.task_model(init.config, init.config.labels)

    def batches(self, mine: np.ndarray) -> PoolBatches:
        config, lessons = self.config, self.lessons
        return PoolBatches(
            lessons.learn,
            get_task(config.data).kind,
            rows=config.rows,
            width=config.model.width,
            lengths=lessons.lengths,
            seed=config.seed,
            mine=mine,
            pad_id=self.special.pad,
        )

    def evaluator(self, model: MuxModel, mesh: Mesh) -> Callable[[Objective, Any], dict[str, Any]]:
        """Figures on the texts to choose by; none is a `score`, so that the last step is what a run gives."""
        lessons, kind = self.lessons, get_task(self.config.data).kind
        runner = BatchRunner(model, mesh, self.config.rows, lessons.lengths, self.special.pad)
        wanted = labels_from_logits(lessons.choose.answers, model.config, 0.5)

        def evaluate(_: Objective, params: Any) -> dict[str, Any]:
            rng = np.random.default_rng(self.config.seed)
            logits = runner(split_layers(params), lessons.choose.encoded, rng, copies=False)
            return {
                "teacher_loss": distance(model.config, logits, lessons.choose.answers),
                "agreement": agreement(kind, labels_from_logits(logits, model.config, 0.5), wanted),
            }

        return evaluate

    def finish(
        self, model: MuxModel, mesh: Mesh, params: Any, workdir: epath.Path
    ) -> tuple[dict[str, Any], Callable[[], None]]:
        return {}, lambda: None


def count_parameters(config: ModelConfig) -> int:
    """The number of a model's parameters."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_params(MuxModel(config), make_mesh())))


def rows_of_a_step(width: int, mesh: Mesh) -> int:
    """Rows that hold about `TEXTS_A_STEP` texts, a multiple of the devices."""
    multiple = rows_multiple(mesh)
    return -(-max(1, TEXTS_A_STEP // width) // multiple) * multiple


def texts_of_a_step(width: int) -> int:
    """Texts that a step learns from."""
    return rows_of_a_step(width, make_mesh()) * width


def distance(config: ModelConfig, ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The mean KL divergence of our probabilities from theirs, in nats, by text or token; of numbers squared error.

    Of embeddings it is the mean of `embedding.distance`.
    """
    x, y = (np.concatenate(z) if config.head == "token" else np.stack(z) for z in (ours, theirs))
    if config.head == "embedding":
        return float(embedding.distance(jnp.asarray(x), jnp.asarray(y)).mean())
    return float(classification.distance(jnp.asarray(x), jnp.asarray(y), 1.0, config.multi_label).mean())


def configuration(
    start: str,
    teacher: str,
    data: TaskSection,
    lessons: Lessons,
    *,
    width: int,
    steps: int,
    rate: float,
    seed: int,
    is_trial: bool,
) -> FinetuneConfig:
    """The run of a model that learns, on all devices.

    Args:
      start: the folder of the reduced model.
      teacher: the address of the full model.
      data: of the run.
      lessons: what it learns from.
      rate: the learning rate.
      is_trial: whether it is judged and saved at its end alone.
    """
    mesh, every = make_mesh(), steps if is_trial else -1
    if width > 1:  # whose padding is mixed in: it is used as it was trained
        data = dataclasses.replace(data, bucket_lengths=",".join(map(str, lessons.lengths)))
    return FinetuneConfig(
        seed=seed,
        rows=rows_of_a_step(width, mesh),
        init_from=start,
        teacher=teacher,
        model=FinetuneModelSettings(
            width=width,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            scan_layers=mesh.devices.flat[0].platform != "cpu",
        ),
        data=data,
        finetuning=FinetuneStage(
            steps=steps, learning_rate=rate, distillation_coefficient=1.0, temperature=_TEMPERATURE
        ),
        log_every=max(20, steps // 100),
        eval=EvalSection(every=every),
        checkpoint=CheckpointSection(every=every, keep=1),
    )


def learn(config: FinetuneConfig, workdir: epath.Path, lessons: Lessons) -> dict[str, Any]:
    """Runs `config` in `workdir`, or goes on where it was stopped; `loop.train` says what it returns and raises."""
    init = open_model(config.init_from)
    resolved = resolve(to_config_dict(config), init.config)
    assert isinstance(resolved, FinetuneConfig)

    def load(folder: epath.Path) -> _Data:
        files = tokenizer_files(lessons.tokenizer) | sentence_transformers.prompt_files(lessons.prompts)
        for name, text in files.items():
            hosts.write_text(folder / name, text)
        return _Data(resolved, lessons)

    return loop.run(resolved, str(workdir), init, load, time.monotonic())
