"""What is asked of `compress` is checked before work begins, and each bad input is one line."""

import os
from types import SimpleNamespace

import pytest

import mux_jax
from mux_jax.checkpoints.source import ModelSource
from mux_jax.compression import texts
from mux_jax.compression.request import Request, check_folder
from mux_jax.data.tasks import get_task
from mux_jax.errors import InputError
from mux_jax.paths import absolute
from tests.conftest import small_model, use_one_device
from tests.tasks import LABELS, sentences, write_lines, write_model


@pytest.fixture(scope="module", autouse=True)
def few_texts():
    """One device, and some hundred texts are enough."""
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        patch.setattr(texts, "_LEAST", 300)
        yield


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "give --speedup=S, how many times as fast it shall be, or its shape by --layers, --hidden and --width$"),
        (dict(speedup=2.0, hidden=16), "give --speedup=S, .*, or its shape .*, not both$"),
        (dict(speedup=1.0), "--speedup=1 must be above 1"),
        (dict(speedup=-2.0), "--speedup=-2 must be above 1"),
        (dict(speedup=float("inf")), "--speedup=inf must be above 1"),
        (dict(speedup=float("nan")), "--speedup=nan must be above 1"),
        (dict(speedup=2.0, by="magic"), "--by=magic does not exist; there are: auto, layers, hidden, both, width"),
        (dict(layers=-1), "--layers=-1 must be at least 1"),
        (dict(hidden=-8), "--hidden=-8 must be at least 1"),
        (dict(width=-2), "--width=-2 must be at least 1"),
        (dict(hidden=16, minutes=0.0), "--minutes=0 must be above 0"),
        (dict(hidden=16, minutes=-1.0), "--minutes=-1 must be above 0"),
        (dict(hidden=16, minutes=float("nan")), "--minutes=nan must be above 0"),
        (dict(hidden=16, learning_rate=-1e-3), "--learning_rate=-0.001 must be above 0"),
        (dict(hidden=16, defer="some"), "defer=some must be off, auto, a share from 0 to 1"),
        (dict(hidden=16, defer="off", standalone=True), "--standalone copies the model that is deferred to"),
        (dict(hidden=16, seed=-1), "--seed=-1 must be from 0 to 4294967295"),
        (dict(hidden=16, seed=2**32), "--seed=4294967296 must be from 0"),
        (dict(hidden=16, texts=("a",), answers="b"), "give one of --texts, --answers and --task with --data"),
        (dict(hidden=16, texts=("a",), task="sst2"), "give one of --texts, --answers and --task"),
        (dict(hidden=16, answers="a", data="b"), "give one of --texts, --answers and --task"),
        (dict(hidden=16, labelled="a"), "--labelled goes with --texts: a task has labels, and --answers stand for"),
        (dict(hidden=16, answers="b", labelled="a"), "--labelled goes with --texts"),
        (dict(speedup=2.0, share=1.5), "--share=1.5 goes with --width"),
        (dict(width=2, by="width"), "--by=width goes with --speedup; a shape says by itself what becomes smaller"),
        (dict(hidden=16, text_columns="a"), "--text_columns=a goes with --texts and --answers; a task has its own"),
        (dict(hidden=16, text_columns="a", task="sst2", data="b"), "--text_columns=a goes with --texts and --answers"),
        (dict(hidden=16, delimiter=";"), "--delimiter=; goes with --texts, --answers and --task; a run has its own"),
        (dict(hidden=16, delimiter=";", data="b"), "--delimiter=; goes with --texts, --answers and --task"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(InputError, match=message) as e:
        Request(model="model", **given)
    assert "\n" not in str(e.value)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models of random weights by name."""
    heads = {
        "plain": dict(width=1, head="sequence", labels=LABELS),
        "tagger": dict(width=1, head="token", labels=("long", "short")),
        "two": dict(head="sequence", labels=LABELS),
        "headless": dict(width=1),
        "projected": dict(width=1, architecture="electra", embedding_size=16, head="sequence", labels=LABELS),
        "modern": dict(width=1, architecture="modernbert", head="sequence", labels=LABELS),
        "shallow": dict(width=1, num_hidden_layers=1, head="sequence", labels=LABELS),
    }
    root, made = tmp_path_factory.mktemp("models"), {}

    def get(name):
        if name not in made:
            made[name] = str(write_model(root / name, **heads[name]))
        return made[name]

    return get


@pytest.mark.parametrize(
    "model, given, message",
    [
        ("two", dict(width=2), "two has width 2; it must be an ordinary model, of width 1"),
        pytest.param(
            "headless", dict(hidden=16), "headless has no head for labels of texts or words, and no embeddings; name"
        ),
        ("plain", dict(hidden=17), "--hidden=17 must be a multiple of 4"),
        ("plain", dict(layers=3), "--layers=3 must be from 1 to 2"),
        ("plain", dict(width=9), "--width=9 must be from 1 to 8, the heads"),
        ("plain", dict(width=2, share=3.0), "--share=3 must be from 1 to 2"),
        ("plain", dict(hidden=16, share=1.5), "--share=1.5 must be from 1 to 1"),
        pytest.param("projected", dict(width=2), "embeddings of 16 and states of 32", marks=pytest.mark.extra),
        pytest.param("modern", dict(hidden=16), "modernbert can be made cheaper by --layers", marks=pytest.mark.extra),
        (
            "plain",
            dict(width=1),
            "--layers=2 --hidden=32 --width=1 is --model as it is; give fewer layers or dimensions",
        ),
        ("plain", dict(layers=2), "--layers=2 --hidden=32 --width=1 is --model as it is"),
        ("plain", dict(hidden=32, width=1), "--layers=2 --hidden=32 --width=1 is --model as it is"),
        ("shallow", dict(speedup=2.0, by="layers", texts=("none",)), "--by=layers: --model has one layer; nothing sma"),
        ("shallow", dict(speedup=2.0, by="both", texts=("none",)), "--by=both: --model has one layer; nothing smaller"),
        ("plain", dict(hidden=16), "where are the texts to learn from? --texts=FILE, which needs no labels, or --task"),
        ("plain", dict(hidden=16, texts=("few.txt",)), "--texts: 9 records; . distinct texts, .* at least 300 are"),
        ("plain", dict(hidden=16, texts=("none/*.txt",)), "none/"),
        ("plain", dict(hidden=16, answers="few.tsv"), "few.tsv: 1 records; 1 distinct texts, .* at least 300 are"),
        ("tagger", dict(hidden=16, answers="few.tsv"), "--model tags words; answers are of models that classify"),
        ("plain", dict(hidden=16, task="sst3", data="."), "sst3"),
        (
            "plain",
            dict(hidden=16, task="docstrings", data="x"),
            "task=docstrings is made of the Python",
        ),
        ("no such/model", dict(hidden=16), "no model there"),
    ],
)
def test_what_cannot_be_compressed_is_refused_before_anything_is_written(
    model, given, message, models, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "few.txt", sentences(9))
    write_lines(tmp_path / "few.tsv", ["text\tprobability_fruit\tprobability_stone", "a\t0.25\t0.75"])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as e:
        mux_jax.compress(model if "/" in model else models(model), str(tmp_path / "out"), **given)
    assert "\n" not in str(e.value)
    assert sorted(tmp_path.iterdir()) == before


SMALL = dict(width=1, head="sequence", labels=LABELS)


@pytest.mark.parametrize(
    "fields, by, message",
    [
        (dict(architecture="electra", embedding_size=16), "width", "--by=width: .* embeddings of 16 and states of 32 "),
        (dict(architecture="electra", embedding_size=16), "hidden", ""),
        (dict(architecture="electra", embedding_size=16), "auto", ""),
        (dict(architecture="modernbert"), "hidden", "--by=hidden: modernbert can be made cheaper by --layers alone"),
        (dict(architecture="modernbert"), "both", "--by=both: modernbert can be made cheaper by --layers alone"),
        (dict(architecture="modernbert"), "width", "--by=width: modernbert can be made cheaper by --layers alone"),
        (dict(architecture="modernbert"), "layers", ""),
        (dict(architecture="modernbert"), "auto", ""),
        (
            dict(architecture="modernbert", num_hidden_layers=1),
            "auto",
            "--speedup: nothing is faster: --model has one layer; nothing smaller exists; modernbert can be made cheap",
        ),
        (dict(num_attention_heads=1), "hidden", "--by=hidden: --model has one head; nothing smaller exists"),
        (dict(num_attention_heads=1), "width", "--by=width: --model has one head; nothing smaller exists"),
        (dict(num_attention_heads=1), "auto", ""),
        (dict(num_hidden_layers=1), "auto", ""),
    ],
)
def test_means_that_a_model_does_not_have_are_refused_with_the_reason(fields, by, message):
    found = SimpleNamespace(config=small_model(**SMALL | fields), folder="model")
    request = Request(model="model", speedup=2.0, by=by)
    if not message:
        request.check(found)
        return
    with pytest.raises(InputError, match=message):
        request.check(found)


def test_a_folder_that_cannot_be_made_is_refused_and_not_made(tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("all of it")
    for name in ("thesis.txt", "thesis.txt/deep/er"):
        with pytest.raises(InputError, match=f"--workdir=.*{name}: .*thesis.txt is no folder; name another$"):
            check_folder(absolute(str(tmp_path / name)))
    for name in (".", "new", "deep/er"):
        check_folder(absolute(str(tmp_path / name)))
    check_folder(absolute("gs://bucket/new"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=f"--workdir={tmp_path}/deep/er: no permission to write to {tmp_path}; name"):
        check_folder(absolute(str(tmp_path / "deep" / "er")))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "kind, labels, data, metric",
    [
        ("token", ("O", "B-PER"), dict(task="ner"), "span_f1"),
        ("token", ("O", "B-PER"), dict(task="custom", kind="token", folder="data", metric="macro_f1"), "macro_f1"),
        ("sequence", LABELS, dict(task="cola"), "matthews"),
        ("sequence", LABELS, dict(task="custom", folder="data"), "accuracy"),
        ("sequence", LABELS, None, "accuracy"),
    ],
)
def test_a_run_is_judged_by_the_metric_of_its_own_task(kind, labels, data, metric, tmp_path):
    """Whatever the texts are; `None`: of no run."""
    config = small_model(width=1, head=kind, labels=labels)
    found = ModelSource(absolute("model"), config, None, {"data": data} if data else None, None)
    file = write_lines(tmp_path / "texts.txt", [f"text {i}" for i in range(400)])
    request = Request(model="model", hidden=16, texts=(str(file),))
    section = request.section(found)
    assert request.read(found, section).task.metric == metric
    assert get_task(section).metric == metric  # of the made model, whose run it is
    if kind == "sequence":
        rows = ["\t".join(["text", *labels]), *(f"text {i}\t1\t0" for i in range(400))]
        request = Request(model="model", hidden=16, answers=str(write_lines(tmp_path / "answers.tsv", rows)))
        assert request.read(found, request.section(found)).task.metric == metric


def test_one_file_of_texts_needs_no_tuple():
    one, several = (Request(model="model", hidden=16, texts=given) for given in ("a.txt", ("a.txt",)))
    assert one == several


def test_texts_of_a_task_of_a_run_may_be_in_another_folder():
    data = dict(task="custom", folder="runs/data", workers=4)
    config = small_model(width=1, head="sequence", labels=LABELS)
    found = ModelSource(absolute("model"), config, None, {"data": data}, None)
    own = Request(model="model", hidden=16).section(found)
    assert (own.folder, own.task, own.workers) == ("runs/data", "custom", 0)  # texts are in memory
    other = Request(model="model", hidden=16, data="elsewhere").section(found)
    assert other.folder == "elsewhere" and other.bucket_lengths == own.bucket_lengths
