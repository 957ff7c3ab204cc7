"""Backfill tasks over a venue that is a function: what they fetch, how they fail, how they end."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from openoutcry.errors import (
    BadInterval,
    BadRange,
    Crowded,
    LimitExceeded,
    OutOfReach,
    RateLimited,
    TooLarge,
    Unavailable,
    Unknown,
    UnknownInstrument,
)
from openoutcry.events import NS, Candle, open_of
from openoutcry.feed.tasks import TaskNumbers, Tasks
from openoutcry.instrument import Instrument
from openoutcry.market.market import Numbers
from openoutcry.market.series import Batch, Of, SeriesKey, Summary
from openoutcry.market.tasks import ACTIVE, Task, TaskState
from openoutcry.stores.memory import MemorySeries
from openoutcry.venues.venue import Ask, Page
from tests.market.conftest import NOW_NS, Box

MINUTE_NS = 60 * NS
HOUR_NS = 3_600 * NS
KEY = SeriesKey("fake:BTCUSDT", Of.CANDLES, 60)
T0 = open_of(NOW_NS, 3_600) - 24 * HOUR_NS


class Files:
    """An archive whose files are days of `had`, told by the fake venue's own function."""

    def __init__(self, box: Box, *, until_ns: int, fails: Exception | None = None) -> None:
        self.box, self.until_ns, self.fails = box, until_ns, fails
        self.served = 0

    def reach(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int) -> int | None:
        assert instrument.symbol == "BTCUSDT"
        until_ns = min(end_ns, self.until_ns)
        return until_ns if until_ns - start_ns >= 60 * interval_s * NS else None

    async def pages(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int) -> AsyncIterator[Page]:
        if self.fails is not None:
            raise self.fails
        step_ns = interval_s * NS
        for low_ns in range(start_ns, end_ns, 30 * step_ns):
            high_ns = min(low_ns + 30 * step_ns, end_ns)
            rows = [
                row
                for at_ns in range(low_ns, high_ns, step_ns)
                if (row := self.box.outside.candle(at_ns, interval_s)) is not None
            ]
            self.served += len(rows)
            yield Page(rows, start_ns=low_ns, end_ns=high_ns)


class Shop:
    """Tasks at work on a box."""

    def __init__(self, box: Box, archive: Files | None = None, **numbers: Any) -> None:
        assert isinstance(box.series, MemorySeries)
        self.box, self.series = box, box.series
        self.tasks = Tasks(
            market=box.market,
            outside=box.outside,
            store=self.series.tasks,
            clock=box.clock,
            chance=random.Random(1),
            telemetry=box.telemetry,
            archive=archive,
            numbers=TaskNumbers(**numbers),
        )
        self.work = asyncio.create_task(self.tasks.run())

    async def create(self, start: int, end: int, *, force: bool = False, interval_s: int = 60) -> Task:
        step_ns = interval_s * NS
        return await self.tasks.create(
            self.box.btc, interval_s, T0 + start * step_ns, T0 + end * step_ns, force=force
        )  # fmt: skip

    async def ended(self, task: Task, seconds: float = 1.0, tries: int = 300) -> Task:
        """The task once it is over, however much of the clock's time that takes."""
        for _ in range(tries):
            now = self.series.tasks.task(task.id)
            if now is None or now.state not in ACTIVE:
                assert now is not None
                return now
            await self.turn(seconds)
        raise AssertionError(f"still at work: {now}")

    async def reached(self, task: Task, candles: int) -> Task:
        """The task once it stored so many."""
        for _ in range(10_000):
            now = await self.tasks.get(task.id)
            if now.candles >= candles:
                return now
            await asyncio.sleep(0)
        raise AssertionError(f"no progress: {now}")

    async def turn(self, seconds: float = 0.0) -> None:
        """Let threads answer, and the clock go on."""
        for _ in range(5):
            await asyncio.to_thread(int)
        await self.box.clock.advance(seconds)

    async def idle(self) -> None:
        """Until no task is at work."""
        await self.until(lambda: not self.box.telemetry.registry.get_sample_value("openoutcry_backfill_running"), 1.0)

    async def until(self, there: Callable[[], bool], seconds: float = 0.0) -> None:
        """Until it is so, however long threads take, and a few turns more: what should not follow would show."""
        for _ in range(1_000):
            if there():
                break
            await self.turn(seconds)
        else:
            raise AssertionError("it never came")
        for _ in range(5):
            await self.turn()

    async def stop(self) -> None:
        self.work.cancel()
        await asyncio.gather(self.work, return_exceptions=True)


