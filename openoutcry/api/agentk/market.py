"""agent-k's candles over HTTP.

    GET /v1/market/ohlcv/BTC?interval=1m&limit=2
    {"v":1,"data":[[1736936340000,100.5,101,100,100.5,12.5],[1736936400000,100.5,102,100.5,101.9,3.25]]}

Rows are ascending, and their numbers the decimals that are stored; the last one may still grow.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from openoutcry.accounts.keys import MARKET
from openoutcry.api.agentk import candles_wire
from openoutcry.api.agentk.candles_wire import MS
from openoutcry.api.agentk.names import INTERVAL_DEFAULT, INTERVALS, Asked, Names
from openoutcry.api.agentk.wire import VERSION, Gate, Keyed, Wrong
from openoutcry.api.dialect import Doors
from openoutcry.api.pages import Pages
from openoutcry.clock import NS
from openoutcry.errors import Unknown
from openoutcry.events import Candle
from openoutcry.market.coins import printable
from openoutcry.market.market import Candles

TAG = "Candles and streams"
LIMIT_DEFAULT, LIMIT_MAX = 100, 1_000
# The last millisecond that fits 64 bits in nanoseconds; whoever names a later one means "for ever".
MS_MAX = 9_223_372_036_000
MS_DIGITS_MAX = 16
# Queries that are remembered as they were written, for those who ask the same again and again.
QUESTIONS_MAX = 1_000
QUESTION_BYTES_MAX = 200

_HEAD = b'{"v":%d,"data":[' % VERSION
_FOOT = b"]}"


class _Plain(APIRoute):
    """A route whose function reads the request itself: FastAPI describes it, and solves nothing for each request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[..., Coroutine[Any, Any, Response]] = self.endpoint

        async def handler(request: Request) -> Response:
            return await endpoint(request.path_params["symbol"], request)

        return handler


class _KeyedPlain(Keyed, _Plain):
    """The same, with what is left of the caller's limits."""


class _Question(msgspec.Struct, frozen=True):
    """What a query asks; bounds in milliseconds, both inclusive."""

    interval: str
    limit: int
    from_ms: int | None
    to_ms: int | None


def router(doors: Doors, gate: Gate) -> APIRouter:
    """/v1/market."""
    routes = APIRouter(prefix="/v1/market", tags=[TAG], route_class=_KeyedPlain)
    ohlcv = _Ohlcv(doors)

    @routes.get(
        "/ohlcv/{symbol:path}",
        summary="Candles, oldest first; the last one may still grow",
        responses=_RESPONSES,
        openapi_extra={"parameters": _PARAMETERS, "security": _LOCKS},
    )
    async def candles(symbol: str, request: Request) -> Response:
        await gate.caller(request, MARKET)
        return await ohlcv.answer(symbol, request)

    return routes


class _Ohlcv:
    """Answers from memory where the newest rows are asked for and at hand."""

    def __init__(self, doors: Doors) -> None:
        self._market = doors.market
        self._names = Names(doors.market, doors.agentk.venue)
        self._pages = Pages(_HEAD, _FOOT)
        self._questions: dict[bytes, _Question] = {}

    async def answer(self, symbol: str, request: Request) -> Response:
        question = self._question(request)
        asked = await self._names.ask_for(symbol, question.interval)
        if question.from_ms is None and question.to_ms is None:
            found = self._market.newest(asked.instrument.name, asked.interval_s, question.limit)
            if found is not None and (found[0] or found[1]):
                packed = _packs(request)
                series = (asked.instrument.name, asked.interval_s)
                body = self._pages.body(series, candles_wire.row, *found, question.limit, packed=packed)
                return _json(body, _PACKED if packed else None)
        told = await self._candles(asked, question)
        if not told.rows:
            raise Unknown(f"there are no candles of {asked.symbol} {asked.interval} in that stretch")
        headers = None
        if told.missing:
            missing = candles_wire.missing_text(asked.instrument, asked.interval, told.missing)
            headers = {"Openoutcry-Coverage": missing}
        return _json(_HEAD + candles_wire.rows(told.rows)[1:-1] + _FOOT, headers)

    async def _candles(self, asked: Asked, question: _Question) -> Candles:
        """From a start on the first; else, and where more fit between both bounds than may be told, the newest."""
        start_ns = None if question.from_ms is None else question.from_ms * MS
        end_ns = None if question.to_ms is None else question.to_ms * MS + 1
        limit = question.limit
        if start_ns is None or end_ns is None or end_ns - start_ns <= limit * asked.interval_s * NS:
            return await self._market.candles(
                asked.instrument, asked.interval_s, limit=limit, start_ns=start_ns, end_ns=end_ns
            )
        told = await self._market.candles(asked.instrument, asked.interval_s, limit=limit, end_ns=end_ns)
        return _since(told, start_ns)

    def _question(self, request: Request) -> _Question:
        """Raises Wrong."""
        raw: bytes = request.scope["query_string"]
        known = self._questions.get(raw)
        if known is None:
            known = _read(request.query_params)
            if len(raw) <= QUESTION_BYTES_MAX:
                if len(self._questions) >= QUESTIONS_MAX:
                    self._questions.clear()
                self._questions[raw] = known
        return known


