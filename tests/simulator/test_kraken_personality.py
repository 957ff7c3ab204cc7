"""The adapter against the personality over real sockets, with the world's truth at hand."""

import json
from collections.abc import AsyncIterator
from decimal import ROUND_HALF_EVEN, Decimal

import pytest

from openoutcry.clock import NS
from openoutcry.errors import OutOfReach, RateLimited, Unavailable, UnknownInstrument, Unreadable
from openoutcry.events import Candle, Quote, Trade
from openoutcry.simulator.kraken import CANDLES_MAX, REPEATED_TRADES
from openoutcry.simulator.tape import Bar
from openoutcry.venues.kraken import Kraken
from openoutcry.venues.venue import Alive, Answer, Ask, Feed, Query, Refused, Subscribed
from tests.simulator.client import (
    DAY_NS,
    HOUR_NS,
    MINUTE_NS,
    START_NS,
    Fence,
    Said,
    VenueClient,
    ends,
    playing,
    told_of,
    truth_of,
)

BTC = "kraken:BTC/USD"
FENCE = Fence(b'{"method":"ping","req_id":77}', b'"pong"')
Client = VenueClient[Kraken]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    # A question a second is what the venue allows.
    async with playing(Client(Kraken(), FENCE, "BTC/USD", pause_s=1.0)) as client:
        yield client


def candle_of(client: Client, bar: Bar, name: str = BTC) -> tuple[int | Decimal, ...]:
    s = client.world.speller(name)
    prices = map(s.price_decimal, (bar.open, bar.high, bar.low, bar.close))
    return (bar.open_ns, *prices, s.coins(bar.lots), bar.trades)


def told_candle(c: Candle) -> tuple[int | Decimal, ...]:
    return (c.open_ns, c.open, c.high, c.low, c.close, c.volume, c.trades)


# Streams


async def test_streamed_trades_are_the_trades_of_the_world(client: Client) -> None:
    begin_ns = client.clock.now_ns()
    socket, frames = await client.subscribe(Feed.TRADES)
    told = await client.hear(socket, frames)
    assert told[:2] == [Alive(), Subscribed(("trade:BTC/USD",))]
    # First the newest fifty once more.
    before = client.world.last_trades(BTC, REPEATED_TRADES, begin_ns)
    assert told_of(told) == truth_of(client.world, BTC, before)
    await client.clock.advance(30.0)
    told += await client.hear(socket, frames)
    made = client.world.trades(BTC, begin_ns, begin_ns + 29 * NS)
    assert len(made) > 10
    heard = [row for row in told_of(told)[REPEATED_TRADES:] if row[1] < begin_ns + 29 * NS]
    assert heard == truth_of(client.world, BTC, made)
    ids = [row[0] for row in told_of(told)]
    assert ids == list(range(int(ids[0]), int(ids[0]) + len(ids)))


async def test_a_quiet_line_is_kept_alive_by_heartbeats(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.TRADES, symbol="DOGE/USD")
    await client.hear(socket, frames)
    told: Said = []
    for _ in range(10):
        await client.clock.advance(1.0)
        told += await client.hear(socket, frames)
    assert told.count(Alive()) + len({row[1] for row in told_of(told)}) >= 5
    assert Alive() in told


async def test_streamed_candles_close_with_the_values_of_the_world(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.CANDLES)
    told = await client.hear(socket, frames)
    assert not [e for e in told if isinstance(e, Candle)]
    for _ in range(20):
        await client.clock.advance(10.0)
        told += await client.hear(socket, frames)
    candles = [e for e in told if isinstance(e, Candle)]
    closed = [told_candle(c) for c in candles if c.closed]
    first_ns = START_NS // MINUTE_NS * MINUTE_NS
    bars = client.world.candles(BTC, 60, first_ns, first_ns + 3 * MINUTE_NS)
    assert closed == [candle_of(client, bar) for bar in bars]
    # The quote volume is what the rounded average price makes of it.
    s = client.world.speller(BTC)
    for candle, bar in zip((c for c in candles if c.closed), bars, strict=True):
        exact = Decimal(s.notional(bar.notional))
        assert abs(candle.quote_volume - exact) <= candle.volume * Decimal("0.01")
        assert candle.quote_volume == candle.quote_volume.quantize(Decimal("1e-8"), ROUND_HALF_EVEN)


async def test_quotes_are_the_worlds(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.QUOTES)
    await client.clock.advance(5.0)
    quotes = [e for e in await client.hear(socket, frames) if isinstance(e, Quote)]
    assert len(quotes) >= 9
    s = client.world.speller(BTC)
    for quote in quotes[1:]:
        best = client.world.quote(BTC, quote.event_ns)
        assert (quote.bid_price, quote.ask_price) == (s.price_decimal(best.bid_ticks), s.price_decimal(best.ask_ticks))
        assert (quote.bid_size, quote.ask_size) == (s.coins(best.bid_lots), s.coins(best.ask_lots))


