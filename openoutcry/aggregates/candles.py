"""Live candles: trades in, candles of seven intervals and three sides out, exact whatever the order of arrival.

A trade touches one bar: its side, its minute. Longer candles are folds of shorter ones (minutes into 5m, 5m into 15m, ...
days into the week), remembered until something under them changes; BOTH is buy and sell joined, or the venue's own candle
where the venue saw it otherwise.

    trade ──▶ minute ─┬─▶ 5m ──▶ 15m ──▶ 1h ──▶ 4h ──▶ 1d ──▶ 1w       three sides each, folded when asked
    venue's candle ───┘                                                 (BOTH only)

A candle closes when the venue's time has passed its end plus a grace. What comes later corrects it: it is returned once
more, closed, with every longer closed candle it changes. Closed candles are returned only where every moment of them is
known (seen live, mended, seeded, or told by the venue's own candle); the others are left to whoever can ask the venue.

Trades must come without duplicates (the feed drops them by id): a bar cannot tell a repeated trade from another one.
Nothing here knows a clock or the bus. Memory is bounded: minutes_kept minutes, and what is needed to fold the rest.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from decimal import DecimalException
from heapq import heappop, heappush

from openoutcry.aggregates.bars import Bar, bar_of_candle, bar_of_trade, fold, join
from openoutcry.aggregates.stretches import FOREVER_NS, Stretches, cover
from openoutcry.events import INTERVALS_S, NS, Abandoned, Candle, Gap, Mended, Side, Trade, open_of

MINUTES_KEPT = 60
# While a gap is open, minutes back to its start are kept for the repair: this many at most.
GAP_MINUTES_MAX = 360
INSTRUMENTS_MAX = 5_000
GAPS_MAX = 1_000
REPAIRS_MAX = 10_000
GRACE_S = 1.0
# So many candles of one length may wait for their end to be sure: beyond it somebody else is asked.
UNCLOSED_MAX = 3
# A trade so far ahead of our own clock is a fault; taking it would make every real trade look too late.
AHEAD_S_MAX = 3_600.0

MINUTE_NS = 60 * NS
SIDES = (Side.BUY, Side.SELL, Side.BOTH)
BUY, SELL, BOTH = 0, 1, 2
BOTH_BIT = 1 << BOTH
SIDE_BITS = 1 << BUY | 1 << SELL
ALL_BITS = SIDE_BITS | BOTH_BIT
SELLS = Side.SELL
LEVEL = {interval_s: level for level, interval_s in enumerate(INTERVALS_S)}
TRADES = "trades"


class Candles:
    """Builds and closes candles of every instrument whose trades it is given.

    `counts` tells what happened: `confirmed` and `disagreed` (the venue's candle), `corrected` (trades for a closed
    minute), `too_late`, `seeded` (trades for minutes whose sides were seeded), `ahead`, `unsummable`, `instruments_full`.
    `quote_estimated` names venues whose own candles carry no true quote volume: there ours is kept.
    """

    def __init__(
        self,
        *,
        grace_s: float = GRACE_S,
        minutes_kept: int = MINUTES_KEPT,
        instruments_max: int = INSTRUMENTS_MAX,
        ahead_s_max: float = AHEAD_S_MAX,
        quote_estimated: Collection[str] = (),
    ) -> None:
        self._grace_ns = round(grace_s * NS)
        self._kept_ns = minutes_kept * MINUTE_NS
        self._instruments_max = instruments_max
        self._ahead_ns = round(ahead_s_max * NS)
        self._quote_estimated = frozenset(quote_estimated)
        self._series: dict[str, _Series] = {}
        self._of_venue: dict[str, dict[str, _Series]] = {}
        self._time_ns: dict[str, int] = {}
        self._touched: set[str] = set()
        self._repairs: dict[tuple[str, int], None] = {}
        self.counts: Counter[str] = Counter()

    @property
    def disagreed(self) -> int:
        """Closed minutes in which the venue's own candle was another than ours."""
        return self.counts["disagreed"]

    @property
    def too_late(self) -> int:
        """Trades older than what is kept; their minutes are in `take_too_late`."""
        return self.counts["too_late"]

    def on_trade(self, trade: Trade) -> Sequence[Candle]:
        """Take one trade (never twice). Returns the closed candles it corrects: almost always none."""
        series = self._series.get(trade.instrument)
        if series is not None:
            minute = series.current
            if minute.open_ns <= trade.event_ns < minute.end_ns:
                bar = minute.bars[trade.side is SELLS]
                if bar is not None:
                    try:
                        bar.add(trade)
                    except DecimalException:
                        return self._refuse(series, minute.open_ns)
                    if not series.touched:
                        self._touch(series)
                    return ()
        return self._elsewhere(series, trade)

    def on_venue_candle(self, candle: Candle) -> Sequence[Candle]:
        """Take the venue's own closed one-minute candle, which confirms ours or replaces side BOTH of it.

        Growing candles, other intervals and sides are ignored. Returns what closes now, or is corrected, by it.
        """
        if candle.origin != "venue" or candle.interval_s != 60 or candle.side is not Side.BOTH or not candle.closed:
            return ()
        series = self._series.get(candle.instrument) or self._open(candle.instrument)
        open_ns = candle.open_ns - candle.open_ns % MINUTE_NS
        if series is None or open_ns < series.horizon_ns or self._ahead(series, open_ns, candle.received_ns):
            return ()
        try:
            bar = bar_of_candle(candle)
        except DecimalException:
            self.counts["unsummable"] += 1
            return ()
        closed = self._close_old(series, open_ns)
        minute = series.minute(open_ns)
        if minute.venue is not None:
            if _same(minute.venue, bar):
                return closed
            if series.fixed(open_ns, BOTH_BIT):
                # It was seeded otherwise, and so was a longer candle, which cannot be corrected by a part of it.
                self._repair(series, open_ns)
        minute.venue = bar
        series.both.add(minute.open_ns, minute.end_ns)
        self._touch(series)
        return self._confirm(series, minute, closed)

    def on_gap(self, gap: Gap) -> None:
        """Trades are missing: what overlaps the gap does not close until it is mended or abandoned."""
        series = self._series.get(gap.instrument) or self._open(gap.instrument)
        if gap.of != TRADES or series is None:
            return
        end_ns = FOREVER_NS if gap.end_ns is None else gap.end_ns
        if len(series.gaps) >= GAPS_MAX and gap.start_ns not in series.gaps:
            series.sides.remove(gap.start_ns, end_ns)
            return
        series.gaps[gap.start_ns] = end_ns
        # It may be one we know, which turned out shorter: what it held back before may be due.
        series.queue(gap.start_ns)

    def on_mended(self, mended: Mended) -> Sequence[Candle]:
        """The missing trades were given: the stretch is known. Returns what was waiting for it."""
        series = self._series.get(mended.instrument)
        if mended.gap.of != TRADES or series is None:
            return ()
        series.gaps.pop(mended.gap.start_ns, None)
        # What came too late to be kept is not known, however well it was mended.
        series.sides.add(max(mended.gap.start_ns, series.horizon_ns), mended.end_ns)
        return self._release(series, mended.gap.start_ns)

    def on_abandoned(self, abandoned: Abandoned) -> Sequence[Candle]:
        """The missing trades will not come: only the venue's own candle can close these minutes, and only BOTH."""
        series = self._series.get(abandoned.instrument)
        if abandoned.gap.of != TRADES or series is None:
            return ()
        series.gaps.pop(abandoned.gap.start_ns, None)
        series.sides.remove(abandoned.gap.start_ns, abandoned.end_ns)
        for minute in series.levels[0].values():
            if minute.venue is not None and abandoned.gap.start_ns < minute.end_ns and series.agrees(minute):
                series.sides.add(minute.open_ns, minute.end_ns)
        return self._release(series, abandoned.gap.start_ns)

    def on_time(self, venue: str, event_ns: int) -> Sequence[Candle]:
        """Close what is due: `event_ns` is the greatest event time seen of that venue."""
        event_ns = self._time_ns[venue] = max(event_ns, self._time_ns.get(venue, 0))
        limit_ns = event_ns - self._grace_ns
        closed: list[Candle] = []
        for series in self._of_venue.get(venue, {}).values():
            if series.pending and series.pending[0][0] <= limit_ns:
                self._close_due(series, limit_ns, closed)
        return closed

    def seed(self, candles: Iterable[Candle]) -> None:
        """Take closed candles of before (any of the seven intervals and sides), so that longer ones are right at once.

        A seeded candle stands as it is, and is not returned again. Trades inside a candle whose sides were seeded are
        not merged (they are repeats); where only BOTH was seeded, they build the sides. What was not seeded and not
        seen counts as unknown unless it is vouched for.
        """
        for candle in candles:
            level = LEVEL.get(candle.interval_s)
            if level is None or not candle.closed:
                continue
            series = self._series.get(candle.instrument) or self._open(candle.instrument)
            if series is not None and series.seed(candle, level):
                self._touch(series)

    def vouch(self, instrument: str, start_ns: int, end_ns: int | None = None, *, sides: bool = True) -> None:
        """All of [start_ns, end_ns) is known: what was not given did not trade. `end_ns` None = from now on, live.

        With `sides` False only of side BOTH. Without a call, an instrument is known live from its first trade on.
        """
        series = self._series.get(instrument) or self._open(instrument)
        if series is None:
            return
        (series.sides if sides else series.both).add(start_ns, FOREVER_NS if end_ns is None else end_ns)
        series.live = series.live or (sides and end_ns is None)

    def growing(
        self, instrument: str, interval_s: int, side: Side = Side.BOTH, *, partial: bool = False
    ) -> Candle | None:
        """The candle that is growing now; None where nothing traded in it yet.

        Also None where not all of it is known since its opening (joined late, a gap is open): with `partial` it is
        given nevertheless.
        """
        series = self._series.get(instrument)
        if series is None or series.newest_ns < 0:
            return None
        level, index = LEVEL[interval_s], SIDES.index(side)
        node = series.levels[level].get(open_of(series.newest_ns, interval_s))
        if node is None or node.closed:
            return None
        if not partial and not series.known(index, node.open_ns, series.newest_ns + MINUTE_NS):
            return None
        bar = series.growing(node, index)
        return None if bar is None else bar.candle(instrument, side, interval_s, node.open_ns, closed=False)

    def unclosed(self, instrument: str, interval_s: int, side: Side = Side.BOTH) -> Sequence[Candle]:
        """What is not closed yet, oldest first: the growing candle, and before it those whose time is over but not sure.

        Only what is known from its opening up to now, without a hole; empty where nothing is.
        """
        series = self._series.get(instrument)
        if series is None or series.newest_ns < 0:
            return ()
        level, index, step_ns = LEVEL[interval_s], SIDES.index(side), interval_s * NS
        newest_ns = open_of(series.newest_ns, interval_s)
        waiting: list[Candle] = []
        for open_ns in range(newest_ns, newest_ns - UNCLOSED_MAX * step_ns, -step_ns):
            node = series.levels[level].get(open_ns)
            if node is None:
                continue
            if node.closed or not series.known(index, open_ns, series.newest_ns + MINUTE_NS):
                break
            if open_ns == newest_ns:
                bar = series.growing(node, index)
            else:
                series.refresh(node)
                bar = node.bars[index]
            if bar is not None:
                waiting.append(bar.candle(instrument, side, interval_s, open_ns, closed=False))
        return waiting[::-1]

    def touched(self) -> set[str]:
        """Instruments whose growing or closed candles changed since the last call."""
        touched, self._touched = self._touched, set()
        for instrument in touched:
            series = self._series.get(instrument)
            if series is not None:
                series.touched = False
        return touched

    def take_too_late(self) -> list[tuple[str, int]]:
        """(instrument, open of the minute) of what could not be merged since the last call: ask the venue for these."""
        repairs = list(self._repairs)
        self._repairs.clear()
        return repairs

    def drop(self, instrument: str) -> None:
        """Forget an instrument."""
        if self._series.pop(instrument, None) is not None:
            del self._of_venue[_venue(instrument)][instrument]
            self._touched.discard(instrument)

    def __len__(self) -> int:
        return len(self._series)

    def bars_kept(self, instrument: str) -> int:
        """How many candles are remembered of an instrument: bounded, however many trades there were."""
        series = self._series.get(instrument)
        return sum(map(len, series.levels)) if series else 0

    def _elsewhere(self, series: "_Series | None", trade: Trade) -> Sequence[Candle]:
        series = series or self._open(trade.instrument)
        open_ns = trade.event_ns - trade.event_ns % MINUTE_NS
        if series is None or self._ahead(series, open_ns, trade.received_ns):
            return ()
        if open_ns < series.horizon_ns:
            self.counts["too_late"] += 1
            return self._unknown(series, open_ns)
        if series.fixed(open_ns, SIDE_BITS):
            self.counts["seeded"] += 1
            return self._unmerged(series, open_ns)
        closed = self._close_old(series, open_ns)
        minute = series.minute(open_ns)
        side = SELL if trade.side is Side.SELL else BUY
        bar = minute.bars[side]
        try:
            if bar is None:
                minute.bars[side] = bar_of_trade(trade)
            else:
                bar.add(trade)
        except DecimalException:
            self._refuse(series, open_ns)
            return closed
        series.begin(trade.event_ns)
        self._touch(series)
        if minute is series.current:
            return closed
        self.counts["corrected"] += minute.closed
        series.changed(minute, 1 << side | BOTH_BIT)
        return self._settle(series, minute, closed)

    def _confirm(self, series: "_Series", minute: "_Node", closed: list[Candle]) -> Sequence[Candle]:
        agreed = series.agrees(minute)
        if agreed:
            # Trades that add up to the venue's own candle are all of them.
            series.sides.add(minute.open_ns, minute.end_ns)
        series.changed(minute, 0 if agreed and minute.closed else BOTH_BIT)
        if series.gapped(minute):
            return closed
        if minute.closed:
            self.counts["confirmed" if agreed else "disagreed"] += 1
        elif agreed:
            # Otherwise trades may still be on their way: the venue's candle wins when the minute is due.
            self._close(series, minute)
        return self._settle(series, minute, closed)

    def _settle(self, series: "_Series", minute: "_Node", closed: list[Candle]) -> list[Candle]:
        # Whatever is closed or due above a changed minute goes out (again); growing candles wait for their time.
        limit_ns = self._time_ns.get(series.venue, 0) - self._grace_ns
        series.seal_due(limit_ns)
        for node in series.chain(minute.open_ns):
            if (node.closed or node.end_ns <= limit_ns) and not series.gapped(node):
                self._close(series, node)
                self._publish(series, node, closed)
        return closed

    def _close_due(self, series: "_Series", limit_ns: int, closed: list[Candle]) -> None:
        while series.pending and series.pending[0][0] <= limit_ns:
            _, level, open_ns = heappop(series.pending)
            node = series.levels[level].get(open_ns)
            if node is None:
                continue
            node.queued = False
            if series.gapped(node):
                continue  # queued again when the gap is over
            self._close(series, node)
            self._publish(series, node, closed)
            if level == 0:
                self._settle(series, node, closed)

    def _close_old(self, series: "_Series", newest_ns: int) -> list[Candle]:
        # What is about to be forgotten is closed first: its time is over, even if nobody told us the time since.
        closed: list[Candle] = []
        if newest_ns > series.newest_ns:
            self._close_due(series, series.horizon_at(newest_ns), closed)
        return closed

    def _close(self, series: "_Series", node: "_Node") -> None:
        if node.closed:
            return
        node.closed = True
        if node is series.current:
            series.seal()
        if node.venue is not None:
            self.counts["confirmed" if series.agrees(node) else "disagreed"] += 1

    def _publish(self, series: "_Series", node: "_Node", closed: list[Candle]) -> None:
        series.refresh(node)
        for side in (BUY, SELL, BOTH):
            bar = node.bars[side]
            if bar is None or node.sent >> side & 1 or not series.known(side, node.open_ns, node.end_ns):
                continue
            node.sent |= 1 << side
            interval_s = INTERVALS_S[node.level]
            closed.append(bar.candle(series.instrument, SIDES[side], interval_s, node.open_ns, closed=True))
            if not series.touched:
                self._touch(series)

    def _release(self, series: "_Series", start_ns: int) -> Sequence[Candle]:
        series.queue(start_ns)
        closed: list[Candle] = []
        self._close_due(series, self._time_ns.get(series.venue, 0) - self._grace_ns, closed)
        return closed

    def _ahead(self, series: "_Series", open_ns: int, received_ns: int) -> bool:
        if open_ns <= series.newest_ns or open_ns <= received_ns + self._ahead_ns:
            return False
        self.counts["ahead"] += 1
        return True

    def _refuse(self, series: "_Series", open_ns: int) -> Sequence[Candle]:
        self.counts["unsummable"] += 1
        return self._unknown(series, open_ns)

    def _unknown(self, series: "_Series", open_ns: int) -> Sequence[Candle]:
        series.sides.remove(open_ns, open_ns + MINUTE_NS)
        return self._unmerged(series, open_ns)

    def _unmerged(self, series: "_Series", open_ns: int) -> Sequence[Candle]:
        # Where a candle of the venue (or a seed) told side BOTH already, asking again would bring nothing new.
        if not cover(open_ns, open_ns + MINUTE_NS, series.both):
            self._repair(series, open_ns)
        return ()

    def _repair(self, series: "_Series", open_ns: int) -> None:
        if len(self._repairs) < REPAIRS_MAX:
            self._repairs[series.instrument, open_ns] = None

    def _touch(self, series: "_Series") -> None:
        series.touched = True
        self._touched.add(series.instrument)

    def _open(self, instrument: str) -> "_Series | None":
        if len(self._series) >= self._instruments_max:
            self.counts["instruments_full"] += 1
            return None
        series = self._series[instrument] = _Series(
            instrument, self._kept_ns, estimated=_venue(instrument) in self._quote_estimated
        )
        self._of_venue.setdefault(series.venue, {})[instrument] = series
        return series


