"""What a new model takes from another one: its encoder, and a head only where it is the same."""

import jax
import numpy as np
import pytest
from etils import epath

import mux_jax
from mux_jax.checkpoints import huggingface
from mux_jax.checkpoints.source import open_model
from mux_jax.checkpoints.transfer import transfer_params
from mux_jax.errors import InputError
from mux_jax.parallel.mesh import make_mesh
from mux_jax.training.loop import train
from tests.checkpoints.folders import assert_identical, change_config, change_tensors
from tests.checkpoints.test_source import fixture
from tests.conftest import init, small_model, small_run
from tests.tasks import finetuning, write_sentences, write_words

TOKENS = dict(head="token", labels=("no", "yes"))
TEXTS = dict(head="sequence", labels=("no", "yes"))
ELECTRA = dict(architecture="electra")


def test_a_run_starts_from_an_ordinary_bert(plain_bert, text_file, tmp_path, capsys, one_device):
    folder, theirs = plain_bert
    config = small_run("bert", text_file, tmp_path)
    config.model.update(width=3, multiplexer="contextual")
    config.init_from = str(folder)
    config.stages = ("priming",)
    config.priming.update(steps=1, warmup_steps=1)  # a first step of rate 0
    train(config, str(tmp_path / "run"))
    model, params = mux_jax.load_pretrained(str(tmp_path / "run"))
    assert (model.config.width, model.config.num_hidden_layers, model.config.max_position_embeddings) == (3, 3, 40)
    for part in ("embeddings", "encoder"):
        assert_identical(params[part], theirs[part])
    fresh = params["demultiplexer"]["retrieval_output"]["kernel"]
    assert not np.array_equal(fresh, theirs["demultiplexer"]["retrieval_output"]["kernel"])
    printed = capsys.readouterr().out
    assert "model sizes as in" in printed and "num_hidden_layers=3" in printed
    assert f"21 arrays from {folder}: embeddings, encoder\n" in printed
    assert "new: demultiplexer, multiplexer, vocabulary_head\n" in printed
    assert f"{folder}/model.safetensors: not used: cls.predictions.bias, cls.predictions.decoder" in printed


