"""What Hyperliquid's frames and answers become; each trap with a frame that shows it."""

import gzip
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.errors import (
    BadInterval,
    OutOfReach,
    RateLimited,
    Unavailable,
    UnknownInstrument,
    Unreadable,
    Unsupported,
)
from openoutcry.events import (
    NS,
    Candle,
    DepthSnapshot,
    FundingRate,
    MarkPrice,
    OpenInterest,
    Position,
    Positions,
    PredictedFunding,
    Quote,
    Side,
    Trade,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues import VENUES
from openoutcry.venues.hyperliquid import Hyperliquid
from openoutcry.venues.hyperliquid_history import CANDLES_SERVED, POSITIONS_MAX
from openoutcry.venues.venue import Alive, Answer, Ask, Feed, Page, Query, Refused, Skipped, Subscribed

MINUTE_NS = 60 * NS
HOUR_NS = 3_600 * NS
NOW_NS = 1_737_918_845_000_000_000
NOW_MS = NOW_NS // 1_000_000
MINUTE_MS = NOW_MS - NOW_MS % 60_000
TRADE = {"coin": "BTC", "side": "B", "px": "105056.0", "sz": "0.00219", "time": NOW_MS, "tid": 7, "hash": "0x0"}
CANDLE = {
    "t": MINUTE_MS,
    "T": MINUTE_MS + 59_999,
    "s": "BTC",
    "i": "1m",
    "o": "10",
    "c": "12",
    "h": "13",
    "l": "8",
    "v": "2",
    "n": 3,
}
CONTEXT = {
    "funding": "0.0000125",
    "openInterest": "100.5",
    "markPx": "105000.0",
    "oraclePx": "105001.0",
    "premium": None,
    "midPx": None,
    "impactPxs": None,
}


def frame(channel: str, data: Any) -> bytes:
    return msgspec.json.encode({"channel": channel, "data": data})


def answer(body: Any, status: int = 200, received_ns: int = NOW_NS) -> Answer:
    return Answer(status, {}, msgspec.json.encode(body), received_ns)


def asked(venue: Hyperliquid, ask: Ask) -> Any:
    body = venue.request(ask).body
    assert body is not None
    return msgspec.json.decode(body)


def test_the_venue_is_in_the_table() -> None:
    assert VENUES["hyperliquid"] is Hyperliquid


# Frames


def test_a_trade_of_side_b_was_bought_by_the_aggressor_and_a_was_sold() -> None:
    bought, sold = Hyperliquid().decode(frame("trades", [TRADE, TRADE | {"side": "A", "tid": 8}]), NOW_NS)
    assert bought == Trade("hyperliquid:BTC", NOW_NS, NOW_NS, 7, 0, Side.BUY, Decimal("105056.0"), Decimal("0.00219"))
    assert isinstance(sold, Trade)
    assert sold.side is Side.SELL


def test_trades_of_one_block_are_ordered_by_their_place_because_their_ids_are_hashes() -> None:
    told = Hyperliquid().decode(frame("trades", [TRADE | {"tid": 900}, TRADE | {"tid": 5}, TRADE | {"tid": 70}]), 1)
    assert [(e.id, e.seq) for e in told if isinstance(e, Trade)] == [(900, 0), (5, 1), (70, 2)]


def test_the_first_frame_repeats_old_trades_under_their_old_ids() -> None:
    venue = Hyperliquid()
    (live,) = venue.decode(frame("trades", [TRADE]), NOW_NS)
    venue.reset("ws")
    older, repeated = venue.decode(frame("trades", [TRADE | {"tid": 6}, TRADE]), NOW_NS + 5 * NS)
    assert isinstance(live, Trade)
    assert isinstance(older, Trade)
    assert isinstance(repeated, Trade)
    assert (repeated.id, repeated.event_ns) == (live.id, live.event_ns)
    assert repeated.id != older.id


@pytest.mark.parametrize("coin", ["kPEPE", "PURR/USDC", "@107", "xyz:NVDA"])
def test_names_keep_the_spelling_of_the_venue(coin: str) -> None:
    (told,) = Hyperliquid().decode(frame("trades", [TRADE | {"coin": coin}]), 1)
    assert isinstance(told, Trade)
    assert told.instrument == f"hyperliquid:{coin}"


def test_a_side_of_the_best_quote_may_be_missing() -> None:
    bbo = {"coin": "BTC", "time": NOW_MS, "bbo": [None, {"px": "5", "sz": "2", "n": 1}]}
    assert Hyperliquid().decode(frame("bbo", bbo), 9) == [
        Quote("hyperliquid:BTC", NOW_NS, 9, None, None, Decimal(5), Decimal(2))
    ]


def test_a_book_is_a_whole_snapshot_and_may_have_an_empty_side() -> None:
    book = {
        "coin": "BTC",
        "time": NOW_MS,
        "levels": [[{"px": "5", "sz": "2", "n": 1}, {"px": "4", "sz": "1", "n": 1}], []],
    }
    assert Hyperliquid().decode(frame("l2Book", book), 9) == [
        DepthSnapshot(
            "hyperliquid:BTC", NOW_NS, 9, ((Decimal(5), Decimal(2)), (Decimal(4), Decimal(1))), (), seq=NOW_MS
        )
    ]


def test_a_context_has_no_time_so_the_receive_time_is_its_own_and_funding_falls_on_the_next_hour() -> None:
    told = Hyperliquid().decode(frame("activeAssetCtx", {"coin": "BTC", "ctx": CONTEXT}), NOW_NS)
    hour_ns = NOW_NS - NOW_NS % HOUR_NS + HOUR_NS
    assert told == [
        OpenInterest("hyperliquid:BTC", NOW_NS, NOW_NS, Decimal("100.5"), Decimal("10552500.00")),
        FundingRate("hyperliquid:BTC", NOW_NS, NOW_NS, Decimal("0.0000125"), hour_ns, 3_600, settled=False),
        MarkPrice("hyperliquid:BTC", NOW_NS, NOW_NS, Decimal("105000.0"), Decimal("105001.0")),
    ]


def test_a_dead_book_has_nulls_in_its_context() -> None:
    dead = {"funding": None, "openInterest": "0.0", "markPx": None, "oraclePx": None, "midPx": None}
    assert Hyperliquid().decode(frame("activeAssetCtx", {"coin": "X", "ctx": dead}), 5) == [
        OpenInterest("hyperliquid:X", 5, 5, Decimal("0.0"))
    ]
    nothing = frame("activeAssetCtx", {"coin": "X", "ctx": {"funding": None}})
    assert Hyperliquid().decode(nothing, 5) == [Skipped("empty", "X")]


def test_a_spot_context_tells_the_mark_price_alone() -> None:
    context = {"coin": "@107", "ctx": {"markPx": "22.5", "midPx": None, "circulatingSupply": "1"}}
    assert Hyperliquid().decode(frame("activeSpotAssetCtx", context), 5) == [
        MarkPrice("hyperliquid:@107", 5, 5, Decimal("22.5"))
    ]


def test_a_candle_is_closed_when_the_next_one_opens_because_the_venue_does_not_say() -> None:
    venue = Hyperliquid()
    (growing,) = venue.decode(frame("candle", CANDLE), NOW_NS)
    assert isinstance(growing, Candle)
    assert (growing.closed, growing.volume, growing.trades) == (False, Decimal(2), 3)
    (grown,) = venue.decode(frame("candle", CANDLE | {"v": "3", "n": 4}), NOW_NS + 1)
    assert isinstance(grown, Candle)
    following = CANDLE | {"t": MINUTE_MS + 60_000, "T": MINUTE_MS + 119_999}
    closed, opened = venue.decode(frame("candle", following), NOW_NS + 20 * NS)
    assert closed == msgspec.structs.replace(grown, closed=True, received_ns=NOW_NS + 20 * NS)
    assert isinstance(opened, Candle)
    assert (opened.closed, opened.open_ns) == (False, growing.open_ns + MINUTE_NS)


def test_a_candle_that_comes_late_is_not_closed_by_the_clock() -> None:
    """After a stall of ours the states of a minute come all at once: only the last of them is whole."""
    venue = Hyperliquid()
    for volume in ("2", "3"):
        (stale,) = venue.decode(frame("candle", CANDLE | {"v": volume}), NOW_NS + 2 * MINUTE_NS)
        assert isinstance(stale, Candle)
        assert not stale.closed


def test_a_candle_corrected_after_its_close_is_told_as_closed() -> None:
    venue = Hyperliquid()
    following = CANDLE | {"t": MINUTE_MS + 60_000, "T": MINUTE_MS + 119_999}
    venue.decode(frame("candle", following), NOW_NS)
    (corrected,) = venue.decode(frame("candle", CANDLE | {"v": "9"}), NOW_NS)
    assert isinstance(corrected, Candle)
    assert (corrected.closed, corrected.volume) == (True, Decimal(9))


def test_after_a_reset_the_candle_before_is_not_called_closed() -> None:
    venue = Hyperliquid()
    venue.decode(frame("candle", CANDLE), NOW_NS)
    venue.reset("ws")
    following = CANDLE | {"t": MINUTE_MS + 60_000, "T": MINUTE_MS + 119_999}
    assert len(venue.decode(frame("candle", following), NOW_NS + 20 * NS)) == 1


def test_candles_of_two_coins_close_by_themselves() -> None:
    venue = Hyperliquid()
    venue.decode(frame("candle", CANDLE), NOW_NS)
    following = CANDLE | {"s": "ETH", "t": MINUTE_MS + 60_000, "T": MINUTE_MS + 119_999}
    assert len(venue.decode(frame("candle", following), NOW_NS + 20 * NS)) == 1


def test_a_weekly_candle_of_this_venue_opens_on_thursday_and_is_left_out() -> None:
    assert Hyperliquid().decode(frame("candle", CANDLE | {"i": "1w"}), NOW_NS) == [Skipped("interval", "1w")]
    assert 604_800 not in Hyperliquid().intervals_s


def test_quote_volume_of_a_candle_is_estimated_from_its_typical_price() -> None:
    (told,) = Hyperliquid().decode(frame("candle", CANDLE), NOW_NS)
    assert isinstance(told, Candle)
    assert told.quote_volume == Decimal("22.00000000")


def test_acknowledgements_name_the_stream_in_the_words_it_was_asked_with() -> None:
    venue = Hyperliquid()
    for feed in sorted(venue.feeds):
        (stream,) = venue.streams(feed, ["xyz:NVDA"])
        (sent,) = venue.subscribe([stream])
        subscription = msgspec.json.decode(sent)["subscription"]
        taken = frame(
            "subscriptionResponse", {"method": "subscribe", "subscription": subscription | {"nSigFigs": None}}
        )
        assert venue.decode(taken, 1) == [Subscribed((stream.name,))]
        (undone,) = venue.subscribe([stream], undo=True)
        assert msgspec.json.decode(undone) == {"method": "unsubscribe", "subscription": subscription}
        given_up = frame("subscriptionResponse", {"method": "unsubscribe", "subscription": subscription})
        assert venue.decode(given_up, 1) == [Alive()]


def test_complaints_of_the_venue_are_told_apart() -> None:
    venue = Hyperliquid()

    def complaint(text: str) -> Any:
        (signal,) = venue.decode(frame("error", text), 1)
        return signal

    assert complaint('Already unsubscribed: {"type":"trades","coin":"BTC"}') == Alive()
    assert complaint('Already subscribed: {"type":"candle","interval":"1m","coin":"UNI"}') == Subscribed(
        ("candle:UNI,1m",)
    )
    assert complaint('Invalid subscription {"type":"trades","coin":"NOPE"}') == Refused(
        "trades:NOPE", "Invalid subscription"
    )
    assert complaint("Cannot subscribe to more than 1000 channels.") == Refused(
        None, "Cannot subscribe to more than 1000 channels."
    )


def test_pong_says_that_the_venue_is_alive_and_other_channels_are_skipped_by_name() -> None:
    assert Hyperliquid().decode(b'{"channel":"pong"}', 1) == [Alive()]
    assert Hyperliquid().decode(frame("allMids", {"mids": {}}), 1) == [Skipped("channel", "allMids")]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"null",
        b"[]",
        b'{"channel":"trades"}',
        b'{"channel":5}',
        b'{"chan":"trades","data":[]}',
        b'{"channel":"trades","data":[{"coin":"BTC\xff"}]}',
        b"[" * 100_000,
        b'{"channel":"trades","x":' + b"[" * 100_000,
        *(
            frame("trades", [TRADE | wrong])
            for wrong in (
                {"px": "NaN"},
                {"px": "sNaN"},
                {"px": "Infinity"},
                {"px": "-1"},
                {"px": "0"},
                {"px": "1e99999999999"},
                {"px": None},
                {"px": "abc"},
                {"sz": "0"},
                {"sz": "-0.1"},
                {"sz": "NaN"},
                {"side": "C"},
                {"time": -1},
                {"time": "now"},
                {"time": 10**18},
                {"tid": "x"},
                {"coin": ""},
                {"coin": "x" * 65},
            )
        ),
        *(
            frame("candle", CANDLE | wrong)
            for wrong in (
                {"h": "7"},
                {"l": "11"},
                {"o": "NaN"},
                {"v": "-1"},
                {"v": "Infinity"},
                {"n": -1},
                {"t": MINUTE_MS + 1},
                {"T": MINUTE_MS},
            )
        ),
        frame("bbo", {"coin": "BTC", "time": NOW_MS, "bbo": [None]}),
        frame("bbo", {"coin": "BTC", "time": NOW_MS, "bbo": [{"px": "0", "sz": "1"}, None]}),
        frame("l2Book", {"coin": "BTC", "time": NOW_MS, "levels": [[{"px": "NaN", "sz": "1"}], []]}),
        frame("l2Book", {"coin": "BTC", "time": NOW_MS, "levels": [[]]}),
        frame("activeAssetCtx", {"coin": "BTC", "ctx": CONTEXT | {"openInterest": "-1"}}),
        frame("activeAssetCtx", {"coin": "BTC", "ctx": CONTEXT | {"openInterest": "NaN"}}),
        frame("activeAssetCtx", {"coin": "BTC", "ctx": CONTEXT | {"markPx": "0"}}),
        frame("activeAssetCtx", {"coin": "BTC", "ctx": CONTEXT | {"oraclePx": "Infinity"}}),
        frame("activeAssetCtx", {"coin": "BTC", "ctx": CONTEXT | {"funding": "NaN"}}),
        frame("activeAssetCtx", {"coin": "BTC", "ctx": CONTEXT | {"funding": "11"}}),
    ],
)
def test_what_cannot_be_read_is_said_with_its_head(bad: bytes) -> None:
    with pytest.raises(Unreadable) as refused:
        Hyperliquid().decode(bad, NOW_NS)
    assert refused.value.head == bad[:200]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["BTC", "B", "1.5", "NaN", "-1", "1m", ""]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*TRADE, *CANDLE, *CONTEXT, "ctx"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.sampled_from(["trades", "candle", "bbo", "l2Book", "activeAssetCtx", "subscriptionResponse", "error", "other"]),
    JSON,
    st.sampled_from([(TRADE, "trades"), (CANDLE, "candle"), ({"coin": "BTC", "ctx": CONTEXT}, "activeAssetCtx")]),
    st.sampled_from([*TRADE, *CANDLE, "ctx"]),
)
def test_no_frame_does_worse_than_unreadable(channel: str, data: Any, shape: tuple[Any, str], key: str) -> None:
    good, own = shape
    spoilt = good | {key: data}
    for bad in (frame(channel, data), frame(own, [spoilt] if own == "trades" else spoilt)):
        try:
            told = Hyperliquid().decode(bad, NOW_NS)
        except Unreadable:
            continue
        for event in told:
            if isinstance(event, Trade):
                assert event.price.is_finite()
                assert event.price > 0
                assert event.size > 0


