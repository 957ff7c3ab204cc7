"""An adapter that reads its own venue's personality over real sockets, with the world's truth at hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Generic, NamedTuple, TypeVar

import pytest

from openoutcry.clock import NS, ManualClock
from openoutcry.events import Candle, Event, MarkPrice, Side, Trade
from openoutcry.instrument import Instrument
from openoutcry.simulator.simulator import Simulator
from openoutcry.simulator.tape import Bar, Tape
from openoutcry.simulator.world import World
from openoutcry.transport import HttpClient, Socket, SocketClient, TransportError
from openoutcry.venues.venue import Answer, Ask, Feed, Page, Query, Signal, Stream, Venue

# 2026-11-20 13:00:20 UTC: a Friday, twenty seconds into a minute.
START_NS = 1_795_179_620 * NS
MINUTE_NS, HOUR_NS, DAY_NS = 60 * NS, 3_600 * NS, 86_400 * NS
PAGES_MAX = 200
ENDS_S_MAX = 10.0

Said = list[Event | Signal]
Line = tuple[Socket, AsyncIterator[bytes]]
SameBars = Callable[[World, str, Iterable[Candle], Iterable[Bar]], None]
AskAll = Callable[[Ask], Awaitable[Sequence[Event]]]
SameFunding = Callable[[World, str, int, AskAll], Awaitable[MarkPrice]]
V = TypeVar("V", bound=Venue)
C = TypeVar("C", bound="VenueClient[Any]")


class Fence(NamedTuple):
    """A frame that is answered at once, and what only that answer holds."""

    sent: bytes
    answered: bytes


class VenueClient(Generic[V]):
    """What the feed does of the adapter's part, without the feed: ask page by page, subscribe, decode.

    `symbol` is what it follows where none is named; before each question it waits `pause_s`.
    """

    def __init__(self, venue: V, fence: Fence, symbol: str = "", pause_s: float = 0.0) -> None:
        self.clock = ManualClock(START_NS)
        self.simulator = Simulator(7, self.clock, [venue.name])
        self.world, self.faults = self.simulator.world, self.simulator.faults
        self.venue, self.http = venue, HttpClient()
        self.opened: list[Socket] = []
        self._fence, self._symbol, self._pause_s = fence, symbol, pause_s

    async def get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Answer:
        url = self.simulator.addresses()[self.venue.name]["rest"] + path
        response = await self.http.send("GET", url, query=query)
        return Answer(response.status, response.headers, response.body, self.clock.now_ns())

    async def send(self, ask: Ask) -> Answer:
        request = self.venue.request(ask)
        assert request.method == "GET"
        return await self.get(request.path, request.query)

    async def pages(self, ask: Ask) -> list[Page]:
        found: list[Page] = []
        following: Ask | None = ask
        while following is not None:
            assert len(found) < PAGES_MAX
            if self._pause_s:
                await self.clock.advance(self._pause_s)
            found.append(self.venue.page(following, await self.send(following)))
            following = found[-1].next
        return found

    async def ask(self, ask: Ask) -> list[Event]:
        """Oldest first, whichever way the pages came."""
        pages = await self.pages(ask)
        return [event for page in (pages[::-1] if ask.newest else pages) for event in page.events]

    async def learn(self) -> None:
        listed: list[Instrument] = []
        for page in await self.pages(Ask(query=Query.INSTRUMENTS)):
            assert page.unread == 0
            listed += page.instruments
        self.venue.learn(listed)

    async def open(self, endpoint: str = "ws", streams: Sequence[Stream] = ()) -> Line:
        address = self.simulator.addresses()[self.venue.name]["sockets"][endpoint]
        socket = await SocketClient().open(self.venue.url(address, endpoint, streams))
        self.opened.append(socket)
        return socket, aiter(socket)

    async def subscribe(self, *feeds: Feed, symbol: str | None = None) -> Line:
        socket, frames = await self.open()
        for feed in feeds:
            for frame in self.venue.subscribe(self.venue.streams(feed, [symbol or self._symbol])):
                await socket.send(frame)
        return socket, frames

    async def hear(self, socket: Socket, frames: AsyncIterator[bytes]) -> Said:
        """All that was sent until now: the fence is answered behind it."""
        await socket.send(self._fence.sent)
        told: Said = []
        while self._fence.answered not in (frame := await anext(frames)):
            told += self.venue.decode(frame, self.clock.now_ns())
        return told


@asynccontextmanager
async def playing(client: C) -> AsyncIterator[C]:
    """Its simulator runs and its adapter knows the listing; all it opened is closed after."""
    await client.simulator.start()
    try:
        await client.learn()
        yield client
    finally:
        for socket in client.opened:
            await socket.close()
        await client.http.close()
        await client.simulator.stop()


async def ends(frames: AsyncIterator[bytes]) -> None:
    """The line is cut, after whatever was still sent."""
    async with asyncio.timeout(ENDS_S_MAX):
        with pytest.raises((TransportError, StopAsyncIteration)):
            while True:
                await anext(frames)


Row = tuple[int | str, int, Side, Decimal, Decimal]


def told_of(events: Iterable[Event | Signal]) -> list[Row]:
    """Trades: id, time, side, price, and the size in the venue's own count."""
    return [
        (e.id, e.event_ns, e.side, e.price, e.size if e.contracts is None else e.contracts)
        for e in events
        if isinstance(e, Trade)
    ]


def truth_of(world: World, name: str, tape: Tape) -> list[Row]:
    """Trades of the world as `told_of` must tell them, where each has an id of its own."""
    s = world.speller(name)
    return [
        (
            row.first_id,
            row.ns,
            Side.SELL if row.sell else Side.BUY,
            s.price_decimal(row.ticks),
            s.size_decimal(row.lots),
        )
        for row in tape
    ]
