"""TAKASHI over HTTP: one function a route, which parses, asks a door, renders."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from openoutcry.accounts.keys import MARKET
from openoutcry.api.credentials import credential
from openoutcry.api.dialect import Doors, Scope, Service
from openoutcry.api.takashi import wire
from openoutcry.api.takashi.names import (
    EXCHANGES,
    INTERVALS,
    PERIODS,
    PUBLISHED,
    SYMBOL_CHARS_MAX,
    Asked,
    ask_for,
    exchange_of,
    seconds_of,
)
from openoutcry.api.takashi.proxy import Proxy
from openoutcry.api.takashi.ws import Streams
from openoutcry.errors import (
    BadRange,
    Forbidden,
    OutOfReach,
    Refusal,
    Unavailable,
    Unknown,
    UnknownInstrument,
    Unsupported,
)
from openoutcry.market.market import Candles
from openoutcry.venues.venue import Feed
from openoutcry.venues.venue import Query as Question

TITLE = "TAKASHI Multi-Exchange Market Data API"
VERSION = "1.0.0"
LIMIT_DEFAULT = 500
LIMIT_MAX = 1_500
NAMES_MAX = 10_000
TAGS = (
    {"name": "System", "description": "What this server is, how it is, what it streams"},
    {"name": "Market Data", "description": "Candles, open interest, funding, for each exchange and for all at once"},
    {"name": "Binance Proxy", "description": "Binance's own answers, untouched, for pages in a browser"},
    {"name": "External APIs", "description": "CoinMarketCap's own answers, with this server's key"},
)

_BINANCE_SYMBOL = re.compile(r"[A-Z0-9_]{2,30}")


def _answers(schema: Any, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer, for OpenAPI: the shape of 200, and each refusal by name."""
    says = {
        404: "Exchange, symbol, feature or path not found",
        429: "Too many requests; Retry-After says when to come back",
        500: "Fault of this server, or a setting it lacks",
        503: "The exchange does not answer; the text names it",
    }
    made: dict[int | str, dict[str, Any]] = {
        200: {"description": "OK", "content": {"application/json": {"schema": schema}}},
        422: {"description": "The question is malformed", "content": _content("Malformed")},
    }
    made |= {status: {"description": says[status], "content": _content("Refused")} for status in (*statuses, 429, 500)}
    return made


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(name)}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(name: str) -> dict[str, Any]:
    return {"type": "array", "items": _ref(name)}


_ANYTHING: dict[str, Any] = {"description": "As the source sends it"}

Exchange = Annotated[str, Path(description="Any case", json_schema_extra={"enum": list(EXCHANGES)})]
Symbol = Annotated[
    str, Path(examples=["BTCUSDT"], description="BTCUSDT; on Hyperliquid also BTC, on OKX BTC-USDT-SWAP")
]
Interval = Annotated[str, Path(json_schema_extra={"enum": list(INTERVALS)})]
Period = Annotated[str, Query(json_schema_extra={"enum": list(PERIODS)})]
Millis = Annotated[int | None, Query(description="Milliseconds since 1970 UTC, inclusive")]


