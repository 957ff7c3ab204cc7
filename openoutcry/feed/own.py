"""Our own exchange beside the venues of the feed: the market asks it like any other, and hears it on the same bus.

Every trade of it is in its store, so nothing of the past is ever lost: candles of any stretch are folds of the tape. Following
begins as at every venue, with a gap from what the market has; the tape fills it, and then what is traded is told as it is
written.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

import structlog

from openoutcry import orders
from openoutcry.bus import Bus
from openoutcry.clock import Clock
from openoutcry.errors import BadInterval, OutOfReach, Unavailable, UnknownInstrument, Unsupported
from openoutcry.events import (
    MINUTE_S,
    NS,
    Abandoned,
    DepthDelta,
    DepthSnapshot,
    Event,
    Gap,
    Level,
    Mended,
    Quote,
    Trade,
    open_of,
)
from openoutcry.instrument import Instrument
from openoutcry.market.outside import Outside, VenueState
from openoutcry.trading.listings import Listings
from openoutcry.trading.sequencer import Listener, Published
from openoutcry.trading.venue import (
    FEEDS,
    LIMITS,
    QUERIES,
    SERVED_S,
    VENUE,
    Fold,
    Tape,
    instruments_of,
    place_of,
    trade_of,
)
from openoutcry.venues.venue import Answer, Ask, Feed, Limits, Page, Query

# Trades that are read from the tape at a time.
PAGE_MAX = 2_000
# Live trades that wait while the tape is read; beyond it they are read from the tape too.
HELD_MAX = 10_000
# The store is asked again after so long, then after twice as long, ...
RETRY_S_MIN, RETRY_S_MAX = 1.0, 60.0
RESUME_S = 3_600.0
# Before the first trade of all.
NOWHERE = -1

log = structlog.get_logger()

Stop = Callable[[], None]
# Id and time (ns) of the last trade that the market has of an instrument; None where it has none.
Resume = Callable[[str], tuple[int | str | None, int] | None]


class Book(Protocol):
    """A book, or what changed of it, best first; a level that vanished has no volume."""

    @property
    def pair(self) -> str: ...
    @property
    def at_ns(self) -> int: ...
    @property
    def bids(self) -> Sequence[tuple[Decimal, Decimal]]: ...
    @property
    def asks(self) -> Sequence[tuple[Decimal, Decimal]]: ...


class Books(Protocol):
    """What clients see of the exchange (`trading.views.Views`)."""

    def book(self, pair: str, depth: int = 0) -> Book:
        """All levels, or so many of each side."""
        ...

    def follow_books(self, pairs: Sequence[str], hear: Callable[[Any], None]) -> tuple[Sequence[Book], Stop]:
        """The books now, and from now on what changes of them."""
        ...


class Own:
    """Implements `market.outside.Outside`: the exchange as one more venue beside those of `outside`.

    `listen` is the sequencer's, which tells the `books` first. `vouch` tells the live candles since when every trade is heard.
    `start` reads what is listed, `close` ends what reads the tape.
    """

    def __init__(
        self,
        outside: Outside,
        *,
        tape: Tape,
        listings: Listings,
        books: Books,
        listen: Callable[[Listener], Stop],
        bus: Bus,
        clock: Clock,
        vouch: Callable[[str, int], None],
        resume: Resume = lambda _name: None,
        resume_s: float = RESUME_S,
        page_max: int = PAGE_MAX,
        held_max: int = HELD_MAX,
    ) -> None:
        self._outside, self._tape, self._listings, self._books = outside, tape, listings, books
        self._bus, self._clock, self._vouch = bus, clock, vouch
        self._resume, self._resume_ns = resume, round(resume_s * NS)
        self._page_max, self._held_max = page_max, held_max
        self._listed_ns: dict[str, int] = {}
        self._instruments: Mapping[str, Instrument] = {}
        self._heard_ns: int | None = None
        self._followed: dict[tuple[str, Feed], int] = {}
        self._watches: dict[str, _Watch] = {}
        self._depths: dict[str, _Depth] = {}
        self._following: dict[str, Stop] = {}
        self._keeper: Callable[[Instrument, Iterable[Feed]], Stop] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaf = listen(self._on_published)

    async def start(self) -> None:
        """Read since when each pair is listed. Raises Unavailable."""
        self._listed_ns.update(await asyncio.to_thread(self._tape.listed))
        self._list(self._listings)

    def keep(self, follow: Callable[[Instrument, Iterable[Feed]], Stop]) -> None:
        """Have every pair followed by `follow` (the market's), those too that are listed later."""
        self._keeper = follow
        self._keep_all()

    async def close(self) -> None:
        """Hear no more, and read no more."""
        self._deaf()
        for depth in self._depths.values():
            depth.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- market.outside.Outside

    def venues(self) -> Mapping[str, VenueState]:
        """The venues that are on, by name: this one is as alive as the server."""
        return {
            **self._outside.venues(),
            VENUE: VenueState(VENUE, alive=True, connections=0, last_received_ns=self._heard_ns),
        }

    def feeds(self, venue: str) -> frozenset[Feed]:
        """What can be followed. Raises UnknownVenue."""
        return FEEDS if venue == VENUE else self._outside.feeds(venue)

    def queries(self, venue: str) -> frozenset[Query]:
        """What can be asked. Raises UnknownVenue."""
        return QUERIES if venue == VENUE else self._outside.queries(venue)

    def intervals_s(self, venue: str) -> frozenset[int]:
        """Candle lengths that are served. Raises UnknownVenue."""
        return SERVED_S if venue == VENUE else self._outside.intervals_s(venue)

    def limits(self, venue: str) -> Limits:
        """What it allows, and how it behaves. Raises UnknownVenue."""
        return LIMITS if venue == VENUE else self._outside.limits(venue)

    def instruments(self, venue: str) -> Mapping[str, Instrument]:
        """The listing as far as it is known. Raises UnknownVenue."""
        return self._instruments if venue == VENUE else self._outside.instruments(venue)

    async def listing(self, venue: str) -> Mapping[str, Instrument]:
        """The listing. Raises UnknownVenue, Unavailable."""
        return self._instruments if venue == VENUE else await self._outside.listing(venue)

    def followed(self, instrument: str, feed: Feed) -> bool:
        """Whether that feed of that instrument is followed now and without an open gap."""
        venue, _, symbol = instrument.partition(":")
        if venue != VENUE:
            return self._outside.followed(instrument, feed)
        if feed is Feed.TRADES:
            watch = self._watches.get(symbol)
            return watch is not None and watch.gap is None
        return (symbol, feed) in self._followed

    def follow(self, instrument: Instrument, feeds: Iterable[Feed]) -> Stop:
        """Subscribe; returns the way to let go. Raises UnknownVenue, Unsupported, LimitExceeded."""
        if instrument.venue != VENUE:
            return self._outside.follow(instrument, feeds)
        wanted = frozenset(feeds)
        beyond = sorted(wanted - FEEDS)
        if beyond or instrument.symbol not in self._instruments:
            raise Unsupported(f"{VENUE} has no {beyond[0] if beyond else 'instrument'} of {instrument.symbol}")
        for feed in wanted:
            self._follow(instrument, feed)
        gone = False

        def let_go() -> None:
            nonlocal gone
            if not gone:
                gone = True
                for feed in wanted:
                    self._unfollow(instrument.symbol, feed)

        return let_go

    def ask(self, venue: str, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        """All pages of an answer. Raises UnknownInstrument, Unsupported, BadInterval, Unavailable."""
        return self._answer(ask) if venue == VENUE else self._outside.ask(venue, ask, patient=patient)

    async def raw(self, venue: str, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        """An answer untouched. Raises UnknownVenue, Unsupported, Unavailable."""
        if venue == VENUE:
            raise Unsupported(f"{VENUE} has no REST side of its own")
        return await self._outside.raw(venue, path, query, weight)

    # -- asking

    async def _answer(self, ask: Ask) -> AsyncIterator[Page]:
        if ask.query is Query.INSTRUMENTS:
            yield Page((), tuple(self._instruments.values()))
            return
        instrument = self._instruments.get(ask.symbol or "")
        if instrument is None:
            raise UnknownInstrument(f"{VENUE} does not list {(ask.symbol or '')[:64]}")
        if ask.query is Query.DEPTH:
            yield Page((self._snapshot(instrument.symbol, ask.limit or 0),))
            return
        if ask.query not in QUERIES or ask.newest or ask.start_ns is None or ask.from_id is not None:
            raise Unsupported(f"{VENUE} cannot be asked for {ask.query} that way")
        if ask.end_ns is not None and ask.end_ns <= (instrument.listed_ns or 0):
            raise OutOfReach(VENUE, f"{instrument.symbol} was not listed yet")
        pages = self._candles(instrument, ask) if ask.query is Query.CANDLES else self._trades(instrument, ask)
        async for page in pages:
            yield page

    async def _trades(self, instrument: Instrument, ask: Ask) -> AsyncIterator[Page]:
        start_ns, end_ns = self._bounds(ask)
        left = ask.limit
        async for trades, last in self._read(instrument.symbol, start_ns, end_ns):
            # Others of the same time may be on the next page.
            until_ns = end_ns if last else trades[-1].event_ns
            if left is not None and len(trades) >= left:
                yield Page(trades[:left])
                return
            yield Page(trades, start_ns=start_ns, end_ns=until_ns)
            start_ns = until_ns
            left = None if left is None else left - len(trades)

    async def _candles(self, instrument: Instrument, ask: Ask) -> AsyncIterator[Page]:
        if ask.interval_s not in SERVED_S:
            raise BadInterval(f"{VENUE} has candles of {', '.join(map(str, sorted(SERVED_S)))} s")
        step_ns = ask.interval_s * NS
        now_ns = self._clock.now_ns()
        start_ns, end_ns = self._bounds(ask)
        # Whole buckets: one that opens in the stretch is told with all of its trades.
        begin_ns = open_of(start_ns + step_ns - 1, ask.interval_s)
        finish_ns = open_of(end_ns + step_ns - 1, ask.interval_s)
        fold, left = Fold(instrument.name, ask.interval_s), ask.limit
        async for trades, last in self._read(instrument.symbol, begin_ns, finish_ns):
            await asyncio.to_thread(fold.add, trades)
            until_ns = finish_ns if last else open_of(trades[-1].event_ns, ask.interval_s)
            candles = fold.take(until_ns, now_ns)
            if left is not None and len(candles) >= left:
                candles = candles[:left]
                yield Page(candles, start_ns=start_ns, end_ns=min(candles[-1].open_ns + step_ns, now_ns))
                return
            yield Page(candles, start_ns=start_ns, end_ns=max(min(until_ns, now_ns), start_ns))
            start_ns = max(until_ns, start_ns)
            left = None if left is None else left - len(candles)

    def _bounds(self, ask: Ask) -> tuple[int, int]:
        assert ask.start_ns is not None
        now_ns = self._clock.now_ns() + 1
        end_ns = now_ns if ask.end_ns is None else min(ask.end_ns, now_ns)
        return ask.start_ns, max(end_ns, ask.start_ns)

    async def _read(
        self, pair: str, start_ns: int, end_ns: int, after: int = NOWHERE
    ) -> AsyncIterator[tuple[list[Trade], bool]]:
        """Trades of [start_ns, end_ns) beyond that place, a page at a time, and whether it is the last page."""
        rules = self._listings.pairs[pair]

        def read(start_ns: int, after: int) -> Sequence[orders.Trade]:
            return self._tape.tape(pair, start_ns, end_ns, after=after, limit=self._page_max)

        while True:
            told = await asyncio.to_thread(read, start_ns, after)
            yield [trade_of(each, rules) for each in told], len(told) < self._page_max
            if len(told) < self._page_max:
                return
            start_ns, after = told[-1].at_ns, place_of(told[-1])

    # -- following

    def _follow(self, instrument: Instrument, feed: Feed) -> None:
        key = (instrument.symbol, feed)
        self._followed[key] = self._followed.get(key, 0) + 1
        if self._followed[key] > 1:
            return
        if feed is Feed.TRADES:
            self._watch(instrument)
            return
        if instrument.symbol not in self._depths:
            depth = self._depths[instrument.symbol] = _Depth(instrument.name)
            _, depth.stop = self._books.follow_books([instrument.symbol], self._on_book)
        self._bus.publish([self._snapshot(*key[:1]) if feed is Feed.DEPTH else self._quote(instrument.symbol)])

    def _unfollow(self, pair: str, feed: Feed) -> None:
        self._followed[pair, feed] -= 1
        if self._followed[pair, feed]:
            return
        del self._followed[pair, feed]
        if feed is Feed.TRADES:
            watch = self._watches.pop(pair)
            if watch.gap is not None:
                now_ns = max(self._clock.now_ns(), watch.gap.start_ns)
                self._bus.publish([Abandoned(watch.gap, now_ns, "no longer followed", final=False)])
        elif (pair, Feed.DEPTH) not in self._followed and (pair, Feed.QUOTES) not in self._followed:
            self._depths.pop(pair).stop()

    def _watch(self, instrument: Instrument) -> None:
        """Begin with a gap from the minute in which the market's trades end, else from the running minute's opening."""
        now_ns = self._clock.now_ns()
        known = self._resume(instrument.name)
        since_ns = now_ns if known is None else max(known[1], now_ns - self._resume_ns)
        # The minute is told whole, what the market has of it too: live candles begin with nothing.
        gap = Gap(instrument.name, Feed.TRADES.value, open_of(since_ns, MINUTE_S), None, "start")
        watch = _Watch(gap, self._held_max)
        self._watches[instrument.symbol] = watch
        self._bus.publish([gap])
        self._vouch(instrument.name, gap.start_ns)
        self._spawn(f"tape of {instrument.name}", self._mend(instrument.symbol, watch))

    async def _mend(self, pair: str, watch: "_Watch") -> None:
        """Tell what the tape has since the gap began, then what was traded while it was read; from then on all is live."""
        assert watch.gap is not None
        wait_s = RETRY_S_MIN
        start_ns = watch.gap.start_ns
        while True:
            watch.hold()
            try:
                async for trades, _ in self._read(pair, start_ns, self._clock.now_ns() + NS, watch.place):
                    if self._watches.get(pair) is not watch:
                        return
                    if trades:
                        start_ns, watch.place = trades[-1].event_ns, trades[-1].seq
                        self._bus.publish(trades)
            except Unavailable as e:
                log.warning("tape not read", pair=pair, error=e.text, retry_s=wait_s)
                await self._clock.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_S_MAX)
                continue
            if not watch.spilt:
                break
        if self._watches.get(pair) is not watch:
            return
        gap, watch.gap = watch.gap, None
        self._bus.publish([each for each in watch.held if each.seq > watch.place])
        watch.place = max([watch.place, *(each.seq for each in watch.held)])
        watch.held.clear()
        self._bus.publish([Mended(gap, max(self._clock.now_ns(), gap.start_ns))])

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("reading the tape failed", task=task.get_name(), exc_info=task.exception())

    # -- what the exchange says

    def _on_published(self, published: Published) -> None:
        self._heard_ns = published.at_ns
        if published.listings is not None:
            for pair in published.listings.pairs:
                self._listed_ns.setdefault(pair, published.at_ns)
            self._list(published.listings)
        live: list[Event] = []
        for _, outcome in published.done:
            for trade in outcome.trades:
                watch = self._watches.get(trade.pair)
                if watch is None:
                    continue
                told = trade_of(trade, self._listings.pairs[trade.pair])
                if watch.gap is not None:
                    watch.hear(told)
                elif told.seq > watch.place:
                    live.append(told)
        if live:
            self._bus.publish(live)

    def _on_book(self, changed: Book) -> None:
        pair = changed.pair
        depth = self._depths[pair]
        events: list[Event] = []
        if (pair, Feed.DEPTH) in self._followed:
            depth.seq += 1
            events.append(
                DepthDelta(
                    depth.instrument,
                    changed.at_ns,
                    changed.at_ns,
                    _levels(changed.bids),
                    _levels(changed.asks),
                    depth.seq,
                    depth.seq,
                    depth.seq - 1,
                )
            )
        if (pair, Feed.QUOTES) in self._followed:
            quote = self._quote(pair)
            best = (quote.bid_price, quote.bid_size, quote.ask_price, quote.ask_size)
            if best != depth.best:
                depth.best = best
                events.append(quote)
        self._bus.publish(events)

    def _snapshot(self, pair: str, limit: int = 0) -> DepthSnapshot:
        book = self._books.book(pair, limit)
        depth = self._depths.get(pair)
        return DepthSnapshot(
            f"{VENUE}:{pair}",
            book.at_ns,
            book.at_ns,
            _levels(book.bids),
            _levels(book.asks),
            0 if depth is None else depth.seq,
        )

    def _quote(self, pair: str) -> Quote:
        book = self._books.book(pair, 1)
        (bid, bid_size), (ask, ask_size) = (side[0] if side else (None, None) for side in (book.bids, book.asks))
        return Quote(f"{VENUE}:{pair}", book.at_ns, book.at_ns, bid, bid_size, ask, ask_size)

    def _list(self, listings: Listings) -> None:
        self._listings = listings
        self._instruments = instruments_of(listings, self._listed_ns)
        self._keep_all()

    def _keep_all(self) -> None:
        if self._keeper is None:
            return
        for symbol, instrument in self._instruments.items():
            if symbol not in self._following:
                self._following[symbol] = self._keeper(instrument, FEEDS)


class _Watch:
    """A trade stream that is followed. While its gap is open, live trades wait behind the tape."""

    def __init__(self, gap: Gap, held_max: int) -> None:
        self.gap: Gap | None = gap
        self._held_max = held_max
        self.place = NOWHERE
        self.held: list[Trade] = []
        self.spilt = False

    def hold(self) -> None:
        """From now on all is on the tape or held."""
        self.held.clear()
        self.spilt = False

    def hear(self, trade: Trade) -> None:
        """Keep a live trade for later."""
        if len(self.held) < self._held_max:
            self.held.append(trade)
        else:
            self.spilt = True


class _Depth:
    """A book that is followed: the number of its last change, and its best levels as they were told last."""

    def __init__(self, instrument: str) -> None:
        self.instrument = instrument
        self.seq = 0
        self.best: tuple[Decimal | None, ...] = ()
        self.stop: Stop = _nothing


def _levels(side: Sequence[tuple[Decimal, Decimal]]) -> tuple[Level, ...]:
    return tuple((price, size) for price, size in side)


def _nothing() -> None:
    """Nothing is followed yet."""
