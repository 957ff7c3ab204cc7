"""Decimals become whole ticks and lots, exactly; what is wrong is found in the order of the Lykke HFT API."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.money import AMOUNT_MAX
from openoutcry.orders import Code
from openoutcry.trading import risk
from openoutcry.trading.listings import Asset, Listings, Pair
from openoutcry.trading.risk import Priced, Rejected, Sized

PAIR = Pair(
    id="BTCUSD", name="BTC/USD", base="BTC", quote="USD", price_accuracy=2, base_accuracy=4, quote_accuracy=2,
    lots_min=10, lots_max=1_000_000,
)  # fmt: skip
OFF = Pair(id="OFF", name="off", base="BTC", quote="USD", price_accuracy=2, base_accuracy=4, quote_accuracy=2, on=False)
LISTINGS = Listings(
    {
        "BTC": Asset(id="BTC", name="Bitcoin", symbol="BTC", accuracy=4),
        "USD": Asset(id="USD", name="Dollar", symbol="USD", accuracy=2),
    },
    {PAIR.id: PAIR, OFF.id: OFF},
)
FREE = {"BTC": Decimal("2.5"), "USD": Decimal("1000.00")}

Said = tuple[Code, str | None, str]


def limit(volume: str, price: str, *, pair: str = "BTCUSD", buys: bool = True) -> Sized | Said:
    try:
        return risk.limit(LISTINGS, pair, Decimal(volume), Decimal(price), FREE.__getitem__, buys=buys)
    except Rejected as e:
        return e.code, e.field, e.text


def test_an_order_is_counted_in_lots_and_ticks() -> None:
    assert limit("0.0010", "100.5") == Sized(10, 10_050)
    assert limit("1", "7E+2") == Sized(10_000, 70_000)
    assert limit("2.50000000000", "0.01000", buys=False) == Sized(25_000, 1)


@pytest.mark.parametrize(
    ("volume", "price", "pair", "said"),
    [
        # Each row is wrong in all that the rows below it are wrong in, and is told of the first.
        ("0", "NaN", "NOWT", (Code.INVALID_FIELD, "price", "'Price' is not a valid decimal.")),
        ("0", "Infinity", "NOWT", (Code.INVALID_FIELD, "price", "'Price' is not a valid decimal.")),
        ("0", "1E+30", "NOWT", (Code.INVALID_FIELD, "price", "'Price' has too many digits.")),
        ("0", "1E-999999", "NOWT", (Code.INVALID_FIELD, "price", "'Price' has too many digits.")),
        ("0", "1" * 61, "NOWT", (Code.INVALID_FIELD, "price", "'Price' has too many digits.")),
        ("0", "-1.001", "NOWT", (Code.INVALID_FIELD, "price", "'Price' cannot be less than zero.")),
        ("0", "0", "NOWT", (Code.INVALID_FIELD, "price", "'Price' cannot be less than zero.")),
        ("sNaN", "100.001", "NOWT", (Code.INVALID_FIELD, "volume", "'Volume' is not a valid decimal.")),
        ("-0.00001", "100.001", "NOWT", (Code.INVALID_FIELD, "volume", "'Volume' cannot be less than zero.")),
        ("0.00001", "100.001", "NOWT", (Code.UNKNOWN_PAIR, "assetPairId", "Asset pair not found")),
        ("0.00099", "1e9", "BTCUSD", (Code.INVALID_FIELD, "volume", "'Volume' must be greater than 0.001.")),
        ("100.00001", "1000.001", "BTCUSD", (Code.NOT_ENOUGH_FUNDS, "volume", "Not enough funds")),
        ("100.00001", "0.001", "OFF", (Code.DISABLED, "assetPairId", "Disabled asset")),
        ("100.00001", "0.001", "BTCUSD", (Code.INVALID_VOLUME, "volume", "Invalid volume")),
        ("100.0001", "0.001", "BTCUSD", (Code.INVALID_VOLUME, "volume", "Invalid volume")),
        ("99.00001", "0.001", "BTCUSD", (Code.INVALID_PRICE_ACCURACY, "price", "Invalid price accuracy")),
        ("99.00001", "0.01", "BTCUSD", (Code.INVALID_VOLUME_ACCURACY, "volume", "Invalid volume accuracy")),
    ],
)
def test_the_first_thing_that_is_wrong_is_told(volume: str, price: str, pair: str, said: Said) -> None:
    assert limit(volume, price, pair=pair) == said


def test_funds_are_what_is_free_of_what_is_given() -> None:
    assert limit("10", "100") == Sized(100_000, 10_000)
    assert limit("10", "100.01") == (Code.NOT_ENOUGH_FUNDS, "volume", "Not enough funds")
    assert limit("2.5", "100000", buys=False) == Sized(25_000, 10_000_000)
    assert limit("2.5001", "1", buys=False) == (Code.NOT_ENOUGH_FUNDS, "volume", "Not enough funds")


def test_a_product_of_long_numbers_is_compared_exactly() -> None:
    # A tick more than is there, 45 digits away from the point.
    assert limit("10", "100.0000000000000000000000000001")[0] is Code.NOT_ENOUGH_FUNDS


def test_a_price_that_cannot_be_kept_is_no_price() -> None:
    told = risk.item(PAIR, Decimal(1), Decimal(AMOUNT_MAX))
    assert told == Priced(0, 0, Code.INVALID_PRICE)


def test_a_market_order_with_too_many_places_is_for_the_engine_to_refuse() -> None:
    assert risk.market(LISTINGS, "BTCUSD", Decimal("0.00109")) == Sized(10, fine=False)
    assert risk.market(LISTINGS, "BTCUSD", Decimal("0.00110")) == Sized(11, fine=True)
    assert risk.market(LISTINGS, "BTCUSD", Decimal("9E+28")).lots == AMOUNT_MAX + 1
    with pytest.raises(Rejected, match=r"must be greater than 0\.001"):
        risk.market(LISTINGS, "BTCUSD", Decimal("0.00099"))


@pytest.mark.parametrize(
    ("pair", "volume", "price", "refused"),
    [
        (PAIR, "NaN", "NaN", Code.INVALID_PRICE),
        (PAIR, "-Infinity", "1", Code.INVALID_VOLUME),
        (OFF, "-1", "-1", Code.DISABLED),
        (PAIR, "-1", "-1", Code.INVALID_PRICE),
        (PAIR, "-1", "0.001", Code.INVALID_VOLUME),
        (PAIR, "0.00001", "0.001", Code.TOO_SMALL_VOLUME),
        (PAIR, "100.00001", "0.001", Code.INVALID_VOLUME),
        (PAIR, "1.00001", "0.001", Code.INVALID_PRICE_ACCURACY),
        (PAIR, "1.00001", "0.01", Code.INVALID_VOLUME_ACCURACY),
    ],
)
def test_an_item_of_a_bulk_is_refused_with_the_engines_words(
    pair: Pair, volume: str, price: str, refused: Code
) -> None:
    assert risk.item(pair, Decimal(volume), Decimal(price)) == Priced(0, 0, refused)


@pytest.mark.parametrize(
    "text", ["", "1e5", "1E-5", "NaN", "inf", "-", ".", "1,5", "1_000", " 1", "1\n", "٣", "0x10", "1" * 81]
)
def test_text_that_is_no_plain_number_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match=r"'Price' is not a valid decimal\.") as refused:
        risk.decimal(text, "price")
    assert (refused.value.code, refused.value.field) == (Code.INVALID_FIELD, "price")


@pytest.mark.parametrize("text", ["1", "-1", "+1.5", "0.00000001", "1.", ".5", "123456789012345678901234567890.5"])
def test_text_that_is_a_plain_number_is_that_number(text: str) -> None:
    assert risk.decimal(text, "price") == Decimal(text)


def test_an_amount_of_an_asset_is_exact_or_refused() -> None:
    assert risk.units(Decimal("-1.50"), 2, "volume") == -150
    for amount, code in (
        ("0", Code.INVALID_VOLUME),
        ("0E+99999999", Code.INVALID_VOLUME),
        ("1.001", Code.INVALID_VOLUME_ACCURACY),
        ("1E+17", Code.INVALID_VOLUME),
        ("1E+99999", Code.INVALID_FIELD),
        ("NaN", Code.INVALID_FIELD),
    ):
        with pytest.raises(Rejected) as refused:
            risk.units(Decimal(amount), 2, "volume")
        assert refused.value.code is code, amount


@given(st.decimals(), st.decimals(), st.booleans(), st.sampled_from(["BTCUSD", "OFF", "NOWT"]))
def test_whatever_the_numbers_they_are_counted_exactly_or_refused(
    volume: Decimal,
    price: Decimal,
    buys: bool,
    pair: str,
) -> None:
    try:
        sized = risk.limit(LISTINGS, pair, volume, price, lambda _: Decimal("1E+40"), buys=buys)
    except Rejected:
        pass
    else:
        assert Fraction(sized.lots, 10**4) == Fraction(volume)
        assert Fraction(sized.ticks, 10**2) == Fraction(price)
    lots, ticks, refused = risk.item(PAIR, volume, price)
    if refused is None:
        assert (Fraction(lots, 10**4), Fraction(ticks, 10**2)) == (Fraction(volume), Fraction(price))


def test_every_code_has_a_text() -> None:
    assert set(risk.TEXTS) == set(Code)
