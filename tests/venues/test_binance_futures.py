"""Binance USDM futures: what its frames have that spot's have not."""

import json
from decimal import Decimal
from typing import Any

import pytest

from openoutcry.errors import Unreadable
from openoutcry.events import DepthDelta, FundingRate, Liquidation, MarkPrice, Quote, Side, Trade
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues.binance_delivery import BinanceDelivery
from openoutcry.venues.binance_futures import BinanceFutures
from openoutcry.venues.venue import Answer, Ask, Feed, Query, Skipped

AT_MS = 1_760_000_000_101
MS = 1_000_000
NOW_NS = 1_760_000_000_200_000_000
AGG_TRADE: dict[str, Any] = {
    "e": "aggTrade", "E": AT_MS + 22, "a": 5_933_014, "s": "BTCUSDT", "p": "43000.10", "q": "0.100", "nq": "0.080",
    "f": 100, "l": 105, "T": AT_MS, "m": True, "st": 1,
}  # fmt: skip
TRADE: dict[str, Any] = {
    "e": "trade", "E": AT_MS + 22, "T": AT_MS, "s": "BTCUSDT", "t": 548_331_094, "p": "43000.10", "q": "0.1",
    "X": "MARKET", "m": False,
}  # fmt: skip
ORDER: dict[str, Any] = {
    "s": "BTCUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "0.014", "p": "9910", "ap": "9925.50", "X": "FILLED",
    "l": "0.010", "z": "0.014", "T": AT_MS, "ps": "BTCUSDT", "st": 1,
}  # fmt: skip
FORCED: dict[str, Any] = {"e": "forceOrder", "E": AT_MS + 22, "o": ORDER}
MARK: dict[str, Any] = {
    "e": "markPriceUpdate", "E": AT_MS, "s": "BTCUSDT", "p": "43001.12", "ap": "43001.0", "P": "43000.9",
    "i": "43000.55", "r": "-0.00010000", "T": 1_760_025_600_000, "st": 1,
}  # fmt: skip


def futures() -> BinanceFutures:
    venue = BinanceFutures()
    known = [venue.assume(symbol) for symbol in ("BTCUSDT", "BTCUSDT_260925", "TRXUSDT")]
    venue.learn([instrument for instrument in known if instrument is not None])
    return venue


def frame(data: Any, stream: str = "btcusdt@x") -> bytes:
    return json.dumps({"stream": stream, "data": data}).encode()


def decoded(data: Any) -> list[Any]:
    return list(futures().decode(frame(data), NOW_NS))


def test_each_feed_is_at_the_root_that_carries_it() -> None:
    """Trap 1: a stream at the wrong root is acknowledged and stays silent."""
    venue = BinanceFutures()
    where = {feed: venue.streams(feed, ["BTCUSDT"])[0].endpoint for feed in venue.feeds}
    assert where == {
        Feed.TRADES: "market",
        Feed.CANDLES: "market",
        Feed.QUOTES: "public",
        Feed.DEPTH: "public",
        Feed.LIQUIDATIONS: "market",
        Feed.FUNDING: "market",
        Feed.MARK_PRICE: "market",
    }
    streams = venue.streams(Feed.TRADES, ["BTCUSDT"])
    assert venue.url(venue.sockets["market"], "market", streams) == (
        "wss://fstream.binance.com/market/stream?streams=btcusdt@aggTrade"
    )
    assert venue.sockets["public"] == "wss://fstream.binance.com/public"


def test_an_aggregate_trade_of_today_and_of_2021() -> None:
    expected = Trade(
        "binance_futures:BTCUSDT", AT_MS * MS, NOW_NS, 5_933_014, 5_933_014, Side.SELL, Decimal("43000.10"),
        Decimal("0.100"), 6,
    )  # fmt: skip
    assert decoded(AGG_TRADE) == [expected]
    assert decoded({key: value for key, value in AGG_TRADE.items() if key not in {"nq", "st"}}) == [expected]


@pytest.mark.parametrize("nature", ["NA", "INSURANCE_FUND", "ADL", "RPI_SOMETHING", ""])
def test_only_market_trades_count(nature: str) -> None:
    """Trap 3: TRXUSDT trade 548331095 of 2025-03-04 had price and quantity zero, and set a low to zero elsewhere."""
    empty = {**TRADE, "s": "TRXUSDT", "t": 548_331_095, "p": "0", "q": "0", "X": nature}
    assert decoded(empty) == [Skipped("non_market", "TRXUSDT")]
    (trade,) = decoded(TRADE)
    assert (trade.id, trade.side, trade.size) == (548_331_094, Side.BUY, Decimal("0.1"))


def test_a_market_trade_of_nothing_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        decoded({**TRADE, "p": "0", "q": "0"})


