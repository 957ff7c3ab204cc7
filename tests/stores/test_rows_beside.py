"""What is written beside a command: there exactly if it was done, once, and never at its neighbours' cost."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from sqlalchemy import URL, create_engine, text

from openoutcry.errors import Conflict, InsufficientFunds, Invalid, Unavailable
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
    Settlement,
    Transfer,
)
from openoutcry.ledger.records import ROWS_MAX, Beside, KeptAnswer, UsageRow
from openoutcry.stores.ledger import SqlLedger

Open = Callable[[], SqlLedger]

FAR_NS = 2**62
GRANT = Transfer("grant", (Posting(ISSUANCE, "KAI", -10), Posting("a", "KAI", 10)))


def row(request_id: str, tokens: int = 1) -> UsageRow:
    return UsageRow(
        request_id=request_id, account="a", endpoint="/x", model="m", tokens_in=tokens, tokens_out=2, at_ns=3
    )


def answer(key: str, body: bytes = b"{}") -> KeptAnswer:
    return KeptAnswer(account="a", key=key, fingerprint=b"\x00f", body=body, at_ns=3)


@pytest.fixture
def found(books_url: URL) -> Iterator[Callable[[str], Sequence[tuple[Any, ...]]]]:
    engine = create_engine(books_url)

    def ask(statement: str) -> Sequence[tuple[Any, ...]]:
        with engine.begin() as connection:
            return [tuple(each) for each in connection.execute(text(statement))]

    yield ask
    engine.dispose()


Found = Callable[[str], Sequence[tuple[Any, ...]]]
USAGE = "SELECT request_id, cost, shortfall FROM usage ORDER BY id"


def test_rows_come_with_what_was_done_and_say_what_it_cost(open_books: Open, found: Found) -> None:
    store = open_books()
    commands: list[Command] = [
        GRANT,
        Hold("h", "a", "KAI", 4, FAR_NS),
        Hold("g", "a", "KAI", 5, FAR_NS),
        Beside((row("r1"), answer("k")), Settle("h", 12)),
        Beside((row("r2"),), Release("g")),
        Beside((row("r3"),), Transfer("t", (Posting("a", "KAI", -1), Posting(FEES, "KAI", 1)))),
    ]
    done = store.obey(commands, 7)
    assert [type(each) for each in done] == [Done] * 6
    # Four were held and one more was free: the other five were held for something else.
    assert done[3] == Done(Settlement("h", 12, 4, 1, 7))
    assert found(USAGE) == [("r1", 5, 7), ("r2", 0, 0), ("r3", 0, 0)]
    assert [(each[0], each[1]) for each in found("SELECT account, key FROM answers")] == [("a", "k")]
    assert store.balance("a", "KAI") == Balance(4, 0)
    assert store.check() == []


def test_what_is_repeated_or_refused_writes_no_row(open_books: Open, found: Found) -> None:
    store = open_books()
    settle = Settle("h", 3)
    store.obey([GRANT, Hold("h", "a", "KAI", 4, FAR_NS), Beside((row("r1"),), settle)], 7)
    poor = Transfer("poor", (Posting("a", "KAI", -8), Posting("b", "KAI", 8)))
    again = store.obey(
        [
            Beside((row("r2"),), settle),
            Beside((row("r3"),), Settle("h", 4)),
            Beside((row("r4"),), poor),
            Beside((row("r5"),), GRANT),
        ],
        8,
    )
    assert again[0] == Done(Settlement("h", 3, 3, 0, 0), repeated=True)
    assert isinstance(again[1], Conflict)
    assert isinstance(again[2], InsufficientFunds)
    assert again[3] == Done(GRANT, repeated=True)
    assert found(USAGE) == [("r1", 3, 0)]


def test_a_key_that_is_taken_leaves_the_first_row_and_the_neighbours_alone(open_books: Open, found: Found) -> None:
    store = open_books()
    store.obey([GRANT, Beside((row("r1"), answer("k", b"first")))], 7)
    store.obey(
        [
            Beside((row("r1", tokens=9), row("r2"), answer("k", b"second"))),
            Transfer("t", (Posting("a", "KAI", -1), Posting("b", "KAI", 1))),
        ],
        8,
    )
    assert found("SELECT request_id, tokens_in FROM usage ORDER BY id") == [("r1", 1), ("r2", 1)]
    (body,) = found("SELECT body FROM answers")
    assert body == (b"first",)
    assert store.balance("b", "KAI") == Balance(1, 0)


def test_a_row_that_the_database_refuses_undoes_the_whole_batch(open_books: Open, found: Found) -> None:
    store = open_books()
    store.obey([GRANT], 7)
    wrong = msgspec.structs.replace(row("r1"), cost=-1)
    with pytest.raises(Unavailable):
        store.obey([Transfer("t", (Posting("a", "KAI", -1), Posting("b", "KAI", 1))), Beside((wrong,))], 8)
    assert store.balance("b", "KAI") == Balance(0, 0)
    assert found(USAGE) == []


def test_rows_have_a_bound() -> None:
    with pytest.raises(Invalid):
        Beside(())
    with pytest.raises(Invalid):
        Beside(tuple(row(str(n)) for n in range(ROWS_MAX + 1)))
