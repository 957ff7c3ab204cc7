"""The database refuses by itself, finds what does not balance, and survives kills; parallel spenders never overdraw."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import IntegrityError

from openoutcry.errors import Conflict, InsufficientFunds, TooLarge, Unavailable, Unknown
from openoutcry.ledger.books import Command
from openoutcry.ledger.postings import (
    FEES,
    ISSUANCE,
    Balance,
    Done,
    Hold,
    Posting,
    Release,
    Settle,
    Transfer,
)
from openoutcry.money import AMOUNT_MAX
from openoutcry.stores.ledger import SqlLedger

Open = Callable[[], SqlLedger]
Sql = Callable[[str], None]

SPENDERS = 64
# Of each, few enough for every run; SPENDER_CALLS=10000 for a long one.
CALLS = int(os.environ.get("SPENDER_CALLS", "40"))
KILLS = 4
LOOKS_MAX = 20_000
FAR_NS = 2**62


def grant(owner: str, amount: int, id_: str = "grant") -> Transfer:
    return Transfer(id_, (Posting(ISSUANCE, "KAI", -amount), Posting(owner, "KAI", amount)), "a gift")


@pytest.fixture
def sql(books_url: URL) -> Iterator[Sql]:
    """Goes around our code: one statement, committed."""
    engine = create_engine(books_url)

    def run(statement: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(statement))

    yield run
    engine.dispose()


@pytest.fixture
def store(open_books: Open) -> SqlLedger:
    """Books in which `a` has ten, four of them held, and has paid one."""
    made = open_books()
    made.obey([grant("a", 11), Hold("h", "a", "KAI", 4, FAR_NS), Hold("g", "a", "KAI", 2, FAR_NS), Settle("g", 1)], 7)
    assert made.balance("a", "KAI") == Balance(10, 4)
    assert made.check() == []
    return made


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE balances SET total = -1, held = 0 WHERE owner = 'a'",
        "UPDATE balances SET total = 3 WHERE owner = 'a'",
        "UPDATE balances SET held = 11 WHERE owner = 'a'",
        "UPDATE balances SET held = -1 WHERE owner = 'a'",
        "UPDATE balances SET held = 1 WHERE owner = 'system:issuance'",
        "INSERT INTO balances VALUES ('b', 'KAI', -1, 0)",
        "INSERT INTO balances VALUES ('SYSTEM:fees', 'KAI', -1, 0)",
        "INSERT INTO balances VALUES ('a', 'KAI', 1, 0)",
        f"UPDATE balances SET total = {-AMOUNT_MAX - 1} WHERE owner = 'system:issuance'",
        f"UPDATE balances SET total = {AMOUNT_MAX + 1} WHERE owner = 'a'",
        "INSERT INTO transfers VALUES ('grant', '', 0)",
        "INSERT INTO postings (transfer, owner, asset, amount, total) VALUES ('grant', 'a', 'KAI', 1, 0)",
        "INSERT INTO postings (transfer, owner, asset, amount, total) VALUES ('grant', 'c', 'KAI', 0, 0)",
        "UPDATE holds SET id = 'g' WHERE id = 'h'",
        "UPDATE holds SET amount = 0",
        "UPDATE holds SET shortfall = 2 WHERE id = 'g'",
        "UPDATE holds SET used = 1 WHERE id = 'h'",
        "UPDATE holds SET state = 'open' WHERE id = 'g'",
        "UPDATE holds SET state = 'settled' WHERE id = 'h'",
        "UPDATE holds SET state = 'elsewhere', used = 0 WHERE id = 'g'",
    ],
)
def test_the_database_refuses_what_our_code_would_never_do(store: SqlLedger, sql: Sql, statement: str) -> None:
    with pytest.raises(IntegrityError):
        sql(statement)
    assert store.check() == []


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE balances SET total = total + 1 WHERE owner = 'a'", "balances do not sum to zero"),
        ("UPDATE balances SET total = total + 1 WHERE owner = 'a'", "a balance is not the sum of its postings"),
        ("UPDATE postings SET amount = 12 WHERE amount = 11", "a transfer does not net to zero"),
        ("DELETE FROM balances WHERE owner = 'system:fees'", "postings of no balance"),
        ("UPDATE balances SET held = 3 WHERE owner = 'a'", "held is not the sum of open holds"),
        ("DELETE FROM holds WHERE id = 'h'", "held is not the sum of open holds"),
        ("UPDATE holds SET owner = 'nobody' WHERE id = 'h'", "an open hold of no balance"),
    ],
)
def test_the_check_finds_what_does_not_balance(store: SqlLedger, sql: Sql, statement: str, says: str) -> None:
    sql(statement)
    assert any(complaint.startswith(says) for complaint in store.check())


@pytest.mark.parametrize("table", ["balances", "holds"])
def test_a_change_that_the_database_did_not_take_is_not_answered(
    store: SqlLedger, sql: Sql, books_url: URL, table: str
) -> None:
    # As if somebody had changed the row since it was read: no try finds it as it was.
    if books_url.get_backend_name() == "sqlite":
        sql(f"CREATE TRIGGER keep BEFORE UPDATE ON {table} BEGIN SELECT RAISE(IGNORE); END")
    else:
        sql("CREATE FUNCTION keep() RETURNS trigger AS 'BEGIN RETURN NULL; END' LANGUAGE plpgsql")
        sql(f"CREATE TRIGGER keep BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION keep()")
    with pytest.raises(Unavailable, match="same rows"):
        store.obey([Settle("h", 4), Transfer("t", (Posting("a", "KAI", -1), Posting("b", "KAI", 1)))], 8)
    assert store.balance("a", "KAI") == Balance(10, 4)
    assert store.due(FAR_NS, 10) == ["h"]
    assert store.check() == []


def test_a_refused_command_leaves_those_beside_it(open_books: Open) -> None:
    store = open_books()
    outcomes = store.obey(
        [
            grant("a", 5),
            Hold("1", "a", "KAI", 6, FAR_NS),
            Hold("2", "a", "KAI", 5, FAR_NS),
            Release("3"),
            grant("b", 1),
        ],
        1,
    )
    assert [type(outcome) for outcome in outcomes[1:]] == [InsufficientFunds, Done, Unknown, Conflict]
    assert store.balance("a", "KAI") == Balance(5, 5)
    assert store.check() == []


def test_a_balance_that_cannot_be_kept_is_refused(open_books: Open) -> None:
    store = open_books()
    outcomes = store.obey([grant("a", AMOUNT_MAX), grant("b", 1, "more")], 1)
    assert [type(outcome) for outcome in outcomes] == [Done, TooLarge]
    assert store.check() == []


def test_a_restart_finds_open_holds_and_what_was_done(open_books: Open, store: SqlLedger) -> None:
    store.close()
    again = open_books()
    assert again.balance("a", "KAI") == Balance(10, 4)
    assert again.due(FAR_NS, 10) == ["h"]
    repeated = again.obey([grant("a", 11), Settle("g", 1), Hold("h", "a", "KAI", 4, FAR_NS)], 9)
    assert all(isinstance(outcome, Done) and outcome.repeated for outcome in repeated)
    assert isinstance(again.obey([Settle("h", 4)], 9)[0], Done)
    assert again.balance("a", "KAI") == Balance(6, 0)


def test_more_rows_than_one_question_names(open_books: Open) -> None:
    store = open_books()
    transfers = [
        Transfer(f"t{n}", (Posting(ISSUANCE, "KAI", -99), *(Posting(f"o{n}.{m}", "KAI", 1) for m in range(99))))
        for n in range(25)
    ]
    assert all(isinstance(outcome, Done) for outcome in store.obey(transfers, 1))
    assert store.obey(transfers, 2) == [Done(transfer, repeated=True) for transfer in transfers]
    assert store.balance(ISSUANCE, "KAI") == Balance(-25 * 99, 0)
    assert store.check() == []


def test_parallel_spenders_never_overdraw(open_books: Open) -> None:
    """Each batch is of one spender: nothing but the database stands between them, and two stores between processes."""
    calls = SPENDERS * CALLS
    stores = (open_books(), open_books())
    # Enough for half of the calls: the other half must be refused.
    stores[0].obey([grant("a", calls // 2 * 3)], 0)

    def spend(number: int) -> tuple[int, int]:
        store, spent, refused = stores[number % 2], 0, 0
        for n in range(0, CALLS, 4):
            ids = [f"{number}.{n + m}" for m in range(min(4, CALLS - n))]
            held = store.obey([Hold(id_, "a", "KAI", 5, FAR_NS) for id_ in ids], 1)
            got = [id_ for id_, outcome in zip(ids, held, strict=True) if isinstance(outcome, Done)]
            refused += sum(isinstance(outcome, InsufficientFunds) for outcome in held)
            ends: Sequence[Settle | Release] = [Settle(id_, 4) if m != 1 else Release(id_) for m, id_ in enumerate(got)]
            assert all(isinstance(outcome, Done) for outcome in store.obey(ends, 2))
            spent += sum(4 for end in ends if isinstance(end, Settle))
        return spent, refused

    with ThreadPoolExecutor(SPENDERS) as pool:
        done = list(pool.map(spend, range(SPENDERS)))
    spent = sum(each for each, _ in done)
    assert stores[0].balance("a", "KAI") == Balance(calls // 2 * 3 - spent, 0)
    assert stores[1].balance(FEES, "KAI") == Balance(spent, 0)
    assert sum(refused for _, refused in done) > 0
    assert stores[0].check() == []


def test_the_same_ids_from_everywhere_at_once_are_done_once(open_books: Open) -> None:
    stores = (open_books(), open_books())

    def ask(number: int) -> list[bool]:
        # The first to come may spend all there is: who comes second is told of what was done, not of a lack of money.
        commands: list[Command] = [
            grant("a", 5),
            Transfer("pay", (Posting("a", "KAI", -2), Posting("b", "KAI", 2))),
            Hold("h", "a", "KAI", 3, FAR_NS),
        ]
        outcomes = stores[number % 2].obey([*commands, Settle("h", 3)], 1)
        assert all(isinstance(outcome, Done) for outcome in outcomes)
        return [isinstance(outcome, Done) and outcome.repeated for outcome in outcomes]

    with ThreadPoolExecutor(8) as pool:
        repeated = list(pool.map(ask, range(64)))
    assert sorted(map(tuple, repeated)) == [(False,) * 4, *[(True,) * 4] * 63]
    assert stores[0].balance("a", "KAI") == Balance(0, 0)
    assert stores[0].check() == []


def test_what_another_process_did_meanwhile_under_the_same_id_counts(postgres_url: str) -> None:
    """It took all that was free: who waited for it is told that it is done, not that money lacks."""
    engine = create_engine(postgres_url)
    hold = Hold("h", "a", "KAI", 5, FAR_NS)
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with closing(SqlLedger(postgres_url)) as store, ThreadPoolExecutor(1) as pool:
        store.obey([grant("a", 5)], 1)
        with engine.begin() as other, engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watch:
            other.execute(text("UPDATE balances SET held = 5 WHERE owner = 'a'"))
            asked = pool.submit(store.obey, [hold], 2)
            for _ in range(LOOKS_MAX):
                if watch.scalar(waiting) or asked.done():
                    break
            other.execute(text(f"INSERT INTO holds VALUES ('h', 'a', 'KAI', 5, {FAR_NS}, 1, 'open', 0, 0, '', NULL)"))
        assert asked.result() == [Done(hold, repeated=True)]
        assert store.check() == []
    engine.dispose()


CHILD = """
import sys
from openoutcry.ledger.postings import Hold, Settle
from openoutcry.stores.ledger import SqlLedger

