"""What refunds and disputes take back of what was credited, worked out without I/O.

Events come in any order, more than once, and before the credit that they are about. So none of them moves money by itself: each is
remembered (a refund by its highest sum, a dispute by how it ended), what should be taken back follows from all that is
remembered, and the difference to what was done is the next step. Steps of one payment are numbered, and made one after another.
"""

from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

import msgspec

from openoutcry.ledger.records import Credit
from openoutcry.money import KAI

CENTS_A_USD = 100


class ReversalState(StrEnum):
    """Refunds stay open; a dispute is open until it is won or lost."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"


class Reversal(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one charge's refunds, or of one dispute: `source` is its id, `payment` whose money it is."""

    payment: str
    source: str
    cents: int
    state: ReversalState = ReversalState.OPEN
    at_ns: int = 0


class Taking(msgspec.Struct, frozen=True, kw_only=True):
    """One step: `due` micros are to be taken back, or, below zero, less than so far is due.

    `moved` is what came of it: of what is due, as much as was free; of what was taken, as much as is given back (below zero).
    None: not done yet. What is given back is fixed when the step is made.
    """

    payment: str
    number: int
    account: str
    due: int
    at_ns: int
    moved: int | None = None
    back: int = 0


def micros_of(cents: int, kai_usd: Decimal) -> int:
    """What so much money buys, in micros of KAI: rounded down, once."""
    return int(Fraction(cents * 10**KAI.scale, CENTS_A_USD) // Fraction(kai_usd))


def next_taking(credit: Credit, reversals: Sequence[Reversal], takings: Sequence[Taking], now_ns: int) -> Taking | None:
    """The step that is to be done now: one that was not finished, else the difference, else none."""
    if takings and takings[-1].moved is None:
        return takings[-1]
    cents = sum(each.cents for each in reversals if each.state is not ReversalState.WON)
    wanted = micros_of(min(cents, credit.cents), Decimal(credit.price))
    due = wanted - sum(each.due for each in takings)
    if due == 0:
        return None
    taken = sum(each.moved or 0 for each in takings)
    return Taking(
        payment=credit.payment or "",
        number=len(takings),
        account=credit.account,
        due=due,
        at_ns=now_ns,
        back=max(taken - wanted, 0) if due < 0 else 0,
    )
