"""Filling is held against the obvious: one bucket after the other, walking back for the last close."""

import asyncio
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from openoutcry.api.kiyotaka.fill import empties, filled
from openoutcry.events import NS
from openoutcry.market.blocks import Cut
from openoutcry.market.columnar import Told
from openoutcry.market.coverage import Coverage
from openoutcry.market.series import NUMBERS, TIMES, Columns, Of, SeriesKey, Span, State

STEP_NS = 60 * NS
BUCKETS = 24
# Most buckets whole and one in three with a row, so that windows begin inside stretches that have rows before and after;
# rows may stand where nothing is known too.
STATES = st.lists(
    st.sampled_from([*[State.HAVE] * 12, State.EMPTY, State.MISSING, State.REFUSED]), min_size=BUCKETS, max_size=BUCKETS
)
ROWS = st.lists(st.sampled_from([True, False, False]), min_size=BUCKETS, max_size=BUCKETS)


def columns(of: Of, buckets: list[int]) -> Columns:
    """The close of a row is the number of its bucket."""
    numbers = {name: np.array(buckets, np.float64) for name in NUMBERS[of]}
    times = {name: np.array(buckets, np.int64) for name in TIMES.get(of, ())}
    return Columns(np.array(buckets, np.int64) * STEP_NS, {**numbers, **times})


def slowly(of: Of, states: list[State], rows: set[int], low: int, high: int) -> list[tuple[int, float]]:
    """Bucket and close (or volume) of every point."""

    def whole(n: int) -> bool:
        return states[n] in (State.HAVE, State.EMPTY)

    told: list[tuple[int, float]] = []
    for n in range(low, high):
        if n in rows:
            told.append((n, float(n)))
        elif whole(n) and of is Of.LIQUIDATION_BARS:
            told.append((n, 0.0))
        elif whole(n):
            back = n
            while back >= 0 and whole(back) and back not in rows:
                back -= 1
            if back >= 0 and whole(back):
                told.append((n, float(back)))
    return told


@pytest.mark.parametrize("of", [Of.CANDLES, Of.LIQUIDATION_BARS])
@given(STATES, ROWS, st.integers(0, BUCKETS), st.integers(0, BUCKETS), st.integers(0, BUCKETS))
def test_filling_is_what_a_slow_walk_finds(
    of: Of, states: list[State], flags: list[bool], low: int, high: int, split: int
) -> None:
    low, high = sorted((low, high))
    rows = {n for n, flag in enumerate(flags) if flag}
    coverage = Coverage(Span(n * STEP_NS, (n + 1) * STEP_NS, state) for n, state in enumerate(states))
    key = SeriesKey("x:y", of, 60)

    def cut(start: int, end: int) -> list[Cut]:
        block = columns(of, [n for n in sorted(rows) if start <= n < end])
        return [Cut(block, 0, len(block))] if len(block) else []

    async def before(start_ns: int, end_ns: int) -> Any:
        return Told(cut(start_ns // STEP_NS, end_ns // STEP_NS))

    middle = min(max(split, low), high)
    told = Told([*cut(low, middle), *cut(middle, high)])
    stretches = empties(key, told, coverage, low * STEP_NS, high * STEP_NS)
    assert stretches is not None
    made = asyncio.run(filled(key, told, stretches, coverage, before))
    name = "close" if of is Of.CANDLES else "volume"
    found = [
        (int(each.block.at_ns[n]) // STEP_NS, float(each.block.of[name][n]))
        for each in made.cuts
        for n in range(each.low, each.high)
    ]
    assert found == slowly(of, states, rows, low, high)
    if of is Of.CANDLES:
        volumes = [float(v) for each in made.cuts for v in each.block.of["volume"][each.low : each.high]]
        assert volumes == [float(n) if n in rows else 0.0 for n, _ in found]
