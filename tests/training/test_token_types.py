"""Token types of pairs: at width 1 they reach the model from training to export; a multiplexed one sees type 0."""

import json

import jax
import numpy as np
import pytest

import mux_jax
from mux_jax import configuration
from mux_jax.checkpoints.convert import convert
from mux_jax.checkpoints.source import open_model
from mux_jax.data.encoding import Encoder
from mux_jax.objectives import objectives
from mux_jax.parallel.mesh import make_mesh, to_device
from mux_jax.training import loop
from mux_jax.training.distillation import Teacher
from mux_jax.training.finetune_data import load_finetune_data
from tests.conftest import init
from tests.tasks import LABELS, finetuning, sentences, write_model

PAIRS = [("time river", "stone"), ("winter", "morning light"), ("", "paper")]


def write_pairs(folder, count=24):
    folder.mkdir()
    for split in ("train", "dev"):
        rows = [f"{a}\t{b}\t{LABELS[len(a) % 2]}" for a, b in zip(sentences(count), sentences(count, seed=1))]
        (folder / f"{split}.tsv").write_text("first\tsecond\tlabel\n" + "\n".join(rows) + "\n")
    (folder / "more.tsv").write_text("first\tsecond\n" + "\n".join(f"{a}\t{a}" for a in sentences(9, seed=2)) + "\n")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of width 1 and one of width 2 with heads for pairs, those without, and a task on pairs."""
    root = tmp_path_factory.mktemp("types")
    for width in (1, 2):
        write_model(root / f"classifier{width}", width=width, head="sequence", labels=LABELS)
        write_model(root / f"model{width}", width=width)
    write_pairs(root / "data")
    return root


def pairs_config(folders, width, **fields):
    return finetuning(folders / "data", folders / f"model{width}", **{"data.text_columns": "first,second"} | fields)


def probabilities(found):
    return np.array([list(p["probabilities"].values()) for p in found])


def directly(folder, types=True):
    """What the model says of PAIRS, one by one, with token types or without."""
    model, params = mux_jax.load_pretrained(str(folder))
    encoded = Encoder(open_model(str(folder)).tokenizer(), 24)(PAIRS)
    rows = zip(encoded.ids, encoded.types)
    logits = [model.apply({"params": params}, x[None, None], None, t[None, None] if types else None) for x, t in rows]
    return np.asarray(jax.nn.softmax(np.concatenate(logits)[:, 0]))


def test_predictions_on_pairs_are_those_of_the_model_with_token_types(folders):
    found = probabilities(mux_jax.Predictor(str(folders / "classifier1"), rows=2).predict(PAIRS))
    np.testing.assert_allclose(found, directly(folders / "classifier1"), atol=1e-5)
    assert np.abs(found - directly(folders / "classifier1", types=False)).max() > 1e-4


def test_a_tokenizer_without_token_types_or_a_multiplexed_model_has_type_0(folders, tmp_path):
    folder = write_model(tmp_path / "m", width=1, head="sequence", labels=LABELS)
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    found = probabilities(mux_jax.Predictor(str(folder), rows=2).predict(PAIRS))
    np.testing.assert_allclose(found, directly(folders / "classifier1", types=False), atol=1e-5)

    double = mux_jax.Predictor(str(folders / "classifier2"), rows=2)
    encoded = double.encode(PAIRS)
    (_, arrays), *_ = double.runner.batches(encoded, np.random.default_rng(0))
    assert encoded.types is not None and len(arrays) == 1  # the tokens alone


def batch_of(folders, tmp_path, width, **fields):
    """The data of a run, and its first batch."""
    tmp_path.mkdir(exist_ok=True)
    config = pairs_config(folders, width, **fields)
    init_model = open_model(config.init_from)
    teacher = open_model(config.teacher) if config.teacher else None
    data = load_finetune_data(configuration.resolve(config, init_model.config), tmp_path, init_model, teacher)
    return data, data.batches(np.arange(4))[0]


def test_batches_of_pairs_have_token_types_where_a_model_takes_them(folders, tmp_path):
    data, batch = batch_of(folders, tmp_path / "1", 1)
    sep = data.special.sep
    for tokens, types in zip(batch["tokens"][:, 0], batch["token_types"][:, 0]):
        first, last = np.flatnonzero(tokens == sep)
        places = np.arange(len(tokens))
        np.testing.assert_array_equal(types, (places > first) & (places <= last))
    assert "token_types" not in batch_of(folders, tmp_path / "2", 2)[1]


@pytest.mark.parametrize("unlabelled", [False, True])
def test_a_teacher_sees_token_types_and_its_multiplexed_student_does_not(folders, tmp_path, unlabelled):
    teacher = folders / "classifier1"
    fields = {"teacher": str(teacher)} | ({"data.unlabelled": str(folders / "data" / "more.tsv")} if unlabelled else {})
    data, batch = batch_of(folders, tmp_path, 2, **fields)
    assert batch["token_types"].shape == batch["tokens"].shape == (4, 2, batch["tokens"].shape[-1])
    mesh = make_mesh(devices=jax.devices()[:1])
    on_device = to_device(batch, mesh, 4)
    said = Teacher(data.teacher, mesh, data.special.pad)(on_device)["teacher"]
    model, params = mux_jax.load_pretrained(str(teacher))
    tokens, types = (batch[name].reshape(8, 1, -1) for name in ("tokens", "token_types"))
    wanted = model.apply({"params": params}, tokens, tokens != data.special.pad, types)
    np.testing.assert_allclose(np.asarray(said).reshape(8, -1), wanted[:, 0], atol=1e-5)


@pytest.mark.extra  # for its time
def test_the_objective_reads_token_types_at_width_1_alone(folders, tmp_path):
    data, batch = batch_of(folders, tmp_path, 1)
    objective = objectives.make(data.config.finetuning, data.special)
    for width, differ in ((1, True), (2, False)):
        model, params = init(open_model(str(folders / f"classifier{width}")).config)
        given = {name: x.reshape(-1, width, *x.shape[2:]) for name, x in batch.items()}
        without = {name: x for name, x in given.items() if name != "token_types"}
        losses = [float(objective(model, params, batch, jax.random.key(0))[0]) for batch in (given, without)]
        assert (losses[0] != losses[1]) == differ


@pytest.mark.extra  # for its time
def test_a_run_on_pairs_keeps_its_token_types_and_so_do_its_copies(folders, tmp_path, one_device):
    loop.train(pairs_config(folders, 1), str(tmp_path / "run"))
    names = ["run", "exported", "native"]
    for source, target in zip(names, names[1:]):
        convert(str(tmp_path / source), str(tmp_path / target))
    wanted = directly(tmp_path / "run")
    for name in names:
        described = json.loads((tmp_path / name / "tokenizer_config.json").read_text())
        assert described["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]
        found = mux_jax.Predictor(str(tmp_path / name)).predict(PAIRS)
        np.testing.assert_allclose(probabilities(found), wanted, atol=1e-5)
    (tmp_path / "run" / "tokenizer_config.json").unlink()  # as a run of an older version
    found = mux_jax.Predictor(str(tmp_path / "run")).predict(PAIRS)
    np.testing.assert_allclose(probabilities(found), directly(tmp_path / "native", types=False), atol=1e-5)


@pytest.mark.extra
def test_an_exported_classifier_of_pairs_says_the_same_in_transformers(tmp_path):
    import torch
    import transformers

    write_model(tmp_path / "model", width=1, architecture="electra", head="sequence", labels=LABELS)
    convert(str(tmp_path / "model"), str(tmp_path / "native"))
    convert(str(tmp_path / "native"), str(tmp_path / "exported"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported")
    inputs = tokenizer(*zip(*PAIRS), padding=True, return_tensors="pt")
    assert inputs["token_type_ids"].any()
    with torch.no_grad():
        wanted = model(**inputs).logits.softmax(-1).numpy()
    found = mux_jax.Predictor(str(tmp_path / "native"), rows=2).predict(PAIRS)
    np.testing.assert_allclose(probabilities(found), wanted, atol=1e-5)
