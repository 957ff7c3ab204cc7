"""The books against the obvious ledger: every movement in one list, every balance a sum over it."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openoutcry.errors import Refusal
from openoutcry.ledger.books import Command, Outcome
from openoutcry.ledger.postings import (
    ISSUANCE,
    Balance,
    Hold,
    Posting,
    Release,
    Settle,
    Settlement,
    Transfer,
)
from openoutcry.stores.ledger import SqlLedger

OWNERS = ("a", "b", "c")
ASSETS = ("K", "U")
EXAMPLES = itertools.count()


class Naive:
    """Says what each command must come to: the answer, or the code of the refusal."""

    def __init__(self) -> None:
        self.moves: list[tuple[str, str, int]] = []
        self.transfers: list[Transfer] = []
        self.holds: list[Hold] = []
        self.ends: list[Settle | Release] = []
        self.paid: list[Settlement] = []

    def total(self, owner: str, asset: str) -> int:
        return sum(amount for of, what, amount in self.moves if (of, what) == (owner, asset))

    def open(self) -> list[Hold]:
        return [hold for hold in self.holds if hold.id not in [end.hold for end in self.ends]]

    def held(self, owner: str, asset: str) -> int:
        return sum(hold.amount for hold in self.open() if (hold.owner, hold.asset) == (owner, asset))

    def obey(self, command: Command) -> object:
        if isinstance(command, Transfer):
            for done in self.transfers:
                if done.id == command.id:
                    return command if done == command else "conflict"
            for posting in command.postings:
                left = (
                    self.total(posting.owner, posting.asset) - self.held(posting.owner, posting.asset) + posting.amount
                )
                if left < 0 and posting.owner != ISSUANCE:
                    return "insufficient_funds"
            self.transfers.append(command)
            self.moves += [(posting.owner, posting.asset, posting.amount) for posting in command.postings]
            return command
        if isinstance(command, Hold):
            for done_hold in self.holds:
                if done_hold.id == command.id:
                    return command if done_hold == command else "conflict"
            if self.total(command.owner, command.asset) - self.held(command.owner, command.asset) < command.amount:
                return "insufficient_funds"
            self.holds.append(command)
            return command
        assert isinstance(command, Settle | Release)
        return self._end(command)

    def _end(self, command: Settle | Release) -> object:
        hold = next((hold for hold in self.holds if hold.id == command.hold), None)
        if hold is None:
            return "unknown"
        end = next((end for end in self.ends if end.hold == command.hold), None)
        if end is not None and end != command:
            return "conflict"
        if isinstance(command, Release):
            if end is None:
                self.ends.append(command)
            return None
        if end is not None:
            return next(paid for paid in self.paid if paid.hold == hold.id)
        if command.to == hold.owner:
            return "invalid"
        self.ends.append(command)
        charged = min(command.used, hold.amount)
        # The hold is gone now, and what it does not pay is free.
        free = self.total(hold.owner, hold.asset) - self.held(hold.owner, hold.asset) - charged
        excess = min(command.used - charged, free)
        self.moves += [(hold.owner, hold.asset, -charged), (command.to, hold.asset, charged)] if charged else []
        self.moves += [(hold.owner, hold.asset, -excess), (command.to, hold.asset, excess)] if excess else []
        self.paid.append(Settlement(hold.id, command.used, charged, excess, command.used - charged - excess))
        return self.paid[-1]


class Batch(NamedTuple):
    """What is asked at once, and how much later than the batch before."""

    commands: list[Callable[[str], Command]]
    later_ns: int


def transfer(id_: int, giver: str, taker: str, asset: str, amount: int) -> Callable[[str], Command]:
    return lambda mine: Transfer(
        f"{mine}t{id_}",
        (
            Posting(giver if giver == ISSUANCE else mine + giver, mine + asset, -amount),
            Posting(mine + taker, mine + asset, amount),
        ),
    )


# Few of everything: ids meet again with the same and with other content, and money runs out.
owners, assets, amounts, ids = st.sampled_from(OWNERS), st.sampled_from(ASSETS), st.integers(1, 5), st.integers(0, 4)
grants = st.builds(transfer, ids, st.just(ISSUANCE), owners, assets, st.integers(1, 9))
gifts = st.tuples(owners, owners).filter(lambda pair: pair[0] != pair[1])
transfers = st.builds(
    lambda id_, pair, asset, n: transfer(id_, pair[0], pair[1], asset, n), ids, gifts, assets, amounts
)
holds = st.builds(
    lambda id_, owner, asset, n, due: lambda mine: Hold(f"{mine}h{id_}", mine + owner, mine + asset, n, due),
    ids, owners, assets, amounts, st.integers(1, 6),
)  # fmt: skip
settles = st.builds(
    lambda id_, used, to: lambda mine: Settle(f"{mine}h{id_}", used, mine + to), ids, st.integers(0, 8), owners
)
releases = st.builds(lambda id_: lambda mine: Release(f"{mine}h{id_}"), ids)
commands = st.one_of(grants, grants, transfers, holds, holds, settles, settles, releases)
batches = st.lists(st.builds(Batch, st.lists(commands, min_size=1, max_size=8), st.integers(0, 3)), max_size=8)


@pytest.fixture
def store(open_books: Callable[[], SqlLedger]) -> SqlLedger:
    """One for all examples: each has names of its own."""
    return open_books()


def told(outcome: Outcome) -> object:
    return outcome.code if isinstance(outcome, Refusal) else outcome.answer


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=batches)
def test_the_books_are_those_of_the_naive_ledger(store: SqlLedger, asked: list[Batch]) -> None:
    mine, naive, now_ns = f"{next(EXAMPLES)}.", Naive(), 0
    for batch in asked:
        said = [make(mine) for make in batch.commands]
        now_ns += batch.later_ns
        assert [told(outcome) for outcome in store.obey(said, now_ns)] == [naive.obey(command) for command in said]
        due = [id_ for id_ in store.due(now_ns, 1_000) if id_.startswith(mine)]
        assert due == [
            hold.id for hold in sorted(naive.open(), key=lambda h: (h.deadline_ns, h.id)) if hold.deadline_ns <= now_ns
        ]
        swept: list[Command] = [Release(id_) for id_ in due]
        assert [told(outcome) for outcome in store.obey(swept, now_ns)] == [naive.obey(release) for release in swept]
    for owner, asset in itertools.product(OWNERS, ASSETS):
        key = (mine + owner, mine + asset)
        assert store.balance(*key) == Balance(naive.total(*key), naive.held(*key))
        entries = list(reversed(store.entries(*key, 1_000, None)))
        moved = [amount for *of, amount in naive.moves if tuple(of) == key]
        assert [entry.amount for entry in entries] == moved
        assert [entry.total for entry in entries] == list(itertools.accumulate(moved))
    assert store.check() == []
