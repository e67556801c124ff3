import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mux_jax.models.model import MuxModel
from mux_jax.objectives import objectives
from mux_jax.parallel.mesh import make_mesh, split_batch
from mux_jax.parallel.params import init_params
from mux_jax.training import step as steps
from mux_jax.training.optimizer import decayed, learning_rate, make_optimizer
from tests.conftest import SPECIAL, draw_tokens, init, small_model

SETTINGS = types.SimpleNamespace(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.1, clip_norm=1.0)


def stage(**changes):
    fields = dict(objective="retrieval", steps=10, warmup_steps=4, learning_rate=1.0)
    return types.SimpleNamespace(**fields | changes)


def test_the_rate_warms_up_and_decays_to_zero():
    rates = [float(learning_rate(stage())(i)) for i in range(11)]
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0], atol=1e-6)


def test_biases_norms_and_keys_do_not_decay():
    _, params = init(small_model(architecture="electra", head="rtd"))
    flags = jax.tree_util.tree_leaves_with_path(decayed(params))
    names = {jax.tree_util.keystr(path): flag for path, flag in flags}
    assert names["['embeddings']['word']"] and names["['vocabulary_head']['kernel']"]
    assert not any(flag for name, flag in names.items() if "norm" in name or "bias" in name or "keys']" == name[-6:])
    assert names["['demultiplexer']['dense_keys']['kernel']"]


def test_a_step_equals_adamw_by_hand():
    optimizer = make_optimizer(stage(warmup_steps=0, learning_rate=0.5), SETTINGS)
    params = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([1.0])}
    gradients = {"kernel": jnp.array([3.0, 0.0]), "bias": jnp.array([4.0])}  # norm 5: clipped to 1
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # Adam's first step is the sign of the gradient; decay is 0.1 of the parameter.
    np.testing.assert_allclose(updates["kernel"], [-0.5 * (1 + 0.1), -0.5 * 0.1 * -2.0], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], [-0.5], rtol=1e-5)


@pytest.mark.parametrize("learn_keys", [False, True])
def test_multiplexer_keys_stay_fixed_unless_they_are_learned(learn_keys):
    config, mesh = small_model(learn_keys=learn_keys), make_mesh(devices=jax.devices()[:1])
    model = MuxModel(config)
    params = init_params(model, mesh, seed=0)
    before = jax.device_get(params)
    optimizer = make_optimizer(stage(warmup_steps=0, learning_rate=1e-2), SETTINGS)
    state = steps.init_state(params, optimizer, 0, mesh)
    batch = split_batch({"tokens": np.asarray(draw_tokens(config))}, mesh)
    objective = objectives.make(stage(), SPECIAL)
    step = steps.make_train_step(objective, model, optimizer, mesh, seed=0, grad_accumulation_steps=1)
    for _ in range(2):
        state, _ = step(state, batch)
    changed = jax.tree.map(lambda a, b: bool((a != np.asarray(b)).any()), before, state.params)
    assert changed["multiplexer"]["keys"] == learn_keys
    assert changed["demultiplexer"]["keys"] and changed["encoder"]["layers"]["output"]["kernel"]
