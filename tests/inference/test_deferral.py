"""What a model is unsure of goes to the full one: which texts, by what threshold, however many come at once."""

import csv
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from etils import epath

import mux_jax
from mux_jax.checkpoints.source import open_model
from mux_jax.errors import InputError
from mux_jax.inference.batch_runner import labels_from_logits
from mux_jax.inference.deferral import (
    Aim,
    Deferral,
    agreement_after,
    check_kind,
    check_labels,
    confidence,
    parse_aim,
    sure_logits,
)
from mux_jax.inference.loaded_model import load
from tests.conftest import small_model, use_one_device
from tests.tasks import LABELS, finetuning, sentences, write_model, write_sentences

ROOT = Path(__file__).parents[2]


def config(labels=LABELS, head="sequence", **changes):
    return small_model(**dict(width=1, head=head, labels=labels) | changes)


def drawn(texts, labels, seed, scale=2.0):
    return list(np.random.default_rng(seed).normal(0, scale, (texts, labels)).astype(np.float32))


@pytest.mark.parametrize(
    "given, aim",
    [
        ("off", ("off", 0.0)),
        (0, ("off", 0.0)),
        ("auto", ("auto", 0.0)),
        (0.1, ("share", 0.1)),
        ("0.1", ("share", 0.1)),
        (1, ("share", 1.0)),
        ("agreement=0.99", ("agreement", 0.99)),
    ],
)
def test_how_much_to_defer(given, aim):
    assert parse_aim(given) == aim


@pytest.mark.parametrize("given", ["", "some", "-0.1", "1.5", 2, "agreement=", "agreement=2", "share=0.1", "nan"])
def test_what_says_nothing_of_how_much(given):
    with pytest.raises(InputError, match="must be off, auto, a share from 0 to 1"):
        parse_aim(given)


def test_sureness_is_the_log_odds_of_the_label_given():
    logits = drawn(20, 3, 0)
    p = scipy.special.softmax(np.array(logits, float), axis=-1).max(-1)
    np.testing.assert_allclose(confidence(logits, config(("a", "b", "c"))), np.log(p / (1 - p)), rtol=1e-5)
    several = scipy.special.expit(np.array(logits, float))
    least = np.maximum(several, 1 - several).min(-1)
    np.testing.assert_allclose(
        confidence(logits, config(("a", "b", "c"), multi_label=True)), np.log(least / (1 - least)), rtol=1e-4
    )


def test_sureness_of_several_labels_is_the_distance_from_the_threshold():
    several = config(("a", "b", "c"), multi_label=True)
    logits = [scipy.special.logit(np.array([0.3, 0.9, 0.01]))]
    assert confidence(logits, several, threshold=0.3) == pytest.approx([0.0])
    assert confidence(logits, several) == pytest.approx([scipy.special.logit(0.7)])


def test_a_sentence_is_as_sure_as_its_least_sure_word():
    words = config(("a", "b", "c"), head="token")
    logits = np.array(drawn(5, 3, 0))
    missing = np.vstack([logits[:2], np.full((1, 3), np.nan, np.float32)])
    sure = confidence([logits, missing, missing[2:]], words)
    each = confidence(list(logits), config(("a", "b", "c")))
    np.testing.assert_allclose(sure, [each.min(), each[:2].min(), np.inf])
    assert confidence([], words).shape == (0,)


def test_agreement_at_each_share_is_that_of_both_together():
    ours, full, model = drawn(300, 2, 0), drawn(300, 2, 1), config()
    full = [x if i % 5 else y for i, (x, y) in enumerate(zip(ours, full))]
    sure = confidence(ours, model)
    fitted = Deferral.fit(ours, sure, full, model, "full")
    assert fitted.texts == 300 and fitted.temperature == 1  # of two labels the order is the same at all
    assert list(fitted.thresholds) == sorted(fitted.thresholds)
    order = np.argsort(sure)
    for percent in (0, 10, 50, 100):
        count = 3 * percent
        both = [full[i] if i in set(order[:count]) else ours[i] for i in range(300)]
        same = np.mean([x.argmax() == y.argmax() for x, y in zip(both, full)])
        assert fitted.agreement[percent] == pytest.approx(same, abs=0.005)
        if 0 < percent < 100:
            assert np.mean(sure < fitted.threshold(percent / 100)) == pytest.approx(percent / 100, abs=0.005)
    assert fitted.threshold(0) == -np.inf and fitted.threshold(1) == np.inf
    share = fitted.share_for(Aim("agreement", 0.97))
    assert fitted.agreement[round(100 * share)] >= 0.97 > fitted.agreement[round(100 * share) - 1]
    wrong = [i for i in range(300) if ours[i].argmax() != full[i].argmax()]
    surest = np.mean(sure <= sure[wrong].max())  # of those to defer until all agree
    assert fitted.share_for(Aim("agreement", 1.0)) == pytest.approx(surest, abs=0.011)
    assert fitted.aimed(Aim("share", 0.2)).share_for(Aim("auto")) == 0.2


