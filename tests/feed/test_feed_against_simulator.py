"""The feed against venues we play, over loopback: whatever is broken, the bus carries the world's truth and nothing else."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from openoutcry.bus import Bus
from openoutcry.clock import SystemClock
from openoutcry.events import MINUTE_S, Abandoned, Gap, Mended, Side, Trade, open_of
from openoutcry.feed.backfill import RepairTiming
from openoutcry.feed.desk import Access, Numbers
from openoutcry.feed.feed import Feed as TheFeed
from openoutcry.feed.session import SessionTiming
from openoutcry.simulator.simulator import Simulator
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient, SocketClient
from openoutcry.venues import VENUES
from openoutcry.venues.venue import Feed

MISCHIEF = {"gap": 0.1, "duplicate": 0.1, "disorder": 0.05, "garbage": 0.1}
# Where ids tell nothing, a frame that is never sent leaves no trace: only what can be noticed is done there.
NOTICEABLE = {"duplicate": 0.2, "garbage": 0.1}
# Enough trades that one in ten of them being lost shows: with 24 a second it does not once in ten thousand runs.
# Venues that serve their newest trades only are played quietly enough for those to reach back to the minute's opening.
BUSY, QUIET = 8.0, 0.3
# An option trades once in a quarter of a minute; and what it is called depends on the day.
LIVELY, HECTIC = 60.0, 400.0
FIRST_OPTION = ""

Sums = dict[tuple[int, Side, Decimal], Decimal]


class Game:
    """A simulated venue, a feed that listens to it, and what its bus carried."""

    def __init__(self, venue: str, activity: float) -> None:
        self.clock, self.telemetry, self.heard = SystemClock(), Telemetry(), list[Any]()
        self.venue = venue
        self.simulator = Simulator(7, self.clock, [venue], activity=activity, pump_s=0.05)
        self.http = HttpClient()

    async def start(self) -> None:
        await self.simulator.start()
        address = self.simulator.addresses()[self.venue]
        bus = Bus()
        for kind in (Trade, Gap, Mended, Abandoned):
            bus.listen(kind, self.heard.append)
        self.feed = TheFeed(
            {self.venue: Access(VENUES[self.venue](), address["rest"], address["sockets"])},
            bus=bus,
            clock=self.clock,
            http=self.http,
            sockets=SocketClient(),
            telemetry=self.telemetry,
            chance=random.Random(5),
            numbers=Numbers(
                session=SessionTiming(backoff_s_min=0.1, backoff_s_max=0.5, overlap_s=0.5),
                backfill=RepairTiming(settle_s=0.5, retry_s_max=1.0),
            ),
        )
        await self.feed.start()

    async def stop(self) -> None:
        await self.feed.stop()
        await self.http.close()
        await self.simulator.stop()

    async def follow(self, symbol: str) -> int:
        """Follow its trades until they are whole; gives since when they are."""
        instrument = (await self.feed.listing(self.venue))[symbol]
        begin_ns = open_of(self.clock.now_ns(), MINUTE_S)
        self.feed.follow(instrument, [Feed.TRADES])
        await self.until_whole(symbol)
        return begin_ns

    async def until_whole(self, symbol: str) -> None:
        async with asyncio.timeout(20):
            while not self.feed.followed(f"{self.venue}:{symbol}", Feed.TRADES):  # noqa: ASYNC110 there is no event
                await asyncio.sleep(0.05)

    def holds_the_truth(self, symbol: str, begin_ns: int, end_ns: int) -> None:
        """Each trade of the world once, and no other. Summed, as venues differ in which fills they report as one."""
        trades = [e for e in self.heard if isinstance(e, Trade) and begin_ns <= e.event_ns < end_ns]
        assert len({t.id for t in trades}) == len(trades)
        sums: Sums = defaultdict(Decimal)
        for trade in trades:
            sums[trade.event_ns, trade.side, trade.price] += trade.size if trade.contracts is None else trade.contracts
        assert sums == self.truth(symbol, begin_ns, end_ns)
        # Just after a minute opened a quiet venue has few.
        assert trades

    def truth(self, symbol: str, begin_ns: int, end_ns: int) -> Sums:
        sums: Sums = defaultdict(Decimal)
        name = f"{self.venue}:{symbol}"
        speller = self.simulator.world.speller(name)
        for row in self.simulator.world.orders(name, begin_ns, end_ns):
            side = Side.SELL if row.sell else Side.BUY
            sums[row.ns, side, speller.price_decimal(row.ticks)] += speller.size_decimal(row.lots)
        return sums


Play = Callable[[str, float], Awaitable[Game]]


@pytest.fixture
async def play() -> AsyncIterator[Play]:
    games: list[Game] = []

    async def start(venue: str, activity: float) -> Game:
        games.append(Game(venue, activity))
        await games[-1].start()
        return games[-1]

    yield start
    for game in games:
        await game.stop()


@pytest.mark.parametrize(
    ("venue", "symbol", "mischief", "activity"),
    [
        ("binance", "BTCUSDT", MISCHIEF, BUSY),
        ("binance_futures", "BTCUSDT", MISCHIEF, BUSY),
        ("binance_delivery", "BTCUSD_PERP", MISCHIEF, 5 * BUSY),
        ("okx", "BTC-USDT-SWAP", MISCHIEF, BUSY),
        ("bybit", "BTCUSDT", NOTICEABLE, QUIET),
        ("hyperliquid", "BTC", NOTICEABLE, QUIET),
        ("okx_options", FIRST_OPTION, MISCHIEF, HECTIC),
        ("bybit_options", FIRST_OPTION, NOTICEABLE, LIVELY),
        ("binance_options", FIRST_OPTION, NOTICEABLE, LIVELY),
        ("kraken_futures", "PI_XBTUSD", NOTICEABLE, BUSY),
        ("coinbase", "BTC-USD", MISCHIEF, 3 * BUSY),
        ("kraken", "BTC/USD", MISCHIEF, 5 * BUSY),
        ("deribit", "BTC-PERPETUAL", MISCHIEF, 3 * BUSY),
        ("deribit", FIRST_OPTION, MISCHIEF, HECTIC),
    ],
)
async def test_after_cuts_gaps_and_garbage_the_trades_on_the_bus_are_the_worlds(
    play: Play, venue: str, symbol: str, mischief: dict[str, float], activity: float
) -> None:
    game = await play(venue, activity)
    symbol = symbol or game.simulator.world.listings(venue)[0].instrument.symbol
    begin_ns = await game.follow(symbol)
    game.simulator.faults.set(venue, **mischief)
    await asyncio.sleep(1.5)
    for cut in ("rst", "close", "abnormal"):
        game.simulator.faults.set(venue, cut=cut)
        await asyncio.sleep(0.7)
    game.simulator.faults.clear(venue)
    end_ns = game.clock.now_ns()
    await asyncio.sleep(0.5)
    await game.until_whole(symbol)
    game.holds_the_truth(symbol, begin_ns, end_ns)
    # Where liquidations come with the trades, their own gaps are said too: past ones are told nowhere.
    gaps = {e for e in game.heard if isinstance(e, Gap) and e.of == Feed.TRADES}
    assert {e.gap for e in game.heard if isinstance(e, Mended)} == gaps
    assert not [e for e in game.heard if isinstance(e, Abandoned) and e.gap in gaps]
    assert {"start", "cut"} <= {gap.reason for gap in gaps}
    if "gap" in mischief:
        assert "missed ids" in {gap.reason for gap in gaps}


@pytest.mark.parametrize(("venue", "symbol"), [("binance", "BTCUSDT"), ("okx", "BTC-USDT-SWAP")])
async def test_a_venue_that_says_when_it_will_close_is_left_in_time_and_nothing_is_missed(
    play: Play, venue: str, symbol: str
) -> None:
    game = await play(venue, BUSY)
    begin_ns = await game.follow(symbol)
    game.simulator.faults.set(venue, life_s=5.0, notice_s=4.0)
    await asyncio.sleep(7.0)
    game.simulator.faults.clear(venue)
    end_ns = game.clock.now_ns()
    await asyncio.sleep(0.5)
    game.holds_the_truth(symbol, begin_ns, end_ns)
    gaps = [e for e in game.heard if isinstance(e, Gap)]
    assert gaps == [e.gap for e in game.heard if isinstance(e, Mended)]
    # Of two sockets the newer may be read first: a hole until the older is read, but never a stretch nobody listened.
    assert {gap.reason for gap in gaps} <= {"start", "missed ids"}
    told = {"venue": venue, "reason": "closing"}
    assert (game.telemetry.registry.get_sample_value("openoutcry_feed_reconnects_total", told) or 0) >= 1
