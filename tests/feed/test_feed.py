"""The front door: listings, polls, states, and a run over real sockets."""

import asyncio
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection, serve

from openoutcry.bus import Bus
from openoutcry.clock import NS, SystemClock
from openoutcry.errors import LimitExceeded, Unavailable, UnknownVenue, Unsupported
from openoutcry.events import Gap, Mended, OpenInterest, PredictedFunding, Trade
from openoutcry.feed import desk as desks
from openoutcry.feed.desk import Access
from openoutcry.feed.feed import Feed as TheFeed
from openoutcry.feed.polls import PollTiming
from openoutcry.market.outside import Outside
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Response, SocketClient, TransportError
from openoutcry.venues import VENUES
from openoutcry.venues.venue import Ask, Feed, Query


def test_the_feed_is_what_the_market_calls_outside(make_rig: Any) -> None:
    feed: TheFeed = make_rig().feed
    outside: Outside = feed
    assert set(outside.venues()) == {"toy"}
    assert outside.intervals_s("toy") == {60}
    assert Feed.TRADES in outside.feeds("toy")
    for ask in (outside.feeds, outside.queries, outside.intervals_s, outside.instruments):
        with pytest.raises(UnknownVenue):
            ask("nowhere")
    assert not outside.followed("nowhere:AAA", Feed.TRADES)


async def test_a_listing_is_read_once_however_many_ask(make_rig: Any) -> None:
    rig = make_rig()
    assert rig.feed.instruments("toy") == {}
    found = await asyncio.gather(*(rig.feed.listing("toy") for _ in range(20)))
    assert all(set(listing) == {"AAA", "BBB"} for listing in found)
    assert len(rig.world.asked) == 1
    await rig.feed.listing("toy")
    assert len(rig.world.asked) == 1
    assert rig.venue.learned[-1] == {"AAA", "BBB"}


async def test_a_listing_that_cannot_be_read_says_so_and_the_old_one_stays(rig: Any) -> None:
    rig.world.script_for["/instruments"] = lambda _said: Response(200, {}, b'{"listed": []}')
    await rig.run(3_700)
    assert set(rig.feed.instruments("toy")) == {"AAA", "BBB"}


async def test_without_a_listing_the_question_for_it_is_refused(make_rig: Any) -> None:
    rig = make_rig()
    rig.world.scripted.extend([Response(404, {}, b"")])
    with pytest.raises(Unavailable):
        await rig.feed.listing("toy")


async def test_changes_of_a_listing_are_counted_and_taught(make_rig: Any) -> None:
    rig = make_rig(listing_refresh_s=60.0)
    rig.world.listed = [("AAA", None), ("BBB", "1"), ("CCC", None)]
    await rig.feed.start()
    await rig.run(10)
    rig.world.listed = [("AAA", None), ("BBB", "10"), ("DDD", None)]
    await rig.run(60)
    for change in ("listed", "delisted", "contract_size"):
        assert rig.count("catalog_changes_total", venue="toy", change=change) == 1, change
    assert rig.venue.learned[-1] == {"AAA", "BBB", "DDD"}


async def test_a_followed_instrument_is_known_before_the_listing_is_and_after_it_was_delisted(make_rig: Any) -> None:
    rig = make_rig(listing_refresh_s=60.0)
    release = rig.follow("OLD")
    assert rig.venue.learned[-1] == {"OLD"}
    await rig.feed.start()
    await rig.run(1)
    assert rig.venue.learned[-1] == {"AAA", "BBB", "OLD"}
    release()
    await rig.run(60)
    assert rig.venue.learned[-1] == {"AAA", "BBB"}


