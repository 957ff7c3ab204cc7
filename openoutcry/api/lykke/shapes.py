"""Lykke's JSON, and the translation into it.

    {"payload":{"orderId":"27be8802-30be-40ca-bf40-ec886b309c5b"},"error":null}
    {"error":{"code":1100,"message":"Asset not found","fields":{"assetId":"Asset not found"}},"payload":null}

Numbers are decimals with all of their digits and never an exponent, times are milliseconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from openoutcry.api.lykke import names
from openoutcry.api.lykke.names import STATUSES, StatusWord
from openoutcry.api.lykke.wire import Said, ms, plain
from openoutcry.clock import NS
from openoutcry.trading import listings, views
from openoutcry.trading.gateway import Placed, Wanted

Number = Annotated[float, msgspec.Meta(description="A decimal with all of its digits", examples=[0.0001])]
Millis = Annotated[int, msgspec.Meta(description="Milliseconds since 1970, UTC", examples=[1592928606187])]
ErrorNumber = Annotated[int, msgspec.Meta(examples=[1100])]


class _Shape(msgspec.Struct, frozen=True, rename="camel"):
    """An object of the contract. Its numbers are what `number` makes."""


class LykkeError(_Shape, frozen=True):
    """Why not. `fields`: what is wrong with which of them."""

    code: ErrorNumber
    message: str
    fields: Mapping[str, str]


class LykkeRefused(_Shape, frozen=True):
    """No, with HTTP status 200."""

    error: LykkeError
    payload: None = None


class LykkeProblem(_Shape, frozen=True):
    """What could not be read, by field."""

    type: str
    title: str
    status: int
    trace_id: str
    errors: Mapping[str, Sequence[str]] | msgspec.UnsetType = msgspec.UNSET
    detail: str | msgspec.UnsetType = msgspec.UNSET


class LykkeAlive(_Shape, frozen=True):
    """Who answers, since when."""

    name: str
    version: str
    env: str
    host_name: str
    is_debug: bool
    started_at: str
    state_indicators: Sequence[str] = ()


class LykkeAsset(_Shape, frozen=True):
    """Something that wallets hold."""

    asset_id: str
    name: str
    symbol: str
    accuracy: int


class LykkeAssetPair(_Shape, frozen=True):
    """What is traded."""

    asset_pair_id: str
    base_asset_id: str
    quote_asset_id: str
    name: str
    price_accuracy: int
    base_asset_accuracy: int
    quote_asset_accuracy: int
    min_volume: Number
    min_opposite_volume: Number


class LykkeLevel(_Shape, frozen=True):
    """A price, and the volume at it: below zero for an ask."""

    v: Number
    p: Number


class LykkeOrderbook(_Shape, frozen=True):
    """The best prices come first."""

    asset_pair_id: str
    timestamp: Millis
    bids: Sequence[LykkeLevel]
    asks: Sequence[LykkeLevel]


class LykkeTicker(_Shape, frozen=True):
    """The last 24 hours; 0 where nobody traded."""

    asset_pair_id: str
    volume_base: Number
    volume_quote: Number
    price_change: Number
    last_price: Number
    high: Number
    low: Number
    timestamp: Millis


class LykkePrice(_Shape, frozen=True):
    """The best bid and ask; 0 where there is none."""

    asset_pair_id: str
    bid: Number
    ask: Number
    timestamp: Millis


class LykkePublicTrade(_Shape, frozen=True):
    """`side` is what the taker did."""

    id: str
    asset_pair_id: str
    timestamp: Millis
    volume: Number
    price: Number
    side: Literal["buy", "sell"]


class LykkeBalance(_Shape, frozen=True):
    """`available` is all that the wallet has, `reserved` what of it rests in orders."""

    asset_id: str
    available: Number
    reserved: Number
    timestamp: Millis


class LykkeOrder(_Shape, frozen=True):
    """`cost` is what was filled, at the order's price."""

    id: str
    timestamp: Millis
    last_trade_timestamp: Millis | None
    status: StatusWord
    asset_pair_id: str
    type: Literal["Limit", "Market"]
    side: Literal["Buy", "Sell"]
    price: Number
    volume: Number
    filled_volume: Number
    remaining_volume: Number
    cost: Number


class LykkeFee(_Shape, frozen=True):
    """What was kept of what the trade brought."""

    size: Number
    asset_id: str


class LykkeTrade(_Shape, frozen=True):
    """One side of a trade."""

    id: str
    timestamp: Millis
    asset_pair_id: str
    order_id: str
    role: Literal["Maker", "Taker"]
    side: Literal["buy", "sell"]
    price: Number
    base_volume: Number
    quote_volume: Number
    base_asset_id: str
    quote_asset_id: str
    fee: LykkeFee | None


class LykkeLimitPlaced(_Shape, frozen=True):
    """A limit order that was placed."""

    order_id: str


class LykkeMarketPlaced(_Shape, frozen=True):
    """A market order that traded, and its average price."""

    order_id: str
    price: Number


class LykkeBulkStatus(_Shape, frozen=True):
    """What became of one order of a bulk: `success`, or the word of an error. The volume of a sell is below zero."""

    id: str
    error: str
    volume: Number
    price: Number


class LykkeBulkPlaced(_Shape, frozen=True):
    """What became of each, in the order of the question."""

    asset_pair_id: str
    error: str
    statuses: Sequence[LykkeBulkStatus]


class LykkeOperation(_Shape, frozen=True):
    """A deposit or a withdrawal."""

    operation_id: str
    asset_id: str
    total_volume: Number
    fee: Number
    type: Literal["deposit", "withdrawal"]
    timestamp: Millis


