"""Candles of the past: fetched and stored, within a venue's budget, and found again in a store of many.

Venue, server and floors run in processes of their own (`bench.backfill_child`). The venue is the simulator over loopback
HTTP; its answers lie ready before anything is measured. What is stored is one instrument's minutes of a year. The floor
of fetching and storing is both together: the same bodies fetched by the same client and thrown away, and the same rows
written by the sqlite3 module, in transactions as large.

The store holds `BENCH_CANDLES` candles (20 million if not said) of 40 series: one written as the server writes, with 50
minutes left out, the others its copies, so that `summaries` says what is there. Files are in the page cache.
"""

import math
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import uvloop

from bench import pair
from bench.backfill_child import MINUTES
from bench.points_server import END_S, NAME, Outside, minute
from bench.points_server import MINUTES as NEWEST
from bench.store import COLUMNS
from bench.tables import Row, print_table
from openoutcry.aggregates.candles import Candles
from openoutcry.bus import Bus
from openoutcry.clock import NS, ManualClock
from openoutcry.feed.archives import ROWS_PER_PAGE
from openoutcry.market.market import Market
from openoutcry.market.series import Batch, Of, SeriesKey
from openoutcry.market.stored import Stored
from openoutcry.stores.sql import SqlSeries, sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.venues.binance_history import FUTURES_CANDLES_MAX

TITLE = "candles of the past, fetched, stored and found again; floors: see docs/benchmarks.md"
CANDLES = int(os.environ.get("BENCH_CANDLES", "20000000"))
FEW = 1_000
SERIES = 40
HOLES = 50
ROWS = 50_000
WRITE_ROWS = 5_000
YEAR_S_MAX = 600
POLITE_S = 65
ALONE_S = 10
# Live questions: beside a polite run one a second, else more often, so that a short run has as many.
OFTEN_S, SELDOM_S = 0.1, 1.0
MINUTE_S = 60.0
RATE_S = 1.0
MB = 1_000_000
BEGINNING_NS = -(2**63)
KEY = SeriesKey(NAME, Of.CANDLES, 60)
STEP_NS = 60 * NS

TEXTS = "SELECT open_ns, open, high, low, close, volume FROM candles WHERE series = 1 AND open_ns >= ? ORDER BY open_ns LIMIT ?"
SUMMARIES = "SELECT series, min(open_ns), max(open_ns), count(*) FROM candles GROUP BY series"
GAPS = """
    SELECT before_ns + ?1, open_ns FROM
        (SELECT open_ns, LAG(open_ns) OVER (ORDER BY open_ns) AS before_ns FROM candles WHERE series = 1)
    WHERE open_ns - before_ns > ?1 ORDER BY open_ns
"""

child = partial(pair.child, module="bench.backfill_child")


def table() -> Iterable[Row]:
    """A year by REST and by files, then as a venue's budget allows, then questions about what is stored."""
    with tempfile.TemporaryDirectory(prefix="openoutcry-bench-") as folder:
        yield from uvloop.run(_year(Path(folder)))
    with tempfile.TemporaryDirectory(prefix="openoutcry-bench-") as folder:
        yield from uvloop.run(_stored(Path(folder)))


def tell(what: str) -> None:
    print(f"  … {what}", file=sys.stderr, flush=True)


# A year of minutes


async def _year(folder: Path) -> list[Row]:
    rows: list[Row] = []
    for road, a_page in (("rest", FUTURES_CANDLES_MAX), ("files", ROWS_PER_PAGE)):
        async with child("venue") as venue:
            tell(f"{road}: the venue makes its candles")
            _, made_s = await _spent(venue, _backfill(venue, road, _new(folder)))
            tell(f"{road}: fetched and stored")
            home = _new(folder)
            ours, told_s = await _spent(venue, _backfill(venue, road, home))
            asked = folder / f"{road}.json"
            await venue.tell(f"asked {asked}")
            async with child("least", str(venue.port)) as least:
                fetched = await least.tell(f"fetch {asked}")
                source = home / "market.sqlite3"
                written = await least.tell(f"write {source} {_new(folder) / 'plain'} {a_page}")
            rows += _rates(road, ours, fetched, written)
            rows += [
                Row(f"{road}: the venue, answers ready", MINUTES / told_s, None, "candles per CPU second of the venue"),
                Row(f"{road}: the venue, making them", MINUTES / made_s, None, "candles per CPU second of the venue"),
                Row(f"{road}: memory at its peak; floor: before", ours["peak"] / MB, ours["before"] / MB, "MB"),
                Row(f"{road}: memory after; floor: before", ours["after"] / MB, ours["before"] / MB, "MB"),
            ]
            rows += await (_beside_files(venue, folder) if road == "files" else _polite(venue, folder))
    return rows


