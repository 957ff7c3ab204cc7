"""Columns become the contract's bytes: the published vectors, and protobuf's own runtime as the oracle."""

import math
from pathlib import Path
from typing import Any

import grpc_tools
import numpy as np
import pytest
from grpc_tools import protoc
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.api.kiyotaka import contract, encode, names
from openoutcry.events import NS, Side
from openoutcry.instrument import Exchange
from openoutcry.market.blocks import Cut
from openoutcry.market.series import TEXTS, TIMES, Columns
from openoutcry.market.series import names as columns_named

NAN = math.nan
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
OHLC = ("open", "high", "low", "close")
# What the published clients write, message by message (spec, section 4).
VECTORS = [
    (
        "PointRequest",
        {
            "type": [9, 107], "exchange": [6, 18], "normalizedSymbol": ["BTC-USDT"], "coin": ["BTC"], "category": [1, 2],
            "rawSymbol": ["BTCUSDT"], "side": 2, "interval": 2, "from": 1_700_000_000, "period": 3_600,
        },
        "0a02096b120206121a084254432d5553445422034254432a020102320742544355534454400260027080e2cfaa0678901c",
    ),
    (
        "PointMetaRequest",
        {
            "type": [1], "exchange": [150], "category": [2], "coin": ["BTC", "ETH"], "rawSymbol": ["BTCUSDT"],
            "normalizedSymbol": ["BTC-USDT"], "from": 1_700_000_000, "to": 1_700_003_600,
        },
        "0a0101120296011a0102220342544322034554482a074254435553445442084254432d555344543080e2cfaa063890fecfaa06",
    ),
    (
        "PointMetaResponse",
        {
            "types": [1, 9, 147], "exchanges": [6, 150], "categories": [1], "coins": ["BTC"], "rawSymbols": ["BTCUSDT"],
            "normalizedSymbols": ["BTC-USDT"],
        },
        "0a040109930112030696011a010122034254433207425443555344543a084254432d55534454",
    ),
    (
        "PointSeriesIdentifier",
        {
            "type": 9, "rawSymbol": "BTCUSDT", "exchange": 6, "normalizedSymbol": "BTC-USDT", "category": 1, "interval": 2,
            "side": 2, "coin": "BTC",
        },
        "10091a0742544355534454200632084254432d55534454380140025802a20103425443",
    ),
]  # fmt: skip
MINUTE = 60 * NS
OPENED = {"first_ns": [0], "last_ns": [0]}
# Points as columns of ours, and as the published client writes them.
POINTS: list[tuple[str, int, dict[str, list[Any]], str]] = [
    (
        "trade",
        1_700_000_000 * NS + 1,
        {"id": ["t1"], "side": ["buy"], "price": [100.5], "size": [0.25]},
        "3a220a02743111000000000020594019000000000000d03f220a0d00f153651501000000",
    ),
    (
        "tradeSideAgnosticAggregation",
        MINUTE,
        {**{key: [1.0] for key in (*OHLC, "volume")}, **OPENED},
        "e2063409000000000000f03f11000000000000f03f19000000000000f03f21000000000000f03f29000000000000f03f32050d3c000000",
    ),
    (
        "liquidationAggregation",
        MINUTE,
        {"volume": [2.0]},
        "621009000000000000004012050d3c000000",
    ),
    (
        "optionOpenInterestAggregation",
        MINUTE,
        {"close": [2.0], "price_close": [1.0]},
        "e2031909000000000000f03f1100000000000000401a050d3c000000",
    ),
    (
        "hyperliquidLiquidationAggregation",
        MINUTE,
        {"levels": ["100 1.5"]},
        "a2091e0a050d3c00000012034254432a100000000000005940000000000000f83f",
    ),
]
BY_MEMBER = {sort.member: sort for sort in names.SORTS.values()}


def columns(member: str, at_ns: list[int], told: dict[str, list[Any]]) -> Columns:
    """Columns with those values; what is not given is not told."""
    of = BY_MEMBER[member].of
    made: dict[str, Any] = {}
    for name in columns_named(of):
        if name in TEXTS.get(of, ()):
            made[name] = np.array(told.get(name, [""] * len(at_ns)), np.str_)
        elif name in TIMES.get(of, ()):
            made[name] = np.array(told.get(name, [0] * len(at_ns)), np.int64)
        else:
            made[name] = np.array(told.get(name, [NAN] * len(at_ns)), np.float64)
    return Columns(np.array(at_ns, np.int64), made)


@pytest.mark.parametrize(("name", "content", "told"), VECTORS, ids=[row[0] for row in VECTORS])
def test_messages_of_published_clients_are_read_and_written(name: str, content: dict[str, Any], told: str) -> None:
    kind = contract.message(f"api.{name}")
    message = kind(**content)
    assert kind.FromString(bytes.fromhex(told)) == message
    # One client writes a later field before an earlier one: any order is good, and ours is by number.
    assert message.SerializeToString() == kind.FromString(bytes.fromhex(told)).SerializeToString()
    if name != "PointMetaRequest":
        assert message.SerializeToString().hex() == told


