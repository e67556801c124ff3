"""`launch/analyze.py`: its figures are what they say, and its pictures are there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from mux_jax.analysis import analyze as analysis
from mux_jax.errors import InputError
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from tests.conftest import init, small_model
from tests.tasks import sentences, write_model

ROOT = Path(__file__).parents[2]


def figures(config, params, tokens):
    model = MuxModel(config, split_layers=True)
    return jax.jit(lambda p, t: analysis._figures(model, p, t))(split_layers(params), tokens)


def tokens_for(config):
    return np.random.default_rng(0).integers(5, config.vocab_size, (3, config.width, 7), np.int32)


@pytest.mark.parametrize("width", [1, 3])
def test_attention_that_looks_everywhere_has_the_entropy_of_all_positions(width):
    config = small_model(width=width, head="none")
    _, params = init(config)
    attention = params["encoder"]["layers"]["attention"]
    attention |= {"query": jax.tree.map(jax.numpy.zeros_like, attention["query"])}
    found = figures(
        config,
        params | {"encoder": {"layers": params["encoder"]["layers"] | {"attention": attention}}},
        tokens_for(config),
    )
    np.testing.assert_allclose(found["attention_entropy"], np.log(7), rtol=1e-5)
    assert ("retrieval_accuracy" in found) == (width > 1)


def test_a_bias_by_distance_counts_for_the_entropy_of_attention():
    """With queries of 0 an MPNet's attention is its bias alone: here, all to the token itself."""
    config = small_model(architecture="mpnet", width=1, head="none")
    _, params = init(config)
    encoder = params["encoder"]
    attention = encoder["layers"]["attention"]
    attention |= {"query": jax.tree.map(jax.numpy.zeros_like, attention["query"])}
    table = jax.numpy.zeros_like(encoder["relative_bias"]["table"]).at[0].set(100.0)
    encoder = {"layers": encoder["layers"] | {"attention": attention}, "relative_bias": {"table": table}}
    found = figures(config, params | {"encoder": encoder}, tokens_for(config))
    np.testing.assert_allclose(found["attention_entropy"], 0, atol=1e-5)


@pytest.mark.parametrize("demultiplexer", ["rsa", "prefix"])
def test_norms_similarity_and_retrieval_are_those_of_the_model(demultiplexer):
    prefix = {} if demultiplexer == "rsa" else dict(prefix_token_id=20)
    config = small_model(width=3, head="none", demultiplexer=demultiplexer, **prefix)
    model, params = init(config)
    tokens = tokens_for(config)
    found = figures(config, params, tokens)

    def states(bound):
        hidden = bound.encode(tokens)
        positions = bound.after_prefix(hidden)
        return (
            hidden,
            bound.demultiplexer(hidden, bound.all_instances, positions),
            bound.vocabulary_logits(hidden, bound.all_instances, positions),
        )

    hidden, separated, logits = model.apply({"params": params}, method=states)
    np.testing.assert_allclose(found["activation_norm"][-1], np.linalg.norm(hidden, axis=-1).mean(), rtol=1e-5)
    for i, j in ((0, 0), (0, 2)):
        a, b = separated[:, i], separated[:, j]
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        np.testing.assert_allclose(found["cosine_similarity"][i, j], cosine.mean(), rtol=1e-4)
    np.testing.assert_allclose(found["retrieval_accuracy"], (logits.argmax(-1) == tokens).mean(axis=0), atol=1e-6)


def test_rows_are_filled_with_text_and_begin_with_cls(tmp_path):
    tokenizer = analysis.open_model(str(write_model(tmp_path / "model"))).tokenizer()
    rows = analysis.pack(sentences(60), tokenizer, 2, 3, 9)
    assert rows.shape == (2, 3, 9) and (rows[:, :, 0] == tokenizer.backend.token_to_id("[CLS]")).all()
    inside = [tokenizer.backend.decode(row.tolist()) for row in rows.reshape(-1, 9)]
    assert sum(" ".join(sentences(60)[0].split()[:2]) in text for text in inside) >= 1
    assert (
        tokenizer.backend.decode(rows[0, 0].tolist()).split()[1:3] != sentences(60)[0].split()[:2]
    )  # by chance 1 in 6
    with pytest.raises(InputError, match="the text has .* tokens; 2 rows of 3 instances of 9 tokens need 48"):
        analysis.pack(sentences(2), tokenizer, 2, 3, 9)


@pytest.mark.extra  # for its time
def test_the_command_draws_all_models_in_one_picture(tmp_path):
    models = [str(write_model(tmp_path / f"n{width}", width=width)) for width in (1, 2)]
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(sentences(400)))
    command = [sys.executable, "launch/analyze.py", "--model", *models, "--texts", str(text)]
    command += ["--length", "16", "--rows", "16", "--workdir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in epath.Path(tmp_path / "out").iterdir()}
    figures = ("activation_norm", "attention_entropy", "cosine_similarity", "retrieval_accuracy")
    assert names == {"analysis.json", *(f"{figure}.png" for figure in figures)}
    one, two = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert len(one["activation_norm"]) == 2 and "cosine_similarity" not in one
    assert np.shape(two["cosine_similarity"]) == (2, 2) and np.shape(two["retrieval_accuracy"]) == (2, 16)
    done = subprocess.run([*command, "--length", "99"], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 2 and "--length=99 must be from 2 to 40" in done.stderr
