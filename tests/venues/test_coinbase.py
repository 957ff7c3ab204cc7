"""What Coinbase's frames and answers become; each trap with a frame that shows it."""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry import errors
from openoutcry.clock import ManualClock
from openoutcry.events import NS, Candle, Quote, Side, Ticker, Trade
from openoutcry.feed.replay import Replay
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues import VENUES
from openoutcry.venues.coinbase import Coinbase
from openoutcry.venues.coinbase_history import CANDLES_MAX, TRADES_MAX
from openoutcry.venues.stamps import ns_of, stamp_of
from openoutcry.venues.venue import (
    Alive,
    Answer,
    Ask,
    Feed,
    Page,
    Query,
    Refused,
    Skipped,
    Subscribed,
)
from tests.venues.pages import (
    BURSTS,
    DAY_NS,
    LIMITS,
    PLACES,
    Bursts,
    Serve,
    SpoilAnswer,
    SpoilFrame,
    answer_of,
    frames_of,
    history,
    holds_promises,
    moment,
    one,
    trades_of,
    walk,
)

US, MINUTE_NS = 1_000, 60 * NS
NOW_NS = 1_795_183_260 * NS  # 2026-11-20 14:01:00 UTC, a full minute
LISTED = [
    {
        "id": "BTC-USD",
        "base_currency": "BTC",
        "quote_currency": "USD",
        "quote_increment": "0.01",
        "base_increment": "0.00000001",
        "status": "online",
        "trading_disabled": False,
    },
    {
        "id": "SKL-BTC",
        "base_currency": "SKL",
        "quote_currency": "BTC",
        "quote_increment": "0.00000001",
        "base_increment": "0.1",
        "status": "delisted",
        "trading_disabled": True,
    },
]
MATCH = {
    "type": "match",
    "trade_id": 280232,
    "maker_order_id": "2a0da34e-61f7-4c36-88e5-c9dd15927b16",
    "taker_order_id": "3c82abaa-c01e-4608-be59-6a1e69742891",
    "side": "sell",
    "size": "985",
    "price": "0.00001305",
    "product_id": "SKL-BTC",
    "sequence": 177100030,
    "time": "2021-04-17T16:43:37.089723Z",
}
TICKER = {
    "type": "ticker",
    "sequence": 29912241,
    "product_id": "BTC-USD",
    "price": "64012.5",
    "best_bid": "64012.49",
    "best_bid_size": "0.31",
    "best_ask": "64012.5",
    "best_ask_size": "0.07",
    "side": "buy",
    "time": "2026-11-20T13:00:20.104211Z",
    "trade_id": 4099,
    "last_size": "0.001",
}
STATS = {
    "BTC-USD": {
        "stats_30day": {"volume": "310.2"},
        "stats_24hour": {"open": "64000", "high": "64500", "low": "63100.5", "volume": "9120.4", "last": "64100"},
    },
    "SKL-BTC": {"stats_30day": {"volume": "0"}, "stats_24hour": {"open": "0", "high": "0", "low": "0", "volume": "0"}},
    "OLD-USD": {"stats_24hour": {"open": "NaN"}},
}
MATCH_NS = 1_618_677_817 * NS + 89_723 * US
PAST = [
    {"time": "2014-11-07T22:19:28.578544Z", "trade_id": 74, "price": "10.00", "size": "0.01", "side": "buy"},
    {"time": "2014-11-07T01:08:43.642366Z", "trade_id": 73, "price": "100.00", "size": "0.01", "side": "sell"},
]


def frame(message: Any, **changes: Any) -> bytes:
    return json.dumps({**message, **changes}, separators=(",", ":")).encode()


def told(body: Any, status: int = 200, **headers: str) -> Answer:
    return answer_of(body, NOW_NS, status, **headers)


def taught() -> Coinbase:
    venue = Coinbase()
    venue.learn(venue.page(Ask(query=Query.INSTRUMENTS), told(LISTED)).instruments)
    return venue


@pytest.fixture
def coinbase() -> Coinbase:
    return taught()


def walked(ask: Ask, serve: Serve) -> list[Page]:
    """`serve` gives what the answer holds."""
    return list(walk(taught(), ask, lambda path, query: told(serve(path, query))))


