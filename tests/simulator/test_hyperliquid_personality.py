"""The adapter against the personality over real sockets, with the world's truth at hand."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from openoutcry.clock import NS, ManualClock
from openoutcry.errors import OutOfReach, RateLimited, UnknownInstrument, Unreadable
from openoutcry.events import (
    Candle,
    DepthSnapshot,
    Event,
    FundingRate,
    MarkPrice,
    OpenInterest,
    Positions,
    PredictedFunding,
    Quote,
    Side,
    Trade,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.simulator.kit import Asked
from openoutcry.simulator.simulator import Simulator
from openoutcry.simulator.tape import Bar
from openoutcry.transport import HttpClient, Socket, SocketClient, TransportError
from openoutcry.venues.hyperliquid import Hyperliquid
from openoutcry.venues.hyperliquid_history import CANDLES_SERVED
from openoutcry.venues.venue import Alive, Answer, Ask, Feed, Page, Query, Refused, Signal, Subscribed

# 12:34:50 UTC, ten seconds before a minute opens.
NOW_NS = (1_763_600_000 // 86_400 * 86_400 + 12 * 3_600 + 34 * 60 + 50) * NS
MINUTE_NS, HOUR_NS = 60 * NS, 3_600 * NS
BTC = "hyperliquid:BTC"


class Client:
    """What the feed does of the adapter's part, without the feed: ask page by page, subscribe, decode."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW_NS)
        self.simulator = Simulator(7, self.clock, ["hyperliquid"])
        self.world, self.faults = self.simulator.world, self.simulator.faults
        self.venue = Hyperliquid()
        self.http = HttpClient()
        self.opened: list[Socket] = []

    async def send(self, ask: Ask) -> Answer:
        request = self.venue.request(ask)
        response = await self.http.send(
            request.method,
            self.simulator.addresses()["hyperliquid"]["rest"] + request.path,
            headers={"content-type": "application/json"},
            body=request.body,
        )
        return Answer(response.status, response.headers, response.body, self.clock.now_ns())

    async def pages(self, ask: Ask) -> list[Page]:
        found = [self.venue.page(ask, await self.send(ask))]
        while (following := found[-1].next) is not None:
            found.append(self.venue.page(following, await self.send(following)))
        return found

    async def ask(self, ask: Ask) -> list[Event]:
        return [event for page in await self.pages(ask) for event in page.events]

    async def subscribe(self, *feeds: Feed, coin: str = "BTC") -> tuple[Socket, AsyncIterator[bytes]]:
        socket = await SocketClient().open(self.simulator.addresses()["hyperliquid"]["sockets"]["ws"])
        self.opened.append(socket)
        for feed in feeds:
            for frame in self.venue.subscribe(self.venue.streams(feed, [coin])):
                await socket.send(frame)
        return socket, aiter(socket)

    async def hear(self, socket: Socket, frames: AsyncIterator[bytes]) -> list[Event | Signal]:
        """All that was sent until now: a ping is answered behind it."""
        await socket.send(b'{"method":"ping"}')
        told: list[Event | Signal] = []
        while True:
            frame = await anext(frames)
            if frame == b'{"channel":"pong"}':
                return told
            told += self.venue.decode(frame, self.clock.now_ns())


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client()
    await client.simulator.start()
    try:
        yield client
    finally:
        for socket in client.opened:
            await socket.close()
        await client.http.close()
        await client.simulator.stop()


def trades(told: Sequence[Event | Signal]) -> list[Trade]:
    """Each once, by id, in the order they came."""
    return list({e.id: e for e in told if isinstance(e, Trade)}.values())


def told_of(candle: Candle) -> tuple[Any, ...]:
    c = candle
    return (c.open_ns, c.open, c.high, c.low, c.close, c.volume, c.trades)


def truth_of(client: Client, bar: Bar, name: str = BTC) -> tuple[Any, ...]:
    s = client.world.speller(name)
    prices = (s.price_decimal(ticks) for ticks in (bar.open, bar.high, bar.low, bar.close))
    return (bar.open_ns, *prices, s.coins(bar.lots), bar.trades)


# Streams


