"""The front door of what is paid with cards: checkouts, what Stripe tells, and what it told nobody.

Money moves by the ids of Stripe: a session is credited by the transfer `stripe/session/<id>`, whoever tells of it and however
often, and transfers are never forgotten. Rows of events and credits are written in that very transaction. What follows from
an event is done again when the event comes again, so that a process may end anywhere in between.

Refunds and disputes take back at most what is free, and freeze the account, also where the sum was small; a dispute that is
won gives back what was taken for it, and leaves it to the operator to lift the freeze.
"""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from urllib.parse import urlsplit

import msgspec
import structlog

from openoutcry.billing.reversals import Reversal, ReversalState, Taking, micros_of
from openoutcry.billing.store import BillingStore, CheckoutRecord, Mark
from openoutcry.billing.stripe_api import CENTS_MAX, Dispute, Event, Refund, Session, StripeApi
from openoutcry.clock import NS, Clock
from openoutcry.errors import (
    Conflict,
    InsufficientFunds,
    Invalid,
    LimitExceeded,
    NoPrice,
    NotConfigured,
    TooLarge,
    Unavailable,
    Unknown,
)
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import ISSUANCE, NS_MAX, Posting, Settlement
from openoutcry.ledger.records import Credit, Row, StripeEvent
from openoutcry.money import AMOUNT_MAX, KAI
from openoutcry.telemetry import Telemetry

USD_CENTS_MIN = 100
USD_CENTS_MAX = 100_000
URL_CHARACTERS_MAX = 2_048
CHECKOUTS_A_DAY_MAX = 100
CHECKOUTS_RETRY_S = 3_600.0
# How often what is free is looked at again when it changes meanwhile.
TRIES_MAX = 10
DAY_S = 86_400
# Transfers of banks arrive up to two weeks after the checkout: so far back each look at Stripe's sessions begins.
OVERLAP_S = 15 * DAY_S
PAGES_MAX = 100
# A checkout ends within a day, its payment within two weeks; Stripe repeats an event for three days.
CHECKOUTS_KEPT_S = 90 * DAY_S
EVENTS_KEPT_S = 30 * DAY_S
REVERSALS_KEPT_S = 90 * DAY_S
PRUNED_MAX = 1_000
BATCHES_MAX = 100

# Spaces, other letters and backslashes are what browsers and parsers read differently.
_URL = re.compile(rf"[\x21-\x5b\x5d-\x7e]{{1,{URL_CHARACTERS_MAX}}}", re.ASCII)

log = structlog.get_logger()

Freeze = Callable[[str], Awaitable[object]]


class Checkout(msgspec.Struct, frozen=True):
    """Where to pay, and what it buys if all of it is paid."""

    url: str
    session_id: str
    micros: int


