"""Each fault, as a real client sees it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from openoutcry.clock import ManualClock
from openoutcry.simulator.faults import HUGE_BYTES, Faults
from openoutcry.simulator.simulator import Simulator

Play = Callable[..., Awaitable[Simulator]]
Get = Callable[..., Awaitable[httpx2.Response]]
Dial = Callable[[str], Awaitable[ClientConnection]]
Drain = Callable[[ClientConnection], Awaitable[list[bytes]]]
NS = 1_000_000_000
VENUE = "binance_futures"


@pytest.fixture
async def simulator(play: Play) -> Simulator:
    return await play(VENUE)


@pytest.fixture
def rest(simulator: Simulator) -> str:
    return simulator.addresses()[VENUE]["rest"] + "/fapi/v1"


@pytest.fixture
async def trades(simulator: Simulator, dial: Dial) -> ClientConnection:
    """A line that follows the aggregate trades of BTCUSDT."""
    return await dial(simulator.addresses()[VENUE]["sockets"]["market"] + "/ws/btcusdt@aggTrade")


def ids(frames: list[bytes]) -> list[int]:
    return [msgspec.json.decode(frame)["a"] for frame in frames]


async def test_without_faults_every_trade_comes_once_and_in_order(
    trades: ClientConnection, drain: Drain, clock: ManualClock, simulator: Simulator
) -> None:
    start_ns = clock.now_ns()
    await clock.advance(20)
    seen = ids(await drain(trades))
    assert seen == [row.id for row in simulator.world.orders("binance_futures:BTCUSDT", start_ns, clock.now_ns())]


@pytest.mark.parametrize(("how", "code"), [("rst", 1006), ("abnormal", 1006), ("close", 1000)])
async def test_a_cut_ends_the_connection_in_its_manner_and_happens_once(
    how: str, code: int, simulator: Simulator, trades: ClientConnection, dial: Dial, clock: ManualClock
) -> None:
    simulator.faults.set(VENUE, cut=how)
    await clock.advance(0.1)
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await trades.recv()
    assert (closed.value.rcvd.code if closed.value.rcvd else 1006) == code
    again = await dial(simulator.addresses()[VENUE]["sockets"]["market"] + "/ws/btcusdt@aggTrade")
    await clock.advance(5)
    assert await again.recv()


async def test_connections_can_be_refused(simulator: Simulator, dial: Dial) -> None:
    simulator.faults.set(VENUE, refuse_connections=True)
    with pytest.raises(InvalidStatus) as refused:
        await dial(simulator.addresses()[VENUE]["sockets"]["market"] + "/ws")
    assert refused.value.response.status_code == 503


async def test_silent_streams_leave_a_hole_but_words_are_still_answered(
    simulator: Simulator, trades: ClientConnection, drain: Drain, clock: ManualClock
) -> None:
    simulator.faults.set(VENUE, silence="streams")
    await clock.advance(10)
    assert await drain(trades) == []
    simulator.faults.clear(VENUE)
    start_ns = clock.now_ns()
    await clock.advance(10)
    seen = ids(await drain(trades))
    assert seen[0] == simulator.world.order_at("binance_futures:BTCUSDT", start_ns)


async def test_a_half_open_connection_answers_nothing_not_even_pings(
    simulator: Simulator, trades: ClientConnection, clock: ManualClock
) -> None:
    simulator.faults.set(VENUE, silence="all")
    await clock.advance(0.1)
    pong = await trades.ping()
    await clock.advance(10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pong, 0.05)


async def test_a_gap_drops_some_trades_and_the_history_still_has_them(
    simulator: Simulator, trades: ClientConnection, drain: Drain, clock: ManualClock, get: Get, rest: str
) -> None:
    simulator.faults.set(VENUE, gap=0.3)
    start_ns = clock.now_ns()
    await clock.advance(30)
    seen = ids(await drain(trades))
    rows = (await get(rest + "/aggTrades", symbol="BTCUSDT", startTime=start_ns // 1_000_000, limit=1_000)).json()
    assert 0.5 * len(rows) < len(seen) < 0.9 * len(rows)
    assert set(seen) < {row["a"] for row in rows}


async def test_duplicates_come_twice(
    simulator: Simulator, trades: ClientConnection, drain: Drain, clock: ManualClock
) -> None:
    simulator.faults.set(VENUE, duplicate=0.3)
    await clock.advance(30)
    seen = ids(await drain(trades))
    assert len(set(seen)) < len(seen)
    assert seen == sorted(seen)


async def test_out_of_order_trades_come_after_their_followers_and_none_is_lost(
    simulator: Simulator, trades: ClientConnection, drain: Drain, clock: ManualClock
) -> None:
    start_ns = clock.now_ns()
    simulator.faults.set(VENUE, disorder=0.3)
    await clock.advance(30)
    simulator.faults.clear(VENUE)
    await clock.advance(10)
    seen = ids(await drain(trades))
    assert seen != sorted(seen)
    assert sorted(seen) == [
        row.id for row in simulator.world.orders("binance_futures:BTCUSDT", start_ns, clock.now_ns())
    ]


async def test_garbage_comes_beside_the_frames(
    simulator: Simulator, trades: ClientConnection, drain: Drain, clock: ManualClock
) -> None:
    start_ns = clock.now_ns()
    simulator.faults.set(VENUE, garbage=0.2)
    await clock.advance(30)
    frames = await drain(trades)
    good, bad = [], 0
    for frame in frames:
        try:
            good.append(msgspec.json.decode(frame)["a"])
        except (msgspec.DecodeError, TypeError, RecursionError):
            bad += 1
    assert bad > 5
    assert good == [row.id for row in simulator.world.orders("binance_futures:BTCUSDT", start_ns, clock.now_ns())]


async def test_wrong_types_replace_one_value_of_a_frame(
    simulator: Simulator, trades: ClientConnection, drain: Drain, clock: ManualClock
) -> None:
    simulator.faults.set(VENUE, wrong_type=0.5)
    await clock.advance(30)
    shapes = [{key: type(value) for key, value in msgspec.json.decode(frame).items()} for frame in await drain(trades)]
    usual = max(shapes, key=shapes.count)
    odd = [shape for shape in shapes if shape != usual]
    assert odd
    assert all(shape.keys() == usual.keys() for shape in odd)


async def test_a_huge_frame_is_sent_once(
    simulator: Simulator, trades: ClientConnection, drain: Drain, clock: ManualClock
) -> None:
    simulator.faults.set(VENUE, huge_bytes=HUGE_BYTES)
    await clock.advance(0.3)
    assert sum(len(frame) > HUGE_BYTES for frame in await drain(trades)) == 1


async def test_a_slow_venue_sends_late_but_everything(
    simulator: Simulator, trades: ClientConnection, drain: Drain, clock: ManualClock
) -> None:
    start_ns = clock.now_ns()
    simulator.faults.set(VENUE, slow_s=3.0)
    await clock.advance(10)
    seen = ids(await drain(trades))
    assert seen == [
        row.id for row in simulator.world.orders("binance_futures:BTCUSDT", start_ns, clock.now_ns() - 3 * NS)
    ]
    simulator.faults.clear(VENUE)
    await clock.advance(0.1)
    late = ids(await drain(trades))
    assert seen + late == [
        row.id for row in simulator.world.orders("binance_futures:BTCUSDT", start_ns, clock.now_ns())
    ]


async def test_a_slow_venue_answers_late(simulator: Simulator, clock: ManualClock, get: Get, rest: str) -> None:
    simulator.faults.set(VENUE, slow_s=2.0)
    asking = asyncio.ensure_future(get(rest + "/ping"))
    while clock.sleepers < 2:  # noqa: ASYNC110 - the pump, and our question on its way over a real socket
        await asyncio.sleep(0)
    await clock.advance(1)
    assert not asking.done()
    await clock.advance(1)
    assert (await asking).status_code == 200


@pytest.mark.parametrize(("status", "retry_s"), [(429, 3), (418, 120), (503, None), (500, None)])
async def test_a_storm_answers_everything_with_one_status(
    status: int, retry_s: int | None, simulator: Simulator, get: Get, rest: str
) -> None:
    simulator.faults.set(VENUE, storm=status, retry_after_s=retry_s)
    for path in ("/ping", "/klines"):
        answer = await get(rest + path)
        assert answer.status_code == status
        assert answer.headers.get("retry-after") == (None if retry_s is None else str(retry_s))
        assert answer.json()["code"] < 0
    simulator.faults.clear(VENUE)
    assert (await get(rest + "/ping")).status_code == 200


async def test_a_storm_may_hit_only_some(simulator: Simulator, get: Get, rest: str) -> None:
    simulator.faults.set(VENUE, storm=503, storm_share=0.5)
    assert {(await get(rest + "/ping")).status_code for _ in range(40)} == {200, 503}


async def test_a_page_of_html_comes_with_status_200(simulator: Simulator, get: Get, rest: str) -> None:
    simulator.faults.set(VENUE, html=True)
    answer = await get(rest + "/exchangeInfo")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


async def test_a_skewed_clock_shows_in_server_time_and_event_times_but_not_in_trade_times(
    simulator: Simulator, trades: ClientConnection, drain: Drain, clock: ManualClock, get: Get, rest: str
) -> None:
    simulator.faults.set(VENUE, skew_s=-600.0)
    assert (await get(rest + "/time")).json()["serverTime"] == clock.now_ns() // 1_000_000 - 600_000
    await clock.advance(5)
    first = msgspec.json.decode((await drain(trades))[0])
    assert first["E"] - first["T"] == 3 - 600_000


async def test_a_delisted_symbol_is_gone_everywhere_and_the_others_go_on(
    simulator: Simulator, dial: Dial, drain: Drain, clock: ManualClock, get: Get, rest: str
) -> None:
    market = simulator.addresses()[VENUE]["sockets"]["market"]
    line = await dial(market + "/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade")
    simulator.faults.set(VENUE, delisted=["BTCUSDT"])
    await clock.advance(5)
    heard = {msgspec.json.decode(frame)["stream"] for frame in await drain(line)}
    assert heard == {"ethusdt@aggTrade"}
    assert "BTCUSDT" not in {row["symbol"] for row in (await get(rest + "/exchangeInfo")).json()["symbols"]}
    assert (await get(rest + "/klines", symbol="BTCUSDT", interval="1m")).json()["code"] == -1121


async def test_a_renamed_symbol_goes_on_under_its_new_name(
    simulator: Simulator, dial: Dial, drain: Drain, clock: ManualClock, get: Get, rest: str
) -> None:
    line = await dial(simulator.addresses()[VENUE]["sockets"]["market"] + "/ws/btcusdt@aggTrade/xbtusdt@aggTrade")
    simulator.faults.set(VENUE, renamed={"BTCUSDT": "XBTUSDT"})
    await clock.advance(5)
    assert {msgspec.json.decode(frame)["s"] for frame in await drain(line)} == {"XBTUSDT"}
    assert (await get(rest + "/openInterest", symbol="BTCUSDT")).json()["code"] == -1121
    assert (await get(rest + "/openInterest", symbol="XBTUSDT")).status_code == 200


async def test_late_klines_close_late(simulator: Simulator, dial: Dial, drain: Drain, clock: ManualClock) -> None:
    line = await dial(simulator.addresses()[VENUE]["sockets"]["market"] + "/ws/btcusdt@kline_1m")
    simulator.faults.set(VENUE, late_klines_s=15.0)
    await clock.advance(41)  # one second into the next minute
    assert not any(msgspec.json.decode(frame)["k"]["x"] for frame in await drain(line))
    await clock.advance(20)
    closed = [k for frame in await drain(line) if (k := msgspec.json.decode(frame)["k"])["x"]]
    assert [k["T"] for k in closed] == [clock.now_ns() // 1_000_000 // 60_000 * 60_000 - 1]


async def test_a_planned_close_comes_when_its_time_is_over(
    simulator: Simulator, trades: ClientConnection, clock: ManualClock
) -> None:
    simulator.faults.set(VENUE, life_s=30.0)
    await clock.advance(29)
    assert trades.close_code is None
    await clock.advance(2)
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await trades.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


async def test_spot_announces_its_shutdown_before_it_closes(play: Play, dial: Dial, clock: ManualClock) -> None:
    simulator = await play("binance")
    line = await dial(simulator.addresses()["binance"]["sockets"]["market"] + "/ws")
    simulator.faults.set("binance", shutdown=True, notice_s=5.0)
    await clock.advance(0.2)
    assert msgspec.json.decode(await line.recv())["e"] == "serverShutdown"
    await clock.advance(5)
    with pytest.raises(ConnectionClosed):
        await line.recv()


@pytest.mark.parametrize("which", [True, ["btcusdt@aggTrade"]])
async def test_subscriptions_can_be_refused(which: Any, simulator: Simulator, dial: Dial) -> None:
    simulator.faults.set(VENUE, refuse_subscriptions=which)
    line = await dial(simulator.addresses()[VENUE]["sockets"]["market"] + "/ws")
    await line.send('{"method":"SUBSCRIBE","params":["btcusdt@aggTrade"],"id":4}')
    answer = msgspec.json.decode(await line.recv())
    assert (answer["id"], answer["error"]["code"]) == (4, 2)


async def test_the_same_seed_brings_the_same_faults(play: Play, dial: Dial, drain: Drain, clock: ManualClock) -> None:
    heard = []
    first, second = await play(VENUE), await play(VENUE)
    lines = []
    for one in (first, second):
        one.faults.set(VENUE, gap=0.2, garbage=0.2, duplicate=0.2, disorder=0.2, wrong_type=0.2)
        lines.append(
            await dial(
                one.addresses()[VENUE]["sockets"]["market"] + "/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade"
            )
        )
    await clock.advance(10)
    for line in lines:
        heard.append(await drain(line))
    assert heard[0] == heard[1]
    assert len(heard[0]) > 20


def test_a_fault_that_does_not_exist_is_refused() -> None:
    faults = Faults(1)
    with pytest.raises(TypeError, match="no such fault: earthquake"):
        faults.set(VENUE, earthquake=True)
    with pytest.raises(msgspec.ValidationError):
        faults.set(VENUE, cut="gently")


def test_faults_of_one_venue_leave_the_others_alone() -> None:
    faults = Faults(1)
    faults.set(VENUE, gap=1.0)
    assert faults.of("binance").gap == 0.0
