"""What Deribit's frames and answers become; each trap with a frame that shows it."""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
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
from openoutcry.feed.depth import Depth, Outcome
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues import VENUES
from openoutcry.venues.deribit import ASKED_MAX, STREAMS_PER_SUBSCRIBE, Deribit
from openoutcry.venues.deribit_history import CANDLES_MAX, CREDITS, RATES_MAX, TRADES_MAX
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
)
from tests.venues.pages import Serve, SpoilAnswer, SpoilFrame, one, walk

MS = 1_000_000
MINUTE_NS, HOUR_NS, DAY_NS = 60 * NS, 3_600 * NS, 86_400 * NS
# 2026-09-25 17:33:27 UTC.
NOW_NS = 1_790_357_607 * NS
NOW_MS = NOW_NS // MS
PERPETUAL, LINEAR, DATED, CALL = "BTC-PERPETUAL", "SOL_USDC-PERPETUAL", "BTC-25DEC26", "BTC-25DEC26-64000-C"

FUTURES = [
    {
        "instrument_name": "BTC-PERPETUAL",
        "kind": "future",
        "instrument_type": "reversed",
        "settlement_period": "perpetual",
        "base_currency": "BTC",
        "quote_currency": "USD",
        "counter_currency": "USD",
        "settlement_currency": "BTC",
        "tick_size": 0.5,
        "min_trade_amount": 10.0,
        "contract_size": 10.0,
        "creation_timestamp": 1534167754000,
        "expiration_timestamp": 32503708800000,
        "is_active": True,
        "state": "open",
    },
    {
        "instrument_name": "SOL_USDC-PERPETUAL",
        "kind": "future",
        "instrument_type": "linear",
        "settlement_period": "perpetual",
        "base_currency": "SOL",
        "quote_currency": "USDC",
        "settlement_currency": "USDC",
        "tick_size": 0.01,
        "min_trade_amount": 0.1,
        "contract_size": 0.1,
        "creation_timestamp": 1647349200000,
        "expiration_timestamp": 32503708800000,
        "is_active": True,
    },
    {
        "instrument_name": "BTC-25DEC26",
        "kind": "future",
        "instrument_type": "reversed",
        "settlement_period": "month",
        "base_currency": "BTC",
        "quote_currency": "USD",
        "settlement_currency": "BTC",
        "tick_size": 2.5,
        "min_trade_amount": 10,
        "contract_size": 10,
        "creation_timestamp": 1758873600000,
        "expiration_timestamp": 1798185600000,
        "is_active": False,
    },
]
OPTIONS = [
    {
        "instrument_name": "BTC-25DEC26-64000-C",
        "kind": "option",
        "instrument_type": "reversed",
        "option_type": "call",
        "strike": 64000.0,
        "settlement_period": "month",
        "base_currency": "BTC",
        "quote_currency": "BTC",
        "settlement_currency": "BTC",
        "tick_size": 0.0005,
        "min_trade_amount": 0.1,
        "contract_size": 1.0,
        "creation_timestamp": 1758873600000,
        "expiration_timestamp": 1798185600000,
        "is_active": True,
    },
    {
        "instrument_name": "BTC_USDC-25DEC26-64000-P",
        "kind": "option",
        "instrument_type": "linear",
        "settlement_period": "month",
        "base_currency": "BTC",
        "quote_currency": "USDC",
        "settlement_currency": "USDC",
        "tick_size": 5,
        "min_trade_amount": 0.01,
        "contract_size": 0.01,
        "creation_timestamp": 1758873600000,
        "expiration_timestamp": 1798185600000,
        "is_active": True,
    },
]
TRADE = {
    "trade_seq": 30289442,
    "trade_id": "48079269",
    "timestamp": 1590484512188,
    "tick_direction": 2,
    "price": 8950.0,
    "mark_price": 8948.9,
    "instrument_name": "BTC-PERPETUAL",
    "index_price": 8955.88,
    "direction": "sell",
    "amount": 10.0,
    "contracts": 1.0,
}
TRADE_NS = 1_590_484_512_188 * MS
SATS = Decimal("0.00111732")
TICKER = {
    "timestamp": 1623060194301,
    "state": "open",
    "stats": {
        "volume_usd": 284061480,
        "volume": 7871.02139035,
        "price_change": 0.7229,
        "low": 35213.5,
        "high": 36824.5,
    },
    "open_interest": 502097590,
    "mark_price": 36446.51,
    "last_price": 36457.5,
    "instrument_name": "BTC-PERPETUAL",
    "index_price": 36441.64,
    "funding_8h": 0.00002203,
    "current_funding": 0.00008,
    "best_bid_price": 36442.5,
    "best_bid_amount": 5000,
    "best_ask_price": 36443.0,
    "best_ask_amount": 100,
}
TICKER_NS = 1_623_060_194_301 * MS
OPTION_TICKER = {
    "underlying_price": 32366.75,
    "underlying_index": "BTC-25DEC26",
    "timestamp": 1626993722929,
    "state": "open",
    "open_interest": 729.2,
    "mark_price": 0.00090376,
    "mark_iv": 142.78,
    "instrument_name": "BTC-25DEC26-64000-C",
    "index_price": 32201.67,
    "greeks": {"vega": 1.62145, "delta": -0.00407},
    "best_bid_price": 0.0005,
    "best_bid_amount": 153.1,
    "best_ask_price": 0.0,
    "best_ask_amount": 0.0,
}
BAR = {
    "tick": 1573645080000,
    "open": 8791.25,
    "high": 8791.25,
    "low": 8788.5,
    "close": 8789.0,
    "volume": 0.05219351,
    "cost": 460,
}
BAR_NS = 1_573_645_080 * NS
BOOK = {
    "type": "change",
    "timestamp": 1554373911330,
    "prev_change_id": 297217,
    "instrument_name": "BTC-PERPETUAL",
    "change_id": 297218,
    "bids": [["delete", 5041.94, 0.0], ["change", 5042.34, 40.0]],
    "asks": [],
}


def frame(channel: str, data: Any) -> bytes:
    """As the venue writes it, without spaces."""
    told = {"jsonrpc": "2.0", "method": "subscription", "params": {"channel": channel, "data": data}}
    return json.dumps(told, separators=(",", ":")).encode()


def trades(*rows: dict[str, Any], **changes: Any) -> bytes:
    return frame("trades.BTC-PERPETUAL.100ms", [row | changes for row in rows or (TRADE,)])


def ticker(base: dict[str, Any] | None = None, **changes: Any) -> bytes:
    told = (TICKER if base is None else base) | changes
    return frame(f"ticker.{told['instrument_name']}.100ms", told)


def chart(symbol: str = PERPETUAL, **changes: Any) -> bytes:
    return frame(f"chart.trades.{symbol}.1", BAR | changes)


