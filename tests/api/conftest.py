"""A market that is told what to say, and a real server before it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import httpx2
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from openoutcry.accounts.keys import Keys
from openoutcry.aggregates.candles import Candles as Growing
from openoutcry.api.admission import Admission
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Doors
from openoutcry.api.dialects import DIALECTS
from openoutcry.api.push import Push
from openoutcry.bus import Bus
from openoutcry.clock import NS, ManualClock
from openoutcry.errors import Unavailable, UnknownVenue, Unsupported
from openoutcry.events import (
    Candle,
    FundingRate,
    Liquidation,
    MarkPrice,
    OpenInterest,
    PredictedFunding,
    Side,
    Spike,
    Trade,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.market import Candles, Market
from openoutcry.market.outside import VenueState
from openoutcry.market.pulse import NoBars, Pulse
from openoutcry.market.symbols import Symbols
from openoutcry.stores.keys import MemoryKeys
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Response
from openoutcry.venues.venue import Answer, Feed, Query
from tests.api.points import World, running

NOW_NS = 1_763_553_600 * NS  # 2025-11-19T12:00:00Z
MINUTE_NS = 60 * NS
ORIGIN = "http://localhost:5173"
ALL_FEEDS = frozenset(Feed)
ALL_QUERIES = frozenset(Query)


def an_instrument(
    venue: str, symbol: str, coin: str = "BTC", kind: Kind = Kind.PERPETUAL, quote: str = "USDT"
) -> Instrument:
    return Instrument(
        venue=venue,
        symbol=symbol,
        kind=kind,
        coin=coin,
        quote=quote,
        settle=quote,
        tick_size=Decimal("0.1"),
        lot_size=Decimal("0.001"),
    )


def a_candle(instrument: str, interval_s: int, open_ns: int, *, closed: bool = True, close: str = "101.5") -> Candle:
    return Candle(
        instrument=instrument,
        side=Side.BOTH,
        interval_s=interval_s,
        open_ns=open_ns,
        open=Decimal("101.25"),
        high=Decimal("102.5"),
        low=Decimal("100.5"),
        close=Decimal(close),
        volume=Decimal("12.5"),
        quote_volume=Decimal("1268.75"),
        trades=7,
        first_ns=open_ns,
        last_ns=open_ns + 1,
        closed=closed,
        received_ns=open_ns + 2,
        origin="trades",
    )


class SaidMarket(Market):
    """A market that says what the test told it; all bounds of `candles` are honoured over its rows."""

    def __init__(self) -> None:
        self.on: dict[str, VenueState] = {}
        self.listings: dict[str, dict[str, Instrument]] = {}
        self.down: dict[str, str] = {}
        self.memory: dict[tuple[str, int], tuple[list[Candle], Candle | None]] = {}
        self.stored_candles: dict[tuple[str, int], list[Candle]] = {}
        self.missing: list[tuple[int, int]] = []
        self.asked: list[tuple[Any, ...]] = []
        self.interest: dict[str, list[OpenInterest]] = {}
        self.rates: dict[str, list[FundingRate]] = {}
        self.predicted: list[PredictedFunding] = []
        self.answers: dict[str, Answer] = {}
        self.candle_listeners: dict[tuple[str, int], list[Callable[[Candle], None]]] = {}
        self.fails: Exception | None = None
        self.pulse = Pulse(Bus(), Growing(), NoBars(), ManualClock(NOW_NS))

    def venues(self) -> Mapping[str, VenueState]:
        return self.on

    def feeds(self, venue: str) -> frozenset[Feed]:
        return ALL_FEEDS - {Feed.LIQUIDATIONS} if venue == "hyperliquid" else ALL_FEEDS

    def queries(self, venue: str) -> frozenset[Query]:
        return ALL_QUERIES

    def intervals_s(self, venue: str) -> frozenset[int]:
        return frozenset({60})

    async def instruments(self, venue: str) -> Mapping[str, Instrument]:
        if venue not in self.listings:
            raise UnknownVenue(f"no venue {venue}")
        self._up(venue)
        return self.listings[venue]

    async def instrument(self, venue: str, symbol: str) -> Instrument:
        return Symbols(venue, await self.instruments(venue)).find(symbol)

    def newest(
        self, instrument: str, interval_s: int, limit: int, side: Side = Side.BOTH
    ) -> tuple[Sequence[Candle], Candle | None] | None:
        found = self.memory.get((instrument, interval_s))
        if found is None:
            return None
        closed, growing = found
        return closed[-limit:], growing

    def unsure_ns(self, instrument: str, interval_s: int) -> int | None:
        closed, growing = self.memory.get((instrument, interval_s), ([], None))
        unsure = [candle.open_ns for candle in (*closed, growing) if candle is not None and not candle.closed]
        return min(unsure, default=None)

    async def candles(
        self,
        instrument: Instrument,
        interval_s: int,
        *,
        limit: int,
        side: Side = Side.BOTH,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Candles:
        self._up(instrument.venue)
        self.asked.append((instrument.name, interval_s, limit, start_ns, end_ns))
        rows = [
            row
            for row in self.stored_candles.get((instrument.name, interval_s), [])
            if (start_ns is None or row.open_ns >= start_ns) and (end_ns is None or row.open_ns < end_ns)
        ]
        return Candles(rows[:limit] if start_ns is not None else rows[-limit:], self.missing)

    async def open_interest(self, instrument: Instrument) -> OpenInterest:
        self._up(instrument.venue)
        if instrument.kind is Kind.SPOT:
            raise Unsupported(f"{instrument.symbol} is spot: it has no open interest")
        return self.interest[instrument.name][-1]

    async def open_interest_history(
        self, instrument: Instrument, interval_s: int, *, limit: int
    ) -> Sequence[OpenInterest]:
        self.asked.append((instrument.name, interval_s, limit))
        return self.interest[instrument.name][-limit:]

    async def funding(self, instrument: Instrument) -> FundingRate:
        self._up(instrument.venue)
        return self.rates[instrument.name][-1]

    async def funding_history(
        self, instrument: Instrument, *, limit: int, start_ns: int | None = None, end_ns: int | None = None
    ) -> Sequence[FundingRate]:
        return self.rates[instrument.name][-limit:]

    async def predicted_funding(self, venue: str) -> Sequence[PredictedFunding]:
        self._up(venue)
        return self.predicted

    async def mark_price(self, instrument: Instrument) -> MarkPrice:
        raise Unsupported("not asked here")

    async def raw(self, venue: str, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        self._up(venue)
        self.asked.append((path, tuple(query), weight))
        return self.answers[path]

    def follow_candles(
        self, instrument: Instrument, interval_s: int, listener: Callable[[Candle], None]
    ) -> Callable[[], None]:
        listeners = self.candle_listeners.setdefault((instrument.name, interval_s), [])
        listeners.append(listener)
        return lambda: listeners.remove(listener)

    def grow(self, candle: Candle) -> None:
        for listener in tuple(self.candle_listeners.get((candle.instrument, candle.interval_s), ())):
            listener(candle)

    def _up(self, venue: str) -> None:
        if self.fails is not None:
            raise self.fails
        if venue in self.down:
            raise Unavailable(venue, self.down[venue], 7.0)


class Followed:
    """Outside.follow, counting."""

    def __init__(self) -> None:
        self.now: list[tuple[str, frozenset[Feed]]] = []

    def follow(self, instrument: Instrument, feeds: Iterable[Feed]) -> Callable[[], None]:
        what = (instrument.name, frozenset(feeds))
        self.now.append(what)
        return lambda: self.now.remove(what)


class Catalogue:
    """CoinMarketCap, as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[tuple[str, str], ...]]] = []
        self.answer = Response(200, {}, b'{"status":{"error_code":0},"data":[]}')

    async def fetch(self, path: str, query: Sequence[tuple[str, str]]) -> Response:
        self.asked.append((path, tuple(query)))
        return self.answer


