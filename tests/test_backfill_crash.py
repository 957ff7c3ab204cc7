"""Backfills that are killed again and again, at random moments, by files of the archive and by pages of the venue.

The venues are played by this process; the work is done by `openoutcry backfill` as a user starts it, on one data folder.
"""

import asyncio
import random
import signal
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from openoutcry.app import DATABASE
from openoutcry.clock import NS, SystemClock
from openoutcry.events import Candle, open_of
from openoutcry.feed.tasks import task_of
from openoutcry.instrument import Instrument
from openoutcry.market.series import Of, SeriesKey
from openoutcry.market.tasks import ACTIVE, Task, TaskState
from openoutcry.simulator.simulator import Simulator
from openoutcry.simulator.tape import Bar
from openoutcry.stores.export import time_text
from openoutcry.stores.sql import SqlSeries, sqlite_url
from tests.test_crash import environment, integrity

SEED = 4
KILLS = 50
AT_ONCE = 3
LOOKS_MAX = 2_000
WHOLE_S_MAX = 120.0
DAY_NS = 86_400 * NS
DAYS = 3
# What is fetched, in turn: from files and from pages of one venue, from pages of 100 of another.
NAMES = (
    *("binance_futures:BTCUSDT", "okx:ETH-USDT-SWAP", "binance:ETHUSDT", "binance_futures:SOLUSDT"),
    *("okx:BTC-USDT-SWAP", "binance:BTCUSDT", "okx:XRP-USDT-SWAP", "binance_futures:XRPUSDT"),
)


class Work:
    """The store, the tasks put into it, and the processes that are killed over them."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self.simulator, self.folder = simulator, folder
        self.settings = environment(simulator)
        folder.mkdir(mode=0o700)
        self.series = SqlSeries(sqlite_url(folder / DATABASE))
        self.chance = random.Random(SEED)
        self.end_ns = open_of(SystemClock().now_ns(), 86_400) - DAY_NS
        self.put = 0

    def instrument(self, name: str) -> Instrument:
        return next(each.instrument for each in self.simulator.world.listings() if each.name == name)

    def put_one(self) -> None:
        """One more task: its instrument in turn, its range a few days before the last of that instrument."""
        turn, rank = divmod(self.put, len(NAMES))
        end_ns = self.end_ns - turn * DAYS * DAY_NS
        wanted = task_of(self.instrument(NAMES[rank]), 60, end_ns - DAYS * DAY_NS, end_ns, SystemClock().now_ns())
        self.put += 1
        assert wanted.start_ns >= (self.instrument(NAMES[rank]).listed_ns or 0), "no more history to fetch"
        assert self.series.tasks.open_task(wanted)[1]

    def active(self) -> list[Task]:
        return sorted(self.series.tasks.tasks(ACTIVE), key=lambda task: task.id)

    def fetched(self) -> int:
        return sum(task.candles for task in self.series.tasks.tasks())

    async def begin(self, task: Task) -> asyncio.subprocess.Process:
        venue, _, symbol = task.instrument.partition(":")
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "openoutcry", "backfill", symbol, "--venue", venue, "--interval", "1m"),
            *(
                "--start",
                time_text(task.start_ns),
                "--end",
                time_text(task.end_ns),
                "--data",
                str(self.folder),
                "--json",
            ),
            env=self.settings,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def kill_one(self) -> None:
        """A life of one process: until it stored something, and a random moment longer."""
        before = self.fetched()
        process = await self.begin(self.active()[0])
        for _ in range(LOOKS_MAX):
            if self.fetched() != before or process.returncode is not None:
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(self.chance.uniform(0, 0.15))
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.communicate()

    def checked(self, name: str) -> int:
        """Every candle of an instrument is there once, as the venue has it. Returns how many there are."""
        key = SeriesKey(name, Of.CANDLES, 60)
        done = [task for task in self.series.tasks.tasks() if task.instrument == name]
        start_ns, end_ns = min(task.start_ns for task in done), max(task.end_ns for task in done)
        assert list(self.series.holes(key, start_ns, end_ns, 9)) == []
        rows = [row for row in self.series.read(key, start_ns=start_ns, end_ns=end_ns) if isinstance(row, Candle)]
        summary = self.series.summary(key)
        assert summary is not None
        assert summary.rows == len(rows) == sum(task.candles for task in done)
        speller = self.simulator.world.speller(name)
        truth = {bar.open_ns: speller.price_decimal(bar.close) for bar in self.bars(name, start_ns, end_ns)}
        told = {row.open_ns: row.close for row in rows if row.volume > Decimal(0)}
        assert told == {at_ns: close for at_ns, close in truth.items() if at_ns in told}
        assert len(told) == len(truth)
        return len(rows)

    def bars(self, name: str, start_ns: int, end_ns: int) -> list[Bar]:
        return [bar for bar in self.simulator.world.candles(name, 60, start_ns, end_ns) if bar.trades]


async def test_fifty_kills_leave_every_task_completed_without_a_hole_or_a_double(tmp_path: Path) -> None:
    simulator = Simulator(SEED, SystemClock(), activity=0.05, limits=False)
    await simulator.start()
    try:
        work = Work(simulator, tmp_path / "data")
        with closing(work.series):
            for _ in range(KILLS):
                while len(work.active()) < AT_ONCE:
                    work.put_one()
                await work.kill_one()
            async with asyncio.timeout(WHOLE_S_MAX):
                while work.active():
                    process = await work.begin(work.active()[0])
                    said, _ = await process.communicate()
                    assert process.returncode == 0, said.decode()
            assert {task.state for task in work.series.tasks.tasks()} == {TaskState.COMPLETED}
        # Series that other processes made are known to who opens the store after them.
        with closing(SqlSeries(sqlite_url(work.folder / DATABASE))) as work.series:
            fetched = [work.checked(name) for name in NAMES[: work.put]]
            assert sum(fetched) == work.put * DAYS * 1_440
        assert integrity(tmp_path / "data" / DATABASE) == "ok"
    finally:
        await simulator.stop()
