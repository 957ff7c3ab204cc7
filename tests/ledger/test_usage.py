"""The door: pages and summaries have bounds, and old rows are folded in batches, now and every hour."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import URL

from openoutcry.clock import NS, ManualClock
from openoutcry.errors import BadRange, Unavailable
from openoutcry.ledger import usage as door
from openoutcry.ledger.records import Beside, UsageRow
from openoutcry.ledger.usage import DAY_NS, UsageLog
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.usage import SqlUsage
from openoutcry.telemetry import Telemetry

START_NS = 100 * DAY_NS
KEPT_S = 10 * 86_400.0


class Failing(SqlUsage):
    """Its database can go away."""

    fails = False

    def fold(self, before_ns: int, limit: int) -> int:
        if self.fails:
            raise Unavailable("store", "the disk is full")
        return super().fold(before_ns, limit)


@pytest.fixture
def books(open_books: Callable[[], SqlLedger]) -> SqlLedger:
    return open_books()


@pytest.fixture
async def store(books: SqlLedger, books_url: URL) -> AsyncIterator[Failing]:
    made = Failing(books_url)
    yield made
    made.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_NS)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def usage(store: Failing, clock: ManualClock, telemetry: Telemetry) -> UsageLog:
    return UsageLog(store, clock, telemetry, KEPT_S)


def note(books: SqlLedger, count: int, at_ns: int) -> None:
    """So many calls that were free."""
    for at in range(0, count, 10):
        rows = tuple(
            UsageRow(
                request_id=f"{at_ns}.{number}",
                account="a",
                endpoint="chat",
                model="m",
                tokens_in=1,
                tokens_out=1,
                at_ns=at_ns,
            )
            for number in range(at, min(at + 10, count))
        )
        books.obey([Beside(rows)], at_ns)


async def test_pages_and_summaries_have_bounds(usage: UsageLog, books: SqlLedger) -> None:
    note(books, 3, START_NS)
    assert len(await usage.rows("a")) == 3
    assert len(await usage.rows("a", 2)) == 2
    for limit in (0, -1, door.ROWS_MAX + 1):
        with pytest.raises(BadRange):
            await usage.rows("a", limit)
    for since_ns, until_ns in ((5, 0), (0, 0), (0, door.DAYS_MAX * DAY_NS + 1)):
        with pytest.raises(BadRange):
            await usage.by_day("a", since_ns, until_ns)


async def test_a_summary_begins_with_the_whole_of_its_first_day(usage: UsageLog, books: SqlLedger) -> None:
    note(books, 1, START_NS)
    note(books, 1, START_NS - 1)
    days = await usage.by_day("a", START_NS + DAY_NS // 2, START_NS + DAY_NS)
    assert [(each.day, each.calls) for each in days] == [("1970-04-11", 1)]
    assert len(await usage.by_day("a", START_NS - 1, START_NS + 1)) == 2
    assert await usage.by_day("a", START_NS + DAY_NS, START_NS + DAY_NS + 1) == []


async def test_old_rows_are_folded_in_batches_now_and_every_hour(
    usage: UsageLog, books: SqlLedger, store: Failing, clock: ManualClock, telemetry: Telemetry
) -> None:
    old_ns = START_NS - round(KEPT_S * NS)
    note(books, door.FOLD_MAX + 1, old_ns - 1)
    note(books, 3, old_ns)
    store.fails = True
    running = asyncio.create_task(usage.run())
    try:
        await slept(clock)
        assert len(store.rows("a", 9_999)) == door.FOLD_MAX + 4
        store.fails = False
        for left in (0, 0):
            await clock.advance(door.FOLD_S)
            await slept(clock)
            assert len(store.rows("a", 9_999)) == left
    finally:
        running.cancel()
    assert [each.calls for each in await usage.by_day("a", 0, START_NS)] == [3, door.FOLD_MAX + 1]
    assert f"openoutcry_usage_folded_total {door.FOLD_MAX + 4:.1f}".encode() in telemetry.exposition()


async def test_rows_that_are_not_old_stay(usage: UsageLog, books: SqlLedger, store: Failing) -> None:
    note(books, 2, START_NS - round(KEPT_S * NS))
    assert await usage.fold(START_NS) == 0
    assert await usage.fold(START_NS + 1) == 2
    assert store.rows("a", 9) == []


async def slept(clock: ManualClock) -> None:
    """Until a round is over and waits for its next hour."""
    async with asyncio.timeout(30):
        while not clock.sleepers:  # noqa: ASYNC110 the store works in threads
            await asyncio.sleep(0)
