"""Rows for buckets that are known to be empty: flat candles at the last close, and liquidations of nothing.

Where it is not known what happened, nothing is filled in; neither is a bucket before whose stretch no close is known.
"""

from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from openoutcry.api.kiyotaka.wire import POINTS_MAX
from openoutcry.events import NS, open_of
from openoutcry.market.blocks import BLOCK_ROWS, Cut
from openoutcry.market.columnar import Told
from openoutcry.market.coverage import Coverage
from openoutcry.market.series import NUMBERS, TIMES, Columns, Of, SeriesKey, time_of

FILLED = frozenset({Of.CANDLES, Of.LIQUIDATION_BARS})

# What is stored of [start_ns, end_ns), of a stretch that is known whole.
Before = Callable[[int, int], Awaitable[Told]]


def empties(
    key: SeriesKey, told: Told, coverage: Coverage, start_ns: int, end_ns: int
) -> list[NDArray[np.int64]] | None:
    """The openings of the empty buckets in [start_ns, end_ns), for each stretch of it that is known whole.

    None where there are more buckets than an answer may hold.
    """
    step_ns = key.interval_s * NS
    stretches = _whole(coverage, start_ns, end_ns)
    if sum(high_ns - low_ns for low_ns, high_ns in stretches) > (POINTS_MAX + 1) * step_ns:
        return None
    had = np.concatenate([cut.block.at_ns[cut.low : cut.high] for cut in told.cuts] or [np.array([], np.int64)])
    had = np.union1d(had, np.array([time_of(row) for row in told.tail], np.int64))
    return [
        np.setdiff1d(np.arange(_up(low_ns, key), high_ns - step_ns + 1, step_ns, dtype=np.int64), had)
        for low_ns, high_ns in stretches
    ]


async def filled(
    key: SeriesKey, told: Told, stretches: Sequence[NDArray[np.int64]], coverage: Coverage, before: Before
) -> Told:
    """The same with a row for every empty bucket."""
    rows = [cut.block[cut.low : cut.high] for cut in told.cuts]
    closed = rows[0] if rows else None
    for more in rows[1:]:
        assert closed is not None
        closed = closed.joined(more)
    made: list[Columns] = []
    for opens in stretches:
        if not len(opens):
            continue
        if key.of is Of.LIQUIDATION_BARS:
            made.append(_rows(key.of, opens, {"volume": np.zeros(len(opens))}))
        else:
            made += await _flat(key, closed, opens, coverage, before)
    if not made:
        return told
    both = closed if closed is not None else made.pop(0)
    for each in made:
        both = both.joined(each)
    both = both.take(np.argsort(both.at_ns, kind="stable"))
    return Told([Cut(both, 0, len(both))], told.tail, told.missing)


async def _flat(
    key: SeriesKey, closed: Columns | None, opens: NDArray[np.int64], coverage: Coverage, before: Before
) -> list[Columns]:
    # Only what is whole up to the empty bucket says what the last close was.
    first_ns = int(opens[0])
    since_ns = coverage.run_start(first_ns)
    at_ns = np.array([], np.int64) if closed is None else closed.at_ns
    closes = np.array([], np.float64) if closed is None else closed.of["close"]
    low, high = at_ns.searchsorted([since_ns, int(opens[-1])])
    at_ns, closes = at_ns[low:high], closes[low:high]
    if not len(at_ns) or at_ns[0] > first_ns:
        back_ns = max(since_ns, first_ns - BLOCK_ROWS * key.interval_s * NS)
        earlier = await before(back_ns, first_ns) if back_ns < first_ns else Told(())
        if earlier.cuts:
            last = earlier.cuts[-1]
            at_ns = np.concatenate((last.block.at_ns[last.high - 1 : last.high], at_ns))
            closes = np.concatenate((last.block.of["close"][last.high - 1 : last.high], closes))
    places = at_ns.searchsorted(opens) - 1
    known = places >= 0
    if not known.any():
        return []
    close = closes[places[known]]
    numbers = dict.fromkeys(("open", "high", "low", "close"), close) | {"volume": np.zeros(len(close))}
    return [_rows(key.of, opens[known], numbers)]


def _rows(of: Of, opens: NDArray[np.int64], numbers: dict[str, NDArray[np.float64]]) -> Columns:
    assert set(numbers) == set(NUMBERS[of])
    times = {name: np.zeros(len(opens), np.int64) for name in TIMES.get(of, ())}
    return Columns(opens, {**numbers, **times})


def _whole(coverage: Coverage, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
    stretches: list[tuple[int, int]] = []
    at_ns = start_ns
    for low_ns, high_ns in [*coverage.absent(start_ns, end_ns), (end_ns, end_ns)]:
        if at_ns < low_ns:
            stretches.append((at_ns, low_ns))
        at_ns = high_ns
    return stretches


def _up(at_ns: int, key: SeriesKey) -> int:
    return open_of(at_ns + key.interval_s * NS - 1, key.interval_s)
