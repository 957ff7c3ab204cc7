"""Kiyotaka over gRPC: conversations with a real server, by a real client."""

import asyncio
import dataclasses
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import psutil
import pytest

from openoutcry.api.kiyotaka import contract, encode, wire
from openoutcry.api.kiyotaka.catalogue import Catalogue
from openoutcry.api.kiyotaka.points import BUCKETS_WAITING, WAITING_MAX, Leash, Points
from openoutcry.clock import NS
from openoutcry.errors import LimitExceeded, Unavailable
from openoutcry.events import Side, open_of
from openoutcry.telemetry import Telemetry
from tests.api.points import MINUTE_NS, NOW_NS, Restless, World, running

NOW_S = NOW_NS // NS
Code = grpc.StatusCode
T, X, I, C = contract.TYPES, contract.EXCHANGES, contract.INTERVALS, contract.CATEGORIES  # noqa: E741
SPOT: dict[str, Any] = {"exchange": [X["BINANCE"]], "rawSymbol": ["BTCUSDT"]}


class Caller:
    """A client of the service, with or without a key."""

    def __init__(self, channel: grpc.aio.Channel, key: str | None) -> None:
        self._channel = channel
        self._metadata = () if key is None else (("x-kiyotaka-key", key),)

    def with_key(self, key: str | None) -> "Caller":
        return Caller(self._channel, key)

    async def points(self, **asked: Any) -> Any:
        return await self.raw("GetPoints", contract.PointRequest(**asked), contract.PointResponse)

    async def meta(self, method: str, **asked: Any) -> Any:
        return await self.raw(method, contract.PointMetaRequest(**asked), contract.PointMetaResponse)

    def raw(self, method: str, request: Any, answer: Any, **more: Any) -> Any:
        send = request if isinstance(request, bytes) else request.SerializeToString()
        call = self._channel.unary_unary(f"/api.API/{method}", response_deserializer=answer.FromString)
        return call(send, metadata=self._metadata, **more)

    def stream(self, timeout: float | None = None, **asked: Any) -> Any:
        call = self._channel.unary_stream(
            "/api.API/StreamPoints", response_deserializer=contract.PointSeries.FromString
        )
        return call(contract.PointRequest(**asked).SerializeToString(), metadata=self._metadata, timeout=timeout)


@pytest.fixture
async def caller(world: World) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(world.grpc_at) as channel:
        yield Caller(channel, world.key)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as told:
        async with asyncio.timeout(20):
            await call
    return told.value.code(), told.value.details() or ""


def closes(series: Any, member: str = "tradeSideAgnosticAggregation") -> dict[int, float]:
    return {getattr(p, member).timestamp.seconds: getattr(p, member).close for p in series.points}


# -- keys


async def test_every_call_needs_a_key(caller: Caller) -> None:
    for key in (None, "", "nonsense", "kai-" + "0" * 64):
        stranger = caller.with_key(key)
        for method in (
            "GetTypes",
            "GetExchanges",
            "GetCategories",
            "GetCoins",
            "GetRawSymbols",
            "GetNormalizedSymbols",
        ):
            code, _ = await refused(stranger.meta(method))
            assert code is Code.UNAUTHENTICATED
        assert (await refused(stranger.points(type=[T["TRADE"]], period=60)))[0] is Code.UNAUTHENTICATED
        assert (await refused(stranger.stream(type=[T["TRADE"]]).read()))[0] is Code.UNAUTHENTICATED


async def test_a_key_for_something_else_is_forbidden(world: World, caller: Caller) -> None:
    _, text = await world.keys.create("orders", ["trade"])
    code, said = await refused(caller.with_key(text).points(type=[T["TRADE"]], period=60))
    assert code is Code.PERMISSION_DENIED
    assert "market" in said