def test_a_liquidation_is_what_was_filled_at_its_average_price_on_the_orders_side() -> None:
    """Traps 4 and 5: `S` is the order's side, `p` its limit and no price anybody paid, `z` the quantity."""
    assert decoded(FORCED) == [
        Liquidation(
            "binance_futures:BTCUSDT", AT_MS * MS, NOW_NS, f"{AT_MS}-SELL-9925.50-0.014", Side.SELL,
            Decimal("9925.50"), Decimal("0.014"),
        )
    ]  # fmt: skip
    assert decoded({**FORCED, "o": {**ORDER, "S": "BUY"}})[0].side is Side.BUY
    assert decoded({**FORCED, "o": {**ORDER, "z": "0", "ap": "0", "X": "NEW"}}) == [Skipped("unfilled", "BTCUSDT")]
    for wrong in ({"S": "LONG"}, {"ap": "0"}, {"z": "-1"}, {"z": "NaN"}, {"T": 0}):
        with pytest.raises(Unreadable):
            decoded({**FORCED, "o": {**ORDER, **wrong}})


def test_liquidations_of_the_other_market_are_left_to_it_wherever_the_mark_stands() -> None:
    """Trap 2: all-market streams hold USDM and COINM; `st` stands inside `o` in live frames, beside it in the docs."""
    plain = {key: value for key, value in ORDER.items() if key != "st"}
    inside = {**FORCED, "o": {**ORDER, "st": 2}}
    beside = {**FORCED, "o": plain, "st": 2}
    for data in (inside, beside):
        assert decoded(data) == [Skipped("other_market", "BTCUSDT")]
        unlisted = {**data, "o": {**data["o"], "s": "BTCUSD_PERP"}}
        assert decoded(unlisted) == [Skipped("other_market", "BTCUSD_PERP")]
    assert isinstance(decoded({**FORCED, "o": plain})[0], Liquidation)
    assert isinstance(decoded({**FORCED, "o": plain, "st": 1})[0], Liquidation)
    unknown = {**FORCED, "o": {**ORDER, "s": "NEWUSDT"}}
    assert decoded(unknown) == [Skipped("unknown_instrument", "NEWUSDT")]


def test_one_stream_carries_all_liquidations() -> None:
    venue = BinanceFutures()
    (stream,) = venue.streams(Feed.LIQUIDATIONS, None)
    assert (stream.name, stream.symbol, stream.silence_s) == ("!forceOrder@arr", "*", None)
    # One object a message despite the name; an array would be read as well.
    assert futures().decode(frame(FORCED, "!forceOrder@arr"), NOW_NS) == tuple(decoded(FORCED))
    assert list(futures().decode(frame([FORCED, FORCED], "!forceOrder@arr"), NOW_NS)) == decoded(FORCED) * 2


def test_one_frame_tells_mark_price_and_running_funding() -> None:
    assert decoded(MARK) == [
        MarkPrice("binance_futures:BTCUSDT", AT_MS * MS, NOW_NS, Decimal("43001.12"), Decimal("43000.55")),
        FundingRate(
            "binance_futures:BTCUSDT", AT_MS * MS, NOW_NS, Decimal("-0.00010000"), 1_760_025_600_000 * MS, None,
            settled=False,
        ),
    ]  # fmt: skip
    venue = BinanceFutures()
    for feed in (Feed.FUNDING, Feed.MARK_PRICE):
        (stream,) = venue.streams(feed, ["BTCUSDT"])
        assert stream.name == "btcusdt@markPrice@1s"
        assert stream.feeds == {Feed.FUNDING, Feed.MARK_PRICE}
    assert venue.streams(Feed.FUNDING, None) == venue.streams(Feed.MARK_PRICE, None)


def test_dated_futures_have_no_funding() -> None:
    dated = {**MARK, "s": "BTCUSDT_260925", "r": "", "T": 0}
    assert [type(each).__name__ for each in decoded(dated)] == ["MarkPrice"]
    # A rate that is due at no time is none either.
    assert [type(each).__name__ for each in decoded({**MARK, "T": 0})] == ["MarkPrice"]


