"""Columns to protobuf: whole columns become messages at once, no object a point.

Every point of a series is laid out alike: constant bytes (tags, lengths) with numbers of fixed size between them. So the
bytes of one point are a template, and numpy writes the numbers of all points into copies of it.

    1a 4e 7a 4c 09 ……open…… 11 ……high…… 19 ……low…… 21 ……close…… 29 ……volume…… 32 05 0d ..s.. 3a 0a 0d ..s.. 15 ..ns.. 42 0a …

is one entry of PointSeries.points: field 3, the Point, whose member 15 is a TradeAggregation. Zeros are written out,
which is as good protobuf as leaving them out, and what is not told is left out: then its rows have another template.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray

from openoutcry.api.kiyotaka import contract
from openoutcry.api.kiyotaka.names import SORTS, Identity, Sort
from openoutcry.api.kiyotaka.piece import Piece
from openoutcry.events import NS
from openoutcry.market.blocks import Cut
from openoutcry.market.latest import Bounded
from openoutcry.market.series import Column, Columns, Row, SeriesKey, columns_of

# Ids of venues are shorter; those that are longer are encoded one by one.
ID_BYTES_MAX = 64
ROWS_KEPT = 10_000
_POINTS, _SERIES = b"\x1a", b"\x0a"
# Beyond it a length takes two bytes, and no template here is that long.
_SHORT = 127
_OHLC = ("open", "high", "low", "close")


class Encoded(msgspec.Struct, frozen=True):
    """Points one after the other; the n-th ends before `ends[n]`, or every one is `size` long where `ends` is None."""

    data: bytes
    size: int
    ends: NDArray[np.int64] | None = None

    def cut(self, low: int, high: int) -> bytes:
        """The points `low` to `high` (exclusive)."""
        if self.ends is None:
            return self.data[low * self.size : high * self.size]
        start = int(self.ends[low - 1]) if low else 0
        return self.data[start : int(self.ends[high - 1])] if low < high else b""


class Protobuf:
    """The form of points that is protobuf (points.Form): entries of PointSeries.points.

    What was made of a block is kept as long as the block lives, and of each series the row told last.
    """

    name = "protobuf"
    joint = b""

    def __init__(self) -> None:
        self._kept: dict[int, WeakKeyDictionary[Columns, Encoded]] = {number: WeakKeyDictionary() for number in SORTS}
        self._rows: Bounded[tuple[SeriesKey, int], tuple[Row, bytes]] = Bounded(ROWS_KEPT)

    @property
    def kept(self) -> int:
        """Blocks of which something is kept."""
        return sum(map(len, self._kept.values()))

    def cut(self, piece: Piece, cut: Cut) -> bytes:
        """The points of a cut."""
        kept = self._kept[piece.sort.number]
        encoded = kept.get(cut.block)
        if encoded is None:
            encoded = kept[cut.block] = encode(piece.sort, cut.block, piece.identity.coin)
        return encoded.cut(cut.low, cut.high)

    def row(self, piece: Piece, row: Row) -> bytes:
        """One point."""
        place = (piece.key, piece.sort.number)
        known = self._rows.get(place)
        if known is not None and known[0] == row:
            return known[1]
        point = encode(piece.sort, columns_of(piece.sort.of, (row,)), piece.identity.coin).data
        self._rows.put(place, (row, point))
        return point

    def series(self, piece: Piece, points: Sequence[bytes]) -> bytes:
        """PointSeries."""
        return series(piece.head, points)


def encode(sort: Sort, columns: Columns, coin: str = "") -> Encoded:
    """All rows, as entries of PointSeries.points. `coin` is needed for liquidation levels alone."""
    if not len(columns):
        return Encoded(b"", 1)
    if sort.member == "hyperliquidLiquidationAggregation":
        return _levels(columns, coin)
    codes = _CODES[sort.member](columns)
    if sort.member == "trade" and codes.max() > ID_BYTES_MAX:
        return _long_trades(columns)
    breaks = np.flatnonzero(np.diff(codes)) + 1
    if not len(breaks):
        data, size = _run(sort.member, int(codes[0]), columns)
        return Encoded(data, size)
    parts: list[bytes] = []
    sizes: list[NDArray[np.int64]] = []
    bounds = [0, *breaks.tolist(), len(columns)]
    for low, high in pairwise(bounds):
        data, size = _run(sort.member, int(codes[low]), columns[low:high])
        parts.append(data)
        sizes.append(np.full(high - low, size, np.int64))
    return Encoded(b"".join(parts), 0, np.cumsum(np.concatenate(sizes)))


def identifier(of: Identity) -> bytes:
    """PointSeriesIdentifier."""
    message = contract.PointSeriesIdentifier(
        type=of.type,
        rawSymbol=of.raw_symbol,
        exchange=of.exchange,
        normalizedSymbol=of.normalized_symbol,
        category=of.category,
        interval=of.interval,
        side=of.side,
        coin=of.coin,
    )
    encoded: bytes = message.SerializeToString()
    return encoded


def series(head: bytes, points: Sequence[bytes]) -> bytes:
    """PointSeries, of its identifier and the entries of its points."""
    return b"".join((b"\x12", varint(len(head)), head, *points))


def response(parts: Iterable[tuple[bytes, Sequence[bytes]]]) -> bytes:
    """PointResponse, of the identifiers and the points of its series: four megabytes are copied once."""
    pieces: list[bytes] = []
    for head, points in parts:
        told = b"\x12" + varint(len(head)) + head
        pieces += (_SERIES, varint(len(told) + sum(map(len, points))), told, *points)
    return b"".join(pieces)


def varint(number: int) -> bytes:
    """A length, as protobuf writes it."""
    made = bytearray()
    while number > _SHORT:
        made.append(number & _SHORT | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


class _Part(msgspec.Struct, frozen=True):
    """Constant bytes, and the number of fixed size after them: which column, and how to read it."""

    head: bytes
    column: str
    read: Callable[[Column], object]
    form: str


def _run(member: str, code: int, columns: Columns) -> tuple[bytes, int]:
    """Rows that are laid out alike."""
    template, dtype, parts = _template(member, code)
    rows = np.frombuffer(bytearray(template * len(columns)), dtype=dtype)
    for number, part in enumerate(parts):
        column = columns.at_ns if part.column == "at_ns" else columns.of[part.column]
        rows[f"f{number}"] = part.read(column)
    return rows.tobytes(), len(template)


@lru_cache(maxsize=512)
def _template(member: str, code: int) -> tuple[bytes, np.dtype[np.void], tuple[_Part, ...]]:
    parts = tuple(_PARTS[member](code))
    sizes = [np.dtype(part.form).itemsize for part in parts]
    inner = sum(len(part.head) + size for part, size in zip(parts, sizes, strict=True))
    assert inner <= _SHORT
    tag = varint(_FIELD_OF[member] << 3 | 2)
    point = len(tag) + 1 + inner
    assert point <= _SHORT
    head = _POINTS + varint(point) + tag + varint(inner)
    template, offsets = bytearray(head), []
    for part, size in zip(parts, sizes, strict=True):
        template += part.head
        offsets.append(len(template))
        template += bytes(size)
    dtype = np.dtype(
        {
            "names": [f"f{number}" for number in range(len(parts))],
            "formats": [part.form for part in parts],
            "offsets": offsets,
            "itemsize": len(template),
        }
    )
    return bytes(template), dtype, parts


def _same(column: Column) -> object:
    return column


def _bytes(column: Column) -> object:
    return np.char.encode(column, "utf-8")


def _seconds(column: Column) -> object:
    return column // NS


def _nanoseconds(column: Column) -> object:
    return column % NS


def _double(field: int, column: str) -> _Part:
    return _Part(bytes([field << 3 | 1]), column, _same, "<f8")


def _doubles(first: int, columns: Sequence[str]) -> list[_Part]:
    return [_double(first + n, column) for n, column in enumerate(columns)]


def _bucket(field: int) -> list[_Part]:
    """A Timestamp of whole seconds."""
    return [_Part(bytes([field << 3 | 2, 5, 0x0D]), "at_ns", _seconds, "<u4")]


def _moment(field: int, column: str) -> list[_Part]:
    """A Timestamp with nanoseconds."""
    return [
        _Part(bytes([field << 3 | 2, 10, 0x0D]), column, _seconds, "<u4"),
        _Part(b"\x15", column, _nanoseconds, "<u4"),
    ]


def _candle_parts(code: int) -> list[_Part]:
    parts = [*_doubles(1, (*_OHLC, "volume")), *_bucket(6)]
    if code & 1:
        parts += _moment(7, "first_ns")
    if code & 2:
        parts += _moment(8, "last_ns")
    return parts


def _candle_codes(columns: Columns) -> NDArray[np.int64]:
    told: NDArray[np.int64] = (columns.of["first_ns"] != 0) + 2 * (columns.of["last_ns"] != 0).astype(np.int64)
    return told


def _named(what: str) -> tuple[str, ...]:
    return tuple(f"{what}_{which}" for which in _OHLC)


def _told(columns: Columns, *names: str) -> NDArray[np.int64]:
    """A bit for each column that is told."""
    code = np.zeros(len(columns), np.int64)
    for bit, name in enumerate(names):
        code |= (~np.isnan(columns.of[name])).astype(np.int64) << bit
    return code


def _trade_parts(code: int) -> list[_Part]:
    return [
        _Part(b"\x0a" + varint(code), "id", _bytes, f"S{code}"),
        *_doubles(2, ("price", "size")),
        *_moment(4, "at_ns"),
    ]


_PARTS: Mapping[str, Callable[[int], list[_Part]]] = {
    "trade": _trade_parts,
    "tradeAggregation": _candle_parts,
    "tradeSideAgnosticAggregation": _candle_parts,
    "openInterestAggregation": lambda _code: [*_doubles(1, _OHLC), *_bucket(9)],
    "fundingRateAggregation": lambda code: [
        *_doubles(1, _OHLC),
        *(_doubles(5, _named("predicted")) if code else ()),
        *_bucket(9),
    ],
    "liquidationAggregation": lambda _code: [_double(1, "volume"), *_bucket(2)],
    "cmeOpenInterestAggregation": lambda code: [
        *_doubles(1, _OHLC),
        *(_doubles(5, _named("value")) if code & 1 else ()),
        *(_doubles(9, _named("price")) if code & 2 else ()),
        *_bucket(13),
    ],
    "optionOpenInterestAggregation": lambda code: [
        *((_double(1, "price_close"),) if code else ()),
        _double(2, "close"),
        *_bucket(3),
    ],
}
_CODES: Mapping[str, Callable[[Columns], NDArray[np.int64]]] = {
    # The length of the id.
    "trade": lambda columns: np.char.str_len(np.char.encode(columns.of["id"], "utf-8")).astype(np.int64),
    "tradeAggregation": _candle_codes,
    "tradeSideAgnosticAggregation": _candle_codes,
    "openInterestAggregation": _told,
    "fundingRateAggregation": lambda columns: _told(columns, "predicted_open"),
    "liquidationAggregation": _told,
    "cmeOpenInterestAggregation": lambda columns: _told(columns, "value_open", "price_open"),
    "optionOpenInterestAggregation": lambda columns: _told(columns, "price_close"),
}
_FIELD_OF: Mapping[str, int] = {
    field.name: field.number for field in contract.POOL.FindMessageTypeByName("api.Point").fields
}


def _levels(columns: Columns, coin: str) -> Encoded:
    """Liquidation levels, each a list of its own: they are few, and runtime messages will do."""
    points = []
    for at_ns, text in zip(columns.at_ns.tolist(), columns.of["levels"].tolist(), strict=True):
        point = contract.Point()
        member = point.hyperliquidLiquidationAggregation
        member.timestamp.seconds = at_ns // NS
        member.coin = coin
        member.levels.extend(map(float, text.split()))
        points.append(point)
    return _one_by_one(points)


def _long_trades(columns: Columns) -> Encoded:
    points = []
    of = columns.of
    rows = zip(columns.at_ns.tolist(), *(of[name].tolist() for name in ("id", "price", "size")), strict=True)
    for at_ns, id_, price, size in rows:
        point = contract.Point()
        point.trade.id, point.trade.price, point.trade.amount = id_, price, size
        point.trade.timestamp.seconds, point.trade.timestamp.nanoseconds = divmod(at_ns, NS)
        points.append(point)
    return _one_by_one(points)


def _one_by_one(points: Sequence[contract.Message]) -> Encoded:
    encoded = [point.SerializeToString() for point in points]
    parts = [_POINTS + varint(len(one)) + one for one in encoded]
    return Encoded(b"".join(parts), 0, np.cumsum(np.array([len(part) for part in parts], np.int64)))
