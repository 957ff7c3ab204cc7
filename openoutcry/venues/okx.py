"""OKX v5, spot, perpetual swaps and futures in one: frames in, events out.

https://www.okx.com/docs-v5/en/

    {"arg": {"channel": "trades-all", "instId": "BTC-USDT"}, "data": [{"instId": "BTC-USDT", "tradeId": "130639474",
        "px": "42219.9", "sz": "0.12060306", "side": "buy", "ts": "1630048897897", "source": "0"}]}
    {"arg": {"channel": "candle1m", "instId": "BTC-USDT-SWAP"}, "data": [["1597026360000", "8533.02", "8553.74",
        "8527.17", "8548.26", "45247", "529.5858061", "4529585.8", "0"]]}
    {"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": "update", "data": [{"asks": [["8476.98", "415", "0",
        "13"]], "bids": [], "ts": "1597026383085", "checksum": -855196043, "prevSeqId": 123456, "seqId": 123457}]}
    {"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": [{"instId": "IOST-USDT-SWAP", "details": [
        {"side": "buy", "posSide": "short", "bkPx": "0.007831", "sz": "13", "ts": "1692266434010"}]}]}
    {"event": "error", "code": "60018", "msg": "Wrong URL or channel:trades,instId:X-Y doesn't exist. ..."}
    pong

Sizes of derivatives are contracts: coins = contracts x ctVal x ctMult (linear), or dollars likewise (inverse), so a
derivative is only read when it is listed. Trades come from `trades-all`, one match a frame, whose ids are those of the
REST history; `trades` is read too: it joins the matches of one taker order at one price (`count`) under the last id.
Both leave block trades out, as the candles do. `side` of a liquidation is the order's, `bkPx` the bankruptcy price,
the details are in no order of time, and the venue says that not every liquidation is told. The funding rate is that of
the running period, which ends at `fundingTime`. Since 2026-08 `checksum` is 0 on every frame, which is none; older
frames have no `seqId` and are numbered as they come. Bars of six hours and more open at 00:00 UTC+8 unless asked for
with `utc`. REST lists come newest first; `after` means older, `before` newer, both without the bound itself.
"""

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
    Closing,
    Feed,
    Heartbeat,
    Limits,
    Page,
    Query,
    Rate,
    Refused,
    Request,
    Signal,
    Skipped,
    Stream,
    Subscribed,
)

MS = 1_000_000
DAY_NS = 86_400 * NS
BARS = {
    60: "1m",
    180: "3m",
    300: "5m",
    900: "15m",
    1_800: "30m",
    3_600: "1H",
    7_200: "2H",
    14_400: "4H",
    21_600: "6Hutc",
    43_200: "12Hutc",
    86_400: "1Dutc",
    604_800: "1Wutc",
}
INTERVALS = {bar: interval_s for interval_s, bar in BARS.items()}
INTEREST_BARS = {
    300: "5m",
    900: "15m",
    1_800: "30m",
    3_600: "1H",
    7_200: "2H",
    14_400: "4H",
    21_600: "6Hutc",
    43_200: "12Hutc",
    86_400: "1Dutc",
    604_800: "1Wutc",
}
# The shortest funding interval: a page of so many rows never spans less than that many hours.
FUNDING_STEP_S = 3_600
# How far back the venue serves: bars of `candles` and of past open interest; past trades and funding.
RECENT_BARS = 1_440
PAST_DAYS = 93
KINDS = {"SPOT": Kind.SPOT, "SWAP": Kind.PERPETUAL, "FUTURES": Kind.FUTURE}
KIND_NAMES = {"SPOT": "spot", "SWAP": "a swap", "FUTURES": "a dated future"}

STREAMS_MAX = 200
PAUSE_S = 2.0
PAUSE_S_MAX = 600.0
NUMBER_MAX = Decimal("1e18")
COIN_STEP = Decimal("1e-8")
ZERO = Decimal(0)
# An unlisted symbol does not tell its steps: the finest there is.
STEP_UNKNOWN = Decimal("1e-8")

CHANNELS: Mapping[Feed, tuple[str, str, float | None]] = {  # channel, endpoint, silence in seconds that is not normal
    Feed.TRADES: ("trades-all", "business", 300.0),
    Feed.CANDLES: ("candle1m", "business", 300.0),
    Feed.QUOTES: ("bbo-tbt", "public", 120.0),
    Feed.DEPTH: ("books", "public", 120.0),
    Feed.LIQUIDATIONS: ("liquidation-orders", "public", None),
    Feed.OPEN_INTEREST: ("open-interest", "public", 300.0),
    Feed.FUNDING: ("funding-rate", "public", 300.0),
    Feed.MARK_PRICE: ("mark-price", "public", 120.0),
}
# Requests and seconds: each endpoint has its own budget.
WEIGHTS: Mapping[str, Rate] = {
    "public/instruments": Rate(20, 2.0),
    "public/time": Rate(10, 2.0),
    "public/open-interest": Rate(20, 2.0),
    "public/funding-rate": Rate(10, 2.0),
    "public/funding-rate-history": Rate(10, 2.0),
    "public/mark-price": Rate(10, 2.0),
    "market/candles": Rate(40, 2.0),
    "market/history-candles": Rate(20, 2.0),
    "market/history-trades": Rate(20, 2.0),
    "market/tickers": Rate(20, 2.0),
    "market/ticker": Rate(20, 2.0),
    "rubik/stat/contracts/open-interest-history": Rate(10, 2.0),
}
TOO_FAST = frozenset({"50011", "50061"})
NOT_LISTED = frozenset({"51001", "51000", "51014"})

_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_SPOT = re.compile(r"(?P<coin>[\w$]+)-(?P<quote>[\w$]+)")
_NAMED = re.compile(r"channel:\s*(?P<channel>[\w-]+),\s*inst(?:Id|Type):\s*(?P<symbol>[\w$-]+)")
_HTML = (b"<!", b"<h", b"<H")

