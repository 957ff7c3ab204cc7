"""A store of each sort, empty: in memory, a real SQLite file, a real PostgreSQL."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openoutcry.market.series import Series
from openoutcry.stores.memory import MemorySeries
from openoutcry.stores.sql import SqlSeries, sqlite_url

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
