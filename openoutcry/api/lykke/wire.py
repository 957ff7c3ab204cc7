"""What Lykke's two transports share: decimals, times, what a refusal is called, and how long a list may be."""

import re
from decimal import Decimal
from typing import NamedTuple

from openoutcry import errors
from openoutcry.api.lykke import names
from openoutcry.orders import Code
from openoutcry.trading.listings import Listings

MS = 1_000_000
# As many digits as the contract's decimals have, before and after the point together, and what they may be written with.
DIGITS_MAX = 28
NUMBER_CHARACTERS_MAX = 100
TAKE_DEFAULT, TAKE_MAX = 100, 1_000

_PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
_JSON = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?", re.ASCII)


# Decimals and times


def decimal(text: str) -> Decimal | None:
    """The number that plain decimal digits say, exactly; None: they say none, or have too many of them."""
    return _exact(text) if len(text) <= NUMBER_CHARACTERS_MAX and _PLAIN.fullmatch(text) else None


def json_decimal(text: str) -> Decimal | None:
    """The same of a number in JSON, whose writer may use an exponent where a number is small (Python: `1e-05`)."""
    return _exact(text) if len(text) <= NUMBER_CHARACTERS_MAX and _JSON.fullmatch(text) else None


def plain(number: Decimal) -> str:
    """`0.00001`, `1000`, `0`: nothing that says nothing, and no exponent."""
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def ms(ns: int) -> int:
    """A time as milliseconds."""
    return ns // MS


def _exact(text: str) -> Decimal | None:
    number = Decimal(text)
    if not number:
        return Decimal(0)
    told = plain(number)
    return Decimal(told) if len(told.lstrip("-0").replace(".", "")) <= DIGITS_MAX else None


# What a refusal is called


class No(errors.Refusal):
    """A refusal that has a number of its own in this dialect, and the field that it is about."""

    def __init__(self, number: int, text: str, field: str | None = None) -> None:
        super().__init__(text)
        self.number, self.field = number, field


class Said(NamedTuple):
    """An error of the contract."""

    number: int
    text: str
    field: str | None = None


def said(refusal: errors.Refusal) -> Said | None:
    """What it is called in the contract; None: that has no word for it, and the transport says it."""
    if isinstance(refusal, No):
        return Said(refusal.number, refusal.text, refusal.field)
    if isinstance(refusal.code, Code):
        field = getattr(refusal, "field", None)
        return Said(names.number(refusal.code, field), refusal.text, field)
    if isinstance(refusal, errors.Unavailable | errors.NotConfigured):
        return Said(names.ME_RUNTIME, names.ERRORS[names.ME_RUNTIME][1])
    return None


def asset_missing(field: str = "assetId") -> No:
    """No such asset."""
    return No(names.ITEM_NOT_FOUND, "Asset not found", field)


def pair_missing(field: str = "assetPairId") -> No:
    """No such pair."""
    return No(names.ITEM_NOT_FOUND, "Asset pair not found", field)


def order_missing(id_: str) -> No:
    """No such order of the caller's: the field is the id itself."""
    return No(names.ITEM_NOT_FOUND, "Order not found", id_)


def not_active() -> No:
    """No such order of the caller's that could be cancelled."""
    return No(names.ME_NOT_FOUND, names.ERRORS[names.ME_NOT_FOUND][1])


def paged(listings: Listings, pair: str | None, offset: int, take: int) -> None:
    """Whether a list may be asked for so. Raises No, in the contract's order."""
    if pair and pair not in listings.pairs:
        raise pair_missing()
    for name, value in (("offset", offset), ("take", take)):
        if value < 0:
            raise No(names.INVALID_FIELD, f"{name} cannot be less than zero.", name)
    if take > TAKE_MAX:
        raise No(names.INVALID_FIELD, f"take '{take}' is too big, maximum is '{TAKE_MAX}'.", "take")
