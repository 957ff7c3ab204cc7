"""Accounts for tests: real argon2 at its least costs, with its work counted."""

from argon2 import PasswordHasher

from openoutcry.accounts.accounts import Accounts
from openoutcry.accounts.passwords import Passwords
from openoutcry.accounts.store import AccountStore
from openoutcry.accounts.tokens import Tokens
from openoutcry.clock import NS, Clock
from openoutcry.config import AccountsConfig
from openoutcry.telemetry import Telemetry

NOW_NS = 1_763_553_600 * NS
SECRET = b"s" * 64


class Counted:
    """argon2 at its least costs; `work` says what it was asked to do, and at which costs."""

    def __init__(self, time_cost: int = 1) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=8, parallelism=1)
        self.time_cost, self.memory_cost, self.parallelism = time_cost, 8, 1
        self.work: list[str] = []

    def hash(self, password: bytes, /) -> str:
        self.work.append("hash")
        return self._hasher.hash(password)

    def verify(self, kept: str, password: bytes, /) -> bool:
        self.work.append(f"verify {kept.rsplit('$', 2)[0]}")
        return self._hasher.verify(kept, password)

    def check_needs_rehash(self, kept: str, /) -> bool:
        return self._hasher.check_needs_rehash(kept)


def accounts(
    store: AccountStore,
    clock: Clock,
    numbers: AccountsConfig | None = None,
    telemetry: Telemetry | None = None,
    passwords: Passwords | None = None,
) -> Accounts:
    """The front door on that store."""
    return Accounts(
        store,
        passwords or Passwords(Counted()),
        Tokens(SECRET, clock),
        clock,
        telemetry or Telemetry(),
        numbers or AccountsConfig(),
    )
