"""Conversations over JSON-RPC with a real server, whose market is real and hears what the test tells it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

import pytest
import structlog
import websockets
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from openoutcry.accounts.keys import AI, Keys
from openoutcry.aggregates.candles import Candles
from openoutcry.aggregates.derivatives import Derivatives
from openoutcry.aggregates.ticker import Tickers
from openoutcry.api.admission import Admission
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Doors
from openoutcry.api.kiyotaka import contract, jsonrpc, ws
from openoutcry.api.kiyotaka.rest import Kiyotaka
from openoutcry.api.push import Push
from openoutcry.bus import Bus
from openoutcry.clock import NS, ManualClock
from openoutcry.errors import Invalid, Unavailable, UnknownVenue
from openoutcry.events import Candle, Gap, Mended, Side, Trade, open_of
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.building import Building
from openoutcry.market.market import Market, Numbers
from openoutcry.market.outside import VenueState
from openoutcry.market.series import Of, SeriesKey
from openoutcry.stores.keys import MemoryKeys
from openoutcry.stores.memory import MemorySeries
from openoutcry.telemetry import Telemetry
from openoutcry.venues import VENUES
from openoutcry.venues.binance import BinanceSpot
from openoutcry.venues.venue import Answer, Ask, Feed, Limits, Page, Query

NOW_NS = 1_763_553_630 * NS  # 2025-11-19T12:00:30Z
NOW_S = NOW_NS // NS
MINUTE_NS = 60 * NS
OPEN_S = NOW_S - 30
VENUE = "binance_futures"
BTC = f"{VENUE}:BTCUSDT"
CANDLES = {
    "type": ["TRADE_SIDE_AGNOSTIC_AGG"],
    "exchange": ["BINANCE_FUTURES"],
    "rawSymbol": ["BTCUSDT"],
    "interval": 2,
}
TRADES = {"type": ["TRADE"], "exchange": ["BINANCE_FUTURES"], "rawSymbol": ["BTCUSDT"]}
TYPES = "a list, each the name or number of api.PointType, such as TRADE, TRADE_AGG, OPEN_INTEREST_AGG"
# What frames, answers and kernel buffers hold beside what is meant to wait.
SLACK_BYTES = 4 * 1024


class Quiet:
    """An Outside whose one venue lists two instruments and answers no question."""

    def __init__(self) -> None:
        self.followed_now: list[tuple[str, frozenset[Feed]]] = []
        self.listed = {symbol: an_instrument(symbol) for symbol in ("BTCUSDT", "ETHUSDT")}

    def venues(self) -> Mapping[str, VenueState]:
        return {VENUE: VenueState(VENUE, True, 1, None)}

    def feeds(self, venue: str) -> frozenset[Feed]:
        return frozenset(Feed)

    def queries(self, venue: str) -> frozenset[Query]:
        return frozenset()

    def intervals_s(self, venue: str) -> frozenset[int]:
        return frozenset()

    def limits(self, venue: str) -> Limits:
        return BinanceSpot.limits

    def instruments(self, venue: str) -> Mapping[str, Instrument]:
        if venue != VENUE:
            raise UnknownVenue(f"no venue {venue}")
        return self.listed

    async def listing(self, venue: str) -> Mapping[str, Instrument]:
        return self.instruments(venue)

    def followed(self, instrument: str, feed: Feed) -> bool:
        return any(name == instrument and feed in feeds for name, feeds in self.followed_now)

    def follow(self, instrument: Instrument, feeds: Iterable[Feed]) -> Callable[[], None]:
        what = (instrument.name, frozenset(feeds))
        self.followed_now.append(what)
        return lambda: self.followed_now.remove(what)

    async def raw(self, venue: str, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        raise Unavailable(venue, "not asked here")

    def ask(self, venue: str, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        raise Unavailable(venue, "not asked here")


class Told:
    """A running server; `key` is the text of its first key."""

    def __init__(self, **limits: Any) -> None:
        self.clock = ManualClock(NOW_NS)
        self.bus = Bus()
        self.outside = Quiet()
        self.telemetry = Telemetry()
        self.candles = Candles()
        self.building = Building(
            bus=self.bus, clock=self.clock, telemetry=self.telemetry, outside=self.outside, candles=self.candles,
            derivatives=Derivatives(), tickers=Tickers(),
        )  # fmt: skip
        self.market = Market(
            self.outside, MemorySeries(), self.bus, self.clock, self.telemetry, self.building, Numbers(),
            bars=self.building,
        )  # fmt: skip
        self.keys = Keys(MemoryKeys(), b"pepper", self.clock, self.telemetry)
        self.admission = Admission(self.clock, **limits)
        doors = Doors(
            clock=self.clock, keys=self.keys, market=self.market, bus=self.bus, follow=self.market.follow,
            admission=self.admission, push=Push(self.telemetry), telemetry=self.telemetry,
            exchanges={VENUE: VENUES[VENUE]().exchanges},
        )  # fmt: skip
        self.dialect = Kiyotaka(doors)
        self.server = HttpServer(application(doors, [self.dialect]), "127.0.0.1", 0)
        self.key = self.key_id = self.address = ""

    async def start(self) -> None:
        record, self.key = await self.keys.create("test")
        self.key_id = record.id
        self.address = await self.server.start()

    async def stop(self) -> None:
        await self.server.stop()
        await self.market.close()

    def ws(self, key: str | None = None, path: str = "/v2/", **more: Any) -> Any:
        headers = {"X-Kiyotaka-Key": self.key if key is None else key}
        return websockets.connect(
            f"ws://{self.address}{path}", proxy=None, ping_interval=None, additional_headers=headers, **more
        )

    def keyless(self) -> Any:
        return websockets.connect(f"ws://{self.address}/v2/", proxy=None, ping_interval=None)

    async def keep(self, minutes: int) -> list[int]:
        """Closed candles of so many minutes up to the running one; gives their opening times in seconds."""
        open_ns = open_of(NOW_NS, 60)
        opens = [open_ns - n * MINUTE_NS for n in range(minutes, 0, -1)]
        await self.market.keep(
            SeriesKey(BTC, Of.CANDLES, 60), [a_candle(at_ns) for at_ns in opens], open_ns - minutes * MINUTE_NS, open_ns
        )
        return [at_ns // NS for at_ns in opens]

    def follow_trades(self) -> None:
        """Have the running minute whole, as the feed does."""
        start_ns = open_of(self.clock.now_ns(), 60)
        self.market.follow(self.outside.listed["BTCUSDT"], [Feed.TRADES])
        gap = Gap(BTC, "trades", start_ns, None, "start")
        self.bus.publish([gap, Mended(gap, self.clock.now_ns())])
        self.candles.vouch(BTC, start_ns)

    def trade(self, number: int, price: str = "100", side: Side = Side.BUY) -> None:
        now_ns = self.clock.now_ns()
        self.bus.publish([Trade(BTC, now_ns, now_ns, number, number, side, Decimal(price), Decimal("0.5"))])

    async def advance(self, seconds: float) -> None:
        """Move the clock, close what is due and tell what grew."""
        await self.clock.advance(seconds)
        self.bus.publish(self.candles.on_time(VENUE, self.clock.now_ns()))
        self.market.pulse.pulse()

    @property
    def choked(self) -> int:
        return sum(connection.choked for connection in self.server.connections)  # type: ignore[attr-defined]

    @property
    def buffered(self) -> int:
        return sum(connection.buffered() for connection in self.server.connections)  # type: ignore[attr-defined]


def an_instrument(symbol: str) -> Instrument:
    return Instrument(
        venue=VENUE, symbol=symbol, kind=Kind.PERPETUAL, coin=symbol[:3], quote="USDT", settle="USDT",
        tick_size=Decimal("0.1"), lot_size=Decimal("0.001"),
    )  # fmt: skip


def a_candle(open_ns: int) -> Candle:
    n = Decimal(open_ns // MINUTE_NS % 1_000)
    return Candle(
        BTC, Side.BOTH, 60, open_ns, n, n + 2, n, n + 1, Decimal(5), Decimal(500), 7, open_ns + 1, open_ns + 2, True,
        open_ns + MINUTE_NS, "trades",
    )  # fmt: skip


@pytest.fixture
async def told(limits: dict[str, Any]) -> AsyncIterator[Told]:
    server = Told(**limits)
    await server.start()
    async with contextlib.AsyncExitStack() as closing:
        closing.push_async_callback(server.stop)
        yield server


TRADES_AT_ONCE = 1_000


async def heard(client: ClientConnection) -> Any:
    """The next message; that nobody vouched for the trades of a test is not what it is about."""
    while True:
        message = json.loads(await asyncio.wait_for(client.recv(), 5))
        if not isinstance(message, dict) or "coverage" not in (message.get("params") or {}):
            return message


async def call(client: ClientConnection, method: str, params: Any = None, call_id: Any = 1) -> Any:
    """The answer to a call, whatever is told before it."""
    said = {"jsonrpc": "2.0", "id": call_id, "method": method}
    await client.send(json.dumps(said if params is None else said | {"params": params}))
    while True:
        answer = await heard(client)
        if "method" not in answer:
            return answer


async def closed(client: ClientConnection) -> tuple[int, str]:
    """How the server ends the conversation."""
    with pytest.raises(ConnectionClosed) as ended:
        while True:
            await asyncio.wait_for(client.recv(), 5)
    assert ended.value.rcvd is not None
    return ended.value.rcvd.code, ended.value.rcvd.reason


def seconds(series: Any) -> list[int]:
    """The buckets of a series message."""
    return [next(iter(point.values()))["timestamp"]["seconds"] for point in series["points"]]


# The protocol to the letter: `>` sent, `<` answered; `-` nothing is answered, so that the ping behind it is next.


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        ('{"jsonrpc":"2.0","id":1,"method":"ping"}', {"id": 1, "result": "pong"}),
        ('{"jsonrpc":"2.0","id":"a","method":"ping","params":[]}', {"id": "a", "result": "pong"}),
        ('{"jsonrpc":"2.0","id":null,"method":"ping","params":{}}', {"id": None, "result": "pong"}),
        ('{"jsonrpc":"2.0","id":1.5,"method":"ping","more":{}}', {"id": 1.5, "result": "pong"}),
        (b'{"jsonrpc":"2.0","id":123456789012345678901,"method":"ping"}', {"id": 123456789012345678901, "result": "pong"}),
        ('{"jsonrpc":"2.0","method":"ping"}', None),
        ('{"jsonrpc":"2.0","method":"no such thing"}', None),
        ('{"jsonrpc":"2.0","method":"GetPoints","params":{"type":3}}', None),
        ('{"jsonrpc":"2.0","id":1,"method":"foobar, "params":"bar"}', (None, -32700)),
        ("", (None, -32700)),
        ("NaN", (None, -32700)),
        (b"\xff\x00", (None, -32700)),
        ('{"jsonrpc":"2.0","id":1e999,"method":"ping"}', (None, -32700)),
        ("1", (None, -32600)),
        ('"ping"', (None, -32600)),
        ("null", (None, -32600)),
        ("{}", (None, -32600)),
        ('{"jsonrpc":"2.0","method":1,"params":"bar"}', (None, -32600)),
        ('{"jsonrpc":"2.0","id":7,"method":1}', (7, -32600)),
        ('{"jsonrpc":"1.0","id":7,"method":"ping"}', (7, -32600)),
        ('{"id":7,"method":"ping"}', (7, -32600)),
        ('{"jsonrpc":"2.0","id":7,"method":"ping","params":null}', (7, -32600)),
        ('{"jsonrpc":"2.0","id":7,"method":"ping","params":"x"}', (7, -32600)),
        ('{"jsonrpc":"2.0","id":true,"method":"ping"}', (None, -32600)),
        ('{"jsonrpc":"2.0","id":{},"method":"ping"}', (None, -32600)),
        ('{"type":"ping","timestamp":1}', (None, -32600)),
        ('{"jsonrpc":"2.0","id":7,"method":"getpoints"}', (7, -32601)),
        ('{"jsonrpc":"2.0","id":7,"method":"api.API/getPoints"}', (7, -32601)),
        ('{"jsonrpc":"2.0","id":7,"method":"rpc.discover"}', (7, -32601)),
        ('{"jsonrpc":"2.0","id":7,"method":""}', (7, -32601)),
        ('{"jsonrpc":"2.0","id":7,"method":"GetPoints","params":["TRADE"]}', (7, -32602)),
        ("[]", (None, -32600)),
        ("[1]", [(None, -32600)]),
        ("[1,2,3]", [(None, -32600)] * 3),
        ('[{"jsonrpc":"2.0","method":"ping"},{"jsonrpc":"2.0","method":"foo"}]', None),
        (
            '[{"jsonrpc":"2.0","id":"1","method":"ping"},{"jsonrpc":"2.0","method":"ping"},{"foo":"boo"},[[]]]',
            [{"id": "1", "result": "pong"}, (None, -32600), (None, -32600)],
        ),
        (
            '[{"jsonrpc":"2.0","id":"5","method":"foo.get","params":{"name":"myself"}}]',
            [("5", -32601)],
        ),
        ("[" + ",".join(['{"jsonrpc":"2.0","id":1,"method":"ping"}'] * 50) + "]", [{"id": 1, "result": "pong"}] * 50),
        ("[" + ",".join(['{"jsonrpc":"2.0","id":1,"method":"ping"}'] * 51) + "]", (None, -32600)),
        ("[" * 32 + "]" * 32, [(None, -32600)]),
        ("[" * 33 + "]" * 33, (None, -32600)),
        ("[" * 60_000, (None, -32600)),
        ('{"a":' * 10_000, (None, -32600)),
    ],
)  # fmt: skip
async def test_json_rpc_to_the_letter(told: Told, said: Any, answered: Any) -> None:
    async with told.ws() as client:
        await client.send(said)
        if answered is not None:
            answer = await heard(client)
            if isinstance(answered, list):
                for one, right in zip(answer, answered, strict=True):
                    check(one, right)
            else:
                check(answer, answered)
        await client.send('{"jsonrpc":"2.0","id":"next","method":"ping"}')
        assert await heard(client) == {"jsonrpc": "2.0", "id": "next", "result": "pong"}


def check(answer: Any, right: Any) -> None:
    if isinstance(right, dict):
        assert answer == {"jsonrpc": "2.0"} | right
        return
    call_id, code = right
    assert set(answer) == {"jsonrpc", "id", "error"}
    assert (answer["jsonrpc"], answer["id"], answer["error"]["code"]) == ("2.0", call_id, code)
    assert isinstance(answer["error"]["message"], str)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params"]), inner),
)


@given(json_values | st.binary())
def test_whatever_is_sent_is_read(said: Any) -> None:
    frame = jsonrpc.read(said if isinstance(said, bytes) else json.dumps(said))
    assert frame.calls
    for each in frame.calls:
        assert isinstance(each, jsonrpc.Call) or each.code in {jsonrpc.PARSE_ERROR, jsonrpc.INVALID_REQUEST}


@given(st.dictionaries(st.sampled_from([f.name for f in contract.PointRequest.DESCRIPTOR.fields]), json_values))
def test_whatever_params_are_sent_they_are_a_message_or_refused(params: Any) -> None:
    with contextlib.suppress(Invalid):
        made = jsonrpc.request(contract.PointRequest, params)
        for field in contract.PointRequest.DESCRIPTOR.fields:
            if field.enum_type is not None and params.get(field.name):
                # Nothing that was named is silently no filter at all.
                assert getattr(made, field.name) or params[field.name] in (0, "0"), params


def test_a_frame_has_a_bound_of_its_own() -> None:
    assert isinstance(jsonrpc.read(b" " * jsonrpc.FRAME_BYTES_MAX + b"1").calls[0], jsonrpc.Ill)


async def test_a_frame_too_large_is_closed_with_1009(told: Told) -> None:
    async with told.ws() as client:
        await client.send("x" * (jsonrpc.FRAME_BYTES_MAX + 1))
        assert (await closed(client))[0] == 1009


# Keys


@pytest.mark.parametrize("key", ["", "wrong", "kai-" + "0" * 64, "é"])
async def test_a_wrong_key_is_refused_at_the_handshake(told: Told, key: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await told.ws(key).__aenter__()
    assert refused.value.response.status_code == 401


async def test_a_key_for_something_else_is_refused_at_the_handshake(told: Told) -> None:
    _, other = await told.keys.create("other", [AI])
    with pytest.raises(InvalidStatus) as refused:
        await told.ws(other).__aenter__()
    assert refused.value.response.status_code == 403


async def test_the_path_may_lack_its_slash(told: Told) -> None:
    async with told.ws(path="/v2") as client:
        assert (await call(client, "ping"))["result"] == "pong"


@pytest.mark.parametrize("method", [*ws.METHODS, "nothing"])
async def test_before_a_key_was_shown_every_call_is_refused(told: Told, method: str) -> None:
    if method == "public/authenticate":
        return
    async with told.keyless() as client:
        error = (await call(client, method))["error"]
    assert (error["code"], error["data"]) == (-32001, "UNAUTHENTICATED")
    assert "unauthenticated" in error["message"]


async def test_the_first_call_may_bring_the_key(told: Told) -> None:
    async with told.keyless() as client:
        wrong = await call(client, "public/authenticate", {"token": "wrong"})
        assert wrong["error"] == {"code": -32001, "message": "no such key", "data": "UNAUTHENTICATED"}
        assert (await call(client, "public/authenticate", {}))["error"]["code"] == -32602
        assert (await call(client, "public/authenticate", {"token": 3}))["error"]["code"] == -32602
        assert (await call(client, "ping"))["error"]["code"] == -32001
        assert (await call(client, "public/authenticate", {"token": told.key}))["result"] == {"authenticated": True}
        assert (await call(client, "ping"))["result"] == "pong"
        assert (await call(client, "public/authenticate", {"token": told.key}))["result"] == {"authenticated": True}
        _, other = await told.keys.create("other")
        assert (await call(client, "public/authenticate", {"token": other}))["error"]["code"] == -32602
        _, barred = await told.keys.create("barred", [AI])
        error = (await call(client, "public/authenticate", {"token": barred}))["error"]
        assert (error["code"], error["data"]) == (-32007, "PERMISSION_DENIED")


@pytest.mark.parametrize("limits", [{"requests_per_s": 1.0, "burst": 3, "loopback": True}])
async def test_who_guesses_keys_is_slowed_down(told: Told) -> None:
    async with told.keyless() as client:
        codes = [
            (await call(client, "public/authenticate", {"token": f"guess {n}"}))["error"]["code"] for n in range(4)
        ]
        assert codes == [-32001, -32001, -32008, -32008]
        await told.clock.advance(1)
        assert (await call(client, "public/authenticate", {"token": "guess"}))["error"]["code"] == -32001


async def test_the_house_style_lacks_jsonrpc_and_id(told: Told) -> None:
    async with told.keyless() as client:
        await client.send(json.dumps({"method": "public/authenticate", "params": {"token": told.key}}))
        assert (await call(client, "ping"))["result"] == "pong"


async def test_calls_said_at_once_come_after_the_key_said_before_them(told: Told) -> None:
    async with told.keyless() as client:
        for n, (method, params) in enumerate(
            [("public/authenticate", {"token": told.key}), ("GetCoins", {}), ("ping", {})]
        ):
            await client.send(json.dumps({"jsonrpc": "2.0", "id": n, "method": method, "params": params}))
        answers = [await heard(client) for _ in range(3)]
    assert all("result" in answer for answer in answers), answers


async def test_a_connection_without_a_key_is_closed_soon(told: Told) -> None:
    async with told.keyless() as client, told.ws() as other:
        assert (await call(client, "ping"))["error"]["code"] == -32001
        assert (await call(other, "ping"))["result"] == "pong"
        await told.clock.advance(ws.AUTHENTICATE_S_MAX)
        assert await closed(client) == (4401, "no key was shown")
        assert (await call(other, "ping"))["result"] == "pong"


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_revoked_key_closes_all_its_sockets(told: Told, until: Any, stalled: bool) -> None:
    _, other_key = await told.keys.create("other")
    async with told.ws() as first, told.keyless() as second, told.ws(other_key) as other:
        await call(second, "public/authenticate", {"token": told.key})
        await call(first, "StreamPoints", TRADES)
        await call(other, "ping")
        if stalled:
            first.transport.pause_reading()
        await told.keys.revoke(told.key_id)
        # At once on our side, whatever the client does.
        assert told.dialect.points.streams == 0 or await until(lambda: not told.dialect.points.streams) is None
        assert await closed(second) == (4401, "the key was revoked")
        if not stalled:
            assert await closed(first) == (4401, "the key was revoked")
        assert (await call(other, "ping"))["result"] == "pong"
        with pytest.raises(InvalidStatus):
            await told.ws().__aenter__()
        first.transport.abort()


async def test_a_key_has_so_many_connections(told: Told, until: Any) -> None:
    _, other_key = await told.keys.create("other")
    async with contextlib.AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(told.ws()) for _ in range(ws.CONNECTIONS_MAX)]
        for client in clients:
            await call(client, "ping")
        text = f"more than {ws.CONNECTIONS_MAX} connections with this key"
        async with told.ws() as more:
            assert await closed(more) == (4429, text)
        async with told.keyless() as more:
            answer = await call(more, "public/authenticate", {"token": told.key})
            assert answer["error"] == {"code": -32008, "message": text, "data": "RESOURCE_EXHAUSTED"}
            assert await closed(more) == (4429, text)
        async with told.ws(other_key) as other:
            assert (await call(other, "ping"))["result"] == "pong"
        await clients[0].close()
        await until(lambda: told.admission.connections == ws.CONNECTIONS_MAX - 1)
        async with told.ws() as more:
            assert (await call(more, "ping"))["result"] == "pong"


# Questions


async def test_the_eight_methods_have_three_spellings(told: Told) -> None:
    await told.keep(3)
    right = {
        "GetTypes": ("types", ["TRADE_SIDE_AGNOSTIC_AGG"]),
        "GetExchanges": ("exchanges", ["BINANCE_FUTURES"]),
        "GetCategories": ("categories", ["PERPETUAL"]),
        "GetCoins": ("coins", ["BTC"]),
        "GetRawSymbols": ("rawSymbols", ["BTCUSDT"]),
        "GetNormalizedSymbols": ("normalizedSymbols", ["BTC-USDT"]),
    }
    async with told.ws() as client:
        for method, (field, values) in right.items():
            for spelling in (method, method[0].lower() + method[1:], f"api.API/{method}"):
                assert (await call(client, spelling, {"type": ["TRADE_SIDE_AGNOSTIC_AGG"]}))["result"][field] == values
        for spelling in ("GetPoints", "getPoints", "api.API/GetPoints"):
            result = (await call(client, spelling, CANDLES | {"period": 3600}))["result"]
            assert [seconds(each) for each in result["series"]] == [[OPEN_S - 180, OPEN_S - 120, OPEN_S - 60]]
        for spelling in ("StreamPoints", "streamPoints", "api.API/StreamPoints"):
            assert set((await call(client, spelling, CANDLES))["result"]) == {"subscription"}


async def test_points_are_answered_in_shape_a(told: Told) -> None:
    await told.keep(1)
    async with told.ws() as client:
        asked = {
            **CANDLES,
            "interval": "MINUTE",
            "normalized_symbol": ["BTC-USDT"],
            "from": str(OPEN_S - 60),
            "period": 60,
            "sortDirection": "unknown here",
        }
        answer = await call(client, "GetPoints", asked)
    n = float((OPEN_S - 60) // 60 % 1_000)
    assert answer["result"] == {
        "series": [
            {
                "id": {
                    "type": "TRADE_SIDE_AGNOSTIC_AGG",
                    "rawSymbol": "BTCUSDT",
                    "exchange": "BINANCE_FUTURES",
                    "normalizedSymbol": "BTC-USDT",
                    "category": "PERPETUAL",
                    "interval": "MINUTE",
                    "side": "UNKNOWN_SIDE",
                    "coin": "BTC",
                },
                "points": [
                    {
                        "tradeSideAgnosticAggregation": {
                            "open": n,
                            "high": n + 2,
                            "low": n,
                            "close": n + 1,
                            "volume": 5,
                            "timestamp": {"seconds": OPEN_S - 60, "nanoseconds": 0},
                            "firstTimestamp": {"seconds": OPEN_S - 60, "nanoseconds": 1},
                            "lastTimestamp": {"seconds": OPEN_S - 60, "nanoseconds": 2},
                        }
                    }
                ],
            }
        ]
    }
    assert "coverage" not in answer


async def test_what_nobody_has_is_said_beside_the_result(told: Told) -> None:
    await told.keep(2)
    async with told.ws() as client:
        answer = await call(client, "GetPoints", CANDLES | {"from": OPEN_S - 600, "period": 540})
    assert answer["coverage"] == f"missing TRADE_SIDE_AGNOSTIC_AGG {BTC} {OPEN_S - 600}-{OPEN_S - 120}"
    assert seconds(answer["result"]["series"][0]) == [OPEN_S - 120]
    async with told.ws() as client:
        await call(client, "StreamPoints", CANDLES | {"from": OPEN_S - 600, "period": 540})
        notes = [json.loads(await client.recv())["params"] for _ in range(3)]
    assert [set(note) - {"subscription"} for note in notes] == [{"result"}, {"coverage"}, {"done"}]
    assert notes[1]["coverage"] == answer["coverage"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"type": ["FOO"]},
            f'type ["FOO"] is wrong: it is {TYPES}',
        ),
        (
            {"type": "TRADE"},
            f'type "TRADE" is wrong: it is {TYPES}',
        ),
        (
            {"type": [2**40]},
            f"type [1099511627776] is wrong: it is {TYPES}",
        ),
        ({"side": True}, "side true is wrong: it is the name or number of api.PointSide, such as SELL, BUY"),
        ({"coin": "BTC"}, 'coin "BTC" is wrong: it is a list of texts'),
        ({"coin": [None]}, "coin [null] is wrong: it is a list of texts"),
        ({"from": 1.5}, "from 1.5 is wrong: it is whole seconds, as a number or a text"),
        ({"from": True}, "from true is wrong: it is whole seconds, as a number or a text"),
        ({"period": "x" * 70}, f'period "{"x" * 63}… is wrong: it is whole seconds, as a number or a text'),
        ({}, "type is missing: name at least one, such as TRADE_SIDE_AGNOSTIC_AGG"),
        ({"type": ["TRADE_AGG"], "period": 60}, "interval is missing: TRADE_AGG needs one, such as MINUTE or HOUR"),
        (TRADES, "from and period are missing: give at least one of them, in seconds"),
    ],
)
async def test_wrong_params_are_told_what_is_right(told: Told, params: Any, message: str) -> None:
    async with told.ws() as client:
        error = (await call(client, "GetPoints", params))["error"]
    assert error == {"code": -32602, "message": message, "data": "INVALID_ARGUMENT"}


async def test_refusals_carry_the_number_and_name_of_grpc(told: Told) -> None:
    async with told.ws() as client:
        error = (await call(client, "GetPoints", CANDLES | {"period": 4_000_000}))["error"]
        assert (error["code"], error["data"]) == (-32003, "INVALID_ARGUMENT")
        assert error["message"].startswith("the window holds more than 50000 points")
        error = (await call(client, "Unsubscribe", {"subscription": "7"}))["error"]
        assert (error["code"], error["data"]) == (-32005, "NOT_FOUND")


async def test_a_fault_of_ours_is_told_without_a_word_about_it(told: Told) -> None:
    told.outside.listed = None  # type: ignore[assignment]
    with structlog.testing.capture_logs() as logged:
        async with told.ws() as client:
            error = (await call(client, "GetPoints", CANDLES | {"period": 60}))["error"]
            assert error == {"code": -32603, "message": "Internal error"}
            await call(client, "StreamPoints", CANDLES)
            assert (await heard(client))["params"] == {"subscription": "1", "error": error}
    assert [line["event"] for line in logged] == ["call failed", "stream failed"]


async def test_the_answers_to_a_batch_have_a_bound(told: Told) -> None:
    await told.keep(10_000)
    one = {"jsonrpc": "2.0", "id": 1, "method": "GetPoints", "params": CANDLES | {"period": 600_000}}
    async with told.ws(max_size=None) as client:
        await client.send(json.dumps([one] * 20))
        answers = await heard(client)
    told_whole = [answer for answer in answers if "result" in answer]
    refused = [answer["error"] for answer in answers if "error" in answer]
    assert len(told_whole) + len(refused) == 20
    assert refused[0]["code"] == -32008
    assert len(json.dumps(told_whole[:-1])) < ws.BATCH_ANSWER_BYTES_MAX * 1.3


# Streams


async def test_history_is_told_first_and_then_what_comes_without_hole_or_double(told: Told) -> None:
    opens = await told.keep(2_500)
    told.follow_trades()
    told.trade(1, "100")
    async with told.ws() as client:
        answer = await call(client, "StreamPoints", CANDLES | {"from": opens[0]})
        name = answer["result"]["subscription"]
        messages: list[Any] = []
        while sum(len(each["points"]) for each in messages) < 2_501:
            told_now = await heard(client)
            assert set(told_now) == {"jsonrpc", "method", "params"}
            assert (told_now["method"], told_now["params"]["subscription"]) == ("StreamPoints", name)
            messages.append(told_now["params"]["result"])
        # Each is one that a client takes by default.
        assert [len(each["points"]) for each in messages] == [500, 500, 500, 500, 500, 1]
        assert [at for each in messages for at in seconds(each)] == [*opens, OPEN_S]
        # The bucket that grows is told again when it changed, and not when it did not.
        await told.advance(1)
        told.trade(2, "107")
        await told.advance(1)
        grown = (await heard(client))["params"]["result"]
        assert seconds(grown) == [OPEN_S]
        assert grown["points"][0]["tradeSideAgnosticAggregation"]["high"] == 107
        # It is over, and the next one begins.
        await told.advance(31)
        told.trade(3, "103")
        await told.advance(5)
        after = [(await heard(client))["params"]["result"] for _ in range(2)]
        assert sorted(at for each in after for at in seconds(each)) == [OPEN_S, OPEN_S + 60]
        assert (await call(client, "ping"))["result"] == "pong"


async def test_what_is_heard_while_history_is_read_is_told_once(told: Told) -> None:
    told.follow_trades()
    for number in range(20):
        told.trade(number)
        await told.clock.advance(0.001)
    async with told.ws() as client:
        await client.send(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "StreamPoints", "params": TRADES | {"period": 60}})
        )
        await heard(client)
        for number in range(20, 60):
            told.trade(number)
            await told.clock.advance(0.001)
        ids: list[str] = []
        while len(ids) < 60:
            message = (await heard(client))["params"]["result"]
            assert message["id"]["side"] == "BUY"
            ids += [point["trade"]["id"] for point in message["points"]]
        # What was heard of the moment that was just read comes behind it.
        assert sorted(map(int, ids)) == list(range(60))
        assert ids[:20] == [str(number) for number in range(20)]
        assert (await call(client, "ping"))["result"] == "pong"


async def test_histories_of_one_connection_take_turns_and_all_go_on(told: Told) -> None:
    opens = await told.keep(1_200)
    told.follow_trades()
    async with told.ws() as client:
        # The first is through while the others have more to tell.
        wanted = {"1": opens[-10:], "2": opens, "3": opens}
        calls = [
            {"jsonrpc": "2.0", "id": 1, "method": "StreamPoints", "params": CANDLES | {"from": each[0]}}
            for each in wanted.values()
        ]
        await client.send(json.dumps(calls))
        assert len(await heard(client)) == 3
        at: dict[str, list[int]] = {"1": [], "2": [], "3": []}
        while any(len(at[name]) < len(each) for name, each in wanted.items()):
            said = (await heard(client))["params"]
            at[said["subscription"]] += seconds(said["result"])
        assert at == wanted
        told.trade(1)
        await told.advance(1)
        assert {(await heard(client))["params"]["subscription"] for _ in range(3)} == {"1", "2", "3"}


async def test_both_sides_of_trades_are_series_of_their_own(told: Told) -> None:
    async with told.ws() as client:
        await call(client, "StreamPoints", TRADES)
        await call(client, "StreamPoints", TRADES | {"side": "SELL"})
        told.trade(1, "100", Side.BUY)
        told.trade(2, "101", Side.SELL)
        said = [(await heard(client))["params"] for _ in range(3)]
    sides = sorted((each["subscription"], each["result"]["id"]["side"]) for each in said)
    assert sides == [("1", "BUY"), ("1", "SELL"), ("2", "SELL")]


async def test_a_window_that_is_over_is_told_and_done(told: Told) -> None:
    opens = await told.keep(5)
    async with told.ws() as client:
        await call(client, "StreamPoints", CANDLES | {"from": opens[0], "period": 180})
        assert seconds((await heard(client))["params"]["result"]) == opens[:3]
        last = '{"jsonrpc":"2.0","method":"StreamPoints","params":{"subscription":"1","done":true}}'
        assert await asyncio.wait_for(client.recv(), 5) == last
        # It is forgotten.
        assert (await call(client, "Unsubscribe", {"subscription": "1"}))["error"]["code"] == -32005


async def test_a_window_that_ends_later_is_done_then(told: Told) -> None:
    told.follow_trades()
    async with told.ws() as client:
        await call(client, "StreamPoints", TRADES | {"from": OPEN_S, "period": 60})
        told.trade(1)
        assert (await heard(client))["params"]["result"]["points"][0]["trade"]["id"] == "1"
        await told.clock.advance(29)
        assert (await call(client, "ping"))["result"] == "pong"
        await told.clock.advance(1)
        told.trade(2)
        await told.clock.advance(5)
        assert (await heard(client))["params"] == {"subscription": "1", "done": True}


async def test_a_refusal_in_the_middle_of_a_stream_is_its_last_word(told: Told) -> None:
    async with told.ws() as client:
        await call(client, "StreamPoints", TRADES)
        for number in range(20_001):
            told.trade(number)
        said = await heard(client)
        while "result" in said["params"]:
            said = await heard(client)
        assert said["params"]["error"]["code"] == -32008
        assert said["params"]["error"]["data"] == "RESOURCE_EXHAUSTED"
        assert said["params"]["error"]["message"].startswith("too slow")
        assert (await call(client, "ping"))["result"] == "pong"


@pytest.mark.parametrize("method", ["Unsubscribe", "unsubscribe", "CancelStream", "cancelStream"])
async def test_a_stream_ends_when_it_is_cancelled(told: Told, until: Any, method: str) -> None:
    async with told.ws() as client:
        await call(client, "StreamPoints", TRADES)
        await call(client, "StreamPoints", TRADES)
        await until(lambda: told.dialect.points.streams == 2)
        assert (await call(client, method, {"subscription": "1"}))["result"] == {"subscription": "1"}
        await until(lambda: told.dialect.points.streams == 1)
        told.trade(1)
        assert (await heard(client))["params"]["subscription"] == "2"
        assert (await call(client, method, {"subscription": "1"}))["error"]["code"] == -32005
        assert (await call(client, method, {"subscription": 2}))["error"]["code"] == -32602
        assert (await call(client, method, {"subscription": "2"}))["result"] == {"subscription": "2"}
    await until(lambda: not told.outside.followed_now)


@pytest.mark.parametrize("abort", [False, True])
async def test_a_client_that_leaves_takes_everything_with_it(told: Told, until: Any, abort: bool) -> None:
    await told.keep(10)
    async with told.ws() as client:
        for params in (TRADES, CANDLES, CANDLES | {"period": 600}):
            await call(client, "StreamPoints", params)
        await until(lambda: told.dialect.points.streams == 3)
        assert told.outside.followed_now
        if abort:
            client.transport.abort()
    await until(lambda: not told.dialect.points.streams and not told.admission.connections)
    assert not told.outside.followed_now
    assert told.market.pulse.tapes == 0


async def test_a_connection_has_so_many_subscriptions(told: Told) -> None:
    one = {"jsonrpc": "2.0", "id": 1, "method": "StreamPoints", "params": TRADES}
    async with told.ws() as client:
        await client.send(json.dumps([one] * 49))
        assert len(await heard(client)) == 49
        both = [{"type": "TRADE", "exchange": "BINANCE_FUTURES", "symbol": symbol} for symbol in ("BTCUSDT", "ETHUSDT")]
        error = (await call(client, "public/subscribe", {"channels": both}))["error"]
        assert (error["code"], error["message"]) == (-32008, "a connection may have 50 subscriptions")
        assert (await call(client, "StreamPoints", TRADES))["result"] == {"subscription": "50"}
        assert (await call(client, "StreamPoints", TRADES))["error"]["code"] == -32008
        await call(client, "Unsubscribe", {"subscription": "3"})
        assert (await call(client, "StreamPoints", TRADES))["result"] == {"subscription": "51"}


async def test_a_subscription_is_known_before_it_is_heard_of(told: Told) -> None:
    await told.keep(3)
    calls = [
        {"jsonrpc": "2.0", "id": 1, "method": "StreamPoints", "params": CANDLES | {"period": 600}},
        {"jsonrpc": "2.0", "id": 2, "method": "StreamPoints", "params": TRADES},
        {"jsonrpc": "2.0", "id": 3, "method": "Unsubscribe", "params": {"subscription": "2"}},
        {"jsonrpc": "2.0", "id": 4, "method": "GetPoints", "params": CANDLES | {"period": 600}},
    ]
    async with told.ws() as client:
        await client.send(json.dumps(calls))
        answers = await heard(client)
        assert [answer["id"] for answer in answers] == [1, 2, 3, 4]
        assert (await heard(client))["params"]["subscription"] == "1"
        told.trade(1)
        await client.send('{"jsonrpc":"2.0","id":5,"method":"ping"}')
        assert (await heard(client))["id"] == 5


# The house style


async def test_channels_are_streams_of_what_comes(told: Told, until: Any) -> None:
    await told.keep(3)
    channels = [
        {"type": "TRADE", "exchange": "BINANCE_FUTURES", "symbol": "BTCUSDT", "category": "*"},
        {
            "type": "TRADE_SIDE_AGNOSTIC_AGG",
            "exchange": "BINANCE_FUTURES",
            "symbol": "BTCUSDT",
            "category": "PERPETUAL",
        },
        {"type": "TRADE_AGG", "exchange": "BINANCE_FUTURES", "symbol": "BTCUSDT", "batchInterval": "HOUR"},
        {"type": "LIQUIDATION", "exchange": "BINANCE_FUTURES", "symbol": "BTCUSDT"},
    ]
    async with told.ws() as client:
        said = {"channels": channels, "version": "v2", "compression": "none"}
        assert (await call(client, "public/subscribe", said, 0))["result"] == {"subscriptions": ["1", "2", "3", "4"]}
        await until(lambda: told.dialect.points.streams == 4)
        told.trade(1)
        assert (await heard(client))["params"]["subscription"] == "1"
        ended = await call(client, "public/unsubscribe", {"channels": channels[:1] + channels[3:]})
        assert ended["result"] == {"subscriptions": ["1", "4"]}
        await until(lambda: told.dialect.points.streams == 2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "channels is missing"),
        ({"channels": []}, "channels is missing"),
        ({"channels": ["TRADE"]}, "a channel is an object"),
        ({"channels": [{"type": "QUOTES"}]}, 'type ["QUOTES"] is wrong'),
        ({"channels": [{"type": []}]}, "type [[]] is wrong"),
        ({"channels": [{}]}, "type [null] is wrong"),
        ({"channels": [{"type": "TRADE", "exchange": ["BINANCE"]}]}, 'exchange [["BINANCE"]] is wrong'),
        ({"channels": [{"type": "TRADE_AGG", "batchInterval": "100ms"}]}, 'interval "100ms" is wrong'),
        ({"channels": [{"type": "TRADE"}], "compression": "brotli"}, 'compression is "none"'),
        ([{"type": "TRADE"}], "params are by name"),
    ],
)
async def test_a_wrong_channel_is_told_what_is_right(told: Told, params: Any, message: str) -> None:
    async with told.ws() as client:
        error = (await call(client, "public/subscribe", params))["error"]
    assert error["code"] == -32602
    assert error["message"].startswith(message)
    assert told.dialect.points.streams == 0


# Limits


async def test_a_client_that_says_nothing_is_closed(told: Told, until: Any) -> None:
    async with told.ws() as quiet, told.ws() as calls, told.ws() as pings:
        for client in (quiet, calls, pings):
            await call(client, "ping")
        await told.clock.advance(59)
        await call(calls, "ping")
        await (await pings.ping())
        await told.clock.advance(1)
        assert await closed(quiet) == (4008, "nothing was heard for 60 s: send a ping")
        await told.clock.advance(58)
        for client in (calls, pings):
            assert (await call(client, "ping"))["result"] == "pong"
    await until(lambda: not told.admission.connections)


async def test_a_client_that_talks_too_much_is_closed(told: Told) -> None:
    async with told.ws() as client:
        for _ in range(ws.CLIENT_FRAMES_BURST):
            await call(client, "ping")
        await client.send('{"jsonrpc":"2.0","id":1,"method":"ping"}')
        assert await closed(client) == (1008, "too many frames from this client")
    async with told.ws() as client:
        for _ in range(ws.CLIENT_FRAMES_BURST + 20):
            await call(client, "ping")
            await told.clock.advance(1 / ws.CLIENT_FRAMES_PER_S)


async def stalled(told: Told, said: list[str]) -> tuple[socket.socket, websockets.ClientProtocol]:
    """A client that says this and then reads nothing, ever; its kernel takes little."""
    host, port = told.address.rsplit(":", 1)
    pipe = socket.socket()
    pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    pipe.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(pipe, (host, int(port)))
    client = websockets.ClientProtocol(websockets.uri.parse_uri(f"ws://{told.address}/v2/"))
    request = client.connect()
    request.headers["x-kiyotaka-key"] = said[0]
    client.send_request(request)
    await loop.sock_sendall(pipe, b"".join(client.data_to_send()))
    client.receive_data(await asyncio.wait_for(loop.sock_recv(pipe, 4_096), 5))
    assert client.handshake_exc is None
    for text in said[1:]:
        client.send_text(text.encode())
    await loop.sock_sendall(pipe, b"".join(client.data_to_send()))
    return pipe, client


async def told_and_heard(told: Told, client: ClientConnection, numbers: range, count: int) -> int:
    """Trades with those numbers, as many at a time as may come at once, read as they come; how many were read in all."""
    for low in range(numbers.start, numbers.stop, TRADES_AT_ONCE):
        for number in range(low, low + TRADES_AT_ONCE):
            told.trade(number)
        while count < low + TRADES_AT_ONCE:
            count += len((await heard(client))["params"]["result"]["points"])
    return count


async def test_clients_that_do_not_read_cost_little_and_are_closed(told: Told, until: Any) -> None:
    """Each asks for all of history five times and for all trades, and reads nothing."""
    many = 120
    opens = await told.keep(5_000)
    streams = [
        {"jsonrpc": "2.0", "id": 1, "method": "StreamPoints", "params": params}
        for params in [TRADES] + [CANDLES | {"from": opens[0]}] * 5
    ]
    calls = [
        json.dumps(streams),
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "GetPoints", "params": CANDLES | {"from": opens[0]}}),
    ]
    keys = [(await told.keys.create("many"))[1] for _ in range(many // ws.CONNECTIONS_MAX)]
    pipes: list[socket.socket] = []
    try:
        for number in range(many):
            pipes.append((await stalled(told, [keys[number % len(keys)], *calls]))[0])
        await until(lambda: told.choked == many)
        # History in turn: of five, one is read, or two where the kernel took the first message.
        assert told.dialect.points.streams < 3 * many
        async with told.ws() as healthy:
            await call(healthy, "StreamPoints", TRADES)
            count = await told_and_heard(told, healthy, range(5_000), 0)
            # To each a message past what may wait; and of the long answers, so many as may wait for all together.
            message = ws.MESSAGE_ROWS_MAX * 300
            short = many * (ws.WAITING_BYTES_MAX + message + SLACK_BYTES)
            assert 0 < told.buffered < ws.LONG_WAITING_BYTES_MAX + short
            held = told.buffered
            await told_and_heard(told, healthy, range(5_000, 10_000), count)
            await call(healthy, "ping")
            assert told.buffered == held
            for _ in range(6):
                await told.clock.advance(ws.BEAT_S)
            await until(lambda: told.dialect.points.streams == 1)
            assert (await call(healthy, "ping"))["result"] == "pong"
        await until(lambda: not told.admission.connections)
    finally:
        for pipe in pipes:
            pipe.close()


async def test_a_client_that_reads_again_hears_the_rest(told: Told, until: Any) -> None:
    opens = await told.keep(20_000)
    async with told.ws(max_queue=1) as client:
        await client.send(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "StreamPoints", "params": CANDLES | {"from": opens[0]}})
        )
        await until(lambda: told.buffered > ws.WAITING_BYTES_MAX)
        await told.clock.advance(10)
        at: list[int] = []
        await heard(client)
        while len(at) < len(opens):
            at += seconds((await heard(client))["params"]["result"])
        assert at == opens


async def test_pings_of_a_client_that_does_not_read_cost_nothing(told: Told, until: Any) -> None:
    opens = await told.keep(5_000)
    said = {"jsonrpc": "2.0", "id": 1, "method": "GetPoints", "params": CANDLES | {"from": opens[0]}}
    pipe, client = await stalled(told, [told.key, json.dumps(said)])
    with contextlib.closing(pipe):
        await until(lambda: told.choked)
        held = told.buffered
        came: list[int] = []
        (connection,) = told.server.connections
        connection.pinged = lambda: came.append(1)  # type: ignore[attr-defined]
        for number in range(10_000):
            client.send_ping(f"{number:0100}".encode())
        await asyncio.get_running_loop().sock_sendall(pipe, b"".join(client.data_to_send()))
        await until(lambda: len(came) == 10_000)
        assert told.buffered <= held


async def test_a_client_that_pings_and_does_not_read_is_owed_one_pong(told: Told, until: Any) -> None:
    opens = await told.keep(10_000)
    async with told.ws(max_queue=1) as client:
        await client.send(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "StreamPoints", "params": CANDLES | {"from": opens[0]}})
        )
        await until(lambda: told.buffered > ws.WAITING_BYTES_MAX)
        pongs = [await client.ping(f"{number:0100}") for number in range(500)]
        while len(opens) > 0:
            message = await heard(client)
            if "params" in message:
                opens = opens[len(message["params"]["result"]["points"]) :]
        await asyncio.wait_for(pongs[-1], 5)
