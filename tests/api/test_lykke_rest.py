"""Lykke's API over HTTP: a real server before a real exchange, route by route, code by code."""

import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.lykke import names, swagger
from openoutcry.api.lykke.rest import Lykke
from openoutcry.errors import LimitExceeded, Refusal, Unavailable
from openoutcry.orders import Code
from openoutcry.trading.risk import Rejected
from openoutcry.trading.views import TradeView
from tests.api.conftest import NOW_NS
from tests.api.lykke_world import LISTINGS, Floor, floor

NOW_MS = NOW_NS // 1_000_000
UNKNOWN = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
async def made(served: Any, tmp_path: Path) -> AsyncIterator[Floor]:
    """Two wallets with everything."""
    async with floor(served, tmp_path) as built:
        for wallet in (built.wallet, built.other_wallet):
            await built.give(wallet, BTC="10", USD="100000", ETH="20", SHIB="5000000")
        yield built


# What everybody sees


async def test_who_answers(made: Floor) -> None:
    answer = await made.ask("GET", "/isalive", None)
    assert answer.json() == {
        "name": "openoutcry", "version": "0.1.0", "env": "", "hostName": "", "isDebug": False,
        "startedAt": "2025-11-19T12:00:00Z", "stateIndicators": [],
    }  # fmt: skip


async def test_assets(made: Floor) -> None:
    ether = {"assetId": "eth-1", "name": "Ether", "symbol": "ETH", "accuracy": 8}
    assert (await made.told("GET", "/assets", None))[:3] == [
        {"assetId": "BTC", "name": "Bitcoin", "symbol": "BTC", "accuracy": 8},
        {"assetId": "USD", "name": "US dollar", "symbol": "USD", "accuracy": 2},
        ether,
    ]
    assert await made.told("GET", "/assets/eth-1", None) == ether
    assert await made.no("GET", "/assets/ETH", None) == (1100, "Asset not found", {"assetId": "Asset not found"})


async def test_pairs(made: Floor) -> None:
    pair = {
        "assetPairId": "BTCUSD", "baseAssetId": "BTC", "quoteAssetId": "USD", "name": "BTC/USD", "priceAccuracy": 3,
        "baseAssetAccuracy": 8, "quoteAssetAccuracy": 2, "minVolume": Decimal("0.0001"), "minOppositeVolume": 1,
    }  # fmt: skip
    assert [each["assetPairId"] for each in await made.told("GET", "/assetpairs", None)] == list(LISTINGS.pairs)
    assert (await made.told("GET", "/assetpairs", None))[0] == pair
    assert await made.told("GET", "/assetpairs/BTCUSD", None) == pair
    missing = "Asset pair not found"
    assert await made.no("GET", "/assetpairs/BTC", None) == (1100, missing, {"assetPairId": missing})


async def test_books(made: Floor) -> None:
    for volume, price in (("0.5", "100"), ("0.00010000", "100.0"), ("1", "99.999"), ("2", "98")):
        await made.limit("Buy", volume, price)
    await made.limit("Sell", "0.3", "101.5")
    await made.limit("Sell", "3", "101.25", key=made.other)
    bids = [{"v": Decimal("0.5001"), "p": 100}, {"v": 1, "p": Decimal("99.999")}, {"v": 2, "p": 98}]
    asks = [{"v": -3, "p": Decimal("101.25")}, {"v": Decimal("-0.3"), "p": Decimal("101.5")}]
    book = {"assetPairId": "BTCUSD", "timestamp": NOW_MS, "bids": bids, "asks": asks}

    async def books(**query: Any) -> Any:
        return await made.told("GET", "/orderbooks", None, params=query)

    assert await books(assetPairId="BTCUSD") == [book]
    assert (await books())[0] == book
    assert [each["assetPairId"] for each in await books()] == list(LISTINGS.pairs)
    assert await books(assetPairId="BTCUSD", depth=1) == [book | {"bids": bids[:1], "asks": asks[:1]}]
    assert await books(assetPairId="BTCUSD", depth=0) == await books(assetPairId="BTCUSD", depth=-5) == [book]
    assert (await books(assetPairId="ETHUSD"))[0]["bids"] == []
    assert await made.no("GET", "/orderbooks?assetPairId=btcusd", None) == (
        1100, "Asset pair not found", {"assetPairId": "Asset pair not found"},
    )  # fmt: skip


async def test_numbers_are_written_plain_and_whole(made: Floor) -> None:
    """A small price has no exponent, a volume no zeros that say nothing; both as they would be in any decimal's text."""
    await made.limit("Buy", "1000000", "0.00000001", pair="SHIBUSD")
    await made.limit("Sell", "1.0e3", "0.00000123", pair="SHIBUSD")
    text = (await made.ask("GET", "/orderbooks?assetPairId=SHIBUSD", None)).text
    assert '"bids":[{"v":1000000,"p":0.00000001}],"asks":[{"v":-1000,"p":0.00000123}]' in text
    assert '"bid":0.00000001,"ask":0.00000123,' in (await made.ask("GET", "/prices?assetPairIds=SHIBUSD", None)).text


