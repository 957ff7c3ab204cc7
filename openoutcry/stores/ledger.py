"""The books on SQLite (a file of their own) and on PostgreSQL: the same code, and a database that refuses by itself too.

A batch reads the rows that it is about, `Books` works out what becomes of them, and what changed is written, each row only
where it still is what was read. SQLite lets one writer in at a time. In PostgreSQL the balances are locked, in the order of
their key; no hold changes but under the lock of its balance; and a batch that met another all the same begins again.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    func,
    insert,
    literal_column,
    make_url,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from openoutcry.errors import Unavailable
from openoutcry.ledger.books import BalanceKey, Books, Command, Outcome
from openoutcry.ledger.postings import (
    SYSTEM,
    Balance,
    Entry,
    Hold,
    HoldRecord,
    Posting,
    Release,
    Settle,
    State,
    Transfer,
)
from openoutcry.ledger.records import Beside, Credit, KeptAnswer, Row, StripeEvent, UsageRow
from openoutcry.money import AMOUNT_MAX
from openoutcry.stores import exchange_tables, inbox_tables
from openoutcry.stores.engine import opened, refusing
from openoutcry.stores.migrations import Schema

BUSY_S = 30.0
# How often a batch begins again that met another writer.
TRIES_MAX = 20
# Names in one question: a batch of long transfers is about many rows.
ASKED_MAX = 1_000
COMPLAINTS_MAX = 20
WHAT = "the ledger"

_Name = TypeVar("_Name")
Moving = Transfer | Hold | Settle | Release

# PostgreSQL: serialization failure, deadlock, a row that another made first.
_MET_ANOTHER = frozenset({"40001", "40P01", "23505"})

_IS_SYSTEM = f"substr(owner, 1, {len(SYSTEM)}) = '{SYSTEM}'"

_metadata = MetaData()
balances = Table(
    "balances",
    _metadata,
    Column("owner", Text, primary_key=True),
    Column("asset", Text, primary_key=True),
    Column("total", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    CheckConstraint(f"total >= 0 OR {_IS_SYSTEM}", name="owners_never_below_zero"),
    CheckConstraint(f"held >= 0 AND (held <= total OR (held = 0 AND {_IS_SYSTEM}))", name="held_is_there"),
    CheckConstraint(f"total BETWEEN -{AMOUNT_MAX} AND {AMOUNT_MAX}", name="total_fits"),
)
_holds = Table(
    "holds",
    _metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("asset", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("deadline_ns", BigInteger, nullable=False),
    Column("made_ns", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("shortfall", BigInteger, nullable=False),
    Column("to", Text, nullable=False),
    Column("ended_ns", BigInteger),
    CheckConstraint("amount > 0", name="holds_of_something"),
    CheckConstraint("shortfall BETWEEN 0 AND used", name="shortfall_of_what_was_used"),
    CheckConstraint("(state = 'open') = (ended_ns IS NULL)", name="open_or_ended"),
    CheckConstraint("state = 'settled' OR (state IN ('open', 'released') AND used = 0)", name="used_when_settled"),
)
# The few that are open are found among the many that were.
_open_holds = Index(
    "holds_open",
    _holds.c.deadline_ns,
    _holds.c.id,
    sqlite_where=_holds.c.state == literal_column("'open'"),
    postgresql_where=_holds.c.state == literal_column("'open'"),
)
transfers = Table(
    "transfers",
    _metadata,
    Column("id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
)
postings = Table(
    "postings",
    _metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("transfer", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("asset", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    CheckConstraint("amount <> 0", name="postings_move_something"),
    Index("postings_of_balance", "owner", "asset", "id"),
    # Each balance once a transfer; found by transfer.
    Index("postings_of_transfer", "transfer", "owner", "asset", unique=True),
    sqlite_autoincrement=True,  # an id only grows
)

# What is written beside commands.
_beside = MetaData()
usage = Table(
    "usage",
    _beside,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("request_id", Text, nullable=False, unique=True),
    Column("account", Text, nullable=False),
    Column("key", Text),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("upstream_id", Text, nullable=False),
    Column("tokens_in", BigInteger, nullable=False),
    Column("tokens_out", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger),
    Column("cost", BigInteger, nullable=False),
    Column("shortfall", BigInteger, nullable=False),
    Column("tariff", Text, nullable=False),
    Column("latency_ms", BigInteger, nullable=False),
    Column("ttft_ms", BigInteger),
    Column("estimated", Boolean, nullable=False),
    Column("status", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    CheckConstraint("cost >= 0 AND shortfall >= 0", name="usage_costs_nothing_or_something"),
    Index("usage_of_account", "account", "id"),
    Index("usage_by_time", "at_ns"),
    sqlite_autoincrement=True,  # an id only grows
)
answers = Table(
    "answers",
    _beside,
    Column("account", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Index("answers_by_time", "at_ns"),
)
stripe_events = Table(
    "stripe_events",
    _beside,
    Column("event_id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Index("stripe_events_by_time", "at_ns"),
)
credits_ = Table(
    "credits",
    _beside,
    Column("session_id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("cents", BigInteger, nullable=False),
    Column("micros", BigInteger, nullable=False),
    Column("price", Text, nullable=False),
    Column("payment", Text, unique=True),
    Column("at_ns", BigInteger, nullable=False),
    CheckConstraint("cents >= 0 AND micros >= 0", name="credits_of_something"),
)
_TABLES: Mapping[type[Row], Table] = {
    UsageRow: usage,
    KeptAnswer: answers,
    StripeEvent: stripe_events,
    Credit: credits_,
}

# Made once: to put a question together takes as long as to ask it. A few more balances than were asked for: SQLite walks
# the whole table for pairs, and uses the key for this.
_BALANCES_OF = select(balances).where(
    balances.c.owner.in_(bindparam("owners", expanding=True)), balances.c.asset.in_(bindparam("assets", expanding=True))
)
_BALANCES_LOCKED = _BALANCES_OF.order_by(balances.c.owner, balances.c.asset).with_for_update()
_HOLDS_OF = select(_holds).where(_holds.c.id.in_(bindparam("ids", expanding=True)))
_BECAME = ("state", "used", "shortfall", "to", "ended_ns")
_OPEN = _holds.c.state == literal_column("'open'")
_CHANGE_BALANCE = (
    update(balances)
    .where(balances.c.owner == bindparam("of_owner"), balances.c.asset == bindparam("of_asset"))
    .where(balances.c.total == bindparam("was_total"), balances.c.held == bindparam("was_held"))
    .values(total=bindparam("total"), held=bindparam("held"))
)
_END_HOLD = (
    update(_holds).where(_holds.c.id == bindparam("of_id"), _OPEN).values({name: bindparam(name) for name in _BECAME})
)


def _1_ledger(connection: Connection) -> None:
    _metadata.create_all(connection)


def _2_rows_beside(connection: Connection) -> None:
    _beside.create_all(connection)


def _3_cards(connection: Connection) -> None:
    _beside.create_all(connection)


def _4_exchange(connection: Connection) -> None:
    exchange_tables.metadata.create_all(connection)


def _5_exchange_inbox(connection: Connection) -> None:
    inbox_tables.metadata.create_all(connection)


LEDGER = Schema("ledger_version", (_1_ledger, _2_rows_beside, _3_cards, _4_exchange, _5_exchange_inbox))


class SqlLedger:
    """The books in SQLite or PostgreSQL. Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S) -> None:
        address = make_url(url)
        # One of each at a time, and `close` waits for both: a thread may still be at work when the server stops. Who reads
        # does not wait for who writes.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._engine = opened(address, busy_s, LEDGER, WHAT)
        self._writer = self._engine.execution_options(writing=True)

    def obey(self, commands: Sequence[Command], now_ns: int) -> Sequence[Outcome]:
        """All of them in their order and in one transaction, each whole or refused. Raises Unavailable."""
        moving = list(_moving(commands))
        with self._writing, refusing(WHAT):
            for _ in range(TRIES_MAX):
                try:
                    with self._writer.begin() as connection:
                        books, read = _read(connection, moving, now_ns)
                        outcomes = [books.obey(command) for command in commands]
                        _write(connection, books, read, now_ns)
                except _MetAnotherError:
                    continue
                except DBAPIError as e:
                    if getattr(e.orig, "sqlstate", None) not in _MET_ANOTHER:
                        raise
                else:
                    return outcomes
        raise Unavailable("store", f"{WHAT} cannot be reached: others write to the same rows all the time")

    def balance(self, owner: str, asset: str) -> Balance:
        """Nothing where the owner never had any. Raises Unavailable."""
        found = self._rows(_BALANCES_OF, {"owners": [owner], "assets": [asset]})
        return Balance(found[0].total, found[0].held) if found else Balance()

    def entries(self, owner: str, asset: str, limit: int, before_id: int | None) -> Sequence[Entry]:
        """Newest first; with `before_id` those older than that one. Raises Unavailable."""
        of, moved = postings.c, transfers.c
        asked = select(of.id, of.transfer, moved.reason, of.amount, of.total, moved.at_ns)
        asked = asked.join(transfers, moved.id == of.transfer).where(of.owner == owner, of.asset == asset)
        asked = asked.where(true() if before_id is None else of.id < before_id)
        return [Entry(*row) for row in self._rows(asked.order_by(of.id.desc()).limit(limit))]

    def due(self, now_ns: int, limit: int) -> Sequence[str]:
        """Ids of open holds whose deadline is not after `now_ns`, the longest overdue first. Raises Unavailable."""
        asked = select(_holds.c.id).where(_OPEN, _holds.c.deadline_ns <= now_ns)
        return [row.id for row in self._rows(asked.order_by(_holds.c.deadline_ns, _holds.c.id).limit(limit))]

    def check(self) -> Sequence[str]:
        """What does not balance, in words; nothing where all does. Reads all books. Raises Unavailable."""
        with self._reading, refusing(WHAT), self._engine.connect() as connection:
            # One moment for all questions: in SQLite every transaction is that.
            if connection.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                return [
                    f"{says}: {', '.join(map(str, row))}"
                    for says, asked in _COMPLAINTS.items()
                    for row in connection.execute(asked.limit(COMPLAINTS_MAX))
                ]

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._reading, self._writing:
            self._engine.dispose()

    def _rows(self, asked: Select[Any], named: Mapping[str, Any] | None = None) -> Sequence[Any]:
        with self._reading, refusing(WHAT), self._engine.begin() as connection:
            return connection.execute(asked, named).all()


