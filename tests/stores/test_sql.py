"""What only a database can suffer: kill -9, a full disk, a lock, a newer schema."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from openoutcry.errors import Unavailable
from openoutcry.events import NS, Candle, InterestBar, Side
from openoutcry.market.series import Batch, Of, SeriesKey, Span, State
from openoutcry.stores.sql import SqlSeries, sqlite_url

KILLS = 20
KEY = SeriesKey("x:A", Of.CANDLES, 60)

# Writes candles and what they cover in one batch each, and says how far it came after every commit.
WRITE = """
import sys
from decimal import Decimal
from pathlib import Path
from openoutcry.events import NS, Candle, InterestBar, Side
from openoutcry.market.series import Batch, Of, SeriesKey, Span, State
from openoutcry.stores.sql import SqlSeries, sqlite_url
store = SqlSeries(sqlite_url(Path(sys.argv[1])))
keys = [SeriesKey(f"x:{name}", Of.CANDLES, 60) for name in "ABC"]
known = store.coverages()
minute = known[keys[0]][-1].end_ns // (60 * NS) if known else 0
print("ready", flush=True)
while True:
    ends = minute + 1 + minute % 7
    rows = {
        key: [
            Candle(key.instrument, Side.BOTH, 60, n * 60 * NS, *[Decimal(n)] * 6, n, None, None, True, 0, "trades")
            for n in range(minute, ends)
        ]
        for key in keys
    }
    store.write(Batch(rows, {key: [Span(0, ends * 60 * NS, State.HAVE)] for key in keys}))
    minute = ends
    print(minute, flush=True)
"""


def candle(minute: int) -> Candle:
    n = Decimal(minute)
    return Candle("x:A", Side.BOTH, 60, minute * 60 * NS, n, n, n, n, n, n, minute, None, None, True, 0, "trades")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "series.db"


@pytest.fixture
def store(file: Path) -> Iterator[SqlSeries]:
    made = SqlSeries(sqlite_url(file), busy_s=0.05)
    yield made
    made.close()


def test_kill_9_at_random_moments_never_damages_the_file_nor_lets_coverage_lie(file: Path) -> None:
    chance = random.Random(7)
    for _ in range(KILLS):
        told = _write_and_kill(file, reports=chance.randrange(0, 40))
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        store = SqlSeries(sqlite_url(file))
        for name in "ABC":
            key = SeriesKey(f"x:{name}", Of.CANDLES, 60)
            minutes = [row.open_ns // (60 * NS) for row in store.read(key) if isinstance(row, Candle)]
            covered = [minute for span in store.coverages().get(key, ()) for minute in _minutes(span)]
            assert minutes == covered  # never a row too few, and no row of a batch whose coverage is not there
            assert len(minutes) >= told  # what was committed stays
        store.close()


def _write_and_kill(file: Path, reports: int) -> int:
    """Let a child write until it has reported so often, kill it wherever it is then; gives how far it had come."""
    with subprocess.Popen([sys.executable, "-c", WRITE, str(file)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        lines = [child.stdout.readline() for _ in range(reports)]
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
    whole = [line for line in lines if line.endswith(b"\n")]
    return int(whole[-1]) if whole else 0


def _minutes(span: Span) -> range:
    return range(span.start_ns // (60 * NS), span.end_ns // (60 * NS))


def test_a_full_disk_is_unavailable_and_loses_nothing_that_was_there(file: Path) -> None:
    store = SqlSeries(sqlite_url(file), bytes_max=200_000)
    kept = 0
    with pytest.raises(Unavailable, match="disk is full") as refused:
        for batch in range(1_000):
            rows = [candle(batch * 100 + n) for n in range(100)]
            store.write(Batch({KEY: rows}, {KEY: [Span(0, (batch + 1) * 6_000 * NS, State.HAVE)]}))
            kept += 100
    assert refused.value.who == "store"
    assert store.read(KEY) == [candle(n) for n in range(kept)]
    assert list(store.coverages()[KEY]) == [Span(0, kept * 60 * NS, State.HAVE)]
    store.close()


def test_a_store_that_another_process_has_locked_is_unavailable_until_it_lets_go(store: SqlSeries, file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            store.write(Batch({KEY: [candle(1)]}))
        assert store.read(KEY) == []
        other.execute("ROLLBACK")
    store.write(Batch({KEY: [candle(1)]}))
    assert store.read(KEY) == [candle(1)]


def test_a_file_that_is_no_database_is_unavailable_with_the_reason(file: Path) -> None:
    file.write_bytes(b"this is a picture of a cat" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        SqlSeries(sqlite_url(file))


def test_data_of_a_newer_version_is_refused_and_left_alone(store: SqlSeries, file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(Unavailable, match="written by a newer openoutcry"):
        SqlSeries(sqlite_url(file))


def test_data_of_the_first_version_is_read_and_written_on(file: Path) -> None:
    """As version 1 left it: without the columns and the table that came later, and with rows in the old ones."""
    key = SeriesKey("x:A", Of.INTEREST_BARS, 60)
    store = SqlSeries(sqlite_url(file))
    four = (Decimal(1), Decimal(2), Decimal(1), Decimal(2))
    old = InterestBar("x:A", 60, 0, *four, None, True, 5)
    store.write(Batch({key: [old]}))
    store.close()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        for table, names in (("interest_bars", ("value", "price")), ("funding_bars", ("predicted",))):
            for name in names:
                for which in ("open", "high", "low", "close"):
                    other.execute(f"ALTER TABLE {table} DROP COLUMN {name}_{which}")
        other.execute("ALTER TABLE interest DROP COLUMN price")
        other.execute("DROP TABLE levels_bars")
        other.execute("UPDATE schema_version SET version = 1")
    store = SqlSeries(sqlite_url(file))
    four = (Decimal(1), Decimal(2), Decimal(1), Decimal(2))
    new = InterestBar("x:A", 60, 60 * NS, *four, None, True, 5, four, four)
    store.write(Batch({key: [new]}))
    assert store.read(key) == [old, new]
    store.close()


def test_a_database_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="the store cannot serve"):
        SqlSeries("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2")


def test_the_file_is_set_up_for_one_writer_and_many_readers(store: SqlSeries, file: Path) -> None:
    with closing(sqlite3.connect(file)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        plan = other.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM candles WHERE series = 1 AND open_ns >= 0 ORDER BY open_ns DESC LIMIT 9"
        ).fetchone()
        assert "USING PRIMARY KEY" in plan[3]  # no rowid to look up, nothing to sort
    assert store.read(KEY) == []
