"""How fast a caller may go: requests and tokens of language models, each a bucket that a minute fills.

Tokens are held before the work and paid after it: what is held does not flow back until it is known what was used. All of
it is in memory, and of this process alone.
"""

from collections.abc import Callable

import msgspec

from openoutcry.accounts.callers import Caller, Tier
from openoutcry.clock import NS, Clock
from openoutcry.errors import Forbidden, LimitExceeded
from openoutcry.telemetry import Telemetry

CALLERS_MAX = 100_000
MINUTE_NS = 60 * NS


class Bucket(msgspec.Struct, frozen=True):
    """What may be used, what of it is left, and in how many seconds all of it will be."""

    limit: int
    remaining: int
    reset_s: float


class Standing(msgspec.Struct, frozen=True):
    """Where a caller stands; None: it is not limited in that."""

    requests: Bucket | None
    tokens: Bucket | None


class Meter:
    """A bucket of `limit` that is full after a minute without use. Whole numbers alone: it loses nothing."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        # What is used, in parts of which one use has MINUTE_NS and `limit` flow back each nanosecond.
        self._used = 0
        self._at_ns = 0

    def wait_s(self, now_ns: int, many: int = 1) -> float:
        """Take so many; 0, or the seconds until they may be taken (then none was), if what is held is used whole."""
        over = self._parts(now_ns) + (self._held + many - self.limit) * MINUTE_NS
        if over > 0:
            return -(-over // self.limit) / NS
        self._used += many * MINUTE_NS
        return 0.0

    def hold(self, now_ns: int, many: int) -> float:
        """The same, but these are held until they are paid."""
        wait_s = self.wait_s(now_ns, many)
        if not wait_s:
            self._used -= many * MINUTE_NS
            self._held += many
        return wait_s

    def pay(self, now_ns: int, held: int, used: int) -> None:
        """So many were used of those held; or more, which is then owed."""
        self._used = self._parts(now_ns) + used * MINUTE_NS
        self._held -= held

    def bucket(self, now_ns: int) -> Bucket:
        """How it stands."""
        parts = self._parts(now_ns) + self._held * MINUTE_NS
        left = self.limit * MINUTE_NS - parts
        return Bucket(self.limit, max(left // MINUTE_NS, 0), -(-parts // self.limit) / NS)

    def full(self, now_ns: int) -> bool:
        """Whether nothing of it is used: forgetting it changes nothing."""
        return not self._held and not self._parts(now_ns)

    def _parts(self, now_ns: int) -> int:
        # A clock that was set back gives nothing back, and takes nothing.
        self._used = max(self._used - max(now_ns - self._at_ns, 0) * self.limit, 0)
        self._at_ns = now_ns
        return self._used


class _Meters(msgspec.Struct):
    tier: Tier
    requests: Meter | None
    tokens: Meter | None

    def full(self, now_ns: int) -> bool:
        return all(meter is None or meter.full(now_ns) for meter in (self.requests, self.tokens))


class Limits:
    """The meters of callers, CALLERS_MAX at most. No method waits."""

    def __init__(self, clock: Clock, telemetry: Telemetry) -> None:
        self._clock = clock
        self._callers: dict[str, _Meters] = {}
        self._refused = telemetry.counter(
            "callers_limited", "Refused because the caller's tier has no more of it this minute.", ["what"]
        )

    def request(self, caller: Caller) -> Standing:
        """Count one request. Raises LimitExceeded."""
        meters, now_ns = self._meters(caller), self._clock.now_ns()
        wait_s = 0.0 if meters.requests is None else meters.requests.wait_s(now_ns)
        if wait_s:
            self._refused.labels("requests").inc()
            raise LimitExceeded(
                f"tier {caller.tier.name}: {caller.tier.requests_per_min} requests a minute; try again in {wait_s:.3f} s",
                wait_s,
            )
        return _standing(meters, now_ns)

    def standing(self, caller: Caller) -> Standing:
        """How the caller stands; counts nothing."""
        return _standing(self._meters(caller), self._clock.now_ns())

    def reserve(self, caller: Caller, tokens: int) -> Callable[[int], None]:
        """Hold so many tokens. Returns what is to be called once with how many were used. Raises LimitExceeded, Forbidden
        where the tier has no tokens.
        """
        meter, limit = self._meters(caller).tokens, caller.tier.tokens_per_min
        if limit == 0:
            raise Forbidden(f"tier {caller.tier.name} has no tokens of language models")
        if meter is None:
            return lambda _used: None
        wait_s = meter.hold(self._clock.now_ns(), tokens)
        if wait_s:
            self._refused.labels("tokens").inc()
            if tokens > meter.limit:
                # No wait is long enough; a minute is the longest that one could be.
                raise LimitExceeded(
                    f"tier {caller.tier.name}: {meter.limit} tokens a minute, and this may need {tokens}: ask for fewer",
                    60.0,
                )
            raise LimitExceeded(
                f"tier {caller.tier.name}: {meter.limit} tokens a minute; try again in {wait_s:.3f} s", wait_s
            )
        paid = False

        def pay(used: int) -> None:
            nonlocal paid
            assert not paid
            paid = True
            meter.pay(self._clock.now_ns(), tokens, used)

        return pay

    def _meters(self, caller: Caller) -> _Meters:
        id_, tier = caller.id, caller.tier
        found = self._callers.get(id_)
        if found is not None and found.tier == tier:
            return found
        if found is None and len(self._callers) >= CALLERS_MAX:
            self._forget(self._clock.now_ns())
        # Another tier begins anew: what was reserved under the old one is paid there.
        found = self._callers[id_] = _Meters(tier, _meter(tier.requests_per_min), _meter(tier.tokens_per_min))
        return found

    def _forget(self, now_ns: int) -> None:
        self._callers = {id_: meters for id_, meters in self._callers.items() if not meters.full(now_ns)}
        # All of them busy: the ones known longest make room, which errs in favour of the caller.
        for id_ in list(self._callers)[: max(0, len(self._callers) - CALLERS_MAX * 9 // 10)]:
            del self._callers[id_]


def _meter(limit: int | None) -> Meter | None:
    return Meter(limit) if limit else None


def _standing(meters: _Meters, now_ns: int) -> Standing:
    return Standing(
        *(
            _bucket(meter, limit, now_ns)
            for meter, limit in (
                (meters.requests, meters.tier.requests_per_min),
                (meters.tokens, meters.tier.tokens_per_min),
            )
        )
    )


def _bucket(meter: Meter | None, limit: int | None, now_ns: int) -> Bucket | None:
    if meter is not None:
        return meter.bucket(now_ns)
    return None if limit is None else Bucket(limit, 0, 0.0)
