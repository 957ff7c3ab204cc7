"""A set of stretches [start_ns, end_ns): what is known, kept as few disjoint pieces in order."""

from bisect import bisect_left, bisect_right

FOREVER_NS = 1 << 62
# Beyond it the oldest piece is forgotten: what is forgotten counts as unknown, which is the safe side.
PIECES_MAX = 1_000


class Stretches:
    """Disjoint stretches in order; pieces that touch become one."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start_ns: int, end_ns: int) -> None:
        """Join [start_ns, end_ns) to the set; nothing where it is empty."""
        if start_ns >= end_ns:
            return
        low = bisect_left(self._ends, start_ns)
        high = bisect_right(self._starts, end_ns)
        if low < high:
            start_ns = min(start_ns, self._starts[low])
            end_ns = max(end_ns, self._ends[high - 1])
        self._starts[low:high] = [start_ns]
        self._ends[low:high] = [end_ns]
        if len(self._starts) > PIECES_MAX:
            del self._starts[0], self._ends[0]

    def remove(self, start_ns: int, end_ns: int) -> None:
        """Take [start_ns, end_ns) out of the set."""
        if start_ns >= end_ns:
            return
        low = bisect_right(self._ends, start_ns)
        high = bisect_left(self._starts, end_ns)
        if low >= high:
            return
        starts, ends = [], []
        if self._starts[low] < start_ns:
            starts.append(self._starts[low])
            ends.append(start_ns)
        if end_ns < self._ends[high - 1]:
            starts.append(end_ns)
            ends.append(self._ends[high - 1])
        self._starts[low:high] = starts
        self._ends[low:high] = ends

    def reach(self, start_ns: int) -> int:
        """How far the set goes on without a hole from `start_ns`: `start_ns` itself where it is not in the set."""
        at = bisect_right(self._starts, start_ns) - 1
        return max(start_ns, self._ends[at]) if at >= 0 else start_ns

    def forget(self, before_ns: int) -> None:
        """Drop the pieces that end at or before `before_ns`."""
        gone = bisect_right(self._ends, before_ns)
        del self._starts[:gone], self._ends[:gone]


def cover(start_ns: int, end_ns: int, *sets: Stretches) -> bool:
    """Whether these sets together hold every moment of [start_ns, end_ns)."""
    while start_ns < end_ns:
        reached_ns = max(known.reach(start_ns) for known in sets)
        if reached_ns == start_ns:
            return False
        start_ns = reached_ns
    return True
