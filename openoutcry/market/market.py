"""Front door of market data: what is, what was, what is missing. Every dialect asks here, and nowhere else."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec
import structlog

from openoutcry.aggregates.rollup import DAY_S, MONTH_S, base_for, bounds_of, rollup
from openoutcry.bus import Bus
from openoutcry.clock import NS, Clock
from openoutcry.errors import BadRange, OutOfReach, TooLarge, Unavailable, UnknownVenue, Unsupported
from openoutcry.events import (
    INTERVALS_S,
    WEEK_S,
    Candle,
    FundingBar,
    FundingRate,
    InterestBar,
    LiquidationBar,
    MarkPrice,
    OpenInterest,
    PredictedFunding,
    Side,
    Ticker,
    Trade,
    open_of,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.market import blocks, columnar, history, latest, live, pulse, writer
from openoutcry.market.beside import Beside
from openoutcry.market.blocks import Blocks
from openoutcry.market.columnar import Columnar
from openoutcry.market.coverage import END_NS, Book, Coverage
from openoutcry.market.history import History, Stretch
from openoutcry.market.latest import Bounded, Latest
from openoutcry.market.live import Growing, Live
from openoutcry.market.outside import Outside, VenueState
from openoutcry.market.pulse import BARS, GrowingBars, NoBars, Pulse
from openoutcry.market.series import Of, Row, Series, SeriesKey, Span, State
from openoutcry.market.stored import Stored
from openoutcry.market.symbols import Symbols
from openoutcry.market.whole import Whole
from openoutcry.market.writer import Writer
from openoutcry.telemetry import Telemetry
from openoutcry.venues.venue import Answer, Ask, Feed, Query

ROWS_MAX = 50_000
# Windows looked through, each twice as long as the one before, for candles of an instrument that seldom trades.
WINDOWS_MAX = 6
# The first window: a short question costs a venue no less than this many rows.
WINDOW_MIN = 98
# Shorter candles that one answer may be folded from: a day of minutes and a window. Beyond it the venue is asked once.
FOLDED_MAX = 3_000
# Lengths that are not stored are asked for in parts up to so many rows, and as they are beyond.
PARTS_MAX = 1_000
# So long a silence, in intervals, at the beginning of a window is taken for the time before the instrument was listed.
SILENCE_MAX = 500
# A trade may still be on its way so long after the end of its minute; before that nobody says "nothing was traded".
QUIET_S = 2.0
# Rows from elsewhere that are handed to the store in one go.
KEPT_AT_ONCE = 5_000
# From when on a venue is asked how it all began, where neither the listing nor the caller says.
EARLIEST_NS = 1_230_768_000 * NS  # 2009-01-01

log = structlog.get_logger()

_R = TypeVar("_R")


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the market, all in the units their names end with."""

    flush_s: float = writer.FLUSH_S
    batch_max: int = writer.BATCH_MAX
    backlog_max: int = writer.BACKLOG_MAX
    trades_backlog_max: int = writer.TRADES_BACKLOG_MAX
    trades_kept_s: float = writer.TRADES_KEPT_S
    candles_kept: int = latest.CANDLES_KEPT
    candles_kept_in_all: int = latest.ROWS_MAX
    candle_fresh_s: float = history.FRESH_S
    settle_s: float = history.SETTLE_S
    pulse_s: float = live.PULSE_S
    grow_s: float = pulse.PULSE_S
    block_rows_max: int = blocks.ROWS_MAX
    trades_asked_s: float = columnar.TRADES_ASKED_S
    interest_fresh_s: float = 5.0
    funding_fresh_s: float = 5.0
    mark_fresh_s: float = 2.0
    ticker_fresh_s: float = 5.0
    predicted_fresh_s: float = 60.0
    settled_funding_fresh_s: float = 60.0


class Candles(msgspec.Struct, frozen=True):
    """Candles oldest first, the growing one last where the question reaches it.

    `missing` names the stretches [start_ns, end_ns) inside the question that nobody has; empty where all is known.
    """

    rows: Sequence[Candle]
    missing: Sequence[tuple[int, int]] = ()


class Bars(msgspec.Struct, frozen=True):
    """Bars of open interest, funding or liquidations, oldest first, and the stretches that nobody has."""

    rows: Sequence[InterestBar | FundingBar | LiquidationBar]
    missing: Sequence[tuple[int, int]] = ()


