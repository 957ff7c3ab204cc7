"""OKX options: frames and answers in the venue's own form, as its documentation has them."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry import errors
from openoutcry.events import NS, Candle, OpenInterest, Side, Ticker, Trade
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues import VENUES
from openoutcry.venues.okx import Okx
from openoutcry.venues.okx_options import OkxOptions
from openoutcry.venues.venue import Alive, Answer, Ask, Feed, Page, Query, Refused, Skipped, Subscribed, Venue
from tests.venues.pages import Pages, SpoilAnswer, SpoilFrame

MS = 1_000_000
NOW_NS = 1_672_286_580 * NS  # 2022-12-29 04:03:00 UTC, a full minute
MINUTE_NS, DAY_NS = 60 * NS, 86_400 * NS
CALL, PUT = "BTC-USD-230224-18000-C", "ETH-USD-230224-1200-P"


def _instrument(symbol: str, contract_size: str) -> Instrument:
    coin = symbol[:3]
    return Instrument(
        venue="okx_options",
        symbol=symbol,
        kind=Kind.OPTION,
        coin=coin,
        quote=coin,
        settle=coin,
        tick_size=Decimal("0.0001"),
        lot_size=Decimal(1),
        contract_size=Decimal(contract_size),
        listed_ns=NOW_NS - 200 * DAY_NS,
        expires_ns=1_677_225_600 * NS,
    )


LISTING = (_instrument(CALL, "0.01"), _instrument(PUT, "0.1"))


@pytest.fixture
def okx() -> OkxOptions:
    venue = OkxOptions()
    venue.learn(LISTING)
    return venue


def _frame(channel: str, symbol: str, *data: Any) -> bytes:
    message = {"arg": {"channel": channel, "instId": symbol}, "data": list(data)}
    return json.dumps(message, separators=(",", ":")).encode()


def _trade(**changes: Any) -> dict[str, Any]:
    row = {"instId": CALL, "tradeId": "38", "px": "0.045", "sz": "2", "side": "sell", "ts": "1672286551080"}
    return {**row, "source": "0", **changes}


def _bar(**changes: str) -> list[str]:
    told = {"ts": "1672286520000", "o": "0.0445", "h": "0.045", "l": "0.0445", "c": "0.045"}
    return list({**told, "vol": "12", "volCcy": "0.12", "volCcyQuote": "0.0054", "confirm": "0", **changes}.values())


def _answer(data: Any, *, status: int = 200, code: str = "0", text: str = "") -> Answer:
    body = data if isinstance(data, bytes) else json.dumps({"code": code, "msg": text, "data": data}).encode()
    return Answer(status, {}, body, NOW_NS)


@pytest.fixture
def answered() -> Callable[[Any], Answer]:
    return _answer


def test_okx_options_are_registered_and_a_venue() -> None:
    venue: Venue = VENUES["okx_options"]()
    assert (venue.name, set(venue.sockets)) == ("okx_options", {"public", "business"})
    assert venue.exchanges == {Kind.OPTION: (Exchange.OKEX_OPTIONS,)}
    assert venue.feeds == {Feed.TRADES, Feed.CANDLES}


# Frames.


def test_a_trade_is_told_in_coins_and_its_contracts_are_kept(okx: OkxOptions) -> None:
    """Trap 8: 2 contracts of 1 x 0.01 BTC are 0.02 BTC, and a premium is a part of a coin."""
    (trade,) = okx.decode(_frame("trades-all", CALL, _trade()), 7)
    assert trade == Trade(
        instrument="okx_options:BTC-USD-230224-18000-C",
        event_ns=1_672_286_551_080 * MS,
        received_ns=7,
        id=38,
        seq=38,
        side=Side.SELL,
        price=Decimal("0.045"),
        size=Decimal("0.02"),
        contracts=Decimal(2),
    )


def test_each_option_counts_its_own_contracts(okx: OkxOptions) -> None:
    (trade,) = okx.decode(_frame("trades-all", PUT, _trade(instId=PUT)), 7)
    assert isinstance(trade, Trade)
    assert trade.size == Decimal("0.2")


def test_a_bar_counts_coins_and_its_turnover_is_estimated_in_coins(okx: OkxOptions) -> None:
    """In what the venue tells turnover it does not say, so that it is not taken."""
    (candle,) = okx.decode(_frame("candle1m", CALL, _bar(volCcyQuote="2024.5")), 7)
    assert candle == Candle(
        instrument="okx_options:BTC-USD-230224-18000-C",
        side=Side.BOTH,
        interval_s=60,
        open_ns=1_672_286_520 * NS,
        open=Decimal("0.0445"),
        high=Decimal("0.045"),
        low=Decimal("0.0445"),
        close=Decimal("0.045"),
        volume=Decimal("0.12"),
        quote_volume=Decimal("0.00538000"),
        trades=0,
        first_ns=None,
        last_ns=None,
        closed=False,
        received_ns=7,
        origin="venue",
    )
    assert okx.limits.quote_estimated


def test_an_option_that_is_not_listed_is_skipped_and_cannot_be_assumed(okx: OkxOptions) -> None:
    """Trap 8: its spelling does not tell how much a contract is."""
    unlisted = "BTC-USD-230224-19000-C"
    assert okx.decode(_frame("trades-all", unlisted, _trade()), 7) == [Skipped("unknown_instrument", unlisted)]
    assert okx.assume(unlisted) is None
    assert okx.assume("BTC-USD") is None


def test_trades_and_candles_are_channels_of_each_option_and_may_be_silent(okx: OkxOptions) -> None:
    """Trap 11: both are on /business."""
    streams = [*okx.streams(Feed.TRADES, [CALL, PUT]), *okx.streams(Feed.CANDLES, [CALL])]
    assert [(s.name, s.endpoint, s.symbol, s.silence_s) for s in streams] == [
        (f"trades-all:{CALL}", "business", CALL, None),
        (f"trades-all:{PUT}", "business", PUT, None),
        (f"candle1m:{CALL}", "business", CALL, None),
    ]
    (frame,) = okx.subscribe(streams[:1])
    assert json.loads(frame) == {"op": "subscribe", "args": [{"channel": "trades-all", "instId": CALL}]}
    with pytest.raises(errors.Unsupported):
        okx.streams(Feed.TRADES, None)
    with pytest.raises(errors.Unsupported):
        okx.streams(Feed.FUNDING, [CALL])


def test_answers_to_a_subscription_name_the_stream(okx: OkxOptions) -> None:
    (stream,) = okx.streams(Feed.TRADES, [CALL])
    taken = {"event": "subscribe", "arg": {"channel": "trades-all", "instId": CALL}, "connId": "a4d3ae55"}
    assert okx.decode(json.dumps(taken).encode(), 7) == [Subscribed((stream.name,))]
    said = f"Wrong URL or channel:trades-all,instId:{CALL} doesn't exist. Please use the correct URL."
    refused = json.dumps({"event": "error", "code": "60018", "msg": said, "connId": "a4d3ae55"}).encode()
    assert okx.decode(refused, 7) == [Refused(stream.name, f"60018 {said}")]
    assert okx.decode(b"pong", 7) == [Alive()]


@pytest.mark.parametrize(
    "frame",
    [
        *[_frame("trades-all", CALL, _trade(px=px)) for px in ("NaN", "Infinity", "0", "-1", "1e308", "", None)],
        *[_frame("trades-all", CALL, _trade(sz=sz)) for sz in ("NaN", "-Infinity", "0", "-3", True)],
        _frame("trades-all", CALL, _trade(ts="1672286551080000")),
        _frame("trades-all", CALL, _trade(tradeId="abc")),
        *[_frame("candle1m", CALL, _bar(volCcy=size)) for size in ("NaN", "sNaN", "-1", "1e999999", "Infinity")],
        *[_frame("candle1m", CALL, _bar(h=high)) for high in ("NaN", "0.04", "Infinity", "1e400")],
        _frame("candle1m", CALL, _bar(ts="1672286521000")),
        b"",
        b"\xff",
        b"[" * 1_000,
        b'{"arg":5,"data":[]}',
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_else_happens(okx: OkxOptions, frame: bytes) -> None:
    with pytest.raises(errors.Unreadable):
        okx.decode(frame, 7)
    assert isinstance(okx.decode(_frame("trades-all", CALL, _trade()), 7)[0], Trade)


# REST.


def _listed(symbol: str = CALL, **changes: str) -> dict[str, str]:
    coin, pair, _, strike, side = symbol.split("-")
    family = f"{coin}-{pair}"
    row = {"instType": "OPTION", "instId": symbol, "uly": f"{coin}-USD", "instFamily": family, "ctVal": "1"}
    row |= {"ctMult": "0.01", "ctValCcy": coin, "ctType": "", "settleCcy": coin, "baseCcy": "", "quoteCcy": ""}
    row |= {"optType": side, "stk": strike, "tickSz": "0.0001", "lotSz": "1", "state": "live"}
    return {**row, "listTime": "1655006580000", "expTime": "1677225600000", **changes}


def test_the_listing_is_walked_by_family_and_one_bad_row_costs_only_itself(okx: OkxOptions, pages: Pages) -> None:
    asked: list[tuple[str, dict[str, str]]] = []
    rows: dict[str, list[Any]] = {
        "BTC-USD": [_listed(), _listed(ctMult="NaN"), 5],
        "ETH-USD": [_listed(PUT, ctMult="0.1")],
    }

    def serve(path: str, query: dict[str, str]) -> list[Any]:
        asked.append((path, query))
        return rows[query["instFamily"]]

    told = list(pages(okx, Ask(query=Query.INSTRUMENTS), serve))
    assert asked == [
        ("/api/v5/public/instruments", {"instType": "OPTION", "instFamily": family})
        for family in ("BTC-USD", "ETH-USD")
    ]
    assert [page.unread for page in told] == [2, 0]
    assert tuple(i for page in told for i in page.instruments) == LISTING


def test_an_option_is_never_inverse_and_its_premium_is_told_in_what_it_is_paid_in(okx: OkxOptions) -> None:
    rows = [_listed(ctType="inverse"), _listed("BTC-USD_UM-230224-18000-C", settleCcy="USD")]
    inverse, dollars = okx.page(Ask(query=Query.INSTRUMENTS), _answer(rows)).instruments
    assert (inverse.inverse, inverse.quote, inverse.contract_size) == (False, "BTC", Decimal("0.01"))
    assert (dollars.coin, dollars.quote, dollars.settle) == ("BTC", "USD", "USD")


INDEX = [{"instId": "BTC-USD", "idxPx": "43350", "high24h": "43649.7", "ts": "1649419644492"}]


def _interest(**changes: Any) -> dict[str, Any]:
    row = {"instType": "OPTION", "instId": CALL, "oi": "125", "oiCcy": "1.25", "oiUsd": "54187.5"}
    return {**row, "ts": "1649419644500", **changes}


def test_the_interest_of_all_options_on_a_coin_comes_with_the_coins_price(okx: OkxOptions, pages: Pages) -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    def serve(path: str, query: dict[str, str]) -> Any:
        asked.append((path, query))
        return INDEX if path.endswith("index-tickers") else [_interest(), _interest(instId="BTC-USD-230224-19000-C")]

    ask = Ask(query=Query.OPTION_INTEREST, symbol="BTC")
    assert [e for page in pages(okx, ask, serve) for e in page.events] == [
        OpenInterest(
            f"okx_options:{CALL}",
            1_649_419_644_500 * MS,
            NOW_NS,
            Decimal("1.25"),
            Decimal("54187.5"),
            Decimal(125),
            Decimal(43350),
        )
    ]
    assert asked == [
        ("/api/v5/market/index-tickers", {"instId": "BTC-USD"}),
        ("/api/v5/public/open-interest", {"instType": "OPTION", "instFamily": "BTC-USD"}),
    ]


def test_where_the_coins_are_not_told_contracts_are_converted(okx: OkxOptions) -> None:
    ask = Ask(query=Query.OPTION_INTEREST, symbol="BTC", cursor="43350")
    (event,) = okx.page(ask, _answer([_interest(oiCcy="", oiUsd="")])).events
    assert isinstance(event, OpenInterest)
    assert (event.size, event.value, event.price) == (Decimal("1.25"), None, Decimal(43350))


def test_one_bad_row_of_interest_costs_only_itself(okx: OkxOptions) -> None:
    ask = Ask(query=Query.OPTION_INTEREST, symbol="BTC", cursor="43350")
    page = okx.page(ask, _answer([_interest(oi="NaN"), _interest(), 5, _interest(ts="soon")]))
    assert (len(page.events), page.unread) == (1, 3)
    with pytest.raises(errors.Unreadable):
        okx.page(ask, _answer([5, {}]))


@pytest.mark.parametrize("index", ["NaN", "0", "-1", "Infinity", "1e300", "", None])
def test_without_the_coins_price_nothing_is_asked_further(okx: OkxOptions, index: Any) -> None:
    ask = Ask(query=Query.OPTION_INTEREST, symbol="BTC")
    with pytest.raises(errors.Unreadable):
        okx.page(ask, _answer([{**INDEX[0], "idxPx": index}]))
    with pytest.raises(errors.Unreadable):
        okx.page(ask, _answer([]))


def test_a_coin_without_options_is_unknown(okx: OkxOptions) -> None:
    ask = Ask(query=Query.OPTION_INTEREST, symbol="DOGE")
    with pytest.raises(errors.UnknownInstrument, match="okx_options does not list DOGE"):
        okx.page(ask, _answer([], code="51001", text="Instrument ID doesn't exist."))


class Tape:
    """The venue's past trades of an option: ids without holes, a hundred a page, those of three months."""

    def __init__(self, times_ms: list[int]) -> None:
        oldest_ms = (NOW_NS - 92 * DAY_NS) // MS
        rows = [_trade(tradeId=str(n + 1), ts=str(ms)) for n, ms in enumerate(sorted(times_ms))]
        self.rows = [row for row in rows if int(row["ts"]) >= oldest_ms]

    def __call__(self, path: str, query: dict[str, str]) -> list[dict[str, Any]]:
        assert path == "/api/v5/market/history-trades"
        key = "tradeId" if query["type"] == "1" else "ts"
        after = int(query.get("after", 1 << 60))
        return [row for row in reversed(self.rows) if int(row[key]) < after][: min(int(query["limit"]), 100)]