class Found(msgspec.Struct, frozen=True):
    """A paid session that was credited now."""

    session_id: str
    account: str
    cents: int
    micros: int


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at Stripe's paid sessions came to. `unknown`: those that are not ours; `refused`: those that cannot be
    credited (another currency). `whole` is False where more is to be looked at, which the next look does.
    """

    credited: tuple[Found, ...] = ()
    already: int = 0
    unknown: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    whole: bool = True


class Billing:
    """Sells KAI. `kai_usd` is what one costs; `freeze` is asked to freeze an account."""

    def __init__(
        self,
        ledger: Ledger,
        store: BillingStore,
        stripe: StripeApi,
        freeze: Freeze,
        clock: Clock,
        telemetry: Telemetry,
        *,
        kai_usd: Decimal | None,
        redirect_hosts: Sequence[str] = (),
        reconcile_s: float = 3_600.0,
        pages_max: int = PAGES_MAX,
        nonce: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._stripe = stripe
        self._freeze = freeze
        self._clock = clock
        self._kai_usd = kai_usd
        self._hosts = frozenset(host.casefold() for host in redirect_hosts)
        self._reconcile_s = reconcile_s
        self._pages_max = pages_max
        self._nonce = nonce
        self._credits = telemetry.counter("billing_credits", "Paid sessions of Stripe that were credited")
        self._takings = telemetry.counter(
            "billing_takings", "Times that money was taken back for a refund or a dispute"
        )
        self._alarms = telemetry.counter("billing_alarms", "What Stripe told that somebody must look at", ["why"])

    async def checkout(self, account: str, usd_cents: int, success_url: str, cancel_url: str) -> Checkout:
        """Begin one. Raises NotConfigured, Invalid, LimitExceeded, Unavailable."""
        if self._kai_usd is None:
            raise NoPrice("models.kai_usd is not set: KAI has no price")
        if not USD_CENTS_MIN <= usd_cents <= USD_CENTS_MAX:
            raise Invalid(f"an amount is {USD_CENTS_MIN} to {USD_CENTS_MAX} cents of USD")
        for name, url in (("success_url", success_url), ("cancel_url", cancel_url)):
            self._check(name, url)
        micros = micros_of(usd_cents, self._kai_usd)
        if not 0 < micros <= AMOUNT_MAX:
            raise Invalid("at the price of KAI that buys nothing, or more than can be kept")
        now_ns = self._clock.now_ns()
        if await asyncio.to_thread(self._store.begun, account, now_ns - DAY_S * NS) >= CHECKOUTS_A_DAY_MAX:
            raise LimitExceeded(f"an account begins {CHECKOUTS_A_DAY_MAX} checkouts a day", CHECKOUTS_RETRY_S)
        session = await self._stripe.open(account, usd_cents, success_url, cancel_url, f"checkout-{self._nonce()}")
        if session.url is None:
            raise Unavailable("stripe", "Stripe gave no address to pay at")
        record = CheckoutRecord(
            session_id=session.id, account=account, cents=usd_cents, price=self._kai_usd, at_ns=now_ns
        )
        # Before the caller can pay: what is paid must be known to be theirs.
        await asyncio.to_thread(self._store.add, record)
        return Checkout(session.url, session.id, micros)

    async def webhook(self, body: bytes, signature: str | None) -> None:
        """Obey what Stripe tells; what is signed is accepted, whatever it is.

        Raises NotConfigured, Invalid where it is not signed, Unavailable where our database failed: Stripe repeats it.
        """
        event = self._stripe.event(body, signature)
        if event.strange:
            self._alarm("unreadable", told=event.id, kind=event.kind, error=event.strange)
        try:
            await self._obey(event)
        except LimitExceeded as e:
            raise Unavailable("store", e.text, e.retry_s) from e

    async def reconcile(self) -> Reconciled:
        """Credit the paid sessions that no webhook told of: those since the last look, and of two weeks before it.

        Raises NotConfigured, Unavailable. What is not looked at for its number, the next one does.
        """
        now_s = self._clock.now_ns() // NS
        mark = await asyncio.to_thread(self._store.mark)
        if mark.since_s is None or mark.began_s is None:
            last_s = now_s if mark.through_s is None else mark.through_s
            mark = msgspec.structs.replace(mark, since_s=max(last_s - OVERLAP_S, 0), began_s=now_s, after=None)
        assert mark.since_s is not None
        found = Reconciled()
        for _ in range(self._pages_max):
            page = await self._stripe.completed(mark.since_s, mark.after)
            found = await self._reconciled(found, [each for each in page.sessions if each.paid])
            mark = msgspec.structs.replace(mark, after=page.after)
            if page.after is None:
                await asyncio.to_thread(self._store.set_mark, Mark(through_s=mark.began_s))
                return found
            await asyncio.to_thread(self._store.set_mark, mark)
        return msgspec.structs.replace(found, whole=False)

    async def prune(self) -> int:
        """Forget what nobody will ask for. Returns how many rows."""
        now_ns = self._clock.now_ns()
        kept = (now_ns - kept_s * NS for kept_s in (CHECKOUTS_KEPT_S, EVENTS_KEPT_S, REVERSALS_KEPT_S))
        checkouts_ns, events_ns, reversals_ns = kept
        gone = 0
        for _ in range(BATCHES_MAX):
            batch = await asyncio.to_thread(self._store.prune, checkouts_ns, events_ns, reversals_ns, PRUNED_MAX)
            gone += batch
            if batch == 0:
                break
        return gone

    async def run(self) -> None:
        """Reconcile and prune now and every `reconcile_s`, until cancelled."""
        while True:
            try:
                found = await self.reconcile()
                for each in found.credited:
                    log.warning("paid, and no webhook told of it", session=each.session_id, account=each.account)
            except NotConfigured:
                pass  # nothing is sold; what was is pruned all the same
            except (LimitExceeded, Unavailable) as e:
                log.warning("paid sessions not reconciled", error=e.text)
            try:
                await self.prune()
            except Unavailable as e:
                log.warning("billing not pruned", error=e.text)
            await self._clock.sleep(self._reconcile_s)

    def _check(self, name: str, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as e:
            raise Invalid(f"{name} is no URL") from e
        if not _URL.fullmatch(url) or parts.scheme not in {"http", "https"} or not host or "@" in parts.netloc:
            raise Invalid(f"{name} is an http or https URL of at most {URL_CHARACTERS_MAX} visible ASCII characters")
        if self._hosts and host not in self._hosts:
            raise Invalid(f"{name} names a host that is not allowed here")

    async def _obey(self, event: Event) -> None:
        told = StripeEvent(event_id=event.id, kind=event.kind, at_ns=self._clock.now_ns())
        match event.about:
            case Session() as session if session.paid:
                await self._paid(session, told)
            case Refund() as refund:
                await self._reversal(refund, refund.charge, ReversalState.OPEN)
            case Dispute() as dispute:
                await self._reversal(dispute, dispute.id, ReversalState(dispute.state))
            case _:
                return
        # Beside its credit it stands already; that of another event of one session, or of a refund, is written here.
        await self._ledger.note([told])

    async def _paid(self, session: Session, told: StripeEvent) -> None:
        known = await asyncio.to_thread(self._store.credits, [session.id])
        if session.id not in known:
            checkouts = await asyncio.to_thread(self._store.checkouts, [session.id])
            checkout = checkouts.get(session.id)
            if checkout is None:
                # Whose it is must not be taken from the event alone.
                self._alarm("unknown session", session=session.id, cents=session.cents)
                return
            await self._credit(session, checkout, (told,))
        if session.payment is not None:
            await self._take_back(session.payment)

    async def _credit(
        self, session: Session, checkout: CheckoutRecord, beside: tuple[StripeEvent, ...] = ()
    ) -> Found | None:
        """None where it cannot be."""
        if session.currency != "usd":
            self._alarm("currency", session=session.id, currency=session.currency)
            return None
        micros = micros_of(session.cents, checkout.price)
        credit = Credit(
            session_id=session.id,
            account=checkout.account,
            cents=session.cents,
            micros=micros,
            price=str(checkout.price),
            payment=session.payment,
            at_ns=self._clock.now_ns(),
        )
        rows: tuple[Row, ...] = (credit, *beside)
        try:
            if micros:
                postings = [Posting(ISSUANCE, KAI.name, -micros), Posting(checkout.account, KAI.name, micros)]
                await self._ledger.transfer(f"stripe/session/{session.id}", postings, "card", beside=rows)
            else:
                await self._ledger.note(rows)
        except (Conflict, Invalid, TooLarge) as e:
            # Another sum than was credited before, or more than can be kept: a repetition would change nothing.
            self._alarm("not credited", session=session.id, cents=session.cents, error=e.text)
            return None
        self._credits.inc()
        return Found(session.id, checkout.account, session.cents, micros)

    async def _reconciled(self, found: Reconciled, sessions: Sequence[Session]) -> Reconciled:
        ids = [each.id for each in sessions]
        known = await asyncio.to_thread(self._store.credits, ids)
        checkouts = await asyncio.to_thread(self._store.checkouts, ids)
        credited, unknown, refused = [], [], []
        for session in sessions:
            if session.id in known:
                continue
            checkout = checkouts.get(session.id)
            if checkout is None:
                unknown.append(session.id)
                continue
            made = await self._credit(session, checkout)
            if made is None:
                refused.append(session.id)
                continue
            credited.append(made)
            if session.payment is not None:
                await self._take_back(session.payment)
        return Reconciled(
            credited=(*found.credited, *credited),
            already=found.already + len(known),
            unknown=(*found.unknown, *unknown),
            refused=(*found.refused, *refused),
        )

    async def _reversal(self, told: Refund | Dispute, source: str, state: ReversalState) -> None:
        payment = told.payment
        if payment is None:
            return  # nothing of ours is paid without one
        # We sell for dollars: a sum in other money says nothing of the part that it is, and means all.
        cents = told.cents if told.currency == "usd" else CENTS_MAX
        reversal = Reversal(payment=payment, source=source, cents=cents, state=state, at_ns=self._clock.now_ns())
        # First remembered, then looked for its credit; a credit is first written, then looks for these. So one of the two
        # finds the other, also when both come at once.
        await asyncio.to_thread(self._store.reverse, reversal)
        await self._take_back(payment)

    async def _take_back(self, payment: str) -> None:
        while (taking := await self._next(payment)) is not None:
            moved = await (self._give(taking) if taking.due < 0 else self._take(taking))
            await asyncio.to_thread(self._store.moved, taking, moved)

    async def _next(self, payment: str) -> Taking | None:
        return await asyncio.to_thread(self._store.next_taking, payment, self._clock.now_ns())

    async def _give(self, taking: Taking) -> int:
        if taking.back:
            postings = [
                Posting(ISSUANCE, KAI.name, -taking.back),
                Posting(taking.account, KAI.name, taking.back),
            ]
            await self._ledger.transfer(f"stripe/given/{taking.payment}/{taking.number}", postings, "dispute won")
        return -taking.back

    async def _take(self, taking: Taking) -> int:
        """As much of it as is free: a hold of that, settled by all that is due. Once, as every hold is settled once."""
        try:
            await self._freeze(taking.account)
        except Unknown:
            self._alarm("no account", account=taking.account, payment=taking.payment)
        hold = f"stripe/taken/{taking.payment}/{taking.number}"
        for _ in range(TRIES_MAX):
            try:
                settlement = await self._ledger.settle(hold, taking.due, ISSUANCE)
            except Unknown:
                pass  # not held yet
            else:
                return self._took(taking, settlement)
            free = (await self._ledger.balance(taking.account, KAI.name)).free
            if free <= 0:
                return self._took(taking, Settlement(hold, taking.due, 0, 0, taking.due))
            try:
                # Without an end: what was begun is ended by the repetition of the event.
                await self._ledger.hold(hold, taking.account, KAI.name, min(taking.due, free), NS_MAX)
            except (InsufficientFunds, Conflict):
                continue  # spent meanwhile, or held by another who is at the same
        raise Unavailable("store", "what is free changes all the time")

    def _took(self, taking: Taking, settlement: Settlement) -> int:
        self._takings.inc()
        if settlement.shortfall:
            self._alarm("spent before its refund", account=taking.account, micros=settlement.shortfall)
        return settlement.charged + settlement.excess

    def _alarm(self, why: str, **fields: object) -> None:
        self._alarms.labels(why).inc()
        log.error("what Stripe told is to be looked at", why=why, **fields)
