"""Every store does the same: what is stored, what is missing, what was checked; and backfill tasks."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from openoutcry.events import NS, Candle, Side
from openoutcry.market.series import Batch, Check, Of, Series, SeriesKey, Summary
from openoutcry.market.tasks import ACTIVE, Task, TaskState, TaskStore
from openoutcry.stores.memory import MemorySeries
from openoutcry.stores.sql import SqlSeries, sqlite_url

MINUTES = SeriesKey("binance:BTCUSDT", Of.CANDLES, 60)
MINUTE_NS = 60 * NS

_names = itertools.count()


def candle(minute: int, key: SeriesKey = MINUTES, close: str = "1.50") -> Candle:
    d = Decimal("1.5")
    return Candle(
        key.instrument, key.side, key.interval_s, minute * MINUTE_NS, d, d, d, Decimal(close), d, d, 1, None, None, True,
        0, "venue",
    )  # fmt: skip


def wrote(store: Series, *minutes: int, key: SeriesKey = MINUTES) -> None:
    store.write(Batch({key: [candle(minute, key) for minute in minutes]}))


def a_task(**changed: object) -> Task:
    made = Task(
        instrument="binance:BTCUSDT", interval_s=60, start_ns=0, end_ns=600 * MINUTE_NS, cursor_ns=0, created_ns=5,
        updated_ns=5,
    )  # fmt: skip
    return replace(made, **changed)


# -- summaries


def test_a_summary_follows_what_is_written_replaced_rows_count_once(store: Series) -> None:
    assert store.summary(MINUTES) is None
    assert store.summaries() == {}
    wrote(store, 5, 6, 7)
    wrote(store, 6, 7, 8, 8)
    wrote(store, 2)
    assert store.summary(MINUTES) == Summary(2 * MINUTE_NS, 8 * MINUTE_NS, 5)
    buys = SeriesKey(MINUTES.instrument, Of.CANDLES, 60, Side.BUY)
    wrote(store, 1, key=buys)
    assert store.summaries() == {
        MINUTES: Summary(2 * MINUTE_NS, 8 * MINUTE_NS, 5),
        buys: Summary(MINUTE_NS, MINUTE_NS, 1),
    }


def test_summaries_and_checks_and_tasks_outlive_the_process(reopen: Callable[[], SqlSeries]) -> None:
    store = reopen()
    task, _ = store.tasks.open_task(a_task())
    moved = replace(task, state=TaskState.RUNNING, cursor_ns=3 * MINUTE_NS, candles=3)
    check = Check(MINUTE_NS, 2 * MINUTE_NS, 9)
    store.write(Batch({MINUTES: [candle(0), candle(2)]}, checks={MINUTES: [check]}, tasks=[moved]))
    again = reopen()
    assert again.summary(MINUTES) == Summary(0, 2 * MINUTE_NS, 2)
    assert again.checks(MINUTES, 0, 10 * MINUTE_NS) == [check]
    assert again.tasks.tasks() == [moved]


# -- holes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_holes_are_those_a_walk_over_every_bucket_finds(store: Series, data: st.DataObject) -> None:
    key = SeriesKey(f"x:{next(_names)}", Of.CANDLES, 60)
    minutes = data.draw(st.sets(st.integers(0, 40)))
    wrote(store, *minutes, key=key)
    start, end = data.draw(st.integers(0, 20)), data.draw(st.integers(10, 45))
    naive: list[tuple[int, int]] = []
    for minute in range(start, end):
        if minute in minutes:
            continue
        if naive and naive[-1][1] == minute * MINUTE_NS:
            naive[-1] = (naive[-1][0], (minute + 1) * MINUTE_NS)
        else:
            naive.append((minute * MINUTE_NS, (minute + 1) * MINUTE_NS))
    bounds = (start * MINUTE_NS, end * MINUTE_NS)
    assert list(store.holes(key, *bounds, 1_000)) == naive
    few = data.draw(st.integers(1, 4))
    assert list(store.holes(key, *bounds, few)) == naive[:few]
    assert list(store.holes(key, *bounds, few, newest=True)) == naive[-few:]


def test_an_empty_or_backward_stretch_has_no_hole(store: Series) -> None:
    assert list(store.holes(MINUTES, 60 * NS, 60 * NS, 9)) == []
    assert list(store.holes(MINUTES, 120 * NS, 60 * NS, 9)) == []
    assert list(store.holes(MINUTES, 0, 60 * NS, 9)) == [(0, 60 * NS)]


def test_a_check_takes_the_place_of_those_it_touches(store: Series) -> None:
    def checked(start: int, end: int, at: int) -> None:
        store.write(Batch(checks={MINUTES: [Check(start, end, at)]}))

    checked(0, 10, 1)
    checked(10, 20, 1)
    checked(30, 40, 1)
    checked(5, 15, 2)
    assert list(store.checks(MINUTES, 0, 100)) == [Check(5, 15, 2), Check(30, 40, 1)]
    assert list(store.checks(MINUTES, 15, 30)) == []
    assert list(store.checks(MINUTES, 14, 31)) == [Check(5, 15, 2), Check(30, 40, 1)]


def test_texts_are_what_was_written_to_the_last_digit(store: Series) -> None:
    store.write(Batch({MINUTES: [candle(n, close=f"{n}.1000000001") for n in range(5)]}))
    told = store.texts(MINUTES, start_ns=MINUTE_NS, end_ns=4 * MINUTE_NS, limit=2)
    assert list(told) == [
        (n * MINUTE_NS, "1.5", "1.5", "1.5", f"{n}.1000000001", "1.5") for n in (1, 2)
    ]  # fmt: skip
    newest = store.texts(MINUTES, start_ns=0, end_ns=4 * MINUTE_NS, limit=2, newest=True)
    assert [row[0] for row in newest] == [2 * MINUTE_NS, 3 * MINUTE_NS]
    assert list(store.texts(SeriesKey("x:Y", Of.CANDLES, 60), start_ns=0, end_ns=9, limit=1)) == []


# -- tasks


@pytest.fixture
def tasks(store: Series) -> TaskStore:
    assert isinstance(store, MemorySeries | SqlSeries)
    return store.tasks


def test_ids_count_up_and_are_never_used_again(tasks: TaskStore) -> None:
    first, new = tasks.open_task(a_task())
    assert (first.id, new) == (1, True)
    assert tasks.drop_task(1)
    assert not tasks.drop_task(1)
    second, _ = tasks.open_task(a_task())
    assert second.id == 2
    assert tasks.task(1) is None
    assert tasks.task(2) == second


def test_a_task_equal_to_an_active_one_is_that_one(tasks: TaskStore) -> None:
    first, _ = tasks.open_task(a_task())
    assert tasks.open_task(a_task(created_ns=9, force=True)) == (first, False)
    other, new = tasks.open_task(a_task(end_ns=601 * MINUTE_NS))
    assert new
    assert tasks.save_task(replace(first, state=TaskState.RUNNING))
    assert tasks.open_task(a_task())[0].id == first.id
    assert tasks.save_task(replace(first, state=TaskState.FAILED, error="gone"))
    third, new = tasks.open_task(a_task())
    assert new
    assert [task.id for task in tasks.tasks()] == [third.id, other.id, first.id]
    assert [task.id for task in tasks.tasks([TaskState.FAILED])] == [first.id]
    assert [task.id for task in tasks.tasks(ACTIVE, 1)] == [third.id]
    assert list(tasks.tasks([])) == []


def test_a_dropped_task_does_not_come_back_with_its_next_page(store: Series, tasks: TaskStore) -> None:
    task, _ = tasks.open_task(a_task())
    tasks.drop_task(task.id)
    store.write(Batch({MINUTES: [candle(0)]}, tasks=[task]))
    assert list(tasks.tasks()) == []
    assert not tasks.save_task(task)
    assert store.summary(MINUTES) == Summary(0, 0, 1)


def test_ended_tasks_are_forgotten_after_their_time_active_ones_never(tasks: TaskStore) -> None:
    for n, state in enumerate(TaskState):
        task, _ = tasks.open_task(a_task(end_ns=(n + 1) * MINUTE_NS))
        tasks.save_task(replace(task, state=state, updated_ns=n))
    assert tasks.drop_ended(3) == 1
    assert {task.state for task in tasks.tasks()} == {*ACTIVE, TaskState.FAILED}


def test_a_hundred_at_once_make_one_task(reopen: Callable[[], SqlSeries]) -> None:
    store, together = reopen(), Barrier(8)

    def opened(_: int) -> list[int]:
        together.wait()
        return [store.tasks.open_task(a_task())[0].id for _ in range(13)]

    with ThreadPoolExecutor(8) as threads:
        assert {id_ for ids in threads.map(opened, range(8)) for id_ in ids} == {1}
    assert [task.id for task in store.tasks.tasks()] == [1]


OPEN = """
import sys
from openoutcry.market.tasks import Task
from openoutcry.stores.sql import SqlSeries
store = SqlSeries(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
wanted = Task(instrument="x:A", interval_s=60, start_ns=0, end_ns=60, cursor_ns=0, created_ns=0, updated_ns=0)
print(store.tasks.open_task(wanted)[0].id)
store.close()
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    url = sqlite_url(tmp_path / "series.db").render_as_string()
    SqlSeries(url).close()
    return url


def test_processes_that_ask_at_once_make_one_task(file: str) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", OPEN, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    assert {child.communicate("go\n")[0] for child in children} == {"1\n"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_summaries_stay_right_whatever_is_written_and_whoever_opens_the_store(
    reopen: Callable[[], SqlSeries], data: st.DataObject
) -> None:
    key, naive = SeriesKey(f"x:{next(_names)}", Of.CANDLES, 60), set[int]()
    store = reopen()
    for _ in range(data.draw(st.integers(3, 8))):
        if data.draw(st.booleans()):
            store = reopen()
        minutes = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
        wrote(store, *minutes, key=key)
        naive |= set(minutes)
        assert store.summary(key) == Summary(min(naive) * MINUTE_NS, max(naive) * MINUTE_NS, len(naive))