async def test_prices_and_tickers(made: Floor) -> None:
    await made.limit("Buy", "1", "100")
    assert await made.told("GET", "/prices?assetPairIds=BTCUSD", None) == [
        {"assetPairId": "BTCUSD", "bid": 100, "ask": 0, "timestamp": NOW_MS}
    ]
    await made.limit("Sell", "0.25", "100", key=made.other)
    await made.limit("Buy", "1", "110.5")
    await made.limit("Sell", "0.5", "110.5", key=made.other)
    ticker = {
        "assetPairId": "BTCUSD", "volumeBase": Decimal("0.75"), "volumeQuote": Decimal("80.25"),
        "priceChange": Decimal("0.105"), "lastPrice": Decimal("110.5"), "high": Decimal("110.5"), "low": 100,
        "timestamp": NOW_MS,
    }  # fmt: skip
    assert await made.told("GET", "/tickers?assetPairIds=BTCUSD", None) == [ticker]
    for path in ("/tickers", "/prices"):
        assert [each["assetPairId"] for each in await made.told("GET", path, None)] == list(LISTINGS.pairs)
        some = await made.told("GET", f"{path}?assetPairIds=shibusd&assetPairIds=XY&assetPairIds=BtcUsd", None)
        assert [each["assetPairId"] for each in some] == ["BTCUSD", "SHIBUSD"]
        assert await made.told("GET", f"{path}?assetPairIds=XY", None) == []


async def test_public_trades(made: Floor) -> None:
    await made.limit("Sell", "1", "100")
    await made.limit("Buy", "0.25", "100", key=made.other)
    await made.clock.advance(1.0)
    await made.limit("Buy", "5", "90")
    await made.told("POST", "/orders/market", made.other, json={"assetPairId": "BTCUSD", "side": "Sell", "volume": 0.5})
    newest, oldest = await made.told("GET", "/trades/public/BTCUSD", None)
    assert newest == {
        "id": newest["id"], "assetPairId": "BTCUSD", "timestamp": NOW_MS + 1_000, "volume": Decimal("0.5"), "price": 90,
        "side": "sell",
    }  # fmt: skip
    assert (oldest["side"], oldest["price"], oldest["timestamp"]) == ("buy", 100, NOW_MS)
    assert await made.told("GET", "/trades/public/BTCUSD?offset=1&take=1", None) == [oldest]
    assert await made.told("GET", "/trades/public/BTCUSD?take=0", None) == []
    assert (await made.no("GET", "/trades/public/XY", None))[0] == 1100


# What a wallet sees and does


async def test_balances(made: Floor) -> None:
    await made.clock.advance(2.0)
    await made.limit("Buy", "0.3333", "99.999")
    told = await made.told("GET", "/balance")
    assert told[0] == {"assetId": "BTC", "available": 10, "reserved": 0, "timestamp": NOW_MS}
    # All of it, what is reserved too; that is rounded up to a cent.
    assert told[2] == {
        "assetId": "USD",
        "available": 100_000,
        "reserved": Decimal("33.33"),
        "timestamp": NOW_MS + 2_000,
    }
    assert [each["assetId"] for each in told] == ["BTC", "SHIB", "USD", "eth-1"]


async def test_the_life_of_an_order(made: Floor) -> None:
    id_ = await made.limit("buy", "2", "100")
    placed = {
        "id": id_, "timestamp": NOW_MS, "lastTradeTimestamp": None, "status": "Placed", "assetPairId": "BTCUSD", "type": "Limit",
        "side": "Buy", "price": 100, "volume": 2, "filledVolume": 0, "remainingVolume": 2, "cost": 0,
    }  # fmt: skip
    assert await made.told("GET", f"/orders/{id_}") == placed
    assert await made.told("GET", "/orders/active") == [placed]
    await made.clock.advance(1.0)
    taker = await made.limit("SELL", "0.5", "99.5", key=made.other)
    part = placed | {
        "status": "PartiallyMatched", "lastTradeTimestamp": NOW_MS + 1_000, "filledVolume": Decimal("0.5"),
        "remainingVolume": Decimal("1.5"), "cost": 50,
    }  # fmt: skip
    assert await made.told("GET", "/orders/active?assetPairId=BTCUSD") == [part]
    assert await made.told("GET", "/orders/closed") == []
    assert await made.told("GET", f"/orders/{taker}", made.other) == part | {
        "id": taker, "timestamp": NOW_MS + 1_000, "status": "Matched", "side": "Sell", "price": Decimal("99.5"),
        "volume": Decimal("0.5"), "remainingVolume": 0, "cost": Decimal("49.75"),
    }  # fmt: skip
    assert await made.told("DELETE", f"/orders/{id_}") is None
    assert await made.told("GET", "/orders/closed") == [part | {"status": "Cancelled"}]
    assert await made.told("GET", "/orders/active") == []
    assert await made.no("DELETE", f"/orders/{id_}") == (2009, "Not found", {})


async def test_a_market_order_says_its_average_price(made: Floor) -> None:
    await made.limit("Sell", "1", "100")
    await made.limit("Sell", "1", "100.001")
    asked = {"assetPairId": "BTCUSD", "side": "Buy", "volume": 1.5}
    done = await made.told("POST", "/orders/market", made.other, json=asked)
    assert done == {"orderId": done["orderId"], "price": Decimal("100.001")}
    order = await made.told("GET", f"/orders/{done['orderId']}", made.other)
    assert (order["type"], order["status"], order["price"]) == ("Market", "Matched", Decimal("100.001"))


