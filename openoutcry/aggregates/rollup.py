"""Candles to longer candles on demand: 3m 30m 2h 6h 8h 12h 3d and calendar months, from those that are stored.

A bucket opens where `bounds_of` says: multiples of its length since 1970, weeks on Monday 00:00 UTC, months on their first.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby

from openoutcry.aggregates.bars import bar_of_candle, fold
from openoutcry.errors import BadInterval
from openoutcry.events import INTERVALS_S, MINUTE_S, NS, WEEK_S, Candle, open_of

DAY_S = 86_400
# The name of a calendar month, which has no fixed length: no multiple of a minute, so it is mistaken for nothing else.
MONTH_S = 2_629_746
INTERVAL_S_MAX = 366 * DAY_S


def base_for(interval_s: int) -> int:
    """The longest stored interval that candles of `interval_s` are folded from: itself, where it is stored.

    Raises BadInterval where none fits.
    """
    if interval_s in INTERVALS_S:
        return interval_s
    if interval_s == MONTH_S:
        return DAY_S
    # Weeks open on Mondays, multiples of a week since 1970 on Thursdays: only days fit into the latter.
    fitting = [base_s for base_s in INTERVALS_S if base_s != WEEK_S and interval_s % base_s == 0]
    if not fitting or not MINUTE_S <= interval_s <= INTERVAL_S_MAX:
        raise BadInterval(
            f"no candles of {interval_s} s: a multiple of {MINUTE_S} s up to {INTERVAL_S_MAX} s is needed"
        )
    return fitting[-1]


def bounds_of(event_ns: int, interval_s: int) -> tuple[int, int]:
    """Open and end (ns) of the bucket that holds `event_ns`."""
    if interval_s == MONTH_S:
        return month_of(event_ns)
    open_ns = open_of(event_ns, interval_s)
    return open_ns, open_ns + interval_s * NS


def month_of(event_ns: int) -> tuple[int, int]:
    """Open and end (ns) of the calendar month, UTC, that holds `event_ns`."""
    day = datetime.fromtimestamp(event_ns // NS, UTC)
    first = datetime(day.year, day.month, 1, tzinfo=UTC)
    after = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp()) * NS, int(after.timestamp()) * NS


def rollup(
    candles: Sequence[Candle], interval_s: int, *, start_ns: int | None = None, end_ns: int | None = None
) -> list[Candle]:
    """Fold candles of one instrument, side and interval, oldest first, into candles of `interval_s`, oldest first.

    [start_ns, end_ns) is the stretch in which all candles are given, so that a missing one did not trade; None = from
    the first candle's opening, to the last one's end. A bucket that opened before is left out; the last one is growing
    (`closed` False) where the stretch ends inside it, or the last candle still grows. Raises BadInterval where the
    candles do not fit into the buckets.
    """
    if not candles:
        return []
    last = candles[-1]
    known_ns = candles[0].open_ns if start_ns is None else start_ns
    known_end_ns = bounds_of(last.open_ns, last.interval_s)[1] if end_ns is None else end_ns
    if not last.closed:
        known_end_ns = min(known_end_ns, last.open_ns)
    return [
        _folded(inside, interval_s, open_ns, closed=bucket_end_ns <= known_end_ns)
        for (open_ns, bucket_end_ns), inside in _buckets(candles, interval_s)
        if open_ns >= known_ns
    ]


def _buckets(candles: Sequence[Candle], interval_s: int) -> Iterator[tuple[tuple[int, int], list[Candle]]]:
    part_s = candles[0].interval_s
    if part_s != interval_s and (part_s == WEEK_S or (DAY_S if interval_s == MONTH_S else interval_s) % part_s):
        raise BadInterval(f"candles of {part_s} s do not fit into {interval_s} s")
    for bounds, inside in groupby(candles, lambda candle: bounds_of(candle.open_ns, interval_s)):
        yield bounds, list(inside)


def _folded(inside: Sequence[Candle], interval_s: int, open_ns: int, *, closed: bool) -> Candle:
    bar = fold(map(bar_of_candle, inside))
    assert bar is not None
    return bar.candle(inside[0].instrument, inside[0].side, interval_s, open_ns, closed=closed)
