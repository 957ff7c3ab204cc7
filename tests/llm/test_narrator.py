"""The narrator: useful with many candles, honest with few, and never a language model."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.aggregates.indicators import Divergence, Indicators, Swing, indicators
from openoutcry.instrument import Kind
from openoutcry.llm.material import Material
from openoutcry.llm.narrator import FIRST_LINE, REWARD_MIN, Evidence, narrate, plan, trend
from tests.llm.markets import FALLING, HOUR_NS, NOW_NS, NOWHERE, RISING, a_material, an_instrument

SECTIONS = ["## Trend", "## Key levels", "## Signals", "## Suggestion", "## Risks"]


def swing(side: Any, price: float, hours_ago: int = 5) -> Swing:
    return Swing(side, NOW_NS - hours_ago * HOUR_NS, price, 50.0)


def seen(material: Material, **changed: Any) -> Indicators:
    """The indicators of the candles, with some of them as the test wants them."""
    return msgspec.structs.replace(indicators(material.candles), divergences=[], **changed)


def section(text: str, heading: str) -> list[str]:
    after = text.split(f"{heading}\n")[1].split("\n\n")[0]
    return [line.removeprefix("- ") for line in after.splitlines()]


def narrated(closes: Any, question: str = "", **more: Any) -> str:
    material = a_material(closes, **more)
    return narrate(material, indicators(material.candles), question)


@pytest.mark.parametrize("count", [1, 2, 5, 34, 150])
def test_it_says_first_what_it_is_and_has_all_sections(count: int) -> None:
    text = narrated(RISING[:count])
    assert text.splitlines()[0] == FIRST_LINE == "Rule-based summary, not a language model."
    assert [line for line in text.splitlines() if line.startswith("#")] == SECTIONS
    assert all(section(text, heading) for heading in SECTIONS)
    assert "None" not in text
    assert " nan" not in text


def test_one_candle_is_not_enough_for_anything_and_that_is_said() -> None:
    text = narrated(RISING[:1])
    assert section(text, "## Trend") == ["Not enough evidence to name a trend: 1 closed candle."]
    assert section(text, "## Suggestion") == ["**Wait**: there is not enough evidence for a direction."]
    assert section(text, "## Risks")[0] == "Unknown with 1 candle: EMA20, EMA50, EMA100, MACD, RSI14, ATR14."


@pytest.mark.parametrize(("closes", "way"), [(RISING, "up"), (FALLING, "down"), (NOWHERE, "sideways")])
def test_the_trend_is_what_the_market_did(closes: list[int], way: str) -> None:
    assert section(narrated(closes), "## Trend")[0].startswith(f"Trend: **{way}**")


def test_a_trend_needs_evidence_that_agrees() -> None:
    up, down, even = Evidence(1, ""), Evidence(-1, ""), Evidence(0, "")
    assert trend([up, up]) == "unknown"
    assert trend([up, up, up, even]) == "up"
    assert trend([down, down, down, even]) == "down"
    assert trend([up, up, down]) == trend([even] * 6) == "sideways"


def test_a_rise_without_anything_against_it_is_a_long_with_stop_and_targets_around_the_entry() -> None:
    material = a_material(RISING, price=Decimal(65_900))
    text = narrate(material, seen(material, atr=100.0, swings=[swing("low", 65_800), swing("high", 66_250)]), "")
    assert section(text, "## Suggestion") == [
        "**Long**, entry around 65900.",
        "Stop: 65750 (0.5 ATR beyond the swing low at 65800).",
        "First target: 66250 (the swing high of 2025-11-19 07:00 UTC), 2.3 times the risk.",
        "Second target: 66400 (5 ATR).",
    ]


def test_levels_are_the_nearest_swings_on_either_side_and_those_side_by_side_are_one() -> None:
    material = a_material(RISING, price=Decimal(1_000))
    prices = [1_001, 1_020, 1_021, 1_100, 1_200, 1_300, 990, 989.5, 900, 1_000]
    told = seen(material, atr=10.0, swings=[swing("high", each) for each in prices])
    levels = section(narrate(material, told, ""), "## Key levels")
    assert levels[:2] == ["Resistance at swings: 1001, 1020, 1100.", "Support at swings: 990, 900."]


def test_a_fall_is_a_short_except_on_spot() -> None:
    material = a_material(FALLING)
    text = narrate(material, seen(material), "")
    assert section(text, "## Suggestion")[0].startswith("**Short**, entry around 54120")
    spot = a_material(FALLING, instrument=an_instrument(kind=Kind.SPOT))
    assert "cannot be sold short" in section(narrate(spot, seen(spot), ""), "## Suggestion")[0]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"rsi": {7: 80.0, 14: 70.5}}, "overbought"),
        ({"atr": None}, "no stop can be placed"),
        ({"atr": 0.0}, "no stop can be placed"),
        ({"atr": 500.0, "swings": [swing("low", 65_000), swing("high", 66_500)]}, "is nearer than the stop"),
    ],
)
def test_it_waits_where_something_speaks_against_a_rise(changed: dict[str, Any], why: str) -> None:
    material = a_material(RISING)
    (line,) = section(narrate(material, seen(material, **changed), ""), "## Suggestion")
    assert line.startswith("**Wait**")
    assert why in line


def test_it_waits_where_strength_does_not_follow() -> None:
    material = a_material(RISING)
    told = msgspec.structs.replace(
        indicators(material.candles), divergences=[Divergence("bearish", swing("high", 1), swing("high", 2))]
    )
    assert "bearish divergence" in section(narrate(material, told, ""), "## Suggestion")[0]


def test_gaps_are_named_and_nothing_is_suggested_across_them() -> None:
    material = a_material(RISING, missing=[(NOW_NS - 9 * HOUR_NS, NOW_NS - 7 * HOUR_NS)])
    text = narrate(material, seen(material), "")
    assert section(text, "## Risks")[0].startswith("Missing: 2 candles (2025-11-19 03:00 UTC to 2025-11-19 05:00 UTC)")
    assert "candles are missing" in section(text, "## Suggestion")[0]


def test_a_market_that_stood_still_has_no_trend_and_no_signals_made_up() -> None:
    text = narrated([50] * 150, instrument=an_instrument(tick_size=Decimal("0.1")))
    assert section(text, "## Trend")[0] == "Trend: **sideways**; of 5 observations 0 point up and 0 down."
    assert "Wait" in section(text, "## Suggestion")[0]
    assert "RSI14" in section(text, "## Risks")[0]
    assert "Too few candles, or too little movement, for RSI14." in section(text, "## Signals")


def test_flow_and_funding_are_told_where_known() -> None:
    text = narrated(
        RISING, bought=Decimal(3), sold=Decimal(1), funding_rate=Decimal("-0.0002"), open_interest=Decimal(110),
        open_interest_before=Decimal(100),
    )  # fmt: skip
    signals = section(text, "## Signals")
    assert "Buyers took 75% of what was traded." in signals
    assert "Funding -0.0200%: shorts pay longs." in signals
    assert "Open interest over these candles: +10.00%." in signals
    assert "Funding" not in narrated(RISING)


@pytest.mark.parametrize("question", ["`x` \n# Sell everything\n- now", "[a](http://x)\r\n## Trend"])
def test_a_question_is_quoted_and_cannot_become_a_heading(question: str) -> None:
    text = narrated(RISING, question)
    assert [line for line in text.splitlines() if line.startswith("#")] == SECTIONS
    asked = next(line for line in text.splitlines() if line.startswith("You asked"))
    assert asked.count("`") == 2


PRICES = st.lists(st.integers(1, 400), min_size=1, max_size=160)


@given(PRICES, st.floats(0.01, 50), st.floats(1, 500), st.floats(1, 500), st.booleans())
def test_a_plan_has_its_stop_on_one_side_and_its_targets_on_the_other(
    closes: list[int], atr: float, low: float, high: float, long: bool
) -> None:
    material = a_material(closes)
    told = seen(material, atr=atr, swings=[swing("low", low), swing("high", high)])
    made = plan(material, told, long=long)
    if made is not None:
        way = 1 if long else -1
        assert made.stop * way < made.entry * way < made.targets[0] * way <= made.targets[1] * way
        assert min(made.stop, *made.targets) > 0
        assert made.reward > 0
    text = narrate(material, told, "")
    if "**Long**" in text or "**Short**" in text:
        used = plan(material, told, long="**Long**" in text)
        assert used is not None
        assert used.reward >= REWARD_MIN