def told(result: Any, status: int = 200, **headers: str) -> Answer:
    if isinstance(result, bytes):
        return Answer(status, headers, result, NOW_NS)
    body = {"jsonrpc": "2.0", "result": result, "usIn": NOW_NS // 1_000 - 9, "usOut": NOW_NS // 1_000, "usDiff": 9}
    return Answer(status, headers, json.dumps(body).encode(), NOW_NS)


def refusal(code: int, param: str | None = None, status: int = 400, retry_after: str | None = None) -> Answer:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    error: dict[str, Any] = {"code": code, "message": "no"}
    if param is not None:
        error["data"] = {"reason": "wrong format", "param": param}
    return Answer(status, headers, json.dumps({"jsonrpc": "2.0", "error": error, "usOut": 1}).encode(), NOW_NS)


def taught() -> Deribit:
    venue, listed = Deribit(), list[Instrument]()
    for kind, rows in ((None, FUTURES), ("option", OPTIONS)):
        page = venue.page(Ask(query=Query.INSTRUMENTS, cursor=kind), told(rows))
        assert page.unread == 0
        listed += page.instruments
    venue.learn(listed)
    return venue


@pytest.fixture
def deribit() -> Deribit:
    return taught()


def walked(ask: Ask, serve: Serve) -> list[Page]:
    """`serve` takes the method, and gives the result."""
    root = "/api/v2/public/"
    return list(walk(taught(), ask, lambda path, query: told(serve(path.removeprefix(root), query)), pages_max=200))


def test_the_venue_is_in_the_table_and_has_one_name_for_all_its_markets() -> None:
    assert VENUES["deribit"] is Deribit
    assert Deribit.exchanges == {
        Kind.PERPETUAL: (Exchange.DERIBIT,),
        Kind.FUTURE: (Exchange.DERIBIT,),
        Kind.OPTION: (Exchange.DERIBIT,),
    }


# Frames


def test_the_amount_of_an_inverse_trade_is_dollars_and_its_number_is_its_id(deribit: Deribit) -> None:
    assert one(deribit.decode(trades(), NOW_NS)) == Trade(
        "deribit:BTC-PERPETUAL", TRADE_NS, NOW_NS, 30289442, 30289442, Side.SELL, Decimal("8950.0"), SATS, 1,
        Decimal("10.0"), Decimal("10.0"),
    )  # fmt: skip
    assert deribit.limits.trade_ids == "one"


@pytest.mark.parametrize("symbol", [LINEAR, CALL, "BTC_USDC-25DEC26-64000-P"])
def test_the_amount_of_a_linear_trade_and_of_an_option_is_coins(deribit: Deribit, symbol: str) -> None:
    said = one(deribit.decode(trades(instrument_name=symbol, direction="buy", amount=2.5, price=0.0415), NOW_NS))
    assert said == Trade(
        f"deribit:{symbol}", TRADE_NS, NOW_NS, 30289442, 30289442, Side.BUY, Decimal("0.0415"), Decimal("2.5")
    )


@pytest.mark.parametrize(
    ("flag", "direction", "forced"),
    [
        ("T", "sell", [("30289442-T", Side.SELL)]),
        ("T", "buy", [("30289442-T", Side.BUY)]),
        ("M", "sell", [("30289442-M", Side.BUY)]),
        ("M", "buy", [("30289442-M", Side.SELL)]),
        ("MT", "sell", [("30289442-M", Side.BUY), ("30289442-T", Side.SELL)]),
    ],
)
def test_a_liquidation_is_a_trade_whose_flag_says_which_side_was_forced(
    deribit: Deribit, flag: str, direction: str, forced: list[tuple[str, Side]]
) -> None:
    trade, *rest = deribit.decode(trades(liquidation=flag, direction=direction), NOW_NS)
    assert isinstance(trade, Trade)
    ten = Decimal("10.0")
    assert rest == [
        Liquidation("deribit:BTC-PERPETUAL", TRADE_NS, NOW_NS, id_, side, Decimal("8950.0"), SATS, ten, ten)
        for id_, side in forced
    ]


def test_block_trades_and_legs_of_combos_are_numbered_among_the_others_and_count(deribit: Deribit) -> None:
    block = TRADE | {"trade_seq": 30289443, "block_trade_id": "BLOCK-66", "block_trade_leg_count": 2}
    leg = TRADE | {"trade_seq": 30289444, "combo_id": "BTC-FS-25DEC26_PERP", "combo_trade_id": 5}
    said = deribit.decode(trades(TRADE, block, leg), NOW_NS)
    assert [event.id for event in said if isinstance(event, Trade)] == [30289442, 30289443, 30289444]


def test_combos_are_left_out(deribit: Deribit) -> None:
    for combo in ("BTC-FS-25DEC26_PERP", "BTC-CS-25DEC26-64000_70000"):
        said = deribit.decode(frame(f"trades.{combo}.100ms", [TRADE | {"instrument_name": combo}]), NOW_NS)
        assert one(said) == Skipped("unknown_instrument", combo)
        assert deribit.assume(combo) is None


def test_a_ticker_of_a_perpetual_tells_four_things(deribit: Deribit) -> None:
    quote, interest, mark, rate = deribit.decode(ticker(), NOW_NS)
    name, price = "deribit:BTC-PERPETUAL", Decimal("36446.51")
    assert quote == Quote(
        name, TICKER_NS, NOW_NS, Decimal("36442.5"), Decimal("0.13720244"), Decimal("36443.0"), Decimal("0.00274401")
    )
    dollars = Decimal(502_097_590)
    assert interest == OpenInterest(name, TICKER_NS, NOW_NS, Decimal("13776.28722201"), dollars, dollars)
    assert mark == MarkPrice(name, TICKER_NS, NOW_NS, price, Decimal("36441.64"))
    # Told for eight hours, due at the full hour for one.
    hour_ns = TICKER_NS - TICKER_NS % HOUR_NS + HOUR_NS
    assert rate == FundingRate(name, TICKER_NS, NOW_NS, Decimal("0.00001"), hour_ns, 3_600, settled=False)


def test_open_interest_of_a_linear_contract_is_coins(deribit: Deribit) -> None:
    said = deribit.decode(ticker(instrument_name=LINEAR, open_interest=12.5, mark_price=150.2), NOW_NS)
    assert said[1] == OpenInterest(
        f"deribit:{LINEAR}", TICKER_NS, NOW_NS, Decimal("12.5"), Decimal("12.5") * Decimal("150.2")
    )


def test_an_options_ticker_has_its_underlyings_price_and_an_empty_side_is_none(deribit: Deribit) -> None:
    name, at_ns, coins, price = f"deribit:{CALL}", 1_626_993_722_929 * MS, Decimal("729.2"), Decimal("32366.75")
    assert deribit.decode(ticker(OPTION_TICKER), NOW_NS) == [
        Quote(name, at_ns, NOW_NS, Decimal("0.0005"), Decimal("153.1"), None, None),
        OpenInterest(name, at_ns, NOW_NS, coins, coins * price, None, price),
        # A premium: the index is none of it.
        MarkPrice(name, at_ns, NOW_NS, Decimal("0.00090376"), None),
    ]
    worthless = deribit.decode(ticker(OPTION_TICKER, mark_price=0.0, best_bid_price=None, best_bid_amount=None), NOW_NS)
    assert worthless[0] == Quote(name, at_ns, NOW_NS, None, None, None, None)
    assert not [event for event in worthless if isinstance(event, MarkPrice)]


def test_a_dated_contract_has_no_funding_and_without_a_mark_no_open_interest(deribit: Deribit) -> None:
    said = deribit.decode(ticker(instrument_name=DATED, mark_price=0), NOW_NS)
    assert [type(event) for event in said] == [Quote]
    assert [type(e) for e in deribit.decode(ticker(instrument_name=DATED), NOW_NS)] == [Quote, OpenInterest, MarkPrice]


def test_a_candle_is_closed_when_the_next_one_opens(deribit: Deribit) -> None:
    candle = Candle(
        "deribit:BTC-PERPETUAL", Side.BOTH, 60, BAR_NS, Decimal("8791.25"), Decimal("8791.25"), Decimal("8788.5"),
        Decimal("8789.0"), Decimal("0.05219351"), Decimal(460), 0, None, None, closed=False, received_ns=NOW_NS,
        origin="venue",
    )  # fmt: skip
    assert deribit.decode(chart(), NOW_NS) == (candle,)
    closed, following = deribit.decode(chart(tick=BAR["tick"] + 60_000), NOW_NS + 1)
    assert isinstance(closed, Candle)
    assert isinstance(following, Candle)
    assert (closed.open_ns, closed.closed, closed.received_ns) == (BAR_NS, True, NOW_NS + 1)
    assert (following.open_ns, following.closed) == (BAR_NS + MINUTE_NS, False)
    # Corrected after the next had opened.
    late = one(deribit.decode(chart(cost=470), NOW_NS))
    assert isinstance(late, Candle)
    assert (late.closed, late.quote_volume) == (True, Decimal(470))
    deribit.reset("ws")
    assert len(deribit.decode(chart(tick=BAR["tick"] + 120_000), NOW_NS)) == 1


def test_a_candle_grows_on_when_the_listing_is_read_again(deribit: Deribit) -> None:
    listed = list(deribit._listing.values())
    deribit.decode(chart(), NOW_NS)
    deribit.learn(listed)
    closed, _ = deribit.decode(chart(tick=BAR["tick"] + 60_000), NOW_NS)
    assert isinstance(closed, Candle)
    assert closed.closed
    deribit.learn(listed[1:])
    assert not deribit._growing


def test_a_book_is_a_chain_of_changes(deribit: Deribit) -> None:
    name, at_ns = "deribit:BTC-PERPETUAL", 1_554_373_911_330 * MS
    first = BOOK | {
        "type": "snapshot",
        "change_id": 297217,
        "bids": [["new", 5041.94, 30.0]],
        "asks": [["new", 5043, 1]],
    }
    del first["prev_change_id"]
    snapshot = one(deribit.decode(frame("book.BTC-PERPETUAL.100ms", first), NOW_NS))
    delta = one(deribit.decode(frame("book.BTC-PERPETUAL.100ms", BOOK), NOW_NS))
    assert snapshot == DepthSnapshot(
        name, at_ns, NOW_NS, ((Decimal("5041.94"), Decimal("30.0")),), ((Decimal(5043), Decimal(1)),), 297217
    )
    bids = ((Decimal("5041.94"), Decimal(0)), (Decimal("5042.34"), Decimal("40.0")))
    assert delta == DepthDelta(name, at_ns, NOW_NS, bids, (), 297218, 297218, 297217)
    # Whatever amount stands beside a deletion.
    gone = one(deribit.decode(frame("book.x", BOOK | {"bids": [["delete", 5, 7]]}), NOW_NS))
    assert isinstance(gone, DepthDelta)
    assert gone.bids == ((Decimal(5), Decimal(0)),)


def test_fields_in_another_order_are_read_all_the_same(deribit: Deribit) -> None:
    for text in (trades(), ticker(), chart(), frame("book.BTC-PERPETUAL.100ms", BOOK)):
        turned = json.dumps(dict(reversed(json.loads(text).items()))).encode()
        assert turned != text
        assert deribit.decode(turned, NOW_NS) == taught().decode(text, NOW_NS)


@pytest.mark.parametrize("symbol", ["BTC-1JAN27", "DOGE-PERPETUAL"])
def test_what_is_not_listed_is_skipped_with_its_symbol(deribit: Deribit, symbol: str) -> None:
    skipped = Skipped("unknown_instrument", symbol)
    texts = (
        trades(instrument_name=symbol),
        ticker(instrument_name=symbol),
        chart(symbol),
        frame(f"book.{symbol}.100ms", BOOK | {"instrument_name": symbol}),
    )
    for text in texts:
        assert one(deribit.decode(text, NOW_NS)) == skipped


def test_unknown_channels_are_skipped(deribit: Deribit) -> None:
    said = one(deribit.decode(frame("deribit_price_index.btc_usd", {"price": 1}), NOW_NS))
    assert said == Skipped("unknown_channel", "deribit_price_index.btc_usd")
    assert one(deribit.decode(frame("chart.trades.BTC-PERPETUAL.5", BAR), NOW_NS)) == Skipped(
        "unknown_channel", "chart.trades.BTC-PERPETUAL.5"
    )


# Talking


def said(text: bytes) -> dict[str, Any]:
    return dict(json.loads(text))


def test_a_test_request_is_answered_at_once(deribit: Deribit) -> None:
    (reply,) = deribit.decode(b'{"params":{"type":"test_request"},"method":"heartbeat","jsonrpc":"2.0"}', NOW_NS)
    assert isinstance(reply, Reply)
    assert said(reply.frame) == {"jsonrpc": "2.0", "id": 0, "method": "public/test", "params": {}}
    assert deribit.decode(b'{"params":{"type":"heartbeat"},"method":"heartbeat","jsonrpc":"2.0"}', NOW_NS) == (Alive(),)
    assert deribit.decode(b'{"jsonrpc":"2.0","id":0,"result":{"version":"1.2.26"}}', NOW_NS) == (Alive(),)


def test_heartbeats_are_asked_for_sooner_than_they_would_be_missed(deribit: Deribit) -> None:
    heartbeat = deribit.limits.heartbeat
    assert heartbeat is not None
    asked = said(heartbeat.frame)
    assert (asked["method"], asked["params"]) == ("public/set_heartbeat", {"interval": 30})
    assert heartbeat.every_s < 30 < deribit.limits.silence_s
    assert deribit.decode(b'{"jsonrpc":"2.0","id":0,"result":"ok"}', NOW_NS) == (Alive(),)


def test_one_channel_carries_trades_and_liquidations_and_another_the_ticker(deribit: Deribit) -> None:
    (stream,) = deribit.streams(Feed.TRADES, [PERPETUAL])
    assert [stream] == list(deribit.streams(Feed.LIQUIDATIONS, [PERPETUAL]))
    assert (stream.name, stream.symbol) == ("trades.BTC-PERPETUAL.100ms", PERPETUAL)
    tickers = {
        deribit.streams(f, [LINEAR])[0] for f in (Feed.QUOTES, Feed.OPEN_INTEREST, Feed.FUNDING, Feed.MARK_PRICE)
    }
    assert [(s.name, len(s.feeds)) for s in tickers] == [("ticker.SOL_USDC-PERPETUAL.100ms", 4)]
    assert [s.name for s in deribit.streams(Feed.CANDLES, [PERPETUAL])] == ["chart.trades.BTC-PERPETUAL.1"]
    assert [s.name for s in deribit.streams(Feed.DEPTH, [CALL])] == [f"book.{CALL}.100ms"]


def test_what_a_contract_cannot_have_is_not_asked_for(deribit: Deribit) -> None:
    assert [s.symbol for s in deribit.streams(Feed.FUNDING, [PERPETUAL, DATED, CALL])] == [PERPETUAL]
    assert [s.symbol for s in deribit.streams(Feed.CANDLES, [PERPETUAL, DATED, CALL])] == [PERPETUAL, DATED]
    (quotes,) = deribit.streams(Feed.QUOTES, [CALL])
    assert quotes.feeds == {Feed.QUOTES, Feed.OPEN_INTEREST, Feed.MARK_PRICE}
    with pytest.raises(errors.Unsupported):
        deribit.streams(Feed.LIQUIDATIONS, None)


def test_subscriptions_go_in_frames_of_so_many_channels(deribit: Deribit) -> None:
    streams = deribit.streams(Feed.TRADES, [f"C{n}-PERPETUAL" for n in range(STREAMS_PER_SUBSCRIBE + 1)])
    asked = [said(text) for text in deribit.subscribe(streams)]
    assert [len(each["params"]["channels"]) for each in asked] == [STREAMS_PER_SUBSCRIBE, 1]
    assert {each["method"] for each in asked} == {"public/subscribe"}
    assert len({each["id"] for each in asked} | {0}) == 3
    (undone,) = deribit.subscribe(streams[:1], undo=True)
    assert said(undone)["method"] == "public/unsubscribe"
    assert deribit.url("wss://x", "ws", streams) == "wss://x"


def answered(number: int, **body: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, **body, "usIn": 1, "usOut": 2}).encode()


