"""What Binance's three markets share: the shapes of their frames, one typed decode, one function for each shape.

    {"stream": "btcusdt@aggTrade", "data": {"e": "aggTrade", "E": 1672515782136, "s": "BTCUSDT", "a": 12345, ...}}
    {"e": "aggTrade", "E": 1672515782136, "s": "BTCUSDT", ...}         the same on a raw socket (/ws/...)
    {"stream": "!markPrice@arr@1s", "data": [{"e": "markPriceUpdate", ...}, ...]}
    {"result": null, "id": 1}                                           an acknowledgement
    {"error": {"code": 2, "msg": "Invalid request"}, "id": 1}           a refusal
    {"e": "serverShutdown", "E": 1672515782136}                         this connection ends soon

`e` names the shape, and msgspec picks the struct by it: a wrapped frame is read once, whole. Whatever is not a wrapped
frame of a shape we know (acknowledgements, raw sockets, arrays) fails that read and takes the slower way round.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Protocol
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from openoutcry.errors import Unreadable, Unsupported
from openoutcry.events import (
    Candle,
    DepthDelta,
    Event,
    FundingRate,
    Level,
    Liquidation,
    MarkPrice,
    Quote,
    Side,
    Trade,
)
from openoutcry.instrument import Instrument
from openoutcry.venues.venue import (
    Alive,
    Answer,
    Ask,
    Closing,
    Feed,
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

# Binance takes more streams in one SUBSCRIBE, but cuts connections that send long frames.
STREAMS_PER_SUBSCRIBE = 100
# Numbers outside of these are not prices, sizes or rates of anything, and would cost room and time further in.
LEAST = Decimal("1e-18")
PRICE_MOST = Decimal("1e12")
SIZE_MOST = Decimal("1e18")
RATE_MOST = Decimal(1)
INT_MOST = 2**63 - 1
# 2009 to 2100. Spot counts microseconds when its socket was opened with timeUnit=MICROSECOND, else milliseconds.
MS_LEAST, MS_MOST = 1_230_768_000_000, 4_102_444_800_000
US_LEAST, US_MOST = MS_LEAST * 1_000, MS_MOST * 1_000
SYMBOL_CHARS_MAX = 64

INTERVALS = {
    "1s": 1,
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1_800,
    "1h": 3_600,
    "2h": 7_200,
    "4h": 14_400,
    "6h": 21_600,
    "8h": 28_800,
    "12h": 43_200,
    "1d": 86_400,
    "1w": 604_800,
}
INTERVAL_NAMES = {interval_s: name for name, interval_s in INTERVALS.items()}

# `st` in frames of futures.
USDM, COINM = 1, 2
FUTURES_LIMITS = Limits(
    # 1024 are documented for USDM; connections of more than 200 were cut often enough that clients keep to 200.
    streams_per_connection=200,
    streams_per_subscribe=STREAMS_PER_SUBSCRIBE,
    messages=Rate(10, 1.0),
    connections=Rate(300, 300.0),
    lifetime_s=86_400.0,
    weights={"weight": Rate(2_400, 60.0), "data": Rate(1_000, 300.0), "funding": Rate(500, 300.0)},
    weight_header="x-mbx-used-weight-1m",
    silence_s=180.0,
    trade_ids="one",
    depth_snapshots="asked",
    # Since 2026-06-30 USDM and COINM count request weight together, whichever of the two hosts was asked.
    shared_pools={"weight": "binance_futures_weight"},
)

ZERO = Decimal(0)
MS = 1_000_000
_ONE_COIN = Decimal("0.00000001")
_BUY, _SELL, _BOTH = Side.BUY, Side.SELL, Side.BOTH
_SIDES = {"BUY": _BUY, "SELL": _SELL}
_SUBSCRIBE_ID, _UNSUBSCRIBE_ID = 1, 2

Stamp = Annotated[int, Meta(ge=MS_LEAST, lt=US_MOST)]
Count = Annotated[int, Meta(ge=0, le=INT_MOST)]
# -1 stands for "no trade" in the first and last trade ids of empty candles and void aggregates.
TradeId = Annotated[int, Meta(ge=-1, le=INT_MOST)]
# A day of a listing, 0 where it is not told; later ones do not fit nanoseconds.
Date = Annotated[int, Meta(ge=0, le=INT_MOST // MS)]
Symbol = Annotated[str, Meta(min_length=1, max_length=SYMBOL_CHARS_MAX)]
Says = Sequence[Event | Signal]
Handler = Callable[[Any, str, int], Says]


class AggTrade(msgspec.Struct, frozen=True, gc=False, tag_field="e", tag="aggTrade"):
    """Matches of one taker order at one price (futures: of 100 ms). REST answers hold the same keys without `e`, `s`."""

    symbol: Symbol = field(name="s")
    id: Count = field(name="a")
    price: Decimal = field(name="p")
    size: Decimal = field(name="q")
    first: TradeId = field(name="f")
    last: TradeId = field(name="l")
    at: Stamp = field(name="T")
    buyer_made: bool = field(name="m")


class RawTrade(msgspec.Struct, frozen=True, gc=False, tag_field="e", tag="trade"):
    """One match. Futures say in `X` what it was; only MARKET counts."""

    symbol: Symbol = field(name="s")
    id: Count = field(name="t")
    price: Decimal = field(name="p")
    size: Decimal = field(name="q")
    at: Stamp = field(name="T")
    buyer_made: bool = field(name="m")
    nature: str = field(name="X", default="MARKET")


class Bar(msgspec.Struct, frozen=True, gc=False):
    """`k` of a kline frame."""

    open_at: Stamp = field(name="t")
    interval: str = field(name="i")
    open: Decimal = field(name="o")
    close: Decimal = field(name="c")
    high: Decimal = field(name="h")
    low: Decimal = field(name="l")
    volume: Decimal = field(name="v")
    amount: Decimal = field(name="q")
    trades: Count = field(name="n")
    closed: bool = field(name="x")


class Kline(msgspec.Struct, frozen=True, gc=False, tag_field="e", tag="kline"):
    """The venue's own candle, growing or closed."""

    symbol: Symbol = field(name="s")
    bar: Bar = field(name="k")


