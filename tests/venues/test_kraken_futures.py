"""What Kraken Futures' frames and answers become; each trap with a frame that shows it."""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry import errors
from openoutcry.events import (
    NS,
    Candle,
    FundingRate,
    Liquidation,
    MarkPrice,
    OpenInterest,
    Quote,
    Side,
    Ticker,
    Trade,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues import VENUES
from openoutcry.venues.kraken_futures import KrakenFutures
from openoutcry.venues.kraken_futures_history import CANDLES_MAX, CANDLES_MIN, TRADES_MAX
from openoutcry.venues.kraken_futures_wire import stamp_of
from openoutcry.venues.venue import (
    Alive,
    Answer,
    Ask,
    Feed,
    Page,
    Query,
    Refused,
    Signal,
    Skipped,
    Subscribed,
)
from tests.venues.pages import Pages, SpoilAnswer, SpoilFrame, answer_of, one

MS = 1_000_000
HOUR_NS, DAY_NS = 3_600 * NS, 86_400 * NS
NOW_NS = 1_790_360_005 * NS
NOW_MS = NOW_NS // MS
LISTED = {
    "result": "success",
    "instruments": [
        {
            "symbol": "PF_XBTUSD",
            "type": "flexible_futures",
            "tickSize": 1,
            "contractSize": 1,
            "tradeable": True,
            "openingDate": "2022-03-22T00:00:00Z",
            "contractValueTradePrecision": 4,
            "base": "BTC",
            "quote": "USD",
            "isExpired": False,
        },
        {
            "symbol": "PI_XBTUSD",
            "type": "futures_inverse",
            "tickSize": 0.5,
            "contractSize": 1,
            "tradeable": True,
            "openingDate": "2018-08-31T00:00:00Z",
            "contractValueTradePrecision": 0,
            "base": "BTC",
            "quote": "USD",
        },
        {
            "symbol": "fi_xbtusd_261225",
            "type": "futures_inverse",
            "lastTradingTime": "2026-12-25T16:00:00.000Z",
            "tickSize": 0.5,
            "contractSize": 1,
            "tradeable": True,
        },
        {
            "symbol": "FF_XBTUSD_261225",
            "type": "flexible_futures",
            "lastTradingTime": "2026-12-25T16:00:00Z",
            "tickSize": 1,
            "contractSize": 1,
            "tradeable": False,
            "contractValueTradePrecision": 4,
            "base": "BTC",
            "quote": "USD",
        },
        {
            "symbol": "PF_PEPEUSD",
            "type": "flexible_futures",
            "tickSize": 1e-10,
            "contractSize": 1,
            "tradeable": True,
            "contractValueTradePrecision": -3,
            "base": "PEPE",
            "quote": "USD",
        },
        {"symbol": "in_xbtusd", "type": "spot index", "tradeable": False},
    ],
}
TRADE = {
    "feed": "trade",
    "product_id": "PI_XBTUSD",
    "uid": "05af78ac-a774-478c-a50c-8b9c234e071e",
    "side": "sell",
    "type": "fill",
    "seq": 653355,
    "time": 1612266317519,
    "qty": 15000,
    "price": 34969.5,
}
TICKER = {
    "time": 1790359997224,
    "product_id": "PF_XBTUSD",
    "funding_rate": 0.912482213835,
    "funding_rate_prediction": 1.3232500286425,
    "relative_funding_rate": 0.00001089345,
    "relative_funding_rate_prediction": 0.00001575425,
    "next_funding_rate_time": 1790362800000,
    "leverage": "100x",
    "premium": 0.0,
    "feed": "ticker",
    "bid": 84001.0,
    "ask": 84002.0,
    "bid_size": 0.0273,
    "ask_size": 0.006,
    "volume": 4237.2723,
    "index": 83995.76,
    "last": 83997.0,
    "tag": "perpetual",
    "openInterest": 2189.7813,
    "markPrice": 84004.5,
    "maturityTime": 0,
}


def frame(message: Any, **changes: Any) -> bytes:
    return json.dumps({**message, **changes}, separators=(",", ":")).encode()


def told(body: Any, status: int = 200, **headers: str) -> Answer:
    return answer_of(body, NOW_NS, status, **headers)


def taught() -> KrakenFutures:
    venue = KrakenFutures()
    venue.learn(venue.page(Ask(query=Query.INSTRUMENTS), told(LISTED)).instruments)
    return venue


@pytest.fixture
def kraken() -> KrakenFutures:
    return taught()


@pytest.fixture
def answered() -> Callable[[Any], Answer]:
    return told


def test_the_venue_is_in_the_table() -> None:
    assert VENUES["kraken_futures"] is KrakenFutures


# Frames


def test_a_trade_of_an_inverse_contract_counts_dollars(kraken: KrakenFutures) -> None:
    assert one(kraken.decode(frame(TRADE), NOW_NS)) == Trade(
        "kraken_futures:PI_XBTUSD", 1_612_266_317_519 * MS, NOW_NS, "05af78ac-a774-478c-a50c-8b9c234e071e", 653_355,
        Side.SELL, Decimal("34969.5"), Decimal("0.42894522"), 1, Decimal(15_000), Decimal(15_000),
    )  # fmt: skip


def test_a_trade_of_a_flexible_contract_counts_coins(kraken: KrakenFutures) -> None:
    trade = one(kraken.decode(frame(TRADE, product_id="PF_XBTUSD", qty=0.0002, side="buy"), NOW_NS))
    assert isinstance(trade, Trade)
    assert (trade.size, trade.value, trade.contracts, trade.side) == (Decimal("0.0002"), None, None, Side.BUY)


def test_numbers_are_taken_as_they_are_written(kraken: KrakenFutures) -> None:
    text = frame(TRADE, product_id="PF_XBTUSD").replace(b"34969.5", b"0.1").replace(b"15000", b"1234567.1234567890123")
    trade = one(kraken.decode(text, NOW_NS))
    assert isinstance(trade, Trade)
    assert (trade.price, trade.size) == (Decimal("0.1"), Decimal("1234567.1234567890123"))


@pytest.mark.parametrize("kind", ["block", "termination", "assignment", "unwind", "whatever"])
def test_only_what_was_matched_on_the_book_counts(kraken: KrakenFutures, kind: str) -> None:
    assert one(kraken.decode(frame(TRADE, type=kind), NOW_NS)) == Skipped("non_market", "PI_XBTUSD")


def test_a_liquidation_is_a_trade_too_and_its_side_is_the_orders(kraken: KrakenFutures) -> None:
    trade, liquidation = kraken.decode(frame(TRADE, type="liquidation"), NOW_NS)
    assert isinstance(trade, Trade)
    assert liquidation == Liquidation(
        trade.instrument, trade.event_ns, NOW_NS, str(trade.id), Side.SELL, trade.price, trade.size, trade.value,
        trade.contracts,
    )  # fmt: skip


def test_a_snapshot_comes_newest_first_and_is_told_oldest_first(kraken: KrakenFutures) -> None:
    rows = [TRADE | {"seq": 9, "uid": "c"}, TRADE | {"seq": 8, "uid": "b"}, TRADE | {"seq": 7, "uid": "a"}]
    said = kraken.decode(frame({"feed": "trade_snapshot", "product_id": "PI_XBTUSD", "trades": rows}), NOW_NS)
    assert [(trade.seq, trade.id) for trade in said if isinstance(trade, Trade)] == [(7, "a"), (8, "b"), (9, "c")]


def test_a_ticker_is_a_quote_open_interest_mark_price_and_the_relative_funding_rate(kraken: KrakenFutures) -> None:
    at_ns, name = 1_790_359_997_224 * MS, "kraken_futures:PF_XBTUSD"
    assert kraken.decode(frame(TICKER), NOW_NS) == [
        Quote(name, at_ns, NOW_NS, Decimal("84001.0"), Decimal("0.0273"), Decimal("84002.0"), Decimal("0.006")),
        OpenInterest(name, at_ns, NOW_NS, Decimal("2189.7813"), Decimal("183951483.21585")),
        MarkPrice(name, at_ns, NOW_NS, Decimal("84004.5"), Decimal("83995.76")),
        FundingRate(
            name, at_ns, NOW_NS, Decimal("0.00001089345"), 1_790_362_800 * NS, None, settled=False,
            predicted=Decimal("0.00001575425"),
        ),
    ]  # fmt: skip


def test_open_interest_of_an_inverse_contract_is_dollars_and_coins_at_the_mark_price(kraken: KrakenFutures) -> None:
    said = kraken.decode(frame(TICKER, product_id="PI_XBTUSD", openInterest=84_004_500, bid_size=84_001), NOW_NS)
    assert isinstance(said[0], Quote)
    assert said[0].bid_size == Decimal("1.00000000")
    assert isinstance(said[1], OpenInterest)
    assert (said[1].size, said[1].value, said[1].contracts) == (
        Decimal("1000.00000000"),
        Decimal(84_004_500),
        Decimal(84_004_500),
    )


def test_a_funding_rate_of_zero_is_left_out_of_the_frame_and_is_a_rate_all_the_same(kraken: KrakenFutures) -> None:
    bare = {key: value for key, value in TICKER.items() if "relative" not in key}
    rate = kraken.decode(frame(bare), NOW_NS)[-1]
    assert isinstance(rate, FundingRate)
    assert (rate.rate, rate.predicted) == (Decimal(0), Decimal(0))


def test_a_dated_contract_has_no_funding_and_a_dead_book_no_quote(kraken: KrakenFutures) -> None:
    dated = {k: v for k, v in TICKER.items() if "funding" not in k} | {"product_id": "FI_XBTUSD_261225", "bid": 0.0}
    del dated["ask"], dated["ask_size"]
    said = kraken.decode(frame(dated), NOW_NS)
    assert [type(event) for event in said] == [Quote, OpenInterest, MarkPrice]
    assert isinstance(said[0], Quote)
    assert (said[0].bid_price, said[0].ask_price) == (None, None)


@pytest.mark.parametrize(
    ("message", "signal"),
    [
        ({"feed": "heartbeat", "time": 1534262350627}, Alive()),
        ({"event": "info", "version": 1}, Alive()),
        ({"event": "subscribed", "feed": "heartbeat"}, Alive()),
        ({"event": "unsubscribed", "feed": "trade", "product_ids": ["PI_XBTUSD"]}, Alive()),
        ({"event": "subscribed", "feed": "trade", "product_ids": ["PI_XBTUSD"]}, Subscribed(("trade:PI_XBTUSD",))),
        (
            {"event": "subscribed", "feed": "ticker", "product_ids": ["PF_XBTUSD", "PI_XBTUSD"]},
            Subscribed(("ticker:PF_XBTUSD", "ticker:PI_XBTUSD")),
        ),
        ({"event": "error", "message": "Invalid product id"}, Refused(None, "Invalid product id")),
        (
            {"event": "alert", "message": "Couldn't subscribe to invalid feed"},
            Refused(None, "Couldn't subscribe to invalid feed"),
        ),
        ({"feed": "book", "product_id": "PI_XBTUSD", "side": "sell"}, Skipped("unknown_feed", "book")),
        (TRADE | {"product_id": "PF_NEWUSD"}, Skipped("unknown_instrument", "PF_NEWUSD")),
        (TICKER | {"product_id": "PF_NEWUSD"}, Skipped("unknown_instrument", "PF_NEWUSD")),
    ],
)
def test_what_is_no_event_is_a_signal(kraken: KrakenFutures, message: Any, signal: Signal) -> None:
    assert one(kraken.decode(frame(message), NOW_NS)) == signal


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"feed":""}',
        b'{"feed":5}',
        b'{"feed":"trade"}',
        b'{"feed":"trade","product_id":"\xff"}',
        b"[" * 100_000,
        b'{"feed":"x","a":' + b"[" * 100_000,
        *(
            frame(TRADE, **wrong)
            for wrong in (
                {"price": "NaN"},
                {"price": "sNaN"},
                {"price": 0},
                {"price": -1},
                {"qty": "Infinity"},
                {"qty": 0},
                {"qty": None},
                {"side": "both"},
                {"time": 0},
                {"time": 1612266317519000},
                {"time": "2021"},
                {"seq": -1},
                {"seq": 2**63},
                {"uid": ""},
                {"uid": 5},
                {"product_id": "X" * 65},
            )
        ),
        *(
            frame(TICKER, **wrong)
            for wrong in (
                {"markPrice": 0},
                {"markPrice": "NaN"},
                {"openInterest": -1},
                {"index": -5},
                {"bid": -1},
                {"relative_funding_rate": 2},
                {"relative_funding_rate": "NaN"},
                {"relative_funding_rate_prediction": -1},
                {"next_funding_rate_time": 0},
                {"next_funding_rate_time": 1790362800000000},
            )
        ),
    ],
)
def test_what_cannot_be_believed_is_unreadable(kraken: KrakenFutures, bad: bytes) -> None:
    with pytest.raises(errors.Unreadable):
        kraken.decode(bad, NOW_NS)


