"""Stretches of any stored series, closed rows as columns and what still grows as events: for answers of many points.

Candles that nobody has are asked of the venue first, those of one side are made of its trades. Bars of open interest,
funding, liquidations and liquidation levels are what we saw ourselves.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
import structlog

from openoutcry.aggregates.columns import candles_of, trades_of
from openoutcry.clock import NS, Clock
from openoutcry.errors import Refusal
from openoutcry.events import INTERVALS_S, Candle, Side, Trade, open_of
from openoutcry.instrument import Instrument
from openoutcry.market.blocks import Blocks, Cut
from openoutcry.market.coverage import Book
from openoutcry.market.history import SETTLE_S, History
from openoutcry.market.outside import Outside
from openoutcry.market.pulse import Pulse
from openoutcry.market.series import Columns, Of, Row, Series, SeriesKey, State, columns_of, time_of
from openoutcry.market.writer import Writer
from openoutcry.venues.venue import Feed, Query

# A venue is asked for trades of so long a stretch at most in one question; older trades stay missing.
TRADES_ASKED_S = 3_600.0

log = structlog.get_logger()


class Told(msgspec.Struct, frozen=True):
    """Closed rows oldest first, then the rows that still change; and which stretches [start_ns, end_ns) nobody has."""

    cuts: Sequence[Cut]
    tail: Sequence[Row] = ()
    missing: Sequence[tuple[int, int]] = ()

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(cut.high - cut.low for cut in self.cuts) + len(self.tail)


class Candled(Protocol):
    """`Market.candles`."""

    async def __call__(
        self,
        instrument: Instrument,
        interval_s: int,
        *,
        limit: int,
        side: Side = Side.BOTH,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> "Rows":
        """The first `limit` candles from `start_ns` on."""
        ...


class Rows(Protocol):
    """`market.Candles`."""

    @property
    def rows(self) -> Sequence[Candle]:
        """Oldest first, the growing one last."""
        ...

    @property
    def missing(self) -> Sequence[tuple[int, int]]:
        """What nobody has."""
        ...


class Sure(Protocol):
    """What the market knows of followed instruments."""

    def edge(self, key: SeriesKey, now_ns: int) -> tuple[int, Sequence[Candle]] | None:
        """Where closed candles end, and those after them; None where the instrument is not followed whole."""
        ...

    def whole_to(self, key: SeriesKey, start_ns: int, end_ns: int, now_ns: int) -> bool:
        """Whether nothing is missing in [start_ns, end_ns)."""
        ...


class Columnar:
    """Made by the market. `trades_asked_s`: see TRADES_ASKED_S."""

    def __init__(
        self,
        *,
        outside: Outside,
        series: Series,
        book: Book,
        writer: Writer,
        history: History,
        blocks: Blocks,
        pulse: Pulse,
        clock: Clock,
        candles: Candled,
        sure: Sure,
        settle_s: float = SETTLE_S,
        trades_asked_s: float = TRADES_ASKED_S,
    ) -> None:
        self._outside, self._series, self._book, self._writer = outside, series, book, writer
        self._history, self._blocks, self._pulse, self._clock = history, blocks, pulse, clock
        self._candles, self._sure = candles, sure
        self._settle_ns, self._trades_asked_ns = round(settle_s * NS), round(trades_asked_s * NS)
        # By instrument, of which there are as many as venues list.
        self._turns: dict[str, asyncio.Lock] = {}

    @property
    def rows_held(self) -> int:
        """Rows that are in memory as columns."""
        return self._blocks.rows

    async def begun(self, key: SeriesKey) -> int | None:
        """Where the first closed row stands (ns); None where there is none yet. Raises Unavailable."""
        return await self._blocks.begun(key)

    def at_hand(self, key: SeriesKey, start_ns: int, end_ns: int) -> Told | None:
        """All of [start_ns, end_ns) at once, from memory; None where it must be looked up or asked for."""
        now_ns = self._clock.now_ns()
        closed_ns = open_of(now_ns, key.interval_s)
        tail: list[Row] = []
        if end_ns > closed_ns:
            # The bucket that grows lies in it, and perhaps some that are over but not sure.
            if key.of is not Of.CANDLES:
                tail = self._tail(key, start_ns, end_ns)
            else:
                edge = self._sure.edge(key, now_ns)
                if edge is None:
                    return None
                closed_ns = edge[0]
                tail = [row for row in edge[1] if start_ns <= row.open_ns < end_ns]
        stop_ns = max(min(end_ns, closed_ns), start_ns)
        begun_ns = self._blocks.begun_held(key)
        if begun_ns is None:
            return None
        missing: Sequence[tuple[int, int]] = ()
        if key.of is not Of.CANDLES:
            self._quiet(key, now_ns)
            missing = self._book.of(key).absent(start_ns, stop_ns)
        elif not self._sure.whole_to(key, start_ns, stop_ns, now_ns):
            return None
        cuts = self._blocks.held(key, max(start_ns, begun_ns), stop_ns)
        return None if cuts is None else Told(cuts, tail, missing)

    async def between(
        self,
        instrument: Instrument,
        key: SeriesKey,
        start_ns: int,
        end_ns: int,
        *,
        rows_max: int | None = None,
        trades: bool = True,
    ) -> Told:
        """All of [start_ns, end_ns): candles that nobody has are asked of the venue, within its limits.

        `trades` False: not those of one side, which cost a venue many pages of trades.

        With `rows_max` it stops soon after so many: more rows than that say that there are too many. A venue that does
        not answer leaves the stretch missing. Raises Unavailable where the store cannot be read.
        """
        told = self.at_hand(key, start_ns, end_ns)
        if told is not None:
            return told
        tail: Sequence[Row] = self._tail(key, start_ns, end_ns)
        if key.of is Of.CANDLES:
            tail = await self._asked(instrument, key, start_ns, end_ns, trades=trades)
        now_open_ns = open_of(self._clock.now_ns(), key.interval_s)
        stop_ns = time_of(tail[0]) if tail else max(min(end_ns, now_open_ns), start_ns)
        begun_ns = await self._blocks.begun(key)
        cuts: Sequence[Cut] = ()
        if begun_ns is not None:
            cuts = await self._blocks.read(key, max(start_ns, begun_ns), stop_ns, rows_max=rows_max)
        # While we waited, what grew may have grown on, or closed.
        told = self.at_hand(key, start_ns, end_ns)
        if told is not None:
            return told
        self._quiet(key, self._clock.now_ns())
        return Told(cuts, tail, self._book.of(key).absent(start_ns, stop_ns))

    async def trades(
        self, instrument: Instrument, start_ns: int, end_ns: int, *, rows_max: int, ask: bool = True
    ) -> tuple[Columns, Told]:
        """Raw trades of [start_ns, end_ns), the first `rows_max`, and what of them is missing (in a Told without rows).

        With `ask` the venue is asked for what is missing of a stretch that is short enough.
        """
        key = SeriesKey(instrument.name, Of.TRADES)
        end_ns = min(end_ns, self._clock.now_ns() + 1)
        if start_ns >= end_ns:
            return columns_of(Of.TRADES, ()), Told(())
        now_ns = self._clock.now_ns()
        whole = self._sure.whole_to(key, start_ns, min(end_ns, now_ns), now_ns)
        if ask and not whole and self._asks_trades(instrument):
            lacking = self._book.of(key).missing(start_ns, end_ns)
            if lacking and lacking[-1][1] - lacking[0][0] <= self._trades_asked_ns:
                try:
                    await self._history.rows(key, instrument, Query.TRADES, lacking[0][0], lacking[-1][1])
                except Refusal as e:
                    log.info("trades stay missing", instrument=instrument.name, error=e.text)
        # Rows on their way into the store are looked up first: once they are not here any more, the store has them.
        waiting = [row for row in self._writer.waiting(key) if start_ns <= time_of(row) < end_ns]
        columns = await asyncio.to_thread(
            self._series.columns, key, start_ns=start_ns, end_ns=end_ns, limit=rows_max
        )  # fmt: skip
        if waiting:
            columns = _with_waiting(columns, columns_of(Of.TRADES, waiting), rows_max)
        quiet_ns = now_ns - self._settle_ns
        return columns, Told((), (), self._book.of(key).absent(start_ns, min(end_ns, max(quiet_ns, start_ns))))

    def _quiet(self, key: SeriesKey, now_ns: int) -> None:
        """Take note of buckets without a liquidation, where every one was heard: that none came is known."""
        since_ns = self._pulse.heard_since(key) if key.of is Of.LIQUIDATION_BARS else None
        venue = key.instrument.partition(":")[0]
        if since_ns is None or venue not in self._outside.venues():
            return
        if Feed.LIQUIDATIONS not in self._outside.feeds(venue):
            return
        step_ns = key.interval_s * NS
        sure_ns = open_of(now_ns - step_ns, key.interval_s)
        for low_ns, high_ns in self._book.of(key).missing(open_of(since_ns + step_ns - 1, key.interval_s), sure_ns):
            self._book.add(key, low_ns, high_ns, State.EMPTY)

    def _tail(self, key: SeriesKey, start_ns: int, end_ns: int) -> list[Row]:
        return [row for row in self._pulse.growing(key) if start_ns <= time_of(row) < end_ns]

    async def _asked(
        self, instrument: Instrument, key: SeriesKey, start_ns: int, end_ns: int, *, trades: bool
    ) -> list[Row]:
        """Have all candles of the stretch in the store, as far as anybody has them; gives those that may still change."""
        now_ns = self._clock.now_ns()
        settled_ns = max(min(end_ns, open_of(now_ns - self._settle_ns, key.interval_s)), start_ns)
        if key.side is not Side.BOTH:
            if trades:
                await self._made_of_trades(instrument, key, start_ns, settled_ns)
            return self._tail(key, start_ns, end_ns)
        many = max(1, -(-(min(end_ns, now_ns + 1) - start_ns) // (key.interval_s * NS)))
        try:
            told = await self._candles(instrument, key.interval_s, limit=many, start_ns=start_ns, end_ns=end_ns)
        except Refusal as e:
            log.info("candles stay missing", instrument=instrument.name, interval_s=key.interval_s, error=e.text)
            return self._tail(key, start_ns, end_ns)
        sure = [row for row in told.rows if row.closed and row.open_ns + key.interval_s * NS <= settled_ns]
        self._keep(key, start_ns, settled_ns, sure, told.missing)
        return [row for row in told.rows if not row.closed or row.open_ns + key.interval_s * NS > settled_ns]

    def _keep(
        self, key: SeriesKey, start_ns: int, end_ns: int, rows: Sequence[Candle], missing: Sequence[tuple[int, int]]
    ) -> None:
        """What was folded from shorter candles is stored like any other, so that it need not be folded again."""
        coverage = self._book.of(key)
        lacking = [(low_ns, high_ns) for low_ns, high_ns in coverage.missing(start_ns, end_ns) if low_ns < high_ns]
        new = [row for row in rows if any(low_ns <= row.open_ns < high_ns for low_ns, high_ns in lacking)]
        if new:
            self._writer.add(key, new)
        for low_ns, high_ns in lacking:
            at_ns = low_ns
            for hole_ns, hole_end_ns in [*missing, (high_ns, high_ns)]:
                if at_ns < min(hole_ns, high_ns):
                    self._book.add(key, at_ns, min(hole_ns, high_ns), State.HAVE)
                at_ns = max(at_ns, min(hole_end_ns, high_ns))

    async def _made_of_trades(self, instrument: Instrument, key: SeriesKey, start_ns: int, end_ns: int) -> None:
        """Candles of one side come from trades alone: the newest stretch that is missing is asked for, as far as we ask."""
        if not self._asks_trades(instrument):
            return
        async with self._turns.setdefault(instrument.name, asyncio.Lock()):
            lacking = self._book.of(key).missing(start_ns, end_ns)
            if not lacking:
                return
            stop_ns = lacking[-1][1]
            from_ns = open_of(max(lacking[-1][0], stop_ns - self._trades_asked_ns), key.interval_s)
            from_ns = max(from_ns, lacking[-1][0])
            try:
                told = await self._history.rows(
                    SeriesKey(instrument.name, Of.TRADES), instrument, Query.TRADES, from_ns, stop_ns
                )
            except Refusal as e:
                log.info("sides stay missing", instrument=instrument.name, error=e.text)
                return
            if not told.missing:
                self._keep_sides(instrument, [row for row in told.rows if isinstance(row, Trade)], from_ns, stop_ns)

    def _keep_sides(self, instrument: Instrument, trades: Sequence[Trade], start_ns: int, end_ns: int) -> None:
        made: dict[SeriesKey, list[Candle]] = {}
        for candle in candles_of(trades_of(trades), start_ns=start_ns, end_ns=end_ns) if trades else ():
            key = SeriesKey(instrument.name, Of.CANDLES, candle.interval_s, candle.side)
            made.setdefault(key, []).append(candle)
        for interval_s in INTERVALS_S:
            step_ns = interval_s * NS
            low_ns, high_ns = open_of(start_ns + step_ns - 1, interval_s), open_of(end_ns, interval_s)
            for side in Side:
                key = SeriesKey(instrument.name, Of.CANDLES, interval_s, side)
                if low_ns < high_ns:
                    self._keep(key, low_ns, high_ns, made.get(key, ()), ())

    def _asks_trades(self, instrument: Instrument) -> bool:
        return Query.TRADES in self._outside.queries(instrument.venue)


def _with_waiting(stored: Columns, waiting: Columns, rows_max: int) -> Columns:
    """Trades of both in order of time, each once, the first `rows_max`."""
    fresh = set(zip(waiting.at_ns.tolist(), waiting.of["id"].tolist(), strict=True))
    places = zip(stored.at_ns.tolist(), stored.of["id"].tolist(), strict=True)
    old = stored.take(np.fromiter((place not in fresh for place in places), np.bool_, len(stored)))
    both = old.joined(waiting)
    return both.take(np.argsort(both.at_ns, kind="stable")[:rows_max])
