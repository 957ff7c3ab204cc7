"""JSON of whole columns, held against protobuf's own JSON, against Go's rules spelled out, and against answers as recorded."""

import json
import math
import re
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given

from openoutcry.api.kiyotaka import contract, encode
from openoutcry.api.kiyotaka.names import SORTS, Identity, Sort
from openoutcry.api.kiyotaka.piece import Piece
from openoutcry.api.kiyotaka.shapes import FIELDS, Shape, numbers
from openoutcry.clock import NS
from openoutcry.events import Side, Trade
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.blocks import Cut
from openoutcry.market.series import NUMBERS, TEXTS, TIMES, Columns, Of, SeriesKey

# Zero, what is not told, numbers on both sides of where an exponent begins, and any other.
DOUBLES = st.one_of(
    st.sampled_from(
        [0.0, -0.0, math.nan, math.inf, 1.0, 100.0, 1e-6, 9.99e-7, 1.5e-5, 1e-5, 1e16, 1e21, 9.9e20, -2e-6]
    ),
    st.floats(),
    st.integers(-10, 10).map(float),
)
MOMENTS = st.one_of(st.just(0), st.sampled_from([NS, 5, 1_700_000_000 * NS]), st.integers(0, 2**32 * NS - 1))
TEXT = st.one_of(st.sampled_from(["", "1", "a,b", 'q"\\', "é"]), st.text(max_size=5))


