"""What the frames and answers of Binance options become; each trap with a frame that shows it."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry import errors
from openoutcry.events import NS, Candle, OpenInterest, Side, Ticker, Trade
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues import VENUES
from openoutcry.venues.binance_options import TRADES_MAX, BinanceOptions
from openoutcry.venues.venue import Answer, Ask, Feed, Page, Query, Skipped, Stream
from tests.venues.pages import Pages, SpoilAnswer, SpoilFrame

MS = 1_000_000
NOW_NS = 1_762_856_070 * NS
NOW_MS = NOW_NS // MS
MINUTE_MS = NOW_MS - NOW_MS % 60_000
CALL, PUT, LATER, DOGE = "BTC-251123-126000-C", "BTC-251123-126000-P", "BTC-251226-90000-C", "DOGE-251123-1-C"


def option(symbol: str, expires_ms: int, unit: int = 1) -> dict[str, Any]:
    coin = symbol.split("-")[0]
    return {
        "expiryDate": expires_ms,
        "filters": [
            {"filterType": "PRICE_FILTER", "tickSize": "5"},
            {"filterType": "LOT_SIZE", "stepSize": "0.01"},
        ],
        "symbol": symbol,
        "side": "CALL",
        "strikePrice": "126000",
        "underlying": f"{coin}USDT",
        "unit": unit,
        "quoteAsset": "USDT",
    }


LISTED = {
    "timezone": "UTC",
    "optionContracts": [
        {"baseAsset": coin, "quoteAsset": "USDT", "underlying": f"{coin}USDT", "settleAsset": "USDT"}
        for coin in ("BTC", "DOGE")
    ],
    "optionSymbols": [
        option(CALL, 1_763_884_800_000),
        option(PUT, 1_763_884_800_000),
        option(LATER, 1_766_736_000_000),
        option("BTC-251101-90000-C", 1_761_984_000_000),  # it is over
        option(DOGE, 1_763_884_800_000, 1_000),
    ],
}
TRADE = {
    "e": "trade",
    "E": 1_762_856_064_204,
    "T": 1_762_856_064_203,
    "s": CALL,
    "t": 4,
    "p": "1300.000",
    "q": "0.1000",
    "X": "MARKET",
    "S": "BUY",
    "m": False,
}
KLINE = {
    "t": MINUTE_MS,
    "T": MINUTE_MS + 59_999,
    "s": CALL,
    "i": "1m",
    "f": 0,
    "L": 0,
    "o": "1300",
    "c": "1310",
    "h": "1320",
    "l": "1290",
    "v": "0.2",
    "n": 2,
    "x": True,
    "q": "261",
}
INTEREST = {
    "symbol": CALL,
    "sumOpenInterest": "4.01",
    "sumOpenInterestUsd": "5213.5",
    "timestamp": "1762856040000",
}
TICKER = {
    "symbol": CALL,
    "lastPrice": "1000",
    "open": "1016",
    "high": "1020",
    "low": "990",
    "volume": "5",
    "amount": "5100",
    "openTime": NOW_MS - 80_000_000,
    "closeTime": NOW_MS - 5,
    "firstTradeId": 1,
    "tradeCount": 5,
}


def frame(stream: str, data: Any) -> bytes:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()


def told(body: Any, status: int = 200) -> Answer:
    return Answer(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode(), NOW_NS)


def taught() -> BinanceOptions:
    venue = BinanceOptions()
    venue.learn(venue.page(Ask(query=Query.INSTRUMENTS), told(LISTED)).instruments)
    return venue


@pytest.fixture
def options() -> BinanceOptions:
    return taught()


@pytest.fixture
def answered() -> Callable[[Any], Answer]:
    return told


def test_the_venue_is_in_the_table() -> None:
    assert VENUES["binance_options"] is BinanceOptions


# Frames


def test_a_trade_counts_contracts_of_so_many_coins(options: BinanceOptions) -> None:
    (trade,) = options.decode(frame("btcusdt@optionTrade", TRADE), NOW_NS)
    assert trade == Trade(
        f"binance_options:{CALL}", 1_762_856_064_203 * MS, NOW_NS, 4, 4, Side.BUY, Decimal("1300.000"), Decimal("0.1000"),
        1, None, Decimal("0.1000"),
    )  # fmt: skip
    (thousands,) = options.decode(frame("dogeusdt@optionTrade", {**TRADE, "s": DOGE, "m": True}), NOW_NS)
    assert isinstance(thousands, Trade)
    assert (thousands.size, thousands.contracts, thousands.side) == (Decimal(100), Decimal("0.1"), Side.SELL)


def test_block_trades_were_not_matched_on_the_book(options: BinanceOptions) -> None:
    said = options.decode(frame("btcusdt@optionTrade", {**TRADE, "X": "BLOCK"}), NOW_NS)
    assert list(said) == [Skipped("non_market", CALL)]


def test_a_candle_counts_contracts_too(options: BinanceOptions) -> None:
    (candle,) = options.decode(frame("x", {"e": "kline", "E": NOW_MS, "s": DOGE, "k": {**KLINE, "s": DOGE}}), NOW_NS)
    assert isinstance(candle, Candle)
    assert (candle.volume, candle.quote_volume, candle.trades, candle.closed) == (Decimal(200), Decimal(261), 2, True)


def test_unlisted_options_are_skipped_by_name_and_none_is_assumed(options: BinanceOptions) -> None:
    said = options.decode(frame("btcusdt@optionTrade", {**TRADE, "s": "BTC-300101-1-C"}), NOW_NS)
    assert list(said) == [Skipped("unknown_instrument", "BTC-300101-1-C")]
    assert options.assume(CALL) is None
    options.learn([Instrument(
        venue="binance_options", symbol=CALL, kind=Kind.OPTION, coin="BTC", quote="USDT", settle="USDT",
        tick_size=Decimal(5), lot_size=Decimal("0.01"),
    )])  # fmt: skip
    assert list(options.decode(frame("x", TRADE), NOW_NS)) == [Skipped("unknown_instrument", CALL)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"p": "NaN"},
        {"p": "0"},
        {"q": "-1"},
        {"q": "Infinity"},
        {"t": -1},
        {"T": 0},
        {"T": "now"},
        {"m": "no"},
        {"s": ""},
    ],
)
def test_what_cannot_be_believed_is_unreadable(options: BinanceOptions, wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.Unreadable):
        options.decode(frame("btcusdt@optionTrade", {**TRADE, **wrong}), NOW_NS)


# Streams


def test_one_stream_carries_the_trades_of_all_options_on_an_underlying(options: BinanceOptions) -> None:
    trades = frozenset({Feed.TRADES})
    btc = Stream("btcusdt@optionTrade", "public", "*", trades, None)
    assert options.streams(Feed.TRADES, [CALL, PUT, LATER]) == [btc]
    assert options.streams(Feed.TRADES, None) == [btc, Stream("dogeusdt@optionTrade", "public", "*", trades, None)]
    assert options.streams(Feed.CANDLES, [CALL]) == [
        Stream("btc-251123-126000-c@kline_1m", "market", CALL, frozenset({Feed.CANDLES}), None)
    ]
    with pytest.raises(errors.Unsupported):
        BinanceOptions().streams(Feed.TRADES, None)
    for feed in set(Feed) - options.feeds:
        with pytest.raises(errors.Unsupported):
            options.streams(feed, [CALL])


# The listing


def test_the_listing_tells_what_a_contract_stands_for_and_when_it_ends(options: BinanceOptions) -> None:
    page = options.page(Ask(query=Query.INSTRUMENTS), told(LISTED))
    assert page.instruments[0] == Instrument(
        venue="binance_options", symbol=CALL, kind=Kind.OPTION, coin="BTC", quote="USDT", settle="USDT",
        tick_size=Decimal(5), lot_size=Decimal("0.01"), contract_size=Decimal(1), expires_ns=1_763_884_800_000 * MS,
    )  # fmt: skip
    assert page.instruments[-1].contract_size == Decimal(1_000)
    spoilt = {
        **LISTED,
        "optionSymbols": [{**option(CALL, 1), "unit": 0}, {**option(PUT, 1), "filters": []}, option(LATER, 1)],
    }
    page = options.page(Ask(query=Query.INSTRUMENTS), told(spoilt))
    assert ([i.symbol for i in page.instruments], page.unread) == ([LATER], 2)
    with pytest.raises(errors.Unreadable):
        options.page(Ask(query=Query.INSTRUMENTS), told({**LISTED, "optionSymbols": [{"symbol": CALL}]}))


# Open interest of all options on a coin


def test_open_interest_is_asked_expiry_by_expiry_after_the_price(options: BinanceOptions, pages: Pages) -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    def serve(path: str, query: dict[str, str]) -> Any:
        asked.append((path, query))
        if path == "/eapi/v1/index":
            return {"time": NOW_MS, "indexPrice": "104000.5"}
        rows = {"251123": [INTEREST, {**INTEREST, "symbol": PUT}, {**INTEREST, "symbol": "BTC-251123-1-C"}]}
        return rows.get(query["expiration"], [{**INTEREST, "symbol": LATER, "sumOpenInterest": "0"}])

    found = list(pages(options, Ask(query=Query.OPTION_INTEREST, symbol="BTC"), serve))
    # An option that is over is not asked for, nor one on another coin.
    assert asked == [
        ("/eapi/v1/index", {"underlying": "BTCUSDT"}),
        ("/eapi/v1/openInterest", {"underlyingAsset": "BTC", "expiration": "251123"}),
        ("/eapi/v1/openInterest", {"underlyingAsset": "BTC", "expiration": "251226"}),
    ]
    events = [event for page in found for event in page.events]
    assert events[0] == OpenInterest(
        f"binance_options:{CALL}", 1_762_856_040_000 * MS, NOW_NS, Decimal("4.01"), Decimal("5213.5"), Decimal("4.01"),
        Decimal("104000.5"),
    )  # fmt: skip
    assert [(e.instrument.partition(":")[2], e.price) for e in events if isinstance(e, OpenInterest)] == [
        (symbol, Decimal("104000.5")) for symbol in (CALL, PUT, LATER)
    ]


def test_contracts_of_a_thousand_coins_are_a_thousand_times_as_many_coins(
    options: BinanceOptions, pages: Pages
) -> None:
    def serve(path: str, query: dict[str, str]) -> Any:
        return {"indexPrice": "0.2"} if "index" in path else [{**INTEREST, "symbol": DOGE}]

    (interest,) = (e for p in pages(options, Ask(query=Query.OPTION_INTEREST, symbol="DOGE"), serve) for e in p.events)
    assert isinstance(interest, OpenInterest)
    assert (interest.size, interest.contracts) == (Decimal(4_010), Decimal("4.01"))


def test_a_coin_without_options_is_unknown_and_one_bad_row_does_not_cost_the_others(options: BinanceOptions) -> None:
    with pytest.raises(errors.UnknownInstrument):
        options.page(Ask(query=Query.OPTION_INTEREST, symbol="ETH"), told({"indexPrice": "3000"}))
    ask = Ask(query=Query.OPTION_INTEREST, symbol="BTC", cursor="104000.5 251123")
    page = options.page(ask, told([{**INTEREST, "sumOpenInterest": "NaN"}, {**INTEREST, "symbol": PUT}]))
    assert (len(page.events), page.unread, page.next) == (1, 1, None)
    with pytest.raises(errors.Unreadable):
        options.page(ask, told([{**INTEREST, "sumOpenInterest": "NaN"}]))
    with pytest.raises(errors.Unreadable):
        options.page(Ask(query=Query.OPTION_INTEREST, symbol="BTC"), told({"indexPrice": "0"}))


# Trades, candles, tickers


def past(number: int, at_ms: int, qty: str = "0.1") -> dict[str, Any]:
    side = -1 if qty.startswith("-") else 1
    return {"id": str(number << 20), "tradeId": number, "price": "1300", "qty": qty, "side": side, "time": at_ms}


def test_a_past_trade_is_told_under_the_number_of_the_stream_and_sold_ones_are_below_zero(
    options: BinanceOptions,
) -> None:
    page = options.page(
        Ask(query=Query.TRADES, symbol=CALL, newest=True, limit=9),
        told([past(5, NOW_MS - 4_000), past(4, NOW_MS - 9_000, "-0.2")]),
    )
    assert [(t.id, t.side, t.size) for t in page.events if isinstance(t, Trade)] == [
        (4, Side.SELL, Decimal("0.2")),
        (5, Side.BUY, Decimal("0.1")),
    ]
    with pytest.raises(errors.Unreadable):
        options.page(Ask(query=Query.TRADES, symbol=CALL), told([{**past(4, NOW_MS), "side": 0}]))


@settings(deadline=None, max_examples=60)
@given(
    # Some six hundred trades at twelve moments, so that the answer begins inside a millisecond.
    counts=st.lists(st.integers(20, 80), min_size=12, max_size=12),
    low=st.integers(0, 13),
    width=st.integers(1, 13),
    limit=st.none() | st.integers(1, 700),
    newest=st.booleans(),
)
def test_the_newest_trades_are_a_plain_filter_and_promise_no_cut_millisecond(
    counts: list[int], low: int, width: int, limit: int | None, newest: bool
) -> None:
    base_ms = NOW_MS - 10_000
    moments = [at for at, count in enumerate(counts) for _ in range(count)]
    truth = [past(n, base_ms + at) for n, at in enumerate(moments)]
    start_ns, end_ns = (base_ms + low) * MS, (base_ms + low + width) * MS
    ask = Ask(query=Query.TRADES, symbol=CALL, start_ns=start_ns, end_ns=end_ns, limit=limit, newest=newest)
    page = taught().page(ask, told(truth[-TRADES_MAX:]))
    served = [row["tradeId"] for row in truth[-TRADES_MAX:] if start_ns <= row["time"] * MS < end_ns]
    if limit is not None:
        served = served[-limit:] if newest else served[:limit]
    assert [trade.id for trade in page.events if isinstance(trade, Trade)] == served
    if page.start_ns is not None:
        assert page.end_ns is not None
        promised = [row["tradeId"] for row in truth if page.start_ns <= row["time"] * MS < page.end_ns]
        assert set(promised) <= set(served)


def bar(open_ms: int) -> dict[str, Any]:
    return {
        "open": "10", "high": "12", "low": "8", "close": "11", "volume": "2", "amount": "21", "interval": "1m",
        "tradeCount": 3, "takerVolume": "1", "takerAmount": "10", "openTime": open_ms, "closeTime": open_ms + 59_999,
    }  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(
    minutes=st.one_of(st.just(set(range(4_000))), st.sets(st.integers(0, 4_000), max_size=40)),
    low=st.integers(0, 3_000),
    width=st.integers(1, 3_500),
    limit=st.none() | st.integers(100, 2_000),
    newest=st.booleans(),
)
def test_pages_of_candles_are_a_plain_filter_of_the_truth(
    minutes: set[int], low: int, width: int, limit: int | None, newest: bool
) -> None:
    """Of too long a stretch the last rows come, as on COINM: nobody says so, and nothing may depend on it."""
    first_ms = MINUTE_MS - 5_000 * 60_000
    truth = [first_ms + minute * 60_000 for minute in sorted(minutes)]
    start_ns, end_ns = (first_ms + low * 60_000) * MS, (first_ms + (low + width) * 60_000) * MS
    venue, found = taught(), list[Page]()
    following: Ask | None = Ask(
        query=Query.CANDLES, symbol=DOGE, interval_s=60, start_ns=start_ns, end_ns=end_ns, limit=limit, newest=newest
    )
    while following is not None:
        assert len(found) < 60
        query = dict(venue.request(following).query)
        until_ms = int(query.get("endTime", NOW_MS))
        rows = [bar(at) for at in truth if int(query.get("startTime", 0)) <= at <= until_ms]
        found.append(venue.page(following, told(rows[-int(query["limit"]) :])))
        following = found[-1].next
    wanted = [at * MS for at in truth if start_ns <= at * MS < end_ns]
    if limit is not None:
        wanted = wanted[-limit:] if newest else wanted[:limit]
    candles = [e for page in (found[::-1] if newest else found) for e in page.events if isinstance(e, Candle)]
    assert [candle.open_ns for candle in candles] == wanted
    assert {(c.volume, c.quote_volume, c.trades) for c in candles} <= {(Decimal(2_000), Decimal(21), 3)}


def test_tickers_leave_out_what_was_not_traded(options: BinanceOptions) -> None:
    rows = [TICKER, {**TICKER, "symbol": PUT, "volume": "0"}, {**TICKER, "symbol": LATER, "low": "NaN"}]
    page = options.page(Ask(query=Query.TICKERS), told(rows))
    assert page.unread == 1
    assert page.events == [
        Ticker(
            f"binance_options:{CALL}", (NOW_MS - 5) * MS, NOW_NS, Decimal(1016), Decimal(1020), Decimal(990), Decimal(1000),
            Decimal(5), Decimal(5100), 5,
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (told({"code": -1121, "msg": "Invalid symbol."}, 400), errors.UnknownInstrument),
        (told({"code": -1003, "msg": "Too many requests."}, 429), errors.RateLimited),
        (told(b"", 418), errors.RateLimited),
        (told(b"<html>502</html>", 502), errors.Unavailable),
        (told(b"<html>all is well</html>"), errors.Unreadable),
        (told(b"[" * 100_000), errors.Unreadable),
        (told({"rows": 5}), errors.Unreadable),
    ],
)
def test_a_refusal_of_the_venue_is_said_in_our_words(
    options: BinanceOptions, answer: Answer, refusal: type[Exception]
) -> None:
    for query in (Query.TRADES, Query.CANDLES):
        with pytest.raises(refusal) as caught:
            options.page(Ask(query=query, symbol=CALL, interval_s=60, newest=True, limit=5), answer)
        assert type(caught.value) is refusal


def test_what_the_venue_does_not_serve_is_refused(options: BinanceOptions) -> None:
    for query in set(Query) - options.queries:
        with pytest.raises(errors.Unsupported):
            options.request(Ask(query=query, symbol=CALL))
    for query in (Query.TRADES, Query.OPTION_INTEREST):
        with pytest.raises(errors.Unsupported):
            options.request(Ask(query=query))
    with pytest.raises(errors.BadInterval):
        options.request(Ask(query=Query.CANDLES, symbol=CALL, interval_s=28_800, newest=True))


# Hostile input

ANSWERS: dict[Query, Any] = {
    Query.INSTRUMENTS: LISTED,
    Query.CANDLES: [bar(MINUTE_MS - 120_000), bar(MINUTE_MS - 60_000)],
    Query.TRADES: [past(4, NOW_MS - 9_000), past(5, NOW_MS - 8_000, "-1")],
    Query.TICKERS: [TICKER, {**TICKER, "symbol": PUT}],
    Query.OPTION_INTEREST: [INTEREST, {**INTEREST, "symbol": PUT}],
}


@settings(deadline=None)
@given(
    text=st.sampled_from([frame("x", TRADE), frame("x", {"e": "kline", "E": NOW_MS, "s": CALL, "k": KLINE})]),
    data=st.data(),
)
def test_a_frame_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_frame: SpoilFrame, text: bytes, data: st.DataObject
) -> None:
    spoil_frame(taught(), text, data)


@settings(deadline=None)
@given(query=st.sampled_from([*ANSWERS, None]), data=st.data())
def test_an_answer_with_one_wrong_value_is_refused_in_our_words_or_still_makes_sense(
    spoil_answer: SpoilAnswer, query: Query | None, data: st.DataObject
) -> None:
    if query is None:
        ask = Ask(query=Query.OPTION_INTEREST, symbol="BTC")
        spoil_answer(taught(), ask, told({"time": NOW_MS, "indexPrice": "104000.5"}), data)
        return
    interest = query is Query.OPTION_INTEREST
    symbol = None if query in {Query.INSTRUMENTS, Query.TICKERS} else "BTC" if interest else CALL
    cursor = "104000.5 251123,251226" if interest else None
    ask = Ask(query=query, symbol=symbol, interval_s=60, newest=True, limit=5, cursor=cursor)
    spoil_answer(taught(), ask, told(ANSWERS[query]), data)
