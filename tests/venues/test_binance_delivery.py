"""Binance COINM delivery: contracts become coins."""

import json
from decimal import Decimal
from typing import Any

import pytest

from openoutcry.errors import Unreadable
from openoutcry.events import Candle, Liquidation, Side, Trade
from openoutcry.instrument import Kind
from openoutcry.venues.binance_delivery import BinanceDelivery
from openoutcry.venues.venue import Answer, Ask, Feed, Query, Skipped

AT_MS = 1_760_000_000_101
MS = 1_000_000
NOW_NS = 1_760_000_000_200_000_000
AGG_TRADE: dict[str, Any] = {
    "e": "aggTrade", "E": AT_MS + 22, "a": 424_951, "s": "BTCUSD_PERP", "p": "43000.1", "q": "120", "f": 606_073,
    "l": 606_075, "T": AT_MS, "m": False,
}  # fmt: skip


def entry(symbol: str, size: object, **more: Any) -> dict[str, Any]:
    return {
        "symbol": symbol, "pair": symbol[:6], "contractType": "PERPETUAL", "deliveryDate": 4_133_404_800_000,
        "onboardDate": 1_597_042_800_000, "contractStatus": "TRADING", "contractSize": size, "baseAsset": symbol[:3],
        "quoteAsset": "USD", "marginAsset": symbol[:3],
        "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.1"}, {"filterType": "LOT_SIZE", "stepSize": "1"}],
        **more,
    }  # fmt: skip


def delivery() -> BinanceDelivery:
    venue = BinanceDelivery()
    rows = [
        entry("BTCUSD_PERP", 100),
        entry("ETHUSD_PERP", 10),
        entry("ETHUSD_260925", 10, contractType="CURRENT_QUARTER", deliveryDate=1_790_323_200_000),
    ]
    answer = Answer(200, {}, json.dumps({"symbols": rows}).encode(), NOW_NS)
    venue.learn(venue.page(Ask(query=Query.INSTRUMENTS), answer).instruments)
    return venue


def decoded(data: Any) -> list[Any]:
    return list(delivery().decode(json.dumps({"stream": "x@y", "data": data}).encode(), NOW_NS))


def test_contracts_become_coins_at_the_trades_price() -> None:
    """Trap 8: 100 USD a contract of BTC, 10 USD of the others."""
    assert decoded(AGG_TRADE) == [
        Trade(
            "binance_delivery:BTCUSD_PERP", AT_MS * MS, NOW_NS, 424_951, 424_951, Side.BUY, Decimal("43000.1"),
            Decimal("0.27906912"), 3, Decimal(12_000), Decimal(120),
        )
    ]  # fmt: skip
    (ether,) = decoded({**AGG_TRADE, "s": "ETHUSD_PERP", "p": "2000.0"})
    assert (ether.size, ether.value, ether.contracts) == (Decimal("0.6"), Decimal(1_200), Decimal(120))


def test_coins_are_rounded_half_even_to_eight_places() -> None:
    # 100 USD at 4,000,000,000 are 2.5 of the smallest coin, at 1,333,333,333.33 they are 7.5.
    sizes = [decoded({**AGG_TRADE, "p": price, "q": "1"})[0].size for price in ("4000000000", "1333333333.3333333333")]
    assert sizes == [Decimal("0.00000002"), Decimal("0.00000008")]


def test_a_raw_trade_counts_contracts_too_and_only_market_ones() -> None:
    trade = {
        "e": "trade",
        "E": AT_MS,
        "T": AT_MS,
        "s": "ETHUSD_PERP",
        "t": 7,
        "p": "2000",
        "q": "120",
        "X": "MARKET",
        "m": True,
    }
    (event,) = decoded(trade)
    assert (event.size, event.value, event.contracts, event.side) == (
        Decimal("0.6"), Decimal(1_200), Decimal(120), Side.SELL,
    )  # fmt: skip
    assert decoded({**trade, "X": "ADL"}) == [Skipped("non_market", "ETHUSD_PERP")]


