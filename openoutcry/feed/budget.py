"""What may be asked of an address before it says no: weight in a sliding window, live questions before backfill."""

import asyncio
import heapq
import itertools
from collections import deque

from openoutcry.clock import NS, Clock
from openoutcry.errors import Crowded, LimitExceeded
from openoutcry.venues.venue import Rate

# The window is cut into so many slices: memory is constant, and a weight is forgotten at most one slice late.
SLICES = 60
# Questions that may wait in one pool.
WAITING_MAX = 512
# Backfill and polls may fill a pool only so far, so that a live question always finds room: the more of them were asked
# lately, the less is left to the patient. The most, and the least, of a pool that these may have filled.
PATIENT_SHARE_MAX = 0.85
PATIENT_SHARE_MIN = 0.6
# So many times what live questions used within the window is kept free for the next ones.
LIVE_ROOM = 2.0


class Window:
    """Weight spent within any `rate.per_s` seconds. Pure: the caller says what time it is."""

    def __init__(self, rate: Rate) -> None:
        self.count = rate.count
        self._span_ns = round(rate.per_s * NS)
        self._slice_ns = max(1, self._span_ns // SLICES)
        self._slices: deque[tuple[int, int]] = deque()  # (end of the slice, weight in it)
        self._used = 0

    def used(self, now_ns: int) -> int:
        """Weight that still counts."""
        slices = self._slices
        while slices and slices[0][0] + self._span_ns <= now_ns:
            self._used -= slices.popleft()[1]
        return self._used

    def spend(self, weight: int, now_ns: int) -> None:
        """Count `weight` as spent now."""
        self.used(now_ns)
        end_ns = (now_ns // self._slice_ns + 1) * self._slice_ns
        self._used += weight
        if self._slices and self._slices[-1][0] >= end_ns:
            last_ns, before = self._slices.pop()
            self._slices.append((last_ns, before + weight))
        else:
            self._slices.append((end_ns, weight))

    def adopt(self, used: int, now_ns: int) -> None:
        """Believe the venue where it counted more than we did (somebody else shares our address)."""
        more = min(used, self.count) - self.used(now_ns)
        if more > 0:
            self.spend(more, now_ns)

    def wait_s(self, weight: int, now_ns: int, share: float = 1.0) -> float:
        """Seconds until `weight` fits under `share` of the limit; 0 when it fits now."""
        # A single question heavier than its share must still get through once the window is empty enough.
        most = max(int(self.count * share), min(weight, self.count))
        excess = self.used(now_ns) + min(weight, self.count) - most
        if excess <= 0:
            return 0.0
        for end_ns, spent in self._slices:
            excess -= spent
            if excess <= 0:
                return (end_ns + self._span_ns - now_ns) / NS
        raise AssertionError("an empty window has room")


class Pool:
    """A window with a queue: the patient wait behind everybody else."""

    def __init__(self, name: str, rate: Rate, clock: Clock) -> None:
        self.name = name
        self.window = Window(rate)
        self._live = Window(rate)
        self._clock = clock
        self._order = itertools.count()
        self._queue: list[tuple[bool, int]] = []
        self._moved = asyncio.Event()

    async def take(self, who: str, weight: int, *, patient: bool, until_ns: int) -> None:
        """Return once `weight` was spent. Raises Crowded when it would not fit before `until_ns`."""
        if len(self._queue) >= WAITING_MAX:
            raise LimitExceeded(f"too many questions wait for {who}", 1.0)
        ticket = (patient, next(self._order))
        heapq.heappush(self._queue, ticket)
        try:
            while True:
                moved = self._moved
                if self._queue[0] != ticket:
                    await moved.wait()
                    continue
                now_ns = self._clock.now_ns()
                wait_s = self.window.wait_s(weight, now_ns, self._patient_share(now_ns) if patient else 1.0)
                if wait_s <= 0:
                    self.window.spend(weight, now_ns)
                    if not patient:
                        self._live.spend(weight, now_ns)
                    return
                if now_ns + wait_s * NS > until_ns:
                    raise Crowded(who, f"the request budget of {who} is used up", wait_s)
                await self._clock.sleep(wait_s)
        finally:
            self._queue.remove(ticket)
            heapq.heapify(self._queue)
            self._moved.set()
            self._moved = asyncio.Event()

    def _patient_share(self, now_ns: int) -> float:
        lively = self._live.used(now_ns) / self._live.count
        return max(PATIENT_SHARE_MIN, round(PATIENT_SHARE_MAX - LIVE_ROOM * lively, 3))


class Pace:
    """Turns at most `rate.count` in any `rate.per_s` seconds, first come first served."""

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._span_ns = round(rate.per_s * NS)
        self._clock = clock
        self._turns: deque[int] = deque(maxlen=max(1, rate.count))

    async def turn(self) -> None:
        """Wait for the next turn and take it."""
        turns = self._turns
        now_ns = self._clock.now_ns()
        due_ns = now_ns
        if len(turns) == turns.maxlen:
            due_ns = max(now_ns, turns[0] + self._span_ns)
        # Taken before the wait, so that whoever asks meanwhile comes after.
        turns.append(due_ns)
        if due_ns > now_ns:
            await self._clock.sleep((due_ns - now_ns) / NS)
