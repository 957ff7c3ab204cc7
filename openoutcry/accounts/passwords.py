"""Passwords as argon2id hashes. A hash costs 64 MiB and a tenth of a second: few at once, and few that wait for their turn."""

import asyncio
import base64
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from openoutcry.errors import Invalid, LimitExceeded

LENGTH_MIN, LENGTH_MAX = 8, 256
AT_ONCE_MAX = 2
WAITING_MAX = 32
CROWDED_RETRY_S = 2.0
SALT_BYTES = 16
HASH_BYTES = 32

_T = TypeVar("_T")


class Hasher(Protocol):
    """What argon2-cffi's PasswordHasher does; its methods take long, and are called in threads."""

    @property
    def time_cost(self) -> int: ...
    @property
    def memory_cost(self) -> int: ...
    @property
    def parallelism(self) -> int: ...

    def hash(self, password: bytes, /) -> str:
        """The password with a salt of its own, in argon2's notation."""
        ...

    def verify(self, kept: str, password: bytes, /) -> bool:
        """True, or a VerificationError."""
        ...

    def check_needs_rehash(self, kept: str, /) -> bool:
        """Whether it was made with other costs."""
        ...


class Passwords:
    """Hashes and verifies, AT_ONCE_MAX at a time. Both raise LimitExceeded where too many are waiting."""

    def __init__(self, hasher: Hasher | None = None, random: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._hasher: Hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(AT_ONCE_MAX, "passwords")
        self._begun = 0
        self._nobodys = _nobodys(self._hasher, random)

    async def hash(self, password: str) -> str:
        """What is kept of a new password. Raises Invalid."""
        if not LENGTH_MIN <= len(password) <= LENGTH_MAX:
            raise Invalid(f"a password is {LENGTH_MIN} to {LENGTH_MAX} characters")
        return await self._work(lambda: self._hasher.hash(_bytes(password)))

    async def right(self, kept: str | None, password: str) -> bool:
        """Whether it is the password. None, for nobody's, is never right, and as much work."""
        verified = await self._work(lambda: self._verified(kept or self._nobodys, password[: LENGTH_MAX + 1]))
        return verified and kept is not None

    def aged(self, kept: str) -> bool:
        """Whether it was hashed at other costs than today's."""
        return self._hasher.check_needs_rehash(kept)

    def close(self) -> None:
        """Wait for what was begun; no more can be."""
        self._threads.shutdown(cancel_futures=True)

    def _verified(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, _bytes(password))
        except (VerificationError, InvalidHashError):
            return False

    async def _work(self, work: Callable[[], _T]) -> _T:
        if self._begun >= AT_ONCE_MAX + WAITING_MAX:
            raise LimitExceeded("too many are logging in at once: try again soon", CROWDED_RETRY_S)
        self._begun += 1
        done = self._threads.submit(work)
        # By the work's own end and not by its caller's, who may leave before: the thread is busy all the same.
        loop = asyncio.get_running_loop()
        done.add_done_callback(lambda _: _ended(loop, self._one_less))
        return await asyncio.wrap_future(done)

    def _one_less(self) -> None:
        self._begun -= 1


def _ended(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(then)


def _bytes(password: str) -> bytes:
    # JSON may hold half a character; it is as good in a password as any other.
    return password.encode("utf-8", "surrogatepass")


def _nobodys(hasher: Hasher, random: Callable[[int], bytes]) -> str:
    """The hash of no password, which costs as much to verify as any, and nothing to make."""
    salt, digest = (base64.b64encode(random(size)).rstrip(b"=").decode("ascii") for size in (SALT_BYTES, HASH_BYTES))
    return f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}${salt}${digest}"
