"""The front door: memory first, then the store, then the venue, once."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from openoutcry.errors import (
    BadInterval,
    BadRange,
    OutOfReach,
    Refusal,
    TooLarge,
    Unavailable,
    UnknownInstrument,
    UnknownVenue,
    Unsupported,
)
from openoutcry.events import (
    NS,
    Candle,
    Event,
    FundingRate,
    Gap,
    MarkPrice,
    Mended,
    OpenInterest,
    PredictedFunding,
    Side,
    Ticker,
    Trade,
    open_of,
)
from openoutcry.instrument import Kind
from openoutcry.market.series import Batch, Of, Row, SeriesKey, State
from openoutcry.stores.memory import MemorySeries
from openoutcry.venues.venue import Ask, Feed, Query

MINUTE_NS = 60 * NS
NAME = "fake:BTCUSDT"
MINUTES = SeriesKey(NAME, Of.CANDLES, 60)


def opens(rows: Sequence[Candle]) -> list[int]:
    return [row.open_ns for row in rows]


def minutes_to(now_ns: int, count: int) -> list[int]:
    """The openings of the newest `count` minutes, the growing one last."""
    last = open_of(now_ns, 60)
    return [last - n * MINUTE_NS for n in range(count - 1, -1, -1)]


# -- asking once


async def test_the_newest_candles_come_from_the_venue_once_and_then_from_us(box: Any) -> None:
    first = await box.market.candles(box.btc, 60, limit=50)
    assert opens(first.rows) == minutes_to(box.clock.now_ns(), 50)
    assert [row.closed for row in first.rows] == [True] * 49 + [False]
    assert first.missing == []
    again = await box.market.candles(box.btc, 60, limit=50)
    assert again == first
    assert box.market.newest(NAME, 60, 50) is not None
    assert len(box.outside.asks) == 1


async def test_a_hundred_who_ask_at_once_are_one_question_to_the_venue(box: Any) -> None:
    box.outside.gate.clear()
    asking = [asyncio.create_task(box.market.candles(box.btc, 60, limit=50)) for _ in range(100)]
    await asyncio.sleep(0)
    box.outside.gate.set()
    answers = await asyncio.gather(*asking)
    assert len(box.outside.asks) == 1
    assert all(answer == answers[0] for answer in answers)
    assert len(answers[0].rows) == 50


async def test_stretches_that_overlap_share_what_they_have_in_common(box: Any) -> None:
    start_ns = open_of(box.clock.now_ns(), 3_600) - 7_200 * NS
    box.outside.gate.clear()
    long = asyncio.create_task(
        box.market.candles(box.btc, 60, limit=60, start_ns=start_ns, end_ns=start_ns + 3_600 * NS)
    )
    await asyncio.sleep(0)
    inside = asyncio.create_task(
        box.market.candles(box.btc, 60, limit=10, start_ns=start_ns + 600 * NS, end_ns=start_ns + 1_200 * NS)
    )
    await asyncio.sleep(0)
    box.outside.gate.set()
    assert len((await long).rows) == 60
    assert len((await inside).rows) == 10
    assert len(box.outside.asks) == 1


async def test_one_who_leaves_does_not_end_the_question_of_the_others(box: Any) -> None:
    box.outside.gate.clear()
    one, two = (asyncio.create_task(box.market.candles(box.btc, 60, limit=50)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.sleep(0)
    box.outside.gate.set()
    assert len((await two).rows) == 50
    assert one.cancelled()
    assert len(box.outside.asks) == 1


async def test_a_venue_that_does_not_answer_fails_all_who_wait_and_nobody_after(box: Any, unanswered: Refusal) -> None:
    box.outside.failure = unanswered
    box.outside.gate.clear()
    asking = [asyncio.create_task(box.market.candles(box.btc, 60, limit=50)) for _ in range(10)]
    await asyncio.sleep(0)
    box.outside.gate.set()
    failed = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(each, Unavailable) for each in failed)
    assert len(box.outside.asks) == 1
    box.outside.failure = None
    assert len((await box.market.candles(box.btc, 60, limit=50)).rows) == 50


async def test_what_came_before_a_failure_is_kept(box: Any, unanswered: Refusal) -> None:
    start_ns = open_of(box.clock.now_ns(), 3_600) - 36_000 * NS
    box.outside.page_max = 100
    box.outside.failure, box.outside.pages_before_failure = unanswered, 3
    with pytest.raises(Unavailable):
        await box.market.candles(box.btc, 60, limit=500, start_ns=start_ns, end_ns=start_ns + 500 * MINUTE_NS)
    box.outside.failure = None
    told = await box.market.candles(box.btc, 60, limit=500, start_ns=start_ns, end_ns=start_ns + 500 * MINUTE_NS)
    assert len(told.rows) == 500
    assert box.outside.asks[-1].start_ns == start_ns + 300 * MINUTE_NS


async def test_a_dead_venue_costs_nothing_where_the_store_has_it_all(file_box: Any, unanswered: Refusal) -> None:
    start_ns = open_of(file_box.clock.now_ns(), 3_600) - 7_200 * NS
    bounds = {"start_ns": start_ns, "end_ns": start_ns + 3_600 * NS}
    first = await file_box.market.candles(file_box.btc, 60, limit=60, **bounds)
    await file_box.restart()
    file_box.outside.failure = unanswered
    assert await file_box.market.candles(file_box.btc, 60, limit=60, **bounds) == first
    assert file_box.outside.asks == []
    with pytest.raises(Unavailable):
        await file_box.market.candles(file_box.btc, 60, limit=61, start_ns=start_ns - MINUTE_NS, end_ns=start_ns + 60)


async def test_only_the_stretch_that_is_missing_is_asked_for(box: Any) -> None:
    await box.market.candles(box.btc, 60, limit=50)
    await box.advance(600)
    told = await box.market.candles(box.btc, 60, limit=50)
    assert opens(told.rows) == minutes_to(box.clock.now_ns(), 50)
    assert box.outside.asks[1].start_ns is not None
    # Asked again from the first minute that was not settled: not the forty before it.
    assert (box.clock.now_ns() - box.outside.asks[1].start_ns) // MINUTE_NS == 10


async def test_the_growing_candle_of_an_unfollowed_instrument_is_at_most_a_second_old(box: Any) -> None:
    await box.market.candles(box.btc, 60, limit=10)
    await box.clock.advance(0.9)
    await box.market.candles(box.btc, 60, limit=10)
    assert len(box.outside.asks) == 1
    await box.clock.advance(0.2)
    assert box.market.newest(NAME, 60, 10) is None
    await box.market.candles(box.btc, 60, limit=10)
    assert len(box.outside.asks) == 2
    assert box.market.newest(NAME, 60, 10) is not None


async def test_a_candle_that_closed_just_now_is_served_but_not_kept_until_it_is_settled(box: Any) -> None:
    await box.clock.advance(30.5)  # half a second into the next minute
    told = await box.market.candles(box.btc, 60, limit=3)
    assert [row.closed for row in told.rows] == [True, True, False]
    just_closed = told.rows[1].open_ns
    assert not box.market.coverage(MINUTES).whole(just_closed, just_closed + MINUTE_NS)
    await box.clock.advance(3)
    again = await box.market.candles(box.btc, 60, limit=3)
    assert opens(again.rows) == opens(told.rows)
    assert box.market.coverage(MINUTES).whole(just_closed, just_closed + MINUTE_NS)


async def test_a_page_without_a_promise_vouches_for_its_rows_only(box: Any) -> None:
    box.outside.promise = False
    silent = open_of(box.clock.now_ns(), 60) - 5 * MINUTE_NS
    box.outside.traded = lambda at_ns: at_ns != silent
    told = await box.market.candles(box.btc, 60, limit=10, end_ns=box.clock.now_ns() - 60 * NS)
    assert silent not in opens(told.rows)
    assert told.missing == [(silent, silent + MINUTE_NS)]


async def test_minutes_without_a_trade_are_known_to_be_empty_and_not_asked_again(box: Any) -> None:
    box.outside.traded = lambda at_ns: (at_ns // MINUTE_NS) % 3 == 0
    end_ns = open_of(box.clock.now_ns(), 3_600)
    told = await box.market.candles(box.btc, 60, limit=40, start_ns=end_ns - 60 * MINUTE_NS, end_ns=end_ns)
    assert len(told.rows) == 20
    assert told.missing == []
    again = await box.market.candles(box.btc, 60, limit=40, start_ns=end_ns - 60 * MINUTE_NS, end_ns=end_ns)
    assert again == told
    assert len(box.outside.asks) == 1


async def test_where_little_trades_the_newest_are_looked_for_further_back(box: Any) -> None:
    box.outside.traded = lambda at_ns: (at_ns // MINUTE_NS) % 3 == 0
    told = await box.market.candles(box.btc, 60, limit=40)
    assert len(told.rows) == 40
    assert told.missing == []
    gaps = {two - one for one, two in zip(opens(told.rows), opens(told.rows)[1:], strict=False)}
    assert gaps == {3 * MINUTE_NS}


async def test_where_little_trades_the_first_are_looked_for_further_on(box: Any) -> None:
    start_ns = open_of(box.clock.now_ns(), 3_600) - 7_200 * NS
    for every in (2, 3, 4):
        box.outside.traded = lambda at_ns, every=every: ((at_ns - start_ns) // MINUTE_NS) % every == 0
        await box.restart(MemorySeries())
        told = await box.market.candles(box.btc, 60, limit=10, start_ns=start_ns)
        assert opens(told.rows) == [start_ns + n * every * MINUTE_NS for n in range(10)]
        assert told.missing == []


async def test_an_instrument_younger_than_the_question_gives_what_there_is(box: Any) -> None:
    box.outside.begun_ns = open_of(box.clock.now_ns(), 60) - 20 * MINUTE_NS
    told = await box.market.candles(box.btc, 60, limit=500)
    assert len(told.rows) == 21
    assert told.missing == []
    asked = len(box.outside.asks)
    assert await box.market.candles(box.btc, 60, limit=500) == told
    assert len(box.outside.asks) == asked


async def test_from_the_beginning_of_time_means_from_the_first_candle(box: Any) -> None:
    box.outside.begun_ns = open_of(box.clock.now_ns(), 86_400) - 3 * 86_400 * NS
    told = await box.market.candles(box.btc, 3_600, limit=10, start_ns=0)
    assert opens(told.rows) == [box.outside.begun_ns + n * 3_600 * NS for n in range(10)]
    assert told.missing == []


async def test_what_the_venue_never_serves_is_refused_once_and_named_missing(box: Any) -> None:
    box.outside.failure = OutOfReach("fake", "too old")
    start_ns = open_of(box.clock.now_ns(), 86_400) - 400 * 86_400 * NS
    bounds = {"start_ns": start_ns, "end_ns": start_ns + 10 * MINUTE_NS}
    told = await box.market.candles(box.btc, 60, limit=10, **bounds)
    assert told.rows == []
    assert told.missing == [(start_ns, start_ns + 10 * MINUTE_NS)]
    assert await box.market.candles(box.btc, 60, limit=10, **bounds) == told
    assert len(box.outside.asks) == 1
    assert box.market.coverage(MINUTES).query(start_ns, start_ns + 1)[0].state is State.REFUSED


@pytest.mark.parametrize("limit", [1, 2, 999, 1_500, 3_000])
async def test_limits_above_a_page_are_paged(box: Any, limit: int) -> None:
    box.outside.page_max = 500
    told = await box.market.candles(box.btc, 60, limit=limit)
    assert opens(told.rows) == minutes_to(box.clock.now_ns(), limit)


async def test_bounds_are_open_times_and_the_end_is_exclusive(box: Any) -> None:
    base = open_of(box.clock.now_ns(), 3_600) - 3_600 * NS
    for start_ns, end_ns, expected in [
        (base, base + MINUTE_NS, [base]),
        (base + 1, base + MINUTE_NS, []),
        (base, base + MINUTE_NS + 1, [base, base + MINUTE_NS]),
        (base - 1, base + 1, [base]),
    ]:
        told = await box.market.candles(box.btc, 60, limit=10, start_ns=start_ns, end_ns=end_ns)
        assert opens(told.rows) == expected
    told = await box.market.candles(box.btc, 60, limit=2, end_ns=base)
    assert opens(told.rows) == [base - 2 * MINUTE_NS, base - MINUTE_NS]
    assert all(row.closed for row in told.rows)


async def test_a_question_that_reaches_into_the_future_ends_now(box: Any) -> None:
    now_ns = box.clock.now_ns()
    told = await box.market.candles(box.btc, 60, limit=5, start_ns=now_ns - 90 * NS, end_ns=now_ns + 10**15)
    assert opens(told.rows) == minutes_to(now_ns, 2)
    assert (await box.market.candles(box.btc, 60, limit=5, start_ns=now_ns + 10**15)).rows == []
    assert (await box.market.candles(box.btc, 60, limit=5, end_ns=1)).rows == []


@pytest.mark.parametrize(
    ("interval_s", "more", "refusal"),
    [
        (61, {}, BadInterval),
        (0, {}, BadInterval),
        (60, {"limit": 0}, BadRange),
        (60, {"limit": 10**6}, TooLarge),
        (60, {"start_ns": 5, "end_ns": 5}, BadRange),
        (60, {"start_ns": -1}, BadRange),
        (60, {"end_ns": 2**80}, BadRange),
    ],
)
async def test_questions_nobody_can_answer_are_refused(
    box: Any, interval_s: int, more: dict[str, int], refusal: type[Refusal]
) -> None:
    with pytest.raises(refusal):
        await box.market.candles(box.btc, interval_s, **{"limit": 5, **more})
    assert box.outside.asks == []


class Broken(MemorySeries):
    """A store that cannot be read or written."""

    def read(self, *_: object, **__: object) -> Sequence[Row]:
        raise Unavailable("store", "the disk is gone")

    def write(self, batch: Batch) -> None:
        raise Unavailable("store", "the disk is gone")


async def test_a_broken_store_costs_only_what_the_venue_cannot_tell(boxes: Any) -> None:
    box = boxes(Broken())
    told = await box.market.candles(box.btc, 60, limit=10)
    assert len(told.rows) == 10
    assert not await box.market.writer.flush()
    assert len((await box.market.candles(box.btc, 60, limit=10)).rows) == 10
    assert len((await box.market.candles(box.btc, 60, limit=20)).rows) == 20
    with pytest.raises(Unavailable, match="the disk is gone"):
        await box.market.candles(box.btc, 60, limit=20, side=Side.SELL)


async def test_a_candle_that_grows_since_before_the_question_is_not_part_of_it(box: Any) -> None:
    box.follow()
    box.trade()
    await box.clock.advance(31)  # the minute is over, and not closed yet
    told = await box.market.candles(box.btc, 60, limit=5, start_ns=open_of(box.clock.now_ns(), 60))
    assert all(row.open_ns == open_of(box.clock.now_ns(), 60) for row in told.rows)


# -- intervals that are folded


async def test_an_interval_that_is_not_stored_is_asked_for_in_parts_and_a_long_stretch_of_it_directly(box: Any) -> None:
    told = await box.market.candles(box.btc, 180, limit=10)
    assert {ask.interval_s for ask in box.outside.asks} == {60}
    assert len(told.rows) == 10
    box.outside.asks.clear()
    told = await box.market.candles(box.btc, 180, limit=1_000)
    assert {ask.interval_s for ask in box.outside.asks} == {180}
    assert len(told.rows) == 1_000


@pytest.mark.parametrize("interval_s", [180, 1_800, 7_200, 21_600, 28_800, 43_200, 259_200, 604_800, 2_629_746])
async def test_an_interval_nobody_serves_is_folded_from_the_longest_that_fits(box: Any, interval_s: int) -> None:
    box.outside.venue_intervals_s = frozenset({60, 300, 3_600, 86_400})
    told = await box.market.candles(box.btc, interval_s, limit=4)
    assert len(told.rows) == 4
    assert told.missing == []
    assert [row.closed for row in told.rows] == [True] * 3 + [False]
    for row, after in zip(told.rows, told.rows[1:], strict=False):
        assert row.volume == (after.open_ns - row.open_ns) // MINUTE_NS  # every minute traded once
    grown_ns = box.clock.now_ns() - told.rows[-1].open_ns
    assert told.rows[-1].volume == grown_ns // MINUTE_NS + 1


async def test_three_minutes_are_folded_from_memory_when_the_minutes_are_there(box: Any) -> None:
    end_ns = open_of(box.clock.now_ns(), 3_600)
    await box.market.candles(box.btc, 60, limit=60, start_ns=end_ns - 3_600 * NS, end_ns=end_ns)
    told = await box.market.candles(box.btc, 180, limit=20, start_ns=end_ns - 3_600 * NS, end_ns=end_ns)
    assert len(told.rows) == 20
    assert len(box.outside.asks) == 1


async def test_a_bucket_with_a_hole_is_missing_and_never_folded_from_the_rest(box: Any) -> None:
    box.outside.venue_intervals_s = frozenset({60})
    box.outside.promise = False
    end_ns = open_of(box.clock.now_ns(), 3_600)
    hole = end_ns - 600 * NS
    box.outside.traded = lambda at_ns: at_ns != hole
    told = await box.market.candles(box.btc, 300, limit=12, start_ns=end_ns - 3_600 * NS, end_ns=end_ns)
    assert hole not in opens(told.rows)
    assert len(told.rows) == 11
    assert told.missing == [(hole, hole + 300 * NS)]


# -- live


async def test_a_followed_instrument_is_answered_from_memory_alone(box: Any) -> None:
    box.follow()
    box.trade()
    await box.market.candles(box.btc, 60, limit=5)
    box.outside.asks.clear()
    await box.advance(31.5)  # the minute is over and its grace too
    box.trade(price="107")
    told = box.market.newest(NAME, 60, 5)
    assert told is not None
    rows, growing = told
    assert opens(rows) == minutes_to(box.clock.now_ns(), 6)[:-1]
    assert rows[-1].origin == "trades"
    assert growing is not None
    assert (growing.open, growing.closed) == (Decimal(107), False)
    again = await box.market.candles(box.btc, 60, limit=5)
    assert [*rows[1:], growing] == list(again.rows)
    assert box.outside.asks == []


async def test_quiet_minutes_of_a_whole_stream_are_known_to_be_empty(box: Any) -> None:
    box.follow()
    box.trade()
    await box.market.candles(box.btc, 60, limit=5)
    await box.advance(31.5)
    box.outside.asks.clear()
    traded = open_of(box.clock.now_ns(), 60) - MINUTE_NS
    await box.advance(301)
    told = await box.market.candles(box.btc, 60, limit=5)
    assert opens(told.rows)[-1] == traded
    assert told.missing == []
    assert box.outside.asks == []
    assert box.market.coverage(MINUTES).whole(traded, open_of(box.clock.now_ns(), 60))


async def test_a_minute_that_traded_but_did_not_close_is_not_called_quiet(box: Any) -> None:
    box.follow()
    await box.advance(31.5)
    box.trade()
    await box.advance(60)
    traded = box.market.coverage(MINUTES).spans[-1].start_ns
    box.trade()  # in the second minute
    await box.clock.advance(65)  # time passes, but the live candles are not told: nothing closes
    assert box.market.newest(NAME, 60, 1) is None or opens(box.market.newest(NAME, 60, 1)[0])[-1] == traded
    open_ns = open_of(box.clock.now_ns(), 60) - MINUTE_NS
    assert not box.market.coverage(MINUTES).whole(open_ns, open_ns + MINUTE_NS)


async def test_a_gap_makes_buckets_missing_and_mending_makes_them_had(box: Any) -> None:
    box.follow()
    box.trade()
    await box.advance(31.5)
    box.trade()
    gap = Gap(NAME, "trades", box.clock.now_ns() + 1, None, "connection lost")
    box.play(gap)
    box.outside.followed_now.clear()
    await box.advance(120)
    assert box.market.newest(NAME, 60, 1) is None
    lost = open_of(gap.start_ns, 60)
    assert box.market.coverage(MINUTES).missing(lost, lost + 2 * MINUTE_NS) == [(lost, lost + 2 * MINUTE_NS)]
    box.trade(at_ns=gap.start_ns + 70 * NS)
    box.outside.followed_now.add((NAME, Feed.TRADES))
    box.play(Mended(gap, box.clock.now_ns()))
    assert box.market.coverage(MINUTES).whole(lost, lost + 2 * MINUTE_NS)
    told = await box.market.candles(box.btc, 60, limit=4)
    assert opens(told.rows)[-2:] == [lost, lost + MINUTE_NS]


async def test_a_side_is_known_only_where_we_saw_it_ourselves(box: Any) -> None:
    box.follow()
    box.trade(side=Side.SELL)
    await box.advance(31.5)
    box.trade(side=Side.BUY)
    await box.advance(60)
    sells = await box.market.candles(box.btc, 60, limit=4, side=Side.SELL)
    first = open_of(box.clock.now_ns(), 60) - 2 * MINUTE_NS
    assert opens(sells.rows) == [first]
    assert sells.missing == [(first - 2 * MINUTE_NS, first)]
    assert box.outside.asks == []


async def test_letting_go_forgets_the_half_minute(box: Any) -> None:
    stop = box.follow()
    box.trade()
    stop()
    stop()
    await box.advance(60)
    assert box.market.coverage(MINUTES).spans == ()
    assert len(box.aggregate) == 0


# -- the rest of the door


async def test_symbols_are_found_as_people_write_them(box: Any) -> None:
    make = type(box.btc)
    told = {name: getattr(box.btc, name) for name in box.btc.__struct_fields__}
    for symbol, coin in [("kPEPE", "kPEPE"), ("HYPE", "HYPE")]:
        box.outside.listed[symbol] = make(**{**told, "symbol": symbol, "coin": coin, "quote": "USDC"})
    box.outside.listed = dict(box.outside.listed)
    for written, symbol in [
        ("BTCUSDT", "BTCUSDT"),
        ("btcusdt", "BTCUSDT"),
        ("kPEPE", "kPEPE"),
        ("KPEPE", "kPEPE"),
        ("kpepeusdt", "kPEPE"),
        ("HYPEUSDT", "HYPE"),
        ("HYPE-USD", "HYPE"),
    ]:
        assert (await box.market.instrument("fake", written)).symbol == symbol
    for written in ["BTCUSDTUSDT", "BTCUSDC", "BTC", "", "USDT"]:
        with pytest.raises(UnknownInstrument):
            await box.market.instrument("fake", written)
    with pytest.raises(UnknownInstrument, match="does not list BTCUSDC; listed are BTCUSDT"):
        await box.market.instrument("fake", "BTCUSDC")
    with pytest.raises(UnknownVenue, match="no venue nowhere; there are fake"):
        await box.market.instrument("nowhere", "BTCUSDT")


async def test_the_listing_survives_a_start_without_the_venue(file_box: Any, unanswered: Refusal) -> None:
    await file_box.market.instrument("fake", "BTCUSDT")
    await asyncio.sleep(0)
    for task in tuple(file_box.market._background):
        await task
    await file_box.restart()
    file_box.outside.listed = {}
    file_box.outside.failure = unanswered
    assert (await file_box.market.instrument("fake", "ethusdt")).symbol == "ETHUSDT"


def interest(at_ns: int, value: str | None = None) -> OpenInterest:
    return OpenInterest(NAME, at_ns, at_ns, Decimal(10), None if value is None else Decimal(value))


async def test_open_interest_gets_its_value_from_the_mark_price(box: Any) -> None:
    now_ns = box.clock.now_ns()
    box.outside.extra[Query.OPEN_INTEREST] = lambda _ask: [interest(now_ns)]
    box.outside.extra[Query.FUNDING] = lambda _ask: [MarkPrice(NAME, now_ns, now_ns, Decimal("100.5"))]
    assert (await box.market.open_interest(box.btc)).value == Decimal("1005.0")
    assert (await box.market.open_interest(box.btc)).value == Decimal("1005.0")
    assert len(box.outside.asks) == 2  # one for each, both fresh the second time
    await box.clock.advance(6)
    await box.market.open_interest(box.btc)
    assert len(box.outside.asks) == 4
    del box.outside.extra[Query.FUNDING]
    box.market.latest.marks = type(box.market.latest.marks)(5)
    assert (await box.market.open_interest(box.btc)).value is None


async def test_what_is_followed_is_not_asked_for(box: Any) -> None:
    now_ns = box.clock.now_ns()
    for feed in (Feed.FUNDING, Feed.MARK_PRICE, Feed.OPEN_INTEREST):
        box.outside.followed_now.add((NAME, feed))
    rate = FundingRate(NAME, now_ns, now_ns, Decimal("0.0001"), now_ns + 5, 28_800, False)
    mark = MarkPrice(NAME, now_ns, now_ns, Decimal(7))
    box.play(rate, mark, interest(now_ns, "70"), interest(now_ns - 5, "60"))
    assert await box.market.funding(box.btc) == rate
    assert await box.market.mark_price(box.btc) == mark
    assert (await box.market.open_interest(box.btc)).value == Decimal(70)
    assert box.outside.asks == []


async def test_what_a_venue_lacks_is_unsupported(box: Any) -> None:
    spot = type(box.btc)(**{**{n: getattr(box.btc, n) for n in box.btc.__struct_fields__}, "kind": Kind.SPOT})
    for asked in (
        box.market.funding(spot),
        box.market.open_interest(box.btc),
        box.market.mark_price(box.btc),
        box.market.funding_history(spot, limit=5),
        box.market.predicted_funding("fake"),
        box.market.open_interest_history(spot, 300, limit=5),
    ):
        with pytest.raises(Unsupported):
            await asked


async def test_predictions_are_asked_for_once_a_minute_and_replaced_whole(box: Any) -> None:
    coins = ["BTC", "ETH"]

    def table(_ask: Ask) -> Sequence[Event]:
        return [PredictedFunding(f"fake:{coin}", coin, "BinPerp", 5, Decimal("0.1"), 9, 28_800) for coin in coins]

    box.outside.extra[Query.PREDICTED_FUNDING] = table
    box.outside.gate.clear()
    asking = [asyncio.create_task(box.market.predicted_funding("fake")) for _ in range(20)]
    await asyncio.sleep(0)
    box.outside.gate.set()
    assert {len(told) for told in await asyncio.gather(*asking)} == {2}
    coins.pop()
    assert len(await box.market.predicted_funding("fake")) == 2
    await box.clock.advance(61)
    assert [each.coin for each in await box.market.predicted_funding("fake")] == ["BTC"]
    assert len(box.outside.asks) == 2


async def test_open_interest_history_is_stored_sample_by_sample(box: Any) -> None:
    def samples(ask: Ask) -> Sequence[Event]:
        assert ask.start_ns is not None
        assert ask.end_ns is not None
        return [interest(at_ns) for at_ns in range(ask.start_ns, min(ask.end_ns, box.clock.now_ns()), 300 * NS)]

    box.outside.extra[Query.OPEN_INTEREST_HISTORY] = samples
    told = await box.market.open_interest_history(box.btc, 300, limit=30)
    assert len(told) == 30
    assert await box.market.open_interest_history(box.btc, 300, limit=30) == told
    assert len(box.outside.asks) == 1
    await box.clock.advance(300)
    assert len(await box.market.open_interest_history(box.btc, 300, limit=30)) == 30
    assert box.outside.asks[1].start_ns == told[-1].event_ns + 300 * NS


async def test_the_newest_settled_rates_are_asked_for_by_number_and_kept(box: Any) -> None:
    period_ns = 28_800 * NS
    last_ns = open_of(box.clock.now_ns(), 28_800)

    def rates(ask: Ask) -> Sequence[Event]:
        every = [
            FundingRate(NAME, last_ns - n * period_ns, 1, Decimal(n), last_ns - n * period_ns, 28_800, True)
            for n in range(40, -1, -1)
        ]
        inside = [r for r in every if (ask.start_ns or 0) <= r.funding_ns < (ask.end_ns or 10**20)]
        return inside[-ask.limit :] if ask.newest and ask.limit else inside

    box.outside.extra[Query.FUNDING_HISTORY] = rates
    told = await box.market.funding_history(box.btc, limit=10)
    assert [rate.rate for rate in told] == [Decimal(n) for n in range(9, -1, -1)]
    assert await box.market.funding_history(box.btc, limit=10) == told
    assert len(box.outside.asks) == 1
    assert len(await box.market.funding_history(box.btc, limit=100)) == 41
    assert len(await box.market.funding_history(box.btc, limit=100)) == 41
    assert len(box.outside.asks) == 2
    two = await box.market.funding_history(box.btc, limit=9, start_ns=last_ns - period_ns, end_ns=last_ns + 1)
    assert [rate.rate for rate in two] == [Decimal(1), Decimal(0)]
    assert len(box.outside.asks) == 2


async def test_tickers_of_all_instruments_come_with_one_question(box: Any) -> None:
    now_ns = box.clock.now_ns()
    one = Decimal(1)
    box.outside.extra[Query.TICKERS] = lambda _ask: [Ticker(NAME, now_ns, now_ns, one, one, one, one, one, one, 5)]
    assert (await box.market.ticker(box.btc)).trades == 5
    assert (await box.market.ticker(box.btc)).trades == 5
    with pytest.raises(Unsupported):
        await box.market.ticker(box.outside.listed["ETHUSDT"])
    assert len(box.outside.asks) == 1


async def test_raw_trades_come_from_the_store_and_missing_ones_from_the_venue(box: Any) -> None:
    start_ns = open_of(box.clock.now_ns(), 60)
    box.follow()
    for _ in range(3):
        box.trade()
        await box.advance(1)
    assert len(await box.market.trades(box.btc, limit=2)) == 2
    assert len(await box.market.trades(box.btc, limit=9, start_ns=start_ns)) == 3
    assert box.outside.asks == []
    early = Trade(NAME, start_ns - 5, 1, 1, 1, Side.BUY, Decimal(1), Decimal(1))
    box.outside.extra[Query.TRADES] = lambda _ask: [early]
    told = await box.market.trades(box.btc, limit=9, start_ns=start_ns - 60 * NS)
    assert told[0] == early
    assert len(told) == 4
    assert box.outside.asks[0].end_ns == start_ns


async def test_pass_throughs_say_what_the_outside_says(box: Any) -> None:
    assert box.market.feeds("fake") == frozenset(Feed)
    assert 180 in box.market.intervals_s("fake")
    assert Query.CANDLES in box.market.queries("fake")
    assert (await box.market.raw("fake", "/x", [("a", "b")], 3)).body == b"fake /x [('a', 'b')] 3"
    assert list(box.market.venues()) == ["fake"]
    assert set(await box.market.instruments("fake")) == {"BTCUSDT", "ETHUSDT"}
