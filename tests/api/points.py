"""A real market, built and stored, behind a real server, with a venue that is a function: what tests of dialects stand on."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from openoutcry.accounts.keys import Keys
from openoutcry.aggregates.candles import Candles
from openoutcry.aggregates.derivatives import Derivatives
from openoutcry.aggregates.ticker import Tickers
from openoutcry.api.admission import Admission
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Doors
from openoutcry.api.dialects import DIALECTS
from openoutcry.api.push import Push
from openoutcry.api.rpc import RpcServer
from openoutcry.app import material
from openoutcry.bus import Bus
from openoutcry.clock import NS, ManualClock
from openoutcry.errors import Refusal, UnknownVenue, Unsupported
from openoutcry.events import (
    Candle,
    Event,
    FundingRate,
    Gap,
    Liquidation,
    LiquidationLevels,
    Mended,
    OpenInterest,
    Side,
    Trade,
    open_of,
)
from openoutcry.feed.tasks import Tasks
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.llm.analyst import Analyst
from openoutcry.market.building import Building
from openoutcry.market.market import Market, Numbers
from openoutcry.market.outside import VenueState
from openoutcry.stores.analyses import MemoryAnalyses
from openoutcry.stores.keys import MemoryKeys
from openoutcry.stores.memory import MemorySeries
from openoutcry.stores.sql import SqlSeries
from openoutcry.telemetry import Telemetry
from openoutcry.venues.binance import BinanceSpot
from openoutcry.venues.venue import Answer, Ask, Feed, Limits, Page, Query

# Wednesday 2025-01-15 10:20:30 UTC.
NOW_NS = 1_736_936_430 * NS
MINUTE_NS = 60 * NS
EXCHANGES: Mapping[str, Mapping[Kind, Sequence[Exchange]]] = {
    "binance": {Kind.SPOT: (Exchange.BINANCE,)},
    "binance_futures": {Kind.PERPETUAL: (Exchange.BINANCE_FUTURES,)},
    "coinbase": {Kind.SPOT: (Exchange.COINBASE, Exchange.COINBASE_PRO)},
    "deribit": {Kind.OPTION: (Exchange.DERIBIT,)},
    "cme": {Kind.FUTURE: (Exchange.CME,)},
}


def listed(venue: str, symbol: str, kind: Kind, coin: str = "BTC", quote: str = "USDT") -> Instrument:
    return Instrument(
        venue=venue, symbol=symbol, kind=kind, coin=coin, quote=quote, settle=quote, tick_size=Decimal("0.1"),
        lot_size=Decimal("0.001"), listed_ns=NOW_NS - 30 * 86_400 * NS,
    )  # fmt: skip


INSTRUMENTS = [
    listed("binance", "BTCUSDT", Kind.SPOT),
    listed("binance", "ETHUSDT", Kind.SPOT, "ETH"),
    listed("binance_futures", "BTCUSDT", Kind.PERPETUAL),
    listed("coinbase", "BTC-USD", Kind.SPOT, quote="USD"),
    listed("deribit", "BTC-31JAN25-100000-C", Kind.OPTION, quote="USD"),
    listed("cme", "BTCG25", Kind.FUTURE, quote="USD"),
]


class Restless(ManualClock):
    """A clock as the machine's: whenever it is looked at, it has moved on."""

    def now_ns(self) -> int:
        self._now_ns += 1_000
        return self._now_ns