async def test_one_pair_that_is_not_listed_does_not_cost_the_others(client: Client) -> None:
    socket, frames = await client.open()
    client.faults.set("kraken", refuse_subscriptions={"trade:ETH/USD"})
    for frame in client.venue.subscribe(client.venue.streams(Feed.TRADES, ["FOO/USD", "BTC/USD", "ETH/USD"])):
        await socket.send(frame)
    told = [each for each in await client.hear(socket, frames) if not isinstance(each, Trade)]
    assert told == [
        Alive(),
        Refused("trade:FOO/USD", "Currency pair not supported FOO/USD"),
        Subscribed(("trade:BTC/USD",)),
        Refused("trade:ETH/USD", "Currency pair not supported ETH/USD"),
    ]


async def test_what_is_given_up_is_no_longer_pushed(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.TRADES, Feed.QUOTES)
    await client.hear(socket, frames)
    for frame in client.venue.subscribe(client.venue.streams(Feed.TRADES, ["BTC/USD"]), undo=True):
        await socket.send(frame)
    assert await client.hear(socket, frames) == [Alive()]
    await client.clock.advance(10.0)
    assert {type(each) for each in await client.hear(socket, frames)} <= {Quote, Alive}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"{", "Malformed request"),
        (b'{"method":"dance"}', "Method not found"),
        (b'{"method":"subscribe","params":{"channel":"foo","symbol":["BTC/USD"]}}', "Channel field"),
        (b'{"method":"subscribe","params":7}', "Channel field"),
        (
            b'{"method":"subscribe","params":{"channel":"ohlc","interval":7,"symbol":["BTC/USD"]}}',
            "interval not supported",
        ),
    ],
)
async def test_what_the_venue_answers_to_what_it_does_not_take(client: Client, said: bytes, why: str) -> None:
    socket, frames = await client.open()
    assert json.loads(await anext(frames))["channel"] == "status"
    await socket.send(said)
    answer = json.loads(await anext(frames))
    assert answer["success"] is False
    assert why in answer["error"]


async def test_a_second_subscription_is_refused(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.TRADES, Feed.TRADES)
    told = [each for each in await client.hear(socket, frames) if isinstance(each, Refused)]
    assert told == [Refused("trade:BTC/USD", "Already subscribed")]


async def test_who_says_nothing_and_follows_nothing_is_cut(client: Client) -> None:
    _, frames = await client.open()
    kept, kept_frames = await client.subscribe(Feed.TRADES)
    await client.hear(kept, kept_frames)
    await client.clock.advance(61.0)
    await ends(frames)
    assert told_of(await client.hear(kept, kept_frames))


async def test_a_cut_ends_the_line_and_what_was_made_meanwhile_is_told_by_rest(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.TRADES)
    last = told_of(await client.hear(socket, frames))[-1]
    client.faults.set("kraken", cut="rst")
    await client.clock.advance(0.1)
    await ends(frames)
    for away_s in (600.0, 3_000.0):
        # Once the newest thousand hold it, and once it must be looked for further back.
        await client.clock.advance(away_s)
        missed = await client.ask(Ask(query=Query.TRADES, symbol="BTC/USD", from_id=last[0]))
        now_ns = client.clock.now_ns()
        truth = truth_of(client.world, BTC, client.world.trades_from(BTC, int(last[0]) + 1, 90_000, now_ns))
        assert len(missed) > 100
        assert told_of(missed) == truth
    assert len(truth) > 1_000


# Questions


async def test_the_listing_is_the_worlds_in_the_spelling_of_the_socket(client: Client) -> None:
    (page,) = await client.pages(Ask(query=Query.INSTRUMENTS))
    truth = [listing.instrument for listing in client.world.listings("kraken")]
    assert [(i.symbol, i.coin, i.quote, i.tick_size, i.lot_size) for i in page.instruments] == [
        (i.symbol, i.coin, "USD", i.tick_size, i.lot_size) for i in truth
    ]
    assert [i.symbol for i in page.instruments] == ["BTC/USD", "ETH/USD", "SOL/USD", "DOGE/USD"]


@pytest.mark.parametrize(("ago_ns", "span_ns"), [(600 * NS, 600 * NS), (2 * DAY_NS, HOUR_NS), (20 * DAY_NS, 60 * NS)])
async def test_trades_of_any_stretch_are_found(client: Client, ago_ns: int, span_ns: int) -> None:
    start_ns = client.clock.now_ns() - ago_ns
    ask = Ask(query=Query.TRADES, symbol="BTC/USD", start_ns=start_ns, end_ns=start_ns + span_ns)
    pages = await client.pages(ask)
    truth = truth_of(client.world, BTC, client.world.trades(BTC, start_ns, start_ns + span_ns))
    assert truth
    assert told_of(event for page in pages for event in page.events) == truth
    assert (pages[0].start_ns, pages[-1].end_ns) == (start_ns, start_ns + span_ns)
    newest = Ask(query=Query.TRADES, symbol="BTC/USD", end_ns=start_ns + span_ns, newest=True, limit=1_500)
    before = client.world.last_trades(BTC, 1_500, start_ns + span_ns)
    assert told_of(await client.ask(newest)) == truth_of(client.world, BTC, before)


