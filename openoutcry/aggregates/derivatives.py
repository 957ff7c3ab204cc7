"""Open interest, funding, liquidations and liquidation levels per interval: samples in, bars of seven intervals out.

A bar holds the samples that fell into its interval, whatever the order they came in; an interval without a sample has no
bar. Bars close like candles: when the venue's time has passed their end plus a grace. A later sample corrects the bars it
falls into, as far as they are kept, and they are returned once more. Bars that opened before the first sample (or the
`follow`) of their series are not returned as closed: they began without us.

Liquidations must come without duplicates, as trades must. Binance and OKX stream only a part of theirs: the sums are of
what was streamed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, DecimalException
from typing import Protocol

from openoutcry.aggregates.bars import ZERO
from openoutcry.aggregates.exact import ENTRY, SUM
from openoutcry.aggregates.stretches import FOREVER_NS
from openoutcry.events import (
    INTERVALS_S,
    NS,
    FundingBar,
    FundingRate,
    InterestBar,
    Level,
    LevelsBar,
    Liquidation,
    LiquidationBar,
    LiquidationLevels,
    Ohlc,
    OpenInterest,
    PredictedFunding,
    Side,
    open_of,
)

# Bars of each interval and series that a late sample can still correct.
BARS_KEPT = 3
SERIES_MAX = 20_000
GRACE_S = 1.0
# A sample so far ahead of our own clock is a fault; taking it would make every real one look too late.
AHEAD_S_MAX = 3_600.0

DerivativeBar = InterestBar | FundingBar | LiquidationBar | LevelsBar
Sample = OpenInterest | FundingRate | PredictedFunding | Liquidation | LiquidationLevels
# What a bar is of, the instrument, and the side (BOTH but for liquidations).
Key = tuple[type[DerivativeBar], str, Side]


class Derivatives:
    """Builds and closes the bars of every instrument whose samples it is given.

    `counts`: samples that were `corrected` (into closed bars), `too_late`, `ahead`, `unsummable`; and `series_full`.
    """

    def __init__(
        self,
        *,
        grace_s: float = GRACE_S,
        bars_kept: int = BARS_KEPT,
        series_max: int = SERIES_MAX,
        ahead_s_max: float = AHEAD_S_MAX,
    ) -> None:
        self._grace_ns = round(grace_s * NS)
        self._bars_kept = bars_kept
        self._series_max = series_max
        self._ahead_ns = round(ahead_s_max * NS)
        self._series: dict[Key, _Series] = {}
        self._of_venue: dict[str, dict[Key, _Series]] = {}
        self._time_ns: dict[str, int] = {}
        self._touched: set[str] = set()
        # Changes whenever a series has its first bar.
        self.firsts = 0
        self.counts: Counter[str] = Counter()

    def on_sample(self, sample: Sample) -> Sequence[DerivativeBar]:
        """Take one sample. Returns the closed bars it corrects: almost always none."""
        key, event_ns = _place(sample)
        if event_ns > sample.received_ns + self._ahead_ns:
            self.counts["ahead"] += 1
            return ()
        if isinstance(sample, Liquidation) and not _summable(sample):
            self.counts["unsummable"] += 1
            return ()
        series = self._open(key)
        if series is None:
            return ()
        series.tell(event_ns)
        self._touched.add(sample.instrument)
        self.firsts += not series.bars[INTERVALS_S[0]]
        limit_ns = self._time_ns.get(series.venue, 0) - self._grace_ns
        bars = [series.bar(interval_s, open_of(event_ns, interval_s)) for interval_s in INTERVALS_S]
        for bar in bars:
            if bar is not None:
                bar.add(sample)
        self.counts["too_late"] += bars[0] is None
        done = [bar for bar in bars if bar is not None and (bar.closed or bar.end_ns <= limit_ns)]
        self.counts["corrected"] += bool(done) and done[0].closed
        return series.close(done)

    def on_time(self, venue: str, event_ns: int) -> Sequence[DerivativeBar]:
        """Close what is due: `event_ns` is the greatest event time seen of that venue."""
        event_ns = self._time_ns[venue] = max(event_ns, self._time_ns.get(venue, 0))
        closed: list[DerivativeBar] = []
        for series in self._of_venue.get(venue, {}).values():
            if series.due_ns <= event_ns - self._grace_ns:
                closed += series.close(series.due(event_ns - self._grace_ns))
        return closed

    def follow(self, kind: type[DerivativeBar], instrument: str, since_ns: int) -> None:
        """Samples are complete from `since_ns` on, though none came yet (liquidations may take hours to come)."""
        for side in (Side.BUY, Side.SELL) if kind is LiquidationBar else (Side.BOTH,):
            series = self._open((kind, instrument, side))
            if series is not None:
                series.tell(since_ns)

    def since(self, kind: type[DerivativeBar], instrument: str, side: Side = Side.BOTH) -> int | None:
        """From when on (ns) every sample is heard; None where nobody said so."""
        series = self._series.get((kind, instrument, side))
        return None if series is None or series.since_ns == FOREVER_NS else series.since_ns

    def missed(self, kind: type[DerivativeBar], instrument: str, until_ns: int) -> None:
        """Samples before `until_ns` may have been missed: what closes empty tells nothing of the time before."""
        for side in (Side.BUY, Side.SELL) if kind is LiquidationBar else (Side.BOTH,):
            series = self._series.get((kind, instrument, side))
            if series is not None and series.since_ns != FOREVER_NS:
                series.since_ns = max(series.since_ns, until_ns)

    def seed(self, bars: Iterable[DerivativeBar]) -> None:
        """Take bars of before, growing ones too, so that the growing ones go on where they were.

        A bar fills its own place only: give those of each interval. Closed ones stand there for late samples.
        """
        for bar in bars:
            side = bar.side if isinstance(bar, LiquidationBar) else Side.BOTH
            series = self._open((type(bar), bar.instrument, side))
            if series is not None and series.seed(bar):
                self._touched.add(bar.instrument)
                self.firsts += 1

    def growing(
        self, kind: type[DerivativeBar], instrument: str, interval_s: int, side: Side = Side.BOTH
    ) -> DerivativeBar | None:
        """The newest bar, if it still grows. `side` is BUY or SELL for liquidations, BOTH otherwise."""
        series = self._series.get((kind, instrument, side))
        if series is None or not series.bars[interval_s]:
            return None
        newest = series.bars[interval_s][max(series.bars[interval_s])]
        return None if newest.closed else newest.event(instrument, side, closed=False)

    def begun(self) -> Mapping[tuple[type[DerivativeBar], str], int]:
        """The opening (ns) of the first bar that is kept, by kind and instrument, of all that have one."""
        first_ns: dict[tuple[type[DerivativeBar], str], int] = {}
        for (kind, instrument, _), series in self._series.items():
            opens = series.bars[INTERVALS_S[0]]
            if opens:
                known_ns = first_ns.get((kind, instrument), FOREVER_NS)
                first_ns[kind, instrument] = min(known_ns, *opens)
        return first_ns

    def touched(self) -> set[str]:
        """Instruments that had a sample since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def drop(self, instrument: str) -> None:
        """Forget an instrument."""
        for key in [key for key in self._series if key[1] == instrument]:
            del self._of_venue[self._series.pop(key).venue][key]
        self._touched.discard(instrument)

    def __len__(self) -> int:
        return len(self._series)

    def _open(self, key: Key) -> "_Series | None":
        series = self._series.get(key)
        if series is None and len(self._series) >= self._series_max:
            self.counts["series_full"] += 1
        elif series is None:
            series = self._series[key] = _Series(key, self._bars_kept)
            self._of_venue.setdefault(series.venue, {})[key] = series
        return series


