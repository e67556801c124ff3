"""The model computes what the method says, for all of what is read and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import linen as nn

from mux_jax.errors import InputError
from mux_jax.models.config import SIZES
from mux_jax.models.encoder import split_layers
from mux_jax.models.layers import gelu, multiply
from mux_jax.models.multiplexers import MULTIPLEXERS, Gaussian, Orthogonal, binary_keys, low_rank_keys, orthogonal_keys
from tests.conftest import apply, draw_tokens, init, small_model


@pytest.mark.parametrize(("width", "multiplexer"), [(1, "gaussian"), (3, "gaussian"), (10, "contextual")])
def test_logits_have_the_documented_shapes(width, multiplexer):
    config = small_model(width=width, multiplexer=multiplexer)
    model, params = init(config)
    tokens = draw_tokens(config)
    assert apply(model, params, tokens).shape == (3, width, 12, 64)
    config = small_model(architecture="electra", head="rtd", width=config.width, multiplexer=config.multiplexer)
    model, params = init(config)
    assert apply(model, params, tokens, tokens > 0).shape == (3, width, 12)


def test_electra_projects_smaller_embeddings():
    config = small_model(architecture="electra", head="rtd", embedding_size=16)
    model, params = init(config)
    assert params["embeddings"]["word"].shape == (64, 16)
    assert params["multiplexer"]["keys"].shape == (2, 16)
    assert apply(model, params, draw_tokens(config), method="encode").shape == (3, 12, 32)


def test_width_1_has_no_multiplexing_parts_and_masks_padding():
    config = small_model(width=1)
    model, params = init(config)
    assert "multiplexer" not in params and "keys" not in params["demultiplexer"]
    tokens = draw_tokens(config)
    mask = jnp.arange(12) < 8
    changed = tokens.at[:, :, 8:].set(7)
    a = apply(model, params, tokens, mask[None, None], method="encode")
    b = apply(model, params, changed, mask[None, None], method="encode")
    np.testing.assert_allclose(a[:, :8], b[:, :8], atol=1e-6)


def test_gaussian_multiplexer_is_the_mean_of_keyed_instances():
    config = small_model(width=3)
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 32))
    mixed, variables = Gaussian(config).init_with_output(jax.random.key(1), x, None)
    keys = np.asarray(jax.tree.leaves(variables)[0], np.float64)
    np.testing.assert_allclose(np.linalg.norm(keys, axis=-1), 1.0, rtol=1e-6)
    expected = np.mean([np.asarray(x[:, i], np.float64) * keys[i] for i in range(3)], axis=0)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


def test_orthogonal_multiplexer_is_the_scaled_sum_of_rotated_instances():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 32))
    mixed, variables = Orthogonal(small_model(width=3)).init_with_output(jax.random.key(1), x, None)
    keys = np.asarray(jax.tree.leaves(variables)[0], np.float64)
    expected = sum(np.asarray(x[:, i], np.float64) @ keys[i].T for i in range(3)) / np.sqrt(3)
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


def test_orthogonal_keys_are_orthogonal():
    keys = np.asarray(orthogonal_keys(jax.random.key(0), (3, 24, 24)), np.float64)
    np.testing.assert_allclose(keys @ keys.swapaxes(1, 2), np.broadcast_to(np.eye(24), keys.shape), atol=1e-5)
    assert np.abs(keys[0] - keys[1]).max() > 0.1


def test_low_rank_keys_share_the_space_out():
    keys = np.asarray(low_rank_keys(jax.random.key(0), (3, 32, 32)), np.float64)
    assert [np.linalg.matrix_rank(k, tol=1e-4) for k in keys] == [10, 10, 10]
    for i in range(3):
        projection = keys[i].T @ keys[i]  # onto the part of an instance that is kept
        np.testing.assert_allclose(projection @ projection, projection, atol=1e-5)
        for j in range(i):
            np.testing.assert_allclose(keys[i].T @ keys[j], 0, atol=1e-5)


def test_binary_chunks_tile_the_dimensions():
    keys = np.asarray(binary_keys(0.0)(jax.random.key(0), (3, 32)))
    np.testing.assert_array_equal(keys.sum(0), 1)
    assert keys.sum(1).tolist() == [10, 10, 12]
    # Chunks of 10 widened by 0.3 / 2 * 10 = 1.5 on inner sides, the bounds rounded down.
    widened = np.asarray(binary_keys(0.3)(jax.random.key(0), (3, 32)))
    spans = [(int(row.argmax()), int(row.nonzero()[0][-1]) + 1) for row in widened]
    assert spans == [(0, 11), (8, 21), (18, 32)]
    assert widened.sum(1).tolist() == [11, 13, 14]


@pytest.mark.parametrize("multiplexer", MULTIPLEXERS)
def test_keys_get_a_gradient_only_if_they_are_learned(multiplexer):
    for learn_keys in (False, True):
        config = small_model(multiplexer=multiplexer, learn_keys=learn_keys)
        module = config.multiplexer_module()
        x = jax.random.normal(jax.random.key(0), (1, 2, 3, 32))
        variables = nn.meta.unbox(module.init(jax.random.key(1), x, None))
        gradient = jax.grad(lambda v, module=module, x=x: (module.apply(v, x, None) ** 2).sum())(variables)
        assert (np.abs(gradient["params"]["keys"]).max() > 0) == learn_keys


def prefix_model(**changes):
    return small_model(width=3, demultiplexer="prefix", prefix_token_id=60, cls_token_id=2, **changes)


def test_the_prefix_names_each_instance_and_ends_with_cls():
    model, params = init(prefix_model())
    tokens, mask = model.bind({"params": params}).demultiplexer.add_prefix(
        jnp.full((2, 3, 4), 9), jnp.zeros((2, 3, 4), bool)
    )
    expected = [[58, 60, 60, 2, 9, 9, 9, 9], [60, 57, 60, 2, 9, 9, 9, 9], [60, 60, 56, 2, 9, 9, 9, 9]]
    assert tokens.tolist() == [expected, expected]
    np.testing.assert_array_equal(mask, np.broadcast_to(np.arange(8) < 4, (2, 3, 8)))


def test_prefix_demultiplexer_reads_its_keys_from_the_prefix():
    model, params = init(prefix_model())
    bound = model.bind({"params": params})
    hidden = jax.random.normal(jax.random.key(0), (2, 9, 32))
    found = bound.demultiplexer(hidden, bound.all_instances)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["demultiplexer"])
    kernel, h = np.concatenate([p["dense_keys"]["kernel"], p["layer"]["kernel"]]), np.asarray(hidden, np.float64)
    for i in range(3):
        x = np.concatenate([np.repeat(h[:, i : i + 1], 9, axis=1), h], axis=-1) @ kernel + p["layer"]["bias"]
        x = x * 0.5 * (1 + scipy.special.erf(x / np.sqrt(2)))
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        np.testing.assert_allclose(found[:, i], x, atol=1e-4)


def test_pretraining_rows_keep_their_length_and_others_grow_by_the_prefix():
    tokens = draw_tokens(prefix_model(), length=12)
    for head, changes, shape in (
        ("mlm", {}, (3, 3, 12, 64)),
        ("token", dict(labels=("a", "b")), (3, 3, 16, 2)),
        ("sequence", dict(labels=("a", "b")), (3, 3, 2)),
        ("none", {}, (3, 3, 16, 32)),
    ):
        model, params = init(prefix_model(head=head, **changes))
        assert apply(model, params, tokens).shape == shape
    with pytest.raises(InputError, match="rows of 17 positions, 4 of them prefix, are longer than the 16"):
        apply(model, params, draw_tokens(prefix_model(), length=13))


def test_classification_reads_cls():
    for demultiplexer, place in (("rsa", 0), ("prefix", 3)):
        fields = dict(width=3, head="sequence", labels=("a", "b"), demultiplexer=demultiplexer, cls_token_id=2)
        config = small_model(**fields | (dict(prefix_token_id=60) if demultiplexer == "prefix" else {}))
        model, params = init(config)
        bound = model.bind({"params": params})
        hidden = jax.random.normal(jax.random.key(0), (2, 9, 32))
        found = bound.class_logits(hidden)
        everywhere = bound.classifier(bound.demultiplexer(hidden, bound.all_instances))
        np.testing.assert_allclose(found, everywhere[:, :, place], atol=1e-6)


def test_rsa_halves_equal_the_product_with_concatenated_keys():
    config = small_model(width=3)
    module = config.demultiplexer_module()
    hidden = jax.random.normal(jax.random.key(0), (2, 5, 32))
    instance = jnp.arange(3)[None, :, None]
    _, variables = module.init_with_output(jax.random.key(1), hidden, instance)
    joined = module.apply(variables, hidden, instance, None, method="join")
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), nn.meta.unbox(variables)["params"])
    kernel = np.concatenate([p["dense_keys"]["kernel"], p["layers_0"]["kernel"]])
    for i in range(3):
        keys = np.broadcast_to(p["keys"][i], (2, 5, 32))
        product = np.concatenate([keys, np.asarray(hidden, np.float64)], axis=-1) @ kernel + p["layers_0"]["bias"]
        expected = product * 0.5 * (1 + scipy.special.erf(product / np.sqrt(2)))
        np.testing.assert_allclose(joined[:, i], expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "electra"])
def test_reading_few_positions_equals_reading_all(architecture):
    config = small_model(architecture=architecture, width=3)
    model, params = init(config)
    bound = model.bind({"params": params})
    hidden = bound.encode(draw_tokens(config))
    everything = bound.vocabulary_logits(hidden, bound.all_instances)
    positions = jax.random.randint(jax.random.key(3), (3, 3, 4), 0, 12)
    few = bound.vocabulary_logits(hidden, bound.all_instances, positions)
    np.testing.assert_allclose(few, jnp.take_along_axis(everything, positions[..., None], axis=2), atol=1e-5)
    instance = jax.random.randint(jax.random.key(4), (3, 12), 0, 3)
    one = bound.vocabulary_logits(hidden, instance[:, None])[:, 0]
    np.testing.assert_allclose(
        one, jnp.take_along_axis(everything, instance[:, None, :, None], axis=1)[:, 0], atol=1e-5
    )


def test_scanned_and_unrolled_layers_agree_and_share_parameters():
    config = small_model()
    model, params = init(config)
    tokens = draw_tokens(config)
    expected = apply(model, params, tokens)
    for change in ({"scan_layers": False}, {"remat": True}, {"remat": True, "scan_layers": False}):
        other = type(model)(dataclasses.replace(config, **change))
        np.testing.assert_allclose(apply(other, params, tokens), expected, atol=1e-5)


def test_a_row_does_not_depend_on_other_rows():
    config = small_model(multiplexer="contextual")
    model, params = init(config)
    tokens = draw_tokens(config)
    changed = tokens.at[1:].set(9)
    a, b = (apply(model, params, t) for t in (tokens, changed))
    np.testing.assert_allclose(a[0], b[0], atol=1e-5)
    assert np.abs(a[1] - b[1]).max() > 1e-3


@pytest.mark.parametrize("multiplexer", MULTIPLEXERS)
def test_instances_may_change_places_together_with_their_keys(multiplexer):
    config = small_model(multiplexer=multiplexer, width=3)
    model, params = init(config)
    tokens, order = draw_tokens(config), jnp.array([2, 0, 1])
    expected = apply(model, params, tokens)[:, order]
    for part in ("multiplexer", "demultiplexer"):
        params[part]["keys"] = params[part]["keys"][order]
    np.testing.assert_allclose(apply(model, params, tokens[:, order]), expected, atol=1e-5)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("bfloat16", 1 / 128)])
def test_gelu_and_its_slope_are_exact(dtype, rtol):
    x = jnp.linspace(-6, 6, 1001).astype(dtype)
    slope = jax.jit(jax.vmap(jax.grad(lambda x: gelu(x).astype(jnp.float32))))(x)
    exact = np.asarray(x, np.float64)
    cumulative, density = scipy.special.ndtr(exact), np.exp(-(exact**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(np.asarray(jax.jit(gelu)(x), np.float64), exact * cumulative, rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(np.asarray(slope, np.float64), cumulative + exact * density, rtol=rtol, atol=1e-6)


def test_bfloat16_products_keep_float32_parameters_and_logits():
    config = small_model(dtype="bfloat16")
    model, params = init(config)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    tokens = draw_tokens(config)
    logits = apply(model, params, tokens)
    assert logits.dtype == jnp.float32
    exact = apply(type(model)(dataclasses.replace(config, dtype="float32")), params, tokens)
    assert np.linalg.norm(logits - exact) / np.linalg.norm(exact) < 0.05


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 8, 3), (64, 33, 257)])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_products_and_their_gradients_are_those_of_matmul(shape, dtype, tolerance):
    T, D, F = shape
    rng = np.random.default_rng(0)
    x, kernel, weights = (jnp.asarray(rng.normal(size=size), dtype) for size in ((T, D), (D, F), (T, F)))

    def gradients(multiply):
        def loss(x, kernel):
            found = multiply(x, kernel)
            assert found.dtype == dtype
            return (found.astype(jnp.float32) * weights).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, kernel)

    for found, expected in zip(jax.tree.leaves(gradients(multiply)), jax.tree.leaves(gradients(jnp.matmul))):
        assert found.dtype == expected.dtype
        found, expected = np.float32(found), np.float32(expected)
        np.testing.assert_allclose(found, expected, atol=tolerance * max(1, abs(expected).max()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(width=0), "width=0 must be at least 1"),
        (dict(num_attention_heads=5), "multiple of model.num_attention_heads=5"),
        (dict(multiplexer="magic"), "there are: gaussian, binary, orthogonal, low_rank_orthogonal, contextual"),
        (dict(demultiplexer="magic"), "there are: rsa, prefix"),
        (dict(demultiplexer="prefix"), "prefix_token_id=680 must be from 3 to 63"),
        (dict(demultiplexer="prefix", prefix_token_id=2), "prefix_token_id=2 must be from 3 to 63"),
        (dict(multiplexer="binary", width=33), "width=33 must be at most model.embedding_size=32"),
        (dict(multiplexer="binary", binary_epsilon=1.5), "binary_epsilon=1.5"),
        (dict(head="token"), "labels"),
        (dict(labels=("a",)), "do not fit model.head='mlm'"),
        (dict(architecture="gpt"), "there are: bert, electra"),
        (dict(hidden_dropout=1.0), r"must be in \[0, 1\)"),
        (dict(embedding_size=16), "must equal"),
        (dict(architecture="electra", embedding_size=12, multiplexer="contextual"), "contextual"),
        (dict(num_demux_layers=1), "at least 2"),
    ],
)
def test_impossible_models_are_refused_by_field(change, message):
    with pytest.raises(InputError, match=message):
        small_model(**change)


def test_sizes_are_the_papers():
    assert SIZES["bert"]["base"] == dict(
        num_hidden_layers=12, hidden_size=768, intermediate_size=3072, num_attention_heads=12, embedding_size=768
    )
    assert SIZES["electra"]["small"]["embedding_size"] == 128


@pytest.mark.parametrize("demultiplexer", ["rsa", "prefix"])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_split_layers_and_states_that_are_read_alone_change_nothing(head, demultiplexer):
    fields = dict(width=3, head=head, labels=("a", "b"), demultiplexer=demultiplexer)
    config = small_model(**fields | (dict(prefix_token_id=40) if demultiplexer == "prefix" else {}))
    model, params = init(config)
    tokens = draw_tokens(config)
    hidden = apply(model, params, tokens, tokens != 0, method="encode")
    expected = model.apply({"params": params}, hidden, method="class_logits")
    split = model.clone(split_layers=True)
    found = apply(split, split_layers(params), tokens, tokens != 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(model, params, tokens, tokens != 0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture, width", [("bert", 2), ("modernbert", 1)])
def test_matrices_kept_in_the_dtype_of_products_give_the_same(architecture, width):
    model, params = init(small_model(architecture=architecture, width=width, head="none", dtype="bfloat16"))
    tokens, split = draw_tokens(model.config), model.clone(split_layers=True)
    kept = split_layers(params, "bfloat16")
    assert {x.dtype.name for x in jax.tree.leaves(kept["encoder"]) if x.ndim == 2} == {"bfloat16"}
    np.testing.assert_array_equal(apply(split, kept, tokens), apply(split, split_layers(params), tokens))
