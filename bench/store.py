"""Candles into and out of the store: `python -m bench.store`.

Writes come in live order: each minute one candle of every series, with the coverage it extends, in one transaction. The
floor is the sqlite3 module's own executemany of ready rows into the same table, without coverage. Reads are the newest
500 candles of one series. The floor is the plain statement through the sqlite3 module, rows left as they are (texts); a
second row has a floor that makes Decimals of them, which is what anybody who wants exact numbers must do.
"""

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, cast

from bench.tables import Row, print_table
from openoutcry.aggregates.candles import Candles as LiveCandles
from openoutcry.bus import Bus
from openoutcry.clock import ManualClock
from openoutcry.events import NS, Candle, Side, Trade
from openoutcry.market.market import Market
from openoutcry.market.outside import Outside
from openoutcry.market.series import Batch, Of, SeriesKey, Span, State
from openoutcry.stores.sql import SqlSeries, sqlite_url
from openoutcry.stores.tables import SHAPES
from openoutcry.telemetry import Telemetry
from openoutcry.venues.venue import Feed

TITLE = "candles into and out of SQLite and memory"
INSTRUMENTS = 200
MINUTES = 100
READ = 500
READS = 200
ROUNDS = 3
START_NS = 1_759_968_000 * NS
MINUTE_NS = 60 * NS
COLUMNS = [column.name for column in SHAPES[Of.CANDLES].table.columns]
INSERT = f"INSERT OR REPLACE INTO candles VALUES ({', '.join('?' * len(COLUMNS))})"
SELECT = f"SELECT {', '.join(COLUMNS[1:])} FROM candles WHERE series = ? AND open_ns < ? ORDER BY open_ns DESC LIMIT ?"


def table() -> list[Row]:
    """Live-order writes; reads from the store and from memory."""
    with tempfile.TemporaryDirectory() as folder:
        return [writes(Path(folder)), *reads(Path(folder)), newest(Path(folder))]


def writes(folder: Path) -> Row:
    batches = [batch(minute) for minute in range(MINUTES)]
    keys = {key: number for number, key in enumerate(batches[0].rows, start=1)}
    pack = SHAPES[Of.CANDLES].pack
    ready = [[(keys[key], *pack(row)) for key, rows in each.rows.items() for row in rows] for each in batches]
    count = sum(map(len, ready))
    ours, floor = 0.0, 0.0
    for round_ in range(ROUNDS):
        store = SqlSeries(sqlite_url(folder / f"ours{round_}.db"))
        ours = max(ours, count / spent(partial(write, store, batches)))
        store.close()
        with closing(plain_file(folder / f"plain{round_}.db")) as plain:
            floor = max(floor, count / spent(partial(plain_write, plain, ready)))
    return Row("live-order writes, with coverage", ours, floor, "rows per CPU second")


def reads(folder: Path) -> list[Row]:
    file = folder / "reads.db"
    with closing(SqlSeries(sqlite_url(file))) as store, closing(sqlite3.connect(file)) as plain:
        for minute in range(2 * READ):
            store.write(batch(minute, instruments=20))
        key = SeriesKey("binance:C7", Of.CANDLES, 60)
        (number,) = plain.execute(
            "SELECT id FROM series WHERE instrument = ? AND side = 'both'", (key.instrument,)
        ).fetchone()

        def ours() -> None:
            assert len(store.read(key, limit=READ, newest=True)) == READ

        def texts() -> None:
            assert len(plain.execute(SELECT, (number, 2**62, READ)).fetchall()) == READ

        def decimals() -> None:
            rows = plain.execute(SELECT, (number, 2**62, READ)).fetchall()
            assert len([(row[0], *map(Decimal, row[1:7]), *row[7:]) for row in rows]) == READ

        mine, bare, exact = best(ours), best(texts), best(decimals)
    unit = f"reads of {READ} candles per CPU second"
    return [Row("reads, floor leaves texts", mine, bare, unit), Row("reads, floor makes Decimals", mine, exact, unit)]


