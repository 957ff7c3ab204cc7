"""The last rows of an answer: what grows is there, what is over but not sure is there, and nothing is asked needlessly."""

from decimal import Decimal
from typing import Any

import pytest

from openoutcry.aggregates.candles import Candles as LiveCandles
from openoutcry.aggregates.rollup import MONTH_S, bounds_of
from openoutcry.events import INTERVALS_S, NS, Side, Trade, open_of
from openoutcry.market.series import Of, SeriesKey
from openoutcry.market.warm import Warm

MINUTE_NS = 60 * NS
NAME = "fake:BTCUSDT"
LENGTHS_S = (60, 180, 300, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 28_800, 43_200, 86_400, 259_200, 604_800, MONTH_S)


def running(now_ns: int, interval_s: int) -> int:
    return bounds_of(now_ns, interval_s)[0]


@pytest.mark.parametrize("sure_s", [0.0, 5.0])
@pytest.mark.parametrize("interval_s", LENGTHS_S)
async def test_the_last_row_of_an_unfollowed_instrument_grows(box: Any, interval_s: int, sure_s: float) -> None:
    box.outside.sure_s = sure_s
    box.outside.venue_intervals_s = frozenset(LENGTHS_S) - {MONTH_S}
    for wait_s in (0.0, 0.3, 1.5):
        await box.clock.advance(wait_s)
        told = await box.market.candles(box.btc, interval_s, limit=3)
        assert [row.closed for row in told.rows] == [True, True, False]
        assert told.rows[-1].open_ns == running(box.clock.now_ns(), interval_s)
        assert told.missing == []


@pytest.mark.parametrize("seconds", [0.2, 1.9, 2.1, 4.9, 5.1])
async def test_a_candle_the_venue_is_not_sure_of_yet_is_shown(box: Any, seconds: float) -> None:
    box.outside.sure_s = 5.0
    await box.market.candles(box.btc, 60, limit=3)
    await box.clock.advance(30 + seconds)
    told = await box.market.candles(box.btc, 60, limit=3)
    now_open_ns = running(box.clock.now_ns(), 60)
    assert [row.open_ns for row in told.rows] == [now_open_ns - 2 * MINUTE_NS, now_open_ns - MINUTE_NS, now_open_ns]
    assert [row.closed for row in told.rows] == [True, seconds > 5, False]
    assert told.missing == []


@pytest.mark.parametrize(("seconds", "sure"), [(2.0, False), (6.0, True)])
async def test_a_folded_candle_is_not_surer_than_its_last_part(box: Any, seconds: float, sure: bool) -> None:
    box.outside.sure_s = 5.0
    await box.clock.advance(30 + seconds)  # 10:21 begins three minutes
    told = await box.market.candles(box.btc, 180, limit=3)
    assert [row.closed for row in told.rows] == [True, sure, False]
    assert told.rows[-1].open_ns == running(box.clock.now_ns(), 180)


async def test_a_new_candle_is_asked_for_as_soon_as_it_begins(box: Any) -> None:
    await box.clock.advance(29.5)
    await box.market.candles(box.btc, 60, limit=3)
    await box.clock.advance(0.6)
    assert box.market.newest(NAME, 60, 3) is None
    told = await box.market.candles(box.btc, 60, limit=3)
    assert told.rows[-1].open_ns == running(box.clock.now_ns(), 60)


async def test_where_nothing_was_traded_yet_nothing_is_invented_and_all_rows_are_closed(box: Any) -> None:
    now_open_ns = running(box.clock.now_ns(), 60)
    box.outside.traded = lambda open_ns: open_ns != now_open_ns
    told = await box.market.candles(box.btc, 60, limit=3)
    assert [row.closed for row in told.rows] == [True] * 3
    assert told.rows[-1].open_ns == now_open_ns - MINUTE_NS
    again = box.market.newest(NAME, 60, 3)
    assert again is not None
    assert again[0][-3:] == list(told.rows)
    assert again[1] is None


async def test_a_followed_minute_that_is_over_but_not_closed_is_shown_without_a_question(box: Any) -> None:
    box.follow()
    box.trade()
    await box.market.candles(box.btc, 60, limit=3)
    box.outside.asks.clear()
    await box.advance(30.2)  # the minute is over, its grace is not
    box.trade(price="107")
    ended_ns = running(box.clock.now_ns(), 60) - MINUTE_NS
    rows, growing = box.market.newest(NAME, 60, 3)
    assert [(row.open_ns, row.closed) for row in rows[-2:]] == [(ended_ns - MINUTE_NS, True), (ended_ns, False)]
    assert (growing.open_ns, growing.closed, growing.open) == (ended_ns + MINUTE_NS, False, Decimal(107))
    told = await box.market.candles(box.btc, 60, limit=3)
    assert [*rows[-2:], growing] == list(told.rows)
    folded = await box.market.candles(box.btc, 180, limit=2)
    assert folded.rows[-1].trades == sum(
        row.trades for row in (*rows, growing) if row.open_ns >= folded.rows[-1].open_ns
    )
    assert folded.rows[-1].closed is False
    assert [ask for ask in box.outside.asks if ask.interval_s == 60 and ask.end_ns > ended_ns] == []


async def test_a_folded_candle_is_not_closed_before_all_its_parts_are(box: Any) -> None:
    await box.clock.advance(30 + 9 * 60 + 20)  # 10:30:20
    box.follow()
    box.trade()
    await box.market.candles(box.btc, 60, limit=30)
    await box.advance(2 * 60)
    box.trade()
    await box.advance(40.2)  # 10:33:00.2, three minutes are over
    box.trade()
    told = await box.market.candles(box.btc, 180, limit=3)
    now_open_ns = running(box.clock.now_ns(), 180)
    assert [row.open_ns for row in told.rows] == [now_open_ns - 360 * NS, now_open_ns - 180 * NS, now_open_ns]
    assert [row.closed for row in told.rows] == [True, False, False]


