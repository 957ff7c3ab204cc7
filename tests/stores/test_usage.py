"""Usage is read newest first and summed by day; old rows become sums, and nothing that was paid is forgotten by that."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL

from openoutcry.ledger.postings import ISSUANCE, Balance, Done, Hold, Posting, Release, Settle, Transfer
from openoutcry.ledger.records import Beside, KeptAnswer, UsageRow
from openoutcry.ledger.usage import DAY_NS, UsageDay
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.usage import SqlUsage

FAR_NS = 2**62
_numbers = itertools.count()
GRANTED = 1_000


@pytest.fixture
def books(open_books: Callable[[], SqlLedger]) -> SqlLedger:
    """Books in which `a` and `b` have a thousand each."""
    made = open_books()
    for owner in ("a", "b"):
        moved = (Posting(ISSUANCE, "KAI", -GRANTED), Posting(owner, "KAI", GRANTED))
        made.obey([Transfer(f"grant-{owner}", moved)], 0)
    return made


@pytest.fixture
def store(books: SqlLedger, books_url: URL) -> Iterator[SqlUsage]:
    made = SqlUsage(books_url)
    yield made
    made.close()


def row(number: int, at_ns: int, account: str = "a", endpoint: str = "chat", status: str = "done") -> UsageRow:
    return UsageRow(
        request_id=f"r{number}",
        account=account,
        key="k",
        endpoint=endpoint,
        model="kai-fast",
        tokens_in=number,
        tokens_out=2,
        reasoning_tokens=1,
        at_ns=at_ns,
        tariff="1 1 1 1",
        latency_ms=5,
        ttft_ms=3,
        estimated=True,
        status=status,
    )


def pay(books: SqlLedger, rows: Sequence[UsageRow], micros: int = 7) -> None:
    for each in rows:
        failed = each.status == "failed"
        end = Release(each.request_id) if failed else Settle(each.request_id, micros)
        done = books.obey(
            [Hold(each.request_id, each.account, "KAI", micros, FAR_NS), Beside((each,), end)], each.at_ns
        )
        assert all(isinstance(outcome, Done) and not outcome.repeated for outcome in done)


def numbers(rows: Sequence[UsageRow]) -> list[int]:
    return [int(each.request_id[1:]) for each in rows]


def test_rows_are_those_of_the_account_newest_first_and_chosen(books: SqlLedger, store: SqlUsage) -> None:
    pay(books, [row(1, 10), row(2, 20, "b"), row(3, 30, status="failed"), row(4, 40, endpoint="ai"), row(5, 50)])
    assert numbers(store.rows("a", 500)) == [5, 4, 1]
    assert numbers(store.rows("a", 2)) == [5, 4]
    assert numbers(store.rows("a", 500, status=None)) == [5, 4, 3, 1]
    assert numbers(store.rows("a", 500, status="failed")) == [3]
    assert numbers(store.rows("a", 500, endpoint="ai")) == [4]
    assert numbers(store.rows("a", 500, since_ns=10, until_ns=50)) == [4, 1]
    assert numbers(store.rows("a", 500, since_ns=11)) == [5, 4]
    second = store.rows("a", 2)[-1]
    assert numbers(store.rows("a", 500, before_id=second.id)) == [1]
    assert store.rows("c", 500) == []
    told = store.rows("a", 1)[0]
    assert told.id > second.id
    assert (told.cost, told.shortfall, told.reasoning_tokens, told.ttft_ms, told.estimated) == (7, 0, 1, 3, True)


def day(number: int, calls: int, tokens_in: int) -> UsageDay:
    return UsageDay(
        day_ns=number * DAY_NS, calls=calls, tokens_in=tokens_in, tokens_out=2 * calls, cost=7 * calls, shortfall=0
    )


def test_days_are_sums_and_stay_what_they_were_when_rows_go(books: SqlLedger, store: SqlUsage) -> None:
    last_ns = DAY_NS * 3 - 1
    pay(books, [row(1, DAY_NS), row(2, last_ns - DAY_NS), row(3, DAY_NS * 2), row(4, last_ns), row(5, last_ns, "b")])
    pay(books, [row(6, DAY_NS * 2, status="failed")])
    days = [day(2, 2, 7), day(1, 2, 3)]
    assert [each.day for each in days] == ["1970-01-03", "1970-01-02"]
    folded = []
    while True:
        assert store.by_day("a", 0, FAR_NS, 9) == days
        assert store.by_day("a", DAY_NS * 2, DAY_NS * 3, 9) == days[:1]
        assert store.by_day("a", 0, FAR_NS, 1) == days[:1]
        assert store.by_day("b", 0, FAR_NS, 9) == [day(2, 1, 5)]
        assert (store.paid("a"), store.paid("b"), store.paid("c")) == (28, 7, 0)
        gone = store.fold(last_ns, 2)
        folded.append(gone)
        if not gone:
            break
    assert folded == [2, 2, 0]
    assert numbers(store.rows("a", 500, status=None)) == [4]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Few days and small batches: a day is folded in parts, while it still grows.
@given(
    at=st.lists(st.integers(0, 3 * DAY_NS), max_size=5),
    folds=st.lists(st.tuples(st.integers(0, 3 * DAY_NS), st.integers(1, 3)), max_size=6),
)
def test_what_was_paid_is_what_is_gone_however_rows_are_folded(
    books: SqlLedger, store: SqlUsage, at: list[int], folds: list[tuple[int, int]]
) -> None:
    held = books.balance("a", "KAI")
    paid = store.paid("a")
    pay(books, [row(next(_numbers), at_ns) for at_ns in at], micros=1)
    for before_ns, limit in folds:
        store.fold(before_ns, limit)
        assert sum(each.cost for each in store.by_day("a", 0, FAR_NS, 9)) == paid + len(at)
    assert books.balance("a", "KAI") == Balance(held.total - len(at), 0)
    assert store.paid("a") == paid + len(at) == GRANTED - books.balance("a", "KAI").total
    assert books.check() == []


def test_two_that_fold_at_once_count_each_row_once(books: SqlLedger, store: SqlUsage, books_url: URL) -> None:
    pay(books, [row(number, number) for number in range(1, 61)])
    other = SqlUsage(books_url)
    with ThreadPoolExecutor(4) as pool:
        gone = list(pool.map(lambda n: (store, other)[n % 2].fold(FAR_NS, 4), range(40)))
    other.close()
    assert sum(gone) >= 60
    assert store.rows("a", 500) == []
    assert store.by_day("a", 0, FAR_NS, 9) == [day(0, 60, sum(range(1, 61)))]


def keep(books: SqlLedger, account: str, key: str, at_ns: int) -> KeptAnswer:
    made = KeptAnswer(account=account, key=key, fingerprint=b"\x00\xff", body=b'{"\xc3\xa9"}', at_ns=at_ns)
    assert books.obey([Beside((made,))], at_ns) == [Done(None)]
    return made


def test_an_answer_is_found_by_account_and_key_and_goes_when_it_is_old(books: SqlLedger, store: SqlUsage) -> None:
    mine, other = keep(books, "a", "k", 5), keep(books, "b", "k", 6)
    assert (store.get("a", "k"), store.get("b", "k"), store.get("a", "l")) == (mine, other, None)
    store.drop("a", "k", 5)
    assert store.get("a", "k") == mine
    store.drop("a", "k", 6)
    assert store.get("a", "k") is None
    assert store.get("b", "k") == other


def test_answers_that_are_too_old_or_too_many_go_oldest_first(books: SqlLedger, store: SqlUsage) -> None:
    for number in range(10):
        keep(books, "a", str(number), number)

    def left() -> list[int]:
        return [number for number in range(10) if store.get("a", str(number)) is not None]

    assert store.prune(0, 10, 5) == 0
    assert store.prune(3, 10, 2) == 2
    assert left() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert store.prune(3, 10, 9) == 1
    assert store.prune(0, 4, 2) == 2
    assert store.prune(0, 4, 9) == 1
    assert left() == [6, 7, 8, 9]
    assert store.prune(0, 4, 9) == 0
