"""Query strings as request messages, under the rules of grpc-gateway.

    type=TRADE_AGG&type=107&exchange=BINANCE&rawSymbol=BTCUSDT&interval=HOUR&from=1700000000&period=86400

A field is named as in the contract (its name in snake_case is taken as well), and repeated by repeating it: commas do not
split. Enums are names or numbers, an empty value is the field's default, and what is no field is not looked at.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from urllib.parse import parse_qsl

import msgspec
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from openoutcry.api.kiyotaka import contract
from openoutcry.errors import Invalid

SHAPES = ("proto", "point")
DESCENDING, ASCENDING = "SORT_DIRECTION_DESC", "SORT_DIRECTION_ASC"
SHOWN_MAX = 64
_NAMES_SHOWN_MAX = 12
_INT64_END = 2**63
_INT32_END = 2**31
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_BOOLS: Mapping[str, bool] = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


class Options(msgspec.Struct, frozen=True):
    """How to answer: what the contract has no field for. `shape` None: as the server is set."""

    shape: str | None = None
    newest_first: bool = False
    fills: bool = False


def read(kind: type[contract.Message], query: bytes) -> tuple[contract.Message, Options]:
    """The request that a query string says, and how it is to be answered. Raises Invalid, with what would be right."""
    try:
        pairs = parse_qsl(query.decode("utf-8"), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise Invalid("the query is not UTF-8") from None
    fields = _fields(kind.DESCRIPTOR.full_name)
    given: dict[str, list[str]] = {}
    options: dict[str, str] = {}
    for name, text in pairs:
        if name in fields:
            given.setdefault(fields[name].name, []).append(text)
        elif name in _OPTIONS:
            options[_OPTIONS[name]] = text
    request = kind()
    for name, texts in given.items():
        _set(request, fields[name], texts)
    return request, Options(
        _shape(options.get("shape", "")),
        _newest_first(options.get("sortDirection", "")),
        _flag("gapfill", options.get("gapfill", "")),
    )


def _set(request: contract.Message, field: FieldDescriptor, texts: Sequence[str]) -> None:
    read_one = _READERS[field.type]
    if field.is_repeated:
        getattr(request, field.name).extend(read_one(field, text) for text in texts if text)
    elif len(texts) > 1:
        raise Invalid(f"{field.name} is given {len(texts)} times: give it once")
    elif texts[0]:
        setattr(request, field.name, read_one(field, texts[0]))


def _text(field: FieldDescriptor, text: str) -> str:
    del field
    return text


def _integer(field: FieldDescriptor, text: str) -> int:
    if not _INTEGER.fullmatch(text) or not -_INT64_END <= int(text) < _INT64_END:
        raise Invalid(f"{field.name} must be a decimal number of seconds, not {_shown(text)}")
    return int(text)


def _enum(field: FieldDescriptor, text: str) -> int:
    of: EnumDescriptor = field.enum_type
    known = of.values_by_name.get(text)
    if known is not None:
        return int(known.number)
    if _INTEGER.fullmatch(text) and -_INT32_END <= int(text) < _INT32_END:
        return int(text)
    names = [value.name for value in of.values][1:]
    near = get_close_matches(text[:SHOWN_MAX].upper(), names, _NAMES_SHOWN_MAX, 0.5)
    shown = names if len(names) <= _NAMES_SHOWN_MAX else near or names[:_NAMES_SHOWN_MAX]
    rest = "" if len(shown) == len(names) else ", …"
    raise Invalid(f"{field.name} {_shown(text)} is not in the contract; there are {', '.join(shown)}{rest}")


_READERS: Mapping[int, Callable[[FieldDescriptor, str], int | str]] = {
    FieldDescriptor.TYPE_STRING: _text,
    FieldDescriptor.TYPE_INT64: _integer,
    FieldDescriptor.TYPE_ENUM: _enum,
}
_OPTIONS: Mapping[str, str] = {
    "shape": "shape",
    "sortDirection": "sortDirection",
    "sort_direction": "sortDirection",
    "gapfill": "gapfill",
}


def _shape(text: str) -> str | None:
    if text and text not in SHAPES:
        raise Invalid(f"shape {_shown(text)} is none of {', '.join(SHAPES)}")
    return text or None


def _newest_first(text: str) -> bool:
    if text not in ("", ASCENDING, DESCENDING):
        raise Invalid(f"sortDirection {_shown(text)} is none of {ASCENDING}, {DESCENDING}")
    return text == DESCENDING


def _flag(name: str, text: str) -> bool:
    if text and text not in _BOOLS:
        raise Invalid(f"{name} must be true or false, not {_shown(text)}")
    return bool(text) and _BOOLS[text]


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…")


@cache
def _fields(message: str) -> Mapping[str, FieldDescriptor]:
    """Its fields by what they may be called."""
    fields = contract.POOL.FindMessageTypeByName(message).fields
    return {name: field for field in fields for name in (field.name, _snake(field.name))}


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda upper: f"_{upper[0].lower()}", name)
