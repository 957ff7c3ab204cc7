"""Backfill tasks in the database of the series, so that a cursor moves in the transaction of its candles."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from openoutcry.market.tasks import ACTIVE, Task, TaskState
from openoutcry.stores.tables import tasks

_COLUMNS = tuple(column.name for column in tasks.columns)
_KEPT = tuple(name for name in _COLUMNS if name != "id")
_ALL = 2**31 - 1


class Cursors(Protocol):
    """The way to a cursor on the database; with `commit`, what was done is kept if nothing was raised."""

    def __call__(self, *, commit: bool = False) -> AbstractContextManager[Any]: ...


class Tasks:
    """Implements `market.tasks.TaskStore`; `mark` is the driver's placeholder, `writing` the turn of the one writer."""

    def __init__(self, cursor: Cursors, writing: AbstractContextManager[Any], mark: str) -> None:
        self._cursor, self._writing = cursor, writing
        marks = ", ".join([mark] * len(_KEPT))
        same = " AND ".join(f"{name} = {mark}" for name in ("instrument", "interval_s", "start_ns", "end_ns"))
        columns = ", ".join(_COLUMNS)
        active = ", ".join(f"'{state}'" for state in ACTIVE)
        self._mark = mark
        # No value stands in these texts: they are made of names of ours and the driver's placeholder.
        self._insert = f"INSERT INTO tasks ({', '.join(_KEPT)}) VALUES ({marks}) ON CONFLICT DO NOTHING RETURNING id"  # noqa: S608
        self._active = f"SELECT {columns} FROM tasks WHERE {same} AND state IN ({active})"  # noqa: S608
        self._select = f"SELECT {columns} FROM tasks"  # noqa: S608
        self._update = f"UPDATE tasks SET {', '.join(f'{name} = {mark}' for name in _KEPT)} WHERE id = {mark}"  # noqa: S608

    def open_task(self, task: Task) -> tuple[Task, bool]:
        """Keep it, unless one that is active asks for the same. Raises Unavailable."""
        wanted = (task.instrument, task.interval_s, task.start_ns, task.end_ns)
        while True:
            with self._writing, self._cursor(commit=True) as cursor:
                cursor.execute(self._insert, _packed(task))
                made = cursor.fetchone()
                if made is not None:
                    return msgspec.structs.replace(task, id=made[0]), True
                cursor.execute(self._active, wanted)
                found = cursor.fetchone()
                # It may have ended between the two statements: then ours is made after all.
                if found is not None:
                    return _unpacked(found), False

    def tasks(self, states: Collection[TaskState] | None = None, limit: int | None = None) -> Sequence[Task]:
        """Those in one of `states`, newest first. Raises Unavailable."""
        among = [state.value for state in (TaskState if states is None else states)]
        where = f"WHERE state IN ({', '.join([self._mark] * len(among))}) ORDER BY id DESC LIMIT {self._mark}"
        if not among:
            return []
        with self._cursor() as cursor:
            cursor.execute(f"{self._select} {where}", (*among, _ALL if limit is None else limit))
            return [_unpacked(row) for row in cursor.fetchall()]

    def task(self, id_: int) -> Task | None:
        """None where there is none. Raises Unavailable."""
        with self._cursor() as cursor:
            cursor.execute(f"{self._select} WHERE id = {self._mark}", (id_,))
            found = cursor.fetchone()
        return None if found is None else _unpacked(found)

    def save_task(self, task: Task) -> bool:
        """Replace what is kept of it. Raises Unavailable."""
        with self._writing, self._cursor(commit=True) as cursor:
            return self.update(cursor, task)

    def update(self, cursor: Any, task: Task) -> bool:
        """The same, as a part of somebody's transaction."""
        cursor.execute(self._update, (*_packed(task), task.id))
        return bool(cursor.rowcount)

    def drop_task(self, id_: int) -> bool:
        """Forget it. Raises Unavailable."""
        return self._delete(f"id = {self._mark}", (id_,)) > 0

    def drop_ended(self, before_ns: int) -> int:
        """Forget the ended ones that changed last before that. Raises Unavailable."""
        ended = [state.value for state in TaskState if state not in ACTIVE]
        return self._delete(f"state IN ({self._mark}, {self._mark}) AND updated_ns < {self._mark}", (*ended, before_ns))

    def _delete(self, where: str, values: tuple[Any, ...]) -> int:
        with self._writing, self._cursor(commit=True) as cursor:
            cursor.execute(f"DELETE FROM tasks WHERE {where}", values)  # noqa: S608
            return int(cursor.rowcount)


def _packed(task: Task) -> tuple[Any, ...]:
    values = msgspec.structs.asdict(task)
    return tuple(values[name] if name != "state" else task.state.value for name in _KEPT)


def _unpacked(row: Sequence[Any]) -> Task:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Task(**{**values, "state": TaskState(values["state"]), "force": bool(values["force"])})
