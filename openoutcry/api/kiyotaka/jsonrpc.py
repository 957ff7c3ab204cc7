"""JSON-RPC 2.0 to the letter: a frame in, calls out; answers in, a frame out.

https://www.jsonrpc.org/specification

    > {"jsonrpc":"2.0","id":1,"method":"GetCoins","params":{"type":["TRADE_AGG"]}}
    < {"jsonrpc":"2.0","id":1,"result":{"coins":["BTC"]}}

A batch is an array; a call without `id` is a notification, which is not answered. What cannot be read is an `Ill` in the
place of its call, so that nothing here raises for what a client sends.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import msgspec
from google.protobuf import json_format

from openoutcry.api.kiyotaka import contract
from openoutcry.errors import Invalid

FRAME_BYTES_MAX = 64 * 1024
CALLS_MAX = 50
DEPTH_MAX = 32
SHOWN_MAX = 64
# A number of an enum has 32 bits.
DIGITS_MAX = 10

PARSE_ERROR = -32_700
INVALID_REQUEST = -32_600
METHOD_NOT_FOUND = -32_601
INVALID_PARAMS = -32_602
INTERNAL_ERROR = -32_603

# The house's own calls are documented without `jsonrpc`, and sent without it.
HOUSE = "public/"

Id = str | int | float | None
Params = Mapping[str, Any] | Sequence[Any]


class Call(msgspec.Struct, frozen=True):
    """A call that is well-formed; `answered` False: a notification."""

    method: str
    params: Params
    id: Id
    answered: bool


class Ill(msgspec.Struct, frozen=True):
    """What stood in the place of a call, and what is wrong with it. It is always answered."""

    id: Id
    code: int
    message: str


class Frame(msgspec.Struct, frozen=True):
    """What a client said at once."""

    calls: Sequence[Call | Ill]
    batch: bool = False


def read(frame: bytes | str) -> Frame:
    """What is in a frame. Raises nothing."""
    if len(frame) > FRAME_BYTES_MAX:
        return _ill(INVALID_REQUEST, f"Invalid Request: a frame may have {FRAME_BYTES_MAX} bytes")
    try:
        said = msgspec.json.decode(frame)
    except RecursionError:
        return _too_deep()
    except ValueError:
        return _ill(PARSE_ERROR, "Parse error: this is no JSON")
    if _deeper(said, DEPTH_MAX):
        return _too_deep()
    if not isinstance(said, list):
        return Frame([_call(said)])
    if not said:
        return _ill(INVALID_REQUEST, "Invalid Request: an empty batch")
    if len(said) > CALLS_MAX:
        return _ill(INVALID_REQUEST, f"Invalid Request: a batch may hold {CALLS_MAX} calls")
    return Frame([_call(each) for each in said], batch=True)


def result(call_id: Id, of: bytes, coverage: str = "") -> bytes:
    """The answer whose result is that JSON; `coverage` says what of it nobody has."""
    beside = b"" if not coverage else b',"coverage":%b' % msgspec.json.encode(coverage)
    return b'{"jsonrpc":"2.0","id":%b,"result":%b%b}' % (msgspec.json.encode(call_id), of, beside)


def error(call_id: Id, of: bytes) -> bytes:
    """The answer whose error is that object, see `failure`."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (msgspec.json.encode(call_id), of)


def failure(code: int, message: str, data: str | None = None) -> bytes:
    """The object that says what went wrong."""
    told = {"code": code, "message": message}
    return msgspec.json.encode(told if data is None else {**told, "data": data})


def batch(answers: Sequence[bytes]) -> bytes:
    """The answer to a batch."""
    return b"[%b]" % b",".join(answers)


def notification(method: str, params: bytes) -> bytes:
    """A call of ours, which nobody answers."""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (msgspec.json.encode(method), params)


