"""Keys in a database of their own file, which the command line opens beside a running server; and in memory."""

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, ColumnElement, Connection, Select, delete, func, insert, make_url, or_, select, update

from openoutcry.accounts.store import REVOKED_KEPT_MAX, REVOKED_OF_ACCOUNT_KEPT_MAX, KeyRecord
from openoutcry.errors import TooLarge, Unavailable
from openoutcry.stores.account_tables import ACCOUNTS, alone
from openoutcry.stores.account_tables import keys as _keys
from openoutcry.stores.engine import opened, refusing
from openoutcry.stores.folder import FOLDER_MODE

BUSY_S = 5.0
WHAT = "the keys"
PEPPER_NAME = "pepper"
TOKEN_SECRET_NAME = "token-secret"  # noqa: S105 - the name of the file, not what is in it
SECRET_BYTES = 32


class SqlKeys:
    """Keys in SQLite or PostgreSQL. Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S) -> None:
        self._url = make_url(url)
        # One at a time, and `close` waits: a refresh may still be reading in its thread when the server stops.
        self._turn = threading.Lock()
        self._engine = opened(self._url, busy_s, ACCOUNTS, WHAT)
        self._writer = self._engine.execution_options(writing=True)

    def add(self, digest: bytes, record: KeyRecord, most: int | None = None) -> None:
        """Keep one more, and forget the longest revoked of its account. Raises TooLarge, Unavailable."""
        row = {**msgspec.structs.asdict(record), "digest": digest, "scopes": ",".join(sorted(record.scopes))}
        own, revoked = _own(record), _keys.c.revoked_ns.is_not(None)
        kept = select(_keys.c.id).where(own, revoked).order_by(_keys.c.revoked_ns.desc(), _keys.c.id)
        kept = kept.limit(_kept_max(record.account))
        with self._turn, refusing(WHAT), self._writer.begin() as connection:
            alone(connection)
            if most is not None:
                _room(connection, record, most)
            connection.execute(insert(_keys).values({**row, "change": _next_change()}))
            connection.execute(delete(_keys).where(own, revoked, _keys.c.id.not_in(kept)))

    def all(self) -> Mapping[bytes, KeyRecord]:
        """Every key, oldest first, the revoked ones too. Raises Unavailable."""
        return self._read(select(_keys))

    def of(self, account: str) -> Sequence[KeyRecord]:
        """The account's keys, oldest first, the revoked ones too. Raises Unavailable."""
        return list(self._read(select(_keys).where(_keys.c.account == account)).values())

    def changed(self, after: int) -> tuple[int, Mapping[bytes, KeyRecord]]:
        """The keys made or revoked since that change, and the number of the last change. Raises Unavailable."""
        with self._turn, refusing(WHAT), self._engine.begin() as connection:
            rows = connection.execute(select(_keys).where(_keys.c.change > after)).all()
        return max((row.change for row in rows), default=after), {bytes(row.digest): _record(row) for row in rows}

    def revoke(self, id_: str, revoked_ns: int) -> None:
        """The key with that id is no more; one that was revoked before keeps its time. Raises Unavailable."""
        ended = update(_keys).where(_keys.c.id == id_, _keys.c.revoked_ns.is_(None))
        with self._turn, refusing(WHAT), self._writer.begin() as connection:
            alone(connection)
            connection.execute(ended.values(revoked_ns=revoked_ns, change=_next_change()))

    def used(self, uses: Mapping[str, int]) -> None:
        """When keys (by id) were last used; an earlier time changes nothing. Raises Unavailable."""
        with self._turn, refusing(WHAT), self._writer.begin() as connection:
            # In the order of their ids: two processes that write the same keys must not wait for each other.
            for id_, used_ns in sorted(uses.items()):
                later = or_(_keys.c.used_ns.is_(None), _keys.c.used_ns < used_ns)
                connection.execute(update(_keys).where(_keys.c.id == id_, later).values(used_ns=used_ns))

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._turn:
            self._engine.dispose()

    def _read(self, asked: Select[Any]) -> Mapping[bytes, KeyRecord]:
        with self._turn, refusing(WHAT), self._engine.begin() as connection:
            rows = connection.execute(asked.order_by(_keys.c.created_ns, _keys.c.id)).all()
        return {bytes(row.digest): _record(row) for row in rows}


