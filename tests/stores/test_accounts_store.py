"""Every account store keeps its word: in memory, on SQLite, on PostgreSQL."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import msgspec
import pytest
from sqlalchemy import URL, make_url

from openoutcry.accounts.store import Account, AccountRecord, AccountStore
from openoutcry.errors import Conflict, TooLarge, Unavailable
from openoutcry.stores.accounts import MemoryAccounts, SqlAccounts
from openoutcry.stores.keys import SqlKeys, private_file
from openoutcry.stores.sql import sqlite_url

MOST = 100

Open = Callable[[], SqlAccounts]


def a_record(name: str, created_ns: int = 1) -> AccountRecord:
    account = Account(
        id=f"id {name}", email=f"{name.upper()}@example.com", display_name="Ä", tier="standard", created_ns=created_ns
    )
    return AccountRecord(account=account, email_key=f"{name}@example.com", password="$argon2id$…")


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Where an empty database is."""
    if request.param == "sqlite":
        return sqlite_url(private_file(tmp_path / "accounts.sqlite3"))
    return make_url(request.getfixturevalue("postgres_url"))


@pytest.fixture
def opened(database_url: URL) -> Iterator[Open]:
    """Opens the same database, once more each time, as another process would."""
    stores: list[SqlAccounts] = []

    def again() -> SqlAccounts:
        stores.append(SqlAccounts(database_url))
        return stores[-1]

    yield again
    for each in stores:
        each.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AccountStore]:
    """An empty store."""
    if request.param == "memory":
        yield MemoryAccounts()
        return
    sqlite = request.param == "sqlite"
    with closing(
        SqlAccounts(sqlite_url(tmp_path / "a.sqlite3") if sqlite else request.getfixturevalue("postgres_url"))
    ) as made:
        yield made


def test_what_is_added_is_found_by_id_and_by_e_mail(store: AccountStore) -> None:
    record = a_record("a", 2**62)
    store.add(record, MOST)
    store.add(a_record("b"), MOST)
    assert store.get("id a") == store.find("a@example.com") == record
    assert store.get("a@example.com") is None
    assert store.find("A@example.com") is None, "whoever asks has made it comparable"


def test_an_e_mail_is_kept_once(store: AccountStore) -> None:
    store.add(a_record("a"), MOST)
    other = msgspec.structs.replace(a_record("b"), email_key="a@example.com")
    with pytest.raises(Conflict):
        store.add(other, MOST)
    assert store.get("id b") is None


def test_there_is_a_most_of_them(store: AccountStore) -> None:
    store.add(a_record("a"), 2)
    store.add(a_record("b"), 2)
    with pytest.raises(TooLarge, match="2 accounts"):
        store.add(a_record("c"), 2)
    with pytest.raises(Conflict):
        store.add(a_record("a"), 2)


def test_they_are_listed_by_e_mail_from_where_one_was(store: AccountStore) -> None:
    for name in "cadb":
        store.add(a_record(name), MOST)
    assert [each.id for each in store.list(3, None)] == ["id a", "id b", "id c"]
    assert store.list(3, "b@example.com") == [a_record("c").account, a_record("d").account]
    assert store.list(3, "d@example.com") == []


def test_a_tier_and_a_password_change_and_nothing_else(store: AccountStore) -> None:
    store.add(a_record("a"), MOST)
    store.add(a_record("b"), MOST)
    store.set_tier("id a", "frozen")
    frozen = msgspec.structs.replace(a_record("a").account, tier="frozen")
    assert store.get("id a") == msgspec.structs.replace(a_record("a"), account=frozen)
    store.set_password("id a", "new")
    store.set_password("id a", "newer")
    assert store.get("id a") == msgspec.structs.replace(a_record("a"), account=frozen, password="newer", version=3)
    store.set_tier("nobody", "frozen")
    store.set_password("nobody", "new")
    assert store.get("id b") == a_record("b")


def test_a_hash_is_replaced_only_where_it_is_still_that_one(store: AccountStore) -> None:
    store.add(a_record("a"), MOST)
    store.rehash("id a", "$argon2id$…", "dearer")
    assert store.get("id a") == msgspec.structs.replace(a_record("a"), password="dearer")
    store.set_password("id a", "another")
    store.rehash("id a", "dearer", "dearer still")
    store.rehash("nobody", "dearer", "dearer still")
    assert store.get("id a") == msgspec.structs.replace(a_record("a"), password="another", version=2)


def test_two_have_it_open_beside_keys_and_see_what_the_other_did(opened: Open, database_url: URL) -> None:
    one, other = opened(), opened()
    with closing(SqlKeys(database_url)) as keys:
        one.add(a_record("a"), MOST)
        assert keys.of("id a") == []
    assert other.get("id a") == a_record("a")
    other.set_tier("id a", "frozen")
    found = one.get("id a")
    assert found is not None
    assert found.account.tier == "frozen"
    one.close()
    one.close()
    assert opened().list(MOST, None) == [found.account]


@pytest.mark.parametrize(("names", "most", "refused"), [("aaaa", MOST, Conflict), ("abcd", 1, TooLarge)])
def test_of_many_that_register_at_once_one_is_first(
    opened: Open, names: str, most: int, refused: type[Exception]
) -> None:
    stores, together = [opened() for _ in names], Barrier(len(names))

    def add(which: int) -> type[Exception] | None:
        record = msgspec.structs.replace(a_record(names[which]), account=a_record(f"{which}").account)
        together.wait()
        try:
            stores[which].add(record, most)
        except (Conflict, TooLarge) as e:
            return type(e)
        return None

    with ThreadPoolExecutor(len(names)) as threads:
        told = list(threads.map(add, range(len(names))))
    assert sorted(map(str, told)) == sorted(map(str, [None] + [refused] * 3))
    assert len(stores[0].list(MOST, None)) == 1


def test_a_database_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="the accounts cannot be reached"):
        SqlAccounts("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2")
