"""Lykke's routes as OpenAPI describes them: one line each, with what may be asked and what is answered."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from openoutcry.api.lykke.names import CANCEL_MODES
from openoutcry.api.lykke.wire import TAKE_DEFAULT, TAKE_MAX

PUBLIC, PRIVATE = "Lykke, public", "Lykke, private"

_TEXT: Mapping[str, Any] = {"type": "string"}
_NUMBER: Mapping[str, Any] = {"type": "number"}
_SIDE: Mapping[str, Any] = {**_TEXT, "enum": ["buy", "sell"]}
_Parameter = dict[str, Any]


def _asked(name: str, text: str, **schema: Any) -> _Parameter:
    return {"name": name, "in": "query", "description": text, "schema": schema or dict(_TEXT)}


def _of(name: str) -> _Parameter:
    return {"name": name, "in": "path", "required": True, "schema": dict(_TEXT)}


_PAIR = _asked("assetPairId", "Of this pair only")
_PAIRS = _asked("assetPairIds", "Of these pairs only, in any case", type="array", items=dict(_TEXT))
_SIDE_ASKED = _asked("side", "Of this side only, in any case", **_SIDE)
_PAGE = (
    _asked("offset", "So many are passed over", type="integer", minimum=0, default=0),
    _asked("take", "So many at most", type="integer", minimum=0, maximum=TAKE_MAX, default=TAKE_DEFAULT),
)
_FROM = _asked("from", "Milliseconds, exclusive", type="integer")
_TO = _asked("to", "Milliseconds, inclusive", type="integer")


class Route(msgspec.Struct, frozen=True):
    """A route. `answers`: the shape of its payload, `many` of them or one, or nothing; `bare`: without the envelope.

    `body`: the members of a body, those first that are `needed`.
    """

    name: str
    method: str
    path: str
    summary: str
    answers: str | None
    parameters: Sequence[_Parameter] = ()
    many: bool = False
    bare: bool = False
    keyed: bool = True
    body: Mapping[str, Mapping[str, Any]] | None = None
    needed: Sequence[str] = ()


def _order(**members: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return {"assetPairId": _TEXT, **members}


# The first that fits serves: `/api/orders/active` is no id.
ROUTES: Sequence[Route] = (
    Route("alive", "GET", "/api/isalive", "Who answers, since when", "LykkeAlive", bare=True, keyed=False),
    Route("assets", "GET", "/api/assets", "Assets", "LykkeAsset", many=True, keyed=False),
    Route("asset", "GET", "/api/assets/{assetId}", "An asset", "LykkeAsset", (_of("assetId"),), keyed=False),
    Route("pairs", "GET", "/api/assetpairs", "Pairs", "LykkeAssetPair", many=True, keyed=False),
    Route(
        "pair", "GET", "/api/assetpairs/{assetPairId}", "A pair", "LykkeAssetPair", (_of("assetPairId"),), keyed=False
    ),
    Route(
        "books",
        "GET",
        "/api/orderbooks",
        "Order books; the volumes of asks are below zero",
        "LykkeOrderbook",
        (_PAIR, _asked("depth", "Prices of each side; 0 or less: all", type="integer", default=0)),
        many=True,
        keyed=False,
    ),
    Route("tickers", "GET", "/api/tickers", "The last 24 hours", "LykkeTicker", (_PAIRS,), many=True, keyed=False),
    Route("prices", "GET", "/api/prices", "The best bid and ask", "LykkePrice", (_PAIRS,), many=True, keyed=False),
    Route(
        "public_trades",
        "GET",
        "/api/trades/public/{assetPairId}",
        "Trades of a pair, newest first",
        "LykkePublicTrade",
        (_of("assetPairId"), *_PAGE),
        many=True,
        keyed=False,
    ),
    Route("balances", "GET", "/api/balance", "What the wallet has", "LykkeBalance", many=True),
    Route(
        "active",
        "GET",
        "/api/orders/active",
        "Orders that rest, newest first",
        "LykkeOrder",
        (_PAIR, *_PAGE),
        many=True,
    ),
    Route(
        "closed",
        "GET",
        "/api/orders/closed",
        "Orders that are over, newest first",
        "LykkeOrder",
        (_PAIR, *_PAGE),
        many=True,
    ),
    Route("order", "GET", "/api/orders/{orderId}", "An order", "LykkeOrder", (_of("orderId"),)),
    Route(
        "limit",
        "POST",
        "/api/orders/limit",
        "Place a limit order",
        "LykkeLimitPlaced",
        body=_order(side=_SIDE, volume=_NUMBER, price=_NUMBER),
        needed=("assetPairId",),
    ),
    Route(
        "market",
        "POST",
        "/api/orders/market",
        "Trade now, all of it or nothing",
        "LykkeMarketPlaced",
        body=_order(side=_SIDE, volume=_NUMBER),
        needed=("assetPairId",),
    ),
    Route(
        "bulk",
        "POST",
        "/api/orders/bulk",
        "Cancel and place limit orders as one",
        "LykkeBulkPlaced",
        body=_order(
            cancelPreviousOrders={"type": "boolean", "default": False},
            cancelMode={**_TEXT, "enum": list(CANCEL_MODES), "nullable": True},
            orders={
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "orderAction": dict(_SIDE),
                        "volume": dict(_NUMBER),
                        "price": dict(_NUMBER),
                        "oldId": {**_TEXT, "nullable": True},
                    },
                },
            },
        ),
        needed=("assetPairId",),
    ),
    Route("cancel_all", "DELETE", "/api/orders", "Cancel all orders that fit", None, (_PAIR, _SIDE_ASKED)),
    Route("cancel", "DELETE", "/api/orders/{orderId}", "Cancel an order", None, (_of("orderId"),)),
    Route(
        "trades",
        "GET",
        "/api/trades",
        "The wallet's trades, newest first",
        "LykkeTrade",
        (_PAIR, _SIDE_ASKED, *_PAGE, _FROM, _TO),
        many=True,
    ),
    Route(
        "order_trades",
        "GET",
        "/api/trades/order/{orderId}",
        "Trades of an order, newest first",
        "LykkeTrade",
        (_of("orderId"),),
        many=True,
    ),
    Route(
        "operations",
        "GET",
        "/api/operations",
        "Deposits and withdrawals, newest first",
        "LykkeOperation",
        _PAGE,
        many=True,
    ),
    Route(
        "addresses",
        "GET",
        "/api/operations/deposits/addresses",
        "Refused: nothing here is on a chain",
        None,
    ),
    Route("make_addresses", "POST", "/api/operations/deposits/addresses", "Refused, as above", None),
    Route(
        "address",
        "GET",
        "/api/operations/deposits/addresses/{assetId}",
        "Refused, as above",
        None,
        (_of("assetId"),),
    ),
    Route(
        "withdraw",
        "POST",
        "/api/operations/withdrawals",
        "Refused, as above",
        None,
        ({"name": "X-Request-ID", "in": "header", "schema": dict(_TEXT)},),
        body={"assetId": _TEXT, "volume": _NUMBER, "destinationAddress": _TEXT, "destinationAddressExtension": _TEXT},
        needed=("assetId", "destinationAddress"),
    ),
)


def answers(route: Route) -> dict[int | str, dict[str, Any]]:
    """What a route may answer."""
    payload: dict[str, Any] = {"nullable": True} if route.answers is None else _schema(route.answers)
    if route.many:
        payload = {"type": "array", "items": payload}
    if not route.bare:
        error = {"type": "object", "nullable": True}
        payload = {
            "anyOf": [
                {"type": "object", "properties": {"payload": payload, "error": error}},
                _schema("LykkeRefused"),
            ]
        }
    problem = {"application/problem+json": {"schema": _schema("LykkeProblem")}}
    made: dict[int | str, dict[str, Any]] = {
        200: {"description": "Done, or why not", "content": {"application/json": {"schema": payload}}},
        400: {"description": "The question cannot be read", "content": problem},
        429: {"description": "Too many questions; Retry-After says when to come back", "content": problem},
    }
    if route.keyed:
        made[401] = {"description": "No key that is good; or it lacks the scope `trade`, or is of no account"}
    return made


def described(route: Route) -> dict[str, Any]:
    """What a route may be asked."""
    told: dict[str, Any] = {"parameters": list(route.parameters)}
    if route.body is not None:
        shape = {
            "type": "object",
            "required": list(route.needed),
            "additionalProperties": False,
            "properties": {name: dict(member) for name, member in route.body.items()},
        }
        told["requestBody"] = {"required": True, "content": {"application/json": {"schema": shape}}}
    return told


def _schema(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
