"""Hyperliquid: perpetuals (its own and those of builders) and spot in one venue; frames in, events out.

https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api

    {"channel":"trades","data":[{"coin":"BTC","side":"B","px":"105056.0","sz":"0.00219","time":1737918794873,
      "hash":"0xde47…","tid":121451470284048,"users":["0xe9…","0x68…"]}]}
    {"channel":"candle","data":{"t":1737918780000,"T":1737918839999,"s":"BTC","i":"1m",
      "o":"105055.0","c":"105056.0","h":"105056.0","l":"105055.0","v":"0.18","n":12}}
    {"channel":"bbo","data":{"coin":"BTC","time":1737918794873,"bbo":[{"px":"105055.0","sz":"3.0","n":5},null]}}
    {"channel":"l2Book","data":{"coin":"BTC","time":1737918794873,"levels":[[{"px":"…","sz":"…","n":5}],[]]}}
    {"channel":"activeAssetCtx","data":{"coin":"BTC","ctx":{"funding":"0.0000125","openInterest":"1234.5",
      "markPx":"105055.5","oraclePx":"105060.0","premium":null,"midPx":null,"impactPxs":null}}}
    {"channel":"activeSpotAssetCtx","data":{"coin":"@107","ctx":{"markPx":"22.1","midPx":"22.1"}}}

REST (hyperliquid_history.py) is one address, POST /info; the rows that both halves share are in hyperliquid_wire.py.

What to beware of:
* `side` is the aggressor's: B bought, A sold. `tid` is a hash, not a sequence: trades of one block stand in a frame in
  the order they were made, so the place in the frame orders them. REST lists them newest first, frames oldest first.
* The first frame after a subscription repeats old trades; they carry their old ids.
* A candle has no closed flag. A streamed one is given as closed when the next one opens, never by the clock: after a
  stall old states arrive late. An answer's newest one is closed CLOSED_AFTER_NS after its end.
* A candle has no quote volume: volume x (high + low + close) / 3 is an estimate.
* Weekly candles open on Thursday, so one day is the longest that is asked for.
* Only the last 5,000 candles of an interval are served, and the last few trades.
* Contexts carry no time: the receive time is theirs. Funding is settled every full hour.
* An unknown coin is HTTP 500 with the body `null`.
* Sizes are base coins everywhere (`kPEPE` is a thousand PEPE).
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

import msgspec

from openoutcry.errors import Unreadable, Unsupported
from openoutcry.events import Candle, DepthSnapshot, Event, Level, Quote
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues.hyperliquid_history import INTERVAL_NAMES, PAGE_MAX, QUERIES, History
from openoutcry.venues.hyperliquid_wire import (
    INTERVALS_S,
    MS,
    NAME,
    NAMES_MAX,
    CandleRow,
    Coin,
    Context,
    Names,
    TimeMs,
    TradeRow,
    candle_of,
    check,
    context_of,
    instrument_of,
    is_spot,
    trades_of,
)
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
    Request,
    Signal,
    Skipped,
    Stream,
    Subscribed,
)

_CONTEXT_FEEDS = frozenset({Feed.OPEN_INTEREST, Feed.FUNDING, Feed.MARK_PRICE})
_FEED_TYPES = {
    Feed.TRADES: "trades",
    Feed.CANDLES: "candle",
    Feed.QUOTES: "bbo",
    Feed.DEPTH: "l2Book",
    Feed.OPEN_INTEREST: "activeAssetCtx",
    Feed.FUNDING: "activeAssetCtx",
    Feed.MARK_PRICE: "activeAssetCtx",
}
# Books and contexts come every second or so whatever happens; trades, candles and best quotes only when there are some.
_SILENCE_S = {"l2Book": 60.0, "activeAssetCtx": 120.0}


# What frames hold; fields that nobody needs are left unread.


class _Level(msgspec.Struct, frozen=True, gc=False):
    price: Decimal = msgspec.field(name="px")
    size: Decimal = msgspec.field(name="sz")


class _Bbo(msgspec.Struct, frozen=True):
    coin: Coin
    time_ms: TimeMs = msgspec.field(name="time")
    sides: tuple[_Level | None, _Level | None] = msgspec.field(name="bbo")


class _Book(msgspec.Struct, frozen=True):
    coin: Coin
    time_ms: TimeMs = msgspec.field(name="time")
    levels: tuple[list[_Level], list[_Level]]


class _CoinContext(msgspec.Struct, frozen=True):
    coin: Coin
    context: Context = msgspec.field(name="ctx")


class _Subscription(msgspec.Struct, frozen=True):
    type: str
    coin: str = ""
    interval: str = ""


class _Answered(msgspec.Struct, frozen=True):
    method: str
    subscription: _Subscription


class _Trades(msgspec.Struct, frozen=True, gc=False, tag_field="channel", tag="trades"):
    data: list[TradeRow]


class _Candles(msgspec.Struct, frozen=True, tag_field="channel", tag="candle"):
    data: CandleRow


class _Bbos(msgspec.Struct, frozen=True, tag_field="channel", tag="bbo"):
    data: _Bbo


class _Books(msgspec.Struct, frozen=True, tag_field="channel", tag="l2Book"):
    data: _Book


class _Contexts(msgspec.Struct, frozen=True, tag_field="channel", tag="activeAssetCtx"):
    data: _CoinContext


class _SpotContexts(msgspec.Struct, frozen=True, tag_field="channel", tag="activeSpotAssetCtx"):
    data: _CoinContext


class _Responses(msgspec.Struct, frozen=True, tag_field="channel", tag="subscriptionResponse"):
    data: _Answered


class _Errors(msgspec.Struct, frozen=True, tag_field="channel", tag="error"):
    data: str


class _Pong(msgspec.Struct, frozen=True, tag_field="channel", tag="pong"):
    pass


_Frame = _Trades | _Candles | _Bbos | _Books | _Contexts | _SpotContexts | _Responses | _Errors | _Pong
_CHANNELS = frozenset(
    {
        "trades",
        "candle",
        "bbo",
        "l2Book",
        "activeAssetCtx",
        "activeSpotAssetCtx",
        "subscriptionResponse",
        "error",
        "pong",
    }
)


class _Channel(msgspec.Struct, frozen=True):
    channel: str


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_channel = msgspec.json.Decoder(_Channel).decode
_decode_subscription = msgspec.json.Decoder(_Subscription).decode


class Hyperliquid:
    """Venue `hyperliquid`. Symbols: `BTC`, `kPEPE`; `xyz:NVDA` of a builder; `PURR/USDC` or `@107` for spot."""

    name = NAME
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {
        Kind.SPOT: (Exchange.HYPERLIQUID,),
        Kind.PERPETUAL: (Exchange.HYPERLIQUID_FUTURES,),
    }
    rest = "https://api.hyperliquid.xyz"
    sockets: Mapping[str, str] = {"ws": "wss://api.hyperliquid.xyz/ws"}
    limits = Limits(
        streams_per_connection=1_000,
        streams_per_subscribe=1,
        messages=Rate(2_000, 60.0),
        connections=Rate(30, 60.0),
        lifetime_s=86_400.0,
        weights={"weight": Rate(1_200, 60.0)},
        # The venue drops a connection on which it sent nothing for 60 s; the answer to this keeps it open.
        heartbeat=Heartbeat(50.0, b'{"method":"ping"}'),
        silence_s=60.0,
        candles_late_s=600.0,  # a quiet minute may be written some minutes later
        quote_estimated=True,
    )
    feeds = frozenset(_FEED_TYPES)
    queries = QUERIES
    intervals_s = frozenset(INTERVAL_NAMES)
    page_max: Mapping[Query, int] = PAGE_MAX

    def __init__(self) -> None:
        self._names = Names()
        self._growing: dict[tuple[str, int], Candle] = {}
        self._history = History(self._names)

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing. Sizes need none here: it only tells a coin that is unknown from a venue that is ill."""
        self._history.learn(instruments)

    def assume(self, symbol: str) -> Instrument | None:
        """What the spelling says; tick and lot are the finest that the venue has."""
        if is_spot(symbol):
            coin, _, quote = symbol.partition("/")
            quote = quote or "USDC"
            return instrument_of(symbol, Kind.SPOT, coin, quote, quote, 8, 8)
        return instrument_of(symbol, Kind.PERPETUAL, symbol.rpartition(":")[2], "USD", "USDC", 6, 6)

    # Streams

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """One stream a coin. Raises Unsupported: all at once, or open interest and funding of a spot pair."""
        kind = _FEED_TYPES.get(feed)
        if kind is None:
            raise Unsupported(f"hyperliquid has no stream of {feed.value}")
        if symbols is None:
            raise Unsupported(f"hyperliquid has no stream of {feed.value} for all instruments at once")
        return [_stream(kind, feed, symbol) for symbol in symbols]

    def url(self, address: str, endpoint: str, streams: Sequence[Stream]) -> str:  # noqa: ARG002 all share one address
        """The address itself: subscriptions are frames."""
        return address

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        """One frame a stream: the venue takes no lists."""
        method = "unsubscribe" if undo else "subscribe"
        return [msgspec.json.encode({"method": method, "subscription": _subscription(s.name)}) for s in streams]

    def decode(self, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        """What one frame says. Raises Unreadable."""
        try:
            message = _decode_frame(frame)
            if type(message) is _Trades:
                return trades_of(message.data, self._names, received_ns)
            return self._others(message, received_ns)
        except msgspec.ValidationError as e:
            return _unknown_channel(frame, e)
        # InvalidOperation: a NaN was compared. RecursionError: a frame nested without end.
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidOperation, RecursionError) as e:
            raise Unreadable(str(e) or type(e).__name__, frame) from e
        except Unreadable as e:
            raise Unreadable(e.why, frame) from e

    def reset(self, endpoint: str) -> None:  # noqa: ARG002 there is one
        """Forget the growing candles: what they became while we were away is not known."""
        self._growing.clear()

    def _others(self, message: _Frame, received_ns: int) -> Sequence[Event | Signal]:
        match message:
            case _Books(data=book):
                return [self._depth(book, received_ns)]
            case _Bbos(data=bbo):
                return [self._quote(bbo, received_ns)]
            case _Candles(data=row):
                return self._candle(row, received_ns)
            case _Contexts(data=told) | _SpotContexts(data=told):
                return context_of(self._names[told.coin], told.context, received_ns) or [Skipped("empty", told.coin)]
            case _Responses(data=answered):
                if answered.method != "subscribe":
                    return [Alive()]
                return [Subscribed((_stream_name(answered.subscription),))]
            case _Errors(data=text):
                return [_complaint(text)]
            case _:
                return [Alive()]

    def _depth(self, book: _Book, received_ns: int) -> DepthSnapshot:
        bids, asks = (tuple(_level(level) for level in side) for side in book.levels)
        # The venue numbers its books by their time alone.
        return DepthSnapshot(self._names[book.coin], book.time_ms * MS, received_ns, bids, asks, book.time_ms)

    def _quote(self, bbo: _Bbo, received_ns: int) -> Quote:
        bid, ask = (_level(side) if side else (None, None) for side in bbo.sides)
        return Quote(self._names[bbo.coin], bbo.time_ms * MS, received_ns, *bid, *ask)

    def _candle(self, row: CandleRow, received_ns: int) -> Sequence[Event | Signal]:
        interval_s = INTERVALS_S.get(row.interval)
        if interval_s is None:
            return [Skipped("interval", row.interval)]
        candle = candle_of(self._names[row.coin], row, interval_s, received_ns, closed=False)
        key = (row.coin, interval_s)
        last = self._growing.get(key)
        if last is not None and candle.open_ns < last.open_ns:
            # An older one again: the venue corrected it after the next had opened.
            return [msgspec.structs.replace(candle, closed=True)]
        if len(self._growing) >= NAMES_MAX and key not in self._growing:
            self._growing.clear()
        self._growing[key] = candle
        if last is not None and last.open_ns < candle.open_ns:
            return [msgspec.structs.replace(last, closed=True, received_ns=received_ns), candle]
        return [candle]

    # Questions

    def request(self, ask: Ask) -> Request:
        """What to post. Raises Unsupported, BadInterval."""
        return self._history.request(ask)

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What an answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        return self._history.page(ask, answer)


