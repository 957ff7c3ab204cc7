"""Conversations over agent-k's WebSocket with a real server and the `websockets` client."""

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import pytest
import structlog
import websockets
from fastapi import APIRouter
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import WebSocketRoute
from websockets.exceptions import ConnectionClosed

from openoutcry.accounts.keys import AI, KeyRecord
from openoutcry.api.agentk.names import Names
from openoutcry.api.agentk.ws import Sockets
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Doors
from openoutcry.api.takashi.rest import Takashi
from openoutcry.clock import NS
from openoutcry.errors import Forbidden, Unavailable
from openoutcry.events import Candle
from tests.api.conftest import NOW_NS, Served, a_candle, an_instrument

MINUTE_NS = 60 * NS
NOW_MS = NOW_NS // 1_000_000
BTC = "binance_futures:BTCUSDT"
ETH = "binance_futures:ETHUSDT"
PING = {"op": "ping", "ts": 7}


class Known(NamedTuple):
    """A caller, as far as a socket must know."""

    id: str
    key: KeyRecord | None


class Streaming(Takashi):
    """A dialect of nothing but this socket."""

    def __init__(self, doors: Doors, venue: str, **limits: Any) -> None:
        super().__init__(doors)
        self._keys = doors.keys
        self.streams = Sockets(doors, self._who_is, Names(doors.market, venue), **limits)

    async def _who_is(self, text: str | None, scope: str) -> Known:
        if text == "a token":
            return Known("an account", None)
        record = self._keys.authenticate(text)
        if scope not in record.scopes:
            raise Forbidden(f"the key lacks the scope {scope}")
        return Known(record.id, record)

    def rest(self) -> APIRouter:
        return APIRouter()

    def sockets(self) -> Sequence[WebSocketRoute]:
        return self.streams.routes()


class Streams:
    """The socket of a server, and what is behind it."""

    def __init__(self, served: Any, dialect: Streaming) -> None:
        self.served, self.dialect = served, dialect
        self.server = HttpServer(application(served.doors, [dialect]), "127.0.0.1", 0)
        self.address = ""

    def ws(self, query: str | None = None, **more: Any) -> Any:
        query = f"?api_key={self.served.key}" if query is None else query
        return websockets.connect(f"ws://{self.address}/v1/ws{query}", proxy=None, **more)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """A client that was welcomed."""
        async with self.ws() as client:
            assert (await heard(client))["op"] == "welcome"
            yield client


@contextlib.asynccontextmanager
async def running(served: Any, venue: str = "binance_futures", **limits: Any) -> AsyncIterator[Streams]:
    streams = Streams(served, Streaming(served.doors, venue, **limits))
    streams.address = await streams.server.start()
    try:
        yield streams
    finally:
        await streams.server.stop()


@pytest.fixture
async def streams(served: Served) -> AsyncIterator[Streams]:
    list_coins(served)
    served.market.memory[BTC, 60] = ([a_candle(BTC, 60, NOW_NS - MINUTE_NS)], growing(BTC))
    served.market.memory[ETH, 60] = ([], None)
    async with running(served) as made:
        yield made


def list_coins(served: Served) -> None:
    pairs = [("BTC", "USDT"), ("BTC", "USDC"), ("ETH", "USDT")]
    served.market.listings["binance_futures"] = {
        coin + quote: an_instrument("binance_futures", coin + quote, coin, quote=quote) for coin, quote in pairs
    }


def growing(name: str, close: str = "101.5", minute: int = 0, interval_s: int = 60) -> Candle:
    return a_candle(name, interval_s, NOW_NS + minute * MINUTE_NS, closed=False, close=close)


async def heard(client: Any) -> Any:
    return json.loads(await asyncio.wait_for(client.recv(), 5))


async def said(client: Any, frame: Any) -> None:
    await client.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))


async def all_heard(client: Any) -> list[Any]:
    """What was said to it until now."""
    frames = []
    await said(client, {"op": "ping", "ts": "until here"})
    while (frame := await heard(client)) != {"op": "pong", "ts": "until here"}:
        frames.append(frame)
    return frames


async def subscribed(client: Any, *channels: str) -> list[Any]:
    await said(client, {"op": "subscribe", "channels": channels})
    return await all_heard(client)


