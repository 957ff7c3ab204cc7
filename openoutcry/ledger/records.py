"""Rows that are written in the very transaction of a command: what was used, what was answered, what was sold.

They move nothing: what moves is the command's. They are there exactly if it was done.
"""

import msgspec

from openoutcry.errors import Invalid
from openoutcry.ledger.postings import Release, Settle, Settlement, Transfer

ROWS_MAX = 10


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One metered call. Amounts are micros of KAI, `tariff` the prices it was admitted at, as text.

    `cost` and `shortfall` come from the settlement that it is written with; a call that failed has neither. `id` is 0
    until it is written, and only grows. `request_id` is ours, and written once.
    """

    request_id: str
    account: str
    endpoint: str
    model: str
    tokens_in: int
    tokens_out: int
    at_ns: int
    id: int = 0
    key: str | None = None
    upstream_id: str = ""
    reasoning_tokens: int | None = None
    cost: int = 0
    shortfall: int = 0
    tariff: str = ""
    latency_ms: int = 0
    ttft_ms: int | None = None
    estimated: bool = False
    status: str = "done"
    error: str = ""


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What an account was answered under a key of its own choice; `fingerprint` says what it had asked."""

    account: str
    key: str
    fingerprint: bytes
    body: bytes
    at_ns: int


class StripeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that Stripe told and that was obeyed."""

    event_id: str
    kind: str
    at_ns: int


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """A session of Stripe that was paid and credited: `cents` of USD at `price` (USD for one KAI, as text) are `micros`.

    `payment` is what its refunds and disputes name; None where nothing was to be paid.
    """

    session_id: str
    account: str
    cents: int
    micros: int
    price: str
    payment: str | None
    at_ns: int


Row = UsageRow | KeptAnswer | StripeEvent | Credit


class Beside(msgspec.Struct, frozen=True):
    """A command, and the rows that are written when it is done the first time; without one, rows that are written once."""

    rows: tuple[Row, ...]
    command: Transfer | Settle | Release | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.rows) <= ROWS_MAX:
            raise Invalid(f"1 to {ROWS_MAX} rows stand beside a command")


def paid(row: Row, settlement: Settlement) -> Row:
    """The row as it is written beside that settlement."""
    if not isinstance(row, UsageRow):
        return row
    return msgspec.structs.replace(row, cost=settlement.charged + settlement.excess, shortfall=settlement.shortfall)