async def test_what_grows_of_a_warm_instrument_is_asked_of_nobody(box: Any) -> None:
    box.outside.venue_intervals_s = frozenset(LENGTHS_S) - {MONTH_S}
    box.follow()
    assert await Warm(box.market, box.aggregate, box.clock).warm(box.btc)
    box.trade(price="500")
    for interval_s in LENGTHS_S:
        await box.market.candles(box.btc, interval_s, limit=3)
    box.outside.asks.clear()
    for seconds in (3.0, 26.7, 0.6, 15.0):
        await box.advance(seconds)
        box.trade(price="501")
        for interval_s in LENGTHS_S:
            told = await box.market.candles(box.btc, interval_s, limit=3)
            assert len(told.rows) == 3
            assert told.rows[-1].open_ns == running(box.clock.now_ns(), interval_s)
            assert told.rows[-1].close == Decimal(501)
            assert told.rows[-1].closed is False
            assert all(row.closed for row in told.rows[:1])
    assert box.outside.asks == []


async def test_lengths_inside_the_stored_minutes_are_folded_from_them(box: Any) -> None:
    now_open_ns = running(box.clock.now_ns(), 60)
    await box.market.candles(box.btc, 60, limit=1_440, start_ns=now_open_ns - 1_440 * MINUTE_NS, end_ns=now_open_ns)
    box.outside.asks.clear()
    for interval_s in (180, 300, 900, 1_800, 3_600, 7_200, 14_400, 21_600):
        end_ns = running(now_open_ns, interval_s)
        told = await box.market.candles(box.btc, interval_s, limit=2, end_ns=end_ns)
        assert [row.trades for row in told.rows] == [interval_s // 60] * 2
        assert all(row.closed for row in told.rows)
    assert box.outside.asks == []


async def test_what_grows_of_a_length_that_is_stored_but_not_served_is_folded(box: Any) -> None:
    box.outside.venue_intervals_s = frozenset({60})
    now_open_ns = running(box.clock.now_ns(), 300)
    told = await box.market.candles(box.btc, 300, limit=1, start_ns=now_open_ns)
    assert [(row.open_ns, row.closed) for row in told.rows] == [(now_open_ns, False)]


async def test_lengths_that_are_not_stored_share_one_question(box: Any) -> None:
    box.outside.venue_intervals_s = frozenset(LENGTHS_S) - {MONTH_S}
    for interval_s in (14_400, 28_800, 43_200):
        told = await box.market.candles(box.btc, interval_s, limit=3)
        assert [row.closed for row in told.rows] == [True, True, False]
    assert [ask.interval_s for ask in box.outside.asks] == [14_400]


async def test_of_silence_longer_candles_that_nobody_hears_close_are_not_called_empty(box: Any) -> None:
    box.follow(start_ns=running(box.clock.now_ns(), 60))
    for _ in range(10):
        box.trade()
        await box.advance(60)
    await box.market.candles(box.btc, 180, limit=2)
    end_ns = running(box.clock.now_ns(), 180)
    told = await box.market.candles(box.btc, 180, limit=2, end_ns=end_ns)
    assert [row.open_ns for row in told.rows] == [end_ns - 360 * NS, end_ns - 180 * NS]
    assert not box.market.coverage(SeriesKey(NAME, Of.CANDLES, 180)).whole(end_ns - 180 * NS, end_ns)


# -- what the live candles tell


def trade(at_ns: int, side: Side = Side.BUY) -> Trade:
    return Trade(NAME, at_ns, at_ns, at_ns, at_ns, side, Decimal(100), Decimal(1))


def test_what_waits_for_its_end_stands_before_what_grows() -> None:
    live, start_ns = LiveCandles(), open_of(1_736_936_400 * NS, 604_800)
    live.vouch(NAME, start_ns)
    for second in (10, 70, 130):
        live.on_trade(trade(start_ns + second * NS))
    waiting = live.unclosed(NAME, 60)
    assert [(row.open_ns - start_ns) // MINUTE_NS for row in waiting] == [0, 1, 2]
    assert [(row.trades, row.closed) for row in waiting] == [(1, False)] * 3
    assert waiting[-1] == live.growing(NAME, 60)
    for interval_s in INTERVALS_S[1:]:
        assert [row.trades for row in live.unclosed(NAME, interval_s)] == [3]
    live.on_time("fake", start_ns + 125 * NS)
    assert [(row.open_ns - start_ns) // MINUTE_NS for row in live.unclosed(NAME, 60)] == [2]


def test_a_side_that_was_silent_has_no_candle_that_waits() -> None:
    live, start_ns = LiveCandles(), open_of(1_736_936_400 * NS, 604_800)
    live.vouch(NAME, start_ns)
    live.on_trade(trade(start_ns + 10 * NS, Side.SELL))
    live.on_trade(trade(start_ns + 70 * NS))
    assert [row.open_ns for row in live.unclosed(NAME, 60, Side.SELL)] == [start_ns]
    assert [row.open_ns for row in live.unclosed(NAME, 60, Side.BUY)] == [start_ns + MINUTE_NS]


def test_what_is_not_known_from_its_opening_does_not_wait() -> None:
    live, start_ns = LiveCandles(), open_of(1_736_936_400 * NS, 604_800)
    live.on_trade(trade(start_ns + 10 * NS))  # joined inside the first minute
    live.on_trade(trade(start_ns + 70 * NS))
    assert [row.open_ns for row in live.unclosed(NAME, 60)] == [start_ns + MINUTE_NS]
    assert live.unclosed(NAME, 300) == []
    assert live.unclosed("fake:ETHUSDT", 60) == ()
