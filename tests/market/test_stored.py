"""What is stored, what is missing of it, and pages put in."""

from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from openoutcry.errors import Unavailable
from openoutcry.events import NS, Candle, Side, open_of
from openoutcry.market.series import Batch, Check, Of, SeriesKey, State, Summary
from openoutcry.market.stored import Absence
from openoutcry.market.tasks import Task, TaskState
from openoutcry.stores.memory import MemorySeries
from tests.market.conftest import NOW_NS, Box, Boxes

MINUTE_NS = 60 * NS
KEY = SeriesKey("fake:BTCUSDT", Of.CANDLES, 60)
# An hour that is long over.
T0 = open_of(NOW_NS, 3_600) - 48 * 3_600 * NS


def at(minute: int) -> int:
    return T0 + minute * MINUTE_NS


def candle(minute: int, close: str = "1.50") -> Candle:
    d = Decimal("1.5")
    return Candle(
        "fake:BTCUSDT", Side.BOTH, 60, at(minute), d, d, d, Decimal(close), d, d, 1, None, None, True, 0, "venue"
    )


async def kept(box: Box, minutes: list[int], covered: tuple[int, int] | None) -> None:
    told = None if covered is None else (at(covered[0]), at(covered[1]))
    await box.market.stored.keep(KEY, [candle(minute) for minute in minutes], told)


