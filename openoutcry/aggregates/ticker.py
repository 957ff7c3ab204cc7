"""Rolling 24 h summaries from one-minute candles: 1,439 closed minutes and the one that grows.

A minute is remembered as its text, about a hundred bytes, and leaves when it is a day old; the sums are exact, so what
leaves takes off exactly what it brought.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from decimal import Decimal
from operator import attrgetter

import msgspec

from openoutcry.aggregates.bars import ZERO
from openoutcry.aggregates.exact import SUM
from openoutcry.events import MINUTE_S, NS, Candle, Side, Ticker

MINUTE_NS = 60 * NS
DAY_MINUTES = 1_440
INSTRUMENTS_MAX = 5_000


class Tickers:
    """The last 24 hours of every instrument whose closed one-minute candles it is given.

    Candles of other intervals and sides, and growing ones, are ignored, so that the stream of all candles can be given.
    """

    def __init__(self, *, instruments_max: int = INSTRUMENTS_MAX) -> None:
        self._instruments_max = instruments_max
        self._days: dict[str, _Day] = {}
        self.instruments_full = 0

    def on_candle(self, candle: Candle) -> None:
        """Take a closed minute; again with the same opening, it replaces what was said of it before."""
        if candle.interval_s != MINUTE_S or candle.side is not Side.BOTH or not candle.closed:
            return
        day = self._open(candle.instrument, candle.open_ns)
        if day is not None:
            day.put(_minute(candle))

    def seed(self, candles: Iterable[Candle], *, since_ns: int) -> None:
        """Take the closed minutes of one instrument from before; all of them are given from `since_ns` on."""
        told: dict[str, list[_Minute]] = {}
        for candle in candles:
            if candle.interval_s == MINUTE_S and candle.side is Side.BOTH and candle.closed:
                told.setdefault(candle.instrument, []).append(_minute(candle))
        for instrument, minutes in told.items():
            day = self._open(instrument, since_ns)
            if day is not None:
                day.take(minutes)
                day.since_ns = min(day.since_ns, since_ns)

    def ticker(
        self, instrument: str, event_ns: int, growing: Candle | None = None, *, part: bool = False
    ) -> Ticker | None:
        """The summary of the 24 h up to the minute that holds `event_ns`, with the minute that grows now, if any.

        None where nothing traded, or where less than 24 h are known: with `part` it is then given of what is known.
        """
        day = self._days.get(instrument)
        if day is None:
            return None
        minute_ns = event_ns - event_ns % MINUTE_NS
        start_ns = minute_ns - (DAY_MINUTES - 1) * MINUTE_NS
        if day.since_ns > start_ns and not part:
            return None
        day.forget(start_ns)
        return day.ticker(instrument, event_ns, None if growing is None else _minute(growing))

    def drop(self, instrument: str) -> None:
        """Forget an instrument."""
        self._days.pop(instrument, None)

    def _open(self, instrument: str, since_ns: int) -> "_Day | None":
        day = self._days.get(instrument)
        if day is None and len(self._days) >= self._instruments_max:
            self.instruments_full += 1
        elif day is None:
            day = self._days[instrument] = _Day(since_ns)
        return day


class _Minute(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a day needs to know of one minute."""

    open_ns: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote: Decimal
    trades: int
    received_ns: int


