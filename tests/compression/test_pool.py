"""What a reduced model learns from: each text beside its answer, whatever the batch; answers are computed once."""

import itertools

import jax
import numpy as np
import pytest
from etils import epath

from mux_jax.checkpoints.source import open_model
from mux_jax.compression import pool
from mux_jax.compression.pool import Pool, PoolBatches
from mux_jax.data.encoding import Encoded, Encoder
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.models.encoder import split_layers
from mux_jax.parallel.mesh import make_mesh
from tests.conftest import init, small_model
from tests.tasks import sentences, write_model

LENGTHS = (4, 8, 16)
PAD = 0
# kind -> the shape of a text's labels in a batch, after B and N, and what they are
NO_LABELS = {"sequence": ((), -1), "multi_label": ((3,), -1), "regression": ((), np.nan), "token": ((None,), -1)}


def encode(count=45, types=False, of_tokens=False):
    """Texts of 2 to 16 tokens; each begins with its number, from 100 on."""
    rng = np.random.default_rng(0)
    ids = [np.concatenate([[100 + i], rng.integers(5, 60, rng.integers(1, 16))]).astype(np.int32) for i in range(count)]
    return Encoded(
        ids,
        [np.arange(len(x)) for x in ids] if of_tokens else None,
        0,
        [1] * count,
        [(np.arange(len(x)) > 2).astype(np.int32) for x in ids] if types else None,
    )


def answers_of(encoded, kind):
    """Made of the text's number, and of the token's place."""
    classes = 1 if kind == "regression" else 3
    numbers = [float(x[0]) for x in encoded.ids]
    if kind != "token":
        return [np.float32(n) + np.arange(classes, dtype=np.float32) for n in numbers]
    shifts = [np.arange(len(x), dtype=np.float32)[:, None] / 100 for x in encoded.ids]
    return [np.float32(n) + shift + np.arange(classes, dtype=np.float32) for n, shift in zip(numbers, shifts)]


def batches(kind="sequence", types=False, count=45, own=0, **changes):
    encoded = encode(count, types)
    given = dict(rows=4, width=2, lengths=LENGTHS, seed=0, mine=np.arange(4), pad_id=PAD) | changes
    return PoolBatches(Pool(encoded, answers_of(encoded, kind), own or count), kind, **given)


def assert_alike(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b):
    return a["tokens"].shape != b["tokens"].shape or (a["tokens"] != b["tokens"]).any()


def test_a_batch_follows_from_the_seed_and_the_step():
    first, again, other = batches(), batches(), batches(seed=1)
    for step in (13, 2, 0, 100):  # in any order
        assert_alike(first[step], again[step])
    assert_alike(first[2], batches()[2])
    assert any(differ(first[step], other[step]) for step in range(3))
    assert any(differ(first[step], first[step + first.per_epoch]) for step in range(3))  # epochs are drawn anew


