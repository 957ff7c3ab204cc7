"""Series on SQLAlchemy Core: the same code on SQLite and on PostgreSQL.

Rows go in and out through the driver's own cursor with ready statements: SQLAlchemy keeps the tables, the dialects, the
connections and the migrations, and stays out of the way of each row.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import structlog
from sqlalchemy import URL, Engine, Table, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from openoutcry.clock import NS
from openoutcry.errors import Unavailable
from openoutcry.events import Side
from openoutcry.instrument import Instrument
from openoutcry.market.series import (
    NUMBERS,
    Batch,
    CandleTexts,
    Check,
    Columns,
    Of,
    Row,
    SeriesKey,
    Span,
    State,
    Summary,
    Unstorable,
    columns_from,
    names,
    time_of,
)
from openoutcry.stores.migrations import MARKET
from openoutcry.stores.tables import SHAPES, checks, listings, series, spans
from openoutcry.stores.tasks import Tasks

BUSY_S = 5.0
READERS_MAX = 8
STATEMENTS_MAX = 256
PAGE_BYTES = 4_096
BEGINNING_NS = -(2**63)
END_NS = 2**63 - 1
ROWS_MAX = 2**31 - 1
CANDLE_NUMBERS = ("open", "high", "low", "close", "volume")

log = structlog.get_logger()


def sqlite_url(file: Path) -> URL:
    """Where a SQLite file is, in SQLAlchemy's words."""
    return URL.create("sqlite+pysqlite", database=str(file))


