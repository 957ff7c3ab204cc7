"""Indicators against TA-Lib and against the obvious, on markets that stand still, run, jump and wander."""

import math
import statistics
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.aggregates import talib_indicators
from openoutcry.aggregates.indicators import (
    ATR_LENGTH,
    BOLLINGER_LENGTH,
    EMA_LENGTHS,
    MACD_SIGNAL,
    MACD_SLOW,
    RSI_LENGTHS,
    SMA_LENGTHS,
    STOCHASTIC_LENGTH,
    Divergence,
    Swing,
    divergences,
    indicators,
    lines,
    swings,
    vwap,
)
from openoutcry.events import NS, Candle, Side

HOUR = 3_600 * NS
T0 = 1_700_002_800 * NS


def candle(
    at: int, close: Decimal | str, up: Decimal | str = "0", down: Decimal | str = "0", volume: Decimal | str = "1"
) -> Candle:
    price, high, low = Decimal(close), Decimal(close) + Decimal(up), Decimal(close) - Decimal(down)
    return Candle(
        "v:X", Side.BOTH, 3_600, T0 + at * HOUR, price, high, low, price, Decimal(volume), Decimal(volume) * price, 1,
        None, None, True, T0 + at * HOUR, "venue",
    )  # fmt: skip


def closing(closes: Iterable[Any]) -> list[Candle]:
    return [candle(at, str(close)) for at, close in enumerate(closes)]


# Cents. Stretches of one kind each; most markets are longer than the longest seed (100), some end within a shorter one.
STEPS = {
    "flat": st.just(0),
    "run": st.integers(1, 400),
    "fall": st.integers(-40, -1),
    "wander": st.integers(-300, 300),
    "jump": st.sampled_from([-200_000, 0, 0, 0, 300_000]),
}
LENGTH = st.sampled_from([50, 4, 16, 33])
STRETCH = st.tuples(st.sampled_from(sorted(STEPS)), LENGTH).flatmap(
    lambda shape: st.lists(STEPS[shape[0]], min_size=shape[1], max_size=shape[1])
)
WICK = st.sampled_from(["0", "0.01", "0.25", "9"])
SIZE = st.sampled_from(["0", "0.001", "3", "250.5"])


@st.composite
def markets(draw: st.DrawFn) -> list[Candle]:
    cents = draw(st.sampled_from([1_000, 250_000, 6_700_000]))
    count = draw(st.sampled_from([4, 3, 5, 1, 0]))
    steps = [step for _ in range(count) for step in draw(STRETCH)]
    # Wicks and volumes repeat: what they are matters, not that each is drawn anew.
    rest = draw(st.lists(st.tuples(WICK, WICK, SIZE), min_size=1, max_size=7))
    made = []
    for at, step in enumerate(steps):
        # What would fall below a price of ten rises instead.
        cents = cents + step if cents + step >= 1_000 else cents - step
        made.append(candle(at, Decimal(cents) / 100, *rest[at % len(rest)]))
    return made


def assert_same(ours: Sequence[float | None], theirs: Sequence[float | None], scale: float = 0.0) -> None:
    """Known for the same candles, and equal to 1e-9 (of the price, where a difference of prices is told)."""
    assert [each is None for each in ours] == [each is None for each in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one is not None and other is not None:
            assert math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9 * scale), (one, other)


@given(markets())
def test_ours_are_those_of_talib(market: list[Candle]) -> None:
    ours, theirs = lines(market), talib_indicators.lines(market)
    price = max((float(each.high) for each in market), default=0.0)
    for length in SMA_LENGTHS:
        assert_same(ours.sma[length], theirs.sma[length])
    for length in EMA_LENGTHS:
        assert_same(ours.ema[length], theirs.ema[length])
    for length in RSI_LENGTHS:
        assert_same(ours.rsi[length], theirs.rsi[length], 100.0)
    assert_same(ours.atr, theirs.atr, price * 1e-3)
    assert_same(ours.obv, theirs.obv, 250.0)
    for name in ("macd", "signal", "histogram"):
        both = [[getattr(each, name, None) for each in made.macd] for made in (ours, theirs)]
        assert_same(both[0], both[1], price)
    for name in ("k", "d"):
        both = [[getattr(each, name, None) for each in made.stochastic] for made in (ours, theirs)]
        assert_same(both[0], both[1], 100.0)
    assert [each is None for each in ours.bollinger] == [each is None for each in theirs.bollinger]
    for one, other in zip(ours.bollinger, theirs.bollinger, strict=True):
        # TA-Lib takes the spread from sums of squares: a narrow one far below the price is lost to rounding there.
        if one is not None and other is not None and one.upper - one.middle > 2e-3 * price:
            assert_same([one.lower, one.middle, one.upper], [other.lower, other.middle, other.upper], price)


@given(markets())
def test_the_bands_are_the_mean_and_deviation_of_the_last_twenty(market: list[Candle]) -> None:
    for at, bands in enumerate(lines(market).bollinger):
        window = (
            [each.close for each in market[at + 1 - BOLLINGER_LENGTH : at + 1]] if at + 1 >= BOLLINGER_LENGTH else []
        )
        assert (bands is not None) == bool(window)
        if bands is not None:
            mean, spread = statistics.mean(window), 2 * statistics.pstdev(window)
            assert_same(
                [bands.lower, bands.middle, bands.upper], [float(mean - spread), float(mean), float(mean + spread)]
            )


