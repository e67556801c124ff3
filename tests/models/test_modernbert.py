"""ModernBERT's layers do what their paper says, in every form, and its models say what they say in `transformers`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from mux_jax.errors import InputError
from mux_jax.models import flops
from mux_jax.models.encoder import split_layers
from mux_jax.models.families.modernbert import ModernBert
from mux_jax.models.model import MuxModel
from mux_jax.models.modernbert import rotary_angles, rotary_frequencies, rotate
from tests.checkpoints.folders import load
from tests.conftest import apply, draw_tokens, init, small_model
from tests.models.test_flops import LENGTH, WIDE, counted

# Layers 0 and 3 see all positions, the others two on each side.
SIZES = dict(num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=64)
WINDOW = dict(local_attention=4, local_rope_theta=100.0, global_rope_theta=1000.0)
PADDED = np.arange(40) < np.array([40, 40, 23])[:, None, None]


def modernbert(**changes):
    return small_model(architecture="modernbert", width=1, layer_norm_eps=1e-5, **SIZES | WINDOW | changes)


def params_of(config):
    """A model and parameters of which none has its first value, such as 1 in all LayerNorms."""
    model, params = init(config)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return model, tree.unflatten([x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys)])


def test_scanned_unrolled_and_recomputed_layers_agree():
    config = modernbert(head="none")
    model, params = params_of(config)
    tokens = draw_tokens(config, length=40)
    expected = apply(model, params, tokens, PADDED)
    for change in ({"scan_layers": False}, {"remat": True}):
        other = type(model)(dataclasses.replace(config, **change))
        np.testing.assert_allclose(apply(other, params, tokens, PADDED), expected, atol=2e-5)


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_split_layers_and_states_that_are_read_alone_change_nothing(head):
    config = modernbert(head=head, labels=("a", "b"))
    model, params = params_of(config)
    tokens = draw_tokens(config, length=40)
    split = model.clone(split_layers=True)
    expected = apply(model, params, tokens, PADDED)
    np.testing.assert_allclose(apply(split, split_layers(params), tokens, PADDED), expected, atol=2e-5)


def test_a_local_layer_sees_its_window_and_a_global_one_everything():
    for layers in (1, 2):
        assert seen_by(modernbert(num_hidden_layers=layers, head="none"), query=6).all()
    # Without the attention of the first layer, which sees everything, what is left are one or two windows.
    for layers, reach in ((2, 2), (3, 4)):
        config = modernbert(num_hidden_layers=layers, head="none")
        np.testing.assert_array_equal(seen_by(config, query=6, first=0.0), abs(np.arange(12) - 6) <= reach)


def seen_by(config, query, first=1.0):
    """Which of 12 positions change the last state at `query`; `first` scales what attention of layer 0 adds."""
    model, params = params_of(config)
    output = params["encoder"]["layers"]["attention"]["output"]
    output["kernel"] = output["kernel"].at[0].multiply(first)

    @jax.jit
    @jax.grad
    def slope(hidden_BLD):
        return (model.bind({"params": params}).encoder(hidden_BLD, None)[0, query] ** 3).sum()

    slope_BLD = slope(jax.random.normal(jax.random.key(1), (1, 12, 32)))
    return np.abs(slope_BLD[0]).max(axis=-1) > 0


def test_padding_does_not_matter_even_where_a_window_is_all_padding():
    config = modernbert(head="none")
    model, params = params_of(config)
    tokens = draw_tokens(config, length=40)
    states = apply(model, params, tokens, PADDED)
    changed = apply(model, params, jnp.where(PADDED, tokens, 7), PADDED)
    assert np.isfinite(states).all()
    np.testing.assert_allclose(states[PADDED], changed[PADDED], atol=1e-5)
    np.testing.assert_allclose(states[2, :, :23], apply(model, params, tokens[2:, :, :23])[0], atol=1e-5)


def test_the_mean_is_of_tokens_that_are_no_padding():
    config = modernbert(head="sequence", labels=("a", "b"), classifier_pooling="mean")
    model, params = params_of(config)
    tokens = draw_tokens(config, length=40)
    alone = apply(model, params, tokens[2:, :, :23])
    np.testing.assert_allclose(apply(model, params, tokens, PADDED)[2:], alone, atol=1e-5)


def test_the_first_layer_has_no_norm_before_its_attention():
    config = modernbert()
    model, params = params_of(config)
    tokens = draw_tokens(config)
    expected = apply(model, params, tokens)
    scale = params["encoder"]["layers"]["attention_norm"]["scale"]
    for layer, same in ((0, True), (1, False)):
        params["encoder"]["layers"]["attention_norm"]["scale"] = scale.at[layer].set(3.0)
        assert np.allclose(apply(model, params, tokens), expected, atol=1e-6) == same


def test_scores_of_rotated_states_depend_on_their_distance():
    angles = rotary_angles(9, rotary_frequencies(100.0, 8))
    x, y = jax.random.normal(jax.random.key(0), (2, 8))
    scores = np.asarray(rotate(jnp.tile(x, (9, 1)), angles) @ rotate(jnp.tile(y, (9, 1)), angles).T)
    for distance in range(-8, 9):
        np.testing.assert_allclose(np.diag(scores, distance), np.diag(scores, distance)[0], atol=1e-5)
    assert np.ptp(scores[0]) > 0.1


def test_bfloat16_products_keep_float32_parameters_and_logits():
    config = modernbert(dtype="bfloat16")
    model, params = init(config)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    tokens = draw_tokens(config)
    logits = apply(model, params, tokens)
    assert logits.dtype == jnp.float32
    exact = apply(type(model)(dataclasses.replace(config, dtype="float32")), params, tokens)
    assert np.linalg.norm(logits - exact) / np.linalg.norm(exact) < 0.05


def test_dropout_differs_by_its_key():
    config = modernbert(head="none", hidden_dropout=0.1, attention_dropout=0.1)
    model, params = init(config)
    tokens = draw_tokens(config)
    trained = model.clone(deterministic=False)
    run = jax.jit(lambda rng: trained.apply({"params": params}, tokens, rngs={"dropout": rng}))
    a, b = (run(jax.random.key(i)) for i in (0, 1))
    assert np.abs(a - b).max() > 0.1


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_flops_are_those_that_xla_counts(head, pooling):
    config = small_model(
        **WIDE, architecture="modernbert", width=1, head=head, labels=("a", "b"), classifier_pooling=pooling
    )
    found = counted(lambda model, params, tokens: model.apply({"params": params}, tokens), config, split_layers=True)
    assert flops.classification(config, LENGTH) == pytest.approx(found, rel=0.03)


def test_configurations_of_transformers_5_are_read_as_those_of_4():
    old = dict(global_attn_every_n_layers=2, global_rope_theta=9.0, local_rope_theta=8.0, hidden_size=4)
    assert ModernBert.as_today(old) == old
    rope = {"full_attention": {"rope_type": "default", "rope_theta": 9.0}, "sliding_attention": {"rope_theta": 8.0}}
    types = ["full_attention", "sliding_attention", "full_attention"]
    new = ModernBert.as_today(dict(layer_types=types, rope_parameters=rope, hidden_size=4))
    assert {name: new[name] for name in old} == old
    for types, every in ((["full_attention"] * 2, 1), (["full_attention", "sliding_attention"], 2)):
        assert ModernBert.as_today(dict(layer_types=types))["global_attn_every_n_layers"] == every
    for types in (["sliding_attention"] * 3, ["full_attention", "sliding_attention", "full_attention"] * 2):
        with pytest.raises(InputError, match="layer_types=.* is not supported"):
            ModernBert.as_today(dict(layer_types=types))
    with pytest.raises(InputError, match="rope_type='yarn' is not supported"):
        ModernBert.as_today(dict(rope_parameters={"full_attention": {"rope_type": "yarn"}}))


def test_there_is_no_multiplexed_one():
    with pytest.raises(InputError, match="model.width=2: modernbert exists at width 1 only"):
        small_model(architecture="modernbert", width=2)


def of_transformers(name, **fields):
    """A model of the class `name` of `transformers`, of random weights and of the sizes above."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_labels=3)
    special = dict(pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)
    config = transformers.ModernBertConfig(**sizes, **special, **SIZES | WINDOW | fields)
    model = getattr(transformers, name)(config)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # norms, too
    return model.eval()


