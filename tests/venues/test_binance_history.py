"""Binance's REST side, asked the way the feed asks: page after page, of a venue that answers as documented."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from openoutcry.errors import (
    BadInterval,
    OutOfReach,
    RateLimited,
    Unavailable,
    UnknownInstrument,
    Unreadable,
    Unsupported,
)
from openoutcry.events import Candle, DepthSnapshot, Event, FundingRate, OpenInterest, Side, Ticker, Trade
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues import binance_history as history
from openoutcry.venues.binance import BinanceSpot
from openoutcry.venues.binance_delivery import BinanceDelivery
from openoutcry.venues.binance_futures import BinanceFutures
from openoutcry.venues.binance_wire import Question
from openoutcry.venues.venue import Answer, Ask, Page, Query, Request

MS = 1_000_000
NS = 1_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MINUTE_MS = 60_000
# Midnight of 2025-06-02, a Monday.
BASE_MS = 1_748_822_400_000
ENDPOINT = history.Endpoint("binance_futures", "/x", 1, "weight")
CONTRACTS = history.Endpoint("binance_delivery", "/x", 1, "weight", contracts=True)

Row = dict[str, Any]
Venue = Callable[[Mapping[str, str]], Any]


class Refused(Exception):
    """The venue we play refuses."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def ask_all(question: Question, ask: Ask, venue: Venue, now_ms: int) -> list[Page]:
    """Every page of an answer, as a feed would collect them."""
    pages: list[Page] = []
    following: Ask | None = ask
    while following is not None:
        assert len(pages) < 500, "paging never ends"
        request = question.request(following)
        try:
            answer = Answer(200, {}, json.dumps(venue(dict(request.query))).encode(), now_ms * MS)
        except Refused as e:
            answer = Answer(400, {}, json.dumps({"code": e.code, "msg": "no"}).encode(), now_ms * MS)
        page = question.page(following, answer, {})
        assert page.next != following, "the same question again"
        pages.append(page)
        following = page.next
    return pages


def events_of(pages: Sequence[Page], *, backward: bool) -> list[Event]:
    ordered = list(reversed(pages)) if backward else list(pages)
    return [event for page in ordered for event in page.events]


# -- a venue that answers as documented ------------------------------------------------------------------------------


def between(rows: Sequence[Row], key: str, query: Mapping[str, str]) -> list[Row]:
    start, end = int(query.get("startTime", 0)), int(query.get("endTime", 10**15))
    return [row for row in rows if start <= row[key] <= end]


def trades_of(rows: Sequence[Row]) -> Venue:
    def answer(query: Mapping[str, str]) -> Any:
        limit = int(query["limit"])
        if "fromId" in query:
            if "startTime" in query or "endTime" in query:
                raise Refused(-1128)
            return [row for row in rows if row["a"] >= int(query["fromId"])][:limit]
        if "startTime" in query and "endTime" in query:
            if int(query["endTime"]) - int(query["startTime"]) >= HOUR_MS:
                raise Refused(-1127)
            return between(rows, "T", query)[:limit]
        return between(rows, "T", query)[-limit:]

    return answer


def candles_of(rows: Sequence[list[Any]], *, newest_first: bool, days_max: int | None) -> Venue:
    def answer(query: Mapping[str, str]) -> Any:
        limit = int(query["limit"])
        start, end = int(query.get("startTime", 0)), int(query.get("endTime", 10**15))
        if days_max is not None and "startTime" in query and "endTime" in query:
            assert end - start <= days_max * DAY_MS
        found = [row for row in rows if start <= row[0] <= end]
        return found[-limit:] if newest_first or "startTime" not in query else found[:limit]

    return answer


def interests_of(rows: Sequence[Row], now_ms: int, *, last: bool) -> Venue:
    def answer(query: Mapping[str, str]) -> Any:
        if int(query.get("startTime", now_ms)) < now_ms - 30 * DAY_MS:
            raise Refused(-1130)
        found, limit = between(rows, "timestamp", query), int(query["limit"])
        return found[-limit:] if last or "startTime" not in query else found[:limit]

    return answer


def fundings_of(rows: Sequence[Row]) -> Venue:
    def answer(query: Mapping[str, str]) -> Any:
        found, limit = between(rows, "fundingTime", query), int(query["limit"])
        return found[:limit] if "startTime" in query else found[-limit:]

    return answer


# -- trades ----------------------------------------------------------------------------------------------------------


@st.composite
def truths(draw: st.DrawFn) -> list[Row]:
    # A handful of moments spread over five hours, several trades each: pages of two to five rows end inside a
    # millisecond in most examples, and hours without a trade lie between.
    moments = sorted(draw(st.lists(st.integers(0, 20), min_size=0, max_size=8)))
    rows: list[Row] = []
    for moment in moments:
        for _ in range(draw(st.integers(1, 4))):
            number = 100 + len(rows)
            rows.append(
                {
                    "a": number,
                    "p": "10.5",
                    "q": "2",
                    "f": number,
                    "l": number,
                    "T": BASE_MS + moment * 900_000,
                    "m": True,
                }
            )
    return rows