@st.composite
def a_block(draw: Any) -> tuple[Sort, Columns]:
    sort = draw(st.sampled_from(list(SORTS.values())))
    many = draw(st.integers(1, 6))

    def column(each: Any) -> list[Any]:
        return list(draw(st.lists(each, min_size=many, max_size=many)))

    of: dict[str, Any] = {name: np.array(column(DOUBLES), np.float64) for name in NUMBERS[sort.of]}
    of |= {name: np.array(column(MOMENTS), np.int64) for name in TIMES.get(sort.of, ())}
    for name in TEXTS.get(sort.of, ()):
        each = st.lists(DOUBLES, max_size=4).map(lambda row: " ".join(map(str, row))) if name == "levels" else TEXT
        of[name] = np.array(column(each), np.str_)
    at_ns = column(MOMENTS if sort.of is Of.TRADES else MOMENTS.map(lambda ns: ns // NS * NS))
    return sort, Columns(np.array(sorted(at_ns), np.int64), of)


def a_piece(sort: Sort, **more: Any) -> Piece:
    identity = Identity(
        **{
            "type": sort.number,
            "raw_symbol": "BTCUSDT",
            "exchange": contract.EXCHANGES["BINANCE_FUTURES"],
            "normalized_symbol": "BTC-USDT",
            "category": contract.CATEGORIES["PERPETUAL"],
            "interval": 0 if sort.of is Of.TRADES else contract.INTERVALS["HOUR"],
            "side": contract.SIDES["BUY"] if Side.BUY in sort.sides else 0,
            "coin": "BTC",
            **more,
        }
    )
    instrument = Instrument(
        venue="binance_futures",
        symbol="BTCUSDT",
        kind=Kind.PERPETUAL,
        coin="BTC",
        quote="USDT",
        settle="USDT",
        tick_size=Decimal("0.1"),
        lot_size=Decimal("0.1"),
    )
    return Piece(sort, instrument, SeriesKey(instrument.name, sort.of), identity, encode.identifier(identity))


def said(shape: str, piece: Piece, *cuts: Cut) -> bytes:
    form = Shape(shape)
    return form.series(piece, [form.cut(piece, cut) for cut in cuts])


def messages(piece: Piece, cut: Cut) -> contract.Message:
    form = encode.Protobuf()
    return contract.PointSeries.FromString(form.series(piece, [form.cut(piece, cut)]))


@given(a_block(), st.integers(0, 6), st.integers(0, 6))
def test_shape_proto_is_what_protobuf_makes_of_the_same_points(
    block: tuple[Sort, Columns], low: int, high: int
) -> None:
    sort, columns = block
    low, high = sorted((min(low, len(columns)), min(high, len(columns))))
    piece, cut = a_piece(sort), Cut(columns, low, high)
    text = said("proto", piece, cut)
    made = json_format.MessageToJson(messages(piece, cut), always_print_fields_with_no_presence=True)
    # A whole number above 2^53 reads as the double it is the shortest spelling of.
    read = json.loads(text, parse_int=float)
    assert read == json.loads(made, parse_int=float)
    assert sort.of is Of.TRADES or not re.search(rb"\s", text)
    declared = contract.POOL.FindMessageTypeByName("api.Point").fields_by_name[sort.member].message_type.fields
    for point in read["points"]:
        payload = point[sort.member]
        assert list(payload) == [field.name for field in declared if field.name in payload]


@given(a_block(), st.integers(0, 6), st.integers(0, 6))
def test_shape_point_is_what_go_makes_of_the_same_points(block: tuple[Sort, Columns], low: int, high: int) -> None:
    sort, columns = block
    low, high = sorted((min(low, len(columns)), min(high, len(columns))))
    piece, cut = a_piece(sort), Cut(columns, low, high)
    series = messages(piece, cut)
    points = ",".join(go_struct(getattr(point, sort.member)) for point in series.points)
    text = said("point", piece, cut).decode()
    assert text.endswith(f',"points":[{points}]}}')


def go_struct(message: contract.Message) -> str:
    shown = []
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None:
            if message.HasField(field.name):
                parts = (f'"{name}":{part}' for name, part in (("s", value.seconds), ("ns", value.nanoseconds)) if part)
                shown.append(f'"{field.name}":{{{",".join(parts)}}}')
        elif field.is_repeated:
            listed = [go_number(each) for each in value if math.isfinite(each)]
            if listed:
                shown.append(f'"{field.name}":[{",".join(listed)}]')
        elif isinstance(value, str):
            if value:
                shown.append(f'"{field.name}":{json.dumps(value, ensure_ascii=False)}')
        elif math.isfinite(value) and (message.HasField(field.name) if field.has_presence else value):
            shown.append(f'"{field.name}":{go_number(value)}')
    return f'{{"Point":{{{",".join(shown)}}}}}'


def go_number(number: float) -> str:
    """Go's encoding/json, from the digits of repr."""
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    shown, point = "".join(map(str, digits)), len(digits) + exponent
    minus = "-" if sign else ""
    if number and not 1e-6 <= abs(number) < 1e21:
        rest = f".{shown[1:]}" if len(shown) > 1 else ""
        return f"{minus}{shown[0]}{rest}e{point - 1:+d}"
    if point <= 0:
        return f"{minus}0.{'0' * -point}{shown}"
    if point >= len(shown):
        return f"{minus}{shown}{'0' * (point - len(shown))}"
    return f"{minus}{shown[:point]}.{shown[point:]}"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_are_the_shortest_and_spelled_as_go_spells_them(column: list[float]) -> None:
    texts = numbers(np.array(column, np.float64))
    assert [text.decode() for text in texts] == [go_number(number) for number in column]
    assert [float(text) for text in texts] == column


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (60_000.0, "60000"),
        (0.1, "0.1"),
        (1e-5, "0.00001"),
        (1.25e-6, "0.00000125"),
        (1.25e-7, "1.25e-7"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (-0.0, "-0"),
    ],
)
def test_a_number_is_spelled_as_recorded_answers_spell_it(number: float, text: str) -> None:
    assert numbers(np.array([number, 1.0])) == [text.encode(), b"1"]


HEAD = (
    '"rawSymbol":"BTCUSDT","exchange":"BINANCE_FUTURES","normalizedSymbol":"BTC-USDT","category":"PERPETUAL",'
    '"interval":"HOUR"'
)
AT = '"timestamp":{"s":1700000000}'
BOTH = '"firstTimestamp":{"s":1700000000,"ns":126000000},"lastTimestamp":{"s":1700003599}'
# Type, row, side in the id, the point.
RECORDED: dict[str, tuple[dict[str, Any], str, str]] = {
    "TRADE_AGG": (
        {"open": 100.0, "high": 101.5, "low": 99.0, "close": 100.25, "volume": 0.0, "first_ns": 0, "last_ns": 7},
        ',"side":"BUY"',
        f'"open":100,"high":101.5,"low":99,"close":100.25,{AT},"lastTimestamp":{{"ns":7}}',
    ),
    "TRADE_SIDE_AGNOSTIC_AGG": (
        {
            "open": 100.0,
            "high": 101.5,
            "low": 99.0,
            "close": 100.25,
            "volume": 12.5,
            "first_ns": 1_700_000_000_126_000_000,
            "last_ns": 1_700_003_599 * NS,
        },
        "",
        f'"open":100,"high":101.5,"low":99,"close":100.25,"volume":12.5,{AT},{BOTH}',
    ),
    "OPEN_INTEREST_AGG": (
        {name: 0.0 if name == "low" else 5.0 for name in NUMBERS[Of.INTEREST_BARS]},
        "",
        f'"open":5,"high":5,"low":0,"close":5,{AT}',
    ),
    "FUNDING_RATE_AGG": (
        {
            "open": 1e-7,
            "high": 1e-4,
            "low": -1.25e-5,
            "close": 0.0,
            **{f"predicted_{which}": math.nan for which in ("open", "high", "low", "close")},
        },
        "",
        f'"rateOpen":1e-7,"rateHigh":0.0001,"rateLow":-0.0000125,"rateClose":0,{AT}',
    ),
    "LIQUIDATION_AGG": ({"volume": 0.004}, ',"side":"BUY"', f'"liquidations":0.004,{AT}'),
    "CME_OPEN_INTEREST_AGG": (
        {name: math.nan if name.startswith("value") else 2.0 for name in NUMBERS[Of.INTEREST_BARS]},
        "",
        f'"open":2,"high":2,"low":2,"close":2,"priceOpen":2,"priceHigh":2,"priceLow":2,"priceClose":2,{AT}',
    ),
    "OPTION_OPEN_INTEREST_AGG": (
        dict.fromkeys(NUMBERS[Of.INTEREST_BARS], 3.0),
        "",
        f'"underlyingPriceClose":3,"oiClose":3,{AT}',
    ),
    "HYPERLIQUID_LIQUIDATION_AGG": ({"levels": "60000 1.5"}, "", f'{AT},"coin":"BTC","levels":[60000,1.5]'),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_series_in_shape_point_stands_as_it_was_recorded(name: str) -> None:
    row, side, point = RECORDED[name]
    sort = SORTS[contract.TYPES[name]]
    columns = Columns(np.array([1_700_000_000 * NS]), {column: np.array([value]) for column, value in row.items()})
    assert said("point", a_piece(sort), Cut(columns, 0, 1)).decode() == (
        f'{{"id":{{"type":"{name}",{HEAD}{side},"coin":"BTC"}},"points":[{{"Point":{{{point}}}}}]}}'
    )


def test_a_trade_in_both_shapes_alone_and_among_others() -> None:
    sort = SORTS[contract.TYPES["TRADE"]]
    piece = a_piece(sort)
    trade = Trade("x:y", 1_700_000_000 * NS + 1, 0, "t,1", 1, Side.BUY, Decimal("100.50"), Decimal("0.25"))
    point, proto = Shape("point"), Shape("proto")
    assert point.row(piece, trade) == (
        b'{"Point":{"id":"t,1","price":100.5,"amount":0.25,"timestamp":{"s":1700000000,"ns":1}}}'
    )
    assert proto.row(piece, trade) == (
        b'{"trade":{"id":"t,1","price":100.5,"amount":0.25,"timestamp":{"seconds":1700000000,"nanoseconds":1}}}'
    )
    assert point.row(piece, trade) is point.row(piece, trade)
    assert json.loads(proto.series(piece, [proto.row(piece, trade)] * 2))["id"] == {
        "type": "TRADE",
        "rawSymbol": "BTCUSDT",
        "exchange": "BINANCE_FUTURES",
        "normalizedSymbol": "BTC-USDT",
        "category": "PERPETUAL",
        "interval": "UNKNOWN_AGGREGATION_INTERVAL",
        "side": "BUY",
        "coin": "BTC",
    }


def test_what_was_made_of_a_block_goes_with_the_block() -> None:
    sort = SORTS[contract.TYPES["LIQUIDATION_AGG"]]
    form, piece = Shape("proto"), a_piece(sort)
    columns = Columns(np.arange(3) * NS, {"volume": np.arange(3.0)})
    assert json.loads(b"[%b]" % form.cut(piece, Cut(columns, 1, 3)))[0]["liquidationAggregation"]["liquidations"] == 1
    kept = form._kept[sort.number]
    assert len(kept) == 1
    del columns
    assert not len(kept)


def test_answers_about_what_there_is() -> None:
    answer = contract.PointMetaResponse(exchanges=[3, 6])
    assert json.loads(Shape("proto").meta("exchanges", answer)) == json_format.MessageToDict(
        answer, always_print_fields_with_no_presence=True
    )
    assert Shape("point").meta("exchanges", answer) == b'{"exchanges":["BINANCE_FUTURES","BINANCE"]}'
    assert Shape("point").meta("coins", contract.PointMetaResponse(coins=["BTC"])) == b'{"coins":["BTC"]}'


def test_every_field_of_every_payload_is_told_and_in_its_place() -> None:
    for member, fields in FIELDS.items():
        declared = contract.POOL.FindMessageTypeByName("api.Point").fields_by_name[member].message_type
        assert [field.name for field in fields] == [field.name for field in declared.fields]
