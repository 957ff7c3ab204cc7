"""The OKX adapter against the personality over real sockets, with the world's truth at hand."""

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest

from openoutcry.clock import ManualClock
from openoutcry.errors import OutOfReach, RateLimited, Unavailable, UnknownInstrument
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
from openoutcry.simulator.simulator import Simulator
from openoutcry.simulator.tape import Row
from openoutcry.transport import HttpClient, Socket, SocketClient, TransportError
from openoutcry.venues.okx import Okx
from openoutcry.venues.okx_frames import OkxFrames
from openoutcry.venues.okx_options import OkxOptions
from openoutcry.venues.venue import Alive, Answer, Ask, Closing, Feed, Page, Query, Refused, Signal, Subscribed
from tests.simulator.client import SameBars, SameFunding

NS = 1_000_000_000
MS = 1_000_000
# 2026-11-20 13:00:20 UTC, twenty seconds into a minute.
NOW_NS = 1_795_179_620 * NS
MINUTE_NS, HOUR_NS, DAY_NS = 60 * NS, 3_600 * NS, 86_400 * NS
SPOT, SWAP, INVERSE = "BTC-USDT", "BTC-USDT-SWAP", "BTC-USD-SWAP"


class Client:
    """What the feed does of the adapter's part, without the feed: ask page by page, subscribe, decode."""

    def __init__(self, venue: OkxFrames | None = None, **options: Any) -> None:
        self.clock = ManualClock(NOW_NS)
        self.venue = Okx() if venue is None else venue
        self.name = self.venue.name
        self.simulator = Simulator(7, self.clock, [self.name], **options)
        self.world, self.faults = self.simulator.world, self.simulator.faults
        self.http = HttpClient()
        self.opened: list[Socket] = []

    async def send(self, ask: Ask) -> Answer:
        request = self.venue.request(ask)
        url = self.simulator.addresses()[self.name]["rest"] + request.path
        response = await self.http.send(request.method, url, query=request.query, body=request.body)
        return Answer(response.status, response.headers, response.body, self.clock.now_ns())

    async def pages(self, ask: Ask) -> list[Page]:
        found = [self.venue.page(ask, await self.send(ask))]
        while (following := found[-1].next) is not None:
            assert len(found) < 200
            found.append(self.venue.page(following, await self.send(following)))
        return found

    async def ask(self, ask: Ask) -> list[Event]:
        return [event for page in await self.pages(ask) for event in page.events]

    async def learn(self) -> list[Instrument]:
        listing = [i for page in await self.pages(Ask(query=Query.INSTRUMENTS)) for i in page.instruments]
        self.venue.learn(listing)
        return listing

    async def subscribe(self, *feeds: Feed, symbol: str = SWAP) -> tuple[Socket, AsyncIterator[bytes]]:
        streams = [stream for feed in feeds for stream in self.venue.streams(feed, [symbol])]
        (endpoint,) = {stream.endpoint for stream in streams}
        socket = await self.open(endpoint)
        for frame in self.venue.subscribe(streams):
            await socket.send(frame)
        return socket, aiter(socket)

    async def open(self, endpoint: str) -> Socket:
        address = self.simulator.addresses()[self.name]["sockets"][endpoint]
        socket = await SocketClient().open(self.venue.url(address, endpoint, ()))
        self.opened.append(socket)
        return socket

    async def hear(self, socket: Socket, frames: AsyncIterator[bytes]) -> list[Event | Signal]:
        """All that was sent until now: a ping is answered behind it."""
        await socket.send(b"ping")
        told: list[Event | Signal] = []
        while True:
            said = self.venue.decode(await anext(frames), self.clock.now_ns())
            if said == [Alive()]:
                return told
            told += said

    def spelt(self, symbol: str, row: Row) -> tuple[Any, ...]:
        """A trade of the world as the adapter must tell it: time, id, side, price, contracts or coins."""
        speller = self.world.speller(f"{self.name}:{symbol}")
        side = Side.SELL if row.sell else Side.BUY
        return (row.ns, row.last_id, side, speller.price_decimal(row.ticks), speller.size_decimal(row.lots))

    async def stop(self) -> None:
        for socket in self.opened:
            await socket.close()
        await self.http.close()
        await self.simulator.stop()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client(limits=False)
    await client.simulator.start()
    await client.learn()
    try:
        yield client
    finally:
        await client.stop()