@pytest.mark.parametrize(("member", "at_ns", "told", "hexed"), POINTS, ids=[row[0] for row in POINTS])
def test_points_are_the_bytes_that_published_clients_write(
    member: str, at_ns: int, told: dict[str, list[Any]], hexed: str
) -> None:
    point = bytes.fromhex(hexed)
    encoded = encode.encode(BY_MEMBER[member], columns(member, [at_ns], told), "BTC")
    assert encoded.data == b"\x1a" + encode.varint(len(point)) + point


@pytest.mark.parametrize(
    ("hexed", "member", "told"),
    [
        (
            "6a190900000000000000002100000000000014404a050d3c000000",
            "openInterestAggregation",
            {"open": 0.0, "close": 5.0},
        ),
        (
            "521909000000000000e0bf41000000000000e03f4a050d3c000000",
            "fundingRateAggregation",
            {"rateOpen": -0.5, "predictedClose": 0.5},
        ),
        (
            "a2012209000000000000f03f4100000000000000406100000000000008406a050d3c000000",
            "cmeOpenInterestAggregation",
            {"open": 1.0, "valueClose": 2.0, "priceClose": 3.0},
        ),
    ],
)
def test_partly_told_points_of_published_clients_are_read(hexed: str, member: str, told: dict[str, float]) -> None:
    point = contract.Point.FromString(bytes.fromhex(hexed))
    assert point.WhichOneof("point") == member
    payload = getattr(point, member)
    assert {field.name: value for field, value in payload.ListFields() if field.name != "timestamp"} == told
    assert all(payload.HasField(name) for name in told)
    assert point.SerializeToString().hex() == hexed


def test_a_series_is_the_bytes_that_published_clients_write() -> None:
    told = {"open": [1.0], "high": [4.0], "low": [0.5], "close": [2.0], "volume": [10.0]}
    times = {"first_ns": [1_700_000_040_126_000_000], "last_ns": [1_700_000_099_878_000_000]}
    made = columns("tradeAggregation", [1_700_000_040 * NS], {**told, **times})
    identity = names.Identity(9, "BTCUSDT", 6, "BTC-USDT", 1, 2, 2, "BTC")
    points = encode.encode(BY_MEMBER["tradeAggregation"], made).data
    assert encode.series(encode.identifier(identity), [points]).hex() == (
        "122310091a0742544355534454200632084254432d55534454380140025802a201034254431a4e7a4c09000000000000f03f11000000000000"
        "104019000000000000e03f21000000000000004029000000000000244032050d28f153653a0a0d28f1536515809b8207420a0d63f153651580"
        "375534"
    )


NUMBERS = st.floats(allow_nan=False, allow_infinity=True, width=64)
ROWS = st.integers(1, 12)
SECONDS = st.integers(0, 2**32 - 1)
# Few enough moments and lengths that rows of one layout stand together, and others between them.
MOMENTS = st.sampled_from([0, 1_700_000_000 * NS, 1_700_000_000 * NS + 1, 1_700_000_059_999_999_999])
IDS = st.sampled_from(["1", "123", "a-1", "é", "x" * 64, "y" * 65, "z" * 300])


@st.composite
def some_columns(draw: st.DrawFn) -> tuple[str, Columns]:
    member = draw(st.sampled_from(sorted(BY_MEMBER)))
    many = draw(ROWS)
    at_ns = [draw(SECONDS) * NS for _ in range(many)]
    told: dict[str, list[Any]] = {}
    of = BY_MEMBER[member].of
    groups = ("predicted", "value", "price")
    known = {group: [draw(st.booleans()) for _ in range(many)] for group in groups}
    for name in columns_named(of):
        if name == "id":
            told[name] = [draw(IDS) for _ in range(many)]
        elif name == "levels":
            pairs = st.lists(st.tuples(st.integers(1, 99), st.integers(1, 9)), max_size=3)
            told[name] = [" ".join(f"{price} {size}" for price, size in draw(pairs)) for _ in range(many)]
        elif name in TIMES.get(of, ()):
            told[name] = [draw(MOMENTS) for _ in range(many)]
        elif name != "side":
            group = known.get(name.partition("_")[0])
            told[name] = [draw(NUMBERS) if "_" not in name or group is None or group[n] else NAN for n in range(many)]
    if member == "trade":
        at_ns = [each + draw(st.integers(0, NS - 1)) for each in at_ns]
    return member, columns(member, at_ns, told)


