"""The port to the store: what a series is, what is known of it, and how it is written and read.

All methods are synchronous; the market calls them in threads. `stores/` implements it.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from openoutcry.events import (
    Candle,
    FundingBar,
    FundingRate,
    InterestBar,
    LevelsBar,
    Liquidation,
    LiquidationBar,
    OpenInterest,
    Side,
    Trade,
)
from openoutcry.instrument import Instrument


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


def time_of(row: Row) -> int:
    """Where a row stands in its series: open time of bars, settlement of funding rates, else the venue's time (ns)."""
    if isinstance(row, FundingRate):
        return row.funding_ns
    if isinstance(row, OpenInterest | Trade | Liquidation):
        return row.event_ns
    return row.open_ns


class Batch(msgspec.Struct, frozen=True):
    """Rows to add (or replace), and the whole new coverage of series: applied all or nothing."""

    rows: Mapping[SeriesKey, Sequence[Row]] = {}
    spans: Mapping[SeriesKey, Sequence[Span]] = {}


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

    def coverages(self) -> Mapping[SeriesKey, Sequence[Span]]:
        """All that is known of all series, spans in order of time."""
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
