"""The runs of a study: which there are, in which order, and the command of each."""

import dataclasses
import shlex

from etils import epath
from ml_collections import ConfigDict

from mux_jax.configuration import flatten
from mux_jax.errors import InputError

BACKBONES = ("pretrained", "scratch")  # sections of the configuration
# Each task's folder under `config.data`, and its name in tables.
TASKS = {"sst2": ("sst2", "SST-2"), "pos": ("ud_ewt", "UD EWT"), "ner": ("wnut17", "WNUT-17"), "cola": ("cola", "CoLA")}
# These a multiplexed model is also scored on with an ensemble: each text in N slots drawn at random.
ENSEMBLED = ("sst2", "pos")


@dataclasses.dataclass(frozen=True)
class Run:
    """A command.

    Attributes:
      program: of `launch/`.
      flags: its arguments.
      workdir: its folder.
      result: the file that it leaves when it is done.
    """

    program: str
    flags: tuple[str, ...]
    workdir: epath.Path
    result: epath.Path

    @property
    def command(self) -> str:
        return shlex.join(["python", f"launch/{self.program}.py", *self.flags, f"--workdir={self.workdir}"])


@dataclasses.dataclass(frozen=True)
class Model:
    """A pre-trained model of the study, and the runs that make and score it.

    Attributes:
      backbone: `pretrained` or `scratch`.
      variant: a name in `config.variants`.
      width: N.
      base: the variant whose width 1 it is compared with.
      primed: its priming; None where there is none: width 1 has nothing to separate.
      pretrained: its pre-training; None where there is none.
      starts: runs that make what `tasks` score, where each has its own: width 1, and its compression.
      tasks: its fine-tuning, by task.
      ensembles: further evaluations, by task.
    """

    backbone: str
    variant: str
    width: int
    base: str
    primed: Run | None
    pretrained: Run | None
    starts: list[Run]
    tasks: dict[str, Run]
    ensembles: dict[str, Run]

    @property
    def runs(self) -> list[Run]:
        before = [run for run in (self.primed, self.pretrained) if run]
        return [*before, *self.starts, *self.tasks.values(), *self.ensembles.values()]


def models(config: ConfigDict, workdir: epath.Path) -> list[Model]:
    """The models of a study, in the order in which they are made; before each the width 1 it is compared with.

    Raises:
      InputError: an unknown model or task, widths that are no numbers, missing data.
    """
    widths = _names(config.widths)
    if not widths or not all(width.isdigit() and int(width) for width in widths):
        raise InputError(f"widths={config.widths!r} must be numbers from 1 on, separated by commas")
    found = []
    for name in _names(config.models):
        backbone, _, variant = name.partition(":")
        if backbone not in BACKBONES or variant not in config.variants:
            raise InputError(
                f"models={name!r} must be BACKBONE:VARIANT; there are the backbones {', '.join(BACKBONES)} and the "
                f"variants {', '.join(config.variants)}"
            )
        described, section = config.variants[variant], config[backbone]
        if described.base not in config.variants:
            raise InputError(f"variants.{variant}.base={described.base!r} is not among: {', '.join(config.variants)}")
        if described.compressed and "taught" not in section:
            raise InputError(f"models={name!r}: the backbone {backbone} has no `taught`")
        of_base = _names(config.variants[described.base].tasks)
        for task in (*_names(described.tasks), *of_base):
            if task not in TASKS:
                raise InputError(f"variants: the task {task!r} does not exist; there are: {', '.join(TASKS)}")
            if described.compressed and task not in of_base:
                raise InputError(
                    f"variants.{variant}.tasks={task!r} has no teacher: variants.{described.base} lacks it"
                )
        if not section.init and not described.pretrained:
            raise InputError(f"models={name!r}: without pre-training a model needs one to start from")
        if section.init and not config.init_from:
            raise InputError(f"models={name!r} needs an ordinary BERT: --config.init_from=FOLDER")
        for model in (described.base, 1), *((variant, int(width)) for width in widths if int(width) > 1):
            if (backbone, *model) not in [(m.backbone, m.variant, m.width) for m in found]:
                found.append(_model(config, backbone, *model, workdir))
    for folder in sorted({"corpus"} | {TASKS[task][0] for model in found for task in model.tasks}):
        if not (epath.Path(config.data) / folder).is_dir():
            raise InputError(f"data={config.data}: there is no folder {folder} in it")
    return found