# Streams


def test_open_interest_funding_and_mark_price_share_one_stream() -> None:
    venue = Hyperliquid()
    names = {venue.streams(f, ["BTC"])[0].name for f in (Feed.OPEN_INTEREST, Feed.FUNDING, Feed.MARK_PRICE)}
    assert names == {"activeAssetCtx:BTC"}


def test_what_has_no_stream_is_refused() -> None:
    venue = Hyperliquid()
    with pytest.raises(Unsupported):
        venue.streams(Feed.LIQUIDATIONS, ["BTC"])
    with pytest.raises(Unsupported):
        venue.streams(Feed.TRADES, None)
    for feed in (Feed.OPEN_INTEREST, Feed.FUNDING):
        with pytest.raises(Unsupported):
            venue.streams(feed, ["@107"])
    (spot,) = venue.streams(Feed.MARK_PRICE, ["PURR/USDC"])
    assert spot.feeds == {Feed.MARK_PRICE}


def test_the_client_speaks_before_the_venue_cuts_a_silent_connection() -> None:
    heartbeat = Hyperliquid().limits.heartbeat
    assert heartbeat is not None
    assert heartbeat.every_s < 60
    assert msgspec.json.decode(heartbeat.frame) == {"method": "ping"}


def test_the_address_is_used_as_it_is_configured() -> None:
    venue = Hyperliquid()
    assert venue.url("ws://127.0.0.1:9/ws", "ws", venue.streams(Feed.TRADES, ["BTC"])) == "ws://127.0.0.1:9/ws"