def _rates(road: str, ours: dict[str, Any], fetched: dict[str, Any], written: dict[str, Any]) -> Iterable[Row]:
    both = {key: fetched[key] + written[key] for key in ("cpu_s", "wall_s")}
    rate, a_cpu_s = MINUTES / ours["cpu_s"], "candles per CPU second"
    yield Row(f"{road}: fetched and stored", rate, MINUTES / both["cpu_s"], a_cpu_s)
    yield Row(f"{road}: the same; floor: only fetched", rate, MINUTES / fetched["cpu_s"], a_cpu_s)
    yield Row(f"{road}: the same; floor: only written", rate, MINUTES / written["cpu_s"], a_cpu_s)
    yield Row(f"{road}: fetched and stored", MINUTES / ours["wall_s"], MINUTES / both["wall_s"], "candles per second")


async def _beside_files(venue: pair.Child, folder: Path) -> list[Row]:
    tell("files: a live question every tenth of a second")
    async with child("ours", str(venue.port), "files", str(_new(folder))) as ours:
        alone = (await ours.tell(f"live {OFTEN_S} {ALONE_S}"))["live_s"]
        told = await ours.tell(f"backfill {OFTEN_S} {YEAR_S_MAX}")
    assert told["candles"] == MINUTES
    return [*_waits("files", told["live_s"], alone)]


async def _polite(venue: pair.Child, folder: Path) -> list[Row]:
    """With the venue's limits on, and the adapter's own."""
    tell(f"rest: {POLITE_S} seconds within the venue's budget, a live question each")
    await venue.tell("limit")
    async with child("ours", str(venue.port), "polite", str(_new(folder))) as ours:
        alone = (await ours.tell(f"live {OFTEN_S} {ALONE_S}"))["live_s"]
    limit = (await venue.tell("limit"))["limit"]
    async with child("ours", str(venue.port), "polite", str(_new(folder))) as ours:
        told = await ours.tell(f"backfill {SELDOM_S} {POLITE_S}")
    counted = await venue.tell("weighed")
    weight = sum(each for _, each in counted["weighed"])
    live = len(told["live_s"])
    return [
        Row("polite: weight of the busiest minute; floor: the limit", _busiest(counted["weighed"]), limit, "weight"),
        Row(f"polite: weight of live questions in {POLITE_S} s; floor: of all", live, weight, "weight"),
        Row("polite: times the venue said 429", counted["refused"], None, "answers"),
        Row(f"polite: stored in {POLITE_S} s", told["candles"], None, "candles"),
        *_waits("polite", told["live_s"], alone),
    ]


def _busiest(weighed: Sequence[tuple[float, int]]) -> int:
    """The most weight within any minute."""
    return max(sum(each for at_s, each in weighed if first_s <= at_s < first_s + MINUTE_S) for first_s, _ in weighed)


def _waits(road: str, beside: Sequence[float], alone: Sequence[float]) -> Iterable[Row]:
    for share in (0.5, 0.99):
        name = f"{road}: a live answer, p{share * 100:g} of {len(beside)}; floor: without backfill, of {len(alone)}"
        yield Row(name, _at(share, beside) * 1e6, _at(share, alone) * 1e6, "µs, fewer are better")


def _at(share: float, seconds: Sequence[float]) -> float:
    return sorted(seconds)[math.ceil(share * len(seconds)) - 1]


async def _backfill(venue: pair.Child, road: str, home: Path) -> dict[str, Any]:
    async with child("ours", str(venue.port), road, str(home)) as ours:
        told = await ours.tell(f"backfill 0 {YEAR_S_MAX}")
        assert told["candles"] == MINUTES, told
        return told


async def _spent(venue: pair.Child, work: Awaitable[dict[str, Any]]) -> tuple[dict[str, Any], float]:
    before = await venue.spent()
    told = await work
    return told, (await venue.spent()).cpu_s - before.cpu_s


