"""Files of candles: CSV, Parquet and freqtrade's feather, written slice by slice.

CSV holds the stored texts themselves, Parquet the same numbers exactly, freqtrade's layout float64, which is what freqtrade
computes with:

    timestamp,open,high,low,close,volume,quote_volume,trades
    2026-03-01T00:00:00Z,84231.10,84260.00,84200.00,84255.20,12.345,1039942.1,321
"""

import io
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, BinaryIO, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from openoutcry.clock import NS
from openoutcry.errors import Invalid, NotConfigured

NUMBERS = ("open", "high", "low", "close", "volume", "quote_volume")
COLUMNS = ("timestamp", *NUMBERS, "trades")
FREQTRADE_NUMBERS = ("open", "high", "low", "close", "volume")

MS_NS = 1_000_000
GROUP_ROWS = 262_144
# 20 digits before the point and 18 after it: all that any venue told so far.
DIGITS_MAX = 38
SCALE = 18
WHOLE_MAX = DIGITS_MAX - SCALE
# As freqtrade writes it.
LZ4_LEVEL = 9


class Slice(msgspec.Struct, frozen=True):
    """Some candles of one series as columns, oldest first: numbers as the text of their Decimal."""

    open_ns: NDArray[np.int64]
    numbers: dict[str, Sequence[str]]
    trades: Sequence[int]


