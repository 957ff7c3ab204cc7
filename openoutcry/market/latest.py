"""The newest of everything, in memory: what the bus said last, and the newest closed candles of series that are asked for.

Series are kept from the moment somebody asked for them, because most of the possible ones (every instrument, interval
and side) are never asked for; the least recently asked go first when `rows_max` candles are kept.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import attrgetter
from typing import Generic, TypeVar

from openoutcry.bus import Bus
from openoutcry.events import (
    Candle,
    FundingRate,
    MarkPrice,
    OpenInterest,
    PredictedFunding,
    Quote,
    Ticker,
    Trade,
)
from openoutcry.market.series import Of, SeriesKey

CANDLES_KEPT = 1_500
ROWS_MAX = 200_000
# Instruments of which the newest quote, price, ... is kept; a venue lists a few thousand at most.
INSTRUMENTS_MAX = 20_000
PREDICTIONS_MAX = 5_000

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")
_open_of = attrgetter("open_ns")


class Latest:
    """Listens to the bus from `listen` on. `candles_kept` a series, `rows_max` in all."""

    def __init__(self, *, candles_kept: int = CANDLES_KEPT, rows_max: int = ROWS_MAX) -> None:
        self._kept = candles_kept
        self._rows_max = rows_max
        self._rings: OrderedDict[SeriesKey, _Ring] = OrderedDict()
        self._rows = 0
        self.quotes: Bounded[str, Quote] = Bounded(INSTRUMENTS_MAX)
        self.marks: Bounded[str, MarkPrice] = Bounded(INSTRUMENTS_MAX)
        self.funding: Bounded[str, FundingRate] = Bounded(INSTRUMENTS_MAX)
        self.interest: Bounded[str, OpenInterest] = Bounded(INSTRUMENTS_MAX)
        self.trades: Bounded[str, Trade] = Bounded(INSTRUMENTS_MAX)
        self.tickers: Bounded[str, Ticker] = Bounded(INSTRUMENTS_MAX)
        self._predicted: dict[str, Bounded[tuple[str, str], PredictedFunding]] = {}

    def listen(self, bus: Bus) -> Callable[[], None]:
        """Hear what comes from now on. Returns the way to stop."""
        stops = [
            bus.listen(Quote, lambda quote: self.quotes.put(quote.instrument, quote)),
            bus.listen(Trade, lambda trade: self.trades.put(trade.instrument, trade)),
            bus.listen(Ticker, lambda ticker: self.tickers.put(ticker.instrument, ticker)),
            bus.listen(MarkPrice, self.on_mark),
            bus.listen(FundingRate, self.on_funding),
            bus.listen(OpenInterest, self.on_interest),
            bus.listen(PredictedFunding, self.on_predicted),
            bus.listen(Candle, self.on_candle),
        ]

        def stop() -> None:
            for each in stops:
                each()

        return stop

    def on_mark(self, mark: MarkPrice) -> None:
        """The newest mark price; an older one, told late, changes nothing."""
        known = self.marks.get(mark.instrument)
        if known is None or known.event_ns <= mark.event_ns:
            self.marks.put(mark.instrument, mark)

    def on_funding(self, rate: FundingRate) -> None:
        """The running rate; settled ones are history."""
        if not rate.settled:
            self.funding.put(rate.instrument, rate)

    def on_interest(self, interest: OpenInterest) -> None:
        """The newest open interest; an older one, told late, changes nothing."""
        known = self.interest.get(interest.instrument)
        if known is None or known.event_ns <= interest.event_ns:
            self.interest.put(interest.instrument, interest)

    def on_predicted(self, predicted: PredictedFunding) -> None:
        """One line of a venue's table of predictions."""
        venue = predicted.instrument.partition(":")[0]
        self._predicted.setdefault(venue, Bounded(PREDICTIONS_MAX)).put((predicted.coin, predicted.label), predicted)

    def predicted(self, venue: str) -> Sequence[PredictedFunding]:
        """The venue's table of predictions as last told."""
        table = self._predicted.get(venue)
        return [] if table is None else list(table.values())

    def replace_predicted(self, venue: str, table: Sequence[PredictedFunding]) -> None:
        """The whole table, newly told: coins that left it leave."""
        self._predicted.pop(venue, None)
        for each in table:
            self.on_predicted(each)

    def on_candle(self, candle: Candle) -> None:
        """A closed candle joins its series, if that is kept."""
        if candle.closed:
            ring = self._rings.get(SeriesKey(candle.instrument, Of.CANDLES, candle.interval_s, candle.side))
            if ring is not None:
                self._rows += ring.put(candle, self._kept)

    def fill(self, key: SeriesKey, rows: Sequence[Candle]) -> None:
        """Closed candles of a series from elsewhere (a venue's answer): if the series is kept, they join it."""
        ring = self._rings.get(key)
        if ring is not None:
            for row in rows:
                self._rows += ring.put(row, self._kept)

    def keep(self, key: SeriesKey, start_ns: int, rows: Sequence[Candle]) -> None:
        """Keep this series from now on. `rows` are all its closed candles from `start_ns` until now, oldest first."""
        known = self._rings.get(key)
        if known is not None:
            if known.start_ns <= start_ns:
                return
            self._rows -= len(known.rows)
        ring = self._rings[key] = _Ring(start_ns, list(rows))
        self._rows += len(rows) + ring.trim(self._kept)
        self._rings.move_to_end(key)
        while self._rows > self._rows_max and len(self._rings) > 1:
            self._rows -= len(self._rings.popitem(last=False)[1].rows)

    def kept(self, key: SeriesKey) -> bool:
        """Whether the series is kept."""
        return key in self._rings

    def newest(self, key: SeriesKey, end_ns: int, limit: int) -> Sequence[Candle] | None:
        """The newest `limit` closed candles that open before `end_ns`; None where so many are not kept."""
        ring = self._rings.get(key)
        if ring is None:
            return None
        self._rings.move_to_end(key)
        rows = ring.rows
        if rows and rows[-1].open_ns >= end_ns:
            rows = rows[: bisect_left(rows, end_ns, key=_open_of)]
        return rows[-limit:] if len(rows) >= limit else None

    def between(self, key: SeriesKey, start_ns: int, end_ns: int) -> Sequence[Candle] | None:
        """All kept closed candles of [start_ns, end_ns); None where the series is not kept so far back."""
        ring = self._rings.get(key)
        if ring is None or ring.start_ns > start_ns:
            return None
        self._rings.move_to_end(key)
        first = bisect_left(ring.rows, start_ns, key=_open_of)
        return ring.rows[first : bisect_left(ring.rows, end_ns, key=_open_of)]

    @property
    def rows(self) -> int:
        """How many candles are kept in all."""
        return self._rows


