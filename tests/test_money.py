"""Amounts are whole numbers of smallest units, exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.errors import Invalid
from openoutcry.money import AMOUNT_MAX, KAI, Asset

BTC = Asset("BTC", 8)
YEN = Asset("JPY", 0)


@pytest.mark.parametrize(
    ("asset", "text", "units"),
    [
        (KAI, "1", 1_000_000),
        (KAI, "0.000001", 1),
        (KAI, "-12.5", -12_500_000),
        (KAI, "-0.1", -100_000),
        (KAI, "007", 7_000_000),
        (KAI, "0", 0),
        (BTC, "0.10000001", 10_000_001),
        (YEN, "1500", 1_500),
        (KAI, "1000000000000", AMOUNT_MAX),
    ],
)
def test_a_text_says_an_exact_amount(asset: Asset, text: str, units: int) -> None:
    assert asset.units(text) == units


@pytest.mark.parametrize(
    "text",
    ["", "-", "+1", ".5", "1.", "1e3", "NaN", "inf", " 1", "1\n", "1_000", "1,5", "٣", "0.0000001", "1000000000000.000001",
     "9" * 20, "--1", "0x1"],
)  # fmt: skip
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        KAI.units(text)


@pytest.mark.parametrize(
    ("asset", "units", "text"),
    [
        (KAI, 1, "0.000001"),
        (KAI, -1, "-0.000001"),
        (KAI, 0, "0.000000"),
        (KAI, 12_500_000, "12.500000"),
        (YEN, -7, "-7"),
    ],
)
def test_an_amount_is_told_with_all_its_places(asset: Asset, units: int, text: str) -> None:
    assert asset.text(units) == text


@given(st.integers(-AMOUNT_MAX, AMOUNT_MAX), st.integers(0, 18))
def test_what_is_told_is_read_back(units: int, scale: int) -> None:
    asset = Asset("X", scale)
    assert asset.units(asset.text(units)) == units


@pytest.mark.parametrize("scale", [-1, 19])
def test_places_have_a_limit(scale: int) -> None:
    with pytest.raises(Invalid):
        Asset("X", scale)
