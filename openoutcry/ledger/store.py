"""The port behind which the books are kept. Its methods wait: they are called in threads."""

from collections.abc import Sequence
from typing import Protocol

from openoutcry.ledger.books import Command, Outcome
from openoutcry.ledger.postings import Balance, Entry


class LedgerStore(Protocol):
    """Balances, holds, transfers. Several processes may have it open at once; what was answered stays."""

    def obey(self, commands: Sequence[Command], now_ns: int) -> Sequence[Outcome]:
        """All of them in their order and in one transaction, each whole or refused. Raises Unavailable.

        After Unavailable they were done or not, all of them: asked again with the same ids they are done once.
        """
        ...

    def balance(self, owner: str, asset: str) -> Balance:
        """Nothing where the owner never had any. Raises Unavailable."""
        ...

    def entries(self, owner: str, asset: str, limit: int, before_id: int | None) -> Sequence[Entry]:
        """Newest first; with `before_id` those older than that one. Raises Unavailable."""
        ...

    def due(self, now_ns: int, limit: int) -> Sequence[str]:
        """Ids of open holds whose deadline is not after `now_ns`, the longest overdue first. Raises Unavailable."""
        ...

    def check(self) -> Sequence[str]:
        """What does not balance, in words; nothing where all does. Reads all books. Raises Unavailable."""
        ...
