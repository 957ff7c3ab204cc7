"""Checkouts and what became of them, in the database of the ledger, whose rows of credits and events are read here too."""

import threading
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import (
    URL,
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    make_url,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from openoutcry.billing.reversals import Reversal, ReversalState, Taking, next_taking
from openoutcry.billing.store import CheckoutRecord, Mark
from openoutcry.errors import Unavailable
from openoutcry.ledger.records import Credit
from openoutcry.stores.engine import opened, refusing
from openoutcry.stores.ledger import LEDGER, credits_, stripe_events
from openoutcry.stores.migrations import Schema

BUSY_S = 30.0
# How often a step is worked out again that another made meanwhile.
TRIES_MAX = 20
WHAT = "the billing"

_metadata = MetaData()
_checkouts = Table(
    "stripe_checkouts",
    _metadata,
    Column("session_id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("cents", BigInteger, nullable=False),
    Column("price", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Index("stripe_checkouts_of_account", "account", "at_ns"),
    Index("stripe_checkouts_by_time", "at_ns"),
)
_reversals = Table(
    "stripe_reversals",
    _metadata,
    Column("payment", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("cents", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Index("stripe_reversals_by_time", "at_ns"),
)
_takings = Table(
    "stripe_takings",
    _metadata,
    Column("payment", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("account", Text, nullable=False),
    Column("due", BigInteger, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("moved", BigInteger),
    Column("back", BigInteger, nullable=False),
    CheckConstraint("due <> 0 AND back >= 0", name="takings_of_something"),
)
_mark = Table(
    "stripe_mark",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("through_s", BigInteger),
    Column("since_s", BigInteger),
    Column("began_s", BigInteger),
    Column("after", Text),
)


def _1_billing(connection: Connection) -> None:
    _metadata.create_all(connection)


BILLING = Schema("billing_version", (_1_billing,))


class SqlBilling:
    """Checkouts in SQLite or PostgreSQL, beside the ledger. Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S) -> None:
        address = make_url(url)
        # One of each at a time, and `close` waits for both: a thread may still be at work when the server stops.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        # The ledger's tables too: whoever comes first makes them.
        opened(address, busy_s, LEDGER, WHAT).dispose()
        self._engine = opened(address, busy_s, BILLING, WHAT)
        self._writer = self._engine.execution_options(writing=True)

    def add(self, checkout: CheckoutRecord) -> None:
        """Keep it; the same once more does nothing. Raises Unavailable."""
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            _insert_new(connection, _checkouts, {**msgspec.structs.asdict(checkout), "price": str(checkout.price)})

    def begun(self, account: str, since_ns: int) -> int:
        """How many checkouts the account has begun since then. Raises Unavailable."""
        begun = _checkouts.c.account == account, _checkouts.c.at_ns >= since_ns
        return int(self._rows(select(func.count().label("begun")).where(*begun))[0]["begun"])

    def checkouts(self, session_ids: Collection[str]) -> Mapping[str, CheckoutRecord]:
        """Those of them that are ours. Raises Unavailable."""
        rows = self._rows(select(_checkouts).where(_checkouts.c.session_id.in_(session_ids)))
        found = (CheckoutRecord(**{**row, "price": Decimal(row["price"])}) for row in rows)
        return {each.session_id: each for each in found}

    def credits(self, session_ids: Collection[str]) -> Mapping[str, Credit]:
        """Those of them that were credited, by session. Raises Unavailable."""
        rows = self._rows(select(credits_).where(credits_.c.session_id.in_(session_ids)))
        return {row["session_id"]: Credit(**row) for row in rows}

    def reverse(self, reversal: Reversal) -> None:
        """Remember it: the highest sum that was told, and how a dispute ended first. Raises Unavailable."""
        row = {**msgspec.structs.asdict(reversal), "state": reversal.state.value}
        of = _reversals.c
        one = and_(of.payment == reversal.payment, of.source == reversal.source)
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            _insert_new(connection, _reversals, row)
            connection.execute(update(_reversals).where(one, of.cents < reversal.cents).values(cents=reversal.cents))
            still_open = of.state == ReversalState.OPEN.value
            connection.execute(update(_reversals).where(one, still_open).values(state=reversal.state.value))

    def next_taking(self, payment: str, now_ns: int) -> Taking | None:
        """The step that is to be done now, kept before it is answered; None where nothing is. Raises Unavailable."""
        with self._writing, refusing(WHAT):
            for _ in range(TRIES_MAX):
                try:
                    with self._writer.begin() as connection:
                        return _planned(connection, payment, now_ns)
                except IntegrityError:
                    continue  # PostgreSQL: another made the step of that number meanwhile
        raise Unavailable("store", f"{WHAT} cannot be reached: others write to the same rows all the time")

    def moved(self, taking: Taking, moved: int) -> None:
        """The step is done. Of two that did it at once, the one that found more counts. Raises Unavailable."""
        of = _takings.c
        one = and_(of.payment == taking.payment, of.number == taking.number)
        more = or_(of.moved.is_(None), and_(of.due > 0, of.moved < moved))
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            connection.execute(update(_takings).where(one, more).values(moved=moved))

    def mark(self) -> Mark:
        """How far Stripe's sessions were looked through. Raises Unavailable."""
        rows = self._rows(select(_mark.c.through_s, _mark.c.since_s, _mark.c.began_s, _mark.c.after))
        return Mark(**rows[0]) if rows else Mark()

    def set_mark(self, mark: Mark) -> None:
        """From now on, so far. Raises Unavailable."""
        row = msgspec.structs.asdict(mark)
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            _insert_new(connection, _mark, {"id": 1, **row})
            connection.execute(update(_mark).values(row))

    def prune(self, checkouts_ns: int, events_ns: int, reversals_ns: int, limit: int) -> int:
        """Forget checkouts and events from before then, and reversals of what was never credited. Raises Unavailable."""
        checkout, event, reversal = _checkouts.c, stripe_events.c, _reversals.c
        old_checkouts = select(checkout.session_id).where(checkout.at_ns < checkouts_ns).limit(limit)
        old_events = select(event.event_id).where(event.at_ns < events_ns).limit(limit)
        key = tuple_(reversal.payment, reversal.source)
        credited = select(credits_.c.session_id).where(credits_.c.payment == reversal.payment).exists()
        old_reversals = select(reversal.payment, reversal.source).where(reversal.at_ns < reversals_ns, ~credited)
        gone = (
            delete(_checkouts).where(checkout.session_id.in_(old_checkouts)),
            delete(stripe_events).where(event.event_id.in_(old_events)),
            delete(_reversals).where(key.in_(old_reversals.limit(limit))),
        )
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            return sum(connection.execute(each).rowcount for each in gone)

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._reading, self._writing:
            self._engine.dispose()

    def _rows(self, asked: Select[Any]) -> Sequence[Any]:
        with self._reading, refusing(WHAT), self._engine.begin() as connection:
            return connection.execute(asked).mappings().all()


def _planned(connection: Connection, payment: str, now_ns: int) -> Taking | None:
    found = connection.execute(select(credits_).where(credits_.c.payment == payment)).mappings().one_or_none()
    if found is None:
        return None
    reversals = [
        Reversal(**{**row, "state": ReversalState(row["state"])})
        for row in connection.execute(select(_reversals).where(_reversals.c.payment == payment)).mappings()
    ]
    asked = select(_takings).where(_takings.c.payment == payment).order_by(_takings.c.number)
    takings = [Taking(**row) for row in connection.execute(asked).mappings()]
    taking = next_taking(Credit(**found), reversals, takings, now_ns)
    if taking is not None and taking.number == len(takings):
        connection.execute(insert(_takings).values(msgspec.structs.asdict(taking)))
    return taking


def _insert_new(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(kind.insert(table).values(row).on_conflict_do_nothing())