async def test_a_revoked_key_ends_its_streams(world: World, caller: Caller) -> None:
    record, text = await world.keys.create("short-lived")
    stream = caller.with_key(text).stream(type=[T["TRADE_SIDE_AGNOSTIC_AGG"]], interval=I["MINUTE"], period=300, **SPOT)
    assert (await stream.read()).points
    await world.keys.revoke(record.id)
    code, said = await refused(stream.read())
    assert (code, said) == (Code.UNAUTHENTICATED, "the key was revoked")
    assert (await refused(caller.with_key(text).meta("GetTypes")))[0] is Code.UNAUTHENTICATED


# -- windows


async def test_a_window_is_half_open_and_holds_the_buckets_that_begin_in_it(caller: Caller) -> None:
    start_s = NOW_S - 3_600
    told = await caller.points(type=[107], interval=I["MINUTE"], **{"from": start_s + 1}, period=119, **SPOT)
    (series,) = told.series
    first_s = -(-(start_s + 1) // 60) * 60
    assert [p.tradeSideAgnosticAggregation.timestamp.seconds for p in series.points] == [first_s, first_s + 60]
    of = series.id
    assert (of.type, of.rawSymbol, of.exchange, of.normalizedSymbol) == (107, "BTCUSDT", X["BINANCE"], "BTC-USDT")
    assert (of.category, of.interval, of.side, of.coin) == (C["SPOT"], I["MINUTE"], 0, "BTC")
    point = series.points[0].tradeSideAgnosticAggregation
    assert point.close == first_s // 60 % 10_000
    assert point.high == point.close + 1
    assert point.volume == 60
    # The venue's own candle does not tell when its first and last trades were.
    assert not point.HasField("firstTimestamp")


async def test_a_period_alone_ends_now_and_a_start_alone_reaches_to_now(world: World, caller: Caller) -> None:
    by_period = await caller.points(type=[107], interval=I["MINUTE"], period=300, **SPOT)
    by_start = await caller.points(type=[107], interval=I["MINUTE"], **{"from": NOW_S - 300}, **SPOT)
    assert by_period == by_start
    seconds = list(closes(by_period.series[0]))
    assert seconds == list(range(NOW_S // 60 * 60 - 240, NOW_S // 60 * 60 + 1, 60))
    # The bucket in progress is the last one, and it was made up to now.
    assert seconds[-1] < NOW_S < seconds[-1] + 60


async def test_the_growing_candle_of_a_followed_instrument_grows_with_its_trades(world: World, caller: Caller) -> None:
    world.follow()
    world.trade(1, "100")
    world.trade(2, "90", Side.SELL)
    both = (await caller.points(type=[107], interval=I["MINUTE"], period=60, **SPOT)).series[0].points[-1]
    candle = both.tradeSideAgnosticAggregation
    assert (candle.open, candle.high, candle.low, candle.close, candle.volume) == (100, 100, 90, 90, 1)
    assert candle.firstTimestamp.seconds == candle.lastTimestamp.seconds == NOW_S
    sides = (await caller.points(type=[T["TRADE_AGG"]], interval=I["MINUTE"], period=60, **SPOT)).series
    assert [(s.id.side, s.points[-1].tradeAggregation.close, s.points[-1].tradeAggregation.volume) for s in sides] == [
        (contract.SIDES["SELL"], 90, 0.5),
        (contract.SIDES["BUY"], 100, 0.5),
    ]
    only = (await caller.points(type=[T["TRADE_AGG"]], interval=I["MINUTE"], period=60, side=2, **SPOT)).series
    assert [s.id.side for s in only] == [contract.SIDES["BUY"]]


async def test_closed_candles_stay_when_the_clock_moves_on(world: World, caller: Caller) -> None:
    world.follow()
    for n in range(5):
        world.trade(n + 1, str(100 + n))
        told = await caller.points(type=[107], interval=I["MINUTE"], **{"from": NOW_S // 60 * 60}, **SPOT)
        assert [p.tradeSideAgnosticAggregation.close for p in told.series[0].points] == [
            100.0 + k for k in range(n + 1)
        ]
        await world.advance(60)


# -- types


async def test_every_type_tells_its_points(world: World, caller: Caller) -> None:
    world.follow()
    world.trade(7, "100")
    futures, option, cme = "binance_futures:BTCUSDT", "deribit:BTC-31JAN25-100000-C", "cme:BTCG25"
    world.interest(futures, "5000", "500000000")
    world.funding(futures, "0.0001", "-0.0002")
    world.liquidation(futures, "2.5")
    world.interest(option, "120", price="99000")
    world.interest(cme, "800", "79200000", "99000")
    world.levels(futures, ("90000", "1.5"), ("80000", "2"))
    minute: dict[str, Any] = {"interval": I["MINUTE"], "period": 60}

    async def one(name: str, **more: Any) -> Any:
        told = await caller.points(type=[T[name]], **{**minute, **more})
        (series,) = [s for s in told.series if s.points]
        assert series.id.type == T[name]
        return series

    trade = (await one("TRADE", **SPOT)).points[0].trade
    assert (trade.id, trade.price, trade.amount, trade.timestamp.seconds) == ("7", 100, 0.5, NOW_S)
    interest = await one("OPEN_INTEREST_AGG")
    assert interest.id.exchange == X["BINANCE_FUTURES"]
    assert interest.points[0].openInterestAggregation.close == 5_000
    funding = (await one("FUNDING_RATE_AGG")).points[0].fundingRateAggregation
    assert (funding.rateClose, funding.predictedClose) == (0.0001, -0.0002)
    liquidation = await one("LIQUIDATION_AGG")
    assert (liquidation.id.side, liquidation.points[0].liquidationAggregation.liquidations) == (
        contract.SIDES["SELL"],
        2.5,
    )
    options = await one("OPTION_OPEN_INTEREST_AGG")
    assert (options.id.rawSymbol, options.id.category) == ("BTC-31JAN25-100000-C", C["OPTION"])
    told = options.points[0].optionOpenInterestAggregation
    assert (told.underlyingPriceClose, told.oiClose) == (99_000, 120)
    futures_of_cme = await one("CME_OPEN_INTEREST_AGG")
    assert futures_of_cme.id.exchange == X["CME"]
    told = futures_of_cme.points[0].cmeOpenInterestAggregation
    assert (told.close, told.valueClose, told.priceClose) == (800, 79_200_000, 99_000)
    levels = (await one("HYPERLIQUID_LIQUIDATION_AGG", coin=["BTC"])).points[0].hyperliquidLiquidationAggregation
    assert (levels.coin, list(levels.levels)) == ("BTC", [90_000, 1.5, 80_000, 2])
    await world.advance(61)
    every = await caller.points(type=[number for number in T.values() if number], interval=I["MINUTE"], period=120)
    assert {s.id.type for s in every.series} == set(T.values()) - {0}
    order = [(s.id.type, s.id.exchange, s.id.rawSymbol, s.id.side) for s in every.series]
    assert order == sorted(order)


async def test_trades_older_than_a_day_are_cut_off_silently(world: World, caller: Caller) -> None:
    world.follow()
    world.trade(1)
    await world.advance(2)
    world.trade(2)
    await world.advance(86_400 - 1)
    told = await caller.points(type=[T["TRADE"]], **{"from": NOW_S - 10}, **SPOT)
    assert [p.trade.id for s in told.series for p in s.points] == ["2"]


# -- names


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, {"BINANCE BTCUSDT", "BINANCE ETHUSDT"}),
        ({"coin": ["btc"]}, {"BINANCE BTCUSDT"}),
        ({"coin": ["BTC", "ETH"]}, {"BINANCE BTCUSDT", "BINANCE ETHUSDT"}),
        ({"coin": ["BTC"], "rawSymbol": ["ETHUSDT"]}, set()),
        ({"normalizedSymbol": ["ETH-USDT"]}, {"BINANCE ETHUSDT"}),
        ({"category": [C["PERPETUAL"]]}, set()),
        ({"exchange": [X["BINANCE"]]}, {"BINANCE BTCUSDT", "BINANCE ETHUSDT"}),
        ({"exchange": [X["UPBIT"]]}, set()),
        ({"exchange": [X["COINBASE"]], "rawSymbol": ["BTC-USD"]}, {"COINBASE BTC-USD"}),
        ({"exchange": [X["COINBASE_PRO"]], "normalizedSymbol": ["BTC-USD"]}, {"COINBASE_PRO BTC-USD"}),
        ({"exchange": [X["COINBASE"]], "rawSymbol": ["NOPE"]}, set()),
    ],
)
async def test_fields_narrow_each_other_and_their_values_are_alternatives(
    world: World, caller: Caller, where: dict[str, Any], expected: set[str]
) -> None:
    """Without an exchange and a symbol, what is there already; with both, what the venue lists as well."""
    for name in ("binance:BTCUSDT", "binance:ETHUSDT"):
        world.follow(name)
        world.trade(1, name=name)
    await world.advance(61)
    told = await caller.points(type=[107], interval=I["MINUTE"], period=300, **where)
    number = {value: name for name, value in X.items()}
    assert {f"{number[s.id.exchange]} {s.id.rawSymbol}" for s in told.series} == expected


async def test_what_there_is_is_told_list_by_list(world: World, caller: Caller) -> None:
    assert await caller.meta("GetTypes") == contract.PointMetaResponse()
    world.follow()
    world.trade(1)
    world.interest("deribit:BTC-31JAN25-100000-C", "120", price="99000")
    await world.advance(61)
    expected = {
        "GetTypes": ("types", [T["TRADE"], T["TRADE_AGG"], T["OPTION_OPEN_INTEREST_AGG"], 107]),
        "GetExchanges": ("exchanges", [X["DERIBIT"], X["BINANCE"]]),
        "GetCategories": ("categories", [C["SPOT"], C["OPTION"]]),
        "GetCoins": ("coins", ["BTC"]),
        "GetRawSymbols": ("rawSymbols", ["BTC-31JAN25-100000-C", "BTCUSDT"]),
        "GetNormalizedSymbols": ("normalizedSymbols", ["BTC-USD", "BTC-USDT"]),
    }
    for method, (field, values) in expected.items():
        assert await caller.meta(method) == contract.PointMetaResponse(**{field: values}), method
    assert list((await caller.meta("GetExchanges", type=[T["TRADE"]])).exchanges) == [X["BINANCE"]]
    assert list((await caller.meta("GetRawSymbols", coin=["ETH"])).rawSymbols) == []
    assert list((await caller.meta("GetTypes", **{"from": NOW_S + 86_400})).types) == []
    assert list((await caller.meta("GetTypes", to=NOW_S - 86_400)).types) == []
    assert list(
        (await caller.meta("GetTypes", **{"from": NOW_S - 60}, to=NOW_S + 60, exchange=[X["BINANCE"]])).types
    ) == [1, 9, 107]


# -- bad input


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"period": 60}, "type is missing"),
        ({"type": [2], "period": 60}, "type 2"),
        ({"type": [107], "period": 60}, "interval is missing"),
        ({"type": [107], "interval": 1, "period": 60}, "interval 1"),
        ({"type": [107], "interval": 2}, "from and period"),
        ({"type": [107], "interval": 2, "from": -1}, "from must be"),
        ({"type": [107], "interval": 2, "period": -60}, "period must be"),
        ({"type": [107], "interval": 2, "from": 2**62}, "from must be"),
        ({"type": [107], "interval": 2, "from": 2**31, "period": 2**31}, "from + period"),
        ({"type": [107], "interval": 2, "exchange": [94], "period": 60}, "exchange 94"),
        ({"type": [107], "interval": 2, "category": [6], "period": 60}, "category 6"),
        ({"type": [107], "interval": 2, "side": 3, "period": 60}, "side 3"),
        ({"type": [107], "interval": 2, "coin": [str(n) for n in range(5_001)], "period": 60}, "coin holds more"),
    ],
)
async def test_what_cannot_be_asked_is_refused_and_says_why(caller: Caller, asked: dict[str, Any], word: str) -> None:
    code, said = await refused(caller.points(**asked))
    assert code is Code.INVALID_ARGUMENT
    assert word in said
    if word != "from and period":
        assert (await refused(caller.stream(**asked).read()))[0] is Code.INVALID_ARGUMENT


