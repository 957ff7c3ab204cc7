"""Bybit frames and answers, hand-made in the venue's own form: linear, inverse and spot."""

import json
from collections.abc import Callable
from decimal import Decimal
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
from openoutcry.venues.bybit import Bybit, BybitSpot
from openoutcry.venues.venue import (
    Alive,
    Answer,
    Ask,
    Feed,
    Page,
    Query,
    Refused,
    Reply,
    Skipped,
    Subscribed,
    Venue,
)
from tests.venues.pages import Pages, SpoilAnswer, SpoilFrame

MS = 1_000_000
NOW_NS = 1_700_000_040 * NS  # 2023-11-14 22:14:00 UTC, a full minute
MINUTE_NS = 60 * NS
HOUR_NS = 3_600 * NS


def _instrument(symbol: str, *, inverse: bool = False) -> Instrument:
    coin = symbol[:3]
    return Instrument(
        venue="bybit",
        symbol=symbol,
        kind=Kind.PERPETUAL,
        coin=coin,
        quote=symbol[3:],
        settle=coin if inverse else symbol[3:],
        tick_size=Decimal("0.1"),
        lot_size=Decimal("0.001"),
        contract_size=Decimal(1) if inverse else None,
        inverse=inverse,
    )


LISTING = (_instrument("BTCUSDT"), _instrument("BTCUSD", inverse=True))


@pytest.fixture
def bybit() -> Bybit:
    venue = Bybit()
    venue.learn(LISTING)
    return venue


def _frame(topic: str, data: Any, **more: Any) -> bytes:
    message = {"topic": topic, "type": "snapshot", "ts": 1672304486868, "data": data, **more}
    return json.dumps(message, separators=(",", ":")).encode()


def _trade(**changes: Any) -> dict[str, Any]:
    row = {"T": 1672304486865, "s": "BTCUSDT", "S": "Buy", "v": "0.001", "p": "16578.50", "L": "PlusTick"}
    return {**row, "i": "20f43950-d8dd-5b31-9112-a178eb6023af", "BT": False, "seq": 1783284617, **changes}


RECEIVED_NS = NOW_NS + 3 * NS


def _answer(result: Any, *, status: int = 200, code: int = 0, text: str = "OK", **headers: str) -> Answer:
    whole = {"retCode": code, "retMsg": text, "result": result, "retExtInfo": {}, "time": NOW_NS // MS}
    body = result if isinstance(result, bytes) else json.dumps(whole).encode()
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, body, RECEIVED_NS)


@pytest.fixture
def answered() -> Callable[[Any], Answer]:
    return _answer


def _fields(ask: Ask) -> dict[str, Any]:
    return {name: getattr(ask, name) for name in ask.__struct_fields__}


def test_both_are_registered_and_venues() -> None:
    venues: list[Venue] = [VENUES["bybit"](), VENUES["bybit_spot"]()]
    assert [(v.name, set(v.sockets)) for v in venues] == [("bybit", {"linear", "inverse"}), ("bybit_spot", {"spot"})]


# Frames.


def test_a_linear_trade_is_told_in_coins_by_the_taker(bybit: Bybit) -> None:
    (trade,) = bybit.decode(_frame("publicTrade.BTCUSDT", [_trade()]), 7)
    assert trade == Trade(
        instrument="bybit:BTCUSDT",
        event_ns=1_672_304_486_865 * MS,
        received_ns=7,
        id="20f43950-d8dd-5b31-9112-a178eb6023af",
        seq=1783284617,
        side=Side.BUY,
        price=Decimal("16578.50"),
        size=Decimal("0.001"),
    )


def test_a_frame_written_with_spaces_says_the_same(bybit: Bybit) -> None:
    tight = _frame("publicTrade.BTCUSDT", [_trade()])
    turned = {key: json.loads(tight)[key] for key in ("data", "ts", "topic", "type")}
    assert bybit.decode(json.dumps(turned, indent=1).encode(), 7) == bybit.decode(tight, 7)


def test_a_topic_is_only_recognised_where_it_stands_first(bybit: Bybit) -> None:
    """Its first field is what a known topic is told by: `type` first is that of every topic."""
    for topic, kind in (("publicTrade.BTCUSDT", Trade), ("orderbook.50.BTCUSDT", DepthSnapshot)) * 2:
        message = json.loads(_frame(topic, [_trade()] if kind is Trade else _book([["1", "2"]], [["3", "4"]], 5)))
        turned = {"type": message["type"], **message}
        for frame in (turned, message):
            (told,) = bybit.decode(json.dumps(frame, separators=(",", ":")).encode(), 7)
            assert type(told) is kind


def test_an_inverse_trade_counts_dollars(bybit: Bybit) -> None:
    """Trap 8: 500 contracts of one dollar at 16578.50."""
    (trade,) = bybit.decode(_frame("publicTrade.BTCUSD", [_trade(s="BTCUSD", v="500", S="Sell")]), 7)
    assert isinstance(trade, Trade)
    assert (trade.value, trade.contracts, trade.size) == (Decimal(500), Decimal(500), Decimal("0.03015954"))
    assert trade.side is Side.SELL


def test_all_trades_of_a_frame_come_in_its_order_and_block_trades_do_not_count(bybit: Bybit) -> None:
    rows = [_trade(i=str(n), v=str(n + 1), seq=9, RPI=n == 1, BT=n == 2) for n in range(4)]
    events = bybit.decode(_frame("publicTrade.BTCUSDT", rows), 7)
    assert [e.id if isinstance(e, Trade) else e for e in events] == ["0", "1", Skipped("block", "bybit:BTCUSDT"), "3"]


def test_a_trade_repeated_after_a_reconnection_keeps_its_id(bybit: Bybit) -> None:
    """Trap 15, and the order of trades that share a time and a sequence stays that of the frame."""
    frame = _frame("publicTrade.BTCUSDT", [_trade()])
    first = bybit.decode(frame, 1)[0]
    bybit.reset("linear")
    again = bybit.decode(frame, 2)[0]
    assert isinstance(first, Trade)
    assert isinstance(again, Trade)
    assert first.id == again.id


def test_times_are_milliseconds_and_nothing_else(bybit: Bybit) -> None:
    """Trap 14: a stamp in microseconds is not the year 54960."""
    with pytest.raises(errors.Unreadable):
        bybit.decode(_frame("publicTrade.BTCUSDT", [_trade(T=1672304486865000)]), 7)


