"""What is kept is what the engine and the naive exchange come to, the database refuses by itself, and questions are answered."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.exc import IntegrityError

from openoutcry.clock import ManualClock
from openoutcry.errors import Unavailable
from openoutcry.ledger.postings import ISSUANCE
from openoutcry.orders import (
    Bulk,
    Cancel,
    Change,
    Command,
    Item,
    Limit,
    Market,
    Move,
    Outcome,
    Relist,
    Status,
    Trade,
)
from openoutcry.stores.exchange import CACHE_KB, LOG_PAGES, SqlExchange
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.trading.engine import FEES
from openoutcry.trading.sequencer import Sequencer, engine_of, replayed
from openoutcry.trading.store import Numbered, Written
from tests.trading import shaped
from tests.trading.naive import ACTIVE, Naive
from tests.trading.shaped import ASSETS, LISTINGS, WALLETS, ids, said

TABLES = (
    *("exchange_log", "exchange_listings", "exchange_snapshots", "exchange_orders", "exchange_trades"),
    *("balances", "transfers", "postings"),
)
ALL = 10_000
LOOKS_MAX = 20_000


@pytest.fixture
def books(books_url: URL) -> Iterator[Engine]:
    """Goes around our code."""
    engine = create_engine(books_url)
    yield engine
    engine.dispose()


@pytest.fixture
def store(books_url: URL) -> Iterator[SqlExchange]:
    with closing(SqlExchange(books_url)) as made:
        yield made


def rows(books: Engine, asked: str) -> list[Any]:
    with books.begin() as connection:
        return [tuple(row) for row in connection.execute(text(asked))]


def run(books: Engine, *statements: str) -> None:
    with books.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


async def play(store: SqlExchange, batches: Sequence[Sequence[Command]]) -> list[list[Outcome]]:
    """Batch by batch, each a nanosecond after the other."""
    clock = ManualClock(1_000)
    sequencer = Sequencer(store, clock, Telemetry())
    await sequencer.start()
    outcomes = []
    for batch in batches:
        await clock.advance(1e-9)
        outcomes.append(list(await asyncio.gather(*map(sequencer.ask, batch))))
    await sequencer.close()
    return outcomes


def played(store: SqlExchange, *batches: Sequence[Command]) -> list[list[Outcome]]:
    return asyncio.run(play(store, batches))


def same_as_naive(books: Engine, naive: Naive) -> None:
    """Every row that is kept is what the naive exchange has; but for ids of trades and times, which it knows nothing of."""
    asked = 'SELECT id, wallet, pair, buys, ticks, lots, "left", reserve, status FROM exchange_orders ORDER BY place'
    assert [(*row[:3], bool(row[3]), *row[4:]) for row in rows(books, asked)] == [
        (o.id, o.wallet, o.pair, o.buys, o.ticks, o.lots, o.left, o.reserve, o.status) for o in naive.orders
    ]
    assert rows(books, "SELECT maker, taker, ticks, lots, quote FROM exchange_trades ORDER BY place") == naive.trades
    kept = {(owner, asset): (total, held) for owner, asset, total, held in rows(books, "SELECT * FROM balances")}
    brought = {asset: -sum(total for (_, of), (total, _) in kept.items() if of == asset) for asset in ASSETS}
    assert not any(brought.values())
    for wallet in (*WALLETS, FEES):
        for asset in ASSETS:
            assert kept.get((wallet, asset), (0, 0)) == (naive.total(wallet, asset), naive.held(wallet, asset))
    expected: list[tuple[str, str, int, int]] = []
    totals: dict[tuple[str, str], int] = {}
    for wallet, asset, units in naive.moves:
        if units:
            totals[wallet, asset] = totals.get((wallet, asset), 0) + units
            expected.append((wallet, asset, units, totals[wallet, asset]))
    asked = f"SELECT owner, asset, amount, total FROM postings WHERE owner <> '{ISSUANCE}' ORDER BY id"
    assert rows(books, asked) == expected
    for asset in ASSETS:
        issued = f"SELECT amount, total FROM postings WHERE owner = '{ISSUANCE}' AND asset = '{asset}' ORDER BY id"
        total = 0
        for amount, told in rows(books, issued):
            total += amount
            assert told == total


def test_what_is_kept_is_what_the_obvious_exchange_has(
    books_url: URL, books: Engine, store: SqlExchange, open_books: Callable[[], SqlLedger]
) -> None:
    ledger = open_books()

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.one_of(st.integers(1, 1_500), st.integers(1, 150)), min_size=9, max_size=9),
        shaped.asked,
        st.lists(st.integers(1, 12), min_size=1, max_size=10),
    )
    def hold(funds: list[int], asked: list[Any], sizes: list[int]) -> None:
        run(books, *(f"DELETE FROM {table}" for table in TABLES))
        naive, known = Naive(LISTINGS), list[str]()
        commands: list[Command] = [
            Move(f"m{n}", WALLETS[n // 3], list(ASSETS)[n % 3], units) for n, units in enumerate(funds)
        ]
        for n, make in enumerate(asked):
            commands.append(make(f"o{n}", known))
            known += ids(commands[-1])
        batches: list[Sequence[Command]] = [[Relist(LISTINGS.told())]]
        while commands:
            size = sizes[len(batches) % len(sizes)]
            batches.append(commands[:size])
            del commands[:size]
        outcomes = played(store, *batches)
        assert [[said(outcome) for outcome in each] for each in outcomes[1:]] == [
            [naive.obey(command) or None for command in batch] for batch in batches[1:]
        ]
        same_as_naive(books, naive)
        assert ledger.check() == []
        logged = [each.command for each in store.log(0)]
        assert logged == [command for batch in batches for command in batch]
        number, again, kept = replayed(store, whole=True)
        assert (number, again) == (len(logged), kept)
        for wallet in WALLETS:
            for active in (True, False):
                told = store.orders(wallet, None, active=active, offset=0, limit=ALL)
                mine = [o.id for o in naive.orders if o.wallet == wallet and (o.status in ACTIVE) is active]
                assert [change.id for change in told] == mine[::-1]
                assert all(store.order(wallet, change.id) == change for change in told)

    hold()


# -- what a wallet may ask


@pytest.fixture
def full(store: SqlExchange) -> SqlExchange:
    """Three wallets, two pairs, a trade every two nanoseconds and orders in every state."""
    moves = [Move(f"{wallet}{asset}", wallet, asset, 10_000_000) for wallet in WALLETS for asset in ASSETS]
    batches: list[list[Command]] = [[Relist(LISTINGS.told()), *moves]]
    for n in range(24):
        taker = "ac"[n % 2]
        pair, maker_buys = ("BTCUSD", "EURUSD")[n % 3 == 2], n % 5 == 0
        ticks = 9_999 if maker_buys else 10_001
        batches.append([Limit(f"m{n}", "b", pair, maker_buys, 6 if pair == "EURUSD" else 9, ticks)])
        batches.append([Market(f"t{n}", taker, pair, not maker_buys, 4 + n % 3)])
    batches.append([Limit(f"r{n}", WALLETS[n % 3], ("BTCUSD", "EURUSD")[n % 2], True, 5, 9_000 - n) for n in range(9)])
    batches.append([Cancel("a", "r0"), Bulk("b", "EURUSD", (Item("r9", True, 5, 9_000, old="r1"),))])
    outcomes = played(store, *batches)
    refused = [outcome.refused for each in outcomes for outcome in each if outcome.refused is not None]
    assert refused == []
    return store


def every_trade(books: Engine, store: SqlExchange) -> list[Trade]:
    """Newest first, told by another way than the questions under test."""
    pages = [store.public_trades(pair, 0, ALL) for pair in LISTINGS.pairs]
    told = {trade.id: trade for page in pages for trade in page}
    places = rows(books, "SELECT place FROM exchange_trades ORDER BY place DESC")
    return [told[f"{place >> 20}-{place % (1 << 20)}"] for (place,) in places]


def test_trades_of_a_wallet_are_found_as_in_a_list_of_all(full: SqlExchange, books: Engine) -> None:
    trades = every_trade(books, full)
    assert len(trades) > 20
    times = sorted(trade.at_ns for trade in trades)
    orders = [None, *sorted({trade.maker for trade in trades} | {trade.taker for trade in trades})[::16]]
    ranges = ((None, None), (times[3], None), (times[3], times[-4]))
    asked = itertools.product((*WALLETS, "nobody"), (None, "BTCUSD", "EURUSD"), (None, True, False), orders, ranges)
    for wallet, pair, buys, order, (after, until) in asked:
        mine = [
            trade
            for trade in trades
            if wallet in (trade.maker_wallet, trade.taker_wallet)
            and pair in (None, trade.pair)
            and (order is None or order == (trade.maker if trade.maker_wallet == wallet else trade.taker))
            and (buys is None or buys is (trade.taker_buys is (trade.taker_wallet == wallet)))
            and (after is None or trade.at_ns > after)
            and (until is None or trade.at_ns <= until)
        ]
        for offset, limit in ((0, ALL), (1, 3)):
            told = full.trades(
                wallet, pair=pair, order=order, buys=buys, after_ns=after, until_ns=until, offset=offset, limit=limit
            )
            assert told == mine[offset : offset + limit]
    assert full.trades("b", offset=90) == full.trades("b", limit=0) == []


def test_public_trades_are_those_of_the_pair_newest_first(full: SqlExchange, books: Engine) -> None:
    trades = every_trade(books, full)
    for pair in (*LISTINGS.pairs, "NOWT"):
        those = [trade for trade in trades if trade.pair == pair]
        for offset, limit in ((0, ALL), (0, 3), (2, 4), (90, 3)):
            assert full.public_trades(pair, offset, limit) == those[offset : offset + limit]
    assert [trade.at_ns for trade in trades] == sorted((trade.at_ns for trade in trades), reverse=True)


def test_orders_of_a_wallet_are_found_by_pair_and_page(full: SqlExchange, books: Engine) -> None:
    every = [
        change
        for (id_, wallet) in rows(books, "SELECT id, wallet FROM exchange_orders ORDER BY place DESC")
        if (change := full.order(wallet, id_)) is not None
    ]
    assert {change.status for change in every} == set(Status)
    for wallet in (*WALLETS, "nobody"):
        for pair in (None, "BTCUSD", "EURUSD", "NOWT"):
            for active in (True, False):
                mine = [
                    change
                    for change in every
                    if change.wallet == wallet
                    and pair in (None, change.pair)
                    and active is (change.status.value in ACTIVE)
                ]
                for offset, limit in ((0, ALL), (1, 2), (2, 100), (90, 1)):
                    told = full.orders(wallet, pair, active=active, offset=offset, limit=limit)
                    assert told == mine[offset : offset + limit]


def test_nobody_sees_an_order_or_trade_that_is_not_his(full: SqlExchange) -> None:
    assert full.order("b", "m0") is not None
    assert full.order("a", "m0") is None
    assert full.order("b", "nowt") is None
    trades = full.trades("b", order="m0")
    assert {trade.taker_wallet for trade in trades} == {"a"}
    assert full.trades("a", order="t0") == [trades[-1]]
    # It took part in the trade, but as another order; and the third wallet not at all.
    assert full.trades("a", order="m0") == []
    assert full.trades("c", order="m0") == full.trades("c", order="t0") == []


def test_what_was_moved_is_known_by_its_id(full: SqlExchange) -> None:
    assert full.moved(["aBTC", "cUSD", "nowt"]) == {
        "aBTC": Move("aBTC", "a", "BTC", 10_000_000),
        "cUSD": Move("cUSD", "c", "USD", 10_000_000),
    }
    played(full, [Move("out", "a", "BTC", -7)])
    many = [f"n{n}" for n in range(2_500)]
    assert full.moved([*many, "out"]) == {"out": Move("out", "a", "BTC", -7)}


# -- what must not be


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE exchange_orders SET \"left\" = -1 WHERE id = 'r2'",
        "UPDATE exchange_orders SET \"left\" = lots + 1 WHERE id = 'r2'",
        "UPDATE exchange_orders SET \"left\" = 0 WHERE id = 'r2'",
        "UPDATE exchange_orders SET lots = 0, \"left\" = 0 WHERE id = 'm0'",
        "UPDATE exchange_orders SET reserve = 0 WHERE id = 'r2'",
        "UPDATE exchange_orders SET reserve = -1 WHERE id = 'r0'",
        "UPDATE exchange_orders SET reserve = 1 WHERE id = 'r0'",
        "UPDATE exchange_orders SET status = 'matched' WHERE id = 'r0'",
        "UPDATE exchange_orders SET status = 'cancelled' WHERE id = 'r2'",
        "UPDATE exchange_orders SET status = 'elsewhere' WHERE id = 'r0'",
        "UPDATE exchange_orders SET status = NULL WHERE id = 'r0'",
        "UPDATE exchange_orders SET id = 'r3' WHERE id = 'r2'",
        "UPDATE exchange_orders SET place = (SELECT place FROM exchange_orders WHERE id = 'r3') WHERE id = 'r2'",
        "UPDATE exchange_trades SET lots = 0",
        "UPDATE exchange_trades SET quote = 0",
        "UPDATE exchange_trades SET ticks = 0",
        "UPDATE exchange_trades SET maker_fee = -1",
        "UPDATE exchange_trades SET maker_wallet = taker_wallet",
        "INSERT INTO exchange_trades SELECT * FROM exchange_trades",
        "INSERT INTO exchange_log SELECT * FROM exchange_log",
        "UPDATE exchange_log SET last = first - 1",
        "UPDATE balances SET held = total + 1 WHERE owner = 'a' AND asset = 'USD'",
        "UPDATE balances SET total = -1, held = 0 WHERE owner = 'a' AND asset = 'USD'",
        "INSERT INTO transfers SELECT * FROM transfers",
    ],
)
def test_the_database_refuses_what_our_code_would_never_do(
    full: SqlExchange, books: Engine, open_books: Callable[[], SqlLedger], statement: str
) -> None:
    with pytest.raises(IntegrityError):
        run(books, statement)
    assert open_books().check() == []
    assert replayed(full, whole=True)[1:] == (replayed(full)[1],) * 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE balances SET held = held - 1 WHERE owner = 'b' AND asset = 'USD'",
        "UPDATE exchange_orders SET reserve = reserve + 1 WHERE id = 'r2'",
        "DELETE FROM exchange_orders WHERE id = 'r2'",
        "UPDATE exchange_orders SET wallet = 'a' WHERE id = 'r4'",
        "UPDATE exchange_orders SET gives = 'EUR' WHERE id = 'r2'",
    ],
)
def test_the_check_finds_a_reserve_that_is_not_held(
    full: SqlExchange, books: Engine, open_books: Callable[[], SqlLedger], statement: str
) -> None:
    ledger = open_books()
    assert ledger.check() == []
    run(books, statement)
    assert any(each.startswith("held is not the sum of open holds and resting orders") for each in ledger.check())


def test_a_batch_is_written_whole_or_not_at_all(
    full: SqlExchange, books: Engine, open_books: Callable[[], SqlLedger]
) -> None:
    before = [rows(books, f"SELECT * FROM {table} ORDER BY 1") for table in TABLES]
    kept = full.load()
    number = kept.number + 1
    resting = kept.orders[0]
    logged = [Numbered(number, 9_999, Cancel("a", "nowt"))]
    unheard = Change(
        *("x", resting.place + 1, "a", "BTCUSD", True, False, 9_000, 5, 5, 450, Status.PLACED, 1, 1, None),
    )
    trade = Trade(f"{number}-0", "BTCUSD", 1, 10_000, 3, 30, True, "r2", "c", "x", "a")
    for broken in (
        Written(commands=[Numbered(number - 2, 9_999, Cancel("a", "nowt"))]),  # that number is taken
        Written(commands=logged, changes=[(unheard, "USD")]),  # an order that rested, but does not
        Written(commands=logged, changes=[(_with(resting, place=number << 20), "USD")]),  # a new one with an old id
        Written(commands=logged, held=[kept.held[0]._replace(held=-1)]),
        Written(commands=logged, moved=[Move("aBTC", "a", "BTC", 1)], held=kept.held),  # it was moved before
        Written(commands=logged, moved=[trade, trade], held=kept.held),
    ):
        with pytest.raises(Unavailable):
            full.commit(broken)
        assert [rows(books, f"SELECT * FROM {table} ORDER BY 1") for table in TABLES] == before
    assert engine_of(full.load()).digest() == engine_of(kept).digest()
    assert open_books().check() == []


def _with(change: Change, *, place: int) -> Change:
    values = {name: getattr(change, name) for name in Change.__struct_fields__}
    return Change(**values | {"place": place})


class Told(SqlExchange):
    """Says how SQLite works for it."""

    def pragmas(self, *names: str) -> list[Any]:
        with self._writer.begin() as connection:
            return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]


def test_sqlite_has_room_and_still_waits_for_the_disk(tmp_path: Path) -> None:
    with closing(Told(sqlite_url(tmp_path / "ledger.sqlite3"))) as store:
        told = store.pragmas("journal_mode", "synchronous", "cache_size", "wal_autocheckpoint")
        assert told == ["wal", 2, -CACHE_KB, LOG_PAGES]


def test_what_is_under_way_in_postgresql_ends_before_it_is_read_again(postgres_url: str) -> None:
    """A commit whose connection was lost may still be at work: it is waited for, and then counted."""
    engine = create_engine(postgres_url)
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with closing(SqlExchange(postgres_url)) as store, ThreadPoolExecutor(1) as pool:
        played(store, [Relist(LISTINGS.told())])
        with engine.begin() as other, engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watch:
            other.execute(text("INSERT INTO exchange_log SELECT 2, 2, at_ns, body FROM exchange_log"))
            reading = pool.submit(store.load)
            for _ in range(LOOKS_MAX):
                if watch.scalar(waiting) or reading.done():
                    break
        assert reading.result().number == 2
    engine.dispose()
