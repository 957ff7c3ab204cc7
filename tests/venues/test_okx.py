"""OKX frames and answers: hand-made ones in the venue's own form, and a recorded session."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry import errors
from openoutcry.events import (
    NS,
    Candle,
    DepthDelta,
    DepthSnapshot,
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
from openoutcry.venues.okx import Okx
from openoutcry.venues.venue import (
    Alive,
    Answer,
    Ask,
    Closing,
    Feed,
    Page,
    Query,
    Refused,
    Skipped,
    Subscribed,
    Venue,
)
from tests.venues.pages import Pages, SpoilAnswer, SpoilFrame

MS = 1_000_000
NOW_NS = 1_700_000_040 * NS  # 2023-11-14 22:14:00 UTC, a full minute
MINUTE_NS = 60 * NS


def _instrument(symbol: str, kind: Kind, contract_size: str | None = None, *, inverse: bool = False) -> Instrument:
    coin, quote = symbol.split("-")[:2]
    return Instrument(
        venue="okx",
        symbol=symbol,
        kind=kind,
        coin=coin,
        quote=quote,
        settle=coin if inverse else quote,
        tick_size=Decimal("0.1"),
        lot_size=Decimal("0.01"),
        contract_size=None if contract_size is None else Decimal(contract_size),
        inverse=inverse,
    )


LISTING = (
    _instrument("BTC-USDT", Kind.SPOT),
    _instrument("BTC-USDT-SWAP", Kind.PERPETUAL, "0.01"),
    _instrument("BTC-USD-SWAP", Kind.PERPETUAL, "100", inverse=True),
    _instrument("BTC-USD-220527", Kind.FUTURE, "100", inverse=True),
    _instrument("UNI-USD-SWAP", Kind.PERPETUAL, "10", inverse=True),
)


@pytest.fixture
def okx() -> Okx:
    venue = Okx()
    venue.learn(LISTING)
    return venue


def _frame(channel: str, symbol: str, *data: Any, **more: Any) -> bytes:
    message = {"arg": {"channel": channel, "instId": symbol}, **more, "data": list(data)}
    return json.dumps(message, separators=(",", ":")).encode()


def _trade(**changes: Any) -> dict[str, Any]:
    row = {"instId": "BTC-USDT", "tradeId": "130639474", "px": "42219.9", "sz": "0.12060306", "side": "buy"}
    return {**row, "ts": "1630048897897", "count": "1", "source": "0", **changes}


def _answer(data: Any, *, status: int = 200, code: str = "0", text: str = "", **headers: str) -> Answer:
    body = data if isinstance(data, bytes) else json.dumps({"code": code, "msg": text, "data": data}).encode()
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, body, NOW_NS)


@pytest.fixture
def answered() -> Callable[[Any], Answer]:
    return _answer


def test_okx_is_registered_and_a_venue() -> None:
    venue: Venue = VENUES["okx"]()
    assert venue.name == "okx"
    assert set(venue.sockets) == {"public", "business"}


# Frames.


def test_a_trade_of_spot_is_told_in_coins(okx: Okx) -> None:
    (trade,) = okx.decode(_frame("trades-all", "BTC-USDT", _trade()), 7)
    assert trade == Trade(
        instrument="okx:BTC-USDT",
        event_ns=1_630_048_897_897 * MS,
        received_ns=7,
        id=130639474,
        seq=130639474,
        side=Side.BUY,
        price=Decimal("42219.9"),
        size=Decimal("0.12060306"),
    )


def test_a_frame_written_with_spaces_says_the_same(okx: Okx) -> None:
    tight = _frame("trades-all", "BTC-USDT", _trade())
    assert okx.decode(json.dumps(json.loads(tight), indent=1).encode(), 7) == okx.decode(tight, 7)


def test_a_channel_is_only_recognised_where_it_stands_first(okx: Okx) -> None:
    """Its first fields are what a known channel is told by."""
    book = {"asks": [["3", "4", "0", "2"]], "bids": [], "ts": "5", "seqId": 6, "prevSeqId": -1}
    for channel, kind, row in (("trades-all", Trade, _trade()), ("books", DepthSnapshot, book)) * 2:
        message = json.loads(_frame(channel, "BTC-USDT", row))
        for frame in ({"x": {}, **message}, {"arg": message["arg"] | {"y": {}}, "data": [row]}, message):
            (told,) = okx.decode(json.dumps(frame, separators=(",", ":")).encode(), 7)
            assert type(told) is kind


def test_contracts_of_a_linear_swap_become_coins(okx: Okx) -> None:
    """Trap 8: 12 contracts of 0.01 BTC are 0.12 BTC."""
    (trade,) = okx.decode(_frame("trades-all", "BTC-USDT-SWAP", _trade(sz="12", side="sell")), 7)
    assert isinstance(trade, Trade)
    assert (trade.size, trade.contracts, trade.value, trade.side) == (Decimal("0.12"), Decimal(12), None, Side.SELL)


def test_contracts_of_an_inverse_swap_become_dollars_and_coins(okx: Okx) -> None:
    """Trap 8: 3 contracts of 100 USD at 42219.9 are 300 USD."""
    (trade,) = okx.decode(_frame("trades-all", "BTC-USD-SWAP", _trade(sz="3")), 7)
    assert isinstance(trade, Trade)
    assert (trade.value, trade.size, trade.contracts) == (Decimal(300), Decimal("0.00710565"), Decimal(3))


def test_merged_fills_of_one_order_keep_their_count_under_the_last_id(okx: Okx) -> None:
    """Trap 11."""
    (trade,) = okx.decode(_frame("trades", "BTC-USDT", _trade(count="3")), 7)
    assert isinstance(trade, Trade)
    assert (trade.id, trade.count) == (130639474, 3)
    assert okx.limits.trade_ids == "count"


def test_trades_and_candles_are_asked_on_business_and_the_rest_on_public(okx: Okx) -> None:
    """Trap 11."""
    endpoints = {feed: okx.streams(feed, ["BTC-USDT-SWAP"])[0].endpoint for feed in Feed}
    assert endpoints == {feed: "business" if feed in {Feed.TRADES, Feed.CANDLES} else "public" for feed in Feed}


def test_a_trade_repeated_after_a_subscription_keeps_its_id(okx: Okx) -> None:
    """Trap 15: the feed tells the repetition by the id."""
    frame = _frame("trades-all", "BTC-USDT", _trade())
    first = okx.decode(frame, 1)[0]
    okx.reset("business")
    again = okx.decode(frame, 2)[0]
    assert isinstance(first, Trade)
    assert isinstance(again, Trade)
    assert first.id == again.id


def test_what_is_not_listed_is_skipped_and_a_pair_tells_by_its_spelling_what_it_is(okx: Okx) -> None:
    okx.learn(())
    for symbol in ("BTC-USDT-SWAP", "BTC-USDT"):
        assert okx.decode(_frame("trades-all", symbol, _trade()), 7) == [Skipped("unknown_instrument", symbol)]
    assert okx.assume("BTC-USDT-SWAP") is None
    assumed = okx.assume("BTC-USDT")
    assert assumed is not None
    okx.learn([assumed])
    assert isinstance(okx.decode(_frame("trades-all", "BTC-USDT", _trade()), 7)[0], Trade)


def test_a_new_listing_replaces_what_streams_meant(okx: Okx) -> None:
    frame = _frame("trades-all", "BTC-USDT-SWAP", _trade(sz="12"))
    okx.decode(frame, 1)
    okx.learn([_instrument("BTC-USDT-SWAP", Kind.PERPETUAL, "0.1")])
    (trade,) = okx.decode(frame, 2)
    assert isinstance(trade, Trade)
    assert trade.size == Decimal("1.2")


def test_a_candle_counts_coins_for_spot_and_derivatives_alike(okx: Okx) -> None:
    row = ["1597026360000", "8533.02", "8553.74", "8527.17", "8548.26", "45247", "529.5858061", "4529585.8", "0"]
    spot = ["1597026360000", "8533.02", "8553.74", "8527.17", "8548.26", "529.5", "4529585.8", "4529585.8", "1"]
    (swap,) = okx.decode(_frame("candle1m", "BTC-USDT-SWAP", row), 7)
    (pair,) = okx.decode(_frame("candle1m", "BTC-USDT", spot), 7)
    assert isinstance(swap, Candle)
    assert isinstance(pair, Candle)
    assert (swap.volume, swap.quote_volume, swap.closed) == (Decimal("529.5858061"), Decimal("4529585.8"), False)
    assert (pair.volume, pair.quote_volume, pair.closed) == (Decimal("529.5"), Decimal("4529585.8"), True)
    assert (pair.side, pair.interval_s, pair.open_ns, pair.origin) == (Side.BOTH, 60, 1_597_026_360 * NS, "venue")


def test_the_best_quote_counts_coins_and_may_lack_a_side(okx: Okx) -> None:
    row = {"asks": [["111.06", "50", "0", "2"]], "bids": [], "ts": "1670324386802", "seqId": 363996337}
    (quote,) = okx.decode(_frame("bbo-tbt", "BTC-USDT-SWAP", row), 7)
    assert quote == Quote("okx:BTC-USDT-SWAP", 1_670_324_386_802 * MS, 7, None, None, Decimal("111.06"), Decimal("0.5"))


def test_depth_chains_by_the_number_before_and_takes_a_zero_checksum_as_none(okx: Okx) -> None:
    book = {"asks": [["8476.98", "415", "0", "13"]], "bids": [["8476.97", "256", "0", "12"]], "ts": "1597026383085"}
    snapshot = _frame("books", "BTC-USDT", {**book, "prevSeqId": -1, "seqId": 10, "checksum": 0}, action="snapshot")
    (first,) = okx.decode(snapshot, 7)
    gone = {**book, "bids": [["8476.97", "0", "0", "0"]], "prevSeqId": 10, "seqId": 15, "checksum": -855196043}
    (second,) = okx.decode(_frame("books", "BTC-USDT", gone, action="update"), 8)
    assert isinstance(first, DepthSnapshot)
    assert isinstance(second, DepthDelta)
    assert (first.seq, first.checksum, first.bids) == (10, None, ((Decimal("8476.97"), Decimal(256)),))
    assert (second.previous_seq, second.seq, second.checksum) == (10, 15, -855196043)
    assert second.bids == ((Decimal("8476.97"), Decimal(0)),)


def test_the_side_of_a_liquidation_is_the_order_and_its_price_the_bankruptcy_price(okx: Okx) -> None:
    """Traps 4, 5 and 6: short positions are closed by buying; details are in no order of time; two alike are two."""
    rows = [
        {
            "bkLoss": "0",
            "bkPx": "7.831",
            "ccy": "",
            "posSide": "short",
            "side": "buy",
            "sz": "13",
            "ts": "1692266434020",
        },
        {"bkLoss": "0", "bkPx": "7.9", "ccy": "", "posSide": "long", "side": "sell", "sz": "2", "ts": "1692266434010"},
        {"bkLoss": "0", "bkPx": "7.9", "ccy": "", "posSide": "long", "side": "sell", "sz": "2", "ts": "1692266434010"},
    ]
    data = [
        {"details": rows, "instFamily": "BTC-USDT", "instId": "BTC-USDT-SWAP", "instType": "SWAP", "uly": "BTC-USDT"},
        {"details": rows[:1], "instFamily": "X-USDT", "instId": "X-USDT-SWAP", "instType": "SWAP", "uly": "X-USDT"},
    ]
    message = {"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": data}
    *events, skipped = okx.decode(json.dumps(message).encode(), 7)
    assert skipped == Skipped("unknown_instrument", "X-USDT-SWAP")
    first, second, third = (e for e in events if isinstance(e, Liquidation))
    assert (first.side, first.price, first.size, first.contracts) == (
        Side.BUY,
        Decimal("7.831"),
        Decimal("0.13"),
        Decimal(13),
    )
    assert first.bankruptcy
    assert second.side is Side.SELL
    assert second.event_ns < first.event_ns
    assert len({first.id, second.id, third.id}) == 3
    assert okx.decode(json.dumps(message).encode(), 9)[1].id == second.id  # type: ignore[union-attr]


def test_liquidations_are_one_stream_a_type(okx: Okx) -> None:
    everything = okx.streams(Feed.LIQUIDATIONS, None)
    assert [(s.name, s.symbol, s.silence_s) for s in everything] == [
        ("liquidation-orders:FUTURES", "*", None),
        ("liquidation-orders:SWAP", "*", None),
    ]
    assert okx.streams(Feed.LIQUIDATIONS, ["BTC-USDT", "BTC-USDT-SWAP", "ETH-USDT-SWAP"]) == everything[1:]
    (frame,) = okx.subscribe(everything[1:])
    assert json.loads(frame) == {
        "op": "subscribe",
        "args": [{"channel": "liquidation-orders", "instType": "SWAP"}],
    }


def test_open_interest_counts_coins_and_keeps_contracts_and_dollars(okx: Okx) -> None:
    row = {"instType": "SWAP", "instId": "BTC-USDT-SWAP", "oi": "2216113", "oiCcy": "22161.13", "ts": "1743041250440"}
    (event,) = okx.decode(_frame("open-interest", "BTC-USDT-SWAP", {**row, "oiUsd": "1939251795.5"}), 7)
    assert event == OpenInterest(
        "okx:BTC-USDT-SWAP",
        1_743_041_250_440 * MS,
        7,
        Decimal("22161.13"),
        Decimal("1939251795.5"),
        Decimal(2216113),
    )


@pytest.mark.parametrize(("previous", "following", "hours"), [("0", "14400000", 4), ("-3600000", "28800000", 1)])
def test_the_funding_interval_is_the_one_of_the_running_period(
    okx: Okx, previous: str, following: str, hours: int
) -> None:
    """Trap 16: never a fixed grid of eight hours. Where the last settlement is told, the period began there."""
    at_ms = 1_743_609_600_000
    row = {
        "fundingRate": "-0.0001875391284828",
        "fundingTime": str(at_ms),
        "instId": "BTC-USDT-SWAP",
        "nextFundingTime": str(at_ms + int(following)),
        "nextFundingRate": "",
        "ts": "1743588686291",
    }
    if previous != "0":
        row["prevFundingTime"] = str(at_ms + int(previous))
    (event,) = okx.decode(_frame("funding-rate", "BTC-USDT-SWAP", row), 7)
    assert event == FundingRate(
        "okx:BTC-USDT-SWAP",
        1_743_588_686_291 * MS,
        7,
        Decimal("-0.0001875391284828"),
        at_ms * MS,
        hours * 3_600,
        settled=False,
    )


def test_a_mark_price_is_read(okx: Okx) -> None:
    row = {"instType": "SWAP", "instId": "BTC-USDT-SWAP", "markPx": "42310.6", "ts": "1630049139746"}
    assert okx.decode(_frame("mark-price", "BTC-USDT-SWAP", row), 7) == [
        MarkPrice("okx:BTC-USDT-SWAP", 1_630_049_139_746 * MS, 7, Decimal("42310.6"))
    ]


# What is between the venue and its session.


def test_a_subscription_is_acknowledged_by_name(okx: Okx) -> None:
    (stream,) = okx.streams(Feed.TRADES, ["BTC-USDT"])
    frame = b'{"event":"subscribe","arg":{"channel":"trades-all","instId":"BTC-USDT"},"connId":"a4d3ae55"}'
    assert okx.decode(frame, 7) == [Subscribed((stream.name,))]


def test_an_error_refuses_the_stream_it_names(okx: Okx) -> None:
    (stream,) = okx.streams(Feed.TRADES, ["NOT-REAL"])
    said = "Wrong URL or channel:trades-all,instId:NOT-REAL doesn't exist. Please use the correct URL."
    frame = json.dumps({"event": "error", "code": "60018", "msg": said, "connId": "a4d3ae55"}).encode()
    assert okx.decode(frame, 7) == [Refused(stream.name, f"60018 {said}")]
    assert okx.decode(b'{"event":"error","code":"60012","msg":"Invalid request","connId":"a"}', 7) == [
        Refused(None, "60012 Invalid request")
    ]


def test_a_planned_close_is_announced(okx: Okx) -> None:
    """Trap 17."""
    frame = b'{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade."}'
    assert okx.decode(frame, 7) == [Closing("64008 The connection will soon be closed for a service upgrade.")]


def test_the_heartbeat_is_text_and_so_is_its_answer(okx: Okx) -> None:
    heartbeat = okx.limits.heartbeat
    assert heartbeat is not None
    assert (heartbeat.frame, heartbeat.idle) == (b"ping", True)
    assert heartbeat.every_s < 30
    assert okx.decode(b"pong", 7) == [Alive()]


def test_subscriptions_stay_within_the_venues_limits(okx: Okx) -> None:
    symbols = [f"COIN{n}-USDT-SWAP" for n in range(450)]
    frames = okx.subscribe(okx.streams(Feed.TRADES, symbols))
    assert all(len(frame) < 64_000 for frame in frames)
    assert sum(len(json.loads(frame)["args"]) for frame in frames) == 450
    assert (okx.limits.messages.count, okx.limits.messages.per_s) == (480, 3_600)
    assert (okx.limits.connections.count, okx.limits.connections.per_s) == (3, 1)
    (undo,) = okx.subscribe(okx.streams(Feed.TRADES, ["BTC-USDT"]), undo=True)
    assert json.loads(undo) == {"op": "unsubscribe", "args": [{"channel": "trades-all", "instId": "BTC-USDT"}]}


def test_symbols_that_cannot_have_a_feed_are_left_out(okx: Okx) -> None:
    symbols = ["BTC-USDT", "BTC-USD-220527", "BTC-USDT-SWAP"]
    assert [s.symbol for s in okx.streams(Feed.FUNDING, symbols)] == ["BTC-USDT-SWAP"]
    assert [s.symbol for s in okx.streams(Feed.OPEN_INTEREST, symbols)] == symbols[1:]
    with pytest.raises(errors.Unsupported):
        okx.streams(Feed.TRADES, None)


HOSTILE = [
    *[_frame("trades-all", "BTC-USDT", _trade(px=px)) for px in ("NaN", "Infinity", "0", "-1", "1e308", "", None, "x")],
    *[_frame("trades-all", "BTC-USDT", _trade(sz=sz)) for sz in ("NaN", "-Infinity", "0", "-3", 5.5e300, True)],
    _frame("trades-all", "BTC-USDT", _trade(side="both")),
    _frame("trades-all", "BTC-USDT", _trade(ts="1630048897897000")),
    _frame("trades-all", "BTC-USDT", _trade(ts="-5")),
    _frame("trades-all", "BTC-USDT", _trade(tradeId="abc")),
    _frame("trades-all", "BTC-USDT", {"instId": "BTC-USDT"}),
    _frame("trades-all", "BTC-USDT", 5),
    _frame("candle1m", "BTC-USDT", ["1597026360000", "1", "1", "1", "1"]),
    _frame("candle1m", "BTC-USDT", ["1597026361000", "2", "2", "2", "2", "1", "1", "1", "1"]),
    _frame("candle1m", "BTC-USDT", ["1597026360000", "2", "1", "2", "2", "1", "1", "1", "1"]),
    _frame("candle1m", "BTC-USDT", ["1597026360000", "2", "2", "2", "2", "-1", "1", "1", "1"]),
    _frame("books", "BTC-USDT", {"asks": [["-1", "1", "0", "1"]], "bids": [], "ts": "1597026360000"}, action="update"),
    _frame("books", "BTC-USDT", {"asks": [["1", "NaN", "0", "1"]], "bids": [], "ts": "1597026360000"}, action="update"),
    _frame("books", "BTC-USDT", {"asks": [], "bids": [], "ts": "1597026360000"}, action="other"),
    _frame("open-interest", "BTC-USDT-SWAP", {"oi": "NaN", "oiCcy": "1", "ts": "1597026360000"}),
    _frame("open-interest", "BTC-USDT-SWAP", {"oi": "1", "oiCcy": "-1", "ts": "1597026360000"}),
    _frame("funding-rate", "BTC-USDT-SWAP", {"fundingRate": "Infinity", "fundingTime": "1597026360000"}),
    _frame("mark-price", "BTC-USDT-SWAP", {"markPx": "0", "ts": "1597026360000"}),
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"{}",
    b"<html>no</html>",
    b'{"arg":{"channel":"trades-all","instId":"BTC-USDT"}}',
    b'{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":"x"}',
    b'{"arg":5,"data":[]}',
]


@pytest.mark.parametrize("frame", HOSTILE)
def test_what_cannot_be_read_is_refused_and_nothing_else_happens(okx: Okx, frame: bytes) -> None:
    with pytest.raises(errors.Unreadable):
        okx.decode(frame, 7)
    assert isinstance(okx.decode(_frame("trades-all", "BTC-USDT", _trade()), 7)[0], Trade)


# REST.


def test_the_listing_is_asked_type_by_type_and_one_bad_row_costs_only_itself(okx: Okx, pages: Pages) -> None:
    swap = {
        "instId": "BTC-USD-SWAP",
        "instType": "SWAP",
        "state": "live",
        "tickSz": "0.1",
        "lotSz": "1",
        "settleCcy": "BTC",
        "ctVal": "100",
        "ctMult": "1",
        "ctType": "inverse",
        "ctValCcy": "USD",
        "listTime": "1611916828000",
        "expTime": "",
        "uly": "BTC-USD",
    }
    future = {**swap, "instId": "BTC-USDT-261225", "instType": "FUTURES", "ctVal": "0.01", "ctType": "linear"}
    future |= {"expTime": "1798185600000", "settleCcy": "USDT", "state": "preopen"}
    spot = {"instId": "BTC-USDT", "instType": "SPOT", "state": "live", "tickSz": "0.1", "lotSz": "0.00000001"}
    spot |= {"baseCcy": "BTC", "quoteCcy": "USDT", "listTime": "1611907686000"}
    rows = {"SPOT": [spot, {**spot, "tickSz": "NaN"}, 5], "SWAP": [swap], "FUTURES": [future]}
    told = list(pages(okx, Ask(query=Query.INSTRUMENTS), lambda _, query: rows[query["instType"]]))
    assert [page.unread for page in told] == [2, 0, 0]
    pair, perpetual, dated = (i for page in told for i in page.instruments)
    assert (pair.name, pair.kind, pair.contract_size, pair.coin) == ("okx:BTC-USDT", Kind.SPOT, None, "BTC")
    assert (perpetual.contract_size, perpetual.inverse, perpetual.settle) == (Decimal(100), True, "BTC")
    assert (perpetual.coin, perpetual.quote, perpetual.listed_ns) == ("BTC", "USD", 1_611_916_828 * NS)
    assert (dated.kind, dated.contract_size, dated.inverse) == (Kind.FUTURE, Decimal("0.01"), False)
    assert (dated.expires_ns, dated.trading) == (1_798_185_600 * NS, False)
    with pytest.raises(errors.Unreadable):
        okx.page(Ask(query=Query.INSTRUMENTS), _answer([5, 6]))


class Bars:
    """The venue's bars, newest first, with its bounds: `candles` the newest 1440, `history-candles` the closed ones."""

    def __init__(self, first_ns: int, lag: int = 3, interval_s: int = 60, page_max: int = 300) -> None:
        self.first_ns, self.lag, self.interval_s, self.page_max = first_ns, lag, interval_s, page_max
        self.asked: list[str] = []

    def __call__(self, path: str, query: dict[str, str]) -> list[list[str]]:
        self.asked.append(path.removeprefix("/api/v5/market/"))
        step_ms = self.interval_s * 1_000
        opens = range(self.first_ns // MS, NOW_NS // MS + 1, step_ms)
        recent = path.endswith("/candles")
        served = opens[-1_440:] if recent else opens[: -self.lag - 1]
        before, after = int(query.get("before", 0)), int(query.get("after", 1 << 60))
        rows = [[str(o), "2", "3", "1", "2", "7", "5", "5", "0" if o == opens[-1] else "1"] for o in served]
        return [row for row in reversed(rows) if before < int(row[0]) < after][
            : min(int(query["limit"]), self.page_max)
        ]


@pytest.mark.parametrize("minutes", [1, 299, 300, 301, 2_000])
def test_a_range_of_candles_comes_whole_and_in_order(okx: Okx, minutes: int, pages: Pages) -> None:
    """Trap 12: the venue sends the newest first, and its history lags behind."""
    bars = Bars(NOW_NS - 5_000 * MINUTE_NS)
    start_ns = NOW_NS - minutes * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol="BTC-USDT", interval_s=60, start_ns=start_ns, end_ns=NOW_NS)
    told = list(pages(okx, ask, bars))
    opens = [e.open_ns for page in told for e in page.events if isinstance(e, Candle)]
    assert opens == list(range(start_ns, NOW_NS, MINUTE_NS))
    _assert_promises(told, start_ns, NOW_NS)


