"""Keys in a database of their own file, which the command line opens beside a running server; and in memory."""

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    Table,
    Text,
    delete,
    func,
    insert,
    make_url,
    select,
    update,
)

from openoutcry.accounts.store import REVOKED_KEPT_MAX, KeyRecord
from openoutcry.errors import Unavailable
from openoutcry.stores.engine import opened, refusing
from openoutcry.stores.folder import FOLDER_MODE
from openoutcry.stores.migrations import Schema

BUSY_S = 5.0
WHAT = "the keys"
PEPPER_NAME = "pepper"
PEPPER_BYTES = 32

_metadata = MetaData()
_keys = Table(
    "keys",
    _metadata,
    Column("id", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("last", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("revoked_ns", BigInteger),
)


def _1_keys(connection: Connection) -> None:
    _metadata.create_all(connection)


ACCOUNTS = Schema("accounts_version", (_1_keys,))


class SqlKeys:
    """Keys in SQLite or PostgreSQL. Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S) -> None:
        self._url = make_url(url)
        # One at a time, and `close` waits: a refresh may still be reading in its thread when the server stops.
        self._turn = threading.Lock()
        self._engine = opened(self._url, busy_s, ACCOUNTS, WHAT)
        self._writer = self._engine.execution_options(writing=True)

    def add(self, digest: bytes, record: KeyRecord) -> None:
        """Keep one more, and forget the longest revoked beyond REVOKED_KEPT_MAX. Raises Unavailable."""
        row = {**msgspec.structs.asdict(record), "digest": digest, "scopes": ",".join(sorted(record.scopes))}
        revoked = select(_keys.c.id).where(_keys.c.revoked_ns.is_not(None))
        kept = revoked.order_by(_keys.c.revoked_ns.desc(), _keys.c.id).limit(REVOKED_KEPT_MAX)
        with self._turn, refusing(WHAT), self._writer.begin() as connection:
            connection.execute(insert(_keys).values(row))
            connection.execute(delete(_keys).where(_keys.c.revoked_ns.is_not(None), _keys.c.id.not_in(kept)))

    def all(self) -> Mapping[bytes, KeyRecord]:
        """Every key, oldest first, the revoked ones too. Raises Unavailable."""
        with self._turn, refusing(WHAT), self._engine.begin() as connection:
            rows = connection.execute(select(_keys).order_by(_keys.c.created_ns, _keys.c.id)).all()
        return {bytes(row.digest): _record(row) for row in rows}

    def revoke(self, id_: str, revoked_ns: int) -> None:
        """The key with that id is no more; one that was revoked before keeps its time. Raises Unavailable."""
        ended = update(_keys).where(_keys.c.id == id_, _keys.c.revoked_ns.is_(None)).values(revoked_ns=revoked_ns)
        with self._turn, refusing(WHAT), self._writer.begin() as connection:
            connection.execute(ended)

    def stamp(self) -> Hashable:
        """Another value after every change, whoever made it. Raises Unavailable."""
        made, ended = _keys.c.created_ns, _keys.c.revoked_ns
        asked = select(func.count(made), func.count(ended), func.max(made), func.max(ended))
        with self._turn, refusing(WHAT), self._engine.begin() as connection:
            return tuple(connection.execute(asked).one())

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._turn:
            self._engine.dispose()


class MemoryKeys:
    """Keys that end with the process."""

    def __init__(self) -> None:
        self._kept: dict[bytes, KeyRecord] = {}
        self._changes = 0

    def add(self, digest: bytes, record: KeyRecord) -> None:
        """Keep one more, and forget the longest revoked beyond REVOKED_KEPT_MAX."""
        self._kept[digest] = record
        revoked = sorted((r.revoked_ns, r.id, d) for d, r in self._kept.items() if r.revoked_ns is not None)
        for _, _, old in revoked[: max(len(revoked) - REVOKED_KEPT_MAX, 0)]:
            del self._kept[old]
        self._changes += 1

    def all(self) -> Mapping[bytes, KeyRecord]:
        """Every key, oldest first, the revoked ones too."""
        return dict(sorted(self._kept.items(), key=lambda each: (each[1].created_ns, each[1].id)))

    def revoke(self, id_: str, revoked_ns: int) -> None:
        """The key with that id is no more; one that was revoked before keeps its time."""
        for digest, record in self._kept.items():
            if record.id == id_ and record.revoked_ns is None:
                self._kept[digest] = msgspec.structs.replace(record, revoked_ns=revoked_ns)
                self._changes += 1

    def stamp(self) -> Hashable:
        """How many changes there were."""
        return self._changes


def pepper(folder: Path, random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """What the folder's keys are hashed with, as text; made at first use. Raises Unavailable."""
    path = folder / PEPPER_NAME
    try:
        if not path.exists():
            _make(path, random(PEPPER_BYTES).hex().encode("ascii") + b"\n")
        found = path.read_bytes().strip()
    except OSError as e:
        raise Unavailable("store", f"the pepper {path} cannot be used: {e.strerror}") from e
    if len(found) < PEPPER_BYTES:
        raise Unavailable("store", f"{path} is damaged: bring back a copy of it, or remove it and make all keys anew")
    return found


def private_file(path: Path) -> Path:
    """The database file, made (with its folder) for its owner alone if absent. Raises Unavailable."""
    try:
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        # What SQLite keeps beside it gets the same mode. A file that is there is never opened here: closing it would
        # drop the locks that this process holds in it.
        if not path.exists():
            _make(path, b"")
    except OSError as e:
        raise Unavailable("store", f"{path} cannot be used: {e.strerror}") from e
    return path


def _make(path: Path, content: bytes) -> None:
    # Whole or not at all, and never twice: two processes may begin at once.
    made, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # for its owner alone
    try:
        os.write(made, content)
        os.fsync(made)
    finally:
        os.close(made)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # the other was first: what it made is the one
    finally:
        Path(draft).unlink()


def _record(row: Any) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        last=row.last,
        scopes=frozenset(row.scopes.split(",")),
        created_ns=row.created_ns,
        revoked_ns=row.revoked_ns,
    )
