"""What was seen already, in constant memory: by runs where ids are contiguous, by the newest few where they are not."""

from bisect import bisect_right
from collections.abc import Hashable
from typing import Literal, Protocol

from openoutcry.events import Trade

# Runs kept apart per instrument. Beyond it the oldest hole is given up: what it held passes as seen, and `whole` is never
# said of a stretch that holds it.
RUNS_MAX = 4_096
# Ids remembered per instrument where ids tell nothing: more than any venue repeats after a subscription, or pages back.
RECENT_MAX = 4_096


class Hole:
    """Ids between two that were seen: `after_id` and `before_id` were, those between were not."""

    __slots__ = ("after_id", "before_id")

    def __init__(self, after_id: int, before_id: int) -> None:
        self.after_id = after_id
        self.before_id = before_id


class Seen(Protocol):
    """The trades of one instrument that went by."""

    def admit(self, trade: Trade) -> "bool | Hole":
        """False: seen before. True: new. A Hole: new, and it shows that some before it are missing."""
        ...

    def remember(self, id_: int | str) -> None:
        """Take this id as seen, from an earlier run."""
        ...


class Recent:
    """The newest `count_max` keys."""

    def __init__(self, count_max: int = RECENT_MAX) -> None:
        self._count_max = count_max
        self._keys: dict[Hashable, None] = {}

    def add(self, key: Hashable) -> bool:
        """Whether `key` is new; remembers it."""
        keys = self._keys
        if key in keys:
            return False
        keys[key] = None
        if len(keys) > self._count_max:
            del keys[next(iter(keys))]
        return True

    def __len__(self) -> int:
        return len(self._keys)


class RecentTrades:
    """Seen, for ids that tell nothing."""

    def __init__(self, count_max: int = RECENT_MAX) -> None:
        self._recent = Recent(count_max)

    def admit(self, trade: Trade) -> bool:
        """Whether the trade is new."""
        return self._recent.add(trade.id)

    def remember(self, id_: int | str) -> None:
        """Take this id as seen."""
        self._recent.add(id_)


class Runs:
    """Seen, for contiguous whole ids: sorted, disjoint, non-adjacent runs [first, last].

    `counted`: a trade stands for `Trade.count` ids, of which its own is the last.
    """

    def __init__(self, *, counted: bool, runs_max: int = RUNS_MAX) -> None:
        self._counted = counted
        self._runs_max = runs_max
        self.given_up_id: int | None = None  # ids up to this one may be missing without our knowing
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    @property
    def runs(self) -> list[tuple[int, int]]:
        """All runs, lowest first."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def admit(self, trade: Trade) -> bool | Hole:
        """Whether the trade is new, and whether it skips some."""
        last = trade.id
        if type(last) is not int:
            # A venue that changes the kind of its ids must not take the stream down; such a trade is never repeated.
            return True
        first = last - trade.count + 1 if self._counted else last
        lasts = self._lasts
        if lasts:
            newest = lasts[-1]
            if first == newest + 1:  # the usual case
                lasts[-1] = last
                return True
            if first > newest:
                self._firsts.append(first)
                lasts.append(last)
                self._forget()
                return Hole(newest, first)
        return self._insert(first, last)

    def remember(self, id_: int | str) -> None:
        """Take this id, and so whatever run it is in, as seen."""
        if type(id_) is int:
            self._insert(id_, id_)

    @property
    def newest(self) -> int:
        """The highest id that was seen."""
        return self._lasts[-1]

    def reach(self, id_: int) -> int:
        """The last id of the run that `id_` is in."""
        return self._lasts[bisect_right(self._firsts, id_) - 1]

    def whole(self, after_id: int, before_id: int | None = None) -> bool:
        """Whether nothing is missing after `after_id` (up to `before_id`, or the newest)."""
        at = bisect_right(self._firsts, after_id + 1) - 1
        if at < 0 or self.gave_up(after_id):
            return False
        reaches = self._lasts[at]
        if reaches <= after_id:
            # Only after_id itself and older are in this run: something must follow to prove that nothing is missing.
            return False
        return reaches >= (self._lasts[-1] if before_id is None else before_id - 1)

    def gave_up(self, after_id: int) -> bool:
        """Whether a hole after `after_id` was forgotten: what is missing there can no longer be told."""
        return self.given_up_id is not None and after_id < self.given_up_id

    def close(self, after_id: int, before_id: int) -> None:
        """Take all ids between for seen: the venue says that there are none."""
        if before_id - after_id > 1:
            self._insert(after_id + 1, before_id - 1, overlap=True)

    def _insert(self, first: int, last: int, *, overlap: bool = False) -> bool:
        firsts, lasts = self._firsts, self._lasts
        at = bisect_right(firsts, last)  # runs before `at` begin at or before `last`
        begin = at
        while begin > 0 and lasts[begin - 1] >= first:
            begin -= 1
        touches = begin < at
        if touches and not overlap:
            # A merged trade of which a part was seen alone: counting it would count that part twice.
            covered = sum(min(last, lasts[i]) - max(first, firsts[i]) + 1 for i in range(begin, at))
            new = covered == 0
        else:
            new = True
        low = begin - 1 if begin > 0 and lasts[begin - 1] == first - 1 else begin
        high = at + 1 if at < len(firsts) and firsts[at] == last + 1 else at
        merged_first = min([first, *firsts[low:high]])
        merged_last = max([last, *lasts[low:high]])
        firsts[low:high] = [merged_first]
        lasts[low:high] = [merged_last]
        self._forget()
        return new

    def _forget(self) -> None:
        while len(self._firsts) > self._runs_max:
            self.given_up_id = self._firsts[1] - 1
            del self._firsts[1]
            del self._lasts[0]


def seen_for(trade_ids: Literal["free", "one", "count"]) -> Runs | RecentTrades:
    """What fits a venue's ids (`Limits.trade_ids`)."""
    return RecentTrades() if trade_ids == "free" else Runs(counted=trade_ids == "count")
