"""Slow readers: real sockets that stop reading, and writers that say how full they are."""

import asyncio
import base64
import json
import os
import socket
from typing import Any

import pytest

from openoutcry.api.push import HELD_MAX, Push
from openoutcry.clock import NS
from openoutcry.telemetry import Telemetry

NOW_NS = 1_763_553_600 * NS
MINUTE_NS = 60 * NS
BTC = "binance_futures:BTCUSDT"


class Pipe:
    """A writer whose buffer the test fills and empties."""

    def __init__(self) -> None:
        self.choked = False
        self.relieved: Any = None
        self.pinged: Any = None
        self.waiting = 0
        self.written: list[bytes] = []
        self.finished: tuple[int, str] | None = None

    def write(self, frames: bytes) -> None:
        self.written.append(frames)

    def buffered(self) -> int:
        return self.waiting

    def limit(self, buffered_bytes_max: int) -> None:
        self.most = buffered_bytes_max

    def finish(self, code: int, reason: str) -> None:
        self.finished = (code, reason)


def no_stop() -> None:
    return None


async def test_frames_of_one_turn_leave_in_one_write(telemetry: Telemetry) -> None:
    push, pipe = Push(telemetry), Pipe()
    channel = push.every()
    push.join("k", pipe, lambda: (channel, no_stop))
    for text in (b"a", b"bb"):
        channel.send(text)
    assert pipe.written == []
    await asyncio.sleep(0)
    assert pipe.written == [b"\x81\x01a\x81\x02bb"]
    assert push.bounds.frames == 2


async def test_each_group_gets_what_it_wants(telemetry: Telemetry) -> None:
    push = Push(telemetry)
    channel = push.every(lambda least, value: value >= least)
    pipes = {least: Pipe() for least in (0, 5, 9)}
    for least, pipe in pipes.items():
        push.join("k", pipe, lambda: (channel, no_stop), least)
    assert channel.wanted(0)
    channel.send(b"3", 3)
    channel.send(b"7", 7)
    await asyncio.sleep(0)
    assert {least: pipe.written for least, pipe in pipes.items()} == {
        0: [b"\x81\x013\x81\x017"],
        5: [b"\x81\x017"],
        9: [],
    }


async def test_nothing_is_wanted_when_nobody_could_take_it(telemetry: Telemetry) -> None:
    push = Push(telemetry)
    channel = push.every(lambda least, value: value >= least)
    leave = push.join("k", Pipe(), lambda: (channel, no_stop), 5)
    assert [channel.wanted(value) for value in (4, 5)] == [False, True]
    leave()
    assert not channel.wanted(5)


@pytest.mark.parametrize(("waiting", "closed"), [(1_000, False), (1_001, True)])
async def test_a_lagging_follower_of_events_is_closed_and_nobody_else(
    telemetry: Telemetry, waiting: Any, closed: Any
) -> None:
    push = Push(telemetry, bytes_max=1_000)
    channel = push.every()
    slow, quick = Pipe(), Pipe()
    for pipe in (slow, quick):
        push.join("k", pipe, lambda: (channel, no_stop))
    slow.waiting = waiting
    channel.send(b"x" * 100)
    await asyncio.sleep(0)
    assert len(quick.written) == 1
    assert (slow.finished is not None, len(slow.written)) == (closed, 0 if closed else 1)
    if slow.finished:
        assert slow.finished[0] == 1013
    assert push.bounds.lagged == closed


async def test_small_frames_are_bounded_by_their_number(telemetry: Telemetry) -> None:
    push = Push(telemetry, bytes_max=1_000_000, frames_max=10)
    channel, slow = push.every(), Pipe()
    push.join("k", slow, lambda: (channel, no_stop))
    slow.waiting = 10 * 7 + 1
    channel.send(b"12345")
    await asyncio.sleep(0)
    assert slow.finished is not None


async def test_a_choked_follower_of_candles_gets_the_newest_of_each_when_it_reads_again(telemetry: Telemetry) -> None:
    push, slow = Push(telemetry), Pipe()
    channel = push.newest()
    push.join("k", slow, lambda: (channel, no_stop))
    slow.choked = True
    for key, text in ((1, b"a"), (1, b"b"), (2, b"c"), (1, b"d"), (2, b"e")):
        channel.send(text, key)
        await asyncio.sleep(0)
    assert slow.written == []
    slow.choked = False
    slow.relieved()
    assert slow.written == [b"\x81\x01d\x81\x01e"]
    assert push.bounds.conflated == 3
    assert slow.finished is None


