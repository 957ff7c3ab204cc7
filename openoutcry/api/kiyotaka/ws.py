"""Kiyotaka over WebSocket: JSON-RPC 2.0 at `/v2/`, with the eight methods of the service and the house style as aliases.

    > {"jsonrpc":"2.0","id":1,"method":"StreamPoints","params":{"type":["TRADE_AGG"],"coin":["BTC"],"interval":"MINUTE"}}
    < {"jsonrpc":"2.0","id":1,"result":{"subscription":"1"}}
    < {"jsonrpc":"2.0","method":"StreamPoints","params":{"subscription":"1","result":{"id":{…},"points":[…]}}}
    < {"jsonrpc":"2.0","method":"StreamPoints","params":{"subscription":"1","done":true}}

A client is never waited for. While it does not read, nothing more is made for it: answers and streams pause, and what its
streams hear meanwhile is conflated or, of trades, bounded (points.py).
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import msgspec
import structlog
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Send

from openoutcry.accounts.keys import KeyRecord
from openoutcry.accounts.rates import Rate
from openoutcry.api.dialect import Doors, Scope
from openoutcry.api.frames import POLICY, TRY_LATER, Writer, text_frame, writer_of
from openoutcry.api.kiyotaka import contract, jsonrpc, wire
from openoutcry.api.kiyotaka.meta import FIELDS, Meta
from openoutcry.api.kiyotaka.points import Leash, Points, missing_text
from openoutcry.api.kiyotaka.shapes import Shape
from openoutcry.clock import NS
from openoutcry.errors import Invalid, LimitExceeded, Refusal, Unauthenticated, Unknown, Unsupported

# Of one connection.
SUBSCRIPTIONS_MAX = 50
FRAMES_AT_WORK_MAX = 50
CLIENT_FRAMES_PER_S = 10.0
CLIENT_FRAMES_BURST = 50
BATCH_ANSWER_BYTES_MAX = 16 * 1024 * 1024
# Beyond it nothing more is made for a client until it has read most of it; one message or answer may go past it.
WAITING_BYTES_MAX = 32 * 1024
# Points of one message: some 150 kB, well below the megabyte that some clients take by default.
MESSAGE_ROWS_MAX = 500
# An answer above this is long; so much of them, for all clients together, waits to be read before others are refused.
LONG_BYTES = 1024 * 1024
LONG_WAITING_BYTES_MAX = 128 * 1024 * 1024
# Of one key.
CONNECTIONS_MAX = 10

QUERY_S_MAX = 30.0
AUTHENTICATE_S_MAX = 10.0
# A client that has taken nothing for so long, although something waits, is let go; looked at every BEAT_S.
STALLED_S_MAX = 25.0
BEAT_S = 5.0

IDLE = 4008
NO_KEY = 4401
TOO_MANY = 4429

UNAUTHENTICATED = -32_001
FAILED = -32_000  # minus the number of the gRPC status

STREAM = "StreamPoints"
UNKNOWN = "unknown"
# Any category of a channel.
ANY = "*"
# What has to be looked up, and answered at length.
QUESTIONS = ("GetPoints", *FIELDS)


def _spelt(name: str) -> tuple[str, str]:
    return name, name[0].lower() + name[1:]


METHODS: Mapping[str, str] = {
    **{spelling: name for name in (*QUESTIONS, STREAM) for spelling in (*_spelt(name), f"{contract.SERVICE}/{name}")},
    **{spelling: "Unsubscribe" for name in ("Unsubscribe", "CancelStream") for spelling in _spelt(name)},
    **{name: name for name in ("ping", "public/authenticate", "public/subscribe", "public/unsubscribe")},
}

log = structlog.get_logger()


class Sockets:
    """All connections. `refuse` words what is refused before a connection is one."""

    def __init__(
        self, doors: Doors, points: Points, meta: Meta, shape: Shape, refuse: Callable[[Refusal], Response]
    ) -> None:
        self.doors, self.points, self.meta, self.shape = doors, points, meta, shape
        self._refuse = refuse
        self._open: Counter[str] = Counter()
        self._long: dict[Writer, int] = {}
        self.calls = doors.telemetry.counter(
            "jsonrpc_calls", "Calls over WebSocket, by method and status", ("method", "status")
        )

    def routes(self) -> Sequence[WebSocketRoute]:
        """The path, which is published with a slash at its end."""
        return [WebSocketRoute("/v2/", self), WebSocketRoute("/v2", self)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        record: KeyRecord | None = None
        text = next((value for name, value in scope["headers"] if name == wire.KEY.encode()), None)
        if text is not None:
            try:
                record = wire.admitted(self.doors.keys, text.decode("latin-1"))
            except Refusal as refusal:
                await self._refuse(refusal)(scope, receive, send)
                return
        await send({"type": "websocket.accept"})
        client = scope["client"]
        connection = _Connection(self, writer_of(scope), client[0] if client else "")
        try:
            if record is not None:
                connection.admit(record)
            await connection.hear(receive)
        except LimitExceeded as refusal:
            connection.finish(TOO_MANY, refusal.text)
        finally:
            connection.leave()

    def enter(self, record: KeyRecord) -> Callable[[], None]:
        """Count a connection of that key; returns the way to say it is over. Raises LimitExceeded."""
        if self._open[record.id] >= CONNECTIONS_MAX:
            raise LimitExceeded(f"more than {CONNECTIONS_MAX} connections with this key", 10.0)
        self._open[record.id] += 1

        def leave() -> None:
            self._open[record.id] -= 1
            if not self._open[record.id]:
                del self._open[record.id]

        return leave

    def check_long(self, writer: Writer, size: int) -> None:
        """Raises LimitExceeded where clients that do not read leave no room for so long an answer."""
        if size <= LONG_BYTES:
            return
        self._long = {each: waiting for each in self._long if (waiting := each.buffered()) > LONG_BYTES}
        if sum(self._long.values()) + size > LONG_WAITING_BYTES_MAX:
            raise LimitExceeded("too many long answers wait for their clients: ask for less, or use StreamPoints", 5.0)
        self._long[writer] = size


class _Said(msgspec.Struct, frozen=True):
    """What a call comes to: its result as JSON, what of it nobody has, and the streams that begin once it is answered."""

    result: bytes
    coverage: str = ""
    begun: Sequence["_Subscription"] = ()


class _Subscription:
    """One stream of a connection."""

    def __init__(self, name: str, asked: wire.Question) -> None:
        self.name, self.asked = name, asked
        self.task: asyncio.Task[None] | None = None
        self.over = False

    def end(self) -> None:
        """Say nothing more."""
        self.over = True
        if self.task is not None:
            self.task.cancel()


class _Turn:
    """Whose history is told: one subscription of a connection at a time, message by message; what is live needs none."""

    def __init__(self, lock: asyncio.Lock, *, live: bool) -> None:
        self._lock, self._live, self._mine = lock, live, False

    async def take(self) -> None:
        if not self._live:
            await self._lock.acquire()
            self._mine = True

    def give(self) -> None:
        if self._mine:
            self._mine = False
            self._lock.release()

    def live(self) -> None:
        """There is no more history: none of the others needs to wait for this one."""
        self._live = True
        self.give()


class _Connection:
    """One client: what it says, and all that is said to it."""

    def __init__(self, sockets: Sockets, writer: Writer, address: str) -> None:
        self._sockets, self._doors = sockets, sockets.doors
        self._clock = sockets.doors.clock
        self._writer, self._address = writer, address
        self._record: KeyRecord | None = None
        self._releases: list[Callable[[], None]] = []
        self._subscriptions: dict[str, _Subscription] = {}
        self._numbered = 0
        self._answering = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._flow = asyncio.Event()
        # One question at a time, and one history: no more than one answer is ever made for a client that does not read.
        self._questions, self._histories = asyncio.Lock(), asyncio.Lock()
        self._over = False
        self._turned_away = ""
        self._began_ns = self._heard_ns = self._taken_ns = self._clock.now_ns()
        self._written = self._taken = 0
        self._calls: Mapping[str, Callable[[jsonrpc.Params], Awaitable[_Said]]] = {
            "GetPoints": self._get_points,
            STREAM: self._stream_points,
            "Unsubscribe": self._unsubscribe,
            "ping": _pong,
            "public/authenticate": self._authenticate,
            "public/subscribe": self._subscribe_channels,
            "public/unsubscribe": self._unsubscribe_channels,
            **{method: self._meta_call(method) for method in FIELDS},
        }

    # -- its life

    def admit(self, record: KeyRecord) -> None:
        """Be a connection of that key. Raises LimitExceeded."""
        self._releases.append(self._sockets.enter(record))
        self._releases.append(self._doors.keys.watch(record, lambda: self.finish(NO_KEY, "the key was revoked")))
        self._record = record

    async def hear(self, receive: Receive) -> None:
        """Answer until the client leaves or is closed."""
        self._writer.limit(WAITING_BYTES_MAX)
        self._writer.relieved = self._flow.set
        self._writer.pinged = self._heard
        self._spawn(self._watch())
        rate = Rate(CLIENT_FRAMES_PER_S, CLIENT_FRAMES_BURST)
        while not self._over:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            self._heard()
            if rate.wait_s(self._clock.now_ns()):
                self.finish(POLICY, "too many frames from this client")
            elif self._answering >= FRAMES_AT_WORK_MAX:
                self.finish(TRY_LATER, "too many calls wait for their answers")
            else:
                text = message.get("text")
                self._answering += 1
                self._spawn(self._answer(jsonrpc.read(message["bytes"] if text is None else text)))

    def finish(self, code: int, reason: str) -> None:
        """Close with this code."""
        self._writer.finish(code, reason)
        self.leave()

    def leave(self) -> None:
        """Let go of everything. A second call does nothing."""
        self._over = True
        self._writer.relieved = self._writer.pinged = None
        self._subscriptions.clear()
        for task in tuple(self._tasks):
            task.cancel()
        while self._releases:
            self._releases.pop()()

    def _heard(self) -> None:
        self._heard_ns = self._clock.now_ns()

    async def _watch(self) -> None:
        """Close who shows no key, who says nothing, and who reads nothing."""
        idle_s = self._doors.idle_s
        while not self._over:
            left_s = idle_s - (self._clock.now_ns() - self._heard_ns) / NS
            await self._clock.sleep(max(0.0, min(left_s, BEAT_S)))
            now_ns = self._clock.now_ns()
            waiting = self._writer.buffered()
            if not waiting or self._written - waiting > self._taken:
                self._taken, self._taken_ns = self._written - waiting, now_ns
            if self._record is None and now_ns - self._began_ns >= AUTHENTICATE_S_MAX * NS:
                self.finish(NO_KEY, "no key was shown")
            elif now_ns - self._heard_ns >= idle_s * NS:
                self.finish(IDLE, f"nothing was heard for {idle_s:g} s: send a ping")
            elif now_ns - self._taken_ns >= STALLED_S_MAX * NS:
                self.finish(TRY_LATER, "too slow: nothing was read for half a minute")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- writing

    def _write(self, payload: bytes) -> None:
        frame = text_frame(payload)
        self._written += len(frame)
        self._writer.write(frame)

    async def _room(self) -> None:
        """Return when the client has read most of what waits for it."""
        while self._writer.choked:
            self._flow.clear()
            await self._flow.wait()

    # -- answering

    async def _answer(self, frame: jsonrpc.Frame) -> None:
        try:
            await self._room()
            if not any(
                isinstance(call, jsonrpc.Call) and METHODS.get(call.method) in QUESTIONS for call in frame.calls
            ):
                await self._answer_all(frame)
                return
            async with self._questions:
                await self._room()
                await self._answer_all(frame)
        finally:
            self._answering -= 1

    async def _answer_all(self, frame: jsonrpc.Frame) -> None:
        answers: list[bytes] = []
        begun: list[_Subscription] = []
        left = BATCH_ANSWER_BYTES_MAX
        for call in frame.calls:
            answer, more = await self._called(call, fits=left > 0)
            begun += more
            if answer:
                answers.append(answer)
                left -= len(answer)
        if answers:
            self._write(jsonrpc.batch(answers) if frame.batch else answers[0])
        if self._turned_away:
            self.finish(TOO_MANY, self._turned_away)
        # After the answer, so that a client knows a subscription before it hears of it.
        for subscription in begun:
            if not subscription.over:
                subscription.task = self._spawn(self._follow(subscription))

    async def _called(self, call: jsonrpc.Call | jsonrpc.Ill, *, fits: bool) -> tuple[bytes, Sequence[_Subscription]]:
        """The answer to one call (nothing to a notification), and the streams that begin."""
        if isinstance(call, jsonrpc.Ill):
            return jsonrpc.error(call.id, jsonrpc.failure(call.code, call.message)), ()
        method = METHODS.get(call.method, UNKNOWN)
        status, failure, said = "OK", b"", _Said(b"")
        try:
            self._check(call, method, fits=fits)
            async with asyncio.timeout(QUERY_S_MAX):
                said = await self._calls[method](call.params)
        except Refusal as refusal:
            status, failure = wire.status_of(refusal).name, failure_of(refusal)
        except TimeoutError:
            status, failure = "DEADLINE_EXCEEDED", _TOO_LATE
        except Exception:  # our own fault: nobody outside hears more of it than that
            log.exception("call failed", method=method)
            status, failure = "INTERNAL", _BROKEN
        self._sockets.calls.labels(method, status).inc()
        if not call.answered:
            return b"", said.begun
        if failure:
            return jsonrpc.error(call.id, failure), ()
        return jsonrpc.result(call.id, said.result, said.coverage), said.begun

    def _check(self, call: jsonrpc.Call, method: str, *, fits: bool) -> None:
        if self._record is None and method != "public/authenticate":
            raise Unauthenticated("unauthenticated: send x-kiyotaka-key, or call public/authenticate first")
        if method == UNKNOWN:
            raise NoMethod(f"Method not found: {jsonrpc.cut(call.method)}; there are {', '.join(self._calls)}")
        if not fits:
            raise LimitExceeded("the answers to this batch are too long: ask in several", 0.0)

    # -- calls

    async def _authenticate(self, params: jsonrpc.Params) -> _Said:
        token = jsonrpc.named(params).get("token")
        if not isinstance(token, str) or not token:
            raise Invalid("token is missing: the text of a key")
        try:
            record = wire.admitted(self._doors.keys, token)
        except Unauthenticated:
            # Whoever guesses keys is slowed down like any other caller.
            self._doors.admission.request(self._address)
            raise
        if self._record is None:
            try:
                self.admit(record)
            except LimitExceeded as refusal:
                self._turned_away = refusal.text
                raise
        elif self._record.id != record.id:
            raise Invalid("this connection belongs to another key: open one more")
        return _Said(b'{"authenticated":true}')

    async def _get_points(self, params: jsonrpc.Params) -> _Said:
        asked = wire.question(jsonrpc.request(contract.PointRequest, jsonrpc.named(params)))
        points, shape = self._sockets.points, self._sockets.shape
        parts = points.at_hand(asked)
        if parts is None:
            parts = await points.get(asked)
        told = [
            shape.series(
                part.piece,
                [
                    *(shape.cut(part.piece, cut) for cut in part.told.cuts),
                    *(shape.row(part.piece, row) for row in part.told.tail),
                ],
            )
            for part in parts
            if part.told.rows
        ]
        result = shape.response(told)
        self._sockets.check_long(self._writer, len(result))
        missing = missing_text(parts)
        return _Said(result, f"missing {missing}" if missing else "")

    def _meta_call(self, method: str) -> Callable[[jsonrpc.Params], Awaitable[_Said]]:
        async def call(params: jsonrpc.Params) -> _Said:
            asked = wire.meta_question(jsonrpc.request(contract.PointMetaRequest, jsonrpc.named(params)))
            answer = await self._sockets.meta.answer(method, asked)
            return _Said(self._sockets.shape.meta(FIELDS[method], answer))

        return call

    async def _stream_points(self, params: jsonrpc.Params) -> _Said:
        asked = wire.question(jsonrpc.request(contract.PointRequest, jsonrpc.named(params)))
        (subscription,) = begun = self._subscribed([asked])
        return _Said(msgspec.json.encode({"subscription": subscription.name}), begun=begun)

    async def _unsubscribe(self, params: jsonrpc.Params) -> _Said:
        name = jsonrpc.named(params).get("subscription")
        if not isinstance(name, str):
            raise Invalid("subscription is missing: the text that StreamPoints answered with")
        subscription = self._subscriptions.pop(name, None)
        if subscription is None:
            raise Unknown("there is no such subscription on this connection")
        subscription.end()
        return _Said(msgspec.json.encode({"subscription": name}))

    async def _subscribe_channels(self, params: jsonrpc.Params) -> _Said:
        named = jsonrpc.named(params)
        if named.get("compression", "none") != "none":
            raise Invalid('compression is "none": nothing else is offered')
        begun = self._subscribed([question_of(channel) for channel in _channels(named)])
        return _Said(msgspec.json.encode({"subscriptions": [each.name for each in begun]}), begun=begun)

    async def _unsubscribe_channels(self, params: jsonrpc.Params) -> _Said:
        asked = [question_of(channel) for channel in _channels(jsonrpc.named(params))]
        ended = [each for each in self._subscriptions.values() if each.asked in asked]
        for subscription in ended:
            del self._subscriptions[subscription.name]
            subscription.end()
        return _Said(msgspec.json.encode({"subscriptions": [each.name for each in ended]}))

    def _subscribed(self, asked: Sequence[wire.Question]) -> Sequence[_Subscription]:
        """All of them or none. Raises LimitExceeded."""
        if len(self._subscriptions) + len(asked) > SUBSCRIPTIONS_MAX:
            raise LimitExceeded(f"a connection may have {SUBSCRIPTIONS_MAX} subscriptions", 0.0)
        begun: list[_Subscription] = []
        for each in asked:
            self._numbered += 1
            subscription = _Subscription(str(self._numbered), each)
            self._subscriptions[subscription.name] = subscription
            begun.append(subscription)
        return begun

    # -- streams

    async def _follow(self, subscription: _Subscription) -> None:
        """Tell a stream until it is over; the last word says so, or what went wrong."""
        last = b'"done":true'
        try:
            await self._tell(subscription)
        except Refusal as refusal:
            last = b'"error":%b' % failure_of(refusal)
        except Exception:  # as above
            log.exception("stream failed")
            last = b'"error":%b' % _BROKEN
        await self._room()
        self._notify(subscription, last)
        self._subscriptions.pop(subscription.name, None)

    async def _tell(self, subscription: _Subscription) -> None:
        asked = subscription.asked
        turn = _Turn(self._histories, live=asked.window(0) is None)
        leash = Leash()

        def live() -> None:
            turn.live()
            missing = missing_text(leash.holes)
            if missing:
                self._notify(subscription, b'"coverage":%b' % msgspec.json.encode(f"missing {missing}"))

        leash.live = live
        stream = self._sockets.points.stream(asked, self._sockets.shape, leash, rows_max=MESSAGE_ROWS_MAX)
        async with aclosing(stream):
            try:
                while True:
                    await turn.take()
                    # Before it is made: nothing waits here for a client that does not read.
                    await self._room()
                    message = await anext(stream, None)
                    if message is None:
                        return
                    self._notify(subscription, b'"result":%b' % message)
                    turn.give()
            finally:
                turn.give()

    def _notify(self, subscription: _Subscription, what: bytes) -> None:
        self._write(jsonrpc.notification(STREAM, b'{"subscription":"%b",%b}' % (subscription.name.encode(), what)))


class NoMethod(Unsupported):
    """No method of that name."""


def failure_of(refusal: Refusal) -> bytes:
    """No, in JSON-RPC's way: the number of the gRPC status from -32000 down, and its name."""
    status = wire.status_of(refusal)
    if isinstance(refusal, Unauthenticated):
        code = UNAUTHENTICATED
    elif isinstance(refusal, NoMethod):
        code = jsonrpc.METHOD_NOT_FOUND
    elif isinstance(refusal, Invalid):
        code = jsonrpc.INVALID_PARAMS
    else:
        code = _code_of(status)
    return jsonrpc.failure(code, refusal.text, status.name)


