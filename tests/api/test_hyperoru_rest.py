"""HyperORU over HTTP: transcripts of conversations with a real server, whose venue is a function."""

import asyncio
import gzip
import json
import random
import re
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
from msgspec.structs import replace as changed

from openoutcry.accounts.keys import AI, MARKET
from openoutcry.api import hyperoru
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Doors
from openoutcry.api.hyperoru.rest import ROWS_MAX, Hyperoru
from openoutcry.clock import NS, ManualClock
from openoutcry.errors import Unavailable
from openoutcry.events import open_of
from openoutcry.feed.tasks import TaskNumbers, Tasks
from openoutcry.instrument import Kind
from openoutcry.market.series import Of, SeriesKey
from openoutcry.stores.sql import SqlSeries, sqlite_url
from openoutcry.telemetry import Telemetry
from tests.api.conftest import ORIGIN
from tests.api.points import NOW_NS, World, listed, running

BTC = "binance_futures:BTCUSDT"
HOURS = SeriesKey(BTC, Of.CANDLES, 3_600)
HOUR_NS = 3_600 * NS
DAY_NS = 24 * HOUR_NS
# 2025-01-15T10:00:00Z, when the running hour began.
HOUR = open_of(NOW_NS, 3_600)


def text(ns: int) -> str:
    return datetime.fromtimestamp(ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Caller:
    """A client, which holds each refusal to its form."""

    def __init__(self, world: World, address: str = "") -> None:
        self.world = world
        self.http = httpx2.AsyncClient(trust_env=False, base_url=f"http://{address or world.http_at}/api/klines")

    async def ask(self, method: str, path: str, status: int, **more: Any) -> httpx2.Response:
        answer: httpx2.Response = await self.http.request(method, path, **more)
        assert answer.status_code == status, (method, path, more, answer.text)
        assert answer.headers["content-type"] == "application/json"
        return answer

    async def get(self, path: str, **query: Any) -> Any:
        return (await self.ask("GET", path, 200, params=query)).json()

    async def refused(self, status: int, code: str, method: str, path: str, **more: Any) -> str:
        """The text of a refusal."""
        answer = await self.ask(method, path, status, **more)
        said = answer.json()
        assert said == {"error": said["error"], "code": code, "request_id": answer.headers["x-request-id"]}, said
        assert said["error"]
        assert said["request_id"]
        return str(said["error"])

    async def backfill(self, **body: Any) -> Any:
        answer = await self.ask("POST", "/backfill", 202, json={"symbol": "BTC", "interval": "1h", **body})
        return answer.json()

    async def ended(self, id_: str) -> Any:
        """A task once it is over, however much of the clock's time that takes."""
        for turn in range(400):
            told = await self.get(f"/backfill/status/{id_}")
            if told["status"] not in ("pending", "running"):
                return told
            await self.world.clock.advance(1.0 if turn > 20 else 0.0)
        raise AssertionError(told)

    async def analysed(self, id_: str) -> Any:
        for _ in range(1_000):
            told = await self.get(f"/ai-analysis/{id_}")
            if told["status"] != "running":
                return told
        raise AssertionError(told)


@pytest.fixture
async def caller(world: World) -> AsyncIterator[Caller]:
    made = Caller(world)
    yield made
    await made.http.aclose()


async def keep(world: World, opens: Sequence[int], key: SeriesKey = HOURS) -> None:
    """Store these candles, and nothing else of the stretch between them."""
    rows = [world.outside.candle(key.instrument, key.interval_s, at_ns) for at_ns in opens]
    await world.market.stored.keep(key, rows, None)


async def keep_numbers(world: World, *numbers: str) -> None:
    """Store one candle of these: open, high, low, close, volume."""
    o, h, low, c, v = map(Decimal, numbers)
    row = changed(
        world.outside.candle(BTC, 3_600, HOUR - HOUR_NS), open=o, high=h, low=low, close=c, volume=v, quote_volume=v
    )
    await world.market.stored.keep(HOURS, [row], None)


def hours(*back: int) -> list[int]:
    """Open times so many hours before the running one, oldest first."""
    return [HOUR - n * HOUR_NS for n in sorted(back, reverse=True)]


# The published page

# Each curl line of it with its example, in the order in which one may be answered after the other.
PAGE: Sequence[tuple[str, Any]] = [
    (
        """curl -X POST https://api.hyperoru.com/api/klines/backfill -H "Content-Type: application/json" -d '{"symbol": "BTC", "interval": "1h", "start_date": "2025-06-01"}'""",
        {"id": "bf-002", "status": "running"},
    ),
    (
        "curl https://api.hyperoru.com/api/klines/backfill/status/bf-002",
        {"id": "bf-002", "status": "running", "progress_pct": 62.5, "candles_fetched": 5000},
    ),
    (
        "curl https://api.hyperoru.com/api/klines/backfill-tasks",
        [{"id": "bf-001", "symbol": "BTC", "interval": "1h", "status": "completed", "progress_pct": 100.0}],
    ),
    (
        "curl https://api.hyperoru.com/api/klines/backfill/tasks",
        [{"id": "bf-001", "symbol": "BTC", "status": "completed"}],
    ),
    (
        'curl "https://api.hyperoru.com/api/klines/data?symbol=BTC&interval=1h&start=2026-04-01&end=2026-04-09"',
        [
            {
                "timestamp": "2026-04-01T00:00:00Z",
                "open": 67000.0,
                "high": 67500.0,
                "low": 66800.0,
                "close": 67200.0,
                "volume": 500.0,
            }
        ],
    ),
    (
        "curl https://api.hyperoru.com/api/klines/coverage",
        [
            {
                "symbol": "BTC",
                "interval": "1h",
                "earliest": "2025-01-01T00:00:00Z",
                "latest": "2026-04-09T12:00:00Z",
                "total_candles": 12000,
            }
        ],
    ),
    (
        "curl https://api.hyperoru.com/api/klines/supported-symbols",
        {"symbols": ["BTC", "ETH", "SOL", "ARB"]},
    ),
    (
        'curl "https://api.hyperoru.com/api/klines/gaps/BTC?interval=1h"',
        {
            "symbol": "BTC",
            "gaps": [{"start": "2026-03-15T00:00:00Z", "end": "2026-03-15T06:00:00Z", "missing_candles": 6}],
        },
    ),
    (
        """curl -X POST https://api.hyperoru.com/api/klines/ai-analysis -H "Content-Type: application/json" -d '{"symbol": "BTC", "interval": "4h"}'""",
        {"analysis_id": "analysis-001", "status": "running"},
    ),
    (
        "curl https://api.hyperoru.com/api/klines/ai-analysis/history",
        [{"id": "analysis-001", "symbol": "BTC", "status": "completed", "created_at": "2026-04-09T10:00:00Z"}],
    ),
    (
        "curl https://api.hyperoru.com/api/klines/ai-analysis/analysis-001",
        {
            "id": "analysis-001",
            "symbol": "BTC",
            "status": "completed",
            "analysis": "BTC is showing a bullish divergence on the 4h chart...",
            "created_at": "2026-04-09T10:00:00Z",
        },
    ),
    ("curl -X DELETE https://api.hyperoru.com/api/klines/backfill-tasks/bf-001", {"status": "ok"}),
]


def request_of(curl: str) -> tuple[str, str, dict[str, str], str | None]:
    """Method, path with its query, headers and body of a curl line."""
    words = shlex.split(curl)[1:]
    method, url, headers, body = "GET", "", {}, None
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = words.pop(0)
        else:
            url = word
    return method, url.removeprefix("https://api.hyperoru.com/api/klines"), headers, body


def like(shown: Any, told: Any) -> bool:
    """Whether every key of an example is in an answer, with its type."""
    if isinstance(shown, dict):
        return isinstance(told, dict) and all(key in told and like(each, told[key]) for key, each in shown.items())
    if isinstance(shown, list):
        return isinstance(told, list) and bool(told) and all(like(shown[0], each) for each in told)
    if isinstance(shown, float):
        return isinstance(told, float | int) and not isinstance(told, bool)
    if isinstance(shown, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown):
        return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told) is not None
    return type(shown) is type(told)