@pytest.fixture
async def options() -> AsyncIterator[Client]:
    client = Client(OkxOptions(), limits=False, activity=20.0)
    await client.simulator.start()
    await client.learn()
    try:
        yield client
    finally:
        await client.stop()


def _heard(told: Sequence[Event | Signal], start_ns: int, end_ns: int) -> list[Trade]:
    return [e for e in told if isinstance(e, Trade) and start_ns <= e.event_ns < end_ns]


def _told(trade: Trade) -> tuple[Any, ...]:
    size = trade.size if trade.contracts is None else trade.contracts
    return (trade.event_ns, trade.id, trade.side, trade.price, size)


async def test_the_listing_is_that_of_the_world(client: Client) -> None:
    listing = {i.symbol: i for i in await client.learn()}
    truth = {a.instrument.symbol: a.instrument for a in client.world.listings("okx")}
    assert listing == truth


# Streams


@pytest.mark.parametrize("symbol", [SPOT, SWAP, INVERSE])
async def test_trades_that_are_streamed_are_the_trades_of_the_world(client: Client, symbol: str) -> None:
    socket, frames = await client.subscribe(Feed.TRADES, symbol=symbol)
    told = await client.hear(socket, frames)
    assert told[0] == Subscribed((f"trades-all:{symbol}",))
    # The last trade before is repeated.
    assert isinstance(told[1], Trade)
    assert told[1].event_ns < NOW_NS
    await client.clock.advance(30.0)
    heard = _heard(await client.hear(socket, frames), NOW_NS, NOW_NS + 29 * NS)
    made = list(client.world.trades(f"okx:{symbol}", NOW_NS, NOW_NS + 29 * NS))
    assert len(made) > 5
    assert [_told(t) for t in heard] == [client.spelt(symbol, row) for row in made]
    assert [t.id for t in heard] == list(range(made[0].last_id, made[-1].last_id + 1))
    instrument = client.world.listing(f"okx:{symbol}").instrument
    for trade in heard:
        if symbol == SWAP:
            assert trade.contracts is not None
            assert trade.size == trade.contracts * (instrument.contract_size or 0)
        elif symbol == INVERSE:
            assert trade.value == (trade.contracts or 0) * 100


async def test_the_joined_trades_hold_the_same_fills(client: Client) -> None:
    socket = await client.open("public")
    await socket.send(b'{"op":"subscribe","args":[{"channel":"trades","instId":"BTC-USDT"}]}')
    frames = aiter(socket)
    await client.hear(socket, frames)
    await client.clock.advance(30.0)
    heard = _heard(await client.hear(socket, frames), NOW_NS, NOW_NS + 29 * NS)
    orders = list(client.world.orders("okx:BTC-USDT", NOW_NS, NOW_NS + 29 * NS))
    assert [_told(t) for t in heard] == [client.spelt(SPOT, row) for row in orders]
    assert [t.count for t in heard] == [row.last_id - row.first_id + 1 for row in orders]
    assert max(t.count for t in heard) > 1


@pytest.mark.parametrize("symbol", [SPOT, SWAP, INVERSE])
async def test_candles_that_are_streamed_close_with_the_trades_of_the_world(
    client: Client, same_bars: SameBars, symbol: str
) -> None:
    socket, frames = await client.subscribe(Feed.CANDLES, symbol=symbol)
    await client.clock.advance(150.0)
    candles = [e for e in await client.hear(socket, frames) if isinstance(e, Candle)]
    first_ns = NOW_NS - NOW_NS % MINUTE_NS
    bars = client.world.candles(f"okx:{symbol}", 60, first_ns, first_ns + 2 * MINUTE_NS)
    same_bars(client.world, f"okx:{symbol}", (c for c in candles if c.closed), bars)
    assert any(not c.closed for c in candles)


async def test_a_late_bar_is_pushed_later(client: Client) -> None:
    client.faults.set("okx", late_klines_s=5.0)
    socket, frames = await client.subscribe(Feed.CANDLES)
    await client.clock.advance(42.0)
    assert not any(e.closed for e in await client.hear(socket, frames) if isinstance(e, Candle))
    await client.clock.advance(5.0)
    assert sum(e.closed for e in await client.hear(socket, frames) if isinstance(e, Candle)) == 1


