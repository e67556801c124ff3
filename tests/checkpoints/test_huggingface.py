"""Hugging Face folders come in and go out whole, and what does not fit is named."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from mux_jax.checkpoints import huggingface
from mux_jax.errors import InputError
from tests.checkpoints.folders import assert_identical, change_config, change_tensors, load, ordinary, tensors_of
from tests.checkpoints.test_parity import FIXTURES
from tests.conftest import init, small_model

ELECTRA = dict(architecture="electra", embedding_size=16)


@pytest.mark.parametrize("source", FIXTURES, ids=lambda folder: folder.name)
def test_a_released_checkpoint_goes_out_as_it_came_in(source, tmp_path):
    huggingface.write(epath.Path(tmp_path), *load(epath.Path(source)))
    before, after = tensors_of(source), tensors_of(tmp_path)
    if "n1" in source.name:
        del before["bert.embeddings.position_ids"]  # which `transformers` takes for a left-over today
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype, name
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in (source, tmp_path))
    both = theirs.keys() & ours.keys()
    assert {name: ours[name] for name in both} == {name: theirs[name] for name in both}
    assert {"architectures", "model_type", "hidden_size"} <= both


@pytest.mark.parametrize(
    "changes",
    [
        dict(width=3, multiplexer="contextual", num_demux_layers=4, key_norm=2.5),
        dict(width=2, demultiplexer="prefix", prefix_token_id=40, cls_token_id=2, learn_keys=True),
        dict(width=3, multiplexer="low_rank_orthogonal", head="token", labels=("O", "B-PER", "I-PER")),
        dict(width=4, multiplexer="binary", binary_epsilon=0.25, head="sequence", labels=("score",)),
        dict(width=1),
        dict(width=1, head="none"),
        dict(width=1, head="sequence", labels=("no", "yes")),
        dict(width=2, head="none", hidden_dropout=0.2, dtype="bfloat16", scan_layers=False, layer_norm_eps=1e-6),
        ELECTRA | dict(width=2, head="rtd", generator="learned", generator_scale=0.5),
        ELECTRA | dict(width=5, head="sequence", labels=("a", "b"), multiplexer="orthogonal"),
        ELECTRA | dict(width=1, head="rtd"),
        dict(architecture="electra", width=1, head="mlm"),
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_a_model_comes_back_from_a_hugging_face_folder_as_it_was(changes, tmp_path):
    model, params = init(small_model(**changes))
    huggingface.write(epath.Path(tmp_path), model.config, params)
    config, back = load(epath.Path(tmp_path))
    assert config == model.config
    assert jax.tree.structure(params) == jax.tree.structure(back)
    assert_identical(params, back)


def test_an_electra_lm_without_a_decoder_has_its_embeddings(tmp_path):
    model, params = init(small_model(architecture="electra", width=1))
    huggingface.write(epath.Path(tmp_path), model.config, params)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    change_tensors(tmp_path, lambda found: found.pop("generator_lm_head.weight"))
    change_config(tmp_path, tie_word_embeddings=True, mux_jax=None)
    back = load(epath.Path(tmp_path))
    assert back[0].family.tie_word_embeddings and "kernel" not in back[1]["vocabulary_head"]
    change_config(tmp_path, embedding_size=16)
    with pytest.raises(
        InputError, match="config.json: the head of ElectraForMaskedLM goes from hidden_size=32 to embed"
    ):
        load(epath.Path(tmp_path))


def test_missing_and_left_over_tensors_are_listed(folder):
    def change(found):
        del found["bert.encoder.layer.1.output.dense.bias"]
        found["bert.encoder.layer.2.output.dense.bias"] = np.zeros(3, np.float32)

    change_tensors(folder, change)
    with pytest.raises(InputError, match=r"1 missing: \S*layer.1.output.dense.bias; 1 left over: \S*layer.2.output"):
        load(folder)


def test_a_shape_that_does_not_fit_is_shown_with_the_one_that_would(folder):
    change_config(folder, vocab_size=161)
    with pytest.raises(InputError, match=r"word_embeddings.weight has the shape \[160, 32\].*config.json \[161, 32\]"):
        load(folder)


def test_shared_tensors_must_agree(folder):
    change_tensors(folder, lambda found: found["retrieval_head.decoder.weight"].__iadd__(1))
    with pytest.raises(InputError, match="word_embeddings.weight and retrieval_head.decoder.weight differ"):
        load(folder)


def test_one_name_of_a_shared_tensor_is_enough(folder):
    expected = load(folder)[1]

    def change(found):
        for name in [name for name in found if name.startswith(("retrieval_head.demux", "demultiplexer.demux"))]:
            del found[name]
        del found["retrieval_head.decoder.weight"], found["bert.embeddings.position_ids"]

    change_tensors(folder, change)
    assert_identical(load(folder)[1], expected)


def test_the_tensors_of_a_head_are_left_out_of_a_model_without_one(tmp_path, capsys):
    for head, fields in {"mlm": {}, "token": {"labels": ("a", "b")}}.items():
        folder, config, params = ordinary(tmp_path / head, head=head, **fields)
        change_config(folder, architectures=["BertModel"])
        back = load(folder)
        assert back[0] == config.without_head
        for part in ("embeddings", "encoder"):
            assert_identical(back[1][part], params[part])
        assert "model.safetensors: not used: cl" in capsys.readouterr().out
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(InputError, match="16 left over: encoder.layer.1.attention.output.LayerNorm.bias, .*, ...$"):
        load(folder)


def test_a_head_that_is_not_in_the_file_is_named_with_the_class_that_has_none(tmp_path):
    folder = ordinary(tmp_path, head="none")[0]
    change_config(folder, architectures=["BertForMaskedLM"])
    message = (
        r'6 missing: cls.predictions.transform.dense.weight, .*; "architectures": \["BertModel"\] there reads it w'
    )
    with pytest.raises(InputError, match=message):
        load(folder)
    change_config(folder, architectures=["BertModel"])
    load(folder)