class BookTicker(msgspec.Struct, frozen=True, gc=False, tag_field="e", tag="bookTicker"):
    """Best quote; futures name it and time it."""

    symbol: Symbol = field(name="s")
    bid_price: Decimal = field(name="b")
    bid_size: Decimal = field(name="B")
    ask_price: Decimal = field(name="a")
    ask_size: Decimal = field(name="A")
    at: Stamp | None = field(name="T", default=None)


class BareTicker(msgspec.Struct, frozen=True, gc=False):
    """Best quote of spot: neither named nor timed."""

    symbol: Symbol = field(name="s")
    update: Count = field(name="u")
    bid_price: Decimal = field(name="b")
    bid_size: Decimal = field(name="B")
    ask_price: Decimal = field(name="a")
    ask_size: Decimal = field(name="A")
    at: None = None


class DepthUpdate(msgspec.Struct, frozen=True, gc=False, tag_field="e", tag="depthUpdate"):
    """Changed levels; `pu` on futures only."""

    symbol: Symbol = field(name="s")
    sent_at: Stamp = field(name="E")
    first: Count = field(name="U")
    last: Count = field(name="u")
    bids: tuple[Level, ...] = field(name="b")
    asks: tuple[Level, ...] = field(name="a")
    at: Stamp | None = field(name="T", default=None)
    previous: Count | None = field(name="pu", default=None)


class Forced(msgspec.Struct, frozen=True, gc=False):
    """`o` of a forceOrder frame. `p` is the limit of the order and no price anybody paid: `ap` is."""

    symbol: Symbol = field(name="s")
    side: str = field(name="S")
    average: Decimal = field(name="ap")
    filled: Decimal = field(name="z")
    at: Stamp = field(name="T")
    market: int | None = field(name="st", default=None)


