"""agent-k over WebSocket: one connection, many channels, text frames of JSON.

    < {"op":"welcome","version":1,"heartbeat_interval_ms":30000,"ts":1736936430000}
    > {"op":"subscribe","channels":["market.BTC.1m"]}
    < {"op":"subscribed","channels":["market.BTC.1m"],"ts":1736936430100}
    < {"op":"snapshot","channel":"market.BTC.1m","data":[[1736936400000,100.5,101,100,100.5,12.5], …]}
    < {"op":"event","channel":"market.BTC.1m","ts":1736936430350,"data":{"event":"kline_update", …}}

Who may not connect is accepted and closed with the code, because a browser cannot read a refused handshake. A series has one
channel here, whatever its followers call it: an event is spelled once, its frame once for each name.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Send

from openoutcry.accounts.keys import MARKET, KeyRecord
from openoutcry.accounts.rates import Rate
from openoutcry.api.agentk import candles_wire as wire
from openoutcry.api.agentk.candles_wire import ErrorCode, Misread
from openoutcry.api.agentk.names import Asked, Names
from openoutcry.api.agentk.order import Order
from openoutcry.api.agentk.wire import Gate, there
from openoutcry.api.credentials import credential
from openoutcry.api.dialect import Doors, Scope
from openoutcry.api.frames import FAULT, POLICY, TRY_LATER, text_frame, writer_of
from openoutcry.api.pages import Pages
from openoutcry.api.push import Final, Reader, Stop
from openoutcry.clock import NS
from openoutcry.errors import (
    Forbidden,
    LimitExceeded,
    Refusal,
    Unauthenticated,
    Unavailable,
    Unknown,
    UnknownVenue,
)
from openoutcry.events import Candle

PATH = "/v1/ws"
HEARTBEAT_S = 30.0
# Pings without a pong; then the connection is closed.
UNANSWERED_MAX = 3
CONNECTIONS_A_KEY_MAX = 10
CHANNELS_A_CONNECTION_MAX = 50
# Names in one op, of which several may mean one channel, for each channel that a connection may have.
NAMES_A_CHANNEL_MAX = 2
SNAPSHOT_ROWS = 50
CLIENT_FRAMES_PER_S = 10.0
CLIENT_FRAMES_BURST = 100
NAMES_SHOWN = 5

NO_KEY = 4401
TOO_MANY = 4429
# What else a connection is closed with: 1001 the server stops, 1009 a frame above 64 KiB (api/asgi.py).
CLOSE_CODES = {
    NO_KEY: "no credential, a wrong one, or one that was revoked",
    TOO_MANY: "too many connections of this key",
    POLICY: "too many frames from this client",
    FAULT: "three pings without a pong, or a fault of the server",
    TRY_LATER: "too slow: more than 1 MiB waits to be read; or too many connections in all; or who calls cannot be told now",
    1009: "a frame above 64 KiB",
    1001: "the server stops",
}

_Key = tuple[str, int]

log = structlog.get_logger()


class Calling(Protocol):
    """Whoever calls, as far as a socket must know."""

    @property
    def id(self) -> str:
        """What is counted is counted under it."""
        ...

    @property
    def key(self) -> KeyRecord | None:
        """The key, where it was one."""
        ...


# Who brought a credential that is good for a scope. Raises Unauthenticated, Forbidden, Unavailable.
WhoIs = Callable[[str | None, str], Awaitable[Calling]]


def sockets(doors: Doors, gate: Gate) -> Sequence[WebSocketRoute]:
    """/v1/ws."""
    del gate  # what it counts are requests; a socket has limits of its own

    async def who_is(text: str | None, scope: str) -> Calling:
        return await there(doors.callers, "accounts").caller(text, scope)

    numbers = doors.agentk
    made = Sockets(
        doors,
        who_is,
        Names(doors.market, numbers.venue),
        heartbeat_s=numbers.heartbeat_s,
        connections_a_key_max=numbers.connections_a_key_max,
        channels_a_connection_max=numbers.channels_a_connection_max,
    )
    return made.routes()


class Sockets:
    """All connections, and the series they follow."""

    def __init__(
        self,
        doors: Doors,
        who_is: WhoIs,
        names: Names,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        connections_a_key_max: int = CONNECTIONS_A_KEY_MAX,
        channels_a_connection_max: int = CHANNELS_A_CONNECTION_MAX,
    ) -> None:
        self.clock, self.market, self.push = doors.clock, doors.market, doors.push
        self.names, self.channels_max = names, channels_a_connection_max
        self.pages = Pages()
        self.series: dict[_Key, Series] = {}
        self._keys, self._who_is = doors.keys, who_is
        self._heartbeat_ns = round(heartbeat_s * NS)
        self._connections_max = connections_a_key_max
        # By caller, how many connections it has.
        self.places: Counter[str] = Counter()
        # By who is pinged next.
        self._pinged: dict[_Connection, int] = {}
        self._beating: asyncio.Task[None] | None = None

    def routes(self) -> Sequence[WebSocketRoute]:
        """The path."""
        return [WebSocketRoute(PATH, self)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        writer = writer_of(scope)
        try:
            caller = await self._who_is(credential(scope, in_query=True), MARKET)
            leave = self._enter(caller.id)
        except Refusal as refusal:
            writer.finish(_code(refusal), refusal.text)
            return
        connection = _Connection(self, Reader(writer, self.push.bounds))
        try:
            if caller.key is not None:
                connection.releases.append(
                    self._keys.watch(caller.key, lambda: connection.finish(NO_KEY, "the key was revoked"))
                )
            self._welcome(connection)
            await connection.hear(receive)
        finally:
            connection.leave()
            leave()

    @property
    def unanswered(self) -> int:
        """How many pings have no pong yet."""
        return sum(each.unanswered for each in self._pinged)

    def follow(self, asked: Asked, reader: Reader, want: bytes | None) -> Stop:
        """Let `reader` have the events of a series, behind `want`. Raises LimitExceeded, Unsupported, UnknownVenue."""
        key = (asked.instrument.name, asked.interval_s)

        def begin() -> tuple[Final, Stop]:
            series = Series(self, asked)
            stop = self.market.follow_candles(asked.instrument, asked.interval_s, series.hear)
            self.series[key] = series

            def end() -> None:
                del self.series[key]
                stop()

            return series.channel, end

        return self.push.join(("agentk", *key), reader, begin, want)

    def forget(self, connection: "_Connection") -> None:
        """Ping it no more."""
        self._pinged.pop(connection, None)
        if not self._pinged and self._beating is not None:
            self._beating.cancel()
            self._beating = None

    def _enter(self, id_: str) -> Callable[[], None]:
        """Take a place of that caller; gives the way to leave it. Raises LimitExceeded."""
        if self.places[id_] >= self._connections_max:
            raise LimitExceeded(f"more than {self._connections_max} connections of this key", 10.0)
        self.places[id_] += 1

        def leave() -> None:
            self.places[id_] -= 1
            if not self.places[id_]:
                del self.places[id_]

        return leave

    def _welcome(self, connection: "_Connection") -> None:
        now_ns = self.clock.now_ns()
        connection.say(wire.Welcome(wire.VERSION, self._heartbeat_ns // wire.MS, now_ns // wire.MS))
        self._pinged[connection] = now_ns + self._heartbeat_ns
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            first_ns = next(iter(self._pinged.values()))
            await self.clock.sleep(max(first_ns - self.clock.now_ns(), 0) / NS)
            now_ns = self.clock.now_ns()
            frame = text_frame(wire.encode(wire.Ping(now_ns // wire.MS)))
            for connection in [each for each, due_ns in self._pinged.items() if due_ns <= now_ns]:
                del self._pinged[connection]
                self._pinged[connection] = now_ns + self._heartbeat_ns
                connection.ping(frame)
            if not self._pinged:
                return


class Series:
    """The candles of one instrument and interval, as they are told to all who follow them."""

    def __init__(self, sockets: Sockets, asked: Asked) -> None:
        self.channel = sockets.push.final()
        self.waiting: set[_Catch] = set()
        self._clock, self._events = sockets.clock, wire.Events(asked)
        unsure_ns = sockets.market.unsure_ns(asked.instrument.name, asked.interval_s)
        self._order = Order(asked.interval_s, self._clock.now_ns(), unsure_ns)

    def hear(self, candle: Candle) -> None:
        """Tell what of it is to be told."""
        for told in self._order.take(candle):
            self.channel.send(self.tail(told), final=told.closed)
            for catch in self.waiting:
                catch.take(told)

    def tail(self, candle: Candle) -> bytes:
        """An event, without its beginning."""
        return self._events.tail(candle, self._clock.now_ns())


class _Catch:
    """What a series tells while somebody still waits for its snapshot: the last of each bucket."""

    def __init__(self) -> None:
        self._candles: dict[int, Candle] = {}

    def take(self, candle: Candle) -> None:
        self._candles.pop(candle.open_ns, None)
        self._candles[candle.open_ns] = candle
        if len(self._candles) > SNAPSHOT_ROWS:
            del self._candles[next(iter(self._candles))]

    def after(self, rows: Sequence[Candle]) -> list[Candle]:
        """Those of it that the snapshot does not have."""
        known = {row.open_ns: row for row in rows}
        last_ns = rows[-1].open_ns if rows else 0
        return [each for each in self._candles.values() if _newer(each, known.get(each.open_ns), last_ns)]


def _newer(candle: Candle, row: Candle | None, last_ns: int) -> bool:
    if row is None:
        return candle.open_ns > last_ns
    if candle.closed is not row.closed:
        return candle.closed
    return candle.received_ns > row.received_ns and candle != row


class _Channel:
    """One channel of a connection, under the name that was sent first."""

    def __init__(self, text: str, asked: Asked) -> None:
        self.asked = asked
        self.name = wire.encode(text)
        self.want = wire.event_head(self.name)
        self.stop: Stop = _nothing
        self.task: asyncio.Task[None] | None = None

    def end(self) -> None:
        """Say nothing more of it."""
        if self.task is not None:
            self.task.cancel()
        self.stop()


class _Connection:
    """One client: what it says, and all that is said to it."""

    def __init__(self, sockets: Sockets, reader: Reader) -> None:
        self._sockets, self._reader = sockets, reader
        self._channels: dict[_Key, _Channel] = {}
        self.unanswered = 0
        self._over = False
        self.releases: list[Callable[[], None]] = []

    async def hear(self, receive: Receive) -> None:
        """Do what the client says until it leaves or is closed."""
        rate = Rate(CLIENT_FRAMES_PER_S, CLIENT_FRAMES_BURST)
        while not self._over:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            if rate.wait_s(self._sockets.clock.now_ns()):
                self.finish(POLICY, CLOSE_CODES[POLICY])
                return
            text = message.get("text")
            try:
                await self._do(wire.read(message["bytes"] if text is None else text))
            except Misread as e:
                self._refuse(e.code, e.message)

    def finish(self, code: int, reason: str) -> None:
        """Close with this code."""
        self._reader.writer.finish(code, reason)
        self.leave()

    def leave(self) -> None:
        """Let go of everything. A second call does nothing."""
        self._over = True
        self._sockets.forget(self)
        while self._channels:
            _, channel = self._channels.popitem()
            channel.end()
        while self.releases:
            self.releases.pop()()
        self._reader.close()

    def ping(self, frame: bytes) -> None:
        """Ask whether it is still there."""
        if self.unanswered >= UNANSWERED_MAX:
            self.finish(FAULT, f"{UNANSWERED_MAX} pings without a pong")
            return
        self.unanswered += 1
        self._reader.write(frame)

    def say(self, frame: object) -> None:
        """Send a frame to this client alone."""
        self._write(wire.encode(frame))

    def _write(self, payload: bytes) -> None:
        self._reader.write(text_frame(payload))

    def _refuse(self, code: ErrorCode, message: str) -> None:
        self.say(wire.Error(code, message, self._now_ms()))

    def _now_ms(self) -> int:
        return self._sockets.clock.now_ns() // wire.MS

    async def _do(self, said: wire.Said) -> None:
        match said:
            case wire.Subscribe():
                await self._subscribe(dict.fromkeys(said.channels))
            case wire.Unsubscribe():
                await self._unsubscribe(dict.fromkeys(said.channels))
            case wire.ClientPing():
                self._write(wire.pong(said, self._now_ms()))
            case wire.ClientPong():
                self.unanswered = 0

    async def _subscribe(self, texts: dict[str, None]) -> None:
        known = await self._known(texts)
        fresh: dict[_Key, tuple[str, Asked]] = {}
        for text, asked in known.items():
            if _key_of(asked) not in self._channels:
                fresh.setdefault(_key_of(asked), (text, asked))
        if len(self._channels) + len(fresh) > self._sockets.channels_max:
            raise Misread("too_many_channels", self._too_many())
        begun: list[_Channel] = []
        for key, (text, asked) in fresh.items():
            channel = _Channel(text, asked)
            try:
                # Heard from now on, and told once the snapshot was.
                channel.stop = self._sockets.follow(asked, self._reader, None)
            except Refusal as refusal:
                self._refuse("unavailable", f"{text} cannot be followed now: {refusal.text}")
                continue
            self._channels[key] = channel
            begun.append(channel)
        accepted = [text for text, asked in known.items() if _key_of(asked) in self._channels]
        if accepted:
            self.say(wire.Subscribed(accepted, self._now_ms()))
        for channel in begun:
            self._open(channel)

    async def _unsubscribe(self, texts: dict[str, None]) -> None:
        known = await self._known(texts)
        for asked in known.values():
            channel = self._channels.pop(_key_of(asked), None)
            if channel is not None:
                channel.end()
        if known:
            self.say(wire.Unsubscribed(list(known), self._now_ms()))

    async def _known(self, texts: dict[str, None]) -> dict[str, Asked]:
        """What the names mean, without those that mean nothing, which are told in an error. Raises Misread."""
        if len(texts) > NAMES_A_CHANNEL_MAX * self._sockets.channels_max:
            raise Misread("too_many_channels", self._too_many())
        known: dict[str, Asked] = {}
        unknown: list[Unknown] = []
        for text in texts:
            try:
                known[text] = await self._sockets.names.channel(text)
            except UnknownVenue as refusal:
                raise Misread("unavailable", refusal.text) from refusal
            except Unknown as refusal:
                unknown.append(refusal)
            except Unavailable as refusal:
                raise Misread("unavailable", refusal.text) from refusal
        if unknown:
            shown = "; ".join(refusal.text for refusal in unknown[:NAMES_SHOWN])
            more = f"; and {len(unknown) - NAMES_SHOWN} more" if len(unknown) > NAMES_SHOWN else ""
            self._refuse("unknown_channel", shown + more)
        return known

    def _too_many(self) -> str:
        return f"a connection has {self._sockets.channels_max} channels at most: none of these was taken"

    def _open(self, channel: _Channel) -> None:
        """Tell the snapshot, at once where it is in memory, and then what happens."""
        asked = channel.asked
        found = self._sockets.market.newest(asked.instrument.name, asked.interval_s, SNAPSHOT_ROWS)
        if found is None:
            channel.task = asyncio.create_task(self._ask(channel))
            return
        series = _key_of(asked)
        self._write(wire.snapshot(channel.name, self._sockets.pages.body(series, wire.row, *found, SNAPSHOT_ROWS)))
        self._tell(channel)

    async def _ask(self, channel: _Channel) -> None:
        """The same, where others have to be asked: what is told meanwhile waits."""
        asked = channel.asked
        series = self._sockets.series[_key_of(asked)]
        catch = _Catch()
        series.waiting.add(catch)
        rows: Sequence[Candle] = ()
        missing: Sequence[tuple[int, int]] = ()
        try:
            told = await self._sockets.market.candles(asked.instrument, asked.interval_s, limit=SNAPSHOT_ROWS)
            rows, missing = told.rows, told.missing
        except Refusal as refusal:
            self._refuse("unavailable", f"the bars before now of {channel.name.decode()} are not known: {refusal.text}")
        except Exception:  # our own fault: it must not look to the client as if the channel were only quiet
            log.exception("snapshot failed", instrument=asked.instrument.name, interval_s=asked.interval_s)
            self.finish(FAULT, "Internal error")
            return
        finally:
            series.waiting.discard(catch)
        self._write(wire.snapshot(channel.name, wire.rows(rows), missing))
        for candle in catch.after(rows):
            self._write(channel.want + series.tail(candle))
        self._tell(channel)

    def _tell(self, channel: _Channel) -> None:
        waited, channel.stop = channel.stop, self._sockets.follow(channel.asked, self._reader, channel.want)
        waited()


def _key_of(asked: Asked) -> _Key:
    return asked.instrument.name, asked.interval_s


def _code(refusal: Refusal) -> int:
    match refusal:
        case Unauthenticated() | Forbidden():
            return NO_KEY
        case LimitExceeded():
            return TOO_MANY
    return TRY_LATER


def _nothing() -> None:
    """What a channel does to stop before it is followed."""