_Ms = Annotated[int, msgspec.Meta(gt=0, lt=10_000_000_000_000)]
_Row = tuple[Decimal, Decimal, str, str]
_Bar = tuple[_Ms, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal, Literal["0", "1"]]
_OrderSide = Literal["buy", "sell"]
_T = TypeVar("_T")


class _TradeRow(msgspec.Struct, gc=False, rename={"id": "tradeId", "price": "px", "contracts": "sz", "event_ms": "ts"}):
    id: int
    price: Decimal
    contracts: Decimal
    side: _OrderSide
    event_ms: _Ms
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class _TradeFrame(msgspec.Struct, gc=False):
    data: list[_TradeRow]


class _CandleFrame(msgspec.Struct, gc=False):
    data: list[_Bar]


class _Book(msgspec.Struct, gc=False, rename="camel"):
    bids: tuple[_Row, ...]
    asks: tuple[_Row, ...]
    ts: _Ms
    checksum: int = 0
    seq_id: int | None = None
    prev_seq_id: int | None = None


class _BookFrame(msgspec.Struct, gc=False):
    data: list[_Book]
    action: Literal["snapshot", "update"] = "snapshot"


class _TickerRow(msgspec.Struct, rename="camel"):
    inst_id: str
    ts: _Ms
    last: str = ""
    ask_px: str = ""
    ask_sz: str = ""
    bid_px: str = ""
    bid_sz: str = ""
    open24h: str = ""
    high24h: str = ""
    low24h: str = ""
    vol24h: str = ""
    vol_ccy24h: str = msgspec.field(default="", name="volCcy24h")


class _TickerFrame(msgspec.Struct):
    data: list[_TickerRow]


class _Order(msgspec.Struct, rename={"price": "bkPx", "contracts": "sz", "event_ms": "ts"}):
    side: _OrderSide
    price: Decimal
    contracts: Decimal
    event_ms: _Ms


class _Liquidated(msgspec.Struct, rename="camel"):
    inst_id: str
    details: list[_Order]


class _LiquidationFrame(msgspec.Struct):
    data: list[_Liquidated]


class _InterestRow(msgspec.Struct, rename="camel"):
    oi: Decimal
    oi_ccy: str
    ts: _Ms
    oi_usd: str = ""


class _InterestFrame(msgspec.Struct):
    data: list[_InterestRow]


class _FundingRow(msgspec.Struct, rename="camel"):
    funding_rate: str
    funding_time: _Ms
    next_funding_time: str = ""
    prev_funding_time: str = ""
    ts: str = ""


class _FundingFrame(msgspec.Struct):
    data: list[_FundingRow]


class _MarkRow(msgspec.Struct, rename="camel"):
    mark_px: Decimal
    ts: _Ms


class _MarkFrame(msgspec.Struct):
    data: list[_MarkRow]


class _Arg(msgspec.Struct, rename="camel"):
    channel: str = ""
    inst_id: str = ""
    inst_type: str = ""

    @property
    def name(self) -> str:
        return f"{self.channel}:{self.inst_id or self.inst_type}"


class _Head(msgspec.Struct):
    """Every frame, for what is not routed by its first bytes."""

    event: str | None = None
    arg: _Arg | None = None
    code: str = ""
    msg: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


class _Envelope(msgspec.Struct):
    code: str
    msg: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")


class _PastFunding(msgspec.Struct, rename="camel"):
    funding_rate: str
    funding_time: _Ms
    realized_rate: str = ""


class _Listed(msgspec.Struct, rename="camel"):
    inst_id: str
    inst_type: str
    state: str
    tick_sz: str
    lot_sz: str
    base_ccy: str = ""
    quote_ccy: str = ""
    settle_ccy: str = ""
    ct_val: str = ""
    ct_mult: str = ""
    ct_type: str = ""
    list_time: str = ""
    exp_time: str = ""


class _Meaning(msgspec.Struct, frozen=True, gc=False):
    """What decode needs of an instrument, at hand. `contract_size` None: sizes are coins."""

    name: str
    inverse: bool
    contract_size: Decimal | None


_Said = Sequence[Event | Signal]
_Route = Callable[[bytes, int, _Meaning], _Said]


