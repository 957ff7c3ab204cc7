"""A store of minutes behind our gRPC and REST, and servers that send the same bytes without any of it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.server import Server as LibServer

from openoutcry.accounts.keys import Keys
from openoutcry.aggregates.candles import Candles
from openoutcry.aggregates.derivatives import Derivatives
from openoutcry.aggregates.ticker import Tickers
from openoutcry.api.admission import Admission
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Doors
from openoutcry.api.kiyotaka import contract, encode
from openoutcry.api.kiyotaka.names import SORTS
from openoutcry.api.kiyotaka.rest import Kiyotaka
from openoutcry.api.push import Push
from openoutcry.api.rpc import RpcServer
from openoutcry.bus import Bus
from openoutcry.clock import NS, ManualClock
from openoutcry.events import Candle, Gap, Mended, Side, Trade
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.market.building import Building
from openoutcry.market.market import Market
from openoutcry.market.outside import VenueState
from openoutcry.market.series import Batch, Of, SeriesKey, Span, State, columns_of
from openoutcry.stores.keys import MemoryKeys
from openoutcry.stores.sql import SqlSeries, sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.venues.binance import BinanceSpot
from openoutcry.venues.venue import Answer, Ask, Feed, Limits, Page, Query

MINUTE_NS = 60 * NS
MINUTES = 50_000
MONTH = 43_200
END_S = 1_763_553_600
START_S = END_S - MINUTES * 60
WRITE_ROWS = 10_000
NAME = "binance:BTCUSDT"
# A key of no randomness: both sides of a bench must know it.
KEY = "kai-" + "00" * 32
BTC = Instrument(
    venue="binance", symbol="BTCUSDT", kind=Kind.SPOT, coin="BTC", quote="USDT", settle="USDT", tick_size=Decimal("0.01"),
    lot_size=Decimal("0.00001"), listed_ns=START_S * NS,
)  # fmt: skip


def minute(n: int) -> Candle:
    """A closed minute with numbers as long as real ones."""
    price = Decimal(6_000_000 + n * 37 % 90_000) / 100
    return Candle(
        NAME, Side.BOTH, 60, (START_S + n * 60) * NS, price, price + Decimal("33.7"), price - Decimal("2.11"),
        price + Decimal("19.73"), Decimal(100_000 + n * 7919 % 900_000) / 10_000, price, 977,
        (START_S + n * 60) * NS + 126_000_000, (START_S + n * 60) * NS + 59_878_000_000, True, 0, "trades",
    )  # fmt: skip


def request(points: int) -> bytes:
    """The usual question: one type, one exchange, one symbol, the newest so many minutes."""
    message = contract.PointRequest(
        type=[contract.TYPES["TRADE_SIDE_AGNOSTIC_AGG"]],
        exchange=[contract.EXCHANGES["BINANCE"]],
        rawSymbol=["BTCUSDT"],
        interval=contract.INTERVALS["MINUTE"],
        period=points * 60,
        **{"from": END_S - points * 60},
    )
    made: bytes = message.SerializeToString()
    return made


def live_request() -> bytes:
    """What comes, and nothing before it."""
    message = contract.PointRequest.FromString(request(1))
    message.ClearField("from")
    message.ClearField("period")
    made: bytes = message.SerializeToString()
    return made


class Outside:
    """One venue with one instrument that is followed and never needs to be asked."""

    def venues(self) -> Mapping[str, VenueState]:
        return {"binance": VenueState("binance", True, 1, None)}

    def feeds(self, venue: str) -> frozenset[Feed]:
        return frozenset({Feed.TRADES})

    def queries(self, venue: str) -> frozenset[Query]:
        return frozenset()

    def intervals_s(self, venue: str) -> frozenset[int]:
        return frozenset()

    def limits(self, venue: str) -> Limits:
        return BinanceSpot.limits

    def instruments(self, venue: str) -> Mapping[str, Instrument]:
        return {BTC.symbol: BTC}

    async def listing(self, venue: str) -> Mapping[str, Instrument]:
        return {BTC.symbol: BTC}

    def followed(self, instrument: str, feed: Feed) -> bool:
        return True

    def follow(self, instrument: Instrument, feeds: Iterable[Feed]) -> Callable[[], None]:
        return lambda: None

    def ask(self, venue: str, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        raise AssertionError(f"{venue} was asked {ask}")

    async def raw(self, venue: str, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        raise AssertionError(path)


class Ours:
    """The service as it is served, on a SQLite file, with the key and the limits on."""

    def __init__(self, *, rest: bool) -> None:
        self._rest = rest
        self._folder = tempfile.TemporaryDirectory(prefix="openoutcry-bench-")
        series = SqlSeries(sqlite_url(Path(self._folder.name) / "points.db"))
        key = SeriesKey(NAME, Of.CANDLES, 60)
        for low in range(0, MINUTES, WRITE_ROWS):
            series.write(Batch({key: [minute(n) for n in range(low, low + WRITE_ROWS)]}))
        series.write(Batch({}, {key: [Span(START_S * NS, END_S * NS, State.HAVE)]}))
        self._clock, self._bus, telemetry, outside = ManualClock(END_S * NS), Bus(), Telemetry(), Outside()
        self._candles = Candles()
        building = Building(
            bus=self._bus,
            clock=self._clock,
            telemetry=telemetry,
            outside=outside,
            candles=self._candles,
            derivatives=Derivatives(),
            tickers=Tickers(),
        )
        self._market = Market(outside, series, self._bus, self._clock, telemetry, building, bars=building)
        self._keys = Keys(MemoryKeys(), b"pepper", self._clock, telemetry, random=bytes)
        self._doors = Doors(
            clock=self._clock,
            keys=self._keys,
            market=self._market,
            bus=self._bus,
            follow=self._market.follow,
            admission=Admission(self._clock, requests_per_s=1e9, burst=1_000_000_000, loopback=True),
            push=Push(telemetry),
            telemetry=telemetry,
            exchanges={"binance": {Kind.SPOT: (Exchange.BINANCE,)}},
        )
        self._trades = 0

    async def start(self) -> int:
        _, text = await self._keys.create("bench")
        assert text == KEY
        gap = Gap(NAME, "trades", END_S * NS, None, "start")
        for event in (gap, Mended(gap, END_S * NS)):
            self._bus.publish([event])
        self._candles.vouch(NAME, END_S * NS)
        dialect = Kiyotaka(self._doors)
        if self._rest:
            return _port(await HttpServer(application(self._doors, [dialect]), "127.0.0.1", 0).start())
        self._server = RpcServer(dialect.services(), "127.0.0.1", 0)
        return _port(await self._server.start())

    def send(self, payload: bytes) -> None:
        """A trade, and the pulse that tells what it made of the minute that grows."""
        del payload
        self._trades += 1
        price = Decimal(6_000_000 + self._trades % 1_000) / 100
        at_ns = END_S * NS + self._trades
        self._bus.publish([Trade(NAME, at_ns, at_ns, self._trades, self._trades, Side.BUY, price, Decimal("0.01"))])
        self._market.pulse.pulse()


def answer(points: int) -> bytes:
    """The bytes that ours sends."""
    rows = columns_of(Of.CANDLES, [minute(n) for n in range(MINUTES - points, MINUTES)])
    sort = SORTS[contract.TYPES["TRADE_SIDE_AGNOSTIC_AGG"]]
    return encode.response([(b"", [encode.encode(sort, rows).data])])


SMALL = encode.series(b"x" * 35, [b"y" * 81])


class Broadcast:
    """Small messages to all who listen."""

    def __init__(self) -> None:
        self.waiting: set[asyncio.Queue[bytes]] = set()

    def send(self, payload: bytes) -> None:
        del payload
        for queue in self.waiting:
            queue.put_nowait(SMALL)


class Bare(Broadcast):
    """grpcio.aio with bytes that are ready: the floor."""

    async def start(self) -> int:
        ready = {request(points): answer(points) for points in (500, MINUTES)}
        month = [answer(5_000)[4:]] * (MONTH // 5_000) + [answer(MONTH % 5_000)[4:]]

        async def unary(asked: bytes, context: Any) -> bytes:
            del context
            return ready[asked]

        async def stream(asked: bytes, context: Any) -> None:
            if asked != live_request():
                for message in month:
                    await context.write(message)
                return
            queue: asyncio.Queue[bytes] = asyncio.Queue()
            self.waiting.add(queue)
            while True:
                await context.write(await queue.get())

        server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
        handlers = {
            "GetPoints": grpc.unary_unary_rpc_method_handler(unary),
            "StreamPoints": grpc.unary_stream_rpc_method_handler(stream),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(contract.SERVICE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._server = server
        return int(port)


class Grpclib(Broadcast):
    """grpclib with bytes that are ready."""

    async def start(self) -> int:
        self._ready = {request(points): answer(points) for points in (500, MINUTES)}
        self._month = [answer(5_000)[4:]] * (MONTH // 5_000) + [answer(MONTH % 5_000)[4:]]
        self._server = LibServer([self], codec=_Bytes())
        await self._server.start("127.0.0.1", 0)
        listening: Sequence[Any] = self._server._server.sockets  # type: ignore[union-attr]  # noqa: SLF001
        return int(listening[0].getsockname()[1])

    def __mapping__(self) -> Mapping[str, Handler]:
        return {
            f"/{contract.SERVICE}/GetPoints": Handler(self._unary, Cardinality.UNARY_UNARY, bytes, bytes),
            f"/{contract.SERVICE}/StreamPoints": Handler(self._stream, Cardinality.UNARY_STREAM, bytes, bytes),
        }

    async def _unary(self, stream: Any) -> None:
        await stream.send_message(self._ready[await stream.recv_message()])

    async def _stream(self, stream: Any) -> None:
        if await stream.recv_message() != live_request():
            for message in self._month:
                await stream.send_message(message)
            return
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.waiting.add(queue)
        while True:
            await stream.send_message(await queue.get())


class _Bytes(CodecBase):
    """A codec that leaves bytes alone."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: type) -> bytes:
        del message_type
        return message

    def decode(self, data: bytes, message_type: type) -> bytes:
        del message_type
        return data


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
