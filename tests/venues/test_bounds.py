"""Numbers that a venue may send, each held against what is believed."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.venues import bounds

SOUND = (1_672_324_800_000, Decimal(2), Decimal(3), Decimal(1), Decimal(2), Decimal(7), Decimal(14))
HOUR_MS = 3_600_000


@pytest.mark.parametrize("bad", ["NaN", "sNaN", "Infinity", "-Infinity", "-1", "1e18", "1e999999"])
@pytest.mark.parametrize("place", range(1, 7))
def test_no_number_of_a_candle_is_taken_unseen(place: int, bad: str) -> None:
    row = (*SOUND[:place], Decimal(bad), *SOUND[place + 1 :])
    with pytest.raises((ValueError, ArithmeticError)):
        bounds.candle_of_row("okx:BTC-USDT", 60, row, 7, closed=True)  # type: ignore[arg-type]


def test_a_candle_may_be_empty_but_must_open_with_its_interval() -> None:
    empty = (*SOUND[:5], Decimal(0), Decimal(0))
    candle = bounds.candle_of_row("okx:BTC-USDT", 60, empty, 7, closed=True)
    assert (candle.open_ns, *empty[5:]) == (1_672_324_800 * 10**9, candle.volume, candle.quote_volume)
    for interval_s in (None, 604_800):
        with pytest.raises(ValueError, match="another interval"):
            bounds.candle_of_row("okx:BTC-USDT", interval_s, SOUND, 7, closed=True)


@pytest.mark.parametrize("bad", ["NaN", "sNaN", "Infinity", "-Infinity", "-1", "1e18", "0"])
def test_what_was_traded_has_a_price_and_a_size(bad: str) -> None:
    bounds.check_traded(Decimal(1), Decimal(1))
    for price, size in ((bad, "1"), ("1", bad)):
        with pytest.raises((ValueError, ArithmeticError)):
            bounds.check_traded(Decimal(price), Decimal(size))
    with pytest.raises((ValueError, ArithmeticError)):
        bounds.step_of(bad)


def test_a_level_of_size_nought_is_gone() -> None:
    levels = bounds.levels_of([(Decimal(1), Decimal(0), "0", "2"), (Decimal(2), Decimal(5), "0", "1")])
    assert levels == ((Decimal(1), Decimal(0)), (Decimal(2), Decimal(5)))
    assert bounds.alive(levels) == ((Decimal(2), Decimal(5)),)


@given(st.integers(0, 40 * 24), st.integers(-60_000, 60_000))
def test_a_period_is_whole_hours_of_a_month_at_the_most(hours: int, off_ms: int) -> None:
    """Settlements are some milliseconds late; two that are further apart are not neighbours."""
    told = bounds.period_s(HOUR_MS, HOUR_MS + hours * HOUR_MS + off_ms)
    assert told == (hours * 3_600 if 0 < hours <= 31 * 24 else None)
    assert bounds.period_s(None, HOUR_MS) is None
