"""Makers and takers keep the exchange alive, through the same calls as anybody, and fail for nothing that it says."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from openoutcry.clock import NS, ManualClock
from openoutcry.errors import Unavailable
from openoutcry.events import Quote
from openoutcry.instrument import Instrument, Kind
from openoutcry.simulator.traders import STALE_S, Anchor, Api, Direct, Traded, Traders, Walk, Worth, furnish
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.trading import listings_file
from openoutcry.trading.gateway import OrderGateway, Placed, Wanted
from openoutcry.trading.listings import Listings
from openoutcry.trading.sequencer import Sequencer
from openoutcry.trading.views import BookView
from tests.market.conftest import Box, boxes

__all__ = ["boxes"]

NOW_NS = 1_736_936_430 * NS
BTC = Traded("BTCUSD", "BTC", "USD", 2, 8, Decimal("0.0001"))
MAKERS, TAKERS = ("maker-1", "maker-2"), ("taker-1", "taker-2")


class Floor:
    """The exchange on a real store, and somebody who trades on it."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.telemetry = ManualClock(NOW_NS), Telemetry()
        self.store = SqlExchange(sqlite_url(folder / "ledger.db"))
        self.sequencer = Sequencer(self.store, self.clock, self.telemetry)
        numbers = itertools.count()
        self.gateway = OrderGateway(
            self.sequencer, self.store, self.clock, self.telemetry, lambda: f"order-{next(numbers)}"
        )
        self._traders: list[asyncio.Task[None]] = []
        self._bots = 0

    async def start(self) -> None:
        await self.gateway.start()
        listings = listings_file.demo()
        await self.gateway.relist(listings)
        await furnish(self.gateway, (*MAKERS, *TAKERS), listings)

    def trade(
        self,
        worth: Worth | None = None,
        wrap: Callable[[Api], Api] = lambda api: api,
        makers: Sequence[str] = MAKERS,
        takers: Sequence[str] = TAKERS,
    ) -> None:
        """Let them trade from now on."""
        chance = random.Random(7)
        traders = Traders(
            [wrap(Direct(self.gateway, each)) for each in makers],
            [wrap(Direct(self.gateway, each)) for each in takers],
            worth or Walk(chance, self.clock),
            clock=self.clock,
            chance=chance,
            telemetry=self.telemetry,
        )
        self._bots += len(makers) + len(takers)
        self._traders.append(asyncio.create_task(traders.run()))

    async def settled(self) -> None:
        """Return when all of them have done what was due, and wait for their time."""
        while self.clock.sleepers < self._bots:
            for task in self._traders:
                assert not task.done()
            await self.clock.advance(0)

    async def pass_(self, seconds: int) -> None:
        for _ in range(seconds):
            await self.clock.advance(1)
            await self.settled()

    async def hush(self) -> None:
        """Stop them, at once."""
        for task in self._traders:
            task.cancel()
        await asyncio.gather(*self._traders, return_exceptions=True)
        self._traders.clear()
        self._bots = 0

    async def stop(self) -> None:
        await self.hush()
        await self.sequencer.close()
        self.store.close()

    def books(self) -> Sequence[BookView]:
        return [self.gateway.views.book(pair) for pair in self.gateway.listings.pairs]

    def counted(self, outcome: str) -> float:
        return self.telemetry.registry.get_sample_value("openoutcry_traders_calls_total", {"outcome": outcome}) or 0.0

    def outcomes(self) -> dict[str, float]:
        return {
            sample.labels["outcome"]: sample.value
            for family in self.telemetry.registry.collect()
            for sample in family.samples
            if sample.name == "openoutcry_traders_calls_total"
        }


@pytest.fixture
async def floor(tmp_path: Path) -> AsyncIterator[Floor]:
    floor = Floor(tmp_path)
    await floor.start()
    yield floor
    await floor.stop()


class Moving:
    """Worth what a test says."""

    def __init__(self, price: str | None) -> None:
        self.price = None if price is None else Decimal(price)

    def begin(self, pair: Traded, price: Decimal | None) -> None:
        pass

    def now(self, pair: Traded) -> Decimal | None:
        return self.price


