"""Kraken spot: frames in, events out.

https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/trade

    {"channel": "trade", "type": "update", "data": [{"symbol": "BTC/USD", "side": "sell", "price": 64003.2, "qty": 0.0412,
        "ord_type": "market", "trade_id": 4665906, "timestamp": "2023-09-25T07:49:37.708706Z"}]}
    {"channel": "ohlc", "type": "update", "timestamp": "2023-10-04T16:26:30.524394Z", "data": [{"symbol": "ALGO/USD", "open":
        0.09875, "high": 0.0988, "low": 0.09875, "close": 0.09875, "trades": 13, "volume": 16255.46368, "vwap": 0.09879,
        "interval_begin": "2023-10-04T16:25:00.000000000Z", "interval": 1, "timestamp": "2023-10-04T16:26:00.000000Z"}]}
    {"channel": "ticker", "type": "update", "data": [{"symbol": "ALGO/USD", "bid": 0.10025, "bid_qty": 740.0, "ask": 0.10036,
        "ask_qty": 1361.44813783, "last": 0.10035, "volume": 997038.98383185, "vwap": 0.10148, ...}]}
    {"channel": "heartbeat"}
    {"channel": "status", "type": "update", "data": [{"system": "online", "api_version": "v2", ...}]}
    {"method": "subscribe", "req_id": 1, "result": {"channel": "trade", "symbol": "BTC/USD", "snapshot": true}, "success": true}
    {"method": "subscribe", "req_id": 1, "error": "Currency pair not supported FOO/BAR", "success": false, "symbol": "FOO/BAR"}
    {"method": "pong", "req_id": 0}

The frames of v1, which recordings hold, are read by kraken_v1.py; REST is in kraken_history.py.

What to beware of:
* Symbols are spelled as on this socket: BTC/USD and DOGE/USD, which REST and v1 call XBT and XDG.
* A snapshot repeats the newest 50 trades after each subscription. Ids number the trades of a pair.
* A refusal names the symbol alone: `req_id` is the channel's number, so that it names the channel too.
* A candle never says that it is closed: it is, when the next one opens. Its quote volume is volume x vwap, rounded.
* A ticker is pushed at each trade unless the best prices are asked to trigger it; old ones tell no time.
* A heartbeat comes each second when nothing else does.
* Depth is not read here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Literal

import msgspec

from openoutcry import errors
from openoutcry.events import MINUTE_S, Candle, Event, Quote, Side, Trade
from openoutcry.instrument import Instrument
from openoutcry.venues import kraken_v1
from openoutcry.venues.bounds import COIN_STEP, MS, NUMBER_MAX, ZERO, Number, candle_of_row
from openoutcry.venues.channels import AskedOnceOpen, Channel, by_channel, streams_of
from openoutcry.venues.kraken_history import NAME, KrakenHistory, Symbol
from openoutcry.venues.stamps import Stamp, ns_of
from openoutcry.venues.venue import (
    Alive,
    Feed,
    Heartbeat,
    Limits,
    Rate,
    Refused,
    Signal,
    Skipped,
    Stream,
    Subscribed,
)

STREAMS_MAX = 300
SYMBOLS_PER_SUBSCRIBE = 50
REASON_CHARS_MAX = 200
# Small pairs trade a few times a day, so nothing is called silent: heartbeats tell a dead connection.
_CHANNELS: Mapping[Feed, Channel] = {
    Feed.TRADES: ("trade", frozenset({Feed.TRADES}), None),
    Feed.CANDLES: ("ohlc", frozenset({Feed.CANDLES}), None),
    Feed.QUOTES: ("ticker", frozenset({Feed.QUOTES}), None),
}
_ASKED: Mapping[str, dict[str, Any]] = {
    "trade": {"snapshot": True},
    "ohlc": {"interval": 1, "snapshot": False},
    "ticker": {"event_trigger": "bbo", "snapshot": True},
}
_NUMBERS = {channel: number for number, channel in enumerate(_ASKED, 1)}
_NUMBERED = {number: channel for channel, number in _NUMBERS.items()}
# Looking a member up in its class costs more than comparing the side did.
_BUY, _SELL = Side.BUY, Side.SELL


class _TradeRow(msgspec.Struct, frozen=True, gc=False):
    symbol: Symbol
    side: Literal["buy", "sell"]
    price: Decimal
    size: Decimal = msgspec.field(name="qty")
    id: Number = msgspec.field(name="trade_id")
    time: Stamp = msgspec.field(name="timestamp")


class _Trades(msgspec.Struct, frozen=True, gc=False, tag_field="channel", tag="trade"):
    data: list[_TradeRow]


class _CandleRow(msgspec.Struct, frozen=True, gc=False):
    symbol: Symbol
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    trades: Number
    volume: Decimal
    vwap: Decimal
    begin: Stamp = msgspec.field(name="interval_begin")
    interval: int


class _Candles(msgspec.Struct, frozen=True, gc=False, tag_field="channel", tag="ohlc"):
    data: list[_CandleRow]


class _TickerRow(msgspec.Struct, frozen=True, gc=False):
    symbol: Symbol
    bid: Decimal | None = None
    bid_qty: Decimal | None = None
    ask: Decimal | None = None
    ask_qty: Decimal | None = None
    time: Stamp | None = msgspec.field(name="timestamp", default=None)


class _Tickers(msgspec.Struct, frozen=True, gc=False, tag_field="channel", tag="ticker"):
    data: list[_TickerRow]


class _Beat(msgspec.Struct, frozen=True, gc=False, tag_field="channel", tag="heartbeat"):
    pass


class _Status(msgspec.Struct, frozen=True, gc=False, tag_field="channel", tag="status"):
    pass


class _Taken(msgspec.Struct, frozen=True):
    channel: str = ""
    symbol: str = ""


class _Head(msgspec.Struct):
    """Every frame, for what is none of the shapes above."""

    channel: str = ""
    method: str = ""
    event: str = ""
    success: bool = True
    result: _Taken | None = None
    error: str = ""
    symbol: str = ""
    req_id: int | None = None


_SHAPES: tuple[type[Any], ...] = (_Trades, _Candles, _Tickers, _Beat, _Status)
_KNOWN = frozenset(shape.__struct_config__.tag for shape in _SHAPES)
_Said = Sequence[Event | Signal]
_frame = msgspec.json.Decoder(_Trades | _Candles | _Tickers | _Beat | _Status).decode
_head = msgspec.json.Decoder(_Head).decode


class Kraken(AskedOnceOpen, KrakenHistory):
    """All pairs on one socket."""

    sockets: Mapping[str, str] = {"ws": "wss://ws.kraken.com/v2"}
    limits = Limits(
        streams_per_connection=STREAMS_MAX,
        streams_per_subscribe=SYMBOLS_PER_SUBSCRIBE,
        messages=Rate(50, 1.0),
        connections=Rate(150, 600.0),
        lifetime_s=86_400.0,
        weights={"public": Rate(1, 1.0)},
        heartbeat=Heartbeat(30.0, b'{"method":"ping","req_id":0}'),
        silence_s=30.0,
        trade_ids="one",
        quiet_candles="omitted",
        quote_estimated=True,
    )
    feeds = frozenset(_CHANNELS)

    def __init__(self) -> None:
        super().__init__()
        self._growing: dict[str, Candle] = {}
        self._says: dict[type[Any], Callable[[Any, int], _Said]] = {
            _Trades: self._trades,
            _Candles: self._candles,
            _Tickers: self._tickers,
            _Beat: _alive,
            _Status: _alive,
        }

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing. What grows of a pair that is gone is forgotten, so that the memory is as long as the listing."""
        super().learn(instruments)
        self._growing = {symbol: candle for symbol, candle in self._growing.items() if symbol in self._names}

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """One channel and pair each."""
        return streams_of(NAME, _CHANNELS, feed, symbols)

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        """Frames of one channel and SYMBOLS_PER_SUBSCRIBE pairs each."""
        method = "unsubscribe" if undo else "subscribe"
        return [
            msgspec.json.encode(
                {
                    "method": method,
                    "params": {"channel": channel, "symbol": symbols, **_ASKED[channel]},
                    "req_id": _NUMBERS[channel],
                }
            )
            for channel, symbols in by_channel(streams, SYMBOLS_PER_SUBSCRIBE)
        ]

    def reset(self, endpoint: str) -> None:  # noqa: ARG002 - there is one
        """Forget the growing candles: what they became while we were away is not known."""
        self._growing.clear()

    def decode(self, frame: bytes, received_ns: int) -> _Said:
        """What one frame says. Raises Unreadable."""
        try:
            if frame[:1] == b"[":
                return kraken_v1.read(frame, self._names, received_ns)
            data = _frame(frame)
            return self._says[type(data)](data, received_ns)
        except msgspec.ValidationError as e:
            return _uncommon(frame, e)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", frame) from e

    def _trades(self, told: _Trades, received_ns: int) -> _Said:
        said: list[Event | Signal] = []
        for row in told.data:
            name = self._names.get(row.symbol)
            if name is None:
                said.append(Skipped("unknown_instrument", row.symbol))
                continue
            price, size, number = row.price, row.size, row.id
            if not (ZERO < price < NUMBER_MAX and ZERO < size < NUMBER_MAX):
                raise ValueError("price or size out of range")
            side = _BUY if row.side == "buy" else _SELL
            said.append(Trade(name, ns_of(row.time), received_ns, number, number, side, price, size))
        return said

    def _candles(self, told: _Candles, received_ns: int) -> _Said:
        said: list[Event | Signal] = []
        for row in told.data:
            name = self._names.get(row.symbol)
            if name is None:
                said.append(Skipped("unknown_instrument", row.symbol))
            elif row.interval * 60 != MINUTE_S:
                said.append(Skipped("interval", str(row.interval)))
            else:
                said += self._grow(row.symbol, _candle(name, row, received_ns))
        return said

    def _grow(self, symbol: str, candle: Candle) -> _Said:
        last = self._growing.get(symbol)
        if last is not None and candle.open_ns < last.open_ns:
            # An older one again: the venue corrected it after the next had opened.
            return (msgspec.structs.replace(candle, closed=True),)
        self._growing[symbol] = candle
        if last is not None and last.open_ns < candle.open_ns:
            return (msgspec.structs.replace(last, closed=True, received_ns=candle.received_ns), candle)
        return (candle,)

    def _tickers(self, told: _Tickers, received_ns: int) -> _Said:
        said: list[Event | Signal] = []
        for row in told.data:
            name = self._names.get(row.symbol)
            if name is None:
                said.append(Skipped("unknown_instrument", row.symbol))
                continue
            event_ns = received_ns if row.time is None else ns_of(row.time)
            bid, ask = _side(row.bid, row.bid_qty), _side(row.ask, row.ask_qty)
            said.append(Quote(name, event_ns, received_ns, *bid, *ask))
        return said


