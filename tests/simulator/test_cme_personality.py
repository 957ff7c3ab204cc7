"""The file of CME's open interest as the simulator serves it: good to the last row, and the same whenever it is asked for."""

import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal

import httpx2

from openoutcry.clock import ManualClock
from openoutcry.simulator.cme import FUTURES
from openoutcry.simulator.simulator import Simulator
from openoutcry.sources.interest_files import Sheet, read

NS = 1_000_000_000
DAY_NS = 86_400 * NS

Play = Callable[..., Awaitable[Simulator]]
Get = Callable[..., Awaitable[httpx2.Response]]


async def told(simulator: Simulator, get: Get, clock: ManualClock) -> Sheet:
    answer = await get(simulator.addresses()["cme"]["rest"] + "/open-interest.csv")
    assert answer.status_code == 200
    sheet = read(answer.content, clock.now_ns())
    assert sheet.refused == ()
    return sheet


async def test_a_year_of_weekdays_ends_today(play: Play, get: Get, clock: ManualClock) -> None:
    sheet = await told(await play("cme"), get, clock)
    times = sorted({sample.event_ns for sample in sheet.samples})
    assert times[-1] == clock.now_ns() // DAY_NS * DAY_NS
    assert 360 * DAY_NS < times[-1] - times[0] < 366 * DAY_NS
    days = [datetime.fromtimestamp(at_ns // NS, UTC) for at_ns in times]
    assert {day.weekday() for day in days} == {0, 1, 2, 3, 4}
    assert all((after - before).days in (1, 3) for before, after in itertools.pairwise(days))
    assert len(sheet.samples) == len(days) * len(FUTURES)
    assert {each.coin for each in sheet.instruments} == {"BTC", "ETH"}


async def test_numbers_belong_to_the_world_and_to_each_other(play: Play, get: Get, clock: ManualClock) -> None:
    simulator = await play("cme", "binance_futures")
    newest = {sample.instrument: sample for sample in (await told(simulator, get, clock)).samples}
    index = simulator.world.index("binance_futures:BTCUSDT", newest["cme:BTC"].event_ns)
    price = newest["cme:BTC"].price
    assert price is not None
    assert abs(price / index - 1) < Decimal("0.03")
    for sample in newest.values():
        assert sample.price is not None
        assert sample.value == (sample.size * sample.price).quantize(Decimal("0.01"))
        assert sample.size > 0


async def test_what_was_told_of_a_day_is_told_of_it_for_ever(play: Play, get: Get, clock: ManualClock) -> None:
    before = await told(await play("cme"), get, clock)
    # A clock of its own: one that is moved by days wakes who pushes ten times a second.
    later = ManualClock(clock.now_ns() + 4 * DAY_NS)
    simulator = Simulator(7, later, ["cme"])
    await simulator.start()
    after = await told(simulator, get, later)
    await simulator.stop()
    known = {(s.instrument, s.event_ns): (s.size, s.value, s.price) for s in after.samples}
    shared = [s for s in before.samples if (s.instrument, s.event_ns) in known]
    assert len(shared) > len(before.samples) * 0.97
    assert all(known[s.instrument, s.event_ns] == (s.size, s.value, s.price) for s in shared)
    assert max(s.event_ns for s in after.samples) > max(s.event_ns for s in before.samples)


async def test_who_has_the_file_is_not_sent_it_again(play: Play, get: Get) -> None:
    simulator = await play("cme")
    address = simulator.addresses()["cme"]["rest"]
    etag = (await get(f"{address}/open-interest.csv")).headers["etag"]
    again = await get(f"{address}/open-interest.csv", {"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")
    other = await get(f"{address}/open-interest.csv", {"if-none-match": '"other"'})
    assert other.status_code == 200
    assert (await get(f"{address}/other.csv")).status_code == 404