stretches = st.tuples(st.integers(-2, 22), st.integers(-2, 22)).map(sorted).map(tuple)
NOW_MS = BASE_MS + 6 * HOUR_MS


def at_ns(quarter: int) -> int:
    return (BASE_MS + quarter * 900_000) * MS


@given(truths(), stretches, st.integers(2, 5), st.none() | st.integers(1, 12))
def test_trades_by_time_are_those_of_the_stretch(
    rows: list[Row], stretch: tuple[int, int], rows_max: int, limit: int | None
) -> None:
    start_ns, end_ns = at_ns(stretch[0]), at_ns(stretch[1])
    ask = Ask(query=Query.TRADES, symbol="BTCUSDT", start_ns=start_ns, end_ns=end_ns, limit=limit)
    pages = ask_all(history.AggTrades(ENDPOINT, rows_max), ask, trades_of(rows), NOW_MS)
    wanted = [row["a"] for row in rows if start_ns <= row["T"] * MS < end_ns][:limit]
    assert [event.id for event in events_of(pages, backward=False) if isinstance(event, Trade)] == wanted
    promises_hold(pages, [(row["T"] * MS, row["a"]) for row in rows])
    if limit is None:
        assert pages[0].start_ns == start_ns
        assert pages[-1].end_ns == min(end_ns, max(NOW_MS * MS - 2 * NS, start_ns))


def promises_hold(pages: Sequence[Page], truth: Sequence[tuple[int, int]]) -> None:
    """A stretch that a page calls complete holds nothing that was not told up to then."""
    told: set[int] = set()
    for page in pages:
        told |= {event.id for event in page.events if isinstance(event, Trade) and isinstance(event.id, int)}
        if page.start_ns is not None and page.end_ns is not None:
            assert page.start_ns <= page.end_ns
            assert {number for at_ns, number in truth if page.start_ns <= at_ns < page.end_ns} <= told


@given(truths(), st.integers(99, 120), st.integers(-2, 22), st.integers(2, 5))
def test_trades_after_an_id_are_all_that_follow_it(rows: list[Row], after: int, end: int, rows_max: int) -> None:
    ask = Ask(query=Query.TRADES, symbol="BTCUSDT", from_id=after, start_ns=at_ns(0), end_ns=at_ns(end))
    pages = ask_all(history.AggTrades(ENDPOINT, rows_max), ask, trades_of(rows), NOW_MS)
    wanted = [row["a"] for row in rows if row["a"] > after and row["T"] * MS < at_ns(end)]
    assert [event.id for event in events_of(pages, backward=False) if isinstance(event, Trade)] == wanted


@given(truths(), st.none() | st.integers(-2, 22), st.integers(2, 5), st.integers(1, 12))
def test_newest_trades_go_back_by_id(rows: list[Row], end: int | None, rows_max: int, limit: int) -> None:
    end_ns = None if end is None else at_ns(end)
    ask = Ask(query=Query.TRADES, symbol="BTCUSDT", newest=True, end_ns=end_ns, limit=limit)
    pages = ask_all(history.AggTrades(ENDPOINT, rows_max), ask, trades_of(rows), NOW_MS)
    wanted = [row["a"] for row in rows if end_ns is None or row["T"] * MS < end_ns][-limit:]
    assert [event.id for event in events_of(pages, backward=True) if isinstance(event, Trade)] == wanted


def test_trades_since_ever_begin_with_the_first_id() -> None:
    request = BinanceSpot().request(Ask(query=Query.TRADES, symbol="BTCUSDT"))
    assert dict(request.query) == {"symbol": "BTCUSDT", "fromId": "0", "limit": "1000"}


def test_a_trade_window_stays_below_one_hour_and_ends_before_its_end() -> None:
    request = BinanceFutures().request(
        Ask(query=Query.TRADES, symbol="BTCUSDT", start_ns=BASE_MS * MS, end_ns=(BASE_MS + DAY_MS) * MS)
    )
    assert request == Request(
        path="/fapi/v1/aggTrades",
        query=(
            ("symbol", "BTCUSDT"),
            ("startTime", str(BASE_MS)),
            ("endTime", str(BASE_MS + HOUR_MS - 1)),
            ("limit", "1000"),
        ),
        weight=20,
        pool="weight",
    )


def test_what_lies_before_the_listing_is_not_asked_piece_by_piece() -> None:
    venue = BinanceDelivery()
    listed_ms = BASE_MS + 300 * DAY_MS
    venue.learn([replace(contract("ETHUSD_PERP", Decimal(10)), listed_ns=listed_ms * MS)])
    trades = Ask(query=Query.TRADES, symbol="ETHUSD_PERP", start_ns=BASE_MS * MS)
    candles = replace(trades, query=Query.CANDLES, interval_s=60)
    for ask, start_ms in ((trades, listed_ms), (candles, listed_ms - MINUTE_MS)):
        page = venue.page(ask, answer([], now_ms=BASE_MS + 400 * DAY_MS))
        assert page.next == replace(ask, start_ns=start_ms * MS)
        assert (page.start_ns, page.end_ns) == (BASE_MS * MS, start_ms * MS)
    # The listing lies beyond what was asked.
    page = venue.page(replace(candles, end_ns=(BASE_MS + DAY_MS) * MS), answer([], now_ms=BASE_MS + 400 * DAY_MS))
    assert page.next is None