async def test_the_book_that_is_kept_is_the_book_of_the_world(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.DEPTH)
    await client.clock.advance(5.0)
    snapshot, *deltas = (e for e in await client.hear(socket, frames) if not isinstance(e, Subscribed))
    assert isinstance(snapshot, DepthSnapshot)
    sides = (dict(snapshot.bids), dict(snapshot.asks))
    seq = snapshot.seq
    speller = client.world.speller(f"okx:{SWAP}")
    assert len(deltas) > 40
    for delta in deltas:
        assert isinstance(delta, DepthDelta)
        assert delta.previous_seq == seq
        assert delta.checksum is None
        seq = delta.seq
        for side, changes in zip(sides, (delta.bids, delta.asks), strict=True):
            for price, size in changes:
                side.pop(price, None)
                if size:
                    side[price] = size
        truth = client.world.book(f"okx:{SWAP}", delta.event_ns, 50)
        assert sides == tuple({speller.price_decimal(t): speller.size_decimal(n) for t, n in rows} for rows in truth)


async def test_quotes_interest_funding_and_mark_are_those_of_the_world(client: Client) -> None:
    feeds = (Feed.QUOTES, Feed.OPEN_INTEREST, Feed.FUNDING, Feed.MARK_PRICE)
    socket, frames = await client.subscribe(*feeds)
    await client.clock.advance(70.0)
    told = await client.hear(socket, frames)
    name, size = f"okx:{SWAP}", Decimal("0.01")
    speller = client.world.speller(name)
    quotes = [e for e in told if isinstance(e, Quote)]
    assert len(quotes) > 20
    for quote in quotes:
        true = client.world.quote(name, quote.event_ns)
        assert (quote.bid_price, quote.ask_price) == tuple(map(speller.price_decimal, (true.bid_ticks, true.ask_ticks)))
        assert quote.bid_size == speller.size_decimal(true.bid_lots) * size
    interests = [e for e in told if isinstance(e, OpenInterest)]
    assert len(interests) > 20
    for interest in interests:
        lots = client.world.open_interest(name, interest.event_ns)
        assert interest.size == speller.size_decimal(lots) * size
    rates = [e for e in told if isinstance(e, FundingRate)]
    assert len(rates) == 2  # at once, and on the minute
    for rate in rates:
        running = client.world.running_funding(name, rate.event_ns)
        assert (rate.rate, rate.funding_ns, rate.interval_s) == (running.rate, running.funding_ns, running.interval_s)
        assert not rate.settled
    marks = [e for e in told if isinstance(e, MarkPrice)]
    assert all(mark.mark == client.world.mark(name, mark.event_ns) for mark in marks)
    assert len(marks) > 60


async def test_liquidations_of_a_type_come_in_one_stream_and_not_all_are_told(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.LIQUIDATIONS)
    heard: list[Liquidation] = []
    for _ in range(15):
        await client.clock.advance(20.0)
        heard += [e for e in await client.hear(socket, frames) if isinstance(e, Liquidation)]
    made = {
        (name, row.ns, Side.SELL if row.sell else Side.BUY, client.world.speller(name).size_decimal(row.lots))
        for a in client.world.listings("okx")
        if (name := a.name).endswith("-SWAP")
        for row in client.world.liquidations(name, NOW_NS, NOW_NS + 299 * NS)
    }
    told = {(e.instrument, e.event_ns, e.side, e.contracts) for e in heard if e.event_ns < NOW_NS + 299 * NS}
    assert len({e.instrument for e in heard}) > 2
    assert told <= made
    assert 0 < len(made - told) < len(made) / 3
    assert all(e.bankruptcy for e in heard)
    # They are in no order of time.
    assert [e.event_ns for e in heard] != sorted(e.event_ns for e in heard)


