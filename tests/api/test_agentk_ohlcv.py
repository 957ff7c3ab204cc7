"""agent-k's candles over HTTP, with real accounts and keys; and its socket, as the whole dialect serves it."""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from openoutcry.clock import NS
from openoutcry.config import AgentkConfig
from openoutcry.errors import Unavailable
from openoutcry.events import Candle
from tests.api.agentk_world import Shop, shop
from tests.api.conftest import NOW_NS, Served, a_candle
from tests.api.test_agentk_ws import BTC, growing, list_coins

MINUTE_NS = 60 * NS
MS = 1_000_000
NOW_MS = NOW_NS // MS
PATH = "/v1/market/ohlcv/BTC"


@pytest.fixture
async def sold(served: Served, tmp_path: Path) -> AsyncIterator[Shop]:
    """A server with an hour of minutes, whose newest are at hand."""
    list_coins(served)
    closed = [a_candle(BTC, 60, NOW_NS + n * MINUTE_NS, close=f"{100 + n}.50") for n in range(-60, 0)]
    served.market.memory[BTC, 60] = (closed, growing(BTC))
    served.market.stored_candles[BTC, 60] = [*closed, growing(BTC)]
    async with shop(served, tmp_path, agentk=AgentkConfig(venue="binance_futures")) as made:
        yield made


@pytest.fixture
async def key(sold: Shop) -> str:
    _, token = await sold.registered()
    return await sold.minted(token)


def row(candle: Candle) -> list[float]:
    numbers = (candle.open, candle.high, candle.low, candle.close, candle.volume)
    return [candle.open_ns // MS, *map(float, numbers)]


# What is answered


async def test_rows_are_ascending_and_the_last_one_may_still_grow(sold: Shop, served: Served, key: str) -> None:
    closed, last = served.market.memory[BTC, 60]
    data = await sold.data("GET", PATH, key, params={"interval": "1m", "limit": 3})
    assert data == [*map(row, closed[-2:]), row(last or growing(BTC))]
    assert len(await sold.data("GET", PATH, key, params={"interval": "1m"})) == 61
    assert served.market.asked == []


async def test_the_interval_is_an_hour_and_a_hundred_rows_where_nothing_is_said(
    sold: Shop, served: Served, key: str
) -> None:
    served.market.stored_candles[BTC, 3_600] = [a_candle(BTC, 3_600, NOW_NS)]
    assert len(await sold.data("GET", PATH, key)) == 1
    assert served.market.asked == [(BTC, 3_600, 100, None, None)]


@pytest.mark.parametrize(
    "symbol", ["BTC", "btc", "BTCUSDT", "btcusdt", "BTC-USD", "BTC/USDT", "BTC%2FUSDT", "BTC_USDT"]
)
async def test_a_coin_may_be_spelled_in_many_ways(sold: Shop, key: str, symbol: str) -> None:
    data = await sold.data("GET", f"/v1/market/ohlcv/{symbol}", key, params={"interval": "1m", "limit": 1})
    assert data == [row(growing(BTC))]


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [("1m", 60), ("5m", 300), ("15m", 900), ("1h", 3_600), ("4h", 14_400), ("12h", 43_200), ("1d", 86_400)],
)
async def test_each_interval_is_served(sold: Shop, served: Served, key: str, interval: str, seconds: int) -> None:
    served.market.memory[BTC, seconds] = ([a_candle(BTC, seconds, NOW_NS)], None)
    assert await sold.data("GET", PATH, key, params={"interval": interval}) == [row(a_candle(BTC, seconds, NOW_NS))]


async def test_numbers_have_the_digits_that_are_stored(sold: Shop, served: Served, key: str) -> None:
    digits = ("0.123456789012345678901", "1E-8", "101.50", "1E+3")
    rows = [a_candle(BTC, 60, NOW_NS + n * MINUTE_NS, close=text) for n, text in enumerate(digits)]
    served.market.memory[BTC, 60] = (rows[:-1], rows[-1])
    served.market.stored_candles[BTC, 60] = rows
    for params in ({"interval": "1m"}, {"interval": "1m", "from": "0"}):
        text = (await sold.ask("GET", PATH, key, params=params)).text
        told = json.loads(text, parse_float=Decimal, parse_int=Decimal)["data"]
        assert [str(each[4]) for each in told] == list(digits)


