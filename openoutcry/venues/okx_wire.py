"""What OKX frames and answers have in common: how sizes count, and the rows that both tell."""

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Literal

import msgspec

from openoutcry.events import (
    Candle,
    FundingRate,
    MarkPrice,
    OpenInterest,
    Side,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues.bounds import (
    COIN_STEP,
    MS,
    NUMBER_MAX,
    PERIOD_S_MAX,
    TIME_MS_END,
    ZERO,
    Number,
    TimeMs,
    candle_of_row,
)

BARS = {
    60: "1m",
    180: "3m",
    300: "5m",
    900: "15m",
    1_800: "30m",
    3_600: "1H",
    7_200: "2H",
    14_400: "4H",
    21_600: "6Hutc",
    43_200: "12Hutc",
    86_400: "1Dutc",
    604_800: "1Wutc",
}
INTERVALS = {bar: interval_s for interval_s, bar in BARS.items()}
KINDS = {"SPOT": Kind.SPOT, "SWAP": Kind.PERPETUAL, "FUTURES": Kind.FUTURE, "OPTION": Kind.OPTION}
SIDES = {"buy": Side.BUY, "sell": Side.SELL}
BarRow = tuple[TimeMs, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal, Literal["0", "1"]]
OrderSide = Literal["buy", "sell"]


class TradeRow(msgspec.Struct, gc=False, rename={"id": "tradeId", "price": "px", "contracts": "sz", "event_ms": "ts"}):
    id: Number
    price: Decimal
    contracts: Decimal
    side: OrderSide
    event_ms: TimeMs
    count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


class TickerRow(msgspec.Struct, rename="camel"):
    inst_id: str
    ts: TimeMs
    last: str = ""
    ask_px: str = ""
    ask_sz: str = ""
    bid_px: str = ""
    bid_sz: str = ""
    open24h: str = ""
    high24h: str = ""
    low24h: str = ""
    vol24h: str = ""
    vol_ccy24h: str = msgspec.field(default="", name="volCcy24h")


class InterestRow(msgspec.Struct, rename="camel"):
    oi: Decimal
    oi_ccy: str
    ts: TimeMs
    oi_usd: str = ""
    inst_id: str = ""


class FundingRow(msgspec.Struct, rename="camel"):
    funding_rate: str
    funding_time: TimeMs
    next_funding_time: str = ""
    prev_funding_time: str = ""
    ts: str = ""


class MarkRow(msgspec.Struct, rename="camel"):
    mark_px: Decimal
    ts: TimeMs


class Meaning(msgspec.Struct, frozen=True, gc=False):
    """What decode needs of an instrument, at hand. `contract_size` None: sizes are coins."""

    name: str
    inverse: bool
    contract_size: Decimal | None
    option: bool = False


def meaning_of(instrument: Instrument) -> Meaning:
    option = instrument.kind is Kind.OPTION
    return Meaning(instrument.name, instrument.inverse, instrument.contract_size, option)


def inst_type_of(symbol: str) -> str:
    """Spot is COIN-QUOTE, a swap has -SWAP after it, a future its day, an option its day, strike and C or P."""
    if symbol.endswith("-SWAP"):
        return "SWAP"
    dashes = symbol.count("-")
    return "SPOT" if dashes == 1 else "OPTION" if dashes == 4 else "FUTURES"


def size_of(meaning: Meaning, count: Decimal, price: Decimal) -> tuple[Decimal, Decimal | None]:
    """Coins, and their value where price x size is not exactly that, of a venue's count."""
    if meaning.contract_size is None:
        return count, None
    worth = count * meaning.contract_size
    if not meaning.inverse:
        return worth, None
    return (worth / price).quantize(COIN_STEP, ROUND_HALF_EVEN), worth


def contracts_of(meaning: Meaning, count: Decimal) -> Decimal | None:
    return None if meaning.contract_size is None else count


def candle_of(meaning: Meaning, interval_s: int, row: BarRow, received_ns: int) -> Candle:
    """A bar of the venue: spot counts coins first; a derivative counts contracts first and coins second.

    In what an option's turnover is told the venue does not say: coins at (high + low + close) / 3 estimate the premiums.
    """
    start_ms, first, high, low, last, count, coins, quote, confirm = row
    if meaning.option:
        quote = (coins * (high + low + last) / 3).quantize(COIN_STEP, ROUND_HALF_EVEN)
    told = (start_ms, first, high, low, last, count if meaning.contract_size is None else coins, quote)
    return candle_of_row(meaning.name, interval_s, told, received_ns, closed=confirm == "1")


def open_interest_of(
    meaning: Meaning, row: InterestRow, received_ns: int, price: Decimal | None = None
) -> OpenInterest:
    """`price` is the underlying's, of an option."""
    size, value = number_of(row.oi_ccy), number_of(row.oi_usd)
    if size is None and not meaning.inverse and meaning.contract_size is not None:
        size = row.oi * meaning.contract_size
    if size is None or not (ZERO <= size < NUMBER_MAX and ZERO <= row.oi < NUMBER_MAX):
        raise ValueError("open interest out of range")
    return OpenInterest(meaning.name, row.ts * MS, received_ns, size, value, row.oi, price)


def running_of(meaning: Meaning, row: FundingRow, received_ns: int) -> FundingRate | None:
    rate = number_of(row.funding_rate, signed=True)
    if rate is None:
        return None
    before, after = time_ms_of(row.prev_funding_time) or 0, time_ms_of(row.next_funding_time) or 0
    # The running period began at the last settlement; where that is not told, the next one is as long.
    length_ms = row.funding_time - before if before > 0 else after - row.funding_time
    interval_s = length_ms // 1_000 if 0 < length_ms <= PERIOD_S_MAX * 1_000 else None
    event_ns = (time_ms_of(row.ts) or received_ns // MS) * MS
    return FundingRate(meaning.name, event_ns, received_ns, rate, row.funding_time * MS, interval_s, settled=False)


def mark_price_of(meaning: Meaning, row: MarkRow, received_ns: int) -> MarkPrice:
    if not ZERO < row.mark_px < NUMBER_MAX:
        raise ValueError("mark price out of range")
    return MarkPrice(meaning.name, row.ts * MS, received_ns, row.mark_px)


def number_of(text: str, *, signed: bool = False) -> Decimal | None:
    """The text as a finite number; None where it is empty."""
    if not text:
        return None
    number = Decimal(text)
    if not abs(number) < NUMBER_MAX or (number < 0 and not signed):
        raise ValueError("number out of range")
    return number


def time_ms_of(text: str) -> int | None:
    """The text as a time; None where it is empty or 0."""
    time_ms = int(text or 0)
    if not 0 <= time_ms < TIME_MS_END:
        raise ValueError("time out of range")
    return time_ms or None
