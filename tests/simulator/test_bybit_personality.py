"""The Bybit adapters against the personalities over real sockets, with the world's truth at hand."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from openoutcry.clock import ManualClock
from openoutcry.errors import OutOfReach, RateLimited, Unavailable, UnknownInstrument, Unreadable
from openoutcry.events import (
    Candle,
    DepthDelta,
    DepthSnapshot,
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
from openoutcry.instrument import Instrument
from openoutcry.simulator.bybit import Bybit as Personality
from openoutcry.simulator.simulator import Simulator
from openoutcry.transport import HttpClient, Socket, SocketClient, TransportError
from openoutcry.venues.bybit import Bybit, BybitSpot
from openoutcry.venues.bybit_options import BybitOptions
from openoutcry.venues.venue import (
    Alive,
    Answer,
    Ask,
    Feed,
    Page,
    Query,
    Refused,
    Reply,
    Signal,
    Skipped,
    Subscribed,
)
from tests.simulator.client import SameBars, SameFunding

NS = 1_000_000_000
MS = 1_000_000
# 2026-11-20 13:00:20 UTC, twenty seconds into a minute.
NOW_NS = 1_795_179_620 * NS
MINUTE_NS, HOUR_NS, DAY_NS = 60 * NS, 3_600 * NS, 86_400 * NS
LINEAR, INVERSE, SPOT = "bybit:BTCUSDT", "bybit:BTCUSD", "bybit_spot:BTCUSDT"


class Client:
    """What the feed does of the adapters' part, without the feed: ask page by page, subscribe, decode."""

    def __init__(self, now_ns: int = NOW_NS, **options: Any) -> None:
        self.clock = ManualClock(now_ns)
        self.venues: dict[str, Bybit | BybitOptions] = {v.name: v for v in (Bybit(), BybitSpot(), BybitOptions())}
        self.simulator = Simulator(7, self.clock, self.venues, **options)
        self.world, self.faults = self.simulator.world, self.simulator.faults
        self.http = HttpClient()
        self.opened: list[Socket] = []

    async def get(self, venue: str, path: str, *query: tuple[str, str]) -> Answer:
        url = self.simulator.addresses()[venue]["rest"] + path
        response = await self.http.send("GET", url, query=query)
        return Answer(response.status, response.headers, response.body, self.clock.now_ns())

    async def pages(self, ask: Ask, venue: str = "bybit") -> list[Page]:
        found: list[Page] = []
        following: Ask | None = ask
        while following is not None:
            assert len(found) < 200
            request = self.venues[venue].request(following)
            answer = await self.get(venue, request.path, *request.query)
            found.append(self.venues[venue].page(following, answer))
            following = found[-1].next
        return found

    async def ask(self, ask: Ask, venue: str = "bybit") -> list[Event]:
        return [event for page in await self.pages(ask, venue) for event in page.events]

    async def learn(self, venue: str = "bybit") -> list[Instrument]:
        listing = [i for page in await self.pages(Ask(query=Query.INSTRUMENTS), venue) for i in page.instruments]
        self.venues[venue].learn(listing)
        return listing

    async def open(self, venue: str, endpoint: str) -> Socket:
        address = self.simulator.addresses()[venue]["sockets"][endpoint]
        socket = await SocketClient().open(self.venues[venue].url(address, endpoint, ()))
        self.opened.append(socket)
        return socket

    async def subscribe(self, name: str, *feeds: Feed) -> tuple[Socket, AsyncIterator[bytes]]:
        venue, _, symbol = name.partition(":")
        adapter = self.venues[venue]
        streams = {s.name: s for feed in feeds for s in adapter.streams(feed, [symbol])}
        (endpoint,) = {stream.endpoint for stream in streams.values()}
        socket = await self.open(venue, endpoint)
        for frame in adapter.subscribe(list(streams.values())):
            await socket.send(frame)
        return socket, aiter(socket)

    async def hear(self, socket: Socket, frames: AsyncIterator[bytes], venue: str = "bybit") -> list[Event | Signal]:
        """All that was sent until now: a ping is answered behind it."""
        await socket.send(b'{"op":"ping"}')
        told: list[Event | Signal] = []
        while True:
            said = self.venues[venue].decode(await anext(frames), self.clock.now_ns())
            if said == [Alive()]:
                return told
            told += said

    def true_trades(self, name: str, start_ns: int, end_ns: int) -> list[tuple[Any, ...]]:
        """As the adapter must tell them: time, id, side, price, size in the venue's count."""
        listing, speller = self.world.listing(name), self.world.speller(name)
        personality = self.simulator.stages[name.partition(":")[0]].personality
        assert isinstance(personality, Personality)
        return [
            (
                row.ns,
                personality.trade_id(listing, row.first_id),
                Side.SELL if row.sell else Side.BUY,
                speller.price_decimal(row.ticks),
                speller.size_decimal(row.lots),
            )
            for row in self.world.trades(name, start_ns, end_ns)
        ]

    async def stop(self) -> None:
        for socket in self.opened:
            await socket.close()
        await self.http.close()
        await self.simulator.stop()