class _Ring:
    """The newest closed candles of one series: all that are known from `start_ns` on."""

    __slots__ = ("rows", "start_ns")

    def __init__(self, start_ns: int, rows: list[Candle]) -> None:
        self.start_ns = start_ns
        self.rows = rows

    def put(self, candle: Candle, most: int) -> int:
        """Add or replace one. Gives by how much the number of rows changed."""
        rows = self.rows
        if candle.open_ns < self.start_ns:
            return 0
        if not rows or rows[-1].open_ns < candle.open_ns:
            rows.append(candle)
            return 1 + self.trim(most)
        at = bisect_left(rows, candle.open_ns, key=_open_of)
        if rows[at].open_ns == candle.open_ns:
            rows[at] = candle
            return 0
        rows.insert(at, candle)
        return 1 + self.trim(most)

    def trim(self, most: int) -> int:
        # An eighth more than asked for is let stand, so that not every new candle moves the whole list.
        over = len(self.rows) - most
        if over <= most // 8:
            return 0
        self.start_ns = self.rows[over].open_ns
        del self.rows[:over]
        return -over


class Bounded(Generic[_K, _V]):
    """The newest value by key; beyond `most` keys the one told first goes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[_K, _V] = {}
        self.get: Callable[[_K], _V | None] = self._of.get

    def put(self, key: _K, value: _V) -> None:
        """Remember it."""
        of = self._of
        of[key] = value
        if len(of) > self._most:
            del of[next(iter(of))]

    def values(self) -> Sequence[_V]:
        """All that are remembered."""
        return list(self._of.values())

    def items(self) -> Mapping[_K, _V]:
        """All that are remembered, by key."""
        return dict(self._of)
