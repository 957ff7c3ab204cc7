"""Interval algebra against the obvious: one state written down for every single bucket."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from openoutcry.market.coverage import SPANS_MAX, Book, Coverage
from openoutcry.market.series import Of, SeriesKey, Span, State

BUCKETS = 12
KEY = SeriesKey("x:A", Of.CANDLES, 60)
OTHER = SeriesKey("x:B", Of.CANDLES, 60)

# A short line and many stretches, so that they touch, overlap, split and swallow each other.
_stretch = st.tuples(st.integers(0, BUCKETS), st.integers(0, BUCKETS))
_said = st.lists(st.tuples(_stretch, st.sampled_from(list(State))), max_size=14)


def told(said: list[tuple[tuple[int, int], State]]) -> tuple[Coverage, list[State]]:
    coverage, naive = Coverage(), [State.MISSING] * BUCKETS
    for (start, end), state in said:
        coverage.add(start, end, state)
        for bucket in range(start, end):
            naive[bucket] = state
    return coverage, naive


@given(_said)
def test_coverage_says_of_every_bucket_what_was_said_last(said: list[tuple[tuple[int, int], State]]) -> None:
    coverage, naive = told(said)
    asked = coverage.query(0, BUCKETS)
    assert [span.state for span in asked for _ in range(span.start_ns, span.end_ns)] == naive


@given(_said)
def test_the_spans_are_in_order_whole_and_as_few_as_can_be(said: list[tuple[tuple[int, int], State]]) -> None:
    coverage, _ = told(said)
    spans = coverage.spans
    assert all(span.start_ns < span.end_ns and span.state is not State.MISSING for span in spans)
    for one, two in itertools.pairwise(spans):
        assert one.end_ns < two.start_ns or (one.end_ns == two.start_ns and one.state is not two.state)
    assert Coverage(spans).spans == spans


@given(_said, _stretch)
def test_questions_about_a_stretch_equal_a_look_at_each_bucket(
    said: list[tuple[tuple[int, int], State]], stretch: tuple[int, int]
) -> None:
    coverage, naive = told(said)
    start, end = min(stretch), max(stretch)
    asked = coverage.query(start, end)
    assert [span.state for span in asked for _ in range(span.start_ns, span.end_ns)] == naive[start:end]
    missing = {n for low, high in coverage.missing(start, end) for n in range(low, high)}
    assert missing == {n for n in range(start, end) if naive[n] is State.MISSING}
    absent = coverage.absent(start, end)
    assert {n for low, high in absent for n in range(low, high)} == {
        n for n in range(start, end) if naive[n] in (State.MISSING, State.REFUSED)
    }
    assert all(one[1] < two[0] for one, two in itertools.pairwise(absent))
    assert coverage.whole(start, end) == all(naive[n] in (State.HAVE, State.EMPTY) for n in range(start, end))


@given(_said, st.integers(0, BUCKETS))
def test_the_run_before_a_moment_goes_back_to_the_first_hole(
    said: list[tuple[tuple[int, int], State]], end: int
) -> None:
    coverage, naive = told(said)
    start = end
    while start > 0 and naive[start - 1] in (State.HAVE, State.EMPTY):
        start -= 1
    assert coverage.run_start(end) == start


def test_a_series_in_too_many_splinters_forgets_the_oldest() -> None:
    coverage = Coverage()
    for n in range(SPANS_MAX + 5):
        coverage.add(n * 2, n * 2 + 1, State.HAVE)
    assert len(coverage.spans) == SPANS_MAX
    assert coverage.missing(0, 20) == [(0, 10), (11, 12), (13, 14), (15, 16), (17, 18), (19, 20)]


def test_the_book_remembers_what_the_store_was_not_told() -> None:
    book = Book({KEY: [Span(0, 60, State.HAVE)]})
    assert book.untold == frozenset()
    book.add(KEY, 60, 120, State.HAVE)
    book.add(OTHER, 0, 60, State.MISSING)  # nothing was known and nothing is said
    assert book.untold == {KEY}
    assert book.take(KEY) == (Span(0, 120, State.HAVE),)
    assert book.untold == frozenset()
    book.untake([KEY])
    assert book.untold == {KEY}
    assert book.keys("x:A") == (KEY,)
    assert book.keys("x:B") == ()
    assert book.of(OTHER).spans == ()
