"""TAKASHI over WebSocket: one stream a connection, whose first frame is data.

    /ws/{exchange}/{symbol}/ohlc?interval=1m        /ws/all/liquidations?min_value_usd=5000
    /ws/{exchange}/{symbol}/large_trades            /ws/all/large_trades?min_value_usd=100000
    /ws/{exchange}/{symbol}/liquidations            /ws/oi-vol?timeframes=5m,15m,1h

What is asked wrongly is accepted and closed with 1008 and the reason, because a browser cannot read a refused handshake.
A client may send {"op":"ping"} and gets {"op":"pong"}; whatever else it sends is read and dropped.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import parse_qs

import msgspec
from starlette.routing import WebSocketRoute
from starlette.types import Message, Receive, Send

from openoutcry.accounts.keys import MARKET
from openoutcry.accounts.rates import Rate
from openoutcry.api.credentials import credential
from openoutcry.api.dialect import Doors, Scope
from openoutcry.api.frames import POLICY, TRY_LATER, Writer, text_frame, writer_of
from openoutcry.api.push import Every, Newest, Stop
from openoutcry.api.takashi import wire
from openoutcry.api.takashi.names import (
    EXCHANGES,
    INTERVALS,
    TIMEFRAME_OF,
    TIMEFRAMES,
    Asked,
    ask_for,
    exchange_of,
    seconds_of,
)
from openoutcry.errors import Forbidden, Invalid, LimitExceeded, Refusal, Unavailable, UnknownVenue, Unsupported
from openoutcry.events import Candle, Liquidation, Spike, Trade
from openoutcry.venues.venue import Feed

STREAMS = ("ohlc", "large_trades", "liquidations")
LIQUIDATION_EXCHANGES = ("binance", "okx", "bybit")
TRADE_EXCHANGES = ("binance", "bybit", "hyperliquid")
QUERY_BYTES_MAX = 2_048
CLIENT_FRAMES_PER_S = 10.0
CLIENT_FRAMES_BURST = 100

_PONG = text_frame(b'{"op":"pong"}')


class _Heard(msgspec.Struct):
    op: str


class Streams:
    """All streams of the dialect: what a client asks for becomes a channel, and one source serves all its followers."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._market = doors.market
        self._push = doors.push

    def routes(self) -> Sequence[WebSocketRoute]:
        """The paths."""
        return [
            WebSocketRoute("/ws/all/liquidations", _Endpoint(self._doors, self._all_liquidations)),
            WebSocketRoute("/ws/all/large_trades", _Endpoint(self._doors, self._all_large_trades)),
            WebSocketRoute("/ws/oi-vol", _Endpoint(self._doors, self._spikes)),
            WebSocketRoute("/ws/{exchange}/{symbol}/{stream}", _Endpoint(self._doors, self._per_exchange)),
        ]

    async def _per_exchange(self, path: dict[str, str], query: dict[str, str], writer: Writer) -> Stop:
        exchange = exchange_of(path["exchange"])
        venue = EXCHANGES[exchange]
        stream = path["stream"]
        if stream not in STREAMS:
            raise Unsupported(f"Invalid stream: {stream[:32]}")
        if venue not in self._market.venues():
            raise UnknownVenue(f"{exchange} is switched off on this server")
        if stream == "liquidations" and Feed.LIQUIDATIONS not in self._market.feeds(venue):
            raise Unsupported(f"{exchange} doesn't support liquidations")
        interval = query.get("interval", "1m")
        interval_s = seconds_of(interval, INTERVALS) if stream == "ohlc" else 0
        asked = await ask_for(self._market, exchange, path["symbol"])
        if stream == "ohlc":
            return self._follow_candles(asked, interval, interval_s, writer)
        if stream == "large_trades":
            return self._follow_trades(asked, writer)
        return self._follow_liquidations(asked, writer)

    def _follow_candles(self, asked: Asked, interval: str, interval_s: int, writer: Writer) -> Stop:
        def begin() -> tuple[Newest, Stop]:
            channel = self._push.newest()

            def hear(candle: Candle) -> None:
                channel.send(wire.encode(wire.ohlc(asked, interval, candle)), candle.open_ns)

            return channel, self._market.follow_candles(asked.instrument, interval_s, hear)

        return self._push.join(("takashi", "ohlc", asked, interval), writer, begin)

    def _follow_trades(self, asked: Asked, writer: Writer) -> Stop:
        least_usd = self._doors.large_trade_usd

        def begin() -> tuple[Every, Stop]:
            channel = self._push.every()

            def hear(trade: Trade) -> None:
                if wire.worth(trade) >= least_usd:
                    channel.send(wire.large_trade(asked.exchange, asked.symbol, trade))

            release = self._doors.follow(asked.instrument, (Feed.TRADES,))
            return channel, _both(self._doors.bus.listen(Trade, hear, asked.instrument.name), release)

        return self._push.join(("takashi", "large_trades", asked), writer, begin)

    def _follow_liquidations(self, asked: Asked, writer: Writer) -> Stop:
        def begin() -> tuple[Every, Stop]:
            channel = self._push.every()

            def hear(event: Liquidation) -> None:
                channel.send(wire.liquidation(asked.exchange, asked.symbol, event))

            release = self._doors.follow(asked.instrument, (Feed.LIQUIDATIONS,))
            return channel, _both(self._doors.bus.listen(Liquidation, hear, asked.instrument.name), release)

        return self._push.join(("takashi", "liquidations", asked), writer, begin)

    async def _all_liquidations(self, _path: dict[str, str], query: dict[str, str], writer: Writer) -> Stop:
        least_usd = _least_usd(query, self._doors.liquidations_usd_default)

        def begin() -> tuple[Every, Stop]:
            channel = self._push.every(_worth_it)

            def hear(event: Liquidation) -> None:
                name = wire.named(event.instrument)
                value = wire.worth(event)
                if name is not None and name[0] in LIQUIDATION_EXCHANGES and channel.wanted(value):
                    channel.send(wire.liquidation(*name, event), value)

            return channel, self._doors.bus.listen(Liquidation, hear)

        return self._push.join(("takashi", "all", "liquidations"), writer, begin, least_usd)

    async def _all_large_trades(self, _path: dict[str, str], query: dict[str, str], writer: Writer) -> Stop:
        least_usd = _least_usd(query, self._doors.large_trades_usd_default)

        def begin() -> tuple[Every, Stop]:
            channel = self._push.every(_worth_it)

            def hear(trade: Trade) -> None:
                value = wire.worth(trade)
                if not channel.wanted(value):
                    return
                name = wire.named(trade.instrument)
                if name is not None and name[0] in TRADE_EXCHANGES:
                    channel.send(wire.large_trade(*name, trade), value)

            return channel, self._doors.bus.listen(Trade, hear)

        return self._push.join(("takashi", "all", "large_trades"), writer, begin, least_usd)

    async def _spikes(self, _path: dict[str, str], query: dict[str, str], writer: Writer) -> Stop:
        frames = [name.strip() for name in query.get("timeframes", ",".join(TIMEFRAMES)).split(",")]
        wanted = frozenset(seconds_of(name, TIMEFRAMES, "timeframe") for name in frames)

        def begin() -> tuple[Every, Stop]:
            channel = self._push.every(_within)

            def hear(event: Spike) -> None:
                name = wire.named(event.instrument)
                if name is not None and event.interval_s in TIMEFRAME_OF and channel.wanted(event.interval_s):
                    channel.send(wire.spike(*name, event), event.interval_s)

            return channel, self._doors.bus.listen(Spike, hear)

        return self._push.join(("takashi", "oi-vol"), writer, begin, wanted)

    def catalog(self) -> dict[str, Any]:
        """What `/ws-catalog` says."""
        least = {"min_value_usd": "float, smallest value in USD; default {}"}
        here = "ws://localhost:8000"
        return {
            "per_exchange_pattern": "/ws/{exchange}/{symbol}/{stream}",
            "streams": {
                "ohlc": "Candles as they grow and close; query: interval (default 1m)",
                "large_trades": f"Trades of at least {self._doors.large_trade_usd:,.0f} USD",
                "liquidations": "Forced closes; not on hyperliquid",
            },
            "aggregated": [
                {
                    "path": "/ws/all/liquidations",
                    "query": {k: v.format(f"{self._doors.liquidations_usd_default:f}") for k, v in least.items()},
                    "description": "Liquidations of Binance, OKX and Bybit",
                },
                {
                    "path": "/ws/all/large_trades",
                    "query": {k: v.format(f"{self._doors.large_trades_usd_default:f}") for k, v in least.items()},
                    "description": "Large trades of Binance, Bybit and Hyperliquid",
                },
                {
                    "path": "/ws/oi-vol",
                    "query": {"timeframes": "comma list of 5m, 15m, 1h; default all three"},
                    "description": "Open interest and volume spikes on Binance",
                },
            ],
            "examples": [
                f"{here}/ws/binance/BTCUSDT/ohlc?interval=1m",
                f"{here}/ws/bybit/ETHUSDT/large_trades",
                f"{here}/ws/binance/BTCUSDT/liquidations",
                f"{here}/ws/all/liquidations?min_value_usd=50000",
                f"{here}/ws/oi-vol?timeframes=5m,15m",
            ],
        }