def test_the_venues_minute_closes_when_it_is_confirmed(bybit: Bybit) -> None:
    row = {"start": 1672324800000, "end": 1672324859999, "interval": "1", "open": "16649.5", "close": "16677"}
    row |= {"high": "16677", "low": "16608", "volume": "2.081", "turnover": "34666.4005", "timestamp": 1672324988882}
    linear = bybit.decode(_frame("kline.1.BTCUSDT", [{**row, "confirm": False}, {**row, "confirm": True}]), 7)
    (inverse,) = bybit.decode(_frame("kline.1.BTCUSD", [{**row, "confirm": True}]), 7)
    assert [c.closed for c in linear if isinstance(c, Candle)] == [False, True]
    assert linear[1] == Candle(
        instrument="bybit:BTCUSDT",
        side=Side.BOTH,
        interval_s=60,
        open_ns=1_672_324_800 * NS,
        open=Decimal("16649.5"),
        high=Decimal(16677),
        low=Decimal(16608),
        close=Decimal(16677),
        volume=Decimal("2.081"),
        quote_volume=Decimal("34666.4005"),
        trades=0,
        first_ns=None,
        last_ns=None,
        closed=True,
        received_ns=7,
        origin="venue",
    )
    assert isinstance(inverse, Candle)
    # Inverse: the volume is dollars, the turnover coins.
    assert (inverse.volume, inverse.quote_volume) == (Decimal("34666.4005"), Decimal("2.081"))


def _book(bids: list[list[str]], asks: list[list[str]], update: int, symbol: str = "BTCUSDT") -> dict[str, Any]:
    return {"s": symbol, "b": bids, "a": asks, "u": update, "seq": 7961638724}


def test_depth_is_a_snapshot_and_then_deltas_that_chain(bybit: Bybit) -> None:
    book = _book([["16493.50", "0.006"]], [["16611.00", "0.029"]], 18521288)
    (first,) = bybit.decode(_frame("orderbook.50.BTCUSDT", book, cts=1672304484976), 7)
    change = _book([["16493.50", "0"]], [], 18521289)
    (second,) = bybit.decode(_frame("orderbook.50.BTCUSDT", change, type="delta", cts=1672304485000), 8)
    bid, ask = (Decimal("16493.50"), Decimal("0.006")), (Decimal("16611.00"), Decimal("0.029"))
    assert first == DepthSnapshot("bybit:BTCUSDT", 1_672_304_484_976 * MS, 7, (bid,), (ask,), 18521288)
    gone = (Decimal("16493.50"), Decimal(0))
    assert second == DepthDelta("bybit:BTCUSDT", 1_672_304_485_000 * MS, 8, (gone,), (), 18521289, 18521289, 18521288)


def test_a_book_that_starts_again_at_one_is_a_snapshot_whatever_its_type(bybit: Bybit) -> None:
    (event,) = bybit.decode(_frame("orderbook.50.BTCUSDT", _book([["1", "2"]], [["3", "0"]], 1), type="delta"), 7)
    assert isinstance(event, DepthSnapshot)
    assert (event.bids, event.asks) == (((Decimal(1), Decimal(2)),), ())


def test_the_best_quote_keeps_the_side_that_did_not_change(bybit: Bybit) -> None:
    topic = "orderbook.1.BTCUSDT"
    bybit.decode(_frame(topic, _book([["100", "5"]], [["101", "6"]], 10)), 7)
    (changed,) = bybit.decode(_frame(topic, _book([], [["101", "0"], ["102", "7"]], 11), type="delta", cts=99), 8)
    assert changed == Quote("bybit:BTCUSDT", 99 * MS, 8, Decimal(100), Decimal(5), Decimal(102), Decimal(7))
    (empty,) = bybit.decode(_frame(topic, _book([["100", "0"]], [], 12), type="delta"), 9)
    assert isinstance(empty, Quote)
    assert (empty.bid_price, empty.bid_size, empty.ask_price) == (None, None, Decimal(102))
    bybit.reset("linear")
    (fresh,) = bybit.decode(_frame(topic, _book([["99", "1"]], [], 13), type="delta"), 10)
    assert isinstance(fresh, Quote)
    assert (fresh.bid_price, fresh.ask_price) == (Decimal(99), None)


def test_an_inverse_quote_is_told_in_coins(bybit: Bybit) -> None:
    (quote,) = bybit.decode(_frame("orderbook.1.BTCUSD", _book([["20000", "500"]], [], 10, "BTCUSD")), 7)
    assert isinstance(quote, Quote)
    assert (quote.bid_size, quote.ask_size) == (Decimal("0.025"), None)


def test_the_side_of_a_liquidation_is_the_position_and_is_turned_round(bybit: Bybit) -> None:
    """Traps 4, 5 and 6: Buy = a long was closed, by selling; the price is the bankruptcy price; all are told."""
    row = {"T": 1739502302929, "s": "BTCUSDT", "S": "Buy", "v": "0.2", "p": "60000"}
    rows = [row, row, {**row, "S": "Sell", "v": "0.3"}]
    events = bybit.decode(_frame("allLiquidation.BTCUSDT", rows), 7)
    first, second, third = (e for e in events if isinstance(e, Liquidation))
    assert (first.side, first.price, first.size, first.bankruptcy) == (
        Side.SELL,
        Decimal(60000),
        Decimal("0.2"),
        True,
    )
    assert (third.side, first.event_ns) == (Side.BUY, 1_739_502_302_929 * MS)
    assert len({first.id, second.id, third.id}) == 3
    again = bybit.decode(_frame("allLiquidation.BTCUSDT", rows), 8)
    assert [e.id for e in again if isinstance(e, Liquidation)] == [first.id, second.id, third.id]
    (inverse,) = bybit.decode(_frame("allLiquidation.BTCUSD", [{**row, "s": "BTCUSD", "v": "1500"}]), 7)
    assert isinstance(inverse, Liquidation)
    assert (inverse.size, inverse.value, inverse.contracts) == (Decimal("0.025"), Decimal(1500), Decimal(1500))


def _ticker(bybit: Bybit, kind: str = "snapshot", symbol: str = "BTCUSDT", **fields: str) -> list[Any]:
    return list(bybit.decode(_frame(f"tickers.{symbol}", {"symbol": symbol, **fields}, type=kind, ts=1760325052630), 7))


WHOLE = {
    "openInterest": "57798.137",
    "openInterestValue": "6600000000",
    "singleOpenInterest": "28899.069",
    "singleOpenInterestValue": "3300000000",
    "fundingRate": "-0.000212",
    "nextFundingTime": "1760342400000",
    "fundingIntervalHour": "8",
    "markPrice": "114000.1",
    "indexPrice": "114000.2",
}