@pytest.mark.parametrize("width, rows", [(1, 5), (2, 4), (3, 7)])
def test_an_epoch_has_each_text_once(width, rows):
    found = batches(width=width, rows=rows, mine=np.arange(rows))
    assert found.per_epoch == -(-45 // (width * rows))
    for epoch in range(2):
        steps = range(epoch * found.per_epoch, (epoch + 1) * found.per_epoch)
        seen = np.concatenate([found[step]["tokens"][..., 0].ravel() for step in steps])
        assert len(seen) == found.per_epoch * width * rows
        numbers, times = np.unique(seen, return_counts=True)
        assert numbers.tolist() == list(range(100, 145))
        assert (times > 1).sum() <= len(seen) - 45  # none but those that fill the last batch


def test_an_epoch_has_at_most_as_many_joined_texts_as_others():
    found = batches(own=15)
    assert found.per_epoch == -(-30 // 8)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * found.per_epoch, (epoch + 1) * found.per_epoch)
        seen = set(np.concatenate([found[step]["tokens"][..., 0].ravel() for step in steps]))
        assert set(range(100, 115)) < seen and len(seen) == 30
        epochs.append(seen - set(range(100, 115)))
    assert epochs[0] != epochs[1]  # others in each
    few = batches(own=40)
    assert few.per_epoch == -(-45 // 8)  # there are no more than 5


@pytest.mark.parametrize("kind", NO_LABELS)
def test_answers_stand_at_their_texts_and_there_are_no_labels(kind):
    found = batches(kind)
    for step in range(2 * found.per_epoch):
        batch = found[step]
        B, N, L = batch["tokens"].shape
        assert (B, N) == (4, 2) and L in LENGTHS and "token_types" not in batch
        for b, n in itertools.product(range(B), range(N)):
            tokens, taught = batch["tokens"][b, n], batch["teacher"][b, n]
            wanted = float(tokens[0]) + np.arange(1 if kind == "regression" else 3)
            if kind == "token":
                size = int((tokens != PAD).sum())
                wanted = wanted + np.arange(size)[:, None] / 100
                assert not taught[size:].any()
                taught = taught[:size]
            np.testing.assert_allclose(taught, wanted, rtol=1e-6)
        shape, value = NO_LABELS[kind]
        assert batch["labels"].shape == (B, N, *(L if size is None else size for size in shape))
        np.testing.assert_array_equal(batch["labels"], value)
        assert batch["labels"].dtype == (np.float32 if kind == "regression" else np.int32)
        assert batch["teacher"].dtype == np.float32


def test_token_types_of_pairs_stand_at_their_tokens():
    found = batches(types=True)
    for step in range(found.per_epoch):
        batch = found[step]
        real = batch["tokens"] != PAD
        expected = real & (np.arange(real.shape[-1]) > 2)
        np.testing.assert_array_equal(batch["token_types"], expected)


def test_hosts_have_their_rows_of_one_batch():
    whole, parts = batches(), [batches(mine=np.array(mine)) for mine in ([0, 2], [1, 3])]
    for step in range(3):
        for part, mine in zip(parts, ([0, 2], [1, 3])):
            assert_alike(part[step], {name: x[mine] for name, x in whole[step].items()})


def test_rows_are_as_long_as_their_texts_ask_for():
    found = batches(count=400)
    lengths = {found[step]["tokens"].shape[-1] for step in range(found.per_epoch)}
    assert lengths == set(LENGTHS)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("encoder") / "model", width=1)
    return Encoder(open_model(str(folder)).tokenizer(), 16)


def test_texts_are_joined_up_to_the_size(encoder):
    plain = pool.encode(sentences(20), encoder, of_tokens=False)
    assert len(plain.ids) == 20 and plain.places is None
    more = pool.with_joined(plain, 50, 16, seed=1)
    assert len(more.ids) == len(more.windows) == 50
    assert_alike(more.ids[:20], plain.ids)
    first, last = plain.ids[0][0], plain.ids[0][-1]
    for ids in more.ids[20:]:
        assert 2 < len(ids) <= 16 and (ids[0], ids[-1]) == (first, last)
        assert first not in ids[1:] and last not in ids[1:-1]
    assert np.mean([len(x) for x in more.ids[20:]]) > 1.3 * np.mean([len(x) for x in plain.ids])
    assert_alike(more.ids, pool.with_joined(plain, 50, 16, seed=1).ids)
    other = pool.with_joined(plain, 50, 16, seed=2).ids
    assert any(len(x) != len(y) or (x != y).any() for x, y in zip(more.ids, other))
    assert len(pool.with_joined(plain, 7, 16, seed=0).ids) == 20  # what is there stays


def test_pairs_keep_their_types(encoder):
    found = pool.encode(list(zip(sentences(9), sentences(9, seed=1))), encoder, of_tokens=False)
    assert len(found.ids) == 9 and {0, 1} == {int(x) for types in found.types for x in types}
    assert [len(x) for x in found.types] == [len(x) for x in found.ids]
    assert_alike(pool.first(found, 4).types, found.types[:4])


def test_answers_of_tokens_have_a_place_for_each(encoder):
    found = pool.encode([text.split() for text in sentences(9)], encoder, of_tokens=True)
    for encoded, count in ((found, 9), (pool.with_joined(found, 20, 16, seed=0), 20)):
        assert len(encoded.ids) == count
        assert_alike(encoded.places, [np.arange(len(x)) for x in encoded.ids])


def test_few_lengths_are_where_the_texts_are():
    ids = [np.zeros(n, np.int32) for n in (3,) * 90 + (40,) * 9 + (90,)]
    lengths = (4, 8, 16, 32, 64, 128, 256)
    assert pool.few_lengths(Encoded(ids, None, 0, [1] * 100), lengths) == (4, 64, 256)


@pytest.mark.parametrize("width", [1, 3])
def test_a_sample_is_of_whole_rows_with_similar_lengths_side_by_side(width):
    encoded = encode(400)
    found, types = pool.sample(encoded, LENGTHS, width, 1000, PAD, seed=0)
    assert types is None
    sizes = (found != PAD).sum(1)
    assert found.shape[1] == 16 and len(found) % width == 0 and found.dtype == np.int32
    assert (np.diff(sizes) >= 0).all() and 900 < sizes.sum() <= 1016
    assert len(set(found[:, 0])) == len(found)  # none twice
    assert_alike(found, pool.sample(encoded, LENGTHS, width, 1000, PAD, seed=0)[0])
    assert set(found[:, 0]) != set(pool.sample(encoded, LENGTHS, width, 1000, PAD, seed=1)[0][:, 0])
    assert len(pool.sample(encoded, LENGTHS, width, 10**6, PAD, seed=0)[0]) == 400 // width * width


def test_a_few_long_texts_are_cut_in_a_sample():
    ids = [np.full(3, 100 + i, np.int32) for i in range(50)] + [np.full(16, 99, np.int32)]
    types = [np.ones(len(x), np.int32) for x in ids]
    found, found_types = pool.sample(Encoded(ids, None, 0, [1] * 51, types), LENGTHS, 1, 10**6, PAD, seed=0)
    np.testing.assert_array_equal(found_types, found != PAD)
    assert found.shape == (51, 4) and found[-1].tolist() == [99] * 4


def answers(runner, params, encoded, folder):
    return pool.answer(runner, params, {"texts": encoded}, folder)[0]["texts"]


@pytest.fixture(scope="module", params=["sequence", pytest.param("token", marks=pytest.mark.extra)])
def answered(request, tmp_path_factory):
    """Texts, a folder with their answers, which a tiny model gave, and those answers as computed directly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_SHARD", 20)
        one = jax.devices()[:1]
        config = small_model(width=1, num_hidden_layers=1, head=request.param, labels=("a", "b", "c"), vocab_size=200)
        model, params = init(config)
        runner = BatchRunner(model, make_mesh(devices=one), 8, LENGTHS, PAD)
        encoded = encode(types=request.param == "sequence", of_tokens=request.param == "token")
        folder = epath.Path(tmp_path_factory.mktemp("answers")) / "kept"
        found = answers(runner, split_layers(params), encoded, folder)
        direct = []
        for i, ids in enumerate(encoded.ids):
            part = Encoded([ids], encoded.places and encoded.places[i : i + 1], 0, [1],
                           encoded.types and encoded.types[i : i + 1])  # fmt: skip
            direct += runner(split_layers(params), part, np.random.default_rng(0))
        yield encoded, folder, found, direct


def test_answers_are_what_the_model_says_of_each_text_alone(answered):
    encoded, folder, found, direct = answered
    assert len(found) == len(direct) == 45 and len(list(folder.iterdir())) == 3
    for x, y, ids in zip(found, direct, encoded.ids):
        assert x.shape == y.shape == ((3,) if encoded.places is None else (len(ids), 3))
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_answers_that_are_kept_are_not_computed_again(answered, monkeypatch):
    encoded, folder, found, _ = answered
    monkeypatch.setattr(pool, "_SHARD", 20)

    def runner(*args, **kwargs):
        raise AssertionError("was run")

    assert_alike(answers(runner, None, encoded, folder), found)
    other = Encoded([encoded.ids[0] + 1], encoded.places and encoded.places[:1], 0, [1], None)
    with pytest.raises(AssertionError, match="was run"):
        answers(runner, None, other, folder)
    if encoded.types is not None:  # other types, other answers
        changed = Encoded(encoded.ids, None, 0, encoded.windows, [1 - x for x in encoded.types])
        with pytest.raises(AssertionError, match="was run"):
            answers(runner, None, changed, folder)


def test_what_is_missing_alone_is_computed(answered, monkeypatch, tmp_path):
    encoded, folder, found, _ = answered
    monkeypatch.setattr(pool, "_SHARD", 20)
    kept, sizes = epath.Path(tmp_path), []
    for file in list(folder.iterdir()):
        (kept / file.name).write_bytes(file.read_bytes())
    part = pool._slice(encoded, slice(20, 40))
    (kept / f"{pool._digest(part)}.npz").unlink()

    def runner(params, encoded, rng, report):
        sizes.append(len(encoded.ids))
        report(1.0)
        return found[20:40]

    assert_alike(answers(runner, None, encoded, kept), found)
    assert sizes == [20]