@pytest.mark.parametrize("kept", ["memory", "sqlite"])
async def test_every_curl_line_of_the_published_page(kept: str, tmp_path: Path) -> None:
    clock = ManualClock(1_775_738_400 * NS)  # 2026-04-09T12:40:00Z
    series = SqlSeries(sqlite_url(tmp_path / "market.sqlite3")) if kept == "sqlite" else None
    async with running(World(series, clock)) as world:
        world.work()
        made = Caller(world)
        # The six hours that the page shows as missing; they are not asked for again before this test is over.
        missing = [1_773_532_800 * NS + n * HOUR_NS for n in range(6)]
        world.outside.lacks = lambda at_ns: at_ns in missing
        assert (await made.backfill(start_date="2026-03-01"))["id"] == "bf-001"
        assert (await made.ended("bf-001"))["status"] == "completed"
        for curl, shown in PAGE:
            method, path, headers, body = request_of(curl)
            answer = await made.http.request(method, path, headers=headers, content=body)
            told = answer.json()
            assert answer.status_code == (202 if method == "POST" else 200), told
            assert like(shown, told), (curl, told)
            if "id" in told and path.endswith("/backfill"):
                assert (told["id"], told["status"]) == ("bf-002", "running")
                assert (await made.ended("bf-002"))["progress_pct"] == 100.0
            elif path.startswith("/data"):
                assert [told[0]["timestamp"], told[-1]["timestamp"]] == ["2026-04-01T00:00:00Z", "2026-04-08T23:00:00Z"]
            elif path.startswith("/gaps"):
                [gap] = told["gaps"]
                assert [gap["start"], gap["end"], gap["missing_candles"]] == list(shown["gaps"][0].values())
            elif "analysis_id" in told:
                assert told["analysis_id"] == "analysis-001"
                assert (await made.analysed("analysis-001"))["status"] == "completed"
        await made.refused(404, "TASK_NOT_FOUND", "GET", "/backfill/status/bf-001")
        await made.http.aclose()


async def test_routes_that_the_page_prints_without_their_end_take_it_from_the_query(caller: Caller) -> None:
    await caller.backfill()
    assert (await caller.get("/gaps/", symbol="BTC"))["symbol"] == "BTC"
    assert (await caller.get("/gaps/BTC", symbol="ETH"))["symbol"] == "BTC"
    assert (await caller.get("/backfill/status/", task_id="bf-001"))["id"] == "bf-001"
    await caller.ask("DELETE", "/backfill-tasks/?task_id=bf-001", 200)
    await caller.ask("POST", "/ai-analysis", 202, json={"symbol": "BTC"})
    assert (await caller.get("/ai-analysis/", analysis_id="analysis-001"))["id"] == "analysis-001"


# What others of its kind are asked


@pytest.mark.parametrize(
    "body",
    [
        {"symbol": "BTC", "interval": "1h", "start_date": "2025-01-14", "end_date": "2025-01-15"},
        {"symbols": ["BTC"], "period": "1h", "start_time": "2025-01-14T00:00:00", "end_time": "2025-01-15T00:00:00"},
        {"symbol": "BTC", "exchange": "binance_futures", "period": "1h", "start": "2025-01-14", "end": "2025-01-15"},
        {"symbol": "btcusdt", "interval": "1h", "startDate": 1736812800, "endDate": 1736899200000},
        {
            "symbol": "BTC",
            "interval": "1h",
            "start_date": "2025-01-14",
            "start": "2020-01-01",
            "end_date": "2025-01-15",
        },
        {"symbol": "BTC", "interval": "1h", "period": "1d", "start_date": "2025-01-14", "end_date": "2025-01-15"},
        {"symbol": "BTC", "interval": "1h", "start_date": "2025-01-14", "end_date": "2025-01-15", "exchange": None},
    ],
)
async def test_a_backfill_is_asked_for_in_the_words_of_each_source(caller: Caller, body: dict[str, Any]) -> None:
    told = (await caller.ask("POST", "/backfill", 202, json=body)).json()
    assert told == {
        "id": "bf-001",
        "symbol": "BTC",
        "interval": "1h",
        "status": "running",
        "progress_pct": 0.0,
        "candles_fetched": 0,
        "start": "2025-01-14T00:00:00Z",
        "end": "2025-01-15T00:00:00Z",
        "error": None,
        "exchange": "binance_futures",
        "force": False,
        "created_at": "2025-01-15T10:20:30Z",
        "updated_at": "2025-01-15T10:20:30Z",
    }


@pytest.mark.parametrize(
    "query",
    [
        "symbol=BTC&interval=1h&start=2025-01-15T07:00:00Z&end=2025-01-15T09:00:00Z",
        "symbol=BTC&period=1h&start_time=1736924400&end_time=1736931600",
        "symbol=BTC/USDT&interval=1h&start_date=1736924400000&end_date=2025-01-15T09:00",
        "symbol=BTC-USD&start=2025-01-15T08:00:00%2B01:00&end=2025-01-15T10:00:00+01:00",
        "symbol=btcusdt&interval=1h&start=2025-01-15T07:00&start_time=2020-01-01&end=2025-01-15T09:00&period=1m",
        "symbol=BTC&interval=1h&startTime=1736924400&endTime=1736931600&exchange=Binance_Futures",
    ],
)
async def test_data_is_asked_for_in_the_words_of_each_source(world: World, caller: Caller, query: str) -> None:
    await keep(world, hours(4, 3, 2, 1))
    told = (await caller.ask("GET", f"/data?{query}", 200)).json()
    assert [each["timestamp"] for each in told] == ["2025-01-15T07:00:00Z", "2025-01-15T08:00:00Z"]


async def test_gaps_and_analyses_take_period_too(world: World, caller: Caller) -> None:
    await keep(world, hours(3, 1))
    assert len((await caller.get("/gaps/BTC", period="1h"))["gaps"]) == 1
    # What others bring along is gathered here: theirs is not looked at.
    body = {
        "symbol": "BTC",
        "period": "1d",
        "prompt": None,
        "account_id": 1,
        "klines": [{"close": 1}],
        "indicators": [],
    }
    assert (await caller.ask("POST", "/ai-analysis", 202, json=body)).json()["interval"] == "1d"


# Data


async def test_numbers_are_the_decimals_that_are_stored_digit_by_digit(world: World, caller: Caller) -> None:
    await keep_numbers(world, "67000.10", "67000.100000000000000001", "1E-8", "0", "123456789012345678901234567890.5")
    answer = await caller.ask("GET", "/data?symbol=BTC", 200)
    assert answer.text == (
        '[{"timestamp":"2025-01-15T09:00:00Z","open":67000.10,"high":67000.100000000000000001,"low":1E-8,"close":0,'
        '"volume":123456789012345678901234567890.5}]'
    )


async def test_what_is_no_number_is_null(world: World, caller: Caller) -> None:
    await keep_numbers(world, "NaN", "Infinity", "-0.5", "1", "sNaN")
    [told] = await caller.get("/data", symbol="BTC")
    assert list(told.values())[1:] == [None, None, -0.5, 1, None]


