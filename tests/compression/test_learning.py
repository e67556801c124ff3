"""How far answers are from the full model's, how the time is shared out, and what a run of learning is."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats

from mux_jax.compression.learning import Lessons, configuration, count_parameters, distance, rows_of_a_step
from mux_jax.compression.plan import OTHER_RATES, TEXTS_A_STEP, Candidate, Plan, step_seconds
from mux_jax.compression.pool import Pool
from mux_jax.compression.shape import Shape
from mux_jax.data.encoding import Encoded
from mux_jax.data.sections import TaskSection
from mux_jax.parallel.mesh import make_mesh
from tests.conftest import small_model

CLASSES = dict(width=1, head="sequence", labels=("a", "b", "c"))


def random(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 2, shape).astype(np.float32) for shape in shapes]


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def divergence(ours, theirs):
    """KL(theirs || ours) of a text, by definition."""
    return scipy.stats.entropy(softmax(theirs.astype(float)), softmax(ours.astype(float)), axis=-1)


def test_the_distance_of_classes_is_the_mean_divergence_over_texts():
    ours, theirs = random((3,), (3,)), random((3,), (3,), seed=1)
    expected = np.mean([divergence(x, y) for x, y in zip(ours, theirs)])
    assert distance(small_model(**CLASSES), ours, theirs) == pytest.approx(expected)
    assert expected != pytest.approx(np.mean([divergence(y, x) for x, y in zip(ours, theirs)]))  # it has a direction


def test_the_distance_of_tags_is_the_mean_over_tokens():
    config = small_model(**CLASSES | dict(head="token"))
    ours, theirs = random((4, 3), (1, 3)), random((4, 3), (1, 3), seed=1)
    expected = np.mean([divergence(x, y) for x, y in zip(np.concatenate(ours), np.concatenate(theirs))])
    assert distance(config, ours, theirs) == pytest.approx(expected)


def test_the_distance_of_several_labels_is_the_mean_over_texts_and_labels():
    config = small_model(**CLASSES, multi_label=True)
    ours, theirs = random((3,), (3,)), random((3,), (3,), seed=1)
    p, q = (1 / (1 + np.exp(-np.array(x, float))) for x in (theirs, ours))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert distance(config, ours, theirs) == pytest.approx(expected)


def test_the_distance_of_numbers_is_the_squared_error():
    config = small_model(**CLASSES | dict(labels=("score",)))
    assert distance(config, [np.array([1.0]), np.array([2.0])], [np.array([3.0]), np.array([2.5])]) == 2.125


@pytest.mark.parametrize("changes", [{}, dict(multi_label=True), dict(labels=("score",)), dict(head="token")])
def test_equal_answers_have_no_distance_and_large_ones_a_finite_one(changes):
    config = small_model(**CLASSES | changes)
    shape = (2, 3) if config.head == "token" else (len(config.labels),)
    given = random(shape, shape)
    assert distance(config, given, given) == 0
    assert 0 < distance(config, [1e4 * x for x in given], [-1e4 * x for x in given]) < np.inf


SHAPES = {"hidden 16": Shape(layers=2, hidden=16), "2 texts a row": Shape(layers=2, hidden=32, width=2, share=1.5)}
CANDIDATES = tuple(Candidate(name, shape, 2.0 + i, 10_000) for i, (name, shape) in enumerate(SHAPES.items()))


@pytest.mark.parametrize("minutes", [1.0, 10.0, 60.0, 600.0])
@pytest.mark.parametrize("speed", [20.0, 1000.0])
@pytest.mark.parametrize("candidates", [CANDIDATES, CANDIDATES[:1]])
def test_answers_and_trials_take_no_more_than_their_part_of_the_time(minutes, speed, candidates):
    plan = Plan.make(candidates, speed, minutes, 1 + len(OTHER_RATES))
    assert plan.seconds == 60 * minutes
    assert plan.own(10**6, joins=True) == plan.pool // 2 and plan.own(10**6, joins=False) == plan.pool
    assert plan.own(3, joins=True) == 3
    assert TEXTS_A_STEP <= plan.pool <= 131_072
    assert plan.pool / speed < 0.201 * plan.seconds or plan.pool == TEXTS_A_STEP
    each = [step_seconds(c, speed) for c in candidates]
    trials = plan.trial_steps * (sum(each) + len(OTHER_RATES) * max(each))
    assert 20 <= plan.trial_steps <= 2000
    assert trials <= 0.25 * plan.seconds or plan.trial_steps == 20


def test_there_are_no_trials_where_there_is_nothing_to_choose():
    assert Plan.make(CANDIDATES[:1], 100.0, 60.0, 1).trial_steps == 0
    assert Plan.make(CANDIDATES, 100.0, 60.0, 1).trial_steps > 0
    assert Plan.make(CANDIDATES[:1], 100.0, 60.0, 2).trial_steps > 0


def test_answers_that_are_there_take_no_time_and_no_more_texts_than_there_are_count():
    assert Plan.make(CANDIDATES, 1.0, 1.0, 1, answered=True).pool == 131_072
    plan = Plan.make(CANDIDATES, 1.0, 60.0, 1, answered=True, most=750)
    assert plan.pool == 750
    assert plan.steps(10**9, 0.1) == 20 * 750 // TEXTS_A_STEP  # 20 epochs of those that there are
    assert Plan.make(CANDIDATES, 10.0, 60.0, 1, most=750).pool == 750
    assert Plan.make(CANDIDATES, 1.0, 10.0, 1, most=750).pool == 120


def test_learning_takes_what_is_left_of_the_time_and_few_epochs():
    plan = Plan.make(CANDIDATES, 1000.0, 10.0, 1)
    assert plan.steps(100.0, 0.1) == 1000
    assert plan.steps(1e9, 0.1) == 20 * plan.pool // TEXTS_A_STEP
    assert plan.steps(-5.0, 0.1) == plan.trial_steps >= 20  # the time is over


def test_a_step_is_longer_for_more_parameters_and_slower_models():
    base = CANDIDATES[0]
    assert step_seconds(dataclasses.replace(base, factor=1.0), 100.0) > step_seconds(base, 100.0)
    assert step_seconds(dataclasses.replace(base, parameters=10**8), 100.0) > step_seconds(base, 100.0)
    assert step_seconds(base, 50.0) > step_seconds(base, 100.0)


def test_a_plan_comes_back_from_json():
    plan = Plan.make(CANDIDATES, 123.4, 5.0, 2)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_what_is_going_to_be_done_is_said(capsys):
    Plan.make(CANDIDATES, 100.0, 60.0, 2).show(2, False)
    said = capsys.readouterr().out
    assert "to try: hidden 16: 2.0 times as fast, 10,000 parameters" in said
    assert (
        "about 60 min: answers of the full model to 72,000 texts 12 min, 3 trials of " in said and "learning " in said
    )
    Plan.make(CANDIDATES[:1], 100.0, 60.0, 1).show(1, True)
    said = capsys.readouterr().out
    assert "trial" not in said and "answers" not in said


def test_a_step_has_about_the_same_texts_whatever_the_width():
    mesh = make_mesh()
    assert mesh.devices.size == 8
    rows = {width: rows_of_a_step(width, mesh) for width in (1, 2, 3, 5, 20, 100)}
    assert rows[1] == TEXTS_A_STEP and rows[2] == TEXTS_A_STEP // 2
    for width, count in rows.items():
        assert count % 8 == 0 and TEXTS_A_STEP - width < width * count < TEXTS_A_STEP + 8 * width


def test_parameters_are_counted():
    D, F, V = 32, 64, 64
    layer = 4 * (D + 1) * D + 2 * 2 * D + (D + 1) * F + (F + 1) * D
    embeddings = (V + 16 + 2) * D + 2 * D
    assert count_parameters(small_model(**CLASSES)) == embeddings + 2 * layer + (D + 1) * 3


def test_the_places_of_a_step_are_those_of_the_rows():
    ids = [np.zeros(n, np.int32) for n in (3, 4, 5, 16)]
    encoded = Encoded(ids, None, 0, [1] * 4)
    lessons = Lessons(None, Pool(encoded, [], 4), Pool(encoded, [], 4), (4, 8, 16))
    assert lessons.tokens_per_step(10, 2) == 10 * 2 * (4 + 4 + 8 + 16) / 4
    joined = Lessons(None, Pool(encoded, [], 1), Pool(encoded, [], 4), (4, 8, 16))  # one of the three in an epoch
    assert joined.tokens_per_step(10, 2) == pytest.approx(10 * 2 * (4 + (4 + 8 + 16) / 3) / 2)


def test_a_run_of_learning_names_both_models_and_has_the_answers_alone():
    data = TaskSection(task="custom", folder="texts.txt", bucket_lengths="4,8,12,16")
    lessons = Lessons(None, None, None, (4, 16))
    given = dict(steps=1000, rate=3e-4, seed=7)
    config = configuration("starts/narrow", "teacher", data, lessons, width=2, is_trial=False, **given)
    assert config.data.bucket_lengths == "4,16"  # what it is trained with
    trial = configuration("starts/narrow", "teacher", data, lessons, width=1, is_trial=True, **given)
    assert trial.data.bucket_lengths == "4,8,12,16"  # it does not see padding
    assert (trial.eval.every, trial.checkpoint.every) == (1000, 1000) and config.eval.every == -1
    assert (config.init_from, config.teacher, config.seed) == ("starts/narrow", "teacher", 7)
    assert (config.model.width, config.rows) == (2, 32)
    assert config.model.hidden_dropout == config.model.attention_dropout == 0
    stage = config.finetuning
    assert (stage.steps, stage.learning_rate, stage.distillation_coefficient) == (1000, 3e-4, 1.0)
    assert not config.model.scan_layers  # on CPU
