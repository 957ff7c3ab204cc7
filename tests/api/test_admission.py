"""Rates and connections, per address and in all."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.api.admission import ADDRESSES_MAX, Admission, Rate, network
from openoutcry.clock import NS, ManualClock
from openoutcry.errors import LimitExceeded

FAR = "203.0.113.7"


async def test_a_burst_then_the_rate() -> None:
    clock = ManualClock(10**18)
    gate = Admission(clock, requests_per_s=10, burst=3)
    for _ in range(3):
        gate.request(FAR)
    with pytest.raises(LimitExceeded) as refused:
        gate.request(FAR)
    assert refused.value.retry_s == pytest.approx(0.1)
    await clock.advance(0.1)
    gate.request(FAR)
    assert gate.refused == 1


def test_addresses_do_not_share_a_rate() -> None:
    gate = Admission(ManualClock(10**18), requests_per_s=1, burst=1)
    gate.request(FAR)
    gate.request("203.0.113.8")
    with pytest.raises(LimitExceeded):
        gate.request(FAR)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_is_not_limited_unless_asked_for(address: Any) -> None:
    free = Admission(ManualClock(), requests_per_s=1, burst=1)
    for _ in range(10):
        free.request(address)
    held = Admission(ManualClock(), requests_per_s=1, burst=1, loopback=True)
    held.request(address)
    with pytest.raises(LimitExceeded):
        held.request(address)


def test_a_household_is_one_caller() -> None:
    assert network("2001:db8:1:2:3:4:5:6") == network("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert network("2001:db8:1:3::9") != network("2001:db8:1:2::9")
    assert network("::ffff:203.0.113.7") == FAR
    assert network("fe80::1%eth0") == "fe80::/64"
    assert network("not:an:address") == "not:an:address"


def test_connections_are_counted_until_closed() -> None:
    gate = Admission(ManualClock(), sockets_per_address_max=2, sockets_max=3)
    close = gate.connect(FAR)
    gate.connect(FAR)
    with pytest.raises(LimitExceeded, match="more than 2 connections"):
        gate.connect(FAR)
    gate.connect("203.0.113.8")
    with pytest.raises(LimitExceeded, match="as many connections as it may"):
        gate.connect("203.0.113.9")
    close()
    gate.connect(FAR)
    assert gate.connections == 3


def test_the_memory_of_addresses_is_bounded() -> None:
    gate = Admission(ManualClock(), requests_per_s=0.001, burst=5)
    for n in range(ADDRESSES_MAX + 10):
        gate.request(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(gate._rates) <= ADDRESSES_MAX


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