async def test_data_tells_what_is_stored_and_asks_nobody(world: World, caller: Caller) -> None:
    assert await caller.get("/data", symbol="BTC") == []
    assert await caller.get("/data", symbol="BTC", start="2025-01-01", end="2025-01-02") == []
    await keep(world, hours(9, 8, 2, 1))

    async def opens(**query: Any) -> list[str]:
        return [each["timestamp"][11:13] for each in await caller.get("/data", symbol="BTC", **query)]

    assert await opens() == ["01", "02", "08", "09"]
    assert await opens(limit=3) == ["02", "08", "09"]
    assert await opens(end=text(HOUR - HOUR_NS), limit=2) == ["02", "08"]
    assert await opens(start=text(HOUR - 8 * HOUR_NS)) == ["02", "08", "09"]
    assert await opens(start=text(HOUR - 8 * HOUR_NS), end=text(HOUR - HOUR_NS)) == ["02", "08"]
    assert await opens(start="2030-01-01") == []
    assert await opens(interval="5m") == []
    assert world.outside.asks == []


async def test_more_than_fits_is_said_and_read_on_from_there(world: World, caller: Caller) -> None:
    await keep(world, hours(5, 4, 3, 2, 1))
    found: list[str] = []
    start: str | None = "2025-01-01"
    turns = 0
    while start is not None:
        answer = await caller.ask("GET", f"/data?symbol=BTC&start={start}&limit=2", 200)
        found += [each["timestamp"] for each in answer.json()]
        start = answer.headers.get("x-next-start")
        assert answer.headers.get("x-truncated") == (None if start is None else "true")
        turns += 1
    assert found == [text(at_ns) for at_ns in hours(5, 4, 3, 2, 1)]
    assert turns == 3
    # The newest few are what was asked for, not a part of it.
    assert "x-truncated" not in (await caller.ask("GET", "/data?symbol=BTC&limit=2", 200)).headers


async def test_an_answer_has_50_000_rows_at_most(world: World, caller: Caller) -> None:
    key = SeriesKey(BTC, Of.CANDLES, 60)
    start_ns = open_of(NOW_NS, 60) - (ROWS_MAX + 10) * 60 * NS
    await keep(world, range(start_ns, start_ns + (ROWS_MAX + 5) * 60 * NS, 60 * NS), key)
    answer = await caller.ask("GET", "/data?symbol=BTC&interval=1m&start=2024-01-01", 200)
    rows = answer.json()
    assert (len(rows), rows[0]["timestamp"]) == (ROWS_MAX, text(start_ns))
    assert answer.headers["x-next-start"] == text(start_ns + ROWS_MAX * 60 * NS)
    assert len({row["timestamp"] for row in rows}) == ROWS_MAX
    assert len(await caller.get("/data", symbol="BTC", interval="1m")) == 1_000
    assert len(await caller.get("/data", symbol="BTC", interval="1m", limit=10_000)) == 10_000
    for query in ("limit=10001", "limit=0", "limit=-1", "limit=x", "limit=1e3", "start=2024-01-01&limit=50001"):
        said = await caller.refused(400, "INVALID_LIMIT", "GET", f"/data?symbol=BTC&interval=1m&{query}")
        assert "whole number from 1 to" in said


