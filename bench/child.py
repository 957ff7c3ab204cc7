"""A server in a process of its own, told over its standard input what to do, so that its CPU time is its alone.

python -m bench.child http ours      ─▶ {"port": 40123}
cpu                                  ─▶ {"cpu_s": 1.25, "rss": 41943040}
push 200 5 10                        ─▶ {"delivered": 1000, ...}   events a second, seconds, events a tick
"""

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, Protocol, cast

import psutil
import uvicorn
import uvloop
from fastapi import APIRouter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.utils import accept_key

from bench import orders_server, points_server
from openoutcry.accounts.keys import Keys
from openoutcry.api.admission import Admission
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Dialect, Doors, Scope
from openoutcry.api.frames import text_frame, writer_of
from openoutcry.api.push import Every, Push
from openoutcry.api.takashi import wire
from openoutcry.api.takashi.names import Asked
from openoutcry.api.takashi.rest import Takashi
from openoutcry.bus import Bus
from openoutcry.clock import NS, SystemClock
from openoutcry.events import Candle, Side
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.market import Market
from openoutcry.market.outside import VenueState
from openoutcry.stores.keys import MemoryKeys
from openoutcry.telemetry import Telemetry
from openoutcry.venues.venue import Feed, Query

ROWS = 500
PAYLOAD = b'{"bench":"' + b"x" * 286 + b'"}'  # with its frame header 302 bytes on the wire


async def main(kind: str, which: str) -> None:
    # `bare:1000` sends a thousand bytes.
    await obey(sized_http(int(which[5:])) if which.startswith("bare:") else SERVERS[kind, which]())


async def obey(server: "Server") -> None:
    """Start it, and do what is told on standard input until that ends."""
    port = await server.start()
    say({"port": port})
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        words = line.split()
        if words[0] == b"cpu":
            say({"cpu_s": time.process_time(), "rss": psutil.Process().memory_info().rss})
        elif words[0] == b"push":
            say({"events": await publish(server.send, *map(int, words[1:]))})


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


async def publish(send: Callable[[bytes], None], per_s: int, seconds: int, a_tick: int) -> int:
    """So many events a second, so many in one turn of the loop; how many there were."""
    ticks = per_s * seconds // a_tick
    began = time.monotonic()
    for tick in range(ticks):
        wait = began + tick * a_tick / per_s - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        for _ in range(a_tick):
            send(PAYLOAD)
    return ticks * a_tick


class Server(Protocol):
    async def start(self) -> int:
        """Listen; the port."""
        ...

    def send(self, payload: bytes) -> None:
        """Send to every client that is connected."""
        ...


class _OnRequest:
    """A server that only answers."""

    def send(self, payload: bytes) -> None:
        raise AssertionError(f"nobody follows this one, and {payload!r} was pushed")


# The same 500 candles, by four roads


class MemoryMarket(Market):
    """One instrument, whose newest candles are at hand."""

    def __init__(self) -> None:
        listed = _instrument()
        self._instruments = {"BTCUSDT": listed}
        self._closed = [_candle(listed.name, i, closed=True) for i in range(ROWS)]
        self._forming = _candle(listed.name, ROWS, closed=False)

    def venues(self) -> Mapping[str, VenueState]:
        return {"binance_futures": VenueState("binance_futures", alive=True, connections=1, last_received_ns=None)}

    def feeds(self, venue: str) -> frozenset[Feed]:
        del venue
        return frozenset(Feed)

    def queries(self, venue: str) -> frozenset[Query]:
        del venue
        return frozenset(Query)

    async def instruments(self, venue: str) -> Mapping[str, Instrument]:
        del venue
        return self._instruments

    async def instrument(self, venue: str, symbol: str) -> Instrument:
        del venue
        return self._instruments[symbol]

    def newest(
        self, instrument: str, interval_s: int, limit: int, side: Side = Side.BOTH
    ) -> tuple[Sequence[Candle], Candle | None] | None:
        del instrument, interval_s, side
        return self._closed[-limit:], self._forming

    def unsure_ns(self, instrument: str, interval_s: int) -> int | None:
        del instrument, interval_s
        return self._forming.open_ns