def test_a_channel_that_is_not_among_those_taken_is_refused(deribit: Deribit) -> None:
    streams = deribit.streams(Feed.TRADES, [PERPETUAL, "NOPE-PERPETUAL"])
    (asked,) = deribit.subscribe(streams)
    number, good, bad = said(asked)["id"], streams[0].name, streams[1].name
    assert deribit.decode(answered(number, result=[good]), NOW_NS) == [
        Subscribed((good,)),
        Refused(bad, "not among the channels taken"),
    ]
    (asked,) = deribit.subscribe(streams[1:])
    assert deribit.decode(answered(said(asked)["id"], result=[]), NOW_NS) == [
        Alive(),
        Refused(bad, "not among the channels taken"),
    ]


def test_what_is_given_up_acknowledges_nothing(deribit: Deribit) -> None:
    streams = deribit.streams(Feed.TRADES, [PERPETUAL])
    (undone,) = deribit.subscribe(streams, undo=True)
    assert deribit.decode(answered(said(undone)["id"], result=[streams[0].name]), NOW_NS) == (Alive(),)


def test_of_a_request_that_is_refused_whole_the_halves_are_asked_for(deribit: Deribit) -> None:
    streams = deribit.streams(Feed.TRADES, [PERPETUAL, LINEAR, DATED])
    (asked,) = deribit.subscribe(streams)
    error = {"code": -32602, "message": "Invalid params"}
    halves = deribit.decode(answered(said(asked)["id"], error=error), NOW_NS)
    requests = [said(half.frame) for half in halves if isinstance(half, Reply)]
    assert [r["params"]["channels"] for r in requests] == [[streams[0].name], [s.name for s in streams[1:]]]
    assert deribit.decode(answered(requests[0]["id"], error=error), NOW_NS) == (
        Refused(streams[0].name, "-32602 Invalid params"),
    )


