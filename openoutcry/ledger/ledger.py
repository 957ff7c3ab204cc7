"""The front door of the books. Commands that wait together are written together, in the order they came."""

import asyncio
from collections import deque
from collections.abc import Sequence

import structlog

from openoutcry.clock import Clock
from openoutcry.errors import BadRange, Conflict, LimitExceeded, Unavailable
from openoutcry.ledger.books import Command, Outcome
from openoutcry.ledger.postings import (
    FEES,
    Answer,
    Balance,
    Done,
    Entry,
    Hold,
    Posting,
    Release,
    Settle,
    Settlement,
    Transfer,
)
from openoutcry.ledger.records import Beside, Row
from openoutcry.ledger.store import LedgerStore
from openoutcry.telemetry import Telemetry

BATCH_MAX = 256
WAITING_MAX = 10_000
CROWDED_RETRY_S = 1.0
STATEMENT_MAX = 1_000
SWEEP_S = 60
SWEEP_MAX = 500

log = structlog.get_logger()


class Ledger:
    """Transfers and holds. Twice the same id does it once and answers the same; with other content it is a Conflict.

    `beside` are rows that are written in the same transaction, when it is done the first time; they count for nothing in
    what is the same. What was asked is done, also when whoever asked was cancelled. All methods raise Unavailable where the store does not
    answer: then it is not known whether it was done, and asking again with the same id is right. Those that change
    something raise LimitExceeded when too much is waiting, and Invalid for what is malformed.
    """

    def __init__(self, store: LedgerStore, clock: Clock, telemetry: Telemetry) -> None:
        self._store = store
        self._clock = clock
        self._waiting: deque[tuple[Command, asyncio.Future[Answer]]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._shortfalls = telemetry.counter("ledger_shortfalls", "Holds whose cost could not be paid whole")
        self._swept = telemetry.counter("ledger_holds_swept", "Holds released after their deadline")

    async def transfer(
        self, id_: str, postings: Sequence[Posting], reason: str = "", *, beside: Sequence[Row] = ()
    ) -> Transfer:
        """Move it, all or nothing. Raises InsufficientFunds, Conflict."""
        made = await self._ask(_with(Transfer(id_, tuple(postings), reason), beside))
        assert isinstance(made, Transfer)
        return made

    async def hold(self, id_: str, owner: str, asset: str, amount: int, deadline_ns: int) -> Hold:
        """Set it aside until it is settled or released, or a sweep after the deadline. Raises InsufficientFunds, Conflict."""
        made = await self._ask(Hold(id_, owner, asset, amount, deadline_ns))
        assert isinstance(made, Hold)
        return made

    async def settle(self, hold: str, used: int, to: str = FEES, *, beside: Sequence[Row] = ()) -> Settlement:
        """Pay what was used, give the rest back. Raises Unknown, Conflict where it was released or settled otherwise.

        A cost above the hold takes the hold, then what else is free; what remains is a shortfall, and counted.
        """
        settlement = await self._ask(_with(Settle(hold, used, to), beside))
        assert isinstance(settlement, Settlement)
        return settlement

    async def release(self, hold: str, *, beside: Sequence[Row] = ()) -> None:
        """Give it back whole. Raises Unknown, Conflict where it was settled."""
        await self._ask(_with(Release(hold), beside))

    async def note(self, rows: Sequence[Row]) -> None:
        """Write these rows, unless they are there, though nothing moves."""
        await self._ask(Beside(tuple(rows)))

    async def balance(self, owner: str, asset: str) -> Balance:
        """What the owner has of it: total, held, free."""
        return await asyncio.to_thread(self._store.balance, owner, asset)

    async def statement(
        self, owner: str, asset: str, limit: int = STATEMENT_MAX, before_id: int | None = None
    ) -> Sequence[Entry]:
        """What moved, newest first; `before_id` of the last entry gives the next page. Raises BadRange."""
        if not 0 < limit <= STATEMENT_MAX:
            raise BadRange(f"a statement has 1 to {STATEMENT_MAX} entries")
        return await asyncio.to_thread(self._store.entries, owner, asset, limit, before_id)

    async def check(self) -> Sequence[str]:
        """What does not balance, in words: nothing, or we were wrong. Reads all books."""
        return await asyncio.to_thread(self._store.check)

    async def sweep(self, now_ns: int) -> int:
        """Release the holds whose deadline has come. Returns how many."""
        swept = 0
        while due := await asyncio.to_thread(self._store.due, now_ns, SWEEP_MAX):
            for released in await asyncio.gather(*map(self.release, due), return_exceptions=True):
                if released is None:
                    swept += 1
                elif not isinstance(released, Conflict):  # settled just before: that is as good
                    raise released
        self._swept.inc(swept)
        return swept

    async def run(self) -> None:
        """Sweep now and every minute, until cancelled."""
        while True:
            try:
                await self.sweep(self._clock.now_ns())
            except (LimitExceeded, Unavailable) as e:
                log.warning("holds not swept", error=e.text)
            await self._clock.sleep(SWEEP_S)

    async def close(self) -> None:
        """Wait until what was asked is done. The store is its owner's to close."""
        if self._writer is not None:
            await self._writer

    async def _ask(self, command: Command) -> Answer:
        if len(self._waiting) >= WAITING_MAX:
            raise LimitExceeded("too much is waiting to be booked", CROWDED_RETRY_S)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answered))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return await answered

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
                await self._book([command for command, _ in batch], [answered for _, answered in batch])
        finally:
            self._writer = None

    async def _book(self, commands: Sequence[Command], answers: Sequence["asyncio.Future[Answer]"]) -> None:
        outcomes: Sequence[Outcome | Exception]
        try:
            outcomes = await asyncio.to_thread(self._store.obey, commands, self._clock.now_ns())
        except Exception as e:  # whatever it was, each of them raises it: nobody waits for ever
            outcomes = [e] * len(commands)
        for answered, outcome in zip(answers, outcomes, strict=True):
            if isinstance(outcome, Done):
                self._count(outcome)
            if answered.done():  # whoever asked has gone
                continue
            if isinstance(outcome, Done):
                answered.set_result(outcome.answer)
            else:
                answered.set_exception(outcome)

    def _count(self, done: Done) -> None:
        settlement = done.answer
        if isinstance(settlement, Settlement) and settlement.shortfall and not done.repeated:
            self._shortfalls.inc()
            log.error("a cost above its hold was not paid", hold=settlement.hold, shortfall=settlement.shortfall)


def _with(command: Transfer | Settle | Release, rows: Sequence[Row]) -> Command:
    return Beside(tuple(rows), command) if rows else command
