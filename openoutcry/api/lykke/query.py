"""What Lykke's callers write, as values of ours: a query, or a body of JSON. Nothing here is ever a float.

Names and enum words may stand in any case, enums as numbers too. What is missing is what the contract makes of it: buy, 0, 0.
Whatever does not fit is gathered, field by field, and said at once by `end`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from openoutcry.api.lykke import wire
from openoutcry.api.lykke.names import CANCEL_MODES, SIDES
from openoutcry.errors import Invalid
from openoutcry.orders import CancelMode

QUERY_FIELDS_MAX = 1_000
ERRORS_MAX = 50
INT32_MAX = 2**31 - 1
NS_MAX = 2**63 - 1

_T = TypeVar("_T")
_WHOLE = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
# By the word in lower case and by the number, as text.
_SIDES = {**SIDES, **{str(at): buys for at, buys in enumerate(SIDES.values())}}
_MODES = {
    **{word.lower(): mode for word, mode in CANCEL_MODES.items()},
    **{str(at): mode for at, mode in enumerate(CANCEL_MODES.values())},
}


class Unbound(Invalid):
    """A question that could not be read: what is wrong, by field."""

    def __init__(self, wrong: Mapping[str, Sequence[str]]) -> None:
        super().__init__("; ".join(text for texts in wrong.values() for text in texts))
        self.wrong = wrong


class _Gathered:
    """What is wrong, by field. No more than a few: a body of a thousand wrong orders is told of the first ones."""

    def __init__(self) -> None:
        self._wrong: dict[str, list[str]] = {}

    def add(self, field: str, text: str) -> None:
        if len(self._wrong) < ERRORS_MAX:
            self._wrong.setdefault(field, []).append(text)

    def end(self) -> None:
        """Raises Unbound, if anything is wrong."""
        if self._wrong:
            raise Unbound(self._wrong)


class Query:
    """What stands after the question mark. Empty is as if it were not there; of what stands there twice the first counts."""

    def __init__(self, raw: bytes) -> None:
        self._gathered = _Gathered()
        self._given: dict[str, list[str]] = {}
        if raw:
            try:
                pairs = parse_qsl(raw.decode("ascii"), max_num_fields=QUERY_FIELDS_MAX, errors="strict")
            except ValueError as e:
                raise Unbound({"": ["The query cannot be read."]}) from e
            for name, value in pairs:
                # A list may be written `ids=`, `ids[]=` and `ids[0]=`.
                self._given.setdefault(name.partition("[")[0].lower(), []).append(value)

    def end(self) -> None:
        """Raises Unbound, if anything is wrong."""
        self._gathered.end()

    def texts(self, name: str) -> Sequence[str]:
        """All that stand there."""
        return self._given.get(name.lower(), ())

    def text(self, name: str) -> str | None:
        """The first of them."""
        found = self.texts(name)
        return found[0] if found else None

    def whole(self, name: str, default: int) -> int:
        """A whole number of 32 bits."""
        value = self._whole(name, INT32_MAX)
        return default if value is None else value

    def ns(self, name: str) -> int | None:
        """A time in milliseconds. One that no clock of ours shows is the last that one can."""
        value = self._whole(name, NS_MAX)
        return None if value is None else max(-NS_MAX, min(value * wire.MS, NS_MAX))

    def buys(self, name: str) -> bool | None:
        """A side."""
        text = self.text(name)
        side = None if text is None else _SIDES.get(text.lower())
        if text is not None and side is None:
            self._gathered.add(name, f"{name} is buy or sell.")
        return side

    def _whole(self, name: str, most: int) -> int | None:
        text = self.text(name)
        if text is None:
            return None
        value = int(text) if _WHOLE.fullmatch(text) else most + 1
        if not -most - 1 <= value <= most:
            self._gathered.add(name, f"{name} is a whole number.")
            return None
        return value


class Body:
    """The members of a JSON object. `gathered`: what was found wrong in those around it; `at`: where it stands in them."""

    def __init__(
        self, raw: bytes | msgspec.Raw, known: Collection[str], gathered: _Gathered | None = None, at: str = ""
    ) -> None:
        self._gathered = _Gathered() if gathered is None else gathered
        self._at = at
        self._given: dict[str, bytes] = {}
        try:
            members = _MEMBERS.decode(raw)
        except msgspec.ValidationError:
            self._wrong("", "An object is wanted.")
            if not at:
                self.end()
            return
        except (ValueError, RecursionError) as e:
            raise Unbound({"": ["The body is not JSON."]}) from e
        for name, value in members.items():
            if name not in known:
                name = next((each for each in known if each.lower() == name.lower()), "")  # noqa: PLW2901
            if name:
                self._given[name] = bytes(value)
            else:
                self._wrong("", f"The only members are {', '.join(known)}.")

    def end(self) -> None:
        """Raises Unbound, if anything is wrong."""
        self._gathered.end()

    def text(self, name: str, *, needed: bool = False) -> str | None:
        """A text; empty and null are none."""
        raw = self._given.get(name, b"null")
        text = None if raw == b"null" else self._said(name, raw)
        if needed and not text:
            self._wrong(name, f"{name} is missing.")
        return text or None

    def decimal(self, name: str) -> Decimal:
        """A number, also one that stands as a text; 0 where it is missing."""
        raw = self._given.get(name, b"0")
        number: Decimal | None = None
        if raw[:1] == b'"':
            number = wire.decimal(self._said(name, raw) or "")
        elif raw.isascii():
            number = wire.json_decimal(raw.decode())
        if number is None:
            self._wrong(name, f"{name} is a decimal of at most {wire.DIGITS_MAX} digits.")
            return Decimal(0)
        return number

    def buys(self, name: str) -> bool:
        """A side; buy where it is missing."""
        return self._chosen(name, _SIDES, f"{name} is buy or sell.") if name in self._given else True

    def mode(self, name: str) -> CancelMode | None:
        """Which orders are cancelled first."""
        if self._given.get(name, b"null") == b"null":
            return None
        return self._chosen(name, _MODES, f"{name} is one of {', '.join(CANCEL_MODES)}.")

    def flag(self, name: str) -> bool:
        """Whether; no where it is missing."""
        raw = self._given.get(name, b"false")
        if raw not in (b"true", b"false"):
            self._wrong(name, f"{name} is true or false.")
        return raw == b"true"

    def rows(self, name: str, known: Collection[str]) -> Sequence["Body"]:
        """A list of objects; null is an empty one."""
        raw = self._given.get(name, b"null")
        if raw == b"null":
            return ()
        try:
            rows = _ROWS.decode(raw)
        except (ValueError, RecursionError):
            self._wrong(name, f"{name} is a list.")
            return ()
        return [Body(row, known, self._gathered, f"{name}[{at}].") for at, row in enumerate(rows)]

    def _chosen(self, name: str, words: Mapping[str, _T], wrong: str) -> _T:
        raw = self._given[name]
        text = self._said(name, raw) if raw[:1] == b'"' else raw.decode(errors="replace")
        found = words.get((text or "").lower())
        if found is None:
            self._wrong(name, wrong)
            return next(iter(words.values()))
        return found

    def _said(self, name: str, raw: bytes) -> str | None:
        try:
            return _TEXT.decode(raw)
        except ValueError:
            self._wrong(name, f"{name} is a text.")
            return None

    def _wrong(self, name: str, text: str) -> None:
        self._gathered.add(f"{self._at}{name}".rstrip("."), text)