async def test_trades_that_are_streamed_are_the_trades_of_the_world(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.TRADES)
    told = await client.hear(socket, frames)
    assert told[0] == Subscribed(("trades:BTC",))
    await client.clock.advance(30.0)
    told += await client.hear(socket, frames)
    heard = trades(told)
    s = client.world.speller(BTC)
    made = [
        (row.ns, Side.SELL if row.sell else Side.BUY, s.price_decimal(row.ticks), s.coins(row.lots))
        for row in client.world.trades(BTC, NOW_NS, NOW_NS + 29 * NS)
    ]
    assert len(made) > 10
    assert [(t.event_ns, t.side, t.price, t.size) for t in heard if NOW_NS <= t.event_ns < NOW_NS + 29 * NS] == made
    # What was traded before is repeated first, and what is made while we are away after the next subscription.
    assert any(t.event_ns < NOW_NS for t in heard)
    await socket.close()
    await client.clock.advance(1.0)
    again = trades(await client.hear(*await client.subscribe(Feed.TRADES)))
    assert {t.id for t in again} & {t.id for t in heard}
    assert [t for t in again if t.event_ns > heard[-1].event_ns]


async def test_candles_that_are_streamed_close_with_the_values_of_the_world(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.CANDLES)
    await client.clock.advance(150.0)
    told = await client.hear(socket, frames)
    candles = [e for e in told if isinstance(e, Candle)]
    closed = [told_of(c) for c in candles if c.closed]
    first_ns = NOW_NS - NOW_NS % MINUTE_NS
    truth = client.world.candles(BTC, 60, first_ns, first_ns + 3 * MINUTE_NS)
    assert len(truth) == 3
    assert closed == [truth_of(client, bar) for bar in truth]
    assert any(not c.closed for c in candles)


async def test_the_last_state_of_a_candle_may_be_late_and_is_told_as_closed_then(client: Client) -> None:
    client.faults.set("hyperliquid", late_klines_s=3.0)
    socket, frames = await client.subscribe(Feed.CANDLES)
    await client.clock.advance(30.0)
    closed = [e for e in await client.hear(socket, frames) if isinstance(e, Candle) and e.closed]
    (bar,) = client.world.candles(BTC, 60, NOW_NS - NOW_NS % MINUTE_NS, NOW_NS - NOW_NS % MINUTE_NS + MINUTE_NS)
    assert len(closed) == 2
    assert told_of(closed[-1]) == truth_of(client, bar)


async def test_books_quotes_and_contexts_are_those_of_the_world(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.DEPTH, Feed.QUOTES, Feed.OPEN_INTEREST)
    await client.clock.advance(5.0)
    told = await client.hear(socket, frames)
    s = client.world.speller(BTC)
    books = [e for e in told if isinstance(e, DepthSnapshot)]
    assert len(books) >= 8
    for book in books:
        bids, asks = client.world.book(BTC, book.event_ns, 20)
        assert book.bids == tuple((s.price_decimal(t), s.coins(n)) for t, n in bids)
        assert book.asks == tuple((s.price_decimal(t), s.coins(n)) for t, n in asks)
    quote = [e for e in told if isinstance(e, Quote)][-1]
    truth = client.world.quote(BTC, quote.event_ns)
    assert (quote.bid_price, quote.ask_size) == (s.price_decimal(truth.bid_ticks), s.coins(truth.ask_lots))
    interest = [e for e in told if isinstance(e, OpenInterest)]
    assert len(interest) >= 4
    assert interest[0].size == s.coins(client.world.open_interest(BTC, NOW_NS))
    rate = next(e for e in told if isinstance(e, FundingRate))
    assert rate.rate == client.world.running_funding(BTC, NOW_NS).rate
    assert rate.funding_ns == client.world.running_funding(BTC, NOW_NS).funding_ns
    mark = next(e for e in told if isinstance(e, MarkPrice))
    assert (mark.mark, mark.index) == (client.world.mark(BTC, NOW_NS), client.world.index(BTC, NOW_NS))


async def test_spot_pairs_have_streams_of_their_own(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.MARK_PRICE, Feed.TRADES, coin="@107")
    await client.clock.advance(2.0)
    told = await client.hear(socket, frames)
    assert {e.instrument for e in told if isinstance(e, MarkPrice)} == {"hyperliquid:@107"}
    assert {e.instrument for e in told if isinstance(e, Trade)} == {"hyperliquid:@107"}