def test_open_interest_counts_one_side(bybit: Bybit) -> None:
    """Trap 7: openInterest is the sum of both."""
    interest = next(e for e in _ticker(bybit, **WHOLE) if isinstance(e, OpenInterest))
    assert (interest.size, interest.value) == (Decimal("28899.069"), Decimal(3300000000))
    without = {k: v for k, v in WHOLE.items() if not k.startswith("single")}
    halved = next(e for e in _ticker(bybit, **without) if isinstance(e, OpenInterest))
    assert (halved.size, halved.value) == (Decimal("28899.0685"), Decimal(3300000000))


def test_open_interest_of_inverse_contracts_is_dollars_and_its_value_coins(bybit: Bybit) -> None:
    fields = {"openInterest": "1200000", "openInterestValue": "40", "markPrice": "30000"}
    interest = next(e for e in _ticker(bybit, symbol="BTCUSD", **fields) if isinstance(e, OpenInterest))
    assert (interest.size, interest.value, interest.contracts) == (Decimal(20), Decimal(600000), Decimal(600000))
    del fields["openInterestValue"]
    priced = next(e for e in _ticker(bybit, symbol="BTCUSD", **fields) if isinstance(e, OpenInterest))
    assert priced.size == Decimal(20)


def test_a_ticker_delta_leaves_out_what_has_not_changed(bybit: Bybit) -> None:
    assert [type(e) for e in _ticker(bybit, **WHOLE)] == [OpenInterest, FundingRate, MarkPrice]
    (rate,) = _ticker(bybit, "delta", fundingRate="0.0001")
    assert rate == FundingRate(
        "bybit:BTCUSDT", 1_760_325_052_630 * MS, 7, Decimal("0.0001"), 1_760_342_400 * NS, 28_800, settled=False
    )
    (mark,) = _ticker(bybit, "delta", markPrice="114001")
    assert (mark.mark, mark.index) == (Decimal(114001), Decimal("114000.2"))
    assert _ticker(bybit, "delta", lastPrice="1") == []


def test_the_funding_interval_is_the_symbols_and_may_change(bybit: Bybit) -> None:
    """Trap 16."""
    _ticker(bybit, **WHOLE)
    (rate,) = _ticker(bybit, "delta", fundingIntervalHour="1", nextFundingTime="1760328000000")
    assert (rate.interval_s, rate.funding_ns, rate.rate) == (3_600, 1_760_328_000 * NS, Decimal("-0.000212"))


def test_a_new_connection_forgets_what_deltas_were_built_on(bybit: Bybit) -> None:
    _ticker(bybit, **WHOLE)
    bybit.reset("inverse")
    assert len(_ticker(bybit, "delta", fundingRate="0.0001")) == 1
    bybit.reset("linear")
    assert _ticker(bybit, "delta", fundingRate="0.0001") == []
    # A snapshot forgets as well.
    _ticker(bybit, **WHOLE)
    _ticker(bybit, markPrice="5")
    assert _ticker(bybit, "delta", fundingRate="0.0001") == []


def test_a_dated_future_has_no_funding(bybit: Bybit) -> None:
    future = bybit.assume("BTC-26DEC25")
    assert future is not None
    bybit.learn([future])
    fields = {"fundingRate": "", "nextFundingTime": "0", "markPrice": "5", "openInterest": "8"}
    assert [type(e) for e in _ticker(bybit, symbol="BTC-26DEC25", **fields)] == [OpenInterest, MarkPrice]


def test_a_new_listing_replaces_what_topics_meant(bybit: Bybit) -> None:
    frame = _frame("publicTrade.BTCUSD", [_trade(v="500")])
    bybit.decode(frame, 1)
    bybit.learn([_instrument("BTCUSD")])
    (trade,) = bybit.decode(frame, 2)
    assert isinstance(trade, Trade)
    assert (trade.size, trade.contracts) == (Decimal(500), None)


# What is between the venue and its session.


def _subscribe(bybit: Bybit, symbols: list[str]) -> dict[str, Any]:
    (frame,) = bybit.subscribe(bybit.streams(Feed.TRADES, symbols))
    said: dict[str, Any] = json.loads(frame)
    return said


def _ack(number: str, *, success: bool = True, text: str = "subscribe") -> bytes:
    said = {"success": success, "ret_msg": text, "conn_id": "ec4efbb5", "req_id": number, "op": "subscribe"}
    return json.dumps(said).encode()


def test_the_number_of_a_request_tells_which_topics_were_taken(bybit: Bybit) -> None:
    said = _subscribe(bybit, ["BTCUSDT", "ETHUSDT"])
    assert said["op"] == "subscribe"
    assert said["args"] == ["publicTrade.BTCUSDT", "publicTrade.ETHUSDT"]
    assert bybit.decode(_ack(said["req_id"]), 7) == [Subscribed(("publicTrade.BTCUSDT", "publicTrade.ETHUSDT"))]
    assert bybit.decode(_ack("unheard of"), 7) == [Subscribed(())]


def test_one_bad_topic_does_not_cost_the_others(bybit: Bybit) -> None:
    """The venue refuses the whole request: what was good in it is asked for again."""
    said = _subscribe(bybit, ["BTCUSDT", "NOPEUSDT", "ETHUSDT", "NOPEUSD"])
    text = "Invalid symbol :[publicTrade.NOPEUSDT]"
    refused, again = bybit.decode(_ack(said["req_id"], success=False, text=text), 7)
    assert refused == Refused("publicTrade.NOPEUSDT", text)
    assert isinstance(again, Reply)
    assert json.loads(again.frame)["args"] == ["publicTrade.BTCUSDT", "publicTrade.ETHUSDT", "publicTrade.NOPEUSD"]
    assert json.loads(again.frame)["req_id"] != said["req_id"]


def test_a_refusal_that_names_nothing_is_narrowed_down(bybit: Bybit) -> None:
    pending = [json.dumps(_subscribe(bybit, ["AUSDT", "BUSDT", "CUSDT", "DUSDT", "EUSDT"])).encode()]
    taken: list[str] = []
    refused: list[str | None] = []
    while pending:
        asked = json.loads(pending.pop())
        bad = "publicTrade.DUSDT" in asked["args"]
        for event in bybit.decode(_ack(asked["req_id"], success=not bad, text="error"), 7):
            if isinstance(event, Reply):
                pending.append(event.frame)
            elif isinstance(event, Subscribed):
                taken += event.names
            elif isinstance(event, Refused):
                refused.append(event.name)
    assert refused == ["publicTrade.DUSDT"]
    assert sorted(taken) == [f"publicTrade.{c}USDT" for c in "ABCE"]


def test_asking_twice_is_no_refusal(bybit: Bybit) -> None:
    said = _subscribe(bybit, ["BTCUSDT"])
    text = "error:already subscribed,topic:publicTrade.BTCUSDT"
    assert bybit.decode(_ack(said["req_id"], success=False, text=text), 7) == [Subscribed(("publicTrade.BTCUSDT",))]