def _schemas() -> dict[str, Any]:
    shapes = (
        *(LykkeRefused, LykkeProblem, LykkeAlive, LykkeAsset, LykkeAssetPair, LykkeOrderbook, LykkeTicker, LykkePrice),
        *(LykkePublicTrade, LykkeBalance, LykkeOrder, LykkeTrade, LykkeLimitPlaced, LykkeMarketPlaced, LykkeBulkPlaced),
        LykkeOperation,
    )
    _, named = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    return dict(named)


SCHEMAS: Mapping[str, Any] = _schemas()

encode = msgspec.json.Encoder().encode


def ok(payload: Any) -> bytes:
    """A good answer."""
    return b'{"payload":%b,"error":null}' % encode(payload)


def no(error: Said) -> bytes:
    """An answer of no."""
    fields = {} if error.field is None else {error.field: error.text}
    return encode(LykkeRefused(LykkeError(error.number, error.text, fields)))


def number(value: Decimal | None) -> Any:
    """A decimal as the text of a number in JSON; where there is none, 0: the contract's decimals are never null."""
    return _ZERO if value is None else msgspec.Raw(plain(value).encode())


_ZERO: Any = msgspec.Raw(b"0")


def asset(listed: listings.Asset) -> LykkeAsset:
    """An asset."""
    return LykkeAsset(listed.id, listed.name, listed.symbol, listed.accuracy)


def pair(listed: listings.Pair) -> LykkeAssetPair:
    """A pair."""
    return LykkeAssetPair(
        listed.id,
        listed.base,
        listed.quote,
        listed.name,
        listed.price_accuracy,
        listed.base_accuracy,
        listed.quote_accuracy,
        number(listed.volume(listed.lots_min)),
        number(listed.worth(listed.quote_min)),
    )


def books(told: Iterable[views.BookView]) -> bytes:
    """Order books, whole."""
    made = []
    for book in told:
        bids = ",".join([f'{{"v":{plain(v)},"p":{plain(p)}}}' for p, v in book.bids])
        asks = ",".join([f'{{"v":-{plain(v)},"p":{plain(p)}}}' for p, v in book.asks])
        head = f'{{"assetPairId":{encode(book.pair).decode()},"timestamp":{ms(book.at_ns)}'
        made.append(f'{head},"bids":[{bids}],"asks":[{asks}]}}')
    return b'{"payload":[%b],"error":null}' % ",".join(made).encode()


def ticker(told: views.TickerView) -> LykkeTicker:
    """A ticker."""
    return LykkeTicker(
        told.pair,
        number(told.volume_base),
        number(told.volume_quote),
        number(told.change),
        number(told.last),
        number(told.high),
        number(told.low),
        ms(told.at_ns),
    )


def price(told: views.PriceView) -> LykkePrice:
    """The best prices."""
    return LykkePrice(told.pair, number(told.bid), number(told.ask), ms(told.at_ns))


def public_trade(told: views.PublicTradeView) -> LykkePublicTrade:
    """A trade of somebody's."""
    return LykkePublicTrade(
        told.id, told.pair, ms(told.at_ns), number(told.volume), number(told.price), "buy" if told.buys else "sell"
    )


def balance(told: views.BalanceView) -> LykkeBalance:
    """What a wallet has."""
    return LykkeBalance(told.asset, number(told.total), number(told.held), ms(told.at_ns))


def order(told: views.OrderView) -> LykkeOrder:
    """An order of the caller's."""
    return LykkeOrder(
        told.id,
        ms(told.made_ns),
        None if told.traded_ns is None else ms(told.traded_ns),
        STATUSES[told.status],
        told.pair,
        "Market" if told.market else "Limit",
        "Buy" if told.buys else "Sell",
        number(told.price),
        number(told.volume),
        number(told.volume - told.left),
        number(told.left),
        number(told.cost),
    )


def trade(told: views.TradeView) -> LykkeTrade:
    """A trade of the caller's."""
    return LykkeTrade(
        told.id,
        ms(told.at_ns),
        told.pair,
        told.order,
        "Maker" if told.maker else "Taker",
        "buy" if told.buys else "sell",
        number(told.price),
        number(told.base_volume),
        number(told.quote_volume),
        told.base,
        told.quote,
        None if told.fee is None else LykkeFee(number(told.fee), told.fee_asset),
    )


def operation(told: views.OperationView) -> LykkeOperation:
    """A deposit or a withdrawal; nobody keeps a part of it."""
    kind: Literal["deposit", "withdrawal"] = "deposit" if told.amount > 0 else "withdrawal"
    return LykkeOperation(told.id, told.asset, number(abs(told.amount)), _ZERO, kind, ms(told.at_ns))


def bulk(of: str, done: Iterable[tuple[Wanted, Placed]]) -> LykkeBulkPlaced:
    """What became of the orders of a bulk."""
    statuses = [
        LykkeBulkStatus(
            placed.id,
            names.ERRORS[names.SUCCESS if placed.code is None else names.number(placed.code)][0],
            number(placed.volume if wanted.buys else placed.volume.copy_negate()),
            number(placed.price),
        )
        for wanted, placed in done
    ]
    return LykkeBulkPlaced(of, names.ERRORS[names.SUCCESS][0], statuses)


def problem(
    status: int, title: str, request_id: str, detail: str | None, wrong: Mapping[str, Sequence[str]] | None
) -> bytes:
    """A problem document."""
    return encode(
        LykkeProblem(
            "about:blank",
            title,
            status,
            request_id,
            msgspec.UNSET if wrong is None else wrong,
            msgspec.UNSET if detail is None else detail,
        )
    )


def time_text(ns: int) -> str:
    """`2026-04-01T00:00:00Z`."""
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ns // NS):%Y-%m-%dT%H:%M:%SZ}"
