"""Lykke's streams over gRPC: what comes first, what comes after, what keeps them alive and what ends them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest

from openoutcry.api.lykke import contract, encode
from openoutcry.api.lykke.rpc import services
from openoutcry.api.lykke.streams import (
    EVENTS_WAITING_MAX,
    LEVELS_WAITING_MAX,
    MADE_KEPT_MAX,
    Balances,
    Books,
    Each,
    Newest,
    Once,
)
from openoutcry.api.rpc import RpcServer
from openoutcry.clock import NS
from openoutcry.errors import LimitExceeded
from openoutcry.orders import CancelMode
from openoutcry.trading.gateway import Wanted
from openoutcry.trading.listings import Listings, Pair
from openoutcry.trading.views import BalanceView, BookView, PriceView, PublicTradeView
from tests.api.lykke_rpc_world import LISTINGS, NOW_NS, Client, Floor, floor, stubs, words

NOW_S = NOW_NS // NS
Status = grpc.StatusCode


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Floor]:
    async with floor(tmp_path) as made:
        yield made


def public(name: str, **fields: Any) -> Any:
    return getattr(stubs().public, name)(**fields)


def private(name: str, **fields: Any) -> Any:
    return getattr(stubs().private, name)(**fields)


async def heard(stream: Any) -> Any:
    """The next message."""
    async with asyncio.timeout(20):
        told = await stream.read()
    assert told is not grpc.aio.EOF, await stream.code()
    return told


async def ended(stream: Any) -> tuple[grpc.StatusCode, str]:
    """How it ended, whatever was still told."""
    async with asyncio.timeout(20):
        try:
            while await stream.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as e:
            return e.code(), e.details() or ""
        return await stream.code(), await stream.details()


def levels(side: Sequence[Any]) -> list[tuple[str, str]]:
    return [(level.p, level.v) for level in side]


def books(client: Client, *pairs: str, one: str = "") -> Any:
    return client.tell("GetOrderbookUpdates", public("OrderbookUpdatesRequest", assetPairId=one, assetPairIds=pairs))


def every_stream(client: Client) -> dict[str, Any]:
    return {
        "books": books(client),
        "prices": client.tell("GetPriceUpdates", public("PriceUpdatesRequest")),
        "tickers": client.tell("GetTickerUpdates"),
        "public trades": client.tell(
            "GetPublicTradeUpdates", public("PublicTradesUpdatesRequest", assetPairId="BTCUSD")
        ),
        "balances": client.ask("GetBalanceUpdates"),
        "orders": client.ask("GetOrderUpdates"),
        "trades": client.ask("GetTradeUpdates"),
    }


# -- what is told


async def test_a_book_comes_whole_and_then_its_changes(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="100000"), await at.trader("bob", BTC="10")
    await ann.placed("buy", "1", "100.10")
    stream = books(ann, one="BTCUSD")
    told = await heard(stream)
    assert (told.assetPairId, told.timestamp.seconds) == ("BTCUSD", NOW_S)
    assert (levels(told.bids), levels(told.asks)) == ([("100.1", "1")], [])

    id_ = await ann.placed("buy", "0.5", "100.1")
    assert levels((await heard(stream)).bids) == [("100.1", "1.5")]
    await bob.placed("sell", "2", "100.2")
    told = await heard(stream)
    assert (levels(told.bids), levels(told.asks)) == ([], [("100.2", "-2")])
    await bob.market("sell", "1")
    assert levels((await heard(stream)).bids) == [("100.1", "0.5")]
    await at.clock.advance(5)
    await ann.ask("CancelOrder", private("CancelOrderRequest", orderId=id_))
    told = await heard(stream)
    assert (told.timestamp.seconds, levels(told.bids), levels(told.asks)) == (NOW_S + 5, [("100.1", "0")], [])
    await bob.ask("CancelAllOrders", private("CancelOrdersRequest", side=1))
    assert levels((await heard(stream)).asks) == [("100.2", "0")]
    stream.cancel()


async def test_several_books_and_all_of_them(at: Floor) -> None:
    ann = await at.trader("ann", USD="100000")
    two, every = books(ann, "ETHUSD", "BTCUSD", one="ETHUSD"), books(ann)
    assert [(await heard(two)).assetPairId for _ in range(2)] == ["ETHUSD", "BTCUSD"]
    assert [(await heard(every)).assetPairId for _ in range(3)] == ["BTCUSD", "ETHUSD", "ETHBTC"]
    await ann.placed("buy", "1", "7", "ETHUSD")
    await ann.placed("buy", "1", "8")
    for stream in (two, every):
        told = [await heard(stream) for _ in range(2)]
        assert [(each.assetPairId, levels(each.bids)) for each in told] == [
            ("ETHUSD", [("7", "1")]),
            ("BTCUSD", [("8", "1")]),
        ]
    # A pair that is listed later belongs to all of them.
    late = Pair(
        id="LATE", name="LATE", base="ETH", quote="USD", price_accuracy=2, base_accuracy=8, quote_accuracy=2, lots_min=1
    )
    await at.gateway.relist(Listings(LISTINGS.assets, {**LISTINGS.pairs, "LATE": late}))
    await ann.placed("buy", "1", "9", "LATE")
    told = await heard(every)
    assert (told.assetPairId, levels(told.bids)) == ("LATE", [("9", "1")])
    two.cancel()
    every.cancel()


async def test_prices_come_where_the_best_changes(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="100000"), await at.trader("bob", BTC="10")
    stream = ann.tell("GetPriceUpdates", public("PriceUpdatesRequest", assetPairIds=["BTCUSD"]))
    assert words(await heard(stream)) == {"assetPairId": "BTCUSD", "bid": "0", "ask": "0", "timestamp": NOW_S}
    await ann.placed("buy", "1", "100")
    assert (await heard(stream)).bid == "100"
    await ann.placed("buy", "1", "99")
    await bob.placed("sell", "1", "101")
    told = await heard(stream)
    assert (told.bid, told.ask) == ("100", "101")
    stream.cancel()


async def test_tickers_come_first_and_on_trades(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="100000"), await at.trader("bob", BTC="10")
    stream = ann.tell("GetTickerUpdates")
    assert [(await heard(stream)).assetPairId for _ in range(3)] == ["BTCUSD", "ETHUSD", "ETHBTC"]
    await ann.placed("buy", "1", "100")
    await bob.market("sell", "0.25")
    told = await heard(stream)
    assert (told.assetPairId, told.lastPrice, told.volumeBase, told.volumeQuote) == ("BTCUSD", "100", "0.25", "25")
    stream.cancel()


async def test_public_trades_begin_with_the_latest_fifty(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="100000"), await at.trader("bob", BTC="10")
    first = ann.tell("GetPublicTradeUpdates", public("PublicTradesUpdatesRequest", assetPairId="BTCUSD"))
    assert not (await heard(first)).trades
    for number in range(52):
        await ann.placed("buy", "0.01", str(100 + number))
        await bob.market("sell", "0.01")
        assert [each.price for each in (await heard(first)).trades] == [str(100 + number)]
    second = ann.tell("GetPublicTradeUpdates", public("PublicTradesUpdatesRequest", assetPairId="BTCUSD"))
    told = (await heard(second)).trades
    assert [each.price for each in told] == [str(151 - number) for number in range(50)]
    assert (told[0].assetPairId, told[0].volume, told[0].side) == ("BTCUSD", "0.01", "Sell")
    first.cancel()
    second.cancel()


async def test_a_wallet_hears_its_balances_orders_and_trades_and_nobody_elses(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="1000"), await at.trader("bob", BTC="10")
    balances, orders, trades = (ann.ask(f"Get{what}Updates") for what in ("Balance", "Order", "Trade"))
    told = await heard(balances)
    assert [(each.assetId, each.available, each.reserved) for each in told.balances] == [("USD", "1000", "0")]
    await bob.placed("sell", "1", "200")
    await bob.placed("sell", "1", "201")
    id_ = await ann.placed("buy", "2", "200")
    # Taking one and resting with the other is one event.
    told = (await heard(orders)).orders
    assert (told[-1].id, told[-1].status, told[-1].remainingVolume) == (id_, "PartiallyMatched", "1")
    (trade,) = (await heard(trades)).trades
    assert (trade.orderId, trade.role, trade.side, trade.quoteVolume) == (id_, "Taker", 0, "200")
    told = await heard(balances)
    assert [(each.assetId, each.available, each.reserved) for each in told.balances] == [
        ("BTC", "1", "0"),
        ("USD", "800", "200"),
    ]
    await bob.market("sell", "0.5")
    (trade,) = (await heard(trades)).trades
    assert (trade.orderId, trade.role, trade.baseVolume) == (id_, "Maker", "0.5")
    await ann.ask("CancelOrder", private("CancelOrderRequest", orderId=id_))
    assert [(await heard(orders)).orders[-1].status for _ in range(2)] == ["PartiallyMatched", "Cancelled"]
    told = [await heard(balances) for _ in range(2)]
    assert [(b.assetId, b.available, b.reserved) for each in told for b in each.balances] == [
        ("BTC", "1.5", "0"),
        ("USD", "700", "100"),
        ("USD", "700", "0"),
    ]
    for stream in (balances, orders, trades):
        stream.cancel()


async def test_trades_of_one_command_come_together(at: Floor) -> None:
    ann, bob = await at.trader("ann", USD="1000"), await at.trader("bob", BTC="10")
    stream = ann.ask("GetTradeUpdates")
    for price in ("10", "11", "12"):
        await ann.placed("buy", "1", price)
    await bob.market("sell", "3")
    assert [each.price for each in (await heard(stream)).trades] == ["12", "11", "10"]
    stream.cancel()


@pytest.mark.parametrize("asked", [["XXX"], ["BTCUSD", "XXX"]])
async def test_a_stream_of_an_unknown_pair_ends_with_one_clear_status(at: Floor, asked: list[str]) -> None:
    ann = at.stranger()
    streams = (
        books(ann, *asked),
        ann.tell("GetPriceUpdates", public("PriceUpdatesRequest", assetPairIds=asked)),
        ann.tell("GetPublicTradeUpdates", public("PublicTradesUpdatesRequest", assetPairId=asked[-1])),
        ann.tell("GetPublicTradeUpdates", public("PublicTradesUpdatesRequest")),
    )
    for stream in streams:
        assert await ended(stream) == (Status.NOT_FOUND, "Asset pair not found")


# -- a word now and then


async def test_a_quiet_stream_says_something_that_changes_nothing(at: Floor, until: Callable[..., Any]) -> None:
    ann = await at.trader("ann", USD="1000")
    await ann.placed("buy", "1", "10")
    streams = every_stream(ann)
    first = {name: await heard(streams[name]) for name in streams if name not in {"orders", "trades"}}
    for name in ("books", "prices", "tickers"):
        for _ in range(2):
            first[name] = await heard(streams[name])
    await until(lambda: at.streams() == len(streams))
    for beat in (1, 2):
        await at.clock.advance(30)
        told = {name: await heard(stream) for name, stream in streams.items()}
        # A book none of whose levels has changed, as of now; the last one again; and no trade twice.
        assert words(told["books"]) == {"assetPairId": "BTCUSD", "timestamp": NOW_S + 30 * beat}
        for name in ("prices", "tickers", "balances"):
            assert told[name] == first[name], name
        assert first["balances"].balances
        for name in ("public trades", "orders", "trades"):
            assert not told[name].ListFields(), name
    for stream in streams.values():
        stream.cancel()
    await until(lambda: at.streams() == 0)
    assert at.clock.sleepers == 0


async def test_how_often_is_a_setting(tmp_path: Path) -> None:
    async with floor(tmp_path, ping_s=2.5) as at:
        stream = books(at.stranger(), "BTCUSD")
        await heard(stream)
        await at.clock.advance(2.5)
        assert (await heard(stream)).timestamp.nanos == 500_000_000
        stream.cancel()


# -- what ends a stream


async def test_a_revoked_key_ends_its_streams_and_no_others(at: Floor, until: Callable[..., Any]) -> None:
    ann, bob = await at.trader("ann", USD="1000"), await at.trader("bob", USD="1000")
    mine = [ann.ask(f"Get{what}Updates") for what in ("Balance", "Order", "Trade")]
    others = bob.ask("GetBalanceUpdates")
    await heard(others)
    await until(lambda: at.streams() == 4)
    record = next(each for each in await at.keys.list() if each.name == "ann")
    await at.keys.revoke(record.id)
    for stream in mine:
        assert await ended(stream) == (Status.UNAUTHENTICATED, "the key was revoked")
    await until(lambda: at.streams() == 1)
    await bob.placed("buy", "1", "1")
    assert (await heard(others)).balances[0].reserved == "1"
    assert (await ended(ann.ask("GetOrderUpdates")))[0] is Status.UNAUTHENTICATED
    others.cancel()


async def test_a_client_that_goes_leaves_nothing_behind(at: Floor, until: Callable[..., Any]) -> None:
    ann = await at.trader("ann", USD="1000")
    streams = list(every_stream(ann).values())
    await until(lambda: at.streams() == len(streams))
    assert at.telemetry.registry.get_sample_value("openoutcry_exchange_followers") == len(streams)
    await ann.channel.close()
    await until(lambda: at.streams() == 0)
    assert at.telemetry.registry.get_sample_value("openoutcry_exchange_followers") == 0


async def test_streams_of_a_key_and_of_an_address_are_bounded(tmp_path: Path, until: Callable[..., Any]) -> None:
    async with floor(tmp_path, streams_a_key_max=2) as at:
        ann, bob = await at.trader("ann", USD="1"), await at.trader("bob", USD="1")
        open_ = [ann.ask("GetBalanceUpdates") for _ in range(2)]
        for stream in open_:
            await heard(stream)
        refused = await ended(ann.ask("GetBalanceUpdates"))
        assert refused == (Status.RESOURCE_EXHAUSTED, "more than 2 streams at once")
        # Another key has its own, and so have public ones of an address.
        others = [bob.ask("GetBalanceUpdates"), books(ann, "BTCUSD"), books(bob, "BTCUSD")]
        for stream in others:
            await heard(stream)
        assert (await ended(books(at.stranger(), "BTCUSD")))[0] is Status.RESOURCE_EXHAUSTED
        open_.pop().cancel()
        await until(lambda: at.streams() == 4)
        again = ann.ask("GetBalanceUpdates")
        await heard(again)
        for stream in (*open_, *others, again):
            stream.cancel()


async def test_when_the_server_stops_streams_end_well(at: Floor) -> None:
    ann = await at.trader("ann", USD="1000")
    streams = every_stream(ann)
    for name in ("books", "prices", "balances"):
        await heard(streams[name])
    stopping = asyncio.create_task(at.server.stop())
    for name, stream in streams.items():
        assert (await ended(stream))[0] is Status.OK, name
    await stopping


# A client whose window does not grow with what is sent to it.
NARROW = {"grpc.http2.bdp_probe": 0}


async def shaken(at: Floor, trader: Client, times: int, each_heard: Callable[[int], Any]) -> None:
    """A thousand levels that change, so many times."""
    for number in range(times):
        prices = [Decimal(number * 1_000 + each + 1) / 1_000 for each in range(1_000)]
        items = [Wanted(True, Decimal("0.0001"), price) for price in prices]
        await at.gateway.bulk(trader.account, "BTCUSD", items, CancelMode.BOTH_SIDES)  # type: ignore[attr-defined]
        await each_heard(number)


async def test_a_reader_that_stalls_is_let_go_and_nobody_waits_for_it(
    tmp_path: Path, until: Callable[..., Any]
) -> None:
    async with floor(tmp_path, stalled_s=0.5) as at:
        ann = await at.trader("ann", USD="100000")
        stalled, lively = books(Client(at.channel(**NARROW)), "BTCUSD"), books(at.stranger(), "BTCUSD")
        await heard(lively)
        await until(lambda: at.streams() == 2)

        async def hear(number: int) -> None:
            # The lively one hears each as it comes: a thousand levels, and those that are no more.
            assert len((await heard(lively)).bids) == (2_000 if number else 1_000)

        await shaken(at, ann, 20, hear)
        await until(lambda: at.streams() == 1)
        assert await ended(stalled) == (Status.RESOURCE_EXHAUSTED, "too slow: nothing was read for 0.5 s")
        lively.cancel()


async def test_a_key_that_is_revoked_ends_also_a_stream_that_nobody_reads(at: Floor, until: Callable[..., Any]) -> None:
    ann = await at.trader("ann", USD="100000")
    narrow = Client(at.channel(**NARROW), ann.key)  # type: ignore[attr-defined]
    stalled, lively = narrow.ask("GetOrderUpdates"), ann.ask("GetOrderUpdates")
    await until(lambda: at.streams() == 2)

    async def hear(_: int) -> None:
        assert (await heard(lively)).orders

    await shaken(at, ann, 3, hear)
    (record,) = await at.keys.list()
    await at.keys.revoke(record.id)
    async with asyncio.timeout(5):
        await until(lambda: at.streams() == 0)
    for stream in (lively, stalled):
        assert await ended(stream) == (Status.UNAUTHENTICATED, "the key was revoked")


async def test_more_events_than_may_wait_end_a_stream(at: Floor, until: Callable[..., Any]) -> None:
    ann = await at.trader("ann", USD="100000")
    stalled, lively = Client(at.channel(**NARROW), ann.key).ask("GetOrderUpdates"), ann.ask("GetOrderUpdates")  # type: ignore[attr-defined]
    await until(lambda: at.streams() == 2)

    async def hear(_: int) -> None:
        assert (await heard(lively)).orders

    await shaken(at, ann, EVENTS_WAITING_MAX // 1_000, hear)
    await until(lambda: at.streams() == 1)
    assert await ended(stalled) == (Status.RESOURCE_EXHAUSTED, "too slow: what was not read no longer fits")
    lively.cancel()


# -- nothing is lost


async def test_no_change_is_lost_between_the_first_message_and_the_next(at: Floor) -> None:
    """Streams begin while orders come: what each was told adds up to the book that is there at the end."""
    ann, bob = await at.trader("ann", USD="100000000"), await at.trader("bob", BTC="100000")
    over = asyncio.Event()

    async def trade() -> None:
        for number in range(150):
            price = str(100 + number * 7 % 11)
            if number % 3 == 0:
                followers.append(asyncio.create_task(follow()))
            id_, _, _, _ = await asyncio.gather(
                ann.placed("buy", f"0.{number % 9 + 1}", price),
                # A level that nothing touches again: whoever missed it is told of it by no later change.
                ann.placed("buy", "1", f"50.{number:03}"),
                bob.limit("sell", f"0.{number % 7 + 1}", str(104 + number * 5 % 11)),
                bob.market("sell", "0.05"),
            )
            if number % 3 == 0:
                await ann.ask("CancelOrder", private("CancelOrderRequest", orderId=id_))
        over.set()

    async def follow() -> tuple[dict[str, Decimal], dict[str, Decimal], dict[str, Decimal]]:
        stream, wallet = books(ann, "BTCUSD"), bob.ask("GetBalanceUpdates")
        bids, asks, held = dict[str, Decimal](), dict[str, Decimal](), dict[str, Decimal]()
        told = asyncio.create_task(taken(stream, bids, asks))
        has = asyncio.create_task(counted(wallet, held))
        await over.wait()
        # A last change, which whoever has heard it has heard all before it.
        await asyncio.gather(told, has)
        return bids, asks, held

    async def taken(stream: Any, bids: dict[str, Decimal], asks: dict[str, Decimal]) -> None:
        last = False
        while not last:
            change = await heard(stream)
            for side, of in ((change.bids, bids), (change.asks, asks)):
                for level in side:
                    of[level.p] = Decimal(level.v)
                    if level.v == "0":
                        del of[level.p]
            last = any(level.p == "0.001" for level in change.bids)
        stream.cancel()

    async def counted(stream: Any, held: dict[str, Decimal]) -> None:
        while "ETH" not in held:
            held.update({each.assetId: Decimal(each.available) for each in (await heard(stream)).balances})
        stream.cancel()

    followers: list[asyncio.Task[Any]] = []
    await trade()
    await ann.placed("buy", "1", "0.001")
    await at.gateway.move("last", bob.account, "ETH", Decimal(1))  # type: ignore[attr-defined]
    book = at.gateway.views.book("BTCUSD")
    bids = {format(price, "f"): volume for price, volume in book.bids}
    asks = {format(price, "f"): -volume for price, volume in book.asks}
    held = {each.asset: each.total for each in at.gateway.views.balances(bob.account)}  # type: ignore[attr-defined]
    assert len(followers) == 50
    assert len(bids) > 150
    for follower in followers:
        assert await follower == (bids, asks, held)


# -- what waits for a client


def a_book(pair: str = "A", at_ns: int = 1, bids: Sequence[tuple[int, int]] = (), asks: Any = ()) -> BookView:
    def told(side: Any) -> list[tuple[Decimal, Decimal]]:
        return [(Decimal(price), Decimal(volume)) for price, volume in side]

    return BookView(pair, at_ns, told(bids), told(asks))


def test_levels_that_wait_are_replaced() -> None:
    box = Books(Once(encode.book), "A")
    box.put(a_book(bids=[(10, 1), (9, 1)], asks=[(11, 5)]))
    box.put(a_book("B", 2, bids=[(1, 1)]))
    box.put(a_book(at_ns=3, bids=[(10, 0), (8, 2)]))
    told = contract.Orderbook.FromString(box.take())
    assert (told.assetPairId, told.timestamp.nanos) == ("A", 3)
    assert levels(told.bids) == [("10", "0"), ("9", "1"), ("8", "2")]
    assert levels(told.asks) == [("11", "-5")]
    assert contract.Orderbook.FromString(box.take()).assetPairId == "B"
    assert box.take() is None
    assert contract.Orderbook.FromString(box.word(None, 7)).assetPairId == "B"


def test_what_waits_is_bounded() -> None:
    box = Books(Once(encode.book), "A")
    with pytest.raises(LimitExceeded, match="too slow"):
        for start in range(0, LEVELS_WAITING_MAX + 10_000, 5_000):
            box.put(a_book(bids=[(price + 1, 1) for price in range(start, start + 5_000)]))
    trade = PublicTradeView("1", "A", 1, True, Decimal(1), Decimal(1))
    events = Each(Once(encode.public_trades))
    for _ in range(EVENTS_WAITING_MAX):
        events.put([trade])
    with pytest.raises(LimitExceeded, match="too slow"):
        events.put([trade])
    # One event is never too much, and what was taken waits no more.
    alone = Each(Once(encode.public_trades))
    for _ in range(3):
        alone.put([trade] * (EVENTS_WAITING_MAX + 1))
        assert alone.take() is not None


def test_prices_and_balances_that_wait_are_replaced() -> None:
    prices = Newest(Once(encode.price), contract.PriceUpdate)
    for bid in (1, 2, 3):
        prices.put(PriceView("A", Decimal(bid), None, bid))
        prices.put(PriceView("B", Decimal(bid), None, bid))
    told = [contract.PriceUpdate.FromString(prices.take()) for _ in range(2)]
    assert [(each.assetPairId, each.bid) for each in told] == [("A", "3"), ("B", "3")]
    assert prices.take() is None
    balances = Balances()
    balances.put([BalanceView("USD", Decimal(1), Decimal(0), 1), BalanceView("BTC", Decimal(2), Decimal(0), 1)])
    balances.put([BalanceView("USD", Decimal(5), Decimal(1), 2)])
    told = contract.BalanceUpdate.FromString(balances.take()).balances
    assert [(each.assetId, each.available) for each in told] == [("USD", "5"), ("BTC", "2")]
    assert balances.take() is None


def test_a_message_is_made_once_for_all_who_tell_it() -> None:
    made = []

    def make(view: BookView) -> Any:
        made.append(view)
        return encode.book(view)

    once = Once(make)
    views = [a_book(at_ns=number) for number in range(MADE_KEPT_MAX + 1)]
    for view in views:
        assert once(view) == once(view) == encode.book(view).SerializeToString()
    assert len(made) == len(views)
    once(views[0])  # forgotten meanwhile
    assert len(made) == len(views) + 1


async def test_a_server_that_has_said_that_it_goes_opens_no_stream_for_long(at: Floor) -> None:
    made = services(at.doors)
    server = RpcServer(made, "127.0.0.1", 0)
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        for service in made:
            service.leave()
        stream = books(Client(channel), "BTCUSD")
        assert (await heard(stream)).assetPairId == "BTCUSD"
        assert (await ended(stream))[0] is Status.OK
    await server.stop()
