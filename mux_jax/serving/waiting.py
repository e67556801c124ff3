"""What waits for a model, and the batches in which it leaves: which texts share rows, and whose turn it is.

A batch leaves when it is full, or when its oldest text has waited long enough. Of several lengths the one with most
texts goes first, for a few batches; its rows have that length. A row holds texts of one group alone: of anybody, of one
client, or of one request, as the server mixes them. Slots that are left over hold copies of the row's own texts.

Clients take turns by start-time fair queueing: a text's turn is one after its client's last text, or after the text
that left last, whichever is later. So who sends a thousand texts waits for them, and who sends one does not.
"""

import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Hashable, Iterable, Mapping

import numpy as np

from mux_jax.data.encoding import Encoded

_PATIENCE = 4  # batches of other lengths that may leave before the one whose turn it is
_MOSTLY = 0.75  # of the rows that are compiled: with fewer a batch takes the next smaller number


class Call:
    """Texts that were sent together, of one kind (single, pairs, words), and what is known of their logits.

    Attributes:
      encoded: the texts, one window each.
      client: whose they are.
      group: of those that may share rows.
      arrived: when, in seconds.
      future: gets the logits of each text, as `BatchRunner` gives them.
    """

    def __init__(self, encoded: Encoded, client: Hashable, group: Hashable, arrived: float):
        self.encoded, self.client, self.group, self.arrived = encoded, client, group, arrived
        self.future: concurrent.futures.Future[list[np.ndarray]] = concurrent.futures.Future()
        self._sums: list[np.ndarray | float] = [0.0] * len(encoded.ids)
        self._times = np.zeros(len(encoded.ids), int)
        self._slots = 0  # that were not run yet

    def expects(self, slots: int) -> None:
        """Says in how many more slots its texts are going to be."""
        self._slots += slots

    def take(self, text: int, logits: np.ndarray, is_copy: bool) -> None:
        """Adds the logits of a slot; with those of the last one that was expected the call is answered."""
        if self.encoded.places is not None:
            places = self.encoded.places[text]
            logits = np.where(places[:, None] < 0, np.nan, logits[places])
        self._sums[text] = self._sums[text] + logits
        self._times[text] += 1
        self._slots -= not is_copy
        if not self._slots and self.future.set_running_or_notify_cancel():
            self.future.set_result([np.asarray(total / n) for total, n in zip(self._sums, self._times.tolist())])

    def fail(self, error: Exception) -> None:
        """Ends the call with an error, unless it has ended or was cancelled."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.future.set_exception(error)


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """A text, or the texts of a whole row, of a call.

    Attributes:
      texts: their numbers in the call; of a whole row one for each slot.
      length: of the shortest row that holds them.
      turn: the smaller, the sooner.
    """

    call: Call
    texts: tuple[int, ...]
    length: int
    turn: float


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of one length.

    Attributes:
      rows: the (call, text) in each slot of each row; at most as many as one of the counts of rows.
      copies: bool[rows, N], which only repeat a text of their row.
      waited: seconds, of each call in it.
    """

    length: int
    rows: list[list[tuple[Call, int]]]
    copies: np.ndarray
    waited: list[float]


