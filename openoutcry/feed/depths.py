"""The depth of every followed instrument of a venue, and where each gets its snapshot from.

Most venues tell a snapshot in the stream itself: a depth that broke is subscribed anew. Others (Binance) must be asked
for one on their REST side once the stream flows: one question at a time for each instrument, and a longer pause after
each that did not help. What the stream says meanwhile waits, and joins the snapshot when it comes.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import Refusal, UnknownInstrument, Unsupported
from openoutcry.events import DepthDelta, DepthSnapshot, Event
from openoutcry.feed.depth import Depth, Outcome
from openoutcry.telemetry import Telemetry
from openoutcry.venues.venue import Ask, Page, Query, Venue

# A depth that broke is subscribed anew, but not more often than this.
RENEWAL_S = 10.0
# Pauses before the second, third, ... question for a snapshot; one that held for so long makes the next break a first.
ASK_S_MIN, ASK_S_MAX = 1.0, 60.0
STEADY_S = 60.0

log = structlog.get_logger()


class _Kept:
    """One instrument. `flows` while its stream does; `tries` are the questions since it was last steady."""

    __slots__ = ("asking", "depth", "due_ns", "flows", "hopeless", "tries")

    def __init__(self, depth: Depth) -> None:
        self.depth = depth
        self.flows = self.hopeless = False
        self.tries = self.due_ns = 0
        self.asking: asyncio.Task[None] | None = None


class Depths:
    """By instrument name. `renew` subscribes an instrument's stream anew; `take` hears the events of an answer."""

    def __init__(
        self,
        venue: Venue,
        *,
        renew: Callable[[str], None],
        asks: Callable[[Ask], AsyncIterator[Page]],
        take: Callable[[Sequence[Event]], None],
        clock: Clock,
        chance: random.Random,
        telemetry: Telemetry,
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._venue = venue
        self._streamed = venue.limits.depth_snapshots == "streamed"
        self._renew = renew
        self._asks = asks
        self._take = take
        self._clock = clock
        self._chance = chance
        self._spawn = spawn
        self._kept: dict[str, _Kept] = {}
        # Those that need a snapshot, which may have to wait for its turn.
        self._wanting: set[str] = set()
        self._breaks = telemetry.counter("feed_depth_breaks", "Books that had to be asked for anew", ("venue",))
        self._asked = telemetry.counter("feed_depth_asks", "Questions for the snapshot of a book", ("venue",))

    def __bool__(self) -> bool:
        return bool(self._kept)

    def get(self, name: str) -> Depth | None:
        """Its levels, if it is followed."""
        kept = self._kept.get(name)
        return None if kept is None else kept.depth

    def known(self, name: str) -> bool:
        """Whether its levels are known now."""
        kept = self._kept.get(name)
        return kept is not None and kept.depth.seq is not None

    def add(self, name: str) -> None:
        """Keep it."""
        self._kept[name] = _Kept(Depth(streamed=self._streamed))

    def remove(self, name: str) -> None:
        """Keep it no more."""
        self._wanting.discard(name)
        kept = self._kept.pop(name, None)
        if kept is not None:
            _stop_asking(kept)

    def take(self, event: DepthSnapshot | DepthDelta) -> None:
        """Apply what was heard."""
        name = event.instrument
        kept = self._kept.get(name)
        if kept is None:
            return
        outcome = kept.depth.take(event)
        if outcome is Outcome.BROKEN:
            self._breaks.labels(self._venue.name).inc()
            log.warning("depth broken", instrument=name, why=kept.depth.why)
        elif not (outcome is Outcome.WAITING and not kept.flows and not self._streamed):
            return
        # The first delta shows that the stream flows, whether or not the venue said that it took it.
        kept.flows = True
        self._want(name)

    def recovered(self, name: str) -> None:
        """Its stream flows."""
        kept = self._kept.get(name)
        if kept is not None and not self._streamed:
            kept.flows, kept.hopeless = True, False
            if kept.depth.seq is None:
                self._want(name)

    def lost(self, name: str, reason: str) -> None:
        """Its stream stopped: what comes is not joined to what was."""
        kept = self._kept.get(name)
        if kept is not None:
            kept.flows = False
            kept.depth.lose(reason)
            _stop_asking(kept)
            if not self._streamed:
                self._wanting.discard(name)

    def upkeep(self) -> None:
        """To be called about every second: see to those whose turn has come."""
        now_ns = self._clock.now_ns()
        for name in list(self._wanting):
            kept = self._kept[name]
            if kept.due_ns > now_ns or kept.asking is not None:
                continue
            self._wanting.discard(name)
            if self._streamed:
                kept.due_ns = now_ns + round(RENEWAL_S * NS)
                self._renew(name)
            else:
                self._ask(name, kept, now_ns)

    def _want(self, name: str) -> None:
        if not self._kept[name].hopeless:
            self._wanting.add(name)
            self.upkeep()

    def _ask(self, name: str, kept: _Kept, now_ns: int) -> None:
        kept.tries = 1 if now_ns - kept.due_ns > STEADY_S * NS else kept.tries + 1
        pause_s = min(ASK_S_MAX, ASK_S_MIN * 2.0 ** min(kept.tries - 1, 20))
        kept.due_ns = now_ns + round(pause_s * self._chance.uniform(1.0, 1.5) * NS)
        self._asked.labels(self._venue.name).inc()
        kept.asking = self._spawn(f"{name} depth", self._asking(name, kept))

    async def _asking(self, name: str, kept: _Kept) -> None:
        try:
            async for page in self._asks(Ask(query=Query.DEPTH, symbol=name.partition(":")[2])):
                self._take(page.events)
        except (UnknownInstrument, Unsupported) as e:
            # Until its stream comes back, if it ever does.
            kept.hopeless = True
            log.warning("no depth", instrument=name, reason=e.text)
        except Refusal as e:
            log.info("no depth yet", instrument=name, reason=e.text)
        finally:
            # Whoever was stopped may have a successor already.
            if kept.asking is asyncio.current_task():
                kept.asking = None
        if kept.flows and kept.depth.seq is None and self._kept.get(name) is kept:
            self._want(name)


def _stop_asking(kept: _Kept) -> None:
    if kept.asking is not None:
        kept.asking.cancel()
        kept.asking = None
