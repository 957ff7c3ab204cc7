"""Paid sessions that no webhook told of are found at Stripe, and credited as if one had."""

import asyncio
from typing import Any

import pytest

from openoutcry.billing.billing import CHECKOUTS_KEPT_S, EVENTS_KEPT_S, OVERLAP_S, REVERSALS_KEPT_S, Found, Reconciled
from openoutcry.clock import NS
from openoutcry.errors import NotConfigured, Unavailable
from tests.billing.conftest import START_NS, Parts
from tests.billing.stripe_fake import refunded

COMPLETED = "checkout.session.completed"
HOUR_S = 3_600


async def paid(parts: Parts, **fields: Any) -> str:
    return str(parts.fake.pay(await parts.begun(), **fields)["id"])


async def test_what_no_webhook_told_of_is_credited_once(parts: Parts) -> None:
    told, untold = await paid(parts), await paid(parts)
    await parts.tell("evt_1", COMPLETED, parts.fake.sessions[told])
    await parts.begun()  # nobody paid
    await paid(parts, payment_status="unpaid")
    foreign = parts.fake.begin()["id"]
    parts.fake.pay(foreign)
    odd = await paid(parts, currency="eur")
    found = await parts.billing.reconcile()
    assert found == Reconciled(
        credited=(Found(untold, "a", 500, 500_000_000),), already=1, unknown=(foreign,), refused=(odd,)
    )
    assert await parts.free() == 1_000_000_000
    await parts.tell("evt_2", COMPLETED, parts.fake.sessions[untold])
    again = await parts.billing.reconcile()
    assert again == Reconciled(already=2, unknown=(foreign,), refused=(odd,))
    assert await parts.free() == 1_000_000_000


async def test_a_refund_that_was_told_is_taken_from_what_is_found(parts: Parts) -> None:
    session = await paid(parts)
    await parts.tell("evt_1", "charge.refunded", refunded(session.replace("cs_", "pi_"), 200))
    await parts.billing.reconcile()
    assert await parts.free() == 300_000_000
    assert parts.frozen == ["a"]


async def test_it_reads_page_by_page_and_goes_on_where_it_was_stopped(parts: Parts) -> None:
    for n in range(250):
        parts.fake.begin(amount_total=n)
    for id_ in list(parts.fake.sessions):
        parts.fake.pay(id_)
    ours = await paid(parts, amount_total=100)
    billing = parts.of(pages_max=2)
    first = await billing.reconcile()
    assert (len(first.credited), len(first.unknown), first.whole) == (1, 199, False)
    later = await paid(parts)  # at the head, where this look has been
    second = await billing.reconcile()
    assert (len(second.unknown), second.whole) == (51, True)
    third = await parts.billing.reconcile()
    assert [each.session_id for each in third.credited] == [later]
    assert third.already == 1
    assert len(parts.store.credits([ours, later])) == 2
    pages = [asked.query for asked in parts.fake.asked if asked.method == "GET"]
    assert {page["limit"] for page in pages} == {"100"}
    assert ["starting_after" in page for page in pages] == [False, True, True, False, True, True]


async def test_each_look_begins_two_weeks_before_the_last(parts: Parts) -> None:
    slow = await paid(parts, payment_status="unpaid")
    await parts.billing.reconcile()
    await parts.clock.advance(10 * 86_400)
    await parts.billing.reconcile()
    parts.fake.pay(slow)
    await parts.clock.advance(4 * 86_400)
    found = await parts.billing.reconcile()
    assert [each.session_id for each in found.credited] == [slow]
    since = [int(asked.query["created[gte]"]) for asked in parts.fake.asked if asked.method == "GET"]
    start_s = START_NS // NS
    assert since == [start_s - OVERLAP_S, start_s - OVERLAP_S, start_s + 10 * 86_400 - OVERLAP_S]


async def test_a_page_that_cannot_be_had_is_asked_for_again_by_the_next_look(parts: Parts) -> None:
    session = await paid(parts)
    for _ in range(2):
        parts.fake.fail(500)
    with pytest.raises(Unavailable):
        await parts.billing.reconcile()
    found = await parts.billing.reconcile()
    assert [each.session_id for each in found.credited] == [session]


async def test_a_session_that_cannot_be_read_hides_no_other(parts: Parts) -> None:
    session = await paid(parts)
    await paid(parts, amount_total=None)
    found = await parts.billing.reconcile()
    assert [each.session_id for each in found.credited] == [session]


async def test_without_a_key_nothing_is_asked(parts: Parts) -> None:
    with pytest.raises(NotConfigured):
        await parts.of(parts.stripe_of(secret_key=None)).reconcile()


async def test_it_looks_now_and_every_hour_whatever_happens(parts: Parts) -> None:
    first = await paid(parts)
    running = asyncio.create_task(parts.billing.run())
    try:
        await slept(parts)
        assert set(parts.store.credits([first])) == {first}
        second = await paid(parts)
        for _ in range(2):
            parts.fake.fail(503)
        await parts.clock.advance(HOUR_S)
        await slept(parts)
        assert set(parts.store.credits([second])) == set()
        await parts.clock.advance(HOUR_S)
        await slept(parts)
        assert set(parts.store.credits([second])) == {second}
    finally:
        running.cancel()


async def test_it_goes_on_where_nothing_is_sold(parts: Parts) -> None:
    running = asyncio.create_task(parts.of(parts.stripe_of(secret_key=None)).run())
    try:
        await slept(parts)
    finally:
        running.cancel()
    assert parts.fake.asked == []


async def test_what_nobody_will_ask_for_is_forgotten_and_credits_never(parts: Parts) -> None:
    session, unpaid = await paid(parts), await parts.begun()
    payment = session.replace("cs_", "pi_")
    await parts.tell("evt_1", COMPLETED, parts.fake.sessions[session])
    await parts.tell("evt_2", "charge.refunded", refunded(payment, 200))
    await parts.tell("evt_3", "charge.refunded", refunded("pi_other", 200))
    assert await parts.billing.prune() == 0
    await parts.clock.advance(EVENTS_KEPT_S + 1)
    assert await parts.billing.prune() == 3
    await parts.clock.advance(max(CHECKOUTS_KEPT_S, REVERSALS_KEPT_S))
    assert await parts.billing.prune() == 3
    assert parts.store.checkouts([session, unpaid]) == {}
    # All of it comes again: nothing moves.
    await parts.tell("evt_1", COMPLETED, parts.fake.sessions[session])
    await parts.tell("evt_2", "charge.refunded", refunded(payment, 200))
    assert await parts.free() == 300_000_000
    assert parts.frozen == ["a"]


async def slept(parts: Parts) -> None:
    """Until a look is over and the next is waited for."""
    async with asyncio.timeout(30):
        while parts.clock.sleepers == 0:  # noqa: ASYNC110 - a manual clock tells nobody
            await asyncio.sleep(0)