Shops = Callable[..., Shop]


class Watched(MemorySeries):
    """A store that remembers how far tasks were with each page."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[Task] = []

    def write(self, batch: Batch) -> None:
        self.pages += batch.tasks
        super().write(batch)


@pytest.fixture
async def box() -> AsyncIterator[Box]:
    made = Box(Watched(), Numbers())
    yield made
    await made.market.close()


@pytest.fixture
async def shops(box: Box) -> AsyncIterator[Shops]:
    made: list[Shop] = []

    def make(archive: Files | None = None, **numbers: Any) -> Shop:
        made.append(Shop(box, archive, **numbers))
        return made[-1]

    yield make
    for shop in made:
        await shop.stop()


def asked(box: Box) -> list[tuple[int, int]]:
    return [((ask.start_ns - T0) // MINUTE_NS, (ask.end_ns - T0) // MINUTE_NS) for ask in box.outside.asks]  # type: ignore[operator]


# -- what is fetched


async def test_a_task_stores_every_closed_candle_of_its_range_and_ends_at_a_hundred(box: Box, shops: Shops) -> None:
    box.outside.page_max = 100
    shop = shops()
    task = await shop.create(0, 350)
    assert (task.state, task.share) == (TaskState.RUNNING, 0.0)
    done = await shop.ended(task)
    assert (done.state, done.candles, done.share, done.error) == (TaskState.COMPLETED, 350, 1.0, "")
    assert shop.series.summary(KEY) == Summary(T0, T0 + 349 * MINUTE_NS, 350)
    assert box.market.coverage(KEY).whole(T0, T0 + 350 * MINUTE_NS)
    assert asked(box) == [(0, 350)]


async def test_progress_follows_the_pages_and_never_falls(box: Box, shops: Shops) -> None:
    box.outside.page_max = 50
    shop = shops()
    await shop.ended(await shop.create(0, 200))
    assert isinstance(box.series, Watched)
    told = [(task.share, task.candles, task.state) for task in box.series.pages]
    assert told == [
        (0.25, 50, TaskState.RUNNING),
        (0.5, 100, TaskState.RUNNING),
        (0.75, 150, TaskState.RUNNING),
        (0.999, 200, TaskState.RUNNING),
    ]


async def test_only_what_is_not_there_is_asked_for(box: Box, shops: Shops) -> None:
    shop = shops()
    await shop.ended(await shop.create(10, 20))
    await shop.ended(await shop.create(25, 30))
    box.outside.asks.clear()
    done = await shop.ended(await shop.create(0, 40))
    assert asked(box) == [(0, 10), (20, 25), (30, 40)]
    assert done.candles == 25
    assert [ask.limit for ask in box.outside.asks] == [10, 5, 10]
    again = await shop.ended(await shop.create(0, 40))
    assert len(box.outside.asks) == 3
    assert (again.candles, again.share) == (0, 1.0)


async def test_force_fetches_what_is_there_as_well(box: Box, shops: Shops) -> None:
    shop = shops()
    await shop.ended(await shop.create(0, 20))
    done = await shop.ended(await shop.create(0, 20, force=True))
    assert done.candles == 20
    assert asked(box) == [(0, 20), (0, 20)]
    assert shop.series.summary(KEY) == Summary(T0, T0 + 19 * MINUTE_NS, 20)


async def test_the_running_bucket_is_left_out_and_the_last_closed_one_waited_for(box: Box, shops: Shops) -> None:
    box.outside.sure_s = 10.0
    await box.clock.advance(31)  # a minute closed a second ago
    shop = shops()
    now_open = open_of(box.clock.now_ns(), 60)
    task = await shop.tasks.create(box.btc, 60, now_open - 5 * MINUTE_NS, box.clock.now_ns())
    done = await shop.ended(task)
    assert (done.state, done.candles, done.end_ns) == (TaskState.COMPLETED, 5, now_open)
    assert shop.series.summary(KEY) == Summary(now_open - 5 * MINUTE_NS, now_open - MINUTE_NS, 5)
    assert box.clock.now_ns() >= now_open + 10 * NS


async def test_a_hole_of_the_venue_is_walked_over_and_marked(box: Box, shops: Shops) -> None:
    box.outside.traded = lambda at_ns: not T0 + 10 * MINUTE_NS <= at_ns < T0 + 15 * MINUTE_NS
    shop = shops()
    done = await shop.ended(await shop.create(0, 30))
    assert (done.state, done.candles, done.share) == (TaskState.COMPLETED, 25, 1.0)
    (gap,) = await box.market.stored.gaps(KEY)
    assert (gap.start_ns, gap.end_ns, gap.at_source) == (T0 + 10 * MINUTE_NS, T0 + 15 * MINUTE_NS, True)
    await shop.ended(await shop.create(0, 30))
    assert asked(box) == [(0, 30)]


async def test_a_range_before_the_listing_ends_with_what_there_is(box: Box, shops: Shops) -> None:
    box.outside.begun_ns = T0 + 100 * MINUTE_NS
    shop = shops()
    done = await shop.ended(await shop.create(0, 120))
    assert (done.state, done.candles) == (TaskState.COMPLETED, 20)
    none = await shop.ended(await shop.create(-100, -50))
    assert (none.state, none.candles, none.share) == (TaskState.COMPLETED, 0, 1.0)


async def test_what_a_venue_never_serves_is_passed_over_and_stays_visible(box: Box, shops: Shops) -> None:
    box.outside.failure = OutOfReach("fake", "fake serves the last 5000 candles only")
    shop = shops()
    done = await shop.ended(await shop.create(0, 20))
    assert (done.state, done.candles) == (TaskState.COMPLETED, 0)
    gaps = await box.market.stored.gaps(KEY, start_ns=T0, end_ns=T0 + 20 * MINUTE_NS)
    assert [(gap.start_ns, gap.end_ns, gap.at_source) for gap in gaps] == [(T0, T0 + 20 * MINUTE_NS, True)]


async def test_a_venue_that_goes_back_only_so_far_says_so_by_where_its_page_begins(box: Box, shops: Shops) -> None:
    plain = box.outside._pages

    def newest_only(ask: Ask) -> list[Page]:
        pages = plain(ask)
        reach_ns = T0 + 150 * MINUTE_NS
        rows = [row for row in pages[0].events if isinstance(row, Candle) and row.open_ns >= reach_ns]
        return [Page(rows, start_ns=reach_ns, end_ns=pages[0].end_ns)]

    box.outside._pages = newest_only  # type: ignore[method-assign]
    shop = shops()
    done = await shop.ended(await shop.create(0, 200))
    assert (done.state, done.candles) == (TaskState.COMPLETED, 50)
    gaps = await box.market.stored.gaps(KEY, start_ns=T0)
    assert [(gap.end_ns, gap.at_source) for gap in gaps] == [(T0 + 150 * MINUTE_NS, True)]


# -- files


async def test_files_serve_as_far_as_they_reach_and_the_venue_the_rest(box: Box, shops: Shops) -> None:
    files = Files(box, until_ns=T0 + 200 * MINUTE_NS)
    shop = shops(files)
    done = await shop.ended(await shop.create(0, 240))
    assert (done.candles, files.served) == (240, 200)
    assert asked(box) == [(200, 240)]
    assert shop.series.summary(KEY) == Summary(T0, T0 + 239 * MINUTE_NS, 240)


async def test_a_page_of_the_venue_may_jump_over_days_without_a_file(box: Box, shops: Shops) -> None:
    class Empty(Files):
        async def pages(
            self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int
        ) -> AsyncIterator[Page]:
            self.served += 1
            nothing: Sequence[Page] = ()
            for page in nothing:
                yield page

    box.outside.begun_ns = T0
    files = Empty(box, until_ns=T0 - 86_400 * NS)
    shop = shops(files)
    start_ns = T0 - 90 * 86_400 * NS
    done = await shop.ended(await shop.tasks.create(box.btc, 60, start_ns, T0 + 30 * MINUTE_NS))
    assert (done.state, done.candles) == (TaskState.COMPLETED, 30)
    assert (files.served, len(box.outside.asks)) == (1, 1)


async def test_files_that_cannot_be_had_cost_a_day_of_questions_each(box: Box, shops: Shops) -> None:
    files = Files(box, until_ns=T0 + 600 * MINUTE_NS, fails=Unavailable("archive", "is not what its checksum says"))
    shop = shops(files)
    done = await shop.ended(await shop.create(0, 600))
    assert (done.state, done.candles, files.served) == (TaskState.COMPLETED, 600, 0)
    assert shop.series.summary(KEY) == Summary(T0, T0 + 599 * MINUTE_NS, 600)


# -- failures


async def test_a_venue_that_is_down_is_asked_six_times_and_then_the_task_fails_with_the_reason(
    box: Box, shops: Shops
) -> None:
    box.outside.failure = Unavailable("fake", "fake answers with status 502")
    shop = shops()
    done = await shop.ended(await shop.create(0, 20))
    assert (done.state, done.error) == (TaskState.FAILED, "fake answers with status 502 after 6 tries")
    assert len(box.outside.asks) == 6
    box.outside.failure = None
    assert (await shop.ended(await shop.create(0, 20))).candles == 20


async def test_a_failed_task_keeps_its_pages_and_an_equal_one_goes_on(box: Box, shops: Shops) -> None:
    box.outside.page_max = 10
    box.outside.failure = Unavailable("fake", "fake answers with status 500")
    plain = box.outside._pages

    def two_pages(ask: Ask) -> list[Page]:
        box.outside.pages_before_failure = 2 if ask.start_ns == T0 else 0
        return plain(ask)

    box.outside._pages = two_pages  # type: ignore[method-assign]
    shop = shops()
    task = await shop.create(0, 30)
    done = await shop.ended(task)
    assert (done.state, done.candles) == (TaskState.FAILED, 20)
    box.outside.failure = None
    box.outside.asks.clear()
    again = await shop.ended(await shop.create(0, 30))
    assert again.state is TaskState.COMPLETED
    assert again.id != done.id
    assert again.candles == 10
    assert asked(box) == [(20, 30)]


async def test_progress_in_between_gives_new_patience(box: Box, shops: Shops) -> None:
    box.outside.page_max = 10
    box.outside.failure, box.outside.pages_before_failure = Unavailable("fake", "fake answers with status 500"), 1
    shop = shops()
    # Every answer breaks off after its first page: ten pages, ten failures, and never six in a row.
    done = await shop.ended(await shop.create(0, 100))
    assert (done.state, done.candles) == (TaskState.COMPLETED, 100)


async def test_a_pause_that_the_venue_asks_for_is_waited_out(box: Box, shops: Shops) -> None:
    box.outside.failure = RateLimited("fake", "fake asked us to slow down", 400.0)
    shop = shops()
    task = await shop.create(0, 20)
    await shop.turn(5.0)
    box.outside.failure = None
    await shop.turn(300.0)
    assert len(box.outside.asks) == 1
    assert (await shop.ended(task)).state is TaskState.COMPLETED


async def test_to_wait_for_its_turn_is_no_failure(box: Box, shops: Shops) -> None:
    box.outside.failure = Crowded("fake", "the request budget of fake is used up", 60.0)
    shop = shops()
    task = await shop.create(0, 20)
    await shop.until(lambda: len(box.outside.asks) > 6, 61.0)
    box.outside.failure = None
    assert (await shop.ended(task)).state is TaskState.COMPLETED


async def test_a_symbol_that_the_venue_does_not_know_any_more_fails_at_once(box: Box, shops: Shops) -> None:
    box.outside.failure = UnknownInstrument("fake does not list BTCUSDT")
    shop = shops()
    done = await shop.ended(await shop.create(0, 20))
    assert (done.state, done.error) == (TaskState.FAILED, "fake: fake does not list BTCUSDT")
    assert len(box.outside.asks) == 1


async def test_a_task_of_an_instrument_that_was_delisted_since_fails_with_the_reason(box: Box, shops: Shops) -> None:
    shop = shops()
    await shop.stop()
    task = await shop.create(0, 20)
    box.outside.listed = {}
    done = await shops().ended(task)
    assert (done.state, done.error) == (TaskState.FAILED, "fake does not list BTCUSDT any more")


async def test_an_answer_that_never_says_more_does_not_hold_a_task_for_ever(box: Box, shops: Shops) -> None:
    box.outside._pages = lambda ask: [Page(())]  # type: ignore[method-assign]
    shop = shops()
    done = await shop.ended(await shop.create(0, 20))
    assert (done.state, done.candles) == (TaskState.COMPLETED, 0)
    assert len(box.outside.asks) == 4


async def test_a_fault_of_ours_is_the_task_s_failure_and_nobody_else_s(box: Box, shops: Shops) -> None:
    def broken(ask: Ask) -> list[Page]:
        raise ZeroDivisionError

    box.outside._pages = broken  # type: ignore[method-assign]
    shop = shops()
    done = await shop.ended(await shop.create(0, 20))
    assert (done.state, done.error) == (TaskState.FAILED, "a fault of this server; its log has more")
    del box.outside._pages
    assert (await shop.ended(await shop.create(0, 20))).state is TaskState.COMPLETED


# -- what is refused


async def test_bad_questions_are_refused_and_make_no_task(box: Box, shops: Shops) -> None:
    shop = shops(candles_max=1_000, active_max=1)
    with pytest.raises(BadRange, match="before the end"):
        await shop.create(5, 5)
    with pytest.raises(BadRange, match="in the future"):
        await shop.create(10_000, 10_001)
    with pytest.raises(TooLarge, match="1000 candles"):
        await shop.create(0, 1_001)
    with pytest.raises(BadInterval):
        await shop.create(0, 10, interval_s=61)
    with pytest.raises(Unknown):
        await shop.tasks.get(1)
    with pytest.raises(Unknown):
        await shop.tasks.delete(1)
    assert list(await shop.tasks.list()) == []
    box.outside.gate.clear()
    await shop.create(0, 10)
    with pytest.raises(LimitExceeded, match="1 backfill tasks"):
        await shop.create(20, 30)


async def test_a_range_with_nothing_closed_yet_is_done_at_once(box: Box, shops: Shops) -> None:
    shop = shops()
    now_ns = box.clock.now_ns()
    done = await shop.ended(await shop.tasks.create(box.btc, 86_400, open_of(now_ns, 86_400) + 1, now_ns))
    assert (done.state, done.candles, done.share) == (TaskState.COMPLETED, 0, 1.0)
    assert box.outside.asks == []


# -- many, deleted, resumed


async def test_equal_tasks_at_once_are_one(box: Box, shops: Shops) -> None:
    box.outside.gate.clear()
    shop = shops()
    made = await asyncio.gather(*(shop.create(0, 30) for _ in range(100)))
    assert {task.id for task in made} == {1}
    box.outside.gate.set()
    await shop.ended(made[0])
    assert len(box.outside.asks) == 1
    assert (await shop.create(0, 30)).id == 2


async def test_one_venue_has_so_many_at_work_and_one_series_one(box: Box, shops: Shops) -> None:
    box.outside.gate.clear()
    shop = shops(workers=4, workers_a_venue=2)
    first = await shop.create(0, 10)
    second = await shop.create(20, 30)  # the same series: after the first
    other = await shop.create(0, 10, interval_s=300)
    third = await shop.create(0, 10, interval_s=3_600)
    await shop.until(lambda: len(shop.series.tasks.tasks([TaskState.RUNNING])) == 2, 1.0)
    states = {task.id: task.state for task in await shop.tasks.list()}
    assert states == {
        first.id: TaskState.RUNNING,
        second.id: TaskState.PENDING,
        other.id: TaskState.RUNNING,
        third.id: TaskState.PENDING,
    }
    box.outside.gate.set()
    for task in (first, second, other, third):
        assert (await shop.ended(task)).state is TaskState.COMPLETED


async def test_a_deleted_task_asks_no_more_and_its_pages_stay(box: Box, shops: Shops) -> None:
    box.outside.page_max = 10
    shop = shops()
    task = await shop.create(0, 10_000 // 60)
    now = await shop.reached(task, 20)
    box.outside.gate.clear()
    await shop.tasks.delete(task.id)
    stored = shop.series.summary(KEY)
    assert stored is not None
    assert now.candles <= stored.rows < 166
    box.outside.gate.set()
    for _ in range(3):
        await shop.turn(1.0)
    assert shop.series.summary(KEY) == stored
    with pytest.raises(Unknown):
        await shop.tasks.get(task.id)
    with pytest.raises(Unknown):
        await shop.tasks.delete(task.id)
    assert (await shop.create(0, 10)).id == task.id + 1


async def test_a_task_that_another_process_takes_away_stops(box: Box, shops: Shops) -> None:
    box.outside.gate.clear()
    shop = shops()
    task = await shop.create(0, 30)
    await shop.turn(1.0)
    shop.series.tasks.drop_task(task.id)
    await shop.idle()
    box.outside.gate.set()
    await shop.turn(1.0)
    assert shop.series.summary(KEY) is None
    assert list(await shop.tasks.list()) == []


async def test_a_task_that_another_process_leaves_is_found_and_done(box: Box, shops: Shops) -> None:
    shop = shops()
    await shop.turn(0.1)
    task, _ = shop.series.tasks.open_task(shop.tasks.wanted(box.btc, 60, T0, T0 + 30 * MINUTE_NS))
    assert (await shop.ended(task)).candles == 30


async def test_a_task_goes_on_at_its_cursor_with_its_count(box: Box, shops: Shops) -> None:
    box.outside.page_max = 10
    shop = shops()
    task = await shop.create(0, 100)
    await shop.reached(task, 30)
    box.outside.gate.clear()
    await shop.stop()
    stopped = await shop.tasks.get(task.id)
    assert stopped.state is TaskState.RUNNING
    assert stopped.cursor_ns == T0 + stopped.candles * MINUTE_NS
    box.outside.gate.set()
    box.outside.asks.clear()
    done = await shops().ended(task)
    assert (done.state, done.candles) == (TaskState.COMPLETED, 100)
    assert asked(box) == [(stopped.candles, 100)]


async def test_records_of_ended_tasks_are_kept_for_their_time(box: Box, shops: Shops) -> None:
    shop = shops(kept_s=7_200.0)
    await shop.ended(await shop.create(0, 10))
    await shop.turn(3_700.0)
    await shop.turn(1.0)
    assert len(await shop.tasks.list()) == 1
    await shop.turn(3_700.0)
    await shop.until(lambda: not shop.series.tasks.tasks(), 1.0)
    assert shop.series.summary(KEY) is not None


# -- repair


async def test_repair_fills_the_newest_holes_first_and_asks_once_for_what_is_not_there(box: Box, shops: Shops) -> None:
    shop = shops(repair_s=300.0)
    for start, end in ((0, 10), (15, 20), (40, 50), (60, 70)):
        await shop.ended(await shop.create(start, end))
    box.outside.traded = lambda at_ns: not T0 + 50 * MINUTE_NS <= at_ns < T0 + 53 * MINUTE_NS
    box.outside.asks.clear()
    await shop.turn(301.0)
    whole = Summary(T0, T0 + 69 * MINUTE_NS, 67)
    await shop.until(lambda: shop.series.summary(KEY) == whole)
    assert asked(box) == [(50, 60), (20, 40), (10, 15)]
    await shop.turn(301.0)
    for _ in range(30):
        await shop.turn()
    assert len(box.outside.asks) == 3
    (gap,) = await box.market.stored.gaps(KEY)
    assert gap.at_source


async def test_a_repair_that_fails_leaves_the_others_their_turn(box: Box, shops: Shops) -> None:
    shop = shops()
    for start, end in ((0, 10), (15, 20), (40, 50)):
        await shop.ended(await shop.create(start, end))
    box.outside.asks.clear()
    box.outside.failure = UnknownInstrument("no")
    assert await shop.tasks.repair() == 2
    assert asked(box) == [(20, 40), (10, 15)]
    box.outside.failure = None
    assert await shop.tasks.repair() == 2
    assert await shop.tasks.repair() == 0


async def test_a_venue_that_is_down_is_not_tried_for_every_gap(box: Box, shops: Shops) -> None:
    shop = shops()
    for start, end in ((0, 10), (15, 20), (40, 50)):
        await shop.ended(await shop.create(start, end))
    box.outside.asks.clear()
    box.outside.failure = Unavailable("fake", "fake does not answer")
    repair = asyncio.create_task(shop.tasks.repair())
    while not repair.done():
        await shop.turn(10.0)
    assert repair.result() == 1
    assert asked(box) == [(20, 40)] * 6


async def test_a_fault_in_a_round_of_repairs_ends_neither_the_next_nor_the_tasks(box: Box, shops: Shops) -> None:
    shop = shops(repair_s=300.0)
    for start, end in ((0, 10), (15, 20)):
        await shop.ended(await shop.create(start, end))
    plain = box.outside._pages

    def broken(ask: Ask) -> list[Page]:
        raise ZeroDivisionError

    box.outside._pages = broken  # type: ignore[method-assign]
    box.outside.asks.clear()
    await shop.turn(301.0)
    await shop.until(lambda: asked(box) == [(10, 15)])
    box.outside._pages = plain  # type: ignore[method-assign]
    assert not shop.work.done()
    assert (await shop.ended(await shop.create(20, 30))).state is TaskState.COMPLETED
    await shop.turn(301.0)
    await shop.until(lambda: shop.series.summary(KEY) == Summary(T0, T0 + 29 * MINUTE_NS, 30))


async def test_nothing_is_repaired_of_what_cannot_be_asked(box: Box, shops: Shops) -> None:
    shop = shops()
    for start, end in ((0, 10), (15, 20)):
        await shop.ended(await shop.create(start, end))
    box.outside.listed = {}
    assert await shop.tasks.repair() == 0
