"""Points over gRPC and REST: ours beside the same server that sends the same bytes without looking anything up."""

import asyncio
import threading
import time
from collections.abc import Iterable

import grpc
import httpx2
import uvloop

from bench.pair import Child, child
from bench.points_server import END_S, KEY, MINUTES, MONTH, live_request, request
from bench.tables import Row

TITLE = "Kiyotaka's points per CPU second of the server; floor: the same bytes, ready, on the same server"
CALLERS = 16
SECONDS = 3.0
CLIENTS = 100
MESSAGES_PER_S = 20_000
METADATA = (("x-kiyotaka-key", KEY),)


def table() -> Iterable[Row]:
    """gRPC by three roads, then REST in both shapes."""
    told = {which: uvloop.run(_grpc(which)) for which in ("ours", "bare", "grpclib")}
    names = {
        "500": ("GetPoints of 500 candles", "calls/CPU s"),
        "50000": (f"GetPoints of {MINUTES:,} candles", "points/CPU s"),
        "bytes": (f"GetPoints of {MINUTES:,} candles", "bytes/CPU s"),
        "month": ("StreamPoints of a month of minutes", "points/CPU s"),
        "small": (f"small messages to {CLIENTS} streams", "messages/CPU s"),
    }
    for key, (name, unit) in names.items():
        for which in ("ours", "grpclib"):
            yield Row(f"{name}: {which}", told[which][key], told["bare"][key], unit)
    yield from uvloop.run(_rest())


async def _grpc(which: str) -> dict[str, float]:
    async with child("points", which) as server:
        rates: dict[str, float] = {}
        for points in (500, MINUTES):
            calls, spent_s, sent = await _spent(server, points)
            rates[str(points)] = calls / spent_s if points == 500 else calls * points / spent_s
            rates["bytes"] = sent / spent_s
        before = await server.spent()
        began, replays = time.monotonic(), 0
        while time.monotonic() - began < SECONDS:
            await asyncio.to_thread(_replay, server.port)
            replays += 1
        rates["month"] = replays * MONTH / ((await server.spent()).cpu_s - before.cpu_s)
        rates["small"] = await _small(server)
        return rates


async def _spent(server: Child, points: int) -> tuple[int, float, int]:
    """Calls that were answered, the CPU seconds they took, the bytes they brought."""
    counted = [0] * CALLERS
    size = await asyncio.to_thread(_call, server.port, points, 0.3, [0], 0)
    before = await server.spent()
    threads = [
        threading.Thread(target=_call, args=(server.port, points, SECONDS, counted, n))
        for n in range(CALLERS if points == 500 else 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    spent_s = (await server.spent()).cpu_s - before.cpu_s
    return sum(counted), spent_s, sum(counted) * size


def _call(port: int, points: int, seconds: float, counted: list[int], n: int) -> int:
    asked, size, until = request(points), 0, time.monotonic() + seconds
    with _channel(port) as channel:
        call = channel.unary_unary("/api.API/GetPoints")
        while time.monotonic() < until:
            size = len(call(asked, metadata=METADATA))
            counted[n] += 1
    # A candle of ours is 81 bytes, and everything of the window came.
    assert size > points * 81, size
    return size


def _replay(port: int) -> None:
    with _channel(port) as channel:
        stream = channel.unary_stream("/api.API/StreamPoints")(request(MONTH), metadata=METADATA)
        assert sum(len(message) for message in stream) > MONTH * 81


async def _small(server: Child) -> float:
    """Messages delivered to a hundred streams, per CPU second of the server."""
    received = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        streams = [
            channel.unary_stream("/api.API/StreamPoints")(live_request(), metadata=METADATA) for _ in range(CLIENTS)
        ]

        async def read(stream: grpc.aio.UnaryStreamCall[bytes, bytes]) -> None:
            nonlocal received
            async for _ in stream:
                received += 1

        tasks = [asyncio.create_task(read(stream)) for stream in streams]
        await asyncio.sleep(1.0)
        await server.tell("push 10 1 1")
        await asyncio.sleep(0.5)
        before, already = await server.spent(), received
        await server.tell(f"push {MESSAGES_PER_S // CLIENTS} {int(SECONDS)} 1")
        await asyncio.sleep(1.0)
        spent_s = (await server.spent()).cpu_s - before.cpu_s
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert received - already > CLIENTS * SECONDS, received
        return (received - already) / spent_s


async def _rest() -> list[Row]:
    rows: list[Row] = []
    async with child("points-rest", "ours") as server:
        for points in (500, MINUTES):
            for shape in ("proto", "point"):
                ours, body = await _asked(server, points, shape)
                async with child("points-rest", f"bare:{len(body)}") as bare:
                    floor, _ = await _asked(bare, points, shape)
                shown = {"proto": "A", "point": "B"}[shape]
                rows.append(Row(f"REST, shape {shown}, {points:,} points", ours, floor, "points/CPU s"))
    return rows


async def _asked(server: Child, points: int, shape: str) -> tuple[float, bytes]:
    query = {
        "type": "TRADE_SIDE_AGNOSTIC_AGG", "exchange": "BINANCE", "rawSymbol": "BTCUSDT", "interval": "MINUTE",
        "from": str(END_S - points * 60), "period": str(points * 60), "shape": shape,
    }  # fmt: skip
    headers = {"x-kiyotaka-key": KEY, "accept-encoding": "identity"}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, headers=headers) as http:
        body = (await http.get("/v1/points", params=query)).raise_for_status().content
        before, began, calls = await server.spent(), time.monotonic(), 0
        while time.monotonic() - began < SECONDS:
            answers = await asyncio.gather(*(http.get("/v1/points", params=query) for _ in range(4)))
            calls += sum(answer.status_code == 200 for answer in answers)
        return calls * points / ((await server.spent()).cpu_s - before.cpu_s), body


def _channel(port: int) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)])
