"""What clients see is what was committed: the same as is worked out again from the store, also by whoever joins late."""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from structlog.testing import capture_logs

from openoutcry.clock import NS, ManualClock
from openoutcry.errors import LimitExceeded
from openoutcry.orders import Cancel, Code, Command, Limit, Market, Move, Relist, Trade
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.trading.gateway import OrderGateway
from openoutcry.trading.listings import Listings, Pair
from openoutcry.trading.risk import Rejected
from openoutcry.trading.sequencer import Sequencer
from openoutcry.trading.views import (
    BalanceView,
    BookView,
    OrderView,
    PriceView,
    PublicTradeView,
    TickerView,
    TradeView,
    Views,
    order_view,
    trade_views,
)
from tests.trading.shaped import LISTINGS, PAIR, WALLETS, asked, ids

START_NS = 1_800_000_000 * NS + 250_000_000
DAY_S = 86_400
MONEY = [Move(f"in/{wallet}/{asset}", wallet, asset, 4_000) for wallet in WALLETS for asset in ("BTC", "USD", "EUR")]


class World:
    """An exchange on a real database, and a clock that is moved."""

    def __init__(self, store: SqlExchange, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.sequencer = Sequencer(store, clock, Telemetry())
        self.gateway = OrderGateway(self.sequencer, store, clock, Telemetry(), str)
        self.views = self.gateway.views

    async def batch(self, *commands: Command) -> None:
        """All of them in one batch."""
        await asyncio.gather(*(self.sequencer.ask(command) for command in commands))

    async def again(self) -> Views:
        """What a server sees that starts now."""
        sequencer = Sequencer(self.store, self.clock, Telemetry())
        gateway = OrderGateway(sequencer, self.store, self.clock, Telemetry(), str)
        await gateway.start()
        await sequencer.close()
        return gateway.views


@asynccontextmanager
async def world(folder: Path, *first: Command) -> AsyncIterator[World]:
    store = SqlExchange(sqlite_url(folder / "ledger.sqlite3"))
    made = World(store, ManualClock(START_NS))
    try:
        await made.gateway.start()
        await made.batch(Relist(LISTINGS.told()), *MONEY, *first)
        yield made
    finally:
        await made.sequencer.close()
        store.close()


# -- the obvious way


def book_of(store: SqlExchange, pair: Pair) -> tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]:
    """Bids and asks, from the orders that rest."""
    sides: tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]] = ({}, {})
    for change in store.load().orders:
        if change.pair == pair.id:
            levels, price = sides[0 if change.buys else 1], pair.price(change.ticks)
            levels[price] = levels.get(price, Decimal(0)) + pair.volume(change.left)
    return sides


