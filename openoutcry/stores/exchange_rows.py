"""Many rows in one statement, past SQLAlchemy's handling of each: the exchange writes tens of thousands a second.

SQLite is handed tuples. PostgreSQL is handed one JSON text, which it takes apart itself: its driver would convert each value.
"""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql

_POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]


class Rows:
    """Writes of these columns of a table: all of them new, unless something says how to find those that are there.

    `key`: a row whose key is there is overwritten. `of`: only rows that are there, found by this column, the first one.
    """

    def __init__(self, table: Table, names: Sequence[str], *, key: Collection[str] = (), of: str | None = None) -> None:
        assert of is None or of == names[0]
        self._names = tuple(names)
        columns = ", ".join(map(_quoted, names))
        kinds = ", ".join(f"{_quoted(name)} {table.c[name].type.compile(_POSTGRES)}" for name in names)
        # Numbered, and so in order, also where each draws an id.
        given = f"ROWS FROM (json_to_recordset(%s::json) AS ({kinds})) WITH ORDINALITY AS given ({columns}, at)"
        into = _quoted(table.name)
        # Names of our own tables and columns alone become a part of a statement.
        if of is None:
            clash = _overwrite(key, [name for name in names if name not in key])
            marks = ", ".join("?" * len(names))
            self._sqlite = f"INSERT INTO {into} ({columns}) VALUES ({marks}){clash}"  # noqa: S608 - as said above
            self._postgres = f"INSERT INTO {into} ({columns}) SELECT {columns} FROM {given} ORDER BY at{clash}"  # noqa: S608
        else:
            become = ", ".join(f"{_quoted(name)} = ?{at}" for at, name in enumerate(names[1:], start=2))
            self._sqlite = f"UPDATE {into} SET {become} WHERE {_quoted(of)} = ?1"  # noqa: S608 - as said above
            become = ", ".join(f"{_quoted(name)} = given.{_quoted(name)}" for name in names[1:])
            found = f"kept.{_quoted(of)} = given.{_quoted(of)}"
            self._postgres = f"UPDATE {into} AS kept SET {become} FROM {given} WHERE {found}"  # noqa: S608 - as said above

    def write(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Returns how many rows it wrote."""
        if not rows:
            return 0
        if connection.dialect.name == "postgresql":
            told = msgspec.json.encode([dict(zip(self._names, row, strict=True)) for row in rows]).decode()
            return connection.exec_driver_sql(self._postgres, (told,)).rowcount
        return connection.exec_driver_sql(self._sqlite, list(rows)).rowcount


def _overwrite(key: Collection[str], changed: Collection[str]) -> str:
    if not key:
        return ""
    become = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in changed)
    return f" ON CONFLICT ({', '.join(map(_quoted, key))}) DO UPDATE SET {become}"


def _quoted(name: str) -> str:
    return f'"{name}"'
