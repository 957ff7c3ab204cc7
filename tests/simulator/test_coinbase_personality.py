"""The adapter against the personality over real sockets, with the world's truth at hand."""

import json
from collections.abc import AsyncIterator

import pytest

from openoutcry.clock import NS
from openoutcry.errors import RateLimited, Unavailable, UnknownInstrument, Unreadable
from openoutcry.events import Candle, Quote, Ticker
from openoutcry.instrument import Kind
from openoutcry.simulator.coinbase import CANDLES_MAX, TRADES_MAX
from openoutcry.venues.coinbase import Coinbase
from openoutcry.venues.venue import Alive, Ask, Feed, Query, Refused, Subscribed
from tests.simulator.client import (
    DAY_NS,
    HOUR_NS,
    MINUTE_NS,
    START_NS,
    Fence,
    VenueClient,
    ends,
    playing,
    told_of,
    truth_of,
)

BTC = "coinbase:BTC-USD"
FENCE = Fence(b'{"type":"fence"}', b"Invalid type")
Client = VenueClient[Coinbase]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    # A question a fifteenth of a second is what the venue allows.
    async with playing(Client(Coinbase(), FENCE, "BTC-USD", pause_s=0.1)) as client:
        yield client


# Streams


async def test_streamed_trades_are_the_trades_of_the_world(client: Client) -> None:
    begin_ns = client.clock.now_ns()
    socket, frames = await client.subscribe(Feed.TRADES)
    told = await client.hear(socket, frames)
    assert told[0] == Subscribed(("heartbeat:BTC-USD", "matches:BTC-USD"))
    # First the newest of before once more.
    assert told_of(told) == truth_of(client.world, BTC, client.world.last_trades(BTC, 1, begin_ns))
    await client.clock.advance(30.0)
    told += await client.hear(socket, frames)
    made = client.world.trades(BTC, begin_ns, begin_ns + 29 * NS)
    assert len(made) > 20
    heard = [row for row in told_of(told)[1:] if row[1] < begin_ns + 29 * NS]
    assert heard == truth_of(client.world, BTC, made)
    assert 28 <= told.count(Alive()) <= 31
    ids = [row[0] for row in told_of(told)]
    assert ids == list(range(int(ids[0]), int(ids[0]) + len(ids)))


async def test_quotes_come_with_trades_and_are_the_worlds(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.QUOTES)
    await client.clock.advance(20.0)
    quotes = [e for e in await client.hear(socket, frames) if isinstance(e, Quote)]
    assert len(quotes) > 10
    s = client.world.speller(BTC)
    for quote in quotes[1:]:
        best = client.world.quote(BTC, quote.event_ns)
        assert (quote.bid_price, quote.ask_price) == (s.price_decimal(best.bid_ticks), s.price_decimal(best.ask_ticks))
        assert (quote.bid_size, quote.ask_size) == (s.coins(best.bid_lots), s.coins(best.ask_lots))


async def test_one_product_that_is_not_listed_costs_the_whole_request(client: Client) -> None:
    socket, frames = await client.open()
    streams = client.venue.streams(Feed.TRADES, ["BTC-USD", "FOO-USD"])
    for frame in client.venue.subscribe(streams):
        await socket.send(frame)
    reason = "Failed to subscribe: FOO-USD is not a valid product"
    assert await client.hear(socket, frames) == [Refused(None, reason)]
    await client.clock.advance(3.0)
    assert await client.hear(socket, frames) == []
    client.faults.set("coinbase", refuse_subscriptions={"matches:ETH-USD"})
    for frame in client.venue.subscribe(client.venue.streams(Feed.TRADES, ["ETH-USD"])):
        await socket.send(frame)
    (refused,) = await client.hear(socket, frames)
    assert isinstance(refused, Refused)


