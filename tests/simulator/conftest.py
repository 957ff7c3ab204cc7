"""A world whose time stands still until a test moves it, played on a real socket."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect

from openoutcry.clock import ManualClock
from openoutcry.events import Candle, FundingRate, MarkPrice
from openoutcry.simulator.simulator import Simulator
from openoutcry.simulator.tape import Bar
from openoutcry.simulator.world import World
from openoutcry.venues.venue import Ask, Query
from tests.simulator.client import DAY_NS, START_NS, AskAll, SameBars, SameFunding

Play = Callable[..., Awaitable[Simulator]]
Get = Callable[..., Awaitable[httpx2.Response]]
Dial = Callable[[str], Awaitable[ClientConnection]]
Drain = Callable[[ClientConnection], Awaitable[list[bytes]]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_NS)


@pytest.fixture
async def play(clock: ManualClock) -> AsyncIterator[Play]:
    """Starts a simulator of these venues, seed 7; all are stopped after the test."""
    started: list[Simulator] = []

    async def start(*venues: str, **options: Any) -> Simulator:
        simulator = Simulator(7, clock, venues or None, **options)
        started.append(simulator)
        await simulator.start()
        return simulator

    yield start
    for simulator in reversed(started):
        await simulator.stop()


@pytest.fixture
async def get() -> AsyncIterator[Get]:
    """Asks over HTTP with a real client."""
    async with httpx2.AsyncClient(trust_env=False, timeout=20.0) as client:

        async def ask(url: str, headers: Mapping[str, str] | None = None, **query: object) -> httpx2.Response:
            return await client.get(url, params={k: str(v) for k, v in query.items()}, headers=headers)

        yield ask


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Opens WebSockets with a real client; all are closed after the test."""
    opened: list[ClientConnection] = []

    async def open_one(url: str) -> ClientConnection:
        line = await connect(url, proxy=None, compression=None, ping_interval=None, close_timeout=1.0, max_size=2**26)
        opened.append(line)
        return line

    yield open_one
    for line in opened:
        await line.close()


@pytest.fixture
def drain() -> Drain:
    """All frames that a Binance line was sent so far: those before the answer to a question of ours."""

    async def until_answered(line: ClientConnection) -> list[bytes]:
        await line.send('{"method":"GET_PROPERTY","params":["combined"],"id":"fence"}')
        frames: list[bytes] = []
        while True:
            frame = await line.recv(decode=False)
            if b'"fence"' in frame:
                return frames
            frames.append(frame)

    return until_answered


@pytest.fixture(scope="session")
def same_bars() -> SameBars:
    """Holds candles against bars of the world, whose numbers are made anew from its trades."""

    def hold(world: World, name: str, candles: Iterable[Candle], bars: Iterable[Bar]) -> None:
        told = [(c.open_ns, c.open, c.high, c.low, c.close, c.volume, c.quote_volume) for c in candles]
        assert told == [_bar_of_trades(world, name, bar) for bar in bars]

    return hold


def _bar_of_trades(world: World, name: str, bar: Bar) -> tuple[int | Decimal, ...]:
    speller, instrument = world.speller(name), world.listing(name).instrument
    tape = world.orders(name, bar.open_ns, bar.last_ns + 1)
    rows = list(tape)
    prices = [speller.price_decimal(row.ticks) for row in rows]
    contracts = [speller.size_decimal(row.lots) for row in rows]
    size = instrument.contract_size or Decimal(1)
    if instrument.inverse:
        volume = sum((Decimal(e8).scaleb(-8) for e8 in world.coins_e8(name, tape)), Decimal(0))
        value = sum(contracts, Decimal(0)) * size
    else:
        volume = sum(contracts, Decimal(0)) * size
        value = sum((p * n * size for p, n in zip(prices, contracts, strict=True)), Decimal(0))
    return (bar.open_ns, prices[0], max(prices), min(prices), prices[-1], volume, value)


@pytest.fixture(scope="session")
def same_funding() -> SameFunding:
    """Holds the running and the settled rates of an instrument, paid every so many hours, against the world's.

    Gives the mark price that was told with the running one.
    """

    async def hold(world: World, name: str, hours: int, ask_all: AskAll) -> MarkPrice:
        symbol = name.partition(":")[2]
        rate, mark = await ask_all(Ask(query=Query.FUNDING, symbol=symbol))
        running = world.running_funding(name, START_NS)
        assert isinstance(rate, FundingRate)
        assert (rate.rate, rate.funding_ns, rate.interval_s) == (running.rate, running.funding_ns, hours * 3_600)
        assert isinstance(mark, MarkPrice)
        assert mark.mark == world.mark(name, START_NS)
        start_ns = START_NS - 20 * DAY_NS
        told = await ask_all(Ask(query=Query.FUNDING_HISTORY, symbol=symbol, start_ns=start_ns, end_ns=START_NS))
        paid = world.funding(name, start_ns, START_NS)
        assert [(e.rate, e.event_ns) for e in told if isinstance(e, FundingRate)] == [
            (s.rate, s.stamp_ns) for s in paid
        ]
        newest = await ask_all(Ask(query=Query.FUNDING_HISTORY, symbol=symbol, newest=True, limit=5))
        assert [(e.funding_ns, e.interval_s) for e in newest if isinstance(e, FundingRate)][1:] == [
            (s.stamp_ns, hours * 3_600) for s in paid[-4:]
        ]
        return mark

    return hold
