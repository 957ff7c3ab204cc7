"""A checkout is begun at Stripe as its forms want it, and known to be whose it is before anybody can pay."""

import subprocess
import sys
from decimal import Decimal

import pytest

from openoutcry.billing.billing import CHECKOUTS_A_DAY_MAX
from openoutcry.clock import NS
from openoutcry.errors import Invalid, LimitExceeded, NotConfigured, Refusal, TimedOut, Unavailable
from tests.billing.conftest import Parts
from tests.billing.stripe_fake import KEY

OK, NO = "https://example.com/ok?session={CHECKOUT_SESSION_ID}", "https://example.com/no"


async def test_a_checkout_is_asked_for_in_stripes_own_form(parts: Parts) -> None:
    made = await parts.billing.checkout("a", 1_234, OK, NO)
    (asked,) = parts.fake.asked
    assert (asked.method, asked.path) == ("POST", "/v1/checkout/sessions")
    assert dict(asked.form) == {
        "mode": "payment",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "1234",
        "line_items[0][price_data][product_data][name]": "KAI credits",
        "line_items[0][quantity]": "1",
        "client_reference_id": "a",
        "metadata[account]": "a",
        "success_url": OK,
        "cancel_url": NO,
    }
    assert made.url == parts.fake.sessions[made.session_id]["url"]
    assert made.micros == 1_234_000_000
    record = parts.store.checkouts([made.session_id])[made.session_id]
    assert (record.account, record.cents, record.price) == ("a", 1_234, Decimal("0.01"))


async def test_every_checkout_has_an_idempotency_key_of_its_own_and_a_second_try_the_same(parts: Parts) -> None:
    parts.fake.fail(500)
    parts.billing = parts.of(nonce=iter(("one", "two")).__next__)
    first = await parts.begun()
    second = await parts.begun()
    keys = [asked.headers["idempotency-key"] for asked in parts.fake.asked]
    assert keys == ["checkout-one", "checkout-one", "checkout-two"]
    assert first != second
    assert len(parts.fake.sessions) == 2


@pytest.mark.parametrize(
    ("price", "cents", "micros"),
    [("0.01", 100, 100_000_000), ("0.03", 100, 33_333_333), ("0.07", 100_000, 14_285_714_285), ("3", 101, 336_666)],
)
async def test_what_it_will_buy_is_rounded_down(parts: Parts, price: str, cents: int, micros: int) -> None:
    billing = parts.of(kai_usd=Decimal(price))
    assert (await billing.checkout("a", cents, OK, NO)).micros == micros


async def test_without_a_key_or_a_price_nothing_is_sold(parts: Parts) -> None:
    with pytest.raises(NotConfigured, match=r"models\.kai_usd"):
        await parts.of(kai_usd=None).checkout("a", 500, OK, NO)
    with pytest.raises(NotConfigured, match=r"stripe\.secret_key"):
        await parts.of(parts.stripe_of(secret_key=None)).checkout("a", 500, OK, NO)
    with pytest.raises(NotConfigured, match=r"stripe\.webhook_secret"):
        await parts.of(parts.stripe_of(webhook_secret=None)).webhook(b"{}", "t=1,v1=00")
    assert parts.fake.asked == []


@pytest.mark.parametrize("cents", [0, 99, 100_001, -500])
async def test_an_amount_has_bounds(parts: Parts, cents: int) -> None:
    with pytest.raises(Invalid, match="100 to 100000 cents"):
        await parts.billing.checkout("a", cents, OK, NO)
    assert parts.fake.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/ok",
        "//example.com/ok",
        "javascript:alert(1)",
        "ftp://example.com/ok",
        "https://",
        "https:///ok",
        "https://user@example.com/ok",
        "https://elsewhere.example\\@example.com/ok",
        "https://elsewhere.example\\.example.com/ok",
        "https://example.com/o k",
        "https://example.com/ok\n",
        "https://example.com/öl",
        "https://example.com:port/ok",
        "https://[example.com/ok",
        "https://example.com/" + "o" * 2_048,
    ],
)
async def test_people_are_sent_to_plain_web_addresses_only(parts: Parts, url: str) -> None:
    for urls in ((url, NO), (OK, url)):
        with pytest.raises(Invalid, match="_url"):
            await parts.billing.checkout("a", 500, *urls)
    assert parts.fake.asked == []


