"""Analyses in the whole: what the market knows reaches the analyst, and settings decide who tells."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from openoutcry.aggregates import talib_indicators
from openoutcry.app import Server, material, simulated_outside
from openoutcry.config import BadConfig, load
from openoutcry.errors import OutOfReach
from openoutcry.events import MINUTE_S, Ticker
from openoutcry.instrument import Instrument
from openoutcry.llm.material import Material
from openoutcry.llm.store import Analysis, Status
from openoutcry.venues import VENUES
from openoutcry.venues.venue import Ask, Page
from tests.api.points import INSTRUMENTS, MINUTE_NS, NOW_NS, World

FUTURE = next(each for each in INSTRUMENTS if each.name == "binance_futures:BTCUSDT")
SPOT = next(each for each in INSTRUMENTS if each.name == "binance:BTCUSDT")
OPEN_NS = NOW_NS - NOW_NS % MINUTE_NS


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.market.close()
    made.series.close()


async def gathered(world: World, instrument: Instrument = FUTURE, candles: int = 150) -> Material:
    return await material(world.market, world.clock)(instrument, MINUTE_S, candles)


async def test_closed_candles_are_gathered_and_the_price_is_that_of_the_growing_one(world: World) -> None:
    told = await gathered(world)
    assert len(told.candles) == 150
    assert all(candle.closed for candle in told.candles)
    assert told.candles[-1].open_ns == OPEN_NS - MINUTE_NS
    assert told.price == Decimal(OPEN_NS // MINUTE_NS % 10_000)
    assert told.price != told.candles[-1].close
    assert (told.now_ns, told.missing, told.interval_s) == (NOW_NS, [], 60)


async def test_what_nobody_told_is_none(world: World) -> None:
    told = await gathered(world)
    assert {getattr(told, name) for name in Material.__struct_fields__[6:]} == {None}


async def test_what_was_heard_is_told(world: World) -> None:
    world.follow(FUTURE.name)
    world.interest(FUTURE.name, "90", value="9000")
    world.funding(FUTURE.name, "0.0001")
    ticker = Ticker(
        FUTURE.name, NOW_NS, NOW_NS, open=Decimal(100), high=Decimal(120), low=Decimal(90), close=Decimal(110),
        volume=Decimal(7), quote_volume=Decimal(700), trades=9,
    )  # fmt: skip
    world.market.latest.tickers.put(FUTURE.name, ticker)
    told = await gathered(world)
    assert (told.change, told.volume, told.quote_volume) == (Decimal("0.1"), Decimal(7), Decimal(700))
    assert (told.open_interest, told.open_interest_usd) == (Decimal(90), Decimal(9_000))
    assert (told.funding_rate, told.funding_interval_s) == (Decimal("0.0001"), 28_800)


async def test_a_stretch_that_nobody_has_is_missing(world: World) -> None:
    await gathered(world, candles=20)
    await world.clock.advance(3_600)
    world.outside.down = OutOfReach("binance_futures", "it forgets")
    told = await gathered(world, candles=70)
    assert told.missing_candles == 60


async def test_an_instrument_without_candles_has_no_material(world: World) -> None:
    async def nothing(_venue: str, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        yield Page([], start_ns=ask.start_ns, end_ns=OPEN_NS)

    world.outside.ask = nothing  # type: ignore[method-assign, assignment]
    told = await gathered(world, INSTRUMENTS[4])
    assert (list(told.candles), told.price) == ([], None)


async def test_who_took_what_is_told_once_it_was_heard_throughout(world: World) -> None:
    world.follow(SPOT.name)
    for number in range(4):
        world.trade(2 * number, size="0.5")
        world.trade(2 * number + 1, size="0.25")
        await world.advance(60)
    told = await gathered(world, SPOT, candles=2)
    assert told.bought == Decimal("1.5")
    assert told.sold == 0


# -- a whole server


@asynccontextmanager
async def provider() -> AsyncIterator[tuple[str, list[Any]]]:
    """A provider of language models: its address, and what it was sent."""
    sent: list[Any] = []
    body = json.dumps(
        {"model": "big-1", "choices": [{"message": {"content": "Up."}, "finish_reason": "stop"}]}
    ).encode()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")
        )
        sent.append((head, json.loads(await reader.readexactly(length))))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", sent


@asynccontextmanager
async def serving(folder: Path, **llm: Any) -> AsyncIterator[Server]:
    """A server of one simulated venue."""
    venues = {name: {"on": name == "binance_futures"} for name in VENUES}
    flags = {"data": folder, "http": "127.0.0.1:0", "grpc": "127.0.0.1:0", "venues": venues, "spikes": {"on": False}}
    server = Server(await simulated_outside(load({**flags, "llm": llm})))
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


async def analysed(server: Server, prompt: str = "") -> Analysis:
    instrument = await server.market.instrument("binance_futures", "BTCUSDT")
    made = await server.analyst.create(instrument, 3_600, prompt)
    async with asyncio.timeout(20):
        while (told := await server.analyst.get(made.id)).status is Status.RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0)  # what happens in the server has no event for us
    return told


async def test_settings_decide_who_tells_and_records_outlive_the_server(tmp_path: Path) -> None:
    async with provider() as (url, sent):
        model = {"base_url": url, "api_key": "sk-secret", "model": "big", "output_tokens_max": 99}
        async with serving(tmp_path, **model) as server:
            first = await analysed(server, "Why?")
    assert (first.status, first.analysis, first.model, first.provider) == (Status.COMPLETED, "Up.", "big-1", "openai")
    ((head, body),) = sent
    assert "bearer sk-secret" in head.lower()
    assert (body["model"], body["max_tokens"]) == ("big", 99)
    # The simulated venue has a history, a ticker, open interest and funding: the model was told of them.
    told = body["messages"][1]["content"]
    assert first.candles_used == 150
    for line in ("Price: ", "Change in 24 h: ", "Open interest: ", "Funding rate: "):
        shown = next(each for each in told.splitlines() if each.startswith(line))
        assert "n/a" not in shown, shown
    assert "None: every candle of the window is there." in told

    async with serving(tmp_path, indicators="talib") as server:
        assert (await server.analyst.get(first.id)) == first
        second = await analysed(server)
        assert server.analyst._indicate.keywords["make"] is talib_indicators.lines  # type: ignore[attr-defined]
    assert second.id == first.id + 1
    assert (second.status, second.model) == (Status.COMPLETED, "builtin-narrator")
    assert (second.analysis or "").startswith("Rule-based summary, not a language model.\n")


@pytest.mark.parametrize(
    ("llm", "named"),
    [
        ({"base_url": "http://127.0.0.1:1/v1"}, "llm: Value error, model is needed with base_url"),
        ({"base_url": "ftp://x", "model": "m"}, "llm: Value error, base_url begins with http"),
        ({"indicators": "excel"}, "llm.indicators"),
    ],
)
def test_a_mistake_in_the_settings_is_named(llm: dict[str, Any], named: str) -> None:
    with pytest.raises(BadConfig, match=named):
        load({"llm": llm})