class _MetAnotherError(Exception):
    """A row is no longer what was read."""


def _moving(commands: Sequence[Command]) -> Iterator[Moving]:
    """The commands that the books are asked for."""
    for command in commands:
        inner = command.command if isinstance(command, Beside) else command
        if inner is not None:
            yield inner


def _read(connection: Connection, commands: Sequence[Moving], now_ns: int) -> tuple[Books, dict[BalanceKey, Balance]]:
    """The part of the books that the commands are about, locked; and its balances as they were found."""
    named = sorted({c.id if isinstance(c, Hold) else c.hold for c in commands if not isinstance(c, Transfer)})
    holds = _holds_of(connection, named)
    keys = _touched(commands, holds)
    assets = sorted({key.asset for key in keys})
    found: dict[BalanceKey, Balance] = {}
    for owners in _portions(sorted({key.owner for key in keys})):
        locked = connection.execute(_BALANCES_LOCKED, {"owners": owners, "assets": assets})
        found.update((BalanceKey(row.owner, row.asset), Balance(row.total, row.held)) for row in locked)
    if connection.dialect.name == "postgresql":
        # Only now, that whoever had those rows is done: what he did under the same ids counts.
        holds = _holds_of(connection, named)
        if not keys >= _touched(commands, holds):
            raise _MetAnotherError
    moved = _transfers_of(connection, sorted({c.id for c in commands if isinstance(c, Transfer)}))
    new = sorted(keys - found.keys())
    if new and connection.dialect.name == "postgresql":
        # What is not there cannot be locked: whoever made it meanwhile may have been seen in part.
        asked = {"owners": sorted({key.owner for key in new}), "assets": assets}
        if any(
            BalanceKey(row.owner, row.asset) in keys - found.keys() for row in connection.execute(_BALANCES_OF, asked)
        ):
            raise _MetAnotherError
    return Books(moved, holds, {key: found.get(key, Balance()) for key in keys}, now_ns), found


