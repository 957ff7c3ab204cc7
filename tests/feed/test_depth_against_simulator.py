"""The depth of venues that must be asked for it, over loopback: what is kept is the world's book, whatever happened."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from openoutcry.bus import Bus
from openoutcry.clock import SystemClock
from openoutcry.events import DepthSnapshot, Level
from openoutcry.feed.desk import Access, Numbers
from openoutcry.feed.feed import Feed as TheFeed
from openoutcry.feed.session import SessionTiming
from openoutcry.simulator.simulator import Simulator
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient, Socket, SocketClient
from openoutcry.venues import VENUES
from openoutcry.venues.venue import Feed

# What the simulated Binance counts in its depth: tenths of a second.
STEP_NS = 100_000_000
LEVELS = 20


class Leaky:
    """Real sockets, of which `drop` frames of depth more are lost on the way."""

    def __init__(self) -> None:
        self.drop = 0
        self._client = SocketClient()

    async def open(self, url: str) -> Socket:
        return _LeakySocket(await self._client.open(url), self)


class _LeakySocket:
    def __init__(self, socket: Socket, owner: Leaky) -> None:
        self._socket, self._owner = socket, owner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for frame in self._socket:
            if self._owner.drop and b"depthUpdate" in frame:
                self._owner.drop -= 1
            else:
                yield frame

    async def send(self, frame: bytes) -> None:
        await self._socket.send(frame)

    async def close(self) -> None:
        await self._socket.close()


class Game:
    """A simulated venue, and a feed that follows the depth of one instrument."""

    def __init__(self, venue: str, symbol: str) -> None:
        self.venue, self.symbol, self.name = venue, symbol, f"{venue}:{symbol}"
        self.clock, self.telemetry, self.sockets = SystemClock(), Telemetry(), Leaky()
        self.simulator = Simulator(7, self.clock, [venue], pump_s=0.05)
        self.http = HttpClient()
        self.snapshots: list[DepthSnapshot] = []

    async def start(self) -> None:
        await self.simulator.start()
        address = self.simulator.addresses()[self.venue]
        bus = Bus()
        bus.listen(DepthSnapshot, self.snapshots.append)
        self.feed = TheFeed(
            {self.venue: Access(VENUES[self.venue](), address["rest"], address["sockets"])},
            bus=bus,
            clock=self.clock,
            http=self.http,
            sockets=self.sockets,
            telemetry=self.telemetry,
            chance=random.Random(5),
            numbers=Numbers(session=SessionTiming(backoff_s_min=0.1, backoff_s_max=0.5, overlap_s=0.5)),
        )
        await self.feed.start()
        instrument = (await self.feed.listing(self.venue))[self.symbol]
        self.feed.follow(instrument, [Feed.DEPTH])

    async def stop(self) -> None:
        await self.feed.stop()
        await self.http.close()
        await self.simulator.stop()

    async def known_past(self, seq: int) -> int:
        """Wait until the depth is known up to more than `seq`; gives up to which."""
        await self.until(lambda: (self.kept or 0) > seq)
        return int(self.kept)

    async def until(self, come: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not come():  # noqa: ASYNC110 there is no event
                await asyncio.sleep(0.02)

    @property
    def kept(self) -> Any:
        """The number of the last delta, None while nothing is known."""
        depth = self.feed.depth(self.name)
        assert depth is not None
        return depth.seq

    def holds_the_truth(self) -> None:
        depth = self.feed.depth(self.name)
        assert depth is not None
        assert depth.seq is not None
        speller = self.simulator.world.speller(self.name)
        bids, asks = (
            [(speller.price_decimal(ticks), speller.size_decimal(lots)) for ticks, lots in side]
            for side in self.simulator.world.book(self.name, depth.seq * STEP_NS, LEVELS)
        )
        kept: list[list[Level]] = [list(depth.bids(LEVELS)), list(depth.asks(LEVELS))]
        assert kept == [bids, asks]
        assert len(bids) == LEVELS

    def count(self, name: str) -> float:
        return self.telemetry.registry.get_sample_value(f"openoutcry_{name}_total", {"venue": self.venue}) or 0.0


Play = Callable[[str, str], Awaitable[Game]]


@pytest.fixture
async def play() -> AsyncIterator[Play]:
    games: list[Game] = []

    async def start(venue: str, symbol: str) -> Game:
        games.append(Game(venue, symbol))
        await games[-1].start()
        return games[-1]

    yield start
    for game in games:
        await game.stop()


@pytest.mark.parametrize(
    ("venue", "symbol"),
    [("binance", "BTCUSDT"), ("binance_futures", "BTCUSDT"), ("binance_delivery", "BTCUSD_PERP")],
)
async def test_the_depth_kept_is_the_worlds_after_a_start_a_cut_and_a_lost_delta(
    play: Play, venue: str, symbol: str
) -> None:
    game = await play(venue, symbol)
    first = await game.known_past(0)
    # Deltas were joined to it.
    since = await game.known_past(first + 10)
    game.holds_the_truth()
    assert len(game.snapshots) == 1

    game.simulator.faults.set(venue, cut="rst")
    await game.until(lambda: game.kept is None)
    since = await game.known_past(since + 10)
    game.holds_the_truth()
    assert game.count("feed_depth_breaks") == 0

    game.sockets.drop = 3
    await game.until(lambda: game.count("feed_depth_breaks") > 0)
    await game.known_past(since + 20)
    game.holds_the_truth()
    assert game.count("feed_depth_breaks") == 1
    assert 3 <= game.count("feed_depth_asks") <= 4
