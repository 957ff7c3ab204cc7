"""agent-k's candles and the frames of its socket: their shapes, and the translation into them.

    [1736936400000,101621.7,101958.9,101619.9,101818.8,1274.153]
    {"op":"event","channel":"market.BTC.1m","ts":1736936431250,"data":{"event":"kline_update","source":"binance","symbol":"BTC",
     "interval":"1m","ts":1736936400000,"open":101621.7,"high":101958.9,"low":101619.9,"close":101818.8,"volume":1274.153,
     "is_closed":false}}
    {"op":"error","code":"unknown_op","message":"there is no op 'x'","ts":1736936431250}

Times are milliseconds since 1970 UTC. Numbers of candles are the decimals that are stored, digit by digit.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec

from openoutcry.api.agentk.names import Asked
from openoutcry.events import NS, Candle
from openoutcry.instrument import Instrument

MS = 1_000_000
VERSION = 1
STRETCHES_SHOWN = 20
TS_BYTES_MAX = 64
NO_JSON = "the frame is not JSON"

Millis = Annotated[int, msgspec.Meta(ge=0, description="Milliseconds since 1970 UTC")]
ChannelName = Annotated[str, msgspec.Meta(description="market.{SYMBOL}.{INTERVAL}", examples=["market.BTC.1m"])]
Bar = Annotated[
    Sequence[float],
    msgspec.Meta(
        min_length=6, max_length=6, description="Open time in ms, open, high, low, close, volume in base coins"
    ),
]
Stretch = Annotated[Sequence[Millis], msgspec.Meta(min_length=2, max_length=2)]
ErrorCode = Literal["bad_json", "bad_request", "unknown_op", "unknown_channel", "too_many_channels", "unavailable"]


class Welcome(msgspec.Struct, frozen=True, tag_field="op", tag="welcome"):
    """The first frame of a connection."""

    version: int
    heartbeat_interval_ms: int
    ts: Millis


class Subscribed(msgspec.Struct, frozen=True, tag_field="op", tag="subscribed"):
    """Channels that are followed from now on, as they were sent; those of the op that are not here are in an error."""

    channels: Sequence[ChannelName]
    ts: Millis


class Unsubscribed(msgspec.Struct, frozen=True, tag_field="op", tag="unsubscribed"):
    """Channels of which nothing comes any more, as they were sent."""

    channels: Sequence[ChannelName]
    ts: Millis


class Snapshot(msgspec.Struct, frozen=True, tag_field="op", tag="snapshot", omit_defaults=True):
    """The newest bars of a channel, oldest first, the growing one last; once for each, before its events.

    `missing`: stretches [start, end) inside it that nobody has.
    """

    channel: ChannelName
    data: Annotated[Sequence[Bar], msgspec.Meta(max_length=50)]
    missing: Sequence[Stretch] = ()


class KlineUpdate(msgspec.Struct, frozen=True, tag_field="event", tag="kline_update"):
    """A bar that grew, or that closed: once for each, and then the next one."""

    source: str
    symbol: str
    interval: str
    ts: Annotated[Millis, msgspec.Meta(description="Open time of the bar")]
    open: float
    high: float
    low: float
    close: float
    volume: float
    is_closed: bool


class Event(msgspec.Struct, frozen=True, tag_field="op", tag="event"):
    """What happened on a channel."""

    channel: ChannelName
    ts: Millis
    data: KlineUpdate


class Ping(msgspec.Struct, frozen=True, tag_field="op", tag="ping"):
    """Answer with a pong; three that are not answered close the connection."""

    ts: Millis


class Pong(msgspec.Struct, frozen=True, tag_field="op", tag="pong"):
    """The answer to a client's ping, with the `ts` of that, or else our time."""

    ts: float | str


class Error(msgspec.Struct, frozen=True, tag_field="op", tag="error"):
    """A frame that was not done; the connection lives."""

    code: ErrorCode
    message: str
    ts: Millis


SERVER_FRAMES = (Welcome, Subscribed, Unsubscribed, Snapshot, Event, Ping, Pong, Error)


class Subscribe(msgspec.Struct, frozen=True, tag_field="op", tag="subscribe"):
    """Follow these channels."""

    channels: Annotated[Sequence[ChannelName], msgspec.Meta(min_length=1)]


class Unsubscribe(msgspec.Struct, frozen=True, tag_field="op", tag="unsubscribe"):
    """Follow these no more."""

    channels: Annotated[Sequence[ChannelName], msgspec.Meta(min_length=1)]


# Echoed as it was spelled, so it is not read.
Echo = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": ["number", "string", "null"]})]