def _stream(kind: str, feed: Feed, symbol: str) -> Stream:
    feeds = frozenset({feed})
    if kind == "activeAssetCtx":
        if is_spot(symbol) and feed is not Feed.MARK_PRICE:
            raise Unsupported(f"{symbol} is a spot pair: it has no {feed.value}")
        feeds = frozenset({Feed.MARK_PRICE}) if is_spot(symbol) else _CONTEXT_FEEDS
    name = f"{kind}:{symbol},1m" if kind == "candle" else f"{kind}:{symbol}"
    return Stream(name, "ws", symbol, feeds, _SILENCE_S.get(kind))


def _subscription(name: str) -> dict[str, str]:
    kind, _, coin = name.partition(":")
    if kind != "candle":
        return {"type": kind, "coin": coin}
    coin, _, interval = coin.rpartition(",")
    return {"type": kind, "coin": coin, "interval": interval}


def _stream_name(subscription: _Subscription) -> str:
    name = f"{subscription.type}:{subscription.coin}"
    return f"{name},{subscription.interval}" if subscription.interval else name


def _complaint(text: str) -> Signal:
    """`Already unsubscribed: {"type":"trades","coin":"BTC"}`, `Invalid subscription {…}`, `Cannot track more than …`."""
    reason, brace, rest = text.partition("{")
    name = None
    if brace:
        try:
            name = _stream_name(_decode_subscription(brace + rest))
        except (msgspec.DecodeError, RecursionError):
            name = None
    if reason.startswith("Already unsubscribed"):
        return Alive()
    if reason.startswith("Already subscribed"):
        return Subscribed((name,) if name else ())
    return Refused(name, reason.strip(" :")[:200])


def _unknown_channel(frame: bytes, e: msgspec.ValidationError) -> Sequence[Signal]:
    try:
        channel = _decode_channel(frame).channel
    except (msgspec.DecodeError, RecursionError):
        channel = ""
    if not channel or channel in _CHANNELS:
        raise Unreadable(str(e), frame) from e
    return [Skipped("channel", channel[:64])]


def _level(level: _Level) -> Level:
    check(level.price)
    check(level.size)
    return (level.price, level.size)
