"""Accounts beside their keys, in the same file or PostgreSQL; and in memory."""

import threading
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import URL, ColumnElement, Update, func, insert, make_url, select, update

from openoutcry.accounts.store import Account, AccountRecord
from openoutcry.errors import Conflict, TooLarge
from openoutcry.stores.account_tables import ACCOUNTS, accounts, alone
from openoutcry.stores.engine import opened, refusing

BUSY_S = 5.0
WHAT = "the accounts"


class SqlAccounts:
    """Accounts in SQLite or PostgreSQL. Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S) -> None:
        # One at a time, and `close` waits for who is still reading in a thread.
        self._turn = threading.Lock()
        self._engine = opened(make_url(url), busy_s, ACCOUNTS, WHAT)
        self._writer = self._engine.execution_options(writing=True)

    def add(self, record: AccountRecord, most: int) -> None:
        """Keep one more. Raises Conflict where the e-mail is taken, TooLarge where there are `most`, Unavailable."""
        row = {
            **msgspec.structs.asdict(record.account),
            "email_key": record.email_key,
            "password": record.password,
            "version": record.version,
        }
        same = select(accounts.c.id).where(accounts.c.email_key == record.email_key)
        with self._turn, refusing(WHAT), self._writer.begin() as connection:
            alone(connection)
            if connection.scalar(same) is not None:
                raise _taken()
            if (connection.scalar(select(func.count()).select_from(accounts)) or 0) >= most:
                raise _too_many(most)
            connection.execute(insert(accounts).values(row))

    def get(self, id_: str) -> AccountRecord | None:
        """The account with that id. Raises Unavailable."""
        return self._one(accounts.c.id == id_)

    def find(self, email_key: str) -> AccountRecord | None:
        """The account with that e-mail. Raises Unavailable."""
        return self._one(accounts.c.email_key == email_key)

    def list(self, limit: int, after: str | None) -> Sequence[Account]:
        """So many, by e-mail as compared; those after that one. Raises Unavailable."""
        asked = select(accounts).order_by(accounts.c.email_key).limit(limit)
        if after is not None:
            asked = asked.where(accounts.c.email_key > after)
        with self._turn, refusing(WHAT), self._engine.begin() as connection:
            return [_record(row).account for row in connection.execute(asked).all()]

    def set_tier(self, id_: str, tier: str) -> None:
        """Put the account on that tier. Raises Unavailable."""
        self._change(update(accounts).where(accounts.c.id == id_).values(tier=tier))

    def set_password(self, id_: str, password: str) -> None:
        """Keep the hash of another password, and let its version grow. Raises Unavailable."""
        version = accounts.c.version + 1
        self._change(update(accounts).where(accounts.c.id == id_).values(password=password, version=version))

    def rehash(self, id_: str, was: str, password: str) -> None:
        """Keep another hash of the same password, unless it is no longer the one that was. Raises Unavailable."""
        same = update(accounts).where(accounts.c.id == id_, accounts.c.password == was)
        self._change(same.values(password=password))

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._turn:
            self._engine.dispose()

    def _one(self, which: ColumnElement[bool]) -> AccountRecord | None:
        with self._turn, refusing(WHAT), self._engine.begin() as connection:
            row = connection.execute(select(accounts).where(which)).one_or_none()
        return None if row is None else _record(row)

    def _change(self, change: Update) -> None:
        with self._turn, refusing(WHAT), self._writer.begin() as connection:
            connection.execute(change)


class MemoryAccounts:
    """Accounts that end with the process."""

    def __init__(self) -> None:
        self._kept: dict[str, AccountRecord] = {}

    def add(self, record: AccountRecord, most: int) -> None:
        """Keep one more. Raises Conflict where the e-mail is taken, TooLarge where there are `most`."""
        if self.find(record.email_key) is not None:
            raise _taken()
        if len(self._kept) >= most:
            raise _too_many(most)
        self._kept[record.account.id] = record

    def get(self, id_: str) -> AccountRecord | None:
        """The account with that id."""
        return self._kept.get(id_)

    def find(self, email_key: str) -> AccountRecord | None:
        """The account with that e-mail."""
        return next((each for each in self._kept.values() if each.email_key == email_key), None)

    def list(self, limit: int, after: str | None) -> Sequence[Account]:
        """So many, by e-mail as compared; those after that one."""
        sorted_ = sorted(self._kept.values(), key=lambda each: each.email_key)
        return [each.account for each in sorted_ if after is None or each.email_key > after][:limit]

    def set_tier(self, id_: str, tier: str) -> None:
        """Put the account on that tier."""
        record = self._kept.get(id_)
        if record is not None:
            account = msgspec.structs.replace(record.account, tier=tier)
            self._kept[id_] = msgspec.structs.replace(record, account=account)

    def set_password(self, id_: str, password: str) -> None:
        """Keep the hash of another password, and let its version grow."""
        record = self._kept.get(id_)
        if record is not None:
            self._kept[id_] = msgspec.structs.replace(record, password=password, version=record.version + 1)

    def rehash(self, id_: str, was: str, password: str) -> None:
        """Keep another hash of the same password, unless it is no longer the one that was."""
        record = self._kept.get(id_)
        if record is not None and record.password == was:
            self._kept[id_] = msgspec.structs.replace(record, password=password)

    def close(self) -> None:
        """There is nothing to close."""


def _taken() -> Conflict:
    return Conflict("there is an account with that e-mail")


def _too_many(most: int) -> TooLarge:
    return TooLarge(f"there are {most} accounts, and no more may be")


def _record(row: Any) -> AccountRecord:
    account = Account(
        id=row.id, email=row.email, display_name=row.display_name, tier=row.tier, created_ns=row.created_ns
    )
    return AccountRecord(account=account, email_key=row.email_key, password=row.password, version=row.version)