class Outside:
    """Venues whose minutes all traded: the close of a minute is its number.

    `down` makes them silent, `held` keeps their answers back, `listings` is what each lists, `lacks` says which open times
    they have no candle of.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.asks: list[tuple[str, Ask]] = []
        self.followed_now: list[tuple[str, Feed]] = []
        self.down: Refusal | None = None
        self.held = asyncio.Event()
        self.held.set()
        self.listings = {
            venue: {each.symbol: each for each in INSTRUMENTS if each.venue == venue} for venue in EXCHANGES
        }
        self.lacks: Callable[[int], bool] = lambda _: False

    def venues(self) -> Mapping[str, VenueState]:
        return {venue: VenueState(venue, True, 1, None) for venue in EXCHANGES}

    def feeds(self, venue: str) -> frozenset[Feed]:
        self._check(venue)
        return frozenset(Feed)

    def queries(self, venue: str) -> frozenset[Query]:
        self._check(venue)
        return frozenset({Query.CANDLES})

    def intervals_s(self, venue: str) -> frozenset[int]:
        self._check(venue)
        return frozenset({60, 300, 3_600, 86_400})

    def limits(self, venue: str) -> Limits:
        return BinanceSpot.limits

    def instruments(self, venue: str) -> Mapping[str, Instrument]:
        self._check(venue)
        return self.listings[venue]

    async def listing(self, venue: str) -> Mapping[str, Instrument]:
        if self.down is not None:
            raise self.down
        return self.instruments(venue)

    def followed(self, instrument: str, feed: Feed) -> bool:
        return (instrument, feed) in self.followed_now

    def follow(self, instrument: Instrument, feeds: Iterable[Feed]) -> Callable[[], None]:
        added = [(instrument.name, feed) for feed in feeds]
        self.followed_now += added

        def stop() -> None:
            for each in added:
                self.followed_now.remove(each)

        return stop

    async def raw(self, venue: str, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        raise UnknownVenue(f"{venue} {path} {list(query)} {weight}")

    async def ask(self, venue: str, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        self._check(venue)
        if ask.query is not Query.CANDLES:
            raise Unsupported(f"{venue} is not asked for {ask.query}")
        self.asks.append((venue, ask))
        await self.held.wait()
        if self.down is not None:
            raise self.down
        assert ask.interval_s is not None
        assert ask.start_ns is not None
        step_ns = ask.interval_s * NS
        end_ns = min(ask.end_ns or 2**62, open_of(self.clock.now_ns(), ask.interval_s) + step_ns)
        rows = [
            self.candle(f"{venue}:{ask.symbol}", ask.interval_s, at_ns)
            for at_ns in range(open_of(ask.start_ns + step_ns - 1, ask.interval_s), end_ns, step_ns)
            if not self.lacks(at_ns)
        ][: ask.limit]
        yield Page(rows, start_ns=ask.start_ns, end_ns=min(end_ns, open_of(self.clock.now_ns(), ask.interval_s)))

    def candle(self, name: str, interval_s: int, open_ns: int) -> Candle:
        number = Decimal(open_ns // MINUTE_NS % 10_000)
        closed = open_ns + interval_s * NS <= self.clock.now_ns()
        return Candle(
            name, Side.BOTH, interval_s, open_ns, number, number + 1, number, number, Decimal(interval_s),
            number * interval_s, 1, None, None, closed, self.clock.now_ns(), "venue",
        )  # fmt: skip

    def _check(self, venue: str) -> None:
        if venue not in EXCHANGES:
            raise UnknownVenue(f"no venue {venue}")


class World:
    """Everything that runs. `key` is the text of a key it knows, from `start` on."""

    def __init__(
        self, series: MemorySeries | SqlSeries | None = None, clock: ManualClock | None = None, **limits: Any
    ) -> None:
        self.clock = clock or ManualClock(NOW_NS)
        self.bus = Bus()
        self.outside = Outside(self.clock)
        self.telemetry = Telemetry()
        self.series = series or MemorySeries()
        self.candles = Candles()
        self.building = Building(
            bus=self.bus,
            clock=self.clock,
            telemetry=self.telemetry,
            outside=self.outside,
            candles=self.candles,
            derivatives=Derivatives(),
            tickers=Tickers(),
        )
        self.market = Market(
            self.outside,
            self.series,
            self.bus,
            self.clock,
            self.telemetry,
            self.building,
            Numbers(settle_s=0.0),
            bars=self.building,
        )
        self.keys = Keys(MemoryKeys(), b"pepper", self.clock, self.telemetry)
        self.key = ""
        # It does what it was asked for once its `run` runs.
        self.analyst = Analyst(
            MemoryAnalyses(), material(self.market, self.clock), self._listed, self.clock, self.telemetry
        )
        self.tasks = Tasks(
            market=self.market,
            outside=self.outside,
            store=self.series.tasks,
            clock=self.clock,
            chance=random.Random(1),
            telemetry=self.telemetry,
        )
        self._work: list[asyncio.Task[None]] = []
        self.doors = Doors(
            clock=self.clock,
            keys=self.keys,
            market=self.market,
            bus=self.bus,
            follow=self.market.follow,
            admission=Admission(self.clock, **limits),
            push=Push(self.telemetry),
            telemetry=self.telemetry,
            exchanges=EXCHANGES,
            tasks=self.tasks,
            analyst=self.analyst,
        )
        dialects = [make(self.doors) for make in DIALECTS.values()]
        self.http = HttpServer(application(self.doors, dialects, checks={}), "127.0.0.1", 0)
        self.rpc = RpcServer([service for dialect in dialects for service in dialect.services()], "127.0.0.1", 0)
        self.http_at = self.grpc_at = ""

    async def _listed(self, name: str) -> Instrument:
        return await self.market.instrument(*name.split(":", 1))

    async def start(self) -> None:
        _, self.key = await self.keys.create("test")
        self.http_at = await self.http.start()
        self.grpc_at = await self.rpc.start()

    def work(self) -> None:
        """Work on backfill tasks and analyses from now on."""
        self._work = [asyncio.create_task(self.tasks.run()), asyncio.create_task(self.analyst.run())]

    async def stop(self) -> None:
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self.rpc.stop()
        await self.http.stop()
        await self.market.close()
        self.series.close()

    # -- what the feed does

    def play(self, *events: Event) -> None:
        """Publish events as a venue's."""
        for event in events:
            self.bus.publish([event])

    def follow(self, name: str = "binance:BTCUSDT") -> None:
        """Its trades are heard and whole from the running minute's opening on."""
        instrument = next(each for each in INSTRUMENTS if each.name == name)
        self.market.follow(instrument, [Feed.TRADES])
        start_ns = open_of(self.clock.now_ns(), 60)
        gap = Gap(name, "trades", start_ns, None, "start")
        self.play(gap, Mended(gap, self.clock.now_ns()))
        self.candles.vouch(name, start_ns)

    def trade(
        self, number: int, price: str = "100", side: Side = Side.BUY, name: str = "binance:BTCUSDT", size: str = "0.5"
    ) -> None:
        """One trade, now."""
        at_ns = self.clock.now_ns()
        self.play(Trade(name, at_ns, at_ns, number, number, side, Decimal(price), Decimal(size)))

    def interest(self, name: str, size: str, value: str | None = None, price: str | None = None) -> None:
        at_ns = self.clock.now_ns()
        told = None if value is None else Decimal(value)
        beside = None if price is None else Decimal(price)
        self.play(OpenInterest(name, at_ns, at_ns, Decimal(size), told, None, beside))

    def funding(self, name: str, rate: str, predicted: str | None = None) -> None:
        at_ns = self.clock.now_ns()
        after = None if predicted is None else Decimal(predicted)
        self.play(FundingRate(name, at_ns, at_ns, Decimal(rate), at_ns, 28_800, False, after))

    def liquidation(self, name: str, size: str, side: Side = Side.SELL) -> None:
        at_ns = self.clock.now_ns()
        self.play(Liquidation(name, at_ns, at_ns, str(at_ns), side, Decimal(100), Decimal(size)))

    def levels(self, name: str, *levels: tuple[str, str]) -> None:
        at_ns = self.clock.now_ns()
        rows = tuple((Decimal(price), Decimal(size)) for price, size in levels)
        self.play(LiquidationLevels(name, at_ns, at_ns, rows))

    async def advance(self, seconds: float) -> None:
        """Move the clock; candles and bars that are due close, and what grew is told."""
        await self.clock.advance(seconds)
        for venue in EXCHANGES:
            self.bus.publish(self.candles.on_time(venue, self.clock.now_ns()))
        self.building.beat()
        self.market.pulse.pulse()


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    """Started, and stopped whatever becomes of the test."""
    await world.start()
    try:
        yield world
    finally:
        await world.stop()