def _touched(commands: Sequence[Moving], known: Mapping[str, HoldRecord]) -> set[BalanceKey]:
    # A hold of this very batch may be settled in it, and two may ask for the same id.
    keys, assets = set[BalanceKey](), defaultdict[str, set[str]](set)
    for hold in (*(record.hold for record in known.values()), *(c for c in commands if isinstance(c, Hold))):
        keys.add(BalanceKey(hold.owner, hold.asset))
        assets[hold.id].add(hold.asset)
    for command in commands:
        if isinstance(command, Transfer):
            keys.update(BalanceKey(posting.owner, posting.asset) for posting in command.postings)
        elif isinstance(command, Settle):
            keys.update(BalanceKey(command.to, asset) for asset in assets[command.hold])
    return keys


def _write(connection: Connection, books: Books, read: Mapping[BalanceKey, Balance], now_ns: int) -> None:
    """What changed, if all of it still is what was read."""
    changed = {key: balance for key, balance in books.balances.items() if balance != read.get(key, Balance())}
    rows = [
        {"of_owner": key.owner, "of_asset": key.asset, "was_total": was.total, "was_held": was.held}
        | {"total": now.total, "held": now.held}
        for key, now in sorted(changed.items())
        if (was := read.get(key)) is not None
    ]
    if rows and connection.execute(_CHANGE_BALANCE, rows).rowcount != len(rows):
        raise _MetAnotherError
    _add(
        connection,
        balances,
        [
            {"owner": key.owner, "asset": key.asset, "total": now.total, "held": now.held}
            for key, now in sorted(changed.items())
            if key not in read
        ],
    )
    _add(connection, _holds, [_row(books.holds[id_]) for id_ in books.made])
    made = set(books.made)
    ended = [_row(books.holds[id_]) for id_ in books.ended if id_ not in made]
    rows = [{"of_id": row["id"], **{name: row[name] for name in _BECAME}} for row in ended]
    if rows and connection.execute(_END_HOLD, rows).rowcount != len(rows):
        raise _MetAnotherError
    written = books.written
    _add(connection, transfers, [{"id": t.id, "reason": t.reason, "at_ns": now_ns} for t, _ in written])
    _add(
        connection,
        postings,
        [
            {"transfer": t.id, "owner": p.owner, "asset": p.asset, "amount": p.amount, "total": total}
            for t, totals in written
            for p, total in zip(t.postings, totals, strict=True)
        ],
    )
    for kind, table in _TABLES.items():
        _add_new(connection, table, [row for row in books.rows if isinstance(row, kind)])