# Listing

META = {
    "universe": [
        {"name": "BTC", "szDecimals": 5, "maxLeverage": 40},
        {"name": "kPEPE", "szDecimals": 0, "maxLeverage": 10},
        {"name": "OLD", "szDecimals": 1, "maxLeverage": 3, "isDelisted": True},
    ],
    "marginTables": [],
}
SPOT_META = {
    "universe": [
        {"name": "PURR/USDC", "tokens": [1, 0], "index": 0, "isCanonical": True},
        {"name": "@107", "tokens": [150, 0], "index": 107, "isCanonical": False},
        {"name": "@9", "tokens": [999, 0], "index": 9, "isCanonical": False},
    ],
    "tokens": [
        {"name": "USDC", "szDecimals": 8, "weiDecimals": 8, "index": 0},
        {"name": "PURR", "szDecimals": 0, "weiDecimals": 5, "index": 1},
        {"name": "HYPE", "szDecimals": 2, "weiDecimals": 8, "index": 150},
        {"name": "USDH", "szDecimals": 2, "weiDecimals": 8, "index": 360},
    ],
}
ALL_METAS = [META, None, {"universe": [{"name": "xyz:NVDA", "szDecimals": 3}], "collateralToken": 360}]


def test_the_listing_is_perpetuals_then_spot_then_builders() -> None:
    venue, listed = Hyperliquid(), dict[str, Instrument]()
    ask: Ask | None = Ask(query=Query.INSTRUMENTS)
    bodies = {"meta": META, "spotMeta": SPOT_META, "allPerpMetas": ALL_METAS}
    while ask is not None:
        page = venue.page(ask, answer(bodies.pop(asked(venue, ask)["type"])))
        listed |= {instrument.symbol: instrument for instrument in page.instruments}
        ask = page.next
    assert not bodies
    assert list(listed) == ["BTC", "kPEPE", "OLD", "PURR/USDC", "@107", "xyz:NVDA"]
    btc, nvda, hype = listed["BTC"], listed["xyz:NVDA"], listed["@107"]
    assert (btc.kind, btc.coin, btc.settle, btc.tick_size, btc.lot_size) == (
        Kind.PERPETUAL,
        "BTC",
        "USDC",
        Decimal("0.1"),
        Decimal("0.00001"),
    )
    assert (nvda.coin, nvda.settle, nvda.kind) == ("NVDA", "USDH", Kind.PERPETUAL)
    assert (hype.coin, hype.quote, hype.kind, hype.tick_size) == ("HYPE", "USDC", Kind.SPOT, Decimal("0.000001"))
    assert not listed["OLD"].trading
    assert listed["kPEPE"].tick_size == Decimal("0.000001")