def _instrument() -> Instrument:
    one = Decimal(1)
    return Instrument(
        venue="binance_futures",
        symbol="BTCUSDT",
        kind=Kind.PERPETUAL,
        coin="BTC",
        quote="USDT",
        settle="USDT",
        tick_size=one,
        lot_size=one,
    )


def _candle(name: str, minute: int, *, closed: bool) -> Candle:
    price = Decimal("101621.7") + minute
    return Candle(
        instrument=name,
        side=Side.BOTH,
        interval_s=60,
        open_ns=(1_763_553_600 + 60 * minute) * NS,
        open=price,
        high=price + 337,
        low=price - 2,
        close=price + 197,
        volume=Decimal("1274.153"),
        quote_volume=Decimal("129689803.5351"),
        trades=39_480,
        first_ns=None,
        last_ns=None,
        closed=closed,
        received_ns=0,
        origin="trades",
    )


def _doors() -> Doors:
    telemetry = Telemetry()
    clock = SystemClock()
    return Doors(
        clock=clock,
        keys=Keys(MemoryKeys(), b"pepper", clock, telemetry),
        market=MemoryMarket(),
        bus=Bus(),
        follow=lambda _instrument, _feeds: lambda: None,
        admission=Admission(clock, requests_per_s=1e9, burst=1_000_000, sockets_per_address_max=100_000, loopback=True),
        push=Push(telemetry),
        telemetry=telemetry,
    )


class OurHttp(_OnRequest):
    def __init__(self, *, hot: bool) -> None:
        doors = _doors()
        dialect = Takashi(doors) if hot else _WithoutHot(doors)
        self._server = HttpServer(application(doors, [dialect]), "127.0.0.1", 0)

    async def start(self) -> int:
        return int((await self._server.start()).rpartition(":")[2])


class _WithoutHot(Takashi):
    def hot(self, scope: Scope, *, packed: bool) -> bytes | None:
        del scope, packed
        return None


