"""Kiyotaka over HTTP: one function a route. Parse, ask, render."""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
import msgspec
from fastapi import APIRouter, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from openoutcry.api.dialect import Doors, Scope, Service
from openoutcry.api.kiyotaka import contract, fill, pages, query, swagger, wire
from openoutcry.api.kiyotaka.catalogue import Catalogue
from openoutcry.api.kiyotaka.meta import FIELDS, Meta
from openoutcry.api.kiyotaka.points import Part, Points, missing_text
from openoutcry.api.kiyotaka.rpc import COVERAGE, QUERY_S_MAX, Rpc
from openoutcry.api.kiyotaka.shapes import Shape
from openoutcry.api.kiyotaka.ws import Sockets
from openoutcry.errors import LimitExceeded, Refusal, TooLarge, Unavailable
from openoutcry.events import open_of
from openoutcry.market.columnar import Told
from openoutcry.market.latest import Bounded

QUESTIONS_KEPT = 2_000
QUERY_BYTES_KEPT = 1_000
TAG = "Points"
_REFERENCES = "#/components/schemas/"
_Code = grpc.StatusCode
_SAYS: Mapping[int, str] = {
    400: "A parameter is malformed, or the answer would hold more than 50,000 points",
    401: "The key is missing or unknown",
    403: "The key lacks the scope `market`",
    429: "Too many requests; Retry-After says when to come back",
    500: "Fault of this server",
    503: "The store does not answer",
    504: "The answer took more than 30 s",
}
_UNPRINTABLE = re.compile(r"[^ -~]")


