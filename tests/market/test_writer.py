"""The one writer: batches, a store that fails, a backlog that is full, rows past their time."""

import asyncio
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from openoutcry.bus import Bus
from openoutcry.clock import ManualClock
from openoutcry.errors import Unavailable
from openoutcry.events import (
    NS,
    Candle,
    Event,
    FundingBar,
    FundingRate,
    Gap,
    InterestBar,
    Liquidation,
    LiquidationBar,
    Side,
    Trade,
)
from openoutcry.market.coverage import Book
from openoutcry.market.series import Batch, Of, SeriesKey, Span, State, Unstorable
from openoutcry.market.whole import Whole
from openoutcry.market.writer import Writer
from openoutcry.stores.memory import MemorySeries
from openoutcry.stores.sql import SqlSeries, sqlite_url
from openoutcry.telemetry import Telemetry

MINUTE_NS = 60 * NS
NOW_NS = 10**18
ONE = Decimal(1)


class Moody(MemorySeries):
    """A store that fails as told: with `refusal`, or on rows that are `poison`."""

    def __init__(self) -> None:
        super().__init__()
        self.refusal: Exception | None = None
        self.poison: Callable[[object], bool] = lambda _row: False
        self.batches: list[Batch] = []
        self.held: threading.Event | None = None

    def write(self, batch: Batch) -> None:
        if self.held is not None:
            self.held.wait(10)
        if self.refusal is not None:
            raise self.refusal
        if any(self.poison(row) for rows in batch.rows.values() for row in rows):
            raise Unstorable("too big")
        self.batches.append(batch)
        super().write(batch)


class Desk:
    """A writer and what it stands on."""

    def __init__(self, **numbers: float) -> None:
        self.bus, self.clock, self.series, self.telemetry = Bus(), ManualClock(NOW_NS), Moody(), Telemetry()
        self.book = Book({})
        self.writer = Writer(
            self.bus, self.series, self.book, Whole(self.book), self.clock, self.telemetry, **numbers  # type: ignore[arg-type]
        )  # fmt: skip

    def counted(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"openoutcry_{name}_total", labels) or 0.0


@pytest.fixture
def desks() -> Callable[..., Desk]:
    return Desk


def candle(minute: int, name: str = "x:A") -> Candle:
    return Candle(
        name, Side.BOTH, 60, minute * MINUTE_NS, ONE, ONE, ONE, ONE, ONE, ONE, 1, 1, 1, True, 1, "trades"
    )  # fmt: skip


def trade(at_ns: int, name: str = "x:A") -> Trade:
    return Trade(name, at_ns, at_ns, at_ns, at_ns, Side.BUY, ONE, ONE)


MINUTES = SeriesKey("x:A", Of.CANDLES, 60)
TRADES = SeriesKey("x:A", Of.TRADES)


async def test_what_is_heard_is_stored_with_what_it_covers(desks: Callable[..., Desk]) -> None:
    desk = desks()
    liquidation = Liquidation("x:A", 5, 5, "1", Side.SELL, ONE, ONE)
    rate = FundingRate("x:A", 5, 5, ONE, 5, None, True)
    bars: list[InterestBar | FundingBar | LiquidationBar] = [
        InterestBar("x:A", 60, 0, ONE, ONE, ONE, ONE, None, True, 1),
        FundingBar("x:A", 60, 0, ONE, ONE, ONE, ONE, None, None, True, 1),
        LiquidationBar("x:A", Side.SELL, 60, 0, ONE, ONE, 1, True, 1),
    ]
    desk.bus.publish([candle(0), trade(5), liquidation, rate, *bars])
    assert await desk.writer.flush()
    stored = {key: list(rows) for key, rows in desk.series.batches[0].rows.items()}
    assert stored == {
        MINUTES: [candle(0)],
        TRADES: [trade(5)],
        SeriesKey("x:A", Of.LIQUIDATIONS): [liquidation],
        SeriesKey("x:A", Of.FUNDING): [rate],
        SeriesKey("x:A", Of.INTEREST_BARS, 60): [bars[0]],
        SeriesKey("x:A", Of.FUNDING_BARS, 60): [bars[1]],
        SeriesKey("x:A", Of.LIQUIDATION_BARS, 60, Side.SELL): [bars[2]],
    }
    assert list(desk.series.coverages()[MINUTES]) == [Span(0, MINUTE_NS, State.HAVE)]
    assert list(desk.series.coverages()[SeriesKey("x:A", Of.LIQUIDATION_BARS, 60, Side.SELL)]) == [
        Span(0, MINUTE_NS, State.HAVE)
    ]
    assert desk.writer.backlog == 0