@asynccontextmanager
async def _playing(now_ns: int = NOW_NS, **options: Any) -> AsyncIterator[Client]:
    client = Client(now_ns, **options)
    await client.simulator.start()
    try:
        await client.learn()
        await client.learn("bybit_spot")
        yield client
    finally:
        await client.stop()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with _playing(limits=False) as client:
        yield client


@pytest.fixture
async def options() -> AsyncIterator[Client]:
    async with _playing(limits=False, activity=20.0) as client:
        await client.learn("bybit_options")
        yield client


def _told(trade: Trade) -> tuple[Any, ...]:
    size = trade.size if trade.contracts is None else trade.contracts
    return (trade.event_ns, trade.id, trade.side, trade.price, size)


def _only(told: Sequence[Event | Signal], start_ns: int, end_ns: int) -> list[Trade]:
    return [e for e in told if isinstance(e, Trade) and start_ns <= e.event_ns < end_ns]


@pytest.mark.parametrize("venue", ["bybit", "bybit_spot", "bybit_options"])
async def test_the_listing_is_that_of_the_world(client: Client, venue: str) -> None:
    listing = {i.symbol: i for i in await client.learn(venue)}
    truth = {a.instrument.symbol: a.instrument for a in client.world.listings(venue)}
    assert listing.keys() == truth.keys()
    for symbol, told in listing.items():
        true = truth[symbol]
        assert (told.kind, told.coin, told.quote, told.settle) == (true.kind, true.coin, true.quote, true.settle)
        assert (told.tick_size, told.lot_size) == (true.tick_size, true.lot_size)
        assert (told.contract_size, told.inverse) == (true.contract_size, true.inverse)
        # Spot does not tell since when.
        assert (told.listed_ns, told.expires_ns) == (
            (None, None) if venue == "bybit_spot" else (true.listed_ns, true.expires_ns)
        )


async def test_the_listing_has_pages_where_a_client_asks_for_short_ones(client: Client) -> None:
    query = [("category", "linear"), ("limit", "4")]
    symbols: list[str] = []
    cursor = ""
    for _ in range(5):
        answer = await client.get("bybit", "/v5/market/instruments-info", *query, ("cursor", cursor))
        result = json.loads(answer.body)["result"]
        symbols += [row["symbol"] for row in result["list"]]
        cursor = result["nextPageCursor"]
        if not cursor:
            break
    assert symbols == [a.instrument.symbol for a in client.world.listings("bybit") if not a.instrument.inverse]


# Streams


@pytest.mark.parametrize("name", [LINEAR, INVERSE, SPOT])
async def test_trades_that_are_streamed_are_the_trades_of_the_world(client: Client, name: str) -> None:
    venue = name.partition(":")[0]
    socket, frames = await client.subscribe(name, Feed.TRADES)
    assert [type(e) for e in await client.hear(socket, frames, venue)] == [Subscribed]
    await client.clock.advance(120.0)
    told = await client.hear(socket, frames, venue)
    end_ns = NOW_NS + 119 * NS
    heard = _only(told, NOW_NS, end_ns)
    assert len(heard) > 20
    assert [_told(t) for t in heard] == client.true_trades(name, NOW_NS, end_ns)
    if name == LINEAR:
        # Block trades are there, and are not told as trades.
        assert Skipped("block", name) in told
    if name == INVERSE:
        assert all(t.value == t.contracts for t in heard)