def interest_bars(samples: Iterable[OpenInterest], interval_s: int, until_ns: int) -> list[InterestBar]:
    """The bars that samples of one instrument fall into, oldest first; those that end by `until_ns` are closed."""
    bars: dict[int, _InterestBar] = {}
    instrument = ""
    for sample in samples:
        instrument = sample.instrument
        open_ns = open_of(sample.event_ns, interval_s)
        bar = bars.get(open_ns)
        if bar is None:
            bar = bars[open_ns] = _InterestBar(interval_s, open_ns)
        bar.add(sample)
    made = [bars[open_ns] for open_ns in sorted(bars)]
    return [bar.event(instrument, Side.BOTH, closed=bar.end_ns <= until_ns) for bar in made]


class _Bar(Protocol):
    """What all sorts of bar can do."""

    interval_s: int
    open_ns: int
    closed: bool

    def add(self, sample: Sample) -> None: ...
    def take(self, bar: DerivativeBar) -> None: ...
    def event(self, instrument: str, side: Side, *, closed: bool) -> DerivativeBar: ...

    @property
    def end_ns(self) -> int: ...


class _Series:
    """The newest few bars of each interval, of one kind, instrument and side; known from `since_ns` on."""

    def __init__(self, key: Key, bars_kept: int) -> None:
        self.kind, self.instrument, self.side = key
        self.venue = self.instrument.partition(":")[0]
        self.bars: dict[int, dict[int, _Bar]] = {interval_s: {} for interval_s in INTERVALS_S}
        self.bars_kept = bars_kept
        self.since_ns = FOREVER_NS
        self.due_ns = FOREVER_NS

    def tell(self, since_ns: int) -> None:
        """Something is known from then on; what comes later than the first word does not move it."""
        if self.since_ns == FOREVER_NS:
            self.since_ns = since_ns

    def bar(self, interval_s: int, open_ns: int) -> _Bar | None:
        """The bar that opens then, made if it is new; None where it is older than those that are kept."""
        bars = self.bars[interval_s]
        bar = bars.get(open_ns)
        if bar is None:
            if len(bars) >= self.bars_kept:
                if open_ns < min(bars):
                    return None
                del bars[min(bars)]
            bar = bars[open_ns] = _BARS[self.kind](interval_s, open_ns)
            self.due_ns = min(self.due_ns, bar.end_ns)
        return bar

    def seed(self, told: DerivativeBar) -> bool:
        """Put a bar of before in its place, unless samples were put there already."""
        bars = self.bars[told.interval_s]
        bar = None if told.open_ns in bars else self.bar(told.interval_s, told.open_ns)
        if bar is None:
            return False
        bar.take(told)
        bar.closed = told.closed
        self.since_ns = min(self.since_ns, told.open_ns)
        return True

    def due(self, limit_ns: int) -> list[_Bar]:
        """Bars that end by then and are not closed yet, shortest first."""
        every = [bar for bars in self.bars.values() for bar in bars.values() if not bar.closed]
        due = [bar for bar in every if bar.end_ns <= limit_ns]
        self.due_ns = min((bar.end_ns for bar in every if bar.end_ns > limit_ns), default=FOREVER_NS)
        return sorted(due, key=lambda bar: (bar.end_ns, bar.interval_s))

    def close(self, bars: Iterable[_Bar]) -> Sequence[DerivativeBar]:
        """Close them; those that were seen from their opening on are returned."""
        closed: list[DerivativeBar] = []
        for bar in bars:
            bar.closed = True
            if bar.open_ns >= self.since_ns:
                closed.append(bar.event(self.instrument, self.side, closed=True))
        return closed


