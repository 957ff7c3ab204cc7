"""An engine for what must not be lost: keys, analyses, the ledger. Series of market data have their own, which trades that for speed."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from openoutcry.errors import Unavailable
from openoutcry.stores.folder import one_at_a_time
from openoutcry.stores.migrations import Schema
from openoutcry.stores.sql import reason_of

CONNECTIONS_MAX = 2


def opened(url: URL, busy_s: float, schema: Schema, what: str) -> Engine:
    """SQLite (a writer of another process or engine is waited for, `busy_s` at most) or PostgreSQL, with the tables of `schema`.

    Who will write says so: `engine.execution_options(writing=True)`. Raises Unavailable: `what` cannot be reached.
    """
    with refusing(what):
        engine = _durable(url, busy_s)
        try:
            with _alone(url), engine.execution_options(writing=True).begin() as connection:
                schema.migrate(connection)
        except BaseException:  # whatever it was goes on, but the connections must not stay open behind it
            engine.dispose()
            raise
    return engine


def _durable(url: URL, busy_s: float) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_size=CONNECTIONS_MAX, pool_pre_ping=True)
    engine = create_engine(url, pool_size=CONNECTIONS_MAX, connect_args={"timeout": busy_s, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # Transactions are begun below: the driver itself would leave the statements of a migration outside of one.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # A key that was revoked stays revoked after a power cut.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Who will write takes the lock first: a reader that turns into a writer may be refused without a wait.
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _alone(url: URL) -> AbstractContextManager[None]:
    """Whoever is inside is alone with a database that may be new."""
    # SQLite does not wait for the other when both turn a new file into WAL: one is told "locked" at once.
    file = url.database if url.get_backend_name() == "sqlite" else None
    return one_at_a_time(Path(file).parent) if file else nullcontext()


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Whatever the database says becomes Unavailable: `what` cannot be reached."""
    try:
        yield
    except SQLAlchemyError as e:
        raise Unavailable("store", f"{what} cannot be reached: {reason_of(e)}") from e
