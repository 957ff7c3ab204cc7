"""A world whose time stands still until a test moves it, played on a real socket."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect

from openoutcry.clock import ManualClock
from openoutcry.simulator.simulator import Simulator

NS = 1_000_000_000
# 2026-11-20 13:00:20 UTC: a Friday, twenty seconds into a minute.
START_NS = 1_795_179_620 * NS

Play = Callable[..., Awaitable[Simulator]]
Get = Callable[..., Awaitable[httpx2.Response]]
Dial = Callable[[str], Awaitable[ClientConnection]]
Drain = Callable[[ClientConnection], Awaitable[list[bytes]]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_NS)


@pytest.fixture
async def play(clock: ManualClock) -> AsyncIterator[Play]:
    """Starts a simulator of these venues, seed 7; all are stopped after the test."""
    started: list[Simulator] = []

    async def start(*venues: str, **options: Any) -> Simulator:
        simulator = Simulator(7, clock, venues or None, **options)
        started.append(simulator)
        await simulator.start()
        return simulator

    yield start
    for simulator in reversed(started):
        await simulator.stop()


@pytest.fixture
async def get() -> AsyncIterator[Get]:
    """Asks over HTTP with a real client."""
    async with httpx2.AsyncClient(trust_env=False, timeout=20.0) as client:

        async def ask(url: str, headers: Mapping[str, str] | None = None, **query: object) -> httpx2.Response:
            return await client.get(url, params={k: str(v) for k, v in query.items()}, headers=headers)

        yield ask


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Opens WebSockets with a real client; all are closed after the test."""
    opened: list[ClientConnection] = []

    async def open_one(url: str) -> ClientConnection:
        line = await connect(url, proxy=None, compression=None, ping_interval=None, close_timeout=1.0, max_size=2**26)
        opened.append(line)
        return line

    yield open_one
    for line in opened:
        await line.close()


@pytest.fixture
def drain() -> Drain:
    """All frames that a Binance line was sent so far: those before the answer to a question of ours."""

    async def until_answered(line: ClientConnection) -> list[bytes]:
        await line.send('{"method":"GET_PROPERTY","params":["combined"],"id":"fence"}')
        frames: list[bytes] = []
        while True:
            frame = await line.recv(decode=False)
            if b'"fence"' in frame:
                return frames
            frames.append(frame)

    return until_answered