class Kiyotaka:
    """The dialect: points over gRPC, REST and JSON-RPC. `query_s_max`: a question over REST takes no longer."""

    name = "kiyotaka"
    prefixes: Sequence[str] = ("/v1/", "/v2/", "/docs/", "/swagger/", "/proto/")
    title = "Points"
    version = "1.0"
    tags: Sequence[Mapping[str, str]] = ({"name": TAG, "description": "Market data as points of series"},)

    def __init__(self, doors: Doors, *, query_s_max: float = QUERY_S_MAX) -> None:
        self._doors, self._query_s_max = doors, query_s_max
        self.schemas: Mapping[str, Any] = swagger.schemas(_REFERENCES)
        self._catalogue = Catalogue(doors.market, doors.exchanges, doors.clock)
        self.points = Points(doors, self._catalogue)
        self.meta = Meta(self._catalogue)
        self._shapes = {name: Shape(name) for name in query.SHAPES}
        self._questions: Bounded[bytes, tuple[wire.Question, query.Options]] = Bounded(QUESTIONS_KEPT)
        self._rpc = Rpc(doors, self.points, self.meta)
        self._sockets = Sockets(doors, self.points, self.meta, self._shapes["proto"], self.refuse)

    # What the app asks of a dialect

    def services(self) -> Sequence[Service]:
        """`api.API`."""
        return (
            Service(contract.SERVICE, self._rpc.add, tuple(file.SerializeToString() for file in contract.FILES.file)),
        )

    def hot(self, scope: Scope, *, packed: bool) -> bytes | None:
        """None: every answer here needs a key."""
        del scope, packed
        return None

    def sockets(self) -> Sequence[WebSocketRoute]:
        """The JSON-RPC socket."""
        return self._sockets.routes()

    def refuse(self, refusal: Refusal) -> Response:
        """No, in grpc-gateway's form."""
        retry_s = refusal.retry_s if isinstance(refusal, LimitExceeded | Unavailable) else None
        headers = {} if retry_s is None else {"Retry-After": str(max(1, math.ceil(retry_s)))}
        return _no(wire.status_of(refusal), refusal.text, headers)

    def malformed(self, error: RequestValidationError) -> Response:
        """400. Queries are read by `query`; this is for what FastAPI reads before a route is called."""
        return _no(_Code.INVALID_ARGUMENT, "; ".join(str(each.get("msg")) for each in error.errors()))

    def lost(self, request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
        """404 for paths, and 405 for methods that are not GET."""
        if status == 404:
            return _no(_Code.NOT_FOUND, f"there is nothing at {request.url.path}")
        if status == 405:
            text = f"{request.method} is not served here: {', '.join(_allowed(headers))} is"
            return _no(_Code.UNIMPLEMENTED, text, headers, status)
        return _no(_Code.INVALID_ARGUMENT, detail, headers, status)

    def broken(self) -> Response:
        """500."""
        return _no(_Code.INTERNAL, "internal error")

    # Routes

    def rest(self) -> APIRouter:
        """The seven routes of the contract, and the pages."""
        router = APIRouter()
        key = Security(APIKeyHeader(name=wire.KEY, scheme_name="key", auto_error=False))
        for route in swagger.routes():
            if route.path is not None:
                answer = self._points if route.method == "GetPoints" else partial(self._meta, route.method)
                router.add_api_route(
                    route.path,
                    self._within(answer),
                    operation_id=f"API_{route.method}",
                    tags=[TAG],
                    summary=route.text,
                    responses=_answers(route),
                    openapi_extra={"parameters": _parameters(route)},
                    dependencies=[key],
                )
        pages.add(router)
        return router

    def _within(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The same, or 504."""

        async def route(request: Request) -> Response:
            try:
                async with asyncio.timeout(self._query_s_max):
                    return await answer(request)
            except TimeoutError:
                return _no(_Code.DEADLINE_EXCEEDED, f"the answer took more than {self._query_s_max:g} s: ask for less")

        return route

    async def _points(self, request: Request) -> Response:
        self._admit(request)
        asked, options = self._asked(request.scope["query_string"])
        parts = self.points.at_hand(asked)
        if parts is None:
            parts = await self.points.get(asked)
        headers = _coverage(parts)
        if options.fills:
            parts = await self._filled(asked, parts)
        shape = self._shapes[options.shape or self._doors.points_shape]
        told = [
            shape.series(part.piece, _spelt(shape, part, newest_first=options.newest_first))
            for part in parts
            if part.told.rows
        ]
        return _json(shape.response(told), 200, headers)

    async def _meta(self, method: str, request: Request) -> Response:
        self._admit(request)
        asked, options = query.read(contract.PointMetaRequest, request.scope["query_string"])
        answer = await self.meta.answer(method, wire.meta_question(asked))
        shape = self._shapes[options.shape or self._doors.points_shape]
        return _json(shape.meta(FIELDS[method], answer))

    def _admit(self, request: Request) -> None:
        wire.admitted(self._doors.keys, request.headers.get(wire.KEY))

    def _asked(self, text: bytes) -> tuple[wire.Question, query.Options]:
        known = self._questions.get(text)
        if known is None:
            message, options = query.read(contract.PointRequest, text)
            known = (wire.question(message), options)
            if len(text) <= QUERY_BYTES_KEPT:
                self._questions.put(text, known)
        return known

    async def _filled(self, asked: wire.Question, parts: Sequence[Part]) -> Sequence[Part]:
        """Also what is known to be empty, in series that are made of buckets of something that happens."""
        told = {part.piece.identity: part.told for part in parts}
        found: list[Part] = []
        rows = 0
        for piece in await self._catalogue.pieces(asked):
            each = told.get(piece.identity, Told(()))
            key = piece.key
            if key.of in fill.FILLED:
                start_ns, end_ns = self.points.stretch(asked, piece)
                end_ns = min(end_ns, open_of(self._doors.clock.now_ns(), key.interval_s))
                coverage = self._doors.market.coverage(key)
                empties = fill.empties(key, each, coverage, start_ns, end_ns)
                if empties is None or rows + each.rows + sum(map(len, empties)) > wire.POINTS_MAX:
                    raise TooLarge(
                        f"filled, the window holds more than {wire.POINTS_MAX} points: ask for a shorter one"
                    )
                before = partial(self._doors.market.columnar.between, piece.instrument, key)
                each = await fill.filled(key, each, empties, coverage, before)
            rows += each.rows
            found.append(Part(piece, each))
        return found


def _spelt(shape: Shape, part: Part, *, newest_first: bool) -> list[bytes]:
    piece, told = part.piece, part.told
    if newest_first:
        rows = [shape.row(piece, row) for row in reversed(told.tail)]
        return rows + [shape.backwards(piece, cut) for cut in reversed(told.cuts)]
    return [*(shape.cut(piece, cut) for cut in told.cuts), *(shape.row(piece, row) for row in told.tail)]


def _coverage(parts: Sequence[Part]) -> dict[str, str]:
    missing = missing_text(parts)
    return {COVERAGE: _UNPRINTABLE.sub("?", f"missing {missing}")} if missing else {}


def _no(status: grpc.StatusCode, text: str, headers: Mapping[str, str] | None = None, http: int = 0) -> Response:
    said = {"code": status.value[0], "message": text, "details": [], "error": wire.WORD_OF[status]}
    return _json(msgspec.json.encode(said), http or wire.HTTP_OF[status], headers)


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


def _allowed(headers: Mapping[str, str]) -> Sequence[str]:
    return [text.strip() for name, value in headers.items() if name.lower() == "allow" for text in value.split(",")]


def _answers(route: swagger.Route) -> dict[int | str, dict[str, Any]]:
    """What a route may answer, for OpenAPI."""
    shown = {"application/json": {"schema": {"$ref": f"{_REFERENCES}{swagger.name_of(route.answers)}"}}}
    no = {"application/json": {"schema": {"$ref": f"{_REFERENCES}{swagger.REFUSED}"}}}
    made: dict[int | str, dict[str, Any]] = {200: {"description": "OK", "content": shown}}
    return made | {status: {"description": says, "content": no} for status, says in _SAYS.items()}


def _parameters(route: swagger.Route) -> list[dict[str, Any]]:
    """The parameters of a route, for OpenAPI: the fields of its request, and how it is to be answered."""
    shown: list[dict[str, Any]] = []
    for name, text, repeated, schema in swagger.parameters(route.asks):
        one = {key: value for key, value in schema.items() if key != "default"}
        shown.append(_parameter(name, text, {"type": "array", "items": one} if repeated else one))
    shape = {"type": "string", "enum": list(query.SHAPES)}
    shown.append(_parameter("shape", "Shape of the answer; else the one that this server is set to.", shape))
    if route.method == "GetPoints":
        order = {"type": "string", "enum": [query.ASCENDING, query.DESCENDING]}
        shown += [
            _parameter("sortDirection", "Order of the points of a series; oldest first unless told.", order),
            _parameter("gapfill", "Also tell what is known to be empty.", {"type": "boolean"}),
        ]
    return shown


def _parameter(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema} | ({"description": text} if text else {})