def _assert_promises(pages: list[Page], start_ns: int, end_ns: int) -> None:
    """The pages' promises, put together, cover the stretch without a hole."""
    covered = start_ns
    for page in sorted((p for p in pages if p.start_ns is not None), key=lambda p: p.start_ns or 0):
        assert page.end_ns is not None
        assert (page.start_ns or 0) <= covered
        covered = max(covered, page.end_ns)
    assert covered == end_ns


def test_an_old_range_of_candles_asks_only_the_history(okx: Okx, pages: Pages) -> None:
    bars = Bars(NOW_NS - 5_000 * MINUTE_NS)
    start_ns, end_ns = NOW_NS - 4_000 * MINUTE_NS, NOW_NS - 3_500 * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol="BTC-USDT", interval_s=60, start_ns=start_ns, end_ns=end_ns)
    assert sum(len(page.events) for page in pages(okx, ask, bars)) == 500
    assert bars.asked == ["history-candles", "history-candles"]


@pytest.mark.parametrize("limit", [1, 300, 500, 1_440, 1_500])
def test_the_newest_candles_end_with_the_growing_one_and_go_on_into_the_history(
    okx: Okx, limit: int, pages: Pages
) -> None:
    bars = Bars(NOW_NS - 5_000 * MINUTE_NS)
    ask = Ask(query=Query.CANDLES, symbol="BTC-USDT", interval_s=60, newest=True, limit=limit)
    told = list(pages(okx, ask, bars))
    candles = [e for page in reversed(told) for e in page.events if isinstance(e, Candle)]
    assert [c.open_ns for c in candles] == list(range(NOW_NS - (limit - 1) * MINUTE_NS, NOW_NS + 1, MINUTE_NS))
    assert [c.closed for c in candles] == [True] * (limit - 1) + [False]
    assert candles[0].open_ns == told[-1].start_ns or limit == 1
    assert ("history-candles" in bars.asked) == (limit > 1_440)


