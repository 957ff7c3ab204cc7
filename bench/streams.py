"""agent-k's socket, one channel to a thousand clients, beside a bare loop; and 500 of its candles beside bare ASGI."""

import asyncio
from collections.abc import Iterable

import uvloop

from bench import fanout, http
from bench.pair import child
from bench.streams_server import KEY
from bench.tables import Row

TITLE = (
    "/v1/ws to 1,000 clients and GET /v1/market/ohlcv/BTC, per CPU second of the server; floors: a bare loop, bare ASGI"
)
CLIENTS = 1_000
SECONDS = 4
CONNECT_AT_ONCE = 50
CHANNEL = b'{"op":"subscribe","channels":["market.BTC.1m"]}'
# What an event of the bench comes to at least, with its head.
EVENT_BYTES_MIN = 250

_ASK = (
    b"GET /v1/market/ohlcv/BTC?interval=1m&limit=500 HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n"
    b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n"
)


def table() -> Iterable[Row]:
    """Frames delivered, bytes a connection, requests answered."""
    ours, bare = (uvloop.run(pushed(which)) for which in ("ours", "bare"))
    asked = {which: uvloop.run(http.measure(which, "ohlcv", Asking)) for which in ("ours", "bare")}
    return [
        Row("one channel to 1,000 clients", ours[0], bare[0], "frames/CPU s"),
        Row("bytes a connection that follows (less is better)", ours[1], bare[1], "bytes"),
        Row("500 candles, with key and limits", asked["ours"], asked["bare"], "requests/CPU s"),
    ]


async def pushed(which: str) -> tuple[float, float]:
    """Frames per CPU second, and resident bytes a connection."""
    kind, client = ("streams", Following) if which == "ours" else ("fanout", fanout.Client)
    async with child(kind, which) as server:
        empty = await server.spent()
        loop = asyncio.get_running_loop()
        connected: list[fanout.Client] = []
        for _ in range(0, CLIENTS, CONNECT_AT_ONCE):
            made = [loop.create_connection(client, "127.0.0.1", server.port) for _ in range(CONNECT_AT_ONCE)]
            fresh = [each for _, each in await asyncio.gather(*made)]
            await asyncio.gather(*(each.open for each in fresh))
            connected += fresh
        full = await server.spent()
        per_s = fanout.DELIVERED_PER_S // CLIENTS
        await server.tell(f"push {per_s} 1 1")
        await asyncio.sleep(0.2)
        before, received = await server.spent(), sum(each.received for each in connected)
        events = (await server.tell(f"push {per_s} {SECONDS} 1"))["events"]
        after = await server.spent()
        await asyncio.sleep(0.5)
        received = sum(each.received for each in connected) - received
        assert received >= events * CLIENTS * EVENT_BYTES_MIN, (received, events)
        for each in connected:
            each.transport.abort()
        return events * CLIENTS / (after.cpu_s - before.cpu_s), (full.rss - empty.rss) / CLIENTS


class Following(fanout.Client):
    """Shakes hands, follows the channel, then counts bytes."""

    path = b"/v1/ws?api_key=" + KEY.encode()
    _heard = b""

    def data_received(self, data: bytes) -> None:
        if self.open.done():
            self.received += len(data)
            return
        self._heard += data
        if self._heard.endswith(b"}") and b'"welcome"' in self._heard and b'"subscribed"' not in self._heard:
            # A client's frames are masked; with zeros they stay what they are.
            self.transport.write(b"\x81" + bytes([0x80 | len(CHANNEL)]) + bytes(4) + CHANNEL)
        elif b'"snapshot"' in self._heard and self._heard.endswith(b"]]}"):
            self.open.set_result(None)
            self._heard = b""


class Asking(http.Client):
    """Asks for agent-k's candles."""

    request = _ASK
