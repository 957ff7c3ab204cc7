"""Front door of everything outside: follow, ask, and know how the venues are doing."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import structlog

from openoutcry.bus import Bus
from openoutcry.clock import Clock
from openoutcry.errors import UnknownVenue
from openoutcry.feed.depth import Depth
from openoutcry.feed.desk import Access, Desk, Numbers, Ports, Resume, Tap
from openoutcry.feed.gate import Pools
from openoutcry.instrument import Instrument
from openoutcry.market.outside import VenueState
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Http, Sockets
from openoutcry.venues import venue as words
from openoutcry.venues.venue import Answer, Ask, Limits, Page, Query

STOP_S_MAX = 1.5

log = structlog.get_logger()


class Feed:
    """Implements `market.outside.Outside` over the venues it is given.

    `resume` tells, by instrument name, id and event time (ns) of the last trade that is stored. `taps`, by venue, hear
    all that passes between us and it.
    """

    def __init__(
        self,
        venues: Mapping[str, Access],
        *,
        bus: Bus,
        clock: Clock,
        http: Http,
        sockets: Sockets,
        telemetry: Telemetry,
        chance: random.Random,
        numbers: Numbers | None = None,
        resume: Resume = lambda _name: None,
        taps: Mapping[str, Tap] = MappingProxyType({}),
    ) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        ports = Ports(
            bus=bus,
            clock=clock,
            http=http,
            sockets=sockets,
            telemetry=telemetry,
            chance=chance,
            resume=resume,
            taps=taps,
            spawn=self._spawn,
        )
        pools = Pools(clock)
        self._desks = {name: Desk(access, ports, pools, numbers or Numbers()) for name, access in venues.items()}

    async def start(self) -> None:
        """Begin: listings are read, polls run, and what is followed is subscribed."""
        for desk in self._desks.values():
            desk.start()

    async def stop(self) -> None:
        """End everything, within two seconds."""
        for desk in self._desks.values():
            desk.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=STOP_S_MAX)
            if left:
                log.warning("feed did not stop in time", tasks=sorted(task.get_name() for task in left))

    # -- market.outside.Outside

    def venues(self) -> Mapping[str, VenueState]:
        """The venues that are on, by name, without asking them."""
        return {name: desk.state() for name, desk in self._desks.items()}

    def feeds(self, venue: str) -> frozenset[words.Feed]:
        """What can be followed there, streamed or polled. Raises UnknownVenue."""
        return self._desk(venue).supports()

    def queries(self, venue: str) -> frozenset[Query]:
        """What its REST side can be asked. Raises UnknownVenue."""
        return self._desk(venue).venue.queries

    def intervals_s(self, venue: str) -> frozenset[int]:
        """Candle lengths its REST side serves. Raises UnknownVenue."""
        return self._desk(venue).venue.intervals_s

    def limits(self, venue: str) -> Limits:
        """What it allows, and how it behaves. Raises UnknownVenue."""
        return self._desk(venue).venue.limits

    def instruments(self, venue: str) -> Mapping[str, Instrument]:
        """The venue's listing, by symbol; empty until it was read. Raises UnknownVenue."""
        return self._desk(venue).catalog.instruments

    async def listing(self, venue: str) -> Mapping[str, Instrument]:
        """The listing, read now if it was not yet. Raises UnknownVenue, Unavailable."""
        catalog = self._desk(venue).catalog
        if not catalog.instruments:
            await catalog.read()
        return catalog.instruments

    def followed(self, instrument: str, feed: words.Feed) -> bool:
        """Whether that feed of that instrument is subscribed now and without an open gap."""
        desk = self._desks.get(instrument.partition(":")[0])
        return desk is not None and desk.followed(instrument, feed)

    def follow(self, instrument: Instrument, feeds: Iterable[words.Feed]) -> Callable[[], None]:
        """Subscribe (one stream, however many follow it). Returns the way to let go; the last one to let go ends it.

        Raises UnknownVenue, Unsupported, LimitExceeded.
        """
        return self._desk(instrument.venue).follow(instrument, feeds)

    def follow_all(self, venue: str, feed: words.Feed) -> Callable[[], None]:
        """Subscribe to all instruments at once, where the venue has such a stream. Raises UnknownVenue, Unsupported."""
        return self._desk(venue).follow_all(feed)

    def follow_asked(self, venue: str, query: Query, of: str) -> Callable[[], None]:
        """Ask in turn what no stream tells: OPTION_INTEREST by underlying, POSITIONS by holder.

        Returns the way to stop. Raises UnknownVenue, Unsupported.
        """
        return self._desk(venue).follow_asked(query, of)

    def depth(self, instrument: str) -> Depth | None:
        """The levels of an instrument whose DEPTH is followed; its `seq` is None while they are not known."""
        desk = self._desks.get(instrument.partition(":")[0])
        return None if desk is None else desk.depth(instrument)

    def ask(self, venue: str, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        """All pages of an answer, within the venue's limits. Raises UnknownInstrument, Unsupported, Unavailable."""
        return self._desk(venue).pages(ask, patient=patient)

    async def raw(self, venue: str, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        """An answer untouched, whatever its status, within the venue's limits. Raises Unavailable."""
        return await self._desk(venue).raw(path, query, weight)

    async def send(self, venue: str, request: words.Request) -> Answer:
        """One answer within the venue's limits. Raises UnknownVenue, Unavailable."""
        return await self._desk(venue).gate.send(request)

    def _desk(self, venue: str) -> Desk:
        desk = self._desks.get(venue)
        if desk is None:
            raise UnknownVenue(f"no venue {venue!r}")
        return desk

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("feed task failed", task=task.get_name(), exc_info=task.exception())