async def test_what_is_given_up_is_no_longer_pushed_and_no_longer_named(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.TRADES, Feed.QUOTES)
    told = await client.hear(socket, frames)
    assert Subscribed(("heartbeat:BTC-USD", "matches:BTC-USD", "ticker:BTC-USD")) in told
    for frame in client.venue.subscribe(client.venue.streams(Feed.TRADES, ["BTC-USD"]), undo=True):
        await socket.send(frame)
    assert await client.hear(socket, frames) == [Subscribed(("ticker:BTC-USD",))]
    await client.clock.advance(10.0)
    assert {type(each) for each in await client.hear(socket, frames)} == {Quote}


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"{", {"type": "error", "message": "Malformed JSON"}),
        (b"7", {"type": "error", "message": "Invalid type"}),
        (
            b'{"type":"subscribe","product_ids":["BTC-USD"],"channels":["foo"]}',
            {"type": "error", "message": "Failed to subscribe", "reason": "foo is not a valid channel"},
        ),
        (
            b'{"type":"subscribe","channels":["matches"]}',
            {"type": "error", "message": "Failed to subscribe", "reason": "No products specified"},
        ),
        (
            b'{"type":"subscribe","channels":[{"name":"heartbeat","product_ids":["ETH-USD"]}]}',
            {
                "type": "subscriptions",
                "channels": [{"name": "heartbeat", "product_ids": ["ETH-USD"], "account_ids": None}],
            },
        ),
    ],
)
async def test_what_the_venue_answers_to_what_is_said(client: Client, said: bytes, answer: dict[str, object]) -> None:
    socket, frames = await client.open()
    await socket.send(said)
    assert json.loads(await anext(frames)) == answer


async def test_who_does_not_subscribe_within_five_seconds_is_cut(client: Client) -> None:
    _, frames = await client.open()
    kept, kept_frames = await client.subscribe(Feed.TRADES)
    await client.hear(kept, kept_frames)
    await client.clock.advance(6.0)
    await ends(frames)
    assert told_of(await client.hear(kept, kept_frames))


async def test_a_cut_ends_the_line_and_what_was_made_meanwhile_is_told_by_rest(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.TRADES)
    last = told_of(await client.hear(socket, frames))[-1]
    client.faults.set("coinbase", cut="rst")
    await client.clock.advance(0.1)
    await ends(frames)
    await client.clock.advance(600.0)
    missed = await client.ask(Ask(query=Query.TRADES, symbol="BTC-USD", from_id=last[0]))
    now_ns = client.clock.now_ns()
    assert len(missed) > 100
    assert told_of(missed) == truth_of(
        client.world, BTC, client.world.trades_from(BTC, int(last[0]) + 1, 10_000, now_ns)
    )


# Questions


async def test_the_listing_is_the_worlds(client: Client) -> None:
    (page,) = await client.pages(Ask(query=Query.INSTRUMENTS))
    told = [(i.symbol, i.coin, i.quote, i.kind, i.tick_size, i.lot_size, i.trading) for i in page.instruments]
    truth = [listing.instrument for listing in client.world.listings("coinbase")]
    assert told == [(i.symbol, i.coin, "USD", Kind.SPOT, i.tick_size, i.lot_size, True) for i in truth]
    assert len(told) == 4


@pytest.mark.parametrize(("ago_ns", "span_ns"), [(600 * NS, 600 * NS), (2 * DAY_NS, HOUR_NS), (20 * DAY_NS, 60 * NS)])
async def test_trades_of_any_stretch_are_found(client: Client, ago_ns: int, span_ns: int) -> None:
    start_ns = client.clock.now_ns() - ago_ns
    ask = Ask(query=Query.TRADES, symbol="BTC-USD", start_ns=start_ns, end_ns=start_ns + span_ns)
    pages = await client.pages(ask)
    truth = truth_of(client.world, BTC, client.world.trades(BTC, start_ns, start_ns + span_ns))
    assert truth
    assert told_of(event for page in pages for event in page.events) == truth
    spans = [(p.start_ns, p.end_ns) for p in pages if p.start_ns is not None]
    assert spans[0][0] == start_ns
    assert spans[-1][1] == start_ns + span_ns
    assert len(pages) < 25 + len(truth) // TRADES_MAX
    newest = Ask(query=Query.TRADES, symbol="BTC-USD", end_ns=start_ns + span_ns, newest=True, limit=1_500)
    before = client.world.last_trades(BTC, 1_500, start_ns + span_ns)
    assert told_of(await client.ask(newest)) == truth_of(client.world, BTC, before)


async def test_trades_from_before_the_first_begin_with_it(client: Client) -> None:
    listed_ns = client.world.life(BTC)[0]
    ask = Ask(
        query=Query.TRADES, symbol="BTC-USD", start_ns=listed_ns - DAY_NS, end_ns=listed_ns + HOUR_NS, limit=1_200
    )
    truth = client.world.trades(BTC, listed_ns, listed_ns + HOUR_NS)[:1_200]
    assert told_of(await client.ask(ask)) == truth_of(client.world, BTC, truth)


