"""The port behind which keys are kept: their digests, never their texts."""

from collections.abc import Hashable, Mapping
from typing import Protocol

import msgspec

# Revoked keys that are still listed: the last ones. Nothing else of a key is ever deleted.
REVOKED_KEPT_MAX = 1_000


class KeyRecord(msgspec.Struct, frozen=True):
    """What is known of a key. `prefix` and `last` are the ends of its text, so that its owner knows it again."""

    id: str
    name: str
    prefix: str
    last: str
    scopes: frozenset[str]
    created_ns: int
    revoked_ns: int | None = None


class KeyStore(Protocol):
    """Keys by digest. Several processes may have it open at once; each change is whole, and stays."""

    def add(self, digest: bytes, record: KeyRecord) -> None:
        """Keep one more, and forget the longest revoked beyond REVOKED_KEPT_MAX. Raises Unavailable."""
        ...

    def all(self) -> Mapping[bytes, KeyRecord]:
        """Every key, oldest first, the revoked ones too. Raises Unavailable."""
        ...

    def revoke(self, id_: str, revoked_ns: int) -> None:
        """The key with that id is no more; one that was revoked before keeps its time. Raises Unavailable."""
        ...

    def stamp(self) -> Hashable:
        """Another value after every change, whoever made it: cheaper than `all`. Raises Unavailable."""
        ...