async def test_a_long_answer_is_packed_for_those_who_can_unpack_it(world: World, caller: Caller) -> None:
    await keep(world, hours(*range(1, 100)))
    async with caller.http.stream("GET", "/data?symbol=BTC", headers={"accept-encoding": "gzip"}) as answer:
        packed = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    plain = await caller.ask("GET", "/data?symbol=BTC", 200, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(packed) == plain.content
    assert len(plain.json()) == 99


async def test_a_window_that_is_not_whole_says_what_is_missing(world: World, caller: Caller) -> None:
    covered = (HOUR - 6 * HOUR_NS, HOUR - 3 * HOUR_NS)
    rows = [world.outside.candle(BTC, 3_600, at_ns) for at_ns in hours(6, 5, 4)]
    await world.market.stored.keep(HOURS, rows, covered)
    await keep(world, hours(1))

    async def missing(query: str) -> str | None:
        answer = await caller.ask("GET", f"/data?symbol=BTC&{query}", 200)
        said: str | None = answer.headers.get("openoutcry-coverage")
        return said

    hole = f"missing {BTC} 1h {(HOUR - 3 * HOUR_NS) // NS}-{(HOUR - HOUR_NS) // NS}"
    assert await missing(f"start={text(covered[0])}&end={text(covered[1])}") is None
    assert await missing(f"start={text(covered[0])}") == hole
    assert await missing("limit=4") == hole
    assert await missing("limit=1") is None
    # What lies beyond the last row that was told was not served.
    assert await missing(f"start={text(covered[0])}&limit=3") == hole
    assert await missing(f"start={text(covered[0])}&limit=2") is None
    # Before it was listed nothing is missing.
    listed_s = open_of(NOW_NS - 30 * DAY_NS, 3_600) // NS
    assert await missing(f"start=2020-01-01&end={text(covered[1])}") == (
        f"missing {BTC} 1h {listed_s}-{covered[0] // NS}"
    )


# Coverage, symbols


async def test_coverage_has_a_row_for_every_symbol_and_interval(world: World, caller: Caller) -> None:
    futures = world.outside.listings["binance_futures"]
    futures["ETHUSDT"] = listed("binance_futures", "ETHUSDT", Kind.PERPETUAL, "ETH")
    futures["BTCUSDC"] = listed("binance_futures", "BTCUSDC", Kind.PERPETUAL, quote="USDC")
    assert await caller.get("/coverage") == []
    await keep(world, hours(1), SeriesKey("binance_futures:ETHUSDT", Of.CANDLES, 3_600))
    await keep(world, [HOUR - 60 * NS], SeriesKey(BTC, Of.CANDLES, 60))
    await keep(world, hours(9, 8, 6))
    # Not what coins are told from: another side, another quote, an interval that has no name, another venue.
    await keep(world, hours(2), SeriesKey("binance_futures:BTCUSDC", Of.CANDLES, 3_600))
    await keep(world, hours(2), SeriesKey(BTC, Of.CANDLES, 7_777))
    await keep(world, [HOUR - 7 * DAY_NS], SeriesKey(BTC, Of.CANDLES, 604_800))
    await keep(world, hours(2), SeriesKey("coinbase:BTC-USD", Of.CANDLES, 3_600))
    rows = await caller.get("/coverage")
    assert [(row["symbol"], row["interval"]) for row in rows] == [
        ("BTC", "1m"),
        ("BTC", "1h"),
        ("BTC", "1w"),
        ("ETH", "1h"),
    ]
    assert rows[1] == {
        "symbol": "BTC",
        "interval": "1h",
        "earliest": text(HOUR - 9 * HOUR_NS),
        "latest": text(HOUR - 6 * HOUR_NS),
        "total_candles": 3,
        "exchange": "binance_futures",
        "expected_candles": 4,
        "coverage_pct": 75.0,
    }
    assert rows[3]["coverage_pct"] == 100.0
    assert [row["symbol"] for row in await caller.get("/coverage", symbols="ETH,nope")] == ["ETH"]
    assert [row["interval"] for row in await caller.get("/coverage", symbols="btc-usd", interval="1h")] == ["1h"]
    assert [row["exchange"] for row in await caller.get("/coverage", exchange="COINBASE")] == ["coinbase"]
    everywhere = await caller.get("/coverage", exchange="all", symbols="BTC", interval="1h")
    assert [row["exchange"] for row in everywhere] == ["binance_futures", "coinbase"]


async def test_coverage_is_whole_only_where_nothing_is_missing(world: World, caller: Caller) -> None:
    await keep(world, [at for at in hours(*range(1, 20_002)) if at != HOUR - 7 * HOUR_NS])
    [row] = await caller.get("/coverage")
    assert (row["total_candles"], row["expected_candles"], row["coverage_pct"]) == (20_000, 20_001, 99.99)


async def test_supported_symbols_are_the_coins_that_trade(world: World, caller: Caller) -> None:
    futures = world.outside.listings["binance_futures"]
    futures["ARBUSDT"] = listed("binance_futures", "ARBUSDT", Kind.PERPETUAL, "ARB")
    futures["OLDUSDT"] = changed(listed("binance_futures", "OLDUSDT", Kind.PERPETUAL, "OLD"), trading=False)
    assert await caller.get("/supported-symbols") == {"symbols": ["ARB", "BTC"]}
    assert await caller.get("/supported-symbols", exchange="binance") == {"symbols": ["BTC", "ETH"]}
    assert await caller.get("/supported-symbols", exchange="ALL") == {"symbols": ["ARB", "BTC", "ETH"]}
    # Options are of no coin's candles.
    assert await caller.get("/supported-symbols", exchange="deribit") == {"symbols": []}


# Backfill


async def test_a_task_from_its_making_to_its_end(world: World, caller: Caller) -> None:
    world.work()
    world.outside.held.clear()
    made = await caller.backfill(start_date="2025-01-10", end_date="2025-01-12")
    assert (made["id"], made["status"], made["progress_pct"]) == ("bf-001", "running", 0.0)
    for path in ("/backfill-tasks", "/backfill/tasks"):
        [told] = await caller.get(path)
        assert told["id"] == "bf-001"
        assert told["status"] in ("pending", "running")
        assert set(told) == set(made)
    world.outside.held.set()
    told = await caller.ended("bf-001")
    assert (told["status"], told["progress_pct"], told["candles_fetched"]) == ("completed", 100.0, 48)
    assert (told["start"], told["end"], told["error"]) == ("2025-01-10T00:00:00Z", "2025-01-12T00:00:00Z", None)
    assert len(await caller.get("/data", symbol="BTC", start="2025-01-01")) == 48


async def test_a_task_that_waits_is_running_for_its_maker_and_pending_in_lists(caller: Caller) -> None:
    assert (await caller.backfill())["status"] == "running"  # nobody works on it
    assert [told["status"] for told in await caller.get("/backfill-tasks")] == ["pending"]
    assert (await caller.get("/backfill/status/bf-001"))["status"] == "pending"


async def test_a_range_that_is_not_given_is_the_last_30_days(caller: Caller) -> None:
    told = await caller.backfill()
    assert (told["start"], told["end"]) == ("2024-12-16T11:00:00Z", "2025-01-15T10:00:00Z")
    told = await caller.backfill(end_date="2025-01-02")
    assert (told["start"], told["end"]) == ("2024-12-03T00:00:00Z", "2025-01-02T00:00:00Z")


async def test_a_hundred_equal_posts_at_once_make_one_task(world: World, caller: Caller) -> None:
    body = {"symbol": "BTC", "interval": "1h", "start_date": "2025-01-10"}
    limits = httpx2.Limits(max_connections=100, max_keepalive_connections=100)
    async with httpx2.AsyncClient(trust_env=False, base_url=caller.http.base_url, limits=limits, timeout=60) as http:
        told = await asyncio.gather(*(http.post("/backfill", json=body) for _ in range(100)))
    assert {answer.status_code for answer in told} == {202}
    assert {answer.json()["id"] for answer in told} == {"bf-001"}
    assert len(await caller.get("/backfill-tasks")) == 1
    assert (await caller.backfill(start_date="2025-01-11"))["id"] == "bf-002"


async def test_an_equal_task_after_the_first_is_over_is_another_and_fetches_nothing(
    world: World, caller: Caller
) -> None:
    world.work()
    for number, force, candles in ((1, False, 24), (2, False, 0), (3, True, 24), (4, "1", 24)):
        path = "/backfill?force=1" if force == "1" else "/backfill"
        body: dict[str, Any] = {"symbol": "BTC", "interval": "1h", "start_date": "2025-01-10", "end_date": "2025-01-11"}
        if force is True:
            body["force"] = True
        told = (await caller.ask("POST", path, 202, json=body)).json()
        assert (told["id"], told["force"]) == (f"bf-00{number}", bool(force))
        assert (await caller.ended(told["id"]))["candles_fetched"] == candles


async def test_the_exchange_may_stand_in_the_query_or_in_the_body(caller: Caller) -> None:
    body = {"symbol": "BTC", "interval": "1h"}
    for path, more in (("/backfill?exchange=coinbase", {}), ("/backfill", {"exchange": "CoinBase"})):
        told = (await caller.ask("POST", path, 202, json={**body, **more})).json()
        assert (told["id"], told["symbol"], told["exchange"]) == ("bf-001", "BTC", "coinbase")


async def test_lists_of_tasks_are_bounded_and_chosen_by_status(world: World, caller: Caller) -> None:
    for day in range(1, 61):
        await caller.backfill(
            start_date=f"2024-12-{day % 28 + 1:02d}", end_date=f"2025-01-{day % 9 + 1:02d}T{day % 24:02d}"
        )
    told = await caller.get("/backfill-tasks")
    assert [row["id"] for row in told] == [f"bf-{n:03d}" for n in range(60, 10, -1)]
    assert len(await caller.get("/backfill/tasks", limit=1_000)) == 60
    assert len(await caller.get("/backfill/tasks", limit=1)) == 1
    assert len(await caller.get("/backfill-tasks", status="Pending,running", limit=100)) == 60
    assert await caller.get("/backfill-tasks", status="completed") == []
    assert await caller.get("/backfill-tasks", status="cancelled") == []
    said = await caller.refused(400, "INVALID_STATUS", "GET", "/backfill-tasks?status=done")
    assert said == "status 'done' is none of pending, running, completed, failed, cancelled"
    for limit in ("0", "1001", "all"):
        await caller.refused(400, "INVALID_LIMIT", "GET", f"/backfill-tasks?limit={limit}")


async def test_deleting_twice(world: World, caller: Caller) -> None:
    world.work()
    await caller.backfill(start_date="2025-01-10", end_date="2025-01-11")
    await caller.ended("bf-001")
    assert (await caller.ask("DELETE", "/backfill-tasks/bf-001", 200)).text == '{"status":"ok"}'
    await caller.refused(404, "TASK_NOT_FOUND", "DELETE", "/backfill-tasks/bf-001")
    await caller.refused(404, "TASK_NOT_FOUND", "GET", "/backfill/status/bf-001")
    assert await caller.get("/backfill-tasks") == []
    assert len(await caller.get("/data", symbol="BTC", start="2025-01-01")) == 24
    # Its number is not used again.
    assert (await caller.backfill())["id"] == "bf-002"


async def test_deleting_one_that_runs_ends_it(world: World, caller: Caller) -> None:
    world.work()
    world.outside.held.clear()
    await caller.backfill(start_date="2025-01-10", end_date="2025-01-11")
    async with asyncio.timeout(10):
        while not world.outside.asks:  # noqa: ASYNC110  what happens in the server has no event for us
            await asyncio.sleep(0)
    await caller.ask("DELETE", "/backfill-tasks/bf-001", 200)
    world.outside.held.set()
    assert (await caller.backfill(start_date="2025-01-12", end_date="2025-01-13"))["id"] == "bf-002"
    await caller.ended("bf-002")
    assert len(await caller.get("/data", symbol="BTC", start="2025-01-01")) == 24
    await caller.refused(404, "TASK_NOT_FOUND", "GET", "/backfill/status/bf-001")


NO_IDS = (
    "",
    "1",
    "bf-1",
    "bf-01",
    "bf-0001",
    "bf-001 ",
    "bf-001/",
    "bf-00x",
    "BF-001",
    "bf_001",
    "bf--01",
    "bf-+01",
    "bf-000",
    "bf-\N{ARABIC-INDIC DIGIT ZERO}01",
    "bf-999999999999999999",
    "bf-9223372036854775808",
    "bf-" + "9" * 5_000,
    "analysis-0001",
    "analysis-999999999999999999",
    "analysis-" + "9" * 40,
    "a/b/../c",
    "%00",
    "%ff%fe",
    "..%2f..%2fetc",
    "x" * 4_000,
    "\N{PILE OF POO}",
    "bf-001?include=prompt",
)


async def test_what_is_no_id_is_not_found_whatever_it_is(caller: Caller) -> None:
    for id_ in NO_IDS:
        await caller.refused(404, "TASK_NOT_FOUND", "GET", f"/backfill/status/{id_}")
        await caller.refused(404, "TASK_NOT_FOUND", "DELETE", f"/backfill-tasks/{id_}")
        await caller.refused(404, "ANALYSIS_NOT_FOUND", "GET", f"/ai-analysis/{id_}")


async def test_a_venue_that_is_down_fails_the_task_with_its_reason(world: World, caller: Caller) -> None:
    world.work()
    world.outside.down = Unavailable("binance_futures", "binance_futures: HTTP 502")
    await caller.backfill(start_date="2025-01-10", end_date="2025-01-11")
    told = await caller.ended("bf-001")
    assert (told["status"], told["error"]) == ("failed", "binance_futures: HTTP 502 after 6 tries")
    assert told["progress_pct"] < 100
    world.outside.down = None
    await caller.backfill(start_date="2025-01-10", end_date="2025-01-11")
    assert (await caller.ended("bf-002"))["status"] == "completed"


async def test_a_task_of_what_is_listed_no_more_still_has_its_name(world: World, caller: Caller) -> None:
    await caller.backfill(start_date="2025-01-10", end_date="2025-01-11")
    world.outside.listings["binance_futures"] = {"ETHUSDT": listed("binance_futures", "ETHUSDT", Kind.PERPETUAL, "ETH")}
    body = {"symbol": "BTC", "interval": "1h"}
    said = await caller.refused(404, "SYMBOL_NOT_FOUND", "POST", "/backfill", json=body)
    assert said == "binance_futures does not list 'BTC'"
    assert [row["symbol"] for row in await caller.get("/backfill-tasks")] == ["BTC"]
    world.work()
    told = await caller.ended("bf-001")
    assert (told["status"], told["error"]) == ("failed", "binance_futures does not list BTCUSDT any more")


async def test_a_range_before_the_listing_is_looked_through(world: World, caller: Caller) -> None:
    world.work()
    world.outside.lacks = lambda at_ns: at_ns < NOW_NS - 30 * DAY_NS
    await caller.backfill(start_date="2024-11-01", end_date="2024-11-02")
    told = await caller.ended("bf-001")
    assert (told["status"], told["progress_pct"], told["candles_fetched"]) == ("completed", 100.0, 0)
    assert (await caller.get("/gaps/BTC", start="2024-11-01", end="2024-11-02"))["gaps"] == []


# Gaps


async def test_gaps_are_from_the_first_missing_open_to_the_next_one_there(world: World, caller: Caller) -> None:
    assert await caller.get("/gaps/BTC") == {
        "symbol": "BTC",
        "gaps": [],
        "interval": "1h",
        "exchange": "binance_futures",
    }
    await keep(world, hours(9, 8, 5, 2))
    told = await caller.get("/gaps/BTC", interval="1h")
    assert told["gaps"] == [
        {
            "start": text(HOUR - a * HOUR_NS),
            "end": text(HOUR - b * HOUR_NS),
            "missing_candles": a - b,
            "at_source": "unknown",
            "checked_at": None,
        }
        for a, b in ((7, 5), (4, 2))
    ]

    async def spans(**query: Any) -> list[tuple[str, str, int]]:
        found = (await caller.get("/gaps/BTC", **query))["gaps"]
        return [(gap["start"][8:13], gap["end"][8:13], gap["missing_candles"]) for gap in found]

    # With a range its edges count too, but neither the running hour nor what was not listed.
    assert await spans(start=text(HOUR - 11 * HOUR_NS)) == [
        ("14T23", "15T01", 2), ("15T03", "15T05", 2), ("15T06", "15T08", 2)
    ]  # fmt: skip
    assert await spans(end="2025-01-16") == [("15T03", "15T05", 2), ("15T06", "15T08", 2), ("15T09", "15T10", 1)]
    assert await spans(interval="5m") == []
    answer = await caller.ask("GET", "/gaps/BTC?limit=1", 200)
    assert len(answer.json()["gaps"]) == 1
    assert (answer.headers["x-truncated"], answer.headers["x-next-start"]) == ("true", text(HOUR - 4 * HOUR_NS))
    assert "x-truncated" not in (await caller.ask("GET", "/gaps/BTC?limit=2", 200)).headers


@pytest.mark.parametrize("symbol", ["BTC", "btcusdt", "BTC-USD", "BTC/USDT", "BTC%2FUSDT"])
async def test_the_symbol_of_a_path_may_have_a_slash(caller: Caller, symbol: str) -> None:
    assert (await caller.ask("GET", f"/gaps/{symbol}", 200)).json()["symbol"] == "BTC"


async def test_what_a_backfill_did_not_find_is_absent_at_the_source(world: World, caller: Caller) -> None:
    world.work()
    missing = hours(30, 29, 28)
    world.outside.lacks = lambda at_ns: at_ns in missing
    await caller.backfill(start_date="2025-01-10", end_date="2025-01-15")
    await caller.ended("bf-001")
    assert (await caller.get("/gaps/BTC"))["gaps"] == [
        {
            "start": text(missing[0]),
            "end": text(missing[-1] + HOUR_NS),
            "missing_candles": 3,
            "at_source": "absent",
            "checked_at": "2025-01-15T10:20:30Z",
        }
    ]


async def test_nothing_is_missing_after_what_expires_has_expired(world: World, caller: Caller) -> None:
    future = changed(listed("binance_futures", "BTCUSDT", Kind.FUTURE), expires_ns=HOUR - 2 * HOUR_NS)
    world.outside.listings["binance_futures"] = {"BTCUSDT": future}
    await keep(world, hours(6, 5))
    told = await caller.get("/gaps/BTC", end="2025-01-16")
    assert [(gap["end"], gap["missing_candles"]) for gap in told["gaps"]] == [(text(HOUR - 2 * HOUR_NS), 2)]


# Analyses


async def test_an_analysis_from_its_making_to_its_end(world: World, caller: Caller) -> None:
    assert await caller.get("/ai-analysis/history") == []
    body = {"symbol": "btc-usd", "interval": "1h", "prompt": "What of the week?"}
    made = (await caller.ask("POST", "/ai-analysis", 202, json=body)).json()
    assert made == {
        "analysis_id": "analysis-001",
        "status": "running",
        "symbol": "BTC",
        "interval": "1h",
        "exchange": "binance_futures",
        "created_at": "2025-01-15T10:20:30Z",
    }
    told = await caller.get("/ai-analysis/analysis-001")
    assert (told["id"], told["status"], told["analysis"]) == ("analysis-001", "running", None)
    world.work()
    told = await caller.analysed("analysis-001")
    assert (told["status"], told["symbol"], told["interval"]) == ("completed", "BTC", "1h")
    assert told["prompt"] == "What of the week?"
    assert "not a language model" in told["analysis"].splitlines()[0]
    assert told["model"] == "builtin-narrator"
    assert told["candles_used"] > 100
    assert told["error"] is None
    assert "prompt_snapshot" not in told
    whole = await caller.get("/ai-analysis/analysis-001", include="prompt")
    assert set(whole) - set(told) == {"prompt_snapshot"}
    await caller.refused(400, "INVALID_INCLUDE", "GET", "/ai-analysis/analysis-001?include=all")


async def test_the_history_is_newest_first_of_a_symbol_or_of_all(world: World, caller: Caller) -> None:
    for exchange, symbol in (("binance_futures", "BTC"), ("binance", "ETH"), ("binance_futures", "BTC")):
        body = {"symbol": symbol, "exchange": exchange}
        await caller.ask("POST", "/ai-analysis", 202, json=body)

    async def ids(**query: Any) -> list[str]:
        return [row["id"] for row in await caller.get("/ai-analysis/history", **query)]

    assert await ids() == ["analysis-003", "analysis-002", "analysis-001"]
    assert await ids(limit=2) == ["analysis-003", "analysis-002"]
    assert await ids(symbol="BTCUSDT") == ["analysis-003", "analysis-001"]
    assert await ids(symbol="ETH", exchange="binance") == ["analysis-002"]
    await caller.refused(404, "SYMBOL_NOT_FOUND", "GET", "/ai-analysis/history?symbol=ETH")
    await caller.refused(400, "INVALID_LIMIT", "GET", "/ai-analysis/history?limit=501")


async def test_an_analysis_needs_candles_and_a_prompt_that_fits(world: World, caller: Caller) -> None:
    body: dict[str, Any] = {"symbol": "BTC", "interval": "1h"}
    await caller.refused(422, "PROMPT_TOO_LONG", "POST", "/ai-analysis", json={**body, "prompt": "x" * 4_001})
    await caller.refused(400, "INVALID_TYPE", "POST", "/ai-analysis", json={**body, "prompt": ["x"]})
    world.outside.lacks = lambda _: True
    await caller.refused(422, "NO_DATA", "POST", "/ai-analysis", json=body)
    assert await caller.get("/ai-analysis/history") == []


# Refusals

SYMBOL = {"symbol": "BTC"}
BOTH = {"symbol": "BTC", "interval": "1h"}


MALFORMED: Sequence[tuple[Any, str, str]] = [
    ({}, "MISSING_FIELD", "symbol is missing"),
    ({"interval": "1h"}, "MISSING_FIELD", "symbol is missing"),
    ({"symbol": "", "interval": "1h"}, "MISSING_FIELD", "symbol is missing"),
    (SYMBOL, "MISSING_FIELD", "interval is missing"),
    ({"symbol": None, "interval": "1h"}, "INVALID_TYPE", "symbol must be a string"),
    ({"symbol": 1, "interval": "1h"}, "INVALID_TYPE", "symbol must be a string"),
    ({"symbol": ["BTC"], "interval": "1h"}, "INVALID_TYPE", "symbol must be a string"),
    ({"symbols": ["BTC", "ETH"], "interval": "1h"}, "INVALID_TYPE", "symbols must be a list of one string"),
    ({"symbols": [], "interval": "1h"}, "INVALID_TYPE", "symbols must be a list of one string"),
    ({"symbols": {"a": 1}, "interval": "1h"}, "INVALID_TYPE", "symbols must be a string"),
    ({"symbol": "BTC", "interval": 60}, "INVALID_TYPE", "interval must be a string"),
    ({"symbol": "BTC", "interval": None}, "INVALID_TYPE", "interval must be a string"),
    ({**BOTH, "exchange": 7}, "INVALID_TYPE", "exchange must be a string"),
    ({**BOTH, "force": "maybe"}, "INVALID_TYPE", "force must be true or false"),
    ({**BOTH, "force": 1}, "INVALID_TYPE", "force must be true or false"),
    ({**BOTH, "start_date": True}, "INVALID_TYPE", "start_date must be a time"),
    ({**BOTH, "start_date": ["2025-01-01"]}, "INVALID_TYPE", "start_date must be a time"),
    ({**BOTH, "interval": "7m"}, "INVALID_INTERVAL", "interval '7m' is none of 1m, 5m, 1h, 1d"),
    ({**BOTH, "interval": "1H"}, "INVALID_INTERVAL", "is none of 1m, 5m, 1h, 1d"),
    ({**BOTH, "interval": "1M"}, "INVALID_INTERVAL", "is none of 1m, 5m, 1h, 1d"),
    # This venue has none.
    ({**BOTH, "interval": "4h"}, "INVALID_INTERVAL", "is none of 1m, 5m, 1h, 1d"),
    ({**BOTH, "start_date": "yesterday"}, "INVALID_TIME", "start_date 'yesterday' is no time"),
    ({**BOTH, "end_date": "2025-13-01"}, "INVALID_TIME", "end_date '2025-13-01' is no time"),
    ({**BOTH, "start_date": "9999-01-01"}, "INVALID_TIME", "not between the years 1678 and 2261"),
    ({**BOTH, "start_date": 1e300}, "INVALID_TIME", "is no time"),
    ({**BOTH, "start_date": 10**19}, "INVALID_TIME", "not between the years"),
    ({**BOTH, "start_date": "2025-01-02", "end_date": "2025-01-02"}, "INVALID_RANGE", "before end_date"),
    ({**BOTH, "start_date": "2025-01-03", "end_date": "2025-01-02"}, "INVALID_RANGE", "before end_date"),
]


async def test_a_backfill_that_is_malformed_is_400(caller: Caller) -> None:
    for body, code, says in MALFORMED:
        assert says in await caller.refused(400, code, "POST", "/backfill", json=body)
        assert await caller.get("/backfill-tasks") == []


AGAINST_A_RULE: Sequence[tuple[Any, str, str]] = [
    ({**BOTH, "start_date": "2025-01-16"}, "INVALID_RANGE", "start_date lies in the future"),
    ({**BOTH, "start_date": "2025-01-16", "end_date": "2025-01-17"}, "INVALID_RANGE", "in the future"),
    ({**BOTH, "interval": "1m", "start_date": "2010-01-01"}, "RANGE_TOO_LARGE", "5000000 candles"),
]


async def test_a_backfill_against_a_rule_is_422(caller: Caller) -> None:
    for body, code, says in AGAINST_A_RULE:
        assert says in await caller.refused(422, code, "POST", "/backfill", json=body)
        assert await caller.get("/backfill-tasks") == []


BODIES: Sequence[tuple[bytes, str, int, str | None]] = [
    (b"", "application/json", 400, "INVALID_JSON"),
    (b"{", "application/json", 400, "INVALID_JSON"),
    (b"[]", "application/json", 400, "INVALID_JSON"),
    (b"null", "application/json", 400, "INVALID_JSON"),
    (b'"BTC"', "application/json", 400, "INVALID_JSON"),
    (b'{"symbol":"BTC","interval":"1h"} x', "application/json", 400, "INVALID_JSON"),
    (b'{"symbol":"BTC","interval":"1h","start_date":NaN}', "application/json", 400, "INVALID_JSON"),
    (b'{"symbol":"BTC","symbol":"ETH","interval":"1h"}', "application/json", 400, "INVALID_JSON"),
    (b'{"symbol":"BTC","interval":"1h","x":{"a":1,"a":2}}', "application/json", 400, "INVALID_JSON"),
    (b'{"symbol":"BTC","interval":"1h","x":' + b"[" * 100_000, "application/json", 400, "INVALID_JSON"),
    (b'{"symbol":"BTC","interval":"1h","x":' + b'{"a":' * 50_000, "application/json", 400, "INVALID_JSON"),
    (b'{"symbol":"BTC","interval":"1h","start_date":' + b"9" * 5_000 + b"}", "application/json", 400, None),
    (b'{"symbol":"\xff","interval":"1h"}', "application/json", 400, "INVALID_JSON"),
    (b'{"symbol":"\\ud800","interval":"1h"}', "application/json", 400, "INVALID_JSON"),
    (b"symbol=BTC&interval=1h", "application/x-www-form-urlencoded", 400, "INVALID_JSON"),
    (b"x" * 1_048_577, "application/json", 413, "PAYLOAD_TOO_LARGE"),
]


async def test_a_body_that_is_no_json_object(caller: Caller) -> None:
    for content, kind, status, code in BODIES:
        for path in ("/backfill", "/ai-analysis"):
            headers = {"content-type": kind}
            if code is None:
                assert (await caller.ask("POST", path, status, content=content, headers=headers)).json()["code"]
            else:
                await caller.refused(status, code, "POST", path, content=content, headers=headers)


async def test_a_body_that_grows_too_large_is_413(caller: Caller) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 500_000

    await caller.refused(413, "PAYLOAD_TOO_LARGE", "POST", "/backfill", content=parts())


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_page_in_a_browser_must_say_that_it_sends_json(caller: Caller, kind: str) -> None:
    # Such a body any page may send without the browser asking us first whether it may.
    headers = {"content-type": kind, "origin": "https://elsewhere.example"}
    content = json.dumps(BOTH).encode()
    for path in ("/backfill", "/ai-analysis"):
        await caller.refused(415, "UNSUPPORTED_MEDIA_TYPE", "POST", path, content=content, headers=headers)
    assert await caller.get("/backfill-tasks") == []


@pytest.mark.parametrize(
    "kind",
    [None, "application/json; charset=utf-8", "application/vnd.api+json", "application/x-www-form-urlencoded"],
)
async def test_a_body_of_json_need_not_say_so(caller: Caller, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = await caller.http.post("/backfill", content=json.dumps(BOTH).encode(), headers=headers)
    assert answer.status_code == 202


QUESTIONS: Sequence[tuple[str, str, str]] = [
    ("", "MISSING_FIELD", "symbol is missing"),
    ("symbol=", "MISSING_FIELD", "symbol is missing"),
    ("symbol=BTC&interval=7m", "INVALID_INTERVAL", "none of 1m, 5m, 15m, 1h, 4h, 1d, 1w"),
    ("symbol=BTC&start=nope", "INVALID_TIME", "start 'nope' is no time"),
    ("symbol=BTC&end=2300-01-01", "INVALID_TIME", "not between the years"),
    ("symbol=BTC&start=1600-01-01", "INVALID_TIME", "not between the years"),
    ("symbol=BTC&start=99999999999999999999999", "INVALID_TIME", "start"),
    ("symbol=BTC&start=2025-01-02&end=2025-01-02", "INVALID_RANGE", "start must be before end"),
    ("symbol=BTC&start_time=2&end_time=1", "INVALID_RANGE", "start must be before end"),
]


async def test_a_question_that_is_malformed_is_400(caller: Caller) -> None:
    for query, code, says in QUESTIONS:
        assert says in await caller.refused(400, code, "GET", f"/data?{query}")
        if "BTC" in query:
            assert says in await caller.refused(400, code, "GET", f"/gaps/BTC?{query.partition('&')[2]}")


async def test_times_at_the_ends_of_the_world_are_answered(world: World, caller: Caller) -> None:
    await keep(world, hours(1))
    for path in ("/data?symbol=BTC", "/gaps/BTC?"):
        for window in ("start=1678-01-01", "end=2261-12-31", "start=1678-01-01&end=2261-12-31&interval=1w"):
            await caller.ask("GET", f"{path}&{window}", 200)


async def test_a_symbol_that_is_not_listed_is_404_on_every_route(caller: Caller) -> None:
    for symbol in ("NOPE", "ETH", "x" * 3_000, "\N{PILE OF POO}", "BTC'--"):
        body = {"symbol": symbol, "interval": "1h"}
        for method, path, more in (
            ("POST", "/backfill", {"json": body}),
            ("POST", "/ai-analysis", {"json": body}),
            ("GET", "/data", {"params": {"symbol": symbol}}),
            ("GET", f"/gaps/{symbol}", {}),
            ("GET", "/ai-analysis/history", {"params": {"symbol": symbol}}),
        ):
            await caller.refused(404, "SYMBOL_NOT_FOUND", method, path, **more)


async def test_an_exchange_that_is_not_there_is_404_and_names_those_that_are(caller: Caller) -> None:
    for method, path, more in (
        ("POST", "/backfill", {"json": {**BOTH, "exchange": "mtgox"}}),
        ("POST", "/backfill?exchange=mtgox", {"json": BOTH}),
        ("GET", "/data?symbol=BTC&exchange=mtgox", {}),
        ("GET", "/gaps/BTC?exchange=mtgox", {}),
        ("GET", "/coverage?exchange=mtgox", {}),
        ("GET", "/supported-symbols?exchange=mtgox", {}),
    ):
        said = await caller.refused(404, "SYMBOL_NOT_FOUND", method, path, **more)
        assert said == "no exchange 'mtgox'; there are binance, binance_futures, cme, coinbase, deribit"


async def test_paths_and_methods_that_nobody_serves(caller: Caller) -> None:
    for path in ("/", "/nowt", "/data/", "/backfill/x", "/coverage/BTC", "/ai-analysis-x"):
        said = await caller.refused(404, "NOT_FOUND", "GET", path)
        assert said == f"there is nothing at /api/klines{path}"
    for method, path, allowed in (
        ("POST", "/data", {"GET"}),
        ("GET", "/backfill", {"POST"}),
        ("PUT", "/backfill-tasks/bf-001", {"DELETE"}),
        ("DELETE", "/backfill/status/bf-001", {"GET"}),
        ("PATCH", "/ai-analysis", {"POST"}),
    ):
        assert await caller.refused(405, "METHOD_NOT_ALLOWED", method, path) == f"{method} is not served here"
        answer = await caller.ask(method, path, 405)
        assert set(answer.headers["allow"].split(", ")) == allowed


async def test_the_id_of_a_request_is_the_callers_if_it_is_a_fair_one(caller: Caller) -> None:
    answer = await caller.ask("GET", "/nowt", 404, headers={"X-Request-ID": "mine-1"})
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine-1"
    answer = await caller.ask("GET", "/nowt", 404)
    assert re.fullmatch(r"req_[0-9a-f]{8}-[0-9]+", answer.json()["request_id"])


@pytest.mark.parametrize("limits", [{"requests_per_s": 1.0, "burst": 2, "loopback": True}])
async def test_who_is_too_fast_is_told_when_to_come_back(caller: Caller, limits: Any) -> None:
    for _ in range(2):
        await caller.get("/coverage")
    await caller.refused(429, "RATE_LIMITED", "GET", "/coverage")
    assert (await caller.ask("GET", "/coverage", 429)).headers["retry-after"] == "1"


@asynccontextmanager
async def another(world: World, doors: Doors) -> AsyncIterator[Caller]:
    """Another server on the same market, with other doors."""
    server = HttpServer(application(doors, [Hyperoru(doors)]), "127.0.0.1", 0)
    made = Caller(world, await server.start())
    try:
        yield made
    finally:
        await made.http.aclose()
        await server.stop()


async def test_more_tasks_than_may_wait_are_429(world: World) -> None:
    few = Tasks(
        market=world.market,
        outside=world.outside,
        store=world.series.tasks,
        clock=world.clock,
        chance=random.Random(1),
        telemetry=Telemetry(),
        numbers=TaskNumbers(active_max=1),
    )
    async with another(world, replace(world.doors, tasks=few)) as other:
        await other.backfill()
        await other.refused(429, "RATE_LIMITED", "POST", "/backfill", json={**BOTH, "interval": "1d"})
        answer = await other.ask("POST", "/backfill", 429, json={**BOTH, "interval": "1d"})
        assert answer.headers["retry-after"] == "60"


async def test_a_venue_that_never_said_what_it_lists_is_503(world: World, caller: Caller) -> None:
    world.outside.listings["binance_futures"] = {}
    world.outside.down = Unavailable("binance_futures", "it does not answer", 6.5)
    asked: Sequence[tuple[str, str, dict[str, Any]]] = (
        ("GET", "/data?symbol=BTC", {}),
        ("GET", "/gaps/BTC", {}),
        ("GET", "/coverage", {}),
        ("GET", "/supported-symbols", {}),
        ("POST", "/backfill", {"json": BOTH}),
        ("POST", "/ai-analysis", {"json": BOTH}),
    )
    for method, path, more in asked:
        assert await caller.refused(503, "UNAVAILABLE", method, path, **more) == "it does not answer"
        assert (await caller.ask(method, path, 503, **more)).headers["retry-after"] == "7"
    # Of all, those that have a listing are told.
    for path in ("/supported-symbols", "/coverage"):
        answer = await caller.ask("GET", f"{path}?exchange=all", 200)
        assert answer.headers["x-failed-exchanges"] == "binance_futures"


async def test_what_is_not_there_is_503_and_named(world: World) -> None:
    async with another(world, replace(world.doors, tasks=None, analyst=None)) as other:
        said = await other.refused(503, "NOT_CONFIGURED", "POST", "/backfill", json=BOTH)
        assert said == "this server backfills nothing"
        await other.refused(503, "NOT_CONFIGURED", "GET", "/backfill-tasks")
        await other.refused(503, "NOT_CONFIGURED", "GET", "/ai-analysis/history")


async def test_a_fault_of_ours_is_500_without_a_word_about_it(world: World) -> None:
    broken: Any = object()
    async with another(world, replace(world.doors, tasks=broken)) as other:
        with structlog.testing.capture_logs():
            assert await other.refused(500, "INTERNAL_ERROR", "GET", "/backfill-tasks") == "internal error"


async def test_pages_of_takashis_origins_may_read_it(served: Any) -> None:
    for path in ("/api/klines/nowt", "/api/klines/backfill-tasks"):
        answer = await served.get(path, headers={"Origin": ORIGIN})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Next-Start" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-origin" not in (await served.get(path, headers={"Origin": "http://x"})).headers


# Keys


async def test_without_a_lock_no_key_is_needed_and_a_strange_one_does_no_harm(caller: Caller) -> None:
    await caller.ask("GET", "/coverage", 200, headers={"authorization": "Bearer nope"})


async def test_with_a_lock_every_route_wants_a_key(world: World) -> None:
    async with another(world, replace(world.doors, klines_locked=True)) as other:
        for method, path in (
            ("GET", "/data?symbol=BTC"),
            ("GET", "/coverage"),
            ("GET", "/supported-symbols"),
            ("GET", "/backfill-tasks"),
            ("GET", "/backfill/tasks"),
            ("POST", "/backfill"),
            ("GET", "/backfill/status/bf-001"),
            ("DELETE", "/backfill-tasks/bf-001"),
            ("GET", "/gaps/BTC"),
            ("POST", "/ai-analysis"),
            ("GET", "/ai-analysis/history"),
            ("GET", "/ai-analysis/analysis-001"),
        ):
            assert await other.refused(401, "UNAUTHORIZED", method, path) == "the key is missing"
            headers = {"authorization": "Bearer nope"}
            assert await other.refused(401, "UNAUTHORIZED", method, path, headers=headers) == "no such key"
        assert (await other.ask("GET", "/coverage", 401)).headers["www-authenticate"] == "Bearer"
        for headers in (
            {"authorization": f"Bearer {world.key}"},
            {"authorization": f"bearer  {world.key}"},
            {"X-API-Key": world.key},
        ):
            await other.ask("GET", "/coverage", 200, headers=headers)
        await other.ask("GET", f"/coverage?session_token={world.key}", 200)
        _, text_ = await world.keys.create("chat", frozenset({AI}))
        said = await other.refused(403, "FORBIDDEN", "GET", "/coverage", headers={"X-API-Key": text_})
        assert said == f"the key lacks the scope {MARKET}"
        # And its description says so.
        described = (
            await other.http.get(f"{str(other.http.base_url).removesuffix('/api/klines/')}/openapi.json")
        ).json()
        assert set(described["components"]["securitySchemes"]) == {"bearer", "klines_key", "session_token"}
        assert len(described["paths"]["/api/klines/data"]["get"]["security"]) == 3


async def test_an_analysis_knows_whose_key_asked_for_it(world: World, caller: Caller) -> None:
    headers = {"X-API-Key": world.key}
    await caller.ask("POST", "/ai-analysis", 202, json=BOTH, headers=headers)
    assert (await caller.get("/ai-analysis/analysis-001"))["user"] == "test"
    await caller.ask("POST", "/ai-analysis", 202, json=BOTH, headers={"X-API-Key": "oo-nobody"})
    assert (await caller.get("/ai-analysis/analysis-002"))["user"] == ""


# OpenAPI, and the page


def test_the_page_names_every_code_and_every_route() -> None:
    page = (Path(__file__).parents[2] / "docs" / "hyperoru.md").read_text("utf-8")
    source = "".join(path.read_text("utf-8") for path in Path(hyperoru.__file__).parent.glob("*.py"))
    codes = set(re.findall(r'"([A-Z]+_[A-Z_]+|FORBIDDEN|UNAUTHORIZED|UNAVAILABLE)"', source))
    codes -= {"INVALID_REQUEST"}  # for kinds of refusals that no door gives here
    assert len(codes) > 15
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []
    routes = set(re.findall(r'router\.(get|post|delete)\(\s*"([^"]+)"', source))
    assert len(routes) == 12
    for method, path in routes:
        assert f"`{method.upper()} {path.replace(':path', '')}`" in page


async def test_every_route_is_described_with_its_parameters_answers_and_refusals(world: World, caller: Caller) -> None:
    said = (await caller.http.get(f"http://{world.http_at}/openapi.json")).json()
    routes = {
        (path.removeprefix("/api/klines"), method): route
        for path, methods in said["paths"].items()
        if path.startswith("/api/klines")
        for method, route in methods.items()
    }
    assert set(routes) == {
        ("/data", "get"),
        ("/coverage", "get"),
        ("/supported-symbols", "get"),
        ("/backfill-tasks", "get"),
        ("/backfill/tasks", "get"),
        ("/backfill", "post"),
        ("/backfill/status/{task_id}", "get"),
        ("/backfill-tasks/{task_id}", "delete"),
        ("/gaps/{symbol}", "get"),
        ("/ai-analysis", "post"),
        ("/ai-analysis/history", "get"),
        ("/ai-analysis/{analysis_id}", "get"),
    }
    for (path, method), route in routes.items():
        assert route["tags"] == ["Klines"]
        good = route["responses"]["202" if method == "post" else "200"]["content"]["application/json"]
        assert "example" in good
        assert {"400", "401", "403", "429", "500", "503"} <= set(route["responses"])
        assert "422" not in route["responses"] or method == "post", path
        if method == "post":
            body = route["requestBody"]["content"]["application/json"]
            assert set(body["schema"]["required"]) <= set(body["example"])
        for name in re.findall(r"{(\w+)}", path):
            assert name in {each["name"] for each in route["parameters"] if each["in"] == "path"}
    assert {each["name"] for each in routes["/data", "get"]["parameters"]} == {
        *("symbol", "interval", "start", "end", "limit", "exchange"),
    }
    assert not any("security" in route for route in routes.values())
    schemas = said["components"]["schemas"]
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(said["paths"])))
    assert named <= set(schemas)
    assert schemas["KlineRefused"]["required"] == ["error", "code", "request_id"]