def test_a_void_aggregate_is_left_out_and_costs_its_neighbours_nothing() -> None:
    void = {"a": 2, "p": "0.00000000", "q": "0.00000000", "f": -1, "l": -1, "T": BASE_MS, "m": True, "M": True}
    trade = {"a": 3, "p": "1.5", "q": "2", "f": 7, "l": 9, "T": BASE_MS, "m": False, "M": True}
    page = BinanceSpot().page(Ask(query=Query.TRADES, symbol="BTCUSDT", from_id=1), answer([void, trade]))
    assert [(event.id, event.count, event.side) for event in page.events if isinstance(event, Trade)] == [
        (3, 3, Side.BUY)
    ]


# -- candles ---------------------------------------------------------------------------------------------------------


def candle_row(open_ms: int, interval_ms: int = MINUTE_MS) -> list[Any]:
    return [
        open_ms, "10.0", "12.0", "9.0", "11.0", "5", open_ms + interval_ms - 1, "52.5", 7, "2", "21.0", "0",
    ]  # fmt: skip


minutes = st.integers(-5, 40)


@given(
    st.lists(st.integers(0, 30), unique=True).map(sorted),
    st.tuples(minutes, minutes).map(sorted).map(tuple),
    st.integers(1, 6),
    st.none() | st.integers(1, 12),
    st.booleans(),
    st.booleans(),
)
def test_candles_of_a_stretch_are_found_whichever_end_the_venue_cuts(
    opens: list[int], stretch: tuple[int, int], rows_max: int, limit: int | None, newest: bool, windowed: bool
) -> None:
    # Most stretches hold more than a page, and some minutes are missing, as after an outage of the venue.
    rows = [candle_row(BASE_MS + minute * MINUTE_MS) for minute in opens]
    start_ns, end_ns = ((BASE_MS + minute * MINUTE_MS) * MS for minute in stretch)
    days_max = 200 if windowed else None
    question = history.Candles(ENDPOINT, frozenset({60}), rows_max, lambda _rows: 1, (BASE_MS - HOUR_MS) * MS, days_max)
    venue = candles_of(rows, newest_first=windowed, days_max=days_max)
    ask = Ask(
        query=Query.CANDLES,
        symbol="BTCUSDT",
        interval_s=60,
        start_ns=start_ns,
        end_ns=end_ns,
        limit=limit,
        newest=newest,
    )
    now_ms = BASE_MS + 31 * MINUTE_MS
    pages = ask_all(question, ask, venue, now_ms)
    inside = [row[0] * MS for row in rows if start_ns <= row[0] * MS < end_ns]
    wanted = inside if limit is None else inside[-limit:] if newest else inside[:limit]
    found = [event for event in events_of(pages, backward=newest) if isinstance(event, Candle)]
    assert [candle.open_ns for candle in found] == wanted
    for page in pages:
        if page.start_ns is None or page.end_ns is None:
            continue
        assert page.start_ns <= page.end_ns
        told = {event.open_ns for event in page.events if isinstance(event, Candle)}
        assert {at for at in inside if page.start_ns <= at < page.end_ns} <= told


def test_the_candle_that_still_grows_is_not_closed() -> None:
    rows = [candle_row(BASE_MS), candle_row(BASE_MS + MINUTE_MS)]
    ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=60, newest=True, limit=2)
    page = BinanceFutures().page(ask, answer(rows, now_ms=BASE_MS + MINUTE_MS + 30_000))
    assert [event.closed for event in page.events if isinstance(event, Candle)] == [True, False]
    # The growing minute is not promised to be whole.
    assert page.end_ns == (BASE_MS + MINUTE_MS) * MS


def test_a_candle_that_is_late_is_not_taken_for_an_empty_one() -> None:
    ask = Ask(
        query=Query.CANDLES, symbol="BTCUSDT", interval_s=60, start_ns=BASE_MS * MS, end_ns=(BASE_MS + HOUR_MS) * MS
    )
    now_ms = BASE_MS + 10 * MINUTE_MS + 5_000
    page = BinanceFutures().page(ask, answer([candle_row(BASE_MS)], now_ms=now_ms))
    assert page.end_ns == (BASE_MS + 9 * MINUTE_MS) * MS


def test_candles_cost_what_their_number_costs() -> None:
    venue = BinanceFutures()
    weights = [
        venue.request(Ask(query=Query.CANDLES, symbol="X", interval_s=60, limit=limit)).weight
        for limit in (99, 100, 499, 500, 1_000, 1_001, 5_000)
    ]
    assert weights == [1, 2, 2, 5, 5, 10, 10]