class Okx:
    """Spot, swaps and futures: one venue, two sockets."""

    name = "okx"
    rest = "https://www.okx.com"
    sockets: Mapping[str, str] = {
        "public": "wss://ws.okx.com:8443/ws/v5/public",
        "business": "wss://ws.okx.com:8443/ws/v5/business",
    }
    limits = Limits(
        streams_per_connection=STREAMS_MAX,
        streams_per_subscribe=100,  # some 8 kB of the 64 kB that one request may have
        messages=Rate(480, 3_600.0),
        connections=Rate(3, 1.0),
        lifetime_s=86_400.0,
        weights=WEIGHTS,
        heartbeat=Heartbeat(25.0, b"ping", idle=True),
        silence_s=40.0,
        trade_ids="count",
    )
    feeds = frozenset(Feed)
    queries = frozenset(Query) - {Query.PREDICTED_FUNDING}
    intervals_s = frozenset(BARS)
    page_max: Mapping[Query, int] = {
        Query.CANDLES: 300,
        Query.TRADES: 100,
        Query.OPEN_INTEREST_HISTORY: 100,
        Query.FUNDING_HISTORY: 400,
    }

    def __init__(self) -> None:
        self._listing: dict[str, Instrument] = {}
        self._meanings: dict[str, _Meaning] = {}
        self._streams: dict[bytes, tuple[_Route, _Meaning]] = {}
        self._numbers: dict[str, int] = {}
        self._routes: dict[str, _Route] = {
            "trades": self._trades,
            "trades-all": self._trades,
            "bbo-tbt": self._quote,
            "tickers": self._ticker,
            "books": self._depth,
            "open-interest": self._interest,
            "funding-rate": self._funding,
            "mark-price": self._mark,
            **{f"candle{bar}": self._candles_of(interval_s) for bar, interval_s in INTERVALS.items()},
        }
        self._decode_trades = msgspec.json.Decoder(_TradeFrame, strict=False).decode
        self._decode_candles = msgspec.json.Decoder(_CandleFrame, strict=False).decode
        self._decode_book = msgspec.json.Decoder(_BookFrame, strict=False).decode
        self._decode_tickers = msgspec.json.Decoder(_TickerFrame, strict=False).decode
        self._decode_liquidations = msgspec.json.Decoder(_LiquidationFrame, strict=False).decode
        self._decode_interest = msgspec.json.Decoder(_InterestFrame, strict=False).decode
        self._decode_funding = msgspec.json.Decoder(_FundingFrame, strict=False).decode
        self._decode_mark = msgspec.json.Decoder(_MarkFrame, strict=False).decode
        self._decode_head = msgspec.json.Decoder(_Head).decode

    # What symbols mean.

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing: what symbols mean, contract sizes."""
        self._listing = {i.symbol: i for i in instruments}
        self._meanings = {symbol: _meaning(i) for symbol, i in self._listing.items()}
        self._streams.clear()

    def assume(self, symbol: str) -> Instrument | None:
        """A spot pair tells all; a derivative does not tell its contract size."""
        pair = _SPOT.fullmatch(symbol)
        if pair is None:
            return None
        return Instrument(
            venue=self.name,
            symbol=symbol,
            kind=Kind.SPOT,
            coin=pair["coin"],
            quote=pair["quote"],
            settle=pair["quote"],
            tick_size=STEP_UNKNOWN,
            lot_size=STEP_UNKNOWN,
        )

    def _known(self, symbol: str) -> _Meaning | None:
        known = self._meanings.get(symbol)
        if known is not None:
            return known
        assumed = self.assume(symbol)
        return None if assumed is None else _meaning(assumed)

    # Streams.

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """One channel a symbol; liquidations come by type for all. Symbols that cannot have the feed are left out."""
        channel, endpoint, silence_s = CHANNELS[feed]
        feeds = frozenset({feed})
        if feed is Feed.LIQUIDATIONS:
            kinds = {"SWAP", "FUTURES"} if symbols is None else {_inst_type(s) for s in symbols} - {"SPOT"}
            return [Stream(f"{channel}:{kind}", endpoint, "*", feeds, silence_s) for kind in sorted(kinds)]
        if symbols is None:
            raise errors.Unsupported(f"okx has no stream of {feed} of all instruments")
        return [
            Stream(f"{channel}:{symbol}", endpoint, symbol, feeds, silence_s)
            for symbol in symbols
            if _offers(feed, symbol)
        ]

    def url(self, address: str, endpoint: str, streams: Sequence[Stream]) -> str:
        """The configured address itself: streams are asked for on the open connection."""
        assert all(stream.endpoint == endpoint for stream in streams)
        return address

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        """Frames of as many channels as are well below the size of one request."""
        op = "unsubscribe" if undo else "subscribe"
        args = [_argument(stream.name) for stream in streams]
        size = self.limits.streams_per_subscribe
        return [msgspec.json.encode({"op": op, "args": args[i : i + size]}) for i in range(0, len(args), size)]

    def reset(self, endpoint: str) -> None:
        """Number unnumbered books anew."""
        if endpoint == CHANNELS[Feed.DEPTH][1]:
            self._numbers.clear()

    # Frames.

    def decode(self, frame: bytes, received_ns: int) -> _Said:
        """What one frame says. Raises Unreadable."""
        try:
            # {"arg":{"channel":"trades","instId":"BTC-USDT"}, as the venue writes it; anything else is looked at whole.
            known = self._streams.get(frame[8 : frame.find(b"}", 8)])
            if known is not None:
                return known[0](frame, received_ns, known[1])
            if frame == b"pong":
                return [Alive()]
            return self._first(frame, received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", frame) from e

    def _first(self, frame: bytes, received_ns: int) -> _Said:
        """Find out what a frame is, and remember it where it is listed: nothing else fills the memory."""
        head = self._decode_head(frame)
        if head.event is not None:
            return _answer(head)
        if head.arg is None or not head.data:
            raise ValueError("neither data nor an answer")
        channel, symbol = head.arg.channel, head.arg.inst_id
        if channel == CHANNELS[Feed.LIQUIDATIONS][0]:
            return self._liquidations(frame, received_ns)
        route = self._routes.get(channel)
        if route is None:
            return [Skipped("unknown_channel", channel)]
        meaning = self._meanings.get(symbol)
        if meaning is None:
            return [Skipped("unknown_instrument", symbol)]
        self._streams[f'"channel":"{channel}","instId":"{symbol}"'.encode()] = (route, meaning)
        return route(frame, received_ns, meaning)

    def _trades(self, frame: bytes, received_ns: int, meaning: _Meaning) -> _Said:
        events: list[Event | Signal] = []
        name, contract_size = meaning.name, meaning.contract_size
        for row in self._decode_trades(frame).data:
            price, count = row.price, row.contracts
            if not (ZERO < price < NUMBER_MAX and ZERO < count < NUMBER_MAX):
                raise ValueError("price or size out of range")
            side, number, event_ns = _SIDES[row.side], row.id, row.event_ms * MS
            if contract_size is None:
                events.append(Trade(name, event_ns, received_ns, number, number, side, price, count, row.count))
            else:
                size, value = _size(meaning, count, price)
                events.append(
                    Trade(name, event_ns, received_ns, number, number, side, price, size, row.count, value, count)
                )
        return events

    def _candles_of(self, interval_s: int) -> _Route:
        def candles(frame: bytes, received_ns: int, meaning: _Meaning) -> _Said:
            return [_candle(meaning, interval_s, row, received_ns) for row in self._decode_candles(frame).data]

        return candles

    def _quote(self, frame: bytes, received_ns: int, meaning: _Meaning) -> _Said:
        events: list[Event | Signal] = []
        for book in self._decode_book(frame).data:
            bids, asks = _levels(book.bids), _levels(book.asks)
            bid, ask = (_coins(meaning, side[0]) if side else (None, None) for side in (bids, asks))
            events.append(Quote(meaning.name, book.ts * MS, received_ns, *bid, *ask))
        return events

    def _ticker(self, frame: bytes, received_ns: int, meaning: _Meaning) -> _Said:
        events: list[Event | Signal] = []
        for row in self._decode_tickers(frame).data:
            bid, ask = (
                _coins(meaning, (price, size)) if price and size else (None, None)
                for price, size in (
                    (_number(row.bid_px), _number(row.bid_sz)),
                    (_number(row.ask_px), _number(row.ask_sz)),
                )
            )
            events.append(Quote(meaning.name, row.ts * MS, received_ns, *bid, *ask))
        return events

    def _depth(self, frame: bytes, received_ns: int, meaning: _Meaning) -> _Said:
        message = self._decode_book(frame)
        events: list[Event | Signal] = []
        for book in message.data:
            bids, asks = _levels(book.bids), _levels(book.asks)
            event_ns, checksum = book.ts * MS, book.checksum or None
            snapshot = message.action == "snapshot"
            seq, previous = self._number(meaning.name, book, snapshot=snapshot)
            if snapshot:
                bids, asks = _alive(bids), _alive(asks)
                events.append(DepthSnapshot(meaning.name, event_ns, received_ns, bids, asks, seq, checksum))
            else:
                events.append(DepthDelta(meaning.name, event_ns, received_ns, bids, asks, seq, seq, previous, checksum))
        return events

    def _number(self, name: str, book: _Book, *, snapshot: bool) -> tuple[int, int | None]:
        """The venue's number of this book and of the one before it, or ours where it sent none."""
        if book.seq_id is not None:
            return book.seq_id, book.prev_seq_id
        previous = 0 if snapshot else self._numbers.get(name, 0)
        self._numbers[name] = previous + 1
        return previous + 1, previous

    def _interest(self, frame: bytes, received_ns: int, meaning: _Meaning) -> _Said:
        return [_open_interest(meaning, row, received_ns) for row in self._decode_interest(frame).data]

    def _funding(self, frame: bytes, received_ns: int, meaning: _Meaning) -> _Said:
        rates = [_running(meaning, row, received_ns) for row in self._decode_funding(frame).data]
        return [rate for rate in rates if rate is not None]

    def _mark(self, frame: bytes, received_ns: int, meaning: _Meaning) -> _Said:
        return [_mark_price(meaning, row, received_ns) for row in self._decode_mark(frame).data]

    def _liquidations(self, frame: bytes, received_ns: int) -> _Said:
        events: list[Event | Signal] = []
        seen: dict[str, int] = {}
        for row in self._decode_liquidations(frame).data:
            meaning = self._meanings.get(row.inst_id)
            if meaning is None:
                events.append(Skipped("unknown_instrument", row.inst_id))
                continue
            for order in row.details:
                price, count = order.price, order.contracts
                if not (ZERO < price < NUMBER_MAX and ZERO < count < NUMBER_MAX):
                    raise ValueError("price or size out of range")
                # The venue gives no id; two alike in one frame are two.
                key = f"{order.event_ms}-{order.side}-{price}-{count}"
                nth = seen[row.inst_id + key] = seen.get(row.inst_id + key, 0) + 1
                size, value = _size(meaning, count, price)
                side, event_ns, contracts = _SIDES[order.side], order.event_ms * MS, _contracts(meaning, count)
                identity = f"{key}-{nth}"
                events.append(
                    Liquidation(
                        meaning.name,
                        event_ns,
                        received_ns,
                        identity,
                        side,
                        price,
                        size,
                        value,
                        contracts,
                        bankruptcy=True,
                    )
                )
        return events

    # Questions.

    def request(self, ask: Ask) -> Request:
        """What to send for `ask`. Raises Unsupported, BadInterval."""
        if ask.query not in self.queries:
            raise errors.Unsupported(f"okx does not serve {ask.query}")
        path, query = self._question(ask)
        said = tuple((key, str(value)) for key, value in query.items() if value is not None)
        return Request(path=f"/api/v5/{path}", query=said, pool=path)

    def _question(self, ask: Ask) -> tuple[str, dict[str, str | int | None]]:
        if ask.query is Query.TIME:
            return "public/time", {}
        if ask.query is Query.INSTRUMENTS:
            return "public/instruments", {"instType": ask.cursor or "SPOT"}
        if ask.query is Query.TICKERS and ask.symbol is None:
            return "market/tickers", {"instType": ask.cursor or "SPOT"}
        assert ask.symbol is not None, f"{ask.query} is asked of one instrument"
        query: dict[str, str | int | None] = {"instId": ask.symbol}
        if ask.query is Query.TICKERS:
            return "market/ticker", query
        if ask.query is Query.TRADES:
            return "market/history-trades", query | self._trade_bounds(ask)
        if ask.query is Query.CANDLES:
            return self._candle_question(ask, query)
        _refuse(ask)
        inst_type = _inst_type(ask.symbol)
        if ask.query is Query.OPEN_INTEREST:
            return "public/open-interest", {"instType": inst_type, **query}
        if ask.query is Query.FUNDING:
            if ask.cursor == "mark":
                return "public/mark-price", {"instType": inst_type, **query}
            return "public/funding-rate", query
        if ask.query is Query.FUNDING_HISTORY:
            start_ms, end_ms, rows = self._window_ms(ask)
            return "public/funding-rate-history", {**query, "before": _less(start_ms), "after": end_ms, "limit": rows}
        period = _bar(ask, INTEREST_BARS)
        start_ms, end_ms, rows = self._window_ms(ask)
        # Whether the venue counts the bounds in is not told: these give the same rows either way.
        bounds = {"begin": _less(start_ms), "end": _less(end_ms), "limit": rows}
        return "rubik/stat/contracts/open-interest-history", {**query, "period": period, **bounds}

    def _candle_question(self, ask: Ask, query: dict[str, str | int | None]) -> tuple[str, dict[str, str | int | None]]:
        """`candles` has the newest bars and the growing one, `history-candles` the closed ones of all time."""
        bar = _bar(ask, BARS)
        start_ms, end_ms, rows = self._window_ms(ask)
        path = "market/candles" if _recent(ask) else "market/history-candles"
        return path, {**query, "bar": bar, "before": _less(start_ms), "after": end_ms, "limit": rows}

    def _trade_bounds(self, ask: Ask) -> dict[str, str | int | None]:
        """By id upwards; by time only to find the id to begin with; downwards from the newest."""
        rows_max = self.page_max[Query.TRADES]
        if ask.newest or (ask.start_ns is None and ask.from_id is None):
            rows = rows_max if ask.limit is None else max(1, min(rows_max, ask.limit))
            if ask.cursor is not None or ask.end_ns is None:
                return {"type": 1, "after": ask.cursor, "limit": rows}
            return {"type": 2, "after": -(-ask.end_ns // MS), "limit": rows}
        if ask.from_id is not None:
            return {"type": 1, "after": int(ask.from_id) + rows_max + 1, "limit": rows_max}
        assert ask.start_ns is not None
        return {"type": 2, "after": -(-ask.start_ns // MS), "limit": 1}

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

    def _window_ms(self, ask: Ask) -> tuple[int | None, int | None, int]:
        start_ns, end_ns, rows = self._window(ask)
        return None if start_ns is None else start_ns // MS, None if end_ns is None else -(-end_ns // MS), rows

    # Answers.

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What the answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        try:
            return self._pages(ask, self._data(ask, answer), answer.received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, KeyError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", answer.body) from e

    def _data(self, ask: Ask, answer: Answer) -> msgspec.Raw:
        if answer.status == 429:
            raise errors.RateLimited(self.name, "too many requests", _pause_s(answer))
        if answer.status >= 500 or (answer.status != 200 and answer.body.lstrip()[:2] in _HTML):
            raise errors.Unavailable(self.name, f"okx answered {answer.status}")
        envelope = msgspec.json.decode(answer.body, type=_Envelope, strict=False)
        code = envelope.code
        if code == "0" and answer.status == 200:
            return envelope.data
        if code in TOO_FAST:
            raise errors.RateLimited(self.name, f"too many requests ({code})", _pause_s(answer))
        if code in NOT_LISTED and ask.symbol is not None:
            raise errors.UnknownInstrument(f"okx does not list {ask.symbol}")
        raise errors.Unavailable(self.name, f"okx answered {answer.status} {code}: {envelope.msg[:100]}")

    def _pages(self, ask: Ask, data: msgspec.Raw, received_ns: int) -> Page:
        if ask.query is Query.TIME:
            return Page(events=())
        if ask.query is Query.INSTRUMENTS:
            return _listing_page(ask, data)
        if ask.query is Query.TICKERS:
            return self._tickers_page(ask, data, received_ns)
        assert ask.symbol is not None
        meaning = self._known(ask.symbol)
        if meaning is None:
            raise errors.UnknownInstrument(f"okx does not list {ask.symbol}")
        if ask.query is Query.TRADES:
            return self._trades_page(ask, meaning, data, received_ns)
        if ask.query is Query.CANDLES:
            return self._candles_page(ask, meaning, data, received_ns)
        if ask.query is Query.OPEN_INTEREST:
            return Page(events=[_open_interest(meaning, row, received_ns) for row in _rows(data, list[_InterestRow])])
        if ask.query is Query.FUNDING:
            return _funding_page(ask, meaning, data, received_ns)
        if ask.query is Query.FUNDING_HISTORY:
            settled = sorted(_rows(data, list[_PastFunding]), key=lambda row: row.funding_time)
            return self._series(ask, _past_fundings(meaning, settled, received_ns), received_ns, PAST_DAYS * DAY_NS)
        past = sorted(_rows(data, list[tuple[_Ms, Decimal, str, str]]))
        interests = [
            _open_interest(meaning, _InterestRow(oi=row[1], oi_ccy=row[2], ts=row[0], oi_usd=row[3]), received_ns)
            for row in past
        ]
        return self._series(ask, interests, received_ns, (RECENT_BARS + 1) * (ask.interval_s or 0) * NS)

    def _series(self, ask: Ask, events: Sequence[OpenInterest | FundingRate], now_ns: int, reach_ns: int) -> Page:
        """A page of rows in time order; the venue has none that are older than `reach_ns`."""
        start_ns, end_ns, rows = self._window(ask)
        low = max(start_ns or 0, ask.start_ns or 0)
        kept = [e for e in events if low <= e.event_ns and (end_ns is None or e.event_ns < end_ns)]
        left = None if ask.limit is None else ask.limit - len(kept)
        until_ns = min(now_ns, end_ns) if end_ns is not None else now_ns
        if ask.newest or ask.start_ns is None:
            full = len(events) >= rows
            more = kept and full and left is not None and left > 0 and kept[0].event_ns > (ask.start_ns or 0)
            following = msgspec.structs.replace(ask, newest=True, end_ns=kept[0].event_ns, limit=left) if more else None
            known_ns = kept[0].event_ns if kept else None
        else:
            assert end_ns is not None
            if not events and end_ns < now_ns - reach_ns and (ask.end_ns or now_ns) <= end_ns:
                raise errors.OutOfReach(self.name, f"okx no longer serves {ask.query} of that time")
            more = end_ns < min(ask.end_ns or now_ns, now_ns) and (left is None or left > 0)
            following = msgspec.structs.replace(ask, start_ns=end_ns, limit=left) if more else None
            known_ns = max(ask.start_ns, now_ns - reach_ns)
        if known_ns is None or known_ns >= until_ns:
            return Page(events=kept, next=following)
        return Page(events=kept, next=following, start_ns=known_ns, end_ns=until_ns)

    def _candles_page(self, ask: Ask, meaning: _Meaning, data: msgspec.Raw, now_ns: int) -> Page:
        interval_s = ask.interval_s or 0
        rows = sorted(_rows(data, list[_Bar]))
        start_ns, end_ns, rows_max = self._window(ask)
        low = max(start_ns or 0, ask.start_ns or 0)
        candles = [_candle(meaning, interval_s, row, now_ns) for row in rows]
        candles = [c for c in candles if low <= c.open_ns and (end_ns is None or c.open_ns < end_ns)]
        left = None if ask.limit is None else ask.limit - len(candles)
        if ask.newest or ask.start_ns is None:
            return self._newest_candles(ask, candles, now_ns, full=len(rows) >= rows_max)
        assert end_ns is not None
        whole_ns = open_of(now_ns, interval_s)
        following: Ask | None
        if not _recent(ask):
            # The history lags: what it has not yet, the newest bars have.
            until_ns = candles[-1].open_ns + interval_s * NS if candles else low
            reach_ns = now_ns - RECENT_BARS * interval_s * NS
            if until_ns < min(end_ns, now_ns) and end_ns > reach_ns and (left is None or left > 0):
                following = msgspec.structs.replace(ask, start_ns=until_ns, limit=left, cursor="recent")
                return _promised(candles, following, ask.start_ns, min(until_ns, whole_ns))
            known_ns = ask.start_ns
        else:
            known_ns = max(ask.start_ns, whole_ns - (RECENT_BARS - 1) * interval_s * NS)
        more = end_ns < min(ask.end_ns or now_ns, now_ns) and (left is None or left > 0)
        following = msgspec.structs.replace(ask, start_ns=end_ns, limit=left) if more else None
        return _promised(candles, following, known_ns, min(end_ns, whole_ns))

    def _newest_candles(self, ask: Ask, candles: Sequence[Candle], now_ns: int, *, full: bool) -> Page:
        left = None if ask.limit is None else ask.limit - len(candles)
        oldest_ns = candles[0].open_ns if candles else ask.end_ns
        wanted = left is not None and left > 0 and (oldest_ns is None or oldest_ns > (ask.start_ns or 0))
        following = None
        if wanted and (full or ask.cursor is None):
            # Where the newest bars end, the history goes on.
            cursor = ask.cursor if full else "history"
            following = msgspec.structs.replace(ask, newest=True, end_ns=oldest_ns, limit=left, cursor=cursor)
        whole_ns = open_of(now_ns, ask.interval_s or 1)
        until_ns = whole_ns if ask.end_ns is None else min(ask.end_ns, whole_ns)
        return _promised(candles, following, candles[0].open_ns if candles else None, until_ns)

    def _trades_page(self, ask: Ask, meaning: _Meaning, data: msgspec.Raw, now_ns: int) -> Page:
        rows = sorted(_rows(data, list[_TradeRow]), key=lambda row: row.id)
        if ask.newest or (ask.start_ns is None and ask.from_id is None):
            return self._newest_trades(ask, meaning, rows, now_ns)
        if ask.from_id is None:
            return self._begin(ask, rows)
        after, rows_max = int(ask.from_id), self.page_max[Query.TRADES]
        low, high = ask.start_ns or 0, now_ns if ask.end_ns is None else ask.end_ns
        fresh = [row for row in rows if row.id > after]
        kept = [row for row in fresh if low <= row.event_ms * MS < high]
        cut = ask.limit is not None and len(kept) > ask.limit
        kept = kept[: ask.limit] if cut else kept
        events = [_past_trade(meaning, row, now_ns) for row in kept]
        left = None if ask.limit is None else ask.limit - len(kept)
        past = bool(fresh) and fresh[-1].event_ms * MS >= high
        head = not fresh or fresh[-1].id < after + rows_max
        if past or head or cut or left == 0:
            until_ns = kept[-1].event_ms * MS if (cut or left == 0) and kept else min(high, now_ns)
            return _promised(events, None, ask.start_ns, until_ns)
        until_ns = fresh[-1].event_ms * MS
        start_ns = None if ask.start_ns is None else max(ask.start_ns, until_ns)
        following = msgspec.structs.replace(ask, start_ns=start_ns, from_id=fresh[-1].id, limit=left)
        return _promised(events, following, ask.start_ns, until_ns)

    def _begin(self, ask: Ask, rows: Sequence[_TradeRow]) -> Page:
        """The last trade before the start tells the id to begin with."""
        assert ask.start_ns is not None
        assert ask.symbol is not None
        if rows:
            return Page(events=(), next=msgspec.structs.replace(ask, from_id=rows[-1].id))
        listed = self._listing.get(ask.symbol)
        if listed is not None and listed.listed_ns is not None and listed.listed_ns >= ask.start_ns - DAY_NS:
            # Nothing was traded before: there is no id to begin with, so the way is down to the first trade.
            return Page(events=(), next=msgspec.structs.replace(ask, newest=True, limit=None))
        raise errors.OutOfReach(self.name, "okx serves the trades of three months")

    def _newest_trades(self, ask: Ask, meaning: _Meaning, rows: Sequence[_TradeRow], now_ns: int) -> Page:
        low, rows_max = ask.start_ns or 0, self.page_max[Query.TRADES]
        kept = [
            row for row in rows if low <= row.event_ms * MS and (ask.end_ns is None or row.event_ms * MS < ask.end_ns)
        ]
        left = None if ask.limit is None else ask.limit - len(kept)
        events = [_past_trade(meaning, row, now_ns) for row in kept]
        full = len(rows) >= min(rows_max, ask.limit or rows_max)
        until_ns = now_ns if ask.end_ns is None else min(now_ns, ask.end_ns)
        if not full or rows[0].event_ms * MS < low:
            return _promised(events, None, ask.start_ns, until_ns)
        # Of the oldest millisecond some may still be missing: the next page ends with it.
        known_ns = rows[0].event_ms * MS + MS
        following = None
        if (left is not None and left > 0) or (left is None and ask.start_ns is not None):
            following = msgspec.structs.replace(ask, newest=True, end_ns=known_ns, cursor=str(rows[0].id), limit=left)
        return _promised(events, following, known_ns, until_ns)

    def _tickers_page(self, ask: Ask, data: msgspec.Raw, received_ns: int) -> Page:
        events = []
        for row in _rows(data, list[_TickerRow]):
            meaning = self._known(row.inst_id)
            summary = None if meaning is None else _summary(meaning, row, received_ns)
            if summary is not None:
                events.append(summary)
        return Page(events=events, next=None if ask.symbol else _next_type(ask))


def _meaning(instrument: Instrument) -> _Meaning:
    return _Meaning(instrument.name, instrument.inverse, instrument.contract_size)


def _inst_type(symbol: str) -> str:
    """Spot is COIN-QUOTE, a swap has -SWAP after it, a future its day."""
    if symbol.endswith("-SWAP"):
        return "SWAP"
    return "SPOT" if symbol.count("-") == 1 else "FUTURES"


def _offers(feed: Feed, symbol: str) -> bool:
    inst_type = _inst_type(symbol)
    if feed is Feed.FUNDING:
        return inst_type == "SWAP"
    return inst_type != "SPOT" or feed not in {Feed.OPEN_INTEREST, Feed.MARK_PRICE}


def _refuse(ask: Ask) -> None:
    """Raise Unsupported where the instrument's type has no such thing."""
    inst_type = _inst_type(ask.symbol or "")
    funding = ask.query in {Query.FUNDING, Query.FUNDING_HISTORY}
    if inst_type == "SPOT" or (funding and inst_type != "SWAP"):
        raise errors.Unsupported(f"{ask.symbol} is {KIND_NAMES[inst_type]} and has no {ask.query}")


def _argument(name: str) -> dict[str, str]:
    channel, _, symbol = name.partition(":")
    return {"channel": channel, "instType" if symbol in KINDS else "instId": symbol}


def _answer(head: _Head) -> _Said:
    arg = head.arg
    if head.event == "subscribe":
        return [Subscribed((arg.name,) if arg else ())]
    if head.event in {"unsubscribe", "channel-conn-count"}:
        return [Alive()]
    if head.event == "notice":
        return [Closing(f"{head.code} {head.msg}")] if head.code == "64008" else [Alive()]
    if head.event in {"error", "channel-conn-count-error"}:
        named = _NAMED.search(head.msg)
        name = arg.name if arg and arg.channel else f"{named['channel']}:{named['symbol']}" if named else None
        return [Refused(name, f"{head.code} {head.msg}")]
    return [Skipped("unknown_event", head.event or "")]


def _size(meaning: _Meaning, count: Decimal, price: Decimal) -> tuple[Decimal, Decimal | None]:
    """Coins, and their value where price x size is not exactly that, of a venue's count."""
    if meaning.contract_size is None:
        return count, None
    worth = count * meaning.contract_size
    if not meaning.inverse:
        return worth, None
    return (worth / price).quantize(COIN_STEP, ROUND_HALF_EVEN), worth


def _contracts(meaning: _Meaning, count: Decimal) -> Decimal | None:
    return None if meaning.contract_size is None else count


def _coins(meaning: _Meaning, level: Level) -> Level:
    price, count = level
    return price, _size(meaning, count, price)[0]


def _levels(rows: tuple[_Row, ...]) -> tuple[Level, ...]:
    for row in rows:
        if not (ZERO < row[0] < NUMBER_MAX and ZERO <= row[1] < NUMBER_MAX):
            raise ValueError("level out of range")
    return tuple(row[:2] for row in rows)


def _alive(levels: tuple[Level, ...]) -> tuple[Level, ...]:
    return tuple(level for level in levels if level[1])


def _candle(meaning: _Meaning, interval_s: int, row: _Bar, received_ns: int) -> Candle:
    start_ms, first, high, low, last, count, coins, quote, confirm = row
    open_ns = start_ms * MS
    if open_of(open_ns, interval_s) != open_ns:
        raise ValueError("a candle of another interval")
    if not (ZERO < low <= min(first, last) and max(first, last) <= high < NUMBER_MAX):
        raise ValueError("candle prices out of range")
    # Spot counts coins first; a derivative counts contracts first and coins second.
    volume = count if meaning.contract_size is None else coins
    if not (ZERO <= volume < NUMBER_MAX and ZERO <= quote < NUMBER_MAX):
        raise ValueError("candle volume out of range")
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
        quote_volume=quote,
        trades=0,  # the venue does not count them
        first_ns=None,
        last_ns=None,
        closed=confirm == "1",
        received_ns=received_ns,
        origin="venue",
    )


def _open_interest(meaning: _Meaning, row: _InterestRow, received_ns: int) -> OpenInterest:
    size, value = _number(row.oi_ccy), _number(row.oi_usd)
    if size is None and not meaning.inverse and meaning.contract_size is not None:
        size = row.oi * meaning.contract_size
    if size is None or not (ZERO <= size < NUMBER_MAX and ZERO <= row.oi < NUMBER_MAX):
        raise ValueError("open interest out of range")
    return OpenInterest(meaning.name, row.ts * MS, received_ns, size, value, row.oi)


def _running(meaning: _Meaning, row: _FundingRow, received_ns: int) -> FundingRate | None:
    rate = _number(row.funding_rate, signed=True)
    if rate is None:
        return None
    before, after = int(row.prev_funding_time or 0), int(row.next_funding_time or 0)
    # The running period began at the last settlement; where that is not told, the next one is as long.
    length_ms = row.funding_time - before if before > 0 else after - row.funding_time
    interval_s = length_ms // 1_000 if length_ms > 0 else None
    event_ns = int(row.ts) * MS if row.ts else received_ns
    return FundingRate(meaning.name, event_ns, received_ns, rate, row.funding_time * MS, interval_s, settled=False)


def _mark_price(meaning: _Meaning, row: _MarkRow, received_ns: int) -> MarkPrice:
    if not ZERO < row.mark_px < NUMBER_MAX:
        raise ValueError("mark price out of range")
    return MarkPrice(meaning.name, row.ts * MS, received_ns, row.mark_px)


def _past_trade(meaning: _Meaning, row: _TradeRow, received_ns: int) -> Trade:
    price, count = row.price, row.contracts
    if not (ZERO < price < NUMBER_MAX and ZERO < count < NUMBER_MAX):
        raise ValueError("price or size out of range")
    size, value = _size(meaning, count, price)
    side, event_ns = _SIDES[row.side], row.event_ms * MS
    contracts = _contracts(meaning, count)
    return Trade(meaning.name, event_ns, received_ns, row.id, row.id, side, price, size, row.count, value, contracts)


def _past_fundings(meaning: _Meaning, rows: Sequence[_PastFunding], received_ns: int) -> list[FundingRate]:
    """Settled rates. A period began where the one before it ended; the first of a page does not tell."""
    events: list[FundingRate] = []
    before_ms: int | None = None
    for row in rows:
        rate = _number(row.realized_rate or row.funding_rate, signed=True)
        if rate is None:
            continue
        at_ms = row.funding_time
        interval_s = None if before_ms is None else round((at_ms - before_ms) / 3_600_000) * 3_600 or None
        events.append(FundingRate(meaning.name, at_ms * MS, received_ns, rate, at_ms * MS, interval_s, settled=True))
        before_ms = at_ms
    return events


def _funding_page(ask: Ask, meaning: _Meaning, data: msgspec.Raw, received_ns: int) -> Page:
    """The running rate, then the mark price, which the venue tells elsewhere."""
    if ask.cursor == "mark":
        return Page(events=[_mark_price(meaning, row, received_ns) for row in _rows(data, list[_MarkRow])])
    rates = [_running(meaning, row, received_ns) for row in _rows(data, list[_FundingRow])]
    following = msgspec.structs.replace(ask, cursor="mark")
    return Page(events=[rate for rate in rates if rate is not None], next=following)


def _summary(meaning: _Meaning, row: _TickerRow, received_ns: int) -> Ticker | None:
    texts = (row.open24h, row.high24h, row.low24h, row.last, row.vol24h, row.vol_ccy24h)
    first, high, low, last, count, other = (_number(text) for text in texts)
    if not first or not high or not low or not last or count is None or other is None:
        return None  # not traded yet
    if meaning.contract_size is None:
        volume, quote = count, other
    elif meaning.inverse:
        volume, quote = other, count * meaning.contract_size
    else:
        # The venue does not tell it: coins at the last price.
        volume, quote = other, other * last
    return Ticker(meaning.name, row.ts * MS, received_ns, first, high, low, last, volume, quote, 0)


def _listing_page(ask: Ask, data: msgspec.Raw) -> Page:
    instruments: list[Instrument] = []
    failures = 0
    for raw in _rows(data, list[msgspec.Raw]):
        try:
            instruments.append(_instrument(msgspec.json.decode(raw, type=_Listed)))
        except (msgspec.MsgspecError, ValueError, ArithmeticError, KeyError):
            failures += 1  # one bad row must not cost the others; a page of nothing else is refused below
    if failures and not instruments:
        raise ValueError("no instrument of the listing can be read")
    return Page(events=(), instruments=instruments, next=_next_type(ask))


def _next_type(ask: Ask) -> Ask | None:
    inst_types = list(KINDS)
    rest = inst_types[inst_types.index(ask.cursor or "SPOT") + 1 :]
    return msgspec.structs.replace(ask, cursor=rest[0]) if rest else None


def _instrument(row: _Listed) -> Instrument:
    kind = KINDS[row.inst_type]
    contract_size = None if kind is Kind.SPOT else _step(row.ct_val) * _step(row.ct_mult or "1")
    # BTC-USD_UM-SWAP and its like: the part after _ says how it is margined.
    coin, quote = row.inst_id.split("-")[:2]
    return Instrument(
        venue="okx",
        symbol=row.inst_id,
        kind=kind,
        coin=row.base_ccy or coin,
        quote=row.quote_ccy or quote.split("_")[0],
        settle=row.settle_ccy or row.quote_ccy or quote,
        tick_size=_step(row.tick_sz),
        lot_size=_step(row.lot_sz),
        contract_size=contract_size,
        inverse=kind is not Kind.SPOT and row.ct_type == "inverse",
        listed_ns=int(row.list_time) * MS if row.list_time else None,
        expires_ns=int(row.exp_time) * MS if row.exp_time else None,
        trading=row.state == "live",
    )


def _step(text: str) -> Decimal:
    number = _number(text)
    if not number:
        raise ValueError("step out of range")
    return number


def _number(text: str, *, signed: bool = False) -> Decimal | None:
    """The text as a finite number; None where it is empty."""
    if not text:
        return None
    number = Decimal(text)
    if not abs(number) < NUMBER_MAX or (number < 0 and not signed):
        raise ValueError("number out of range")
    return number


def _bar(ask: Ask, bars: Mapping[int, str]) -> str:
    bar = bars.get(ask.interval_s or 0)
    if bar is None:
        raise errors.BadInterval(f"{ask.interval_s} s is none of {sorted(bars)}")
    return bar


def _recent(ask: Ask) -> bool:
    """Whether the newest bars are asked, rather than the history."""
    if ask.newest or ask.start_ns is None:
        return ask.cursor != "history"
    return ask.cursor == "recent"


def _less(time_ms: int | None) -> int | None:
    return None if time_ms is None else time_ms - 1


def _promised(events: Sequence[Event], following: Ask | None, start_ns: int | None, end_ns: int) -> Page:
    if start_ns is None or start_ns >= end_ns:
        return Page(events=events, next=following)
    return Page(events=events, next=following, start_ns=start_ns, end_ns=end_ns)


def _rows(data: msgspec.Raw, shape: type[_T]) -> _T:
    return msgspec.json.decode(data, type=shape, strict=False)


def _pause_s(answer: Answer) -> float:
    """How long the venue says to wait."""
    try:
        return min(PAUSE_S_MAX, max(PAUSE_S, float(answer.headers["retry-after"])))
    except (KeyError, ValueError):
        return PAUSE_S
