"""Series that are asked for by stretches, of venues that are no venue at all."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.errors import BadInterval
from openoutcry.events import NS
from openoutcry.venues import paging
from openoutcry.venues.venue import Answer, Ask, Page, Query

MINUTE_NS = 60 * NS


@given(st.integers(0, 600), st.integers(1, 600), st.integers(1, 7))
def test_stretches_follow_each_other_until_every_open_was_asked_for(start_s: int, length_s: int, rows_max: int) -> None:
    ask = Ask(query=Query.CANDLES, interval_s=60, start_ns=start_s * NS, end_ns=(start_s + length_s) * NS)
    assert ask.end_ns is not None
    opens = [t for t in range(0, ask.end_ns, MINUTE_NS) if t >= start_s * NS]
    asked: list[int] = []
    following = ask
    while (following.start_ns or 0) < ask.end_ns:
        start_ns, end_ns, rows = paging.stretch(following, rows_max, None)
        assert start_ns is not None
        assert end_ns is not None
        held = [t for t in opens if start_ns <= t < end_ns]
        assert len(held) <= rows == rows_max
        asked += held
        following = msgspec.structs.replace(following, start_ns=end_ns)
    assert asked == opens


def test_a_page_promises_no_stretch_that_is_none() -> None:
    assert paging.promised([], None, 5, 9) == Page(events=[], start_ns=5, end_ns=9)
    for start_ns in (None, 9, 10):
        assert paging.promised([], None, start_ns, 9) == Page(events=[])


def test_an_interval_the_venue_does_not_have_is_refused() -> None:
    assert paging.code_of(Ask(query=Query.CANDLES, interval_s=60), {60: "1m"}) == "1m"
    for interval_s in (None, 61):
        with pytest.raises(BadInterval):
            paging.code_of(Ask(query=Query.CANDLES, interval_s=interval_s), {60: "1m"})


@pytest.mark.parametrize(
    ("told", "pause_s"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("600", 600.0),
        ("601", 600.0),
        ("9" * 400, 600.0),
        ("soon", 2.5),
        ("-1", 2.5),
        ("٣", 2.5),
    ],
)
def test_a_pause_is_what_the_venue_says_within_reason(told: str, pause_s: float) -> None:
    assert paging.pause_s(Answer(429, {"retry-after": told}, b"", 0), 2.5) == pause_s
    assert paging.pause_s(Answer(429, {}, b"", 0), 2.5) == 2.5


@pytest.mark.parametrize(("listed_ns", "goes_on"), [(0, False), (NS, True)])
def test_an_empty_window_is_the_end_of_a_history_whose_beginning_nobody_knows(listed_ns: int, goes_on: bool) -> None:
    ask = Ask(query=Query.CANDLES, symbol="X", interval_s=60, limit=5, newest=True)
    window = (6_000 * NS, 12_000 * NS)
    page = paging.candles_page(
        ask, [], window, newest=True, first_ns=listed_ns, sure_ns=12_000 * NS, now_ns=12_000 * NS
    )  # fmt: skip
    assert (page.next is not None) is goes_on
    if page.next is not None:
        assert (page.next.end_ns, page.next.limit) == (6_000 * NS, 5)