async def gaps(box: Box, start: int | None = None, end: int | None = None) -> list[tuple[int, int, bool]]:
    told = await box.market.stored.gaps(
        KEY, start_ns=None if start is None else at(start), end_ns=None if end is None else at(end)
    )
    return [((a.start_ns - T0) // MINUTE_NS, (a.end_ns - T0) // MINUTE_NS, a.at_source) for a in told]


async def test_a_gap_runs_from_the_first_missing_open_to_the_next_one_there(box: Box) -> None:
    assert await gaps(box) == []
    await kept(box, [0, 1, 4, 5, 6, 9], None)
    assert await gaps(box) == [(2, 4, False), (7, 9, False)]
    assert await box.market.stored.summary(KEY) == Summary(at(0), at(9), 6)


async def test_edges_are_missing_only_where_a_range_is_asked_for(box: Box) -> None:
    await kept(box, [3], None)
    assert await gaps(box) == []
    assert await gaps(box, 0, 6) == [(0, 3, False), (4, 6, False)]
    assert await gaps(box, 0) == [(0, 3, False)]
    assert await gaps(box, None, 6) == [(4, 6, False)]


async def test_without_a_row_all_of_a_range_is_missing_and_nothing_of_none(box: Box) -> None:
    assert await gaps(box, 0, 3) == [(0, 3, False)]
    assert await gaps(box, 0) == []


async def test_before_it_was_listed_nothing_is_missing(box: Box) -> None:
    await kept(box, [3, 5], None)
    told = await box.market.stored.gaps(KEY, start_ns=at(0), listed_ns=at(2) + 5)
    assert [(a.start_ns, a.end_ns) for a in told] == [(at(2), at(3)), (at(4), at(5))]


async def test_before_the_first_candle_that_a_venue_has_nothing_is_missing(box: Box) -> None:
    await kept(box, [5, 6], (0, 7))
    assert await gaps(box, 0, 8) == [(7, 8, False)]


async def test_the_running_bucket_and_one_that_closed_just_now_are_not_missing(box: Box) -> None:
    now_open = open_of(box.clock.now_ns(), 60)
    told = await box.market.stored.gaps(KEY, start_ns=now_open - 3 * MINUTE_NS, end_ns=now_open + MINUTE_NS)
    assert [(a.start_ns, a.end_ns) for a in told] == [(now_open - 3 * MINUTE_NS, now_open)]
    await box.clock.advance(35)
    asked: dict[str, Any] = {"start_ns": now_open - 3 * MINUTE_NS, "end_ns": now_open + 9 * MINUTE_NS}
    assert [a.end_ns for a in await box.market.stored.gaps(KEY, **asked)] == [now_open]
    await box.clock.advance(10)
    assert [a.end_ns for a in await box.market.stored.gaps(KEY, **asked)] == [now_open + MINUTE_NS]


async def test_what_the_venue_was_asked_for_and_has_not_is_absent_there(box: Box) -> None:
    await kept(box, [0, 1, 4, 9], (0, 6))
    assert await gaps(box) == [(2, 4, True), (5, 9, False)]
    (first, _) = await box.market.stored.gaps(KEY)
    assert first == Absence(at(2), at(4), at_source=True, checked_ns=box.clock.now_ns())
    assert await box.market.stored.lacking(KEY, at(0), at(10)) == [(at(6), at(9))]


async def test_a_quiet_minute_that_our_own_trades_vouch_for_may_still_be_a_candle_of_the_venue(box: Box) -> None:
    await kept(box, [0, 3], None)
    box.market._book.add(KEY, at(0), at(4), State.HAVE)
    assert await gaps(box) == [(1, 3, False)]
    assert await box.market.stored.lacking(KEY, at(0), at(4)) == [(at(1), at(3))]


async def test_where_quiet_buckets_are_left_out_only_what_was_not_heard_is_missing(box: Box) -> None:
    box.outside.omits = True
    await kept(box, [0, 3, 9], (0, 4))
    assert await gaps(box) == [(4, 9, False)]
    assert await box.market.stored.lacking(KEY, at(0), at(10)) == [(at(4), at(9))]
    assert await gaps(box, 0, 12) == [(4, 9, False), (10, 12, False)]


async def test_what_the_venue_refuses_is_absent_there_and_not_asked_for_again(box: Box) -> None:
    await box.market.stored.keep(KEY, [candle(8)], (at(6), at(9)), refused=(at(0), at(6)))
    assert await gaps(box, 0, 9) == [(0, 8, True)]
    assert await box.market.stored.lacking(KEY, at(0), at(9)) == []


async def test_a_late_candle_is_not_called_absent_before_its_time(box: Box) -> None:
    now_open = open_of(box.clock.now_ns(), 60)
    rows = [replace(candle(0), open_ns=now_open - 4 * MINUTE_NS)]
    await box.market.stored.keep(KEY, rows, (now_open - 4 * MINUTE_NS, now_open))
    # 60 s late at most: of the three minutes after it only two are beyond doubt.
    lacking = await box.market.stored.lacking(KEY, now_open - 4 * MINUTE_NS, now_open)
    assert lacking == [(now_open - MINUTE_NS, now_open)]


async def test_lacking_looks_past_holes_that_are_known(box: Box) -> None:
    await kept(box, list(range(0, 40, 2)), (0, 30))
    stored = box.market.stored
    assert await stored.lacking(KEY, at(0), at(39), limit=3) == [(at(m), at(m + 1)) for m in (31, 33, 35)]
    assert await stored.lacking(KEY, at(0), at(39), limit=3, newest=True) == [(at(m), at(m + 1)) for m in (33, 35, 37)]
    assert await stored.lacking(KEY, at(0), at(30), limit=3) == []
    assert await stored.lacking(KEY, at(0), at(30), limit=3, newest=True) == []
    many = await stored.gaps(KEY, limit=2)
    assert [a.start_ns for a in many] == [at(1), at(3)]
    many = await stored.gaps(KEY, limit=2, newest=True)
    assert [a.start_ns for a in many] == [at(35), at(37)]


async def test_texts_are_the_newest_or_those_from_a_start(box: Box) -> None:
    await kept(box, [0, 1, 2, 3], None)
    assert [row[0] for row in await box.market.stored.texts(KEY, limit=2)] == [at(2), at(3)]
    assert [row[0] for row in await box.market.stored.texts(KEY, limit=2, start_ns=at(1))] == [at(1), at(2)]
    assert [row[0] for row in await box.market.stored.texts(KEY, limit=9, start_ns=at(1), end_ns=at(2))] == [at(1)]
    assert [row[0] for row in await box.market.stored.texts(KEY, limit=9, end_ns=at(2))] == [at(0), at(1)]


async def test_live_candles_that_wait_for_the_store_count(box: Box) -> None:
    box.play(candle(0), candle(2))
    assert await gaps(box) == [(1, 2, False)]
    assert [row[0] for row in await box.market.stored.texts(KEY, limit=9)] == [at(0), at(2)]


def a_task(**changed: object) -> Task:
    return Task(
        instrument="fake:BTCUSDT", interval_s=60, start_ns=at(0), end_ns=at(10), cursor_ns=at(0), created_ns=0,
        updated_ns=0, **changed,  # type: ignore[arg-type]
    )  # fmt: skip


async def test_a_page_and_its_task_are_one_commit(box: Box) -> None:
    assert isinstance(box.series, MemorySeries)
    task, _ = box.series.tasks.open_task(a_task())
    moved = a_task(id=task.id, state=TaskState.RUNNING, candles=2)
    await box.market.stored.keep(KEY, [candle(0), candle(2)], (at(0), at(3)), task=moved)
    assert box.series.tasks.task(task.id) == moved
    assert box.series.checks(KEY, at(0), at(9)) == [Check(at(1), at(2), box.clock.now_ns())]
    assert box.market.coverage(KEY).whole(at(0), at(3))


class Refusing(MemorySeries):
    """A store whose disk is full until somebody makes room."""

    full = True

    def write(self, batch: Batch) -> None:
        if self.full:
            raise Unavailable("store", "the disk is full")
        super().write(batch)


async def test_a_page_that_the_store_refuses_may_be_handed_in_again(boxes: Boxes) -> None:
    store = Refusing()
    box = boxes(store)
    task, _ = store.tasks.open_task(a_task())
    moved = a_task(id=task.id, candles=1)
    with pytest.raises(Unavailable, match="does not take"):
        await box.market.stored.keep(KEY, [candle(0)], (at(0), at(1)), task=moved)
    assert store.summary(KEY) is None
    assert store.tasks.task(task.id) == task
    store.full = False
    await box.market.stored.keep(KEY, [candle(0)], (at(0), at(1)), task=moved)
    assert store.summary(KEY) == Summary(at(0), at(0), 1)
    assert store.tasks.task(task.id) == moved


async def test_a_page_is_refused_while_too_much_waits(boxes: Boxes) -> None:
    store = Refusing()
    box = boxes(store, backlog_max=3)
    box.play(candle(0), candle(2), candle(4))
    with pytest.raises(Unavailable, match="too much waits"):
        await box.market.stored.keep(KEY, [candle(6)], (at(6), at(7)))
    assert box.counted("store_rows_dropped", of="candles", why="backlog") == 0
    store.full = False
