"""Whatever was asked before, in whatever order: the answer is what the venue would say, and nothing is asked twice."""

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openoutcry.errors import Unavailable
from openoutcry.events import NS, Candle, open_of
from openoutcry.market.market import Numbers
from openoutcry.stores.memory import MemorySeries

MINUTE_NS = 60 * NS

# Questions crowd into a few hours with gaps in the trading, so that they overlap, touch and lie inside each other.
_asks = st.tuples(
    st.just("ask"),
    st.sampled_from([60, 180, 300, 1_800]),
    st.integers(1, 25),
    st.one_of(st.integers(0, 150), st.integers(0, 150), st.none()),
    st.one_of(st.none(), st.integers(0, 150)),
)
_steps = st.lists(
    st.one_of(
        _asks,
        _asks,
        st.tuples(st.just("wait"), st.integers(1, 400)),
        st.tuples(st.just("fail"), st.integers(0, 2)),
        st.tuples(st.just("mend")),
        st.tuples(st.just("restart")),
    ),
    max_size=14,
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=_steps,
    every=st.integers(1, 4),
    page_max=st.integers(3, 60),
    promise=st.sampled_from([True, True, True, False]),
    served=st.sampled_from([{60}, {60, 300}, {60, 180, 300, 1_800}]),
)
def test_answers_equal_the_venue_after_any_history_of_questions(
    box_class: Any, steps: list[Any], every: int, page_max: int, promise: bool, served: set[int]
) -> None:
    asyncio.run(_play(box_class, steps, every, page_max, promise=promise, served=served))


async def _play(
    box_class: Any, steps: list[Any], every: int, page_max: int, *, promise: bool, served: set[int]
) -> None:
    box = box_class(MemorySeries(), Numbers())
    venue = box.outside
    venue.traded = lambda at_ns: (at_ns // MINUTE_NS) % every == 0
    venue.begun_ns = open_of(box.clock.now_ns(), 3_600) - 10_000 * MINUTE_NS
    venue.page_max, venue.promise, venue.venue_intervals_s = page_max, promise, frozenset(served)
    base_ns = open_of(box.clock.now_ns(), 3_600) - 120 * MINUTE_NS
    for step in steps:
        match step:
            case "ask", interval_s, limit, start, end:
                start_ns = None if start is None else base_ns + start * MINUTE_NS
                end_ns = None if end is None else base_ns + end * MINUTE_NS + 1
                if start_ns is not None and end_ns is not None and start_ns >= end_ns:
                    continue
                try:
                    told = await box.market.candles(box.btc, interval_s, limit=limit, start_ns=start_ns, end_ns=end_ns)
                except Unavailable:
                    assert venue.failure is not None
                    continue
                missing = [(low, high) for low, high in told.missing]
                expected = _expected(venue, box.clock.now_ns(), interval_s, limit, start_ns, end_ns)
                if promise:
                    assert missing == []
                    assert [_said(row) for row in told.rows] == [_said(row) for row in expected]
                else:
                    # Without a promise silence is not known to be silence; what is told is true all the same.
                    truth = {row.open_ns: _said(row) for row in _all(venue, box.clock.now_ns(), interval_s)}
                    assert all(truth[row.open_ns] == _said(row) for row in told.rows)
            case "wait", seconds:
                await box.clock.advance(seconds)
            case "fail", pages:
                venue.failure, venue.pages_before_failure = Unavailable("fake", "down"), pages
            case ("mend",):
                venue.failure = None
            case ("restart",):
                await box.restart()
    await box.market.close()


def _all(venue: Any, now_ns: int, interval_s: int) -> list[Candle]:
    step_ns = interval_s * NS
    opens = range(open_of(venue.begun_ns, interval_s) + step_ns, now_ns, step_ns)
    return [row for at_ns in opens if (row := venue.candle(at_ns, interval_s)) is not None]


def _expected(
    venue: Any, now_ns: int, interval_s: int, limit: int, start_ns: int | None, end_ns: int | None
) -> list[Candle]:
    rows = [
        row
        for row in _all(venue, now_ns, interval_s)
        if (start_ns is None or row.open_ns >= start_ns) and (end_ns is None or row.open_ns < end_ns)
    ]
    return rows[-limit:] if start_ns is None else rows[:limit]


def _said(row: Candle) -> tuple[Any, ...]:
    # A folded candle opens and closes as its parts do, which the fake venue's numbers do not; its volumes add up.
    return (row.open_ns, row.interval_s, row.volume, row.trades, row.closed)