def test_what_passes_by_itself_refuses_nothing(deribit: Deribit) -> None:
    (asked,) = deribit.subscribe(deribit.streams(Feed.TRADES, [PERPETUAL]))
    error = {"code": 10028, "message": "too_many_requests"}
    assert deribit.decode(answered(said(asked)["id"], error=error), NOW_NS) == (
        Skipped("refused", "10028 too_many_requests"),
    )


def test_requests_that_are_never_answered_are_forgotten(deribit: Deribit) -> None:
    streams = deribit.streams(Feed.TRADES, [PERPETUAL])
    for _ in range(ASKED_MAX + 5):
        deribit.subscribe(streams)
    assert len(deribit._asked) == ASKED_MAX


# What symbols mean


@pytest.mark.parametrize("symbol", [row["instrument_name"] for row in (*FUTURES, *OPTIONS)])
def test_the_spelling_tells_what_the_listing_tells_but_for_steps_and_times(deribit: Deribit, symbol: str) -> None:
    listed, assumed = deribit._listing[symbol], Deribit().assume(symbol)
    assert assumed is not None
    for field in ("venue", "symbol", "kind", "coin", "quote", "settle", "contract_size", "inverse"):
        assert getattr(assumed, field) == getattr(listed, field), field


@pytest.mark.parametrize(
    ("symbol", "kind"),
    [("XRP_USDC-30JUN26-0d625-C", Kind.OPTION), ("ETH-3JUL26", Kind.FUTURE), ("BTC_USDT-PERPETUAL", Kind.PERPETUAL)],
)
def test_other_spellings(symbol: str, kind: Kind) -> None:
    assumed = Deribit().assume(symbol)
    assert assumed is not None
    assert assumed.kind is kind


@pytest.mark.parametrize("symbol", ["", "BTC", "btc-perpetual", "BTC_USDC", "BTC-PERPETUAL ", "BTC-25DEC26-64000"])
def test_what_is_no_contract(symbol: str) -> None:
    assert Deribit().assume(symbol) is None


def test_a_listing_is_asked_by_kind_so_that_combos_are_not_in_it(deribit: Deribit) -> None:
    request = deribit.request(Ask(query=Query.INSTRUMENTS))
    assert request.path == "/api/v2/public/get_instruments"
    assert dict(request.query) == {"currency": "any", "kind": "future", "expired": "false"}
    assert request.pool == "listings"
    combo = FUTURES[0] | {"instrument_name": "BTC-FS-25DEC26_PERP", "kind": "future_combo"}
    page = deribit.page(Ask(query=Query.INSTRUMENTS), told([*FUTURES, combo]))
    assert ([i.symbol for i in page.instruments], page.unread) == ([PERPETUAL, LINEAR, DATED], 1)
    assert page.next is not None
    assert dict(deribit.request(page.next).query)["kind"] == "option"
    assert deribit.page(page.next, told(OPTIONS)).next is None
    assert page.instruments[2] == Instrument(
        venue="deribit", symbol=DATED, kind=Kind.FUTURE, coin="BTC", quote="USD", settle="BTC", tick_size=Decimal("2.5"),
        lot_size=Decimal(10), contract_size=Decimal(1), inverse=True, listed_ns=1_758_873_600 * NS,
        expires_ns=1_798_185_600 * NS, trading=False,
    )  # fmt: skip
    assert page.instruments[0].expires_ns is None