# Streams


def test_what_a_ticker_tells_is_one_stream_and_trades_bring_liquidations(kraken: KrakenFutures) -> None:
    names = {feed: [stream.name for stream in kraken.streams(feed, ["PI_XBTUSD"])] for feed in kraken.feeds}
    trades, ticker = ["trade:PI_XBTUSD"], ["ticker:PI_XBTUSD"]
    assert names == {
        Feed.TRADES: trades,
        Feed.LIQUIDATIONS: trades,
        Feed.QUOTES: ticker,
        Feed.OPEN_INTEREST: ticker,
        Feed.FUNDING: ticker,
        Feed.MARK_PRICE: ticker,
    }
    with pytest.raises(errors.Unsupported):
        kraken.streams(Feed.TRADES, None)
    with pytest.raises(errors.Unsupported):
        kraken.streams(Feed.DEPTH, ["PI_XBTUSD"])


def test_a_subscription_names_one_feed_and_at_most_a_hundred_products(kraken: KrakenFutures) -> None:
    symbols = [f"PF_{n}USD" for n in range(150)]
    streams = [*kraken.streams(Feed.TRADES, symbols), *kraken.streams(Feed.QUOTES, symbols[:1])]
    sent = [json.loads(text) for text in kraken.subscribe(streams)]
    assert [(each["event"], each["feed"], len(each["product_ids"])) for each in sent] == [
        ("subscribe", "trade", 100),
        ("subscribe", "trade", 50),
        ("subscribe", "ticker", 1),
    ]
    (undone,) = kraken.subscribe(streams[:1], undo=True)
    assert json.loads(undone) == {"event": "unsubscribe", "feed": "trade", "product_ids": ["PF_0USD"]}
    assert kraken.url("wss://there", "ws", streams) == "wss://there"
    assert kraken.limits.heartbeat is not None
    assert kraken.limits.heartbeat.every_s < 60


