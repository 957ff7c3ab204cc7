"""What OKX's sockets say, whatever the market: frames in, events out, and how channels are asked for.

`okx.py` and `okx_options.py` show the frames and say which channels their market has.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from openoutcry import errors
from openoutcry.events import (
    DepthDelta,
    DepthSnapshot,
    Event,
    Level,
    Liquidation,
    Quote,
    Trade,
)
from openoutcry.instrument import Instrument
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
from openoutcry.venues.channels import AskedOnceOpen
from openoutcry.venues.okx_history import SHARED, WEIGHTS, OkxHistory
from openoutcry.venues.okx_wire import (
    INTERVALS,
    KINDS,
    SIDES,
    BarRow,
    FundingRow,
    InterestRow,
    MarkRow,
    Meaning,
    OrderSide,
    TickerRow,
    TradeRow,
    candle_of,
    contracts_of,
    mark_price_of,
    number_of,
    open_interest_of,
    running_of,
    size_of,
)
from openoutcry.venues.venue import (
    Alive,
    Closing,
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

STREAMS_MAX = 200
Channel = tuple[str, str, float | None]  # its name, its endpoint, the silence in seconds that is not normal
CHANNELS: Mapping[Feed, Channel] = {
    Feed.TRADES: ("trades-all", "business", 300.0),
    Feed.CANDLES: ("candle1m", "business", 300.0),
    Feed.QUOTES: ("bbo-tbt", "public", 120.0),
    Feed.DEPTH: ("books", "public", 120.0),
    Feed.LIQUIDATIONS: ("liquidation-orders", "public", None),
    Feed.OPEN_INTEREST: ("open-interest", "public", 300.0),
    Feed.FUNDING: ("funding-rate", "public", 300.0),
    Feed.MARK_PRICE: ("mark-price", "public", 120.0),
}
_NAMED = re.compile(r"channel:\s*(?P<channel>[\w-]+),\s*inst(?:Id|Type):\s*(?P<symbol>[\w$-]+)")
_Row = tuple[Decimal, Decimal, str, str]


class _TradeFrame(msgspec.Struct, gc=False):
    data: list[TradeRow]


class _CandleFrame(msgspec.Struct, gc=False):
    data: list[BarRow]


class _Book(msgspec.Struct, gc=False, rename="camel"):
    bids: tuple[_Row, ...]
    asks: tuple[_Row, ...]
    ts: TimeMs
    checksum: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**32)] = 0
    seq_id: Number | None = None
    prev_seq_id: Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)] | None = None


class _BookFrame(msgspec.Struct, gc=False):
    data: list[_Book]
    action: Literal["snapshot", "update"] = "snapshot"


class _TickerFrame(msgspec.Struct):
    data: list[TickerRow]


class _Order(msgspec.Struct, rename={"price": "bkPx", "contracts": "sz", "event_ms": "ts"}):
    side: OrderSide
    price: Decimal
    contracts: Decimal
    event_ms: TimeMs


class _Liquidated(msgspec.Struct, rename="camel"):
    inst_id: str
    details: list[_Order]


class _LiquidationFrame(msgspec.Struct):
    data: list[_Liquidated]


class _InterestFrame(msgspec.Struct):
    data: list[InterestRow]


class _FundingFrame(msgspec.Struct):
    data: list[FundingRow]


class _MarkFrame(msgspec.Struct):
    data: list[MarkRow]


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


_Said = Sequence[Event | Signal]
_Route = Callable[[bytes, int, Meaning], _Said]


class OkxFrames(AskedOnceOpen, OkxHistory):
    """The socket half: one channel a symbol, on two sockets."""

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
        shared_pools=SHARED,
        heartbeat=Heartbeat(25.0, b"ping", idle=True),
        silence_s=40.0,
        trade_ids="count",
    )
    feeds: frozenset[Feed] = frozenset(Feed)
    channels: Mapping[Feed, Channel] = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self._streams: dict[bytes, tuple[_Route, Meaning]] = {}
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

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing, and what streams were known to speak of."""
        super().learn(instruments)
        self._streams.clear()

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """One channel a symbol."""
        if feed not in self.feeds:
            raise errors.Unsupported(f"{self.name} has no {feed}")
        if symbols is None:
            raise errors.Unsupported(f"{self.name} has no stream of {feed} of all instruments")
        channel, endpoint, silence_s = self.channels[feed]
        feeds = frozenset({feed})
        return [Stream(f"{channel}:{symbol}", endpoint, symbol, feeds, silence_s) for symbol in symbols]

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

    def decode(self, frame: bytes, received_ns: int) -> _Said:
        """What one frame says. Raises Unreadable."""
        try:
            # {"arg":{"channel":"trades","instId":"BTC-USDT"}, as the venue writes it; anything else is looked at whole.
            known = self._streams.get(frame.partition(b"}")[0])
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
        self._streams[f'{{"arg":{{"channel":"{channel}","instId":"{symbol}"'.encode()] = (route, meaning)
        return route(frame, received_ns, meaning)

    def _trades(self, frame: bytes, received_ns: int, meaning: Meaning) -> _Said:
        events: list[Event | Signal] = []
        name, contract_size = meaning.name, meaning.contract_size
        for row in self._decode_trades(frame).data:
            price, count = row.price, row.contracts
            if not (ZERO < price < NUMBER_MAX and ZERO < count < NUMBER_MAX):
                raise ValueError("price or size out of range")
            side, number, event_ns = SIDES[row.side], row.id, row.event_ms * MS
            if contract_size is None:
                events.append(Trade(name, event_ns, received_ns, number, number, side, price, count, row.count))
            else:
                size, value = size_of(meaning, count, price)
                events.append(
                    Trade(name, event_ns, received_ns, number, number, side, price, size, row.count, value, count)
                )
        return events

    def _candles_of(self, interval_s: int) -> _Route:
        def candles(frame: bytes, received_ns: int, meaning: Meaning) -> _Said:
            return [candle_of(meaning, interval_s, row, received_ns) for row in self._decode_candles(frame).data]

        return candles

    def _quote(self, frame: bytes, received_ns: int, meaning: Meaning) -> _Said:
        events: list[Event | Signal] = []
        for book in self._decode_book(frame).data:
            bids, asks = levels_of(book.bids), levels_of(book.asks)
            bid, ask = (_coins(meaning, side[0]) if side else (None, None) for side in (bids, asks))
            events.append(Quote(meaning.name, book.ts * MS, received_ns, *bid, *ask))
        return events

    def _ticker(self, frame: bytes, received_ns: int, meaning: Meaning) -> _Said:
        events: list[Event | Signal] = []
        for row in self._decode_tickers(frame).data:
            bid, ask = (
                _coins(meaning, (price, size)) if price and size else (None, None)
                for price, size in (
                    (number_of(row.bid_px), number_of(row.bid_sz)),
                    (number_of(row.ask_px), number_of(row.ask_sz)),
                )
            )
            events.append(Quote(meaning.name, row.ts * MS, received_ns, *bid, *ask))
        return events

    def _depth(self, frame: bytes, received_ns: int, meaning: Meaning) -> _Said:
        message = self._decode_book(frame)
        events: list[Event | Signal] = []
        for book in message.data:
            bids, asks = levels_of(book.bids), levels_of(book.asks)
            event_ns, checksum = book.ts * MS, book.checksum or None
            snapshot = message.action == "snapshot"
            seq, previous = self._number(meaning.name, book, snapshot=snapshot)
            if snapshot:
                bids, asks = alive(bids), alive(asks)
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

    def _interest(self, frame: bytes, received_ns: int, meaning: Meaning) -> _Said:
        return [open_interest_of(meaning, row, received_ns) for row in self._decode_interest(frame).data]

    def _funding(self, frame: bytes, received_ns: int, meaning: Meaning) -> _Said:
        rates = [running_of(meaning, row, received_ns) for row in self._decode_funding(frame).data]
        return [rate for rate in rates if rate is not None]

    def _mark(self, frame: bytes, received_ns: int, meaning: Meaning) -> _Said:
        return [mark_price_of(meaning, row, received_ns) for row in self._decode_mark(frame).data]

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
                check_traded(price, count)
                # The venue gives no id; two alike in one frame are two.
                key = f"{order.event_ms}-{order.side}-{price}-{count}"
                nth = seen[row.inst_id + key] = seen.get(row.inst_id + key, 0) + 1
                size, value = size_of(meaning, count, price)
                side, event_ns, contracts = SIDES[order.side], order.event_ms * MS, contracts_of(meaning, count)
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


def _coins(meaning: Meaning, level: Level) -> Level:
    price, count = level
    return price, size_of(meaning, count, price)[0]
