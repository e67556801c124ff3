"""Timing in turns."""

import numpy as np

from mux_jax.inference.timing import interleave


def test_runs_take_turns_and_the_first_turn_is_not_counted():
    calls, reports = [], []
    seconds = iter([9, 9, 1, 2, 4, 4, 1, 2])

    def turn(name):
        calls.append(name)
        return next(seconds)

    runs = {"a": lambda: turn("a"), "b": lambda: turn("b")}
    taken = interleave(runs, 3, lambda done, note: reports.append((done, note)))
    assert calls == ["a", "b"] * 4
    np.testing.assert_array_equal(taken["a"], [1, 4, 1])
    np.testing.assert_array_equal(taken["b"], [2, 4, 2])
    assert reports == [((i + 1) / 8, "ab"[i % 2]) for i in range(8)]


def test_a_run_that_returns_nothing_is_timed(monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 13.0])
    monkeypatch.setattr("mux_jax.inference.timing.time.perf_counter", lambda: next(clock))
    np.testing.assert_array_equal(interleave({"a": lambda: None}, 1)["a"], [3])
