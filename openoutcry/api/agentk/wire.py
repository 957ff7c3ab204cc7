"""What agent-k's answers look like, and how it says no: `{"v": 1, "data": …}`, and both keys that its clients read.

    {"detail": "no such key", "error": {"message": "no such key", "type": "authentication_error",
                                        "param": null, "code": "invalid_api_key"}}

OpenAI's package reads `error`, the vendor's own clients read `detail`.
"""

import math
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from openoutcry.accounts.callers import Caller
from openoutcry.accounts.limits import Standing
from openoutcry.api.credentials import credential
from openoutcry.api.dialect import Doors
from openoutcry.clock import NS
from openoutcry.errors import (
    Conflict,
    Forbidden,
    InsufficientFunds,
    Invalid,
    LimitExceeded,
    NoData,
    NotConfigured,
    OtherContent,
    Refusal,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unknown,
    UnknownModel,
    Unsupported,
)

VERSION = 1
# Whoever is asked again too soon only fails again.
RETRY_NOT = {"x-should-retry": "false"}
DETAIL_LENGTH_MAX = 1_000
_STANDING = "openoutcry.standing"
_ENCODER = msgspec.json.Encoder(decimal_format="number")

_T = TypeVar("_T")


class Wrong(Invalid):
    """A field that is not as it must be: which, and (where it has a name) by what rule."""

    def __init__(self, text: str, param: str | None = None, rule: str | None = None) -> None:
        super().__init__(text)
        self.param = param
        self.rule = rule


class Gate:
    """Who calls: the same for all routes of the dialect."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def caller(self, request: Request, scope: str | None = None) -> Caller:
        """Whose credential came with the request, one request of whose limit is used now.

        With a scope, it must be good for that. Raises Unauthenticated, Forbidden, LimitExceeded.
        """
        callers, limits = there(self._doors.callers, "accounts"), there(self._doors.limits, "accounts")
        who = await callers.caller(credential(request.scope), scope)
        # Also where it is refused: how long to wait is told in the same headers.
        request.scope[_STANDING] = lambda: limits.standing(who)
        limits.request(who)
        return who


def there(door: _T | None, what: str) -> _T:
    """A part that this server may lack. Raises NotConfigured."""
    if door is None:
        raise NotConfigured(f"this server has no {what}")
    return door


class Keyed(APIRoute):
    """A route that says in its headers what is left of the caller's limits, also when it says no."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                answer = await handle(request)
            except Refusal as refusal:
                answer = refuse(refusal)
            except RequestValidationError as error:
                answer = malformed(error)
            standing = request.scope.get(_STANDING)
            if standing is not None:
                answer.headers.update(limits_told(standing()))
            return answer

        return handler


class _Plain(APIRoute):
    """A route whose function takes the request alone: FastAPI describes it, and solves nothing for each request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


class KeyedPlain(Keyed, _Plain):
    """The same, with what is left of the caller's limits."""


def envelope(data: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """A good answer. Decimals become numbers with all of their digits."""
    return Response(encode({"v": VERSION, "data": data}), status, headers, media_type="application/json")


def encode(told: Any) -> bytes:
    """As JSON."""
    return _ENCODER.encode(told)


def refuse(refusal: Refusal) -> Response:
    """No, as this dialect says it."""
    status, kind, code = _named(refusal)
    headers: dict[str, str] = {}
    if isinstance(refusal, LimitExceeded) or (isinstance(refusal, Unavailable) and refusal.retry_s is not None):
        retry_s = max(refusal.retry_s or 0.0, 0.001)
        headers |= {"retry-after": str(math.ceil(retry_s)), "retry-after-ms": str(math.ceil(retry_s * 1_000))}
    if isinstance(refusal, NotConfigured):
        headers |= RETRY_NOT
    return no(status, refusal.text, kind, code, getattr(refusal, "param", None), headers)


def no(
    status: int,
    text: str,
    kind: str,
    code: str | None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A refusal in both forms."""
    return Response(encode(error(text, kind, code, param)), status, headers, media_type="application/json")


def error(text: str, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """What a refusal says, in both forms."""
    said = text[:DETAIL_LENGTH_MAX]
    return {"detail": said, "error": {"message": said, "type": kind, "param": param, "code": code}}


def refused(refusal: Refusal) -> dict[str, Any]:
    """What a refusal says where its status was sent already: in a stream."""
    _, kind, code = _named(refusal)
    return error(refusal.text, kind, code)


def malformed(invalid: RequestValidationError) -> Response:
    """422: the first field that is wrong, by name."""
    found = invalid.errors()[0]
    where = [str(part) for part in found.get("loc", ()) if part not in ("body", "query", "path", "header")]
    param = ".".join(where) if where and not where[0].isdigit() else None
    text = f"{param}: {found['msg']}" if param else f"the body cannot be read: {found['msg']}"
    return no(422, text, "invalid_request_error", None, param)


def limits_told(standing: Standing) -> dict[str, str]:
    """What is left of the limits, as headers."""
    told: dict[str, str] = {}
    for name, bucket in (("requests", standing.requests), ("tokens", standing.tokens)):
        if bucket is None:  # not limited
            continue
        told[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
        told[f"x-ratelimit-remaining-{name}"] = str(bucket.remaining)
        told[f"x-ratelimit-reset-{name}"] = length_text(bucket.reset_s)
    return told


def length_text(seconds: float) -> str:
    """A length of time as OpenAI prints it: `6m0s`, `1s`, `250ms`."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1_000)}ms"
    whole = math.ceil(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"


def time_text(at_ns: int | None) -> str | None:
    """ISO 8601 in UTC, to the millisecond."""
    if at_ns is None:
        return None
    whole_s, rest_ns = divmod(at_ns, NS)
    return f"{datetime.fromtimestamp(whole_s, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns // 1_000_000:03d}Z"


def _named(refusal: Refusal) -> tuple[int, str, str | None]:
    """Status, type and code."""
    match refusal:
        case Unauthenticated():
            return 401, "authentication_error", "invalid_api_key"
        case InsufficientFunds():
            return 402, "insufficient_quota", "insufficient_balance"
        case Forbidden():
            return 403, "permission_error", refusal.code
        case UnknownModel():
            return 404, "invalid_request_error", "model_not_found"
        case Unknown() | NoData():
            return 404, "invalid_request_error", "not_found"
        case OtherContent():
            return 422, "invalid_request_error", refusal.code
        case Conflict():
            return 409, "invalid_request_error", refusal.code
        case TooLarge():
            return 413, "invalid_request_error", refusal.code
        case Wrong():
            return 422, "invalid_request_error", refusal.rule
        case Invalid() | Unsupported():
            return 422, "invalid_request_error", refusal.code
        case LimitExceeded():
            return 429, "rate_limit_error", "rate_limit_exceeded"
        case NotConfigured():
            return 503, "api_error", refusal.code
        case TimedOut():
            return 504, "api_error", "upstream_error"
        case Unavailable():
            # Our own store, or somebody whom we ask.
            return (503, "api_error", "unavailable") if refusal.who == "store" else (502, "api_error", "upstream_error")
    return 500, "api_error", "internal_error"