# Questions and answers


def test_a_question_costs_credits(deribit: Deribit) -> None:
    request = deribit.request(Ask(query=Query.TIME))
    assert (request.path, request.weight, request.pool) == ("/api/v2/public/get_time", CREDITS, "credits")
    # A hundred at once, and twenty a second.
    rate = deribit.limits.weights["credits"]
    assert (rate.count / CREDITS, rate.count / CREDITS / rate.per_s) == (100, 20)
    assert deribit.page(Ask(query=Query.TIME), told(NOW_MS)) == Page(events=())


@pytest.mark.parametrize("query", [Query.OPEN_INTEREST_HISTORY, Query.PREDICTED_FUNDING, Query.POSITIONS, Query.DEPTH])
def test_what_it_does_not_serve(deribit: Deribit, query: Query) -> None:
    with pytest.raises(errors.Unsupported):
        deribit.request(Ask(query=query, symbol=PERPETUAL))


@pytest.mark.parametrize("interval_s", [None, 7, 10_800, 14_400, 86_400, 604_800])
def test_intervals_it_does_not_serve(deribit: Deribit, interval_s: int | None) -> None:
    with pytest.raises(errors.BadInterval):
        deribit.request(Ask(query=Query.CANDLES, symbol=PERPETUAL, interval_s=interval_s, newest=True, limit=1))


def test_a_ticker_is_asked_for_what_is_now(deribit: Deribit) -> None:
    ask = Ask(query=Query.OPEN_INTEREST, symbol=PERPETUAL)
    assert deribit.request(ask).path == "/api/v2/public/ticker"
    assert [type(event) for event in deribit.page(ask, told(TICKER)).events] == [OpenInterest]
    ask = Ask(query=Query.FUNDING, symbol=PERPETUAL)
    assert [type(event) for event in deribit.page(ask, told(TICKER)).events] == [MarkPrice, FundingRate]
    with pytest.raises(errors.UnknownInstrument):
        deribit.page(Ask(query=Query.FUNDING, symbol="nope"), told(TICKER))


SUMMARIES = [
    {
        "instrument_name": PERPETUAL,
        "creation_timestamp": NOW_MS,
        "open_interest": 500,
        "mark_price": 64000.0,
        "high": 65000.0,
        "low": 63000.0,
        "last": 64000.0,
        "price_change": 2.4,
        "volume": 7871.02139035,
        "volume_usd": 503745369.0,
    },
    {"instrument_name": "BTC-FS-25DEC26_PERP", "creation_timestamp": NOW_MS, "last": 12.0},
    {
        "instrument_name": DATED,
        "creation_timestamp": NOW_MS,
        "high": None,
        "low": None,
        "last": None,
        "price_change": None,
        "volume": 0.0,
        "volume_usd": 0.0,
    },
    {
        "instrument_name": CALL,
        "creation_timestamp": NOW_MS,
        "open_interest": 12.5,
        "mark_price": 0.05,
        "underlying_price": 64012.5,
        "high": 0.06,
        "low": 0.04,
        "last": 0.05,
        "price_change": 1.0,
        "volume": 5.0,
        "volume_usd": 16000.0,
    },
]
DOLLAR_SUMMARIES = [
    {
        "instrument_name": LINEAR,
        "creation_timestamp": NOW_MS,
        "open_interest": 500.0,
        "mark_price": 150.0,
        "high": 150.0,
        "low": 150.0,
        "last": 150.0,
        "price_change": 0.0,
        "volume": 10.0,
        "volume_usd": 1499.0,
        "volume_notional": 1500.0,
    },
    {
        "instrument_name": "BTC_USDC-25DEC26-64000-P",
        "creation_timestamp": NOW_MS,
        "open_interest": 3,
        "mark_price": 0,
        "underlying_price": 64010,
    },
]


def test_summaries_of_all_currencies_without_options_and_combos() -> None:
    def serve(method: str, query: dict[str, str]) -> Any:
        assert method == "get_book_summary_by_currency"
        return {"BTC": SUMMARIES, "ETH": [], "USDC": DOLLAR_SUMMARIES, "USDT": []}[query["currency"]]

    found, flat = walked(Ask(query=Query.TICKERS), serve), Decimal("150.00")
    assert [page.unread for page in found] == [0, 0, 0, 0]
    assert [event for page in found for event in page.events] == [
        # It moved by 2.4 per cent up to 64000.
        Ticker(
            f"deribit:{PERPETUAL}", NOW_NS, NOW_NS, Decimal("63000.0"), Decimal("65000.0"), Decimal("63000.0"),
            Decimal("64000.0"), Decimal("7871.02139035"), Decimal("503745369.0"), 0,
        ),
        Ticker(f"deribit:{LINEAR}", NOW_NS, NOW_NS, flat, flat, flat, flat, Decimal(10), Decimal(1500), 0),
    ]  # fmt: skip
    one_page = taught().page(Ask(query=Query.TICKERS, symbol=PERPETUAL), told(SUMMARIES[:1]))
    assert (len(one_page.events), one_page.next) == (1, None)


def test_open_interest_of_all_options_on_a_coin_those_in_dollars_too() -> None:
    asked: list[dict[str, str]] = []

    def serve(method: str, query: dict[str, str]) -> Any:
        assert method == "get_book_summary_by_currency"
        asked.append(query)
        return {"BTC": SUMMARIES, "USDC": DOLLAR_SUMMARIES}[query["currency"]]

    found = walked(Ask(query=Query.OPTION_INTEREST, symbol="BTC"), serve)
    assert asked == [{"currency": "BTC", "kind": "option"}, {"currency": "USDC", "kind": "option"}]
    price, coins = Decimal("64012.5"), Decimal("12.5")
    assert [event for page in found for event in page.events] == [
        OpenInterest(f"deribit:{CALL}", NOW_NS, NOW_NS, coins, coins * price, None, price),
        OpenInterest(
            "deribit:BTC_USDC-25DEC26-64000-P", NOW_NS, NOW_NS, Decimal(3), Decimal(192_030), None, Decimal(64_010)
        ),
    ]
    asked.clear()
    walked(Ask(query=Query.OPTION_INTEREST, symbol="SOL"), serve)
    assert [query["currency"] for query in asked] == ["USDC"]


