"""Binance spot: frames and answers in, events out.

https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams

    {"stream": "btcusdt@aggTrade", "data": {"e": "aggTrade", "E": 1672515782136, "s": "BTCUSDT", "a": 12345,
        "p": "16512.30", "q": "0.253", "f": 100, "l": 105, "T": 1672515782134, "m": true, "M": true}}
    {"stream": "btcusdt@kline_1m", "data": {"e": "kline", "E": 1672515782136, "s": "BTCUSDT", "k": {"t": 1672515780000,
        "T": 1672515839999, "s": "BTCUSDT", "i": "1m", "f": 100, "L": 200, "o": "16512.3", "c": "16512.9", "h": "16513",
        "l": "16512.3", "v": "12.3", "n": 100, "x": false, "q": "203847.1", "V": "5.0", "Q": "82564.0", "B": "0"}}}
    {"stream": "btcusdt@bookTicker", "data": {"u": 400900217, "s": "BTCUSDT", "b": "16512.3", "B": "3", "a": "16512.4",
        "A": "4"}}
    {"stream": "btcusdt@depth@100ms", "data": {"e": "depthUpdate", "E": 1672515782136, "s": "BTCUSDT", "U": 157,
        "u": 160, "b": [["16512.3", "10"]], "a": [["16512.4", "0"]]}}

`T` is when the trade happened, `E` when the frame was made. Times are milliseconds, or microseconds where the address
asks for `timeUnit=MICROSECOND`. `m` says the buyer was the maker, so the aggressor sold. A bookTicker has neither a name
nor a time. Every match counts in the venue's own candles, and in ours.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues import binance_history as history
from openoutcry.venues.binance_wire import (
    INTERVALS,
    STREAMS_PER_SUBSCRIBE,
    AggTrade,
    BareTicker,
    Binance,
    BookTicker,
    Channel,
    DepthUpdate,
    Kline,
    RawTrade,
    Symbol,
    agg_trade,
    book_ticker,
    depth_update,
    kline,
    raw_trade,
)
from openoutcry.venues.venue import Feed, Limits, Query, Rate

NAME = "binance"
CANDLES_MAX = 1_000
# 2017-07-14, the first day that can be asked for.
BORN_NS = 1_499_990_400_000_000_000
# Levels a side that can be asked for, and what they cost.
DEPTH_WEIGHTS = {100: 5, 500: 25, 1_000: 50, 5_000: 250}
# What pairs are quoted in, for the spelling of pairs without a listing; a longer one is tried before a shorter one.
QUOTES = (
    "FDUSD", "USD1", "USDC", "USDT", "BUSD", "TUSD", "USDP", "USDE", "BIDR", "IDRT", "BTC", "ETH", "BNB", "EUR", "TRY",
    "BRL", "GBP", "AUD", "RUB", "UAH", "NGN", "ZAR", "JPY", "MXN", "ARS", "COP", "PLN", "RON", "CZK", "IDR", "DAI",
    "PAX", "VAI", "TRX", "XRP", "DOT", "SOL", "DOGE",
)  # fmt: skip
# A pair without a listing is counted as finely as any pair of the venue.
FINEST = Decimal("0.00000001")


class _Pair(msgspec.Struct, frozen=True):
    symbol: Symbol
    status: str
    base: Symbol = msgspec.field(name="baseAsset")
    quote: Symbol = msgspec.field(name="quoteAsset")
    filters: list[dict[str, Any]]


_pair = msgspec.json.Decoder(_Pair).decode


class BinanceSpot(Binance):
    """Binance spot."""

    name = NAME
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {Kind.SPOT: (Exchange.BINANCE,)}
    rest = "https://api.binance.com"
    sockets: Mapping[str, str] = {"market": "wss://stream.binance.com:9443"}
    limits = Limits(
        streams_per_connection=1_024,
        streams_per_subscribe=STREAMS_PER_SUBSCRIBE,
        messages=Rate(5, 1.0),
        connections=Rate(300, 300.0),
        lifetime_s=86_400.0,
        weights={"weight": Rate(6_000, 60.0)},
        weight_header="x-mbx-used-weight-1m",
        silence_s=120.0,
        trade_ids="one",
        depth_snapshots="asked",
    )
    channels: Mapping[Feed, Channel] = {
        # Pairs that hardly trade are silent for minutes: that alone must not cost them their connection.
        Feed.TRADES: Channel("aggTrade", "market", 600.0),
        Feed.CANDLES: Channel("kline_1m", "market", 600.0),
        Feed.QUOTES: Channel("bookTicker", "market", 300.0),
        Feed.DEPTH: Channel("depth@100ms", "market", 300.0),
    }
    intervals_s = frozenset(INTERVALS.values())

    def __init__(self) -> None:
        super().__init__(
            says={
                AggTrade: agg_trade,
                RawTrade: raw_trade,
                Kline: kline,
                BookTicker: book_ticker,
                BareTicker: book_ticker,
                DepthUpdate: depth_update,
            },
            questions={
                Query.TIME: history.Time(_endpoint("time", 1)),
                Query.INSTRUMENTS: history.Instruments(_endpoint("exchangeInfo", 20), instrument),
                Query.CANDLES: history.Candles(_endpoint("klines", 2), self.intervals_s, CANDLES_MAX, _two, BORN_NS),
                Query.TRADES: history.AggTrades(_endpoint("aggTrades", 4)),
                Query.TICKERS: history.Tickers(_endpoint("ticker/24hr", 2), weight_all=80),
                Query.DEPTH: history.Depth(_endpoint("depth", 5), DEPTH_WEIGHTS),
            },
        )

    def assume(self, symbol: str) -> Instrument | None:
        """The pair, where its quote currency can be told from the spelling; the steps are the finest there are."""
        quote = next((quote for quote in QUOTES if symbol.endswith(quote) and symbol != quote), None)
        if quote is None:
            return None
        return Instrument(
            venue=NAME,
            symbol=symbol,
            kind=Kind.SPOT,
            coin=symbol.removesuffix(quote),
            quote=quote,
            settle=quote,
            tick_size=FINEST,
            lot_size=FINEST,
        )


def instrument(entry: msgspec.Raw) -> Instrument:
    """A pair of exchangeInfo. Raises Unreadable or msgspec's errors."""
    pair = _pair(entry)
    return Instrument(
        venue=NAME,
        symbol=pair.symbol,
        kind=Kind.SPOT,
        coin=pair.base,
        quote=pair.quote,
        settle=pair.quote,
        tick_size=history.step("PRICE_FILTER", "tickSize", pair.filters),
        lot_size=history.step("LOT_SIZE", "stepSize", pair.filters),
        trading=pair.status == "TRADING",
    )


def _endpoint(path: str, weight: int) -> history.Endpoint:
    return history.Endpoint(NAME, f"/api/v3/{path}", weight, "weight")


def _two(_rows: int) -> int:
    return 2
