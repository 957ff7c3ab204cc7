"""Candles in the order that is promised: a bucket grows, is told closed once, and then the next one grows."""

from openoutcry.aggregates.rollup import bounds_of
from openoutcry.clock import NS
from openoutcry.events import Candle

# So long after its end a bucket that does not close is waited for: beyond it, what grows after it is told without.
WAIT_S_MAX = 30
# Buckets that were passed without a close, which may still come.
PASSED_MAX = 100


class Order:
    """One series. A close that was told is told no more, however often the market corrects it.

    The market may tell what grows in a bucket before the one before it is sure; that waits here, the newest of it.
    """

    def __init__(self, interval_s: int, now_ns: int, unsure_ns: int | None = None) -> None:
        """What closed earlier than the bucket before this one is not told. `unsure_ns`: one that is over and not closed."""
        self._interval_s = interval_s
        open_ns, _ = bounds_of(now_ns, interval_s)
        self._closed_ns, _ = bounds_of(bounds_of(open_ns - 1, interval_s)[0] - 1, interval_s)
        self._open_ns = unsure_ns
        self._waiting: Candle | None = None
        self._passed: dict[int, None] = {}

    def take(self, candle: Candle) -> list[Candle]:
        """What is to be told now."""
        return self._close(candle) if candle.closed else self._grow(candle)

    def _close(self, candle: Candle) -> list[Candle]:
        if candle.open_ns <= self._closed_ns:
            if candle.open_ns not in self._passed:
                return []
            del self._passed[candle.open_ns]
            return [candle]
        self._closed_ns = candle.open_ns
        self._passed.pop(candle.open_ns, None)
        if self._open_ns is not None and self._open_ns <= candle.open_ns:
            self._pass(candle.open_ns)
            self._open_ns = None
        told = [candle]
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            told += self._grow(waiting)
        return told

    def _grow(self, candle: Candle) -> list[Candle]:
        if candle.open_ns <= self._closed_ns or (self._open_ns is not None and candle.open_ns < self._open_ns):
            return []
        if self._open_ns is not None and candle.open_ns > self._open_ns:
            _, end_ns = bounds_of(self._open_ns, self._interval_s)
            if candle.received_ns < end_ns + WAIT_S_MAX * NS:
                self._waiting = candle
                return []
            self._pass(candle.open_ns)
        self._waiting = None
        self._open_ns = candle.open_ns
        return [candle]

    def _pass(self, open_ns: int) -> None:
        """Go on to the bucket of `open_ns`; the one that was open may close later."""
        if self._open_ns is not None and self._open_ns != open_ns:
            self._passed[self._open_ns] = None
            if len(self._passed) > PASSED_MAX:
                del self._passed[next(iter(self._passed))]