@pytest.mark.parametrize("name", [LINEAR, INVERSE, SPOT])
async def test_candles_that_are_streamed_close_with_the_trades_of_the_world(
    client: Client, same_bars: SameBars, name: str
) -> None:
    venue = name.partition(":")[0]
    socket, frames = await client.subscribe(name, Feed.CANDLES)
    await client.clock.advance(150.0)
    candles = [e for e in await client.hear(socket, frames, venue) if isinstance(e, Candle)]
    first_ns = NOW_NS - NOW_NS % MINUTE_NS
    bars = client.world.candles(name, 60, first_ns, first_ns + 2 * MINUTE_NS)
    same_bars(client.world, name, (c for c in candles if c.closed), bars)
    assert any(not c.closed for c in candles)


async def test_the_book_that_is_kept_is_the_book_of_the_world_even_over_a_restart() -> None:
    midnight_ns = NOW_NS - NOW_NS % DAY_NS + DAY_NS
    async with _playing(midnight_ns - 3 * NS) as client:
        socket, frames = await client.subscribe(LINEAR, Feed.DEPTH)
        await client.clock.advance(6.0)
        told = [e for e in await client.hear(socket, frames) if not isinstance(e, Subscribed)]
        speller = client.world.speller(LINEAR)
        sides: tuple[dict[Decimal, Decimal], ...] = ({}, {})
        seq = 0
        snapshots = 0
        assert len(told) > 50
        for event in told:
            assert isinstance(event, DepthSnapshot | DepthDelta)
            if isinstance(event, DepthSnapshot):
                sides = (dict(event.bids), dict(event.asks))
                snapshots += 1
            else:
                assert event.previous_seq == seq
                for side, changes in zip(sides, (event.bids, event.asks), strict=True):
                    for price, size in changes:
                        side.pop(price, None)
                        if size:
                            side[price] = size
            seq = event.seq
            truth = client.world.book(LINEAR, event.event_ns, 50)
            assert sides == tuple(
                {speller.price_decimal(t): speller.size_decimal(n) for t, n in rows} for rows in truth
            )
        assert snapshots == 2


