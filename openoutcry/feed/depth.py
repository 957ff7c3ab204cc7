"""A venue's levels of one instrument, kept from snapshots and deltas; wrong is worse than none.

Pure. How deltas chain differs by venue, and the events say which way: with `previous_seq` each must name the one before
it (Binance futures, OKX, Bybit), without it each must begin where the last ended (Binance spot). A delta that does not
fit, a checksum that differs, or a book that crosses itself breaks the depth: it is empty until a snapshot comes.

A snapshot that was asked for beside the stream may be older or newer than the deltas that came meanwhile: those wait,
and join it. A snapshot that the stream itself tells holds all that was told before it.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from decimal import Decimal
from enum import Enum, auto
from itertools import islice
from zlib import crc32

from openoutcry.events import DepthDelta, DepthSnapshot, Level

# Levels kept a side; those farther from the best are forgotten, as venues themselves do.
LEVELS_MAX = 5_000
# Deltas kept while a snapshot is awaited, which may be older than they are.
WAITING_MAX = 1_000
# OKX sums its checksum over so many levels a side.
CHECKED_LEVELS = 25


class Outcome(Enum):
    """What became of an event."""

    APPLIED = auto()
    OLD = auto()  # already contained
    WAITING = auto()  # kept until a snapshot comes
    BROKEN = auto()  # something was missed or is wrong: a snapshot is needed


class Depth:
    """Bids and asks of one instrument; `streamed` where its snapshots come in the stream of its deltas."""

    def __init__(self, *, streamed: bool = False) -> None:
        self.seq: int | None = None
        self.event_ns = 0
        self.why = ""
        self._bids = _Side()
        self._asks = _Side()
        self._fresh = False
        self._streamed = streamed
        self._waiting: deque[DepthDelta] = deque(maxlen=WAITING_MAX)

    def bids(self, count: int) -> Sequence[Level]:
        """The best `count`, highest first."""
        return tuple(self._bids.from_top(count))

    def asks(self, count: int) -> Sequence[Level]:
        """The best `count`, lowest first."""
        return tuple(self._asks.from_bottom(count))

    def take(self, event: DepthSnapshot | DepthDelta) -> Outcome:
        """Apply a snapshot or a delta."""
        return self._replace(event) if isinstance(event, DepthSnapshot) else self._change(event)

    def lose(self, why: str) -> Outcome:
        """Know nothing until the next snapshot."""
        self.seq, self.why = None, why
        self._bids, self._asks = _Side(), _Side()
        self._waiting.clear()
        return Outcome.BROKEN

    def _replace(self, snapshot: DepthSnapshot) -> Outcome:
        waiting = deque[DepthDelta]() if self._streamed else self._waiting.copy()
        self._waiting.clear()
        self._bids, self._asks = _Side(snapshot.bids), _Side(snapshot.asks)
        self.seq, self.event_ns, self._fresh = snapshot.seq, snapshot.event_ns, True
        outcome = self._judge(snapshot.checksum)
        while waiting and outcome is not Outcome.BROKEN:
            outcome = self._change(waiting.popleft())
        if outcome is not Outcome.BROKEN:
            return Outcome.APPLIED
        # A snapshot older than what waits, or a hole in it: the rest may join the next one.
        self._waiting.extend(waiting)
        return outcome

    def _change(self, delta: DepthDelta) -> Outcome:
        if self.seq is None:
            self._waiting.append(delta)
            return Outcome.WAITING
        # OKX: the number falls when the venue starts counting anew, and the chain still holds.
        recounted = delta.previous_seq == self.seq and delta.seq < self.seq
        if delta.seq <= self.seq and not recounted:
            return Outcome.OLD
        if not self._follows(delta):
            self.lose(f"{delta.previous_seq or delta.first_seq} does not follow {self.seq}")
            self._waiting.append(delta)
            return Outcome.BROKEN
        self._bids.change(delta.bids)
        self._asks.change(delta.asks)
        self._bids.trim(lowest=True)
        self._asks.trim(lowest=False)
        self.seq, self.event_ns, self._fresh = delta.seq, delta.event_ns, False
        return self._judge(delta.checksum)

    def _follows(self, delta: DepthDelta) -> bool:
        assert self.seq is not None
        if delta.previous_seq is not None:
            # The first after a snapshot may begin before it.
            return delta.previous_seq == self.seq or (self._fresh and delta.first_seq <= self.seq <= delta.seq)
        return delta.first_seq == self.seq + 1 or (self._fresh and delta.first_seq <= self.seq + 1 <= delta.seq)

    def _judge(self, checksum: int | None) -> Outcome:
        bid, ask = self.bids(1), self.asks(1)
        if bid and ask and bid[0][0] >= ask[0][0]:
            return self.lose("crossed")
        if checksum is not None and checksum != checksum_of(self.bids(CHECKED_LEVELS), self.asks(CHECKED_LEVELS)):
            return self.lose("checksum differs")
        return Outcome.APPLIED


def checksum_of(bids: Sequence[Level], asks: Sequence[Level]) -> int:
    """OKX: crc32 over `bid:size:ask:size:…` of the best 25, best first, as they were sent; signed 32 bits."""
    parts: list[str] = []
    for i in range(max(len(bids), len(asks))):
        for side in (bids, asks):
            if i < len(side):
                parts += (f"{side[i][0]:f}", f"{side[i][1]:f}")
    sum_ = crc32(":".join(parts).encode())
    return sum_ - 2**32 if sum_ >= 2**31 else sum_


class _Side:
    """Prices ascending, and the size at each."""

    def __init__(self, levels: Iterable[Level] = ()) -> None:
        # As sent: a checksum wants the very digits, which 1.0 and 1.00 as keys would mix up.
        self._levels = {price: (price, size) for price, size in levels if size}
        self._prices = sorted(self._levels)

    def change(self, levels: Iterable[Level]) -> None:
        for price, size in levels:
            known = price in self._levels
            if size:
                self._levels[price] = (price, size)
                if not known:
                    self._prices.insert(bisect_left(self._prices, price), price)
            elif known:
                del self._levels[price]
                del self._prices[bisect_left(self._prices, price)]

    def trim(self, *, lowest: bool) -> None:
        excess = len(self._prices) - LEVELS_MAX
        if excess > 0:
            gone: list[Decimal] = self._prices[:excess] if lowest else self._prices[-excess:]
            self._prices = self._prices[excess:] if lowest else self._prices[:-excess]
            for price in gone:
                del self._levels[price]

    def from_top(self, count: int) -> Iterable[Level]:
        return (self._levels[price] for price in islice(reversed(self._prices), count))

    def from_bottom(self, count: int) -> Iterable[Level]:
        return (self._levels[price] for price in islice(self._prices, count))
