"""The port behind which the exchange is kept. Its methods wait: they are called in threads."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from openoutcry.orders import Change, Command, Move, Relist, Trade


class Numbered(NamedTuple):
    """A command in its place in the log."""

    number: int
    at_ns: int
    command: Command


class Held(NamedTuple):
    """What a wallet has of an asset, and how much of it is reserved."""

    wallet: str
    asset: str
    total: int
    held: int


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch of commands came to: all of it is written, or nothing.

    `changes` holds the last one of each order, with the asset that it gives; `held` what every wallet that was touched has
    now; `moved` what moved between wallets, in its order.
    """

    commands: Sequence[Numbered]
    changes: Sequence[tuple[Change, str]] = ()
    moved: Sequence[Move | Trade] = ()
    relists: Sequence[tuple[int, Relist]] = ()
    held: Sequence[Held] = ()


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The exchange as it was written last: the number of its last command (0: none), its rules, what rests, who has what."""

    number: int
    at_ns: int
    listings: bytes | None
    orders: Sequence[Change]
    held: Sequence[Held]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the commands up to a number came to, and the digest of that."""

    kept: Kept
    digest: str


class ExchangeStore(Protocol):
    """One process writes to it at a time; what was committed stays."""

    def load(self) -> Kept:
        """Raises Unavailable."""
        ...

    def commit(self, written: Written) -> None:
        """All of it in one transaction. Raises Unavailable: then it was done or not, whole; `load` tells by the number."""
        ...

    def moved(self, ids: Collection[str]) -> Mapping[str, Move]:
        """What was moved under those of the ids that were used already. Raises Unavailable."""
        ...

    def log(self, after: int) -> Iterator[Numbered]:
        """Every command whose number is greater, in order. Raises Unavailable."""
        ...

    def snapshot(self) -> Snapshot | None:
        """The newest. Raises Unavailable."""
        ...

    def keep(self, snapshot: Snapshot) -> None:
        """The newest; it replaces those before it. Raises Unavailable."""
        ...

    def orders(self, wallet: str, pair: str | None, *, active: bool, offset: int, limit: int) -> Sequence[Change]:
        """Of the wallet, newest first. Raises Unavailable."""
        ...

    def order(self, wallet: str, id_: str) -> Change | None:
        """The wallet's order with that id. Raises Unavailable."""
        ...

    def trades(
        self,
        wallet: str,
        *,
        pair: str | None = None,
        order: str | None = None,
        buys: bool | None = None,
        after_ns: int | None = None,
        until_ns: int | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> Sequence[Trade]:
        """In which the wallet took part, newest first: after the one time (exclusive), until the other (inclusive).

        `buys`: it bought (or sold). Raises Unavailable.
        """
        ...

    def public_trades(self, pair: str, offset: int, limit: int) -> Sequence[Trade]:
        """Newest first. Raises Unavailable."""
        ...

    def moves(self, wallet: str, assets: Collection[str], offset: int, limit: int) -> Sequence[tuple[int, Move]]:
        """What was brought into the wallet or taken out of it, of those assets, and when (ns); newest first. Raises Unavailable."""
        ...

    def close(self) -> None:
        """Let go; a second call does nothing."""
        ...