async def test_a_window_over_the_cap_names_the_cap_and_the_way_round_it(world: World, caller: Caller) -> None:
    asked: dict[str, Any] = {
        "type": [107],
        "interval": I["MINUTE"],
        **SPOT,
        "exchange": [X["BINANCE"], X["BINANCE_FUTURES"]],
    }
    code, said = await refused(caller.points(**asked, period=26 * 86_400))
    assert code is Code.INVALID_ARGUMENT
    assert "50000" in said
    assert "StreamPoints" in said
    assert world.outside.asks == []
    told = await caller.points(
        type=[107], interval=I["MINUTE"], **{"from": NOW_S - 50_000 * 60}, period=49_999 * 60, **SPOT
    )
    # Every minute from the one in which it was listed, a month ago, to the end of the window.
    listed_s = (NOW_S - 30 * 86_400) // 60 * 60
    assert list(closes(told.series[0])) == list(range(listed_s, NOW_S - 60, 60))


async def test_bytes_that_are_no_request_are_refused(caller: Caller) -> None:
    code, said = await refused(caller.raw("GetPoints", b"\xff\xff\xff", contract.PointResponse))
    assert (code, said) == (Code.INVALID_ARGUMENT, "the request is no api.PointRequest")
    assert (await refused(caller.raw("GetCoins", b"\x08", contract.PointMetaResponse)))[0] is Code.INVALID_ARGUMENT


