"""Decimals in, decimals out; every no has its code and says whose fault it is; nobody reaches what is another's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import URL

from openoutcry.clock import NS, ManualClock
from openoutcry.errors import Conflict, Invalid, Refusal, Unavailable
from openoutcry.orders import CancelMode, Code, Status
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.exchange_inbox import SqlInbox
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.trading.gateway import OrderGateway, Placed, Rejected, Wanted
from openoutcry.trading.inbox import Answer, Letter, Moving, Relisting
from openoutcry.trading.listings import Listings
from openoutcry.trading.sequencer import Sequencer
from openoutcry.trading.store import Written
from openoutcry.trading.views import BalanceView

LISTINGS = Listings.of(
    {
        "assets": {"BTC": {"accuracy": 4}, "USD": {"accuracy": 2}, "EUR": {"accuracy": 2}},
        "pairs": {
            "BTCUSD": {"base": "BTC", "quote": "USD", "price_accuracy": 2, "min_volume": "0.001", "max_volume": "50",
                       "max_value": "5000", "price_deviation": "20%"},
            "BTCEUR": {"base": "BTC", "quote": "EUR", "price_accuracy": 2, "min_volume": "0.001"},
            "OFF": {"base": "BTC", "quote": "EUR", "price_accuracy": 2, "on": False},
        },
    }
)  # fmt: skip
NOW_NS = 1_800_000_000 * NS
D = Decimal


class Breakable(SqlExchange):
    """Whose disk may be full."""

    full = False

    def commit(self, written: Written) -> None:
        if self.full:
            raise Unavailable("store", "the disk is full")
        super().commit(written)


def numbered() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"order-{next(numbers)}"


class World:
    """A gateway to an exchange on a real database."""

    def __init__(self, folder: Path, new_id: Callable[[], str], **limits: int) -> None:
        url = sqlite_url(folder / "ledger.sqlite3")
        self.clock = ManualClock(NOW_NS)
        self.store, self.inbox = Breakable(url), SqlInbox(url)
        self.sequencer = Sequencer(self.store, self.clock, Telemetry())
        self.gateway = OrderGateway(self.sequencer, self.store, self.clock, Telemetry(), new_id, **limits)


@asynccontextmanager
async def opened(folder: Path, new_id: Callable[[], str] | None = None, **limits: int) -> AsyncIterator[World]:
    """a has 10 BTC, b 1000 USD and 1000 EUR; a sells 1 BTC at 100 USD."""
    made = World(folder, new_id or numbered(), **limits)
    try:
        await made.gateway.start()
        if not made.gateway.listings.pairs:
            await made.gateway.relist(LISTINGS)
            await made.gateway.move("1", "a", "BTC", D(10))
            await made.gateway.move("2", "b", "USD", D(1000))
            await made.gateway.move("3", "b", "EUR", D(1000))
            await made.gateway.limit("a", "BTCUSD", buys=False, volume=D(1), price=D(100))
        yield made
    finally:
        await made.sequencer.close()
        made.inbox.close()
        made.store.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as made:
        yield made


@pytest.fixture
def gateway(world: World) -> OrderGateway:
    return world.gateway


def had(gateway: OrderGateway, wallet: str) -> dict[str, tuple[Decimal, Decimal]]:
    return {view.asset: (view.total, view.held) for view in gateway.views.balances(wallet)}


# -- what is done


async def test_a_limit_order_rests_or_trades(gateway: OrderGateway) -> None:
    id_ = await gateway.limit("b", "BTCUSD", buys=True, volume=D("1.5000"), price=D("100.50"))
    assert had(gateway, "b")["USD"] == (D(900), D("50.25"))
    view = await gateway.order("b", id_)
    assert view is not None
    assert (view.price, view.volume, view.left, view.cost, view.status) == (
        *(D("100.5"), D("1.5"), D("0.5"), D("100.5")), Status.PARTIALLY_MATCHED,
    )  # fmt: skip
    assert [each.id for each in await gateway.orders("b", active=True)] == [id_]
    assert [each.id for each in await gateway.orders("a", active=False)] == ["order-1"]


async def test_a_market_order_says_its_average_price(gateway: OrderGateway) -> None:
    await gateway.limit("a", "BTCUSD", buys=False, volume=D(1), price=D("100.01"))
    id_, price = await gateway.market("b", "BTCUSD", buys=True, volume=D(2))
    assert (id_, price) == ("order-3", D("100.01"))  # 100.005, up
    trades = await gateway.trades("b", order=id_)
    assert [(each.price, each.maker, each.buys, each.quote_volume) for each in trades] == [
        (D("100.01"), False, True, D("100.01")), (D(100), False, True, D(100)),
    ]  # fmt: skip
    assert [each.order for each in await gateway.trades("a", buys=False)] == ["order-2", "order-1"]
    assert await gateway.trades("a", buys=True) == []
    public = await gateway.public_trades("BTCUSD", 0, 1)
    assert [(each.price, each.volume, each.buys) for each in public] == [(D("100.01"), D(1), True)]
    assert list(gateway.views.latest_trades("BTCUSD"))[:1] == public


async def test_each_order_of_a_bulk_is_answered_for_itself(gateway: OrderGateway) -> None:
    old = await gateway.limit("b", "BTCUSD", buys=True, volume=D(1), price=D(90))
    placed = await gateway.bulk(
        "b",
        "BTCUSD",
        [
            Wanted(True, D(2), D(91), old),
            Wanted(True, D(2), D(91), old + "x"),
            Wanted(True, D("0.0001"), D(91)),
            Wanted(True, D(1), D("91.001")),
            Wanted(True, D(1), D("NaN")),
        ],
        None,
    )
    assert [each.code for each in placed] == [
        None, Code.NOT_FOUND_PREVIOUS, Code.TOO_SMALL_VOLUME, Code.INVALID_PRICE_ACCURACY, Code.INVALID_PRICE
    ]  # fmt: skip
    assert placed[0] == Placed("order-3", None, D(2), D(91))
    assert [each.id for each in await gateway.orders("b", active=True)] == ["order-3"]
    assert await gateway.bulk("b", "BTCUSD", [], CancelMode.BOTH_SIDES) == []
    assert had(gateway, "b")["USD"] == (D(1000), D(0))


async def test_all_of_a_side_or_of_a_pair_is_cancelled_and_nobody_elses(gateway: OrderGateway) -> None:
    for pair in ("BTCUSD", "BTCEUR"):
        await gateway.limit("b", pair, buys=True, volume=D(1), price=D(90))
    await gateway.cancel_all("b", "BTCUSD", buys=False)
    assert len(gateway.views.resting("b")) == 2
    await gateway.cancel_all("b", "BTCUSD")
    assert [pair for pair, _ in gateway.views.resting("b").values()] == ["BTCEUR"]
    await gateway.cancel_all("b")
    assert gateway.views.resting("b") == {}
    assert list(gateway.views.resting("a")) == ["order-1"]


# -- what is refused


Ask = Callable[[OrderGateway], Awaitable[object]]


async def _self_trade(gateway: OrderGateway) -> None:
    await gateway.move("4", "a", "USD", D(500))
    await gateway.limit("a", "BTCUSD", buys=True, volume=D(1), price=D(100))


NOES: dict[str, tuple[Ask, Code, str | None, str]] = {
    "a pair that is not listed": (
        lambda g: g.limit("a", "NOWT", buys=True, volume=D(1), price=D(1)),
        Code.UNKNOWN_PAIR, "assetPairId", "Asset pair not found",
    ),
    "a bulk on it": (lambda g: g.bulk("a", "NOWT", [], None), Code.UNKNOWN_ASSET, "assetPairId", "Unknown asset"),
    "a cancel on it": (lambda g: g.cancel_all("a", "NOWT"), Code.UNKNOWN_PAIR, "assetPairId", "Asset pair not found"),
    "a list of it": (lambda g: g.orders("a", "NOWT", active=True), Code.UNKNOWN_PAIR, "assetPairId", "Asset pair not found"),
    "its trades": (lambda g: g.trades("a", pair="NOWT"), Code.UNKNOWN_PAIR, "assetPairId", "Asset pair not found"),
    "its public trades": (lambda g: g.public_trades("NOWT"), Code.UNKNOWN_PAIR, "assetPairId", "Asset pair not found"),
    "no price": (
        lambda g: g.limit("b", "BTCUSD", buys=True, volume=D(1), price=D(0)),
        Code.INVALID_FIELD, "price", "'Price' cannot be less than zero.",
    ),
    "a page before the first": (lambda g: g.orders("a", active=True, offset=-1), Code.INVALID_FIELD, "offset", "'offset' cannot be less than zero."),
    "fewer than none": (lambda g: g.trades("a", limit=-1), Code.INVALID_FIELD, "take", "'take' cannot be less than zero."),
    "too many": (lambda g: g.public_trades("BTCUSD", 0, 1001), Code.INVALID_FIELD, "take", "take '1001' is too big, maximum is '1000'."),
    "too far": (lambda g: g.public_trades("BTCUSD", 2**31), Code.INVALID_FIELD, "offset", "offset '2147483648' is too big, maximum is '2147483647'."),
    "a bulk of too many": (
        lambda g: g.bulk("b", "BTCUSD", [Wanted(True, D(1), D(1))] * 1_001, None),
        Code.INVALID_FIELD, "orders", "orders '1001' is too big, maximum is '1000'.",
    ),
    "more than is free": (
        lambda g: g.limit("b", "BTCUSD", buys=True, volume=D(11), price=D(91)),
        Code.NOT_ENOUGH_FUNDS, "volume", "Not enough funds",
    ),
    "more than is there to take": (lambda g: g.market("b", "BTCUSD", buys=True, volume=D(2)), Code.NO_LIQUIDITY, None, "No liquidity"),
    "what cannot be paid": (lambda g: g.market("c", "BTCUSD", buys=True, volume=D(1)), Code.NOT_ENOUGH_FUNDS, None, "Not enough funds"),
    "a market volume too fine": (
        lambda g: g.market("b", "BTCUSD", buys=True, volume=D("0.50001")),
        Code.INVALID_VOLUME_ACCURACY, None, "Invalid volume accuracy",
    ),
    "a volume too fine": (
        lambda g: g.limit("b", "BTCUSD", buys=True, volume=D("0.50001"), price=D(90)),
        Code.INVALID_VOLUME_ACCURACY, "volume", "Invalid volume accuracy",
    ),
    "a price too fine": (
        lambda g: g.limit("b", "BTCUSD", buys=True, volume=D(1), price=D("90.001")),
        Code.INVALID_PRICE_ACCURACY, "price", "Invalid price accuracy",
    ),
    "more than a pair takes": (
        lambda g: g.limit("b", "BTCUSD", buys=True, volume=D(51), price=D(1)),
        Code.INVALID_VOLUME, "volume", "Invalid volume",
    ),
    "more worth than a pair takes": (
        lambda g: g.limit("a", "BTCUSD", buys=False, volume=D(9), price=D(600)),
        Code.INVALID_ORDER_VALUE, None, "Invalid order value",
    ),
    "a price far from the others": (
        lambda g: g.limit("b", "BTCUSD", buys=True, volume=D(1), price=D(79)),
        Code.TOO_HIGH_PRICE_DEVIATION, None, "Too high price deviation",
    ),
    "a trade with oneself": (
        _self_trade,
        Code.NEGATIVE_SPREAD, None, "Lead to negative spread",
    ),
    "a pair that is off": (
        lambda g: g.limit("a", "OFF", buys=False, volume=D(1), price=D(1)),
        Code.DISABLED, "assetPairId", "Disabled asset",
    ),
    "another's order": (lambda g: g.cancel("b", "order-1"), Code.NOT_FOUND, None, "Not found"),
    "no order": (lambda g: g.cancel("b", "nowt"), Code.NOT_FOUND, None, "Not found"),
    "an asset that is not listed": (lambda g: g.move("5", "a", "XRP", D(1)), Code.UNKNOWN_ASSET, "assetId", "Asset not found"),
    "nothing moved": (lambda g: g.move("5", "a", "USD", D(0)), Code.INVALID_VOLUME, "volume", "Invalid volume"),
    "too fine an amount": (lambda g: g.move("5", "a", "USD", D("1.001")), Code.INVALID_VOLUME_ACCURACY, "volume", "Invalid volume accuracy"),
    "more out than is free": (lambda g: g.move("5", "a", "BTC", D("-9.0001")), Code.NOT_ENOUGH_FUNDS, None, "Not enough funds"),
    "an id that was used otherwise": (lambda g: g.move("1", "a", "BTC", D(11)), Code.DUPLICATE, None, "Duplicate"),
    "no id": (lambda g: g.move("", "a", "BTC", D(1)), Code.INVALID_FIELD, "id", "an id is 1 to 128 printable characters"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOES)
async def test_every_no_has_its_code_and_changes_nothing(gateway: OrderGateway, name: str) -> None:
    ask, code, field, text = NOES[name]
    with pytest.raises(Rejected) as refused:
        await ask(gateway)
    assert (refused.value.code, refused.value.field, refused.value.text) == (code, field, text)
    assert had(gateway, "a")["BTC"] == (D(10), D(1))
    assert had(gateway, "b") == {"EUR": (D(1000), D(0)), "USD": (D(1000), D(0))}


async def test_an_id_that_rests_is_not_given_again(tmp_path: Path) -> None:
    async with opened(tmp_path, lambda: "same") as world:
        with pytest.raises(Rejected) as refused:
            await world.gateway.limit("b", "BTCUSD", buys=True, volume=D(1), price=D(90))
        assert refused.value.code is Code.DUPLICATE


async def test_what_could_not_be_written_is_not_done(world: World) -> None:
    world.store.full = True
    with pytest.raises(Rejected) as refused:
        await world.gateway.limit("b", "BTCUSD", buys=True, volume=D(1), price=D(90))
    assert refused.value.code is Code.RUNTIME
    assert had(world.gateway, "b")["USD"] == (D(1000), D(0))
    world.store.full = False
    await world.gateway.limit("b", "BTCUSD", buys=True, volume=D(1), price=D(90))
    assert had(world.gateway, "b")["USD"] == (D(1000), D(90))


async def test_nobody_sees_what_is_anothers(gateway: OrderGateway) -> None:
    await gateway.market("b", "BTCUSD", buys=True, volume=D("0.5"))
    assert await gateway.order("b", "order-1") is None
    assert await gateway.order("a", "order-1") is not None
    assert await gateway.trades("c", order="order-1") == []
    assert [each.order for each in await gateway.trades("b", order="order-1")] == []
    assert await gateway.orders("c", active=False) == []
    with pytest.raises(Rejected):
        await gateway.cancel("b", "order-1")
    placed = await gateway.bulk("b", "BTCUSD", [Wanted(False, D("0.1"), D(110), "order-1")], None)
    assert placed[0].code is Code.NOT_FOUND_PREVIOUS


# -- how many orders may rest


async def test_a_wallets_open_orders_are_bounded_also_those_on_their_way(tmp_path: Path) -> None:
    async with opened(tmp_path, open_orders_max=3) as world:
        gateway = world.gateway

        def place() -> Awaitable[str]:
            return gateway.limit("b", "BTCUSD", buys=True, volume=D("0.1"), price=D(90))

        done = await asyncio.gather(*(place() for _ in range(5)), return_exceptions=True)
        assert [isinstance(each, Rejected) and each.code for each in done] == [False] * 3 + [Code.RUNTIME] * 2
        assert len(gateway.views.resting("b")) == 3
        wanted = [Wanted(True, D("0.1"), D(91))] * 3
        with pytest.raises(Rejected, match="at most 3 open orders"):
            await gateway.bulk("b", "BTCUSD", wanted, CancelMode.SELL_SIDE)
        # What it takes out makes room for what it places.
        placed = await gateway.bulk("b", "BTCUSD", wanted, CancelMode.NOT_EMPTY_SIDE)
        placed = await gateway.bulk("b", "BTCUSD", [Wanted(True, D("0.1"), D(92), each.id) for each in placed], None)
        assert [each.code for each in placed] == [None] * 3
        await gateway.cancel("b", placed[0].id)
        await place()


# -- listings


async def test_listings_change_for_whoever_asks_next(gateway: OrderGateway) -> None:
    pair = LISTINGS.pairs["BTCUSD"]
    for wrong in (Listings({}, {}), Listings(LISTINGS.assets, {})):
        with pytest.raises(Invalid, match="cannot go"):
            await gateway.relist(wrong)
    assert gateway.listings.pairs["BTCUSD"] == pair
    off = Listings.of({
        "assets": {id_: {"accuracy": each.accuracy} for id_, each in LISTINGS.assets.items()},
        "pairs": {id_: {"base": each.base, "quote": each.quote, "price_accuracy": 2, "on": False}
                  for id_, each in LISTINGS.pairs.items()},
    })  # fmt: skip
    await gateway.relist(off)
    assert gateway.listings == off
    with pytest.raises(Rejected) as refused:
        await gateway.limit("b", "BTCUSD", buys=True, volume=D(1), price=D(90))
    assert refused.value.code is Code.DISABLED
    await gateway.cancel("a", "order-1")


async def test_a_start_finds_all_as_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.gateway.market("b", "BTCUSD", buys=True, volume=D("0.5"))
        before = world.gateway
    async with opened(tmp_path) as world:
        after = world.gateway
        assert after.listings == before.listings
        assert after.views.book("BTCUSD") == before.views.book("BTCUSD")
        assert after.views.ticker("BTCUSD") == before.views.ticker("BTCUSD")
        assert after.views.latest_trades("BTCUSD") == before.views.latest_trades("BTCUSD")
        assert after.views.balances("b") == [
            BalanceView("BTC", D("0.5"), D(0), NOW_NS), BalanceView("EUR", D(1000), D(0), NOW_NS), BalanceView("USD", D(950), D(0), NOW_NS)
        ]  # fmt: skip


# -- the inbox


def letters(inbox: SqlInbox, *asked: Letter) -> None:
    for n, letter in enumerate(asked):
        inbox.put(letter, NOW_NS + n)


async def test_what_waits_in_the_inbox_is_done_in_order_and_answered(world: World) -> None:
    more = Listings.of({"assets": {"XRP": {"accuracy": 2}}})
    letters(
        world.inbox,
        Letter("in", Moving("c", "USD", "12.50")),
        Letter("out", Moving("c", "USD", "-12.51")),
        Letter("text", Moving("c", "USD", "1e3")),
        Letter("list", Relisting(more.told())),
        Letter("back", Moving("c", "USD", "-2.5")),
    )
    assert world.inbox.answered("in") is None
    await world.gateway.look(world.inbox)
    assert {id_: world.inbox.answered(id_) for id_ in ("in", "out", "text", "back")} == {
        "in": Answer(), "out": Answer("Not enough funds"), "text": Answer("'Volume' is not a valid decimal."), "back": Answer(),
    }  # fmt: skip
    listed = world.inbox.answered("list")
    assert listed is not None
    assert "cannot go" in (listed.refused or "")
    assert had(world.gateway, "c")["USD"] == (D(10), D(0))
    assert world.inbox.waiting(10) == []


async def test_a_letter_is_done_once_and_a_refused_one_is_asked_anew(world: World) -> None:
    out = Letter("out", Moving("c", "USD", "-5"))
    letters(world.inbox, out)
    await world.gateway.look(world.inbox)
    letters(world.inbox, Letter("in", Moving("c", "USD", "5")), out)
    await world.gateway.look(world.inbox)
    assert world.inbox.answered("out") == Answer()
    letters(world.inbox, out, Letter("in", Moving("c", "USD", "5")))
    assert world.inbox.waiting(10) == []
    with pytest.raises(Conflict, match="in was used for something else"):
        world.inbox.put(Letter("in", Moving("c", "USD", "6")), NOW_NS)
    assert had(world.gateway, "c")["USD"] == (D(0), D(0))


async def test_a_letter_that_was_done_and_not_answered_is_answered_and_not_done_again(world: World) -> None:
    await world.gateway.move("in", "c", "USD", D(5))
    letters(world.inbox, Letter("in", Moving("c", "USD", "5")))
    await world.gateway.look(world.inbox)
    assert world.inbox.answered("in") == Answer()
    assert had(world.gateway, "c")["USD"] == (D(5), D(0))


async def test_the_inbox_is_looked_into_as_long_as_it_runs(world: World) -> None:
    def answered(id_: str) -> Callable[[], bool]:
        return lambda: world.inbox.answered(id_) is not None

    async def settled(ready: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if ready():
                return
            await asyncio.to_thread(int)
        raise AssertionError("it never came")

    running = asyncio.create_task(world.gateway.run(world.inbox))
    for n in range(3):
        letters(world.inbox, Letter(f"in{n}", Moving("c", "USD", "5")))
        await settled(lambda: world.clock.sleepers == 1)
        await world.clock.advance(0.2)
        await settled(answered(f"in{n}"))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert had(world.gateway, "c")["USD"] == (D(15), D(0))


@pytest.fixture
def inbox(books_url: URL) -> Iterator[SqlInbox]:
    made = SqlInbox(books_url, answers_max=2)
    yield made
    made.close()


def test_old_answers_are_forgotten_and_what_waits_is_not(inbox: SqlInbox) -> None:
    letters(inbox, *(Letter(str(n), Moving("c", "USD", "5")) for n in range(4)))
    assert [each.id for each in inbox.waiting(3)] == ["0", "1", "2"]
    for n in (1, 2, 3):
        inbox.answer(str(n), Answer(f"no {n}"), NOW_NS + n)
    inbox.answer("1", Answer(), NOW_NS + 9)
    assert inbox.answered("1") == Answer("no 1")
    letters(inbox, Letter("new", Moving("c", "USD", "5")))
    assert [inbox.answered(str(n)) for n in range(4)] == [None, None, Answer("no 2"), Answer("no 3")]
    assert [each.id for each in inbox.waiting(9)] == ["0", "new"]


async def test_what_is_no_refusal_of_ours_goes_through(world: World) -> None:
    await world.sequencer.close()
    with pytest.raises(Refusal) as refused:
        await world.gateway.cancel_all("a")
    assert isinstance(refused.value, Unavailable)