class Served:
    """A running server with everything a test may turn. `key` is the text of a key it knows, from `start` on."""

    def __init__(self, **limits: Any) -> None:
        self.clock = ManualClock(NOW_NS)
        self.market = SaidMarket()
        self.bus = Bus()
        self.followed = Followed()
        self.telemetry = Telemetry()
        self.push = Push(self.telemetry)
        self.admission = Admission(self.clock, **limits)
        self.keys = Keys(MemoryKeys(), b"pepper", self.clock, self.telemetry)
        self.key = ""
        self.catalogues: dict[str, Catalogue] = {}
        self.checks: dict[str, Callable[[], str | None]] = {}
        self.doors = Doors(
            clock=self.clock,
            keys=self.keys,
            market=self.market,
            bus=self.bus,
            follow=self.followed.follow,
            admission=self.admission,
            push=self.push,
            telemetry=self.telemetry,
            catalogues=self.catalogues,
        )
        dialects = [make(self.doors) for make in DIALECTS.values()]
        self.app = application(
            self.doors, dialects, cors_origins=[ORIGIN], keyed_origins={"kiyotaka": ["*"]}, checks=self.checks
        )
        self.server = HttpServer(self.app, "127.0.0.1", 0)
        self.address = ""
        self.http = httpx2.AsyncClient(trust_env=False)

    async def start(self) -> None:
        _, self.key = await self.keys.create("test")
        self.address = await self.server.start()
        self.http.base_url = httpx2.URL(f"http://{self.address}")

    async def stop(self) -> None:
        await self.http.aclose()
        await self.server.stop()

    async def get(self, path: str, **more: Any) -> httpx2.Response:
        return await self.http.get(path, **more)

    def ws(self, path: str, **more: Any) -> Any:
        return websockets.connect(f"ws://{self.address}{path}", proxy=None, **more)


