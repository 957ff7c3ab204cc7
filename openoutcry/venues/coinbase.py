"""Coinbase Exchange, spot: frames in, events out.

https://docs.cdp.coinbase.com/exchange/websocket-feed/channels

    {"type": "match", "trade_id": 280232, "maker_order_id": "2a0da34e-...", "taker_order_id": "3c82abaa-...", "side": "sell",
        "size": "985", "price": "0.00001305", "product_id": "SKL-BTC", "sequence": 177100030,
        "time": "2021-04-17T16:43:37.089723Z"}
    {"type": "last_match", "trade_id": 280231, ...}
    {"type": "ticker", "sequence": 29912241, "product_id": "BTC-USD", "price": "64012.5", "best_bid": "64012.49",
        "best_bid_size": "0.31", "best_ask": "64012.5", "best_ask_size": "0.07", "time": "2026-11-20T13:00:20.104211Z", ...}
    {"type": "heartbeat", "sequence": 90, "last_trade_id": 20, "product_id": "BTC-USD", "time": "2014-11-07T08:19:28.464459Z"}
    {"type": "subscriptions", "channels": [{"name": "matches", "product_ids": ["BTC-USD"]}, ...]}
    {"type": "error", "message": "Failed to subscribe", "reason": "FOO-USD is not a valid product"}

REST is in coinbase_history.py.

What to beware of:
* `side` is the maker's: the aggressor did the opposite.
* Trade ids of a product are each the last plus one. The first frame after a subscription repeats the newest trade.
* `subscriptions` names all that the connection carries, not what the last request was about.
* One product that is not listed costs its whole request, and the refusal names no channel: the feed asks for each alone.
* A ticker comes with a trade only. Until 2022 it told no sizes.
* Heartbeats are subscribed beside the matches: one a second and product, so that silence means a dead connection.
* There is no stream of candles; depth is not read here (level 2 has no sequence to hold it whole by).
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from openoutcry import errors
from openoutcry.events import Event, Quote, Side, Trade
from openoutcry.venues.bounds import NUMBER_MAX, ZERO, Number
from openoutcry.venues.channels import AskedOnceOpen, Channel, by_channel, streams_of
from openoutcry.venues.coinbase_history import AGAINST, NAME, CoinbaseHistory, MakerSide, Symbol
from openoutcry.venues.stamps import Stamp, ns_of
from openoutcry.venues.venue import (
    Alive,
    Feed,
    Limits,
    Rate,
    Refused,
    Signal,
    Skipped,
    Stream,
    Subscribed,
)

STREAMS_MAX = 200
PRODUCTS_PER_SUBSCRIBE = 50
REASON_CHARS_MAX = 200
# Small pairs trade a few times a day, so trades are never called silent: heartbeats tell a dead connection.
_CHANNELS: Mapping[Feed, Channel] = {
    Feed.TRADES: ("matches", frozenset({Feed.TRADES}), None),
    Feed.QUOTES: ("ticker", frozenset({Feed.QUOTES}), None),
}
_ASKED: Mapping[str, list[str]] = {"matches": ["matches", "heartbeat"], "ticker": ["ticker"]}
_BUY, _SELL = Side.BUY, Side.SELL


class _Match(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="match"):
    symbol: Symbol = msgspec.field(name="product_id")
    id: Number = msgspec.field(name="trade_id")
    maker: MakerSide = msgspec.field(name="side")
    size: Decimal
    price: Decimal
    time: Stamp


class _LastMatch(_Match, frozen=True, gc=False, tag_field="type", tag="last_match"):
    pass


class _Ticker(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="ticker"):
    symbol: Symbol = msgspec.field(name="product_id")
    bid: str = msgspec.field(name="best_bid")
    ask: str = msgspec.field(name="best_ask")
    bid_size: str = msgspec.field(name="best_bid_size", default="")
    ask_size: str = msgspec.field(name="best_ask_size", default="")
    time: Stamp | None = None


class _Beat(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="heartbeat"):
    pass


class _Channel(msgspec.Struct, frozen=True):
    name: str
    product_ids: list[Symbol] | None = None


class _Subscriptions(msgspec.Struct, frozen=True, tag_field="type", tag="subscriptions"):
    channels: list[_Channel]


class _Error(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    message: str = ""
    reason: str = ""


class _Head(msgspec.Struct):
    """Every frame, for what is none of the shapes above."""

    type: str


_SHAPES: tuple[type[Any], ...] = (_Match, _LastMatch, _Ticker, _Beat, _Subscriptions, _Error)
_KNOWN = frozenset(shape.__struct_config__.tag for shape in _SHAPES)
_Said = Sequence[Event | Signal]
_frame = msgspec.json.Decoder(_Match | _LastMatch | _Ticker | _Beat | _Subscriptions | _Error).decode
_head = msgspec.json.Decoder(_Head).decode


class Coinbase(AskedOnceOpen, CoinbaseHistory):
    """All pairs on one socket."""

    sockets: Mapping[str, str] = {"ws": "wss://ws-feed.exchange.coinbase.com"}
    limits = Limits(
        streams_per_connection=STREAMS_MAX,
        streams_per_subscribe=PRODUCTS_PER_SUBSCRIBE,
        messages=Rate(100, 1.0),
        connections=Rate(8, 1.0),
        lifetime_s=86_400.0,
        weights={"public": Rate(10, 1.0)},
        silence_s=30.0,
        trade_ids="one",
        quiet_candles="omitted",
        quote_estimated=True,
    )
    feeds = frozenset(_CHANNELS)

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """One channel and product each."""
        return streams_of(NAME, _CHANNELS, feed, symbols)

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        """Frames of one channel and PRODUCTS_PER_SUBSCRIBE products each."""
        kind = "unsubscribe" if undo else "subscribe"
        return [
            msgspec.json.encode({"type": kind, "product_ids": symbols, "channels": _ASKED[channel]})
            for channel, symbols in by_channel(streams, PRODUCTS_PER_SUBSCRIBE)
        ]

    def reset(self, endpoint: str) -> None:
        """Nothing to forget: every frame stands on its own."""

    def decode(self, frame: bytes, received_ns: int) -> _Said:
        """What one frame says. Raises Unreadable."""
        try:
            data = _frame(frame)
            if isinstance(data, _Match):
                name = self._names.get(data.symbol)
                if name is None:
                    return (Skipped("unknown_instrument", data.symbol),)
                price, size, number = data.price, data.size, data.id
                if not (ZERO < price < NUMBER_MAX and ZERO < size < NUMBER_MAX):
                    raise ValueError("price or size out of range")  # noqa: TRY301 - one way out for all that is unreadable
                return (Trade(name, ns_of(data.time), received_ns, number, number, AGAINST[data.maker], price, size),)
            return self._others(data, received_ns)
        except msgspec.ValidationError as e:
            return _uncommon(frame, e)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", frame) from e

    def _others(self, data: _Ticker | _Beat | _Subscriptions | _Error, received_ns: int) -> _Said:
        match data:
            case _Ticker():
                return self._quote(data, received_ns)
            case _Subscriptions(channels=channels):
                names = [f"{each.name}:{symbol}" for each in channels for symbol in each.product_ids or ()]
                # After the last was given up nothing is named, which must not acknowledge what is asked for next.
                return (Subscribed(tuple(names)),) if names else (Alive(),)
            case _Error(message=message, reason=reason):
                return (Refused(None, f"{message}: {reason}"[:REASON_CHARS_MAX]),)
            case _Beat():
                return (Alive(),)

    def _quote(self, told: _Ticker, received_ns: int) -> _Said:
        name = self._names.get(told.symbol)
        if name is None:
            return (Skipped("unknown_instrument", told.symbol),)
        event_ns = received_ns if told.time is None else ns_of(told.time)
        return (Quote(name, event_ns, received_ns, *_side(told.bid, told.bid_size), *_side(told.ask, told.ask_size)),)


def _side(price: str, size: str) -> tuple[Decimal | None, Decimal | None]:
    """Price and size; an empty side is zero or no text, and old frames tell no size."""
    worth = Decimal(price or 0)
    if not worth:
        return None, None
    many = Decimal(size) if size else None
    if not (ZERO < worth < NUMBER_MAX and (many is None or ZERO <= many < NUMBER_MAX)):
        raise ValueError("quote out of range")
    return worth, many


def _uncommon(frame: bytes, e: msgspec.ValidationError) -> _Said:
    """Another kind of frame, or one that is not what the venue documents."""
    try:
        kind = _head(frame).type
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise errors.Unreadable(str(e), frame) from e
    if kind in _KNOWN:
        raise errors.Unreadable(str(e), frame) from e
    return (Skipped("unknown_type", kind[:REASON_CHARS_MAX]),)