def _new(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


# A store of many


async def _stored(folder: Path) -> list[Row]:
    rows: list[Row] = []
    for candles in (FEW, CANDLES):
        tell(f"a store of {candles:,} candles")
        file = folder / f"{candles}.sqlite3"
        a_series = candles // SERIES
        fill(file, a_series, HOLES if candles > FEW else 0)
        market = _market(file)
        with closing(sqlite3.connect(file)) as plain:
            name = f"coverage of {SERIES * a_series:,} candles"
            rows += await _asked(name, _summaries(market.stored, a_series), _plain(plain, SUMMARIES, SERIES))
            if candles > FEW:
                rows += await _found(market.stored, plain, a_series)
                rows += await _served(file, plain, a_series)
        await market.close()
    return rows


async def _found(stored: Stored, plain: sqlite3.Connection, a_series: int) -> list[Row]:
    async def gaps() -> None:
        assert len(await stored.gaps(KEY)) == HOLES

    rows = min(ROWS, a_series)

    async def texts() -> None:
        assert len(await stored.texts(KEY, limit=rows, start_ns=BEGINNING_NS)) == rows

    return [
        *await _asked(f"{HOLES} gaps of {a_series:,} candles", gaps, _plain(plain, GAPS, HOLES, STEP_NS)),
        *await _asked(f"{rows:,} candles as texts", texts, _plain(plain, TEXTS, rows, BEGINNING_NS, rows)),
    ]


async def _served(file: Path, plain: sqlite3.Connection, a_series: int) -> list[Row]:
    """The server's CPU seconds of whole answers, beside the same rows from SQL, and the same bytes on the same server."""
    rows = min(ROWS, a_series)
    target = f"/api/klines/data?symbol=BTC&interval=1m&exchange=binance&limit={rows}&start=2020-01-01"
    async with child("klines", str(file)) as server:
        ours, ours_wall, body = await _whole(server, target)
    async with pair.child("http", f"bare:{len(body)}") as server:
        bare, bare_wall, _ = await _whole(server, target)
    floor = await _rate(_plain(plain, TEXTS, rows, BEGINNING_NS, rows))
    name = f"GET /api/klines/data of {rows:,}"
    return [
        Row(f"{name}; floor: plain SQL", ours * MINUTE_S, floor[0] * MINUTE_S, "answers per CPU minute"),
        Row(f"{name}; floor: plain SQL", ours_wall * MINUTE_S, floor[1] * MINUTE_S, "answers per minute"),
        Row(f"{name}; floor: bare ASGI, same bytes", ours * MINUTE_S, bare * MINUTE_S, "answers per CPU minute"),
        Row(f"{name}; floor: bare ASGI, same bytes", ours_wall * MINUTE_S, bare_wall * MINUTE_S, "answers per minute"),
    ]


async def _whole(server: pair.Child, target: str) -> tuple[float, float, bytes]:
    headers = {"accept-encoding": "identity"}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, headers=headers) as http:
        body = (await http.get(target)).raise_for_status().content
        before, began, answers = await server.spent(), time.monotonic(), 0
        while time.monotonic() - began < 3 * RATE_S:
            assert len((await http.get(target)).content) == len(body)
            answers += 1
        took_s = time.monotonic() - began
        return answers / ((await server.spent()).cpu_s - before.cpu_s), answers / took_s, body


def fill(file: Path, a_series: int, holes: int) -> None:
    """So many candles of every series; `holes` minutes are left out of each, evenly."""
    numbers = range(NEWEST - a_series - holes, NEWEST)
    gone = {numbers[(n + 1) * len(numbers) // (holes + 1)] for n in range(holes)}
    kept = [n for n in numbers if n not in gone]
    series = SqlSeries(sqlite_url(file))
    for low in range(0, a_series, WRITE_ROWS):
        series.write(Batch({KEY: [minute(n) for n in kept[low : low + WRITE_ROWS]]}))
    others = [SeriesKey(f"binance:C{n}", Of.CANDLES, 60) for n in range(1, SERIES)]
    series.write(Batch(spans={key: [] for key in others}))
    series.close()
    columns = ", ".join(COLUMNS[1:])
    with closing(sqlite3.connect(file)) as plain:
        # A copy that a power cut may take is made again.
        plain.execute("PRAGMA synchronous=OFF")
        for (id_,) in plain.execute("SELECT id FROM series WHERE id > 1 ORDER BY id").fetchall():
            plain.execute(f"INSERT INTO candles SELECT ?, {columns} FROM candles WHERE series = 1", (id_,))
            plain.execute(
                "INSERT INTO summaries SELECT ?, first_ns, last_ns, rows FROM summaries WHERE series = 1", (id_,)
            )
            plain.commit()
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _market(file: Path) -> Market:
    return Market(Outside(), SqlSeries(sqlite_url(file)), Bus(), ManualClock(END_S * NS), Telemetry(), Candles())


def _summaries(stored: Stored, a_series: int) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        told = await stored.summaries()
        assert [each.rows for each in told.values()] == [a_series] * SERIES

    return ask


def _plain(connection: sqlite3.Connection, statement: str, rows: int, *values: int) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        found = connection.execute(statement, values).fetchall()
        assert len(found) == rows

    return ask


async def _asked(name: str, ours: Callable[[], Awaitable[None]], floor: Callable[[], Awaitable[None]]) -> list[Row]:
    mine, theirs = await _rate(ours), await _rate(floor)
    units = ("answers per CPU minute", "answers per minute")
    return [Row(name, mine[at] * MINUTE_S, theirs[at] * MINUTE_S, unit) for at, unit in enumerate(units)]


async def _rate(act: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Times a CPU second, and times a second."""
    await act()
    start_s, began, times = time.process_time(), time.monotonic(), 0
    while time.monotonic() - began < RATE_S:
        await act()
        times += 1
    return times / (time.process_time() - start_s), times / (time.monotonic() - began)


if __name__ == "__main__":
    print_table(TITLE, table())
