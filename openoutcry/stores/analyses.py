"""Analyses in the database of the series, each change whole and lasting; and in memory."""

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    delete,
    insert,
    make_url,
    select,
    update,
)

from openoutcry.llm.store import FINISHED_KEPT_MAX, Analysis, Status
from openoutcry.stores.engine import opened, refusing
from openoutcry.stores.migrations import Schema

# The series are written in the same file many times a second, and a batch after a stall may take long.
BUSY_S = 30.0
WHAT = "the analyses"

_metadata = MetaData()
_analyses = Table(
    "analyses",
    _metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("instrument", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("interval_s", Integer, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("analysis", Text),
    Column("error", Text),
    Column("model", Text),
    Column("provider", Text),
    Column("prompt_snapshot", Text),
    Column("candles_used", Integer),
    Column("tokens_in", BigInteger),
    Column("tokens_out", BigInteger),
    Column("created_ns", BigInteger, nullable=False),
    Column("completed_ns", BigInteger),
    Column("user", Text, nullable=False),
    Column("requeued", Boolean, nullable=False),
    Index("analyses_of_instrument", "instrument", "id"),
    sqlite_autoincrement=True,  # an id is never used again
)
# A page of analyses is asked for often, and a snapshot is by far the longest text of each.
_LISTED = tuple(column for column in _analyses.columns if column.name != "prompt_snapshot")


def _1_analyses(connection: Connection) -> None:
    _metadata.create_all(connection)


ANALYSES = Schema("analyses_version", (_1_analyses,))


class SqlAnalyses:
    """Analyses in SQLite or PostgreSQL. Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S, kept_max: int = FINISHED_KEPT_MAX) -> None:
        address = make_url(url)
        self._kept_max = kept_max
        # One of each at a time, and `close` waits for both: a thread may still be at work when the server stops. Who reads
        # does not wait for who waits to write.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._engine = opened(address, busy_s, ANALYSES, WHAT)
        self._writer = self._engine.execution_options(writing=True)

    def add(self, record: Analysis) -> Analysis:
        """Keep it, with the id that it gets; the oldest finished beyond `kept_max` go. Raises Unavailable."""
        over = select(_analyses.c.id).where(_analyses.c.status != Status.RUNNING.value)
        over = over.order_by(_analyses.c.id.desc()).offset(self._kept_max).limit(1)
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            made = connection.execute(insert(_analyses).values(_row(record)).returning(_analyses.c.id)).scalar_one()
            oldest = connection.scalar(over)
            if oldest is not None:
                gone = delete(_analyses).where(_analyses.c.id <= oldest, _analyses.c.status != Status.RUNNING.value)
                connection.execute(gone)
        return msgspec.structs.replace(record, id=made)

    def update(self, record: Analysis) -> None:
        """What is known now of the one with that id; nothing where it is gone. Raises Unavailable."""
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            connection.execute(update(_analyses).where(_analyses.c.id == record.id).values(_row(record)))

    def get(self, id_: int) -> Analysis | None:
        """The one with that id. Raises Unavailable."""
        found = self._read(select(_analyses).where(_analyses.c.id == id_))
        return found[0] if found else None

    def list(self, instrument: str | None, limit: int) -> Sequence[Analysis]:
        """Newest first, of that instrument where one is named; without prompt snapshots. Raises Unavailable."""
        asked = select(*_LISTED).order_by(_analyses.c.id.desc()).limit(limit)
        return self._read(asked if instrument is None else asked.where(_analyses.c.instrument == instrument))

    def running(self) -> Sequence[Analysis]:
        """Those that are not over, oldest first. Raises Unavailable."""
        return self._read(select(*_LISTED).where(_analyses.c.status == Status.RUNNING.value).order_by(_analyses.c.id))

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._reading, self._writing:
            self._engine.dispose()

    def _read(self, asked: Select[Any]) -> "Sequence[Analysis]":
        with self._reading, refusing(WHAT), self._engine.begin() as connection:
            rows = connection.execute(asked).mappings().all()
        return [Analysis(**{**row, "status": Status(row["status"])}) for row in rows]


class MemoryAnalyses:
    """Analyses that end with the process."""

    def __init__(self, *, kept_max: int = FINISHED_KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._ids = itertools.count(1)
        self._kept: dict[int, Analysis] = {}
        self._turn = threading.Lock()

    def add(self, record: Analysis) -> Analysis:
        """Keep it, with the id that it gets; the oldest finished beyond `kept_max` go."""
        with self._turn:
            made = msgspec.structs.replace(record, id=next(self._ids))
            self._kept[made.id] = made
            over = [each.id for each in self._kept.values() if each.status is not Status.RUNNING]
            for id_ in over[: max(len(over) - self._kept_max, 0)]:
                del self._kept[id_]
            return made

    def update(self, record: Analysis) -> None:
        """What is known now of the one with that id; nothing where it is gone."""
        with self._turn:
            if record.id in self._kept:
                self._kept[record.id] = record

    def get(self, id_: int) -> Analysis | None:
        """The one with that id."""
        return self._kept.get(id_)

    def list(self, instrument: str | None, limit: int) -> Sequence[Analysis]:
        """Newest first, of that instrument where one is named; without prompt snapshots."""
        with self._turn:
            found = [each for each in reversed(self._kept.values()) if instrument in {None, each.instrument}]
        return [msgspec.structs.replace(each, prompt_snapshot=None) for each in found[:limit]]

    def running(self) -> "Sequence[Analysis]":
        """Those that are not over, oldest first."""
        with self._turn:
            return [each for each in self._kept.values() if each.status is Status.RUNNING]

    def close(self) -> None:
        """Nothing is open."""


def _row(record: Analysis) -> dict[str, Any]:
    row = msgspec.structs.asdict(record)
    del row["id"]
    return {**row, "status": record.status.value}
