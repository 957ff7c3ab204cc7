"""What Kraken Futures' frames and answers have in common: how sizes count, and the shapes that both tell."""

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Literal

import msgspec

from openoutcry.events import OpenInterest, Side
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues.bounds import COIN_STEP, NUMBER_MAX, ZERO

NAME = "kraken_futures"
SYMBOL_CHARS_MAX = 64
ID_CHARS_MAX = 64
# What was matched on the book; others (block, assignment, termination, unwind, ...) are booked beside it.
ON_BOOK = frozenset({"fill", "liquidation"})
SIDES = {"buy": Side.BUY, "sell": Side.SELL}
# The venue says XBT and XDG, its newer listings beside it in `base` what everybody says.
COINS = {"XBT": "BTC", "XDG": "DOGE"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
RATE_MAX = Decimal(1)

OrderSide = Literal["buy", "sell"]
Symbol = Annotated[str, msgspec.Meta(min_length=1, max_length=SYMBOL_CHARS_MAX)]
TradeId = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_CHARS_MAX)]
Stamp = Annotated[datetime, msgspec.Meta(tz=True)]


class Meaning(msgspec.Struct, frozen=True, gc=False):
    """What decode needs of an instrument, at hand. `contract_size` None: sizes are coins."""

    name: str
    inverse: bool
    contract_size: Decimal | None
    perpetual: bool


def meaning_of(instrument: Instrument) -> Meaning:
    perpetual = instrument.kind is Kind.PERPETUAL
    return Meaning(instrument.name, instrument.inverse, instrument.contract_size, perpetual)


def size_of(meaning: Meaning, count: Decimal, price: Decimal) -> tuple[Decimal, Decimal | None, Decimal | None]:
    """Coins, their value where price x size is not exactly that, and the venue's count where it counts contracts."""
    if meaning.contract_size is None:
        return count, None, None
    worth = count * meaning.contract_size
    if not meaning.inverse:
        return worth, None, count
    return (worth / price).quantize(COIN_STEP, ROUND_HALF_EVEN), worth, count


def interest_of(meaning: Meaning, count: Decimal, mark: Decimal, event_ns: int, received_ns: int) -> OpenInterest:
    """Open interest in coins, and in dollars at the mark price. Raises ValueError, InvalidOperation (NaN)."""
    if not (ZERO <= count < NUMBER_MAX and ZERO < mark < NUMBER_MAX):
        raise ValueError("open interest out of range")
    size, worth, contracts = size_of(meaning, count, mark)
    return OpenInterest(meaning.name, event_ns, received_ns, size, size * mark if worth is None else worth, contracts)


def rate_of(rate: Decimal) -> Decimal:
    """A relative funding rate, unchanged. Raises ValueError, InvalidOperation (NaN)."""
    if not -RATE_MAX < rate < RATE_MAX:
        raise ValueError("funding rate out of range")
    return rate


def ns_of(stamp: datetime) -> int:
    """Nanoseconds of a stamp. Raises ValueError for one before 1970, which no store could tell from none."""
    since = (stamp - EPOCH) // MICROSECOND
    if since <= 0:
        raise ValueError("a time before 1970")
    return since * 1_000


def stamp_of(at_ms: int) -> str:
    """Milliseconds as the venue writes them: 2022-03-18T05:55:37.000Z."""
    return (EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
