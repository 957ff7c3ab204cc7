"""Every fact that travels on the bus, in one file.

All times are integer nanoseconds UTC: `event_ns` is the venue's, `received_ns` is when its frame reached us. All prices
and sizes are exact Decimals. Sizes are base coins; where a venue counts contracts the original count is kept in
`contracts`, and where the quote amount is not exactly price x size (inverse contracts) it is given in `value`.

`instrument` is always the instrument's name, `venue:symbol`.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Literal

import msgspec

NS = 1_000_000_000
MINUTE_S = 60
# The intervals that are built and stored; the others are rolled up from these on demand (aggregates/rollup.py).
INTERVALS_S = (60, 300, 900, 3_600, 14_400, 86_400, 604_800)
# 1970-01-01 was a Thursday; weeks open on Monday 00:00 UTC.
WEEK_S = 604_800
WEEK_OFFSET_S = 345_600


class Side(StrEnum):
    """Of a trade: the aggressor's. Of a liquidation: the order's (sell = a long was closed). BOTH only for series."""

    BUY = "buy"
    SELL = "sell"
    BOTH = "both"


class Trade(msgspec.Struct, frozen=True, gc=False):
    """A match seen on a venue, or several that the venue reports as one (`count`).

    `id` is the venue's, unique within the instrument; `seq` orders trades of one instrument that carry the same
    `event_ns` (the venue's numeric id or sequence where it has one, else 0).
    """

    instrument: str
    event_ns: int
    received_ns: int
    id: int | str
    seq: int
    side: Side
    price: Decimal
    size: Decimal
    count: int = 1
    value: Decimal | None = None
    contracts: Decimal | None = None


class Quote(msgspec.Struct, frozen=True, gc=False):
    """Best bid and best ask; a side that is empty on the venue is None."""

    instrument: str
    event_ns: int
    received_ns: int
    bid_price: Decimal | None
    bid_size: Decimal | None
    ask_price: Decimal | None
    ask_size: Decimal | None


Level = tuple[Decimal, Decimal]


class DepthSnapshot(msgspec.Struct, frozen=True):
    """All levels the venue tells, best first; sizes as the venue counts them (contracts stay contracts)."""

    instrument: str
    event_ns: int
    received_ns: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    seq: int
    checksum: int | None = None


class DepthDelta(msgspec.Struct, frozen=True):
    """Changed levels; size 0 removes. `previous_seq` is None where the venue chains by `first_seq` alone."""

    instrument: str
    event_ns: int
    received_ns: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    first_seq: int
    seq: int
    previous_seq: int | None = None
    checksum: int | None = None


class Candle(msgspec.Struct, frozen=True, gc=False):
    """Open, high, low, close, volume of one interval and side.

    `volume` in base coins, `quote_volume` in quote currency, `trades` as the venue counts matches. `first_ns` and
    `last_ns` are the times of the first and last trade (None where the candle came from the venue, which does not
    tell). `origin` says who made it: our trades, or the venue's own candle.
    """

    instrument: str
    side: Side
    interval_s: int
    open_ns: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    trades: int
    first_ns: int | None
    last_ns: int | None
    closed: bool
    received_ns: int
    origin: Literal["trades", "venue"]


class VenueCandle(msgspec.Struct, frozen=True, gc=False):
    """A venue's own candle as the feed heard it: it confirms or corrects ours, which alone travels as Candle."""

    candle: Candle

    @property
    def instrument(self) -> str:
        """The instrument of the candle."""
        return self.candle.instrument


class OpenInterest(msgspec.Struct, frozen=True, gc=False):
    """Contracts open, one side counted, in base coins; `value` in USD where the venue gives it.

    `price` is told with it where a source does: of the underlying for an option, of the contract for a file of CME's.
    """

    instrument: str
    event_ns: int
    received_ns: int
    size: Decimal
    value: Decimal | None = None
    contracts: Decimal | None = None
    price: Decimal | None = None


class FundingRate(msgspec.Struct, frozen=True, gc=False):
    """What longs pay shorts at `funding_ns`, for a period of `interval_s`.

    `settled` True: it was paid then. False: the venue's rate of the running period, which may still change. `predicted`
    is what the venue predicts for the period after that, where it does.
    """

    instrument: str
    event_ns: int
    received_ns: int
    rate: Decimal
    funding_ns: int
    interval_s: int | None
    settled: bool
    predicted: Decimal | None = None


class PredictedFunding(msgspec.Struct, frozen=True, gc=False):
    """What a venue predicts for other venues too (Hyperliquid): `label` is its name of the venue, rate None = no data.

    `own`: it is about the venue's own `instrument`.
    """

    instrument: str
    coin: str
    label: str
    received_ns: int
    rate: Decimal | None
    funding_ns: int | None
    interval_s: int | None
    own: bool = False


class Position(msgspec.Struct, frozen=True, gc=False):
    """What somebody holds of an instrument: base coins, negative when short. `liquidation` is the price that ends it."""

    instrument: str
    size: Decimal
    liquidation: Decimal | None


class Positions(msgspec.Struct, frozen=True):
    """All that one holder (an address) holds on a venue at one moment. `instrument` is `venue:*`."""

    instrument: str
    holder: str
    event_ns: int
    received_ns: int
    positions: tuple[Position, ...]


class LiquidationLevels(msgspec.Struct, frozen=True):
    """Where positions that are watched would be liquidated: price and base coins of each level, by price."""

    instrument: str
    event_ns: int
    received_ns: int
    levels: tuple[Level, ...]


class MarkPrice(msgspec.Struct, frozen=True, gc=False):
    """The price the venue marks positions at, and its index price where told."""

    instrument: str
    event_ns: int
    received_ns: int
    mark: Decimal
    index: Decimal | None = None


class Liquidation(msgspec.Struct, frozen=True, gc=False):
    """A forced close. `side` is the order's: sell closes a long.

    `price` is the average fill where the venue tells it; `bankruptcy` True says it is the bankruptcy price instead.
    `id` is unique within the instrument: the venue's, or made of time, side, price and size.
    """

    instrument: str
    event_ns: int
    received_ns: int
    id: str
    side: Side
    price: Decimal
    size: Decimal
    value: Decimal | None = None
    contracts: Decimal | None = None
    bankruptcy: bool = False


class Gap(msgspec.Struct, frozen=True):
    """A stretch of a stream that we know we missed: [start_ns, end_ns), end None while it is still open.

    `after_id` is the last trade id seen before it, where ids are known.
    """

    instrument: str
    of: str
    start_ns: int
    end_ns: int | None
    reason: str
    after_id: int | str | None = None


class Mended(msgspec.Struct, frozen=True):
    """The gap was fetched and its events were published before this: the stretch counts as whole from here."""

    gap: Gap
    end_ns: int

    @property
    def instrument(self) -> str:
        """The instrument of the gap, so that topics work alike for every event."""
        return self.gap.instrument


class Abandoned(msgspec.Struct, frozen=True):
    """The gap could not be fetched, and why; `final` says the venue will never serve it."""

    gap: Gap
    end_ns: int
    reason: str
    final: bool

    @property
    def instrument(self) -> str:
        """The instrument of the gap."""
        return self.gap.instrument


Ohlc = tuple[Decimal, Decimal, Decimal, Decimal]


class InterestBar(msgspec.Struct, frozen=True, gc=False):
    """Open interest over one interval, in base coins; `value` the last known in USD.

    `values` and `prices` are open, high, low, close of what the samples told beside it: USD, and the price of the
    underlying (options) or of the contract (CME). None where none told one with its price.
    """

    instrument: str
    interval_s: int
    open_ns: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    value: Decimal | None
    closed: bool
    received_ns: int
    values: Ohlc | None = None
    prices: Ohlc | None = None


class FundingBar(msgspec.Struct, frozen=True, gc=False):
    """Running funding rate over one interval, and the rate that was settled inside it, if one was.

    `predicted` is open, high, low, close of what the venue predicted for the period after.
    """

    instrument: str
    interval_s: int
    open_ns: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    settled: Decimal | None
    funding_ns: int | None
    closed: bool
    received_ns: int
    predicted: Ohlc | None = None


class LevelsBar(msgspec.Struct, frozen=True, gc=False):
    """Liquidation levels over one interval: the last that were told in it."""

    instrument: str
    interval_s: int
    open_ns: int
    levels: tuple[Level, ...]
    closed: bool
    received_ns: int


class LiquidationBar(msgspec.Struct, frozen=True, gc=False):
    """Liquidations of one side over one interval: base coins, quote currency, how many."""

    instrument: str
    side: Side
    interval_s: int
    open_ns: int
    volume: Decimal
    quote_volume: Decimal
    count: int
    closed: bool
    received_ns: int


class Ticker(msgspec.Struct, frozen=True, gc=False):
    """Rolling 24-hour summary."""

    instrument: str
    event_ns: int
    received_ns: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    trades: int


class Spike(msgspec.Struct, frozen=True, gc=False):
    """Open interest or volume of a closed bar far above the bars before it (z-scores). `value`s are USD."""

    instrument: str
    interval_s: int
    open_ns: int
    received_ns: int
    z_open_interest: float
    z_volume: float
    confirmed: bool
    price: Decimal
    open_interest: Decimal
    volume: Decimal


Event = (
    Trade
    | Quote
    | DepthSnapshot
    | DepthDelta
    | Candle
    | VenueCandle
    | OpenInterest
    | FundingRate
    | PredictedFunding
    | Positions
    | LiquidationLevels
    | MarkPrice
    | Liquidation
    | Gap
    | Mended
    | Abandoned
    | InterestBar
    | FundingBar
    | LevelsBar
    | LiquidationBar
    | Ticker
    | Spike
)


def open_of(event_ns: int, interval_s: int) -> int:
    """Open time (ns) of the interval that holds `event_ns`; weeks open on Monday 00:00 UTC."""
    interval_ns = interval_s * NS
    offset_ns = WEEK_OFFSET_S * NS if interval_s == WEEK_S else 0
    return event_ns - (event_ns - offset_ns) % interval_ns
