"""Accounts: registering, logging in, whose a token is, and what others may change meanwhile."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from openoutcry.accounts.accounts import CACHED_MAX, FRESH_S, Account, Accounts
from openoutcry.accounts.passwords import Passwords
from openoutcry.accounts.store import AccountRecord
from openoutcry.accounts.tokens import Tokens
from openoutcry.clock import ManualClock
from openoutcry.config import AccountsConfig, TierConfig
from openoutcry.errors import (
    Conflict,
    Forbidden,
    Invalid,
    LimitExceeded,
    Refusal,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unknown,
)
from openoutcry.stores.accounts import MemoryAccounts
from openoutcry.telemetry import Telemetry
from tests.accounts.cheap import NOW_NS, SECRET, Counted, accounts

EMAIL, PASSWORD = "me@example.com", "correct horse"
UNLIMITED = AccountsConfig(login_limits=False)


class Watched(MemoryAccounts):
    """A store that counts what it is asked, and can be told to fail or to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.gets = 0
        self.asked = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()

    def get(self, id_: str) -> AccountRecord | None:
        self.gets += 1
        self.asked.release()
        if self.fails:
            raise Unavailable("store", "the disk is gone")
        found = super().get(id_)
        assert self.go.wait(30)
        return found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_NS)


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def hasher() -> Counted:
    return Counted()


@pytest.fixture
def passwords(hasher: Counted) -> Iterator[Passwords]:
    made = Passwords(hasher)
    yield made
    made.close()


@pytest.fixture
def doors(store: Watched, clock: ManualClock, passwords: Passwords) -> Accounts:
    return accounts(store, clock, UNLIMITED, passwords=passwords)


def limited(store: Watched, clock: ManualClock, passwords: Passwords, **settings: object) -> Accounts:
    return accounts(store, clock, AccountsConfig.model_validate(settings), passwords=passwords)


async def refusal(waiting: "object") -> Refusal:
    with pytest.raises(Refusal) as refused:
        await waiting  # type: ignore[misc]
    return refused.value


# -- registering


async def test_whoever_registers_is_logged_in_and_can_log_in_again(doors: Accounts, store: Watched) -> None:
    account, token = await doors.register(EMAIL, PASSWORD, "Me")
    assert account == Account(id=account.id, email=EMAIL, display_name="Me", tier="standard", created_ns=NOW_NS)
    assert await doors.of_token(token) == await doors.get(account.id) == await doors.find(EMAIL) == account
    again, other = await doors.login(EMAIL, PASSWORD)
    assert again == account
    assert other != token
    assert await doors.of_token(other) == account
    kept = store.find(EMAIL)
    assert kept is not None
    assert kept.password.startswith("$argon2id$")


async def test_an_e_mail_is_taken_in_any_case_and_logs_in_in_any_case(doors: Accounts) -> None:
    account, _ = await doors.register("Me.Too@Example.COM", PASSWORD)
    assert account.email == "Me.Too@example.com"
    for same in ("me.too@example.com", "ME.TOO@EXAMPLE.COM", "Me.Too@Example.COM"):
        assert isinstance(await refusal(doors.register(same, PASSWORD)), Conflict)
        assert (await doors.login(same, PASSWORD))[0] == account
        assert await doors.find(same) == account
    await doors.register("straße@example.com", PASSWORD)
    assert isinstance(await refusal(doors.register("STRASSE@example.com", PASSWORD)), Conflict)
    assert isinstance(await refusal(doors.login("me.to@example.com", PASSWORD)), Unauthenticated)


@pytest.mark.parametrize(
    "wrong",
    ["", "me", "me@", "@example.com", "me@example", "me@@example.com", "me@example.com\n", "a b@example.com",
     "me@localhost", "me@host.test", "\ud800@example.com", "me@\ud800.com", "é" * 250 + "@example.com", "x" * 1_000_000],
)  # fmt: skip
async def test_what_is_no_e_mail_is_refused(doors: Accounts, hasher: Counted, wrong: str) -> None:
    assert isinstance(await refusal(doors.register(wrong, PASSWORD)), Invalid)
    assert hasher.work == []
    told = await refusal(doors.login(wrong, PASSWORD))
    assert (type(told), told.text) == (Unauthenticated, "the e-mail or the password is wrong")
    assert isinstance(await refusal(doors.find(wrong)), Unknown)


