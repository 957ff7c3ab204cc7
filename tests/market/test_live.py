"""Candles as they grow, told to many from one computation."""

from decimal import Decimal
from typing import Any

import pytest

from openoutcry.errors import BadInterval
from openoutcry.events import NS, Candle, Gap, Mended, open_of
from openoutcry.market.warm import Warm
from openoutcry.venues.venue import Feed

NAME = "fake:BTCUSDT"


async def test_followers_hear_the_growing_candle_when_it_changed_and_the_closed_one_once(box: Any) -> None:
    told: list[Candle] = []
    box.follow()
    stop = box.market.follow_candles(box.btc, 60, told.append)
    live = box.market.live
    live.pulse()
    assert told == []
    box.trade(price="100")
    box.trade(price="101", number=box.clock.now_ns() + 1)
    assert told == []
    live.pulse()
    live.pulse()
    assert [(candle.close, candle.closed) for candle in told] == [(Decimal(101), False)]
    await box.advance(32)
    live.pulse()
    assert [candle.closed for candle in told] == [False, True]
    box.trade(price="103")
    live.pulse()
    assert [(candle.open, candle.closed) for candle in told[2:]] == [(Decimal(103), False)]
    stop()
    stop()
    box.trade(price="104", number=box.clock.now_ns() + 1)
    live.pulse()
    assert len(told) == 3


async def test_one_computation_serves_all_who_follow(box: Any) -> None:
    one: list[Candle] = []
    two: list[Candle] = []
    box.follow()
    stops = [box.market.follow_candles(box.btc, 300, each) for each in (one.append, two.append, two.append)]
    assert box.market.live.tapes == 1
    box.trade()
    box.market.live.pulse()
    assert one == two[:1] == two[1:]
    stops[1]()
    box.trade(price="7", number=box.clock.now_ns() + 1)
    box.market.live.pulse()
    assert (len(one), len(two)) == (2, 3)
    for stop in stops:
        stop()
    assert box.market.live.tapes == 0


async def test_the_pulse_beats_four_times_a_second(box: Any) -> None:
    import asyncio

    told: list[Candle] = []
    box.follow()
    box.market.follow_candles(box.btc, 60, told.append)
    running = asyncio.create_task(box.market.run())
    await asyncio.sleep(0)
    for n in range(100):
        box.trade(price=str(100 + n), number=box.clock.now_ns() + n)
        await box.clock.advance(0.01)
    assert len(told) == 4
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_rolled_up_candle_grows_from_its_opening_with_what_came_before_we_followed(box: Any) -> None:
    box.outside.venue_intervals_s = frozenset({60})
    told: list[Candle] = []
    open_ns = open_of(box.clock.now_ns(), 1_800)
    box.follow()
    box.market.follow_candles(box.btc, 1_800, told.append)
    box.trade(price="500")
    box.market.live.pulse()
    assert told == []  # what came before is not known yet
    for task in tuple(box.market._background):
        await task
    await Warm(box.market, box.aggregate, box.clock).warm(box.btc)
    box.market.live.pulse()
    (grown,) = told
    assert (grown.interval_s, grown.open_ns, grown.closed) == (1_800, open_ns, False)
    assert grown.trades == 20 + 1  # twenty whole minutes of the venue, and one trade
    assert grown.close == Decimal(500)


async def test_a_rolled_up_candle_closes_once_all_its_parts_did(box: Any) -> None:
    told: list[Candle] = []
    await box.advance(60 * 9 + 30 + 0.5)  # 10:30:00.5: three minutes begin with us
    box.follow()
    box.market.follow_candles(box.btc, 180, told.append)
    for n in range(4):
        box.trade(price=str(100 + n))
        await box.advance(60)
        box.market.live.pulse()
    closed = [candle for candle in told if candle.closed]
    assert [(candle.open, candle.close, candle.trades) for candle in closed] == [(Decimal(100), Decimal(102), 3)]


async def test_a_rolled_up_candle_with_a_hole_is_not_told_as_if_it_were_whole(box: Any) -> None:
    told: list[Candle] = []
    await box.advance(60 * 9 + 30 + 0.5)
    box.follow()
    box.market.follow_candles(box.btc, 180, told.append)
    box.trade()
    await box.advance(61)
    gap = Gap(NAME, "trades", box.clock.now_ns(), None, "cut")
    box.play(gap)
    await box.advance(61)
    box.aggregate.drop(NAME)  # as if the live candles had lost the minute for good
    box.play(Gap(NAME, "trades", gap.start_ns, gap.start_ns + 60 * NS, "cut"), Mended(gap, gap.start_ns))
    box.aggregate.vouch(NAME, open_of(box.clock.now_ns(), 60))
    box.trade()
    await box.advance(61)
    box.market.live.pulse()
    assert not any(candle.closed for candle in told)


async def test_a_bad_interval_is_refused_before_anything_is_followed(box: Any) -> None:
    with pytest.raises(BadInterval):
        box.market.follow_candles(box.btc, 61, print)
    assert not box.outside.followed(NAME, Feed.TRADES)