async def test_what_is_not_there_is_refused_and_what_is_asked_twice_is_told_once(client: Client) -> None:
    client.faults.set("okx", refuse_subscriptions=frozenset({f"mark-price:{SWAP}"}))
    socket = await client.open("public")
    frames = aiter(socket)
    for feed, symbol in [(Feed.QUOTES, "NO-PE"), (Feed.MARK_PRICE, SWAP), (Feed.TRADES, SWAP)]:
        for frame in client.venue.subscribe(client.venue.streams(feed, [symbol])):
            await socket.send(frame)
    quotes = client.venue.streams(Feed.QUOTES, [SWAP])
    for frame in (*client.venue.subscribe(quotes), *client.venue.subscribe(quotes), b"{", b'{"op":"hello"}'):
        await socket.send(frame)
    told = await client.hear(socket, frames)
    names = [e.name for e in told if isinstance(e, Refused)]
    # Trades of every match are on the other socket.
    assert names == ["bbo-tbt:NO-PE", f"mark-price:{SWAP}", f"trades-all:{SWAP}", None, None]
    assert sum(isinstance(e, Subscribed) for e in told) == 2
    await client.clock.advance(3.0)
    heard = [e for e in await client.hear(socket, frames) if isinstance(e, Quote)]
    assert len({e.event_ns for e in heard}) == len(heard) > 0
    for frame in client.venue.subscribe(quotes, undo=True):
        await socket.send(frame)
    await client.hear(socket, frames)
    await client.clock.advance(3.0)
    assert await client.hear(socket, frames) == []


async def test_a_silent_connection_is_cut_and_a_planned_close_announced(client: Client) -> None:
    silent = await client.open("public")
    client.faults.set("okx", silence="streams")
    socket, frames = await client.subscribe(Feed.TRADES)
    await client.hear(socket, frames)
    await client.clock.advance(25.0)
    assert await client.hear(socket, frames) == []
    await client.clock.advance(10.0)
    with pytest.raises(TransportError, match="4004"):
        await anext(aiter(silent))
    client.faults.set("okx", shutdown=True)
    await client.clock.advance(1.0)
    assert [type(e) for e in await client.hear(socket, frames)] == [Closing]
    await client.clock.advance(11.0)
    with pytest.raises(TransportError):
        await anext(frames)


# REST


@pytest.mark.parametrize("symbol", [SPOT, SWAP, INVERSE])
async def test_candles_that_are_asked_are_those_of_the_trades(client: Client, same_bars: SameBars, symbol: str) -> None:
    end_ns = NOW_NS - NOW_NS % MINUTE_NS
    start_ns = end_ns - 400 * MINUTE_NS
    ask = Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, start_ns=start_ns, end_ns=end_ns)
    pages = await client.pages(ask)
    told = [e for page in pages for e in page.events if isinstance(e, Candle)]
    bars = client.world.candles(f"okx:{symbol}", 60, start_ns, end_ns)
    traded = {bar.open_ns for bar in bars}
    assert [c.open_ns for c in told] == list(range(start_ns, end_ns, MINUTE_NS))
    same_bars(client.world, f"okx:{symbol}", (c for c in told if c.open_ns in traded), bars)
    assert max(page.end_ns or 0 for page in pages) == end_ns
    assert len(pages) == 3  # two of the history, and what it does not have yet


@pytest.mark.parametrize("interval_s", sorted(Okx.intervals_s))
async def test_every_interval_opens_on_utc_and_is_its_own(client: Client, interval_s: int) -> None:
    ask = Ask(query=Query.CANDLES, symbol=SWAP, interval_s=interval_s, newest=True, limit=3)
    told = [e for e in await client.ask(ask) if isinstance(e, Candle)]
    bars = client.world.candles(f"okx:{SWAP}", interval_s, told[0].open_ns, NOW_NS)
    speller = client.world.speller(f"okx:{SWAP}")
    assert [(c.open_ns, c.volume) for c in told] == [(bar.open_ns, speller.coins(bar.lots)) for bar in bars]
    assert [c.closed for c in told] == [True, True, False]


async def test_a_day_without_the_suffix_opens_in_hong_kong(client: Client) -> None:
    url = client.simulator.addresses()["okx"]["rest"] + "/api/v5/market/candles"
    answer = await client.http.send("GET", url, query=[("instId", SWAP), ("bar", "1D"), ("limit", "2")])
    newest, before = json.loads(answer.body)["data"]
    assert int(newest[0]) * MS % DAY_NS == 16 * HOUR_NS
    bar = client.world.window(f"okx:{SWAP}", int(before[0]) * MS, int(newest[0]) * MS)
    assert bar is not None
    assert before[5] == client.world.speller(f"okx:{SWAP}").size(bar.lots)


async def test_the_newest_candles_reach_beyond_what_the_first_endpoint_has(client: Client) -> None:
    ask = Ask(query=Query.CANDLES, symbol=SWAP, interval_s=60, newest=True, limit=1_600)
    pages = await client.pages(ask)
    opens = [e.open_ns for page in reversed(pages) for e in page.events if isinstance(e, Candle)]
    newest_ns = NOW_NS - NOW_NS % MINUTE_NS
    assert opens == [newest_ns - n * MINUTE_NS for n in reversed(range(1_600))]


