"""What Kraken's frames and answers become; each trap with a frame that shows it."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry import errors
from openoutcry.clock import ManualClock
from openoutcry.events import NS, Candle, Quote, Side, Trade
from openoutcry.feed.replay import Replay
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues import VENUES
from openoutcry.venues.kraken import Kraken
from openoutcry.venues.kraken_history import CANDLES_MAX, TRADES_MAX
from openoutcry.venues.stamps import ns_of
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
from tests.venues.pages import (
    BURSTS,
    DAY_NS,
    LIMITS,
    PLACES,
    Bursts,
    Rows,
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

MINUTE_NS = 60 * NS
NOW_NS = 1_795_183_260 * NS  # 2026-11-20 14:01:00 UTC, a full minute
LISTED = {
    "XXBTZUSD": {
        "altname": "XBTUSD",
        "wsname": "XBT/USD",
        "pair_decimals": 1,
        "lot_decimals": 8,
        "tick_size": "0.5",
        "status": "online",
    },
    # As it was in 2021.
    "XDGUSD": {"altname": "XDGUSD", "wsname": "XDG/USD", "pair_decimals": 7, "lot_decimals": 8},
    "XETHXXBT": {
        "altname": "ETHXBT",
        "wsname": "ETH/XBT",
        "pair_decimals": 5,
        "lot_decimals": 8,
        "status": "cancel_only",
    },
    "XXBTZUSD.d": {"altname": "XBTUSD.d", "pair_decimals": 1, "lot_decimals": 8},
}
TRADE = {
    "symbol": "BTC/USD",
    "side": "sell",
    "price": 64003.2,
    "qty": 0.0412,
    "ord_type": "market",
    "trade_id": 4665906,
    "timestamp": "2023-09-25T07:49:37.708706Z",
}
CANDLE = {
    "symbol": "BTC/USD",
    "open": 64000.5,
    "high": 64010,
    "low": 63990.5,
    "close": 64001,
    "trades": 13,
    "volume": 2.5,
    "vwap": 64000.25,
    "interval_begin": "2023-10-04T16:25:00.000000000Z",
    "interval": 1,
    "timestamp": "2023-10-04T16:26:00.000000Z",
}
TICKER = {
    "symbol": "DOGE/USD",
    "bid": 0.10025,
    "bid_qty": 740.0,
    "ask": 0.10036,
    "ask_qty": 1361.44813783,
    "last": 0.10035,
    "timestamp": "2026-11-20T14:00:59.500000Z",
}
PAST = [
    ["30243.40000", "0.34507674", 1688669597.8277369, "b", "m", "", 61044952],
    ["30243.30000", "0.00376960", 1688669598.2804112, "s", "l", "", 61044953],
]


def push(channel: str, *rows: Any, kind: str = "update") -> bytes:
    return json.dumps({"channel": channel, "type": kind, "data": rows}, separators=(",", ":")).encode()


def told(result: Any, status: int = 200, **headers: str) -> Answer:
    return raw(json.dumps({"error": [], "result": result}).encode(), status, **headers)


def raw(body: bytes, status: int = 200, **headers: str) -> Answer:
    return answer_of(body, NOW_NS, status, **headers)


def taught() -> Kraken:
    venue = Kraken()
    venue.learn(venue.page(Ask(query=Query.INSTRUMENTS), told(LISTED)).instruments)
    return venue


@pytest.fixture
def kraken() -> Kraken:
    return taught()


def _at_ns(text: str) -> int:
    return ns_of(datetime.fromisoformat(text))


def walked(ask: Ask, serve: Serve) -> list[Page]:
    """`serve` gives the result."""
    return list(walk(taught(), ask, lambda path, query: told(serve(path, query)), pages_max=300))


def test_the_venue_is_in_the_table() -> None:
    assert VENUES["kraken"] is Kraken


# Frames


def test_trades_of_a_frame_in_their_order(kraken: Kraken) -> None:
    bought = {**TRADE, "side": "buy", "trade_id": 4665907, "symbol": "DOGE/USD", "price": 1e-05}
    for kind in ("update", "snapshot"):
        assert kraken.decode(push("trade", TRADE, bought, {**TRADE, "symbol": "FOO/USD"}, kind=kind), NOW_NS) == [
            Trade(
                "kraken:BTC/USD", 1_695_628_177_708_706_000, NOW_NS, 4_665_906, 4_665_906, Side.SELL,
                Decimal("64003.2"), Decimal("0.0412"),
            ),
            Trade(
                "kraken:DOGE/USD", 1_695_628_177_708_706_000, NOW_NS, 4_665_907, 4_665_907, Side.BUY,
                Decimal("0.00001"), Decimal("0.0412"),
            ),
            Skipped("unknown_instrument", "FOO/USD"),
        ]  # fmt: skip


def test_a_candle_closes_when_the_next_one_opens(kraken: Kraken) -> None:
    open_ns = _at_ns("2023-10-04T16:25:00Z")
    growing = Candle(
        "kraken:BTC/USD", Side.BOTH, 60, open_ns, Decimal("64000.5"), Decimal(64_010), Decimal("63990.5"),
        Decimal(64_001), Decimal("2.5"), Decimal("160000.62500000"), 13, None, None, closed=False,
        received_ns=NOW_NS, origin="venue",
    )  # fmt: skip
    assert kraken.decode(push("ohlc", CANDLE), NOW_NS) == [growing]
    following = {**CANDLE, "interval_begin": "2023-10-04T16:27:00.000000000Z"}
    closed, fresh = kraken.decode(push("ohlc", following), NOW_NS + 1)
    assert isinstance(closed, Candle)
    assert isinstance(fresh, Candle)
    assert (closed.open_ns, closed.closed, closed.close) == (open_ns, True, growing.close)
    assert (fresh.open_ns, fresh.closed) == (open_ns + 2 * MINUTE_NS, False)
    # An older one again corrects what was closed.
    late = one(kraken.decode(push("ohlc", {**CANDLE, "volume": 3}), NOW_NS + 2))
    assert isinstance(late, Candle)
    assert (late.open_ns, late.closed, late.volume) == (open_ns, True, Decimal(3))


def test_a_candle_that_grew_on_another_connection_is_not_closed(kraken: Kraken) -> None:
    kraken.decode(push("ohlc", CANDLE), NOW_NS)
    kraken.reset("ws")
    fresh = one(kraken.decode(push("ohlc", {**CANDLE, "interval_begin": "2023-10-04T16:27:00Z"}), NOW_NS))
    assert isinstance(fresh, Candle)
    assert not fresh.closed


def test_a_candle_of_another_interval_or_pair_is_skipped(kraken: Kraken) -> None:
    rows = {**CANDLE, "interval": 5}, {**CANDLE, "symbol": "FOO/USD"}
    assert kraken.decode(push("ohlc", *rows), NOW_NS) == [
        Skipped("interval", "5"),
        Skipped("unknown_instrument", "FOO/USD"),
    ]


def test_a_ticker_tells_the_best_of_both_sides(kraken: Kraken) -> None:
    at_ns = _at_ns("2026-11-20T14:00:59.500Z")
    bid, ask = (Decimal("0.10025"), Decimal("740.0")), (Decimal("0.10036"), Decimal("1361.44813783"))
    assert one(kraken.decode(push("ticker", TICKER), NOW_NS)) == Quote("kraken:DOGE/USD", at_ns, NOW_NS, *bid, *ask)
    # Old ones tell no time, and an empty side is none.
    old = {**{key: value for key, value in TICKER.items() if key != "timestamp"}, "bid": 0, "bid_qty": 0}
    assert one(kraken.decode(push("ticker", old), NOW_NS)) == Quote("kraken:DOGE/USD", NOW_NS, NOW_NS, None, None, *ask)
    assert one(kraken.decode(push("ticker", {**TICKER, "symbol": "FOO/USD"}), NOW_NS)) == Skipped(
        "unknown_instrument", "FOO/USD"
    )


@pytest.mark.parametrize(
    ("said", "signal"),
    [
        ({"channel": "heartbeat"}, Alive()),
        ({"channel": "status", "type": "update", "data": [{"system": "online", "api_version": "v2"}]}, Alive()),
        ({"method": "pong", "req_id": 0, "time_in": "2026-11-20T14:00:00Z"}, Alive()),
        ({"method": "unsubscribe", "result": {"channel": "trade", "symbol": "BTC/USD"}, "success": True}, Alive()),
        ({"method": "unsubscribe", "error": "Subscription Not Found", "success": False}, Alive()),
        (
            {"method": "subscribe", "req_id": 1, "result": {"channel": "trade", "symbol": "BTC/USD"}, "success": True},
            Subscribed(("trade:BTC/USD",)),
        ),
        (
            {"method": "subscribe", "req_id": 2, "error": "Currency pair not supported FOO/BAR", "success": False,
             "symbol": "FOO/BAR"},
            Refused("ohlc:FOO/BAR", "Currency pair not supported FOO/BAR"),
        ),
        ({"method": "subscribe", "error": "Malformed", "success": False}, Refused(None, "Malformed")),
        ({"channel": "book", "type": "snapshot", "data": []}, Skipped("unknown_channel", "book")),
        # What v1 says beside its arrays.
        ({"event": "heartbeat"}, Alive()),
        ({"channelID": 993, "channelName": "trade", "event": "subscriptionStatus", "status": "subscribed"}, Alive()),
    ],
)  # fmt: skip
def test_signals(kraken: Kraken, said: dict[str, Any], signal: Signal) -> None:
    assert one(kraken.decode(json.dumps(said).encode(), NOW_NS)) == signal


@pytest.mark.parametrize(
    ("channel", "row", "changes"),
    [
        ("trade", TRADE, {"price": "NaN"}),
        ("trade", TRADE, {"price": 0}),
        ("trade", TRADE, {"qty": -1}),
        ("trade", TRADE, {"side": "b"}),
        ("trade", TRADE, {"trade_id": 1.5}),
        ("trade", TRADE, {"trade_id": 2**64}),
        ("trade", TRADE, {"timestamp": "2023-09-25T07:49:37"}),
        ("trade", TRADE, {"timestamp": "1969-01-01T00:00:00Z"}),
        ("trade", TRADE, {"symbol": ""}),
        ("ohlc", CANDLE, {"low": 64_500}),
        ("ohlc", CANDLE, {"volume": -1}),
        ("ohlc", CANDLE, {"vwap": "sNaN"}),
        ("ohlc", CANDLE, {"interval_begin": "2023-10-04T16:25:30Z"}),
        ("ticker", TICKER, {"bid": -1}),
        ("ticker", TICKER, {"ask_qty": "Infinity"}),
    ],
)
def test_what_cannot_be_is_unreadable(
    kraken: Kraken, channel: str, row: dict[str, Any], changes: dict[str, Any]
) -> None:
    with pytest.raises(errors.Unreadable):
        kraken.decode(push(channel, {**row, **changes}), NOW_NS)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"", b"\xff", b"null", b"{}", b"[]", b"[7]", b'[1,[],"trade",7]', b'[1,7,"trade","XBT/USD"]', b'{"channel":7}',
        b'{"channel":"trade"}', b"[" * 100_000, b'{"data":' * 100_000,
        b'[1,[["0","1","1534614057.3","s","l",""]],"trade","XBT/USD"]',
        b'[1,[["1","1","NaN","s","l",""]],"trade","XBT/USD"]',
        b'[1,[["1","1","1e30","s","l",""]],"trade","XBT/USD"]',
        b'[1,{"a":["-1",1,"1"],"b":["1",1,"1"]},"ticker","XBT/USD"]',
    ],
)  # fmt: skip
def test_rubbish_is_unreadable(kraken: Kraken, rubbish: bytes) -> None:
    with pytest.raises(errors.Unreadable):
        kraken.decode(rubbish, NOW_NS)


OLD_TRADES = b'[337,[["5541.2","0.1","1534614057.321597","s","l",""],["5541.2","0.1","1534614057.321597","s","l",""]],"trade","XBT/USD"]'
OLD_TICKER = b'[340,{"a":["5525.4",1,"1.5"],"b":["5525.1",1,"2.5"],"c":["5525.1","0.1"]},"ticker","XDG/USD"]'


def test_trades_of_v1_have_no_id_and_two_alike_are_two(kraken: Kraken) -> None:
    first, second = kraken.decode(OLD_TRADES, NOW_NS)
    assert first == Trade(
        "kraken:BTC/USD", 1_534_614_057_321_597_000, NOW_NS, "1534614057.321597-s-5541.2-0.1-1", 0, Side.SELL,
        Decimal("5541.2"), Decimal("0.1"),
    )  # fmt: skip
    assert isinstance(second, Trade)
    assert second.id == "1534614057.321597-s-5541.2-0.1-2"
    assert kraken.decode(OLD_TICKER, NOW_NS) == (
        Quote("kraken:DOGE/USD", NOW_NS, NOW_NS, Decimal("5525.1"), Decimal("2.5"), Decimal("5525.4"), Decimal("1.5")),
    )
    assert kraken.decode(b'[1,{},"book-10","XBT/USD"]', NOW_NS) == (Skipped("unknown_channel", "book-10"),)
    assert kraken.decode(b'[1,[],"trade","FOO/XBT"]', NOW_NS) == (Skipped("unknown_instrument", "FOO/BTC"),)


@given(
    data=st.data(),
    which=st.sampled_from([push("trade", TRADE), push("ohlc", CANDLE), push("ticker", TICKER), OLD_TRADES, OLD_TICKER]),
)
@settings(max_examples=400)
def test_a_frame_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_frame: SpoilFrame, data: st.DataObject, which: bytes
) -> None:
    spoil_frame(taught(), which, data)


# Streams


def test_what_is_subscribed(kraken: Kraken) -> None:
    streams = [
        *kraken.streams(Feed.TRADES, ["BTC/USD", "DOGE/USD"]),
        *kraken.streams(Feed.CANDLES, ["BTC/USD"]),
        *kraken.streams(Feed.QUOTES, ["BTC/USD"]),
    ]
    assert [s.name for s in streams] == ["trade:BTC/USD", "trade:DOGE/USD", "ohlc:BTC/USD", "ticker:BTC/USD"]
    assert kraken.url("wss://x", "ws", streams) == "wss://x"
    assert [json.loads(f) for f in kraken.subscribe(streams)] == [
        {
            "method": "subscribe",
            "params": {"channel": "trade", "symbol": ["BTC/USD", "DOGE/USD"], "snapshot": True},
            "req_id": 1,
        },
        {
            "method": "subscribe",
            "params": {"channel": "ohlc", "symbol": ["BTC/USD"], "interval": 1, "snapshot": False},
            "req_id": 2,
        },
        {
            "method": "subscribe",
            "params": {"channel": "ticker", "symbol": ["BTC/USD"], "event_trigger": "bbo", "snapshot": True},
            "req_id": 3,
        },
    ]
    (undone,) = kraken.subscribe(streams[:1], undo=True)
    assert json.loads(undone)["method"] == "unsubscribe"
    many = kraken.streams(Feed.TRADES, [f"A{n}/USD" for n in range(120)])
    assert [len(json.loads(f)["params"]["symbol"]) for f in kraken.subscribe(many)] == [50, 50, 20]
    for feed, symbols in ((Feed.DEPTH, ["BTC/USD"]), (Feed.TRADES, None)):
        with pytest.raises(errors.Unsupported):
            kraken.streams(feed, symbols)


# Listing


def test_the_listing_says_what_everybody_says_of_bitcoin_and_leaves_dark_pools_out(kraken: Kraken) -> None:
    page = kraken.page(Ask(query=Query.INSTRUMENTS), told({**LISTED, "BAD": {"wsname": "BAD"}}))
    assert page.unread == 1

    def pair(coin: str, quote: str, tick: str, *, trading: bool = True) -> Instrument:
        return Instrument(
            venue="kraken", symbol=f"{coin}/{quote}", kind=Kind.SPOT, coin=coin, quote=quote, settle=quote,
            tick_size=Decimal(tick), lot_size=Decimal("1e-8"), trading=trading,
        )  # fmt: skip

    assert page.instruments == [
        pair("BTC", "USD", "0.5"),
        pair("DOGE", "USD", "1e-7"),
        pair("ETH", "BTC", "0.00001", trading=False),
    ]


def test_an_unlisted_symbol_is_assumed_from_its_spelling(kraken: Kraken) -> None:
    assumed = kraken.assume("ETH/BTC")
    assert assumed is not None
    assert (assumed.coin, assumed.quote, assumed.kind, assumed.name) == ("ETH", "BTC", Kind.SPOT, "kraken:ETH/BTC")
    # The names of v1 and REST are no symbols.
    assert [kraken.assume(symbol) for symbol in ("XBT/USD", "BTCUSD", "A/B/C", "", "/")] == [None] * 5


# Questions


def test_what_is_sent(kraken: Kraken) -> None:
    def sent(**ask: Any) -> tuple[str, dict[str, str]]:
        request = kraken.request(Ask(**ask))
        assert request.pool in kraken.limits.weights
        return request.path.removeprefix("/0/public/"), dict(request.query)

    assert sent(query=Query.TIME) == ("Time", {})
    assert sent(query=Query.INSTRUMENTS) == ("AssetPairs", {})
    candles = {"query": Query.CANDLES, "interval_s": 3_600, "start_ns": NOW_NS}
    assert sent(**candles, symbol="ETH/BTC") == ("OHLC", {"pair": "ETHXBT", "interval": "60"})
    trades = {"query": Query.TRADES, "symbol": "DOGE/USD"}
    assert sent(**trades) == ("Trades", {"pair": "XDGUSD"})
    assert sent(**trades, from_id=7) == ("Trades", {"pair": "XDGUSD"})
    # The moment itself is left out by the venue, and rows say it with fewer digits.
    assert sent(**trades, start_ns=NOW_NS) == ("Trades", {"pair": "XDGUSD", "since": str(NOW_NS - 1_000)})
    assert sent(**trades, start_ns=0, end_ns=NOW_NS) == ("Trades", {"pair": "XDGUSD", "since": "0"})


def test_what_is_not_served(kraken: Kraken) -> None:
    for ask in (
        Ask(query=Query.TICKERS),
        Ask(query=Query.TRADES),
        Ask(query=Query.TRADES, symbol="BTC/USD", from_id="x"),
    ):
        with pytest.raises(errors.Unsupported):
            kraken.request(ask)
    with pytest.raises(errors.BadInterval):
        kraken.request(Ask(query=Query.CANDLES, symbol="BTC/USD", interval_s=604_800, start_ns=NOW_NS))


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b'{"error":["EQuery:Unknown asset pair"]}', errors.UnknownInstrument),
        (200, b'{"error":["EGeneral:Too many requests"]}', errors.RateLimited),
        (200, b'{"error":["EAPI:Rate limit exceeded"]}', errors.RateLimited),
        (429, b"slow down", errors.RateLimited),
        (200, b'{"error":["EService:Unavailable"]}', errors.Unavailable),
        (520, b"<html>", errors.Unavailable),
        (200, b"<html>", errors.Unreadable),
        (200, b'{"error":[],"result":{}}', errors.Unreadable),
        (200, b'{"error":[],"result":{"A":[],"B":[],"last":"1"}}', errors.Unreadable),
        (200, b'{"error":[],"result":{"A":[["1","1",NaN]],"last":"1"}}', errors.Unreadable),
        (200, b'{"error":[],"result":{"A":[["1","0",1688669597.5,"b","m","",7]],"last":"1"}}', errors.Unreadable),
        (200, b'{"error":[],"result":{"A":[["1","1","1e30","b","m","",7]],"last":"1"}}', errors.Unreadable),
        (200, b"[" * 100_000, errors.Unreadable),
    ],
)
def test_what_a_bad_answer_means(kraken: Kraken, status: int, body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        kraken.page(Ask(query=Query.TRADES, symbol="BTC/USD"), raw(body, status))
    assert "http" not in str(caught.value)


def test_a_warning_beside_a_result_is_no_refusal(kraken: Kraken) -> None:
    body = json.dumps({"error": ["WQuery:Odd"], "result": {"XXBTZUSD": PAST, "last": "1688669598280411200"}})
    assert len(kraken.page(Ask(query=Query.TRADES, symbol="BTC/USD"), raw(body.encode())).events) == 2


def test_past_trades(kraken: Kraken) -> None:
    start_ns = 1_688_669_597 * NS
    ask = Ask(query=Query.TRADES, symbol="BTC/USD", start_ns=start_ns)
    page = kraken.page(ask, told({"XXBTZUSD": PAST, "last": "1688669598280411234"}))
    assert page.events == [
        Trade(
            "kraken:BTC/USD", 1_688_669_597_827_736_900, NOW_NS, 61_044_952, 61_044_952, Side.BUY,
            Decimal("30243.40000"), Decimal("0.34507674"),
        ),
        Trade(
            "kraken:BTC/USD", 1_688_669_598_280_411_200, NOW_NS, 61_044_953, 61_044_953, Side.SELL,
            Decimal("30243.30000"), Decimal("0.00376960"),
        ),
    ]  # fmt: skip
    assert (page.start_ns, page.end_ns, page.next) == (start_ns, NOW_NS, None)
    with pytest.raises(errors.UnknownInstrument):
        kraken.page(Ask(query=Query.TRADES, symbol="FOO/USD"), told({"FOOUSD": PAST, "last": "1"}))


def bars(count: int, *, trades: int = 3) -> dict[str, Any]:
    """The newest, the last of which has just begun."""
    newest_s = NOW_NS // NS
    rows = [[newest_s - 60 * n, "2", "4", "1", "3", "2.5", "8", trades if n % 7 else 0] for n in range(count)]
    return {"XXBTZUSD": rows[::-1], "last": newest_s - 60}


def test_candles_without_a_trade_are_left_out_and_what_is_older_is_out_of_reach(kraken: Kraken) -> None:
    def asked(minutes: int, count: int = CANDLES_MAX, **more: Any) -> Page:
        ask = Ask(query=Query.CANDLES, symbol="BTC/USD", interval_s=60, start_ns=NOW_NS - minutes * MINUTE_NS, **more)
        return kraken.page(ask, told(bars(count)))

    page = asked(10)
    opens = [(NOW_NS - e.open_ns) // MINUTE_NS for e in page.events if isinstance(e, Candle)]
    assert opens == [10, 9, 8, 6, 5, 4, 3, 2, 1]
    # The minute that ended just now may still change.
    assert [e.closed for e in page.events if isinstance(e, Candle)] == [True] * 8 + [False]
    assert (page.start_ns, page.end_ns) == (NOW_NS - 10 * MINUTE_NS, NOW_NS - MINUTE_NS)
    assert page.events[0] == Candle(
        "kraken:BTC/USD", Side.BOTH, 60, NOW_NS - 10 * MINUTE_NS, Decimal(2), Decimal(4), Decimal(1), Decimal(3),
        Decimal(8), Decimal("20.00000000"), 3, None, None, closed=True, received_ns=NOW_NS, origin="venue",
    )  # fmt: skip
    assert asked(2_000).start_ns == NOW_NS - 719 * MINUTE_NS
    # All there ever were: nothing is out of reach.
    assert asked(2_000, 700).start_ns == NOW_NS - 2_000 * MINUTE_NS
    for bounds in ({"end_ns": NOW_NS - 719 * MINUTE_NS}, {"limit": 5}):
        with pytest.raises(errors.OutOfReach):
            asked(2_000, **bounds)
    newest = asked(2_000, limit=5, newest=True)
    assert [(NOW_NS - e.open_ns) // MINUTE_NS for e in newest.events if isinstance(e, Candle)] == [5, 4, 3, 2, 1]
    assert newest.start_ns == NOW_NS - 5 * MINUTE_NS
    first = asked(10, limit=2)
    assert [(NOW_NS - e.open_ns) // MINUTE_NS for e in first.events if isinstance(e, Candle)] == [10, 9]
    assert first.end_ns == NOW_NS - 8 * MINUTE_NS


RESULTS: dict[Query, Any] = {
    Query.TRADES: {"XXBTZUSD": PAST, "last": "1688669598280411234"},
    Query.CANDLES: bars(2),
    Query.INSTRUMENTS: LISTED,
}


@given(data=st.data(), query=st.sampled_from(sorted(RESULTS)))
@settings(max_examples=300)
def test_an_answer_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_answer: SpoilAnswer, data: st.DataObject, query: Query
) -> None:
    ask = Ask(query=query, symbol="BTC/USD", interval_s=60, start_ns=NOW_NS - 9 * MINUTE_NS)
    spoil_answer(taught(), ask, told(RESULTS[query]), data)


# Pages

MOMENT_NS = 12_345


def rounded(at_ns: int) -> int:
    """As rows tell a moment."""
    return (at_ns + 50) // 100 * 100


def serve_trades(rows: Rows) -> Serve:
    """As documented: a thousand after `since`, or the newest; rows round their moment, `last` does not."""

    def serve(path: str, query: dict[str, str]) -> Any:
        assert (path, query["pair"]) == ("/0/public/Trades", "XBTUSD")
        since_ns = int(query.get("since", -1))
        found = rows[-TRADES_MAX:] if since_ns < 0 else [row for row in rows if row[1] > since_ns][:TRADES_MAX]
        told_rows = [["1", "2", rounded(at_ns) / NS, "b", "m", "", number] for number, at_ns in found]
        for row, (_, at_ns) in zip(told_rows, found, strict=True):
            row[2] = f"{rounded(at_ns) // NS}.{rounded(at_ns) % NS // 100:07d}"
        return {"XXBTZUSD": told_rows, "last": str(found[-1][1] if found else max(since_ns, 0))}

    return serve


@given(bursts=BURSTS, start=PLACES, end=PLACES, limit=LIMITS, newest=st.booleans())
@settings(max_examples=100, deadline=None)
def test_trades_asked_by_time_are_those_of_the_time(
    bursts: Bursts, start: int | None, end: int | None, limit: int | None, newest: bool
) -> None:
    rows = history(bursts, NOW_NS, MOMENT_NS)
    said = [(number, rounded(at_ns)) for number, at_ns in rows]
    start_ns, end_ns = moment(said, start, NOW_NS, 1), moment(said, end, NOW_NS, 1)
    if start_ns is not None and end_ns is not None and end_ns <= start_ns:
        start_ns, end_ns = end_ns, start_ns + 1
    ask = Ask(query=Query.TRADES, symbol="BTC/USD", start_ns=start_ns, end_ns=end_ns, limit=limit, newest=newest)
    told_pages = walked(ask, serve_trades(rows))
    truth = [row for row in said if (start_ns or 0) <= row[1] and (end_ns is None or row[1] < end_ns)]
    found = sorted((t.id, t.event_ns) for t in trades_of(told_pages))
    if not (newest or start_ns is None):
        assert found == truth[:limit]
    elif limit is not None or start_ns is not None:
        assert found == (truth if limit is None else truth[max(len(truth) - limit, 0) :])
    else:
        # Without a bound at both ends it is as many as one answer tells.
        assert found == truth[len(truth) - len(found) :]
    holds_promises(told_pages, said, ask, NOW_NS)


@given(bursts=BURSTS.filter(bool), place=st.integers(-1, 101), limit=LIMITS)
@settings(max_examples=60, deadline=None)
def test_trades_asked_by_id_are_those_that_follow(bursts: Bursts, place: int, limit: int | None) -> None:
    rows = history(bursts, NOW_NS, MOMENT_NS)
    from_id = rows[0][0] + len(rows) * place // 100
    ask = Ask(query=Query.TRADES, symbol="BTC/USD", from_id=from_id, limit=limit)
    told_pages = walked(ask, serve_trades(rows))
    assert [t.id for t in trades_of(told_pages)] == [number for number, _ in rows if number > from_id][:limit]
    assert all(page.start_ns is None for page in told_pages)


def test_bursts_are_walked_down_in_few_answers() -> None:
    rows = history([(2_500, 0), (2_500, 0), (1, 199), (2_500, 48), (1, 0)], NOW_NS, MOMENT_NS)
    ask = Ask(query=Query.TRADES, symbol="BTC/USD", start_ns=NOW_NS - DAY_NS, end_ns=NOW_NS, newest=True)
    told_pages = walked(ask, serve_trades(rows))
    assert len(trades_of(told_pages)) == len(rows)
    assert len(told_pages) < 80


def test_a_moment_that_holds_more_than_an_answer_is_left_behind_and_not_promised() -> None:
    at_ns = NOW_NS - 60 * NS
    rows = [(1, at_ns - NS), *((2 + n, at_ns) for n in range(1_500)), (2_000, at_ns + NS)]
    for newest in (False, True):
        ask = Ask(query=Query.TRADES, symbol="BTC/USD", start_ns=at_ns - 9 * NS, end_ns=NOW_NS, newest=newest)
        told_pages = walked(ask, serve_trades(rows))
        ids = [t.id for t in trades_of(told_pages)]
        assert {1, 2, 2_000} <= set(ids)
        assert len(ids) < len(rows)
        spans = [(p.start_ns, p.end_ns) for p in told_pages if p.start_ns is not None and p.end_ns is not None]
        assert spans
        assert not [span for span in spans if span[0] <= at_ns < span[1]]


# Recorded


def recorded(recordings: Path) -> Kraken:
    venue = Kraken()
    with gzip.open(recordings / "frames" / "KRAKEN.0.gz", "rt") as lines:
        _, _, rest = next(iter(lines)).rstrip("\n").partition(" -> ")
    page = venue.page(Ask(query=Query.INSTRUMENTS), raw(rest.partition(": ")[2].encode()))
    assert page.unread == 0
    # 304 pairs, of which 11 are dark pools.
    assert len(page.instruments) == 293
    venue.learn(page.instruments)
    return venue


def frames(number: int, recordings: Path) -> Iterator[bytes]:
    return frames_of(recordings / "frames" / f"KRAKEN.ws.{number}.0.gz")


def test_recorded_sessions_of_v1_are_read_whole(recordings: Path) -> None:
    venue = recorded(recordings)
    said = [event for number in (48, 49) for raw_ in frames(number, recordings) for event in venue.decode(raw_, NOW_NS)]
    assert Counter(type(each) for each in said) == {Alive: 83, Trade: 10, Quote: 18}
    books = {type(event) for raw_ in frames(50, recordings) for event in venue.decode(raw_, NOW_NS)}
    assert books == {Skipped, Alive}
    first = next(each for each in said if isinstance(each, Trade))
    assert first == Trade(
        "kraken:XMR/USD", 1_618_678_142_557_535_000, NOW_NS, "1618678142.557535-s-354.11000000-0.89594024-1", 0,
        Side.SELL, Decimal("354.11000000"), Decimal("0.89594024"),
    )  # fmt: skip


def test_recorded_sessions_are_replayed(recordings: Path) -> None:
    files = [recordings / "frames" / f"KRAKEN.{part}.gz" for part in ("0", "ws.48.0", "ws.49.0")]
    replay = Replay(files, ManualClock(), venue="kraken")
    assert len([event for event in replay if isinstance(event, Trade)]) == 10
    assert replay.summary.unreadable == 0
