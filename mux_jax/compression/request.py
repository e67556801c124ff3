"""What is asked of `compress`, checked before work begins."""

import dataclasses
import json
import math
from typing import Any

from etils import epath

from mux_jax.compression.shape import MEANS, Shape
from mux_jax.errors import InputError
from mux_jax.files import write_atomically
from mux_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to make of which model, from which texts. The defaults are those of `launch/compress.py`.

    Attributes:
      model: an ordinary model, of width 1, that is fine-tuned: a run, a Hugging Face folder, an id of the hub.
      texts: files or globs, in any format that `predict` reads. Without, the texts are those of `task`.
      answers: a file of texts with another model's probabilities, to learn from in place of `model`'s answers.
      labelled: a file with labels, to score on.
      task: of a run, its own; else a name in `TASKS`.
      data: the task's folder.
      text_columns: of the files, separated by a comma; empty: those of the model, or `text`.
      delimiter: of TSV and CSV, if it is not a tab or a comma.
      tokenizer: of a model that has none.
      speedup: how many times as fast it shall be; 0: as fast as the shape given is.
      by: the means to that: a name in `MEANS`, or `auto`, which tries all.
      layers, hidden, width, share: a shape, see `Shape`; 0: as in the model.
      minutes: how long it may take, without measuring and judging.
      learning_rate: the highest; 0: the best of a few, in short trials.
      seed: of everything that is drawn.
    """

    model: str
    texts: tuple[str, ...] = ()
    answers: str = ""
    labelled: str = ""
    task: str = ""
    data: str = ""
    text_columns: str = ""
    delimiter: str = ""
    tokenizer: str = ""
    speedup: float = 0.0
    by: str = "auto"
    layers: int = 0
    hidden: int = 0
    width: int = 0
    share: float = 1.0
    minutes: float = 60.0
    learning_rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        shaped = self.layers or self.hidden or self.width
        if bool(shaped) == bool(self.speedup):
            raise InputError(
                "give --speedup=S, how many times as fast it shall be, or its shape by --layers, --hidden and --width"
                + (", not both" if shaped else "")
            )
        if self.speedup and not 1 < self.speedup < math.inf:
            raise InputError(f"--speedup={self.speedup:g} must be above 1")
        if self.by not in ("auto", *MEANS):
            raise InputError(f"--by={self.by} does not exist; there are: auto, {', '.join(MEANS)}")
        for name in ("layers", "hidden", "width"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.minutes < math.inf:
            raise InputError(f"--minutes={self.minutes:g} must be above 0")
        if not 0 <= self.learning_rate < math.inf:
            raise InputError(f"--learning_rate={self.learning_rate:g} must be above 0")
        if self.seed < 0:
            raise InputError(f"--seed={self.seed} must be at least 0")
        if sum(map(bool, (self.texts, self.answers, self.task or self.data))) > 1:
            raise InputError("give one of --texts, --answers and --task with --data: where the texts are")
        if self.labelled and not self.texts:
            raise InputError("--labelled goes with --texts: a task has labels, and --answers stand for them")

    def shape(self, full: ModelConfig) -> Shape | None:
        """The shape that is asked for; None if it is to be found."""
        if self.speedup:
            return None
        return Shape(
            layers=self.layers or full.num_hidden_layers,
            hidden=self.hidden or full.hidden_size,
            width=self.width or 1,
            share=self.share,
        )

    def keep(self, folder: epath.Path) -> None:
        """Writes `request.json`; the same request goes on with what is in the folder.

        Raises:
          InputError: the folder holds something else.
        """
        file, now = folder / "request.json", json.loads(json.dumps(dataclasses.asdict(self)))
        if not file.exists():
            if folder.exists() and any(folder.iterdir()):
                raise InputError(f"--workdir={folder} is not empty, and was not written by compress.py; name another")
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(now, indent=2) + "\n")
            return
        before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        changed = [f"{k}: {before.get(k)} there, {now[k]} now" for k in now if before.get(k) != now[k]]
        if changed:
            raise InputError(
                f"--workdir={folder} holds a compression with other flags ({'; '.join(changed)}); name another folder, "
                "or give the same flags to continue"
            )
