"""Keys, the front door: whose key a text is, and who holds which.

A key is `oo-` and 256 random bits in base64url. Its text is shown once, when it is made; what is kept is its HMAC-SHA-256
under a pepper that lies outside the database, so that neither of the two alone gives a key or lets one be guessed.
"""

import asyncio
import base64
import hmac
import secrets
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import structlog

from openoutcry.accounts.store import KeyRecord, KeyStore
from openoutcry.clock import NS, Clock
from openoutcry.errors import Invalid, TooLarge, Unauthenticated, Unavailable, Unknown
from openoutcry.telemetry import Telemetry

__all__ = ["SCOPES", "KeyRecord", "Keys"]

# What a key may be for: market data, language models, orders.
MARKET, AI, TRADE = "market", "ai", "trade"
SCOPES = frozenset({MARKET, AI, TRADE})

MARK = "oo-"
SECRET_BYTES = 32
TEXT_LENGTH = len(MARK) + 43  # 32 bytes in base64url, without padding
ID_BYTES = 5
PREFIX_LENGTH = len(MARK) + 4
LAST_LENGTH = 4
NAME_LENGTH_MAX = 64
KEYS_MAX = 10_000  # that are not revoked
REFRESH_S = 0.5
SAID_AGAIN_S = 60.0

log = structlog.get_logger()


class Keys:
    """The keys of the server, held in memory by digest and read again from the store while `run` runs.

    Another process may make and revoke keys in the same store: that is noticed within `refresh_s`. While the store cannot
    be read, the keys known last stay valid. `known`, `authenticate` and `watch` never wait; the others work in a thread.
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
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._random = random
        self._refresh_s = refresh_s
        self._refused = telemetry.counter(
            "keys_refused", "Calls without a key (missing) or with one that is not ours (unknown).", ["why"]
        )
        self._usable = telemetry.gauge("keys", "Keys that may be used now.")
        self._live: Mapping[bytes, KeyRecord] = {}
        self._ids: frozenset[str] = frozenset()
        self._stamp: Hashable = None
        # Bounded by who holds connections: admission counts those.
        self._watches: dict[str, dict[object, Callable[[], None]]] = {}
        # A reading that began before a change must not be taken for the state after it.
        self._turn = asyncio.Lock()
        self._said_ns: int | None = None

    # -- the hot path

    def known(self, text: str) -> KeyRecord | None:
        """The key with that text, if it may be used now. No I/O."""
        # Digests are compared, not texts: how long that takes says nothing about a key.
        if len(text) != TEXT_LENGTH or not text.isascii():
            return None
        return self._live.get(self._digest(text))

    def authenticate(self, text: str | None) -> KeyRecord:
        """The key with that text. Raises Unauthenticated."""
        if not text:
            self._refused.labels("missing").inc()
            raise Unauthenticated("the key is missing")
        record = self.known(text)
        if record is None:
            self._refused.labels("unknown").inc()
            raise Unauthenticated("no such key")
        return record

    def watch(self, record: KeyRecord, on_revoked: Callable[[], None]) -> Callable[[], None]:
        """Call `on_revoked` once, soon after the key is revoked (also when it is already). Returns the way to stop."""
        watch, watches = object(), self._watches.setdefault(record.id, {})
        watches[watch] = on_revoked

        def stop() -> None:
            if watches.pop(watch, None) is not None and not watches:
                self._watches.pop(record.id, None)

        return stop

    # -- for whoever runs the server

    async def create(self, name: str, scopes: Iterable[str] = SCOPES) -> tuple[KeyRecord, str]:
        """A new key, and its text, which is not kept. Raises Invalid, TooLarge (there are too many), Unavailable."""
        allowed = frozenset(scopes)
        _check(name, allowed)
        text = MARK + base64.urlsafe_b64encode(self._random(SECRET_BYTES)).rstrip(b"=").decode("ascii")
        record = KeyRecord(
            id=base64.b32encode(self._random(ID_BYTES)).decode("ascii").lower(),
            name=name,
            prefix=text[:PREFIX_LENGTH],
            last=text[-LAST_LENGTH:],
            scopes=allowed,
            created_ns=self._clock.now_ns(),
        )
        async with self._turn:
            await self._read()
            if len(self._live) >= KEYS_MAX:
                raise TooLarge(f"there are {KEYS_MAX} keys, and no more may be: revoke one that nobody uses")
            await asyncio.to_thread(self._store.add, self._digest(text), record)
            await self._read()
        return record, text

    async def list(self) -> Sequence[KeyRecord]:
        """Every key, oldest first, the revoked ones too. Raises Unavailable."""
        async with self._turn:
            return list((await asyncio.to_thread(self._store.all)).values())

    async def revoke(self, which: str) -> KeyRecord:
        """End the key with that id or prefix, at once here and within `refresh_s` elsewhere; gives it as it is now.

        A key that was revoked before stays as it was. Raises Unknown, Invalid (more than one has that prefix),
        Unavailable.
        """
        async with self._turn:
            record = _found(which, (await asyncio.to_thread(self._store.all)).values())
            await asyncio.to_thread(self._store.revoke, record.id, self._clock.now_ns())
            everything = await self._read()
        return next((each for each in everything.values() if each.id == record.id), record)

    async def load(self) -> None:
        """Read the keys. Raises Unavailable."""
        async with self._turn:
            await self._read()

    async def run(self) -> None:
        """Keep up with the store until cancelled."""
        while True:
            await self._clock.sleep(self._refresh_s)
            try:
                async with self._turn:
                    # A watch may have begun after its key was revoked.
                    self._tell()
                    if await asyncio.to_thread(self._store.stamp) != self._stamp:
                        await self._read()
            except Unavailable as e:
                self._say(e)

    async def _read(self) -> Mapping[bytes, KeyRecord]:
        # The stamp first: a change between the two is then read once more, and never missed.
        stamp = await asyncio.to_thread(self._store.stamp)
        everything = await asyncio.to_thread(self._store.all)
        self._live = {digest: record for digest, record in everything.items() if record.revoked_ns is None}
        self._ids = frozenset(record.id for record in self._live.values())
        self._stamp = stamp
        self._usable.set(len(self._live))
        self._tell()
        return everything

    def _tell(self) -> None:
        for id_ in self._watches.keys() - self._ids:
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


def _found(which: str, records: Iterable[KeyRecord]) -> KeyRecord:
    # By prefix only what can still be revoked: old keys must not make a new one ambiguous.
    found = [each for each in records if each.id == which or (each.prefix == which and each.revoked_ns is None)]
    if not found:
        raise Unknown(f"no key {which!r}: `openoutcry keys list` shows id and prefix of each")
    if len(found) > 1:
        raise Invalid(f"{len(found)} keys begin with {which!r}: name one by its id, {', '.join(e.id for e in found)}")
    return found[0]