async def test_what_is_held_for_a_choked_follower_is_bounded(telemetry: Telemetry) -> None:
    push, slow = Push(telemetry), Pipe()
    channel = push.newest()
    leave = push.join("k", slow, lambda: (channel, no_stop))
    slow.choked = True
    for key in range(HELD_MAX + 20):
        channel.send(str(key).encode(), key)
        await asyncio.sleep(0)
    slow.relieved()
    assert slow.written[0].count(b"\x81") == HELD_MAX
    assert slow.written[0].startswith(b"\x81\x0220")
    leave()
    assert slow.relieved is None


async def test_the_first_follower_begins_and_the_last_ends(telemetry: Telemetry) -> None:
    push = Push(telemetry)
    said: list[str] = []

    def begin() -> Any:
        said.append("begin")
        return push.every(), lambda: said.append("end")

    leaves = [push.join("k", Pipe(), begin) for _ in range(3)]
    for leave in leaves[:2]:
        leave()
        leave()
    assert said == ["begin"]
    leaves[2]()
    assert said == ["begin", "end"]
    assert push.bounds.followers == 0


async def test_a_beginning_that_fails_leaves_nothing_behind(telemetry: Telemetry) -> None:
    push = Push(telemetry)

    def begin() -> Any:
        raise ValueError("no such source")

    with pytest.raises(ValueError, match="no such source"):
        push.join("k", Pipe(), begin)
    assert push.bounds.followers == 0
    push.join("k", Pipe(), lambda: (push.every(), no_stop))()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


# Real sockets


async def stalled(served: Any, path: str) -> socket.socket:
    """A client that shakes hands and then never reads."""
    loop = asyncio.get_running_loop()
    host, _, port = served.address.rpartition(":")
    pipe = socket.socket()
    pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    pipe.setblocking(False)
    await loop.sock_connect(pipe, (host, int(port)))
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    await loop.sock_sendall(pipe, head.encode())
    assert (await loop.sock_recv(pipe, 1_024)).startswith(b"HTTP/1.1 101")
    return pipe


async def test_a_client_that_stops_reading_events_is_closed_and_the_others_miss_nothing(
    served: Any, make_liquidation: Any, until: Any
) -> None:
    slow = await stalled(served, "/ws/all/liquidations?min_value_usd=0")
    async with served.ws("/ws/all/liquidations?min_value_usd=0", max_queue=None) as quick:
        await until(lambda: served.push.bounds.followers == 2)
        sent = 0
        async with asyncio.timeout(20):
            while not served.push.bounds.lagged:
                served.bus.publish([make_liquidation(BTC, "100", str(n)) for n in range(sent + 1, sent + 101)])
                sent += 100
                for _ in range(100):
                    await quick.recv()
        await until(lambda: served.push.bounds.followers == 1)
        # What waited for it: our bound, what the kernel takes, and the last batch.
        assert sent * 170 < 2_000_000
        # It does not read the close frame either: the connection is cut all the same.
        await until(lambda: len(served.server.connections) == 1)
        served.bus.publish([make_liquidation(BTC, "100", "7")])
        assert json.loads(await quick.recv())["quantity"] == 7.0
    slow.close()


async def test_a_client_that_stops_reading_candles_stays_and_then_gets_the_newest(
    served: Any, make_candle: Any, until: Any
) -> None:
    slow = await stalled(served, "/ws/binance/BTCUSDT/ohlc")
    await until(lambda: served.push.bounds.followers == 1)
    loop = asyncio.get_running_loop()
    price = 0
    async with asyncio.timeout(20):
        while served.push.bounds.conflated < 1_000:
            price += 1
            served.market.grow(make_candle(BTC, 60, NOW_NS, closed=False, close=str(price)))
            await asyncio.sleep(0)
        assert served.push.bounds.followers == 1
        said = b""
        newest = f'"close":{price}.0'.encode()
        while newest not in said:
            said += await loop.sock_recv(slow, 65_536)
    # Far fewer frames than there were prices: the rest was conflated.
    assert said.count(b'"close"') <= price - 999
    slow.close()