class _Numbers:
    """Open, high, low, close of numbers: the earliest opens, the latest closes."""

    def __init__(self) -> None:
        self.open = self.high = self.low = self.close = ZERO
        self.first: tuple[int, int] | None = None
        self.last: tuple[int, int] = (0, 0)

    def widen(self, number: Decimal, at: tuple[int, int]) -> None:
        if self.first is None:
            self.open = self.high = self.low = self.close = number
            self.first = self.last = at
            return
        self.high, self.low = max(self.high, number), min(self.low, number)
        if at < self.first:
            self.first, self.open = at, number
        if at >= self.last:
            self.last, self.close = at, number

    def take(self, told: Ohlc | None, open_ns: int) -> None:
        # A bar does not tell when its samples were: what comes now counts as later.
        if told is not None:
            self.open, self.high, self.low, self.close = told
            self.first = self.last = (open_ns, -1)

    @property
    def ohlc(self) -> Ohlc | None:
        """All four; None without a number."""
        return None if self.first is None else (self.open, self.high, self.low, self.close)


class _Span:
    """What every bar has."""

    def __init__(self, interval_s: int, open_ns: int) -> None:
        self.interval_s = interval_s
        self.open_ns = open_ns
        self.closed = False
        self.received_ns = 0

    @property
    def end_ns(self) -> int:
        return self.open_ns + self.interval_s * NS


