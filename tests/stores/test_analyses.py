"""Every store of analyses keeps its word: in memory, on SQLite, on PostgreSQL."""

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openoutcry.errors import Unavailable
from openoutcry.llm.store import Analysis, AnalysisStore, Status
from openoutcry.stores.analyses import MemoryAnalyses, SqlAnalyses
from openoutcry.stores.sql import SqlSeries, sqlite_url

Open = Callable[[], SqlAnalyses]

KEPT_MAX = 3


def an_analysis(instrument: str = "binance:BTCUSDT", **more: Any) -> Analysis:
    return Analysis(
        **{"instrument": instrument, "symbol": "BTC", "interval_s": 3_600, "prompt": "why?", "created_ns": 5, **more}
    )


def finished(record: Analysis) -> Analysis:
    return msgspec.structs.replace(
        record, status=Status.COMPLETED, analysis="up — or down ✓", model="m", provider="openai", candles_used=150,
        prompt_snapshot="x" * 20_000, tokens_in=2**40, tokens_out=0, completed_ns=2**62, requeued=True,
    )  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same database, once more each time, as another process would."""
    sqlite = request.param == "sqlite"
    url = sqlite_url(tmp_path / "market.sqlite3") if sqlite else request.getfixturevalue("postgres_url")
    stores: list[SqlAnalyses] = []

    def again() -> SqlAnalyses:
        stores.append(SqlAnalyses(url, kept_max=KEPT_MAX))
        return stores[-1]

    yield again
    for each in stores:
        each.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def analyses(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnalysisStore]:
    """An empty store that keeps KEPT_MAX finished ones."""
    made: MemoryAnalyses | SqlAnalyses
    if request.param == "memory":
        made = MemoryAnalyses(kept_max=KEPT_MAX)
    else:
        sqlite = request.param == "sqlite"
        url = sqlite_url(tmp_path / "a.sqlite3") if sqlite else request.getfixturevalue("postgres_url")
        made = SqlAnalyses(url, kept_max=KEPT_MAX)
    yield made
    made.close()


def test_what_is_added_gets_an_id_and_is_there(analyses: AnalysisStore) -> None:
    record = analyses.add(an_analysis(user="me", error="none yet"))
    assert record == an_analysis(user="me", error="none yet", id=record.id)
    assert record.id > 0
    assert analyses.get(record.id) == record
    assert analyses.get(record.id + 1) is None


def test_what_is_known_later_takes_its_place(analyses: AnalysisStore) -> None:
    record, other = analyses.add(an_analysis()), analyses.add(an_analysis())
    analyses.update(finished(record))
    assert analyses.get(record.id) == finished(record)
    assert analyses.get(other.id) == other


def test_one_that_is_gone_is_not_brought_back(analyses: AnalysisStore) -> None:
    analyses.update(an_analysis(id=99))
    assert analyses.get(99) is None
    assert analyses.list(None, 10) == []


def test_the_newest_are_listed_first_without_their_snapshots(analyses: AnalysisStore) -> None:
    first, second, third = (analyses.add(an_analysis(name)) for name in ("v:A", "v:B", "v:A"))
    analyses.update(finished(first))
    listed = msgspec.structs.replace(finished(first), prompt_snapshot=None)
    assert analyses.list(None, 10) == [third, second, listed]
    assert analyses.list(None, 1) == [third]
    assert analyses.list("v:A", 10) == [third, listed]
    assert analyses.list("v:C", 10) == []


def test_those_that_run_are_told_oldest_first(analyses: AnalysisStore) -> None:
    records = [analyses.add(an_analysis(prompt=f"{n}")) for n in range(4)]
    analyses.update(finished(records[1]))
    analyses.update(msgspec.structs.replace(records[2], status=Status.FAILED, error="no"))
    assert analyses.running() == [records[0], records[3]]


def test_the_oldest_finished_make_room_and_those_that_run_stay(analyses: AnalysisStore) -> None:
    records = [analyses.add(an_analysis()) for _ in range(KEPT_MAX + 3)]
    for record in records[1:]:
        analyses.update(finished(record))
    last = analyses.add(an_analysis())
    kept = [record.id for record in analyses.list(None, 100)]
    assert kept == [last.id, *(record.id for record in reversed(records[-KEPT_MAX:])), records[0].id]


def test_ids_go_up_and_are_never_used_again_not_even_after_all_are_gone(opened: Open) -> None:
    store = opened()
    ids = [store.add(an_analysis()).id for _ in range(3)]
    with store._writer.begin() as connection:
        connection.exec_driver_sql("DELETE FROM analyses")
    ids.append(store.add(an_analysis()).id)
    with store._writer.begin() as connection:
        connection.exec_driver_sql("DELETE FROM analyses")
    store.close()
    store.close()
    ids.append(opened().add(an_analysis()).id)
    assert ids == sorted(set(ids))


def test_what_was_kept_is_there_after_a_restart(opened: Open) -> None:
    store = opened()
    record = store.add(an_analysis())
    store.close()
    assert opened().running() == [record]


def test_many_that_are_added_at_once_each_get_an_id(opened: Open) -> None:
    one, other = opened(), opened()
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: (one, other)[n % 2].add(an_analysis(prompt=f"{n}")), range(40)))
    assert len({record.id for record in made}) == 40
    assert {record.prompt for record in one.list(None, 100)} == {f"{n}" for n in range(40)}


def test_analyses_and_series_live_in_one_database_each_with_its_version(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for url in (sqlite_url(tmp_path / "m.sqlite3"), request.getfixturevalue("postgres_url")):
        for _ in range(2):
            series, store = SqlSeries(url), SqlAnalyses(url)
            store.add(an_analysis())
            series.close()
            store.close()


def test_who_writes_the_series_is_waited_for_but_not_by_readers(tmp_path: Path) -> None:
    file = tmp_path / "market.sqlite3"
    store = SqlAnalyses(sqlite_url(file))
    first = store.add(an_analysis())
    with closing(sqlite3.connect(file, isolation_level=None)) as other, ThreadPoolExecutor(1) as threads:
        other.execute("BEGIN IMMEDIATE")
        added = threads.submit(store.add, an_analysis())
        while not store._writing.locked():
            assert not added.done()
        assert store.list(None, 10) == [first]
        other.execute("COMMIT")
        assert added.result(30).id == first.id + 1
    store.close()


def test_a_writer_that_is_locked_out_is_unavailable_while_readers_go_on(tmp_path: Path) -> None:
    file = tmp_path / "market.sqlite3"
    store = SqlAnalyses(sqlite_url(file), busy_s=0.05)
    record = store.add(an_analysis())
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="the analyses cannot be reached: database is locked"):
            store.add(an_analysis())
        assert store.get(record.id) == record
        other.execute("ROLLBACK")
    store.close()


def test_analyses_of_a_newer_version_are_refused_and_left_alone(opened: Open) -> None:
    store = opened()
    with store._writer.begin() as connection:
        connection.exec_driver_sql("UPDATE analyses_version SET version = 99")
    with pytest.raises(Unavailable, match=r"written by a newer openoutcry \(schema 99, ours 1\)"):
        opened()


def test_a_database_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="the analyses cannot be reached"):
        SqlAnalyses("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2")