# Few moments and many trades at each, so that pages end inside a millisecond; most often none at all before the start.
TIMES = st.lists(st.sampled_from([NOW_NS // MS - n for n in (1, 2, 5, 70_000, 6_000_000, 7_000_000_000)]), max_size=400)
STARTS = st.sampled_from([1, 3, 60_000, 6_000_000, 80 * 86_400_000])


@settings(deadline=None)
@given(times_ms=TIMES, back_ms=STARTS)
def test_trades_of_a_stretch_are_whole_even_where_none_came_before(times_ms: list[int], back_ms: int) -> None:
    venue = OkxOptions()
    venue.learn(LISTING)
    start_ns, tape = NOW_NS - back_ms * MS, Tape(times_ms)
    ask: Ask | None = Ask(query=Query.TRADES, symbol=CALL, start_ns=start_ns, end_ns=NOW_NS)
    told: list[Page] = []
    while ask is not None:
        assert len(told) < 20
        request = venue.request(ask)
        told.append(venue.page(ask, _answer(tape(request.path, dict(request.query)))))
        ask = told[-1].next
    ids = sorted(e.id for page in told for e in page.events if isinstance(e, Trade))
    assert ids == [int(row["tradeId"]) for row in tape.rows if start_ns <= int(row["ts"]) * MS < NOW_NS]
    covered = start_ns
    for page in sorted((p for p in told if p.start_ns is not None), key=lambda p: p.start_ns or 0):
        assert (page.start_ns or 0) <= covered
        covered = max(covered, page.end_ns or 0)
    assert covered == NOW_NS


def test_what_the_venue_may_no_longer_have_is_out_of_reach(okx: OkxOptions, pages: Pages) -> None:
    ask = Ask(query=Query.TRADES, symbol=CALL, start_ns=NOW_NS - 95 * DAY_NS, end_ns=NOW_NS)
    with pytest.raises(errors.OutOfReach):
        list(pages(okx, ask, Tape([NOW_NS // MS - 5])))


def test_candles_come_whole_and_in_order(okx: OkxOptions, pages: Pages) -> None:
    """Trap 12: the newest first, 300 a page, and the history lags."""

    def serve(path: str, query: dict[str, str]) -> list[list[str]]:
        closed = range(NOW_NS // MS - 700 * 60_000, NOW_NS // MS + 1, 60_000)
        served = closed[-1_440:] if path.endswith("/candles") else closed[:-3]
        low, high = int(query["before"]), int(query["after"])
        return [_bar(ts=str(o), confirm="1") for o in reversed(served) if low < o < high][: int(query["limit"])]

    start_ns = NOW_NS - 650 * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol=CALL, interval_s=60, start_ns=start_ns, end_ns=NOW_NS)
    candles = [e for page in pages(okx, ask, serve) for e in page.events if isinstance(e, Candle)]
    assert [c.open_ns for c in candles] == list(range(start_ns, NOW_NS, MINUTE_NS))
    assert {(c.volume, c.quote_volume) for c in candles} == {(Decimal("0.12"), Decimal("0.00538000"))}


def test_tickers_are_walked_by_family_and_told_in_coins(okx: OkxOptions, pages: Pages) -> None:
    row = {"instType": "OPTION", "open24h": "0.04", "high24h": "0.05", "low24h": "0.03", "last": "0.045"}
    row |= {"vol24h": "200", "volCcy24h": "2", "ts": "1672286551080"}
    rows: dict[str, list[Any]] = {
        "BTC-USD": [{**row, "instId": CALL}, {**row, "instId": CALL, "last": "NaN"}],
        "ETH-USD": [{**row, "instId": PUT, "last": ""}, {**row, "instId": "ETH-USD-230224-1300-P"}],
    }
    told = list(pages(okx, Ask(query=Query.TICKERS), lambda _, query: rows[query["instFamily"]]))
    (ticker,) = (e for page in told for e in page.events)
    assert isinstance(ticker, Ticker)
    assert (ticker.open, ticker.volume, ticker.quote_volume) == (Decimal("0.04"), Decimal(2), Decimal("0.09"))
    assert [page.unread for page in told] == [1, 0]


def test_what_options_do_not_have_is_unsupported(okx: OkxOptions) -> None:
    for query in (Query.FUNDING, Query.OPEN_INTEREST_HISTORY, Query.OPEN_INTEREST, Query.POSITIONS, Query.DEPTH):
        with pytest.raises(errors.Unsupported, match="okx_options"):
            okx.request(Ask(query=query, symbol=CALL, interval_s=300))


def test_one_address_has_one_budget_for_all_of_okx(okx: OkxOptions) -> None:
    assert okx.limits.shared_pools == Okx.limits.shared_pools
    assert okx.limits.shared_pools.keys() == okx.limits.weights.keys()
    assert dict(okx.request(Ask(query=Query.TIME)).query) == {}


ANSWERS: dict[Query, tuple[Ask, Any]] = {
    Query.INSTRUMENTS: (Ask(query=Query.INSTRUMENTS), [_listed(), _listed(PUT)]),
    Query.CANDLES: (Ask(query=Query.CANDLES, symbol=CALL, interval_s=60, newest=True, limit=5), [_bar()]),
    Query.TRADES: (Ask(query=Query.TRADES, symbol=CALL, newest=True, limit=5), [_trade(tradeId="39"), _trade()]),
    Query.OPTION_INTEREST: (Ask(query=Query.OPTION_INTEREST, symbol="BTC", cursor="43350"), [_interest(), _interest()]),
    Query.TIME: (Ask(query=Query.OPTION_INTEREST, symbol="BTC"), INDEX),
}


@settings(deadline=None)
@given(
    frame=st.sampled_from([_frame("trades-all", CALL, _trade(), _trade()), _frame("candle1m", CALL, _bar())]),
    data=st.data(),
)
def test_a_frame_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_frame: SpoilFrame, frame: bytes, data: st.DataObject
) -> None:
    venue = OkxOptions()
    venue.learn(LISTING)
    spoil_frame(venue, frame, data)


@settings(deadline=None)
@given(query=st.sampled_from(list(ANSWERS)), data=st.data())
def test_an_answer_with_one_wrong_value_is_refused_in_our_words_or_still_makes_sense(
    spoil_answer: SpoilAnswer, query: Query, data: st.DataObject
) -> None:
    venue = OkxOptions()
    venue.learn(LISTING)
    ask, said = ANSWERS[query]
    spoil_answer(venue, ask, _answer(said), data)
