"""How answers of token sources are read: which are believed, and which of their numbers, texts and times.

What a source sends is hostile until it was held against these. A field that cannot be is None; a row that lacks its address
is skipped and counted; an answer without any good row is Unreadable.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from openoutcry.errors import RateLimited, Unavailable, Unknown, Unreadable
from openoutcry.events import NS
from openoutcry.sources.source import Network, Token, TokenAsk, TokenPage, Wanted

ANSWER_BYTES_MAX = 1024 * 1024  # the longest of them have a tenth of that
ROWS_MAX = 1_000
NUMBER_MAX = 1e18
NUMBER_CHARS_MAX = 120  # GeckoTerminal writes prices with seventy digits
COUNT_MAX = 2**53
SHARE_DIGITS = 12
DECIMALS_MAX = 255  # one byte on every chain
NAME_CHARS_MAX, SYMBOL_CHARS_MAX, URL_CHARS_MAX = 200, 50, 2_048
EARLIEST_S = 1_230_768_000  # 2009-01-01: before that there was no chain
LATEST_S = 9_000_000_000
MS = 1_000_000
# How long a source is left alone that asks for it without saying how long, forbids, or does not take our key.
SLOW_S, FORBIDDEN_S, KEY_S = 30.0, 120.0, 300.0
PAUSE_S_MIN, PAUSE_S_MAX = 1.0, 3_600.0
# Cloudflare's refusals of whoever it takes for a robot.
CLOUDFLARE = frozenset({520, 530})

_NUMBER = re.compile(r"[+-]?\d*\.?\d+(?:[eE][+-]?\d{1,3})?|[+-]?\d+\.", re.ASCII)
_EVM = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
# Pools of Uniswap 4 are told by 32 bytes.
_EVM_POOL = re.compile(r"0x[0-9a-fA-F]{40}(?:[0-9a-fA-F]{24})?", re.ASCII)
_BASE58 = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_URL = re.compile(r"https?://[^\s\x00-\x20\x7f\"'<>\\^`{|}]+")

T = TypeVar("T")


def check(who: str, wanted: Wanted, status: int, headers: Mapping[str, str]) -> None:
    """Raises RateLimited, Unavailable, Unknown where the status is no answer. The body is never told on."""
    if status == 200:
        return
    retry_s = _retry_s(headers)
    if status == 429 or (status == 503 and retry_s is not None):
        raise RateLimited(who, f"{who} asks for patience", SLOW_S if retry_s is None else retry_s)
    if status == 401:
        raise RateLimited(who, f"{who} does not take our key", KEY_S, banned=True)
    if status == 403 or status in CLOUDFLARE:
        raise RateLimited(who, f"{who} does not let us in", FORBIDDEN_S if retry_s is None else retry_s, banned=True)
    if status == 404 and wanted is Wanted.TOKEN:
        raise Unknown(f"{who} knows no such token")
    raise Unavailable(who, f"{who} answers with status {status}")


def decode(body: bytes, as_: type[T]) -> T:
    """JSON of that shape. Raises Unreadable."""
    if len(body) > ANSWER_BYTES_MAX:
        raise Unreadable(f"more than {ANSWER_BYTES_MAX} bytes", body)
    try:
        return msgspec.json.decode(body, type=as_)
    except (ValueError, RecursionError) as e:
        raise Unreadable(f"not the documented shape: {type(e).__name__}", body) from e


def page(
    ask: TokenAsk, rows: Sequence[Any], read: Callable[[Any], Token | None], following: TokenAsk | None, body: bytes
) -> TokenPage:
    """What `read` makes of each row; None is a row that was understood and is not wanted.

    A row for which it raises ValueError (as msgspec does) is skipped. Raises Unreadable where that is every row, or where
    the first step has none at all.
    """
    tokens: list[Token] = []
    skipped = max(len(rows) - ROWS_MAX, 0)
    for row in rows[:ROWS_MAX]:
        try:
            token = read(row)
        except ValueError:
            skipped += 1
        else:
            if token is not None:
                tokens.append(token)
    if skipped == len(rows) and (rows or ask.step == 1):
        raise Unreadable("no row that can be read" if rows else "no rows", body)
    return TokenPage(tokens, skipped, following)


def distinct(tokens: Iterable[Token]) -> Sequence[Token]:
    """The first of each address."""
    found: dict[str, Token] = {}
    for token in tokens:
        found.setdefault(address_key(token.address), token)
    return tuple(found.values())


# -- addresses


def is_address(network: Network, told: object) -> bool:
    """Whether that can be an address there."""
    return isinstance(told, str) and bool((_EVM if network.evm else _BASE58).fullmatch(told))


def address(network: Network, told: object) -> str:
    """Raises ValueError where it is none."""
    if not isinstance(told, str) or not is_address(network, told):
        raise ValueError("no address of that network")
    return told


def pool(network: Network, *told: object) -> str | None:
    """The first that can be the address of a pool."""
    pattern = _EVM_POOL if network.evm else _BASE58
    return next((each for each in told if isinstance(each, str) and pattern.fullmatch(each)), None)


def address_key(told: str) -> str:
    """Equal for equal addresses: those of the EVM are written in any case."""
    return told.lower() if told.startswith("0x") else told


# -- fields: what cannot be is None


def number(told: object) -> float | None:
    """A finite number below NUMBER_MAX, from a number or its text."""
    if isinstance(told, str):
        if len(told) > NUMBER_CHARS_MAX or not _NUMBER.fullmatch(told):
            return None
        found = float(told)
    elif isinstance(told, float) or type(told) is int:
        # An integer above that may not fit a float at all.
        found = float(told) if abs(told) < NUMBER_MAX else math.inf
    else:
        return None
    return found if math.isfinite(found) and abs(found) < NUMBER_MAX else None


def price(told: object) -> float | None:
    """Above zero."""
    found = number(told)
    return found if found is not None and found > 0 else None


def amount(told: object) -> float | None:
    """Zero or above."""
    found = number(told)
    return found if found is not None and found >= 0 else None


def share(told: object, of: float = 1.0) -> float | None:
    """A change, told in parts of `of`: nothing loses more than all."""
    found = number(told)
    # Dividing leaves noise in the last digits.
    return round(found / of, SHARE_DIGITS) if found is not None and found >= -of else None


def count(*told: object) -> int | None:
    """The sum of counts, each told as a whole number (or its text)."""
    total = 0
    for each in told:
        found = number(each)
        if found is None or found < 0 or found != int(found):
            return None
        total += int(found)
    return total if total <= COUNT_MAX else None


def decimals(told: object) -> int | None:
    """How many digits a token's smallest unit is behind the point."""
    found = count(told)
    return found if found is not None and found <= DECIMALS_MAX else None


