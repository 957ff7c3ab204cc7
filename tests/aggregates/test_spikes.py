"""The spike detector: what counts, what does not, and each bar once."""

from collections.abc import Sequence
from decimal import Decimal
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.aggregates.spikes import Spikes, Threshold, find_spike
from openoutcry.events import NS, Candle, OpenInterest, Side

NAME = "venue:X"
STEP = 300 * NS
T0 = 1_700_000_100 * NS - 1_700_000_100 * NS % STEP
LOW = Threshold(300, 3.0, 0, 0)


def marks(values: Sequence[float], late_ns: int = 0) -> list[OpenInterest]:
    return [
        OpenInterest(NAME, T0 + n * STEP + late_ns, 0, Decimal(1), Decimal(str(value)))
        for n, value in enumerate(values)
    ]


def bars(volumes: Sequence[float], growing: float | None = None) -> list[Candle]:
    one = Decimal(1)
    candles = [
        Candle(NAME, Side.BOTH, 300, T0 + n * STEP, one, one, one, one, one, Decimal(str(v)), 1, None, None, True, 0, "venue")
        for n, v in enumerate(volumes)
    ]  # fmt: skip
    if growing is not None:
        (more,) = bars([growing])
        fields = {name: getattr(more, name) for name in more.__struct_fields__}
        candles.append(Candle(**{**fields, "open_ns": T0 + len(volumes) * STEP, "closed": False}))
    return candles


QUIET = [100.0, 101.0, 99.0, 100.0, 101.0, 99.0]


def steps(changes: Sequence[float], start: float = 1_000_000) -> list[float]:
    values = [start]
    for change in changes:
        values.append(values[-1] + change)
    return values


def test_a_jump_in_open_interest_alone_is_a_spike_that_is_not_confirmed() -> None:
    spike = find_spike(marks(steps([*QUIET, 500])), bars([*QUIET, 100]), LOW, 7)
    assert spike is not None
    assert (spike.instrument, spike.open_ns, spike.received_ns) == (NAME, T0 + 6 * STEP, 7)
    assert spike.z_open_interest == pytest.approx((500 - mean(QUIET)) / stdev(QUIET))
    assert spike.z_volume == pytest.approx(0)
    assert not spike.confirmed
    assert spike.open_interest == Decimal("1001100.0")
    assert spike.volume == Decimal(100)


def test_both_at_once_confirm_it() -> None:
    spike = find_spike(marks(steps([*QUIET, 500])), bars([*QUIET, 500]), LOW, 0)
    assert spike is not None
    assert spike.confirmed


def test_a_steady_trend_is_no_spike() -> None:
    """The level rises further than ever; the change does not."""
    assert find_spike(marks(steps([*QUIET, *QUIET, 101])), bars([*QUIET, *QUIET, 101]), LOW, 0) is None


def test_a_fall_is_no_spike() -> None:
    assert find_spike(marks(steps([*QUIET, -500])), bars([*QUIET, 1]), LOW, 0) is None


def test_the_newest_bar_is_not_among_those_it_is_compared_with() -> None:
    """With the bar itself among n, no z-score could exceed (n - 1) / sqrt(n)."""
    spike = find_spike(marks(steps([*QUIET, 1e9])), bars([*QUIET, 100]), LOW, 0)
    assert spike is not None
    assert spike.z_open_interest > 1_000_000


def test_the_growing_bar_does_not_count() -> None:
    assert find_spike(marks(steps([*QUIET, 100])), bars([*QUIET, 100], growing=10_000), LOW, 0) is None


def test_without_the_closing_mark_the_bar_before_is_the_newest() -> None:
    spike = find_spike(marks(steps([*QUIET, 500])), bars([*QUIET, 100, 9_999]), LOW, 0)
    assert spike is not None
    assert spike.open_ns == T0 + 6 * STEP


def test_marks_that_come_some_seconds_late_belong_to_their_boundary() -> None:
    assert find_spike(marks(steps([*QUIET, 500]), late_ns=3 * NS), bars([*QUIET, 100]), LOW, 0) is not None


def test_a_missing_mark_makes_no_change_of_two_bars() -> None:
    samples = marks(steps([*QUIET, 100, 100]))
    del samples[-2]
    assert find_spike(samples, bars([*QUIET, 100, 100]), LOW, 0) is None


@pytest.mark.parametrize(("interest_min", "volume_min"), [(2_000_000, 0), (0, 200)])
def test_small_markets_are_left_alone(interest_min: float, volume_min: float) -> None:
    threshold = Threshold(300, 3.0, interest_min, volume_min)
    assert find_spike(marks(steps([*QUIET, 500])), bars([*QUIET, 100]), threshold, 0) is None


def test_too_few_bars_or_bars_that_never_differ_score_nothing() -> None:
    assert find_spike(marks(steps([1, 2, 3, 500])), bars([1, 2, 3, 500]), LOW, 0) is None
    assert find_spike(marks(steps([1] * 9 + [500])), bars([1] * 9 + [500]), LOW, 0) is None
    assert find_spike([], [], LOW, 0) is None


@given(st.lists(st.integers(1, 20), min_size=6, max_size=30))
def test_scores_equal_the_textbook(volumes: list[int]) -> None:
    spike = find_spike(marks(steps([1.0] * len(volumes))), bars([float(v) for v in volumes]), LOW, 0)
    before = volumes[:-1]
    z = (volumes[-1] - mean(before)) / stdev(before) if stdev(before) else 0
    assert (spike.z_volume if spike else None) == (pytest.approx(z) if z >= 3.0 else None)


def test_each_bar_is_announced_once_and_memory_is_bounded() -> None:
    spikes = Spikes([LOW], announced_max=1)
    interests, candles = marks(steps([*QUIET, 500])), bars([*QUIET, 100])
    assert spikes.check(interests, candles, 300, 0) is not None
    assert spikes.check(interests, candles, 300, 0) is None
    assert spikes.check(marks(steps([*QUIET, 500, 99999])), bars([*QUIET, 100, 100]), 300, 0) is not None
    assert spikes.check(interests, candles, 300, 0) is None, "an older bar is not news after a newer one"