Follow = Callable[[dict[str, str], dict[str, str], Writer], Any]


class _Endpoint:
    """One path: accept, follow, hear what the client says until it leaves, let go."""

    def __init__(self, doors: Doors, follow: Follow) -> None:
        self._doors = doors
        self._clock = doors.clock
        self._follow = follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        writer = writer_of(scope)
        with ExitStack() as stops:
            try:
                stops.callback(self._admitted(scope, writer))
                stops.callback(await self._follow(scope["path_params"], _query(scope), writer))
            except Refusal as refusal:
                writer.finish(_code(refusal), wire.text_of(refusal))
                return
            await self._hear(receive, writer)

    def _admitted(self, scope: Scope, writer: Writer) -> Stop:
        """Who follows, where a key is asked for; returns the way to forget him. Raises Unauthenticated, Forbidden."""
        if not self._doors.takashi_locked:
            return _nothing
        record = self._doors.keys.authenticate(credential(scope, in_query=True))
        if MARKET not in record.scopes:
            raise Forbidden(f"the key lacks the scope {MARKET}")
        return self._doors.keys.watch(record, lambda: writer.finish(POLICY, "the key was revoked"))

    async def _hear(self, receive: Receive, writer: Writer) -> None:
        rate = Rate(CLIENT_FRAMES_PER_S, CLIENT_FRAMES_BURST)
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            if rate.wait_s(self._clock.now_ns()):
                writer.finish(POLICY, "too many frames from this client")
                return
            if _is_ping(message):
                writer.write(_PONG)


