"""Backfill tasks as they are kept, and the port to where they are kept; `feed/tasks.py` runs them.

A task lives in the database of the series, because its cursor moves in the transaction of the candles it fetched.
"""

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec


class TaskState(StrEnum):
    """How far a task is. One that is cancelled is deleted."""

    PENDING = "pending"  # waits for a slot
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"  # the cursor stays, so that an equal task goes on


ACTIVE = (TaskState.PENDING, TaskState.RUNNING)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Fetch the closed candles of [start_ns, end_ns), whose bounds are open times.

    `cursor_ns` is the next bucket to look at, `candles` counts those received from the venue and stored for this task.
    `force`: fetch what is stored already as well.
    """

    id: int = 0  # counted up, never used again
    instrument: str
    interval_s: int
    start_ns: int
    end_ns: int
    force: bool = False
    state: TaskState = TaskState.PENDING
    cursor_ns: int
    candles: int = 0
    error: str = ""
    created_ns: int
    updated_ns: int

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1; 1 only once it is completed."""
        if self.state is TaskState.COMPLETED:
            return 1.0
        walked = (self.cursor_ns - self.start_ns) / max(self.end_ns - self.start_ns, 1)
        return min(max(walked, 0.0), 0.999)


class TaskStore(Protocol):
    """Where tasks are kept. Synchronous, called in threads; every method raises Unavailable when it cannot serve."""

    def open_task(self, task: Task) -> tuple[Task, bool]:
        """Keep it under the next id, unless one that is active has its instrument, interval and bounds.

        Returns the one that is kept, and whether it is new. However many call at once, in whatever process, one is made.
        """
        ...

    def tasks(self, states: Collection[TaskState] | None = None, limit: int | None = None) -> Sequence[Task]:
        """Those in one of `states` (any), newest first, the first `limit`."""
        ...

    def task(self, id_: int) -> Task | None:
        """None where there is none (any more)."""
        ...

    def save_task(self, task: Task) -> bool:
        """Replace what is kept of it; False where it was dropped meanwhile."""
        ...

    def drop_task(self, id_: int) -> bool:
        """Forget it; False where there is none."""
        ...

    def drop_ended(self, before_ns: int) -> int:
        """Forget the ended ones that changed last before that. Returns how many."""
        ...
