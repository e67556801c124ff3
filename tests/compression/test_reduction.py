"""A model in another shape does about what the full one does, before it learns anything."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from etils import epath

import mux_jax
from mux_jax.checkpoints import huggingface
from mux_jax.checkpoints.convert import save_model
from mux_jax.checkpoints.huggingface_config import class_name
from mux_jax.compression.reduction import reduce_model
from mux_jax.compression.shape import MEANS, Shape, families, reduced
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh
from mux_jax.parallel.params import abstract_params
from tests.checkpoints.folders import assert_identical, load
from tests.conftest import SPECIAL, apply, init, small_model

CLASSES = dict(head="sequence", labels=("a", "b", "c"))
FULL = dict(layers=3, hidden=32)
SHAPES = {
    "shallow": Shape(layers=1, hidden=32),
    "narrow": Shape(layers=3, hidden=16),
    "both": Shape(layers=2, hidden=20),
    "two texts": Shape(**FULL, width=2),
    "three texts": Shape(**FULL, width=3),  # 3 divides neither the dimensions nor the heads nor the neurons
    "three texts, share 1.5": Shape(**FULL, width=3, share=1.5),
    "narrow, two texts": Shape(layers=3, hidden=16, width=2),
}


def texts(count, config, seed, length=12):
    """int32[count, length]: CLS, random tokens, padding."""
    rng, pad = np.random.default_rng(seed), pad_of(config)
    tokens = rng.integers(len(dataclasses.astuple(SPECIAL)), config.vocab_size, (count, length))
    tokens[:, 0] = SPECIAL.cls
    tokens[np.arange(length) >= rng.integers(4, length + 1, count)[:, None]] = pad
    return tokens.astype(np.int32)


def pad_of(config):
    return getattr(config.family, "pad_token_id", SPECIAL.pad)


def full_model(**changes):
    """A random model whose classes depend on all tokens: its words have 4 dimensions, and its weights are large."""
    config = small_model(**dict(width=1, num_hidden_layers=3) | CLASSES | changes)
    params = jax.device_get(init(config, seed=3)[1])
    rng = np.random.default_rng(0)
    span = rng.normal(size=(4, config.embedding_size))
    for name, scale in (("word", 0.1), ("position", 0.02)):
        if name in params["embeddings"]:
            table = params["embeddings"][name]
            params["embeddings"][name] = (scale * rng.normal(size=(len(table), 4)) @ span).astype(np.float32)

    def enlarge(path, x):
        names = jax.tree_util.keystr(path)
        if "pooler" in names or "dense" in names:  # far from where tanh is a line
            return 10 * x
        if "kernel" not in names or "['encoder']" not in names:
            return x + np.float32(0.02) * rng.normal(size=x.shape).astype(np.float32)
        return x * (15 if "'value'" in names or "['attention']['output']" in names else 4)

    return config, jax.tree_util.tree_map_with_path(enlarge, params)


def reduce(config, params, shape, count=600):
    found = reduce_model(config, params, shape, texts(count, config, 0), None, pad_of(config), 0, lambda *_: None)
    assert found[0] == reduced(config, shape)
    expected = jax.tree.map(lambda x: x.shape, abstract_params(MuxModel(found[0]), make_mesh()))
    assert jax.tree.map(lambda x: x.shape, dict(found[1])) == expected
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in jax.tree.leaves(found[1]))
    return found


def logits(config, params, seed=1, count=300):
    """Of held-out texts: [texts, C], or [tokens, C] of those that are no padding."""
    tokens = texts(count, config, seed)
    rows = tokens.reshape(-1, config.width, tokens.shape[-1])
    found = np.asarray(apply(MuxModel(config), params, rows, rows != pad_of(config)))
    found = found.reshape(count, *found.shape[2:])
    return found[tokens != pad_of(config)] if config.head == "token" else found


def correlation(x, y):
    """Of the logits of a class over texts, the mean over classes."""
    return np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(x.T, y.T)])


@pytest.fixture(scope="module")
def full():
    return full_model(pooler=True)


@pytest.fixture(scope="module")
def made(full):
    """name in `SHAPES` -> its model, made once."""
    known = {}

    def get(name):
        if name not in known:
            known[name] = reduce(*full, SHAPES[name])
        return known[name]

    return get


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_where_nothing_is_reduced_the_model_stays_as_it_is(family):
    config, params = full_model() if family == "bert" else modernbert()
    same = reduce(config, params, Shape(layers=config.num_hidden_layers, hidden=config.hidden_size))
    assert same[0] == config
    assert_identical(same[1], params)


def modernbert():
    config = small_model(architecture="modernbert", width=1, num_hidden_layers=5, local_attention=4, **CLASSES)
    return config, jax.device_get(init(config, seed=3)[1])


# What is left of the correlation is far from that of a random start in every one, and higher where more is kept.
@pytest.mark.parametrize(
    "name, least",
    [
        ("shallow", 0.9),
        ("narrow", 0.95),  # 0.94 if the fit of the classes took tanh for a line
        pytest.param("both", 0.9, marks=pytest.mark.extra),
        pytest.param("two texts", 0.6, marks=pytest.mark.extra),
        ("three texts", 0.6),
        pytest.param("three texts, share 1.5", 0.5, marks=pytest.mark.extra),
        pytest.param("narrow, two texts", 0.5, marks=pytest.mark.extra),
    ],
)
def test_a_reduced_model_gives_the_full_ones_logits_far_better_than_a_random_one(name, least, full, made):
    wanted, (config, params) = logits(*full), made(name)
    assert correlation(logits(config, params), wanted) > least
    assert abs(correlation(logits(config, init(config, seed=5)[1]), wanted)) < 0.3


@pytest.mark.extra
def test_what_stands_at_padding_changes_nothing(full, made):
    config, params = full
    word = np.array(params["embeddings"]["word"])
    word[SPECIAL.pad] = np.random.default_rng(0).normal(size=word.shape[1])
    other = params | {"embeddings": params["embeddings"] | {"word": word}}
    for part in ("encoder", "pooler", "classifier"):
        alike = (found[part] for found in (made("narrow")[1], reduce(config, other, SHAPES["narrow"])[1]))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-3), *alike)


def test_instances_hardly_disturb_each_other(made):
    config, params = made("three texts")
    tokens, others = (texts(18, config, seed).reshape(-1, 3, 12) for seed in (1, 2))
    others = np.stack([tokens[:, 0], others[:, 1], tokens[:, 2]], axis=1)

    def separate(bound, tokens_BNL):
        return bound.demultiplex(bound.encode(tokens_BNL))

    a, b = (np.asarray(MuxModel(config).apply({"params": params}, x, method=separate)) for x in (tokens, others))
    changed = [np.square(a[:, i] - b[:, i]).mean() / a[:, i].var(axis=(0, 1)).mean() for i in range(3)]
    assert changed[0] < 0.15 and changed[2] < 0.15 and changed[1] > 0.5


def test_what_is_left_over_can_be_trained(made):
    config, params = made("three texts")
    attention = params["encoder"]["layers"]["attention"]
    used = 3 * (config.num_attention_heads // 3) * config.head_size
    assert used < config.hidden_size
    assert (np.abs(attention["query"]["kernel"][..., used:]).max((0, 1)) > 0).all()
    assert not attention["output"]["kernel"][:, used:, : 32 // 3 * 3].any()


@pytest.mark.extra
def test_the_same_texts_and_seed_give_the_same_model(full):
    first, second = (reduce(*full, SHAPES["three texts"])[1] for _ in range(2))
    assert_identical(first, second)


MODELS = {
    "bert": dict(pooler=True),
    "bert without pooler": {},
    "one logit": dict(labels=("score",), pooler=True),
    "several labels": dict(multi_label=True, pooler=True),
    "tokens": dict(head="token"),
    "electra": dict(architecture="electra"),
    "electra, projected": dict(architecture="electra", embedding_size=16),
    "distilbert": dict(architecture="distilbert"),
    "roberta": dict(architecture="roberta"),
    "mpnet": dict(architecture="mpnet"),
}
_IN_CORE = {("bert without pooler", "narrow"), ("mpnet", "narrow")}
REDUCED = {"shallow": Shape(layers=2, hidden=32), "narrow": Shape(layers=3, hidden=16)}


def model_of(name):
    config, params = full_model(**MODELS[name])
    if name == "mpnet":  # whose bias by distance shall matter
        params["encoder"]["relative_bias"]["table"] = 50 * params["encoder"]["relative_bias"]["table"]
    return config, params


@pytest.mark.parametrize(
    "name, kind",
    [
        pytest.param(*case, marks=() if case in _IN_CORE else pytest.mark.extra)
        for case in itertools.product(MODELS, REDUCED)
    ],
)
def test_every_family_and_head_can_be_reduced(name, kind):
    (config, params), shape = model_of(name), REDUCED[kind]
    made, found = reduce(config, params, shape)
    changed = dict(num_hidden_layers=shape.layers, hidden_size=shape.hidden, intermediate_size=2 * shape.hidden)
    changed["num_attention_heads"] = shape.hidden // config.head_size
    if config.embedding_size == config.hidden_size:
        changed["embedding_size"] = shape.hidden
    assert made == ModelConfig.from_flat(config.to_flat() | changed)
    assert correlation(logits(made, found), logits(config, params)) > 0.8


@pytest.mark.extra
@pytest.mark.parametrize("name", [name for name in MODELS if name != "electra, projected"])
def test_every_family_and_head_can_share_rows(name):
    config, params = model_of(name)
    made, found = reduce(config, params, Shape(layers=3, hidden=32, width=2))
    assert (made.width, made.multiplexer, made.demultiplexer) == (2, "low_rank_orthogonal", "rsa")
    for kept in ("architecture", "labels", "multi_label", "has_pooler"):
        assert getattr(made, kept) == getattr(config, kept)
    for part in {"pooler", "classifier"} & params.keys():
        assert_identical(found[part], params[part])
    assert correlation(logits(made, found), logits(config, params)) > 0.4


def test_a_projection_that_is_as_narrow_as_the_embeddings_goes_into_them():
    """An ELECTRA of embeddings and states of one size has no projection."""
    config, params = model_of("electra, projected")
    shape = Shape(layers=3, hidden=config.embedding_size)
    made, found = reduce(config, params, shape)
    assert made.embedding_size == made.hidden_size == 16 and "embeddings_project" not in found
    assert correlation(logits(made, found), logits(config, params)) > 0.8


@pytest.mark.extra
def test_a_projection_to_less_than_the_embeddings_stays_one():
    config, params = model_of("electra, projected")
    made, found = reduce(config, params, Shape(layers=3, hidden=12))
    assert made.embedding_size == 16 and found["embeddings_project"]["kernel"].shape == (16, 12)
    assert correlation(logits(made, found), logits(config, params)) > 0.8


def test_a_modernbert_keeps_whole_layers_of_the_kind_that_their_place_asks_for():
    config, params = modernbert()
    for count, kept in ((1, [0]), (2, [0, 4]), (3, [0, 1, 2]), (4, [0, 1, 2, 3])):
        made, found = reduce(config, params, Shape(layers=count, hidden=32))
        assert made == dataclasses.replace(config, num_hidden_layers=count)
        assert all(i % 3 == j % 3 for j, i in enumerate(kept))  # every third sees all positions
        layers = jax.tree.map(lambda x, kept=kept: x[np.array(kept)], params["encoder"]["layers"])
        assert_identical(found, params | {"encoder": params["encoder"] | {"layers": layers}})


@pytest.mark.extra
@pytest.mark.parametrize("shape", REDUCED.values(), ids=REDUCED)
@pytest.mark.parametrize("name", [*(name for name in MODELS if name != "bert without pooler"), "modernbert"])
def test_transformers_loads_a_reduced_model_and_computes_the_same(name, shape, tmp_path):
    import torch
    import transformers

    if name == "modernbert" and shape.hidden < 32:
        shape = Shape(layers=3, hidden=32)
    made, found = reduce(*(modernbert() if name == "modernbert" else model_of(name)), shape)
    made = dataclasses.replace(made, dtype="float32")
    huggingface.write(epath.Path(tmp_path), made, found)
    model, info = getattr(transformers, class_name(made)).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in info), info
    tokens = texts(20, made, 1)
    mask = tokens != pad_of(made)
    with torch.no_grad():
        out = model.eval()(torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(mask.astype(np.int64)))
    ours = np.asarray(apply(MuxModel(made), found, tokens[:, None], mask[:, None]))[:, 0]
    theirs = out.logits.numpy()
    if made.head == "token":
        ours, theirs = ours[mask], theirs[mask]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    back = load(epath.Path(tmp_path))
    assert back[0].to_flat() | dict(dtype="float32") == made.to_flat()


@pytest.mark.parametrize(
    "changes, shape, message",
    [
        (dict(width=2), {}, "--model has width 2; it must be an ordinary model, of width 1"),
        ({}, dict(layers=0), "--layers=0 must be from 1 to 3, the layers of --model"),
        ({}, dict(layers=4), "--layers=4 must be from 1 to 3"),
        ({}, dict(hidden=18), "--hidden=18 must be a multiple of 4, .* up to 32: the next are 16 and 20"),
        ({}, dict(hidden=3), "--hidden=3 .* the next are 4 and 8"),
        ({}, dict(hidden=0), "--hidden=0 .* the next are 4 and 8"),
        ({}, dict(hidden=36), "--hidden=36 .* up to 32: the next are 32"),
        ({}, dict(width=9), "--width=9 must be from 1 to 8, the heads: each text of a row needs one"),
        ({}, dict(hidden=8, width=3), "--width=3 must be from 1 to 2, the heads"),
        ({}, dict(width=0), "--width=0 must be from 1"),
        ({}, dict(share=1.5), "--share=1.5 must be from 1 to 1, the texts of a row"),
        ({}, dict(width=2, share=0.9), "--share=0.9 must be from 1 to 2"),
        ({}, dict(width=2, share=2.5), "--share=2.5 must be from 1 to 2"),
        (
            dict(architecture="electra", embedding_size=16),
            dict(width=2),
            "--width=2: --model has embeddings of 16 and states of 32 dimensions",
        ),
        (dict(architecture="modernbert"), dict(hidden=16), "modernbert can be made cheaper by --layers alone"),
        (dict(architecture="modernbert"), dict(width=2), "modernbert can be made cheaper by --layers alone"),
    ],
)
def test_a_shape_that_a_model_cannot_have_is_refused(changes, shape, message):
    config = small_model(**dict(width=1, num_hidden_layers=3) | CLASSES | changes)
    with pytest.raises(InputError, match=message) as e:
        reduced(config, Shape(**FULL | shape))
    assert "\n" not in str(e.value)


def test_the_shapes_of_each_means_go_from_the_largest_to_the_smallest():
    config = small_model(width=1, num_hidden_layers=6, **CLASSES)
    shapes = {means: families(config, means) for means in MEANS}
    assert [[shape.layers for shape in found] for found in shapes["layers"]] == [[5, 4, 3, 2, 1]]
    narrower = [28, 24, 20, 16, 12, 8, 4]
    assert [[shape.hidden for shape in found] for found in shapes["hidden"]] == [narrower]
    assert [[(shape.layers, shape.hidden) for shape in found] for found in shapes["both"]] == [
        [(k, h) for h in narrower] for k in (2, 3)
    ]
    assert [[shape.width for shape in found] for found in shapes["width"]] == [[2, 3, 4, 5, 6, 7, 8]]
    for found in itertools.chain(*shapes.values()):
        assert all(reduced(config, shape) for shape in found)
    only_layers = small_model(architecture="modernbert", width=1, num_hidden_layers=3, **CLASSES)
    assert [bool(families(only_layers, means)) for means in MEANS] == [True, False, False, False]
    projected = small_model(architecture="electra", embedding_size=16, width=1, **CLASSES)
    assert families(projected, "hidden") and not families(projected, "width")
    assert not families(small_model(width=1, num_hidden_layers=1, **CLASSES), "both")


@pytest.mark.parametrize(
    "shape, name",
    [
        ({}, "as it is"),
        (dict(layers=1), "1 layer"),
        (dict(layers=2, hidden=16), "2 layers, hidden 16"),
        (dict(width=2), "2 texts a row"),
        (dict(hidden=16, width=3, share=1.5), "hidden 16, 3 texts a row, share 1.5"),
    ],
)
def test_a_shape_is_named_by_what_differs(shape, name):
    assert Shape(**FULL | shape).name(small_model(width=1, num_hidden_layers=3)) == name


def test_a_text_never_has_more_dimensions_than_there_are():
    assert Shape(**FULL, width=3).text_dimensions == 10
    assert Shape(**FULL, width=3, share=1.5).text_dimensions == 15
    assert Shape(**FULL, width=2, share=2).text_dimensions == Shape(**FULL, width=1).text_dimensions == 32


@pytest.mark.extra
def test_a_reduced_model_is_saved_and_comes_back(made, tmp_path):
    config, params = made("three texts")
    save_model(epath.Path(tmp_path / "out"), config, jax.tree.map(jax.numpy.asarray, params), None, "full", False, None)
    model, found = mux_jax.load_pretrained(str(tmp_path / "out"))
    assert model.config == config
    assert_identical(found, params)
