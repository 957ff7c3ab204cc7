"""What the ledger is asked and what it answers: postings, transfers, holds. What is malformed cannot be made.

Amounts are whole numbers of the asset's smallest units. An owner is a text that whoever calls chooses (an account's id);
owners whose name begins with `system:` are our own side of each movement, and alone may go below zero.
"""

import re
from enum import StrEnum

import msgspec

from openoutcry.errors import Invalid
from openoutcry.money import AMOUNT_MAX

SYSTEM = "system:"
# Where money comes from: below zero by all that was ever given out.
ISSUANCE = "system:issuance"
# Where what was paid for goes.
FEES = "system:fees"

POSTINGS_MAX = 100
NAME_CHARACTERS_MAX = 200
REASON_CHARACTERS_MAX = 200
NS_MAX = 2**63 - 1

# No spaces: the ids of transfers that the ledger makes itself hold one, and so never meet those of callers.
_NAME = re.compile(rf"[\x21-\x7e]{{1,{NAME_CHARACTERS_MAX}}}")


class Posting(msgspec.Struct, frozen=True):
    """What one owner receives (or gives, below zero) of one asset."""

    owner: str
    asset: str
    amount: int

    def __post_init__(self) -> None:
        _named(self.owner, self.asset)
        _whole(self.amount)
        if self.amount == 0 or abs(self.amount) > AMOUNT_MAX:
            raise Invalid(f"a posting moves something, and at most {AMOUNT_MAX}")


class Transfer(msgspec.Struct, frozen=True):
    """Postings that happen together or not at all, and net to zero in each asset. `id` is the caller's."""

    id: str
    postings: tuple[Posting, ...]
    reason: str = ""

    def __post_init__(self) -> None:
        _named(self.id)
        if not 0 < len(self.postings) <= POSTINGS_MAX:
            raise Invalid(f"a transfer has 1 to {POSTINGS_MAX} postings")
        if len(self.reason) > REASON_CHARACTERS_MAX or not self.reason.isprintable():
            raise Invalid(f"a reason is at most {REASON_CHARACTERS_MAX} printable characters")
        if len({(posting.owner, posting.asset) for posting in self.postings}) < len(self.postings):
            raise Invalid("a transfer names each balance once")
        nets: dict[str, int] = {}
        for posting in self.postings:
            nets[posting.asset] = nets.get(posting.asset, 0) + posting.amount
        if any(nets.values()):
            raise Invalid("a transfer nets to zero in each asset")


class Hold(msgspec.Struct, frozen=True):
    """Set aside before the work: nobody else can spend it until it is settled, released, or its deadline has passed."""

    id: str
    owner: str
    asset: str
    amount: int
    deadline_ns: int

    def __post_init__(self) -> None:
        _named(self.id, self.owner, self.asset)
        _whole(self.amount, self.deadline_ns)
        if not 0 < self.amount <= AMOUNT_MAX:
            raise Invalid(f"a hold is of something, and at most of {AMOUNT_MAX}")
        if not 0 <= self.deadline_ns <= NS_MAX:
            raise Invalid("a deadline is a time")
        if self.owner.startswith(SYSTEM):
            raise Invalid("only owners have holds")


class Settle(msgspec.Struct, frozen=True):
    """Pay `used` to `to` out of the hold, the rest goes back."""

    hold: str
    used: int
    to: str = FEES

    def __post_init__(self) -> None:
        _named(self.hold, self.to)
        _whole(self.used)
        if not 0 <= self.used <= AMOUNT_MAX:
            raise Invalid(f"what was used is 0 to {AMOUNT_MAX}")


class Release(msgspec.Struct, frozen=True):
    """Give the hold back whole."""

    hold: str

    def __post_init__(self) -> None:
        _named(self.hold)


class Settlement(msgspec.Struct, frozen=True):
    """How what was used was paid: `charged` out of the hold, `excess` out of what else was free, `shortfall` by nobody."""

    hold: str
    used: int
    charged: int
    excess: int
    shortfall: int


class State(StrEnum):
    """How far a hold is."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"


class HoldRecord(msgspec.Struct, frozen=True):
    """A hold and what became of it. `used`, `shortfall`, `to` and `ended_ns` say nothing while it is open."""

    hold: Hold
    made_ns: int
    state: State = State.OPEN
    used: int = 0
    shortfall: int = 0
    to: str = ""
    ended_ns: int | None = None

    @property
    def settlement(self) -> Settlement:
        """How it was settled."""
        charged = min(self.used, self.hold.amount)
        return Settlement(self.hold.id, self.used, charged, self.used - charged - self.shortfall, self.shortfall)


class Balance(msgspec.Struct, frozen=True):
    """What one owner has of one asset, and how much of it is held."""

    total: int = 0
    held: int = 0

    @property
    def free(self) -> int:
        """What can be spent."""
        return self.total - self.held


class Entry(msgspec.Struct, frozen=True):
    """One line of a statement: a posting, the transfer it is of, and the owner's total after it. `id` only grows."""

    id: int
    transfer: str
    reason: str
    amount: int
    total: int
    at_ns: int


Answer = Transfer | Hold | Settlement | None


class Done(msgspec.Struct, frozen=True):
    """A command that was obeyed: now, or (`repeated`) when its id came first."""

    answer: Answer
    repeated: bool = False


def _named(*names: str) -> None:
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        raise Invalid(f"ids, owners and assets are 1 to {NAME_CHARACTERS_MAX} visible ASCII characters")


def _whole(*numbers: int) -> None:
    # A float (or a bool) that came this far is a bug of ours, and must not become money.
    if not all(type(number) is int for number in numbers):
        raise Invalid("amounts and times are whole numbers")
