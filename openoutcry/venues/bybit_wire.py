"""What Bybit frames and answers have in common: how sizes count, candles, and the fields of a ticker."""

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

import msgspec

from openoutcry.events import (
    Candle,
    Event,
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
    Number,
    TimeMs,
    candle_of_row,
)
from openoutcry.venues.venue import Signal

CODES = {
    60: "1",
    180: "3",
    300: "5",
    900: "15",
    1_800: "30",
    3_600: "60",
    7_200: "120",
    14_400: "240",
    21_600: "360",
    43_200: "720",
    86_400: "D",
    604_800: "W",
}
INTERVALS = {code: interval_s for interval_s, code in CODES.items()}
HALF = Decimal("0.5")
TAKER = {"Buy": Side.BUY, "Sell": Side.SELL}
SideWord = Literal["Buy", "Sell"]
Field = str | int | float | bool | None
Fields = Mapping[str, Field]


class TradeRow(
    msgspec.Struct,
    gc=False,
    rename={"event_ms": "T", "taker": "S", "count": "v", "price": "p", "id": "i", "block": "BT"},
):
    event_ms: TimeMs
    taker: SideWord
    count: Decimal
    price: Decimal
    id: str
    block: bool = False
    seq: Number = 0


class Meaning(msgspec.Struct, frozen=True, gc=False):
    """What decode needs of an instrument, at hand."""

    name: str
    category: str
    inverse: bool
    contract_size: Decimal


def meaning_of(instrument: Instrument) -> Meaning:
    category = "spot" if instrument.kind is Kind.SPOT else "inverse" if instrument.inverse else "linear"
    return Meaning(instrument.name, category, instrument.inverse, instrument.contract_size or Decimal(1))


def size_of(meaning: Meaning, count: Decimal, price: Decimal) -> tuple[Decimal, Decimal | None, Decimal | None]:
    """Size in coins, value and contracts of a venue's count."""
    if not meaning.inverse:
        return count, None, None
    value = count * meaning.contract_size
    return (value / price).quantize(COIN_STEP, ROUND_HALF_EVEN), value, count


def candle_of(
    meaning: Meaning,
    interval_s: int | None,
    row: tuple[int, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal],
    received_ns: int,
    *,
    closed: bool,
) -> Candle:
    """A row of the venue: an inverse contract's volume is dollars and its turnover coins."""
    start_ms, first, high, low, last, volume, turnover = row
    if meaning.inverse:
        volume, turnover = turnover, volume
    told = (start_ms, first, high, low, last, volume, turnover)
    return candle_of_row(meaning.name, interval_s, told, received_ns, closed=closed)


def ticker_events(
    meaning: Meaning, whole: Fields, changed: Iterable[str], event_ns: int, received_ns: int
) -> list[Event | Signal]:
    """What the changed fields say together with those that stayed."""
    news = set(changed)
    events: list[Event | Signal] = []
    if news & {"openInterest", "singleOpenInterest"}:
        interest = _interest(meaning, whole, news, event_ns, received_ns)
        events += [] if interest is None else [interest]
    rate, funding_ms = number_of(whole, "fundingRate"), number_of(whole, "nextFundingTime")
    if funding_ms is not None and not 0 <= funding_ms < TIME_MS_END:
        raise ValueError("funding time out of range")
    if news & {"fundingRate", "nextFundingTime", "fundingIntervalHour"} and rate is not None and funding_ms:
        hours = number_of(whole, "fundingIntervalHour")
        interval_s = int(hours * 3_600) if hours else None
        if interval_s is not None and not 0 < interval_s <= PERIOD_S_MAX:
            raise ValueError("funding interval out of range")
        funding_ns = int(funding_ms) * MS
        events.append(FundingRate(meaning.name, event_ns, received_ns, rate, funding_ns, interval_s, settled=False))
    mark = number_of(whole, "markPrice")
    if news & {"markPrice", "indexPrice"} and mark is not None:
        index = number_of(whole, "indexPrice")
        if mark < 0 or (index is not None and index < 0):
            raise ValueError("negative mark price")
        if mark:
            events.append(MarkPrice(meaning.name, event_ns, received_ns, mark, index or None))
    return events


def _interest(meaning: Meaning, whole: Fields, news: set[str], event_ns: int, received_ns: int) -> OpenInterest | None:
    """One side. A frame that has only the sum of both is halved, whatever single value an earlier one had."""
    single = "singleOpenInterest" in news
    count = number_of(whole, "singleOpenInterest" if single else "openInterest")
    worth_key = "singleOpenInterestValue" if single else "openInterestValue"
    worth = number_of(whole, worth_key) if worth_key in news else None
    if count is None:
        return None
    if not single:
        count, worth = count * HALF, None if worth is None else worth * HALF
    if count < 0 or (worth is not None and worth < 0):
        raise ValueError("negative open interest")
    if not meaning.inverse:
        return OpenInterest(meaning.name, event_ns, received_ns, count, worth)
    value = count * meaning.contract_size
    if worth is None:
        mark = number_of(whole, "markPrice")
        if not mark or mark < 0:
            return None
        worth = (value / mark).quantize(COIN_STEP, ROUND_HALF_EVEN)
    return OpenInterest(meaning.name, event_ns, received_ns, worth, value, count)


def number_of(fields: Fields, key: str) -> Decimal | None:
    """The field as a finite number; None where it is absent or empty."""
    text = fields.get(key)
    if text is None or text == "":
        return None
    number = Decimal(str(text))
    if not abs(number) < NUMBER_MAX:
        raise ValueError(f"{key} out of range")
    return number
