"""Gaps: said when they open, fetched from the venue, and only then called mended.

A gap is open-ended while its stream is not subscribed; once it is again (`recovered`), everything from the last trade
before the loss up to the first live one is fetched, by trade id where ids are contiguous, else by time. Where the venue
does not serve the trades, its own one-minute candles of the touched minutes are published, and the gap is abandoned for
good: the trades, and the sides of the candles, stay unknown, and stay visible as such.
"""

import asyncio
import contextlib
import heapq
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import OutOfReach, Refusal, Unknown, Unsupported
from openoutcry.events import MINUTE_S, Abandoned, Candle, Event, Gap, Mended, Trade, open_of
from openoutcry.feed.dedupe import Hole, RecentTrades, Runs
from openoutcry.instrument import Instrument
from openoutcry.telemetry import Telemetry
from openoutcry.venues.venue import Ask, Page, Query, Venue

# Repairs that ask the venue at the same time.
REPAIRS_MAX = 2
# Missing ids known at a time for one instrument; beyond it they become one open gap.
HOLES_MAX = 64
# Holes in a row that turn out empty, after which an instrument's ids are no longer taken for contiguous.
EMPTY_HOLES_MAX = 20
# A venue's REST side may lag behind its stream: it is asked so long after the stream is back.
SETTLE_S = 2.0
RETRY_S_MIN = 1.0
RETRY_S_MAX = 60.0
# Pages in a row that bring a repair no further before it is left for later.
STALE_PAGES_MAX = 5
# A venue's one-minute candle may come late (30 s were seen).
CANDLE_GRACE_S = 5.0
CANDLE_TRIES_MAX = 8
# A trade that claims to be later than this by our clock does not say where the stream stands: the next gap would begin
# in the future.
AHEAD_NS_MAX = 900 * NS

TRADES = "trades"
NEVER = (OutOfReach, Unsupported, Unknown)

log = structlog.get_logger()


class Watch:
    """A followed trade stream: what of it was seen, and what is missing."""

    __slots__ = (
        "empty_holes",
        "first_live_ns",
        "holes",
        "instrument",
        "last_id",
        "last_ns",
        "name",
        "open",
        "recovered_ns",
        "seen",
        "task",
    )

    def __init__(self, instrument: Instrument, seen: Runs | RecentTrades) -> None:
        self.instrument = instrument
        self.name = instrument.name
        self.seen = seen
        self.last_ns = 0  # event time of the newest trade
        self.last_id: int | str | None = None
        self.open: Gap | None = None
        self.recovered_ns: int | None = None
        self.first_live_ns = 0  # event time of the first live trade after the stream was subscribed
        self.holes: list[tuple[Gap, Hole]] = []
        self.empty_holes = 0
        self.task: asyncio.Task[None] | None = None

    def took(self, trade: Trade) -> None:
        """A live trade went by."""
        if not self.first_live_ns:
            self.first_live_ns = trade.event_ns
        self.learned(trade)

    def learned(self, trade: Trade) -> None:
        """A trade went by, live or fetched."""
        if self.last_ns <= trade.event_ns <= trade.received_ns + AHEAD_NS_MAX:
            self.last_ns = trade.event_ns
            self.last_id = trade.id

    def free_start_ns(self, start_ns: int) -> int:
        """`start_ns`, or a little before: an instrument's gaps are told apart by their start."""
        taken = {gap.start_ns for gap, _ in self.holes}
        if self.open is not None:
            taken.add(self.open.start_ns)
        while start_ns in taken:
            start_ns -= 1
        return start_ns

    @property
    def whole(self) -> bool:
        """Whether nothing is known to be missing."""
        return self.open is None and not self.holes


class RepairTiming(msgspec.Struct, frozen=True, kw_only=True):
    """When repairs are made."""

    settle_s: float = SETTLE_S
    retry_s_max: float = RETRY_S_MAX


class Asks(Protocol):
    """Pages of an answer, asked patiently."""

    def __call__(self, ask: Ask) -> AsyncIterator[Page]: ...


