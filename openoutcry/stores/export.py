"""Stored candles to files, beside a server that writes.

The database is opened for reading only: no lock of the folder, no migration, no write. Candles are read in slices, each a
transaction of its own, so that memory stays bounded and SQLite's write-ahead log can be emptied meanwhile; each candle is
whole, and one that is stored behind the reader's back counts as missing.
"""

import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from openoutcry.clock import NS
from openoutcry.errors import BadInterval, BadRange, Invalid, Unavailable, Unknown, UnknownInstrument, Unsupported
from openoutcry.events import Side, open_of
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.series import Of
from openoutcry.market.symbols import DOLLARS, SYMBOL_LENGTH_MAX
from openoutcry.stores.formats import (
    NUMBERS,
    Csv,
    Freqtrade,
    Misfit,
    Parquet,
    Scales,
    Slice,
    Writer,
    arrow,
    measured_scales,
    usual_scales,
)
from openoutcry.stores.migrations import MARKET
from openoutcry.stores.sql import reason_of

BUSY_S = 5.0
SLICE_ROWS = 65_536
HOLES_SHOWN_MAX = 5
NAMED_MAX = 20
BEGINNING_NS, END_NS = -(2**63), 2**63 - 1

EXTENSIONS = {"csv": "csv", "parquet": "parquet", "freqtrade": "feather"}
UNITS_S = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What freqtrade turns into "_" in the name of a pair.
FREQTRADE_BLANKS = str.maketrans(dict.fromkeys("/ .@$+:", "_"))


class Stored(msgspec.Struct, frozen=True):
    """One series of candles that has a row. `instrument` is None where its venue's listing was never stored."""

    id: int
    venue: str
    symbol: str
    interval_s: int
    first_ns: int
    last_ns: int
    rows: int
    instrument: Instrument | None = None

    @property
    def name(self) -> str:
        """The instrument's name."""
        return f"{self.venue}:{self.symbol}"

    @property
    def interval(self) -> str:
        """The interval as people write it."""
        return interval_name(self.interval_s)


class Exported(msgspec.Struct, frozen=True):
    """What was written. `missing` buckets have no candle; `holes` are the first few stretches of them, [start, end), of
    which there are `more_holes`.
    """

    rows: int
    first_ns: int
    last_ns: int
    missing: int
    holes: Sequence[tuple[int, int]]
    more_holes: int = 0


