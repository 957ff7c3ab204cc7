"""The port behind which checkouts, and what became of them, are kept. Its methods wait: they are called in threads."""

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Protocol

import msgspec

from openoutcry.billing.reversals import Reversal, Taking
from openoutcry.ledger.records import Credit


class CheckoutRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A checkout that was begun: whose it is, and the price that was promised."""

    session_id: str
    account: str
    cents: int
    price: Decimal
    at_ns: int


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """How far Stripe's sessions were looked through: whole up to `through_s`; one look that is not over is since `since_s`,
    began at `began_s` and goes on after the session `after`.
    """

    through_s: int | None = None
    since_s: int | None = None
    began_s: int | None = None
    after: str | None = None


class BillingStore(Protocol):
    """All raise Unavailable. Several processes may have it open at once; what was answered stays."""

    def add(self, checkout: CheckoutRecord) -> None:
        """Keep it; the same once more does nothing."""
        ...

    def begun(self, account: str, since_ns: int) -> int:
        """How many checkouts the account has begun since then."""
        ...

    def checkouts(self, session_ids: Collection[str]) -> Mapping[str, CheckoutRecord]:
        """Those of them that are ours."""
        ...

    def credits(self, session_ids: Collection[str]) -> Mapping[str, Credit]:
        """Those of them that were credited, by session."""
        ...

    def reverse(self, reversal: Reversal) -> None:
        """Remember it: the highest sum that was told, and how a dispute ended first."""
        ...

    def next_taking(self, payment: str, now_ns: int) -> Taking | None:
        """The step that is to be done now, kept before it is answered; None where nothing is, or nothing was credited."""
        ...

    def moved(self, taking: Taking, moved: int) -> None:
        """The step is done. Of two that did it at once, the one that found more counts."""
        ...

    def mark(self) -> Mark:
        """How far Stripe's sessions were looked through."""
        ...

    def set_mark(self, mark: Mark) -> None:
        """From now on, so far."""
        ...

    def prune(self, checkouts_ns: int, events_ns: int, reversals_ns: int, limit: int) -> int:
        """Forget checkouts and events from before then, and reversals of what was never credited; `limit` of each at most.

        Returns how many. Credits and what was taken back stay.
        """
        ...
