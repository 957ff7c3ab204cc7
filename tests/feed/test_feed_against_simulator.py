"""The feed against venues we play, over loopback: whatever is broken, the bus carries the world's truth and nothing else."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
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
from openoutcry.simulator import PERSONALITIES
from openoutcry.simulator.simulator import Simulator
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient, SocketClient
from openoutcry.venues import VENUES
from openoutcry.venues.venue import Feed

MISCHIEF = {"gap": 0.1, "duplicate": 0.1, "disorder": 0.05, "garbage": 0.1}
# Where ids tell nothing, a frame that is never sent leaves no trace: only what can be noticed is done there.
NOTICEABLE = {"duplicate": 0.2, "garbage": 0.1}
# Venues that serve their newest trades only are played quietly enough for those to reach back to the minute's opening.
BUSY, QUIET = 8.0, 0.5

Sums = dict[tuple[int, Side, Decimal], Decimal]


@pytest.mark.parametrize(
    ("venue", "symbol", "mischief", "activity"),
    [
        ("binance", "BTCUSDT", MISCHIEF, BUSY),
        ("binance_futures", "BTCUSDT", MISCHIEF, BUSY),
        ("binance_delivery", "BTCUSD_PERP", MISCHIEF, BUSY),
        ("okx", "BTC-USDT-SWAP", MISCHIEF, BUSY),
        ("bybit", "BTCUSDT", NOTICEABLE, QUIET),
        ("hyperliquid", "BTC", NOTICEABLE, QUIET),
    ],
)
async def test_after_cuts_gaps_and_garbage_the_trades_on_the_bus_are_the_worlds(
    venue: str, symbol: str, mischief: dict[str, float], activity: float
) -> None:
    if venue not in PERSONALITIES:
        pytest.skip(f"the simulator does not play {venue}")
    clock, bus, heard = SystemClock(), Bus(), list[Any]()
    for kind in (Trade, Gap, Mended, Abandoned):
        bus.listen(kind, heard.append)
    simulator = Simulator(7, clock, [venue], activity=activity, pump_s=0.05)
    http = HttpClient()
    await simulator.start()
    address = simulator.addresses()[venue]
    feed = TheFeed(
        {venue: Access(VENUES[venue](), address["rest"], address["sockets"])},
        bus=bus,
        clock=clock,
        http=http,
        sockets=SocketClient(),
        telemetry=Telemetry(),
        chance=random.Random(5),
        numbers=Numbers(
            session=SessionTiming(backoff_s_min=0.1, backoff_s_max=0.5),
            backfill=RepairTiming(settle_s=0.5, retry_s_max=1.0),
        ),
    )
    try:
        await feed.start()
        instrument = (await feed.listing(venue))[symbol]
        begin_ns = open_of(clock.now_ns(), MINUTE_S)
        feed.follow(instrument, [Feed.TRADES])
        await until(feed, instrument.name)
        simulator.faults.set(venue, **mischief)
        await asyncio.sleep(1.5)
        for cut in ("rst", "close", "abnormal"):
            simulator.faults.set(venue, cut=cut)
            await asyncio.sleep(0.7)
        simulator.faults.clear(venue)
        end_ns = clock.now_ns()
        await asyncio.sleep(0.5)
        await until(feed, instrument.name)
    finally:
        await feed.stop()
        await http.close()
        await simulator.stop()
    trades = [e for e in heard if isinstance(e, Trade) and begin_ns <= e.event_ns < end_ns]
    assert traded(trades) == truth(simulator, instrument.name, begin_ns, end_ns)
    assert len({t.id for t in trades}) == len(trades)
    gaps = {e for e in heard if isinstance(e, Gap)}
    assert {e.gap for e in heard if isinstance(e, Mended)} == gaps
    assert not [e for e in heard if isinstance(e, Abandoned)]
    assert {"start", "cut"} <= {gap.reason for gap in gaps}
    if "gap" in mischief:
        assert "missed ids" in {gap.reason for gap in gaps}


async def until(feed: TheFeed, name: str) -> None:
    async with asyncio.timeout(20):
        while not feed.followed(name, Feed.TRADES):  # noqa: ASYNC110 the feed has no event for it
            await asyncio.sleep(0.05)


def traded(trades: Sequence[Trade]) -> Sums:
    """Size by time, side and price: venues differ in which fills they report as one."""
    sums: Sums = defaultdict(Decimal)
    for trade in trades:
        sums[trade.event_ns, trade.side, trade.price] += trade.size if trade.contracts is None else trade.contracts
    return sums


def truth(simulator: Simulator, name: str, begin_ns: int, end_ns: int) -> Sums:
    sums: Sums = defaultdict(Decimal)
    speller = simulator.world.speller(name)
    for row in simulator.world.orders(name, begin_ns, end_ns):
        side = Side.SELL if row.sell else Side.BUY
        sums[row.ns, side, speller.price_decimal(row.ticks)] += speller.size_decimal(row.lots)
    return sums
