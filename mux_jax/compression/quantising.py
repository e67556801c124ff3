"""Both models in int8, as programs of OpenVINO: what 8 bits bring to the full one alone, and to the one made."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.compression.deferring import draw
from mux_jax.compression.judging import agreement_interval, loss_interval
from mux_jax.compression.model_answers import ModelAnswers, answers
from mux_jax.compression.speed import take
from mux_jax.compression.texts import Texts
from mux_jax.data import metrics
from mux_jax.data.encoding import Encoded, Encoder
from mux_jax.data.tokenizer import ModelTokenizer
from mux_jax.errors import InputError
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.inference.export import most_texts, write_export
from mux_jax.inference.programs import needs
from mux_jax.inference.runtimes import open_program, require
from mux_jax.inference.timing import interleave
from mux_jax.models.model import MuxModel
from mux_jax.progress import progress

_TURNS = 3


def check_int8(folder: epath.Path) -> None:
    """Raises `InputError` where programs in int8 cannot be written or compared: without packages, not on CPU."""
    require("--int8", *needs("openvino", True))
    if jax.default_backend() != "cpu":
        raise InputError("--int8 is of OpenVINO on CPU, which cannot be compared with other devices; leave it out here")
    if "://" in str(folder):
        raise InputError(f"--int8 needs a --workdir on this machine, not {folder}")


class Quantised:
    """A model in int8 in a folder, written there if it is not; its answers."""

    def __init__(
        self, found: ModelSource, folder: epath.Path, texts: Texts, vocabulary: ModelTokenizer, rows: int, dtype: str
    ):
        """Args:
        texts: it is calibrated on those to calibrate.
        rows: of a batch.
        dtype: of products that are not in int8.
        """
        if not folder.exists():
            several = found.config.head == "embedding" and len(texts.task.text) > 1  # each a text of its own
            columns = ("text",) if several else texts.task.text
            task = TaskInfo(found.bucket_lengths(), columns, found.prompts())
            some = list(texts.calibrate[: most_texts(found.config)])
            write_export(found, folder, "openvino", True, some, vocabulary, task, card=False)  # the report says more
        made = open_model(str(folder), takes_export=True)
        assert made.export
        self.config, self.folder, lengths = found.config, folder, made.bucket_lengths()
        program = open_program(made.export, folder, dtype)
        self._encoder = Encoder(vocabulary, lengths[-1])
        self._runner = BatchRunner(MuxModel(self.config), None, rows, lengths, vocabulary.special.pad, program)

    def run(self, encoded: Encoded, seed: list[int]) -> list[np.ndarray]:
        """The logits of texts in the composition of a seed."""
        return self._runner(None, encoded, np.random.default_rng(seed), copies=False)

    def answers(self, texts: list[Any], seed: int) -> list[Any]:
        """Answers by name."""
        return answers(self.config, lambda texts: self.run(self._encoder(texts), [seed, 0]), texts)


def judge(full: ModelAnswers, models: dict[str, Quantised], texts: Texts, seed: int) -> dict[str, dict[str, Any]]:
    """Of each model agreement with the full one on the judged texts; score and what is lost on labelled ones."""
    task, labels = texts.task, full.config.labels
    gold, labelled = [e.label for e in texts.labelled], [e.text for e in texts.labelled]
    found = {}
    with progress("judging in int8") as report:
        wanted = full.answers(texts.judge, [seed])
        wanted_labelled = full.answers(labelled, [seed])
        for i, (name, model) in enumerate(models.items()):
            report(i / len(models), name)
            agreed = agreement_interval(task.kind, model.answers(texts.judge, seed), wanted, seed)
            score = lost = None
            if gold:
                ours = model.answers(labelled, seed)
                score = metrics.compute(task.kind, task.metric, gold, ours, labels)
                lost = loss_interval(task.kind, task.metric, gold, wanted_labelled, ours, labels, seed)
            found[name] = {"agreement": agreed, "score": score, "lost": lost, "path": str(model.folder)}
    return found


def measure(
    full: Callable[[Encoded], Any], models: dict[str, Quantised], encoded: Encoded, rate: float
) -> dict[str, float]:
    """How many times as fast as the full model each is, in turns.

    Args:
      full: runs the full model on texts.
      encoded: the texts; some are repeated if there are few.
      rate: about the full model's texts a second.
    """
    texts = take(encoded, draw(len(encoded.windows), rate))

    def runs(model: Quantised) -> Callable[[], None]:
        def run() -> None:
            model.run(texts, [0])

        return run

    with progress("measuring speed in int8") as report:
        turns = {"": lambda: full(texts) and None} | {name: runs(model) for name, model in models.items()}
        taken = interleave(turns, _TURNS, report)
    return {name: float(np.median(taken[""] / taken[name])) for name in models}