def test_the_newest_candles_stop_where_the_instrument_began(okx: Okx, pages: Pages) -> None:
    bars = Bars(NOW_NS - 100 * MINUTE_NS)
    ask = Ask(query=Query.CANDLES, symbol="BTC-USDT", interval_s=60, newest=True, limit=500)
    assert sum(len(page.events) for page in pages(okx, ask, bars)) == 101


def test_long_bars_are_asked_on_utc_and_others_are_refused(okx: Okx) -> None:
    """Trap 10: without the suffix a day would open at 16:00 UTC."""
    asked = {
        interval_s: dict(okx.request(Ask(query=Query.CANDLES, symbol="BTC-USDT", interval_s=interval_s)).query)["bar"]
        for interval_s in sorted(okx.intervals_s)
    }
    assert asked[14_400] == "4H"
    assert [bar for bar in asked.values() if bar.endswith("utc")] == ["6Hutc", "12Hutc", "1Dutc", "1Wutc"]
    with pytest.raises(errors.BadInterval):
        okx.request(Ask(query=Query.CANDLES, symbol="BTC-USDT", interval_s=28_800))
    day = ["1699977600000", "2", "3", "1", "2", "7", "5", "5", "1"]  # 16:00 UTC
    ask = Ask(query=Query.CANDLES, symbol="BTC-USDT", interval_s=86_400, newest=True, limit=1)
    with pytest.raises(errors.Unreadable, match="another interval"):
        okx.page(ask, _answer([day]))


