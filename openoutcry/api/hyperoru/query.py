"""What HyperORU's callers write, as values of ours: a query, or a body of JSON, read by name.

Each thing has the name of the published page and those that other versions of it are known by; the first that was given
counts. Whatever is wrong is said as a `No`, naming the field.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from openoutcry.api.hyperoru.names import INTERVALS
from openoutcry.api.hyperoru.wire import No
from openoutcry.clock import NS
from openoutcry.market.coins import printable

SYMBOL = ("symbol", "symbols")
INTERVAL = ("interval", "period")
START = ("start", "start_date", "start_time", "startDate", "startTime")
END = ("end", "end_date", "end_time", "endDate", "endTime")
START_DATE = ("start_date", *(name for name in START if name != "start_date"))
END_DATE = ("end_date", *(name for name in END if name != "end_date"))

SYMBOLS_MAX = 1_000
# Epoch numbers beyond this are milliseconds: as seconds it is the year 5138, as milliseconds 1973.
SECONDS_MAX = 100_000_000_000
# Whole years that fit int64 nanoseconds, with room for a bucket on both sides.
BEGIN_NS = -9_214_560_000 * NS  # 1678-01-01
END_NS = 9_214_646_400 * NS  # 2262-01-01

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")
_DATE = re.compile(r"(19|20)[0-9]{6}")
_ISO = re.compile(r"[0-9]{4}-?([0-9]{2}-?[0-9]{2}|W[0-9]{2}(-?[1-7])?)([T ].*)?")
# An offset whose plus a query turned into a blank.
_BLANK_OFFSET = re.compile(r"(T[0-9:.]+) ([0-9]{2}:?[0-9]{2})")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


class Fields:
    """What was given, by name. None and empty texts are as if they were not."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = {name: value for name, value in given.items() if value is not None and value != ""}
        self._null = {name for name, value in given.items() if value is None}

    def text(self, *names: str) -> str | None:
        """A text, if one was given. Raises No."""
        name, value = self._first(names)
        if value is not None and not isinstance(value, str):
            raise _type(name, "a string")
        return value

    def needed(self, *names: str) -> str:
        """A text that must be there. Raises No."""
        found = self.text(*names)
        if found is None:
            if names[0] in self._null:
                raise _type(names[0], "a string")
            raise No(400, "MISSING_FIELD", f"{names[0]} is missing")
        return found

    def symbol(self) -> str:
        """The one symbol that is meant; a list of one is one. Raises No."""
        given = self._given.get("symbols")
        if "symbol" not in self._given and isinstance(given, list):
            if len(given) != 1 or not isinstance(given[0], str) or not given[0]:
                raise _type("symbols", "a list of one string: ask for one symbol at a time, as symbol")
            return given[0]
        return self.needed(*SYMBOL)

    def symbols(self) -> Sequence[str] | None:
        """Those that are named, divided by commas. Raises No."""
        text = self.text("symbols", "symbol")
        if text is None:
            return None
        found = [part.strip() for part in text.split(",", SYMBOLS_MAX)]
        if len(found) > SYMBOLS_MAX:
            raise No(400, "INVALID_TYPE", f"symbols names more than {SYMBOLS_MAX}")
        return [each for each in found if each]

    def time_ns(self, names: Sequence[str]) -> int | None:
        """A time, if one was given. Raises No."""
        name, value = self._first(names)
        return None if value is None else time_ns(name, value)

    def range_ns(self, starts: Sequence[str] = START, ends: Sequence[str] = END) -> tuple[int | None, int | None]:
        """[start, end), of which either may be open. Raises No."""
        start_ns, end_ns = self.time_ns(starts), self.time_ns(ends)
        if start_ns is not None and end_ns is not None and start_ns >= end_ns:
            raise No(400, "INVALID_RANGE", f"{starts[0]} must be before {ends[0]}")
        return start_ns, end_ns

    def limit(self, default: int, most: int) -> int:
        """How many rows at most. Raises No."""
        _, value = self._first(("limit",))
        if value is None:
            return default
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,9}", value) or not 1 <= int(value) <= most:
            raise No(400, "INVALID_LIMIT", f"limit must be a whole number from 1 to {most}")
        return int(value)

    def flag(self, name: str) -> bool:
        """Whether it was said. Raises No."""
        value = self._given.get(name, False)
        if isinstance(value, bool):
            return value
        if not isinstance(value, str) or value.lower() not in (*_TRUE, *_FALSE):
            raise _type(name, "true or false")
        return value.lower() in _TRUE

    def chosen(self, name: str, allowed: Iterable[str]) -> Sequence[str] | None:
        """Words out of a few, divided by commas. Raises No."""
        text = self.text(name)
        if text is None:
            return None
        known = list(allowed)
        words = [word.strip().lower() for word in text.split(",")]
        strange = next((word for word in words if word not in known), None)
        if strange is not None:
            raise No(400, f"INVALID_{name.upper()}", f"{name} '{printable(strange)}' is none of {', '.join(known)}")
        return words

    def _first(self, names: Sequence[str]) -> tuple[str, Any]:
        name = next((name for name in names if name in self._given), names[0])
        return name, self._given.get(name)


def members(content_type: str | None, body: bytes) -> dict[str, Any]:
    """The members of a JSON object. Raises No."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise No(415, "UNSUPPORTED_MEDIA_TYPE", f"the body must be application/json, not {printable(kind)}")
    try:
        said = msgspec.json.decode(body)
        if isinstance(said, dict):
            json.loads(body, object_pairs_hook=_once)
    except (msgspec.DecodeError, ValueError) as e:
        raise No(400, "INVALID_JSON", f"the body is not JSON: {printable(str(e))}") from e
    except RecursionError as e:
        raise No(400, "INVALID_JSON", "the body is nested too deeply") from e
    if not isinstance(said, dict):
        raise No(400, "INVALID_JSON", "the body must be a JSON object")
    return said


def interval_s(name: str, allowed: Sequence[str]) -> int:
    """The length of an interval. Raises No, naming those allowed."""
    if name not in allowed:
        raise No(400, "INVALID_INTERVAL", f"interval '{printable(name)}' is none of {', '.join(allowed)}")
    return INTERVALS[name]


def time_ns(name: str, value: object) -> int:
    """ISO 8601, or epoch seconds or milliseconds, as a number or as digits. Raises No."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _type(name, "a time: ISO 8601, or epoch seconds or milliseconds")
    text = str(value).strip()
    found = _of_number(text) if _NUMBER.fullmatch(text) and not _DATE.fullmatch(text) else _of_iso(text)
    if found is None:
        raise No(
            400, "INVALID_TIME", f"{name} '{printable(text)}' is no time: write 2026-04-01 or 2026-04-01T00:00:00Z"
        )
    if not BEGIN_NS <= found < END_NS:
        raise No(400, "INVALID_TIME", f"{name} '{printable(text)}' is not between the years 1678 and 2261")
    return found


def _of_number(text: str) -> int:
    number = Decimal(text)
    return int(number * (NS if abs(number) < SECONDS_MAX else NS // 1_000))


def _of_iso(text: str) -> int | None:
    if _ISO.fullmatch(text) is None:
        return None
    try:
        at = datetime.fromisoformat(_BLANK_OFFSET.sub(r"\1+\2", text))
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return (at - _EPOCH) // _MICRO * 1_000


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    told = dict(pairs)
    if len(told) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return told


def _type(name: str, wanted: str) -> No:
    return No(400, "INVALID_TYPE", f"{name} must be {wanted}")