class Broken:
    """An Api whose server is away, or goes away after it did what was asked."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.away = self.deaf = False

    async def pairs(self) -> Sequence[Traded]:
        self._reach()
        return await self._api.pairs()

    async def price(self, pair: str) -> tuple[Decimal | None, Decimal | None]:
        self._reach()
        return await self._api.price(pair)

    async def bulk(self, pair: str, items: Sequence[Wanted], *, afresh: bool) -> Sequence[Placed]:
        self._reach()
        placed = await self._api.bulk(pair, items, afresh=afresh)
        if self.deaf:
            raise Unavailable("exchange", "the answer was lost")
        return placed

    async def take(self, pair: str, *, buys: bool, volume: Decimal) -> None:
        self._reach()
        await self._api.take(pair, buys=buys, volume=volume)

    async def close(self) -> None:
        await self._api.close()

    def _reach(self) -> None:
        if self.away:
            raise Unavailable("exchange", "nobody answers")


async def test_both_sides_of_every_pair_stay_quoted_and_there_are_trades(floor: Floor) -> None:
    floor.trade()
    await floor.settled()
    for _ in range(60):
        await floor.pass_(10)
        for book in floor.books():
            assert book.bids, book.pair
            assert book.asks, book.pair
            assert 0 < book.asks[0][0] / book.bids[0][0] - 1 < Decimal("0.01"), book.pair
    for pair in floor.gateway.listings.pairs:
        assert len(await floor.gateway.public_trades(pair)) > 20, pair
    outcomes = floor.outcomes()
    # A level that a taker emptied has nothing to replace; all else is taken.
    assert set(outcomes) <= {"done", "not_found_previous", "no_liquidity"}, outcomes
    assert outcomes["done"] > 1_000
    assert outcomes.get("no_liquidity", 0) < outcomes["done"] / 100
    # No orders are left behind by those that took their place.
    for wallet in MAKERS:
        assert len(floor.gateway.views.resting(wallet)) <= 3 * 2 * len(floor.gateway.listings.pairs)


async def test_quotes_follow_what_a_pair_is_worth(floor: Floor) -> None:
    worth = Moving("61000")
    floor.trade(worth, takers=())
    await floor.settled()
    for price in ("61000", "61500", "59000.5", "30000"):
        worth.price = Decimal(price)
        await floor.pass_(5)
        book = floor.gateway.views.book("BTCUSD")
        assert book.bids[0][0] < worth.price < book.asks[0][0]
        assert book.asks[0][0] - book.bids[0][0] < worth.price / 500
    # What nobody knows the worth of is not offered, and is offered again once it is known.
    worth.price = None
    await floor.pass_(5)
    assert [(book.bids, book.asks) for book in floor.books()] == [([], [])] * 3
    worth.price = Decimal(30_000)
    await floor.pass_(5)
    assert all(book.bids and book.asks for book in floor.books())


async def test_small_moves_are_no_calls(floor: Floor) -> None:
    worth = Moving("61000")
    floor.trade(worth, makers=MAKERS[:1], takers=())
    await floor.pass_(5)
    before = floor.counted("done")
    worth.price = Decimal(61_001)
    await floor.pass_(10)
    assert floor.counted("done") == before
    await floor.pass_(20)
    assert floor.counted("done") > before


async def test_a_level_that_was_taken_is_there_again_with_the_next_quote(floor: Floor) -> None:
    worth = Moving("61000")
    floor.trade(worth, makers=MAKERS[:1], takers=())
    await floor.pass_(5)
    best = floor.gateway.views.book("BTCUSD").asks[0]
    await floor.gateway.market(TAKERS[0], "BTCUSD", buys=True, volume=best[1])
    assert len(floor.gateway.views.resting(MAKERS[0])) == 17
    worth.price = Decimal(61_500)
    await floor.pass_(5)
    assert len(floor.gateway.views.resting(MAKERS[0])) == 18
    assert floor.counted("not_found_previous") == 1


async def test_a_server_that_goes_away_is_found_again_and_nothing_rests_twice(floor: Floor) -> None:
    made: list[Broken] = []

    def wrap(api: Api) -> Api:
        made.append(Broken(api))
        return made[-1]

    worth = Moving("61000")
    floor.trade(worth, wrap, makers=MAKERS[:1], takers=TAKERS[:1])
    await floor.pass_(5)
    for each in made:
        each.deaf = True
    # Both a move and a silence after it: the maker does not know what rests.
    worth.price = Decimal(62_000)
    await floor.pass_(20)
    for each in made:
        each.away, each.deaf = True, False
    await floor.pass_(60)
    failed = floor.counted("failed")
    assert 0 < failed < 40
    for each in made:
        each.away = False
    await floor.pass_(60)
    assert len(floor.gateway.views.resting(MAKERS[0])) == 3 * 2 * 3
    book = floor.gateway.views.book("BTCUSD")
    assert Decimal(61_900) < book.bids[0][0] < worth.price < book.asks[0][0]


async def test_who_comes_back_clears_what_it_left(floor: Floor) -> None:
    floor.trade(Moving("61000"), makers=MAKERS[:1], takers=())
    await floor.pass_(5)
    await floor.hush()
    left = set(floor.gateway.views.resting(MAKERS[0]))
    assert len(left) == 18
    floor.trade(Moving("70000"), makers=MAKERS[:1], takers=())
    await floor.pass_(5)
    now = set(floor.gateway.views.resting(MAKERS[0]))
    assert len(now) == 18
    assert not left & now


async def test_a_pair_that_is_off_costs_the_others_nothing(floor: Floor) -> None:
    floor.trade(makers=MAKERS[:1], takers=TAKERS[:1])
    await floor.pass_(5)
    told = floor.gateway.listings
    off = {id_: msgspec.structs.replace(pair, on=id_ != "BTCUSD") for id_, pair in told.pairs.items()}
    await floor.gateway.relist(Listings(told.assets, off))
    await floor.pass_(90)
    assert floor.counted("failed") == 0
    assert floor.gateway.views.book("ETHUSD").bids
    assert floor.gateway.views.book("ETHUSD").at_ns > floor.clock.now_ns() - 60 * NS


async def test_furnishing_twice_is_once(floor: Floor) -> None:
    before = floor.gateway.views.balances("maker-1")
    assert {each.asset: each.total for each in before}["USD"] == Decimal(10_000_000)
    await furnish(floor.gateway, MAKERS, floor.gateway.listings)
    assert floor.gateway.views.balances("maker-1") == before
    # Another version gave another plenty: it stays what it was.
    await floor.gateway.move("furnish/anna/USD", "anna", "USD", Decimal(5))
    await furnish(floor.gateway, ["anna"], floor.gateway.listings)
    assert {each.asset: each.total for each in floor.gateway.views.balances("anna")}["USD"] == 5


async def test_a_walk_is_the_same_from_the_same_seed_and_never_goes_far() -> None:
    async def walked() -> list[Decimal | None]:
        clock = ManualClock(NOW_NS)
        walk = Walk(random.Random(3), clock)
        walk.begin(BTC, None)
        prices = []
        for _ in range(20_000):
            clock._now_ns += 3 * NS
            prices.append(walk.now(BTC))
        return prices

    prices = await walked()
    assert prices == await walked()
    assert len(set(prices)) > 5_000
    assert all(price is not None and Decimal(50_000) < price < Decimal(72_000) for price in prices)


async def test_an_anchor_is_the_middle_of_the_venues_newest_quote(boxes: Callable[[], Box]) -> None:
    box = boxes()
    for symbol, kind, money in (
        ("BTCUSDC", Kind.SPOT, "USDC"), ("BTCUSDT", Kind.SPOT, "USDT"), ("BTC-PERP", Kind.PERPETUAL, "USD"),
    ):  # fmt: skip
        box.outside.listed[symbol] = Instrument(
            venue="fake", symbol=symbol, kind=kind, coin="BTC", quote=money, settle=money, tick_size=Decimal("0.01"),
            lot_size=Decimal("0.001"),
        )  # fmt: skip
    anchor = Anchor(box.market, "fake", box.clock)
    anchor.begin(BTC, None)
    anchor.begin(BTC, None)
    await box.clock.advance(0)
    assert {name for name, _ in box.outside.followed_now} == {"fake:BTCUSDT"}
    assert anchor.now(BTC) is None

    def quote(bid: str | None, ask: str | None) -> None:
        now_ns = box.clock.now_ns()
        sides = [None if each is None else Decimal(each) for each in (bid, ask)]
        box.bus.publish([Quote("fake:BTCUSDT", now_ns, now_ns, sides[0], Decimal(1), sides[1], Decimal(1))])

    quote("100", "101")
    assert anchor.now(BTC) == Decimal("100.5")
    quote("102", "103")
    assert anchor.now(BTC) == Decimal("102.5")
    quote("102", None)
    assert anchor.now(BTC) is None
    quote("1e30", "2e30")
    assert anchor.now(BTC) is None
    quote("104", "105")
    await box.clock.advance(STALE_S + 1)
    assert anchor.now(BTC) is None
    # Nothing there is of this coin.
    anchor.begin(Traded("ETHEUR", "ETH", "EUR", 2, 8, Decimal(1)), None)
    await box.clock.advance(0)
    assert anchor.now(Traded("ETHEUR", "ETH", "EUR", 2, 8, Decimal(1))) is None
    await anchor.close()
    assert box.outside.followed_now == set()