FIELDS = {
    "trade": {"price": "price", "amount": "size"},
    "liquidationAggregation": {"liquidations": "volume"},
    "optionOpenInterestAggregation": {"underlyingPriceClose": "price_close", "oiClose": "close"},
    "openInterestAggregation": {name: name for name in OHLC},
    "fundingRateAggregation": {f"rate{name.title()}": name for name in OHLC}
    | {f"predicted{name.title()}": f"predicted_{name}" for name in OHLC},
    "cmeOpenInterestAggregation": {name: name for name in OHLC}
    | {f"{what}{name.title()}": f"{what}_{name}" for what in ("value", "price") for name in OHLC},
    "tradeAggregation": {name: name for name in (*OHLC, "volume")},
    "tradeSideAgnosticAggregation": {name: name for name in (*OHLC, "volume")},
    "hyperliquidLiquidationAggregation": {},
}


def told_by(message: Any) -> int:
    return int(message.seconds) * NS + int(message.nanoseconds)


@given(some_columns(), st.data())
def test_the_runtime_reads_what_the_columns_hold(made: tuple[str, Columns], data: st.DataObject) -> None:
    member, told = made
    encoded = encode.encode(BY_MEMBER[member], told, "BTC")
    low = data.draw(st.integers(0, len(told)))
    high = data.draw(st.integers(low, len(told)))
    points = contract.PointSeries.FromString(encoded.cut(low, high)).points
    assert len(points) == high - low
    for n, point in enumerate(points, start=low):
        assert point.WhichOneof("point") == member
        assert not point.HasField("id")
        payload = getattr(point, member)
        assert told_by(payload.timestamp) == told.at_ns[n]
        for field, column in FIELDS[member].items():
            value = told.of[column][n]
            if math.isnan(value):
                assert not payload.HasField(field)
            else:
                assert getattr(payload, field) == value
                if payload.DESCRIPTOR.fields_by_name[field].has_presence:
                    assert payload.HasField(field)
        for field, column in (("firstTimestamp", "first_ns"), ("lastTimestamp", "last_ns")):
            if column in told.of:
                assert payload.HasField(field) == bool(told.of[column][n])
                assert told_by(getattr(payload, field)) == told.of[column][n]
        if member == "trade":
            assert payload.id == told.of["id"][n]
        if member == "hyperliquidLiquidationAggregation":
            assert payload.coin == "BTC"
            assert list(payload.levels) == [float(each) for each in str(told.of["levels"][n]).split()]


def test_a_candle_is_eighty_bytes() -> None:
    times = {"first_ns": [NS + 5] * 100, "last_ns": [NS + 6] * 100}
    made = columns(
        "tradeAggregation", [n * MINUTE for n in range(100)], {**dict.fromkeys((*OHLC, "volume"), [1.5] * 100), **times}
    )
    assert len(encode.encode(BY_MEMBER["tradeAggregation"], made).data) == 100 * 80


def test_what_was_made_of_a_block_is_kept_as_long_as_the_block(piece: Any) -> None:
    form = encode.Protobuf()
    made = columns("tradeAggregation", [MINUTE, 2 * MINUTE], {**{key: [1.0, 2.0] for key in (*OHLC, "volume")}})
    first = form.cut(piece, Cut(made, 0, 2))
    assert form.kept == 1
    assert form.cut(piece, Cut(made, 1, 2)) == first[len(first) // 2 :]
    assert form.kept == 1
    del made
    assert form.kept == 0


@pytest.fixture
def piece(make_instrument: Any) -> Any:
    from openoutcry.api.kiyotaka.piece import Piece
    from openoutcry.market.series import SeriesKey

    sort = BY_MEMBER["tradeAggregation"]
    instrument = make_instrument("binance", "BTCUSDT")
    identity = names.identity(sort, instrument, contract.EXCHANGES["BINANCE"], 60, Side.BUY)
    key = SeriesKey(instrument.name, sort.of, 60, Side.BUY)
    return Piece(sort, instrument, key, identity, encode.identifier(identity))


def test_every_name_of_the_contract_is_a_word_of_ours() -> None:
    assert {each.value for each in Exchange} | {"UNKNOWN_EXCHANGE"} == set(contract.EXCHANGES)
    assert len(contract.EXCHANGES) == 111
    assert contract.EXCHANGES["UNISWAP_V4"] == 166
    assert (contract.SIDES["SELL"], contract.SIDES["BUY"]) == (1, 2)
    assert contract.INTERVALS == {
        "UNKNOWN_AGGREGATION_INTERVAL": 0, "MINUTE": 2, "FIVE_MINUTES": 3, "FIFTEEN_MINUTES": 4, "HOUR": 5, "FOUR_HOURS": 6,
        "DAY": 7, "WEEK": 8,
    }  # fmt: skip


def test_the_compiled_contract_is_that_of_the_files(tmp_path: Path) -> None:
    """`make proto` was run after the last change."""
    root = Path(contract.__file__).parent
    made = tmp_path / "contract.binpb"
    folders = [f"-I{root / 'proto' / folder}" for folder in ("service", "lib", "types")]
    flags = ["--include_imports", "--include_source_info", f"--descriptor_set_out={made}"]
    assert protoc.main(["protoc", *folders, f"-I{WELL_KNOWN}", *flags, "api/api.proto"]) == 0
    assert made.read_bytes() == (root / "contract.binpb").read_bytes()