class Tape:
    """The venue's past trades: ids without holes, ten a second."""

    def __init__(self, count: int, step_ms: int = 100) -> None:
        end_ms = NOW_NS // MS
        self.rows = [
            _trade(tradeId=str(1_000 + n), ts=str(end_ms - (count - n) * step_ms), sz="2") for n in range(count)
        ]

    def __call__(self, path: str, query: dict[str, str]) -> list[dict[str, Any]]:
        assert path == "/api/v5/market/history-trades"
        key = "tradeId" if query["type"] == "1" else "ts"
        after = int(query.get("after", 1 << 60))
        return [row for row in reversed(self.rows) if int(row[key]) < after][: min(int(query["limit"]), 100)]


@pytest.mark.parametrize("after_id", [999, 1_000, 1_650, 1_998, 1_999])
def test_trades_after_an_id_come_whole_and_in_order(okx: Okx, after_id: int, pages: Pages) -> None:
    ask = Ask(query=Query.TRADES, symbol="BTC-USDT-SWAP", from_id=after_id)
    events = [e for page in pages(okx, ask, Tape(1_000)) for e in page.events]
    assert [e.id for e in events if isinstance(e, Trade)] == list(range(after_id + 1, 2_000))
    assert all(e.size == Decimal("0.02") for e in events if isinstance(e, Trade))


