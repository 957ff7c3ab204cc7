"""A manual clock wakes its sleepers in order of their times, and only those that are due."""

import asyncio

from openoutcry.clock import NS, ManualClock, SystemClock


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock = ManualClock(5 * NS)
    woken: list[tuple[float, int]] = []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.now_ns()))

    tasks = [asyncio.create_task(sleeper(s)) for s in (3, 1, 2)]
    await clock.advance(2.5)
    assert woken == [(1, 6 * NS), (2, 7 * NS)]
    await clock.advance(10)
    assert woken == [(1, 6 * NS), (2, 7 * NS), (3, 8 * NS)]
    assert clock.now_ns() == 5 * NS + round(12.5 * NS)
    await asyncio.gather(*tasks)


async def test_one_who_sleeps_again_is_woken_again_within_one_advance() -> None:
    clock, ticks = ManualClock(), list[int]()

    async def ticking() -> None:
        while len(ticks) < 3:
            await clock.sleep(1)
            ticks.append(clock.now_ns())

    task = asyncio.create_task(ticking())
    await clock.advance(10)
    assert ticks == [NS, 2 * NS, 3 * NS]
    await task


async def test_the_system_clock_goes_forward() -> None:
    clock = SystemClock()
    before = clock.now_ns()
    await clock.sleep(0)
    assert clock.now_ns() >= before
