"""Backfill from the command line: beside the server that has the data folder, or alone where none has it."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from openoutcry.aggregates.candles import Candles
from openoutcry.app import DATABASE, accesses, backfill, feed_numbers, market_numbers, outside, simulated_outside
from openoutcry.bus import Bus
from openoutcry.clock import Clock
from openoutcry.config import Config
from openoutcry.errors import BadInterval, FolderTaken, Unavailable, UnknownVenue
from openoutcry.feed.feed import Feed
from openoutcry.feed.tasks import Tasks, refuse_more, task_of
from openoutcry.instrument import Instrument
from openoutcry.market.coins import Coins
from openoutcry.market.market import Market
from openoutcry.market.tasks import ACTIVE, Task
from openoutcry.stores.folder import DataFolder
from openoutcry.stores.sql import SqlSeries, sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.venues import VENUES


class Backfiller(Protocol):
    """Where tasks are put, and looked after. `served`: a server works on them, and goes on when we leave."""

    served: bool

    async def find(self, venue: str, symbol: str) -> Instrument:
        """What is meant there. Raises UnknownVenue, UnknownInstrument, Unavailable."""
        ...

    async def create(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int, *, force: bool) -> Task:
        """As `Tasks.create`."""
        ...

    async def get(self, id_: int) -> Task | None:
        """How far it is; None once it was deleted. Raises Unavailable."""
        ...


@asynccontextmanager
async def backfiller(config: Config, clock: Clock, *, simulated: bool = False) -> AsyncIterator[Backfiller]:
    """Our own workers where the data folder is free, else the server's that has it; `simulated`: on simulated venues.

    Raises BadConfig, Unavailable; FolderTaken where a simulated world is wanted in a folder that is in use.
    """
    try:
        folder = DataFolder(config.data)
    except FolderTaken:
        if simulated:
            raise
        store = opened(config)
        try:
            yield _Beside(config, store, clock)
        finally:
            store.close()
        return
    async with AsyncExitStack() as stack:
        stack.callback(folder.close)
        world = await (simulated_outside(config) if simulated else outside(config))
        stack.push_async_callback(world.close)
        series = opened(config)
        stack.callback(series.close)
        bus, telemetry = Bus(), Telemetry()
        feed = Feed(
            accesses(world.config),
            bus=bus,
            clock=world.clock,
            http=world.http,
            sockets=world.sockets,
            telemetry=telemetry,
            chance=random.Random(),  # noqa: S311 - jitter is no secret
            numbers=feed_numbers(world.config),
        )
        stack.push_async_callback(feed.stop)
        market = Market(feed, series, bus, world.clock, telemetry, Candles(), market_numbers(world.config))
        stack.push_async_callback(market.close)
        tasks = backfill(world, market, feed, series, telemetry)
        work = asyncio.create_task(tasks.run())
        stack.push_async_callback(_ended, work)
        yield _Alone(tasks, market, series)


def opened(config: Config) -> SqlSeries:
    """The store of the settings, also while a server has it open. Raises Unavailable."""
    url = config.store.url
    return SqlSeries(url.get_secret_value() if url else sqlite_url(config.data / DATABASE))


class _Alone:
    """We do it ourselves."""

    served = False

    def __init__(self, tasks: Tasks, market: Market, series: SqlSeries) -> None:
        self._tasks, self._market, self._series = tasks, market, series

    async def find(self, venue: str, symbol: str) -> Instrument:
        return Coins(venue, await self._market.instruments(venue)).find(symbol)

    async def create(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int, *, force: bool) -> Task:
        return await self._tasks.create(instrument, interval_s, start_ns, end_ns, force=force)

    async def get(self, id_: int) -> Task | None:
        return await asyncio.to_thread(self._series.tasks.task, id_)


class _Beside:
    """The server does it: it finds the task in the store within a second."""

    served = True

    def __init__(self, config: Config, series: SqlSeries, clock: Clock) -> None:
        self._config, self._series, self._clock = config, series, clock

    async def find(self, venue: str, symbol: str) -> Instrument:
        if venue not in VENUES:
            raise UnknownVenue(f"no venue {venue}; there are {', '.join(sorted(VENUES))}")
        listed: Sequence[Instrument] = await asyncio.to_thread(self._series.listing, venue)
        if not listed:
            raise Unavailable(venue, f"the server that has {self._config.data} has not heard of {venue} yet")
        return Coins(venue, {each.symbol: each for each in listed}).find(symbol)

    async def create(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int, *, force: bool) -> Task:
        served = VENUES[instrument.venue]().intervals_s
        if interval_s not in served:
            raise BadInterval(f"{instrument.venue} has candles of {', '.join(map(str, sorted(served)))} s")
        refuse_more(await asyncio.to_thread(self._series.tasks.tasks, ACTIVE), self._config.backfill.active_max)
        now_ns, candles_max = self._clock.now_ns(), self._config.backfill.candles_max
        wanted = task_of(instrument, interval_s, start_ns, end_ns, now_ns, candles_max, force)
        task, _ = await asyncio.to_thread(self._series.tasks.open_task, wanted)
        return task

    async def get(self, id_: int) -> Task | None:
        return await asyncio.to_thread(self._series.tasks.task, id_)


async def _ended(work: asyncio.Task[None]) -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
