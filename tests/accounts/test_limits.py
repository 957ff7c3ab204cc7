"""Buckets of requests and tokens, against one that keeps a list of all that happened."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.accounts.callers import OPERATOR, Caller, Tier
from openoutcry.accounts.keys import KeyRecord
from openoutcry.accounts.limits import CALLERS_MAX, MINUTE_NS, Bucket, Limits, Meter, Standing
from openoutcry.accounts.store import Account
from openoutcry.clock import NS, ManualClock
from openoutcry.errors import Forbidden, LimitExceeded
from openoutcry.telemetry import Telemetry

START_NS = 10**18


def by_key(id_: str, tier: Tier = Tier("standard", 60, 1_000)) -> Caller:
    return Caller(None, KeyRecord(id_, "bot", "kai-", "", frozenset(), 1), tier)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_NS)


@pytest.fixture
def limits(clock: ManualClock) -> Limits:
    return Limits(clock, Telemetry())


class Naive:
    """The bucket as one would explain it: a level in fractions, which sinks by `limit` a minute."""

    def __init__(self, limit: int) -> None:
        self.limit, self.level, self.held, self.at_ns = limit, Fraction(0), 0, 0

    def sink(self, now_ns: int) -> None:
        self.level = max(self.level - Fraction(self.limit * (now_ns - self.at_ns), MINUTE_NS), Fraction(0))
        self.at_ns = now_ns

    def fits(self, many: int) -> bool:
        return self.level + self.held + many <= self.limit


# Few tokens in a bucket and waits of the order of one: some are taken, some are not, and held ones lie over each other.
_STEPS = st.lists(
    st.tuples(
        st.integers(0, 20_000_000_000),
        st.one_of(
            st.tuples(st.just("take"), st.integers(1, 6)),
            st.tuples(st.just("hold"), st.integers(1, 6)),
            st.tuples(st.just("pay"), st.integers(0, 9)),
        ),
    ),
    max_size=40,
)


@given(limit=st.integers(1, 12), steps=_STEPS)
def test_a_meter_is_the_naive_bucket(limit: int, steps: list[tuple[int, tuple[str, int]]]) -> None:
    meter, naive, now_ns, held = Meter(limit), Naive(limit), START_NS, list[int]()
    for wait_ns, (what, many) in steps:
        now_ns += wait_ns
        naive.sink(now_ns)
        if what == "pay":
            if held:
                meter.pay(now_ns, held[0], many)
                naive.held -= held.pop(0)
                naive.level += many
        else:
            fits = naive.fits(many)
            wait_s = meter.wait_s(now_ns, many) if what == "take" else meter.hold(now_ns, many)
            assert (wait_s == 0) == fits
            if fits and what == "take":
                naive.level += many
            elif fits:
                naive.held += many
                held.append(many)
            elif not naive.held and many <= limit:
                # The wait that was named is enough, and a little less is not.
                then_ns = now_ns + round(wait_s * NS)
                for at_ns, enough in ((then_ns + 1_000, True), (then_ns - 1_000, False)):
                    later = Naive(limit)
                    later.level, later.at_ns = naive.level, now_ns
                    later.sink(at_ns)
                    assert later.fits(many) == enough
        left = naive.limit - naive.level - naive.held
        assert meter.bucket(now_ns).remaining == max(left.numerator // left.denominator, 0)
        assert meter.full(now_ns) == (naive.level == 0 and not naive.held)


def test_a_minutes_requests_at_once_then_at_the_rate(limits: Limits, clock: ManualClock) -> None:
    caller = by_key("a", Tier("small", 6, 10))
    for n in range(6):
        assert limits.request(caller).requests == Bucket(6, 5 - n, 10.0 * (n + 1))
    with pytest.raises(LimitExceeded, match=r"tier small: 6 requests a minute; try again in 10\.000 s") as refused:
        limits.request(caller)
    assert refused.value.retry_s == 10.0
    assert limits.standing(caller).requests == Bucket(6, 0, 60.0), "who was refused used nothing"


async def test_time_gives_back(limits: Limits, clock: ManualClock) -> None:
    caller = by_key("a", Tier("small", 6, 10))
    for _ in range(6):
        limits.request(caller)
    await clock.advance(10)
    assert limits.request(caller).requests == Bucket(6, 0, 60.0)
    await clock.advance(60)
    assert limits.standing(caller) == Standing(Bucket(6, 6, 0.0), Bucket(10, 10, 0.0))


async def test_tokens_are_held_then_paid(limits: Limits, clock: ManualClock) -> None:
    caller = by_key("a")
    pay = limits.reserve(caller, 700)
    with pytest.raises(LimitExceeded, match="1000 tokens a minute; try again in"):
        limits.reserve(caller, 301)
    await clock.advance(600)
    assert limits.standing(caller).tokens == Bucket(1_000, 300, 42.0), "what is held does not flow back"
    pay(100)
    assert limits.standing(caller).tokens == Bucket(1_000, 900, 6.0)
    await clock.advance(6)
    assert limits.standing(caller).tokens == Bucket(1_000, 1_000, 0.0)


def test_what_was_used_beyond_what_was_held_is_owed(limits: Limits) -> None:
    caller = by_key("a")
    limits.reserve(caller, 100)(1_500)
    assert limits.standing(caller).tokens == Bucket(1_000, 0, 90.0)
    with pytest.raises(LimitExceeded) as refused:
        limits.reserve(caller, 1)
    assert refused.value.retry_s == pytest.approx(30.06)


def test_what_was_held_is_paid_once(limits: Limits) -> None:
    pay = limits.reserve(by_key("a"), 100)
    pay(0)
    with pytest.raises(AssertionError):
        pay(0)


def test_a_question_that_no_minute_holds_is_told_so(limits: Limits) -> None:
    with pytest.raises(LimitExceeded, match="1000 tokens a minute, and this may need 1001: ask for fewer") as refused:
        limits.reserve(by_key("a"), 1_001)
    assert refused.value.retry_s == 60.0


def test_a_tier_without_tokens_has_none(limits: Limits) -> None:
    caller = by_key("a", Tier("frozen", 10, 0))
    with pytest.raises(Forbidden, match="tier frozen has no tokens"):
        limits.reserve(caller, 0)
    assert limits.standing(caller).tokens == Bucket(0, 0, 0.0)


def test_the_operators_keys_are_not_limited(limits: Limits) -> None:
    caller = by_key("a", OPERATOR)
    for _ in range(1_000):
        assert limits.request(caller) == Standing(None, None)
    limits.reserve(caller, 10**9)(10**9)
    assert limits.standing(caller) == Standing(None, None)


def test_each_key_has_limits_of_its_own_and_all_log_ins_of_an_account_share(limits: Limits) -> None:
    tier = Tier("tiny", 1, 1)
    account = Account(id="a", email="a@example.com", display_name="", tier="tiny", created_ns=1)
    key = KeyRecord("a", "bot", "kai-", "", frozenset(), 1)
    limits.request(Caller(account, key, tier))
    limits.request(Caller(account, None, tier))
    limits.request(by_key("b", tier))
    for again in (Caller(account, key, tier), Caller(account, None, tier)):
        with pytest.raises(LimitExceeded):
            limits.request(again)


def test_another_tier_counts_from_the_next_request_on(limits: Limits) -> None:
    limits.request(by_key("a", Tier("tiny", 1, 100)))
    pay = limits.reserve(by_key("a", Tier("tiny", 1, 100)), 50)
    assert limits.request(by_key("a", Tier("big", 10, 1_000))).requests == Bucket(10, 9, 6.0)
    pay(50)
    assert limits.standing(by_key("a", Tier("big", 10, 1_000))).tokens == Bucket(1_000, 1_000, 0.0)


async def test_the_memory_of_callers_is_bounded_and_the_idle_are_forgotten_first(
    limits: Limits, clock: ManualClock
) -> None:
    tier = Tier("tiny", 1, 1)
    for n in range(CALLERS_MAX - 1):
        limits.request(by_key(f"{n}", tier))
    await clock.advance(60)
    limits.request(by_key("busy", tier))
    limits.request(by_key("one more", tier))
    assert len(limits._callers) == 2
    with pytest.raises(LimitExceeded):
        limits.request(by_key("busy", tier))
    for n in range(CALLERS_MAX):
        limits.request(by_key(f"{n}", tier))
    assert len(limits._callers) <= CALLERS_MAX


def test_a_clock_that_was_set_back_gives_nothing(clock: ManualClock) -> None:
    meter = Meter(1)
    assert meter.wait_s(START_NS) == 0
    assert meter.wait_s(START_NS - 10 * MINUTE_NS) == 60.0
    assert meter.wait_s(START_NS - 9 * MINUTE_NS) == 0


def test_refusals_are_counted(clock: ManualClock) -> None:
    telemetry = Telemetry()
    limits, caller = Limits(clock, telemetry), by_key("a", Tier("tiny", 1, 1))
    limits.request(caller)
    for _ in range(2):
        with pytest.raises(LimitExceeded):
            limits.request(caller)
    with pytest.raises(LimitExceeded):
        limits.reserve(caller, 2)
    counted = [
        telemetry.registry.get_sample_value("openoutcry_callers_limited_total", {"what": what})
        for what in ("requests", "tokens")
    ]
    assert counted == [2, 1]