@pytest.mark.parametrize("name", [LINEAR, INVERSE])
async def test_quotes_interest_funding_and_mark_are_those_of_the_world(client: Client, name: str) -> None:
    socket, frames = await client.subscribe(name, Feed.QUOTES, Feed.OPEN_INTEREST, Feed.FUNDING, Feed.MARK_PRICE)
    await client.clock.advance(60.0)
    told = await client.hear(socket, frames)
    speller = client.world.speller(name)
    quotes = [e for e in told if isinstance(e, Quote)]
    assert len(quotes) > 20
    for quote in quotes:
        true = client.world.quote(name, quote.event_ns)
        assert (quote.bid_price, quote.ask_price) == tuple(map(speller.price_decimal, (true.bid_ticks, true.ask_ticks)))
    # A ticker's stamp is a little later than what it tells.
    interests = [(e, e.event_ns // NS * NS) for e in told if isinstance(e, OpenInterest)]
    assert len(interests) > 5
    for interest, at_ns in interests:
        one_side = speller.size_decimal(client.world.open_interest(name, at_ns))
        assert (interest.contracts if name == INVERSE else interest.size) == one_side
    for rate in (e for e in told if isinstance(e, FundingRate)):
        running = client.world.running_funding(name, rate.event_ns // NS * NS)
        assert (rate.rate, rate.funding_ns, rate.interval_s) == (running.rate, running.funding_ns, running.interval_s)
    marks = [e for e in told if isinstance(e, MarkPrice)]
    assert len(marks) > 30
    for mark in marks:
        at_ns = mark.event_ns // NS * NS
        assert (mark.mark, mark.index) == (client.world.mark(name, at_ns), client.world.index(name, at_ns))


async def test_all_liquidations_are_told_with_the_side_of_the_order(client: Client) -> None:
    socket, frames = await client.subscribe(LINEAR, Feed.LIQUIDATIONS)
    await client.clock.advance(600.0)
    heard = [e for e in await client.hear(socket, frames) if isinstance(e, Liquidation)]
    end_ns = NOW_NS + 599 * NS
    made = client.world.liquidations(LINEAR, NOW_NS, end_ns)
    sides = [(row.ns, Side.SELL if row.sell else Side.BUY) for row in made]
    assert {side for _, side in sides} == {Side.BUY, Side.SELL}
    assert [(e.event_ns, e.side) for e in heard if NOW_NS <= e.event_ns < end_ns] == sides
    speller = client.world.speller(LINEAR)
    for row, told in zip(made, (e for e in heard if e.event_ns >= NOW_NS), strict=False):
        fill = speller.price_decimal(row.ticks)
        assert told.bankruptcy
        assert (told.price < fill) == row.sell


async def test_one_bad_topic_does_not_cost_the_others(client: Client) -> None:
    venue = client.venues["bybit"]
    socket = await client.open("bybit", "linear")
    frames = aiter(socket)
    client.faults.set("bybit", refuse_subscriptions=frozenset({"publicTrade.SOLUSDT"}))
    streams = venue.streams(Feed.TRADES, ["BTCUSDT", "NOPEUSDT", "ETHUSDT", "SOLUSDT"])
    for frame in venue.subscribe(streams):
        await socket.send(frame)
    told: list[Event | Signal] = []
    for _ in range(4):
        for event in await client.hear(socket, frames):
            told.append(event)
            if isinstance(event, Reply):
                await socket.send(event.frame)
    assert [e.name for e in told if isinstance(e, Refused)] == ["publicTrade.NOPEUSDT", "publicTrade.SOLUSDT"]
    assert [e.names for e in told if isinstance(e, Subscribed)] == [("publicTrade.BTCUSDT", "publicTrade.ETHUSDT")]
    # Asking again is answered and told once.
    for frame in venue.subscribe(streams[:1]):
        await socket.send(frame)
    assert await client.hear(socket, frames) == [Subscribed(("publicTrade.BTCUSDT",))]
    await client.clock.advance(10.0)
    ids = [e.id for e in await client.hear(socket, frames) if isinstance(e, Trade) and "BTC" in e.instrument]
    assert len(ids) == len(set(ids)) > 0


async def test_spot_takes_ten_topics_a_request_and_the_adapter_asks_for_no_more(client: Client) -> None:
    venue = client.venues["bybit_spot"]
    streams = [
        stream
        for feed in (Feed.TRADES, Feed.CANDLES, Feed.QUOTES)
        for stream in venue.streams(feed, ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"])
    ]
    socket = await client.open("bybit_spot", "spot")
    frames = aiter(socket)
    for frame in venue.subscribe(streams):
        await socket.send(frame)
    told = await client.hear(socket, frames, "bybit_spot")
    assert [len(e.names) for e in told if isinstance(e, Subscribed)] == [10, 2]
    everything = json.dumps({"op": "subscribe", "args": [s.name for s in streams], "req_id": "all"}).encode()
    await socket.send(everything)
    (refused,) = await client.hear(socket, frames, "bybit_spot")
    assert refused == Refused(None, "args size >10")


async def test_the_wire_is_the_venues(client: Client) -> None:
    """What an adapter that is forgiving would not show."""
    socket = await client.open("bybit", "linear")
    await socket.send(b'{"op":"subscribe","args":["publicTrade.BTCUSDT"],"req_id":"a"}')
    frames = aiter(socket)
    assert json.loads(await anext(frames))["req_id"] == "a"
    await client.clock.advance(60.0)
    await socket.send(b'{"op":"ping"}')
    split = 0
    before: set[int] = set()
    while b"publicTrade" in (frame := await anext(frames)):
        rows = json.loads(frame)["data"]
        assert len(rows) <= 2
        assert len({row["seq"] for row in rows}) == 1
        split += rows[0]["seq"] in before
        before.add(rows[0]["seq"])
    assert json.loads(frame)["ret_msg"] == "pong"
    assert split > 5  # orders that came in several frames
    bars = json.loads((await client.get("bybit", "/v5/market/kline", ("symbol", "BTCUSDT"), ("interval", "1"))).body)
    opens = [int(row[0]) for row in bars["result"]["list"]]
    assert len(opens) == 200
    assert opens == sorted(opens, reverse=True)
    query = [("symbol", "BTCUSDT"), ("intervalTime", "1h")]
    for path, pairs in (("open-interest", query), ("tickers", query[:1])):
        row = json.loads((await client.get("bybit", f"/v5/market/{path}", *pairs)).body)["result"]["list"][0]
        assert Decimal(row["openInterest"]) == 2 * Decimal(row["singleOpenInterest"])
    refused = await client.get("bybit", "/v5/market/funding/history", ("symbol", "BTCUSDT"), ("startTime", "1"))
    assert (refused.status, json.loads(refused.body)["retCode"]) == (200, 10001)


async def test_a_silent_client_is_cut_and_nonsense_is_answered(client: Client) -> None:
    socket = await client.open("bybit", "linear")
    await socket.send(b"nonsense")
    with pytest.raises(Unreadable):
        client.venues["bybit"].decode(await anext(aiter(socket)), 1)
    await client.clock.advance(610.0)
    with pytest.raises(TransportError, match="1001"):
        await anext(aiter(socket))


# REST


@pytest.mark.parametrize("name", [LINEAR, INVERSE, SPOT])
async def test_candles_that_are_asked_are_those_of_the_trades(client: Client, same_bars: SameBars, name: str) -> None:
    venue, _, symbol = name.partition(":")
    end_ns = NOW_NS - NOW_NS % MINUTE_NS
    start_ns = end_ns - 1_300 * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, start_ns=start_ns, end_ns=end_ns)
    pages = await client.pages(ask, venue)
    told = [e for page in pages for e in page.events if isinstance(e, Candle)]
    bars = client.world.candles(name, 60, start_ns, end_ns)
    traded = {bar.open_ns for bar in bars}
    assert [c.open_ns for c in told] == list(range(start_ns, end_ns, MINUTE_NS))
    same_bars(client.world, name, (c for c in told if c.open_ns in traded), bars)
    assert [(page.start_ns, page.end_ns) for page in pages] == [
        (start_ns, start_ns + 1_000 * MINUTE_NS),
        (start_ns + 1_000 * MINUTE_NS, end_ns),
    ]


@pytest.mark.parametrize("interval_s", sorted(Bybit.intervals_s))
async def test_every_interval_is_its_own_and_ends_with_the_growing_one(client: Client, interval_s: int) -> None:
    ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=interval_s, newest=True, limit=3)
    told = [e for e in await client.ask(ask) if isinstance(e, Candle)]
    bars = client.world.candles(LINEAR, interval_s, told[0].open_ns, NOW_NS)
    speller = client.world.speller(LINEAR)
    assert [(c.open_ns, c.volume) for c in told] == [(bar.open_ns, speller.size_decimal(bar.lots)) for bar in bars]
    assert [c.closed for c in told] == [True, True, False]


async def test_candles_from_before_the_listing_begin_with_it(client: Client) -> None:
    born_ns, _ = client.world.life(LINEAR)
    start_ns = born_ns - 300 * DAY_NS
    ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=86_400, start_ns=start_ns, end_ns=NOW_NS)
    (page,) = await client.pages(ask)
    candles = [e for e in page.events if isinstance(e, Candle)]
    assert (candles[0].open_ns, page.start_ns, page.end_ns) == (born_ns, start_ns, NOW_NS - NOW_NS % DAY_NS)


async def test_a_short_absence_is_made_whole_and_a_long_one_cannot_be(client: Client) -> None:
    socket, frames = await client.subscribe(LINEAR, Feed.TRADES)
    await client.clock.advance(5.0)
    last = _only(await client.hear(socket, frames), 0, NOW_NS + DAY_NS)[-1]
    await socket.close()
    await client.clock.advance(60.0)
    now_ns = client.clock.now_ns()
    ask = Ask(query=Query.TRADES, symbol="BTCUSDT", from_id=last.id, start_ns=last.event_ns, end_ns=now_ns)
    (page,) = await client.pages(ask)
    told = [_told(e) for e in page.events if isinstance(e, Trade)]
    truth = client.true_trades(LINEAR, last.event_ns, now_ns)
    assert told == truth[[row[1] for row in truth].index(last.id) + 1 :]
    assert (page.start_ns, page.end_ns) == (last.event_ns, now_ns // MS * MS)
    await client.clock.advance(3_600.0)
    with pytest.raises(OutOfReach):
        await client.pages(ask)
    late = Ask(query=Query.TRADES, symbol="BTCUSDT", start_ns=last.event_ns, end_ns=client.clock.now_ns())
    (page,) = await client.pages(late)
    assert page.start_ns is not None
    assert page.start_ns > last.event_ns
    told = [_told(e) for e in page.events if isinstance(e, Trade) and e.event_ns >= page.start_ns]
    assert told == client.true_trades(LINEAR, page.start_ns, client.clock.now_ns())


async def test_spot_serves_sixty_trades(client: Client) -> None:
    told = await client.ask(Ask(query=Query.TRADES, symbol="BTCUSDT", newest=True, limit=500), "bybit_spot")
    truth = client.true_trades(SPOT, NOW_NS - HOUR_NS, NOW_NS)
    trades = [_told(e) for e in told if isinstance(e, Trade)]
    assert 55 <= len(trades) <= 60
    assert trades == truth[-len(trades) :]


async def test_open_interest_and_its_history_count_one_side(client: Client) -> None:
    speller = client.world.speller(LINEAR)
    (now,) = await client.ask(Ask(query=Query.OPEN_INTEREST, symbol="BTCUSDT"))
    assert isinstance(now, OpenInterest)
    assert now.size == speller.size_decimal(client.world.open_interest(LINEAR, NOW_NS))
    end_ns = NOW_NS - NOW_NS % HOUR_NS
    start_ns = end_ns - 450 * HOUR_NS
    ask = Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="BTCUSDT", interval_s=3_600, start_ns=start_ns, end_ns=end_ns)
    told = [e for e in await client.ask(ask) if isinstance(e, OpenInterest)]
    assert [e.event_ns for e in told] == list(range(start_ns, end_ns, HOUR_NS))
    assert all(e.size == speller.size_decimal(client.world.open_interest(LINEAR, e.event_ns)) for e in told)
    newest = Ask(query=Query.OPEN_INTEREST_HISTORY, symbol="BTCUSDT", interval_s=300, newest=True, limit=250)
    assert sum(len(page.events) for page in await client.pages(newest)) == 250


@pytest.mark.parametrize(("symbol", "hours"), [("BTCUSDT", 8), ("AVAXUSDT", 4), ("BTCUSD", 8)])
async def test_funding_and_its_history_are_those_of_the_world(
    client: Client, same_funding: SameFunding, symbol: str, hours: int
) -> None:
    mark = await same_funding(client.world, f"bybit:{symbol}", hours, client.ask)
    assert mark.index == client.world.index(f"bybit:{symbol}", NOW_NS)


async def test_tickers_sum_the_last_day_of_every_instrument(client: Client) -> None:
    told = {e.instrument: e for e in await client.ask(Ask(query=Query.TICKERS)) if isinstance(e, Ticker)}
    assert told.keys() == {a.name for a in client.world.listings("bybit")}
    bar = client.world.window(LINEAR, NOW_NS - DAY_NS, NOW_NS)
    assert bar is not None
    speller = client.world.speller(LINEAR)
    assert (told[LINEAR].high, told[LINEAR].volume) == (
        speller.price_decimal(bar.high),
        speller.size_decimal(bar.lots),
    )
    assert told[LINEAR].quote_volume == Decimal(speller.notional(bar.notional))
    spot = await client.ask(Ask(query=Query.TICKERS), "bybit_spot")
    assert {e.instrument for e in spot if isinstance(e, Ticker)} == {
        a.name for a in client.world.listings("bybit_spot")
    }
    assert await client.ask(Ask(query=Query.TIME)) == []


ASKS: list[Callable[[str], Ask]] = [
    lambda symbol: Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, newest=True, limit=2),
    lambda symbol: Ask(query=Query.TRADES, symbol=symbol, newest=True),
    lambda symbol: Ask(query=Query.FUNDING, symbol=symbol),
    lambda symbol: Ask(query=Query.FUNDING_HISTORY, symbol=symbol, newest=True),
    lambda symbol: Ask(query=Query.OPEN_INTEREST_HISTORY, symbol=symbol, interval_s=3_600, newest=True),
]