class ForceOrder(msgspec.Struct, frozen=True, gc=False, tag_field="e", tag="forceOrder"):
    """A liquidation. `st` stands inside `o` in live frames and beside it in the documentation."""

    order: Forced = field(name="o")
    beside: int | None = field(name="st", default=None)

    @property
    def symbol(self) -> str:
        """Where the other shapes have it."""
        return self.order.symbol

    @property
    def market(self) -> int | None:
        """1 USDM, 2 COINM, None where the frame is older than the question."""
        return self.beside if self.order.market is None else self.order.market


class MarkUpdate(msgspec.Struct, frozen=True, gc=False, tag_field="e", tag="markPriceUpdate"):
    """Mark price, index and the rate of the running funding period; `r` is "" for dated futures."""

    symbol: Symbol = field(name="s")
    sent_at: Stamp = field(name="E")
    mark: Decimal = field(name="p")
    index: str = field(name="i", default="")
    rate: str = field(name="r", default="")
    funding_at: int = field(name="T", default=0)
    market: int | None = field(name="st", default=None)


Shape = AggTrade | RawTrade | Kline | BookTicker | DepthUpdate | ForceOrder | MarkUpdate
SHAPES: tuple[type[Any], ...] = (AggTrade, RawTrade, Kline, BookTicker, DepthUpdate, ForceOrder, MarkUpdate)


class _Wrapped(msgspec.Struct, frozen=True, gc=False):
    data: Shape


class _WrappedTicker(msgspec.Struct, frozen=True, gc=False):
    data: BareTicker


class _Reason(msgspec.Struct, frozen=True):
    code: int = 0
    msg: str = ""


class _Envelope(msgspec.Struct, frozen=True):
    """Everything a frame may be besides a wrapped shape."""

    data: msgspec.Raw | UnsetType = UNSET
    result: list[str] | UnsetType | None = UNSET
    error: _Reason | None = None
    code: int | None = None
    msg: str = ""
    id: int | str | None = None


class _Head(msgspec.Struct, frozen=True):
    e: str | None = None


_TAGS = frozenset(shape.__struct_config__.tag for shape in SHAPES)
_wrapped = msgspec.json.Decoder(_Wrapped).decode
_wrapped_ticker = msgspec.json.Decoder(_WrappedTicker).decode
_ticker = msgspec.json.Decoder(BareTicker).decode
_shape = msgspec.json.Decoder(Shape).decode
_envelope = msgspec.json.Decoder(_Envelope).decode
_head = msgspec.json.Decoder(_Head).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
# What reading hostile bytes may end in: wrong JSON or types, bytes that are no UTF-8, brackets beyond counting.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Channel(msgspec.Struct, frozen=True):
    """How a feed is subscribed: `btcusdt@<suffix>`, or `every` for all instruments at once; on which endpoint.

    `silence_s`: see Stream.
    """

    suffix: str
    endpoint: str
    silence_s: float | None
    every: str | None = None


class Question(Protocol):
    """One thing that REST can be asked: see binance_history."""

    page_max: int

    def request(self, ask: Ask) -> Request:
        """What to send."""
        ...

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        """What an answer with status 200 says."""
        ...


