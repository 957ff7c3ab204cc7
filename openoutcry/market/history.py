"""Rows of one series over a stretch: from memory, else from the store, else from the venue, asked once for all who wait."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

import msgspec
import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import OutOfReach, Refusal, Unavailable
from openoutcry.events import Candle, FundingRate, OpenInterest, Side, Trade, open_of
from openoutcry.instrument import Instrument
from openoutcry.market.coverage import END_NS, Book
from openoutcry.market.latest import Bounded, Latest
from openoutcry.market.outside import Outside
from openoutcry.market.series import Of, Row, Series, SeriesKey, State, time_of
from openoutcry.market.writer import Writer
from openoutcry.telemetry import Telemetry
from openoutcry.venues.venue import Ask, Page, Query

# A venue may still correct a candle that closed less than this ago: it is served, but not kept.
SETTLE_S = 2.0
FRESH_S = 1.0
# Missing stretches with less than so many rows between them are asked for as one.
JOIN_ROWS = 200
ROUNDS_MAX = 20
RECENT_MAX = 10_000

log = structlog.get_logger()


class Stretch(msgspec.Struct, frozen=True):
    """Closed rows oldest first; the candles after them that still change; and what of the stretch nobody has.

    `tail` is the growing candle, where it was asked for, and before it what is over but not sure yet.
    """

    rows: Sequence[Row]
    tail: Sequence[Candle] = ()
    missing: Sequence[tuple[int, int]] = ()


class Recent(msgspec.Struct, frozen=True):
    """All candles from `from_ns` on as a venue told them at `at_ns`: the growing one, and closed ones that may change.

    Another one begins at `until_ns`: from then on there is more to tell.
    """

    at_ns: int
    from_ns: int
    until_ns: int
    rows: Sequence[Candle]


class _Flight(msgspec.Struct):
    """A question on its way to a venue, and what it has brought so far.

    `rows` will not change any more: they were over at `settled_ns`. `fresh` may, and `until_ns` is when the next begins.
    """

    start_ns: int
    end_ns: int
    newest: int | None
    settled_ns: int
    until_ns: int
    rows: dict[tuple[int, int | str], Row] = {}
    fresh: dict[int, Candle] = {}
    recent: Recent | None = None
    task: asyncio.Task[None] | None = None


class _Wanted(msgspec.Struct, frozen=True):
    """The arguments of `rows` that tell what to ask for."""

    start_ns: int
    end_ns: int
    newest: int | None
    first: tuple[int, int] | None
    blind: bool = False  # ask for what we have as well


class History:
    """Asks each venue once, however many wait; keeps what it says and what it covers.

    `fresh_s`: how old the growing candle of an instrument that nobody follows may be. `settle_s`: see SETTLE_S.
    """

    def __init__(
        self,
        outside: Outside,
        series: Series,
        book: Book,
        writer: Writer,
        latest: Latest,
        clock: Clock,
        telemetry: Telemetry,
        *,
        fresh_s: float = FRESH_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._outside, self._series, self._book, self._writer = outside, series, book, writer
        self._latest, self._clock = latest, clock
        self._fresh_ns, self._settle_ns = round(fresh_s * NS), round(settle_s * NS)
        self._flights: dict[SeriesKey, _Flight] = {}
        self._recent: Bounded[SeriesKey, Recent] = Bounded(RECENT_MAX)
        self._asked = telemetry.counter(
            "market_asked", "Questions sent to venues because we lack a stretch.", ["venue", "of"]
        )
        self._shared = telemetry.counter(
            "market_shared", "Questions answered by one already on its way.", ["venue", "of"]
        )

    async def rows(
        self,
        key: SeriesKey,
        instrument: Instrument,
        query: Query | None,
        start_ns: int,
        end_ns: int,
        *,
        growing: bool = False,
        newest: int | None = None,
        first: tuple[int, int] | None = None,
    ) -> Stretch:
        """All of [start_ns, end_ns), with `growing` up to now. `query` None: the venue cannot be asked.

        Where the length of the stretch does not tell how many rows there are, the venue is asked for the `newest` so
        many up to the end, or for the `first` so many up to a later end (rows, end_ns). Raises what `Outside.ask` raises;
        what came before that is kept.
        """
        until_ns = max(end_ns, self._now_end(key)) if growing else end_ns
        told: dict[tuple[int, int | str], Row] = {}
        tried: list[tuple[int, int]] = []
        recent = self.recent(key)
        if query is not None:
            wanted = _Wanted(start_ns, until_ns, newest, first)
            recent = await self._fill(key, instrument, query, wanted, told, tried) or recent
        try:
            known = await self._known(key, start_ns, end_ns, told, tried)
        except Unavailable:
            if query is None:
                raise
            # The store cannot be read: then the venue tells it all, what we have of it too.
            await self._fill(
                key, instrument, query, _Wanted(start_ns, until_ns, newest, first, blind=True), told, tried
            )
            if not _inside((start_ns, end_ns), tried):
                raise
            known = dict(told)
        settled_ns, tail = until_ns, []
        if recent is not None:
            settled_ns = min(until_ns, recent.from_ns)
            inside = [row for row in recent.rows if start_ns <= row.open_ns < until_ns]
            closed = list(takewhile(lambda row: row.closed, inside))
            tail = inside[len(closed) :]
            known.update((_place(row), row) for row in closed)
        missing = self._book.of(key).absent(start_ns, min(end_ns, max(settled_ns, start_ns)))
        rows = [known[place] for place in sorted(known) if start_ns <= place[0] < until_ns]
        return Stretch(rows, tail, missing)

    def recent(self, key: SeriesKey) -> Recent | None:
        """What the venue told less than `fresh_s` ago of the newest candles; None where it is older."""
        recent, now_ns = self._recent.get(key), self._clock.now_ns()
        if recent is None or now_ns - recent.at_ns > self._fresh_ns or now_ns >= recent.until_ns:
            return None
        return recent

    async def close(self) -> None:
        """Give up the questions that are on their way."""
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fill(
        self,
        key: SeriesKey,
        instrument: Instrument,
        query: Query,
        wanted: _Wanted,
        told: dict[tuple[int, int | str], Row],
        tried: list[tuple[int, int]],
    ) -> Recent | None:
        """Ask until nothing is missing that was not asked for already. A failed question fails all who wait for it.

        Gives what the answers told of the newest candles, however long they took; None where they told nothing of them.
        """
        start_ns, end_ns = wanted.start_ns, wanted.end_ns
        recent: Recent | None = None
        for _ in range(ROUNDS_MAX):
            lacking = [(start_ns, end_ns)] if wanted.blind else self._missing(key, start_ns, end_ns)
            missing = [each for each in lacking if not _inside(each, tried)]
            if not missing:
                return recent
            flight = self._flights.get(key)
            if flight is None:
                hull = (missing[0][0], missing[-1][1])
                stretch = self._joined(key, missing) if wanted.newest is None else hull
                flight = self._depart(key, instrument, query, stretch, wanted)
            else:
                self._shared.labels(instrument.venue, key.of).inc()
            assert flight.task is not None
            concerns = flight.start_ns < end_ns and start_ns < flight.end_ns
            try:
                # The question goes on when one who waits for it leaves.
                await asyncio.shield(flight.task)
            except Refusal:
                if concerns:
                    raise
            if concerns:
                told.update(flight.rows)
                tried.append((flight.start_ns, flight.end_ns))
                recent = flight.recent or recent
                if wanted.newest is not None and (flight.newest or 0) >= wanted.newest:
                    return recent
        log.warning("series in too many pieces", instrument=key.instrument, of=key.of, interval_s=key.interval_s)
        return recent

    def _missing(self, key: SeriesKey, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        recent = self.recent(key)
        if recent is not None:
            end_ns = min(end_ns, recent.from_ns)
        return self._book.of(key).missing(start_ns, end_ns)

    def _joined(self, key: SeriesKey, missing: Sequence[tuple[int, int]]) -> tuple[int, int]:
        start_ns, end_ns = missing[0]
        for other_ns, other_end_ns in missing[1:]:
            if not key.interval_s or other_ns - end_ns > JOIN_ROWS * key.interval_s * NS:
                break
            end_ns = other_end_ns
        if key.of is Of.CANDLES and end_ns > self._settled(key):
            # One more row: the candle that grows comes with the same answer.
            end_ns = max(end_ns, self._now_end(key))
        return start_ns, end_ns

    def _depart(
        self, key: SeriesKey, instrument: Instrument, query: Query, stretch: tuple[int, int], wanted: _Wanted
    ) -> _Flight:
        start_ns, end_ns = stretch
        limit = wanted.newest
        if wanted.first is not None and start_ns == wanted.start_ns:
            limit, end_ns = wanted.first[0], max(wanted.first[1], end_ns)
        elif limit is None and key.interval_s:
            limit = -(-(end_ns - start_ns) // (key.interval_s * NS))
        ask = Ask(
            query=query,
            symbol=instrument.symbol,
            interval_s=key.interval_s or None,
            start_ns=None if wanted.newest is not None else start_ns,
            end_ns=end_ns,
            limit=limit,
            newest=wanted.newest is not None,
        )
        flight = self._flights[key] = _Flight(
            start_ns, end_ns, wanted.newest, self._settled(key), self._now_end(key)
        )  # fmt: skip
        flight.task = asyncio.create_task(self._ask(key, instrument.venue, ask, flight))
        self._asked.labels(instrument.venue, key.of).inc()

        def landed(task: asyncio.Task[None]) -> None:
            del self._flights[key]
            if not task.cancelled():
                task.exception()  # those who waited were told; nobody may have waited to the end

        flight.task.add_done_callback(landed)
        return flight

    async def _ask(self, key: SeriesKey, venue: str, ask: Ask, flight: _Flight) -> None:
        try:
            async for page in self._outside.ask(venue, ask):
                self._take(key, page, flight)
        except OutOfReach as e:
            log.info("venue never serves this", instrument=key.instrument, of=key.of, why=e.text)
            self._refused(key, flight.start_ns, min(flight.end_ns, flight.settled_ns))
            return
        self._landed(key, ask, flight)
        if key.of is Of.CANDLES and flight.end_ns > flight.settled_ns:
            self._told_now(key, flight)

    def _landed(self, key: SeriesKey, ask: Ask, flight: _Flight) -> None:
        """What a complete answer to a bounded question tells beyond its rows."""
        if not flight.rows or ask.limit is None:
            return
        first_ns, last_ns = min(flight.rows)[0], max(flight.rows)[0]
        full = len(flight.rows) >= ask.limit
        if not ask.newest:
            if full:
                flight.end_ns = min(flight.end_ns, last_ns + max(key.interval_s * NS, 1))
            return
        self._book.add(key, first_ns, min(flight.end_ns, flight.settled_ns, *flight.fresh), State.HAVE)
        if full:
            flight.start_ns = first_ns
        else:
            # Fewer than asked for without a lower bound: that is all the venue has.
            self._refused(key, 0, first_ns)

    def _told_now(self, key: SeriesKey, flight: _Flight) -> None:
        """Remember what was told of the newest candles: no venue's page promises to be complete for those."""
        # A careful venue calls a candle unclosed for longer than we do.
        from_ns = min(flight.settled_ns, *(at_ns for at_ns, row in flight.fresh.items() if not row.closed), END_NS)
        told = {row.open_ns: row for row in flight.rows.values() if isinstance(row, Candle) and row.open_ns >= from_ns}
        told |= flight.fresh
        rows = [told[at_ns] for at_ns in sorted(told)]
        flight.recent = Recent(self._clock.now_ns(), from_ns, flight.until_ns, rows)
        self._recent.put(key, flight.recent)

    def _refused(self, key: SeriesKey, start_ns: int, end_ns: int) -> None:
        # What we have from before stays ours, although the venue would not give it again.
        for missing_ns, missing_end_ns in self._book.of(key).missing(start_ns, end_ns):
            self._book.add(key, missing_ns, missing_end_ns, State.REFUSED)

    def _take(self, key: SeriesKey, page: Page, flight: _Flight) -> None:
        """Keep what a page says, closed and settled rows only, and what it covers."""
        settled_ns = flight.settled_ns
        rows = _of(key, page.events)
        step_ns = max(key.interval_s * NS, 1)
        old = [row for row in rows if _end(row, key) <= settled_ns and (not isinstance(row, Candle) or row.closed)]
        fresh = [row for row in rows if isinstance(row, Candle) and (not row.closed or _end(row, key) > settled_ns)]
        flight.fresh.update((row.open_ns, row) for row in fresh)
        flight.rows.update((_place(row), row) for row in old)
        self._writer.add(key, old)
        self._latest.fill(key, [row for row in old if isinstance(row, Candle)])
        for row in old:
            self._book.add(key, time_of(row), time_of(row) + step_ns, State.HAVE)
        self._cover(key, page, old, min(settled_ns, *(row.open_ns for row in fresh), END_NS))

    def _cover(self, key: SeriesKey, page: Page, old: Sequence[Row], settled_ns: int) -> None:
        """The page's promise, cut to whole buckets that are settled: between its rows we have all, beside them is nothing."""
        if page.start_ns is None or page.end_ns is None:
            return
        start_ns, end_ns = page.start_ns, min(page.end_ns, settled_ns)
        if key.interval_s:
            start_ns = open_of(start_ns + key.interval_s * NS - 1, key.interval_s)
            end_ns = open_of(end_ns, key.interval_s)
        if start_ns >= end_ns:
            return
        self._book.add(key, start_ns, end_ns, State.EMPTY)
        if old:
            times = [time_of(row) for row in old]
            self._book.add(key, min(times), max(times) + max(key.interval_s * NS, 1), State.HAVE)

    async def _known(
        self,
        key: SeriesKey,
        start_ns: int,
        end_ns: int,
        told: Mapping[tuple[int, int | str], Row],
        tried: Sequence[tuple[int, int]],
    ) -> dict[tuple[int, int | str], Row]:
        """Closed rows of the stretch, from the nearest place that has them all."""
        kept = self._latest.between(key, start_ns, end_ns)
        if kept is not None:
            return {**told, **{_place(row): row for row in kept}}
        if _inside((start_ns, end_ns), tried):
            # The venue told all of it just now; the store could only say the same.
            return dict(told)
        # Rows on their way into the store are looked up first: once they are not here any more, the store has them.
        waiting = self._writer.waiting(key)
        stored = await asyncio.to_thread(self._series.read, key, start_ns=start_ns, end_ns=end_ns)
        known = {_place(row): row for row in stored}
        known.update((_place(row), row) for row in waiting)
        known.update(told)
        return known

    def _settled(self, key: SeriesKey) -> int:
        """The end of what will not change any more."""
        at_ns = self._clock.now_ns() - self._settle_ns
        return open_of(at_ns, key.interval_s) if key.interval_s else at_ns

    def _now_end(self, key: SeriesKey) -> int:
        now_ns = self._clock.now_ns()
        return open_of(now_ns, key.interval_s) + key.interval_s * NS if key.interval_s else now_ns


