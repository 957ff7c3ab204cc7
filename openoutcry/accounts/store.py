"""The ports behind which accounts and keys are kept: digests of keys and hashes of passwords, never their texts."""

import base64
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

# Revoked keys that are still listed: the last ones, of each account and of nobody. Nothing else of a key is ever deleted.
REVOKED_KEPT_MAX = 1_000
REVOKED_OF_ACCOUNT_KEPT_MAX = 20


class KeyRecord(msgspec.Struct, frozen=True):
    """What is known of a key. `prefix` and `last` are the ends of its text, so that its owner knows it again.

    `account` None: made at the command line, for nobody. `used_ns` is written at most once a minute.
    """

    id: str
    name: str
    prefix: str
    last: str
    scopes: frozenset[str]
    created_ns: int
    revoked_ns: int | None = None
    account: str | None = None
    expires_ns: int | None = None
    used_ns: int | None = None

    @property
    def number(self) -> int:
        """The id as a whole number of 40 bits, for callers that want one."""
        return number_of(self.id)

    def live(self, now_ns: int) -> bool:
        """Whether it may be used then."""
        return self.revoked_ns is None and (self.expires_ns is None or self.expires_ns > now_ns)


def number_of(key_id: str) -> int:
    """The number of the key with that id."""
    return int.from_bytes(base64.b32decode(key_id.upper()), "big")


class KeyStore(Protocol):
    """Keys by digest. Several processes may have it open at once; each change is whole, and stays."""

    def add(self, digest: bytes, record: KeyRecord, most: int | None = None) -> None:
        """Keep one more, and forget the longest revoked of its account beyond what is kept of them.

        Raises TooLarge where the account has `most` that may be used already, however many add at once; Unavailable.
        """
        ...

    def all(self) -> Mapping[bytes, KeyRecord]:
        """Every key, oldest first, the revoked ones too. Raises Unavailable."""
        ...

    def of(self, account: str) -> Sequence[KeyRecord]:
        """The account's keys, oldest first, the revoked ones too. Raises Unavailable."""
        ...

    def changed(self, after: int) -> tuple[int, Mapping[bytes, KeyRecord]]:
        """The keys made or revoked since that change, whoever did it, and the number of the last change; -1: all keys.

        Costs next to nothing where nothing changed. Raises Unavailable.
        """
        ...

    def revoke(self, id_: str, revoked_ns: int) -> None:
        """The key with that id is no more; one that was revoked before keeps its time. Raises Unavailable."""
        ...

    def used(self, uses: Mapping[str, int]) -> None:
        """When keys (by id) were last used; an earlier time changes nothing. No `change`. Raises Unavailable."""
        ...


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A customer of ours."""

    id: str
    email: str
    display_name: str
    tier: str
    created_ns: int


class AccountRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An account with what it logs in by. `email_key` is its e-mail as compared; `version` grows with its password."""

    account: Account
    email_key: str
    password: str
    version: int = 1


class AccountStore(Protocol):
    """Accounts by id and by e-mail. Several processes may have it open at once; each change is whole, and stays."""

    def add(self, record: AccountRecord, most: int) -> None:
        """Keep one more. Raises Conflict where the e-mail is taken, TooLarge where there are `most`, Unavailable."""
        ...

    def get(self, id_: str) -> AccountRecord | None:
        """The account with that id. Raises Unavailable."""
        ...

    def find(self, email_key: str) -> AccountRecord | None:
        """The account with that e-mail. Raises Unavailable."""
        ...

    def list(self, limit: int, after: str | None) -> Sequence[Account]:
        """So many, by e-mail as compared; those after that one. Raises Unavailable."""
        ...

    def set_tier(self, id_: str, tier: str) -> None:
        """Put the account on that tier. Raises Unavailable."""
        ...

    def set_password(self, id_: str, password: str) -> None:
        """Keep the hash of another password, and let its version grow. Raises Unavailable."""
        ...

    def rehash(self, id_: str, was: str, password: str) -> None:
        """Keep another hash of the same password, unless it is no longer the one that was. Raises Unavailable."""
        ...