class Binance:
    """A market of Binance: what differs between the three stands in the class attributes and in what `__init__` is given.

    `says` gives the function for each shape of frame; `market` is the number that `st` has in frames of this market.
    """

    name: str
    rest: str
    sockets: Mapping[str, str]
    limits: Limits
    channels: Mapping[Feed, Channel]
    intervals_s: frozenset[int]
    market: int | None = None

    def __init__(self, says: Mapping[type[Any], Handler], questions: Mapping[Query, Question]) -> None:
        self.feeds: frozenset[Feed] = frozenset(self.channels)
        self.queries: frozenset[Query] = frozenset(questions)
        self.page_max: Mapping[Query, int] = {query: question.page_max for query, question in questions.items()}
        self._questions = questions
        self._says = {shape: says.get(shape, _not_ours) for shape in SHAPES}
        self._bare_ticker = BareTicker in says
        self._says[BareTicker] = says.get(BareTicker, _not_ours)
        self._listing: dict[str, Instrument] = {}
        self._names: dict[str, str] = {}

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing. Frames of symbols that are not in it are skipped, and say so."""
        self._listing = {instrument.symbol: instrument for instrument in instruments}
        self._names = {symbol: instrument.name for symbol, instrument in self._listing.items()}

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """The subscriptions that carry `feed`; None = all instruments. Raises Unsupported."""
        channel = self.channels.get(feed)
        if channel is None:
            raise Unsupported(f"{self.name} has no stream of {feed}")
        # Mark price and funding come in one frame, so their stream is one and the same, and is subscribed once.
        feeds = frozenset(other for other, theirs in self.channels.items() if theirs == channel)
        if symbols is not None:
            return [
                Stream(f"{symbol.lower()}@{channel.suffix}", channel.endpoint, symbol, feeds, channel.silence_s)
                for symbol in symbols
            ]
        if channel.every is None:
            raise Unsupported(f"{self.name} has no stream of {feed} for all instruments at once")
        return [Stream(channel.every, channel.endpoint, "*", feeds, channel.silence_s)]

    def url(self, address: str, endpoint: str, streams: Sequence[Stream]) -> str:  # noqa: ARG002 the same on each
        """Where to connect so that `streams` flow from the start; without any, they are subscribed afterwards."""
        names = "/".join(quote(stream.name, safe="@!_") for stream in streams)
        return f"{address}/stream?streams={names}" if names else f"{address}/stream"

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        """SUBSCRIBE (or UNSUBSCRIBE) frames of at most STREAMS_PER_SUBSCRIBE streams each."""
        method, number = ("UNSUBSCRIBE", _UNSUBSCRIBE_ID) if undo else ("SUBSCRIBE", _SUBSCRIBE_ID)
        names = [stream.name for stream in streams]
        return [
            msgspec.json.encode({"method": method, "params": names[n : n + STREAMS_PER_SUBSCRIBE], "id": number})
            for n in range(0, len(names), STREAMS_PER_SUBSCRIBE)
        ]

    def decode(self, frame: bytes, received_ns: int) -> Says:
        """What one frame says. Raises Unreadable."""
        try:
            data = _wrapped(frame).data
            name = self._names.get(data.symbol)
            if name is None:
                return self._unlisted(data)
            return self._says[type(data)](data, name, received_ns)
        except UNREADABLE:
            return self._uncommon(frame, received_ns)
        except InvalidOperation as e:
            # Comparing with NaN, or a number beyond what Decimal carries.
            raise Unreadable("a number that is none", frame) from e
        except Unreadable as e:
            raise Unreadable(e.why, frame) from e

    def reset(self, endpoint: str) -> None:
        """Nothing to forget: every frame stands on its own."""

    def request(self, ask: Ask) -> Request:
        """What to send for `ask`. Raises Unsupported, BadInterval."""
        return self._question(ask).request(ask)

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What the answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        question = self._question(ask)
        try:
            return question.page(ask, answer, self._listing)
        except UNREADABLE as e:
            raise Unreadable(str(e), answer.body) from e
        except InvalidOperation as e:
            raise Unreadable("a number that is none", answer.body) from e

    def _question(self, ask: Ask) -> Question:
        question = self._questions.get(ask.query)
        if question is None:
            raise Unsupported(f"{self.name} cannot be asked for {ask.query}")
        return question

    def _uncommon(self, frame: bytes, received_ns: int) -> Says:
        """A frame that is not a wrapped shape: a bare ticker, an array, a raw socket's, an answer, or rubbish."""
        try:
            if self._bare_ticker and b"@bookTicker" in frame[: SYMBOL_CHARS_MAX + 32]:
                return self._one(_wrapped_ticker(frame).data, received_ns)
            if frame[:1] == b"[":
                return self._each(_items(frame), received_ns)
            envelope = _envelope(frame)
            if envelope.data is not UNSET:
                if bytes(envelope.data)[:1] == b"[":
                    return self._each(_items(envelope.data), received_ns)
                return self._payload(envelope.data, received_ns)
            return self._payload(frame, received_ns) if (answer := _answer(envelope)) is None else answer
        except UNREADABLE as e:
            raise Unreadable(str(e), frame) from e
        except InvalidOperation as e:
            raise Unreadable("a number that is none", frame) from e
        except Unreadable as e:
            raise Unreadable(e.why, frame) from e

    def _payload(self, payload: bytes | msgspec.Raw, received_ns: int) -> Says:
        head = _head(payload)
        if head.e == "serverShutdown":
            return (Closing("serverShutdown"),)
        if head.e is None:
            return self._one(_ticker(payload), received_ns)
        if head.e not in _TAGS:
            return (Skipped("unknown_event", head.e[:SYMBOL_CHARS_MAX]),)
        return self._one(_shape(payload), received_ns)

    def _each(self, payloads: Sequence[msgspec.Raw], received_ns: int) -> Says:
        says: list[Event | Signal] = []
        for payload in payloads:
            try:
                says += self._payload(payload, received_ns)
            except (*UNREADABLE, InvalidOperation, Unreadable):
                # One bad row of an all-market array must not cost the others; the counters still hear of it.
                says.append(Skipped("unreadable_row"))
        return says

    def _one(self, data: Shape | BareTicker, received_ns: int) -> Says:
        name = self._names.get(data.symbol)
        return self._unlisted(data) if name is None else self._says[type(data)](data, name, received_ns)

    def _unlisted(self, data: Shape | BareTicker) -> Says:
        market = getattr(data, "market", None)
        why = "unknown_instrument" if market in {None, self.market} else "other_market"
        return (Skipped(why, data.symbol),)