async def test_an_unknown_method_is_unimplemented(caller: Caller) -> None:
    assert (await refused(caller.raw("GetNothing", b"", contract.PointResponse)))[0] is Code.UNIMPLEMENTED


async def test_a_venue_that_is_down_leaves_a_hole_that_is_said(world: World, caller: Caller) -> None:
    await caller.points(type=[107], interval=I["MINUTE"], **{"from": NOW_S - 1_800}, period=600, **SPOT)
    world.outside.down = Unavailable("binance", "binance does not answer")
    call = caller.raw(
        "GetPoints",
        contract.PointRequest(type=[107], interval=I["MINUTE"], **{"from": NOW_S - 2_400}, period=1_200, **SPOT),
        contract.PointResponse,
    )
    told = await call
    assert len(told.series[0].points) == 10
    trailer = dict(await call.trailing_metadata())["openoutcry-coverage"]
    low_s = -(-(NOW_S - 2_400) // 60) * 60
    expected = f"missing TRADE_SIDE_AGNOSTIC_AGG binance:BTCUSDT {low_s}-{low_s + 600}"
    assert trailer == expected
    stream = caller.stream(type=[107], interval=I["MINUTE"], **{"from": NOW_S - 2_400}, period=1_200, **SPOT)
    assert sum([len(message.points) async for message in stream]) == 10
    assert dict(await stream.trailing_metadata())["openoutcry-coverage"] == expected


async def test_a_call_that_is_given_up_frees_its_work(world: World, caller: Caller, until: Callable[..., Any]) -> None:
    world.outside.held.clear()
    request = contract.PointRequest(type=[107], interval=I["MINUTE"], period=600, **SPOT)
    call = caller.raw("GetPoints", request, contract.PointResponse)
    task = asyncio.ensure_future(_answer(call))
    await until(lambda: world.outside.asks)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: _calls(world, "CANCELLED") == 1)
    world.outside.held.set()
    world.outside.held.clear()
    request.rawSymbol[:] = ["ETHUSDT"]
    code, _ = await refused(caller.raw("GetPoints", request, contract.PointResponse, timeout=0.05))
    assert code is Code.DEADLINE_EXCEEDED
    await until(lambda: _calls(world, "CANCELLED") == 2)
    world.outside.held.set()