class StoredCandles:
    """A database of market data, for reading only. Raises Unavailable where there is none, or not of our schema."""

    def __init__(self, url: URL | str) -> None:
        at = make_url(url)
        self._engine = _reading(at)
        mark = "?" if at.get_backend_name() == "sqlite" else "%s"
        self._select = (
            f"SELECT open_ns, {', '.join(NUMBERS)}, trades FROM candles "  # noqa: S608 - `mark` is the placeholder
            f"WHERE series = {mark} AND open_ns >= {mark} AND open_ns < {mark} ORDER BY open_ns LIMIT {mark}"
        )
        self._listed = (
            "SELECT s.id, s.instrument, s.interval_s, m.first_ns, m.last_ns, m.rows FROM series s "  # noqa: S608
            f"JOIN summaries m ON m.series = s.id WHERE s.of = {mark} AND s.side = {mark} ORDER BY s.instrument, s.interval_s"
        )
        try:
            with self._refusing(), self._engine.connect() as connection:
                MARKET.check(connection)
        except BaseException:  # whatever it was goes on, but no connection stays open behind it
            self._engine.dispose()
            raise

    def series(self) -> list[Stored]:
        """Every series of candles of both sides, by instrument and interval. Raises Unavailable."""
        with self._cursor() as cursor:
            cursor.execute("SELECT venue, symbol, instrument FROM listings")
            listed = {(venue, symbol): text for venue, symbol, text in cursor.fetchall()}
            cursor.execute(self._listed, (Of.CANDLES.value, Side.BOTH.value))
            found = cursor.fetchall()
        made: list[Stored] = []
        for id_, name, interval_s, first_ns, last_ns, rows in found:
            venue, _, symbol = name.partition(":")
            text = listed.get((venue, symbol))
            instrument = None if text is None else msgspec.json.decode(text, type=Instrument)
            made.append(Stored(id_, venue, symbol, interval_s, first_ns, last_ns, rows, instrument))
        return made

    def slices(self, stored: Stored, start_ns: int, end_ns: int, rows: int = SLICE_ROWS) -> Iterator[Slice]:
        """The candles that open in [start_ns, end_ns), oldest first, `rows` at a time. Raises Unavailable."""
        while start_ns < end_ns:
            with self._cursor() as cursor:
                cursor.execute(self._select, (stored.id, start_ns, end_ns, rows))
                found = cursor.fetchall()
            if not found:
                return
            open_ns, *numbers, trades = zip(*found, strict=True)
            yield Slice(np.array(open_ns, np.int64), dict(zip(NUMBERS, numbers, strict=True)), trades)
            if len(found) < rows:
                return
            start_ns = open_ns[-1] + 1

    def any(self, stored: Stored, start_ns: int | None, end_ns: int | None) -> bool:
        """Whether there is a candle that opens in [start_ns, end_ns). Raises Unavailable."""
        return any(len(rows.open_ns) for rows in self.slices(stored, *_bounds(start_ns, end_ns), rows=1))

    def close(self) -> None:
        """Let go of the database; a second call does nothing."""
        self._engine.dispose()

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        with (
            self._refusing(),
            closing(self._engine.raw_connection()) as connection,
            closing(connection.cursor()) as cursor,
        ):
            yield cursor

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (self._engine.dialect.loaded_dbapi.Error, SQLAlchemyError) as e:
            raise Unavailable("store", f"the candles cannot be read: {reason_of(e)}") from e


def _reading(url: URL) -> Engine:
    """Raises Unknown where a SQLite file is not there: opening must not make one."""
    if url.get_backend_name() == "sqlite":
        file = Path(url.database or "")
        if not file.is_file():
            raise Unknown(f"there are no candles in {file.parent}: name the server's folder with --data")
        at = f"{file.absolute().as_uri()}?mode=ro"
        return create_engine(
            "sqlite+pysqlite://",
            creator=lambda: sqlite3.connect(at, uri=True, timeout=BUSY_S),
            poolclass=QueuePool,
            pool_size=1,
        )
    engine = create_engine(url, pool_size=1)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        connection.commit()

    return engine


# -- what a caller writes


