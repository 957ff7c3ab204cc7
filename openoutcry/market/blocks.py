"""Closed rows of series as columns, block by block: read from the store once, and kept while they are asked for.

A block holds the rows of BLOCK_ROWS buckets of one series and never changes: a row that comes later makes a new block of
it. Whoever renders rows may keep what it made of a block as long as the block lives.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from openoutcry.events import NS
from openoutcry.market.series import Columns, Row, Series, SeriesKey, columns_of, time_of

BLOCK_ROWS = 1_024
# Some 70 bytes a row of a candle, and what dialects make of it.
ROWS_MAX = 250_000
SERIES_MAX = 50_000
# Rows that wait to join a block; more of them make it be read again.
JOINING_MAX = 64

_Place = tuple[SeriesKey, int]


class Cut(NamedTuple):
    """Rows `low` to `high` (exclusive) of a block."""

    block: Columns
    low: int
    high: int


class Blocks:
    """`waiting` gives the rows of a series that the store may not show yet. `rows_max` rows are kept in all."""

    def __init__(
        self, series: Series, waiting: Callable[[SeriesKey], Sequence[Row]], *, rows_max: int = ROWS_MAX
    ) -> None:
        self._series, self._waiting, self._rows_max = series, waiting, rows_max
        self._blocks: OrderedDict[_Place, Columns] = OrderedDict()
        self._joining: dict[_Place, list[Row]] = {}
        self._numbers: dict[SeriesKey, set[int]] = {}
        # Blocks that are being read: what changes meanwhile makes the reading worthless for later.
        self._reading: dict[_Place, int] = {}
        self._changed: set[_Place] = set()
        # Where series begin, of those that were asked for.
        self._first_ns: dict[SeriesKey, int] = {}
        self.rows = 0

    async def begun(self, key: SeriesKey) -> int | None:
        """Where the first row stands (ns); None where there is none."""
        if key not in self._first_ns:
            waiting = [time_of(row) for row in self._waiting(key)]
            rows = await asyncio.to_thread(self._series.read, key, limit=1)
            first = min([*waiting, *map(time_of, rows)], default=None)
            if first is None:
                return None
            self._note(key, first)
        return self._first_ns.get(key)

    def begun_held(self, key: SeriesKey) -> int | None:
        """The same at once; None where it must be looked up."""
        return self._first_ns.get(key)

    def held(self, key: SeriesKey, start_ns: int, end_ns: int) -> list[Cut] | None:
        """All rows of [start_ns, end_ns) at once; None where a block must be read first."""
        cuts: list[Cut] = []
        for number in _numbers(key, start_ns, end_ns):
            block = self._block((key, number))
            if block is None:
                return None
            _cut(cuts, block, start_ns, end_ns)
        return cuts

    async def read(self, key: SeriesKey, start_ns: int, end_ns: int, *, rows_max: int | None = None) -> list[Cut]:
        """The same, from the store where need be. Stops after the block in which `rows_max` was passed."""
        cuts: list[Cut] = []
        rows = 0
        for number in _numbers(key, start_ns, end_ns):
            place = (key, number)
            block = self._block(place) or await self._read(place)
            rows += _cut(cuts, block, start_ns, end_ns)
            if rows_max is not None and rows > rows_max:
                break
        return cuts

    def on_row(self, key: SeriesKey, row: Row) -> None:
        """A closed row that goes to the store: it joins its block, or makes it be read again."""
        first_ns = self._first_ns.get(key)
        if first_ns is not None and time_of(row) < first_ns:
            self._first_ns[key] = time_of(row)
        numbers = self._numbers.get(key)
        if numbers is None and not self._reading:
            return
        number = time_of(row) // _span_ns(key)
        place = (key, number)
        if place in self._reading:
            self._changed.add(place)
        if numbers is None or number not in numbers:
            return
        block, joining = self._blocks[place], self._joining.setdefault(place, [])
        newest_ns = time_of(joining[-1]) if joining else int(block.at_ns[-1]) if len(block) else -1
        if time_of(row) > newest_ns and len(joining) < JOINING_MAX:
            joining.append(row)
        else:
            self._forget(place)

    def _note(self, key: SeriesKey, first_ns: int) -> None:
        self._first_ns[key] = min(first_ns, self._first_ns.get(key, first_ns))
        if len(self._first_ns) > SERIES_MAX:
            del self._first_ns[next(iter(self._first_ns))]

    def _block(self, place: _Place) -> Columns | None:
        block = self._blocks.get(place)
        if block is None:
            return None
        self._blocks.move_to_end(place)
        joining = self._joining.pop(place, None)
        if joining:
            block = self._blocks[place] = block.joined(columns_of(place[0].of, joining))
            self.rows += len(joining)
        return block

    async def _read(self, place: _Place) -> Columns:
        key, number = place
        start_ns, end_ns = number * _span_ns(key), (number + 1) * _span_ns(key)
        self._reading[place] = self._reading.get(place, 0) + 1
        try:
            # Rows on their way into the store are looked up first: once they are not here any more, the store has them.
            waiting = [row for row in self._waiting(key) if start_ns <= time_of(row) < end_ns]
            block = await asyncio.to_thread(self._series.columns, key, start_ns=start_ns, end_ns=end_ns)
            if waiting:
                block = _over(block, columns_of(key.of, waiting))
        finally:
            self._reading[place] -= 1
            if not self._reading[place]:
                del self._reading[place]
        if place not in self._changed:
            self._keep(place, block)
        elif place not in self._reading:
            self._changed.discard(place)
        return block

    def _keep(self, place: _Place, block: Columns) -> None:
        self._forget(place)
        self._blocks[place] = block
        self._numbers.setdefault(place[0], set()).add(place[1])
        self.rows += len(block) + 1
        while self.rows > self._rows_max and len(self._blocks) > 1:
            self._forget(next(iter(self._blocks)))

    def _forget(self, place: _Place) -> None:
        block = self._blocks.pop(place, None)
        if block is None:
            return
        self.rows -= len(block) + 1
        self._joining.pop(place, None)
        numbers = self._numbers[place[0]]
        numbers.discard(place[1])
        if not numbers:
            del self._numbers[place[0]]


def _span_ns(key: SeriesKey) -> int:
    return key.interval_s * NS * BLOCK_ROWS


def _numbers(key: SeriesKey, start_ns: int, end_ns: int) -> range:
    assert key.interval_s, "rows without an interval make no blocks"
    span_ns = _span_ns(key)
    return range(start_ns // span_ns, -(-end_ns // span_ns)) if start_ns < end_ns else range(0)


def _cut(cuts: list[Cut], block: Columns, start_ns: int, end_ns: int) -> int:
    at_ns = block.at_ns
    many = len(at_ns)
    if not many:
        return 0
    low = 0 if at_ns[0] >= start_ns else int(at_ns.searchsorted(start_ns))
    high = many if at_ns[-1] < end_ns else int(at_ns.searchsorted(end_ns))
    if low < high:
        cuts.append(Cut(block, low, high))
    return high - low


def _over(old: Columns, new: Columns) -> Columns:
    """Both in order of time; where both have a row, the new one."""
    both = new.joined(old)
    # The first of equal times is kept, and the new ones stand first.
    return both.take(np.unique(both.at_ns, return_index=True)[1])
