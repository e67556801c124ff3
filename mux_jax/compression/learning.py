"""A reduced model learns the answers of the model that it comes from: a run like those of fine-tuning."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.special
from etils import epath
from jax.sharding import Mesh

from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.compression.pool import Pool, PoolBatches
from mux_jax.configuration import FinetuneConfig, resolve, to_config_dict
from mux_jax.data.tokenizer import ModelTokenizer, SpecialTokens, tokenizer_files
from mux_jax.data.tasks import get_task
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.objectives.objectives import Objective
from mux_jax.parallel import hosts
from mux_jax.training import loop


@dataclasses.dataclass(frozen=True)
class Lessons:
    """What a reduced model learns from and is chosen by: the data of its run (`loop.RunData`).

    Attributes:
      config: of the run.
      tokenizer: what encoded the texts.
      learn: the texts to learn from.
      choose: the texts that it is chosen by.
      lengths: of rows in training, ascending: few, as each is compiled.
    """

    config: FinetuneConfig
    tokenizer: ModelTokenizer
    learn: Pool
    choose: Pool
    lengths: tuple[int, ...]

    @property
    def special(self) -> SpecialTokens:
        """The special tokens' ids."""
        return self.tokenizer.special

    def model_config(self, init: ModelSource | None) -> ModelConfig:
        """The reduced model."""
        assert init is not None
        return self.config.task_model(init.config, init.config.labels)

    def batches(self, mine: np.ndarray) -> PoolBatches:
        """The rows `mine` of each batch, by step."""
        config = self.config
        return PoolBatches(
            self.learn,
            get_task(config.data).kind,
            rows=config.rows,
            width=config.model.width,
            lengths=self.lengths,
            seed=config.seed,
            mine=mine,
            pad_id=self.special.pad,
        )

    def evaluator(self, model: MuxModel, mesh: Mesh) -> Callable[[Objective, Any], dict[str, Any]]:
        """(objective, params) -> how far the answers on the texts to choose by are from those to be learned."""
        runner = BatchRunner(model, mesh, self.config.rows, self.lengths, self.special.pad)

        def evaluate(_: Objective, params: Any) -> dict[str, Any]:
            rng = np.random.default_rng(self.config.seed)
            logits = runner(split_layers(params), self.choose.encoded, rng)
            return {"teacher_loss": distance(model.config, logits, self.choose.answers)}

        return evaluate

    def finish(
        self, model: MuxModel, mesh: Mesh, params: Any, workdir: epath.Path
    ) -> tuple[dict[str, Any], Callable[[], None]]:
        """Nothing more; `loop.RunData` has it."""
        return {}, lambda: None


def distance(config: ModelConfig, ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The mean KL divergence, nats, of our probabilities from theirs, over texts or tokens; of numbers squared error."""
    x, y = (np.concatenate(z) if config.head == "token" else np.stack(z) for z in (ours, theirs))
    if len(config.labels) == 1:
        return float(((x - y) ** 2).mean())
    if config.multi_label:  # sigmoid(x) is the first of softmax([x, 0])
        x, y = (np.stack([z, np.zeros_like(z)], axis=-1) for z in (x, y))
    x, y = (scipy.special.log_softmax(z.astype(float), axis=-1) for z in (x, y))
    return float((np.exp(y) * (y - x)).sum(-1).mean())


def learn(config: FinetuneConfig, workdir: epath.Path, make: Callable[[FinetuneConfig], Lessons]) -> dict[str, Any]:
    """Runs `config` in `workdir`, or goes on where a run was stopped; `loop.train` says what it returns and raises."""
    init = open_model(config.init_from)
    resolved = resolve(to_config_dict(config), init.config)
    assert isinstance(resolved, FinetuneConfig)

    def load(folder: epath.Path) -> Lessons:
        lessons = make(resolved)
        for name, text in tokenizer_files(lessons.tokenizer).items():
            hosts.write_text(folder / name, text)
        return lessons

    return loop.run(resolved, str(workdir), init, load, time.monotonic())