def test_one_bad_row_of_many_is_left_out_and_counted() -> None:
    bad = SUMMARIES[3] | {"open_interest": "NaN"}
    page = taught().page(Ask(query=Query.OPTION_INTEREST, symbol="BTC"), told([bad, *SUMMARIES]))
    assert (len(page.events), page.unread) == (1, 1)
    with pytest.raises(errors.Unreadable):
        taught().page(Ask(query=Query.OPTION_INTEREST, symbol="BTC"), told([bad]))


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (refusal(-32602, "instrument_name"), errors.UnknownInstrument),
        (refusal(13020), errors.UnknownInstrument),
        (refusal(-32602, "start_timestamp"), errors.Unavailable),
        (refusal(11051), errors.Unavailable),
        (refusal(10028, status=429), errors.RateLimited),
        (refusal(10028), errors.RateLimited),
        (told(b"", 502), errors.Unavailable),
        (told(b"<html>maintenance</html>", 400), errors.Unavailable),
        (told(b"<html>all is well</html>"), errors.Unreadable),
        (told(b'{"jsonrpc":"2.0"}'), errors.Unavailable),
        (told(b'{"error":{"code":1,"data":[1]}}', 400), errors.Unavailable),
        (told(b""), errors.Unreadable),
        (told(b"[" * 100_000), errors.Unreadable),
        (told(b"\xff"), errors.Unreadable),
        (told({"trades": 5}), errors.Unreadable),
    ],
)
def test_a_refusal_of_the_venue_is_said_in_our_words(
    deribit: Deribit, answer: Answer, refused: type[Exception]
) -> None:
    with pytest.raises(refused) as caught:
        deribit.page(Ask(query=Query.TRADES, symbol=PERPETUAL, newest=True, limit=5), answer)
    assert type(caught.value) is refused


def test_a_pause_is_as_long_as_the_venue_says(deribit: Deribit) -> None:
    for answer in (refusal(10028, status=429, retry_after="7"), refusal(10066, retry_after="7")):
        with pytest.raises(errors.RateLimited) as caught:
            deribit.page(Ask(query=Query.TIME), answer)
        assert (caught.value.retry_s, caught.value.banned) == (7.0, False)


# Paging: the venue played in a few lines


def past(at_ms: int, seq: int) -> dict[str, Any]:
    return {
        "trade_seq": seq, "trade_id": str(seq + 7), "timestamp": at_ms, "price": 10.0, "amount": 20.0, "direction": "buy",
        "instrument_name": PERPETUAL,
    }  # fmt: skip


def serve_trades(truth: list[dict[str, Any]], method: str, query: dict[str, str]) -> Any:
    """Both bounds counted in; from the earliest on where a start is given, else the newest; as sorted as was asked."""
    assert query["instrument_name"] == PERPETUAL
    count, rows = int(query["count"]), truth
    assert count <= TRADES_MAX
    if method == "get_last_trades_by_instrument":
        first, last = int(query.get("start_seq", 0)), int(query.get("end_seq", 10**9))
        rows = [row for row in truth if first <= row["trade_seq"] <= last]
        early = "start_seq" in query
    else:
        assert method == "get_last_trades_by_instrument_and_time"
        first, last = int(query.get("start_timestamp", 0)), int(query.get("end_timestamp", 10**15))
        rows = [row for row in truth if first <= row["timestamp"] <= last]
        early = "start_timestamp" in query
    kept = rows[:count] if early else rows[-count:]
    return {"trades": kept if query["sorting"] == "asc" else kept[::-1], "has_more": len(rows) > count}


# Few moments and many trades at each, so that pages end inside a millisecond.
MOMENTS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 900)), min_size=1, max_size=7)


@settings(deadline=None, max_examples=60)
@given(
    moments=MOMENTS,
    low=st.integers(0, 30),
    width=st.integers(1, 31),
    limit=st.none() | st.integers(1, 2_500),
    newest=st.booleans(),
    fraction_ns=st.integers(0, MS - 1),
)
def test_pages_of_trades_are_a_plain_filter_of_the_truth(
    moments: list[tuple[int, int]], low: int, width: int, limit: int | None, newest: bool, fraction_ns: int
) -> None:
    truth: list[dict[str, Any]] = []
    for at, count in sorted(moments):
        truth += [past(NOW_MS - 1_000 + at, len(truth) + n + 1) for n in range(count)]
    start_ns = (NOW_MS - 1_000 + low) * MS + fraction_ns
    end_ns = start_ns + width * MS
    ask = Ask(query=Query.TRADES, symbol=PERPETUAL, start_ns=start_ns, end_ns=end_ns, limit=limit, newest=newest)
    found = walked(ask, lambda method, query: serve_trades(truth, method, query))
    ordered = found[::-1] if newest else found
    inside = [row["trade_seq"] for row in truth if start_ns <= row["timestamp"] * MS < end_ns]
    wanted = inside if limit is None else inside[-limit:] if newest else inside[:limit]
    events = [event for page in ordered for event in page.events if isinstance(event, Trade)]
    assert [event.id for event in events] == wanted
    promises = [(p.start_ns, p.end_ns) for p in ordered if p.start_ns is not None and p.end_ns is not None]
    ids = set(wanted)
    for begin, end in promises:
        assert {row["trade_seq"] for row in truth if max(begin, start_ns) <= row["timestamp"] * MS < end} <= ids
    if limit is None:
        # Together they promise the stretch without a hole.
        assert promises[0][0] <= start_ns
        assert promises[-1][1] == end_ns
        assert all(begin <= end for (_, end), (begin, _) in pairwise(promises))


def test_trades_after_a_number_and_the_newest_ones() -> None:
    truth = [past(NOW_MS - 5_000 + seq, seq) for seq in range(1, 2_501)]
    serve = lambda method, query: serve_trades(truth, method, query)  # noqa: E731
    after = walked(Ask(query=Query.TRADES, symbol=PERPETUAL, from_id=400), serve)
    assert [e.id for page in after for e in page.events if isinstance(e, Trade)] == list(range(401, 2_501))
    # A page that is exactly full may not be the last.
    assert [len(page.events) for page in after] == [1_000, 1_000, 100]
    newest = walked(Ask(query=Query.TRADES, symbol=PERPETUAL, newest=True, limit=1_500), serve)
    assert [e.id for page in newest[::-1] for e in page.events if isinstance(e, Trade)] == list(range(1_001, 2_501))
    everything = walked(Ask(query=Query.TRADES, symbol=PERPETUAL, newest=True, limit=9_000), serve)
    assert sum(len(page.events) for page in everything) == 2_500


def test_where_no_trade_was_made_the_stretch_is_known_to_be_empty(deribit: Deribit) -> None:
    for newest in (False, True):
        ask = Ask(query=Query.TRADES, symbol=CALL, start_ns=NOW_NS - DAY_NS, end_ns=NOW_NS, newest=newest)
        page = deribit.page(ask, told({"trades": [], "has_more": False}))
        assert (page.events, page.next, page.start_ns, page.end_ns) == ([], None, NOW_NS - DAY_NS, NOW_NS)
    # Older ones than were told already may have been forgotten.
    forgotten = Ask(query=Query.TRADES, symbol=CALL, start_ns=NOW_NS - DAY_NS, end_ns=NOW_NS, newest=True, cursor="500")
    assert deribit.page(forgotten, told({"trades": []})).start_ns is None


def test_numbers_have_no_holes_so_what_is_missing_after_one_is_out_of_reach(deribit: Deribit) -> None:
    ask = Ask(query=Query.TRADES, symbol=PERPETUAL, from_id=400)
    with pytest.raises(errors.OutOfReach):
        deribit.page(ask, told({"trades": [past(NOW_MS, 402)], "has_more": False}))