class SqlSeries:
    """Series in a database: one writer at a time, many readers.

    `busy_s`: how long to wait for another process that holds SQLite's write lock. `bytes_max`: the SQLite file grows no
    further (writes are then refused as if the disk were full). Raises Unavailable where the database cannot be opened.
    """

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S, bytes_max: int | None = None) -> None:
        self._engine = _engine(url, busy_s, bytes_max)
        mark = "?" if self._engine.dialect.name == "sqlite" else "%s"
        self._upsert = {of: _upsert(shape.table, mark) for of, shape in SHAPES.items()}
        self._oldest_first = {of: _select(shape.table, mark, "ASC") for of, shape in SHAPES.items()}
        self._newest_first = {of: _select(shape.table, mark, "DESC") for of, shape in SHAPES.items()}
        self._columns = {of: _select(SHAPES[of].table, mark, "ASC", names(of)) for of in NUMBERS}
        self._of_span = _Statements(
            f"DELETE FROM spans WHERE series = {mark}",  # noqa: S608 - `mark` is the driver's placeholder
            _upsert(spans, mark),
        )
        self._mark = mark
        shape = SHAPES[Of.CANDLES].table
        self._texts = {
            newest: _select(shape, mark, "DESC" if newest else "ASC", CANDLE_NUMBERS) for newest in (False, True)
        }
        self._walk = _Walk(mark, sqlite=mark == "?")
        self._keep_check = _upsert(checks, mark)
        # One writer: SQLite takes one at a time anyway, and the ids of new series must not be made twice.
        self._writing = threading.Lock()
        self.tasks = Tasks(self._cursor, self._writing, mark)
        with self._refusing(), self._engine.begin() as connection:
            MARKET.migrate(connection)
        with self._cursor() as cursor:
            cursor.execute("SELECT id, instrument, of, interval_s, side FROM series")
            self._ids = {SeriesKey(name, Of(of), s, Side(side)): id_ for id_, name, of, s, side in cursor.fetchall()}
        self._told: dict[SeriesKey, tuple[Span, ...]] = {}
        # Live rows are newer than all that is there: nothing has to be looked up for them. Known only of what we wrote, and
        # only where nobody else can have written since: one process at a time writes candles to a SQLite file.
        self._alone = mark == "?"
        self._newest: dict[SeriesKey, int] = {}

    def write(self, batch: Batch) -> None:
        """Store the batch in one transaction, all or nothing. Raises Unavailable, Unstorable."""
        told: dict[SeriesKey, tuple[Span, ...]] = {key: tuple(known) for key, known in batch.spans.items()}
        with self._writing, self._cursor(commit=True) as cursor:
            new = self._make(cursor, (*batch.rows, *told, *batch.checks))
            ids = {**self._ids, **new} if new else self._ids
            newest = self._summarise(cursor, ids, batch)
            for of, keys in groupby(sorted(batch.rows, key=_of), key=_of):
                pack = SHAPES[of].pack
                packed = [(ids[key], *pack(row)) for key in keys for row in batch.rows[key]]
                if packed:
                    cursor.executemany(self._upsert[of], packed)
            self._tell(cursor, ids, told)
            self._check(cursor, ids, batch)
            for task in batch.tasks:
                self.tasks.update(cursor, task)
        # Only what was committed is remembered: a failed batch is written again from scratch.
        self._ids.update(new)
        self._told.update(told)
        self._newest.update(newest)

    def read(
        self,
        key: SeriesKey,
        *,
        start_ns: int | None = None,
        end_ns: int | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> Sequence[Row]:
        """Rows of [start_ns, end_ns), oldest first: the first `limit`, or with `newest` the last. Raises Unavailable."""
        id_ = self._ids.get(key)
        if id_ is None:
            return []
        statement = (self._newest_first if newest else self._oldest_first)[key.of]
        bounds = (BEGINNING_NS if start_ns is None else start_ns, END_NS if end_ns is None else end_ns)
        with self._cursor() as cursor:
            cursor.execute(statement, (id_, *bounds, ROWS_MAX if limit is None else limit))
            rows = cursor.fetchall()
        if newest:
            rows.reverse()
        return SHAPES[key.of].unpack(key, rows)

    def columns(self, key: SeriesKey, *, start_ns: int, end_ns: int, limit: int | None = None) -> Columns:
        """The same rows as columns, without an object for each; the first `limit`. Raises Unavailable."""
        id_ = self._ids.get(key)
        rows: Sequence[tuple[Any, ...]] = []
        if id_ is not None:
            with self._cursor() as cursor:
                cursor.execute(self._columns[key.of], (id_, start_ns, end_ns, ROWS_MAX if limit is None else limit))
                rows = cursor.fetchall()
        at_ns, *columns = zip(*rows, strict=True) if rows else ((), *(() for _ in names(key.of)))
        told: dict[str, Sequence[Any]] = dict(zip(names(key.of), columns, strict=True))
        if key.of is Of.TRADES:
            told["id"] = [mark[1:] for mark in told["id"]]
        return columns_from(key.of, at_ns, told)

    def coverages(self) -> Mapping[SeriesKey, Sequence[Span]]:
        """All that is known of all series. Raises Unavailable."""
        keys = {id_: key for key, id_ in self._ids.items()}
        known: dict[SeriesKey, list[Span]] = {}
        with self._cursor() as cursor:
            cursor.execute("SELECT series, start_ns, end_ns, state FROM spans ORDER BY series, start_ns")
            for id_, start_ns, end_ns, state in cursor.fetchall():
                # A series that another process made since we looked is not ours to speak for.
                if id_ in keys:
                    known.setdefault(keys[id_], []).append(Span(start_ns, end_ns, State(state)))
        return known

    def texts(
        self, key: SeriesKey, *, start_ns: int, end_ns: int, limit: int, newest: bool = False
    ) -> Sequence[CandleTexts]:
        """Candles of [start_ns, end_ns), oldest first: the first `limit`, or with `newest` the last. Raises Unavailable."""
        id_ = self._ids.get(key)
        if id_ is None:
            return []
        with self._cursor() as cursor:
            cursor.execute(self._texts[newest], (id_, start_ns, end_ns, limit))
            rows: list[CandleTexts] = cursor.fetchall()
        if newest:
            rows.reverse()
        return rows

    def summaries(self) -> Mapping[SeriesKey, Summary]:
        """Of every series of candles that has a row. Raises Unavailable."""
        keys = {id_: key for key, id_ in self._ids.items()}
        with self._cursor() as cursor:
            cursor.execute("SELECT series, first_ns, last_ns, rows FROM summaries")
            return {keys[row[0]]: Summary(*row[1:]) for row in cursor.fetchall() if row[0] in keys}

    def summary(self, key: SeriesKey) -> Summary | None:
        """Of one series of candles. Raises Unavailable."""
        with self._cursor() as cursor:
            cursor.execute(self._walk.summary, (self._ids.get(key, -1),))
            found = cursor.fetchone()
        return None if found is None else Summary(*found)

    def holes(
        self, key: SeriesKey, start_ns: int, end_ns: int, limit: int, *, newest: bool = False
    ) -> Sequence[tuple[int, int]]:
        """The stretches of [start_ns, end_ns) without a candle: the first `limit`, or the last. Raises Unavailable."""
        if start_ns >= end_ns or limit <= 0:
            return []
        step_ns, stored = key.interval_s * NS, self.summary(key)
        if stored is None:
            return [(start_ns, end_ns)]
        if (stored.last_ns - stored.first_ns) // step_ns + 1 == stored.rows:
            # Whole from its first to its last row, as most are: no row has to be looked at.
            edges = ((start_ns, min(stored.first_ns, end_ns)), (max(stored.last_ns + step_ns, start_ns), end_ns))
            found = [edge for edge in edges if edge[0] < edge[1]]
        else:
            found = self._walked(key, start_ns, end_ns, limit, newest=newest)
        return found[max(len(found) - limit, 0) :] if newest else found[:limit]

    def _walked(self, key: SeriesKey, start_ns: int, end_ns: int, limit: int, *, newest: bool) -> list[tuple[int, int]]:
        step_ns, bounds = key.interval_s * NS, (self._ids[key], start_ns, end_ns)
        with self._cursor() as cursor:
            cursor.execute(self._walk.holes[newest], (step_ns, start_ns - step_ns, *bounds, step_ns, limit))
            found: list[tuple[int, int]] = [tuple(row) for row in cursor.fetchall()]
            cursor.execute(self._walk.last, bounds)
            last_ns = cursor.fetchone()[0]
        if newest:
            found.reverse()
        after_ns = start_ns if last_ns is None else last_ns + step_ns
        return [*found, (after_ns, end_ns)] if after_ns < end_ns else found

    def checks(self, key: SeriesKey, start_ns: int, end_ns: int) -> Sequence[Check]:
        """What touches [start_ns, end_ns), in order of time. Raises Unavailable."""
        with self._cursor() as cursor:
            cursor.execute(self._walk.checks, (self._ids.get(key, -1), end_ns, start_ns))
            return [Check(*row) for row in cursor.fetchall()]

    def keys(self, of: Of) -> Sequence[SeriesKey]:
        """The series of that sort that were ever written."""
        return [key for key in self._ids if key.of is of]

    def prune(self, key: SeriesKey, before_ns: int, rows_max: int) -> int:
        """Delete the oldest rows before `before_ns`, about `rows_max` at most. Raises Unavailable."""
        id_ = self._ids.get(key)
        if id_ is None:
            return 0
        table = SHAPES[key.of].table
        time, mark = _key_columns(table)[0], self._mark
        with self._writing, self._cursor(commit=True) as cursor:
            # The row that ends this delete; rows of that same moment go with it, so it always moves on.
            cursor.execute(
                f"SELECT {time} FROM {table.name} WHERE series = {mark} AND {time} < {mark} "  # noqa: S608
                f"ORDER BY {time} LIMIT 1 OFFSET {mark}",
                (id_, before_ns, rows_max - 1),
            )
            found = cursor.fetchone()
            last_ns = before_ns - 1 if found is None else found[0]
            cursor.execute(
                f"DELETE FROM {table.name} WHERE series = {mark} AND {time} <= {mark}",  # noqa: S608
                (id_, last_ns),
            )
            return int(cursor.rowcount)

    def save_listing(self, venue: str, instruments: Sequence[Instrument]) -> None:
        """Replace what the venue lists. Raises Unavailable."""
        rows = [(venue, each.symbol, msgspec.json.encode(each).decode()) for each in instruments]
        with self._writing, self._cursor(commit=True) as cursor:
            cursor.execute(f"DELETE FROM listings WHERE venue = {self._mark}", (venue,))  # noqa: S608
            if rows:
                cursor.executemany(_upsert(listings, self._mark), rows)

    def listing(self, venue: str) -> Sequence[Instrument]:
        """What the venue listed when last asked. Raises Unavailable."""
        with self._cursor() as cursor:
            cursor.execute(
                f"SELECT instrument FROM listings WHERE venue = {self._mark} ORDER BY symbol",  # noqa: S608
                (venue,),
            )
            return [msgspec.json.decode(text, type=Instrument) for (text,) in cursor.fetchall()]

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        self._engine.dispose()

    def _make(self, cursor: Any, keys: Sequence[SeriesKey]) -> dict[SeriesKey, int]:
        """Ids of series that are written for the first time."""
        made: dict[SeriesKey, int] = {}
        mark = self._mark
        for key in keys:
            if key in self._ids or key in made:
                continue
            named = (key.instrument, key.of.value, key.interval_s, key.side.value)
            # Another process may have made it on a shared PostgreSQL: then its id is ours too.
            cursor.execute(
                f"INSERT INTO series (instrument, of, interval_s, side) VALUES ({mark}, {mark}, {mark}, {mark}) "  # noqa: S608
                "ON CONFLICT (instrument, of, interval_s, side) DO UPDATE SET side = excluded.side RETURNING id",
                named,
            )
            made[key] = cursor.fetchone()[0]
        return made

    def _summarise(self, cursor: Any, ids: Mapping[SeriesKey, int], batch: Batch) -> dict[SeriesKey, int]:
        """Count what the batch adds, before it is added: rows that are there already are replaced.

        Returns the newest open time of each series, to be remembered once it is there.
        """
        changed: list[tuple[int, int, int, int]] = []
        newest: dict[SeriesKey, int] = {}
        for key, rows in batch.rows.items():
            if key.of is not Of.CANDLES or not rows:
                continue
            times = {time_of(row) for row in rows}
            first_ns, last_ns, known_ns = min(times), max(times), self._newest.get(key)
            if known_ns is None:
                cursor.execute(self._walk.summary, (ids[key],))
                known_ns = (cursor.fetchone() or (0, BEGINNING_NS))[1]
            there = 0
            if first_ns <= known_ns:
                # A time of an absurd venue may be beyond the database: the rows themselves are refused for it.
                cursor.execute(self._walk.there, (ids[key], self._walk.listed(times)))
                there = cursor.fetchone()[0]
            changed.append((ids[key], first_ns, last_ns, len(times) - there))
            if self._alone:
                newest[key] = max(last_ns, known_ns)
        if changed:
            cursor.executemany(self._walk.summarise, changed)
        return newest

    def _check(self, cursor: Any, ids: Mapping[SeriesKey, int], batch: Batch) -> None:
        for key, told in batch.checks.items():
            for check in told:
                cursor.execute(self._walk.forget, (ids[key], check.end_ns, check.start_ns))
                cursor.execute(self._keep_check, (ids[key], check.start_ns, check.end_ns, check.checked_ns))

    def _tell(self, cursor: Any, ids: Mapping[SeriesKey, int], told: Mapping[SeriesKey, tuple[Span, ...]]) -> None:
        changed: list[tuple[Any, ...]] = []
        for key, known in told.items():
            id_ = ids[key]
            before = self._told.get(key, ())
            # Live series only move the end of their last span: one row to write instead of all.
            grown = bool(known) and len(before) == len(known) and before[:-1] == known[:-1]
            if grown and before[-1].start_ns == known[-1].start_ns:
                changed.append((id_, known[-1].start_ns, known[-1].end_ns, known[-1].state.value))
                continue
            cursor.execute(self._of_span.forget, (id_,))
            changed.extend((id_, span.start_ns, span.end_ns, span.state.value) for span in known)
        if changed:
            cursor.executemany(self._of_span.keep, changed)

    @contextmanager
    def _cursor(self, *, commit: bool = False) -> Iterator[Any]:
        """The driver's cursor on a connection of the pool; what was not committed is rolled back with it."""
        with self._refusing(), closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            try:
                yield cursor
            finally:
                cursor.close()
            if commit:
                connection.commit()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (self._engine.dialect.loaded_dbapi.DataError, OverflowError) as e:
            raise Unstorable(reason_of(e)) from e
        except (self._engine.dialect.loaded_dbapi.Error, SQLAlchemyError) as e:
            reason = reason_of(e)
            log.warning("store failed", error=reason, database=self._engine.dialect.name)
            raise Unavailable("store", f"the store cannot serve: {reason}") from e


class _Statements(msgspec.Struct, frozen=True):
    forget: str
    keep: str


class _Walk:
    """What is asked about the candles of one series without bringing them here; no value stands in the texts."""

    def __init__(self, mark: str, *, sqlite: bool) -> None:
        inside = f"WHERE series = {mark} AND open_ns >= {mark} AND open_ns < {mark}"
        walked = (
            f"SELECT before_ns + {mark}, open_ns FROM (SELECT open_ns, "  # noqa: S608
            f"LAG(open_ns, 1, CAST({mark} AS BIGINT)) OVER (ORDER BY open_ns) AS before_ns FROM candles {inside}) AS walked "
            f"WHERE open_ns - before_ns > {mark} ORDER BY open_ns"
        )
        self.last = f"SELECT max(open_ns) FROM candles {inside}"  # noqa: S608
        self.holes = {False: f"{walked} LIMIT {mark}", True: f"{walked} DESC LIMIT {mark}"}
        among = f"IN (SELECT value FROM json_each({mark}))" if sqlite else f"= ANY({mark})"  # noqa: S608
        self.there = f"SELECT count(*) FROM candles WHERE series = {mark} AND open_ns {among}"  # noqa: S608
        self.listed: Callable[[Collection[int]], Any] = _as_json if sqlite else list
        self.summary = f"SELECT first_ns, last_ns, rows FROM summaries WHERE series = {mark}"  # noqa: S608
        self.summarise = (
            f"INSERT INTO summaries (series, first_ns, last_ns, rows) VALUES ({mark}, {mark}, {mark}, {mark}) "  # noqa: S608
            "ON CONFLICT (series) DO UPDATE SET rows = summaries.rows + excluded.rows, "
            "first_ns = CASE WHEN excluded.first_ns < summaries.first_ns THEN excluded.first_ns ELSE summaries.first_ns END, "
            "last_ns = CASE WHEN excluded.last_ns > summaries.last_ns THEN excluded.last_ns ELSE summaries.last_ns END"
        )
        touching = f"WHERE series = {mark} AND start_ns < {mark} AND end_ns > {mark}"
        self.checks = f"SELECT start_ns, end_ns, checked_ns FROM checks {touching} ORDER BY start_ns"  # noqa: S608
        self.forget = f"DELETE FROM checks {touching}"  # noqa: S608


def _as_json(numbers: Collection[int]) -> str:
    return msgspec.json.encode(list(numbers)).decode()


def _engine(url: URL | str, busy_s: float, bytes_max: int | None) -> Engine:
    if not str(url).startswith("sqlite"):
        return create_engine(url, pool_size=READERS_MAX, pool_pre_ping=True)
    engine = create_engine(
        url,
        pool_size=READERS_MAX,
        connect_args={"timeout": busy_s, "cached_statements": STATEMENTS_MAX, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # A power cut may cost the last batches of market data, which are fetched again; it never damages the file.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        if bytes_max is not None:
            cursor.execute(f"PRAGMA max_page_count={max(bytes_max // PAGE_BYTES, 1)}")
        cursor.close()

    return engine


def reason_of(error: Exception) -> str:
    """What the driver said, in one line, without the statement and its values."""
    told = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return (str(told).strip().splitlines() or [type(told).__name__])[0]


def _of(key: SeriesKey) -> Of:
    return key.of


def _key_columns(table: Table) -> list[str]:
    return [column.name for column in table.primary_key.columns if column.name != "series"]


def _upsert(table: Table, mark: str) -> str:
    columns = [column.name for column in table.columns]
    key = [column.name for column in table.primary_key.columns]
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join([mark] * len(columns))}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"
    )


def _select(table: Table, mark: str, way: str, only: Sequence[str] | None = None) -> str:
    """All columns but the series, or the time and `only` those."""
    key = _key_columns(table)
    every = [column.name for column in table.columns if column.name != series.name]
    columns = ", ".join(every if only is None else (key[0], *only))
    return (
        f"SELECT {columns} FROM {table.name} WHERE series = {mark} AND {key[0]} >= {mark} AND {key[0]} < {mark} "  # noqa: S608
        f"ORDER BY {', '.join(f'{name} {way}' for name in key)} LIMIT {mark}"
    )
