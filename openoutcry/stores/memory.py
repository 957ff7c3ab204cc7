"""Series and tasks in memory: for tests, and as the plainest statement of what a store does."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from openoutcry.events import NS, Candle, Liquidation, Trade
from openoutcry.instrument import Instrument
from openoutcry.market.series import (
    Batch,
    CandleTexts,
    Check,
    Columns,
    Of,
    Row,
    SeriesKey,
    Span,
    Summary,
    columns_of,
    time_of,
)
from openoutcry.market.tasks import ACTIVE, Task, TaskState


class MemorySeries:
    """Series in dicts, gone with the process."""

    def __init__(self) -> None:
        self._rows: dict[SeriesKey, dict[tuple[Any, ...], Row]] = {}
        self._spans: dict[SeriesKey, tuple[Span, ...]] = {}
        self._listings: dict[str, list[Instrument]] = {}
        self._checks: dict[SeriesKey, list[Check]] = {}
        self.tasks = MemoryTasks()

    def write(self, batch: Batch) -> None:
        """Store the batch."""
        for key, rows in batch.rows.items():
            self._rows.setdefault(key, {}).update((_place(row), row) for row in rows)
        self._spans.update({key: tuple(known) for key, known in batch.spans.items()})
        for key, told in batch.checks.items():
            for check in told:
                kept = [
                    c for c in self._checks.get(key, []) if c.end_ns <= check.start_ns or c.start_ns >= check.end_ns
                ]
                self._checks[key] = sorted([*kept, check], key=lambda each: each.start_ns)
        for task in batch.tasks:
            self.tasks.save_task(task)

    def read(
        self,
        key: SeriesKey,
        *,
        start_ns: int | None = None,
        end_ns: int | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> Sequence[Row]:
        """Rows of [start_ns, end_ns), oldest first: the first `limit`, or with `newest` the last."""
        rows = [
            row
            for place, row in sorted(self._rows.get(key, {}).items())
            if (start_ns is None or place[0] >= start_ns) and (end_ns is None or place[0] < end_ns)
        ]
        if limit is None:
            return rows
        return rows[max(len(rows) - limit, 0) :] if newest else rows[:limit]

    def columns(self, key: SeriesKey, *, start_ns: int, end_ns: int, limit: int | None = None) -> Columns:
        """The same rows as columns, without an object for each; the first `limit`."""
        return columns_of(key.of, self.read(key, start_ns=start_ns, end_ns=end_ns, limit=limit))

    def coverages(self) -> Mapping[SeriesKey, Sequence[Span]]:
        """All that is known of all series."""
        return {key: known for key, known in self._spans.items() if known}

    def texts(
        self, key: SeriesKey, *, start_ns: int, end_ns: int, limit: int, newest: bool = False
    ) -> Sequence[CandleTexts]:
        """Candles of [start_ns, end_ns), oldest first: the first `limit`, or with `newest` the last."""
        rows = self.read(key, start_ns=start_ns, end_ns=end_ns, limit=limit, newest=newest)
        return [
            (c.open_ns, str(c.open), str(c.high), str(c.low), str(c.close), str(c.volume))
            for c in rows
            if isinstance(c, Candle)
        ]

    def summaries(self) -> Mapping[SeriesKey, Summary]:
        """Of every series of candles that has a row."""
        told = {key: self.summary(key) for key in self._rows if key.of is Of.CANDLES}
        return {key: summary for key, summary in told.items() if summary is not None}

    def summary(self, key: SeriesKey) -> Summary | None:
        """Of one series of candles."""
        times = [place[0] for place in self._rows.get(key, {})]
        return Summary(min(times), max(times), len(times)) if times else None

    def holes(
        self, key: SeriesKey, start_ns: int, end_ns: int, limit: int, *, newest: bool = False
    ) -> Sequence[tuple[int, int]]:
        """The stretches of [start_ns, end_ns) without a candle, in order of time: the first `limit`, or the last."""
        found: list[tuple[int, int]] = []
        at_ns = start_ns
        for each_ns in [*sorted(place[0] for place in self._rows.get(key, {}) if place[0] < end_ns), end_ns]:
            if at_ns < each_ns:
                found.append((at_ns, each_ns))
            at_ns = max(at_ns, each_ns + key.interval_s * NS)
        return found[max(len(found) - limit, 0) :] if newest else found[:limit]

    def checks(self, key: SeriesKey, start_ns: int, end_ns: int) -> Sequence[Check]:
        """What touches [start_ns, end_ns), in order of time."""
        return [c for c in self._checks.get(key, []) if c.start_ns < end_ns and start_ns < c.end_ns]

    def keys(self, of: Of) -> Sequence[SeriesKey]:
        """The series of that sort that were ever written."""
        return [key for key in self._rows if key.of is of]

    def prune(self, key: SeriesKey, before_ns: int, rows_max: int) -> int:
        """Delete the oldest rows before `before_ns`, about `rows_max` at most."""
        rows = self._rows.get(key, {})
        old = sorted(place for place in rows if place[0] < before_ns)
        gone = [place for place in old if place[0] <= old[min(rows_max, len(old)) - 1][0]]
        for place in gone:
            del rows[place]
        return len(gone)

    def save_listing(self, venue: str, instruments: Sequence[Instrument]) -> None:
        """Replace what the venue lists."""
        self._listings[venue] = sorted(instruments, key=lambda each: each.symbol)

    def listing(self, venue: str) -> Sequence[Instrument]:
        """What the venue listed when last asked."""
        return self._listings.get(venue, [])

    def close(self) -> None:
        """Nothing to let go of."""


class MemoryTasks:
    """Tasks that end with the process."""

    def __init__(self) -> None:
        self._kept: dict[int, Task] = {}
        self._last = 0

    def open_task(self, task: Task) -> tuple[Task, bool]:
        """Keep it, unless one that is active asks for the same."""
        for other in self._kept.values():
            if other.state in ACTIVE and _wanted(other) == _wanted(task):
                return other, False
        self._last += 1
        self._kept[self._last] = replace(task, id=self._last)
        return self._kept[self._last], True

    def tasks(self, states: Collection[TaskState] | None = None, limit: int | None = None) -> Sequence[Task]:
        """Those in one of `states`, newest first."""
        among = TaskState if states is None else states
        return [self._kept[id_] for id_ in sorted(self._kept, reverse=True) if self._kept[id_].state in among][:limit]

    def task(self, id_: int) -> Task | None:
        """None where there is none."""
        return self._kept.get(id_)

    def save_task(self, task: Task) -> bool:
        """Replace what is kept of it."""
        if task.id not in self._kept:
            return False
        self._kept[task.id] = task
        return True

    def drop_task(self, id_: int) -> bool:
        """Forget it."""
        return self._kept.pop(id_, None) is not None

    def drop_ended(self, before_ns: int) -> int:
        """Forget the ended ones that changed last before that."""
        old = [task.id for task in self._kept.values() if task.state not in ACTIVE and task.updated_ns < before_ns]
        for id_ in old:
            del self._kept[id_]
        return len(old)


def _wanted(task: Task) -> tuple[Any, ...]:
    return task.instrument, task.interval_s, task.start_ns, task.end_ns


def _place(row: Row) -> tuple[Any, ...]:
    if isinstance(row, Trade):
        return (row.event_ns, row.seq, f"{'#' if isinstance(row.id, int) else '='}{row.id}")
    if isinstance(row, Liquidation):
        return (row.event_ns, row.id)
    return (time_of(row),)
