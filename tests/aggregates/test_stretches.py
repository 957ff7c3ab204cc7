"""Stretches against a plain set of moments."""

from hypothesis import given
from hypothesis import strategies as st

from openoutcry.aggregates.stretches import PIECES_MAX, Stretches, cover

# Few moments, so that pieces touch, overlap and vanish.
MOMENTS = st.integers(0, 12)
STEPS = st.lists(st.tuples(st.sampled_from(("add", "remove", "forget")), MOMENTS, MOMENTS), max_size=20)


def made(steps: list[tuple[str, int, int]]) -> tuple[Stretches, set[int]]:
    stretches, moments = Stretches(), set[int]()
    for what, start, end in steps:
        if what == "add":
            stretches.add(start, end)
            moments |= set(range(start, end))
        elif what == "remove":
            stretches.remove(start, end)
            moments -= set(range(start, end))
        elif all(moment < start for moment in moments):
            stretches.forget(start)
            moments = set()
    return stretches, moments


@given(STEPS)
def test_stretches_hold_what_a_set_of_moments_holds_in_as_few_pieces(steps: list[tuple[str, int, int]]) -> None:
    stretches, moments = made(steps)
    for start in range(13):
        reach = start
        while reach in moments:
            reach += 1
        assert stretches.reach(start) == reach
    assert len(stretches) == sum(moment - 1 not in moments for moment in moments)


@given(STEPS, STEPS, MOMENTS, MOMENTS)
def test_several_sets_cover_a_stretch_together(
    some: list[tuple[str, int, int]], more: list[tuple[str, int, int]], start: int, end: int
) -> None:
    (one, ones), (two, twos) = made(some), made(more)
    assert cover(start, end, one, two) == (set(range(start, end)) <= ones | twos)


def test_too_many_pieces_forget_the_oldest() -> None:
    stretches = Stretches()
    for n in range(PIECES_MAX + 1):
        stretches.add(2 * n, 2 * n + 1)
    assert len(stretches) == PIECES_MAX
    assert stretches.reach(0) == 0
