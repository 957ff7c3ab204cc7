"""Keys, the front door: whose key a text is, and who holds which.

A key is `kai-` and 256 random bits in hex; keys made before were `oo-` and as many in base64url, and stay good. Its text is
shown once, when it is made; what is kept is its HMAC-SHA-256 under a pepper that lies outside the database, so that neither
of the two alone gives a key or lets one be guessed.
"""

import asyncio
import base64
import heapq
import hmac
import secrets
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from openoutcry.accounts.store import KeyRecord, KeyStore
from openoutcry.clock import NS, Clock
from openoutcry.errors import Invalid, TooLarge, Unauthenticated, Unavailable, Unknown
from openoutcry.telemetry import Telemetry

__all__ = ["SCOPES", "KeyRecord", "Keys"]

# What a key may be for: market data, language models, orders.
MARKET, AI, TRADE = "market", "ai", "trade"
SCOPES = frozenset({MARKET, AI, TRADE})

MARK = "kai-"
SECRET_BYTES = 32
# In hex; and of the old form, in base64url without padding.
TEXT_LENGTHS = frozenset({len(MARK) + 2 * SECRET_BYTES, len("oo-") + 43})
ID_BYTES = 5
PREFIX_LENGTH = len(MARK) + 8
LAST_LENGTH = 4
NAME_LENGTH_MAX = 64
KEYS_MAX = 100_000  # that may be used
OF_ACCOUNT_MAX = 5
REFRESH_S = 0.5
USE_WRITTEN_S = 60
NS_MAX = 2**63 - 1
SAID_AGAIN_S = 60.0

log = structlog.get_logger()