def _model(config: ConfigDict, backbone: str, variant: str, width: int, workdir: epath.Path) -> Model:
    section, described = config[backbone], config.variants[variant]
    primed = pretrained = None
    start = config.init_from if section.init else ""
    arguments = f"width={width}" + (f",multiplexer={described.multiplexer}" if width > 1 else "")
    common = (
        f"--config=configs/{described.file}.py:{arguments}",
        "--config.data.source=files",
        f"--config.data.files={config.data}/corpus/*.txt",
        f"--config.seed={config.seed}",
        *_fields(section.pretrain),
    )

    def pretrain(name: str, *flags: str) -> Run:
        folder = workdir / backbone / f"{name}_n{width}"
        return Run("pretrain", (*common, f"--config.init_from={start}", *flags), folder, folder / "result.json")

    if described.primed and width > 1:
        name = f"{described.file}_{described.multiplexer}_primed"
        primed = pretrain(name, "--config.stages=priming", f"--config.priming.steps={section.priming_steps}")
        start = str(primed.workdir)
    if described.pretrained:
        steps = section.pretraining_steps + (0 if primed else section.priming_steps)
        pretrained = pretrain(variant, "--config.stages=pretraining", f"--config.pretraining.steps={steps}")
        start = str(pretrained.workdir)
    starts, tasks, ensembles = [], {}, {}
    compressed = described.compressed and width > 1
    teachers = _model(config, backbone, described.base, 1, workdir).tasks if compressed else {}
    for task in _names(described.tasks):
        folder = workdir / backbone / f"{variant}_n{width}_{task}"
        on = f"--config=configs/finetune.py:task={task},data={config.data}/{TASKS[task][0]}"
        flags = (
            on,
            f"--config.init_from={start}",
            f"--config.model.width={width}",
            f"--config.seed={config.seed}",
            *_fields(section.finetune),
            f"--config.finetuning.steps={section.tasks[task].steps}",
            f"--config.finetuning.learning_rate={section.tasks[task].learning_rate}",
        )
        tasks[task] = Run("finetune", flags, folder, folder / "result.json")
        if compressed:
            starts += [teachers[task], _compress(config, section.taught[task], teachers[task], width, folder)]
            result = folder / "evaluation_ensemble_1" / "result.json"
            tasks[task] = Run("evaluate", (on, f"--model={folder}"), result.parent, result)
        if width > 1 and task in ENSEMBLED:
            result = folder / f"evaluation_ensemble_{width}" / "result.json"
            ensembles[task] = Run(
                "evaluate", (on, f"--config.ensemble={width}", f"--model={folder}"), result.parent, result
            )
    return Model(backbone, variant, width, described.base, primed, pretrained, starts, tasks, ensembles)


def _compress(config: ConfigDict, taught: ConfigDict, teacher: Run, width: int, folder: epath.Path) -> Run:
    """What makes a multiplexed model of a fine-tuned one, which teaches it."""
    flags = (f"--model={teacher.workdir}", f"--width={width}", f"--seed={config.seed}", f"--steps={taught.steps}")
    return Run("compress", (*flags, f"--learning_rate={taught.learning_rate}"), folder, folder / "report.json")


def _fields(changes: ConfigDict) -> list[str]:
    """Changed fields of a configuration as flags."""
    return [f"--config.{name}={value}" for name, value in flatten(changes.to_dict()).items()]


def _names(text: str) -> list[str]:
    return [name.strip() for name in str(text).split(",") if name.strip()]