class Market:
    """Answers from memory where the newest rows are enough, else from the store, else from the venue (asked once).

    Listens to the bus from the moment it is made. `run` writes and pulses until cancelled; `close` stores the rest.
    Raises Unavailable where the store cannot be read.
    """

    def __init__(
        self,
        outside: Outside,
        series: Series,
        bus: Bus,
        clock: Clock,
        telemetry: Telemetry,
        growing: Growing,
        numbers: Numbers | None = None,
        *,
        bars: GrowingBars | None = None,
    ) -> None:
        numbers = numbers or Numbers()
        outside = self._beside = Beside(outside)
        self._outside, self._series, self._clock, self._growing, self._numbers = (
            outside,
            series,
            clock,
            growing,
            numbers,
        )
        self._book = Book(series.coverages())
        self._whole = Whole(self._book)
        self.latest = Latest(candles_kept=numbers.candles_kept, rows_max=numbers.candles_kept_in_all)
        self.writer = Writer(
            bus,
            series,
            self._book,
            self._whole,
            clock,
            telemetry,
            flush_s=numbers.flush_s,
            batch_max=numbers.batch_max,
            backlog_max=numbers.backlog_max,
            trades_backlog_max=numbers.trades_backlog_max,
            trades_kept_s=numbers.trades_kept_s,
        )
        self._deaf = self.latest.listen(bus)
        self._history = History(
            outside,
            series,
            self._book,
            self.writer,
            self.latest,
            clock,
            telemetry,
            fresh_s=numbers.candle_fresh_s,
            settle_s=numbers.settle_s,
        )
        self.live = Live(bus, growing, clock, self._known, pulse_s=numbers.pulse_s)
        self._grown = bars or NoBars()
        self.pulse = Pulse(bus, growing, self._grown, clock, pulse_s=numbers.grow_s)
        kept = Blocks(series, self.writer.waiting, rows_max=numbers.block_rows_max)
        self.writer.on_row = kept.on_row
        self.columnar = Columnar(
            outside=outside,
            series=series,
            book=self._book,
            writer=self.writer,
            history=self._history,
            blocks=kept,
            pulse=self.pulse,
            clock=clock,
            candles=self.candles,
            sure=self,
            settle_s=numbers.settle_s,
            trades_asked_s=numbers.trades_asked_s,
        )
        self.stored = Stored(
            outside=outside, series=series, book=self._book, writer=self.writer, latest=self.latest, clock=clock
        )
        self._symbols: dict[str, Symbols] = {}
        self._followers: dict[str, int] = {}
        self._flights: dict[Hashable, asyncio.Task[Any]] = {}
        self._told_ns: Bounded[Hashable, int] = Bounded(latest.INSTRUMENTS_MAX)
        self._background: set[asyncio.Task[None]] = set()
        # Called for whoever begins to be followed: live candles need what was before them (market/warm.py).
        self.on_follow: Callable[[Instrument], Coroutine[Any, Any, None]] | None = None

    # -- running

    async def run(self) -> None:
        """Write what comes and tell followers what grows, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.writer.run())
            tasks.create_task(self.live.run())
            tasks.create_task(self.pulse.run())

    async def close(self) -> None:
        """Hear no more, give up questions on their way, and store what waits."""
        self._deaf()
        tasks = [*self._flights.values(), *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._history.close()
        await self.writer.close()

    # -- venues and instruments

    def venues(self) -> Mapping[str, VenueState]:
        """The venues that are on."""
        return self._outside.venues()

    def feeds(self, venue: str) -> frozenset[Feed]:
        """What can be followed there. Raises UnknownVenue."""
        return self._outside.feeds(venue)

    def queries(self, venue: str) -> frozenset[Query]:
        """What its REST side can be asked. Raises UnknownVenue."""
        return self._outside.queries(venue)

    def intervals_s(self, venue: str) -> frozenset[int]:
        """Candle lengths its REST side serves. Raises UnknownVenue."""
        return self._outside.intervals_s(venue)

    async def raw(self, venue: str, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        """The venue's answer untouched, whatever its status. Raises UnknownVenue, Unavailable."""
        return await self._outside.raw(venue, path, query, weight)

    async def instruments(self, venue: str) -> Mapping[str, Instrument]:
        """The venue's listing by symbol. Raises UnknownVenue, Unavailable."""
        return (await self._listing(venue)).listing

    async def instrument(self, venue: str, symbol: str) -> Instrument:
        """Raises UnknownVenue, UnknownInstrument, Unavailable (no listing yet and the venue does not answer)."""
        return (await self._listing(venue)).find(symbol)

    def listed_beside(self) -> Sequence[str]:
        """Venues that are no outside exchange, but whose instruments are told by files."""
        return sorted(self._beside.listed)

    async def list_beside(self, venue: str, instruments: Iterable[Instrument]) -> None:
        """Know these instruments of such a venue, and those that were told of it before. Raises Unavailable (the store)."""
        assert venue not in self._outside.venues()
        known = self._beside.listed.get(venue)
        if known is None:
            known = {each.symbol: each for each in await asyncio.to_thread(self._series.listing, venue)}
        listed = {**known, **{each.symbol: each for each in instruments}}
        if listed != known:
            await asyncio.to_thread(self._series.save_listing, venue, list(listed.values()))
        if listed != known or venue not in self._beside.listed:
            self._beside.listed[venue] = listed
            self._symbols[venue] = Symbols(venue, listed)

    async def keep(self, key: SeriesKey, rows: Sequence[Row], start_ns: int, end_ns: int) -> None:
        """Rows from elsewhere than a venue, which are with those kept before all there are of [start_ns, end_ns).

        Raises Unavailable where the store does not take them.
        """
        for at in range(0, len(rows), KEPT_AT_ONCE):
            self.writer.add(key, rows[at : at + KEPT_AT_ONCE])
            # Years of rows at once must not push out what is live.
            if self.writer.backlog >= KEPT_AT_ONCE and not await self.writer.flush():
                raise Unavailable("store", "the store does not take what was read")
        self._book.add(key, start_ns, end_ns, State.HAVE)

    async def _listing(self, venue: str) -> Symbols:
        if venue not in self._outside.venues() and venue not in self._beside.listed:
            raise UnknownVenue(f"no venue {venue[:64]}; there are {', '.join(sorted(self._outside.venues()))}")
        listing = self._outside.instruments(venue)
        known = self._symbols.get(venue)
        if not listing:
            try:
                listing = await self._outside.listing(venue)
            except Unavailable:
                if known is not None:
                    return known
                stored = await asyncio.to_thread(self._series.listing, venue)
                if not stored:
                    raise
                # What it listed when it last answered: better than not to know any instrument.
                listing = {each.symbol: each for each in stored}
                known = self._symbols[venue] = Symbols(venue, listing)
                return known
        if known is None or known.listing is not listing:
            known = self._symbols[venue] = Symbols(venue, listing)
            self._start(self._save_listing(venue, list(listing.values())))
        return known

    async def _save_listing(self, venue: str, listing: Sequence[Instrument]) -> None:
        try:
            await asyncio.to_thread(self._series.save_listing, venue, listing)
        except Unavailable as e:
            log.warning("listing not stored", venue=venue, error=e.text)

    # -- following

    def follow(self, instrument: Instrument, feeds: Iterable[Feed]) -> Callable[[], None]:
        """Subscribe, however many follow. Returns the way to let go. Raises UnknownVenue, Unsupported, LimitExceeded."""
        wanted = frozenset(feeds)
        stop = self._outside.follow(instrument, wanted)
        name = instrument.name
        if Feed.TRADES in wanted:
            self._followers[name] = self._followers.get(name, 0) + 1
            if self._followers[name] == 1 and self.on_follow is not None:
                self._start(self.on_follow(instrument))
        gone = False

        def let_go() -> None:
            nonlocal gone
            if gone:
                return
            gone = True
            stop()
            if Feed.TRADES in wanted:
                self._followers[name] -= 1
                if not self._followers[name]:
                    # Half a minute of trades must not close as a whole one.
                    del self._followers[name]
                    self._growing.drop(name)
                    self._whole.forget(name)

        return let_go

    def follow_candles(
        self, instrument: Instrument, interval_s: int, listener: Callable[[Candle], None]
    ) -> Callable[[], None]:
        """Call `listener` with the growing candle, at most four times a second, and with each closed one.

        Returns the way to stop. Raises BadInterval, Unsupported, LimitExceeded.
        """
        base_for(interval_s)
        feeds = {Feed.TRADES, Feed.CANDLES} & self._outside.feeds(instrument.venue)
        let_go = self.follow(instrument, feeds)
        stop = self.live.follow(instrument.name, interval_s, listener)
        needs = self.live.needs(instrument.name, interval_s)
        if needs is not None:
            self._start(self._seed_live(instrument, interval_s, *needs))

        def end() -> None:
            stop()
            let_go()

        return end

    async def _seed_live(self, instrument: Instrument, interval_s: int, base_s: int, start_ns: int) -> None:
        now_ns = open_of(self._clock.now_ns(), base_s)
        if start_ns < now_ns:
            try:
                told = await self._stretch(instrument, base_s, Side.BOTH, start_ns, now_ns)
            except Unavailable as e:
                log.info("growing candle begins with the next one", instrument=instrument.name, error=e.text)
                return
            self.live.seed(instrument.name, interval_s, start_ns, cast("Sequence[Candle]", told.rows))

    def _known(self, instrument: str, interval_s: int, start_ns: int, end_ns: int) -> bool:
        return self._book.of(SeriesKey(instrument, Of.CANDLES, interval_s)).whole(start_ns, end_ns)

    # -- candles

    def newest(
        self, instrument: str, interval_s: int, limit: int, side: Side = Side.BOTH
    ) -> tuple[Sequence[Candle], Candle | None] | None:
        """The newest candles (oldest first, `limit` closed ones or more) and the growing one, from memory and at once.

        The first may end with candles that are over but not sure yet. None where memory does not hold that many whole:
        ask `candles`.
        """
        key = SeriesKey(instrument, Of.CANDLES, interval_s, side)
        now_ns = self._clock.now_ns()
        edge = self.edge(key, now_ns)
        if edge is not None:
            end_ns, tail = edge
            rows = self.latest.newest(key, end_ns, limit)
            if rows is not None and self.whole_to(key, rows[0].open_ns if rows else end_ns, end_ns, now_ns):
                return _parted(rows, tail)
        recent = self._history.recent(key)
        if recent is None:
            return None
        rows = self.latest.newest(key, recent.from_ns, limit)
        if rows is None or not self._book.of(key).whole(rows[0].open_ns if rows else recent.from_ns, recent.from_ns):
            return None
        return _parted(rows, recent.rows)

    def unsure_ns(self, instrument: str, interval_s: int) -> int | None:
        """When the oldest candle opened that is being built and not closed, known whole or not; None: there is none."""
        if interval_s not in INTERVALS_S:
            return None
        partial = self._growing.growing(instrument, interval_s, partial=True)
        waiting = [*self._growing.unclosed(instrument, interval_s), *([] if partial is None else [partial])]
        return min((candle.open_ns for candle in waiting), default=None)

    async def candles(
        self,
        instrument: Instrument,
        interval_s: int,
        *,
        limit: int,
        side: Side = Side.BOTH,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Candles:
        """Start given: the first `limit` from there (inside end, if given). Else the newest `limit` (up to end).

        `interval_s` may be any multiple we can roll up (3m 30m 2h 6h 8h 12h 3d too). Both bounds refer to open times,
        end exclusive. Raises BadInterval, BadRange, TooLarge, Unavailable (nobody has it whole and the venue does not
        answer).
        """
        base_for(interval_s)
        _check(limit, start_ns, end_ns)
        now_open_ns, now_end_ns = bounds_of(self._clock.now_ns(), interval_s)
        top_ns = now_end_ns if end_ns is None else min(_up(end_ns, interval_s), now_end_ns)
        if top_ns <= _begun(instrument, interval_s):
            return Candles([])
        if start_ns is not None:
            return await self._first(
                instrument, interval_s, side, limit, _up(start_ns, interval_s), top_ns, now_open_ns
            )
        answer, low_ns = await self._newest(instrument, interval_s, side, limit, top_ns, now_open_ns)
        if end_ns is None and not answer.missing:
            key = SeriesKey(instrument.name, Of.CANDLES, interval_s, side)
            self._keep(key, low_ns, cast("Sequence[Candle]", answer.rows))
        rows = cast("list[Candle]", [*answer.rows, *answer.tail])
        return Candles(rows[-limit:], answer.missing)

    async def _first(
        self,
        instrument: Instrument,
        interval_s: int,
        side: Side,
        limit: int,
        start_ns: int,
        top_ns: int,
        now_open_ns: int,
    ) -> Candles:
        """Forward from `start_ns`, in windows that grow where there is little, until there are enough."""
        rows: list[Candle] = []
        missing: list[tuple[int, int]] = []
        key = SeriesKey(instrument.name, Of.CANDLES, interval_s, side)
        low_ns, many = max(start_ns, _begun(instrument, interval_s)), limit
        for _ in range(WINDOWS_MAX):
            low_ns = self._after_empty(key, low_ns, top_ns)
            if low_ns >= top_ns or len(rows) >= limit:
                break
            high_ns = min(_step(low_ns, interval_s, many), top_ns)
            told = await self._stretch(
                instrument,
                interval_s,
                side,
                low_ns,
                min(high_ns, now_open_ns),
                growing=high_ns > now_open_ns,
                first=(limit, top_ns),
            )
            rows.extend(cast("Sequence[Candle]", [*told.rows, *told.tail]))
            missing.extend(told.missing)
            low_ns, many = high_ns, many * 2
        rows = rows[:limit]
        if len(rows) == limit:
            end_ns = rows[-1].open_ns
            missing = [each for each in missing if each[0] < end_ns]
        return Candles(rows, missing)

    def _after_empty(self, key: SeriesKey, at_ns: int, top_ns: int) -> int:
        """Past what is known to be empty, so that the years before a listing are not looked through."""
        if at_ns >= top_ns:
            return at_ns
        span = self._book.of(key).query(at_ns, top_ns)[0]
        return span.end_ns if span.state is State.EMPTY else at_ns

    async def _newest(
        self, instrument: Instrument, interval_s: int, side: Side, limit: int, top_ns: int, now_open_ns: int
    ) -> tuple[Stretch, int]:
        """Back from `top_ns`, in windows that grow where there is little; and from where on the answer tells all."""
        growing = top_ns > now_open_ns
        high_ns = min(top_ns, now_open_ns)
        begun_ns = _begun(instrument, interval_s)
        served_s = interval_s if interval_s in INTERVALS_S or self._asks(instrument, interval_s, side) else 0
        key = SeriesKey(instrument.name, Of.CANDLES, served_s or self._base(instrument, interval_s, side), side)
        many, least = limit, _window_min(interval_s)
        for _ in range(WINDOWS_MAX):
            low_ns = max(_step(high_ns, interval_s, -many), min(begun_ns, high_ns))
            if many < least and side is Side.BOTH and self._asks_for(instrument, interval_s, side, low_ns, high_ns):
                many = least
                low_ns = max(_step(high_ns, interval_s, -many), min(begun_ns, high_ns))
            told = await self._stretch(instrument, interval_s, side, low_ns, high_ns, growing=growing)
            silent_ns = _step(low_ns, interval_s, SILENCE_MAX)
            young = self._book.of(key).query(low_ns, silent_ns) == [Span(low_ns, silent_ns, State.EMPTY)]
            if len(told.rows) >= limit or low_ns <= begun_ns or young or told.missing:
                break
            many *= 2
        rows = told.rows[-limit:]
        if len(told.rows) > limit:
            low_ns = cast("Candle", rows[0]).open_ns
        return Stretch(rows, told.tail, [each for each in told.missing if each[1] > low_ns]), low_ns

    async def _stretch(
        self,
        instrument: Instrument,
        interval_s: int,
        side: Side,
        start_ns: int,
        end_ns: int,
        *,
        growing: bool = False,
        first: tuple[int, int] | None = None,
    ) -> Stretch:
        """All candles of [start_ns, end_ns), which ends no later than now; with `growing` those after them.

        From memory and store, folded from shorter ones that we have whole, else from the venue, which is asked for nothing
        that we know: what grows is known where the instrument is followed.
        """
        key = SeriesKey(instrument.name, Of.CANDLES, interval_s, side)
        now_ns = self._clock.now_ns()
        edge = await self._edge_or_folded(instrument, key, now_ns) if growing else None
        if edge is None:
            return await self._before(instrument, key, start_ns, end_ns, growing=growing, first=first)
        # Where nothing was traded since, or the last one is not sure yet, the closed ones end before.
        end_ns = max(min(end_ns, edge[0]), start_ns)
        self.whole_to(key, start_ns, end_ns, now_ns)
        told = await self._before(instrument, key, start_ns, end_ns, first=first)
        return Stretch(told.rows, [row for row in edge[1] if row.open_ns >= start_ns], told.missing)

    async def _before(
        self,
        instrument: Instrument,
        key: SeriesKey,
        start_ns: int,
        end_ns: int,
        *,
        growing: bool = False,
        first: tuple[int, int] | None = None,
    ) -> Stretch:
        """The same without what grows live: with `growing` the venue is asked for that."""
        lack = None if growing else self._folds(key, start_ns, end_ns)
        if lack is not None:
            lack_ns, base_s = lack
            told = await self._history.rows(key, instrument, None, start_ns, lack_ns)
            rest = await self._folded(instrument, base_s, key, lack_ns, end_ns)
            return Stretch([*told.rows, *rest.rows], rest.tail, [*told.missing, *rest.missing])
        if first is None and self._in_parts(instrument, key, start_ns, end_ns, growing=growing):
            base_s = _shorter(key.interval_s, INTERVALS_S)[0]
            return await self._folded(instrument, base_s, key, start_ns, end_ns, growing=growing)
        asked = Query.CANDLES if self._asks(instrument, key.interval_s, key.side) else None
        base_s = self._base(instrument, key.interval_s, key.side)
        if key.interval_s in INTERVALS_S or asked is not None:
            told = await self._history.rows(key, instrument, asked, start_ns, end_ns, growing=growing, first=first)
            # What grows is not told of a length that is stored but not served.
            if asked is not None or not base_s or not (growing or told.missing):
                return told
        if not base_s:
            raise Unsupported(f"{instrument.venue} has no candles of {key.interval_s} s")
        return await self._folded(instrument, base_s, key, start_ns, end_ns, growing=growing)

    async def _folded(
        self, instrument: Instrument, base_s: int, key: SeriesKey, start_ns: int, end_ns: int, *, growing: bool = False
    ) -> Stretch:
        """Candles of `key` from those of `base_s`."""
        interval_s = key.interval_s
        base_end_ns = open_of(self._clock.now_ns(), base_s) if growing else end_ns
        told = await self._stretch(instrument, base_s, key.side, start_ns, base_end_ns, growing=growing)
        parts = cast("Sequence[Candle]", [*told.rows, *told.tail])
        # From the first part on that may still change nothing is sure.
        sure_ns = told.tail[0].open_ns if told.tail else end_ns
        rolled = rollup(parts, interval_s, start_ns=start_ns, end_ns=None if growing else end_ns)
        holed = {bounds_of(at_ns, interval_s)[0] for stretch in told.missing for at_ns in _opens(stretch, interval_s)}
        rolled = [candle for candle in rolled if candle.open_ns not in holed]
        missing = [(at_ns, bounds_of(at_ns, interval_s)[1]) for at_ns in sorted(holed)]
        ends = [bounds_of(candle.open_ns, interval_s)[1] for candle in rolled]
        closed = sum(1 for at_ns in ends if at_ns <= sure_ns)
        return Stretch(
            [_marked(candle, closed=True) for candle in rolled[:closed]],
            [_marked(candle, closed=False) for candle in rolled[closed:]],
            missing,
        )

    def _asks(self, instrument: Instrument, interval_s: int, side: Side) -> bool:
        """Whether the venue itself serves these candles; no venue serves them by side."""
        venue = instrument.venue
        return (
            side is Side.BOTH
            and interval_s != MONTH_S
            and Query.CANDLES in self._outside.queries(venue)
            and interval_s in self._outside.intervals_s(venue)
        )

    def _asks_for(self, instrument: Instrument, interval_s: int, side: Side, start_ns: int, end_ns: int) -> bool:
        """Whether closed candles of that stretch can only come from the venue."""
        key = SeriesKey(instrument.name, Of.CANDLES, interval_s, side)
        return bool(self._book.of(key).missing(start_ns, end_ns)) and self._folds(key, start_ns, end_ns) is None

    def _base(self, instrument: Instrument, interval_s: int, side: Side) -> int:
        """What to fold candles of `interval_s` from: the longest that is stored or served; 0 where nothing is."""
        served = self._outside.intervals_s(instrument.venue) if side is Side.BOTH else frozenset(INTERVALS_S)
        return next(iter(_shorter(interval_s, served)), 0)

    def _in_parts(self, instrument: Instrument, key: SeriesKey, start_ns: int, end_ns: int, *, growing: bool) -> bool:
        """Whether to ask for shorter candles instead, of which one question answers for several lengths."""
        if key.interval_s in INTERVALS_S or not (growing or self._book.of(key).missing(start_ns, end_ns)):
            return False
        base_s = _shorter(key.interval_s, INTERVALS_S)[0]
        return end_ns - start_ns <= PARTS_MAX * base_s * NS and self._asks(instrument, base_s, key.side)

    def _folds(self, key: SeriesKey, start_ns: int, end_ns: int) -> tuple[int, int] | None:
        """From where on candles are missing that shorter ones, which we have whole, can be folded into, and which."""
        lacking = self._book.of(key).missing(start_ns, end_ns)
        if not lacking:
            return None
        lack_ns = bounds_of(lacking[0][0], key.interval_s)[0]
        for base_s in _shorter(key.interval_s, INTERVALS_S):
            if lack_ns >= start_ns and end_ns - lack_ns <= FOLDED_MAX * base_s * NS:
                base = SeriesKey(key.instrument, Of.CANDLES, base_s, key.side)
                if self._book.of(base).whole(lack_ns, end_ns):
                    return lack_ns, base_s
        return None

    def edge(self, key: SeriesKey, now_ns: int) -> tuple[int, Sequence[Candle]] | None:
        """Where the closed candles of a followed instrument end, and those after them, the growing one last.

        None where the instrument is not followed whole since that candle opened.
        """
        if key.interval_s not in INTERVALS_S or not self._outside.followed(key.instrument, Feed.TRADES):
            return None
        now_open_ns = open_of(now_ns, key.interval_s)
        tail = self._growing.unclosed(key.instrument, key.interval_s, key.side)
        if tail:
            return tail[0].open_ns, tail
        since_ns = self._whole.since(key.instrument)
        if since_ns is None or since_ns > now_open_ns:
            return None
        partial = self._growing.growing(key.instrument, key.interval_s, key.side, partial=True)
        return None if partial is not None else (now_open_ns, ())

    async def _edge_or_folded(
        self, instrument: Instrument, key: SeriesKey, now_ns: int
    ) -> tuple[int, Sequence[Candle]] | None:
        """The same, where need be folded from shorter candles: of any length, if those are known since it opened."""
        edge = self.edge(key, now_ns)
        if edge is not None:
            return edge
        for base_s in _shorter(key.interval_s, INTERVALS_S):
            base = SeriesKey(key.instrument, Of.CANDLES, base_s, key.side)
            below = self.edge(base, now_ns)
            if below is None:
                continue
            base_ns, tail = below
            open_ns = bounds_of(base_ns, key.interval_s)[0]
            if base_ns - open_ns > FOLDED_MAX * base_s * NS or not self.whole_to(base, open_ns, base_ns, now_ns):
                continue
            told = await self._history.rows(base, instrument, None, open_ns, base_ns)
            if not told.missing:
                self._keep(base, open_ns, cast("Sequence[Candle]", told.rows))
                parts = cast("Sequence[Candle]", [*told.rows, *tail])
                rolled = rollup(parts, key.interval_s, start_ns=open_ns)
                return open_ns, [_marked(candle, closed=False) for candle in rolled]
        return None

    def whole_to(self, key: SeriesKey, start_ns: int, end_ns: int, now_ns: int) -> bool:
        """Whether nothing is missing up to `end_ns`, counting buckets in which a followed instrument was quiet."""
        coverage = self._book.of(key)
        if coverage.whole(start_ns, end_ns):
            return True
        if key.interval_s not in INTERVALS_S:
            # Nobody hears candles of other lengths close: silence says nothing about them.
            return False
        self._whole.quiet(key, end_ns, now_ns - round(QUIET_S * NS))
        return self._book.of(key).whole(start_ns, end_ns)

    def _keep(self, key: SeriesKey, start_ns: int, rows: Sequence[Candle]) -> None:
        coverage = self._book.of(key)
        step_ns = key.interval_s * NS
        if key.interval_s == MONTH_S or not rows or not coverage.whole(start_ns, rows[0].open_ns + step_ns):
            return
        # What closed just now may still change: it joins when it is settled.
        self.latest.keep(key, start_ns, [row for row in rows if coverage.whole(row.open_ns, row.open_ns + step_ns)])

    # -- trades and bars

    async def trades(
        self, instrument: Instrument, *, limit: int, start_ns: int | None = None, end_ns: int | None = None
    ) -> Sequence[Trade]:
        """Raw trades, oldest first: the first `limit` from `start_ns`, else the newest `limit` we have (up to end).

        A stretch with a start is fetched from the venue where it is missing and the venue serves it. Raises BadRange,
        TooLarge, Unavailable.
        """
        _check(limit, start_ns, end_ns)
        key = SeriesKey(instrument.name, Of.TRADES)
        if start_ns is None:
            rows = await self._stored(key, None, end_ns, limit, newest=True)
            return cast("Sequence[Trade]", rows)
        now_ns = self._clock.now_ns()
        until_ns = now_ns if end_ns is None else min(end_ns, now_ns)
        if until_ns <= start_ns:
            return []
        if self._outside.followed(instrument.name, Feed.TRADES):
            self._whole.quiet(key, now_ns, now_ns - round(QUIET_S * NS))
        query = Query.TRADES if Query.TRADES in self._outside.queries(instrument.venue) else None
        told = await self._history.rows(key, instrument, query, start_ns, until_ns)
        return cast("Sequence[Trade]", told.rows[:limit])

    async def open_interest_bars(
        self,
        instrument: Instrument,
        interval_s: int,
        *,
        limit: int,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Bars:
        """Closed bars of open interest as we saw it live: bounds as in `candles`. Raises BadRange, Unavailable."""
        key = SeriesKey(instrument.name, Of.INTEREST_BARS, interval_s)
        return await self._bars(key, limit, start_ns, end_ns)

    async def funding_bars(
        self,
        instrument: Instrument,
        interval_s: int,
        *,
        limit: int,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Bars:
        """Closed bars of the running funding rate as we saw it live. Raises BadRange, Unavailable."""
        return await self._bars(SeriesKey(instrument.name, Of.FUNDING_BARS, interval_s), limit, start_ns, end_ns)

    async def liquidation_bars(
        self,
        instrument: Instrument,
        interval_s: int,
        *,
        limit: int,
        side: Side,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Bars:
        """Closed bars of liquidations of one side as we saw them live. Raises BadRange, Unavailable."""
        key = SeriesKey(instrument.name, Of.LIQUIDATION_BARS, interval_s, side)
        return await self._bars(key, limit, start_ns, end_ns)

    async def _bars(self, key: SeriesKey, limit: int, start_ns: int | None, end_ns: int | None) -> Bars:
        _check(limit, start_ns, end_ns)
        rows = await self._stored(key, start_ns, end_ns, limit, newest=start_ns is None)
        bars = cast("Sequence[InterestBar | FundingBar | LiquidationBar]", rows)
        if not bars:
            return Bars([], [])
        last_ns = bars[-1].open_ns + key.interval_s * NS
        return Bars(bars, self._book.of(key).absent(bars[0].open_ns if start_ns is None else start_ns, last_ns))

    async def _stored(
        self, key: SeriesKey, start_ns: int | None, end_ns: int | None, limit: int, *, newest: bool
    ) -> Sequence[Any]:
        # What waits for the store goes there first, so that there is one place to read from.
        if self.writer.waiting(key):
            await self.writer.flush()
        return await asyncio.to_thread(
            self._series.read, key, start_ns=start_ns, end_ns=end_ns, limit=limit, newest=newest
        )  # fmt: skip

    def coverage(self, key: SeriesKey) -> Coverage:
        """What is known of a series; not to be changed."""
        return self._book.of(key)

    # -- which series there are

    def stamp(self) -> tuple[int, int]:
        """Changes whenever there is another series, stored or growing."""
        return self._book.firsts, self._grown.firsts

    def series(self, instrument: str | None = None) -> Iterable[SeriesKey]:
        """Series of which anything was ever said (of that instrument); not to be kept."""
        return self._book.all() if instrument is None else self._book.keys(instrument)

    def begun(self) -> Mapping[tuple[Of, str], int]:
        """When bars began (ns) that are in memory and perhaps not stored yet, by sort and instrument."""
        of = {kind: each for each, kind in BARS.items()}
        return {(of[kind], name): open_ns for (kind, name), open_ns in self._grown.begun().items()}

    # -- open interest, funding, prices

    async def open_interest(self, instrument: Instrument) -> OpenInterest:
        """Now, with `value` in USD (from the mark price where the venue gives none). Raises Unsupported, Unavailable."""
        interest = await self._now(
            instrument, Feed.OPEN_INTEREST, Query.OPEN_INTEREST, self._numbers.interest_fresh_s, self.latest.interest
        )
        if interest.value is not None:
            return interest
        try:
            mark = await self.mark_price(instrument)
        except (Unavailable, Unsupported):
            return interest
        return msgspec.structs.replace(interest, value=interest.size * mark.mark)

    async def open_interest_history(
        self, instrument: Instrument, interval_s: int, *, limit: int
    ) -> Sequence[OpenInterest]:
        """The newest `limit` samples, oldest first. Raises Unsupported, BadInterval, Unavailable."""
        _check(limit, None, None)
        if Query.OPEN_INTEREST_HISTORY not in self._outside.queries(instrument.venue):
            return await self._interest_from_bars(instrument, interval_s, limit)
        key = SeriesKey(instrument.name, Of.INTEREST, interval_s)
        end_ns = open_of(self._clock.now_ns(), interval_s) + interval_s * NS
        start_ns = end_ns - limit * interval_s * NS
        told = await self._history.rows(key, instrument, Query.OPEN_INTEREST_HISTORY, start_ns, end_ns)
        return cast("Sequence[OpenInterest]", told.rows)[-limit:]

    async def _interest_from_bars(
        self, instrument: Instrument, interval_s: int, limit: int
    ) -> Sequence[OpenInterest]:  # fmt: skip
        """What we saw ourselves, where the venue keeps no history of it."""
        if Feed.OPEN_INTEREST not in self._outside.feeds(instrument.venue) or instrument.kind is Kind.SPOT:
            raise Unsupported(f"{instrument.venue} has no open interest history of {instrument.symbol}")
        bars = cast("Sequence[InterestBar]", (await self.open_interest_bars(instrument, interval_s, limit=limit)).rows)
        return [
            OpenInterest(bar.instrument, bar.open_ns + interval_s * NS, bar.received_ns, bar.close, bar.value)
            for bar in bars
        ]

    async def funding(self, instrument: Instrument) -> FundingRate:
        """The running rate and when it will be settled. Raises Unsupported (spot), Unavailable."""
        return await self._now(
            instrument, Feed.FUNDING, Query.FUNDING, self._numbers.funding_fresh_s, self.latest.funding
        )

    async def mark_price(self, instrument: Instrument) -> MarkPrice:
        """The newest mark price. Raises Unsupported, Unavailable."""
        return await self._now(
            instrument, Feed.MARK_PRICE, Query.FUNDING, self._numbers.mark_fresh_s, self.latest.marks
        )

    async def ticker(self, instrument: Instrument) -> Ticker:
        """The rolling 24-hour summary. Raises Unsupported, Unavailable."""
        known = self.latest.tickers.get(instrument.name)
        if known is not None and self._clock.now_ns() - known.received_ns <= self._numbers.ticker_fresh_s * NS:
            return known
        flight = ("tickers", instrument.venue)
        ask = Ask(query=Query.TICKERS)
        await self._once(flight, self._numbers.ticker_fresh_s, lambda: self._ask(instrument.venue, ask))
        told = self.latest.tickers.get(instrument.name)
        if told is None:
            raise Unsupported(f"{instrument.venue} has no ticker of {instrument.symbol}")
        return told

    async def predicted_funding(self, venue: str) -> Sequence[PredictedFunding]:
        """All predictions of that venue, at most a minute old. Raises UnknownVenue, Unsupported, Unavailable."""
        if Query.PREDICTED_FUNDING not in self._outside.queries(venue):
            raise Unsupported(f"{venue} predicts no funding")
        fresh_s = self._numbers.predicted_fresh_s
        await self._once(("predicted", venue), fresh_s, lambda: self._ask_predicted(venue))
        return self.latest.predicted(venue)

    async def funding_history(
        self,
        instrument: Instrument,
        *,
        limit: int,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Sequence[FundingRate]:
        """Settled rates, oldest first, the newest `limit`. Raises Unsupported, BadRange, Unavailable."""
        _check(limit, start_ns, end_ns)
        if instrument.kind is not Kind.PERPETUAL:
            raise Unsupported(f"{instrument.venue} pays no funding on {instrument.symbol}")
        query = Query.FUNDING_HISTORY if Query.FUNDING_HISTORY in self._outside.queries(instrument.venue) else None
        key = SeriesKey(instrument.name, Of.FUNDING)
        # The venue is asked for new ones once in so long, and not by every question.
        slack_ns = round(self._numbers.settled_funding_fresh_s * NS)
        top_ns = (
            (self._clock.now_ns() - slack_ns) // slack_ns * slack_ns + slack_ns if slack_ns else self._clock.now_ns()
        )
        until_ns = top_ns if end_ns is None else min(end_ns, top_ns)
        if start_ns is not None:
            if until_ns <= start_ns:
                return []
            told = await self._history.rows(key, instrument, query, start_ns, until_ns)
            return cast("Sequence[FundingRate]", told.rows)[-limit:]
        return await self._newest_rates(key, instrument, query, limit, until_ns)

    async def _newest_rates(
        self, key: SeriesKey, instrument: Instrument, query: Query | None, limit: int, until_ns: int
    ) -> Sequence[FundingRate]:
        rows = cast("Sequence[FundingRate]", await self._stored(key, None, until_ns, limit, newest=True))
        coverage = self._book.of(key)
        enough = len(rows) == limit or (bool(rows) and not coverage.missing(0, rows[0].funding_ns))
        if rows and enough:
            # Only what was settled since may be missing: a short question.
            told = await self._history.rows(key, instrument, query, rows[0].funding_ns, until_ns)
        else:
            told = await self._history.rows(key, instrument, query, EARLIEST_NS, until_ns, newest=limit)
        return cast("Sequence[FundingRate]", told.rows)[-limit:]

    async def _now(
        self, instrument: Instrument, feed: Feed, query: Query, fresh_s: float, known: Bounded[str, _R]
    ) -> _R:
        """The newest of something: as followed, else asked at most every `fresh_s`, once for all who wait."""
        venue, name = instrument.venue, instrument.name
        newest = known.get(name)
        if newest is not None and self._outside.followed(name, feed):
            return newest
        if instrument.kind is Kind.SPOT or query not in self._outside.queries(venue):
            if newest is not None and instrument.kind is not Kind.SPOT:
                return newest
            raise Unsupported(f"{venue} has no {feed.replace('_', ' ')} of {instrument.symbol}")
        ask = Ask(query=query, symbol=instrument.symbol)
        await self._once((query, name), fresh_s, lambda: self._ask(venue, ask))
        newest = known.get(name)
        if newest is None:
            raise OutOfReach(venue, f"{venue} tells no {feed.replace('_', ' ')} of {instrument.symbol}")
        return newest

    async def _ask(self, venue: str, ask: Ask) -> None:
        """What the answer says becomes the newest."""
        keep: Mapping[type, Callable[[Any], None]] = {
            OpenInterest: self.latest.on_interest,
            FundingRate: self.latest.on_funding,
            MarkPrice: self.latest.on_mark,
            Ticker: lambda ticker: self.latest.tickers.put(ticker.instrument, ticker),
        }
        async for page in self._outside.ask(venue, ask):
            for event in page.events:
                if type(event) in keep:
                    keep[type(event)](event)

    async def _ask_predicted(self, venue: str) -> None:
        table: list[PredictedFunding] = []
        async for page in self._outside.ask(venue, Ask(query=Query.PREDICTED_FUNDING)):
            table.extend(event for event in page.events if isinstance(event, PredictedFunding))
        self.latest.replace_predicted(venue, table)

    async def _once(self, what: Hashable, fresh_s: float, ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Ask, unless it was answered less than `fresh_s` ago or the question is on its way; then wait for that one."""
        told_ns = self._told_ns.get(what)
        if told_ns is not None and self._clock.now_ns() - told_ns <= fresh_s * NS:
            return
        task = self._flights.get(what)
        if task is None:
            task = self._flights[what] = asyncio.create_task(ask())

            def landed(done: asyncio.Task[None]) -> None:
                del self._flights[what]
                if not done.cancelled() and done.exception() is None:
                    self._told_ns.put(what, self._clock.now_ns())

            task.add_done_callback(landed)
        waiting: Awaitable[None] = asyncio.shield(task)
        await waiting

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _check(limit: int, start_ns: int | None, end_ns: int | None) -> None:
    if limit < 1:
        raise BadRange("the limit must be at least 1")
    if limit > ROWS_MAX:
        raise TooLarge(f"at most {ROWS_MAX} rows in one answer")
    if any(bound_ns is not None and not 0 <= bound_ns < END_NS for bound_ns in (start_ns, end_ns)):
        raise BadRange("start and end must lie between the years 1970 and 2262")
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        raise BadRange("the start must lie before the end")


def _up(at_ns: int, interval_s: int) -> int:
    """The first opening at or after `at_ns`."""
    open_ns, end_ns = bounds_of(at_ns, interval_s)
    return open_ns if open_ns == at_ns else end_ns


def _step(open_ns: int, interval_s: int, many: int) -> int:
    """The opening `many` intervals later (or before)."""
    if interval_s != MONTH_S:
        return open_ns + many * interval_s * NS
    for _ in range(abs(many)):
        open_ns = bounds_of(open_ns, MONTH_S)[1] if many > 0 else bounds_of(open_ns - 1, MONTH_S)[0]
    return open_ns


def _begun(instrument: Instrument, interval_s: int) -> int:
    """The opening before which the instrument had no candles."""
    begun_ns = EARLIEST_NS if instrument.listed_ns is None else max(instrument.listed_ns, EARLIEST_NS)
    return bounds_of(begun_ns, interval_s)[0]


def _opens(stretch: tuple[int, int], interval_s: int) -> Iterable[int]:
    """The openings of the buckets that a stretch touches."""
    at_ns = bounds_of(stretch[0], interval_s)[0]
    while at_ns < stretch[1]:
        yield at_ns
        at_ns = bounds_of(at_ns, interval_s)[1]


def _shorter(interval_s: int, lengths: Iterable[int]) -> Sequence[int]:
    """Those of the lengths that candles of `interval_s` can be folded from, the longest first."""
    fitting = (
        each
        for each in lengths
        if each < interval_s
        and each not in (WEEK_S, MONTH_S)
        and (DAY_S % each == 0 if interval_s == MONTH_S else interval_s % each == 0)
    )
    return sorted(fitting, reverse=True)


def _window_min(interval_s: int) -> int:
    """The least candles to ask a venue for; for those that are folded, as many as so many parts make."""
    if interval_s in INTERVALS_S:
        return WINDOW_MIN
    return max(1, WINDOW_MIN * _shorter(interval_s, INTERVALS_S)[0] // interval_s)


def _parted(rows: Sequence[Candle], tail: Sequence[Candle]) -> tuple[Sequence[Candle], Candle | None]:
    """All but the candle that grows, and that."""
    if not tail or tail[-1].closed:
        return [*rows, *tail], None
    return (rows if len(tail) == 1 else [*rows, *tail[:-1]]), tail[-1]


def _marked(candle: Candle, *, closed: bool) -> Candle:
    return candle if candle.closed is closed else msgspec.structs.replace(candle, closed=closed)
