"""The monitor's rounds, with a fake outside and a clock that is told to move."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal

import pytest

from openoutcry.aggregates.spikes import Threshold
from openoutcry.bus import Bus
from openoutcry.clock import ManualClock
from openoutcry.errors import Unavailable, UnknownInstrument
from openoutcry.events import NS, Candle, OpenInterest, Side, Spike, Ticker
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.monitor import Monitor
from openoutcry.venues.venue import Ask, Page, Query

HOUR = 3_600 * NS
T0 = 1_700_000_000 * NS // HOUR * HOUR
THRESHOLDS = [Threshold(s, 3.0, 0, 0) for s in (300, 900, 3_600)]


def listed(symbol: str, quote: str = "USDT", kind: Kind = Kind.PERPETUAL, *, trading: bool = True) -> Instrument:
    return Instrument(
        venue="v", symbol=symbol, kind=kind, coin=symbol, quote=quote, settle=quote,
        tick_size=Decimal(1), lot_size=Decimal(1), trading=trading,
    )  # fmt: skip


def ticker(symbol: str, turnover: int) -> Ticker:
    one = Decimal(1)
    return Ticker(f"v:{symbol}", 0, 0, one, one, one, one, one, Decimal(turnover), 1)


class Outside:
    """Answers from lists; the last bar of every series jumps. Counts what is asked at once."""

    def __init__(self, clock: ManualClock, instruments: Sequence[Instrument], tickers: Sequence[Ticker]) -> None:
        self.clock = clock
        self.instruments = {instrument.symbol: instrument for instrument in instruments}
        self.tickers = tickers
        self.failing: dict[str, Exception] = {}
        self.asked: list[Ask] = []
        self.at_once = 0
        self.at_once_most = 0

    async def listing(self, venue: str) -> Mapping[str, Instrument]:
        assert venue == "v"
        return self.instruments

    async def ask(self, venue: str, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        assert venue == "v"
        self.asked.append(ask)
        self.at_once += 1
        self.at_once_most = max(self.at_once_most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        failure = self.failing.get(ask.symbol or ask.query)
        if failure is not None:
            raise failure
        if ask.query is Query.TICKERS:
            yield Page(self.tickers)
            return
        assert ask.interval_s is not None
        step_ns = ask.interval_s * NS
        newest_ns = self.clock.now_ns() // step_ns * step_ns
        values = [1000 + n * n % 3 for n in range(10)] + [5000]
        events = [
            OpenInterest(f"v:{ask.symbol}", newest_ns + (n - 10) * step_ns, 0, Decimal(1), Decimal(value))
            for n, value in enumerate(values)
        ]
        yield Page(events[:5])
        yield Page(events[5:])

    async def candles(self, instrument: Instrument, interval_s: int, limit: int) -> Sequence[Candle]:
        assert limit == 50
        step_ns, one = interval_s * NS, Decimal(1)
        newest_ns = self.clock.now_ns() // step_ns * step_ns
        return [
            Candle(
                instrument.name, Side.BOTH, interval_s, newest_ns - n * step_ns, one, one, one, one, one,
                Decimal(10 + n % 2), 1, None, None, n > 0, 0, "venue",
            )
            for n in range(10, -1, -1)
        ]  # fmt: skip


class Room:
    """A monitor with everything around it."""

    def __init__(self, symbols: Sequence[str] = ("A", "B"), **settings: int) -> None:
        self.clock = ManualClock(T0 + 60 * NS)
        instruments = [listed(symbol) for symbol in symbols]
        self.outside = Outside(self.clock, instruments, [ticker(s, 100 - n) for n, s in enumerate(symbols)])
        self.heard: list[Spike] = []
        bus = Bus()
        bus.listen(Spike, self.heard.append)
        self.monitor = Monitor(
            outside=self.outside,  # type: ignore[arg-type]
            bus=bus,
            clock=self.clock,
            candles=self.outside.candles,
            venue="v",
            thresholds=THRESHOLDS,
            delay_s=10,
            **settings,  # type: ignore[arg-type]
        )


async def test_after_each_close_and_its_delay_the_bars_that_closed_are_looked_at() -> None:
    room = Room(["A"])
    task = asyncio.create_task(room.monitor.run())
    await room.clock.advance(249)
    assert room.heard == []
    await room.clock.advance(1)
    assert [(s.instrument, s.interval_s, s.open_ns) for s in room.heard] == [("v:A", 300, T0)]
    await room.clock.advance(3_600 - 310 + 10)
    assert [s.interval_s for s in room.heard].count(300) == 12
    assert [s.interval_s for s in room.heard].count(900) == 4
    assert [(s.interval_s, s.open_ns) for s in room.heard if s.interval_s == 3_600] == [(3_600, T0)]
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_the_universe_is_the_busiest_usdt_perpetuals_that_trade() -> None:
    room = Room(instruments_max=2)
    others = [listed("SPOT", kind=Kind.SPOT), listed("COIN", quote="USD"), listed("HALT", trading=False)]
    busy = [listed("LOW"), listed("MID"), listed("TOP")]
    room.outside.instruments = {i.symbol: i for i in [*others, *busy]}
    room.outside.tickers = [
        ticker("SPOT", 99), ticker("COIN", 98), ticker("HALT", 97), ticker("UNLISTED", 96),
        ticker("LOW", 1), ticker("TOP", 3), ticker("MID", 2),
    ]  # fmt: skip
    spikes = await room.monitor.scan([300])
    assert [spike.instrument for spike in spikes] == ["v:TOP", "v:MID"]
    asked = room.outside.asked[-1]
    assert (asked.query, asked.interval_s, asked.limit, asked.newest) == (Query.OPEN_INTEREST_HISTORY, 300, 50, True)


@pytest.mark.parametrize("failure", [Unavailable("v", "down"), UnknownInstrument("gone"), ZeroDivisionError("ours")])
async def test_one_failing_instrument_does_not_stop_the_others(failure: Exception) -> None:
    room = Room(["A", "B", "C"])
    room.outside.failing = {"B": failure}
    await room.monitor.scan([300])
    assert [spike.instrument for spike in room.heard] == ["v:A", "v:C"]
    assert room.monitor.counts["failures"] == 1


async def test_without_tickers_the_universe_of_before_is_kept() -> None:
    room = Room(["A"])
    room.outside.failing = {Query.TICKERS: Unavailable("v", "down")}
    assert await room.monitor.scan([300]) == []
    room.outside.failing = {}
    assert len(await room.monitor.scan([300])) == 1
    room.outside.failing = {Query.TICKERS: Unavailable("v", "down")}
    assert len(await room.monitor.scan([900])) == 1
    assert room.monitor.counts["universe_failures"] == 2


async def test_what_is_asked_at_once_is_bounded() -> None:
    room = Room([f"S{n}" for n in range(40)], at_once_max=3)
    await room.monitor.scan([300])
    assert len(room.heard) == 40
    assert room.outside.at_once_most <= 3


async def test_a_bar_is_announced_once_however_often_it_is_looked_at() -> None:
    room = Room(["A"])
    await room.monitor.scan([300])
    await room.monitor.scan([300])
    assert len(room.heard) == 1


async def test_a_spike_in_a_bar_long_gone_is_counted_and_not_announced() -> None:
    room = Room(["A"])

    async def stale(instrument: Instrument, interval_s: int, limit: int) -> Sequence[Candle]:
        return [c for c in await room.outside.candles(instrument, interval_s, limit) if c.open_ns < T0 - 900 * NS]

    room.monitor = Monitor(
        outside=room.outside,  # type: ignore[arg-type]
        bus=Bus(), clock=room.clock, candles=stale, venue="v", thresholds=[Threshold(300, -99.0, 0, 0)],
    )  # fmt: skip
    assert await room.monitor.scan([300]) == []
    assert room.monitor.counts["late"] == 1
