"""What waits leaves in batches: full or in time, in turns, rows of one group, each text once."""

import numpy as np
import pytest

from mux_jax.data.encoding import Encoded
from mux_jax.serving.waiting import Call, Waiting

COUNTS = {8: (1, 2, 4), 16: (1, 2, 4)}
WAIT = 1.0


def call(sizes, client="a", group="g", arrived=0.0):
    """Texts of so many tokens."""
    ids = [np.arange(size, dtype=np.int32) for size in sizes]
    return Call(Encoded(ids, None, 0, [1] * len(ids)), client, group, arrived)


def queue(width=2, **calls):
    waiting = Waiting(COUNTS, width, WAIT)
    for given in calls.values():
        waiting.add(given)
    return waiting


def contents(batch):
    """The texts in each row, without copies."""
    return [
        [(call.client, text) for (call, text), copy in zip(row, copies) if not copy]
        for row, copies in zip(batch.rows, batch.copies)
    ]


def test_a_text_waits_for_others_as_long_as_it_may():
    waiting = queue(one=call([5], arrived=10.0))
    assert waiting.next_batch(10.2) == (None, pytest.approx(0.8))
    batch, _ = waiting.next_batch(11.0)
    assert contents(batch) == [[("a", 0)]] and batch.length == 8 and batch.copies.tolist() == [[False, True]]
    assert batch.waited == [pytest.approx(1.0)]
    assert waiting.next_batch(11.0) == (None, float("inf")) and waiting.texts == 0


def test_a_full_batch_leaves_at_once():
    waiting = queue(many=call([5] * 9))
    batch, _ = waiting.next_batch(0.0)
    assert contents(batch) == [[("a", 2 * i), ("a", 2 * i + 1)] for i in range(4)] and not batch.copies.any()
    assert waiting.next_batch(0.0)[0] is None and waiting.texts == 1


def test_texts_of_other_lengths_are_not_in_the_way():
    waiting = queue(long=call([12]), short=call([5] * 8))
    batch, _ = waiting.next_batch(0.5)
    assert batch.length == 8 and len(contents(batch)) == 4
    batch, _ = waiting.next_batch(1.0)
    assert batch.length == 16


def test_room_that_costs_nothing_is_for_shorter_texts():
    """Three long ones leave a slot of two rows. Seven rows of eight: the last is computed anyway."""
    waiting = queue(long=call([12] * 3, "a"), short=call([5] * 2, "b"))
    batch, _ = waiting.next_batch(1.0)
    assert contents(batch) == [[("a", 0), ("a", 1)], [("a", 2), ("b", 0)]] and batch.length == 16
    waiting = Waiting(dict.fromkeys(COUNTS, (1, 2, 4, 8)), 2, WAIT)
    waiting.add(call([12] * 13, "a"))
    waiting.add(call([5] * 5, "b"))
    batch, _ = waiting.next_batch(1.0)
    assert contents(batch)[6:] == [[("a", 12), ("b", 0)], [("b", 1), ("b", 2)]] and batch.length == 16


def test_few_rows_over_a_number_that_is_compiled_wait_for_the_next():
    """Three rows would be run as four; two are, and one."""
    waiting = queue(width=1, some=call([5] * 3))
    assert [len(waiting.next_batch(1.0)[0].rows) for _ in range(2)] == [2, 1]
    waiting = Waiting(dict.fromkeys(COUNTS, (1, 2, 4, 8)), 1, WAIT)
    waiting.add(call([5] * 7))
    assert len(waiting.next_batch(1.0)[0].rows) == 7  # of eight


def test_the_length_with_most_texts_goes_first_but_no_text_waits_for_ever():
    waiting = queue(width=1, rare=call([12], "rare"), many=call([5] * 40, "many"))
    assert [waiting.next_batch(1.0)[0].length for _ in range(6)] == [8, 8, 8, 8, 16, 8]


def test_rows_hold_texts_of_one_group():
    waiting = queue(a=call([5] * 3, "a", "x"), b=call([5] * 2, "b", "y"), c=call([5], "c", "x"))
    batch, _ = waiting.next_batch(1.0)
    rows = contents(batch)
    rows += contents(waiting.next_batch(1.0)[0])
    assert rows == [[("a", 0), ("c", 0)], [("b", 0), ("b", 1)], [("a", 1), ("a", 2)]]  # in turns
    waiting = queue(a=call([5], "a", "x"), b=call([5], "b", "y"))
    batch, _ = waiting.next_batch(1.0)
    for row, copies in zip(batch.rows, batch.copies):
        assert len({call.client for call, _ in row}) == 1 and copies.tolist() == [False, True]  # copies are its own