class Keys:
    """The keys of the server, held in memory by digest and read again from the store while `run` runs.

    Another process may make and revoke keys in the same store: that is noticed within `refresh_s`. While the store cannot
    be read, the keys known last stay valid. `known`, `authenticate`, `used` and `watch` never wait; the others work in a
    thread. When a key was last used is noted in memory, and written by `run`: at once the first time, then once a minute.
    """

    def __init__(
        self,
        store: KeyStore,
        pepper: bytes,
        clock: Clock,
        telemetry: Telemetry,
        *,
        random: Callable[[int], bytes] = secrets.token_bytes,
        refresh_s: float = REFRESH_S,
        keys_max: int = KEYS_MAX,
        of_account_max: int = OF_ACCOUNT_MAX,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._random = random
        self._refresh_s = refresh_s
        self._keys_max = keys_max
        self._of_account_max = of_account_max
        self._refused = telemetry.counter(
            "keys_refused", "Calls without a key (missing) or with one that is not ours (unknown).", ["why"]
        )
        self._usable = telemetry.gauge("keys", "Keys that may be used now.")
        self._live: dict[bytes, KeyRecord] = {}
        self._digests: dict[str, bytes] = {}
        self._change = -1
        self._expiring: list[tuple[int, bytes]] = []
        # All by id, and of keys that may be used.
        self._uses: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._due: set[str] = set()
        # Bounded by who holds connections: admission counts those.
        self._watches: dict[str, dict[object, Callable[[], None]]] = {}
        # A reading that began before a change must not be taken for the state after it.
        self._turn = asyncio.Lock()
        self._said_ns: int | None = None

    # -- the hot path

    def known(self, text: str) -> KeyRecord | None:
        """The key with that text, if it may be used now. No I/O."""
        # Digests are compared, not texts: how long that takes says nothing about a key.
        if len(text) not in TEXT_LENGTHS or not text.isascii():
            return None
        record = self._live.get(self._digest(text))
        # The clock is asked of the few alone that end by it.
        if record is not None and record.expires_ns is not None and not record.live(self._clock.now_ns()):
            return None
        return record

    def authenticate(self, text: str | None) -> KeyRecord:
        """The key with that text, which is used thereby. Raises Unauthenticated."""
        if not text:
            self._refused.labels("missing").inc()
            raise Unauthenticated("the key is missing")
        record = self.known(text)
        if record is None:
            self._refused.labels("unknown").inc()
            raise Unauthenticated("no such key")
        self.used(record)
        return record

    def used(self, record: KeyRecord) -> None:
        """Note that the key is used now. No I/O."""
        if record.id not in self._digests:
            return
        now_ns = self._uses[record.id] = self._clock.now_ns()
        written_ns = self._written.get(record.id)
        if written_ns is None or now_ns - written_ns >= USE_WRITTEN_S * NS:
            self._due.add(record.id)

    def watch(self, record: KeyRecord, on_revoked: Callable[[], None]) -> Callable[[], None]:
        """Call `on_revoked` once, soon after the key is revoked or expires (also when it is already). Returns the way to stop."""
        watch, watches = object(), self._watches.setdefault(record.id, {})
        watches[watch] = on_revoked

        def stop() -> None:
            if watches.pop(watch, None) is not None and not watches:
                self._watches.pop(record.id, None)

        return stop

    # -- for whoever runs the server

    async def create(
        self,
        name: str,
        scopes: Iterable[str] = SCOPES,
        account: str | None = None,
        *,
        expires_ns: int | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key, and its text, which is not kept. Raises Invalid, Unavailable, TooLarge: there are too many, or too
        many of the account.
        """
        allowed, now_ns = frozenset(scopes), self._clock.now_ns()
        _check(name, allowed)
        if expires_ns is not None and not now_ns < expires_ns <= NS_MAX:
            raise Invalid("a key expires in the future")
        text = MARK + self._random(SECRET_BYTES).hex()
        record = KeyRecord(
            id=base64.b32encode(self._random(ID_BYTES)).decode("ascii").lower(),
            name=name,
            prefix=text[:PREFIX_LENGTH],
            last=text[-LAST_LENGTH:],
            scopes=allowed,
            created_ns=now_ns,
            account=account,
            expires_ns=expires_ns,
        )
        most = None if account is None else self._of_account_max
        async with self._turn:
            await self._read()
            if len(self._live) >= self._keys_max:
                raise TooLarge(f"there are {self._keys_max} keys, and no more may be: revoke one that nobody uses")
            await asyncio.to_thread(self._store.add, self._digest(text), record, most)
            await self._read()
        return record, text

    async def list(self) -> Sequence[KeyRecord]:
        """Every key, oldest first, the revoked ones too. Raises Unavailable."""
        async with self._turn:
            return self._last_uses((await asyncio.to_thread(self._store.all)).values())

    async def of(self, account: str) -> Sequence[KeyRecord]:
        """The account's keys, oldest first, the revoked ones too. Raises Unavailable."""
        return self._last_uses(await asyncio.to_thread(self._store.of, account))

    async def revoke(self, which: str, account: str | None = None) -> KeyRecord:
        """End the key with that id or prefix, at once here and within `refresh_s` elsewhere; gives it as it is now.

        A key that was revoked before stays as it was. With `account` keys of others are unknown. Raises Unknown, Invalid
        (more than one has that prefix), Unavailable.
        """
        async with self._turn:
            hint = (
                "`openoutcry keys list` shows id and prefix of each"
                if account is None
                else "none of yours is called that"
            )
            record = _found(which, await self._candidates(account), hint)
            await asyncio.to_thread(self._store.revoke, record.id, self._clock.now_ns())
            await self._read()
            return next((each for each in await self._candidates(account) if each.id == record.id), record)

    async def load(self) -> None:
        """Read the keys. Raises Unavailable."""
        async with self._turn:
            await self._read()

    async def run(self) -> None:
        """Keep up with the store, and write when keys were used, until cancelled."""
        while True:
            await self._clock.sleep(self._refresh_s)
            try:
                async with self._turn:
                    await self._read()
                    await self._write_uses(self._due)
            except Unavailable as e:
                self._say(e)

    async def close(self) -> None:
        """Write what was not written yet of when keys were used. The store is its owner's to close."""
        try:
            async with self._turn:
                await self._write_uses(self._uses)
        except Unavailable as e:
            log.warning("when keys were last used was not written", error=e.text)

    async def _read(self) -> None:
        # Also while the store cannot be read: keys end by the clock, and a watch may have begun after its key was revoked.
        self._expire()
        self._tell()
        self._change, changed = await asyncio.to_thread(self._store.changed, self._change)
        now_ns = self._clock.now_ns()
        for digest, record in changed.items():
            if not record.live(now_ns):
                self._forget(digest)
                continue
            if record.expires_ns is not None and digest not in self._live:
                heapq.heappush(self._expiring, (record.expires_ns, digest))
            self._live[digest] = record
            self._digests[record.id] = digest
            if record.used_ns is not None:
                self._written.setdefault(record.id, record.used_ns)
        self._tell()

    async def _candidates(self, account: str | None) -> Iterable[KeyRecord]:
        if account is None:
            return (await asyncio.to_thread(self._store.all)).values()
        return await asyncio.to_thread(self._store.of, account)

    def _expire(self) -> None:
        now_ns = self._clock.now_ns()
        while self._expiring and self._expiring[0][0] <= now_ns:
            self._forget(heapq.heappop(self._expiring)[1])

    def _forget(self, digest: bytes) -> None:
        record = self._live.pop(digest, None)
        if record is not None:
            self._digests.pop(record.id, None)
            self._uses.pop(record.id, None)
            self._written.pop(record.id, None)
            self._due.discard(record.id)

    async def _write_uses(self, ids: Iterable[str]) -> None:
        uses = {id_: self._uses[id_] for id_ in ids if self._uses[id_] != self._written.get(id_)}
        if not uses:
            return
        await asyncio.to_thread(self._store.used, uses)
        for id_ in uses.keys() & self._digests.keys():
            self._written[id_] = uses[id_]
        self._due -= uses.keys()

    def _last_uses(self, records: Iterable[KeyRecord]) -> Sequence[KeyRecord]:
        # What is noted and not written yet counts too.
        return [
            msgspec.structs.replace(record, used_ns=max(self._uses.get(record.id, 0), record.used_ns or 0) or None)
            for record in records
        ]

    def _tell(self) -> None:
        self._usable.set(len(self._live))
        for id_ in self._watches.keys() - self._digests.keys():
            watches = self._watches.pop(id_)
            while watches:
                _, on_revoked = watches.popitem()
                try:
                    on_revoked()
                except Exception:  # whatever one stream does wrong, the others must still end
                    log.exception("a stream did not end with its key", key=id_)

    def _say(self, error: Unavailable) -> None:
        now_ns = self._clock.now_ns()
        if self._said_ns is None or now_ns - self._said_ns >= SAID_AGAIN_S * NS:
            self._said_ns = now_ns
            log.warning("keys cannot be read: those known last stay valid", keys=len(self._live), error=error.text)

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._pepper, text.encode("ascii"), "sha256")


def _check(name: str, scopes: frozenset[str]) -> None:
    if not name.strip() or len(name) > NAME_LENGTH_MAX or not name.isprintable():
        raise Invalid(f"a key's name is 1 to {NAME_LENGTH_MAX} printable characters")
    unknown = sorted(scopes - SCOPES)
    if unknown or not scopes:
        what = f"no scope {unknown[0]!r}" if unknown else "a key needs a scope"
        raise Invalid(f"{what}; there are {', '.join(sorted(SCOPES))}")


def _found(which: str, records: Iterable[KeyRecord], hint: str) -> KeyRecord:
    # By prefix only what can still be revoked: old keys must not make a new one ambiguous.
    found = [each for each in records if each.id == which or (each.prefix == which and each.revoked_ns is None)]
    if not found:
        raise Unknown(f"no key {which!r}: {hint}")
    if len(found) > 1:
        raise Invalid(f"{len(found)} keys begin with {which!r}: name one by its id, {', '.join(e.id for e in found)}")
    return found[0]
