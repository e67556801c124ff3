"""What tests of checkpoints share."""

import shutil
from pathlib import Path

import pytest
from etils import epath

from mux_jax.checkpoints import huggingface
from mux_jax.data.tokenizer import save_tokenizer
from mux_jax.data.vocabulary import train_tokenizer
from tests.conftest import init, small_model


@pytest.fixture
def folder(tmp_path):
    """A copy of a released checkpoint, to be damaged."""
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "muxbert_mlm_binary_rsa_n3", tmp_path / "model")
    return epath.Path(tmp_path / "model")


@pytest.fixture
def plain_bert(text_file, tmp_path):
    """An ordinary BERT's folder, with its vocabulary, and its parameters."""
    tokenizer = train_tokenizer([text_file.read_text()], 120)
    sizes = dict(vocab_size=tokenizer.backend.get_vocab_size() + 3, num_hidden_layers=3, max_position_embeddings=40)
    model, params = init(small_model(width=1, **sizes), seed=7)
    folder = epath.Path(tmp_path / "bert")
    folder.mkdir()
    huggingface.write(folder, model.config, params)
    save_tokenizer(tokenizer, folder, for_transformers=True)
    return folder, params