def test_trades_of_a_stretch_begin_by_time_and_go_on_by_id(okx: Okx, pages: Pages) -> None:
    start_ns, end_ns = NOW_NS - 50 * NS, NOW_NS - 20 * NS
    ask = Ask(query=Query.TRADES, symbol="BTC-USDT-SWAP", start_ns=start_ns, end_ns=end_ns)
    told = list(pages(okx, ask, Tape(1_000)))
    trades = [e for page in told for e in page.events if isinstance(e, Trade)]
    assert [t.id for t in trades] == list(range(1_500, 1_800))
    _assert_promises(told, start_ns, end_ns)
    limited = [e for page in pages(okx, Ask(**{**_fields(ask), "limit": 130}), Tape(1_000)) for e in page.events]
    assert [e.id for e in limited if isinstance(e, Trade)] == list(range(1_500, 1_630))


def _fields(ask: Ask) -> dict[str, Any]:
    return {name: getattr(ask, name) for name in ask.__struct_fields__}


def test_trades_older_than_the_venue_keeps_are_out_of_reach(okx: Okx, pages: Pages) -> None:
    ask = Ask(query=Query.TRADES, symbol="BTC-USDT-SWAP", start_ns=NOW_NS - 5_000 * NS, end_ns=NOW_NS)
    with pytest.raises(errors.OutOfReach):
        list(pages(okx, ask, Tape(1_000)))