def test_a_candle_counts_coins_as_volume_and_dollars_as_quote_volume() -> None:
    """The columns of COINM candles: `v` contracts, `q` base coins."""
    bar = {"t": 1_626_916_380_000, "T": 1_626_916_439_999, "s": "ETHUSD_PERP", "i": "1m", "f": 1, "L": 41, "o": "1992.70",
           "c": "1992.17", "h": "1993.71", "l": "1992.17", "v": "1893", "n": 41, "x": False, "q": "9.49653573", "V": "1368",
           "Q": "6.86228695", "B": "0"}  # fmt: skip
    (candle,) = decoded({"e": "kline", "E": AT_MS, "s": "ETHUSD_PERP", "k": bar})
    assert isinstance(candle, Candle)
    assert (candle.volume, candle.quote_volume, candle.trades) == (Decimal("9.49653573"), Decimal(18_930), 41)


def test_a_liquidation_counts_contracts_and_belongs_to_its_market() -> None:
    order = {"s": "ETHUSD_PERP", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "120", "p": "1990", "ap": "2000", "X": "FILLED",
             "l": "20", "z": "120", "T": AT_MS, "ps": "ETHUSD", "st": 2}  # fmt: skip
    (event,) = decoded({"e": "forceOrder", "E": AT_MS, "o": order})
    assert isinstance(event, Liquidation)
    assert (event.side, event.price, event.size, event.value, event.contracts) == (
        Side.SELL, Decimal(2_000), Decimal("0.6"), Decimal(1_200), Decimal(120),
    )  # fmt: skip
    (uneven,) = decoded({"e": "forceOrder", "E": AT_MS, "o": {**order, "ap": "1990.7"}})
    assert uneven.size == Decimal("0.60280303")
    assert decoded({"e": "forceOrder", "E": AT_MS, "o": {**order, "st": 1}}) == [Skipped("other_market", "ETHUSD_PERP")]


def test_dated_contracts_have_a_mark_price_and_no_funding() -> None:
    mark = {"e": "markPriceUpdate", "E": AT_MS, "s": "ETHUSD_260925", "p": "2001.5", "P": "2000", "r": "", "T": 0}
    assert [type(each).__name__ for each in decoded(mark)] == ["MarkPrice"]
    perpetual = {**mark, "s": "ETHUSD_PERP", "r": "0.0001", "T": 1_760_025_600_000, "i": "2000.9"}
    assert [type(each).__name__ for each in decoded(perpetual)] == ["MarkPrice", "FundingRate"]


def test_no_size_is_told_without_the_listing() -> None:
    venue = BinanceDelivery()
    assert venue.assume("BTCUSD_PERP") is None
    assert venue.decode(json.dumps(AGG_TRADE).encode(), NOW_NS) == (Skipped("unknown_instrument", "BTCUSD_PERP"),)


@pytest.mark.parametrize("size", [0, -10, "NaN", None, "x"])
def test_a_contract_of_no_size_is_not_listed(size: object) -> None:
    rows = [entry("BTCUSD_PERP", size), entry("ETHUSD_PERP", "10")]
    page = BinanceDelivery().page(
        Ask(query=Query.INSTRUMENTS), Answer(200, {}, json.dumps({"symbols": rows}).encode(), NOW_NS)
    )
    assert [(each.symbol, each.contract_size, each.inverse) for each in page.instruments] == [
        ("ETHUSD_PERP", Decimal(10), True)
    ]
    assert page.unread == 1


def test_a_size_that_no_decimal_carries_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        decoded({**AGG_TRADE, "p": "0.000000000000000002", "q": "99999999999999999"})


def test_the_listing_of_delivery() -> None:
    (dated,) = [each for each in delivery()._listing.values() if each.kind is Kind.FUTURE]
    assert (dated.symbol, dated.expires_ns, dated.settle, dated.inverse) == (
        "ETHUSD_260925", 1_790_323_200_000 * MS, "ETH", True,
    )  # fmt: skip


def test_one_socket_carries_every_feed() -> None:
    venue = BinanceDelivery()
    assert {venue.streams(feed, ["BTCUSD_PERP"])[0].endpoint for feed in venue.feeds} == {"market"}
    assert venue.streams(Feed.TRADES, ["BTCUSD_PERP"])[0].name == "btcusd_perp@aggTrade"
    assert venue.streams(Feed.LIQUIDATIONS, None)[0].name == "!forceOrder@arr"
