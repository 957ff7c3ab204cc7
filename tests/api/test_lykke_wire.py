"""What both of Lykke's transports share: decimals, and the numbers of errors."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.api.lykke import names, wire
from openoutcry.errors import Forbidden, LimitExceeded, Refusal, Unavailable
from openoutcry.orders import Code, Status
from openoutcry.trading.listings import Asset, Listings, Pair
from openoutcry.trading.risk import Rejected

DIGITS = "1234567890123456789012345678"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", "0.1"), ("-2", "-2"), ("00012.500", "12.5"), ("0", "0"), ("-0.00", "0"), ("1000", "1000"),
        ("222231.33420001911", "222231.33420001911"), (DIGITS, DIGITS), (f"-0.{DIGITS}", f"-0.{DIGITS}"),
        ("1.0000000000000000000000000000000000", "1"),
    ],
)  # fmt: skip
def test_plain_decimals_are_read_digit_by_digit(text: str, value: str) -> None:
    read = wire.decimal(text)
    assert read is not None
    assert (str(read), wire.plain(read)) == (value, value)


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "+1", "1.", ".5", "1e5", "1,000", "NaN", "Infinity", "0x10", "1_000", "\u0661", "--1", "1\n",
     f"{DIGITS}9", f"1.{DIGITS}", "0." + "0" * 28 + "1", "9" * 101, "0" * 101],
)  # fmt: skip
def test_what_is_no_plain_decimal_is_not_read(text: str) -> None:
    assert wire.decimal(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-05", "0.00001"), ("1.5E3", "1500"), ("1E+2", "100"), ("0e999", "0"), ("0.30000000000000004", None),
        ("1e28", ""), ("1e-29", ""), ("1e999", ""), ("1e-999", ""), ("1e9999999999", ""), ("01", ""), ("NaN", ""),
        ("1.23456789012345678e-12", ""), ("1.2345678901234567e-12", "0.0000000000012345678901234567"),
    ],
)  # fmt: skip
def test_exponents_of_numbers_in_json_are_exact(text: str, value: str | None) -> None:
    """`` is none: 28 digits are all that the contract's decimals have."""
    read = wire.json_decimal(text)
    assert (read is None) if value == "" else (read is not None and wire.plain(read) == (value or text))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**15), max_value=10**15))
def test_what_is_written_is_read_back(number: Decimal) -> None:
    text = wire.plain(number)
    assert wire.decimal(text) == wire.json_decimal(text) == number
    assert "e" not in text.lower()
    assert json.loads(text, parse_float=Decimal, parse_int=Decimal) == number
    assert text in ("0", "-0") or not (("." in text and text.endswith("0")) or text.endswith("."))


def test_nothing_is_written_as_minus_nothing() -> None:
    assert [wire.plain(Decimal(each)) for each in ("0", "-0", "0E-8", "-0.00", "0E+3")] == ["0"] * 5


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_a_float_that_python_wrote_is_the_number_it_shows(number: float) -> None:
    text = json.dumps(number)
    read = wire.json_decimal(text)
    assert read == Decimal(text) or (read is None and len(f"{Decimal(text):f}") > wire.DIGITS_MAX + 1)


def test_every_code_of_ours_has_a_number_of_the_contract() -> None:
    assert all(names.number(code) in names.ERRORS for code in Code)
    assert len({word for word, _ in names.ERRORS.values()}) == len(names.ERRORS) == 29


def test_every_status_has_a_word() -> None:
    assert set(names.STATUSES) == set(Status)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (wire.No(1101, "no", "take"), (1101, "no", "take")),
        (Rejected(Code.UNKNOWN_PAIR, "Not found", "assetPairId"), (1100, "Not found", "assetPairId")),
        (Rejected(Code.UNKNOWN_ASSET, "Not found", "assetId"), (1100, "Not found", "assetId")),
        (Rejected(Code.UNKNOWN_ASSET, "Unknown asset", "assetPairId"), (2004, "Unknown asset", "assetPairId")),
        (Rejected(Code.UNKNOWN_PAIR, "Unknown asset"), (2004, "Unknown asset", None)),
        (Rejected(Code.NO_LIQUIDITY), (2005, "No liquidity", None)),
        (Unavailable("exchange", "the disk is full"), (2023, "ME not available", None)),
        (LimitExceeded("too many commands wait", 1.0), None),
        (Forbidden("the key lacks the scope"), None),
    ],
)
def test_a_refusal_is_called_what_the_contract_calls_it(
    refusal: Refusal, said: tuple[int, str, str | None] | None
) -> None:
    assert wire.said(refusal) == said


LISTINGS = Listings(
    {id_: Asset(id=id_, name=id_, symbol=id_, accuracy=2) for id_ in ("A", "B")},
    {"AB": Pair(id="AB", name="A/B", base="A", quote="B", price_accuracy=2, base_accuracy=2, quote_accuracy=2)},
)


@pytest.mark.parametrize(
    ("pair", "offset", "take", "said"),
    [
        ("XY", -1, -1, (1100, "Asset pair not found", "assetPairId")),
        ("AB", -1, -1, (1101, "offset cannot be less than zero.", "offset")),
        (None, 0, -1, (1101, "take cannot be less than zero.", "take")),
        (None, 0, 1_001, (1101, "take '1001' is too big, maximum is '1000'.", "take")),
    ],
)
def test_lists_are_refused_in_the_contracts_order(
    pair: str | None, offset: int, take: int, said: tuple[int, str, str]
) -> None:
    with pytest.raises(wire.No) as refused:
        wire.paged(LISTINGS, pair, offset, take)
    assert wire.said(refused.value) == said


def test_a_list_may_be_asked_for_within_its_limits() -> None:
    wire.paged(LISTINGS, "AB", 0, 0)
    wire.paged(LISTINGS, "", 2**31 - 1, 1_000)
