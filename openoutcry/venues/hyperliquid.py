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

REST is one address, POST /info (Content-Type: application/json), and the body's `type` says what is asked.

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
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from openoutcry.errors import (
    BadInterval,
    OutOfReach,
    RateLimited,
    Unavailable,
    UnknownInstrument,
    Unreadable,
    Unsupported,
)
from openoutcry.events import (
    NS,
    Candle,
    DepthSnapshot,
    Event,
    FundingRate,
    Level,
    MarkPrice,
    OpenInterest,
    PredictedFunding,
    Quote,
    Side,
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
    Request,
    Signal,
    Skipped,
    Stream,
    Subscribed,
)

NAME = "hyperliquid"
CANDLES_SERVED = 5_000  # newest candles of an interval that the venue still has
FUNDINGS_PAGE = 500
TRADES_PAGE = 500
NAMES_MAX = 20_000  # coins remembered: far above what is listed
CLOSED_AFTER_NS = 5 * NS  # a candle that is asked for so long after its end will not change
HOUR_NS = 3_600 * NS
RETRY_S = 10.0  # after a 429 that does not say
RETRY_S_MAX = 3_600.0
# Prices and sizes outside these are no market's: they would only break the arithmetic of whoever trusts them.
LEAST = Decimal("1e-18")
MOST = Decimal("1e18")
RATE_MOST = Decimal(10)
QUOTE_STEP = Decimal("1e-8")

_MS = 1_000_000
# Looking a member up in its class costs more than comparing the side did.
_BUY, _SELL = Side.BUY, Side.SELL
_INTERVALS_S = {
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1_800,
    "1h": 3_600,
    "2h": 7_200,
    "4h": 14_400,
    "8h": 28_800,
    "12h": 43_200,
    "1d": 86_400,
}
_INTERVAL_NAMES = {seconds: name for name, seconds in _INTERVALS_S.items()}
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