def test_pongs_and_leave_takings_say_nothing(bybit: Bybit) -> None:
    heartbeat = bybit.limits.heartbeat
    assert heartbeat is not None
    assert (heartbeat.every_s, heartbeat.idle, json.loads(heartbeat.frame)) == (20, False, {"op": "ping"})
    pong = b'{"success":true,"ret_msg":"pong","conn_id":"0970e817","req_id":"","op":"ping"}'
    option = b'{"args":["1673939911"],"op":"pong"}'
    (undo,) = bybit.subscribe(bybit.streams(Feed.TRADES, ["BTCUSDT"]), undo=True)
    assert json.loads(undo)["op"] == "unsubscribe"
    left = b'{"success":true,"ret_msg":"","conn_id":"a","req_id":"2","op":"unsubscribe"}'
    assert [bybit.decode(frame, 7) for frame in (pong, option, left)] == [[Alive()]] * 3


def test_each_market_has_its_own_socket_and_the_ticker_carries_three_feeds(bybit: Bybit) -> None:
    streams = bybit.streams(Feed.FUNDING, ["BTCUSDT", "BTCUSD", "BTCPERP", "BTCUSDH26", "ETH-26DEC25"])
    assert [s.endpoint for s in streams] == ["linear", "inverse", "linear", "inverse", "linear"]
    assert streams == bybit.streams(Feed.OPEN_INTEREST, [s.symbol for s in streams])
    assert streams[0].feeds == {Feed.FUNDING, Feed.OPEN_INTEREST, Feed.MARK_PRICE}
    address = bybit.sockets["inverse"]
    assert bybit.url(address, "inverse", [streams[1]]) == address


def test_connections_stay_within_the_venues_limits() -> None:
    """21,000 characters of topics a connection; ten topics a request on spot."""
    for venue in (Bybit(), BybitSpot()):
        symbols = [f"1000000LONGNAME{n:03}USDT" for n in range(venue.limits.streams_per_connection)]
        feed = Feed.LIQUIDATIONS if Feed.LIQUIDATIONS in venue.feeds else Feed.TRADES
        frames = [json.loads(frame) for frame in venue.subscribe(venue.streams(feed, symbols))]
        assert sum(len(json.dumps(frame["args"])) for frame in frames) <= 21_000
        assert max(len(frame["args"]) for frame in frames) == venue.limits.streams_per_subscribe
        assert venue.limits.shared_pools == {"weight": "bybit"}
    assert BybitSpot().limits.streams_per_subscribe == 10


def test_what_a_market_does_not_have_is_unsupported(bybit: Bybit) -> None:
    spot = BybitSpot()
    with pytest.raises(errors.Unsupported):
        spot.streams(Feed.LIQUIDATIONS, ["BTCUSDT"])
    with pytest.raises(errors.Unsupported):
        spot.request(Ask(query=Query.FUNDING, symbol="BTCUSDT"))
    with pytest.raises(errors.Unsupported):
        bybit.streams(Feed.TRADES, None)
    with pytest.raises(errors.Unsupported):
        bybit.request(Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="BTCUSD", interval_s=3_600, newest=True))


@pytest.mark.parametrize(
    ("symbol", "coin", "quote", "kind", "inverse"),
    [
        ("BTCUSDT", "BTC", "USDT", Kind.PERPETUAL, False),
        ("1000PEPEUSDT", "1000PEPE", "USDT", Kind.PERPETUAL, False),
        ("BTCPERP", "BTC", "USDC", Kind.PERPETUAL, False),
        ("BTC-29DEC23", "BTC", "USDC", Kind.FUTURE, False),
        ("BTCUSDT-26SEP25", "BTC", "USDT", Kind.FUTURE, False),
        ("BTCUSD", "BTC", "USD", Kind.PERPETUAL, True),
        ("BTCUSDH26", "BTC", "USD", Kind.FUTURE, True),
    ],
)
def test_the_spelling_of_an_unlisted_contract_tells_its_unit(
    symbol: str, coin: str, quote: str, kind: Kind, inverse: bool
) -> None:
    bybit = Bybit()
    frame = _frame(f"publicTrade.{symbol}", [_trade(v="33157")])
    assert bybit.decode(frame, 7) == [Skipped("unknown_instrument", symbol)]
    assumed = bybit.assume(symbol)
    assert assumed is not None
    assert (assumed.coin, assumed.quote, assumed.kind, assumed.inverse) == (coin, quote, kind, inverse)
    bybit.learn([assumed])
    (trade,) = bybit.decode(frame, 7)
    assert isinstance(trade, Trade)
    assert trade.size == (Decimal(2) if inverse else Decimal(33157))


def test_spot_knows_only_pairs() -> None:
    spot = BybitSpot()
    pair = spot.assume("BTCUSDT")
    assert pair is not None
    assert spot.assume("NONSENSE") is None
    spot.learn([pair])
    assert spot.decode(_frame("publicTrade.NONSENSE", [_trade()]), 7) == [Skipped("unknown_instrument", "NONSENSE")]
    (trade,) = spot.decode(_frame("publicTrade.BTCUSDT", [_trade(i="2290000000061666327")]), 7)
    assert isinstance(trade, Trade)
    assert (trade.instrument, trade.size) == ("bybit_spot:BTCUSDT", Decimal("0.001"))


HOSTILE = [
    *[_frame("publicTrade.BTCUSDT", [_trade(p=p)]) for p in ("NaN", "Infinity", "0", "-1", "1e308", "", None, "x")],
    *[_frame("publicTrade.BTCUSDT", [_trade(v=v)]) for v in ("NaN", "-Infinity", "0", "-3", 5.5e300, True)],
    *[_frame("publicTrade.BTCUSD", [_trade(p=p)]) for p in ("NaN", "1e308")],
    _frame("publicTrade.BTCUSDT", [_trade(S="Both")]),
    _frame("publicTrade.BTCUSDT", [_trade(T=-5)]),
    _frame("publicTrade.BTCUSDT", [_trade(i=5)]),
    _frame("publicTrade.BTCUSDT", [{"T": 1672304486865}]),
    _frame("publicTrade.BTCUSDT", {}),
    _frame("kline.1.BTCUSDT", [{"start": 1672324800000}]),
    _frame("orderbook.50.BTCUSDT", _book([["-1", "1"]], [], 5), type="delta"),
    _frame("orderbook.50.BTCUSDT", _book([["1", "NaN"]], [], 5), type="delta"),
    _frame("orderbook.50.BTCUSDT", _book([["1"]], [], 5), type="delta"),
    _frame("orderbook.1.BTCUSDT", _book([], [["sNaN", "1"]], 5), type="delta"),
    _frame("allLiquidation.BTCUSDT", [{"T": 1739502302929, "S": "Buy", "v": "0", "p": "1"}]),
    _frame("tickers.BTCUSDT", {"markPrice": "NaN"}),
    _frame("tickers.BTCUSDT", {"markPrice": "-5"}),
    _frame("tickers.BTCUSDT", {"singleOpenInterest": "-5"}),
    _frame("tickers.BTCUSDT", {"openInterest": "Infinity"}),
    _frame("tickers.BTCUSDT", {"markPrice": {"a": 1}}),
    _frame("tickers.BTCUSDT", {"fundingRate": "x", "nextFundingTime": "1"}),
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"{}",
    b"<html>no</html>",
    b'{"topic":"publicTrade.BTCUSDT"}',
    b'{"topic":5,"data":[]}',
    b'{"success":true,"op":"auth"}',
]


