"""Binance, played: what it serves agrees with the world, with itself, and with the adapters that will read it."""

from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import httpx2
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from openoutcry.clock import ManualClock
from openoutcry.events import Candle, Event, FundingRate, MarkPrice, OpenInterest, Side, Trade
from openoutcry.simulator.simulator import Simulator
from openoutcry.simulator.tape import Row
from openoutcry.venues import VENUES
from openoutcry.venues.venue import Answer, Ask, Feed, Page, Query, Skipped, Subscribed, Venue

Play = Callable[..., Awaitable[Simulator]]
Get = Callable[..., Awaitable[httpx2.Response]]
Dial = Callable[[str], Awaitable[ClientConnection]]
Drain = Callable[[ClientConnection], Awaitable[list[bytes]]]
NS, MS = 1_000_000_000, 1_000_000
MINUTE_NS, HOUR_NS, DAY_NS = 60 * NS, 3_600 * NS, 86_400 * NS
MARKETS = {"binance": "/api/v3", "binance_futures": "/fapi/v1", "binance_delivery": "/dapi/v1"}
BTC = {"binance": "BTCUSDT", "binance_futures": "BTCUSDT", "binance_delivery": "BTCUSD_PERP"}
markets = pytest.mark.parametrize("venue", list(MARKETS))


class Reader:
    """An adapter that asks the simulator over HTTP."""

    def __init__(self, simulator: Simulator, venue: str, get: Get, clock: ManualClock) -> None:
        self.venue: Venue = VENUES[venue]()
        self._rest, self._get, self._clock = simulator.addresses()[venue]["rest"], get, clock

    async def pages(self, **ask: Any) -> list[Page]:
        """All pages of the answer, by the adapter's own paging."""
        pages: list[Page] = []
        following: Ask | None = Ask(**ask)
        while following is not None:
            request = self.venue.request(following)
            said = await self._get(self._rest + request.path, **dict(request.query))
            headers = {name.lower(): value for name, value in said.headers.items()}
            answer = Answer(said.status_code, headers, said.content, self._clock.now_ns())
            pages.append(self.venue.page(following, answer))
            assert pages[-1].unread == 0
            assert len(pages) < 200
            following = pages[-1].next
        return pages

    async def events(self, **ask: Any) -> list[Event]:
        """Of all pages, as they came."""
        return [event for page in await self.pages(**ask) for event in page.events]

    async def learn(self) -> None:
        """Read the listing."""
        (page,) = await self.pages(query=Query.INSTRUMENTS)
        self.venue.learn(page.instruments)


@pytest.fixture
async def simulator(play: Play) -> Simulator:
    return await play(limits=False)


def trade_of(simulator: Simulator, name: str, row: Row) -> tuple[int, int, Side, Decimal, Decimal, int]:
    """What an adapter must make of an order."""
    listing = simulator.world.listing(name)
    price = row.ticks * listing.instrument.tick_size
    size = row.lots * listing.instrument.lot_size
    if listing.instrument.inverse:
        size = (size * (listing.instrument.contract_size or 1) / price).quantize(Decimal("1e-8"))
    return row.id, row.ns, Side.SELL if row.sell else Side.BUY, price, size, row.last_id - row.first_id + 1


def told(trade: Trade) -> tuple[Any, ...]:
    return trade.id, trade.event_ns, trade.side, trade.price, trade.size, trade.count


@markets
async def test_the_adapter_reads_the_listing_as_the_world_has_it(
    venue: str, simulator: Simulator, get: Get, clock: ManualClock
) -> None:
    reader = Reader(simulator, venue, get, clock)
    (page,) = await reader.pages(query=Query.INSTRUMENTS)
    listed = {a.symbol: a for a in page.instruments}
    for listing in simulator.world.listings(venue):
        ours, read = listing.instrument, listed.pop(listing.instrument.symbol)
        assert (read.kind, read.quote, read.inverse) == (ours.kind, ours.quote, ours.inverse)
        assert (read.tick_size, read.lot_size, read.contract_size) == (
            ours.tick_size,
            ours.lot_size,
            ours.contract_size,
        )
        assert read.trading
        assert read.expires_ns == ours.expires_ns
    assert not listed


