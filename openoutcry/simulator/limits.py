"""What an address has used of a simulated venue's allowance, and what it hears when that was too much."""

from typing import NamedTuple

import msgspec

NS = 1_000_000_000
BAN_S = 120
ADDRESSES_MAX = 1_000


class Pool(msgspec.Struct, frozen=True):
    """`count` units in each window of `per_s`; who asks `patience` times more while over it is banned (None: never)."""

    count: int
    per_s: float
    patience: int | None = 20


class Verdict(NamedTuple):
    """`used` units of the running window. `retry_s` is None when it is allowed; `banned` says it goes on too long."""

    used: int
    retry_s: int | None = None
    banned: bool = False


class _Use(msgspec.Struct):
    window: int = -1
    used: int = 0
    over: int = 0
    banned_until_ns: int = 0


class Meter:
    """Counts per (pool, address). Switched off, it allows everything and still counts."""

    def __init__(self, *, enforce: bool) -> None:
        self.enforce = enforce
        self._uses: dict[tuple[str, str], _Use] = {}

    def charge(self, name: str, pool: Pool, address: str, units: int, now_ns: int) -> Verdict:
        """Take `units` of that pool for that address."""
        if len(self._uses) > ADDRESSES_MAX:
            self._uses.clear()
        use = self._uses.setdefault((name, address), _Use())
        window_ns = round(pool.per_s * NS)
        if now_ns // window_ns != use.window:
            use.window, use.used, use.over = now_ns // window_ns, 0, 0
        use.used += units
        if not self.enforce:
            return Verdict(use.used)
        if now_ns < use.banned_until_ns:
            return Verdict(use.used, -(-(use.banned_until_ns - now_ns) // NS), banned=True)
        if use.used <= pool.count:
            return Verdict(use.used)
        use.over += 1
        if pool.patience is not None and use.over > pool.patience:
            use.banned_until_ns = now_ns + BAN_S * NS
            return Verdict(use.used, BAN_S, banned=True)
        return Verdict(use.used, -(-((use.window + 1) * window_ns - now_ns) // NS))
