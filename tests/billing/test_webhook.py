"""What Stripe tells is obeyed once, whatever order and however often; what others tell is refused."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from openoutcry.billing.stripe_api import SIGNED_S_MAX
from openoutcry.clock import NS
from openoutcry.errors import Invalid, LimitExceeded, Refusal, Unavailable, Unknown
from openoutcry.ledger.books import Command, Outcome
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import FEES, Posting
from openoutcry.ledger.store import LedgerStore
from openoutcry.stores.billing import SqlBilling
from openoutcry.stores.ledger import SqlLedger
from openoutcry.telemetry import Telemetry
from tests.billing.conftest import Parts
from tests.billing.stripe_fake import disputed, event, refunded, signed

COMPLETED = "checkout.session.completed"
LATER = "checkout.session.async_payment_succeeded"
REFUNDED = "charge.refunded"
DISPUTED = "charge.dispute.created"
CLOSED = "charge.dispute.closed"


async def paid(parts: Parts, cents: int = 500, account: str = "a", **fields: Any) -> dict[str, Any]:
    return parts.fake.pay(await parts.begun(account, cents), **fields)


async def test_a_paid_session_is_credited_to_whom_it_was_begun_for(parts: Parts) -> None:
    session = await paid(parts, client_reference_id="somebody", metadata={"account": "somebody"})
    await parts.tell("evt_1", COMPLETED, session)
    assert await parts.free() == 500_000_000
    (entry,) = await parts.ledger.statement("a", "KAI")
    assert (entry.transfer, entry.reason) == (f"stripe/session/{session['id']}", "card")
    credit = parts.store.credits([session["id"]])[session["id"]]
    assert (credit.account, credit.cents, credit.micros, credit.price) == ("a", 500, 500_000_000, "0.01")
    assert credit.payment == session["payment_intent"]


async def test_what_stripe_took_counts_and_not_what_was_asked(parts: Parts) -> None:
    await parts.tell("evt_1", COMPLETED, await paid(parts, amount_total=450))
    assert await parts.free() == 450_000_000


async def test_the_price_of_the_checkout_counts_and_not_the_price_of_today(parts: Parts) -> None:
    session = await paid(parts)
    body = event("evt_1", COMPLETED, session)
    await parts.of(kai_usd=None).webhook(body, signed(body, parts.clock.now_ns() // NS))
    assert await parts.free() == 500_000_000


async def test_an_event_again_and_another_of_the_session_credit_nothing_more(parts: Parts) -> None:
    session = await paid(parts)
    for id_, kind in (("evt_1", COMPLETED), ("evt_1", COMPLETED), ("evt_2", LATER), ("evt_3", COMPLETED)):
        await parts.tell(id_, kind, session)
    assert await parts.free() == 500_000_000
    assert parts.telemetry.registry.get_sample_value("openoutcry_billing_credits_total") == 1


async def test_two_events_of_one_session_at_once_credit_once(parts: Parts) -> None:
    session = await paid(parts)
    await asyncio.gather(
        *(parts.tell(f"evt_{n}", kind, session) for n in range(5) for kind in (COMPLETED, LATER, COMPLETED))
    )
    assert await parts.free() == 500_000_000


async def test_a_payment_that_takes_days_is_credited_when_it_is_there(parts: Parts) -> None:
    session = await paid(parts, payment_status="unpaid")
    await parts.tell("evt_1", COMPLETED, session)
    assert await parts.free() == 0
    await parts.tell("evt_2", "checkout.session.async_payment_failed", session)
    assert await parts.free() == 0
    await parts.tell("evt_3", LATER, session)
    assert await parts.free() == 500_000_000


async def test_nothing_paid_is_nothing_credited(parts: Parts) -> None:
    session = await paid(parts, amount_total=0, payment_intent=None)
    await parts.tell("evt_1", COMPLETED, session)
    assert await parts.free() == 0
    assert parts.store.credits([session["id"]])[session["id"]].micros == 0


@pytest.mark.parametrize("kind", ["invoice.paid", "checkout.session.expired", "v2.core.something", ""])
async def test_what_billing_does_not_care_for_is_accepted(parts: Parts, kind: str) -> None:
    await parts.tell("evt_1", kind, await paid(parts))
    assert await parts.free() == 0


async def test_another_currency_is_accepted_and_said_aloud(parts: Parts) -> None:
    await parts.tell("evt_1", COMPLETED, await paid(parts, currency="jpy"))
    assert await parts.free() == 0
    assert parts.alarms("currency") == 1


async def test_a_session_that_is_not_ours_is_accepted_and_said_aloud(parts: Parts) -> None:
    session = parts.fake.begin(client_reference_id="a", metadata={"account": "a"})
    await parts.tell("evt_1", COMPLETED, parts.fake.pay(session["id"]))
    assert await parts.free() == 0
    assert parts.alarms("unknown session") == 1


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (COMPLETED, {"amount_total": None}),
        (COMPLETED, {"amount_total": -5}),
        (COMPLETED, {"amount_total": 10**30}),
        (COMPLETED, {"amount_total": "500"}),
        (COMPLETED, {"amount_total": 0.5}),
        (COMPLETED, {"id": "cs 1"}),
        (COMPLETED, {"id": "cs_1\x00"}),
        (COMPLETED, {"payment_intent": "x" * 500}),
        (REFUNDED, {"amount_refunded": None}),
        (DISPUTED, {"amount": -1, "status": "lost"}),
        (CLOSED, {"amount": 1, "status": None}),
    ],
)
async def test_a_signed_event_that_cannot_be_read_is_accepted_and_said_aloud(
    parts: Parts, kind: str, change: dict[str, Any]
) -> None:
    await parts.tell("evt_1", kind, await paid(parts) | change)
    assert await parts.free() == 0
    assert parts.alarms("unreadable") == 1


async def test_two_sums_of_one_session_are_said_aloud_and_the_first_counts(parts: Parts) -> None:
    session = await paid(parts)
    checkout = parts.store.checkouts([session["id"]])[session["id"]]
    await parts.ledger.transfer(
        f"stripe/session/{session['id']}",
        [Posting("system:issuance", "KAI", -7), Posting(checkout.account, "KAI", 7)],
        "card",
    )
    await parts.tell("evt_1", COMPLETED, session)
    assert await parts.free() == 7
    assert parts.alarms("not credited") == 1


async def test_only_stripe_is_believed(parts: Parts) -> None:
    body = event("evt_1", COMPLETED, await paid(parts))
    now_s = parts.clock.now_ns() // NS
    good = signed(body, now_s)
    forged = signed(body, now_s, "whsec_other")
    digest = good.partition("v1=")[2]
    for wrong in (
        None,
        "",
        forged,
        "t=1",
        "v1=00",
        f"t={now_s},v0={digest}",
        f"t={now_s + 1},v1={digest}",
        f"t=x,v1={digest}",
        "é",
        f"t={now_s},v1=é{digest}",
        good.replace("v1=", "v1=0"),
        "t=" + "9" * 5_000 + ",v1=00",
    ):
        with pytest.raises(Invalid):
            await parts.billing.webhook(body, wrong)
    for tampered in (body.replace(b"500", b"900"), body + b" ", body[:-1], b"", b"\xff" + body):
        with pytest.raises(Invalid):
            await parts.billing.webhook(tampered, good)
    assert await parts.free() == 0
    # While a secret is changed, Stripe signs with both.
    await parts.billing.webhook(body, f"{forged},v1={digest}")
    assert await parts.free() == 500_000_000


async def test_what_was_signed_long_ago_is_no_news(parts: Parts) -> None:
    body = event("evt_1", COMPLETED, await paid(parts))
    now_s = parts.clock.now_ns() // NS
    with pytest.raises(Invalid, match="older than 300 s"):
        await parts.billing.webhook(body, signed(body, now_s - SIGNED_S_MAX - 1))
    await parts.billing.webhook(body, signed(body, now_s - SIGNED_S_MAX))
    assert await parts.free() == 500_000_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b'{"id": "evt_1", "type": "x"}',
        b'{"id": "evt_1", "type": "x", "data": {}}',
        b'{"id": 1, "type": "x", "data": {"object": {}}}',
        b'{"id": "evt 1", "type": "x", "data": {"object": {}}}',
        b'{"id": "evt_1", "type": 5, "data": {"object": {}}}',
    ],
)
async def test_a_signed_body_that_is_no_event_is_refused(parts: Parts, body: bytes) -> None:
    with pytest.raises(Invalid, match="no event"):
        await parts.billing.webhook(body, signed(body, parts.clock.now_ns() // NS))


class Failing:
    """The books of a database that fails at the next batch."""

    def __init__(self, inner: LedgerStore) -> None:
        self.balance, self.entries, self.due, self.check = inner.balance, inner.entries, inner.due, inner.check
        self._inner = inner
        self.refusals: list[Refusal] = []

    def obey(self, commands: Sequence[Command], now_ns: int) -> Sequence[Outcome]:
        if self.refusals:
            raise self.refusals.pop()
        return self._inner.obey(commands, now_ns)


async def test_a_failing_database_makes_stripe_repeat_it(parts: Parts) -> None:
    session = await paid(parts)
    failing = Failing(parts.books)
    parts.billing = parts.of(ledger=Ledger(failing, parts.clock, Telemetry()))
    for refusal in (Unavailable("store", "gone"), LimitExceeded("too much is waiting", 1.0)):
        failing.refusals.append(refusal)
        with pytest.raises(Unavailable):
            await parts.tell("evt_1", COMPLETED, session)
        assert await parts.free() == 0
    await parts.tell("evt_1", COMPLETED, session)
    assert await parts.free() == 500_000_000


async def test_a_refund_takes_back_what_it_bought_and_freezes(parts: Parts) -> None:
    session = await paid(parts)
    payment = session["payment_intent"]
    await parts.tell("evt_1", COMPLETED, session)
    assert parts.frozen == []
    for n, (cents, left) in enumerate([(200, 300), (200, 300), (350, 150), (200, 150), (500, 0), (500, 0)]):
        await parts.tell(f"evt_r{n}", REFUNDED, refunded(payment, cents))
        assert await parts.free() == left * 1_000_000
    assert parts.frozen == ["a"] * 3


async def test_a_refund_that_is_told_before_its_payment_is_not_forgotten(parts: Parts) -> None:
    session = await paid(parts)
    await parts.tell("evt_r", REFUNDED, refunded(session["payment_intent"], 200))
    assert parts.frozen == []
    await parts.tell("evt_1", COMPLETED, session)
    assert await parts.free() == 300_000_000
    assert parts.frozen == ["a"]


async def test_only_what_is_free_is_taken_back_and_only_once(parts: Parts) -> None:
    session = await paid(parts)
    await parts.tell("evt_1", COMPLETED, session)
    await spend(parts, 350_000_000)
    await parts.ledger.hold("call", "a", "KAI", 100_000_000, parts.clock.now_ns() + NS)
    await parts.tell("evt_r", REFUNDED, refunded(session["payment_intent"], 500))
    assert await parts.free() == 0
    assert parts.alarms("spent before its refund") == 1
    # What comes later is not for the old refund, however often it is told.
    await parts.ledger.release("call")
    await parts.tell("evt_r", REFUNDED, refunded(session["payment_intent"], 500))
    assert await parts.free() == 100_000_000
    await parts.tell("evt_2", COMPLETED, await paid(parts))
    await parts.tell("evt_r", REFUNDED, refunded(session["payment_intent"], 500))
    assert await parts.free() == 600_000_000


async def test_who_has_nothing_left_gives_nothing_back(parts: Parts) -> None:
    session = await paid(parts)
    await parts.tell("evt_1", COMPLETED, session)
    await spend(parts, 500_000_000)
    for _ in range(2):
        await parts.tell("evt_r", REFUNDED, refunded(session["payment_intent"], 500))
    await parts.tell("evt_2", COMPLETED, await paid(parts))
    assert await parts.free() == 500_000_000
    assert parts.frozen == ["a"]


async def test_refunds_and_disputes_together_take_back_no_more_than_was_bought(parts: Parts) -> None:
    first, second = await paid(parts), await paid(parts)
    payment = first["payment_intent"]
    await parts.tell("evt_1", COMPLETED, first)
    await parts.tell("evt_2", COMPLETED, second)
    await parts.tell("evt_r", REFUNDED, refunded(payment, 200))
    await parts.tell("evt_d", DISPUTED, disputed(payment, 500))
    assert await parts.free() == 500_000_000


@pytest.mark.parametrize("status", ["won", "warning_closed"])
async def test_a_dispute_that_is_won_gives_back_what_was_taken_for_it(parts: Parts, status: str) -> None:
    session = await paid(parts)
    payment = session["payment_intent"]
    await parts.tell("evt_1", COMPLETED, session)
    await spend(parts, 200_000_000)
    await parts.tell("evt_d", DISPUTED, disputed(payment, 500))
    assert await parts.free() == 0
    for n in range(2):
        await parts.tell(f"evt_c{n}", CLOSED, disputed(payment, 500, status))
        await parts.tell("evt_d", DISPUTED, disputed(payment, 500))
        assert await parts.free() == 300_000_000
    assert parts.frozen == ["a"]


async def test_a_question_that_a_refund_answered_gives_nothing_back(parts: Parts) -> None:
    session = await paid(parts)
    payment = session["payment_intent"]
    await parts.tell("evt_1", COMPLETED, session)
    await parts.tell("evt_d", DISPUTED, disputed(payment, 500, "warning_needs_response"))
    await parts.tell("evt_r", REFUNDED, refunded(payment, 500))
    await parts.tell("evt_c", CLOSED, disputed(payment, 500, "warning_closed"))
    assert await parts.free() == 0


async def test_a_dispute_that_is_lost_stays_taken_and_is_taken_where_nobody_told_of_its_begin(parts: Parts) -> None:
    session = await paid(parts)
    payment = session["payment_intent"]
    await parts.tell("evt_1", COMPLETED, session)
    await parts.tell("evt_c", CLOSED, disputed(payment, 300, "lost"))
    await parts.tell("evt_d", DISPUTED, disputed(payment, 300))
    assert await parts.free() == 200_000_000


async def test_a_sum_in_other_money_means_all_of_it(parts: Parts) -> None:
    session = await paid(parts)
    await parts.tell("evt_1", COMPLETED, session)
    await parts.tell("evt_d", DISPUTED, disputed(session["payment_intent"], 40) | {"currency": "eur"})
    assert await parts.free() == 0


async def test_refunds_of_what_we_did_not_sell_touch_nothing(parts: Parts) -> None:
    session = await paid(parts)
    await parts.tell("evt_1", COMPLETED, session)
    await parts.tell("evt_r", REFUNDED, refunded("pi_other", 500))
    await parts.tell("evt_s", REFUNDED, refunded(session["payment_intent"], 500) | {"payment_intent": None})
    assert await parts.free() == 500_000_000
    assert parts.frozen == []


async def test_an_account_that_is_gone_is_said_aloud(parts: Parts) -> None:
    async def gone(account: str) -> None:
        raise Unknown("no such account")

    session = await paid(parts)
    await parts.tell("evt_1", COMPLETED, session)
    parts.billing = parts.of(freeze=gone)
    await parts.tell("evt_r", REFUNDED, refunded(session["payment_intent"], 500))
    assert await parts.free() == 0
    assert parts.alarms("no account") == 1


async def test_a_freeze_that_fails_is_done_again_with_the_event(parts: Parts) -> None:
    async def failing(account: str) -> None:
        raise Unavailable("store", "gone")

    session = await paid(parts)
    await parts.tell("evt_1", COMPLETED, session)
    whole, parts.billing = parts.billing, parts.of(freeze=failing)
    with pytest.raises(Unavailable):
        await parts.tell("evt_r", REFUNDED, refunded(session["payment_intent"], 200))
    assert await parts.free() == 500_000_000
    parts.billing = whole
    await parts.tell("evt_r", REFUNDED, refunded(session["payment_intent"], 200))
    assert await parts.free() == 300_000_000
    assert parts.frozen == ["a"]


async def test_refunds_of_one_payment_at_once_take_back_the_highest_sum(
    parts: Parts, open_books: Callable[[], SqlLedger], open_billing: Callable[[], SqlBilling]
) -> None:
    session = await paid(parts)
    payment = session["payment_intent"]
    await parts.tell("evt_1", COMPLETED, session)
    ledger = Ledger(open_books(), parts.clock, Telemetry())
    other = parts.of(ledger=ledger, store=open_billing())
    told = [event(f"evt_{cents}", REFUNDED, refunded(payment, cents)) for cents in (100, 200, 300, 400)]
    await asyncio.gather(
        *(
            billing.webhook(body, signed(body, parts.clock.now_ns() // NS))
            for body in told
            for billing in (parts.billing, other)
        )
    )
    await ledger.close()
    assert await parts.free() == 100_000_000


async def spend(parts: Parts, micros: int) -> None:
    postings = [Posting("a", "KAI", -micros), Posting(FEES, "KAI", micros)]
    await parts.ledger.transfer(f"spent-{len(parts.fake.sessions)}-{micros}", postings)