async def test_trades_made_while_away_are_fetched_by_id(client: Client) -> None:
    socket, frames = await client.subscribe(Feed.TRADES)
    await client.clock.advance(5.0)
    last = _heard(await client.hear(socket, frames), 0, NOW_NS + DAY_NS)[-1]
    await socket.close()
    await client.clock.advance(300.0)
    now_ns = client.clock.now_ns()
    pages = await client.pages(Ask(query=Query.TRADES, symbol=SWAP, from_id=last.id, end_ns=now_ns))
    told = [_told(e) for page in pages for e in page.events if isinstance(e, Trade)]
    made = client.world.trades(f"okx:{SWAP}", last.event_ns, now_ns)
    assert told == [client.spelt(SWAP, row) for row in made if row.last_id > int(last.id)]
    assert len(pages) > 5


async def test_trades_of_a_past_stretch_are_fetched_by_time(client: Client) -> None:
    start_ns, end_ns = NOW_NS - 3 * DAY_NS, NOW_NS - 3 * DAY_NS + 5 * MINUTE_NS
    ask = Ask(query=Query.TRADES, symbol=INVERSE, start_ns=start_ns, end_ns=end_ns)
    told = [_told(e) for e in await client.ask(ask) if isinstance(e, Trade)]
    assert told == [client.spelt(INVERSE, row) for row in client.world.trades(f"okx:{INVERSE}", start_ns, end_ns)]
    assert len(told) > 100
    newest = await client.pages(Ask(query=Query.TRADES, symbol=INVERSE, newest=True, limit=250))
    rows = [_told(e) for page in reversed(newest) for e in page.events if isinstance(e, Trade)]
    assert rows == [client.spelt(INVERSE, row) for row in client.world.last_trades(f"okx:{INVERSE}", 250, NOW_NS)]


async def test_trades_from_the_listing_on_begin_with_the_first(client: Client) -> None:
    born_ns, _ = client.world.life(f"okx:{SWAP}")
    end_ns = born_ns + MINUTE_NS
    pages = await client.pages(Ask(query=Query.TRADES, symbol=SWAP, start_ns=born_ns, end_ns=end_ns))
    told = [_told(e) for page in reversed(pages) for e in page.events if isinstance(e, Trade)]
    assert told == [client.spelt(SWAP, row) for row in client.world.trades(f"okx:{SWAP}", born_ns, end_ns)]
    promises = [(page.start_ns, page.end_ns) for page in reversed(pages) if page.start_ns is not None]
    assert (promises[0][0], promises[-1][1]) == (born_ns, end_ns)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(promises))
    # Before the listing there was nothing, and that is known.
    _, empty = await client.pages(Ask(query=Query.TRADES, symbol=SWAP, start_ns=born_ns - 3 * DAY_NS, end_ns=born_ns))
    assert (empty.events, empty.start_ns, empty.end_ns) == ([], born_ns - 3 * DAY_NS, born_ns)


async def test_open_interest_and_its_history_are_those_of_the_world(client: Client) -> None:
    name = f"okx:{SWAP}"
    speller = client.world.speller(name)
    (now,) = await client.ask(Ask(query=Query.OPEN_INTEREST, symbol=SWAP))
    assert isinstance(now, OpenInterest)
    assert now.contracts == speller.size_decimal(client.world.open_interest(name, NOW_NS))
    end_ns = NOW_NS - NOW_NS % (300 * NS) + 1
    ask = Ask(
        query=Query.OPEN_INTEREST_HISTORY, symbol=SWAP, interval_s=300, start_ns=end_ns - 250 * 300 * NS, end_ns=end_ns
    )
    told = [e for e in await client.ask(ask) if isinstance(e, OpenInterest)]
    assert [e.event_ns for e in told] == [end_ns - 1 - n * 300 * NS for n in reversed(range(250))]
    assert all(e.contracts == speller.size_decimal(client.world.open_interest(name, e.event_ns)) for e in told)
    old_ns = NOW_NS - 10 * DAY_NS
    with pytest.raises(OutOfReach):
        await client.ask(
            Ask(
                query=Query.OPEN_INTEREST_HISTORY, symbol=SWAP, interval_s=300, start_ns=old_ns, end_ns=old_ns + HOUR_NS
            )
        )