def _candle(name: str, row: _CandleRow, received_ns: int) -> Candle:
    worth = (row.volume * row.vwap).quantize(COIN_STEP, ROUND_HALF_EVEN)
    told = (ns_of(row.begin) // MS, row.open, row.high, row.low, row.close, row.volume, worth)
    candle = candle_of_row(name, MINUTE_S, told, received_ns, closed=False)
    return msgspec.structs.replace(candle, trades=row.trades)


def _side(price: Decimal | None, size: Decimal | None) -> tuple[Decimal | None, Decimal | None]:
    """An empty side is zeros, null, or left out."""
    if not price or not size:
        return None, None
    if not (ZERO < price < NUMBER_MAX and ZERO < size < NUMBER_MAX):
        raise ValueError("quote out of range")
    return price, size


def _alive(_data: _Beat | _Status, _received_ns: int) -> _Said:
    return (Alive(),)


def _uncommon(frame: bytes, e: msgspec.ValidationError) -> _Said:
    """An answer, another channel, or a frame that is not what the venue documents."""
    try:
        head = _head(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise errors.Unreadable(str(e), frame) from e
    if head.channel and head.channel not in _KNOWN:
        return (Skipped("unknown_channel", head.channel[:REASON_CHARS_MAX]),)
    if head.channel or not (head.method or head.event):
        raise errors.Unreadable(str(e), frame) from e
    channel = _NUMBERED.get(head.req_id or 0, "")
    if not head.success:
        name = f"{channel}:{head.symbol}" if channel and head.symbol else None
        return (Refused(name, head.error[:REASON_CHARS_MAX]),) if head.method == "subscribe" else (Alive(),)
    if head.method == "subscribe" and head.result is not None:
        return (Subscribed((f"{head.result.channel}:{head.result.symbol}",)),)
    # A pong, `unsubscribe`, and what v1 says beside its arrays.
    return (Alive(),)
