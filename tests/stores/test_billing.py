"""What billing remembers is the same on both databases, and for several who write at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import URL

from openoutcry.billing.reversals import Reversal, ReversalState, Taking
from openoutcry.billing.store import CheckoutRecord, Mark
from openoutcry.errors import Unavailable
from openoutcry.ledger.records import Beside, Credit
from openoutcry.stores.billing import SqlBilling
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url

CREDIT = Credit(session_id="cs_1", account="a", cents=500, micros=500_000_000, price="0.01", payment="pi_1", at_ns=3)
TOLD = Reversal(payment="pi_1", source="ch_1", cents=200, at_ns=4)


@pytest.fixture
def open_store(books_url: URL) -> Iterator[Callable[[], SqlBilling]]:
    stores: list[SqlBilling] = []

    def again() -> SqlBilling:
        stores.append(SqlBilling(books_url))
        return stores[-1]

    yield again
    for each in stores:
        each.close()


@pytest.fixture
def store(open_store: Callable[[], SqlBilling]) -> SqlBilling:
    return open_store()


@pytest.fixture
def credited(store: SqlBilling, open_books: Callable[[], SqlLedger]) -> SqlBilling:
    open_books().obey([Beside((CREDIT,))], 3)
    return store


def checkout(number: int, account: str = "a", at_ns: int = 0) -> CheckoutRecord:
    return CheckoutRecord(
        session_id=f"cs_{number}", account=account, cents=500, price=Decimal("0.0100"), at_ns=at_ns or number
    )


def test_checkouts_come_back_as_they_were(store: SqlBilling, open_store: Callable[[], SqlBilling]) -> None:
    made = [checkout(n) for n in range(1, 4)]
    for each in made:
        store.add(each)
    store.add(msgspec.structs.replace(made[0], cents=7))
    assert open_store().checkouts(["cs_1", "cs_3", "cs_9"]) == {"cs_1": made[0], "cs_3": made[2]}
    assert str(store.checkouts(["cs_1"])["cs_1"].price) == "0.0100"
    assert store.checkouts([]) == {}


def test_what_an_account_began_is_counted(store: SqlBilling) -> None:
    for n, account in ((1, "a"), (2, "a"), (3, "b"), (4, "a")):
        store.add(checkout(n, account))
    assert [store.begun("a", since_ns) for since_ns in (0, 2, 3, 5)] == [3, 2, 1, 0]
    assert store.begun("nobody", 0) == 0


def test_credits_are_the_ledgers(credited: SqlBilling) -> None:
    assert credited.credits(["cs_1", "cs_2"]) == {"cs_1": CREDIT}


def test_nothing_is_taken_before_something_was_credited(store: SqlBilling) -> None:
    store.reverse(TOLD)
    assert store.next_taking("pi_1", 5) is None


def test_a_step_is_the_same_until_it_is_done(credited: SqlBilling, open_store: Callable[[], SqlBilling]) -> None:
    assert credited.next_taking("pi_1", 5) is None
    credited.reverse(TOLD)
    first = Taking(payment="pi_1", number=0, account="a", due=200_000_000, at_ns=5)
    assert credited.next_taking("pi_1", 5) == first
    credited.reverse(msgspec.structs.replace(TOLD, cents=300))
    assert open_store().next_taking("pi_1", 6) == first
    credited.moved(first, 150_000_000)
    credited.moved(first, 100_000_000)
    second = msgspec.structs.replace(first, number=1, due=100_000_000, at_ns=7)
    assert credited.next_taking("pi_1", 7) == second
    credited.moved(second, 0)
    assert credited.next_taking("pi_1", 8) is None


def test_the_highest_sum_and_the_first_end_count(credited: SqlBilling) -> None:
    for cents in (200, 300, 100):
        credited.reverse(msgspec.structs.replace(TOLD, cents=cents))
    for state in (ReversalState.WON, ReversalState.OPEN, ReversalState.LOST):
        credited.reverse(Reversal(payment="pi_1", source="du_1", cents=50, state=state, at_ns=4))
    taking = credited.next_taking("pi_1", 5)
    assert taking is not None
    assert taking.due == 300_000_000


def test_a_dispute_that_is_won_gives_back_what_was_taken_beyond_the_refunds(credited: SqlBilling) -> None:
    credited.reverse(TOLD)
    credited.reverse(Reversal(payment="pi_1", source="du_1", cents=300, at_ns=4))
    taken = credited.next_taking("pi_1", 5)
    assert taken is not None
    credited.moved(taken, 260_000_000)
    credited.reverse(Reversal(payment="pi_1", source="du_1", cents=300, state=ReversalState.WON, at_ns=6))
    given = Taking(payment="pi_1", number=1, account="a", due=-300_000_000, at_ns=7, back=60_000_000)
    assert credited.next_taking("pi_1", 7) == given
    credited.moved(given, -60_000_000)
    assert credited.next_taking("pi_1", 8) is None


def test_writers_that_meet_agree_on_one_step(credited: SqlBilling, open_store: Callable[[], SqlBilling]) -> None:
    credited.reverse(TOLD)
    stores = [open_store() for _ in range(8)]
    at_once = threading.Barrier(len(stores))

    def next_of(each: SqlBilling, now_ns: int) -> Taking | None:
        at_once.wait(30)
        return each.next_taking("pi_1", now_ns)

    with ThreadPoolExecutor(len(stores)) as threads:
        found = list(threads.map(next_of, stores, range(5, 5 + len(stores))))
    assert found[0] is not None
    assert found == [found[0]] * len(stores)


def test_the_mark_is_the_last_that_was_set(store: SqlBilling, open_store: Callable[[], SqlBilling]) -> None:
    assert store.mark() == Mark()
    for mark in (Mark(since_s=1, began_s=2, after="cs_1"), Mark(through_s=2)):
        store.set_mark(mark)
        assert open_store().mark() == mark


def test_what_is_old_goes_in_bounded_steps(credited: SqlBilling) -> None:
    for n in range(1, 6):
        credited.add(checkout(n))
    credited.reverse(TOLD)
    for n in range(2, 5):
        credited.reverse(Reversal(payment=f"pi_{n}", source="ch", cents=5, at_ns=n))
    assert credited.prune(4, 0, 0, limit=2) == 2
    assert credited.prune(4, 0, 4, limit=9) == 1 + 2
    assert set(credited.checkouts([f"cs_{n}" for n in range(9)])) == {"cs_4", "cs_5"}
    # What was credited may be asked for again.
    assert credited.prune(0, 0, 100, limit=9) == 1
    assert credited.next_taking("pi_1", 5) is not None


def test_a_database_that_cannot_be_opened_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the billing cannot be reached"):
        SqlBilling(sqlite_url(tmp_path))
