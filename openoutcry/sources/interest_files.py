"""Open interest of CME from files: CSV in, instruments and samples out.

CME gives nobody its figures for nothing, so whoever has them (from CME's own pages, or bought) hands them over in a form
of ours (docs/cme.md):

    time,symbol,coin,open_interest,value,price,contract_size
    2026-11-20,BTC,BTC,31250,9875000000,63200,5
    2026-11-20T21:00:00Z,MBT,BTC,24100,152312000,63200,0.1

`open_interest` counts contracts where the row has a `contract_size` (coins in one contract), else coins. `value` and `price`
are USD, and may be empty. Columns may stand in any order, and others beside them. A row that is not that is refused, with
its line and why; the others are taken.
"""

import csv
import re
from calendar import timegm
from collections.abc import Mapping
from datetime import datetime
from decimal import Context, Decimal, Inexact

import msgspec

from openoutcry.errors import Unreadable
from openoutcry.events import NS, OpenInterest
from openoutcry.instrument import Exchange, Instrument, Kind

VENUE = "cme"
EXCHANGES: Mapping[Kind, tuple[Exchange, ...]] = {Kind.FUTURE: (Exchange.CME,)}

FILE_BYTES_MAX = 16 * 1024 * 1024
ROWS_MAX = 100_000
LINE_CHARS_MAX = 500
INSTRUMENTS_MAX = 200
REFUSED_MAX = 1_000  # refused rows that are told one by one; the rest are counted
EARLIEST_NS = 1_230_768_000 * NS  # 2009-01-01: before that there was no coin
AHEAD_NS_MAX = 3_600 * NS
# A file does not tell a market's steps: the finest there is.
STEP_UNKNOWN = Decimal("1e-8")

COLUMNS = ("time", "symbol", "coin", "open_interest", "value", "price")
CONTRACT_SIZE = "contract_size"

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
# The fraction stands apart: no datetime holds nanoseconds.
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII
)
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,31}", re.ASCII)
_COIN = re.compile(r"[A-Z0-9]{1,16}", re.ASCII)
# Two numbers of at most thirty digits have a product of sixty.
_EXACT = Context(prec=60, traps=[Inexact])


class Refused(msgspec.Struct, frozen=True):
    """A row that was not taken."""

    line: int
    why: str


class Sheet(msgspec.Struct, frozen=True):
    """What a file tells. `refused` are the first REFUSED_MAX of `refused_in_all`."""

    instruments: tuple[Instrument, ...]
    samples: tuple[OpenInterest, ...]
    refused: tuple[Refused, ...]
    refused_in_all: int


def read(body: bytes, received_ns: int) -> Sheet:
    """All good rows of a file. Raises Unreadable where it is no such file at all, or too large."""
    if len(body) > FILE_BYTES_MAX:
        raise Unreadable(f"more than {FILE_BYTES_MAX} bytes", body)
    try:
        lines = body.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as e:
        raise Unreadable("not UTF-8", body) from e
    if len(lines) > ROWS_MAX + 2:
        raise Unreadable(f"more than {ROWS_MAX} rows", body)
    try:
        names = [name.strip() for name in _cells(lines[0])]
    except ValueError as e:
        raise Unreadable(f"no header: {e}", body) from e
    lacking = [name for name in COLUMNS if name not in names]
    if lacking:
        raise Unreadable(f"no column {lacking[0]}", body)
    if len(set(names)) < len(names):
        raise Unreadable("two columns of one name", body)
    return _Reader(names, received_ns).sheet(lines[1:])


