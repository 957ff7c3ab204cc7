"""Which numbers of a venue are believed, where Bybit and OKX agree: prices, sizes, times, levels, candles, periods.

What a venue sends is hostile until it was held against these: a NaN, an infinity, a price below zero or a stamp in
microseconds raises ValueError or ArithmeticError, which `decode` and `page` turn into Unreadable.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated

import msgspec

from openoutcry.events import Candle, Level, Side, open_of

MS = 1_000_000
ZERO = Decimal(0)
NUMBER_MAX = Decimal("1e18")
COIN_STEP = Decimal("1e-8")
# An unlisted symbol does not tell its steps: the finest there is.
STEP_UNKNOWN = Decimal("1e-8")
# Up to the year 2255, so that nanoseconds fit 64 bits; a stamp in microseconds is out of range.
TIME_MS_END = 9_000_000_000_000
TimeMs = Annotated[int, msgspec.Meta(gt=0, lt=TIME_MS_END)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# The longest funding period that is believed.
PERIOD_S_MAX = 31 * 86_400
HOUR_MS = 3_600_000


def check_traded(price: Decimal, size: Decimal) -> None:
    """Price and size of something that was traded. Raises ValueError, InvalidOperation (NaN).

    The trades of a frame are held against the same bounds in place, since a call costs as much as the check.
    """
    if not (ZERO < price < NUMBER_MAX and ZERO < size < NUMBER_MAX):
        raise ValueError("price or size out of range")


def step_of(text: str) -> Decimal:
    """A tick, a lot or a contract's size. Raises ValueError, InvalidOperation."""
    number = Decimal(text)
    if not ZERO < number < NUMBER_MAX:
        raise ValueError("step out of range")
    return number


def levels_of(rows: Iterable[tuple[Decimal, Decimal, *tuple[str, ...]]]) -> tuple[Level, ...]:
    """Price and size of each row, size 0 for one that is gone. Raises ValueError, InvalidOperation (NaN)."""
    levels = tuple(row[:2] for row in rows)
    for price, size in levels:
        if not (ZERO < price < NUMBER_MAX and ZERO <= size < NUMBER_MAX):
            raise ValueError("level out of range")
    return levels


def alive(levels: Iterable[Level]) -> tuple[Level, ...]:
    """Those that are not gone."""
    return tuple(level for level in levels if level[1])


def candle_of_row(
    name: str,
    interval_s: int | None,
    row: tuple[int, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal],
    received_ns: int,
    *,
    closed: bool,
) -> Candle:
    """The venue's own candle: open time in milliseconds, open, high, low, close, volume in coins and in the quote.

    Raises ValueError, InvalidOperation (NaN).
    """
    start_ms, first, high, low, last, volume, quote_volume = row
    open_ns = start_ms * MS
    if interval_s is None or open_of(open_ns, interval_s) != open_ns:
        raise ValueError("a candle of another interval")
    if not (ZERO < low <= min(first, last) and max(first, last) <= high < NUMBER_MAX):
        raise ValueError("candle prices out of range")
    if not (ZERO <= volume < NUMBER_MAX and ZERO <= quote_volume < NUMBER_MAX):
        raise ValueError("candle volume out of range")
    return Candle(
        instrument=name,
        side=Side.BOTH,
        interval_s=interval_s,
        open_ns=open_ns,
        open=first,
        high=high,
        low=low,
        close=last,
        volume=volume,
        quote_volume=quote_volume,
        trades=0,  # neither venue counts them
        first_ns=None,
        last_ns=None,
        closed=closed,
        received_ns=received_ns,
        origin="venue",
    )


def period_s(before_ms: int | None, at_ms: int) -> int | None:
    """Whole hours between two settlements, in seconds; None where they do not tell it, or rows are missing between."""
    hours = 0 if before_ms is None else round((at_ms - before_ms) / HOUR_MS)
    return hours * 3_600 if hours and hours * 3_600 <= PERIOD_S_MAX else None
