"""Decimals of an order in, whole ticks and lots out; or why not. In the order in which the Lykke HFT API finds fault.

Nothing is rounded but a market order's volume that has too many places, which the engine refuses when its turn comes.
"""

import re
from collections.abc import Callable
from decimal import Context, Decimal
from typing import NamedTuple

from openoutcry.errors import Refusal
from openoutcry.money import AMOUNT_MAX
from openoutcry.orders import Code
from openoutcry.trading.listings import Listings, Pair

# Of one number that a caller brings: how many digits it has, and how far they are from the point on either side.
DIGITS_MAX = 60
EXPONENT_MAX = 30
TEXT_MAX = 80

PRICE, VOLUME, PAIR = "price", "volume", "assetPairId"

_PLAIN = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?|[+-]?\.[0-9]+", re.ASCII)
# A product of two such numbers is exact.
_EXACT = Context(prec=2 * DIGITS_MAX + 1)

# What a code says where no check says more.
TEXTS = {
    Code.LOW_BALANCE: "Low balance",
    Code.UNKNOWN_PAIR: "Asset pair not found",
    Code.NO_LIQUIDITY: "No liquidity",
    Code.NOT_ENOUGH_FUNDS: "Not enough funds",
    Code.NOT_FOUND: "Not found",
    Code.NEGATIVE_SPREAD: "Lead to negative spread",
    Code.TOO_SMALL_VOLUME: "Too small volume",
    Code.INVALID_FEE: "Invalid fee",
    Code.INVALID_PRICE: "Invalid price",
    Code.NOT_FOUND_PREVIOUS: "Not found previous",
    Code.DUPLICATE: "Duplicate",
    Code.INVALID_VOLUME_ACCURACY: "Invalid volume accuracy",
    Code.INVALID_PRICE_ACCURACY: "Invalid price accuracy",
    Code.INVALID_VOLUME: "Invalid volume",
    Code.TOO_HIGH_PRICE_DEVIATION: "Too high price deviation",
    Code.INVALID_ORDER_VALUE: "Invalid order value",
    Code.DISABLED: "Disabled asset",
    Code.RUNTIME: "Runtime error",
    Code.INVALID_FIELD: "Invalid field",
    Code.UNKNOWN_ASSET: "Unknown asset",
    Code.UNKNOWN_ORDER: "Order not found",
    Code.ACTION_FORBIDDEN: "Action forbidden",
}


class Rejected(Refusal):
    """What was asked of the exchange is not done. `field`: which part of it is to blame, as the Lykke HFT API spells it."""

    code: Code = Code.RUNTIME

    def __init__(self, code: Code, text: str | None = None, field: str | None = None) -> None:
        super().__init__(TEXTS[code] if text is None else text)
        self.code = code
        self.field = field


class Sized(NamedTuple):
    """An order in whole lots and ticks. `fine` False: its volume had more places than the pair, and was cut."""

    lots: int
    ticks: int = 0
    fine: bool = True


class Priced(NamedTuple):
    """An item of a bulk: what is wrong with it goes to the engine with it."""

    lots: int
    ticks: int
    refused: Code | None = None


def decimal(text: str, field: str) -> Decimal:
    """The number that the text says in plain digits. Raises Rejected: exponents, NaN and the like are no numbers here."""
    if len(text) > TEXT_MAX or _PLAIN.fullmatch(text) is None:
        raise Rejected(Code.INVALID_FIELD, f"{_named(field)} is not a valid decimal.", field)
    return Decimal(text)


def limit(
    listings: Listings, pair: str, volume: Decimal, price: Decimal, free: Callable[[str], Decimal], *, buys: bool
) -> Sized:
    """A limit order. `free` says what the wallet has of an asset and has not reserved. Raises Rejected."""
    _positive(price, PRICE)
    listed = _volume(listings, pair, volume)
    needed = _EXACT.multiply(price, volume) if buys else volume
    if needed > free(listed.quote if buys else listed.base):
        raise Rejected(Code.NOT_ENOUGH_FUNDS, field=VOLUME)
    if not listed.on:
        raise Rejected(Code.DISABLED, field=PAIR)
    lots, ticks, refused = _counted(listed, volume, price)
    if refused is not None:
        raise Rejected(refused, field=PRICE if refused in _OF_PRICE else VOLUME)
    return Sized(lots, ticks)