class _Day:
    """The newest minute, which may still be corrected, and those before it as text with their sums.

    `highs` and `lows` hold, oldest first, the older minutes that no later one exceeds: the first is the day's.
    """

    __slots__ = ("highs", "last", "lows", "older", "quote", "since_ns", "trades", "volume")

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.last: _Minute | None = None
        self._clear()

    def _clear(self) -> None:
        self.older: deque[bytes] = deque()
        self.volume: Decimal = ZERO
        self.quote: Decimal = ZERO
        self.trades: int = 0
        self.highs: deque[tuple[int, Decimal]] = deque()
        self.lows: deque[tuple[int, Decimal]] = deque()

    def put(self, minute: _Minute) -> None:
        """Remember a minute, or what it was corrected to."""
        self.since_ns = min(self.since_ns, minute.open_ns)
        last = self.last
        if last is None or minute.open_ns > last.open_ns:
            if last is not None:
                self._push(last)
            self.last = minute
            self.forget(minute.open_ns - (DAY_MINUTES - 1) * MINUTE_NS)
        elif minute.open_ns == last.open_ns:
            self.last = minute
        elif minute.open_ns > last.open_ns - DAY_MINUTES * MINUTE_NS:
            self._merge([minute])

    def take(self, minutes: Iterable[_Minute]) -> None:
        """Remember many, in any order; of two with the same opening the later given."""
        newest = self.last
        start_ns = 0 if newest is None else newest.open_ns - (DAY_MINUTES - 1) * MINUTE_NS
        given = sorted(minutes, key=attrgetter("open_ns"))
        self._merge([each for each in given if newest is not None and start_ns <= each.open_ns < newest.open_ns])
        for each in given:
            if newest is None or each.open_ns >= newest.open_ns:
                self.put(each)

    def _merge(self, minutes: Sequence[_Minute]) -> None:
        """Put minutes among the older ones. Everything is counted again: once, however many they are."""
        if not minutes:
            return
        known = {each.open_ns: each for each in map(_DECODER.decode, self.older)}
        known.update((each.open_ns, each) for each in minutes)
        self.since_ns = min(self.since_ns, minutes[0].open_ns)
        self._clear()
        for _, each in sorted(known.items()):
            self._push(each)

    def forget(self, start_ns: int) -> None:
        """Take off every minute that opened before `start_ns`."""
        while self.older and (minute := _DECODER.decode(self.older[0])).open_ns < start_ns:
            self.older.popleft()
            self.volume = SUM.subtract(self.volume, minute.volume)
            self.quote = SUM.subtract(self.quote, minute.quote)
            self.trades -= minute.trades
        for ranked in (self.highs, self.lows):
            while ranked and ranked[0][0] < start_ns:
                ranked.popleft()
        if self.last is not None and self.last.open_ns < start_ns:
            self.last = None

    def ticker(self, instrument: str, event_ns: int, growing: _Minute | None) -> Ticker | None:
        """The summary of what is remembered, and of the growing minute behind it."""
        newest = [self.last] if self.last is not None and self.last.volume else []
        if growing is not None and growing.volume and (self.last is None or growing.open_ns > self.last.open_ns):
            newest.append(growing)
        oldest = [_DECODER.decode(self.older[0])] if self.older else []
        if not oldest and not newest:
            return None
        last = newest[-1] if newest else _DECODER.decode(self.older[-1])
        return Ticker(
            instrument,
            event_ns,
            last.received_ns,
            (oldest + newest)[0].open,
            max(high for _, high in [*list(self.highs)[:1], *((0, minute.high) for minute in newest)]),
            min(low for _, low in [*list(self.lows)[:1], *((0, minute.low) for minute in newest)]),
            last.close,
            _sum([self.volume, *(minute.volume for minute in newest)]),
            _sum([self.quote, *(minute.quote for minute in newest)]),
            self.trades + sum(minute.trades for minute in newest),
        )

    def _push(self, minute: _Minute) -> None:
        if not minute.volume:  # a flat minute traded nothing: it has no price of its own
            return
        self.older.append(_ENCODER.encode(minute))
        self.volume = SUM.add(self.volume, minute.volume)
        self.quote = SUM.add(self.quote, minute.quote)
        self.trades += minute.trades
        while self.highs and self.highs[-1][1] <= minute.high:
            self.highs.pop()
        self.highs.append((minute.open_ns, minute.high))
        while self.lows and self.lows[-1][1] >= minute.low:
            self.lows.pop()
        self.lows.append((minute.open_ns, minute.low))


def _minute(candle: Candle) -> _Minute:
    return _Minute(
        candle.open_ns, candle.open, candle.high, candle.low, candle.close, candle.volume, candle.quote_volume,
        candle.trades, candle.received_ns,
    )  # fmt: skip


def _sum(numbers: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for number in numbers:
        total = SUM.add(total, number)
    return total


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Minute)
