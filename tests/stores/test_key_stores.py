"""Every key store keeps its word: in memory, on SQLite, on PostgreSQL."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from openoutcry.accounts.store import REVOKED_KEPT_MAX, KeyRecord, KeyStore
from openoutcry.errors import Unavailable
from openoutcry.stores.folder import DataFolder
from openoutcry.stores.keys import MemoryKeys, SqlKeys, pepper, private_file
from openoutcry.stores.sql import SqlSeries, sqlite_url

Open = Callable[[], SqlKeys]

# Makes the file, its tables and the pepper at the same moment as others do, and one key.
BEGIN = """
import sys
from pathlib import Path
from openoutcry.accounts.store import KeyRecord
from openoutcry.stores.keys import SqlKeys, pepper, private_file
from openoutcry.stores.sql import sqlite_url
folder, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
store = SqlKeys(sqlite_url(private_file(folder / "accounts.sqlite3")))
store.add(name.encode(), KeyRecord(name, name, "oo-", "", frozenset({"market"}), 1))
store.close()
print(pepper(folder).decode())
"""


def a_key(id_: str, created_ns: int = 1, revoked_ns: int | None = None) -> KeyRecord:
    return KeyRecord(id_, f"key {id_}", "oo-Ab-_", "wxyz", frozenset({"ai", "trade"}), created_ns, revoked_ns)


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same database, once more each time, as another process would."""
    sqlite = request.param == "sqlite"
    url = sqlite_url(private_file(tmp_path / "accounts.sqlite3")) if sqlite else request.getfixturevalue("postgres_url")
    stores: list[SqlKeys] = []

    def again() -> SqlKeys:
        stores.append(SqlKeys(url))
        return stores[-1]

    yield again
    for each in stores:
        each.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyStore]:
    """An empty store."""
    if request.param == "memory":
        yield MemoryKeys()
        return
    sqlite = request.param == "sqlite"
    store = SqlKeys(sqlite_url(tmp_path / "a.sqlite3") if sqlite else request.getfixturevalue("postgres_url"))
    yield store
    store.close()


def test_what_is_added_is_there_oldest_first(keys: KeyStore) -> None:
    assert keys.all() == {}
    young, old = a_key("y", 2**62), a_key("o", 1)
    keys.add(bytes(range(32)), young)
    keys.add(b"\xff" * 32, old)
    assert list(keys.all().items()) == [(b"\xff" * 32, old), (bytes(range(32)), young)]


def test_a_key_is_revoked_once(keys: KeyStore) -> None:
    keys.add(b"a", a_key("a"))
    keys.add(b"b", a_key("b"))
    keys.revoke("a", 7)
    keys.revoke("a", 9)
    keys.revoke("nothing", 9)
    assert keys.all() == {b"a": a_key("a", revoked_ns=7), b"b": a_key("b")}


def test_the_stamp_moves_with_every_change_and_only_then(keys: KeyStore) -> None:
    stamps = [keys.stamp()]
    changes: list[Callable[[], None]] = [
        lambda: keys.add(b"a", a_key("a", 2)),
        lambda: keys.add(b"b", a_key("b", 1)),
        lambda: keys.revoke("a", 4),
        lambda: keys.revoke("b", 3),  # a clock may be set back
        lambda: keys.add(b"c", a_key("c", 5)),
    ]
    for change in changes:
        change()
        assert keys.stamp() == keys.stamp()
        stamps.append(keys.stamp())
    keys.revoke("a", 6)
    assert keys.stamp() == stamps[-1], "it was revoked before"
    assert len(set(stamps)) == len(stamps)


def test_of_the_revoked_the_last_ones_are_kept_and_of_the_others_all(keys: KeyStore) -> None:
    keys.add(b"live", a_key("live", 0))
    for n in range(REVOKED_KEPT_MAX + 2):
        keys.add(f"{n}".encode(), a_key(f"{n}", 1 + n, revoked_ns=10_000 - n))
    keys.add(b"new", a_key("new", 20_000))
    assert [record.id for record in keys.all().values()] == [
        "live",
        *(f"{n}" for n in range(REVOKED_KEPT_MAX)),
        "new",
    ]


def test_two_have_it_open_and_see_what_the_other_did(opened: Open) -> None:
    one, other = opened(), opened()
    one.add(b"a", a_key("a"))
    assert other.all() == {b"a": a_key("a")}
    stamp = one.stamp()
    other.revoke("a", 5)
    assert one.stamp() != stamp
    assert one.all() == {b"a": a_key("a", revoked_ns=5)}


def test_what_was_kept_is_there_after_a_restart(opened: Open) -> None:
    first = opened()
    first.add(b"a", a_key("a"))
    first.close()
    first.close()
    assert opened().all() == {b"a": a_key("a")}