@pytest.mark.parametrize(
    "wrong", [{"p": "0"}, {"p": "NaN"}, {"r": "NaN"}, {"r": "Infinity"}, {"r": "2"}, {"r": "x"}, {"T": -1}, {"i": "-1"}]
)
def test_a_mark_price_out_of_bounds_is_unreadable(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        decoded({**MARK, **wrong})


def test_the_marks_of_all_instruments_come_as_an_array() -> None:
    rows = [MARK, {**MARK, "s": "TRXUSDT", "p": "NaN"}, {**MARK, "s": "BTCUSD_PERP", "st": 2}, {**MARK, "i": ""}]
    said = futures().decode(frame(rows, "!markPrice@arr@1s"), NOW_NS)
    assert [type(each).__name__ for each in said] == [
        "MarkPrice", "FundingRate", "Skipped", "Skipped", "MarkPrice", "FundingRate",
    ]  # fmt: skip
    assert said[2:4] == [Skipped("unreadable_row"), Skipped("other_market", "BTCUSD_PERP")]
    assert said[4] == MarkPrice("binance_futures:BTCUSDT", AT_MS * MS, NOW_NS, Decimal("43001.12"), None)


def test_quotes_and_depth_of_futures_tell_when_and_chain_by_the_previous_sequence() -> None:
    ticker = {
        "e": "bookTicker",
        "u": 4,
        "s": "BTCUSDT",
        "b": "1",
        "B": "2",
        "a": "3",
        "A": "4",
        "T": AT_MS,
        "E": AT_MS + 5,
    }
    assert decoded(ticker) == [
        Quote("binance_futures:BTCUSDT", AT_MS * MS, NOW_NS, Decimal(1), Decimal(2), Decimal(3), Decimal(4))
    ]
    depth = {
        "e": "depthUpdate",
        "E": AT_MS + 5,
        "T": AT_MS,
        "s": "BTCUSDT",
        "U": 157,
        "u": 160,
        "pu": 149,
        "b": [],
        "a": [],
    }
    assert decoded(depth) == [DepthDelta("binance_futures:BTCUSDT", AT_MS * MS, NOW_NS, (), (), 157, 160, 149)]


def test_usdm_and_coinm_draw_on_one_request_weight() -> None:
    here, there = BinanceFutures(), BinanceDelivery()
    assert here.limits.shared_pools == there.limits.shared_pools == {"weight": "binance_futures_weight"}
    ask = Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="BTCUSDT", interval_s=300)
    assert here.request(ask).pool == "data"
    assert here.request(Ask(query=Query.FUNDING_HISTORY, symbol="BTCUSDT")).pool == "funding"
    for venue, symbol in ((here, "BTCUSDT"), (there, "BTCUSD_PERP")):
        for query in venue.queries:
            assert venue.request(Ask(query=query, symbol=symbol, interval_s=300)).pool in venue.limits.weights


def entry(symbol: str, **more: Any) -> dict[str, Any]:
    return {
        "symbol": symbol, "pair": "BTCUSDT", "contractType": "PERPETUAL", "deliveryDate": 4_133_404_800_000,
        "onboardDate": 1_569_398_400_000, "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.10"}, {"filterType": "LOT_SIZE", "stepSize": "0.001"}],
        **more,
    }  # fmt: skip


def test_the_listing_tells_perpetuals_from_contracts_that_end() -> None:
    rows = [
        entry("BTCUSDT"),
        entry("BTCUSDT_260925", contractType="CURRENT_QUARTER", deliveryDate=1_790_323_200_000),
        entry("TSLAUSDT", contractType="TRADIFI_PERPETUAL"),
        entry("SOONUSDT", contractType="", status="PENDING_TRADING", onboardDate=0),
        entry("NEVERUSDT", onboardDate=10**15),
    ]
    answer = Answer(200, {}, json.dumps({"symbols": rows}).encode(), NOW_NS)
    found = BinanceFutures().page(Ask(query=Query.INSTRUMENTS), answer).instruments
    assert [(each.symbol, each.kind, each.trading, each.expires_ns) for each in found] == [
        ("BTCUSDT", Kind.PERPETUAL, True, None),
        ("BTCUSDT_260925", Kind.FUTURE, True, 1_790_323_200_000 * MS),
        ("TSLAUSDT", Kind.PERPETUAL, True, None),
        ("SOONUSDT", Kind.PERPETUAL, False, None),
    ]
    assert found[0] == Instrument(
        venue="binance_futures", symbol="BTCUSDT", kind=Kind.PERPETUAL, coin="BTC", quote="USDT", settle="USDT",
        tick_size=Decimal("0.10"), lot_size=Decimal("0.001"), listed_ns=1_569_398_400_000 * MS,
    )  # fmt: skip
    assert found[3].listed_ns is None


def test_a_contract_is_assumed_from_its_spelling() -> None:
    venue = BinanceFutures()
    perpetual, dated = venue.assume("1000PEPEUSDT"), venue.assume("ETHUSDT_260925")
    assert perpetual is not None
    assert dated is not None
    assert (perpetual.coin, perpetual.kind, dated.coin, dated.kind) == ("1000PEPE", Kind.PERPETUAL, "ETH", Kind.FUTURE)
    assert [venue.assume(symbol) for symbol in ("BTCUSD_PERP", "BTCUSDT_", "BTCUSDT_PERP", "USDT")] == [None] * 4
