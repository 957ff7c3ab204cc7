"""Numbers, times and names as people and models read them: never more digits than mean something, never a guess."""

from datetime import UTC, datetime
from decimal import Context, Decimal

from openoutcry.clock import NS

UNKNOWN = "n/a"
NAME_LENGTH_MAX = 64
_DIGITS = Context(prec=7)


def figure(value: Decimal | float | None) -> str:
    """Seven digits at most, without an exponent."""
    if value is None:
        return UNKNOWN
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    if not number.is_finite():
        return UNKNOWN
    text = f"{_DIGITS.plus(number):f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def exact(value: Decimal) -> str:
    """All digits, without an exponent."""
    return f"{value:f}"


def percent(share: Decimal | float | None, digits: int = 2) -> str:
    """A share of one, with its sign."""
    return UNKNOWN if share is None else f"{float(share) * 100:+.{digits}f}%"


def moment(at_ns: int) -> str:
    """`2025-11-19 12:00 UTC`."""
    return f"{datetime.fromtimestamp(at_ns // NS, UTC):%Y-%m-%d %H:%M} UTC"


def length(interval_s: int) -> str:
    """`15m`, `4h`, `1d`, `1w`; seconds where nothing fits."""
    for unit_s, unit in ((604_800, "w"), (86_400, "d"), (3_600, "h"), (60, "m")):
        if interval_s % unit_s == 0:
            return f"{interval_s // unit_s}{unit}"
    return f"{interval_s}s"


def name(text: str) -> str:
    """A venue's or caller's name in one line, so that it cannot pass for a line of ours."""
    return "".join(each if each.isprintable() else " " for each in text[:NAME_LENGTH_MAX]).strip()