async def _answer(call: Any) -> Any:
    return await call


def _calls(world: World, status: str, method: str = "GetPoints") -> float:
    labels = {"method": method, "status": status}
    return world.telemetry.registry.get_sample_value("openoutcry_grpc_calls_total", labels) or 0.0


# -- streams


class Heard:
    """A stream, read in the background: every point by series and bucket, in the order of their coming."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.messages: list[Any] = []
        self.ended: grpc.StatusCode | None = None
        self._task = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        try:
            async for message in self.stream:
                self.messages.append(message)
        except grpc.aio.AioRpcError as e:
            self.ended = e.code()
        else:
            self.ended = await self.stream.code()

    @property
    def points(self) -> list[tuple[int, int, float, float]]:
        """Side, bucket, close, volume."""
        return [
            (m.id.side, payload.timestamp.seconds, payload.close, payload.volume)
            for m in self.messages
            for p in m.points
            for payload in [getattr(p, p.WhichOneof("point"))]
        ]

    async def close(self) -> None:
        self.stream.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_a_stream_replays_and_goes_on_without_a_hole_or_a_duplicate(
    world: World, caller: Caller, until: Callable[..., Any]
) -> None:
    world.follow()
    world.trade(1, "100")
    minute_s = NOW_S // 60 * 60
    heard = Heard(caller.stream(type=[107], interval=I["MINUTE"], **{"from": minute_s - 600}, **SPOT))
    await until(lambda: len(heard.points) >= 11)
    assert [point[1] for point in heard.points] == list(range(minute_s - 600, minute_s + 1, 60))
    assert heard.points[-1][2:] == (100, 0.5)
    for n in range(2, 5):
        world.trade(n, str(100 + n))
        await world.advance(1)
        await until(lambda n=n: heard.points[-1][2] == 100 + n)
    await world.advance(60)
    # Once more when it closes, and nothing else: nothing traded in the minute after it.
    await until(lambda: len(heard.points) == 15)
    world.trade(9, "200")
    await world.advance(1)
    await until(lambda: heard.points[-1][2] == 200)
    assert heard.points[-1][1] == minute_s + 60
    assert len(heard.points) == 16
    await heard.close()
    await until(lambda: world.market.pulse.tapes == 0)


async def test_the_open_bucket_is_told_when_it_changes_and_at_most_once_a_pulse(
    world: World, caller: Caller, until: Callable[..., Any]
) -> None:
    world.follow()
    heard = Heard(caller.stream(type=[T["TRADE_AGG"]], interval=I["MINUTE"], side=2, **SPOT))
    await until(lambda: world.market.pulse.tapes == 1)
    for n in range(1, 50):
        world.trade(n, "100")
    await world.advance(0.5)
    await until(lambda: len(heard.points) == 1)
    await world.advance(0.5)
    await world.advance(0.5)
    world.trade(50, "100")
    world.market.pulse.pulse()
    await until(lambda: len(heard.points) == 2)
    assert [point[3] for point in heard.points] == [24.5, 25.0]
    # The other side is none of its business, whether it grows or closes.
    world.trade(51, "55", Side.SELL)
    await world.advance(62)
    world.trade(52, "101")
    await world.advance(1)
    await until(lambda: heard.points[-1][2] == 101)
    assert {point[2] for point in heard.points} == {100, 101}
    await heard.close()


async def test_a_stream_ends_when_its_window_is_over(world: World, caller: Caller, until: Callable[..., Any]) -> None:
    world.follow()
    world.trade(1, "100")
    minute_s = NOW_S // 60 * 60
    asked: dict[str, Any] = {"type": [107], "interval": I["MINUTE"], **SPOT}
    past = Heard(caller.stream(**asked, **{"from": minute_s - 600}, period=300))
    await until(lambda: past.ended is Code.OK)
    assert len(past.points) == 5
    running = Heard(caller.stream(**asked, **{"from": minute_s}, period=60))
    await until(lambda: running.points)
    await world.advance(32)
    world.trade(2, "300")
    await until(lambda: world.clock.sleepers)
    await world.advance(5)
    await until(lambda: running.ended is Code.OK)
    assert {point[1] for point in running.points} == {minute_s}


async def test_trades_are_streamed_one_by_one_and_none_twice(
    world: World, caller: Caller, until: Callable[..., Any]
) -> None:
    world.follow()
    for n in range(1, 4):
        world.trade(n, str(n), (Side.BUY, Side.SELL)[n % 2])
    stream = caller.stream(type=[T["TRADE"]], **{"from": NOW_S - 60}, **SPOT)
    heard = Heard(stream)

    def ids() -> list[str]:
        return [p.trade.id for m in heard.messages for p in m.points]

    await until(lambda: len(ids()) == 3)
    for n in range(4, 30):
        world.trade(n, str(n), (Side.BUY, Side.SELL)[n % 2])
        if n % 5 == 0:
            await world.market.writer.flush()
    await until(lambda: len(ids()) == 29)
    assert sorted(map(int, ids())) == list(range(1, 30))
    by_side = {m.id.side: [] for m in heard.messages}  # type: ignore[var-annotated]
    for m in heard.messages:
        by_side[m.id.side] += [int(p.trade.id) for p in m.points]
    assert by_side == {2: list(range(2, 30, 2)), 1: list(range(1, 30, 2))}
    await heard.close()


async def test_what_is_told_while_history_is_read_is_neither_lost_nor_told_twice(
    world: World, caller: Caller, until: Callable[..., Any]
) -> None:
    """Trades come and a minute closes between the first question to the venue and its answer."""
    world.follow()
    world.trade(1, "100")
    world.outside.held.clear()
    minute_s = NOW_S // 60 * 60
    heard = Heard(caller.stream(type=[107], interval=I["MINUTE"], **{"from": minute_s - 300}, **SPOT))
    await until(lambda: world.outside.asks)
    world.trade(2, "110")
    await world.advance(61)
    world.trade(3, "120")
    await world.advance(1)
    world.outside.held.set()
    last: dict[int, float] = {}

    def newest() -> dict[int, float]:
        last.update({at_s: close for _, at_s, close, _ in heard.points})
        return last

    await until(lambda: newest().get(minute_s) == 110 and newest().get(minute_s + 60) == 120)
    await world.advance(1)
    told: dict[int, list[float]] = {}
    for _, at_s, close, _ in heard.points:
        told.setdefault(at_s, []).append(close)
    assert sorted(told) == list(range(minute_s - 300, minute_s + 61, 60))
    assert all(len(set(each)) == len(each) for each in told.values())
    await heard.close()


@pytest.mark.parametrize("name", ["TRADE", "TRADE_SIDE_AGNOSTIC_AGG"])
async def test_a_stream_goes_over_to_live_though_time_goes_on_while_history_is_read(
    name: str, until: Callable[..., Any]
) -> None:
    async with (
        running(World(clock=Restless(NOW_NS))) as world,
        grpc.aio.insecure_channel(world.grpc_at) as channel,
    ):
        world.follow()
        world.trade(1, "100")
        asked = {"type": [T[name]], "interval": I["MINUTE"], "from": NOW_S - 600, **SPOT}
        stream = Caller(channel, world.key).stream(**asked)
        messages: list[Any] = []

        async def read() -> None:
            async for message in stream:
                messages.append(message)

        task = asyncio.ensure_future(read())
        await until(lambda: messages)
        world.trade(2, "200")
        world.market.pulse.pulse()
        await until(lambda: len(messages) == 2)
        payload = messages[1].points[-1]
        assert getattr(payload.trade, "price", 0) or payload.tradeSideAgnosticAggregation.close == 200
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_history_comes_in_messages_that_every_client_takes(caller: Caller, until: Callable[..., Any]) -> None:
    stream = caller.stream(
        type=[107], interval=I["MINUTE"], **{"from": NOW_S - 43_200 * 60}, period=43_200 * 60, **SPOT
    )
    heard = Heard(stream)
    await until(lambda: heard.ended is Code.OK)
    sizes = [message.ByteSize() for message in heard.messages]
    assert max(sizes) < 1024 * 1024
    assert len(heard.points) >= 43_000
    seconds = [point[1] for point in heard.points]
    assert seconds == sorted(set(seconds))


async def test_a_stream_that_nobody_pulls_is_given_up_and_says_so(world: World) -> None:
    doors = dataclasses.replace(world.doors, telemetry=Telemetry())
    points = Points(doors, Catalogue(doors.market, doors.exchanges, doors.clock))
    world.follow()
    world.trade(1)
    await world.advance(61)
    asked = wire.question(contract.PointRequest(type=[T["TRADE"]], side=2, **SPOT))
    stream = points.stream(asked, encode.Protobuf(), Leash())
    first = asyncio.ensure_future(stream.__anext__())
    while not len(points.hub):  # noqa: ASYNC110  it begins to listen in its own time
        await asyncio.sleep(0)
    world.trade(2)
    assert contract.PointSeries.FromString(await first).points[0].trade.id == "2"
    for number in range(3, 3 + WAITING_MAX + BUCKETS_WAITING):
        world.trade(number)
    told = contract.PointSeries.FromString(await stream.__anext__()).points
    assert len(told) == WAITING_MAX + BUCKETS_WAITING
    for number in range(9_000, 9_001 + WAITING_MAX + BUCKETS_WAITING):
        world.trade(number)
    with pytest.raises(LimitExceeded, match="too slow"):
        await stream.__anext__()
    assert points.streams == 0
    assert len(points.hub) == 0


STALLED = """
import sys, time, grpc
address, key, request, many = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3]), int(sys.argv[4])
options = [("grpc.use_local_subchannel_pool", 1)]
channels = [grpc.insecure_channel(address, options=options) for _ in range(many // 50)]
calls = [
    channel.unary_stream("/api.API/StreamPoints")(request, metadata=(("x-kiyotaka-key", key),))
    for channel in channels
    for _ in range(50)
]
print("open", flush=True)
time.sleep(600)
"""


async def test_a_thousand_clients_that_stopped_reading_cost_a_bounded_memory_and_nobody_else_anything(
    world: World, caller: Caller, until: Callable[..., Any]
) -> None:
    """A process with a thousand streams of trades is stopped: what it does not take is held up to a limit, then given up."""
    world.follow()
    request = contract.PointRequest(type=[T["TRADE"]], **SPOT).SerializeToString().hex()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STALLED, world.grpc_at, world.key, request, "1000", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"open\n"
        await until(lambda: _streams(world) == 1_000)
        process.send_signal(signal.SIGSTOP)
        before = psutil.Process().memory_info().rss
        lively = Heard(caller.stream(type=[T["TRADE"]], **SPOT))
        await until(lambda: _streams(world) == 1_001)
        number = 0
        for _ in range(100):
            for _ in range(30):
                number += 1
                world.trade(number, "100", size="0.001")
            # The healthy one hears all of it as it comes.
            await until(lambda number=number: sum(len(m.points) for m in lively.messages) == number)
        # Far less than all of what they were sent: a third of a megabyte a client at the most.
        assert psutil.Process().memory_info().rss - before < 400 * 1024 * 1024
        await lively.close()
    finally:
        process.kill()
        await process.wait()
    await until(lambda: _streams(world) == 0)
    assert _series_followed(world) == 0


def _streams(world: World) -> float:
    return world.telemetry.registry.get_sample_value("openoutcry_kiyotaka", {"what": "streams"}) or 0.0


def _series_followed(world: World) -> float:
    return world.telemetry.registry.get_sample_value("openoutcry_kiyotaka", {"what": "series"}) or 0.0


async def test_reflection_tells_the_contract(world: World) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    def told() -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(world.grpc_at) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            file = database.FindFileContainingSymbol("api.API")
            return sorted(database.get_services()), [each.name for each in file.message_type]

    services, messages = await asyncio.to_thread(told)
    assert "api.API" in services
    assert "grpc.health.v1.Health" in services
    assert "PointRequest" in messages


def test_the_minute_of_the_clock_is_in_the_middle_of_everything() -> None:
    """What the tests rely on: no interval begins now."""
    assert all(NOW_NS - open_of(NOW_NS, each) >= 30 * NS for each in (60, 300, 900, 3_600, 14_400, 86_400))
    assert MINUTE_NS == 60 * NS
