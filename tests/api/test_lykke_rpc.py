"""Lykke over gRPC: conversations of clients that generated their stubs with a real server before a real exchange."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from sqlalchemy import URL

from openoutcry.api.lykke import contract, names
from openoutcry.api.lykke.rpc import services
from openoutcry.api.rpc import RpcServer
from openoutcry.clock import NS
from openoutcry.errors import LimitExceeded, Unavailable
from openoutcry.orders import Code
from openoutcry.trading.gateway import OrderGateway
from openoutcry.trading.risk import Rejected
from tests.api.lykke_rpc_world import NOW_NS, Client, Floor, floor, stubs, words

NOW_S = NOW_NS // NS
Status = grpc.StatusCode
E = names


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Floor]:
    async with floor(tmp_path) as made:
        yield made


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as told:
        async with asyncio.timeout(20):
            await call
    return told.value.code(), told.value.details() or ""


def private(name: str, **fields: Any) -> Any:
    return getattr(stubs().private, name)(**fields)


def public(name: str, **fields: Any) -> Any:
    return getattr(stubs().public, name)(**fields)


def fails(told: Any, number: int, text: str | None = None) -> None:
    """An error, and nothing else."""
    assert told.HasField("error"), told
    assert {field.name for field, _ in told.ListFields()} == {"error"}
    assert told.error.code == number
    assert not told.error.fields
    if text is not None:
        assert told.error.message == text


def succeeds(told: Any) -> Any:
    assert not told.HasField("error"), told
    return told.payload


# -- the contract


def test_the_error_numbers_are_the_contracts_and_those_of_http() -> None:
    assert {number: word for number, (word, _) in names.ERRORS.items()} == {
        number: word for word, number in contract.ERRORS.items()
    }


def test_every_method_of_the_contract_is_of_its_kind() -> None:
    told = {
        f"{service}/{method.name}": method.server_streaming
        for service in (contract.MONITORING, contract.PUBLIC, contract.PRIVATE)
        for method in contract.POOL.FindServiceByName(service).methods
    }
    assert sorted(name.rpartition("/")[2] for name, streams in told.items() if streams) == [
        "GetBalanceUpdates",
        "GetOrderUpdates",
        "GetOrderbookUpdates",
        "GetPriceUpdates",
        "GetPublicTradeUpdates",
        "GetTickerUpdates",
        "GetTradeUpdates",
    ]
    assert len(told) == 1 + 12 + 19


@pytest.mark.parametrize(
    ("message", "numbers"),
    [
        ("common.IsAliveResponce", "name 1 version 2 startedAt 3 env 4 hostname 5"),
        ("hft.common.Error", "code 1 message 2 fields 3"),
        ("hft.AssetPair", ("assetPairId 1 baseAssetId 2 quoteAssetId 3 name 4 priceAccuracy 5 baseAssetAccuracy 6 "
                          "quoteAssetAccuracy 7 minVolume 8 minOppositeVolume 9")),
        ("hft.Asset", "assetId 1 name 2 symbol 3 accuracy 4"),
        ("hft.Orderbook", "assetPairId 1 timestamp 2 bids 3 asks 4"),
        ("hft.Orderbook.PriceVolume", "p 1 v 2"),
        ("hft.PriceUpdate", "assetPairId 1 bid 2 ask 3 timestamp 4"),
        ("hft.TickerUpdate", "assetPairId 1 volumeBase 2 volumeQuote 3 priceChange 4 lastPrice 5 high 6 low 7 timestamp 8"),
        ("hft.PublicTrade", "id 1 assetPairId 2 dateTime 3 volume 4 price 5 side 6"),
        ("hft.OrderbookUpdatesRequest", "assetPairId 1 assetPairIds 2"),
        ("hft.PublicTradesRequest", "assetPairId 1 offset 2 take 3"),
        ("hft.LimitOrderRequest", "assetPairId 1 side 2 volume 3 price 4"),
        ("hft.BulkLimitOrderRequest", "assetPairId 1 cancelPreviousOrders 2 cancelMode 3 orders 4"),
        ("hft.BulkOrder", "side 1 volume 2 price 3 oldId 4"),
        ("hft.BulkLimitOrderResponse.BulkLimitOrderPayload", "assetPairId 1 statuses 3"),
        ("hft.BulkOrderItemStatus", "id 1 error 2 volume 3 price 4"),
        ("hft.TradesRequest", "assetPairId 1 side 2 offset 3 take 4 from 5 to 6"),
        ("hft.Balance", "assetId 1 available 2 reserved 3 timestamp 4"),
        ("hft.Order", ("id 1 timestamp 2 lastTradeTimestamp 3 status 4 assetPairId 5 type 6 side 7 price 8 volume 9 "
                      "filledVolume 10 remainingVolume 11 cost 12")),
        ("hft.Trade", ("id 1 timestamp 2 assetPairId 3 orderId 4 role 5 price 6 baseVolume 7 quoteVolume 8 baseAssetId 9 "
                      "quoteAssetId 10 fee 11 side 12")),
        ("hft.TradeFee", "size 1 assetId 2"),
        ("hft.OperationHistory", "operationId 1 assetId 2 totalVolume 3 fee 4 type 5 timestamp 6 blockchainHash 7"),
        ("hft.DepositAddress", "address 1 baseAddress 2 addressExtension 3 state 4 assetId 5 symbol 6"),
        ("hft.CreateWithdrawalRequest", ("requestId 1 assetId 2 volume 3 destinationAddress 4 "
                                        "destinationAddressExtension 5")),
    ],
)  # fmt: skip
def test_members_have_the_contracts_numbers(message: str, numbers: str) -> None:
    fields = contract.POOL.FindMessageTypeByName(message).fields
    assert " ".join(f"{field.name} {field.number}" for field in fields) == numbers


async def test_reflection_lists_the_services_and_tells_their_files(at: Floor) -> None:
    def told() -> tuple[set[str], set[str], list[str]]:
        with grpc.insecure_channel(at.at) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            file = database.FindFileContainingSymbol("hft.PrivateService")
            common = database.FindFileByName("common.proto")
            return set(database.get_services()), set(file.dependency), [each.name for each in common.message_type]

    listed, needed, common = await asyncio.to_thread(told)
    assert listed >= {"common.Monitoring", "hft.PublicService", "hft.PrivateService", "grpc.health.v1.Health"}
    assert needed == {
        "common.proto",
        "google/protobuf/empty.proto",
        "google/protobuf/timestamp.proto",
        "google/protobuf/wrappers.proto",
    }
    assert common == ["Error"]


async def test_a_server_without_an_exchange_serves_none_of_it(at: Floor) -> None:
    assert services(replace(at.doors, gateway=None)) == ()


# -- who may call


async def test_private_methods_want_a_key_that_may_trade_and_has_an_account(at: Floor) -> None:
    account = await at.account("reader")
    _, reads = await at.keys.create("reads", ["market"], account)
    _, nobodys = await at.keys.create("nobodys", ["trade"])
    channel = at.channel()
    for method in contract.POOL.FindServiceByName(contract.PRIVATE).methods:
        asked = contract.message(method.input_type.full_name)().SerializeToString()

        def calls(key: str | None, method: Any = method, asked: bytes = asked) -> Any:
            make = channel.unary_stream if method.server_streaming else channel.unary_unary
            metadata = () if key is None else (("authorization", key),)
            call = make(f"/{contract.PRIVATE}/{method.name}")(asked, metadata=metadata)
            return call.read() if method.server_streaming else call

        for key in (None, "", "Bearer", "Bearer ", "Bearer kai-" + "0" * 64, f"Basic {reads}", reads):
            assert (await refused(calls(key)))[0] is Status.UNAUTHENTICATED, (method.name, key)
        for key in (f"Bearer {reads}", f"Bearer {nobodys}"):
            assert (await refused(calls(key)))[0] is Status.PERMISSION_DENIED, (method.name, key)


async def test_public_methods_want_no_key(at: Floor) -> None:
    stranger = at.stranger()
    told = await stranger.monitoring.IsAlive(stubs().isalive.IsAliveRequest())
    assert (told.name, told.version != "", told.startedAt) == ("openoutcry", True, "2026-07-25T17:20:00Z")
    assert len(succeeds(await stranger.tell("GetAssets"))) == 3


async def test_a_login_token_opens_the_accounts_wallet_too(at: Floor) -> None:
    account, token = await at.accounts.register("me@example.com", "a-long-password")
    await at.gateway.move("m", account.id, "USD", Decimal(5))
    (balance,) = succeeds(await Client(at.channel(), token).ask("GetBalances"))
    assert balance.available == "5"


async def test_one_key_sees_nothing_of_anothers(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="100"), await at.trader("bob", USD="100")
    id_ = await ann.placed("buy", "0.1", "10")
    assert not (await bob.ask("GetOrder", private("OrderRequest", orderId=id_))).ListFields()
    fails(await bob.ask("CancelOrder", private("CancelOrderRequest", orderId=id_)), 2009, "Not found")
    assert not succeeds(await bob.ask("GetActiveOrders", private("OrdersRequest")))
    assert not succeeds(await bob.ask("GetOrderTrades", private("OrderTradesRequest", orderId=id_)))
    assert succeeds(await bob.ask("CancelAllOrders", private("CancelOrdersRequest"))) is True
    assert len(succeeds(await ann.ask("GetActiveOrders", private("OrdersRequest")))) == 1


# -- what is listed


async def test_assets_and_pairs(at: Floor) -> None:
    ask = at.stranger().tell
    assert words(succeeds(await ask("GetAssets"))[0]) == {
        "assetId": "BTC",
        "name": "Bitcoin",
        "symbol": "BTC",
        "accuracy": 8,
    }
    pair = {
        "assetPairId": "BTCUSD",
        "baseAssetId": "BTC",
        "quoteAssetId": "USD",
        "name": "BTC/USD",
        "priceAccuracy": 3,
        "baseAssetAccuracy": 8,
        "quoteAssetAccuracy": 2,
        "minVolume": "0.0001",
        "minOppositeVolume": "1",
    }
    assert words(succeeds(await ask("GetAssetPair", public("AssetPairRequest", assetPairId="BTCUSD")))) == pair
    assert words(succeeds(await ask("GetAssetPairs"))[0]) == pair
    assert succeeds(await ask("GetAsset", public("AssetRequest", assetId="USD"))).accuracy == 2
    fails(await ask("GetAsset", public("AssetRequest", assetId="XXX")), E.ITEM_NOT_FOUND, "Asset not found")
    fails(await ask("GetAssetPair", public("AssetPairRequest")), E.ITEM_NOT_FOUND, "Asset pair not found")


async def test_books_prices_and_tickers(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="100000"), await at.trader("bob", BTC="10", ETH="1")
    await ann.placed("buy", "1", "100")
    await ann.placed("buy", "0.50", "100.000")
    await ann.placed("buy", "2", "99.125")
    await bob.placed("sell", "3", "101.5")
    await bob.placed("sell", "0.0001", "102")
    (book,) = succeeds(await ann.tell("GetOrderbooks", public("OrderbookRequest", assetPairId="BTCUSD")))
    assert words(book) == {
        "assetPairId": "BTCUSD",
        "timestamp": NOW_S,
        "bids": [{"p": "100", "v": "1.5"}, {"p": "99.125", "v": "2"}],
        "asks": [{"p": "101.5", "v": "-3"}, {"p": "102", "v": "-0.0001"}],
    }
    asked = public("OrderbookRequest", assetPairId="BTCUSD", depth=1)
    (book,) = succeeds(await ann.tell("GetOrderbooks", asked))
    assert (len(book.bids), len(book.asks)) == (1, 1)
    books = succeeds(await ann.tell("GetOrderbooks", public("OrderbookRequest", depth=-1)))
    assert [(each.assetPairId, len(each.bids)) for each in books] == [("BTCUSD", 2), ("ETHUSD", 0), ("ETHBTC", 0)]
    fails(await ann.tell("GetOrderbooks", public("OrderbookRequest", assetPairId="X")), E.ITEM_NOT_FOUND)

    prices = succeeds(await ann.tell("GetPrices", public("PricesRequest", assetPairIds=["btcusd", "NOPE", "ETHUSD"])))
    assert [words(each) for each in prices] == [
        {"assetPairId": "BTCUSD", "bid": "100", "ask": "101.5", "timestamp": NOW_S},
        {"assetPairId": "ETHUSD", "bid": "0", "ask": "0", "timestamp": NOW_S},
    ]
    assert len(succeeds(await ann.tell("GetPrices", public("PricesRequest")))) == 3

    assert succeeds(await bob.market("sell", "2")).price == "99.781"  # 199.5625 for two, down
    tickers = succeeds(await ann.tell("GetTickers", public("TickersRequest", assetPairIds=["BTCUSD"])))
    assert [words(each) for each in tickers] == [
        {
            "assetPairId": "BTCUSD",
            "volumeBase": "2",
            "volumeQuote": "199.56",
            "priceChange": "-0.00875",
            "lastPrice": "99.125",
            "high": "100",
            "low": "99.125",
            "timestamp": NOW_S,
        }
    ]


async def test_public_trades_page_newest_first(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="100000"), await at.trader("bob", BTC="10")
    for price in ("100", "101", "102"):
        await ann.placed("buy", "1", price)
        await bob.placed("sell", "1", price)
    ask = ann.tell
    asked = public("PublicTradesRequest", assetPairId="BTCUSD")
    told = (await ask("GetPublicTrades", asked)).trades
    assert [(each.price, each.volume, each.side, each.dateTime.seconds) for each in told] == [
        ("102", "1", "Sell", NOW_S),
        ("101", "1", "Sell", NOW_S),
        ("100", "1", "Sell", NOW_S),
    ]
    assert len({each.id for each in told}) == 3
    asked = public("PublicTradesRequest", assetPairId="BTCUSD", offset=1, take=1)
    assert [each.price for each in (await ask("GetPublicTrades", asked)).trades] == ["101"]
    # This answer has no place for an error.
    for wrong in ({}, {"assetPairId": "XXX"}):
        assert (await refused(ask("GetPublicTrades", public("PublicTradesRequest", **wrong))))[0] is Status.NOT_FOUND
    bounds: list[dict[str, int]] = [{"offset": -1}, {"take": -1}, {"take": 1_001}]
    for beyond in bounds:
        asked = public("PublicTradesRequest", assetPairId="BTCUSD", **beyond)
        assert (await refused(ask("GetPublicTrades", asked)))[0] is Status.INVALID_ARGUMENT


# -- a wallet


async def test_orders_fill_and_are_told(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="1000"), await at.trader("bob", BTC="1")
    id_ = await ann.placed("buy", "0.50", "100.10")
    m = private("OrdersRequest", assetPairId="BTCUSD")
    (order,) = succeeds(await ann.ask("GetActiveOrders", m))
    placed = {
        "id": id_,
        "timestamp": NOW_S,
        "status": "Placed",
        "assetPairId": "BTCUSD",
        "type": "Limit",
        "price": "100.1",
        "volume": "0.5",
        "filledVolume": "0",
        "remainingVolume": "0.5",
        "cost": "0",
    }
    assert words(order) == placed
    (balance,) = succeeds(await ann.ask("GetBalances"))
    # What is available holds what is reserved too.
    assert words(balance) == {"assetId": "USD", "available": "1000", "reserved": "50.05", "timestamp": NOW_S}

    await at.clock.advance(7)
    market = succeeds(await bob.market("sell", "0.2"))
    assert market.price == "100.1"
    (order,) = succeeds(await ann.ask("GetActiveOrders", m))
    assert words(order) == placed | {
        "status": "PartiallyMatched",
        "lastTradeTimestamp": NOW_S + 7,
        "filledVolume": "0.2",
        "remainingVolume": "0.3",
        "cost": "20.02",
    }
    (sold,) = succeeds(await bob.ask("GetClosedOrders", private("OrdersRequest")))
    assert words(sold) == {
        "id": market.orderId,
        "timestamp": NOW_S + 7,
        "lastTradeTimestamp": NOW_S + 7,
        "status": "Matched",
        "assetPairId": "BTCUSD",
        "type": "Market",
        "side": 1,
        "price": "100.1",
        "volume": "0.2",
        "filledVolume": "0.2",
        "remainingVolume": "0",
        "cost": "20.02",
    }
    told = succeeds(await ann.ask("GetOrderTrades", private("OrderTradesRequest", orderId=id_)))
    trade = {
        "id": told[0].id,
        "timestamp": NOW_S + 7,
        "assetPairId": "BTCUSD",
        "orderId": id_,
        "role": "Maker",
        "price": "100.1",
        "baseVolume": "0.2",
        "quoteVolume": "20.02",
        "baseAssetId": "BTC",
        "quoteAssetId": "USD",
    }
    assert [words(each) for each in told] == [trade]
    told = succeeds(await bob.ask("GetTrades", private("TradesRequest")))
    assert [words(each) for each in told] == [trade | {"role": "Taker", "orderId": market.orderId, "side": 1}]

    assert succeeds(await ann.ask("CancelOrder", private("CancelOrderRequest", orderId=id_))) is True
    order = succeeds(await ann.ask("GetOrder", private("OrderRequest", orderId=id_)))
    assert (order.status, order.remainingVolume) == ("Cancelled", "0.3")
    fails(await ann.ask("CancelOrder", private("CancelOrderRequest", orderId=id_)), 2009, "Not found")


@pytest.mark.parametrize("id_", ["", "nobodys", "00000000-0000-4000-8000-000000000000", "a\0b", "é", "x" * 100_000])
async def test_an_unknown_order_is_neither_payload_nor_error(at: Floor, id_: str) -> None:
    ann = await at.trader("ann")
    assert not (await ann.ask("GetOrder", private("OrderRequest", orderId=id_))).ListFields()
    assert not (await ann.ask("GetOrderTrades", private("OrderTradesRequest", orderId=id_))).ListFields()
    fails(await ann.ask("CancelOrder", private("CancelOrderRequest", orderId=id_)), 2009)


async def test_lists_are_paged_and_filtered(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="100000", ETH="10"), await at.trader("bob", BTC="10", USD="1000")
    bought = []
    for second in range(3):
        bought.append(await ann.placed("buy", "1", str(100 + second)))
        await bob.placed("sell", "1", str(100 + second))
        await at.clock.advance(1)
    await ann.placed("sell", "1", "50", "ETHUSD")
    await bob.placed("buy", "1", "50", "ETHUSD")

    async def trades(**asked: Any) -> list[str]:
        return [each.price for each in succeeds(await ann.ask("GetTrades", private("TradesRequest", **asked)))]

    def at_s(name: str, seconds: int, nanos: int = 0) -> dict[str, Any]:
        return {name: {"seconds": NOW_S + seconds, "nanos": nanos}}

    assert await trades() == ["50", "102", "101", "100"]
    assert await trades(assetPairId="BTCUSD") == ["102", "101", "100"]
    assert await trades(side=0) == ["102", "101", "100"]
    assert await trades(side=1) == ["50"]
    assert await trades(offset=1, take=2) == ["102", "101"]
    # After the one, up to and with the other.
    assert await trades(**at_s("from", 0), **at_s("to", 2)) == ["102", "101"]
    assert await trades(**at_s("from", 0, -0), **at_s("to", 1, 999_999_999)) == ["101"]
    # The first and the last time that such a message can say.
    ends = {"from": {"seconds": -62_135_596_800}, "to": {"seconds": 253_402_300_799, "nanos": 999_999_999}}
    assert len(await trades(**ends)) == 4
    closed = private("OrdersRequest", assetPairId="BTCUSD", offset=1, take=1)
    assert [each.id for each in succeeds(await ann.ask("GetClosedOrders", closed))] == [bought[1]]
    fails(
        await ann.ask("GetTrades", private("TradesRequest", **at_s("from", 0, 1_000_000_000))),
        E.INVALID_FIELD,
        "from is no time.",
    )


@pytest.mark.parametrize("method", ["GetActiveOrders", "GetClosedOrders", "GetTrades"])
async def test_lists_have_bounds_and_their_faults_an_order(at: Floor, method: str) -> None:
    ann = await at.trader("ann")
    kind = "TradesRequest" if method == "GetTrades" else "OrdersRequest"

    async def ask(**asked: Any) -> Any:
        return await ann.ask(method, private(kind, **asked))

    fails(await ask(assetPairId="X", offset=-1, take=-1), E.ITEM_NOT_FOUND, "Asset pair not found")
    fails(await ask(offset=-1, take=-1), E.INVALID_FIELD, "offset cannot be less than zero.")
    fails(await ask(take=-1), E.INVALID_FIELD, "take cannot be less than zero.")
    fails(await ask(take=1_001), E.INVALID_FIELD, "take '1001' is too big, maximum is '1000'.")
    assert not (await ask(take=1_000, offset=2**31 - 1)).ListFields()


async def test_a_take_of_nothing_is_a_thousand(at: Floor) -> None:
    ann = await at.trader("ann", USD="100000")
    for _ in range(11):
        order = private("BulkOrder", volume="0.0001", price="1")
        asked = private("BulkLimitOrderRequest", assetPairId="BTCUSD", orders=[order] * 100)
        succeeds(await ann.ask("PlaceBulkLimitOrder", asked))
    assert len(succeeds(await ann.ask("GetActiveOrders", private("OrdersRequest")))) == 1_000
    assert len(succeeds(await ann.ask("GetActiveOrders", private("OrdersRequest", offset=1_000)))) == 100


async def test_cancel_all_without_a_side_cancels_the_buys(at: Floor) -> None:
    ann = await at.trader("ann", USD="1000", BTC="10", ETH="10")

    async def left() -> list[tuple[str, int]]:
        told = succeeds(await ann.ask("GetActiveOrders", private("OrdersRequest")))
        return sorted((each.assetPairId, each.side) for each in told)

    await ann.placed("buy", "1", "10")
    await ann.placed("sell", "1", "20")
    await ann.placed("buy", "1", "10", "ETHUSD")
    await ann.placed("sell", "1", "20", "ETHUSD")
    fails(
        await ann.ask("CancelAllOrders", private("CancelOrdersRequest", assetPairId="X")),
        E.ITEM_NOT_FOUND,
        "Asset pair not found",
    )
    assert succeeds(await ann.ask("CancelAllOrders", private("CancelOrdersRequest", assetPairId="BTCUSD"))) is True
    assert await left() == [("BTCUSD", 1), ("ETHUSD", 0), ("ETHUSD", 1)]
    assert succeeds(await ann.ask("CancelAllOrders", private("CancelOrdersRequest", side=1))) is True
    assert await left() == [("ETHUSD", 0)]
    assert succeeds(await ann.ask("CancelAllOrders", private("CancelOrdersRequest"))) is True
    assert await left() == []
    fails(await ann.ask("CancelAllOrders", private("CancelOrdersRequest", side=7)), E.INVALID_FIELD)


async def test_a_bulk_tells_what_became_of_each(at: Floor) -> None:
    ann = await at.trader("ann", USD="1000", BTC="1")
    old = await ann.placed("buy", "1", "10")
    orders = [
        {"side": 0, "volume": "1", "price": "11", "oldId": old},
        {"side": 1, "volume": "0.5", "price": "20.5"},
        {"side": 1, "volume": "0.00001", "price": "20"},
        {"side": 1, "volume": "-1", "price": "20"},
        {"side": 0, "volume": "1", "price": "0"},
        {"side": 0, "volume": "1.000000001", "price": "9"},
        {"side": 0, "volume": "1", "price": "9.0001"},
        {"side": 0, "volume": "1", "price": "8", "oldId": "none\0of ours"},
        {"side": 0, "volume": "5000", "price": "8"},
    ]
    asked = private("BulkLimitOrderRequest", assetPairId="BTCUSD", orders=orders)
    told = succeeds(await ann.ask("PlaceBulkLimitOrder", asked))
    assert told.assetPairId == "BTCUSD"
    assert [(each.error, each.volume, each.price) for each in told.statuses] == [
        (0, "1", "11"),
        (0, "-0.5", "20.5"),
        (2012, "-0.00001", "20"),
        (2020, "1", "20"),
        (2014, "1", "0"),
        (2018, "1.000000001", "9"),
        (2019, "1", "9.0001"),
        (2016, "1", "8"),
        (2006, "5000", "8"),
    ]
    assert len({each.id for each in told.statuses}) == len(orders)
    active = succeeds(await ann.ask("GetActiveOrders", private("OrdersRequest")))
    assert {each.id for each in active} == {each.id for each in told.statuses[:2]}
    assert succeeds(await ann.ask("GetOrder", private("OrderRequest", orderId=old))).status == "Replaced"


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"cancelPreviousOrders": False, "cancelMode": 1}, ["buy 1", "sell 90", "sell 91"]),
        ({"cancelPreviousOrders": True}, ["buy 1", "sell 91"]),
        ({"cancelPreviousOrders": True, "cancelMode": 0}, ["buy 1", "sell 91"]),
        ({"cancelPreviousOrders": True, "cancelMode": 1}, ["sell 91"]),
        ({"cancelPreviousOrders": True, "cancelMode": 2}, ["buy 1", "sell 91"]),
        ({"cancelPreviousOrders": True, "cancelMode": 3}, ["sell 90", "sell 91"]),
    ],
)
async def test_a_bulk_cancels_first(at: Floor, asked: dict[str, Any], left: list[str]) -> None:
    ann = await at.trader("ann", USD="1000", BTC="10")
    await ann.placed("buy", "1", "1")
    await ann.placed("sell", "1", "90")
    orders = [{"side": 1, "volume": "1", "price": "91"}]
    succeeds(
        await ann.ask(
            "PlaceBulkLimitOrder", private("BulkLimitOrderRequest", assetPairId="BTCUSD", orders=orders, **asked)
        )
    )
    active = succeeds(await ann.ask("GetActiveOrders", private("OrdersRequest")))
    assert sorted(f"{'sell' if each.side else 'buy'} {each.price}" for each in active) == left


async def test_bulks_that_cannot_be_read_are_refused_whole(at: Floor) -> None:
    ann = await at.trader("ann", USD="1000")
    good = {"volume": "1", "price": "10"}

    async def ask(*orders: dict[str, Any], **asked: Any) -> Any:
        asked = {"assetPairId": "BTCUSD"} | asked
        return await ann.ask("PlaceBulkLimitOrder", private("BulkLimitOrderRequest", orders=orders, **asked))

    fails(await ask(good, good | {"volume": "1e1"}), E.INVALID_FIELD)
    fails(await ask(good, good | {"price": ""}), E.INVALID_FIELD)
    fails(await ask(good, good | {"side": 2}), E.INVALID_FIELD, "side is buy or sell.")
    fails(await ask(good, cancelPreviousOrders=True, cancelMode=4), E.INVALID_FIELD)
    fails(await ask(*[good] * 1_001), E.INVALID_FIELD)
    fails(await ask(good, assetPairId="XXX"), E.ME_UNKNOWN_ASSET)
    assert not succeeds(await ann.ask("GetActiveOrders", private("OrdersRequest")))
    assert not succeeds(await ask()).statuses


async def test_deposits_and_withdrawals(at: Floor) -> None:
    ann = await at.trader("ann", USD="1000.50")
    fails(await ann.ask("CreateDepositAddresses"), E.ACTION_FORBIDDEN)
    fails(await ann.ask("GetDepositAddresses"), E.ACTION_FORBIDDEN)
    fails(await ann.ask("GetDepositAddress", private("DepositAddressRequest", assetId="USD")), E.ACTION_FORBIDDEN)
    fails(await ann.ask("GetDepositAddress", private("DepositAddressRequest", assetId="X")), E.ITEM_NOT_FOUND)

    async def withdraw(**asked: Any) -> Any:
        return await ann.ask("CreateWithdrawal", private("CreateWithdrawalRequest", requestId="1", **asked))

    fails(await withdraw(assetId="X", volume="NaN"), E.INVALID_FIELD)
    fails(await withdraw(assetId="X", volume="0"), E.INVALID_FIELD)
    fails(await withdraw(assetId="X", volume="1"), E.ITEM_NOT_FOUND, "Asset not found")
    fails(await withdraw(assetId="USD", volume="1", destinationAddress="a"), E.ACTION_FORBIDDEN)

    await at.clock.advance(3)
    await at.gateway.move("back", ann.account, "USD", Decimal("-0.5"))  # type: ignore[attr-defined]
    await at.trader("bob", USD="7")
    told = await ann.ask("GetOperationsHistory", private("GetOperationsHistoryRequest"))
    moved = {"assetId": "USD", "fee": "0"}
    assert [words(each) for each in told.operations] == [
        moved | {"operationId": "back", "totalVolume": "0.5", "type": "withdrawal", "timestamp": NOW_S + 3},
        moved | {"operationId": "move-1", "totalVolume": "1000.5", "type": "deposit", "timestamp": NOW_S},
    ]
    told = await ann.ask("GetOperationsHistory", private("GetOperationsHistoryRequest", offset=1, take=5))
    assert [each.operationId for each in told.operations] == ["move-1"]
    for wrong in ({"offset": -1}, {"take": 1_001}):
        call = ann.ask("GetOperationsHistory", private("GetOperationsHistoryRequest", **wrong))
        assert (await refused(call))[0] is Status.INVALID_ARGUMENT


async def test_ids_that_no_order_has_and_operations_on_each_database(tmp_path: Path, books_url: URL) -> None:
    async with floor(tmp_path, url=books_url) as at:
        ann, bob = await at.trader("ann", USD="100", BTC="1"), await at.trader("bob", USD="1000", BTC="2")
        await ann.placed("sell", "1", "10")
        await bob.market("buy", "1")
        await at.gateway.move("out", ann.account, "USD", Decimal(-110))  # type: ignore[attr-defined]
        told = (await ann.ask("GetOperationsHistory", private("GetOperationsHistoryRequest"))).operations
        assert [(each.type, each.assetId, each.totalVolume) for each in told] == [
            ("withdrawal", "USD", "110"),
            ("deposit", "BTC", "1"),
            ("deposit", "USD", "100"),
        ]
        for id_ in ("a\0b", "é", "x" * 100_000):
            assert not (await ann.ask("GetOrder", private("OrderRequest", orderId=id_))).ListFields()
            fails(await ann.ask("CancelOrder", private("CancelOrderRequest", orderId=id_)), 2009)
            bulk = private(
                "BulkLimitOrderRequest", assetPairId="BTCUSD", orders=[{"volume": "1", "price": "1", "oldId": id_}]
            )
            (status,) = succeeds(await ann.ask("PlaceBulkLimitOrder", bulk)).statuses
            assert status.error == 2016


async def test_callers_without_a_key_are_limited_by_their_address(tmp_path: Path) -> None:
    async with floor(tmp_path, limits={"requests_per_s": 0.1, "burst": 3, "loopback": True}) as at:
        stranger, ann = at.stranger(), await at.trader("ann", USD="1")
        assert len(succeeds(await stranger.tell("GetAssets"))) == 3
        assert (await refused(Client(stranger.channel, "guessed").ask("GetBalances")))[0] is Status.UNAUTHENTICATED
        assert await stranger.tell("GetPriceUpdates", public("PriceUpdatesRequest")).read()
        for call in (
            stranger.tell("GetAssets"),
            stranger.monitoring.IsAlive(stubs().isalive.IsAliveRequest()),
            stranger.tell("GetPriceUpdates", public("PriceUpdatesRequest")).read(),
            Client(stranger.channel, "guessed").ask("GetBalances"),
        ):
            assert (await refused(call))[0] is Status.RESOURCE_EXHAUSTED
        # A good key's are not.
        for _ in range(10):
            succeeds(await ann.ask("GetBalances"))


# -- errors


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "NaN", "-NaN", "Infinity", "1e3", "1E-8", "1,5", "0x10", "1_000", "٣", "1.2.3", "9" * 1_000, "1 "],
)
async def test_text_that_is_no_plain_decimal_is_an_invalid_field(at: Floor, text: str) -> None:
    ann = await at.trader("ann", USD="1000")
    fails(await ann.limit("buy", text, "1"), E.INVALID_FIELD)
    fails(await ann.limit("buy", "1", text), E.INVALID_FIELD)
    fails(await ann.market("buy", text), E.INVALID_FIELD)


async def test_a_limit_orders_faults_have_an_order(at: Floor) -> None:
    ann = await at.trader("ann", USD="100")
    fails(await ann.limit("buy", "0", "0", "X"), E.INVALID_FIELD, "'Price' cannot be less than zero.")
    fails(await ann.limit("buy", "0", "1", "X"), E.INVALID_FIELD, "'Volume' cannot be less than zero.")
    fails(await ann.limit("buy", "0.00001", "1", "X"), E.ITEM_NOT_FOUND, "Asset pair not found")
    fails(await ann.limit("buy", "0.00001", "1"), E.INVALID_FIELD, "'Volume' must be greater than 0.0001.")
    fails(await ann.limit("buy", "1", "100.01"), 2006, "Not enough funds")
    asked = private("LimitOrderRequest", assetPairId="BTCUSD", side=2, volume="1", price="1")
    fails(await ann.ask("PlaceLimitOrder", asked), E.INVALID_FIELD, "side is buy or sell.")
    fails(await ann.market("buy", "-1", "X"), E.INVALID_FIELD)
    fails(await ann.market("buy", "0.00001", "X"), E.ITEM_NOT_FOUND)
    fails(await ann.market("buy", "0.00001"), E.INVALID_FIELD)


async def test_what_the_engine_refuses_is_told_by_its_number(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="100000", BTC="10", ETH="200"), await at.trader("bob", USD="100", BTC="9000")
    fails(await ann.market("buy", "1"), 2005, "No liquidity")
    await ann.placed("sell", "1", "100")
    fails(await ann.limit("buy", "1", "100"), 2011)
    fails(await ann.limit("buy", "1.000000001", "1"), 2018)
    fails(await ann.limit("buy", "1", "1.0001"), 2019)
    fails(await ann.limit("sell", "150", "1", "ETHUSD"), 2020)
    fails(await ann.limit("sell", "1", "1", "ETHBTC"), 2003)
    fails(await bob.limit("sell", "9000", "200"), 2022)
    fails(await bob.market("buy", "1.000000001"), 2018)
    await ann.placed("sell", "1", "101")
    fails(await bob.market("buy", "2"), 2006)
    await ann.placed("buy", "1", "10", "ETHUSD")
    fails(await ann.limit("sell", "1", "50", "ETHUSD"), 2021)


class Refusing(OrderGateway):
    """The exchange, whose limit orders all meet the fault that a test says."""

    fault: Exception

    async def limit(self, *_: Any, **__: Any) -> str:
        raise self.fault


@pytest.mark.parametrize(
    ("fault", "number", "text"),
    [
        *((Rejected(code), names.NUMBERS[code.value], None) for code in Code),
        (Rejected(Code.UNKNOWN_PAIR, field="assetPairId"), 1100, "Asset pair not found"),
        (Unavailable("store", "the disk is full"), 2023, "ME not available"),
        (ZeroDivisionError("secret"), 1001, "Runtime error"),
    ],
)
async def test_every_no_has_its_number(at: Floor, fault: Exception, number: int, text: str | None) -> None:
    gateway = Refusing(at.sequencer, at.store, at.clock, at.telemetry, str)
    gateway.fault = fault
    gateway.views = at.gateway.views
    server = RpcServer(services(replace(at.doors, gateway=gateway)), "127.0.0.1", 0)
    ann = await at.trader("ann", USD="100")
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        fails(await Client(channel, ann.key).limit("buy", "1", "1"), number, text)  # type: ignore[attr-defined]
    await server.stop()


async def test_too_much_at_once_ends_with_a_status(tmp_path: Path) -> None:
    """It is the caller's to come again: nothing was done."""
    async with floor(tmp_path) as at:
        ann = await at.trader("ann", USD="100000")
        gateway = Refusing(at.sequencer, at.store, at.clock, at.telemetry, str)
        gateway.fault = LimitExceeded("too many commands wait", 1.0)
        gateway.views = at.gateway.views
        server = RpcServer(services(replace(at.doors, gateway=gateway)), "127.0.0.1", 0)
        async with grpc.aio.insecure_channel(await server.start()) as channel:
            call = Client(channel, ann.key).limit("buy", "1", "1")  # type: ignore[attr-defined]
            assert await refused(call) == (Status.RESOURCE_EXHAUSTED, "too many commands wait")
        await server.stop()


async def test_what_is_no_message_is_refused_and_breaks_nothing(at: Floor) -> None:
    ann = await at.trader("ann", USD="100")
    for service, method in ((contract.PUBLIC, "GetPrices"), (contract.PRIVATE, "PlaceLimitOrder")):
        for junk in (b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x00" * 50):
            call = ann.channel.unary_unary(f"/{service}/{method}")(junk, metadata=ann.metadata)
            assert (await refused(call))[0] is Status.INVALID_ARGUMENT
    call = ann.channel.unary_unary(f"/{contract.PRIVATE}/Nope")(b"", metadata=ann.metadata)
    assert (await refused(call))[0] is Status.UNIMPLEMENTED
    await ann.placed("buy", "1", "1")


async def test_calls_are_counted_by_what_became_of_them(at: Floor) -> None:
    await at.stranger().tell("GetAssets")
    await refused(at.stranger().ask("GetBalances"))

    def count(method: str, status: str) -> float | None:
        labels = {"method": method, "status": status}
        return at.telemetry.registry.get_sample_value("openoutcry_grpc_calls_total", labels)

    assert (count("GetAssets", "OK"), count("GetBalances", "UNAUTHENTICATED")) == (1, 1)