class _Reader:
    """The rows below one header."""

    def __init__(self, names: list[str], received_ns: int) -> None:
        self._names, self._received_ns = names, received_ns
        self._instruments: dict[str, Instrument] = {}
        self._samples: dict[tuple[int, str], OpenInterest] = {}

    def sheet(self, lines: list[str]) -> Sheet:
        refused: list[Refused] = []
        count = 0
        for number, line in enumerate(lines, 2):
            if not line.strip():
                continue
            try:
                self._take(line)
            except ValueError as e:
                count += 1
                if count <= REFUSED_MAX:
                    refused.append(Refused(number, str(e)))
        return Sheet(tuple(self._instruments.values()), tuple(self._samples.values()), tuple(refused), count)

    def _take(self, line: str) -> None:
        """Raises ValueError, with what is wrong."""
        cells = _cells(line)
        if len(cells) != len(self._names):
            raise ValueError(f"{len(cells)} cells below {len(self._names)} columns")
        row = dict(zip(self._names, (cell.strip() for cell in cells), strict=True))
        at_ns = _time(row["time"])
        if not EARLIEST_NS <= at_ns <= self._received_ns + AHEAD_NS_MAX:
            raise ValueError("time before there were coins, or in the future")
        instrument = self._instrument(row)
        told = _number(row, "open_interest")
        size, value, price = instrument.contract_size, _optional(row, "value"), _optional(row, "price")
        if price is not None and not price:
            raise ValueError("a price of nothing")
        if (at_ns, instrument.symbol) in self._samples:
            raise ValueError("the same time and symbol as a row before")
        self._samples[at_ns, instrument.symbol] = OpenInterest(
            instrument.name,
            at_ns,
            self._received_ns,
            told if size is None else _EXACT.multiply(told, size),
            value,
            None if size is None else told,
            price,
        )
        self._instruments[instrument.symbol] = instrument

    def _instrument(self, row: Mapping[str, str]) -> Instrument:
        symbol, coin = row["symbol"], row["coin"]
        if not _SYMBOL.fullmatch(symbol) or not _COIN.fullmatch(coin):
            raise ValueError("a symbol of letters and digits, and a coin in capitals, were expected")
        size = _optional(row, CONTRACT_SIZE)
        if size is not None and not size:
            raise ValueError("a contract of nothing")
        known = self._instruments.get(symbol)
        if known is None and len(self._instruments) >= INSTRUMENTS_MAX:
            raise ValueError(f"more than {INSTRUMENTS_MAX} symbols")
        if known is not None and (known.coin, known.contract_size) != (coin, size):
            raise ValueError(f"{symbol} had another coin or contract size in a row before")
        return known or Instrument(
            venue=VENUE,
            symbol=symbol,
            kind=Kind.FUTURE,
            coin=coin,
            quote="USD",
            settle="USD",
            tick_size=STEP_UNKNOWN,
            lot_size=STEP_UNKNOWN,
            contract_size=size,
        )


def _cells(line: str) -> list[str]:
    if len(line) > LINE_CHARS_MAX:
        raise ValueError(f"a line of more than {LINE_CHARS_MAX} characters")
    try:
        return next(csv.reader([line.removesuffix("\r")], strict=True), [])
    except csv.Error as e:
        raise ValueError(f"no CSV: {e}") from e


def _time(text: str) -> int:
    """`2026-11-20` (its first moment, UTC) or RFC 3339. Raises ValueError."""
    if _DAY.fullmatch(text):
        return timegm(datetime.fromisoformat(text).timetuple()) * NS
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError("a day, or a time with its offset, was expected")
    day, time, fraction, sign, hours, minutes = found.groups()
    at_s = timegm(datetime.fromisoformat(f"{day}T{time}").timetuple())
    if sign:
        at_s -= int(f"{sign}1") * (int(hours) * 3_600 + int(minutes) * 60)
    return at_s * NS + int((fraction or "").ljust(9, "0"))


def _number(row: Mapping[str, str], name: str) -> Decimal:
    """Digits with at most one point: no sign, exponent, space, NaN. Raises ValueError."""
    if not _NUMBER.fullmatch(row[name]):
        raise ValueError(f"{name} is no number of at most 15 digits before and after the point")
    return Decimal(row[name])


def _optional(row: Mapping[str, str], name: str) -> Decimal | None:
    return _number(row, name) if row.get(name) else None