_Coin = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_TimeMs = Annotated[int, msgspec.Meta(gt=0, lt=10_000_000_000_000)]
_Decimals = Annotated[int, msgspec.Meta(ge=0, le=18)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


# What frames and answers hold; fields that nobody needs are left unread.


class _Trade(msgspec.Struct, frozen=True, gc=False):
    coin: _Coin
    side: Literal["A", "B"]
    price: Decimal = msgspec.field(name="px")
    size: Decimal = msgspec.field(name="sz")
    time_ms: _TimeMs = msgspec.field(name="time")
    tid: _Count = msgspec.field(name="tid")


class _Level(msgspec.Struct, frozen=True, gc=False):
    price: Decimal = msgspec.field(name="px")
    size: Decimal = msgspec.field(name="sz")


class _Candle(msgspec.Struct, frozen=True, gc=False):
    open_ms: _TimeMs = msgspec.field(name="t")
    end_ms: _TimeMs = msgspec.field(name="T")
    coin: _Coin = msgspec.field(name="s")
    interval: str = msgspec.field(name="i")
    open: Decimal = msgspec.field(name="o")
    close: Decimal = msgspec.field(name="c")
    high: Decimal = msgspec.field(name="h")
    low: Decimal = msgspec.field(name="l")
    volume: Decimal = msgspec.field(name="v")
    trades: _Count = msgspec.field(name="n")


class _Bbo(msgspec.Struct, frozen=True):
    coin: _Coin
    time_ms: _TimeMs = msgspec.field(name="time")
    sides: tuple[_Level | None, _Level | None] = msgspec.field(name="bbo")


class _Book(msgspec.Struct, frozen=True):
    coin: _Coin
    time_ms: _TimeMs = msgspec.field(name="time")
    levels: tuple[list[_Level], list[_Level]]


class _Context(msgspec.Struct, frozen=True):
    funding: Decimal | None = None
    open_interest: Decimal | None = msgspec.field(name="openInterest", default=None)
    mark: Decimal | None = msgspec.field(name="markPx", default=None)
    oracle: Decimal | None = msgspec.field(name="oraclePx", default=None)


class _CoinContext(msgspec.Struct, frozen=True):
    coin: _Coin
    context: _Context = msgspec.field(name="ctx")


class _Subscription(msgspec.Struct, frozen=True):
    type: str
    coin: str = ""
    interval: str = ""


class _Answered(msgspec.Struct, frozen=True):
    method: str
    subscription: _Subscription


class _Trades(msgspec.Struct, frozen=True, tag_field="channel", tag="trades"):
    data: list[_Trade]


class _Candles(msgspec.Struct, frozen=True, tag_field="channel", tag="candle"):
    data: _Candle


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


class _Perpetual(msgspec.Struct, frozen=True):
    name: _Coin
    size_decimals: _Decimals = msgspec.field(name="szDecimals")
    delisted: bool = msgspec.field(name="isDelisted", default=False)


class _Meta(msgspec.Struct, frozen=True):
    universe: list[_Perpetual]
    collateral: int = msgspec.field(name="collateralToken", default=0)


class _Dex(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,32}$")]


class _Token(msgspec.Struct, frozen=True):
    name: _Coin
    index: int
    size_decimals: _Decimals = msgspec.field(name="szDecimals")


class _Pair(msgspec.Struct, frozen=True):
    name: _Coin
    tokens: tuple[int, int]


class _SpotMeta(msgspec.Struct, frozen=True):
    universe: list[_Pair]
    tokens: list[_Token]


class _Funding(msgspec.Struct, frozen=True):
    rate: Decimal = msgspec.field(name="fundingRate")
    time_ms: _TimeMs = msgspec.field(name="time")


class _Prediction(msgspec.Struct, frozen=True):
    rate: Decimal | None = msgspec.field(name="fundingRate", default=None)
    next_ms: _TimeMs | None = msgspec.field(name="nextFundingTime", default=None)
    hours: Annotated[int, msgspec.Meta(gt=0, le=1_000)] | None = msgspec.field(
        name="fundingIntervalHours", default=None
    )


_FRAMES = msgspec.json.Decoder(_Frame)
_CHANNEL = msgspec.json.Decoder(_Channel)
_SUBSCRIPTION = msgspec.json.Decoder(_Subscription)
_T = TypeVar("_T")


class Hyperliquid:
    """Venue `hyperliquid`. Symbols: `BTC`, `kPEPE`; `xyz:NVDA` of a builder; `PURR/USDC` or `@107` for spot."""

    name = NAME
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
    )
    feeds = frozenset(_FEED_TYPES)
    queries = frozenset(
        {
            Query.INSTRUMENTS,
            Query.CANDLES,
            Query.TRADES,
            Query.OPEN_INTEREST,
            Query.FUNDING,
            Query.FUNDING_HISTORY,
            Query.PREDICTED_FUNDING,
            Query.TIME,
        }
    )
    intervals_s = frozenset(_INTERVAL_NAMES)
    page_max: Mapping[Query, int] = {
        Query.CANDLES: CANDLES_SERVED,
        Query.FUNDING_HISTORY: FUNDINGS_PAGE,
        Query.TRADES: TRADES_PAGE,
    }

    def __init__(self) -> None:
        self._listing: dict[str, Instrument] = {}
        self._names: dict[str, str] = {}
        self._growing: dict[tuple[str, int], Candle] = {}
        self._tokens: dict[int, str] = {0: "USDC"}

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing. Sizes need none here: it only tells a coin that is unknown from a venue that is ill."""
        self._listing = {instrument.symbol: instrument for instrument in instruments}

    def assume(self, symbol: str) -> Instrument | None:
        """What the spelling says; tick and lot are the finest that the venue has."""
        if _is_spot(symbol):
            coin, _, quote = symbol.partition("/")
            quote = quote or "USDC"
            return _instrument(symbol, Kind.SPOT, coin, quote, quote, 8, 8)
        return _instrument(symbol, Kind.PERPETUAL, symbol.rpartition(":")[2], "USD", "USDC", 6, 6)

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
            message = _FRAMES.decode(frame)
            if type(message) is _Trades:
                return self._trades(message.data, received_ns)
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

    def _trades(self, rows: Sequence[_Trade], received_ns: int) -> list[Event | Signal]:
        names = self._names
        events: list[Event | Signal] = []
        for place, row in enumerate(rows):
            price, size = row.price, row.size
            if not (LEAST <= price <= MOST and LEAST <= size <= MOST):
                raise Unreadable("price or size out of bounds")
            side = _BUY if row.side == "B" else _SELL
            name = names.get(row.coin) or self._name(row.coin)
            events.append(Trade(name, row.time_ms * _MS, received_ns, row.tid, place, side, price, size))
        return events

    def _others(self, message: _Frame, received_ns: int) -> Sequence[Event | Signal]:
        match message:
            case _Books(data=book):
                return [self._depth(book, received_ns)]
            case _Bbos(data=bbo):
                return [self._quote(bbo, received_ns)]
            case _Candles(data=row):
                return self._candle(row, received_ns)
            case _Contexts(data=told) | _SpotContexts(data=told):
                return self._context(told.coin, told.context, received_ns) or [Skipped("empty", told.coin)]
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
        return DepthSnapshot(self._name(book.coin), book.time_ms * _MS, received_ns, bids, asks, book.time_ms)

    def _quote(self, bbo: _Bbo, received_ns: int) -> Quote:
        bid, ask = (_level(side) if side else (None, None) for side in bbo.sides)
        return Quote(self._name(bbo.coin), bbo.time_ms * _MS, received_ns, *bid, *ask)

    def _candle(self, row: _Candle, received_ns: int) -> Sequence[Event | Signal]:
        interval_s = _INTERVALS_S.get(row.interval)
        if interval_s is None:
            return [Skipped("interval", row.interval)]
        candle = _candle(self._name(row.coin), row, interval_s, received_ns, closed=False)
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

    def _context(self, coin: str, context: _Context, received_ns: int) -> list[Event | Signal]:
        name, mark = self._name(coin), context.mark
        events: list[Event | Signal] = []
        if mark is not None:
            _check(mark)
        if context.oracle is not None:
            _check(context.oracle)
        if context.open_interest is not None:
            if not 0 <= context.open_interest <= MOST:
                raise Unreadable("open interest out of bounds")
            value = None if mark is None else context.open_interest * mark
            events.append(OpenInterest(name, received_ns, received_ns, context.open_interest, value))
        if context.funding is not None:
            next_ns = received_ns - received_ns % HOUR_NS + HOUR_NS
            rate = _rate(context.funding)
            events.append(FundingRate(name, received_ns, received_ns, rate, next_ns, 3_600, settled=False))
        if mark is not None:
            events.append(MarkPrice(name, received_ns, received_ns, mark, context.oracle))
        return events

    def _name(self, coin: str) -> str:
        name = self._names.get(coin)
        if name is None:
            name = f"{NAME}:{coin}"
            if len(self._names) < NAMES_MAX:
                self._names[coin] = name
        return name

    # Questions

    def request(self, ask: Ask) -> Request:
        """What to post. Raises Unsupported, BadInterval."""
        if ask.query not in self.queries:
            raise Unsupported(f"hyperliquid does not tell {ask.query.value}")
        if ask.query is Query.INSTRUMENTS:
            return _listing_request(ask.cursor)
        if ask.query is Query.PREDICTED_FUNDING:
            return _info(20, type="predictedFundings")
        if ask.query is Query.TIME or _lacks_now(ask):
            return _info(2, type="exchangeStatus")
        if ask.query in (Query.OPEN_INTEREST, Query.FUNDING):
            return _contexts_request(ask)
        symbol = _symbol(ask)
        if ask.query is Query.TRADES:
            return _info(20 + TRADES_PAGE // 20, type="recentTrades", coin=symbol)
        if ask.query is Query.CANDLES:
            return _candles_request(ask, symbol)
        return _fundings_request(ask, symbol)

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What an answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        if answer.status == 422 and ask.cursor == "allPerpMetas":
            # Not every server of this protocol has it; all have one answer for each builder.
            return Page((), next=Ask(query=Query.INSTRUMENTS, cursor="perpDexs"))
        if answer.status != 200:
            self._refuse(ask, answer)
        try:
            return self._page(ask, answer)
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidOperation, RecursionError) as e:
            raise Unreadable(str(e) or type(e).__name__, answer.body) from e
        except Unreadable as e:
            raise Unreadable(e.why, answer.body) from e

    def _page(self, ask: Ask, answer: Answer) -> Page:
        match ask.query:
            case Query.INSTRUMENTS:
                return self._instruments(ask, answer)
            case Query.PREDICTED_FUNDING:
                return Page(self._predictions(answer))
            case Query.OPEN_INTEREST | Query.FUNDING:
                return Page(self._contexts(ask, answer))
            case Query.TIME:
                return Page(())
            case _ if _lacks_now(ask):
                return Page((), next=msgspec.structs.replace(ask, end_ns=answer.received_ns + 1))
            case Query.TRADES:
                return self._recent(ask, answer)
            case Query.CANDLES:
                return self._history(ask, answer)
            case _:
                return self._fundings(ask, answer)

    def _refuse(self, ask: Ask, answer: Answer) -> None:
        if answer.status == 429:
            raise RateLimited(NAME, "hyperliquid asks us to slow down", _retry_s(answer))
        if answer.status == 500 and answer.body.strip() == b"null" and ask.symbol and ask.symbol not in self._listing:
            raise UnknownInstrument(f"hyperliquid does not list {ask.symbol}")
        raise Unavailable(NAME, f"hyperliquid answered {answer.status}")

    def _instruments(self, ask: Ask, answer: Answer) -> Page:
        kind, _, dexes = (ask.cursor or "meta").partition(":")
        found: list[Instrument] = []
        following = None
        match kind:
            case "meta":
                found, following = self._perpetuals(_read(answer, _Meta)), "spotMeta"
            case "spotMeta":
                spot = _read(answer, _SpotMeta)
                self._tokens.update((token.index, token.name) for token in spot.tokens)
                found, following = _pairs(spot), "allPerpMetas"
            case "perpDexs":
                names = [dex.name for dex in _read(answer, list[_Dex | None]) if dex]
                following = f"dexes:{','.join(names)}" if names else None
            case "dexes":
                found = _of_builders(self._perpetuals(_read(answer, _Meta)))
                left = dexes.partition(",")[2]
                following = f"dexes:{left}" if left else None
            case _:
                metas = _read(answer, list[_Meta | None])
                found = _of_builders([each for meta in metas if meta for each in self._perpetuals(meta)])
        return Page((), found, Ask(query=Query.INSTRUMENTS, cursor=following) if following else None)

    def _perpetuals(self, meta: _Meta) -> list[Instrument]:
        settle = self._tokens.get(meta.collateral, f"token {meta.collateral}")
        return [
            _instrument(
                perpetual.name,
                Kind.PERPETUAL,
                perpetual.name.rpartition(":")[2],
                "USD",
                settle,
                max(0, 6 - perpetual.size_decimals),
                perpetual.size_decimals,
                trading=not perpetual.delisted,
            )
            for perpetual in meta.universe
        ]

    def _contexts(self, ask: Ask, answer: Answer) -> list[Event]:
        meta, contexts = _read(answer, tuple[_Meta, list[_Context]])
        if len(meta.universe) != len(contexts):
            raise Unreadable("as many contexts as instruments were expected")
        wanted = OpenInterest if ask.query is Query.OPEN_INTEREST else (FundingRate, MarkPrice)
        events: list[Event] = []
        known = False
        for perpetual, context in zip(meta.universe, contexts, strict=True):
            if ask.symbol is not None and perpetual.name != ask.symbol:
                continue
            known = True
            told = self._context(perpetual.name, context, answer.received_ns)
            events += [event for event in told if isinstance(event, wanted)]
        if ask.symbol is not None and not known:
            raise UnknownInstrument(f"hyperliquid does not list {ask.symbol}")
        return events

    def _predictions(self, answer: Answer) -> list[Event]:
        rows = _read(answer, list[tuple[str, list[tuple[str, _Prediction | None]]]])
        nothing = _Prediction()
        events: list[Event] = []
        for coin, venues in rows:
            for label, given in venues:
                told = given or nothing
                # Its own rate comes without an interval where it is the usual one.
                hours = told.hours or (1 if label == "HlPerp" and given else None)
                events.append(
                    PredictedFunding(
                        self._name(coin),
                        coin,
                        label,
                        answer.received_ns,
                        None if told.rate is None else _rate(told.rate),
                        None if told.next_ms is None else told.next_ms * _MS,
                        None if hours is None else hours * 3_600,
                    )
                )
        return events

    def _recent(self, ask: Ask, answer: Answer) -> Page:
        rows = _read(answer, list[_Trade])
        if any(row.coin != ask.symbol for row in rows):
            raise Unreadable("trades of another coin")
        # Sorting is stable, so trades of one block keep their order once the list is turned to oldest first.
        newest_first = bool(rows) and rows[0].time_ms > rows[-1].time_ms
        rows = sorted(reversed(rows) if newest_first else rows, key=lambda row: row.time_ms)
        start_ns, end_ns = ask.start_ns or 0, ask.end_ns or answer.received_ns
        events = [e for e in self._trades(rows, answer.received_ns) if isinstance(e, Trade)]
        inside = [e for e in events if start_ns <= e.event_ns < end_ns]
        if ask.limit is not None:
            inside = inside[-ask.limit :] if ask.newest else inside[: ask.limit]
        # The oldest block told may be cut: only what came after it is complete. No row at all: nothing ever traded.
        first_ns = (rows[0].time_ms + 1) * _MS if rows else 0
        whole_ns = max(start_ns, first_ns)
        if ask.limit is not None or whole_ns >= end_ns:
            return Page(inside)
        return Page(inside, start_ns=whole_ns, end_ns=min(end_ns, answer.received_ns))

    def _history(self, ask: Ask, answer: Answer) -> Page:
        interval_s = _interval_s(ask)
        interval_ns = interval_s * NS
        start_ns, end_ns = _candle_window(ask)
        now_ns = answer.received_ns
        # The growing candle is one of those served.
        reach_ns = open_of(now_ns, interval_s) - (CANDLES_SERVED - 1) * interval_ns
        if end_ns <= reach_ns:
            if ask.limit is None and (ask.end_ns is None or ask.end_ns > reach_ns):
                return Page((), next=msgspec.structs.replace(ask, start_ns=reach_ns))
            raise OutOfReach(NAME, f"hyperliquid serves the last {CANDLES_SERVED} candles only")
        name = self._name(_symbol(ask))
        rows = [row for row in _read(answer, list[_Candle]) if start_ns <= row.open_ms * _MS < end_ns]
        if any(row.coin != ask.symbol or row.interval != _INTERVAL_NAMES[interval_s] for row in rows):
            raise Unreadable("candles of another coin or interval")
        rows.sort(key=lambda row: row.open_ms)
        sure_ns = now_ns - CLOSED_AFTER_NS
        newest_ms = rows[-1].open_ms if rows else 0
        events = [
            _candle(name, r, interval_s, now_ns, closed=r.open_ms < newest_ms or r.end_ms * _MS < sure_ns) for r in rows
        ]
        following = None
        if not _newest(ask) and end_ns < min(ask.end_ns or now_ns, now_ns):
            left = None if ask.limit is None else ask.limit - len(events)
            if left is None or left > 0:
                following = msgspec.structs.replace(ask, start_ns=end_ns, limit=left)
        whole_ns = (max(start_ns, reach_ns), min(end_ns, open_of(sure_ns, interval_s)))
        if whole_ns[0] >= whole_ns[1]:
            return Page(events, next=following)
        return Page(events, next=following, start_ns=whole_ns[0], end_ns=whole_ns[1])

    def _fundings(self, ask: Ask, answer: Answer) -> Page:
        name = self._name(_symbol(ask))
        start_ns, end_ns = _funding_window(ask)
        end_ns = min(end_ns or answer.received_ns, answer.received_ns)
        rows = sorted(_read(answer, list[_Funding]), key=lambda row: row.time_ms)
        events = [
            FundingRate(
                name, row.time_ms * _MS, answer.received_ns, _rate(row.rate), row.time_ms * _MS, 3_600, settled=True
            )
            for row in rows
            if start_ns <= row.time_ms * _MS < end_ns
        ]
        left = None if ask.limit is None else ask.limit - len(events)
        if left is not None and left < 0:
            events = events[: ask.limit]
            return Page(events, start_ns=start_ns, end_ns=events[-1].event_ns + _MS)
        if len(rows) < FUNDINGS_PAGE:
            return Page(events, start_ns=start_ns, end_ns=max(start_ns, end_ns))
        after_ns = (rows[-1].time_ms + 1) * _MS
        following = msgspec.structs.replace(ask, start_ns=after_ns, end_ns=end_ns, newest=False, limit=left)
        return Page(
            events, next=following if after_ns < end_ns and left != 0 else None, start_ns=start_ns, end_ns=after_ns
        )


def _is_spot(symbol: str) -> bool:
    return "/" in symbol or symbol[:1] in {"@", "#"}


def _stream(kind: str, feed: Feed, symbol: str) -> Stream:
    feeds = frozenset({feed})
    if kind == "activeAssetCtx":
        if _is_spot(symbol) and feed is not Feed.MARK_PRICE:
            raise Unsupported(f"{symbol} is a spot pair: it has no {feed.value}")
        feeds = frozenset({Feed.MARK_PRICE}) if _is_spot(symbol) else _CONTEXT_FEEDS
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
            name = _stream_name(_SUBSCRIPTION.decode(brace + rest))
        except (msgspec.DecodeError, RecursionError):
            name = None
    if reason.startswith("Already unsubscribed"):
        return Alive()
    if reason.startswith("Already subscribed"):
        return Subscribed((name,) if name else ())
    return Refused(name, reason.strip(" :")[:200])


def _unknown_channel(frame: bytes, e: msgspec.ValidationError) -> Sequence[Signal]:
    try:
        channel = _CHANNEL.decode(frame).channel
    except (msgspec.DecodeError, RecursionError):
        channel = ""
    if not channel or channel in _CHANNELS:
        raise Unreadable(str(e), frame) from e
    return [Skipped("channel", channel[:64])]


def _level(level: _Level) -> Level:
    _check(level.price)
    _check(level.size)
    return (level.price, level.size)


def _check(number: Decimal) -> None:
    if not LEAST <= number <= MOST:
        raise Unreadable("price or size out of bounds")


def _rate(rate: Decimal) -> Decimal:
    if not -RATE_MOST <= rate <= RATE_MOST:
        raise Unreadable("funding rate out of bounds")
    return rate


def _candle(name: str, row: _Candle, interval_s: int, received_ns: int, *, closed: bool) -> Candle:
    open_ns = row.open_ms * _MS
    if open_of(open_ns, interval_s) != open_ns or row.end_ms <= row.open_ms:
        raise Unreadable("candle off its interval")
    if not LEAST <= row.low <= min(row.open, row.close) <= max(row.open, row.close) <= row.high <= MOST:
        raise Unreadable("candle prices out of bounds")
    if not 0 <= row.volume <= MOST:
        raise Unreadable("candle volume out of bounds")
    typical = (row.high + row.low + row.close) / 3
    return Candle(
        instrument=name,
        side=Side.BOTH,
        interval_s=interval_s,
        open_ns=open_ns,
        open=row.open,
        high=row.high,
        low=row.low,
        close=row.close,
        volume=row.volume,
        quote_volume=(row.volume * typical).quantize(QUOTE_STEP, ROUND_HALF_EVEN),
        trades=row.trades,
        first_ns=None,
        last_ns=None,
        closed=closed,
        received_ns=received_ns,
        origin="venue",
    )


def _info(weight: int, **body: Any) -> Request:
    return Request(path="/info", method="POST", body=msgspec.json.encode(body), weight=weight)


def _read(answer: Answer, kind: type[_T]) -> _T:
    return msgspec.json.decode(answer.body, type=kind)


def _retry_s(answer: Answer) -> float:
    told = answer.headers.get("retry-after", "")
    return min(float(told), RETRY_S_MAX) if told.isascii() and told.isdigit() else RETRY_S


def _symbol(ask: Ask) -> str:
    if not ask.symbol:
        raise Unsupported(f"hyperliquid tells {ask.query.value} of one instrument at a time")
    return ask.symbol


def _newest(ask: Ask) -> bool:
    return ask.newest or ask.start_ns is None


def _lacks_now(ask: Ask) -> bool:
    """Whether the question ends now: the venue pages by time, so the time is asked first (it costs next to nothing)."""
    return ask.query in (Query.CANDLES, Query.FUNDING_HISTORY) and _newest(ask) and ask.end_ns is None


def _interval_s(ask: Ask) -> int:
    if ask.interval_s not in _INTERVAL_NAMES:
        raise BadInterval(f"hyperliquid has candles of {', '.join(_INTERVALS_S)}")
    return ask.interval_s


def _candle_window(ask: Ask) -> tuple[int, int]:
    """Open times that one request covers: [start_ns, end_ns), on the grid of the interval."""
    interval_ns = _interval_s(ask) * NS
    rows = min(ask.limit or CANDLES_SERVED, CANDLES_SERVED)
    end_ns = None if ask.end_ns is None else -(-ask.end_ns // interval_ns) * interval_ns
    if ask.newest or ask.start_ns is None:
        assert end_ns is not None
        start_ns = end_ns - rows * interval_ns
        return (max(start_ns, ask.start_ns or 0, 0), end_ns)
    start_ns = -(-ask.start_ns // interval_ns) * interval_ns
    last_ns = start_ns + rows * interval_ns
    return (start_ns, last_ns if end_ns is None else max(start_ns, min(end_ns, last_ns)))


def _funding_window(ask: Ask) -> tuple[int, int | None]:
    """[start_ns, end_ns): the newest N rates are those of the last N hours, since one is settled every hour."""
    if ask.newest or ask.start_ns is None:
        assert ask.end_ns is not None
        hours = ask.limit or FUNDINGS_PAGE
        return (max(ask.end_ns - hours * HOUR_NS, ask.start_ns or 0, 0), ask.end_ns)
    return (ask.start_ns, ask.end_ns)


def _candles_request(ask: Ask, symbol: str) -> Request:
    interval_s = _interval_s(ask)
    start_ns, end_ns = _candle_window(ask)
    req = {
        "coin": symbol,
        "interval": _INTERVAL_NAMES[interval_s],
        "startTime": start_ns // _MS,
        "endTime": max(start_ns, end_ns - 1) // _MS,
    }
    return _info(20 + (end_ns - start_ns) // (interval_s * NS) // 60, type="candleSnapshot", req=req)


def _fundings_request(ask: Ask, symbol: str) -> Request:
    if _is_spot(symbol):
        raise Unsupported(f"{symbol} is a spot pair: it has no funding")
    start_ns, end_ns = _funding_window(ask)
    body: dict[str, Any] = {"type": "fundingHistory", "coin": symbol, "startTime": -(-start_ns // _MS)}
    rows = FUNDINGS_PAGE
    if end_ns is not None:
        body["endTime"] = max(start_ns, end_ns - 1) // _MS
        rows = min(rows, (end_ns - start_ns) // HOUR_NS + 1)
    return _info(20 + max(0, rows) // 20, **body)


def _listing_request(cursor: str | None) -> Request:
    kind, _, dexes = (cursor or "meta").partition(":")
    if kind == "dexes":
        return _info(20, type="meta", dex=dexes.partition(",")[0])
    return _info(20, type=kind)


def _contexts_request(ask: Ask) -> Request:
    symbol = ask.symbol or ""
    if _is_spot(symbol):
        raise Unsupported(f"{symbol} is a spot pair: it has no {ask.query.value}")
    dex = symbol.partition(":")[0] if ":" in symbol else ""
    return _info(20, type="metaAndAssetCtxs", dex=dex) if dex else _info(20, type="metaAndAssetCtxs")


def _of_builders(perpetuals: Iterable[Instrument]) -> list[Instrument]:
    return [perpetual for perpetual in perpetuals if ":" in perpetual.symbol]


def _pairs(spot: _SpotMeta) -> list[Instrument]:
    tokens = {token.index: token for token in spot.tokens}
    found = []
    for pair in spot.universe:
        base, quote = (tokens.get(index) for index in pair.tokens)
        # A pair of tokens that are not told cannot be traded by anybody; the others can.
        if base is None or quote is None:
            continue
        ticks = max(0, 8 - base.size_decimals)
        found.append(_instrument(pair.name, Kind.SPOT, base.name, quote.name, quote.name, ticks, base.size_decimals))
    return found


def _instrument(
    symbol: str,
    kind: Kind,
    coin: str,
    quote: str,
    settle: str,
    price_decimals: int,
    size_decimals: int,
    *,
    trading: bool = True,
) -> Instrument:
    return Instrument(
        venue=NAME,
        symbol=symbol,
        kind=kind,
        coin=coin,
        quote=quote,
        settle=settle,
        tick_size=Decimal(1).scaleb(-price_decimals),
        lot_size=Decimal(1).scaleb(-size_decimals),
        trading=trading,
    )
