"""The one writer: what is heard on the bus and what venues answered goes to the store in batches, with its coverage."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import structlog

from openoutcry.bus import Bus
from openoutcry.clock import NS, Clock
from openoutcry.errors import Unavailable
from openoutcry.events import (
    Abandoned,
    Candle,
    FundingBar,
    FundingRate,
    Gap,
    InterestBar,
    LevelsBar,
    Liquidation,
    LiquidationBar,
    Mended,
    Trade,
)
from openoutcry.market.coverage import BEGINNING_NS, Book
from openoutcry.market.series import Batch, Check, Of, Row, Series, SeriesKey, State, Unstorable, time_of
from openoutcry.market.tasks import Task
from openoutcry.market.whole import Whole
from openoutcry.telemetry import Telemetry

FLUSH_S = 0.5
BATCH_MAX = 5_000
BACKLOG_MAX = 200_000
# Raw trades are given up first: candles can be made from nothing else afterwards, trades are kept a day only.
TRADES_BACKLOG_MAX = 100_000
TRADES_KEPT_S = 86_400.0
PRUNE_S = 60.0
PRUNE_ROWS_MAX = 2_000

log = structlog.get_logger()

Place = tuple[int, int | str, int | str]


class Writer:
    """Holds what is not stored yet (bounded), and stores it every `flush_s` or as soon as `batch_max` rows wait.

    While the store refuses, rows wait. Beyond `backlog_max` rows in all (`trades_backlog_max` raw trades) new ones are
    dropped, counted, and their place in the coverage is missing. Raw trades and liquidations older than `trades_kept_s`
    are pruned in deletes of `prune_rows_max`.
    """

    def __init__(
        self,
        bus: Bus,
        series: Series,
        book: Book,
        whole: Whole,
        clock: Clock,
        telemetry: Telemetry,
        *,
        flush_s: float = FLUSH_S,
        batch_max: int = BATCH_MAX,
        backlog_max: int = BACKLOG_MAX,
        trades_backlog_max: int = TRADES_BACKLOG_MAX,
        trades_kept_s: float = TRADES_KEPT_S,
        prune_s: float = PRUNE_S,
        prune_rows_max: int = PRUNE_ROWS_MAX,
    ) -> None:
        self._series, self._book, self._whole, self._clock = series, book, whole, clock
        self._flush_s, self._batch_max = flush_s, batch_max
        self._backlog_max, self._trades_backlog_max = backlog_max, trades_backlog_max
        self._trades_kept_s, self._prune_s, self._prune_rows_max = trades_kept_s, prune_s, prune_rows_max
        self._waiting: dict[SeriesKey, dict[Place, Row]] = {}
        self._in_write: Mapping[SeriesKey, Mapping[Place, Row]] = {}
        self._rows = self._trades = 0
        self._full = asyncio.Event()
        self._turn = asyncio.Lock()
        self._pruned_ns = clock.now_ns()
        # Called for each row with an interval that goes to the store: whoever keeps such rows hears of them (blocks.py).
        self.on_row: Callable[[SeriesKey, Row], None] | None = None
        self._stops = self._listen(bus)
        self._written = telemetry.counter("store_rows_written", "Rows stored.", ["of"])
        self._dropped = telemetry.counter("store_rows_dropped", "Rows given up, their place is missing.", ["of", "why"])
        self._failed = telemetry.counter("store_writes_failed", "Batches that the store refused; they are tried again.")
        self._backlog = telemetry.gauge("store_backlog_rows", "Rows that wait for the store.")
        self._pruned = telemetry.counter("store_rows_pruned", "Raw trades and liquidations past their time.", ["of"])

    @property
    def backlog(self) -> int:
        """Rows that wait for the store."""
        return self._rows

    def add(self, key: SeriesKey, rows: Sequence[Row]) -> None:
        """Rows to store; until then `waiting` gives them. Their coverage is said in the book, by who knows it."""
        for row in rows:
            self._add(key, row)

    def waiting(self, key: SeriesKey) -> list[Row]:
        """Rows of that series that the store may not show yet, oldest first."""
        waiting = {**self._in_write.get(key, {}), **self._waiting.get(key, {})}
        return [waiting[place] for place in sorted(waiting)]

    async def run(self) -> None:
        """Store what comes, and prune, until cancelled; `close` then stores the rest."""
        while True:
            await self._pause()
            await self.flush()
            if self._clock.now_ns() - self._pruned_ns >= self._prune_s * NS:
                self._pruned_ns = self._clock.now_ns()
                await self.prune()

    async def flush(self) -> bool:
        """Store all that waits now. Gives False where the store refused: then it still waits."""
        async with self._turn:
            while self._waiting or self._book.untold:
                if not await self._write(self._take()):
                    return False
            return True

    async def commit(
        self,
        key: SeriesKey,
        rows: Sequence[Row],
        said: Sequence[tuple[int, int, State]],
        checks: Sequence[Check],
        task: Task | None,
    ) -> None:
        """Store these now, in one transaction with what is said of their series and the task they were fetched for.

        What else waits of that series goes with them. Raises Unavailable where the store refuses: nothing of it is known
        then, and the rows may be handed in again.
        """
        async with self._turn:
            if self._rows + len(rows) > self._backlog_max:
                raise Unavailable("store", "too much waits for the store", self._flush_s)
            self.add(key, rows)
            taken = {key: self._waiting.pop(key, {})}
            self._count(key, -len(taken[key]))
            for start_ns, end_ns, state in said:
                self._book.add(key, start_ns, end_ns, state)
            if not await self._write(taken, {key: checks} if checks else {}, [] if task is None else [task]):
                raise Unavailable("store", "the store does not take what was fetched", self._flush_s)

    async def prune(self) -> None:
        """Delete raw trades and liquidations past their time; the coverage lets go of them first."""
        before_ns = self._clock.now_ns() - round(self._trades_kept_s * NS)
        if not await self.flush():
            return
        for of in (Of.TRADES, Of.LIQUIDATIONS):
            for key in self._series.keys(of):
                self._book.add(key, BEGINNING_NS, before_ns, State.MISSING)
        if not await self.flush():
            return
        try:
            for of in (Of.TRADES, Of.LIQUIDATIONS):
                for key in self._series.keys(of):
                    await self._prune(key, before_ns)
        except Unavailable as e:
            log.warning("pruning put off", error=e.text)

    async def close(self) -> None:
        """Listen no more and store the rest."""
        for stop in self._stops:
            stop()
        self._stops = []
        if not await self.flush():
            log.error("rows not stored at the end; the next start fetches what venues still serve", rows=self._rows)

    def _listen(self, bus: Bus) -> list[Callable[[], None]]:
        return [
            bus.listen(Candle, self._on_candle),
            bus.listen(Trade, self._on_trade),
            bus.listen(Liquidation, self._on_liquidation),
            bus.listen(InterestBar, self._on_interest_bar),
            bus.listen(FundingBar, self._on_funding_bar),
            bus.listen(LiquidationBar, self._on_liquidation_bar),
            bus.listen(LevelsBar, self._on_levels_bar),
            bus.listen(FundingRate, self._on_funding_rate),
            bus.listen(Gap, self._whole.on_gap),
            bus.listen(Mended, self._whole.on_mended),
            bus.listen(Abandoned, self._whole.on_abandoned),
        ]

    def _on_candle(self, candle: Candle) -> None:
        if candle.closed:
            self._whole.on_candle(candle)
            self._add(SeriesKey(candle.instrument, Of.CANDLES, candle.interval_s, candle.side), candle)

    def _on_trade(self, trade: Trade) -> None:
        self._whole.on_trade(trade)
        if self._trades < self._trades_backlog_max:
            self._add(SeriesKey(trade.instrument, Of.TRADES), trade)
        else:
            self._dropped.labels(Of.TRADES, "backlog").inc()
            self._whole.on_dropped(trade)

    def _on_liquidation(self, liquidation: Liquidation) -> None:
        self._add(SeriesKey(liquidation.instrument, Of.LIQUIDATIONS), liquidation)

    def _on_interest_bar(self, bar: InterestBar) -> None:
        if bar.closed:
            self._on_bar(SeriesKey(bar.instrument, Of.INTEREST_BARS, bar.interval_s), bar)

    def _on_funding_bar(self, bar: FundingBar) -> None:
        if bar.closed:
            self._on_bar(SeriesKey(bar.instrument, Of.FUNDING_BARS, bar.interval_s), bar)

    def _on_liquidation_bar(self, bar: LiquidationBar) -> None:
        if bar.closed:
            self._on_bar(SeriesKey(bar.instrument, Of.LIQUIDATION_BARS, bar.interval_s, bar.side), bar)

    def _on_levels_bar(self, bar: LevelsBar) -> None:
        if bar.closed:
            self._on_bar(SeriesKey(bar.instrument, Of.LEVELS_BARS, bar.interval_s), bar)

    def _on_bar(self, key: SeriesKey, bar: InterestBar | FundingBar | LiquidationBar | LevelsBar) -> None:
        self._whole.on_bar(key, bar.open_ns)
        self._add(key, bar)

    def _on_funding_rate(self, rate: FundingRate) -> None:
        if rate.settled:
            self._add(SeriesKey(rate.instrument, Of.FUNDING), rate)

    def _add(self, key: SeriesKey, row: Row) -> None:
        waiting = self._waiting.setdefault(key, {})
        place = _place(row)
        if place not in waiting:
            if self._rows >= self._backlog_max:
                self._lose(key, row, "backlog")
                return
            self._count(key, 1)
        waiting[place] = row
        if key.interval_s and self.on_row is not None:
            self.on_row(key, row)
        if self._rows >= self._batch_max:
            self._full.set()

    def _lose(self, key: SeriesKey, row: Row, why: str) -> None:
        self._dropped.labels(key.of, why).inc()
        if isinstance(row, Trade):
            self._whole.on_dropped(row)
            return
        at_ns = time_of(row)
        self._book.add(key, at_ns, at_ns + max(key.interval_s * NS, 1), State.MISSING)

    def _count(self, key: SeriesKey, rows: int) -> None:
        self._rows += rows
        if key.of is Of.TRADES:
            self._trades += rows

    async def _pause(self) -> None:
        """Until `flush_s` is over or a batch is full."""
        full = asyncio.ensure_future(self._full.wait())
        tick = asyncio.ensure_future(self._clock.sleep(self._flush_s))
        try:
            await asyncio.wait((full, tick), return_when=asyncio.FIRST_COMPLETED)
        finally:
            full.cancel()
            tick.cancel()
        self._full.clear()

    def _take(self) -> dict[SeriesKey, dict[Place, Row]]:
        """The next batch: whole series at a time, because coverage may only be written with all the rows it claims."""
        taken: dict[SeriesKey, dict[Place, Row]] = {}
        rows = 0
        for key in (*self._waiting, *self._book.untold):
            if key in taken:
                continue
            if taken and rows >= self._batch_max:
                break
            taken[key] = self._waiting.pop(key, {})
            rows += len(taken[key]) or 1
            self._count(key, -len(taken[key]))
        return taken

    async def _write(
        self,
        taken: dict[SeriesKey, dict[Place, Row]],
        checks: Mapping[SeriesKey, Sequence[Check]] = MappingProxyType({}),
        tasks: Sequence[Task] = (),
    ) -> bool:
        batch = Batch(
            {key: list(rows.values()) for key, rows in taken.items() if rows},
            {key: self._book.take(key) for key in taken if key in self._book.untold},
            checks,
            tasks,
        )
        self._in_write = taken
        try:
            await asyncio.to_thread(self._series.write, batch)
        except Unstorable as e:
            await self._without_unstorable(taken, batch, e)
            await asyncio.to_thread(self._series.write, Batch(checks=checks, tasks=tasks))
        except BaseException as e:
            # Whatever stopped the write (a cancelled task too), the rows wait again; writing twice does no harm.
            self._put_back(taken, batch)
            if not isinstance(e, Unavailable):
                raise
            self._failed.inc()
            return False
        else:
            for key, rows in batch.rows.items():
                self._written.labels(key.of).inc(len(rows))
        finally:
            self._in_write = {}
            self._backlog.set(self._rows)
        return True

    def _put_back(self, taken: Mapping[SeriesKey, Mapping[Place, Row]], batch: Batch) -> None:
        self._book.untake(batch.spans)
        for key, rows in taken.items():
            newer = self._waiting.get(key, {})
            self._count(key, len(rows.keys() - newer.keys()))
            if rows:
                self._waiting[key] = {**rows, **newer}

    async def _without_unstorable(
        self, taken: Mapping[SeriesKey, Mapping[Place, Row]], batch: Batch, why: Unstorable
    ) -> None:
        """One row that no database can hold must not cost the others: series by series, then row by row."""
        if len(taken) == 1:
            ((key, rows),) = taken.items()
            if len(rows) <= 1:
                log.warning("row cannot be stored", series=str(key), error=str(why))
                for row in rows.values():
                    self._lose(key, row, "unstorable")
                return
            parts = [{key: {place: row}} for place, row in rows.items()]
        else:
            parts = [{key: dict(rows)} for key, rows in taken.items()]
        # Coverage goes after all the rows, minus what is lost here.
        self._book.untake(batch.spans)
        while parts:
            part = parts[-1]
            rows_only = Batch({key: list(rows.values()) for key, rows in part.items() if rows})
            try:
                await asyncio.to_thread(self._series.write, rows_only)
            except Unstorable as e:
                await self._without_unstorable(part, Batch(), e)
            except BaseException as e:
                for left in parts:
                    self._put_back(left, Batch())
                if not isinstance(e, Unavailable):
                    raise
                return
            parts.pop()

    async def _prune(self, key: SeriesKey, before_ns: int) -> None:
        while gone := await asyncio.to_thread(self._series.prune, key, before_ns, self._prune_rows_max):
            self._pruned.labels(key.of).inc(gone)


def _place(row: Row) -> Place:
    """What two rows of one series share when they are the same row."""
    if isinstance(row, Candle):  # most are
        return (row.open_ns, 0, 0)
    if isinstance(row, Trade):
        return (row.event_ns, row.seq, str(row.id))
    if isinstance(row, Liquidation):
        return (row.event_ns, row.id, 0)
    return (time_of(row), 0, 0)
