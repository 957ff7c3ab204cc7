"""The three gRPC services: bytes in, bytes out. What is wrong with a question is told in the answer, as the contract has it.

A caller whose key is not good, who is too fast, or whose stream is of no pair ends with a status: those have no answer.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import grpc
import structlog

from openoutcry import __version__, errors
from openoutcry.accounts.callers import Caller
from openoutcry.accounts.keys import TRADE
from openoutcry.accounts.rates import network
from openoutcry.api.dialect import Doors, Service
from openoutcry.api.lykke import contract, encode, names, shapes, wire
from openoutcry.api.lykke.contract import Message
from openoutcry.api.lykke.streams import STALLED_S_MAX, Balances, Books, Box, Each, Newest, Once, Stop, Streams
from openoutcry.api.rpc import address
from openoutcry.clock import NS
from openoutcry.errors import Invalid, LimitExceeded, Refusal, Unauthenticated
from openoutcry.orders import CancelMode
from openoutcry.trading.gateway import OrderGateway, Wanted
from openoutcry.trading.risk import decimal

AUTHORIZATION = "authorization"
# Of one order's trades, which are all told, so many are read at once.
ORDER_TRADES_AT_ONCE = 1_000
NS_MAX = 2**63 - 1
# What an order may be called, and what none is.
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)
NOBODYS = "-"

log = structlog.get_logger()

_V = TypeVar("_V")
_Context = Any
_Call = Callable[[bytes, _Context], Awaitable[Any]]
_MODES: Mapping[int, CancelMode] = {contract.CANCEL_MODES[word]: mode for word, mode in names.CANCEL_MODES.items()}
_SIDES: Mapping[int, bool] = {contract.SIDES[word]: buys for word, buys in names.SIDES.items()}
_STATUSES: Mapping[type[Refusal], grpc.StatusCode] = {
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.NotConfigured: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unknown: grpc.StatusCode.NOT_FOUND,
}
_STATUSES_OF_NUMBERS: Mapping[int, grpc.StatusCode] = {
    names.ITEM_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    names.INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    names.ME_RUNTIME: grpc.StatusCode.UNAVAILABLE,
}


def services(doors: Doors, *, stalled_s: float = STALLED_S_MAX) -> Sequence[Service]:
    """What a server with an exchange serves. A client that takes nothing of a stream for `stalled_s` is let go."""
    if doors.gateway is None:
        return ()
    rpc = Rpc(doors, doors.gateway, stalled_s)
    return tuple(
        Service(name, partial(rpc.add, name), contract.described(name), rpc.leave)
        for name in (contract.MONITORING, contract.PUBLIC, contract.PRIVATE)
    )


class Rpc:
    """The methods of the services."""

    def __init__(self, doors: Doors, gateway: OrderGateway, stalled_s: float) -> None:
        self._doors = doors
        self._gateway = gateway
        self._views = gateway.views
        self._streams = Streams(
            doors.clock,
            doors.telemetry,
            ping_s=doors.lykke.ping_s,
            of_caller_max=doors.lykke.streams_a_key_max,
            stalled_s=stalled_s,
        )
        self._started = shapes.time_text(doors.clock.now_ns())
        self._calls = doors.telemetry.counter(
            "grpc_calls", "Calls answered, by method and status", ("method", "status")
        )
        # Made once for all who follow.
        self._book, self._price, self._ticker = Once(encode.book), Once(encode.price), Once(encode.ticker)
        self._public, self._trades, self._orders = Once(encode.public_trades), Once(encode.trades), Once(encode.orders)
        self._methods: Mapping[str, Mapping[str, Callable[..., Any]]] = {
            contract.MONITORING: {"IsAlive": self._is_alive},
            contract.PUBLIC: {
                "GetAssetPairs": self._get_asset_pairs,
                "GetAssetPair": self._get_asset_pair,
                "GetAssets": self._get_assets,
                "GetAsset": self._get_asset,
                "GetOrderbooks": self._get_orderbooks,
                "GetTickers": self._get_tickers,
                "GetPrices": self._get_prices,
                "GetPublicTrades": self._get_public_trades,
                "GetPriceUpdates": self._get_price_updates,
                "GetTickerUpdates": self._get_ticker_updates,
                "GetOrderbookUpdates": self._get_orderbook_updates,
                "GetPublicTradeUpdates": self._get_public_trade_updates,
            },
            contract.PRIVATE: {
                "GetBalances": self._get_balances,
                "PlaceLimitOrder": self._place_limit_order,
                "PlaceBulkLimitOrder": self._place_bulk_limit_order,
                "PlaceMarketOrder": self._place_market_order,
                "GetOrder": self._get_order,
                "GetActiveOrders": partial(self._get_orders, active=True),
                "GetClosedOrders": partial(self._get_orders, active=False),
                "CancelAllOrders": self._cancel_all_orders,
                "CancelOrder": self._cancel_order,
                "GetTrades": self._get_trades,
                "GetOrderTrades": self._get_order_trades,
                "GetOperationsHistory": self._get_operations_history,
                "CreateDepositAddresses": self._no_addresses,
                "GetDepositAddress": self._get_deposit_address,
                "GetDepositAddresses": self._no_addresses,
                "CreateWithdrawal": self._create_withdrawal,
                "GetBalanceUpdates": self._get_balance_updates,
                "GetOrderUpdates": self._get_order_updates,
                "GetTradeUpdates": self._get_trade_updates,
            },
        }

    def add(self, service: str, server: grpc.aio.Server) -> None:
        """Register one of the services."""
        handlers = {}
        for method in contract.POOL.FindServiceByName(service).methods:
            act = self._methods[service][method.name]
            keyed = service == contract.PRIVATE
            question = contract.message(method.input_type.full_name)
            if method.server_streaming:
                call = self._told(method.name, self._streaming(act, question, keyed=keyed))
                handlers[method.name] = grpc.unary_stream_rpc_method_handler(call)
            else:
                answer = contract.message(method.output_type.full_name)
                call = self._told(method.name, self._answering(method.name, act, question, answer, keyed=keyed))
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(call)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    def leave(self) -> None:
        """End the streams: the server goes."""
        self._streams.leave()

    # -- who calls, and what becomes of a call

    def _answering(
        self,
        method: str,
        act: Callable[..., Awaitable[Message]],
        question: type[Message],
        answer: type[Message],
        *,
        keyed: bool,
    ) -> _Call:
        """A call that is answered once, with an error where the answer has a place for one."""
        errs = "error" in answer.DESCRIPTOR.fields_by_name
        broken = _error(names.RUNTIME_ERROR, names.ERRORS[names.RUNTIME_ERROR][1])

        async def call(request: bytes, context: _Context) -> bytes:
            if keyed:
                who = _wallet(await self._caller(context))
            else:
                who = ""
                self._doors.admission.request(address(context.peer()))
            try:
                asked = _parsed(question, request)
                told = await (act(asked, who) if keyed else act(asked))
            except Refusal as e:
                said = wire.said(e) if errs else None
                if said is None:
                    raise
                told = answer(error=_error(said.number, said.text))
            except Exception:  # our own fault: nobody outside hears more of it than that
                if not errs:
                    raise
                log.exception("call failed", method=method)
                told = answer(error=broken)
            encoded: bytes = told.SerializeToString()
            return encoded

        return call

    def _streaming(self, act: Callable[..., Awaitable[None]], question: type[Message], *, keyed: bool) -> _Call:
        """A call that is answered until one of both ends it."""

        async def call(request: bytes, context: _Context) -> None:
            if keyed:
                caller = await self._caller(context)
                await act(_parsed(question, request), context, caller)
            else:
                self._doors.admission.request(address(context.peer()))
                await act(_parsed(question, request), context)

        return call

    def _told(self, method: str, act: _Call) -> _Call:
        """The same, with refusals in gRPC's way, and counted."""
        counters = {status: self._calls.labels(method, status) for status in ("OK", "CANCELLED", "INTERNAL")}

        async def call(request: bytes, context: _Context) -> Any:
            try:
                answer = await act(request, context)
            except Refusal as e:
                status = _status(e)
                self._calls.labels(method, status.name).inc()
                await context.abort(status, e.text)
            except asyncio.CancelledError:
                counters["CANCELLED"].inc()
                raise
            except Exception:  # our own fault: nobody outside hears more of it than that
                log.exception("call failed", method=method)
                counters["INTERNAL"].inc()
                await context.abort(grpc.StatusCode.INTERNAL, "internal error")
            else:
                counters["OK"].inc()
                return answer

        return call

    async def _caller(self, context: _Context) -> Caller:
        """Who calls, with a wallet. Raises Unauthenticated, Forbidden."""
        callers = self._doors.callers
        if callers is None:
            raise Unauthenticated("this server has no accounts")
        try:
            caller = await callers.caller(_credential(context), TRADE)
        except Unauthenticated:
            # Whoever guesses keys is slowed down like any other caller.
            self._doors.admission.request(address(context.peer()))
            raise
        if caller.account is None:
            raise errors.Forbidden("the key is of no account, and so of no wallet")
        return caller

    # -- common.Monitoring

    async def _is_alive(self, asked: Message) -> Message:
        del asked
        return contract.IsAliveResponce(name="openoutcry", version=__version__, startedAt=self._started)

    # -- hft.PublicService

    async def _get_asset_pairs(self, asked: Message) -> Message:
        del asked
        return _payload("AssetPairsResponse", [encode.pair(each) for each in self._gateway.listings.pairs.values()])

    async def _get_asset_pair(self, asked: Message) -> Message:
        pair = self._gateway.listings.pairs.get(asked.assetPairId)
        if pair is None:
            raise wire.pair_missing()
        return _payload("AssetPairResponse", encode.pair(pair))

    async def _get_assets(self, asked: Message) -> Message:
        del asked
        return _payload("AssetsResponse", [encode.asset(each) for each in self._gateway.listings.assets.values()])

    async def _get_asset(self, asked: Message) -> Message:
        asset = self._gateway.listings.assets.get(asked.assetId)
        if asset is None:
            raise wire.asset_missing()
        return _payload("AssetResponse", encode.asset(asset))

    async def _get_orderbooks(self, asked: Message) -> Message:
        pairs = [asked.assetPairId] if asked.assetPairId else list(self._gateway.listings.pairs)
        return _payload(
            "OrderbookResponse", [encode.book(self._views.book(pair, max(0, asked.depth))) for pair in pairs]
        )

    async def _get_tickers(self, asked: Message) -> Message:
        views = [self._views.ticker(pair) for pair in self._chosen(asked.assetPairIds)]
        return _payload("TickersResponse", [encode.ticker(view) for view in views])

    async def _get_prices(self, asked: Message) -> Message:
        views = [self._views.price(pair) for pair in self._chosen(asked.assetPairIds)]
        return _payload("PricesResponse", [encode.price(view) for view in views])

    async def _get_public_trades(self, asked: Message) -> Message:
        if asked.assetPairId not in self._gateway.listings.pairs:
            raise wire.pair_missing()
        pair, take = self._page(asked)
        assert pair is not None
        return encode.public_trades(await self._gateway.public_trades(pair, asked.offset, take))

    async def _get_price_updates(self, asked: Message, context: _Context) -> None:
        pairs = self._followed(asked.assetPairIds)
        box = Newest(self._price, contract.PriceUpdate)
        await self._stream(context, box, partial(self._views.follow_prices, pairs), partial(map, encode.price))

    async def _get_ticker_updates(self, asked: Message, context: _Context) -> None:
        del asked
        box = Newest(self._ticker, contract.TickerUpdate)
        await self._stream(context, box, partial(self._views.follow_tickers, ()), partial(map, encode.ticker))

    async def _get_orderbook_updates(self, asked: Message, context: _Context) -> None:
        named = [asked.assetPairId] if asked.assetPairId else []
        pairs = self._followed([*named, *asked.assetPairIds])
        box = Books(self._book, next(iter(pairs or self._gateway.listings.pairs), ""))
        await self._stream(context, box, partial(self._views.follow_books, pairs), partial(map, encode.book))

    async def _get_public_trade_updates(self, asked: Message, context: _Context) -> None:
        (pair,) = self._followed([asked.assetPairId])
        follow = partial(self._views.follow_public_trades, pair)
        await self._stream(context, Each(self._public), follow, lambda first: [encode.public_trades(first)])

    # -- hft.PrivateService

    async def _get_balances(self, asked: Message, wallet: str) -> Message:
        del asked
        return _payload("BalancesResponse", [encode.balance(each) for each in self._views.balances(wallet)])

    async def _place_limit_order(self, asked: Message, wallet: str) -> Message:
        buys, price = _buys(asked.side), decimal(asked.price, "price")
        volume = decimal(asked.volume, "volume")
        id_ = await self._gateway.limit(wallet, asked.assetPairId, buys=buys, volume=volume, price=price)
        return _payload("LimitOrderResponse", {"orderId": id_})

    async def _place_bulk_limit_order(self, asked: Message, wallet: str) -> Message:
        cancel = None
        if asked.cancelPreviousOrders:
            cancel = _MODES.get(asked.cancelMode)
            if cancel is None:
                raise wire.No(names.INVALID_FIELD, "cancelMode is not one of the contract's.", "cancelMode")
        bulk_max = self._doors.lykke.bulk_max
        if len(asked.orders) > bulk_max:
            raise wire.No(names.INVALID_FIELD, f"orders: there are more than {bulk_max}.", "orders")
        items = [
            Wanted(
                buys=_buys(each.side),
                volume=decimal(each.volume, "volume"),
                price=decimal(each.price, "price"),
                old=_id(each.oldId) if each.oldId else None,
            )
            for each in asked.orders
        ]
        placed = await self._gateway.bulk(wallet, asked.assetPairId, items, cancel)
        statuses = [
            {
                "id": each.id,
                "error": names.SUCCESS if each.code is None else names.number(each.code),
                "volume": wire.plain(each.volume if item.buys else -each.volume),
                "price": wire.plain(each.price),
            }
            for item, each in zip(items, placed, strict=True)
        ]
        return _payload("BulkLimitOrderResponse", {"assetPairId": asked.assetPairId, "statuses": statuses})

    async def _place_market_order(self, asked: Message, wallet: str) -> Message:
        buys, volume = _buys(asked.side), decimal(asked.volume, "volume")
        id_, price = await self._gateway.market(wallet, asked.assetPairId, buys=buys, volume=volume)
        return _payload("MarketOrderResponse", {"orderId": id_, "price": wire.plain(price)})

    async def _get_order(self, asked: Message, wallet: str) -> Message:
        order = await self._gateway.order(wallet, _id(asked.orderId))
        return _payload("OrderResponse", None if order is None else encode.order(order))

    async def _get_orders(self, asked: Message, wallet: str, *, active: bool) -> Message:
        pair, take = self._page(asked)
        orders = await self._gateway.orders(wallet, pair, active=active, offset=asked.offset, limit=take)
        return _payload("OrdersResponse", [encode.order(each) for each in orders])

    async def _cancel_all_orders(self, asked: Message, wallet: str) -> Message:
        """A side that is not named is the buys': a message cannot say that it names none."""
        await self._gateway.cancel_all(wallet, asked.assetPairId or None, _buys(asked.side))
        return _payload("CancelOrderResponse", True)

    async def _cancel_order(self, asked: Message, wallet: str) -> Message:
        await self._gateway.cancel(wallet, _id(asked.orderId))
        return _payload("CancelOrderResponse", True)

    async def _get_trades(self, asked: Message, wallet: str) -> Message:
        pair, take = self._page(asked)
        trades = await self._gateway.trades(
            wallet,
            pair=pair,
            buys=_buys(asked.side) if asked.HasField("side") else None,
            after_ns=_ns(getattr(asked, "from"), "from") if asked.HasField("from") else None,
            until_ns=_ns(asked.to, "to") if asked.HasField("to") else None,
            offset=asked.offset,
            limit=take,
        )
        return _payload("TradesResponse", [encode.trade(each) for each in trades])

    async def _get_order_trades(self, asked: Message, wallet: str) -> Message:
        told: list[Message] = []
        more = True
        while more:
            page = await self._gateway.trades(
                wallet, order=_id(asked.orderId), offset=len(told), limit=ORDER_TRADES_AT_ONCE
            )
            told += map(encode.trade, page)
            more = len(page) == ORDER_TRADES_AT_ONCE
        return _payload("TradesResponse", told)

    async def _get_operations_history(self, asked: Message, wallet: str) -> Message:
        _, take = self._page(asked)
        moves = await self._gateway.operations(wallet, asked.offset, take)
        return _message("GetOperationsHistoryResponse", operations=[encode.operation(each) for each in moves])

    async def _no_addresses(self, asked: Message, wallet: str) -> Message:
        del asked, wallet
        raise _off_chain()

    async def _get_deposit_address(self, asked: Message, wallet: str) -> Message:
        del wallet
        if asked.assetId not in self._gateway.listings.assets:
            raise wire.asset_missing()
        raise _off_chain()

    async def _create_withdrawal(self, asked: Message, wallet: str) -> Message:
        del wallet
        if decimal(asked.volume, "volume") <= 0:
            raise wire.No(names.INVALID_FIELD, "volume cannot be less than zero.", "volume")
        if asked.assetId not in self._gateway.listings.assets:
            raise wire.asset_missing()
        raise _off_chain()

    async def _get_balance_updates(self, asked: Message, context: _Context, caller: Caller) -> None:
        del asked
        follow = partial(self._views.follow_balances, _wallet(caller))
        await self._stream(context, Balances(), follow, lambda first: [encode.balances(first)], caller)

    async def _get_order_updates(self, asked: Message, context: _Context, caller: Caller) -> None:
        del asked
        follow = partial(self._views.follow_orders, _wallet(caller))
        await self._stream(context, Each(self._orders), follow, lambda _: (), caller)

    async def _get_trade_updates(self, asked: Message, context: _Context, caller: Caller) -> None:
        del asked
        follow = partial(self._views.follow_trades, _wallet(caller))
        await self._stream(context, Each(self._trades), follow, lambda _: (), caller)

    # -- parts

    async def _stream(
        self,
        context: _Context,
        box: Box[_V],
        follow: Callable[[Callable[[_V], None]], tuple[Sequence[Any], Stop]],
        told_first: Callable[[Sequence[Any]], Iterable[Message]],
        caller: Caller | None = None,
    ) -> None:
        """What is there, and what is heard from the same moment on, until one of both ends it."""
        who = f"address {network(address(context.peer()))}" if caller is None else caller.id
        with self._streams.opened(who, box) as stream, ExitStack() as stops:
            if caller is not None and caller.key is not None:
                revoked = partial(stream.end, Unauthenticated("the key was revoked"))
                stops.callback(self._doors.keys.watch(caller.key, revoked))
            first, stop = follow(stream.hear)
            stops.callback(stop)
            # By these a client knows that it hears all from here on; and a stream that is stuck with them cannot be ended.
            await context.send_initial_metadata(())
            await stream.tell((made.SerializeToString() for made in told_first(first)), context.write)

    def _page(self, asked: Message) -> tuple[str | None, int]:
        """The pair and how many of a list are asked for. Raises No."""
        pair = getattr(asked, "assetPairId", "")
        wire.paged(self._gateway.listings, pair, asked.offset, asked.take)
        return pair or None, asked.take or wire.TAKE_MAX

    def _chosen(self, asked: Iterable[str]) -> Sequence[str]:
        """The pairs with those ids in any case, without those that there are not; none asked: all."""
        wanted = {each.lower() for each in asked}
        return [pair for pair in self._gateway.listings.pairs if not wanted or pair.lower() in wanted]

    def _followed(self, asked: Iterable[str]) -> Sequence[str]:
        """The pairs of a stream. Raises No."""
        pairs = tuple(dict.fromkeys(asked))
        if any(pair not in self._gateway.listings.pairs for pair in pairs):
            raise wire.pair_missing()
        return pairs