def test_a_server_without_a_listing_of_all_builders_is_asked_builder_by_builder() -> None:
    venue, listed = Hyperliquid(), list[str]()
    ask: Ask | None = Ask(query=Query.INSTRUMENTS, cursor="allPerpMetas")
    bodies: dict[str, Any] = {
        "perpDexs": [None, {"name": "xyz", "fullName": "X"}, {"name": "flx", "fullName": "F"}],
        "xyz": {"universe": [{"name": "xyz:NVDA", "szDecimals": 3}]},
        "flx": {"universe": [{"name": "flx:GOLD", "szDecimals": 2}], "collateralToken": 7},
    }
    while ask is not None:
        body = asked(venue, ask)
        told = bodies.get(body.get("dex", body["type"]))
        page = venue.page(ask, answer(told, status=200 if told else 422))
        listed += [i.symbol for i in page.instruments]
        ask = page.next
    assert listed == ["xyz:NVDA", "flx:GOLD"]


def test_the_spelling_of_an_unlisted_symbol_tells_its_kind() -> None:
    venue = Hyperliquid()
    spelt = {symbol: venue.assume(symbol) for symbol in ("BTC", "xyz:NVDA", "PURR/USDC", "@107")}
    told = {symbol: (i.kind, i.coin, i.quote) for symbol, i in spelt.items() if i}
    assert told == {
        "BTC": (Kind.PERPETUAL, "BTC", "USD"),
        "xyz:NVDA": (Kind.PERPETUAL, "NVDA", "USD"),
        "PURR/USDC": (Kind.SPOT, "PURR", "USDC"),
        "@107": (Kind.SPOT, "@107", "USDC"),
    }


