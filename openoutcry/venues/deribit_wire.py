"""What Deribit's frames and answers have in common: what a name means, how sizes count, and the rows that both tell."""

import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Literal

import msgspec

from openoutcry.events import (
    NS,
    Candle,
    Event,
    FundingRate,
    Liquidation,
    MarkPrice,
    OpenInterest,
    Quote,
    Side,
    Trade,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues.bounds import (
    COIN_STEP,
    MS,
    NUMBER_MAX,
    STEP_UNKNOWN,
    ZERO,
    TimeMs,
    candle_of_row,
)

NAME = "deribit"
SYMBOL_CHARS_MAX = 64
HOUR_S = 3_600
HOUR_NS = HOUR_S * NS
# A rate is told for eight hours, and paid all the time: an hour's share of it.
RATE_HOURS = 8
RATE_MAX = Decimal(1)
# An amount of an inverse contract is dollars, whatever its contract is worth.
DOLLAR = Decimal(1)
_BUY, _SELL = Side.BUY, Side.SELL
# BTC-PERPETUAL, SOL_USDC-PERPETUAL, BTC-25DEC26, BTC-25DEC26-64000-C, XRP_USDC-25DEC26-0d625-P. Combos are none of these.
_SPELLING = re.compile(
    r"(?P<coin>[A-Z0-9]{1,20})(?:_(?P<quote>[A-Z]{3,8}))?"
    r"-(?:(?P<perpetual>PERPETUAL)|\d{1,2}[A-Z]{3}\d\d(?P<option>-\d+(?:d\d+)?-[CP])?)"
)

OrderSide = Literal["buy", "sell"]
Symbol = Annotated[str, msgspec.Meta(min_length=1, max_length=SYMBOL_CHARS_MAX)]
# Without holes within an instrument, so that a gap shows.
TradeSeq = Annotated[int, msgspec.Meta(ge=1, le=2**62)]


class TradeRow(
    msgspec.Struct, gc=False, rename={"symbol": "instrument_name", "seq": "trade_seq", "event_ms": "timestamp"}
):
    symbol: Symbol
    seq: TradeSeq
    event_ms: TimeMs
    direction: OrderSide
    price: Decimal
    amount: Decimal
    liquidation: Literal["M", "T", "MT"] | None = None


class TickerRow(msgspec.Struct, gc=False, rename={"symbol": "instrument_name", "event_ms": "timestamp"}):
    symbol: Symbol
    event_ms: TimeMs
    mark_price: Decimal
    open_interest: Decimal
    index_price: Decimal = ZERO
    underlying_price: Decimal = ZERO
    best_bid_price: Decimal | None = None
    best_bid_amount: Decimal | None = None
    best_ask_price: Decimal | None = None
    best_ask_amount: Decimal | None = None
    current_funding: Decimal | None = None


class Meaning(msgspec.Struct, frozen=True, gc=False):
    """What decode needs of an instrument, at hand."""

    name: str
    inverse: bool
    kind: Kind
    coin: str


def meaning_of(instrument: Instrument) -> Meaning:
    return Meaning(instrument.name, instrument.inverse, instrument.kind, instrument.coin)


def assumed(symbol: str) -> Instrument | None:
    """What the spelling tells: all but the steps."""
    found = _SPELLING.fullmatch(symbol)
    if found is None:
        return None
    coin, quote = found["coin"], found["quote"]
    kind = Kind.PERPETUAL if found["perpetual"] else Kind.OPTION if found["option"] else Kind.FUTURE
    # Without a quote in its name a contract is settled in the coin, and an option's premium told in it.
    inverse = quote is None and kind is not Kind.OPTION
    return Instrument(
        venue=NAME,
        symbol=symbol,
        kind=kind,
        coin=coin,
        quote=quote or (coin if kind is Kind.OPTION else "USD"),
        settle=quote or coin,
        tick_size=STEP_UNKNOWN,
        lot_size=STEP_UNKNOWN,
        contract_size=DOLLAR if inverse else None,
        inverse=inverse,
    )


def size_of(meaning: Meaning, amount: Decimal, price: Decimal) -> tuple[Decimal, Decimal | None, Decimal | None]:
    """Coins; of an inverse contract also the dollars they are worth, which are what the venue counts."""
    if not meaning.inverse:
        return amount, None, None
    return (amount / price).quantize(COIN_STEP, ROUND_HALF_EVEN), amount, amount


def trade_of(meaning: Meaning, row: TradeRow, received_ns: int) -> Trade:
    """Raises ValueError, InvalidOperation (NaN)."""
    price, amount, seq = row.price, row.amount, row.seq
    if not (ZERO < price < NUMBER_MAX and ZERO < amount < NUMBER_MAX):
        raise ValueError("price or size out of range")
    side = _BUY if row.direction == "buy" else _SELL
    if not meaning.inverse:
        return Trade(meaning.name, row.event_ms * MS, received_ns, seq, seq, side, price, amount)
    size = (amount / price).quantize(COIN_STEP, ROUND_HALF_EVEN)
    return Trade(meaning.name, row.event_ms * MS, received_ns, seq, seq, side, price, size, 1, amount, amount)


def liquidations_of(trade: Trade, who: Literal["M", "T", "MT"]) -> list[Event]:
    """The forced order of a trade: the taker's, the maker's, which is the other way round, or both."""
    against = _SELL if trade.side is _BUY else _BUY
    sides = {"T": trade.side, "M": against}
    return [
        Liquidation(
            trade.instrument,
            trade.event_ns,
            trade.received_ns,
            f"{trade.seq}-{letter}",
            sides[letter],
            trade.price,
            trade.size,
            trade.value,
            trade.contracts,
        )
        for letter in who
    ]


def candle_of(
    meaning: Meaning,
    interval_s: int | None,
    row: tuple[int, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal],
    received_ns: int,
    *,
    closed: bool,
) -> Candle:
    """A bar of the venue: volume in coins, cost in the quote.

    In what the cost of an option is told is not said: coins at (high + low + close) / 3 estimate the premiums.
    """
    start_ms, first, high, low, last, volume, cost = row
    if meaning.kind is Kind.OPTION:
        cost = (volume * (high + low + last) / 3).quantize(COIN_STEP, ROUND_HALF_EVEN)
    told = (start_ms, first, high, low, last, volume, cost)
    return candle_of_row(meaning.name, interval_s, told, received_ns, closed=closed)


def quote_of(meaning: Meaning, row: TickerRow, received_ns: int) -> Quote:
    bid = _side(meaning, row.best_bid_price, row.best_bid_amount)
    ask = _side(meaning, row.best_ask_price, row.best_ask_amount)
    return Quote(meaning.name, row.event_ms * MS, received_ns, *bid, *ask)


def _side(
    meaning: Meaning, price: Decimal | None, amount: Decimal | None
) -> tuple[Decimal, Decimal] | tuple[None, None]:
    """An empty side is zeros, or null."""
    if not price or not amount:
        return None, None
    if not (ZERO < price < NUMBER_MAX and ZERO < amount < NUMBER_MAX):
        raise ValueError("quote out of range")
    return price, size_of(meaning, amount, price)[0]


def interest_of(
    meaning: Meaning, amount: Decimal, mark: Decimal, underlying: Decimal, event_ns: int, received_ns: int
) -> OpenInterest | None:
    """Open interest in coins, and what they are worth; of an option with its underlying's price.

    None for an inverse contract without a mark price. Raises ValueError, InvalidOperation (NaN).
    """
    if not (ZERO <= amount < NUMBER_MAX and ZERO <= mark < NUMBER_MAX and ZERO <= underlying < NUMBER_MAX):
        raise ValueError("open interest out of range")
    name = meaning.name
    if meaning.kind is Kind.OPTION:
        if not underlying:
            return OpenInterest(name, event_ns, received_ns, amount)
        return OpenInterest(name, event_ns, received_ns, amount, amount * underlying, None, underlying)
    if not mark:
        return None if meaning.inverse else OpenInterest(name, event_ns, received_ns, amount)
    size, value, contracts = size_of(meaning, amount, mark)
    return OpenInterest(name, event_ns, received_ns, size, amount * mark if value is None else value, contracts)


def interests_of(meaning: Meaning, row: TickerRow, received_ns: int) -> list[Event]:
    event_ns = row.event_ms * MS
    told = interest_of(meaning, row.open_interest, row.mark_price, row.underlying_price, event_ns, received_ns)
    return [] if told is None else [told]


def marks_of(meaning: Meaning, row: TickerRow, received_ns: int) -> list[Event]:
    """The mark price, and the running rate of a perpetual."""
    mark, index, event_ns = row.mark_price, row.index_price, row.event_ms * MS
    if not (ZERO <= mark < NUMBER_MAX and ZERO <= index < NUMBER_MAX):
        raise ValueError("mark price out of range")
    said: list[Event] = []
    if mark:
        # An option's mark is its premium, which no index stands beside.
        beside = None if meaning.kind is Kind.OPTION else index or None
        said.append(MarkPrice(meaning.name, event_ns, received_ns, mark, beside))
    if meaning.kind is Kind.PERPETUAL and row.current_funding is not None:
        rate = rate_of(row.current_funding) / RATE_HOURS
        funding_ns = event_ns - event_ns % HOUR_NS + HOUR_NS
        said.append(FundingRate(meaning.name, event_ns, received_ns, rate, funding_ns, HOUR_S, settled=False))
    return said


def rate_of(rate: Decimal) -> Decimal:
    """A rate that is believed. Raises ValueError, InvalidOperation (NaN)."""
    if not -RATE_MAX < rate < RATE_MAX:
        raise ValueError("funding rate out of range")
    return rate
