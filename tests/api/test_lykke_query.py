"""What Lykke's callers write: queries and bodies, read exactly or said to be wrong, field by field."""

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.api.lykke.query import ERRORS_MAX, NS_MAX, Body, Query, Unbound
from openoutcry.orders import CancelMode

LIMIT = ("assetPairId", "side", "volume", "price")


def wrong(body: Any, known: tuple[str, ...] = LIMIT) -> list[str]:
    """The fields that a limit order's body is refused for."""
    with pytest.raises(Unbound) as refused:
        read(body, known)
    assert refused.value.text
    return list(refused.value.wrong)


def read(body: Any, known: tuple[str, ...] = LIMIT) -> tuple[str | None, bool, Decimal, Decimal]:
    told = Body(body if isinstance(body, bytes) else json.dumps(body).encode(), known)
    made = (told.text("assetPairId", needed=True), told.buys("side"), told.decimal("volume"), told.decimal("price"))
    told.end()
    return made


# Bodies


def test_numbers_of_a_body_are_those_of_its_text() -> None:
    body = b'{"assetPairId":"X","side":"sell","volume":0.1000000000000000055,"price":12345678901234567890.12}'
    assert read(body) == ("X", False, Decimal("0.1000000000000000055"), Decimal("12345678901234567890.12"))


def test_what_is_missing_is_buy_nothing_at_nothing() -> None:
    assert read({"assetPairId": "X"}) == ("X", True, Decimal(0), Decimal(0))


@pytest.mark.parametrize(("side", "buys"), [("buy", True), ("BUY", True), ("Buy", True), (0, True), ("0", True),
                                            ("sell", False), ("SeLL", False), (1, False), ("1", False)])  # fmt: skip
def test_a_side_is_a_word_in_any_case_or_a_number(side: str | int, buys: bool) -> None:
    assert read({"assetPairId": "X", "side": side})[1] is buys


def test_names_of_members_are_read_in_any_case() -> None:
    assert read(b'{"ASSETPAIRID":"X","Side":"Sell","Volume":"1.50","pRICE":2}') == (
        "X",
        False,
        Decimal("1.5"),
        Decimal(2),
    )


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", [""]), (b"{", [""]), (b"[]", [""]), (b"null", [""]), (b'"x"', [""]), (b"\xff", [""]),
        (b'{"assetPairId":"\xff"}', ["assetPairId"]), (b"[" * 100_000, [""]),
        (b'{"a":' * 50_000, [""]), (b'{"assetPairId":"X","price":NaN}', [""]),
        ({}, ["assetPairId"]), ({"assetPairId": ""}, ["assetPairId"]), ({"assetPairId": None}, ["assetPairId"]),
        ({"assetPairId": 1}, ["assetPairId"]), ({"assetPairId": ["X"]}, ["assetPairId"]),
        ({"assetPairId": "X", "amount": 1}, [""]), ({"assetPairId": "X", "": 1}, [""]),
        *(({"assetPairId": "X", "side": side}, ["side"]) for side in ("", "up", 2, -1, 1.0, True, None, [0], "1.0", " buy")),
        *(({"assetPairId": "X", "volume": v}, ["volume"]) for v in
          (None, True, [1], {"v": 1}, "", "x", "NaN", "Infinity", "1e5", "\u0661", "0x1", " 1", 10**28, "1" * 29)),
        *((b'{"assetPairId":"X","price":%b}' % v, ["price"]) for v in (b"1e28", b"1e-29", b"1e999999999", b"1" * 5_000)),
        ({"side": 7, "volume": "x", "price": [], "assetPairId": 0}, ["assetPairId", "side", "volume", "price"]),
    ],
)  # fmt: skip
def test_what_does_not_bind_is_told_field_by_field(body: Any, fields: list[str]) -> None:
    assert wrong(body) == fields


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(LIMIT) | st.text(), inner),
    max_leaves=10,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        pair, _, volume, price = read(body)
    except Unbound:
        return
    assert pair
    assert volume.is_finite()
    assert price.is_finite()


BULK = ("assetPairId", "cancelPreviousOrders", "cancelMode", "orders")