def _of(key: SeriesKey, events: Iterable[object]) -> list[Row]:
    """Those of a page's events that belong to the series."""
    rows: list[Row] = []
    for event in events:
        match event:
            case Candle(instrument=name, interval_s=interval_s, side=Side.BOTH):
                fits = key.of is Of.CANDLES and name == key.instrument and interval_s == key.interval_s
            case OpenInterest(instrument=name):
                fits = key.of is Of.INTEREST and name == key.instrument
            case FundingRate(instrument=name, settled=True):
                fits = key.of is Of.FUNDING and name == key.instrument
            case Trade(instrument=name):
                fits = key.of is Of.TRADES and name == key.instrument
            case _:
                continue
        if fits:
            rows.append(event)
    return rows


def _place(row: Row) -> tuple[int, int | str]:
    return (row.event_ns, f"{row.seq:020}/{row.id}") if isinstance(row, Trade) else (time_of(row), 0)


def _end(row: Row, key: SeriesKey) -> int:
    """When the row cannot change any more: bars at their end, samples as soon as they are told."""
    return time_of(row) + key.interval_s * NS if isinstance(row, Candle) else time_of(row)


def _inside(stretch: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    return any(start_ns <= stretch[0] and stretch[1] <= end_ns for start_ns, end_ns in others)
