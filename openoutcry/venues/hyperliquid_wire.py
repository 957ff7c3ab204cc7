"""What Hyperliquid's streams and answers have in common: their rows, what is checked, and the events they become.

{"coin":"BTC","side":"B","px":"105056.0","sz":"0.00219","time":1737918794873,"hash":"0xde47…","tid":121451470284048}
{"t":1737918780000,"T":1737918839999,"s":"BTC","i":"1m","o":"105055.0","c":"105056.0","h":"…","l":"…","v":"0.18","n":12}
{"funding":"0.0000125","openInterest":"1234.5","markPx":"105055.5","oraclePx":"105060.0","midPx":null,"premium":null}
"""

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Literal

import msgspec

from openoutcry.errors import Unreadable
from openoutcry.events import NS, Candle, FundingRate, MarkPrice, OpenInterest, Side, Trade, open_of
from openoutcry.instrument import Instrument, Kind

NAME = "hyperliquid"
NAMES_MAX = 20_000  # coins remembered: far above what is listed
# Prices and sizes outside these are no market's: they would only break the arithmetic of whoever trusts them.
LEAST = Decimal("1e-18")
MOST = Decimal("1e18")
RATE_MOST = Decimal(10)
QUOTE_STEP = Decimal("1e-8")

MS = 1_000_000
HOUR_NS = 3_600 * NS
INTERVALS_S = {
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1_800,
    "1h": 3_600,
    "2h": 7_200,
    "4h": 14_400,
    "8h": 28_800,
    "12h": 43_200,
    "1d": 86_400,
}
# Looking a member up in its class costs more than comparing the side did.
_BUY, _SELL = Side.BUY, Side.SELL

Coin = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
TimeMs = Annotated[int, msgspec.Meta(gt=0, lt=10_000_000_000_000)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class TradeRow(msgspec.Struct, frozen=True, gc=False):
    """A trade, as streams and answers tell it."""

    coin: Coin
    side: Literal["A", "B"]
    price: Decimal = msgspec.field(name="px")
    size: Decimal = msgspec.field(name="sz")
    time_ms: TimeMs = msgspec.field(name="time")
    tid: Count = msgspec.field(name="tid")


class CandleRow(msgspec.Struct, frozen=True, gc=False):
    """A candle, as streams and answers tell it."""

    open_ms: TimeMs = msgspec.field(name="t")
    end_ms: TimeMs = msgspec.field(name="T")
    coin: Coin = msgspec.field(name="s")
    interval: str = msgspec.field(name="i")
    open: Decimal = msgspec.field(name="o")
    close: Decimal = msgspec.field(name="c")
    high: Decimal = msgspec.field(name="h")
    low: Decimal = msgspec.field(name="l")
    volume: Decimal = msgspec.field(name="v")
    trades: Count = msgspec.field(name="n")


class Context(msgspec.Struct, frozen=True):
    """What runs beside the book; anything may be null."""

    funding: Decimal | None = None
    open_interest: Decimal | None = msgspec.field(name="openInterest", default=None)
    mark: Decimal | None = msgspec.field(name="markPx", default=None)
    oracle: Decimal | None = msgspec.field(name="oraclePx", default=None)


class Names(dict[str, str]):
    """`hyperliquid:BTC` by `BTC`, made once."""

    def __missing__(self, coin: str) -> str:
        name = f"{NAME}:{coin}"
        if len(self) < NAMES_MAX:
            self[coin] = name
        return name


def trades_of(rows: Sequence[TradeRow], names: Names, received_ns: int) -> list[Trade]:
    """Rows in the order they were made; their place orders those of one block. Raises Unreadable, InvalidOperation."""
    events: list[Trade] = []
    for row in rows:
        price, size = row.price, row.size
        if not (LEAST <= price <= MOST and LEAST <= size <= MOST):
            raise Unreadable("price or size out of bounds")
        side = _BUY if row.side == "B" else _SELL
        place = len(events)
        events.append(Trade(names[row.coin], row.time_ms * MS, received_ns, row.tid, place, side, price, size))
    return events


def is_spot(symbol: str) -> bool:
    """By its spelling: `PURR/USDC`, `@107`; and `#12`, which is an outcome market."""
    return "/" in symbol or symbol[:1] in {"@", "#"}


def check(number: Decimal) -> None:
    """A price or a size. Raises Unreadable, InvalidOperation (NaN)."""
    if not LEAST <= number <= MOST:
        raise Unreadable("price or size out of bounds")


def rate_of(rate: Decimal) -> Decimal:
    """A funding rate, unchanged. Raises Unreadable, InvalidOperation (NaN)."""
    if not -RATE_MOST <= rate <= RATE_MOST:
        raise Unreadable("funding rate out of bounds")
    return rate


def context_of(name: str, context: Context, received_ns: int) -> list[OpenInterest | FundingRate | MarkPrice]:
    """What the context tells; nothing where all of it is null. Raises Unreadable, InvalidOperation."""
    mark = context.mark
    events: list[OpenInterest | FundingRate | MarkPrice] = []
    if mark is not None:
        check(mark)
    if context.oracle is not None:
        check(context.oracle)
    if context.open_interest is not None:
        if not 0 <= context.open_interest <= MOST:
            raise Unreadable("open interest out of bounds")
        value = None if mark is None else context.open_interest * mark
        events.append(OpenInterest(name, received_ns, received_ns, context.open_interest, value))
    if context.funding is not None:
        next_ns = received_ns - received_ns % HOUR_NS + HOUR_NS
        rate = rate_of(context.funding)
        events.append(FundingRate(name, received_ns, received_ns, rate, next_ns, 3_600, settled=False))
    if mark is not None:
        events.append(MarkPrice(name, received_ns, received_ns, mark, context.oracle))
    return events


def candle_of(name: str, row: CandleRow, interval_s: int, received_ns: int, *, closed: bool) -> Candle:
    """The row as a candle of the venue. Raises Unreadable, InvalidOperation (NaN)."""
    open_ns = row.open_ms * MS
    if open_of(open_ns, interval_s) != open_ns or row.end_ms <= row.open_ms:
        raise Unreadable("candle off its interval")
    if not LEAST <= row.low <= min(row.open, row.close) <= max(row.open, row.close) <= row.high <= MOST:
        raise Unreadable("candle prices out of bounds")
    if not 0 <= row.volume <= MOST:
        raise Unreadable("candle volume out of bounds")
    typical = (row.high + row.low + row.close) / 3
    return Candle(
        instrument=name,
        side=Side.BOTH,
        interval_s=interval_s,
        open_ns=open_ns,
        open=row.open,
        high=row.high,
        low=row.low,
        close=row.close,
        volume=row.volume,
        quote_volume=(row.volume * typical).quantize(QUOTE_STEP, ROUND_HALF_EVEN),
        trades=row.trades,
        first_ns=None,
        last_ns=None,
        closed=closed,
        received_ns=received_ns,
        origin="venue",
    )


def instrument_of(
    symbol: str,
    kind: Kind,
    coin: str,
    quote: str,
    settle: str,
    price_decimals: int,
    size_decimals: int,
    *,
    trading: bool = True,
) -> Instrument:
    """The instrument whose prices and sizes have at most so many decimals."""
    return Instrument(
        venue=NAME,
        symbol=symbol,
        kind=kind,
        coin=coin,
        quote=quote,
        settle=settle,
        tick_size=Decimal(1).scaleb(-price_decimals),
        lot_size=Decimal(1).scaleb(-size_decimals),
        trading=trading,
    )