class MemoryKeys:
    """Keys that end with the process."""

    def __init__(self) -> None:
        self._kept: dict[bytes, KeyRecord] = {}
        self._changes: dict[bytes, int] = {}
        self._change = 0

    def add(self, digest: bytes, record: KeyRecord, most: int | None = None) -> None:
        """Keep one more, and forget the longest revoked of its account. Raises TooLarge."""
        own = [each for each in self._kept.values() if each.account == record.account]
        if most is not None and sum(each.live(record.created_ns) for each in own) >= most:
            raise _too_many(most)
        self._put(digest, record)
        revoked = sorted(
            (each.revoked_ns, each.id, of)
            for of, each in self._kept.items()
            if each.account == record.account and each.revoked_ns is not None
        )
        for _, _, old in revoked[: max(len(revoked) - _kept_max(record.account), 0)]:
            del self._kept[old], self._changes[old]

    def all(self) -> Mapping[bytes, KeyRecord]:
        """Every key, oldest first, the revoked ones too."""
        return dict(sorted(self._kept.items(), key=lambda each: (each[1].created_ns, each[1].id)))

    def of(self, account: str) -> Sequence[KeyRecord]:
        """The account's keys, oldest first, the revoked ones too."""
        return [each for each in self.all().values() if each.account == account]

    def changed(self, after: int) -> tuple[int, Mapping[bytes, KeyRecord]]:
        """The keys made or revoked since that change, and the number of the last change."""
        return self._change, {of: self._kept[of] for of, change in self._changes.items() if change > after}

    def revoke(self, id_: str, revoked_ns: int) -> None:
        """The key with that id is no more; one that was revoked before keeps its time."""
        for digest, record in list(self._kept.items()):
            if record.id == id_ and record.revoked_ns is None:
                self._put(digest, msgspec.structs.replace(record, revoked_ns=revoked_ns))

    def used(self, uses: Mapping[str, int]) -> None:
        """When keys (by id) were last used; an earlier time changes nothing."""
        for digest, record in self._kept.items():
            used_ns = uses.get(record.id)
            if used_ns is not None and (record.used_ns is None or record.used_ns < used_ns):
                self._kept[digest] = msgspec.structs.replace(record, used_ns=used_ns)

    def _put(self, digest: bytes, record: KeyRecord) -> None:
        self._change += 1
        self._kept[digest], self._changes[digest] = record, self._change


def pepper(folder: Path, random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """What the folder's keys are hashed with, as text; made at first use. Raises Unavailable."""
    return _secret(folder / PEPPER_NAME, random, "make all keys anew")


def token_secret(folder: Path, random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """What the folder's login tokens are signed with, as text; made at first use. Raises Unavailable."""
    return _secret(folder / TOKEN_SECRET_NAME, random, "let everybody log in anew")


def _secret(path: Path, random: Callable[[int], bytes], then: str) -> bytes:
    try:
        if not path.exists():
            _make(path, random(SECRET_BYTES).hex().encode("ascii") + b"\n")
        found = path.read_bytes().strip()
    except OSError as e:
        raise Unavailable("store", f"the secret {path} cannot be used: {e.strerror}") from e
    if len(found) < SECRET_BYTES:
        raise Unavailable("store", f"{path} is damaged: bring back a copy of it, or remove it and {then}")
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


def _kept_max(account: str | None) -> int:
    return REVOKED_KEPT_MAX if account is None else REVOKED_OF_ACCOUNT_KEPT_MAX


def _own(record: KeyRecord) -> ColumnElement[bool]:
    # The keys of nobody are an account of their own. In either form an index serves it.
    return _keys.c.account.is_(None) if record.account is None else _keys.c.account == record.account


def _next_change() -> Any:
    return select(func.coalesce(func.max(_keys.c.change), 0) + 1).scalar_subquery()


def _room(connection: Connection, record: KeyRecord, most: int) -> None:
    live = or_(_keys.c.expires_ns.is_(None), _keys.c.expires_ns > record.created_ns)
    counted = select(func.count()).select_from(_keys).where(_own(record), _keys.c.revoked_ns.is_(None), live)
    if (connection.scalar(counted) or 0) >= most:
        raise _too_many(most)


def _too_many(most: int) -> TooLarge:
    return TooLarge(f"an account has at most {most} keys that may be used: revoke one")


def _record(row: Any) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        last=row.last,
        scopes=frozenset(row.scopes.split(",")),
        created_ns=row.created_ns,
        revoked_ns=row.revoked_ns,
        account=row.account,
        expires_ns=row.expires_ns,
        used_ns=row.used_ns,
    )