def test_the_volume_of_delivery_candles_is_coins_and_their_quote_volume_contracts_times_their_size() -> None:
    row = [
        BASE_MS,
        "1992.70",
        "1993.71",
        "1992.17",
        "1992.17",
        "1893",
        BASE_MS + 59_999,
        "9.49653573",
        41,
        "1",
        "1",
        "0",
    ]
    ask = Ask(query=Query.CANDLES, symbol="ETHUSD_PERP", interval_s=60, start_ns=BASE_MS * MS)
    page = delivery().page(ask, answer([row]))
    (candle,) = page.events
    assert isinstance(candle, Candle)
    assert (candle.volume, candle.quote_volume, candle.trades) == (Decimal("9.49653573"), Decimal(18_930), 41)


def test_delivery_is_never_asked_for_more_than_200_days() -> None:
    ask = Ask(query=Query.CANDLES, symbol="ETHUSD_PERP", interval_s=86_400, start_ns=BASE_MS * MS)
    query = dict(BinanceDelivery().request(ask).query)
    assert int(query["endTime"]) - int(query["startTime"]) == 200 * DAY_MS - 1


def test_an_interval_the_venue_does_not_serve_is_refused_with_those_it_does() -> None:
    with pytest.raises(BadInterval, match=r"1s, 1m, 3m, .* 1w"):
        BinanceSpot().request(Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=61))
    with pytest.raises(BadInterval):
        BinanceFutures().request(Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=1))


# -- open interest ---------------------------------------------------------------------------------------------------


def test_open_interest_now() -> None:
    ask = Ask(query=Query.OPEN_INTEREST, symbol="BTCUSDT")
    assert BinanceFutures().request(ask).path == "/fapi/v1/openInterest"
    page = BinanceFutures().page(
        ask, answer({"openInterest": "10659.509", "symbol": "BTCUSDT", "time": BASE_MS}, now_ms=BASE_MS)
    )
    assert page.events == (OpenInterest("binance_futures:BTCUSDT", BASE_MS * MS, BASE_MS * MS, Decimal("10659.509")),)


def test_open_interest_of_delivery_becomes_coins_at_the_mark_price() -> None:
    """Trap 8: COINM counts contracts."""
    venue = delivery()
    ask = Ask(query=Query.OPEN_INTEREST, symbol="ETHUSD_PERP")
    first = venue.request(ask)
    assert (first.path, first.weight) == ("/dapi/v1/premiumIndex", 10)
    marked = venue.page(ask, answer([premium("ETHUSD_PERP", "2000.00000000")]))
    assert marked.events == ()
    assert marked.next is not None
    assert venue.request(marked.next).path == "/dapi/v1/openInterest"
    body = {
        "openInterest": "15004",
        "symbol": "ETHUSD_PERP",
        "pair": "ETHUSD",
        "contractType": "PERPETUAL",
        "time": BASE_MS,
    }
    page = venue.page(marked.next, answer(body, now_ms=BASE_MS))
    assert page.events == (
        OpenInterest(
            "binance_delivery:ETHUSD_PERP",
            BASE_MS * MS,
            BASE_MS * MS,
            Decimal("75.02"),
            Decimal(150_040),
            Decimal(15_004),
        ),
    )
    assert page.next is None


@given(
    st.lists(st.integers(0, 40), unique=True).map(sorted),
    st.tuples(st.integers(-10, 45), st.integers(-10, 45)).map(sorted).map(tuple),
    st.integers(1, 6),
    st.none() | st.integers(1, 12),
    st.booleans(),
)
def test_open_interest_history_is_found_whichever_end_the_venue_cuts(
    periods: list[int], stretch: tuple[int, int], rows_max: int, limit: int | None, last: bool
) -> None:
    now_ms = BASE_MS + 41 * 300_000
    rows: list[Row] = [
        {"symbol": "BTCUSDT", "sumOpenInterest": "20403.637", "sumOpenInterestValue": "150570784.07",
         "timestamp": BASE_MS + n * 300_000}
        for n in periods
    ]  # fmt: skip
    start_ns, end_ns = ((BASE_MS + n * 300_000) * MS for n in stretch)
    question = history.InterestHistory(ENDPOINT, lambda symbol: [("symbol", symbol)], rows_max)
    ask = Ask(
        query=Query.OPEN_INTEREST_HISTORY,
        symbol="BTCUSDT",
        interval_s=300,
        start_ns=start_ns,
        end_ns=end_ns,
        limit=limit,
    )
    pages = ask_all(question, ask, interests_of(rows, now_ms, last=last), now_ms)
    wanted = [row["timestamp"] * MS for row in rows if start_ns <= row["timestamp"] * MS < end_ns][:limit]
    found = [event for event in events_of(pages, backward=False) if isinstance(event, OpenInterest)]
    assert [event.event_ns for event in found] == wanted
    assert all((event.size, event.value) == (Decimal("20403.637"), Decimal("150570784.07")) for event in found)


