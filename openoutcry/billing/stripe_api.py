"""Stripe, as billing sees it: the port, and the real one behind it. Stripe's words end here.

https://docs.stripe.com/api/checkout/sessions
https://docs.stripe.com/webhooks

    {"id": "evt_1", "type": "checkout.session.completed", "data": {"object": {"id": "cs_1", "amount_total": 500,
     "currency": "usd", "payment_status": "paid", "payment_intent": "pi_1", ...}}}
    {"id": "evt_2", "type": "charge.refunded", "data": {"object": {"id": "ch_1", "amount_refunded": 200, "currency": "usd",
     "payment_intent": "pi_1", ...}}}
    {"id": "evt_3", "type": "charge.dispute.closed", "data": {"object": {"id": "du_1", "amount": 500, "currency": "usd",
     "payment_intent": "pi_1", "status": "won", ...}}}

Amounts are cents; `amount_refunded` is what was given back of the charge so far, all refunds together.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import Invalid, NoStripe, TimedOut, Unavailable
from openoutcry.transport import Http

if TYPE_CHECKING:
    from types import ModuleType

    import stripe

PAGE_MAX = 100
# Of one call, its second try included.
CALL_S_MAX = 30.0
RETRIES_MAX = 1
# How old a signature may be: what was overheard cannot be sent again for ever.
SIGNED_S_MAX = 300
CENTS_MAX = 10**12
WHO = "stripe"

COMPLETED = "checkout.session.completed"
PAID_LATER = "checkout.session.async_payment_succeeded"
REFUNDED = "charge.refunded"
DISPUTED = "charge.dispute.created"
DISPUTE_CLOSED = "charge.dispute.closed"
# How a dispute ends that takes nothing from us: it was won, or was a question that never became one.
_WON = frozenset({"won", "warning_closed"})

# Ids become parts of ids of the ledger, and columns.
_ID = re.compile(r"[A-Za-z0-9_-]{1,160}", re.ASCII)

_T = TypeVar("_T")

log = structlog.get_logger()


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A checkout at Stripe, as far as it is. `payment` is what its charge, refunds and disputes will name."""

    id: str
    cents: int
    currency: str
    paid: bool
    payment: str | None = None
    url: str | None = None


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a charge was given back so far, all refunds together."""

    charge: str
    payment: str | None
    cents: int
    currency: str


class Dispute(msgspec.Struct, frozen=True, kw_only=True):
    """The holder of the card wants it back. `state` is open, won or lost."""

    id: str
    payment: str | None
    cents: int
    currency: str
    state: str


class Event(msgspec.Struct, frozen=True):
    """What Stripe told. `about` is None for what billing does not care for, `strange` says why something cannot be read."""

    id: str
    kind: str
    about: Session | Refund | Dispute | None = None
    strange: str = ""


class Page(msgspec.Struct, frozen=True):
    """Completed sessions, newest first; `after` gives the next page, None ends it."""

    sessions: Sequence[Session]
    strange: int
    after: str | None


class StripeApi(Protocol):
    """What billing asks of Stripe. All raise NoStripe where a secret (or the library) is missing."""

    async def open(self, account: str, cents: int, success_url: str, cancel_url: str, key: str) -> Session:
        """A new checkout; with the same `key` the same one. Raises Unavailable, TimedOut, Invalid for a URL that Stripe refuses."""
        ...

    async def completed(self, since_s: int, after: str | None = None) -> Page:
        """Those begun since then that were completed. Raises Unavailable, TimedOut."""
        ...

    def event(self, body: bytes, signature: str | None) -> Event:
        """What Stripe signed. Raises Invalid for what it did not, or too long ago, and for what is no event."""
        ...


class Stripe:
    """The real one. Each call is bounded in time and tried twice at most, under one idempotency key."""

    def __init__(
        self,
        secret_key: str | None,
        webhook_secret: str | None,
        api_base: str,
        http: Http,
        clock: Clock,
        *,
        call_s_max: float = CALL_S_MAX,
    ) -> None:
        self._secret_key = secret_key
        self._webhook_secret = webhook_secret
        self._api_base = api_base
        self._http = http
        self._clock = clock
        self._call_s_max = call_s_max
        self._made: stripe.StripeClient | None = None

    async def open(self, account: str, cents: int, success_url: str, cancel_url: str, key: str) -> Session:
        """A new checkout; with the same `key` the same one. Raises Unavailable, TimedOut, Invalid for a URL that Stripe refuses."""
        client = self._client()
        async with self._asked():
            made = await client.v1.checkout.sessions.create_async(
                {
                    "mode": "payment",
                    "line_items": [
                        {
                            "price_data": {
                                "currency": "usd",
                                "unit_amount": cents,
                                "product_data": {"name": "KAI credits"},
                            },
                            "quantity": 1,
                        }
                    ],
                    "client_reference_id": account,
                    "metadata": {"account": account},
                    "success_url": success_url,
                    "cancel_url": cancel_url,
                },
                {"idempotency_key": key},
            )
            return _told(made.last_response, _Session).session()

    async def completed(self, since_s: int, after: str | None = None) -> Page:
        """Those begun since then that were completed. Raises Unavailable, TimedOut."""
        client = self._client()
        async with self._asked():
            asked: stripe.params.checkout.SessionListParams = {
                "created": {"gte": since_s},
                "status": "complete",
                "limit": PAGE_MAX,
            }
            if after is not None:
                asked["starting_after"] = after
            found = await client.v1.checkout.sessions.list_async(asked)
            page = _told(found.last_response, _List)
            sessions, last = [], None
            for raw in page.data:
                last = msgspec.json.decode(raw, type=_Named).id
                try:
                    sessions.append(msgspec.json.decode(raw, type=_Session).session())
                except (msgspec.ValidationError, ValueError):
                    log.warning("a session of Stripe cannot be read", session=last)
            return Page(sessions, len(page.data) - len(sessions), last if page.has_more else None)

    def event(self, body: bytes, signature: str | None) -> Event:
        """What Stripe signed. Raises Invalid for what it did not, or too long ago, and for what is no event."""
        if self._webhook_secret is None:
            raise NoStripe("stripe.webhook_secret is not set: nothing that comes can be known to be Stripe's")
        library = _library().stripe
        # The library trips over a signature in other letters.
        if not signature or not signature.isascii():
            raise Invalid("the Stripe-Signature header is missing or malformed")
        try:
            # The first half of its construct_event: the other half makes an object that trips over odd bodies, and its
            # tolerance looks at the machine's clock.
            library.WebhookSignature.verify_header(body, signature, self._webhook_secret)
            signed_s = next(int(part.split("=")[1]) for part in signature.split(",") if part.startswith("t="))
        except (library.SignatureVerificationError, ValueError) as e:
            raise Invalid("the signature is not Stripe's for this body") from e
        if signed_s < self._clock.now_ns() // NS - SIGNED_S_MAX:
            raise Invalid(f"the signature is older than {SIGNED_S_MAX} s")
        try:
            told = msgspec.json.decode(body, type=_Event)
            _named(told.id)
        except (msgspec.DecodeError, ValueError) as e:
            raise Invalid("the body is no event of Stripe's") from e
        try:
            return Event(told.id, told.type, _about(told.type, told.data.object))
        except (msgspec.ValidationError, ValueError) as e:
            return Event(told.id, told.type, strange=str(e))

    def _client(self) -> "stripe.StripeClient":
        if self._secret_key is None:
            raise NoStripe("stripe.secret_key is not set: nothing can be paid by card")
        if self._made is None:
            self._made = _library().client(self._secret_key, self._api_base, self._http, self._clock, RETRIES_MAX)
        return self._made

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[None]:
        """What goes wrong inside becomes a refusal of ours. What Stripe says may quote the key: nothing of it goes on."""
        library = _library().stripe
        try:
            async with asyncio.timeout(self._call_s_max):
                yield
        except TimeoutError:
            raise TimedOut(WHO, "Stripe did not answer in time") from None
        except library.InvalidRequestError as e:
            if e.param in {"success_url", "cancel_url"}:
                raise Invalid(f"Stripe does not take that {e.param}") from None
            log.warning("Stripe refused a request of ours", status=e.http_status, code=e.code, param=e.param)
            raise Unavailable(WHO, "Stripe refused what we asked") from None
        except library.APIConnectionError:
            raise Unavailable(WHO, "Stripe cannot be reached") from None
        except library.StripeError as e:
            log.warning("Stripe failed", status=e.http_status, code=e.code, kind=type(e).__name__)
            raise Unavailable(WHO, "Stripe does not serve us now") from None
        except (msgspec.DecodeError, ValueError, AttributeError, TypeError, KeyError) as e:
            # Also what the library raises where an answer is no object, or its error none.
            log.warning("an answer is not Stripe's", kind=type(e).__name__)
            raise Unavailable(WHO, "Stripe's answer cannot be read") from None


class _Named(msgspec.Struct, frozen=True):
    id: str


class _Session(msgspec.Struct, frozen=True):
    id: str
    amount_total: int | None = None
    currency: str | None = None
    payment_status: str = ""
    payment_intent: str | None = None
    url: str | None = None

    def session(self, *, paid: bool = False) -> Session:
        """Raises ValueError."""
        return Session(
            id=_named(self.id),
            cents=_cents(self.amount_total),
            currency=self.currency or "",
            paid=paid or self.payment_status == "paid",
            payment=None if self.payment_intent is None else _named(self.payment_intent),
            url=self.url,
        )


class _Charge(msgspec.Struct, frozen=True):
    id: str
    amount_refunded: int
    currency: str
    payment_intent: str | None = None


class _Dispute(msgspec.Struct, frozen=True):
    id: str
    amount: int
    currency: str
    status: str
    payment_intent: str | None = None


class _List(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]
    has_more: bool


class _Data(msgspec.Struct, frozen=True):
    object: msgspec.Raw


class _Event(msgspec.Struct, frozen=True):
    id: str
    type: str
    data: _Data


def _about(kind: str, told: msgspec.Raw) -> Session | Refund | Dispute | None:
    if kind in {COMPLETED, PAID_LATER}:
        return msgspec.json.decode(told, type=_Session).session(paid=kind == PAID_LATER)
    if kind == REFUNDED:
        charge = msgspec.json.decode(told, type=_Charge)
        payment = None if charge.payment_intent is None else _named(charge.payment_intent)
        return Refund(
            charge=_named(charge.id), payment=payment, cents=_cents(charge.amount_refunded), currency=charge.currency
        )
    if kind in {DISPUTED, DISPUTE_CLOSED}:
        dispute = msgspec.json.decode(told, type=_Dispute)
        payment = None if dispute.payment_intent is None else _named(dispute.payment_intent)
        ended = "won" if dispute.status in _WON else "lost"
        return Dispute(
            id=_named(dispute.id),
            payment=payment,
            cents=_cents(dispute.amount),
            currency=dispute.currency,
            state="open" if kind == DISPUTED else ended,
        )
    return None


def _told(answer: "stripe.StripeResponse | None", kind: type[_T]) -> _T:
    assert answer is not None
    return msgspec.json.decode(answer.body, type=kind)


def _named(id_: str) -> str:
    if not _ID.fullmatch(id_):
        raise ValueError("an id is not Stripe's")
    return id_


def _cents(amount: int | None) -> int:
    if amount is None or not 0 <= amount <= CENTS_MAX:
        raise ValueError("an amount is missing or out of range")
    return amount


def _library() -> "ModuleType":
    try:
        from openoutcry.billing import stripe_library
    except ModuleNotFoundError as e:
        raise NoStripe('Stripe\'s library is not installed: pip install "openoutcry[stripe]"') from e
    return stripe_library