async def test_trades_of_a_wallet(made: Floor) -> None:
    maker = await made.limit("Sell", "1", "100", pair="ETHUSD")
    await made.clock.advance(1.0)
    taker = await made.limit("Buy", "0.4", "100", pair="ETHUSD", key=made.other)
    await made.clock.advance(1.0)
    await made.limit("Buy", "0.0001", "100")
    await made.limit("Sell", "0.0001", "100", key=made.other)
    newest, oldest = await made.told("GET", "/trades")
    assert oldest == {
        "id": oldest["id"], "timestamp": NOW_MS + 1_000, "assetPairId": "ETHUSD", "orderId": maker, "role": "Maker",
        "side": "sell", "price": 100, "baseVolume": Decimal("0.4"), "quoteVolume": 40, "baseAssetId": "eth-1",
        "quoteAssetId": "USD", "fee": {"size": Decimal("0.04"), "assetId": "USD"},
    }  # fmt: skip
    assert (newest["side"], newest["fee"], newest["quoteVolume"]) == ("buy", None, Decimal("0.01"))
    (other,) = await made.told("GET", f"/trades/order/{taker}", made.other)
    assert other == oldest | {
        "orderId": taker, "role": "Taker", "side": "buy", "fee": {"size": Decimal("0.0008"), "assetId": "eth-1"},
    }  # fmt: skip
    assert await made.told("GET", f"/trades/order/{maker}") == [oldest]
    assert await made.told("GET", f"/trades/order/{UNKNOWN}") == []

    async def trades(**query: Any) -> Any:
        return await made.told("GET", "/trades", params=query)

    assert await trades(side="BUY") == [newest]
    assert await trades(side=1, assetPairId="ETHUSD") == [oldest]
    assert await trades(assetPairId="BTCUSD", side="sell") == []
    # From is exclusive, to inclusive.
    assert await trades(**{"from": NOW_MS + 1_000}) == [newest]
    assert await trades(**{"from": NOW_MS + 999, "to": NOW_MS + 1_000}) == [oldest]
    assert await trades(to=NOW_MS + 999) == []
    assert await trades(**{"from": -(2**63), "to": 2**63 - 1, "offset": 1}) == [oldest]
    assert await trades(take=1) == [newest]


async def test_a_bulk_replaces_and_says_what_became_of_each(made: Floor) -> None:
    old = await made.limit("Sell", "1", "120")
    kept = await made.limit("Buy", "1", "90")
    asked = {
        "assetPairId": "BTCUSD", "orders": [
            {"orderAction": "sell", "volume": 0.5, "price": 121.5, "oldId": old},
            {"orderAction": "Buy", "volume": "0.00001", "price": 99},
            {"orderAction": 0, "volume": 1, "price": 95, "oldId": UNKNOWN},
            {"volume": 0.25, "price": 91, "oldId": None},
        ],
    }  # fmt: skip
    done = await made.told("POST", "/orders/bulk", json=asked)
    ids = [each.pop("id") for each in done["statuses"]]
    assert done == {
        "assetPairId": "BTCUSD",
        "error": "success",
        "statuses": [
            {"error": "success", "volume": Decimal("-0.5"), "price": Decimal("121.5")},
            {"error": "meTooSmallVolume", "volume": Decimal("0.00001"), "price": 99},
            {"error": "meNotFoundPrevious", "volume": 1, "price": 95},
            {"error": "success", "volume": Decimal("0.25"), "price": 91},
        ],
    }
    assert [each["id"] for each in await made.told("GET", "/orders/active")] == [ids[3], ids[0], kept]
    assert (await made.told("GET", f"/orders/{old}"))["status"] == "Replaced"


@pytest.mark.parametrize(
    ("mode", "left"),
    [
        ({}, ["Buy", "Sell"]),
        ({"cancelMode": "bothSides"}, ["Buy", "Sell"]),
        ({"cancelPreviousOrders": True}, ["Sell"]),
        ({"cancelPreviousOrders": True, "cancelMode": "NotEmptySide"}, ["Sell"]),
        ({"cancelPreviousOrders": True, "cancelMode": 1}, []),
        ({"cancelPreviousOrders": True, "cancelMode": "sellside"}, ["Buy"]),
        ({"cancelPreviousOrders": True, "cancelMode": "buySide"}, ["Sell"]),
    ],
)
async def test_a_bulk_cancels_what_it_is_told_to(made: Floor, mode: dict[str, Any], left: list[str]) -> None:
    await made.limit("Sell", "1", "120")
    await made.limit("Buy", "1", "90")
    asked = {"assetPairId": "BTCUSD", "orders": [{"orderAction": "buy", "volume": 1, "price": 80}], **mode}
    await made.told("POST", "/orders/bulk", json=asked)
    assert sorted(each["side"] for each in (await made.told("GET", "/orders/active"))[1:]) == left


async def test_an_empty_bulk_cancels(made: Floor) -> None:
    await made.limit("Sell", "1", "120")
    asked = {"assetPairId": "BTCUSD", "cancelPreviousOrders": True, "cancelMode": "bothSides", "orders": []}
    assert (await made.told("POST", "/orders/bulk", json=asked))["statuses"] == []
    assert await made.told("GET", "/orders/active") == []


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("", []),
        ("?assetPairId=BTCUSD", ["ETHUSD Buy"]),
        ("?side=Buy", ["BTCUSD Sell"]),
        ("?side=1", ["BTCUSD Buy", "ETHUSD Buy"]),
        ("?assetPairId=BTCUSD&side=sell", ["BTCUSD Buy", "ETHUSD Buy"]),
    ],
)
async def test_cancel_all_takes_both_sides_unless_one_is_named(made: Floor, query: str, left: list[str]) -> None:
    await made.limit("Sell", "1", "120")
    await made.limit("Buy", "1", "90")
    await made.limit("Buy", "1", "9", pair="ETHUSD")
    other = await made.limit("Buy", "1", "80", key=made.other)
    answer = await made.ask("DELETE", f"/orders{query}")
    assert answer.json() == {"payload": None, "error": None}
    told = await made.told("GET", "/orders/active")
    assert sorted(f"{each['assetPairId']} {each['side']}" for each in told) == left
    assert [each["id"] for each in await made.told("GET", "/orders/active", made.other)] == [other]
    assert await made.told("DELETE", f"/orders{query}") is None


