"""A study: which runs there are, that they are made once, and what is said of them."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from etils import epath

from experiments import plan, results, runner, throughput
from mux_jax.errors import InputError, TrainingError
from tests.tasks import write_model

ROOT = Path(__file__).parents[2]


def study_config(tmp_path, **changes):
    spec = importlib.util.spec_from_file_location("study", ROOT / "experiments" / "config.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    for folder in ("corpus", *(folder for folder, _ in plan.TASKS.values())):
        (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
    config.data = str(tmp_path / "data")
    config.update(changes)
    return config


def test_width_1_is_not_primed_and_trains_as_long(tmp_path):
    config = study_config(tmp_path, models="scratch:bert,scratch:unprimed", widths="1,2")
    one, two, unprimed = plan.models(config, epath.Path(tmp_path / "out"))
    assert (one.primed, unprimed.primed, one.ensembles) == (None, None, {})
    both = config.scratch.priming_steps + config.scratch.pretraining_steps
    for model in (one, unprimed):
        assert f"--config.pretraining.steps={both}" in model.pretrained.flags
    assert f"--config.init_from={two.primed.workdir}" in two.pretrained.flags
    assert f"--config.init_from={two.pretrained.workdir}" in two.tasks["sst2"].flags
    assert [run.result for run in two.ensembles.values()] == [
        two.tasks[task].workdir / "evaluation_ensemble_2" / "result.json" for task in ("sst2", "pos")
    ]
    assert len({run.result for run in (*one.runs, *two.runs, *unprimed.runs)}) == 5 + 8 + 5


def test_instances_side_by_side_learn_from_width_1_and_are_compared_with_it(tmp_path):
    config = study_config(
        tmp_path, models="pretrained:finetuned,pretrained:side_by_side", widths="1,2", init_from="bert"
    )
    one, two, shared = plan.models(config, epath.Path(tmp_path / "out"))
    assert f"--config.finetuning.steps={config.pretrained.tasks.pos.steps}" in two.tasks["pos"].flags
    assert not one.starts and not two.starts and "--config.init_from=bert" in two.tasks["pos"].flags
    teacher, learner = shared.runs[2:4]
    assert teacher == one.tasks["pos"] and learner.program == "compress"
    assert {f"--model={teacher.workdir}", "--width=2", f"--steps={config.pretrained.taught.pos.steps}"} <= set(
        learner.flags
    )
    assert shared.tasks["pos"].program == "evaluate" and f"--model={learner.workdir}" in shared.tasks["pos"].flags
    assert throughput.baseline(shared, [one, two, shared]) is one


def test_what_another_command_has_made_is_refused(tmp_path):
    workdir, folder = epath.Path(tmp_path / "out"), programs(tmp_path, WRITE)
    log = workdir / "runs.jsonl"
    workdir.mkdir()

    def models(seed):
        return plan.models(study_config(tmp_path, models="scratch:unprimed", widths="2", seed=seed), workdir)

    runner.run_all(models(0), folder, log)
    runner.check(models(0), log)
    with pytest.raises(InputError, match="was made by another command than .*seed=1"):
        runner.run_all(models(1), folder, log)
    (workdir / "scratch").rmtree()
    runner.run_all(models(1), folder, log)
    with pytest.raises(InputError, match="was made by another command than .*seed=0"):
        runner.check(models(0), log)
    log.write_text('{"command": "python", "commit": "", "seconds": 1.0}\n')
    with pytest.raises(InputError, match="runs.jsonl:1: written by an earlier version"):
        runner.check(models(1), log)


def test_what_was_made_from_something_that_was_made_anew_is_refused(tmp_path):
    config = study_config(tmp_path, models="scratch:bert", widths="2", variants=dict(bert=dict(tasks="sst2")))
    workdir, folder = epath.Path(tmp_path / "out"), programs(tmp_path, WRITE)
    log = workdir / "runs.jsonl"
    workdir.mkdir()

    def models(steps):
        config.scratch.pretraining_steps = steps
        return plan.models(config, workdir)

    runner.run_all(models(5), folder, log)
    removed = []
    with pytest.raises(InputError, match="made by another command"):
        runner.check(models(6), log)
    for model in models(6):  # what the errors ask for, one after the other
        model.pretrained.workdir.rmtree()
    for _ in range(2):
        with pytest.raises(InputError, match="was made from .*bert_n. before that was made anew") as refused:
            runner.check(models(6), log)
        removed.append(epath.Path(str(refused.value).split()[0]))
        removed[-1].rmtree()
    assert {path.name for path in removed} == {"bert_n1_sst2", "bert_n2_sst2"}
    runner.run_all(models(6), folder, log)
    assert len(runner.read_log(log)) == 6 and len(log.read_text().splitlines()) == 2 * (6 + 5)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(models="scratch:magic"), "variants bert, contextual, electra, finetuned, side_by_side, unprimed"),
        (dict(models="cold:bert"), "backbones pretrained, scratch"),
        (dict(models="pretrained:bert"), "needs an ordinary BERT: --config.init_from=FOLDER"),
        (dict(models="scratch:finetuned"), "without pre-training"),
        (dict(models="scratch:bert", variants=dict(bert=dict(tasks="sst2,magic"))), "there are: sst2, pos, ner, cola"),
        (dict(models="scratch:bert", variants=dict(bert=dict(base="magic"))), "base='magic' is not among: bert"),
        (dict(models="scratch:side_by_side"), "the backbone scratch has no `taught`"),
        (
            dict(models="pretrained:side_by_side", variants=dict(finetuned=dict(tasks="pos"))),
            "'sst2' has no teacher: variants.finetuned",
        ),
        (dict(widths="1,x"), "widths='1,x' must be numbers"),
        (dict(models="scratch:bert", data="/nowhere"), "data=/nowhere: there is no folder"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        plan.models(study_config(tmp_path, **changes), epath.Path(tmp_path))


def programs(tmp_path, body):
    """A folder with a program in the place of each of launch/."""
    folder = tmp_path / "repository" / "launch"
    folder.mkdir(parents=True)
    text = f"import json, pathlib, sys\nworkdir = pathlib.Path(sys.argv[-1].partition('=')[2])\n{body}\n"
    for name in ("pretrain", "finetune", "evaluate"):
        (folder / f"{name}.py").write_text(text)
    return folder


def score(mean):
    return {"score": {"mean": mean, "std": 0.01, "min": mean, "max": mean + 0.01}, "stages": {}}


WRITE = f"""
ensemble = [a.rpartition("=")[2] for a in sys.argv if "ensemble" in a]
folder = workdir
folder.mkdir(parents=True, exist_ok=True)
found = {score(0.8)!r} if "_n1" in str(workdir) else {score(0.75)!r}
(folder / "result.json").write_text(json.dumps(found))
with open(workdir.parent.parent / "calls" if ensemble else workdir.parent / "calls", "a") as calls:
    calls.write(workdir.name + "\\n")