async def test_the_headers_of_a_page_name_its_ends_and_before_means_the_newest(client: Client) -> None:
    path = "/products/BTC-USD/trades"
    first = await client.get(path, [("limit", "5")])
    ids = [row["trade_id"] for row in json.loads(first.body)]
    assert (first.headers["cb-before"], first.headers["cb-after"]) == (str(ids[0]), str(ids[-1]))
    older = json.loads((await client.get(path, [("limit", "5"), ("after", first.headers["cb-after"])])).body)
    assert [row["trade_id"] for row in older] == [ids[-1] - n for n in range(1, 6)]
    newer = json.loads((await client.get(path, [("limit", "2"), ("before", str(ids[-1]))])).body)
    assert [row["trade_id"] for row in newer] == ids[:2]


async def test_candles_are_the_worlds_and_minutes_without_a_trade_have_none(client: Client) -> None:
    name, start_ns = "coinbase:LINK-USD", START_NS // MINUTE_NS * MINUTE_NS - 700 * MINUTE_NS
    end_ns = start_ns + 650 * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol="LINK-USD", interval_s=60, start_ns=start_ns, end_ns=end_ns)
    pages = await client.pages(ask)
    assert len(pages) == -(-650 // CANDLES_MAX)
    told = [e for page in pages for e in page.events if isinstance(e, Candle)]
    s = client.world.speller(name)
    bars = client.world.candles(name, 60, start_ns, end_ns)
    assert [(c.open_ns, c.open, c.high, c.low, c.close, c.volume) for c in told] == [
        (b.open_ns, *map(s.price_decimal, (b.open, b.high, b.low, b.close)), s.coins(b.lots)) for b in bars
    ]
    assert all(c.closed for c in told)
    assert 0 < len(told) < 650
    newest = await client.ask(Ask(query=Query.CANDLES, symbol="LINK-USD", interval_s=300, newest=True, limit=7))
    opens = [c.open_ns for c in newest if isinstance(c, Candle)]
    now_ns = client.clock.now_ns()
    assert opens == [b.open_ns for b in client.world.candles(name, 300, now_ns - DAY_NS, now_ns)][-7:]


async def test_more_candles_than_one_answer_holds_are_refused(client: Client) -> None:
    bounds = [("start", "2026-11-20T01:00:00Z"), ("end", "2026-11-20T06:00:00Z")]
    answer = await client.get("/products/BTC-USD/candles", [("granularity", "60"), *bounds])
    assert answer.status == 400
    assert b"exceeds 300" in answer.body
    assert (await client.get("/products/BTC-USD/candles", [("granularity", "7")])).status == 400
    assert (await client.get("/products/BTC-USD/candles", [("start", "x"), ("end", "y")])).status == 400
    assert (await client.get("/products/BTC-USD/trades", [("limit", "1001")])).status == 400
    newest = await client.get("/products/BTC-USD/candles", [("granularity", "60")])
    assert len(json.loads(newest.body)) == CANDLES_MAX


async def test_the_day_of_all_products_is_the_worlds(client: Client) -> None:
    told = {e.instrument: e for e in await client.ask(Ask(query=Query.TICKERS)) if isinstance(e, Ticker)}
    now_ns = client.clock.now_ns()
    assert len(told) == 4
    bar, s = client.world.window(BTC, now_ns - DAY_NS, now_ns), client.world.speller(BTC)
    assert bar is not None
    day = told[BTC]
    assert (day.open, day.high, day.low, day.close) == tuple(
        map(s.price_decimal, (bar.open, bar.high, bar.low, bar.close))
    )
    assert day.volume == s.coins(bar.lots)


async def test_refusals(client: Client) -> None:
    with pytest.raises(UnknownInstrument):
        client.venue.page(Ask(query=Query.TRADES, symbol="FOO-USD"), await client.get("/products/FOO-USD/trades"))
    assert (await client.get("/nothing")).status == 404
    client.faults.set("coinbase", storm=429)
    with pytest.raises(RateLimited):
        await client.ask(Ask(query=Query.TIME))
    client.faults.set("coinbase", storm=503)
    with pytest.raises(Unavailable):
        await client.ask(Ask(query=Query.TIME))
    client.faults.clear("coinbase")
    client.faults.set("coinbase", html=True)
    with pytest.raises(Unreadable):
        await client.ask(Ask(query=Query.INSTRUMENTS))


async def test_the_sixteenth_question_of_a_second_is_too_fast(client: Client) -> None:
    await client.clock.advance(1.0)
    statuses = [(await client.get("/time")).status for _ in range(20)]
    assert statuses == [200] * 15 + [429] * 5