def test_who_sends_one_text_does_not_wait_for_who_sends_many():
    waiting = queue(width=1, many=call([5] * 20, "many"), one=call([5], "one"))
    batch, _ = waiting.next_batch(0.0)
    assert ("one", 0) in [text for row in contents(batch) for text in row]
    waiting = queue(width=1, first=call([5] * 8, "a"), second=call([5] * 8, "b"))
    met = [text[0] for _ in range(2) for row in contents(waiting.next_batch(0.0)[0]) for text in row]
    assert met == list("abababab")


def test_who_has_waited_long_goes_before_a_full_batch():
    waiting = queue(width=1, rare=call([12], "rare"), many=call([5] * 40, "many", arrived=0.5))
    assert waiting.next_batch(0.9)[0].length == 8
    assert waiting.next_batch(1.0)[0].length == 16


def test_what_is_cancelled_does_not_cost_its_client_a_turn():
    waiting = queue(width=1, other=call([5] * 10, "other"))
    gone = call([5] * 1000, "gone")
    waiting.add(gone)
    waiting.next_batch(0.0)
    gone.future.cancel()
    waiting.next_batch(0.0)
    waiting.add(call([5], "gone"))
    waiting.add(call([5] * 4, "other"))
    batch, _ = waiting.next_batch(0.0)
    assert ("gone", 0) in [text for row in contents(batch) for text in row]


def test_long_rows_leave_in_smaller_batches():
    waiting = Waiting({8: (1, 2, 4), 16: (1, 2)}, 1, WAIT)
    waiting.add(call([12] * 4))
    assert [len(waiting.next_batch(0.0)[0].rows) for _ in range(2)] == [2, 2]


def test_what_is_cancelled_frees_its_slots():
    gone, stays = call([5] * 3, "gone"), call([5], "stays")
    waiting = queue(gone=gone, stays=stays)
    gone.future.cancel()
    batch, _ = waiting.next_batch(1.0)
    assert contents(batch) == [[("stays", 0)]]


def test_whole_rows_stay_whole():
    given = call([5, 5, 9, 4])
    waiting = Waiting(COUNTS, 2, WAIT)
    waiting.add(given, [((0, 3), 8), ((1, 2), 16)])
    first, _ = waiting.next_batch(1.0)
    second, _ = waiting.next_batch(1.0)
    found = {batch.length: contents(batch) for batch in (first, second)}
    assert found == {8: [[("a", 0), ("a", 3)]], 16: [[("a", 1), ("a", 2)]]}


def test_whole_rows_keep_their_length():
    """Seven long rows of eight; a short one would fit, but its texts would get more padding than `Predictor` gives."""
    waiting = Waiting(dict.fromkeys(COUNTS, (1, 2, 4, 8)), 2, WAIT)
    long, short = call([12] * 14), call([5] * 2)
    waiting.add(long, [((2 * i, 2 * i + 1), 16) for i in range(7)])
    waiting.add(short, [((0, 1), 8)])
    assert [(batch.length, len(batch.rows)) for batch, _ in (waiting.next_batch(1.0) for _ in range(2))] == [
        (16, 7),
        (8, 1),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_each_text_leaves_once(seed):
    rng = np.random.default_rng(seed)
    width = int(rng.integers(1, 4))
    waiting, met, now, calls = Waiting(COUNTS, width, WAIT), [], 0.0, []
    for i in range(60):
        now += float(rng.exponential(0.2))
        if rng.random() < 0.7:
            sizes = rng.integers(1, 17, rng.integers(1, 12))
            calls.append(call(sizes, client=int(rng.integers(3)), group=int(rng.integers(2)), arrived=now))
            waiting.add(calls[-1])
        while (found := waiting.next_batch(now, closing=i == 59)[0]) is not None:
            assert len(found.rows) <= 4 and all(len(row) == width for row in found.rows)
            for row in found.rows:
                assert len({call.group for call, _ in row}) == 1
                assert all(len(call.encoded.ids[text]) <= found.length for call, text in row)
            for row, copies in zip(found.rows, found.copies):
                met += [(calls.index(call), text) for (call, text), copy in zip(row, copies) if not copy]
    assert sorted(met) == [(i, text) for i, c in enumerate(calls) for text in range(len(c.encoded.ids))]
    assert waiting.texts == 0


def test_a_call_is_answered_when_its_last_slot_is_with_the_mean_of_copies():
    given = call([5, 5])
    given.expects(3)  # the second text is in two slots
    given.take(0, np.array([9.0]), True)  # a copy that is there beside them
    given.take(0, np.array([1.0]), False)
    given.take(1, np.array([2.0]), False)
    assert not given.future.done()
    given.take(1, np.array([4.0]), False)
    assert [x.tolist() for x in given.future.result()] == [[5.0], [3.0]]
