"""What was seen already, against the obvious: a set of all ids."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.events import Trade
from openoutcry.feed.dedupe import Hole, Recent, RecentTrades, Runs, seen_for

Make = Callable[..., Trade]


def made(make_trade: Make, id_: int | str, count: int = 1) -> Trade:
    return make_trade("toy:AAA", id_, 1, 1, count)


@given(st.lists(st.integers(1, 30), max_size=60))
def test_runs_equal_a_set_of_all_ids(ids: list[int]) -> None:
    runs, naive = Runs(counted=False), set[int]()
    for id_ in ids:
        newest = max(naive, default=None)
        said = runs.admit(Trade("toy:A", 0, 0, id_, 0, "buy", 1, 1))  # type: ignore[arg-type]
        assert (said is not False) == (id_ not in naive)
        assert isinstance(said, Hole) == (newest is not None and id_ > newest + 1)
        if isinstance(said, Hole):
            assert (said.after_id, said.before_id) == (newest, id_)
        naive.add(id_)
        flat = [i for first, last in runs.runs for i in range(first, last + 1)]
        assert flat == sorted(naive)
        assert all(b[0] > a[1] + 1 for a, b in zip(runs.runs, runs.runs[1:], strict=False))
        for after in range(31):
            follows = after + 1 in naive
            assert runs.whole(after) == (follows and set(range(after + 1, max(naive) + 1)) <= naive)
            for before in range(after + 2, 32):
                assert runs.whole(after, before) == (set(range(after + 1, before)) <= naive)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 4)), max_size=40))
def test_counted_runs_never_let_an_id_pass_twice(rows: list[tuple[int, int]]) -> None:
    runs, naive = Runs(counted=True), set[int]()
    for last, count in rows:
        ids = set(range(last - count + 1, last + 1))
        said = runs.admit(Trade("toy:A", 0, 0, last, 0, "buy", 1, 1, count))  # type: ignore[arg-type]
        assert (said is not False) == (not ids & naive)
        naive |= ids
        assert {i for first, last in runs.runs for i in range(first, last + 1)} == naive


def test_fills_that_were_seen_merged_are_dropped_when_they_come_one_by_one(make_trade: Make) -> None:
    runs = seen_for("count")
    assert runs.admit(made(make_trade, 100)) is True
    assert runs.admit(made(make_trade, 103, 3)) is True
    assert [runs.admit(made(make_trade, i)) for i in (101, 102, 103, 104)] == [False, False, False, True]


def test_holes_are_forgotten_oldest_first_and_memory_is_constant(make_trade: Make) -> None:
    runs = Runs(counted=False, runs_max=3)
    for id_ in (10, 20, 30, 40, 50):
        runs.admit(made(make_trade, id_))
    assert runs.runs == [(10, 30), (40, 40), (50, 50)]
    assert runs.admit(made(make_trade, 25)) is False
    assert runs.admit(made(make_trade, 45)) is True
    assert runs.admit(made(make_trade, 5)) is True


def test_a_venue_that_sends_text_for_a_number_is_not_fatal(make_trade: Make) -> None:
    assert Runs(counted=False).admit(made(make_trade, "x")) is True


def test_ids_that_tell_nothing_are_remembered_for_a_while(make_trade: Make) -> None:
    recent = RecentTrades(3)
    said = [recent.admit(made(make_trade, i)) for i in ("a", "b", "a", "c", "d", "a")]
    assert said == [True, True, False, True, True, True]
    keys = Recent(100)
    for i in range(1_000):
        assert keys.add(i)
    assert len(keys) == 100


@pytest.mark.parametrize(("upto", "runs_left"), [(9, [(5, 10)]), (7, [(5, 7), (10, 10)])])
def test_a_hole_that_the_venue_denies_is_closed(make_trade: Any, upto: int, runs_left: list[tuple[int, int]]) -> None:
    runs = Runs(counted=False)
    runs.admit(made(make_trade, 5))
    runs.admit(made(make_trade, 10))
    runs.close(5, upto + 1)
    assert runs.runs == runs_left
    assert runs.reach(5) == runs_left[0][1]
    assert runs.newest == 10


@given(st.lists(st.integers(1, 40), max_size=60))
def test_nothing_is_called_whole_that_holds_a_forgotten_hole(ids: list[int]) -> None:
    runs, naive = Runs(counted=False, runs_max=3), set[int]()
    for id_ in ids:
        runs.admit(Trade("toy:A", 0, 0, id_, 0, "buy", 1, 1))  # type: ignore[arg-type]
        naive.add(id_)
        assert len(runs.runs) <= 3
        for after in range(41):
            if runs.whole(after):
                assert set(range(after + 1, max(naive) + 1)) <= naive