# The listing


def test_the_listing_tells_kinds_units_and_ends(kraken: KrakenFutures) -> None:
    page = kraken.page(Ask(query=Query.INSTRUMENTS), told(LISTED))
    assert page.unread == 0
    linear, inverse, dated, flexible, small = page.instruments
    assert linear == Instrument(
        venue="kraken_futures", symbol="PF_XBTUSD", kind=Kind.PERPETUAL, coin="BTC", quote="USD", settle="USD",
        tick_size=Decimal(1), lot_size=Decimal("0.0001"), listed_ns=1_647_907_200 * NS,
    )  # fmt: skip
    assert (inverse.contract_size, inverse.inverse, inverse.settle, inverse.lot_size) == (
        Decimal(1), True, "BTC", Decimal(1),
    )  # fmt: skip
    # Listings of 2021 are in lower case, without base and quote.
    assert (dated.symbol, dated.kind, dated.coin, dated.expires_ns) == (
        "FI_XBTUSD_261225", Kind.FUTURE, "BTC", 1_798_214_400 * NS,
    )  # fmt: skip
    # The type says nothing of an end.
    assert (flexible.kind, flexible.trading, flexible.contract_size) == (Kind.FUTURE, False, None)
    assert (small.lot_size, small.tick_size) == (Decimal(1_000), Decimal("1E-10"))