store, life = SqlLedger(sys.argv[1]), sys.argv[2]
for n in range(1_000_000):
    ids = [f"{life}.{n}.{m}" for m in range(3)]
    store.obey([Hold(id_, "a", "KAI", 5, 2**62) for id_ in ids], 1)
    store.obey([Settle(id_, 3) for id_ in ids], 1)
    print(n, flush=True)
"""


def test_kills_in_the_middle_leave_the_books_balanced(open_books: Open, books_url: URL) -> None:
    store = open_books()
    store.obey([grant("a", 10**9)], 0)
    url = books_url.render_as_string(hide_password=False)
    for life in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, url, str(life)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            # It is killed some way into a later round, never at the same place.
            for _ in range(5 + 7 * life):
                assert child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            answered = 5 + 7 * life + len(child.stdout.readlines())
        assert store.check() == []
        fees = store.balance(FEES, "KAI").total
        # All that was answered is there, and of what was under way three settles at most.
        assert answered * 9 <= fees - sum_before(store, life) <= (answered + 1) * 9
        left = store.due(FAR_NS, 100)
        assert len(left) in (0, 3)
        assert all(isinstance(outcome, Done) for outcome in store.obey([Release(id_) for id_ in left], 2))
        assert store.balance("a", "KAI") == Balance(10**9 - fees, 0)


def sum_before(store: SqlLedger, life: int) -> int:
    entries = store.entries(FEES, "KAI", 10_000, None)
    return sum(entry.amount for entry in entries if int(entry.transfer.split(".")[0]) < life)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite3"
    file.write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable), closing(SqlLedger(f"sqlite+pysqlite:///{file}")):
        pass
