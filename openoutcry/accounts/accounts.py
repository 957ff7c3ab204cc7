"""Accounts, the front door: register, log in, and whose a token is."""

import asyncio
import hmac
import secrets
import unicodedata
import uuid
from collections.abc import Callable, Sequence

import email_validator
import structlog

from openoutcry.accounts.passwords import Passwords
from openoutcry.accounts.rates import Rates, network
from openoutcry.accounts.store import Account, AccountRecord, AccountStore
from openoutcry.accounts.tokens import Tokens
from openoutcry.clock import NS, Clock
from openoutcry.config import AccountsConfig
from openoutcry.errors import Forbidden, Invalid, LimitExceeded, Unauthenticated, Unavailable, Unknown
from openoutcry.telemetry import Telemetry

__all__ = ["Account", "Accounts"]

EMAIL_LENGTH_MAX = 254
DISPLAY_NAME_LENGTH_MAX = 100
# What is asked of every request is kept in memory so long and for so many accounts.
FRESH_S = 0.5
CACHED_MAX = 10_000
LIST_MAX = 1_000
SAID_AGAIN_S = 60.0

log = structlog.get_logger()


class Accounts:
    """The customers of the server. All methods raise Unavailable where the store does not answer.

    `get` and `of_token` remember what they read for FRESH_S: what another process changes counts that much later. While
    the store does not answer, what is remembered stays good.
    """

    def __init__(
        self,
        store: AccountStore,
        passwords: Passwords,
        tokens: Tokens,
        clock: Clock,
        telemetry: Telemetry,
        numbers: AccountsConfig,
        *,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._tokens = tokens
        self._clock = clock
        self._numbers = numbers
        self._random = random
        per_min = numbers.login_tries_per_min
        self._by_address, self._by_email = Rates(per_min / 60, per_min), Rates(per_min / 60, per_min)
        self._logins = telemetry.counter(
            "logins", "Tries to log in: good, wrong (e-mail or password), limited (not looked at).", ["how"]
        )
        self._registered = telemetry.counter("accounts_registered", "Accounts made over HTTP.")
        self._cached: dict[str, tuple[int, AccountRecord]] = {}
        self._asking: dict[str, asyncio.Task[AccountRecord | None]] = {}
        self._said_ns: int | None = None

    async def register(
        self, email: str, password: str, display_name: str = "", *, invite: str = "", address: str = ""
    ) -> tuple[Account, str]:
        """A new account and its login token. Raises Invalid, Conflict (taken), Forbidden (sign-up is closed), TooLarge
        (there are too many accounts), LimitExceeded.
        """
        self._limit(email, address)
        self._welcome(invite)
        account = await self.create(email, password, display_name)
        self._registered.inc()
        return account, self._tokens.issue(account.id, 1)

    async def login(self, email: str, password: str, *, address: str = "") -> tuple[Account, str]:
        """The account and a new login token. Raises Unauthenticated (which of the two is wrong is not said, and costs the
        same work), LimitExceeded.
        """
        self._limit(email, address)
        record = await asyncio.to_thread(self._store.find, _email_key(email))
        right = await self._passwords.right(record.password if record is not None else None, password)
        if record is None or not right:
            self._logins.labels("wrong").inc()
            raise Unauthenticated("the e-mail or the password is wrong")
        if self._passwords.aged(record.password):
            again = await self._passwords.hash(password)
            await asyncio.to_thread(self._store.rehash, record.account.id, record.password, again)
        self._logins.labels("good").inc()
        return record.account, self._tokens.issue(record.account.id, record.version)

    async def of_token(self, token: str) -> Account:
        """Whose it is. Raises Unauthenticated: not ours, no longer good, or of an earlier password."""
        claim = self._tokens.read(token)
        record = await self._record(claim.account)
        if record is None or record.version != claim.version:
            raise Unauthenticated("the login token is not good, or no longer")
        return record.account

    async def get(self, id_: str) -> Account:
        """The account with that id. Raises Unknown."""
        record = await self._record(id_)
        if record is None:
            raise Unknown("there is no such account")
        return record.account

    # -- for whoever runs the server

    async def create(self, email: str, password: str, display_name: str = "", *, tier: str | None = None) -> Account:
        """A new account. Raises Invalid, Conflict (taken), TooLarge (there are too many)."""
        told = _email(email)
        if len(display_name) > DISPLAY_NAME_LENGTH_MAX or not display_name.isprintable():
            raise Invalid(f"a name to show is at most {DISPLAY_NAME_LENGTH_MAX} printable characters")
        account = Account(
            id=str(uuid.UUID(bytes=self._random(16), version=4)),
            email=told,
            display_name=display_name.strip(),
            tier=self._tier(tier or self._numbers.tier),
            created_ns=self._clock.now_ns(),
        )
        kept = await self._passwords.hash(password)
        record = AccountRecord(account=account, email_key=_email_key(told), password=kept)
        await asyncio.to_thread(self._store.add, record, self._numbers.accounts_max)
        return account

    async def find(self, email: str) -> Account:
        """The account with that e-mail. Raises Unknown."""
        record = await asyncio.to_thread(self._store.find, _email_key(email))
        if record is None:
            raise Unknown(f"there is no account {email!r}: `openoutcry accounts list` shows all")
        return record.account

    async def list(self, limit: int = LIST_MAX, after: str | None = None) -> Sequence[Account]:
        """So many (LIST_MAX at most), by e-mail; those after that e-mail."""
        return await asyncio.to_thread(
            self._store.list, max(1, min(limit, LIST_MAX)), None if after is None else _email_key(after)
        )

    async def set_tier(self, id_: str, tier: str) -> Account:
        """Put the account on that tier, at once here and within FRESH_S elsewhere. Raises Unknown, Invalid."""
        await asyncio.to_thread(self._store.set_tier, id_, self._tier(tier))
        return await self._again(id_)

    async def set_password(self, id_: str, password: str) -> Account:
        """Another password; login tokens that were issued before are no longer good. Raises Unknown, Invalid."""
        kept = await self._passwords.hash(password)
        await asyncio.to_thread(self._store.set_password, id_, kept)
        return await self._again(id_)

    def _limit(self, email: str, address: str) -> None:
        if not self._numbers.login_limits:
            return
        now_ns = self._clock.now_ns()
        wait_s = self._by_address.wait_s(network(address), now_ns) if address else 0.0
        wait_s = wait_s or self._by_email.wait_s(_email_key(email), now_ns)
        if wait_s:
            self._logins.labels("limited").inc()
            raise LimitExceeded(f"too many tries: try again in {wait_s:.0f} s", wait_s)

    def _welcome(self, invite: str) -> None:
        numbers = self._numbers
        if numbers.sign_up == "open":
            return
        if numbers.sign_up == "invite" and numbers.invite_code is not None:
            code = numbers.invite_code.get_secret_value()
            if hmac.compare_digest(code.encode(), invite.encode("utf-8", "surrogatepass")):
                return
            raise Forbidden("an account needs an invite code, and this is none")
        raise Forbidden("nobody can register here: ask whoever runs the server")

    def _tier(self, name: str) -> str:
        if name not in self._numbers.tiers:
            raise Invalid(f"there is no tier {name!r}; there are {', '.join(sorted(self._numbers.tiers))}")
        return name

    async def _again(self, id_: str) -> Account:
        # A question that began before the change may still end after it, and must not be remembered.
        self._asking.pop(id_, None)
        self._cached.pop(id_, None)
        return await self.get(id_)

    async def _record(self, id_: str) -> AccountRecord | None:
        cached = self._cached.get(id_)
        if cached is not None and 0 <= self._clock.now_ns() - cached[0] < FRESH_S * NS:
            return cached[1]
        asking = self._asking.get(id_)
        if asking is None:
            asking = self._asking[id_] = asyncio.create_task(self._ask(id_))
        # However many ask, the store is asked once, and whoever leaves takes nothing from the others.
        return await asyncio.shield(asking)

    async def _ask(self, id_: str) -> AccountRecord | None:
        own, now_ns = asyncio.current_task(), self._clock.now_ns()
        try:
            record = await asyncio.to_thread(self._store.get, id_)
        except Unavailable as e:
            cached = self._cached.get(id_)
            if cached is None:
                raise
            self._say(e)
            self._cached[id_] = (now_ns, cached[1])
            return cached[1]
        finally:
            current = self._asking.get(id_) is own
            if current:
                del self._asking[id_]
        if current:
            self._remember(id_, now_ns, record)
        return record

    def _remember(self, id_: str, now_ns: int, record: AccountRecord | None) -> None:
        # Nobody's ids are not remembered: only we issue them.
        self._cached.pop(id_, None)
        if record is None:
            return
        while len(self._cached) >= CACHED_MAX:
            del self._cached[next(iter(self._cached))]  # the one read longest ago
        self._cached[id_] = (now_ns, record)

    def _say(self, error: Unavailable) -> None:
        now_ns = self._clock.now_ns()
        if self._said_ns is None or now_ns - self._said_ns >= SAID_AGAIN_S * NS:
            self._said_ns = now_ns
            log.warning("accounts cannot be read: those known last stay good", error=error.text)


def _email(text: str) -> str:
    """As it is written to. Raises Invalid."""
    if len(text) > EMAIL_LENGTH_MAX:
        raise Invalid("this is no e-mail address")
    try:
        return email_validator.validate_email(text, check_deliverability=False).normalized
    except email_validator.EmailNotValidError as e:
        raise Invalid(f"this is no e-mail address: {e}") from e
    except UnicodeError as e:
        raise Invalid("this is no e-mail address") from e


def _email_key(text: str) -> str:
    """As it is compared: what differs in case alone is the same. A text that is no address is nobody's."""
    try:
        told = _email(text)
    except Invalid:
        # Not an address, and so no account's: but limited and looked up like one.
        told = text[:EMAIL_LENGTH_MAX].encode("utf-8", "replace").decode()
    return unicodedata.normalize("NFC", told.casefold())