class _Node:
    """A candle's place: one interval of one instrument, three sides.

    `bars` are buy, sell, both; of a minute that grows only the first two count. `venue`: what the venue (or a seed) told
    of a minute's BOTH. `sent` and `fixed` hold one bit a side: returned as closed since it last changed; given by a
    seed. `stale`: something under it changed since it was folded.
    """

    __slots__ = ("bars", "closed", "end_ns", "fixed", "level", "open_ns", "queued", "sent", "stale", "venue")

    def __init__(self, level: int, open_ns: int, end_ns: int) -> None:
        self.level = level
        self.open_ns = open_ns
        self.end_ns = end_ns
        self.bars: list[Bar | None] = [None, None, None]
        self.venue: Bar | None = None
        self.closed = False
        self.queued = False
        self.stale = True
        self.sent = 0
        self.fixed = 0


class _Series:
    """What is remembered of one instrument.

    `sides` is what is known of its trades; `both` what is known of side BOTH alone (from the venue's candles). `pending`
    holds what is not closed yet, the earliest end first. Nothing is kept that opened before `horizon_ns`, except what
    is needed to fold the longer candles that reach beyond it.
    """

    __slots__ = (
        "both",
        "current",
        "estimated",
        "gaps",
        "horizon_ns",
        "instrument",
        "kept_ns",
        "levels",
        "live",
        "newest_ns",
        "pending",
        "sides",
        "touched",
        "venue",
    )

    def __init__(self, instrument: str, kept_ns: int, *, estimated: bool) -> None:
        self.instrument = instrument
        self.venue = _venue(instrument)
        self.kept_ns = kept_ns
        self.estimated = estimated
        self.current = NO_MINUTE
        self.newest_ns = -1
        self.horizon_ns = 0
        self.levels: tuple[dict[int, _Node], ...] = tuple({} for _ in INTERVALS_S)
        self.pending: list[tuple[int, int, int]] = []
        self.gaps: dict[int, int] = {}
        self.sides = Stretches()
        self.both = Stretches()
        self.live = False
        self.touched = False

    def begin(self, event_ns: int) -> None:
        """From its first trade on an instrument is known; or from the end of the gap before it."""
        if self.live:
            return
        self.live = True
        ends_ns = [end_ns for end_ns in self.gaps.values() if end_ns <= event_ns]
        self.sides.add(max(ends_ns, default=event_ns), FOREVER_NS)

    def known(self, side: int, start_ns: int, end_ns: int) -> bool:
        """Whether all of [start_ns, end_ns) was seen or told, for that side."""
        if any(gap_ns < end_ns and start_ns < gap_end_ns for gap_ns, gap_end_ns in self.gaps.items()):
            return False
        return cover(start_ns, end_ns, self.sides, self.both) if side == BOTH else cover(start_ns, end_ns, self.sides)

    def gapped(self, node: _Node) -> bool:
        """Whether an open gap overlaps it."""
        return any(gap_ns < node.end_ns and node.open_ns < end_ns for gap_ns, end_ns in self.gaps.items())

    def minute(self, open_ns: int) -> _Node:
        """The minute that opens then, made if it is new; the newest one becomes the one that grows."""
        node = self.levels[0].get(open_ns)
        if open_ns > self.newest_ns:
            self.advance(open_ns)
            node = self.current = node or self.node(0, open_ns)
        return node or self.node(0, open_ns)

    def node(self, level: int, open_ns: int) -> _Node:
        """The place of that candle and of all longer ones it is part of, made where they are new."""
        made: _Node | None = None
        for above in range(level, len(INTERVALS_S)):
            interval_s = INTERVALS_S[above]
            start_ns = open_of(open_ns, interval_s)
            node = self.levels[above].get(start_ns)
            if node is None:
                node = self.levels[above][start_ns] = _Node(above, start_ns, start_ns + interval_s * NS)
                self._queue(node)
            made = made or node
        assert made is not None
        return made

    def chain(self, open_ns: int) -> Iterator[_Node]:
        """A minute and all longer candles it is part of, shortest first."""
        for level, interval_s in enumerate(INTERVALS_S):
            node = self.levels[level].get(open_of(open_ns, interval_s))
            if node is not None:
                yield node

    def parts(self, node: _Node) -> list[_Node]:
        """The next shorter candles it is folded from, without the minute that is growing."""
        shorter = self.levels[node.level - 1]
        step_ns = INTERVALS_S[node.level - 1] * NS
        parts = map(shorter.get, range(node.open_ns, node.end_ns, step_ns))
        return [part for part in parts if part is not None and part is not self.current]

    def refresh(self, node: _Node) -> None:
        """Fold again what changed since it was last folded; the minute that is growing stays outside."""
        if not node.stale:
            return
        node.stale = False
        if node.level == 0:
            node.bars[BOTH] = self.told(node)
            return
        parts = self.parts(node)
        for part in parts:
            self.refresh(part)
        for side in (BUY, SELL, BOTH):
            if not node.fixed >> side & 1:
                node.bars[side] = fold(part.bars[side] for part in parts)
        if node.fixed and not node.fixed & BOTH_BIT:
            node.bars[BOTH] = join(node.bars[BUY], node.bars[SELL])

    def growing(self, node: _Node, side: int) -> Bar | None:
        """The bar of a growing candle: what is folded, and the minute that is growing."""
        current = self.current
        now = self.told(current) if side == BOTH else current.bars[side]
        if node is current:
            return now
        self.refresh(node)
        return join(node.bars[side], now)

    def told(self, minute: _Node) -> Bar | None:
        """Buy and sell joined, unless the venue's own candle says otherwise: then that, with what it does not tell."""
        ours, venue = join(minute.bars[BUY], minute.bars[SELL]), minute.venue
        if venue is None or ours is None:
            return venue or ours
        if _agrees(ours, venue, estimated=self.estimated):
            return ours
        return Bar(
            venue.first,
            venue.last,
            venue.high,
            venue.low,
            venue.volume,
            ours.quote if self.estimated and not venue.flat else venue.quote,
            venue.count if venue.count or venue.flat else ours.count,
            max(venue.received_ns, ours.received_ns),
            venue=venue.venue,
        )

    def agrees(self, minute: _Node) -> bool:
        """Whether our trades add up to the venue's own candle of that minute, if there is one."""
        ours, venue = join(minute.bars[BUY], minute.bars[SELL]), minute.venue
        if venue is None or ours is None:
            return venue is None or venue.flat
        return _agrees(ours, venue, estimated=self.estimated)

    def changed(self, minute: _Node, bits: int) -> None:
        """These sides of a minute changed: fold again, and send again, all it is part of."""
        for node in self.chain(minute.open_ns):
            node.stale = True
            node.sent &= ~bits | node.fixed

    def seal(self) -> None:
        """The minute that grew is done growing: the longer candles may fold it in."""
        sealed, self.current = self.current, NO_MINUTE
        if sealed is not NO_MINUTE:
            self.changed(sealed, ALL_BITS)

    def seal_due(self, limit_ns: int) -> None:
        """Seal before anything longer is closed, which would miss the growing minute."""
        if self.current.end_ns <= limit_ns:
            self.seal()

    def advance(self, newest_ns: int) -> None:
        """A newer minute began: seal the one before, forget what is too old."""
        self.seal()
        self.horizon_ns = self.horizon_at(newest_ns)
        self.newest_ns = newest_ns
        # From the longest down: what is folded from something that goes is folded for the last time.
        for level in range(len(INTERVALS_S) - 1, -1, -1):
            nodes, bound_ns = self.levels[level], self.bound_ns(level)
            gone = [open_ns for open_ns in nodes if open_ns < bound_ns]
            for open_ns in gone:
                self._fold_last(level + 1, open_ns)
            for open_ns in gone:
                del nodes[open_ns]
        self.sides.forget(self.bound_ns(len(INTERVALS_S) - 1))
        self.both.forget(self.bound_ns(len(INTERVALS_S) - 1))

    def horizon_at(self, newest_ns: int) -> int:
        """The oldest minute that is kept once `newest_ns` is the newest; an open gap holds it back, for its repair."""
        horizon_ns = newest_ns - self.kept_ns
        if self.gaps:
            gap_ns = max(min(self.gaps), newest_ns - GAP_MINUTES_MAX * MINUTE_NS)
            horizon_ns = min(horizon_ns, gap_ns - gap_ns % MINUTE_NS)
        return max(horizon_ns, self.horizon_ns)

    def bound_ns(self, level: int) -> int:
        """Candles of that level that open before are forgotten: they are part of nothing that can still change."""
        return open_of(self.horizon_ns, INTERVALS_S[min(level + 1, len(INTERVALS_S) - 1)])

    def fixed(self, open_ns: int, bits: int) -> bool:
        """Whether that minute is inside a candle of which one of these sides was seeded."""
        return any(node.fixed & bits for node in self.chain(open_ns))

    def seed(self, candle: Candle, level: int) -> bool:
        """Put a closed candle of before in its place; False where it is too old to matter, or unreadable."""
        end_ns = candle.open_ns + candle.interval_s * NS
        if end_ns - MINUTE_NS > self.newest_ns:
            self.advance(end_ns - MINUTE_NS)
        if candle.open_ns < self.bound_ns(level) or candle.open_ns != open_of(candle.open_ns, candle.interval_s):
            return False
        try:
            bar = bar_of_candle(candle)
        except DecimalException:
            return False
        node = self.node(level, candle.open_ns)
        if node is self.current:
            self.seal()
        side = SIDES.index(candle.side)
        if level == 0 and side == BOTH:
            # As if the venue had told it just now: trades may still come and build the sides.
            node.venue = bar
        else:
            if level == 0 and not node.fixed:
                node.bars = [None, None, None]
            node.bars[side] = bar
            node.fixed |= 1 << side
        node.closed = True
        node.sent |= 1 << side
        for above in self.chain(candle.open_ns):
            if above.level >= level:
                above.stale = True
            if above.level > level:
                above.sent &= above.fixed
                self._queue(above)
        (self.both if side == BOTH else self.sides).add(candle.open_ns, end_ns)
        return True

    def queue(self, start_ns: int) -> None:
        """What ends after `start_ns` may be due (again)."""
        for nodes in self.levels:
            for node in nodes.values():
                if node.end_ns > start_ns:
                    self._queue(node)

    def _fold_last(self, level: int, open_ns: int) -> None:
        if level < len(INTERVALS_S):
            node = self.levels[level].get(open_of(open_ns, INTERVALS_S[level]))
            if node is not None:
                self.refresh(node)

    def _queue(self, node: _Node) -> None:
        if not node.queued:
            node.queued = True
            heappush(self.pending, (node.end_ns, node.level, node.open_ns))


def _agrees(ours: Bar, venue: Bar, *, estimated: bool) -> bool:
    # A venue that does not count trades says 0.
    return (
        ours.high == venue.high
        and ours.low == venue.low
        and ours.first.price == venue.first.price
        and ours.last.price == venue.last.price
        and ours.volume == venue.volume
        and (estimated or ours.quote == venue.quote)
        and venue.count in {0, ours.count}
    )


def _same(one: Bar, other: Bar) -> bool:
    return one.count == other.count and _agrees(one, other, estimated=False)


def _venue(instrument: str) -> str:
    return instrument.partition(":")[0]


NO_MINUTE = _Node(0, 0, 0)
