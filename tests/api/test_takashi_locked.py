"""TAKASHI where its market data wants a key."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from openoutcry.accounts.keys import AI
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.takashi.rest import Takashi
from openoutcry.clock import NS

NOW_NS = 1_763_553_600 * NS
BTC = "binance_futures:BTCUSDT"
OHLC = "/binance/ohlc/BTCUSDT/1m"
WS = "/ws/binance/BTCUSDT/ohlc"


class Locked:
    """The same market behind a lock, and a key."""

    def __init__(self, served: Any, address: str, http: httpx2.AsyncClient) -> None:
        self.served, self.address, self.http = served, address, http

    async def status(self, path: str, key: str | None = None) -> int:
        return (await self.http.get(path, headers={"X-API-Key": key} if key else {})).status_code

    def ws(self, path: str, **more: Any) -> Any:
        return websockets.connect(f"ws://{self.address}{path}", proxy=None, **more)


@pytest.fixture
async def locked(served: Any) -> AsyncIterator[Locked]:
    doors = replace(served.doors, takashi_locked=True)
    server = HttpServer(application(doors, [Takashi(doors)]), "127.0.0.1", 0)
    address = await server.start()
    async with httpx2.AsyncClient(base_url=f"http://{address}", trust_env=False) as http:
        yield Locked(served, address, http)
    await server.stop()


async def test_market_data_wants_a_key_and_what_the_server_is_does_not(locked: Locked, make_candle: Any) -> None:
    locked.served.market.memory[BTC, 60] = ([make_candle(BTC, 60, NOW_NS)], None)
    for path in (
        OHLC,
        "/multi/ohlc/BTCUSDT/1m",
        "/binance/oi/BTCUSDT",
        "/okx/funding/BTCUSDT",
        "/binance/tickers/24hr",
    ):
        answer = await locked.http.get(path)
        assert (answer.status_code, answer.json()) == (401, {"detail": "the key is missing"})
        assert await locked.status(path, "kai-" + "0" * 64) == 401
    for path in ("/", "/health", "/exchanges", "/ws-catalog"):
        assert await locked.status(path) == 200


async def test_a_key_for_market_data_opens_it_in_either_header(locked: Locked, make_candle: Any) -> None:
    locked.served.market.memory[BTC, 60] = ([make_candle(BTC, 60, NOW_NS)], None)
    key = locked.served.key
    assert await locked.status(OHLC, key) == 200
    assert (await locked.http.get(OHLC, headers={"Authorization": f"Bearer {key}"})).status_code == 200
    _, other = await locked.served.keys.create("chat", {AI})
    assert await locked.status(OHLC, other) == 403


async def test_what_is_at_hand_is_behind_the_lock_too(locked: Locked, make_candle: Any) -> None:
    """The second answer comes from memory, past FastAPI."""
    locked.served.market.memory[BTC, 60] = ([make_candle(BTC, 60, NOW_NS)], None)
    key = locked.served.key
    for path in (OHLC, f"{OHLC}?limit=1"):
        assert await locked.status(path, key) == 200
        assert await locked.status(path, key) == 200
        assert await locked.status(path) == 401
    _, other = await locked.served.keys.create("chat", {AI})
    assert await locked.status(OHLC, other) == 403


async def test_a_stream_wants_a_key_also_in_its_address(locked: Locked) -> None:
    for path in (WS, f"{WS}?api_key=kai-nobody"):
        async with locked.ws(path) as client:
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
    key = locked.served.key
    for path, headers in ((f"{WS}?api_key={key}", {}), (WS, {"X-API-Key": key})):
        async with locked.ws(path, additional_headers=headers) as client:
            await client.send('{"op":"ping"}')
            assert json.loads(await asyncio.wait_for(client.recv(), 5)) == {"op": "pong"}


async def test_a_stream_ends_with_its_key(locked: Locked) -> None:
    record, text = await locked.served.keys.create("short")
    async with locked.ws(WS, additional_headers={"X-API-Key": text}) as client:
        await client.send('{"op":"ping"}')
        await asyncio.wait_for(client.recv(), 5)
        await locked.served.keys.revoke(record.id)
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), 5)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "the key was revoked")
