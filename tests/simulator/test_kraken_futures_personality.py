"""The adapter against the personality over real sockets, with the world's truth at hand."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import ROUND_HALF_EVEN, Decimal

import msgspec
import pytest

from openoutcry.clock import NS
from openoutcry.errors import OutOfReach, RateLimited, Unavailable, UnknownInstrument, Unreadable
from openoutcry.events import (
    Candle,
    Event,
    FundingRate,
    Liquidation,
    MarkPrice,
    OpenInterest,
    Quote,
    Side,
    Ticker,
    Trade,
)
from openoutcry.instrument import Kind
from openoutcry.simulator.kraken_futures import CANDLES_MAX, TRADES_MAX
from openoutcry.simulator.tape import Tape
from openoutcry.transport import TransportError
from openoutcry.venues.kraken_futures import KrakenFutures
from openoutcry.venues.venue import Alive, Ask, Feed, Page, Query, Refused, Signal, Skipped, Subscribed
from tests.simulator.client import DAY_NS, HOUR_NS, MINUTE_NS, START_NS, Fence, VenueClient, playing, told_of, truth_of

LINEAR, INVERSE = "PF_XBTUSD", "PI_XBTUSD"
FENCE = Fence(b'{"event":"fence"}', b"Bad request")
Client = VenueClient[KrakenFutures]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with playing(Client(KrakenFutures(), FENCE, LINEAR)) as client:
        yield client


# Without ids: those of the venue are names, and the world's are numbers.


def told_trades(events: Iterable[Event | Signal]) -> list[tuple[int, Side, Decimal, Decimal]]:
    return [row[1:] for row in told_of(events)]


def true_trades(client: Client, symbol: str, tape: Tape) -> list[tuple[int, Side, Decimal, Decimal]]:
    return [row[1:] for row in truth_of(client.world, f"kraken_futures:{symbol}", tape)]


# Streams


@pytest.mark.parametrize("symbol", [LINEAR, INVERSE])
async def test_streamed_trades_are_the_trades_of_the_world_and_what_was_booked_beside_is_skipped(
    client: Client, symbol: str
) -> None:
    name = f"kraken_futures:{symbol}"
    socket, frames = await client.subscribe(Feed.TRADES, symbol=symbol)
    told = await client.hear(socket, frames)
    assert told[:2] == [Alive(), Subscribed((f"trade:{symbol}",))]
    # First the newest hundred once more; those that were booked beside the book are among them.
    before = told_trades(told)
    assert 90 <= len(before) <= TRADES_MAX
    assert before == true_trades(client, symbol, client.world.last_trades(name, len(before), START_NS))
    for _ in range(12):
        await client.clock.advance(20.0)
        told += await client.hear(socket, frames)
    made = client.world.trades(name, START_NS, START_NS + 239 * NS)
    assert len(made) > 20
    assert [row for row in told_trades(told)[len(before) :] if row[0] < START_NS + 239 * NS] == true_trades(
        client, symbol, made
    )
    forced = [e for e in told if isinstance(e, Liquidation) and START_NS <= e.event_ns < START_NS + 239 * NS]
    assert len(forced) == len(client.world.liquidations(name, START_NS, START_NS + 239 * NS).split())
    numbers = [e.seq for e in told if isinstance(e, Trade)]
    booked = [e for e in told if e == Skipped("non_market", symbol)]
    # Numbers have holes where trades were booked beside the book, and nowhere else.
    assert numbers[-1] - numbers[0] + 1 - len(numbers) <= len(booked) <= numbers[-1] - numbers[0] + 2 - len(numbers)
    assert booked


async def test_a_ticker_tells_what_the_world_knows(client: Client) -> None:
    for symbol in (LINEAR, INVERSE):
        name = f"kraken_futures:{symbol}"
        told = await client.hear(*await client.subscribe(Feed.QUOTES, symbol=symbol))
        quote, interest, mark, rate = told[2:]
        assert isinstance(quote, Quote)
        assert isinstance(interest, OpenInterest)
        s, truth, price = (
            client.world.speller(name),
            client.world.quote(name, START_NS),
            client.world.mark(name, START_NS),
        )
        assert (quote.bid_price, quote.ask_price) == (
            s.price_decimal(truth.bid_ticks),
            s.price_decimal(truth.ask_ticks),
        )
        count = s.size_decimal(client.world.open_interest(name, START_NS))
        coins = count if symbol == LINEAR else (count / price).quantize(Decimal("1e-8"), ROUND_HALF_EVEN)
        assert (interest.size, interest.value) == (coins, count * price if symbol == LINEAR else count)
        assert mark == MarkPrice(name, START_NS, START_NS, price, client.world.index(name, START_NS))
        hour_ns = START_NS - START_NS % HOUR_NS + HOUR_NS
        (due,) = client.world.funding(name, hour_ns, hour_ns + 1)
        assert isinstance(rate, FundingRate)
        assert (rate.rate, rate.funding_ns, rate.settled) == (due.rate, hour_ns, False)


async def test_the_rate_that_runs_is_the_rate_that_settles_and_the_predicted_one_becomes_the_next(
    client: Client,
) -> None:
    rates: list[FundingRate] = []
    for seconds in (0.0, 3_575.0, 10.0):
        await client.clock.advance(seconds)
        told = await client.hear(*await client.subscribe(Feed.FUNDING))
        rates += [e for e in told if isinstance(e, FundingRate)]
    before = [rate for rate in rates if rate.funding_ns == rates[0].funding_ns]
    assert {rate.rate for rate in before} == {rates[0].rate}
    after = next(rate for rate in rates if rate.funding_ns > rates[0].funding_ns)
    assert before[-1].predicted is not None
    assert abs(after.rate - before[-1].predicted) < Decimal("0.0000001")
    settled = await client.ask(Ask(query=Query.FUNDING_HISTORY, symbol=LINEAR, newest=True, limit=1))
    assert [(e.rate, e.funding_ns) for e in settled if isinstance(e, FundingRate)] == [
        (rates[0].rate, rates[0].funding_ns)
    ]


async def test_heartbeats_come_when_asked_for_and_who_says_nothing_is_cut(client: Client) -> None:
    heartbeat = client.venue.limits.heartbeat
    assert heartbeat is not None
    socket, frames = await client.subscribe()
    await socket.send(heartbeat.frame)
    assert await client.hear(socket, frames) == [Alive(), Alive()]
    for _ in range(4):
        await client.clock.advance(heartbeat.every_s)
        await socket.send(heartbeat.frame)
        assert len([e for e in await client.hear(socket, frames) if e == Alive()]) > 1
    silent, unheard = await client.subscribe()
    assert await client.hear(silent, unheard) == [Alive()]
    await client.clock.advance(61.0)
    with pytest.raises(TransportError):
        async with asyncio.timeout(5):
            await anext(unheard)


async def test_the_venue_says_what_is_wrong_with_a_subscription(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.TRADES, symbol="PF_NOPEUSD")
    for text in (
        b'{"event":"subscribe","feed":"nope"}',
        b'{"event":"subscribe","feed":"ticker","product_ids":["pi_xbtusd"]}',
    ):
        await socket.send(text)
    told = await client.hear(socket, frames)
    assert told[1] == Refused(None, "Invalid product id")
    assert told[2] == Refused(None, "Couldn't subscribe to invalid feed")
    assert told[3] == Subscribed(("ticker:PI_XBTUSD",))
    for frame in client.venue.subscribe(client.venue.streams(Feed.QUOTES, [INVERSE]), undo=True):
        await socket.send(frame)
    assert await client.hear(socket, frames) == [Alive()]
    await client.clock.advance(5.0)
    assert await client.hear(socket, frames) == []
    client.faults.set("kraken_futures", refuse_subscriptions=True)
    told = await client.hear(*await client.subscribe(Feed.TRADES))
    assert told == [Alive(), Refused(None, "Invalid product id")]


async def test_cuts_are_seen_and_spoilt_frames_are_refused_and_nothing_worse(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.TRADES, Feed.QUOTES)
    client.faults.set("kraken_futures", garbage=0.4, wrong_type=0.4, duplicate=0.2)
    await client.clock.advance(30.0)
    client.faults.clear("kraken_futures")
    await socket.send(b'{"event":"fence"}')
    good = bad = 0
    while b"Bad request" not in (frame := await anext(frames)):
        try:
            good += len(client.venue.decode(frame, client.clock.now_ns()))
        except Unreadable:
            bad += 1
    assert good > 20
    assert bad > 5
    client.faults.set("kraken_futures", cut="rst")
    await client.clock.advance(1.0)
    with pytest.raises(TransportError):
        async for _ in frames:
            pass


# Questions


async def test_the_listing(client: Client) -> None:
    (page,) = await client.pages(Ask(query=Query.INSTRUMENTS))
    truth = [listing.instrument for listing in client.world.listings("kraken_futures")]
    assert list(page.instruments) == truth
    assert [i.kind for i in truth] == [Kind.PERPETUAL] * 3 + [Kind.FUTURE]


@pytest.mark.parametrize("symbol", [LINEAR, INVERSE])
async def test_past_trades_are_those_of_the_world_whichever_way_they_are_asked(client: Client, symbol: str) -> None:
    name, start_ns, end_ns = f"kraken_futures:{symbol}", START_NS - 47 * MINUTE_NS, START_NS - 5 * NS
    made = client.world.trades(name, start_ns, end_ns)
    assert len(made) > 2 * TRADES_MAX
    pages = await client.pages(Ask(query=Query.TRADES, symbol=symbol, start_ns=start_ns, end_ns=end_ns))
    upwards = [event for page in pages for event in page.events]
    assert told_trades(upwards) == true_trades(client, symbol, made)
    promises = [(page.start_ns, page.end_ns) for page in pages if page.start_ns is not None]
    assert promises[0][0] == start_ns
    assert promises[-1][1] == end_ns
    # Half of the answers at least bring something.
    assert len(pages) <= 2 * (2 + len(made) // TRADES_MAX)
    first = await client.ask(Ask(query=Query.TRADES, symbol=symbol, start_ns=start_ns, end_ns=end_ns, limit=120))
    assert first == upwards[:120]
    newest = await client.pages(Ask(query=Query.TRADES, symbol=symbol, newest=True, end_ns=end_ns, limit=150))
    downwards = [event for page in newest[::-1] for event in page.events]
    assert told_trades(downwards) == told_trades(upwards)[-150:]
    socket, frames = await client.subscribe(Feed.TRADES, symbol=symbol)
    repeated = [e.id for e in await client.hear(socket, frames) if isinstance(e, Trade)]
    past = await client.pages(Ask(query=Query.TRADES, symbol=symbol, newest=True, limit=len(repeated)))
    assert [e.id for page in past[::-1] for e in page.events if isinstance(e, Trade)] == repeated


async def test_trades_of_more_than_seven_days_ago_are_not_served(client: Client) -> None:
    old = Ask(query=Query.TRADES, symbol=LINEAR, start_ns=START_NS - 9 * DAY_NS, end_ns=START_NS - 8 * DAY_NS)
    with pytest.raises(OutOfReach):
        await client.pages(old)


async def test_candles_are_those_of_the_worlds_trades(client: Client) -> None:
    for symbol in (LINEAR, INVERSE):
        name = f"kraken_futures:{symbol}"
        s, start_ns = client.world.speller(name), START_NS // DAY_NS * DAY_NS - 2 * DAY_NS
        pages = await client.pages(
            Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, start_ns=start_ns, end_ns=START_NS)
        )
        assert len(pages) == 2 if (START_NS - start_ns) // MINUTE_NS > CANDLES_MAX else 1
        candles = [e for page in pages for e in page.events if isinstance(e, Candle)]
        bars = client.world.candles(name, 60, start_ns, START_NS)
        unit = client.world.listing(name).instrument.contract_size or 1
        assert [
            (c.open_ns, c.open, c.high, c.low, c.close, c.volume if symbol == LINEAR else c.quote_volume)
            for c in candles
        ] == [
            (
                bar.open_ns,
                *map(s.price_decimal, (bar.open, bar.high, bar.low, bar.close)),
                s.size_decimal(bar.lots) * unit,
            )
            for bar in bars
        ]
        assert [c.closed for c in candles[-2:]] == [True, False]
        assert pages[-1].end_ns == START_NS - START_NS % MINUTE_NS
        newest = await client.ask(Ask(query=Query.CANDLES, symbol=symbol, interval_s=3_600, newest=True, limit=3))
        assert [c.open_ns for c in newest if isinstance(c, Candle)] == [
            START_NS - START_NS % HOUR_NS - n * HOUR_NS for n in (2, 1, 0)
        ]


async def test_settled_funding_is_that_of_the_world(client: Client) -> None:
    start_ns = START_NS - 5 * DAY_NS
    told = await client.ask(Ask(query=Query.FUNDING_HISTORY, symbol=INVERSE, start_ns=start_ns, end_ns=START_NS))
    paid = client.world.funding(f"kraken_futures:{INVERSE}", start_ns, START_NS)
    assert len(paid) == 5 * 24
    assert [(e.rate, e.event_ns, e.interval_s) for e in told if isinstance(e, FundingRate)] == [
        (settled.rate, settled.funding_ns, 3_600) for settled in paid
    ]


async def test_tickers_and_open_interest(client: Client) -> None:
    tickers = [e for e in await client.ask(Ask(query=Query.TICKERS)) if isinstance(e, Ticker)]
    assert [t.instrument for t in tickers] == [a.name for a in client.world.listings("kraken_futures")]
    s = client.world.speller(tickers[0].instrument)
    bar = client.world.window(tickers[0].instrument, START_NS - DAY_NS, START_NS)
    assert bar is not None
    assert (tickers[0].open, tickers[0].volume, tickers[0].quote_volume) == (
        s.price_decimal(bar.open), s.size_decimal(bar.lots), Decimal(s.notional(bar.notional)),
    )  # fmt: skip
    interests = await client.ask(Ask(query=Query.OPEN_INTEREST, symbol=INVERSE))
    count = client.world.speller(f"kraken_futures:{INVERSE}").size_decimal(
        client.world.open_interest(f"kraken_futures:{INVERSE}", START_NS)
    )
    assert [(e.contracts, e.value) for e in interests if isinstance(e, OpenInterest)] == [(count, count)]
    assert await client.pages(Ask(query=Query.TIME)) == [Page(events=())]


QUESTIONS: Sequence[Ask] = [
    Ask(query=Query.TRADES, symbol="PF_NOPEUSD", newest=True, limit=5),
    Ask(query=Query.CANDLES, symbol="PF_NOPEUSD", interval_s=60, start_ns=START_NS - DAY_NS, end_ns=START_NS),
    Ask(query=Query.FUNDING_HISTORY, symbol="PF_NOPEUSD", newest=True, limit=5),
    Ask(query=Query.OPEN_INTEREST, symbol="PF_NOPEUSD"),
]


async def test_errors_are_said_in_the_venues_words_and_read_in_ours(client: Client) -> None:
    for ask in QUESTIONS:
        with pytest.raises(UnknownInstrument):
            await client.pages(ask)
    client.faults.set("kraken_futures", delisted={LINEAR})
    with pytest.raises(UnknownInstrument):
        await client.pages(msgspec.structs.replace(QUESTIONS[0], symbol=LINEAR))
    client.faults.clear("kraken_futures")
    for status, refusal in ((429, RateLimited), (503, Unavailable)):
        client.faults.set("kraken_futures", storm=status)
        with pytest.raises(refusal):
            await client.pages(Ask(query=Query.TICKERS))
    client.faults.clear("kraken_futures")
    client.faults.set("kraken_futures", html=True)
    with pytest.raises(Unreadable):
        await client.pages(Ask(query=Query.TICKERS))
    client.faults.clear("kraken_futures")
    for _ in range(500):
        answer = await client.send(Ask(query=Query.TIME))
    assert answer.status == 429
    with pytest.raises(RateLimited):
        client.venue.page(Ask(query=Query.TIME), answer)
    await client.clock.advance(10.0)
    assert (await client.send(Ask(query=Query.TIME))).status == 200
