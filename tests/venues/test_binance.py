"""Binance spot, and what its frames share with the other two markets."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.errors import Unreadable, Unsupported
from openoutcry.events import Candle, DepthDelta, Quote, Side, Trade
from openoutcry.instrument import Kind
from openoutcry.venues.binance import BinanceSpot
from openoutcry.venues.venue import Alive, Ask, Closing, Feed, Query, Refused, Skipped, Stream, Subscribed

AT_MS = 1_672_515_782_134
MS = 1_000_000
NOW_NS = 1_672_515_782_200_000_000
AGG_TRADE: dict[str, Any] = {
    "e": "aggTrade", "E": AT_MS + 2, "s": "BTCUSDT", "a": 164_325, "p": "16512.30", "q": "0.253", "f": 100, "l": 105,
    "T": AT_MS, "m": True, "M": True,
}  # fmt: skip
TRADE: dict[str, Any] = {
    "e": "trade", "E": AT_MS + 2, "s": "BTCUSDT", "t": 12_345, "p": "16512.30", "q": "0.1", "T": AT_MS, "m": False,
    "M": True,
}  # fmt: skip
BAR: dict[str, Any] = {
    "t": 1_672_515_780_000, "T": 1_672_515_839_999, "s": "BTCUSDT", "i": "1m", "f": 100, "L": 200, "o": "16512.3",
    "c": "16512.9", "h": "16513.0", "l": "16512.3", "v": "12.345", "n": 308, "x": True, "q": "203847.1", "V": "5",
    "Q": "82564", "B": "0",
}  # fmt: skip
KLINE: dict[str, Any] = {"e": "kline", "E": AT_MS, "s": "BTCUSDT", "k": BAR}
TICKER: dict[str, Any] = {"u": 400_900_217, "s": "BTCUSDT", "b": "16512.3", "B": "3", "a": "16512.4", "A": "4"}
DEPTH: dict[str, Any] = {
    "e": "depthUpdate", "E": AT_MS, "s": "BTCUSDT", "U": 157, "u": 160, "b": [["16512.3", "10"]],
    "a": [["16512.4", "0"]],
}  # fmt: skip


def spot() -> BinanceSpot:
    venue = BinanceSpot()
    known = venue.assume("BTCUSDT")
    assert known is not None
    venue.learn([known])
    return venue


def wrapped(stream: str, data: Any) -> bytes:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()


def raw(data: Any) -> bytes:
    return json.dumps(data).encode()


def decoded(data: Any, stream: str = "btcusdt@x") -> Any:
    (said,) = spot().decode(wrapped(stream, data), NOW_NS)
    return said


def test_an_aggregate_trade_counts_what_it_merges_and_tells_the_aggressor() -> None:
    assert decoded(AGG_TRADE) == Trade(
        "binance:BTCUSDT", AT_MS * MS, NOW_NS, 164_325, 164_325, Side.SELL, Decimal("16512.30"), Decimal("0.253"), 6
    )
    assert decoded({**AGG_TRADE, "m": False}).side is Side.BUY


def test_a_raw_trade_is_one_match() -> None:
    assert decoded(TRADE) == Trade(
        "binance:BTCUSDT", AT_MS * MS, NOW_NS, 12_345, 12_345, Side.BUY, Decimal("16512.30"), Decimal("0.1")
    )


def test_microseconds_and_milliseconds_are_told_apart() -> None:
    """Trap 14: a socket opened with timeUnit=MICROSECOND."""
    assert decoded({**AGG_TRADE, "T": AT_MS * 1_000 + 567}).event_ns == AT_MS * MS + 567_000
    assert decoded({**KLINE, "k": {**BAR, "t": 1_672_515_780_000_000}}).open_ns == 1_672_515_780_000 * MS


def test_the_venues_own_candle() -> None:
    assert decoded(KLINE) == Candle(
        "binance:BTCUSDT", Side.BOTH, 60, 1_672_515_780_000 * MS, Decimal("16512.3"), Decimal("16513.0"),
        Decimal("16512.3"), Decimal("16512.9"), Decimal("12.345"), Decimal("203847.1"), 308, None, None, True, NOW_NS,
        "venue",
    )  # fmt: skip
    assert decoded({**KLINE, "k": {**BAR, "i": "4h", "x": False}}).interval_s == 14_400
    assert decoded({**KLINE, "k": {**BAR, "i": "1M"}}) == Skipped("unknown_interval", "1M")


def test_a_quote_of_spot_has_neither_a_name_nor_a_time() -> None:
    expected = Quote("binance:BTCUSDT", NOW_NS, NOW_NS, Decimal("16512.3"), Decimal(3), Decimal("16512.4"), Decimal(4))
    assert decoded(TICKER, "btcusdt@bookTicker") == expected
    assert spot().decode(raw(TICKER), NOW_NS) == (expected,)


def test_an_empty_side_of_a_quote_is_none() -> None:
    quote = decoded({**TICKER, "b": "0.00000000", "B": "0.00000000"}, "btcusdt@bookTicker")
    assert (quote.bid_price, quote.bid_size, quote.ask_price) == (None, None, Decimal("16512.4"))


def test_depth_of_spot_chains_by_its_first_sequence() -> None:
    assert decoded(DEPTH) == DepthDelta(
        "binance:BTCUSDT", AT_MS * MS, NOW_NS, ((Decimal("16512.3"), Decimal(10)),), ((Decimal("16512.4"), Decimal(0)),),
        157, 160, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "data", [AGG_TRADE, TRADE, KLINE, TICKER, DEPTH], ids=["aggTrade", "trade", "kline", "bookTicker", "depth"]
)
def test_a_raw_socket_says_the_same_as_a_combined_one(data: dict[str, Any]) -> None:
    venue = spot()
    said = venue.decode(wrapped("btcusdt@bookTicker" if data is TICKER else "btcusdt@x", data), NOW_NS)
    assert len(said) == 1
    assert venue.decode(raw(data), NOW_NS) == said
    # Neither the order of keys nor white space matters.
    turned = {"data": dict(reversed(data.items())), "stream": "btcusdt@x"}
    assert venue.decode(json.dumps(turned, indent=1).encode(), NOW_NS) == said


def test_acknowledgements_refusals_and_listings_of_subscriptions() -> None:
    venue = spot()
    assert venue.decode(b'{"result":null,"id":1}', NOW_NS) == (Subscribed(),)
    assert venue.decode(b'{"result":["btcusdt@trade"],"id":3}', NOW_NS) == (Subscribed(("btcusdt@trade",)),)
    assert venue.decode(b'{"id":2,"result":null}', NOW_NS) == (Alive(),)
    assert venue.decode(b'{"error":{"code":2,"msg":"Invalid request: unknown variant"},"id":1}', NOW_NS) == (
        Refused(None, "2 Invalid request: unknown variant"),
    )
    assert venue.decode(b'{"code":2,"msg":"Invalid request"}', NOW_NS) == (Refused(None, "2 Invalid request"),)


def test_a_server_that_shuts_down_says_so_before_it_closes() -> None:
    """Trap 17."""
    venue = spot()
    assert venue.decode(b'{"e":"serverShutdown","E":1770123456789}', NOW_NS) == (Closing("serverShutdown"),)
    assert venue.decode(b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}', NOW_NS) == (
        Closing("serverShutdown"),
    )


def test_what_is_not_for_us_is_skipped_by_name() -> None:
    assert decoded({**AGG_TRADE, "s": "ETHUSDT"}) == Skipped("unknown_instrument", "ETHUSDT")
    assert decoded({"e": "24hrTicker", "s": "BTCUSDT"}) == Skipped("unknown_event", "24hrTicker")
    assert decoded({"e": "markPriceUpdate", "E": AT_MS, "s": "BTCUSDT", "p": "1"}) == Skipped(
        "unknown_event", "BTCUSDT"
    )


def test_a_void_aggregate_is_skipped() -> None:
    said = decoded({**AGG_TRADE, "p": "0.00000000", "q": "0.00000000", "f": -1, "l": -1})
    assert said == Skipped("void", "binance:BTCUSDT")


@pytest.mark.parametrize(
    "number", ["NaN", "sNaN", "Infinity", "-Infinity", "-1", "0", "0.0", "1e-30", "1e30", "", "x", None, [], {}, True]
)
@pytest.mark.parametrize("key", ["p", "q"])
def test_a_number_that_is_no_price_or_size_is_unreadable(key: str, number: object) -> None:
    for data in (AGG_TRADE, TRADE):
        for frame in (wrapped("btcusdt@aggTrade", {**data, key: number}), raw({**data, key: number})):
            with pytest.raises(Unreadable):
                spot().decode(frame, NOW_NS)


@pytest.mark.parametrize(
    "data",
    [
        {**AGG_TRADE, "T": 0},
        {**AGG_TRADE, "T": -AT_MS},
        {**AGG_TRADE, "T": 99_999_999_999_999},
        {**AGG_TRADE, "T": 10**30},
        {**AGG_TRADE, "T": str(AT_MS)},
        {**AGG_TRADE, "a": -1},
        {**AGG_TRADE, "a": 2**63},
        {**AGG_TRADE, "a": "1"},
        {**AGG_TRADE, "l": 99},
        {**AGG_TRADE, "m": "true"},
        {**AGG_TRADE, "s": ""},
        {**AGG_TRADE, "s": "B" * 65},
        {**AGG_TRADE, "e": None},
        {key: value for key, value in AGG_TRADE.items() if key != "m"},
        {**KLINE, "k": {**BAR, "l": "16514"}},
        {**KLINE, "k": {**BAR, "h": "16512.5"}},
        {**KLINE, "k": {**BAR, "v": "-1"}},
        {**KLINE, "k": {**BAR, "v": "NaN"}},
        {**KLINE, "k": {**BAR, "n": -1}},
        {**KLINE, "k": None},
        {**TICKER, "b": "NaN"},
        {**TICKER, "B": "-3"},
        {**DEPTH, "b": [["0", "1"]]},
        {**DEPTH, "b": [["1", "-1"]]},
        {**DEPTH, "b": [["1", "Infinity"]]},
        {**DEPTH, "b": [["1"]]},
        {**DEPTH, "u": 156},
        [],
        "x",
        None,
    ],
)
def test_a_frame_that_is_not_as_documented_is_unreadable(data: object) -> None:
    frame = wrapped("btcusdt@bookTicker" if isinstance(data, dict) and "B" in data else "btcusdt@x", data)
    if data == []:
        assert spot().decode(frame, NOW_NS) == []
        return
    with pytest.raises(Unreadable) as raised:
        spot().decode(frame, NOW_NS)
    assert raised.value.head == frame[:200]


@pytest.mark.parametrize(
    "frame",
    [b"", b"{", b"null", b"1", b'"', b"[" * 100_000, b'{"data":' * 100_000, b"\xff\xfe", b"<html>", b'{"s":"\xff"}',
     b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","s":"\xff"}}', b"{}", b'{"stream":"x"}'],
)  # fmt: skip
def test_rubbish_is_unreadable(frame: bytes) -> None:
    with pytest.raises(Unreadable) as raised:
        spot().decode(frame, NOW_NS)
    assert raised.value.head == frame[:200]


def test_a_bad_row_of_an_array_is_counted_and_the_others_are_kept() -> None:
    said = spot().decode(raw([AGG_TRADE, 1, {**AGG_TRADE, "p": "NaN"}, TRADE]), NOW_NS)
    assert [type(each).__name__ for each in said] == ["Trade", "Skipped", "Skipped", "Trade"]
    assert said[1] == Skipped("unreadable_row")


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["BTCUSDT", "NaN", "1", "aggTrade"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("esapqflTmkbBAuU"), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from([AGG_TRADE, TRADE, KLINE, TICKER, DEPTH]), st.data())
def test_no_frame_is_fatal(shape: dict[str, Any], data: st.DataObject) -> None:
    # One key of a good frame is replaced or lost, so that most examples get past the outer checks.
    broken = dict(shape)
    key = data.draw(st.sampled_from(sorted(shape)))
    if data.draw(st.booleans()):
        broken[key] = data.draw(ANYTHING)
    else:
        del broken[key]
    for frame in (wrapped("btcusdt@bookTicker", broken), raw(broken)):
        try:
            for said in spot().decode(frame, NOW_NS):
                if isinstance(said, Trade):
                    assert said.price > 0
                    assert said.size > 0
                    assert 0 < said.event_ns < 2**63
        except Unreadable:
            continue


def test_streams_and_where_they_are() -> None:
    venue = BinanceSpot()
    streams = venue.streams(Feed.TRADES, ["BTCUSDT", "ETHBTC"])
    assert [(stream.name, stream.endpoint, stream.symbol) for stream in streams] == [
        ("btcusdt@aggTrade", "market", "BTCUSDT"),
        ("ethbtc@aggTrade", "market", "ETHBTC"),
    ]
    assert [venue.streams(feed, ["BTCUSDT"])[0].name for feed in (Feed.CANDLES, Feed.QUOTES, Feed.DEPTH)] == [
        "btcusdt@kline_1m", "btcusdt@bookTicker", "btcusdt@depth@100ms",
    ]  # fmt: skip
    assert venue.feeds == {Feed.TRADES, Feed.CANDLES, Feed.QUOTES, Feed.DEPTH}
    for feed, symbols in ((Feed.LIQUIDATIONS, ["BTCUSDT"]), (Feed.TRADES, None)):
        with pytest.raises(Unsupported):
            venue.streams(feed, symbols)


def test_subscriptions_at_connect_and_on_an_open_connection() -> None:
    venue = BinanceSpot()
    streams = venue.streams(Feed.TRADES, ["BTCUSDT", "币安人生USDT"])
    address = venue.sockets["market"]
    assert venue.url(address, "market", streams) == (
        "wss://stream.binance.com:9443/stream?streams=btcusdt@aggTrade/%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9Fusdt@aggTrade"
    )
    assert venue.url(address, "market", []) == "wss://stream.binance.com:9443/stream"
    assert venue.subscribe(streams[:1]) == [b'{"method":"SUBSCRIBE","params":["btcusdt@aggTrade"],"id":1}']
    assert venue.subscribe(streams[:1], undo=True) == [b'{"method":"UNSUBSCRIBE","params":["btcusdt@aggTrade"],"id":2}']
    many = [Stream(f"s{n}@aggTrade", "market", f"S{n}", frozenset({Feed.TRADES}), None) for n in range(250)]
    assert [len(json.loads(frame)["params"]) for frame in venue.subscribe(many)] == [100, 100, 50]
    assert venue.subscribe([]) == []


@pytest.mark.parametrize(
    ("symbol", "coin", "quote"),
    [("BTCUSDT", "BTC", "USDT"), ("ETHBTC", "ETH", "BTC"), ("BTCFDUSD", "BTC", "FDUSD"), ("USDCUSDT", "USDC", "USDT")],
)
def test_a_pair_is_assumed_from_its_spelling(symbol: str, coin: str, quote: str) -> None:
    assumed = BinanceSpot().assume(symbol)
    assert assumed is not None
    assert (assumed.name, assumed.kind, assumed.coin, assumed.quote) == (f"binance:{symbol}", Kind.SPOT, coin, quote)


def test_a_spelling_that_tells_no_quote_currency_is_not_guessed() -> None:
    assert [BinanceSpot().assume(symbol) for symbol in ("", "USDT", "XYZ")] == [None, None, None]


def test_a_new_listing_replaces_the_old_one() -> None:
    venue = spot()
    venue.learn([])
    assert venue.decode(raw(AGG_TRADE), NOW_NS) == (Skipped("unknown_instrument", "BTCUSDT"),)


def test_what_can_be_asked_is_what_is_answered() -> None:
    venue = BinanceSpot()
    assert venue.queries == {Query.TIME, Query.INSTRUMENTS, Query.CANDLES, Query.TRADES, Query.TICKERS, Query.DEPTH}
    assert venue.page_max[Query.CANDLES] == 1_000
    for query in venue.queries:
        request = venue.request(Ask(query=query, symbol="BTCUSDT", interval_s=1))
        assert request.path.startswith("/api/v3/")
        assert request.pool in venue.limits.weights