def _wallet(caller: Caller) -> str:
    assert caller.account is not None
    return caller.account.id


def _credential(context: _Context) -> str | None:
    """What stands after `Bearer` in the call's metadata."""
    text = next((value for name, value in context.invocation_metadata() or () if name == AUTHORIZATION), None)
    if not isinstance(text, str):
        return None
    scheme, _, credential = text.partition(" ")
    return credential.strip() or None if scheme.lower() == "bearer" else None


def _status(refusal: Refusal) -> grpc.StatusCode:
    """What a refusal is where an answer has no place for it."""
    said = wire.said(refusal)
    if said is not None:
        return _STATUSES_OF_NUMBERS.get(said.number, grpc.StatusCode.FAILED_PRECONDITION)
    found = (status for kind, status in _STATUSES.items() if isinstance(refusal, kind))
    return next(found, grpc.StatusCode.INVALID_ARGUMENT)


def _off_chain() -> wire.No:
    return wire.No(names.ACTION_FORBIDDEN, "This exchange is on no chain: its operator deposits and withdraws")


def _parsed(kind: type[Message], request: bytes) -> Message:
    try:
        return kind.FromString(request)
    except contract.DecodeError as e:
        raise Invalid(f"the request is no {kind.DESCRIPTOR.full_name}") from e


def _message(name: str, **fields: Any) -> Message:
    return contract.message(f"hft.{name}")(**fields)


def _payload(name: str, payload: Any) -> Message:
    return _message(name, payload=payload)


def _error(number: int, text: str) -> Message:
    return contract.Error(code=number, message=text)


def _buys(side: int) -> bool:
    buys = _SIDES.get(side)
    if buys is None:
        raise wire.No(names.INVALID_FIELD, "side is buy or sell.", "side")
    return buys


def _id(text: str) -> str:
    """The id of an order; what cannot be one is another that nobody has."""
    return text if _ID.fullmatch(text) else NOBODYS


def _ns(at: Message, field: str) -> int:
    """A time; one that no clock of ours shows is the first or the last that one can. Raises No."""
    if not 0 <= at.nanos < NS:
        raise wire.No(names.INVALID_FIELD, f"{field} is no time.", field)
    return max(0, min(int(at.seconds) * NS + int(at.nanos), NS_MAX))