class Uvicorn(_OnRequest):
    """An ASGI application on uvicorn as it comes."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(
            app, port=0, http="httptools", access_log=False, log_level="error", lifespan="off", proxy_headers=False
        )
        self._server = uvicorn.Server(config)

    async def start(self) -> int:
        self._running = asyncio.create_task(self._server.serve())
        while not self._server.started:  # noqa: ASYNC110  uvicorn tells it in no other way
            await asyncio.sleep(0.01)
        return int(self._server.servers[0].sockets[0].getsockname()[1])


def _body() -> bytes:
    asked = Asked("binance", "BTCUSDT", _instrument())
    closed, growing = MemoryMarket().newest("", 60, ROWS) or ((), None)
    return wire.Pages().body(asked, "1m", closed, growing, ROWS)


def bare_http() -> Uvicorn:
    return _bare(_body())


def sized_http(size: int) -> Uvicorn:
    """So many bytes, whatever is asked."""
    return _bare(b"x" * size)


def _bare(body: bytes) -> Uvicorn:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return Uvicorn(app)


def starlette_http() -> Uvicorn:
    takashi = _Parts()

    async def ohlc(request: Request) -> Response:
        limit = int(request.query_params.get("limit", "500"))
        return Response(takashi.answer(limit), media_type="application/json")

    return Uvicorn(Starlette(routes=[Route("/{exchange}/ohlc/{symbol}/{interval}", ohlc)]))


class _Parts:
    def __init__(self) -> None:
        self._market = MemoryMarket()
        self._pages = wire.Pages()
        self._asked = Asked("binance", "BTCUSDT", _instrument())

    def answer(self, limit: int) -> bytes:
        closed, growing = self._market.newest("", 60, limit) or ((), None)
        return self._pages.body(self._asked, "1m", closed, growing, limit)


# One stream to many, by three roads


class OurFanout:
    def __init__(self) -> None:
        self._doors = _doors()

    async def start(self) -> int:
        self._channel = self._doors.push.every()
        streams: Dialect = _Stream(self._doors, self._channel)
        server = HttpServer(application(self._doors, [streams]), "127.0.0.1", 0)
        return int((await server.start()).rpartition(":")[2])

    def send(self, payload: bytes) -> None:
        self._channel.send(payload)


class _Stream(Takashi):
    """The dialect with one path more, whose events are ours to make."""

    def __init__(self, doors: Doors, channel: Every) -> None:
        super().__init__(doors)
        self._channel = channel
        self._doors = doors

    def rest(self) -> APIRouter:
        return APIRouter()

    def sockets(self) -> Sequence[WebSocketRoute]:
        return [WebSocketRoute("/ws/bench", _Follow(self._doors, self._channel))]


class _Follow:
    def __init__(self, doors: Doors, channel: Every) -> None:
        self._doors = doors
        self._channel = channel

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        leave = self._doors.push.join("bench", writer_of(scope), lambda: (self._channel, lambda: None))
        while (await receive())["type"] != "websocket.disconnect":
            pass
        leave()


class WebsocketsFanout:
    """The `websockets` library's own broadcast."""

    def __init__(self) -> None:
        self._connections: set[ServerConnection] = set()

    def send(self, payload: bytes) -> None:
        broadcast(self._connections, payload.decode())

    async def start(self) -> int:
        async def handle(connection: ServerConnection) -> None:
            self._connections.add(connection)
            await connection.wait_closed()
            self._connections.discard(connection)

        server = await serve(handle, "127.0.0.1", 0, compression=None)
        return int(next(iter(server.sockets)).getsockname()[1])


class BareFanout:
    """A loop over transports, with nothing between: no limit, no heartbeat, no closing handshake."""

    def __init__(self) -> None:
        self._open: set[asyncio.Transport] = set()

    def send(self, payload: bytes) -> None:
        frame = text_frame(payload)
        for transport in self._open:
            transport.write(frame)

    async def start(self) -> int:
        server = await asyncio.get_running_loop().create_server(lambda: _Bare(self._open), "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])


class _Bare(asyncio.Protocol):
    def __init__(self, opened: set[asyncio.Transport]) -> None:
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for line in data.split(b"\r\n"):
            if line.lower().startswith(b"sec-websocket-key:"):
                accept = accept_key(line.partition(b":")[2].strip().decode()).encode()
                self._transport.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
                )
                self._opened.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._opened.discard(self._transport)


def _streams() -> Any:
    # It stands on this module.
    return importlib.import_module("bench.streams_server")


SERVERS: Mapping[tuple[str, str], Callable[[], Server]] = {
    ("http", "ours"): lambda: OurHttp(hot=True),
    ("http", "fastapi"): lambda: OurHttp(hot=False),
    ("http", "starlette"): starlette_http,
    ("http", "bare"): bare_http,
    ("fanout", "ours"): OurFanout,
    ("fanout", "websockets"): WebsocketsFanout,
    ("fanout", "bare"): BareFanout,
    ("points", "ours"): lambda: points_server.Ours(rest=False),
    ("points", "bare"): points_server.Bare,
    ("points", "grpclib"): points_server.Grpclib,
    ("points-rest", "ours"): lambda: points_server.Ours(rest=True),
    ("orders", "ours"): orders_server.Ours,
    ("orders", "bare"): orders_server.Bare,
    ("streams", "ours"): lambda: _streams().Ours(),
    ("ohlcv", "ours"): lambda: _streams().Ours(),
    ("ohlcv", "bare"): lambda: _streams().bare(),
}


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        uvloop.run(main(sys.argv[1], sys.argv[2]))
