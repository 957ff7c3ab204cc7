"""Whatever Stripe tells, in whatever order and however often: the balance is what a naive reckoning says."""

import asyncio
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry.billing.billing import Billing
from openoutcry.billing.store import CheckoutRecord
from openoutcry.billing.stripe_api import Stripe
from openoutcry.clock import NS, ManualClock
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import FEES, Posting
from openoutcry.stores.billing import SqlBilling
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient
from tests.billing.stripe_fake import KEY, SECRET, disputed, event, refunded, signed

# Prices at which cents are not whole micros, so that sums of rounded parts differ from the rounded sum.
PRICES = (Decimal("0.01"), Decimal("0.03"), Decimal("0.7"))
CENTS = 1_000

Told = tuple[str, int, int]

# Few payments, few sums, many credits: in most lists several events are about one payment while another's money is there to
# be taken by mistake; and half of the events come twice.
kinds = st.sampled_from((*("completed",) * 3, "later", *("refunded",) * 2, "disputed", "won", "lost", "spent"))
events = st.lists(
    st.tuples(kinds, st.integers(0, len(PRICES) - 1), st.sampled_from((100, 101, 333, 999, 1_000, 2_000))),
    min_size=4,
    max_size=14,
)


class Naive:
    """One account, in exact fractions, all of it worked out anew at each event."""

    def __init__(self) -> None:
        self.free = 0
        self.credited: set[int] = set()
        self.refunds: dict[int, int] = defaultdict(int)
        self.disputes: dict[tuple[int, int], str] = {}
        self.due: dict[int, int] = defaultdict(int)
        self.taken: dict[int, int] = defaultdict(int)

    def hear(self, told: Told) -> None:
        kind, payment, cents = told
        if kind == "spent":
            self.free -= min(self.free, cents * 100_000)
        elif kind in {"completed", "later"}:
            if payment not in self.credited:
                self.credited.add(payment)
                self.free += bought(payment, CENTS)
        elif kind == "refunded":
            self.refunds[payment] = max(self.refunds[payment], cents)
        else:
            before = self.disputes.get((payment, cents), "disputed")
            self.disputes[payment, cents] = kind if before == "disputed" else before
        if payment in self.credited and kind != "spent":
            self.take(payment)

    def take(self, payment: int) -> None:
        against = sum(cents for (of, cents), state in self.disputes.items() if of == payment and state != "won")
        wanted = bought(payment, min(self.refunds[payment] + against, CENTS))
        if wanted >= self.due[payment]:
            moved = min(wanted - self.due[payment], self.free)
        else:
            moved = -max(self.taken[payment] - wanted, 0)
        self.due[payment] = wanted
        self.taken[payment] += moved
        self.free -= moved


def bought(payment: int, cents: int) -> int:
    return int(Decimal(cents) * 10_000 // PRICES[payment])


@settings(max_examples=80, deadline=None)
@given(heard=events, twice=st.lists(st.booleans(), min_size=14, max_size=14))
def test_the_balance_is_what_a_naive_reckoning_says(heard: list[Told], twice: list[bool]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(both(Path(folder), heard, twice))


async def both(folder: Path, heard: list[Told], twice: list[bool]) -> None:
    url, clock, http, naive = sqlite_url(folder / "ledger.sqlite3"), ManualClock(10**9 * NS), HttpClient(), Naive()
    books, store = SqlLedger(url), SqlBilling(url)
    ledger = Ledger(books, clock, Telemetry())

    async def freeze(account: str) -> None:
        assert account == "a"

    stripe = Stripe(KEY, SECRET, "http://127.0.0.1:9", http, clock)
    billing = Billing(ledger, store, stripe, freeze, clock, Telemetry(), kai_usd=None)
    try:
        for n, price in enumerate(PRICES):
            store.add(CheckoutRecord(session_id=f"cs_{n}", account="a", cents=CENTS, price=price, at_ns=1))
        for n, told in enumerate(heard):
            for again in range(1 + twice[n]):
                if told[0] == "spent":
                    if not again:
                        await spend(ledger, n, told[2])
                else:
                    body = as_event(n, told)
                    await billing.webhook(body, signed(body, clock.now_ns() // NS))
            naive.hear(told)
            assert (await ledger.balance("a", "KAI")).free == naive.free
        assert await ledger.check() == []
    finally:
        await ledger.close()
        await http.close()
        store.close()
        books.close()


async def spend(ledger: Ledger, n: int, cents: int) -> None:
    amount = min((await ledger.balance("a", "KAI")).free, cents * 100_000)
    if amount:
        await ledger.transfer(f"spent-{n}", [Posting("a", "KAI", -amount), Posting(FEES, "KAI", amount)])


def as_event(n: int, told: Told) -> bytes:
    kind, payment, cents = told
    if kind == "refunded":
        return event(f"evt_{n}", "charge.refunded", refunded(f"pi_{payment}", cents, f"ch_{payment}"))
    if kind in {"disputed", "won", "lost"}:
        about = disputed(
            f"pi_{payment}", cents, "needs_response" if kind == "disputed" else kind, f"du_{payment}_{cents}"
        )
        return event(f"evt_{n}", "charge.dispute.created" if kind == "disputed" else "charge.dispute.closed", about)
    session = {
        "id": f"cs_{payment}",
        "amount_total": CENTS,
        "currency": "usd",
        "payment_status": "paid",
        "payment_intent": f"pi_{payment}",
    }
    name = "checkout.session.completed" if kind == "completed" else "checkout.session.async_payment_succeeded"
    return event(f"evt_{n}", name, session)