async def test_the_venue_says_what_is_wrong_with_a_subscription(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.QUOTES, Feed.QUOTES)
    for frame in client.venue.subscribe(client.venue.streams(Feed.TRADES, ["BTC"]), undo=True):
        await socket.send(frame)
    for frame in client.venue.subscribe(client.venue.streams(Feed.TRADES, ["NOPE"])):
        await socket.send(frame)
    await socket.send(b"nonsense")
    for frame in client.venue.subscribe(client.venue.streams(Feed.QUOTES, ["BTC"]), undo=True):
        await socket.send(frame)
    assert await client.hear(socket, frames) == [
        Subscribed(("bbo:BTC",)),
        Subscribed(("bbo:BTC",)),  # Already subscribed
        Alive(),  # Already unsubscribed
        Refused("trades:NOPE", "Invalid subscription"),
        Refused(None, "Error parsing JSON into valid websocket request: nonsense"),
        Alive(),  # unsubscribed
    ]
    await client.clock.advance(1.0)
    assert await client.hear(socket, frames) == []


async def test_a_connection_on_which_nothing_was_sent_is_dropped_and_a_ping_keeps_it(client: Client) -> None:
    kept, kept_frames = await client.subscribe()
    _, dropped_frames = await client.subscribe()
    for _ in range(3):
        await client.clock.advance(50.0)
        assert await client.hear(kept, kept_frames) == []
    with pytest.raises(TransportError, match="1000"):
        async with asyncio.timeout(5.0):
            await anext(dropped_frames)


async def test_spoilt_frames_are_refused_and_nothing_else_is_lost(client: Client) -> None:
    client.faults.set("hyperliquid", garbage=0.3, wrong_type=0.3)
    socket, frames = await client.subscribe(*client.venue.feeds)
    await client.clock.advance(20.0)
    await socket.send(b'{"method":"ping"}')
    read = unreadable = 0
    while (frame := await anext(frames)) != b'{"channel":"pong"}':
        try:
            client.venue.decode(frame, client.clock.now_ns())
            read += 1
        except Unreadable:
            unreadable += 1
    assert read > 50
    assert unreadable > 20


# Questions


async def test_the_listing_is_that_of_the_world(client: Client) -> None:
    pages = await client.pages(Ask(query=Query.INSTRUMENTS))
    listed: dict[str, Instrument] = {i.symbol: i for page in pages for i in page.instruments}
    truth = {listing.instrument.symbol: listing.instrument for listing in client.world.listings("hyperliquid")}
    assert listed.keys() == truth.keys()
    for symbol, instrument in listed.items():
        assert (instrument.kind, instrument.lot_size) == (truth[symbol].kind, truth[symbol].lot_size)
    assert (listed["@107"].kind, listed["@107"].coin, listed["@107"].quote) == (Kind.SPOT, "HYPE", "USDC")
    assert all(i.trading for i in listed.values())
    client.faults.set("hyperliquid", delisted=frozenset({"XRP"}))
    pages = await client.pages(Ask(query=Query.INSTRUMENTS))
    assert [i.symbol for page in pages for i in page.instruments if not i.trading] == ["XRP"]


@pytest.mark.parametrize("interval_s", [60, 300, 3_600])
async def test_candles_that_are_asked_for_are_those_of_the_world(client: Client, interval_s: int) -> None:
    ask = Ask(query=Query.CANDLES, symbol="BTC", interval_s=interval_s, newest=True, limit=40)
    candles = [e for e in await client.ask(ask) if isinstance(e, Candle)]
    interval_ns = interval_s * NS
    first_ns = NOW_NS // interval_ns * interval_ns - 39 * interval_ns
    truth = client.world.candles(BTC, interval_s, first_ns, NOW_NS)
    assert [told_of(c) for c in candles] == [truth_of(client, bar) for bar in truth]
    assert [c.closed for c in candles] == [True] * (len(candles) - 1) + [False]


