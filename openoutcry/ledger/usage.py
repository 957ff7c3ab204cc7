"""What was used: a row a call, newest first, and sums by day. Old rows become sums; what was paid stays told.

The rows are written by the ledger, with the payment of each.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec
import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import BadRange, Unavailable
from openoutcry.ledger.records import UsageRow
from openoutcry.telemetry import Telemetry

DAY_NS = 86_400 * NS
ROWS_MAX = 500
DAYS_MAX = 366
FOLD_S = 3_600.0
FOLD_MAX = 500

log = structlog.get_logger()


class UsageDay(msgspec.Struct, frozen=True, kw_only=True):
    """Calls that were answered on one day (UTC), and what they used. `cost` is what was paid."""

    day_ns: int
    calls: int
    tokens_in: int
    tokens_out: int
    cost: int
    shortfall: int

    @property
    def day(self) -> str:
        """As people write it: `2026-11-25`."""
        return datetime.fromtimestamp(self.day_ns // NS, UTC).date().isoformat()


class UsageStore(Protocol):
    """Rows that the ledger wrote, and sums of those that are gone. Its methods wait: they are called in threads."""

    def rows(
        self,
        account: str,
        limit: int,
        *,
        before_id: int | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        endpoint: str | None = None,
        status: str | None = "done",
    ) -> Sequence[UsageRow]:
        """Newest first. `until_ns` itself is not among them. Raises Unavailable."""
        ...

    def by_day(self, account: str, since_ns: int, until_ns: int, limit: int) -> Sequence[UsageDay]:
        """Days that begin in that time and on which there were calls, newest first; rows and sums together. Raises Unavailable."""
        ...

    def fold(self, before_ns: int, limit: int) -> int:
        """So many of the rows older than that become sums by day, in one transaction. Returns how many. Raises Unavailable."""
        ...

    def paid(self, account: str) -> int:
        """All that was ever paid for calls, rows and sums together. Raises Unavailable."""
        ...


class UsageLog:
    """`run` folds rows older than `kept_s` until cancelled."""

    def __init__(self, store: UsageStore, clock: Clock, telemetry: Telemetry, kept_s: float) -> None:
        self._store = store
        self._clock = clock
        self._kept_s = kept_s
        self._folded = telemetry.counter("usage_folded", "Rows of usage that became sums by day")

    async def rows(
        self,
        account: str,
        limit: int = ROWS_MAX,
        *,
        before_id: int | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        endpoint: str | None = None,
        status: str | None = "done",
    ) -> Sequence[UsageRow]:
        """Calls of the account, newest first; `before_id` of the last gives the next page. Raises BadRange, Unavailable."""
        if not 0 < limit <= ROWS_MAX:
            raise BadRange(f"a page of usage has 1 to {ROWS_MAX} rows")
        return await asyncio.to_thread(
            self._store.rows,
            account,
            limit,
            before_id=before_id,
            since_ns=since_ns,
            until_ns=until_ns,
            endpoint=endpoint,
            status=status,
        )

    async def by_day(self, account: str, since_ns: int, until_ns: int) -> Sequence[UsageDay]:
        """Days (UTC) from that of `since_ns` to that before `until_ns`, newest first, DAYS_MAX at most.

        Raises BadRange, Unavailable.
        """
        first_ns = since_ns - since_ns % DAY_NS
        if until_ns <= first_ns or until_ns - first_ns > DAYS_MAX * DAY_NS:
            raise BadRange(f"a summary is of 1 to {DAYS_MAX} days")
        return await asyncio.to_thread(self._store.by_day, account, first_ns, until_ns, DAYS_MAX)

    async def fold(self, now_ns: int) -> int:
        """Fold what is too old now, a batch after the other. Returns how many rows. Raises Unavailable."""
        before_ns, folded = now_ns - round(self._kept_s * NS), 0
        while True:
            gone = await asyncio.to_thread(self._store.fold, before_ns, FOLD_MAX)
            folded += gone
            self._folded.inc(gone)
            if gone < FOLD_MAX:
                return folded

    async def run(self) -> None:
        """Now and every hour, until cancelled."""
        while True:
            try:
                await self.fold(self._clock.now_ns())
            except Unavailable as e:
                log.warning("old usage is not folded", error=e.text)
            await self._clock.sleep(FOLD_S)