def test_the_newest_open_interest_needs_no_ends() -> None:
    now_ms = BASE_MS + DAY_MS
    rows = [
        {"sumOpenInterest": str(n + 1), "sumOpenInterestValue": "1", "timestamp": str(BASE_MS + n * 300_000)}
        for n in range(10)
    ]
    ask = Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="BTCUSDT", interval_s=300, newest=True, limit=3)
    numbers = [{**row, "timestamp": int(row["timestamp"])} for row in rows]
    pages = ask_all(
        history.InterestHistory(ENDPOINT, lambda symbol: [("symbol", symbol)]),
        ask,
        interests_of(numbers, now_ms, last=True),
        now_ms,
    )
    assert [event.size for event in events_of(pages, backward=True) if isinstance(event, OpenInterest)] == [8, 9, 10]
    # The documentation shows these times as text.
    page = BinanceFutures().page(ask, answer(rows[:1]))
    assert len(page.events) == 1


def test_open_interest_older_than_30_days_is_out_of_reach_and_the_rest_is_still_asked() -> None:
    venue = BinanceFutures()
    now_ms = BASE_MS + 60 * DAY_MS
    ask = Ask(
        query=Query.OPEN_INTEREST_HISTORY, symbol="BTCUSDT", interval_s=3_600, start_ns=BASE_MS * MS, end_ns=now_ms * MS
    )
    refused = Answer(400, {}, b'{"code":-1130,"msg":"parameter \'startTime\' is invalid."}', now_ms * MS)
    page = venue.page(ask, refused)
    assert page.next is not None
    assert page.next.start_ns == (now_ms - 30 * DAY_MS + HOUR_MS) * MS
    assert (page.start_ns, page.end_ns) == (None, None)
    with pytest.raises(OutOfReach):
        venue.page(page.next, refused)


def test_open_interest_history_of_delivery_is_asked_by_pair_and_told_in_contracts_and_coins() -> None:
    venue = delivery()
    ask = Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="ETHUSD_PERP", interval_s=300, newest=True, limit=1)
    request = venue.request(ask)
    assert (request.path, request.pool) == ("/futures/data/openInterestHist", "data")
    assert dict(request.query) == {"pair": "ETHUSD", "contractType": "PERPETUAL", "period": "5m", "limit": "1"}
    row = {"pair": "ETHUSD", "contractType": "PERPETUAL", "sumOpenInterest": "20403", "sumOpenInterestValue": "101.5",
           "timestamp": BASE_MS}  # fmt: skip
    (event,) = venue.page(ask, answer([row])).events
    assert isinstance(event, OpenInterest)
    assert (event.size, event.value, event.contracts) == (Decimal("101.5"), Decimal(204_030), Decimal(20_403))
    with pytest.raises(Unsupported):
        venue.request(Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="ETHUSD_260925", interval_s=300))
    with pytest.raises(BadInterval, match="5m, 15m"):
        venue.request(Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="ETHUSD_PERP", interval_s=60))


# -- funding ---------------------------------------------------------------------------------------------------------


def test_funding_intervals_are_read_from_the_settlements() -> None:
    """Trap 16: the interval changes over time (LAYERUSDT, 4h to 1h), and stamps are milliseconds past the hour."""
    stamps = [BASE_MS, BASE_MS + 4 * HOUR_MS + 17, BASE_MS + 5 * HOUR_MS + 3, BASE_MS + 6 * HOUR_MS]
    rows = [
        {"symbol": "LAYERUSDT", "fundingRate": "-0.00037500", "fundingTime": at, "markPrice": "1.2"} for at in stamps
    ]
    ask = Ask(query=Query.FUNDING_HISTORY, symbol="LAYERUSDT", start_ns=BASE_MS * MS)
    # Two rows a page: the interval of a page's first row needs the last one of the page before.
    pages = ask_all(history.FundingHistory(ENDPOINT, 0, rows_max=2), ask, fundings_of(rows), BASE_MS + DAY_MS)
    found = [event for event in events_of(pages, backward=False) if isinstance(event, FundingRate)]
    assert [event.funding_ns for event in found] == [at * MS for at in stamps]
    assert [event.interval_s for event in found] == [None, 14_400, 3_600, 3_600]
    assert all(event.settled and event.rate == Decimal("-0.000375") for event in found)


@given(
    st.lists(st.integers(0, 60), unique=True).map(sorted),
    st.tuples(st.integers(-5, 70), st.integers(-5, 70)).map(sorted).map(tuple),
    st.integers(2, 6),
    st.none() | st.integers(1, 12),
)
def test_funding_history_is_that_of_the_stretch(
    hours: list[int], stretch: tuple[int, int], rows_max: int, limit: int | None
) -> None:
    rows: list[Row] = [
        {"symbol": "X", "fundingRate": "0.0001", "fundingTime": BASE_MS + hour * HOUR_MS + hour % 20} for hour in hours
    ]
    start_ns, end_ns = ((BASE_MS + hour * HOUR_MS) * MS for hour in stretch)
    ask = Ask(query=Query.FUNDING_HISTORY, symbol="X", start_ns=start_ns, end_ns=end_ns, limit=limit)
    pages = ask_all(history.FundingHistory(ENDPOINT, 0, rows_max), ask, fundings_of(rows), BASE_MS + 90 * HOUR_MS)
    wanted = [row["fundingTime"] * MS for row in rows if start_ns <= row["fundingTime"] * MS < end_ns][:limit]
    assert [event.funding_ns for event in events_of(pages, backward=False) if isinstance(event, FundingRate)] == wanted


