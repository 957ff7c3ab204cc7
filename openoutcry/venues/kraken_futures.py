"""Kraken Futures (once Crypto Facilities), perpetual and dated: frames in, events out.

https://docs.kraken.com/api/docs/futures-api/websocket/trade

    {"feed": "trade", "product_id": "PI_XBTUSD", "uid": "05af78ac-a774-478c-a50c-8b9c234e071e", "side": "sell",
        "type": "fill", "seq": 653355, "time": 1612266317519, "qty": 15000, "price": 34969.5}
    {"feed": "trade_snapshot", "product_id": "PF_XBTUSD", "trades": [{"feed": "trade", ..., "seq": 421131},
        {"feed": "trade", ..., "seq": 421130}]}
    {"time": 1790359997224, "product_id": "PF_XBTUSD", "funding_rate": 0.912482213835, "funding_rate_prediction":
        1.3232500286425, "relative_funding_rate": 0.00001089345, "relative_funding_rate_prediction": 0.00001575425,
        "next_funding_rate_time": 1790362800000, "feed": "ticker", "bid": 84001.0, "ask": 84002.0, "bid_size": 0.0273,
        "ask_size": 0.006, "index": 83995.76, "openInterest": 2189.7813, "markPrice": 84004.11362574516, ...}
    {"feed": "heartbeat", "time": 1534262350627}
    {"event": "subscribed", "feed": "trade", "product_ids": ["PI_XBTUSD"]}
    {"event": "alert", "message": "Couldn't subscribe to invalid feed"}

REST is in kraken_futures_history.py.

What to beware of:
* Of the types of trades only `fill` and `liquidation` were matched on the book; `block`, `termination` and the like are
  skipped. A liquidation is a trade whose aggressor was liquidated, so `side` is the order's in both events.
* `uid` is the only id that REST tells too, and nothing can be told from it. `seq` orders the trades of a product.
* A snapshot repeats old trades (and with them liquidations) after each subscription, newest first.
* PI_ and FI_ count dollars, worth coins at the trade's price; PF_ and FF_ count coins.
* `funding_rate` is an amount per contract; the rate is `relative_funding_rate`. It is the one of the running period, fixed
  when that began; `relative_funding_rate_prediction` is the next period's. A rate of zero is left out of the frame.
  `next_funding_rate_time` is a moment, though it is documented as the time until then.
* A ticker tells all its fields at each change; open interest counts as sizes do.
* A connection is cut when the client says nothing for 60 s; a subscription to the heartbeats, asked for again, is said.
* Depth and the venue's candles are not streamed here: candles carry no closed flag and no volume in coins for inverse
  contracts, which would correct what trades tell exactly.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from openoutcry import errors
from openoutcry.events import Event, FundingRate, Liquidation, MarkPrice, Quote, Side, Trade
from openoutcry.venues.bounds import MS, NUMBER_MAX, ZERO, Number, TimeMs
from openoutcry.venues.channels import AskedOnceOpen, Channel, by_channel, streams_of
from openoutcry.venues.kraken_futures_history import WEIGHTS, KrakenFuturesHistory
from openoutcry.venues.kraken_futures_wire import (
    ON_BOOK,
    Meaning,
    OrderSide,
    Symbol,
    TradeId,
    interest_of,
    rate_of,
    size_of,
)
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

STREAMS_MAX = 500
PRODUCTS_PER_SUBSCRIBE = 100
REASON_CHARS_MAX = 200
_BUY, _SELL = Side.BUY, Side.SELL
_TRADED = frozenset({Feed.TRADES, Feed.LIQUIDATIONS})
_TICKED = frozenset({Feed.QUOTES, Feed.OPEN_INTEREST, Feed.FUNDING, Feed.MARK_PRICE})
# Small contracts trade a few times a day, so trades are never called silent: heartbeats tell a dead connection.
_CHANNELS: Mapping[Feed, Channel] = {
    **dict.fromkeys(_TRADED, ("trade", _TRADED, None)),
    **dict.fromkeys(_TICKED, ("ticker", _TICKED, 300.0)),
}


class _Trade(msgspec.Struct, frozen=True, gc=False, tag_field="feed", tag="trade"):
    symbol: Symbol = msgspec.field(name="product_id")
    id: TradeId = msgspec.field(name="uid")
    side: OrderSide
    type: str
    seq: Number
    time_ms: TimeMs = msgspec.field(name="time")
    count: Decimal = msgspec.field(name="qty")
    price: Decimal


class _Snapshot(msgspec.Struct, frozen=True, gc=False, tag_field="feed", tag="trade_snapshot"):
    trades: list[_Trade]


class _Ticker(msgspec.Struct, frozen=True, gc=False, tag_field="feed", tag="ticker"):
    symbol: Symbol = msgspec.field(name="product_id")
    time_ms: TimeMs = msgspec.field(name="time")
    mark: Decimal = msgspec.field(name="markPrice")
    interest: Decimal = msgspec.field(name="openInterest")
    bid: Decimal = ZERO
    bid_size: Decimal = ZERO
    ask: Decimal = ZERO
    ask_size: Decimal = ZERO
    index: Decimal = ZERO
    rate: Decimal = msgspec.field(name="relative_funding_rate", default=ZERO)
    predicted: Decimal = msgspec.field(name="relative_funding_rate_prediction", default=ZERO)
    funding_ms: TimeMs | None = msgspec.field(name="next_funding_rate_time", default=None)


class _Beat(msgspec.Struct, frozen=True, gc=False, tag_field="feed", tag="heartbeat"):
    pass


class _Head(msgspec.Struct):
    """Every frame, for what is none of the shapes above."""

    event: str | None = None
    feed: str = ""
    message: str = ""
    product_ids: list[str] = []


_SHAPES: tuple[type[Any], ...] = (_Trade, _Snapshot, _Ticker, _Beat)
_KNOWN = frozenset(shape.__struct_config__.tag for shape in _SHAPES)
_Said = Sequence[Event | Signal]
_frame = msgspec.json.Decoder(_Trade | _Snapshot | _Ticker | _Beat).decode
_head = msgspec.json.Decoder(_Head).decode


class KrakenFutures(AskedOnceOpen, KrakenFuturesHistory):
    """Perpetuals and futures on one socket."""

    sockets: Mapping[str, str] = {"ws": "wss://futures.kraken.com/ws/v1"}
    limits = Limits(
        streams_per_connection=STREAMS_MAX,
        streams_per_subscribe=PRODUCTS_PER_SUBSCRIBE,
        messages=Rate(100, 1.0),
        connections=Rate(100, 60.0),
        lifetime_s=86_400.0,
        weights=WEIGHTS,
        heartbeat=Heartbeat(30.0, b'{"event":"subscribe","feed":"heartbeat"}'),
        silence_s=60.0,
        quote_estimated=True,
    )
    feeds = frozenset(_CHANNELS)

    def __init__(self) -> None:
        super().__init__()
        self._says: dict[type[Any], Callable[[Any, int], _Said]] = {
            _Snapshot: self._snapshot,
            _Ticker: self._ticker,
            _Beat: _alive,
        }

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """One feed a product; trades and liquidations come in one, and all that a ticker tells in another."""
        return streams_of(self.name, _CHANNELS, feed, symbols)

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        """Frames of one feed and PRODUCTS_PER_SUBSCRIBE products each."""
        event = "unsubscribe" if undo else "subscribe"
        return [
            msgspec.json.encode({"event": event, "feed": word, "product_ids": symbols})
            for word, symbols in by_channel(streams, PRODUCTS_PER_SUBSCRIBE)
        ]

    def reset(self, endpoint: str) -> None:
        """Nothing to forget: every frame stands on its own."""

    def decode(self, frame: bytes, received_ns: int) -> _Said:
        """What one frame says. Raises Unreadable."""
        try:
            data = _frame(frame)
            if type(data) is _Trade:
                return self._trade(data, received_ns)
            return self._says[type(data)](data, received_ns)
        except msgspec.ValidationError as e:
            return _uncommon(frame, e)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", frame) from e

    def _trade(self, row: _Trade, received_ns: int) -> _Said:
        meaning = self._meanings.get(row.symbol)
        if meaning is None:
            return (Skipped("unknown_instrument", row.symbol),)
        if row.type not in ON_BOOK:
            return (Skipped("non_market", row.symbol),)
        price, count, event_ns, name = row.price, row.count, row.time_ms * MS, meaning.name
        if not (ZERO < price < NUMBER_MAX and ZERO < count < NUMBER_MAX):
            raise ValueError("price or size out of range")
        side, size, value, contracts = _SELL if row.side == "sell" else _BUY, count, None, None
        if meaning.contract_size is not None:
            size, value, contracts = size_of(meaning, count, price)
        trade = Trade(name, event_ns, received_ns, row.id, row.seq, side, price, size, 1, value, contracts)
        if row.type == "fill":
            return (trade,)
        return (trade, Liquidation(name, event_ns, received_ns, row.id, side, price, size, value, contracts))

    def _snapshot(self, told: _Snapshot, received_ns: int) -> _Said:
        said: list[Event | Signal] = []
        for row in sorted(told.trades, key=lambda row: row.seq):
            said += self._trade(row, received_ns)
        return said

    def _ticker(self, told: _Ticker, received_ns: int) -> _Said:
        meaning = self._meanings.get(told.symbol)
        if meaning is None:
            return (Skipped("unknown_instrument", told.symbol),)
        name, event_ns, mark = meaning.name, told.time_ms * MS, told.mark
        interest = interest_of(meaning, told.interest, mark, event_ns, received_ns)
        bid, ask = _side(meaning, told.bid, told.bid_size), _side(meaning, told.ask, told.ask_size)
        if not ZERO <= told.index < NUMBER_MAX:
            raise ValueError("index out of range")
        said: list[Event | Signal] = [
            Quote(name, event_ns, received_ns, *bid, *ask),
            interest,
            MarkPrice(name, event_ns, received_ns, mark, told.index or None),
        ]
        if meaning.perpetual and told.funding_ms is not None:
            said.append(
                FundingRate(
                    name,
                    event_ns,
                    received_ns,
                    rate_of(told.rate),
                    told.funding_ms * MS,
                    None,
                    settled=False,
                    predicted=rate_of(told.predicted),
                )
            )
        return said


def _side(meaning: Meaning, price: Decimal, count: Decimal) -> tuple[Decimal, Decimal] | tuple[None, None]:
    """An empty side is zeros, or is left out."""
    if not price or not count:
        return None, None
    if not (ZERO < price < NUMBER_MAX and ZERO < count < NUMBER_MAX):
        raise ValueError("quote out of range")
    return price, size_of(meaning, count, price)[0]


def _alive(_data: _Beat, _received_ns: int) -> _Said:
    return (Alive(),)


def _uncommon(frame: bytes, e: msgspec.ValidationError) -> _Said:
    """An answer, another feed, or a frame that is not what the venue documents."""
    try:
        head = _head(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise errors.Unreadable(str(e), frame) from e
    if head.event is None:
        if not head.feed or head.feed in _KNOWN:
            raise errors.Unreadable(str(e), frame) from e
        return (Skipped("unknown_feed", head.feed[:REASON_CHARS_MAX]),)
    if head.event == "subscribed" and head.product_ids:
        return (Subscribed(tuple(f"{head.feed}:{symbol}" for symbol in head.product_ids)),)
    if head.event in {"alert", "error"}:
        return (Refused(None, head.message[:REASON_CHARS_MAX]),)
    # The greeting, an acknowledgement that names nothing, `unsubscribed`.
    return (Alive(),)