class _InterestBar(_Span):
    """Open interest in base coins; `value` of the latest sample that told one; the range of values and of prices."""

    def __init__(self, interval_s: int, open_ns: int) -> None:
        super().__init__(interval_s, open_ns)
        self.sizes = _Numbers()
        self.prices: _Numbers | None = None
        self.values: _Numbers | None = None
        self.value: Decimal | None = None
        self.valued = (-1, -1)

    def add(self, sample: Sample) -> None:
        assert isinstance(sample, OpenInterest)
        at = (sample.event_ns, sample.received_ns)
        self.sizes.widen(sample.size, at)
        self.received_ns = max(self.received_ns, sample.received_ns)
        if sample.value is not None and at >= self.valued:
            self.value, self.valued = sample.value, at
        if sample.price is not None:
            # Only who tells prices has ranges: thousands of perpetuals would carry eight numbers for nothing.
            self.prices = self.prices or _Numbers()
            self.prices.widen(sample.price, at)
            if sample.value is not None:
                self.values = self.values or _Numbers()
                self.values.widen(sample.value, at)

    def take(self, bar: DerivativeBar) -> None:
        assert isinstance(bar, InterestBar)
        self.sizes.take((bar.open, bar.high, bar.low, bar.close), bar.open_ns)
        self.received_ns = bar.received_ns
        self.value = bar.value
        if bar.prices is not None:
            self.prices = _Numbers()
            self.prices.take(bar.prices, bar.open_ns)
        if bar.values is not None:
            self.values = _Numbers()
            self.values.take(bar.values, bar.open_ns)

    def event(self, instrument: str, side: Side, *, closed: bool) -> InterestBar:
        assert side is Side.BOTH
        sizes = self.sizes
        return InterestBar(
            instrument, self.interval_s, self.open_ns, sizes.open, sizes.high, sizes.low, sizes.close, self.value,
            closed, self.received_ns, self.values.ohlc if self.values else None, self.prices.ohlc if self.prices else None,
        )  # fmt: skip


class _FundingBar(_Span):
    """The running rate; beside it the rate that was settled inside, and what was predicted for the period after.

    Without a running rate the settled one stands in, or what was predicted.
    """

    def __init__(self, interval_s: int, open_ns: int) -> None:
        super().__init__(interval_s, open_ns)
        self.rates = _Numbers()
        self.predicted = _Numbers()
        self.settled: Decimal | None = None
        self.funding_ns: int | None = None

    def add(self, sample: Sample) -> None:
        assert isinstance(sample, FundingRate | PredictedFunding)
        self.received_ns = max(self.received_ns, sample.received_ns)
        if isinstance(sample, PredictedFunding):
            assert sample.rate is not None
            self.predicted.widen(sample.rate, (sample.received_ns, sample.received_ns))
            return
        at = (sample.event_ns, sample.received_ns)
        if not sample.settled:
            self.rates.widen(sample.rate, at)
        elif self.funding_ns is None or sample.funding_ns >= self.funding_ns:
            self.settled, self.funding_ns = sample.rate, sample.funding_ns
        if sample.predicted is not None:
            self.predicted.widen(sample.predicted, at)

    def take(self, bar: DerivativeBar) -> None:
        assert isinstance(bar, FundingBar)
        self.rates.take((bar.open, bar.high, bar.low, bar.close), bar.open_ns)
        self.predicted.take(bar.predicted, bar.open_ns)
        self.received_ns = bar.received_ns
        self.settled, self.funding_ns = bar.settled, bar.funding_ns

    def event(self, instrument: str, side: Side, *, closed: bool) -> FundingBar:
        assert side is Side.BOTH
        rates = self.rates.ohlc
        if rates is None and self.settled is not None:
            rates = (self.settled,) * 4
        rates = rates or self.predicted.ohlc
        assert rates is not None
        return FundingBar(
            instrument, self.interval_s, self.open_ns, *rates, self.settled, self.funding_ns, closed,
            self.received_ns, self.predicted.ohlc,
        )  # fmt: skip