@given(st.sampled_from([1, 4, 8]), st.integers(2, 30), st.integers(9, 20), st.none() | st.integers(0, 70))
def test_the_newest_funding_rates_go_back_in_stretches(every: int, limit: int, rows_max: int, end: int | None) -> None:
    rows: list[Row] = [
        {"symbol": "X", "fundingRate": "0.0001", "fundingTime": BASE_MS + hour * HOUR_MS}
        for hour in range(0, 60, every)
    ]
    end_ns = None if end is None else (BASE_MS + end * HOUR_MS) * MS
    ask = Ask(query=Query.FUNDING_HISTORY, symbol="X", newest=True, end_ns=end_ns, limit=limit)
    question = history.FundingHistory(ENDPOINT, (BASE_MS - DAY_MS) * MS, rows_max)
    pages = ask_all(question, ask, fundings_of(rows), BASE_MS + 61 * HOUR_MS)
    wanted = [row["fundingTime"] * MS for row in rows if end_ns is None or row["fundingTime"] * MS < end_ns][-limit:]
    assert [event.funding_ns for event in events_of(pages, backward=True) if isinstance(event, FundingRate)] == wanted


def premium(symbol: str, mark: str, rate: str = "0.00038246", funding_ms: int = BASE_MS + HOUR_MS) -> Row:
    return {
        "symbol": symbol, "pair": symbol, "markPrice": mark, "indexPrice": "11781.80495970",
        "estimatedSettlePrice": "1", "lastFundingRate": rate, "interestRate": "0.0001", "nextFundingTime": funding_ms,
        "time": BASE_MS,
    }  # fmt: skip


def test_funding_now_tells_mark_price_and_running_rate_and_none_of_dated_contracts() -> None:
    rows = [premium("BTCUSDT", "11793.63"), premium("BTCUSDT_260925", "11800.5", rate="", funding_ms=0)]
    page = BinanceFutures().page(Ask(query=Query.FUNDING), answer(rows))
    assert [type(event).__name__ for event in page.events] == ["MarkPrice", "FundingRate", "MarkPrice"]
    rate = page.events[1]
    assert isinstance(rate, FundingRate)
    assert (rate.rate, rate.funding_ns, rate.settled) == (Decimal("0.00038246"), (BASE_MS + HOUR_MS) * MS, False)


def test_one_unreadable_row_does_not_cost_the_others() -> None:
    rows = [premium("BTCUSDT", "NaN"), premium("ETHUSDT", "2000"), {"symbol": 3}]
    page = BinanceFutures().page(Ask(query=Query.FUNDING), answer(rows))
    assert {event.instrument for event in page.events} == {"binance_futures:ETHUSDT"}
    assert page.unread == 2
    with pytest.raises(Unreadable):
        BinanceFutures().page(Ask(query=Query.FUNDING), answer(rows[:1]))


# -- tickers, listing, time ------------------------------------------------------------------------------------------


def ticker(symbol: str, **more: Any) -> Row:
    return {
        "symbol": symbol, "openPrice": "99.0", "highPrice": "100.0", "lowPrice": "0.1", "lastPrice": "4.00000200",
        "volume": "8913.3", "quoteVolume": "15.3", "openTime": BASE_MS - DAY_MS, "closeTime": BASE_MS, "firstId": 1,
        "lastId": 76, "count": 76, **more,
    }  # fmt: skip


def test_tickers_of_all_cost_more_and_leave_out_what_never_traded() -> None:
    venue = BinanceSpot()
    assert [venue.request(Ask(query=Query.TICKERS, symbol=symbol)).weight for symbol in (None, "BTCUSDT")] == [80, 2]
    never = ticker("NEWUSDT", openPrice="0.0", highPrice="0.0", lowPrice="0.0", lastPrice="0.0", volume="0", count=0)
    page = venue.page(Ask(query=Query.TICKERS), answer([ticker("BNBBTC"), never], now_ms=BASE_MS))
    assert page.events == [
        Ticker(
            "binance:BNBBTC", BASE_MS * MS, BASE_MS * MS, Decimal("99.0"), Decimal("100.0"), Decimal("0.1"),
            Decimal("4.00000200"), Decimal("8913.3"), Decimal("15.3"), 76,
        )
    ]  # fmt: skip
    assert page.unread == 0


def test_delivery_tickers_count_coins_and_dollars() -> None:
    row = ticker("ETHUSD_PERP", volume="1893", baseVolume="9.49653573")
    del row["quoteVolume"]
    (event,) = delivery().page(Ask(query=Query.TICKERS), answer([row])).events
    assert isinstance(event, Ticker)
    assert (event.volume, event.quote_volume) == (Decimal("9.49653573"), Decimal(18_930))