def interval_of(text: str) -> int:
    """Seconds of `1m`, `4h`, `1w`. Raises BadInterval."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", text)
    if found is None:
        raise BadInterval(f"{text!r} is no interval: write one such as 1m, 4h, 1d or 1w")
    return int(found[1]) * UNITS_S[found[2]]


def interval_name(interval_s: int) -> str:
    """`1m` of 60."""
    unit = next(unit for unit, unit_s in UNITS_S.items() if interval_s % unit_s == 0)
    return f"{interval_s // UNITS_S[unit]}{unit}"


def time_of(text: str) -> int:
    """Nanoseconds of an ISO 8601 time: a date alone is its midnight, UTC where no zone is told. Raises Invalid, BadRange."""
    try:
        told = datetime.fromisoformat(text)
    except ValueError as e:
        raise Invalid(f"{text!r} is no time: write one such as 2026-03-01 or 2026-03-01T12:00:00Z") from e
    at = told if told.tzinfo is not None else told.replace(tzinfo=UTC)
    at_ns = (at - EPOCH) // timedelta(microseconds=1) * 1_000
    if not BEGINNING_NS < at_ns < END_NS:
        raise BadRange(f"{text} is out of reach")
    return at_ns


def time_text(at_ns: int) -> str:
    """ISO 8601 to the second, UTC."""
    return f"{np.datetime64(at_ns // NS, 's')}Z"


def find(stored: Sequence[Stored], venue: str, symbol: str, interval_s: int) -> Stored:
    """The series that is meant: the venue's own spelling in any case and with any separators, the coin and what it is quoted
    in, or the coin alone (or with any dollar), which means the instrument quoted in the first of DOLLARS that is stored.

    Raises Unknown, UnknownInstrument, BadInterval, each naming what is stored.
    """
    there = [each for each in stored if each.venue == venue]
    if not there:
        venues = sorted({each.venue for each in stored})
        hint = f"; --venue may be {_few(venues)}" if venues else ""
        raise Unknown(f"there are no candles of {venue} in the store{hint}")
    found = _meant(there, symbol[:SYMBOL_LENGTH_MAX])
    if found is None:
        names = sorted({each.symbol for each in there})
        raise UnknownInstrument(
            f"there are no candles of {symbol[:SYMBOL_LENGTH_MAX]!r} in the store; of {venue} it has {_few(names)}"
        )
    intervals = {each.interval_s: each for each in there if each.symbol == found}
    if interval_s not in intervals:
        kept = ", ".join(interval_name(each) for each in sorted(intervals))
        raise BadInterval(
            f"there are no candles of {interval_name(interval_s)} of {venue}:{found} in the store, only of {kept}"
        )
    return intervals[interval_s]


def _meant(there: Sequence[Stored], written: str) -> str | None:
    """The symbol. Raises UnknownInstrument where several are meant alike."""
    upper, bare = written.upper(), _squeezed(written)
    kinds = {each.symbol: each.instrument for each in there}
    for spelled in (
        lambda name: name == written,
        lambda name: name.upper() == upper,
        lambda name: _squeezed(name) == bare,
    ):
        alike = [name for name in kinds if spelled(name)]
        if alike:
            return alike[0] if len(alike) == 1 else _ambiguous(written, alike)
    pairs = {name: _pair(name, each) for name, each in kinds.items()}
    exactly = [name for name, (coin, quote) in pairs.items() if coin + quote == bare]
    coins = {bare, *(bare.removesuffix(dollar) for dollar in DOLLARS if bare.endswith(dollar))}
    wanted = [name for name, (coin, _) in pairs.items() if coin in coins]
    for among in (exactly, *([name for name in wanted if pairs[name][1] == dollar] for dollar in DOLLARS), wanted):
        # Where a coin alone is written, its perpetual or its spot market is meant, not what expires.
        lasting = [name for name in among if (it := kinds[name]) is None or it.kind in {Kind.SPOT, Kind.PERPETUAL}]
        if among:
            chosen = lasting or among
            return chosen[0] if len(chosen) == 1 else _ambiguous(written, chosen)
    return None


def _ambiguous(written: str, names: Sequence[str]) -> str:
    raise UnknownInstrument(f"{written!r} may be {_few(sorted(names))}: write which")


def _pair(symbol: str, instrument: Instrument | None) -> tuple[str, str]:
    """Coin and quote, in upper case; of an instrument that is not listed, as its symbol tells them."""
    if instrument is not None:
        return instrument.coin.upper(), instrument.quote.upper()
    bare = _squeezed(symbol)
    quote = next((dollar for dollar in DOLLARS if bare.endswith(dollar)), "")
    return bare.removesuffix(quote), quote


def _squeezed(text: str) -> str:
    # `BTC/USDT:USDT` names what it is settled in after the colon.
    return re.sub(r"[-_/ ]", "", text.partition(":")[0]).upper()


def _few(names: Sequence[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more:,} more" if more > 0 else "")


def chosen(stored: Sequence[Stored], venue: str | None, interval_s: int | None) -> list[Stored]:
    """All of that venue and interval, where they are named. Raises Unknown where there is none."""
    found = [each for each in stored if venue in {None, each.venue} and interval_s in {None, each.interval_s}]
    if not found:
        venues = sorted({each.venue for each in stored})
        raise Unknown("there are no such candles in the store" + (f"; it has some of {_few(venues)}" if venues else ""))
    return found


# -- files


def targets(
    wanted: Sequence[Stored], form: str, folder: Path, out: str | None, *, force: bool, skipped: Callable[[str], None]
) -> list[tuple[Stored, Path | None]]:
    """Where each goes; None is standard output. Of several, those without a name in that format are told to `skipped`.

    Folders are made. Raises Invalid where a file is there already or two would be the same, Unsupported where one alone has
    no name.
    """
    if out is not None:
        return [(each, None if out == "-" else Path(out)) for each in wanted]
    found: dict[Path, Stored] = {}
    for each in wanted:
        try:
            target = folder / file_name(each, form)
        except Unsupported as refusal:
            if len(wanted) == 1:
                raise
            skipped(f"openoutcry: left out: {refusal.text}")
            continue
        if target in found:
            raise Invalid(f"{found[target].name} and {each.name} would both be {target}: name one with --venue")
        refuse_taken(target, force=force)
        found[target] = each
    for parent in {target.parent for target in found}:
        parent.mkdir(parents=True, exist_ok=True)
    return [(each, target) for target, each in found.items()]


def file_name(stored: Stored, form: str) -> Path:
    """Where a series goes, below the folder that was named. Raises Unsupported for what freqtrade has no name for."""
    if form == "freqtrade":
        return _freqtrade_name(stored)
    return Path(f"{_safe(stored.venue)}-{_safe(stored.symbol)}-{stored.interval}.{EXTENSIONS[form]}")


def _freqtrade_name(stored: Stored) -> Path:
    """`BTC_USDT-1h.feather`, or `futures/BTC_USDT_USDT-1h-futures.feather`: pairs as ccxt names them."""
    it = stored.instrument
    if it is None:
        raise Unsupported(f"what {stored.name} is cannot be told: its venue's listing is not in the store")
    if it.kind is Kind.OPTION:
        raise Unsupported(f"{stored.name} is an option: freqtrade has no such files")
    pair = f"{it.coin}/{it.quote}"
    if it.kind is Kind.SPOT:
        return Path(f"{_pair_name(pair)}-{stored.interval}.feather")
    pair += f":{it.settle}"
    if it.kind is Kind.FUTURE and it.expires_ns is not None:
        pair += f"-{np.datetime64(it.expires_ns // NS, 's').astype(datetime):%y%m%d}"
    return Path("futures") / f"{_pair_name(pair)}-{stored.interval}-futures.feather"


def _pair_name(pair: str) -> str:
    return _safe(pair.translate(FREQTRADE_BLANKS))


def _safe(text: str) -> str:
    """No separator, no dot, no control character: all but letters, digits, - and _ as %XX, so that no two are alike."""
    return "".join(
        char
        if char.isalnum() or char in "-_"
        else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
        for char in text
    )


@contextmanager
def whole_file(target: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file that is at `target` once it is whole, and nowhere when anything fails. Raises Invalid where one is there."""
    refuse_taken(target, force=force)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    made = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(made, "w+b") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        refuse_taken(target, force=force)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def refuse_taken(target: Path, *, force: bool) -> None:
    """Raises Invalid where there is a file and `force` is not given, or a folder."""
    if target.is_dir():
        raise Invalid(f"{target} is a folder: --folder puts the file into it")
    if target.exists() and not force:
        raise Invalid(f"{target} is there already: --force replaces it")


