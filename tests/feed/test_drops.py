"""Files of open interest become bars of the past, bars that grow, and news; whatever is wrong with them is said once."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from openoutcry.aggregates.candles import Candles
from openoutcry.aggregates.derivatives import Derivatives
from openoutcry.aggregates.ticker import Tickers
from openoutcry.bus import Bus
from openoutcry.clock import ManualClock
from openoutcry.errors import Unavailable
from openoutcry.events import INTERVALS_S, NS, InterestBar, Ohlc, OpenInterest
from openoutcry.feed.drops import TOLD_MAX, Drops
from openoutcry.feed.feed import Feed
from openoutcry.market.building import Building
from openoutcry.market.market import KEPT_AT_ONCE, Market
from openoutcry.market.series import Of, SeriesKey
from openoutcry.simulator.simulator import Simulator
from openoutcry.sources.interest_files import FILE_BYTES_MAX
from openoutcry.stores.memory import MemorySeries
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient, Response, SocketClient, TransportError

NOW_NS = 1_795_179_620 * NS  # Friday 2026-11-20 13:00:20 UTC
DAY_NS = 86_400 * NS
FRIDAY_NS = NOW_NS // DAY_NS * DAY_NS
HEADER = "time,symbol,coin,open_interest,value,price\n"
ROWS = "2026-11-17,BTC,BTC,10,100,50\n2026-11-19,BTC,BTC,30,,60\n2026-11-20,BTC,BTC,20,200,40\n"
POLL_S = 60.0


class Bench:
    """A market without a venue, and what is read into it."""

    def __init__(self) -> None:
        self.clock, self.bus, self.telemetry = ManualClock(NOW_NS), Bus(), Telemetry()
        self.series = MemorySeries()
        self.http = HttpClient()
        feed = Feed(
            {},
            bus=self.bus,
            clock=self.clock,
            http=self.http,
            sockets=SocketClient(),
            telemetry=self.telemetry,
            chance=random.Random(1),
        )
        self.building = Building(
            bus=self.bus,
            clock=self.clock,
            telemetry=self.telemetry,
            outside=feed,
            candles=Candles(),
            derivatives=Derivatives(grace_s=0.0),
            tickers=Tickers(),
        )
        self.market = Market(feed, self.series, self.bus, self.clock, self.telemetry, self.building)
        self.news: list[OpenInterest] = []
        self.bus.listen(OpenInterest, self.news.append)

    def drops(self, source: object, **more: Any) -> Drops:
        told = {"http": self.http, "poll_s": POLL_S, **more}
        return Drops(
            str(source),
            market=self.market,
            building=self.building,
            bus=self.bus,
            clock=self.clock,
            telemetry=self.telemetry,
            **told,
        )

    async def bars(self, interval_s: int = 86_400, symbol: str = "BTC") -> list[InterestBar]:
        instrument = await self.market.instrument("cme", symbol)
        told = await self.market.open_interest_bars(instrument, interval_s, limit=1_000)
        assert told.missing == []
        return [bar for bar in told.rows if isinstance(bar, InterestBar)]

    async def closes(self, interval_s: int = 86_400, symbol: str = "BTC") -> list[tuple[int, int]]:
        """Of each stored bar how many days before this Friday it opened, and its last open interest."""
        return [((FRIDAY_NS - bar.open_ns) // DAY_NS, int(bar.close)) for bar in await self.bars(interval_s, symbol)]

    def grown(self, interval_s: int) -> InterestBar | None:
        bar = self.building.bar(InterestBar, "cme:BTC", interval_s)
        assert bar is None or isinstance(bar, InterestBar)
        return bar

    def counted(self, name: str) -> float:
        return self.telemetry.registry.get_sample_value(f"openoutcry_{name}_total") or 0.0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.market.close()
    await made.http.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cme.csv"
    path.write_text(HEADER + ROWS)
    return path


def move(path: Path, to: Path) -> None:
    path.rename(to)


def ohlc(opened: int, high: int, low: int, close: int) -> Ohlc:
    return Decimal(opened), Decimal(high), Decimal(low), Decimal(close)


def rewrite(path: Path, text: str, later_ns: int = NS) -> None:
    """As an editor does, so long after the file was written last."""
    at_ns = path.stat().st_mtime_ns + later_ns
    path.write_text(text)
    os.utime(path, ns=(at_ns, at_ns))


# What rows become


async def test_rows_of_the_past_become_closed_bars_of_every_length_and_nothing_is_filled(
    bench: Bench, file: Path
) -> None:
    await bench.drops(file).look()
    assert await bench.closes() == [(3, 10), (1, 30)]
    for interval_s in INTERVALS_S[:5]:
        assert [days for days, _ in await bench.closes(interval_s)] == [3, 1, 0]
    assert await bench.closes(604_800) == []
    tuesday = (await bench.bars())[0]
    assert tuesday == InterestBar(
        "cme:BTC", 86_400, FRIDAY_NS - 3 * DAY_NS, Decimal(10), Decimal(10), Decimal(10), Decimal(10), Decimal(100),
        closed=True, received_ns=NOW_NS, values=ohlc(100, 100, 100, 100), prices=ohlc(50, 50, 50, 50),
    )  # fmt: skip


async def test_between_the_rows_of_a_file_nothing_is_missing_and_around_them_all_is(bench: Bench, file: Path) -> None:
    await bench.drops(file).look()
    coverage = bench.market.coverage(SeriesKey("cme:BTC", Of.INTEREST_BARS, 86_400))
    assert coverage.absent(FRIDAY_NS - 5 * DAY_NS, FRIDAY_NS + DAY_NS) == [
        (FRIDAY_NS - 5 * DAY_NS, FRIDAY_NS - 3 * DAY_NS),
        (FRIDAY_NS, FRIDAY_NS + DAY_NS),
    ]


async def test_between_two_files_nobody_knows(bench: Bench, tmp_path: Path) -> None:
    # The later days are read first, so that the others are no news.
    (tmp_path / "2.csv").write_text(HEADER + "2026-11-15,BTC,BTC,1,,\n2026-11-17,BTC,BTC,2,,\n")
    (tmp_path / "1.csv").write_text(HEADER + "2026-11-19,BTC,BTC,3,,\n2026-11-20,BTC,BTC,4,,\n")
    await bench.drops(tmp_path).look()
    coverage = bench.market.coverage(SeriesKey("cme:BTC", Of.INTEREST_BARS, 86_400))
    assert coverage.absent(FRIDAY_NS - 5 * DAY_NS, FRIDAY_NS) == [(FRIDAY_NS - 2 * DAY_NS, FRIDAY_NS - DAY_NS)]


async def test_the_running_week_grows_from_the_rows_in_it_and_closes_by_our_clock(bench: Bench, file: Path) -> None:
    closed: list[InterestBar] = []
    bench.bus.listen(InterestBar, closed.append)
    await bench.drops(file).look()
    week = bench.grown(604_800)
    assert week is not None
    assert (week.open, week.high, week.low, week.close) == ohlc(10, 30, 10, 20)
    assert week.prices == ohlc(50, 60, 40, 40)
    day = bench.grown(86_400)
    assert day is not None
    assert (day.open_ns, int(day.close), day.closed) == (FRIDAY_NS, 20, False)
    closed.clear()
    await bench.clock.advance(11 * 3_600.0)
    bench.building.beat()
    assert [(bar.interval_s, bar.open_ns) for bar in closed] == [(86_400, FRIDAY_NS)]
    assert (await bench.closes())[-1] == (0, 20)
    await bench.clock.advance(2 * 86_400.0)
    bench.building.beat()
    assert (await bench.bars(604_800)) == [bar for bar in closed if bar.interval_s == 604_800]
    assert closed[-1].high == 30


async def test_only_the_newest_is_news_at_first_and_later_whatever_comes_after_it(bench: Bench, file: Path) -> None:
    drops = bench.drops(file)
    await drops.look()
    assert [(each.event_ns, int(each.size)) for each in bench.news] == [(FRIDAY_NS, 20)]
    assert (await bench.market.open_interest(await bench.market.instrument("cme", "BTC"))).size == 20
    await bench.clock.advance(86_400.0)
    late = "2026-11-18,BTC,BTC,15,,\n2026-11-20T20:00:00Z,BTC,BTC,21,,\n2026-11-21,BTC,BTC,22,,\n"
    rewrite(file, HEADER + ROWS + late)
    await drops.look()
    assert [int(each.size) for each in bench.news] == [20, 21, 22]
    assert await bench.closes() == [(3, 10), (2, 15), (1, 30), (0, 21)]


async def test_a_corrected_row_corrects_bars_that_are_stored_and_those_that_grow(bench: Bench, file: Path) -> None:
    drops = bench.drops(file)
    await drops.look()
    rewrite(file, HEADER + ROWS.replace("BTC,30,,60", "BTC,12,,60").replace("BTC,20,", "BTC,11,"))
    await drops.look()
    assert await bench.closes() == [(3, 10), (1, 12)]
    week = bench.grown(604_800)
    assert week is not None
    assert (week.open, week.high, week.low, week.close) == ohlc(10, 12, 10, 11)
    assert [int(each.size) for each in bench.news] == [20, 11]


async def test_a_start_reads_all_again_and_changes_nothing(bench: Bench, file: Path) -> None:
    await bench.drops(file).look()
    before = await bench.bars(3_600), bench.grown(604_800)
    await bench.drops(file).look()
    assert (await bench.bars(3_600), bench.grown(604_800)) == before


# Files and folders


async def test_what_did_not_change_is_not_read_again(bench: Bench, file: Path) -> None:
    drops = bench.drops(file)
    await drops.look()
    changed = (HEADER + ROWS).replace("30", "99")
    rewrite(file, changed, later_ns=0)
    await drops.look()
    assert (await bench.closes())[-1] == (1, 30)
    rewrite(file, changed)
    await drops.look()
    assert (await bench.closes())[-1] == (1, 99)


async def test_a_folder_is_read_in_order_of_name_and_the_last_word_counts(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "2.csv").write_text(HEADER + "2026-11-18,BTC,BTC,2,,\n2026-11-19,BTC,BTC,3,,\n")
    (tmp_path / "1.csv").write_text(HEADER + "2026-11-17,BTC,BTC,1,,\n2026-11-18,BTC,BTC,9,,\n")
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    drops = bench.drops(tmp_path)
    with capture_logs() as said:
        await drops.look()
        assert await bench.closes() == [(3, 1), (2, 2), (1, 3)]
        # The first file is written again: it still has not the last word.
        rewrite(tmp_path / "1.csv", HEADER + "2026-11-17,BTC,BTC,4,,\n2026-11-18,BTC,BTC,8,,\n")
        await drops.look()
    assert await bench.closes() == [(3, 4), (2, 2), (1, 3)]
    assert said == []


async def test_a_bad_file_does_not_cost_the_others_and_is_said_once(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_bytes(b"\xff\xfe")
    (tmp_path / "2.csv").write_text(HEADER + ROWS)
    with (tmp_path / "3.csv").open("wb") as huge:
        huge.truncate(FILE_BYTES_MAX + 1)
    drops = bench.drops(tmp_path)
    with capture_logs() as said:
        await drops.look()
        await drops.look()
    assert [(each["source"], each["why"]) for each in said] == [
        ("1.csv", "not UTF-8"),
        ("3.csv", f"more than {FILE_BYTES_MAX} bytes"),
    ]
    assert bench.counted("interest_files_refused") == 2
    assert len(await bench.bars()) == 2
    rewrite(tmp_path / "1.csv", HEADER + "2026-11-18,BTC,BTC,5,,\n")
    await drops.look()
    assert await bench.closes() == [(3, 10), (2, 5), (1, 30)]


async def test_a_source_that_is_gone_is_said_once_and_read_when_it_is_back(bench: Bench, file: Path) -> None:
    aside = file.with_suffix(".aside")
    move(file, aside)
    drops = bench.drops(file)
    with capture_logs() as said:
        await drops.look()
        await drops.look()
    assert [each["log_level"] for each in said] == ["warning"]
    assert bench.market.listed_beside() == ["cme"]
    move(aside, file)
    with capture_logs() as said:
        await drops.look()
    assert [each["event"] for each in said] == ["open interest read again"]
    assert len(await bench.bars()) == 2


async def test_bad_rows_are_counted_and_said_with_file_and_line(bench: Bench, file: Path) -> None:
    rewrite(file, HEADER + ROWS + "2026-11-16,BTC,BTC,NaN,,\n" * (TOLD_MAX + 5))
    with capture_logs() as said:
        await bench.drops(file).look()
    assert [each["at"] for each in said if "at" in each] == [f"cme.csv:{line}" for line in range(5, 5 + TOLD_MAX)]
    assert said[-1]["rows"] == bench.counted("interest_rows_refused") == TOLD_MAX + 5
    assert len(await bench.bars()) == 2


async def test_rows_beyond_the_limit_are_left_out_and_counted(bench: Bench, file: Path) -> None:
    drops = bench.drops(file, samples_max=2)
    await drops.look()
    assert len(drops) == 2
    assert await bench.closes() == [(3, 10), (1, 30)]
    assert bench.counted("interest_rows_refused") == 1
    # What is known may still be corrected.
    rewrite(file, HEADER + ROWS.replace("BTC,30", "BTC,31"))
    await drops.look()
    assert await bench.closes() == [(3, 10), (1, 31)]


async def test_what_the_store_did_not_take_is_read_again(bench: Bench, file: Path) -> None:
    many = "".join(
        f"2026-{month:02}-{day:02}T{hour:02}:00:00Z,BTC,BTC,{day},,\n"
        for month in range(1, 10)
        for day in range(1, 29)
        for hour in range(24)
    )
    assert many.count("\n") > KEPT_AT_ONCE
    rewrite(file, HEADER + many)

    def fails(batch: Any) -> None:
        raise Unavailable("store", f"full at {len(batch.rows)}")

    drops = bench.drops(file)
    works, bench.series.write = bench.series.write, fails  # type: ignore[method-assign]
    with capture_logs() as said:
        await drops.look()
    assert said[-1]["why"] == "the store does not take what was read"
    bench.series.write = works  # type: ignore[method-assign]
    await drops.look()
    assert await bench.market.writer.flush()
    assert len(bench.series.read(SeriesKey("cme:BTC", Of.INTEREST_BARS, 3_600))) == many.count("\n")
    assert len(bench.news) == 1


async def test_it_looks_again_after_a_while(bench: Bench, file: Path) -> None:
    heard = asyncio.Event()
    bench.bus.listen(OpenInterest, lambda _: heard.set())
    task = asyncio.create_task(bench.drops(file).run())
    await heard.wait()
    heard.clear()
    await bench.clock.advance(0)
    rewrite(file, HEADER + ROWS + "2026-11-20T10:00:00Z,BTC,BTC,77,,\n")
    await bench.clock.advance(POLL_S - 1)
    assert not heard.is_set()
    await bench.clock.advance(1)
    await heard.wait()
    assert bench.news[-1].size == 77
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# Addresses


class Web:
    """Answers by a function of the headers."""

    def __init__(self, answer: Callable[[Mapping[str, str]], Response]) -> None:
        self.answer = answer
        self.asked: list[Mapping[str, str]] = []

    async def send(
        self,
        method: str,
        url: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        self.asked.append(headers or {})
        return self.answer(headers or {})


async def test_an_address_is_asked_whether_it_changed(bench: Bench) -> None:
    web = Web(lambda _: Response(200, {"etag": '"1"'}, (HEADER + ROWS).encode()))
    drops = bench.drops("https://example.org/a.csv?key=secret", http=web)
    await drops.look()
    assert len(await bench.bars()) == 2
    web.answer = lambda headers: Response(304 if headers.get("If-None-Match") == '"1"' else 500, {}, b"")
    with capture_logs() as said:
        await drops.look()
    assert said == []
    assert [dict(each) for each in web.asked] == [{}, {"If-None-Match": '"1"'}]


async def test_an_address_without_an_etag_is_read_when_it_says_something_else(bench: Bench) -> None:
    web = Web(lambda _: Response(200, {}, (HEADER + ROWS).encode()))
    drops = bench.drops("https://example.org/a.csv", http=web)
    for _ in range(2):
        await drops.look()
    assert len(bench.news) == 1
    web.answer = lambda _: Response(200, {}, (HEADER + ROWS.replace("BTC,20", "BTC,25")).encode())
    await drops.look()
    assert [int(each.size) for each in bench.news] == [20, 25]
    assert web.asked == [{}, {}, {}]


async def test_an_address_that_is_ill_is_said_once_for_each_illness_without_its_secrets(bench: Bench) -> None:
    def breaks(_: Mapping[str, str]) -> Response:
        raise TransportError("connection lost")

    web = Web(breaks)
    drops = bench.drops("https://user:secret@example.org/a.csv?key=secret", http=web)
    with capture_logs() as said:
        await drops.look()
        await drops.look()
        web.answer = lambda _: Response(503, {}, b"")
        await drops.look()
        web.answer = lambda _: Response(304, {}, b"")
        await drops.look()
        web.answer = lambda _: Response(200, {}, b"<html>")
        await drops.look()
        web.answer = lambda _: Response(200, {}, (HEADER + ROWS).encode())
        await drops.look()
    assert [each["why"] for each in said if "why" in each] == [
        "connection lost",
        "answered 503",
        "answered 304",
        "no column time",
    ]
    assert "secret" not in str(said)
    assert len(await bench.bars()) == 2


async def test_the_simulated_file_is_read_over_a_real_socket(bench: Bench) -> None:
    simulator = Simulator(7, bench.clock, ["cme"])
    await simulator.start()
    try:
        drops = bench.drops(simulator.addresses()["cme"]["rest"] + "/open-interest.csv")
        with capture_logs() as said:
            await drops.look()
            await drops.look()
        assert said == []
        assert set(await bench.market.instruments("cme")) == {"BTC", "MBT", "ETH", "MET"}
        assert 255 < len(await bench.bars(symbol="ETH")) < 263
        assert 50 < len(await bench.bars(604_800)) < 54
        assert bench.grown(86_400) is not None
        assert len(bench.news) == 4
    finally:
        await simulator.stop()
