"""How fast a name may go."""

from hypothesis import given
from hypothesis import strategies as st

from openoutcry.accounts.rates import NAMES_MAX, Rate, Rates, network
from openoutcry.clock import NS


def test_a_household_is_one_caller() -> None:
    assert network("2001:db8:1:2:3:4:5:6") == network("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert network("2001:db8:1:3::9") != network("2001:db8:1:2::9")
    assert network("::ffff:203.0.113.7") == "203.0.113.7"
    assert network("fe80::1%eth0") == "fe80::/64"
    assert network("not:an:address") == "not:an:address"


def test_the_memory_of_names_is_bounded() -> None:
    rates = Rates(0.001, 5)
    for n in range(NAMES_MAX + 10):
        assert rates.wait_s(f"{n}", 0) == 0
    assert len(rates) <= NAMES_MAX


def test_what_is_forgotten_is_what_changes_nothing() -> None:
    rates = Rates(1, 1)
    for n in range(NAMES_MAX - 1):
        rates.wait_s(f"{n}", 0)
    rates.wait_s("busy", NS)
    rates.wait_s("one more", NS)
    assert len(rates) == 2
    assert rates.wait_s("busy", NS) > 0


@given(
    burst=st.integers(1, 5),
    waits_ms=st.lists(st.integers(0, 400), max_size=60),
)
def test_no_window_holds_more_than_the_burst_and_the_rate(burst: int, waits_ms: list[int]) -> None:
    # Waits of the order of the step (100 ms), so that some are taken and some are not.
    rate, now_ns, taken = Rate(10.0, burst), 10**18, []
    for wait_ms in waits_ms:
        now_ns += wait_ms * 1_000_000
        wait_s = rate.wait_s(now_ns)
        if not wait_s:
            taken.append(now_ns)
        else:
            # The wait that was named is enough, and a little less is not.
            assert Rate.wait_s(_copy(rate), now_ns + round(wait_s * NS)) == 0
            assert Rate.wait_s(_copy(rate), now_ns + round(wait_s * NS) - 1_000) > 0
    for i, start_ns in enumerate(taken):
        for count, end_ns in enumerate(taken[i:], 1):
            assert count <= burst + (end_ns - start_ns) / NS * 10 + 1e-6


def _copy(rate: Rate) -> Rate:
    same = Rate(10.0, 1)
    same.__dict__.update(rate.__dict__)
    return same