def ticker_of(trades: Sequence[Trade], pair: Pair, now_ns: int) -> dict[str, Any]:
    """From all trades there ever were, oldest first."""
    today = [trade for trade in trades if trade.at_ns // NS > now_ns // NS - DAY_S]
    prices = [pair.price(trade.ticks) for trade in today]
    change = (Fraction(prices[-1]) - Fraction(prices[0])) / Fraction(prices[0]) if prices else Fraction(0)
    return {
        "pair": pair.id,
        "volume_base": sum((pair.volume(trade.lots) for trade in today), Decimal(0)),
        "volume_quote": sum((pair.worth(trade.quote) for trade in today), Decimal(0)),
        "change": Decimal(round(change * 10**8)) / 10**8,
        "last": pair.price(trades[-1].ticks) if trades else None,
        "high": max(prices, default=None),
        "low": min(prices, default=None),
    }


def ticker_fields(view: TickerView) -> dict[str, Any]:
    return {name: getattr(view, name) for name in view.__struct_fields__ if name != "at_ns"}


def check(world: World, views: Views) -> None:
    """All that can be seen is what can be worked out from the store."""
    store, kept = world.store, world.store.load()
    for pair in LISTINGS.pairs.values():
        bids, asks = book_of(store, pair)
        book = views.book(pair.id)
        assert list(book.bids) == sorted(bids.items(), reverse=True)
        assert list(book.asks) == sorted(asks.items())
        assert views.book(pair.id, 2) == BookView(pair.id, book.at_ns, book.bids[:2], book.asks[:2])
        price = views.price(pair.id)
        assert (price.bid, price.ask) == (max(bids, default=None), min(asks, default=None))
        newest_first = store.public_trades(pair.id, 0, 10_000)
        trades = newest_first[::-1]
        assert ticker_fields(views.ticker(pair.id)) == ticker_of(trades, pair, world.clock.now_ns())
        assert [view.id for view in views.latest_trades(pair.id)] == [trade.id for trade in newest_first[:50]]
    for wallet in WALLETS:
        had = {each.asset: (each.total, each.held) for each in kept.held if each.wallet == wallet}
        seen = {view.asset: (view.total, view.held) for view in views.balances(wallet)}
        amounts = {id_: LISTINGS.assets[id_].amount for id_ in had}
        assert seen == {id_: (amounts[id_](total), amounts[id_](held)) for id_, (total, held) in had.items()}
        assert views.resting(wallet) == {
            change.id: (change.pair, change.buys) for change in kept.orders if change.wallet == wallet
        }
        for asset, (total, held) in had.items():
            assert views.free(wallet, asset) == amounts[asset](total - held)


class Joined:
    """Somebody who joined at some moment, and knows what he was told."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self.books: dict[str, tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]] = {}
        self.prices: dict[str, PriceView] = {}
        self.tickers: dict[str, TickerView] = {}
        self.balances: dict[str, dict[str, BalanceView]] = {wallet: {} for wallet in WALLETS}
        self.public: dict[str, list[PublicTradeView]] = {}
        self.orders: dict[str, list[OrderView]] = {wallet: [] for wallet in WALLETS}
        self.trades: dict[str, list[TradeView]] = {wallet: [] for wallet in WALLETS}
        books, _ = views.follow_books((), self._book)
        for book in books:
            self.books[book.pair] = (dict(book.bids), dict(book.asks))
        self.prices = {price.pair: price for price in views.follow_prices((), self._price)[0]}
        self.tickers = {ticker.pair: ticker for ticker in views.follow_tickers((), self._ticker)[0]}
        for pair in LISTINGS.pairs:
            self.public[pair] = list(views.follow_public_trades(pair, self._public)[0])
        for wallet in WALLETS:
            first, _ = views.follow_balances(wallet, partial(self._balances, wallet))
            self._balances(wallet, first)
            views.follow_orders(wallet, self.orders[wallet].extend)
            views.follow_trades(wallet, partial(self._trades, wallet))

    def _book(self, change: BookView) -> None:
        assert change.bids or change.asks
        for levels, changed in zip(self.books[change.pair], (change.bids, change.asks), strict=True):
            for price, volume in changed:
                assert levels.get(price, Decimal(0)) != volume, "a level that did not change was told"
                levels[price] = volume
                if not volume:
                    del levels[price]
        # Whoever hears a change sees all of its commit.
        now = self.views.book(change.pair)
        assert self.books[change.pair] == (dict(now.bids), dict(now.asks))

    def _price(self, price: PriceView) -> None:
        was = self.prices[price.pair]
        assert (was.bid, was.ask) != (price.bid, price.ask)
        self.prices[price.pair] = price

    def _ticker(self, ticker: TickerView) -> None:
        self.tickers[ticker.pair] = ticker

    def _public(self, told: Sequence[PublicTradeView]) -> None:
        self.public[told[0].pair][:0] = told

    def _balances(self, wallet: str, told: Sequence[BalanceView]) -> None:
        for view in told:
            was = self.balances[wallet].get(view.asset)
            assert was is None or (was.total, was.held) != (view.total, view.held)
            self.balances[wallet][view.asset] = view

    def _trades(self, wallet: str, told: Sequence[TradeView]) -> None:
        assert len({view.id.partition("-")[0] for view in told}) == 1, "trades of more than one command"
        self.trades[wallet] += told

    def check(self, world: World) -> None:
        for pair in LISTINGS.pairs:
            now = self.views.book(pair)
            assert self.books[pair] == (dict(now.bids), dict(now.asks))
            assert self.prices[pair] == self.views.price(pair)
            assert self.tickers[pair] == self.views.ticker(pair)
            assert self.public[pair][:50] == list(self.views.latest_trades(pair))
        for wallet in WALLETS:
            assert [*self.balances[wallet].values()] == [] or sorted(
                self.balances[wallet].values(), key=lambda view: view.asset
            ) == list(self.views.balances(wallet))
            last = {view.id: view for view in self.orders[wallet]}
            for id_, view in last.items():
                found = world.store.order(wallet, id_)
                assert found is not None
                assert order_view(found, LISTINGS.pairs[found.pair]) == view
            stored = [
                view
                for trade in world.store.trades(wallet, limit=10_000)
                for view in trade_views(trade, wallet, LISTINGS.pairs[trade.pair])
            ][::-1]
            heard = self.trades[wallet]
            assert heard == stored[len(stored) - len(heard) :]


_steps = st.lists(
    st.tuples(asked, st.sampled_from([0, 0, 0.6, 1, 3_600, 50_000, 86_399, 86_400])), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(_steps)
def test_views_are_what_the_store_comes_to_and_whoever_joins_sees_the_same(
    steps: Sequence[tuple[Sequence[Callable[[str, list[str]], Command]], float]],
) -> None:
    async def run(folder: Path) -> None:
        async with world(folder) as exchange:
            known: list[str] = []
            joined = [Joined(exchange.views)]
            for number, (batch, wait_s) in enumerate(steps):
                commands = []
                for n, make in enumerate(batch):
                    command = make(f"{number}.{n}", known)
                    known += ids(command)
                    commands.append(command)
                await exchange.batch(*commands)
                exchange.views.roll()
                check(exchange, exchange.views)
                check(exchange, await exchange.again())
                for each in joined:
                    each.check(exchange)
                joined.append(Joined(exchange.views))
                await exchange.clock.advance(wait_s)
                exchange.views.roll()
                check(exchange, exchange.views)
                for each in joined:
                    each.check(exchange)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


# -- one by one


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[World]:
    """Two resting orders of a's: it buys 10 lots at 100 ticks, and sells 10 at 102."""
    async with world(
        tmp_path, Limit("bid", "a", "BTCUSD", True, 10, 100), Limit("ask", "a", "BTCUSD", False, 10, 102)
    ) as made:
        yield made


async def test_levels_are_summed_and_told_where_they_changed(exchange: World) -> None:
    heard: list[BookView] = []
    first, stop = exchange.views.follow_books(["BTCUSD"], heard.append)
    assert first == [
        BookView("BTCUSD", START_NS, [(Decimal(1), Decimal("0.01"))], [(Decimal("1.02"), Decimal("0.01"))])
    ]
    await exchange.batch(Limit("more", "b", "BTCUSD", True, 10, 100), Limit("low", "b", "BTCUSD", True, 3, 99))
    assert heard == [
        BookView("BTCUSD", START_NS, [(Decimal(1), Decimal("0.02")), (Decimal("0.99"), Decimal("0.003"))], [])
    ]
    await exchange.batch(Market("all", "c", "BTCUSD", False, 20))
    assert [f"{volume}" for _, volume in heard[1].bids] == ["0"]
    stop()
    stop()
    await exchange.batch(Limit("after", "b", "BTCUSD", True, 5, 98))
    assert len(heard) == 2


async def test_what_comes_and_goes_in_one_commit_is_not_told(exchange: World) -> None:
    heard: list[Any] = []
    exchange.views.follow_books([], heard.append)
    exchange.views.follow_prices([], heard.append)
    exchange.views.follow_balances("b", heard.append)
    with capture_logs() as logs:
        await exchange.batch(Limit("short", "b", "BTCUSD", True, 5, 101), Cancel("b", "short"))
    assert (heard, logs) == ([], [])


async def test_prices_are_told_where_the_best_changed(exchange: World) -> None:
    heard: list[PriceView] = []
    first, _ = exchange.views.follow_prices(["BTCUSD"], heard.append)
    assert first == [PriceView("BTCUSD", Decimal(1), Decimal("1.02"), START_NS)]
    await exchange.clock.advance(1)
    await exchange.batch(Limit("low", "b", "BTCUSD", True, 5, 99), Limit("same", "b", "BTCUSD", True, 5, 100))
    assert heard == []
    await exchange.batch(Cancel("a", "ask"))
    assert heard == [PriceView("BTCUSD", Decimal(1), None, START_NS + NS)]


async def test_trades_of_one_command_are_told_together_and_to_those_who_took_part(exchange: World) -> None:
    await exchange.batch(Limit("more", "a", "BTCUSD", False, 20, 103))
    heard: dict[str, list[Sequence[TradeView]]] = defaultdict(list)
    orders: list[Sequence[OrderView]] = []
    for wallet in WALLETS:
        assert exchange.views.follow_trades(wallet, heard[wallet].append)[0] == ()
    assert exchange.views.follow_orders("a", orders.append)[0] == ()
    await exchange.batch(
        Market("two", "b", "BTCUSD", True, 20),
        Limit("other", "c", "BTCUSD", True, 20, 103),
        Market("one", "b", "BTCUSD", False, 10),
    )
    assert {wallet: [len(told) for told in heard[wallet]] for wallet in WALLETS} == {
        "a": [2, 1],
        "b": [2, 1],
        "c": [1, 1],
    }
    assert [(view.order, view.maker, view.buys) for view in heard["b"][0]] == [("two", False, True)] * 2
    assert [view.id for view in orders[0]] == ["ask", "more"]


async def test_the_fee_is_of_what_was_received(exchange: World) -> None:
    heard: dict[str, list[Sequence[TradeView]]] = defaultdict(list)
    for wallet in ("a", "b"):
        exchange.views.follow_trades(wallet, heard[wallet].append)
    await exchange.batch(
        Limit("rests", "a", "EURUSD", False, 50, 10_000), Limit("takes", "b", "EURUSD", True, 50, 10_000)
    )
    made, took = heard["a"][0][0], heard["b"][0][0]
    assert (made.fee, made.fee_asset, took.fee, took.fee_asset) == (Decimal("0.01"), "USD", Decimal("0.01"), "EUR")
    assert (made.base_volume, made.quote_volume, made.id) == (took.base_volume, took.quote_volume, took.id)


async def test_a_follower_that_breaks_costs_the_others_nothing(exchange: World) -> None:
    heard: list[PriceView] = []

    def breaks(_: PriceView) -> None:
        raise RuntimeError("no")

    exchange.views.follow_prices([], breaks)
    exchange.views.follow_prices([], heard.append)
    with capture_logs() as logs:
        await exchange.batch(Limit("better", "b", "BTCUSD", True, 5, 101))
    assert [price.bid for price in heard] == [Decimal("1.01")]
    assert [line["event"] for line in logs] == ["follower failed"]


async def test_who_leaves_or_joins_while_others_are_told_hears_no_half(exchange: World) -> None:
    views = exchange.views
    heard: list[BookView] = []
    late: list[BookView] = []
    firsts: list[Sequence[BookView]] = []

    def ends_the_other(_: BookView) -> None:
        stop()
        firsts.append(views.follow_books(["BTCUSD"], late.append)[0])

    views.follow_books([], ends_the_other)
    _, stop = views.follow_books([], heard.append)
    with capture_logs() as logs:
        await exchange.batch(Limit("better", "b", "BTCUSD", True, 5, 101))
    assert (heard, late, logs) == ([], [], [])
    assert firsts[0][0].bids[0] == (Decimal("1.01"), Decimal("0.005"))


def test_followers_are_bounded_and_give_their_room_back() -> None:
    views = Views(ManualClock(), Telemetry(), followers_max=2)
    _, stop = views.follow_books([], print)
    views.follow_balances("a", print)
    with pytest.raises(LimitExceeded):
        views.follow_trades("a", print)
    stop()
    views.follow_trades("a", print)


async def test_a_pair_that_is_not_listed_is_named(exchange: World) -> None:
    views = exchange.views
    for ask in (
        lambda: views.book("NOWT"),
        lambda: views.price("NOWT"),
        lambda: views.ticker("NOWT"),
        lambda: views.follow_books(["BTCUSD", "NOWT"], print),
        lambda: views.follow_public_trades("NOWT", print),
    ):
        with pytest.raises(Rejected) as refused:
            ask()
        assert (refused.value.code, refused.value.field) == (Code.UNKNOWN_PAIR, "assetPairId")


async def test_a_pair_that_is_listed_later_is_told_to_who_follows_all(exchange: World) -> None:
    heard: list[BookView] = []
    exchange.views.follow_books([], heard.append)
    new = replace(PAIR, id="BTCEUR", name="BTC/EUR", quote="EUR")
    listings = Listings(LISTINGS.assets, {**LISTINGS.pairs, new.id: new})
    await exchange.batch(Relist(listings.told()), Limit("new", "b", "BTCEUR", True, 5, 100))
    assert exchange.views.listings == listings
    assert [book.pair for book in heard] == ["BTCEUR"]


async def test_a_day_old_trade_leaves_the_ticker_and_that_is_told(exchange: World) -> None:
    await exchange.batch(Market("one", "b", "BTCUSD", True, 5))
    heard: list[TickerView] = []
    first, _ = exchange.views.follow_tickers(["BTCUSD"], heard.append)
    assert (first[0].last, first[0].high, first[0].volume_base) == (Decimal("1.02"), Decimal("1.02"), Decimal("0.005"))
    await exchange.clock.advance(DAY_S - 0.5)
    exchange.views.roll()
    assert heard == []
    await exchange.clock.advance(0.5)
    exchange.views.roll()
    exchange.views.roll()
    assert [(view.last, view.high, view.volume_base) for view in heard] == [(Decimal("1.02"), None, Decimal(0))]
