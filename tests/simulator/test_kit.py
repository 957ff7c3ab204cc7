"""The server under all personalities: HTTP, WebSocket, limits, one port for all."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx2
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from openoutcry.clock import ManualClock
from openoutcry.simulator import PERSONALITIES
from openoutcry.simulator.limits import Meter, Pool
from openoutcry.simulator.server import FRAME_BYTES_MAX
from openoutcry.simulator.simulator import Simulator

Play = Callable[..., Awaitable[Simulator]]
Get = Callable[..., Awaitable[httpx2.Response]]
Dial = Callable[[str], Awaitable[ClientConnection]]
Drain = Callable[[ClientConnection], Awaitable[list[bytes]]]
NS = 1_000_000_000


async def raw(simulator: Simulator, request: bytes) -> bytes:
    """What the server says to these bytes until it closes."""
    host, _, port = (
        simulator.addresses()["binance"]["rest"].removeprefix("http://").removesuffix("/binance").partition(":")
    )
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_whoever_is_about_to_leave_is_answered_no_more(play: Play) -> None:
    simulator = await play("binance")
    request = b"GET /binance/api/v3/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert (await raw(simulator, request)).startswith(b"HTTP/1.1 200")
    simulator.hush()
    asked = asyncio.ensure_future(raw(simulator, request))
    done, _ = await asyncio.wait([asked], timeout=0.2)
    assert not done
    await simulator.stop()
    # Broken off without a word.
    with suppress(ConnectionResetError):
        assert await asked == b""


async def test_every_venue_answers_below_its_own_path_of_one_port(play: Play, get: Get) -> None:
    simulator = await play()
    addresses = simulator.addresses()
    assert set(addresses) == set(PERSONALITIES)
    assert len({a["rest"].rsplit("/", 1)[0] for a in addresses.values()}) == 1
    for venue, path in (
        ("binance", "/api/v3/ping"),
        ("binance_futures", "/fapi/v1/ping"),
        ("binance_delivery", "/dapi/v1/ping"),
    ):
        assert (await get(addresses[venue]["rest"] + path)).json() == {}


async def test_it_starts_within_a_second(clock: ManualClock) -> None:
    began = time.perf_counter()
    simulator = Simulator(7, clock)
    await simulator.start()
    assert time.perf_counter() - began < 1.0
    await simulator.stop()
    await simulator.stop()


async def test_unknown_paths_are_not_found(play: Play, get: Get, dial: Dial) -> None:
    address = (await play("binance")).addresses()["binance"]
    assert (await get(address["rest"] + "/nowhere")).status_code == 404
    assert (await get(address["rest"] + "/../elsewhere")).status_code == 404
    with pytest.raises(InvalidStatus) as refused:
        await dial(address["sockets"]["market"] + "/nowhere")
    assert refused.value.response.status_code == 404


async def test_questions_sent_at_once_are_answered_in_order(play: Play) -> None:
    simulator = await play("binance")
    ping = b"GET /binance/api/v3/ping HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /binance/api/v3/time HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = await raw(simulator, ping + ping + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.endswith(b'{"serverTime":1795179620000}')


async def test_what_is_not_http_is_refused(play: Play) -> None:
    assert (await raw(await play("binance"), b"\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400")


async def test_a_ping_is_answered_and_words_in_pieces_are_joined(play: Play, dial: Dial) -> None:
    line = await dial((await play("binance")).addresses()["binance"]["sockets"]["market"] + "/ws")
    await (await line.ping(b"hello"))
    await line.send(['{"method":"LIST_SUB', 'SCRIPTIONS","id":3}'])
    assert msgspec.json.decode(await line.recv()) == {"result": [], "id": 3}


async def test_a_client_that_says_too_much_at_once_is_closed(play: Play, dial: Dial) -> None:
    line = await dial((await play("binance")).addresses()["binance"]["sockets"]["market"] + "/ws")
    await line.send("x" * (FRAME_BYTES_MAX + 1))
    with pytest.raises(ConnectionClosed) as closed:
        await line.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_a_client_that_says_too_much_too_often_is_closed(play: Play, dial: Dial) -> None:
    line = await dial((await play("binance")).addresses()["binance"]["sockets"]["market"] + "/ws")
    for n in range(6):
        await line.send(f'{{"method":"LIST_SUBSCRIPTIONS","id":{n}}}')
    with pytest.raises(ConnectionClosed) as closed:
        for _ in range(6):
            await line.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


async def test_two_lines_hear_the_same_and_each_only_what_it_follows(
    play: Play, dial: Dial, drain: Drain, clock: ManualClock
) -> None:
    address = (await play("binance")).addresses()["binance"]["sockets"]["market"]
    one = await dial(address + "/stream?streams=btcusdt@aggTrade")
    both = await dial(address + "/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade")
    await clock.advance(5)
    heard, more = await drain(one), await drain(both)
    assert len(heard) > 5
    assert [frame for frame in more if b'"btcusdt@' in frame] == heard
    assert any(b'"ethusdt@' in frame for frame in more)


async def test_a_line_hears_nothing_from_before_it_subscribed(
    play: Play, dial: Dial, drain: Drain, clock: ManualClock
) -> None:
    address = (await play("binance", activity=100.0)).addresses()["binance"]["sockets"]["market"]
    early = await dial(address + "/ws/btcusdt@aggTrade")
    await clock.advance(0.05)  # half a turn of the pump
    late, since_ms = await dial(address + "/ws/btcusdt@aggTrade"), clock.now_ns() // 1_000_000
    await clock.advance(0.05)
    assert any(msgspec.json.decode(frame)["T"] < since_ms for frame in await drain(early))
    assert all(msgspec.json.decode(frame)["T"] >= since_ms for frame in await drain(late))


async def test_frames_of_many_streams_come_in_order_of_time(
    play: Play, dial: Dial, drain: Drain, clock: ManualClock
) -> None:
    address = (await play("binance")).addresses()["binance"]["sockets"]["market"]
    line = await dial(address + "/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade/solusdt@aggTrade")
    await clock.advance(5)
    times = [msgspec.json.decode(frame)["data"]["T"] for frame in await drain(line)]
    assert len(times) > 10
    assert times == sorted(times)


async def test_what_was_used_is_told_and_too_much_is_refused_then_banned(
    play: Play, get: Get, clock: ManualClock
) -> None:
    rest = (await play("binance_futures")).addresses()["binance_futures"]["rest"]
    url = rest + "/fapi/v1/aggTrades"
    first = await get(url, symbol="BTCUSDT", limit=1)
    assert first.headers["x-mbx-used-weight-1m"] == "20"
    statuses = [(await get(url, symbol="BTCUSDT", limit=1)).status_code for _ in range(120)]
    assert statuses == [200] * 119 + [429]
    refused = await get(url, symbol="BTCUSDT", limit=1)
    assert refused.json()["code"] == -1003
    assert refused.headers["retry-after"] == "40"
    patient = [(await get(rest + "/fapi/v1/ping")).status_code for _ in range(18)]
    assert patient == [429] * 18
    banned = await get(rest + "/fapi/v1/ping")
    assert (banned.status_code, banned.headers["retry-after"]) == (418, "120")
    await clock.advance(60)
    assert (await get(rest + "/fapi/v1/ping")).status_code == 418
    await clock.advance(61)
    assert (await get(rest + "/fapi/v1/ping")).status_code == 200


async def test_futures_and_delivery_share_one_weight_and_spot_has_its_own(play: Play, get: Get) -> None:
    at = (await play()).addresses()
    await get(at["binance_futures"]["rest"] + "/fapi/v1/ping")
    shared = await get(at["binance_delivery"]["rest"] + "/dapi/v1/ping")
    own = await get(at["binance"]["rest"] + "/api/v3/ping")
    assert shared.headers["x-mbx-used-weight-1m"] == "2"
    assert own.headers["x-mbx-used-weight-1m"] == "1"


async def test_limits_can_be_switched_off(play: Play, get: Get, dial: Dial) -> None:
    address = (await play("binance_futures", limits=False)).addresses()["binance_futures"]
    for _ in range(125):
        answer = await get(address["rest"] + "/fapi/v1/aggTrades", symbol="BTCUSDT", limit=1)
    assert (answer.status_code, answer.headers["x-mbx-used-weight-1m"]) == (200, "2500")
    line = await dial(address["sockets"]["market"] + "/ws")
    for n in range(30):
        await line.send(f'{{"method":"LIST_SUBSCRIPTIONS","id":{n}}}')
        await line.recv()


async def test_too_many_new_connections_are_refused(play: Play, dial: Dial) -> None:
    simulator = await play("binance")
    stage = simulator.stages["binance"]
    allowed = [stage.admit("/ws", "10.0.0.1", 0) for _ in range(301)]
    assert allowed == ["market"] * 300 + [429]
    assert stage.admit("/ws", "10.0.0.2", 0) == "market"
    assert stage.admit("/ws", "10.0.0.1", 300 * NS) == "market"


async def test_a_reader_that_stalls_costs_nobody_else_anything(
    play: Play, dial: Dial, drain: Drain, clock: ManualClock
) -> None:
    address = (await play("binance")).addresses()["binance"]["sockets"]["market"]
    await dial(address + "/stream?streams=btcusdt@aggTrade")
    quick = await dial(address + "/stream?streams=btcusdt@aggTrade")
    for _ in range(3):
        await clock.advance(5)
        assert await drain(quick)


async def test_coinmarketcap_wants_a_key_and_tells_categories_of_the_world(play: Play, get: Get) -> None:
    simulator = await play()
    rest = simulator.addresses()["coinmarketcap"]["rest"]
    without = await get(rest + "/v1/cryptocurrency/categories")
    assert without.status_code == 401
    assert without.json()["status"]["error_code"] == 1002
    key = {"X-CMC_PRO_API_KEY": "0123456789abcdef"}
    listed = (await get(rest + "/v1/cryptocurrency/categories", key, start=2, limit=2)).json()
    assert listed["status"]["error_code"] == 0
    assert len(listed["data"]) == 2
    one = (await get(rest + "/v1/cryptocurrency/category", key, id=listed["data"][0]["id"], limit=1)).json()["data"]
    assert one["name"] == listed["data"][0]["name"]
    assert len(one["coins"]) == 1
    assert one["coins"][0]["quote"]["USD"]["price"] > 0
    unknown = await get(rest + "/v1/cryptocurrency/category", key, id="none")
    assert unknown.status_code == 400


def test_a_pool_counts_each_address_in_windows_of_its_own() -> None:
    meter, pool = Meter(enforce=True), Pool(2, 10.0, None)
    used = [meter.charge("a", pool, "one", 1, 9 * NS) for _ in range(3)]
    assert [(u.used, u.retry_s, u.banned) for u in used] == [(1, None, False), (2, None, False), (3, 1, False)]
    assert meter.charge("a", pool, "two", 1, 9 * NS).used == 1
    assert meter.charge("b", pool, "one", 1, 9 * NS).used == 1
    assert meter.charge("a", pool, "one", 1, 10 * NS).retry_s is None