@pytest.mark.parametrize("frame", HOSTILE)
def test_what_cannot_be_read_is_refused_and_nothing_else_happens(bybit: Bybit, frame: bytes) -> None:
    with pytest.raises(errors.Unreadable):
        bybit.decode(frame, 7)
    assert isinstance(bybit.decode(_frame("publicTrade.BTCUSDT", [_trade()]), 7)[0], Trade)


def test_a_topic_we_did_not_ask_for_is_skipped(bybit: Bybit) -> None:
    assert bybit.decode(_frame("insurance.USDT", []), 7) == [Skipped("unknown_topic", "insurance")]


# REST.


def _listed(symbol: str, **changes: Any) -> dict[str, Any]:
    row = {"symbol": symbol, "contractType": "LinearPerpetual", "status": "Trading", "baseCoin": "BTC"}
    row |= {"quoteCoin": "USDT", "settleCoin": "USDT", "launchTime": "1585526400000", "deliveryTime": "0"}
    sizes = {"priceFilter": {"tickSize": "0.10"}, "lotSizeFilter": {"qtyStep": "0.001"}, "fundingInterval": 480}
    return {**row, **sizes, **changes}


def test_the_listing_is_paged_by_cursor_through_both_markets(bybit: Bybit, pages: Pages) -> None:
    """One page of 500 is not the listing; one bad row costs only itself."""
    asked: list[tuple[str, str | None]] = []
    served = {
        ("linear", None): {"list": [_listed("BTCUSDT"), 5], "nextPageCursor": "first%3Dx%26last%3Dy"},
        ("linear", "first%3Dx%26last%3Dy"): {
            "list": [
                _listed("BTC-26DEC25", contractType="LinearFutures", deliveryTime="1766736000000", status="PreLaunch"),
                _listed("BADUSDT", priceFilter={"tickSize": "0"}),
            ],
            "nextPageCursor": "",
        },
        ("inverse", None): {
            "list": [_listed("BTCUSD", contractType="InversePerpetual", quoteCoin="USD", settleCoin="BTC")],
            "nextPageCursor": "",
        },
    }

    def serve(path: str, query: dict[str, str]) -> Any:
        assert (path, query["limit"]) == ("/v5/market/instruments-info", "1000")
        asked.append((query["category"], query.get("cursor")))
        return served[asked[-1]]

    told = list(pages(bybit, Ask(query=Query.INSTRUMENTS), serve))
    assert asked == list(served)
    assert [page.unread for page in told] == [1, 1, 0]
    instruments = [i for page in told for i in page.instruments]
    perpetual, future, inverse = instruments
    assert (perpetual.name, perpetual.kind, perpetual.contract_size) == ("bybit:BTCUSDT", Kind.PERPETUAL, None)
    assert (perpetual.tick_size, perpetual.lot_size) == (Decimal("0.10"), Decimal("0.001"))
    assert (perpetual.listed_ns, perpetual.expires_ns, perpetual.trading) == (1_585_526_400 * NS, None, True)
    assert (future.kind, future.expires_ns, future.trading) == (Kind.FUTURE, 1_766_736_000 * NS, False)
    assert (inverse.inverse, inverse.contract_size, inverse.settle) == (True, Decimal(1), "BTC")
    with pytest.raises(errors.Unreadable):
        bybit.page(Ask(query=Query.INSTRUMENTS), _answer({"list": [5], "nextPageCursor": ""}))


def test_the_spot_listing_has_no_pages_and_counts_in_base_precision() -> None:
    spot = BybitSpot()
    row = {"symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "status": "Trading"}
    row |= {"lotSizeFilter": {"basePrecision": "0.000001"}, "priceFilter": {"tickSize": "0.01"}}  # type: ignore[dict-item]
    assert "limit" not in dict(spot.request(Ask(query=Query.INSTRUMENTS)).query)
    page = spot.page(Ask(query=Query.INSTRUMENTS), _answer({"category": "spot", "list": [row]}))
    (pair,) = page.instruments
    assert (pair.kind, pair.lot_size, page.next) == (Kind.SPOT, Decimal("0.000001"), None)


class Bars:
    """The venue's candles: newest first; start and end inclusive; the newest `limit` of what is asked for."""

    def __init__(self, first_ns: int, interval_s: int = 60) -> None:
        self.first_ns, self.interval_s, self.asked = first_ns, interval_s, 0

    def __call__(self, path: str, query: dict[str, str]) -> Any:
        assert path == "/v5/market/kline"
        self.asked += 1
        opens = range(self.first_ns // MS, NOW_NS // MS + 1, self.interval_s * 1_000)
        low, high = int(query.get("start", 0)), int(query.get("end", 1 << 60))
        rows = [[str(o), "2", "3", "1", "2", "7", "5"] for o in reversed(opens) if low <= o <= high]
        return {"category": "linear", "symbol": query["symbol"], "list": rows[: min(int(query["limit"]), 1_000)]}


@pytest.mark.parametrize("minutes", [1, 999, 1_000, 1_001, 2_500])
def test_a_range_of_candles_comes_whole_and_in_order(bybit: Bybit, minutes: int, pages: Pages) -> None:
    """Trap 12: the venue sends the newest first."""
    start_ns, end_ns = NOW_NS - minutes * MINUTE_NS, NOW_NS
    ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=60, start_ns=start_ns, end_ns=end_ns)
    told = list(pages(bybit, ask, Bars(NOW_NS - 5_000 * MINUTE_NS)))
    candles = [e for page in told for e in page.events if isinstance(e, Candle)]
    assert [c.open_ns for c in candles] == list(range(start_ns, end_ns, MINUTE_NS))
    assert all(c.closed for c in candles)
    assert [(p.start_ns, p.end_ns) for p in told] == [
        (a, min(a + 1_000 * MINUTE_NS, end_ns)) for a in range(start_ns, end_ns, 1_000 * MINUTE_NS)
    ]


def test_a_range_between_opens_holds_only_what_opens_inside(bybit: Bybit, pages: Pages) -> None:
    start_ns, end_ns = NOW_NS - 3 * MINUTE_NS - NS, NOW_NS - MINUTE_NS + NS
    ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=60, start_ns=start_ns, end_ns=end_ns)
    (page,) = pages(bybit, ask, Bars(NOW_NS - 5_000 * MINUTE_NS))
    assert [e.open_ns for e in page.events if isinstance(e, Candle)] == [NOW_NS - n * MINUTE_NS for n in (3, 2, 1)]


