"""Whatever order the market tells its candles in, a bucket grows, is told closed once, and then the next one grows."""

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.api.agentk.order import WAIT_S_MAX, Order
from openoutcry.clock import NS
from openoutcry.events import Candle
from tests.api.conftest import a_candle

NOW_NS = 1_763_553_600 * NS
MINUTE_NS = 60 * NS
BTC = "binance:BTCUSDT"


def a(minute: int, *, closed: bool = False, late_s: float = 0.0, close: str = "1") -> Candle:
    """A candle of that minute from now, told `late_s` after its opening (or its end)."""
    open_ns = NOW_NS + minute * MINUTE_NS
    made = a_candle(BTC, 60, open_ns, closed=closed, close=close)
    told_ns = open_ns + closed * MINUTE_NS + round(late_s * NS)
    return msgspec.structs.replace(made, received_ns=told_ns)


def test_what_comes_in_order_is_told_as_it_comes() -> None:
    order = Order(60, NOW_NS)
    for candle in (a(-1, closed=True), a(0), a(0, close="2"), a(0, closed=True), a(1), a(1, closed=True)):
        assert order.take(candle) == [candle]


def test_the_next_bucket_waits_for_the_close_of_the_one_before() -> None:
    order = Order(60, NOW_NS)
    order.take(a(0))
    assert order.take(a(1)) == []
    assert order.take(a(1, close="2")) == []
    assert order.take(a(0, closed=True)) == [a(0, closed=True), a(1, close="2")]
    assert order.take(a(1, close="3")) == [a(1, close="3")]


def test_one_that_was_over_before_it_was_followed_is_waited_for_too() -> None:
    order = Order(60, NOW_NS, unsure_ns=NOW_NS - MINUTE_NS)
    assert order.take(a(0)) == []
    assert order.take(a(-1, closed=True)) == [a(-1, closed=True), a(0)]


def test_a_correction_is_not_told_as_another_close() -> None:
    order = Order(60, NOW_NS)
    order.take(a(0, closed=True))
    assert order.take(a(0, closed=True, close="2")) == []


def test_repairs_of_before_are_not_told() -> None:
    order = Order(60, NOW_NS)
    assert [order.take(a(minute, closed=True)) for minute in (-100, -3, -2)] == [[], [], []]


def test_a_bucket_that_does_not_close_is_waited_for_so_long_and_told_when_it_does() -> None:
    order = Order(60, NOW_NS)
    order.take(a(0))
    assert order.take(a(1, late_s=WAIT_S_MAX - 0.1)) == []
    late = a(1, late_s=WAIT_S_MAX)
    assert order.take(late) == [late]
    assert order.take(a(0)) == []
    assert order.take(a(1, closed=True)) == [a(1, closed=True)]
    assert order.take(a(0, closed=True)) == [a(0, closed=True)]
    assert order.take(a(0, closed=True, close="2")) == []


def test_a_close_ends_the_wait_for_buckets_before_it() -> None:
    order = Order(60, NOW_NS)
    order.take(a(0))
    order.take(a(1))
    assert order.take(a(1, closed=True)) == [a(1, closed=True)]
    assert order.take(a(2)) == [a(2)]
    assert order.take(a(0, closed=True)) == [a(0, closed=True)]


# Few buckets, so that they meet; told at once or long after.
_TOLD = st.builds(
    a, st.integers(-3, 3), closed=st.booleans(), late_s=st.sampled_from([0.0, 1.0, WAIT_S_MAX + 61.0]),
    close=st.sampled_from(["1", "2"]),
)  # fmt: skip


@given(st.lists(_TOLD, max_size=40))
def test_no_bucket_closes_twice_nor_grows_after_its_close_nor_before_what_grew_earlier(told: list[Candle]) -> None:
    order = Order(60, NOW_NS)
    said = [candle for each in told for candle in order.take(each)]
    assert all(count == 1 for count in Counter(each.open_ns for each in said if each.closed).values())
    closed: set[int] = set()
    newest_ns = 0
    for each in said:
        if each.closed:
            closed.add(each.open_ns)
        else:
            assert each.open_ns not in closed
            assert each.open_ns >= newest_ns
            newest_ns = each.open_ns


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.data())
def test_of_a_market_that_runs_every_close_is_told_in_order(pieces: list[int], data: st.DataObject) -> None:
    """Each minute grows a few times; its close comes before or after the next one began to grow."""
    order = Order(60, NOW_NS)
    events: list[Candle] = []
    for minute, many in enumerate(pieces):
        grown = [a(minute, close=str(n)) for n in range(many)]
        events += grown
        if minute and data.draw(st.booleans()):
            # The close of the one before came late: behind the first that grew here.
            events.insert(len(events) - many + 1, a(minute - 1, closed=True))
        elif minute:
            events.insert(len(events) - many, a(minute - 1, closed=True))
    said = [candle for each in events for candle in order.take(each)]
    assert [each.open_ns for each in said if each.closed] == [NOW_NS + n * MINUTE_NS for n in range(len(pieces) - 1)]
    assert [each.open_ns for each in said] == sorted(each.open_ns for each in said)
    assert said[-1].open_ns == NOW_NS + (len(pieces) - 1) * MINUTE_NS