# Candles


def rows(first_ms: int, count: int, step_ms: int = 60_000) -> list[dict[str, Any]]:
    return [CANDLE | {"t": first_ms + n * step_ms, "T": first_ms + (n + 1) * step_ms - 1} for n in range(count)]


def test_candles_are_asked_by_their_open_times() -> None:
    ask = Ask(
        query=Query.CANDLES,
        symbol="BTC",
        interval_s=60,
        start_ns=MINUTE_MS * 10**6 - 10 * MINUTE_NS,
        end_ns=MINUTE_MS * 10**6,
    )
    assert asked(Hyperliquid(), ask) == {
        "type": "candleSnapshot",
        "req": {"coin": "BTC", "interval": "1m", "startTime": MINUTE_MS - 600_000, "endTime": MINUTE_MS - 1},
    }
    assert Hyperliquid().request(ask).weight == 20
    page = Hyperliquid().page(ask, answer(rows(MINUTE_MS - 600_000, 11)))
    assert [e.open_ns for e in page.events if isinstance(e, Candle)] == [
        (MINUTE_MS - 600_000 + n * 60_000) * 10**6 for n in range(10)
    ]
    assert (page.start_ns, page.end_ns, page.next) == (ask.start_ns, ask.end_ns, None)


def test_the_newest_candles_end_with_the_growing_one_which_is_not_promised() -> None:
    venue = Hyperliquid()
    ask = Ask(query=Query.CANDLES, symbol="BTC", interval_s=60, newest=True, limit=3)
    # The venue pages by time alone, so the time is asked first.
    assert asked(venue, ask) == {"type": "exchangeStatus"}
    following = venue.page(ask, answer({"time": NOW_MS})).next
    assert following is not None
    assert asked(venue, following)["req"] == {
        "coin": "BTC",
        "interval": "1m",
        "startTime": MINUTE_MS - 120_000,
        "endTime": MINUTE_MS + 59_999,
    }
    page = venue.page(following, answer(rows(MINUTE_MS - 120_000, 3)))
    assert [e.closed for e in page.events if isinstance(e, Candle)] == [True, True, False]
    assert (page.end_ns, page.next) == (MINUTE_MS * 10**6, None)


def test_a_candle_that_ended_this_very_second_may_still_change() -> None:
    ask = Ask(query=Query.CANDLES, symbol="BTC", interval_s=60, newest=True, limit=1, end_ns=MINUTE_MS * 10**6 + 1)
    page = Hyperliquid().page(ask, answer(rows(MINUTE_MS, 1), received_ns=(MINUTE_MS + 61_000) * 10**6))
    assert [e.closed for e in page.events if isinstance(e, Candle)] == [False]
    assert page.end_ns is None or page.end_ns <= MINUTE_MS * 10**6


def test_a_minute_without_a_row_inside_the_answer_is_known_to_be_empty() -> None:
    start_ns = MINUTE_MS * 10**6 - 10 * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol="BTC", interval_s=60, start_ns=start_ns, end_ns=MINUTE_MS * 10**6)
    page = Hyperliquid().page(ask, answer([]))
    assert (page.events, page.start_ns, page.end_ns) == ([], start_ns, MINUTE_MS * 10**6)