def test_a_temperature_is_kept_where_it_orders_texts_better():
    """Of three labels the order depends on it: here two that are alike hide how unsure the sharper texts are."""
    rng, model = np.random.default_rng(0), config(("a", "b", "c"))
    margin, spread = rng.gamma(2, 1, 4000), rng.normal(0, 6, 4000)
    true = np.stack([margin, np.zeros(4000), -np.abs(spread)], -1)
    full = [scipy.special.log_softmax(x) + rng.gumbel(size=3) for x in true]
    ours = list((3 * true).astype(np.float32))
    fitted = Deferral.fit(ours, confidence(ours, model), full, model, "full")
    plain = agreement_after("sequence", labels_from_logits(ours, model, 0.5), labels_from_logits(full, model, 0.5))
    assert fitted.temperature == pytest.approx(3, rel=0.2)
    one = confidence(ours, model)
    areas = [np.mean([plain(one < x) for x in np.quantile(one, np.linspace(0, 0.99, 100))]), np.mean(fitted.agreement)]
    assert areas[1] > areas[0]


def test_a_number_is_as_sure_as_two_compositions_agree():
    runs = [[np.array([1.0]), np.array([2.0])], [np.array([1.5]), np.array([2.0])]]
    logits, sure = sure_logits(lambda i: runs[i], config(("score",), width=2))
    assert [float(x[0]) for x in logits] == [1.25, 2.0] and sure.tolist() == [-0.5, 0.0]
    after = agreement_after("regression", [1.0, 2.0, 5.0], [1.0, 2.0, 3.0])
    assert after(np.array([False, False, True])) == pytest.approx(1) and after(np.zeros(3, bool)) < 1


