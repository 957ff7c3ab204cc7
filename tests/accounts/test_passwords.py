"""Hashes of passwords: what is kept, what it costs, and how many at once."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher

from openoutcry.accounts.passwords import AT_ONCE_MAX, WAITING_MAX, Passwords
from openoutcry.errors import Invalid, LimitExceeded
from tests.accounts.cheap import Counted


@pytest.fixture
def hasher() -> Counted:
    return Counted()


@pytest.fixture
def passwords(hasher: Counted) -> Iterator[Passwords]:
    made = Passwords(hasher)
    yield made
    made.close()


class Held(Counted):
    """Works only while it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.at_once = self.at_once_most = 0
        self._lock = threading.Lock()

    def verify(self, kept: str, password: bytes, /) -> bool:
        with self._lock:
            self.at_once += 1
            self.at_once_most = max(self.at_once_most, self.at_once)
        self.began.release()
        assert self.go.acquire(timeout=30)
        with self._lock:
            self.at_once -= 1
        return super().verify(kept, password)


async def test_a_password_is_known_by_its_hash(passwords: Passwords) -> None:
    kept = await passwords.hash("correct horse")
    assert kept.startswith("$argon2id$")
    assert "correct horse" not in kept
    assert await passwords.hash("correct horse") != kept, "each has a salt of its own"
    assert await passwords.right(kept, "correct horse")
    for wrong in ("correct hors", "correct horse ", "Correct horse", "", "\ud800", "x" * 10_000):
        assert not await passwords.right(kept, wrong)


@pytest.mark.parametrize("odd", ["pass\x00word", "half \ud800 a character", "пароль пароль", "x" * 256])
async def test_any_characters_make_a_password(passwords: Passwords, odd: str) -> None:
    kept = await passwords.hash(odd)
    assert await passwords.right(kept, odd)
    assert not await passwords.right(kept, odd + "x"), "none is cut off"


@pytest.mark.parametrize("wrong", ["", "1234567", "x" * 257])
async def test_a_password_has_a_length(passwords: Passwords, hasher: Counted, wrong: str) -> None:
    with pytest.raises(Invalid, match="8 to 256 characters"):
        await passwords.hash(wrong)
    assert hasher.work == []


async def test_nobodys_password_is_never_right_and_as_much_work(passwords: Passwords, hasher: Counted) -> None:
    kept = await passwords.hash("correct horse")
    hasher.work.clear()
    assert not await passwords.right(kept, "wrong password")
    assert not await passwords.right(None, "wrong password")
    first, second = hasher.work
    assert first.startswith("verify $argon2id$v=19$m=8,t=1,p=1")
    assert first == second


async def test_what_we_hash_with_are_the_librarys_own_costs() -> None:
    passwords, theirs = Passwords(), PasswordHasher()
    costs = f"$argon2id$v=19$m={theirs.memory_cost},t={theirs.time_cost},p={theirs.parallelism}$"
    kept = await passwords.hash("correct horse")
    passwords.close()
    assert kept.startswith(costs)
    assert passwords._nobodys.startswith(costs)
    assert [len(each) for each in kept.split("$")] == [len(each) for each in passwords._nobodys.split("$")]
    assert theirs.memory_cost >= 64 * 1024


async def test_a_hash_of_other_costs_has_aged(passwords: Passwords) -> None:
    dearer = Passwords(Counted(time_cost=2))
    kept = await passwords.hash("correct horse")
    assert not passwords.aged(kept)
    assert dearer.aged(kept)
    assert await dearer.right(kept, "correct horse")
    dearer.close()


@pytest.mark.parametrize("damaged", ["x", "$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$AAAA"])
async def test_a_damaged_hash_is_nobodys(passwords: Passwords, damaged: str) -> None:
    assert not await passwords.right(damaged, "correct horse")


async def test_few_work_at_once_few_wait_and_the_rest_come_back_later() -> None:
    hasher = Held()
    passwords = Passwords(hasher)
    asked = [asyncio.create_task(passwords.right(None, "a password")) for _ in range(AT_ONCE_MAX + WAITING_MAX)]
    for _ in range(AT_ONCE_MAX):
        await asyncio.to_thread(hasher.began.acquire)
    with pytest.raises(LimitExceeded) as refused:
        await passwords.right(None, "a password")
    assert refused.value.retry_s > 0
    asked[0].cancel()  # whoever leaves does not make room before its work is done
    asked[-1].cancel()  # but does where it had not begun
    await asyncio.gather(asked[0], asked[-1], return_exceptions=True)
    more = asyncio.create_task(passwords.right(None, "a password"))
    await asyncio.sleep(0)
    with pytest.raises(LimitExceeded):
        await passwords.right(None, "a password")
    hasher.go.release(1_000)
    assert await asyncio.gather(*asked[1:-1], more) == [False] * (AT_ONCE_MAX + WAITING_MAX - 1)
    assert hasher.at_once_most == AT_ONCE_MAX
    assert await passwords.right(None, "a password") is False
    passwords.close()
