"""The adapter against the personality over real sockets, with the world's truth at hand."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from openoutcry.clock import NS
from openoutcry.errors import RateLimited, Unavailable, UnknownInstrument
from openoutcry.events import Candle, OpenInterest, Side, Ticker, Trade
from openoutcry.instrument import Kind
from openoutcry.transport import TransportError
from openoutcry.venues.binance_options import TRADES_MAX, BinanceOptions
from openoutcry.venues.venue import Ask, Feed, Page, Query, Skipped, Subscribed
from tests.simulator.client import DAY_NS, MINUTE_NS, START_NS, Fence, Line, Said, VenueClient, playing

FENCE = Fence(b'{"method":"GET_PROPERTY","params":["combined"],"id":"fence"}', b'"fence"')


class Client(VenueClient[BinanceOptions]):
    """Streams are named in the address."""

    def __init__(self) -> None:
        super().__init__(BinanceOptions(), FENCE)
        listings = self.world.listings("binance_options")
        self.symbols = [a.instrument.symbol for a in listings]
        self.bitcoins = [a.name for a in listings if a.instrument.coin == "BTC"]

    async def listen(self, feed: Feed, *symbols: str) -> Line:
        streams = self.venue.streams(feed, symbols)
        return await self.open(streams[0].endpoint, streams)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with playing(Client()) as client:
        yield client


async def test_the_listing_has_calls_and_puts_of_two_expiries_on_each_coin(client: Client) -> None:
    (page,) = await client.pages(Ask(query=Query.INSTRUMENTS))
    told = {i.symbol: i for i in page.instruments}
    for listing in client.world.listings("binance_options"):
        instrument = told.pop(listing.instrument.symbol)
        # The venue does not say since when an option is traded.
        assert instrument.listed_ns is None
        assert (instrument.kind, instrument.coin, instrument.expires_ns, instrument.contract_size) == (
            Kind.OPTION, listing.instrument.coin, listing.instrument.expires_ns, Decimal(1),
        )  # fmt: skip
    assert not told
    assert len(client.symbols) == 24
    assert len({symbol.split("-")[1] for symbol in client.symbols}) == 2


async def test_one_stream_carries_the_trades_of_all_options_on_a_coin(client: Client) -> None:
    socket, frames = await client.listen(Feed.TRADES, client.symbols[0])
    told: Said = []
    for _ in range(20):
        await client.clock.advance(29.0)
        told += await client.hear(socket, frames)
    trades = [e for e in told if isinstance(e, Trade) and e.event_ns < START_NS + 579 * NS]
    truth = []
    for name in client.bitcoins:
        s = client.world.speller(name)
        truth += [
            (
                row.ns,
                name,
                row.first_id,
                Side.SELL if row.sell else Side.BUY,
                s.price_decimal(row.ticks),
                s.coins(row.lots),
            )
            for row in client.world.trades(name, START_NS, START_NS + 579 * NS)
        ]
    assert sorted((t.event_ns, t.instrument, t.id, t.side, t.price, t.size) for t in trades) == sorted(truth)
    assert len({trade.instrument for trade in trades}) > 6
    # What was booked beside the book is among the frames.
    assert {e.why for e in told if isinstance(e, Skipped)} == {"non_market"}


async def test_candles_that_are_streamed_close_with_the_values_of_the_world(client: Client) -> None:
    socket, frames = await client.listen(Feed.CANDLES, *client.symbols[:12])
    told: Said = []
    for _ in range(7):
        await client.clock.advance(29.0)
        told += await client.hear(socket, frames)
    first_ns = START_NS - START_NS % MINUTE_NS
    candles = {(c.instrument, c.open_ns): c for c in told if isinstance(c, Candle) and c.closed}
    assert len(candles) == 12 * 3
    for name in client.bitcoins:
        s = client.world.speller(name)
        bars = {bar.open_ns: bar for bar in client.world.candles(name, 60, first_ns, first_ns + 3 * MINUTE_NS)}
        for open_ns in range(first_ns, first_ns + 3 * MINUTE_NS, MINUTE_NS):
            candle, bar = candles[name, open_ns], bars.get(open_ns)
            volume = (candle.volume, candle.quote_volume, candle.trades)
            # A minute in which nothing was traded is told too.
            assert volume == (
                (Decimal(0), Decimal(0), 0)
                if bar is None
                else (s.coins(bar.lots), Decimal(s.notional(bar.notional)), bar.trades)
            )


async def test_a_stream_asked_for_at_the_wrong_root_is_acknowledged_and_silent(client: Client) -> None:
    socket, frames = await client.open("market")
    for frame in client.venue.subscribe(client.venue.streams(Feed.TRADES, client.symbols)):
        await socket.send(frame)
    assert await client.hear(socket, frames) == [Subscribed()]
    await client.clock.advance(60.0)
    assert await client.hear(socket, frames) == []
    client.faults.set("binance_options", cut="rst")
    await client.clock.advance(1.0)
    with pytest.raises(TransportError):
        async with asyncio.timeout(5):
            await anext(frames)


async def test_open_interest_of_all_options_on_a_coin_is_the_worlds_with_the_underlyings_price(client: Client) -> None:
    pages = await client.pages(Ask(query=Query.OPTION_INTEREST, symbol="BTC"))
    days = sorted({symbol.split("-")[1] for symbol in client.symbols})
    assert [{e.instrument.split("-")[1] for e in page.events} for page in pages] == [set(), {days[0]}, {days[1]}]
    told = [e for page in pages for e in page.events if isinstance(e, OpenInterest)]
    assert sorted(e.instrument for e in told) == sorted(client.bitcoins)
    for interest in told:
        s, name = client.world.speller(interest.instrument), interest.instrument
        size = s.size_decimal(client.world.open_interest(name, START_NS))
        assert size > 0
        assert (interest.size, interest.contracts, interest.event_ns) == (size, size, START_NS)
        assert interest.value == size * client.world.mark(name, START_NS)
        assert interest.price == client.world.index("binance:BTCUSDT", START_NS)
    with pytest.raises(UnknownInstrument):
        await client.pages(Ask(query=Query.OPTION_INTEREST, symbol="NOPE"))


async def test_past_trades_and_candles_are_those_of_the_world(client: Client) -> None:
    symbol = client.symbols[2]
    name = f"binance_options:{symbol}"
    s = client.world.speller(name)
    (page,) = await client.pages(Ask(query=Query.TRADES, symbol=symbol, start_ns=START_NS - DAY_NS, end_ns=START_NS))
    made = client.world.last_trades(name, TRADES_MAX, START_NS)
    assert [(t.id, t.price, t.size, t.side is Side.SELL) for t in page.events if isinstance(t, Trade)] == [
        (row.first_id, s.price_decimal(row.ticks), s.coins(row.lots), row.sell)
        for row in made
        if row.ns >= START_NS - DAY_NS
    ]
    start_ns = START_NS - START_NS % DAY_NS - 2 * DAY_NS
    candles = [
        e
        for e in await client.ask(
            Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, start_ns=start_ns, end_ns=START_NS)
        )
        if isinstance(e, Candle)
    ]
    # Minutes without a trade are flat.
    assert [c.open_ns for c in candles] == list(range(start_ns, START_NS, MINUTE_NS))
    assert [(c.open_ns, c.open, c.close, c.volume, c.quote_volume) for c in candles if c.trades] == [
        (bar.open_ns, s.price_decimal(bar.open), s.price_decimal(bar.close), s.coins(bar.lots), Decimal(s.notional(bar.notional)))
        for bar in client.world.candles(name, 60, start_ns, START_NS)
    ]  # fmt: skip
    tickers = [e for e in await client.ask(Ask(query=Query.TICKERS)) if isinstance(e, Ticker)]
    assert {t.instrument.partition(":")[2] for t in tickers} <= set(client.symbols)
    (one,) = await client.ask(Ask(query=Query.TICKERS, symbol=symbol))
    bar = client.world.window(name, START_NS - DAY_NS, START_NS)
    assert bar is not None
    assert isinstance(one, Ticker)
    assert (one.high, one.volume, one.trades) == (s.price_decimal(bar.high), s.coins(bar.lots), bar.trades)
    assert await client.pages(Ask(query=Query.TIME)) == [Page(())]


async def test_errors_limits_and_bans_are_the_venues(client: Client) -> None:
    for query in (Query.TRADES, Query.CANDLES):
        with pytest.raises(UnknownInstrument):
            await client.pages(Ask(query=query, symbol="BTC-300101-1-C", interval_s=60, newest=True, limit=5))
    client.faults.set("binance_options", storm=503)
    with pytest.raises(Unavailable):
        await client.pages(Ask(query=Query.TICKERS))
    client.faults.clear("binance_options")
    answer = await client.send(Ask(query=Query.TICKERS, symbol=client.symbols[0]))
    # exchangeInfo 1, trades 5, klines 1, ticker 5 of 400 a minute.
    assert answer.headers["x-mbx-used-weight-1m"] == "12"
    for _ in range(78):
        answer = await client.send(Ask(query=Query.TRADES, symbol=client.symbols[0]))
    assert answer.status == 429
    for _ in range(21):
        answer = await client.send(Ask(query=Query.TIME))
    assert answer.status == 418
    with pytest.raises(RateLimited) as caught:
        client.venue.page(Ask(query=Query.TIME), answer)
    assert caught.value.banned