def test_a_range_that_is_limited_stops_there(bybit: Bybit, pages: Pages) -> None:
    start_ns = NOW_NS - 3_000 * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=60, start_ns=start_ns, limit=1_500)
    candles = [
        e for p in pages(bybit, ask, Bars(NOW_NS - 5_000 * MINUTE_NS)) for e in p.events if isinstance(e, Candle)
    ]
    assert [c.open_ns for c in candles] == [start_ns + n * MINUTE_NS for n in range(1_500)]


def test_a_range_begins_where_the_instrument_was_listed(bybit: Bybit, pages: Pages) -> None:
    listed_ns = NOW_NS - 90 * MINUTE_NS
    symbol = "NEWUSDT"
    instrument = Instrument(
        venue="bybit",
        symbol=symbol,
        kind=Kind.PERPETUAL,
        coin="NEW",
        quote="USDT",
        settle="USDT",
        tick_size=Decimal(1),
        lot_size=Decimal(1),
        listed_ns=listed_ns,
    )
    bybit.learn([instrument])
    bars = Bars(listed_ns)
    start_ns = NOW_NS - 1_000_000 * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, start_ns=start_ns, end_ns=NOW_NS)
    (page,) = pages(bybit, ask, bars)
    assert (len(page.events), bars.asked) == (90, 1)
    assert (page.start_ns, page.end_ns) == (start_ns, NOW_NS)  # before the listing it is known to be empty


@pytest.mark.parametrize("limit", [1, 1_000, 1_500])
def test_the_newest_candles_end_with_the_growing_one(bybit: Bybit, limit: int, pages: Pages) -> None:
    ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=60, newest=True, limit=limit)
    told = list(pages(bybit, ask, Bars(NOW_NS - 5_000 * MINUTE_NS)))
    candles = [e for page in reversed(told) for e in page.events if isinstance(e, Candle)]
    assert [c.open_ns for c in candles] == [NOW_NS - n * MINUTE_NS for n in reversed(range(limit))]
    assert [c.closed for c in candles] == [True] * (limit - 1) + [False]


def test_every_interval_is_asked_by_its_own_code_and_no_other_is_served(bybit: Bybit) -> None:
    """Never another interval's data under the asked label."""
    for interval_s in sorted(bybit.intervals_s):
        ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=interval_s, newest=True, limit=3)
        code = dict(bybit.request(ask).query)["interval"]
        assert code == {86_400: "D", 604_800: "W"}.get(interval_s, str(interval_s // 60))
    for other_s in (28_800, 259_200, 2_592_000, 7, None):
        with pytest.raises(errors.BadInterval):
            bybit.request(Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=other_s, newest=True))
    hour = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=3_600, newest=True, limit=1)
    minutes = {"symbol": "BTCUSDT", "list": [["1699999980000", "2", "3", "1", "2", "7", "5"]]}
    with pytest.raises(errors.Unreadable, match="another interval"):
        bybit.page(hour, _answer(minutes))
    with pytest.raises(errors.Unreadable, match="another symbol"):
        bybit.page(hour, _answer({"symbol": "ETHUSDT", "list": []}))


def test_a_week_opens_on_monday(bybit: Bybit) -> None:
    ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=604_800, newest=True, limit=1)
    monday = {"symbol": "BTCUSDT", "list": [["1699833600000", "2", "3", "1", "2", "7", "5"]]}
    (candle,) = bybit.page(ask, _answer(monday)).events
    assert isinstance(candle, Candle)
    assert (candle.open_ns, candle.closed) == (1_699_833_600 * NS, False)