def _add_new(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Those that are not there: one whose key is taken must not undo what its neighbours in the batch did."""
    if not rows:
        return
    made = [msgspec.structs.asdict(row) for row in rows]
    for row in made:
        if not row.get("id", True):
            del row["id"]
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(kind.insert(table).on_conflict_do_nothing(), made)


def _add(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _holds_of(connection: Connection, named: Sequence[str]) -> dict[str, HoldRecord]:
    found = (connection.execute(_HOLDS_OF, {"ids": ids}) for ids in _portions(named))
    return {row.id: _record(row) for rows in found for row in rows}


def _transfers_of(connection: Connection, named: Sequence[str]) -> dict[str, Transfer]:
    found: dict[str, Transfer] = {}
    for ids in _portions(named):
        legs: dict[str, list[Posting]] = {}
        for row in connection.execute(select(postings).where(postings.c.transfer.in_(ids)).order_by(postings.c.id)):
            legs.setdefault(row.transfer, []).append(Posting(row.owner, row.asset, row.amount))
        for row in connection.execute(select(transfers).where(transfers.c.id.in_(ids))):
            found[row.id] = Transfer(row.id, tuple(legs[row.id]), row.reason)
    return found


def _record(row: Any) -> HoldRecord:
    return HoldRecord(
        hold=Hold(row.id, row.owner, row.asset, row.amount, row.deadline_ns),
        made_ns=row.made_ns,
        state=State(row.state),
        used=row.used,
        shortfall=row.shortfall,
        to=row.to,
        ended_ns=row.ended_ns,
    )


def _row(record: HoldRecord) -> dict[str, Any]:
    became = {name: getattr(record, name) for name in ("made_ns", *_BECAME)}
    return {**msgspec.structs.asdict(record.hold), **became, "state": record.state.value}


def _portions(names: Sequence[_Name]) -> Iterator[Sequence[_Name]]:
    return (names[at : at + ASKED_MAX] for at in range(0, len(names), ASKED_MAX))


def _complaints() -> dict[str, Select[Any]]:
    """Each finds what must not be there."""
    of, moved = balances.c, postings.c
    key = and_(moved.owner == of.owner, moved.asset == of.asset)
    system = func.substr(of.owner, 1, len(SYSTEM)) == SYSTEM
    total = func.coalesce(select(func.sum(moved.amount)).where(key).scalar_subquery(), 0)
    open_ = select(func.sum(_holds.c.amount)).where(_OPEN, _holds.c.owner == of.owner, _holds.c.asset == of.asset)
    rests = exchange_tables.orders.c
    resting = select(func.sum(rests.reserve)).where(
        exchange_tables.active, rests.wallet == of.owner, rests.gives == of.asset
    )
    held = func.coalesce(open_.scalar_subquery(), 0) + func.coalesce(resting.scalar_subquery(), 0)
    # Who had nothing, received and gave it on in one batch still has no row.
    orphan = _unbalanced(moved.owner, moved.amount, moved.asset).outerjoin(balances, key).where(of.owner.is_(None))
    unheld = select(_holds.c.id).outerjoin(balances, and_(_holds.c.owner == of.owner, _holds.c.asset == of.asset))
    return {
        "balances do not sum to zero": _unbalanced(of.asset, of.total),
        "a transfer does not net to zero": _unbalanced(moved.transfer, moved.amount, moved.asset),
        "a balance is not the sum of its postings": select(of.owner, of.asset, of.total, total).where(
            of.total != total
        ),
        "postings of no balance": orphan,
        "held is not the sum of open holds and resting orders": select(of.owner, of.asset, of.held, held).where(
            of.held != held
        ),
        "an open hold of no balance": unheld.where(_OPEN, of.owner.is_(None)),
        "a balance is below zero": select(of.owner, of.asset, of.total, of.held).where(
            or_(of.held < 0, and_(~system, or_(of.total < 0, of.held > of.total)))
        ),
    }


def _unbalanced(by: Column[Any], amount: Column[Any], *more: Column[Any]) -> Select[Any]:
    net = func.sum(amount)
    return select(by, *more, net).group_by(by, *more).having(net != 0)


_COMPLAINTS = _complaints()
