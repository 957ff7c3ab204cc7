"""Trades of history as columns: candles of seven intervals and three sides at millions of trades a second, exact.

    event_ns  seq  sells  price  size  [count]  [value]      one row a trade, any order

Prices and sizes are whole numbers of a decimal step (with `price_digits` 2, 123.45 is 12345). They are added up in 64
bits where that provably fits, piece by piece of their bits where it does not, and as Python's own integers where they do
not fit into 64 bits to begin with: never rounded, never wrapped.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from openoutcry.aggregates.exact import SUM
from openoutcry.events import INTERVALS_S, NS, WEEK_OFFSET_S, WEEK_S, Candle, Side, Trade

MINUTE_NS = 60 * NS
INT64_BITS = 63
INT64_MAX = (1 << INT64_BITS) - 1

Ints = NDArray[np.int64]
# Whole numbers: int64, or Python's own integers (dtype object) where 64 bits might not hold them.
Wholes = NDArray[Any]


class Trades(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One instrument's trades, each once. Rows of equal time and sequence are in the order of their ids.

    `count` None = every row is one match. `value` is the quote amount, for inverse contracts; None = price x size.
    """

    instrument: str
    event_ns: Ints
    received_ns: Ints
    seq: Ints
    sells: NDArray[np.bool_]
    price: Wholes
    price_digits: int
    size: Wholes
    size_digits: int
    count: Ints | None = None
    value: Wholes | None = None
    value_digits: int = 0


def trades_of(trades: Sequence[Trade]) -> Trades:
    """Trade events of one instrument as columns; at least one, in any order."""
    numbered = all(isinstance(trade.id, int) for trade in trades)
    ordered = sorted(trades, key=lambda trade: (trade.event_ns, trade.seq, trade.id if numbered else str(trade.id)))
    values = [SUM.multiply(t.price, t.size) if t.value is None else t.value for t in ordered]
    price, price_digits = _whole([trade.price for trade in ordered])
    size, size_digits = _whole([trade.size for trade in ordered])
    value, value_digits = _whole(values)
    return Trades(
        instrument=ordered[0].instrument,
        event_ns=np.array([trade.event_ns for trade in ordered], np.int64),
        received_ns=np.array([trade.received_ns for trade in ordered], np.int64),
        seq=np.array([trade.seq for trade in ordered], np.int64),
        sells=np.array([trade.side is Side.SELL for trade in ordered], np.bool_),
        price=price,
        price_digits=price_digits,
        size=size,
        size_digits=size_digits,
        count=np.array([trade.count for trade in ordered], np.int64),
        value=value if any(trade.value is not None for trade in ordered) else None,
        value_digits=value_digits,
    )


def candles_of(trades: Trades, *, start_ns: int, end_ns: int) -> list[Candle]:
    """Closed candles of seven intervals and three sides, each side of an interval oldest first.

    [start_ns, end_ns) is the stretch of which all trades are given: what is not wholly inside is left out.
    """
    rows = _sorted(trades)
    sells = rows.sells
    candles: list[Candle] = []
    for side, taken in ((Side.BUY, np.flatnonzero(~sells)), (Side.SELL, np.flatnonzero(sells)), (Side.BOTH, None)):
        bars = _minutes(rows if taken is None else _taken(rows, taken))
        for interval_s in INTERVALS_S:
            bars = _folded(bars, interval_s)
            candles += _candles(bars, trades.instrument, side, interval_s, start_ns, end_ns)
    return candles


class _Bars(msgspec.Struct, frozen=True, eq=False):
    """Bars of one side and interval as columns, oldest first."""

    open_ns: Ints
    open: Wholes
    high: Wholes
    low: Wholes
    close: Wholes
    volume: Wholes
    quote: Wholes
    trades: Ints
    first_ns: Ints
    last_ns: Ints
    received_ns: Ints
    digits: tuple[int, int, int]


def _sorted(trades: Trades) -> Trades:
    later = np.diff(trades.event_ns)
    tied = (later == 0) & (np.diff(trades.seq) < 0)
    if not (later < 0).any() and not tied.any():
        return trades
    return _taken(trades, np.lexsort((trades.seq, trades.event_ns)))


def _taken(trades: Trades, rows: NDArray[Any]) -> Trades:
    return msgspec.structs.replace(
        trades,
        event_ns=trades.event_ns[rows],
        received_ns=trades.received_ns[rows],
        seq=trades.seq[rows],
        sells=trades.sells[rows],
        price=trades.price[rows],
        size=trades.size[rows],
        count=None if trades.count is None else trades.count[rows],
        value=None if trades.value is None else trades.value[rows],
    )