class ClientPing(msgspec.Struct, frozen=True, tag_field="op", tag="ping"):
    """Is answered with a pong that has the same `ts`, a number or text of 64 bytes at most."""

    ts: Echo | msgspec.UnsetType = msgspec.UNSET


class ClientPong(msgspec.Struct, frozen=True, tag_field="op", tag="pong"):
    """The answer to a ping of the server."""

    ts: Echo | msgspec.UnsetType = msgspec.UNSET


CLIENT_FRAMES = (Subscribe, Unsubscribe, ClientPing, ClientPong)
Said = Subscribe | Unsubscribe | ClientPing | ClientPong

encode = msgspec.json.Encoder().encode

_OPS: dict[str, type[Said]] = {str(frame.__struct_config__.tag): frame for frame in CLIENT_FRAMES}


class Misread(Exception):
    """A client's frame that cannot be done, and the error that says so."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class _Head(msgspec.Struct):
    op: str


def read(frame: str | bytes) -> Said:
    """What a client says. Raises Misread."""
    try:
        op = msgspec.json.decode(frame, type=_Head).op
        kind = _OPS.get(op)
        if kind is None:
            raise Misread("unknown_op", f"there is no op '{op[:32]}': there are {', '.join(_OPS)}")
        said: Said = msgspec.json.decode(frame, type=kind)
    except msgspec.ValidationError as e:
        # It is said at the first thing that is wrong, behind which there may be no JSON.
        if _is_json(frame):
            raise Misread("bad_request", str(e)) from e
        raise Misread("bad_json", NO_JSON) from e
    # A frame may be nested deeper than a parser goes.
    except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
        raise Misread("bad_json", NO_JSON) from e
    return said


def _is_json(frame: str | bytes) -> bool:
    try:
        msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def pong(ping: ClientPing, now_ms: int) -> bytes:
    """The answer to a client's ping, with its own `ts` as it spelled it. Raises Misread."""
    raw = b"" if ping.ts is msgspec.UNSET else bytes(ping.ts)
    if raw in (b"", b"null"):
        raw = b"%d" % now_ms
    if len(raw) > TS_BYTES_MAX or raw[:1] not in b'-0123456789"':
        raise Misread("bad_request", f"ts is a number or a text, of {TS_BYTES_MAX} bytes at most")
    return b'{"op":"pong","ts":%b}' % raw


def row(candle: Candle) -> bytes:
    """A candle as a row."""
    return b"[%d,%b]" % (candle.open_ns // MS, _numbers(candle, "%s,%s,%s,%s,%s"))


def rows(candles: Iterable[Candle]) -> bytes:
    """Candles as a list of rows."""
    return b"[" + b",".join(map(row, candles)) + b"]"


def snapshot(channel: bytes, body: bytes, missing: Sequence[tuple[int, int]] = ()) -> bytes:
    """The snapshot of a channel, whose name and rows are JSON already."""
    holes = b',"missing":%b' % encode([(start // MS, end // MS) for start, end in missing]) if missing else b""
    return b'{"op":"snapshot","channel":%b,"data":%b%b}' % (channel, body, holes)


def event_head(channel: bytes) -> bytes:
    """How the events of a channel begin, whose name is JSON already."""
    return b'{"op":"event","channel":%b,"ts":' % channel


class Events:
    """Events of one series, without their beginning, which names the channel as each follower spelled it."""

    def __init__(self, asked: Asked) -> None:
        self._head = b',"data":{"event":"kline_update","source":%b,"symbol":%b,"interval":%b,"ts":' % tuple(
            map(encode, (asked.instrument.venue, asked.symbol, asked.interval))
        )

    def tail(self, candle: Candle, now_ns: int) -> bytes:
        """What follows `event_head`."""
        numbers = _numbers(candle, '"open":%s,"high":%s,"low":%s,"close":%s,"volume":%s')
        closed = b"true" if candle.closed else b"false"
        return b'%d%b%d,%b,"is_closed":%b}}' % (now_ns // MS, self._head, candle.open_ns // MS, numbers, closed)


def _numbers(candle: Candle, form: str) -> bytes:
    # What a Decimal prints is a number in JSON as well.
    return (form % (candle.open, candle.high, candle.low, candle.close, candle.volume)).encode()


def missing_text(instrument: Instrument, interval: str, missing: Sequence[tuple[int, int]]) -> str:
    """Stretches that nobody has, for the header Openoutcry-Coverage: `INSTRUMENT INTERVAL start-end` in Unix seconds."""
    of = f"{instrument.name} {interval}"
    shown = [f"{of} {start_ns // NS}-{end_ns // NS}" for start_ns, end_ns in missing[:STRETCHES_SHOWN]]
    if len(missing) > STRETCHES_SHOWN:
        shown.append("...")
    return f"missing {'; '.join(shown)}"
