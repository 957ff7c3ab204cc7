"""Bybit options: frames and answers in the venue's own form, as recorded and as its documentation has them."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry import errors
from openoutcry.events import NS, OpenInterest, Side, Ticker, Trade
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues import VENUES
from openoutcry.venues.bybit import Bybit
from openoutcry.venues.bybit_options import BybitOptions
from openoutcry.venues.venue import Alive, Answer, Ask, Feed, Page, Query, Refused, Skipped, Subscribed, Venue
from tests.venues.pages import Pages, SpoilAnswer, SpoilFrame

MS = 1_000_000
NOW_NS = 1_790_373_960 * NS
RECEIVED_NS = NOW_NS + 3 * NS
CALL, PUT, DOLLARS = "BTC-25JUN27-106000-C-USDT", "ETH-25JUN27-3400-P-USDT", "BTC-25JUN27-106000-C"


def _instrument(symbol: str, tick: str = "5", quote: str = "USDT") -> Instrument:
    return Instrument(
        venue="bybit_options",
        symbol=symbol,
        kind=Kind.OPTION,
        coin=symbol[:3],
        quote=quote,
        settle=quote,
        tick_size=Decimal(tick),
        lot_size=Decimal("0.01"),
        listed_ns=1_789_950_000 * NS,
        expires_ns=1_813_910_400 * NS,
    )


LISTING = (_instrument(CALL), _instrument(PUT, "0.1"))


@pytest.fixture
def bybit() -> BybitOptions:
    venue = BybitOptions()
    venue.learn(LISTING)
    return venue


def _frame(*rows: Any, topic: str = "publicTrade.BTC") -> bytes:
    message = {"topic": topic, "ts": 1790373961392, "type": "snapshot", "id": f"{topic}-76572340339-1790373961392"}
    return json.dumps({**message, "data": list(rows)}, separators=(",", ":")).encode()


def _trade(**changes: Any) -> dict[str, Any]:
    row = {"i": "44f06f5c-3628-5a2d-9a1c-0142ddf5e2ab", "T": 1790373961369, "p": "240", "v": "0.1", "S": "Buy"}
    row |= {"seq": 76572340339, "s": CALL, "BT": False, "mP": "238.7827077", "iP": "83885.18491835"}
    return {**row, "mIv": "0.1389", "iv": "0.14", **changes}


def _answer(result: Any, *, status: int = 200, code: int = 0, text: str = "OK") -> Answer:
    whole = {"retCode": code, "retMsg": text, "result": result, "retExtInfo": {}, "time": NOW_NS // MS}
    body = result if isinstance(result, bytes) else json.dumps(whole).encode()
    return Answer(status, {}, body, RECEIVED_NS)


@pytest.fixture
def answered() -> Callable[[Any], Answer]:
    return _answer


def test_bybit_options_are_registered_and_a_venue() -> None:
    venue: Venue = VENUES["bybit_options"]()
    assert (venue.name, set(venue.sockets)) == ("bybit_options", {"option"})
    assert venue.exchanges == {Kind.OPTION: (Exchange.BYBIT,)}
    assert venue.feeds == {Feed.TRADES}
    assert not venue.intervals_s


# Frames.


def test_a_row_says_whose_trade_it_is_and_a_size_is_coins(bybit: BybitOptions) -> None:
    (trade,) = bybit.decode(_frame(_trade()), 7)
    assert trade == Trade(
        instrument="bybit_options:BTC-25JUN27-106000-C-USDT",
        event_ns=1_790_373_961_369 * MS,
        received_ns=7,
        id="44f06f5c-3628-5a2d-9a1c-0142ddf5e2ab",
        seq=76572340339,
        side=Side.BUY,
        price=Decimal(240),
        size=Decimal("0.1"),
    )


def test_one_frame_carries_trades_of_several_options_in_its_order(bybit: BybitOptions) -> None:
    unlisted = "BTC-26SEP26-83750-C-USDT"
    bybit.learn([*LISTING, _instrument(DOLLARS, quote="USDC")])
    rows = [_trade(), _trade(s=DOLLARS, S="Sell"), _trade(s=unlisted), _trade(BT=True), _trade(i="last")]
    first, second, unknown, block, last = bybit.decode(_frame(*rows), 7)
    assert isinstance(first, Trade)
    assert isinstance(second, Trade)
    assert isinstance(last, Trade)
    assert (second.instrument, second.side) == (f"bybit_options:{DOLLARS}", Side.SELL)
    assert unknown == Skipped("unknown_instrument", unlisted)
    assert block == Skipped("block", f"bybit_options:{CALL}")
    assert [first.id, last.id] == [_trade()["i"], "last"]


def test_a_new_listing_replaces_what_symbols_meant(bybit: BybitOptions) -> None:
    bybit.learn([LISTING[1]])
    assert bybit.decode(_frame(_trade()), 7) == [Skipped("unknown_instrument", CALL)]


def test_one_topic_carries_all_options_on_a_coin(bybit: BybitOptions) -> None:
    streams = bybit.streams(Feed.TRADES, [CALL, PUT, "BTC-25JUN27-90000-P-USDT", "XRP-30OCT26-0.4-P-USDT", "BTCUSDT"])
    assert [(s.name, s.endpoint, s.symbol, s.silence_s) for s in streams] == [
        (f"publicTrade.{coin}", "option", "*", None) for coin in ("BTC", "ETH", "XRP")
    ]
    assert [s.name for s in bybit.streams(Feed.TRADES, None)] == ["publicTrade.BTC", "publicTrade.ETH"]
    (frame,) = bybit.subscribe(streams[:2])
    assert json.loads(frame) == {"op": "subscribe", "args": ["publicTrade.BTC", "publicTrade.ETH"]}
    (undo,) = bybit.subscribe(streams[:1], undo=True)
    assert json.loads(undo) == {"op": "unsubscribe", "args": ["publicTrade.BTC"]}
    for feed in set(Feed) - {Feed.TRADES}:
        with pytest.raises(errors.Unsupported):
            bybit.streams(feed, [CALL])


def _command(taken: list[str], failed: list[str], **more: Any) -> bytes:
    told = {"success": True, "conn_id": "aa01fbff", "data": {"failTopics": failed, "successTopics": taken}}
    return json.dumps({**told, "type": "COMMAND_RESP", **more}).encode()


def test_an_answer_to_a_subscription_names_its_topics(bybit: BybitOptions) -> None:
    assert bybit.decode(_command(["publicTrade.BTC"], []), 7) == [Subscribed(("publicTrade.BTC",))]
    both = bybit.decode(_command(["publicTrade.BTC"], ["publicTrade.NOPE"], ret_msg="no such topic"), 7)
    assert both == [Subscribed(("publicTrade.BTC",)), Refused("publicTrade.NOPE", "no such topic")]
    assert bybit.decode(_command([], ["publicTrade.NOPE"], success=False), 7) == [
        Refused("publicTrade.NOPE", "refused")
    ]
    assert bybit.decode(_command([], [], success=False, ret_msg="args too long"), 7) == [Refused(None, "args too long")]
    assert bybit.decode(_command([], []), 7) == [Subscribed()]
    again = _command([], ["publicTrade.BTC"], success=False, ret_msg="error:already subscribed,topic:publicTrade.BTC")
    assert bybit.decode(again, 7) == [Subscribed(("publicTrade.BTC",))]


def test_an_answer_in_the_form_of_the_other_markets_is_understood(bybit: BybitOptions) -> None:
    said = {"success": True, "ret_msg": "subscribe", "conn_id": "a", "req_id": "", "op": "subscribe"}
    assert bybit.decode(json.dumps(said).encode(), 7) == [Subscribed()]
    refused = {**said, "success": False, "ret_msg": "error:handler not found"}
    assert bybit.decode(json.dumps(refused).encode(), 7) == [Refused(None, "error:handler not found")]


def test_pongs_and_what_was_not_asked_for_say_nothing(bybit: BybitOptions) -> None:
    heartbeat = bybit.limits.heartbeat
    assert heartbeat is not None
    assert heartbeat.frame == b'{"op":"ping"}'
    assert bybit.decode(b'{"args":["1672916271846"],"op":"pong"}', 7) == [Alive()]
    assert bybit.decode(b'{"success":true,"conn_id":"a","op":"unsubscribe"}', 7) == [Alive()]
    assert bybit.decode(_frame({}, topic=f"tickers.{CALL}"), 7) == [Skipped("unknown_topic", "tickers")]


@pytest.mark.parametrize(
    ("symbol", "quote"),
    [(CALL, "USDT"), (DOLLARS, "USDC"), ("XRP-30OCT26-0.4-P-USDT", "USDT"), ("BTC-6JAN23-1-P", "USDC")],
)
def test_the_spelling_tells_an_option_and_that_its_sizes_are_coins(
    bybit: BybitOptions, symbol: str, quote: str
) -> None:
    assumed = bybit.assume(symbol)
    assert assumed is not None
    assert (assumed.kind, assumed.coin, assumed.quote) == (Kind.OPTION, symbol[:3], quote)
    assert (assumed.contract_size, assumed.inverse, assumed.name) == (None, False, f"bybit_options:{symbol}")


@pytest.mark.parametrize("symbol", ["BTCUSDT", "BTC-25JUN27", "BTC-25JUN27-X-C-USDT", "BTC-25JUN27-1-Z", "", "BTC"])
def test_what_is_spelt_otherwise_is_none(bybit: BybitOptions, symbol: str) -> None:
    assert bybit.assume(symbol) is None


@pytest.mark.parametrize(
    "frame",
    [
        *[_frame(_trade(p=price)) for price in ("NaN", "Infinity", "0", "-1", "1e308", "", None, True)],
        *[_frame(_trade(v=size)) for size in ("NaN", "-Infinity", "0", "-3", "1e400")],
        _frame(_trade(T=1790373961369000)),
        _frame(_trade(T="soon")),
        _frame(_trade(S="buy")),
        _frame(_trade(s=5)),
        _frame(_trade(s="unlisted", p="NaN")),
        _frame(_trade(), 5),
        _frame({}),
        b'{"topic":"publicTrade.BTC","data":"x"}',
        b'{"topic":"publicTrade.BTC"}',
        b'{"topic":5}',
        b'{"type":"COMMAND_RESP"}',
        b'{"type":"COMMAND_RESP","success":true,"data":[]}',
        b'{"type":"COMMAND_RESP","success":true,"data":{"successTopics":[5]}}',
        b'{"success":true}',
        b"",
        b"{}",
        b"null",
        b"\xff\xfe",
        b"[" * 1_000,
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_else_happens(bybit: BybitOptions, frame: bytes) -> None:
    with pytest.raises(errors.Unreadable):
        bybit.decode(frame, 7)
    assert isinstance(bybit.decode(_frame(_trade()), 7)[0], Trade)


# REST.


def _listed(symbol: str = CALL, **changes: Any) -> dict[str, Any]:
    row = {"symbolId": 394578, "symbol": symbol, "status": "Trading", "baseCoin": symbol[:3], "quoteCoin": "USDT"}
    row |= {"settleCoin": "USDT", "optionsType": "Call", "launchTime": "1789950000000", "deliveryTime": "1813910400000"}
    row |= {"priceFilter": {"minPrice": "5", "maxPrice": "1110000", "tickSize": "5"}, "displayName": "x"}
    return {**row, "lotSizeFilter": {"maxOrderQty": "500", "minOrderQty": "0.01", "qtyStep": "0.01"}, **changes}


def test_the_listing_is_walked_by_coin_and_cursor_and_one_bad_row_costs_only_itself(
    bybit: BybitOptions, pages: Pages
) -> None:
    asked: list[dict[str, str]] = []
    put = _listed(PUT, priceFilter={"tickSize": "0.1"})

    def serve(path: str, query: dict[str, str]) -> Any:
        assert path == "/v5/market/instruments-info"
        asked.append(query)
        told = {
            ("BTC", None): ([_listed(priceFilter={"tickSize": "NaN"}), 5], "page%3D2"),
            ("BTC", "page%3D2"): ([_listed()], ""),
        }
        rows, cursor = told.get((query["baseCoin"], query.get("cursor")), ([put], ""))
        return {"category": "option", "list": rows, "nextPageCursor": cursor}

    with pytest.raises(errors.Unreadable):
        list(pages(bybit, Ask(query=Query.INSTRUMENTS), lambda *_: {"list": [5]}))
    told = list(pages(bybit, Ask(query=Query.INSTRUMENTS, cursor="BTC|page%3D2"), serve))
    assert tuple(i for page in told for i in page.instruments) == LISTING
    assert asked == [
        {"category": "option", "baseCoin": "BTC", "limit": "1000", "cursor": "page%3D2"},
        {"category": "option", "baseCoin": "ETH", "limit": "1000"},
    ]
    first = bybit.page(
        Ask(query=Query.INSTRUMENTS),
        _answer({"list": [_listed(priceFilter={"tickSize": "NaN"}), 5, _listed()], "nextPageCursor": "page%3D2"}),
    )
    assert (first.unread, first.next) == (2, Ask(query=Query.INSTRUMENTS, cursor="BTC|page%3D2"))


def _ticker(**changes: Any) -> dict[str, Any]:
    row = {"symbol": CALL, "lastPrice": "10", "highPrice24h": "25", "lowPrice24h": "5", "markPrice": "7.86976724"}
    row |= {"underlyingPrice": "16815.1", "openInterest": "49.85", "turnover24h": "446802.8473", "volume24h": "26.55"}
    return {**row, "change24h": "-0.33333334", **changes}


def test_the_interest_of_all_options_on_a_coin_comes_in_one_answer_with_its_price(
    bybit: BybitOptions, pages: Pages
) -> None:
    """Of options the venue does not add up both sides (trap 7 is of its contracts)."""
    asked: list[tuple[str, dict[str, str]]] = []

    def serve(path: str, query: dict[str, str]) -> Any:
        asked.append((path, query))
        rows = [_ticker(), _ticker(symbol=PUT, underlyingPrice="", openInterest="0"), _ticker(symbol="nonsense")]
        return {"category": "option", "list": rows}

    told = [e for page in pages(bybit, Ask(query=Query.OPTION_INTEREST, symbol="BTC"), serve) for e in page.events]
    assert told == [
        OpenInterest(f"bybit_options:{CALL}", NOW_NS, RECEIVED_NS, Decimal("49.85"), price=Decimal("16815.1")),
        OpenInterest(f"bybit_options:{PUT}", NOW_NS, RECEIVED_NS, Decimal(0)),
    ]
    assert asked == [("/v5/market/tickers", {"category": "option", "baseCoin": "BTC"})]


@pytest.mark.parametrize(
    "changes",
    [
        {"openInterest": "NaN"},
        {"openInterest": "-1"},
        {"openInterest": ""},
        {"openInterest": "1e300"},
        {"underlyingPrice": "NaN"},
        {"underlyingPrice": "-1"},
        {"underlyingPrice": []},
    ],
)
def test_one_bad_row_of_interest_costs_only_itself(bybit: BybitOptions, changes: dict[str, Any]) -> None:
    ask = Ask(query=Query.OPTION_INTEREST, symbol="BTC")
    page = bybit.page(ask, _answer({"list": [_ticker(**changes), _ticker(), 5]}))
    assert ([e.size for e in page.events if isinstance(e, OpenInterest)], page.unread) == ([Decimal("49.85")], 2)
    with pytest.raises(errors.Unreadable):
        bybit.page(ask, _answer({"list": [_ticker(**changes)]}))


def test_a_ticker_tells_the_first_price_by_its_change_and_no_turnover_of_premiums(
    bybit: BybitOptions, pages: Pages
) -> None:
    """`turnover24h` is what the coins are worth, and `change24h` has too few digits for the price, but not for its grid."""
    rows = {
        "BTC": [_ticker(), _ticker(lastPrice="0"), _ticker(change24h="-1")],
        "ETH": [_ticker(symbol=PUT, change24h="0.86")],
    }
    told = list(pages(bybit, Ask(query=Query.TICKERS), lambda _, query: {"list": rows[query["baseCoin"]]}))
    assert [e for page in told for e in page.events] == [
        Ticker(
            f"bybit_options:{CALL}",
            NOW_NS,
            RECEIVED_NS,
            Decimal(15),
            Decimal(25),
            Decimal(5),
            Decimal(10),
            Decimal("26.55"),
            Decimal("265.50"),
            0,
        ),
        Ticker(
            f"bybit_options:{PUT}",
            NOW_NS,
            RECEIVED_NS,
            Decimal("5.4"),
            Decimal(25),
            Decimal(5),
            Decimal(10),
            Decimal("26.55"),
            Decimal("265.50"),
            0,
        ),
    ]
    assert [page.unread for page in told] == [1, 0]


def _past(**changes: Any) -> dict[str, Any]:
    row = {"execId": "44f0", "symbol": CALL, "price": "240", "size": "0.1", "side": "Buy", "time": "1790373961369"}
    return {
        **row,
        "isBlockTrade": False,
        "seq": "76572340339",
        "mP": "238.78",
        "iP": "83885.18",
        "iv": "0.14",
        **changes,
    }


# Few moments and many trades at each, so that a page begins and ends inside a millisecond.
ROWS = st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=40)


@settings(deadline=None)
@given(rows=ROWS, start=st.integers(0, 7), end=st.integers(0, 7), kept=st.sampled_from([5, 1_000]))
def test_recent_trades_are_told_whole_as_far_back_as_they_are_known(
    rows: list[tuple[int, bool]], start: int, end: int, kept: int
) -> None:
    """The venue tells the newest ones, newest first, and no more than so many."""
    venue = BybitOptions()
    venue.page_max = {**venue.page_max, Query.TRADES: kept}
    venue.learn(LISTING)
    base_ms = NOW_NS // MS - 10
    made = [
        _past(execId=str(n), time=str(base_ms + ms), isBlockTrade=block) for n, (ms, block) in enumerate(sorted(rows))
    ]
    ask = Ask(
        query=Query.TRADES, symbol=CALL, start_ns=(base_ms + start) * MS, end_ns=(base_ms + max(start, end) + 1) * MS
    )
    assert dict(venue.request(ask).query) == {"category": "option", "symbol": CALL, "limit": str(kept)}
    try:
        page = venue.page(ask, _answer({"category": "option", "list": made[-kept:][::-1]}))
    except errors.OutOfReach:
        assert len(made) >= kept
        return
    assert page.next is None
    low, high = page.start_ns or 0, page.end_ns or 0
    told = [e.id for e in page.events if isinstance(e, Trade) and low <= e.event_ns < high]
    assert told == [r["execId"] for r in made if low <= int(r["time"]) * MS < high and not r["isBlockTrade"]]
    if len(made) < kept:
        assert (low, high) == (ask.start_ns, ask.end_ns)


def test_trades_of_another_option_are_refused(bybit: BybitOptions) -> None:
    with pytest.raises(errors.Unreadable, match="another symbol"):
        bybit.page(Ask(query=Query.TRADES, symbol=CALL, newest=True), _answer({"list": [_past(), _past(symbol=PUT)]}))


def test_refusals_are_said_in_our_words(bybit: BybitOptions) -> None:
    ask = Ask(query=Query.TRADES, symbol=CALL, newest=True)
    with pytest.raises(errors.UnknownInstrument, match="bybit_options does not list"):
        bybit.page(ask, _answer({}, code=10001, text="params error: symbol invalid"))
    with pytest.raises(errors.RateLimited) as ban:
        bybit.page(ask, _answer(b"access too frequent", status=403))
    assert ban.value.banned
    with pytest.raises(errors.Unreadable):
        bybit.page(ask, _answer(b"<html>all is well</html>"))
    for query in (Query.CANDLES, Query.OPEN_INTEREST, Query.FUNDING, Query.POSITIONS):
        with pytest.raises(errors.Unsupported, match="bybit_options"):
            bybit.request(Ask(query=query, symbol=CALL, interval_s=60))
    assert bybit.page(Ask(query=Query.TIME), _answer({"timeSecond": "1688639403"})) == Page(events=())


def test_one_address_has_one_budget_for_all_of_bybit(bybit: BybitOptions) -> None:
    assert bybit.limits == Bybit.limits
    assert bybit.limits.shared_pools == {"weight": "bybit"}


ANSWERS: dict[str, tuple[Ask, Any]] = {
    "listing": (Ask(query=Query.INSTRUMENTS), {"list": [_listed(), _listed(PUT)], "nextPageCursor": ""}),
    "trades": (Ask(query=Query.TRADES, symbol=CALL, newest=True), {"list": [_past(), _past(execId="2")]}),
    "interest": (Ask(query=Query.OPTION_INTEREST, symbol="BTC"), {"list": [_ticker(), _ticker(symbol=PUT)]}),
    "tickers": (Ask(query=Query.TICKERS), {"list": [_ticker(), _ticker(symbol=PUT)]}),
}


@settings(deadline=None)
@given(
    frame=st.sampled_from([_frame(_trade(), _trade(s=PUT)), _command(["publicTrade.BTC"], ["publicTrade.X"])]),
    data=st.data(),
)
def test_a_frame_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_frame: SpoilFrame, frame: bytes, data: st.DataObject
) -> None:
    venue = BybitOptions()
    venue.learn(LISTING)
    spoil_frame(venue, frame, data)


@settings(deadline=None)
@given(which=st.sampled_from(list(ANSWERS)), data=st.data())
def test_an_answer_with_one_wrong_value_is_refused_in_our_words_or_still_makes_sense(
    spoil_answer: SpoilAnswer, which: str, data: st.DataObject
) -> None:
    venue = BybitOptions()
    venue.learn(LISTING)
    ask, said = ANSWERS[which]
    spoil_answer(venue, ask, _answer(said), data)
