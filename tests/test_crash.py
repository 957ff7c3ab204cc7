"""A server that is killed again and again, at random moments, while the venues live on.

The venues are played by this process, the server is `openoutcry serve` as a user starts it, on one data folder.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path

import httpx2
import msgspec

from openoutcry.app import DATABASE, simulated
from openoutcry.clock import NS, SystemClock
from openoutcry.config import Config, load
from openoutcry.events import MINUTE_S, Candle, Side, Trade, open_of
from openoutcry.market.series import Of, SeriesKey, State
from openoutcry.simulator.listings import standard
from openoutcry.simulator.simulator import Simulator
from openoutcry.stores.sql import SqlSeries, sqlite_url

SEED = 20
KILLS = 20
LIVED_S = (0.3, 2.0)
ACTIVITY = 4.0
READY_S_MAX = 20.0
WHOLE_S_MAX = 20.0
MINUTE_NS = MINUTE_S * NS
FOLLOWED = {"binance": ("BTCUSDT",), "binance_futures": ("BTCUSDT",), "okx": ("BTC-USDT-SWAP",)}
NAMES = [f"{venue}:{symbol}" for venue, symbols in FOLLOWED.items() for symbol in symbols]
SPOKEN = {"binance_futures:BTCUSDT": "/binance/ohlc/BTCUSDT/1m", "okx:BTC-USDT-SWAP": "/okx/ohlc/BTC-USDT-SWAP/1m"}


def environment(simulator: Simulator) -> dict[str, str]:
    """The settings of a server that listens to these few instruments where the simulator plays them."""
    named = {name: {"on": name in FOLLOWED, "instruments": FOLLOWED.get(name, ())} for name in Config().venues}
    played = simulated(load({"venues": named}), simulator)
    venues = {name: venue.model_dump(mode="json") for name, venue in played.venues.items()}
    said = {"OPENOUTCRY_SPIKES__ON": "false", "OPENOUTCRY_FEED__BACKOFF_S_MIN": "0.2"}
    return os.environ | said | {"OPENOUTCRY_VENUES": json.dumps(venues)}


@asynccontextmanager
async def serving(folder: Path, settings: dict[str, str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`openoutcry serve` on the folder, when it answers; killed at the end unless it ended before."""
    command = ["-m", "openoutcry", "serve", "--json", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    with (folder.parent / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, "--data", str(folder), env=settings, stdout=asyncio.subprocess.PIPE, stderr=log
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(READY_S_MAX):
            line = await process.stdout.readline()
        assert line, (folder.parent / "log").read_text()[-3_000:]
        yield process, json.loads(line)["http"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def integrity(file: Path) -> str:
    """What SQLite says of its file, with whatever the dead process left beside it."""
    with closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def whole(file: Path, start_ns: int, end_ns: int) -> bool:
    """Whether the store calls trades and minutes of all instruments whole over that time."""
    with closing_store(file) as series:
        told = series.coverages()
    for key in (SeriesKey(name, of, s) for name in NAMES for of, s in ((Of.TRADES, 0), (Of.CANDLES, MINUTE_S))):
        at_ns = start_ns
        for span in told.get(key, ()):
            if span.state in (State.HAVE, State.EMPTY) and span.start_ns <= at_ns:
                at_ns = max(at_ns, span.end_ns)
        if at_ns < end_ns:
            return False
    return True


def closing_store(file: Path) -> "closing[SqlSeries]":
    return closing(SqlSeries(sqlite_url(file)))


Sums = dict[tuple[int, Side, Decimal], Decimal]


def stored(series: SqlSeries, name: str, start_ns: int, end_ns: int) -> Sums:
    """What traded at each moment, side and price; no trade is there twice."""
    rows = series.read(SeriesKey(name, Of.TRADES), start_ns=start_ns, end_ns=end_ns)
    trades = [row for row in rows if isinstance(row, Trade)]
    assert len({trade.id for trade in trades}) == len(trades)
    sums: Sums = defaultdict(Decimal)
    for trade in trades:
        sums[trade.event_ns, trade.side, trade.price] += trade.size if trade.contracts is None else trade.contracts
    return sums


def truth(simulator: Simulator, name: str, start_ns: int, end_ns: int) -> Sums:
    sums: Sums = defaultdict(Decimal)
    speller = simulator.world.speller(name)
    for row in simulator.world.orders(name, start_ns, end_ns):
        side = Side.SELL if row.sell else Side.BUY
        sums[row.ns, side, speller.price_decimal(row.ticks)] += speller.size_decimal(row.lots)
    return sums


Shape = tuple[Decimal, Decimal, Decimal, Decimal, Decimal]


def candles(simulator: Simulator, name: str, start_ns: int, end_ns: int) -> dict[int, Shape]:
    speller = simulator.world.speller(name)
    return {
        bar.open_ns: (
            speller.price_decimal(bar.open),
            speller.price_decimal(bar.high),
            speller.price_decimal(bar.low),
            speller.price_decimal(bar.close),
            speller.coins(bar.lots),
        )
        for bar in simulator.world.candles(name, MINUTE_S, start_ns, end_ns)
    }


async def test_twenty_kills_damage_nothing_and_lose_nothing(tmp_path: Path) -> None:
    clock = SystemClock()
    chance = random.Random(SEED)
    listings = [
        msgspec.structs.replace(a, orders_per_s=a.orders_per_s * ACTIVITY)
        for a in standard(clock.now_ns())
        if a.instrument.venue in FOLLOWED
    ]
    simulator = Simulator(SEED, clock, [*FOLLOWED, "coinmarketcap"], listings=listings)
    await simulator.start()
    try:
        folder = tmp_path / "data"
        file = folder / DATABASE
        settings = environment(simulator)
        began_ns = open_of(clock.now_ns(), MINUTE_S)
        for kill in range(KILLS):
            async with serving(folder, settings) as (process, _):
                await asyncio.sleep(chance.uniform(*LIVED_S))
                process.send_signal(signal.SIGKILL)
                await process.wait()
            assert await asyncio.to_thread(integrity, file) == "ok", f"after kill {kill}"
        async with serving(folder, settings) as (process, url):
            end_ns = max(open_of(clock.now_ns(), MINUTE_S), began_ns + MINUTE_NS)
            async with asyncio.timeout(WHOLE_S_MAX + MINUTE_S):
                while not await asyncio.to_thread(whole, file, began_ns, end_ns):  # noqa: ASYNC110 another process
                    await asyncio.sleep(0.5)
            async with httpx2.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
                for name, path in SPOKEN.items():
                    answer = await client.get(path, params={"limit": 10})
                    fields = ("open", "high", "low", "close", "volume")
                    told = [tuple(row[field] for field in fields) for row in answer.json() if row["is_closed"]]
                    expected = candles(simulator, name, began_ns, end_ns).values()
                    assert all(tuple(map(float, shape)) in told for shape in expected), name
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        assert integrity(file) == "ok"
        with closing_store(file) as series:
            for name in NAMES:
                assert stored(series, name, began_ns, end_ns) == truth(simulator, name, began_ns, end_ns), name
                rows = series.read(SeriesKey(name, Of.CANDLES, MINUTE_S), start_ns=began_ns, end_ns=end_ns)
                kept = {
                    row.open_ns: (row.open, row.high, row.low, row.close, row.volume)
                    for row in rows
                    if isinstance(row, Candle)
                }
                assert kept == candles(simulator, name, began_ns, end_ns), name
        assert end_ns > began_ns
    finally:
        await simulator.stop()
