"""The engine does what the obvious exchange does; whatever is asked, no money is made or lost, and the book is never crossed."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry.ledger.postings import ISSUANCE
from openoutcry.orders import (
    Bulk,
    Cancel,
    CancelMode,
    Code,
    Command,
    Item,
    ItemDone,
    Limit,
    Market,
    Move,
    Relist,
    Status,
)
from openoutcry.trading.engine import FEES, Engine
from openoutcry.trading.listings import Listings
from tests.trading import shaped
from tests.trading.naive import Naive
from tests.trading.shaped import ASSETS, LISTINGS, PAIR, WALLETS, ids, said


def _sound(engine: Engine) -> None:
    """What must hold after every command."""
    reserved: dict[tuple[str, str], int] = {}
    for id_, book in engine.books.items():
        for side, gives in ((book.bids, book.pair.quote), (book.asks, book.pair.base)):
            for level in side.levels():
                assert level.lots == sum(order.left for order in level.orders.values()) > 0
            resting = list(side.orders())
            assert len(resting) == side.count
            places = [(order.ticks if side is book.asks else -order.ticks, order.place) for order in resting]
            assert places == sorted(places)
            for order in resting:
                assert order.pair == id_
                assert 0 < order.left <= order.lots
                assert order.reserve > 0
                assert engine.orders[order.id] is order is book.mine[order.wallet][order.id]
                reserved[order.wallet, gives] = reserved.get((order.wallet, gives), 0) + order.reserve
        bid, ask = book.bids.best, book.asks.best
        assert bid is None or ask is None or bid < ask
    assert sum(book.bids.count + book.asks.count for book in engine.books.values()) == len(engine.orders)
    sums: dict[str, int] = {}
    for purse in engine.purses():
        sums[purse.asset] = sums.get(purse.asset, 0) + purse.total
        if purse.wallet != ISSUANCE:
            assert 0 <= purse.held <= purse.total
        assert purse.held == reserved.get((purse.wallet, purse.asset), 0)
    assert not any(sums.values())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 1_500), st.integers(0, 150)), min_size=9, max_size=9), shaped.asked)
def test_the_engine_does_what_the_obvious_exchange_does(funds: list[int], asked: list[Any]) -> None:
    engine, naive = Engine(LISTINGS), Naive(LISTINGS)
    known: list[str] = []
    commands: list[Command] = [
        Move(f"m{n}", WALLETS[n // 3], list(ASSETS)[n % 3], units) for n, units in enumerate(funds)
    ]
    brought = dict.fromkeys(ASSETS, 0)
    done: list[tuple[int, Command]] = []
    for number, make in enumerate([*commands, *asked]):
        command = make if number < len(commands) else make(f"o{number}", known)
        outcome = engine.obey(number, 1_000 + number, command)
        assert said(outcome) == (naive.obey(command) or None)
        done.append((number, command))
        known += ids(command)
        if isinstance(command, Move) and outcome.refused is None:
            brought[command.asset] += command.units
        _sound(engine)
        for asset, units in brought.items():
            assert engine.purse(ISSUANCE, asset).total == -units
        for wallet in (*WALLETS, FEES):
            for asset in ASSETS:
                purse = engine.purse(wallet, asset)
                assert (purse.total, purse.held) == (naive.total(wallet, asset), naive.held(wallet, asset))
        if outcome.refused is not None:
            assert (outcome.changes, outcome.trades) == ((), ())
    for id_, book in engine.books.items():
        for buys, side in ((True, book.bids), (False, book.asks)):
            assert [(o.id, o.left, o.reserve, o.status.value) for o in side.orders()] == [
                (o.id, o.left, o.reserve, o.status) for o in naive.resting(id_, buys=buys)
            ]
    again = Engine(LISTINGS)
    for number, command in done:
        again.obey(number, 1_000 + number, command)
    assert again.digest() == engine.digest()


def engine_with(*funds: tuple[str, str, int]) -> Engine:
    engine = Engine(LISTINGS)
    for number, (wallet, asset, units) in enumerate(funds):
        assert engine.obey(number, 0, Move(f"m{number}", wallet, asset, units)).refused is None
    return engine


def test_a_taker_gets_the_price_of_whoever_was_there_first() -> None:
    engine = engine_with(("a", "BTC", 20), ("b", "BTC", 20), ("c", "USD", 100_000))
    engine.obey(10, 10, Limit("a1", "a", "BTCUSD", False, 5, 10_100))
    engine.obey(11, 11, Limit("b1", "b", "BTCUSD", False, 5, 10_000))
    engine.obey(12, 12, Limit("a2", "a", "BTCUSD", False, 5, 10_000))
    outcome = engine.obey(13, 13, Limit("c1", "c", "BTCUSD", True, 12, 10_200))
    assert [(t.maker, t.lots, t.ticks, t.quote, t.taker_buys) for t in outcome.trades] == [
        ("b1", 5, 10_000, 50, True),
        ("a2", 5, 10_000, 50, True),
        # 2 lots of 0.001 at 101.00 are 20.2 cents: whoever takes pays the whole cent.
        ("a1", 2, 10_100, 21, True),
    ]
    assert [(c.id, c.status, c.left) for c in outcome.changes] == [
        ("b1", Status.MATCHED, 0),
        ("a2", Status.MATCHED, 0),
        ("a1", Status.PARTIALLY_MATCHED, 3),
        ("c1", Status.MATCHED, 0),
    ]
    assert engine.purse("c", "USD").total == 100_000 - 121


def test_a_rest_below_the_least_volume_is_cancelled_on_either_side() -> None:
    engine = engine_with(("a", "BTC", 20), ("c", "USD", 100_000))
    engine.obey(10, 10, Limit("a1", "a", "BTCUSD", False, 5, 10_000))
    outcome = engine.obey(11, 11, Limit("c1", "c", "BTCUSD", True, 3, 10_000))
    assert [(c.id, c.status, c.left) for c in outcome.changes] == [
        ("a1", Status.CANCELLED, 2),
        ("c1", Status.MATCHED, 0),
    ]
    engine.obey(12, 12, Limit("a2", "a", "BTCUSD", False, 5, 10_000))
    outcome = engine.obey(13, 13, Limit("c2", "c", "BTCUSD", True, 7, 10_000))
    assert outcome.changes[-1].status is Status.CANCELLED
    assert outcome.changes[-1].left == 2
    assert not engine.orders
    assert engine.purse("a", "BTC").held == engine.purse("c", "USD").held == 0


def test_an_own_order_in_the_way_refuses_a_limit_whole_and_is_skipped_by_a_market() -> None:
    engine = engine_with(("a", "BTC", 20), ("c", "BTC", 20), ("c", "USD", 100_000))
    engine.obey(10, 10, Limit("a1", "a", "BTCUSD", False, 5, 10_000))
    engine.obey(11, 11, Limit("c1", "c", "BTCUSD", False, 5, 10_001))
    engine.obey(12, 12, Limit("a2", "a", "BTCUSD", False, 5, 10_002))
    before = engine.digest()
    assert engine.obey(13, 13, Limit("c2", "c", "BTCUSD", True, 8, 10_002)).refused is Code.NEGATIVE_SPREAD
    assert engine.digest() == before
    # It stops before it would reach the own one.
    assert engine.obey(14, 14, Limit("c3", "c", "BTCUSD", True, 5, 10_002)).refused is None
    outcome = engine.obey(15, 15, Market("c4", "c", "BTCUSD", True, 5))
    assert [trade.maker for trade in outcome.trades] == ["a2"]
    assert outcome.ticks == 10_002
    assert engine.obey(16, 16, Market("c5", "c", "BTCUSD", True, 5)).refused is Code.NO_LIQUIDITY


def test_a_market_order_is_filled_whole_or_not_at_all_at_the_average_rounded_against_it() -> None:
    engine = engine_with(("a", "BTC", 20), ("c", "USD", 1_000), ("b", "USD", 90))
    engine.obey(10, 10, Limit("a1", "a", "BTCUSD", False, 5, 10_000))
    engine.obey(11, 11, Limit("a2", "a", "BTCUSD", False, 5, 10_001))
    assert engine.obey(12, 12, Market("c1", "c", "BTCUSD", True, 11)).refused is Code.NO_LIQUIDITY
    assert engine.obey(13, 13, Market("b1", "b", "BTCUSD", True, 9)).refused is Code.NOT_ENOUGH_FUNDS
    outcome = engine.obey(14, 14, Market("c2", "c", "BTCUSD", True, 7))
    assert (outcome.refused, outcome.ticks) == (None, 10_001)  # 10,000.28...
    assert outcome.changes[-1].market
    assert outcome.changes[-1].status is Status.MATCHED


def test_a_bulk_replaces_then_cancels_then_places_and_each_item_has_its_own_answer() -> None:
    engine = engine_with(("a", "BTC", 10), ("a", "USD", 1_000))
    engine.obey(10, 10, Limit("old", "a", "BTCUSD", False, 10, 10_000))
    engine.obey(11, 11, Limit("buy", "a", "BTCUSD", True, 10, 9_000))
    items = (
        Item("n1", False, 10, 10_100, old="old"),  # what the old one reserved is free again
        Item("n2", False, 5, 10_100),
        Item("n3", True, 10, 9_000, old="nowt"),
        Item("n4", True, 10, 9_100, refused=Code.INVALID_PRICE_ACCURACY),
        Item("n5", True, 1, 9_100),
    )
    outcome = engine.obey(12, 12, Bulk("a", "BTCUSD", items))
    assert outcome.items == (
        ItemDone("n1", None),
        ItemDone("n2", Code.NOT_ENOUGH_FUNDS),
        ItemDone("n3", Code.NOT_FOUND_PREVIOUS),
        ItemDone("n4", Code.INVALID_PRICE_ACCURACY),
        ItemDone("n5", Code.TOO_SMALL_VOLUME),
    )
    assert [(c.id, c.status) for c in outcome.changes] == [("old", Status.REPLACED), ("n1", Status.PLACED)]
    assert set(engine.orders) == {"buy", "n1"}
    outcome = engine.obey(13, 13, Bulk("a", "BTCUSD", (Item("n6", True, 5, 9_000),), CancelMode.NOT_EMPTY_SIDE))
    assert set(engine.orders) == {"n1", "n6"}
    assert engine.obey(14, 14, Bulk("a", "BTCUSD", (), CancelMode.NOT_EMPTY_SIDE)).changes == ()
    engine.obey(15, 15, Bulk("a", "BTCUSD", (), CancelMode.BOTH_SIDES))
    assert not engine.orders


def test_nobody_cancels_what_is_not_his() -> None:
    engine = engine_with(("a", "BTC", 10))
    engine.obey(10, 10, Limit("a1", "a", "BTCUSD", False, 10, 10_000))
    assert engine.obey(11, 11, Cancel("b", "a1")).refused is Code.NOT_FOUND
    items = (Item("b1", False, 3, 10_000, old="a1"),)
    assert engine.obey(12, 12, Bulk("b", "BTCUSD", items)).items[0].refused is Code.NOT_FOUND_PREVIOUS
    assert set(engine.orders) == {"a1"}


def test_what_was_kept_is_loaded_again() -> None:
    engine = engine_with(("a", "BTC", 20), ("c", "USD", 100_000))
    for number in range(10, 20):
        engine.obey(number, number, Limit(f"a{number}", "a", "BTCUSD", False, 3, 10_000 + number % 3))
    engine.obey(20, 20, Limit("c1", "c", "BTCUSD", True, 4, 10_000))
    again = Engine(LISTINGS)
    again.load(engine.purses(), reversed(list(engine.orders.values())))
    assert again.digest() == engine.digest()


def test_fills_that_cost_more_together_than_the_whole_are_refused_for_lack_of_money() -> None:
    """Three lots at 100.01 are 30.003 cents, 31 when rounded; six are 61, and not twice 31."""
    engine = engine_with(("a", "BTC", 6), ("c", "USD", 61), ("d", "USD", 62))
    engine.obey(10, 10, Limit("a1", "a", "BTCUSD", False, 3, 10_001))
    engine.obey(11, 11, Limit("a2", "a", "BTCUSD", False, 3, 10_001))
    before = engine.digest()
    assert engine.obey(12, 12, Limit("c1", "c", "BTCUSD", True, 6, 10_001)).refused is Code.NOT_ENOUGH_FUNDS
    assert engine.digest() == before
    assert engine.obey(13, 13, Limit("d1", "d", "BTCUSD", True, 6, 10_001)).refused is None
    assert engine.purse("d", "USD").total == 0


def test_money_that_ends_before_the_last_order_it_needs_is_a_lack_of_liquidity() -> None:
    engine = engine_with(("a", "BTC", 9), ("c", "USD", 45))
    for number in (10, 11, 12):
        engine.obey(number, number, Limit(f"a{number}", "a", "BTCUSD", False, 3, 10_000))
    assert engine.obey(13, 13, Market("c1", "c", "BTCUSD", True, 9)).refused is Code.NO_LIQUIDITY
    assert engine.obey(14, 14, Market("c2", "c", "BTCUSD", True, 6)).refused is Code.NOT_ENOUGH_FUNDS


def test_other_rules_count_from_then_on_and_come_again_with_the_commands() -> None:
    engine = engine_with(("a", "BTC", 20))
    engine.obey(10, 10, Limit("a1", "a", "BTCUSD", False, 3, 10_000))
    later = Listings(ASSETS, {**LISTINGS.pairs, PAIR.id: msgspec.structs.replace(PAIR, lots_min=4, on=True)})
    assert Listings.read(later.told()) == later
    assert engine.obey(11, 11, Relist(later.told())).refused is None
    assert engine.obey(12, 12, Limit("a2", "a", "BTCUSD", False, 3, 10_000)).refused is Code.TOO_SMALL_VOLUME
    off = Listings(ASSETS, {**LISTINGS.pairs, PAIR.id: msgspec.structs.replace(PAIR, on=False)})
    engine.obey(13, 13, Relist(off.told()))
    assert engine.obey(14, 14, Limit("a3", "a", "BTCUSD", False, 5, 10_000)).refused is Code.DISABLED
    assert engine.obey(15, 15, Cancel("a", "a1")).refused is None
