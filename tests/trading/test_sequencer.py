"""Commands are numbered, written together and answered after; what fails has changed nothing, and what was written counts."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import URL, Connection, create_engine, text

from openoutcry.clock import ManualClock
from openoutcry.errors import LimitExceeded, Unavailable
from openoutcry.orders import Bulk, Cancel, Code, Command, Item, Limit, Market, Move, Outcome, Relist
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.trading.engine import PLACES
from openoutcry.trading.listings import Listings
from openoutcry.trading.sequencer import (
    CROWDED_RETRY_S,
    RELOAD_S,
    RELOADS_MAX,
    Level,
    Published,
    Sequencer,
    engine_of,
    fits,
    replayed,
)
from openoutcry.trading.store import Held, Kept, Numbered, Written
from tests.trading.shaped import ASSETS, LISTINGS, PAIR

LOOKS_MAX = 100_000
BEGUN = (Relist(LISTINGS.told()), Move("m1", "a", "BTC", 100), Move("m2", "b", "USD", 100_000))


class Failing(SqlExchange):
    """The real store, which fails as often as it is told to: before its real commit, after it, or when it is read."""

    def __init__(self, url: URL | str) -> None:
        super().__init__(url)
        self.before = self.after = self.loads = 0

    def commit(self, written: Written) -> None:
        if self.before:
            self.before -= 1
            raise Unavailable("store", "it failed before")
        super().commit(written)
        if self.after:
            self.after -= 1
            raise Unavailable("store", "the answer was lost")

    def load(self) -> Kept:
        if self.loads:
            self.loads -= 1
            raise Unavailable("store", "it cannot be read")
        return super().load()


class Slow(SqlExchange):
    """The real store, which says when a commit begins, and goes on when it is told to."""

    def __init__(self, url: URL | str) -> None:
        super().__init__(url)
        self.begun, self.may = threading.Event(), threading.Event()
        self.may.set()

    def commit(self, written: Written) -> None:
        self.begun.set()
        assert self.may.wait(10)
        super().commit(written)

    def stop(self) -> None:
        self.begun.clear()
        self.may.clear()


class Desk:
    """A sequencer on a store, begun; and what it published since."""

    def __init__(self, store: SqlExchange, clock: ManualClock, **limits: int) -> None:
        self.store, self.clock = store, clock
        self.sequencer = Sequencer(store, clock, Telemetry(), **limits)
        self.told: list[Published] = []
        self.sequencer.listen(self.told.append)

    async def begin(self) -> "Desk":
        kept = await self.sequencer.start()
        if not kept.number:
            for command in BEGUN:
                assert (await self.sequencer.ask(command)).refused is None
        self.told.clear()
        return self

    async def asks(self, *commands: Command) -> list[Outcome]:
        return list(await asyncio.gather(*map(self.sequencer.ask, commands)))

    async def waits(self, *commands: Command) -> list[asyncio.Task[Outcome]]:
        """They are asked, and not answered."""
        tasks = [asyncio.create_task(self.sequencer.ask(command)) for command in commands]
        await asyncio.sleep(0)
        return tasks

    async def asks_in_time(self, *commands: Command) -> list[Outcome]:
        """As `asks`, while the clock goes on."""
        asked = asyncio.create_task(self.asks(*commands))
        for _ in range(LOOKS_MAX):
            if asked.done():
                break
            await self.clock.advance(RELOAD_S)
        return await asked

    def digest(self) -> str:
        return engine_of(self.store.load()).digest()


@pytest.fixture
def url(tmp_path: Path) -> URL:
    return sqlite_url(tmp_path / "ledger.sqlite3")


Open = Callable[..., Any]


@pytest.fixture
def opens(books_url: URL) -> Iterator[Open]:
    """Opens a store of the kind it is given, closed at the end."""
    with ExitStack() as stack:
        yield lambda kind=SqlExchange: stack.enter_context(closing(kind(books_url)))


def sells(id_: str, lots: int = 5, ticks: int = 10_000) -> Limit:
    return Limit(id_, "a", "BTCUSD", False, lots, ticks)


def buys(id_: str, lots: int = 5, ticks: int = 10_000) -> Limit:
    return Limit(id_, "b", "BTCUSD", True, lots, ticks)


def refusals(outcomes: Sequence[Outcome]) -> list[Code | None]:
    return [outcome.refused for outcome in outcomes]


def balanced(url: URL) -> None:
    with closing(SqlLedger(url)) as ledger:
        assert ledger.check() == []


# -- numbers and batches


async def test_what_waits_together_is_one_batch_numbered_in_the_order_it_came(opens: Open) -> None:
    desk = await Desk(opens(), ManualClock(1_000)).begin()
    await desk.clock.advance(1e-6)
    outcomes = await desk.asks(sells("s1"), buys("b1", 3), Cancel("a", "nowt"), Market("b2", "b", "BTCUSD", True, 9))
    assert refusals(outcomes) == [None, None, Code.NOT_FOUND, Code.NO_LIQUIDITY]
    (told,) = desk.told
    assert told.at_ns == 2_000
    assert [each.number for each, _ in told.done] == [4, 5, 6, 7]
    assert [outcome for _, outcome in told.done] == outcomes
    # As they are now: the seller's order left two, less than the least volume.
    assert told.levels == [Level("BTCUSD", False, 10_000, 0)]
    assert sorted(told.held) == [
        Held("a", "BTC", 97, 0),
        Held("a", "USD", 30, 0),
        Held("b", "BTC", 3, 0),
        Held("b", "USD", 99_970, 0),
    ]
    assert told.listings is None
    assert list(desk.store.log(3)) == [each for each, _ in told.done]
    assert list(desk.store.log(5)) == [each for each, _ in told.done][2:]
    change = desk.store.order("b", "b1")
    assert change is not None
    assert (change.place, change.made_ns) == (5 * PLACES + 1, 2_000)
    await desk.sequencer.close()


async def test_a_batch_is_no_larger_than_it_may_be_and_each_order_of_a_bulk_counts(url: URL) -> None:
    items = tuple(Item(f"i{n}", False, 3, 11_000 + n) for n in range(5))
    with closing(SqlExchange(url)) as store:
        desk = await Desk(store, ManualClock(), batch_max=3).begin()
        commands: list[Command] = [
            sells("s1"),
            sells("s2"),
            Bulk("a", "BTCUSD", ()),
            sells("s3"),
            Bulk("a", "BTCUSD", items),
        ]
        await desk.asks(*commands, sells("s4"), Bulk("a", "BTCUSD", items[:2]), sells("s5"))
        assert [len(told.done) for told in desk.told] == [3, 1, 1, 2, 1]
        await desk.sequencer.close()


async def test_time_does_not_go_back_in_the_log(opens: Open) -> None:
    desk = await Desk(opens(), ManualClock(1_000)).begin()
    await desk.sequencer.close()
    desk = await Desk(opens(), ManualClock(5)).begin()
    await desk.asks(sells("s1"))
    assert [each.at_ns for each in desk.store.log(0)] == [1_000] * 4
    await desk.sequencer.close()


# -- who asks


async def test_nobody_is_answered_or_told_before_it_is_written(url: URL) -> None:
    with closing(Slow(url)) as store, closing(SqlExchange(url)) as other:
        desk = await Desk(store, ManualClock()).begin()
        store.stop()
        tasks = await desk.waits(sells("s1"), buys("b1"))
        await asyncio.to_thread(store.begun.wait, 10)
        assert not any(task.done() for task in tasks)
        assert desk.told == []
        assert list(other.log(3)) == []
        store.may.set()
        # Whoever listens knows it before whoever asked goes on.
        heard: list[int] = []
        tasks[0].add_done_callback(lambda _: heard.append(len(desk.told)))
        assert refusals(await asyncio.gather(*tasks)) == [None, None]
        assert heard == [1]
        assert len(list(other.log(3))) == 2
        await desk.sequencer.close()


async def test_whoever_goes_away_stops_nothing(url: URL) -> None:
    with closing(Slow(url)) as store:
        desk = await Desk(store, ManualClock()).begin()
        store.stop()
        at_work = await desk.waits(sells("s1"), sells("s2"))
        await asyncio.to_thread(store.begun.wait, 10)
        waiting = await desk.waits(sells("s3"), sells("s4"))
        for task in (at_work[0], waiting[0]):
            task.cancel()
        store.may.set()
        gone = await asyncio.gather(*at_work, *waiting, return_exceptions=True)
        assert [type(each) for each in gone] == [asyncio.CancelledError, Outcome] * 2
        assert [change.id for change in store.orders("a", None, active=True, offset=0, limit=9)] == [
            *("s4", "s3", "s2", "s1"),
        ]
        await desk.sequencer.close()


async def test_more_than_may_wait_are_sent_away(url: URL) -> None:
    with closing(Slow(url)) as store:
        desk = await Desk(store, ManualClock(), queue_max=2).begin()
        store.stop()
        tasks = await desk.waits(sells("s1"))
        await asyncio.to_thread(store.begun.wait, 10)
        tasks += await desk.waits(sells("s2"), sells("s3"))
        with pytest.raises(LimitExceeded) as caught:
            await desk.sequencer.ask(sells("s4"))
        assert caught.value.retry_s == CROWDED_RETRY_S
        store.may.set()
        assert refusals(await asyncio.gather(*tasks)) == [None] * 3
        assert refusals(await desk.asks(sells("s5"))) == [None]
        assert store.order("a", "s4") is None
        await desk.sequencer.close()


async def test_closing_does_what_was_asked_and_takes_no_more(url: URL) -> None:
    with closing(Slow(url)) as store:
        desk = await Desk(store, ManualClock(), batch_max=1).begin()
        store.stop()
        tasks = await desk.waits(sells("s1"), sells("s2"), sells("s3"))
        closing_ = asyncio.create_task(desk.sequencer.close())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="closing"):
            await desk.sequencer.ask(sells("s4"))
        store.may.set()
        await closing_
        assert [task.done() for task in tasks] == [True] * 3
        assert refusals(await asyncio.gather(*tasks)) == [None] * 3
        await desk.sequencer.close()


async def test_a_listener_that_breaks_harms_nobody(url: URL) -> None:
    def breaks(_: Published) -> None:
        raise ValueError("a listener of a test")

    with closing(SqlExchange(url)) as store:
        desk = Desk(store, ManualClock())
        stop = desk.sequencer.listen(breaks)
        later: list[Published] = []
        desk.sequencer.listen(later.append)
        await desk.begin()
        later.clear()
        assert refusals(await desk.asks(sells("s1"))) == [None]
        assert desk.told == later != []
        stop()
        assert refusals(await desk.asks(sells("s2"))) == [None]
        await desk.sequencer.close()


# -- twice does it once


async def test_what_was_moved_under_an_id_is_moved_once(opens: Open) -> None:
    desk = await Desk(opens(), ManualClock()).begin()
    deposit = Move("d", "a", "USD", 7)
    assert refusals(await desk.asks(deposit, deposit, Move("d", "a", "USD", 8), Move("d", "b", "USD", 7))) == [
        *(None, None, Code.DUPLICATE, Code.DUPLICATE),
    ]
    assert [each.number for each, _ in desk.told[0].done] == [4, 0, 0, 0]
    assert refusals(await desk.asks(deposit)) == [None]
    await desk.sequencer.close()
    desk = await Desk(opens(), ManualClock()).begin()
    assert refusals(await desk.asks(deposit, Move("d", "a", "BTC", 7))) == [None, Code.DUPLICATE]
    assert [each.command for each in desk.store.log(3)] == [deposit]
    assert {(held.wallet, held.asset): held.total for held in desk.store.load().held}["a", "USD"] == 7
    await desk.sequencer.close()


async def test_what_could_not_be_moved_may_be_asked_again(url: URL) -> None:
    with closing(SqlExchange(url)) as store:
        desk = await Desk(store, ManualClock()).begin()
        out = Move("out", "a", "USD", -7)
        refused = Code.NOT_ENOUGH_FUNDS
        assert refusals(await desk.asks(out, out, Move("in", "a", "USD", 8), out, out)) == [
            *(refused, refused, None, None, None),
        ]
        assert {(held.wallet, held.asset): held.total for held in store.load().held}["a", "USD"] == 1
        assert replayed(store, whole=True)[1] == desk.digest()
        await desk.sequencer.close()


# -- when it cannot be written


async def test_a_batch_that_was_not_written_changed_nothing(opens: Open, books_url: URL) -> None:
    store = opens(Failing)
    desk = await Desk(store, ManualClock()).begin()
    await desk.asks(sells("s1"))
    desk.told.clear()
    before = desk.digest()
    store.before = 1
    assert refusals(await desk.asks(buys("b1"), Move("d", "b", "EUR", 5), sells("s2"))) == [Code.RUNTIME] * 3
    assert desk.told == []
    assert desk.digest() == before
    # What was refused is free to be asked again: ids, numbers, money.
    assert refusals(await desk.asks(buys("b1"), Move("d", "b", "EUR", 5), sells("s2"))) == [None] * 3
    assert [each.number for each in store.log(0)] == list(range(1, 8))
    assert replayed(store, whole=True)[1] == desk.digest()
    balanced(books_url)
    await desk.sequencer.close()


async def test_a_batch_that_was_written_is_answered_though_the_store_did_not_say_so(
    opens: Open, books_url: URL
) -> None:
    store = opens(Failing)
    desk = await Desk(store, ManualClock()).begin()
    store.after = 1
    outcomes = await desk.asks(sells("s1"), buys("b1"), Cancel("a", "nowt"))
    assert refusals(outcomes) == [None, None, Code.NOT_FOUND]
    assert outcomes[1].trades
    assert [list(told.done) for told in desk.told] == [list(zip(store.log(3), outcomes, strict=True))]
    assert refusals(await desk.asks(sells("s2"))) == [None]
    assert replayed(store, whole=True)[1] == desk.digest()
    balanced(books_url)
    await desk.sequencer.close()


@pytest.mark.parametrize("written", [True, False])
async def test_what_cannot_be_read_again_leaves_nothing_half_done(opens: Open, books_url: URL, written: bool) -> None:
    store = opens(Failing)
    desk = await Desk(store, ManualClock()).begin()
    if written:
        store.after = 1
    else:
        store.before = 1
    # Two batches find no way to the store, the third does.
    store.loads = 2 * RELOADS_MAX
    for id_ in ("s1", "s2"):
        assert refusals(await desk.asks_in_time(sells(id_))) == [Code.RUNTIME]
        assert desk.told == []
    assert store.loads == 0
    assert refusals(await desk.asks_in_time(sells("s3"))) == [None]
    # What turned out to be written is told before what came after it.
    ids = [change.id for told in desk.told for _, outcome in told.done for change in outcome.changes]
    assert ids == (["s1", "s3"] if written else ["s3"])
    assert [each.number for each in store.log(3)] == ([4, 5] if written else [4])
    assert replayed(store, whole=True)[1] == desk.digest()
    balanced(books_url)
    await desk.sequencer.close()


async def test_a_store_that_comes_back_in_time_is_waited_for(opens: Open) -> None:
    class Noting(ManualClock):
        def __init__(self) -> None:
            super().__init__()
            self.slept: list[float] = []

        async def sleep(self, seconds: float) -> None:
            self.slept.append(seconds)
            await super().sleep(seconds)

    store, clock = opens(Failing), Noting()
    desk = await Desk(store, clock).begin()
    store.after, store.loads = 1, RELOADS_MAX - 1
    assert refusals(await desk.asks_in_time(sells("s1"))) == [None]
    assert clock.slept == [RELOAD_S] * (RELOADS_MAX - 1)
    await desk.sequencer.close()


async def test_a_command_that_breaks_the_engine_takes_nobody_with_it(url: URL) -> None:
    with closing(SqlExchange(url)) as store:
        desk = await Desk(store, ManualClock()).begin()
        before = desk.digest()
        assert refusals(await desk.asks(sells("s1"), cast("Command", object()))) == [Code.RUNTIME] * 2
        assert desk.digest() == before
        assert refusals(await desk.asks(sells("s1"))) == [None]
        assert replayed(store, whole=True)[1] == desk.digest()
        await desk.sequencer.close()


async def test_a_number_that_no_column_holds_is_refused_before_it_is_written(url: URL) -> None:
    fine = msgspec.structs.replace(PAIR, price_accuracy=12)
    with closing(SqlExchange(url)) as store:
        desk = Desk(store, ManualClock())
        await desk.sequencer.start()
        rules = Listings(ASSETS, {PAIR.id: fine})
        await desk.asks(Relist(rules.told()), *BEGUN[1:])
        # So small a tick that it is worth little, and so many of them that the number is beyond 64 bits.
        refused = await desk.asks(sells("s1", 3, 2**63), sells("s2", 3, 10**18 + 1), sells("s3", 3, 10**18))
        assert refusals(refused) == [Code.INVALID_PRICE, Code.INVALID_PRICE, None]
        await desk.sequencer.close()


class Limited(SqlExchange):
    """A file that may not grow."""

    def limit(self, more_pages: int) -> None:
        with self._writer.begin() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + more_pages}")


async def test_a_full_disk_is_an_answer_and_not_an_end(url: URL) -> None:
    with closing(Limited(url)) as store:
        desk = await Desk(store, ManualClock()).begin()
        store.limit(2)
        done: list[str] = []
        for n in range(LOOKS_MAX):
            batch = [sells(f"s{n}.{m}", 3) if m % 2 else buys(f"b{n}.{m}", 3, 9_000) for m in range(8)]
            said = refusals(await desk.asks(*batch, Cancel("a", f"s{n}.1"), Cancel("a", f"s{n}.3")))
            if said[0] is Code.RUNTIME:
                assert set(said) == {Code.RUNTIME}
                break
            done += [each.order for each, refused in zip(batch, said, strict=False) if refused is None]
        assert 0 < n < LOOKS_MAX - 1
        before = desk.digest()
        assert refusals(await desk.asks(*batch)) == [Code.RUNTIME] * len(batch)
        assert desk.digest() == before
        assert all((store.order("a", id_) or store.order("b", id_)) for id_ in done)
        store.limit(1_000)
        assert refusals(await desk.asks(Cancel("b", "b0.0"))) == [None]
        assert replayed(store, whole=True)[1] == desk.digest() != before
        await desk.sequencer.close()
    balanced(url)


class Cut(SqlExchange):
    """PostgreSQL ends the connection when all of a batch is there but the commit."""

    cuts = 0

    def _post(self, connection: Connection, written: Written) -> None:
        super()._post(connection, written)
        if self.cuts:
            self.cuts -= 1
            other = create_engine(self._engine.url)
            with other.begin() as theirs:
                theirs.execute(
                    text("SELECT pg_terminate_backend(:pid)"),
                    {"pid": connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()},
                )
            other.dispose()


async def test_a_lost_connection_is_an_answer_and_not_an_end(postgres_url: str) -> None:
    with closing(Cut(postgres_url)) as store:
        desk = await Desk(store, ManualClock()).begin()
        await desk.asks(sells("s1"))
        before = desk.digest()
        store.cuts = 1
        assert refusals(await desk.asks(buys("b1"), sells("s2"))) == [Code.RUNTIME] * 2
        assert desk.digest() == before
        assert refusals(await desk.asks(buys("b1"), sells("s2"))) == [None] * 2
        assert replayed(store, whole=True)[1] == desk.digest() != before
        await desk.sequencer.close()
    with closing(SqlLedger(postgres_url)) as ledger:
        assert ledger.check() == []


async def test_who_was_overtaken_by_another_writer_writes_no_more(opens: Open, books_url: URL) -> None:
    first = await Desk(opens(), ManualClock(1)).begin()
    second = await Desk(opens(), ManualClock(2)).begin()
    assert refusals(await first.asks(sells("s1"))) == [None]
    # As many commands as the other wrote: the number alone does not tell whose they were.
    for id_ in ("x1", "x2"):
        assert refusals(await second.asks_in_time(sells(id_))) == [Code.RUNTIME]
    assert second.told == []
    assert refusals(await first.asks(sells("s2"))) == [None]
    assert [change.id for change in first.store.orders("a", None, active=True, offset=0, limit=9)] == ["s2", "s1"]
    balanced(books_url)
    for desk in (first, second):
        await desk.sequencer.close()


async def test_a_store_that_went_back_is_not_followed(opens: Open, books_url: URL) -> None:
    """What was answered would be lost without a word."""
    store = opens(Failing)
    desk = await Desk(store, ManualClock()).begin()
    await desk.asks(sells("s1"))
    engine = create_engine(books_url)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM exchange_log WHERE first = 4"))
    engine.dispose()
    store.before = 1
    for id_ in ("s2", "s3"):
        assert refusals(await desk.asks_in_time(sells(id_))) == [Code.RUNTIME]
    assert list(store.log(3)) == []
    await desk.sequencer.close()


# -- after a restart


async def test_a_restart_goes_on_where_it_was_and_the_log_comes_to_the_same(opens: Open) -> None:
    clock = ManualClock(1_000)
    digests: list[str] = []
    for life in range(4):
        desk = await Desk(opens(), clock, snapshot_commands=10).begin()
        assert not digests or desk.digest() == digests[-1]
        for n in range(6):
            await desk.asks(sells(f"s{life}.{n}", 3, 10_000 + n), buys(f"b{life}.{n}", 3 + n, 9_998 + n))
        await desk.asks(Cancel("a", f"s{life}.5"))
        digests.append(desk.digest())
        number = 3 + 13 * (life + 1)
        for whole in (True, False):
            assert replayed(desk.store, whole=whole) == (number, digests[-1], digests[-1])
        snapshot = desk.store.snapshot()
        assert snapshot is not None
        # It is taken when a batch passes a ten: all that it holds is written by then.
        assert number - 10 < snapshot.kept.number <= number
        await desk.sequencer.close()
    assert len(set(digests)) == 4


async def test_a_log_or_a_snapshot_that_is_not_what_it_was_is_found(opens: Open, books_url: URL) -> None:
    desk = await Desk(opens(), ManualClock(), snapshot_commands=4).begin()
    await desk.asks(sells("s1"))
    await desk.asks(buys("b1", 3))
    await desk.sequencer.close()
    engine = create_engine(books_url)
    with engine.begin() as connection:
        body = msgspec.msgpack.encode([Numbered(5, 0, buys("b1", 4))])
        connection.execute(text("UPDATE exchange_log SET body = :body WHERE first = 5"), {"body": body})
    for whole in (True, False):
        number, log, kept = replayed(desk.store, whole=whole)
        assert number == 5
        assert log != kept == desk.digest()
    with engine.begin() as connection:
        connection.execute(text("UPDATE exchange_snapshots SET digest = 'other'"))
    with pytest.raises(Unavailable, match="snapshot"):
        replayed(desk.store)
    engine.dispose()


async def test_a_snapshot_that_cannot_be_kept_costs_nobody_an_answer(url: URL) -> None:
    class Forgetful(SqlExchange):
        def keep(self, snapshot: object) -> None:
            raise Unavailable("store", "no room for it")

    with closing(Forgetful(url)) as store:
        desk = await Desk(store, ManualClock(), snapshot_commands=1).begin()
        assert refusals(await desk.asks(sells("s1"), sells("s2"))) == [None] * 2
        assert store.snapshot() is None
        await desk.sequencer.close()


# -- other rules


COARSE = {"BTC": msgspec.structs.replace(ASSETS["BTC"], accuracy=2)}


@pytest.mark.parametrize(
    "rules",
    [
        Listings(ASSETS, {PAIR.id: PAIR}),  # a pair is gone
        Listings({id_: ASSETS[id_] for id_ in ("BTC", "USD")}, {PAIR.id: PAIR}),  # and an asset
        Listings(ASSETS, {**LISTINGS.pairs, PAIR.id: msgspec.structs.replace(PAIR, price_accuracy=3)}),
        Listings(ASSETS | COARSE, {**LISTINGS.pairs, PAIR.id: msgspec.structs.replace(PAIR, base_accuracy=2)}),
        Listings(ASSETS, {**LISTINGS.pairs, PAIR.id: msgspec.structs.replace(PAIR, quote="EUR")}),
    ],
)
async def test_rules_under_which_what_is_there_would_mean_something_else_never_reach_the_log(
    url: URL, rules: Listings
) -> None:
    assert not fits(rules, LISTINGS)
    with closing(SqlExchange(url)) as store:
        desk = await Desk(store, ManualClock()).begin()
        assert refusals(await desk.asks(sells("s1"), Relist(rules.told()), sells("s2"))) == [None, Code.RUNTIME, None]
        assert [type(each.command) for each in store.log(3)] == [Limit, Limit]
        assert desk.told[0].listings is None
        await desk.sequencer.close()


async def test_other_rules_count_from_their_place_in_the_batch(opens: Open) -> None:
    desk = await Desk(opens(), ManualClock()).begin()
    new = msgspec.structs.replace(ASSETS["EUR"], id="CHF")
    rules = Listings({**ASSETS, "CHF": new}, {**LISTINGS.pairs, PAIR.id: msgspec.structs.replace(PAIR, lots_min=9)})
    other = Listings({**ASSETS, "CHF": msgspec.structs.replace(new, accuracy=5)}, LISTINGS.pairs)
    said = refusals(
        await desk.asks(
            *(Move("f", "a", "CHF", 5), sells("s1"), Relist(rules.told()), Relist(other.told())),
            *(sells("s2"), Move("f", "a", "CHF", 5)),
        )
    )
    assert said == [Code.NOT_FOUND, None, None, Code.RUNTIME, Code.TOO_SMALL_VOLUME, None]
    assert desk.told[0].listings == rules
    await desk.sequencer.close()
    desk = await Desk(opens(), ManualClock()).begin()
    assert refusals(await desk.asks(sells("s3"))) == [Code.TOO_SMALL_VOLUME]
    number, log, kept = replayed(desk.store, whole=True)
    assert (number, log) == (9, kept)
    assert ("a", "CHF", 5, 0) in desk.store.load().held
    await desk.sequencer.close()