# -- the work


Told = Callable[[int, int], None]


def export(
    candles: StoredCandles,
    stored: Stored,
    out: BinaryIO,
    form: str,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    now_ns: int,
    told: Told,
) -> Exported:
    """Write the candles that open in [start_ns, end_ns) to `out`; `told` how many are done and how many there may be.

    Between the edges that were given (or else the first and the last candle) what is missing is counted, as far as its time
    has come. `out` is rewound where Parquet needs wider columns. Raises Unavailable, Unknown where there is no candle at all.
    """
    bounds = _bounds(start_ns, end_ns)
    scales, measured = usual_scales(), False
    while True:
        walk = _Walk(stored, start_ns, None if end_ns is None else min(end_ns, open_of(now_ns, stored.interval_s)))
        writer = _writer(form, out, scales, stored)
        try:
            for rows in candles.slices(stored, *bounds):
                writer.add(rows)
                walk.take(rows.open_ns)
                told(walk.rows, max(_expected(stored, *bounds), walk.rows))
            if not walk.rows:
                raise Unknown(nothing(stored))
            writer.finish()
        except Misfit as misfit:
            # What still misfits was written after it was measured; texts hold anything.
            scales = {**scales, misfit.column: None} if measured else measured_scales(candles.slices(stored, *bounds))
            measured = True
        else:
            told(walk.rows, walk.rows)
            return walk.result()
        finally:
            writer.drop()
        out.seek(0)
        out.truncate()