def _past(count: int, step_ms: int = 100) -> list[dict[str, Any]]:
    rows = [
        {
            "execId": f"e{n}",
            "symbol": "BTCUSDT",
            "price": "100.5",
            "size": "2",
            "side": "Sell",
            "time": str(NOW_NS // MS - (count - n) * step_ms),
            "isBlockTrade": n == 7,
            "seq": str(n),
        }
        for n in range(count)
    ]
    return rows[::-1]


def test_recent_trades_come_in_order_and_say_how_far_back_they_are_whole(bybit: Bybit, pages: Pages) -> None:
    ask = Ask(query=Query.TRADES, symbol="BTCUSDT", start_ns=NOW_NS - 50 * NS, end_ns=NOW_NS - 20 * NS)
    (page,) = pages(bybit, ask, lambda *_: {"list": _past(1_000)})
    assert [e.id for e in page.events if isinstance(e, Trade)] == [f"e{n}" for n in range(500, 800)]
    assert (page.start_ns, page.end_ns) == (ask.start_ns, ask.end_ns)
    early = Ask(query=Query.TRADES, symbol="BTCUSDT", start_ns=NOW_NS - 500 * NS, end_ns=NOW_NS)
    (page,) = pages(bybit, early, lambda *_: {"list": _past(1_000)})
    # The oldest millisecond may have begun before.
    assert (page.start_ns, page.end_ns) == (NOW_NS - 100 * NS + MS, NOW_NS)
    assert len(page.events) == 999  # without the block trade


def test_trades_of_one_millisecond_keep_the_venues_order(bybit: Bybit, pages: Pages) -> None:
    rows = [{**row, "time": str(NOW_NS // MS - 5)} for row in _past(120)]
    (page,) = pages(bybit, Ask(query=Query.TRADES, symbol="BTCUSDT", newest=True), lambda *_: {"list": rows})
    assert [e.id for e in page.events if isinstance(e, Trade)] == [f"e{n}" for n in range(120) if n != 7]


def test_a_hole_is_whole_when_the_last_trade_before_it_is_still_there(bybit: Bybit, pages: Pages) -> None:
    ask = Ask(query=Query.TRADES, symbol="BTCUSDT", from_id="e989", start_ns=NOW_NS - 1_100 * MS, end_ns=NOW_NS)
    (page,) = pages(bybit, ask, lambda *_: {"list": _past(1_000)})
    assert [e.id for e in page.events if isinstance(e, Trade)] == [f"e{n}" for n in range(990, 1_000)]
    assert (page.start_ns, page.end_ns) == (ask.start_ns, ask.end_ns)


def test_trades_that_left_the_newest_thousand_are_out_of_reach(bybit: Bybit, pages: Pages) -> None:
    ask = Ask(query=Query.TRADES, symbol="BTCUSDT", start_ns=NOW_NS - 500 * NS, end_ns=NOW_NS - 400 * NS)
    with pytest.raises(errors.OutOfReach):
        list(pages(bybit, ask, lambda *_: {"list": _past(1_000)}))
    (page,) = pages(bybit, ask, lambda *_: {"list": _past(900)})
    assert (page.events, page.start_ns, page.end_ns) == ([], ask.start_ns, ask.end_ns)


def test_the_newest_trades_are_cut_at_the_old_end(bybit: Bybit, pages: Pages) -> None:
    ask = Ask(query=Query.TRADES, symbol="BTCUSDT", newest=True, limit=5)
    (page,) = pages(bybit, ask, lambda *_: {"list": _past(1_000)})
    assert [e.id for e in page.events if isinstance(e, Trade)] == [f"e{n}" for n in range(995, 1_000)]


def test_spot_serves_sixty_trades_and_says_so() -> None:
    spot = BybitSpot()
    ask = Ask(query=Query.TRADES, symbol="BTCUSDT", newest=True, limit=100)
    assert dict(spot.request(ask).query) == {"category": "spot", "symbol": "BTCUSDT", "limit": "60"}


def test_settled_funding_is_told_with_the_interval_of_its_own_period(bybit: Bybit, pages: Pages) -> None:
    """Trap 16: four hours, then one, some milliseconds past the hour; and a start alone is an error there."""
    hour_ms = 3_600_000
    base_ms = NOW_NS // MS // hour_ms * hour_ms
    stamps = [base_ms - 9 * hour_ms, base_ms - 5 * hour_ms + 17, base_ms - hour_ms + 3, base_ms]

    def serve(path: str, query: dict[str, str]) -> Any:
        assert path == "/v5/market/funding/history"
        assert "startTime" not in query or "endTime" in query
        low, high = int(query.get("startTime", 0)), int(query.get("endTime", 1 << 60))
        rows = [
            {"symbol": "BTCUSDT", "fundingRate": f"0.000{n}", "fundingRateTimestamp": str(stamp)}
            for n, stamp in enumerate(stamps)
            if low <= stamp <= high
        ]
        return {"category": "linear", "list": rows[::-1][: int(query["limit"])]}

    ask = Ask(query=Query.FUNDING_HISTORY, symbol="BTCUSDT", start_ns=NOW_NS - 30 * 86_400 * NS)
    events = [e for page in pages(bybit, ask, serve) for e in page.events if isinstance(e, FundingRate)]
    assert [(e.funding_ns, e.rate, e.interval_s) for e in events] == [
        (stamps[0] * MS, Decimal("0.0000"), None),
        (stamps[1] * MS, Decimal("0.0001"), 14_400),
        (stamps[2] * MS, Decimal("0.0002"), 14_400),
        (stamps[3] * MS, Decimal("0.0003"), 3_600),
    ]
    assert all(e.settled for e in events)
    newest = Ask(query=Query.FUNDING_HISTORY, symbol="BTCUSDT", newest=True, limit=2, start_ns=1)
    told = list(pages(bybit, newest, serve))
    assert [e.funding_ns for p in told for e in p.events if isinstance(e, FundingRate)] == [s * MS for s in stamps[2:]]


def test_hourly_funding_does_not_overflow_a_page(bybit: Bybit, pages: Pages) -> None:
    """Trap 16: a page that spans days of an eight-hour grid would lose rows of an hourly one."""
    now_ns = NOW_NS // HOUR_NS * HOUR_NS

    def serve(_: str, query: dict[str, str]) -> Any:
        low, high = int(query["startTime"]), int(query["endTime"])
        stamps = [(now_ns - n * HOUR_NS) // MS for n in range(600)]
        rows = [{"fundingRate": "0.1", "fundingRateTimestamp": str(s)} for s in stamps if low <= s <= high]
        return {"list": rows[: int(query["limit"])]}

    start_ns = now_ns - 550 * HOUR_NS
    ask = Ask(query=Query.FUNDING_HISTORY, symbol="BTCUSDT", start_ns=start_ns, end_ns=NOW_NS)
    events = [e.event_ns for page in pages(bybit, ask, serve) for e in page.events if isinstance(e, FundingRate)]
    assert events == list(range(start_ns, NOW_NS, HOUR_NS))


def test_open_interest_history_counts_one_side_and_is_paged(bybit: Bybit, pages: Pages) -> None:
    now_ns = NOW_NS // HOUR_NS * HOUR_NS

    def serve(path: str, query: dict[str, str]) -> Any:
        assert (path, query["intervalTime"]) == ("/v5/market/open-interest", "1h")
        low, high = int(query.get("startTime", 0)), int(query.get("endTime", 1 << 60))
        stamps = [(now_ns - n * HOUR_NS) // MS for n in range(1_000)]
        rows = [
            {"openInterest": "10", "timestamp": str(s), **({"singleOpenInterest": "5.5"} if s % 7_200_000 else {})}
            for s in stamps
            if low <= s <= high
        ]
        return {"symbol": "BTCUSDT", "category": "linear", "list": rows[: min(200, int(query["limit"]))]}

    start_ns = now_ns - 450 * HOUR_NS
    ask = Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="BTCUSDT", interval_s=3_600, start_ns=start_ns, end_ns=NOW_NS)
    events = [e for page in pages(bybit, ask, serve) for e in page.events if isinstance(e, OpenInterest)]
    assert [e.event_ns for e in events] == list(range(start_ns, NOW_NS, HOUR_NS))
    assert {e.size for e in events} == {Decimal(5), Decimal("5.5")}
    newest = Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="BTCUSDT", interval_s=3_600, newest=True, limit=250)
    assert sum(len(page.events) for page in pages(bybit, newest, serve)) == 250
    with pytest.raises(errors.BadInterval):
        bybit.request(Ask(**{**_fields(ask), "interval_s": 60}))


TICKERS = {
    "linear": [{"symbol": "BTCUSDT", "lastPrice": "110", "prevPrice24h": "100", "highPrice24h": "120"}],
    "inverse": [{"symbol": "BTCUSD", "lastPrice": "110", "prevPrice24h": "100", "highPrice24h": "120"}],
}
for _rows in TICKERS.values():
    _rows[0] |= {"lowPrice24h": "90", "volume24h": "7", "turnover24h": "700", **WHOLE}


def test_tickers_answer_four_questions(bybit: Bybit, pages: Pages) -> None:
    def serve(path: str, query: dict[str, str]) -> Any:
        assert path == "/v5/market/tickers"
        return {"category": query["category"], "list": TICKERS[query["category"]]}

    summaries = [e for page in pages(bybit, Ask(query=Query.TICKERS), serve) for e in page.events]
    assert [(t.instrument, t.open, t.volume, t.quote_volume) for t in summaries if isinstance(t, Ticker)] == [
        ("bybit:BTCUSDT", Decimal(100), Decimal(7), Decimal(700)),
        ("bybit:BTCUSD", Decimal(100), Decimal(700), Decimal(7)),
    ]
    (interest,) = (e for p in pages(bybit, Ask(query=Query.OPEN_INTEREST, symbol="BTCUSDT"), serve) for e in p.events)
    assert isinstance(interest, OpenInterest)
    assert (interest.size, interest.event_ns) == (Decimal("28899.069"), NOW_NS)
    rate, mark = (e for p in pages(bybit, Ask(query=Query.FUNDING, symbol="BTCUSDT"), serve) for e in p.events)
    assert isinstance(rate, FundingRate)
    assert isinstance(mark, MarkPrice)
    assert (rate.settled, rate.interval_s, mark.index) == (False, 28_800, Decimal("114000.2"))


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (_answer({}, code=10001, text="params error: Symbol Is Invalid"), errors.UnknownInstrument),
        (_answer({}, code=10001, text="Not supported symbols"), errors.UnknownInstrument),
        (_answer({}, code=10001, text="end time must be after start"), errors.Unavailable),
        (_answer({}, code=10006, text="Too many visits!"), errors.RateLimited),
        (_answer({}, code=10016, text="Internal server error"), errors.Unavailable),
        (_answer(b"access too frequent", status=403), errors.RateLimited),
        (_answer(b"", status=429), errors.RateLimited),
        (_answer(b"<html>502</html>", status=502), errors.Unavailable),
        (_answer(b"<html>all is well</html>"), errors.Unreadable),
        (_answer(b""), errors.Unreadable),
        (_answer({"list": 5}), errors.Unreadable),
        (_answer({"symbol": "", "list": [["1672324800000", "NaN", "1", "1", "1", "1", "1"]]}), errors.Unreadable),
    ],
)
def test_a_refusal_of_the_venue_is_said_in_our_words(bybit: Bybit, answer: Answer, refusal: type[Exception]) -> None:
    """Errors come with status 200 and a retCode."""
    ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=60, newest=True, limit=5)
    with pytest.raises(refusal) as caught:
        bybit.page(ask, answer)
    assert type(caught.value) is refusal


def test_a_ban_lasts_ten_minutes_and_a_pause_as_long_as_the_venue_says(bybit: Bybit) -> None:
    ask = Ask(query=Query.TIME)
    with pytest.raises(errors.RateLimited) as ban:
        bybit.page(ask, _answer(b"access too frequent", status=403))
    assert (ban.value.banned, ban.value.retry_s) == (True, 600.0)
    reset = str(NOW_NS // MS + 5_500)
    with pytest.raises(errors.RateLimited) as pause:
        bybit.page(ask, _answer({}, code=10006, text="Too many visits!", x_bapi_limit_reset_timestamp=reset))
    assert (pause.value.banned, pause.value.retry_s) == (False, 2.5)
    assert bybit.page(ask, _answer({"timeSecond": "1688639403", "timeNano": "1688639403423213947"})) == Page(events=())


FRAMES = [
    _frame("publicTrade.BTCUSDT", [_trade(), _trade()]),
    _frame("publicTrade.BTCUSD", [_trade(v="500")]),
    _frame(
        "kline.1.BTCUSDT",
        [
            {
                "start": 1672324800000,
                "interval": "1",
                "open": "2",
                "close": "2",
                "high": "3",
                "low": "1",
                "volume": "7",
                "turnover": "5",
                "confirm": True,
            }
        ],
    ),
    _frame("orderbook.50.BTCUSDT", _book([["1", "2"]], [["3", "4"]], 5), type="delta", cts=1672304484976),
    _frame("orderbook.1.BTCUSD", _book([["1", "2"]], [["3", "4"]], 5, "BTCUSD")),
    _frame("tickers.BTCUSDT", WHOLE),
    _frame("tickers.BTCUSD", WHOLE),
    _frame("allLiquidation.BTCUSD", [{"T": 1739502302929, "S": "Buy", "v": "1500", "p": "60000"}]),
    b'{"success":true,"ret_msg":"subscribe","conn_id":"a","req_id":"1","op":"subscribe"}',
]
ANSWERS: dict[Query, Any] = {
    Query.INSTRUMENTS: {"list": [_listed("BTCUSDT"), _listed("ETHUSDT")], "nextPageCursor": ""},
    Query.CANDLES: {"symbol": "BTCUSDT", "list": [["1699999980000", "2", "3", "1", "2", "7", "5"]]},
    Query.TRADES: {"list": _past(2)},
    Query.OPEN_INTEREST_HISTORY: {"list": [{"openInterest": "4", "timestamp": "1699999800000"}]},
    Query.FUNDING_HISTORY: {"list": [{"fundingRate": "0.1", "fundingRateTimestamp": "1699999200000"}]},
    Query.TICKERS: {"list": TICKERS["linear"]},
    Query.OPEN_INTEREST: {"list": TICKERS["linear"]},
    Query.FUNDING: {"list": TICKERS["linear"]},
}


@settings(deadline=None)
@given(frame=st.sampled_from(FRAMES), data=st.data())
def test_a_frame_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_frame: SpoilFrame, frame: bytes, data: st.DataObject
) -> None:
    venue = Bybit()
    venue.learn(LISTING)
    spoil_frame(venue, frame, data)


@settings(deadline=None)
@given(query=st.sampled_from(list(ANSWERS)), data=st.data())
def test_an_answer_with_one_wrong_value_is_refused_in_our_words_or_still_makes_sense(
    spoil_answer: SpoilAnswer, query: Query, data: st.DataObject
) -> None:
    venue = Bybit()
    venue.learn(LISTING)
    interval_s = 300 if query is Query.OPEN_INTEREST_HISTORY else 60
    ask = Ask(query=query, symbol=LISTING[0].symbol, interval_s=interval_s, newest=True, limit=5)
    spoil_answer(venue, Ask(query=query) if query is Query.INSTRUMENTS else ask, _answer(ANSWERS[query]), data)
