"""Which stretches of a live instrument are whole: closed candles, gaps and repairs become coverage.

A candle is published as closed only when its bucket is whole, so each one says "we have this bucket". Between two of
them the trade stream was either whole, and then the buckets without a candle are known to be empty, or a gap was
declared, and then they are missing until it is mended.
"""

from openoutcry.events import MINUTE_S, NS, Abandoned, Candle, Gap, Mended, Side, Trade, open_of
from openoutcry.market.coverage import END_NS, Book, Coverage
from openoutcry.market.series import Of, SeriesKey, State

# Which series a gap of a feed makes missing; gaps of other feeds leave no hole in what we keep.
_TOUCHED: dict[str, frozenset[Of]] = {
    "trades": frozenset({Of.CANDLES}),
    "liquidations": frozenset({Of.LIQUIDATION_BARS, Of.LIQUIDATIONS}),
    "open_interest": frozenset({Of.INTEREST_BARS}),
    "funding": frozenset({Of.FUNDING_BARS}),
}


# Minutes that traded and did not close: beyond it a stream counts as broken, and is asked for instead of trusted.
UNCLOSED_MAX = 1_440
MINUTE_NS = MINUTE_S * NS


class Whole:
    """Hears what happens to the streams and writes it into the book. Knows instruments that are followed only."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._streams: dict[str, _Stream] = {}
        self._dropped: dict[str, Coverage] = {}

    def on_trade(self, trade: Trade) -> None:
        """A trade: its minute is not quiet, whatever the candles say so far."""
        stream = self._streams.get(trade.instrument)
        if stream is not None:
            minute = trade.event_ns // MINUTE_NS
            if minute != stream.minute:
                stream.minute = minute
                stream.unclosed.add(minute)
                if len(stream.unclosed) > UNCLOSED_MAX:
                    self.forget(trade.instrument)

    def on_candle(self, candle: Candle) -> None:
        """A closed candle: its bucket is had, and so are the quiet ones before it if the stream was whole."""
        end_ns = candle.open_ns + candle.interval_s * NS
        key = SeriesKey(candle.instrument, Of.CANDLES, candle.interval_s, candle.side)
        if candle.interval_s == MINUTE_S:
            if candle.origin == "trades":
                self._reach(candle.instrument, candle.open_ns, end_ns)
            stream = self._streams.get(candle.instrument)
            if stream is not None:
                stream.unclosed.discard(candle.open_ns // MINUTE_NS)
        self._have(key, candle.open_ns, end_ns)

    def on_bar(self, key: SeriesKey, open_ns: int) -> None:
        """A closed bar of open interest, funding or liquidations."""
        self._book.add(key, open_ns, open_ns + key.interval_s * NS, State.HAVE)

    def on_gap(self, gap: Gap) -> None:
        """Buckets that the gap touches are missing, until mended."""
        end_ns = END_NS if gap.end_ns is None else gap.end_ns
        touched = _TOUCHED.get(gap.of, frozenset())
        for key in self._book.keys(gap.instrument):
            if key.of in touched:
                self._book.add(key, *_buckets(key, gap.start_ns, end_ns), State.MISSING)
        if gap.of != "trades":
            return
        stream = self._streams.get(gap.instrument)
        if stream is None:
            # Following begins with a gap: from its start on the stream will be whole once that is mended.
            stream = self._streams[gap.instrument] = _Stream(gap.start_ns)
        if stream.to_ns < gap.start_ns and not stream.open_gaps:
            self._told(gap.instrument, stream, stream.to_ns, gap.start_ns)
        stream.whole.add(gap.start_ns, end_ns, State.MISSING)
        self._book.add(SeriesKey(gap.instrument, Of.TRADES), gap.start_ns, end_ns, State.MISSING)
        for key, had_ns in stream.had_ns.items():
            stream.had_ns[key] = min(had_ns, _buckets(key, gap.start_ns, end_ns)[0])
        if gap.end_ns is None:
            stream.open_gaps.add(gap.start_ns)
            stream.to_ns = min(stream.to_ns, gap.start_ns)
        else:
            stream.to_ns = max(stream.to_ns, end_ns)

    def on_mended(self, mended: Mended) -> None:
        """The stream is whole there. Its candles follow, or followed, as closed ones; the quiet buckets with them."""
        stream = self._streams.get(mended.instrument)
        if mended.gap.of == "trades" and stream is not None:
            stream.open_gaps.discard(mended.gap.start_ns)
            self._told(mended.instrument, stream, mended.gap.start_ns, mended.end_ns)
            stream.to_ns = max(stream.to_ns, mended.end_ns)
            # Candles that waited for this may have come just before it: what lies quiet between them is whole as well.
            for key, had_ns in stream.had_ns.items():
                start_ns = max(_buckets(key, mended.gap.start_ns, mended.end_ns)[0], stream.first_ns(key))
                if stream.silent(start_ns, had_ns):
                    self._book.add(key, start_ns, had_ns, State.HAVE)

    def on_abandoned(self, abandoned: Abandoned) -> None:
        """The stretch stays missing; what no venue will ever serve again is refused: raw trades and sides."""
        gap = abandoned.gap
        if gap.of != "trades":
            return
        stream = self._streams.get(gap.instrument)
        if stream is not None:
            stream.open_gaps.discard(gap.start_ns)
            stream.to_ns = max(stream.to_ns, abandoned.end_ns)
            # Trades seen there do not close by themselves; the hole in `whole` speaks for these minutes.
            stream.unclosed = {
                minute
                for minute in stream.unclosed
                if (minute + 1) * MINUTE_NS <= gap.start_ns or minute * MINUTE_NS >= abandoned.end_ns
            }
        if not abandoned.final:
            return
        for key in self._book.keys(gap.instrument):
            if key.of is Of.TRADES:
                self._book.add(key, gap.start_ns, abandoned.end_ns, State.REFUSED)
            elif key.of is Of.CANDLES and key.side is not Side.BOTH:
                self._book.add(key, *_buckets(key, gap.start_ns, abandoned.end_ns), State.REFUSED)

    def on_dropped(self, trade: Trade) -> None:
        """A trade that could not be kept: its minute of raw trades is missing, the candles made from it are not."""
        minute_ns = open_of(trade.event_ns, MINUTE_S)
        self._dropped.setdefault(trade.instrument, Coverage()).add(minute_ns, minute_ns + MINUTE_NS, State.REFUSED)
        self._book.add(SeriesKey(trade.instrument, Of.TRADES), minute_ns, minute_ns + MINUTE_NS, State.MISSING)

    def quiet(self, key: SeriesKey, end_ns: int, safe_ns: int) -> None:
        """Take note of buckets of `key` before `end_ns` in which nothing was traded, if nothing was missed in them.

        The caller knows that the instrument is followed, and that no trade from before `safe_ns` is still on its way.
        """
        stream = self._streams.get(key.instrument)
        if stream is None or stream.open_gaps:
            return
        step_s = key.interval_s or MINUTE_S
        to_ns = min(end_ns, open_of(max(safe_ns, stream.to_ns), step_s))
        if stream.to_ns < to_ns:
            self._told(key.instrument, stream, stream.to_ns, to_ns)
            stream.to_ns = to_ns
        if key.of is Of.CANDLES and stream.had_ns.get(key, 0) < to_ns:
            self._have(key, to_ns, to_ns)

    def since(self, instrument: str) -> int | None:
        """Since when the live trades of the instrument are whole without a break until now; None where they are not."""
        stream = self._streams.get(instrument)
        if stream is None or stream.open_gaps:
            return None
        return stream.whole.run_start(stream.to_ns)

    def forget(self, instrument: str) -> None:
        """The instrument is followed no more: what comes later does not join what was."""
        self._streams.pop(instrument, None)

    def _reach(self, instrument: str, open_ns: int, end_ns: int) -> None:
        stream = self._streams.get(instrument)
        if stream is None:
            stream = self._streams[instrument] = _Stream(open_ns)
        if end_ns > stream.to_ns and not stream.open_gaps:
            self._told(instrument, stream, min(stream.to_ns, open_ns), end_ns)
            stream.to_ns = end_ns

    def _told(self, instrument: str, stream: "_Stream", start_ns: int, end_ns: int) -> None:
        stream.whole.add(start_ns, end_ns, State.HAVE)
        key = SeriesKey(instrument, Of.TRADES)
        self._book.add(key, start_ns, end_ns, State.HAVE)
        dropped = self._dropped.get(instrument)
        for span in () if dropped is None else dropped.query(start_ns, end_ns):
            if span.state is State.REFUSED:
                self._book.add(key, span.start_ns, span.end_ns, State.MISSING)

    def _have(self, key: SeriesKey, open_ns: int, end_ns: int) -> None:
        """`key` is had in [open_ns, end_ns), and before it as far back as the stream was whole since it last was."""
        stream = self._streams.get(key.instrument)
        from_ns = open_ns
        if stream is not None:
            had_ns = stream.had_ns.get(key, stream.first_ns(key))
            if had_ns < open_ns and stream.silent(had_ns, open_ns):
                from_ns = had_ns
            if from_ns < end_ns:
                stream.had_ns[key] = max(had_ns, end_ns)
        self._book.add(key, from_ns, end_ns, State.HAVE)


class _Stream:
    """The trades of one instrument since they are followed."""

    def __init__(self, from_ns: int) -> None:
        self.from_ns = from_ns
        self.to_ns = from_ns
        self.whole = Coverage()
        self.open_gaps: set[int] = set()
        self.minute = -1
        self.unclosed: set[int] = set()
        self.had_ns: dict[SeriesKey, int] = {}

    def silent(self, start_ns: int, end_ns: int) -> bool:
        """Whether nothing was missed in [start_ns, end_ns), and all that traded there was closed."""
        traded = any(start_ns <= minute * MINUTE_NS < end_ns for minute in self.unclosed)
        return not traded and self.whole.whole(start_ns, end_ns)

    def first_ns(self, key: SeriesKey) -> int:
        """The first bucket of `key` that lies wholly in the stream."""
        return _buckets(key, self.from_ns - 1, self.from_ns)[1] if self.from_ns else 0


def _buckets(key: SeriesKey, start_ns: int, end_ns: int) -> tuple[int, int]:
    """The stretch of whole buckets that [start_ns, end_ns) touches."""
    if not key.interval_s:
        return start_ns, end_ns
    first_ns = open_of(start_ns, key.interval_s)
    if end_ns == END_NS:
        return first_ns, end_ns
    return first_ns, open_of(end_ns - 1, key.interval_s) + key.interval_s * NS