def _listed(venue: str, *symbols: str) -> dict[str, Instrument]:
    return {
        symbol: an_instrument(venue, symbol, symbol[:3], quote="USDC" if venue == "hyperliquid" else "USDT")
        for symbol in symbols
    }


@pytest.fixture
def limits() -> dict[str, Any]:
    """Overridden by tests that want a limit."""
    return {}


@pytest.fixture
async def served(limits: dict[str, Any]) -> AsyncIterator[Served]:
    """Four venues, all alive, with a few instruments and no data."""
    server = Served(**limits)
    market = server.market
    market.listings = {
        "binance_futures": _listed("binance_futures", "BTCUSDT", "BTCUSDC", "ETHUSDT"),
        "bybit": _listed("bybit", "BTCUSDT", "ETHUSDT"),
        "okx": _listed("okx", "BTC-USDT-SWAP", "BTC-USD-SWAP"),
        "hyperliquid": _listed("hyperliquid", "BTC", "kPEPE", "xyz:TSLA")
        | {"@107": an_instrument("hyperliquid", "@107", "HYPE", Kind.SPOT)},
    }
    market.on = {venue: VenueState(venue, True, 1, NOW_NS) for venue in market.listings}
    await server.start()
    async with contextlib.AsyncExitStack() as closing:
        closing.push_async_callback(server.stop)
        yield server


@pytest.fixture
async def world(limits: dict[str, Any]) -> AsyncIterator[World]:
    """A whole market behind HTTP and gRPC."""
    async with running(World(**limits)) as world:
        yield world


@pytest.fixture
def make_candle() -> Callable[..., Candle]:
    return a_candle


@pytest.fixture
def make_instrument() -> Callable[..., Instrument]:
    return an_instrument


@pytest.fixture
def make_trade() -> Callable[..., Trade]:
    def make(instrument: str, price: str, size: str, side: Side = Side.BUY, event_ns: int = NOW_NS) -> Trade:
        return Trade(instrument, event_ns, event_ns, 1, 1, side, Decimal(price), Decimal(size))

    return make


@pytest.fixture
def make_liquidation() -> Callable[..., Liquidation]:
    def make(instrument: str, price: str, size: str, side: Side = Side.SELL, event_ns: int = NOW_NS) -> Liquidation:
        return Liquidation(instrument, event_ns, event_ns, "1", side, Decimal(price), Decimal(size))

    return make


@pytest.fixture
def make_spike() -> Callable[..., Spike]:
    def make(instrument: str, interval_s: int) -> Spike:
        return Spike(
            instrument, interval_s, NOW_NS, NOW_NS, 3.1234, 2.9, True, Decimal(101500), Decimal("5e9"), Decimal("2e8")
        )

    return make


@pytest.fixture
def hear() -> Callable[[ClientConnection], Any]:
    """The next frame of a connection, as JSON."""

    async def listen(connection: ClientConnection) -> Any:
        return json.loads(await connection.recv())

    return listen


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue()


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Return once the condition holds."""

    async def wait(condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  what happens in the server has no event for us
                await asyncio.sleep(0)

    return wait