def test_one_bad_entry_of_the_listing_does_not_cost_the_others(kraken: KrakenFutures) -> None:
    rows = LISTED["instruments"]
    spoilt = {"instruments": [{**rows[0], "tickSize": "NaN"}, {**rows[1], "openingDate": "soon"}, rows[2]]}  # type: ignore[dict-item]
    page = kraken.page(Ask(query=Query.INSTRUMENTS), told(spoilt))
    assert ([i.symbol for i in page.instruments], page.unread) == (["FI_XBTUSD_261225"], 2)


@pytest.mark.parametrize(
    ("symbol", "kind", "coin", "inverse"),
    [
        ("PF_XBTUSD", Kind.PERPETUAL, "BTC", False),
        ("PI_ETHUSD", Kind.PERPETUAL, "ETH", True),
        ("FI_XDGUSD_210730", Kind.FUTURE, "DOGE", True),
        ("FF_XBTUSD_261225", Kind.FUTURE, "BTC", False),
    ],
)
def test_an_unlisted_symbol_is_told_by_its_prefix(symbol: str, kind: Kind, coin: str, *, inverse: bool) -> None:
    assumed = KrakenFutures().assume(symbol)
    assert assumed is not None
    assert (assumed.kind, assumed.coin, assumed.inverse, assumed.contract_size) == (
        kind, coin, inverse, Decimal(1) if inverse else None,
    )  # fmt: skip


@pytest.mark.parametrize("symbol", ["", "in_xbtusd", "PI_XBTUSD_210730", "FI_XBTUSD", "XX_XBTUSD", "PF_XBTEUR"])
def test_what_is_spelled_like_nothing_known_is_not_assumed(symbol: str) -> None:
    assert KrakenFutures().assume(symbol) is None


# Questions


def test_symbols_stand_in_addresses_as_text(kraken: KrakenFutures) -> None:
    ask = Ask(query=Query.CANDLES, symbol="PF/..?x", interval_s=60, start_ns=NOW_NS - HOUR_NS, end_ns=NOW_NS)
    assert kraken.request(ask).path == "/api/charts/v1/trade/PF%2F..%3Fx/1m"


def bar(open_ms: int, volume: str = "2") -> dict[str, Any]:
    return {"time": open_ms, "open": "10", "high": "12", "low": "8", "close": "10", "volume": volume}