def newest(folder: Path) -> Row:
    return asyncio.run(_newest(folder))


async def _newest(folder: Path) -> Row:
    """The way a question goes that memory can answer, beside the plain statement."""
    file = folder / "newest.db"
    end_ns = START_NS + (READ + 5) * MINUTE_NS
    clock, bus, live = ManualClock(end_ns), Bus(), LiveCandles()
    with closing(SqlSeries(sqlite_url(file))) as store, closing(sqlite3.connect(file)) as plain:
        for minute in range(READ + 5):
            store.write(batch(minute, instruments=1))
        market = Market(cast("Outside", Followed()), store, bus, clock, Telemetry(), live)
        key = SeriesKey("binance:C0", Of.CANDLES, 60)
        rows = cast("list[Candle]", list(store.read(key, limit=READ, newest=True)))
        market.latest.keep(key, rows[0].open_ns, rows)
        live.seed(rows)
        live.vouch(key.instrument, rows[0].open_ns)
        grown = grow(clock.now_ns())
        bus.publish(live.on_trade(grown))

        def ours() -> None:
            told = market.newest("binance:C0", 60, READ)
            assert told is not None
            assert len(told[0]) == READ
            assert told[1] is not None

        def texts() -> None:
            assert len(plain.execute(SELECT, (1, 2**62, READ)).fetchall()) == READ

        mine, bare = best(ours), best(texts)
        await market.close()
    return Row("newest() from memory, floor is plain SQL", mine, bare, f"questions for {READ} candles per CPU second")


class Followed:
    """An outside in which everything is followed."""

    def followed(self, instrument: str, feed: Feed) -> bool:
        return True


def grow(at_ns: int) -> Trade:
    return Trade("binance:C0", at_ns, at_ns, 1, 1, Side.BUY, Decimal("100.5"), Decimal("0.5"))


def batch(minute: int, instruments: int = INSTRUMENTS) -> Batch:
    """One minute of every instrument, three sides, as the writer would hand it over."""
    rows: dict[SeriesKey, list[Candle]] = {}
    spans: dict[SeriesKey, list[Span]] = {}
    open_ns = START_NS + minute * MINUTE_NS
    for number in range(instruments):
        name = f"binance:C{number}"
        price = Decimal(6_000_000 + minute * 17 + number * 31).scaleb(-2)
        for side in Side:
            key = SeriesKey(name, Of.CANDLES, 60, side)
            volume = Decimal(123_457 + minute * number).scaleb(-3)
            rows[key] = [
                Candle(
                    name, side, 60, open_ns, price, price + 5, price - 3, price + 1, volume, volume * price, 250,
                    open_ns + 5, open_ns + 59 * NS, True, open_ns + 60 * NS, "trades",
                )
            ]  # fmt: skip
            spans[key] = [Span(START_NS, open_ns + MINUTE_NS, State.HAVE)]
    return Batch(cast("Mapping[SeriesKey, list[Any]]", rows), spans)


def plain_file(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    columns = ", ".join(f"{name} {'TEXT' if 1 < at < 8 else 'INTEGER'}" for at, name in enumerate(COLUMNS))
    connection.execute(f"CREATE TABLE candles ({columns}, PRIMARY KEY (series, open_ns)) WITHOUT ROWID")
    return connection


def write(store: SqlSeries, batches: list[Batch]) -> None:
    for each in batches:
        store.write(each)


def plain_write(connection: sqlite3.Connection, batches: list[list[tuple[Any, ...]]]) -> None:
    for rows in batches:
        connection.executemany(INSERT, rows)
        connection.commit()


def best(act: Callable[[], None]) -> float:
    """Times a CPU second, the best of a few rounds."""

    def often() -> None:
        for _ in range(READS):
            act()

    return max(READS / spent(often) for _ in range(ROUNDS))


def spent(act: Callable[[], object]) -> float:
    start_s = time.process_time()
    act()
    return time.process_time() - start_s


if __name__ == "__main__":
    print_table(TITLE, table())
