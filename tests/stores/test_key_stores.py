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
from sqlalchemy import URL, create_engine, inspect, make_url, text

from openoutcry.accounts.store import REVOKED_KEPT_MAX, REVOKED_OF_ACCOUNT_KEPT_MAX, KeyRecord, KeyStore
from openoutcry.errors import TooLarge, Unavailable
from openoutcry.stores.folder import DataFolder
from openoutcry.stores.keys import MemoryKeys, SqlKeys, pepper, private_file, token_secret
from openoutcry.stores.sql import SqlSeries, sqlite_url

Open = Callable[[], SqlKeys]

# Makes the file, its tables and the pepper at the same moment as others do, and one key.
BEGIN = """
import sys
from pathlib import Path
from openoutcry.accounts.store import KeyRecord
from openoutcry.stores.keys import SqlKeys, pepper, private_file, token_secret
from openoutcry.stores.sql import sqlite_url
folder, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
store = SqlKeys(sqlite_url(private_file(folder / "accounts.sqlite3")))
store.add(name.encode(), KeyRecord(name, name, "oo-", "", frozenset({"market"}), 1))
store.close()
print(pepper(folder).decode())
"""


def a_key(
    id_: str,
    created_ns: int = 1,
    revoked_ns: int | None = None,
    account: str | None = None,
    expires_ns: int | None = None,
) -> KeyRecord:
    scopes = frozenset({"ai", "trade"})
    return KeyRecord(id_, f"key {id_}", "oo-Ab-_", "wxyz", scopes, created_ns, revoked_ns, account, expires_ns)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Where an empty database is."""
    if request.param == "sqlite":
        return sqlite_url(private_file(tmp_path / "accounts.sqlite3"))
    return make_url(request.getfixturevalue("postgres_url"))


@pytest.fixture
def opened(database_url: URL) -> Iterator[Open]:
    """Opens the same database, once more each time, as another process would."""
    stores: list[SqlKeys] = []

    def again() -> SqlKeys:
        stores.append(SqlKeys(database_url))
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


def test_what_changed_since_is_told_with_a_number_that_grows(keys: KeyStore) -> None:
    start, none = keys.changed(-1)
    assert none == {}
    last, changes = start, 0
    steps: list[tuple[Callable[[], None], str]] = [
        (lambda: keys.add(b"a", a_key("a", 2)), "a"),
        (lambda: keys.add(b"b", a_key("b", 1)), "b"),
        (lambda: keys.revoke("a", 4), "a"),
        (lambda: keys.revoke("b", 3), "b"),  # a clock may be set back
        (lambda: keys.add(b"c", a_key("c", 5)), "c"),
    ]
    for change, id_ in steps:
        change()
        number, changed = keys.changed(last)
        assert [record.id for record in changed.values()] == [id_]
        assert number > last
        last, changes = number, changes + 1
        assert keys.changed(last) == (last, {})
    keys.revoke("a", 6)
    keys.used({"b": 9})
    assert keys.changed(last) == (last, {}), "it was revoked before, and a use is no change"
    assert keys.changed(start) == keys.changed(-1) == (last, keys.all())


def test_uses_are_kept_the_latest_of_each(keys: KeyStore) -> None:
    keys.add(b"a", a_key("a"))
    keys.add(b"b", a_key("b"))
    keys.used({"a": 5, "nobody": 5})
    keys.used({"b": 7, "a": 4})
    assert [record.used_ns for record in keys.all().values()] == [5, 7]
    keys.used({})


def test_the_keys_of_an_account_are_its_own(keys: KeyStore) -> None:
    young, old = a_key("y", 3, account="a", expires_ns=2**62), a_key("o", 1, revoked_ns=2, account="a")
    for digest, record in ((b"y", young), (b"o", old), (b"b", a_key("b", account="b")), (b"n", a_key("n"))):
        keys.add(digest, record)
    assert keys.of("a") == [old, young]
    assert keys.of("nobody") == []


def test_an_account_has_so_many_that_may_be_used(keys: KeyStore) -> None:
    keys.add(b"r", a_key("r", revoked_ns=1, account="a"), 1)
    keys.add(b"e", a_key("e", expires_ns=10, account="a"), 1)
    keys.add(b"o", a_key("o", account="b"), 1)
    keys.add(b"n", a_key("n"))
    with pytest.raises(TooLarge, match="at most 1 keys"):
        keys.add(b"x", a_key("x", 9, account="a"), 1)
    keys.add(b"x", a_key("x", 10, account="a"), 1)
    assert [record.id for record in keys.of("a")] == ["e", "r", "x"]


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


def test_an_account_forgets_its_own_revoked_keys_alone(keys: KeyStore) -> None:
    keys.add(b"nobody's", a_key("nobody's", 0, revoked_ns=1))
    keys.add(b"other's", a_key("other's", 0, revoked_ns=1, account="b"))
    for n in range(REVOKED_OF_ACCOUNT_KEPT_MAX + 2):
        keys.add(f"{n}".encode(), a_key(f"{n}", 1 + n, revoked_ns=100 + n, account="a"))
    assert [record.id for record in keys.of("a")] == [f"{n}" for n in range(2, REVOKED_OF_ACCOUNT_KEPT_MAX + 2)]
    assert [record.id for record in keys.all().values()][:2] == ["nobody's", "other's"]


def test_two_have_it_open_and_see_what_the_other_did(opened: Open) -> None:
    one, other = opened(), opened()
    one.add(b"a", a_key("a"))
    assert other.all() == {b"a": a_key("a")}
    change, _ = one.changed(-1)
    other.revoke("a", 5)
    assert one.changed(change) == (change + 1, {b"a": a_key("a", revoked_ns=5)})
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


def test_a_sixth_key_is_not_made_however_many_try_at_once(opened: Open) -> None:
    stores, together = [opened() for _ in range(4)], Barrier(4)
    for n in range(3):
        stores[0].add(f"{n}".encode(), a_key(f"{n}", account="a"), 5)

    def add(which: int) -> bool:
        together.wait()
        try:
            stores[which].add(f"new {which}".encode(), a_key(f"new {which}", account="a"), 5)
        except TooLarge:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(add, range(4))) == [False, False, True, True]
    assert len(stores[0].of("a")) == 5
    assert stores[0].changed(-1)[0] == 5, "each change has a number of its own"


def test_keys_of_version_1_are_taken_over(database_url: URL) -> None:
    # What version 1 made, and a key and a revoked one of it.
    kind = "BYTEA" if database_url.get_backend_name() == "postgresql" else "BLOB"
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE accounts_version (version INTEGER NOT NULL)",
            "INSERT INTO accounts_version VALUES (1)",
            f"""CREATE TABLE keys (id TEXT NOT NULL PRIMARY KEY, digest {kind} NOT NULL UNIQUE, name TEXT NOT NULL,
                prefix TEXT NOT NULL, last TEXT NOT NULL, scopes TEXT NOT NULL, created_ns BIGINT NOT NULL,
                revoked_ns BIGINT)""",
        ):
            connection.execute(text(statement))
        for id_, revoked_ns in (("a", None), ("b", 9)):
            connection.execute(
                text("INSERT INTO keys VALUES (:id, :digest, :name, 'oo-Ab-_', 'wxyz', 'ai,trade', 1, :revoked_ns)"),
                {"id": id_, "digest": id_.encode(), "name": f"key {id_}", "revoked_ns": revoked_ns},
            )
    engine.dispose()
    for _ in range(2):
        with closing(SqlKeys(database_url)) as store:
            assert store.changed(-1) == (0, {b"a": a_key("a"), b"b": a_key("b", revoked_ns=9)})
    with closing(SqlKeys(database_url)) as store:
        store.revoke("a", 5)
        assert store.changed(0) == (1, {b"a": a_key("a", revoked_ns=5)})
        names = {index["name"] for index in inspect(store._engine).get_indexes("keys")}
    assert names >= {"keys_of_account", "keys_changed"}


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
    assert token_secret(tmp_path, lambda size: b"\x09" * size) == b"09" * 32
    assert (tmp_path / "token-secret").read_bytes() == b"09" * 32 + b"\n"
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
    with pytest.raises(Unavailable, match=r"written by a newer openoutcry \(schema 99, ours 2\)"):
        opened()


def test_a_database_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="the keys cannot be reached"):
        SqlKeys("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2")