async def test_lists_are_paged(made: Floor) -> None:
    ids = [await made.limit("Buy", "1", str(price)) for price in range(90, 95)]
    for path in ("/orders/active", "/orders/closed"):
        pages = [await made.told("GET", f"{path}?offset={at}&take=2") for at in (0, 2, 4, 6)]
        assert [each["id"] for page in pages for each in page] == ids[::-1]
        assert [len(page) for page in pages] == [2, 2, 1, 0]
        await made.told("DELETE", "/orders")


async def test_deposits_and_withdrawals_of_the_operator_are_told(made: Floor) -> None:
    await made.clock.advance(1.0)
    await made.gateway.move("out-1", made.wallet, "USD", Decimal("-12.5"))
    out, *ins = await made.told("GET", "/operations")
    assert out == {
        "operationId": "out-1", "assetId": "USD", "totalVolume": Decimal("12.5"), "fee": 0, "type": "withdrawal",
        "timestamp": NOW_MS + 1_000,
    }  # fmt: skip
    assert [(each["assetId"], each["totalVolume"], each["type"]) for each in ins][-1] == ("BTC", 10, "deposit")
    assert await made.told("GET", "/operations?offset=1&take=1") == ins[:1]


async def test_nothing_here_is_on_a_chain(made: Floor) -> None:
    good = {"assetId": "BTC", "volume": 1, "destinationAddress": "bc1q"}
    text = "This exchange is on no chain: its operator deposits and withdraws"
    refused: tuple[int, str, dict[str, str]] = (1102, text, {})
    assert await made.no("POST", "/operations/deposits/addresses") == refused
    assert await made.no("GET", "/operations/deposits/addresses") == refused
    assert await made.no("GET", "/operations/deposits/addresses/BTC") == refused
    assert await made.no("GET", "/operations/deposits/addresses/XY") == (
        1100, "Asset not found", {"assetId": "Asset not found"},
    )  # fmt: skip
    less = "volume cannot be less than zero."
    for body, said in (
        (good | {"volume": 0, "assetId": "XY"}, (1101, less, {"volume": less})),
        (good | {"assetId": "XY"}, (1100, "Asset not found", {"assetId": "Asset not found"})),
        (good | {"destinationAddressExtension": "7"}, refused),
    ):
        # Twice under one id: the same answer, and nothing moved.
        for _ in range(2):
            headers = {"X-Request-ID": "one"}
            assert await made.no("POST", "/operations/withdrawals", json=body, headers=headers) == said
    assert (await made.told("GET", "/balance"))[0]["available"] == 10


# Codes


Fault = tuple[str, str, Any]


def placed(kind: str = "limit", **body: Any) -> Fault:
    return "POST", f"/orders/{kind}", {"assetPairId": "BTCUSD", **body}


CODES: list[tuple[int, str | None, Fault]] = [
    (1100, "assetPairId", placed(assetPairId="XY", volume=1, price=1)),
    (1101, "price", placed(assetPairId="XY", volume=-1)),
    (1101, "volume", placed(assetPairId="XY", price=1)),
    (1101, "volume", placed(volume="0.00009999", price=1)),
    (2006, "volume", placed(side="buy", volume=10, price="10000.001")),
    (2006, "volume", placed(side="sell", volume="10.00000001", price=1)),
    (2003, "assetPairId", placed(assetPairId="ETHBTC", volume=1, price=1)),
    (2019, "price", placed(volume=1, price="100.0001")),
    (2018, "volume", placed(volume="1.000000001", price=100)),
    (2020, "volume", placed(volume="50.00000001", price=1)),
    (2021, None, placed(side="buy", volume=1, price="165.001")),
    (2011, None, placed(side="buy", volume=1, price=110)),
    (1101, "volume", placed("market", assetPairId="XY")),
    (1100, "assetPairId", placed("market", assetPairId="XY", volume=1)),
    (1101, "volume", placed("market", volume="0.00009999")),
    (2005, None, placed("market", side="sell", volume=1)),
    (2018, None, placed("market", side="buy", volume="0.000100001")),
    (2004, "assetPairId", placed("bulk", assetPairId="XY", orders=[])),
    (1100, "assetPairId", ("GET", "/orders/active?assetPairId=XY&offset=-1", None)),
    (1101, "offset", ("GET", "/orders/active?offset=-1&take=-1", None)),
    (1101, "take", ("GET", "/orders/closed?take=-1", None)),
    (1101, "take", ("GET", "/orders/closed?take=1001", None)),
    (1101, "take", ("GET", "/trades?take=1001", None)),
    (1101, "offset", ("GET", "/trades/public/BTCUSD?offset=-1", None)),
    (1100, "assetPairId", ("GET", "/trades?assetPairId=XY", None)),
    (1101, "take", ("GET", "/operations?take=1001", None)),
    (1100, "assetPairId", ("DELETE", "/orders?assetPairId=XY", None)),
    (1100, UNKNOWN, ("GET", f"/orders/{UNKNOWN}", None)),
    (2009, None, ("DELETE", f"/orders/{UNKNOWN}", None)),
    (1100, "a b", ("GET", "/orders/a%20b", None)),
    (1100, "x" * 101, ("GET", f"/orders/{'x' * 101}", None)),
    (1100, "\x00", ("GET", "/orders/%00", None)),
    (2009, None, ("DELETE", "/orders/%00", None)),
    (2009, None, ("DELETE", f"/orders/{'x' * 5_000}", None)),
]


