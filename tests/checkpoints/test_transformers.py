"""Folders that `transformers` writes and reads are read as it reads them; runs where it and PyTorch are installed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from mux_jax.checkpoints import huggingface, huggingface_config
from mux_jax.models.model import MuxModel
from tests.checkpoints.folders import change_config, change_tensors

pytestmark = pytest.mark.extra

SIZES = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
TOKENS = np.random.default_rng(0).integers(5, 64, (3, 12))
READ = (
    "BertModel BertForMaskedLM BertForPreTraining BertForSequenceClassification BertForTokenClassification "
    "ElectraModel ElectraForMaskedLM ElectraForPreTraining ElectraForSequenceClassification "
    "ElectraForTokenClassification"
).split()
ENCODER_ONLY = (
    "BertForQuestionAnswering BertForMultipleChoice BertForNextSentencePrediction "
    "BertLMHeadModel ElectraForQuestionAnswering ElectraForMultipleChoice"
).split()


def write(folder, name, **fields):
    """A model of the class `name`, of random weights, in a folder; returns the folder."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("electra" if name.startswith("Electra") else "bert", **SIZES)
    config.embedding_size = 32 if name == "ElectraForMaskedLM" else 16
    model = getattr(transformers, name)(config)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # biases and norms, too
    model.save_pretrained(folder, **fields)
    return epath.Path(folder)


def theirs(folder, name):
    """What the class `name` says of TOKENS: logits, or states where it has no head or the base of one is asked for."""
    import torch
    import transformers

    model = getattr(transformers, name).from_pretrained(folder).float().eval()
    with torch.no_grad():
        out = model(torch.from_numpy(TOKENS))
    return next(value for value in out.values() if value is not None).numpy()


def ours(folder, needs_head=True):
    config = huggingface_config.read_config(folder, needs_head)
    params = jax.tree.map(jnp.asarray, huggingface.read_params(folder, config))
    return np.asarray(MuxModel(config).apply({"params": params}, TOKENS[:, None])[:, 0])


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", READ)
def test_a_model_says_what_it_says_there_also_in_shards_and_without_its_class(name, tmp_path):
    folder = write(tmp_path / "whole", name)
    expected = theirs(folder, name)
    assert_same(ours(folder), expected)
    shards = write(tmp_path / "shards", name, max_shard_size="20KB")
    assert (shards / "model.safetensors.index.json").exists()
    assert_same(ours(shards), expected)
    change_config(folder, architectures=None)
    assert_same(ours(folder), expected)
    change_config(folder, model_type=None)
    assert_same(ours(folder), expected)


@pytest.mark.parametrize("name", ENCODER_ONLY)
def test_the_encoder_of_a_head_that_is_not_known_here_is_the_one_there(name, tmp_path):
    folder = write(tmp_path, name)
    base = "ElectraModel" if name.startswith("Electra") else "BertModel"
    assert_same(ours(folder, needs_head=False), theirs(folder, base))


def test_files_of_all_ages_and_types_are_read_as_there(tmp_path):
    import torch

    folder = write(tmp_path, "BertForMaskedLM")
    change_config(folder, layer_norm_eps=None, hidden_act=None, max_position_embeddings=None)

    def age(found):
        for name in list(found):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            found[old] = found.pop(name)

    change_tensors(folder, age)
    assert_same(ours(folder), theirs(folder, "BertForMaskedLM"))
    found = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for dtype in (torch.float16, torch.bfloat16):
        state = {name: torch.from_numpy(value).to(dtype) for name, value in found.items()}
        torch.save(state, folder / "pytorch_model.bin")
        assert_same(ours(folder), theirs(folder, "BertForMaskedLM"))
    index = {"metadata": {}, "weight_map": {name: "pytorch_model-00001-of-00001.bin" for name in found}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
    assert_same(ours(folder), theirs(folder, "BertForMaskedLM"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened_as_there(dtype, tmp_path):
    folder = write(tmp_path, "ElectraForPreTraining")
    change_tensors(folder, lambda found: found.update({k: v.astype(jnp.dtype(dtype)) for k, v in found.items()}))
    assert_same(ours(folder), theirs(folder, "ElectraForPreTraining"))


def test_a_head_that_is_left_over_is_left_out_as_there(tmp_path):
    folder = write(tmp_path, "BertForMaskedLM")
    change_config(folder, architectures=["BertModel"])
    assert_same(ours(folder), theirs(folder, "BertModel"))
