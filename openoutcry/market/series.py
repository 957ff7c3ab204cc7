"""The port to the store: what a series is, what is known of it, and how it is written and read.

All methods are synchronous; the market calls them in threads. `stores/` implements it.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from openoutcry.events import (
    Candle,
    FundingBar,
    FundingRate,
    InterestBar,
    Level,
    LevelsBar,
    Liquidation,
    LiquidationBar,
    OpenInterest,
    Side,
    Trade,
)
from openoutcry.instrument import Instrument
from openoutcry.market.tasks import Task


class Of(StrEnum):
    """What a series is made of."""

    CANDLES = "candles"
    INTEREST = "open_interest"  # samples as the venue tells them
    INTEREST_BARS = "open_interest_bars"
    FUNDING = "funding"  # settled rates
    FUNDING_BARS = "funding_bars"
    LIQUIDATION_BARS = "liquidation_bars"
    LEVELS_BARS = "levels_bars"
    TRADES = "trades"  # raw, pruned
    LIQUIDATIONS = "liquidations"  # raw, pruned


class SeriesKey(msgspec.Struct, frozen=True, gc=False):
    """One series. `interval_s` is 0 where the rows have no interval, `side` is BOTH where they have no side."""

    instrument: str
    of: Of
    interval_s: int = 0
    side: Side = Side.BOTH


class State(StrEnum):
    """What is known of a stretch. MISSING is never kept: it is what nothing was said about."""

    HAVE = "have"  # whole: a bucket without a row is known to be empty
    EMPTY = "empty"  # whole, and there is nothing in it
    MISSING = "missing"
    REFUSED = "refused"  # the venue will never serve it


class Span(msgspec.Struct, frozen=True, gc=False):
    """[start_ns, end_ns) and what is known of it."""

    start_ns: int
    end_ns: int
    state: State


Row = Candle | OpenInterest | InterestBar | FundingRate | FundingBar | LiquidationBar | LevelsBar | Trade | Liquidation


_SAMPLES = (OpenInterest, Trade, Liquidation)


def time_of(row: Row) -> int:
    """Where a row stands in its series: open time of bars, settlement of funding rates, else the venue's time (ns)."""
    if isinstance(row, Candle):  # most are
        return row.open_ns
    if isinstance(row, FundingRate):
        return row.funding_ns
    if isinstance(row, _SAMPLES):
        return row.event_ns
    return row.open_ns


# What columns of a series hold beside the time: numbers as float64 (NaN where not told), times as int64 (0 where not told),
# texts as they are.
NUMBERS: Mapping[Of, tuple[str, ...]] = {
    Of.CANDLES: ("open", "high", "low", "close", "volume"),
    Of.INTEREST_BARS: (
        *("open", "high", "low", "close"),
        *("value_open", "value_high", "value_low", "value_close"),
        *("price_open", "price_high", "price_low", "price_close"),
    ),
    Of.FUNDING_BARS: (
        *("open", "high", "low", "close"),
        *("predicted_open", "predicted_high", "predicted_low", "predicted_close"),
    ),
    Of.LIQUIDATION_BARS: ("volume",),
    Of.LEVELS_BARS: (),
    Of.TRADES: ("price", "size"),
}
TIMES: Mapping[Of, tuple[str, ...]] = {Of.CANDLES: ("first_ns", "last_ns")}
TEXTS: Mapping[Of, tuple[str, ...]] = {Of.LEVELS_BARS: ("levels",), Of.TRADES: ("id", "side")}

Column = NDArray[Any]


class Columns:
    """Closed rows of one series as columns of equal length, oldest first; never changed once made.

    `at_ns` is where each row stands (`time_of`), `of` its other columns by name: NUMBERS, TIMES and TEXTS. Floats are for
    pictures and for answers that are floats: money is never added up from here.
    """

    __slots__ = ("__weakref__", "at_ns", "of")

    def __init__(self, at_ns: NDArray[np.int64], of: Mapping[str, Column]) -> None:
        self.at_ns = at_ns
        self.of = of

    def __len__(self) -> int:
        return len(self.at_ns)

    def __getitem__(self, rows: slice) -> "Columns":
        return Columns(self.at_ns[rows], {name: column[rows] for name, column in self.of.items()})

    def take(self, rows: NDArray[Any]) -> "Columns":
        """Those rows, by their numbers or by a flag for each."""
        return Columns(self.at_ns[rows], {name: column[rows] for name, column in self.of.items()})

    def joined(self, after: "Columns") -> "Columns":
        """These rows, and those after them."""
        return Columns(
            np.concatenate((self.at_ns, after.at_ns)),
            {name: np.concatenate((column, after.of[name])) for name, column in self.of.items()},
        )


def columns_from(of: Of, at_ns: Sequence[int], values: Mapping[str, Iterable[Any]]) -> Columns:
    """Columns of what a store reads or an event holds: numbers as text, Decimal or None, times as int or None."""
    made: dict[str, Column] = {}
    many = len(at_ns)
    for name in NUMBERS[of]:
        # float() of None is what is not told; a number beyond float64 becomes infinite, as it would in any client.
        made[name] = np.fromiter((np.nan if x is None else float(x) for x in values[name]), np.float64, many)
    for name in TIMES.get(of, ()):
        made[name] = np.fromiter((x or 0 for x in values[name]), np.int64, many)
    for name in TEXTS.get(of, ()):
        made[name] = np.array(list(values[name]), dtype=np.str_)
    return Columns(np.array(at_ns, np.int64), made)