async def test_each_fault_has_its_number_and_its_field(made: Floor) -> None:
    await made.limit("Sell", "1", "110")
    before = await made.told("GET", "/balance")
    for number, field, asked in CODES:
        method, path, body = asked
        said = await made.no(method, path, json=body)
        assert said == (number, said[1], {} if field is None else {field: said[1]}), asked
        assert said[1]
        assert await made.told("GET", "/balance") == before, asked


async def test_a_market_order_is_refused_without_funds_or_an_order_of_another(made: Floor) -> None:
    await made.limit("Sell", "1", "110")
    own = placed("market", side="buy", volume=1)
    assert (await made.no(own[0], own[1], json=own[2]))[0] == 2005
    wallet, key = await made.trader("poor@example.com")
    await made.give(wallet, USD="1")
    assert (await made.no(own[0], own[1], key, json=own[2]))[0] == 2006


ITEMS: list[tuple[dict[str, Any], str]] = [
    ({"volume": 1, "price": 100}, "success"),
    ({"volume": 1}, "meInvalidPrice"),
    ({"volume": 1, "price": -1}, "meInvalidPrice"),
    ({"price": 100}, "meInvalidVolume"),
    ({"volume": "0.00009999", "price": 100}, "meTooSmallVolume"),
    ({"volume": 51, "price": 100}, "meInvalidVolume"),
    ({"volume": 1, "price": "100.0001"}, "meInvalidPriceAccuracy"),
    ({"volume": "1.000000001", "price": 100}, "meInvalidVolumeAccuracy"),
    ({"volume": 50, "price": 20001}, "meInvalidOrderValue"),
    ({"volume": 1, "price": 110}, "meLeadToNegativeSpread"),
    ({"volume": 1, "price": 170}, "meTooHighPriceDeviation"),
    ({"orderAction": "sell", "volume": "9.5", "price": 120}, "meNotEnoughFunds"),
    ({"volume": 1, "price": 100, "oldId": UNKNOWN}, "meNotFoundPrevious"),
]


async def test_each_fault_of_a_bulks_order_has_its_word(made: Floor) -> None:
    """All in one bulk: none spoils another."""
    await made.limit("Sell", "1", "110")
    asked = {"assetPairId": "BTCUSD", "orders": [item for item, _ in ITEMS]}
    done = (await made.told("POST", "/orders/bulk", json=asked))["statuses"]
    assert [status["error"] for status in done] == [word for _, word in ITEMS]
    assert len(await made.told("GET", "/orders/active")) == 2


async def test_a_bulk_is_bounded(made: Floor) -> None:
    asked = {"assetPairId": "BTCUSD", "orders": [{"volume": 1, "price": 1}] * 1_001}
    text = "orders '1001' is too big, maximum is '1000'."
    assert await made.no("POST", "/orders/bulk", json=asked) == (1101, text, {"orders": text})


class Faulty:
    """An exchange that says one thing whatever it is asked, and has these trades of any order."""

    def __init__(self, says: Exception, trades: Sequence[TradeView] = ()) -> None:
        self.says = says
        self.listings = LISTINGS
        self.kept = trades

    async def limit(self, *_: Any, **__: Any) -> str:
        raise self.says

    async def order(self, *_: Any) -> None:
        raise self.says

    async def cancel(self, *_: Any) -> None:
        raise self.says

    async def trades(self, wallet: str, *, order: str, offset: int, limit: int) -> Sequence[TradeView]:
        if not self.kept:
            raise self.says
        assert wallet
        assert order == UNKNOWN
        return self.kept[offset : offset + limit]


