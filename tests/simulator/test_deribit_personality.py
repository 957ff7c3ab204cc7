"""The adapter against the personality over real sockets, with the world's truth at hand."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from openoutcry.clock import NS
from openoutcry.errors import RateLimited, Unavailable, UnknownInstrument, Unreadable
from openoutcry.events import (
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
from openoutcry.instrument import Kind
from openoutcry.simulator.deribit import RECENT_DAYS
from openoutcry.transport import TransportError
from openoutcry.venues.deribit import Deribit
from openoutcry.venues.venue import (
    Alive,
    Ask,
    Feed,
    Query,
    Refused,
    Reply,
    Stream,
    Subscribed,
)
from tests.simulator.client import (
    DAY_NS,
    HOUR_NS,
    MINUTE_NS,
    START_NS,
    Fence,
    Said,
    SameBars,
    VenueClient,
    playing,
    told_of,
    truth_of,
)

INVERSE, LINEAR, DATED, CALL = "BTC-PERPETUAL", "SOL_USDC-PERPETUAL", "BTC-25DEC26", "BTC-25DEC26-64000-C"
SYMBOLS = [INVERSE, LINEAR, DATED, CALL]
FENCE = Fence(b'{"jsonrpc":"2.0","id":"fence","method":"public/get_time","params":{}}', b'"fence"')
Client = VenueClient[Deribit]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with playing(Client(Deribit(), FENCE)) as client:
        yield client


def flat(candles: Sequence[Candle]) -> list[int]:
    """Those that stand where the one before closed, without a trade."""
    return [
        candle.open_ns
        for before, candle in pairwise(candles)
        if not candle.volume and before.close == candle.open == candle.high == candle.low == candle.close
    ]


def call(number: int, method: str, **params: Any) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


# Streams


@pytest.mark.parametrize(("symbol", "minutes"), [(INVERSE, 3), (LINEAR, 4), (DATED, 20), (CALL, 45)])
async def test_streamed_trades_are_the_trades_of_the_world_without_a_hole(
    client: Client, symbol: str, minutes: int
) -> None:
    name = f"deribit:{symbol}"
    socket, frames = await client.subscribe(Feed.TRADES, symbol=symbol)
    told = await client.hear(socket, frames)
    assert told == [Subscribed((f"trades.{symbol}.100ms",))]
    end_ns = START_NS + minutes * MINUTE_NS
    while client.clock.now_ns() < end_ns + NS:
        await client.clock.advance(20.0)
        told += await client.hear(socket, frames)
    told = [e for e in told if isinstance(e, Trade | Liquidation) and e.event_ns < end_ns]
    made = client.world.trades(name, START_NS, end_ns)
    assert len(made) > 5
    assert told_of(told) == truth_of(client.world, name, made)
    ids = [e.id for e in told if isinstance(e, Trade)]
    assert all(isinstance(id_, int) for id_ in ids)
    assert ids == list(range(made.first_id[0], made.first_id[0] + len(ids)))
    forced = Counter((e.event_ns, e.side) for e in told if isinstance(e, Liquidation))
    assert forced == Counter(
        (row.ns, Side.SELL if row.sell else Side.BUY)
        for row in client.world.liquidations(name, START_NS, end_ns).split()
    )


async def test_some_trades_are_liquidations_and_some_are_block_trades(client: Client) -> None:
    answer = await client.get(
        "/api/v2/public/get_last_trades_by_instrument",
        [("instrument_name", INVERSE), ("count", "1000"), ("sorting", "desc")],
    )
    rows = msgspec.json.decode(answer.body)["result"]["trades"]
    assert len(rows) == 1_000
    assert all(a["trade_seq"] == b["trade_seq"] + 1 for a, b in pairwise(rows))
    assert {row.get("liquidation") for row in rows} == {None, "T"}
    assert 5 < len([row for row in rows if "block_trade_id" in row]) < 30


@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_a_ticker_tells_what_the_world_knows(client: Client, symbol: str) -> None:
    name, world = f"deribit:{symbol}", client.world
    told = await client.hear(*await client.subscribe(Feed.QUOTES, symbol=symbol))
    _, quote, interest, mark, *rates = told
    s, truth, price = world.speller(name), world.quote(name, START_NS), world.mark(name, START_NS)
    assert isinstance(quote, Quote)
    assert (quote.bid_price, quote.ask_price) == (s.price_decimal(truth.bid_ticks), s.price_decimal(truth.ask_ticks))
    count, index = s.size_decimal(world.open_interest(name, START_NS)), world.index(name, START_NS)
    assert isinstance(interest, OpenInterest)
    if symbol in {INVERSE, DATED}:
        coins = (count / price).quantize(Decimal("1e-8"), ROUND_HALF_EVEN)
        assert (interest.size, interest.value, interest.price) == (coins, count, None)
    elif symbol == LINEAR:
        assert (interest.size, interest.value, interest.price) == (count, count * price, None)
    else:
        below = world.index(f"deribit:{INVERSE}", START_NS)
        assert (interest.size, interest.value, interest.price) == (count, count * below, below)
    assert mark == MarkPrice(name, START_NS, START_NS, price, None if symbol == CALL else index)
    if symbol not in {INVERSE, LINEAR}:
        assert rates == []
        return
    (rate,) = rates
    assert isinstance(rate, FundingRate)
    running = world.running_funding(name, START_NS)
    assert (rate.rate, rate.funding_ns, rate.interval_s) == (running.rate, running.funding_ns, 3_600)


@pytest.mark.parametrize(("symbol", "minutes"), [(INVERSE, 5), (LINEAR, 5), (DATED, 60)])
async def test_streamed_candles_are_those_of_the_streamed_trades_and_flat_without_one(
    client: Client, symbol: str, minutes: int, same_bars: SameBars
) -> None:
    name = f"deribit:{symbol}"
    socket, frames = await client.subscribe(Feed.CANDLES, symbol=symbol)
    told: Said = []
    while client.clock.now_ns() < START_NS + minutes * MINUTE_NS:
        await client.clock.advance(20.0)
        told += await client.hear(socket, frames)
    closed = [e for e in told if isinstance(e, Candle) and e.closed]
    opened_ns = START_NS - START_NS % MINUTE_NS
    end_ns = opened_ns + len(closed) * MINUTE_NS
    assert [e.open_ns for e in closed] == list(range(opened_ns, end_ns, MINUTE_NS))
    # The last is closed when the next one opens, with its first trade.
    assert len(closed) >= minutes - 3
    bars = client.world.candles(name, 60, opened_ns, end_ns)
    traded = {bar.open_ns for bar in bars}
    same_bars(client.world, name, [e for e in closed if e.open_ns in traded], bars)
    assert flat(closed) == [e.open_ns for e in closed[1:] if e.open_ns not in traded]
    assert (symbol == DATED) == bool(flat(closed))


async def test_a_streamed_book_holds_together_and_is_the_worlds(client: Client) -> None:
    name = f"deribit:{INVERSE}"
    socket, frames = await client.subscribe(Feed.DEPTH, symbol=INVERSE)
    depth, outcomes = Depth(streamed=True), Counter[Outcome]()
    for _ in range(5):
        await client.clock.advance(1.0)
        for event in await client.hear(socket, frames):
            if isinstance(event, DepthSnapshot | DepthDelta):
                outcomes[depth.take(event)] += 1
    assert outcomes[Outcome.BROKEN] == outcomes[Outcome.WAITING] == 0
    assert outcomes[Outcome.APPLIED] > 20
    s = client.world.speller(name)
    for levels, side in zip(client.world.book(name, depth.event_ns, 50), (depth.bids(50), depth.asks(50)), strict=True):
        assert list(side) == [(s.price_decimal(ticks), s.size_decimal(lots)) for ticks, lots in levels]


# Talking


async def test_who_answers_the_test_requests_stays_and_who_does_not_is_cut(client: Client) -> None:
    heartbeat = client.venue.limits.heartbeat
    assert heartbeat is not None
    good, good_frames = await client.open()
    bad, bad_frames = await client.open()
    for socket, frames in ((good, good_frames), (bad, bad_frames)):
        await socket.send(heartbeat.frame)
        assert await client.hear(socket, frames) == [Alive()]
    for _ in range(4):
        await client.clock.advance(31.0)
        said = await client.hear(good, good_frames)
        (reply,) = [event for event in said if isinstance(event, Reply)]
        await good.send(reply.frame)
        assert await client.hear(good, good_frames) == [Alive()]
    # It was asked once, and then cut.
    asked = [await anext(bad_frames), await anext(bad_frames)]
    assert [b"test_request" in frame for frame in asked] == [False, True]
    with pytest.raises(TransportError):
        await anext(bad_frames)


async def test_who_never_asked_for_heartbeats_is_left_alone(client: Client) -> None:
    socket, frames = await client.open()
    await client.clock.advance(600.0)
    assert await client.hear(socket, frames) == []


async def test_channels_it_does_not_know_are_left_out_of_the_answer(client: Client) -> None:
    good = client.venue.streams(Feed.TRADES, [INVERSE])[0]
    bad = client.venue.streams(Feed.TRADES, ["NOPE-PERPETUAL"])[0]
    client.faults.set("deribit", refuse_subscriptions=frozenset({f"ticker.{LINEAR}.100ms"}))
    refused = client.venue.streams(Feed.QUOTES, [LINEAR])[0]
    socket, frames = await client.open()
    for frame in client.venue.subscribe([good, bad, refused]):
        await socket.send(frame)
    assert await client.hear(socket, frames) == [
        Subscribed((good.name,)),
        Refused(bad.name, "not among the channels taken"),
        Refused(refused.name, "not among the channels taken"),
    ]
    for frame in client.venue.subscribe([good], undo=True):
        await socket.send(frame)
    assert await client.hear(socket, frames) == [Alive()]
    await client.clock.advance(10.0)
    assert await client.hear(socket, frames) == []


async def test_a_raw_channel_needs_a_login_and_costs_the_whole_request(client: Client) -> None:
    raw = Stream(f"trades.{INVERSE}.raw", "ws", INVERSE, frozenset({Feed.TRADES}), None)
    socket, frames = await client.open()
    for frame in client.venue.subscribe([raw]):
        await socket.send(frame)
    (refused,) = await client.hear(socket, frames)
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("13778")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"rubbish", -32700),
        (b"[1]", -32600),
        (call(5, "public/nope"), -32601),
        (call(5, "public/subscribe", channels="x"), -32602),
        (call(5, "public/set_heartbeat", interval=1), -32602),
    ],
)
async def test_a_call_that_cannot_be_served_is_refused_in_the_venues_words(
    client: Client, text: bytes, code: int
) -> None:
    socket, frames = await client.open()
    await socket.send(text)
    said = msgspec.json.decode(await anext(frames))
    assert said["error"]["code"] == code
    assert said.get("id") == (5 if code not in {-32700, -32600} else None)


# Questions


async def test_the_listing_is_the_worlds(client: Client) -> None:
    pages = await client.pages(Ask(query=Query.INSTRUMENTS))
    assert [page.unread for page in pages] == [0, 0]
    listed = {i.name: i for i in client.venue._listing.values()}
    assert listed == {a.name: a.instrument for a in client.world.listings("deribit")}
    kinds = Counter(i.kind for i in listed.values())
    assert kinds == {Kind.PERPETUAL: 3, Kind.FUTURE: 1, Kind.OPTION: 24}
    assert Counter(i.coin for i in listed.values() if i.kind is Kind.OPTION) == {"BTC": 12, "ETH": 12}


@pytest.mark.parametrize("symbol", SYMBOLS)
@pytest.mark.parametrize("newest", [False, True])
async def test_trades_of_the_past_page_by_page(client: Client, symbol: str, newest: bool) -> None:
    name = f"deribit:{symbol}"
    start_ns, end_ns = START_NS - 8 * HOUR_NS + 5, START_NS - 17 * MINUTE_NS
    ask = Ask(query=Query.TRADES, symbol=symbol, start_ns=start_ns, end_ns=end_ns, newest=newest)
    told = told_of(await client.ask(ask))
    made = client.world.trades(name, start_ns, end_ns)
    assert len(made) > (10 if symbol == CALL else 500)
    assert told == truth_of(client.world, name, made)


async def test_trades_by_number_and_of_long_ago(client: Client) -> None:
    name = f"deribit:{INVERSE}"
    made = client.world.last_trades(name, 2_300, START_NS)
    after = int(made.first_id[299])
    told = told_of(await client.ask(Ask(query=Query.TRADES, symbol=INVERSE, from_id=after)))
    assert told == truth_of(client.world, name, made[300:])
    start_ns = START_NS - (RECENT_DAYS + 3) * DAY_NS
    ask = Ask(query=Query.TRADES, symbol=INVERSE, start_ns=start_ns, end_ns=start_ns + HOUR_NS)
    told = told_of(await client.ask(ask))
    assert told == truth_of(client.world, name, client.world.trades(name, start_ns, start_ns + HOUR_NS))
    # Who does not ask for old ones gets none.
    request = client.venue.request(ask)
    query = [(key, value) for key, value in request.query if key != "include_old"]
    young = await client.get(request.path, query)
    assert msgspec.json.decode(young.body)["result"] == {"trades": [], "has_more": False}


@pytest.mark.parametrize("symbol", [INVERSE, LINEAR, DATED])
@pytest.mark.parametrize("interval_s", [60, 3_600])
async def test_candles_of_the_past(client: Client, symbol: str, interval_s: int, same_bars: SameBars) -> None:
    name, step_ns = f"deribit:{symbol}", interval_s * NS
    end_ns = START_NS - START_NS % step_ns
    start_ns = end_ns - (1_500 if interval_s == 60 else 40) * step_ns
    ask = Ask(query=Query.CANDLES, symbol=symbol, interval_s=interval_s, start_ns=start_ns, end_ns=end_ns)
    candles = [e for e in await client.ask(ask) if isinstance(e, Candle)]
    assert [e.open_ns for e in candles] == list(range(start_ns, end_ns, step_ns))
    assert all(e.closed for e in candles)
    bars = client.world.candles(name, interval_s, start_ns, end_ns)
    traded = {bar.open_ns for bar in bars}
    same_bars(client.world, name, [e for e in candles if e.open_ns in traded], bars)
    assert flat(candles) == [e.open_ns for e in candles[1:] if e.open_ns not in traded]
    assert (symbol == DATED and interval_s == 60) == bool(flat(candles))
    newest = Ask(query=Query.CANDLES, symbol=symbol, interval_s=interval_s, newest=True, limit=3)
    told = [e for e in await client.ask(newest) if isinstance(e, Candle)]
    assert [e.open_ns for e in told] == [end_ns - 2 * step_ns, end_ns - step_ns, end_ns]
    assert [e.closed for e in told] == [True, True, False]


async def test_rates_of_the_past(client: Client) -> None:
    name, start_ns = f"deribit:{INVERSE}", START_NS - 31 * DAY_NS
    ask = Ask(query=Query.FUNDING_HISTORY, symbol=INVERSE, start_ns=start_ns, end_ns=START_NS)
    told = [e for e in await client.ask(ask) if isinstance(e, FundingRate)]
    paid = client.world.funding(name, start_ns, START_NS)
    assert len(paid) == 31 * 24
    assert [(e.rate, e.funding_ns) for e in told] == [(s.rate, s.funding_ns) for s in paid]
    newest = Ask(query=Query.FUNDING_HISTORY, symbol=INVERSE, newest=True, limit=5)
    assert [e.funding_ns for e in await client.ask(newest) if isinstance(e, FundingRate)] == [
        s.funding_ns for s in paid[-5:]
    ]


async def test_open_interest_of_all_options_on_a_coin(client: Client) -> None:
    told = await client.ask(Ask(query=Query.OPTION_INTEREST, symbol="ETH"))
    assert len(told) == 12
    below = client.world.index("deribit:ETH-PERPETUAL", START_NS)
    for event in told:
        assert isinstance(event, OpenInterest)
        count = client.world.open_interest(event.instrument, START_NS)
        assert event.size == client.world.speller(event.instrument).size_decimal(count)
        assert (event.value, event.price) == (event.size * below, below)
        assert event.size > 0


async def test_summaries_of_a_day(client: Client) -> None:
    told = await client.ask(Ask(query=Query.TICKERS))
    assert {e.instrument for e in told if isinstance(e, Ticker)} == {
        "deribit:BTC-PERPETUAL",
        "deribit:ETH-PERPETUAL",
        f"deribit:{DATED}",
        f"deribit:{LINEAR}",
    }
    for event in told:
        assert isinstance(event, Ticker)
        s, bar = (
            client.world.speller(event.instrument),
            client.world.window(event.instrument, START_NS - DAY_NS, START_NS),
        )
        assert bar is not None
        assert (event.high, event.low, event.close) == tuple(map(s.price_decimal, (bar.high, bar.low, bar.close)))
        # Four digits of a per cent.
        first = s.price_decimal(bar.open)
        assert abs(event.open - first) <= first / 1_000_000 + s.instrument.tick_size
        count = s.size_decimal(bar.lots)
        inverse = s.instrument.inverse
        assert (event.quote_volume if inverse else event.volume) == count


QUESTIONS: Sequence[Ask] = [
    Ask(query=Query.TRADES, symbol="NOPE-PERPETUAL", newest=True, limit=5),
    Ask(query=Query.CANDLES, symbol="NOPE-PERPETUAL", interval_s=60, start_ns=START_NS - HOUR_NS, end_ns=START_NS),
    Ask(query=Query.FUNDING_HISTORY, symbol="NOPE-PERPETUAL", start_ns=START_NS - HOUR_NS, end_ns=START_NS),
    Ask(query=Query.OPEN_INTEREST, symbol="NOPE-PERPETUAL"),
    Ask(query=Query.TICKERS, symbol="NOPE-PERPETUAL"),
]


async def test_errors_are_said_in_the_venues_words_and_read_in_ours(client: Client) -> None:
    for ask in QUESTIONS:
        with pytest.raises(UnknownInstrument):
            await client.pages(ask)
    client.faults.set("deribit", delisted={INVERSE})
    with pytest.raises(UnknownInstrument):
        await client.pages(msgspec.structs.replace(QUESTIONS[0], symbol=INVERSE))
    for fault, refusal in (({"storm": 429}, RateLimited), ({"storm": 503}, Unavailable), ({"html": True}, Unreadable)):
        client.faults.clear("deribit")
        client.faults.set("deribit", **fault)
        with pytest.raises(refusal):
            await client.pages(Ask(query=Query.TIME))
    client.faults.clear("deribit")
    assert (await client.get("/api/v2/public/nope")).status == 404


async def test_who_asks_more_than_the_credits_allow_is_told_so(client: Client) -> None:
    await client.clock.advance(5.0)
    answers = [await client.send(Ask(query=Query.TIME)) for _ in range(101)]
    assert [answer.status for answer in answers] == [200] * 100 + [429]
    with pytest.raises(RateLimited):
        client.venue.page(Ask(query=Query.TIME), answers[-1])
    await client.clock.advance(5.0)
    assert (await client.send(Ask(query=Query.TIME))).status == 200