def columns_of(of: Of, rows: Sequence[Row]) -> Columns:
    """The same of events, for the few that are not stored yet."""
    return columns_from(
        of, [time_of(row) for row in rows], {name: [_told(row, name) for row in rows] for name in names(of)}
    )


def names(of: Of) -> tuple[str, ...]:
    """The columns of a series beside its time, in order."""
    return (*NUMBERS[of], *TIMES.get(of, ()), *TEXTS.get(of, ()))


_OHLC = ("open", "high", "low", "close")
_RANGES = {"value": "values", "price": "prices", "predicted": "predicted"}


def _told(row: Row, name: str) -> Any:
    if isinstance(row, LevelsBar):
        return levels_text(row.levels)
    if isinstance(row, Trade) and name == "id":
        return str(row.id)
    what, _, which = name.partition("_")
    if which in _OHLC:
        told = getattr(row, _RANGES[what])
        return None if told is None else told[_OHLC.index(which)]
    return getattr(row, name)


def levels_text(levels: Sequence[Level]) -> str:
    """Price and size of each level, all separated by blanks."""
    return " ".join(f"{price} {size}" for price, size in levels)


class Summary(msgspec.Struct, frozen=True, gc=False):
    """How much of a series is stored: open times of its first and last row, and how many there are."""

    first_ns: int
    last_ns: int
    rows: int


class Check(msgspec.Struct, frozen=True, gc=False):
    """[start_ns, end_ns): the venue was asked for it at `checked_ns`, and had nothing there."""

    start_ns: int
    end_ns: int
    checked_ns: int


# A candle as it is stored: open time, and open, high, low, close, volume as the text of their Decimal.
CandleTexts = tuple[int, str, str, str, str, str]


class Batch(msgspec.Struct, frozen=True):
    """Rows to add (or replace), and the whole new coverage of series: applied all or nothing.

    `checks` are added to those of their series, in place of older ones that they touch. `tasks` are those for which the
    rows were fetched, as they stand after them; one that was dropped meanwhile stays dropped.
    """

    rows: Mapping[SeriesKey, Sequence[Row]] = {}
    spans: Mapping[SeriesKey, Sequence[Span]] = {}
    checks: Mapping[SeriesKey, Sequence[Check]] = {}
    tasks: Sequence[Task] = ()


class Unstorable(Exception):
    """A row that the database cannot hold (a number or a text beyond its types): writing it again is pointless."""


class Series(Protocol):
    """Where series are kept. Every method raises Unavailable, with the reason, when the store cannot serve."""

    def write(self, batch: Batch) -> None:
        """Store the batch in one transaction. Rows with the same place in their series replace each other.

        Raises Unstorable where a row can never be written; nothing of the batch is stored then.
        """
        ...

    def read(
        self,
        key: SeriesKey,
        *,
        start_ns: int | None = None,
        end_ns: int | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> Sequence[Row]:
        """Rows of [start_ns, end_ns), oldest first: the first `limit`, or with `newest` the last `limit`."""
        ...

    def columns(self, key: SeriesKey, *, start_ns: int, end_ns: int, limit: int | None = None) -> Columns:
        """The same rows as columns, without an object for each; the first `limit`."""
        ...

    def coverages(self) -> Mapping[SeriesKey, Sequence[Span]]:
        """All that is known of all series, spans in order of time."""
        ...

    def texts(
        self, key: SeriesKey, *, start_ns: int, end_ns: int, limit: int, newest: bool = False
    ) -> Sequence[CandleTexts]:
        """Candles of [start_ns, end_ns), oldest first: the first `limit`, or with `newest` the last `limit`."""
        ...

    def summaries(self) -> Mapping[SeriesKey, Summary]:
        """Of every series of candles that has a row, however many it has: kept with each write, never counted."""
        ...

    def summary(self, key: SeriesKey) -> Summary | None:
        """Of one series of candles; None where it has no row."""
        ...

    def holes(
        self, key: SeriesKey, start_ns: int, end_ns: int, limit: int, *, newest: bool = False
    ) -> Sequence[tuple[int, int]]:
        """The stretches of [start_ns, end_ns) without a candle, in order of time: the first `limit`, or the last.

        Both bounds lie on the grid of the interval. One walk over the candles of the stretch, inside the database.
        """
        ...

    def checks(self, key: SeriesKey, start_ns: int, end_ns: int) -> Sequence[Check]:
        """What touches [start_ns, end_ns), in order of time."""
        ...

    def keys(self, of: Of) -> Sequence[SeriesKey]:
        """The series of that sort that were ever written."""
        ...

    def prune(self, key: SeriesKey, before_ns: int, rows_max: int) -> int:
        """Delete the oldest rows before `before_ns`, about `rows_max` at most. Returns how many went."""
        ...

    def save_listing(self, venue: str, instruments: Sequence[Instrument]) -> None:
        """Replace what the venue lists."""
        ...

    def listing(self, venue: str) -> Sequence[Instrument]:
        """What the venue listed when last asked; empty if it never was."""
        ...

    def close(self) -> None:
        """Let go of files and connections; a second call does nothing."""
        ...