def test_the_newest_trades_are_paged_downwards(okx: Okx, pages: Pages) -> None:
    ask = Ask(query=Query.TRADES, symbol="BTC-USDT-SWAP", newest=True, limit=250)
    events = [e for page in reversed(list(pages(okx, ask, Tape(1_000)))) for e in page.events]
    assert [e.id for e in events if isinstance(e, Trade)] == list(range(1_750, 2_000))


def test_settled_funding_is_told_with_the_interval_of_its_own_period(okx: Okx, pages: Pages) -> None:
    """Trap 16: four hours, then one; some milliseconds past the hour."""
    hour_ms = 3_600_000
    base_ms = NOW_NS // MS // hour_ms * hour_ms
    stamps = [base_ms - 9 * hour_ms, base_ms - 5 * hour_ms + 17, base_ms - hour_ms + 3, base_ms]
    rows = [
        {"fundingRate": "0.5", "realizedRate": f"0.000{n}", "fundingTime": str(stamp), "instId": "BTC-USDT-SWAP"}
        for n, stamp in enumerate(stamps)
    ]

    def serve(path: str, query: dict[str, str]) -> list[dict[str, str]]:
        assert path == "/api/v5/public/funding-rate-history"
        low, high = int(query.get("before", 0)), int(query.get("after", 1 << 60))
        return [r for r in reversed(rows) if low < int(r["fundingTime"]) < high][: int(query["limit"])]

    ask = Ask(query=Query.FUNDING_HISTORY, symbol="BTC-USDT-SWAP", start_ns=NOW_NS - 30 * 86_400 * NS, end_ns=NOW_NS)
    events = [e for page in pages(okx, ask, serve) for e in page.events if isinstance(e, FundingRate)]
    assert [(e.funding_ns, e.rate, e.interval_s) for e in events] == [
        (stamps[0] * MS, Decimal("0.0000"), None),
        (stamps[1] * MS, Decimal("0.0001"), 14_400),
        (stamps[2] * MS, Decimal("0.0002"), 14_400),
        (stamps[3] * MS, Decimal("0.0003"), 3_600),
    ]
    assert all(e.settled for e in events)
    newest = Ask(query=Query.FUNDING_HISTORY, symbol="BTC-USDT-SWAP", newest=True, limit=2)
    assert [e.funding_ns for p in pages(okx, newest, serve) for e in p.events if isinstance(e, FundingRate)] == [
        s * MS for s in stamps[2:]
    ]


