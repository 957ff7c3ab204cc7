"""Lykke's HFT API over HTTP: our own exchange. A key opens the wallet of its account; what concerns no wallet needs no key.

An error of the API is an answer with status 200. What cannot be read is 400 with a problem document; a key that is not good,
or may not trade, is 401 without a body.
"""

import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, WebSocketRoute
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from openoutcry import __version__
from openoutcry.accounts.keys import TRADE
from openoutcry.api.credentials import credential
from openoutcry.api.dialect import REQUEST_ID, Doors, Scope, Service
from openoutcry.api.lykke import names, rpc, shapes, swagger, wire
from openoutcry.api.lykke.query import Body, Query, Unbound
from openoutcry.errors import Forbidden, LimitExceeded, NotConfigured, Refusal, TooLarge, Unauthenticated
from openoutcry.orders import CancelMode
from openoutcry.trading.gateway import OrderGateway, Wanted

TITLE = "Lykke HFT"
VERSION = "v2"
DOCUMENT = "/api/v2/swagger.json"
ID_CHARACTERS_MAX = 100
# Of one order, all are told.
ORDER_TRADES_AT_ONCE = wire.TAKE_MAX

_LIMIT = ("assetPairId", "side", "volume", "price")
_MARKET = ("assetPairId", "side", "volume")
_BULK = ("assetPairId", "cancelPreviousOrders", "cancelMode", "orders")
_ITEM = ("orderAction", "volume", "price", "oldId")
_WITHDRAWAL = ("assetId", "volume", "destinationAddress", "destinationAddressExtension")
_OFF_CHAIN = "This exchange is on no chain: its operator deposits and withdraws"
_NOTHING = shapes.ok(None)
# What a problem document says of a status.
_TITLES: Mapping[int, str] = {
    400: "One or more validation errors occurred.",
    405: "Method not allowed",
    413: "Payload too large",
    429: "Too many requests",
}


PREFIXES = (
    *("/api/assets", "/api/assetpairs", "/api/orderbooks", "/api/tickers", "/api/prices", "/api/trades"),
    *("/api/balance", "/api/orders", "/api/operations", "/api/isalive", "/api/v2/"),
)


