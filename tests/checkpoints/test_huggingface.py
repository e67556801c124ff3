"""Hugging Face folders come in and go out whole, and what does not fit is named."""

import json
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from mux_jax import load_pretrained
from mux_jax.checkpoints import huggingface
from mux_jax.errors import InputError
from tests.checkpoints.test_parity import FIXTURES
from tests.conftest import init, small_model

ELECTRA = dict(architecture="electra", embedding_size=16)


def load(folder):
    config = huggingface.read_config(folder)
    return config, huggingface.read_params(folder, config)


def tensors_of(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


@pytest.fixture
def folder(tmp_path):
    """A copy of a released checkpoint, to be damaged."""
    source = next(path for path in FIXTURES if path.name == "muxbert_mlm_binary_rsa_n3")
    shutil.copytree(source, tmp_path / "model")
    return epath.Path(tmp_path / "model")


def change_tensors(folder, change):
    found = tensors_of(folder)
    change(found)
    safetensors.numpy.save_file(found, folder / "model.safetensors")


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize("source", FIXTURES, ids=lambda folder: folder.name)
def test_a_released_checkpoint_goes_out_as_it_came_in(source, tmp_path):
    huggingface.write(epath.Path(tmp_path), *load(epath.Path(source)))
    before, after = tensors_of(source), tensors_of(tmp_path)
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
    jax.tree.map(np.testing.assert_array_equal, params, back)


def test_an_electra_lm_without_a_decoder_has_its_embeddings(tmp_path):
    model, params = init(small_model(architecture="electra", width=1))
    huggingface.write(epath.Path(tmp_path), model.config, params)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    change_tensors(tmp_path, lambda found: found.pop("generator_lm_head.weight"))
    back = load(epath.Path(tmp_path))[1]
    np.testing.assert_array_equal(back["vocabulary_head"]["kernel"], params["embeddings"]["word"])
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
    jax.tree.map(np.testing.assert_array_equal, load(folder)[1], expected)


@pytest.mark.parametrize("size", [0, 4, 100, 5000])
def test_a_truncated_file_is_named(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match="model.safetensors: truncated"):
        load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(muxing_variant="gaussian_attention"), "muxing_variant='gaussian_attention' is not known.*random_ortho"),
        (dict(demuxing_variant="mlp"), "demuxing_variant='mlp' is not known here; there are: index_pos, index"),
        (dict(muxing_variant=None), "muxing_variant=None is not known"),
        (dict(architectures=["GPT2LMHeadModel"]), "'GPT2LMHeadModel' is not known here; there are: BertModel"),
        (dict(architectures=None), "architectures='' is not known"),
        (dict(hidden_size="32"), "hidden_size is '32'; it must be of type int"),
        (dict(hidden_size=None), "hidden_size is missing"),
        (dict(hidden_act="relu"), "hidden_act='relu' is not supported, only 'gelu'"),
        (dict(position_embedding_type="relative_key"), "only 'absolute'"),
        (dict(num_attention_heads=5), "config.json: model.hidden_size=32 must be a multiple"),
        (dict(mux_jax={"format": 1, "depth": 3}), "model has no field depth; .* have the options: learn_keys"),
        (dict(mux_jax={"dtype": "auto"}), "another version of mux_jax .no format number; this version reads 1"),
        (dict(mux_jax={"format": 99}), "another version of mux_jax .format 99; this version reads 1"),
        (
            dict(architectures=["MuxedBertForTokenClassification"], id2label={"0": "O", "x": "B"}),
            "config.json: id2label has the keys 0, x; they must be 0, 1, 2",
        ),
        (dict(num_instances=1, architectures=["BertForSequenceClassification"]), "pooler"),
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


def test_ordinary_bert_files_of_all_ages(tmp_path, capsys):
    """Poolers are left out, LayerNorm's old names and names without `bert.` are understood, halves widened."""
    model, params = init(small_model(width=1, head="none"))
    folder = epath.Path(tmp_path)
    huggingface.write(folder, model.config, params)

    def change(found):
        for name in list(found):
            value = found.pop(name)
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            found[f"bert.{name}"] = value.astype(np.float16) if value.dtype == np.float32 else value
        found["bert.pooler.dense.weight"] = np.zeros((32, 32), np.float16)

    change_tensors(folder, change)
    back = load(folder)[1]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.float32(np.float16(b))), back, params)
    printed = capsys.readouterr().out
    assert "not used: bert.pooler.dense.weight" in printed and "float16; read as float32" in printed


def test_bfloat16_is_read_and_types_that_are_not_known_are_named(folder, capsys):
    expected = load(folder)[1]
    change_tensors(folder, lambda found: found.update({k: v.astype(jnp.bfloat16) for k, v in found.items()}))
    back = load(folder)[1]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), back, expected)
    assert "bfloat16; read as float32" in capsys.readouterr().out
    values = {"a": np.zeros(3, np.int8)}
    safetensors.numpy.save_file(values, folder / "model.safetensors")
    with pytest.raises(InputError, match="model.safetensors: a is of type I8; it must be one of F64, F32, F16, BF16"):
        load(folder)


@pytest.mark.extra
def test_pytorch_files_are_read_without_running_code(folder):
    import torch

    expected = load(folder)[1]
    state = {name: torch.from_numpy(value.copy()) for name, value in tensors_of(folder).items()}
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(state, file)
    jax.tree.map(np.testing.assert_array_equal, load(folder)[1], expected)
    whole = file.read_bytes()
    for size in (0, 10, 10000, len(whole) - 10):
        file.write_bytes(whole[:size])
        with pytest.raises(InputError, match="pytorch_model.bin: truncated"):
            load(folder)
    torch.save({"a": epath.Path}, file)
    with pytest.raises(InputError, match="not a file of tensors alone"):
        load(folder)


def test_a_pytorch_file_asks_for_a_pytorch_that_reads_it_safely(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.5.1+cpu"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="PyTorch 2.5.1.cpu can be made to run what such a file holds .*'torch>=2.6'"):
        load_pretrained(str(folder))


def test_a_pytorch_file_asks_for_pytorch(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pytorch_model.bin: PyTorch is needed to read it: pip install 'torch>=2.6'"):
        load(folder)
