"""One bar of trades: grows by single trades, joins with other bars, in any order, exactly.

Joining is commutative and associative, and `open` and `close` belong to the earliest and latest trade by (event_ns, seq,
id), so a bar does not depend on the order in which its trades arrived.
"""

from collections.abc import Iterable
from decimal import Decimal

from openoutcry.aggregates.exact import ENTRY, SUM
from openoutcry.events import NS, Candle, Side, Trade

ZERO = Decimal(0)


class Bar:
    """Open, high, low, close, volume of some trades; `first` and `last` are the trades that opened and closed it.

    `venue` says that a candle of the venue is in it. Such a candle does not tell its trades: `first` and `last` then
    only carry its prices, with `count` 0.
    """

    __slots__ = ("count", "first", "high", "last", "low", "quote", "received_ns", "venue", "volume")

    def __init__(
        self,
        first: Trade,
        last: Trade,
        high: Decimal,
        low: Decimal,
        volume: Decimal,
        quote: Decimal,
        count: int,
        received_ns: int,
        *,
        venue: bool = False,
    ) -> None:
        self.first = first
        self.last = last
        self.high = high
        self.low = low
        self.volume = volume
        self.quote = quote
        self.count = count
        self.received_ns = received_ns
        self.venue = venue

    @property
    def flat(self) -> bool:
        """Nothing traded: a venue's candle of a quiet minute, which repeats the price before it."""
        return not self.volume

    def add(self, trade: Trade) -> None:
        """Count one more trade. Raises decimal.DecimalException, with nothing changed, if it cannot be added exactly."""
        price = trade.price
        value = trade.value
        volume = ENTRY.add(self.volume, trade.size)
        # The multiply and the add are one exact step: price x size is never rounded on its way into the sum.
        self.quote = ENTRY.fma(price, trade.size, self.quote) if value is None else ENTRY.add(self.quote, value)
        self.volume = volume
        self.count += trade.count
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        last = self.last
        if trade.event_ns > last.event_ns or later(trade, last):
            self.last = trade
        elif later(self.first, trade):
            self.first = trade
        if trade.received_ns > self.received_ns:  # noqa: PLR1730 - a call of max would cost as much as an addition
            self.received_ns = trade.received_ns

    def candle(self, instrument: str, side: Side, interval_s: int, open_ns: int, *, closed: bool) -> Candle:
        """The bar as an event."""
        first, last = self.first, self.last
        return Candle(
            instrument,
            side,
            interval_s,
            open_ns,
            first.price,
            self.high,
            self.low,
            last.price,
            self.volume,
            self.quote,
            self.count,
            first.event_ns if first.count else None,
            last.event_ns if last.count else None,
            closed,
            self.received_ns,
            "venue" if self.venue else "trades",
        )


def bar_of_trade(trade: Trade) -> Bar:
    """A bar of one trade. Raises decimal.DecimalException where its numbers are beyond all sense."""
    price, value = trade.price, trade.value
    return Bar(
        trade,
        trade,
        price,
        price,
        ENTRY.add(ZERO, trade.size),
        ENTRY.fma(price, trade.size, ZERO) if value is None else ENTRY.add(ZERO, value),
        trade.count,
        trade.received_ns,
    )


def bar_of_candle(candle: Candle) -> Bar:
    """A finished candle as a bar. Raises decimal.DecimalException where its numbers are beyond all sense."""
    return Bar(
        _end(candle, candle.first_ns, candle.open_ns, candle.open),
        _end(candle, candle.last_ns, candle.open_ns + candle.interval_s * NS - 1, candle.close),
        candle.high,
        candle.low,
        ENTRY.add(ZERO, candle.volume),
        ENTRY.add(ZERO, candle.quote_volume),
        candle.trades,
        candle.received_ns,
        venue=candle.origin == "venue",
    )


def join(one: Bar | None, other: Bar | None) -> Bar | None:
    """Both together, as a new bar; neither is changed. A flat one gives way to one with trades."""
    if one is None or other is None:
        return one or other
    if one.flat != other.flat:
        kept, flat = (other, one) if one.flat else (one, other)
        return Bar(
            kept.first,
            kept.last,
            kept.high,
            kept.low,
            kept.volume,
            kept.quote,
            kept.count,
            max(kept.received_ns, flat.received_ns),
            venue=kept.venue or flat.venue,
        )
    return Bar(
        other.first if later(one.first, other.first) else one.first,
        other.last if later(other.last, one.last) else one.last,
        max(one.high, other.high),
        min(one.low, other.low),
        SUM.add(one.volume, other.volume),
        SUM.add(one.quote, other.quote),
        one.count + other.count,
        max(one.received_ns, other.received_ns),
        venue=one.venue or other.venue,
    )


def fold(bars: Iterable[Bar | None]) -> Bar | None:
    """All together; None where there is none."""
    whole: Bar | None = None
    for bar in bars:
        whole = join(whole, bar)
    return whole


def later(one: Trade, other: Trade) -> bool:
    """Whether `one` comes after `other`: by time, then the venue's sequence, then its id."""
    if one.event_ns != other.event_ns:
        return one.event_ns > other.event_ns
    if one.seq != other.seq:
        return one.seq > other.seq
    if isinstance(one.id, int) and isinstance(other.id, int):
        return one.id > other.id
    return str(one.id) > str(other.id)


def _end(candle: Candle, event_ns: int | None, otherwise_ns: int, price: Decimal) -> Trade:
    return Trade(
        candle.instrument,
        otherwise_ns if event_ns is None else event_ns,
        candle.received_ns,
        0,
        0,
        candle.side,
        price,
        ZERO,
        count=0 if event_ns is None else 1,
    )