def _read(query: Mapping[str, str]) -> _Question:
    interval = query.get("interval", INTERVAL_DEFAULT)
    if interval not in INTERVALS:
        raise Wrong(f"interval '{printable(interval[:16])}' is not one of {' '.join(INTERVALS)}", "interval")
    limit = query.get("limit", str(LIMIT_DEFAULT))
    # A text of a thousand digits is no number that anybody should read.
    if not (limit.isascii() and limit.isdigit() and len(limit) <= MS_DIGITS_MAX and 1 <= int(limit) <= LIMIT_MAX):
        raise Wrong(f"limit is a whole number from 1 to {LIMIT_MAX}", "limit")
    from_ms, to_ms = _millis(query, "from"), _millis(query, "to")
    if from_ms is not None and to_ms is not None and from_ms > to_ms:
        raise Wrong("from lies after to", "from")
    return _Question(interval, int(limit), from_ms, to_ms)


def _millis(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MS_DIGITS_MAX):
        raise Wrong(f"{name} is a time in milliseconds since 1970 UTC", name)
    return min(int(text), MS_MAX)


def _since(told: Candles, start_ns: int) -> Candles:
    rows: Sequence[Candle] = [row for row in told.rows if row.open_ns >= start_ns]
    missing = [(max(low_ns, start_ns), high_ns) for low_ns, high_ns in told.missing if high_ns > start_ns]
    return Candles(rows, missing)


_PACKED = {"content-encoding": "gzip", "vary": "Accept-Encoding"}


def _packs(request: Request) -> bool:
    for name, value in request.scope["headers"]:
        if name == b"accept-encoding":
            return b"gzip" in value and b"gzip;q=0" not in value.replace(b" ", b"")
    return False


def _json(body: bytes, headers: Mapping[str, str] | None) -> Response:
    return Response(body, 200, headers, media_type="application/json")


def _parameter(name: str, about: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": about, "schema": dict(schema)}


# The names under which rest.py describes them.
_LOCKS: list[dict[str, list[str]]] = [{"account": []}, {"account_key": []}]
_TIME = {"type": "integer", "minimum": 0}
_PARAMETERS = [
    {
        "name": "symbol",
        "in": "path",
        "required": True,
        "description": "BTC, btc, BTCUSDT, BTC-USD or BTC/USDT",
        "schema": {"type": "string", "examples": ["BTC"]},
    },
    _parameter("interval", "Length of a candle", {"type": "string", "enum": list(INTERVALS), "default": "1h"}),
    _parameter(
        "limit", "Rows at most", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT}
    ),
    _parameter("from", "Milliseconds since 1970 UTC, inclusive: the first rows from there, without `to`", _TIME),
    _parameter("to", "Milliseconds since 1970 UTC, inclusive: the newest rows before it", _TIME),
]
_ROW = {
    "type": "array",
    "minItems": 6,
    "maxItems": 6,
    "items": {"type": "number"},
    "description": "Open time in ms, open, high, low, close, volume in base coins",
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "OK. Openoutcry-Coverage names stretches that nobody has.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["v", "data"],
                    "properties": {"v": {"const": VERSION}, "data": {"type": "array", "items": _ROW}},
                }
            }
        },
    },
    **{
        status: {"description": text}
        for status, text in {
            401: "No credential, or a wrong one",
            404: "No such symbol, or no candles of it in that stretch",
            422: "A value is out of range",
            429: "Too many requests",
            502: "The venue does not answer",
        }.items()
    },
}