def test_trades_of_another_instrument_are_not_believed(deribit: Deribit) -> None:
    ask = Ask(query=Query.TRADES, symbol=LINEAR, newest=True, limit=5)
    with pytest.raises(errors.Unreadable):
        deribit.page(ask, told({"trades": [past(NOW_MS, 402)], "has_more": False}))


def chart_of(ticks: list[int]) -> dict[str, Any]:
    columns = {word: [10.5] * len(ticks) for word in ("open", "high", "low", "close", "volume", "cost")}
    return {"status": "ok" if ticks else "no_data", "ticks": ticks, **columns}


def serve_series(truth: list[int], step_ms: int, rows_max: int, method: str, query: dict[str, str]) -> Any:
    """Both bounds counted in; never more is asked for than a page."""
    if method == "get_time":
        return NOW_MS
    first, last = int(query["start_timestamp"]), int(query["end_timestamp"])
    assert first <= last
    assert (last - first) // step_ms < rows_max
    rows = [at for at in truth if first <= at <= last]
    if method == "get_tradingview_chart_data":
        return chart_of(rows)
    assert method == "get_funding_rate_history"
    return [{"timestamp": at, "interest_1h": 1e-5, "interest_8h": 8e-5, "index_price": 1.0} for at in rows]


@settings(deadline=None, max_examples=60)
@given(
    query=st.sampled_from([Query.CANDLES, Query.FUNDING_HISTORY]),
    first=st.integers(0, 3_000),
    low=st.integers(0, 3_000),
    width=st.integers(1, 3_000),
    limit=st.none() | st.integers(1, 2_000),
    newest=st.booleans(),
    odd_ns=st.sampled_from([0, 1, 17 * NS]),
)
def test_pages_of_candles_and_rates_are_a_plain_filter_of_the_truth(
    query: Query, first: int, low: int, width: int, limit: int | None, newest: bool, odd_ns: int
) -> None:
    """Every interval since the first is told, and the growing one."""
    step_ns, rows_max = (MINUTE_NS, CANDLES_MAX) if query is Query.CANDLES else (HOUR_NS, RATES_MAX)
    now_ns = NOW_NS - NOW_NS % step_ns
    begin_ns = now_ns - 3_000 * step_ns
    truth = [(begin_ns + n * step_ns) // MS for n in range(first, 3_001)]
    start_ns = begin_ns + low * step_ns + odd_ns
    end_ns = start_ns + width * step_ns
    ask = Ask(
        query=query, symbol=PERPETUAL, interval_s=60, start_ns=start_ns, end_ns=end_ns, limit=limit or (9_000 if newest else None),
        newest=newest,
    )  # fmt: skip
    found = walked(ask, lambda method, asked: serve_series(truth, step_ns // MS, rows_max, method, asked))
    ordered = found[::-1] if newest else found
    inside = [at * MS for at in truth if start_ns <= at * MS < end_ns]
    wanted = inside if limit is None else inside[-limit:] if newest else inside[:limit]
    events = [event for page in ordered for event in page.events]
    times = [e.open_ns if isinstance(e, Candle) else e.event_ns for e in events if isinstance(e, Candle | FundingRate)]
    assert times == wanted
    whole_ns = now_ns if query is Query.CANDLES else NOW_NS - 300 * NS
    for page in ordered:
        if page.start_ns is not None and page.end_ns is not None:
            assert page.end_ns <= whole_ns
            assert {at for at in inside if page.start_ns <= at < page.end_ns} <= set(wanted)
    assert all(e.closed == (e.open_ns + MINUTE_NS <= now_ns) for e in events if isinstance(e, Candle))


@pytest.mark.parametrize("query", [Query.CANDLES, Query.FUNDING_HISTORY])
def test_the_newest_rows_are_asked_for_up_to_the_venues_time(query: Query) -> None:
    step_ns = MINUTE_NS if query is Query.CANDLES else HOUR_NS
    newest_ns = NOW_NS - NOW_NS % step_ns
    truth = [(newest_ns - n * step_ns) // MS for n in range(2_000)][::-1]
    found = walked(
        Ask(query=query, symbol=PERPETUAL, interval_s=60, newest=True, limit=3),
        lambda method, asked: serve_series(truth, step_ns // MS, 1_000, method, asked),
    )
    events = [event for page in found for event in page.events]
    times = [e.open_ns if isinstance(e, Candle) else e.event_ns for e in events if isinstance(e, Candle | FundingRate)]
    assert times == [newest_ns - 2 * step_ns, newest_ns - step_ns, newest_ns]


def test_a_candle_is_not_final_until_it_cannot_be_late() -> None:
    venue, end_ns = taught(), NOW_NS - NOW_NS % MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol=PERPETUAL, interval_s=60, start_ns=end_ns - 2 * MINUTE_NS, end_ns=end_ns)
    body = told(chart_of([(end_ns - 2 * MINUTE_NS) // MS, (end_ns - MINUTE_NS) // MS])).body
    just = body.replace(b'"usOut": %d' % (NOW_NS // 1_000), b'"usOut": %d' % ((end_ns + 4 * NS) // 1_000))
    assert just != body
    page = venue.page(ask, Answer(200, {}, just, NOW_NS))
    assert [event.closed for event in page.events if isinstance(event, Candle)] == [True, False]
    assert page.end_ns == end_ns - MINUTE_NS
    assert [e.closed for e in venue.page(ask, Answer(200, {}, body, NOW_NS)).events if isinstance(e, Candle)] == [
        True,
        True,
    ]


def test_a_past_rate_is_the_hours(deribit: Deribit) -> None:
    at_ns = NOW_NS - NOW_NS % HOUR_NS
    row = {
        "timestamp": at_ns // MS,
        "interest_1h": 1.25e-06,
        "interest_8h": 1e-05,
        "index_price": 1,
        "prev_index_price": 1,
    }
    ask = Ask(query=Query.FUNDING_HISTORY, symbol=PERPETUAL, start_ns=at_ns, end_ns=at_ns + HOUR_NS)
    assert deribit.page(ask, told([row])).events == [
        FundingRate(f"deribit:{PERPETUAL}", at_ns, NOW_NS, Decimal("0.00000125"), at_ns, 3_600, settled=True)
    ]


def test_the_turnover_of_an_options_candle_is_estimated(deribit: Deribit) -> None:
    at_ms = (NOW_NS - NOW_NS % MINUTE_NS - 5 * MINUTE_NS) // MS
    row = {
        "ticks": [at_ms],
        "open": [0.04],
        "high": [0.05],
        "low": [0.04],
        "close": [0.045],
        "volume": [3],
        "cost": [9000],
    }
    ask = Ask(query=Query.CANDLES, symbol=CALL, interval_s=60, start_ns=at_ms * MS, end_ns=at_ms * MS + MINUTE_NS)
    (candle,) = deribit.page(ask, told(row)).events
    assert isinstance(candle, Candle)
    assert (candle.volume, candle.quote_volume) == (Decimal(3), Decimal("0.135"))


def test_columns_of_different_lengths_are_not_believed(deribit: Deribit) -> None:
    ask = Ask(query=Query.CANDLES, symbol=PERPETUAL, interval_s=60, start_ns=NOW_NS - HOUR_NS, end_ns=NOW_NS)
    with pytest.raises(errors.Unreadable):
        deribit.page(ask, told(chart_of([NOW_MS]) | {"cost": []}))


# Hostile input

FRAMES = [
    trades(),
    trades(liquidation="MT"),
    trades(instrument_name=LINEAR),
    ticker(),
    ticker(OPTION_TICKER),
    ticker(instrument_name=LINEAR),
    chart(),
    frame("book.BTC-PERPETUAL.100ms", BOOK),
    frame("book.BTC-PERPETUAL.100ms", BOOK | {"type": "snapshot"}),
    answered(1, result=["trades.BTC-PERPETUAL.100ms"]),
    answered(1, error={"code": -32602, "message": "Invalid params"}),
    b'{"params":{"type":"test_request"},"method":"heartbeat","jsonrpc":"2.0"}',
]
OPENED_MS = (NOW_NS - NOW_NS % MINUTE_NS) // MS - 120_000
ANSWERS: dict[Query, Any] = {
    Query.INSTRUMENTS: FUTURES,
    Query.CANDLES: chart_of([OPENED_MS, OPENED_MS + 60_000]),
    Query.TRADES: {"trades": [past(NOW_MS - 5, 1), past(NOW_MS - 1, 2)], "has_more": False},
    Query.FUNDING_HISTORY: [{"timestamp": NOW_MS - 60_000, "interest_1h": 1e-5, "interest_8h": 8e-5}],
    Query.FUNDING: TICKER,
    Query.OPEN_INTEREST: TICKER,
    Query.TICKERS: SUMMARIES,
    Query.OPTION_INTEREST: SUMMARIES,
}


@settings(deadline=None, max_examples=300)
@given(text=st.sampled_from(FRAMES), data=st.data())
def test_a_frame_with_one_wrong_value_is_refused_or_still_makes_sense(
    spoil_frame: SpoilFrame, text: bytes, data: st.DataObject
) -> None:
    spoil_frame(taught(), text, data)


@settings(deadline=None, max_examples=300)
@given(query=st.sampled_from(list(ANSWERS)), newest=st.booleans(), data=st.data())
def test_an_answer_with_one_wrong_value_is_refused_in_our_words_or_still_makes_sense(
    spoil_answer: SpoilAnswer, query: Query, newest: bool, data: st.DataObject
) -> None:
    symbol = {Query.OPTION_INTEREST: "BTC", Query.INSTRUMENTS: None, Query.TICKERS: None}.get(query, PERPETUAL)
    start_ns = None if newest else NOW_NS - HOUR_NS
    ask = Ask(query=query, symbol=symbol, interval_s=60, newest=newest, start_ns=start_ns, end_ns=NOW_NS, limit=5)
    spoil_answer(taught(), ask, told(ANSWERS[query]), data)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"id":1,"result":' + b"[" * 100_000,
        b'{"method":"x","params":{}}',
    ],
)
def test_rubbish_is_unreadable(deribit: Deribit, text: bytes) -> None:
    with pytest.raises(errors.Unreadable):
        deribit.decode(text, NOW_NS)


@pytest.mark.parametrize(
    "changes",
    [{"price": "NaN"}, {"amount": 0}, {"amount": -1}, {"price": 1e30}, {"timestamp": 1_590_484_512_188_000}, {"trade_seq": 0}],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(deribit: Deribit, changes: dict[str, Any]) -> None:
    with pytest.raises(errors.Unreadable):
        deribit.decode(trades(**changes), NOW_NS)


# A recorded session


def lines_of(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt") as lines:
        yield from (line.rstrip("\n") for line in lines)


def recorded(folder: Path) -> tuple[Deribit, Iterator[bytes]]:
    venue, listed = Deribit(), list[Instrument]()
    for line in lines_of(folder / "frames" / "DERIBIT.0.gz"):
        _, _, answer = line.partition(" -> ")
        if not answer:
            continue
        rows = json.loads(answer.partition(": ")[2])["result"]
        for kind in ("future", "option"):
            page = venue.page(Ask(query=Query.INSTRUMENTS, cursor=kind), told([r for r in rows if r["kind"] == kind]))
            assert page.unread == 0
            listed += page.instruments
    venue.learn(listed)

    def frames() -> Iterator[bytes]:
        for line in lines_of(folder / "frames" / "DERIBIT.ws.1.0.gz"):
            head, _, text = line.partition(": ")
            if text and not head.startswith("wss:"):
                yield text.encode()

    return venue, frames()


def test_every_frame_of_the_recorded_session_is_read_and_its_books_hold_together(recordings: Path) -> None:
    venue, frames = recorded(recordings)
    counts: Counter[str] = Counter()
    books: dict[str, Depth] = defaultdict(lambda: Depth(streamed=True))
    outcomes: Counter[Outcome] = Counter()
    for text in frames:
        for event in venue.decode(text, NOW_NS):
            counts[type(event).__name__] += 1
            if isinstance(event, DepthSnapshot | DepthDelta):
                outcomes[books[event.instrument].take(event)] += 1
    assert counts == {
        "Subscribed": 1,
        "Quote": 89,
        "OpenInterest": 89,
        "MarkPrice": 89,
        "DepthSnapshot": 10,
        "DepthDelta": 36,
    }
    assert outcomes == {Outcome.APPLIED: 46}
    assert len(books) == 10


def test_the_best_of_a_recorded_book_is_what_the_ticker_tells(recordings: Path) -> None:
    venue, frames = recorded(recordings)
    books: dict[str, Depth] = defaultdict(lambda: Depth(streamed=True))
    quotes: dict[str, Quote] = {}
    for text in frames:
        for event in venue.decode(text, NOW_NS):
            if isinstance(event, DepthSnapshot | DepthDelta):
                books[event.instrument].take(event)
            elif isinstance(event, Quote):
                quotes[event.instrument] = event
    told_best = {name: (quote.bid_price, quote.ask_price) for name, quote in quotes.items()}
    best = {}
    for name, depth in books.items():
        bids, asks = depth.bids(1), depth.asks(1)
        best[name] = (bids[0][0] if bids else None, asks[0][0] if asks else None)
    assert best == told_best
    assert len(best) == 10


def test_the_recorded_listing(recordings: Path) -> None:
    venue, _ = recorded(recordings)
    listing = venue._listing.values()
    kinds = Counter((i.kind, i.inverse, i.contract_size) for i in listing)
    assert kinds[Kind.PERPETUAL, True, Decimal(1)] == 3
    assert kinds[Kind.OPTION, False, None] == 980
    assert kinds[Kind.PERPETUAL, False, None] + kinds[Kind.FUTURE, True, Decimal(1)] == 34
    for instrument in listing:
        assumed = venue.assume(instrument.symbol)
        assert assumed is not None, instrument.symbol
        assert (assumed.kind, assumed.inverse, assumed.coin) == (instrument.kind, instrument.inverse, instrument.coin)
