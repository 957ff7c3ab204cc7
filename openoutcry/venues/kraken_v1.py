"""Kraken's older WebSocket, v1, as it is still served and as recordings of years hold it: its arrays.

https://docs.kraken.com/exchange/api-reference/spot-websocket-v1/trade

    [337, [["5541.20000", "0.15850568", "1534614057.321597", "s", "l", ""], ...], "trade", "XBT/USD"]
    [340, {"a": ["5525.40000", 1, "1.000"], "b": ["5525.10000", 1, "1.000"], "c": [...], ...}, "ticker", "XBT/USD"]

A trade has no id: it is made of what the trade was, and of how many alike stand before it in the frame. A ticker has no time.
Candles are not read, for they say when they end and not that they did; books (`book-1000`, some in two parts) neither.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from openoutcry.events import Event, Quote, Side, Trade
from openoutcry.venues.bounds import NUMBER_MAX, ZERO, check_traded
from openoutcry.venues.kraken_history import TIME_END, ns_of_seconds, symbol_of
from openoutcry.venues.venue import Signal, Skipped

CHANNEL_CHARS_MAX = 64
_SIDES = {"b": Side.BUY, "s": Side.SELL}


class _TradeRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    price: Decimal
    size: Decimal
    time: Decimal
    side: Literal["b", "s"]


class _Best(msgspec.Struct, frozen=True, gc=False, array_like=True):
    price: Decimal
    whole: Decimal
    size: Decimal


class _Ticker(msgspec.Struct, frozen=True, gc=False):
    ask: _Best = msgspec.field(name="a")
    bid: _Best = msgspec.field(name="b")


_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_word = msgspec.json.Decoder(str).decode
_trades = msgspec.json.Decoder(list[_TradeRow]).decode
_ticker = msgspec.json.Decoder(_Ticker).decode


def read(frame: bytes, names: Mapping[str, str], received_ns: int) -> Sequence[Event | Signal]:
    """What an array says. Raises MsgspecError, ValueError, ArithmeticError, RecursionError."""
    parts = _parts(frame)
    if len(parts) < 4:
        raise ValueError("an array of another kind")
    channel, pair = _word(parts[-2]), _word(parts[-1])
    if channel not in {"trade", "ticker"}:
        return (Skipped("unknown_channel", channel[:CHANNEL_CHARS_MAX]),)
    symbol = symbol_of(pair)
    name = names.get(symbol)
    if name is None:
        return (Skipped("unknown_instrument", symbol),)
    if channel == "trade":
        return _trades_of(name, _trades(parts[1]), received_ns)
    told = _ticker(parts[1])
    return (Quote(name, received_ns, received_ns, *_side(told.bid), *_side(told.ask)),)


def _trades_of(name: str, rows: Sequence[_TradeRow], received_ns: int) -> Sequence[Event | Signal]:
    trades: list[Event | Signal] = []
    seen: dict[str, int] = {}
    for place, row in enumerate(rows):
        check_traded(row.price, row.size)
        if not ZERO < row.time < TIME_END:
            raise ValueError("time out of range")
        key = f"{row.time}-{row.side}-{row.price}-{row.size}"
        seen[key] = seen.get(key, 0) + 1
        trades.append(
            Trade(
                name,
                ns_of_seconds(row.time),
                received_ns,
                f"{key}-{seen[key]}",
                place,
                _SIDES[row.side],
                row.price,
                row.size,
            )
        )
    return trades


def _side(best: _Best) -> tuple[Decimal, Decimal] | tuple[None, None]:
    if not best.price or not best.size:
        return None, None
    if not (ZERO < best.price < NUMBER_MAX and ZERO < best.size < NUMBER_MAX):
        raise ValueError("quote out of range")
    return best.price, best.size