def market(listings: Listings, pair: str, volume: Decimal) -> Sized:
    """A market order: all else is the engine's. Raises Rejected."""
    listed = _volume(listings, pair, volume)
    lots, fine = _whole(volume, listed.base_accuracy)
    # More than can be is enough for the engine to say so.
    return Sized(min(lots, AMOUNT_MAX + 1), fine=fine)


def item(pair: Pair, volume: Decimal, price: Decimal) -> Priced:
    """An order of a bulk, which is refused for itself."""
    if not _sane(price):
        return Priced(0, 0, Code.INVALID_PRICE)
    if not _sane(volume):
        return Priced(0, 0, Code.INVALID_VOLUME)
    if not pair.on:
        return Priced(0, 0, Code.DISABLED)
    if price <= 0:
        return Priced(0, 0, Code.INVALID_PRICE)
    if volume <= 0:
        return Priced(0, 0, Code.INVALID_VOLUME)
    if volume < pair.volume(pair.lots_min):
        return Priced(0, 0, Code.TOO_SMALL_VOLUME)
    return _counted(pair, volume, price)


def units(amount: Decimal, accuracy: int, field: str) -> int:
    """An amount of an asset, below zero too. Raises Rejected."""
    _checked(amount, field)
    if not amount:
        raise Rejected(Code.INVALID_VOLUME, field=field)
    whole, fine = _whole(abs(amount), accuracy)
    if not fine:
        raise Rejected(Code.INVALID_VOLUME_ACCURACY, field=field)
    if not 0 < whole <= AMOUNT_MAX:
        raise Rejected(Code.INVALID_VOLUME, field=field)
    return whole if amount > 0 else -whole


_OF_PRICE = frozenset({Code.INVALID_PRICE, Code.INVALID_PRICE_ACCURACY})


def _volume(listings: Listings, pair: str, volume: Decimal) -> Pair:
    """The pair, of which that volume may be asked."""
    _positive(volume, VOLUME)
    listed = listings.pairs.get(pair)
    if listed is None:
        raise Rejected(Code.UNKNOWN_PAIR, field=PAIR)
    least = listed.volume(listed.lots_min)
    if volume < least:
        raise Rejected(Code.INVALID_FIELD, f"{_named(VOLUME)} must be greater than {least:f}.", VOLUME)
    return listed


def _counted(pair: Pair, volume: Decimal, price: Decimal) -> Priced:
    """What the engine checks of decimals, in its order: the greatest volume, then accuracies."""
    lots, fine = _whole(volume, pair.base_accuracy)
    ticks, priced = _whole(price, pair.price_accuracy)
    most = pair.lots_max or AMOUNT_MAX
    if lots > most or (lots == most and not fine):
        return Priced(0, 0, Code.INVALID_VOLUME)
    if not priced:
        return Priced(0, 0, Code.INVALID_PRICE_ACCURACY)
    if not fine:
        return Priced(0, 0, Code.INVALID_VOLUME_ACCURACY)
    if ticks > AMOUNT_MAX:
        return Priced(0, 0, Code.INVALID_PRICE)
    return Priced(lots, ticks)


def _positive(value: Decimal, field: str) -> None:
    _checked(value, field)
    if value <= 0:
        raise Rejected(Code.INVALID_FIELD, f"{_named(field)} cannot be less than zero.", field)


def _checked(value: Decimal, field: str) -> None:
    if not _sane(value):
        says = "has too many digits" if value.is_finite() else "is not a valid decimal"
        raise Rejected(Code.INVALID_FIELD, f"{_named(field)} {says}.", field)


def _sane(value: Decimal) -> bool:
    """Whether it can be reckoned with: a number, of not too many digits, and not too far from one."""
    if not value.is_finite():
        return False
    if not value:
        return True
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    zeros = 0
    while digits[-1 - zeros] == 0:
        zeros += 1
    return len(digits) - zeros <= DIGITS_MAX and value.adjusted() < EXPONENT_MAX and exponent + zeros >= -EXPONENT_MAX


def _whole(value: Decimal, places: int) -> tuple[int, bool]:
    """How often the last of so many places is in it, and whether that is all of it."""
    scaled = Decimal(value).scaleb(places, _EXACT)
    whole = int(scaled)
    return whole, whole == scaled


def _named(field: str) -> str:
    return f"'{field[0].upper()}{field[1:]}'"
