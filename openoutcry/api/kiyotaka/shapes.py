"""Columns to JSON, in two shapes: whole columns become texts at once, and a template is filled with those of each point.

`proto` is the JSON form of the contract's messages. As grpc-gateway's marshaller does by default, it writes the zeros of
plain fields (`"volume":0`, `"nanoseconds":0`, `"side":"UNKNOWN_SIDE"`) and empty lists; an optional field, a message or a
member that is not set is not there.

    {"series":[{"id":{"type":"TRADE_AGG",…},"points":[{"tradeAggregation":{"open":1,…,"timestamp":{"seconds":60,"nanoseconds":0},…}}]}]}

`point` is how Go writes the structs behind the messages: the oneof's name instead of the member's, and what is empty is left
out; an optional field is a pointer, whose zero is written.

    {"series":[{"id":{"type":"TRADE_AGG",…},"points":[{"Point":{"open":1,…,"timestamp":{"s":60},…}}]}]}

Both write numbers as Go does: the shortest digits that read back as the same double, with an exponent below 1e-6 and from
1e21 on. What is no number (NaN, Infinity) is a text in the first shape and left out in the second.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray

from openoutcry.api.kiyotaka import contract
from openoutcry.api.kiyotaka.encode import ROWS_KEPT
from openoutcry.api.kiyotaka.names import SORTS, Identity, Sort
from openoutcry.api.kiyotaka.piece import Piece
from openoutcry.events import NS
from openoutcry.market.blocks import Cut
from openoutcry.market.latest import Bounded
from openoutcry.market.series import Column, Columns, Row, SeriesKey, columns_of

HEADS_KEPT = 10_000
_OHLC = ("open", "high", "low", "close")
_quoted = msgspec.json.Encoder().encode
_Flags = NDArray[np.bool_]
# What stands at one place of every point: the same text, or one text a point.
_Slot = bytes | list[bytes]


class Told(msgspec.Struct, frozen=True):
    """Points with commas between them; the n-th ends before `ends[n]`."""

    data: bytes
    ends: NDArray[np.int64]

    def cut(self, low: int, high: int) -> bytes:
        """The points `low` to `high` (exclusive)."""
        start = int(self.ends[low - 1]) + 1 if low else 0
        return self.data[start : int(self.ends[high - 1])] if low < high else b""


class Shape:
    """A form of points that is JSON (points.Form). `name` is `proto` or `point`.

    What was made of a block is kept as long as the block lives, and of each series the row told last.
    """

    joint = b","

    def __init__(self, name: str) -> None:
        self.name = name
        self._says = SHAPES[name]
        self._kept: dict[int, WeakKeyDictionary[Columns, Told]] = {number: WeakKeyDictionary() for number in SORTS}
        self._rows: Bounded[tuple[SeriesKey, int], tuple[Row, bytes]] = Bounded(ROWS_KEPT)

    def cut(self, piece: Piece, cut: Cut) -> bytes:
        """The points of a cut, with commas between them."""
        return self._told(piece, cut).cut(cut.low, cut.high)

    def backwards(self, piece: Piece, cut: Cut) -> bytes:
        """The points of a cut, newest first."""
        told = self._told(piece, cut)
        ends = told.ends[cut.low : cut.high].tolist()
        starts = [int(told.ends[cut.low - 1]) + 1 if cut.low else 0, *(end + 1 for end in ends[:-1])]
        data = told.data
        return b",".join(data[start:end] for start, end in zip(reversed(starts), reversed(ends), strict=True))

    def row(self, piece: Piece, row: Row) -> bytes:
        """One point."""
        place = (piece.key, piece.sort.number)
        known = self._rows.get(place)
        if known is not None and known[0] == row:
            return known[1]
        point = self._says.points(piece.sort, columns_of(piece.sort.of, (row,)), piece.identity.coin).data
        self._rows.put(place, (row, point))
        return point

    def series(self, piece: Piece, points: Sequence[bytes]) -> bytes:
        """A series: its identity and its points."""
        return b'{"id":%b,"points":[%b]}' % (self._says.head(piece.identity), b",".join(points))

    def response(self, series: Sequence[bytes]) -> bytes:
        """PointResponse, of its series."""
        return b'{"series":[%b]}' % b",".join(series)

    def meta(self, field: str, answer: contract.Message) -> bytes:
        """PointMetaResponse, which filled `field`."""
        return self._says.meta(field, answer)

    def _told(self, piece: Piece, cut: Cut) -> Told:
        kept = self._kept[piece.sort.number]
        told = kept.get(cut.block)
        if told is None:
            told = kept[cut.block] = self._says.points(piece.sort, cut.block, piece.identity.coin)
        return told


class _Says(msgspec.Struct, frozen=True):
    """How a shape says what the two say differently."""

    points: Callable[[Sort, Columns, str], Told]
    head: Callable[[Identity], bytes]
    meta: Callable[[str, contract.Message], bytes]


def _proto_points(sort: Sort, columns: Columns, coin: str) -> Told:
    slots: list[_Slot] = [b'{"%b":{' % sort.member.encode()]
    for field in FIELDS[sort.member]:
        slots += _proto_field(field, columns, coin)
    slots.append(b"}}")
    return _woven(slots, len(columns))


def _point_points(sort: Sort, columns: Columns, coin: str) -> Told:
    slots: list[_Slot] = [b'{"Point":{']
    for field in FIELDS[sort.member]:
        slots += _point_field(field, columns, coin)
    slots.append(b"}}")
    return _woven(slots, len(columns))


class _Field(msgspec.Struct, frozen=True):
    """A field of a payload: its name, what it is, the column behind it. `told` is the column that says if it is there.

    Fields before the timestamp, which every point has, bring the comma after them, those behind it the one before them.
    """

    name: str
    kind: str
    column: str
    told: str = ""
    after: bool = False

    def around(self, head: bytes, tail: bytes) -> tuple[bytes, bytes]:
        """The text before and after its value."""
        if self.after:
            return b',"%b":%b' % (self.name.encode(), head), tail
        return b'"%b":%b' % (self.name.encode(), head), tail + (b"" if self.kind == "bucket" else b",")


def _proto_field(field: _Field, columns: Columns, coin: str) -> list[_Slot]:
    if field.kind in ("bucket", "moment"):
        column = columns.at_ns if field.column == "at_ns" else columns.of[field.column]
        head, tail = field.around(b'{"seconds":', b"}")
        slots: list[_Slot] = [head, _whole(column // NS), b',"nanoseconds":', _whole(column % NS), tail]
        return slots if field.column == "at_ns" else _only(slots, column != 0)
    head, tail = field.around(b"", b"")
    if field.kind == "text":
        return [head, _texts(field, columns, coin), tail]
    if field.kind == "levels":
        return [head, [b"[%b]" % b",".join(_proto_numbers(levels)) for levels in _levels(columns)], tail]
    column = columns.of[field.column]
    slots = [head, _proto_numbers(column), tail]
    return _only(slots, ~np.isnan(columns.of[field.told])) if field.told else slots


def _point_field(field: _Field, columns: Columns, coin: str) -> list[_Slot]:
    if field.kind in ("bucket", "moment"):
        column = columns.at_ns if field.column == "at_ns" else columns.of[field.column]
        head, tail = field.around(b"{", b"}")
        seconds, rest = column // NS, column % NS
        slots = [
            head,
            *_only([b'"s":', _whole(seconds)], seconds != 0),
            *_only([b","], (seconds != 0) & (rest != 0)),
            *_only([b'"ns":', _whole(rest)], rest != 0),
            tail,
        ]
        return slots if field.column == "at_ns" else _only(slots, column != 0)
    head, tail = field.around(b"", b"")
    if field.kind == "text":
        texts = _texts(field, columns, coin)
        return _only([head, texts, tail], _flags(text != b'""' for text in texts))
    if field.kind == "levels":
        lists = [numbers(levels[np.isfinite(levels)]) for levels in _levels(columns)]
        return _only([head, [b"[%b]" % b",".join(each) for each in lists], tail], _flags(map(len, lists)))
    column = columns.of[field.column]
    there = np.isfinite(column)
    if field.told:
        there &= ~np.isnan(columns.of[field.told])
    if field.kind == "plain":
        there &= column != 0
    return _only([head, numbers(np.where(there, column, 0.0)), tail], there)


def _woven(slots: Sequence[_Slot], many: int) -> Told:
    """Every point in full. A template a row is twice as quick as one join of all pieces."""
    template = b"".join(slot if isinstance(slot, bytes) else b"%b" for slot in slots)
    lists = [slot for slot in slots if isinstance(slot, list)]
    points = [template % texts for texts in zip(*lists, strict=True)] if lists else [template] * many
    ends = np.cumsum(np.fromiter(map(len, points), np.int64, many) + 1) - 1
    return Told(b",".join(points), ends)


def _only(slots: Sequence[_Slot], there: _Flags) -> list[_Slot]:
    """The same where `there`, and nothing elsewhere."""
    if there.all():
        return list(slots)
    if not there.any():
        return []
    flags = there.tolist()
    return [
        [text if flag else b"" for text, flag in zip(_spread(slot, len(flags)), flags, strict=True)] for slot in slots
    ]


def _spread(slot: _Slot, many: int) -> list[bytes]:
    return [slot] * many if isinstance(slot, bytes) else slot


def _flags(of: Iterable[object]) -> _Flags:
    return np.array([bool(each) for each in of], np.bool_)


def numbers(column: Column) -> list[bytes]:
    """Finite doubles as Go writes them in JSON."""
    texts = _split(_quoted(column.tolist()).replace(b".0,", b",").replace(b".0]", b"]"))
    size = np.abs(column)
    # Here msgspec uses an exponent and Go does not, and there both do, but Go with a sign.
    for n in np.flatnonzero(((size >= 1e-6) & (size < 1e-5)) | (size >= 1e16)).tolist():
        number = float(column[n])
        texts[n] = _plain(number) if size[n] < 1e21 else repr(number).encode()
    return texts


def _plain(number: float) -> bytes:
    return f"{Decimal(repr(number)):f}".removesuffix(".0").encode()


def _proto_numbers(column: Column) -> list[bytes]:
    finite = np.isfinite(column)
    if finite.all():
        return numbers(column)
    texts = numbers(np.where(finite, column, 0.0))
    for n in np.flatnonzero(~finite).tolist():
        texts[n] = b'"NaN"' if np.isnan(column[n]) else b'"Infinity"' if column[n] > 0 else b'"-Infinity"'
    return texts


def _whole(column: NDArray[np.int64]) -> list[bytes]:
    return _split(_quoted(column.tolist()))


def _split(array: bytes) -> list[bytes]:
    """The texts in a JSON array of numbers."""
    return array[1:-1].split(b",") if len(array) > 2 else []


def _texts(field: _Field, columns: Columns, coin: str) -> list[bytes]:
    if field.column == "coin":
        return [_quoted(coin)] * len(columns)
    return list(map(_quoted, columns.of[field.column].tolist()))


def _levels(columns: Columns) -> list[NDArray[np.float64]]:
    return [np.array(text.split(), np.float64) for text in columns.of["levels"].tolist()]


def _ohlc(prefix: str, kind: str, columns: Sequence[str], told: str = "") -> tuple[_Field, ...]:
    fields = (f"{prefix}{which.capitalize()}" if prefix else which for which in _OHLC)
    return tuple(_Field(name, kind, column, told) for name, column in zip(fields, columns, strict=True))


def _named(what: str) -> tuple[str, ...]:
    return tuple(f"{what}_{which}" for which in _OHLC)


_BUCKET = _Field("timestamp", "bucket", "at_ns")
_CANDLE = (
    *_ohlc("", "plain", _OHLC),
    _Field("volume", "plain", "volume"),
    _BUCKET,
    _Field("firstTimestamp", "moment", "first_ns", after=True),
    _Field("lastTimestamp", "moment", "last_ns", after=True),
)
# In the order in which the contract declares them.
FIELDS: Mapping[str, Sequence[_Field]] = {
    "trade": (
        _Field("id", "text", "id"),
        _Field("price", "plain", "price"),
        _Field("amount", "plain", "size"),
        _BUCKET,
    ),
    "tradeAggregation": _CANDLE,
    "tradeSideAgnosticAggregation": _CANDLE,
    "openInterestAggregation": (*_ohlc("", "optional", _OHLC), _BUCKET),
    "fundingRateAggregation": (
        *_ohlc("rate", "optional", _OHLC),
        *_ohlc("predicted", "optional", _named("predicted"), "predicted_open"),
        _BUCKET,
    ),
    "liquidationAggregation": (_Field("liquidations", "plain", "volume"), _BUCKET),
    "cmeOpenInterestAggregation": (
        *_ohlc("", "optional", _OHLC),
        *_ohlc("value", "optional", _named("value"), "value_open"),
        *_ohlc("price", "optional", _named("price"), "price_open"),
        _BUCKET,
    ),
    "optionOpenInterestAggregation": (
        _Field("underlyingPriceClose", "optional", "price_close", "price_close"),
        _Field("oiClose", "optional", "close"),
        _BUCKET,
    ),
    "hyperliquidLiquidationAggregation": (
        _BUCKET,
        _Field("coin", "text", "coin", after=True),
        _Field("levels", "levels", "levels", after=True),
    ),
}

_ENUMS: Mapping[str, Mapping[int, str]] = {
    field: {number: name for name, number in values.items()}
    for field, values in {
        "type": contract.TYPES,
        "exchange": contract.EXCHANGES,
        "category": contract.CATEGORIES,
        "interval": contract.INTERVALS,
        "side": contract.SIDES,
    }.items()
}
_META_ENUMS: Mapping[str, str] = {"types": "type", "exchanges": "exchange", "categories": "category"}
META_FIELDS = tuple(field.name for field in contract.POOL.FindMessageTypeByName("api.PointMetaResponse").fields)


def _identified(of: Identity) -> dict[str, str]:
    return {
        "type": _ENUMS["type"][of.type] if of.type else "",
        "rawSymbol": of.raw_symbol,
        "exchange": _ENUMS["exchange"][of.exchange] if of.exchange else "",
        "normalizedSymbol": of.normalized_symbol,
        "category": _ENUMS["category"][of.category] if of.category else "",
        "interval": _ENUMS["interval"][of.interval] if of.interval else "",
        "side": _ENUMS["side"][of.side] if of.side else "",
        "coin": of.coin,
    }


@lru_cache(HEADS_KEPT)
def _proto_head(of: Identity) -> bytes:
    unknown = {field: enum[0] for field, enum in _ENUMS.items()}
    return _quoted({field: text or unknown.get(field, "") for field, text in _identified(of).items()})


@lru_cache(HEADS_KEPT)
def _point_head(of: Identity) -> bytes:
    return _quoted({field: text for field, text in _identified(of).items() if text})


def _proto_meta(field: str, answer: contract.Message) -> bytes:
    del field
    return _quoted({each: _listed(each, answer) for each in META_FIELDS})


def _point_meta(field: str, answer: contract.Message) -> bytes:
    return _quoted({field: _listed(field, answer)})


def _listed(field: str, answer: contract.Message) -> list[str]:
    enum = _ENUMS.get(_META_ENUMS.get(field, ""))
    values = getattr(answer, field)
    return [enum[value] for value in values] if enum is not None else list(values)


SHAPES: Mapping[str, _Says] = {
    "proto": _Says(_proto_points, _proto_head, _proto_meta),
    "point": _Says(_point_points, _point_head, _point_meta),
}
