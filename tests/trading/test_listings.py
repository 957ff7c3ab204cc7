"""A file of listings is read as people write it, and what is wrong in it is named by its place."""

import copy
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.config import BadConfig
from openoutcry.errors import Invalid
from openoutcry.trading import listings_file
from openoutcry.trading.listings import Listings, Pair, plain

TOLD: dict[str, Any] = {
    "assets": {"BTC": {"name": "Bitcoin", "accuracy": 8}, "USD": {"accuracy": 2, "symbol": "$"}},
    "pairs": {
        "BTCUSD": {
            "base": "BTC",
            "quote": "USD",
            "price_accuracy": 3,
            "min_volume": "0.0001",
            "min_opposite_volume": "1",
            "max_volume": "1000",
            "max_value": "5000000.50",
            "price_deviation": "10%",
            "maker_fee": "0.1%",
            "taker_fee": "0.0025 %",
        }
    },
}


def told(place: str, value: Any) -> dict[str, Any]:
    """The above, but for one place: `...` takes it away."""
    changed = copy.deepcopy(TOLD)
    *tables, name = place.split(".")
    table = changed
    for each in tables:
        table = table[each]
    if value is ...:
        del table[name]
    else:
        table[name] = value
    return changed


def test_decimals_and_percentages_become_whole_units() -> None:
    listings = Listings.of(TOLD)
    assert listings.pairs["BTCUSD"] == Pair(
        id="BTCUSD", name="BTC/$", base="BTC", quote="USD", price_accuracy=3, base_accuracy=8, quote_accuracy=2,
        lots_min=10_000, quote_min=100, lots_max=1000 * 10**8, quote_max=500_000_050, deviation_ppm=100_000,
        maker_fee_ppm=1_000, taker_fee_ppm=25, on=True,
    )  # fmt: skip
    assert Listings.read(listings.told()) == listings


def test_what_is_not_said_has_no_bound_and_no_fee() -> None:
    pair = Listings.of(told("pairs.BTCUSD", {"base": "BTC", "quote": "USD", "price_accuracy": 0})).pairs["BTCUSD"]
    assert (pair.lots_min, pair.lots_max, pair.quote_max, pair.taker_fee_ppm, pair.on) == (1, 0, 0, 0, True)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("assets.BTC.accuracy", ..., "it is missing"),
        ("assets.BTC.accuracy", "8", "a whole number is wanted"),
        ("assets.BTC.accuracy", True, "a whole number is wanted"),
        ("assets.BTC.accuracy", 13, "an accuracy is 0 to 12"),
        ("assets.BTC.colour", "red", "nothing of that name"),
        ("assets.BTC", "gold", "a table is wanted"),
        ("pairs", [], "a table is wanted"),
        ("pears", {}, "nothing of that name"),
        ("pairs.BTCUSD.base", "XRP", "there is no asset XRP"),
        ("pairs.BTCUSD.quote", "BTC", "not traded for itself"),
        ("pairs.BTCUSD.min_volume", 0.0001, "in quotes"),
        ("pairs.BTCUSD.min_volume", "0.000000001", "8 decimal places"),
        ("pairs.BTCUSD.min_volume", "1e-4", "plain decimal digits"),
        ("pairs.BTCUSD.min_volume", "-1", "not below zero"),
        ("pairs.BTCUSD.max_volume", "9" * 30, "plain decimal digits"),
        ("pairs.BTCUSD.maker_fee", "0.1", 'as "0.1%"'),
        ("pairs.BTCUSD.maker_fee", "0.00001%", "4 decimal places"),
        ("pairs.BTCUSD.taker_fee", "100%", "less than all of it"),
        ("pairs.BTCUSD.on", "no", "true or false"),
        ("pairs.BTCUSD.fee", "0%", "nothing of that name"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(place: str, value: Any, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        Listings.of(told(place, value))
    assert says in refused.value.text
    named, _, _ = refused.value.text.partition(":")
    assert place.startswith(named)


@pytest.mark.parametrize("name", ["", "two words", "BTC\n", "Ж", "x" * 33])
def test_an_id_can_be_written_everywhere(name: str) -> None:
    with pytest.raises(Invalid, match="visible ASCII"):
        Listings.of({"assets": {name: {"name": "x", "symbol": "x", "accuracy": 2}}})


def test_money_for_models_is_not_traded() -> None:
    with pytest.raises(Invalid, match=r"^assets\.KAI: "):
        Listings.of({"assets": {"KAI": {"accuracy": 6}}})


def test_no_more_is_listed_than_fits() -> None:
    with pytest.raises(Invalid, match="at most 1000"):
        Listings.of({"assets": {f"A{n}": {"accuracy": 2} for n in range(1_001)}})


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("pairs", {}, "pairs.BTCUSD: it is listed, and cannot go"),
        ("pairs.BTCUSD.price_accuracy", 2, "pairs.BTCUSD.price_accuracy: it is listed with 3"),
        ("assets.BTC.accuracy", 9, "assets.BTC.accuracy: it is listed with 8"),
    ],
)
def test_units_of_what_is_listed_never_change(place: str, value: Any, says: str) -> None:
    before, after = Listings.of(TOLD), Listings.of(told(place, value))
    with pytest.raises(Invalid, match=says):
        after.refuse_unlike(before)


def test_an_asset_that_was_listed_cannot_go() -> None:
    before = Listings.of({"assets": {"BTC": {"accuracy": 8}, "USD": {"accuracy": 2}}})
    with pytest.raises(Invalid, match=r"assets\.USD: it is listed"):
        Listings.of({"assets": {"BTC": {"accuracy": 8}}}).refuse_unlike(before)


def test_rules_names_and_more_of_it_may_change() -> None:
    after = told("pairs.BTCUSD.maker_fee", "0.2%")
    after["pairs"]["BTCUSD"] |= {"on": False, "name": "another", "min_volume": "5"}
    after["assets"]["EUR"] = {"accuracy": 2}
    Listings.of(after).refuse_unlike(Listings.of(TOLD))


@given(st.integers(-(10**36), 10**36), st.integers(0, 24))
def test_a_number_is_plain_and_exact(units: int, places: int) -> None:
    number = plain(units, places)
    written = f"{number:f}"
    assert Decimal(written) * 10**places == units if abs(units) < 10**20 else True
    whole, _, fraction = written.partition(".")
    assert int(whole + fraction.ljust(places, "0")) == units
    assert not fraction.endswith("0")
    assert "E" not in written
    assert f"{plain(0, places)}" == "0"


def test_the_demo_lists_some_pairs() -> None:
    assert set(listings_file.demo().pairs) == {"BTCUSD", "ETHUSD", "BTCEUR"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[assets.BTC]\naccuracy = 99\n", "assets.BTC: an accuracy"),
        (b"[assets", "Expected"),
        (b"\xff\xfe", "decode"),
        (b"#" * (listings_file.FILE_BYTES_MAX + 1), "more than"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: bytes, says: str) -> None:
    file = tmp_path / "pairs.toml"
    file.write_bytes(text)
    with pytest.raises(BadConfig, match=r"pairs\.toml: .*" + says):
        listings_file.read(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"nowt\.toml"):
        listings_file.read(tmp_path / "nowt.toml")