def _nothing() -> None:
    """Nobody is watched."""


def _is_ping(message: Message) -> bool:
    raw = message.get("text") or message.get("bytes")
    if not raw:
        return False
    try:
        return msgspec.json.decode(raw, type=_Heard).op == "ping"
    except (msgspec.MsgspecError, UnicodeError):
        return False


def _query(scope: Scope) -> dict[str, str]:
    raw = scope["query_string"]
    if len(raw) > QUERY_BYTES_MAX:
        raise Invalid(f"a query may have {QUERY_BYTES_MAX} bytes")
    return {name: values[-1] for name, values in parse_qs(raw.decode("latin-1"), keep_blank_values=True).items()}


def _least_usd(query: dict[str, str], default: Decimal) -> Decimal:
    text = query.get("min_value_usd")
    if text is None:
        return default
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0 or len(text) > 32:
        raise Invalid(f"min_value_usd '{text[:32]}' is not a number from 0")
    return value


def _worth_it(least: Decimal, value: Decimal) -> bool:
    return value >= least


def _within(wanted: frozenset[int], interval_s: int) -> bool:
    return interval_s in wanted


def _code(refusal: Refusal) -> int:
    return TRY_LATER if isinstance(refusal, LimitExceeded | Unavailable) else POLICY


def _both(first: Stop, second: Stop) -> Stop:
    def stop() -> None:
        first()
        second()

    return stop
