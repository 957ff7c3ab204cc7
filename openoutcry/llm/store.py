"""The port behind which analyses are kept: one record an attempt, also of those that failed."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

# Those that are over are still told; the oldest make room.
FINISHED_KEPT_MAX = 10_000


class Status(StrEnum):
    """How far an analysis is."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. `instrument` is its name, `symbol` the coin; `prompt` the caller's, `prompt_snapshot` what was sent.

    `id` is 0 until it is kept. Tokens are None where no model counted them. `requeued`: it was begun in an earlier life
    of the server, and is begun again.
    """

    id: int = 0
    instrument: str
    symbol: str
    interval_s: int
    prompt: str
    status: Status = Status.RUNNING
    analysis: str | None = None
    error: str | None = None
    model: str | None = None
    provider: str | None = None
    prompt_snapshot: str | None = None
    candles_used: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    created_ns: int
    completed_ns: int | None = None
    user: str = ""
    requeued: bool = False


class AnalysisStore(Protocol):
    """Analyses by id, which is counted up and never used again. Its methods wait: they are called in threads."""

    def add(self, record: Analysis) -> Analysis:
        """Keep it, with the id that it gets; the oldest finished beyond FINISHED_KEPT_MAX go. Raises Unavailable."""
        ...

    def update(self, record: Analysis) -> None:
        """What is known now of the one with that id; nothing where it is gone. Raises Unavailable."""
        ...

    def get(self, id_: int) -> Analysis | None:
        """The one with that id. Raises Unavailable."""
        ...

    def list(self, instrument: str | None, limit: int) -> Sequence[Analysis]:
        """Newest first, of that instrument where one is named; without prompt snapshots. Raises Unavailable."""
        ...

    def running(self) -> Sequence[Analysis]:
        """Those that are not over, oldest first. Raises Unavailable."""
        ...
