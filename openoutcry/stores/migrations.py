"""Schemas, version by version: numbered functions, each run once, in one transaction with its number."""

from collections.abc import Callable, Sequence

from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert, inspect, select, text, update

from openoutcry.errors import Unavailable
from openoutcry.stores import tables

# Any number that nobody else locks in the same PostgreSQL: processes that start together migrate one after another.
LOCK = 7_022_776

Step = Callable[[Connection], None]


class Schema:
    """Tables that change together. `version` names the table that holds their version; a database may hold several."""

    def __init__(self, version: str, steps: Sequence[Step]) -> None:
        self._own = MetaData()
        self._version = Table(version, self._own, Column("version", Integer, nullable=False))
        self._steps = tuple(steps)

    def migrate(self, connection: Connection) -> int:
        """Bring the database to the newest version. Returns it. Raises Unavailable where a newer openoutcry wrote it."""
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        self._own.create_all(connection)
        newest = len(self._steps)
        found = connection.scalar(select(self._version.c.version))
        if found is None:
            connection.execute(insert(self._version).values(version=0))
            found = 0
        self._refuse_newer(found)
        for number, step in enumerate(self._steps[found:], start=found + 1):
            step(connection)
            connection.execute(update(self._version).values(version=number))
        return newest

    def check(self, connection: Connection) -> None:
        """Look at the version and change nothing. Raises Unavailable unless it is the newest."""
        found = None
        if inspect(connection).has_table(self._version.name):
            found = connection.scalar(select(self._version.c.version))
        if not found:
            raise Unavailable("store", "the database holds nothing of openoutcry")
        self._refuse_newer(found)
        if found < len(self._steps):
            raise Unavailable(
                "store",
                f"the data was written by an older openoutcry (schema {found}, ours {len(self._steps)}): "
                "start the server on it once",
            )

    def _refuse_newer(self, found: int) -> None:
        newest = len(self._steps)
        if found > newest:
            raise Unavailable("store", f"the data was written by a newer openoutcry (schema {found}, ours {newest})")


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


def _3_summaries_checks_tasks(connection: Connection) -> None:
    """What is stored of each series of candles is counted this once; from now on each write keeps it."""
    tables.metadata.create_all(connection)
    connection.execute(
        text(
            "INSERT INTO summaries (series, first_ns, last_ns, rows) "
            "SELECT series, min(open_ns), max(open_ns), count(*) FROM candles GROUP BY series"
        )
    )


MARKET = Schema("schema_version", (_1_market_data, _2_prices_beside_interest, _3_summaries_checks_tasks))
