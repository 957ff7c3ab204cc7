"""Binance's public archive of candles: which files there are, and their lines in, candles out.

https://github.com/binance/binance-public-data

    data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01.zip         and, beside each, ….zip.CHECKSUM
    data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-05.zip  (USDM; `cm` for COINM)

    open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore
    1698364800000,34161.6,34182.5,33977.4,34024.2,409953,1698368399999,1202.97118037,15095,192220,564.12041453,0

The columns are those of REST: on COINM `volume` counts contracts and `quote_volume` coins. Spot has never had the first
line, futures have it since 2022, some files before too. Spot counts microseconds since 2025. A day is published during
the next one, a month during the first days of the next. Months are known to lack rows that days have.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec

from openoutcry.errors import Unreadable
from openoutcry.events import NS, Candle, open_of
from openoutcry.instrument import Instrument
from openoutcry.venues.archive import ROWS_MAX, ROWS_MIN, ArchiveFile
from openoutcry.venues.binance_history import CandleRow, candle_of
from openoutcry.venues.binance_wire import INTERVAL_NAMES, MS, MS_LEAST, MS_MOST

ADDRESS = "https://data.binance.vision"
COLUMNS = 12
HEAD = b"open_time,"
DAY_S = 86_400
DAY_NS = DAY_S * NS
EPOCH = date(1970, 1, 1)
DAY, MONTH = timedelta(days=1), timedelta(days=31)
# Of these there can be files, and candles.
LEAST_NS, MOST_NS = MS_LEAST * MS, MS_MOST * MS


class BinanceArchive:
    """The files of one market, below `folder`; with `contracts`, sizes in them count contracts."""

    address = ADDRESS

    def __init__(self, folder: str, *, contracts: bool = False) -> None:
        self._folder = folder
        self._contracts = contracts

    def files(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int) -> Sequence[ArchiveFile]:
        """Whole months by their month, the rest by days, or by months where a day has too few candles."""
        start_ns, end_ns = max(start_ns, LEAST_NS), min(end_ns, MOST_NS)
        if not self._serves(instrument, interval_s) or end_ns - start_ns < ROWS_MIN * interval_s * NS:
            return ()
        found: list[ArchiveFile] = []
        first = _day(start_ns).replace(day=1)
        while _ns(first) < end_ns:
            following = (first + MONTH).replace(day=1)
            month = self._file(instrument, interval_s, first, following)
            by_day = _worth(self._file(instrument, interval_s, first, first + DAY))
            whole = start_ns <= month.start_ns and month.end_ns <= end_ns
            if _worth(month) and (whole or not by_day):
                found.append(month)
            elif by_day:
                found += [day for day in self._days(month) if day.end_ns > start_ns and day.start_ns < end_ns]
            else:
                break
            first = following
        return found

    def parts(self, file: ArchiveFile) -> Sequence[ArchiveFile]:
        """The days of a month."""
        return self._days(file) if file.end_ns - file.start_ns > DAY_NS else ()

    def candles(self, file: ArchiveFile, lines: Iterable[bytes], received_ns: int) -> Iterator[Candle]:
        """As REST would say it. Raises Unreadable."""
        contract_size = file.instrument.contract_size if self._contracts else None
        name, interval_ns = file.instrument.name, file.interval_s * NS
        least_ns = file.start_ns
        for number, line in enumerate(lines):
            if number == 0 and line.startswith(HEAD):
                continue
            try:
                candle = candle_of(_row(line), name, interval_ns, received_ns, contract_size)
            except ArithmeticError as e:
                raise Unreadable("a number that is none", line) from e
            open_ns = candle.open_ns
            if open_ns < least_ns:
                raise Unreadable("rows that are not in order, or of another stretch", line)
            if open_ns >= file.end_ns or open_of(open_ns, file.interval_s) != open_ns:
                raise Unreadable("a candle of another stretch or interval", line)
            if not candle.closed:
                raise Unreadable("a candle that still grows", line)
            least_ns = open_ns + interval_ns
            yield candle

    def _serves(self, instrument: Instrument, interval_s: int) -> bool:
        # The symbol becomes part of an address. Contracts whose size is not known could not be counted.
        plain = instrument.symbol.replace("_", "").isalnum()
        counted = not self._contracts or instrument.contract_size is not None
        return plain and counted and interval_s in INTERVAL_NAMES and DAY_S % interval_s == 0

    def _days(self, month: ArchiveFile) -> Sequence[ArchiveFile]:
        days = [_day(at_ns) for at_ns in range(month.start_ns, month.end_ns, DAY_NS)]
        files = (self._file(month.instrument, month.interval_s, day, day + DAY) for day in days)
        return [file for file in files if _worth(file)]

    def _file(self, instrument: Instrument, interval_s: int, first: date, following: date) -> ArchiveFile:
        symbol, interval = instrument.symbol, INTERVAL_NAMES[interval_s]
        one = following - first == DAY
        span, stamp = ("daily", first.isoformat()) if one else ("monthly", f"{first:%Y-%m}")
        return ArchiveFile(
            path=f"{self._folder}/{span}/klines/{symbol}/{interval}/{symbol}-{interval}-{stamp}.zip",
            start_ns=_ns(first),
            end_ns=_ns(following),
            instrument=instrument,
            interval_s=interval_s,
        )


SPOT = BinanceArchive("data/spot")
USDM = BinanceArchive("data/futures/um")
COINM = BinanceArchive("data/futures/cm", contracts=True)


def _worth(file: ArchiveFile) -> bool:
    return ROWS_MIN <= (file.end_ns - file.start_ns) // (file.interval_s * NS) <= ROWS_MAX


def _row(line: bytes) -> CandleRow:
    """The columns that are read, typed. Raises Unreadable."""
    try:
        columns = line.rstrip(b"\r").decode("ascii").split(",")
        if len(columns) != COLUMNS:
            raise Unreadable(f"a row of {len(columns)} columns", line)
        return msgspec.convert(columns, CandleRow, strict=False)
    except (msgspec.ValidationError, UnicodeDecodeError) as e:
        raise Unreadable("a row that is no candle", line) from e


def _day(at_ns: int) -> date:
    return datetime.fromtimestamp(at_ns // NS, UTC).date()


def _ns(day: date) -> int:
    return (day - EPOCH).days * DAY_NS