def test_time_says_that_the_venue_is_alive() -> None:
    for venue in (BinanceSpot(), BinanceFutures(), BinanceDelivery()):
        ask = Ask(query=Query.TIME)
        assert venue.request(ask).path.endswith("/time")
        assert venue.page(ask, answer({"serverTime": BASE_MS})) == Page(())


def test_a_listing_survives_an_entry_that_cannot_be_read() -> None:
    entry = {
        "symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT",
        "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.01"}, {"filterType": "LOT_SIZE", "stepSize": "0.00001"}],
    }  # fmt: skip
    halted = {**entry, "symbol": "OLDUSDT", "status": "BREAK"}
    body = {"symbols": [entry, {"symbol": "ODD"}, {**entry, "symbol": "BAD", "filters": []}, halted]}
    page = BinanceSpot().page(Ask(query=Query.INSTRUMENTS), answer(body))
    assert [(each.name, each.trading) for each in page.instruments] == [
        ("binance:BTCUSDT", True),
        ("binance:OLDUSDT", False),
    ]
    assert (page.instruments[0].tick_size, page.instruments[0].lot_size) == (Decimal("0.01"), Decimal("0.00001"))
    assert page.unread == 2
    with pytest.raises(Unreadable):
        BinanceSpot().page(Ask(query=Query.INSTRUMENTS), answer({"symbols": [{"symbol": "ODD"}]}))


# -- depth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("venue", "wanted", "levels", "weight"),
    [
        (BinanceSpot(), None, 1_000, 50),
        (BinanceSpot(), 1, 100, 5),
        (BinanceSpot(), 101, 500, 25),
        (BinanceSpot(), 10_000, 5_000, 250),
        (BinanceFutures(), None, 1_000, 20),
        (BinanceFutures(), 51, 100, 5),
        (BinanceFutures(), 500, 500, 10),
        (BinanceDelivery(), 5, 50, 2),
        (BinanceDelivery(), 5_000, 1_000, 20),
    ],
)
def test_depth_costs_by_its_levels_and_is_asked_in_counts_the_venue_serves(
    venue: BinanceSpot | BinanceFutures | BinanceDelivery, wanted: int | None, levels: int, weight: int
) -> None:
    request = venue.request(Ask(query=Query.DEPTH, symbol="BTCUSDT", limit=wanted))
    assert request.path.endswith("/depth")
    assert request.query == (("symbol", "BTCUSDT"), ("limit", str(levels)))
    assert (request.weight, request.pool) == (weight, "weight")


def test_depth_is_one_snapshot_whose_number_deltas_join() -> None:
    told = {"lastUpdateId": 77, "bids": [["10.1", "3"], ["10.0", "4"]], "asks": [["10.2", "1"], ["10.30", "2"]]}
    ask = Ask(query=Query.DEPTH, symbol="BTCUSDT")
    (snapshot,) = BinanceSpot().page(ask, answer(told)).events
    now_ns = (BASE_MS + DAY_MS) * MS
    bids = ((Decimal("10.1"), Decimal(3)), (Decimal("10.0"), Decimal(4)))
    asks = ((Decimal("10.2"), Decimal(1)), (Decimal("10.30"), Decimal(2)))
    assert snapshot == DepthSnapshot("binance:BTCUSDT", now_ns, now_ns, bids, asks, 77)
    timed = answer({**told, "E": BASE_MS + 5, "T": BASE_MS})
    (snapshot,) = BinanceFutures().page(ask, timed).events
    assert snapshot == DepthSnapshot("binance_futures:BTCUSDT", BASE_MS * MS, now_ns, bids, asks, 77)
    # Contracts stay contracts.
    (snapshot,) = BinanceDelivery().page(replace(ask, symbol="ETHUSD_PERP", limit=1), timed).events
    assert snapshot == DepthSnapshot("binance_delivery:ETHUSD_PERP", BASE_MS * MS, now_ns, bids[:1], asks[:1], 77)


@pytest.mark.parametrize(
    "bids",
    [
        [["0", "1"]],
        [["NaN", "1"]],
        [["1", "Infinity"]],
        [["1", "-1"]],
        [["1", "1"], ["2", "1"]],
        [["1", "1"], ["1", "2"]],
        [["1"]],
        [{}],
        None,
    ],
)
def test_depth_that_cannot_be_is_unreadable(bids: Any) -> None:
    for told in ({"lastUpdateId": 1, "bids": bids, "asks": []}, {"lastUpdateId": "1", "bids": [], "asks": []}):
        with pytest.raises(Unreadable):
            BinanceSpot().page(Ask(query=Query.DEPTH, symbol="BTCUSDT"), answer(told))


# -- refusals --------------------------------------------------------------------------------------------------------

