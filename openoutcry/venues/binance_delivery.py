"""Binance COINM delivery (perpetual and dated, settled in the coin): frames and answers in, events out.

https://developers.binance.com/docs/derivatives/coin-margined-futures/websocket-market-streams

    {"stream": "btcusd_perp@aggTrade", "data": {"e": "aggTrade", "E": 1760000000123, "a": 424951, "s": "BTCUSD_PERP",
        "p": "43000.1", "q": "100", "f": 606073, "l": 606073, "T": 1760000000101, "m": false}}
    {"stream": "btcusd_perp@kline_1m", "data": {"e": "kline", "E": 1760000000123, "s": "BTCUSD_PERP", "k": {
        "t": 1760000000000, "T": 1760000059999, "s": "BTCUSD_PERP", "i": "1m", "f": 100, "L": 200, "o": "43000.1",
        "c": "43010.0", "h": "43010.0", "l": "43000.0", "v": "1893", "n": 41, "x": false, "q": "4.40149653", ...}}}
    {"stream": "btcusd_perp@markPrice@1s", "data": {"e": "markPriceUpdate", "E": 1760000000123, "s": "BTCUSD_PERP",
        "p": "43001.1", "P": "43000.9", "i": "43000.5", "r": "0.00010000", "T": 1760025600000}}

The other frames are those of USDM. One socket carries everything. Sizes are contracts of a fixed amount of the quote
currency (100 USD for BTC, 10 USD for the others): coins = contracts x contract size / price, value = contracts x contract
size. In candles `v` counts contracts and `q`, elsewhere the quote volume, counts coins. `r` is "" for dated contracts.
Without the listing no size can be told, so unlisted symbols are skipped. Request weight is shared with USDM.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from openoutcry.errors import Unsupported
from openoutcry.events import Candle, Liquidation, Trade
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues import binance_history as history
from openoutcry.venues.binance_wire import (
    COINM,
    FUTURES_LIMITS,
    INTERVALS,
    MS,
    SIZE_MOST,
    ZERO,
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
    Says,
    Symbol,
    book_ticker,
    coins,
    depth_update,
    force_order,
    inverse_trade,
    kline,
    mark_update,
    only,
    positive,
    raw_trade,
)
from openoutcry.venues.venue import Feed, Query

NAME = "binance_delivery"
# 2020-08-10, the first day that can be asked for.
BORN_NS = 1_597_017_600_000_000_000
CANDLES_DAYS_MAX = 200
InContracts = TypeVar("InContracts", Trade, Liquidation)


class _Contract(msgspec.Struct, frozen=True):
    symbol: Symbol
    status: str = msgspec.field(name="contractStatus")
    base: Symbol = msgspec.field(name="baseAsset")
    quote: Symbol = msgspec.field(name="quoteAsset")
    margin: Symbol = msgspec.field(name="marginAsset")
    contract_size: Decimal = msgspec.field(name="contractSize")
    filters: list[dict[str, Any]]
    nature: str = msgspec.field(name="contractType", default="")
    onboard_ms: Date = msgspec.field(name="onboardDate", default=0)
    delivery_ms: Date = msgspec.field(name="deliveryDate", default=0)


_contract = msgspec.json.Decoder(_Contract).decode


class BinanceDelivery(Binance):
    """Binance COINM delivery."""

    name = NAME
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {
        Kind.PERPETUAL: (Exchange.BINANCE_DELIVERY,),
        Kind.FUTURE: (Exchange.BINANCE_DELIVERY,),
    }
    rest = "https://dapi.binance.com"
    sockets: Mapping[str, str] = {"market": "wss://dstream.binance.com"}
    limits = FUTURES_LIMITS
    channels: Mapping[Feed, Channel] = {
        # Dated contracts hardly trade: silence of minutes is normal there.
        Feed.TRADES: Channel("aggTrade", "market", 900.0),
        Feed.CANDLES: Channel("kline_1m", "market", 900.0),
        Feed.QUOTES: Channel("bookTicker", "market", 300.0),
        Feed.DEPTH: Channel("depth@100ms", "market", 300.0),
        Feed.LIQUIDATIONS: Channel("forceOrder", "market", None, "!forceOrder@arr"),
        Feed.FUNDING: Channel("markPrice@1s", "market", 15.0),
        Feed.MARK_PRICE: Channel("markPrice@1s", "market", 15.0),
    }
    intervals_s = frozenset(INTERVALS.values()) - {1}
    market = COINM

    def __init__(self) -> None:
        # By instrument name. Filled by `learn`, never replaced: the function for trades holds on to it.
        self._contract_sizes: dict[str, Decimal] = {}
        premium = _endpoint("/dapi/v1/premiumIndex", 10)
        super().__init__(
            says={
                AggTrade: partial(inverse_trade, self._contract_sizes),
                RawTrade: self._raw_trade,
                Kline: self._kline,
                BookTicker: book_ticker,
                DepthUpdate: depth_update,
                ForceOrder: only(COINM, self._force_order),
                MarkUpdate: only(COINM, mark_update),
            },
            questions={
                Query.TIME: history.Time(_endpoint("/dapi/v1/time", 1)),
                Query.INSTRUMENTS: history.Instruments(_endpoint("/dapi/v1/exchangeInfo", 1), instrument),
                Query.CANDLES: history.Candles(
                    _endpoint("/dapi/v1/klines", 1),
                    self.intervals_s,
                    history.FUTURES_CANDLES_MAX,
                    history.futures_candles_weight,
                    BORN_NS,
                    CANDLES_DAYS_MAX,
                ),
                Query.TRADES: history.AggTrades(_endpoint("/dapi/v1/aggTrades", 20)),
                Query.OPEN_INTEREST: history.InterestInContracts(_endpoint("/dapi/v1/openInterest", 1), premium),
                Query.OPEN_INTEREST_HISTORY: history.InterestHistory(
                    _endpoint("/futures/data/openInterestHist", 1, "data"), _pair
                ),
                Query.FUNDING: history.Premium(premium, weight_all=10),
                Query.FUNDING_HISTORY: history.FundingHistory(_endpoint("/dapi/v1/fundingRate", 1, "funding"), BORN_NS),
                Query.TICKERS: history.Tickers(_endpoint("/dapi/v1/ticker/24hr", 1), weight_all=40),
                Query.DEPTH: history.Depth(_endpoint("/dapi/v1/depth", 2), history.FUTURES_DEPTH_WEIGHTS),
            },
        )

    def assume(self, symbol: str) -> Instrument | None:  # noqa: ARG002 whatever it is
        """None: a contract is worth 100 or 10 of its quote currency, and no spelling tells for sure."""
        return None

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing; an instrument without a contract size is as good as unlisted."""
        super().learn(instrument for instrument in instruments if instrument.contract_size is not None)
        self._contract_sizes.clear()
        for listed in self._listing.values():
            self._contract_sizes[listed.name] = listed.contract_size or ZERO

    def _raw_trade(self, data: RawTrade, name: str, received_ns: int) -> Says:
        return [
            self._in_coins(event) if isinstance(event, Trade) else event for event in raw_trade(data, name, received_ns)
        ]

    def _force_order(self, data: ForceOrder, name: str, received_ns: int) -> Says:
        return [
            self._in_coins(event) if isinstance(event, Liquidation) else event
            for event in force_order(data, name, received_ns)
        ]

    def _kline(self, data: Kline, name: str, received_ns: int) -> Says:
        return [
            # `v` counts contracts, `q` coins.
            replace(event, volume=event.quote_volume, quote_volume=event.volume * self._contract_sizes[name])
            if isinstance(event, Candle)
            else event
            for event in kline(data, name, received_ns)
        ]

    def _in_coins(self, event: InContracts) -> InContracts:
        size, value = coins(event.size, self._contract_sizes[event.instrument], event.price)
        return replace(event, size=size, value=value, contracts=event.size)


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
        contract_size=positive(contract.contract_size, SIZE_MOST),
        inverse=True,
        listed_ns=contract.onboard_ms * MS or None,
        expires_ns=contract.delivery_ms * MS if dated else None,
        trading=contract.status == "TRADING",
    )


def _pair(symbol: str) -> Sequence[tuple[str, str]]:
    """How openInterestHist names a contract. Raises Unsupported for dated ones.

    Those are asked for by their place in the row (current or next quarter), which another contract held before: a month
    of such rows is not a series of one instrument.
    """
    pair, _, nature = symbol.partition("_")
    if nature != "PERP":
        raise Unsupported(f"{NAME} tells open interest history of perpetuals only")
    return [("pair", pair), ("contractType", "PERPETUAL")]


def _endpoint(path: str, weight: int, pool: str = "weight") -> history.Endpoint:
    return history.Endpoint(NAME, path, weight, pool, contracts=True)
