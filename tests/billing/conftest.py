"""A billing on real books, and a Stripe on a real socket."""

from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import URL

from openoutcry.billing.billing import Billing
from openoutcry.billing.stripe_api import Stripe
from openoutcry.clock import NS, ManualClock
from openoutcry.ledger.ledger import Ledger
from openoutcry.stores.billing import SqlBilling
from openoutcry.stores.ledger import SqlLedger
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient
from tests.billing.stripe_fake import KEY, SECRET, StripeFake, event, signed

START_NS = 1_800_000_000 * NS


class Parts:
    """A billing with what it stands on; every test ends with books that balance."""

    def __init__(self, store: SqlBilling, books: SqlLedger, fake: StripeFake, clock: ManualClock) -> None:
        self.store = store
        self.books = books
        self.ledger = Ledger(books, clock, Telemetry())
        self.fake = fake
        self.clock = clock
        self.telemetry = Telemetry()
        self.frozen: list[str] = []
        self.http = HttpClient()
        self.stripe = self.stripe_of()
        self.billing = self.of()

    def stripe_of(self, secret_key: str | None = KEY, webhook_secret: str | None = SECRET, **more: Any) -> Stripe:
        return Stripe(secret_key, webhook_secret, self.fake.url, self.http, Waitless(self.clock), **more)

    def of(self, stripe: Stripe | None = None, **other: Any) -> Billing:
        """A billing that has these parts, but for those that are named."""

        async def freeze(account: str) -> None:
            self.frozen.append(account)

        ours: dict[str, Any] = {
            "ledger": self.ledger,
            "store": self.store,
            "stripe": stripe or self.stripe,
            "freeze": freeze,
            "clock": self.clock,
            "telemetry": self.telemetry,
            "kai_usd": Decimal("0.01"),
        }
        return Billing(**(ours | other))

    async def begun(self, account: str = "a", cents: int = 500) -> str:
        """A checkout of ours, by its id."""
        made = await self.billing.checkout(account, cents, "https://example.com/ok", "https://example.com/no")
        return made.session_id

    async def tell(self, id_: str, kind: str, about: dict[str, Any]) -> None:
        """A webhook that Stripe signs now."""
        body = event(id_, kind, about)
        await self.billing.webhook(body, signed(body, self.clock.now_ns() // NS))

    async def free(self, account: str = "a") -> int:
        return (await self.ledger.balance(account, "KAI")).free

    def alarms(self, why: str) -> float:
        told = self.telemetry.registry.get_sample_value("openoutcry_billing_alarms_total", {"why": why})
        return told or 0.0


class Waitless(ManualClock):
    """A clock of that time on which nobody waits between two tries."""

    def __init__(self, of: ManualClock) -> None:
        super().__init__()
        self.now_ns = of.now_ns  # type: ignore[method-assign]

    async def sleep(self, seconds: float) -> None:
        """Return at once."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_NS)


@pytest.fixture
async def fake(clock: ManualClock) -> AsyncIterator[StripeFake]:
    async with StripeFake(clock).serving() as playing:
        yield playing


@pytest.fixture
def open_billing(books_url: URL) -> Iterator[Callable[[], SqlBilling]]:
    """Opens the same tables, once more each time, as another process would."""
    stores: list[SqlBilling] = []

    def again() -> SqlBilling:
        stores.append(SqlBilling(books_url))
        return stores[-1]

    yield again
    for each in stores:
        each.close()


@pytest.fixture
async def parts(
    open_books: Callable[[], SqlLedger],
    open_billing: Callable[[], SqlBilling],
    fake: StripeFake,
    clock: ManualClock,
) -> AsyncIterator[Parts]:
    made = Parts(open_billing(), open_books(), fake, clock)
    try:
        yield made
        assert await made.ledger.check() == []
    finally:
        await made.http.close()
        await made.ledger.close()