class Takashi:
    """The dialect: every path that no other dialect claims is its own."""

    name = "takashi"
    prefixes: Sequence[str] = ("/",)
    title = TITLE
    version = VERSION
    tags: Sequence[Mapping[str, str]] = TAGS
    schemas = wire.SCHEMAS

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._market = doors.market
        self._pages = wire.Pages()
        self._streams = Streams(doors)
        self._proxy = Proxy(doors)
        # Exchange and symbol as written, for the hot answer: what they turned out to mean.
        self._names: dict[tuple[str, str], Asked] = {}

    # What the app asks of a dialect

    def sockets(self) -> Sequence[WebSocketRoute]:
        """The streams."""
        return self._streams.routes()

    def services(self) -> Sequence[Service]:
        """None: TAKASHI has no gRPC."""
        return ()

    def hot(self, scope: Scope, *, packed: bool) -> bytes | None:
        """Newest candles that are in memory: `/{exchange}/ohlc/{symbol}/{interval}` with nothing but a good limit."""
        parts = scope["path"].split("/")
        if len(parts) != 5 or parts[2] != "ohlc" or scope["method"] != "GET":
            return None
        asked = self._names.get((parts[1], parts[3]))
        interval_s = INTERVALS.get(parts[4])
        limit = _plain_limit(scope["query_string"])
        if asked is None or interval_s is None or limit is None:
            return None
        if self._doors.takashi_locked and not self._opens(credential(scope)):
            return None  # the ordinary way says why
        return self._newest(asked, parts[4], interval_s, limit, packed=packed)

    def refuse(self, refusal: Refusal) -> Response:
        """{"detail": …}"""
        return wire.refuse(refusal)

    def malformed(self, error: RequestValidationError) -> Response:
        """FastAPI's own list of what is wrong."""
        return wire.detail(422, jsonable_encoder(error.errors()))

    def lost(self, request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
        """404 with the path, as published clients know it; 405 and others with their words."""
        if status == 404:
            return wire.json(wire.encode({"detail": "Not found", "path": str(request.url)}), 404)
        return wire.detail(status, detail, headers)

    def broken(self) -> Response:
        """500."""
        return wire.detail(500, "Internal server error")

    # Routes

    def rest(self) -> APIRouter:
        """Every route of the published page, the fixed paths before the patterns that would take them."""
        router = APIRouter()
        self._system(router)
        data = APIRouter()
        if self._doors.takashi_locked:
            says = {401: "The key is missing or unknown", 403: f"The key lacks the scope `{MARKET}`"}
            refused: dict[int | str, dict[str, Any]] = {
                status: {"description": text, "content": _content("Refused")} for status, text in says.items()
            }
            data = APIRouter(dependencies=[Depends(self._admitted)], responses=refused)
        self._aggregated(data)
        self._per_exchange(data)
        self._proxies(data)
        router.include_router(data)
        return router

    async def _admitted(self, request: Request) -> None:
        """Raises Unauthenticated, Forbidden."""
        record = self._doors.keys.authenticate(credential(request.scope))
        if MARKET not in record.scopes:
            raise Forbidden(f"the key lacks the scope {MARKET}")

    def _opens(self, text: str | None) -> bool:
        record = None if text is None else self._doors.keys.known(text)
        return record is not None and MARKET in record.scopes

    def _system(self, router: APIRouter) -> None:
        @router.get("/", tags=["System"], summary="What this is", responses=_answers({"type": "object"}))
        async def root() -> Response:
            about = {"name": TITLE, "version": VERSION, "status": "operational", "docs": "/docs"}
            return wire.json(wire.encode({**about, "exchanges": self._served()}))

        @router.get(
            "/health", tags=["System"], summary="Which exchanges deliver", responses=_answers({"type": "object"})
        )
        async def health() -> Response:
            states = self._market.venues()
            alive = {}
            for exchange in self._served():
                state = states.get(EXCHANGES[exchange])
                alive[exchange] = state is not None and state.alive
            status = "healthy" if all(alive.values()) else "degraded"
            return wire.json(wire.encode({"status": status, "exchanges": alive}))

        @router.get("/exchanges", tags=["System"], summary="What each can do", responses=_answers({"type": "object"}))
        async def exchanges() -> Response:
            can = [{"name": e, "capabilities": self._capabilities(e)} for e in self._served() if self._is_on(e)]
            return wire.json(wire.encode({"exchanges": can}))

        @router.get("/ws-catalog", tags=["System"], summary="What is streamed", responses=_answers({"type": "object"}))
        async def catalog() -> Response:
            return wire.json(wire.encode(self._streams.catalog()))

    def _aggregated(self, router: APIRouter) -> None:
        each = {exchange: _list("OHLC") for exchange in PUBLISHED}

        @router.get(
            "/multi/ohlc/{symbol}/{interval}",
            tags=["Market Data"],
            summary="Candles of all exchanges at once; those that fail are named in X-Failed-Exchanges",
            responses=_answers({"type": "object", "properties": each, "required": list(each)}, 404, 503),
        )
        async def multi(
            symbol: Symbol,
            interval: Interval,
            limit: Annotated[int, Query(ge=1, le=1000)] = 200,
            start_time: Millis = None,
            end_time: Millis = None,
        ) -> Response:
            interval_s = seconds_of(interval, INTERVALS)
            span = _span(start_time, end_time)
            return await self._multi(symbol, interval, interval_s, limit, span)

        @router.get(
            "/hyperliquid/predicted-funding",
            tags=["Market Data"],
            summary="Predicted funding rates across venues",
            responses=_answers(_list("CoinFunding"), 503),
        )
        async def predicted(
            coin: Annotated[str | None, Query(description="Any case", examples=["BTC"])] = None,
        ) -> Response:
            events = await self._market.predicted_funding(EXCHANGES["hyperliquid"])
            return wire.json(wire.encode(wire.predicted_funding(events, coin)))

    def _per_exchange(self, router: APIRouter) -> None:
        data: dict[str, Any] = {"tags": ["Market Data"]}

        @router.get(
            "/{exchange}/ohlc/{symbol}/{interval}",
            summary="Candles, oldest first",
            responses=_answers(_list("OHLC"), 404, 503),
            **data,
        )
        async def ohlc(
            exchange: Exchange,
            symbol: Symbol,
            interval: Interval,
            limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT,
            start_time: Millis = None,
            end_time: Millis = None,
        ) -> Response:
            known = self._exchange(exchange)
            interval_s = seconds_of(interval, INTERVALS)
            span = _span(start_time, end_time)
            asked = await self._ask_for(known, symbol)
            self._remember(exchange, symbol, asked)
            if span == (None, None):
                body = self._newest(asked, interval, interval_s, limit)
                if body is not None:
                    return wire.json(body)
            found = await self._candles(asked, interval_s, limit, span)
            return wire.json(wire.ohlc_list(asked, interval, found.rows), headers=_missing(found))

        @router.get(
            "/{exchange}/oi/{symbol}",
            summary="Open interest now",
            responses=_answers(_ref("Interest"), 404, 503),
            **data,
        )
        async def oi(exchange: Exchange, symbol: Symbol) -> Response:
            asked = await self._ask_for(self._exchange(exchange), symbol)
            return wire.json(wire.encode(wire.interest(asked, await self._market.open_interest(asked.instrument))))

        @router.get(
            "/{exchange}/oi-hist/{symbol}",
            summary="Open interest history, oldest first; Binance only",
            responses=_answers(_list("Interest"), 404, 503),
            **data,
        )
        async def oi_hist(
            exchange: Exchange,
            symbol: Symbol,
            period: Period = "5m",
            limit: Annotated[int, Query(ge=1, le=500)] = 30,
        ) -> Response:
            known = self._exchange(exchange)
            if known != "binance":
                raise Unsupported(f"{known} has no open interest history here: only binance has")
            period_s = seconds_of(period, PERIODS, "period")
            asked = await self._ask_for(known, symbol)
            rows = await self._market.open_interest_history(asked.instrument, period_s, limit=limit)
            return wire.json(wire.encode([wire.interest(asked, row) for row in rows]))

        @router.get(
            "/{exchange}/funding/{symbol}",
            summary="Funding rate of the running period",
            responses=_answers(_ref("Funding"), 404, 503),
            **data,
        )
        async def funding(exchange: Exchange, symbol: Symbol) -> Response:
            asked = await self._ask_for(self._exchange(exchange), symbol)
            return wire.json(wire.encode(wire.running_funding(asked, await self._market.funding(asked.instrument))))

        @router.get(
            "/{exchange}/funding-hist/{symbol}",
            summary="Settled funding rates, oldest first",
            responses=_answers(_list("Funding"), 404, 503),
            **data,
        )
        async def funding_hist(
            exchange: Exchange, symbol: Symbol, limit: Annotated[int, Query(ge=1, le=1000)] = 100
        ) -> Response:
            asked = await self._ask_for(self._exchange(exchange), symbol)
            rows = await self._market.funding_history(asked.instrument, limit=limit)
            return wire.json(wire.encode([wire.settled_funding(asked, row) for row in rows]))

    def _proxies(self, router: APIRouter) -> None:
        binance: dict[str, Any] = {"tags": ["Binance Proxy"], "responses": _answers(_ANYTHING, 404, 503)}
        external: dict[str, Any] = {"tags": ["External APIs"], "responses": _answers(_ANYTHING, 503)}

        @router.get("/binance/tickers/24hr", summary="24 h tickers of all symbols", **binance)
        async def tickers() -> Response:
            return await self._proxy.binance("/fapi/v1/ticker/24hr", (), 40)

        @router.get("/binance/mark-prices", summary="Mark prices and funding of all symbols", **binance)
        async def mark_prices() -> Response:
            return await self._proxy.binance("/fapi/v1/premiumIndex", (), 10)

        @router.get("/binance/klines/{symbol}/{interval}", summary="Candles as Binance sends them", **binance)
        async def klines(
            symbol: Symbol,
            interval: Interval,
            limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT,
            start_time: Annotated[int | None, Query(alias="startTime")] = None,
            end_time: Annotated[int | None, Query(alias="endTime")] = None,
        ) -> Response:
            name = symbol.upper()
            if not _BINANCE_SYMBOL.fullmatch(name):
                raise UnknownInstrument(f"binance has no symbol '{symbol[:SYMBOL_CHARS_MAX]}'")
            seconds_of(interval, INTERVALS)  # ours are the fifteen that Binance has
            _span(start_time, end_time)
            query = [("symbol", name), ("interval", interval), ("limit", str(limit))]
            query += [(k, str(v)) for k, v in (("startTime", start_time), ("endTime", end_time)) if v is not None]
            weight = 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1_000 else 10
            return await self._proxy.binance("/fapi/v1/klines", query, weight)

        @router.get("/coinmarketcap/categories", summary="Categories of coins", **external)
        async def categories(
            start: Annotated[int, Query(ge=1)] = 1, limit: Annotated[int, Query(ge=1, le=5000)] = 100
        ) -> Response:
            query = [("start", str(start)), ("limit", str(limit))]
            return await self._proxy.coinmarketcap("/v1/cryptocurrency/categories", query)

        @router.get("/coinmarketcap/category", summary="Coins of one category", **external)
        async def category(
            id: Annotated[str, Query(max_length=64)],  # noqa: A002  the published name of the parameter
            start: Annotated[int, Query(ge=1)] = 1,
            limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        ) -> Response:
            query = [("id", id), ("start", str(start)), ("limit", str(limit))]
            return await self._proxy.coinmarketcap("/v1/cryptocurrency/category", query)

    # Asking the doors

    def _served(self) -> list[str]:
        """The published three, on or off, and what else is on."""
        return [e for e in EXCHANGES if e in PUBLISHED or self._is_on(e)]

    def _is_on(self, exchange: str) -> bool:
        return EXCHANGES[exchange] in self._market.venues()

    def _exchange(self, text: str) -> str:
        exchange = exchange_of(text)
        if not self._is_on(exchange):
            raise Unavailable(EXCHANGES[exchange], "it is switched off on this server")
        return exchange

    def _capabilities(self, exchange: str) -> dict[str, bool]:
        venue = EXCHANGES[exchange]
        feeds, questions = self._market.feeds(venue), self._market.queries(venue)
        return {
            "ohlc": Question.CANDLES in questions,
            "funding_rate": Question.FUNDING in questions or Feed.FUNDING in feeds,
            "open_interest": Question.OPEN_INTEREST in questions or Feed.OPEN_INTEREST in feeds,
            "liquidations": Feed.LIQUIDATIONS in feeds,
            "large_trades": Feed.TRADES in feeds,
        }

    async def _ask_for(self, exchange: str, symbol: str) -> Asked:
        return await ask_for(self._market, exchange, symbol)

    def _remember(self, exchange: str, symbol: str, asked: Asked) -> None:
        if len(self._names) >= NAMES_MAX:
            self._names.clear()
        self._names[exchange, symbol] = asked

    def _newest(
        self, asked: Asked, interval: str, interval_s: int, limit: int, *, packed: bool = False
    ) -> bytes | None:
        found = self._market.newest(asked.instrument.name, interval_s, limit)
        return None if found is None else self._pages.body(asked, interval, *found, limit, packed=packed)

    async def _candles(self, asked: Asked, interval_s: int, limit: int, span: tuple[int | None, int | None]) -> Candles:
        start_ns, end_ns = span
        return await self._market.candles(asked.instrument, interval_s, limit=limit, start_ns=start_ns, end_ns=end_ns)

    async def _multi(
        self, symbol: str, interval: str, interval_s: int, limit: int, span: tuple[int | None, int | None]
    ) -> Response:
        async def one(exchange: str) -> bytes | Refusal:
            try:
                asked = await self._ask_for(self._exchange(exchange), symbol)
                if exchange == "hyperliquid":
                    asked = Asked(exchange, asked.instrument.symbol, asked.instrument)
                found = await self._candles(asked, interval_s, limit, span)
            except (Unknown, Unavailable) as refusal:
                return refusal
            return wire.ohlc_list(asked, interval, found.rows)

        answers = dict(zip(PUBLISHED, await asyncio.gather(*map(one, PUBLISHED)), strict=True))
        bodies = {e: a if isinstance(a, bytes) else b"[]" for e, a in answers.items()}
        failed = {e: a for e, a in answers.items() if isinstance(a, Unavailable) and not isinstance(a, OutOfReach)}
        if not any(isinstance(a, bytes) for a in answers.values()):
            if failed:
                return wire.detail(503, "; ".join(map(wire.text_of, failed.values())))
            raise UnknownInstrument(f"no exchange has the symbol '{symbol[:SYMBOL_CHARS_MAX]}'")
        body = b"{" + b",".join(b'"%b":%b' % (e.encode(), rows) for e, rows in bodies.items()) + b"}"
        return wire.json(body, headers={"X-Failed-Exchanges": ",".join(failed)} if failed else None)


def _span(start_ms: int | None, end_ms: int | None) -> tuple[int | None, int | None]:
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise BadRange("the start lies after the end")
    return wire.bounds_ns(start_ms, end_ms)


def _missing(found: Candles) -> dict[str, str] | None:
    return {"X-Missing": wire.missing_text(found.missing)} if found.missing else None


def _plain_limit(query: bytes) -> int | None:
    """The limit of a query that has nothing else in it; None where the ordinary way should judge."""
    if not query:
        return LIMIT_DEFAULT
    if query.startswith(b"limit=") and len(query) <= 10 and query[6:].isdigit():
        limit = int(query[6:])
        return limit if 1 <= limit <= LIMIT_MAX else None
    return None