def test_only_the_last_candles_are_served_and_older_ones_are_out_of_reach() -> None:
    venue, minute_ns = Hyperliquid(), MINUTE_MS * 10**6
    reach_ns = minute_ns - (CANDLES_SERVED - 1) * MINUTE_NS
    old = Ask(query=Query.CANDLES, symbol="BTC", interval_s=60, start_ns=reach_ns - 10 * MINUTE_NS, end_ns=reach_ns)
    with pytest.raises(OutOfReach):
        venue.page(old, answer([]))
    with pytest.raises(OutOfReach):
        first = msgspec.structs.replace(old, end_ns=minute_ns, limit=5)
        venue.page(first, answer(rows(MINUTE_MS - 60_000, 1)))
    # A question that reaches into what is served gets that part, and no promise for the rest.
    long = msgspec.structs.replace(old, start_ns=reach_ns - 9_000 * MINUTE_NS, end_ns=minute_ns)
    page = venue.page(long, answer([]))
    assert (page.events, page.start_ns) == ((), None)
    assert page.next is not None
    assert page.next.start_ns == reach_ns
    page = venue.page(page.next, answer(rows(reach_ns // 10**6, CANDLES_SERVED - 1)))
    assert (len(page.events), page.start_ns, page.end_ns) == (CANDLES_SERVED - 1, reach_ns, minute_ns)
    assert page.next is None


def test_a_question_of_more_candles_than_a_page_is_paged_by_time() -> None:
    venue, hour_ns = Hyperliquid(), NOW_NS - NOW_NS % HOUR_NS
    reach_ns = hour_ns - (CANDLES_SERVED - 1) * HOUR_NS
    ask = Ask(
        query=Query.CANDLES, symbol="BTC", interval_s=3_600, start_ns=reach_ns - HOUR_NS, end_ns=hour_ns + HOUR_NS
    )
    page = venue.page(ask, answer([]))
    assert page.next is not None
    assert page.next.start_ns == reach_ns + (CANDLES_SERVED - 1) * HOUR_NS
    assert page.start_ns == reach_ns


def test_candles_of_another_coin_or_off_the_grid_are_unreadable() -> None:
    start_ns = MINUTE_MS * 10**6 - 10 * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol="ETH", interval_s=60, start_ns=start_ns, end_ns=MINUTE_MS * 10**6)
    bodies: tuple[Any, ...] = (
        rows(MINUTE_MS - 600_000, 1),
        [CANDLE | {"s": "ETH", "t": MINUTE_MS - 59_999}],
        {"rows": []},
    )
    for bad in bodies:
        with pytest.raises(Unreadable):
            Hyperliquid().page(ask, answer(bad))


def test_intervals_the_venue_lacks_are_refused() -> None:
    for interval_s in (None, 7, 604_800):
        with pytest.raises(BadInterval):
            Hyperliquid().request(Ask(query=Query.CANDLES, symbol="BTC", interval_s=interval_s, start_ns=0, end_ns=NS))


# Funding


def test_the_newest_fundings_start_so_many_hours_back_and_are_paged_forward() -> None:
    """Asking from long ago would give the oldest 500: the venue answers from the start on."""
    venue = Hyperliquid()
    hour_ms = NOW_MS - NOW_MS % 3_600_000
    settled = [hour_ms - n * 3_600_000 + 76 for n in range(2_000)][::-1]
    ask: Ask | None = Ask(query=Query.FUNDING_HISTORY, symbol="BTC", newest=True, limit=800, end_ns=NOW_NS)
    got: list[FundingRate] = []
    pages: list[Page] = []
    while ask is not None:
        body = asked(venue, ask)
        assert (body["type"], body["coin"]) == ("fundingHistory", "BTC")
        served = [t for t in settled if body["startTime"] <= t <= body["endTime"]][:500]
        page = venue.page(
            ask, answer([{"coin": "BTC", "fundingRate": "-0.0001", "premium": "0", "time": t} for t in served])
        )
        got += [e for e in page.events if isinstance(e, FundingRate)]
        pages.append(page)
        ask = page.next
    assert [e.event_ns // 10**6 for e in got] == settled[-800:]
    assert len(pages) == 2
    assert pages[0].end_ns == pages[1].start_ns
    assert pages[1].end_ns == NOW_NS
    assert got[0] == FundingRate(
        "hyperliquid:BTC", got[0].event_ns, NOW_NS, Decimal("-0.0001"), got[0].event_ns, 3_600, settled=True
    )


def test_the_newest_fundings_without_an_end_ask_for_the_time_first() -> None:
    venue = Hyperliquid()
    ask = Ask(query=Query.FUNDING_HISTORY, symbol="BTC", newest=True, limit=10)
    assert asked(venue, ask) == {"type": "exchangeStatus"}
    following = venue.page(ask, answer({"time": NOW_MS})).next
    assert following is not None
    assert asked(venue, following)["startTime"] == NOW_MS - 36_000_000 + 1


def test_the_first_fundings_from_a_start_stop_at_the_limit() -> None:
    start_ms = NOW_MS - 36_000_000
    ask = Ask(query=Query.FUNDING_HISTORY, symbol="BTC", start_ns=start_ms * 10**6, limit=2)
    body = [{"coin": "BTC", "fundingRate": "0.1", "time": start_ms + n * 3_600_000} for n in range(10)]
    page = Hyperliquid().page(ask, answer(body))
    assert (len(page.events), page.next) == (2, None)
    assert page.end_ns == (start_ms + 3_600_001) * 10**6


def test_running_funding_and_open_interest_come_from_the_contexts_of_all() -> None:
    venue = Hyperliquid()
    body = [META, [CONTEXT, CONTEXT | {"openInterest": "5", "markPx": "2"}, {"funding": None}]]
    funding = Ask(query=Query.FUNDING, symbol="BTC")
    assert asked(venue, funding) == {"type": "metaAndAssetCtxs"}
    assert [type(e) for e in venue.page(funding, answer(body)).events] == [FundingRate, MarkPrice]
    interest = Ask(query=Query.OPEN_INTEREST, symbol="kPEPE")
    assert venue.page(interest, answer(body)).events == [
        OpenInterest("hyperliquid:kPEPE", NOW_NS, NOW_NS, Decimal(5), Decimal(10))
    ]
    everything = venue.page(Ask(query=Query.OPEN_INTEREST), answer(body)).events
    assert [e.instrument for e in everything] == ["hyperliquid:BTC", "hyperliquid:kPEPE"]
    builder = Ask(query=Query.FUNDING, symbol="xyz:NVDA")
    assert asked(venue, builder) == {"type": "metaAndAssetCtxs", "dex": "xyz"}
    with pytest.raises(UnknownInstrument):
        venue.page(builder, answer(body))
    with pytest.raises(Unreadable):
        venue.page(funding, answer([META, []]))


def test_predictions_name_venues_and_tell_no_data_from_zero() -> None:
    body = [
        [
            "BTC",
            [
                ["BinPerp", {"fundingRate": "0.0001", "nextFundingTime": NOW_MS, "fundingIntervalHours": 8}],
                ["HlPerp", {"fundingRate": "0.0", "nextFundingTime": NOW_MS}],
                ["BybitPerp", None],
            ],
        ]
    ]
    venue = Hyperliquid()
    assert asked(venue, Ask(query=Query.PREDICTED_FUNDING)) == {"type": "predictedFundings"}
    told = venue.page(Ask(query=Query.PREDICTED_FUNDING), answer(body)).events
    assert told == [
        PredictedFunding("hyperliquid:BTC", "BTC", "BinPerp", NOW_NS, Decimal("0.0001"), NOW_NS, 28_800),
        PredictedFunding("hyperliquid:BTC", "BTC", "HlPerp", NOW_NS, Decimal("0.0"), NOW_NS, 3_600, own=True),
        PredictedFunding("hyperliquid:BTC", "BTC", "BybitPerp", NOW_NS, None, None, None),
    ]


# Positions

HOLDER = "0x" + "aB3" * 13 + "c"


def held(coin: str, size: str, liquidation: str | None) -> dict[str, Any]:
    position = {"coin": coin, "szi": size, "entryPx": "2986.3", "liquidationPx": liquidation, "marginUsed": "4.9"}
    return {"type": "oneWay", "position": position}


def state(*assets: Any, **more: Any) -> dict[str, Any]:
    return {"assetPositions": list(assets), "marginSummary": {"accountValue": "1.0"}, "time": NOW_MS - 5, **more}


def test_positions_of_a_holder_are_signed_and_tell_where_they_would_be_liquidated() -> None:
    venue, ask = Hyperliquid(), Ask(query=Query.POSITIONS, symbol=HOLDER)
    assert asked(venue, ask) == {"type": "clearinghouseState", "user": HOLDER.lower()}
    assert venue.request(ask).weight == 2
    body = state(held("ETH", "0.0335", "2866.26936529"), held("BTC", "-1.5", "130000.0"), held("kPEPE", "7", None))
    assert venue.page(ask, answer(body)) == Page(
        (
            Positions(
                "hyperliquid:*",
                HOLDER.lower(),
                (NOW_MS - 5) * 10**6,
                NOW_NS,
                (
                    Position("hyperliquid:ETH", Decimal("0.0335"), Decimal("2866.26936529")),
                    Position("hyperliquid:BTC", Decimal("-1.5"), Decimal("130000.0")),
                    Position("hyperliquid:kPEPE", Decimal(7), None),
                ),
            ),
        )
    )


def test_a_position_of_nothing_is_none_and_a_price_below_all_liquidates_nothing() -> None:
    body = state(held("ETH", "0.0", "2866.2"), held("BTC", "2", "-17.5"), held("SOL", "2", "0"))
    (told,) = Hyperliquid().page(Ask(query=Query.POSITIONS, symbol=HOLDER), answer(body)).events
    assert isinstance(told, Positions)
    assert told.positions == (
        Position("hyperliquid:BTC", Decimal(2), None),
        Position("hyperliquid:SOL", Decimal(2), None),
    )


@pytest.mark.parametrize("address", [None, "", "0x", HOLDER[:-1], HOLDER + "0", HOLDER[2:], HOLDER + "\n", "BTC"])
def test_a_holder_without_an_address_is_not_asked_for(address: str | None) -> None:
    with pytest.raises(UnknownInstrument):
        Hyperliquid().request(Ask(query=Query.POSITIONS, symbol=address))


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"assetPositions": []},
        state(time="now"),
        state(time=0),
        state(time=NOW_NS),
        state(None),
        state({"type": "oneWay"}),
        state(held("ETH", "NaN", None)),
        state(held("ETH", "sNaN", None)),
        state(held("ETH", "-Infinity", None)),
        state(held("ETH", "1e19", None)),
        state(held("ETH", "1", "NaN")),
        state(held("ETH", "1", "-Infinity")),
        state(held("ETH", "1", "1e19")),
        state(held("", "1", "5")),
        state(held("ETH", "one", "5")),
        state(held("ETH", "1", "5"), held("ETH", "2", "5")),
        state(*[held(f"C{n}", "1", None) for n in range(POSITIONS_MAX + 1)]),
    ],
)
def test_positions_that_cannot_be_believed_are_unreadable_as_a_whole(body: Any) -> None:
    with pytest.raises(Unreadable):
        Hyperliquid().page(Ask(query=Query.POSITIONS, symbol=HOLDER), answer(body))