@asynccontextmanager
async def before(made: Floor, gateway: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a server before that exchange."""
    changed = replace(made.doors, gateway=gateway)
    server = HttpServer(application(changed, [Lykke(changed)]), "127.0.0.1", 0)
    url, headers = f"http://{await server.start()}/api", {"authorization": f"Bearer {made.key}"}
    http = httpx2.AsyncClient(trust_env=False, headers=headers, base_url=url)
    try:
        yield http
    finally:
        await http.aclose()
        await server.stop()


@asynccontextmanager
async def faulty(made: Floor) -> AsyncIterator[Callable[[Exception], Awaitable[httpx2.Response]]]:
    """What is answered to a limit order where the exchange fails like that."""
    gateway = Faulty(RuntimeError())
    async with before(made, gateway) as http:

        async def ask(says: Exception) -> httpx2.Response:
            gateway.says = says
            return await http.post("/orders/limit", json={"assetPairId": "BTCUSD", "volume": 1, "price": 1})

        yield ask


async def test_no_store_is_asked_for_an_id_that_no_order_has(made: Floor) -> None:
    """Some databases fail at such a text."""
    async with before(made, Faulty(RuntimeError("it was asked"))) as http:
        for id_, field in (("%00", "\x00"), ("x" * 101, "x" * 101), ("%C3%A9", "\u00e9")):
            answer = (await http.get(f"/orders/{id_}")).json()
            assert answer["error"] == {"code": 1100, "message": "Order not found", "fields": {field: "Order not found"}}
            assert (await http.delete(f"/orders/{id_}")).json()["error"]["code"] == 2009
            assert (await http.get(f"/trades/order/{id_}")).json() == {"payload": [], "error": None}


async def test_all_trades_of_an_order_are_told(made: Floor) -> None:
    one, cent = Decimal(1), Decimal("0.01")
    trades = [
        TradeView(f"{n}", n, "BTCUSD", UNKNOWN, True, True, one, one, cent, "BTC", "USD", None, "BTC")
        for n in range(2_500)
    ]
    async with before(made, Faulty(RuntimeError(), trades)) as http:
        told = (await http.get(f"/trades/order/{UNKNOWN}")).json()["payload"]
    assert [row["id"] for row in told] == [f"{n}" for n in range(2_500)]


async def test_every_code_of_the_exchange_is_answered_with_its_number(made: Floor) -> None:
    async with faulty(made) as ask:
        for code in Code:
            answer = await ask(Rejected(code, "No"))
            assert answer.status_code == 200
            error = {"code": names.NUMBERS[code], "message": "No", "fields": {}}
            assert answer.json() == {"error": error, "payload": None}


FAULTS: list[tuple[Exception, int, Any]] = [
    (Unavailable("store", "a file of ours is full"), 200,
     {"error": {"code": 2023, "message": "ME not available", "fields": {}}, "payload": None}),
    (RuntimeError("a secret"), 500,
     {"error": {"code": 1001, "message": "Runtime error", "fields": {}}, "payload": None}),
    (Refusal("something new"), 500,
     {"error": {"code": 1001, "message": "Runtime error", "fields": {}}, "payload": None}),
    (LimitExceeded("too many commands wait", 2.5), 429,
     {"type": "about:blank", "title": "Too many requests", "status": 429, "detail": "too many commands wait"}),
]  # fmt: skip


async def test_faults_of_the_server_are_told_without_a_word_about_it(made: Floor) -> None:
    async with faulty(made) as ask:
        for says, status, told in FAULTS:
            answer = await ask(says)
            assert answer.status_code == status
            said = answer.json()
            said.pop("traceId", None)
            assert said == told
            assert answer.headers.get("retry-after") == ("3" if status == 429 else None)


# Bodies that do not bind


UNBOUND: list[tuple[str, bytes, list[str]]] = [
    ("/orders/limit", b"", [""]),
    ("/orders/limit", b"{", [""]),
    ("/orders/limit", b"[1]", [""]),
    ("/orders/limit", b"a=b&c=d", [""]),
    ("/orders/limit", b'{"volume":1,"price":1}', ["assetPairId"]),
    ("/orders/limit", b'{"assetPairId":"BTCUSD","side":"long","volume":1,"price":1}', ["side"]),
    ("/orders/limit", b'{"assetPairId":"BTCUSD","volume":1,"price":1,"postOnly":true}', [""]),
    ("/orders/limit", b'{"assetPairId":"BTCUSD","volume":1e999,"price":"NaN"}', ["volume", "price"]),
    ("/orders/limit", b'{"assetPairId":"BTCUSD","volume":1,"price":0.%b}' % (b"1" * 30), ["price"]),
    ("/orders/market", b'{"assetPairId":"BTCUSD","volume":1,"price":1}', [""]),
    ("/orders/market", b'{"assetPairId":null,"volume":null}', ["assetPairId", "volume"]),
    ("/orders/bulk", b'{"assetPairId":"BTCUSD","orders":[{"side":"buy"}]}', ["orders[0]"]),
    ("/orders/bulk", b'{"cancelMode":"none","orders":[{},{"volume":[]}]}', ["assetPairId", "cancelMode", "orders[1].volume"]),
    ("/operations/withdrawals", b'{"volume":1}', ["assetId", "destinationAddress"]),
]  # fmt: skip


async def test_a_body_that_does_not_bind_is_told_field_by_field(made: Floor) -> None:
    for path, content, fields in UNBOUND:
        said = await made.problem(400, "POST", path, content=content)
        assert said["title"] == "One or more validation errors occurred."
        assert list(said["errors"]) == fields, content
        assert all(texts and all(texts) for texts in said["errors"].values())


async def test_a_query_that_does_not_bind_is_told(made: Floor) -> None:
    for query in ("take=x", "offset=1.5", "side=long", "from=now", "take=99999999999", "side=%ff"):
        said = await made.problem(400, "GET", f"/trades?{query}")
        assert list(said["errors"]) == [query.partition("=")[0] if "%" not in query else ""]


async def test_a_body_that_is_too_large_is_not_read(made: Floor) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(110):
            yield b" " * 10_000

    for content in (b" " * 1_100_000, pieces()):
        await made.problem(413, "POST", "/orders/bulk", content=content)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.sampled_from([0, 1, 0.5, "1", "100.5", -1, 1e-9, "1e5", 10**27, "0." + "1" * 27]) | ANYTHING
SIDES = st.sampled_from(["buy", "Sell", 0, 1]) | ANYTHING
PAIRS = st.sampled_from(["BTCUSD", "ETHUSD", "SHIBUSD", "ETHBTC"]) | ANYTHING
ITEM = st.fixed_dictionaries(
    {}, optional={"orderAction": SIDES, "volume": NUMBERS, "price": NUMBERS, "oldId": ANYTHING}
)  # fmt: skip
BODIES = st.one_of(
    st.tuples(
        st.sampled_from(["limit", "market"]),
        st.fixed_dictionaries({"assetPairId": PAIRS}, optional={"side": SIDES, "volume": NUMBERS, "price": NUMBERS}),
    ),
    st.tuples(
        st.just("bulk"),
        st.fixed_dictionaries(
            {"assetPairId": PAIRS},
            optional={
                "cancelPreviousOrders": st.booleans() | ANYTHING, "cancelMode": st.integers(0, 4) | ANYTHING,
                "orders": st.lists(ITEM, max_size=4) | ANYTHING,
            },
        ),
    ),
    st.tuples(st.sampled_from(["limit", "market", "bulk"]), ANYTHING),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(BODIES, min_size=1, max_size=5))
async def test_no_body_is_a_fault_of_ours(made: Floor, bodies: list[tuple[str, Any]]) -> None:
    """Whatever is sent is done, refused with a number, or a problem; and what the wallets have stays what was brought in."""
    for kind, body in bodies:
        answer = await made.ask("POST", f"/orders/{kind}", content=json.dumps(body).encode())
        assert answer.status_code in (200, 400), (answer.status_code, body)
        if answer.status_code == 200:
            said = answer.json()
            assert (said["error"] is None) != (said["payload"] is None)
    for each in await made.told("GET", "/balance"):
        assert 0 <= each["reserved"] <= each["available"]


# Keys and wallets


KEYED = [route for route in swagger.ROUTES if route.keyed]


def path_of(route: swagger.Route) -> str:
    return route.path.removeprefix("/api").format(assetId="BTC", orderId=UNKNOWN, assetPairId="BTCUSD")


async def test_a_wallet_opens_to_its_key_alone(made: Floor) -> None:
    record, revoked = await made.keys.create("gone", ["trade"], made.wallet)
    await made.keys.revoke(record.id)
    _, nobodys = await made.keys.create("operator", ["trade"])
    _, narrow = await made.keys.create("reader", ["market", "ai"], made.wallet)
    for route in KEYED:
        lacks = 'Bearer error="insufficient_scope", scope="trade"'
        for key, told in (
            (None, "Bearer"),
            ("wrong", "Bearer"),
            (revoked, "Bearer"),
            (nobodys, lacks),
            (narrow, lacks),
        ):
            # A body that does not bind: who may not come in is told nothing of it.
            answer = await made.ask(route.method, path_of(route), key, content=b"{")
            assert (answer.status_code, answer.content) == (401, b""), (route, key)
            assert answer.headers["www-authenticate"] == told


async def test_what_is_public_needs_no_key(made: Floor) -> None:
    for route in swagger.ROUTES:
        if not route.keyed:
            assert (await made.ask(route.method, path_of(route), "wrong")).status_code == 200, route


async def test_nobody_sees_or_cancels_an_order_of_another(made: Floor) -> None:
    id_ = await made.limit("Buy", "1", "90")
    assert await made.no("GET", f"/orders/{id_}", made.other) == (1100, "Order not found", {id_: "Order not found"})
    assert await made.no("DELETE", f"/orders/{id_}", made.other) == (2009, "Not found", {})
    assert await made.told("GET", f"/trades/order/{id_}", made.other) == []
    assert await made.told("DELETE", "/orders", made.other) is None
    bulk = {
        "assetPairId": "BTCUSD", "cancelPreviousOrders": True, "cancelMode": "bothSides",
        "orders": [{"volume": 1, "price": 91, "oldId": id_}],
    }  # fmt: skip
    done = await made.told("POST", "/orders/bulk", made.other, json=bulk)
    assert done["statuses"][0]["error"] == "meNotFoundPrevious"
    assert [each["id"] for each in await made.told("GET", "/orders/active")] == [id_]
    await made.limit("Sell", "1", "90", key=made.other)
    assert await made.told("GET", f"/trades/order/{id_}", made.other) == []
    assert len(await made.told("GET", f"/trades/order/{id_}")) == 1


# Paths, forms and the document


async def test_what_nobody_serves_is_said_without_a_body(made: Floor) -> None:
    for method, path, status in (
        ("GET", "/orders", 405), ("GET", "/orders/limit/1", 404), ("POST", "/balance", 405), ("GET", "/balance/", 404),
        ("PUT", "/orders/limit", 405), ("GET", "/trades/public", 404), ("GET", "/assetpair", 404), ("GET", "/v2/x", 404),
    ):  # fmt: skip
        answer = await made.ask(method, path)
        assert (answer.status_code, answer.content) == (status, b""), (method, path)


async def test_answers_are_packed_for_those_who_can_unpack(made: Floor) -> None:
    orders = [{"orderAction": "buy", "volume": 1, "price": price} for price in range(20, 170)]
    await made.told("POST", "/orders/bulk", json={"assetPairId": "ETHUSD", "orders": orders})
    headers = {"accept-encoding": "gzip", "authorization": f"Bearer {made.key}"}
    async with made.http.stream("GET", "/api/orderbooks?assetPairId=ETHUSD", headers=headers) as answer:
        raw = b"".join([piece async for piece in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(raw))["payload"][0]["bids"]) == 150


async def test_the_document_describes_every_route(made: Floor) -> None:
    described = (await made.ask("GET", "/v2/swagger.json", None)).json()
    told = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert told == {(route.method, route.path) for route in swagger.ROUTES}
    assert len(told) == len(swagger.ROUTES)
    schemas = described["components"]["schemas"]
    assert {route.answers for route in swagger.ROUTES if route.answers} <= set(schemas)
    limit = described["paths"]["/api/orders/limit"]["post"]
    assert list(limit["requestBody"]["content"]["application/json"]["schema"]["properties"]) == [
        "assetPairId", "side", "volume", "price",
    ]  # fmt: skip
    assert limit["security"] == [{"wallet": []}]
    assert "security" not in described["paths"]["/api/prices"]["get"]
    whole = (await made.http.get("/openapi.json")).json()
    assert described["paths"].items() <= whole["paths"].items()


async def test_every_shape_is_what_is_answered(made: Floor) -> None:
    """The members of an answer are those of the schema that its route names."""
    maker = await made.limit("Sell", "1", "100", pair="ETHUSD")
    await made.limit("Buy", "0.5", "100", pair="ETHUSD", key=made.other)
    schemas = (await made.ask("GET", "/v2/swagger.json", None)).json()["components"]["schemas"]
    checked = set()
    for route in swagger.ROUTES:
        if route.method != "GET" or route.answers is None:
            continue
        path = path_of(route).replace(UNKNOWN, maker).replace("BTCUSD", "ETHUSD")
        if route.name == "closed":
            await made.told("DELETE", "/orders")
        told = (await made.ask("GET", path)).json() if route.bare else await made.told("GET", path)
        for row in told if route.many else [told]:
            assert set(row) == set(schemas[route.answers]["properties"]), route.path
            checked.add(route.name)
    assert checked == {route.name for route in swagger.ROUTES if route.method == "GET" and route.answers}


# What ccxt's class sends, as its source has it: `float` through `json.dumps`, sides in capitals, each with these headers.


def ccxt(key: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    headers = {
        "Accept": "application/json", "Content-Type": "application/json", "Authorization": f"Bearer {key}",
        "User-Agent": "python-requests/2.32", "Accept-Encoding": "gzip, deflate",
    }  # fmt: skip
    return {"headers": headers} | ({} if body is None else {"content": json.dumps(body, separators=(",", ":"))})


async def test_what_ccxt_sends_is_understood(made: Floor) -> None:
    limit = {"assetPairId": "SHIBUSD", "side": "Buy", "volume": 1000000.0, "price": 0.00001234}
    assert json.dumps(limit["price"]) == "1.234e-05"
    id_ = (await made.told("POST", "/orders/limit", **ccxt(made.key, limit)))["orderId"]
    order = await made.told("GET", f"/orders/{id_}", **ccxt(made.key))
    assert (order["price"], order["volume"]) == (Decimal("0.00001234"), 1_000_000)
    market = {"assetPairId": "SHIBUSD", "side": "Sell", "volume": 400000.0}
    done = await made.told("POST", "/orders/market", made.other, **ccxt(made.other, market))
    assert done["price"] == Decimal("0.00001234")
    assert await made.told("GET", "/orders/active?take=10", **ccxt(made.key)) != []
    assert await made.told("GET", f"/trades?take=5&assetPairId=SHIBUSD&from={NOW_MS - 1}", **ccxt(made.key)) != []
    assert await made.told("GET", "/trades/public/SHIBUSD?take=5", None) != []
    assert await made.told("GET", "/orderbooks?assetPairId=SHIBUSD&depth=5", None) != []
    assert await made.told("GET", "/tickers?assetPairIds=SHIBUSD", None) != []
    assert await made.told("DELETE", "/orders?assetPairId=SHIBUSD", **ccxt(made.key)) is None
    # Its own test of an error: `code` as text is one of its numbers.
    answer = await made.ask("POST", "/orders/limit", **ccxt(made.key, limit | {"volume": 1e12}))
    assert str(answer.json()["error"]["code"]) == "2006"
    sent = ccxt(made.key, {"assetId": "BTC", "volume": 0.5, "destinationAddress": "a"})
    sent["headers"]["X-Request-ID"] = "b2b3d0c4-8a53-4d5c-9f3e-2f6f6a0d1c11"
    assert (await made.no("POST", "/operations/withdrawals", **sent))[0] == 1102


@pytest.mark.parametrize("limits", [{"requests_per_s": 0.5, "burst": 2, "loopback": True}])
async def test_who_is_too_fast_is_told_when_to_come_back(made: Floor) -> None:
    assert [(await made.ask("GET", "/isalive")).status_code for _ in range(2)] == [200, 200]
    said = await made.problem(429, "GET", "/isalive")
    assert said["title"] == "Too many requests"
    assert (await made.ask("GET", "/balance")).headers["retry-after"] == "2"


def test_the_page_tells_of_every_route_and_code() -> None:
    page = (Path(__file__).parents[2] / "docs/lykke.md").read_text()
    for route in swagger.ROUTES:
        assert f"`{route.method} {route.path.removeprefix('/api')}" in page.replace("[/{assetId}]", ""), route.path
    for number, (word, _) in names.ERRORS.items():
        assert f"| {number} | {word} |" in page
