"""A multiplexer or demultiplexer of one's own, in one's own file, without a change to ours."""

import json
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import mux_jax
from mux_jax.checkpoints.convert import convert
from mux_jax.configuration import pretraining
from mux_jax.models import flops
from mux_jax.training.loop import train
from tests.conftest import init, small_model, small_run


class Shifted(mux_jax.Multiplexer):
    """mixed = scale * sum_i roll(x_i, i)."""

    scale: float = mux_jax.described(1.0, "what the sum is multiplied with", above=0)

    def check(self):
        if self.config.width > 4:
            raise mux_jax.InputError(f"model.width={self.config.width}: shifted mixes four instances at most")

    @nn.compact
    def __call__(self, embedded_BNLE, mask_BNL):
        return self.scale * sum(jnp.roll(embedded_BNLE[:, i], i, axis=-1) for i in range(embedded_BNLE.shape[1]))

    def flops(self, length):
        return 7 * length


class Reader(mux_jax.Demultiplexer):
    """state = h_j * k_i."""

    released_options: ClassVar[dict[str, str]] = {}

    def setup(self):
        self.readers = self.param("readers", nn.initializers.ones, (self.config.width, self.config.hidden_size))

    def __call__(self, hidden_BLD, instance, positions=None):
        hidden_BXPD = (
            hidden_BLD[:, None]
            if positions is None
            else jnp.take_along_axis(hidden_BLD[:, None], positions[..., None], axis=2)
        )
        return hidden_BXPD * self.readers[instance]

    def retrieval(self, hidden_BLD, instance, positions=None):
        return self(hidden_BLD, instance, positions)


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setitem(mux_jax.MULTIPLEXERS, "shifted", Shifted)
    monkeypatch.setitem(mux_jax.DEMULTIPLEXERS, "reader", Reader)


def test_a_run_names_the_class_and_is_opened_by_who_has_imported_it(own, text_file, tmp_path, one_device, monkeypatch):
    config = small_run("bert", text_file, tmp_path, multiplexer="shifted", demultiplexer="reader")
    assert "key_norm" not in config.model and "num_demux_layers" not in config.model  # those of other classes
    config.model.scale = 0.5
    config.stages = ("priming",)
    config.priming.update(steps=4, warmup_steps=1)
    train(config, str(tmp_path / "run"))
    written = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert (written["multiplexer"], written["scale"], written["demultiplexer"]) == ("shifted", 0.5, "reader")
    model, params = mux_jax.load_pretrained(str(tmp_path / "run"))
    assert model.config.multiplexer_module().scale == 0.5 and "readers" in params["demultiplexer"]
    train(config, str(tmp_path / "run"))  # goes on
    with pytest.raises(mux_jax.InputError, match="multiplexer=shifted has no released form; only gaussian, "):
        convert(str(tmp_path / "run"), str(tmp_path / "out"))
    monkeypatch.delitem(mux_jax.MULTIPLEXERS, "shifted")
    with pytest.raises(mux_jax.InputError) as refused:
        mux_jax.load_pretrained(str(tmp_path / "run"))
    assert "run: model.multiplexer='shifted' is not known; there are: gaussian" in str(refused.value)
    assert "import the file that defines a class of your own first" in str(refused.value)


def test_the_model_asks_the_class_for_checks_flops_and_options(own):
    with pytest.raises(mux_jax.InputError, match="model.width=5: shifted mixes four instances at most"):
        small_model(multiplexer="shifted", width=5)
    with pytest.raises(mux_jax.InputError, match="model.scale=0.0 must be positive"):
        small_model(multiplexer="shifted", scale=0.0)
    with pytest.raises(mux_jax.InputError, match="model has no field key_norm; .*, learn_keys, scale, num_demux"):
        small_model(multiplexer="shifted", key_norm=1.0)
    plain, shifted = small_model(), small_model(multiplexer="shifted")
    assert flops.encoder(shifted, 12) == flops.encoder(plain, 12) + 7 * 12
    assert pretraining("bert", "tiny", 2, "shifted").model.scale == 1.0


def test_what_it_computes_is_its_formula(own):
    model, params = init(small_model(width=3, multiplexer="shifted", scale=2.0))
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 32)).astype(np.float32)
    mixed = model.config.multiplexer_module().apply({"params": params.get("multiplexer", {})}, jnp.asarray(x), None)
    np.testing.assert_allclose(mixed, 2 * (x[:, 0] + np.roll(x[:, 1], 1, -1) + np.roll(x[:, 2], 2, -1)), atol=1e-5)