def test_hourly_funding_does_not_overflow_a_page(okx: Okx, pages: Pages) -> None:
    """Trap 16: a page that spans days of an eight-hour grid would lose rows of an hourly one."""
    hour_ns = 3_600 * NS
    now_ns = NOW_NS // hour_ns * hour_ns

    def serve(_: str, query: dict[str, str]) -> list[dict[str, str]]:
        low, high = int(query["before"]), int(query["after"])
        stamps = [(now_ns - n * hour_ns) // MS for n in range(1_000)]
        rows = [{"fundingRate": "0.1", "fundingTime": str(s)} for s in stamps if low < s < high]
        return rows[: int(query["limit"])]

    start_ns = now_ns - 900 * hour_ns
    ask = Ask(query=Query.FUNDING_HISTORY, symbol="BTC-USDT-SWAP", start_ns=start_ns, end_ns=NOW_NS)
    events = [e.event_ns for page in pages(okx, ask, serve) for e in page.events if isinstance(e, FundingRate)]
    assert events == list(range(start_ns, NOW_NS, hour_ns))


def test_open_interest_history_is_paged_and_ends_at_the_venues_reach(okx: Okx, pages: Pages) -> None:
    hour_ns = 3_600 * NS
    now_hour_ns = NOW_NS // hour_ns * hour_ns
    opens = [now_hour_ns - n * hour_ns for n in range(1_440)]

    def serve(path: str, query: dict[str, str]) -> list[list[str]]:
        assert path == "/api/v5/rubik/stat/contracts/open-interest-history"
        assert query["period"] == "1H"
        low, high = int(query.get("begin", 0)), int(query.get("end", 1 << 60))
        rows = [[str(o // MS), "100", "1", "26500"] for o in opens if low <= o // MS <= high]
        return rows[: int(query["limit"])]

    start_ns = now_hour_ns - 250 * hour_ns
    ask = Ask(
        query=Query.OPEN_INTEREST_HISTORY, symbol="BTC-USDT-SWAP", interval_s=3_600, start_ns=start_ns, end_ns=NOW_NS
    )
    told = list(pages(okx, ask, serve))
    events = [e for page in told for e in page.events if isinstance(e, OpenInterest)]
    assert [e.event_ns for e in events] == list(range(start_ns, NOW_NS, hour_ns))
    assert (events[0].size, events[0].contracts, events[0].value) == (Decimal(1), Decimal(100), Decimal(26500))
    newest = Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="BTC-USDT-SWAP", interval_s=3_600, newest=True, limit=150)
    assert sum(len(page.events) for page in pages(okx, newest, serve)) == 150
    old = Ask(**{**_fields(ask), "start_ns": start_ns - 3_000 * hour_ns, "end_ns": start_ns - 2_900 * hour_ns})
    with pytest.raises(errors.OutOfReach):
        list(pages(okx, old, serve))


def test_funding_now_is_the_running_rate_and_then_the_mark_price(okx: Okx, pages: Pages) -> None:
    rows = {
        "/api/v5/public/funding-rate": {
            "fundingRate": "0.0001",
            "fundingTime": "1700006400000",
            "nextFundingTime": "1700035200000",
            "ts": "1700000039000",
        },
        "/api/v5/public/mark-price": {"markPx": "36000.1", "ts": "1700000039000"},
    }
    ask = Ask(query=Query.FUNDING, symbol="BTC-USDT-SWAP")
    rate, mark = (e for page in pages(okx, ask, lambda path, _: [rows[path]]) for e in page.events)
    assert isinstance(rate, FundingRate)
    assert isinstance(mark, MarkPrice)
    assert (rate.funding_ns, rate.interval_s, rate.settled) == (1_700_006_400 * NS, 28_800, False)
    assert mark.mark == Decimal("36000.1")


@pytest.mark.parametrize("query", [Query.FUNDING, Query.FUNDING_HISTORY, Query.OPEN_INTEREST])
def test_spot_has_no_funding_and_no_open_interest(okx: Okx, query: Query) -> None:
    with pytest.raises(errors.Unsupported, match="spot"):
        okx.request(Ask(query=query, symbol="BTC-USDT"))
    with pytest.raises(errors.Unsupported):
        okx.request(Ask(query=Query.PREDICTED_FUNDING))


def test_tickers_of_all_types_are_told_in_coins_and_quote(okx: Okx, pages: Pages) -> None:
    row = {"open24h": "100", "high24h": "120", "low24h": "90", "last": "110", "ts": "1700000039000"}
    rows = {
        "SPOT": [{**row, "instId": "BTC-USDT", "vol24h": "5", "volCcy24h": "520"}],
        "SWAP": [
            {**row, "instId": "BTC-USD-SWAP", "vol24h": "7", "volCcy24h": "6.4"},
            {**row, "instId": "UNKNOWN-USD-SWAP", "vol24h": "7", "volCcy24h": "6.4"},
            {**row, "instId": "BTC-USDT-SWAP", "vol24h": "500", "volCcy24h": "5"},
        ],
        "FUTURES": [{**row, "instId": "BTC-USD-220527", "last": "", "vol24h": "0", "volCcy24h": "0"}],
    }
    told = pages(okx, Ask(query=Query.TICKERS), lambda _, query: rows[query["instType"]])
    tickers = {e.instrument: (e.volume, e.quote_volume) for p in told for e in p.events if isinstance(e, Ticker)}
    assert tickers == {
        "okx:BTC-USDT": (Decimal(5), Decimal(520)),
        "okx:BTC-USD-SWAP": (Decimal("6.4"), Decimal(700)),
        "okx:BTC-USDT-SWAP": (Decimal(5), Decimal(550)),
    }


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (_answer([], code="51001"), errors.UnknownInstrument),
        (_answer([], code="51000", text="Parameter instId error", status=400), errors.UnknownInstrument),
        (_answer([], code="51000", text="Parameter bar error", status=400), errors.Unavailable),
        (_answer([], code="50011", status=429), errors.RateLimited),
        (_answer([], code="50011"), errors.RateLimited),
        (_answer(b"slow down", status=429), errors.RateLimited),
        (_answer([], code="50001", status=503), errors.Unavailable),
        (_answer([], code="50026"), errors.Unavailable),
        (_answer(b"<html>502</html>", status=502), errors.Unavailable),
        (_answer(b"<html>blocked</html>", status=403), errors.Unavailable),
        (_answer(b"<html>all is well</html>"), errors.Unreadable),
        (_answer(b""), errors.Unreadable),
        (_answer(b'{"code":"0","data":{}}'), errors.Unreadable),
        (_answer([["1597026360000", "NaN", "1", "1", "1", "1", "1", "1", "1"]]), errors.Unreadable),
    ],
)
def test_a_refusal_of_the_venue_is_said_in_our_words(okx: Okx, answer: Answer, refusal: type[Exception]) -> None:
    ask = Ask(query=Query.CANDLES, symbol="BTC-USDT", interval_s=60, newest=True, limit=5)
    with pytest.raises(refusal) as caught:
        okx.page(ask, answer)
    assert type(caught.value) is refusal


def test_the_wait_is_the_venues_and_bounded(okx: Okx) -> None:
    ask = Ask(query=Query.TIME)
    for told, wait_s in (("7", 7.0), ("1e9", 600.0), ("soon", 2.0)):
        with pytest.raises(errors.RateLimited) as caught:
            okx.page(ask, _answer([], status=429, code="50011", retry_after=told))
        assert caught.value.retry_s == wait_s
    assert okx.page(ask, _answer([{"ts": "1597026383085"}])) == Page(events=())


# The recorded session.


@pytest.fixture
def recorded(recordings: Path) -> list[bytes]:
    with gzip.open(recordings / "frames" / "OKX.ws.1.0.gz", "rt") as lines:
        return [line.rstrip("\n").partition(": ")[2].encode() for line in lines if not line.startswith("wss:")]


def test_the_recorded_session_becomes_these_events(okx: Okx, recorded: list[bytes]) -> None:
    said = [event for frame in recorded for event in okx.decode(frame, NOW_NS)]
    assert Counter(type(event).__name__ for event in said) == {
        "Subscribed": 18,
        "Quote": 28,
        "Trade": 74,
        "DepthSnapshot": 3,
        "DepthDelta": 287,
    }
    trades = [event for event in said if isinstance(event, Trade)]
    pairs = [t for t in trades if t.instrument == "okx:BTC-USDT"]
    assert [t.id for t in pairs] == list(range(338476307, 338476307 + len(pairs)))
    assert trades[0] == Trade(
        instrument="okx:BTC-USD-220527",
        event_ns=1_652_459_199_958 * MS,
        received_ns=NOW_NS,
        id=7849,
        seq=7849,
        side=Side.BUY,
        price=Decimal("30218.8"),
        size=Decimal("0.00330920"),
        value=Decimal(100),
        contracts=Decimal(1),
    )
    (uni,) = (t for t in trades if t.instrument == "okx:UNI-USD-SWAP")
    assert (uni.value, uni.size, uni.side) == (Decimal(1_000), Decimal("195.19812610"), Side.SELL)


def test_the_recorded_books_have_the_checksums_they_carry(okx: Okx, recorded: list[bytes]) -> None:
    """The digits must stay as they were sent: 0.10 and 0.1 are one number and two texts."""
    books: dict[str, tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]] = {}
    checked = 0
    for frame in recorded:
        for event in okx.decode(frame, NOW_NS):
            if not isinstance(event, DepthSnapshot | DepthDelta):
                continue
            if isinstance(event, DepthSnapshot):
                books[event.instrument] = ({}, {})
            else:
                assert event.previous_seq == event.seq - 1
            for side, levels in zip(books[event.instrument], (event.bids, event.asks), strict=True):
                for price, size in levels:
                    side.pop(price, None)
                    if size:
                        side[price] = size
            assert event.checksum == _checksum(*books[event.instrument])
            checked += 1
    assert checked == 290