def test_it_is_read_as_it_was_written(tmp_path):
    folder = epath.Path(tmp_path)
    assert Deferral.load(folder) is None
    fitted = Deferral.fit(drawn(50, 2, 0), np.arange(50.0), drawn(50, 2, 1), config(), "/models/full")
    fitted.save(folder)
    assert Deferral.load(folder) == fitted
    for text in ('{"full": "x"}', "[]", "{"):
        (tmp_path / "deferral.json").write_text(text)
        with pytest.raises(InputError, match="deferral.json is not what was written here"):
            Deferral.load(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three models with the same labels, in another order in the last, of which each defers to the next."""
    root = tmp_path_factory.mktemp("models")
    shape = dict(head="sequence", width=1, sharpen=True)
    small = write_model(root / "small", labels=LABELS, num_hidden_layers=1, **shape)
    middle = write_model(root / "middle", labels=LABELS, num_hidden_layers=2, **shape)
    large = write_model(root / "large", labels=LABELS[::-1], num_hidden_layers=3, **shape)
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        mux_jax.fit_deferral(str(small), str(middle), sentences(200), aim=0.25)
        yield str(small), str(middle), str(large)


def test_the_unsure_ones_get_the_full_models_answer_however_many_come_at_once(models):
    small, middle, _ = models
    texts = sentences(300, seed=1)
    alone, full = (mux_jax.Predictor(path).predict(texts) for path in (small, middle))
    predictor = mux_jax.Predictor(small, defer="auto")
    got = predictor.predict(texts, keep_model=True)
    by_full = [x["answered_by"] == predictor.models[1] for x in got]
    assert {x["label"] for x in alone} == set(LABELS)
    assert sum(x["label"] != y["label"] for x, y in zip(alone, full)) > 30
    assert sum(by_full) == predictor.deferred and np.mean(by_full) == pytest.approx(0.25, abs=0.08)
    for x, own, theirs, asked in zip(got, alone, full, by_full):
        assert x["label"] == (theirs if asked else own)["label"]
        assert x["probabilities"] == pytest.approx((theirs if asked else own)["probabilities"], abs=1e-6)
    limit = max(max(x["probabilities"].values()) for x, asked in zip(alone, by_full) if asked)
    assert all(max(x["probabilities"].values()) >= limit for x, asked in zip(alone, by_full) if not asked)
    labels = [(x["label"], x["answered_by"]) for x in got]
    for size in (1, 10):
        parts = [predictor.predict(texts[i : i + size], keep_model=True) for i in range(0, 60, size)]
        assert [(x["label"], x["answered_by"]) for part in parts for x in part] == labels[:60]


def test_none_and_all(models):
    small, middle, _ = models
    texts = sentences(40, seed=2)
    assert mux_jax.Predictor(small, defer=0).models == mux_jax.Predictor(small).models
    assert mux_jax.Predictor(small, defer=1).predict(texts) == mux_jax.Predictor(middle).predict(texts)


def test_a_chain_of_three_whose_labels_stand_in_another_order(models):
    small, middle, large = models
    texts = sentences(100, seed=3)
    mux_jax.fit_deferral(middle, large, sentences(200), aim=0.5)
    predictor = mux_jax.Predictor(small, defer="auto")
    got = predictor.predict(texts, keep_model=True)
    named = {path: mux_jax.Predictor(path).predict(texts) for path in models}
    assert predictor.models == tuple(models) and {x["answered_by"] for x in got} == set(models)
    for i, x in enumerate(got):
        assert x["label"] == named[x["answered_by"]][i]["label"]
    with pytest.raises(InputError, match="it is that model, or asks it"):
        mux_jax.fit_deferral(large, small, sentences(200))
    with pytest.raises(InputError, match="it is that model, or asks it"):
        mux_jax.fit_deferral(large, large, sentences(200))
    Path(middle, "deferral.json").unlink()


def test_a_full_model_that_is_gone_is_named(models, tmp_path):
    copy = shutil.copytree(models[0], tmp_path / "copy")
    fields = json.loads((copy / "deferral.json").read_text())
    for full in ("/gone", "full"):
        (copy / "deferral.json").write_text(json.dumps(fields | {"full": full}))
        with pytest.raises(
            InputError, match=f"copy/deferral.json names the full model, .* {'/' if full[0] == '/' else copy}"
        ):
            mux_jax.Predictor(str(copy), defer="auto")


def test_it_is_pickled_with_what_it_defers(models):
    texts = sentences(40, seed=4)
    predictor = mux_jax.Predictor(models[0], defer=0.5)
    again = pickle.loads(pickle.dumps(predictor))
    assert again.predict(texts, keep_model=True) == predictor.predict(texts, keep_model=True) and again.deferred > 0


def test_numbers_of_several_texts_a_row(tmp_path, one_device):
    """Two compositions say how sure they are; both count."""
    paths = [str(write_model(tmp_path / str(n), head="sequence", labels=("score",), width=n)) for n in (3, 1)]
    texts = sentences(300, seed=5)
    mux_jax.fit_deferral(*paths, texts, aim=0.3)
    alone, full = (mux_jax.Predictor(path, rows=8).logits(texts) for path in paths)
    predictor = mux_jax.Predictor(paths[0], rows=8, defer="auto")
    got = predictor.logits(texts)
    asked = [bool(x[0] == pytest.approx(y[0], abs=1e-5)) for x, y in zip(got, full)]
    assert np.mean(asked) == pytest.approx(0.3, abs=0.1) and sum(asked) == predictor.deferred
    assert not np.allclose(*[np.array(x)[~np.array(asked)] for x in (got, alone)], atol=1e-7)  # a mean of two
    few = mux_jax.Predictor(paths[0], rows=300)  # most slots hold copies, whose means would differ less
    spread = [few.sure_logits(x)[1].mean() for x in (texts[:100], texts)]
    assert spread[0] == pytest.approx(spread[1], rel=0.3)


def test_words_and_pairs(tmp_path, one_device):
    shape = dict(width=1, max_position_embeddings=40)
    small, large = (
        str(write_model(tmp_path / f"t{n}", head="token", labels=("a", "b", "c"), num_hidden_layers=n, **shape))
        for n in (1, 2)
    )
    words = [text.split() for text in sentences(150, seed=6)] + [["time"] * 60]  # longer than the limit
    mux_jax.fit_deferral(small, large, words, aim=0.3)
    own, full = (mux_jax.Predictor(path).predict(words) for path in (small, large))
    both = mux_jax.Predictor(small, defer=0.3).predict(words, keep_model=True)
    asked = [x["answered_by"] == large for x in both]
    assert 0 < sum(asked) < len(words)
    assert [x["tags"] for x in both] == [(y if z else x)["tags"] for x, y, z in zip(own, full, asked)]
    assert both[-1]["tags"][-1] is None
    small, large = (
        str(write_model(tmp_path / f"p{n}", head="sequence", labels=LABELS, num_hidden_layers=n, sharpen=True, **shape))
        for n in (1, 2)
    )
    mixed = [*zip(sentences(150, seed=7), sentences(150, seed=8)), *sentences(50)]
    mux_jax.fit_deferral(small, large, mixed, aim=0.3)
    own, full = (mux_jax.Predictor(path).predict(mixed) for path in (small, large))
    both = mux_jax.Predictor(small, defer="auto").predict(mixed, keep_model=True)
    chosen = [(y if z["answered_by"] == large else x)["label"] for x, y, z in zip(own, full, both)]
    assert [x["label"] for x in both] == chosen and {x["answered_by"] for x in both} == {small, large}


def test_a_file_says_which_model_answered(models, tmp_path):
    small, middle, _ = models
    (tmp_path / "texts.txt").write_text("\n".join(sentences(50)) + "\n")
    command = [sys.executable, "launch/predict.py", f"--model={small}", f"--texts={tmp_path / 'texts.txt'}"]
    command += [f"--output={tmp_path / 'out.tsv'}", "--defer=0.3", "--keep_model"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with (tmp_path / "out.tsv").open(newline="") as f:
        rows = list(csv.DictReader(f, delimiter="\t"))
    asked = sum(row["answered_by"] == middle for row in rows)
    assert len(rows) == 50 and 0 < asked < 50 and {row["answered_by"] for row in rows} == {small, middle}
    assert f"{asked} texts, {asked / 50:.1%}, went to {middle}" in run.stdout


def test_scores_are_of_both_together(models, tmp_path, one_device):
    small, middle, _ = models
    data = write_sentences(tmp_path / "data", dev=60)
    task = finetuning(data, "", "sequence")

    def score(name, model=small, **options):
        return mux_jax.evaluate(task, model, str(tmp_path / name), **options)

    alone, full, both = score("a"), score("b", middle), score("c", defer=0.4)
    assert score("d", defer=1.0)["score"] == full["score"] and "deferred" not in alone["splits"]["dev"]
    figures = both["splits"]["dev"]
    assert figures["deferred"]["mean"] == pytest.approx(0.4, abs=0.15) and both["full"] == middle
    assert 0.5 < figures["agreement"]["mean"] < 1
    assert json.loads((tmp_path / "c" / "result.json").read_text())["defer"] == 0.4


def test_what_cannot_be_deferred(models, tmp_path):
    small, _, large = models
    with pytest.raises(InputError, match="large does not say when to ask which model: it has no deferral.json"):
        mux_jax.Predictor(large, defer="auto")
    numbers = str(write_model(tmp_path / "numbers", head="sequence", labels=("score",), width=1))
    for call in (
        lambda: mux_jax.fit_deferral(numbers, numbers, sentences(200)),
        lambda: mux_jax.Predictor(numbers, defer=0.1),
    ):
        with pytest.raises(InputError, match="does not say how sure it is"):
            call()
    other = str(write_model(tmp_path / "other", head="sequence", labels=("x", "y"), width=1))
    with pytest.raises(InputError, match="other cannot answer for it: its labels are"):
        mux_jax.fit_deferral(small, other, sentences(200))
    with pytest.raises(InputError, match="99 texts are too few"):
        mux_jax.fit_deferral(small, large, sentences(99))
    for texts in ("x" * 200, {str(i): i for i in range(200)}):
        with pytest.raises(InputError, match="predict takes a list of texts"):
            mux_jax.fit_deferral(small, large, texts)
    with pytest.raises(InputError, match="defer=0.1: a model in memory does not say which to ask"):
        mux_jax.Predictor(load(open_model(small)), defer=0.1)
    with pytest.raises(InputError, match="aim=off must be a share"):
        mux_jax.fit_deferral(small, large, sentences(200), aim="off")
    with pytest.raises(InputError, match="cannot answer"):
        check_labels(config(), config(head="token"), "it")


def test_copies_in_slots_that_are_left_over_count(tmp_path, one_device):
    """Alone in rows of three a text stands in all slots; its answer is their mean."""
    path = str(write_model(tmp_path / "three", head="sequence", labels=LABELS, width=3))
    one = mux_jax.Predictor(path, rows=2).logits(["time river"])[0]
    three = mux_jax.Predictor(path, rows=1, ensemble=3).logits(["time river"])[0]
    np.testing.assert_allclose(one, three, atol=1e-6)
    assert one.dtype == three.dtype == np.float32


def test_an_embedding_cannot_be_unsure():
    with pytest.raises(InputError, match="m: an embedding is no answer that could be unsure"):
        check_kind(small_model(width=1, head="embedding"), "m: ")