async def test_what_is_not_streamed_is_asked_for_in_turn_at_the_settings_pace(rig: Any) -> None:
    releases = [rig.follow(s, Feed.OPEN_INTEREST) for s in ("AAA", "BBB")]
    releases.append(rig.follow("AAA", Feed.OPEN_INTEREST))
    assert not rig.feed.followed("toy:AAA", Feed.OPEN_INTEREST)
    await rig.run(100)
    asked = [said["symbol"] for _, path, said in rig.world.asked if path == "/open_interest"]
    assert 9 <= asked.count("AAA") <= 11
    assert abs(asked.count("AAA") - asked.count("BBB")) <= 1
    assert len(rig.of(OpenInterest)) == asked.count("AAA")
    assert rig.feed.followed("toy:AAA", Feed.OPEN_INTEREST)
    assert rig.world.sockets == []
    for release in releases:
        release()
    before = len(rig.world.asked)
    await rig.run(40)
    assert [path for _, path, _ in rig.world.asked[before:] if path == "/open_interest"] == []
    assert not rig.feed.followed("toy:AAA", Feed.OPEN_INTEREST)


async def test_a_poll_that_fails_does_not_stop_the_others(rig: Any) -> None:
    rig.world.script_for["/open_interest"] = lambda said: (
        Response(200, {}, b"?") if said["symbol"] == "AAA" else Response(200, {}, b'{"interest": "7"}')
    )
    rig.follow("AAA", Feed.OPEN_INTEREST)
    rig.follow("BBB", Feed.OPEN_INTEREST)
    await rig.run(60)
    assert rig.of(OpenInterest) == []
    assert len(rig.of(OpenInterest, "BBB")) >= 5
    assert not rig.feed.followed("toy:AAA", Feed.OPEN_INTEREST)


async def test_predicted_funding_comes_along_with_funding(rig: Any) -> None:
    release = rig.follow("AAA", Feed.FUNDING)
    await rig.run(130)
    assert len(rig.of(PredictedFunding, "None")) in {2, 3}
    release()


async def test_losing_a_stream_of_many_instruments_leaves_those_of_another_whole(
    make_rig: Any, make_venue: Any
) -> None:
    """All options on one coin come in one stream; a connection carries one here, so that one can be cut alone."""
    venue = make_venue(streams_per_connection=1)
    venue.bundles = True
    rig = make_rig(venue)
    rig.world.listed = [("A1", None), ("A2", None), ("A3", None), ("B1", None)]
    await rig.feed.start()
    releases = {symbol: rig.follow(symbol) for symbol in ("A1", "A2", "B1")}
    await rig.run(5)
    assert sorted(name for socket in rig.world.live for name in socket.names) == ["trades@A*", "trades@B*"]
    for symbol in ("A1", "A2", "A3", "B1"):
        rig.world.trade(symbol)
    await rig.run(1)
    assert [rig.ids(symbol) for symbol in ("A1", "A2", "A3", "B1")] == [[1], [1], [], [1]]
    (carrier,) = (socket for socket in rig.world.live if "trades@A*" in socket.names)
    carrier.cut()
    await rig.run()
    reasons = {symbol: [gap.reason for gap in rig.of(Gap, symbol)] for symbol in ("A1", "A2", "A3", "B1")}
    assert reasons == {"A1": ["start", "cut"], "A2": ["start", "cut"], "A3": [], "B1": ["start"]}
    followed = {symbol: rig.feed.followed(f"toy:{symbol}", Feed.TRADES) for symbol in ("A1", "A2", "B1")}
    assert followed == {"A1": False, "A2": False, "B1": True}
    for symbol in ("A1", "A2", "B1"):
        rig.world.trade(symbol)  # nobody carries those of A
    await rig.run(30)
    assert [rig.ids(symbol) for symbol in ("A1", "A2", "B1")] == [[1, 2]] * 3
    assert {gap.gap.reason for symbol in ("A1", "A2") for gap in rig.of(Mended, symbol)} == {"start", "cut"}
    assert len(rig.of(Mended, "B1")) == 1
    releases["A1"]()
    await rig.run(5)
    rig.world.trade("A1")
    rig.world.trade("A2")
    await rig.run(1)
    assert (rig.ids("A1"), rig.ids("A2")) == ([1, 2], [1, 2, 3])