def _checksum(bids: dict[Decimal, Decimal], asks: dict[Decimal, Decimal]) -> int:
    best_bids = sorted(bids.items(), reverse=True)[:25]
    best_asks = sorted(asks.items())[:25]
    parts: list[str] = []
    for place in range(25):
        for side in (best_bids, best_asks):
            parts += [format(number, "f") for number in side[place]] if place < len(side) else []
    unsigned = zlib.crc32(":".join(parts).encode())
    return unsigned - (1 << 32) if unsigned >= 1 << 31 else unsigned


FRAMES = [
    _frame("trades-all", "BTC-USDT", _trade(), _trade()),
    _frame("trades-all", "BTC-USD-SWAP", _trade(sz="5")),
    _frame("candle1m", "BTC-USDT", ["1597026360000", "2", "3", "1", "2", "7", "5", "5", "1"]),
    _frame(
        "bbo-tbt",
        "BTC-USD-SWAP",
        {"asks": [["3", "4", "0", "2"]], "bids": [["1", "2", "0", "2"]], "ts": "5", "seqId": 6},
    ),
    _frame(
        "books",
        "BTC-USDT",
        {"asks": [["3", "4", "0", "2"]], "bids": [], "ts": "5", "seqId": 6, "prevSeqId": 5, "checksum": 9},
        action="update",
    ),
    _frame(
        "tickers",
        "BTC-USD-SWAP",
        {"instId": "BTC-USD-SWAP", "ts": "5", "bidPx": "1", "bidSz": "2", "askPx": "3", "askSz": "4"},
    ),
    _frame("open-interest", "BTC-USDT-SWAP", {"oi": "100", "oiCcy": "1", "oiUsd": "26500", "ts": "1597026360000"}),
    _frame(
        "funding-rate",
        "BTC-USDT-SWAP",
        {
            "fundingRate": "0.1",
            "fundingTime": "1597026360000",
            "nextFundingTime": "1597126360000",
            "ts": "1597026300000",
        },
    ),
    _frame("mark-price", "BTC-USDT-SWAP", {"markPx": "4", "ts": "1597026360000"}),
    json.dumps(
        {
            "arg": {"channel": "liquidation-orders", "instType": "SWAP"},
            "data": [
                {
                    "instId": "BTC-USD-SWAP",
                    "details": [{"side": "buy", "bkPx": "0.5", "sz": "13", "ts": "1692266434010"}],
                }
            ],
        }
    ).encode(),
    b'{"event":"error","code":"60018","msg":"channel:trades,instId:X-Y doesn\'t exist","arg":{"channel":"trades"}}',
]
ANSWERS: dict[Query, Any] = {
    Query.INSTRUMENTS: [
        {"instId": "BTC-USDT", "instType": "SPOT", "state": "live", "tickSz": "0.1", "lotSz": "0.1", "listTime": "5"},
        {
            "instId": "BTC-USDT-SWAP",
            "instType": "SWAP",
            "state": "live",
            "tickSz": "0.1",
            "lotSz": "0.1",
            "ctVal": "0.01",
            "ctMult": "1",
            "ctType": "linear",
        },
    ],
    Query.CANDLES: [["1699999980000", "2", "3", "1", "2", "7", "5", "5", "1"]],
    Query.TRADES: [_trade(tradeId="2"), _trade(tradeId="1")],
    Query.OPEN_INTEREST: [{"oi": "100", "oiCcy": "1", "oiUsd": "26500", "ts": "1597026360000"}],
    Query.OPEN_INTEREST_HISTORY: [["1699999800000", "100", "1", "26500"]],
    Query.FUNDING: [{"fundingRate": "0.1", "fundingTime": "1597026360000", "nextFundingTime": "1597126360000"}],
    Query.FUNDING_HISTORY: [{"fundingRate": "0.1", "realizedRate": "0.1", "fundingTime": "1699999200000"}],
    Query.TICKERS: [
        {
            "instId": "BTC-USDT",
            "last": "2",
            "open24h": "2",
            "high24h": "3",
            "low24h": "1",
            "vol24h": "7",
            "volCcy24h": "9",
            "ts": "1597026360000",
        }
    ],
}


@settings(deadline=None)
@given(frame=st.sampled_from(FRAMES), data=st.data())
def test_a_frame_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_frame: SpoilFrame, frame: bytes, data: st.DataObject
) -> None:
    venue = Okx()
    venue.learn(LISTING)
    spoil_frame(venue, frame, data)


@settings(deadline=None)
@given(query=st.sampled_from(list(ANSWERS)), data=st.data())
def test_an_answer_with_one_wrong_value_is_refused_in_our_words_or_still_makes_sense(
    spoil_answer: SpoilAnswer, query: Query, data: st.DataObject
) -> None:
    venue = Okx()
    venue.learn(LISTING)
    interval_s = 300 if query is Query.OPEN_INTEREST_HISTORY else 60
    ask = Ask(query=query, symbol=LISTING[0].symbol, interval_s=interval_s, newest=True, limit=5)
    spoil_answer(venue, Ask(query=query) if query is Query.INSTRUMENTS else ask, _answer(ANSWERS[query]), data)
