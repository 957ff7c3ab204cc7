"""Deribit: perpetuals, dated futures and options on one socket: frames in, events out.

https://docs.deribit.com/subscriptions/market-data/tradesinstrument_nameinterval

    {"jsonrpc": "2.0", "method": "subscription", "params": {"channel": "trades.BTC-PERPETUAL.100ms", "data": [
        {"trade_seq": 30289442, "trade_id": "48079269", "timestamp": 1590484512188, "tick_direction": 2, "price": 8950.0,
         "mark_price": 8948.9, "instrument_name": "BTC-PERPETUAL", "index_price": 8955.88, "direction": "sell",
         "amount": 10.0, "contracts": 1.0, "liquidation": "T"}]}}
    {..., "params": {"channel": "ticker.BTC-PERPETUAL.100ms", "data": {"timestamp": 1623060194301, "instrument_name":
        "BTC-PERPETUAL", "mark_price": 36446.51, "index_price": 36441.64, "open_interest": 502097590, "current_funding":
        0.0, "funding_8h": 0.00002203, "best_bid_price": 36442.5, "best_bid_amount": 5000, "best_ask_price": 36443.0,
        "best_ask_amount": 100, ...}}}
    {..., "params": {"channel": "chart.trades.BTC-PERPETUAL.1", "data": {"tick": 1573645080000, "open": 8791.25, "high":
        8791.25, "low": 8788.5, "close": 8789.0, "volume": 0.05219351, "cost": 460}}}
    {..., "params": {"channel": "book.BTC-PERPETUAL.100ms", "data": {"type": "change", "timestamp": 1554373911330,
        "instrument_name": "BTC-PERPETUAL", "prev_change_id": 297217, "change_id": 297218, "bids": [["delete", 5041.94,
        0.0]], "asks": [["new", 5042.34, 40.0]]}}}
    {"jsonrpc": "2.0", "id": 7, "result": ["trades.BTC-PERPETUAL.100ms"], "usIn": ..., "usOut": ..., "usDiff": 581}
    {"jsonrpc": "2.0", "method": "heartbeat", "params": {"type": "test_request"}}

REST is in deribit_history.py.

What to beware of:
* Amounts of inverse contracts (BTC-PERPETUAL, BTC-25DEC26) are dollars, of linear ones (SOL_USDC-PERPETUAL) and of options
  coins; `contracts` beside them counts something else, and is not needed. Open interest and books count as trades do.
* An option's price is its premium, in the coin where its name holds no quote.
* `direction` is the taker's. A liquidation is a trade with a flag: `T` says that the taker was liquidated, `M` the maker,
  whose order is the other way round, `MT` both.
* `trade_seq` is without holes within an instrument. Block trades and legs of combos are numbered among the others and move
  `tick_direction` and the last price like them: they count. The combos themselves are instruments of their own, which are
  not listed here: a frame about one is skipped.
* Funding is paid all the time. `current_funding` is the rate for eight hours at its present pace; told is an eighth of it,
  due at the full hour, so that it agrees with the hourly rates of the past.
* A candle has no closed flag: it is given as closed when the next one opens. A minute without a trade is told flat. In what
  the `cost` of an option's is told is not said, so that options have none streamed.
* Channels that the venue does not know are left out of the answer, which is no error.
* `.raw` needs a login. After `set_heartbeat` the venue cuts who leaves a `test_request` unanswered.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from openoutcry import errors
from openoutcry.events import Candle, DepthDelta, DepthSnapshot, Event
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues.bounds import MS, ZERO, Number, TimeMs, alive, levels_of
from openoutcry.venues.channels import AskedOnceOpen, Channel
from openoutcry.venues.deribit_history import PASSING, WEIGHTS, DeribitHistory
from openoutcry.venues.deribit_wire import (
    Symbol,
    TickerRow,
    TradeRow,
    candle_of,
    interests_of,
    liquidations_of,
    marks_of,
    quote_of,
    trade_of,
)
from openoutcry.venues.venue import (
    Alive,
    Feed,
    Heartbeat,
    Limits,
    Rate,
    Refused,
    Reply,
    Signal,
    Skipped,
    Stream,
    Subscribed,
)

STREAMS_MAX = 500
STREAMS_PER_SUBSCRIBE = 100
# Subscriptions whose answer is still due.
ASKED_MAX = 1_000
REASON_CHARS_MAX = 200
LEVELS_MAX = 20_000
HEARTBEAT_S = 30
# The number of what is said without an answer being waited for.
UNASKED = 0
TICKER_SILENCE_S = 300.0
MINUTE_S = 60
_TRADED = frozenset({Feed.TRADES, Feed.LIQUIDATIONS})
_TICKED = frozenset({Feed.QUOTES, Feed.OPEN_INTEREST, Feed.FUNDING, Feed.MARK_PRICE})
# What a dated contract and an option have not.
_LACKS: Mapping[Kind, frozenset[Feed]] = {
    Kind.PERPETUAL: frozenset(),
    Kind.FUTURE: frozenset({Feed.FUNDING}),
    Kind.OPTION: frozenset({Feed.FUNDING, Feed.CANDLES}),
}
# Trades, candles and books may rest for days: heartbeats tell a dead connection.
_CHANNELS: Mapping[Feed, Channel] = {
    **dict.fromkeys(_TRADED, ("trades.{}.100ms", _TRADED, None)),
    **dict.fromkeys(_TICKED, ("ticker.{}.100ms", _TICKED, TICKER_SILENCE_S)),
    Feed.CANDLES: ("chart.trades.{}.1", frozenset({Feed.CANDLES}), None),
    Feed.DEPTH: ("book.{}.100ms", frozenset({Feed.DEPTH}), None),
}
_PUSH = b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"'
# Most frames: found first.
_TRADES = _PUSH + b"trades."
_Told = Sequence[Event | Signal]
_Route = Callable[[bytes, int], _Told]


class _Trades(msgspec.Struct, gc=False):
    data: list[TradeRow]


class _TradesFrame(msgspec.Struct, gc=False):
    params: _Trades


class _Ticker(msgspec.Struct, gc=False):
    data: TickerRow


class _TickerFrame(msgspec.Struct, gc=False):
    params: _Ticker


class _Bar(msgspec.Struct, gc=False):
    tick: TimeMs
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    cost: Decimal


class _Chart(msgspec.Struct, gc=False):
    channel: str
    data: _Bar


class _ChartFrame(msgspec.Struct, gc=False):
    params: _Chart


_Level = tuple[Literal["new", "change", "delete"], Decimal, Decimal]
_Levels = Annotated[list[_Level], msgspec.Meta(max_length=LEVELS_MAX)]


class _Book(msgspec.Struct, gc=False, rename={"symbol": "instrument_name", "event_ms": "timestamp"}):
    symbol: Symbol
    event_ms: TimeMs
    type: Literal["snapshot", "change"]
    change_id: Number
    bids: _Levels
    asks: _Levels
    prev_change_id: Number | None = None


class _BookParams(msgspec.Struct, gc=False):
    data: _Book


class _BookFrame(msgspec.Struct, gc=False):
    params: _BookParams


class _Params(msgspec.Struct):
    channel: str = ""
    type: str = ""


class _Error(msgspec.Struct):
    code: int
    message: str = ""


class _Head(msgspec.Struct):
    """Every frame, for what is not routed by its first bytes."""

    method: str | None = None
    params: _Params | None = None
    id: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None


# Looked up in the module they cost less than in the venue.
_decode_trades = msgspec.json.Decoder(_TradesFrame).decode
_decode_ticker = msgspec.json.Decoder(_TickerFrame).decode
_decode_chart = msgspec.json.Decoder(_ChartFrame).decode
_decode_book = msgspec.json.Decoder(_BookFrame).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_names = msgspec.json.Decoder(list[Any]).decode


def _call(number: int, method: str, params: Mapping[str, object]) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


# Said again and again, it also keeps the venue from asking whether we are there.
_HEARTBEAT = _call(UNASKED, "public/set_heartbeat", {"interval": HEARTBEAT_S})
_TEST = _call(UNASKED, "public/test", {})


class Deribit(AskedOnceOpen, DeribitHistory):
    """Perpetuals, futures and options: one venue, one socket."""

    sockets: Mapping[str, str] = {"ws": "wss://www.deribit.com/ws/api/v2"}
    limits = Limits(
        streams_per_connection=STREAMS_MAX,
        streams_per_subscribe=STREAMS_PER_SUBSCRIBE,
        # A subscription costs 3,000 of 30,000 credits, of which 10,000 come back each second.
        messages=Rate(3, 1.0),
        connections=Rate(32, 60.0),
        lifetime_s=86_400.0,
        weights=WEIGHTS,
        heartbeat=Heartbeat(HEARTBEAT_S / 2, _HEARTBEAT),
        silence_s=45.0,
        trade_ids="one",
    )
    feeds = frozenset(Feed)

    def __init__(self) -> None:
        super().__init__()
        self._growing: dict[str, Candle] = {}
        self._asked: dict[int, tuple[str, ...]] = {}
        self._counter = itertools.count(UNASKED + 1)
        # By the first letters of a channel, which tell its kind.
        self._routes: dict[bytes, _Route] = {
            b"tra": self._trades,
            b"tic": self._ticker,
            b"cha": self._chart,
            b"boo": self._depth,
        }

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing, and forget what grew of those that are gone."""
        super().learn(instruments)
        listed = {meaning.name for meaning in self._meanings.values()}
        self._growing = {name: candle for name, candle in self._growing.items() if name in listed}

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """One channel an instrument; a ticker tells four feeds. Symbols that cannot have the feed are left out."""
        if symbols is None:
            raise errors.Unsupported(f"{self.name} has no stream of {feed} of all instruments")
        pattern, feeds, silence_s = _CHANNELS[feed]
        found = []
        for symbol in symbols:
            meaning = self._known(symbol)
            lacks = frozenset[Feed]() if meaning is None else _LACKS[meaning.kind]
            if feed not in lacks:
                found.append(Stream(pattern.format(symbol), "ws", symbol, feeds - lacks, silence_s))
        return found

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        """Frames of STREAMS_PER_SUBSCRIBE channels each."""
        names = [stream.name for stream in streams]
        size = STREAMS_PER_SUBSCRIBE
        return [self._ask_for(names[n : n + size], undo=undo) for n in range(0, len(names), size)]

    def _ask_for(self, names: Sequence[str], *, undo: bool = False) -> bytes:
        number = next(self._counter)
        # Of what is given up no answer matters, but it must not be taken for one that does.
        self._asked[number] = () if undo else tuple(names)
        while len(self._asked) > ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        return _call(number, "public/unsubscribe" if undo else "public/subscribe", {"channels": list(names)})

    def reset(self, endpoint: str) -> None:  # noqa: ARG002 - there is but one
        """Forget which candles grew."""
        self._growing.clear()

    def decode(self, frame: bytes, received_ns: int) -> _Told:
        """What one frame says. Raises Unreadable."""
        try:
            if frame.startswith(_TRADES):
                return self._trades(frame, received_ns)
            if frame.startswith(_PUSH):
                route = self._routes.get(frame[len(_PUSH) : len(_PUSH) + 3])
                if route is not None:
                    return route(frame, received_ns)
            return self._other(frame, received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", frame) from e

    def _other(self, frame: bytes, received_ns: int) -> _Told:
        """An answer, a heartbeat, or a push whose fields are in another order."""
        head = _decode_head(frame)
        if head.id is not None:
            return self._answer(head, head.id)
        if head.params is None:
            raise ValueError("neither an answer nor a push")
        if head.method == "heartbeat":
            return (Reply(_TEST),) if head.params.type == "test_request" else (Alive(),)
        if head.method != "subscription":
            raise ValueError("an unknown method")
        channel = head.params.channel
        route = self._routes.get(channel[:3].encode())
        return route(frame, received_ns) if route else (Skipped("unknown_channel", channel[:REASON_CHARS_MAX]),)

    def _trades(self, frame: bytes, received_ns: int) -> _Told:
        said: list[Event | Signal] = []
        meanings = self._meanings
        for row in _decode_trades(frame).params.data:
            meaning = meanings.get(row.symbol)
            if meaning is None:
                said.append(Skipped("unknown_instrument", row.symbol))
                continue
            trade = trade_of(meaning, row, received_ns)
            said.append(trade)
            if row.liquidation is not None:
                said += liquidations_of(trade, row.liquidation)
        return said

    def _ticker(self, frame: bytes, received_ns: int) -> _Told:
        row = _decode_ticker(frame).params.data
        meaning = self._meanings.get(row.symbol)
        if meaning is None:
            return (Skipped("unknown_instrument", row.symbol),)
        return [
            quote_of(meaning, row, received_ns),
            *interests_of(meaning, row, received_ns),
            *marks_of(meaning, row, received_ns),
        ]

    def _chart(self, frame: bytes, received_ns: int) -> _Told:
        told = _decode_chart(frame).params
        # chart.trades.BTC-PERPETUAL.1
        parts = told.channel.split(".")
        if len(parts) != 4 or parts[3] != "1":
            return (Skipped("unknown_channel", told.channel[:REASON_CHARS_MAX]),)
        meaning, bar = self._meanings.get(parts[2]), told.data
        if meaning is None:
            return (Skipped("unknown_instrument", parts[2]),)
        row = (bar.tick, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.cost)
        candle = candle_of(meaning, MINUTE_S, row, received_ns, closed=False)
        last = self._growing.get(meaning.name)
        if last is not None and candle.open_ns < last.open_ns:
            # An older one again: the venue corrected it after the next had opened.
            return (msgspec.structs.replace(candle, closed=True),)
        self._growing[meaning.name] = candle
        if last is not None and last.open_ns < candle.open_ns:
            return (msgspec.structs.replace(last, closed=True, received_ns=received_ns), candle)
        return (candle,)

    def _depth(self, frame: bytes, received_ns: int) -> _Told:
        book = _decode_book(frame).params.data
        meaning = self._meanings.get(book.symbol)
        if meaning is None:
            return (Skipped("unknown_instrument", book.symbol),)
        bids, asks = (levels_of(map(_level, side)) for side in (book.bids, book.asks))
        name, event_ns, number = meaning.name, book.event_ms * MS, book.change_id
        if book.type == "snapshot":
            return (DepthSnapshot(name, event_ns, received_ns, alive(bids), alive(asks), number),)
        if book.prev_change_id is None:
            raise ValueError("a change of an unknown book")
        return (DepthDelta(name, event_ns, received_ns, bids, asks, number, number, book.prev_change_id),)

    def _answer(self, head: _Head, number: int) -> _Told:
        names = self._asked.pop(number, None)
        if head.error is not None:
            return self._refused(head.error, names)
        result = bytes(head.result).lstrip()
        if not result:
            raise ValueError("an answer without a result")
        if names == () or not result.startswith(b"["):
            return (Alive(),)
        taken = [name for name in _decode_names(result) if isinstance(name, str)]
        said: list[Event | Signal] = [Subscribed(tuple(taken))] if taken else [Alive()]
        return said + [Refused(name, "not among the channels taken") for name in names or () if name not in taken]

    def _refused(self, error: _Error, names: tuple[str, ...] | None) -> _Told:
        reason = f"{error.code} {error.message[:REASON_CHARS_MAX]}"
        if error.code in PASSING or not names:
            # What is not acknowledged is asked for again by the feed.
            return (Skipped("refused", reason),)
        if len(names) == 1:
            return (Refused(names[0], reason),)
        # One that is bad costs the whole request: it shows itself among ever fewer.
        half = len(names) // 2
        return [Reply(self._ask_for(names[:half])), Reply(self._ask_for(names[half:]))]


def _level(told: _Level) -> tuple[Decimal, Decimal]:
    """Price and amount; none of one that is deleted."""
    action, price, amount = told
    return price, ZERO if action == "delete" else amount
