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
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Literal, TypeVar

import msgspec

from openoutcry import errors
from openoutcry.events import (
    NS,
    Candle,
    DepthDelta,
    DepthSnapshot,
    Event,
    FundingRate,
    Level,
    Liquidation,
    MarkPrice,
    OpenInterest,
    Quote,
    Side,
    Ticker,
    Trade,
    open_of,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues.venue import (
    Alive,
    Answer,
    Ask,
    Feed,
    Heartbeat,
    Limits,
    Page,
    Query,
    Rate,
    Refused,
    Reply,
    Request,
    Signal,
    Skipped,
    Stream,
    Subscribed,
)

MS = 1_000_000
CODES = {
    60: "1",
    180: "3",
    300: "5",
    900: "15",
    1_800: "30",
    3_600: "60",
    7_200: "120",
    14_400: "240",
    21_600: "360",
    43_200: "720",
    86_400: "D",
    604_800: "W",
}
INTERVALS = {code: interval_s for interval_s, code in CODES.items()}
INTEREST_CODES = {300: "5min", 900: "15min", 1_800: "30min", 3_600: "1h", 14_400: "4h", 86_400: "1d"}
# The shortest funding interval: a page of so many rows never spans less than that many hours.
FUNDING_STEP_S = 3_600

# A connection takes 21,000 characters of topics; the longest topic, quotes and comma are some 50.
STREAMS_MAX = 400
BAN_S = 600.0
PAUSE_S = 1.0
PAUSE_S_MAX = 600.0
# Subscriptions whose answer is still due.
ASKED_MAX = 1_000
NUMBER_MAX = Decimal("1e18")
COIN_STEP = Decimal("1e-8")
ZERO = Decimal(0)
HALF = Decimal("0.5")
# An unlisted symbol does not tell its steps: the finest there is.
STEP_UNKNOWN = Decimal("1e-8")

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

_TAKER = {"Buy": Side.BUY, "Sell": Side.SELL}
_AGAINST = {"Buy": Side.SELL, "Sell": Side.BUY}
_TOPIC = re.compile(r"[A-Za-z]+(?:\.[\w/-]+)+")
_INVERSE = re.compile(r"(?P<coin>\w+?)USD(?:[FGHJKMNQUVXZ]\d\d)?")
_LINEAR = re.compile(r"(?P<coin>\w+?)(?P<quote>USDT|USDC|USDE|PERP)?(?P<expiry>-\d{1,2}[A-Z]{3}\d\d)?")
_SPOT = re.compile(r"(?P<coin>\w+?)(?P<quote>USDT|USDC|USDE|USD1|DAI|EUR|BRL|BTC|ETH|TRY|PLN|MNT)")

_Ms = Annotated[int, msgspec.Meta(gt=0, lt=10_000_000_000_000)]
_Pair = tuple[Decimal, Decimal]
_Side = Literal["Buy", "Sell"]
_Field = str | int | float | bool | None
_Fields = Mapping[str, _Field]
_T = TypeVar("_T")


class _TradeRow(
    msgspec.Struct,
    gc=False,
    rename={"event_ms": "T", "taker": "S", "count": "v", "price": "p", "id": "i", "block": "BT"},
):
    event_ms: _Ms
    taker: _Side
    count: Decimal
    price: Decimal
    id: str
    block: bool = False
    seq: int = 0


class _TradeFrame(msgspec.Struct, gc=False):
    data: list[_TradeRow]


class _CandleRow(msgspec.Struct, gc=False):
    start: _Ms
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
    update: int


class _BookFrame(msgspec.Struct, gc=False):
    type: Literal["snapshot", "delta"]
    ts: _Ms
    data: _Book
    cts: _Ms | None = None


class _LiquidationRow(msgspec.Struct, gc=False, rename={"event_ms": "T", "position": "S", "count": "v", "price": "p"}):
    event_ms: _Ms
    position: _Side
    count: Decimal
    price: Decimal


class _LiquidationFrame(msgspec.Struct, gc=False):
    data: list[_LiquidationRow]


class _TickerFrame(msgspec.Struct, gc=False):
    type: Literal["snapshot", "delta"]
    ts: _Ms
    data: dict[str, _Field]


class _Head(msgspec.Struct):
    """Every frame, for what is not routed by its first bytes."""

    topic: str | None = None
    op: str | None = None
    success: bool | None = None
    ret_msg: str = ""
    req_id: str = ""


class _Envelope(msgspec.Struct, rename="camel"):
    ret_code: int
    ret_msg: str = ""
    result: msgspec.Raw = msgspec.Raw(b"{}")
    time: int = 0


class _CandleList(msgspec.Struct):
    list: list[tuple[_Ms, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal]]
    symbol: str


class _PastTrade(msgspec.Struct, rename="camel"):
    exec_id: str
    price: Decimal
    size: Decimal
    side: _Side
    time: _Ms
    is_block_trade: bool = False
    seq: int = 0


class _PastTrades(msgspec.Struct):
    list: list[_PastTrade]


class _PastInterest(msgspec.Struct, rename="camel"):
    open_interest: Decimal
    timestamp: _Ms
    single_open_interest: Decimal | None = None


class _PastInterests(msgspec.Struct):
    list: list[_PastInterest]


class _PastFunding(msgspec.Struct, rename="camel"):
    funding_rate: Decimal
    funding_rate_timestamp: _Ms


class _PastFundings(msgspec.Struct):
    list: list[_PastFunding]


class _Tickers(msgspec.Struct):
    list: list[dict[str, _Field]]


class _Listed(msgspec.Struct, rename="camel"):
    symbol: str
    status: str
    base_coin: str
    quote_coin: str
    price_filter: dict[str, str]
    lot_size_filter: dict[str, str]
    contract_type: str = ""
    settle_coin: str = ""
    launch_time: int = 0
    delivery_time: int = 0


class _Listing(msgspec.Struct, rename="camel"):
    list: list[msgspec.Raw]
    next_page_cursor: str = ""


class _Meaning(msgspec.Struct, frozen=True, gc=False):
    """What decode needs of an instrument, at hand."""

    name: str
    category: str
    inverse: bool
    contract_size: Decimal


_Route = Callable[[bytes, int, _Meaning], Sequence[Event | Signal]]


class Bybit:
    """Linear and inverse contracts: one venue, two sockets."""

    name = "bybit"
    rest = "https://api.bybit.com"
    sockets: Mapping[str, str] = {
        "linear": "wss://stream.bybit.com/v5/public/linear",
        "inverse": "wss://stream.bybit.com/v5/public/inverse",
    }
    limits = Limits(
        streams_per_connection=STREAMS_MAX,
        streams_per_subscribe=100,
        messages=Rate(10, 1.0),
        connections=Rate(500, 300.0),
        lifetime_s=86_400.0,
        weights={"weight": Rate(600, 5.0)},
        heartbeat=Heartbeat(20.0, b'{"op":"ping"}'),
        silence_s=45.0,
        shared_pools={"weight": "bybit"},
    )
    feeds = frozenset(Feed)
    queries = frozenset(Query) - {Query.PREDICTED_FUNDING}
    intervals_s = frozenset(CODES)
    page_max: Mapping[Query, int] = {
        Query.INSTRUMENTS: 1_000,
        Query.CANDLES: 1_000,
        Query.TRADES: 1_000,
        Query.OPEN_INTEREST_HISTORY: 200,
        Query.FUNDING_HISTORY: 200,
    }

    def __init__(self) -> None:
        self._listing: dict[str, Instrument] = {}
        self._topics: dict[bytes, tuple[_Route, _Meaning]] = {}
        self._tickers: dict[str, dict[str, dict[str, _Field]]] = {}
        self._quotes: dict[str, dict[str, list[_Pair | None]]] = {}
        self._asked: dict[str, tuple[str, ...]] = {}
        self._counter = itertools.count(1)
        self._routes: dict[bytes, _Route] = {
            b"publicTrade": self._trades,
            b"kline": self._candles,
            b"orderbook": self._depth,
            b"orderbook.1": self._quote,
            b"tickers": self._ticker,
            b"allLiquidation": self._liquidations,
        }
        self._decode_trades = msgspec.json.Decoder(_TradeFrame).decode
        self._decode_candles = msgspec.json.Decoder(_CandleFrame).decode
        self._decode_book = msgspec.json.Decoder(_BookFrame).decode
        self._decode_liquidations = msgspec.json.Decoder(_LiquidationFrame).decode
        self._decode_ticker = msgspec.json.Decoder(_TickerFrame).decode
        self._decode_head = msgspec.json.Decoder(_Head).decode

    # What symbols mean.

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing: what symbols mean, contract sizes."""
        self._listing = {i.symbol: i for i in instruments}
        self._topics.clear()

    def assume(self, symbol: str) -> Instrument | None:
        """What the spelling tells. Every Bybit contract counts coins (linear) or single dollars (inverse)."""
        inverse = _INVERSE.fullmatch(symbol)
        if inverse:
            dated = not symbol.endswith("USD")
            kind = Kind.FUTURE if dated else Kind.PERPETUAL
            return self._assumed(symbol, kind, inverse["coin"], "USD", inverse["coin"], Decimal(1))
        linear = _LINEAR.fullmatch(symbol)
        if not linear:
            return None
        kind = Kind.FUTURE if linear["expiry"] else Kind.PERPETUAL
        # BTCPERP and BTC-29DEC23 are settled in USDC.
        quote = linear["quote"] if linear["quote"] not in {None, "PERP"} else "USDC"
        return self._assumed(symbol, kind, linear["coin"], quote, quote, None)

    def _assumed(
        self, symbol: str, kind: Kind, coin: str, quote: str, settle: str, contract_size: Decimal | None
    ) -> Instrument:
        return Instrument(
            venue=self.name,
            symbol=symbol,
            kind=kind,
            coin=coin,
            quote=quote,
            settle=settle,
            tick_size=STEP_UNKNOWN,
            lot_size=STEP_UNKNOWN,
            contract_size=contract_size,
            inverse=contract_size is not None,
        )

    def _known(self, symbol: str) -> Instrument | None:
        return self._listing.get(symbol) or self.assume(symbol)

    def _category(self, symbol: str) -> str:
        instrument = self._known(symbol)
        return next(iter(self.sockets)) if instrument is None else _meaning(instrument).category

    # Streams.

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

    def url(self, address: str, endpoint: str, streams: Sequence[Stream]) -> str:
        """The configured address itself: each market has its own."""
        assert all(stream.endpoint == endpoint for stream in streams)
        return address

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        """Frames of as many topics as the venue takes in one."""
        names = [s.name for s in streams]
        size = self.limits.streams_per_subscribe
        return [self._request_topics(names[i : i + size], undo=undo) for i in range(0, len(names), size)]

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

    # Frames.

    def decode(self, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        """What one frame says. Raises Unreadable."""
        try:
            # {"topic":"publicTrade.BTCUSDT", as the venue writes it; whatever does not stand there is looked at whole.
            known = self._topics.get(frame[10 : frame.find(b'"', 10)])
            if known is not None:
                return known[0](frame, received_ns, known[1])
            head = self._decode_head(frame)
            if head.topic is None:
                return self._answer(head)
            return self._first(head.topic.encode(), frame, received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", frame) from e

    def _first(self, topic: bytes, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        """Find out what a topic speaks of, and remember it where it is listed: nothing else fills the memory."""
        kind, _, rest = topic.partition(b".")
        route = self._routes.get(b"orderbook.1" if topic.startswith(b"orderbook.1.") else kind)
        if route is None:
            return [Skipped("unknown_topic", kind.decode("ascii", "replace"))]
        symbol = rest[rest.rfind(b".") + 1 :].decode("ascii", "replace")
        instrument = self._listing.get(symbol)
        if instrument is None:
            return [Skipped("unknown_instrument", symbol)]
        meaning = _meaning(instrument)
        self._topics[topic] = (route, meaning)
        return route(frame, received_ns, meaning)

    def _trades(self, frame: bytes, received_ns: int, meaning: _Meaning) -> Sequence[Event | Signal]:
        events: list[Event | Signal] = []
        name, inverse = meaning.name, meaning.inverse
        for row in self._decode_trades(frame).data:
            price, count = row.price, row.count
            if not (ZERO < price < NUMBER_MAX and ZERO < count < NUMBER_MAX):
                raise ValueError("price or size out of range")
            if row.block:
                events.append(Skipped("block", name))
            elif inverse:
                events.append(_inverse_trade(meaning, row, received_ns))
            else:
                side = _TAKER[row.taker]
                events.append(Trade(name, row.event_ms * MS, received_ns, row.id, row.seq, side, price, count))
        return events

    def _candles(self, frame: bytes, received_ns: int, meaning: _Meaning) -> Sequence[Event | Signal]:
        return [
            _candle(
                meaning,
                INTERVALS.get(row.interval),
                (row.start, row.open, row.high, row.low, row.close, row.volume, row.turnover),
                received_ns,
                closed=row.confirm,
            )
            for row in self._decode_candles(frame).data
        ]

    def _depth(self, frame: bytes, received_ns: int, meaning: _Meaning) -> Sequence[Event | Signal]:
        message = self._decode_book(frame)
        book = _checked(message.data)
        event_ns = (message.cts or message.ts) * MS
        if message.type == "snapshot" or book.update == 1:
            bids, asks = _alive(book.bids), _alive(book.asks)
            return [DepthSnapshot(meaning.name, event_ns, received_ns, bids, asks, book.update)]
        number = book.update
        return [DepthDelta(meaning.name, event_ns, received_ns, book.bids, book.asks, number, number, number - 1)]

    def _quote(self, frame: bytes, received_ns: int, meaning: _Meaning) -> Sequence[Event | Signal]:
        message = self._decode_book(frame)
        book = _checked(message.data)
        fresh = message.type == "snapshot" or book.update == 1
        quotes = self._quotes.setdefault(meaning.category, {})
        best = quotes.setdefault(meaning.name, [None, None])
        for side, levels in enumerate((book.bids, book.asks)):
            if fresh or levels:
                alive = _alive(levels)
                best[side] = alive[0] if alive else None
        (bid_price, bid_size), (ask_price, ask_size) = ((None, None) if b is None else _coins(meaning, b) for b in best)
        event_ns = (message.cts or message.ts) * MS
        return [Quote(meaning.name, event_ns, received_ns, bid_price, bid_size, ask_price, ask_size)]

    def _liquidations(self, frame: bytes, received_ns: int, meaning: _Meaning) -> Sequence[Event | Signal]:
        events: list[Event | Signal] = []
        seen: dict[str, int] = {}
        for row in self._decode_liquidations(frame).data:
            if not (ZERO < row.price < NUMBER_MAX and ZERO < row.count < NUMBER_MAX):
                raise ValueError("price or size out of range")
            # The venue gives no id; two alike in one frame are two.
            key = f"{row.event_ms}-{row.position}-{row.price}-{row.count}"
            seen[key] = seen.get(key, 0) + 1
            size, value, contracts = _size(meaning, row.count, row.price)
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

    def _ticker(self, frame: bytes, received_ns: int, meaning: _Meaning) -> Sequence[Event | Signal]:
        message = self._decode_ticker(frame)
        tickers = self._tickers.setdefault(meaning.category, {})
        if message.type == "snapshot":
            tickers[meaning.name] = {}
        whole = tickers.setdefault(meaning.name, {})
        whole.update(message.data)
        return _ticker_events(meaning, whole, message.data.keys(), message.ts * MS, received_ns)

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

    # Questions.

    def request(self, ask: Ask) -> Request:
        """What to send for `ask`. Raises Unsupported, BadInterval."""
        if ask.query not in self.queries:
            raise errors.Unsupported(f"{self.name} does not serve {ask.query}")
        path, query = self._question(ask)
        return Request(path=f"/v5/market/{path}", query=tuple((k, str(v)) for k, v in query.items() if v is not None))

    def _question(self, ask: Ask) -> tuple[str, dict[str, str | int | None]]:
        if ask.query is Query.TIME:
            return "time", {}
        category, _, cursor = (ask.cursor or "").partition("|")
        if ask.symbol is not None:
            category = self._category(ask.symbol)
        query: dict[str, str | int | None] = {"category": category or next(iter(self.sockets)), "symbol": ask.symbol}
        if ask.query is Query.INSTRUMENTS:
            # Spot tells all in one answer and knows no cursor.
            paged = query["category"] != "spot"
            return "instruments-info", {**query, "limit": 1_000 if paged else None, "cursor": cursor or None}
        if ask.query in {Query.TICKERS, Query.OPEN_INTEREST, Query.FUNDING}:
            return "tickers", query
        assert ask.symbol is not None, f"{ask.query} is asked of one instrument"
        if ask.query is Query.TRADES:
            return "recent-trade", {**query, "limit": self.page_max[Query.TRADES]}
        return self._series_question(ask, query)

    def _series_question(self, ask: Ask, query: dict[str, str | int | None]) -> tuple[str, dict[str, str | int | None]]:
        if ask.query is Query.CANDLES:
            query["interval"] = _code(ask, CODES)
        elif ask.query is Query.OPEN_INTEREST_HISTORY:
            query["intervalTime"] = _code(ask, INTEREST_CODES)
            if query["category"] == "inverse":
                raise errors.Unsupported("bybit tells past open interest of inverse contracts in USD, without a price")
        start_ns, end_ns, rows = self._window(ask)
        start = None if start_ns is None else start_ns // MS
        end = None if end_ns is None else -(-end_ns // MS) - 1  # the venue's end is inclusive
        if ask.query is Query.CANDLES:
            return "kline", {**query, "start": start, "end": end, "limit": rows}
        if ask.query is Query.OPEN_INTEREST_HISTORY:
            return "open-interest", {**query, "startTime": start, "endTime": end, "limit": rows}
        if end is None:
            start = None  # alone it is an error; the page drops what is older
        return "funding/history", {**query, "startTime": start, "endTime": end, "limit": rows}

    def _window(self, ask: Ask) -> tuple[int | None, int | None, int]:
        """The stretch that one answer is asked for, small enough to fit it: then the venue's order does not matter."""
        rows_max = self.page_max[ask.query]
        rows = rows_max if ask.limit is None else max(1, min(rows_max, ask.limit))
        if ask.newest or ask.start_ns is None:
            return ask.start_ns, ask.end_ns, rows
        step_s = FUNDING_STEP_S if ask.query is Query.FUNDING_HISTORY else ask.interval_s or 1
        start_ns = ask.start_ns
        listed = self._listing.get(ask.symbol or "")
        if listed is not None and listed.listed_ns is not None:
            start_ns = max(start_ns, open_of(listed.listed_ns, step_s))
        if ask.query is not Query.FUNDING_HISTORY:
            # The next open: a bucket that opens before the start is not asked for.
            start_ns = open_of(start_ns + step_s * NS - 1, step_s)
        end_ns = start_ns + rows * step_s * NS
        if ask.end_ns is not None:
            end_ns = max(start_ns + MS, min(end_ns, ask.end_ns))
        return start_ns, end_ns, rows

    # Answers.

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What the answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        try:
            envelope = self._envelope(ask, answer)
            now_ns = envelope.time * MS if 0 < envelope.time < 10_000_000_000_000 else answer.received_ns
            return self._pages(ask, envelope.result, now_ns, answer.received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, KeyError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", answer.body) from e

    def _envelope(self, ask: Ask, answer: Answer) -> _Envelope:
        if answer.status == 403:
            # Also what a blocked country gets: asking again soon helps in neither case.
            raise errors.RateLimited(self.name, "bybit refuses this address (403)", BAN_S, banned=True)
        if answer.status == 429:
            raise errors.RateLimited(self.name, "too many requests", _pause_s(answer))
        if answer.status != 200:
            raise errors.Unavailable(self.name, f"{self.name} answered {answer.status}")
        envelope = msgspec.json.decode(answer.body, type=_Envelope, strict=False)
        code, text = envelope.ret_code, envelope.ret_msg
        if code == 0:
            return envelope
        if code in {10006, 10018, 10429}:
            raise errors.RateLimited(self.name, f"too many requests ({code})", _pause_s(answer))
        if code == 10001 and ask.symbol is not None and "symbol" in text.lower():
            raise errors.UnknownInstrument(f"{self.name} does not list {ask.symbol}")
        raise errors.Unavailable(self.name, f"{self.name} answered {code}: {text[:100]}")

    def _pages(self, ask: Ask, result: msgspec.Raw, now_ns: int, received_ns: int) -> Page:
        if ask.query is Query.TIME:
            return Page(events=())
        if ask.query is Query.INSTRUMENTS:
            return self._listing_page(ask, result)
        if ask.query in {Query.TICKERS, Query.OPEN_INTEREST, Query.FUNDING}:
            return self._tickers_page(ask, result, now_ns, received_ns)
        assert ask.symbol is not None
        instrument = self._known(ask.symbol)
        if instrument is None:
            raise errors.UnknownInstrument(f"{self.name} does not list {ask.symbol}")
        meaning = _meaning(instrument)
        if ask.query is Query.TRADES:
            return self._trades_page(ask, meaning, result, received_ns)
        if ask.query is Query.CANDLES:
            return self._candles_page(ask, meaning, result, now_ns, received_ns)
        if ask.query is Query.OPEN_INTEREST_HISTORY:
            past = _rows(result, _PastInterests).list
            past.sort(key=lambda row: row.timestamp)
            events = [_past_interest(meaning, row, received_ns) for row in past]
            return self._series(ask, events, [e.event_ns for e in events], now_ns)
        settled = _rows(result, _PastFundings).list
        settled.sort(key=lambda row: row.funding_rate_timestamp)
        rates = _past_fundings(meaning, settled, received_ns)
        return self._series(ask, rates, [r.funding_ns for r in rates], now_ns)

    def _candles_page(self, ask: Ask, meaning: _Meaning, result: msgspec.Raw, now_ns: int, received_ns: int) -> Page:
        answer = _rows(result, _CandleList)
        if answer.symbol and answer.symbol != ask.symbol:
            raise ValueError("candles of another symbol")
        interval_s = ask.interval_s or 0
        events = [
            _candle(meaning, interval_s, row, received_ns, closed=row[0] * MS + interval_s * NS <= now_ns)
            for row in sorted(answer.list)
        ]
        return self._series(ask, events, [e.open_ns for e in events], open_of(now_ns, interval_s), now_ns)

    def _series(
        self, ask: Ask, events: Sequence[Event], times_ns: Sequence[int], whole_ns: int, now_ns: int | None = None
    ) -> Page:
        """A page of rows in time order; nothing after `whole_ns` is known to be final."""
        start_ns, end_ns, rows = self._window(ask)
        low = max(start_ns or 0, ask.start_ns or 0)
        high = end_ns if end_ns is not None else max(times_ns, default=0) + 1
        kept = [(t, e) for t, e in zip(times_ns, events, strict=True) if low <= t < high]
        found = [e for _, e in kept]
        left = None if ask.limit is None else ask.limit - len(found)
        following: Ask | None = None
        if ask.newest or ask.start_ns is None:
            full = len(events) >= rows
            known_ns = kept[0][0] if kept and (full or ask.start_ns is None) else ask.start_ns
            if kept and full and left is not None and left > 0 and kept[0][0] > (ask.start_ns or 0):
                following = msgspec.structs.replace(ask, newest=True, end_ns=kept[0][0], limit=left)
        else:
            known_ns = ask.start_ns
            last_ns = min(ask.end_ns, now_ns or whole_ns) if ask.end_ns is not None else (now_ns or whole_ns)
            if high < last_ns and (left is None or left > 0):
                following = msgspec.structs.replace(ask, start_ns=high, limit=left)
        until_ns = whole_ns if end_ns is None else min(end_ns, whole_ns)
        if known_ns is None or known_ns >= until_ns:
            return Page(events=found, next=following)
        return Page(events=found, next=following, start_ns=known_ns, end_ns=until_ns)

    def _trades_page(self, ask: Ask, meaning: _Meaning, result: msgspec.Raw, received_ns: int) -> Page:
        past = _rows(result, _PastTrades).list
        full = len(past) >= self.page_max[Query.TRADES]
        # Newest first, and several of one millisecond in that order too: turned round, not sorted.
        past.reverse()
        known_ns = past[0].time * MS + MS if full else (ask.start_ns or 0)
        after = next((n for n, row in enumerate(past) if row.exec_id == ask.from_id), None)
        if after is not None:
            known_ns = past[after].time * MS
            past = past[after + 1 :]
        # An answer is complete up to when it was made, whatever the venue's clock says.
        end_ns = received_ns + NS if ask.end_ns is None else ask.end_ns
        low = ask.start_ns or 0
        kept = [row for row in past if low <= row.time * MS < end_ns and not row.is_block_trade]
        known_ns = max(known_ns, low)
        if full and after is None and ask.start_ns is not None and known_ns >= end_ns:
            raise errors.OutOfReach(self.name, f"{self.name} serves only the newest {len(past)} trades")
        until_ns = min(end_ns, received_ns)
        if ask.limit is not None and len(kept) > ask.limit:
            kept = kept[-ask.limit :] if ask.newest else kept[: ask.limit]
            known_ns = kept[0].time * MS + MS if ask.newest else known_ns
            until_ns = until_ns if ask.newest else kept[-1].time * MS
        events = [_past_trade(meaning, row, received_ns) for row in kept]
        if known_ns >= until_ns:
            return Page(events=events)
        return Page(events=events, start_ns=known_ns, end_ns=until_ns)

    def _tickers_page(self, ask: Ask, result: msgspec.Raw, now_ns: int, received_ns: int) -> Page:
        events: list[Event] = []
        for row in _rows(result, _Tickers).list:
            instrument = self._known(str(row.get("symbol", "")))
            if instrument is None:
                continue
            meaning = _meaning(instrument)
            if ask.query is Query.TICKERS:
                summary = _summary(meaning, row, now_ns, received_ns)
                events += [] if summary is None else [summary]
                continue
            wanted = OpenInterest if ask.query is Query.OPEN_INTEREST else (FundingRate, MarkPrice)
            said = _ticker_events(meaning, row, row.keys(), now_ns, received_ns)
            events += [e for e in said if isinstance(e, wanted)]
        return Page(events=events, next=None if ask.symbol else self._next_category(ask))

    def _listing_page(self, ask: Ask, result: msgspec.Raw) -> Page:
        listing = _rows(result, _Listing)
        category = (ask.cursor or "").partition("|")[0] or next(iter(self.sockets))
        instruments: list[Instrument] = []
        failures = 0
        for raw in listing.list:
            try:
                instruments.append(self._instrument(msgspec.json.decode(raw, type=_Listed, strict=False), category))
            except (msgspec.MsgspecError, ValueError, ArithmeticError, KeyError):
                failures += 1  # one bad row must not cost the others; a page of nothing else is refused below
        if failures and not instruments:
            raise ValueError("no instrument of the listing can be read")
        if listing.next_page_cursor:
            following: Ask | None = msgspec.structs.replace(ask, cursor=f"{category}|{listing.next_page_cursor}")
        else:
            following = self._next_category(ask)
        return Page(events=(), instruments=instruments, next=following)

    def _next_category(self, ask: Ask) -> Ask | None:
        categories = list(self.sockets)
        category = (ask.cursor or "").partition("|")[0] or categories[0]
        rest = categories[categories.index(category) + 1 :]
        return msgspec.structs.replace(ask, cursor=rest[0]) if rest else None

    def _instrument(self, row: _Listed, category: str) -> Instrument:
        inverse = category == "inverse"
        kind = Kind.SPOT if category == "spot" else Kind.PERPETUAL if "Perpetual" in row.contract_type else Kind.FUTURE
        lot = row.lot_size_filter.get("qtyStep") or row.lot_size_filter["basePrecision"]
        return Instrument(
            venue=self.name,
            symbol=row.symbol,
            kind=kind,
            coin=row.base_coin,
            quote=row.quote_coin,
            settle=row.settle_coin or row.quote_coin,
            tick_size=_positive(row.price_filter["tickSize"]),
            lot_size=_positive(lot),
            contract_size=Decimal(1) if inverse else None,
            inverse=inverse,
            listed_ns=row.launch_time * MS or None,
            expires_ns=row.delivery_time * MS or None,
            trading=row.status == "Trading",
        )


class BybitSpot(Bybit):
    """Spot: the same protocol with fewer streams and smaller pages."""

    name = "bybit_spot"
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


def _meaning(instrument: Instrument) -> _Meaning:
    category = "spot" if instrument.kind is Kind.SPOT else "inverse" if instrument.inverse else "linear"
    return _Meaning(instrument.name, category, instrument.inverse, instrument.contract_size or Decimal(1))


def _size(meaning: _Meaning, count: Decimal, price: Decimal) -> tuple[Decimal, Decimal | None, Decimal | None]:
    """Size in coins, value and contracts of a venue's count."""
    if not meaning.inverse:
        return count, None, None
    value = count * meaning.contract_size
    return (value / price).quantize(COIN_STEP, ROUND_HALF_EVEN), value, count


def _inverse_trade(meaning: _Meaning, row: _TradeRow, received_ns: int) -> Trade:
    size, value, contracts = _size(meaning, row.count, row.price)
    side = _TAKER[row.taker]
    return Trade(
        meaning.name, row.event_ms * MS, received_ns, row.id, row.seq, side, row.price, size, 1, value, contracts
    )


def _past_trade(meaning: _Meaning, row: _PastTrade, received_ns: int) -> Trade:
    if not (ZERO < row.price < NUMBER_MAX and ZERO < row.size < NUMBER_MAX):
        raise ValueError("price or size out of range")
    size, value, contracts = _size(meaning, row.size, row.price)
    side = _TAKER[row.side]
    return Trade(
        meaning.name, row.time * MS, received_ns, row.exec_id, row.seq, side, row.price, size, 1, value, contracts
    )


def _candle(
    meaning: _Meaning,
    interval_s: int | None,
    row: tuple[int, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal],
    received_ns: int,
    *,
    closed: bool,
) -> Candle:
    start_ms, first, high, low, last, volume, turnover = row
    open_ns = start_ms * MS
    if interval_s is None or open_of(open_ns, interval_s) != open_ns:
        raise ValueError("a candle of another interval")
    if not (ZERO < low <= min(first, last) and max(first, last) <= high < NUMBER_MAX):
        raise ValueError("candle prices out of range")
    if not (ZERO <= volume < NUMBER_MAX and ZERO <= turnover < NUMBER_MAX):
        raise ValueError("candle volume out of range")
    if meaning.inverse:
        volume, turnover = turnover, volume
    return Candle(
        instrument=meaning.name,
        side=Side.BOTH,
        interval_s=interval_s,
        open_ns=open_ns,
        open=first,
        high=high,
        low=low,
        close=last,
        volume=volume,
        quote_volume=turnover,
        trades=0,  # the venue does not count them
        first_ns=None,
        last_ns=None,
        closed=closed,
        received_ns=received_ns,
        origin="venue",
    )


def _checked(book: _Book) -> _Book:
    for price, size in (*book.bids, *book.asks):
        if not (ZERO < price < NUMBER_MAX and ZERO <= size < NUMBER_MAX):
            raise ValueError("level out of range")
    return book


def _alive(levels: tuple[_Pair, ...]) -> tuple[Level, ...]:
    return tuple(level for level in levels if level[1])


def _coins(meaning: _Meaning, level: _Pair) -> tuple[Decimal, Decimal]:
    price, count = level
    return price, _size(meaning, count, price)[0]


def _ticker_events(
    meaning: _Meaning, whole: _Fields, changed: Iterable[str], event_ns: int, received_ns: int
) -> list[Event | Signal]:
    """What the changed fields say together with those that stayed."""
    news = set(changed)
    events: list[Event | Signal] = []
    if news & {"openInterest", "singleOpenInterest"}:
        interest = _interest(meaning, whole, news, event_ns, received_ns)
        events += [] if interest is None else [interest]
    rate, funding_ms = _number(whole, "fundingRate"), _number(whole, "nextFundingTime")
    if news & {"fundingRate", "nextFundingTime", "fundingIntervalHour"} and rate is not None and funding_ms:
        hours = _number(whole, "fundingIntervalHour")
        interval_s = int(hours * 3_600) if hours else None
        funding_ns = int(funding_ms) * MS
        events.append(FundingRate(meaning.name, event_ns, received_ns, rate, funding_ns, interval_s, settled=False))
    mark = _number(whole, "markPrice")
    if news & {"markPrice", "indexPrice"} and mark is not None:
        index = _number(whole, "indexPrice")
        if mark < 0 or (index is not None and index < 0):
            raise ValueError("negative mark price")
        if mark:
            events.append(MarkPrice(meaning.name, event_ns, received_ns, mark, index or None))
    return events


def _interest(
    meaning: _Meaning, whole: _Fields, news: set[str], event_ns: int, received_ns: int
) -> OpenInterest | None:
    """One side. A frame that has only the sum of both is halved, whatever single value an earlier one had."""
    single = "singleOpenInterest" in news
    count = _number(whole, "singleOpenInterest" if single else "openInterest")
    worth_key = "singleOpenInterestValue" if single else "openInterestValue"
    worth = _number(whole, worth_key) if worth_key in news else None
    if count is None:
        return None
    if not single:
        count, worth = count * HALF, None if worth is None else worth * HALF
    if count < 0 or (worth is not None and worth < 0):
        raise ValueError("negative open interest")
    if not meaning.inverse:
        return OpenInterest(meaning.name, event_ns, received_ns, count, worth)
    value = count * meaning.contract_size
    if worth is None:
        mark = _number(whole, "markPrice")
        if not mark or mark < 0:
            return None
        worth = (value / mark).quantize(COIN_STEP, ROUND_HALF_EVEN)
    return OpenInterest(meaning.name, event_ns, received_ns, worth, value, count)


def _summary(meaning: _Meaning, row: _Fields, event_ns: int, received_ns: int) -> Ticker | None:
    keys = ("prevPrice24h", "highPrice24h", "lowPrice24h", "lastPrice", "volume24h", "turnover24h")
    first, high, low, last, volume, turnover = (_number(row, key) for key in keys)
    if not first or not high or not low or not last or volume is None or turnover is None:
        return None  # not traded yet
    if min(first, high, low, last) < 0 or min(volume, turnover) < 0:
        raise ValueError("negative ticker")
    if meaning.inverse:
        volume, turnover = turnover, volume
    return Ticker(meaning.name, event_ns, received_ns, first, high, low, last, volume, turnover, 0)


def _number(fields: _Fields, key: str) -> Decimal | None:
    """The field as a finite number; None where it is absent or empty."""
    text = fields.get(key)
    if text is None or text == "":
        return None
    number = Decimal(str(text))
    if not abs(number) < NUMBER_MAX:
        raise ValueError(f"{key} out of range")
    return number


def _positive(text: str) -> Decimal:
    number = Decimal(text)
    if not ZERO < number < NUMBER_MAX:
        raise ValueError("step out of range")
    return number


def _past_interest(meaning: _Meaning, row: _PastInterest, received_ns: int) -> OpenInterest:
    size = row.open_interest * HALF if row.single_open_interest is None else row.single_open_interest
    if not ZERO <= size < NUMBER_MAX:
        raise ValueError("open interest out of range")
    return OpenInterest(meaning.name, row.timestamp * MS, received_ns, size)


def _past_fundings(meaning: _Meaning, rows: Sequence[_PastFunding], received_ns: int) -> list[FundingRate]:
    """Settled rates. A period began where the one before it ended; the first of a page does not tell."""
    events: list[FundingRate] = []
    before_ms: int | None = None
    for row in rows:
        if not abs(row.funding_rate) < NUMBER_MAX:
            raise ValueError("funding rate out of range")
        at_ms = row.funding_rate_timestamp
        interval_s = None if before_ms is None else round((at_ms - before_ms) / 3_600_000) * 3_600 or None
        at_ns = at_ms * MS
        events.append(FundingRate(meaning.name, at_ns, received_ns, row.funding_rate, at_ns, interval_s, settled=True))
        before_ms = at_ms
    return events


def _code(ask: Ask, codes: Mapping[int, str]) -> str:
    code = codes.get(ask.interval_s or 0)
    if code is None:
        raise errors.BadInterval(f"{ask.interval_s} s is none of {sorted(codes)}")
    return code


def _rows(result: msgspec.Raw, shape: type[_T]) -> _T:
    return msgspec.json.decode(result, type=shape, strict=False)


def _pause_s(answer: Answer) -> float:
    """How long the venue says to wait."""
    try:
        if "retry-after" in answer.headers:
            return min(PAUSE_S_MAX, max(PAUSE_S, float(answer.headers["retry-after"])))
        reset_ms = int(answer.headers["x-bapi-limit-reset-timestamp"])
        return min(PAUSE_S_MAX, max(PAUSE_S, (reset_ms - answer.received_ns // MS) / 1_000))
    except (KeyError, ValueError):
        return PAUSE_S
