"""The step on any mesh of eight devices computes what one device computes."""

import operator

import jax
import numpy as np
import optax
import pytest

from mux_jax.errors import InputError
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.objectives import objectives
from mux_jax.objectives.stages import PretrainStage
from mux_jax.parallel.mesh import check_rows, make_mesh, split_batch
from mux_jax.parallel.params import init_params
from mux_jax.training import step as steps
from tests.conftest import SPECIAL, draw_tokens, small_model

# Each axis split, alone or with others, and all three.
MESHES = [(8, 1, 1), (1, 4, 2), (2, 1, 4), (2, 2, 2)]


def one_step(config, objective, mesh, grad_accumulation_steps=1, seed=0):
    """Metrics and gradients of one step (SGD of rate 1: the parameters' change)."""
    model = MuxModel(config, deterministic=False)
    params = init_params(model, mesh, seed=0)
    before = jax.device_get(params)
    optimizer = optax.sgd(1.0)
    stage = PretrainStage(objective=objective, mask_fraction=0.25, detection_weight=1.0)
    state = steps.init_state(params, optimizer, 0, mesh)
    batch = split_batch({"tokens": np.asarray(draw_tokens(config, rows=8))}, mesh)
    step = steps.make_train_step(objectives.make(stage, SPECIAL), model, optimizer, mesh, seed, grad_accumulation_steps)
    state, metrics = step(state, batch)
    after = jax.device_get(state.params)
    state, _ = step(state, batch)  # the new state lies on the devices as the old one did
    return jax.device_get(metrics), jax.tree.map(lambda a, b: a - b, before, after), state


@pytest.fixture(scope="module")
def on_one_device():
    config = small_model(hidden_dropout=0.1, attention_dropout=0.1)
    return config, *one_step(config, "mlm", make_mesh(devices=jax.devices()[:1]))[:2]


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_loss_and_gradients_equal_one_device(on_one_device, shape):
    config, metrics, gradients = on_one_device
    sharded_metrics, sharded_gradients, state = one_step(config, "mlm", make_mesh(*shape))
    for name in metrics:
        np.testing.assert_allclose(sharded_metrics[name], metrics[name], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), sharded_gradients, gradients)
    kernel = state.params["encoder"]["layers"]["intermediate"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // (shape[1] * shape[2])


def test_layers_apart_stay_split_as_they_were():
    params = init_params(MuxModel(small_model()), make_mesh(2, 2, 2), seed=0)
    whole, apart = params["encoder"]["layers"], split_layers(params)["encoder"]
    for i, layer in enumerate(apart.values()):
        jax.tree.map(np.testing.assert_array_equal, layer, jax.tree.map(operator.itemgetter(i), jax.device_get(whole)))
        kernel = layer["intermediate"]["kernel"]
        assert kernel.committed and kernel.addressable_shards[0].data.size == kernel.size // 4


@pytest.mark.extra
def test_all_parts_of_an_electra_shard_as_well():
    config = small_model(
        architecture="electra",
        head="rtd",
        generator="learned",
        multiplexer="contextual",
        remat=True,
        num_hidden_layers=1,
    )
    one, many = make_mesh(devices=jax.devices()[:1]), make_mesh(2, 2, 2)
    expected, found = one_step(config, "rtd", one), one_step(config, "rtd", many)
    np.testing.assert_allclose(found[0]["loss"], expected[0]["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found[1], expected[1])


@pytest.mark.extra
def test_orthogonal_multiplexers_shard_as_well():
    config = small_model(multiplexer="low_rank_orthogonal", learn_keys=True, num_hidden_layers=1)
    one, many = make_mesh(devices=jax.devices()[:1]), make_mesh(2, 2, 2)
    expected, found = one_step(config, "mlm", one), one_step(config, "mlm", many)
    np.testing.assert_allclose(found[0]["loss"], expected[0]["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found[1], expected[1])


@pytest.mark.extra
@pytest.mark.parametrize(
    "family", [dict(architecture="modernbert", width=1, local_attention=4), dict(architecture="mpnet")], ids=str
)
def test_layers_of_other_families_shard_as_well(family):
    fields = dict(hidden_dropout=0.1, attention_dropout=0.1, remat=True, num_hidden_layers=2)
    config = small_model(**fields | family)
    one, many = make_mesh(devices=jax.devices()[:1]), make_mesh(2, 2, 2)
    expected, found = one_step(config, "mlm", one), one_step(config, "mlm", many)
    np.testing.assert_allclose(found[0]["loss"], expected[0]["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found[1], expected[1])


@pytest.mark.extra  # for its time
def test_accumulated_gradients_are_the_means_of_the_parts():
    config, one = small_model(), make_mesh(devices=jax.devices()[:1])
    metrics, gradients, _ = one_step(config, "retrieval", one, grad_accumulation_steps=4)

    model = MuxModel(config, deterministic=False)
    params, tokens = init_params(model, one, seed=0), draw_tokens(config, rows=8)
    objective = objectives.make(PretrainStage(objective="retrieval"), SPECIAL)
    value_and_grad = jax.jit(jax.value_and_grad(lambda p, tokens, rng: objective(model, p, {"tokens": tokens}, rng)[0]))
    rng = jax.random.fold_in(jax.random.key(0), 0)
    parts = [value_and_grad(params, tokens[i::4], jax.random.fold_in(rng, i)) for i in range(4)]
    loss, expected = jax.tree.map(lambda *x: sum(x) / 4, *parts)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), gradients, expected)

    sharded_metrics, sharded, _ = one_step(config, "retrieval", make_mesh(2, 1, 1, devices=jax.devices()[:2]), 4)
    np.testing.assert_allclose(sharded_metrics["loss"], loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), sharded, expected)


def test_sizes_that_a_mesh_axis_does_not_divide_are_not_split():
    config = small_model(vocab_size=63)
    params = init_params(MuxModel(config), make_mesh(1, 2, 4), seed=0)
    word = params["embeddings"]["word"]
    assert word.addressable_shards[0].data.shape == (63, 16)


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, 3, 1), (8, 2, 1), (0, 1, 1), (-1, -1, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(shape):
    with pytest.raises(InputError, match="mesh"):
        make_mesh(*shape)


def test_rows_must_split_evenly():
    check_rows(make_mesh(4, 2, 1), rows=16, grad_accumulation_steps=2)
    with pytest.raises(InputError, match="rows=12 must be a multiple of 8"):
        check_rows(make_mesh(4, 2, 1), rows=12, grad_accumulation_steps=1)