async def ended(client: Any) -> tuple[int, str]:
    """How the server ends it."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await asyncio.wait_for(client.recv(), 5)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def event(channel: str, candle: Candle, ts: int = NOW_MS) -> dict[str, Any]:
    return {
        "op": "event",
        "channel": channel,
        "ts": ts,
        "data": {
            "event": "kline_update",
            "source": "binance_futures",
            "symbol": "BTC",
            "interval": "1m",
            "ts": candle.open_ns // 1_000_000,
            "open": 101.25,
            "high": 102.5,
            "low": 100.5,
            "close": float(candle.close),
            "volume": 12.5,
            "is_closed": candle.closed,
        },
    }


def row(candle: Candle) -> list[float]:
    return [candle.open_ns // 1_000_000, 101.25, 102.5, 100.5, float(candle.close), 12.5]


def error(code: str, message: str) -> dict[str, Any]:
    return {"op": "error", "code": code, "message": message, "ts": NOW_MS}


# A conversation


async def test_a_conversation_from_welcome_to_unsubscribed(streams: Streams) -> None:
    async with streams.ws() as client:
        welcome = {"op": "welcome", "version": 1, "heartbeat_interval_ms": 30_000, "ts": NOW_MS}
        assert await heard(client) == welcome
        assert await subscribed(client, "market.BTC.1m") == [
            {"op": "subscribed", "channels": ["market.BTC.1m"], "ts": NOW_MS},
            {
                "op": "snapshot",
                "channel": "market.BTC.1m",
                "data": [row(a_candle(BTC, 60, NOW_NS - MINUTE_NS)), row(growing(BTC))],
            },
        ]
        told = [growing(BTC, "102"), a_candle(BTC, 60, NOW_NS, close="103"), growing(BTC, "104", 1)]
        for candle in told:
            streams.served.market.grow(candle)
            assert await heard(client) == event("market.BTC.1m", candle)
        await said(client, {"op": "unsubscribe", "channels": ["market.BTC.1m"]})
        streams.served.market.grow(growing(BTC, "105", 1))
        frames = await all_heard(client)
        assert frames[-1] == {"op": "unsubscribed", "channels": ["market.BTC.1m"], "ts": NOW_MS}
        streams.served.market.grow(growing(BTC, "106", 1))
        assert await all_heard(client) == []


async def test_numbers_have_the_digits_that_are_stored(streams: Streams) -> None:
    digits = growing(BTC, "0.123456789012345678901")
    streams.served.market.memory[BTC, 60] = ([a_candle(BTC, 60, NOW_NS - MINUTE_NS, close="1E-8")], digits)
    async with streams.client() as client:
        await said(client, {"op": "subscribe", "channels": ["market.BTC.1m"]})
        await heard(client)
        snapshot = await client.recv()
        assert ",1E-8,12.5],[" in snapshot
        assert ",0.123456789012345678901,12.5]]" in snapshot
        streams.served.market.grow(digits)
        assert '"close":0.123456789012345678901,' in await client.recv()


async def test_a_snapshot_has_fifty_bars_at_most(streams: Streams) -> None:
    closed = [a_candle(BTC, 60, NOW_NS + n * MINUTE_NS) for n in range(-70, 0)]
    streams.served.market.memory[BTC, 60] = (closed, growing(BTC))
    async with streams.client() as client:
        frames = await subscribed(client, "market.BTC.1m")
        assert frames[1]["data"] == [*map(row, closed[-49:]), row(growing(BTC))]


async def test_a_market_without_candles_has_an_empty_snapshot(streams: Streams) -> None:
    async with streams.client() as client:
        frames = await subscribed(client, "market.ETH.1m")
        assert frames[1:] == [{"op": "snapshot", "channel": "market.ETH.1m", "data": []}]


# Names of channels


@pytest.mark.parametrize("symbol", ["BTC", "btc", "BTCUSDT", "BTC-USD", "BTC/USDT", "BTCUSDC"])
async def test_however_it_is_spelled_it_is_echoed_as_sent(streams: Streams, symbol: str) -> None:
    async with streams.client() as client:
        channel = f"market.{symbol}.1m"
        frames = await subscribed(client, channel)
        assert frames[0]["channels"] == [channel]
        assert [frame["channel"] for frame in frames[1:]] == [channel]
        streams.served.market.grow(growing(BTC))
        assert await heard(client) == event(channel, growing(BTC))


async def test_each_client_hears_the_name_it_sent_and_one_source_serves_all(streams: Streams) -> None:
    async with streams.client() as one, streams.client() as other:
        await subscribed(one, "market.BTC.1m")
        await subscribed(other, "market.btcusdt.1m")
        assert len(streams.served.market.candle_listeners[BTC, 60]) == 1
        streams.served.market.grow(growing(BTC))
        assert await heard(one) == event("market.BTC.1m", growing(BTC))
        assert await heard(other) == event("market.btcusdt.1m", growing(BTC))


async def test_a_channel_counts_once_under_the_name_that_was_sent_first(streams: Streams, until: Any) -> None:
    async with streams.client() as client:
        frames = await subscribed(client, "market.BTC.1m", "market.BTCUSDT.1m", "market.BTC.1m")
        assert frames[0]["channels"] == ["market.BTC.1m", "market.BTCUSDT.1m"]
        assert [frame["channel"] for frame in frames[1:]] == ["market.BTC.1m"]
        again = await subscribed(client, "market.btc.1m")
        assert again == [{"op": "subscribed", "channels": ["market.btc.1m"], "ts": NOW_MS}]
        streams.served.market.grow(growing(BTC))
        assert await all_heard(client) == [event("market.BTC.1m", growing(BTC))]
        await said(client, {"op": "unsubscribe", "channels": ["market.BTC-USDT.1m"]})
        assert (await heard(client))["channels"] == ["market.BTC-USDT.1m"]
        assert not streams.served.market.candle_listeners[BTC, 60]
        assert streams.served.push.bounds.followers == 0


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ("market.NOPE.1m", "binance_futures does not list 'NOPE'"),
        ("market.BTC.1w", "no channel 'market.BTC.1w': it is market.SYMBOL.INTERVAL, of 1m 5m 15m 1h 4h 12h 1d"),
        ("trades.BTC.1m", "no channel 'trades.BTC.1m': it is market.SYMBOL.INTERVAL, of 1m 5m 15m 1h 4h 12h 1d"),
        ("market.1m", "no channel 'market.1m': it is market.SYMBOL.INTERVAL, of 1m 5m 15m 1h 4h 12h 1d"),
        ("", "no channel '': it is market.SYMBOL.INTERVAL, of 1m 5m 15m 1h 4h 12h 1d"),
    ],
)
async def test_the_good_channels_of_an_op_are_taken_and_the_others_told(
    streams: Streams, channel: str, message: str
) -> None:
    async with streams.client() as client:
        frames = await subscribed(client, channel, "market.BTC.1m")
        assert frames[0] == error("unknown_channel", message)
        assert frames[1]["channels"] == ["market.BTC.1m"]
        assert frames[2]["op"] == "snapshot"
        assert await subscribed(client, channel) == [error("unknown_channel", message)]


# The limits of a connection


async def test_an_op_that_would_pass_the_limit_is_refused_whole(served: Served) -> None:
    list_coins(served)
    for name in ("1m", "5m", "15m", "1h", "4h"):
        seconds = {"1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "4h": 14_400}[name]
        served.market.memory[BTC, seconds] = ([], None)
    async with running(served, channels_a_connection_max=3) as streams, streams.client() as client:
        too_many = error("too_many_channels", "a connection has 3 channels at most: none of these was taken")
        assert await subscribed(client, *[f"market.BTC.{of}" for of in ("1m", "5m", "15m", "1h")]) == [too_many]
        assert served.push.bounds.followers == 0
        assert (await subscribed(client, "market.BTC.1m", "market.BTC.5m"))[0]["op"] == "subscribed"
        assert await subscribed(client, "market.BTC.15m", "market.BTC.1h") == [too_many]
        # What it has already, and what nobody knows, counts for nothing.
        frames = await subscribed(client, "market.btc.1m", "market.NOPE.1m", "market.BTC.15m")
        assert [frame["op"] for frame in frames] == ["error", "subscribed", "snapshot"]
        assert await subscribed(client, *[f"market.{n}.1m" for n in range(7)]) == [too_many]
        await said(client, {"op": "unsubscribe", "channels": ["market.BTC.1m"]})
        assert (await subscribed(client, "market.BTC.4h"))[1]["op"] == "subscribed"
        assert served.push.bounds.followers == 3


async def test_fifty_channels_and_not_one_more(served: Served) -> None:
    coins = [f"C{n:02}" for n in range(51)]
    listed = {f"{coin}USDT": an_instrument("binance_futures", f"{coin}USDT", coin) for coin in coins}
    served.market.listings["binance_futures"] = listed
    served.market.memory = {(f"binance_futures:{symbol}", 60): ([], None) for symbol in listed}
    async with running(served) as streams, streams.client() as client:
        frames = await subscribed(client, *[f"market.{coin}.1m" for coin in coins[:50]])
        assert len(frames[0]["channels"]) == 50
        assert [frame["channel"] for frame in frames[1:]] == [f"market.{coin}.1m" for coin in coins[:50]]
        assert [frame["code"] for frame in await subscribed(client, "market.C50.1m")] == ["too_many_channels"]


async def test_the_eleventh_connection_of_a_key_is_turned_away_until_one_leaves(streams: Streams, until: Any) -> None:
    async with contextlib.AsyncExitStack() as open_ones:
        clients = [await open_ones.enter_async_context(streams.client()) for _ in range(10)]
        async with streams.ws() as eleventh:
            assert await ended(eleventh) == (4429, "more than 10 connections of this key")
        # Another caller is not concerned.
        async with streams.ws("?api_key=a%20token") as other:
            assert (await heard(other))["op"] == "welcome"
        await clients[3].close()
        async with streams.client():
            pass
    await until(lambda: not streams.served.admission.connections)
    assert not streams.dialect.streams.places


async def test_a_broken_connection_frees_its_place(streams: Streams, until: Any) -> None:
    for _ in range(12):
        async with streams.client() as client:
            await subscribed(client, "market.BTC.1m")
            # With a reset instead of an end.
            pipe = client.transport.get_extra_info("socket")
            pipe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.transport.abort()
        await until(lambda: not streams.served.admission.connections)
    assert streams.served.push.bounds.followers == 0
    assert not streams.served.market.candle_listeners[BTC, 60]


async def test_frames_above_64_kib_are_closed_with_1009(streams: Streams) -> None:
    async with streams.client() as client:
        await said(client, json.dumps({"op": "subscribe", "channels": ["x" * 65_000]}))
        assert (await heard(client))["code"] == "unknown_channel"
        await said(client, json.dumps({"op": "subscribe", "channels": ["x" * 65_536]}))
        assert (await ended(client))[0] == 1009


async def test_a_client_that_talks_too_much_is_closed(streams: Streams) -> None:
    async with streams.client() as client:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(200):
                await said(client, PING)
        assert await ended(client) == (1008, "too many frames from this client")


# Who may connect


async def test_a_key_comes_in_the_address_or_a_header(streams: Streams) -> None:
    key = streams.served.key
    ways: list[dict[str, Any]] = [
        {"query": f"?api_key={key}"},
        {"query": "", "additional_headers": {"X-API-Key": key}},
        {"query": "", "additional_headers": {"Authorization": f"Bearer {key}"}},
        {"query": "?api_key=wrong", "additional_headers": {"authorization": f"bearer {key}"}},
        {"query": "", "additional_headers": {"Authorization": "Bearer a token"}},
    ]
    for way in ways:
        async with streams.ws(**way) as client:
            assert (await heard(client))["op"] == "welcome"


@pytest.mark.parametrize("query", ["", "?api_key=", "?api_key=oo-wrong", "?key=1", f"?api_key={'x' * 3_000}"])
async def test_without_a_good_key_it_is_accepted_and_closed_with_4401(streams: Streams, query: str) -> None:
    async with streams.ws(query) as client:
        assert (await ended(client))[0] == 4401


async def test_a_key_of_another_scope_is_no_key_here(streams: Streams) -> None:
    _, text = await streams.served.keys.create("models only", [AI])
    async with streams.ws(f"?api_key={text}") as client:
        assert await ended(client) == (4401, "the key lacks the scope market")


async def test_a_revoked_key_closes_its_connections_and_no_others(streams: Streams, until: Any) -> None:
    record, text = await streams.served.keys.create("to be revoked")
    async with streams.ws(f"?api_key={text}") as client, streams.client() as other:
        assert (await heard(client))["op"] == "welcome"
        await subscribed(client, "market.BTC.1m")
        await subscribed(other, "market.BTC.1m")
        await streams.served.keys.revoke(record.id)
        assert await ended(client) == (4401, "the key was revoked")
        assert streams.served.push.bounds.followers == 1
        streams.served.market.grow(growing(BTC))
        assert await heard(other) == event("market.BTC.1m", growing(BTC))
    async with streams.ws(f"?api_key={text}") as client:
        assert (await ended(client))[0] == 4401


# Heartbeats


async def test_the_client_is_pinged_and_a_pong_keeps_it(streams: Streams) -> None:
    async with streams.client() as client:
        for beat in range(1, 6):
            await streams.served.clock.advance(30)
            assert await heard(client) == {"op": "ping", "ts": NOW_MS + beat * 30_000}
            await said(client, {"op": "pong", "ts": NOW_MS + beat * 30_000})
            assert await all_heard(client) == []


async def test_three_pings_without_a_pong_close_with_1011(streams: Streams) -> None:
    async with streams.client() as client, streams.client() as other:
        for _ in range(3):
            await streams.served.clock.advance(30)
            assert (await heard(client))["op"] == (await heard(other))["op"] == "ping"
            await said(other, {"op": "pong"})
            await all_heard(other)
        await streams.served.clock.advance(29)
        assert await all_heard(client) == []
        await streams.served.clock.advance(1)
        assert await ended(client) == (1011, "3 pings without a pong")
        assert (await heard(other))["op"] == "ping"


async def test_each_is_pinged_by_its_own_time(streams: Streams) -> None:
    async with streams.client() as one:
        await streams.served.clock.advance(10)
        async with streams.client() as other:
            await streams.served.clock.advance(20)
            assert [frame["op"] for frame in await all_heard(one)] == ["ping"]
            assert await all_heard(other) == []
            await streams.served.clock.advance(10)
            assert await all_heard(one) == []
            assert [frame["op"] for frame in await all_heard(other)] == ["ping"]
    async with streams.client() as later:
        await streams.served.clock.advance(30)
        assert [frame["op"] for frame in await all_heard(later)] == ["ping"]


@pytest.mark.parametrize("ts", ["1736936430000", "1.50", "-1e5", '"a text"', "0", "123456789012345678901234567890"])
async def test_a_ping_of_the_client_is_answered_with_its_own_ts(streams: Streams, ts: str) -> None:
    async with streams.client() as client:
        await said(client, f'{{"op":"ping","ts":{ts}}}')
        assert await client.recv() == f'{{"op":"pong","ts":{ts}}}'


async def test_a_ping_without_a_ts_is_answered_with_ours(streams: Streams) -> None:
    async with streams.client() as client:
        for frame in ('{"op":"ping"}', '{"op":"ping","ts":null}'):
            await said(client, frame)
            assert await heard(client) == {"op": "pong", "ts": NOW_MS}


# Frames that are not understood


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("", "bad_json"),
        ("x", "bad_json"),
        ('{"op":"ping"', "bad_json"),
        ("[1", "bad_json"),
        ('{"op":"ping"} {}', "bad_json"),
        ("[" * 60_000, "bad_json"),
        ('{"op":"ping","deep":' + "[" * 60_000 + "]" * 60, "bad_json"),
        (b"\xff\xfe", "bad_json"),
        ("[]", "bad_request"),
        ("3", "bad_request"),
        ("{}", "bad_request"),
        ('{"op":3}', "bad_request"),
        ('{"op":"subscribe"}', "bad_request"),
        ('{"op":"subscribe","channels":"market.BTC.1m"}', "bad_request"),
        ('{"op":"subscribe","channels":[1]}', "bad_request"),
        ('{"op":"subscribe","channels":[]}', "bad_request"),
        ('{"op":"unsubscribe","channels":null}', "bad_request"),
        ('{"op":"ping","ts":[1]}', "bad_request"),
        ('{"op":"ping","ts":true}', "bad_request"),
        ('{"op":"ping","ts":"' + "x" * 64 + '"}', "bad_request"),
        ('{"op":"SUBSCRIBE","channels":["market.BTC.1m"]}', "unknown_op"),
        ('{"op":"welcome"}', "unknown_op"),
        ('{"op":"nothing","channels":3}', "unknown_op"),
    ],
)
async def test_what_cannot_be_done_is_told_and_the_connection_lives(streams: Streams, frame: Any, code: str) -> None:
    async with streams.client() as client:
        await said(client, frame)
        told = await heard(client)
        assert (told["op"], told["code"], told["ts"]) == ("error", code, NOW_MS)
        assert sorted(told) == ["code", "message", "op", "ts"]
        assert await all_heard(client) == []


async def test_fields_nobody_knows_are_ignored_and_bytes_are_text(streams: Streams) -> None:
    async with streams.client() as client:
        await said(client, b'{"id":1,"op":"subscribe","channels":["market.BTC.1m"],"more":{}}')
        assert [frame["op"] for frame in await all_heard(client)] == ["subscribed", "snapshot"]


# Deep where parsers fail, and wrong where they do not; with real ops among them.
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_OPS = st.sampled_from(["subscribe", "unsubscribe", "ping", "pong", "welcome", ""]) | st.text(max_size=5)
_NAMES = st.sampled_from(["market.BTC.1m", "market.btc/usdt.1m", "market.ETH.1m", "market..", "market.BTC.\x00"])
_FRAMES = (
    st.fixed_dictionaries(
        {"op": _OPS | _JSON}, optional={"channels": st.lists(_NAMES | _JSON, max_size=4) | _JSON, "ts": _JSON}
    ).map(json.dumps)
    | _JSON.map(json.dumps)
    | st.text(max_size=30)
    | st.binary(max_size=30)
)


def test_no_frame_breaks_the_connection() -> None:
    served, stack = Served(), contextlib.AsyncExitStack()

    async def start() -> Streams:
        list_coins(served)
        served.market.memory = {(BTC, 60): ([], growing(BTC))}
        await served.start()
        stack.push_async_callback(served.stop)
        return await stack.enter_async_context(running(served))

    async def play(server: Streams, frames: list[str | bytes]) -> None:
        async with server.client() as client:
            for frame in frames:
                await said(client, frame)
            for told in await all_heard(client):
                assert told["op"] in {"error", "subscribed", "snapshot", "unsubscribed", "pong"}

    with asyncio.Runner() as runner:
        server = runner.run(start())

        @settings(max_examples=100, deadline=None)
        @given(frames=st.lists(_FRAMES, max_size=12))
        def check(frames: list[str | bytes]) -> None:
            runner.run(play(server, frames))

        try:
            check()
        finally:
            runner.run(stack.aclose())


# What is not at hand, and what fails


class Slow:
    """`candles` of a market, whose answers are kept back."""

    def __init__(self, served: Served) -> None:
        self.go = asyncio.Event()
        self._market, self._candles = served.market, served.market.candles
        served.market.candles = self.candles  # type: ignore[method-assign]

    async def candles(self, *args: Any, **more: Any) -> Any:
        await self.go.wait()
        return await self._candles(*args, **more)


async def test_what_happens_while_the_snapshot_is_fetched_comes_after_it(streams: Streams) -> None:
    market = streams.served.market
    market.memory = {}
    slow = Slow(streams.served)
    async with streams.client() as client:
        assert [frame["op"] for frame in await subscribed(client, "market.BTC.1m")] == ["subscribed"]
        # The feed was joined first.
        assert len(market.candle_listeners[BTC, 60]) == 1
        first, second = a_candle(BTC, 60, NOW_NS, close="103"), growing(BTC, "104", 1)
        for candle in (growing(BTC, "102"), first, growing(BTC, "103.5", 1), second):
            market.grow(candle)
        assert await all_heard(client) == []
        # The venue told it before the minute closed.
        market.stored_candles[BTC, 60] = [a_candle(BTC, 60, NOW_NS - MINUTE_NS), growing(BTC, "101")]
        slow.go.set()
        assert await heard(client) == {
            "op": "snapshot",
            "channel": "market.BTC.1m",
            "data": [row(a_candle(BTC, 60, NOW_NS - MINUTE_NS)), row(growing(BTC, "101"))],
        }
        assert await heard(client) == event("market.BTC.1m", first)
        assert await heard(client) == event("market.BTC.1m", second)
        market.grow(growing(BTC, "105", 1))
        assert await heard(client) == event("market.BTC.1m", growing(BTC, "105", 1))
        assert await all_heard(client) == []
        assert streams.served.push.bounds.followers == 1


async def test_what_the_snapshot_has_already_is_not_told_again(streams: Streams) -> None:
    market = streams.served.market
    market.memory = {}
    slow = Slow(streams.served)
    async with streams.client() as client:
        await subscribed(client, "market.BTC.1m")
        closed = a_candle(BTC, 60, NOW_NS, close="103")
        for candle in (a_candle(BTC, 60, NOW_NS - MINUTE_NS), closed, growing(BTC, "104", 1)):
            market.grow(candle)
        market.stored_candles[BTC, 60] = [closed, growing(BTC, "104", 1)]
        slow.go.set()
        assert (await heard(client))["op"] == "snapshot"
        assert await all_heard(client) == []


async def test_other_channels_and_pings_do_not_wait_for_a_snapshot(streams: Streams) -> None:
    slow = Slow(streams.served)
    async with streams.client() as client:
        frames = await subscribed(client, "market.BTC.5m", "market.BTC.1m")
        assert [frame.get("channel") for frame in frames] == [None, "market.BTC.1m"]
        await said(client, {"op": "unsubscribe", "channels": ["market.BTC.5m"]})
        await all_heard(client)
        slow.go.set()
        assert await all_heard(client) == []
        assert streams.served.push.bounds.followers == 1


async def test_a_hole_in_a_snapshot_is_said(streams: Streams) -> None:
    streams.served.market.memory = {}
    streams.served.market.stored_candles[BTC, 60] = [growing(BTC)]
    streams.served.market.missing = [(NOW_NS - 3 * MINUTE_NS, NOW_NS)]
    async with streams.client() as client:
        await said(client, {"op": "subscribe", "channels": ["market.BTC.1m"]})
        await heard(client)
        assert (await heard(client))["missing"] == [[NOW_MS - 180_000, NOW_MS]]


async def test_a_venue_that_does_not_answer_is_told_and_the_channel_lives(streams: Streams) -> None:
    market = streams.served.market
    market.memory = {}
    slow = Slow(streams.served)
    async with streams.client() as client:
        await subscribed(client, "market.BTC.1m")
        market.fails = Unavailable("binance_futures", "it does not answer")
        slow.go.set()
        text = 'the bars before now of "market.BTC.1m" are not known: it does not answer'
        assert await heard(client) == error("unavailable", text)
        assert await heard(client) == {"op": "snapshot", "channel": "market.BTC.1m", "data": []}
        market.grow(growing(BTC))
        assert await heard(client) == event("market.BTC.1m", growing(BTC))
        # Nor can a name be looked up now.
        assert await subscribed(client, "market.ETH.1m") == [error("unavailable", "it does not answer")]


async def test_a_fault_of_ours_closes_with_1011(streams: Streams, until: Any) -> None:
    market = streams.served.market
    market.memory = {}
    slow = Slow(streams.served)
    async with streams.client() as client:
        await subscribed(client, "market.BTC.1m")
        market.fails = RuntimeError("broken on purpose")
        with structlog.testing.capture_logs() as logged:
            slow.go.set()
            assert await ended(client) == (1011, "Internal error")
        assert [line["event"] for line in logged] == ["snapshot failed"]
    await until(lambda: not streams.served.admission.connections)
    assert streams.served.push.bounds.followers == 0


# Slow readers


def small_pipe(streams: Streams) -> socket.socket:
    """A connection for which the kernel keeps little."""
    host, port = streams.address.split(":")
    pipe = socket.socket()
    pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    pipe.connect((host, int(port)))
    pipe.setblocking(False)
    return pipe


async def test_a_slow_reader_misses_no_close_and_gets_the_newest(streams: Streams) -> None:
    """The client reads nothing while many minutes pass; another one hears each at once."""
    market, bounds = streams.served.market, streams.served.push.bounds
    async with streams.ws(sock=small_pipe(streams)) as slow, streams.client() as other:
        assert (await heard(slow))["op"] == "welcome"
        await subscribed(slow, "market.BTC.1m")
        await subscribed(other, "market.BTC.1m")
        slow.transport.pause_reading()
        minutes = 0
        while bounds.conflated < 500:
            market.grow(a_candle(BTC, 60, NOW_NS + minutes * MINUTE_NS))
            minutes += 1
            for close in range(20):
                market.grow(growing(BTC, str(close), minutes))
                await asyncio.sleep(0)
            while (await heard(other))["data"]["close"] != 19:
                pass
            assert minutes < 1_000
        slow.transport.resume_reading()
        frames = [await heard(slow)]
        while frames[-1] != event("market.BTC.1m", growing(BTC, "19", minutes)):
            frames.append(await heard(slow))
        opens = [frame["data"]["ts"] for frame in frames if frame["data"]["is_closed"]]
        assert opens == [NOW_MS + n * 60_000 for n in range(minutes)]
        assert len(frames) == 21 * minutes - bounds.conflated


async def test_who_reads_nothing_is_closed_with_1013_when_a_mebibyte_waits(streams: Streams) -> None:
    market, bounds = streams.served.market, streams.served.push.bounds
    async with streams.ws(sock=small_pipe(streams)) as slow, streams.client() as other:
        assert (await heard(slow))["op"] == "welcome"
        await subscribed(slow, "market.BTC.1m")
        await subscribed(other, "market.BTC.1m")
        slow.transport.pause_reading()
        for minute in range(10_000):
            market.grow(a_candle(BTC, 60, NOW_NS + minute * MINUTE_NS))
            if minute % 100 == 99:
                for _ in range(100):
                    await heard(other)
            if bounds.lagged:
                break
        assert bounds.lagged == 1
        slow.transport.resume_reading()
        assert (await ended(slow))[0] == 1013
        assert await all_heard(other) is not None


# The published example


EXAMPLE = """
import asyncio, json, os, websockets