async def test_hosts_may_be_named_that_alone_are_allowed(parts: Parts) -> None:
    billing = parts.of(redirect_hosts=("Shop.example", "other.example"))
    await billing.checkout("a", 500, "https://shop.EXAMPLE:8443/ok", "http://other.example/no")
    for strange in (
        "https://shop.example.evil.example/ok",
        "https://evil.example/shop.example",
        "https://xshop.example",
    ):
        with pytest.raises(Invalid, match="host that is not allowed"):
            await billing.checkout("a", 500, strange, "http://other.example/no")
    assert len(parts.fake.asked) == 1


async def test_a_url_that_stripe_refuses_is_the_callers_fault(parts: Parts) -> None:
    parts.fake.fail(400, "url_invalid", "success_url", "invalid_request_error")
    with pytest.raises(Invalid, match="success_url"):
        await parts.begun()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, None),
        (401, None),
        (402, None),
        (403, None),
        (404, None),
        (429, None),
        (500, None),
        (503, None),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"\xff"),
        (200, b"null"),
        (200, b'{"id": 7}'),
        (200, b'{"id": "cs_1", "object": "checkout.session"}'),
        (
            200,
            b'{"id": "../1", "object": "checkout.session", "amount_total": 1, "currency": "usd", "url": "https://x"}',
        ),
        (200, b'{"id": "cs_1", "object": "checkout.session", "amount_total": 1, "currency": "usd", "url": null}'),
        (400, b'{"error": null}'),
        (500, b'{"error": []}'),
    ],
)
async def test_what_stripe_cannot_do_is_said_without_its_words(parts: Parts, status: int, body: bytes | None) -> None:
    for _ in range(2):
        if body is None:
            parts.fake.fail(status, "odd")
        else:
            parts.fake.answers.append((status, body))
    with pytest.raises(Unavailable) as refused:
        await parts.begun()
    assert_quotes_nothing(refused.value, parts)
    assert parts.store.begun("a", 0) == 0


async def test_a_stripe_that_is_silent_or_gone_is_not_waited_for(parts: Parts) -> None:
    parts.fake.silent = True
    hasty = parts.of(parts.stripe_of(call_s_max=0.2))
    with pytest.raises(TimedOut) as late:
        await hasty.checkout("a", 500, OK, NO)
    assert_quotes_nothing(late.value, parts)
    parts.fake.url = "http://127.0.0.1:9"
    with pytest.raises(Unavailable, match="cannot be reached") as gone:
        await parts.of(parts.stripe_of()).checkout("a", 500, OK, NO)
    assert_quotes_nothing(gone.value, parts)


async def test_an_account_begins_only_so_many_a_day(parts: Parts) -> None:
    for _ in range(CHECKOUTS_A_DAY_MAX):
        await parts.begun()
    with pytest.raises(LimitExceeded):
        await parts.begun()
    await parts.begun("b")
    await parts.clock.advance(86_401)
    await parts.begun()
    assert parts.store.begun("a", parts.clock.now_ns() - 86_400 * NS) == 1


def assert_quotes_nothing(refusal: Refusal, parts: Parts) -> None:
    assert KEY not in refusal.text
    assert "127.0.0.1" not in refusal.text
    assert parts.fake.url not in refusal.text


def test_without_the_library_the_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['stripe'] = None\n"
        "from openoutcry.billing.stripe_api import Stripe\n"
        "from openoutcry.clock import ManualClock\n"
        "from openoutcry.errors import NotConfigured\n"
        "try:\n    Stripe('key', 'secret', 'http://127.0.0.1:9', None, ManualClock()).event(b'{}', 't=1,v1=00')\n"
        "except NotConfigured as e:\n    sys.stdout.write(e.text)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 'pip install "openoutcry[stripe]"' in said.stdout