@pytest.mark.parametrize(
    ("password", "name"), [("1234567", ""), ("x" * 257, ""), (PASSWORD, "x" * 101), (PASSWORD, "a\nb")]
)
async def test_a_password_and_a_name_have_their_form(doors: Accounts, password: str, name: str) -> None:
    assert isinstance(await refusal(doors.register(EMAIL, password, name)), Invalid)
    assert await doors.list() == []


async def test_of_two_that_register_one_e_mail_at_once_one_is_told_it_is_taken(doors: Accounts) -> None:
    told = await asyncio.gather(*(doors.register(EMAIL, PASSWORD) for _ in range(5)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in told) == ["Conflict"] * 4 + ["tuple"]


async def test_accounts_end_somewhere(store: Watched, clock: ManualClock, passwords: Passwords) -> None:
    doors = limited(store, clock, passwords, accounts_max=1)
    await doors.register(EMAIL, PASSWORD)
    assert isinstance(await refusal(doors.register("other@example.com", PASSWORD)), TooLarge)


async def test_sign_up_may_be_closed_or_by_invitation(
    store: Watched, clock: ManualClock, passwords: Passwords, hasher: Counted
) -> None:
    off = limited(store, clock, passwords, sign_up="off")
    for invite in ("", "a code of mine"):
        assert isinstance(await refusal(off.register(EMAIL, PASSWORD, invite=invite)), Forbidden)
    invited = limited(store, clock, passwords, sign_up="invite", invite_code=SecretStr("a code of mine"))
    for invite in ("", "a code", "\ud800"):
        assert isinstance(await refusal(invited.register(EMAIL, PASSWORD, invite=invite)), Forbidden)
    assert hasher.work == []
    account, _ = await invited.register(EMAIL, PASSWORD, invite="a code of mine")
    assert (await off.login(EMAIL, PASSWORD))[0] == account
    assert (await off.create("other@example.com", PASSWORD, tier="frozen")).tier == "frozen"


# -- logging in


async def test_a_wrong_e_mail_and_a_wrong_password_are_one_answer_for_one_work(
    doors: Accounts, hasher: Counted
) -> None:
    await doors.register(EMAIL, PASSWORD)
    told, work = [], []
    for email, password in ((EMAIL, "wrong password"), ("nobody@example.com", PASSWORD), ("no e-mail", PASSWORD)):
        hasher.work.clear()
        told.append((await refusal(doors.login(email, password))).text)
        work.append(list(hasher.work))
    assert set(told) == {"the e-mail or the password is wrong"}
    assert work[0] == work[1] == work[2] == ["verify $argon2id$v=19$m=8,t=1,p=1"]


async def test_guessing_is_slow_by_account(
    store: Watched, clock: ManualClock, passwords: Passwords, hasher: Counted
) -> None:
    doors = limited(store, clock, passwords, login_tries_per_min=3)
    await doors.create(EMAIL, PASSWORD)
    hasher.work.clear()
    for n in range(3):
        assert isinstance(
            await refusal(doors.login(EMAIL.upper(), f"guess {n}", address=f"10.0.0.{n}")), Unauthenticated
        )
    for n in range(50):
        told = await refusal(doors.login(EMAIL, PASSWORD, address=f"10.0.1.{n}"))
        assert isinstance(told, LimitExceeded)
        assert told.retry_s == pytest.approx(20)
    assert len(hasher.work) == 3, "who is refused costs nothing"
    await clock.advance(20)
    assert (await doors.login(EMAIL, PASSWORD, address="10.0.2.1"))[0].email == EMAIL


async def test_guessing_is_slow_by_address_whoever_is_guessed(
    store: Watched, clock: ManualClock, passwords: Passwords
) -> None:
    doors = limited(store, clock, passwords, login_tries_per_min=3)
    await doors.create(EMAIL, PASSWORD)
    for n in range(3):
        # A household is one address, as everywhere.
        await refusal(doors.login(f"guess{n}@example.com", PASSWORD, address=f"2001:db8:1:2::{n}"))
    assert isinstance(await refusal(doors.login(EMAIL, PASSWORD, address="2001:db8:1:2::9")), LimitExceeded)
    assert isinstance(
        await refusal(doors.register("new@example.com", PASSWORD, address="2001:db8:1:2::9")), LimitExceeded
    )
    # And used up nothing of the account's own tries.
    for _ in range(3):
        await doors.login(EMAIL, PASSWORD)
    assert isinstance(await refusal(doors.login(EMAIL, PASSWORD)), LimitExceeded)


async def test_logins_are_counted(store: Watched, clock: ManualClock, passwords: Passwords) -> None:
    telemetry = Telemetry()
    doors = accounts(store, clock, AccountsConfig(login_tries_per_min=3), telemetry, passwords)
    await doors.register(EMAIL, PASSWORD)
    await doors.login(EMAIL, PASSWORD)
    await refusal(doors.login(EMAIL, "wrong password"))
    await refusal(doors.login(EMAIL, PASSWORD))
    counted = {
        how: telemetry.registry.get_sample_value("openoutcry_logins_total", {"how": how})
        for how in ("good", "wrong", "limited")
    }
    assert counted == {"good": 1, "wrong": 1, "limited": 1}
    assert telemetry.registry.get_sample_value("openoutcry_accounts_registered_total") == 1


async def test_an_aged_hash_is_made_anew_and_ends_no_token(store: Watched, clock: ManualClock, doors: Accounts) -> None:
    _, token = await doors.register(EMAIL, PASSWORD)
    today = Passwords(Counted(time_cost=2))
    dearer = accounts(store, clock, UNLIMITED, passwords=today)
    await refusal(dearer.login(EMAIL, "wrong password"))
    before = store.find(EMAIL)
    await dearer.login(EMAIL, PASSWORD)
    after = store.find(EMAIL)
    assert before is not None
    assert after is not None
    assert "t=1" in before.password
    assert "t=2" in after.password
    assert (await dearer.login(EMAIL, PASSWORD))[0] == await dearer.of_token(token)
    today.close()


# -- tokens


async def test_another_password_ends_the_tokens_of_the_old_one(doors: Accounts) -> None:
    account, token = await doors.register(EMAIL, PASSWORD)
    _, other = await doors.register("other@example.com", PASSWORD)
    assert await doors.of_token(token) == account
    assert await doors.set_password(account.id, "battery staple") == account
    assert isinstance(await refusal(doors.of_token(token)), Unauthenticated)
    assert isinstance(await refusal(doors.login(EMAIL, PASSWORD)), Unauthenticated)
    _, new = await doors.login(EMAIL, "battery staple")
    assert await doors.of_token(new) == account
    assert (await doors.of_token(other)).email == "other@example.com"


async def test_a_token_of_nobodys_is_refused_as_a_forged_one_is(doors: Accounts, clock: ManualClock) -> None:
    account, _ = await doors.register(EMAIL, PASSWORD)
    ours = Tokens(SECRET, clock)
    texts = set()
    for token in (
        ours.issue("nobody", 1),
        ours.issue(account.id, 2),
        Tokens(b"t" * 64, clock).issue(account.id, 1),
        "no",
    ):
        told = await refusal(doors.of_token(token))
        assert isinstance(told, Unauthenticated)
        texts.add(told.text)
    assert len(texts) == 1


# -- beside another process


async def test_what_another_process_changes_counts_within_a_second(
    store: Watched, clock: ManualClock, doors: Accounts
) -> None:
    account, token = await doors.register(EMAIL, PASSWORD)
    await doors.of_token(token)
    elsewhere = accounts(store, clock, UNLIMITED)
    await elsewhere.set_tier(account.id, "frozen")
    assert (await doors.get(account.id)).tier == "standard", "it is remembered for a moment"
    await clock.advance(FRESH_S)
    assert (await doors.get(account.id)).tier == "frozen"
    await elsewhere.set_password(account.id, "battery staple")
    await clock.advance(FRESH_S)
    assert isinstance(await refusal(doors.of_token(token)), Unauthenticated)
    assert FRESH_S <= 1


async def test_what_is_changed_here_counts_at_once(doors: Accounts) -> None:
    account, _ = await doors.register(EMAIL, PASSWORD)
    await doors.get(account.id)
    assert (await doors.set_tier(account.id, "frozen")).tier == "frozen"
    assert (await doors.get(account.id)).tier == "frozen"


async def test_an_answer_from_before_a_change_is_not_remembered_after_it(doors: Accounts, store: Watched) -> None:
    account, _ = await doors.register(EMAIL, PASSWORD)
    store.go.clear()
    early = asyncio.create_task(doors.get(account.id))
    await asyncio.to_thread(store.asked.acquire)
    changing = asyncio.create_task(doors.set_tier(account.id, "frozen"))
    await asyncio.to_thread(store.asked.acquire)
    store.go.set()
    assert (await changing).tier == "frozen"
    await early
    assert (await doors.get(account.id)).tier == "frozen"


async def test_the_store_is_asked_once_however_many_requests_there_are(
    doors: Accounts, store: Watched, clock: ManualClock
) -> None:
    account, token = await doors.register(EMAIL, PASSWORD)
    store.go.clear()
    asked = [asyncio.create_task(doors.of_token(token)) for _ in range(20)]
    await asyncio.sleep(0)
    asked[0].cancel()
    store.go.set()
    assert await asyncio.gather(*asked[1:]) == [account] * 19
    await doors.get(account.id)
    assert store.gets == 1
    await clock.advance(FRESH_S)
    await doors.get(account.id)
    assert store.gets == 2


async def test_known_accounts_stay_good_while_the_store_fails_and_that_is_said(
    doors: Accounts, store: Watched, clock: ManualClock
) -> None:
    account, token = await doors.register(EMAIL, PASSWORD)
    other, _ = await doors.register("other@example.com", PASSWORD)
    await doors.of_token(token)
    store.fails = True
    with capture_logs() as said:
        for _ in range(240):
            await clock.advance(FRESH_S)
            assert await doors.of_token(token) == account
    assert [each["error"] for each in said] == ["the disk is gone"] * 2
    assert isinstance(await refusal(doors.get(other.id)), Unavailable)
    asked = store.gets
    await doors.get(account.id)
    assert store.gets == asked, "nor is it asked more often than else"


async def test_the_memory_of_accounts_is_bounded(doors: Accounts, store: Watched) -> None:
    for n in range(CACHED_MAX + 5):
        account = Account(id=f"{n}", email=f"{n}", display_name="", tier="standard", created_ns=1)
        store._kept[account.id] = AccountRecord(account=account, email_key=f"{n}", password="")
        await doors.get(account.id)
        await refusal(doors.get(f"nobody {n}")) if n < 5 else None
    assert len(doors._cached) == CACHED_MAX
    assert "nobody 1" not in doors._cached
    assert f"{CACHED_MAX + 4}" in doors._cached


# -- for whoever runs the server


async def test_accounts_are_listed_by_e_mail_a_part_at_a_time(doors: Accounts) -> None:
    for name in "cab":
        await doors.create(f"{name}@example.com", PASSWORD)
    assert [each.email[0] for each in await doors.list()] == ["a", "b", "c"]
    assert [each.email[0] for each in await doors.list(2)] == ["a", "b"]
    assert [each.email[0] for each in await doors.list(2, "B@example.com")] == ["c"]


async def test_a_tier_there_is_none_of_is_refused_with_those_there_are(
    store: Watched, clock: ManualClock, passwords: Passwords
) -> None:
    numbers = AccountsConfig(tiers={"gold": TierConfig(requests_per_min=600)}, tier="gold")
    doors = accounts(store, clock, numbers, passwords=passwords)
    account = await doors.create(EMAIL, PASSWORD)
    assert account.tier == "gold"
    for refused in (doors.set_tier(account.id, "lead"), doors.create("b@example.com", PASSWORD, tier="lead")):
        assert (await refusal(refused)).text == "there is no tier 'lead'; there are frozen, gold, standard"
    assert (await doors.set_tier(account.id, "standard")).tier == "standard"


async def test_nobody_cannot_be_changed(doors: Accounts) -> None:
    for asked in (doors.get("nobody"), doors.set_tier("nobody", "frozen"), doors.set_password("nobody", PASSWORD)):
        assert isinstance(await refusal(asked), Unknown)
