"""Who a key or a login token stands for, and what it may do."""

import pytest

from openoutcry.accounts.accounts import Account, Accounts
from openoutcry.accounts.callers import OPERATOR, Caller, Callers, Tier
from openoutcry.accounts.keys import AI, MARKET, Keys
from openoutcry.accounts.store import AccountRecord
from openoutcry.accounts.tokens import Tokens
from openoutcry.clock import NS, ManualClock
from openoutcry.config import TierConfig
from openoutcry.errors import Forbidden, Unauthenticated, Unavailable
from openoutcry.stores.accounts import MemoryAccounts
from openoutcry.stores.keys import MemoryKeys
from openoutcry.telemetry import Telemetry
from tests.accounts.cheap import NOW_NS, SECRET, accounts

STANDARD, FROZEN = Tier("standard", 60, 100_000), Tier("frozen", 10, 0)
ONE_TEXT = "a key or login token is needed, and there is none that is good"


class Parts:
    """Keys and accounts of one server, and an account."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW_NS)
        self.store = MemoryAccounts()
        self.keys = Keys(MemoryKeys(), b"p" * 32, self.clock, Telemetry())
        self.accounts: Accounts = accounts(self.store, self.clock)
        tiers = {"standard": TierConfig(), "frozen": TierConfig(requests_per_min=10, tokens_per_min=0)}
        self.callers = Callers(self.keys, self.accounts, tiers, "standard")
        self.tokens = Tokens(SECRET, self.clock)
        self.me = self.account("me")

    def account(self, id_: str, tier: str = "standard") -> Account:
        made = Account(id=id_, email=f"{id_}@example.com", display_name="", tier=tier, created_ns=NOW_NS)
        self.store.add(AccountRecord(account=made, email_key=made.email, password=""), 100)
        return made


@pytest.fixture
def parts() -> Parts:
    return Parts()


async def test_a_key_of_an_account_is_that_account_on_its_tier(parts: Parts) -> None:
    record, text = await parts.keys.create("bot", {MARKET}, parts.me.id)
    caller = await parts.callers.caller(text, MARKET)
    assert caller == Caller(parts.me, record, STANDARD)
    assert caller.id == f"key {record.id}"
    assert (await parts.keys.of(parts.me.id))[0].used_ns == NOW_NS


async def test_a_login_token_is_its_account_and_may_do_everything(parts: Parts) -> None:
    caller = await parts.callers.caller(parts.tokens.issue(parts.me.id, 1), "trade")
    assert caller == Caller(parts.me, None, STANDARD)
    assert caller.id == "account me"


async def test_a_key_of_nobodys_is_the_operator(parts: Parts) -> None:
    record, text = await parts.keys.create("bot")
    assert await parts.callers.caller(text, AI) == Caller(None, record, OPERATOR)


async def test_a_key_may_do_what_it_is_for(parts: Parts) -> None:
    record, text = await parts.keys.create("bot", {MARKET}, parts.me.id)
    with pytest.raises(Forbidden, match="lacks the scope 'ai'"):
        await parts.callers.caller(text, AI)
    assert (await parts.callers.caller(text)).key == record, "some routes are for any key"


async def test_the_tier_is_the_accounts_of_now(parts: Parts) -> None:
    _, text = await parts.keys.create("bot", account=parts.me.id)
    token = parts.tokens.issue(parts.me.id, 1)
    await parts.accounts.set_tier(parts.me.id, "frozen")
    for credential in (text, token):
        assert (await parts.callers.caller(credential, AI)).tier == FROZEN


async def test_an_account_on_a_tier_that_is_no_more_is_on_the_usual_one(parts: Parts) -> None:
    gone = parts.account("gone", tier="gold")
    assert (await parts.callers.caller(parts.tokens.issue(gone.id, 1), AI)).tier == STANDARD


async def test_whatever_is_wrong_with_a_credential_the_text_is_the_same(parts: Parts) -> None:
    (revoked, old), (_, expired) = (
        await parts.keys.create("old", account=parts.me.id),
        await parts.keys.create("short", account=parts.me.id, expires_ns=NOW_NS + NS),
    )
    (_, nobodys), stale = await parts.keys.create("lost", account="nobody"), parts.tokens.issue(parts.me.id, 7)
    ended = Tokens(SECRET, parts.clock, 1).issue(parts.me.id, 1)
    await parts.keys.revoke(revoked.id)
    await parts.clock.advance(2)
    wrong = (None, "", "nonsense", "kai-" + "0" * 64, "é" * 68, "..", "a.b.c", "\ud800.a.b")
    for credential in (*wrong, old, expired, nobodys, stale, ended):
        with pytest.raises(Unauthenticated) as refused:
            await parts.callers.caller(credential, MARKET)
        assert refused.value.text == ONE_TEXT, credential


async def test_an_account_that_cannot_be_read_is_not_a_wrong_credential(parts: Parts) -> None:
    class Failing(MemoryAccounts):
        def get(self, id_: str) -> AccountRecord | None:
            raise Unavailable("store", "the disk is gone")

    _, text = await parts.keys.create("bot", account=parts.me.id)
    callers = Callers(parts.keys, accounts(Failing(), parts.clock), {"standard": TierConfig()}, "standard")
    for credential in (text, parts.tokens.issue(parts.me.id, 1)):
        with pytest.raises(Unavailable):
            await callers.caller(credential, MARKET)