async def test_candles_older_than_the_venue_keeps_are_out_of_reach(client: Client) -> None:
    minute_ns = NOW_NS - NOW_NS % MINUTE_NS
    reach_ns = minute_ns - (CANDLES_SERVED - 1) * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol="BTC", interval_s=60, start_ns=reach_ns - HOUR_NS, end_ns=reach_ns)
    with pytest.raises(OutOfReach):
        await client.ask(ask)
    pages = await client.pages(msgspec.structs.replace(ask, end_ns=reach_ns + HOUR_NS))
    rows = [e for page in pages for e in page.events if isinstance(e, Candle)]
    truth = client.world.candles(BTC, 60, reach_ns, reach_ns + HOUR_NS)
    assert [told_of(c) for c in rows] == [truth_of(client, bar) for bar in truth]
    assert (pages[-1].start_ns, pages[-1].end_ns) == (reach_ns, reach_ns + HOUR_NS)


async def test_the_newest_settled_rates_are_those_of_the_last_hours(client: Client) -> None:
    rates = await client.ask(Ask(query=Query.FUNDING_HISTORY, symbol="BTC", newest=True, limit=700))
    truth = client.world.funding(BTC, NOW_NS - 700 * HOUR_NS, NOW_NS)
    assert len(truth) == 700
    assert [(e.event_ns, e.rate) for e in rates if isinstance(e, FundingRate)] == [
        (paid.stamp_ns // 10**6 * 10**6, paid.rate) for paid in truth
    ]
    assert all(e.settled for e in rates if isinstance(e, FundingRate))


async def test_what_is_now_is_what_the_world_says_is_now(client: Client) -> None:
    (interest,) = await client.ask(Ask(query=Query.OPEN_INTEREST, symbol="BTC"))
    assert isinstance(interest, OpenInterest)
    assert interest.size == client.world.speller(BTC).coins(client.world.open_interest(BTC, NOW_NS))
    assert interest.value == interest.size * client.world.mark(BTC, NOW_NS)
    rate, mark = await client.ask(Ask(query=Query.FUNDING, symbol="kPEPE"))
    assert isinstance(rate, FundingRate)
    assert isinstance(mark, MarkPrice)
    assert rate.rate == client.world.running_funding("hyperliquid:kPEPE", NOW_NS).rate
    assert mark.mark == client.world.mark("hyperliquid:kPEPE", NOW_NS)
    predicted = [e for e in await client.ask(Ask(query=Query.PREDICTED_FUNDING)) if isinstance(e, PredictedFunding)]
    labels = {(p.coin, p.label): p for p in predicted}
    assert labels["BTC", "BinPerp"].rate == client.world.running_funding("binance_futures:BTCUSDT", NOW_NS).rate
    assert labels["BTC", "BinPerp"].interval_s == 28_800
    assert labels["kPEPE", "BybitPerp"].rate is None
    assert await client.ask(Ask(query=Query.TIME)) == []


async def positions(client: Client, address: str) -> Positions:
    (told,) = await client.ask(Ask(query=Query.POSITIONS, symbol=address))
    assert isinstance(told, Positions)
    return told


async def test_positions_of_an_address_are_the_same_whenever_they_are_asked_and_grow_slowly(client: Client) -> None:
    mine, other = "0x" + "1" * 40, "0x" + "2" * 40
    first = await positions(client, mine)
    assert first.event_ns == NOW_NS
    assert first.positions
    assert await positions(client, mine) == first
    assert (await positions(client, other)).positions != first.positions
    await client.clock.advance(600.0)
    later = {each.instrument: each for each in (await positions(client, mine)).positions}
    stayed = [(each, later[each.instrument]) for each in first.positions if each.instrument in later]
    assert stayed
    for before, after in stayed:
        assert before.size * after.size > 0
        assert abs(before.size) <= abs(after.size) <= abs(before.size) * 2
    assert [after.size for _, after in stayed] != [before.size for before, _ in stayed]


async def test_a_long_is_liquidated_below_the_mark_price_and_a_short_above_it(client: Client) -> None:
    held = [each for n in range(30) for each in (await positions(client, f"0x{n:040x}")).positions]
    longs, shorts = [each for each in held if each.size > 0], [each for each in held if each.size < 0]
    assert len(longs) > 20
    assert len(shorts) > 20
    assert any(each.liquidation is None for each in held)
    for each in held:
        if each.liquidation is not None:
            mark = client.world.mark(each.instrument, NOW_NS)
            assert (mark - each.liquidation) * each.size > 0
            assert abs(mark - each.liquidation) < mark / 2


async def test_recent_trades_mend_a_short_gap(client: Client) -> None:
    ask = Ask(query=Query.TRADES, symbol="BTC", start_ns=NOW_NS - 5 * NS, end_ns=NOW_NS)
    (page,) = await client.pages(ask)
    s = client.world.speller(BTC)
    truth = [
        (r.ns, s.price_decimal(r.ticks), s.coins(r.lots)) for r in client.world.trades(BTC, NOW_NS - 5 * NS, NOW_NS)
    ]
    assert [(e.event_ns, e.price, e.size) for e in page.events if isinstance(e, Trade)] == truth
    assert (page.start_ns, page.end_ns) == (ask.start_ns, ask.end_ns)
    socket, frames = await client.subscribe(Feed.TRADES)
    live = {t.id: t for t in trades(await client.hear(socket, frames))}
    asked = {e.id: e for e in page.events if isinstance(e, Trade)}
    told = msgspec.json.decode((await client.send(ask)).body)
    assert [row["time"] for row in told] == sorted((row["time"] for row in told), reverse=True)
    shared = live.keys() & asked.keys()
    assert shared
    for tid in shared:
        assert (live[tid].event_ns, live[tid].price) == (asked[tid].event_ns, asked[tid].price)


async def test_what_the_venue_does_not_list_is_unknown(client: Client) -> None:
    for query in (Query.TRADES, Query.CANDLES, Query.FUNDING_HISTORY, Query.OPEN_INTEREST, Query.FUNDING):
        ask = Ask(query=query, symbol="NOPE", interval_s=60, start_ns=NOW_NS - HOUR_NS, end_ns=NOW_NS)
        with pytest.raises(UnknownInstrument):
            await client.ask(ask)


async def test_who_asks_too_much_is_told_to_wait(client: Client) -> None:
    ask = Ask(query=Query.PREDICTED_FUNDING)
    weight = client.venue.request(ask).weight
    for _ in range(1_200 // weight):
        await client.ask(ask)
    with pytest.raises(RateLimited):
        await client.ask(ask)


@pytest.mark.parametrize("symbol", ["BTC", "@107"])
async def test_the_adapter_reckons_at_least_the_weight_that_the_venue_counts(client: Client, symbol: str) -> None:
    personality = client.simulator.stages["hyperliquid"].personality
    asks = [
        Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, newest=True, limit=n, end_ns=NOW_NS)
        for n in (1, 60, 999)
    ]
    asks += [Ask(query=Query.TRADES, symbol=symbol), Ask(query=Query.TIME), Ask(query=Query.INSTRUMENTS)]
    asks.append(Ask(query=Query.POSITIONS, symbol="0x" + "1" * 40))
    for ask in asks:
        request = client.venue.request(ask)
        cost = personality.cost(Asked("POST", "/info", {}, {}, request.body or b"", ""))
        assert cost is not None
        assert request.weight >= cost[1]


async def test_malformed_questions_are_refused_as_the_venue_does(client: Client) -> None:
    rest = client.simulator.addresses()["hyperliquid"]["rest"]
    headers = {"content-type": "application/json"}
    for body, status in (
        (b"{", 422),
        (b'{"type":"nothing"}', 422),
        (b'{"type":"recentTrades"}', 422),
        (b'{"type":"candleSnapshot","req":{"coin":"BTC","interval":"7m","startTime":0}}', 422),
        (b'{"type":"candleSnapshot","req":{"coin":"BTC","interval":"1m","startTime":"x"}}', 422),
        (b'{"type":"clearinghouseState"}', 422),
        (b'{"type":"clearinghouseState","user":"0x12"}', 422),
        (b'{"type":"recentTrades","coin":"NOPE"}', 500),
    ):
        assert (await client.http.send("POST", f"{rest}/info", headers=headers, body=body)).status == status
    assert (await client.http.send("GET", f"{rest}/info")).status == 405
    assert (await client.http.send("POST", f"{rest}/info", body=b"{}")).status == 415
    assert (await client.http.send("POST", f"{rest}/other", body=b"{}")).status == 404