def test_the_venue_is_in_the_table() -> None:
    assert VENUES["coinbase"] is Coinbase


# Frames


@pytest.mark.parametrize("kind", ["match", "last_match"])
def test_the_side_of_a_match_is_the_makers(coinbase: Coinbase, kind: str) -> None:
    assert one(coinbase.decode(frame(MATCH, type=kind), NOW_NS)) == Trade(
        "coinbase:SKL-BTC", MATCH_NS, NOW_NS, 280_232, 280_232, Side.BUY, Decimal("0.00001305"), Decimal(985)
    )
    sold = one(coinbase.decode(frame(MATCH, type=kind, side="buy"), NOW_NS))
    assert isinstance(sold, Trade)
    assert sold.side is Side.SELL


def test_a_ticker_tells_the_best_of_both_sides(coinbase: Coinbase) -> None:
    at_ns = 1_795_179_620 * NS + 104_211 * US
    assert one(coinbase.decode(frame(TICKER), NOW_NS)) == Quote(
        "coinbase:BTC-USD", at_ns, NOW_NS, Decimal("64012.49"), Decimal("0.31"), Decimal("64012.5"), Decimal("0.07")
    )


def test_a_ticker_of_2021_tells_no_sizes_and_an_empty_side_is_none(coinbase: Coinbase) -> None:
    old = {key: value for key, value in TICKER.items() if not key.endswith("_size") and key != "time"}
    quote = one(coinbase.decode(frame(old, best_bid="0"), NOW_NS))
    assert quote == Quote("coinbase:BTC-USD", NOW_NS, NOW_NS, None, None, Decimal("64012.5"), None)


def test_a_heartbeat_and_a_greeting_say_that_it_is_alive(coinbase: Coinbase) -> None:
    beat = {"type": "heartbeat", "sequence": 90, "last_trade_id": 20, "product_id": "BTC-USD"}
    assert coinbase.decode(frame(beat, time="2014-11-07T08:19:28.464459Z"), NOW_NS) == (Alive(),)
    assert coinbase.decode(b'{"type":"subscriptions","channels":[]}', NOW_NS) == (Alive(),)


def test_subscriptions_name_what_the_connection_carries(coinbase: Coinbase) -> None:
    channels = [
        {"name": "matches", "product_ids": ["BTC-USD", "SKL-BTC"], "account_ids": None},
        {"name": "heartbeat", "product_ids": ["BTC-USD"]},
    ]
    said = coinbase.decode(frame({"type": "subscriptions", "channels": channels}), NOW_NS)
    assert said == (Subscribed(("matches:BTC-USD", "matches:SKL-BTC", "heartbeat:BTC-USD")),)


def test_an_error_refuses_what_was_asked_last_without_a_name(coinbase: Coinbase) -> None:
    reason = {"type": "error", "message": "Failed to subscribe", "reason": "FOO-USD is not a valid product"}
    assert coinbase.decode(frame(reason), NOW_NS) == (
        Refused(None, "Failed to subscribe: FOO-USD is not a valid product"),
    )
    (long,) = coinbase.decode(frame(reason, reason="x" * 9_000), NOW_NS)
    assert isinstance(long, Refused)
    assert len(long.reason) == 200


def test_what_is_not_listed_and_what_is_not_known_are_skipped(coinbase: Coinbase) -> None:
    assert coinbase.decode(frame(MATCH, product_id="FOO-USD"), NOW_NS) == (Skipped("unknown_instrument", "FOO-USD"),)
    assert coinbase.decode(frame(TICKER, product_id="FOO-USD"), NOW_NS) == (Skipped("unknown_instrument", "FOO-USD"),)
    assert coinbase.decode(b'{"type":"l2update","product_id":"BTC-USD"}', NOW_NS) == (
        Skipped("unknown_type", "l2update"),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"price": "NaN"},
        {"price": "0"},
        {"price": "-1"},
        {"size": "Infinity"},
        {"size": "0"},
        {"side": "none"},
        {"trade_id": "x"},
        {"trade_id": -1},
        {"trade_id": 2**63},
        {"time": "yesterday"},
        {"time": "2021-04-17T16:43:37.089723"},
        {"time": "1969-12-31T23:59:59Z"},
        {"time": None},
        {"product_id": ""},
        {"product_id": 7},
    ],
)
def test_a_match_that_cannot_be_is_unreadable(coinbase: Coinbase, changes: dict[str, Any]) -> None:
    with pytest.raises(errors.Unreadable):
        coinbase.decode(frame(MATCH, **changes), NOW_NS)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff", b"null", b"[]", b"{}", b'{"type":7}', b'{"type":"match"}', b"[" * 100_000, b'{"type":' * 100_000],
)
def test_rubbish_is_unreadable(coinbase: Coinbase, raw: bytes) -> None:
    with pytest.raises(errors.Unreadable):
        coinbase.decode(raw, NOW_NS)