def start(folder, theirs, ours):
    """(parameters of a model `theirs` in a folder, fresh ones of a model `ours`, those that it starts with)."""
    folder.mkdir()
    model, given = init(theirs, seed=7)
    huggingface.write(epath.Path(folder), model.config, given)
    model, fresh = init(ours)
    mesh = make_mesh(devices=jax.devices()[:1])
    fresh = jax.device_put(fresh, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    return given, fresh, transfer_params(open_model(str(folder), needs_head=False), model.config, fresh)


def test_an_electra_gives_its_projected_embeddings_and_not_its_head(tmp_path):
    changes = dict(architecture="electra", head="rtd", embedding_size=16)
    theirs, fresh, params = start(tmp_path / "m", small_model(width=1, **changes), small_model(width=2, **changes))
    for part in ("embeddings", "embeddings_project", "encoder"):
        assert_identical(params[part], theirs[part])
    assert_identical(params["detection_head"], fresh["detection_head"])


def test_an_electra_starts_to_name_tokens_with_the_embeddings(tmp_path, capsys):
    theirs, _, params = start(
        tmp_path / "m", small_model(width=1), small_model(width=2, architecture="electra", head="rtd")
    )
    assert_identical(params["vocabulary_head"]["kernel"], theirs["embeddings"]["word"])
    buffers = {
        params[part][name].unsafe_buffer_pointer()
        for part, name in (("vocabulary_head", "kernel"), ("embeddings", "word"))
    }
    assert len(buffers) == 2  # a step donates both
    assert "vocabulary_head/kernel starts as the embeddings" in capsys.readouterr().out


def test_width_1_goes_on_with_its_head(tmp_path):
    theirs, _, params = start(tmp_path / "m", small_model(width=1), small_model(width=1))
    assert_identical(params, theirs)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (TEXTS, TEXTS | dict(labels=("yes", "no"))),
        (TEXTS, TEXTS | dict(labels=("a", "b", "c"))),
        (TEXTS, TEXTS | dict(labels=("score",))),
        (TEXTS, TOKENS),
        (TOKENS, TEXTS),
        (ELECTRA | TEXTS, ELECTRA | TOKENS),
        (ELECTRA | TOKENS, ELECTRA | TEXTS),
        (dict(width=1) | TOKENS, dict(width=1) | TEXTS),
        (dict(width=1) | TOKENS, dict(width=2) | TOKENS),
        (ELECTRA | dict(head="rtd", generator="learned"), ELECTRA | TEXTS),
        (TEXTS, {}),
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_another_head_is_left_out_whatever_is_the_matter_with_it(theirs, ours, tmp_path, capsys):
    ours, theirs = small_model(**ours), small_model(**theirs)
    given, fresh, params = start(tmp_path / "m", theirs, ours)
    printed = capsys.readouterr().out
    head = {"sequence": "classifier", "token": "classifier", "rtd": "detection_head"}[theirs.head]
    tensor = {"classifier": "classifier", "detection_head": "discriminator_predictions.dense"}[head]
    assert "model.safetensors: not used: " in printed and f"{tensor}." in printed
    for part in params:
        multiplexing = part in ("multiplexer", "demultiplexer", "vocabulary_head")
        taken = part in given and (theirs.width == ours.width if multiplexing else part != "classifier")
        assert_identical(params[part], (given if taken else fresh)[part])
    damage = np.zeros(3, np.float32)
    change_tensors(tmp_path / "m", lambda found: found.update({n: damage for n in found if n.startswith(tensor)}))
    with pytest.raises(InputError, match=rf"{tensor}\S* has the shape \[3\], the model of config.json"):
        mux_jax.load_pretrained(str(tmp_path / "m"))
    again = transfer_params(open_model(str(tmp_path / "m"), needs_head=False), ours, fresh)
    assert_identical(again, params)


@pytest.mark.parametrize("changes", [TEXTS, TOKENS, ELECTRA | TEXTS, ELECTRA | TEXTS | dict(width=1)])
def test_the_same_head_with_the_same_labels_goes_on(changes, tmp_path):
    given, _, params = start(tmp_path / "m", small_model(**changes), small_model(**changes))
    assert_identical(params["classifier"], given["classifier"])


def test_fine_tuning_starts_from_a_model_with_a_head_that_is_not_known_here(plain_bert, tmp_path, capsys, one_device):
    (folder, theirs), name = plain_bert, "BertForQuestionAnswering"
    change_config(folder, architectures=[name])
    data = write_sentences(tmp_path / "data")
    config = finetuning(data, folder)
    config.finetuning.update(steps=1, warmup_steps=1)  # a first step of rate 0
    train(config, str(tmp_path / "run"))
    _, params = mux_jax.load_pretrained(str(tmp_path / "run"))
    for part in ("embeddings", "encoder"):
        assert_identical(params[part], theirs[part])
    printed = capsys.readouterr().out
    assert f"{name} " in printed and "; taken without its head\n" in printed and "not used: cls.pred" in printed
    assert "init_from: 4 new: classifier, pooler\n" in printed
    with pytest.raises(InputError, match=f"{name} .*; --config.init_from takes its encoder, without the head$"):
        mux_jax.load_pretrained(str(folder))


@pytest.mark.extra  # for its time
def test_fine_tuning_starts_from_a_run_fine_tuned_on_something_else(plain_bert, tmp_path, capsys, one_device):
    first = finetuning(write_sentences(tmp_path / "sentences"), plain_bert[0])
    second = finetuning(write_words(tmp_path / "words"), tmp_path / "first", "token")
    for config, name in ((first, "first"), (second, "second")):
        config.finetuning.update(steps=1, warmup_steps=1)
        train(config, str(tmp_path / name))
    params = [mux_jax.load_pretrained(str(tmp_path / name))[1] for name in ("first", "second")]
    assert_identical(*[tree["encoder"] for tree in params])
    assert "init_from: not taken: classifier, pooler\n" in capsys.readouterr().out


def test_another_multiplexers_keys_are_not_taken(tmp_path, capsys):
    theirs, fresh, params = start(tmp_path / "m", small_model(multiplexer="binary"), small_model())
    assert_identical(params["multiplexer"], fresh["multiplexer"])
    assert_identical(params["demultiplexer"], theirs["demultiplexer"])
    assert "1 new: multiplexer\n" in capsys.readouterr().out


def test_a_model_without_a_tokenizer_cannot_start_a_run_without_one(text_file, tmp_path, one_device):
    config = small_run("bert", text_file, tmp_path)
    config.init_from = str(fixture("bert_mlm_n1"))
    with pytest.raises(InputError, match="has no tokenizer; put its tokenizer.json or vocab.txt there, or name it"):
        train(config, str(tmp_path / "run"))
