"""What Kiyotaka's callers ask, as questions of ours; and no, in the contract's way.

The request messages are the same over gRPC, REST and JSON-RPC; what cannot be asked is refused here, for all three.
"""

from collections.abc import Iterable, Mapping

import grpc
import msgspec

from openoutcry import errors
from openoutcry.accounts.keys import MARKET, KeyRecord, Keys
from openoutcry.api.kiyotaka import contract, names
from openoutcry.clock import NS
from openoutcry.events import Side

KEY = "x-kiyotaka-key"
POINTS_MAX = 50_000
# Values of one field; more than there are symbols on any venue.
VALUES_MAX = 5_000
# Timestamps are 32 bits of seconds: the year 2106.
TIME_S_END = 2**32


class Filter(msgspec.Struct, frozen=True):
    """Values of one field are alternatives, fields narrow each other, an empty field does not. Numbers as the contract's."""

    exchanges: frozenset[int]
    categories: frozenset[int]
    coins: frozenset[str]
    raw_symbols: frozenset[str]
    normalized_symbols: frozenset[str]

    @property
    def outright(self) -> bool:
        """Whether it names instruments, and not a part of all there is."""
        return bool(self.exchanges) and bool(self.raw_symbols or self.normalized_symbols)


class Question(msgspec.Struct, frozen=True):
    """PointRequest. `start_s` or `length_s` are None where they were not given; `side` None is both."""

    sorts: tuple[names.Sort, ...]
    where: Filter
    side: Side | None
    interval_s: int
    start_s: int | None
    length_s: int | None

    def window(self, now_ns: int) -> tuple[int, int | None] | None:
        """[start, end) in ns; end None where only a start was given; None where neither was."""
        if self.start_s is not None:
            start_ns = self.start_s * NS
            return start_ns, None if self.length_s is None else start_ns + self.length_s * NS
        return None if self.length_s is None else (now_ns - self.length_s * NS, None)


class MetaQuestion(msgspec.Struct, frozen=True):
    """PointMetaRequest: what has points in [start_ns, end_ns)."""

    sorts: frozenset[int]
    where: Filter
    start_ns: int
    end_ns: int


def question(request: contract.Message) -> Question:
    """What a PointRequest asks. Raises Invalid, naming the field."""
    types = _known("type", request.type, names.SORTS, contract.TYPES)
    if not types:
        raise errors.Invalid("type is missing: name at least one, such as TRADE_SIDE_AGNOSTIC_AGG")
    sorts = tuple(names.SORTS[number] for number in dict.fromkeys(types))
    interval_s = 0
    if request.interval:
        interval_s = names.INTERVAL_OF.get(request.interval, 0)
        if not interval_s:
            raise errors.Invalid(f"interval {request.interval} is none of {', '.join(list(contract.INTERVALS)[1:])}")
    elif any(sort.interval for sort in sorts):
        named = ", ".join(sort.name for sort in sorts if sort.interval)
        raise errors.Invalid(f"interval is missing: {named} needs one, such as MINUTE or HOUR")
    if request.side and request.side not in names.SIDE_OF:
        raise errors.Invalid(f"side {request.side} is none of SELL, BUY")
    start_s, length_s = getattr(request, "from"), request.period
    _times(("from", start_s), ("period", length_s))
    if start_s + length_s >= TIME_S_END:
        raise errors.BadRange(f"from + period must stay below {TIME_S_END} (the year 2106)")
    return Question(
        sorts, _filter(request), names.SIDE_OF.get(request.side), interval_s, start_s or None, length_s or None
    )


def meta_question(request: contract.Message) -> MetaQuestion:
    """What a PointMetaRequest asks. Raises Invalid, naming the field."""
    types = _known("type", request.type, names.SORTS, contract.TYPES)
    start_s, end_s = getattr(request, "from"), request.to
    _times(("from", start_s), ("to", end_s))
    if end_s and end_s <= start_s:
        raise errors.BadRange("from must lie before to")
    end_s = end_s or TIME_S_END
    return MetaQuestion(frozenset(types), _filter(request), start_s * NS, end_s * NS)


def admitted(keys: Keys, text: str | None) -> KeyRecord:
    """Whose key it is. Raises Unauthenticated; Forbidden where it is not for market data."""
    record = keys.authenticate(text)
    if MARKET not in record.scopes:
        raise errors.Forbidden(f"the key lacks the scope {MARKET}")
    return record


def _filter(request: contract.Message) -> Filter:
    exchanges = _known("exchange", request.exchange, contract.EXCHANGES.values(), contract.EXCHANGES)
    categories = _known("category", request.category, contract.CATEGORIES.values(), contract.CATEGORIES)
    return Filter(
        frozenset(exchanges),
        frozenset(categories),
        _texts("coin", (text.upper() for text in request.coin)),
        _texts("rawSymbol", request.rawSymbol),
        _texts("normalizedSymbol", (text.upper() for text in request.normalizedSymbol)),
    )


def _known(field: str, numbers: Iterable[int], known: Iterable[int], enum: Mapping[str, int]) -> list[int]:
    """The values of a repeated enum without 0, which says nothing. Raises Invalid for one that the contract lacks."""
    given = [number for number in numbers if number]
    if len(given) > VALUES_MAX:
        raise errors.Invalid(f"{field} holds more than {VALUES_MAX} values")
    allowed = set(known)
    strange = next((number for number in given if number not in allowed), None)
    if strange is not None:
        shown = list(enum)[1:12]
        raise errors.Invalid(f"{field} {strange} is not in the contract; there are {', '.join(shown)}, …")
    return given


def _texts(field: str, texts: Iterable[str]) -> frozenset[str]:
    given = frozenset(text for text in texts if text)
    if len(given) > VALUES_MAX:
        raise errors.Invalid(f"{field} holds more than {VALUES_MAX} values")
    return given


def _times(*given: tuple[str, int]) -> None:
    for field, seconds in given:
        if not 0 <= seconds < TIME_S_END:
            raise errors.BadRange(f"{field} must be Unix seconds from 0 to {TIME_S_END - 1}, not {seconds}")


def status_of(refusal: errors.Refusal) -> grpc.StatusCode:
    """The gRPC status of a refusal."""
    return next(code for kind, code in _STATUSES.items() if isinstance(refusal, kind))


HTTP_OF: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.INTERNAL: 500,
}
# The word beside a status in bodies of errors.
WORD_OF: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_PARAMS",
    grpc.StatusCode.UNAUTHENTICATED: "INVALID_API_KEY",
    grpc.StatusCode.PERMISSION_DENIED: "FORBIDDEN",
    grpc.StatusCode.NOT_FOUND: "NOT_FOUND",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "RATE_LIMITED",
    grpc.StatusCode.UNIMPLEMENTED: "NOT_IMPLEMENTED",
    grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "TIMEOUT",
    grpc.StatusCode.INTERNAL: "INTERNAL_ERROR",
}
_STATUSES: Mapping[type[errors.Refusal], grpc.StatusCode] = {
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unknown: grpc.StatusCode.NOT_FOUND,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.Refusal: grpc.StatusCode.UNAVAILABLE,
}
