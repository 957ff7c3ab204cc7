"""Backfill tasks: durable, one queue a venue, behind everything live; and the repair of gaps that nobody asked about.

A task walks its range from the oldest bucket on and asks only for what is not there. Each page of candles, what it
covers, and the task's cursor are committed in one transaction, so that whatever kills the process loses a page at most
and doubles nothing; at the next start active tasks go on at their cursor. Other processes may put tasks into the store
or take them away: it is looked at every second.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

import msgspec
import structlog
from msgspec.structs import replace
from prometheus_client import Counter

from openoutcry.clock import NS, Clock
from openoutcry.errors import (
    BadInterval,
    BadRange,
    Crowded,
    Invalid,
    LimitExceeded,
    OutOfReach,
    TooLarge,
    Unavailable,
    Unknown,
    Unsupported,
)
from openoutcry.events import Candle, Side, open_of
from openoutcry.instrument import Instrument
from openoutcry.market.market import Market
from openoutcry.market.outside import Outside
from openoutcry.market.series import Of, SeriesKey
from openoutcry.market.tasks import ACTIVE, Task, TaskState, TaskStore
from openoutcry.telemetry import Telemetry
from openoutcry.venues.venue import Ask, Page, Query

# Candles that one task may ask for.
CANDLES_MAX = 5_000_000
# Tasks that may wait or run.
ACTIVE_MAX = 1_000
WORKERS = 4
# Of those on one venue: a venue that is down must not hold all workers for as long as its tasks are patient.
WORKERS_A_VENUE = 2
SCAN_S = 1.0
REPAIR_S = 300.0
KEPT_S = 30 * 86_400.0
TRIES_MAX = 6
# Without progress for so long a task fails, not counting pauses that the venue itself asked for.
STALE_S = 120.0
RETRY_S_MIN, RETRY_S_MAX = 0.5, 30.0
# The longest pause asked for by a venue that a task waits out.
PAUSE_S_MAX = 900.0
# Answers in a row without an error that bring a task no further: what is left is not there (yet).
EMPTY_ANSWERS_MAX = 4
# A candle that closed less than this ago may still be corrected.
SETTLE_S = 2.0
# Stretches that are looked up at a time, and that one round of repairs asks for.
STRETCHES_MAX = 100
DAY_NS = 86_400 * NS

NEVER = (Unknown, Unsupported, Invalid)

log = structlog.get_logger()


class Archive(Protocol):
    """Files of candles that a venue publishes beside its REST side."""

    def reach(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int) -> int | None:
        """Up to when files may serve [start_ns, end_ns) from its start; None where none does."""
        ...

    def pages(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int) -> AsyncIterator[Page]:
        """What they hold, oldest first, up to the first that is not there. Raises Unavailable."""
        ...


class TaskNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of tasks, in the units their names end with."""

    workers: int = WORKERS
    workers_a_venue: int = WORKERS_A_VENUE
    active_max: int = ACTIVE_MAX
    candles_max: int = CANDLES_MAX
    repair_s: float = REPAIR_S
    kept_s: float = KEPT_S
    tries_max: int = TRIES_MAX
    stale_s: float = STALE_S


class _Failed(Exception):
    """The task cannot go on; the text is its error."""


class _Down(_Failed):
    """Nor would another one that asks the same venue, or needs the same store."""


class _Gone(Exception):
    """The task was deleted, or is over already."""


