"""The only place that asks what time it is."""

import asyncio
import heapq
import itertools
import time
from typing import Protocol

NS = 1_000_000_000


class Clock(Protocol):
    """Wall time in nanoseconds UTC, and waiting."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970 UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock have passed."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970 UTC."""
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves when it is told to: `await clock.advance(seconds)` wakes every sleeper that is due, in order."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now_ns(self) -> int:
        """Nanoseconds since 1970 UTC, as last set."""
        return self._now_ns

    @property
    def sleepers(self) -> int:
        """How many are waiting now."""
        return sum(not waker.done() for _, _, waker in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Return once `advance` has moved past `seconds` from now."""
        waker = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_ns + round(seconds * NS), next(self._order), waker))
        await waker

    async def advance(self, seconds: float) -> None:
        """Move forward, stopping at each sleeper that is due and letting it run before going on."""
        end_ns = self._now_ns + round(seconds * NS)
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end_ns:
            due_ns, _, waker = heapq.heappop(self._sleepers)
            self._now_ns = max(self._now_ns, due_ns)
            if not waker.done():
                waker.set_result(None)
                await _settle()
        self._now_ns = end_ns
        await _settle()


async def _settle() -> None:
    # A few turns of the loop, so that a woken task can run, await something ready, and sleep again.
    for _ in range(10):
        await asyncio.sleep(0)