class Misfit(Exception):
    """A number that its column cannot hold exactly: the file is begun anew, with columns that can."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


class Writer(Protocol):
    """One file that is being written."""

    def add(self, rows: Slice) -> None:
        """Write these, which come after all before."""
        ...

    def finish(self) -> None:
        """Write what is still held, and what ends the file; `out` stays open."""
        ...

    def drop(self) -> None:
        """Write no more, finished or not."""
        ...


class Csv:
    """Text, with a line that names the columns."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        out.write((",".join(COLUMNS) + "\n").encode("ascii"))

    def add(self, rows: Slice) -> None:
        """Write these."""
        at = np.datetime_as_string((rows.open_ns // NS).astype("datetime64[s]"))
        numbers = [rows.numbers[name] for name in NUMBERS]
        lines = [
            f"{when}Z,{first},{high},{low},{close},{volume},{quote},{trades}\n"
            for when, first, high, low, close, volume, quote, trades in zip(at, *numbers, rows.trades, strict=True)
        ]
        self._out.write("".join(lines).encode("ascii"))

    def finish(self) -> None:
        """Nothing ends it."""

    def drop(self) -> None:
        """Nothing is held."""


# How a column of numbers is kept: decimals of that many places, or the texts where no such decimal is wide enough.
Scales = dict[str, int | None]


class Parquet:
    """Decimals, exactly. Raises NotConfigured without the extra `export`, Misfit where `scales` are too narrow."""

    def __init__(self, out: BinaryIO, scales: Scales, told: dict[str, str]) -> None:
        self._pa = pa = arrow()
        from pyarrow import parquet

        self._scales = scales
        fields = [("timestamp", pa.timestamp("ms", tz="UTC"))]
        fields += [(name, _kind(pa, scales[name])) for name in NUMBERS]
        self._schema = pa.schema([*fields, ("trades", pa.int64())], metadata=told)
        self._tap = _Tap(out)
        self._out = parquet.ParquetWriter(self._tap, self._schema, compression="zstd")
        self._held: list[Any] = []
        self._held_rows = 0

    def add(self, rows: Slice) -> None:
        """Write these, or hold them until a row group is full."""
        pa = self._pa
        columns = [_times(pa, rows)]
        columns += [_exact(pa, name, rows.numbers[name], self._scales[name]) for name in NUMBERS]
        columns.append(pa.array(rows.trades, pa.int64()))
        self._held.append(pa.record_batch(columns, schema=self._schema))
        self._held_rows += len(rows.trades)
        if self._held_rows >= GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        """Write the last row group and the footer."""
        if self._held:
            self._flush()
        self._out.close()

    def drop(self) -> None:
        """Write no more: a writer that is left alone would end its file whenever it is collected."""
        self._tap.shut = True
        self._out.close()

    def _flush(self) -> None:
        self._out.write_table(self._pa.Table.from_batches(self._held), row_group_size=GROUP_ROWS)
        self._held, self._held_rows = [], 0


class Freqtrade:
    """Feather as freqtrade's data handler writes and reads it: Arrow IPC under lz4.

    Raises NotConfigured without the extra `export`, Invalid for a number that float64 cannot hold at all.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._pa = pa = arrow()
        numbers = [(name, pa.float64()) for name in FREQTRADE_NUMBERS]
        self._schema = pa.schema([("date", pa.timestamp("ms", tz="UTC")), *numbers])
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("lz4", LZ4_LEVEL))
        self._tap = _Tap(out)
        self._out = pa.ipc.new_file(self._tap, self._schema, options=options)

    def add(self, rows: Slice) -> None:
        """Write these."""
        pa = self._pa
        numbers = [_float(pa, name, rows.numbers[name]) for name in FREQTRADE_NUMBERS]
        self._out.write_batch(pa.record_batch([_times(pa, rows), *numbers], schema=self._schema))

    def finish(self) -> None:
        """Write the footer."""
        self._out.close()

    def drop(self) -> None:
        """Write no more."""
        self._tap.shut = True
        self._out.close()


class _Tap(io.RawIOBase):
    """A file as Arrow writes to it, which can be shut: what comes then goes nowhere."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.shut = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data) if self.shut else self._out.write(data)


def arrow() -> Any:
    """Raises NotConfigured where it is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError as e:
        raise NotConfigured(
            "Parquet and freqtrade's files need the extra `export`: pip install 'openoutcry[export]'"
        ) from e
    return pa


def usual_scales() -> Scales:
    """What fits nearly always."""
    return dict.fromkeys(NUMBERS, SCALE)


def measured_scales(slices: Iterable[Slice]) -> Scales:
    """The scale under which each column is exact; None where there is none."""
    whole = dict.fromkeys(NUMBERS, 0)
    places = dict.fromkeys(NUMBERS, 0)
    for rows in slices:
        for name in NUMBERS:
            for text in rows.numbers[name]:
                number = Decimal(text)
                exponent = number.as_tuple().exponent
                if not isinstance(exponent, int):
                    whole[name] = DIGITS_MAX + 1  # a NaN is no decimal of any width
                    continue
                whole[name] = max(whole[name], number.adjusted() + 1 if number else 0)
                places[name] = max(places[name], -exponent)
    return {
        name: SCALE
        if places[name] <= SCALE and whole[name] <= WHOLE_MAX
        else places[name]
        if places[name] + whole[name] <= DIGITS_MAX
        else None
        for name in NUMBERS
    }


def _kind(pa: Any, scale: int | None) -> Any:
    return pa.string() if scale is None else pa.decimal128(DIGITS_MAX, scale)


def _times(pa: Any, rows: Slice) -> Any:
    return pa.array(rows.open_ns // MS_NS, pa.int64()).cast(pa.timestamp("ms", tz="UTC"))


def _exact(pa: Any, name: str, texts: Sequence[str], scale: int | None) -> Any:
    """Raises Misfit."""
    told = pa.array(texts, pa.string())
    if scale is None:
        return told
    try:
        # Arrow reads texts fast, but wraps around for those beyond its digits: only what cannot be so long is left to it.
        if scale == SCALE and max(map(len, texts), default=0) <= WHOLE_MAX and not any("E" in text for text in texts):
            return told.cast(_kind(pa, scale))
        return pa.array(map(Decimal, texts), _kind(pa, scale))
    except pa.ArrowInvalid as e:
        raise Misfit(name) from e


def _float(pa: Any, name: str, texts: Sequence[str]) -> Any:
    made = pa.array(texts, pa.string()).cast(pa.float64())
    if not np.isfinite(made.to_numpy()).all():
        raise Invalid(
            f"{name}: a number is beyond float64, which is what freqtrade's files hold; csv and parquet hold it"
        )
    return made