def question_of(channel: Any) -> wire.Question:
    """What a channel of the house style means: its points as they come. Raises Invalid."""
    if not isinstance(channel, dict):
        raise Invalid("a channel is an object: {type, exchange, symbol, category}")
    kind = channel.get("type")
    if isinstance(kind, str) and kind not in contract.TYPES and f"{kind}_AGG" in contract.TYPES:
        # LIQUIDATION, FUNDING_RATE and OPEN_INTEREST are told by the minute here.
        kind = f"{kind}_AGG"
    category = channel.get("category")
    params = {
        "type": [kind],
        "exchange": _one(channel.get("exchange")),
        "rawSymbol": _one(channel.get("symbol")),
        "category": _one(category if category != ANY else None),
        "interval": channel.get("batchInterval", channel.get("interval", "MINUTE")),
    }
    return wire.question(jsonrpc.request(contract.PointRequest, params))


def _channels(params: Mapping[str, Any]) -> Sequence[Any]:
    channels = params.get("channels")
    if not isinstance(channels, list) or not channels:
        raise Invalid("channels is missing: a list of {type, exchange, symbol, category}")
    return channels


def _one(value: Any) -> list[Any]:
    return [] if value is None else [value]


async def _pong(params: jsonrpc.Params) -> _Said:
    del params
    return _Said(b'"pong"')


def _code_of(status: grpc.StatusCode) -> int:
    number: int = status.value[0]
    return FAILED - number


_BROKEN = jsonrpc.failure(jsonrpc.INTERNAL_ERROR, "Internal error")
_TOO_LATE = jsonrpc.failure(
    _code_of(grpc.StatusCode.DEADLINE_EXCEEDED),
    f"the answer took more than {QUERY_S_MAX:.0f} s",
    grpc.StatusCode.DEADLINE_EXCEEDED.name,
)