async def test_what_no_stream_tells_is_asked_for_in_turn_while_somebody_wants_it(rig: Any) -> None:
    releases = [rig.feed.follow_asked("toy", Query.OPTION_INTEREST, coin) for coin in ("BTC", "ETH", "BTC")]
    await rig.run(590)
    asked = [(at_ns, said["symbol"]) for at_ns, path, said in rig.world.asked if path == "/option_interest"]
    coins = [coin for _, coin in asked]
    assert coins == ["BTC", "ETH"] * 10
    assert {round((b - a) / NS) for (a, _), (b, _) in itertools.pairwise(asked)} == {30}
    assert len(rig.of(OpenInterest, "BTC")) == coins.count("BTC")
    releases[0]()
    releases[0]()  # letting go twice is letting go once
    await rig.run(120)
    again = [said["symbol"] for _, path, said in rig.world.asked[len(asked) :] if path == "/option_interest"]
    assert {"BTC", "ETH"} == set(again)
    for release in releases:
        release()
    await rig.run(60)
    before = len(rig.world.asked)
    await rig.run(200)
    assert [path for _, path, _ in rig.world.asked[before:] if path == "/option_interest"] == []


async def test_a_venue_that_cannot_be_asked_says_so(make_rig: Any, make_venue: Any) -> None:
    venue = make_venue()
    venue.queries -= {Query.OPTION_INTEREST}
    rig = make_rig(venue)
    with pytest.raises(Unsupported, match="toy cannot be asked for option interest"):
        rig.feed.follow_asked("toy", Query.OPTION_INTEREST, "BTC")
    with pytest.raises(UnknownVenue):
        rig.feed.follow_asked("nowhere", Query.OPTION_INTEREST, "BTC")
    # Candles are asked for, but not in turn.
    with pytest.raises(Unsupported):
        rig.feed.follow_asked("toy", Query.CANDLES, "BTC")


async def test_a_question_that_fails_again_and_again_is_told_once_a_minute(make_rig: Any) -> None:
    rig = make_rig(polls=PollTiming(option_interest_s=4.0))
    await rig.feed.start()
    rig.world.script_for["/option_interest"] = lambda said: (
        Response(200, {}, b"?") if said["symbol"] == "BTC" else Response(200, {}, b'{"interest": "7"}')
    )
    rig.feed.follow_asked("toy", Query.OPTION_INTEREST, "BTC")
    rig.feed.follow_asked("toy", Query.OPTION_INTEREST, "ETH")
    with capture_logs() as told:
        await rig.run(150)
    failed = [line for line in told if line["event"] == "poll failed"]
    assert [(line["query"], line["symbol"]) for line in failed] == [("option_interest", "BTC")] * 3
    assert "cannot be read" in failed[0]["reason"]
    asked = [said["symbol"] for _, path, said in rig.world.asked if path == "/option_interest"]
    assert asked.count("BTC") >= 30
    assert len(rig.of(OpenInterest, "ETH")) == asked.count("ETH") >= 30
    assert rig.of(OpenInterest, "BTC") == []


async def test_no_more_instruments_are_followed_than_the_limit(make_rig: Any, make_venue: Any) -> None:
    rig = make_rig(make_venue(streams_per_connection=10_000))
    for i in range(desks.INSTRUMENTS_FOLLOWED_MAX):
        rig.follow(f"S{i}", Feed.QUOTES)
    rig.follow("S0", Feed.QUOTES)
    with pytest.raises(LimitExceeded):
        rig.follow("ONE_MORE", Feed.QUOTES)


async def test_one_venue_that_is_down_does_not_trouble_another(make_rig: Any, make_venue: Any) -> None:
    rig = make_rig(make_venue("toy"), make_venue("other"))
    rig.world.scripted.extend([TransportError("ConnectError")] * 3)
    ask = Ask(query=Query.OPEN_INTEREST, symbol="AAA")

    async def first(venue: str) -> Any:
        return [page async for page in rig.feed.ask(venue, ask)]

    task = asyncio.create_task(first("toy"))
    await rig.run(10)
    with pytest.raises(Unavailable, match="toy"):
        await task
    assert len(await first("other")) == 1
    states = rig.feed.venues()
    assert not states["toy"].alive
    assert states["other"].alive