@pytest.mark.parametrize("ask", ASKS)
async def test_unknown_renamed_and_delisted_symbols_are_unknown(client: Client, ask: Callable[[str], Ask]) -> None:
    client.faults.set("bybit", renamed={"ETHUSDT": "ETXUSDT"}, delisted={"SOLUSDT"})
    for symbol in ("NOPEUSDT", "SOLUSDT", "ETHUSDT"):
        with pytest.raises(UnknownInstrument):
            await client.ask(ask(symbol))
    await client.learn()
    assert await client.ask(ask("ETXUSDT"))


async def test_storms_and_pages_of_html_are_said_in_our_words(client: Client) -> None:
    ask = Ask(query=Query.CANDLES, symbol="BTCUSDT", interval_s=60, newest=True, limit=2)
    for status, refusal in ((429, RateLimited), (503, Unavailable)):
        client.faults.set("bybit", storm=status, retry_after_s=3)
        with pytest.raises(refusal) as caught:
            await client.ask(ask)
        assert type(caught.value) is refusal
        assert caught.value.retry_s == (3.0 if status == 429 else None)
    client.faults.set("bybit", storm=None, html=True)
    with pytest.raises(Unreadable):
        await client.ask(ask)
    client.faults.clear("bybit")
    assert await client.ask(ask)


