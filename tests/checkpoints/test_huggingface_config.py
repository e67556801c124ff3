"""What config.json says is taken as transformers takes it; what is not known here is named."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from mux_jax.checkpoints.huggingface import read_params
from mux_jax.checkpoints.huggingface_config import read_config
from mux_jax.errors import InputError
from mux_jax.models.families import FAMILIES
from tests.checkpoints.folders import assert_identical, change_config, change_tensors, load, ordinary


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(muxing_variant="gaussian_attention"), "muxing_variant='gaussian_attention' is not known.*random_ortho"),
        (dict(demuxing_variant="mlp"), "demuxing_variant='mlp' is not known here; there are: index_pos, index"),
        (dict(muxing_variant=None), "muxing_variant=None is not known"),
        (
            dict(architectures=["GPT2LMHeadModel"], model_type="gpt2"),
            "architectures='GPT2LMHeadModel' is not known here; there are: Bert, Electra",
        ),
        (dict(architectures=None), "architectures is missing; put the model's class there: Bert, .*Muxed"),
        (dict(architectures="BertModel"), "architectures is 'BertModel'; it must be of type list"),
        (dict(hidden_size="32"), "hidden_size is '32'; it must be of type int"),
        (dict(hidden_size=None), r"has the shape \[160, 32\], the model of config.json \[160, 768\]"),
        (dict(hidden_act="relu"), "hidden_act='relu' is not supported, only 'gelu'"),
        (dict(position_embedding_type="relative_key"), "only 'absolute'"),
        (dict(is_decoder=True), "is_decoder=True is not supported, only False"),
        (dict(num_attention_heads=5), "config.json: model.hidden_size=32 must be a multiple"),
        (dict(mux_jax={"format": 1, "depth": 3}), "model has no field depth; .* have the options: tie_word"),
        (dict(mux_jax={"dtype": "auto"}), "another version of mux_jax .no format number; this version reads 1"),
        (dict(mux_jax={"format": 99}), "another version of mux_jax .format 99; this version reads 1"),
        (
            dict(architectures=["MuxedBertForTokenClassification"], id2label={"0": "O", "x": "B"}),
            "config.json: id2label has the keys 0, x; they must be 0, 1, 2",
        ),
        (dict(num_instances=1, architectures=["BertForSequenceClassification"]), "missing: pooler.dense.weight"),
    ],
)
def test_configurations_that_are_not_known_are_refused(folder, fields, message):
    change_config(folder, **fields)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_a_broken_configuration_is_named(folder):
    (folder / "config.json").write_text('["not", "an", "object"]')
    with pytest.raises(InputError, match="config.json: not a model's configuration"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json: not a model's configuration"):
        load(folder)


def test_a_field_that_is_missing_or_null_is_as_in_transformers_and_printed(tmp_path, capsys):
    folder, config, params = ordinary(tmp_path, hidden_dropout=0.1, attention_dropout=0.1)
    described = json.loads((folder / "config.json").read_text())
    missing = ("layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_act", "type_vocab_size")
    described = {name: value for name, value in described.items() if name not in missing} | {"layer_norm_eps": None}
    (folder / "config.json").write_text(json.dumps(described))
    back = load(folder)
    assert back[0] == config
    assert_identical(back[1], params)
    assert (
        "config.json: not in it, and so as in transformers: hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, "
        "layer_norm_eps=1e-12\n" in capsys.readouterr().out
    )


def test_an_empty_configuration_is_a_bert_or_an_electra_of_the_default_size(tmp_path):
    for name, sizes in {"BertModel": (768, 768, 3072, 12), "ElectraModel": (256, 128, 1024, 4)}.items():
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [name]}))
        found = read_config(epath.Path(tmp_path))
        assert sizes == (
            found.hidden_size, found.embedding_size, found.intermediate_size, found.num_attention_heads
        )  # fmt: skip
        assert (found.num_hidden_layers, found.vocab_size, found.max_position_embeddings) == (12, 30522, 512)


@pytest.mark.extra
def test_the_defaults_are_those_of_transformers():
    import transformers

    for name, family in FAMILIES.items():
        theirs = family.as_today(transformers.AutoConfig.for_model(name).to_dict())
        ours = dict(family.fields.values()) | family.only
        assert {field: theirs.get(field, value) for field, value in ours.items()} == ours


@pytest.mark.parametrize(
    "fields", [dict(num_labels=3, id2label=None), dict(id2label={"0": "LABEL_0", "2": "LABEL_2", "1": "LABEL_1"})]
)
def test_labels_without_names_are_counted(fields, tmp_path):
    folder, config, _ = ordinary(tmp_path, head="token", labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    change_config(folder, **fields)
    assert load(folder)[0] == config


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (dict(head="none"), "BertModel"),
        (dict(head="mlm"), "BertForMaskedLM"),
        (dict(head="token", labels=("a", "b", "c")), "BertForTokenClassification"),
        (dict(architecture="electra", embedding_size=16, head="none"), "ElectraModel"),
        (dict(architecture="electra", head="mlm"), "ElectraForMaskedLM"),
        (dict(architecture="electra", head="rtd"), "ElectraForPreTraining"),
        (dict(architecture="electra", head="sequence", labels=("a", "b")), "ElectraForSequenceClassification"),
        (dict(architecture="electra", head="token", labels=("a", "b")), "ElectraForTokenClassification"),
    ],
)
def test_a_class_that_is_not_named_is_told_by_the_tensors(changes, name, tmp_path, capsys):
    folder, config, params = ordinary(tmp_path, **changes)
    for model_type in ("given", None):
        if model_type is None:
            change_config(folder, model_type=None)
        change_config(folder, architectures=None)
        back = load(folder)
        assert back[0] == config
        assert_identical(back[1], params)
        assert f"architectures is missing; taken to be {name}, by the names of the tensors" in capsys.readouterr().out


def test_tensors_of_another_model_are_no_guess(tmp_path):
    folder = ordinary(tmp_path)[0]
    change_config(folder, architectures=None, model_type="gpt2")
    with pytest.raises(InputError, match="architectures is missing; put the model's class there: Bert"):
        load(folder)
    change_config(folder, model_type=None)
    change_tensors(folder, lambda found: found.pop("bert.embeddings.word_embeddings.weight"))
    with pytest.raises(InputError, match="architectures is missing"):
        load(folder)


def add_head(folder, name, *tensors):
    """Makes a folder one of the class `name`, with random tensors of a head; without a name the class is missing."""
    change_config(folder, architectures=[name] if name else None)
    change_tensors(folder, lambda found: found.update({name: np.ones((2, 32), np.float32) for name in tensors}))


HEADS = {
    "BertForQuestionAnswering": ["qa_outputs.weight"],
    "BertForMultipleChoice": ["bert.pooler.dense.weight", "classifier.weight"],
    "BertForNextSentencePrediction": ["bert.pooler.dense.weight", "cls.seq_relationship.weight"],
    "BertCrfForNer": ["classifier.weight", "crf.transitions"],
    "OurFineModel": ["mlp.weight"],
    "": ["qa_outputs.weight"],
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_is_not_known_here_is_refused_or_left_out(name, tmp_path, capsys):
    folder, config, params = ordinary(tmp_path, head="none")
    add_head(folder, name, *HEADS[name])
    with pytest.raises(InputError, match="config.json: .*; --config.init_from takes its encoder, without the head$"):
        load(folder)
    back = read_config(folder, needs_head=False)
    assert dataclasses.replace(back, options=config.options) == config  # there may be a pooler
    assert_identical(read_params(folder, config), params)
    printed = capsys.readouterr().out
    assert "; taken without its head\n" in printed and "not used: " in printed
    assert all(tensor.removeprefix("bert.") in printed for tensor in HEADS[name])


def test_a_head_that_cannot_be_read_is_refused_or_left_out(tmp_path):
    folder, config, _ = ordinary(tmp_path / "names", head="token", labels=("a", "b"))
    change_config(folder, id2label={"1": "a", "2": "b"})
    with pytest.raises(InputError, match="id2label has the keys 1, 2; they must be 0, 1, 2, ...; --config.init_from t"):
        load(folder)
    assert read_config(folder, needs_head=False) == config.without_head
    folder, config, _ = ordinary(tmp_path / "sizes", architecture="electra", head="rtd", embedding_size=16)
    change_config(folder, architectures=["ElectraForMaskedLM"])
    with pytest.raises(InputError, match="hidden_size=32 to embedding_size=16; .*; --config.init_from takes its encod"):
        load(folder)
    assert read_config(folder, needs_head=False) == config.without_head