async def test_stop_ends_everything_in_time_even_while_sockets_do_not_close(make_rig: Any) -> None:
    rig = make_rig()
    await rig.feed.start()
    rig.follow("AAA")
    rig.follow("AAA", Feed.OPEN_INTEREST)
    await rig.run(2)

    async def never() -> None:
        await asyncio.sleep(3_600)

    rig.world.live[0].close = never
    began = asyncio.get_running_loop().time()
    await rig.feed.stop()
    assert asyncio.get_running_loop().time() - began < 2.0


async def test_over_real_sockets_a_cut_is_survived_and_every_trade_comes_once(make_rig: Any, toy: Any) -> None:
    rig = make_rig()  # for its world: the truth, and REST
    world = rig.world
    world.clock = SystemClock()
    heard: list[Trade] = []
    enough = asyncio.Event()
    connections: list[ServerConnection] = []

    async def serve_one(connection: ServerConnection) -> None:
        connections.append(connection)
        async for said in connection:
            names = json.loads(said).get("subscribe", [])
            await connection.send(json.dumps({"ok": names}))
            await connection.send("not JSON at all")
            for _ in range(50):
                world.trade("AAA", heard=False)
                await connection.send(json.dumps({"trade": ["AAA", *world.trades["AAA"][-1]]}))
            if len(connections) == 1:
                world.trade("AAA", 30, heard=False)  # nobody hears these
                connection.transport.abort()

    def take(trade: Trade) -> None:
        heard.append(trade)
        if len(heard) == 130:
            enough.set()

    bus, telemetry = Bus(), Telemetry()
    bus.listen(Trade, take)
    async with serve(serve_one, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        feed = TheFeed(
            {"toy": Access(toy, toy.rest, {"public": f"ws://127.0.0.1:{port}"})},
            bus=bus,
            clock=SystemClock(),
            http=world,
            sockets=SocketClient(),
            telemetry=telemetry,
            chance=random.Random(3),
        )
        await feed.start()
        release: Callable[[], None] = feed.follow(rig.instrument("AAA"), [Feed.TRADES])
        async with asyncio.timeout(15):
            await enough.wait()
        release()
        await feed.stop()
    assert sorted(int(t.id) for t in heard) == list(range(1, 131))
    assert telemetry.registry.get_sample_value("openoutcry_feed_unreadable_total", {"venue": "toy"}) == 2


async def test_rows_that_cannot_be_read_are_left_out_and_counted() -> None:
    ticker = {
        "openPrice": "1", "highPrice": "2", "lowPrice": "1", "lastPrice": "2", "volume": "3", "quoteVolume": "4",
        "openTime": 1_760_000_000_000, "closeTime": 1_760_086_400_000, "firstId": 1, "lastId": 2, "count": 2,
    }  # fmt: skip

    class OneBadRow:
        async def send(self, method: str, url: str, **_: Any) -> Response:
            del method, url
            rows = [ticker | {"symbol": "BTCUSDT"}, ticker | {"symbol": "BTCUSDT", "lastPrice": "NaN"}]
            return Response(200, {}, json.dumps(rows).encode())

    telemetry, venue = Telemetry(), VENUES["binance_futures"]()
    instrument = venue.assume("BTCUSDT")
    assert instrument is not None
    venue.learn([instrument])
    feed = TheFeed(
        {venue.name: Access(venue, venue.rest, venue.sockets)},
        bus=Bus(),
        clock=SystemClock(),
        http=OneBadRow(),
        sockets=SocketClient(),
        telemetry=telemetry,
        chance=random.Random(3),
    )
    pages = [page async for page in feed.ask(venue.name, Ask(query=Query.TICKERS))]
    await feed.stop()
    assert [len(page.events) for page in pages] == [1]
    labels = {"venue": venue.name, "why": "unreadable_row"}
    assert telemetry.registry.get_sample_value("openoutcry_feed_skipped_total", labels) == 1
