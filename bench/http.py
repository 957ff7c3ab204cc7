"""500 candles over HTTP: our route beside a bare ASGI application that sends the same bytes on the same uvicorn."""

import asyncio
from collections.abc import Iterable
from typing import cast

import uvloop

from bench.pair import child
from bench.tables import Row

TITLE = "GET /binance/ohlc/BTCUSDT/1m?limit=500, requests per CPU second of the server; floor: bare ASGI, same bytes"
CONNECTIONS = 8
WARM_S = 1.0
SECONDS = 3.0

_REQUEST = b"GET /binance/ohlc/BTCUSDT/1m?limit=500 HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n"


def table() -> Iterable[Row]:
    """Ours as it is served, and the same answer by slower roads."""
    per_cpu_s = {which: uvloop.run(measure(which)) for which in ("ours", "starlette", "fastapi", "bare")}
    floor = per_cpu_s.pop("bare")
    names = {
        "ours": "served: before the router, admission on",
        "starlette": "the same bytes by a Starlette route alone",
        "fastapi": "the same bytes by our FastAPI route",
    }
    return [Row(names[which], rate, floor, "requests/CPU s") for which, rate in per_cpu_s.items()]


async def measure(which: str, kind: str = "http", asking: "type[Client] | None" = None) -> float:
    """Requests per CPU second."""
    async with child(kind, which) as server:
        loop = asyncio.get_running_loop()
        clients = []
        for _ in range(CONNECTIONS):
            _, client = await loop.create_connection(asking or Client, "127.0.0.1", server.port)
            clients.append(client)
        await asyncio.sleep(WARM_S)
        before, count = await server.spent(), sum(c.answers for c in clients)
        await asyncio.sleep(SECONDS)
        after, count = await server.spent(), sum(c.answers for c in clients) - count
        assert all(c.status.startswith(b"HTTP/1.1 200") for c in clients), clients[0].status
        assert count > 0
        for client in clients:
            client.transport.abort()
        return count / (after.cpu_s - before.cpu_s)


class Client(asyncio.Protocol):
    """Asks again as soon as the answer is whole."""

    request = _REQUEST

    def __init__(self) -> None:
        self.answers = 0
        self.status = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            # The head always comes whole: the server writes it at once, and it is short.
            head, _, body = data.partition(b"\r\n\r\n")
            self.status = head[:15]
            low = head.lower()
            start = low.index(b"content-length:") + 15
            self._left = int(low[start:].split(b"\r\n", 1)[0])
            data = body
        self._left -= len(data)
        if not self._left:
            self.answers += 1
            self.transport.write(self.request)