async def test_too_many_requests_are_a_ban_for_all_markets_of_the_address() -> None:
    async with _playing() as client:
        await client.clock.advance(5.0)
        for _ in range(600):
            answer = await client.get("bybit", "/v5/market/time")
            assert answer.status == 200
        for venue in ("bybit", "bybit_spot"):
            with pytest.raises(RateLimited) as caught:
                await client.ask(Ask(query=Query.TIME), venue)
            assert caught.value.banned
        await client.clock.advance(6.0)
        with pytest.raises(RateLimited):
            await client.ask(Ask(query=Query.TIME))


# Options


async def test_one_topic_tells_the_trades_of_all_options_on_a_coin(options: Client) -> None:
    listed = [a for a in options.world.listings("bybit_options") if a.instrument.coin == "BTC"]
    socket, frames = await options.subscribe(listed[0].name, Feed.TRADES)
    assert await options.hear(socket, frames, "bybit_options") == [Subscribed(("publicTrade.BTC",))]
    await options.clock.advance(60.0)
    told = await options.hear(socket, frames, "bybit_options")
    end_ns = NOW_NS + 59 * NS
    for listing in listed:
        heard = [_told(e) for e in _only(told, NOW_NS, end_ns) if e.instrument == listing.name]
        assert heard == options.true_trades(listing.name, NOW_NS, end_ns)
        assert len(heard) > 20
    assert {e.why for e in told if isinstance(e, Skipped)} == {"block"}
    assert {e.instrument for e in told if isinstance(e, Trade)} == {a.name for a in listed}