async def test_trades_from_before_the_first_begin_with_it(client: Client) -> None:
    name = "kraken:DOGE/USD"
    listed_ns = client.world.life(name)[0]
    ask = Ask(query=Query.TRADES, symbol="DOGE/USD", start_ns=listed_ns - DAY_NS, end_ns=listed_ns + HOUR_NS)
    truth = client.world.trades(name, listed_ns, listed_ns + HOUR_NS)
    assert len(truth)
    assert told_of(await client.ask(ask)) == truth_of(client.world, name, truth)


async def test_candles_are_the_worlds_without_the_flat_ones_and_reach_as_far_as_is_served(client: Client) -> None:
    name, start_ns = "kraken:DOGE/USD", START_NS // MINUTE_NS * MINUTE_NS - 600 * MINUTE_NS
    end_ns = start_ns + 590 * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol="DOGE/USD", interval_s=60, start_ns=start_ns, end_ns=end_ns)
    (page,) = await client.pages(ask)
    told = [e for e in page.events if isinstance(e, Candle)]
    bars = client.world.candles(name, 60, start_ns, end_ns)
    assert [told_candle(c) for c in told] == [candle_of(client, bar, name) for bar in bars]
    assert all(c.closed for c in told)
    assert 0 < len(told) < 590
    assert (page.start_ns, page.end_ns) == (start_ns, end_ns)
    newest = await client.ask(Ask(query=Query.CANDLES, symbol="BTC/USD", interval_s=3_600, newest=True, limit=7))
    assert [e.open_ns for e in newest if isinstance(e, Candle)] == [
        START_NS // HOUR_NS * HOUR_NS - n * HOUR_NS for n in range(6, -1, -1)
    ]
    with pytest.raises(OutOfReach):
        await client.ask(
            Ask(
                query=Query.CANDLES, symbol="BTC/USD", interval_s=60, start_ns=START_NS - 5 * DAY_NS,
                end_ns=START_NS - 4 * DAY_NS,
            )
        )  # fmt: skip


async def test_the_newest_candles_come_whatever_since_says(client: Client) -> None:
    await client.clock.advance(1.0)
    query = [("pair", "XXBTZUSD"), ("interval", "1"), ("since", "1")]
    rows = json.loads((await client.get("/0/public/OHLC", query)).body)["result"]["XXBTZUSD"]
    assert len(rows) == CANDLES_MAX
    assert rows[-1][0] == client.clock.now_ns() // MINUTE_NS * 60


async def test_the_day_tells_the_opening_price_of_today(client: Client) -> None:
    await client.clock.advance(1.0)
    told = json.loads((await client.get("/0/public/Ticker")).body)["result"]
    now_ns = client.clock.now_ns()
    today = client.world.window(BTC, now_ns // DAY_NS * DAY_NS, now_ns)
    day = client.world.window(BTC, now_ns - DAY_NS, now_ns)
    assert today is not None
    assert day is not None
    s = client.world.speller(BTC)
    assert len(told) == 4
    assert told["XXBTZUSD"]["o"] == s.price(today.open)
    assert told["XXBTZUSD"]["v"] == [s.size(today.lots), s.size(day.lots)]
    await client.clock.advance(1.0)
    status = json.loads((await client.get("/0/public/SystemStatus")).body)
    assert status["result"]["status"] == "online"


async def test_refusals(client: Client) -> None:
    async def asked(method: str, *query: tuple[str, str]) -> Answer:
        await client.clock.advance(1.0)
        return await client.get(f"/0/public/{method}", query)

    with pytest.raises(UnknownInstrument):
        client.venue.page(Ask(query=Query.TRADES, symbol="FOO/USD"), await asked("Trades", ("pair", "FOOUSD")))
    for method, query in (("Nothing", ()), ("Trades", ()), ("Trades", (("pair", "XBTUSD"), ("since", "x")))):
        with pytest.raises(Unavailable):
            client.venue.page(Ask(query=Query.TIME), await asked(method, *query))
    await client.clock.advance(1.0)
    assert (await client.get("/1/x")).status == 404
    for status, error in ((429, RateLimited), (503, Unavailable)):
        client.faults.set("kraken", storm=status)
        with pytest.raises(error):
            await client.ask(Ask(query=Query.TIME))
    client.faults.clear("kraken")
    client.faults.set("kraken", html=True)
    with pytest.raises(Unreadable):
        await client.ask(Ask(query=Query.INSTRUMENTS))


async def test_the_second_question_of_a_second_is_too_fast_though_its_status_is_good(client: Client) -> None:
    await client.clock.advance(1.0)
    assert client.venue.page(Ask(query=Query.TIME), await client.get("/0/public/Time")).events == ()
    answer = await client.get("/0/public/Time")
    assert answer.status == 200
    with pytest.raises(RateLimited):
        client.venue.page(Ask(query=Query.TIME), answer)
