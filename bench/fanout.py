"""One stream to many WebSocket clients: server CPU per delivered frame, beside `websockets` broadcast and a bare loop."""

import asyncio
import os
from base64 import b64encode
from collections.abc import Iterable
from typing import cast

import uvloop

from bench.pair import child
from bench.tables import Row

TITLE = "300-byte frames delivered per CPU second of the server; floor: a bare loop over transports"
DELIVERED_PER_S = 20_000
SECONDS = 4
JOINED = 10
CONNECT_AT_ONCE = 50


def table() -> Iterable[Row]:
    """A hundred clients, a thousand, a thousand with ten events in one turn of the loop."""
    rows = []
    for clients, a_tick in ((100, 1), (1_000, 1), (1_000, JOINED)):
        rate = {which: uvloop.run(measure(which, clients, a_tick)) for which in ("ours", "websockets", "bare")}
        floor = rate["bare"][0]
        what = f"{clients:,} clients" + (f", {a_tick} events a tick" if a_tick > 1 else "")
        rows += [
            Row(f"{what}: ours", rate["ours"][0], floor, "frames/CPU s"),
            Row(f"{what}: websockets broadcast", rate["websockets"][0], floor, "frames/CPU s"),
        ]
        if a_tick == 1 and clients == 1_000:
            rows.append(Row("bytes a connection, ours (less is better)", rate["ours"][1], rate["bare"][1], "bytes"))
    return rows


async def measure(which: str, clients: int, a_tick: int) -> tuple[float, float]:
    """Frames per CPU second, and resident bytes a connection."""
    async with child("fanout", which) as server:
        empty = await server.spent()
        loop = asyncio.get_running_loop()
        connected: list[Client] = []
        for start in range(0, clients, CONNECT_AT_ONCE):
            made = [
                loop.create_connection(Client, "127.0.0.1", server.port)
                for _ in range(min(CONNECT_AT_ONCE, clients - start))
            ]
            connected += [client for _, client in await asyncio.gather(*made)]
            await asyncio.gather(*(client.open for client in connected[start:]))
        full = await server.spent()
        per_s = DELIVERED_PER_S * a_tick // clients
        await server.tell(f"push {per_s} 1 {a_tick}")
        await asyncio.sleep(0.2)
        before, received = await server.spent(), sum(client.received for client in connected)
        events = (await server.tell(f"push {per_s} {SECONDS} {a_tick}"))["events"]
        after = await server.spent()
        await asyncio.sleep(0.5)
        received = sum(client.received for client in connected) - received
        assert received >= events * clients * 302, (received, events * clients * 302)
        for client in connected:
            client.transport.abort()
        return events * clients / (after.cpu_s - before.cpu_s), (full.rss - empty.rss) / clients


class Client(asyncio.Protocol):
    """Shakes hands, then counts bytes."""

    path = b"/ws/bench"

    def __init__(self) -> None:
        self.received = 0
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(
            b"GET " + self.path + b" HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + b64encode(os.urandom(16)) + b"\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        if self.open.done():
            self.received += len(data)
        else:
            assert data.startswith(b"HTTP/1.1 101"), data
            self.open.set_result(None)
