"""Which model is how fast: the search for rows and sizes, and what is timed. No test looks at the clock."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mux_jax.compression import speed
from mux_jax.compression.speed import Speeds, best_rows, rows_to_try, search
from mux_jax.data.encoding import Encoded
from mux_jax.errors import InputError
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh
from tests.conftest import small_model

LENGTHS = (4, 8, 12, 16)


def encode(sizes, **changes):
    """Texts of so many tokens, the number of a text being its tokens."""
    ids = [np.full(size, 5 + i, np.int32) for i, size in enumerate(sizes)]
    return Encoded(**dict(ids=ids, places=None, truncated=0, windows=[1] * len(ids)) | changes)


def classifier(**changes):
    return small_model(**dict(head="sequence", labels=("a", "b"), width=1) | changes)


@pytest.fixture
def fakes(monkeypatch):
    """Models that take as many seconds as they have neurons, in bfloat16 a quarter; a list of those that were made.

    The machine gets three times as slow at each turn, which the first model of a dtype begins.
    """
    made, slower = [], {}

    class Fake:
        def __init__(self, config, sample):
            made.append(config)
            self.rows, self.dtype = config.num_hidden_layers, config.dtype
            self.begins = config.dtype not in slower
            slower.setdefault(config.dtype, 1)
            self.base = config.intermediate_size / (4 if config.dtype == "bfloat16" else 1)

        def seconds(self):
            slower[self.dtype] *= 3 if self.begins else 1
            return self.base * slower[self.dtype]

    monkeypatch.setattr(speed, "_TimedModel", Fake)
    return made


@pytest.mark.parametrize("seed", range(50))
def test_the_search_finds_the_first_that_is_fast_enough_whatever_flops_say(seed):
    rng = np.random.default_rng(seed)
    factors, expected = np.sort(rng.uniform(1, 9, (2, 12)))
    calls = []

    def measured(i, known):
        calls.append(i)
        assert 0 <= known < 1
        return factors[i]

    speedup = rng.uniform(1, 10)
    found, factor = search(measured, expected, speedup)
    fast = [i for i in range(12) if factors[i] >= speedup]
    assert found == (fast[0] if fast else 11) and factor == factors[found]
    assert len(set(calls)) == len(calls)


def test_the_search_measures_few_where_flops_are_wrong_by_a_constant():
    calls = []
    expected = [1.0 + i / 4 for i in range(100)]

    def measured(i, known):
        calls.append(i)
        return 0.5 * expected[i]

    found, factor = search(measured, expected, 5)
    assert factor == 0.5 * expected[found] and factor >= 5 > 0.5 * expected[found - 1]
    assert calls[0] == next(i for i, x in enumerate(expected) if x >= 5) and len(calls) == 3


def test_the_fastest_that_was_measured_stands_in_where_none_is_fast_enough():
    assert search(lambda i, known: [1.0, 2.0, 3.0][i], [1.0, 2.0, 4.0], 5) == (2, 3.0)
    assert search(lambda i, known: [1.0, 3.0, 2.0][i], [1.0, 5.0, 6.0], 5) == (1, 3.0)  # narrower, and slower


def test_rows_take_turns_so_that_a_slow_minute_decides_nothing():
    """Whatever is timed in the second round is ten times as slow."""
    calls, of = [], {8: 1, 16: 2, 32: 4, 64: 3, 128: 1}

    def rate(rows):
        calls.append(rows)
        return of[rows] / (10 if 5 < len(calls) <= 10 else 1)

    assert best_rows(of, rate) == 32 and calls == list(of) * (len(calls) // 5)


def test_rows_are_multiples_of_the_devices_and_fewer_where_texts_are_long():
    mesh = make_mesh()
    assert jax.device_count() == 8
    assert rows_to_try(mesh, 24) == [8, 16, 32, 64, 128]
    assert rows_to_try(mesh, 256) == [8, 16]
    assert rows_to_try(mesh, 6144) == [8]
    assert rows_to_try(make_mesh(devices=jax.devices()[:3]), 256) == [9, 18]


def test_factors_are_within_turns_and_dtypes_apart(fakes):
    models = {"full": classifier(intermediate_size=60), "small": classifier(intermediate_size=15, num_hidden_layers=3)}
    found = Speeds(encode([3]), LENGTHS, 0).measure(models, ["float32", "bfloat16"], repeats=3)
    assert list(found) == ["float32", "bfloat16"]
    for rates in found.values():
        assert rates["full"].factor == 1 and rates["small"].factor == 4
        assert rates["full"].rows == 2 and rates["small"].rows == 3
    slower = 3**3  # in the median turn, the first being none
    assert found["float32"]["full"].texts_per_second == pytest.approx(speed._TEXTS / 60 / slower)
    assert found["bfloat16"]["full"].texts_per_second == pytest.approx(speed._TEXTS / 15 / slower)
    assert [config.dtype for config in fakes] == ["float32"] * 2 + ["bfloat16"] * 2


def test_a_factor_is_the_median_of_the_ratios_not_the_ratio_of_medians():
    taken = {"full": iter([9, 1, 4, 6]), "other": iter([9, 2, 1, 6])}
    models = {name: SimpleNamespace(rows=8, seconds=lambda t=t: next(t)) for name, t in taken.items()}
    found = speed._take_turns(models, 3)
    assert found["other"].factor == 1 and found["full"].factor == 1
    assert found["other"].texts_per_second == speed._TEXTS / 2


def test_the_largest_size_that_is_fast_enough_is_found_and_compiled_once(fakes):
    full = classifier(intermediate_size=120)
    family = [classifier(intermediate_size=n) for n in range(110, 0, -10)]
    speeds = Speeds(encode([3]), LENGTHS, 0)
    found, factor = speeds.find_size(full, family, 3, "float32")
    assert (found.intermediate_size, factor) == (40, pytest.approx(3))
    made = len(fakes)
    assert len(set(fakes)) == made and 3 <= made < 12
    assert {c.intermediate_size for c in fakes} >= {120, 50, 40}
    speeds.measure({"full": full, "found": found}, ["float32"])
    assert len(fakes) == made
    assert {c.intermediate_size for c in speeds._timed} == {120, 40}  # no other weights are held


def test_the_best_that_was_reached_comes_back_with_its_factor(fakes):
    full, family = classifier(intermediate_size=120), [classifier(intermediate_size=n) for n in (100, 60)]
    found, factor = Speeds(encode([3]), LENGTHS, 0).find_size(full, family, 5, "float32")
    assert found.intermediate_size == 60 and factor == pytest.approx(2) and factor < 5


def test_few_texts_are_repeated_and_keep_all_their_windows(monkeypatch):
    monkeypatch.setattr(speed, "_TEXTS", 6)
    types = [np.zeros(size, np.int32) for size in (3, 16, 7, 11)]
    sample = speed._Sample(encode([3, 16, 7, 11], windows=[1, 2, 1], types=types), LENGTHS, 0, LENGTHS, seed=0)
    assert sorted(len(x) for x in sample.texts.ids) == [3, 3, 7, 7, 11, 11, 16, 16]
    assert [len(x) for x in sample.texts.types] == [len(x) for x in sample.texts.ids]
    ids = [int(x[0]) for x in sample.texts.ids]
    assert all(ids[i + 1] == 7 for i, first in enumerate(ids) if first == 6)  # the windows of a text
    assert sample.main_length == 16 and {len(x) for x in sample.main.ids} == {16}


def test_of_very_many_texts_some_are_drawn_once(monkeypatch):
    monkeypatch.setattr(speed, "_TEXTS", 20)
    drawn = [
        [int(x[0]) for x in speed._Sample(encode([3] * 50), LENGTHS, 0, LENGTHS, seed).texts.ids] for seed in (0, 0, 1)
    ]
    assert len(set(drawn[0])) == 20 and drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("width", [1, 2])
def test_all_texts_are_in_the_batches_that_stand_for_them(width, one_device, monkeypatch):
    for name, value in dict(_TEXTS=100, _ROWS={"cpu": (2, 4)}, _SEARCH_SECONDS=0.0, _PASS_SECONDS=1e-9).items():
        monkeypatch.setattr(speed, name, value)
    sizes = [3] * 20 + [6] * 70 + [7] * 9 + [16]
    pairs = encode(sizes, types=[np.arange(size, dtype=np.int32) % 2 for size in sizes])
    sample = speed._Sample(pairs, LENGTHS, 0, LENGTHS, seed=0)
    model = speed._TimedModel(classifier(width=width, num_hidden_layers=1), sample)
    assert model.rows in (2, 4)
    slots = 0
    for batches, times in model._passes:
        tokens, *types = batches.arrays
        assert len(types) == (width == 1)  # multiplexed models take none
        assert tokens.shape[:2] == (model.rows, width) and times == 1
        slots += batches.count * model.rows * width
    assert slots == -(-100 // (model.rows * width)) * model.rows * width
    assert {batches.arrays[0].shape[2] for batches, _ in model._passes} == {4, 8, 16}  # none has 9 to 12 tokens
    assert model.seconds() > 0
    monkeypatch.setattr(model, "_time", lambda arrays, times: float(arrays[0].shape[2]))
    tokens = sum(batches.count * batches.arrays[0].shape[2] for batches, _ in model._passes)
    assert model.seconds() == tokens  # each length as often as it occurs


def test_real_models_are_measured(one_device, monkeypatch):
    for name, value in dict(_TEXTS=40, _ROWS={"cpu": (2, 4)}, _SEARCH_SECONDS=0.0, _PASS_SECONDS=1e-9).items():
        monkeypatch.setattr(speed, name, value)
    models = {"full": classifier(), "N = 2": classifier(width=2, num_hidden_layers=1)}
    found = Speeds(encode([3] * 10 + [6] * 30), LENGTHS, 0).measure(models, ["float32"], repeats=1)["float32"]
    assert list(found) == ["full", "N = 2"] and found["full"].factor == 1
    for rate in found.values():
        assert rate.texts_per_second > 0 and rate.factor > 0 and rate.rows in (2, 4)


def test_no_texts_are_refused():
    with pytest.raises(InputError, match="no texts"):
        Speeds(encode([]), LENGTHS, 0)


def test_weights_for_timing_have_the_shapes_of_the_model(one_device):
    model = speed.MuxModel(classifier(width=2))
    params = speed._random_params(model, make_mesh())
    known = speed.abstract_params(model, make_mesh())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), known)
    assert all(np.asarray(x).any() for x in jax.tree.leaves(params))


def test_rows_of_several_texts_have_the_lengths_that_they_are_trained_with(one_device, monkeypatch):
    monkeypatch.setattr(speed, "_TEXTS", 40)
    sample = speed._Sample(encode([3] * 20 + [6] * 20), LENGTHS, 0, (8,), seed=0)
    composed = {}
    for width in (1, 2):
        timed = object.__new__(speed._TimedModel)
        model = MuxModel(classifier(width=width))
        timed._model, timed._mesh, timed._sample = model, make_mesh(), sample
        composed[width] = {batches.arrays[0].shape[-1] for batches in timed._compose(sample.texts, 4)}
    assert composed == {1: {4, 8}, 2: {8}}