@pytest.mark.parametrize("make", [lines, talib_indicators.lines], ids=["ours", "talib"])
def test_each_is_unknown_until_there_is_enough(make: Any) -> None:
    market = [candle(at, str(100 + at * 7 % 11), "1", "1") for at in range(120)]

    def first(line: Sequence[Any]) -> int:
        return next(at for at, each in enumerate(line) if each is not None) + 1

    made = make(market)
    assert {length: first(line) for length, line in made.sma.items()} == {5: 5, 10: 10, 20: 20}
    assert {length: first(line) for length, line in made.ema.items()} == {20: 20, 50: 50, 100: 100}
    assert {length: first(line) for length, line in made.rsi.items()} == {7: 8, 14: 15}
    assert first(made.macd) == MACD_SLOW + MACD_SIGNAL - 1
    assert first(made.bollinger) == BOLLINGER_LENGTH
    assert first(made.atr) == ATR_LENGTH + 1
    assert first(made.stochastic) == STOCHASTIC_LENGTH
    assert first([each and each.d for each in made.stochastic]) == STOCHASTIC_LENGTH + 2
    assert first(made.obv) == 1


@pytest.mark.parametrize("make", [lines, talib_indicators.lines], ids=["ours", "talib"])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_few_candles_are_told_as_unknown(make: Any, count: int) -> None:
    told = indicators(closing(range(10, 10 + count)), make)
    assert [*told.rsi.values(), told.macd, told.bollinger, told.atr, told.stochastic] == [None] * 6
    assert all(each is None for line in (*told.sma.values(), *told.ema.values(), told.histogram) for each in line)
    assert told.vwap == pytest.approx(10 + (count - 1) / 2 if count else None)
    assert (told.swings, told.divergences) == ([], [])


@pytest.mark.parametrize("make", [lines, talib_indicators.lines], ids=["ours", "talib"])
def test_a_market_that_never_moved_has_no_strength_and_no_place_in_its_range(make: Any) -> None:
    told = indicators(closing([50] * 120), make)
    assert (told.rsi, told.stochastic) == ({7: None, 14: None}, None)
    assert (told.atr, told.sma[20][-1], told.ema[100][-1]) == (0.0, 50.0, 50.0)


@pytest.mark.parametrize("make", [lines, talib_indicators.lines], ids=["ours", "talib"])
def test_strength_of_a_market_that_only_rises_or_falls(make: Any) -> None:
    assert indicators(closing(range(1, 40)), make).rsi == {7: 100.0, 14: 100.0}
    assert indicators(closing(range(40, 1, -1)), make).rsi == {7: 0.0, 14: 0.0}


def test_the_last_five_of_a_line_are_told_newest_last() -> None:
    told = indicators(closing(range(1, 41)))
    assert told.sma[5] == [34.0, 35.0, 36.0, 37.0, 38.0]
    assert len(told.histogram) == 5


def test_vwap_weighs_by_volume_and_is_unknown_where_nothing_traded() -> None:
    assert vwap([candle(0, "10", volume="3"), candle(1, "20", volume="1")]) == 12.5
    assert vwap([candle(0, "10", volume="0")]) is None
    assert vwap([]) is None


@given(markets())
def test_a_swing_stands_out_on_both_sides(market: list[Candle]) -> None:
    found = {(each.side, each.open_ns): each.price for each in swings(market, [None] * len(market))}
    for at, each in enumerate(market):
        before, after = market[max(at - 3, 0) : at], market[at + 1 : at + 4]
        whole = len(before) == len(after) == 3
        top = whole and all(b.high < each.high for b in before) and all(a.high <= each.high for a in after)
        top = top and any(a.high < each.high for a in after)
        low = whole and all(b.low > each.low for b in before) and all(a.low >= each.low for a in after)
        low = low and any(a.low > each.low for a in after)
        assert found.get(("high", each.open_ns)) == (float(each.high) if top else None)
        assert found.get(("low", each.open_ns)) == (float(each.low) if low else None)


def a_swing(side: Any, at: int, price: float, rsi: float | None) -> Swing:
    return Swing(side, T0 + at * HOUR, price, rsi)


def test_a_further_high_that_strength_does_not_follow_is_bearish_and_the_other_way_round() -> None:
    tops = [a_swing("high", 0, 90, 99), a_swing("high", 1, 100, 75), a_swing("high", 9, 110, 60)]
    lows = [a_swing("low", 2, 80, 25), a_swing("low", 8, 70, 35)]
    assert divergences([*tops, *lows]) == [Divergence("bearish", *tops[1:]), Divergence("bullish", *lows)]


@pytest.mark.parametrize(
    ("first", "second"),
    [((100, 60), (110, 75)), ((110, 75), (100, 60)), ((100, 75), (100, 60)), ((100, None), (110, 60)), ((100, 75), (110, None))],
)  # fmt: skip
def test_no_divergence_of_highs(first: tuple[float, float | None], second: tuple[float, float | None]) -> None:
    assert divergences([a_swing("high", 0, *first), a_swing("high", 5, *second)]) == []


def test_a_divergence_is_found_in_candles() -> None:
    # A steep run to a top, a pause, a slow climb to a further one, and down.
    run = [100 + 3 * at for at in range(16)] + [145 - 2 * at for at in range(1, 9)]
    climb = [129 + (2 if at % 2 else -1) + at for at in range(1, 24)] + [150 - 3 * at for at in range(1, 6)]
    told = indicators(closing([*run, *climb]))
    assert [each.side for each in told.divergences] == ["bearish"]
