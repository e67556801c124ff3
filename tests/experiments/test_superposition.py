"""The study of superposition: texts held apart stay apart, a run goes to its end, a table has what its head says."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from experiments.superposition import table, train
from experiments.superposition.hard import NormByText, keep_zeros
from experiments.superposition.means import MEANS, Means
from mux_jax.compression.frames import Frames
from tests.conftest import use_one_device
from tests.tasks import finetuning, write_model, write_sentences


def test_a_norm_by_text_is_the_layer_norm_of_each_frame():
    frames, x_BLD = Frames(2, 3, 7), np.random.default_rng(0).normal(size=(2, 5, 7))
    norm = NormByText(frames, 1e-6, jnp.float32)
    made = norm.apply(nn.unbox(norm.init(jax.random.key(0), x_BLD)), x_BLD)
    for part in (slice(0, 3), slice(3, 6)):
        own = x_BLD[..., part]
        expected = (own - own.mean(-1, keepdims=True)) / np.sqrt(own.var(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(made[..., part], expected, atol=1e-5)


def test_zeros_of_kernels_of_the_encoder_stay_and_all_else_learns():
    params = {"encoder": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}, "classifier": {"kernel": jnp.zeros((2, 2))}}
    optimizer = optax.chain(optax.sgd(1.0), keep_zeros())
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    np.testing.assert_array_equal(updates["encoder"]["kernel"], -np.eye(2))
    assert all((x == -1).all() for x in (updates["encoder"]["bias"], updates["classifier"]["kernel"]))


@pytest.mark.extra
def test_a_run_of_texts_held_apart_gives_the_same_without_weights_between_them(tmp_path, monkeypatch):
    import mux_jax

    use_one_device(monkeypatch)
    monkeypatch.setenv("MUX_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(train, "TRIAL_STEPS", 2)
    monkeypatch.setattr(train, "POOL", 256)
    monkeypatch.setitem(MEANS, "hard_2", Means(width=2, hard=True))
    data = write_sentences(tmp_path / "data", train=700, dev=40)
    model = write_model(tmp_path / "model", width=1, head="sequence", labels=("few", "many"))
    mux_jax.train(finetuning(data, model), str(tmp_path / "run"))
    given = dict(model=str(tmp_path / "run"), answers=str(tmp_path / "answers"), corpus="", steps=3, seed=0)
    result = train.train(means="hard_2", workdir=str(tmp_path / "hard"), **given)
    assert result["inside"]["moved"]["between"] == 0 < result["inside"]["moved"]["within"]
    assert result["inside"]["score"] == result["inside"]["score_without_mixing"]
    assert result == json.loads(json.dumps(train.train(means="hard_2", workdir=str(tmp_path / "hard"), **given)))
    assert len(table.row(result)) == len(table.HEADER)