@pytest.mark.parametrize(("symbol", "hours"), [(SWAP, 8), ("AVAX-USDT-SWAP", 4)])
async def test_funding_and_its_history_are_those_of_the_world(
    client: Client, same_funding: SameFunding, symbol: str, hours: int
) -> None:
    await same_funding(client.world, f"okx:{symbol}", hours, client.ask)


async def test_tickers_sum_the_last_day_of_every_instrument(client: Client) -> None:
    told = {e.instrument: e for e in await client.ask(Ask(query=Query.TICKERS)) if isinstance(e, Ticker)}
    assert told.keys() == {a.name for a in client.world.listings("okx")}
    bar = client.world.window(f"okx:{SPOT}", NOW_NS - DAY_NS, NOW_NS)
    assert bar is not None
    speller = client.world.speller(f"okx:{SPOT}")
    ticker = told[f"okx:{SPOT}"]
    assert (ticker.high, ticker.volume) == (speller.price_decimal(bar.high), speller.size_decimal(bar.lots))
    assert ticker.quote_volume == Decimal(speller.notional(bar.notional))
    assert await client.ask(Ask(query=Query.TIME)) == []


async def test_unknown_renamed_and_delisted_symbols_are_unknown(client: Client) -> None:
    client.faults.set("okx", renamed={"ETH-USDT-SWAP": "ETX-USDT-SWAP"}, delisted={"SOL-USDT"})
    for symbol in ("NO-PE", "SOL-USDT", "ETH-USDT-SWAP"):
        with pytest.raises(UnknownInstrument):
            await client.ask(Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, newest=True, limit=2))
    symbols = {i.symbol for i in await client.learn()}
    assert "ETX-USDT-SWAP" in symbols
    assert not symbols & {"ETH-USDT-SWAP", "SOL-USDT"}
    assert await client.ask(Ask(query=Query.CANDLES, symbol="ETX-USDT-SWAP", interval_s=60, newest=True, limit=2))


async def test_storms_pages_of_html_and_limits_are_said_in_our_words(client: Client) -> None:
    ask = Ask(query=Query.CANDLES, symbol=SWAP, interval_s=60, newest=True, limit=2)
    for status, refusal in ((429, RateLimited), (503, Unavailable)):
        client.faults.set("okx", storm=status, retry_after_s=3)
        with pytest.raises(refusal) as caught:
            await client.ask(ask)
        assert type(caught.value) is refusal
    client.faults.clear("okx")
    assert await client.ask(ask)


async def test_each_endpoint_has_its_own_limit_and_each_connection_its_requests() -> None:
    client = Client()
    await client.simulator.start()
    try:
        for _ in range(10):
            await client.ask(Ask(query=Query.TIME))
        with pytest.raises(RateLimited):
            await client.ask(Ask(query=Query.TIME))
        await client.learn()
        socket = await client.open("public")
        frames = aiter(socket)
        (frame,) = client.venue.subscribe(client.venue.streams(Feed.QUOTES, [SWAP]))
        for _ in range(481):
            await socket.send(frame)
        told = await client.hear(socket, frames)
        assert sum(isinstance(e, Subscribed) for e in told) == 480
        assert [e.reason for e in told if isinstance(e, Refused)] == ["60014 Requests too frequent"]
        await client.open("public")
        await client.open("public")
        with pytest.raises(TransportError):
            await client.open("public")
    finally:
        await client.stop()


# Options


def _option(client: Client, moneyness: int = 0) -> str:
    return client.world.listings(client.name)[moneyness].instrument.symbol


async def test_the_options_that_are_listed_are_those_of_the_world(options: Client) -> None:
    listing = {i.symbol: i for i in await options.learn()}
    assert listing == {a.instrument.symbol: a.instrument for a in options.world.listings("okx_options")}
    assert {i.coin for i in listing.values()} == {"BTC", "ETH"}
    assert {i.contract_size for i in listing.values()} == {Decimal("0.01"), Decimal("0.1")}