class _Means(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk needs."""

    market: Market
    outside: Outside
    store: TaskStore
    archive: Archive | None
    clock: Clock
    chance: random.Random
    numbers: TaskNumbers
    ended: Counter
    fetched: Counter


class Tasks:
    """Front door of backfill. `run` works until cancelled; the store keeps what is left for the next start."""

    def __init__(
        self,
        *,
        market: Market,
        outside: Outside,
        store: TaskStore,
        clock: Clock,
        chance: random.Random,
        telemetry: Telemetry,
        archive: Archive | None = None,
        numbers: TaskNumbers | None = None,
    ) -> None:
        self._market, self._outside, self._store = market, outside, store
        self._clock, self._numbers = clock, numbers or TaskNumbers()
        self._means = _Means(
            market=market,
            outside=outside,
            store=store,
            archive=archive,
            clock=clock,
            chance=chance,
            numbers=self._numbers,
            ended=telemetry.counter("backfill_tasks", "Backfill tasks that ended.", ["venue", "outcome"]),
            fetched=telemetry.counter("backfill_candles", "Candles fetched by tasks and repairs.", ["venue", "source"]),
        )
        self._running: dict[int, tuple[Task, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._at_work = False
        self._making = asyncio.Lock()
        telemetry.gauge("backfill_running", "Backfill tasks at work.").set_function(lambda: len(self._running))

    # -- what callers ask

    async def create(
        self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int, *, force: bool = False
    ) -> Task:
        """A task for the closed candles that open in [start_ns, end_ns), or the active one that is equal.

        Raises BadInterval, BadRange, TooLarge, LimitExceeded, Unavailable.
        """
        wanted = self.wanted(instrument, interval_s, start_ns, end_ns, force=force)
        refuse_more(await asyncio.to_thread(self._store.tasks, ACTIVE), self._numbers.active_max)
        async with self._making:
            # Who looks at it right after finds it running, and not waiting for us to look.
            if self._at_work and self._free(wanted):
                wanted = replace(wanted, state=TaskState.RUNNING)
            task, new = await asyncio.to_thread(self._store.open_task, wanted)
            if new:
                log.info("backfill begins", task=task.id, instrument=task.instrument, interval_s=interval_s)
                if self._at_work:
                    self._start(task)
        return task

    def wanted(
        self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int, *, force: bool = False
    ) -> Task:
        """The same, not kept yet. Raises BadInterval, BadRange, TooLarge."""
        served = self._outside.intervals_s(instrument.venue)
        if interval_s not in served:
            raise BadInterval(f"{instrument.venue} has candles of {', '.join(map(str, sorted(served)))} s")
        return task_of(instrument, interval_s, start_ns, end_ns, self._clock.now_ns(), self._numbers.candles_max, force)

    async def list(self, states: Collection[TaskState] | None = None, limit: int | None = None) -> Sequence[Task]:
        """Newest first. Raises Unavailable."""
        return await asyncio.to_thread(self._store.tasks, states, limit)

    async def get(self, id_: int) -> Task:
        """Raises Unknown, Unavailable."""
        task = await asyncio.to_thread(self._store.task, id_)
        if task is None:
            raise Unknown(f"no backfill task {id_}")
        return task

    async def delete(self, id_: int) -> None:
        """End it, if it runs, and forget it; what it stored stays. Raises Unknown, Unavailable."""
        # Dropped first: what its last page says of it goes nowhere then.
        there = await asyncio.to_thread(self._store.drop_task, id_)
        await self._cancel(id_)
        if not there:
            raise Unknown(f"no backfill task {id_}")

    # -- at work

    async def run(self) -> None:
        """Work on what is in the store, and repair gaps, until cancelled."""
        self._at_work = True
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._schedule())
                loops.create_task(self._repairs())
        finally:
            self._at_work = False
            for _, work in self._running.values():
                work.cancel()
            await asyncio.gather(*(work for _, work in self._running.values()), return_exceptions=True)

    async def _schedule(self) -> None:
        forgotten_ns = self._clock.now_ns()
        while True:
            try:
                active = await asyncio.to_thread(self._store.tasks, ACTIVE)
                if self._clock.now_ns() - forgotten_ns >= DAY_NS // 24:
                    forgotten_ns = self._clock.now_ns()
                    await asyncio.to_thread(self._store.drop_ended, forgotten_ns - round(self._numbers.kept_s * NS))
            except Unavailable as e:
                log.warning("backfill tasks cannot be read", error=e.text)
            else:
                await self._drop_gone({task.id for task in active})
                for task in sorted(active, key=lambda each: each.id):
                    self._start(task)
            await self._pause(SCAN_S)

    async def _drop_gone(self, active: Collection[int]) -> None:
        """Another process took them away."""
        for id_ in [id_ for id_ in self._running if id_ not in active]:
            await self._cancel(id_)

    def _free(self, task: Task) -> bool:
        """Whether there is a slot for it now."""
        venue, others = _venue(task), [other for other, _ in self._running.values()]
        if len(others) >= self._numbers.workers:
            return False
        if sum(_venue(other) == venue for other in others) >= self._numbers.workers_a_venue:
            return False
        # Those of one series go one after the other: what the first brings, the second need not ask for.
        return all((other.instrument, other.interval_s) != (task.instrument, task.interval_s) for other in others)

    def _start(self, task: Task) -> None:
        if task.id in self._running or not self._free(task):
            return
        work = asyncio.create_task(self._work(task), name=f"backfill {task.id}")
        self._running[task.id] = (task, work)
        work.add_done_callback(lambda _: self._done(task.id))

    def _done(self, id_: int) -> None:
        self._running.pop(id_, None)
        self._wake.set()

    async def _cancel(self, id_: int) -> None:
        _, work = self._running.get(id_, (None, None))
        if work is not None:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        """Until `seconds` are over, or something changed."""
        woken = asyncio.ensure_future(self._wake.wait())
        tick = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((woken, tick), return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            tick.cancel()
        self._wake.clear()

    async def _work(self, task: Task) -> None:
        # It may have ended or gone since it was read.
        walk = _Walk(self._means, SeriesKey(task.instrument, Of.CANDLES, task.interval_s))
        with contextlib.suppress(_Gone):
            try:
                await walk.begin(task.id)
                await walk.all()
            except _Failed as e:
                await walk.end(TaskState.FAILED, str(e))
            except _Gone:
                raise
            except Exception:  # our own fault: the task says so, the others go on
                log.exception("backfill failed", task=task.id)
                await walk.end(TaskState.FAILED, "a fault of this server; its log has more")
            else:
                await walk.end(TaskState.COMPLETED)

    # -- repair

    async def _repairs(self) -> None:
        while True:
            await self._clock.sleep(self._numbers.repair_s)
            try:
                await self.repair()
            except Unavailable as e:
                log.warning("gaps cannot be looked up", error=e.text)
            except Exception:  # our own fault: the next round tries again, and tasks go on meanwhile
                log.exception("repair failed")

    async def repair(self) -> int:
        """Ask once for what is missing between stored candles, the newest first. Returns how many stretches were asked for.

        Raises Unavailable where the store does not answer.
        """
        wanted: list[tuple[int, int, SeriesKey, Instrument]] = []
        for key, instrument in await self._repairable():
            summary = await self._market.stored.summary(key)
            assert summary is not None
            end_ns = min(summary.last_ns, open_of(self._clock.now_ns(), key.interval_s))
            lacking = await self._market.stored.lacking(key, summary.first_ns, end_ns, limit=STRETCHES_MAX, newest=True)
            wanted += [(stretch_ns, stretch_end_ns, key, instrument) for stretch_ns, stretch_end_ns in lacking]
        wanted.sort(key=lambda each: each[1], reverse=True)
        asked, down = 0, set[str]()
        for start_ns, end_ns, key, instrument in wanted[:STRETCHES_MAX]:
            walked = {(task.instrument, task.interval_s) for task, _ in self._running.values()}
            # What a task leaves of its series is looked at next time.
            if instrument.venue in down or (key.instrument, key.interval_s) in walked:
                continue
            asked += 1
            try:
                await _Walk(self._means, key, instrument).stretch(start_ns, end_ns)
            except _Failed as e:
                log.info("gap not repaired", instrument=key.instrument, interval_s=key.interval_s, reason=str(e))
                if isinstance(e, _Down):
                    down.add(instrument.venue)
        return asked

    async def _repairable(self) -> Sequence[tuple[SeriesKey, Instrument]]:
        """Series with fewer rows than buckets between the first and the last, on venues that can be asked."""
        found: list[tuple[SeriesKey, Instrument]] = []
        venues = self._outside.venues()
        for key, summary in (await self._market.stored.summaries()).items():
            venue, _, symbol = key.instrument.partition(":")
            buckets = (summary.last_ns - summary.first_ns) // (key.interval_s * NS) + 1
            if key.side is not Side.BOTH or summary.rows >= buckets or venue not in venues:
                continue
            listed: Mapping[str, Instrument] = self._outside.instruments(venue)
            if symbol in listed and key.interval_s in self._outside.intervals_s(venue):
                found.append((key, listed[symbol]))
        return found


class _Walk:
    """One task on its way from its cursor to its end; without a task, one repair."""

    def __init__(self, means: _Means, key: SeriesKey, instrument: Instrument | None = None) -> None:
        self._means, self._key, self._instrument = means, key, instrument
        self._stored, self._clock = means.market.stored, means.clock
        self._venue, _, self._symbol = key.instrument.partition(":")
        self._step_ns = key.interval_s * NS
        self._task: Task | None = None
        self._cursor_ns = self._tries = self._empty = 0
        self._moved_ns = self._clock.now_ns()

    async def begin(self, id_: int) -> None:
        """The task is at work. Raises _Gone, _Failed."""
        while self._task is None:
            try:
                self._task = await asyncio.to_thread(self._means.store.task, id_)
            except Unavailable as e:
                await self._again(e)
            else:
                if self._task is None or self._task.state not in ACTIVE:
                    raise _Gone
        self._cursor_ns = self._task.cursor_ns
        await self._save(state=TaskState.RUNNING, error="")
        while self._instrument is None:
            try:
                self._instrument = await self._listed()
            except Unavailable as e:
                await self._again(e)

    async def end(self, state: TaskState, error: str = "") -> None:
        """The task is over. Raises _Gone."""
        self._means.ended.labels(self._venue, state).inc()
        if self._task is None:
            return  # the store never answered: the next look at it finds the task as it was
        cursor_ns = self._task.end_ns if state is TaskState.COMPLETED else self._task.cursor_ns
        log.info("backfill ended", task=self._task.id, state=state, candles=self._task.candles, error=error)
        with contextlib.suppress(_Failed):  # nor does it now: the task is found at work, and goes on
            await self._save(state=state, error=error, cursor_ns=cursor_ns)

    async def all(self) -> None:
        """All stretches that are not there yet, the oldest first. Raises _Failed."""
        task = self._task
        assert task is not None
        while self._cursor_ns < task.end_ns:
            try:
                lacking: Sequence[tuple[int, int]] = [(self._cursor_ns, task.end_ns)]
                if not task.force:
                    lacking = await self._stored.lacking(self._key, self._cursor_ns, task.end_ns, limit=STRETCHES_MAX)
            except Unavailable as e:
                await self._again(e)
                continue
            if not lacking:
                return
            for start_ns, end_ns in lacking:
                await self.stretch(start_ns, end_ns)

    async def stretch(self, start_ns: int, end_ns: int) -> None:
        """Fetch [start_ns, end_ns), from the archive's files as far as they reach. Raises _Failed."""
        self._cursor_ns, self._empty = start_ns, 0
        archive = self._means.archive
        while self._cursor_ns < end_ns:
            assert self._instrument is not None
            reach_ns = None
            if archive is not None:
                reach_ns = archive.reach(self._instrument, self._key.interval_s, self._cursor_ns, end_ns)
            if archive is not None and reach_ns is not None:
                await self._files(archive, reach_ns)
                # A file that is not there, or not as it should be: the venue is asked on from there, a day or a page,
                # which may also jump to the first candle there is; then files again.
                await self._rest(end_ns, min(end_ns, (self._cursor_ns // DAY_NS + 1) * DAY_NS))
            else:
                await self._rest(end_ns, end_ns)

    async def _files(self, archive: Archive, end_ns: int) -> None:
        assert self._instrument is not None
        pages = archive.pages(self._instrument, self._key.interval_s, self._cursor_ns, end_ns)
        try:
            async for page in pages:
                await self._take(page, end_ns, "archive")
        except Unavailable as e:
            log.info("archive left for the venue", instrument=self._key.instrument, reason=e.text)

    async def _rest(self, end_ns: int, until_ns: int) -> None:
        """Ask the venue for what is left up to `end_ns`, page by page until `until_ns` is passed."""
        bounded = True
        while self._cursor_ns < until_ns:
            from_ns = self._cursor_ns
            try:
                async for page in self._means.outside.ask(
                    self._venue, self._ask(end_ns, bounded=bounded), patient=True
                ):
                    await self._take(page, end_ns, "venue")
                    if self._cursor_ns >= until_ns:
                        break
            except OutOfReach:
                if bounded and from_ns == self._cursor_ns:
                    bounded = False  # a part of it may still be in reach
                    continue
                await self._refused(end_ns)
            except LimitExceeded as e:
                await self._clock.sleep(e.retry_s)  # too many wait already
                continue
            except NEVER as e:
                raise _Failed(f"{self._venue}: {e.text}") from e
            except Unavailable as e:
                await self._again(e)
                continue
            if from_ns == self._cursor_ns:
                await self._wait_for_late(end_ns)

    def _ask(self, end_ns: int, *, bounded: bool) -> Ask:
        # A hole of a minute must not cost a page: with a limit the venue's price for few rows counts.
        rows = (end_ns - self._cursor_ns) // self._step_ns
        return Ask(
            query=Query.CANDLES,
            symbol=self._symbol,
            interval_s=self._key.interval_s,
            start_ns=self._cursor_ns,
            end_ns=end_ns,
            limit=rows if bounded and rows < STRETCHES_MAX else None,
        )

    async def _take(self, page: Page, end_ns: int, source: str) -> None:
        """Commit what a page brings, and how far it brings us."""
        interval_s, now_ns = self._key.interval_s, self._clock.now_ns()
        settled_ns = min(end_ns, open_of(now_ns - round(SETTLE_S * NS), interval_s))
        rows = [
            row
            for row in page.events
            if isinstance(row, Candle)
            and row.side is Side.BOTH
            and row.interval_s == interval_s
            and row.closed
            and self._cursor_ns <= row.open_ns < settled_ns
        ]
        reach_ns = rows[-1].open_ns + self._step_ns if rows else self._cursor_ns
        covered = refused = None
        if page.start_ns is not None and page.end_ns is not None:
            from_ns = max(open_of(page.start_ns + self._step_ns - 1, interval_s), self._cursor_ns)
            reach_ns = min(open_of(page.end_ns, interval_s), settled_ns)
            if from_ns < reach_ns:
                covered = (from_ns, reach_ns)
            if self._cursor_ns < from_ns < end_ns and not (rows and rows[0].open_ns < from_ns):
                # Asked for, and passed over: the venue goes no further back.
                refused = (self._cursor_ns, from_ns)
                reach_ns = max(reach_ns, from_ns)
            rows = [row for row in rows if row.open_ns < reach_ns]
        if reach_ns <= self._cursor_ns:
            return
        await self._commit(rows, covered, refused, reach_ns)
        self._means.fetched.labels(self._venue, source).inc(len(rows))

    async def _refused(self, end_ns: int) -> None:
        log.info("venue never serves this", instrument=self._key.instrument, interval_s=self._key.interval_s)
        while self._cursor_ns < end_ns:
            try:
                await self._commit([], None, (self._cursor_ns, end_ns), end_ns)
            except Unavailable as e:
                await self._again(e)

    async def _commit(
        self, rows: Sequence[Candle], covered: tuple[int, int] | None, refused: tuple[int, int] | None, reach_ns: int
    ) -> None:
        task = self._task
        if task is not None:
            now_ns = self._clock.now_ns()
            task = replace(task, cursor_ns=reach_ns, candles=task.candles + len(rows), updated_ns=now_ns)
        kept = asyncio.ensure_future(self._stored.keep(self._key, rows, covered, refused=refused, task=task))
        try:
            await asyncio.shield(kept)
        except asyncio.CancelledError:
            # What is on its way to the store gets there: the candles with their count, or neither.
            await asyncio.wait((kept,))
            with contextlib.suppress(Unavailable):
                kept.result()
            raise
        self._task, self._cursor_ns = task, reach_ns
        self._tries = self._empty = 0
        self._moved_ns = self._clock.now_ns()

    async def _wait_for_late(self, end_ns: int) -> None:
        """No error, and no step further: the newest candles may be late, anything else is not there to be had."""
        self._empty += 1
        if self._empty >= EMPTY_ANSWERS_MAX:
            log.info("the venue says nothing of it", instrument=self._key.instrument, start_ns=self._cursor_ns)
            self._cursor_ns = end_ns
            return
        await self._clock.sleep(SETTLE_S * self._empty)

    async def _again(self, why: Unavailable) -> None:
        """Wait before the next try. Raises _Failed where that was the last."""
        numbers = self._means.numbers
        if isinstance(why, Crowded):
            # Others were served first. That is as it should be, and no failure.
            await self._clock.sleep(max(why.retry_s or 0.0, RETRY_S_MIN))
            self._moved_ns = self._clock.now_ns()
            return
        self._tries += 1
        waited_s = (self._clock.now_ns() - self._moved_ns) / NS
        if self._tries >= numbers.tries_max or waited_s > numbers.stale_s or (why.retry_s or 0.0) > PAUSE_S_MAX:
            raise _Down(f"{why.text} after {self._tries} tries") from why
        pause_s = min(RETRY_S_MAX, RETRY_S_MIN * 2.0**self._tries) * self._means.chance.uniform(0.5, 1.0)
        asked_s = why.retry_s or 0.0
        await self._clock.sleep(max(pause_s, asked_s))
        # A pause that the venue asked for is not held against the task.
        self._moved_ns += round(asked_s * NS)

    async def _listed(self) -> Instrument:
        try:
            listed = await self._means.market.instruments(self._venue)
        except Unknown as e:
            raise _Failed(e.text) from e
        if self._symbol not in listed:
            raise _Failed(f"{self._venue} does not list {self._symbol} any more")
        return listed[self._symbol]

    async def _save(self, **changed: object) -> None:
        assert self._task is not None
        while True:
            task = replace(self._task, updated_ns=self._clock.now_ns(), **changed)
            try:
                there = await asyncio.to_thread(self._means.store.save_task, task)
            except Unavailable as e:
                await self._again(e)
            else:
                if not there:
                    raise _Gone
                self._task = task
                return


def task_of(
    instrument: Instrument,
    interval_s: int,
    start_ns: int,
    end_ns: int,
    now_ns: int,
    candles_max: int = CANDLES_MAX,
    force: bool = False,  # noqa: FBT001, FBT002
) -> Task:
    """What such a task would be: its bounds on the grid, the running bucket left out. Raises BadRange, TooLarge."""
    step_ns = interval_s * NS
    if start_ns >= end_ns:
        raise BadRange("the start must be before the end")
    if start_ns > now_ns:
        raise BadRange("the start lies in the future")
    first_ns = open_of(start_ns + step_ns - 1, interval_s)
    last_ns = max(min(open_of(end_ns + step_ns - 1, interval_s), open_of(now_ns, interval_s)), first_ns)
    if (last_ns - first_ns) // step_ns > candles_max:
        raise TooLarge(f"a backfill task may ask for {candles_max} candles: split the range")
    return Task(
        instrument=instrument.name,
        interval_s=interval_s,
        start_ns=first_ns,
        end_ns=last_ns,
        force=force,
        cursor_ns=first_ns,
        created_ns=now_ns,
        updated_ns=now_ns,
    )


def refuse_more(active: Sequence[Task], active_max: int) -> None:
    """Raises LimitExceeded where as many tasks as there may be wait or run."""
    if len(active) >= active_max:
        raise LimitExceeded(f"{len(active)} backfill tasks wait or run: delete some, or come back later", 60.0)


def _venue(task: Task) -> str:
    return task.instrument.partition(":")[0]