def test_a_venue_that_is_ill_does_not_mean_that_a_holder_is_unknown() -> None:
    for status, body in ((500, None), (422, "Failed to deserialize"), (502, "")):
        with pytest.raises(Unavailable):
            Hyperliquid().page(Ask(query=Query.POSITIONS, symbol=HOLDER), answer(body, status=status))


@given(JSON, st.sampled_from(["coin", "szi", "liquidationPx", "position", "assetPositions", "time"]))
def test_no_answer_about_positions_does_worse_than_unreadable(data: Any, key: str) -> None:
    good = held("ETH", "1.5", "100")
    match key:
        case "coin" | "szi" | "liquidationPx":
            body = state({"position": good["position"] | {key: data}})
        case "position":
            body = state({"position": data})
        case _:
            body = state(good) | {key: data}
    try:
        (told,) = Hyperliquid().page(Ask(query=Query.POSITIONS, symbol=HOLDER), answer(body)).events
    except Unreadable:
        return
    assert isinstance(told, Positions)
    for each in told.positions:
        assert each.size.is_finite()
        assert each.size
        assert each.liquidation is None or each.liquidation > 0


# Trades


def test_recent_trades_come_newest_first_and_are_turned_with_blocks_in_order() -> None:
    made = [TRADE | {"time": NOW_MS + time, "tid": tid} for time, tid in ((0, 4), (1, 9), (1, 2), (5, 7))]
    page = Hyperliquid().page(Ask(query=Query.TRADES, symbol="BTC"), answer(made[::-1], received_ns=NOW_NS + NS))
    trades = [e for e in page.events if isinstance(e, Trade)]
    assert [t.id for t in trades] == [4, 9, 2, 7]
    assert [t.seq for t in trades] == sorted(t.seq for t in trades)


