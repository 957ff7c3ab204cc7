"""The tables of accounts and keys, version by version: one file (or PostgreSQL), opened by both stores."""

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    inspect,
    text,
)

from openoutcry.stores.migrations import Schema

# As migrations.LOCK: writers come one after another in PostgreSQL too, so that what one counts another cannot change, and
# numbers of changes are committed in their order.
LOCK = 7_022_777

metadata = MetaData()
keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("last", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("revoked_ns", BigInteger),
    Column("account", Text),
    Column("expires_ns", BigInteger),
    Column("used_ns", BigInteger),
    Column("change", BigInteger, nullable=False, server_default="0"),
)
_keys_of = Index("keys_of_account", keys.c.account)
_keys_changed = Index("keys_changed", keys.c.change)
accounts = Table(
    "accounts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("email", Text, nullable=False),
    Column("email_key", Text, nullable=False, unique=True),
    Column("display_name", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("password", Text, nullable=False),
    Column("version", Integer, nullable=False),
)


def alone(connection: Connection) -> None:
    """Wait until no other writer of these tables is left, in this transaction."""
    # SQLite: whoever will write has begun with the lock.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def _1_keys(connection: Connection) -> None:
    # Later versions change these tables by statements of their own, never by editing what version 1 made.
    metadata.create_all(connection)


def _2_accounts(connection: Connection) -> None:
    """Accounts, whose a key is, its end, its last use, and the number of its last change."""
    metadata.create_all(connection)
    there = {column["name"] for column in inspect(connection).get_columns(keys.name)}
    # A database that begins today has them from version 1 on.
    for name, kind in (
        ("account", "TEXT"),
        ("expires_ns", "BIGINT"),
        ("used_ns", "BIGINT"),
        ("change", "BIGINT NOT NULL DEFAULT 0"),
    ):
        if name not in there:
            connection.execute(text(f"ALTER TABLE keys ADD COLUMN {name} {kind}"))
    for index in (_keys_of, _keys_changed):
        index.create(connection, checkfirst=True)


ACCOUNTS = Schema("accounts_version", (_1_keys, _2_accounts))