async def test_trades_and_bars_of_an_option_are_those_of_the_world(options: Client) -> None:
    symbol = _option(options)
    name = f"okx_options:{symbol}"
    socket, frames = await options.subscribe(Feed.TRADES, Feed.CANDLES, symbol=symbol)
    await options.hear(socket, frames)
    heard: list[Event | Signal] = []
    for _ in range(5):
        await options.clock.advance(25.0)
        heard += await options.hear(socket, frames)
    end_ns = NOW_NS + 124 * NS
    trades = _heard(heard, NOW_NS, end_ns)
    made = list(options.world.trades(name, NOW_NS, end_ns))
    assert len(made) > 20
    assert [_told(t) for t in trades] == [options.spelt(symbol, row) for row in made]
    assert all(t.size == (t.contracts or 0) * Decimal("0.01") for t in trades)
    first_ns = NOW_NS - NOW_NS % MINUTE_NS
    bars = options.world.candles(name, 60, first_ns, first_ns + 2 * MINUTE_NS)
    closed = [e for e in heard if isinstance(e, Candle) and e.closed]
    speller = options.world.speller(name)
    assert [(c.open_ns, c.close, c.volume) for c in closed] == [
        (bar.open_ns, speller.price_decimal(bar.close), speller.coins(bar.lots)) for bar in bars
    ]


async def test_past_trades_and_bars_of_an_option_are_those_of_the_world(options: Client) -> None:
    symbol = _option(options, 6)
    name = f"okx_options:{symbol}"
    end_ns = NOW_NS - NOW_NS % MINUTE_NS
    start_ns = end_ns - 2 * HOUR_NS
    told = await options.ask(Ask(query=Query.TRADES, symbol=symbol, start_ns=start_ns, end_ns=end_ns))
    made = list(options.world.trades(name, start_ns, end_ns))
    assert len(made) > 300
    assert [_told(e) for e in told if isinstance(e, Trade)] == [options.spelt(symbol, row) for row in made]
    ask = Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, start_ns=start_ns, end_ns=end_ns)
    candles = [e for e in await options.ask(ask) if isinstance(e, Candle)]
    assert [c.open_ns for c in candles] == list(range(start_ns, end_ns, MINUTE_NS))
    assert sum(c.volume for c in candles) == sum(options.world.speller(name).coins(row.lots) for row in made)


async def test_the_interest_of_all_options_on_a_coin_comes_with_its_price(options: Client) -> None:
    for coin, usual in (("BTC", 64_000), ("ETH", 3_400)):
        told = await options.ask(Ask(query=Query.OPTION_INTEREST, symbol=coin))
        listed = [a for a in options.world.listings("okx_options") if a.instrument.coin == coin]
        assert len(told) == len(listed) == 12
        by_name = {e.instrument: e for e in told if isinstance(e, OpenInterest)}
        (price,) = {e.price for e in by_name.values()}
        assert price is not None
        for listing in listed:
            lots = options.world.open_interest(listing.name, NOW_NS)
            event = by_name[listing.name]
            assert event.contracts == options.world.speller(listing.name).size_decimal(lots)
            assert event.size == (event.contracts or 0) * (listing.instrument.contract_size or 0)
            assert event.value is not None
            assert abs(event.value / (event.size * price) - 1) < Decimal("0.001")
            # Premiums move by the coin's price.
            assert abs(
                options.world.index(listing.name, NOW_NS) / Decimal(listing.price) * usual / price - 1
            ) < Decimal("0.0001")
    with pytest.raises(UnknownInstrument):
        await options.ask(Ask(query=Query.OPTION_INTEREST, symbol="DOGE"))


async def test_of_options_nothing_is_told_without_their_family(options: Client) -> None:
    for path in ("public/instruments", "public/open-interest", "market/tickers"):
        url = f"{options.simulator.addresses()['okx_options']['rest']}/api/v5/{path}"
        answer = await options.http.send("GET", url, query=[("instType", "OPTION")])
        assert (answer.status, json.loads(answer.body)["code"]) == (400, "50014")


async def test_tickers_of_options_sum_their_last_day(options: Client) -> None:
    told = {e.instrument: e for e in await options.ask(Ask(query=Query.TICKERS)) if isinstance(e, Ticker)}
    assert told.keys() == {a.name for a in options.world.listings("okx_options")}
    name = f"okx_options:{_option(options)}"
    bar = options.world.window(name, NOW_NS - DAY_NS, NOW_NS)
    assert bar is not None
    speller = options.world.speller(name)
    assert (told[name].high, told[name].volume) == (speller.price_decimal(bar.high), speller.coins(bar.lots))