class Waiting:
    """The pieces that wait for a model. Its user holds a lock.

    Attributes:
      texts: how many wait.
    """

    def __init__(self, counts: Mapping[int, tuple[int, ...]], width: int, max_wait: float):
        """Args:
        counts: the numbers of rows that a batch may have, ascending, by the lengths that rows may have, ascending.
        width: N.
        max_wait: seconds that a text may wait for others to share its batch.
        """
        self._counts, self._width, self._max_wait = counts, width, max_wait
        self._pieces: list[Piece] = []
        self._last: dict[Hashable, float] = {}  # turn, of each client's last text
        self._now = 0.0  # the turn that left last
        self._passed_over = 0  # batches that left in place of the one whose turn it was

    @property
    def texts(self) -> int:
        return sum(len(set(piece.texts)) for piece in self._pieces)

    def add(self, call: Call, rows: Iterable[tuple[tuple[int, ...], int]] | None = None) -> None:
        """Puts the texts of a call in the queue; as whole rows, if these are given: each one's texts and length."""
        if rows is None:
            lengths = list(self._counts)
            places = np.searchsorted(lengths, [len(ids) for ids in call.encoded.ids])
            rows = (((text,), lengths[place]) for text, place in enumerate(places))
        turn = max(self._last.get(call.client, 0.0), self._now)
        for texts, length in rows:
            turn += 1.0
            self._pieces.append(Piece(call, texts, length, turn))
            call.expects(len(texts))
        self._last[call.client] = turn

    def drain(self) -> set[Call]:
        """The calls of all that waits, which is dropped."""
        calls = {piece.call for piece in self._pieces}
        self._pieces = []
        return calls

    def next_batch(self, now: float, closing: bool = False) -> tuple[Batch | None, float]:
        """A batch that is to leave now, or None; and in how many seconds to ask again, infinite if nothing waits.

        closing: whether nothing more is going to come, so that there is nothing to wait for.
        """
        there = (piece for piece in self._pieces if not piece.call.future.cancelled())
        self._pieces = sorted(there, key=lambda piece: piece.turn)
        self._last = {piece.call.client: piece.turn for piece in self._pieces}  # what was cancelled costs no turn
        if not self._pieces:
            return None, float("inf")
        by_length: dict[int, list[Piece]] = {}
        for piece in self._pieces:
            by_length.setdefault(piece.length, []).append(piece)
        due = {p.length for p in self._pieces if closing or now - p.call.arrived >= self._max_wait}
        sizes = {length: sum(len(piece.texts) for piece in pieces) for length, pieces in by_length.items()}
        ready = due or {length for length, size in sizes.items() if size >= self._counts[length][-1] * self._width}
        if not ready:
            oldest = min(piece.call.arrived for piece in self._pieces)
            return None, max(0.0, oldest + self._max_wait - now)
        # The length with most texts, but that whose turn it is if it was passed over some times.
        first = min(ready, key=lambda length: by_length[length][0].turn)
        length = max(ready, key=sizes.__getitem__) if self._passed_over < _PATIENCE else first
        self._passed_over = 0 if length == first else self._passed_over + 1
        shorter = [piece for n in sorted(by_length, reverse=True) if n < length for piece in by_length[n]]
        return self._batch(length, by_length[length], shorter, now), 0.0

    def _batch(self, length: int, pieces: list[Piece], shorter: list[Piece], now: float) -> Batch:
        """As many pieces of a length as make a good batch, and shorter ones where there is room that costs nothing."""
        rows, counts = _Rows(self._width), self._counts[length]
        for piece in pieces:
            rows.place(piece, counts[-1])
        count = next(count for count in counts if count >= len(rows.rows))
        less = max((c for c in counts if c < count), default=0)
        if len(rows.rows) <= _MOSTLY * count and less:  # what is left goes next, rather than rows of nothing now
            rows.drop(less)
            count = less
        for piece in shorter:
            if self._width == 1 or len(piece.texts) < self._width:  # in whole rows of texts padding is mixed in, too
                rows.place(piece, count)
        taken = {piece for row in rows.rows for piece in row}
        self._pieces = [piece for piece in self._pieces if piece not in taken]
        self._now = max(self._now, max(piece.turn for piece in taken))
        filled = [[(piece.call, text) for piece in row for text in piece.texts] for row in rows.rows]
        copies = np.arange(self._width)[None] >= np.array([len(row) for row in filled])[:, None]
        whole = [[row[i % len(row)] for i in range(self._width)] for row in filled]
        return Batch(length, whole, copies, [now - call.arrived for call in {piece.call for piece in taken}])


class _Rows:
    """Rows that are filled with pieces, each with those of one group."""

    def __init__(self, width: int):
        self._width = width
        self.rows: list[list[Piece]] = []
        self._open: dict[Hashable, list[Piece]] = {}  # of each group, a row in which slots are free

    def place(self, piece: Piece, most: int) -> None:
        """Puts a piece into a row, of which there may be so many; if there is no room nothing happens."""
        whole, group = len(piece.texts) == self._width, piece.call.group
        row = None if whole else self._open.get(group)
        if row is None:
            if len(self.rows) == most:
                return
            row = []
            self.rows.append(row)
        row.append(piece)
        if whole or len(row) == self._width:
            self._open.pop(group, None)
        else:
            self._open[group] = row

    def drop(self, count: int) -> None:
        """Keeps the first rows alone."""
        gone = self.rows[count:]
        self.rows = self.rows[:count]
        self._open = {group: row for group, row in self._open.items() if not any(row is x for x in gone)}