class _LevelsBar(_Span):
    """Liquidation levels: the latest that were told."""

    def __init__(self, interval_s: int, open_ns: int) -> None:
        super().__init__(interval_s, open_ns)
        self.levels: tuple[Level, ...] = ()
        self.at = (-1, -1)

    def add(self, sample: Sample) -> None:
        assert isinstance(sample, LiquidationLevels)
        at = (sample.event_ns, sample.received_ns)
        if at >= self.at:
            self.at, self.levels, self.received_ns = at, sample.levels, sample.received_ns

    def take(self, bar: DerivativeBar) -> None:
        assert isinstance(bar, LevelsBar)
        self.levels, self.received_ns = bar.levels, bar.received_ns

    def event(self, instrument: str, side: Side, *, closed: bool) -> LevelsBar:
        assert side is Side.BOTH
        return LevelsBar(instrument, self.interval_s, self.open_ns, self.levels, closed, self.received_ns)


class _LiquidationBar(_Span):
    """Forced closes of one side, added up."""

    def __init__(self, interval_s: int, open_ns: int) -> None:
        super().__init__(interval_s, open_ns)
        self.volume = self.quote = ZERO
        self.count = 0

    def add(self, sample: Sample) -> None:
        assert isinstance(sample, Liquidation)
        self.volume = SUM.add(self.volume, sample.size)
        self.quote = SUM.add(self.quote, _value(sample))
        self.count += 1
        self.received_ns = max(self.received_ns, sample.received_ns)

    def take(self, bar: DerivativeBar) -> None:
        assert isinstance(bar, LiquidationBar)
        self.volume, self.quote, self.count = bar.volume, bar.quote_volume, bar.count
        self.received_ns = bar.received_ns

    def event(self, instrument: str, side: Side, *, closed: bool) -> LiquidationBar:
        return LiquidationBar(
            instrument, side, self.interval_s, self.open_ns, self.volume, self.quote, self.count, closed,
            self.received_ns,
        )  # fmt: skip


_BARS: Mapping[
    type[DerivativeBar], type[_InterestBar] | type[_FundingBar] | type[_LevelsBar] | type[_LiquidationBar]
] = {
    InterestBar: _InterestBar,
    FundingBar: _FundingBar,
    LevelsBar: _LevelsBar,
    LiquidationBar: _LiquidationBar,
}


def _place(sample: Sample) -> tuple[Key, int]:
    # A settled rate belongs to the moment it was paid, whenever the venue told it.
    match sample:
        case OpenInterest():
            return (InterestBar, sample.instrument, Side.BOTH), sample.event_ns
        case FundingRate():
            return (FundingBar, sample.instrument, Side.BOTH), sample.funding_ns if sample.settled else sample.event_ns
        case PredictedFunding():
            return (FundingBar, sample.instrument, Side.BOTH), sample.received_ns
        case Liquidation():
            return (LiquidationBar, sample.instrument, sample.side), sample.event_ns
        case LiquidationLevels():
            return (LevelsBar, sample.instrument, Side.BOTH), sample.event_ns


def _value(sample: Liquidation) -> Decimal:
    return ENTRY.multiply(sample.price, sample.size) if sample.value is None else sample.value


def _summable(sample: Liquidation) -> bool:
    try:
        ENTRY.add(ZERO, sample.size)
        ENTRY.add(ZERO, _value(sample))
    except DecimalException:
        return False
    return True