async def test_the_option_socket_has_words_of_its_own(options: Client) -> None:
    options.faults.set("bybit_options", refuse_subscriptions=frozenset({"publicTrade.ETH"}))
    socket = await options.open("bybit_options", "option")
    frames = aiter(socket)
    symbol = options.world.listings("bybit_options")[0].instrument.symbol
    silent = [f"kline.1.{symbol}", f"orderbook.1.{symbol}"]
    wanted = ["publicTrade.BTC", "publicTrade.ETH", "publicTrade.NOPE", f"publicTrade.{symbol}", *silent]
    await socket.send(json.dumps({"op": "subscribe", "args": wanted}).encode())
    said = json.loads(await anext(frames))
    assert said.keys() == {"success", "conn_id", "data", "type"}
    assert said["data"] == {"failTopics": wanted[1:4], "successTopics": [wanted[0], *silent]}
    told = options.venues["bybit_options"].decode(json.dumps(said).encode(), 1)
    assert [e.name for e in told if isinstance(e, Refused)] == wanted[1:4]
    await socket.send(b'{"op":"ping"}')
    assert json.loads(await anext(frames)) == {"args": [str(NOW_NS // MS)], "op": "pong"}
    await options.clock.advance(20.0)
    await socket.send(b'{"op":"ping"}')
    several = 0
    while b"pong" not in (frame := await anext(frames)):
        message = json.loads(frame)
        assert message["topic"] == "publicTrade.BTC"
        assert message["id"].startswith("publicTrade.BTC-")
        several += len({row["s"] for row in message["data"]}) > 1
    assert several > 5


async def test_the_interest_of_all_options_on_a_coin_is_one_answer(options: Client) -> None:
    for coin, usual in (("BTC", 64_000), ("ETH", 3_400)):
        told = await options.ask(Ask(query=Query.OPTION_INTEREST, symbol=coin), "bybit_options")
        listed = [a for a in options.world.listings("bybit_options") if a.instrument.coin == coin]
        assert len(told) == len(listed) == 12
        for listing, event in zip(listed, told, strict=True):
            assert isinstance(event, OpenInterest)
            lots = options.world.open_interest(listing.name, NOW_NS)
            assert event.instrument == listing.name
            assert event.size == options.world.speller(listing.name).size_decimal(lots)
            assert event.price is not None
            moved = options.world.index(listing.name, NOW_NS) / Decimal(listing.price)
            assert abs(moved * usual / event.price - 1) < Decimal("0.0001")
    refused = await options.get("bybit_options", "/v5/market/tickers", ("category", "option"))
    assert json.loads(refused.body)["retCode"] == 10001


async def test_tickers_of_options_tell_their_last_day(options: Client) -> None:
    told = {
        e.instrument: e for e in await options.ask(Ask(query=Query.TICKERS), "bybit_options") if isinstance(e, Ticker)
    }
    assert told.keys() == {a.name for a in options.world.listings("bybit_options")}
    for name, ticker in told.items():
        bar = options.world.window(name, NOW_NS - DAY_NS, NOW_NS)
        assert bar is not None
        speller = options.world.speller(name)
        prices = (bar.open, bar.high, bar.low, bar.close)
        assert (ticker.open, ticker.high, ticker.low, ticker.close) == tuple(map(speller.price_decimal, prices))
        assert ticker.volume == speller.size_decimal(bar.lots)


async def test_recent_trades_of_an_option_are_those_of_the_world(options: Client) -> None:
    name = options.world.listings("bybit_options")[3].name
    start_ns = NOW_NS - 5 * MINUTE_NS
    ask = Ask(query=Query.TRADES, symbol=name.partition(":")[2], start_ns=start_ns, end_ns=NOW_NS)
    (page,) = await options.pages(ask, "bybit_options")
    told = [_told(e) for e in page.events if isinstance(e, Trade)]
    assert told == options.true_trades(name, start_ns, NOW_NS)
    assert (page.start_ns, page.end_ns, len(told) > 20) == (start_ns, NOW_NS, True)
    unknown = Ask(query=Query.TRADES, symbol="BTC-25JUN27-1-C-USDT", newest=True)
    with pytest.raises(UnknownInstrument):
        await options.ask(unknown, "bybit_options")
    bars = await options.get("bybit_options", "/v5/market/kline", ("category", "option"), ("interval", "1"))
    assert bars.status == 404