@markets
async def test_the_adapter_reads_every_frame_of_every_stream_it_asks_for(
    venue: str, simulator: Simulator, dial: Dial, drain: Drain, get: Get, clock: ManualClock
) -> None:
    reader = Reader(simulator, venue, get, clock)
    await reader.learn()
    symbols = [a.instrument.symbol for a in simulator.world.listings(venue)]
    streams = [stream for feed in reader.venue.feeds for stream in reader.venue.streams(feed, symbols)]
    lines = []
    for endpoint in {stream.endpoint for stream in streams}:
        mine = [stream for stream in streams if stream.endpoint == endpoint]
        line = await dial(reader.venue.url(simulator.addresses()[venue]["sockets"][endpoint], endpoint, mine[:2]))
        for frame in reader.venue.subscribe(mine[2:]):
            await line.send(frame)
            assert any(isinstance(said, Subscribed) for said in reader.venue.decode(await line.recv(decode=False), 0))
        lines.append(line)
    start_ns = clock.now_ns()
    seen: Counter[str] = Counter()
    trades: dict[str, list[Trade]] = {}
    for _ in range(7):  # so that a minute ends in it
        await clock.advance(10)
        for line in lines:
            for frame in await drain(line):
                for said in reader.venue.decode(frame, clock.now_ns()):
                    seen[type(said).__name__] += 1
                    assert not isinstance(said, Skipped)
                    if isinstance(said, Trade):
                        trades.setdefault(said.instrument, []).append(said)
    kinds = {"Trade", "Candle", "Quote", "DepthDelta"}
    kinds |= set() if venue == "binance" else {"MarkPrice", "FundingRate"}
    kinds |= {"Liquidation"} if venue == "binance_futures" else set()  # rare on the quieter delivery
    assert kinds <= seen.keys()
    for listing in simulator.world.listings(venue):
        truth = simulator.world.orders(listing.name, start_ns, clock.now_ns())
        assert [told(a) for a in trades.get(listing.name, [])] == [trade_of(simulator, listing.name, a) for a in truth]


