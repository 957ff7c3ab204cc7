"""Windows of weight and turns."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.clock import NS, ManualClock
from openoutcry.errors import LimitExceeded, Unavailable
from openoutcry.feed import budget
from openoutcry.feed.budget import Pace, Pool, Window
from openoutcry.venues.venue import Rate


@given(st.lists(st.tuples(st.integers(0, 5 * NS), st.integers(1, 40)), max_size=80))
def test_no_stretch_of_the_window_ever_holds_more_than_the_limit(steps: list[tuple[int, int]]) -> None:
    window, now_ns, spent = Window(Rate(100, 10.0)), 0, list[tuple[int, int]]()
    for pause_ns, weight in steps:
        now_ns += pause_ns
        wait_s = window.wait_s(weight, now_ns)
        now_ns += round(wait_s * NS)
        assert window.wait_s(weight, now_ns) <= 1e-9
        window.spend(weight, now_ns)
        spent.append((now_ns, weight))
        assert sum(w for at, w in spent if at > now_ns - 10 * NS) <= 100
        assert len(window._slices) <= budget.SLICES + 2


def test_weight_that_the_venue_counted_and_we_did_not_is_adopted() -> None:
    window = Window(Rate(100, 60.0))
    window.spend(10, 0)
    window.adopt(95, NS)
    assert window.used(NS) == 95
    window.adopt(20, NS)
    assert window.used(NS) == 95
    window.adopt(10**9, NS)
    assert window.used(NS) == 100
    assert window.used(70 * NS) == 0


async def test_a_live_question_overtakes_those_that_can_wait() -> None:
    clock = ManualClock()
    pool = Pool("weight", Rate(10, 10.0), clock)
    done: list[str] = []

    async def take(name: str, weight: int, *, patient: bool) -> None:
        await pool.take("toy", weight, patient=patient, until_ns=100 * NS)
        done.append(name)

    tasks = [asyncio.create_task(take(f"old{i}", 5, patient=True)) for i in range(3)]
    await clock.advance(0)
    assert done == ["old0"]  # the second would pass the share of the patient
    tasks.append(asyncio.create_task(take("live", 5, patient=False)))
    await clock.advance(0)
    assert done == ["old0", "live"]
    await clock.advance(60)
    assert done == ["old0", "live", "old1", "old2"]
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(("live", "filled"), [(0, 85), (5, 75), (10, 65), (20, 60), (50, 60)])
async def test_the_patient_leave_room_by_how_many_live_questions_there_were(live: int, filled: int) -> None:
    clock = ManualClock()
    pool = Pool("weight", Rate(100, 60.0), clock)
    for _ in range(live):
        await pool.take("toy", 1, patient=False, until_ns=0)
    patient = [asyncio.create_task(pool.take("toy", 1, patient=True, until_ns=10**6 * NS)) for _ in range(100)]
    await clock.advance(0)
    assert pool.window.used(clock.now_ns()) == filled
    # What was left free is there at once.
    for _ in range(100 - filled):
        await pool.take("toy", 1, patient=False, until_ns=0)
    for task in patient:
        task.cancel()
    await asyncio.gather(*patient, return_exceptions=True)


async def test_a_question_that_would_wait_too_long_is_told_so() -> None:
    clock = ManualClock()
    pool = Pool("weight", Rate(10, 60.0), clock)
    await pool.take("toy", 10, patient=False, until_ns=0)
    with pytest.raises(Unavailable) as refused:
        await pool.take("toy", 1, patient=False, until_ns=10 * NS)
    assert refused.value.retry_s == pytest.approx(60, abs=1.1)


async def test_the_queue_is_bounded_and_a_cancelled_question_leaves_it() -> None:
    clock = ManualClock()
    pool = Pool("weight", Rate(1, 10.0), clock)
    await pool.take("toy", 1, patient=False, until_ns=NS)
    waiting = [
        asyncio.create_task(pool.take("toy", 1, patient=True, until_ns=10**6 * NS)) for _ in range(budget.WAITING_MAX)
    ]
    await clock.advance(0)
    with pytest.raises(LimitExceeded):
        await pool.take("toy", 1, patient=False, until_ns=10**6 * NS)
    for task in waiting[:-1]:
        task.cancel()
    await asyncio.gather(*waiting[:-1], return_exceptions=True)
    await clock.advance(11)
    assert waiting[-1].done()
    await waiting[-1]


async def test_turns_are_spaced_by_the_rate() -> None:
    clock = ManualClock()
    pace, at = Pace(Rate(3, 1.0), clock), list[int]()

    async def go() -> None:
        await pace.turn()
        at.append(clock.now_ns())

    tasks = [asyncio.create_task(go()) for _ in range(8)]
    await clock.advance(5)
    await asyncio.gather(*tasks)
    assert at == [0, 0, 0, NS, NS, NS, 2 * NS, 2 * NS]
