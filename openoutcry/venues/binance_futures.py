"""Binance USDM futures (perpetual and dated, settled in stablecoins): frames and answers in, events out.

https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams

    {"stream": "btcusdt@aggTrade", "data": {"e": "aggTrade", "E": 1760000000123, "a": 5933014, "s": "BTCUSDT",
        "p": "43000.10", "q": "0.100", "nq": "0.080", "f": 100, "l": 105, "T": 1760000000101, "m": true, "st": 1}}
    {"stream": "btcusdt@trade", "data": {"e": "trade", "E": 1760000000123, "T": 1760000000101, "s": "BTCUSDT",
        "t": 548331095, "p": "0", "q": "0", "X": "NA", "m": true}}
    {"stream": "!forceOrder@arr", "data": {"e": "forceOrder", "E": 1760000000123, "o": {"s": "BTCUSDT", "S": "SELL",
        "o": "LIMIT", "f": "IOC", "q": "0.014", "p": "9910", "ap": "9925.5", "X": "FILLED", "l": "0.014", "z": "0.014",
        "T": 1760000000101, "ps": "BTCUSDT", "st": 1}}}
    {"stream": "btcusdt@markPrice@1s", "data": {"e": "markPriceUpdate", "E": 1760000000123, "s": "BTCUSDT",
        "p": "43001.12", "ap": "43001.0", "P": "43000.9", "i": "43000.55", "r": "0.00010000", "T": 1760025600000, "st": 1}}
    {"stream": "btcusdt@bookTicker", "data": {"e": "bookTicker", "u": 400900217, "s": "BTCUSDT", "b": "43000.0",
        "B": "3", "a": "43000.1", "A": "4", "T": 1760000000101, "E": 1760000000123}}
    {"stream": "btcusdt@depth@100ms", "data": {"e": "depthUpdate", "E": 1760000000123, "T": 1760000000101,
        "s": "BTCUSDT", "U": 157, "u": 160, "pu": 149, "b": [["43000.0", "10"]], "a": [["43000.1", "0"]]}}

Since 2026-03-06 the sockets live under two roots, and the old one carries nothing of `market`: quotes and depth come on
`/public`, everything else here on `/market`. A subscription at the wrong root is acknowledged and stays silent.

Aggregate trades hold market trades only, as the venue's own candles do; `q` is their whole quantity (`nq` leaves out
what RPI orders gave, and is not read). Raw trades of insurance fund, ADL and the empty NA ones are skipped. The venue pushes at most one liquidation a
second and symbol: sums of them are a lower bound. Since 2026-06-30 all-market streams may hold COINM as well: `st` tells
(1 USDM, 2 COINM), and both share one request weight per address (`shared_pools`).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues import binance_history as history
from openoutcry.venues.binance_wire import (
    FUTURES_LIMITS,
    INTERVALS,
    MS,
    USDM,
    AggTrade,
    Binance,
    BookTicker,
    Channel,
    Date,
    DepthUpdate,
    ForceOrder,
    Kline,
    MarkUpdate,
    RawTrade,
    Symbol,
    agg_trade,
    book_ticker,
    depth_update,
    force_order,
    kline,
    mark_update,
    only,
    raw_trade,
)
from openoutcry.venues.venue import Feed, Query

NAME = "binance_futures"
# 2019-09-08, the first day that can be asked for.
BORN_NS = 1_567_900_800_000_000_000
QUOTES = ("USDT", "USDC", "BUSD", "USD1", "BTC")
# A contract without a listing is counted as finely as any.
FINEST = Decimal("0.00000001")


class _Contract(msgspec.Struct, frozen=True):
    symbol: Symbol
    status: str
    base: Symbol = msgspec.field(name="baseAsset")
    quote: Symbol = msgspec.field(name="quoteAsset")
    margin: Symbol = msgspec.field(name="marginAsset")
    filters: list[dict[str, Any]]
    nature: str = msgspec.field(name="contractType", default="")
    onboard_ms: Date = msgspec.field(name="onboardDate", default=0)
    delivery_ms: Date = msgspec.field(name="deliveryDate", default=0)


_contract = msgspec.json.Decoder(_Contract).decode


class BinanceFutures(Binance):
    """Binance USDM futures."""

    name = NAME
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {
        Kind.PERPETUAL: (Exchange.BINANCE_FUTURES,),
        Kind.FUTURE: (Exchange.BINANCE_FUTURES,),
    }
    rest = "https://fapi.binance.com"
    sockets: Mapping[str, str] = {
        "public": "wss://fstream.binance.com/public",
        "market": "wss://fstream.binance.com/market",
    }
    limits = FUTURES_LIMITS
    channels: Mapping[Feed, Channel] = {
        Feed.TRADES: Channel("aggTrade", "market", 300.0),
        Feed.CANDLES: Channel("kline_1m", "market", 300.0),
        Feed.QUOTES: Channel("bookTicker", "public", 120.0),
        Feed.DEPTH: Channel("depth@100ms", "public", 120.0),
        Feed.LIQUIDATIONS: Channel("forceOrder", "market", None, "!forceOrder@arr"),
        Feed.FUNDING: Channel("markPrice@1s", "market", 15.0, "!markPrice@arr@1s"),
        Feed.MARK_PRICE: Channel("markPrice@1s", "market", 15.0, "!markPrice@arr@1s"),
    }
    intervals_s = frozenset(INTERVALS.values()) - {1}
    market = USDM

    def __init__(self) -> None:
        interests = _endpoint("/futures/data/openInterestHist", 1, "data")
        super().__init__(
            says={
                AggTrade: agg_trade,
                RawTrade: raw_trade,
                Kline: kline,
                BookTicker: book_ticker,
                DepthUpdate: depth_update,
                ForceOrder: only(USDM, force_order),
                MarkUpdate: only(USDM, mark_update),
            },
            questions={
                Query.TIME: history.Time(_endpoint("/fapi/v1/time", 1)),
                Query.INSTRUMENTS: history.Instruments(_endpoint("/fapi/v1/exchangeInfo", 1), instrument),
                Query.CANDLES: history.Candles(
                    _endpoint("/fapi/v1/klines", 1),
                    self.intervals_s,
                    history.FUTURES_CANDLES_MAX,
                    history.futures_candles_weight,
                    BORN_NS,
                ),
                Query.TRADES: history.AggTrades(_endpoint("/fapi/v1/aggTrades", 20)),
                Query.OPEN_INTEREST: history.Interest(_endpoint("/fapi/v1/openInterest", 1)),
                Query.OPEN_INTEREST_HISTORY: history.InterestHistory(interests, lambda symbol: [("symbol", symbol)]),
                Query.FUNDING: history.Premium(_endpoint("/fapi/v1/premiumIndex", 1), weight_all=10),
                Query.FUNDING_HISTORY: history.FundingHistory(_endpoint("/fapi/v1/fundingRate", 1, "funding"), BORN_NS),
                Query.TICKERS: history.Tickers(_endpoint("/fapi/v1/ticker/24hr", 1), weight_all=40),
                Query.DEPTH: history.Depth(_endpoint("/fapi/v1/depth", 2), history.FUTURES_DEPTH_WEIGHTS),
            },
        )

    def assume(self, symbol: str) -> Instrument | None:
        """The contract, where its quote currency can be told from the spelling: `BTCUSDT`, or dated `BTCUSDT_260925`.

        Its steps are the finest there are, and when it ends is not known.
        """
        pair, _, date = symbol.partition("_")
        quote = next((quote for quote in QUOTES if pair.endswith(quote) and pair != quote), None)
        if quote is None or not (date.isdigit() if "_" in symbol else True):
            return None
        return Instrument(
            venue=NAME,
            symbol=symbol,
            kind=Kind.FUTURE if date else Kind.PERPETUAL,
            coin=pair.removesuffix(quote),
            quote=quote,
            settle=quote,
            tick_size=FINEST,
            lot_size=FINEST,
        )


def instrument(entry: msgspec.Raw) -> Instrument:
    """A contract of exchangeInfo. Raises Unreadable or msgspec's errors."""
    contract = _contract(entry)
    dated = history.is_dated(contract.nature, contract.delivery_ms)
    return Instrument(
        venue=NAME,
        symbol=contract.symbol,
        kind=Kind.FUTURE if dated else Kind.PERPETUAL,
        coin=contract.base,
        quote=contract.quote,
        settle=contract.margin,
        tick_size=history.step("PRICE_FILTER", "tickSize", contract.filters),
        lot_size=history.step("LOT_SIZE", "stepSize", contract.filters),
        listed_ns=contract.onboard_ms * MS or None,
        expires_ns=contract.delivery_ms * MS if dated else None,
        trading=contract.status == "TRADING",
    )


def _endpoint(path: str, weight: int, pool: str = "weight") -> history.Endpoint:
    return history.Endpoint(NAME, path, weight, pool)