KEY = os.environ["KAI_API_KEY"]

async def stream():
    url = f"wss://agent-k.ai/v1/ws?api_key={KEY}"
    async with websockets.connect(url) as ws:
        # First frame is the welcome
        print(json.loads(await ws.recv()))

        # Subscribe to one or more channels
        await ws.send(json.dumps({
            "op": "subscribe",
            "channels": ["market.BTC.1m", "market.ETH.1m"],
        }))

        async for raw in ws:
            msg = json.loads(raw)
            if msg["op"] == "snapshot":
                print(f"snapshot {msg['channel']}: {len(msg['data'])} bars")
            elif msg["op"] == "event":
                d = msg["data"]
                print(f"{msg['channel']} c={d['close']} closed={d['is_closed']}")
            elif msg["op"] == "ping":
                await ws.send(json.dumps({"op": "pong", "ts": msg["ts"]}))

asyncio.run(stream())
"""


async def test_the_published_example_runs(streams: Streams, until: Any) -> None:
    """Nothing of it is changed but the address."""
    code = EXAMPLE.replace("wss://agent-k.ai", f"ws://{streams.address}")
    away = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
    example = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", code, env={**away, "KAI_API_KEY": streams.served.key}, stdout=subprocess.PIPE
    )
    assert example.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert (await example.stdout.readline()).startswith(b"{'op': 'welcome', 'version': 1, ")
            assert await example.stdout.readline() == b"snapshot market.BTC.1m: 2 bars\n"
            assert await example.stdout.readline() == b"snapshot market.ETH.1m: 0 bars\n"
            streams.served.market.grow(growing(BTC, "102"))
            assert await example.stdout.readline() == b"market.BTC.1m c=102 closed=False\n"
            # It answers pings: otherwise it would be closed before this.
            for beat in range(6):
                await streams.served.clock.advance(30)
                await until(lambda: not streams.dialect.streams.unanswered)
                streams.served.market.grow(growing(BTC, str(beat)))
                assert await example.stdout.readline() == b"market.BTC.1m c=%d closed=False\n" % beat
            streams.served.market.grow(a_candle(BTC, 60, NOW_NS, close="103.5"))
            assert await example.stdout.readline() == b"market.BTC.1m c=103.5 closed=True\n"
    finally:
        example.terminate()
        await example.wait()