def test_candles_count_as_sizes_do_and_the_other_volume_is_estimated(kraken: KrakenFutures) -> None:
    start_ns = NOW_NS - NOW_NS % (60 * NS) - 120 * NS
    body = {"candles": [bar(start_ns // MS), bar(start_ns // MS + 60_000), bar(start_ns // MS + 120_000)]}
    volumes = {}
    for symbol in ("PF_XBTUSD", "PI_XBTUSD"):
        ask = Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, start_ns=start_ns, end_ns=NOW_NS)
        page = kraken.page(ask, told(body | {"more_candles": False}))
        candles = [event for event in page.events if isinstance(event, Candle)]
        assert [candle.closed for candle in candles] == [True, True, False]
        # A candle that ended five seconds ago will not change; the growing one is not promised.
        assert (page.start_ns, page.end_ns) == (start_ns, start_ns + 120 * NS)
        volumes[symbol] = (candles[0].volume, candles[0].quote_volume)
    assert volumes == {
        "PF_XBTUSD": (Decimal(2), Decimal(20)),
        "PI_XBTUSD": (Decimal("0.2"), Decimal(2)),
    }


def test_a_page_of_candles_that_the_venue_cut_promises_nothing(kraken: KrakenFutures) -> None:
    ask = Ask(query=Query.CANDLES, symbol="PF_XBTUSD", interval_s=60, start_ns=NOW_NS - HOUR_NS, end_ns=NOW_NS)
    page = kraken.page(ask, told({"candles": [], "more_candles": True}))
    assert (page.start_ns, page.end_ns) == (None, None)


def test_the_newest_candles_without_an_end_ask_for_the_smallest_answer_first(kraken: KrakenFutures) -> None:
    ask = Ask(query=Query.CANDLES, symbol="PF_XBTUSD", interval_s=60, newest=True, limit=5)
    assert kraken.request(ask).path == "/api/charts/v1/"
    page = kraken.page(ask, told(["mark", "spot", "trade"]))
    assert page.next is not None
    query = dict(kraken.request(page.next).query)
    assert query == {"from": str(NOW_NS // NS // 60 * 60 - (CANDLES_MIN - 1) * 60), "to": str(NOW_NS // NS)}


def test_intervals_the_venue_lacks_are_refused(kraken: KrakenFutures) -> None:
    for interval_s in (180, 604_800, None):
        ask = Ask(query=Query.CANDLES, symbol="PF_XBTUSD", interval_s=interval_s, start_ns=NOW_NS, end_ns=NOW_NS + NS)
        with pytest.raises(errors.BadInterval):
            kraken.request(ask)
    for query in (Query.DEPTH, Query.FUNDING, Query.PREDICTED_FUNDING, Query.OPTION_INTEREST):
        with pytest.raises(errors.Unsupported):
            kraken.request(Ask(query=query, symbol="PF_XBTUSD"))
    with pytest.raises(errors.Unsupported):
        kraken.request(Ask(query=Query.TRADES))


def test_a_funding_rate_is_paid_when_the_next_begins_and_the_last_is_still_running(kraken: KrakenFutures) -> None:
    hour_ns = NOW_NS - NOW_NS % HOUR_NS
    stamps = [hour_ns - 5 * HOUR_NS, hour_ns - HOUR_NS, hour_ns]
    rows = [
        {"timestamp": stamp_of(at // MS), "fundingRate": 1.5, "relativeFundingRate": rate}
        for at, rate in zip(stamps, (1e-05, -2e-05, 3e-05), strict=True)
    ]
    ask = Ask(query=Query.FUNDING_HISTORY, symbol="PF_XBTUSD", start_ns=hour_ns - DAY_NS, end_ns=NOW_NS)
    assert kraken.request(ask).path == "/derivatives/api/v4/historicalfundingrates"
    page = kraken.page(ask, told({"result": "success", "rates": rows}))
    name = "kraken_futures:PF_XBTUSD"
    assert page.events == [
        FundingRate(name, stamps[1], NOW_NS, Decimal("0.00001"), stamps[1], 14_400, settled=True),
        FundingRate(name, hour_ns, NOW_NS, Decimal("-0.00002"), hour_ns, 3_600, settled=True),
    ]
    assert (page.start_ns, page.end_ns) == (stamps[0] + 1, hour_ns + 1)
    newest = kraken.page(
        Ask(query=Query.FUNDING_HISTORY, symbol="PF_XBTUSD", newest=True, limit=1), told({"rates": rows})
    )
    assert newest.events == page.events[1:]
    first = kraken.page(
        Ask(query=Query.FUNDING_HISTORY, symbol="PF_XBTUSD", start_ns=1, limit=1), told({"rates": rows})
    )
    assert first.events == page.events[:1]
    with pytest.raises(errors.OutOfReach):
        kraken.page(
            Ask(query=Query.FUNDING_HISTORY, symbol="PF_XBTUSD", start_ns=1, end_ns=stamps[0]), told({"rates": rows})
        )


TICKERS = {
    "result": "success",
    "serverTime": "2026-09-25T17:33:24.500Z",
    "tickers": [
        {
            "symbol": "PF_XBTUSD",
            "last": 84000,
            "open24h": 83000,
            "high24h": 85000,
            "low24h": 82000,
            "vol24h": 4237.5,
            "volumeQuote": 356641614.007,
            "openInterest": 2189.7813,
            "markPrice": 84004.5,
        },
        {
            "symbol": "pi_xbtusd",
            "last": 80000,
            "open24h": 83000,
            "high24h": 85000,
            "low24h": 80000,
            "vol24h": 160000,
            "openInterest": 84004500,
            "markPrice": 84004.5,
        },
        {"symbol": "FF_XBTUSD_261225", "openInterest": 0, "markPrice": 84100},
        {
            "symbol": "PF_PEPEUSD",
            "last": "NaN",
            "open24h": 1,
            "high24h": 1,
            "low24h": 1,
            "vol24h": 1,
            "markPrice": "NaN",
            "openInterest": 1,
        },
        {"symbol": "in_xbtusd", "last": 84000, "lastTime": "2026-09-25T17:33:24Z"},
    ],
}


def test_tickers_of_all_and_open_interest_of_one(kraken: KrakenFutures) -> None:
    at_ns = 1_790_357_604_500 * MS
    page = kraken.page(Ask(query=Query.TICKERS), told(TICKERS))
    assert (page.unread, [event.instrument for event in page.events]) == (
        1, ["kraken_futures:PF_XBTUSD", "kraken_futures:PI_XBTUSD"],
    )  # fmt: skip
    assert page.events[0] == Ticker(
        "kraken_futures:PF_XBTUSD", at_ns, NOW_NS, Decimal(83000), Decimal(85000), Decimal(82000), Decimal(84000),
        Decimal("4237.5"), Decimal("356641614.007"), 0,
    )  # fmt: skip
    assert isinstance(page.events[1], Ticker)
    assert (page.events[1].volume, page.events[1].quote_volume) == (Decimal(2), Decimal(160_000))
    interest = one(kraken.page(Ask(query=Query.OPEN_INTEREST, symbol="PI_XBTUSD"), told(TICKERS)).events)
    assert interest == OpenInterest(
        "kraken_futures:PI_XBTUSD", at_ns, NOW_NS, Decimal(1_000), Decimal(84_004_500), Decimal(84_004_500)
    )
    with pytest.raises(errors.UnknownInstrument):
        kraken.page(Ask(query=Query.OPEN_INTEREST, symbol="PF_NEWUSD"), told(TICKERS))


BAD_SYMBOL = {
    "status": "BAD_REQUEST",
    "result": "error",
    "errors": [{"code": 11, "message": "Argument invalid: symbol"}],
}


@pytest.mark.parametrize(
    ("answer", "symbol", "refusal"),
    [
        (told(BAD_SYMBOL, 400), "PF_XBTUSD", errors.UnknownInstrument),
        (told(BAD_SYMBOL), "PF_XBTUSD", errors.UnknownInstrument),
        (told({"result": "error", "error": "contractNotFound"}), "PF_XBTUSD", errors.UnknownInstrument),
        (told(b"Not Found", 404), "PF_NEWUSD", errors.UnknownInstrument),
        (told(b"Not Found", 404), "PF_XBTUSD", errors.Unavailable),
        (told({"result": "error", "error": "apiLimitExceeded"}), "PF_XBTUSD", errors.RateLimited),
        (told(b"", 429), "PF_XBTUSD", errors.RateLimited),
        (told({"result": "error", "error": "Unavailable"}), "PF_XBTUSD", errors.Unavailable),
        (told(b"<html>502</html>", 502), "PF_NEWUSD", errors.Unavailable),
        (told(b"<html>all is well</html>"), "PF_XBTUSD", errors.Unreadable),
        (told(b"[" * 100_000), "PF_XBTUSD", errors.Unreadable),
        (told(b""), "PF_XBTUSD", errors.Unreadable),
        (told({"history": 5}), "PF_XBTUSD", errors.Unreadable),
        (told({"history": []}), "PF_NEWUSD", errors.UnknownInstrument),
    ],
)
def test_a_refusal_of_the_venue_is_said_in_our_words(
    kraken: KrakenFutures, answer: Answer, symbol: str, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal) as caught:
        kraken.page(Ask(query=Query.TRADES, symbol=symbol, newest=True, limit=5), answer)
    assert type(caught.value) is refusal


def test_a_pause_is_as_long_as_the_venue_says(kraken: KrakenFutures) -> None:
    with pytest.raises(errors.RateLimited) as caught:
        kraken.page(Ask(query=Query.TIME), told(b"", 429, retry_after="7"))
    assert (caught.value.retry_s, caught.value.banned) == (7.0, False)
    assert kraken.page(Ask(query=Query.TIME), told(["trade"])) == Page(events=())


# Paging: the venue played in a few lines


def past(at_ms: int, number: int, kind: str = "fill") -> dict[str, Any]:
    return {
        "time": stamp_of(at_ms), "trade_id": 1, "price": 10, "size": 2, "side": "buy", "type": kind, "uid": str(number),
    }  # fmt: skip


def serve_trades(truth: list[dict[str, Any]], *, inclusive: bool) -> Callable[[str, dict[str, str]], Any]:
    """The newest hundred before (as documented, or else up to) `lastTime`, newest first."""

    def serve(path: str, query: dict[str, str]) -> Any:
        assert path == "/derivatives/api/v3/history"
        last = query.get("lastTime", "9999")
        before = [row for row in truth if row["time"] < last or (inclusive and row["time"] == last)]
        return {"result": "success", "history": before[: -TRADES_MAX - 1 : -1]}

    return serve


# Few moments and up to 60 trades at each, so that answers end inside a millisecond.
MOMENTS = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 60)), min_size=1, max_size=14)


@settings(deadline=None, max_examples=60)
@given(
    moments=MOMENTS,
    low=st.integers(0, 400),
    width=st.integers(1, 400),
    limit=st.none() | st.integers(1, 300),
    newest=st.booleans(),
    inclusive=st.booleans(),
    data=st.data(),
)
def test_pages_of_trades_are_a_plain_filter_of_the_truth(
    moments: list[tuple[int, int]], low: int, width: int, limit: int | None, newest: bool, inclusive: bool, data: Any
) -> None:
    # If the bound is counted in, its trades take room of those before it.
    most = (TRADES_MAX - 1) // 2 if inclusive else TRADES_MAX - 1
    counts: Counter[int] = Counter()
    for at, count in moments:
        counts[at] = min(counts[at] + count, most)
    # An old trade before all of them, so that every answer reaches below the stretch.
    truth = [past(NOW_MS - 2_000, 0)]
    for at in sorted(counts):
        kinds = data.draw(
            st.lists(st.sampled_from(["fill", "fill", "block"]), min_size=counts[at], max_size=counts[at])
        )
        truth += [past(NOW_MS - 1_000 + at, len(truth) + n, kind) for n, kind in enumerate(kinds)]
    start_ns, end_ns = (NOW_MS - 1_000 + low) * MS, (NOW_MS - 1_000 + low + width) * MS
    ask = Ask(query=Query.TRADES, symbol="PF_XBTUSD", start_ns=start_ns, end_ns=end_ns, limit=limit, newest=newest)
    venue, serve, found = taught(), serve_trades(truth, inclusive=inclusive), list[Page]()
    following: Ask | None = ask
    while following is not None:
        assert len(found) < 200
        page = venue.page(following, told(serve(venue.request(following).path, dict(venue.request(following).query))))
        found.append(page)
        following = page.next
    wanted = [
        row["uid"]
        for row in truth
        if row["type"] == "fill" and start_ns <= _ns(row["time"]) < end_ns
    ]  # fmt: skip
    if limit is not None:
        wanted = wanted[-limit:] if newest else wanted[:limit]
    pages_in_order = found[::-1] if newest else found
    trades = [event for page in pages_in_order for event in page.events if isinstance(event, Trade)]
    assert [trade.id for trade in trades] == wanted
    assert all(before.event_ns <= after.event_ns for before, after in pairwise(trades))
    promises = [(page.start_ns, page.end_ns) for page in pages_in_order if page.start_ns is not None]
    if limit is None:
        # Together they promise the stretch without a hole.
        assert min(begin for begin, _ in promises if begin is not None) <= start_ns
        assert all(
            end is not None and begin is not None and begin <= end for (_, end), (begin, _) in pairwise(promises)
        )
        assert promises[-1][1] == end_ns
    for begin, end in promises:
        assert begin is not None
        assert end is not None
        inside = {trade.id for trade in trades if begin <= trade.event_ns < end}
        assert inside == {
            row["uid"] for row in truth if row["type"] == "fill" and max(begin, start_ns) <= _ns(row["time"]) < end
        }


def _ns(stamp: str) -> int:
    at = datetime.fromisoformat(stamp)
    return (int(at.replace(microsecond=0).timestamp()) * 1_000 + at.microsecond // 1_000) * MS


def test_more_trades_in_a_millisecond_than_an_answer_holds_are_never_promised(pages: Pages) -> None:
    truth = [past(NOW_MS - 60, 0), *(past(NOW_MS - 50, n) for n in range(1, 151)), past(NOW_MS - 40, 151)]
    ask = Ask(query=Query.TRADES, symbol="PF_XBTUSD", start_ns=(NOW_MS - 55) * MS, end_ns=(NOW_MS - 30) * MS)
    found = list(pages(taught(), ask, serve_trades(truth, inclusive=False)))
    told_ids = [event.id for page in found for event in page.events if isinstance(event, Trade)]
    assert told_ids == [str(n) for n in range(51, 152)]
    flood_ns = (NOW_MS - 50) * MS
    backwards = Ask(query=Query.TRADES, symbol="PF_XBTUSD", newest=True, limit=120)
    newest = list(pages(taught(), backwards, serve_trades(truth, inclusive=False)))
    assert [e.id for page in newest[::-1] for e in page.events if isinstance(e, Trade)] == ["0", *told_ids]
    for page in (*found, *newest):
        assert page.start_ns is None or not page.start_ns <= flood_ns < (page.end_ns or 0)


def test_an_answer_that_is_not_full_promises_from_its_oldest_trade_on(kraken: KrakenFutures) -> None:
    """The venue forgets after seven days, or when its engine is started anew: what was before is not known."""
    start_ns = NOW_NS - DAY_NS
    ask = Ask(query=Query.TRADES, symbol="PF_XBTUSD", start_ns=start_ns, end_ns=NOW_NS)
    page = kraken.page(ask, told({"history": [past(NOW_MS - 7_000, 2), past(NOW_MS - 9_000, 1)]}))
    assert [event.id for event in page.events if isinstance(event, Trade)] == ["1", "2"]
    assert (page.start_ns, page.end_ns, page.next) == ((NOW_MS - 9_000) * MS, NOW_NS, None)
    nothing = kraken.page(ask, told({"history": []}))
    assert (nothing.events, nothing.next, nothing.start_ns) == ([], None, None)
    old = Ask(query=Query.TRADES, symbol="PF_XBTUSD", start_ns=NOW_NS - 8 * DAY_NS, end_ns=NOW_NS)
    with pytest.raises(errors.OutOfReach):
        kraken.page(old, told({"history": []}))


@settings(deadline=None, max_examples=60)
@given(
    minutes=st.sets(st.integers(0, 2 * CANDLES_MAX + 200), max_size=60),
    low=st.integers(0, 2 * CANDLES_MAX),
    width=st.integers(1, 2 * CANDLES_MAX),
    limit=st.none() | st.integers(1, 20),
    newest=st.booleans(),
)
def test_pages_of_candles_are_a_plain_filter_of_the_truth(
    minutes: set[int], low: int, width: int, limit: int | None, newest: bool
) -> None:
    """Intervals without a trade may have no row; which end of too long a stretch is cut is not told, so none is asked."""
    first_ns = NOW_NS - NOW_NS % (60 * NS) - (2 * CANDLES_MAX + 300) * 60 * NS
    truth = [first_ns // MS + minute * 60_000 for minute in sorted(minutes)]

    def serve(query: dict[str, str]) -> Any:
        rows = [bar(at) for at in truth if int(query["from"]) * 1_000 <= at <= int(query["to"]) * 1_000]
        assert (int(query["to"]) - int(query["from"])) // 60 < CANDLES_MAX
        return {"candles": rows, "more_candles": False}

    start_ns, end_ns = first_ns + low * 60 * NS, first_ns + (low + width) * 60 * NS
    venue = KrakenFutures()
    ask = Ask(
        query=Query.CANDLES,
        symbol="PF_XBTUSD",
        interval_s=60,
        start_ns=start_ns,
        end_ns=end_ns,
        limit=limit,
        newest=newest,
    )
    found = list[Page]()
    following: Ask | None = ask
    while following is not None:
        assert len(found) < 2 + 2 * CANDLES_MAX // CANDLES_MIN
        found.append(venue.page(following, told(serve(dict(venue.request(following).query)))))
        following = found[-1].next
    wanted = [at * MS for at in truth if start_ns <= at * MS < end_ns]
    if limit is not None:
        wanted = wanted[-limit:] if newest else wanted[:limit]
    events = [event for page in (found[::-1] if newest else found) for event in page.events]
    assert [event.open_ns for event in events if isinstance(event, Candle)] == wanted


# Hostile input

FRAMES = [
    frame(TRADE),
    frame(TRADE, type="liquidation", product_id="PF_XBTUSD"),
    frame({"feed": "trade_snapshot", "product_id": "PI_XBTUSD", "trades": [TRADE, TRADE]}),
    frame(TICKER),
    frame(TICKER, product_id="PI_XBTUSD"),
    frame({"event": "subscribed", "feed": "trade", "product_ids": ["PI_XBTUSD"]}),
    frame({"event": "error", "message": "Invalid product id"}),
]
ANSWERS: dict[Query, Any] = {
    Query.INSTRUMENTS: LISTED,
    Query.CANDLES: {"candles": [bar(NOW_MS // 60_000 * 60_000 - 60_000)], "more_candles": False},
    Query.TRADES: {"result": "success", "history": [past(NOW_MS - 1, 2), past(NOW_MS - 5, 1)]},
    Query.FUNDING_HISTORY: {
        "rates": [
            {"timestamp": "2026-09-25T08:00:00Z", "relativeFundingRate": 1e-05},
            {"timestamp": "2026-09-25T09:00:00Z", "relativeFundingRate": 1e-05},
        ]
    },
    Query.TICKERS: TICKERS,
    Query.OPEN_INTEREST: TICKERS,
}


@settings(deadline=None)
@given(text=st.sampled_from(FRAMES), data=st.data())
def test_a_frame_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_frame: SpoilFrame, text: bytes, data: st.DataObject
) -> None:
    spoil_frame(taught(), text, data)


@settings(deadline=None)
@given(query=st.sampled_from(list(ANSWERS)), newest=st.booleans(), data=st.data())
def test_an_answer_with_one_wrong_value_is_refused_in_our_words_or_still_makes_sense(
    spoil_answer: SpoilAnswer, query: Query, newest: bool, data: st.DataObject
) -> None:
    start_ns = None if newest else NOW_NS - HOUR_NS
    ask = Ask(query=query, symbol="PF_XBTUSD", interval_s=60, newest=newest, start_ns=start_ns, end_ns=NOW_NS, limit=5)
    everything = query in {Query.INSTRUMENTS, Query.TICKERS}
    spoil_answer(taught(), Ask(query=query) if everything else ask, told(ANSWERS[query]), data)


# A recorded session


def recorded(folder: Path) -> tuple[KrakenFutures, Iterator[bytes]]:
    venue = KrakenFutures()
    with gzip.open(folder / "frames" / "KRAKEN_FUTURES.0.gz", "rt") as lines:
        _, _, listing = next(iter(lines)).rstrip("\n").partition(" -> ")
    page = venue.page(Ask(query=Query.INSTRUMENTS), told(listing.partition(": ")[2].encode()))
    assert page.unread == 0
    venue.learn(page.instruments)

    def frames() -> Iterator[bytes]:
        with gzip.open(folder / "frames" / "KRAKEN_FUTURES.ws.1.0.gz", "rt") as lines:
            for line in lines:
                head, _, text = line.rstrip("\n").partition(": ")
                if text and not head.startswith("wss:"):
                    yield text.encode()

    return venue, frames()


def test_every_frame_of_the_recorded_session_is_read(recordings: Path) -> None:
    venue, frames = recorded(recordings)
    counts: Counter[Any] = Counter()
    numbers: dict[str, list[int]] = defaultdict(list)
    first: Trade | None = None
    for text in frames:
        for event in venue.decode(text, NOW_NS):
            counts[(type(event).__name__, event.name) if isinstance(event, Skipped) else type(event).__name__] += 1
            if isinstance(event, Trade):
                first = first or event
                numbers[event.instrument].append(event.seq)
    assert counts == {
        "Trade": 1_003,
        "Subscribed": 30,
        "Alive": 1,
        ("Skipped", "book"): 7_014,
        ("Skipped", "book_snapshot"): 10,
        ("Skipped", "ticker_lite"): 107,
    }
    # The numbers of a product go on without a hole, over the end of its snapshot as well.
    assert len(numbers) == 10
    assert all(seen == list(range(seen[0], seen[0] + len(seen))) for seen in numbers.values())
    assert first == Trade(
        "kraken_futures:FI_BCHUSD_210730",
        1_626_979_159_119 * MS,
        NOW_NS,
        "8eaf71b7-81ac-4348-a859-edec0f3cf708",
        1_388,
        Side.BUY,
        Decimal(440),
        Decimal("0.22727273"),
        1,
        Decimal(100),
        Decimal(100),
    )


def test_the_recorded_listing(recordings: Path) -> None:
    venue, _ = recorded(recordings)
    listing = venue._listing.values()
    assert Counter((i.kind, i.inverse, i.contract_size) for i in listing) == {
        (Kind.PERPETUAL, True, Decimal(1)): 5,
        (Kind.FUTURE, True, Decimal(1)): 12,
    }
    assert {i.coin for i in listing} == {"BTC", "ETH", "LTC", "BCH", "XRP"}