def _minutes(rows: Trades) -> _Bars:
    event_ns, price = rows.event_ns, rows.price
    opens_ns = event_ns - event_ns % MINUTE_NS
    starts, ends = _groups(opens_ns)
    if rows.value is None:
        quote, quote_digits = _sums(rows.size, starts, rows.price), rows.price_digits + rows.size_digits
    else:
        quote, quote_digits = _sums(rows.value, starts), rows.value_digits
    return _Bars(
        opens_ns[starts],
        price[starts],
        _each(np.maximum, price, starts),
        _each(np.minimum, price, starts),
        price[ends],
        _sums(rows.size, starts),
        quote,
        ends - starts + 1 if rows.count is None else _each(np.add, rows.count, starts),
        event_ns[starts],
        event_ns[ends],
        _each(np.maximum, rows.received_ns, starts),
        (rows.price_digits, rows.size_digits, quote_digits),
    )


def _folded(bars: _Bars, interval_s: int) -> _Bars:
    interval_ns = interval_s * NS
    offset_ns = WEEK_OFFSET_S * NS if interval_s == WEEK_S else 0
    opens_ns = bars.open_ns - (bars.open_ns - offset_ns) % interval_ns
    starts, ends = _groups(opens_ns)
    return _Bars(
        opens_ns[starts],
        bars.open[starts],
        _each(np.maximum, bars.high, starts),
        _each(np.minimum, bars.low, starts),
        bars.close[ends],
        _sums(bars.volume, starts),
        _sums(bars.quote, starts),
        _each(np.add, bars.trades, starts),
        bars.first_ns[starts],
        bars.last_ns[ends],
        _each(np.maximum, bars.received_ns, starts),
        bars.digits,
    )


def _groups(opens_ns: Ints) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    # First and last row of each run of equal openings.
    turns = np.flatnonzero(opens_ns[1:] != opens_ns[:-1])
    none = turns[:0] if not len(opens_ns) else np.zeros(1, np.intp)
    return np.concatenate((none, turns + 1)), np.concatenate((turns, none + len(opens_ns) - 1))


def _each(operation: np.ufunc, numbers: Wholes, starts: NDArray[np.intp]) -> Wholes:
    return operation.reduceat(numbers, starts) if len(starts) else numbers[:0]


def _sums(numbers: Wholes, starts: NDArray[np.intp], factors: Wholes | None = None) -> Wholes:
    """The sum of each group of `numbers` (times `factors`), which are not negative: exact, in 64 bits if they fit."""
    if not len(starts):
        return numbers[:0]
    if numbers.dtype == object or (factors is not None and factors.dtype == object):
        own = numbers.astype(object)
        return np.add.reduceat(own if factors is None else own * factors.astype(object), starts)
    longest = int(np.diff(starts, append=len(numbers)).max())
    most = int(numbers.max())
    factor_most = 1 if factors is None else int(factors.max())
    if most * factor_most * longest <= INT64_MAX:
        return np.add.reduceat(numbers if factors is None else numbers * factors, starts)
    # Too large for 64 bits at once: as many bits at a time as surely fit, put together as Python's integers.
    step = INT64_BITS - (factor_most * longest).bit_length()
    if step < 1:
        return _sums(numbers.astype(object), starts, factors)
    sums: Wholes = np.zeros(len(starts), object)
    for shift in range(0, most.bit_length(), step):
        piece = (numbers >> shift) & ((1 << step) - 1)
        part = np.add.reduceat(piece if factors is None else piece * factors, starts)
        sums = sums + (part.astype(object) << shift)
    return sums


def _candles(bars: _Bars, instrument: str, side: Side, interval_s: int, start_ns: int, end_ns: int) -> Iterator[Candle]:
    low = int(np.searchsorted(bars.open_ns, start_ns))
    high = int(np.searchsorted(bars.open_ns, end_ns - interval_s * NS, side="right"))
    price_digits, size_digits, quote_digits = bars.digits
    columns = (
        bars.open_ns[low:high].tolist(),
        _decimals(bars.open[low:high], price_digits),
        _decimals(bars.high[low:high], price_digits),
        _decimals(bars.low[low:high], price_digits),
        _decimals(bars.close[low:high], price_digits),
        _decimals(bars.volume[low:high], size_digits),
        _decimals(bars.quote[low:high], quote_digits),
        bars.trades[low:high].tolist(),
        bars.first_ns[low:high].tolist(),
        bars.last_ns[low:high].tolist(),
        bars.received_ns[low:high].tolist(),
    )
    for opened_ns, o, h, lowest, c, volume, quote, count, first_ns, last_ns, received_ns in zip(*columns, strict=True):
        yield Candle(
            instrument, side, interval_s, opened_ns, o, h, lowest, c, volume, quote, count, first_ns, last_ns,
            True, received_ns, "trades",
        )  # fmt: skip


def _decimals(numbers: Wholes, digits: int) -> list[Decimal]:
    return [Decimal(number).scaleb(-digits, SUM) for number in numbers.tolist()]


def _whole(numbers: Sequence[Decimal]) -> tuple[Wholes, int]:
    digits = max(0, *(-_exponent(number) for number in numbers))
    wholes = [int(number.scaleb(digits, SUM)) for number in numbers]
    return np.array(wholes, np.int64 if max(wholes) <= INT64_MAX else object), digits


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int), "prices and sizes are finite"
    return exponent