def only(market: int, says: Handler) -> Handler:
    """`says`, for frames of that market: since 2026-06-30 all-market streams of USDM and COINM may hold both."""

    def filtered(data: ForceOrder | MarkUpdate, name: str, received_ns: int) -> Says:
        if data.market not in {None, market}:
            return (Skipped("other_market", data.symbol),)
        return says(data, name, received_ns)

    return filtered


class Aggregate(Protocol):
    """An aggregate trade, from a frame or a row of history."""

    @property
    def id(self) -> int: ...
    @property
    def price(self) -> Decimal: ...
    @property
    def size(self) -> Decimal: ...
    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def at(self) -> int: ...
    @property
    def buyer_made(self) -> bool: ...


def agg_trade(data: Aggregate, name: str, received_ns: int) -> Sequence[Trade | Skipped]:
    """A trade whose sizes are base coins. The aggregate ids of an instrument have no holes, so gaps show and mend."""
    price, size, number, at = data.price, data.size, data.id, data.at
    count = data.last - data.first + 1
    if not (LEAST <= price < PRICE_MOST and LEAST <= size < SIZE_MOST and count > 0):
        return _void(data, name)
    # `m`: the buyer was the maker, so the aggressor sold.
    side = _SELL if data.buyer_made else _BUY
    return (Trade(name, at * MS if at < MS_MOST else ns_of(at), received_ns, number, number, side, price, size, count),)


def inverse_trade(
    contract_sizes: Mapping[str, Decimal], data: Aggregate, name: str, received_ns: int
) -> Sequence[Trade | Skipped]:
    """A trade whose sizes are contracts, worth so many quote units each: `contract_sizes`, by instrument name."""
    price, contracts, number, at = data.price, data.size, data.id, data.at
    count = data.last - data.first + 1
    if not (LEAST <= price < PRICE_MOST and LEAST <= contracts < SIZE_MOST and count > 0):
        return _void(data, name)
    value = contracts * contract_sizes[name]
    # As `coins`, without the call.
    size = (value / price).quantize(_ONE_COIN)
    event_ns = at * MS if at < MS_MOST else ns_of(at)
    side = _SELL if data.buyer_made else _BUY
    return (Trade(name, event_ns, received_ns, number, number, side, price, size, count, value, contracts),)


