"""The front door: commands that wait together are one batch, deadlines pass, shortfalls are counted."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import pytest

from openoutcry.clock import NS, ManualClock
from openoutcry.errors import (
    BadRange,
    Conflict,
    InsufficientFunds,
    Invalid,
    LimitExceeded,
    Refusal,
    Unavailable,
    Unknown,
)
from openoutcry.ledger import ledger as door
from openoutcry.ledger.books import Command, Outcome
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import FEES, ISSUANCE, Balance, Posting, Settlement
from openoutcry.ledger.store import LedgerStore
from openoutcry.stores.ledger import SqlLedger
from openoutcry.telemetry import Telemetry

START_NS = 1_000 * NS


class Gate:
    """A store whose batches wait until they are let in, and are counted."""

    def __init__(self, inner: LedgerStore) -> None:
        self.balance, self.entries, self.due, self.check = inner.balance, inner.entries, inner.due, inner.check
        self._inner = inner
        self.open = threading.Event()
        self.batches: list[int] = []
        self.fails: Exception | None = None

    def obey(self, commands: Sequence[Command], now_ns: int) -> Sequence[Outcome]:
        assert self.open.wait(30)
        self.batches.append(len(commands))
        if self.fails is not None:
            raise self.fails
        return self._inner.obey(commands, now_ns)


@pytest.fixture
def gate(open_books: Callable[[], SqlLedger]) -> Gate:
    made = Gate(open_books())
    made.open.set()
    return made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_NS)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
async def ledger(gate: Gate, clock: ManualClock, telemetry: Telemetry) -> AsyncIterator[Ledger]:
    """`a` has 100."""
    made = Ledger(gate, clock, telemetry)
    await made.transfer("grant", [Posting(ISSUANCE, "KAI", -100), Posting("a", "KAI", 100)], "a gift")
    yield made
    gate.open.set()
    await made.close()
    assert await made.check() == []


def due(seconds: int = 90) -> int:
    return START_NS + seconds * NS


async def refusal_of(asked: Coroutine[Any, Any, object]) -> Refusal:
    with pytest.raises(Refusal) as refused:
        await asked
    return refused.value


async def test_hold_then_settle_pays_what_was_used(ledger: Ledger) -> None:
    await ledger.hold("call", "a", "KAI", 30, due())
    assert await ledger.balance("a", "KAI") == Balance(100, 30)
    assert await ledger.settle("call", 12) == Settlement("call", 12, 12, 0, 0)
    assert await ledger.balance("a", "KAI") == Balance(88, 0)
    assert await ledger.balance(FEES, "KAI") == Balance(12, 0)


async def test_release_gives_all_of_it_back(ledger: Ledger) -> None:
    await ledger.hold("call", "a", "KAI", 30, due())
    await ledger.release("call")
    assert await ledger.balance("a", "KAI") == Balance(100, 0)


async def test_a_hold_needs_money_that_is_free(ledger: Ledger) -> None:
    await ledger.hold("call", "a", "KAI", 70, due())
    with pytest.raises(InsufficientFunds, match="31 KAI are needed, 30 are free"):
        await ledger.hold("more", "a", "KAI", 31, due())
    with pytest.raises(InsufficientFunds):
        await ledger.transfer("gift", [Posting("a", "KAI", -31), Posting("b", "KAI", 31)])
    await ledger.transfer("gift", [Posting("a", "KAI", -30), Posting("b", "KAI", 30)])
    assert (await ledger.balance("a", "KAI")).free == 0


async def test_nothing_is_held_of_nothing(ledger: Ledger) -> None:
    with pytest.raises(InsufficientFunds, match="0 are free"):
        await ledger.hold("call", "nobody", "KAI", 1, due())
    assert await ledger.balance("nobody", "KAI") == Balance(0, 0)


async def test_a_cost_above_its_hold_is_charged_apart_and_what_is_left_is_counted(
    ledger: Ledger, telemetry: Telemetry
) -> None:
    await ledger.hold("covered", "a", "KAI", 30, due())
    assert await ledger.settle("covered", 45) == Settlement("covered", 45, 30, 15, 0)
    await ledger.hold("other", "a", "KAI", 20, due())
    await ledger.hold("short", "a", "KAI", 30, due())
    for _ in range(2):
        # Of 100, 45 are spent and 20 held elsewhere: 5 beside the hold of 30.
        assert await ledger.settle("short", 50) == Settlement("short", 50, 30, 5, 15)
    assert await ledger.balance("a", "KAI") == Balance(20, 20)
    told = [(entry.transfer, entry.reason, entry.amount) for entry in await ledger.statement("a", "KAI")]
    assert told == [
        ("short excess", "excess", -5),
        ("short settle", "settle", -30),
        ("covered excess", "excess", -15),
        ("covered settle", "settle", -30),
        ("grant", "a gift", 100),
    ]
    assert b"openoutcry_ledger_shortfalls_total 1.0" in telemetry.exposition()


async def test_twice_is_once_and_otherwise_is_refused(ledger: Ledger) -> None:
    gift = [Posting("a", "KAI", -10), Posting("b", "KAI", 10)]
    assert await ledger.transfer("gift", gift) == await ledger.transfer("gift", gift)
    assert await ledger.hold("h", "a", "KAI", 30, due()) == await ledger.hold("h", "a", "KAI", 30, due())
    assert await ledger.balance("a", "KAI") == Balance(90, 30)
    for other in (
        ledger.transfer("gift", gift, "another reason"),
        ledger.transfer("gift", [Posting("a", "KAI", -11), Posting("b", "KAI", 11)]),
        ledger.hold("h", "a", "KAI", 31, due()),
        ledger.hold("h", "a", "KAI", 30, due(91)),
        ledger.hold("h", "b", "KAI", 30, due()),
    ):
        assert isinstance(await refusal_of(other), Conflict)
    assert await ledger.settle("h", 7) == await ledger.settle("h", 7)
    for end in (ledger.settle("h", 8), ledger.settle("h", 7, "b"), ledger.release("h")):
        assert isinstance(await refusal_of(end), Conflict)
    await ledger.hold("r", "a", "KAI", 30, due())
    await ledger.release("r")
    await ledger.release("r")
    assert isinstance(await refusal_of(ledger.settle("r", 1)), Conflict)
    assert await ledger.balance("a", "KAI") == Balance(83, 0)


async def test_what_was_refused_may_be_asked_again(ledger: Ledger) -> None:
    with pytest.raises(InsufficientFunds):
        await ledger.hold("h", "a", "KAI", 150, due())
    await ledger.transfer("more", [Posting(ISSUANCE, "KAI", -50), Posting("a", "KAI", 50)])
    await ledger.hold("h", "a", "KAI", 150, due())
    assert await ledger.balance("a", "KAI") == Balance(150, 150)


async def test_what_cannot_be_is_refused(ledger: Ledger) -> None:
    await ledger.hold("h", "a", "KAI", 30, due())
    assert isinstance(await refusal_of(ledger.settle("unknown", 1)), Unknown)
    assert isinstance(await refusal_of(ledger.release("unknown")), Unknown)
    assert isinstance(await refusal_of(ledger.settle("h", 1, "a")), Invalid)
    assert isinstance(await refusal_of(ledger.transfer("h settle", [])), Invalid)
    assert await ledger.settle("h", 0) == Settlement("h", 0, 0, 0, 0)


async def test_holds_past_their_deadline_are_released_at_start_and_each_minute(
    ledger: Ledger, clock: ManualClock, telemetry: Telemetry
) -> None:
    await ledger.hold("old", "a", "KAI", 10, START_NS)
    await ledger.hold("soon", "a", "KAI", 20, due(60))
    await ledger.hold("later", "a", "KAI", 30, due(61))
    running = asyncio.create_task(ledger.run())
    try:
        for held, seconds in ((50, door.SWEEP_S), (30, door.SWEEP_S), (0, 0)):
            await slept(clock)
            assert await ledger.balance("a", "KAI") == Balance(100, held)
            await clock.advance(seconds)
    finally:
        running.cancel()
    assert b"openoutcry_ledger_holds_swept_total 3.0" in telemetry.exposition()
    assert isinstance(await refusal_of(ledger.settle("soon", 5)), Conflict)


async def slept(clock: ManualClock) -> None:
    """Until the sweep is over and waits for its next minute."""
    async with asyncio.timeout(30):
        while not clock.sleepers:  # noqa: ASYNC110 the sweep works in threads
            await asyncio.sleep(0)


async def test_a_sweep_that_fails_is_made_again(ledger: Ledger, gate: Gate, clock: ManualClock) -> None:
    await ledger.hold("old", "a", "KAI", 10, START_NS)
    gate.fails = Unavailable("store", "the disk is full")
    running = asyncio.create_task(ledger.run())
    try:
        await slept(clock)
        assert (await ledger.balance("a", "KAI")).held == 10
        gate.fails = None
        await clock.advance(door.SWEEP_S)
        await slept(clock)
        assert (await ledger.balance("a", "KAI")).held == 0
    finally:
        running.cancel()


async def test_more_than_one_portion_is_swept(ledger: Ledger) -> None:
    count = door.SWEEP_MAX + 1
    await ledger.transfer("more", [Posting(ISSUANCE, "KAI", -count), Posting("a", "KAI", count)])
    await asyncio.gather(*(ledger.hold(f"h{n}", "a", "KAI", 1, START_NS) for n in range(count)))
    assert await ledger.sweep(START_NS - 1) == 0
    assert await ledger.sweep(START_NS) == count
    assert await ledger.balance("a", "KAI") == Balance(100 + count, 0)


async def test_commands_that_wait_together_are_one_batch_and_each_is_whole(ledger: Ledger, gate: Gate) -> None:
    gate.batches.clear()
    gate.open.clear()
    first = asyncio.create_task(ledger.hold("first", "a", "KAI", 1, due()))
    await asyncio.sleep(0)
    rest = [asyncio.create_task(ledger.hold(f"h{n}", "a", "KAI", 1, due())) for n in range(door.BATCH_MAX + 1)]
    await asyncio.sleep(0)
    gate.open.set()
    outcomes = await asyncio.gather(first, *rest, return_exceptions=True)
    assert sum(gate.batches) == door.BATCH_MAX + 2
    assert max(gate.batches) == door.BATCH_MAX
    assert [isinstance(outcome, InsufficientFunds) for outcome in outcomes] == [False] * 100 + [True] * 158
    assert await ledger.balance("a", "KAI") == Balance(100, 100)


async def test_too_much_that_waits_is_refused(ledger: Ledger, gate: Gate) -> None:
    gate.open.clear()
    writing = asyncio.create_task(ledger.release("first"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(ledger.release(f"h{n}")) for n in range(door.WAITING_MAX)]
    await asyncio.sleep(0)
    try:
        with pytest.raises(LimitExceeded):
            await ledger.release("one-more")
    finally:
        gate.open.set()
        refused = await asyncio.gather(writing, *waiting, return_exceptions=True)
    assert {type(each) for each in refused} == {Unknown}


async def test_what_was_asked_is_done_though_whoever_asked_has_gone(ledger: Ledger, gate: Gate) -> None:
    await ledger.hold("h", "a", "KAI", 30, due())
    gate.open.clear()
    first = asyncio.create_task(ledger.hold("g", "a", "KAI", 1, due()))
    await asyncio.sleep(0)
    gone = asyncio.create_task(ledger.settle("h", 30))
    await asyncio.sleep(0)
    gone.cancel()
    gate.open.set()
    await first
    await ledger.close()
    assert await ledger.balance("a", "KAI") == Balance(70, 1)


async def test_a_store_that_fails_is_told_to_all_who_wait_and_the_next_are_served(ledger: Ledger, gate: Gate) -> None:
    gate.fails = Unavailable("store", "the disk is full")
    asked = (ledger.hold(f"h{n}", "a", "KAI", 1, due()) for n in range(3))
    failed = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in failed] == [Unavailable] * 3
    gate.fails = None
    await ledger.hold("h0", "a", "KAI", 1, due())


async def test_a_statement_is_told_in_pages_newest_first(ledger: Ledger) -> None:
    for n in range(1, 6):
        await ledger.transfer(f"t{n}", [Posting("a", "KAI", -n), Posting("b", "KAI", n)], f"reason {n}")
    pages, before_id = [], None
    for _ in range(2):
        page = await ledger.statement("a", "KAI", 4, before_id)
        pages.append([(entry.transfer, entry.amount, entry.total, entry.at_ns) for entry in page])
        before_id = page[-1].id
    assert pages == [
        [("t5", -5, 85, START_NS), ("t4", -4, 90, START_NS), ("t3", -3, 94, START_NS), ("t2", -2, 97, START_NS)],
        [("t1", -1, 99, START_NS), ("grant", 100, 100, START_NS)],
    ]
    assert await ledger.statement("a", "KAI", 4, before_id) == []
    assert await ledger.statement("a", "USD") == []
    for limit in (0, door.STATEMENT_MAX + 1):
        with pytest.raises(BadRange):
            await ledger.statement("a", "KAI", limit)