@pytest.mark.extra
@pytest.mark.parametrize(
    "name, fields",
    [
        ("ModernBertModel", {}),
        ("ModernBertForMaskedLM", dict(global_attn_every_n_layers=2, local_attention=7)),
        ("ModernBertForMaskedLM", dict(tie_word_embeddings=False)),
        ("ModernBertForSequenceClassification", dict(classifier_pooling="cls")),
        ("ModernBertForSequenceClassification", dict(classifier_pooling="mean")),
        ("ModernBertForTokenClassification", {}),
    ],
    ids=str,
)
def test_a_model_says_what_it_says_there(name, fields, tmp_path):
    import torch

    model = of_transformers(name, **fields)
    model.save_pretrained(tmp_path)
    config, params = load(epath.Path(tmp_path))
    tokens = draw_tokens(config, length=40)
    with torch.no_grad():
        given = (torch.tensor(np.asarray(x)[:, 0], dtype=int) for x in (tokens, PADDED))
        expected = next(iter(model(*given).values())).numpy()
    for split in (False, True):
        ours = MuxModel(config, split_layers=split)
        found = np.asarray(apply(ours, split_layers(params) if split else params, tokens, PADDED))[:, 0]
        shown = slice(None) if config.head == "sequence" else PADDED[:, 0]
        np.testing.assert_allclose(found[shown], expected[shown], rtol=0, atol=1e-5)


@pytest.mark.extra
def test_a_configuration_of_transformers_4_means_what_it_means_there():
    import transformers

    old = dict(global_attn_every_n_layers=2, global_rope_theta=9.0, local_rope_theta=8.0, num_hidden_layers=5)
    new = ModernBert.as_today(transformers.ModernBertConfig(**old).to_dict())
    new_alone = {field: new[field] for field in ("layer_types", "rope_parameters")}
    assert {field: new[field] for field in old} == old
    assert old.items() <= (ModernBert.as_today(new_alone) | dict(num_hidden_layers=5)).items()
    defaults = ModernBert.as_today(transformers.ModernBertConfig().to_dict())
    assert {field: defaults[field] for field in ModernBert.only} == ModernBert.only
    assert all(defaults[field] == value for field, value in ModernBert.fields.values())