def raw_trade(data: RawTrade, name: str, received_ns: int) -> Says:
    """A single match. Its ids count matches, not aggregates: never mix the two streams of one instrument."""
    if data.nature != "MARKET":
        return (Skipped("non_market", data.symbol),)
    price, size = positive(data.price, PRICE_MOST), positive(data.size, SIZE_MOST)
    side = _SELL if data.buyer_made else _BUY
    return (Trade(name, ns_of(data.at), received_ns, data.id, data.id, side, price, size),)


def coins(contracts: Decimal, contract_size: Decimal, price: Decimal) -> tuple[Decimal, Decimal]:
    """Base coins (8 decimals, half even) and quote value (exact) of inverse contracts at a price."""
    value = contracts * contract_size
    return (value / price).quantize(_ONE_COIN), value


def kline(data: Kline, name: str, received_ns: int) -> Says:
    """The venue's own candle. A minute without a trade is a candle of zero trades, and the venue says so."""
    bar = data.bar
    interval_s = INTERVALS.get(bar.interval)
    if interval_s is None:
        return (Skipped("unknown_interval", bar.interval[:SYMBOL_CHARS_MAX]),)
    prices = candle_prices(bar.open, bar.high, bar.low, bar.close)
    volume, quote_volume = amount(bar.volume), amount(bar.amount)
    return (
        Candle(
            name, _BOTH, interval_s, ns_of(bar.open_at), *prices, volume, quote_volume, bar.trades, None, None,
            bar.closed, received_ns, "venue",
        ),
    )  # fmt: skip


def book_ticker(data: BookTicker | BareTicker, name: str, received_ns: int) -> Says:
    """Best bid and ask; spot does not say when, so it happened when it reached us."""
    event_ns = received_ns if data.at is None else ns_of(data.at)
    bid, bid_size, ask, ask_size = data.bid_price, data.bid_size, data.ask_price, data.ask_size
    if (
        LEAST <= bid < PRICE_MOST
        and LEAST <= ask < PRICE_MOST
        and LEAST <= bid_size < SIZE_MOST
        and LEAST <= ask_size < SIZE_MOST
    ):
        return (Quote(name, event_ns, received_ns, bid, bid_size, ask, ask_size),)
    return (Quote(name, event_ns, received_ns, *_side_of_quote(bid, bid_size), *_side_of_quote(ask, ask_size)),)


def depth_update(data: DepthUpdate, name: str, received_ns: int) -> Says:
    """Changed levels. Chain by `first_seq` = last seq + 1 on spot, by `previous_seq` on futures."""
    if data.last < data.first:
        raise Unreadable("a depth update that ends before it starts")
    bounded(data.bids)
    bounded(data.asks)
    event_ns = ns_of(data.sent_at if data.at is None else data.at)
    return (DepthDelta(name, event_ns, received_ns, data.bids, data.asks, data.first, data.last, data.previous),)


def bounded(levels: Iterable[Level]) -> None:
    """Raises Unreadable for a level that cannot be one (a size of zero says that it is gone), InvalidOperation for NaN."""
    for price, size in levels:
        if not (LEAST <= price < PRICE_MOST and ZERO <= size < SIZE_MOST):
            raise Unreadable("a level out of bounds")


def force_order(data: ForceOrder, name: str, received_ns: int) -> Says:
    """A liquidation whose sizes are base coins: what was filled (`z`) at its average price (`ap`)."""
    order = data.order
    if order.filled == ZERO:
        return (Skipped("unfilled", order.symbol),)
    price, size, side = positive(order.average, PRICE_MOST), positive(order.filled, SIZE_MOST), side_of(order.side)
    return (Liquidation(name, ns_of(order.at), received_ns, forced_id(order), side, price, size),)


def forced_id(order: Forced) -> str:
    """The venue gives no id: made of time, side, price and size."""
    return f"{order.at}-{order.side}-{order.average}-{order.filled}"


