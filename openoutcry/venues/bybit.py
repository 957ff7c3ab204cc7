"""Bybit v5, linear and inverse contracts (`bybit`) and spot (`bybit_spot`): frames in, events out.

https://bybit-exchange.github.io/docs/v5/ws/connect

    {"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": 1672304486868, "data": [
        {"T": 1672304486865, "s": "BTCUSDT", "S": "Buy", "v": "0.001", "p": "16578.50",
         "i": "20f43950-d8dd-5b31-9112-a178eb6023af", "BT": false, "seq": 1783284617}]}
    {"topic": "kline.1.BTCUSDT", "data": [{"start": 1672324800000, "interval": "1", "open": "16649.5", "close": "16677",
        "high": "16677", "low": "16608", "volume": "2.081", "turnover": "34666.4005", "confirm": false, ...}]}
    {"topic": "orderbook.50.BTCUSDT", "type": "delta", "ts": 1687940967466, "cts": 1687940967464,
     "data": {"s": "BTCUSDT", "b": [["30240.30", "0"]], "a": [], "u": 177400507, "seq": 66544703342}}
    {"topic": "tickers.BTCUSDT", "type": "delta", "ts": 1760325052630, "data": {"symbol": "BTCUSDT",
        "openInterest": "57798.137", "singleOpenInterest": "28899.069", "fundingRate": "-0.000212", ...}}
    {"topic": "allLiquidation.ROSEUSDT", "ts": 1739502303204, "data": [
        {"T": 1739502302929, "s": "ROSEUSDT", "S": "Sell", "v": "20000", "p": "0.04499"}]}

`S` of a trade is the taker's side; `S` of a liquidation is the POSITION's, so the order is the other way round, and `p`
there is the bankruptcy price. `openInterest` counts both sides, `singleOpenInterest` one. A ticker delta leaves out
what has not changed. `u` = 1 in a book means that the service restarted: that frame is a snapshot whatever its type.
Inverse volumes are US dollars, and their turnover is coins; linear and spot the other way round. Block trades (`BT`)
are agreed off the book and are left out; trades of the retail price improvement (`RPI`) match on the book and count.
REST lists come newest first, and answer 200 with a `retCode` when they refuse.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from openoutcry import errors
from openoutcry.events import (
    DepthDelta,
    DepthSnapshot,
    Event,
    Liquidation,
    Quote,
    Side,
    Trade,
)
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues.bounds import (
    MS,
    NUMBER_MAX,
    ZERO,
    Number,
    TimeMs,
    alive,
    check_traded,
    levels_of,
)
from openoutcry.venues.bybit_topics import BybitTopics
from openoutcry.venues.bybit_wire import (
    INTERVALS,
    TAKER,
    Field,
    Meaning,
    SideWord,
    TradeRow,
    candle_of,
    meaning_of,
    size_of,
    ticker_events,
)
from openoutcry.venues.venue import (
    Alive,
    Feed,
    Query,
    Refused,
    Reply,
    Signal,
    Skipped,
    Stream,
    Subscribed,
)

# Subscriptions whose answer is still due.
ASKED_MAX = 1_000
# Silence that is longer than this is not normal on a living stream.
SILENCE_S: Mapping[Feed, float | None] = {
    Feed.TRADES: 300.0,
    Feed.CANDLES: 120.0,
    Feed.QUOTES: 60.0,
    Feed.DEPTH: 60.0,
    Feed.LIQUIDATIONS: None,
    Feed.OPEN_INTEREST: 60.0,
    Feed.FUNDING: 60.0,
    Feed.MARK_PRICE: 60.0,
}
TICKER_FEEDS = frozenset({Feed.OPEN_INTEREST, Feed.FUNDING, Feed.MARK_PRICE})
TOPICS: Mapping[Feed, str] = {
    Feed.TRADES: "publicTrade.",
    Feed.CANDLES: "kline.1.",
    Feed.QUOTES: "orderbook.1.",
    Feed.DEPTH: "orderbook.50.",
    Feed.LIQUIDATIONS: "allLiquidation.",
    Feed.OPEN_INTEREST: "tickers.",
    Feed.FUNDING: "tickers.",
    Feed.MARK_PRICE: "tickers.",
}
# Looking a member up in its class costs more than comparing the side did.
_BUY, _SELL = Side.BUY, Side.SELL
_AGAINST = {"Buy": Side.SELL, "Sell": Side.BUY}
_TOPIC = re.compile(r"[A-Za-z]+(?:\.[\w/-]+)+")
_SPOT = re.compile(r"(?P<coin>\w+?)(?P<quote>USDT|USDC|USDE|USD1|DAI|EUR|BRL|BTC|ETH|TRY|PLN|MNT)")
_Pair = tuple[Decimal, Decimal]


class _TradeFrame(msgspec.Struct, gc=False):
    data: list[TradeRow]


class _CandleRow(msgspec.Struct, gc=False):
    start: TimeMs
    interval: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    turnover: Decimal
    confirm: bool


class _CandleFrame(msgspec.Struct, gc=False):
    data: list[_CandleRow]


class _Book(msgspec.Struct, gc=False, rename={"bids": "b", "asks": "a", "update": "u"}):
    bids: tuple[_Pair, ...]
    asks: tuple[_Pair, ...]
    update: Number


class _BookFrame(msgspec.Struct, gc=False):
    type: Literal["snapshot", "delta"]
    ts: TimeMs
    data: _Book
    cts: TimeMs | None = None


class _LiquidationRow(msgspec.Struct, gc=False, rename={"event_ms": "T", "position": "S", "count": "v", "price": "p"}):
    event_ms: TimeMs
    position: SideWord
    count: Decimal
    price: Decimal


class _LiquidationFrame(msgspec.Struct, gc=False):
    data: list[_LiquidationRow]


class _TickerFrame(msgspec.Struct, gc=False):
    type: Literal["snapshot", "delta"]
    ts: TimeMs
    data: dict[str, Field]


class _Head(msgspec.Struct):
    """Every frame, for what is not routed by its first bytes."""

    topic: str | None = None
    op: str | None = None
    success: bool | None = None
    ret_msg: str = ""
    req_id: str = ""


# Looked up in the module they cost less than in the venue.
_decode_trades = msgspec.json.Decoder(_TradeFrame).decode
_decode_candles = msgspec.json.Decoder(_CandleFrame).decode
_decode_book = msgspec.json.Decoder(_BookFrame).decode
_decode_liquidations = msgspec.json.Decoder(_LiquidationFrame).decode
_decode_ticker = msgspec.json.Decoder(_TickerFrame).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_Route = Callable[[bytes, int, Meaning], Sequence[Event | Signal]]


class Bybit(BybitTopics):
    """Linear and inverse contracts: one venue, two sockets."""

    feeds = frozenset(Feed)

    def __init__(self) -> None:
        super().__init__()
        self._topics: dict[bytes, tuple[_Route, Meaning]] = {}
        self._tickers: dict[str, dict[str, dict[str, Field]]] = {}
        self._quotes: dict[str, dict[str, list[_Pair | None]]] = {}
        self._asked: dict[str, tuple[str, ...]] = {}
        self._counter = itertools.count(1)
        self._routes: dict[str, _Route] = {
            "publicTrade": self._trades,
            "kline": self._candles,
            "orderbook": self._depth,
            "orderbook.1": self._quote,
            "tickers": self._ticker,
            "allLiquidation": self._liquidations,
        }

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing, and what topics were known to speak of."""
        super().learn(instruments)
        self._topics.clear()

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """One topic a symbol; dated futures have no funding, but their ticker carries the rest."""
        if feed not in self.feeds:
            raise errors.Unsupported(f"{self.name} has no {feed}")
        if symbols is None:
            raise errors.Unsupported(f"{self.name} has no stream of all instruments")
        feeds = TICKER_FEEDS if feed in TICKER_FEEDS else frozenset({feed})
        return [
            Stream(TOPICS[feed] + symbol, self._category(symbol), symbol, feeds, SILENCE_S[feed]) for symbol in symbols
        ]

    def _request_topics(self, names: Sequence[str], *, undo: bool = False) -> bytes:
        # The answer does not repeat the topics, only our number of the request.
        number = str(next(self._counter))
        if not undo:
            self._asked[number] = tuple(names)
            while len(self._asked) > ASKED_MAX:
                del self._asked[next(iter(self._asked))]
        return msgspec.json.encode(
            {"op": "unsubscribe" if undo else "subscribe", "args": list(names), "req_id": number}
        )

    def reset(self, endpoint: str) -> None:
        """Forget the tickers and quotes of that endpoint."""
        self._tickers.pop(endpoint, None)
        self._quotes.pop(endpoint, None)

    def decode(self, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        """What one frame says. Raises Unreadable."""
        try:
            # {"topic":"publicTrade.BTCUSDT", as the venue writes it; whatever does not stand there is looked at whole.
            known = self._topics.get(frame.partition(b",")[0])
            if known is not None:
                return known[0](frame, received_ns, known[1])
            head = _decode_head(frame)
            if head.topic is None:
                return self._answer(head)
            return self._first(head.topic, frame, received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", frame) from e

    def _first(self, topic: str, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        """Find out what a topic speaks of, and remember it where it is listed: nothing else fills the memory."""
        kind, _, rest = topic.partition(".")
        route = self._routes.get("orderbook.1" if topic.startswith("orderbook.1.") else kind)
        if route is None:
            return [Skipped("unknown_topic", kind)]
        symbol = rest.rpartition(".")[2]
        instrument = self._listing.get(symbol)
        if instrument is None:
            return [Skipped("unknown_instrument", symbol)]
        meaning = meaning_of(instrument)
        self._topics[f'{{"topic":"{topic}"'.encode()] = (route, meaning)
        return route(frame, received_ns, meaning)

    def _trades(self, frame: bytes, received_ns: int, meaning: Meaning) -> Sequence[Event | Signal]:
        events: list[Event | Signal] = []
        name, inverse = meaning.name, meaning.inverse
        for row in _decode_trades(frame).data:
            price, count = row.price, row.count
            if not (ZERO < price < NUMBER_MAX and ZERO < count < NUMBER_MAX):
                raise ValueError("price or size out of range")
            if row.block:
                events.append(Skipped("block", name))
            elif inverse:
                events.append(_inverse_trade(meaning, row, received_ns))
            else:
                side = _BUY if row.taker == "Buy" else _SELL
                events.append(Trade(name, row.event_ms * MS, received_ns, row.id, row.seq, side, price, count))
        return events

    def _candles(self, frame: bytes, received_ns: int, meaning: Meaning) -> Sequence[Event | Signal]:
        return [
            candle_of(
                meaning,
                INTERVALS.get(row.interval),
                (row.start, row.open, row.high, row.low, row.close, row.volume, row.turnover),
                received_ns,
                closed=row.confirm,
            )
            for row in _decode_candles(frame).data
        ]

    def _depth(self, frame: bytes, received_ns: int, meaning: Meaning) -> Sequence[Event | Signal]:
        message = _decode_book(frame)
        number = message.data.update
        bids, asks = levels_of(message.data.bids), levels_of(message.data.asks)
        event_ns = (message.cts or message.ts) * MS
        if message.type == "snapshot" or number == 1:
            return [DepthSnapshot(meaning.name, event_ns, received_ns, alive(bids), alive(asks), number)]
        return [DepthDelta(meaning.name, event_ns, received_ns, bids, asks, number, number, number - 1)]

    def _quote(self, frame: bytes, received_ns: int, meaning: Meaning) -> Sequence[Event | Signal]:
        message = _decode_book(frame)
        sides = levels_of(message.data.bids), levels_of(message.data.asks)
        fresh = message.type == "snapshot" or message.data.update == 1
        quotes = self._quotes.setdefault(meaning.category, {})
        best = quotes.setdefault(meaning.name, [None, None])
        for side, levels in enumerate(sides):
            if fresh or levels:
                best[side] = next(iter(alive(levels)), None)
        (bid_price, bid_size), (ask_price, ask_size) = ((None, None) if b is None else _coins(meaning, b) for b in best)
        event_ns = (message.cts or message.ts) * MS
        return [Quote(meaning.name, event_ns, received_ns, bid_price, bid_size, ask_price, ask_size)]

    def _liquidations(self, frame: bytes, received_ns: int, meaning: Meaning) -> Sequence[Event | Signal]:
        events: list[Event | Signal] = []
        seen: dict[str, int] = {}
        for row in _decode_liquidations(frame).data:
            check_traded(row.price, row.count)
            # The venue gives no id; two alike in one frame are two.
            key = f"{row.event_ms}-{row.position}-{row.price}-{row.count}"
            seen[key] = seen.get(key, 0) + 1
            size, value, contracts = size_of(meaning, row.count, row.price)
            events.append(
                Liquidation(
                    meaning.name,
                    row.event_ms * MS,
                    received_ns,
                    f"{key}-{seen[key]}",
                    _AGAINST[row.position],
                    row.price,
                    size,
                    value,
                    contracts,
                    bankruptcy=True,
                )
            )
        return events

    def _ticker(self, frame: bytes, received_ns: int, meaning: Meaning) -> Sequence[Event | Signal]:
        message = _decode_ticker(frame)
        tickers = self._tickers.setdefault(meaning.category, {})
        if message.type == "snapshot":
            tickers[meaning.name] = {}
        whole = tickers.setdefault(meaning.name, {})
        whole.update(message.data)
        return ticker_events(meaning, whole, message.data.keys(), message.ts * MS, received_ns)

    def _answer(self, head: _Head) -> Sequence[Event | Signal]:
        if head.op in {"ping", "pong", "unsubscribe"}:
            return [Alive()]
        if head.op != "subscribe" or head.success is None:
            raise ValueError("neither a topic nor an answer")
        names = self._asked.pop(head.req_id, ())
        if head.success or "already subscribed" in head.ret_msg:
            return [Subscribed(names)]
        # One bad topic makes the venue refuse the whole request: the others are asked for again without it.
        bad = set(_TOPIC.findall(head.ret_msg))
        named = [n for n in names if n in bad]
        if not named and len(names) > 1:
            half = len(names) // 2
            return [Reply(self._request_topics(names[:half])), Reply(self._request_topics(names[half:]))]
        refused: list[str | None] = [*(named or names or sorted(bad))] or [None]
        rest = [n for n in names if n not in refused]
        said: list[Event | Signal] = [Refused(n, head.ret_msg) for n in refused]
        if rest:
            said.append(Reply(self._request_topics(rest)))
        return said


class BybitSpot(Bybit):
    """Spot: the same protocol with fewer streams and smaller pages."""

    name = "bybit_spot"
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {Kind.SPOT: (Exchange.BYBIT_SPOT,)}
    sockets: Mapping[str, str] = {"spot": "wss://stream.bybit.com/v5/public/spot"}
    limits = msgspec.structs.replace(Bybit.limits, streams_per_subscribe=10)
    feeds = frozenset({Feed.TRADES, Feed.CANDLES, Feed.QUOTES, Feed.DEPTH})
    queries = frozenset({Query.INSTRUMENTS, Query.CANDLES, Query.TRADES, Query.TICKERS, Query.TIME})
    page_max: Mapping[Query, int] = {Query.INSTRUMENTS: 1_000, Query.CANDLES: 1_000, Query.TRADES: 60}

    def assume(self, symbol: str) -> Instrument | None:
        """Spot sizes are coins whatever the name."""
        pair = _SPOT.fullmatch(symbol)
        if pair is None:
            return None
        return self._assumed(symbol, Kind.SPOT, pair["coin"], pair["quote"], pair["quote"], None)


def _inverse_trade(meaning: Meaning, row: TradeRow, received_ns: int) -> Trade:
    size, value, contracts = size_of(meaning, row.count, row.price)
    side = TAKER[row.taker]
    return Trade(
        meaning.name, row.event_ms * MS, received_ns, row.id, row.seq, side, row.price, size, 1, value, contracts
    )


def _coins(meaning: Meaning, level: _Pair) -> tuple[Decimal, Decimal]:
    price, count = level
    return price, size_of(meaning, count, price)[0]