def named(params: Params) -> Mapping[str, Any]:
    """Parameters by name. Raises Invalid for those by position; an empty list is none at all."""
    if isinstance(params, Mapping):
        return params
    if params:
        raise Invalid("params are by name: an object, not a list")
    return {}


def request(kind: type[contract.Message], params: Mapping[str, Any]) -> contract.Message:
    """The request message that `params` are the protobuf JSON of.

    As in REST, a name may be in snake_case, and what the message does not have is ignored: clients of the later service
    send more. Raises Invalid, which names the field and what is right.
    """
    made = kind()
    for field in kind.DESCRIPTOR.fields:
        value = params.get(field.name, params.get(_snake(field.name)))
        if value is None:
            continue
        if not (_plain(field, value) and _taken(field.name, value, made)):
            raise Invalid(f"{field.name} {_shown(value)} is wrong: it is {_right(field)}")
    return made


def cut(text: str) -> str:
    """What a client sent, as short as it may be shown to it again."""
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"


def _call(said: Any) -> Call | Ill:
    if not isinstance(said, dict):
        return Ill(None, INVALID_REQUEST, "Invalid Request: a call is an object")
    call_id = said.get("id")
    if not isinstance(call_id, str | int | float | None) or isinstance(call_id, bool):
        return Ill(None, INVALID_REQUEST, "Invalid Request: id is a text, a number or null")
    method = said.get("method")
    if not isinstance(method, str):
        return Ill(call_id, INVALID_REQUEST, "Invalid Request: method is a text")
    if said.get("jsonrpc", "2.0" if method.startswith(HOUSE) else None) != "2.0":
        return Ill(call_id, INVALID_REQUEST, 'Invalid Request: jsonrpc is "2.0"')
    params = said.get("params", {})
    if not isinstance(params, dict | list):
        return Ill(call_id, INVALID_REQUEST, "Invalid Request: params is an object or a list")
    return Call(method, params, call_id, "id" in said)


def _ill(code: int, message: str) -> Frame:
    return Frame([Ill(None, code, message)])


def _too_deep() -> Frame:
    return _ill(INVALID_REQUEST, f"Invalid Request: more than {DEPTH_MAX} levels deep")


def _deeper(said: Any, levels: int) -> bool:
    """Whether there are more than so many objects and lists in one another."""
    if isinstance(said, dict):
        return not levels or any(_deeper(each, levels - 1) for each in said.values())
    if isinstance(said, list):
        return not levels or any(_deeper(each, levels - 1) for each in said)
    return False


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _plain(field: Any, value: Any) -> bool:
    """Whether the values are what the field may have: json_format also takes true, 1.5 and 2**40 for an enum."""
    if field.is_repeated != isinstance(value, list):
        return False
    values = value if isinstance(value, list) else [value]
    if field.enum_type is not None:
        return all(_of_enum(each, field.enum_type.values_by_name) for each in values)
    # JavaScript has no other number than float; json_format refuses what is not whole.
    allowed = str if field.type == field.TYPE_STRING else str | int | float
    return all(isinstance(each, allowed) and not isinstance(each, bool) for each in values)


def _of_enum(value: Any, names: Container[str]) -> bool:
    if isinstance(value, str):
        return value in names or (value.isdecimal() and len(value) < DIGITS_MAX)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10 ** (DIGITS_MAX - 1)


def _taken(name: str, value: Any, made: contract.Message) -> bool:
    try:
        json_format.ParseDict({name: value}, made)
    except json_format.ParseError:
        return False
    return True


def _right(field: Any) -> str:
    if field.enum_type is not None:
        some = [value.name for value in field.enum_type.values][1:4]
        what = f"name or number of api.{field.enum_type.name}, such as {', '.join(some)}"
        return f"a list, each the {what}" if field.is_repeated else f"the {what}"
    if field.type == field.TYPE_INT64:
        return "whole seconds, as a number or a text"
    return "a list of texts" if field.is_repeated else "a text"


def _shown(value: Any) -> str:
    return cut(msgspec.json.encode(value).decode())