def mark_update(data: MarkUpdate, name: str, received_ns: int) -> Says:
    """One frame, two facts: the mark price, and for perpetuals the running funding rate."""
    return marks(name, ns_of(data.sent_at), received_ns, data.mark, data.index, data.rate, data.funding_at)


def marks(
    name: str, event_ns: int, received_ns: int, mark: Decimal, index: str, rate: str, funding_at: int
) -> Sequence[MarkPrice | FundingRate]:
    """Mark price and running funding, from a frame or from premiumIndex. No rate ("") or time (0): no funding."""
    index_price = Decimal(index) if index else ZERO
    priced = MarkPrice(
        name,
        event_ns,
        received_ns,
        positive(mark, PRICE_MOST),
        None if index_price == ZERO else positive(index_price, PRICE_MOST),
    )
    if not rate or not funding_at:
        return (priced,)
    return (
        priced,
        # The interval is per symbol and changes over time, and the venue does not tell it here.
        FundingRate(name, event_ns, received_ns, funding_rate(Decimal(rate)), ns_of(funding_at), None, settled=False),
    )


def ns_of(at: int) -> int:
    """Nanoseconds of a stamp in milliseconds or, on spot, microseconds. Raises Unreadable."""
    if MS_LEAST <= at < MS_MOST:
        return at * MS
    if US_LEAST <= at < US_MOST:
        return at * 1_000
    raise Unreadable("a time out of bounds")


def positive(value: Decimal, most: Decimal) -> Decimal:
    """The value, if it is a price or size above zero. Raises Unreadable, or InvalidOperation for NaN."""
    if LEAST <= value < most:
        return value
    raise Unreadable("a price or size out of bounds")


def amount(value: Decimal) -> Decimal:
    """The value, if it is a sum of sizes; zero is one. Raises Unreadable, or InvalidOperation for NaN."""
    if LEAST <= value < SIZE_MOST:
        return value
    if value == ZERO:
        return ZERO
    raise Unreadable("an amount out of bounds")


def funding_rate(value: Decimal) -> Decimal:
    """The value, if it can be a funding rate. Raises Unreadable, or InvalidOperation for NaN."""
    if -RATE_MOST < value < RATE_MOST:
        return value
    raise Unreadable("a funding rate out of bounds")


def candle_prices(
    first: Decimal, high: Decimal, low: Decimal, last: Decimal
) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    """Open, high, low, close as given, if low and high embrace the others. Raises Unreadable, or InvalidOperation for NaN."""
    if LEAST <= low <= min(first, last) and max(first, last) <= high < PRICE_MOST:
        return first, high, low, last
    raise Unreadable("a candle whose prices do not fit")


def side_of(word: str) -> Side:
    """Of an order. Raises Unreadable."""
    try:
        return _SIDES[word]
    except KeyError:
        raise Unreadable("a side that is none") from None


def _side_of_quote(price: Decimal, size: Decimal) -> tuple[Decimal, Decimal] | tuple[None, None]:
    # An empty side is a price and a size of zero.
    if not price or not size:
        return None, None
    return positive(price, PRICE_MOST), positive(size, SIZE_MOST)


def _void(data: Aggregate, name: str) -> Sequence[Skipped]:
    # Spot has aggregates without a trade in them: price and size zero, first and last -1. Anything else is an error.
    if data.size == ZERO and data.first == data.last == -1:
        return (Skipped("void", name),)
    raise Unreadable("a trade out of bounds")


def _not_ours(data: Any, _name: str, _received_ns: int) -> Says:
    return (Skipped("unknown_event", data.symbol),)


def _answer(envelope: _Envelope) -> Says | None:
    """What the venue says to a frame of ours; None where this is no answer."""
    if envelope.error is not None:
        return (Refused(None, f"{envelope.error.code} {envelope.error.msg[:100]}"),)
    if envelope.code is not None:
        return (Refused(None, f"{envelope.code} {envelope.msg[:100]}"),)
    if envelope.result is UNSET:
        return None
    if envelope.id == _UNSUBSCRIBE_ID:
        return (Alive(),)
    return (Subscribed(tuple(envelope.result or ())),)