def _writer(form: str, out: BinaryIO, scales: Scales, stored: Stored) -> Writer:
    if form == "csv":
        return Csv(out)
    if form == "parquet":
        told = {"instrument": stored.name, "interval": stored.interval}
        return Parquet(out, scales, {f"openoutcry.{name}": value for name, value in told.items()})
    return Freqtrade(out)


def ready(form: str) -> None:
    """Raises Invalid for a format there is none of, NotConfigured where its extra is missing."""
    if form not in EXTENSIONS:
        raise Invalid(f"{form!r} is no format: there are {', '.join(EXTENSIONS)}")
    if form != "csv":
        arrow()


def _bounds(start_ns: int | None, end_ns: int | None) -> tuple[int, int]:
    return BEGINNING_NS if start_ns is None else start_ns, END_NS if end_ns is None else end_ns


def _expected(stored: Stored, start_ns: int, end_ns: int) -> int:
    """How many rows there are at most, without counting them."""
    step_ns = stored.interval_s * NS
    begins_ns, ends_ns = max(start_ns, stored.first_ns), min(end_ns, stored.last_ns + step_ns)
    return min(stored.rows, max(-((begins_ns - ends_ns) // step_ns), 0))


def nothing(stored: Stored) -> str:
    """What is said where no candle is in the stretch that was asked for."""
    return (
        f"there are no candles of {stored.interval} of {stored.name} in that stretch; stored are those that open from "
        f"{time_text(stored.first_ns)} to {time_text(stored.last_ns)}"
    )


class _Walk:
    """What was passed on the way, and what was not there."""

    def __init__(self, stored: Stored, start_ns: int | None, end_ns: int | None) -> None:
        self._step_ns = stored.interval_s * NS
        self._next_ns = None if start_ns is None else open_of(start_ns + self._step_ns - 1, stored.interval_s)
        self._end_ns = None if end_ns is None else open_of(end_ns + self._step_ns - 1, stored.interval_s)
        self._first_ns = self._last_ns = 0
        self.rows = 0
        self._missing = self._more = 0
        self._holes: list[tuple[int, int]] = []

    def take(self, open_ns: NDArray[np.int64]) -> None:
        if not self.rows:
            self._first_ns = int(open_ns[0])
        before_ns = self._first_ns if self._next_ns is None else self._next_ns
        expected = np.concatenate((np.array([before_ns], np.int64), open_ns[:-1] + self._step_ns))
        for at in np.flatnonzero(open_ns > expected):
            self._lack(int(expected[at]), int(open_ns[at]))
        self.rows += len(open_ns)
        self._last_ns = int(open_ns[-1])
        self._next_ns = self._last_ns + self._step_ns

    def result(self) -> Exported:
        assert self._next_ns is not None
        if self._end_ns is not None and self._next_ns < self._end_ns:
            self._lack(self._next_ns, self._end_ns)
        return Exported(self.rows, self._first_ns, self._last_ns, self._missing, tuple(self._holes), self._more)

    def _lack(self, start_ns: int, end_ns: int) -> None:
        self._missing += (end_ns - start_ns) // self._step_ns
        if len(self._holes) < HOLES_SHOWN_MAX:
            self._holes.append((start_ns, end_ns))
        else:
            self._more += 1