@markets
async def test_candles_asked_for_are_the_candles_of_the_trades_streamed(
    venue: str, simulator: Simulator, dial: Dial, drain: Drain, get: Get, clock: ManualClock
) -> None:
    reader = Reader(simulator, venue, get, clock)
    await reader.learn()
    name = f"{venue}:{BTC[venue]}"
    (stream,) = reader.venue.streams(Feed.TRADES, [BTC[venue]])
    (bars,) = reader.venue.streams(Feed.CANDLES, [BTC[venue]])
    line = await dial(
        reader.venue.url(simulator.addresses()[venue]["sockets"][stream.endpoint], stream.endpoint, [stream, bars])
    )
    said = []
    for _ in range(4):  # in steps, so that the client finds time to answer the server's pings
        await clock.advance(41)
        said += [event for frame in await drain(line) for event in reader.venue.decode(frame, clock.now_ns())]
    first_ns = (clock.now_ns() - 124 * NS) // MINUTE_NS * MINUTE_NS
    asked = await reader.events(
        query=Query.CANDLES, symbol=BTC[venue], interval_s=60, start_ns=first_ns, end_ns=first_ns + 2 * MINUTE_NS
    )
    pushed = {e.open_ns: e for e in said if isinstance(e, Candle) and e.closed}
    assert len(asked) == 2
    for candle in asked:
        assert isinstance(candle, Candle)
        assert candle.closed
        rows = [e for e in said if isinstance(e, Trade) and e.event_ns // MINUTE_NS * MINUTE_NS == candle.open_ns]
        prices = [row.price for row in rows]
        assert (candle.open, candle.close) == (prices[0], prices[-1])
        assert (candle.high, candle.low) == (max(prices), min(prices))
        assert candle.volume == sum(row.size for row in rows)
        assert candle.trades == sum(row.count for row in rows)
        paid = sum((row.price * row.size if row.value is None else row.value for row in rows), Decimal(0))
        assert candle.quote_volume == paid
        push = pushed[candle.open_ns]
        assert (push.open, push.high, push.low, push.close) == (candle.open, candle.high, candle.low, candle.close)
        assert (push.volume, push.quote_volume, push.trades) == (candle.volume, candle.quote_volume, candle.trades)
    assert name == asked[0].instrument


@markets
@pytest.mark.parametrize("newest", [True, False])
async def test_the_adapters_paging_brings_every_candle_of_a_stretch_once(
    venue: str, newest: bool, simulator: Simulator, get: Get, clock: ManualClock
) -> None:
    reader = Reader(simulator, venue, get, clock)
    await reader.learn()
    end_ns = clock.now_ns() // MINUTE_NS * MINUTE_NS
    start_ns = end_ns - 3_333 * MINUTE_NS
    rows = await reader.events(
        query=Query.CANDLES, symbol=BTC[venue], interval_s=60, start_ns=start_ns, end_ns=end_ns, newest=newest
    )
    candles = sorted((row for row in rows if isinstance(row, Candle)), key=lambda c: c.open_ns)
    truth = simulator.world.candles(f"{venue}:{BTC[venue]}", 60, start_ns, end_ns)
    traded = [candle for candle in candles if candle.trades]
    assert [c.open_ns for c in candles] == list(range(start_ns, end_ns, MINUTE_NS))
    tick = simulator.world.listing(f"{venue}:{BTC[venue]}").instrument.tick_size
    assert [(c.open_ns, c.high, c.trades) for c in traded] == [(b.open_ns, b.high * tick, b.trades) for b in truth]


@markets
async def test_the_adapters_paging_brings_every_trade_of_a_stretch_once(
    venue: str, simulator: Simulator, get: Get, clock: ManualClock
) -> None:
    reader = Reader(simulator, venue, get, clock)
    await reader.learn()
    name, end_ns = f"{venue}:{BTC[venue]}", clock.now_ns() - 10 * MINUTE_NS
    start_ns = end_ns - 20 * MINUTE_NS
    truth = [trade_of(simulator, name, row) for row in simulator.world.orders(name, start_ns, end_ns)]
    rows = await reader.events(query=Query.TRADES, symbol=BTC[venue], start_ns=start_ns, end_ns=end_ns)
    assert [told(row) for row in rows if isinstance(row, Trade)] == truth
    after = await reader.events(query=Query.TRADES, symbol=BTC[venue], from_id=truth[9][0], end_ns=end_ns)
    assert [told(row) for row in after if isinstance(row, Trade)] == truth[10:]
    newest = await reader.events(query=Query.TRADES, symbol=BTC[venue], end_ns=end_ns, newest=True, limit=5)
    assert [told(row) for row in newest if isinstance(row, Trade)] == truth[-5:]


@pytest.mark.parametrize("venue", ["binance_futures", "binance_delivery"])
async def test_the_adapter_reads_derivatives_as_the_world_has_them(
    venue: str, simulator: Simulator, get: Get, clock: ManualClock
) -> None:
    reader, world, symbol = Reader(simulator, venue, get, clock), simulator.world, BTC[venue]
    name, now_ns = f"{venue}:{symbol}", clock.now_ns()
    await reader.learn()
    (interest,) = await reader.events(query=Query.OPEN_INTEREST, symbol=symbol)
    assert isinstance(interest, OpenInterest)
    open_lots = world.open_interest(name, now_ns) * world.listing(name).instrument.lot_size
    assert open_lots == (interest.contracts if venue == "binance_delivery" else interest.size)
    history = await reader.events(
        query=Query.OPEN_INTEREST_HISTORY, symbol=symbol, interval_s=300, start_ns=now_ns - 3 * DAY_NS, end_ns=now_ns
    )
    assert len(history) == 3 * 288
    running = [
        e for e in await reader.events(query=Query.FUNDING, symbol=symbol) if isinstance(e, FundingRate | MarkPrice)
    ]
    rate = next(e for e in running if isinstance(e, FundingRate))
    assert (rate.rate, rate.funding_ns) == (
        world.running_funding(name, now_ns).rate,
        world.running_funding(name, now_ns).funding_ns,
    )
    settled = await reader.events(
        query=Query.FUNDING_HISTORY, symbol=symbol, start_ns=now_ns - 20 * DAY_NS, end_ns=now_ns
    )
    truth = world.funding(name, now_ns - 20 * DAY_NS, now_ns)
    assert [(e.rate, e.funding_ns) for e in settled if isinstance(e, FundingRate)] == [
        (s.rate, s.stamp_ns) for s in truth
    ]


@markets
async def test_the_adapter_reads_all_tickers(venue: str, simulator: Simulator, get: Get, clock: ManualClock) -> None:
    reader = Reader(simulator, venue, get, clock)
    await reader.learn()
    tickers = await reader.events(query=Query.TICKERS)
    assert len(tickers) == len(simulator.world.listings(venue))
    bar = simulator.world.window(f"{venue}:{BTC[venue]}", clock.now_ns() - DAY_NS, clock.now_ns())
    assert bar is not None
    mine: Any = next(t for t in tickers if t.instrument == f"{venue}:{BTC[venue]}")
    tick = simulator.world.listing(mine.instrument).instrument.tick_size
    assert (mine.open, mine.high, mine.low, mine.close) == tuple(
        p * tick for p in (bar.open, bar.high, bar.low, bar.close)
    )
    assert mine.trades == bar.trades


@markets
async def test_klines_are_oldest_first_and_a_start_gives_the_first_rows_but_on_coinm(
    venue: str, simulator: Simulator, get: Get, clock: ManualClock
) -> None:
    url, now_ms = simulator.addresses()[venue]["rest"] + MARKETS[venue] + "/klines", clock.now_ns() // MS
    minute_ms = now_ms // 60_000 * 60_000

    async def opens(**query: object) -> list[int]:
        return [row[0] for row in (await get(url, symbol=BTC[venue], interval="1m", **query)).json()]

    assert await opens(limit=3) == [minute_ms - 120_000, minute_ms - 60_000, minute_ms]
    assert await opens(limit=2, endTime=minute_ms - 1) == [minute_ms - 120_000, minute_ms - 60_000]
    first = [minute_ms - 600_000, minute_ms - 540_000]
    newest = [minute_ms - 60_000, minute_ms]
    both = await opens(limit=2, startTime=minute_ms - 600_000, endTime=now_ms)
    assert both == (newest if venue == "binance_delivery" else first)
    assert await opens(limit=2, startTime=minute_ms - 600_000) == (newest if venue == "binance_delivery" else first)
    assert await opens(startTime=now_ms + 60_000) == []


async def test_a_minute_without_trades_is_a_flat_candle_of_zeros(play: Play, get: Get, clock: ManualClock) -> None:
    simulator = await play("binance", activity=0.02)
    rows = (
        await get(
            simulator.addresses()["binance"]["rest"] + "/api/v3/klines", symbol="AVAXUSDT", interval="1m", limit=200
        )
    ).json()
    flat = [n for n, row in enumerate(rows) if row[8] == 0 and n]
    assert flat
    for n in flat:
        assert set(rows[n][1:5]) == {rows[n - 1][4]}
        assert {float(rows[n][column]) for column in (5, 7, 9, 10)} == {0.0}


@markets
@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/klines", {"symbol": "NONE", "interval": "1m"}, -1121),
        ("/klines", {"symbol": "BTC", "interval": "7m"}, -1121),
        ("/klines", {"interval": "1m"}, -1102),
        ("/klines", {"symbol": "*", "interval": "7m"}, -1120),
        ("/klines", {"symbol": "*", "interval": "1m", "limit": 0}, -1130),
        ("/klines", {"symbol": "*", "interval": "1m", "startTime": "soon"}, -1130),
        ("/klines", {"symbol": "*", "interval": "1m", "startTime": 2_000, "endTime": 1_000}, -1023),
        ("/aggTrades", {"symbol": "*", "limit": "many"}, -1130),
        ("/aggTrades", {"symbol": "*", "fromId": "-5"}, -1130),
    ],
)
async def test_refusals_have_binances_codes(
    venue: str, path: str, query: dict[str, Any], code: int, simulator: Simulator, get: Get
) -> None:
    asked = {name: BTC[venue] if value == "*" else value for name, value in query.items()}
    answer = await get(simulator.addresses()[venue]["rest"] + MARKETS[venue] + path, **asked)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_open_interest_history_ends_after_thirty_days(simulator: Simulator, get: Get, clock: ManualClock) -> None:
    url = simulator.addresses()["binance_futures"]["rest"] + "/futures/data/openInterestHist"
    ago = {"symbol": "BTCUSDT", "period": "1h", "limit": 5}
    assert len((await get(url, **ago, startTime=(clock.now_ns() - 29 * DAY_NS) // MS)).json()) == 5
    assert (await get(url, **ago, startTime=(clock.now_ns() - 31 * DAY_NS) // MS)).json()["code"] == -1130
    assert len((await get(url, **ago)).json()) == 5


async def test_funding_history_begins_at_its_start_or_ends_now(
    simulator: Simulator, get: Get, clock: ManualClock
) -> None:
    url, now_ns = simulator.addresses()["binance_futures"]["rest"] + "/fapi/v1/fundingRate", clock.now_ns()
    truth = [s.stamp_ns // MS for s in simulator.world.funding("binance_futures:BTCUSDT", now_ns - 9 * DAY_NS, now_ns)]

    async def times(**query: object) -> list[int]:
        return [row["fundingTime"] for row in (await get(url, symbol="BTCUSDT", limit=3, **query)).json()]

    assert await times(startTime=truth[4]) == truth[4:7]
    assert await times(startTime=truth[4] + 1) == truth[5:8]
    assert await times() == truth[-3:]
    assert await times(endTime=truth[9]) == truth[7:10]


async def test_only_intervals_other_than_eight_hours_are_in_funding_info(simulator: Simulator, get: Get) -> None:
    rows = (await get(simulator.addresses()["binance_futures"]["rest"] + "/fapi/v1/fundingInfo")).json()
    hours = {row["symbol"]: row["fundingIntervalHours"] for row in rows}
    assert hours["AVAXUSDT"] == 4
    assert "BTCUSDT" not in hours


async def test_each_root_pushes_only_its_streams_and_the_old_one_only_public_ones(
    simulator: Simulator, dial: Dial, drain: Drain, clock: ManualClock
) -> None:
    sockets = simulator.addresses()["binance_futures"]["sockets"]
    heard = {}
    for endpoint, address in sockets.items():
        line = await dial(address + "/stream")
        await line.send(
            '{"method":"SUBSCRIBE","params":["btcusdt@aggTrade","btcusdt@trade","btcusdt@markPrice@1s"],"id":1}'
        )
        assert msgspec.json.decode(await line.recv()) == {"result": None, "id": 1}
        await clock.advance(5)
        heard[endpoint] = {msgspec.json.decode(frame)["stream"].partition("@")[2] for frame in await drain(line)}
    assert heard == {"public": {"trade"}, "market": {"aggTrade", "markPrice@1s"}, "old": {"trade"}}


@pytest.mark.parametrize("venue", ["binance_futures", "binance_delivery"])
async def test_raw_trades_hold_entries_that_are_no_market_trades_and_no_candle_counts(
    venue: str, play: Play, dial: Dial, drain: Drain, clock: ManualClock, get: Get
) -> None:
    simulator = await play(venue, activity=25.0)
    endpoint = "public" if venue == "binance_futures" else "market"
    line = await dial(simulator.addresses()[venue]["sockets"][endpoint] + f"/ws/{BTC[venue].lower()}@trade")
    start_ns = clock.now_ns()
    natures: Counter[str] = Counter()
    numbers: list[int] = []
    while len(natures) < 4:
        await clock.advance(20)
        for frame in await drain(line):
            trade = msgspec.json.decode(frame)
            natures[trade["X"]] += 1
            numbers.append(trade["t"])
            assert (trade["p"] == "0") == (trade["X"] == "NA")
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    bar = simulator.world.window(f"{venue}:{BTC[venue]}", start_ns, clock.now_ns())
    assert bar is not None
    assert natures["MARKET"] == bar.trades


async def test_subscriptions_are_acknowledged_listed_and_given_up(
    simulator: Simulator, dial: Dial, drain: Drain, clock: ManualClock
) -> None:
    line = await dial(simulator.addresses()["binance"]["sockets"]["market"] + "/ws/btcusdt@aggTrade")

    async def say(text: str) -> Any:
        await line.send(text)
        return msgspec.json.decode(await line.recv())

    assert await say('{"method":"SUBSCRIBE","params":["ethusdt@aggTrade","none@aggTrade"],"id":1}') == {
        "result": None,
        "id": 1,
    }
    names = ["btcusdt@aggTrade", "ethusdt@aggTrade", "none@aggTrade"]
    assert await say('{"method":"LIST_SUBSCRIPTIONS","id":"two"}') == {"result": names, "id": "two"}
    assert await say('{"method":"UNSUBSCRIBE","params":["btcusdt@aggTrade"],"id":3}') == {"result": None, "id": 3}
    await clock.advance(5)
    assert {msgspec.json.decode(frame)["s"] for frame in await drain(line)} == {"ETHUSDT"}
    assert await say('{"method":"SET_PROPERTY","params":["combined",true],"id":5}') == {"result": None, "id": 5}
    await clock.advance(5)
    assert {msgspec.json.decode(frame)["stream"] for frame in await drain(line)} == {"ethusdt@aggTrade"}


@pytest.mark.parametrize(
    "words", ["not json", "[]", '{"method":"DANCE","id":1}', '{"method":"SUBSCRIBE","params":[1],"id":1}', "{}"]
)
async def test_words_it_does_not_understand_are_refused_and_the_line_stays(
    words: str, simulator: Simulator, dial: Dial
) -> None:
    line = await dial(simulator.addresses()["binance"]["sockets"]["market"] + "/ws")
    await line.send(words)
    assert msgspec.json.decode(await line.recv())["error"]["code"] in (2, 3)
    await line.send('{"method":"LIST_SUBSCRIPTIONS","id":2}')
    assert msgspec.json.decode(await line.recv())["id"] == 2


async def test_a_line_is_pinged_and_closed_when_it_never_answers(
    simulator: Simulator, dial: Dial, clock: ManualClock
) -> None:
    stage = simulator.stages["binance"]
    line = await dial(simulator.addresses()["binance"]["sockets"]["market"] + "/ws")
    (mine,) = stage.lines
    opened_ns = clock.now_ns()
    await clock.advance(21)
    assert mine.pinged_ns == opened_ns + 20 * NS
    await (await line.ping())  # its answer to the server's ping has gone before ours
    assert mine.ponged_ns >= mine.pinged_ns
    # As if the next ping had never been answered.
    mine.pinged_ns, mine.ponged_ns = clock.now_ns(), clock.now_ns() - NS
    await clock.advance(61)
    with pytest.raises(ConnectionClosed):
        await line.recv()


async def test_after_a_day_the_line_is_closed(play: Play, dial: Dial, clock: ManualClock) -> None:
    simulator = await play("binance_futures", pump_s=600.0)
    line = await dial(simulator.addresses()["binance_futures"]["sockets"]["market"] + "/ws")
    for _ in range(143):
        await clock.advance(600)
        await (await line.ping())  # time for its answers to the server's pings
    assert simulator.stages["binance_futures"].lines
    await clock.advance(1_200)
    with pytest.raises(ConnectionClosed) as closed:
        await line.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


async def test_depth_updates_join_a_snapshot_and_lead_to_the_next_one(
    simulator: Simulator, dial: Dial, drain: Drain, get: Get, clock: ManualClock
) -> None:
    address = simulator.addresses()["binance_futures"]
    line = await dial(address["sockets"]["public"] + "/ws/btcusdt@depth@100ms")
    await clock.advance(1)
    first = (await get(address["rest"] + "/fapi/v1/depth", symbol="BTCUSDT", limit=1_000)).json()
    await clock.advance(3)
    last = (await get(address["rest"] + "/fapi/v1/depth", symbol="BTCUSDT", limit=1_000)).json()
    book = {"b": dict(first["bids"]), "a": dict(first["asks"])}
    at = first["lastUpdateId"]
    for frame in await drain(line):
        update = msgspec.json.decode(frame)
        if update["u"] <= first["lastUpdateId"]:
            continue
        assert update["pu"] == at
        at = update["u"]
        for side in ("b", "a"):
            book[side] |= dict(update[side])
    left = {side: {price: size for price, size in rows.items() if size != "0"} for side, rows in book.items()}
    assert at in (last["lastUpdateId"], last["lastUpdateId"] - 1)
    assert at == last["lastUpdateId"] - 1 or left == {"b": dict(last["bids"]), "a": dict(last["asks"])}


async def test_liquidations_come_at_most_one_a_second_and_are_true(
    simulator: Simulator, dial: Dial, drain: Drain, clock: ManualClock
) -> None:
    line = await dial(simulator.addresses()["binance_futures"]["sockets"]["market"] + "/ws/!forceOrder@arr")
    start_ns = clock.now_ns()
    await clock.advance(120)
    seen = [msgspec.json.decode(frame) for frame in await drain(line)]
    assert seen
    assert len({(said["o"]["s"], said["E"] // 1_000) for said in seen}) == len(seen)
    for said in seen:
        order = said["o"]
        name = f"binance_futures:{order['s']}"
        truth = simulator.world.liquidations(name, start_ns - NS, clock.now_ns())
        speller = simulator.world.speller(name)
        assert (order["T"], order["ap"], order["z"], order["S"]) in {
            (row.ns // MS, speller.price(row.ticks), speller.size(row.lots), "SELL" if row.sell else "BUY")
            for row in truth
        }
        assert (Decimal(order["p"]) < Decimal(order["ap"])) == (order["S"] == "SELL")
