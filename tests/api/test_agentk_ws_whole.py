"""Whenever a client subscribes: its snapshot and the events after it are the candles that a naive list makes of the trades."""

import asyncio
import contextlib
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry.clock import NS
from openoutcry.events import open_of
from tests.api import points
from tests.api.points import World
from tests.api.test_agentk_ws import Streams, all_heard, running, said

MS = 1_000_000
NAME = "binance:BTCUSDT"
INTERVALS = {"1m": 60, "5m": 300}
Row = list[float]


class Naive:
    """Candles of trades, the obvious way; before the first trade each minute is what the venue says of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rows: dict[tuple[int, int], list[Decimal]] = {}

    def trade(self, price: Decimal, size: Decimal) -> None:
        for interval_s in INTERVALS.values():
            key = (interval_s, open_of(self._world.clock.now_ns(), interval_s))
            open_, high, low, _, volume = self._rows.get(key, [price, price, price, price, Decimal(0)])
            self._rows[key] = [open_, max(high, price), min(low, price), price, volume + size]

    def traded(self, minute_ns: int) -> bool:
        return (60, minute_ns) in self._rows

    def rows(self, interval_s: int) -> dict[int, Row]:
        return {at // MS: [float(x) for x in row] for (of, at), row in self._rows.items() if of == interval_s}


def told_of(frames: list[Any], channel: str) -> tuple[dict[int, Row], list[tuple[int, bool]]]:
    """The candles a client has at the end, by open time, and the events in their order."""
    mine = [frame for frame in frames if frame.get("channel") == channel]
    assert [frame["op"] for frame in mine].index("snapshot") == 0
    assert [frame["op"] for frame in mine].count("snapshot") == 1
    rows = {int(row[0]): row[1:] for row in mine[0]["data"]}
    assert list(rows) == sorted(rows)
    events: list[tuple[int, bool]] = []
    for frame in mine[1:]:
        data = frame["data"]
        rows[data["ts"]] = [data[name] for name in ("open", "high", "low", "close", "volume")]
        events.append((data["ts"], data["is_closed"]))
    return rows, events


# Trades that touch, and time that passes minutes and stays in them; pulses are what makes growing candles told.
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("trade"), st.integers(1, 5)),
        st.tuples(st.just("advance"), st.sampled_from([0.2, 1, 7, 31, 61, 130])),
        st.tuples(st.just("pulse"), st.just(0)),
        st.tuples(st.just("join"), st.sampled_from(["1m", "5m"])),
    ),
    min_size=5,
    max_size=60,
)


async def play(world: World, streams: Streams, steps: list[tuple[str, Any]]) -> None:
    naive, number = Naive(world), 0
    began_ns = open_of(points.NOW_NS, 60)
    # Of what is heard live the venue knows what was traded, and no more.
    world.outside.lacks = lambda open_ns: open_ns >= began_ns and not naive.traded(open_ns)
    world.follow(NAME)
    joined: list[tuple[Any, str, int]] = []
    async with contextlib.AsyncExitStack() as stack:
        for what, how in [*steps, ("join", "1m"), ("trade", 3), ("pulse", 0)]:
            if what == "trade":
                number += 1
                naive.trade(Decimal(how), Decimal("0.5"))
                world.trade(number, str(how))
            elif what == "advance":
                await world.advance(how)
            elif what == "pulse":
                world.market.live.pulse()
            else:
                client = await stack.enter_async_context(streams.client())
                await said(client, {"op": "subscribe", "channels": [f"market.BTC.{how}"]})
                joined.append((client, how, world.clock.now_ns()))
                if len(joined) % 2:
                    # Every other one is answered while the trades go on.
                    await asyncio.sleep(0)
        await world.advance(2)
        world.market.live.pulse()
        for client, interval, at_ns in joined:
            await quiet(streams)
            frames = await all_heard(client)
            interval_s, now_ns = INTERVALS[interval], world.clock.now_ns()
            rows, events = told_of(frames, f"market.BTC.{interval}")
            expected = naive.rows(interval_s)
            known_ms = began_ns // MS
            first_ms = max(known_ms, -(-known_ms // (interval_s * 1_000)) * interval_s * 1_000)
            assert {at: row for at, row in rows.items() if at >= first_ms} == {
                at: row for at, row in expected.items() if at >= first_ms and at >= min(rows)
            }
            closed = [at for at, over in events if over]
            assert len(closed) == len(set(closed))
            # What was open when it joined, or opened later, and traded, and is over: closed once, in order.
            due = [
                at
                for at in sorted(expected)
                if at * MS >= max(open_of(at_ns, interval_s), first_ms * MS)
                and at * MS + (interval_s + 1) * NS <= now_ns
            ]
            assert [at for at in closed if at in due] == due
            assert [at for at, _ in events] == sorted(at for at, _ in events)


async def quiet(streams: Streams) -> None:
    """Return when no snapshot is being fetched."""
    async with asyncio.timeout(10):
        while any(each.waiting for each in streams.dialect.streams.series.values()):  # noqa: ASYNC110  no event for us
            await asyncio.sleep(0)


def test_a_client_that_subscribes_at_any_moment_has_the_candles_of_a_naive_list() -> None:
    @settings(max_examples=20, deadline=None)
    @given(steps=_STEPS)
    def check(steps: list[tuple[str, Any]]) -> None:
        async def one() -> None:
            world = World()
            try:
                async with running(world, "binance", connections_a_key_max=100, heartbeat_s=1e6) as streams:
                    _, world.key = await world.keys.create("test")
                    await play(world, streams, steps)
            finally:
                await world.market.close()

        asyncio.run(one())

    check()