class Lykke:
    """The dialect."""

    name = "lykke"
    prefixes: Sequence[str] = PREFIXES
    title = TITLE
    version = VERSION
    tags: Sequence[Mapping[str, str]] = (
        {"name": swagger.PUBLIC, "description": "Our own exchange, as everybody sees it"},
        {"name": swagger.PRIVATE, "description": "The wallet of an account: its balances, orders and trades"},
    )
    schemas: Mapping[str, Any] = shapes.SCHEMAS

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._started = shapes.time_text(doors.clock.now_ns())

    # What the app asks of a dialect

    def sockets(self) -> Sequence[WebSocketRoute]:
        """None: its streams are gRPC's."""
        return ()

    def services(self) -> Sequence[Service]:
        """Its gRPC side."""
        return rpc.services(self._doors)

    def hot(self, scope: Scope, *, packed: bool) -> bytes | None:
        """None: what rests changes with each order."""
        del scope, packed
        return None

    def refuse(self, refusal: Refusal) -> Response:
        """{"error": …, "payload": null}, or the status that the contract has instead."""
        if isinstance(refusal, Unbound):
            return _Problem(400, wrong=refusal.wrong)
        if isinstance(refusal, Unauthenticated | Forbidden):
            # Clients know 401 alone for a key: ccxt takes 403 for an exchange that is away, and asks again.
            lacks = f' error="insufficient_scope", scope="{TRADE}"' if isinstance(refusal, Forbidden) else ""
            return Response(status_code=401, headers={"WWW-Authenticate": f"Bearer{lacks}"})
        if isinstance(refusal, LimitExceeded):
            return _Problem(429, refusal.text, {"Retry-After": str(max(1, math.ceil(refusal.retry_s)))})
        if isinstance(refusal, TooLarge):
            return _Problem(413, refusal.text)
        said = wire.said(refusal)
        return self.broken() if said is None else _json(shapes.no(said))

    def malformed(self, error: RequestValidationError) -> Response:
        """400. Queries and bodies are read by `query`; this is for what FastAPI reads before a route is called."""
        return _Problem(400, wrong={"": [str(each.get("msg")) for each in error.errors()]})

    def lost(self, request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
        """404 for a path and 405 for a method, without a body; 413 for a body."""
        del request
        if status in (404, 405):
            return Response(status_code=status, headers=headers)
        return _Problem(status, detail, headers)

    def broken(self) -> Response:
        """500."""
        error = wire.Said(names.RUNTIME_ERROR, names.ERRORS[names.RUNTIME_ERROR][1])
        return _json(shapes.no(error), 500)

    # Routes

    def rest(self) -> APIRouter:
        """Every route of the contract, and the document that describes them."""
        acts: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
            "alive": self._alive,
            "assets": self._assets,
            "asset": self._asset,
            "pairs": self._pairs,
            "pair": self._pair,
            "books": self._books,
            "tickers": self._tickers,
            "prices": self._prices,
            "public_trades": self._public_trades,
            "balances": self._balances,
            "active": self._active,
            "closed": self._closed,
            "order": self._order,
            "limit": self._limit,
            "market": self._market,
            "bulk": self._bulk,
            "cancel_all": self._cancel_all,
            "cancel": self._cancel,
            "trades": self._trades,
            "order_trades": self._order_trades,
            "operations": self._operations,
            "addresses": self._addresses,
            "make_addresses": self._addresses,
            "address": self._address,
            "withdraw": self._withdraw,
        }
        router = _Own(route_class=_Plain)
        locks = [Security(HTTPBearer(scheme_name="wallet", auto_error=False))]
        # They are tried one by one: orders come first.
        for route in sorted(swagger.ROUTES, key=lambda route: route.method != "POST"):
            router.add_api_route(
                route.path,
                acts[route.name],
                methods=[route.method],
                name=route.name,
                tags=[swagger.PRIVATE if route.keyed else swagger.PUBLIC],
                summary=route.summary,
                dependencies=locks if route.keyed else (),
                responses=swagger.answers(route),
                openapi_extra=swagger.described(route),
            )
        document = get_openapi(
            title=TITLE, version=VERSION, routes=router.routes, tags=[dict(tag) for tag in self.tags]
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(self.schemas)
        described = shapes.encode(document)

        @router.get(DOCUMENT, include_in_schema=False)
        async def swagger_document(request: Request) -> Response:
            del request
            return _json(described)

        return router

    # -- what everybody sees

    async def _alive(self, request: Request) -> Response:
        del request
        alive = shapes.LykkeAlive("openoutcry", __version__, "", "", is_debug=False, started_at=self._started)
        return _json(shapes.encode(alive))

    async def _assets(self, request: Request) -> Response:
        del request
        return _payload(map(shapes.asset, self._gateway.listings.assets.values()))

    async def _asset(self, request: Request) -> Response:
        asset = self._gateway.listings.assets.get(request.path_params["assetId"])
        if asset is None:
            raise wire.asset_missing()
        return _json(shapes.ok(shapes.asset(asset)))

    async def _pairs(self, request: Request) -> Response:
        del request
        return _payload(map(shapes.pair, self._gateway.listings.pairs.values()))

    async def _pair(self, request: Request) -> Response:
        pair = self._gateway.listings.pairs.get(request.path_params["assetPairId"])
        if pair is None:
            raise wire.pair_missing()
        return _json(shapes.ok(shapes.pair(pair)))

    async def _books(self, request: Request) -> Response:
        query = _query(request)
        depth = query.whole("depth", 0)
        query.end()
        views = self._gateway.views
        pair = query.text("assetPairId")
        pairs = self._gateway.listings.pairs if pair is None else (pair,)
        return _json(shapes.books(views.book(each, depth) for each in pairs))

    async def _tickers(self, request: Request) -> Response:
        ticker = self._gateway.views.ticker
        return _payload(shapes.ticker(ticker(pair)) for pair in self._chosen(request))

    async def _prices(self, request: Request) -> Response:
        price = self._gateway.views.price
        return _payload(shapes.price(price(pair)) for pair in self._chosen(request))

    async def _public_trades(self, request: Request) -> Response:
        offset, take = _page(_query(request))
        found = await self._gateway.public_trades(request.path_params["assetPairId"], offset, take)
        return _payload(map(shapes.public_trade, found))

    # -- what a wallet sees

    async def _balances(self, request: Request) -> Response:
        wallet = await self._wallet(request)
        return _payload(map(shapes.balance, self._gateway.views.balances(wallet)))

    async def _active(self, request: Request) -> Response:
        return await self._orders(request, active=True)

    async def _closed(self, request: Request) -> Response:
        return await self._orders(request, active=False)

    async def _orders(self, request: Request, *, active: bool) -> Response:
        wallet = await self._wallet(request)
        query = _query(request)
        offset, take = _page(query)
        pair = query.text("assetPairId")
        found = await self._gateway.orders(wallet, pair, active=active, offset=offset, limit=take)
        return _payload(map(shapes.order, found))

    async def _order(self, request: Request) -> Response:
        wallet = await self._wallet(request)
        id_ = request.path_params["orderId"]
        order = await self._gateway.order(wallet, id_) if _can_be(id_) else None
        if order is None:
            raise wire.order_missing(id_)
        return _json(shapes.ok(shapes.order(order)))

    async def _trades(self, request: Request) -> Response:
        wallet = await self._wallet(request)
        query = _query(request)
        buys, after_ns, until_ns = query.buys("side"), query.ns("from"), query.ns("to")
        offset, take = _page(query)
        found = await self._gateway.trades(
            wallet,
            pair=query.text("assetPairId"),
            buys=buys,
            after_ns=after_ns,
            until_ns=until_ns,
            offset=offset,
            limit=take,
        )
        return _payload(map(shapes.trade, found))

    async def _order_trades(self, request: Request) -> Response:
        wallet = await self._wallet(request)
        id_ = request.path_params["orderId"]
        told: list[shapes.LykkeTrade] = []
        while _can_be(id_):
            page = await self._gateway.trades(wallet, order=id_, offset=len(told), limit=ORDER_TRADES_AT_ONCE)
            told += map(shapes.trade, page)
            if len(page) < ORDER_TRADES_AT_ONCE:
                break
        return _payload(told)

    # -- what a wallet does

    async def _limit(self, request: Request) -> Response:
        wallet = await self._wallet(request)
        body = Body(await request.body(), _LIMIT)
        pair, buys = body.text("assetPairId", needed=True), body.buys("side")
        volume, price = body.decimal("volume"), body.decimal("price")
        body.end()
        assert pair is not None
        id_ = await self._gateway.limit(wallet, pair, buys=buys, volume=volume, price=price)
        return _json(shapes.ok(shapes.LykkeLimitPlaced(id_)))

    async def _market(self, request: Request) -> Response:
        wallet = await self._wallet(request)
        body = Body(await request.body(), _MARKET)
        pair, buys, volume = body.text("assetPairId", needed=True), body.buys("side"), body.decimal("volume")
        body.end()
        assert pair is not None
        id_, price = await self._gateway.market(wallet, pair, buys=buys, volume=volume)
        return _json(shapes.ok(shapes.LykkeMarketPlaced(id_, shapes.number(price))))

    async def _bulk(self, request: Request) -> Response:
        wallet = await self._wallet(request)
        body = Body(await request.body(), _BULK)
        pair = body.text("assetPairId", needed=True)
        cancels, mode = body.flag("cancelPreviousOrders"), body.mode("cancelMode")
        items = [
            Wanted(row.buys("orderAction"), row.decimal("volume"), row.decimal("price"), row.text("oldId"))
            for row in body.rows("orders", _ITEM)
        ]
        body.end()
        assert pair is not None
        cancel = (mode or CancelMode.NOT_EMPTY_SIDE) if cancels else None
        done = await self._gateway.bulk(wallet, pair, items, cancel)
        return _json(shapes.ok(shapes.bulk(pair, zip(items, done, strict=True))))

    async def _cancel_all(self, request: Request) -> Response:
        wallet = await self._wallet(request)
        query = _query(request)
        buys = query.buys("side")
        query.end()
        await self._gateway.cancel_all(wallet, query.text("assetPairId"), buys)
        return _json(_NOTHING)

    async def _cancel(self, request: Request) -> Response:
        wallet = await self._wallet(request)
        id_ = request.path_params["orderId"]
        if not _can_be(id_):
            raise wire.not_active()
        await self._gateway.cancel(wallet, id_)
        return _json(_NOTHING)

    # -- what comes in and goes out

    async def _operations(self, request: Request) -> Response:
        wallet = await self._wallet(request)
        offset, take = _page(_query(request))
        found = await self._gateway.operations(wallet, offset, take)
        return _payload(map(shapes.operation, found))

    async def _addresses(self, request: Request) -> Response:
        await self._wallet(request)
        raise wire.No(names.ACTION_FORBIDDEN, _OFF_CHAIN)

    async def _address(self, request: Request) -> Response:
        await self._wallet(request)
        if request.path_params["assetId"] not in self._gateway.listings.assets:
            raise wire.asset_missing()
        raise wire.No(names.ACTION_FORBIDDEN, _OFF_CHAIN)

    async def _withdraw(self, request: Request) -> Response:
        """Its id (X-Request-ID) is good again after a no: nothing was done under it, and the answer stays the same."""
        await self._wallet(request)
        body = Body(await request.body(), _WITHDRAWAL)
        asset, volume = body.text("assetId", needed=True), body.decimal("volume")
        body.text("destinationAddress", needed=True)
        body.text("destinationAddressExtension")
        body.end()
        if volume <= 0:
            raise wire.No(names.INVALID_FIELD, "volume cannot be less than zero.", "volume")
        if asset not in self._gateway.listings.assets:
            raise wire.asset_missing()
        raise wire.No(names.ACTION_FORBIDDEN, _OFF_CHAIN)

    # -- parts

    @property
    def _gateway(self) -> OrderGateway:
        """Raises NotConfigured."""
        if self._doors.gateway is None:
            raise NotConfigured("this server has no exchange")
        return self._doors.gateway

    async def _wallet(self, request: Request) -> str:
        """Whose wallet is meant. Raises Unauthenticated, Forbidden."""
        if self._doors.callers is None:
            raise Unauthenticated("this server has no accounts")
        caller = await self._doors.callers.caller(credential(request.scope), TRADE)
        if caller.account is None:
            raise Forbidden("the key is of no account, and so of no wallet")
        return caller.account.id

    def _chosen(self, request: Request) -> Iterable[str]:
        """The pairs that are named, in the order of the listings; all of them where none is."""
        pairs = self._gateway.listings.pairs
        named = {each.lower() for each in _query(request).texts("assetPairIds")}
        return [pair for pair in pairs if pair.lower() in named] if named else pairs


class _Own(APIRouter):
    """Looks at its routes where the path may be one of theirs: each takes its time."""

    def matches(self, scope: AsgiScope) -> tuple[Match, AsgiScope]:
        if not scope["path"].startswith(PREFIXES):
            return Match.NONE, {}
        return super().matches(scope)


class _Plain(APIRoute):
    """A route whose function reads the request itself: FastAPI describes it, and solves nothing for each request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        act: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return act


class _Problem(Response):
    """What could not be read, or why it was not; the id of its request is known once it is sent."""

    def __init__(
        self,
        status: int,
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        wrong: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(None, status)
        self._detail, self._more, self._wrong = detail, headers, wrong

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Say it."""
        body = shapes.problem(
            self.status_code,
            _TITLES.get(self.status_code, "Bad request"),
            scope.get(REQUEST_ID, ""),
            self._detail,
            self._wrong,
        )
        answer = Response(body, self.status_code, self._more, media_type="application/problem+json")
        await answer(scope, receive, send)


def _query(request: Request) -> Query:
    return Query(request.scope["query_string"])


def _page(query: Query) -> tuple[int, int]:
    """How many are passed over, and how many told. Raises Unbound for all that is wrong with the query."""
    offset, take = query.whole("offset", 0), query.whole("take", wire.TAKE_DEFAULT)
    query.end()
    return offset, take


def _can_be(id_: str) -> bool:
    """Whether an order may have that id: no store is asked for what none has."""
    return len(id_) <= ID_CHARACTERS_MAX and id_.isascii() and id_.isprintable()


def _payload(rows: Iterable[Any]) -> Response:
    return _json(shapes.ok(list(rows)))


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")
