"""What is asked of `compress`, checked before work begins."""

import dataclasses
import json
import math
import os
from typing import Any

from etils import epath

from mux_jax.checkpoints.source import ModelSource
from mux_jax.compression.deferring import AUTO
from mux_jax.compression.shape import MEANS, Shape, check_means, reduced
from mux_jax.compression.texts import Texts, read_answers, read_texts, task_texts, with_prompts
from mux_jax.data.formats import parse_delimiter
from mux_jax.data.sections import TaskSection
from mux_jax.data.tasks import check_place, get_task
from mux_jax.errors import InputError
from mux_jax.files import write_atomically
from mux_jax.inference.deferral import Aim, check_kind, parse_aim
from mux_jax.models.config import DTYPES, ModelConfig
from mux_jax.progress import say

LOCK = ".compress.lock"  # in the folder that is made


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to make of which model, from which texts. The defaults are those of `launch/compress.py`.

    Attributes:
      model: an ordinary model, of width 1, that is fine-tuned or gives embeddings: a run, a Hugging Face folder, an id
        of the hub.
      texts: files or globs, or one, in any format that `predict` reads. Without, the texts are those of `task`.
      answers: a file of texts with another model's probabilities, to learn from in place of `model`'s answers.
      labelled: a file with labels, to score on; of an embedding model of pairs as STS-B has them.
      task: of a run, its own; else a name in `TASKS`.
      data: the task's folder.
      text_columns: of the files, separated by a comma; empty: those of the model, or `text`.
      delimiter: of TSV and CSV, if it is not a tab or a comma.
      tokenizer: of a model that has none.
      speedup: how many times as fast it shall be; 0: as fast as the shape given is.
      by: the means to that: a name in `MEANS`, or `auto`, which tries all.
      layers, hidden, width, share: a shape, see `Shape`; 0: as in the model.
      minutes: how long it may take, without measuring and judging.
      steps: of learning; 0: as many as the time allows.
      learning_rate: the highest; 0: the best of a few, in short trials.
      defer: what the made model leaves to the full one when it is asked to, by `defer="auto"`: a share of the texts,
        or agreement=X; auto: agreement=0.99; off: nothing is fitted.
      standalone: whether the folder gets a copy of the full model, to be asked in its place.
      int8: whether both models are also written as programs of OpenVINO in int8, judged and timed.
      dtype: of matrix products when models answer and are timed, float32 or bfloat16; auto: as `Predictor` takes it.
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
    minutes: float = 50.0
    steps: int = 0
    learning_rate: float = 0.0
    defer: str = "auto"
    standalone: bool = False
    int8: bool = False
    dtype: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            object.__setattr__(self, "texts", (self.texts,))
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
        if shaped and self.by != "auto":
            raise InputError(f"--by={self.by} goes with --speedup; a shape says by itself what becomes smaller")
        for name in ("layers", "hidden", "width", "steps"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name}={getattr(self, name)} must be at least 1")
        if self.speedup and self.share != 1:
            raise InputError(f"--share={self.share:g} goes with --width; --speedup finds a shape by itself")
        if not 0 < self.minutes < math.inf:
            raise InputError(f"--minutes={self.minutes:g} must be above 0")
        if not 0 <= self.learning_rate < math.inf:
            raise InputError(f"--learning_rate={self.learning_rate:g} must be above 0")
        if self.aim.kind == "off" and self.standalone:
            raise InputError("--standalone copies the model that is deferred to; leave out --defer=off")
        if self.dtype not in DTYPES:
            raise InputError(f"--dtype={self.dtype} does not exist; there are: {', '.join(DTYPES)}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed={self.seed} must be from 0 to {2**32 - 1}")
        if sum(map(bool, (self.texts, self.answers, self.task or self.data))) > 1:
            raise InputError("give one of --texts, --answers and --task with --data: where the texts are")
        if self.labelled and not self.texts:
            raise InputError("--labelled goes with --texts: a task has labels, and --answers stand for them")
        if self.text_columns and not (self.texts or self.answers):
            raise InputError(f"--text_columns={self.text_columns} goes with --texts and --answers; a task has its own")
        if self.delimiter and not (self.texts or self.answers or self.task):
            raise InputError(f"--delimiter={self.delimiter} goes with --texts, --answers and --task; a run has its own")

    @property
    def aim(self) -> Aim:
        """What `defer` says."""
        aim = parse_aim(self.defer)
        return AUTO if aim.kind == "auto" else aim

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

    def check(self, found: ModelSource) -> None:
        """Raises `InputError` if a model cannot be made cheaper, or not in the shape that is asked for."""
        config = found.config
        if config.width > 1:
            raise InputError(
                f"--model={found.folder} has width {config.width}; it must be an ordinary model, of width 1"
            )
        if config.head not in ("sequence", "token", "embedding"):
            raise InputError(
                f"--model={found.folder} has no head for labels of texts or words, and no embeddings; name a model "
                "that is fine-tuned"
            )
        if config.head == "embedding":
            self._check_embedding(found)
        shape = self.shape(config)
        if not shape:
            check_means(config, self.by)
            return
        reduced(config, shape)
        if shape == Shape(layers=config.num_hidden_layers, hidden=config.hidden_size):
            raise InputError(
                f"--layers={shape.layers} --hidden={shape.hidden} --width=1 is --model as it is; give fewer layers or "
                "dimensions, or more texts a row"
            )

    def _check_embedding(self, found: ModelSource) -> None:
        """Raises `InputError` if something is asked for that embeddings do not have."""
        where = f"--model={found.folder} gives embeddings: "
        if not self.texts:
            raise InputError(f"{where}name the texts to learn from by --texts=FILE; they need no labels")
        if self.defer not in ("auto", "off") or self.standalone:
            check_kind(found.config, where)

    def section(self, found: ModelSource) -> TaskSection:
        """Where the texts are, their columns, and the lengths of rows, as the made model's run says it.

        Raises:
          InputError: no texts, and a model that does not know its task's.
        """
        lengths, config = found.bucket_lengths(), found.config
        rows: dict[str, Any] = dict(
            sequence_length=lengths[-1], bucket_lengths=",".join(map(str, lengths)), workers=0
        )  # the texts are in memory
        if files := (self.answers or ",".join(self.texts)):
            columns = self.text_columns or ",".join(found.text_columns())
            own_task = _own_task(found)
            metric = get_task(own_task).metric if own_task else ""
            return TaskSection(
                task="custom", kind=config.task_kind, folder=files, text_columns=columns, metric=metric, **rows
            )
        if self.task:
            section = TaskSection(task=self.task, folder=self.data, delimiter=self.delimiter, **rows)
            check_place(section)
            return section
        own = _own_task(found)
        if not own:
            raise InputError(
                "where are the texts to learn from? --texts=FILE, which needs no labels, or --task=NAME --data=FOLDER"
            )
        say(f"the texts of {own.task}, which {found.folder} was fine-tuned on")
        return dataclasses.replace(own, **rows | ({"folder": self.data} if self.data else {}))

    def read(self, found: ModelSource, section: TaskSection) -> Texts:
        """Reads the texts, which are where `section` says; see `texts`. A run is judged as in its own task."""
        if not (self.texts or self.answers):
            return task_texts(section, found.config)
        delimiter = parse_delimiter(self.delimiter, "--delimiter")
        wanted = tuple(name for name in self.text_columns.split(",") if name)
        if self.answers:
            return read_answers(self.answers, found.config, found.text_columns(), wanted, delimiter, section.metric)
        texts = read_texts(
            self.texts, found.config, found.text_columns(), wanted, delimiter, self.labelled, section.metric
        )
        return with_prompts(texts, found.prompts()) if found.config.head == "embedding" else texts

    def keep(self, folder: epath.Path) -> None:
        """Writes `request.json` to a folder that this process holds; the same request goes on with what is there.

        Until there is a plan, another request may take its place: nothing but speed was measured.

        Raises:
          InputError: the folder holds something else.
        """
        file, now = folder / "request.json", json.loads(json.dumps(dataclasses.asdict(self)))
        if not file.exists() and any(not path.name.startswith(LOCK) for path in folder.iterdir()):
            raise InputError(f"--workdir={folder} is not empty, and was not written by compress.py; name another")
        if not file.exists() or not (folder / "plan.json").exists():
            write_atomically(file, json.dumps(now, indent=2) + "\n")
            return
        before = dataclasses.asdict(Request(**json.loads(file.read_text(encoding="utf-8"))))
        before["texts"] = list(before["texts"])
        later = set() if (folder / "report.json").exists() else {"int8"}  # what the work so far does not depend on
        changed = [f"{k}: {before[k]} there, {now[k]} now" for k in now if before[k] != now[k] and k not in later]
        if changed:
            raise InputError(
                f"--workdir={folder} holds a compression with other flags ({'; '.join(changed)}); name another folder, "
                "or give the same flags to continue"
            )

    def check_same(self, folder: epath.Path, digest: str) -> None:
        """Raises `InputError` if the model has changed since a folder was begun; else its digest is kept there."""
        file = folder / "model.json"
        if not file.exists() or not (folder / "plan.json").exists():
            write_atomically(file, json.dumps({"digest": digest}) + "\n")
        elif json.loads(file.read_text(encoding="utf-8"))["digest"] != digest:
            raise InputError(
                f"--model={self.model} has changed since --workdir={folder} was begun; name another folder"
            )


def check_folder(folder: epath.Path) -> None:
    """Raises `InputError` if a folder to make, or one above it, is a file or may not be written to; makes nothing."""
    path = str(folder)
    if "://" in path:
        return  # an object store has no folders
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        raise InputError(f"--workdir={folder}: {path} is no folder; name another")
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"--workdir={folder}: no permission to write to {path}; name another folder")


def _own_task(found: ModelSource) -> TaskSection | None:
    """The task that a run was fine-tuned on; None of other models."""
    own = (found.run or {}).get("data", {})
    if "task" not in own:
        return None
    return TaskSection(
        **{field.name: own[field.name] for field in dataclasses.fields(TaskSection) if field.name in own}
    )
