"""Usage and kept answers, in the database of the ledger, which writes their rows: read, summed by day, forgotten here."""

import threading
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    MetaData,
    Select,
    Table,
    Text,
    bindparam,
    delete,
    func,
    literal_column,
    make_url,
    select,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite

from openoutcry.ledger.records import KeptAnswer, UsageRow
from openoutcry.ledger.usage import DAY_NS, UsageDay
from openoutcry.stores.engine import opened, refusing
from openoutcry.stores.ledger import LEDGER, answers, usage
from openoutcry.stores.migrations import Schema

BUSY_S = 30.0
WHAT = "the usage"
DONE = "done"

_metadata = MetaData()
# Of rows that are gone. What is in `usage` is not in here.
_days = Table(
    "usage_days",
    _metadata,
    Column("account", Text, primary_key=True),
    Column("day_ns", BigInteger, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("tokens_in", BigInteger, nullable=False),
    Column("tokens_out", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("shortfall", BigInteger, nullable=False),
    CheckConstraint("calls > 0 AND cost >= 0 AND shortfall >= 0", name="days_of_calls"),
)
_SUMMED = ("calls", "tokens_in", "tokens_out", "cost", "shortfall")
# Spelled out: PostgreSQL takes two parameters for two different expressions.
_DAY = (usage.c.at_ns - usage.c.at_ns % literal_column(str(DAY_NS))).label("day_ns")
_FORGET = delete(answers).where(answers.c.account == bindparam("of_account"), answers.c.key == bindparam("of_key"))


def _1_days(connection: Connection) -> None:
    _metadata.create_all(connection)


USAGE = Schema("usage_version", (_1_days,))


class SqlUsage:
    """What was used, and what was answered under keys. Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S) -> None:
        address = make_url(url)
        # One of each at a time, and `close` waits for both: a thread may still be at work when the server stops. Who reads
        # does not wait for who writes.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        # The ledger's tables too: whoever comes first makes them.
        opened(address, busy_s, LEDGER, WHAT).dispose()
        self._engine = opened(address, busy_s, USAGE, WHAT)
        self._writer = self._engine.execution_options(writing=True)

    def rows(
        self,
        account: str,
        limit: int,
        *,
        before_id: int | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        endpoint: str | None = None,
        status: str | None = DONE,
    ) -> Sequence[UsageRow]:
        """Newest first. `until_ns` itself is not among them. Raises Unavailable."""
        of = usage.c
        asked = select(usage).where(of.account == account)
        if before_id is not None:
            asked = asked.where(of.id < before_id)
        if since_ns is not None:
            asked = asked.where(of.at_ns >= since_ns)
        if until_ns is not None:
            asked = asked.where(of.at_ns < until_ns)
        if endpoint is not None:
            asked = asked.where(of.endpoint == endpoint)
        if status is not None:
            asked = asked.where(of.status == status)
        return [UsageRow(**row) for row in self._rows(asked.order_by(of.id.desc()).limit(limit))]

    def by_day(self, account: str, since_ns: int, until_ns: int, limit: int) -> Sequence[UsageDay]:
        """Days on which there were calls, newest first; rows and sums together. Raises Unavailable."""
        kept = _days.c
        sums = select(kept.day_ns, *(kept[name] for name in _SUMMED)).where(
            kept.account == account, kept.day_ns >= since_ns, kept.day_ns < until_ns
        )
        raw = _summed(_DAY).where(
            usage.c.account == account, usage.c.at_ns >= since_ns, usage.c.at_ns < until_ns, usage.c.status == DONE
        )
        both = union_all(sums, raw.group_by(_DAY)).subquery()
        asked = select(both.c.day_ns, *(func.sum(both.c[name]).label(name) for name in _SUMMED))
        asked = asked.group_by(both.c.day_ns).order_by(both.c.day_ns.desc()).limit(limit)
        return [UsageDay(**{name: int(told) for name, told in row.items()}) for row in self._rows(asked)]

    def paid(self, account: str) -> int:
        """All that was ever paid for calls, rows and sums together. Raises Unavailable."""
        parts = (
            select(func.sum(table.c.cost).label("cost")).where(table.c.account == account) for table in (usage, _days)
        )
        both = union_all(*parts).subquery()
        return int(self._rows(select(func.coalesce(func.sum(both.c.cost), 0).label("paid")))[0]["paid"])

    def fold(self, before_ns: int, limit: int) -> int:
        """So many of the rows older than that become sums by day, in one transaction. Returns how many. Raises Unavailable."""
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            asked = select(usage.c.id).where(usage.c.at_ns < before_ns).order_by(usage.c.at_ns, usage.c.id).limit(limit)
            # Another process may fold too: what it took first is not there any more when its lock is gone.
            named = connection.scalars(asked.with_for_update()).all()
            summed = _summed(usage.c.account, _DAY).where(usage.c.id.in_(named), usage.c.status == DONE)
            sums = connection.execute(summed.group_by(usage.c.account, _DAY).order_by(usage.c.account, _DAY)).mappings()
            made = [{**row, **{name: int(row[name]) for name in _SUMMED}} for row in sums]
            if made:
                kind = postgresql if connection.dialect.name == "postgresql" else sqlite
                adding = kind.insert(_days)
                grown = {name: _days.c[name] + adding.excluded[name] for name in _SUMMED}
                connection.execute(adding.on_conflict_do_update(index_elements=["account", "day_ns"], set_=grown), made)
            connection.execute(delete(usage).where(usage.c.id.in_(named)))
            return len(named)

    def get(self, account: str, key: str) -> KeptAnswer | None:
        """The answer under that key. Raises Unavailable."""
        found = self._rows(select(answers).where(answers.c.account == account, answers.c.key == key))
        return KeptAnswer(**found[0]) if found else None

    def drop(self, account: str, key: str, before_ns: int) -> None:
        """It goes, if it is older than that. Raises Unavailable."""
        of = answers.c
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            connection.execute(delete(answers).where(of.account == account, of.key == key, of.at_ns < before_ns))

    def prune(self, before_ns: int, kept_max: int, batch_max: int) -> int:
        """Answers older than that go, then the oldest beyond `kept_max`; `batch_max` at most. Returns how many.

        Raises Unavailable.
        """
        of = answers.c
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            over = (connection.scalar(select(func.count()).select_from(answers)) or 0) - kept_max
            old = select(of.account, of.key, of.at_ns).order_by(of.at_ns, of.account, of.key).limit(batch_max)
            gone = [
                {"of_account": row.account, "of_key": row.key}
                for rank, row in enumerate(connection.execute(old))
                if row.at_ns < before_ns or rank < over
            ]
            if gone:
                connection.execute(_FORGET, gone)
            return len(gone)

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._reading, self._writing:
            self._engine.dispose()

    def _rows(self, asked: Select[Any]) -> Sequence[Any]:
        with self._reading, refusing(WHAT), self._engine.begin() as connection:
            return connection.execute(asked).mappings().all()


def _summed(*by: Any) -> Select[Any]:
    of = usage.c
    sums = (func.sum(of[name]).label(name) for name in _SUMMED if name != "calls")
    return select(*by, func.count().label("calls"), *sums)