@given(data=st.data(), which=st.sampled_from([MATCH, TICKER]))
@settings(max_examples=300)
def test_a_frame_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_frame: SpoilFrame, data: st.DataObject, which: dict[str, Any]
) -> None:
    spoil_frame(taught(), frame(which), data)


# Streams


def test_matches_are_asked_for_with_heartbeats(coinbase: Coinbase) -> None:
    streams = [*coinbase.streams(Feed.TRADES, ["BTC-USD", "SKL-BTC"]), *coinbase.streams(Feed.QUOTES, ["BTC-USD"])]
    assert [(s.name, s.symbol, set(s.feeds)) for s in streams] == [
        ("matches:BTC-USD", "BTC-USD", {Feed.TRADES}),
        ("matches:SKL-BTC", "SKL-BTC", {Feed.TRADES}),
        ("ticker:BTC-USD", "BTC-USD", {Feed.QUOTES}),
    ]
    assert coinbase.url("wss://x", "ws", streams) == "wss://x"
    assert [json.loads(f) for f in coinbase.subscribe(streams)] == [
        {"type": "subscribe", "product_ids": ["BTC-USD", "SKL-BTC"], "channels": ["matches", "heartbeat"]},
        {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker"]},
    ]
    (undone,) = coinbase.subscribe(streams[:1], undo=True)
    assert json.loads(undone)["type"] == "unsubscribe"


def test_a_frame_asks_for_no_more_products_than_one_holds(coinbase: Coinbase) -> None:
    streams = coinbase.streams(Feed.TRADES, [f"A{n}-USD" for n in range(120)])
    assert [len(json.loads(f)["product_ids"]) for f in coinbase.subscribe(streams)] == [50, 50, 20]


def test_there_is_no_stream_of_candles_nor_of_everything(coinbase: Coinbase) -> None:
    for feed, symbols in ((Feed.CANDLES, ["BTC-USD"]), (Feed.DEPTH, ["BTC-USD"]), (Feed.TRADES, None)):
        with pytest.raises(errors.Unsupported):
            coinbase.streams(feed, symbols)


# Listing


def test_the_listing_is_read(coinbase: Coinbase) -> None:
    page = coinbase.page(Ask(query=Query.INSTRUMENTS), told([*LISTED, {"id": "BAD-USD"}]))
    assert page.unread == 1
    assert page.instruments == [
        Instrument(
            venue="coinbase", symbol="BTC-USD", kind=Kind.SPOT, coin="BTC", quote="USD", settle="USD",
            tick_size=Decimal("0.01"), lot_size=Decimal("1e-8"),
        ),
        Instrument(
            venue="coinbase", symbol="SKL-BTC", kind=Kind.SPOT, coin="SKL", quote="BTC", settle="BTC",
            tick_size=Decimal("1e-8"), lot_size=Decimal("0.1"), trading=False,
        ),
    ]  # fmt: skip
    with pytest.raises(errors.Unreadable):
        coinbase.page(Ask(query=Query.INSTRUMENTS), told([{"id": "BAD-USD"}]))


def test_an_unlisted_symbol_is_assumed_from_its_spelling(coinbase: Coinbase) -> None:
    assumed = coinbase.assume("1INCH-EUR")
    assert assumed is not None
    assert (assumed.coin, assumed.quote, assumed.kind, assumed.name) == (
        "1INCH",
        "EUR",
        Kind.SPOT,
        "coinbase:1INCH-EUR",
    )
    assert [coinbase.assume(symbol) for symbol in ("BTCUSD", "btc-usd", "A-B-C", "", "-", "X" * 30 + "-USD")] == [
        None
    ] * 6


# Questions


def test_what_is_sent(coinbase: Coinbase) -> None:
    def sent(**ask: Any) -> tuple[str, dict[str, str]]:
        request = coinbase.request(Ask(**ask))
        assert request.pool in coinbase.limits.weights
        return request.path, dict(request.query)

    assert sent(query=Query.TIME) == ("/time", {})
    assert sent(query=Query.INSTRUMENTS) == ("/products", {})
    assert sent(query=Query.TICKERS) == ("/products/stats", {})
    trades = {"query": Query.TRADES, "symbol": "BTC-USD"}
    path = "/products/BTC-USD/trades"
    assert sent(**trades) == (path, {"limit": "1000"})
    assert sent(**trades, newest=True, limit=7) == (path, {"limit": "7"})
    assert sent(**trades, from_id=500) == (path, {"after": "1501", "limit": "1000"})
    assert sent(**trades, from_id=500, limit=3) == (path, {"after": "504", "limit": "3"})
    candles = {"query": Query.CANDLES, "symbol": "BTC-USD", "interval_s": 60}
    # Both ends are counted in.
    assert sent(**candles, start_ns=NOW_NS, end_ns=NOW_NS + 2 * MINUTE_NS) == (
        "/products/BTC-USD/candles",
        {"granularity": "60", "start": "2026-11-20T14:01:00Z", "end": "2026-11-20T14:02:59Z"},
    )
    # The venue is asked for the time first, for it takes both ends or none.
    assert sent(**candles, newest=True, limit=3) == ("/time", {})
    assert (
        sent(query=Query.CANDLES, symbol="A/../B", interval_s=60, start_ns=NOW_NS)[0] == "/products/A%2F..%2FB/candles"
    )


def test_what_is_not_served(coinbase: Coinbase) -> None:
    for ask in (
        Ask(query=Query.FUNDING, symbol="BTC-USD"),
        Ask(query=Query.TRADES),
        Ask(query=Query.TRADES, symbol="BTC-USD", from_id="x"),
    ):
        with pytest.raises(errors.Unsupported):
            coinbase.request(ask)
    with pytest.raises(errors.BadInterval):
        coinbase.request(Ask(query=Query.CANDLES, symbol="BTC-USD", interval_s=1_800, start_ns=NOW_NS))


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, {"message": "NotFound"}, errors.UnknownInstrument),
        (429, {"message": "Public rate limit exceeded"}, errors.RateLimited),
        (400, {"message": "Unsupported granularity"}, errors.Unavailable),
        (500, b"<html>", errors.Unavailable),
        (200, {"message": "?"}, errors.Unreadable),
        (200, b"<html>", errors.Unreadable),
        (200, [{**PAST[0], "price": "NaN"}], errors.Unreadable),
        (200, [{**PAST[0], "time": "now"}], errors.Unreadable),
        (200, b"[" * 100_000, errors.Unreadable),
    ],
)
def test_what_a_bad_answer_means(coinbase: Coinbase, status: int, body: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        coinbase.page(Ask(query=Query.TRADES, symbol="BTC-USD"), told(body, status))
    assert "http" not in str(caught.value)


def test_a_pause_is_as_long_as_the_venue_says(coinbase: Coinbase) -> None:
    for headers, pause_s in (({"retry_after": "12"}, 12.0), ({"retry_after": "soon"}, 1.0), ({}, 1.0)):
        with pytest.raises(errors.RateLimited) as caught:
            coinbase.page(Ask(query=Query.TIME), told({}, 429, **headers))
        assert caught.value.retry_s == pause_s


def test_past_trades_come_oldest_first_and_their_side_is_the_makers_too(coinbase: Coinbase) -> None:
    page = coinbase.page(Ask(query=Query.TRADES, symbol="BTC-USD"), told(PAST))
    first_ns, last_ns = ns_of(_at("2014-11-07T01:08:43.642366Z")), ns_of(_at("2014-11-07T22:19:28.578544Z"))
    assert page.events == [
        Trade("coinbase:BTC-USD", first_ns, NOW_NS, 73, 73, Side.BUY, Decimal("100.00"), Decimal("0.01")),
        Trade("coinbase:BTC-USD", last_ns, NOW_NS, 74, 74, Side.SELL, Decimal("10.00"), Decimal("0.01")),
    ]
    assert (page.next, page.start_ns, page.end_ns) == (None, 0, NOW_NS)
    with pytest.raises(errors.UnknownInstrument):
        coinbase.page(Ask(query=Query.TRADES, symbol="FOO-USD"), told(PAST))


def test_a_candle_row_begins_with_low_and_high(coinbase: Coinbase) -> None:
    open_s = NOW_NS // NS - 120
    rows = b"[[%d, 64001, 64004, 64002.5, 64003, 0], [%d, 64000.01, 64103.5, 64003.2, 64100, 12.0402]]" % (
        open_s + 60,
        open_s,
    )
    ask = Ask(query=Query.CANDLES, symbol="BTC-USD", interval_s=60, start_ns=open_s * NS, end_ns=NOW_NS)
    page = coinbase.page(ask, told(rows))
    assert page.events[0] == Candle(
        "coinbase:BTC-USD", Side.BOTH, 60, open_s * NS, Decimal("64003.2"), Decimal("64103.5"), Decimal("64000.01"),
        Decimal(64_100), Decimal("12.0402"), Decimal("771389.56703400"), 0, None, None, closed=True,
        received_ns=NOW_NS, origin="venue",
    )  # fmt: skip
    # The minute that ended just now may still change.
    assert [e.closed for e in page.events if isinstance(e, Candle)] == [True, False]
    assert (page.start_ns, page.end_ns, page.next) == (open_s * NS, NOW_NS - MINUTE_NS, None)


def test_tickers_of_all_products_are_one_answer(coinbase: Coinbase) -> None:
    page = coinbase.page(Ask(query=Query.TICKERS), told(STATS))
    assert page.events == [
        Ticker(
            "coinbase:BTC-USD", NOW_NS, NOW_NS, Decimal(64_000), Decimal(64_500), Decimal("63100.5"), Decimal(64_100),
            Decimal("9120.4"), Decimal("9120.4") * 64_100, 0,
        )
    ]  # fmt: skip
    bad = {"stats_24hour": {**STATS["BTC-USD"]["stats_24hour"], "low": "70000"}}
    assert coinbase.page(Ask(query=Query.TICKERS), told({**STATS, "SKL-BTC": bad})).unread == 1
    with pytest.raises(errors.Unreadable):
        coinbase.page(Ask(query=Query.TICKERS), told({"SKL-BTC": bad}))
    with pytest.raises(errors.UnknownInstrument):
        coinbase.page(Ask(query=Query.TICKERS, symbol="FOO-USD"), told(STATS))


SERIES: dict[Query, Any] = {
    Query.TRADES: PAST,
    Query.CANDLES: [[NOW_NS // NS - 60, 1, 4, 2, 3, 0.5]],
    Query.TICKERS: STATS,
    Query.INSTRUMENTS: LISTED,
}


@given(data=st.data(), query=st.sampled_from(sorted(SERIES)))
@settings(max_examples=300)
def test_an_answer_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_answer: SpoilAnswer, data: st.DataObject, query: Query
) -> None:
    ask = Ask(query=query, symbol="BTC-USD", interval_s=60, start_ns=NOW_NS - 9 * MINUTE_NS, end_ns=NOW_NS)
    spoil_answer(taught(), ask, told(SERIES[query]), data)


# Pages


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _micro(at_ns: int) -> str:
    at = datetime.fromtimestamp(at_ns // NS, UTC).replace(microsecond=at_ns % NS // US)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def serve_trades(rows: list[tuple[int, int]]) -> Serve:
    """As documented: newest first, `after` for lower ids."""

    def serve(path: str, query: dict[str, str]) -> Any:
        assert path == "/products/BTC-USD/trades"
        after, limit = int(query.get("after", 10**18)), int(query["limit"])
        assert 1 <= limit <= TRADES_MAX
        found = [row for row in rows if row[0] < after][-limit:][::-1]
        return [
            {"time": _micro(at_ns), "trade_id": number, "price": "1", "size": "2", "side": "buy"}
            for number, at_ns in found
        ]

    return serve


@given(
    bursts=BURSTS, first_id=st.sampled_from([1, 90_000]), start=PLACES, end=PLACES, limit=LIMITS, newest=st.booleans()
)
@settings(max_examples=100, deadline=None)
def test_trades_asked_by_time_are_those_of_the_time(
    bursts: Bursts, first_id: int, start: int | None, end: int | None, limit: int | None, newest: bool
) -> None:
    rows = history(bursts, NOW_NS, US, first_id)
    start_ns, end_ns = moment(rows, start, NOW_NS, US), moment(rows, end, NOW_NS, US)
    if start_ns is not None and end_ns is not None and end_ns <= start_ns:
        start_ns, end_ns = end_ns, start_ns + 1
    ask = Ask(query=Query.TRADES, symbol="BTC-USD", start_ns=start_ns, end_ns=end_ns, limit=limit, newest=newest)
    told_pages = walked(ask, serve_trades(rows))
    truth = [row for row in rows if (start_ns or 0) <= row[1] and (end_ns is None or row[1] < end_ns)]
    if newest or start_ns is None:
        # Without a bound at both ends it is as many as one answer tells.
        cut = limit if limit is not None else None if start_ns is not None else len(trades_of(told_pages))
        wanted = truth if cut is None else truth[len(truth) - min(cut, len(truth)) :]
    else:
        wanted = truth[:limit]
    assert sorted((t.id, t.event_ns) for t in trades_of(told_pages)) == wanted
    holds_promises(told_pages, rows, ask, NOW_NS)


@given(bursts=BURSTS.filter(bool), place=st.integers(-1, 101), limit=LIMITS)
@settings(max_examples=60, deadline=None)
def test_trades_asked_by_id_are_those_that_follow(bursts: Bursts, place: int, limit: int | None) -> None:
    rows = history(bursts, NOW_NS, US)
    from_id = rows[0][0] + len(rows) * place // 100
    ask = Ask(query=Query.TRADES, symbol="BTC-USD", from_id=from_id, limit=limit)
    told_pages = walked(ask, serve_trades(rows))
    assert [t.id for t in trades_of(told_pages)] == [number for number, _ in rows if number > from_id][:limit]
    assert all(page.start_ns is None for page in told_pages)


def test_a_moment_is_found_in_few_questions() -> None:
    # Unevenly: 81 s of trades, ever slower.
    rows = [(n + 1, NOW_NS - DAY_NS + n * n * 10 // US * US) for n in range(90_000)]
    serve = serve_trades(rows)
    for at in (0, 1, 40_000, 89_000):
        ask = Ask(query=Query.TRADES, symbol="BTC-USD", start_ns=rows[at][1], end_ns=rows[at][1] + 1)
        told_pages = walked(ask, serve)
        assert rows[at] in [(t.id, t.event_ns) for t in trades_of(told_pages)]
        assert len(told_pages) <= 25


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_candles_are_those_of_the_time(data: st.DataObject) -> None:
    opens = data.draw(st.sets(st.integers(1, 900), max_size=12).map(sorted), "minutes ago")
    minutes = [NOW_NS // NS - 60 * ago for ago in reversed(opens)]

    def serve(path: str, query: dict[str, str]) -> Any:
        if path == "/time":
            return {"epoch": NOW_NS / NS}
        start_s, end_s = (int(_at(query[word]).timestamp()) for word in ("start", "end"))
        assert (end_s - start_s) // 60 + 1 <= CANDLES_MAX
        return [[s, 1, 4, 2, 3, 0.5] for s in minutes if start_s <= s <= end_s][::-1]

    bounds = st.integers(0, 1_000).map(lambda ago: NOW_NS - ago * MINUTE_NS // 2)
    start_ns = data.draw(bounds, "start")
    end_ns = data.draw(st.none() | bounds, "end")
    if end_ns is not None and end_ns <= start_ns:
        start_ns, end_ns = end_ns, start_ns + 1
    limit = data.draw(st.none() | st.integers(1, 8), "limit")
    newest = data.draw(st.booleans(), "newest")
    ask = Ask(
        query=Query.CANDLES,
        symbol="BTC-USD",
        interval_s=60,
        start_ns=start_ns,
        end_ns=end_ns,
        limit=limit,
        newest=newest,
    )
    told_pages = walked(ask, serve)
    found = sorted(e.open_ns for page in told_pages for e in page.events if isinstance(e, Candle))
    truth = [s * NS for s in minutes if start_ns <= s * NS and (end_ns is None or s * NS < end_ns)]
    wanted = truth if limit is None else truth[max(len(truth) - limit, 0) :] if newest else truth[:limit]
    assert found == wanted
    for page in told_pages:
        if page.start_ns is not None and page.end_ns is not None:
            assert {s * NS for s in minutes if page.start_ns <= s * NS < page.end_ns} <= set(found)


# Stamps


def test_stamps_are_exact_and_whole() -> None:
    assert ns_of(_at("2021-04-17T16:43:37.089723Z")) == MATCH_NS
    assert ns_of(_at("2021-04-17T18:43:37.089723+02:00")) == MATCH_NS
    assert stamp_of(MATCH_NS) == "2021-04-17T16:43:37Z"
    with pytest.raises(ValueError, match="before 1970"):
        ns_of(_at("1970-01-01T00:00:00Z"))


# Recorded


def frames(recordings: Path) -> Iterator[bytes]:
    return frames_of(recordings / "frames" / "COINBASE.ws.28.0.gz")


def recorded(recordings: Path) -> Coinbase:
    venue = Coinbase()
    with gzip.open(recordings / "frames" / "COINBASE.0.gz", "rt") as lines:
        _, _, rest = next(iter(lines)).rstrip("\n").partition(" -> ")
    page = venue.page(Ask(query=Query.INSTRUMENTS), told(rest.partition(": ")[2].encode()))
    assert page.unread == 0
    venue.learn(page.instruments)
    return venue


def test_a_recorded_session_is_read_whole(recordings: Path) -> None:
    venue = recorded(recordings)
    said = [one(venue.decode(each, NOW_NS)) for each in frames(recordings)]
    assert Counter(type(each) for each in said) == {Skipped: 9_729, Trade: 107, Quote: 107, Subscribed: 3}
    assert Counter(each.name for each in said if isinstance(each, Skipped)) == {"l2update": 9_719, "snapshot": 10}


def test_recorded_ids_have_no_holes_and_fills_of_one_order_are_on_one_side(recordings: Path) -> None:
    venue = recorded(recordings)
    assert venue.limits.trade_ids == "one"
    ids: dict[str, list[int | str]] = defaultdict(list)
    prices: dict[str, list[Trade]] = defaultdict(list)
    for raw in frames(recordings):
        event = one(venue.decode(raw, NOW_NS))
        if isinstance(event, Trade):
            ids[event.instrument].append(event.id)
            prices[json.loads(raw)["taker_order_id"]].append(event)
    assert all(seen == [*range(int(seen[0]), int(seen[0]) + len(seen))] for seen in ids.values())
    assert sum(map(len, ids.values())) == 107
    walks = [fills for fills in prices.values() if len({trade.price for trade in fills}) > 1]
    # A buyer takes the cheapest first, so an order that walks the book shows whose side `side` is.
    for fills in walks:
        up = fills[-1].price > fills[0].price
        assert {trade.side for trade in fills} == {Side.BUY if up else Side.SELL}
    assert len(walks) >= 5


def test_a_recorded_session_is_replayed(recordings: Path) -> None:
    files = [recordings / "frames" / name for name in ("COINBASE.0.gz", "COINBASE.ws.28.0.gz")]
    replay = Replay(files, ManualClock(), venue="coinbase")
    trades = [event for event in replay if isinstance(event, Trade)]
    assert len(trades) == 107
    assert replay.summary.unreadable == 0