def test_recent_trades_promise_only_what_lies_after_the_oldest_block_told() -> None:
    made = [TRADE | {"time": NOW_MS - time, "tid": time} for time in (1_000, 3_000, 9_000)]
    venue, got = Hyperliquid(), answer(made)
    mended = Ask(query=Query.TRADES, symbol="BTC", start_ns=NOW_NS - 5 * NS, end_ns=NOW_NS - 2 * NS)
    page = venue.page(mended, got)
    assert [e.id for e in page.events if isinstance(e, Trade)] == [3_000]
    assert (page.start_ns, page.end_ns) == (mended.start_ns, mended.end_ns)
    partly = venue.page(msgspec.structs.replace(mended, start_ns=NOW_NS - 60 * NS), got)
    assert partly.start_ns == (NOW_MS - 9_000 + 1) * 10**6
    with pytest.raises(Unreadable):
        venue.page(msgspec.structs.replace(mended, symbol="ETH"), got)


# Refusals


def test_an_unknown_coin_is_a_server_error_with_the_body_null() -> None:
    venue = Hyperliquid()
    ask = Ask(query=Query.TRADES, symbol="NOPE")
    with pytest.raises(UnknownInstrument):
        venue.page(ask, answer(None, status=500))
    with pytest.raises(Unavailable) as ill:
        venue.page(ask, answer("oops", status=500))
    assert not isinstance(ill.value, RateLimited)
    # A coin that is listed is known: then the venue is ill.
    known = venue.assume("NOPE")
    assert known is not None
    venue.learn([known])
    with pytest.raises(Unavailable):
        venue.page(ask, answer(None, status=500))


def test_too_many_questions_are_answered_with_how_long_to_wait() -> None:
    ask = Ask(query=Query.TRADES, symbol="BTC")
    for told, seconds in ((None, 10.0), ("7", 7.0), ("soon", 10.0), ("9" * 30, 3_600.0)):
        with pytest.raises(RateLimited) as limited:
            Hyperliquid().page(ask, Answer(429, {"retry-after": told} if told else {}, b"null", NOW_NS))
        assert limited.value.retry_s == seconds


def test_what_is_not_told_is_unsupported() -> None:
    venue = Hyperliquid()
    for ask in (
        Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="BTC"),
        Ask(query=Query.TICKERS),
        Ask(query=Query.FUNDING, symbol="@107"),
        Ask(query=Query.FUNDING_HISTORY, symbol="PURR/USDC", start_ns=0),
        Ask(query=Query.TRADES),
    ):
        with pytest.raises(Unsupported):
            venue.request(ask)


def test_answers_that_are_not_json_are_unreadable() -> None:
    for ask in (
        Ask(query=Query.INSTRUMENTS),
        Ask(query=Query.TRADES, symbol="BTC"),
        Ask(query=Query.PREDICTED_FUNDING),
    ):
        for body in (b"<html>", b"null", b"[[", b'[["BTC",[["x",{"fundingRate":"NaN"}]]]]'):
            with pytest.raises(Unreadable):
                Hyperliquid().page(ask, Answer(200, {}, body, NOW_NS))


# Real input


def test_a_real_recording_is_read_whole(recordings: Path) -> None:
    venue, counts, trades = Hyperliquid(), Counter[str](), list[Trade]()
    with gzip.open(recordings / "frames" / "HYPERLIQUID_20250126.gz", "rb") as lines:
        for line in lines:
            received, _, raw = line.partition(b" ")
            for event in venue.decode(raw, int(received)):
                counts[type(event).__name__] += 1
                if isinstance(event, Trade):
                    trades.append(event)
                    assert event.event_ns < event.received_ns
                if isinstance(event, DepthSnapshot):
                    assert (len(event.bids), len(event.asks)) == (20, 20)
                    assert [p for p, _ in event.bids] == sorted((p for p, _ in event.bids), reverse=True)
                    assert [p for p, _ in event.asks] == sorted(p for p, _ in event.asks)
                    assert event.bids[0][0] < event.asks[0][0]
    assert counts == {"DepthSnapshot": 46, "Trade": 64}
    assert len({t.id for t in trades}) == 64
    assert trades[0] == Trade(
        "hyperliquid:BTC",
        1_737_918_794_873_000_000,
        1_737_918_844_167_767_000,
        121_451_470_284_048,
        0,
        Side.BUY,
        Decimal("105056.0"),
        Decimal("0.00219"),
    )
    assert sum((t.size for t in trades if t.side is Side.SELL), Decimal(0)) == Decimal("0.70244")
    assert sum((t.size for t in trades), Decimal(0)) == Decimal("0.92773")