async def test_what_may_still_change_is_not_stored(desks: Callable[..., Desk]) -> None:
    desk = desks()
    growing: list[Event] = [
        Candle("x:A", Side.BOTH, 60, 0, ONE, ONE, ONE, ONE, ONE, ONE, 1, 1, 1, False, 1, "trades"),
        FundingRate("x:A", 5, 5, ONE, 5, None, False),
        InterestBar("x:A", 60, 0, ONE, ONE, ONE, ONE, None, False, 1),
        FundingBar("x:A", 60, 0, ONE, ONE, ONE, ONE, None, None, False, 1),
        LiquidationBar("x:A", Side.SELL, 60, 0, ONE, ONE, 1, False, 1),
    ]
    desk.bus.publish(growing)
    assert await desk.writer.flush()
    assert desk.series.batches == []


async def test_it_stores_every_half_second_or_as_soon_as_a_batch_is_full(desks: Callable[..., Desk]) -> None:
    desk = desks(batch_max=3)
    running = asyncio.create_task(desk.writer.run())
    desk.bus.publish([trade(1)])
    await desk.clock.advance(0.4)
    assert desk.series.batches == []
    await desk.clock.advance(0.2)
    await _until(lambda: len(desk.series.batches) == 1)
    desk.bus.publish([trade(2), trade(3), trade(4)])
    await _until(lambda: len(desk.series.batches) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - a thread is what we wait for
            await asyncio.sleep(0)


async def test_a_batch_holds_whole_series_so_that_coverage_never_runs_ahead(desks: Callable[..., Desk]) -> None:
    desk = desks(batch_max=5)
    for name in ("x:A", "x:B", "x:C"):
        desk.bus.publish([candle(n, name) for n in range(4)])
    assert await desk.writer.flush()
    for batch in desk.series.batches:
        for key, spans in batch.spans.items():
            if key.of is Of.CANDLES:
                assert len(batch.rows[key]) == 4
                assert list(spans) == [Span(0, 4 * MINUTE_NS, State.HAVE)]
    assert len(desk.series.batches) > 1


async def test_while_the_store_refuses_rows_wait_and_nothing_is_lost(desks: Callable[..., Desk]) -> None:
    desk = desks()
    desk.series.refusal = Unavailable("store", "database or disk is full")
    desk.bus.publish([candle(0), candle(1)])
    assert not await desk.writer.flush()
    assert desk.writer.waiting(MINUTES) == [candle(0), candle(1)]
    desk.bus.publish([candle(2)])
    assert not await desk.writer.flush()
    assert desk.writer.backlog == 3
    assert desk.counted("store_writes_failed") == 2
    desk.series.refusal = None
    assert await desk.writer.flush()
    assert list(desk.series.read(MINUTES)) == [candle(0), candle(1), candle(2)]
    assert list(desk.series.coverages()[MINUTES]) == [Span(0, 3 * MINUTE_NS, State.HAVE)]
    assert desk.writer.backlog == 0


async def test_rows_on_their_way_into_the_store_are_still_known(desks: Callable[..., Desk]) -> None:
    desk = desks()
    desk.series.held = threading.Event()
    desk.bus.publish([candle(0)])
    flushing = asyncio.create_task(desk.writer.flush())
    await asyncio.sleep(0)
    desk.bus.publish([candle(1)])
    assert desk.writer.waiting(MINUTES) == [candle(0), candle(1)]
    desk.series.held.set()
    assert await flushing
    assert desk.writer.waiting(MINUTES) == []
    assert list(desk.series.coverages()[MINUTES]) == [Span(0, 2 * MINUTE_NS, State.HAVE)]


async def test_a_flush_that_is_cancelled_loses_nothing(desks: Callable[..., Desk]) -> None:
    desk = desks()
    desk.series.held = threading.Event()
    desk.bus.publish([candle(0)])
    flushing = asyncio.create_task(desk.writer.flush())
    await asyncio.sleep(0)
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    assert desk.writer.waiting(MINUTES) == [candle(0)]
    desk.series.held.set()
    await desk.writer.close()
    assert list(desk.series.read(MINUTES)) == [candle(0)]


async def test_beyond_the_backlog_rows_are_dropped_counted_and_missing(desks: Callable[..., Desk]) -> None:
    desk = desks(backlog_max=4, trades_backlog_max=2)
    desk.series.refusal = Unavailable("store", "locked")
    desk.bus.publish([trade(n) for n in range(5)])
    assert desk.writer.backlog == 2
    assert desk.counted("store_rows_dropped", of="trades", why="backlog") == 3
    desk.bus.publish([candle(n) for n in range(4)])
    desk.bus.publish([candle(0), candle(1)])  # said again: they have their place
    assert desk.writer.backlog == 4
    assert desk.counted("store_rows_dropped", of="candles", why="backlog") == 2
    assert desk.book.of(MINUTES).missing(0, 4 * MINUTE_NS) == [(2 * MINUTE_NS, 4 * MINUTE_NS)]
    desk.series.refusal = None
    assert await desk.writer.flush()
    assert len(desk.series.read(MINUTES)) == 2
    assert list(desk.series.coverages()[MINUTES]) == [Span(0, 2 * MINUTE_NS, State.HAVE)]
    # Trades of that minute were dropped: none of it is called whole, although the candles made from them are.
    assert desk.book.of(TRADES).missing(0, MINUTE_NS) == [(0, MINUTE_NS)]


async def test_one_row_that_cannot_be_stored_costs_only_itself(desks: Callable[..., Desk]) -> None:
    desk = desks()
    desk.series.poison = lambda row: isinstance(row, Candle) and row.open_ns == MINUTE_NS
    desk.bus.publish([candle(n, name) for n in range(3) for name in ("x:A", "x:B")])
    desk.bus.publish([trade(5)])
    assert await desk.writer.flush()
    assert list(desk.series.read(MINUTES)) == [candle(0), candle(2)]
    assert list(desk.series.read(TRADES)) == [trade(5)]
    assert desk.counted("store_rows_dropped", of="candles", why="unstorable") == 2
    assert list(desk.series.coverages()[MINUTES]) == [
        Span(0, MINUTE_NS, State.HAVE),
        Span(2 * MINUTE_NS, 3 * MINUTE_NS, State.HAVE),
    ]
    assert desk.writer.backlog == 0


async def test_raw_trades_are_pruned_in_small_steps_after_their_coverage(desks: Callable[..., Desk]) -> None:
    desk = desks(trades_kept_s=3_600, prune_rows_max=2)
    old_ns = NOW_NS - 3_600 * NS
    desk.book.add(TRADES, old_ns - 100, NOW_NS, State.HAVE)
    desk.bus.publish([trade(old_ns + n) for n in range(-5, 3)])
    desk.bus.publish([Liquidation("x:A", at, at, str(at), Side.SELL, ONE, ONE) for at in (old_ns - 1, old_ns)])
    desk.bus.publish([candle(0)])
    await desk.writer.prune()
    assert list(desk.series.read(TRADES)) == [trade(old_ns + n) for n in range(3)]
    assert len(desk.series.read(SeriesKey("x:A", Of.LIQUIDATIONS))) == 1
    assert desk.book.of(TRADES).missing(old_ns - 100, NOW_NS) == [(old_ns - 100, old_ns)]
    assert list(desk.series.coverages()[TRADES]) == [Span(old_ns, NOW_NS, State.HAVE)]
    assert len(desk.series.read(MINUTES)) == 1  # series are kept for ever
    assert desk.counted("store_rows_pruned", of="trades") == 5


async def test_pruning_comes_by_itself(desks: Callable[..., Desk]) -> None:
    desk = desks(trades_kept_s=60, prune_s=60)
    running = asyncio.create_task(desk.writer.run())
    desk.bus.publish([trade(NOW_NS)])
    for _ in range(250):
        await desk.clock.advance(0.5)
    await _until(lambda: desk.series.read(TRADES) == [])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_closing_stores_the_rest_and_hears_no_more(desks: Callable[..., Desk]) -> None:
    desk = desks()
    desk.bus.publish([candle(0)])
    await desk.writer.close()
    desk.bus.publish([candle(1), Gap("x:A", "trades", 0, None, "cut")])
    assert list(desk.series.read(MINUTES)) == [candle(0)]
    assert desk.writer.backlog == 0


async def test_a_full_disk_is_lived_through(tmp_path: Path) -> None:
    """The same on a real file that may not grow: what was stored stays, what waits is stored when there is room."""
    bus, clock, book, telemetry = Bus(), ManualClock(NOW_NS), Book({}), Telemetry()
    small = SqlSeries(sqlite_url(tmp_path / "series.db"), bytes_max=120_000)
    writer = Writer(bus, small, book, Whole(book), clock, telemetry, batch_max=200)
    bus.publish([candle(n) for n in range(3_000)])
    assert not await writer.flush()
    assert writer.backlog == 3_000
    await writer.close()
    small.close()
    roomy = SqlSeries(sqlite_url(tmp_path / "series.db"))
    writer = Writer(bus, roomy, book, Whole(book), clock, telemetry)
    writer.add(MINUTES, [candle(n) for n in range(3_000)])
    assert await writer.flush()
    assert len(roomy.read(MINUTES)) == 3_000
    assert list(roomy.coverages()[MINUTES]) == [Span(0, 3_000 * MINUTE_NS, State.HAVE)]
    await writer.close()
    roomy.close()