class Mender:
    """Keeps the gaps of one venue's trade streams."""

    def __init__(
        self,
        venue: Venue,
        *,
        asks: Asks,
        publish: Callable[[Iterable[Event]], None],
        clock: Clock,
        chance: random.Random,
        telemetry: Telemetry,
        timing: RepairTiming,
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self.repaired: Callable[[Watch, Sequence[Event]], int] = _nobody
        self._venue = venue
        self._asks = asks
        self._publish = publish
        self._clock = clock
        self._chance = chance
        self._timing = timing
        self._spawn = spawn
        self._turns = NewestFirst(REPAIRS_MAX)
        self._gaps = telemetry.counter("feed_gaps", "Gaps, by what became of them", ("venue", "outcome"))

    # -- what the stream says

    def lost(self, watch: Watch, reason: str, start_ns: int | None = None, after_id: int | str | None = None) -> None:
        """The stream stopped: an open gap from its last trade (or `start_ns`). A gap that is still open goes on."""
        watch.recovered_ns = None
        watch.first_live_ns = 0
        if watch.open is not None:
            return
        if start_ns is None:
            start_ns, after_id = watch.last_ns or self._clock.now_ns(), watch.last_id
        watch.open = Gap(watch.name, TRADES, watch.free_start_ns(start_ns), None, reason, after_id)
        self._opened(watch.open)
        self._publish([watch.open])

    def recovered(self, watch: Watch) -> None:
        """The stream is subscribed: what lies between can be fetched now."""
        watch.recovered_ns = self._clock.now_ns()
        watch.first_live_ns = 0
        self._start(watch)

    def missed(self, watch: Watch, hole: Hole, trade: Trade) -> Sequence[Event]:
        """A live trade shows that ids before it are missing: the gap to publish before it."""
        if watch.open is not None or watch.empty_holes >= EMPTY_HOLES_MAX:
            # An open gap is mended only when no id after it is missing, which includes these.
            return ()
        start_ns = watch.free_start_ns(min(watch.last_ns or trade.event_ns, trade.event_ns))
        if len(watch.holes) >= HOLES_MAX:
            gap = watch.open = Gap(watch.name, TRADES, start_ns, None, "too many holes", hole.after_id)
            watch.recovered_ns = self._clock.now_ns()
            watch.first_live_ns = 0
        else:
            # Trades may share a time: the end lies just after the one that showed the hole.
            end_ns = max(watch.last_ns, trade.event_ns) + 1
            gap = Gap(watch.name, TRADES, start_ns, end_ns, "missed ids", hole.after_id)
            watch.holes.append((gap, hole))
        self._opened(gap)
        self._start(watch)
        return (gap,)

    def release(self, watch: Watch, reason: str) -> None:
        """Nobody follows it any more (or the venue refuses it): its gaps end here, unmended."""
        if watch.task is not None:
            watch.task.cancel()
            watch.task = None
        left = [gap for gap, _ in watch.holes]
        if watch.open is not None:
            left.append(watch.open)
        watch.holes.clear()
        watch.open = None
        for gap in left:
            self._abandon(gap, max(gap.start_ns, gap.end_ns or self._clock.now_ns()), reason, final=False)

    # -- what is done about it

    async def mend(self, watch: Watch) -> None:
        """Repair all that can be repaired now, the oldest hole first (one page often fills those after it too)."""
        misses = 0
        await self._clock.sleep(self._timing.settle_s)
        while watch.holes or (watch.open is not None and watch.recovered_ns is not None):
            try:
                if watch.holes:
                    done = await self._mend_hole(watch, *watch.holes[0])
                else:
                    done = await self._mend_open(watch)
            except Refusal as e:
                done = False
                retry_s = getattr(e, "retry_s", None) or 0.0
                log.info("gap not fetched yet", instrument=watch.name, reason=e.text)
            except Exception:  # a fault in one repair must not leave the gap untended: it stays open and is tried again
                done, retry_s = False, 0.0
                log.exception("repair failed", instrument=watch.name)
            else:
                retry_s = 0.0
            misses = 0 if done else misses + 1
            if not done:
                await self._clock.sleep(max(min(retry_s, 10 * self._timing.retry_s_max), self._backoff_s(misses)))

    async def _mend_hole(self, watch: Watch, gap: Gap, hole: Hole) -> bool:
        assert isinstance(watch.seen, Runs)
        assert gap.end_ns is not None
        if not watch.seen.whole(hole.after_id, hole.before_id):
            async with self._turns.turn(gap.start_ns):
                try:
                    await self._by_id(watch, hole.after_id, hole.before_id)
                except NEVER as e:
                    return await self._by_candles(watch, gap, gap.end_ns, e.text)
            if not watch.seen.whole(hole.after_id, hole.before_id):
                return False
        self._mended(watch, gap, gap.end_ns)
        return True

    async def _mend_open(self, watch: Watch) -> bool:
        gap, since_ns = watch.open, watch.recovered_ns
        assert gap is not None
        assert since_ns is not None
        settled_ns = since_ns + round(self._timing.settle_s * NS)
        if settled_ns > self._clock.now_ns():
            await self._clock.sleep((settled_ns - self._clock.now_ns()) / NS)
        if not self._nothing_missed(watch, gap):
            async with self._turns.turn(gap.start_ns):
                try:
                    whole = await self._fetch(watch, gap, since_ns)
                except NEVER as e:
                    return await self._by_candles(watch, gap, None, e.text)
            # The stream may have been lost again while the venue answered.
            if not whole or watch.recovered_ns != since_ns:
                return False
        self._mended(watch, gap, self._end_of(watch, gap))
        return True

    def _nothing_missed(self, watch: Watch, gap: Gap) -> bool:
        """Whether live trades went on with the very next id."""
        return (
            isinstance(watch.seen, Runs)
            and type(gap.after_id) is int
            and watch.first_live_ns > 0
            and watch.seen.whole(gap.after_id)
        )

    async def _fetch(self, watch: Watch, gap: Gap, since_ns: int) -> bool:
        if isinstance(watch.seen, Runs) and type(gap.after_id) is int:
            with contextlib.suppress(Unsupported):
                return await self._by_id(watch, gap.after_id, None)
        first_id, whole = await self._by_time(watch, gap, since_ns)
        if not isinstance(watch.seen, Runs) or type(first_id) is not int:
            return whole
        # Ids tell better than times whether anything is missing between the newest that was served and the first live.
        return watch.seen.whole(first_id) or await self._by_id(watch, first_id, None)

    async def _by_id(self, watch: Watch, after_id: int, before_id: int | None) -> bool:
        """Fetch what follows `after_id` until nothing is missing. Ids that the venue skips do not exist."""
        seen = watch.seen
        assert isinstance(seen, Runs)
        if seen.gave_up(after_id):
            raise OutOfReach(self._venue.name, "more holes than are kept apart")
        seen.remember(after_id)
        # What an earlier try brought need not be asked for again.
        begin_id = at = seen.reach(after_id)
        stale = 0
        async for page in self._asks(Ask(query=Query.TRADES, symbol=watch.instrument.symbol, from_id=begin_id)):
            newest = max((e.id for e in page.events if isinstance(e, Trade) and type(e.id) is int), default=at)
            self.repaired(watch, page.events)
            stale = 0 if newest > at else stale + 1
            at = max(at, newest)
            if seen.whole(after_id, before_id) and (before_id is not None or watch.first_live_ns):
                watch.empty_holes = 0
                return True
            if stale >= STALE_PAGES_MAX:
                return False
        if not seen.whole(after_id, at + 1):
            self._close_empty(watch, seen, after_id, at)
        if before_id is None:
            return seen.whole(after_id) or seen.newest <= at
        return seen.whole(after_id, before_id)

    def _close_empty(self, watch: Watch, seen: Runs, after_id: int, upto_id: int) -> None:
        seen.close(after_id, upto_id)
        watch.empty_holes += 1
        if watch.empty_holes == EMPTY_HOLES_MAX:
            log.warning("ids are not contiguous", instrument=watch.name)

    async def _by_time(self, watch: Watch, gap: Gap, since_ns: int) -> tuple[int | str | None, bool]:
        """Fetch from the gap's start until now. Gives the first id that was served, and whether that reached `since_ns`.

        Raises OutOfReach where the venue does not go back to the start.
        """
        now_ns = self._clock.now_ns()
        end_ns = max(now_ns, watch.last_ns, gap.start_ns) + NS
        first: Trade | None = None
        met = False
        served: list[tuple[int, int]] = []
        ask = Ask(query=Query.TRADES, symbol=watch.instrument.symbol, start_ns=gap.start_ns, end_ns=end_ns)
        async for page in self._asks(ask):
            for event in page.events:
                if isinstance(event, Trade):
                    met = met or event.id == gap.after_id
                    if first is None or event.seq < first.seq:
                        first = event
            if page.start_ns is not None and page.end_ns is not None:
                served.append((page.start_ns, page.end_ns))
            self.repaired(watch, page.events)
        reach_ns = _reach_ns(served, gap.start_ns)
        # It goes back far enough if the venue says so, or if the last trade we had is among what it served.
        if reach_ns is None and not met:
            raise OutOfReach(self._venue.name, f"{self._venue.name} serves no trades that far back")
        whole = met if reach_ns is None else reach_ns >= min(since_ns, now_ns)
        return None if first is None else first.id, whole

    async def _by_candles(self, watch: Watch, gap: Gap, end_ns: int | None, reason: str) -> bool:
        """The venue's own candles of the touched minutes, for trades that it does not serve."""
        if Query.CANDLES not in self._venue.queries or MINUTE_S not in self._venue.intervals_s:
            return self._give_up(watch, gap, reason)
        since_ns = watch.recovered_ns
        last_ns = (self._end_of(watch, gap) if end_ns is None else end_ns) - 1
        begin_ns = open_of(gap.start_ns, MINUTE_S)
        finish_ns = open_of(max(last_ns, begin_ns), MINUTE_S) + MINUTE_S * NS
        wait_s = (finish_ns - self._clock.now_ns()) / NS + CANDLE_GRACE_S
        for _ in range(CANDLE_TRIES_MAX):
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            if end_ns is None and watch.recovered_ns != since_ns:
                return False
            try:
                async with self._turns.turn(gap.start_ns):
                    whole = await self._candles(watch, begin_ns, finish_ns)
            except NEVER as e:
                return self._give_up(watch, gap, e.text)
            if whole:
                break
            wait_s = CANDLE_GRACE_S
        return self._give_up(watch, gap, reason)

    async def _candles(self, watch: Watch, begin_ns: int, finish_ns: int) -> bool:
        minute_ns = MINUTE_S * NS
        known: list[tuple[int, int]] = []
        ask = Ask(
            query=Query.CANDLES,
            symbol=watch.instrument.symbol,
            interval_s=MINUTE_S,
            start_ns=begin_ns,
            end_ns=finish_ns,
        )
        async for page in self._asks(ask):
            candles = [e for e in page.events if isinstance(e, Candle) and begin_ns <= e.open_ns < finish_ns]
            closed = [candle for candle in candles if candle.closed]
            known.extend((candle.open_ns, candle.open_ns + minute_ns) for candle in closed)
            if page.start_ns is not None and page.end_ns is not None:
                # Empty minutes are known too; but not one that had not closed.
                growing_ns = min((candle.open_ns for candle in candles if not candle.closed), default=page.end_ns)
                known.append((page.start_ns, min(page.end_ns, growing_ns)))
            self.repaired(watch, closed)
        reach_ns = _reach_ns(known, begin_ns)
        return reach_ns is not None and reach_ns >= finish_ns

    # -- how it ends

    def _end_of(self, watch: Watch, gap: Gap) -> int:
        return max(gap.start_ns, watch.first_live_ns or watch.recovered_ns or 0)

    def _mended(self, watch: Watch, gap: Gap, end_ns: int) -> None:
        self._closed(watch, gap, end_ns)
        self._gaps.labels(self._venue.name, "mended").inc()
        log.info("gap mended", instrument=watch.name, of_s=round((end_ns - gap.start_ns) / NS, 3))
        self._publish([Mended(gap, end_ns)])

    def _give_up(self, watch: Watch, gap: Gap, reason: str) -> bool:
        end_ns = gap.end_ns or self._end_of(watch, gap)
        self._closed(watch, gap, end_ns)
        self._abandon(gap, end_ns, reason, final=True)
        return True

    def _closed(self, watch: Watch, gap: Gap, end_ns: int) -> None:
        if watch.open is gap:
            watch.open = None
            watch.last_ns = max(watch.last_ns, end_ns if not watch.last_ns else 0)
        else:
            watch.holes = [(other, hole) for other, hole in watch.holes if other is not gap]

    def _abandon(self, gap: Gap, end_ns: int, reason: str, *, final: bool) -> None:
        self._gaps.labels(self._venue.name, "abandoned").inc()
        log.warning("gap abandoned", instrument=gap.instrument, reason=reason, final=final)
        self._publish([Abandoned(gap, end_ns, reason, final)])

    def _opened(self, gap: Gap) -> None:
        self._gaps.labels(self._venue.name, "opened").inc()
        log.info("gap opened", instrument=gap.instrument, reason=gap.reason)

    def _start(self, watch: Watch) -> None:
        if watch.task is None or watch.task.done():
            watch.task = self._spawn(f"mend {watch.name}", self.mend(watch))

    def _backoff_s(self, misses: int) -> float:
        ceiling_s = min(self._timing.retry_s_max, RETRY_S_MIN * 2.0 ** min(misses, 20))
        return self._chance.uniform(ceiling_s / 2, ceiling_s)


class NewestFirst:
    """So many at a time; of those that wait, the one whose gap began last goes first."""

    def __init__(self, count_max: int) -> None:
        self._free = count_max
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def turn(self, start_ns: int) -> AsyncIterator[None]:
        """Hold a place while inside."""
        if self._free > 0:
            self._free -= 1
        else:
            place = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (-start_ns, next(self._order), place))
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            _, _, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


def _reach_ns(stretches: Iterable[tuple[int, int]], start_ns: int) -> int | None:
    """How far the stretches together reach without a hole from `start_ns`; None where none holds it."""
    reach_ns: int | None = None
    for begin_ns, end_ns in sorted(stretches):
        if begin_ns <= (start_ns if reach_ns is None else reach_ns) and end_ns >= start_ns:
            reach_ns = max(reach_ns or end_ns, end_ns)
    return reach_ns


def _nobody(_watch: Watch, _events: Sequence[Event]) -> int:
    return 0
