"""What commands of the operator's ask of the exchange while a server has it: put in its database, and answered there."""

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Moving(msgspec.Struct, frozen=True, tag="move"):
    """Bring so much of an asset into a wallet, or (below zero) take it out. `amount` is plain decimals."""

    wallet: str
    asset: str
    amount: str


class Relisting(msgspec.Struct, frozen=True, tag="relist"):
    """Trade these from now on: `listings` is what `Listings.told` gives."""

    listings: bytes


Asked = Moving | Relisting


class Letter(msgspec.Struct, frozen=True):
    """What was asked, under the id that its asker gave it."""

    id: str
    asked: Asked


class Answer(msgspec.Struct, frozen=True):
    """It was done; or `refused` says why not."""

    refused: str | None = None


class Inbox(Protocol):
    """Its methods wait: they are called in threads."""

    def put(self, letter: Letter, now_ns: int) -> None:
        """Have it done, once. What was refused is asked anew. Raises Conflict where its id asked for something else, Unavailable."""
        ...

    def waiting(self, limit: int) -> Sequence[Letter]:
        """Those without an answer, oldest first. Raises Unavailable."""
        ...

    def answer(self, id_: str, answer: Answer, now_ns: int) -> None:
        """It is done, or refused. Raises Unavailable."""
        ...

    def answered(self, id_: str) -> Answer | None:
        """What became of it; None: nothing yet. Raises Unavailable."""
        ...

    def close(self) -> None:
        """Let go; a second call does nothing."""
        ...
