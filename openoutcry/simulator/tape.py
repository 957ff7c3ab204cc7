"""Columns of orders and of candles, as the world makes them: whole ticks and lots, and how to spell them.

One lot is `lot_size` of what the venue counts: base coins, or contracts where the instrument has a contract size.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from openoutcry.instrument import Instrument
from openoutcry.simulator.noise import Ints

Flags = NDArray[np.bool_]

COIN_E8 = 100_000_000
# A repeating pattern of how many extra fills an order has; its sums place every trade id without counting the past.
_EXTRA = (0, 0, 1, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0)
_EXTRA_BEFORE = np.concatenate(([0], np.cumsum(_EXTRA)))[:-1].astype(np.int64)
_EXTRA_SUM = sum(_EXTRA)
_EXTRA_BITS = 4
assert len(_EXTRA) == 1 << _EXTRA_BITS


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """An instrument of the world, and how lively it is.

    `price` is the level it moves around; `splits` says orders are filled in several trades (linear and spot); after every
    2**`reserve_bits` orders one trade id is left for a trade that is not a market trade (0 = never). `funding_s` holds the
    lengths of a funding period: one, or several that take turns of FUNDING_TURN_DAYS days.
    """

    instrument: Instrument
    price: float
    orders_per_s: float
    order_usd: float
    open_interest_usd: float = 0.0
    funding_s: tuple[int, ...] = ()
    splits: bool = True
    reserve_bits: int = 0
    wildness: float = 1.0

    @property
    def name(self) -> str:
        """`venue:symbol`."""
        return self.instrument.name

    def fills_before(self, order: Ints) -> Ints:
        """How many trade ids the orders 0 .. order-1 took."""
        ids = order
        if self.splits:
            ids = ids + (order >> _EXTRA_BITS) * _EXTRA_SUM + _EXTRA_BEFORE[order & (len(_EXTRA) - 1)]
        if self.reserve_bits:
            ids = ids + (order >> self.reserve_bits)
        return ids


class Row(NamedTuple):
    """One order, or one trade of it: `first_id` to `last_id` are its trades, `id` counts orders."""

    id: int
    ns: int
    ticks: int
    lots: int
    sell: bool
    first_id: int
    last_id: int
    liquidation: bool


class Tape:
    """Orders (or, after `split`, single trades) in time order, as columns of equal length."""

    __slots__ = ("first_id", "id", "last_id", "liquidation", "lots", "ns", "sell", "ticks")

    def __init__(
        self,
        id: Ints,  # noqa: A002 - the venue's word and ours
        ns: Ints,
        ticks: Ints,
        lots: Ints,
        sell: Flags,
        first_id: Ints,
        last_id: Ints,
        liquidation: Flags,
    ) -> None:
        self.id, self.ns, self.ticks, self.lots, self.sell = id, ns, ticks, lots, sell
        self.first_id, self.last_id, self.liquidation = first_id, last_id, liquidation

    def __len__(self) -> int:
        return len(self.ns)

    def __iter__(self) -> Iterator[Row]:
        return map(Row._make, zip(*(getattr(self, name).tolist() for name in Row._fields), strict=True))

    def __getitem__(self, rows: slice | Flags | Ints) -> "Tape":
        return Tape(*(getattr(self, name)[rows] for name in Row._fields))

    def between(self, start_ns: int, end_ns: int) -> "Tape":
        """Those in [start_ns, end_ns)."""
        low, high = np.searchsorted(self.ns, (start_ns, end_ns))
        return self[int(low) : int(high)]

    def split(self) -> "Tape":
        """One row for each trade; the last one of an order takes what does not divide."""
        fills = self.last_id - self.first_id + 1
        if int(fills.sum()) == len(self):
            return self
        order = np.repeat(np.arange(len(self)), fills)
        number = np.arange(len(order)) - np.repeat(np.cumsum(fills) - fills, fills)
        each = self.lots // fills
        trades = self[order]
        trades.lots = np.where(number + 1 == fills[order], self.lots[order] - each[order] * number, each[order])
        trades.first_id = trades.last_id = trades.first_id + number
        return trades


def joined(tapes: list[Tape]) -> Tape:
    """One after the other."""
    if len(tapes) == 1:
        return tapes[0]
    return Tape(*(np.concatenate([getattr(tape, name) for tape in tapes]) for name in Row._fields))


class Bar(NamedTuple):
    """One candle. Sums are exact: `lots`, `notional` = sum of ticks x lots, `coins_e8` (inverse only, else 0).

    `buy_…` count orders whose taker bought. `trades` are fills, as venues count them; `first_id` and `last_id` are trade
    ids. Times of the first and last trade in ns.
    """

    open_ns: int
    open: int
    high: int
    low: int
    close: int
    lots: int
    notional: int
    coins_e8: int
    buy_lots: int
    buy_notional: int
    buy_coins_e8: int
    trades: int
    first_id: int
    last_id: int
    first_ns: int
    last_ns: int


Bars = dict[str, Ints]  # columns by field of Bar


class Speller:
    """Writes ticks and lots of one instrument as text and as Decimal."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.price_step, self.price_digits = _step(instrument.tick_size)
        self.size_step, self.size_digits = _step(instrument.lot_size)

    def price(self, ticks: int) -> str:
        """A price with the digits of the tick."""
        return digits(ticks * self.price_step, self.price_digits)

    def size(self, lots: int) -> str:
        """A size in the venue's own count (coins or contracts), with the digits of the lot."""
        return digits(lots * self.size_step, self.size_digits)

    def notional(self, ticks_lots: int) -> str:
        """Price x size of a sum of ticks x lots: quote currency where sizes are coins."""
        return digits(ticks_lots * self.price_step * self.size_step, self.price_digits + self.size_digits)

    def price_decimal(self, ticks: int) -> Decimal:
        """A price, exactly."""
        return ticks * self.instrument.tick_size

    def size_decimal(self, lots: int) -> Decimal:
        """A size in the venue's own count, exactly."""
        return lots * self.instrument.lot_size

    def coins(self, lots: int) -> Decimal:
        """Base coins of a size; for inverse contracts use `coins_e8` of the price as well."""
        assert not self.instrument.inverse
        return lots * self.instrument.lot_size * (self.instrument.contract_size or 1)


def digits(number: int, places: int) -> str:
    """`number` with a point before its last `places` digits."""
    if places == 0:
        return str(number)
    sign = "-" if number < 0 else ""
    text = str(abs(number)).rjust(places + 1, "0")
    return f"{sign}{text[:-places]}.{text[-places:]}"


def coins_e8(instrument: Instrument, ticks: Ints, lots: Ints) -> Ints:
    """Base coins x 10**8 of inverse contracts at that price, rounded half to even, one by one."""
    assert instrument.contract_size is not None
    price_step, price_digits = _step(instrument.tick_size)
    money = instrument.contract_size * instrument.lot_size * COIN_E8 * 10**price_digits
    assert money == int(money)
    up, down = lots * int(money), ticks * price_step
    whole = up // down
    twice = (up - whole * down) * 2
    more: Ints = whole + ((twice > down) | ((twice == down) & (whole % 2 == 1)))
    return more


def _step(size: Decimal) -> tuple[int, int]:
    sign, numbers, exponent = size.normalize().as_tuple()
    assert sign == 0
    assert isinstance(exponent, int)
    step = int("".join(map(str, numbers)))
    return (step, -exponent) if exponent < 0 else (step * 10**exponent, 0)