@pytest.mark.parametrize(
    ("mode", "read_as"),
    [
        ("notEmptySide", CancelMode.NOT_EMPTY_SIDE), ("BOTHSIDES", CancelMode.BOTH_SIDES), (2, CancelMode.SELL_SIDE),
        ("buyside", CancelMode.BUY_SIDE), ("3", CancelMode.BUY_SIDE), (None, None),
    ],
)  # fmt: skip
def test_a_cancel_mode_is_a_word_in_any_case_or_a_number(mode: Any, read_as: CancelMode | None) -> None:
    body = Body(json.dumps({"cancelMode": mode, "cancelPreviousOrders": True}).encode(), BULK)
    assert (body.mode("cancelMode"), body.flag("cancelPreviousOrders"), list(body.rows("orders", ()))) == (
        read_as, True, [],
    )  # fmt: skip
    body.end()


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"cancelMode": "all"}, ["cancelMode"]), ({"cancelMode": 4}, ["cancelMode"]),
        ({"cancelPreviousOrders": "true"}, ["cancelPreviousOrders"]), ({"cancelPreviousOrders": None}, ["cancelPreviousOrders"]),
        ({"orders": {}}, ["orders"]), ({"orders": "x"}, ["orders"]), ({"orders": [1, {}]}, ["orders[0]"]),
        ({"orders": [{"volume": 1}, {"volume": "x"}, {"orderAction": 9, "price": None}]},
         ["orders[1].volume", "orders[2].orderAction", "orders[2].price"]),
        ({"orders": [{"side": "buy"}]}, ["orders[0]"]),
        ({"orders": [{"volume": "x"}] * 1_000}, [f"orders[{at}].volume" for at in range(ERRORS_MAX)]),
    ],
)  # fmt: skip
def test_what_does_not_bind_in_a_bulk_is_told_by_its_place(body: Any, fields: list[str]) -> None:
    told = Body(json.dumps(body).encode(), BULK)
    told.flag("cancelPreviousOrders")
    told.mode("cancelMode")
    for row in told.rows("orders", ("orderAction", "volume", "price", "oldId")):
        row.buys("orderAction")
        row.decimal("volume")
        row.decimal("price")
    with pytest.raises(Unbound) as refused:
        told.end()
    assert list(refused.value.wrong) == fields


# Queries


def test_names_and_sides_of_a_query_are_read_in_any_case() -> None:
    query = Query(
        b"ASSETPAIRID=BTCUSD&Side=SELL&offset=5&TAKE=7&assetPairIds=a&assetPairIds[]=b&assetPairIds[1]=c&empty="
    )
    assert query.text("assetPairId") == "BTCUSD"
    assert query.buys("side") is False
    assert (query.whole("offset", 0), query.whole("take", 100), query.whole("depth", -1)) == (5, 7, -1)
    assert query.texts("assetPairIds") == ["a", "b", "c"]
    assert query.text("empty") is None
    query.end()


@pytest.mark.parametrize(
    ("raw", "ns"),
    [(b"", None), (b"from=", None), (b"from=0", 0), (b"from=1592928606187", 1_592_928_606_187_000_000), (b"from=-1", -1_000_000),
     (b"from=9223372036854775807", NS_MAX), (b"from=-9223372036854775808", -NS_MAX)],
)  # fmt: skip
def test_times_are_milliseconds_and_never_beyond_what_a_clock_shows(raw: bytes, ns: int | None) -> None:
    query = Query(raw)
    assert query.ns("from") == ns
    query.end()


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (b"take=x", ["take"]), (b"take=2147483648", ["take"]), (b"take=-2147483649", ["take"]), (b"take=1.0", ["take"]), (b"take=%2b7", ["take"]),
        (b"take=%d9%a1", ["take"]), (b"take=" + b"9" * 5_000, ["take"]), (b"side=up", ["side"]), (b"side=2", ["side"]),
        (b"from=9223372036854775808", ["from"]), (b"from=2020-01-01", ["from"]), (b"take=%ff", [""]), (b"\xff", [""]),
        (b"a=1&" * 1_001, [""]), (b"side=x&take=y&from=z", ["side", "take", "from"]),
    ],
)  # fmt: skip
def test_what_does_not_bind_in_a_query_is_told(raw: bytes, fields: list[str]) -> None:
    with pytest.raises(Unbound) as refused:
        bound(raw)
    assert list(refused.value.wrong) == fields


def bound(raw: bytes) -> None:
    query = Query(raw)
    query.buys("side")
    query.whole("take", 100)
    query.ns("from")
    query.end()


@given(st.binary(max_size=200) | st.text(max_size=50).map(lambda value: f"take={value}&side={value}".encode()))
def test_any_query_is_read_or_refused(raw: bytes) -> None:
    with suppress(Unbound):
        bound(raw)
