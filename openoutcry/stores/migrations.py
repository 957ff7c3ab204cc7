"""The schema of market data, version by version: numbered functions, each run once, in one transaction with its number."""

from collections.abc import Callable

from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert, inspect, select, text, update

from openoutcry.errors import Unavailable
from openoutcry.stores import tables

_own = MetaData()
_version = Table("schema_version", _own, Column("version", Integer, nullable=False))


def migrate(connection: Connection) -> int:
    """Bring the database to the newest version. Returns it. Raises Unavailable where a newer openoutcry wrote it."""
    _own.create_all(connection)
    found = connection.scalar(select(_version.c.version))
    if found is None:
        connection.execute(insert(_version).values(version=0))
        found = 0
    if found > len(MIGRATIONS):
        raise Unavailable(
            "store", f"the data was written by a newer openoutcry (schema {found}, ours {len(MIGRATIONS)})"
        )
    for number, step in enumerate(MIGRATIONS[found:], start=found + 1):
        step(connection)
        connection.execute(update(_version).values(version=number))
    return len(MIGRATIONS)


def _1_market_data(connection: Connection) -> None:
    # Later versions change these tables by statements of their own, never by editing what version 1 made.
    tables.metadata.create_all(connection)


def _2_prices_beside_interest(connection: Connection) -> None:
    """Prices and values of open interest, predicted funding, liquidation levels: new columns may be empty."""
    tables.metadata.create_all(connection)
    known = inspect(connection)
    for table in (tables.interest, tables.interest_bars, tables.funding_bars):
        there = {column["name"] for column in known.get_columns(table.name)}
        for column in table.columns:
            # A database that begins today has them from version 1 on.
            if column.name not in there:
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} TEXT"))


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_1_market_data, _2_prices_beside_interest)
