"""Rates and connections, per address and in all."""

from typing import Any

import pytest

from openoutcry.api.admission import Admission
from openoutcry.clock import ManualClock
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


def test_a_household_is_one_caller_here_too() -> None:
    gate = Admission(ManualClock(10**18), requests_per_s=1, burst=1)
    gate.request("2001:db8:1:2::9")
    with pytest.raises(LimitExceeded):
        gate.request("2001:db8:1:2:3:4:5:6")
    gate.request("2001:db8:1:3::9")
