"""Fine-tuning by the common loop: learns, resumes, keeps the best, and scores every example once."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import mux_jax
from mux_jax import configuration
from mux_jax.checkpoints.convert import convert
from mux_jax.checkpoints.source import open_model
from mux_jax.configuration import FinetuneConfig, read, to_json
from mux_jax.data.task_data import load_task
from mux_jax.errors import InputError, TrainingError
from mux_jax.inference import evaluation, predictor
from mux_jax.models.config import ModelConfig
from mux_jax.models.families import FAMILIES
from mux_jax.training import finetune_data, loop
from mux_jax.training.workdir import open_workdir
from tests.tasks import LABELS, write_model, write_sentences, write_words
from tests.tasks import finetuning as task_config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A finished run on sentences: (workdir, result, configuration)."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        one = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *backend: one)
        config = task_config(write_sentences(folder / "data"), model)
        return folder / "run", loop.train(config, str(folder / "run")), config


def test_a_run_leaves_scores_over_compositions(finished):
    workdir, result, _ = finished
    assert json.loads((workdir / "result.json").read_text()) == result
    assert (result["metric"], result["examples"], result["width"], result["ensemble"]) == ("accuracy", 13, 2, 1)
    score = result["score"]
    assert len(score["runs"]) == 3 and score["min"] <= score["mean"] <= score["max"] and score["std"] >= 0
    assert all(round(run * 13) == pytest.approx(run * 13) for run in score["runs"])  # each of 13 once
    for name in ("curves.png", "confusion.png", "metrics.jsonl", "tokenizer.json"):
        assert (workdir / name).exists()
    model, _ = mux_jax.load_pretrained(str(workdir))
    assert (model.config.head, model.config.labels) == ("sequence", LABELS)
    prediction = mux_jax.Predictor(str(workdir), rows=8).predict(["time river", "stone"])
    assert all(p["label"] in LABELS for p in prediction)


def test_the_best_checkpoint_is_kept_and_loaded(finished, one_device):
    workdir, _, _ = finished
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["heldout_score"] for row in rows if "heldout_score" in row}
    best = min(step for step, score in scores.items() if score == max(scores.values()))
    assert open_model(str(workdir)).step == best
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {best, 8}


def test_evaluation_of_the_run_gives_its_score_and_ensembles_are_reported(finished, one_device):
    workdir, result, config = finished
    config = task_config(config.data.folder, "")
    again = mux_jax.evaluate(config, str(workdir))
    assert again["score"] == result["score"]
    assert (workdir / "evaluation_ensemble_1" / "result.json").exists()
    config = task_config(config.data.folder, "", ensemble=2)
    both = mux_jax.evaluate(config, str(workdir), compare=[str(workdir)])
    assert (both["ensemble"], both["effective_width"]) == (2, 1.0)
    assert (workdir / "evaluation_ensemble_2" / "scores.png").exists()
    config = task_config(config.data.folder, "", ensemble=3)
    with pytest.raises(InputError, match="ensemble=3 must be from 1 to model.width=2"):
        mux_jax.evaluate(config, str(workdir))


def test_evaluation_takes_row_lengths_and_dtype_from_the_run_unless_given(finished, one_device, monkeypatch):
    workdir, _, config = finished
    used, runner = [], evaluation.BatchRunner

    def record(model, mesh, rows, lengths, *rest):
        used.append((model.config.dtype, lengths[-1]))
        return runner(model, mesh, rows, lengths, *rest)

    monkeypatch.setattr(evaluation, "BatchRunner", record)
    for given in (), ("data.sequence_length", "model.dtype"):
        wanted = task_config(config.data.folder, "")
        wanted.data.sequence_length, wanted.model.dtype = 9, "bfloat16"
        mux_jax.evaluate(wanted, str(workdir), given=given)
    assert used == [("float32", config.data.sequence_length), ("bfloat16", 9)]


def test_evaluation_and_prediction_pad_a_model_alike_that_does_not_say_how(tmp_path, one_device, monkeypatch, capsys):
    folder = write_model(tmp_path / "m", head="sequence", labels=LABELS)
    used, runner = [], evaluation.BatchRunner

    def record(model, mesh, rows, lengths, *rest):
        used.append(lengths)
        return runner(model, mesh, rows, lengths, *rest)

    for module in evaluation, predictor:
        monkeypatch.setattr(module, "BatchRunner", record)
    mux_jax.evaluate(task_config(write_sentences(tmp_path / "data"), ""), str(folder), str(tmp_path / "scores"))
    mux_jax.Predictor(str(folder))
    assert used == [(40,), (40,)]
    assert capsys.readouterr().out.count(f"{folder} does not say how long its rows were; taken to be 40") == 2
    config = task_config(tmp_path / "data", "")
    mux_jax.evaluate(config, str(folder), str(tmp_path / "by_hand"), given={"data.bucket_lengths"})
    assert "how long its rows were" not in capsys.readouterr().out


def test_a_converted_run_keeps_its_row_lengths_and_columns(finished, tmp_path):
    paths = [str(path) for path in (finished[0], tmp_path / "there", tmp_path / "back")]
    for source, destination in zip(paths, paths[1:]):
        convert(source, destination)
    for path in paths:
        found = open_model(path)
        assert found.bucket_lengths() == (8, 16, 24) and found.text_columns() == ("text",)
    described = json.loads((tmp_path / "there" / "tokenizer_config.json").read_text())
    assert described["model_input_names"] == ["input_ids", "attention_mask"]  # token types are 0 in training
    file = tmp_path / "there" / "config.json"
    file.write_text(file.read_text().replace('"bucket_lengths"', '"sizes"'))
    with pytest.raises(
        InputError, match="config.json: mux_jax.task=.* must have lists, `bucket_lengths` and `text_columns`"
    ):
        open_model(paths[1])


def test_results_that_do_not_fit_are_refused_and_those_of_a_run_stay(finished, tmp_path, one_device):
    workdir, result, config = finished
    shutil.copytree(workdir, tmp_path / "other")
    (tmp_path / "result.json").write_text('{"stages": {}}')
    with pytest.raises(InputError, match="result.json has no score on a task"):
        mux_jax.evaluate(task_config(config.data.folder, ""), str(workdir), compare=[str(tmp_path)])
    with pytest.raises(InputError, match="run holds a run, whose results stay; name a folder"):
        mux_jax.evaluate(task_config(config.data.folder, ""), str(tmp_path / "other"), str(workdir))
    assert json.loads((workdir / "result.json").read_text()) == result


def test_a_stopped_run_continues_to_the_same_parameters(finished, tmp_path, monkeypatch, one_device):
    workdir, result, config = finished
    check = loop.Trainer.check_finite

    def interrupt(self, stage, step, means):
        check(self, stage, step, means)
        if step == 6:
            self.checkpoints.wait()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "check_finite", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config.copy_and_resolve_references(), str(tmp_path / "run"))
    resumed = loop.train(config.copy_and_resolve_references(), str(tmp_path / "run"))
    assert (resumed["score"], resumed["stages"]) == (result["score"], result["stages"])
    a, b = (mux_jax.load_pretrained(str(path))[1] for path in (workdir, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.extra  # for its time
def test_tokens_early_stopping_and_words_cut_off(model, tmp_path, one_device, capsys):
    data = write_words(tmp_path / "data")
    with (data / "dev.conll").open("a") as f:
        f.write("\n" + "time\tshort\n" * 40)
    config = task_config(data, model, "token", patience=1)
    config.finetuning.learning_rate = 1e-12  # nothing improves
    result = loop.train(config, str(tmp_path / "run"))
    assert "dev: 1 texts are longer than 24 tokens; cut" in capsys.readouterr().out
    assert result["truncated"] == {"dev": 1}
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 4  # the second evaluation brought nothing better
    words = sum(
        len(e.label)
        for e in load_task(config.data, open_model(str(model)).tokenizer(), ("long", "short")).splits["dev"].examples
    )
    assert all(round(run * words) == pytest.approx(run * words) for run in result["score"]["runs"])
    assert max(result["score"]["runs"]) <= 1 - 18 / words  # 40 words, of which at most 22 fit


def test_a_run_does_not_go_on_with_other_examples(finished, tmp_path, one_device):
    workdir, _, config = finished
    shutil.copytree(workdir, tmp_path / "run")
    train = Path(config.data.folder) / "train.tsv"
    before = train.read_text()
    train.write_text(before + "time\tstone\n")
    with pytest.raises(InputError, match="the examples of custom changed since the run in .*run began"):
        loop.train(config.copy_and_resolve_references(), str(tmp_path / "run"))
    train.write_text(before)


def test_width_1_learns_and_has_no_spread(tmp_path, one_device):
    plain = write_model(tmp_path / "plain", width=1, head="none")
    config = task_config(write_words(tmp_path / "data", train=200), plain, "token")
    config.finetuning.update(steps=60, learning_rate=3e-3)
    config.eval.every = config.checkpoint.every = 30
    result = loop.train(config, str(tmp_path / "run"))
    assert result["score"]["mean"] > 0.95 and result["score"]["std"] == 0.0


@pytest.mark.extra  # for its time
def test_an_ordinary_model_may_be_multiplexed(tmp_path, one_device):
    plain = write_model(tmp_path / "plain", width=1, head="none")
    config = task_config(
        write_sentences(tmp_path / "data"), plain, **{"model.width": 3, "model.demultiplexer": "prefix"}
    )
    config.finetuning.update(steps=1, warmup_steps=1)  # a first step of rate 0
    config.model.multiplexer = "orthogonal"
    config.data.sequence_length = 20
    with pytest.raises(InputError, match="prefix_token_id=680 must be from 4"):
        loop.train(config.copy_and_resolve_references(), str(tmp_path / "run"))
    config.model.demultiplexer = "rsa"
    assert loop.train(config, str(tmp_path / "run"))["width"] == 3
    model, params = mux_jax.load_pretrained(str(tmp_path / "run"))
    assert (model.config.multiplexer, dict(model.config.options)["num_demux_layers"]) == ("orthogonal", 3)
    theirs = mux_jax.load_pretrained(str(plain))[1]
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], theirs["encoder"])


def test_regression(model, tmp_path, one_device):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "dev"):
        rows = [f"{'time ' * n}\t{n / 2}\n" for n in range(1, 9)]
        (data / f"{split}.tsv").write_text("text\tlabel\n" + "".join(rows))
    config = task_config(data, model, "regression")
    config.finetuning.update(steps=2, warmup_steps=1)
    result = loop.train(config, str(tmp_path / "run"))
    assert result["metric"] == "pearson_spearman" and set(result["splits"]["dev"]) >= {"pearson", "spearman"}
    assert set(mux_jax.Predictor(str(tmp_path / "run"), rows=8).predict(["time"])[0]) == {"score"}


def test_batches_are_a_function_of_the_step_and_hold_each_example_once_an_epoch(finished, model):
    _, _, config = finished
    config = configuration.resolve(config, open_model(str(model)).config)
    data = finetune_data.FinetuneData(config, load_task(config.data, open_model(str(model)).tokenizer()))
    every = np.arange(config.rows)
    batches = data.batches(every)
    assert batches.per_epoch == 5  # 40 examples in batches of 8
    again, hosts = data.batches(every), [data.batches(mine) for mine in np.split(every, 2)]
    for step in (0, 7):
        for name in ("tokens", "labels"):
            np.testing.assert_array_equal(batches[step][name], again[step][name])
            np.testing.assert_array_equal(batches[step][name], np.concatenate([h[step][name] for h in hosts]))
    sent = pickle.loads(pickle.dumps(batches))  # as Grain sends them to its workers
    np.testing.assert_array_equal(sent[3]["tokens"], batches[3]["tokens"])
    pad = data.special.pad
    for epoch in range(2):
        seen = [tuple(t[t != pad]) for i in range(5) for t in batches[5 * epoch + i]["tokens"].reshape(8, -1)]
        assert sorted(seen) == sorted(tuple(ids) for ids in data.examples.splits["train"].encoded.ids)
    assert any(
        (batches[i]["tokens"][0, 0] != batches[5 + i]["tokens"][0, 0]).any()
        for i in range(5)
        if batches[i]["tokens"].shape == batches[5 + i]["tokens"].shape
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.width": 3}, "model.width=3, but init_from=.* has width 2"),
        (
            {"model.multiplexer": "contextual"},
            "model.multiplexer=contextual, but init_from=.* has multiplexer gaussian",
        ),
        ({"init_from": ""}, "fine-tuning starts from a model"),
        ({"ensemble": 3}, "ensemble=3 must be from 1 to model.width=2"),
        ({"data.metric": "bleu"}, "data.metric='bleu': a task of kind sequence has accuracy, f1, macro_f1, matthews"),
        (
            {"data.metric": "f1", "data.kind": "regression"},
            "data.metric='f1': a task of kind regression has pearson_spearman",
        ),
        ({"data.bucket_lengths": "8,x"}, "must be numbers"),
        ({"data.label_column": "tag"}, "no column 'tag'; there are: 'text', 'label'"),
        ({"data.delimiter": ";;"}, "data.delimiter=';;' cannot be a delimiter"),
        ({"data.labels": "O,B-PER,O"}, "data.labels has 'O' twice"),
        ({"data.labels": "O"}, "data.labels='O' must be two names or more, separated by commas"),
        ({"data.labels": "O,,B"}, "data.labels='O,,B' must be two names or more"),
        (
            {"data.labels": "0,1", "data.kind": "regression"},
            "data.labels='0,1': a task of kind regression has no labels",
        ),
        ({"num_compositions": 0}, "num_compositions=0 must be at least 1"),
        ({"patience": -1}, "patience=-1 must be at least 0"),
        ({"data.folder": ""}, "task=custom needs data=FOLDER"),
    ],
)
def test_impossible_runs_are_refused(fields, message, finished, model, tmp_path, one_device):
    config = task_config(finished[2].data.folder, model, **fields)
    with pytest.raises(InputError, match=message):
        loop.train(config, str(tmp_path / "run"))


def test_a_label_unseen_in_training_is_named_with_its_line(model, tmp_path, one_device):
    data = write_sentences(tmp_path / "data")
    with (data / "dev.tsv").open("a") as f:
        f.write("time\tplant\n")
    with pytest.raises(
        InputError, match=r"dev.tsv:15: label 'plant' is not among those trained on: 'fruit', 'stone'; data.labels"
    ):
        loop.train(task_config(data, model), str(tmp_path / "run"))


def test_given_labels_fix_the_classes_and_admit_those_without_training_examples(model, tmp_path, one_device, capsys):
    data = write_sentences(tmp_path / "data")
    with (data / "dev.tsv").open("a") as f:
        f.write("time\tplant\n")
    config, tokenizer = task_config(data, model), open_model(str(model)).tokenizer()
    config.data.labels = "stone,plant,fruit"
    assert load_task(config.data, tokenizer).labels == ("stone", "plant", "fruit")
    out = capsys.readouterr().out
    assert "no example to train on has 'plant'" in out and "3 labels: 'stone', 'plant', 'fruit'" in out
    config.data.labels = "stone,fruit"
    with pytest.raises(InputError, match="dev.tsv:15: label 'plant' is not among data.labels: 'stone', 'fruit'$"):
        load_task(config.data, tokenizer)
    config = task_config(write_words(tmp_path / "words"), model, "token", **{"data.labels": "short,tiny,long"})
    result = loop.train(config, str(tmp_path / "run"))
    assert 0 <= result["score"]["mean"] <= 1
    assert open_model(str(tmp_path / "run")).config.labels == ("short", "tiny", "long")


def test_labels_are_named_and_those_that_are_alike_are_warned_of(model, tmp_path, capsys):
    tokenizer, data = open_model(str(model)).tokenizer(), tmp_path / "data"
    data.mkdir()

    def load(labels):
        text = "text\tlabel\n" + "".join(f"time\t{label}\n" for label in labels)
        for split in ("train", "dev"):
            (data / f"{split}.tsv").write_text(text, encoding="utf-8")
        load_task(task_config(data, model).data, tokenizer)
        return capsys.readouterr().out

    out = load(["pos", "neg", "pos ", "Neg", "other"])
    assert "5 labels: 'Neg', 'neg', 'other', 'pos', 'pos '" in out
    assert "final .0 alone are classes of their own: 'Neg', 'neg', 'pos', 'pos '" in out
    assert "classes of their own: '1', '1.0'" in load(["1", "1.0", "2"])
    out = load(range(100, 130))
    assert "30 labels: '100', '101'" in out and "'119' and 10 more\n" in out and "of their own" not in out
    assert "label -1 is a class; if it says" in load([0, 1, 2, -1])


def test_a_model_without_names_of_its_labels_is_told_where_to_put_them(model, tmp_path):
    config = task_config(write_sentences(tmp_path / "data"), model)
    with pytest.raises(
        InputError, match="on: 'LABEL_0', 'LABEL_1'; put their names in `id2label` of the model's config"
    ):
        load_task(config.data, open_model(str(model)).tokenizer(), ("LABEL_0", "LABEL_1"))


def test_spans_are_scored_only_of_tags_that_say_where_they_begin(model, tmp_path):
    config = task_config(write_words(tmp_path / "data"), model, "token", **{"data.metric": "span_f1"})
    with pytest.raises(
        InputError, match="span_f1 is of tags such as B-PER, .*, not 'long'; the labels are 'long', 'short'"
    ):
        load_task(config.data, open_model(str(model)).tokenizer())


@pytest.mark.parametrize("tags", ["B-X I-X L-X U-X O", "B I O", "B-X I-X E-X S-X O", "B M E S", "I-X E-X O"])
def test_spans_are_scored_of_every_scheme_of_tags(model, tmp_path, tags):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "dev"):
        (data / f"{split}.conll").write_text("".join(f"time\t{tag}\n" for tag in tags.split()))
    config = task_config(data, model, "token", **{"data.metric": "span_f1"})
    assert set(load_task(config.data, open_model(str(model)).tokenizer()).labels) == set(tags.split())


def test_evaluation_names_the_numbers_of_a_file_as_the_model_does(finished, tmp_path):
    config = task_config(tmp_path, "")
    tokenizer = open_model(str(finished[0])).tokenizer()
    (tmp_path / "dev.tsv").write_text("text\tlabel\ntime\t1\ntime\t0\n")
    with pytest.raises(InputError, match="dev.tsv:2: label '1' is not among those trained on: .*; data.labels names"):
        load_task(config.data, tokenizer, LABELS)
    config.data.labels = "stone,fruit"
    found = load_task(config.data, tokenizer, LABELS)
    assert found.labels == LABELS and [e.label for e in found.splits["dev"].examples] == ["fruit", "stone"]


def test_a_configuration_resolves_tenths_and_the_models_positions(model, capsys):
    config = configuration.finetuning("sst2", "x", 0)
    config.init_from = str(model)
    config = configuration.resolve(config, open_model(str(model)).config)
    assert (config.finetuning.warmup_steps, config.eval.every, config.model.width) == (2000, 2000, 2)
    assert config.data.sequence_length == 40 and "has no positions for 128" in capsys.readouterr().out
    assert config.bucket_lengths() == (16, 24, 32, 40)


def test_a_run_from_before_a_field_goes_on_unless_the_field_is_used(tmp_path):
    config = read(configuration.finetuning("sst2", "", 2))
    before = to_json(config)
    del before["data"]["unlabelled"]
    (tmp_path / "config.json").write_text(json.dumps(before))
    open_workdir(str(tmp_path), config)
    config.data.unlabelled = "texts.txt"
    with pytest.raises(InputError, match="data.unlabelled: None there, texts.txt now"):
        open_workdir(str(tmp_path), config)


def test_pretraining_goes_on_with_the_layers_of_the_demultiplexer(model):
    config = configuration.pretraining("bert", "tiny", 2)
    config.data.sequence_length = 32
    init = dataclasses.replace(open_model(str(model)).config, options=(("num_demux_layers", 4),))
    assert configuration.resolve(config, init).model.to_flat()["num_demux_layers"] == 4


def test_fine_tuning_may_add_a_layer_to_the_demultiplexer(model, tmp_path, one_device):
    config = task_config(write_sentences(tmp_path / "data"), model, **{"model.num_demux_layers": 3})
    config.finetuning.update(steps=1, warmup_steps=1)  # a first step of rate 0
    loop.train(config, str(tmp_path / "run"))
    (_, theirs), (found, ours) = (mux_jax.load_pretrained(str(path)) for path in (model, tmp_path / "run"))
    assert dict(found.config.options)["num_demux_layers"] == 3
    layers = ours["demultiplexer"]
    assert layers.pop("layers_2") and layers.pop("norms_2")
    jax.tree.map(np.testing.assert_array_equal, layers, theirs["demultiplexer"])


def test_a_damaged_best_checkpoint_gives_way_to_the_newest(finished, tmp_path, capsys, one_device):
    shutil.copytree(finished[0], tmp_path / "run")
    best = open_model(str(tmp_path / "run")).step
    (tmp_path / "run" / "checkpoints" / str(best) / "digests.json").write_text('{"params/none": "0"}')
    if best == 8:
        with pytest.raises(TrainingError, match="all checkpoints .* are damaged"):
            open_model(str(tmp_path / "run"))
    else:
        assert open_model(str(tmp_path / "run")).step == 8
        assert "the best, is damaged (params/none is missing)" in capsys.readouterr().out
        (tmp_path / "run" / "result.json").unlink()
        loop.train(finished[2], str(tmp_path / "run"))  # at its end: only the scores are missing
        assert "the best, is damaged (params/none is missing)" in capsys.readouterr().out


def test_a_run_that_began_without_a_pooler_goes_on_without_one(tmp_path, monkeypatch, one_device):
    """As a BERT of width 1 did before models here had poolers."""
    plain = write_model(tmp_path / "m", width=1, head="none")
    config = task_config(write_sentences(tmp_path / "data"), plain)
    make = FinetuneConfig.task_model

    def before(*args):
        return ModelConfig.from_flat(make(*args).to_flat() | dict(pooler=False))

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneConfig, "task_model", before)
        loop.train(config, str(tmp_path / "run"))
    for name in sorted((tmp_path / "run" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(name)
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    del described["threshold"]  # a field that is newer, too
    (tmp_path / "run" / "config.json").write_text(json.dumps(described))
    loop.train(config, str(tmp_path / "run"))
    assert "pooler" not in mux_jax.load_pretrained(str(tmp_path / "run"))[1]


def test_a_configuration_of_pretraining_names_no_option_of_the_family():
    """Runs that began before there were such options go on."""
    for architecture, family in FAMILIES.items():
        config = configuration.pretraining(architecture, "base", 2 if not family.not_multiplexed else 1)
        assert not family.options().keys() & config.model.keys()
        assert read(config).model_config(vocab_size=1000).max_length == 512