CANDLES_ASK = Ask(query=Query.CANDLES, symbol="NOPE", interval_s=60, limit=1)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, b'{"code":-1121,"msg":"Invalid symbol."}', UnknownInstrument),
        (
            400,
            b'{"code":-1100,"msg":"Illegal characters found in parameter \'symbol\'; legal range is"}',
            UnknownInstrument,
        ),
        (400, b'{"code":-1120,"msg":"Invalid interval."}', BadInterval),
        (400, b'{"code":-1102,"msg":"Mandatory parameter was not sent"}', Unavailable),
        (200, b'{"code":-1000,"msg":"An unknown error occured while processing the request."}', Unavailable),
        (503, b'{"code":-1008,"msg":"Server is currently overloaded"}', Unavailable),
        (502, b"<html><body>Bad Gateway</body></html>", Unavailable),
        (404, b"", Unavailable),
        (451, b'{"code":0,"msg":"Service unavailable from a restricted location"}', Unavailable),
        (200, b"<html><body>hello</body></html>", Unreadable),
        (200, b"", Unreadable),
        (200, b'[[1748822400000, "NaN", "1", "1", "1", "1", 1748822459999, "1", 1]]', Unreadable),
        (200, b'[[1748822400000, "1", "1", "1", "1", "-1", 1748822459999, "1", 1]]', Unreadable),
        (200, b'[[1748822400000, "1", "0.5", "1", "1", "1", 1748822459999, "1", 1]]', Unreadable),
        (200, b'[[1748822400000, "1", "1", "1"]]', Unreadable),
        (200, b'{"rows": []}', Unreadable),
    ],
)
def test_an_error_is_told_by_status_and_code(status: int, body: bytes, expected: type[Exception]) -> None:
    with pytest.raises(expected) as raised:
        BinanceFutures().page(CANDLES_ASK, Answer(status, {}, body, BASE_MS * MS))
    assert raised.type is expected
    assert "http" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "headers", "retry_s", "banned"),
    [
        (429, {"retry-after": "7"}, 7.0, False),
        (429, {}, 60.0, False),
        (418, {"retry-after": "604800"}, 3 * 86_400.0, True),
        (418, {"retry-after": "soon"}, 120.0, True),
        (403, {}, 300.0, False),
    ],
)
def test_too_much_says_when_to_come_back(status: int, headers: dict[str, str], retry_s: float, banned: bool) -> None:
    with pytest.raises(RateLimited) as raised:
        BinanceFutures().page(CANDLES_ASK, Answer(status, headers, b'{"code":-1003,"msg":"Too many"}', BASE_MS * MS))
    assert (raised.value.retry_s, raised.value.banned) == (retry_s, banned)


def test_an_outage_that_says_how_long_is_heard() -> None:
    with pytest.raises(Unavailable) as raised:
        BinanceSpot().page(CANDLES_ASK, Answer(503, {"retry-after": "30"}, b"", BASE_MS * MS))
    assert raised.value.retry_s == 30.0


def test_nothing_found_of_an_unlisted_symbol_is_an_unknown_instrument() -> None:
    venue = BinanceFutures()
    ask = Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="NOPE", interval_s=300, newest=True, limit=1)
    assert venue.page(ask, answer([])).events == []
    known = venue.assume("BTCUSDT")
    assert known is not None
    venue.learn([known])
    with pytest.raises(UnknownInstrument):
        venue.page(ask, answer([]))


def test_rows_out_of_order_are_not_believed() -> None:
    rows = [candle_row(BASE_MS + MINUTE_MS), candle_row(BASE_MS)]
    with pytest.raises(Unreadable):
        BinanceSpot().page(Ask(query=Query.CANDLES, symbol="X", interval_s=60), answer(rows))


def test_what_a_market_lacks_is_unsupported() -> None:
    for query in (Query.OPEN_INTEREST, Query.FUNDING, Query.PREDICTED_FUNDING):
        with pytest.raises(Unsupported):
            BinanceSpot().request(Ask(query=query, symbol="BTCUSDT"))
    with pytest.raises(Unsupported):
        BinanceFutures().request(Ask(query=Query.CANDLES, interval_s=60))


@given(st.sampled_from(sorted(BinanceFutures().queries)), st.binary(max_size=80))
def test_no_answer_is_fatal(query: Query, body: bytes) -> None:
    ask = Ask(query=query, symbol="BTCUSDT", interval_s=300, start_ns=BASE_MS * MS)
    with contextlib.suppress(Unreadable, Unavailable):
        BinanceFutures().page(ask, Answer(200, {}, body, BASE_MS * MS))


def answer(body: Any, now_ms: int = BASE_MS + DAY_MS) -> Answer:
    return Answer(200, {}, json.dumps(body).encode(), now_ms * MS)


def delivery() -> BinanceDelivery:
    venue = BinanceDelivery()
    venue.learn([contract("ETHUSD_PERP", Decimal(10))])
    return venue


def contract(symbol: str, size: Decimal) -> Instrument:
    return Instrument(
        venue="binance_delivery", symbol=symbol, kind=Kind.PERPETUAL, coin=symbol[:3], quote="USD", settle=symbol[:3],
        tick_size=Decimal("0.01"), lot_size=Decimal(1), contract_size=size, inverse=True,
    )  # fmt: skip