def test_one_id_or_digest_is_never_given_twice(opened: Open) -> None:
    store = opened()
    store.add(b"a", a_key("a"))
    for digest, id_ in ((b"a", "b"), (b"b", "a")):
        with pytest.raises(Unavailable, match="cannot be reached"):
            store.add(digest, a_key(id_))
    assert store.all() == {b"a": a_key("a")}


def test_keys_and_series_live_in_one_postgresql_each_with_its_version(postgres_url: str) -> None:
    for _ in range(2):
        series, store = SqlSeries(postgres_url), SqlKeys(postgres_url)
        series.close()
        store.close()


# -- files


def test_all_files_are_for_their_owner_alone_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = tmp_path / "data"
        store = SqlKeys(sqlite_url(private_file(folder / "accounts.sqlite3")))
        store.add(b"a", a_key("a"))
        pepper(folder)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = ("accounts.sqlite3", "accounts.sqlite3-wal", "accounts.sqlite3-shm", "pepper")
    assert modes == dict.fromkeys(names, 0o600)


def test_the_file_is_safe_against_a_power_cut(tmp_path: Path) -> None:
    store = SqlKeys(sqlite_url(tmp_path / "a.sqlite3"))
    with store._engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    store.close()


def test_it_opens_beside_a_process_that_has_the_folder(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    store = SqlKeys(sqlite_url(private_file(tmp_path / "accounts.sqlite3")))
    store.add(b"a", a_key("a"))
    store.close()
    folder.close()


def test_processes_that_begin_together_make_one_database_and_one_pepper(tmp_path: Path) -> None:
    names = [f"p{n}" for n in range(6)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    told = [child.communicate("go\n") for child in children]
    assert [said[1] for said in told] == [""] * len(names)
    assert {said[0].strip() for said in told} == {pepper(tmp_path).decode()}
    store = SqlKeys(sqlite_url(tmp_path / "accounts.sqlite3"))
    assert sorted(record.id for record in store.all().values()) == names
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir() if "sqlite3-" not in path.name) == [
        "accounts.sqlite3",
        "pepper",
    ]


def test_who_begins_together_waits_for_the_other_and_has_the_same(tmp_path: Path) -> None:
    def begin(folder: Path, together: Barrier) -> bytes:
        together.wait()
        secret = pepper(folder)
        SqlKeys(sqlite_url(private_file(folder / "accounts.sqlite3"))).close()
        return secret

    with ThreadPoolExecutor(8) as threads:
        for n in range(10):
            folder, together = tmp_path / f"{n}", Barrier(8)
            folder.mkdir()
            begun = [threads.submit(begin, folder, together) for _ in range(8)]
            assert len({each.result() for each in begun}) == 1


def test_the_pepper_is_made_once_of_the_chance_handed_in(tmp_path: Path) -> None:
    assert pepper(tmp_path, lambda size: b"\x07" * size) == b"07" * 32
    assert pepper(tmp_path, lambda size: b"\x08" * size) == b"07" * 32
    assert (tmp_path / "pepper").read_bytes() == b"07" * 32 + b"\n"


def test_a_damaged_or_unreadable_pepper_is_unavailable_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_bytes(b"short\n")
    with pytest.raises(Unavailable, match=r"damaged.*make all keys anew"):
        pepper(tmp_path)
    assert (tmp_path / "pepper").read_bytes() == b"short\n"
    with pytest.raises(Unavailable, match="cannot be used"):
        pepper(tmp_path / "pepper")


# -- what only a database can suffer


def test_a_writer_that_is_locked_out_is_unavailable_while_readers_go_on(tmp_path: Path) -> None:
    file = tmp_path / "a.sqlite3"
    store = SqlKeys(sqlite_url(file), busy_s=0.05)
    store.add(b"a", a_key("a"))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="the keys cannot be reached: database is locked"):
            store.revoke("a", 5)
        assert store.all() == {b"a": a_key("a")}
        other.execute("ROLLBACK")
    store.revoke("a", 5)
    assert store.all() == {b"a": a_key("a", revoked_ns=5)}
    store.close()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite3").write_bytes(b"this is a picture of a cat" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        SqlKeys(sqlite_url(tmp_path / "a.sqlite3"))


def test_keys_of_a_newer_version_are_refused_and_left_alone(opened: Open) -> None:
    store = opened()
    with store._writer.begin() as connection:
        connection.exec_driver_sql("UPDATE accounts_version SET version = 99")
    with pytest.raises(Unavailable, match=r"written by a newer openoutcry \(schema 99, ours 1\)"):
        opened()


def test_a_database_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="the keys cannot be reached"):
        SqlKeys("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2")