async def test_a_packed_answer_is_the_same(sold: Shop, key: str) -> None:
    for params in ({"interval": "1m"}, {"interval": "1m", "to": str(NOW_MS)}):
        plain = await sold.ask("GET", PATH, key, params=params, headers={"accept-encoding": "identity"})
        packed = await sold.ask("GET", PATH, key, params=params, headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.content == plain.content
        assert len(packed.content) > 2_000


# Stretches


async def test_with_to_it_is_the_newest_before_it_inclusive(sold: Shop, served: Served, key: str) -> None:
    closed, _ = served.market.memory[BTC, 60]
    params = {"interval": "1m", "limit": 5, "to": NOW_MS - 10 * 60_000}
    assert await sold.data("GET", PATH, key, params=params) == [*map(row, closed[46:51])]


async def test_a_pager_that_goes_back_sees_every_row_once(sold: Shop, served: Served, key: str) -> None:
    """The vendor's own client asks for what lies before the earliest it has, until there is nothing."""
    seen: list[Any] = []
    to = None
    while True:
        params = {"interval": "1m", "limit": 7} | ({} if to is None else {"to": to})
        answer = await sold.ask("GET", PATH, key, params=params)
        if answer.status_code == 404:
            break
        data = answer.json()["data"]
        seen = data + seen
        to = data[0][0] - 1
    closed, last = served.market.memory[BTC, 60]
    assert seen == [*map(row, closed), row(last or growing(BTC))]


@pytest.mark.parametrize(
    ("bounds", "minutes"),
    [
        ({"from": -3}, range(-3, 1)),
        ({"from": -60, "limit": 4}, range(-60, -56)),
        ({"from": -30, "to": -28}, range(-30, -27)),
        # More fit than may be told: those before its end.
        ({"from": -30, "to": -10, "limit": 4}, range(-13, -9)),
        ({"from": -5, "to": -5}, range(-5, -4)),
        ({"to": 1_000_000_000}, range(-60, 1)),
    ],
)
async def test_bounds_are_inclusive(sold: Shop, key: str, bounds: dict[str, int], minutes: range) -> None:
    params = {name: n if name == "limit" else NOW_MS + n * 60_000 for name, n in bounds.items()}
    data = await sold.data("GET", PATH, key, params={"interval": "1m", **params})
    assert [each[0] for each in data] == [NOW_MS + n * 60_000 for n in minutes]


async def test_stretches_that_nobody_has_are_named(sold: Shop, served: Served, key: str) -> None:
    served.market.missing = [(NOW_NS - 50 * MINUTE_NS, NOW_NS - 40 * MINUTE_NS), (NOW_NS - MINUTE_NS, NOW_NS)]
    answer = await sold.ask("GET", PATH, key, params={"interval": "1m", "to": NOW_MS})
    now_s = NOW_NS // NS
    first, second = f"{BTC} 1m {now_s - 3_000}-{now_s - 2_400}", f"{BTC} 1m {now_s - 60}-{now_s}"
    assert answer.headers["openoutcry-coverage"] == f"missing {first}; {second}"
    # Of what lies before the start nothing is said.
    answer = await sold.ask("GET", PATH, key, params={"interval": "1m", "limit": 5, "from": NOW_MS - 45 * 60_000, "to": NOW_MS})  # fmt: skip
    first = f"{BTC} 1m {now_s - 2_700}-{now_s - 2_400}"
    assert answer.headers["openoutcry-coverage"] == f"missing {first}; {second}"


# No


async def test_where_nothing_is_there_it_is_404(sold: Shop, served: Served, key: str) -> None:
    no = await sold.no(404, "GET", PATH, key, params={"interval": "1m", "to": NOW_MS - 61 * 60_000})
    assert no["message"] == "there are no candles of BTC 1m in that stretch"
    served.market.memory[BTC, 60] = ([], None)
    served.market.stored_candles.clear()
    await sold.no(404, "GET", PATH, key, params={"interval": "1m"})
    no = await sold.no(404, "GET", "/v1/market/ohlcv/NOPE", key)
    assert no["message"] == "binance_futures does not list 'NOPE'"


@pytest.mark.parametrize(
    ("params", "param", "message"),
    [
        ({"interval": "3m"}, "interval", "interval '3m' is not one of 1m 5m 15m 1h 4h 12h 1d"),
        ({"interval": ""}, "interval", "interval '' is not one of 1m 5m 15m 1h 4h 12h 1d"),
        ({"interval": "1M"}, "interval", "interval '1M' is not one of 1m 5m 15m 1h 4h 12h 1d"),
        ({"limit": "0"}, "limit", "limit is a whole number from 1 to 1000"),
        ({"limit": "1001"}, "limit", "limit is a whole number from 1 to 1000"),
        ({"limit": "-1"}, "limit", "limit is a whole number from 1 to 1000"),
        ({"limit": "1.5"}, "limit", "limit is a whole number from 1 to 1000"),
        ({"limit": "٣"}, "limit", "limit is a whole number from 1 to 1000"),
        ({"limit": "9" * 5_000}, "limit", "limit is a whole number from 1 to 1000"),
        ({"from": "-1"}, "from", "from is a time in milliseconds since 1970 UTC"),
        ({"to": "yesterday"}, "to", "to is a time in milliseconds since 1970 UTC"),
        ({"to": "9" * 17}, "to", "to is a time in milliseconds since 1970 UTC"),
        ({"from": "2", "to": "1"}, "from", "from lies after to"),
    ],
)
async def test_values_out_of_range_are_422_with_their_name(
    sold: Shop, key: str, params: dict[str, str], param: str, message: str
) -> None:
    no = await sold.no(422, "GET", PATH, key, params=params)
    assert (no["type"], no["param"], no["message"]) == ("invalid_request_error", param, message)


async def test_a_credential_is_needed_before_anything_is_told(sold: Shop) -> None:
    for credential in (None, "kai-" + "0" * 64, "a.b.c"):
        no = await sold.no(401, "GET", PATH, credential, params={"interval": "nonsense"})
        assert no["code"] == "invalid_api_key"


async def test_a_venue_that_does_not_answer_is_a_gateway_that_failed(sold: Shop, served: Served, key: str) -> None:
    served.market.fails = Unavailable("binance_futures", "it does not answer")
    no = await sold.no(502, "GET", PATH, key, params={"interval": "5m"})
    assert no["type"] == "api_error"


async def test_requests_count_and_what_is_left_is_told(sold: Shop, key: str) -> None:
    for left in range(59, -1, -1):
        answer = await sold.ask("GET", PATH, key, params={"interval": "1m", "limit": 1})
        assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
    answer = await sold.ask("GET", PATH, key, params={"interval": "1m", "limit": 1})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after-ms"]) == 1_000
    await sold.clock.advance(1)
    assert len(await sold.data("GET", PATH, key, params={"interval": "1m", "limit": 1})) == 1


async def test_the_route_and_the_socket_are_described(sold: Shop) -> None:
    described = (await sold.http.get("/openapi.json")).json()
    told = described["paths"]["/v1/market/ohlcv/{symbol}"]["get"]
    assert {name for lock in told["security"] for name in lock} == set(described["components"]["securitySchemes"])
    assert {each["name"] for each in told["parameters"]} == {"symbol", "interval", "limit", "from", "to"}
    assert set(told["responses"]) >= {"200", "401", "404", "422", "429", "502"}
    described = (await sold.http.get("/v1/asyncapi.json")).json()
    assert described["channels"]["stream"]["address"] == "/v1/ws"


# The socket, with the accounts of the dialect


async def welcome(sold: Shop, credential: str) -> Any:
    client = await websockets.connect(f"ws://{sold.address}/v1/ws?api_key={credential}", proxy=None)
    return client, json.loads(await asyncio.wait_for(client.recv(), 5))


async def test_a_key_and_a_login_token_are_welcome_and_a_revoked_key_is_not(sold: Shop) -> None:
    _, token = await sold.registered()
    minted = await sold.data("POST", "/v1/auth/api-keys", token, json={"name": "bot"})
    by_key, first = await welcome(sold, minted["raw_key"])
    by_token, second = await welcome(sold, token)
    assert first["op"] == second["op"] == "welcome"
    await by_key.send('{"op":"subscribe","channels":["market.BTC.1m"]}')
    assert [json.loads(await by_key.recv())["op"] for _ in range(2)] == ["subscribed", "snapshot"]
    await sold.data("DELETE", f"/v1/auth/api-keys/{minted['id']}", token)
    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(by_key.recv(), 5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401
    await by_token.send('{"op":"ping","ts":1}')
    assert json.loads(await by_token.recv()) == {"op": "pong", "ts": 1}
    await by_token.close()
    refused = await websockets.connect(f"ws://{sold.address}/v1/ws?api_key={minted['raw_key']}", proxy=None)
    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(refused.recv(), 5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401