"""


def test_each_run_is_made_once_and_the_table_has_them(tmp_path):
    config = study_config(tmp_path, models="scratch:bert,scratch:unprimed", widths="1,2")
    workdir = epath.Path(tmp_path / "out")
    models = plan.models(config, workdir)
    folder = programs(tmp_path, WRITE)
    workdir.mkdir()
    for _ in range(2):
        runner.run_all(models, folder, workdir / "runs.jsonl")
    calls = (workdir / "scratch" / "calls").read_text().split()
    assert len(calls) == 18 and len(runner.read_log(workdir / "runs.jsonl")) == 18

    speed = [
        {"name": f"scratch/bert/{n}/{task}", "factor": factor}
        for n, task, factor in ((1, "sst2", 1.0), (1, "pos", 1.0), (2, "sst2", 2.0), (2, "pos", 1.5))
    ]
    (workdir / "throughput.json").write_text(json.dumps(speed))
    results.write(models, workdir)
    assert all((workdir / f"{task}.png").exists() for task in plan.TASKS)
    table = (workdir / "results.md").read_text()
    assert "| scratch | bert | 1 |  | 1.00 | 1.00 | 80.0 | 80.0 | 80.0 | 80.0 |" in table
    assert "| scratch | bert | 2 |  | 2.00 | 1.50 | 75.0 ± 1.0 (76.0), -5.0 |" in table
    assert "| scratch | bert | 2 | 2 | 1.00 | 0.75 | 75.0 ± 1.0 (76.0), -5.0 |" in table
    assert "| scratch | unprimed | 2 |  |  |  | 75.0 ± 1.0 (76.0), -5.0 |" in table
    assert len(re.findall(r"^python launch/finetune.py .*  # \d+\.\d min, ", table, re.M)) == 10


@pytest.mark.extra
def test_throughput_is_over_width_1_once_that_is_there(tmp_path):
    workdir = epath.Path(tmp_path / "out")
    one, two = plan.models(study_config(tmp_path, models="scratch:bert", widths="1,2"), workdir)

    def make(model, task, head):
        changes = dict(width=model.width, head=head, labels=("0", "1"), max_position_embeddings=64)
        write_model(model.tasks[task].workdir, **changes)
        model.tasks[task].result.write_text("{}")

    make(two, "sst2", "sequence")
    make(two, "pos", "token")
    path = workdir / "throughput.json"
    throughput.measure_models([one, two], path)
    assert not throughput.read(path)
    make(one, "sst2", "sequence")
    throughput.measure_models([one, two], path)
    found = throughput.read(path)
    assert set(found) == {"scratch/bert/1/sst2", "scratch/bert/2/sst2"}
    assert found["scratch/bert/1/sst2"]["factor"] == 1 and found["scratch/bert/2/sst2"]["factor"] > 0
    make(one, "pos", "token")
    throughput.measure_models([one, two], path)
    found = throughput.read(path)
    assert found["scratch/bert/2/pos"]["task"] == "token" and found["scratch/bert/2/pos"]["factor"] > 0


def test_a_run_that_fails_ends_the_study_and_is_named(tmp_path):
    models = plan.models(study_config(tmp_path, models="scratch:bert"), epath.Path(tmp_path / "out"))
    with pytest.raises(TrainingError, match="exit status 3 of python launch/pretrain.py .*scratch/bert_n1"):
        runner.run_all(models, programs(tmp_path, "sys.exit(3)"), epath.Path(tmp_path / "runs.jsonl"))


def test_sigterm_ends_the_study_after_the_run_that_it_meets(tmp_path):
    models = plan.models(study_config(tmp_path, models="scratch:bert"), epath.Path(tmp_path / "out"))
    body = (
        "import os, signal\nsignal.signal(signal.SIGTERM, lambda *_: None)\nos.kill(os.getppid(), signal.SIGTERM)"
        + WRITE
    )
    with pytest.raises(SystemExit) as stopped:
        runner.run_all(models, programs(tmp_path, body), epath.Path(tmp_path / "runs.jsonl"))
    assert stopped.value.code == 0
    assert len((tmp_path / "out" / "scratch" / "calls").read_text().split()) == 1


def test_a_run_that_was_stopped_stops_the_study(tmp_path):
    models = plan.models(study_config(tmp_path, models="scratch:bert"), epath.Path(tmp_path / "out"))
    with pytest.raises(SystemExit) as stopped:
        runner.run_all(models, programs(tmp_path, "sys.exit(0)"), epath.Path(tmp_path / "runs.jsonl"))
    assert stopped.value.code == 0