def name(told: object, chars_max: int = NAME_CHARS_MAX) -> str | None:
    """Text without characters that cannot be seen, or that turn its direction."""
    if not isinstance(told, str):
        return None
    return _UNPRINTABLE.sub("", told[: 4 * chars_max]).strip()[:chars_max].strip() or None


def symbol(told: object) -> str | None:
    """A short name."""
    return name(told, SYMBOL_CHARS_MAX)


def url(told: object) -> str | None:
    """An address of the web; GeckoTerminal says `missing.png` where it has none."""
    return told if isinstance(told, str) and len(told) <= URL_CHARS_MAX and _URL.fullmatch(told) else None


def seconds(told: object) -> int | None:
    """A moment, from seconds since 1970."""
    found = number(told)
    return int(found) * NS if found is not None and EARLIEST_S <= found < LATEST_S else None


def milliseconds(told: object) -> int | None:
    """A moment, from milliseconds since 1970."""
    found = number(told)
    return int(found) * MS if found is not None and EARLIEST_S <= found / 1_000 < LATEST_S else None


def moment(told: object) -> int | None:
    """A moment, from `2024-05-01T12:00:00Z`."""
    if not isinstance(told, str) or len(told) > 40:
        return None
    try:
        found = datetime.fromisoformat(told)
    except ValueError:
        return None
    return seconds(found.replace(tzinfo=found.tzinfo or UTC).timestamp())


def _retry_s(headers: Mapping[str, str]) -> float | None:
    told = headers.get("retry-after", "")[:20]
    # Its form as a date is left to the defaults: no clock here.
    if not re.fullmatch(r"\d+(?:\.\d+)?", told, re.ASCII):
        return None
    return min(max(float(told), PAUSE_S_MIN), PAUSE_S_MAX)
